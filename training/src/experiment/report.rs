//! The report: a pure function of the finished cells and the tasks' rows, as JSON, Markdown and plots.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use skimstone::eval::wilson;

use super::cell::{Finished, Record, Timing, chosen_rate, id};
use super::interventions::Interventions;
use super::markdown::markdown;
use super::plot::{Point, write_pareto};
use super::prepare::Files;
use super::routing::Routing;
use super::run::{chosen_cells, load};
use super::spec::{MethodEntry, Spec, TaskEntry};
use super::stats::{Estimate, Verdict, bootstrap, paired};
use crate::error::{Error, Result};
use crate::manifest::Input;
use crate::methods::Method;
use crate::methods::context::{read_json, write_json, write_whole};
use crate::tasks::{Split, Task};

/// Seed of every bootstrap, so that a report can be made again.
const BOOTSTRAP_SEED: u64 = 1;

/// What an experiment found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Its name.
    pub experiment: String,
    /// Hash of its definition.
    pub spec_sha256: String,
    /// Commits of the program that ran its cells.
    pub commits: Vec<String>,
    /// Seeds of the students.
    pub seeds: Vec<u64>,
    /// Learning rates that every method was swept over.
    pub learning_rates: Vec<f64>,
    /// Optimizer steps of every student.
    pub steps: u64,
    /// How to read it.
    pub notes: Vec<String>,
    /// Cells that are missing: `task/method`.
    pub missing: Vec<String>,
    /// One part per task.
    pub tasks: Vec<TaskReport>,
}

/// What was found on a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    /// Label of the task.
    pub label: String,
    /// The task.
    pub task: Task,
    /// Its rows and tokenizer.
    pub files: Vec<Input>,
    /// Share of test rows that the most frequent training answer is right on.
    pub majority_accuracy: f64,
    /// One entry per method.
    pub methods: Vec<MethodReport>,
    /// Every method against each of its controls.
    pub comparisons: Vec<Comparison>,
}

/// How a method did. Means are per test row over all seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MethodReport {
    /// Label of the method.
    pub label: String,
    /// The method.
    pub method: Method,
    /// The learning rate that validation rows chose.
    pub learning_rate: f64,
    /// Validation accuracy of the first seed at each learning rate.
    pub sweep: Vec<f64>,
    /// Test accuracy with its bootstrap interval over seeds and questions.
    pub accuracy: Estimate,
    /// Tokens generated.
    pub generated_tokens: f64,
    /// Latent steps.
    pub latent_steps: f64,
    /// Layers run per position after the question.
    pub layer_passes: f64,
    /// Floating-point operations of teaching a student, mean over seeds.
    pub training_flops: f64,
    /// Values that were trained.
    pub parameters: u64,
    /// Test rows answered rightly: chunks that the student left out, against the truth.
    pub skipped: Option<Retrieval>,
    /// Training rows: chunks that the deletion test took out, against the truth.
    pub deleted: Option<Retrieval>,
    /// Test rows of all seeds with what latent steps read replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interventions: Option<Interventions>,
    /// Test rows of all seeds with other rules in the place of routers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing: Option<Routing>,
    /// One entry per seed.
    pub seeds: Vec<SeedReport>,
}

/// How one student did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeedReport {
    /// The seed.
    pub seed: u64,
    /// Test accuracy with its Wilson interval.
    pub accuracy: Proportion,
    /// Accuracy on validation rows.
    pub validation_accuracy: f64,
    /// Optimizer steps.
    pub steps: u64,
    /// Floating-point operations of teaching it.
    pub training_flops: u64,
    /// Hash of its weights.
    pub weights_sha256: String,
    /// Hash of its cell's definition.
    pub definition: String,
    /// What else the method tells.
    pub notes: Vec<(String, f64)>,
}

/// A share of counted things with its Wilson interval at 95 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proportion {
    /// The share; 0 of nothing.
    pub value: f64,
    /// Lower and upper end.
    pub interval: [f64; 2],
    /// Counted.
    pub hits: usize,
    /// Of how many.
    pub n: usize,
}

impl Proportion {
    pub(super) fn new(hits: usize, n: usize) -> Proportion {
        Proportion {
            value: hits as f64 / n.max(1) as f64,
            interval: wilson(hits, n),
            hits,
            n,
        }
    }
}

