//! The terminal: styles, progress bars, numbers for people, and the one JSON object for programs.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use skimstone::import::Progress;

use crate::failure::Result;

/// Styles of one stream: plain unless it is a terminal and `NO_COLOR` is unset or empty (<https://no-color.org>).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    on: bool,
}

impl Style {
    /// The style of `stream`.
    pub(crate) fn of(stream: &impl IsTerminal) -> Style {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Style {
            on: stream.is_terminal() && !no_color,
        }
    }

    /// What matters less: thinking, costs.
    pub(crate) fn dim(self, text: &str) -> Cow<'_, str> {
        self.wrap("2", text)
    }

    /// Titles.
    pub(crate) fn strong(self, text: &str) -> Cow<'_, str> {
        self.wrap("1", text)
    }

    /// The word before an error.
    pub(crate) fn error(self, text: &str) -> Cow<'_, str> {
        self.wrap("1;31", text)
    }

    /// Every piece is closed at once: whenever the program is stopped, the terminal is left as it was.
    fn wrap<'t>(self, code: &str, text: &'t str) -> Cow<'t, str> {
        if self.on {
            Cow::Owned(format!("\x1b[{code}m{text}\x1b[0m"))
        } else {
            Cow::Borrowed(text)
        }
    }
}

/// Writes `value` to standard output as one line of JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, value).map_err(io::Error::from)?;
    writeln!(stdout)?;
    stdout.flush()?;
    Ok(())
}

/// A progress bar on standard error; invisible where that is no terminal.
pub(crate) fn progress_bar(total: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template)
        .expect("templates are literals of this crate")
        .progress_chars("━━ ");
    ProgressBar::new(total).with_style(style)
}

/// Runs `work` with a progress bar over the bytes of the tensors that it reads or makes.
pub(crate) fn with_tensor_progress<T>(work: impl FnOnce(Progress<'_>) -> T) -> T {
    let bar = progress_bar(0, "{bar:30} {bytes:>10} / {total_bytes} {wide_msg}");
    let done = work(&mut |done, total, tensor| {
        bar.set_length(total);
        bar.set_position(done);
        bar.set_message(tensor.to_owned());
    });
    bar.finish_and_clear();
    done
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 token`, `2 tokens`.
pub(crate) fn counted(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", grouped(number as u64))
}

/// Bytes in the largest unit that leaves a number of at least 1.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ];
        for (number, text) in cases {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(counted(1, "token"), "1 token");
        assert_eq!(counted(1000, "token"), "1,000 tokens");
        let cases = [
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (3 << 20, "3.0 MiB"),
            (5 << 40, "5.0 TiB"),
        ];
        for (number, text) in cases {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn plain_streams_get_plain_text() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Style::of(&file).error("error:"), "error:");
        assert_eq!(Style { on: true }.dim("x"), "\x1b[2mx\x1b[0m");
    }
}
