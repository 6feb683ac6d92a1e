//! The CUDA kernels on an emulated GPU (`tests/gpu`), against the scalar specification. Nothing here ran on a device.
//!
//! The `.cu` files are compiled as C++ once per run; where there is no C++ compiler every test prints that it was skipped.

#[path = "../support/mod.rs"]
mod support;

mod attention;
mod decode;
mod emulator;
mod ops;
mod products;

use std::process::Command;

/// Every class of bug must be reported with its own words, and the kernel without the bug must not be.
#[test]
fn the_emulator_finds_planted_bugs() {
    let Some(programs) = emulator::programs() else {
        return;
    };
    let run = |name: &str| {
        let output = Command::new(&programs.planted)
            .arg(name)
            .output()
            .expect("the program was built");
        let said = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        (output.status.code(), said)
    };
    let (_, list) = run("list");
    let (mut bugs, mut sound) = (0, 0);
    for case in list.lines() {
        let (name, report) = case.split_once('\t').expect("a name and a report");
        let (code, said) = run(name);
        if report.is_empty() {
            assert_eq!(
                (code, said.as_str()),
                (Some(0), ""),
                "`{name}` has no bug, but was reported"
            );
            sound += 1;
        } else {
            assert_eq!(code, Some(3), "`{name}` was not reported; it said: {said}");
            assert!(
                said.contains(report),
                "`{name}` was reported as: {said}, expected: {report}"
            );
            bugs += 1;
        }
    }
    assert!(
        bugs >= 18 && sound >= 9,
        "{bugs} bugs and {sound} sound kernels"
    );
}
