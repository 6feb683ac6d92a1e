//! Programs of strangers in C, C++, Python and Java: they compile without a warning, link both libraries, and print what Rust prints.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use common::{Linking, example, has, install, run};
use skimstone::reason::{Ask, Engine, EngineOptions, Event};
use skimstone::sleep::Night;
use skimstone::{Model, ModelOptions};

const QUESTION: &str = "How efficient was my sleep?";

/// What the examples print, from the Rust engine.
fn expected() -> String {
    let night = std::fs::read_to_string(example("nights/tuesday.json")).unwrap();
    let prompt = Night::from_json(&night).unwrap().prompt(QUESTION);
    let model = Model::open(example("students/sleep.skim"), ModelOptions::default()).unwrap();
    let mut engine = Engine::new(&model, EngineOptions::default()).unwrap();
    let mut out = String::new();
    for route in ["direct", "skip", "cot"] {
        out.push_str(&format!("{route}\n"));
        engine
            .ask_text(&prompt, &Ask::new().with_route(route))
            .unwrap();
        while let Some(event) = engine.next_event().unwrap() {
            match event {
                Event::ChunkStarted { .. } => out.push_str("   - "),
                Event::ThinkingText(piece) => out.push_str(&piece.text),
                Event::ChunkFinished { .. } => out.push('\n'),
                Event::Finished(answer) => {
                    let tokens = answer.usage.generated_tokens;
                    out.push_str(&format!("   => {}\n   {tokens} tokens\n", answer.text));
                }
                _ => {}
            }
        }
    }
    out
}

fn sleep_example(source: &str, compiler: &str) {
    if !has(compiler) {
        return;
    }
    let (installed, expected) = (install(), expected());
    assert!(expected.contains(" => "));
    for linking in [Linking::Shared, Linking::Static] {
        let program = installed.compile(&example(source), linking);
        let mut command = installed.command(&program);
        command
            .arg(example("students/sleep.skim"))
            .arg(example("nights/tuesday.json"))
            .arg(QUESTION);
        assert_eq!(run(&mut command), expected, "{source} {linking:?}");
    }
}

#[test]
fn the_c_example_prints_what_rust_prints() {
    sleep_example("c/sleep.c", "cc");
}

#[test]
fn the_cpp_example_prints_what_rust_prints() {
    sleep_example("cpp/sleep.cpp", "c++");
}

#[test]
fn the_laws_of_the_cpp_wrapper_hold() {
    if !has("c++") {
        return;
    }
    let installed = install();
    let source = common::crate_folder().join("tests/laws.cpp");
    let program = installed.compile(&source, Linking::Shared);
    let folder = tempfile::tempdir().unwrap();
    run(installed
        .command(&program)
        .arg(example("students/sleep.skim"))
        .arg(folder.path().join("question")));
}

#[test]
fn the_python_example_prints_what_rust_prints() {
    if !common::has_cffi() {
        return;
    }
    let mut command = install().python(&example("python/sleep.py"));
    command
        .arg(example("students/sleep.skim"))
        .arg(example("nights/tuesday.json"))
        .arg(QUESTION);
    assert_eq!(run(&mut command), expected());
}

#[test]
fn the_java_example_prints_what_rust_prints() {
    let Some(java) = common::java() else {
        return;
    };
    let mut command = java.command(example("java/Sleep.java").to_str().unwrap());
    command
        .arg(example("students/sleep.skim"))
        .arg(example("nights/tuesday.json"))
        .arg(QUESTION);
    assert_eq!(run(&mut command), expected());
}

/// An example that is not built here: `SKIMSTONE_EXAMPLE` is its command, as `bindings/swift/test` and `bindings/kotlin/test`
/// give it.
#[test]
fn the_example_of_the_environment_prints_what_rust_prints() {
    let Ok(program) = std::env::var("SKIMSTONE_EXAMPLE") else {
        println!("skipped: SKIMSTONE_EXAMPLE is not set");
        return;
    };
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{program} \"$@\""), "sh"])
        .arg(example("students/sleep.skim"))
        .arg(example("nights/tuesday.json"))
        .arg(QUESTION);
    assert_eq!(run(&mut command), expected());
}

#[test]
fn the_tests_of_the_python_binding_pass() {
    if common::has_cffi() {
        let tests = common::crate_folder().join("../bindings/python/tests/test_skimstone.py");
        run(&mut install().python(&tests));
    }
}

