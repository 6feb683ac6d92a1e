//! The header: generated from the source, checked in, and every function in it says who owns what and which threads may call it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// In the order of the header. Not the root of the crate, from which cbindgen would follow every module in its own order.
const FILES: [&str; 13] = [
    "version", "status", "error", "options", "bundle", "model", "session", "event", "cancel",
    "log", "memory", "text", "sleep",
];

/// What a reader of the header sees first. It compiles: tests/c.rs takes the program out of it and runs it.
const INTRODUCTION: &str = include_str!("../include/introduction.txt");

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn generated() -> String {
    let config = cbindgen::Config::from_file(folder().join("cbindgen.toml")).unwrap();
    let mut builder = cbindgen::Builder::new()
        .with_config(config)
        .with_header(INTRODUCTION.trim_end());
    for file in FILES {
        builder = builder.with_src(folder().join(format!("src/{file}.rs")));
    }
    let mut header = Vec::new();
    builder.generate().unwrap().write(&mut header);
    String::from_utf8(header).unwrap()
}

#[test]
fn the_header_is_what_the_source_says() {
    let (path, generated) = (folder().join("include/skimstone.h"), generated());
    if std::env::var_os("SKIMSTONE_UPDATE").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = checked_in
        .lines()
        .zip(generated.lines())
        .position(|(a, b)| a != b);
    assert!(
        checked_in == generated,
        "include/skimstone.h is not what ffi/src says, from line {:?} on; write it anew: SKIMSTONE_UPDATE=1 cargo test -p skimstone-ffi --test header",
        differs.map(|line| line + 1)
    );
}

#[test]
fn every_function_names_owners_and_threads() {
    let header = generated();
    let mut documentation = String::new();
    let mut functions = 0;
    for line in header.lines() {
        if line.starts_with("/**") {
            documentation.clear();
        }
        documentation.push_str(line);
        documentation.push('\n');
        if line.starts_with("SKIM_API ") {
            assert_eq!(header.matches(line).count(), 1, "{line}");
            functions += 1;
            for word in [" * Owner: ", " * Threads: "] {
                assert!(documentation.contains(word), "no `{word}` above {line}");
            }
            documentation.clear();
        }
    }
    assert!(functions > 40, "{functions}");
}

#[test]
fn no_struct_or_enum_has_a_public_layout() {
    for line in generated().lines() {
        let layout = line.contains("struct ") && line.contains('{');
        assert!(!line.contains("enum ") && !layout, "{line}");
    }
}

#[test]
fn every_function_of_the_source_is_in_the_header() {
    let header = generated();
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder().join("src")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "rs") {
            continue;
        }
        let source = std::fs::read_to_string(path).unwrap();
        for part in source.split("#[unsafe(no_mangle)]").skip(1) {
            let name = part.split("fn ").nth(1).unwrap().split('(').next().unwrap();
            names.insert(name.to_owned());
        }
    }
    for name in names {
        assert!(header.contains(&format!("{name}(")), "{name}");
    }
}
