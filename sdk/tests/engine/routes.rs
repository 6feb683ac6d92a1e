//! Routes, policies, and what is told of them.

use skimstone::kernels::Format;
use skimstone::reason::{
    Ask, Budget, Choice, Engine, EngineOptions, Event, Limit, NextStep, Observation,
    ReasoningPolicy,
};
use skimstone::{
    ErrorKind, FinishReason, Generate, GenerateOptions, LatentMap, ModelType, ReasoningSpec,
    RouteKind, RouteSpec, Session, SessionOptions, TokenId,
};

use crate::tiny::{Random, bytes, chain_model, mark, model, reasoning};
use crate::{check, engine, events, forever, ramble};

#[test]
fn no_latent_steps_is_direct() {
    for family in ModelType::ALL {
        let model = model(family, Format::F32);
        let mut engine = engine(&model);
        let prompt = Random::new(5).ids(30);
        let route = |kind| RouteSpec {
            kind,
            open: vec![mark::DIRECT],
            latent_steps: 4,
            ..RouteSpec::default()
        };
        let direct = Ask::new()
            .with_custom_route("d", route(RouteKind::Direct))
            .with_max_answer_tokens(20);
        let latent = Ask::new()
            .with_custom_route("l", route(RouteKind::Latent))
            .with_max_answer_tokens(20);
        let want = engine.answer(&prompt, &direct).unwrap();
        let none = engine
            .answer(&prompt, &latent.clone().with_latent_steps(0))
            .unwrap();
        let some = engine.answer(&prompt, &latent).unwrap();
        assert_eq!(
            (none.ids, none.confidence),
            (want.ids.clone(), want.confidence)
        );
        assert_eq!((some.usage.latent_steps, none.usage.latent_steps), (4, 0));
        assert_ne!(
            some.ids, want.ids,
            "latent steps change nothing in {family}"
        );
    }
}

#[test]
fn the_latent_route_is_its_steps_by_hand() {
    let model = model(ModelType::Qwen2, Format::Q8);
    let prompt = Random::new(6).ids(25);
    let answer = engine(&model)
        .answer(
            &prompt,
            &Ask::new().with_route("latent").with_max_answer_tokens(5),
        )
        .unwrap();
    let usage = answer.usage;
    assert_eq!((usage.latent_steps, usage.thinking_tokens), (3, 2));
    // The prompt and the latent steps run no head: one pass of it per answer token.
    assert_eq!(usage.head_passes, usage.answer_tokens);

    let mut session = Session::new(&model, SessionOptions::new()).unwrap();
    session.feed(&prompt).unwrap();
    session.feed(&[mark::COT]).unwrap();
    for _ in 0..3 {
        session.step_hidden(&LatentMap::default()).unwrap();
    }
    let options = GenerateOptions {
        max_tokens: Some(5),
        ..GenerateOptions::default()
    };
    let piece = Generate::new(&mut session, &mark::CLOSE, options)
        .unwrap()
        .collect_all()
        .unwrap();
    assert_eq!(piece.ids, answer.ids);
}

#[test]
fn same_seed_same_answer_and_a_reused_prefix_changes_costs_only() {
    let model = model(ModelType::Qwen3, Format::Q8);
    let mut reusing =
        Engine::new(&model, EngineOptions::default().with_reuse_prefix(true)).unwrap();
    let night = Random::new(7).ids(50);
    for seed in 0..5 {
        for route in ["cot", "direct", "latent"] {
            let question = [night.as_slice(), &Random::new(seed).ids(8)].concat();
            let budget = Budget::unlimited().with_tokens(30);
            let ask = Ask::new()
                .with_route(route)
                .with_sampler(ramble(seed))
                .with_budget(budget);
            let want = engine(&model).answer(&question, &ask).unwrap();
            let got = reusing.answer(&question, &ask).unwrap();
            assert_eq!(
                (&got.ids, &got.thinking_ids),
                (&want.ids, &want.thinking_ids)
            );
            assert_eq!(got.usage.prompt_tokens, want.usage.prompt_tokens);
            let first = seed == 0 && route == "cot";
            assert_eq!(got.usage.reused_tokens == 0, first);
            assert!(first || got.usage.reused_tokens >= 50);
            check(&got, &model);
        }
    }
}

#[test]
fn an_unknown_route_lists_the_known_ones() {
    let model = model(ModelType::Llama, Format::F32);
    let error = engine(&model)
        .ask(&[1], &Ask::new().with_route("fast"))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownRoute);
    assert_eq!(
        error.to_string(),
        "unknown route `fast`; this model knows: cot, direct, latent, skip"
    );
}