/// How well chunks that went agree with chunks that may go. Intervals take chunks as independent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retrieval {
    /// Share of chunks that went.
    pub rate: f64,
    /// Share of chunks that may go: the precision of deleting at random.
    pub base_rate: f64,
    /// Of those that went, the share that may go.
    pub precision: Proportion,
    /// Of those that may go, the share that went.
    pub recall: Proportion,
}

impl Retrieval {
    /// From counts of chunks: all, those that may go, those that went, those that both may go and went.
    fn new(chunks: usize, skippable: usize, gone: usize, hits: usize) -> Retrieval {
        Retrieval {
            rate: gone as f64 / chunks.max(1) as f64,
            base_rate: skippable as f64 / chunks.max(1) as f64,
            precision: Proportion::new(hits, gone),
            recall: Proportion::new(hits, skippable),
        }
    }
}

/// A method against a control: paired differences, method minus control.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Label of the method.
    pub method: String,
    /// Label of the control.
    pub control: String,
    /// Difference of accuracies.
    pub accuracy: Difference,
    /// Difference of generated tokens.
    pub generated_tokens: Difference,
    /// Difference of layer passes.
    pub layer_passes: Difference,
}

/// A paired difference and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The difference with its bootstrap interval over seeds and questions.
    #[serde(flatten)]
    pub estimate: Estimate,
    /// What the interval says.
    pub verdict: Verdict,
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} minus {}:", self.method, self.control)?;
        let lines = [
            ("accuracy, points", self.accuracy, 100.0),
            ("generated tokens", self.generated_tokens, 1.0),
            ("layer passes", self.layer_passes, 1.0),
        ];
        for (what, Difference { estimate, verdict }, unit) in lines {
            let [low, high] = estimate.interval.map(|end| end * unit);
            let (value, words) = (estimate.value * unit, verdict.words());
            writeln!(f, "  {what}: {value:+.2} [{low:+.2}, {high:+.2}] {words}")?;
        }
        Ok(())
    }
}

impl Difference {
    fn new(a: &[Vec<f64>], b: &[Vec<f64>]) -> Difference {
        let estimate = paired(a, b, BOOTSTRAP_SEED);
        Difference {
            verdict: estimate.verdict(),
            estimate,
        }
    }
}

/// The records of a method on a task at the chosen rate, in the order of the seeds; `None` if one is missing.
fn records<'a>(
    spec: &Spec,
    task: &str,
    method: &str,
    finished: &'a Finished,
) -> Option<Vec<&'a Record>> {
    let rate = chosen_rate(spec, task, method, finished)?;
    let seeds = spec.seeds.iter();
    seeds
        .map(|seed| finished.get(&id(task, method, *seed, rate).to_string()))
        .collect()
}

fn per_item(records: &[&Record], of: impl Fn(&Record) -> Vec<f64>) -> Vec<Vec<f64>> {
    records.iter().map(|record| of(record)).collect()
}

fn numbers(values: &[usize]) -> Vec<f64> {
    values.iter().map(|value| *value as f64).collect()
}

fn mean(values: &[Vec<f64>]) -> f64 {
    let n: usize = values.iter().map(Vec::len).sum();
    values.iter().flatten().sum::<f64>() / n.max(1) as f64
}

