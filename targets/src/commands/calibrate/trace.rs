//! Thinking to the end, with a look aside at the end of every chunk.

use skimstone::reason::{
    Answer, Ask, Engine, EngineOptions, Event, NextStep, Observation, Probe, ReasoningPolicy,
};
use skimstone::{Error, GateKind, Model, RouteSpec};

use super::curve::Point;
use crate::data::Row;
use crate::failure::Result;
use crate::model::Prompter;
use crate::terminal::progress_bar;

/// What was seen of all questions.
pub(super) struct Traces {
    pub(super) questions: Vec<Question>,
}

/// One question.
pub(super) struct Question {
    /// The answer after all of the thinking.
    pub(super) right: bool,
    pub(super) thinking_tokens: usize,
    pub(super) tokens: usize,
    /// The ends of its chunks, in order.
    pub(super) ends: Vec<End>,
}

/// What would have been answered at the end of one chunk.
pub(super) struct End {
    pub(super) right: bool,
    /// Tokens of it that a probe decodes to find the confidence.
    pub(super) probed: usize,
    pub(super) thinking_tokens: usize,
    pub(super) close: usize,
    /// Smallest probability so far, token after token of the answer, end token included.
    pub(super) smallest: Vec<f32>,
    /// One per gate, in the order of [`GateKind::ALL`].
    confidence: [f32; GateKind::ALL.len()],
}

impl End {
    pub(super) fn confidence(&self, gate: GateKind) -> f32 {
        self.confidence[gate as usize]
    }

    /// Tokens until the question is answered, if it is answered here, probes before not counted.
    pub(super) fn tokens(&self) -> usize {
        self.thinking_tokens + self.close + self.smallest.len()
    }

    /// Tokens of a probe here that did not reach `threshold`.
    pub(super) fn failed_probe(&self, gate: GateKind, threshold: f32) -> usize {
        match gate {
            GateKind::Answer => {
                let probed = &self.smallest[..self.probed];
                let passed = probed.iter().take_while(|&&p| p >= threshold).count();
                self.close + (passed + 1).min(self.probed)
            }
            GateKind::CloseEntropy | GateKind::CloseMaxProb => self.close,
            _ => 0,
        }
    }
}

impl Traces {
    /// Confidence and rightness at every chunk's end, question by question.
    pub(super) fn seen(&self, gate: GateKind) -> Vec<Vec<(f32, bool)>> {
        self.of_ends(|end| end.confidence(gate))
    }

    /// The same for what needs no look aside: how much was thought already.
    pub(super) fn elapsed(&self) -> Vec<Vec<(f32, bool)>> {
        self.of_ends(|end| end.thinking_tokens as f32)
    }

    fn of_ends(&self, value: impl Fn(&End) -> f32) -> Vec<Vec<(f32, bool)>> {
        let of = |question: &Question| {
            let ends = question.ends.iter();
            ends.map(|end| (value(end), end.right)).collect()
        };
        self.questions.iter().map(of).collect()
    }

    /// Share of right answers without a gate.
    pub(super) fn accuracy(&self) -> f64 {
        self.mean(|question| f64::from(u8::from(question.right)))
    }

    /// Mean of the generated tokens without a gate.
    pub(super) fn tokens(&self) -> f64 {
        self.mean(|question| question.tokens as f64)
    }

    /// Ends at which the answer was longer than a probe.
    pub(super) fn incomplete(&self) -> usize {
        let ends = self.questions.iter().flat_map(|question| &question.ends);
        ends.filter(|end| end.probed < end.smallest.len()).count()
    }

    /// `count` equally spaced quantiles of the thinking tokens, each in the middle of its share.
    pub(super) fn thinking_quantiles(&self, count: usize) -> Vec<usize> {
        let mut lengths: Vec<usize> = self.questions.iter().map(|q| q.thinking_tokens).collect();
        lengths.sort_unstable();
        let at = |i: usize| lengths[(2 * i + 1) * lengths.len() / (2 * count)];
        (0..count).map(at).collect()
    }

    fn mean(&self, value: impl Fn(&Question) -> f64) -> f64 {
        self.questions.iter().map(value).sum::<f64>() / self.questions.len() as f64
    }
}

/// Looks aside at every chunk's end and goes on thinking whatever it sees.
struct Look(GateKind);

impl ReasoningPolicy for Look {
    fn next_step(&mut self, seen: &Observation) -> NextStep {
        if seen.chunk_ended && seen.confidence.is_none() {
            return NextStep::Probe {
                gate: self.0,
                at_least: 0.0,
            };
        }
        NextStep::Token
    }
}

/// A model whose thinking is traced.
pub(super) struct Tracer<'a> {
    model: &'a Model,
    route: RouteSpec,
    name: String,
}

