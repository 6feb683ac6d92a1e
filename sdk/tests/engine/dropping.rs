//! Chunks that drop their keys and values when they end.

use skimstone::kernels::{Format, KvFormat};
use skimstone::reason::{Ask, Engine, EngineOptions};
use skimstone::{
    BLOCK_POSITIONS, ErrorKind, Model, ModelOptions, ModelType, SamplerOptions, Session,
    SessionOptions,
};

use crate::tiny::{CONTEXT, Random, bundle, config, mark, model, reasoning, weights};
use crate::{check, forever};

#[test]
fn what_is_forgotten_is_as_if_hidden() {
    // Hiding leaves the entries where they are and forgetting moves later ones down: the same is attended to, in the same order.
    for kv in KvFormat::ALL {
        let options = ModelOptions::default().with_threads(1).with_kv_format(kv);
        let model = crate::tiny::model_with(ModelType::Qwen3, Format::Q8, options);
        let ids = Random::new(21).ids(150);
        for (start, end) in [
            (0, 1),
            (5, 70),
            (32, 64),
            (30, 33),
            (64, 100),
            (99, 100),
            (0, 99),
        ] {
            let mut hidden = Session::new(&model, SessionOptions::new()).unwrap();
            hidden.feed(&ids[..100]).unwrap();
            let mut forgotten = hidden.fork().unwrap();
            let witness = hidden.fork().unwrap();
            hidden.set_visible(start..end, false);
            forgotten.forget(start..end).unwrap();
            assert_eq!(forgotten.kv_len(1), 100 - (end - start));
            assert_eq!(forgotten.position(), 100);
            for &id in &ids[100..130] {
                let (a, b) = (hidden.step(id).unwrap(), forgotten.step(id).unwrap());
                for (a, b) in a.iter().zip(b) {
                    assert!(
                        (a - b).abs() < 2e-4 * a.abs().max(1.0),
                        "{kv:?} {start}: {a} {b}"
                    );
                }
            }
            // What shared its blocks has not changed.
            let mut fresh = Session::new(&model, SessionOptions::new()).unwrap();
            fresh.feed(&ids[..100]).unwrap();
            let mut witness = witness;
            assert_eq!(witness.step(7).unwrap(), fresh.step(7).unwrap());
        }
    }
}

#[test]
fn forgetting_gives_blocks_back_and_truncates_on() {
    let model = model(ModelType::Llama, Format::F32);
    let before = model.pool_usage().blocks_in_use;
    let mut session = Session::new(&model, SessionOptions::new()).unwrap();
    let held = model.pool_usage().blocks_in_use;
    let ids = Random::new(22).ids(CONTEXT);
    session.feed(&ids[..120]).unwrap();
    let full = session.kv_bytes();
    session.forget(10..100).unwrap();
    assert_eq!(session.kv_bytes(), full / 4);
    assert_eq!(model.pool_usage().blocks_in_use, held);
    // Positions stay absolute, and what follows is the same as before the later ones came.
    session.truncate(105).unwrap();
    assert_eq!((session.position(), session.kv_len(0)), (105, 15));
    let after = session.step(3).unwrap().to_vec();
    let mut again = Session::new(&model, SessionOptions::new()).unwrap();
    again.feed(&ids[..105]).unwrap();
    again.forget(10..100).unwrap();
    again.forget(10..100).unwrap();
    assert_eq!(again.step(3).unwrap(), after);
    // A fork in between shares what is left.
    let fork = again.fork().unwrap();
    again.forget(0..102).unwrap();
    assert_eq!((again.kv_len(0), fork.kv_len(0)), (4, 16));
    drop((session, again, fork));
    assert_eq!(model.pool_usage().blocks_in_use, before);
}

