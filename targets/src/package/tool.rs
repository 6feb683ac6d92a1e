//! Programs that others wrote, and what to say when they are missing or fail.

use std::io;
use std::process::{Command, Stdio};

use skimstone::{Error, ErrorKind};

use crate::failure::Result;

/// Runs a program whose standard error the user sees; what it printed to standard output.
///
/// # Errors
/// [`ErrorKind::Io`] if it is missing, with `hint` for the way to get it, or ends with another status than 0.
pub(crate) fn run(command: &mut Command, hint: &str) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            return Error::new(ErrorKind::Io, "is not installed")
                .at(&program)
                .with_hint(hint);
        }
        Error::io(&program, error)
    })?;
    if !output.status.success() {
        let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        let message = format!("{}: {}", arguments.join(" "), output.status);
        return Err(Error::new(ErrorKind::Io, message).at(&program).into());
    }
    String::from_utf8(output.stdout).map_err(|error| {
        Error::new(ErrorKind::Io, error.to_string())
            .at(&program)
            .into()
    })
}

/// Whether a program can be started.
pub(crate) fn exists(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok()
}