impl<'a> Tracer<'a> {
    pub(super) fn new(model: &'a Model, name: &str) -> Result<Self> {
        model.require_tokenizer()?;
        let mut reasoning = model.reasoning().clone();
        reasoning.auto = None;
        reasoning.ladder = None;
        Ok(Tracer {
            model,
            route: reasoning.route(name)?.clone(),
            name: name.to_owned(),
        })
    }

    /// Traces every row.
    pub(super) fn traces(
        &self,
        rows: &[Row],
        at: impl Fn(usize, Error) -> Error,
    ) -> Result<Traces> {
        let prompter = Prompter::new(self.model)?;
        let mut engine = Engine::new(self.model, EngineOptions::default())?;
        // To their ends, so that all is known of what would have been answered.
        let ask = self
            .ask(self.route.clone())
            .with_max_probe_tokens(usize::MAX);
        let bar = progress_bar(
            rows.len() as u64,
            "tracing {bar:30} {pos} / {len} · {elapsed} · {eta} left",
        );
        let mut questions = Vec::with_capacity(rows.len());
        for row in rows {
            let mut trace = |gate| -> Result<(Vec<Probe>, Answer), Error> {
                let prompt = prompter.ids(&row.question)?;
                engine.ask_with_policy(&prompt, &ask, Box::new(Look(gate)))?;
                let mut probes = Vec::new();
                loop {
                    match engine.next_event()? {
                        Some(Event::Probed(probe)) => probes.push(probe),
                        Some(Event::Finished(answer)) => return Ok((probes, *answer)),
                        Some(_) => {}
                        None => unreachable!("an engine that was asked tells when it has finished"),
                    }
                }
            };
            let question = self.question(row, &mut trace);
            questions.push(question.map_err(|error| at(row.line, error))?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(Traces { questions })
    }

    fn question(
        &self,
        row: &Row,
        trace: &mut impl FnMut(GateKind) -> Result<(Vec<Probe>, Answer), Error>,
    ) -> Result<Question, Error> {
        let tokenizer = self.model.require_tokenizer()?;
        let right = |text: &str| text.trim() == row.answer.trim();
        let reserve = self.model.reasoning().answer_reserve.max(1);
        let (probes, answer) = trace(GateKind::Answer)?;
        let mut ends = Vec::with_capacity(probes.len());
        for probe in &probes {
            let mut smallest = 1.0f32;
            let mut running = |logprob: &f32| {
                smallest = smallest.min(logprob.exp());
                smallest
            };
            let smallest: Vec<f32> = probe.logprobs.iter().map(&mut running).collect();
            let probed = smallest.len().min(reserve);
            ends.push(End {
                right: right(&tokenizer.decode(&probe.ids, true)?),
                probed,
                thinking_tokens: probe.thinking_tokens,
                close: probe.tokens - probe.logprobs.len(),
                confidence: [smallest[probed - 1]; GateKind::ALL.len()],
                smallest,
            });
        }
        for gate in GateKind::ALL {
            if gate == GateKind::Answer {
                continue;
            }
            for (end, probe) in ends.iter_mut().zip(trace(gate)?.0) {
                end.confidence[gate as usize] = probe.confidence;
            }
        }
        let usage = answer.usage;
        Ok(Question {
            right: right(&answer.text),
            thinking_tokens: usage.thinking_tokens,
            tokens: usage.thinking_tokens + usage.answer_tokens,
            ends,
        })
    }

    /// Accuracy and tokens with the thinking cut after each of `limits` tokens.
    pub(super) fn budgets(
        &self,
        rows: &[Row],
        limits: &[usize],
        at: impl Fn(usize, Error) -> Error,
    ) -> Result<Vec<Point>> {
        let prompter = Prompter::new(self.model)?;
        let mut engine = Engine::new(self.model, EngineOptions::default())?;
        let bar = progress_bar(
            (rows.len() * limits.len()) as u64,
            "budgets {bar:30} {pos} / {len} · {elapsed} · {eta} left",
        );
        let mut points = Vec::new();
        for &limit in limits {
            let mut route = self.route.clone();
            route.max_thinking_tokens = Some(limit);
            let ask = self.ask(route);
            let mut outcomes = Vec::with_capacity(rows.len());
            for row in rows {
                let answer = prompter
                    .ids(&row.question)
                    .and_then(|prompt| engine.answer(&prompt, &ask))
                    .map_err(|error| at(row.line, error))?;
                let right = answer.text.trim() == row.answer.trim();
                outcomes.push((
                    right,
                    answer.usage.generated_tokens,
                    answer.usage.thinking_tokens,
                ));
                bar.inc(1);
            }
            points.push(Point::new(limit as f32, &outcomes));
        }
        bar.finish_and_clear();
        Ok(points)
    }

    fn ask(&self, route: RouteSpec) -> Ask {
        Ask::new().with_custom_route(&self.name, route)
    }
}
