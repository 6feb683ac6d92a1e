//! No allocation per step: counted by the allocator, on the thread that steps. With one thread that is all of the work.
#![allow(
    unsafe_code,
    reason = "a counting allocator implements an unsafe trait"
)]

mod tiny;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use skimstone::kernels::Format;
use skimstone::reason::{Ask, Engine, EngineOptions, Event};
use skimstone::{
    Batch, DraftSpec, ExitMeasure, ExitSpec, LatentMap, ModelOptions, ModelType, Sampler,
    SamplerOptions, Session, SessionOptions, ShortcutSize, ShortcutSpec, StepInput,
};
use tiny::{Random, model_with};

struct Counting;

thread_local! {
    // Const and without a destructor: reading it allocates nothing.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: hands every call on to the system's allocator, unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `alloc` above, so from the system.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: `pointer` came from `alloc` above, so from the system.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn nothing_allocates_after_creation() {
    for family in ModelType::ALL {
        for format in [Format::F32, Format::Q8, Format::Q4] {
            for threads in [1, 2] {
                let count = allocations_of_steps(family, format, threads);
                assert_eq!(
                    count,
                    0,
                    "{family} {} with {threads} threads",
                    format.name()
                );
            }
        }
    }
}

fn allocations_of_steps(family: ModelType, format: Format, threads: usize) -> usize {
    let model = model_with(
        family,
        format,
        ModelOptions::default().with_threads(threads),
    );
    let mut session = Session::new(&model, SessionOptions::new()).unwrap();
    session.set_taps(&[1]).unwrap();
    session.set_drafts(Some(DraftSpec::new(1, 5))).unwrap();
    let mut exits = ExitSpec::new([1, 2], 0.1);
    let mut fork = Session::new(&model, SessionOptions::new()).unwrap();
    let mut batch = Batch::new(&model, 2).unwrap();
    let options = SamplerOptions {
        temperature: 0.8,
        top_k: 20,
        top_p: 0.9,
        min_p: 0.01,
        repetition_penalty: 1.1,
        logprobs: Some(3),
        ..SamplerOptions::default()
    };
    let mut sampler = Sampler::new(model.config().vocab_size, options).unwrap();
    let prompt = Random::new(1).ids(70);
    let embedding = vec![0.5; model.config().hidden_size];
    let mut steps = || {
        session.truncate(0).unwrap();
        fork.truncate(0).unwrap();
        allocations(|| {
            session.prefill(&prompt).unwrap();
            fork.prefill(&prompt[..33]).unwrap();
            for position in 0..30 {
                let id = sampler.sample(session.logits().unwrap()).unwrap().id;
                session.step_hidden(&LatentMap::default()).unwrap();
                match position % 4 {
                    0 => session.step(id).unwrap(),
                    1 | 2 => {
                        // Its own guess, so that rows ahead are taken; then another token, so that they are dropped.
                        session.step_drafted(id, 5).unwrap();
                        let best = sampler.sample(session.logits().unwrap()).unwrap().id;
                        session.step_drafted(best, 5).unwrap()
                    }
                    _ => {
                        exits.measure = match position % 8 {
                            3 => ExitMeasure::Softmax,
                            _ => ExitMeasure::Saturation,
                        };
                        session.step_exit(id, &exits, position).unwrap();
                        session.logits().unwrap()
                    }
                };
            }
            session
                .step_input(StepInput::Embed(&embedding), false)
                .unwrap();
            session
                .step_input(
                    StepInput::Soft {
                        ids: &[1, 2],
                        probs: &[0.4, 0.6],
                    },
                    true,
                )
                .unwrap();
            for _ in 0..5 {
                batch.step(&mut [&mut session, &mut fork], &[3, 4]).unwrap();
            }
        })
    };
    steps()
}

/// A chain of latent steps, by hand and by the engine: no allocation, no head, and without logits nothing to sample from.
#[test]
fn a_latent_chain_allocates_nothing_and_runs_no_head() {
    for family in ModelType::ALL {
        let options = ModelOptions::default().with_threads(1);
        let model = model_with(family, Format::Q8, options);
        let mut session = Session::new(&model, SessionOptions::new()).unwrap();
        session.feed(&Random::new(2).ids(20)).unwrap();
        let map = LatentMap::default();
        let count = allocations(|| {
            for _ in 0..32 {
                session.step_hidden(&map).unwrap();
                assert!(session.logits().is_none());
            }
        });
        assert_eq!(count, 0, "{family}");
        assert_eq!(
            (session.usage().latent_steps, session.usage().head_passes),
            (32, 0)
        );

        let mut engine = Engine::new(&model, EngineOptions::default()).unwrap();
        let ask = Ask::new().with_route("latent").with_latent_steps(32);
        // Its queue of events has grown by the second question.
        for _ in 0..2 {
            engine.ask(&[1, 2, 3], &ask).unwrap();
            let heads = engine.session().usage().head_passes;
            while !matches!(engine.next_event().unwrap(), Some(Event::LatentStep { .. })) {}
            let count = allocations(|| {
                for index in 1..32 {
                    let event = engine.next_event().unwrap();
                    assert_eq!(event, Some(Event::LatentStep { index }));
                    assert!(engine.session().logits().is_none());
                }
            });
            assert_eq!((count, engine.session().usage().head_passes), (0, heads));
            engine.wait().unwrap();
        }
    }
}

/// Latent steps that leave layers out, halting and resuming.
#[test]
fn a_chain_with_shortcuts_allocates_nothing() {
    let size = ShortcutSize {
        router: 4,
        adapter: 8,
    };
    let shortcut = ShortcutSpec::new(size, 0.5);
    let config = tiny::config(ModelType::Qwen3);
    let mut spec = tiny::reasoning();
    spec.shortcut = Some(shortcut);
    let mut values = tiny::weights(&config, 1);
    values.extend(tiny::weights_of(&spec.side_modules().tensors(&config), 2));
    let bundle = tiny::bundle(&config, &values, Format::Q4, spec, None);
    let options = ModelOptions::default().with_threads(1);
    let model = skimstone::Model::from_bundle(bundle, options).unwrap();
    let mut session = Session::new(&model, SessionOptions::new()).unwrap();
    session.feed(&Random::new(2).ids(20)).unwrap();
    let (map, mut halted) = (LatentMap::default(), 0);
    let count = allocations(|| {
        for step in 0..32 {
            let leaves_out =
                |layer: usize, gate: f32| (layer + step).is_multiple_of(3) || gate > 0.5;
            let routed = session.step_routed(&map, &shortcut, step == 31, leaves_out);
            halted += usize::from(routed.unwrap().halted.is_some());
        }
    });
    assert_eq!(count, 0);
    assert!((1..32).contains(&halted), "{halted}");
    assert_eq!(session.usage().head_passes, 0);
}
