//! Builds `libskimstone` for a platform with the cargo that is at hand.
//!
//! The standard library of another platform comes from rustup. Where rustup has none (watchOS), or none is installed, it is built
//! from the sources that rustup's `rust-src` brings; a released compiler does that only with `RUSTC_BOOTSTRAP=1`, which is set for
//! that one call. A static library needs no linker and no SDK; a shared one needs both.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use skimstone::{Error, ErrorKind};

use super::platform::{Family, Platform};
use super::tool;
use crate::failure::Result;

/// Oldest systems that the packages promise; the same as in the Swift package.
const APPLE_VERSIONS: [(&str, &str); 3] = [
    ("IPHONEOS_DEPLOYMENT_TARGET", "15.0"),
    ("MACOSX_DEPLOYMENT_TARGET", "12.0"),
    ("WATCHOS_DEPLOYMENT_TARGET", "8.0"),
];

const CARGO_HINT: &str = "install Rust: https://rustup.rs";

/// The source tree of skimstone.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) root: PathBuf,
}

/// What is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// Everything.
    Full,
    /// Tokens in, tokens out: no tokenizer, no chat templates.
    Core,
}

impl Variant {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Variant::Full => "full",
            Variant::Core => "core",
        }
    }
}

/// The files of one build.
#[derive(Debug)]
pub(crate) struct Library {
    pub(crate) archive: PathBuf,
    /// Where a linker for the platform was there.
    pub(crate) shared: Option<PathBuf>,
}

impl Source {
    /// The tree in `named`, or the one around the working directory, or the one that this program was built from.
    pub(crate) fn find(named: Option<&Path>) -> Result<Source> {
        let is_source = |folder: &Path| folder.join("ffi/include/skimstone.h").is_file();
        if let Some(root) = named {
            if !is_source(root) {
                let message =
                    "holds no ffi/include/skimstone.h, so it is no source tree of skimstone";
                return Err(Error::new(ErrorKind::Argument, message)
                    .at(root.display())
                    .into());
            }
            return Ok(Source {
                root: root.to_owned(),
            });
        }
        let here = std::env::current_dir().unwrap_or_default();
        let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        let mut candidates = here.ancestors().chain(built_from);
        let root = candidates.find(|folder| is_source(folder)).ok_or_else(|| {
            Error::new(
                ErrorKind::Argument,
                "no source tree of skimstone is around here",
            )
            .at(here.display())
            .with_hint("name one with --source")
        })?;
        Ok(Source {
            root: root.to_owned(),
        })
    }

    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub(crate) fn read(&self, path: &str) -> Result<String> {
        let path = self.file(path);
        Ok(fs::read_to_string(&path).map_err(|error| Error::io(&path, error))?)
    }

    pub(crate) fn cargo(&self) -> Command {
        // Set where cargo itself runs this program; the same toolchain then.
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(&self.root);
        command
    }
}

/// The compiler: its version, its own platform, and where it is installed.
#[derive(Debug, Clone)]
pub(crate) struct Rustc {
    pub(crate) version: String,
    host: String,
    rustlib: PathBuf,
}

