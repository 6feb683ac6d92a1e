//! What the library adds to an app: its size linked and stripped.
//!
//! On Linux that is the shared library itself. Android's and Apple's are linked here for measure only, with the linker that comes
//! with Rust: every function of the header, nothing else exported, what nobody calls dropped. Functions of the system stay open, so
//! their code counts as little as it does in an app.

use std::fs;
use std::path::Path;
use std::process::Command;

use skimstone::{Error, ErrorKind};

use super::platform::{Family, Platform};
use super::tool;
use super::toolchain::{Library, Rustc, Source};
use crate::failure::Result;

/// Bytes of the library for `platform`, linked and stripped.
pub(crate) fn measure(
    source: &Source,
    rustc: &Rustc,
    platform: &Platform,
    library: &Library,
) -> Result<u64> {
    if let Some(shared) = &library.shared {
        return size(shared);
    }
    let header = source.read("ffi/include/skimstone.h")?;
    let name = format!("libskimstone-{}", std::process::id());
    let out = std::env::temp_dir().join(&name);
    let exports = std::env::temp_dir().join(name + ".exports");
    fs::write(&exports, EXPORTS).map_err(|error| Error::io(&exports, error))?;
    let mut linker = Command::new(rustc.own_tool("rust-lld"));
    match platform.family {
        Family::Apple => apple(&mut linker, platform),
        Family::Android | Family::Linux => elf(&mut linker, &exports),
    }
    let underscore = if platform.family == Family::Apple {
        "_"
    } else {
        ""
    };
    for name in functions(&header, library)? {
        linker.args(["-u", &format!("{underscore}{name}")]);
    }
    linker.arg(&library.archive).arg("-o").arg(&out);
    let linked = tool::run(&mut linker, "install Rust by rustup, which brings rust-lld");
    let bytes = linked.and_then(|_| size(&out));
    // Best effort: they are temporary files.
    let _ = fs::remove_file(&out);
    let _ = fs::remove_file(&exports);
    bytes
}

fn size(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path)
        .map_err(|error| Error::io(path, error))?
        .len())
}

/// Nothing but the functions of the header, as a linker script of versions.
const EXPORTS: &str = "{ global: skim_*; local: *; };\n";

fn elf(linker: &mut Command, exports: &Path) {
    linker.args(["-flavor", "gnu", "-shared", "--gc-sections", "-s"]);
    linker.args([
        "-z",
        "max-page-size=16384",
        "--unresolved-symbols=ignore-all",
    ]);
    linker.arg("--version-script").arg(exports);
}

fn apple(linker: &mut Command, platform: &Platform) {
    let simulator = platform.name.ends_with("-simulator");
    let system = match platform.system {
        system if simulator => format!("{system}-simulator"),
        system => system.to_owned(),
    };
    let architecture = platform.name.split('-').nth(1).unwrap_or_default();
    linker.args([
        "-flavor",
        "darwin",
        "-arch",
        architecture,
        "-dylib",
        "-dead_strip",
        "-x",
        "-S",
    ]);
    linker.args(["-platform_version", &system, "15.0", "15.0"]);
    linker.args([
        "-undefined",
        "dynamic_lookup",
        "-exported_symbol",
        "_skim_*",
    ]);
}

/// The functions of the header. The core library has fewer: those are looked for in the archive's list of symbols.
fn functions(header: &str, library: &Library) -> Result<Vec<String>> {
    let archive = fs::read(&library.archive).map_err(|e| Error::io(&library.archive, e))?;
    let declared = header.lines().filter(|line| line.starts_with("SKIM_API "));
    let names = declared.filter_map(|line| line.split('(').next()?.rsplit([' ', '*']).next());
    // Symbol names lie in the archive between zeros; searching 20 MB once per name would take seconds.
    let in_archive: std::collections::HashSet<&[u8]> = archive
        .split(|byte| *byte == 0)
        .map(|text| text.strip_prefix(b"_").unwrap_or(text))
        .filter(|text| text.starts_with(b"skim_"))
        .collect();
    let found: Vec<String> = names
        .filter(|name| in_archive.contains(name.as_bytes()))
        .map(str::to_owned)
        .collect();
    if found.is_empty() {
        return Err(
            Error::new(ErrorKind::Data, "has no function of skimstone.h")
                .at(library.archive.display())
                .into(),
        );
    }
    Ok(found)
}
