//! Tasks: what they claim is recomputed here by other means, from the text of their rows alone.

mod evaluators;
mod files;
mod truth;

use std::collections::{HashMap, HashSet};

use clap::Parser;
use skimstone::Tokenizer;
use skimstone_training::data::{Row, read_rows, write_rows};
use skimstone_training::pipeline::Pipeline;
use skimstone_training::tasks::command::DataCommand;
use skimstone_training::tasks::{
    Babi, Chain, Expressions, Knights, Multiplication, Prosqa, Sleep, Split, Task, fingerprint,
};
use skimstone_training::tokenize::train_to_file;

const SPLITS: [Split; 3] = [Split::Train, Split::Validation, Split::Test];

/// The tasks that need no file.
fn generated() -> [Task; 6] {
    [
        Task::Chain(Chain::default()),
        Task::Expressions(Expressions::default()),
        Task::Multiplication(Multiplication::default()),
        Task::Prosqa(Prosqa::default()),
        Task::Knights(Knights::default()),
        Task::Sleep(Sleep {}),
    ]
}

/// Rows of a task with its default parameters.
fn rows(task: &Task, n: usize, seed: u64) -> Vec<Row> {
    task.generate(Split::Train, n, seed).unwrap()
}

#[test]
fn same_seed_same_rows() {
    for task in generated() {
        let first = rows(&task, 60, 3);
        assert_eq!(first, rows(&task, 60, 3), "{}", task.name());
        assert_eq!(first[..20], rows(&task, 20, 3)[..], "{}", task.name());
        assert_ne!(first, rows(&task, 60, 4), "{}", task.name());
        let ids: HashSet<&str> = first.iter().map(|row| row.id.as_str()).collect();
        assert_eq!(ids.len(), first.len(), "{}", task.name());
    }
}

#[test]
fn splits_are_disjoint_across_seeds_and_parameters() {
    // So small that every question comes up under every seed: only the hash keeps the splits apart.
    let tiny = |filler| {
        Task::Chain(Chain {
            min_steps: 2,
            max_steps: 2,
            filler,
            ..Chain::default()
        })
    };
    let mut split_of: HashMap<u64, Split> = HashMap::new();
    for (seed, filler) in [(1, 0.0), (2, 0.5), (3, 1.0)] {
        for split in SPLITS {
            for row in tiny(filler).generate(split, 100, seed).unwrap() {
                let first = *split_of.entry(fingerprint(&row.question)).or_insert(split);
                assert_eq!(first, split, "{}", row.question);
            }
        }
    }
    assert!(split_of.len() < 800, "the seeds share questions");

    for task in generated() {
        let mut seen = HashSet::new();
        for split in SPLITS {
            for row in task.generate(split, 100, 5).unwrap() {
                assert!(seen.insert(fingerprint(&row.question)), "{}", row.question);
            }
        }
    }
}

#[test]
fn a_night_is_in_one_split_with_all_its_questions() {
    let task = Task::Sleep(Sleep {});
    let mut split_of: HashMap<String, Split> = HashMap::new();
    for split in SPLITS {
        for row in task.generate(split, 200, 1).unwrap() {
            let (record, _) = row.question.rsplit_once('\n').unwrap();
            let first = *split_of.entry(record.to_owned()).or_insert(split);
            assert_eq!(first, split);
            assert_eq!(row.skippable.len(), row.chunks.len());
        }
    }
}

#[test]
fn rows_survive_a_file() {
    let folder = tempfile::tempdir().unwrap();
    for task in generated() {
        let path = folder.path().join(format!("{}.jsonl.gz", task.name()));
        let written = rows(&task, 20, 1);
        write_rows(&path, &written).unwrap();
        let read: Vec<Row> = read_rows(&path).unwrap().map(Result::unwrap).collect();
        assert_eq!(read, written, "{}", task.name());
    }
}

#[test]
fn the_expected_answer_is_right_and_others_are_not() {
    for task in generated() {
        let rows = rows(&task, 40, 2);
        for (row, other) in rows.iter().zip(rows.iter().skip(1)) {
            assert!(task.grade(row, &row.answer), "{}", row.answer);
            assert!(task.grade(row, &format!("  {} \n", row.answer)));
            assert!(!task.grade(row, ""));
            assert!(!task.grade(row, &format!("{} {}", row.answer, row.answer)));
            assert_eq!(
                task.grade(row, &other.answer),
                row.answer == other.answer,
                "{} {}",
                row.answer,
                other.answer
            );
        }
    }
}

