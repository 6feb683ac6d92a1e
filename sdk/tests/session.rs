//! Laws of a session, on random models of all three families.

mod tiny;

use std::time::Duration;

use skimstone::kernels::Format;
use skimstone::{
    BLOCK_POSITIONS, Batch, ErrorKind, LatentMap, Model, ModelConfig, ModelOptions, ModelType,
    Session, SessionOptions, StepInput, memory,
};
use tiny::{
    CONTEXT, Random, VOCAB, bundle, config, model, model_with, naive_logits, reasoning, weights,
};

const FORMATS: [Format; 4] = [Format::F32, Format::F16, Format::Q8, Format::Q4];

fn session(model: &Model) -> Session {
    Session::new(model, SessionOptions::new()).unwrap()
}

fn each_model(mut test: impl FnMut(&Model)) {
    for family in ModelType::ALL {
        for format in FORMATS {
            test(&model(family, format));
        }
    }
}

/// Random models have logits of a few units; f32 sums over three layers of at most 80 terms stay well below this.
const NAIVE_TOLERANCE: f64 = 1e-4;

#[test]
fn logits_are_those_of_the_naive_forward_pass() {
    for family in ModelType::ALL {
        let config = config(family);
        let weights = weights(&config, 5);
        let bundle = bundle(&config, &weights, Format::F32, reasoning(), None);
        let model = Model::from_bundle(bundle, ModelOptions::default().with_threads(2)).unwrap();
        let ids = Random::new(3).ids(100);
        let want = naive_logits(&config, &weights, &ids);
        let mut worst = 0.0f64;
        let compare = |i: usize, got: &[f32]| {
            assert_eq!(got.len(), VOCAB);
            for (got, want) in got.iter().zip(&want[i]) {
                worst = worst.max((f64::from(*got) - want).abs());
            }
        };
        session(&model).prefill_each(&ids, compare).unwrap();
        assert!(worst < NAIVE_TOLERANCE, "{family}: {worst}");
        let spread = want[99].iter().copied().fold(f64::MIN, f64::max)
            - want[99].iter().copied().fold(f64::MAX, f64::min);
        assert!(
            spread > 1.0,
            "{family}: logits that hardly differ prove nothing, their spread is {spread}"
        );
    }
}

#[test]
fn prefill_is_as_many_steps() {
    each_model(|model| {
        let ids = Random::new(7).ids(70);
        let (mut whole, mut steps, mut parts) = (session(model), session(model), session(model));
        whole.prefill(&ids).unwrap();
        for &id in &ids {
            steps.step(id).unwrap();
        }
        parts.prefill(&ids[..5]).unwrap();
        parts.prefill(&ids[5..69]).unwrap();
        parts.step(ids[69]).unwrap();
        assert_eq!(whole.logits(), steps.logits());
        assert_eq!(whole.logits(), parts.logits());
        assert_eq!(whole.hidden(), steps.hidden());
        assert_eq!(
            (
                whole.position(),
                whole.usage().tokens,
                whole.usage().layer_passes
            ),
            (70, 70, 210)
        );
        assert_eq!(
            (whole.usage().head_passes, steps.usage().head_passes),
            (1, 70)
        );
    });
}

/// Long enough that threads share the positions of one token: two key and value heads are too few for three threads.
#[test]
fn shared_positions_give_the_same_bits() {
    let config = ModelConfig {
        max_position_embeddings: 2300,
        ..config(ModelType::Qwen2)
    };
    let ids = Random::new(17).ids(2200);
    let run = |threads: usize, whole: usize| {
        let weights = weights(&config, 1);
        let bundle = bundle(&config, &weights, Format::F32, reasoning(), None);
        let options = ModelOptions::default().with_threads(threads);
        let model = Model::from_bundle(bundle, options.with_context(2300)).unwrap();
        let counted = memory::estimate(model.bundle(), 2300, 1, None).parts;
        let before = model.memory_used();
        let mut session = session(&model);
        let own = ["keys and values", "scratch"];
        let parts = counted.iter().filter(|part| own.contains(&part.0));
        let bytes: u64 = parts.map(|part| part.1).sum();
        assert_eq!(model.memory_used() - before, bytes);
        session.prefill(&ids[..whole]).unwrap();
        for &id in &ids[whole..] {
            session.step(id).unwrap();
        }
        session.logits().unwrap().to_vec()
    };
    let want = run(1, ids.len());
    for threads in [1, 2, 3, 5] {
        assert_eq!(run(threads, ids.len() - 40), want, "{threads} threads");
    }
}

