//! What `skim run` shows to people: the stream on standard output, the costs on standard error.

use std::borrow::Cow;
use std::io::{self, StdoutLock, Write};

use skimstone::reason::{Choice, Event};
use skimstone::{FinishReason, Model, Piece};

use super::report::Report;
use crate::failure::Result;
use crate::terminal::{Style, counted, grouped};

/// Streams to standard output: thinking dimmed, then a blank line, then the answer.
pub(super) struct View {
    stdout: StdoutLock<'static>,
    style: Style,
    /// The model has no tokenizer: it speaks in ids.
    in_ids: bool,
    /// Chunks are shown as lines; otherwise their own text says where they end.
    separated: bool,
    /// A chunk began that has no text yet; a budget may end it before it has.
    new_line: bool,
    thought: bool,
    answered: bool,
}

impl View {
    pub(super) fn new(model: &Model) -> Self {
        let stdout = io::stdout().lock();
        View {
            style: Style::of(&stdout),
            stdout,
            in_ids: model.bundle().tokenizer_json().is_none(),
            separated: model.reasoning().chunk.is_some(),
            new_line: false,
            thought: false,
            answered: false,
        }
    }

    pub(super) fn show(&mut self, event: &Event) -> Result {
        match event {
            Event::ChunkStarted { index } => {
                self.new_line = self.separated && *index > 0;
                return Ok(());
            }
            Event::ThinkingText(piece) => {
                let text = self.readable(piece);
                self.thought |= !text.is_empty();
                if std::mem::take(&mut self.new_line) {
                    writeln!(self.stdout)?;
                }
                write!(self.stdout, "{}", self.style.dim(&text))?;
            }
            Event::Decision(decision) => {
                // The next rung thinks anew.
                if self.thought && matches!(decision.choice, Choice::RungEscalated { .. }) {
                    write!(self.stdout, "\n\n")?;
                    self.thought = false;
                }
            }
            Event::AnswerText(piece) => return self.answer(piece),
            Event::Finished(_) => return self.end(),
            _ => return Ok(()),
        }
        Ok(self.stdout.flush()?)
    }

    pub(super) fn answer(&mut self, piece: &Piece) -> Result {
        if self.thought && !self.answered {
            write!(self.stdout, "\n\n")?;
        }
        self.answered = true;
        let text = self.readable(piece);
        write!(self.stdout, "{text}")?;
        Ok(self.stdout.flush()?)
    }

    pub(super) fn end(&mut self) -> Result {
        writeln!(self.stdout)?;
        Ok(self.stdout.flush()?)
    }

    fn readable<'p>(&self, piece: &'p Piece) -> Cow<'p, str> {
        if self.in_ids {
            piece.ids.iter().map(|id| format!("{id} ")).collect()
        } else {
            Cow::Borrowed(&piece.text)
        }
    }
}

/// One line: what the answer cost, and why it ended if not by itself.
pub(super) fn print_costs(report: &Report<'_>) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    let usage = &report.usage;
    let route = match (&report.route, &report.along) {
        (Some(route), Some(along)) if route != along => format!("{route}, by {along}"),
        (Some(route), _) => route.clone(),
        (None, _) => "raw".to_owned(),
    };
    let mut parts = vec![route];
    parts.push(counted(usage.generated_tokens, "token"));
    if usage.thinking_tokens > 0 {
        parts.push(format!(
            "{} thinking",
            grouped(usage.thinking_tokens as u64)
        ));
    }
    if usage.rungs > 1 {
        let rejected = grouped(usage.rejected_tokens as u64);
        parts.push(format!("{} rungs, {rejected} rejected", usage.rungs));
    }
    if usage.probes > 0 {
        parts.push(counted(usage.probes, "probe"));
    }
    if usage.skipped_tokens > 0 {
        let skipped = grouped(usage.skipped_tokens as u64);
        parts.push(format!("about {skipped} skipped"));
    }
    if usage.dropped_tokens > 0 {
        parts.push(format!("{} dropped", grouped(usage.dropped_tokens as u64)));
    }
    if usage.latent_steps > 0 {
        parts.push(counted(usage.latent_steps, "latent step"));
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
