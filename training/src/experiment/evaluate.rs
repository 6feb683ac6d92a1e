//! Asking a bundle through the runtime: greedily, one question at a time, on one thread.

use std::path::Path;

use skimstone::reason::{Ask, Engine, EngineOptions};
use skimstone::{Model, ModelOptions};

use super::cell::{Items, Skips};
use crate::data::Row;
use crate::error::Result;
use crate::tasks::Task;

/// What a bundle did on a set of rows.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub items: Items,
    pub skips: Option<Skips>,
    pub ms: Vec<f64>,
    pub kernels: String,
}

/// Asks every row on a route. Skips are counted where the task knows them.
pub(crate) fn ask(
    bundle: &Path,
    rows: &[Row],
    task: &Task,
    route: &str,
    max_answer_tokens: usize,
) -> Result<Asked> {
    let model = Model::open(bundle, ModelOptions::new().with_threads(1))?;
    let mut engine = Engine::new(&model, EngineOptions::default().with_reuse_prefix(false))?;
    let layers = model.config().num_hidden_layers;
    let open = model.reasoning().route(route)?.open.len();
    let ask = Ask::new()
        .with_route(route)
        .with_max_answer_tokens(max_answer_tokens);
    let mut asked = Asked {
        kernels: model.kernels().to_owned(),
        ..Asked::default()
    };
    for row in rows {
        let answer = engine.answer_text(&row.question, &ask)?;
        let usage = &answer.usage;
        let is_right = task.grade(row, &answer.text);
        asked.items.correct.push(if is_right { '1' } else { '0' });
        asked.items.generated_tokens.push(usage.generated_tokens);
        asked.items.latent_steps.push(usage.latent_steps);
        // The question costs every method the same; what a route puts after it does not.
        let passes = usage.layer_passes + open * layers;
        asked.items.layer_passes.push(passes);
        asked
            .ms
            .push(usage.ms_prefill + usage.ms_thinking + usage.ms_answer);
        if is_right && !row.skippable.is_empty() {
            let lines: Vec<&str> = answer.thinking.lines().map(str::trim).collect();
            let skips = asked.skips.get_or_insert_default();
            for (written, skippable) in written(&row.chunks, &lines).into_iter().zip(&row.skippable)
            {
                skips.chunks += 1;
                skips.skippable += usize::from(*skippable);
                skips.skipped += usize::from(!written);
                skips.hits += usize::from(!written && *skippable);
            }
        }
    }
    Ok(asked)
}

/// Which chunks a student wrote: its lines are matched in order, each with the next equal chunk. A line that is no chunk matches none.
fn written(chunks: &[String], lines: &[&str]) -> Vec<bool> {
    let mut out = vec![false; chunks.len()];
    let mut next = 0;
    for line in lines {
        let found = chunks[next..]
            .iter()
            .position(|chunk| chunk.trim() == *line);
        if let Some(ahead) = found {
            out[next + ahead] = true;
            next += ahead + 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_matched_in_order() {
        let chunks = ["1+2=3", "3+0=3", "fine", "3*2=6"].map(str::to_owned);
        let cases: [(&[&str], [bool; 4]); 4] = [
            (&["1+2=3", "3+0=3", "fine", "3*2=6"], [true; 4]),
            (&["1+2=3", "3*2=6"], [true, false, false, true]),
            (&["odd", "1+2=3", "3*2=6"], [true, false, false, true]),
            (&[], [false; 4]),
        ];
        for (lines, expected) in cases {
            assert_eq!(written(&chunks, lines), expected);
        }
    }
}
