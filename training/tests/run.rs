//! Whole runs on toy rows: the loss falls, a resumed run is the uninterrupted one to the bit, an exported student answers.

use std::path::Path;

use skimstone::kernels::Format;
use skimstone_training::data::Encoder;
use skimstone_training::eval::{EvalOptions, evaluate};
use skimstone_training::progress::{Event, View};
use skimstone_training::recipe::Recipe;
use skimstone_training::score::score;
use skimstone_training::trainer::Trainer;
use skimstone_training::{Result, export, progress, tokenize};

/// Keeps events.
#[derive(Default)]
struct Recorder(Vec<Event>);

impl View for Recorder {
    fn event(&mut self, event: &Event) -> Result<()> {
        self.0.push(event.clone());
        Ok(())
    }
}

impl Recorder {
    fn losses(&self) -> Vec<(u64, f64)> {
        let losses = self.0.iter().filter_map(|event| match event {
            Event::Step { step, loss, .. } => Some((*step, *loss)),
            _ => None,
        });
        losses.collect()
    }
}

/// Twenty toy rows in groups of four, their tokenizer and a recipe over both.
fn prepare(folder: &Path, steps: u64) -> Recipe {
    let mut rows = String::new();
    for i in 0..20 {
        let (a, b) = (i / 4 + 1, i % 4 + 2);
        let question =
            format!("the record says {a} and more words to share.\\nwhat is {a} plus {b}?");
        let line = format!(
            r#"{{"id":"{i}","kind":"sum","group":"{a}","question":"{question}","chunks":["we add {a} and {b}","that makes {}"],"answer":"{}"}}"#,
            a + b,
            a + b
        );
        rows += &(line + "\n");
    }
    let path = folder.join("rows.jsonl");
    std::fs::write(&path, rows).unwrap();
    tokenize::train_tokenizer(&[&path], 300, 100)
        .unwrap()
        .save(folder.join("tokenizer.json"), false)
        .unwrap();
    let text = format!(
        r#"
        seed = 5
        tokenizer = "tokenizer.json"
        [model]
        hidden_size = 32
        intermediate_size = 64
        num_hidden_layers = 2
        num_attention_heads = 2
        num_key_value_heads = 1
        head_dim = 16
        max_position_embeddings = 128
        [[data]]
        path = "rows.jsonl"
        routes = ["cot", "direct"]
        [batch]
        micro_batch_tokens = 300
        micro_batches = 3
        workers = 2
        [optimizer]
        learning_rate = 5e-3
        [schedule]
        steps = {steps}
        warmup_steps = 10
        [checkpoint]
        every = 25
        keep = 9
        report_every = 1
        [export]
        default_route = "cot"
        answer_reserve = 4
        "#
    );
    let path = folder.join("recipe.toml");
    std::fs::write(&path, text).unwrap();
    Recipe::load(&path).unwrap()
}

#[test]
fn the_loss_falls_and_a_resumed_run_is_the_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = prepare(folder.path(), 60);
    let out = folder.path().join("run");
    std::fs::create_dir(&out).unwrap();
    let mut whole = Recorder::default();
    let mut trainer = Trainer::new(recipe.clone()).unwrap();
    trainer.run(Some(&out), &mut whole).unwrap();
    let losses = whole.losses();
    assert!(
        losses[0].1 > 5.0 && losses[59].1 < losses[0].1 / 2.0,
        "{losses:?}"
    );

    let mut resumed = Trainer::new(recipe).unwrap();
    resumed.resume(&out.join("step-25")).unwrap();
    let mut rest = Recorder::default();
    resumed.run(None, &mut rest).unwrap();
    assert_eq!(rest.losses(), losses[25..], "losses are equal to the bit");
    for ((name, a), (_, b)) in trainer
        .student()
        .variables()
        .iter()
        .zip(resumed.student().variables())
    {
        let read =
            |v: &candle_core::Var| -> Vec<f32> { v.flatten_all().unwrap().to_vec1().unwrap() };
        assert_eq!(read(a), read(b), "{name}");
    }
}

