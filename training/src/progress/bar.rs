//! A progress bar on a terminal.

use indicatif::{ProgressBar, ProgressStyle};

use super::lines::describe;
use super::{Event, View};
use crate::error::Result;

/// Shows events as a bar with the latest loss, and the rarer ones as lines above it.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
}

impl Bar {
    /// A bar that learns its length from [`Event::Started`].
    pub fn new() -> Bar {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} eta {eta} {msg}");
        Bar {
            bar: ProgressBar::new(0)
                .with_style(style.expect("the template is a constant that parses")),
        }
    }
}

impl Default for Bar {
    fn default() -> Self {
        Bar::new()
    }
}

impl View for Bar {
    fn event(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Started { step, steps, .. } => {
                self.bar.set_length(*steps);
                self.bar.set_position(*step);
                self.bar.reset_eta();
                self.bar.println(describe(event, *steps));
            }
            Event::Step {
                step,
                loss,
                token_accuracy,
                tokens_per_s,
                ..
            } => {
                self.bar.set_position(*step);
                self.bar.set_message(format!(
                    "loss {loss:.4} right {:.2}% {tokens_per_s:.0} tokens/s",
                    token_accuracy * 100.0
                ));
            }
            Event::Finished { .. } => {
                self.bar.abandon();
                self.bar
                    .println(describe(event, self.bar.length().unwrap_or(0)));
            }
            _ => self
                .bar
                .println(describe(event, self.bar.length().unwrap_or(0))),
        }
        Ok(())
    }
}
