//! Why a command ended early, and what the user is told about it.

use std::io::{self, Write};
use std::process::ExitCode;

use skimstone::{Error, ErrorKind};

use crate::interrupt;
use crate::terminal::Style;

/// `Result` with [`Failure`].
pub(crate) type Result<T = (), E = Failure> = std::result::Result<T, E>;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something was refused or went wrong.
    Error(Error),
    /// Whoever read standard output has gone (`skim run … | head`). Nobody is left to tell, and nothing went wrong.
    Closed,
    /// Ctrl-C. What there was to tell was told.
    Interrupted,
}

impl Failure {
    /// Tells the user, and returns the exit status.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Failure::Error(error) => {
                // If standard error is closed, the exit status still says it.
                let _ = print(&error);
                ExitCode::from(2)
            }
            Failure::Closed => ExitCode::SUCCESS,
            Failure::Interrupted => ExitCode::from(interrupt::STATUS),
        }
    }
}

fn print(error: &Error) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    let style = Style::of(&stderr);
    write!(stderr, "{} ", style.error("error:"))?;
    if let Some(place) = error.place() {
        write!(stderr, "{place}: ")?;
    }
    writeln!(stderr, "{}", error.message())?;
    if let Some(hint) = error.hint() {
        writeln!(stderr, "{} {hint}", style.strong(" hint:"))?;
    }
    Ok(())
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Error(error)
    }
}

/// What a command returns once it has told its results: done, or interrupted on the way.
pub(crate) fn done() -> Result {
    if interrupt::asked() {
        return Err(Failure::Interrupted);
    }
    Ok(())
}

/// Errors of writing to standard output. Those of files are made with [`Error::io`], which names the file.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure::Closed;
        }
        Failure::Error(
            Error::new(ErrorKind::Io, error.to_string())
                .at("standard output")
                .with_source(error),
        )
    }
}
