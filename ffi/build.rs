//! Gives the shared library the name that programs record when they link it: with the major number of the ABI, so that a break is a
//! missing file at start and not a crash later.

fn main() {
    println!("cargo::rerun-if-changed=src/version.rs");
    let source = std::fs::read_to_string("src/version.rs").expect("the crate is whole");
    let major = source
        .lines()
        .find_map(|line| {
            line.strip_prefix("pub const SKIM_ABI_MAJOR: u32 = ")?
                .strip_suffix(';')
        })
        .expect("version.rs defines SKIM_ABI_MAJOR");
    let name = match std::env::var("CARGO_CFG_TARGET_OS").as_deref() {
        Ok("linux" | "freebsd") => format!("-Wl,-soname,libskimstone.so.{major}"),
        // Android loads libraries by their file name alone.
        Ok("android") => "-Wl,-soname,libskimstone.so".to_owned(),
        Ok("macos") => format!("-Wl,-install_name,@rpath/libskimstone.{major}.dylib"),
        _ => return,
    };
    println!("cargo::rustc-cdylib-link-arg={name}");
}
