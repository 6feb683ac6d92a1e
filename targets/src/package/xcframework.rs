//! The Apple package: a Swift package whose C library is an XCFramework of static libraries.
//!
//! ```text
//! skimstone-swift/Package.swift
//!                 Sources/Skimstone/                       the Swift binding
//!                 CSkimstone.xcframework/Info.plist
//!                                        SLICE/libskimstone.a, Headers/{skimstone.h, shim.h, module.modulemap}
//!                 licences, bill of materials
//! ```
//!
//! A static library is only compiled, so none of Apple's tools and SDKs take part. What they are needed for, signing, is said.

use std::fs;
use std::path::{Path, PathBuf};

use skimstone::{Error, ErrorKind};

use super::{Built, Inside, Made, save};
use crate::failure::Result;

const FRAMEWORK: &str = "CSkimstone.xcframework";

/// Several platforms of one system and device share a slice: only watchOS has such.
struct Slice<'b> {
    identifier: String,
    /// `SupportedPlatform`.
    system: &'static str,
    simulator: bool,
    built: Vec<&'b Built>,
}

/// Writes the Swift package to `out`.
pub(super) fn package(inside: &Inside<'_>, out: &Path) -> Result<Made> {
    let folder = out.join("skimstone-swift");
    let framework = folder.join(FRAMEWORK);
    // An earlier one may have had other slices.
    if framework.exists() {
        fs::remove_dir_all(&framework).map_err(|error| Error::io(&framework, error))?;
    }
    let slices = slices(&inside.built);
    for slice in &slices {
        let place = framework.join(&slice.identifier);
        save_in(&place, "libskimstone.a", &library(slice)?)?;
        let headers = place.join("Headers");
        for (from, to) in [
            ("ffi/include/skimstone.h", "skimstone.h"),
            ("bindings/swift/Sources/CSkimstone/shim.h", "shim.h"),
            (
                "bindings/swift/Sources/CSkimstone/module.modulemap",
                "module.modulemap",
            ),
        ] {
            save_in(&headers, to, inside.source.read(from)?.as_bytes())?;
        }
    }
    save_in(&framework, "Info.plist", info(&slices).as_bytes())?;
    for (name, text) in inside.documents()? {
        save_in(&folder, &name, text.as_bytes())?;
    }
    copy_sources(inside, &folder)?;
    let manifest = save_in(&folder, "Package.swift", MANIFEST.as_bytes())?;
    let framework_name = framework.display();
    Ok(Made {
        files: vec![manifest, framework.clone()],
        remaining: vec![format!(
            "signing needs a Mac and your identity: codesign --timestamp --sign \"Apple Distribution: …\" {framework_name}"
        )],
    })
}

/// As `bindings/swift/Package.swift`, with the XCFramework in the place of pkg-config.
const MANIFEST: &str = r#"// swift-tools-version: 6.0
import PackageDescription

let package = Package(
    name: "Skimstone",
    platforms: [.macOS(.v12), .iOS(.v15), .watchOS(.v8)],
    products: [.library(name: "Skimstone", targets: ["Skimstone"])],
    targets: [
        .binaryTarget(name: "CSkimstone", path: "CSkimstone.xcframework"),
        .target(name: "Skimstone", dependencies: ["CSkimstone"]),
    ],
    swiftLanguageModes: [.v6]
)
"#;

fn save_in(folder: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
    save(&folder.join(name), bytes)
}

fn copy_sources(inside: &Inside<'_>, folder: &Path) -> Result {
    let from = inside.source.file("bindings/swift/Sources/Skimstone");
    for entry in fs::read_dir(&from).map_err(|error| Error::io(&from, error))? {
        let path = entry.map_err(|error| Error::io(&from, error))?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let bytes = fs::read(&path).map_err(|error| Error::io(&path, error))?;
        save_in(&folder.join("Sources/Skimstone"), &name, &bytes)?;
    }
    Ok(())
}

fn slices(built: &[Built]) -> Vec<Slice<'_>> {
    let mut slices: Vec<Slice<'_>> = Vec::new();
    for one in built {
        let (system, simulator) = (
            one.platform.system,
            one.platform.name.ends_with("-simulator"),
        );
        let same = |slice: &&mut Slice<'_>| slice.system == system && slice.simulator == simulator;
        match slices.iter_mut().find(same) {
            Some(slice) => slice.built.push(one),
            None => slices.push(Slice {
                identifier: String::new(),
                system,
                simulator,
                built: vec![one],
            }),
        }
    }
    for slice in &mut slices {
        // As Xcode names them: architectures in the order of the alphabet.
        slice.built.sort_by_key(|one| architecture(one));
        let architectures: Vec<&str> = slice.built.iter().map(|one| architecture(one)).collect();
        let simulator = if slice.simulator { "-simulator" } else { "" };
        slice.identifier = format!("{}-{}{simulator}", slice.system, architectures.join("_"));
    }
    slices
}

/// Apple's name: `arm64` of `ios-arm64-simulator`.
fn architecture(built: &Built) -> &'static str {
    built.platform.name.split('-').nth(1).unwrap_or_default()
}

