//! What is inside the library: every crate that is linked into it, for the bill of materials and the licences.
//!
//! `cargo tree` says which crates those are on a platform, since only it resolves the features of one package; `cargo metadata` says
//! what they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};
use skimstone::{Error, ErrorKind};

use super::platform::Platform;
use super::tool;
use super::toolchain::{Rustc, Source, Variant};
use crate::failure::Result;

/// What the licence files of crates are called, before an ending.
const LICENCE_FILES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"];

/// One crate.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Component {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) license: Option<String>,
    description: Option<String>,
    repository: Option<String>,
    /// `None` for a crate of the source tree.
    source: Option<String>,
    manifest_path: PathBuf,
    #[serde(skip)]
    sha256: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Component>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// The crates in the library for a platform, sorted by name.
pub(crate) fn components(
    source: &Source,
    platform: &Platform,
    variant: Variant,
) -> Result<Vec<Component>> {
    let mut tree = source.cargo();
    tree.args([
        "tree",
        "--locked",
        "-p",
        "skimstone-ffi",
        "--target",
        platform.triple,
    ]);
    // Procedural macros run while it is built and are not in it.
    tree.args([
        "-e",
        "normal,no-proc-macro",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]);
    if variant == Variant::Core {
        tree.arg("--no-default-features");
    }
    let linked = names_and_versions(&tool::run(&mut tree, "install Rust: https://rustup.rs")?);

    let mut metadata = source.cargo();
    metadata.args(["metadata", "--locked", "--format-version", "1"]);
    metadata.args(["--filter-platform", platform.triple]);
    let text = tool::run(&mut metadata, "install Rust: https://rustup.rs")?;
    let metadata: Metadata = serde_json::from_str(&text)
        .map_err(|error| Error::new(ErrorKind::Data, error.to_string()).at("cargo metadata"))?;
    let lock: Lock = toml::from_str(&source.read("Cargo.lock")?)
        .map_err(|error| Error::new(ErrorKind::Data, error.to_string()).at("Cargo.lock"))?;
    let mut sums: BTreeMap<(String, String), String> = BTreeMap::new();
    for package in lock.package {
        if let Some(sum) = package.checksum {
            sums.insert((package.name, package.version), sum);
        }
    }
    let mut found: Vec<Component> = Vec::new();
    for mut component in metadata.packages {
        let key = (component.name.clone(), component.version.clone());
        if linked.contains(&key) {
            component.sha256 = sums.get(&key).cloned();
            found.push(component);
        }
    }
    if found.len() != linked.len() {
        let message = format!(
            "cargo tree names {} crates, cargo metadata knows {} of them",
            linked.len(),
            found.len()
        );
        return Err(Error::new(ErrorKind::Data, message).at("cargo").into());
    }
    found.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(found)
}

/// Lines such as `libc v0.2.0` and `skimstone v0.1.0 (/path)`, some with ` (*)`.
fn names_and_versions(tree: &str) -> BTreeSet<(String, String)> {
    let lines = tree.lines().filter_map(|line| line.split_once(" v"));
    lines
        .map(|(name, rest)| {
            let version = rest.split(' ').next().unwrap_or(rest);
            (name.to_owned(), version.to_owned())
        })
        .collect()
}

impl Component {
    /// The same on every machine: <https://github.com/package-url/purl-spec>.
    fn purl(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }

    fn cyclonedx(&self) -> Value {
        let mut fields = json!({
            "type": "library",
            "bom-ref": self.purl(),
            "name": self.name,
            "version": self.version,
            "purl": self.purl(),
        });
        if let Some(license) = &self.license {
            // What SPDX allows between two licences is a word; some older crates have a slash.
            fields["licenses"] = json!([{"expression": license.replace('/', " OR ")}]);
        }
        if let Some(sum) = &self.sha256 {
            fields["hashes"] = json!([{"alg": "SHA-256", "content": sum}]);
        }
        if let Some(description) = &self.description {
            fields["description"] = json!(description.trim());
        }
        if let Some(repository) = &self.repository {
            fields["externalReferences"] = json!([{"type": "vcs", "url": repository}]);
        }
        fields
    }

