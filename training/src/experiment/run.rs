//! Running a grid: a coordinator that starts one process per cell, and what such a process does.
//!
//! The coordinator holds `experiment.lock`; a cell's process holds the lock beside its folder, so that a process that outlives a killed
//! coordinator and its successor never write to one folder at once. A process whose standard input ends knows that its coordinator is gone: it finishes
//! the step, saves and ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::cell::{
    CellId, Finished, Record, Timing, chosen_rate, definition, id, measured_rate, ready, total,
    writes_rationales,
};
use super::evaluate::ask;
use super::interventions::intervene;
use super::prepare::{Files, prepare};
use super::report::write_report;
use super::routing::route;
use super::spec::Spec;
use crate::error::{Error, Result};
use crate::export::export;
use crate::manifest::Input;
use crate::methods::Context;
use crate::methods::context::{read_json, write_json, write_whole};
use crate::pipeline::parse_format;
use crate::score::use_threads;
use crate::tasks::Split;

/// How to run a grid.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Folder for everything that it makes.
    pub out: PathBuf,
    /// Cells at the same time, each a process of one thread; 0: one per core.
    pub jobs: usize,
    /// The program that is started for a cell with the arguments `experiment-cell OUT CELL`: `skim-train` itself.
    pub program: PathBuf,
    /// Once true, no more cells are started and running ones save and end.
    pub stop: Arc<AtomicBool>,
}

/// Runs what is not finished of a grid, then writes the report. Goes on where an earlier run ended, however it ended.
///
/// # Errors
/// [`Error::Stopped`] if the stop handle was set; [`Error::Experiment`] if a cell failed (the others are run and reported all the same) or another
/// run is at work in the folder.
pub fn run(spec: &Spec, options: &RunOptions) -> Result<()> {
    let out = &options.out;
    std::fs::create_dir_all(out).map_err(Error::io(out))?;
    let path = out.join("experiment.lock");
    let lock = File::create(&path).map_err(Error::io(&path))?;
    if lock.try_lock().is_err() {
        let message = format!("{}: another run is at work here", out.display());
        return Err(Error::Experiment(message));
    }
    write_whole(&out.join("experiment.toml"), spec.to_toml()?.as_bytes())?;
    for entry in &spec.task {
        prepare(spec, entry, out)?;
    }
    let mut grid = Grid::new(spec, options)?;
    grid.run_cells()?;
    if options.stop.load(Ordering::Relaxed) {
        return Err(Error::Stopped);
    }
    grid.time()?;
    write_report(spec, &grid.finished, out)?;
    match grid.failed.is_empty() {
        true => Ok(()),
        false => {
            let list: Vec<String> = grid
                .failed
                .iter()
                .map(|(cell, why)| format!("{cell}: {why}"))
                .collect();
            Err(Error::Experiment(format!(
                "{} cells failed and are missing from the report:\n{}",
                list.len(),
                list.join("\n")
            )))
        }
    }
}

/// What the threads that read the output of a cell's process tell.
enum Message {
    /// Optimizer steps made in a cell.
    Steps(String, u64),
    /// The process has closed its output.
    Closed(String),
}

struct Grid<'a> {
    spec: &'a Spec,
    options: &'a RunOptions,
    finished: Finished,
    /// Cell → why.
    failed: BTreeMap<String, String>,
    running: BTreeMap<String, Child>,
    /// Steps made by running cells.
    steps: BTreeMap<String, u64>,
    bar: ProgressBar,
    began: Instant,
    steps_at_begin: u64,
}