/// The library of a slice; of several architectures a universal one (Apple's `mach-o/fat.h`).
fn library(slice: &Slice<'_>) -> Result<Vec<u8>> {
    let mut libraries = Vec::new();
    for built in &slice.built {
        let path = &built.library.archive;
        let bytes = fs::read(path).map_err(|error| Error::io(path, error))?;
        libraries.push((architecture(built), bytes));
    }
    if libraries.len() == 1 {
        return Ok(libraries.remove(0).1);
    }
    universal(&libraries)
}

fn universal(libraries: &[(&str, Vec<u8>)]) -> Result<Vec<u8>> {
    const MAGIC: u32 = 0xcafe_babe;
    /// Archives begin at multiples of 8 (2 to this power).
    const ALIGNMENT: u32 = 3;
    let align = |at: usize| at.next_multiple_of(1 << ALIGNMENT);
    let number = |bytes: usize| {
        u32::try_from(bytes).map_err(|_| {
            Error::new(
                ErrorKind::Data,
                "is larger than the 4 GB of a universal file",
            )
            .at("libskimstone.a")
        })
    };
    let mut words = vec![MAGIC, number(libraries.len())?];
    let mut at = align(4 * (2 + 5 * libraries.len()));
    let begin = at;
    for (name, bytes) in libraries {
        // cpu_type and cpu_subtype of mach/machine.h: 64-bit Arm, and Arm with 64-bit registers and 32-bit pointers.
        let (cpu, kind) = match *name {
            "arm64" => (0x0100_000c, 0),
            "arm64_32" => (0x0200_000c, 1),
            other => {
                let message = format!("`{other}` has no number in a universal file");
                return Err(Error::new(ErrorKind::Unsupported, message)
                    .at("libskimstone.a")
                    .into());
            }
        };
        words.extend([cpu, kind, number(at)?, number(bytes.len())?, ALIGNMENT]);
        at = align(at + bytes.len());
    }
    let mut out: Vec<u8> = words.into_iter().flat_map(u32::to_be_bytes).collect();
    out.resize(begin, 0);
    for (_, bytes) in libraries {
        out.extend_from_slice(bytes);
        out.resize(align(out.len()), 0);
    }
    Ok(out)
}

fn info(slices: &[Slice<'_>]) -> String {
    let mut text = String::from(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
	<key>AvailableLibraries</key>
	<array>
"#,
    );
    let pair = |key: &str, value: &str| {
        format!("\t\t\t<key>{key}</key>\n\t\t\t<string>{value}</string>\n")
    };
    for slice in slices {
        text.push_str("\t\t<dict>\n");
        text.push_str(&pair("BinaryPath", "libskimstone.a"));
        text.push_str(&pair("HeadersPath", "Headers"));
        text.push_str(&pair("LibraryIdentifier", &slice.identifier));
        text.push_str(&pair("LibraryPath", "libskimstone.a"));
        text.push_str("\t\t\t<key>SupportedArchitectures</key>\n\t\t\t<array>\n");
        for built in &slice.built {
            text.push_str(&format!(
                "\t\t\t\t<string>{}</string>\n",
                architecture(built)
            ));
        }
        text.push_str("\t\t\t</array>\n");
        text.push_str(&pair("SupportedPlatform", slice.system));
        if slice.simulator {
            text.push_str(&pair("SupportedPlatformVariant", "simulator"));
        }
        text.push_str("\t\t</dict>\n");
    }
    text.push_str(
        "\t</array>\n\t<key>CFBundlePackageType</key>\n\t<string>XFWK</string>\n\
         \t<key>XCFrameworkFormatVersion</key>\n\t<string>1.0</string>\n</dict>\n</plist>\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::super::platform::find;
    use super::super::toolchain::Library;
    use super::*;

    fn built(name: &str) -> Vec<Built> {
        let one = |platform| Built {
            platform,
            library: Library {
                archive: PathBuf::new(),
                shared: None,
            },
        };
        find(name).unwrap().into_iter().map(one).collect()
    }

    #[test]
    fn slices_have_the_names_of_xcode() {
        let built = built("apple");
        let slices = slices(&built);
        let names: Vec<&str> = slices
            .iter()
            .map(|slice| slice.identifier.as_str())
            .collect();
        assert_eq!(
            names,
            [
                "ios-arm64",
                "ios-arm64-simulator",
                "macos-arm64",
                "watchos-arm64_arm64_32"
            ]
        );
        let plist = info(&slices);
        assert_eq!(plist.matches("<key>LibraryIdentifier</key>").count(), 4);
        assert_eq!(plist.matches("<string>simulator</string>").count(), 1);
    }

    #[test]
    fn a_universal_library_holds_its_parts() {
        let parts = [
            ("arm64", b"first".to_vec()),
            ("arm64_32", b"second".to_vec()),
        ];
        let bytes = universal(&parts).unwrap();
        let word = |at: usize| u32::from_be_bytes(bytes[4 * at..4 * at + 4].try_into().unwrap());
        assert_eq!((word(0), word(1)), (0xcafe_babe, 2));
        for (index, (_, part)) in parts.iter().enumerate() {
            let entry = 2 + 5 * index;
            let (at, size) = (word(entry + 2) as usize, word(entry + 3) as usize);
            assert_eq!(at % 8, 0);
            assert_eq!(&bytes[at..at + size], part.as_slice());
        }
        assert!(universal(&[("arm64", Vec::new()), ("riscv", Vec::new())]).is_err());
    }
}
