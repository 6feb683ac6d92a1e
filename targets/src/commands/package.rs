//! `skim package`: the library as people install it.

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

use super::build::SourceArgs;
use crate::failure::Result;
use crate::package::platform::Family;
use crate::package::{self, Made};
use crate::terminal::print_json;

/// Arguments of `skim package`.
#[derive(clap::Args)]
#[command(after_help = "\
Linux: libskimstoneN_VERSION_ARCH.deb and libskimstone-dev_VERSION_ARCH.deb, with files for pkg-config and CMake.
Android: skimstone-VERSION.aar, and a folder with what its JNI libraries are linked from; they are linked if
ANDROID_NDK_HOME names an NDK. Apple: a Swift package with an XCFramework of static libraries. All bring
their licences and a bill of materials (CycloneDX). What only the platform's own tools can do is printed.

With --json: files, remaining.")]
pub(crate) struct Package {
    #[command(flatten)]
    source: SourceArgs,

    /// The folder to write to.
    #[arg(long, value_name = "DIR", default_value = "dist")]
    out: PathBuf,

    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    files: Vec<PathBuf>,
    remaining: Vec<String>,
}

impl Package {
    pub(crate) fn run(self) -> Result {
        let (source, rustc, platforms) = self.source.find()?;
        let mut report = Report {
            files: Vec::new(),
            remaining: Vec::new(),
        };
        for family in [Family::Linux, Family::Android, Family::Apple] {
            let of_family: Vec<_> = platforms
                .iter()
                .copied()
                .filter(|p| p.family == family)
                .collect();
            if of_family.is_empty() {
                continue;
            }
            let Made { files, remaining } =
                package::package(&source, &rustc, family, &of_family, &self.out)?;
            report.files.extend(files);
            report.remaining.extend(remaining);
        }
        if self.json {
            return print_json(&report);
        }
        let mut out = io::stdout().lock();
        for file in &report.files {
            writeln!(out, "{}", file.display())?;
        }
        for line in &report.remaining {
            writeln!(out, "remaining: {line}")?;
        }
        Ok(out.flush()?)
    }
}