#[test]
fn fork_and_truncate_are_as_fresh() {
    each_model(|model| {
        let mut random = Random::new(11);
        let ids = random.ids(100);
        let mut parent = session(model);
        parent.prefill(&ids[..90]).unwrap();
        let mut fork = parent.fork().unwrap();
        assert_eq!(fork.logits(), parent.logits());
        // Both go on differently; then both return into a block that they share.
        fork.prefill(&random.ids(20)).unwrap();
        parent.prefill(&random.ids(9)).unwrap();
        for (len, session) in [(40, &mut parent), (33, &mut fork)] {
            session.truncate(len).unwrap();
            assert_eq!(
                (session.position(), session.logits(), session.hidden()),
                (len, None, None)
            );
            session.prefill(&ids[len..]).unwrap();
        }
        let mut fresh = session(model);
        fresh.prefill(&ids).unwrap();
        assert_eq!(fresh.logits(), parent.logits());
        assert_eq!(fresh.logits(), fork.logits());
    });
}

#[test]
fn snapshots_come_back() {
    let model = model(ModelType::Qwen3, Format::F32);
    let mut random = Random::new(13);
    let ids = random.ids(60);
    let mut a = session(&model);
    a.prefill(&ids).unwrap();
    let snapshot = a.snapshot().unwrap();
    let before = a.logits().unwrap().to_vec();
    a.prefill(&random.ids(50)).unwrap();
    let mut b = session(&model);
    b.prefill(&random.ids(140)).unwrap();
    for session in [&mut a, &mut b] {
        session.restore(&snapshot).unwrap();
        assert_eq!(
            (session.position(), session.logits()),
            (60, Some(before.as_slice()))
        );
    }
    assert_eq!(a.step(3).unwrap(), b.step(3).unwrap());
    let mut small = Session::new(&model, SessionOptions::new().with_context(50)).unwrap();
    let error = small.restore(&snapshot).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("60 positions are needed, the context is 50"),
        "{error}"
    );
    let other = tiny::model(ModelType::Qwen3, Format::F32);
    assert_eq!(
        session(&other).restore(&snapshot).unwrap_err().kind(),
        ErrorKind::Argument
    );
}

#[test]
fn blocks_return_after_a_tree_of_forks() {
    let model = model(ModelType::Llama, Format::Q8);
    let weights = model.memory_used();
    let mut root = session(&model);
    root.prefill(&Random::new(1).ids(70)).unwrap();
    let (before, bytes) = (model.pool_usage(), model.memory_used());
    {
        let mut sessions = vec![root.fork().unwrap()];
        let mut snapshots = Vec::new();
        let mut random = Random::new(2);
        for i in 0..12 {
            let parent = &mut sessions[i / 2];
            let room = parent.room().min(1 + (random.next() % 40) as usize);
            if room > 0 {
                parent.prefill(&random.ids(room)).unwrap();
            }
            snapshots.push(parent.snapshot().unwrap());
            let mut child = parent.fork().unwrap();
            child.truncate((random.next() % 70) as usize).unwrap();
            if i % 3 == 0 {
                child.restore(&snapshots[i / 2]).unwrap();
            }
            sessions.push(child);
        }
        assert!(model.pool_usage().blocks_in_use > before.blocks_in_use);
    }
    assert_eq!(model.pool_usage().blocks_in_use, before.blocks_in_use);
    model.trim_memory();
    assert_eq!((model.pool_usage(), model.memory_used()), (before, bytes));
    drop(root);
    model.trim_memory();
    assert_eq!(
        (model.pool_usage().blocks_in_use, model.memory_used()),
        (0, weights)
    );
}

