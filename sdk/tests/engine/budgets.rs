//! Budgets are kept, and a limit always ends in an answer.

use std::time::{Duration, Instant};

use skimstone::kernels::Format;
use skimstone::reason::{Answer, Ask, Budget, Choice, Event, Limit};
use skimstone::{ErrorKind, FinishReason, Model, ModelOptions, ModelType};

use crate::tiny::{CONTEXT, Random, bundle, chain_model, config, mark, model, reasoning, weights};
use crate::{check, engine, forever, ramble};

#[test]
fn a_token_budget_is_never_exceeded_and_always_ends_in_an_answer() {
    let model = model(ModelType::Qwen3, Format::Q8);
    let mut engine = engine(&model);
    let prompt = Random::new(1).ids(12);
    for route in ["direct", "cot", "skip", "latent"] {
        let minimum = if route == "direct" { 1 } else { 3 };
        for tokens in 0..40 {
            for seed in 0..6 {
                let budget = Budget::unlimited().with_tokens(tokens);
                let ask = Ask::new()
                    .with_route(route)
                    .with_budget(budget)
                    .with_sampler(ramble(seed));
                let result = engine.answer(&prompt, &ask);
                if tokens < minimum {
                    let error = result.unwrap_err().to_string();
                    let want = format!(
                        "a budget of {tokens} generated tokens, route `{route}` needs at least {minimum}"
                    );
                    assert_eq!(error, want);
                    continue;
                }
                let answer = result.unwrap();
                check(&answer, &model);
                let usage = answer.usage;
                assert!(
                    usage.generated_tokens <= tokens,
                    "{route} {tokens}: {usage:?}"
                );
                assert!(usage.answer_tokens >= 1);
                // Unless the student wrote less, thinking left the answer its share.
                let share = 6.min(tokens - (minimum - 1));
                assert!(
                    usage.answer_tokens >= share || answer.finish_reason == FinishReason::Stop,
                    "{answer:?}"
                );
            }
        }
    }
}

#[test]
fn a_budget_of_layer_passes_is_never_exceeded() {
    let model = model(ModelType::Llama, Format::Q8);
    let mut engine = engine(&model);
    let prompt = Random::new(2).ids(9);
    for route in ["direct", "cot", "latent"] {
        let minimum = if route == "direct" { 0 } else { 6 };
        for layer_passes in 0..70 {
            let ask = Ask::new()
                .with_route(route)
                .with_budget(Budget::unlimited().with_layer_passes(layer_passes))
                .with_sampler(ramble(layer_passes as u64));
            match engine.answer(&prompt, &ask) {
                Ok(answer) => {
                    check(&answer, &model);
                    assert!(
                        answer.usage.layer_passes <= layer_passes,
                        "{route} {layer_passes}: {:?}",
                        answer.usage
                    );
                    assert!(answer.usage.answer_tokens >= 1);
                }
                Err(error) => {
                    assert!(layer_passes < minimum, "{error}");
                    assert!(
                        error
                            .to_string()
                            .contains(&format!("needs at least {minimum}")),
                        "{error}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_context_that_ends_leaves_room_for_the_answer() {
    let model = model(ModelType::Qwen2, Format::F32);
    let mut engine = engine(&model);
    // The student never closes and never stops.
    for prompt in [10, 100, CONTEXT - 4, CONTEXT - 3] {
        let ask = Ask::new().with_route("cot").with_sampler(forever());
        let answer = engine.answer(&Random::new(3).ids(prompt), &ask).unwrap();
        check(&answer, &model);
        assert_eq!(answer.finish_reason, FinishReason::Length);
        assert!(
            answer.usage.answer_tokens >= 6.min(CONTEXT - prompt - 2),
            "{:?}",
            answer.usage
        );
    }
    let ask = Ask::new().with_route("cot");
    let error = engine
        .answer(&Random::new(3).ids(CONTEXT - 2), &ask)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContextFull);
    assert!(
        error
            .to_string()
            .contains("need 161 positions, the context is 160"),
        "{error}"
    );
    let error = engine
        .answer(&Random::new(3).ids(CONTEXT), &ask)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the prompt has 161 tokens, the context is 160"),
        "{error}"
    );
}

#[test]
fn a_deadline_cuts_thinking_and_still_answers() {
    let mut config = config(ModelType::Qwen3);
    (
        config.hidden_size,
        config.intermediate_size,
        config.num_hidden_layers,
    ) = (128, 384, 6);
    config.max_position_embeddings = 4096;
    let bundle = bundle(
        &config,
        &weights(&config, 1),
        Format::F32,
        reasoning(),
        None,
    );
    let model = Model::from_bundle(bundle, ModelOptions::default().with_threads(1)).unwrap();
    let mut engine = engine(&model);
    let ask = Ask::new()
        .with_route("cot")
        .with_budget(Budget::unlimited().with_milliseconds(150))
        .with_sampler(forever())
        .with_max_answer_tokens(6);
    let start = Instant::now();
    let answer = engine.answer(&Random::new(3).ids(20), &ask).unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    assert!(answer.usage.answer_tokens >= 1 && answer.usage.thinking_tokens > 2);
    let cut = |answer: &Answer| {
        answer
            .decisions
            .iter()
            .any(|d| d.choice == Choice::ThinkingCut(Limit::Milliseconds))
    };
    assert!(cut(&answer), "{:?}", answer.decisions);
    // No time at all: no thinking, but an answer.
    let ask = ask.with_budget(Budget::unlimited().with_milliseconds(0));
    let answer = engine.answer(&Random::new(3).ids(20), &ask).unwrap();
    assert!(cut(&answer));
    assert_eq!(
        (answer.usage.thinking_tokens, answer.usage.answer_tokens),
        (2, 1)
    );
    assert_eq!(answer.finish_reason, FinishReason::Budget);
}

#[test]
fn cancel_keeps_what_there_is() {
    let script = [mark::COT, 65, 66, 67, 68, 65];
    let model = chain_model(&[&script], reasoning());
    let mut engine = engine(&model);
    let ask = Ask::new().with_route("cot");
    engine.ask_text("Yo", &ask).unwrap();
    while let Some(event) = engine.next_event().unwrap() {
        match event {
            Event::ThinkingText(piece) if piece.text == "c" => engine.cancel_handle().cancel(),
            Event::Finished(answer) => {
                assert_eq!(
                    (answer.finish_reason, answer.thinking.as_str()),
                    (FinishReason::Cancelled, "abc")
                );
            }
            _ => {}
        }
    }
    // Before the prompt is read, from another thread; and the engine can be asked again.
    engine.ask_text("Yo", &ask).unwrap();
    let handle = engine.cancel_handle();
    std::thread::spawn(move || handle.cancel()).join().unwrap();
    let answer = engine.wait().unwrap();
    assert_eq!(
        (answer.finish_reason, answer.usage.prompt_layer_passes),
        (FinishReason::Cancelled, 0)
    );
    let budget = Budget::unlimited().with_tokens(12);
    assert_eq!(
        engine
            .answer_text("Yo", &ask.with_budget(budget))
            .unwrap()
            .thinking,
        "abcd"
    );
}
