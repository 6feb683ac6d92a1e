//! Whether latent steps carry anything: the same questions with what they read replaced.
//!
//! | | what the latent steps read |
//! |---|---|
//! | own | what they should |
//! | swapped | what those of the next question read |
//! | zeroed | zeros |
//! | shuffled | what they should, in another order |
//!
//! A method whose accuracy does not fall when latent steps are swapped does not think in them. Source: the controls of `pause-as-thought` kind in Hao et
//! al., arXiv 2412.06769, and the interventions that later work made of them.

use std::path::Path;

use serde::{Deserialize, Serialize};
use skimstone::{Model, ModelOptions, RouteSpec, Session, SessionOptions, StepInput, TokenId};

use crate::data::Row;
use crate::error::Result;
use crate::score::argmax;
use crate::tasks::Task;

/// Questions that are asked: enough to tell apart differences of some points.
const QUESTIONS: usize = 500;

/// Right answers with what latent steps read replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interventions {
    /// Questions.
    pub n: usize,
    /// With their own inputs.
    pub own: usize,
    /// With those of the next question.
    pub swapped: usize,
    /// With zeros.
    pub zeroed: usize,
    /// With their own in another order.
    pub shuffled: usize,
}

impl Interventions {
    /// The counts of both.
    pub(crate) fn add(self, other: Interventions) -> Interventions {
        Interventions {
            n: self.n + other.n,
            own: self.own + other.own,
            swapped: self.swapped + other.swapped,
            zeroed: self.zeroed + other.zeroed,
            shuffled: self.shuffled + other.shuffled,
        }
    }
}

/// Asks the first rows greedily with replaced latent inputs; `None` for a route without latent steps.
pub(crate) fn intervene(
    bundle: &Path,
    rows: &[Row],
    task: &Task,
    route: &str,
    max_answer_tokens: usize,
) -> Result<Option<Interventions>> {
    let model = Model::open(bundle, ModelOptions::new().with_threads(1))?;
    let spec = model.reasoning();
    let route = spec.route(route)?.clone();
    if route.latent_steps == 0 {
        return Ok(None);
    }
    let mut asker = Asker {
        session: Session::new(&model, SessionOptions::new())?,
        stop: spec.stop.clone(),
        route,
        max_answer_tokens,
    };
    let rows = &rows[..rows.len().min(QUESTIONS)];
    let mut inputs = Vec::with_capacity(rows.len());
    let mut counts = Interventions {
        n: rows.len(),
        ..Interventions::default()
    };
    for row in rows {
        let mut own = Vec::new();
        let text = asker.ask(&row.question, |session, route, _| {
            let mut input = vec![0f32; session.model().config().hidden_size];
            session.latent_input(&route.latent_map, &mut input)?;
            own.push(input.clone());
            Ok(input)
        })?;
        counts.own += usize::from(task.grade(row, &text));
        inputs.push(own);
    }
    for (index, row) in rows.iter().enumerate() {
        let mut right = |input: &dyn Fn(usize) -> Vec<f32>| -> Result<usize> {
            let text = asker.ask(&row.question, |_, _, step| Ok(input(step)))?;
            Ok(usize::from(task.grade(row, &text)))
        };
        let (own, other) = (&inputs[index], &inputs[(index + 1) % rows.len()]);
        counts.swapped += right(&|step| other[step].clone())?;
        counts.zeroed += right(&|step| vec![0.0; own[step].len()])?;
        // Half a turn moves every step and is no order that training has seen.
        let turn = own.len().div_ceil(2);
        counts.shuffled += right(&|step| own[(step + turn) % own.len()].clone())?;
    }
    Ok(Some(counts))
}

/// Asks questions of a student whose latent steps somebody else takes.
pub(super) struct Asker {
    pub(super) session: Session,
    pub(super) route: RouteSpec,
    pub(super) stop: Vec<TokenId>,
    pub(super) max_answer_tokens: usize,
}

impl Asker {
    /// The answer to a question whose latent steps read what `input` gives for each.
    fn ask(
        &mut self,
        question: &str,
        mut input: impl FnMut(&mut Session, &RouteSpec, usize) -> Result<Vec<f32>>,
    ) -> Result<String> {
        self.begin(question)?;
        for step in 0..self.route.latent_steps {
            let values = input(&mut self.session, &self.route, step)?;
            self.session.step_input(StepInput::Embed(&values), false)?;
        }
        self.finish()
    }

    /// Reads a question, up to its latent steps.
    pub(super) fn begin(&mut self, question: &str) -> Result<()> {
        self.session.truncate(0)?;
        let tokenizer = self.session.model().require_tokenizer()?;
        let mut ids = tokenizer.encode(question, true)?;
        ids.extend(&self.route.open);
        Ok(self.session.feed(&ids)?)
    }

    /// Decodes the answer, greedily.
    pub(super) fn finish(&mut self) -> Result<String> {
        let session = &mut self.session;
        let mut next = argmax(session.prefill(&self.route.close)?) as TokenId;
        let mut answer = Vec::new();
        while !self.stop.contains(&next) && answer.len() < self.max_answer_tokens {
            answer.push(next);
            next = argmax(session.step(next)?) as TokenId;
        }
        let tokenizer = session.model().require_tokenizer()?;
        Ok(tokenizer.decode(&answer, true)?)
    }
}