#[test]
fn one_hot_soft_input_and_embedding_are_the_token() {
    each_model(|model| {
        let ids = Random::new(17).ids(20);
        let mut tokens = session(model);
        tokens.prefill(&ids).unwrap();
        let want = tokens.step(42).unwrap().to_vec();

        let mut soft = session(model);
        soft.prefill(&ids).unwrap();
        let input = StepInput::Soft {
            ids: &[7, 42, 9],
            probs: &[0.0, 1.0, 0.0],
        };
        soft.step_input(input, true).unwrap();
        assert_eq!(soft.logits(), Some(want.as_slice()));

        let mut embedding = vec![0.0; model.config().hidden_size];
        model
            .bundle()
            .weights()
            .embed_tokens()
            .row_into(42, &mut embedding)
            .unwrap();
        for input in [
            StepInput::Embed(&embedding),
            StepInput::Resume {
                layer: 0,
                hidden: &embedding,
            },
        ] {
            let mut by_hand = session(model);
            by_hand.prefill(&ids).unwrap();
            by_hand.step_input(input, true).unwrap();
            assert_eq!(by_hand.logits(), Some(want.as_slice()));
            assert_eq!(
                (by_hand.usage().tokens, by_hand.usage().latent_steps),
                (20, 1)
            );
        }
    });
}

#[test]
fn latent_steps_are_the_hidden_state_fed_by_hand() {
    each_model(|model| {
        for normed in [true, false] {
            let ids = Random::new(19).ids(30);
            let (mut latent, mut by_hand) = (session(model), session(model));
            latent.feed(&ids).unwrap();
            by_hand.feed(&ids).unwrap();
            for _ in 0..5 {
                latent.step_hidden(&LatentMap::Identity { normed }).unwrap();
                let state = if normed {
                    by_hand.hidden_normed()
                } else {
                    by_hand.hidden()
                };
                let state = state.unwrap().to_vec();
                by_hand.step_input(StepInput::Embed(&state), false).unwrap();
            }
            assert_eq!((latent.logits(), latent.usage().head_passes), (None, 0));
            assert_eq!(latent.usage().latent_steps, 5);
            assert_eq!(latent.step(1).unwrap(), by_hand.step(1).unwrap());
        }
    });
}

#[test]
fn resuming_at_a_layer_skips_the_ones_below() {
    let model = model(ModelType::Qwen2, Format::F32);
    let ids = Random::new(23).ids(40);
    let mut session = session(&model);
    session.set_taps(&[0, 1]).unwrap();
    session.prefill(&ids).unwrap();
    let (tap, hidden) = (
        session.tap(1).unwrap().to_vec(),
        session.hidden().unwrap().to_vec(),
    );
    assert_eq!(session.tap(2), None);
    // The state after layer 1, run through layer 2 again at the same position, gives the last hidden state.
    let mut again = session.fork().unwrap();
    again.truncate(39).unwrap();
    again
        .step_input(
            StepInput::Resume {
                layer: 2,
                hidden: &tap,
            },
            true,
        )
        .unwrap();
    assert_eq!(again.hidden(), Some(hidden.as_slice()));
    assert_eq!(
        [again.kv_len(0), again.kv_len(1), again.kv_len(2)],
        [39, 39, 40]
    );
    assert_eq!(again.usage().layer_passes, 1);
    // Layers of different lengths go on, fork and truncate.
    again.step(5).unwrap();
    let mut fork = again.fork().unwrap();
    assert_eq!(fork.step(6).unwrap(), again.step(6).unwrap());
    again.truncate(40).unwrap();
    assert_eq!(
        [again.kv_len(0), again.kv_len(1), again.kv_len(2)],
        [39, 39, 40]
    );
}

