//! Probes: what they see, what they cost, and that they leave nothing behind.

use skimstone::kernels::Format;
use skimstone::reason::{
    Answer, Ask, Budget, Choice, Engine, Event, Gated, Limit, NextStep, Observation, Probe,
    ReasoningPolicy, SkipReason,
};
use skimstone::{
    AutoSpec, ErrorKind, FinishReason, GateKind, Generate, GenerateOptions, Model, ModelOptions,
    ModelType, ReasoningSpec, SamplerOptions, Session, SessionOptions, TokenId,
};

use crate::tiny::{
    Random, bundle, bytes, chain_model, config, mark, model, model_with, reasoning, weights,
};
use crate::{check, engine, events, ramble};

/// The tests' reasoning with a gate on `cot`; every fourth token ends a chunk, so that random models have chunks.
fn gated(gate: GateKind, threshold: f32) -> ReasoningSpec {
    let mut spec = reasoning();
    spec.chunk = None;
    spec.chunk_ends = (0..80).step_by(4).collect();
    spec.auto = Some(AutoSpec {
        route: "cot".to_owned(),
        gate,
        threshold,
        calibration: None,
    });
    let cot = spec.routes.get_mut("cot").unwrap();
    cot.thinking_quantiles = vec![10, 20, 40];
    spec
}

fn gated_model(family: ModelType, gate: GateKind, threshold: f32) -> Model {
    let config = config(family);
    let spec = gated(gate, threshold);
    let bundle = bundle(&config, &weights(&config, 1), Format::Q8, spec, None);
    Model::from_bundle(bundle, ModelOptions::default().with_threads(1)).unwrap()
}

/// Probes at the end of every chunk, whatever it sees, and never stops.
struct Look(GateKind);

impl ReasoningPolicy for Look {
    fn next_step(&mut self, seen: &Observation) -> NextStep {
        match seen.chunk_ended && seen.confidence.is_none() {
            true => NextStep::Probe {
                gate: self.0,
                at_least: 0.0,
            },
            false => NextStep::Token,
        }
    }
}

/// Runs to the end; returns the probes and the answer.
fn looked(
    engine: &mut Engine,
    prompt: &[TokenId],
    ask: &Ask,
    gate: GateKind,
) -> (Vec<Probe>, Answer) {
    engine
        .ask_with_policy(prompt, ask, Box::new(Look(gate)))
        .unwrap();
    let mut probes = Vec::new();
    for event in events(engine) {
        match event {
            Event::Probed(probe) => probes.push(probe),
            Event::Finished(answer) => return (probes, *answer),
            _ => {}
        }
    }
    panic!("no end")
}

/// Thinks for at most 60 tokens and answers with at most 9.
fn wordy(seed: u64) -> Ask {
    Ask::new()
        .with_route("cot")
        .with_sampler(ramble(seed))
        .with_budget(Budget::unlimited().with_layer_passes(3 * 2000))
        .with_max_answer_tokens(9)
}

#[test]
fn probing_changes_nothing_but_the_costs() {
    for family in ModelType::ALL {
        let model = gated_model(family, GateKind::Answer, 1.0);
        let prompt = Random::new(11).ids(37);
        let mut plain = engine(&model);
        let mut probing = engine(&model);
        let mut seen = 0;
        for seed in 0..12 {
            for gate in GateKind::ALL {
                // Budgets aside: probes spend of them.
                let ask = wordy(seed).with_budget(Budget::unlimited());
                let want = plain.answer(&prompt, &ask).unwrap();
                let (probes, got) = looked(&mut probing, &prompt, &ask, gate);
                assert_eq!(
                    (&got.thinking_ids, &got.ids, got.confidence),
                    (&want.thinking_ids, &want.ids, want.confidence)
                );
                assert_eq!(probing.session().position(), plain.session().position());
                assert_eq!(probing.session().logits(), plain.session().logits());
                assert_eq!(probing.session().hidden(), plain.session().hidden());
                let (cost, more) = (want.usage, got.usage);
                assert_eq!(more.probes, probes.len());
                let tokens: usize = probes.iter().map(|probe| probe.tokens).sum();
                assert_eq!(more.probe_tokens, tokens);
                assert_eq!(more.generated_tokens, cost.generated_tokens + tokens);
                assert_eq!(
                    more.layer_passes,
                    cost.layer_passes + more.probe_layer_passes
                );
                seen += probes.len();
                check(&want, &model);
            }
        }
        assert!(seen > 100, "{seen} probes in {family}");
    }
}

