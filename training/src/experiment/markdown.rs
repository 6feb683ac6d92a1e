//! The report for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::cell::{Timing, id};
use super::report::{Proportion, Report, TaskReport};
use super::routing::Routing;

/// The report as Markdown; `timings` by cell, may be empty.
pub fn markdown(report: &Report, timings: &BTreeMap<String, Timing>) -> String {
    let mut text = format!("# Experiment `{}`\n\n", report.experiment);
    for note in &report.notes {
        let _ = writeln!(text, "- {note}");
    }
    let seeds: Vec<String> = report.seeds.iter().map(u64::to_string).collect();
    let _ = writeln!(
        text,
        "- Seeds {}; learning rates {:?}; definition `{}`; commit {}.",
        seeds.join(", "),
        report.learning_rates,
        &report.spec_sha256[..12],
        report.commits.join(", ")
    );
    if !report.missing.is_empty() {
        let _ = writeln!(text, "- **Missing**: {}.", report.missing.join(", "));
    }
    for task in &report.tasks {
        task_markdown(&mut text, task, timings);
    }
    text
}

fn task_markdown(text: &mut String, task: &TaskReport, timings: &BTreeMap<String, Timing>) {
    let percent = |value: f64| format!("{:.1}", value * 100.0);
    let range = |[low, high]: [f64; 2]| format!("{} – {}", percent(low), percent(high));
    let _ = writeln!(
        text,
        "\n## {}\n\nThe most frequent training answer is right on {} % of the test rows.\n\n![accuracy by layer passes](pareto-{}.svg)\n",
        task.label,
        percent(task.majority_accuracy),
        task.label
    );
    *text += "| method | accuracy % | interval | by seed | tokens | latent steps | layer passes | ms p50 | ms p95 | training GFLOP | rate |\n";
    *text += "|---|---|---|---|---|---|---|---|---|---|---|\n";
    for method in &task.methods {
        let by_seed: Vec<String> = method
            .seeds
            .iter()
            .map(|seed| percent(seed.accuracy.value))
            .collect();
        let of_method: Vec<&Timing> = method
            .seeds
            .iter()
            .filter_map(|seed| {
                let cell = id(&task.label, &method.label, seed.seed, method.learning_rate);
                timings.get(&cell.to_string())
            })
            .collect();
        let ms = |share: f64| match of_method.len() {
            0 => "–".to_owned(),
            n => {
                let sum: f64 = of_method.iter().map(|t| t.quantile(share)).sum();
                format!("{:.2}", sum / n as f64)
            }
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {:.1} | {:.1} | {:.1} | {} | {} | {:.0} | {:e} |",
            method.label,
            percent(method.accuracy.value),
            range(method.accuracy.interval),
            by_seed.join(", "),
            method.generated_tokens,
            method.latent_steps,
            method.layer_passes,
            ms(0.5),
            ms(0.95),
            method.training_flops / 1e9,
            method.learning_rate
        );
    }
    if task
        .methods
        .iter()
        .any(|m| m.skipped.is_some() || m.deleted.is_some())
    {
        *text += "\nChunks that went, against the truth. Deleted: by the method from training rows. Skipped: by the student, on test rows that it answered rightly.\n\n";
        *text += "| method | chunks | share gone % | base rate % | precision % | interval | recall % | interval |\n|---|---|---|---|---|---|---|---|\n";
        for method in &task.methods {
            for (what, found) in [("deleted", method.deleted), ("skipped", method.skipped)] {
                let Some(found) = found else {
                    continue;
                };
                let _ = writeln!(
                    text,
                    "| {} | {what} | {} | {} | {} | {} | {} | {} |",
                    method.label,
                    percent(found.rate),
                    percent(found.base_rate),
                    percent(found.precision.value),
                    range(found.precision.interval),
                    percent(found.recall.value),
                    range(found.recall.interval)
                );
            }
        }
    }
    if task.methods.iter().any(|m| m.interventions.is_some()) {
        *text += "\nRight answers in % with what latent steps read replaced, over all seeds: by what those of another question read, by zeros, by their own in another order. Intervals are Wilson's.\n\n";
        *text += "| method | n | own | swapped | interval | zeroed | shuffled |\n|---|---|---|---|---|---|---|\n";
        for method in &task.methods {
            let Some(found) = method.interventions else {
                continue;
            };
            let share = |right| Proportion::new(right, found.n);
            let swapped = share(found.swapped);
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} |",
                method.label,
                found.n,
                percent(share(found.own).value),
                percent(swapped.value),
                range(swapped.interval),
                percent(share(found.zeroed).value),
                percent(share(found.shuffled).value),
            );
        }
    }
    for method in &task.methods {
        if let Some(found) = &method.routing {
            routing_markdown(text, &method.label, found);
        }
    }
    if !task.comparisons.is_empty() {
        *text += "\nPaired differences, method minus control.\n\n| method | control | accuracy, points | interval | | tokens | interval | |\n|---|---|---|---|---|---|---|---|\n";
        for comparison in &task.comparisons {
            let (accuracy, tokens) = (comparison.accuracy, comparison.generated_tokens);
            let [low, high] = tokens.estimate.interval;
            let _ = writeln!(
                text,
                "| {} | {} | {:+.1} | {:+.1} to {:+.1} | {} | {:+.1} | {low:+.1} to {high:+.1} | {} |",
                comparison.method,
                comparison.control,
                accuracy.estimate.value * 100.0,
                accuracy.estimate.interval[0] * 100.0,
                accuracy.estimate.interval[1] * 100.0,
                accuracy.verdict.words(),
                tokens.estimate.value,
                tokens.verdict.words()
            );
        }
    }
}

fn routing_markdown(text: &mut String, label: &str, found: &Routing) {
    let _ = writeln!(
        text,
        "\n`{label}`: other rules in the place of its routers, {} questions over all seeds. Layers: that all latent steps of a question ran. Intervals are Wilson's.\n",
        found.n
    );
    if !found.auroc.is_empty() {
        let by_seed: Vec<String> = found.auroc.iter().map(|x| format!("{x:.3}")).collect();
        let _ = writeln!(
            text,
            "Routers say more of a step that is not critical than of one that is, with probability (by seed): {}.\n",
            by_seed.join(", ")
        );
    }
    let mixed = Proportion::new(found.mixed, found.n);
    let [low, high] = mixed.interval.map(|x| x * 100.0);
    let _ = writeln!(
        text,
        "As it was trained, with mixes of layer and adapter instead of choices, in the training graph and in f32: {:.1} % ({low:.1} – {high:.1}).\n",
        mixed.value * 100.0
    );
    *text += "| rule | layers | accuracy % | interval |\n|---|---|---|---|\n";
    for outcome in &found.rules {
        let share = Proportion::new(outcome.right, found.n);
        let [low, high] = share.interval.map(|x| x * 100.0);
        let _ = writeln!(
            text,
            "| {} | {:.2} | {:.1} | {low:.1} – {high:.1} |",
            outcome.rule,
            outcome.layers as f64 / found.n.max(1) as f64,
            share.value * 100.0,
        );
    }
}
