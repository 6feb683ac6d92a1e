//! Packages of the library, as people install it: made on Linux from the source tree, for every platform.
//!
//! ```text
//! platform     what can be built            toolchain    cargo, std, linkers
//! components   what is inside, by licence   archive      ar, tar, zip
//! deb          Jetson, Raspberry Pi, PC     aar, xcframework
//! ```

mod aar;
mod archive;
mod components;
mod deb;
pub(crate) mod footprint;
pub(crate) mod platform;
pub(crate) mod tool;
pub(crate) mod toolchain;
mod xcframework;

use std::fs;
use std::path::{Path, PathBuf};

use skimstone::Error;

use crate::failure::Result;
use crate::output::OutputFile;
use components::Component;
use platform::{Family, Platform};
use toolchain::{Library, Rustc, Source, Variant};

/// The library for one platform.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) platform: &'static Platform,
    pub(crate) library: Library,
}

/// What one package is made of.
struct Inside<'p> {
    source: &'p Source,
    version: String,
    components: Vec<Component>,
    bill_of_materials: String,
    built: Vec<Built>,
}

/// What was written, and what only the platform's own tools can do.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) remaining: Vec<String>,
}

impl Inside<'_> {
    /// Names and texts of what every package brings: licences, notices, bill of materials.
    fn documents(&self) -> Result<Vec<(String, String)>> {
        Ok(vec![
            (
                "LICENSE-APACHE".to_owned(),
                self.source.read("LICENSE-APACHE")?,
            ),
            ("LICENSE-MIT".to_owned(), self.source.read("LICENSE-MIT")?),
            (
                "THIRD-PARTY-NOTICES".to_owned(),
                components::third_party_notices(&self.components)?,
            ),
            (
                "skimstone.cdx.json".to_owned(),
                self.bill_of_materials.clone(),
            ),
        ])
    }
}

/// Builds the library for `platforms`, which are of one family, and packs it into `out`.
pub(crate) fn package(
    source: &Source,
    rustc: &Rustc,
    family: Family,
    platforms: &[&'static Platform],
    out: &Path,
) -> Result<Made> {
    fs::create_dir_all(out).map_err(|error| Error::io(out, error))?;
    // First, since it takes a moment and may already say that something is missing.
    let mut components: Vec<Component> = Vec::new();
    for platform in platforms {
        for component in components::components(source, platform, Variant::Full)? {
            let known =
                |c: &Component| (&c.name, &c.version) == (&component.name, &component.version);
            if !components.iter().any(known) {
                components.push(component);
            }
        }
    }
    let bill_of_materials = components::bill_of_materials(&components, rustc, platforms)?;
    let mut built = Vec::new();
    for platform in platforms {
        eprintln!("building libskimstone for {}", platform.triple);
        let library = toolchain::build(source, rustc, platform, Variant::Full)?;
        built.push(Built { platform, library });
    }
    let inside = Inside {
        source,
        version: components::version(&components)?,
        components,
        bill_of_materials,
        built,
    };
    match family {
        Family::Linux => deb::package(&inside, out),
        Family::Android => aar::package(&inside, out),
        Family::Apple => xcframework::package(&inside, out),
    }
}

/// Writes a file whole or not at all; its path.
fn save(path: &Path, bytes: &[u8]) -> Result<PathBuf> {
    OutputFile::create(path)?.commit(bytes)?;
    Ok(path.to_owned())
}