#[test]
fn a_probe_is_the_answer_that_a_close_here_would_have() {
    let model = gated_model(ModelType::Qwen3, GateKind::Answer, 1.0);
    let prompt = Random::new(12).ids(20);
    let mut engine = engine(&model);
    let mut checked = 0;
    for seed in 0..10 {
        let (probes, answer) = looked(&mut engine, &prompt, &wordy(seed), GateKind::Answer);
        for probe in probes {
            let thought = &answer.thinking_ids[..probe.thinking_tokens];
            let mut session = Session::new(&model, SessionOptions::new()).unwrap();
            session.feed(&prompt).unwrap();
            session.feed(&[mark::COT]).unwrap();
            session.feed(thought).unwrap();
            let options = GenerateOptions {
                // The bundle's answer reserve.
                max_tokens: Some(6),
                sampler: SamplerOptions {
                    logprobs: Some(0),
                    ..SamplerOptions::default()
                },
                ..GenerateOptions::default()
            };
            let mut generate = Generate::new(&mut session, &mark::CLOSE, options).unwrap();
            let piece = generate.collect_all().unwrap();
            assert_eq!(piece.ids, probe.ids);
            assert_eq!(
                probe.complete,
                generate.finish_reason() == Some(FinishReason::Stop)
            );
            assert_eq!(probe.tokens, 2 + probe.logprobs.len());
            let smallest = probe.logprobs.iter().copied().fold(0.0, f32::min).exp();
            assert_eq!(probe.confidence, smallest);
            checked += 1;
        }
    }
    assert!(checked > 20, "{checked}");
}

#[test]
fn what_is_settled_is_not_computed_again() {
    let prompt = Random::new(13).ids(25);
    for gate in GateKind::ALL {
        // Everything settles it: the first chunk is the last.
        let model = gated_model(ModelType::Llama, gate, 0.0);
        let mut engine = engine(&model);
        let mut settled = 0;
        for seed in 0..8 {
            let ask = wordy(seed).with_route("auto");
            let answer = engine.answer(&prompt, &ask).unwrap();
            assert_eq!(answer.route, "auto");
            let is_settled =
                |d: &skimstone::reason::Decision| matches!(d.choice, Choice::Settled(_));
            if !answer.decisions.iter().any(is_settled) {
                continue;
            }
            settled += 1;
            let usage = answer.usage;
            assert_eq!((usage.probes, usage.probe_tokens), (1, 0), "{gate:?}");
            assert_eq!(usage.probe_layer_passes, 0);
            // As many positions as a close by hand costs: the last token of the answer is not fed.
            check(&answer, &model);
            assert_eq!(
                usage.skipped_tokens,
                mean_rest(&[10, 20, 40], usage.thinking_tokens)
            );

            // The answer is the greedy one after the same thinking.
            let mut session = Session::new(&model, SessionOptions::new()).unwrap();
            session.feed(&prompt).unwrap();
            session.feed(&[mark::COT]).unwrap();
            session.feed(&answer.thinking_ids).unwrap();
            let options = GenerateOptions {
                max_tokens: Some(9),
                ..GenerateOptions::default()
            };
            let piece = Generate::new(&mut session, &mark::CLOSE, options)
                .unwrap()
                .collect_all()
                .unwrap();
            if gate == GateKind::Answer {
                assert_eq!(piece.ids, answer.ids);
            }
        }
        assert!(settled > 3, "{gate:?}: {settled}");
    }
}

fn mean_rest(quantiles: &[usize], spent: usize) -> usize {
    let rest: Vec<usize> = quantiles
        .iter()
        .filter(|&&q| q > spent)
        .map(|q| q - spent)
        .collect();
    (rest.iter().sum::<usize>() as f64 / rest.len().max(1) as f64).round() as usize
}

