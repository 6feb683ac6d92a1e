//! `conformance/cases.json` through the drivers of all bindings: each does what the cases say, and all do the same.
#![cfg(target_os = "linux")]

mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use common::{Linking, crate_folder, example, has, install};
use serde::Deserialize;

#[derive(Deserialize)]
struct Cases {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    r#do: Vec<String>,
    is: Option<String>,
    begins: Option<String>,
    same: Option<String>,
    save: Option<String>,
}

fn cases() -> Vec<Case> {
    let text = include_str!("../conformance/cases.json");
    serde_json::from_str::<Cases>(text).unwrap().cases
}

/// Runs every case through a driver and checks what it prints.
fn conforms(driver: &mut Command) {
    let cases = cases();
    let student = example("students/sleep.skim");
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("saved");
    let mut script = String::new();
    for case in &cases {
        script.push_str("reset\n");
        for step in &case.steps {
            let words = step.r#do.join("\t");
            let words = words.replace("STUDENT", student.to_str().unwrap());
            script.push_str(&words.replace("SAVED", saved.to_str().unwrap()));
            script.push('\n');
        }
    }
    let mut child = driver
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let feed = std::thread::spawn(move || input.write_all(script.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{driver:?}: {}\n{printed}",
        output.status
    );
    feed.join().unwrap().unwrap();
    let mut lines = printed.lines();
    for case in &cases {
        assert_eq!(lines.next(), Some("ok"), "{}: reset", case.name);
        let mut saved = Vec::new();
        for step in &case.steps {
            let line = lines.next().unwrap_or("nothing");
            let place = format!("{}: {:?} gave {line:?}", case.name, step.r#do);
            if let Some(is) = &step.is {
                assert_eq!(line, is, "{place}");
            }
            if let Some(begins) = &step.begins {
                assert!(
                    line.starts_with(begins) && !line.starts_with("unknown"),
                    "{place}"
                );
                assert!(
                    begins.starts_with("error") || !line.starts_with("error"),
                    "{place}"
                );
            }
            if let Some(same) = &step.same {
                let (_, before) = saved.iter().find(|(name, _)| name == same).unwrap();
                assert_eq!(line, *before, "{place}");
            }
            if let Some(name) = &step.save {
                saved.push((name.clone(), line));
            }
        }
    }
    assert_eq!(lines.next(), None);
}

fn compiled(source: &str, compiler: &str) {
    if has(compiler) {
        let installed = install();
        for linking in [Linking::Shared, Linking::Static] {
            let source = crate_folder().join("conformance").join(source);
            let program = installed.compile(&source, linking);
            conforms(&mut installed.command(&program));
        }
    }
}

#[test]
fn c_conforms() {
    compiled("driver.c", "cc");
}

#[test]
fn cpp_conforms() {
    compiled("driver.cpp", "c++");
}

#[test]
fn python_conforms() {
    if common::has_cffi() {
        let script = crate_folder().join("../bindings/python/conformance.py");
        conforms(&mut install().python(&script));
    }
}

#[test]
fn java_conforms() {
    if let Some(java) = common::java() {
        conforms(&mut java.command("io.github.skimstone.Conformance"));
    }
}

/// A driver that is not built here: `SKIMSTONE_DRIVER` is its command, as `bindings/swift/test` and `bindings/kotlin/test` give it.
#[test]
fn the_driver_of_the_environment_conforms() {
    match std::env::var("SKIMSTONE_DRIVER") {
        Ok(command) => conforms(Command::new("sh").args(["-c", &command])),
        Err(_) => println!("skipped: SKIMSTONE_DRIVER is not set"),
    }
}

#[test]
fn every_step_says_what_comes_of_it() {
    let cases = cases();
    assert!(cases.len() >= 30);
    for case in &cases {
        for step in &case.steps {
            assert!(
                step.is.is_some() || step.begins.is_some() || step.same.is_some(),
                "{}: {:?}",
                case.name,
                step.r#do
            );
        }
    }
}