#[test]
fn a_trained_student_answers_through_the_runtime() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = prepare(folder.path(), 250);
    let out = folder.path().join("run");
    std::fs::create_dir(&out).unwrap();
    let mut views = progress::views(&out).unwrap();
    views.truncate(1);
    let mut trainer = Trainer::new(recipe.clone()).unwrap();
    let checkpoint = trainer.run(Some(&out), &mut views).unwrap().unwrap();

    let encoder = Encoder::open(&recipe.tokenizer, &recipe.routes).unwrap();
    let rows = skimstone_training::data::Dataset::load(&recipe.data, &encoder, 128)
        .unwrap()
        .rows;
    let scored = score(trainer.student(), &rows).unwrap();
    assert_eq!(
        (scored.rows, scored.correct_rows),
        (40, 40),
        "the toy rows are learned by heart"
    );

    let bundle = folder.path().join("student.skim");
    export::export(&checkpoint, &recipe, Format::Q8, None, &bundle).unwrap();
    let card = evaluate(
        &bundle,
        &recipe.data[0].path,
        &EvalOptions::default(),
        |_, _, _| (),
    )
    .unwrap();
    assert_eq!(card.routes.keys().collect::<Vec<_>>(), ["cot", "direct"]);
    for (route, card) in &card.routes {
        assert!(card.all.accuracy >= 0.9, "{route}: {}", card.all.accuracy);
        assert_eq!((card.all.n, card.kinds["sum"].n), (20, 20));
    }
    let (cot, direct) = (&card.routes["cot"].all, &card.routes["direct"].all);
    assert!(cot.mean_generated_tokens > direct.mean_generated_tokens + 5.0);
    assert!(cot.mean_layer_passes > direct.mean_layer_passes);

    let svg = out.join("curve.svg");
    progress::write_curve(&out.join("events.jsonl"), &svg).unwrap();
    assert!(std::fs::read_to_string(svg).unwrap().starts_with("<svg"));
}

#[test]
fn bad_rows_and_recipes_are_named_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = prepare(folder.path(), 1);
    struct Case(&'static str, &'static str);
    let rows = [
        Case(r#"{"question":"a","chunks":[],"answer":"b"}"#, ""),
        Case(
            r#"{"question":"a","chunks":[]}"#,
            "rows.jsonl:2: field `answer`",
        ),
        Case(
            r#"{"question":"","answer":"b"}"#,
            "rows.jsonl:2: field `question`: is empty",
        ),
        Case(
            r#"{"question":"a","chunks":["x",""],"answer":"b"}"#,
            "rows.jsonl:2: field `chunks[1]`: is empty",
        ),
        Case("{", "rows.jsonl:2: field `(line)`"),
    ];
    for Case(line, message) in rows {
        std::fs::write(
            folder.path().join("rows.jsonl"),
            format!("{{\"question\":\"q\",\"answer\":\"a\"}}\n{line}\n"),
        )
        .unwrap();
        match Trainer::new(recipe.clone()) {
            Ok(_) => assert_eq!(message, ""),
            Err(error) => assert!(
                !message.is_empty() && error.to_string().contains(message),
                "{error}"
            ),
        }
    }
    let text = std::fs::read_to_string(folder.path().join("recipe.toml")).unwrap();
    let recipes = [
        Case("learning_rate|learning_rat", "unknown field `learning_rat`"),
        Case(
            "\"direct\"]|\"fast\"]",
            "unknown route `fast`; known: cot, direct, skip",
        ),
        Case("steps = 1\n|steps = 0\n", "`schedule.steps`"),
    ];
    for Case(change, message) in recipes {
        let (from, to) = change.split_once('|').unwrap();
        let error = Recipe::from_toml(&text.replacen(from, to, 1))
            .unwrap_err()
            .to_string();
        assert!(error.contains(message), "{error}");
    }
}