impl Rustc {
    /// Asks the compiler of the source tree.
    pub(crate) fn ask(source: &Source) -> Result<Rustc> {
        let rustc = || {
            let mut command = Command::new("rustc");
            command.current_dir(&source.root);
            command
        };
        let verbose = tool::run(rustc().arg("-vV"), CARGO_HINT)?;
        let field = |name: &str| {
            let line = verbose.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        let sysroot = tool::run(rustc().args(["--print", "sysroot"]), CARGO_HINT)?;
        Ok(Rustc {
            version: field("release:"),
            host: field("host:"),
            rustlib: Path::new(sysroot.trim()).join("lib/rustlib"),
        })
    }

    pub(crate) fn is_host(&self, platform: &Platform) -> bool {
        self.host == platform.triple
    }

    /// A program that comes with the compiler, such as `rust-objcopy`.
    pub(crate) fn own_tool(&self, name: &str) -> PathBuf {
        self.rustlib.join(&self.host).join("bin").join(name)
    }

    /// Where std comes from, as arguments and environment of cargo.
    fn std_for(&self, platform: &Platform) -> Result<Std> {
        if self.rustlib.join(platform.triple).join("lib").is_dir() {
            return Ok(Std::Installed);
        }
        // `library` of another place, for toolchains that rustup did not install.
        if let Some(library) = std::env::var_os("RUST_LIBRARY").map(PathBuf::from) {
            if library.join("std/src/lib.rs").is_file() {
                return Ok(Std::Sources(Some(library)));
            }
            return Err(Error::new(ErrorKind::Io, "holds no std/src/lib.rs")
                .at(format_args!("RUST_LIBRARY={}", library.display()))
                .with_hint(
                    "name the folder `library` of Rust's sources, of this compiler's version",
                )
                .into());
        }
        if self
            .rustlib
            .join("src/rust/library/std/src/lib.rs")
            .is_file()
        {
            return Ok(Std::Sources(None));
        }
        let triple = platform.triple;
        let message = format!(
            "Rust's standard library for it is not installed ({})",
            self.version
        );
        let hint = match platform.rustup {
            true => format!("run: rustup target add {triple}"),
            false => "rustup has none to download; run: rustup component add rust-src".to_owned(),
        };
        Err(Error::new(ErrorKind::Io, message)
            .at(triple)
            .with_hint(hint)
            .into())
    }
}

#[derive(Debug)]
enum Std {
    Installed,
    /// In the `library` folder, or where the toolchain has it.
    Sources(Option<PathBuf>),
}

/// The C compiler of a platform, which also links for it; `None` on its own machine, where rustc finds one.
fn linker(rustc: &Rustc, platform: &Platform) -> Option<String> {
    if platform.family != Family::Linux || rustc.is_host(platform) {
        return None;
    }
    // What cargo is told counts more.
    let key = format!("CARGO_TARGET_{}_LINKER", environment_name(platform.triple));
    Some(std::env::var(key).unwrap_or_else(|_| format!("{}-gcc", platform.system)))
}

fn environment_name(triple: &str) -> String {
    triple.to_uppercase().replace('-', "_")
}

/// Builds the library. Cargo's own messages go to standard error.
pub(crate) fn build(
    source: &Source,
    rustc: &Rustc,
    platform: &Platform,
    variant: Variant,
) -> Result<Library> {
    let mut command = source.cargo();
    command.args([
        "rustc",
        "--locked",
        "--profile",
        "ffi",
        "-p",
        "skimstone-ffi",
        "--lib",
    ]);
    command.args(["--message-format", "json-render-diagnostics"]);
    if variant == Variant::Core {
        command.arg("--no-default-features");
    }
    command.args(["--crate-type", "staticlib"]);
    if platform.family == Family::Linux {
        command.args(["--crate-type", "cdylib"]);
    }
    if !rustc.is_host(platform) {
        command.args(["--target", platform.triple]);
    }
    if let Some(linker) = linker(rustc, platform) {
        if !tool::exists(&linker) {
            let message = format!("`{linker}`, which links for it, is not installed");
            return Err(Error::new(ErrorKind::Io, message)
                .at(platform.triple)
                .with_hint(format!(
                    "on Debian and Ubuntu: apt install gcc-{}",
                    platform.system
                ))
                .into());
        }
        let key = format!("CARGO_TARGET_{}_LINKER", environment_name(platform.triple));
        command.env(key, linker);
    }
    match rustc.std_for(platform)? {
        Std::Installed => {}
        Std::Sources(library) => {
            eprintln!(
                "{}: building Rust's standard library from its sources",
                platform.triple
            );
            command.arg("-Zbuild-std=std,panic_unwind");
            command.env("RUSTC_BOOTSTRAP", "1");
            if let Some(library) = library {
                command.env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
            }
        }
    }
    for (name, version) in APPLE_VERSIONS {
        if std::env::var_os(name).is_none() {
            command.env(name, version);
        }
    }
    let messages = tool::run(&mut command, CARGO_HINT)?;
    let mut files = artifacts(&messages);
    let archive = files.remove("libskimstone.a").ok_or_else(|| {
        Error::new(ErrorKind::Io, "cargo named no libskimstone.a").at(platform.triple)
    })?;
    Ok(Library {
        archive,
        shared: files.remove("libskimstone.so"),
    })
}

/// File names and paths of the library in cargo's messages.
fn artifacts(messages: &str) -> BTreeMap<String, PathBuf> {
    let mut files = BTreeMap::new();
    for line in messages.lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let of_the_library = message["target"]["name"] == "skimstone"
            && message["package_id"]
                .as_str()
                .is_some_and(|id| id.contains("ffi"));
        if message["reason"] != "compiler-artifact" || !of_the_library {
            continue;
        }
        let names = message["filenames"].as_array().into_iter().flatten();
        for path in names.filter_map(Value::as_str).map(PathBuf::from) {
            if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
                files.insert(name.to_owned(), path.clone());
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_the_library_are_found_in_the_messages() {
        let messages = r#"{"reason":"compiler-artifact","package_id":"path+file:///x/sdk#skimstone@0.1.0","target":{"name":"skimstone"},"filenames":["/t/libskimstone.rlib"]}
{"reason":"compiler-artifact","package_id":"path+file:///x/ffi#skimstone-ffi@0.1.0","target":{"name":"skimstone"},"filenames":["/t/libskimstone.a","/t/libskimstone.so"]}
{"reason":"build-finished","success":true}"#;
        let files = artifacts(messages);
        assert_eq!(
            files.keys().collect::<Vec<_>>(),
            ["libskimstone.a", "libskimstone.so"]
        );
        assert_eq!(files["libskimstone.a"], Path::new("/t/libskimstone.a"));
    }

    #[test]
    fn missing_std_says_what_to_install() {
        let rustc = Rustc {
            version: "1.95.0".to_owned(),
            host: "x86_64-unknown-linux-gnu".to_owned(),
            rustlib: PathBuf::from("/nowhere"),
        };
        let hint = |platform: &Platform| match rustc.std_for(platform) {
            Err(crate::failure::Failure::Error(error)) => error.hint().unwrap().to_owned(),
            other => panic!("{other:?}"),
        };
        let find = |triple| super::super::platform::find(triple).unwrap()[0];
        assert_eq!(
            hint(find("aarch64-apple-ios")),
            "run: rustup target add aarch64-apple-ios"
        );
        assert!(hint(find("aarch64-apple-watchos")).ends_with("rustup component add rust-src"));
    }
}
