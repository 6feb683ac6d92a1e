//! A process that thinks, saves after every chunk, and is killed at a random moment, again and again: what it said was saved is there,
//! and whatever is there goes on to the answer of a process that was never killed.
//!
//! Eight kills; `SKIMSTONE_KILLS=50` makes more. The child is this same program.
#![cfg(unix)]

mod tiny;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use skimstone::kernels::Format;
use skimstone::reason::{Answer, Ask, Choice, Engine, EngineOptions, Event};
use skimstone::{Model, ModelType, SamplerOptions};
use tiny::{Random, mark, model};

/// Where the child writes; it is only the child if this is set.
const FOLDER: &str = "SKIMSTONE_KILL_FOLDER";

/// Questions differ in their length, by which a file tells which one it holds.
const FIRST_PROMPT: usize = 20;

fn prompt(question: usize) -> Vec<u32> {
    Random::new(question as u64).ids(FIRST_PROMPT + question % 40)
}

/// Many chunks, and an answer that ends.
fn ask() -> Ask {
    let mut sampler = SamplerOptions {
        temperature: 1.5,
        seed: 4,
        ..SamplerOptions::default()
    };
    sampler.logit_bias = vec![
        (mark::STOP, f32::NEG_INFINITY),
        (mark::CLOSE[0], f32::NEG_INFINITY),
        (mark::CHUNK, 3.0),
    ];
    Ask::new().with_route("cot").with_sampler(sampler)
}

fn tiny() -> (Model, Engine) {
    let model = model(ModelType::Qwen3, Format::Q8);
    let engine = Engine::new(&model, EngineOptions::default()).unwrap();
    (model, engine)
}

fn file(folder: &Path) -> PathBuf {
    folder.join("thought")
}

/// Which question the engine is at, from its first event.
fn question_of(event: Option<Event>) -> usize {
    match event {
        // The route's open is counted.
        Some(Event::Started { prompt_tokens, .. }) => prompt_tokens - 1 - FIRST_PROMPT,
        other => panic!("{other:?}"),
    }
}

/// Thinks for ever, on from the file if there is one; prints `question chunk` once that chunk is saved.
#[test]
fn child() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let path = file(Path::new(&folder));
    let (_model, mut engine) = tiny();
    let mut question = 0;
    if path.exists() {
        engine.resume(&path, &ask()).unwrap();
        question = question_of(engine.next_event().unwrap());
    } else {
        engine.ask(&prompt(question), &ask()).unwrap();
    }
    println!("ready");
    loop {
        while let Some(event) = engine.next_event().unwrap() {
            if let Event::ChunkFinished { index, .. } = event {
                engine.save(&path).unwrap();
                println!("{question} {index}");
                std::io::stdout().flush().unwrap();
            }
        }
        question = (question + 1) % 40;
        engine.ask(&prompt(question), &ask()).unwrap();
    }
}

/// The question in the file, how many of its chunks are finished, and its answer.
fn restored(path: &Path) -> (usize, usize, Answer) {
    let (_model, mut engine) = tiny();
    engine.resume(path, &ask()).unwrap();
    let question = question_of(engine.next_event().unwrap());
    let (mut chunks, mut resumed) = (0, false);
    loop {
        match engine.next_event().unwrap().unwrap() {
            Event::ChunkFinished { .. } if !resumed => chunks += 1,
            Event::Decision(decision) => {
                resumed |= matches!(decision.choice, Choice::Resumed(_));
            }
            Event::Finished(answer) => return (question, chunks, *answer),
            _ => {}
        }
    }
}

#[test]
fn a_killed_process_loses_no_finished_chunk() {
    if std::env::var_os("SKIMSTONE_TEST_EMULATED").is_some() {
        println!("skipped: an emulator cannot start this program again");
        return;
    }
    let kills = std::env::var("SKIMSTONE_KILLS").map_or(8, |kills| kills.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path());
    let mut random = Random::new(u64::from(std::process::id()));
    let mut answers: HashMap<usize, Answer> = HashMap::new();
    let (mut saves, mut leftovers, mut resumes) = (0, 0, 0);
    for kill in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // What the harness prints comes before.
        for line in &mut lines {
            if line.unwrap().ends_with("ready") {
                break;
            }
        }
        let mut last: Option<(usize, usize)> = None;
        let mut hear = |line: String| {
            // The last line may have been cut by the kill, and so says nothing.
            if let Some((question, chunk)) = line.split_once(' ')
                && let (Ok(question), Ok(chunk)) = (question.parse(), chunk.parse::<usize>())
            {
                last = Some((question, chunk + 1));
                saves += 1;
            }
        };
        // After a few saves, however long they take here, and then anywhere in the thinking or the next ones.
        let few = (random.next() % 5) as usize;
        lines
            .by_ref()
            .take(few)
            .map_while(Result::ok)
            .for_each(&mut hear);
        std::thread::sleep(Duration::from_micros(random.next() % 50_000));
        child.kill().unwrap();
        child.wait().unwrap();
        lines.map_while(Result::ok).for_each(&mut hear);
        leftovers = std::fs::read_dir(folder.path()).unwrap().count() - usize::from(path.exists());
        let Some((said, finished)) = last else {
            continue;
        };
        let (question, chunks, answer) = restored(&path);
        resumes += 1;
        // The file may be newer than what was said, never older.
        let newer = (question + 40 - said) % 40;
        assert!(
            newer == 0 && chunks >= finished || newer == 1,
            "kill {kill}: {question} {chunks}, said {said} {finished}"
        );
        let want = answers.entry(question).or_insert_with(|| {
            let (_model, mut engine) = tiny();
            engine.answer(&prompt(question), &ask()).unwrap()
        });
        assert_eq!(
            (&answer.thinking_ids, &answer.ids),
            (&want.thinking_ids, &want.ids),
            "kill {kill}"
        );
    }
    println!(
        "{kills} kills, {saves} chunks said to be saved, {resumes} files resumed, none corrupt, no finished chunk lost; {leftovers} unfinished files left"
    );
    assert!(
        resumes * 2 > kills,
        "{resumes} of {kills} had saved anything"
    );
    // Each save takes away what killed ones have left.
    assert!(leftovers <= 2, "{leftovers}");
}
