//! An engine that is left at a deadline, and one that is forked.

use std::time::Instant;

use skimstone::ModelType;
use skimstone::kernels::Format;
use skimstone::reason::{Ask, Engine, EngineOptions, Event, Progress};

use crate::tiny::{Random, model};
use crate::{engine, ramble};

#[test]
fn a_deadline_pauses_the_work_and_changes_nothing() {
    let model = model(ModelType::Qwen3, Format::Q8);
    let prompt = Random::new(3).ids(100);
    let ask = Ask::new().with_route("cot").with_sampler(ramble(2));
    let want = engine(&model).answer(&prompt, &ask).unwrap();
    let mut engine = engine(&model);
    engine.ask(&prompt, &ask).unwrap();
    let (mut pauses, mut got) = (0, None);
    loop {
        match engine.next_event_until(Instant::now()).unwrap() {
            Progress::Event(Event::Finished(answer)) => got = Some(answer),
            Progress::Event(_) => {}
            Progress::Unfinished => pauses += 1,
            Progress::Nothing => break,
        }
    }
    // Two chunks of the prompt at least.
    assert!(pauses >= 2, "{pauses}");
    let got = got.unwrap();
    assert_eq!((got.ids, got.thinking_ids), (want.ids, want.thinking_ids));
    assert_eq!(got.usage.layer_passes, want.usage.layer_passes);
    assert_eq!(
        got.usage.prompt_layer_passes,
        want.usage.prompt_layer_passes
    );
}

#[test]
fn a_fork_goes_on_from_what_was_read() {
    let model = model(ModelType::Llama, Format::Q8);
    let options = EngineOptions::default().with_reuse_prefix(true);
    let mut engine = Engine::new(&model, options).unwrap();
    let prompt = Random::new(4).ids(40);
    let ask = Ask::new().with_route("direct").with_sampler(ramble(5));
    let first = engine.answer(&prompt, &ask).unwrap();
    engine.ask(&prompt, &ask).unwrap();
    // The question stays with the engine that was asked.
    let mut fork = engine.fork().unwrap();
    assert_eq!(fork.next_event().unwrap(), None);
    let second = fork.answer(&prompt, &ask).unwrap();
    assert_eq!(second.ids, first.ids);
    assert_eq!(second.usage.reused_tokens, 40);
    assert_eq!(engine.wait().unwrap().ids, first.ids);
}