impl<'a> Grid<'a> {
    fn new(spec: &'a Spec, options: &'a RunOptions) -> Result<Grid<'a>> {
        let template = "{bar:30} {percent}% {elapsed} left {eta} {msg}";
        let style = ProgressStyle::with_template(template);
        let bar = ProgressBar::new(total(spec) as u64 * spec.steps)
            .with_style(style.expect("the template is a constant that parses"));
        let finished = load(spec, &options.out)?;
        let steps_at_begin = finished.len() as u64 * spec.steps;
        bar.set_position(steps_at_begin);
        bar.reset_eta();
        Ok(Grid {
            spec,
            options,
            finished,
            failed: BTreeMap::new(),
            running: BTreeMap::new(),
            steps: BTreeMap::new(),
            bar,
            began: Instant::now(),
            steps_at_begin,
        })
    }

    fn run_cells(&mut self) -> Result<()> {
        let (sender, receiver) = channel();
        let result = self.schedule(&sender, &receiver);
        // Whatever happened, no process outlives this call.
        for (_, mut child) in std::mem::take(&mut self.running) {
            drop(child.stdin.take());
            // An error means that it has ended already.
            let _ = child.wait();
        }
        self.bar.abandon();
        result
    }

    fn schedule(&mut self, sender: &Sender<Message>, receiver: &Receiver<Message>) -> Result<()> {
        let jobs = match self.options.jobs {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            jobs => jobs,
        };
        loop {
            let stopped = self.options.stop.load(Ordering::Relaxed);
            if stopped {
                for child in self.running.values_mut() {
                    drop(child.stdin.take());
                }
            } else {
                for cell in ready(self.spec, &self.finished)? {
                    let name = cell.to_string();
                    let is_new =
                        !self.running.contains_key(&name) && !self.failed.contains_key(&name);
                    if is_new && self.running.len() < jobs {
                        let child = self.spawn(&cell, false, Some(sender))?;
                        self.running.insert(name, child);
                    }
                }
            }
            if self.running.is_empty() {
                return Ok(());
            }
            match receiver.recv_timeout(Duration::from_millis(500)) {
                Ok(Message::Steps(cell, steps)) => {
                    self.steps.insert(cell, steps);
                    self.show();
                }
                Ok(Message::Closed(cell)) => self.ended(&cell)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    unreachable!("this call holds a sender")
                }
            }
        }
    }

    /// Starts the process of a cell.
    fn spawn(&self, cell: &CellId, times: bool, sender: Option<&Sender<Message>>) -> Result<Child> {
        let folder = cell.folder(&self.options.out);
        let parent = folder.parent().unwrap_or(&self.options.out);
        std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
        let log = beside(&folder, "log");
        let log = File::create(&log).map_err(Error::io(&log))?;
        let mut command = Command::new(&self.options.program);
        command
            .arg("experiment-cell")
            .arg(&self.options.out)
            .arg(cell.to_string())
            .args(times.then_some("--time"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = command.spawn().map_err(Error::io(&self.options.program))?;
        if let (Some(stdout), Some(sender)) = (child.stdout.take(), sender) {
            let (name, sender) = (cell.to_string(), sender.clone());
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(|line| line.ok()) {
                    if let Ok(steps) = line.trim().parse() {
                        // Nobody listens once the run is over.
                        let _ = sender.send(Message::Steps(name.clone(), steps));
                    }
                }
                let _ = sender.send(Message::Closed(name));
            });
        }
        Ok(child)
    }

    fn ended(&mut self, name: &str) -> Result<()> {
        let Some(mut child) = self.running.remove(name) else {
            return Ok(());
        };
        let folder = CellId::parse(name)?.folder(&self.options.out);
        let status = child.wait().map_err(Error::io(&folder))?;
        self.steps.remove(name);
        if status.success() {
            let record: Record = read_json(&folder.join("result.json"))?;
            let (hits, n) = (record.items.hits(), record.items.correct.len());
            self.finished.insert(name.to_owned(), record);
            self.show();
            self.tell(&format!(
                "{}/{} {name}: {hits} of {n} right{}",
                self.finished.len(),
                total(self.spec),
                self.left()
            ));
        } else if !self.options.stop.load(Ordering::Relaxed) {
            let log = std::fs::read_to_string(beside(&folder, "log")).unwrap_or_default();
            let last = log.lines().rfind(|line| !line.trim().is_empty());
            let why = format!("{status}: {}", last.unwrap_or("it said nothing"));
            self.tell(&format!("{name} failed, {why}"));
            self.failed.insert(name.to_owned(), why);
        }
        Ok(())
    }

    fn made(&self) -> u64 {
        self.finished.len() as u64 * self.spec.steps + self.steps.values().sum::<u64>()
    }

    fn show(&self) {
        self.bar.set_position(self.made());
        let (done, all) = (self.finished.len(), total(self.spec));
        self.bar.set_message(format!("{done}/{all} cells"));
    }

    fn tell(&self, line: &str) {
        if std::io::stderr().is_terminal() {
            self.bar.println(line);
        } else {
            eprintln!("{line}");
        }
    }

    /// The time left, from the pace since this run began.
    fn left(&self) -> String {
        let made = self.made();
        let pace = self.began.elapsed().as_secs_f64() / (made - self.steps_at_begin).max(1) as f64;
        let rest = total(self.spec) as u64 * self.spec.steps - made;
        format!(", {:.0} min left", (pace * rest as f64 / 60.0).ceil())
    }

    /// Times the chosen bundles one after the other.
    fn time(&mut self) -> Result<()> {
        if self.spec.evaluation.timed_questions == 0 {
            return Ok(());
        }
        for cell in chosen_cells(self.spec, &self.finished) {
            let folder = cell.folder(&self.options.out);
            let record = &self.finished[&cell.to_string()];
            let before = read_json::<Timing>(&folder.join("timing.json"));
            if before.is_ok_and(|timing| timing.definition == record.definition) {
                continue;
            }
            if self.options.stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            let child = self.spawn(&cell, true, None)?;
            let output = child.wait_with_output().map_err(Error::io(&folder))?;
            if !output.status.success() {
                let message = format!("{cell}: cannot be timed, {}", output.status);
                return Err(Error::Experiment(message));
            }
        }
        Ok(())
    }
}