#[test]
fn wrong_parameters_are_named() {
    let cases = [
        (
            Task::Chain(Chain {
                min_steps: 9,
                ..Chain::default()
            }),
            Ok(()),
        ),
        (
            Task::Chain(Chain {
                min_steps: 13,
                ..Chain::default()
            }),
            Err("task `chain`: steps 13 to 12; expected a range within 1 to 64"),
        ),
        (
            Task::Chain(Chain {
                filler: f64::NAN,
                ..Chain::default()
            }),
            Err("task `chain`: filler is NaN; expected 0 to 1"),
        ),
        (
            Task::Expressions(Expressions {
                max_steps: 20,
                max_extra: 3,
                ..Expressions::default()
            }),
            Err("task `expressions`: extra 1 to 3; expected a range within 0 to 2"),
        ),
        (
            Task::Expressions(Expressions {
                largest: 3,
                ..Expressions::default()
            }),
            Err("task `expressions`: largest is 3; expected 40 to 1000000"),
        ),
        (
            Task::Multiplication(Multiplication {
                multiplier_digits: 19,
                ..Multiplication::default()
            }),
            Err("task `multiplication`: multiplier_digits 19; expected a range within 1 to 18"),
        ),
        (
            Task::Knights(Knights {
                min_people: 1,
                ..Knights::default()
            }),
            Err("task `knights`: people 1 to 4; expected a range within 2 to 8"),
        ),
        (
            Task::Babi(Babi { files: Vec::new() }),
            Err("task `babi`: `files` names no file"),
        ),
    ];
    for (task, expected) in cases {
        let found = task
            .generate(Split::Train, 1, 1)
            .map(drop)
            .map_err(|error| error.to_string());
        assert_eq!(found, expected.map_err(str::to_owned));
    }
    let one_digit = Task::Multiplication(Multiplication {
        multiplicand_digits: 1,
        multiplier_digits: 1,
        ..Multiplication::default()
    });
    let error = one_digit.generate(Split::Test, 50, 1).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("`multiplication`: found") && error.contains("for split test, asked for 50"),
        "{error}"
    );
}

/// The command line of `skim-train data`.
#[derive(Debug, Parser)]
struct Data {
    #[command(subcommand)]
    task: DataCommand,
}

#[test]
fn command_and_recipe_write_the_same_rows() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("command.jsonl");
    let arguments = "data chain --n 30 --seed 7 --split validation --max-steps 5 --filler 0 --out";
    let arguments = arguments.split(' ').chain([out.to_str().unwrap()]);
    let (n, written) = Data::try_parse_from(arguments).unwrap().task.run().unwrap();
    assert_eq!((n, &written), (30, &out));

    let recipe = folder.path().join("recipe.toml");
    let stage = |parameters: &str| {
        let text = format!(
            "[[stage]]\nrun = \"data\"\nsplit = \"validation\"\nn = 30\nseed = 7\nout = \"recipe.jsonl\"\n[stage.task]\n{parameters}"
        );
        std::fs::write(&recipe, text).unwrap();
        Pipeline::load(&recipe)
    };
    let pipeline = stage("name = \"chain\"\nmax_steps = 5\nfiller = 0").unwrap();
    pipeline.run(folder.path(), &Default::default()).unwrap();
    let bytes = std::fs::read(folder.path().join("recipe.jsonl")).unwrap();
    assert_eq!(bytes, std::fs::read(&out).unwrap());

    for (parameters, expected) in [
        ("name = \"chain\"\nsteps = 5", "unknown field `steps`"),
        ("name = \"chains\"", "unknown variant `chains`"),
        ("name = \"chain\"\nmax_steps = 0", "steps 4 to 0"),
        ("name = \"gsm8k\"\ntrain = \"a\"", "missing field `test`"),
    ] {
        let error = stage(parameters).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// A tokenizer of `vocab_size` tokens, trained on the rows.
fn tokenizer(rows: &[Row], vocab_size: usize) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_rows(&at("rows.jsonl"), rows).unwrap();
    train_to_file(&[at("rows.jsonl")], vocab_size, 300, &at("tokenizer.json")).unwrap();
    let json = std::fs::read(at("tokenizer.json")).unwrap();
    Tokenizer::from_bytes(&json, usize::MAX).unwrap()
}

fn texts(row: &Row) -> impl Iterator<Item = &String> {
    row.chunks.iter().chain([&row.question, &row.answer])
}

#[test]
fn a_small_vocabulary_holds_every_task() {
    for task in &generated()[..4] {
        let rows = rows(task, 300, 1);
        let tokenizer = tokenizer(&rows, 384);
        let digits: Vec<u32> = ('0'..='9')
            .map(|digit| tokenizer.token_to_id(&digit.to_string()).unwrap())
            .collect();
        for text in rows.iter().flat_map(texts) {
            let tokens = tokenizer.encode(text, false).unwrap();
            assert_eq!(&tokenizer.decode(&tokens, false).unwrap(), text);
            let alone = tokens.iter().filter(|token| digits.contains(token)).count();
            let expected = text.bytes().filter(u8::is_ascii_digit).count();
            assert_eq!(alone, expected, "{}: {text}", task.name());
        }
    }
}

#[test]
fn compact_multiplication_costs_half_of_the_tokens() {
    let cost = |compact| {
        let task = Task::Multiplication(Multiplication {
            compact,
            ..Multiplication::default()
        });
        let rows = rows(&task, 100, 1);
        let tokenizer = tokenizer(&rows, 300);
        let tokens = |text: &String| tokenizer.encode(text, false).unwrap().len();
        rows.iter().flat_map(texts).map(tokens).sum::<usize>() / rows.len()
    };
    let (spaced, compact) = (cost(false), cost(true));
    println!("4x4: {spaced} tokens spaced, {compact} compact");
    assert!(10 * compact < 6 * spaced, "{spaced} {compact}");
}