fn method_report(
    spec: &Spec,
    task: &str,
    entry: &MethodEntry,
    finished: &Finished,
) -> Option<MethodReport> {
    let records = records(spec, task, &entry.label, finished)?;
    let sweep = spec.learning_rates.iter().map(|rate| {
        let cell = id(task, &entry.label, spec.seeds[0], *rate);
        finished[&cell.to_string()].validation_accuracy()
    });
    let sum = |counts: &dyn Fn(&Record) -> Option<[usize; 4]>| {
        let all: Option<Vec<[usize; 4]>> = records.iter().map(|record| counts(record)).collect();
        let sums = all?.into_iter().fold([0; 4], |mut sums, counts| {
            sums.iter_mut().zip(counts).for_each(|(s, c)| *s += c);
            sums
        });
        let [chunks, skippable, gone, hits] = sums;
        (chunks > 0).then(|| Retrieval::new(chunks, skippable, gone, hits))
    };
    Some(MethodReport {
        label: entry.label.clone(),
        method: entry.method.clone(),
        learning_rate: records[0].cell.learning_rate,
        sweep: sweep.collect(),
        accuracy: bootstrap(&per_item(&records, |r| r.items.correct()), BOOTSTRAP_SEED),
        generated_tokens: mean(&per_item(&records, |r| numbers(&r.items.generated_tokens))),
        latent_steps: mean(&per_item(&records, |r| numbers(&r.items.latent_steps))),
        layer_passes: mean(&per_item(&records, |r| numbers(&r.items.layer_passes))),
        training_flops: mean(&[records.iter().map(|r| r.flops as f64).collect()]),
        parameters: records[0].parameters,
        skipped: sum(&|record| {
            let skips = record.skips?;
            Some([skips.chunks, skips.skippable, skips.skipped, skips.hits])
        }),
        deleted: sum(&|record| {
            let labels = record.labels?;
            Some([
                labels.known,
                labels.skippable,
                labels.deleted_known,
                labels.hits,
            ])
        }),
        interventions: records
            .iter()
            .filter_map(|record| record.interventions)
            .reduce(Interventions::add),
        routing: records
            .iter()
            .filter_map(|record| record.routing.clone())
            .reduce(Routing::add),
        seeds: records
            .iter()
            .map(|record| SeedReport {
                seed: record.cell.seed,
                accuracy: Proportion::new(record.items.hits(), record.items.correct.len()),
                validation_accuracy: record.validation_accuracy(),
                steps: record.steps,
                training_flops: record.flops,
                weights_sha256: record.weights_sha256.clone(),
                definition: record.definition.clone(),
                notes: record.notes.clone(),
            })
            .collect(),
    })
}

/// A method against another one, if both are finished.
fn comparison(
    spec: &Spec,
    task: &str,
    method: &str,
    control: &str,
    finished: &Finished,
) -> Option<Comparison> {
    let a = records(spec, task, method, finished)?;
    let b = records(spec, task, control, finished)?;
    let difference =
        |of: &dyn Fn(&Record) -> Vec<f64>| Difference::new(&per_item(&a, of), &per_item(&b, of));
    Some(Comparison {
        method: method.to_owned(),
        control: control.to_owned(),
        accuracy: difference(&|r| r.items.correct()),
        generated_tokens: difference(&|r| numbers(&r.items.generated_tokens)),
        layer_passes: difference(&|r| numbers(&r.items.layer_passes)),
    })
}

/// Any two methods of an experiment's folder on a task, whether or not one is the other's control.
///
/// # Errors
/// [`Error::Experiment`] for unknown labels or if one of them is not finished.
pub fn compare(out: &Path, task: &str, method: &str, control: &str) -> Result<Comparison> {
    let path = out.join("experiment.toml");
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let spec = Spec::from_toml(&text)?;
    spec.task(task)?;
    for label in [method, control] {
        spec.method(label)?;
    }
    let found = comparison(&spec, task, method, control, &load(&spec, out)?);
    found.ok_or_else(|| {
        let message = format!("`{method}` and `{control}` are not both finished on `{task}`");
        Error::Experiment(message)
    })
}

fn comparisons(spec: &Spec, task: &str, finished: &Finished) -> Vec<Comparison> {
    let mut out = Vec::new();
    for entry in &spec.method {
        for control in &entry.controls {
            out.extend(comparison(spec, task, &entry.label, control, finished));
        }
    }
    out
}

/// The share of test rows that the most frequent training answer is right on; of equally frequent ones the first in the alphabet.
fn majority_accuracy(entry: &TaskEntry, files: &Files) -> Result<f64> {
    let mut counts = BTreeMap::<String, usize>::new();
    for row in files.read(Split::Train)? {
        *counts.entry(row.answer).or_default() += 1;
    }
    let most = counts.values().max().copied().unwrap_or(0);
    let answer = counts.into_iter().find(|(_, count)| *count == most);
    let (answer, _) = answer.unwrap_or_default();
    let test = files.read(Split::Test)?;
    let hits = test.iter().filter(|row| entry.task.grade(row, &answer));
    Ok(hits.count() as f64 / test.len().max(1) as f64)
}

