//! Laws of generation and of the reasoning engine, on random models.

#[path = "../tiny/mod.rs"]
mod tiny;

mod answer_by;
mod budgets;
mod dropping;
mod generation;
mod ladder;
mod lifecycle;
mod pauses;
mod probes;
mod routes;

use skimstone::reason::{Answer, Choice, Engine, EngineOptions, Event};
use skimstone::{FinishReason, Model, SamplerOptions};
use tiny::mark;

pub(crate) fn engine(model: &Model) -> Engine {
    Engine::new(model, EngineOptions::default()).unwrap()
}

/// Sampling that makes random models ramble, so that thinking does not end at once.
pub(crate) fn ramble(seed: u64) -> SamplerOptions {
    SamplerOptions {
        temperature: 1.5,
        seed,
        ..SamplerOptions::default()
    }
}

/// Sampling under which the student neither closes nor stops.
pub(crate) fn forever() -> SamplerOptions {
    let never = [mark::STOP, mark::CLOSE[0]].map(|id| (id, f32::NEG_INFINITY));
    SamplerOptions {
        logit_bias: never.to_vec(),
        ..ramble(1)
    }
}

/// What holds for every answer.
pub(crate) fn check(answer: &Answer, model: &Model) {
    let usage = answer.usage;
    assert_eq!(
        usage.generated_tokens,
        usage.thinking_tokens + usage.answer_tokens + usage.probe_tokens
    );
    assert!((0.0..=1.0).contains(&answer.confidence));
    let stopped = usize::from(
        answer.finish_reason == FinishReason::Stop && model.tokenizer().unwrap().is_none(),
    );
    assert_eq!(answer.ids.len() + stopped, usage.answer_tokens);
    assert_eq!(
        answer.decisions[0].choice,
        Choice::Route(answer.route.clone())
    );
    let layers = model.config().num_hidden_layers;
    assert_eq!(
        usage.prompt_layer_passes,
        (usage.prompt_tokens - usage.reused_tokens) * layers
    );
    // All but the last token and the tokens that ended a phase were fed, and every latent step.
    let most = usage.generated_tokens + usage.latent_steps;
    assert!(
        usage.layer_passes <= most * layers && usage.layer_passes + 2 * layers >= most * layers,
        "{usage:?}"
    );
}

/// Runs to the end and returns all events.
pub(crate) fn events(engine: &mut Engine) -> Vec<Event> {
    std::iter::from_fn(|| engine.next_event().unwrap()).collect()
}
