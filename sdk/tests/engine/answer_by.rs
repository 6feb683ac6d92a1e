//! The best answer by a time, under a clock that the test turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use skimstone::reason::{
    Answer, Ask, Choice, Clock, Engine, EngineOptions, Event, Limit, NextStep, Observation,
    ReasoningPolicy,
};
use skimstone::{FinishReason, Model, ModelType, ReasoningSpec, SamplerOptions};

use crate::tiny::{Random, bundle, config, mark, reasoning, weights};
use crate::{events, forever};

/// A clock on which every look takes a tenth of a millisecond.
fn ticking() -> (Clock, Arc<AtomicU64>) {
    let (start, ticks) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let shared = ticks.clone();
    let now = move || start + Duration::from_micros(100 * shared.fetch_add(1, Ordering::Relaxed));
    (Clock::new(now), ticks)
}

fn spec() -> ReasoningSpec {
    let mut spec = reasoning();
    spec.chunk = None;
    spec.chunk_ends = (0..80).step_by(6).collect();
    spec
}

fn model() -> Model {
    let config = config(ModelType::Qwen3);
    let bundle = bundle(
        &config,
        &weights(&config, 1),
        skimstone::kernels::Format::F32,
        spec(),
        None,
    );
    Model::from_bundle(bundle, skimstone::ModelOptions::default().with_threads(1)).unwrap()
}

fn never_closes(seed: u64) -> Ask {
    Ask::new()
        .with_route("cot")
        .with_sampler(SamplerOptions { seed, ..forever() })
}

/// The most looks at the clock between two looks at the deadline: one step, with its books.
const LOOKS_PER_STEP: u64 = 8;

#[test]
fn an_answer_comes_in_time_and_is_the_latest_that_was_ready() {
    let model = model();
    let prompt = Random::new(31).ids(20);
    let mut best = 0;
    for ms in (0..40).step_by(3) {
        for seed in 0..4 {
            let (clock, ticks) = ticking();
            let mut engine =
                Engine::new(&model, EngineOptions::default().with_clock(clock)).unwrap();
            let ask = never_closes(seed).with_answer_by(Duration::from_millis(ms));
            let began = ticks.load(Ordering::Relaxed);
            engine.ask(&prompt, &ask).unwrap();
            let events = events(&mut engine);
            let took = ticks.load(Ordering::Relaxed) - began;
            let Some(Event::Finished(answer)) = events.last() else {
                panic!("{events:?}")
            };
            assert!(!answer.ids.is_empty());
            books(answer, &events);
            // The first answer is decoded whatever it costs.
            let minimum = 40;
            assert!(
                took <= (10 * ms).max(minimum) + LOOKS_PER_STEP + 20,
                "{took} ticks for {ms} ms: {:?}",
                answer.decisions
            );
            let chose_best = answer
                .decisions
                .iter()
                .any(|d| matches!(d.choice, Choice::BestSoFar { .. }));
            if chose_best {
                best += 1;
                // The latest probe that came to its end.
                let probe = events.iter().rev().find_map(|event| match event {
                    Event::Probed(probe) if !probe.ids.is_empty() => Some(probe.clone()),
                    _ => None,
                });
                let probe = probe.unwrap();
                assert!(
                    probe.ids == answer.ids || probe.logprobs.len() < 6,
                    "{probe:?}"
                );
                assert!(
                    !probe.complete
                        || answer.finish_reason == FinishReason::Stop
                        || probe.ids != answer.ids
                );
            }
        }
    }
    assert!(best > 20, "{best}");
}

fn books(answer: &Answer, events: &[Event]) {
    let usage = answer.usage;
    assert_eq!(
        usage.generated_tokens,
        usage.thinking_tokens + usage.answer_tokens + usage.probe_tokens
    );
    // What was shown is what was answered.
    let shown: Vec<u32> = events
        .iter()
        .filter_map(|event| match event {
            Event::AnswerText(piece) => Some(piece.ids.clone()),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(shown, answer.ids);
    assert!(usage.probe_layer_passes <= usage.layer_passes);
}

#[test]
fn enough_time_gives_the_answer_of_the_route_itself() {
    let model = model();
    let prompt = Random::new(32).ids(20);
    for seed in 0..6 {
        let ask = Ask::new()
            .with_route("cot")
            .with_sampler(crate::ramble(seed))
            .with_max_answer_tokens(5);
        let mut engine = crate::engine(&model);
        let want = engine.answer(&prompt, &ask).unwrap();
        let ask = ask.with_answer_by(Duration::from_secs(3600));
        engine.ask(&prompt, &ask).unwrap();
        let events = events(&mut engine);
        let Some(Event::Finished(got)) = events.last() else {
            panic!("{events:?}")
        };
        assert_eq!(
            (&got.ids, &got.thinking_ids),
            (&want.ids, &want.thinking_ids)
        );
        assert!(got.usage.probes >= 1);
        books(got, &events);
    }
}

/// Cancels after some steps.
struct CancelAfter(skimstone::CancelHandle, usize);

impl ReasoningPolicy for CancelAfter {
    fn next_step(&mut self, _: &Observation) -> NextStep {
        if self.1 == 0 {
            self.0.cancel();
        }
        self.1 = self.1.saturating_sub(1);
        NextStep::Token
    }
}

#[test]
fn a_cancel_returns_the_answer_that_lies_ready() {
    let model = model();
    let mut engine = crate::engine(&model);
    let prompt = Random::new(33).ids(20);
    for steps in [2, 5, 30] {
        let ask = never_closes(1).with_answer_by(Duration::from_secs(3600));
        let policy = CancelAfter(engine.cancel_handle(), steps);
        engine
            .ask_with_policy(&prompt, &ask, Box::new(policy))
            .unwrap();
        let events = events(&mut engine);
        let Some(Event::Finished(answer)) = events.last() else {
            panic!("{events:?}")
        };
        assert_eq!(answer.finish_reason, FinishReason::Cancelled);
        assert!(!answer.ids.is_empty());
        books(answer, &events);
    }
}

#[test]
fn a_deadline_without_probes_is_the_budget_in_milliseconds() {
    let model = model();
    let prompt = Random::new(34).ids(20);
    let (clock, _) = ticking();
    let mut engine = Engine::new(&model, EngineOptions::default().with_clock(clock)).unwrap();
    let budget = skimstone::reason::Budget::unlimited().with_milliseconds(8);
    let answer = engine
        .answer(&prompt, &never_closes(2).with_budget(budget))
        .unwrap();
    let cut = Choice::ThinkingCut(Limit::Milliseconds);
    assert!(answer.decisions.iter().any(|d| d.choice == cut));
    assert_eq!(answer.usage.probes, 0);
    assert_eq!(
        mark::CLOSE.len() + answer.thinking_ids.len(),
        answer.usage.thinking_tokens
    );
}