impl Report {
    /// The report on what is finished.
    ///
    /// # Errors
    /// If the rows of a task cannot be read.
    pub(crate) fn new(spec: &Spec, finished: &Finished, out: &Path) -> Result<Report> {
        let (mut tasks, mut missing) = (Vec::new(), Vec::new());
        for entry in &spec.task {
            let files = Files::new(out, &entry.label);
            let mut methods = Vec::new();
            for method in &spec.method {
                match method_report(spec, &entry.label, method, finished) {
                    Some(report) => methods.push(report),
                    None => missing.push(format!("{}/{}", entry.label, method.label)),
                }
            }
            tasks.push(TaskReport {
                label: entry.label.clone(),
                task: entry.task.clone(),
                files: files.prepared()?.files,
                majority_accuracy: majority_accuracy(entry, &files)?,
                methods,
                comparisons: comparisons(spec, &entry.label, finished),
            });
        }
        let commits: BTreeSet<String> = finished.values().map(|r| r.commit.clone()).collect();
        Ok(Report {
            experiment: spec.name.clone(),
            spec_sha256: format!("{:x}", Sha256::digest(definition_text(spec)?)),
            commits: commits.into_iter().collect(),
            seeds: spec.seeds.clone(),
            learning_rates: spec.learning_rates.clone(),
            steps: spec.steps,
            notes: notes(spec),
            missing,
            tasks,
        })
    }
}

/// The experiment without the paths of its files, which say nothing about what was done: rows go by their hashes.
fn definition_text(spec: &Spec) -> Result<String> {
    let mut spec = spec.clone();
    for entry in &mut spec.task {
        entry.task.forget_folders();
    }
    if let Some(init) = &mut spec.init {
        *init = init.file_name().unwrap_or_default().into();
    }
    spec.to_toml()
}

fn notes(spec: &Spec) -> Vec<String> {
    let first = spec.seeds[0];
    let init = spec.init.iter().map(|init| {
        let name = init.file_name().unwrap_or_default().to_string_lossy();
        format!("Every student begins as `{name}`, which differs from seed to seed in nothing: seeds are of what comes after.")
    });
    let notes = [
        format!(
            "Every student makes {} optimizer steps, over all trainings of its method together, of {} rows each unless its notes say otherwise.",
            spec.steps, spec.batch_rows
        ),
        format!(
            "Every method is swept over the same learning rates with seed {first}; the rate with the highest accuracy on validation rows is taken for all seeds. Test rows choose nothing."
        ),
        "Accuracies and differences: 95 % percentile intervals of a bootstrap over seeds and questions, paired in differences. With few seeds they are rather too narrow. One student's accuracy and shares of chunks: Wilson intervals at 95 %, chunks taken as independent.".to_owned(),
        "A difference whose interval contains zero is not resolved. Intervals are not corrected for the number of comparisons.".to_owned(),
        "Layer passes: layers run per position after the question, opening and pause tokens included. Training FLOPs: matrix products and attention of all trainings and of the scoring that a method does for them.".to_owned(),
    ];
    init.chain(notes).collect()
}

/// Writes `report.json`, `report.md` and a plot per task; what is timed goes into the Markdown and into `timings.json`.
///
/// # Errors
/// If a file cannot be read or written.
pub(crate) fn write_report(spec: &Spec, finished: &Finished, out: &Path) -> Result<()> {
    let report = Report::new(spec, finished, out)?;
    let mut timings = BTreeMap::<String, Timing>::new();
    for cell in chosen_cells(spec, finished) {
        if let Ok(timing) = read_json(&cell.folder(out).join("timing.json")) {
            timings.insert(cell.to_string(), timing);
        }
    }
    write_json(&out.join("report.json"), &report)?;
    write_json(&out.join("timings.json"), &timings)?;
    for task in &report.tasks {
        let points: Vec<Point> = task.methods.iter().map(Point::of).collect();
        write_pareto(&points, &out.join(format!("pareto-{}.svg", task.label)))?;
    }
    write_whole(
        &out.join("report.md"),
        markdown(&report, &timings).as_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retrieval_agrees_with_a_count_by_hand() {
        // 100 chunks, 40 may go, 20 went, 15 of them rightly.
        let found = Retrieval::new(100, 40, 20, 15);
        assert_eq!((found.rate, found.base_rate), (0.2, 0.4));
        assert_eq!((found.precision.value, found.recall.value), (0.75, 0.375));
        // Wilson: centre (0.75 + 1.9208/20) / (1 + 3.8415/20) = 0.7097, half width 0.1784.
        let [low, high] = found.precision.interval;
        assert!((low - 0.5313).abs() < 5e-4 && (high - 0.8881).abs() < 5e-4);
        let none = Retrieval::new(100, 40, 0, 0);
        assert_eq!(none.precision.value, 0.0);
        assert_eq!(none.precision.interval, [0.0, 1.0]);
    }
}
