//! A whole grid through the program: killed and started again it has the report of one that never stopped; its file's mistakes are named.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use skimstone_training::Error;
use skimstone_training::checkpoint::load_student;
use skimstone_training::experiment::{
    CellId, Report, RunOptions, Spec, compare, publish, run, run_cell,
};
use skimstone_training::recipe::Recipe;
use skimstone_training::unpack::unpack;

const GRID: &str = r#"
name = "tiny"
seeds = [1, 2]
learning_rates = [1e-2, 3e-3]
steps = 24
batch_rows = 8
vocab_size = 300
checkpoint_every = 4
rows = { train = 60, validation = 6, test = 12, seed = 1 }
[model]
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 2
num_attention_heads = 1
num_key_value_heads = 1
head_dim = 16
max_position_embeddings = 128
[evaluation]
timed_questions = 2
max_answer_tokens = 4
[[task]]
task = { name = "chain", min_steps = 2, max_steps = 3 }
[[method]]
method = { name = "no-cot" }
[[method]]
controls = ["no-cot"]
method = { name = "cwt", chunks = 2, chunker = "search", search_every = 1 }
"#;

/// More cells that depend on each other: only in the test that takes longest.
const DEPENDENT: &str = r#"
[[method]]
controls = ["random-deletion"]
method = { name = "stt", margin = 1.0 }
[[method]]
method = { name = "random-deletion", rate_of = "stt" }
[[method]]
controls = ["no-cot"]
method = { name = "icot", tokens_per_stage = 12 }
[[method]]
controls = ["pause-as-thought", "no-thought"]
method = { name = "coconut", stages = 2, per_stage = 2 }
[[method]]
method = { name = "pause-as-thought", stages = 2, per_stage = 2 }
[[method]]
method = { name = "no-thought", stages = 2 }
[[method]]
controls = ["pause-as-thought"]
method = { name = "codi", latents = 3 }
[[method]]
controls = ["no-cot"]
method = { name = "early-exits", weights = "rotating", layer_dropout = 0.2 }
[[method]]
controls = ["codi"]
method = { name = "s1.5-r", latents = 4, second = 0.5, router_size = 4, adapter_size = 4 }
"#;

