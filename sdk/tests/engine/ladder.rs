//! The route `auto` as a ladder: what each rung sees and costs, limits, and logs that can be followed again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use skimstone::kernels::Format;
use skimstone::reason::{Answer, Ask, Budget, Choice, Clock, Engine, EngineOptions, Event};
use skimstone::{
    AutoSpec, ErrorKind, FinishReason, GateKind, LadderSpec, Limited, Model, ModelOptions,
    ModelType, ReasoningSpec, Rung, SamplerOptions, Sorted,
};

use crate::tiny::{Random, bundle, config, reasoning, weights};
use crate::{engine, events, forever, ramble};

const ROUTES: [&str; 4] = ["direct", "latent", "skip", "cot"];
const LAYERS: usize = 3;

fn rung(route: &str, threshold: f32) -> Rung {
    let (tokens, latent_steps, accuracy) = match route {
        "direct" => (5.0, 0.0, 0.2),
        "latent" => (7.0, 3.0, 0.4),
        "skip" => (20.0, 0.0, 0.8),
        _ => (40.0, 0.0, 0.9),
    };
    Rung {
        route: route.to_owned(),
        threshold: (route != "cot").then_some(threshold),
        accuracy,
        reached: None,
        tokens,
        latent_steps,
        layer_passes: LAYERS as f32 * (tokens + latent_steps),
        sorted: Some(Sorted {
            accepted: 0.5,
            accepted_accuracy: 0.9,
            rejected_accuracy: 0.0,
        }),
        limited: [(0.5, 0.4), (1.0, 0.7), (2.0, 1.0)]
            .map(|(share, part)| Limited {
                share,
                accuracy: accuracy * part,
                reached: None,
            })
            .to_vec(),
    }
}

/// The tests' reasoning with all of its routes on a ladder.
fn spec(threshold: f32) -> ReasoningSpec {
    let mut spec = reasoning();
    spec.ladder = Some(LadderSpec {
        rungs: ROUTES.map(|route| rung(route, threshold)).to_vec(),
        calibration: None,
    });
    for route in ["skip", "cot"] {
        spec.routes.get_mut(route).unwrap().max_thinking_tokens = Some(30);
    }
    spec
}

fn model_of(family: ModelType, spec: ReasoningSpec) -> Model {
    let config = config(family);
    let bundle = bundle(&config, &weights(&config, 1), Format::Q8, spec, None);
    Model::from_bundle(bundle, ModelOptions::default().with_threads(1)).unwrap()
}

fn auto(seed: u64) -> Ask {
    Ask::new()
        .with_route("auto")
        .with_sampler(ramble(seed))
        .with_max_answer_tokens(9)
}

/// A clock on which every look takes a tenth of a millisecond.
fn ticking() -> (Clock, Arc<AtomicU64>) {
    let (start, ticks) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let shared = ticks.clone();
    let now = move || start + Duration::from_micros(100 * shared.fetch_add(1, Ordering::Relaxed));
    (Clock::new(now), ticks)
}

fn choices(answer: &Answer) -> impl Iterator<Item = &Choice> {
    answer.decisions.iter().map(|decision| &decision.choice)
}

fn rungs_taken(answer: &Answer) -> Vec<usize> {
    choices(answer)
        .filter_map(|choice| match choice {
            Choice::RungTaken { rung, .. } => Some(*rung),
            _ => None,
        })
        .collect()
}

