//! `skim bench --host`: the same measurement on another machine, over ssh.
//!
//! This program and the bundle are copied into a new folder there, the copy runs `skim bench --json`, and the folder is removed again,
//! also after an error. Everything goes through the one ssh command, so that a port, a key or a jump host is said once. Host keys and
//! passwords are ssh's matter: it may ask on the terminal.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use skimstone::{Error, ErrorKind};

use crate::failure::Result;

/// Where to measure, and how to get there.
#[derive(clap::Args)]
pub(crate) struct RemoteArgs {
    /// Measure on this machine over ssh: the program and the bundle are copied there and removed afterwards.
    #[arg(long, value_name = "USER@BOARD")]
    host: Option<String>,

    /// How to reach it, with options of your own: "ssh -p 2222 -i key".
    #[arg(long, value_name = "COMMAND", default_value = "ssh", requires = "host")]
    ssh: String,

    /// A `skim` that runs there [default: this one, if the machine is of the same kind].
    #[arg(long, value_name = "FILE", requires = "host")]
    binary: Option<PathBuf>,
}

impl RemoteArgs {
    /// The other machine, if one was named.
    pub(crate) fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// Runs `skim bench` there with `arguments` and returns its record, with where it was measured.
    pub(crate) fn bench(&self, host: &str, bundle: &Path, arguments: &[String]) -> Result<Value> {
        let remote = Remote {
            host,
            ssh: &self.ssh,
        };
        let kind = remote.run("uname -s -m", None)?;
        let binary = self.binary_for(host, kind.trim())?;
        let folder = remote.run("mktemp -d", None)?;
        let folder = Folder {
            remote: &remote,
            path: safe_path(host, folder.trim())?,
        };
        let (program, model) = (folder.file("skim"), folder.file("model.skim"));
        eprintln!(
            "{host}: {}; copying {} and {}",
            kind.trim(),
            binary.display(),
            bundle.display()
        );
        remote.copy(&binary, &program)?;
        remote.copy(bundle, &model)?;
        remote.run(&format!("chmod +x {program}"), None)?;
        eprintln!("{host}: measuring");
        let words: Vec<String> = arguments.iter().map(|word| quoted(word)).collect();
        let bench = format!("{program} bench {model} --json {}", words.join(" "));
        let mut record = remote.json(&bench)?;
        let doctor = remote.json(&format!("{program} doctor --json"))?;
        if let Some(record) = record.as_object_mut() {
            record.insert("host".to_owned(), json!(host));
            record.insert("machine".to_owned(), doctor["machine"].clone());
        }
        Ok(record)
    }

    fn binary_for(&self, host: &str, kind: &str) -> Result<PathBuf> {
        if let Some(binary) = &self.binary {
            return Ok(binary.clone());
        }
        // As `uname` calls the machine that this program runs on.
        let system = match std::env::consts::OS {
            "linux" => "Linux",
            "macos" => "Darwin",
            other => other,
        };
        let own = [
            format!("{system} {}", std::env::consts::ARCH),
            // Apple's name for aarch64.
            format!(
                "{system} {}",
                std::env::consts::ARCH.replace("aarch64", "arm64")
            ),
        ];
        if own.iter().any(|own| own == kind) {
            return Ok(std::env::current_exe().map_err(|e| Error::io(Path::new("skim"), e))?);
        }
        let triple = match kind {
            "Linux aarch64" => "aarch64-unknown-linux-gnu",
            "Linux x86_64" => "x86_64-unknown-linux-gnu",
            _ => "its triple",
        };
        let message = format!("is `{kind}`, this program is for `{}`", own[0]);
        Err(Error::new(ErrorKind::Unsupported, message)
            .at(host)
            .with_hint(format!(
                "build one (cargo build --release -p skimstone-targets --target {triple}) and name it with --binary"
            ))
            .into())
    }
}

/// Another machine.
struct Remote<'a> {
    host: &'a str,
    ssh: &'a str,
}

impl Remote<'_> {
    /// Runs a line of the remote shell; what it prints.
    fn run(&self, line: &str, input: Option<File>) -> Result<String> {
        let mut words = self.ssh.split_whitespace();
        let program = words.next().unwrap_or("ssh");
        let mut command = Command::new(program);
        command.args(words).arg("--").arg(self.host).arg(line);
        command.stdin(input.map_or_else(Stdio::null, Stdio::from));
        command.stderr(Stdio::inherit());
        let output = command.output().map_err(|error| {
            Error::io(Path::new(program), error)
                .with_hint("install an ssh client, or name one with --ssh")
        })?;
        if !output.status.success() {
            // 255 is ssh's own failure; every other status is the command's.
            let message = match output.status.code() {
                Some(255) => "cannot be reached by ssh".to_owned(),
                _ => format!("`{line}` ended with {}", output.status),
            };
            let manual = format!("try: {} {} uname", self.ssh, self.host);
            return Err(Error::new(ErrorKind::Io, message)
                .at(self.host)
                .with_hint(manual)
                .into());
        }
        String::from_utf8(output.stdout).map_err(|error| {
            Error::new(ErrorKind::Data, error.to_string())
                .at(self.host)
                .into()
        })
    }

    /// Runs a line that prints one JSON object.
    fn json(&self, line: &str) -> Result<Value> {
        let text = self.run(line, None)?;
        let value = serde_json::from_str(&text).map_err(|error| {
            let begin: String = text.chars().take(80).collect();
            Error::new(ErrorKind::Data, format!("is no JSON: {error}: `{begin}`")).at(self.host)
        })?;
        Ok(value)
    }

    /// Copies a file, and checks that all of it came.
    fn copy(&self, from: &Path, to: &str) -> Result {
        let fail = |error| Error::io(from, error);
        let file = File::open(from).map_err(fail)?;
        let bytes = fs::metadata(from).map_err(fail)?.len();
        let arrived = self.run(&format!("cat >{to} && wc -c <{to}"), Some(file))?;
        if arrived.trim() == bytes.to_string() {
            return Ok(());
        }
        let message = format!(
            "{} of {bytes} bytes of {} came",
            arrived.trim(),
            from.display()
        );
        Err(Error::new(ErrorKind::Io, message).at(self.host).into())
    }
}

/// A folder there that vanishes with this value.
struct Folder<'a> {
    remote: &'a Remote<'a>,
    path: String,
}

impl Folder<'_> {
    fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }
}

impl Drop for Folder<'_> {
    fn drop(&mut self) {
        if self
            .remote
            .run(&format!("rm -rf {}", self.path), None)
            .is_err()
        {
            eprintln!("{}: {} is left behind", self.remote.host, self.path);
        }
    }
}

/// What `mktemp` printed, if it is a path that a shell takes as one word: it is removed with all below it later.
fn safe_path(host: &str, path: &str) -> Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if path.len() > 4 && path.starts_with('/') && !path.contains("..") && path.chars().all(plain) {
        return Ok(path.to_owned());
    }
    let message = format!("`mktemp -d` printed `{path}`, which is no plain path");
    Err(Error::new(ErrorKind::Data, message)
        .at(host)
        .with_hint("does its shell print something at the start?")
        .into())
}

/// One word of a POSIX shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_folders_are_removed() {
        assert!(safe_path("h", "/tmp/tmp.aB3").is_ok());
        for bad in [
            "",
            "/",
            "tmp",
            "/tmp/a b",
            "/tmp/$(x)",
            "/tmp/../etc",
            "welcome\n/tmp/x",
        ] {
            assert!(safe_path("h", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn words_are_quoted() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