fn start(file: &Path, out: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_skim-train"))
        .arg("experiment")
        .arg(file)
        .arg("--out")
        .arg(out)
        .args(["--jobs", "2"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn results(out: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(out) else {
        return 0;
    };
    let count = |path: &Path| match path.is_dir() {
        true => results(path),
        false => usize::from(path.ends_with("result.json")),
    };
    entries.map(|entry| count(&entry.unwrap().path())).sum()
}

/// Runs a grid, killing it whenever one more of `kills` results is there; returns report and plot.
fn grid(file: &Path, out: &Path, kills: &[usize]) -> [Vec<u8>; 2] {
    for least in kills {
        let mut child = start(file, out);
        let began = Instant::now();
        while results(out) < *least && child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < Duration::from_secs(120), "{least}");
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!out.join("report.json").exists(), "killed too late");
    }
    assert!(start(file, out).wait().unwrap().success());
    ["report.json", "pareto-chain.svg"].map(|name| std::fs::read(out.join(name)).unwrap())
}

#[test]
fn a_killed_grid_has_the_report_of_one_that_never_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiny.toml");
    std::fs::write(&file, format!("{GRID}{DEPENDENT}")).unwrap();
    let whole = grid(&file, &folder.path().join("whole"), &[]);
    let killed = grid(&file, &folder.path().join("killed"), &[1, 4, 9]);
    assert!(whole == killed, "reports are equal byte for byte");

    let report: Report = serde_json::from_slice(&whole[0]).unwrap();
    let task = &report.tasks[0];
    assert!(report.missing.is_empty());
    assert_eq!((task.methods.len(), task.comparisons.len()), (11, 8));
    for method in &task.methods {
        assert_eq!((method.seeds.len(), method.sweep.len()), (2, 2));
        assert!(method.seeds.iter().all(|seed| seed.steps == 24));
        assert!(method.training_flops > 0.0 && method.layer_passes >= 1.0);
    }
    let of = |label: &str| task.methods.iter().find(|m| m.label == label).unwrap();
    let (stt, random) = (of("stt"), of("random-deletion"));
    let base_rates = [stt, random].map(|m| m.deleted.unwrap().base_rate);
    assert_eq!(base_rates[0], base_rates[1]);
    // Two stages of two positions: latent steps for one, pauses for the other, and nothing.
    let passes = ["coconut", "pause-as-thought", "no-thought"].map(|label| {
        let method = of(label);
        (method.latent_steps, method.layer_passes >= 12.0)
    });
    assert_eq!(passes, [(4.0, true), (0.0, true), (0.0, false)]);
    assert_eq!(of("codi").latent_steps, 3.0);
    // The loop of the interventions is another one than the engine's; with latent steps left alone it has its answers.
    for label in ["coconut", "codi"] {
        let (method, found) = (of(label), of(label).interventions.unwrap());
        let right = (method.accuracy.value * found.n as f64).round() as usize;
        assert_eq!((found.n, found.own), (24, right));
    }
    // And so has the one that stands in for routers, at the student's own threshold.
    let (method, found) = (of("s1.5-r"), of("s1.5-r").routing.clone().unwrap());
    let rule = |name: &str| found.rules.iter().find(|rule| rule.rule == name).unwrap();
    let right = (method.accuracy.value * found.n as f64).round() as usize;
    assert_eq!((found.n, rule("router, own λ, halt").right), (24, right));
    // Four steps of two layers; halting before the second one leaves it out of all but the last.
    assert_eq!(rule("full").layers, 24 * 4 * 2);
    assert_eq!(rule("fixed, halt before layer 1").layers, 24 * (3 + 2));
    assert_eq!(found.auroc.len(), 2);
    assert!(of("codi").routing.is_none());
    assert!(of("pause-as-thought").interventions.is_none());
    assert!(of("no-cot").skipped.is_none() && of("no-cot").deleted.is_none());

    let out = folder.path().join("whole");
    let text = std::fs::read_to_string(out.join("report.md")).unwrap();
    assert!(text.contains("| cwt | no-cot |") && text.contains("not resolved"));
    let timings = std::fs::read_to_string(out.join("timings.json")).unwrap();
    assert!(timings.contains("chain/no-cot/seed-2/"));

    let compared = compare(&out, "chain", "cwt", "no-cot").unwrap();
    assert!(task.comparisons.contains(&compared));
    assert!(compared.to_string().starts_with("cwt minus no-cot:\n"));
    let error = compare(&out, "chain", "cwt", "cot").unwrap_err();
    assert!(error.to_string().contains("no method has the label `cot`"));

    let kept = folder.path().join("kept");
    let error = publish(&out, &["cot".to_owned()], &kept).unwrap_err();
    assert!(error.to_string().contains("no method has the label `cot`"));
    assert!(!kept.exists());
    let files = publish(&out, &["stt".to_owned()], &kept).unwrap();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let names: Vec<String> = files.iter().map(|path| name(path)).collect();
    let expected = [
        "report.json",
        "report.md",
        "pareto-chain.svg",
        "chain-stt.skim",
    ];
    assert_eq!(names, expected);
    assert!(files.iter().all(|path| path.exists()));

    // A changed definition runs what it changes and nothing else.
    let changed = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, changed.replace("margin = 1.0", "margin = 2.0")).unwrap();
    let mut names = ["no-cot", "stt"].map(|method| {
        let cell = format!("cells/chain/{method}/seed-1/rate-3e-3/definition.sha256");
        let before = std::fs::read_to_string(out.join(&cell)).unwrap();
        (cell, before)
    });
    assert!(start(&file, &out).wait().unwrap().success());
    let same = names.each_mut().map(|(cell, before)| {
        let after = std::fs::read_to_string(out.join(cell)).unwrap();
        after == *before
    });
    assert_eq!(same, [true, false]);
}

