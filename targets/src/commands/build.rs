//! `skim build`: libskimstone for other platforms.

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;
use skimstone::{Error, ErrorKind};

use crate::failure::Result;
use crate::package::footprint;
use crate::package::platform::{self, Platform};
use crate::package::toolchain::{self, Rustc, Source, Variant};
use crate::terminal::{Style, print_json};

/// What every command over the source tree is told.
#[derive(clap::Args)]
pub(crate) struct SourceArgs {
    /// all, linux, android, apple, a triple of Rust, or a device of `skim targets list`; more than once for several.
    #[arg(long = "target", value_name = "T", required = true)]
    targets: Vec<String>,

    /// The source tree of skimstone [default: the one around this folder].
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,
}

impl SourceArgs {
    /// The source tree, its compiler, and the platforms, each once.
    pub(crate) fn find(&self) -> Result<(Source, Rustc, Vec<&'static Platform>)> {
        let mut platforms: Vec<&'static Platform> = Vec::new();
        for name in &self.targets {
            for platform in platform::find(name)? {
                if !platforms.contains(&platform) {
                    platforms.push(platform);
                }
            }
        }
        let source = Source::find(self.source.as_deref())?;
        let rustc = Rustc::ask(&source)?;
        Ok((source, rustc, platforms))
    }
}

/// Arguments of `skim build`.
#[derive(clap::Args)]
#[command(after_help = "\
A static library needs no linker and no SDK, so that all platforms can be built on Linux. What it needs is
Rust's standard library for the platform (rustup target add TRIPLE), and for shared libraries of another
Linux its C compiler. The footprint is what the library adds to an app: linked and stripped.

With --json: libraries: target, variant, archive, shared (null where none is linked), footprint_bytes.")]
pub(crate) struct Build {
    #[command(flatten)]
    source: SourceArgs,

    /// Leave the tokenizer and chat templates out: apps give token ids and get them.
    #[arg(long, conflicts_with = "both")]
    core: bool,

    /// With and without the tokenizer.
    #[arg(long)]
    both: bool,

    /// Also write the table of footprints to this file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,

    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    libraries: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    target: &'static str,
    variant: &'static str,
    archive: PathBuf,
    shared: Option<PathBuf>,
    footprint_bytes: u64,
}

impl Build {
    pub(crate) fn run(self) -> Result {
        let (source, rustc, platforms) = self.source.find()?;
        let variants: &[Variant] = match (self.core, self.both) {
            (_, true) => &[Variant::Full, Variant::Core],
            (true, _) => &[Variant::Core],
            _ => &[Variant::Full],
        };
        let mut libraries = Vec::new();
        for platform in platforms {
            for &variant in variants {
                eprintln!("building libskimstone for {}", platform.triple);
                let library = toolchain::build(&source, &rustc, platform, variant)?;
                let footprint_bytes = footprint::measure(&source, &rustc, platform, &library)?;
                libraries.push(Row {
                    target: platform.triple,
                    variant: variant.name(),
                    archive: library.archive,
                    shared: library.shared,
                    footprint_bytes,
                });
            }
        }
        if let Some(path) = &self.csv {
            let mut text = String::from("target,variant,footprint_bytes,rustc\n");
            for row in &libraries {
                let (target, variant, bytes) = (row.target, row.variant, row.footprint_bytes);
                text.push_str(&format!("{target},{variant},{bytes},{}\n", rustc.version));
            }
            crate::output::OutputFile::create(path)?.commit(text.as_bytes())?;
        }
        let report = Report { libraries };
        if self.json {
            return print_json(&report);
        }
        report.print()
    }
}

impl Report {
    fn print(&self) -> Result {
        let mut out = io::stdout().lock();
        let style = Style::of(&out);
        let title = format!(
            "{:26}{:>8}{:>11}  library",
            "target", "variant", "footprint"
        );
        writeln!(out, "{}", style.strong(&title))?;
        for row in &self.libraries {
            let megabytes = row.footprint_bytes as f64 / 1e6;
            writeln!(
                out,
                "{:26}{:>8}{:>8.2} MB  {}",
                row.target,
                row.variant,
                megabytes,
                row.archive.display()
            )?;
            if let Some(shared) = &row.shared {
                writeln!(out, "{:45}  {}", "", shared.display())?;
            }
        }
        if self.libraries.is_empty() {
            return Err(Error::new(ErrorKind::Argument, "no platform was named").into());
        }
        Ok(out.flush()?)
    }
}
