//! Guesses of the first layers, verified by the others: never seen but in the costs.

use skimstone::kernels::Format;
use skimstone::{
    Batch, Depth, DraftSpec, ErrorKind, FinishReason, Generate, GenerateOptions, LatentMap, Model,
    ModelOptions, ModelType, SamplerOptions, Session, SessionOptions, TokenId,
};

use crate::tiny::{CONTEXT, Random, bytes, chain_model, mark, model, model_with, reasoning};
use crate::{best, each_model, session};

fn drafting(model: &Model, spec: DraftSpec) -> Session {
    let mut session = session(model);
    session.set_drafts(Some(spec)).unwrap();
    session
}

#[test]
fn every_step_is_a_plain_step() {
    each_model(|model| {
        let prompt = Random::new(3).ids(29);
        for (layers, tokens) in [(1, 4), (2, 1), (2, 7)] {
            let mut plain = session(model);
            let mut drafted = drafting(model, DraftSpec::new(layers, tokens));
            plain.prefill(&prompt).unwrap();
            drafted.prefill(&prompt).unwrap();
            let mut random = Random::new(5);
            for step in 0..60 {
                // Mostly what the model would say, sometimes something else.
                let id = match step % 7 {
                    6 => random.ids(1)[0],
                    _ => best(plain.logits().unwrap()),
                };
                plain.step(id).unwrap();
                assert_eq!(
                    drafted.step_drafted(id, 9).unwrap(),
                    plain.logits().unwrap()
                );
                assert_eq!(drafted.hidden(), plain.hidden());
                assert_eq!(drafted.hidden_normed(), plain.hidden_normed());
                assert_eq!(
                    (drafted.position(), drafted.room()),
                    (plain.position(), plain.room())
                );
                assert!((0..3).all(|l| drafted.kv_len(l) == plain.kv_len(l)));
            }
            let usage = drafted.usage();
            assert_eq!(usage.tokens, plain.usage().tokens);
            assert!(usage.drafted > 0 && usage.accepted <= usage.drafted);
        }
    });
}

#[test]
fn right_guesses_cost_no_passes_of_their_own() {
    // Layers that add nothing: every guess is right.
    let script: Vec<TokenId> = (0..40).chain([mark::STOP]).collect();
    let model = chain_model(&[&script], reasoning());
    let mut session = drafting(&model, DraftSpec::new(1, 4));
    session.prefill(&[0]).unwrap();
    for id in 1..=30 {
        let logits = session.step_drafted(id, 4).unwrap();
        assert_eq!(best(logits), id + 1);
    }
    let usage = session.usage();
    // Six rounds of five tokens: each layer once per token, the head once for the prompt, and per round 4 guesses and 5 verifications.
    assert_eq!((usage.drafted, usage.accepted), (24, 24));
    assert_eq!((usage.layer_passes, usage.head_passes), (31 * 3, 1 + 6 * 9));
    // Nothing is guessed behind the end of a text.
    let guesses = usage.drafted;
    session.step_drafted(39, 4).unwrap();
    assert_eq!(session.usage().drafted, guesses + 1);
    // A guess that is not sure enough is not made; the chain's next token has a logit of one norm above the others.
    session
        .set_drafts(Some(DraftSpec {
            confidence: 1.0,
            ..DraftSpec::new(1, 4)
        }))
        .unwrap();
    session.step_drafted(3, 4).unwrap();
    assert_eq!(session.usage().drafted, guesses + 1);
}

