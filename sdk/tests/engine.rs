//! Laws of generation and of the reasoning engine, on random models.

mod tiny;

use std::time::{Duration, Instant};

use skimstone::kernels::Format;
use skimstone::reason::{
    Answer, Ask, Budget, Choice, Engine, EngineOptions, Event, Limit, NextStep, Observation,
    Progress, ReasoningPolicy,
};
use skimstone::{
    ErrorKind, FinishReason, Generate, GenerateOptions, LatentMap, Model, ModelOptions, ModelType,
    ReasoningSpec, RouteKind, RouteSpec, SamplerOptions, Session, SessionOptions, TokenId,
};
use tiny::{CONTEXT, Random, bundle, bytes, chain_model, config, mark, model, reasoning, weights};

fn engine(model: &Model) -> Engine {
    Engine::new(model, EngineOptions::default()).unwrap()
}

/// Sampling that makes random models ramble, so that thinking does not end at once.
fn ramble(seed: u64) -> SamplerOptions {
    SamplerOptions {
        temperature: 1.5,
        seed,
        ..SamplerOptions::default()
    }
}

/// Sampling under which the student neither closes nor stops.
fn forever() -> SamplerOptions {
    let never = [mark::STOP, mark::CLOSE[0]].map(|id| (id, f32::NEG_INFINITY));
    SamplerOptions {
        logit_bias: never.to_vec(),
        ..ramble(1)
    }
}

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

/// What holds for every answer.
fn check(answer: &Answer, model: &Model) {
    let usage = answer.usage;
    assert_eq!(
        usage.generated_tokens,
        usage.thinking_tokens + usage.answer_tokens
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

/// Runs to the end and returns all events.
fn events(engine: &mut Engine) -> Vec<Event> {
    std::iter::from_fn(|| engine.next_event().unwrap()).collect()
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
            Event::ChunkFinished { index, tokens } => format!("{index}:{tokens}>"),
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
