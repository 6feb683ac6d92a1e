//! `skim build` and `skim package`, as far as they go without building: what is missing or wrong is told before minutes of work. The
//! packages themselves are made and used by `.ci/packages`.

use crate::harness::{Folder, skim};

#[test]
fn an_unknown_target_names_the_known_ones() {
    skim!["package", "--target", "pdp-11"].refused(&[
        "pdp-11",
        "android",
        "aarch64-apple-ios",
        "skim targets list",
    ]);
    skim!["build", "--target", "riscv64gc-unknown-linux-gnu"].refused(&["riscv64gc", "known"]);
}

#[test]
fn a_folder_that_is_no_source_tree_is_refused() {
    let folder = Folder::new();
    skim!["package", "--target", "linux", "--source", folder.path("")]
        .refused(&["skimstone.h", "source tree"]);
}

#[test]
fn a_device_of_ones_own_names_its_triple() {
    let folder = Folder::new();
    let profile = include_str!("../../profiles/raspberry-pi-5-8gb.toml");
    let other = profile.replace("aarch64-unknown-linux-gnu", "armv6-unknown-linux-gnueabihf");
    let path = folder.write("pi-zero.toml", other);
    skim!["build", "--target", path].refused(&["armv6-unknown-linux-gnueabihf", "pi-zero.toml"]);
}