/// Anything may happen between two tokens while rows are ahead.
#[test]
fn what_is_ahead_is_never_seen() {
    let model = model(ModelType::Qwen3, Format::Q8);
    let ids = Random::new(7).ids(33);
    type Act = fn(&mut Session);
    let acts: [(&str, Act); 9] = [
        ("step", |s| {
            s.step(3).unwrap();
        }),
        ("prefill", |s| {
            s.prefill(&[3, 4, 5]).unwrap();
        }),
        ("latent step", |s| {
            s.step_hidden(&LatentMap::default()).unwrap();
            s.head().unwrap();
        }),
        ("truncate", |s| {
            s.truncate(32).unwrap();
            s.step(1).unwrap();
        }),
        ("forget", |s| {
            s.forget(5..25).unwrap();
            s.step(1).unwrap();
        }),
        ("hide", |s| {
            s.set_visible(5..25, false);
            s.step(1).unwrap();
        }),
        ("fork", |s| {
            let mut fork = s.fork().unwrap();
            fork.step(2).unwrap();
            s.restore(&fork.snapshot().unwrap()).unwrap();
        }),
        ("save", |s| {
            let mut bytes = Vec::new();
            s.save(&[], &mut bytes).unwrap();
            s.restore_saved(&bytes).unwrap();
            s.step(2).unwrap();
        }),
        ("batch", |s| {
            let mut other = s.fork().unwrap();
            let mut batch = Batch::new(s.model(), 2).unwrap();
            batch.step(&mut [s, &mut other], &[8, 9]).unwrap();
        }),
    ];
    for (name, act) in acts {
        let mut plain = session(&model);
        let mut drafted = drafting(&model, DraftSpec::new(2, 6));
        for (session, drafts) in [(&mut plain, false), (&mut drafted, true)] {
            session.prefill(&ids).unwrap();
            let id = best(session.logits().unwrap());
            match drafts {
                true => session.step_drafted(id, 6).unwrap(),
                false => session.step(id).unwrap(),
            };
            act(session);
        }
        assert!(drafted.usage().drafted > 0);
        assert_eq!(drafted.logits(), plain.logits(), "{name}");
        assert!(
            (0..3).all(|l| drafted.kv_len(l) == plain.kv_len(l)),
            "{name}"
        );
        let id = best(plain.logits().unwrap());
        assert_eq!(
            drafted.step_drafted(id, 6).unwrap(),
            plain.step(id).unwrap(),
            "{name}"
        );
    }
}

/// Every way in which a text can end.
#[test]
fn texts_are_those_of_plain_generation() {
    let greedy = SamplerOptions {
        logprobs: Some(2),
        ..SamplerOptions::default()
    };
    let samplers = [
        greedy.clone(),
        SamplerOptions {
            repetition_penalty: 1.3,
            ..greedy.clone()
        },
        SamplerOptions {
            logit_bias: vec![(mark::STOP, f32::NEG_INFINITY), (7, 2.0)],
            ..greedy.clone()
        },
        SamplerOptions {
            temperature: 0.9,
            top_k: 12,
            top_p: 0.95,
            seed: 5,
            ..greedy
        },
    ];
    let (mut finished, mut accepted) = (Vec::new(), 0);
    each_model(|model| {
        for (seed, sampler) in samplers.iter().enumerate() {
            let prompt = Random::new(seed as u64 + 1).ids(40);
            // Until the context is full, and to a length; ending at some tokens, and at none.
            for (max_tokens, stop_ids) in [
                (None, vec![]),
                (Some(9), vec![]),
                (Some(60), (0..8).collect()),
            ] {
                let run = |depth: Depth| {
                    let options = GenerateOptions {
                        max_tokens,
                        sampler: sampler.clone(),
                        stop_ids: Some(stop_ids.clone()),
                        depth,
                        ..GenerateOptions::default()
                    };
                    let mut session = session(model);
                    let mut generate = Generate::new(&mut session, &prompt, options).unwrap();
                    let piece = generate.collect_all().unwrap();
                    let reason = generate.finish_reason().unwrap();
                    let outputs = session.logits().map(<[f32]>::to_vec);
                    (
                        (piece, reason, session.position(), outputs),
                        session.usage(),
                    )
                };
                let (want, _) = run(Depth::Full);
                let (got, usage) = run(Depth::Drafts(DraftSpec::new(2, 5)));
                assert_eq!(got, want);
                finished.push(want.1);
                accepted += usage.accepted;
            }
        }
    });
    for reason in [FinishReason::Stop, FinishReason::Length] {
        assert!(finished.contains(&reason), "{reason:?}");
    }
    assert!(accepted > 100, "{accepted}");
}

