//! A plan for people.

use std::io::{self, Write};

use super::{Check, Comparison, Report};
use crate::failure::Result;
use crate::roofline::Rate;
use crate::terminal::{Style, bytes, counted, grouped};

impl Report {
    pub(super) fn print(&self) -> Result {
        let mut out = io::stdout().lock();
        let style = Style::of(&out);
        let title = |text: &str| style.strong(text).into_owned();
        writeln!(
            out,
            "{}  {}, {} parameters in {}",
            title(&self.model.path),
            bytes(self.model.file_bytes),
            grouped(self.model.parameters),
            self.model.format
        )?;
        writeln!(out, "{}  {}", title(&self.target.name), self.target.title)?;

        let context = grouped(self.context as u64);
        writeln!(
            out,
            "\n{}",
            title(&format!("memory at a context of {context}"))
        )?;
        writeln!(
            out,
            "  {:>10}  mapped from the file",
            bytes(self.memory.file_backed)
        )?;
        for (name, value) in &self.memory.parts {
            writeln!(out, "  {:>10}  {name}", bytes(*value))?;
        }
        for check in &self.checks {
            writeln!(out, "  {}", check.verdict())?;
        }
        let verdict = if self.fits { "fits" } else { "does not fit" };
        let longest = match self.largest_context {
            Some(longest) => format!(
                "the longest context that fits is {}",
                grouped(longest as u64)
            ),
            None => "no context fits".to_owned(),
        };
        let background = match self.fits_in_background {
            Some(true) => "; it may stay in the background",
            Some(false) => "; it must shrink in the background",
            None => "",
        };
        writeln!(out, "  {}: {longest}{background}", title(verdict))?;

        writeln!(out, "\n{}", title("the same shape in other formats"))?;
        for other in &self.alternatives {
            let verdict = match (other.fits, other.fits_copied) {
                (true, true) => "fits, mapped or copied",
                (true, false) => "fits mapped, not copied into memory",
                _ => "does not fit",
            };
            let longest = other.largest_context.map_or(String::new(), |longest| {
                format!(", context up to {}", grouped(longest as u64))
            });
            let speed = other.decode_tokens_per_s.map_or(String::new(), |rate| {
                format!(", decode {}{} tok/s", self.at_most(), number(rate))
            });
            writeln!(
                out,
                "  {:>4}  {:>10} mapped, {:>10} anonymous: {verdict}{longest}{speed}",
                other.format,
                bytes(other.file_backed),
                bytes(other.anonymous)
            )?;
        }

        writeln!(out, "\n{}", title("predicted speed"))?;
        let rate = |rate: Option<Rate>, at_most: &str| match rate {
            Some(rate) => format!(
                "{at_most}{} tok/s ({} to {})",
                number(rate.tokens_per_s),
                number(rate.low),
                number(rate.high)
            ),
            None => "unknown".to_owned(),
        };
        let prompt = counted(self.prompt, "token");
        writeln!(out, "  prefill of {prompt}: {}", rate(self.prefill, ""))?;
        writeln!(out, "  decode: {}", rate(self.decode, self.at_most()))?;
        for route in &self.routes {
            let ms = match (route.ms, self.upper_bound) {
                (Some(ms), false) => format!("{} ms", number(ms)),
                (Some(ms), true) => format!("at least {} ms", number(ms)),
                (None, _) => "unknown".to_owned(),
            };
            let latent = match route.latent_steps {
                steps if steps > 0.0 => format!(" and {steps:.0} latent steps"),
                _ => String::new(),
            };
            writeln!(
                out,
                "  route {}: {ms}, {:.0} tokens{latent} ({})",
                route.name, route.generated_tokens, route.tokens_from
            )?;
        }

        if let Some(measured) = &self.measured {
            writeln!(out, "\n{}", title("measured here"))?;
            writeln!(out, "  prefill: {}", measured.prefill.text())?;
            writeln!(out, "  decode: {}", measured.decode.text())?;
            let note = format!(
                "{} · {} · median of {} · {} decoded",
                measured.kernels,
                counted(measured.threads, "thread"),
                measured.reps,
                measured.gen_tokens
            );
            writeln!(out, "  {}", style.dim(&note))?;
        }

        writeln!(out, "\n{}", title("assumed"))?;
        for assumption in &self.assumptions {
            writeln!(out, "  {assumption}")?;
        }
        if !self.unknown.is_empty() {
            writeln!(out, "\n{}", title("not known"))?;
        }
        for unknown in &self.unknown {
            writeln!(out, "  {unknown}")?;
        }
        Ok(out.flush()?)
    }

    fn at_most(&self) -> &'static str {
        if self.upper_bound { "at most " } else { "" }
    }
}

impl Check {
    fn verdict(&self) -> String {
        let with = self.entitlement.as_ref();
        let with = with.map_or(String::new(), |name| format!(" with {name}"));
        let stands = match self.over_bytes {
            0 => "within".to_owned(),
            over => format!("{} over", bytes(over)),
        };
        format!(
            "{}{with}: {} of {}, {stands}: {}",
            self.state,
            bytes(self.needed_bytes),
            bytes(self.limit_bytes),
            self.rule
        )
    }
}

impl Comparison {
    fn text(&self) -> String {
        let [slowest, fastest] = self.spread;
        let error = self.error.map_or(String::new(), |error| {
            format!("; the prediction is off by {:+.0} %", error * 100.0)
        });
        format!(
            "{} tok/s ({} to {}){error}",
            number(self.tokens_per_s),
            number(slowest),
            number(fastest)
        )
    }
}

/// Three digits that mean something.
fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 => grouped(value.round() as u64),
        value if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
