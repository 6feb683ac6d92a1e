//! Plain generation, and models that lack something.

use skimstone::kernels::Format;
use skimstone::reason::{Ask, Budget};
use skimstone::{
    ErrorKind, FinishReason, Generate, GenerateOptions, Model, ModelOptions, ModelType, RouteSpec,
    SamplerOptions, Session, SessionOptions, TokenId,
};

use crate::tiny::{bundle, bytes, chain_model, config, mark, model, reasoning, weights};
use crate::{engine, ramble};

#[test]
fn generation_stops_where_it_should() {
    struct Case(
        &'static [&'static str],
        Option<usize>,
        &'static str,
        FinishReason,
    );
    let cases = [
        Case(&[], None, "abcde", FinishReason::Stop),
        Case(&["cd"], None, "ab", FinishReason::Stop),
        Case(&["cx", "de"], None, "abc", FinishReason::Stop),
        Case(&["ef"], None, "abcde", FinishReason::Stop),
        Case(&["cde"], Some(4), "abcd", FinishReason::Length),
        Case(&[], Some(0), "", FinishReason::Length),
        Case(&[], Some(5), "abcde", FinishReason::Length),
    ];
    let script = [bytes("!abcde"), vec![mark::STOP]].concat();
    let model = chain_model(&[&script], reasoning());
    for Case(stops, max_tokens, text, reason) in cases {
        let mut session = Session::new(&model, SessionOptions::new()).unwrap();
        let stop_strings = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let options = GenerateOptions {
            max_tokens,
            stop_strings,
            ..GenerateOptions::default()
        };
        let mut generate = Generate::new(&mut session, &bytes("Yo!"), options).unwrap();
        assert_eq!(
            generate.collect_all().unwrap().text,
            text,
            "{stops:?} {max_tokens:?}"
        );
        assert_eq!(
            generate.finish_reason(),
            Some(reason),
            "{stops:?} {max_tokens:?}"
        );
        assert!(generate.next_piece().unwrap().is_none());
        assert_eq!(generate.stats().prompt_tokens, 3);
    }
}

#[test]
fn pieces_are_whole_characters() {
    let pieces = |script: &[TokenId]| -> Vec<(String, usize)> {
        let model = chain_model(&[script], reasoning());
        let mut session = Session::new(&model, SessionOptions::new()).unwrap();
        let generate =
            Generate::new(&mut session, &script[..1], GenerateOptions::default()).unwrap();
        generate
            .map(|piece| piece.unwrap())
            .map(|piece| (piece.text, piece.ids.len()))
            .collect()
    };
    let piece = |text: &str, ids: usize| (text.to_owned(), ids);
    // `é` is two tokens, the moon four.
    let whole = pieces(&[1, 80, 81, 82, 83, 84, 85, 33, mark::STOP]);
    assert_eq!(whole, [piece("é", 2), piece("🌙", 4), piece("A", 1)]);
    // A character that is never finished.
    assert_eq!(
        pieces(&[2, 40, 82, 83, mark::STOP]),
        [piece("H", 1), piece("\u{fffd}", 2)]
    );
}

#[test]
fn models_without_a_tokenizer_work_on_ids() {
    let model = model(ModelType::Qwen2, Format::Q8);
    let mut session = Session::new(&model, SessionOptions::new()).unwrap();
    let sampler = SamplerOptions {
        logprobs: Some(2),
        ..ramble(4)
    };
    let options = GenerateOptions {
        max_tokens: Some(9),
        sampler,
        stop_ids: Some(vec![]),
        ..GenerateOptions::default()
    };
    let mut generate = Generate::new(&mut session, &[1, 2], options.clone()).unwrap();
    let first: Vec<_> = generate.by_ref().map(Result::unwrap).collect();
    assert!(
        first
            .iter()
            .all(|piece| piece.text.is_empty() && piece.ids.len() == 1 && piece.logprobs[0] < 0.0)
    );
    assert_eq!(
        (first.len(), generate.sampler().top_logprobs().len()),
        (9, 2)
    );
    session.truncate(0).unwrap();
    let again: Vec<_> = Generate::new(&mut session, &[1, 2], options)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(first, again);
    session.truncate(0).unwrap();
    assert!(Generate::new(&mut session, &[], GenerateOptions::default()).is_err());

    let mut engine = engine(&model);
    assert_eq!(
        engine.ask_text("Yo", &Ask::new()).unwrap_err().kind(),
        ErrorKind::Tokenizer
    );
    let stops = Ask::new().with_stop_strings(vec!["x".to_owned()]);
    assert_eq!(
        engine.ask(&[1], &stops).unwrap_err().kind(),
        ErrorKind::Tokenizer
    );
    let empty = Ask::new().with_custom_route("r", RouteSpec::default());
    assert_eq!(
        engine.ask(&[], &empty).unwrap_err().kind(),
        ErrorKind::Argument
    );
    let ask = Ask::new()
        .with_route("cot")
        .with_budget(Budget::unlimited().with_tokens(30))
        .with_sampler(ramble(2));
    let answer = engine.answer(&[1, 2], &ask).unwrap();
    assert!(answer.text.is_empty() && !answer.ids.is_empty());
}

#[test]
fn damaged_weights_end_in_an_error() {
    let config = config(ModelType::Qwen3);
    let mut weights = weights(&config, 1);
    // Finite in the file, infinite in the sums.
    weights.get_mut("model.norm.weight").unwrap().fill(f32::MAX);
    let bundle = bundle(&config, &weights, Format::F32, reasoning(), None);
    let model = Model::from_bundle(bundle, ModelOptions::default().with_threads(1)).unwrap();
    let error = engine(&model).answer(&[1, 2, 3], &Ask::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NonFinite);
}
