//! Laws of saved sessions: what comes back is what was saved, and what is not a saved session is refused by name.

mod tiny;

use skimstone::kernels::{Format, KvFormat};
use skimstone::reason::{Ask, Engine, EngineOptions};
use skimstone::{ErrorKind, Model, ModelOptions, ModelType, Session, SessionOptions, StepInput};
use tiny::{Random, bundle, config, model, reasoning, weights};

fn session(model: &Model) -> Session {
    Session::new(model, SessionOptions::new()).unwrap()
}

/// A model of other weights, or of another format of keys and values.
fn other(seed: u64, kv: Option<KvFormat>) -> Model {
    let config = config(ModelType::Qwen3);
    let bundle = bundle(
        &config,
        &weights(&config, seed),
        Format::Q8,
        reasoning(),
        None,
    );
    let mut options = ModelOptions::default();
    options.kv_format = kv;
    Model::from_bundle(bundle, options).unwrap()
}

/// A session with entries of every kind: hidden ones, positions that skipped a layer, a partial block.
fn saved(model: &Model) -> (Session, Vec<u32>, Vec<u8>) {
    let mut session = session(model);
    let prompt = Random::new(7).ids(70);
    session.prefill(&prompt).unwrap();
    let hidden = session.hidden().unwrap().to_vec();
    let resume = StepInput::Resume {
        layer: 2,
        hidden: &hidden,
    };
    session.step_input(resume, true).unwrap();
    session.set_visible(10..20, false);
    session.step(3).unwrap();
    let mut bytes = Vec::new();
    session.save(&prompt, &mut bytes).unwrap();
    (session, prompt, bytes)
}

#[test]
fn a_saved_session_goes_on_alike_in_every_format() {
    for format in KvFormat::ALL {
        let model = other(1, Some(format));
        let (mut original, prompt, bytes) = saved(&model);
        let mut restored = session(&model);
        assert_eq!(restored.restore_saved(&bytes).unwrap(), prompt);
        assert_eq!(restored.position(), original.position());
        assert_eq!(restored.logits(), original.logits());
        assert_eq!(restored.hidden(), original.hidden());
        for layer in 0..3 {
            assert_eq!(restored.kv_len(layer), original.kv_len(layer));
        }
        for id in Random::new(8).ids(40) {
            assert_eq!(restored.step(id).unwrap(), original.step(id).unwrap());
        }
        // Nothing of it depends on what the blocks held before.
        let mut again = Vec::new();
        let mut fresh = session(&model);
        fresh.restore_saved(&bytes).unwrap();
        fresh.save(&prompt, &mut again).unwrap();
        assert_eq!(again, bytes, "{format:?}");
    }
}

#[test]
fn nothing_of_another_session_is_saved_with_it() {
    let model = other(1, None);
    let mut first = session(&model);
    first.prefill(&Random::new(9).ids(150)).unwrap();
    drop(first);
    // Its blocks are used again now; saved from fresh ones the bytes are the same.
    let (_, _, reused) = saved(&model);
    let (_, _, fresh) = saved(&other(1, None));
    assert!(reused == fresh);
}

#[test]
fn damaged_bytes_are_refused_and_change_nothing() {
    let model = other(1, None);
    let (_, _, bytes) = saved(&model);
    let mut session = session(&model);
    let ids = Random::new(5).ids(12);
    let before = session.prefill(&ids).unwrap().to_vec();
    for cut in (0..bytes.len())
        .step_by(997)
        .chain([7, 8, 11, 12, bytes.len() - 1])
    {
        let error = session.restore_saved(&bytes[..cut]).unwrap_err();
        let kinds = [ErrorKind::Format, ErrorKind::Truncated, ErrorKind::Checksum];
        assert!(kinds.contains(&error.kind()), "{cut}: {error}");
    }
    for at in (0..bytes.len()).step_by(641) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        session.restore_saved(&damaged).unwrap_err();
    }
    assert_eq!(
        (session.position(), session.logits()),
        (12, Some(&before[..]))
    );
}

/// With a right checksum nothing but the checks of each number is left.
#[test]
fn hostile_numbers_are_refused_and_change_nothing() {
    let model = other(1, None);
    let (_, _, bytes) = saved(&model);
    let mut session = session(&model);
    let mut refused = 0;
    let body = bytes.len() - 4;
    // Every number of the head, and a walk through the layers.
    let head = 8 + 4 + 8 + 20 + 8 + 70 * 4 + 8 + 4;
    for at in (0..head).chain((head..body).step_by(509)) {
        for value in [0x00, 0x01, 0x7f, 0xff] {
            let mut hostile = bytes.clone();
            if hostile[at] == value {
                continue;
            }
            hostile[at] = value;
            let crc = crc32fast::hash(&hostile[..body]);
            hostile[body..].copy_from_slice(&crc.to_le_bytes());
            match session.restore_saved(&hostile) {
                Ok(_) => {
                    // A changed value of a key is not seen, and only gives other logits, or an error.
                    let _ = session.step(1);
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 300, "{refused}");
}

#[test]
fn another_model_another_format_and_a_smaller_context_are_refused() {
    let (_, _, bytes) = saved(&other(1, None));
    let refused = |model: &Model, context: usize| {
        let options = SessionOptions::new().with_context(context);
        let mut session = Session::new(model, options).unwrap();
        session.restore_saved(&bytes).unwrap_err()
    };
    let error = refused(&other(2, None), 100);
    assert_eq!(error.kind(), ErrorKind::Argument);
    assert!(
        error.to_string().contains("belongs to the model"),
        "{error}"
    );
    let error = refused(&other(1, Some(KvFormat::Q8)), 100);
    assert_eq!(error.kind(), ErrorKind::Argument);
    assert!(error.to_string().contains("same kv_format"), "{error}");
    assert_eq!(refused(&other(1, None), 64).kind(), ErrorKind::ContextFull);
}

#[test]
fn an_engine_goes_on_from_its_file() {
    let model = model(ModelType::Llama, Format::Q8);
    let options = EngineOptions::default().with_reuse_prefix(true);
    let mut engine = Engine::new(&model, options.clone()).unwrap();
    let prompt = Random::new(6).ids(50);
    let ask = Ask::new().with_route("cot");
    let first = engine.answer(&prompt, &ask).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("night.session");
    std::fs::write(&path, "what was there before").unwrap();
    engine.save(&path).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    drop(engine);
    let mut engine = Engine::new(&model, options).unwrap();
    engine.restore(&path).unwrap();
    let second = engine.answer(&prompt, &ask).unwrap();
    assert_eq!(
        (second.ids, second.thinking_ids),
        (first.ids, first.thinking_ids)
    );
    assert_eq!(second.usage.reused_tokens, 50);
    let missing = engine.restore(folder.path().join("none")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Io);
}