    /// Names and texts of its licence files.
    fn licence_texts(&self) -> Result<Vec<(String, String)>> {
        let folder = self.manifest_path.parent().unwrap_or(Path::new("."));
        let mut texts = Vec::new();
        for entry in fs::read_dir(folder).map_err(|error| Error::io(folder, error))? {
            let entry = entry.map_err(|error| Error::io(folder, error))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let upper = name.to_uppercase();
            if !entry.path().is_file()
                || !LICENCE_FILES.iter().any(|known| upper.starts_with(known))
            {
                continue;
            }
            let bytes = fs::read(entry.path()).map_err(|error| Error::io(entry.path(), error))?;
            texts.push((name, String::from_utf8_lossy(&bytes).into_owned()));
        }
        texts.sort();
        Ok(texts)
    }
}

/// The version that the packages have: that of the library's crate.
pub(crate) fn version(components: &[Component]) -> Result<String> {
    let library = components.iter().find(|c| c.name == "skimstone-ffi");
    let library = library.ok_or_else(|| {
        Error::new(ErrorKind::Data, "the crate skimstone-ffi is not in it").at("cargo tree")
    })?;
    Ok(library.version.clone())
}

/// The bill of materials in CycloneDX 1.5, <https://cyclonedx.org/docs/1.5/json/>. No time and no serial number, so that the same source
/// gives the same file.
pub(crate) fn bill_of_materials(
    components: &[Component],
    rustc: &Rustc,
    platforms: &[&Platform],
) -> Result<String> {
    let own = "pkg:generic/skimstone";
    let std = format!("pkg:generic/rust-std@{}", rustc.version);
    let mut listed: Vec<Value> = components.iter().map(Component::cyclonedx).collect();
    listed.push(json!({
        "type": "library", "bom-ref": std, "name": "rust-std", "version": rustc.version, "purl": std,
        "licenses": [{"expression": "MIT OR Apache-2.0"}],
    }));
    let references: Vec<&Value> = listed
        .iter()
        .map(|component| &component["bom-ref"])
        .collect();
    let triples: Vec<&str> = platforms.iter().map(|p| p.triple).collect();
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "library", "bom-ref": own, "name": "libskimstone", "version": version(components)?,
                "licenses": [{"expression": "MIT OR Apache-2.0"}],
                "properties": [{"name": "skimstone:targets", "value": triples.join(" ")}],
            },
        },
        "dependencies": [{"ref": own, "dependsOn": references}],
        "components": listed,
    });
    let text = serde_json::to_string_pretty(&document);
    Ok(text.map_err(|error| Error::new(ErrorKind::Data, error.to_string()))? + "\n")
}

/// Every licence of every crate, each text once with the crates that have it.
pub(crate) fn third_party_notices(components: &[Component]) -> Result<String> {
    let mut crates_of: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut without = Vec::new();
    for component in components.iter().filter(|c| c.source.is_some()) {
        let texts = component.licence_texts()?;
        if texts.is_empty() {
            without.push(component);
        }
        for (_, text) in texts {
            let name = format!("{} {}", component.name, component.version);
            crates_of
                .entry(text.trim().to_owned())
                .or_default()
                .insert(name);
        }
    }
    let mut out =
        String::from("libskimstone contains these crates and Rust's standard library.\n\n");
    for component in components {
        let license = component.license.as_deref().unwrap_or("see below");
        out.push_str(&format!(
            "  {} {}: {license}\n",
            component.name, component.version
        ));
    }
    out.push_str("  Rust's standard library: MIT OR Apache-2.0\n");
    for component in without {
        let license = component.license.as_deref().unwrap_or_default();
        out.push_str(&format!(
            "\n{} {} brings no text of its licence, {license}; its source: {}\n",
            component.name,
            component.version,
            component.repository.as_deref().unwrap_or("crates.io")
        ));
    }
    for (text, crates) in crates_of {
        let crates: Vec<String> = crates.into_iter().collect();
        out.push_str(&format!(
            "\n{}\n{}\n\n{text}\n",
            "-".repeat(80),
            crates.join(", ")
        ));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_tree_are_crates() {
        let tree = "skimstone v0.1.0 (/a v/b)\nlibc v0.2.1\nlibc v0.2.1 (*)\n\n";
        let set = names_and_versions(tree);
        let expected = [("libc", "0.2.1"), ("skimstone", "0.1.0")];
        let expected = expected.map(|(name, version)| (name.to_owned(), version.to_owned()));
        assert_eq!(set, BTreeSet::from(expected));
    }
}