#[test]
fn the_program_in_the_header_works() {
    if !has("cc") {
        return;
    }
    let header = include_str!("../include/introduction.txt");
    let lines = header
        .lines()
        .map(|line| line.strip_prefix(" *   ").unwrap_or_default());
    let code: Vec<&str> = lines
        .skip_while(|line| !line.starts_with("#include"))
        .collect();
    let end = code.iter().position(|line| *line == "}").unwrap();
    let end = end
        + 1
        + code[end + 1..]
            .iter()
            .position(|line| *line == "}")
            .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("introduction.c");
    std::fs::write(&source, code[..=end].join("\n") + "\n").unwrap();
    let installed = install();
    let program = installed.compile(&source, Linking::Shared);
    let ask = |student: &Path| {
        installed
            .command(&program)
            .arg(student)
            .arg("age 34. in bed 23:05, up 07:15.\nhow long was I in bed?")
            .output()
            .unwrap()
    };
    let output = ask(&example("students/sleep.skim"));
    assert!(
        output.status.success() && !output.stdout.is_empty(),
        "{output:?}"
    );
    let output = ask(Path::new("/nowhere.skim"));
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.starts_with("/nowhere.skim: "), "{message}");
}

#[test]
fn pkg_config_finds_the_library() {
    if !has("pkg-config") || !has("cc") {
        return;
    }
    let installed = install();
    let mut command = Command::new("sh");
    let program = installed.lib().join("by-pkg-config");
    command
        .args([
            "-c",
            "cc \"$1\" $(pkg-config --cflags --libs skimstone) -o \"$2\"",
            "sh",
        ])
        .arg(example("c/sleep.c"))
        .arg(&program)
        .env("PKG_CONFIG_PATH", installed.lib().join("pkgconfig"));
    run(&mut command);
    assert!(program.exists());
}

#[test]
fn nothing_but_the_functions_of_the_header_is_exported() {
    if !has("nm") || !has("readelf") {
        return;
    }
    let library = install().lib().join("libskimstone.so");
    let symbols = run(Command::new("nm")
        .args(["-D", "--defined-only"])
        .arg(&library));
    let exported: BTreeSet<&str> = symbols
        .lines()
        .map(|line| line.rsplit(' ').next().unwrap())
        .collect();
    let header = include_str!("../include/skimstone.h");
    let declared: BTreeSet<&str> = header
        .lines()
        .filter(|line| line.starts_with("SKIM_API "))
        .map(|line| {
            let name = line.split('(').next().unwrap();
            name.rsplit([' ', '*']).next().unwrap()
        })
        .collect();
    assert_eq!(exported, declared);
    let dynamic = run(Command::new("readelf").arg("-d").arg(&library));
    assert!(dynamic.contains("[libskimstone.so.0]"), "{dynamic}");
}

/// Programs of earlier ABIs of this major number: compiled against the header of their time, run with the library of today.
#[test]
fn programs_of_earlier_abis_run() {
    if !has("cc") {
        return;
    }
    let folder = common::crate_folder().join("abi");
    let mut programs = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let entry = entry.unwrap();
        let abi = entry.file_name().into_string().unwrap();
        if !abi.starts_with("0.") {
            continue;
        }
        let program = install().compile_with(
            &entry.path().join("program.c"),
            Linking::Shared,
            &entry.path(),
        );
        let printed = run(install()
            .command(&program)
            .arg(example("students/sleep.skim")));
        assert_eq!(printed, format!("all of ABI {abi} works\n"));
        programs += 1;
    }
    assert!(programs > 0, "{} is empty", folder.display());
}

/// Two hundred rounds; `ffi/tests/sanitize` runs ten thousand of them.
#[test]
fn nothing_grows_from_round_to_round() {
    if !has("cc") {
        return;
    }
    let installed = install();
    let program = installed.compile(
        &common::crate_folder().join("tests/cycles.c"),
        Linking::Shared,
    );
    let rounds = std::env::var("SKIMSTONE_CYCLES").unwrap_or_else(|_| "200".to_owned());
    let mut command = installed.command(&program);
    command.arg(example("students/sleep.skim")).arg(rounds);
    println!("{}", run(&mut command));
}

/// Every 41st allocation in turn; `ffi/tests/sanitize oom` refuses each.
#[test]
fn refused_memory_is_a_status() {
    if !has("cc") || !cfg!(all(target_os = "linux", target_env = "gnu")) {
        return;
    }
    let installed = install();
    let source = common::crate_folder().join("tests/oom.c");
    let program = installed.compile(&source, Linking::Shared);
    let stride = std::env::var("SKIMSTONE_OOM_STRIDE").unwrap_or_else(|_| "41".to_owned());
    let folder = tempfile::tempdir().unwrap();
    let mut command = installed.command(&program);
    command
        .arg(example("students/sleep.skim"))
        .arg(folder.path().join("session"))
        .arg(stride);
    println!("{}", run(&mut command));
}
