//! What an engine does when the system asks: it suspends and goes on, gives memory back, and thinks less when it is hot.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use skimstone::kernels::Format;
use skimstone::reason::{
    Answer, Ask, Budget, Choice, Engine, EngineOptions, Event, Limit, ThermalLevel,
};
use skimstone::{
    AutoSpec, ErrorKind, FinishReason, GateKind, LadderSpec, Model, ModelOptions, ModelType,
    ReasoningSpec, RouteKind, Rung,
};

use crate::tiny::{CONTEXT, Random, bundle, config, mark, model, reasoning, weights};
use crate::{check, engine, forever, ramble};

/// The tiny model with another specification.
fn model_of(reasoning: ReasoningSpec) -> Model {
    let config = config(ModelType::Qwen3);
    let bundle = bundle(&config, &weights(&config, 1), Format::Q8, reasoning, None);
    Model::from_bundle(bundle, ModelOptions::default().with_threads(2)).unwrap()
}

/// Which event came, without times.
fn told(event: &Event) -> Option<String> {
    match event {
        Event::Decision(_) | Event::Finished(_) | Event::ChunkSkipped { .. } => None,
        Event::ChunkFinished { index, tokens, .. } => Some(format!("finished {index} {tokens}")),
        other => Some(format!("{other:?}")),
    }
}

fn to_end(engine: &mut Engine) -> (Vec<String>, Answer) {
    let mut events = Vec::new();
    loop {
        match engine.next_event().unwrap().unwrap() {
            Event::Finished(answer) => return (events, *answer),
            event => events.extend(told(&event)),
        }
    }
}

/// Saves after every single event, and goes on from each file in an engine of its own.
fn resumes_everywhere(model: &Model, options: &EngineOptions, ask: &Ask, probes: bool) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("question");
    let prompt = Random::new(11).ids(75);
    let mut whole = Engine::new(model, options.clone()).unwrap();
    whole.ask(&prompt, ask).unwrap();
    let (events, want) = to_end(&mut whole);
    let mut engine = Engine::new(model, options.clone()).unwrap();
    engine.ask(&prompt, ask).unwrap();
    let (mut places, mut last) = (0, None);
    while let Some(event) = engine.next_event().unwrap() {
        if let Event::Finished(answer) = event {
            last = Some(answer);
            break;
        }
        engine.save(&path).unwrap();
        let mut second = Engine::new(model, options.clone()).unwrap();
        second.resume(&path, ask).unwrap();
        let (again, got) = to_end(&mut second);
        let place = format!("after {event:?}");
        assert_eq!(got.thinking_ids, want.thinking_ids, "{place}");
        assert_eq!(got.ids, want.ids, "{place}");
        assert_eq!(got.finish_reason, want.finish_reason, "{place}");
        assert!((got.confidence - want.confidence).abs() < 1e-5, "{place}");
        if !probes {
            assert_eq!(again, events, "{place}");
            let counts = |answer: &Answer| {
                let usage = answer.usage;
                let generated = [
                    usage.thinking_tokens,
                    usage.answer_tokens,
                    usage.latent_steps,
                ];
                let passes = [
                    usage.layer_passes,
                    usage.prompt_layer_passes,
                    usage.dropped_tokens,
                ];
                (generated, passes)
            };
            assert_eq!(counts(&got), counts(&want), "{place}");
        }
        places += 1;
    }
    // What was saved on the way did not disturb the question itself.
    assert_eq!(last.unwrap().ids, want.ids);
    assert!(places > 5, "{places}");
}

#[test]
fn a_saved_question_goes_on_as_if_nothing_had_been() {
    let model = model(ModelType::Qwen3, Format::Q8);
    let plain = EngineOptions::default();
    let mut penalty = ramble(3);
    penalty.repetition_penalty = 1.3;
    for ask in [
        Ask::new().with_route("cot").with_sampler(ramble(2)),
        Ask::new().with_route("skip").with_sampler(penalty),
        Ask::new().with_route("direct").with_sampler(ramble(4)),
        Ask::new().with_route("latent").with_sampler(ramble(5)),
        Ask::new()
            .with_route("cot")
            .with_sampler(forever())
            .with_budget(Budget::unlimited().with_tokens(40)),
        Ask::new()
            .with_route("cot")
            .with_sampler(forever())
            .with_budget(Budget::unlimited().with_layer_passes(90)),
        Ask::new()
            .with_route("cot")
            .with_sampler(forever())
            .with_drop_chunks(2)
            .with_max_answer_tokens(5),
    ] {
        resumes_everywhere(&model, &plain, &ask, false);
    }
}

