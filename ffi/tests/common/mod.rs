//! The library as it is installed: built, and laid out under a prefix with its headers and its pkg-config file.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by test files, each of which uses its own part"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

/// Where `libskimstone` lies, as a package would have it.
pub struct Installed {
    folder: tempfile::TempDir,
}

/// How a program is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linking {
    Shared,
    Static,
}

pub fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the examples.
pub fn example(path: &str) -> PathBuf {
    crate_folder().join("../examples").join(path)
}

/// Runs a command that must succeed; its output.
pub fn run(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let stdout = String::from_utf8(stdout).unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(
        status.success(),
        "{command:?}: {status}\n{stdout}\n{stderr}"
    );
    stdout
}

/// Whether a tool is there; a line says so if it is not.
pub fn has(tool: &str) -> bool {
    let there = Command::new(tool).arg("--version").output().is_ok();
    if !there {
        println!("skipped: {tool} is not installed");
    }
    there
}

/// Whether Python can load C libraries; a line says so if it cannot.
pub fn has_cffi() -> bool {
    let import = Command::new("python3").args(["-c", "import cffi"]).output();
    let there = import.is_ok_and(|output| output.status.success());
    if !there {
        println!("skipped: python3 with cffi is not installed");
    }
    there
}

/// The Java binding, its tests passed and compiled; a line says so if there is no JDK or no C compiler.
pub fn java() -> Option<&'static Java> {
    static JAVA: OnceLock<Java> = OnceLock::new();
    if !has("javac") || !has("cc") {
        return None;
    }
    Some(JAVA.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let test = crate_folder().join("../bindings/java/test");
        let printed = run(Command::new(test)
            .arg(install().lib().join("libskimstone.a"))
            .arg(folder.path()));
        assert_eq!(printed, "all laws hold\n");
        Java { folder }
    }))
}

/// Where the Java binding lies.
pub struct Java {
    folder: tempfile::TempDir,
}

impl Java {
    /// A Java program: a class of the tests, or a source file.
    pub fn command(&self, program: &str) -> Command {
        let jar = self.folder.path().join("skimstone.jar");
        let library = self.folder.path().join("libskimstone_jni.so");
        let mut command = Command::new("java");
        command
            .arg("-cp")
            .arg(format!(
                "{}:{}/test",
                jar.display(),
                self.folder.path().display()
            ))
            .arg(format!("-Dskimstone.library={}", library.display()))
            // The driver reads the number of a descriptor, which only Android tells.
            .arg("--add-opens=java.base/java.io=ALL-UNNAMED")
            .arg(program);
        command
    }
}

/// Builds both libraries in the profile of this test, once, and installs them.
pub fn install() -> &'static Installed {
    static INSTALLED: OnceLock<Installed> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let mut build = Command::new(env!("CARGO"));
        build
            .args([
                "build",
                "--lib",
                "-p",
                "skimstone-ffi",
                "--message-format=json",
            ])
            .current_dir(crate_folder());
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        let mut libraries: Vec<PathBuf> = Vec::new();
        for line in run(&mut build).lines() {
            let message: Value = serde_json::from_str(line).unwrap();
            let id = message["package_id"].as_str().unwrap_or_default();
            if message["reason"] == "compiler-artifact" && id.contains("skimstone-ffi") {
                let files = message["filenames"].as_array().unwrap();
                libraries.extend(files.iter().map(|file| file.as_str().unwrap().into()));
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let (lib, include) = (folder.path().join("lib"), folder.path().join("include"));
        std::fs::create_dir_all(lib.join("pkgconfig")).unwrap();
        std::fs::create_dir_all(&include).unwrap();
        for file in libraries {
            let name = file.file_name().unwrap().to_str().unwrap();
            match name {
                // The name that the library gives itself is the one that programs look for.
                "libskimstone.so" => {
                    std::os::unix::fs::symlink(&file, lib.join("libskimstone.so.0")).unwrap();
                    std::os::unix::fs::symlink("libskimstone.so.0", lib.join(name)).unwrap();
                }
                "libskimstone.a" => std::os::unix::fs::symlink(&file, lib.join(name)).unwrap(),
                _ => {}
            }
        }
        for header in ["skimstone.h", "skimstone.hpp"] {
            let source = crate_folder().join("include").join(header);
            std::fs::copy(source, include.join(header)).unwrap();
        }
        let pc = std::fs::read_to_string(crate_folder().join("skimstone.pc.in")).unwrap();
        let pc = pc
            .replace("@PREFIX@", folder.path().to_str().unwrap())
            .replace("@LIBDIR@", "lib")
            .replace("@VERSION@", env!("CARGO_PKG_VERSION"));
        std::fs::write(lib.join("pkgconfig/skimstone.pc"), pc).unwrap();
        Installed { folder }
    })
}

impl Installed {
    pub fn lib(&self) -> PathBuf {
        self.folder.path().join("lib")
    }

    pub fn include(&self) -> PathBuf {
        self.folder.path().join("include")
    }

    /// Compiles `source` with every warning an error, and with the flags of `SKIMSTONE_CFLAGS`, such as `-fsanitize=address`; the
    /// program.
    pub fn compile(&self, source: &Path, linking: Linking) -> PathBuf {
        self.compile_with(source, linking, &self.include())
    }

    /// As [`compile`](Self::compile), with the headers of another folder.
    pub fn compile_with(&self, source: &Path, linking: Linking, include: &Path) -> PathBuf {
        let stem = source.file_stem().unwrap().to_str().unwrap();
        let extension = source.extension().unwrap().to_str().unwrap();
        let program = self
            .folder
            .path()
            .join(format!("{stem}-{extension}-{linking:?}"));
        let (compiler, standard) = match extension {
            "c" => ("cc", "-std=c99"),
            _ => ("c++", "-std=c++17"),
        };
        let mut command = Command::new(compiler);
        command
            .args([
                standard,
                "-O1",
                "-g",
                "-Wall",
                "-Wextra",
                "-pedantic",
                "-Werror",
            ])
            .arg("-D_POSIX_C_SOURCE=200809L")
            .args(
                std::env::var("SKIMSTONE_CFLAGS")
                    .unwrap_or_default()
                    .split_whitespace(),
            )
            .arg(source)
            .arg("-I")
            .arg(include)
            .arg("-o")
            .arg(&program);
        match linking {
            Linking::Shared => command
                .arg("-L")
                .arg(self.lib())
                .args(["-lskimstone", "-lpthread"]),
            Linking::Static => {
                command
                    .arg(self.lib().join("libskimstone.a"))
                    .args(["-lpthread", "-ldl", "-lm"])
            }
        };
        run(&mut command);
        program
    }

    /// A command that finds the shared library; under the tool that `SKIMSTONE_UNDER` names, such as valgrind, if it is set.
    pub fn command(&self, program: &Path) -> Command {
        let under = std::env::var("SKIMSTONE_UNDER").unwrap_or_default();
        let mut words = under.split_whitespace();
        let mut command = match words.next() {
            Some(tool) => {
                let mut command = Command::new(tool);
                command.args(words).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.env("LD_LIBRARY_PATH", self.lib());
        command
    }

    /// A Python program with the binding of the source tree and this library.
    pub fn python(&self, script: &Path) -> Command {
        let mut command = Command::new("python3");
        command
            .arg(script)
            .env("PYTHONPATH", crate_folder().join("../bindings/python"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("SKIMSTONE_LIBRARY", self.lib().join("libskimstone.so"));
        command
    }
}
