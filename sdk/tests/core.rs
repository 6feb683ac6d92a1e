//! The library without the feature `text`: `cargo test -p skimstone --no-default-features --test core`.
#![cfg(not(feature = "text"))]

use std::path::PathBuf;

use skimstone::memory::tokenizer_bytes;
use skimstone::reason::{Answer, Ask, Engine, EngineOptions, Event};
use skimstone::{ErrorKind, Model, ModelOptions, TokenId};

/// Has a tokenizer, which is left alone here.
fn student() -> Model {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/students/sleep.skim");
    Model::open(path, ModelOptions::default()).unwrap()
}

fn answer(model: &Model, prompt: &[TokenId]) -> Answer {
    let mut engine = Engine::new(model, EngineOptions::default()).unwrap();
    let ask = Ask::new().with_route("skip");
    engine.ask(prompt, &ask).unwrap();
    loop {
        match engine.next_event().unwrap() {
            Some(Event::Finished(answer)) => return *answer,
            Some(_) => {}
            None => panic!("no answer"),
        }
    }
}

#[test]
fn tokens_go_in_and_come_out() {
    let model = student();
    let prompt: Vec<TokenId> = (20..40).collect();
    let first = answer(&model, &prompt);
    assert!(!first.thinking_ids.is_empty() || !first.ids.is_empty());
    assert_eq!((first.text.as_str(), first.thinking.as_str()), ("", ""));
    let second = answer(&model, &prompt);
    assert_eq!(
        (first.ids, first.thinking_ids),
        (second.ids, second.thinking_ids)
    );
}

#[test]
fn texts_are_refused_with_a_way_out() {
    let model = student();
    assert!(model.tokenizer().unwrap().is_none());
    assert_eq!(tokenizer_bytes(model.bundle()), 0);
    let mut engine = Engine::new(&model, EngineOptions::default()).unwrap();
    let error = engine
        .ask_text("x", &Ask::new().with_route("skip"))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tokenizer);
    assert!(error.message().contains("built without"), "{error}");
    assert!(error.hint().unwrap().contains("token ids"), "{error}");
}
