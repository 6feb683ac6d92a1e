//! What is kept of an experiment: its report and the students that it is about, small enough to be committed.

use std::path::{Path, PathBuf};

use super::cell::{chosen_rate, id};
use super::run::load;
use super::spec::Spec;
use crate::error::{Error, Result};

/// Most bytes of a student.
const MAX_STUDENT_BYTES: u64 = 2 << 20;
/// Most bytes of all students.
const MAX_STUDENTS_BYTES: u64 = 12 << 20;

/// Copies report, plots and, of every method of `students`, the first seed's bundle at the chosen learning rate as `students/TASK-METHOD.skim`.
/// Returns what was written. An empty list stands for all methods.
///
/// # Errors
/// [`Error::Experiment`] for an unknown or unfinished method, a missing report, or students of more than 2 MiB each or 12 MiB in all: then nothing
/// is written. [`Error::Io`].
pub fn publish(out: &Path, students: &[String], to: &Path) -> Result<Vec<PathBuf>> {
    let path = out.join("experiment.toml");
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let spec = Spec::from_toml(&text)?;
    let finished = load(&spec, out)?;
    let mut copies: Vec<(PathBuf, PathBuf)> = Vec::new();
    for name in ["report.json", "report.md"] {
        let report = out.join(name);
        if !report.exists() {
            return Err(Error::Experiment(format!(
                "{}: not there; run the experiment to its end first",
                report.display()
            )));
        }
        copies.push((report, to.join(name)));
    }
    for task in &spec.task {
        let plot = format!("pareto-{}.svg", task.label);
        copies.push((out.join(&plot), to.join(&plot)));
    }
    let labels: Vec<&String> = match students.is_empty() {
        true => spec.method.iter().map(|method| &method.label).collect(),
        false => students.iter().collect(),
    };
    let mut total = 0;
    for task in &spec.task {
        for label in &labels {
            spec.method(label)?;
            let rate = chosen_rate(&spec, &task.label, label, &finished);
            let cell = rate.map(|rate| id(&task.label, label, spec.seeds[0], rate));
            let Some(cell) = cell else {
                let message = format!("{}/{label} is not finished", task.label);
                return Err(Error::Experiment(message));
            };
            let bundle = cell.folder(out).join("student.skim");
            let bytes = std::fs::metadata(&bundle)
                .map_err(Error::io(&bundle))?
                .len();
            total += bytes;
            if bytes > MAX_STUDENT_BYTES || total > MAX_STUDENTS_BYTES {
                return Err(Error::Experiment(format!(
                    "{}: {bytes} bytes, {total} with those before it; at most {MAX_STUDENT_BYTES} and {MAX_STUDENTS_BYTES} are published: name fewer \
                     methods, or set `evaluation.format` to q8",
                    bundle.display()
                )));
            }
            let name = format!("{}-{label}.skim", task.label);
            copies.push((bundle, to.join("students").join(name)));
        }
    }
    let folder = to.join("students");
    std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    for (from, to) in &copies {
        std::fs::copy(from, to).map_err(Error::io(from))?;
    }
    Ok(copies.into_iter().map(|(_, to)| to).collect())
}
