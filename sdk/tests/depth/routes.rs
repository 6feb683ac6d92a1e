//! Depth in the reasoning engine: routes of a bundle, budgets, probes, costs.

use skimstone::kernels::{Format, KvFormat};
use skimstone::reason::{Answer, Ask, Budget, Choice, Engine, EngineOptions, Event};
use skimstone::{
    Depth, DraftSpec, ErrorKind, ExitMeasure, ExitSpec, Model, ModelOptions, ModelType, RouteDepth,
    SamplerOptions,
};

use crate::each_model;
use crate::tiny::{
    Random, bundle, byte_tokenizer, bytes, chain_model, config, mark, model, reasoning, weights,
};

fn engine(model: &Model) -> Engine {
    Engine::new(model, EngineOptions::default()).unwrap()
}

/// Sampling under which random models think for a while.
fn rambling(seed: u64) -> SamplerOptions {
    SamplerOptions {
        temperature: if seed.is_multiple_of(2) { 0.0 } else { 1.2 },
        logit_bias: vec![(mark::STOP, -2.0), (mark::CHUNK, 2.0)],
        seed,
        ..SamplerOptions::default()
    }
}

/// All of an answer but its costs.
fn said(answer: &Answer) -> impl PartialEq + std::fmt::Debug + use<> {
    let usage = answer.usage;
    let choices: Vec<Choice> = answer.decisions.iter().map(|d| d.choice.clone()).collect();
    (
        (answer.ids.clone(), answer.thinking_ids.clone()),
        (answer.text.clone(), answer.thinking.clone()),
        (answer.confidence.to_bits(), answer.finish_reason, choices),
        (
            usage.thinking_tokens,
            usage.answer_tokens,
            usage.probe_tokens,
        ),
        (usage.latent_steps, usage.dropped_tokens),
    )
}

#[test]
fn drafts_change_costs_only() {
    let (mut accepted, mut drafted) = (0, 0);
    each_model(|model| {
        for (seed, route) in ["direct", "cot", "skip", "latent"].into_iter().enumerate() {
            let prompt = Random::new(seed as u64).ids(20);
            let base = Ask::new()
                .with_route(route)
                .with_sampler(rambling(seed as u64))
                .with_max_answer_tokens(30);
            let asks = [
                base.clone(),
                base.clone()
                    .with_budget(Budget::unlimited().with_tokens(25)),
                base.clone()
                    .with_budget(Budget::unlimited().with_layer_passes(90)),
                base.clone().with_drop_chunks(1),
                base.with_answer_by(std::time::Duration::from_secs(3600)),
            ];
            for ask in asks {
                let want = engine(model).answer(&prompt, &ask).unwrap();
                let drafts = Depth::Drafts(DraftSpec::new(2, 4));
                let mut engine = engine(model);
                let got = engine
                    .answer(&prompt, &ask.clone().with_depth(drafts))
                    .unwrap();
                assert_eq!(said(&got), said(&want), "{route} {ask:?}");
                if ask.budget.layer_passes.is_some() {
                    assert_eq!(got.usage.layer_passes, want.usage.layer_passes);
                    assert_eq!(got.usage.drafted_tokens, 0);
                }
                assert!(got.usage.accepted_tokens <= got.usage.drafted_tokens);
                (accepted, drafted) = (
                    accepted + got.usage.accepted_tokens,
                    drafted + got.usage.drafted_tokens,
                );
                // The engine is none the worse: what it says next is what a new one says.
                let next = Ask::new().with_max_answer_tokens(5);
                let again = engine.answer(&prompt, &next).unwrap();
                let fresh = crate::routes::engine(model).answer(&prompt, &next).unwrap();
                assert_eq!(said(&again), said(&fresh));
            }
        }
    });
    assert!(
        accepted > 500 && accepted < drafted,
        "{accepted} of {drafted}"
    );
}

#[test]
fn a_fork_between_events_sees_nothing_ahead() {
    let script = [bytes("!abcdefghij"), vec![mark::STOP]].concat();
    let model = chain_model(&[&[mark::DIRECT, 1], &script], reasoning());
    let options = EngineOptions::default().with_reuse_prefix(true);
    let mut first = Engine::new(&model, options).unwrap();
    let ask = Ask::new().with_depth(Depth::Drafts(DraftSpec::new(1, 6)));
    first.ask_text("Yo", &ask).unwrap();
    while let Some(event) = first.next_event().unwrap() {
        if matches!(&event, Event::AnswerText(piece) if piece.text == "b") {
            break;
        }
    }
    let mut second = first.fork().unwrap();
    let answer = first.wait().unwrap();
    assert_eq!(answer.text, "!abcdefghij");
    assert!(answer.usage.accepted_tokens >= 8, "{:?}", answer.usage);
    let again = second.answer_text("Yo", &ask).unwrap();
    assert_eq!((again.text, again.usage.reused_tokens), (answer.text, 2));
}

/// A model whose bundle knows exits and drafts.
fn trained(layers: &[usize], threshold: f32, depth: RouteDepth) -> Model {
    let config = config(ModelType::Llama);
    let mut spec = reasoning();
    spec.exits = Some(ExitSpec::new(layers, threshold));
    spec.drafts = Some(DraftSpec::new(1, 3));
    spec.routes.get_mut("direct").unwrap().depth = depth;
    let weights = weights(&config, 2);
    let bundle = bundle(&config, &weights, Format::Q8, spec, Some(byte_tokenizer()));
    let options = ModelOptions::default().with_threads(1);
    Model::from_bundle(bundle, options.with_kv_format(KvFormat::F16)).unwrap()
}