/// What a cell's trainings say of themselves holds wherever the run is moved: no path of this machine, and the files are found from there.
fn check_records(cell: &Path) {
    let here = std::env::temp_dir();
    let mut trainings = 0;
    for entry in std::fs::read_dir(cell).unwrap() {
        let record = entry.unwrap().path().join("recipe.toml");
        let Ok(text) = std::fs::read_to_string(&record) else {
            continue;
        };
        assert!(
            !text.contains(here.to_str().unwrap()),
            "{}",
            record.display()
        );
        let recipe = Recipe::load(&record).unwrap();
        assert!(recipe.tokenizer.exists() && recipe.data[0].path.exists());
        trainings += 1;
    }
    assert!(trainings > 0, "{}", cell.display());
}

/// A stopped run prepares the rows and starts nothing.
fn prepare_rows(spec: &Spec, out: &Path) {
    let options = RunOptions {
        out: out.to_owned(),
        jobs: 1,
        program: "none".into(),
        stop: Arc::new(AtomicBool::new(true)),
    };
    assert!(matches!(run(spec, &options), Err(Error::Stopped)));
}

fn first_cell(spec: &Spec, method: &str) -> CellId {
    CellId {
        task: spec.task[0].label.clone(),
        method: method.to_owned(),
        seed: spec.seeds[0],
        learning_rate: spec.learning_rates[0],
    }
}

/// The cells of one seed and rate, taught in this process; with `interrupts` each stops after every ten steps and goes on. Returns their results.
fn taught(spec: &Spec, out: &Path, interrupts: bool) -> Vec<Vec<u8>> {
    prepare_rows(spec, out);
    let mut results = Vec::new();
    for method in &spec.method {
        let cell = first_cell(spec, &method.label);
        let reached = AtomicU64::new(0);
        let mut stops = 0;
        loop {
            let stop = Arc::new(AtomicBool::new(false));
            let progress = |steps| {
                if reached.fetch_max(steps, Ordering::Relaxed) < steps && interrupts {
                    stop.store(true, Ordering::Relaxed);
                }
            };
            match run_cell(out, &cell, false, stop.clone(), &progress) {
                Ok(()) => break,
                Err(Error::Stopped) => stops += 1,
                Err(error) => panic!("{cell}: {error}"),
            }
        }
        assert!(!interrupts || stops >= 4, "{cell}: stopped {stops} times");
        check_records(&cell.folder(out));
        results.push(std::fs::read(cell.folder(out).join("result.json")).unwrap());
    }
    results
}

#[test]
fn every_method_goes_on_where_it_was_stopped() {
    let text = include_str!("../experiments/smoke.toml")
        .replace("seeds = [1, 2]", "seeds = [1]")
        .replace("[3e-3, 1e-3]", "[3e-3]")
        .replace("rows = { train = 300", "rows = { train = 150");
    let mut spec = Spec::from_toml(&text).unwrap();
    // What takes a rate comes after what measures it.
    spec.method
        .sort_by_key(|entry| entry.method.depends_on().is_some());
    let folder = tempfile::tempdir().unwrap();
    let whole = taught(&spec, &folder.path().join("whole"), false);
    let stopped = taught(&spec, &folder.path().join("stopped"), true);
    for ((entry, whole), stopped) in spec.method.iter().zip(whole).zip(stopped) {
        assert!(whole == stopped, "{}: results are equal", entry.label);
    }
    begins_as_a_bundle(&spec, folder.path());
}