#[test]
fn hidden_positions_are_not_seen() {
    let model = model(ModelType::Qwen3, Format::F32);
    let mut random = Random::new(29);
    let (first, second) = (random.ids(45), random.ids(30));
    let mut whole = session(&model);
    whole.prefill(&first).unwrap();
    let mut dropped = whole.fork().unwrap();
    dropped.set_visible(0..45, false);
    dropped.prefill(&second).unwrap();
    // Rotary positions are relative: without what came before, the rest is as if it came first.
    let mut alone = session(&model);
    alone.prefill(&second).unwrap();
    let gap = dropped
        .logits()
        .unwrap()
        .iter()
        .zip(alone.logits().unwrap())
        .map(|(a, b)| (a - b).abs());
    assert!(gap.fold(0.0, f32::max) < 1e-4);
    // Hiding is the fork's own business, and can be taken back.
    whole.prefill(&second).unwrap();
    assert_ne!(whole.logits(), dropped.logits());
    let mut restored = session(&model);
    restored.prefill(&first).unwrap();
    restored.set_visible(10..40, false);
    restored.set_visible(10..40, true);
    restored.prefill(&second).unwrap();
    assert_eq!(restored.logits(), whole.logits());
}

#[test]
fn a_batch_is_separate_steps() {
    each_model(|model| {
        let mut random = Random::new(31);
        let mut together: Vec<Session> = (0..4).map(|_| session(model)).collect();
        for (i, session) in together.iter_mut().enumerate() {
            session.prefill(&random.ids(10 + 25 * i)).unwrap();
        }
        let mut apart: Vec<Session> = together
            .iter()
            .map(|session| session.fork().unwrap())
            .collect();
        let mut batch = Batch::new(model, 4).unwrap();
        for _ in 0..8 {
            let ids = random.ids(4);
            let mut sessions: Vec<&mut Session> = together.iter_mut().collect();
            batch.step(&mut sessions, &ids).unwrap();
            for (session, id) in apart.iter_mut().zip(&ids) {
                session.step(*id).unwrap();
            }
        }
        for (a, b) in together.iter().zip(&apart) {
            assert_eq!(
                (a.logits(), a.hidden(), a.position()),
                (b.logits(), b.hidden(), b.position())
            );
        }
        // All or none: one bad token leaves every session where it was.
        let mut sessions: Vec<&mut Session> = together.iter_mut().collect();
        let error = batch.step(&mut sessions, &[1, 2, 3, 9999]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Token);
        let ids = random.ids(4);
        batch.step(&mut sessions, &ids).unwrap();
        for (a, (b, id)) in together.iter().zip(apart.iter_mut().zip(ids)) {
            assert_eq!(a.logits(), Some(b.step(id).unwrap()));
        }
    });
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let model = model(ModelType::Llama, Format::F32);
    let mut random = Random::new(37);
    let mut session = session(&model);
    let error = session.prefill(&random.ids(CONTEXT + 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContextFull);
    assert!(
        error
            .to_string()
            .contains("161 positions are needed, the context is 160"),
        "{error}"
    );
    let error = session.prefill(&[1, 2, VOCAB as u32]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "token 2 of the input: token 96 is outside the vocabulary of 96"
    );
    assert_eq!(
        session.prefill(&[]).unwrap_err().kind(),
        ErrorKind::Argument
    );
    assert_eq!(
        session
            .step_hidden(&LatentMap::default())
            .unwrap_err()
            .kind(),
        ErrorKind::Argument
    );
    assert_eq!(
        session
            .step_input(StepInput::Embed(&[0.0; 3]), true)
            .unwrap_err()
            .kind(),
        ErrorKind::Argument
    );
    assert_eq!(session.truncate(1).unwrap_err().kind(), ErrorKind::Argument);
    assert_eq!(
        session.set_taps(&[3]).unwrap_err().kind(),
        ErrorKind::Argument
    );
    assert_eq!(session.position(), 0);

    session.prefill(&random.ids(CONTEXT)).unwrap();
    assert_eq!(session.room(), 0);
    assert_eq!(session.step(1).unwrap_err().kind(), ErrorKind::ContextFull);
    for context in [0, CONTEXT + 1] {
        assert!(Session::new(&model, SessionOptions::new().with_context(context)).is_err());
    }
}

#[test]
fn a_cancelled_prefill_leaves_whole_chunks() {
    // Large enough that the prompt takes a while, so that the flag is raised in the middle of it.
    let mut config = config(ModelType::Qwen2);
    (
        config.hidden_size,
        config.intermediate_size,
        config.num_hidden_layers,
    ) = (192, 512, 6);
    config.max_position_embeddings = 2048;
    let bundle = bundle(
        &config,
        &weights(&config, 1),
        Format::F32,
        reasoning(),
        None,
    );
    let model = Model::from_bundle(bundle, ModelOptions::default().with_threads(1)).unwrap();
    let ids = Random::new(41).ids(2048);
    let mut cancelled = session(&model);
    let handle = cancelled.cancel_handle();
    let worker = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        handle.cancel();
    });
    let error = cancelled.prefill(&ids).unwrap_err();
    worker.join().unwrap();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let position = cancelled.position();
    assert!(position < 2048 && position.is_multiple_of(64), "{position}");
    assert!((0..6).all(|layer| cancelled.kv_len(layer) == position));
    // The session is whole: it goes on from there.
    assert_eq!(
        cancelled.prefill(&ids[position..]).unwrap_err().kind(),
        ErrorKind::Cancelled
    );
    cancelled.cancel_handle().reset();
    cancelled.prefill(&ids[position..position + 10]).unwrap();
    let mut fresh = session(&model);
    fresh.prefill(&ids[..position + 10]).unwrap();
    assert_eq!(cancelled.logits(), fresh.logits());
}