#[test]
fn memory_is_bounded_by_the_longest_chunk() {
    let config = skimstone::ModelConfig {
        max_position_embeddings: 4096,
        ..config(ModelType::Qwen3)
    };
    let mut spec = reasoning();
    spec.chunk = None;
    spec.chunk_ends = (0..80).step_by(10).collect();
    let bundle = bundle(&config, &weights(&config, 1), Format::F32, spec, None);
    let model = Model::from_bundle(bundle, ModelOptions::default().with_threads(1)).unwrap();
    let prompt = Random::new(23).ids(20);
    let ask = |keep: Option<usize>| {
        let mut ask = Ask::new()
            .with_route("cot")
            .with_sampler(SamplerOptions {
                seed: 4,
                ..forever()
            })
            .with_budget(skimstone::reason::Budget::unlimited().with_tokens(1500));
        ask.drop_chunks = keep;
        ask
    };
    let layer_block = model.pool_usage().block_bytes;
    for keep in [0, 1, 3] {
        // Room for 400 entries, for 1,500 tokens of thinking.
        let options = EngineOptions::default().with_kv_entries(400 + 160 * keep);
        let mut engine = Engine::new(&model, options).unwrap();
        engine.ask(&prompt, &ask(Some(keep))).unwrap();
        let mut longest = 0;
        let mut finished = 0;
        let mut answer = None;
        while let Some(event) = engine.next_event().unwrap() {
            match event {
                skimstone::reason::Event::ChunkFinished { tokens, .. } => {
                    longest = longest.max(tokens);
                    finished += 1;
                }
                skimstone::reason::Event::Finished(done) => answer = Some(*done),
                _ => {}
            }
        }
        let answer = answer.unwrap();
        let usage = answer.usage;
        check(&answer, &model);
        assert!(usage.thinking_tokens > 1000, "{usage:?}");
        assert!(usage.dropped_tokens > 900 - 160 * keep, "{usage:?}");
        let entries = usage.prompt_tokens + keep * finished + longest + 2 + usage.answer_tokens;
        let bound = entries.div_ceil(BLOCK_POSITIONS) as u64 * 3 * layer_block;
        assert!(
            usage.peak_kv_bytes <= bound,
            "{} over {bound} with {keep} of {finished} chunks of {longest}",
            usage.peak_kv_bytes
        );
        assert!(usage.kv_bytes <= usage.peak_kv_bytes);
        let all = 3 * layer_block * (usage.generated_tokens / BLOCK_POSITIONS) as u64;
        assert!(usage.peak_kv_bytes < all / 2);
    }
    // Without dropping the entries run out, and the thinking is cut in time for the answer.
    let mut engine = Engine::new(&model, EngineOptions::default().with_kv_entries(400)).unwrap();
    let answer = engine.answer(&prompt, &ask(None)).unwrap();
    check(&answer, &model);
    assert!(answer.usage.thinking_tokens < 400 && answer.usage.answer_tokens >= 6);
    let session = SessionOptions::new().with_kv_entries(5000);
    assert_eq!(
        Session::new(&model, session).unwrap_err().kind(),
        ErrorKind::Argument
    );
    let mut session = Session::new(&model, SessionOptions::new().with_kv_entries(40)).unwrap();
    session.feed(&prompt).unwrap();
    let error = session.feed(&Random::new(1).ids(21)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContextFull);
    assert!(
        error
            .to_string()
            .contains("41 KV cache entries are needed, 40"),
        "{error}"
    );
    assert_eq!(mark::CLOSE.len(), 2);
}

#[test]
fn without_the_option_nothing_is_dropped_and_keeping_all_changes_nothing() {
    let model = model(ModelType::Qwen2, Format::Q8);
    let mut engine = crate::engine(&model);
    let prompt = Random::new(24).ids(30);
    let ask = Ask::new()
        .with_route("cot")
        .with_sampler(crate::ramble(2))
        .with_max_answer_tokens(8);
    let plain = engine.answer(&prompt, &ask).unwrap();
    assert_eq!(plain.usage.dropped_tokens, 0);
    let kept = engine.answer(&prompt, &ask.with_drop_chunks(1000)).unwrap();
    assert_eq!(
        (kept.thinking_ids, kept.ids),
        (plain.thinking_ids, plain.ids)
    );
    assert_eq!(kept.usage.dropped_tokens, 0);
}