#[test]
fn questions_that_probe_go_on_to_the_same_answer() {
    let spec = ReasoningSpec {
        auto: Some(AutoSpec {
            route: "cot".to_owned(),
            gate: GateKind::Answer,
            threshold: 0.02,
            calibration: None,
        }),
        ..reasoning()
    };
    let model = model_of(spec.clone());
    let plain = EngineOptions::default();
    let rung = |route: &str, tokens: f32| Rung {
        route: route.to_owned(),
        threshold: (route != "cot").then_some(1.0),
        accuracy: 0.5,
        reached: None,
        tokens,
        latent_steps: 0.0,
        layer_passes: 3.0 * tokens,
        sorted: None,
        limited: Vec::new(),
    };
    let mut climbing = spec;
    climbing.auto = None;
    climbing.ladder = Some(LadderSpec {
        rungs: vec![rung("direct", 4.0), rung("latent", 6.0), rung("cot", 9.0)],
        calibration: None,
    });
    for budget in [
        Budget::unlimited(),
        Budget::unlimited().with_tokens(31),
        Budget::unlimited().with_layer_passes(100),
    ] {
        let ask = Ask::new()
            .with_route("auto")
            .with_sampler(ramble(2))
            .with_budget(budget)
            .with_max_answer_tokens(7);
        resumes_everywhere(&model_of(climbing.clone()), &plain, &ask, true);
    }
    for ask in [
        Ask::new().with_route("auto").with_sampler(ramble(2)),
        Ask::new()
            .with_route("cot")
            .with_sampler(ramble(2))
            .with_answer_by(Duration::from_secs(3600)),
    ] {
        resumes_everywhere(&model, &plain, &ask, true);
    }
}

#[test]
fn the_background_comes_at_the_end_of_a_chunk() {
    let model = model(ModelType::Qwen3, Format::Q8);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("question");
    let prompt = Random::new(12).ids(40);
    // So much of a push that the thinking has several chunks.
    let (ask, want) = (3..12)
        .map(|push| {
            let mut sampler = forever();
            sampler.logit_bias.push((mark::CHUNK, push as f32));
            let budget = Budget::unlimited().with_tokens(60);
            let ask = Ask::new().with_route("cot");
            let ask = ask.with_sampler(sampler).with_budget(budget);
            let answer = engine(&model).answer(&prompt, &ask).unwrap();
            (ask, answer)
        })
        .find(|(_, answer)| answer.thinking.matches('\n').count() >= 3)
        .unwrap();
    let mut engine = engine(&model);
    engine.ask(&prompt, &ask).unwrap();
    let lifecycle = engine.lifecycle();
    let mut finished = Vec::new();
    let suspended = loop {
        match engine.next_event().unwrap().unwrap() {
            Event::ChunkStarted { index: 1 } => {
                lifecycle.enter_background(&path, Duration::from_secs(3600));
            }
            Event::ChunkFinished { complete, .. } => finished.push(complete),
            Event::Finished(answer) => break answer,
            _ => {}
        }
    };
    assert_eq!(suspended.finish_reason, FinishReason::Suspended);
    assert_eq!(finished, [true, true]);
    assert!(want.thinking_ids.starts_with(&suspended.thinking_ids));
    assert_eq!(engine.next_event().unwrap(), None);
    engine.resume(&path, &ask).unwrap();
    let got = engine.wait().unwrap();
    assert_eq!((got.thinking_ids, got.ids), (want.thinking_ids, want.ids));
    assert_eq!(got.usage.layer_passes, want.usage.layer_passes);
    let resumed = |choice: &Choice| matches!(choice, Choice::Resumed(_));
    assert!(got.decisions.iter().any(|d| resumed(&d.choice)));
}