#[test]
fn budgets_hold_with_probes() {
    let prompt = Random::new(14).ids(9);
    for (gate, threshold) in [
        (GateKind::Answer, 0.3),
        (GateKind::Answer, 1.0),
        (GateKind::CloseMaxProb, 0.9),
        (GateKind::Entropy, 0.9),
    ] {
        let model = gated_model(ModelType::Qwen2, gate, threshold);
        let mut engine = engine(&model);
        let (mut probes, mut left_out) = (0, 0);
        for limit in 3..60 {
            for seed in 0..4 {
                let ask = Ask::new().with_route("auto").with_sampler(ramble(seed));
                let tokens = Budget::unlimited().with_tokens(limit);
                let answer = engine
                    .answer(&prompt, &ask.clone().with_budget(tokens))
                    .unwrap();
                assert!(answer.usage.generated_tokens <= limit, "{:?}", answer.usage);
                assert!(answer.usage.answer_tokens >= 1);
                let share = 6.min(limit - 2);
                assert!(
                    answer.usage.answer_tokens >= share
                        || answer.finish_reason == FinishReason::Stop,
                    "{limit}: {answer:?}"
                );
                let passes = Budget::unlimited().with_layer_passes(3 * limit);
                let answer = engine.answer(&prompt, &ask.with_budget(passes)).unwrap();
                assert!(answer.usage.layer_passes <= 3 * limit, "{:?}", answer.usage);
                assert!(answer.usage.answer_tokens >= 1);
                probes += answer.usage.probes;
                left_out += answer
                    .decisions
                    .iter()
                    .filter(|d| matches!(d.choice, Choice::ProbeLeftOut(_)))
                    .count();
            }
        }
        assert!(probes > 20, "{gate:?}: {probes}");
        assert!(left_out > 0 || gate == GateKind::Entropy, "{gate:?}");
    }
}

#[test]
fn blocks_come_back_and_other_routes_never_probe() {
    let model = gated_model(ModelType::Qwen3, GateKind::Answer, 0.5);
    let before = model.pool_usage();
    {
        let mut engine = engine(&model);
        let held = model.pool_usage().blocks_in_use;
        for seed in 0..10 {
            let ask = wordy(seed);
            engine
                .answer(&Random::new(seed).ids(40), &ask.clone().with_route("auto"))
                .unwrap();
            // Between questions the session of probes holds nothing.
            assert_eq!(model.pool_usage().blocks_in_use, held);
            let usage = engine
                .answer(&Random::new(seed).ids(40), &ask)
                .unwrap()
                .usage;
            assert_eq!((usage.probes, usage.probe_tokens), (0, 0));
            // A question that is dropped midway.
            engine
                .ask(&Random::new(seed).ids(40), &ask.with_route("auto"))
                .unwrap();
            for _ in 0..seed {
                engine.next_event().unwrap();
            }
        }
    }
    assert_eq!(model.pool_usage().blocks_in_use, before.blocks_in_use);
    model.trim_memory();
    assert_eq!(model.pool_usage().blocks_free, 0);
}

#[test]
fn a_cap_on_memory_leaves_probes_out() {
    let config = config(ModelType::Qwen3);
    let spec = gated(GateKind::Answer, 0.5);
    let bundle = || {
        bundle(
            &config,
            &weights(&config, 1),
            Format::F32,
            spec.clone(),
            None,
        )
    };
    let used = {
        let model = Model::from_bundle(bundle(), ModelOptions::default().with_threads(1)).unwrap();
        let _engine = engine(&model);
        model.memory_used()
    };
    // Room for one session, none for the scratch of a second: refused at the door, and other routes work.
    let options = ModelOptions::default()
        .with_threads(1)
        .with_max_bytes(used + 2000);
    let model = Model::from_bundle(bundle(), options).unwrap();
    let mut refusing = engine(&model);
    let auto = wordy(1).with_route("auto");
    let error = refusing.ask(&[1, 2], &auto).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Memory);
    refusing.answer(&[1, 2], &wordy(1)).unwrap();
    drop(refusing);
    // Room for its scratch, none for its blocks: the thinking goes on without probes.
    let scratch = {
        model.trim_memory();
        let before = model.memory_used();
        let engine = engine(&model);
        let session = model.memory_used() - before;
        session
            - engine.session().kv_entries().div_ceil(32) as u64 * 3 * model.pool_usage().block_bytes
    };
    let options = ModelOptions::default()
        .with_threads(1)
        .with_max_bytes(used + scratch + 2000);
    let model = Model::from_bundle(bundle(), options).unwrap();
    let mut engine = engine(&model);
    let left_out = (0..8).any(|seed| {
        let answer = engine
            .answer(&[1, 2], &wordy(seed).with_route("auto"))
            .unwrap();
        assert_eq!(answer.usage.probes, 0);
        let memory = Choice::ProbeLeftOut(Limit::Memory);
        answer.decisions.iter().any(|d| d.choice == memory)
    });
    assert!(left_out);
}