/// Runs to the end, and checks what holds for every answer on a ladder.
fn finish(engine: &mut Engine, model: &Model) -> Answer {
    let events = events(engine);
    let Some(Event::Finished(answer)) = events.last() else {
        panic!("{events:?}")
    };
    assert!(matches!(&events[0], Event::Started { route, .. } if route == "auto"));
    let usage = answer.usage;
    assert_eq!(
        usage.generated_tokens,
        usage.thinking_tokens + usage.answer_tokens + usage.probe_tokens + usage.rejected_tokens
    );
    assert_eq!(usage.rungs, rungs_taken(answer).len());
    assert_eq!(answer.route, "auto");
    let rungs = &model.reasoning().ladder.as_ref().unwrap().rungs;
    assert!(rungs.iter().any(|rung| rung.route == answer.along));
    // What was shown is what was answered, and nothing of what did not stand.
    let shown: Vec<u32> = events
        .iter()
        .filter_map(|event| match event {
            Event::AnswerText(piece) => Some(piece.ids.clone()),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(shown, answer.ids);
    // Every decision was told.
    let told: Vec<&Choice> = events
        .iter()
        .filter_map(|event| match event {
            Event::Decision(decision) => Some(&decision.choice),
            _ => None,
        })
        .collect();
    assert_eq!(told, choices(answer).skip(1).collect::<Vec<_>>());
    *answer.clone()
}

#[test]
fn a_rung_is_its_route_alone_and_costs_are_sums() {
    for family in ModelType::ALL {
        let prompt = Random::new(41).ids(70);
        for seed in 0..6 {
            // No answer is that sure: all rungs are climbed.
            let model = model_of(family, spec(1.0));
            let alone: Vec<Answer> = ROUTES
                .iter()
                .map(|route| {
                    let ask = auto(seed).with_route(*route);
                    engine(&model).answer(&prompt, &ask).unwrap()
                })
                .collect();
            let mut climbing = engine(&model);
            climbing.ask(&prompt, &auto(seed)).unwrap();
            let got = finish(&mut climbing, &model);
            let want = &alone[3];
            assert_eq!(rungs_taken(&got), [0, 1, 2, 3]);
            assert_eq!(
                (&got.ids, &got.thinking_ids),
                (&want.ids, &want.thinking_ids)
            );
            assert_eq!(
                (got.confidence, got.certainty, got.along.as_str()),
                (want.confidence, want.certainty, "cot")
            );
            let sum = |value: fn(&Answer) -> usize| alone.iter().map(value).sum::<usize>();
            let usage = got.usage;
            assert_eq!(usage.generated_tokens, sum(|a| a.usage.generated_tokens));
            assert_eq!(usage.latent_steps, sum(|a| a.usage.latent_steps));
            // The opens of the rungs above the first, a token each.
            assert_eq!(
                usage.layer_passes,
                sum(|a| a.usage.layer_passes) + 3 * LAYERS
            );
            assert_eq!(usage.head_passes, sum(|a| a.usage.head_passes));
            let first = alone[0].usage;
            assert_eq!(
                (usage.prompt_tokens, usage.prompt_layer_passes),
                (first.prompt_tokens, first.prompt_layer_passes)
            );
            // The log tells what each cost.
            for (rung, answer) in alone.iter().enumerate().take(3) {
                let escalated = choices(&got).find_map(|choice| match choice {
                    Choice::RungEscalated {
                        rung: r,
                        confidence,
                        tokens,
                        layer_passes,
                        ..
                    } if *r == rung => Some((*confidence, *tokens, *layer_passes)),
                    _ => None,
                });
                let whole =
                    answer.usage.answer_tokens == 9 || answer.finish_reason == FinishReason::Stop;
                let want = (
                    if whole { answer.certainty } else { 0.0 },
                    answer.usage.generated_tokens,
                    answer.usage.layer_passes,
                );
                assert_eq!(escalated, Some(want));
            }

            // Everything is sure enough: the first rung, and nothing else.
            let model = model_of(family, spec(0.0));
            let mut climbing = engine(&model);
            climbing.ask(&prompt, &auto(seed)).unwrap();
            let got = finish(&mut climbing, &model);
            assert_eq!(rungs_taken(&got), [0]);
            assert_eq!(got.ids, alone[0].ids);
            assert_eq!(got.usage.rejected_tokens, 0);
            assert_eq!(got.usage.layer_passes, alone[0].usage.layer_passes);
        }
    }
}

#[test]
fn a_threshold_decides_question_by_question() {
    let prompt = |seed: u64| Random::new(100 + seed).ids(30);
    let plain = model_of(ModelType::Qwen3, spec(1.0));
    let sure: Vec<Vec<f32>> = (0..40)
        .map(|seed| {
            let alone = |route: &&str| {
                let ask = auto(seed).with_route(*route);
                let answer = engine(&plain).answer(&prompt(seed), &ask).unwrap();
                answer.certainty
            };
            ROUTES.iter().map(alone).collect()
        })
        .collect();
    // In the middle of what there is.
    let mut all: Vec<f32> = sure.iter().flat_map(|sure| &sure[..3]).copied().collect();
    all.sort_by(f32::total_cmp);
    let threshold = all[all.len() / 2];
    let model = model_of(ModelType::Qwen3, spec(threshold));
    let mut ends = [0; 4];
    for (seed, sure) in (0..).zip(&sure) {
        let mut climbing = engine(&model);
        climbing.ask(&prompt(seed), &auto(seed)).unwrap();
        let got = finish(&mut climbing, &model);
        let first = sure[..3].iter().position(|&sure| sure >= threshold);
        let want = first.unwrap_or(3);
        assert_eq!(got.along, ROUTES[want], "{sure:?}");
        ends[want] += 1;
    }
    let several = ends.iter().filter(|&&count| count > 0).count();
    assert!(several >= 3, "{ends:?}");
}

#[test]
fn limits_hold_and_always_end_in_an_answer() {
    let model = model_of(ModelType::Qwen2, spec(0.9));
    let mut engine = engine(&model);
    let prompt = Random::new(42).ids(12);
    let (mut recalled, mut left_out, mut several) = (0, 0, 0);
    for limit in 1..110 {
        for seed in 0..4 {
            let mut sampler = ramble(seed);
            if seed % 2 == 0 {
                sampler = SamplerOptions { seed, ..forever() };
            }
            let ask = auto(seed).with_sampler(sampler);
            let tokens = Budget::unlimited().with_tokens(limit);
            engine
                .ask(&prompt, &ask.clone().with_budget(tokens))
                .unwrap();
            let answer = finish(&mut engine, &model);
            assert!(answer.usage.generated_tokens <= limit, "{answer:?}");
            assert!(!answer.ids.is_empty() || answer.finish_reason == FinishReason::Stop);

            let passes = Budget::unlimited().with_layer_passes(LAYERS * limit);
            engine.ask(&prompt, &ask.with_budget(passes)).unwrap();
            let answer = finish(&mut engine, &model);
            assert!(answer.usage.layer_passes <= LAYERS * limit, "{answer:?}");
            assert!(!answer.ids.is_empty() || answer.finish_reason == FinishReason::Stop);
            let is = |wanted: fn(&Choice) -> bool| choices(&answer).filter(|c| wanted(c)).count();
            recalled += is(|c| matches!(c, Choice::RungRecalled { .. }));
            left_out += is(|c| matches!(c, Choice::RungLeftOut { .. }));
            several += usize::from(answer.usage.rungs > 1);
        }
    }
    assert!(
        recalled > 0 && left_out > 0 && several > 20,
        "{recalled} {left_out} {several}"
    );
    let ask = auto(1).with_budget(Budget::unlimited().with_tokens(0));
    let error = engine.ask(&prompt, &ask).unwrap_err().to_string();
    assert!(error.contains("route `auto` needs at least 1"), "{error}");
}

#[test]
fn a_deadline_ends_in_an_answer_on_every_rung() {
    let model = model_of(ModelType::Qwen3, spec(0.9));
    let prompt = Random::new(43).ids(20);
    let mut rungs = [0; 5];
    for ms in (0..40).step_by(2) {
        for seed in 0..4 {
            for by in [false, true] {
                let (clock, ticks) = ticking();
                let options = EngineOptions::default().with_clock(clock);
                let mut engine = Engine::new(&model, options).unwrap();
                let ask = auto(seed).with_sampler(SamplerOptions { seed, ..forever() });
                let ask = match by {
                    true => ask.with_answer_by(Duration::from_millis(ms)),
                    false => ask.with_budget(Budget::unlimited().with_milliseconds(ms)),
                };
                let began = ticks.load(Ordering::Relaxed);
                engine.ask(&prompt, &ask).unwrap();
                let answer = finish(&mut engine, &model);
                let took = ticks.load(Ordering::Relaxed) - began;
                assert!(!answer.ids.is_empty());
                // A step with its books, the first probe, and what a change of rungs looks at the clock for.
                assert!(
                    took <= (10 * ms).max(60) + 60,
                    "{took} for {ms}: {answer:?}"
                );
                rungs[answer.usage.rungs] += 1;
            }
        }
    }
    assert!(
        rungs.iter().filter(|&&count| count > 0).count() >= 3,
        "{rungs:?}"
    );
}

/// What of two answers must be the same when one follows the other's log.
fn same(got: &Answer, want: &Answer) {
    assert_eq!(got.ids, want.ids);
    assert_eq!(got.thinking_ids, want.thinking_ids);
    assert_eq!(
        (&got.along, got.finish_reason),
        (&want.along, want.finish_reason)
    );
    assert_eq!(got.usage.generated_tokens, want.usage.generated_tokens);
    assert_eq!(got.usage.layer_passes, want.usage.layer_passes);
    let kinds = |answer: &Answer| -> Vec<(usize, usize, std::mem::Discriminant<Choice>)> {
        let of = |d: &skimstone::reason::Decision| {
            (
                d.generated_tokens,
                d.latent_steps,
                std::mem::discriminant(&d.choice),
            )
        };
        answer.decisions.iter().map(of).collect()
    };
    assert_eq!(kinds(got), kinds(want));
}

#[test]
fn a_log_is_followed_whatever_the_time_is_now() {
    let mut gated = spec(0.05);
    gated.chunk = None;
    gated.chunk_ends = (0..80).step_by(6).collect();
    gated.auto = Some(AutoSpec {
        route: "skip".to_owned(),
        gate: GateKind::Answer,
        threshold: 0.05,
        calibration: None,
    });
    let model = model_of(ModelType::Llama, gated);
    let prompt = Random::new(44).ids(25);
    let (mut cut, mut probe_cut, mut climbed) = (0, 0, 0);
    for ms in [0, 2, 4, 7, 11, 16, 25, 60, 10_000] {
        for seed in 0..3 {
            for route in ["auto", "cot", "skip", "latent"] {
                for by in [false, true] {
                    let sampler = match ms % 2 {
                        0 => SamplerOptions { seed, ..forever() },
                        _ => ramble(seed),
                    };
                    let ask = auto(seed).with_route(route).with_sampler(sampler);
                    let ask = match by {
                        true => ask.with_answer_by(Duration::from_millis(ms)),
                        false => ask.with_budget(Budget::unlimited().with_milliseconds(ms)),
                    };
                    let (clock, _) = ticking();
                    let options = EngineOptions::default().with_clock(clock);
                    let mut slow = Engine::new(&model, options).unwrap();
                    let want = slow.answer(&prompt, &ask).unwrap();
                    // Through JSON, as programs keep it; by a machine on which no time passes, and another prompt before.
                    let log = serde_json::to_string(&want.decisions).unwrap();
                    let log: Vec<_> = serde_json::from_str(&log).unwrap();
                    let now = Instant::now();
                    let options = EngineOptions::default()
                        .with_reuse_prefix(true)
                        .with_clock(Clock::new(move || now));
                    let mut fast = Engine::new(&model, options).unwrap();
                    fast.answer(&prompt[..9], &auto(7)).unwrap();
                    let got = fast.answer(&prompt, &ask.clone().with_replay(log)).unwrap();
                    let mut got = got;
                    got.decisions
                        .retain(|d| !matches!(d.choice, Choice::PrefixReused(_)));
                    same(&got, &want);
                    cut += choices(&want)
                        .filter(|c| matches!(c, Choice::ThinkingCut(_) | Choice::AnswerCut(_)))
                        .count();
                    probe_cut += choices(&want)
                        .filter(|c| matches!(c, Choice::ProbeCut { .. } | Choice::ProbeLeftOut(_)))
                        .count();
                    climbed += usize::from(want.usage.rungs > 1);
                }
            }
        }
    }
    assert!(
        cut > 20 && probe_cut > 5 && climbed > 10,
        "{cut} {probe_cut} {climbed}"
    );
}

#[test]
fn a_log_of_something_else_is_refused_by_name() {
    let model = model_of(ModelType::Qwen3, spec(0.9));
    let prompt = Random::new(45).ids(25);
    let mut engine = engine(&model);
    let ask = auto(3).with_budget(Budget::unlimited().with_tokens(60));
    let log = engine.answer(&prompt, &ask).unwrap().decisions;
    assert!(log.len() > 4);
    let follow = |engine: &mut Engine, prompt: &[u32], ask: &Ask, log: &[_]| {
        engine.answer(prompt, &ask.clone().with_replay(log.to_vec()))
    };
    let refused = |result: skimstone::Result<Answer>, words: &[&str]| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Argument);
        let message = error.to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    };
    follow(&mut engine, &prompt, &ask, &log).unwrap();
    // Another route is not an error: the log says which one.
    follow(&mut engine, &prompt, &ask.clone().with_route("cot"), &log).unwrap();
    let mut bent = log.clone();
    for decision in &mut bent {
        if let Choice::RungEscalated { tokens, .. } = &mut decision.choice {
            *tokens += 1;
        }
    }
    refused(
        follow(&mut engine, &prompt, &ask, &bent),
        &["RungEscalated", "now it is"],
    );
    refused(
        follow(&mut engine, &prompt, &ask, &log[..log.len() - 1]),
        &["the log has", "now there is"],
    );
    let long = [log.as_slice(), &log[log.len() - 1..]].concat();
    refused(
        follow(&mut engine, &prompt, &ask, &long),
        &["the answer ended"],
    );
    refused(
        follow(&mut engine, &prompt, &ask, &[]),
        &["does not begin with the choice of a route"],
    );
    // A log that climbs beyond the ladder.
    let mut beyond = log.clone();
    for decision in &mut beyond {
        if let Choice::RungTaken { rung, .. } = &mut decision.choice {
            *rung += 40;
        }
    }
    refused(follow(&mut engine, &prompt, &ask, &beyond), &["RungTaken"]);
    engine.answer(&prompt, &ask).unwrap();
}