/// The finished cells at chosen learning rates: those that the report is about.
pub(crate) fn chosen_cells(spec: &Spec, finished: &Finished) -> Vec<CellId> {
    let mut out = Vec::new();
    for task in &spec.task {
        for method in &spec.method {
            if let Some(rate) = chosen_rate(spec, &task.label, &method.label, finished) {
                let cells = spec.seeds.iter();
                let cells = cells.map(|seed| id(&task.label, &method.label, *seed, rate));
                out.extend(cells.filter(|cell| finished.contains_key(&cell.to_string())));
            }
        }
    }
    out
}

/// A file beside a cell's folder.
fn beside(folder: &Path, extension: &str) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(extension);
    folder.with_file_name(name)
}

/// The finished cells of a folder whose definitions are those of the experiment. Which cells are wanted depends on what others found, so this goes on
/// until nothing new is found.
pub(super) fn load(spec: &Spec, out: &Path) -> Result<Finished> {
    let mut finished = Finished::new();
    let mut seen = BTreeSet::new();
    loop {
        let before = finished.len();
        for cell in ready(spec, &finished)? {
            let (name, path) = (cell.to_string(), cell.folder(out).join("result.json"));
            if !path.exists() || seen.contains(&name) {
                continue;
            }
            let prepared = Files::new(out, &cell.task).prepared()?;
            let measured = measured_rate(spec, &cell, &finished)?.flatten();
            let expected = definition(spec, &cell, &prepared, measured)?;
            seen.insert(name.clone());
            // A record of an older format is as good as none.
            if let Ok(record) = read_json::<Record>(&path)
                && record.definition == expected
            {
                finished.insert(name, record);
            }
        }
        if finished.len() == before {
            return Ok(finished);
        }
    }
}

