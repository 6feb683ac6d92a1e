//! What `skim run --json` prints, and the tokens that events tell only in parts.

use serde::Serialize;
use skimstone::reason::{Choice, Decision, Event, Usage};
use skimstone::{FinishReason, TokenId};

/// What `--json` prints.
#[derive(Serialize)]
pub(super) struct Report<'a> {
    pub(super) text: String,
    pub(super) thinking: String,
    pub(super) ids: Vec<TokenId>,
    pub(super) prompt_ids: Vec<TokenId>,
    pub(super) generated_ids: Vec<TokenId>,
    /// `None` with `--raw`.
    pub(super) route: Option<String>,
    /// `None` with `--raw`.
    pub(super) along: Option<String>,
    /// `None` with `--raw`.
    pub(super) confidence: Option<f32>,
    /// `None` with `--raw`.
    pub(super) certainty: Option<f32>,
    pub(super) usage: Usage,
    pub(super) finish_reason: FinishReason,
    pub(super) decisions: Vec<Decision>,
    pub(super) seed: u64,
    pub(super) temperature: f32,
    pub(super) kernels: &'a str,
    pub(super) threads: usize,
}

/// Puts the tokens of the thinking together again: what events show of it leaves out separators and close.
pub(super) struct ThinkingIds {
    separator: Option<TokenId>,
    ids: Vec<TokenId>,
    closed: bool,
    /// Of the rungs before, from the cheapest on.
    before: Vec<(usize, Vec<TokenId>, bool)>,
}

impl ThinkingIds {
    pub(super) fn new(separator: Option<TokenId>) -> Self {
        ThinkingIds {
            separator,
            ids: Vec::new(),
            closed: false,
            before: Vec::new(),
        }
    }

    pub(super) fn follow(&mut self, event: &Event) {
        match event {
            Event::ChunkFinished { complete: true, .. } => self.ids.extend(self.separator),
            Event::ThinkingText(piece) => self.ids.extend(&piece.ids),
            Event::Decision(decision) => {
                if let Choice::RungEscalated { rung, .. } = decision.choice {
                    let ids = std::mem::take(&mut self.ids);
                    let closed = std::mem::take(&mut self.closed);
                    self.before.push((rung, ids, closed));
                }
                if let Choice::RungRecalled { rung, .. } = decision.choice
                    && let Some(at) = self.before.iter().position(|before| before.0 == rung)
                {
                    (_, self.ids, self.closed) = self.before.swap_remove(at);
                }
                self.closed |= matches!(
                    decision.choice,
                    Choice::StudentClosed
                        | Choice::PolicyClosed
                        | Choice::Settled(_)
                        | Choice::StudentEnded
                        | Choice::ThinkingCut(_)
                );
                // An answer from before was closed aside.
                self.closed &= !matches!(decision.choice, Choice::BestSoFar { .. });
            }
            _ => {}
        }
    }

    /// All that was generated or forced, in its order.
    pub(super) fn with_answer(mut self, close: &[TokenId], answer: &[TokenId]) -> Vec<TokenId> {
        if self.closed {
            self.ids.extend(close);
        }
        self.ids.extend(answer);
        self.ids
    }
}
