//! How a calibration of the effort is told.

use std::io::{self, Write};

use serde::Serialize;

use super::SHARES;
use super::ladders::{Chain, Chosen};
use super::outcomes::Route;
use crate::failure::Result;
use crate::terminal::Style;

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    pub(super) n: usize,
    pub(super) max_loss: f64,
    pub(super) failure: f64,
    /// From cheap to dear.
    pub(super) routes: &'a [Route],
    /// Those of them that no other one beats at no more cost.
    pub(super) rungs: Vec<&'a str>,
    /// The last rung, against which losses are counted.
    pub(super) reference: &'a str,
    /// Rung by rung, accuracies under limits.
    pub(super) limited: Vec<Vec<f32>>,
    pub(super) chains: &'a [Chain],
    pub(super) chosen: Option<Chosen>,
    pub(super) data_sha256: &'a str,
}

impl Report<'_> {
    /// The tables for people.
    pub(super) fn print(&self) -> Result {
        let mut out = io::stdout().lock();
        let style = Style::of(&out);
        let names = self.routes.iter().map(|route| route.name.chars().count());
        let width = names.max().unwrap_or(0).max(5);
        let title = format!(
            "{:width$}  {:>8}  {:>15}  {:>8}  {:>8}  {:>8}  {:>8}",
            "route", "accuracy", "95 % interval", "tokens", "latent", "layers", "ms"
        );
        writeln!(out, "{}", style.strong(&title))?;
        for route in self.routes {
            let score = &route.score;
            let interval = score.interval.map(|end| 100.0 * end);
            write!(
                out,
                "{:width$}  {:>6.2} %  {:>15}  {:>8.1}  {:>8.1}  {:>8.1}  {:>8.2}",
                route.name,
                100.0 * score.accuracy,
                format!("{:.2}–{:.2} %", interval[0], interval[1]),
                score.mean_generated_tokens,
                score.mean_latent_steps,
                score.mean_layer_passes,
                score.p50_ms
            )?;
            match &route.dropped {
                Some(other) => writeln!(out, "  no better than {other}")?,
                None => writeln!(out)?,
            }
        }

        writeln!(
            out,
            "\n{}",
            style.strong("accuracy in % under a limit, as a multiple of the mean layer passes")
        )?;
        write!(out, "{:width$}", "")?;
        for share in SHARES {
            write!(out, "  {share:>6}")?;
        }
        writeln!(out)?;
        for (name, table) in self.rungs.iter().zip(&self.limited) {
            write!(out, "{name:width$}")?;
            for accuracy in table {
                write!(out, "  {:>6.2}", 100.0 * accuracy)?;
            }
            writeln!(out)?;
        }

        let title = format!(
            "\n{:>9}  {:>8}  {:>8}  {:>8}  {:>6}  {:>6}  {:>8}  before {}",
            "threshold",
            "accuracy",
            "tokens",
            "layers",
            "lost",
            "gained",
            "at worst",
            self.reference
        );
        writeln!(out, "{}", style.strong(&title))?;
        for (c, chain) in self.chains.iter().enumerate() {
            let rungs: Vec<&str> = chain.rungs.iter().map(|&i| self.rungs[i]).collect();
            for (p, point) in chain.points.iter().enumerate() {
                let taken = self.chosen == Some(Chosen { chain: c, point: p });
                let note = match (p < chain.safe, taken) {
                    (_, true) => "  taken",
                    (true, false) => "",
                    (false, _) => "  not safe",
                };
                writeln!(
                    out,
                    "{:>9}  {:>6.2} %  {:>8.1}  {:>8.1}  {:>6}  {:>6}  {:>+6.2} %  {}{note}",
                    point.threshold,
                    100.0 * point.accuracy,
                    point.tokens,
                    point.layer_passes,
                    point.pairs.lost,
                    point.pairs.gained,
                    -100.0 * point.loss_upper,
                    rungs.join(", ")
                )?;
            }
        }
        if self.chosen.is_none() {
            writeln!(
                out,
                "no threshold saves layers and certainly loses at most {} % on {} questions: without a budget `auto` is `{}`",
                100.0 * self.max_loss,
                self.n,
                self.reference
            )?;
        }
        Ok(out.flush()?)
    }
}