/// What the process of a cell does: teaches, exports, asks, writes `result.json`; or, with `times`, only measures how long answers take.
///
/// # Errors
/// [`Error::Stopped`] if the stop handle is set; whatever the method or the runtime reports.
pub fn run_cell(
    out: &Path,
    cell: &CellId,
    times: bool,
    stop: Arc<AtomicBool>,
    progress: &dyn Fn(u64),
) -> Result<()> {
    use_threads(1);
    let path = out.join("experiment.toml");
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let spec = Spec::from_toml(&text)?;
    let folder = cell.folder(out);
    let parent = folder.parent().unwrap_or(out);
    std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
    let path = beside(&folder, "lock");
    let lock = File::create(&path).map_err(Error::io(&path))?;
    lock.lock().map_err(Error::io(&path))?;
    let files = Files::new(out, &cell.task);
    let (task, method) = (
        &spec.task(&cell.task)?.task,
        &spec.method(&cell.method)?.method,
    );
    let measured_rate = measured_rate(&spec, cell, &load(&spec, out)?)?.ok_or_else(|| {
        let message = format!("{cell}: the method that it depends on is not finished");
        Error::Experiment(message)
    })?;
    let definition = definition(&spec, cell, &files.prepared()?, measured_rate)?;
    let bundle = folder.join("student.skim");
    let most = spec.evaluation.max_answer_tokens;
    if times {
        let record: Record = read_json(&folder.join("result.json"))?;
        let rows = files.read(Split::Test)?;
        let rows = &rows[..rows.len().min(spec.evaluation.timed_questions)];
        let asked = ask(&bundle, rows, task, &record.route, most)?;
        let timing = Timing {
            definition: record.definition,
            kernels: asked.kernels,
            ms: asked.ms,
        };
        return write_json(&folder.join("timing.json"), &timing);
    }
    start_over_unless(&folder, &definition)?;
    let rows = files.read(Split::Train)?;
    let context = Context {
        spec: &spec,
        seed: cell.seed,
        learning_rate: cell.learning_rate,
        measured_rate,
        rows: &rows,
        rows_file: files.rows(Split::Train),
        tokenizer: files.tokenizer(),
        init: files.init(&spec),
        folder: folder.clone(),
        stop,
        progress,
    };
    let taught = method.teach(&context)?;
    let format = parse_format(&spec.evaluation.format)?;
    export(&taught.checkpoint, &taught.recipe, format, None, &bundle)?;
    let test_rows = files.read(Split::Test)?;
    let asked = |rows: &[_]| ask(&bundle, rows, task, taught.route, most);
    let (validation, test) = (asked(&files.read(Split::Validation)?)?, asked(&test_rows)?);
    let weights = taught.checkpoint.join("model.safetensors");
    let student = crate::checkpoint::load_student(&taught.checkpoint)?;
    let record = Record {
        definition,
        cell: cell.clone(),
        commit: commit(),
        parameters: student.num_parameters(),
        weights_sha256: Input::of(&weights)?.sha256,
        steps: taught.steps,
        flops: taught.flops,
        route: taught.route.to_owned(),
        validation_correct: validation.items.hits(),
        validation_rows: validation.items.correct.len(),
        items: test.items,
        skips: test.skips.filter(|_| writes_rationales(method)),
        labels: taught.labels,
        interventions: intervene(&bundle, &test_rows, task, taught.route, most)?,
        routing: route(
            &bundle,
            (&student, &taught.recipe),
            &test_rows,
            task,
            taught.route,
            most,
        )?,
        notes: taught.notes,
    };
    write_json(&folder.join("result.json"), &record)
}

/// Empties the folder of a cell whose definition has changed: what lies there belongs to another one.
fn start_over_unless(folder: &Path, definition: &str) -> Result<()> {
    let marker = folder.join("definition.sha256");
    if std::fs::read_to_string(&marker).is_ok_and(|text| text == definition) {
        return Ok(());
    }
    if folder.exists() {
        std::fs::remove_dir_all(folder).map_err(Error::io(folder))?;
    }
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    write_whole(&marker, definition.as_bytes())
}

/// The commit that the working directory is at, with `-dirty` if files differ from it.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    match git(&["rev-parse", "HEAD"]) {
        Some(head) => {
            let changes = git(&["status", "--porcelain", "--untracked-files=no"]);
            let is_clean = changes.is_some_and(|changes| changes.is_empty());
            head + if is_clean { "" } else { "-dirty" }
        }
        None => "unknown".to_owned(),
    }
}