#[test]
fn routes_of_a_bundle_say_how_deep() {
    let prompt = Random::new(3).ids(30);
    let endless = SamplerOptions {
        logit_bias: vec![(mark::STOP, f32::NEG_INFINITY)],
        ..SamplerOptions::default()
    };
    let ask = Ask::new()
        .with_route("direct")
        .with_sampler(endless)
        .with_max_answer_tokens(40);
    let answer = |depth, ask: &Ask| {
        let model = trained(&[1, 2], 0.06, depth);
        engine(&model).answer(&prompt, ask).unwrap()
    };
    let full = answer(RouteDepth::Full, &ask);
    let drafts = answer(RouteDepth::Drafts, &ask);
    let exits = answer(RouteDepth::Exits, &ask);
    assert_eq!(said(&drafts), said(&full));
    assert!(drafts.usage.drafted_tokens > 0);
    let usage = exits.usage;
    assert!(usage.exits > 0 && usage.layer_passes < 3 * (usage.generated_tokens - 1));
    assert!(usage.exits < 39, "all leave");
    // That of the prompt; then as many as layers: one behind each exit that is asked, and one at the end.
    assert_eq!(usage.head_passes, 1 + usage.layer_passes);
    let left_out = 3 * (usage.generated_tokens - 1) - usage.layer_passes;
    assert_eq!(usage.kv_passes, left_out, "propagated");
    assert_eq!(
        full.usage.exits + full.usage.kv_passes + full.usage.drafted_tokens,
        0
    );

    // Off by a word, and on.
    let off = answer(RouteDepth::Exits, &ask.clone().with_depth(Depth::Full));
    assert_eq!(said(&off), said(&full));
    let model = trained(&[1, 2], 0.06, RouteDepth::Full);
    let on = model.reasoning().depth(RouteDepth::Exits).unwrap();
    let on = engine(&model)
        .answer(&prompt, &ask.clone().with_depth(on))
        .unwrap();
    assert_eq!(said(&on), said(&exits));
    let error = crate::tiny::model(ModelType::Qwen3, Format::Q8)
        .reasoning()
        .depth(RouteDepth::Exits)
        .unwrap_err();
    assert!(error.to_string().contains("has no `exits`"), "{error}");
    // A measure that costs no head.
    let mut spec = ExitSpec::new([1, 2], 0.3);
    spec.measure = ExitMeasure::Saturation;
    let cheap = engine(&model)
        .answer(&prompt, &ask.with_depth(Depth::Exits(spec)))
        .unwrap();
    assert_eq!(cheap.usage.head_passes, cheap.usage.generated_tokens);
    assert!(cheap.usage.exits > 0);
}

#[test]
fn a_threshold_of_one_is_the_full_route() {
    let prompt = Random::new(4).ids(25);
    for route in ["direct", "cot", "latent"] {
        for family in ModelType::ALL {
            let model = model(family, Format::Q8);
            let ask = Ask::new()
                .with_route(route)
                .with_sampler(rambling(1))
                .with_budget(Budget::unlimited().with_tokens(30));
            let want = engine(&model).answer(&prompt, &ask).unwrap();
            let exits = Depth::Exits(ExitSpec::new([1, 2], 1.0));
            let got = engine(&model)
                .answer(&prompt, &ask.with_depth(exits))
                .unwrap();
            assert_eq!(said(&got), said(&want));
            assert_eq!(got.usage.layer_passes, want.usage.layer_passes);
            assert_eq!(got.usage.head_passes, want.usage.head_passes);
        }
    }
}

#[test]
fn exits_stay_within_a_budget_of_layer_passes() {
    let model = trained(&[1, 2], 0.05, RouteDepth::Exits);
    for passes in [3, 10, 40] {
        let ask = Ask::new()
            .with_route("direct")
            .with_budget(Budget::unlimited().with_layer_passes(passes));
        let answer = engine(&model)
            .answer(&Random::new(5).ids(30), &ask)
            .unwrap();
        assert!(answer.usage.layer_passes <= passes);
        assert!(answer.usage.answer_tokens > 0);
    }
}

#[test]
fn probes_run_as_deep_as_the_answer() {
    let model = trained(&[1, 2], -1.0, RouteDepth::Full);
    let ask = Ask::new()
        .with_route("cot")
        .with_sampler(rambling(2))
        .with_answer_by(std::time::Duration::from_secs(3600))
        .with_budget(Budget::unlimited().with_tokens(60))
        .with_depth(Depth::Exits(ExitSpec::new([1], -1.0)));
    let answer = engine(&model)
        .answer(&Random::new(6).ids(20), &ask)
        .unwrap();
    let usage = answer.usage;
    assert!(usage.probes > 0, "{usage:?}");
    // Only forced tokens run all layers: the close, once per probe and once for all.
    let forced = 2 * (usage.probes + 1);
    assert!(
        usage.layer_passes <= usage.generated_tokens + 2 * forced,
        "{usage:?}"
    );
}

#[test]
fn nonsense_is_refused_before_anything_is_computed() {
    let model = model(ModelType::Qwen2, Format::F32);
    let cases = [
        (
            Depth::Exits(ExitSpec::new([3], 0.5)),
            "exits.layers: [3] are not ascending numbers of layers from 1 to 2",
        ),
        (
            Depth::Exits(ExitSpec::new([1], f32::NAN)),
            "exits.threshold: NaN",
        ),
        (
            Depth::Drafts(DraftSpec::new(9, 2)),
            "drafts.layers: 9 is not from 1 to 2",
        ),
    ];
    for (depth, message) in cases {
        let mut engine = engine(&model);
        let error = engine.ask(&[1], &Ask::new().with_depth(depth)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Argument);
        assert!(error.to_string().starts_with(message), "{error}");
        assert_eq!(engine.next_event().unwrap(), None);
    }
}