#[test]
fn events_tell_the_chunks_and_agree_with_the_answer() {
    // `a`, `b`, `é` in halves, a separator, `c`, the close; then `HI`.
    let script = [
        mark::COT,
        65,
        66,
        80,
        81,
        mark::CHUNK,
        67,
        93,
        94,
        40,
        41,
        mark::STOP,
    ];
    let mut engine = engine(&chain_model(&[&script], reasoning()));
    engine
        .ask_text("Yo", &Ask::new().with_route("cot"))
        .unwrap();
    let events = events(&mut engine);
    let Some(Event::Finished(answer)) = events.last() else {
        panic!("{events:?}")
    };
    assert_eq!(
        (answer.thinking.as_str(), answer.text.as_str()),
        ("abé\nc", "HI")
    );
    assert_eq!(answer.finish_reason, FinishReason::Stop);
    assert_eq!(
        (answer.usage.thinking_tokens, answer.usage.answer_tokens),
        (8, 3)
    );
    assert_eq!(
        (answer.thinking_ids.as_slice(), answer.ids.as_slice()),
        (&[65, 66, 80, 81, 67][..], &[40, 41][..])
    );
    let told: Vec<String> = events
        .iter()
        .map(|event| match event {
            Event::Started {
                route,
                prompt_tokens,
            } => format!("{route} {prompt_tokens}"),
            Event::ChunkStarted { index } => format!("<{index}"),
            Event::ChunkFinished { index, tokens, .. } => format!("{index}:{tokens}>"),
            Event::ThinkingText(piece) | Event::AnswerText(piece) => piece.text.clone(),
            Event::Decision(decision) => format!("{:?}", decision.choice),
            _ => String::new(),
        })
        .collect();
    let want = [
        "cot 3",
        "<0",
        "a",
        "b",
        "é",
        "0:4>",
        "<1",
        "c",
        "StudentClosed",
        "1:1>",
        "H",
        "I",
        "",
    ];
    assert_eq!(told, want);
}

/// The reasoning of the tests with a close of two plain letters, `45`.
fn lettered() -> ReasoningSpec {
    let mut spec = reasoning();
    for route in spec
        .routes
        .values_mut()
        .filter(|route| !route.close.is_empty())
    {
        route.close = bytes("45");
    }
    spec
}

#[test]
fn a_close_is_hidden_completed_or_let_go() {
    struct Case(&'static str, usize, &'static str, usize, Choice);
    let cut = Choice::ThinkingCut(Limit::Tokens);
    let cases = [
        // The close comes whole.
        Case("ab45", 100, "ab", 4, Choice::StudentClosed),
        // Its first half was sampled when the budget ended; only the second is forced.
        Case("ab45", 11, "ab", 4, cut.clone()),
        // A first half that another letter follows is thinking.
        Case("a4b5c", 100, "a4b5c", 8, Choice::StudentEnded),
        // Nothing fits but close and answer.
        Case("ab45", 3, "", 2, cut),
    ];
    for Case(thinking, tokens, shown, thinking_tokens, choice) in cases {
        let closed = thinking.ends_with("45");
        let end: &[TokenId] = if closed { &[] } else { &[mark::STOP] };
        let script = [&[mark::COT], bytes(thinking).as_slice(), end].concat();
        let after = [bytes("5HI").as_slice(), &[mark::STOP]].concat();
        let chains: &[&[TokenId]] = if closed {
            &[&script, &after]
        } else {
            &[&script]
        };
        let mut engine = engine(&chain_model(chains, lettered()));
        let ask = Ask::new()
            .with_route("cot")
            .with_budget(Budget::unlimited().with_tokens(tokens));
        let answer = engine.answer_text("Yo", &ask).unwrap();
        assert_eq!(
            (answer.thinking.as_str(), answer.usage.thinking_tokens),
            (shown, thinking_tokens),
            "{thinking} {tokens}"
        );
        assert!(
            answer.decisions.iter().any(|d| d.choice == choice),
            "{:?}",
            answer.decisions
        );
        if closed {
            assert!(
                "HI".starts_with(&answer.text) && !answer.text.is_empty(),
                "{}",
                answer.text
            );
        }
    }
}

#[test]
fn special_tokens_are_not_shown() {
    let script = [
        mark::DIRECT,
        40,
        mark::CHUNK,
        41,
        mark::CLOSE[0],
        mark::STOP,
    ];
    let answer = engine(&chain_model(&[&script], reasoning()))
        .answer_text("Yo", &Ask::new())
        .unwrap();
    assert_eq!(
        (answer.text.as_str(), answer.usage.answer_tokens),
        ("HI", 5)
    );
}

/// Thinks a token, then a latent step, in turn.
struct Alternating(usize);

impl ReasoningPolicy for Alternating {
    fn next_step(&mut self, seen: &Observation) -> NextStep {
        self.0 += 1;
        assert_eq!(seen.token.is_some(), self.0.is_multiple_of(2));
        match self.0 {
            7 => NextStep::Answer,
            turn if turn % 2 == 1 => NextStep::Token,
            _ => NextStep::Latent,
        }
    }
}

#[test]
fn a_policy_of_ones_own_mixes_steps() {
    let model = model(ModelType::Llama, Format::F32);
    let mut engine = engine(&model);
    let ask = Ask::new()
        .with_route("cot")
        .with_sampler(forever())
        .with_max_answer_tokens(3);
    engine
        .ask_with_policy(&Random::new(8).ids(10), &ask, Box::new(Alternating(0)))
        .unwrap();
    let answer = engine.wait().unwrap();
    check(&answer, &model);
    assert_eq!(
        (
            answer.usage.thinking_tokens,
            answer.usage.latent_steps,
            answer.usage.answer_tokens
        ),
        (5, 3, 3)
    );
    assert!(
        answer
            .decisions
            .iter()
            .any(|d| d.choice == Choice::PolicyClosed)
    );
}