/// A model that thinks `ab`, separator, `cd`, separator, … and answers `HI` after the close.
fn talker(spec: ReasoningSpec) -> Model {
    let script = [
        mark::COT,
        65,
        66,
        mark::CHUNK,
        67,
        68,
        69,
        mark::CLOSE[0],
        mark::CLOSE[1],
        40,
        41,
        mark::STOP,
    ];
    chain_model(&[&script], spec)
}

#[test]
fn events_tell_of_probes_and_of_what_is_skipped() {
    let mut spec = reasoning();
    spec.routes.get_mut("cot").unwrap().thinking_quantiles = vec![8, 20];
    spec.auto = Some(AutoSpec {
        route: "cot".to_owned(),
        gate: GateKind::Answer,
        // A chain's tokens are nearly certain, all of them.
        threshold: 0.9,
        calibration: None,
    });
    let mut engine = engine(&talker(spec));
    engine
        .ask_text("Yo", &Ask::new().with_route("auto"))
        .unwrap();
    let events = events(&mut engine);
    let told: Vec<String> = events
        .iter()
        .map(|event| match event {
            Event::ChunkStarted { index } => format!("<{index}"),
            Event::ChunkFinished {
                index,
                tokens,
                complete,
                ms,
            } => {
                assert!(*ms >= 0.0);
                format!("{index}:{tokens} {complete}>")
            }
            Event::ThinkingText(piece) | Event::AnswerText(piece) => piece.text.clone(),
            Event::Probed(probe) => format!("? {} {:?}", probe.complete, probe.ids),
            Event::ChunkSkipped {
                reason,
                tokens_saved,
            } => format!("{reason:?} {tokens_saved:?}"),
            Event::Decision(decision) => match decision.choice {
                Choice::Probed(_) => "probed".to_owned(),
                Choice::Settled(confidence) => {
                    assert!((0.9..1.0).contains(&confidence));
                    "settled".to_owned()
                }
                _ => format!("{:?}", decision.choice),
            },
            Event::Finished(answer) => {
                assert_eq!(
                    (answer.thinking.as_str(), answer.text.as_str()),
                    ("ab", "HI")
                );
                // `a`, `b`, separator, close of two; `H`, `I`, end.
                let usage = answer.usage;
                assert_eq!((usage.thinking_tokens, usage.answer_tokens), (5, 3));
                assert_eq!((usage.probes, usage.probe_tokens), (1, 0));
                assert_eq!(answer.finish_reason, FinishReason::Stop);
                "end".to_owned()
            }
            _ => String::new(),
        })
        .collect();
    let saved = ((8 - 5) + (20 - 5)) / 2;
    let want = [
        "",
        "<0",
        "a",
        "b",
        "0:2 true>",
        "probed",
        "? true [40, 41]",
        "settled",
        &format!("Settled Some({saved})"),
        "H",
        "I",
        "end",
    ];
    let want: Vec<String> = want.iter().map(|word| (*word).to_owned()).collect();
    assert_eq!(told, want);

    // A limit that cuts the thinking skips, too; a close of the student's own does not.
    let skips = |tokens: usize| {
        let mut engine = crate::engine(&talker(reasoning()));
        let budget = Budget::unlimited().with_tokens(tokens);
        let ask = Ask::new().with_route("cot").with_budget(budget);
        engine.ask_text("Yo", &ask).unwrap();
        let events = crate::events(&mut engine);
        events.iter().find_map(|event| match event {
            Event::ChunkSkipped {
                reason,
                tokens_saved,
            } => Some((*reason, *tokens_saved)),
            _ => None,
        })
    };
    let limit = SkipReason::Limit(Limit::Tokens);
    assert_eq!(skips(12), Some((limit, None)));
    assert_eq!(skips(100), None);
}