#[test]
fn stop_strings_and_cancels_end_a_text_where_they_would() {
    let script = [bytes("!abcdefghij"), vec![mark::STOP]].concat();
    let model = chain_model(&[&script], reasoning());
    for stop in ["", "cd", "ef", "ij", "hx"] {
        let run = |depth: Depth| {
            let mut session = session(&model);
            let options = GenerateOptions {
                stop_strings: vec![stop.to_owned()],
                depth,
                ..GenerateOptions::default()
            };
            let mut generate = Generate::new(&mut session, &bytes("!"), options).unwrap();
            let piece = generate.collect_all().unwrap();
            let reason = generate.finish_reason();
            let logits = session.logits().map(<[f32]>::to_vec);
            (piece, reason, session.position(), logits)
        };
        let drafts = Depth::Drafts(DraftSpec::new(1, 4));
        assert_eq!(run(drafts), run(Depth::Full), "{stop:?}");
    }
    // A cancel is looked at before rows that are there, too.
    let mut session = session(&model);
    let handle = session.cancel_handle();
    let options = GenerateOptions {
        depth: Depth::Drafts(DraftSpec::new(1, 8)),
        ..GenerateOptions::default()
    };
    let mut generate = Generate::new(&mut session, &bytes("!"), options).unwrap();
    for text in ["a", "b"] {
        assert_eq!(generate.next_piece().unwrap().unwrap().text, text);
    }
    handle.cancel();
    assert_eq!(generate.next_piece().unwrap(), None);
    assert_eq!(generate.finish_reason(), Some(FinishReason::Cancelled));
    assert_eq!(session.position(), 2);
}

#[test]
fn room_ends_where_it_does() {
    let model = model(ModelType::Llama, Format::F16);
    let mut drafted = drafting(&model, DraftSpec::new(1, 8));
    let mut plain = session(&model);
    let ids = Random::new(13).ids(CONTEXT - 3);
    plain.prefill(&ids).unwrap();
    drafted.prefill(&ids).unwrap();
    for room in (0..3).rev() {
        let id = best(plain.logits().unwrap());
        assert_eq!(
            drafted.step_drafted(id, 8).unwrap(),
            plain.step(id).unwrap()
        );
        assert_eq!(drafted.room(), room);
    }
    let error = drafted.step_drafted(1, 8).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContextFull);
    assert_eq!(drafted.position(), CONTEXT);
}

#[test]
fn room_for_guesses_is_booked_and_asked_for() {
    let open = |cap: Option<u64>| {
        let mut options = ModelOptions::default().with_threads(1);
        options.max_bytes = cap;
        model_with(ModelType::Qwen2, Format::Q8, options)
    };
    let model = open(None);
    let mut session = session(&model);
    let error = session.step_drafted(1, 4).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Argument);
    let before = model.memory_used();
    session.set_drafts(Some(DraftSpec::new(1, 3))).unwrap();
    let config = model.config();
    let row = 4 * (2 * config.hidden_size + config.vocab_size) + 4;
    assert_eq!(model.memory_used() - before, 4 * row as u64);
    assert_eq!(
        session.step_drafted(96, 3).unwrap_err().kind(),
        ErrorKind::Token
    );
    assert_eq!((session.position(), session.kv_len(0)), (0, 0));
    session.set_drafts(None).unwrap();
    assert_eq!(model.memory_used(), before);
    let refused = [
        (DraftSpec::new(0, 3), "drafts.layers: 0"),
        (DraftSpec::new(3, 3), "drafts.layers: 3 is not from 1 to 2"),
        (DraftSpec::new(1, 64), "drafts.tokens: 64"),
    ];
    for (spec, message) in refused {
        let error = session.set_drafts(Some(spec)).unwrap_err();
        assert!(error.to_string().starts_with(message), "{error}");
    }
    // Room for a session and its sampler, which is less than the guesses take.
    let tight = open(Some(before + 1000));
    let mut session = Session::new(&tight, SessionOptions::new()).unwrap();
    let error = session.set_drafts(Some(DraftSpec::new(1, 3))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Memory);
    session.step(1).unwrap();
}