#[test]
fn without_grace_the_background_comes_at_the_next_step_of_anything() {
    let model = model(ModelType::Qwen3, Format::Q8);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("question");
    let prompt = Random::new(13).ids(150);
    let ask = Ask::new().with_route("direct").with_sampler(ramble(2));
    let mut engine = engine(&model);
    engine.ask(&prompt, &ask).unwrap();
    engine.next_event().unwrap();
    // In the prompt, of which nothing is read yet.
    engine.lifecycle().enter_background(&path, Duration::ZERO);
    let answer = engine.wait().unwrap();
    assert_eq!(answer.finish_reason, FinishReason::Suspended);
    assert_eq!(engine.session().position(), 0);
    // Taken back before it is met.
    engine.resume(&path, &ask).unwrap();
    engine.lifecycle().enter_background(&path, Duration::ZERO);
    engine.lifecycle().enter_foreground();
    let want = engine.wait().unwrap();
    assert_ne!(want.finish_reason, FinishReason::Suspended);
    // A folder that is not there: the question stays, and goes on.
    engine.ask(&prompt, &ask).unwrap();
    engine
        .lifecycle()
        .enter_background(Path::new("/nowhere/x"), Duration::ZERO);
    engine.next_event().unwrap();
    assert_eq!(engine.next_event().unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(engine.wait().unwrap().ids, want.ids);
}

#[test]
fn what_cannot_go_on_is_refused_and_changes_nothing() {
    let model = model(ModelType::Qwen3, Format::Q8);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("question");
    let prompt = Random::new(14).ids(20);
    let ask = Ask::new().with_route("cot").with_sampler(forever());
    let mut first = engine(&model);
    first.save(&path).unwrap();
    let none = first.resume(&path, &ask).unwrap_err();
    assert!(
        none.to_string().contains("no question was in progress"),
        "{none}"
    );
    first.ask(&prompt, &ask).unwrap();
    for _ in 0..12 {
        first.next_event().unwrap();
    }
    first.save(&path).unwrap();
    let mut second = engine(&model);
    second.ask(&prompt, &Ask::new()).unwrap();
    let other = second
        .resume(&path, &Ask::new().with_route("skip"))
        .unwrap_err();
    assert!(other.to_string().contains("along `cot`"), "{other}");
    assert!(!second.wait().unwrap().ids.is_empty());
    // Every byte of the question, with a right checksum: an error or an answer, no panic.
    let bytes = std::fs::read(&path).unwrap();
    let json = bytes.windows(2).position(|pair| pair == b"{\"").unwrap();
    let end = json + bytes[json..].iter().rposition(|&b| b == b'}').unwrap();
    let mut refused = 0;
    for at in (json..=end.min(json + 900)).step_by(5) {
        for value in [b'0', b'9', b'-', b']', b'n'] {
            let mut hostile = bytes.clone();
            hostile[at] = value;
            let body = hostile.len() - 4;
            let crc = crc32fast::hash(&hostile[..body]);
            hostile[body..].copy_from_slice(&crc.to_le_bytes());
            std::fs::write(&path, &hostile).unwrap();
            match second.resume(&path, &ask) {
                Ok(()) => (0..40).for_each(|_| drop(second.next_event())),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn a_memory_warning_takes_everything_of_an_engine_at_rest() {
    let model = model(ModelType::Qwen3, Format::Q8);
    let options = EngineOptions::default().with_reuse_prefix(true);
    let mut engine = Engine::new(&model, options).unwrap();
    let (full, blocks) = (model.memory_used(), model.pool_usage().blocks_in_use);
    let prompt = Random::new(15).ids(60);
    let ask = Ask::new().with_route("cot").with_sampler(ramble(2));
    let want = engine.answer(&prompt, &ask).unwrap();
    let given = engine.shed_memory().unwrap();
    assert_eq!(given, blocks as u64 * model.pool_usage().block_bytes);
    assert_eq!(model.memory_used(), full - given);
    let usage = model.pool_usage();
    assert_eq!((usage.blocks_in_use, usage.blocks_free), (0, 0));
    assert_eq!(
        (engine.session().kv_entries(), engine.session().position()),
        (0, 0)
    );
    let again = engine.answer(&prompt, &ask).unwrap();
    assert_eq!((again.ids, again.usage.reused_tokens), (want.ids, 0));
    assert_eq!(model.memory_used(), full);
    assert_eq!(engine.session().kv_entries(), CONTEXT);
}

#[test]
fn a_memory_warning_during_a_question_changes_no_answer() {
    let model = model(ModelType::Qwen3, Format::Q8);
    let prompt = Random::new(16).ids(40);
    let limited = Ask::new()
        .with_route("cot")
        .with_sampler(forever())
        .with_budget(Budget::unlimited().with_tokens(30));
    let free = Ask::new().with_route("cot").with_sampler(forever());
    for (ask, gives) in [(limited, true), (free, false)] {
        let want = engine(&model).answer(&prompt, &ask).unwrap();
        let mut engine = engine(&model);
        let full = model.memory_used();
        engine.ask(&prompt, &ask).unwrap();
        let mut warned = 0;
        let got = loop {
            match engine.next_event().unwrap().unwrap() {
                Event::Finished(answer) => break answer,
                // After these a step always follows.
                Event::ThinkingText(_) => {
                    engine.lifecycle().memory_warning();
                    warned += 1;
                }
                _ => {}
            }
        };
        assert!(warned > 20);
        assert_eq!(
            (&got.thinking_ids, &got.ids),
            (&want.thinking_ids, &want.ids)
        );
        check(&got, &model);
        assert_eq!(model.memory_used() < full, gives, "{}", model.memory_used());
        assert!(engine.session().kv_entries() >= engine.session().kv_used());
        // The next question has its context again.
        let next = engine.answer(&prompt, &ask).unwrap();
        assert_eq!(next.ids, want.ids);
        assert_eq!(model.memory_used(), full);
    }
}

/// Routes as a student has them, measured.
fn measured() -> ReasoningSpec {
    let mut spec = reasoning();
    for (route, longest) in [("cot", 60), ("skip", 40)] {
        let quantiles = (1..=10).map(|i| i * longest / 10).collect();
        spec.routes.get_mut(route).unwrap().thinking_quantiles = quantiles;
    }
    spec.routes.get_mut("latent").unwrap().latent_steps = 8;
    spec
}

#[test]
fn heat_lowers_the_effort() {
    let model = model_of(measured());
    let prompt = Random::new(17).ids(20);
    let mut passes: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for level in ThermalLevel::ALL {
        model.set_thermal(level);
        for route in ["cot", "skip", "latent"] {
            let ask = Ask::new()
                .with_route(route)
                .with_sampler(forever())
                .with_max_answer_tokens(4)
                .with_budget(Budget::unlimited().with_tokens(70));
            let answer = engine(&model).answer(&prompt, &ask).unwrap();
            check(&answer, &model);
            let asked = match level {
                ThermalLevel::Nominal => route,
                ThermalLevel::Critical => "direct",
                _ if route == "cot" => "skip",
                _ => route,
            };
            assert_eq!(answer.route, asked, "{level:?}");
            let cut = Choice::ThinkingCut(Limit::Heat);
            let cuts = answer.decisions.iter().any(|d| d.choice == cut);
            let thinks = answer.route != "direct";
            assert_eq!(
                cuts,
                level != ThermalLevel::Nominal && thinks,
                "{level:?} {route}"
            );
            passes
                .entry(route)
                .or_default()
                .push(answer.usage.layer_passes);
        }
    }
    for (route, passes) in &passes {
        assert!(passes.is_sorted_by(|a, b| a > b), "{route}: {passes:?}");
    }
}

#[test]
fn heat_in_the_middle_of_thinking_ends_it() {
    let model = model_of(measured());
    let ask = Ask::new().with_route("skip").with_sampler(forever());
    let mut engine = engine(&model);
    engine.ask(&Random::new(18).ids(20), &ask).unwrap();
    while engine.next_event().unwrap().is_some() {
        if engine.session().position() > 45 {
            break;
        }
    }
    model.set_thermal(ThermalLevel::Serious);
    let answer = engine.wait().unwrap();
    assert_eq!(answer.route, "skip");
    assert!(answer.usage.thinking_tokens < 35, "{:?}", answer.usage);
    // A bundle without a cheaper route thinks along the one that it has.
    let mut spec = reasoning();
    spec.routes.retain(|_, route| route.kind == RouteKind::Cot);
    spec.default_route = "cot".to_owned();
    let only = model_of(spec);
    only.set_thermal(ThermalLevel::Critical);
    let ask = Ask::new().with_sampler(forever());
    let answer = crate::engine(&only)
        .answer(&[1, 2, mark::CHUNK], &ask)
        .unwrap();
    assert_eq!(answer.route, "cot");
    assert!(answer.usage.thinking_tokens <= CONTEXT / 4 + 2);
}
