//! Bundles that were damaged on the way: every command refuses them by name, and writes nothing.

use std::fs;
use std::path::Path;

use crate::harness::{Folder, skim};

/// Every command that opens a bundle.
fn every_command_refuses(folder: &Folder, model: &Path, word: &str) {
    let rows = folder.write("rows.jsonl", "{\"question\":\"how\",\"answer\":\"w9\"}\n");
    let out = folder.path("logits.safetensors");
    let name = model.file_name().unwrap().to_str().unwrap();
    let words = [name, word];
    skim!["run", model, "how"].refused(&words);
    skim!["run", model, "--tokens", "5", "--json"].refused(&words);
    skim!["inspect", model, "--json"].refused(&words);
    skim!["bench", model, "--json"].refused(&words);
    skim!["eval", model, rows, "--json"].refused(&words);
    skim!["logits", model, "--tokens", "5", "--out", out].refused(&words);
    assert!(!out.exists());
}

#[test]
fn damaged_bundles_are_refused() {
    let folder = Folder::new();
    let good = fs::read(folder.import("q8")).unwrap();
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;

    let truncated = folder.write("truncated.skim", &good[..good.len() - 100]);
    every_command_refuses(&folder, &truncated, "");
    let cut_in_header = folder.write("header.skim", &good[..header / 2]);
    every_command_refuses(&folder, &cut_in_header, "");

    let oversized = folder.write("oversized.skim", [good.as_slice(), &[0; 64]].concat());
    every_command_refuses(&folder, &oversized, "");

    for (at, name) in [
        (8 + header / 2, "flipped-header.skim"),
        (8 + header + 200, "flipped-data.skim"),
    ] {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        every_command_refuses(&folder, &folder.write(name, bytes), "");
    }
    every_command_refuses(&folder, &folder.write("empty.skim", []), "");
    let text = folder.write(
        "text.skim",
        "this is no bundle, but it is long enough for a header",
    );
    every_command_refuses(&folder, &text, "");
    let checkpoint = folder.path("hf/model.safetensors");
    every_command_refuses(&folder, &checkpoint, "skim import");

    let names = folder.names();
    assert!(
        !names
            .iter()
            .any(|name| name.contains("tmp") || name.contains("logits")),
        "{names:?}"
    );
}

#[test]
fn the_message_names_what_is_wrong() {
    let folder = Folder::new();
    let good = fs::read(folder.import("q8")).unwrap();
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let mut flipped = good.clone();
    flipped[8 + header + 200] ^= 1;
    skim!["inspect", folder.write("a.skim", flipped)].refused(&["tensor `", "checksum"]);
    let length = good.len() - 1;
    skim!["inspect", folder.write("b.skim", &good[..length])]
        .refused(&["b.skim", &length.to_string()]);
}