#[test]
fn a_cancel_on_a_dearer_rung_returns_the_answer_before() {
    let model = model_of(ModelType::Qwen3, spec(1.0));
    let prompt = Random::new(47).ids(20);
    let mut found = 0;
    for seed in 0..6 {
        let sampler = SamplerOptions { seed, ..forever() };
        let ask = auto(seed).with_sampler(sampler);
        let mut engine = engine(&model);
        let direct = engine
            .answer(&prompt, &ask.clone().with_route("direct"))
            .unwrap();
        engine.ask(&prompt, &ask).unwrap();
        let answer = loop {
            match engine.next_event().unwrap().unwrap() {
                Event::LatentStep { index: 0 } => engine.cancel_handle().cancel(),
                Event::Finished(answer) => break answer,
                _ => {}
            }
        };
        assert_eq!(answer.finish_reason, FinishReason::Cancelled);
        assert_eq!(
            (answer.along.as_str(), &answer.ids),
            ("direct", &direct.ids)
        );
        assert_eq!(answer.certainty, direct.certainty);
        found += answer.ids.len();
    }
    assert!(found > 0);
}

#[test]
fn blocks_come_back_and_memory_that_is_short_ends_the_climb() {
    let mut spec = spec(1.0);
    spec.auto = Some(AutoSpec {
        route: "cot".to_owned(),
        gate: GateKind::Answer,
        threshold: 0.5,
        calibration: None,
    });
    let model = model_of(ModelType::Qwen3, spec.clone());
    let before = model.pool_usage().blocks_in_use;
    {
        let mut engine = engine(&model);
        let held = model.pool_usage().blocks_in_use;
        for seed in 0..6 {
            engine.ask(&Random::new(seed).ids(40), &auto(seed)).unwrap();
            let answer = finish(&mut engine, &model);
            assert_eq!(answer.usage.rungs, 4);
            assert_eq!(model.pool_usage().blocks_in_use, held);
        }
    }
    assert_eq!(model.pool_usage().blocks_in_use, before);

    // No room for the session of probes of the last rung: the answer of the one before stands.
    let config = config(ModelType::Qwen3);
    let bundle = || {
        bundle(
            &config,
            &weights(&config, 1),
            Format::Q8,
            spec.clone(),
            None,
        )
    };
    let used = {
        let options = ModelOptions::default().with_threads(1);
        let model = Model::from_bundle(bundle(), options).unwrap();
        let _engine = engine(&model);
        model.memory_used()
    };
    let options = ModelOptions::default()
        .with_threads(1)
        .with_max_bytes(used + 2000);
    let model = Model::from_bundle(bundle(), options).unwrap();
    let mut engine = engine(&model);
    engine.ask(&Random::new(1).ids(40), &auto(1)).unwrap();
    let answer = finish(&mut engine, &model);
    assert_eq!((answer.usage.rungs, answer.along.as_str()), (3, "skip"));
    assert!(matches!(
        choices(&answer).last(),
        Some(Choice::RungStands { rung: 2, .. })
    ));
}