#[test]
fn chunks_end_by_the_rule_of_the_bundle() {
    let mut spec = reasoning();
    spec.chunk = None;
    spec.chunk_ends = bytes("b");
    let script = [
        vec![mark::COT],
        bytes("abcb"),
        mark::CLOSE.to_vec(),
        bytes("HI"),
        vec![mark::STOP],
    ];
    // `b` comes twice, so a chain cannot say it; a chunk end, then `c`, is enough.
    let mut chain = script.concat();
    chain.truncate(4);
    let tail = [
        bytes("c"),
        mark::CLOSE.to_vec(),
        bytes("HI"),
        vec![mark::STOP],
    ]
    .concat();
    let mut engine = engine(&chain_model(&[&chain, &tail], spec));
    engine
        .ask_text("Yo", &Ask::new().with_route("cot"))
        .unwrap();
    let chunks: Vec<(usize, bool)> = events(&mut engine)
        .iter()
        .filter_map(|event| match event {
            Event::ChunkFinished {
                tokens, complete, ..
            } => Some((*tokens, *complete)),
            Event::Finished(answer) => {
                // The rule's tokens are text, and stand where they stood.
                assert_eq!(answer.thinking, "abc");
                None
            }
            _ => None,
        })
        .collect();
    assert_eq!(chunks, [(2, true), (1, false)]);
}

/// Cancels at the first probe it asks for.
struct CancelAt(skimstone::CancelHandle, Gated);

impl ReasoningPolicy for CancelAt {
    fn next_step(&mut self, seen: &Observation) -> NextStep {
        let step = self.1.next_step(seen);
        if matches!(step, NextStep::Probe { .. }) {
            self.0.cancel();
        }
        step
    }
}

#[test]
fn a_cancel_inside_a_probe_ends_it() {
    let model = gated_model(ModelType::Qwen3, GateKind::Answer, 1.0);
    let held = {
        let engine = engine(&model);
        let held = model.pool_usage().blocks_in_use;
        drop(engine);
        held
    };
    let mut engine = engine(&model);
    let prompt = Random::new(15).ids(20);
    let gate = Gated {
        gate: GateKind::Answer,
        threshold: 1.0,
    };
    let policy = CancelAt(engine.cancel_handle(), gate);
    engine
        .ask_with_policy(&prompt, &wordy(3), Box::new(policy))
        .unwrap();
    let answer = engine.wait().unwrap();
    assert_eq!(answer.finish_reason, FinishReason::Cancelled);
    assert!(answer.ids.is_empty() && !answer.thinking_ids.is_empty());
    assert_eq!(model.pool_usage().blocks_in_use, held);
    // And it can be asked again.
    let again = engine.answer(&prompt, &wordy(3)).unwrap();
    assert!(again.usage.answer_tokens > 0);
    assert_eq!(
        &again.thinking_ids[..answer.thinking_ids.len()],
        answer.thinking_ids
    );
}

#[test]
fn a_policy_that_probes_without_end_is_refused() {
    struct Stubborn;
    impl ReasoningPolicy for Stubborn {
        fn next_step(&mut self, _: &Observation) -> NextStep {
            NextStep::Probe {
                gate: GateKind::Answer,
                at_least: 0.0,
            }
        }
    }
    let model = model(ModelType::Llama, Format::F32);
    let mut engine = engine(&model);
    let ask = Ask::new().with_route("cot");
    engine
        .ask_with_policy(&[1, 2, 3], &ask, Box::new(Stubborn))
        .unwrap();
    let error = engine.wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Argument);
    assert!(error.to_string().contains("probes twice"), "{error}");
}

#[test]
fn auto_is_unknown_where_it_was_not_calibrated() {
    let model = model_with(
        ModelType::Llama,
        Format::F32,
        ModelOptions::default().with_threads(1),
    );
    let error = engine(&model)
        .ask(&[1], &Ask::new().with_route("auto"))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownRoute);
}
