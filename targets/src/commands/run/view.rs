//! What `skim run` shows to people: the stream on standard output, the costs on standard error.

use std::borrow::Cow;
use std::io::{self, StdoutLock, Write};

use skimstone::reason::Event;
use skimstone::{FinishReason, TokenId};

use super::report::Report;
use crate::failure::Result;
use crate::terminal::{Style, grouped};

/// Streams to standard output: thinking dimmed, then a blank line, then the answer.
pub(super) struct View {
    stdout: StdoutLock<'static>,
    style: Style,
    thought: bool,
    answered: bool,
}

impl View {
    pub(super) fn new() -> Self {
        let stdout = io::stdout().lock();
        View {
            style: Style::of(&stdout),
            stdout,
            thought: false,
            answered: false,
        }
    }

    pub(super) fn show(&mut self, event: &Event) -> Result {
        match event {
            Event::ChunkStarted { index } if *index > 0 => writeln!(self.stdout)?,
            Event::ThinkingText(piece) => {
                self.thought = true;
                let text = text_or_ids(&piece.text, &piece.ids);
                write!(self.stdout, "{}", self.style.dim(&text))?;
            }
            Event::AnswerText(piece) => return self.answer(&piece.text, &piece.ids),
            Event::Finished(_) => return self.end(),
            _ => return Ok(()),
        }
        Ok(self.stdout.flush()?)
    }

    pub(super) fn answer(&mut self, text: &str, ids: &[TokenId]) -> Result {
        if self.thought && !self.answered {
            write!(self.stdout, "\n\n")?;
        }
        self.answered = true;
        write!(self.stdout, "{}", text_or_ids(text, ids))?;
        Ok(self.stdout.flush()?)
    }

    pub(super) fn end(&mut self) -> Result {
        writeln!(self.stdout)?;
        Ok(self.stdout.flush()?)
    }
}

/// A model without a tokenizer speaks in ids.
fn text_or_ids<'t>(text: &'t str, ids: &[TokenId]) -> Cow<'t, str> {
    if text.is_empty() {
        ids.iter().map(|id| format!("{id} ")).collect()
    } else {
        text.into()
    }
}

/// One line: what the answer cost, and why it ended if not by itself.
pub(super) fn print_costs(report: &Report<'_>) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    let usage = &report.usage;
    let mut parts = vec![report.route.clone().unwrap_or_else(|| "raw".to_owned())];
    parts.push(format!("{} tokens", grouped(usage.generated_tokens as u64)));
    if usage.thinking_tokens > 0 {
        parts.push(format!(
            "{} thinking",
            grouped(usage.thinking_tokens as u64)
        ));
    }
    if usage.latent_steps > 0 {
        parts.push(format!("{} latent steps", usage.latent_steps));
    }
    parts.push(format!(
        "{} layer passes",
        grouped(usage.layer_passes as u64)
    ));
    let ms = usage.ms_prefill + usage.ms_thinking + usage.ms_answer;
    parts.push(format!("{ms:.1} ms"));
    match report.finish_reason {
        FinishReason::Stop => {}
        FinishReason::Length => parts.push("cut at the length".to_owned()),
        FinishReason::Budget => parts.push("cut by the budget".to_owned()),
        _ => parts.push("interrupted".to_owned()),
    }
    writeln!(stderr, "{}", Style::of(&stderr).dim(&parts.join(" · ")))
}