#[test]
fn the_byte_cap_holds() {
    let config = config(ModelType::Llama);
    let open = |cap: u64| {
        let bundle = bundle(&config, &weights(&config, 1), Format::Q8, reasoning(), None);
        Model::from_bundle(
            bundle,
            ModelOptions::default().with_threads(1).with_max_bytes(cap),
        )
    };
    let reference = model(ModelType::Llama, Format::Q8);
    let estimate = memory::estimate(reference.bundle(), CONTEXT, 1, None);
    assert_eq!(estimate.total, estimate.anonymous + estimate.file_backed);
    let samplers = estimate
        .parts
        .iter()
        .find(|part| part.0 == "samplers")
        .unwrap()
        .1;
    let one = estimate.anonymous - samplers;

    let error = open(estimate.anonymous - 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Memory);
    let (needed, cap) = (
        estimate.anonymous.to_string(),
        (estimate.anonymous - 1).to_string(),
    );
    assert!(
        error.to_string().contains(&needed) && error.to_string().contains(&cap),
        "{error}"
    );

    let model = open(2 * one).unwrap();
    let first = session(&model);
    assert_eq!(model.memory_used(), one);
    let second = first.fork().unwrap();
    let error = Session::new(&model, SessionOptions::new().with_context(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Memory);
    drop(second);
    Session::new(&model, SessionOptions::new()).unwrap();
}

#[test]
fn a_fork_costs_what_it_does_not_share() {
    let model = model_with(
        ModelType::Llama,
        Format::Q8,
        ModelOptions::default().with_threads(1),
    );
    let mut parent = session(&model);
    parent
        .prefill(&Random::new(43).ids(3 * BLOCK_POSITIONS + 1))
        .unwrap();
    let before = model.pool_usage().blocks_in_use;
    let fork = parent.fork().unwrap();
    let layers = model.config().num_hidden_layers;
    let whole = layers * CONTEXT.div_ceil(BLOCK_POSITIONS);
    assert_eq!(
        model.pool_usage().blocks_in_use - before,
        whole - 3 * layers
    );
    assert_eq!(
        fork.kv_bytes(),
        (4 * layers) as u64 * model.pool_usage().block_bytes
    );
}

#[test]
fn sessions_of_one_model_run_on_several_threads() {
    let model = model(ModelType::Qwen3, Format::Q8);
    let ids = Random::new(47).ids(80);
    let mut alone = session(&model);
    alone.prefill(&ids).unwrap();
    let want = alone.logits().unwrap().to_vec();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut session = session(&model);
                session.prefill(&ids).unwrap();
                assert_eq!(session.logits(), Some(want.as_slice()));
            });
        }
    });
}