/// A student that hardly learns anything is the bundle that it began as, vocabulary included.
fn begins_as_a_bundle(spec: &Spec, folder: &Path) {
    let bundle = |spec: &Spec, run: &str| {
        let cell = first_cell(spec, "cot");
        cell.folder(&folder.join(run)).join("student.skim")
    };
    let mut more = spec.clone();
    more.method
        .retain(|entry| ["no-cot", "cot"].contains(&entry.label.as_str()));
    more.init = Some(bundle(spec, "whole"));
    more.steps = 1;
    more.learning_rates = vec![1e-9];
    let out = folder.join("more");
    taught(&more, &out, false);
    let weights = |path: &Path, name: &str| {
        let checkpoint = unpack(path, &folder.join(name)).unwrap();
        let student = load_student(&checkpoint).unwrap();
        let values = student.variables().iter().map(|(_, value)| {
            let flat = value.flatten_all().unwrap();
            flat.to_vec1::<f32>().unwrap()
        });
        (
            values.flatten().collect::<Vec<f32>>(),
            std::fs::read(checkpoint.join("tokenizer.json")).unwrap(),
        )
    };
    let before = weights(more.init.as_deref().unwrap(), "before");
    let after = weights(&bundle(&more, "more"), "after");
    assert!(before.1 == after.1, "the vocabulary is the bundle's");
    let mut pairs = before.0.iter().zip(&after.0);
    assert!(pairs.all(|(a, b)| (a - b).abs() < 1e-6));

    more.model.hidden_size *= 2;
    let (out, stop) = (folder.join("wide"), Arc::new(AtomicBool::new(false)));
    prepare_rows(&more, &out);
    let error = run_cell(&out, &first_cell(&more, "cot"), false, stop, &|_| {}).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("`init` is a model"), "{error}");
    let text = spec.to_toml().unwrap();
    let with_pauses = format!("init = \"x.skim\"\n{text}");
    let error = Spec::from_toml(&with_pauses).unwrap_err().to_string();
    assert!(error.contains("does not have"), "{error}");
}

#[test]
fn mistakes_are_named() {
    let cases = [
        ("steps = 24", "step = 24", "unknown field `step`"),
        ("seeds = [1, 2]", "seeds = []", "`seeds` is empty"),
        ("seeds = [1, 2]", "seeds = [1, 1]", "seeds `1` twice"),
        ("1e-2, 3e-3", "0.0, 3e-3", "learning rate 0; expected"),
        ("train = 60", "train = 0", "`rows.train` must be at least 1"),
        (
            "controls = [\"no-cot\"]",
            "",
            "method `no-cot`: has no control",
        ),
        (
            "controls = [\"no-cot\"]",
            "controls = [\"no-co\"]",
            "method `cwt`: refers to `no-co`, which is no method's label",
        ),
        (
            "controls = [\"no-cot\"]",
            "controls = [\"cwt\"]",
            "method `cwt`: refers to itself",
        ),
        (
            "name = \"no-cot\"",
            "name = \"random-deletion\", rate_of = \"cwt\"",
            "takes the deletion rate of `cwt`, which deletes nothing",
        ),
        ("chunks = 2", "chunk = 2", "unknown field `chunk`"),
        ("min_steps = 2", "min_steps = 9", "`chain`: steps 9 to 3"),
        (
            "name = \"chain\",",
            "name = \"chains\",",
            "unknown variant `chains`",
        ),
        ("timed_questions", "timed", "unknown field `timed`"),
    ];
    for (from, to, message) in cases {
        assert!(GRID.contains(from), "{from}");
        let error = Spec::from_toml(&GRID.replacen(from, to, 1)).unwrap_err();
        assert!(error.to_string().contains(message), "{from}: {error}");
    }
    let spec = Spec::from_toml(GRID).unwrap();
    let copy = spec.to_toml().unwrap();
    let again = Spec::from_toml(&copy).unwrap().to_toml().unwrap();
    assert_eq!(again, copy, "an experiment survives its own copy");
}

#[test]
fn the_experiments_of_the_repository_can_be_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            Spec::load(&path).unwrap();
            seen += 1;
        }
    }
    assert!(seen >= 2);
}
