//! Plain lines on standard error, no more often than every few seconds: for logs and pipes.

use std::time::{Duration, Instant};

use super::{Event, View};
use crate::error::Result;

/// Writes events as lines.
#[derive(Debug)]
pub struct Lines {
    every: Duration,
    last: Option<Instant>,
    steps: u64,
}

impl Lines {
    /// At most one line about steps per `every`; other events always.
    pub fn new(every: Duration) -> Lines {
        Lines {
            every,
            last: None,
            steps: 0,
        }
    }
}

impl View for Lines {
    fn event(&mut self, event: &Event) -> Result<()> {
        if let Event::Started { steps, .. } = event {
            self.steps = *steps;
        }
        if let Event::Step { .. } = event {
            if self.last.is_some_and(|last| last.elapsed() < self.every) {
                return Ok(());
            }
            self.last = Some(Instant::now());
        }
        eprintln!("{}", describe(event, self.steps));
        Ok(())
    }
}

/// An event as one line.
pub(super) fn describe(event: &Event, steps: u64) -> String {
    match event {
        Event::Started {
            parameters,
            rows,
            tokens,
            step,
            workers,
            ..
        } => {
            format!(
                "{parameters} parameters, {rows} rows, {tokens} tokens, {workers} workers, from step {step} of {steps}"
            )
        }
        Event::Step {
            step,
            epoch,
            loss,
            token_accuracy,
            learning_rate,
            gradient_norm,
            tokens_per_s,
            row_tokens_per_s,
            ..
        } => {
            format!(
                "step {step}/{steps} epoch {epoch} loss {loss:.4} tokens right {:.2}% rate {learning_rate:.2e} \
                 norm {gradient_norm:.2} {tokens_per_s:.0} tokens/s ({row_tokens_per_s:.0} unshared)",
                token_accuracy * 100.0
            )
        }
        Event::Validation {
            step,
            loss,
            token_accuracy,
            row_accuracy,
        } => {
            let rows: Vec<String> = row_accuracy
                .iter()
                .map(|(route, a)| format!("{route} {:.2}%", a * 100.0))
                .collect();
            format!(
                "step {step} validation loss {loss:.4} tokens right {:.2}% answers right: {}",
                token_accuracy * 100.0,
                rows.join(", ")
            )
        }
        Event::Saved { step, path } => format!("step {step} saved {}", path.display()),
        Event::Finished {
            step,
            reason,
            elapsed_s,
        } => format!("finished at step {step} ({reason:?}) after {elapsed_s:.0} s"),
    }
}
