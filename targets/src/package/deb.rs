//! Debian packages for Jetson, Raspberry Pi and x86-64: `libskimstone<abi>` with the library that programs load, `libskimstone-dev` with
//! what they are built with.
//!
//! ```text
//! libskimstone0       usr/lib/TRIPLET/libskimstone.so.0 → libskimstone.so.VERSION
//! libskimstone-dev    usr/include/skimstone.{h,hpp}
//!                     usr/lib/TRIPLET/libskimstone.{so,a}, pkgconfig/skimstone.pc, cmake/skimstone/
//! both                usr/share/doc/NAME: copyright, third-party notices, bill of materials
//! ```
//!
//! A `.deb` is an `ar` archive of a version, a tarball that describes and one that is unpacked over `/` (deb(5)).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use md5::{Digest, Md5};
use skimstone::{Error, ErrorKind};

use super::archive::{Content, Entry, ar, tar_gz};
use super::{Inside, Made, save};
use crate::failure::Result;

const MAINTAINER: &str = "skimstone <skimstone@users.noreply.github.com>";

/// Writes both packages to `out`.
pub(super) fn package(inside: &Inside<'_>, out: &Path) -> Result<Made> {
    let mut made = Made::default();
    for built in &inside.built {
        let (platform, library) = (built.platform, &built.library);
        let shared = library.shared.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Io, "cargo named no libskimstone.so").at(platform.triple)
        })?;
        let shared = fs::read(shared).map_err(|error| Error::io(shared, error))?;
        let archive = fs::read(&library.archive).map_err(|e| Error::io(&library.archive, e))?;
        let header = inside.source.read("ffi/include/skimstone.h")?;
        let major = abi_major(&header)?;
        check_soname(&shared, major)?;
        let packages = Packages {
            inside,
            architecture: platform.name,
            libdir: format!("lib/{}", platform.system),
            major,
            depends: depends(&shared),
        };
        made.files.push(packages.runtime(shared)?.write(out)?);
        made.files.push(packages.development(archive)?.write(out)?);
    }
    Ok(made)
}

struct Packages<'p> {
    inside: &'p Inside<'p>,
    architecture: &'static str,
    /// Below the prefix.
    libdir: String,
    major: u32,
    depends: String,
}

/// One `.deb`.
struct Package {
    name: String,
    version: String,
    architecture: &'static str,
    fields: Vec<(&'static str, String)>,
    /// Further files that describe.
    control: Vec<Entry>,
    data: Vec<Entry>,
}

impl Packages<'_> {
    fn runtime(&self, shared: Vec<u8>) -> Result<Package> {
        let name = format!("libskimstone{}", self.major);
        let version = &self.inside.version;
        let soname = format!("libskimstone.so.{}", self.major);
        let file = format!("libskimstone.so.{version}");
        let usr = |path: &str| format!("usr/{}/{path}", self.libdir);
        let mut data = vec![Entry::file(usr(&file), shared)];
        // Before 1.0 the file of a version could itself be called so.
        if file != soname {
            data.push(Entry::link(usr(&soname), file));
        }
        data.extend(self.documents(&name)?);
        let shlibs = format!("libskimstone {} {name} (>= {version})\n", self.major);
        Ok(self.package(
            &name,
            vec![
                ("Section", "libs".to_owned()),
                ("Depends", self.depends.clone()),
                (
                    "Description",
                    description("shared library", "what programs that use it load"),
                ),
            ],
            vec![
                Entry::file("shlibs", shlibs),
                Entry::file("triggers", "activate-noawait ldconfig\n"),
            ],
            data,
        ))
    }

    fn development(&self, archive: Vec<u8>) -> Result<Package> {
        let name = "libskimstone-dev";
        let source = self.inside.source;
        let usr = |path: &str| format!("usr/{}/{path}", self.libdir);
        let soname = format!("libskimstone.so.{}", self.major);
        let mut data = vec![
            Entry::file(
                "usr/include/skimstone.h",
                source.read("ffi/include/skimstone.h")?,
            ),
            Entry::file(
                "usr/include/skimstone.hpp",
                source.read("ffi/include/skimstone.hpp")?,
            ),
            Entry::file(usr("libskimstone.a"), archive),
            Entry::link(usr("libskimstone.so"), soname),
        ];
        for (template, path) in [
            ("ffi/skimstone.pc.in", "pkgconfig/skimstone.pc"),
            (
                "ffi/skimstone-config.cmake.in",
                "cmake/skimstone/skimstone-config.cmake",
            ),
            (
                "ffi/skimstone-config-version.cmake.in",
                "cmake/skimstone/skimstone-config-version.cmake",
            ),
        ] {
            data.push(Entry::file(usr(path), self.filled(&source.read(template)?)));
        }
        data.extend(self.documents(name)?);
        let library = format!("libskimstone{} (= {})", self.major, self.inside.version);
        Ok(self.package(
            name,
            vec![
                ("Section", "libdevel".to_owned()),
                ("Depends", library),
                (
                    "Description",
                    description(
                        "development files",
                        "headers for C and C++, a static library, files for pkg-config and CMake",
                    ),
                ),
            ],
            Vec::new(),
            data,
        ))
    }

    fn filled(&self, template: &str) -> String {
        template
            .replace("@PREFIX@", "/usr")
            .replace("@LIBDIR@", &self.libdir)
            .replace("@VERSION@", &self.inside.version)
            .replace("@ABI_MAJOR@", &self.major.to_string())
    }

    fn documents(&self, package: &str) -> Result<Vec<Entry>> {
        let doc = |name: &str| format!("usr/share/doc/{package}/{name}");
        let mut documents = Vec::new();
        for (name, text) in self.inside.documents()? {
            documents.push(Entry::file(doc(&name), text));
        }
        let mit = self.inside.source.read("LICENSE-MIT")?;
        let copyright = format!(
            "skimstone is under the MIT licence, which follows, or the Apache License 2.0, at your choice; the latter is in\n\
             /usr/share/common-licenses/Apache-2.0. THIRD-PARTY-NOTICES has the licences of what it contains.\n\n{mit}"
        );
        documents.push(Entry::file(doc("copyright"), copyright));
        Ok(documents)
    }

    fn package(
        &self,
        name: &str,
        fields: Vec<(&'static str, String)>,
        control: Vec<Entry>,
        data: Vec<Entry>,
    ) -> Package {
        Package {
            name: name.to_owned(),
            version: self.inside.version.clone(),
            architecture: self.architecture,
            fields,
            control,
            data,
        }
    }
}

impl Package {
    fn write(mut self, out: &Path) -> Result<PathBuf> {
        let name = format!("{}_{}_{}.deb", self.name, self.version, self.architecture);
        let bytes = self
            .bytes()
            .map_err(|error| Error::io(Path::new(&name), error))?;
        save(&out.join(name), &bytes)
    }

    fn bytes(&mut self) -> io::Result<Vec<u8>> {
        self.data.sort_by(|a, b| a.path.cmp(&b.path));
        let (mut sums, mut kib) = (String::new(), 0);
        for entry in &self.data {
            if let Content::File(bytes) = &entry.content {
                kib += bytes.len().div_ceil(1024);
                let sum: String = Md5::digest(bytes)
                    .iter()
                    .map(|b| format!("{b:02x}"))
                    .collect();
                sums.push_str(&format!("{sum}  {}\n", entry.path));
            }
        }
        let mut control = format!(
            "Package: {}\nVersion: {}\nArchitecture: {}\nMulti-Arch: same\nMaintainer: {MAINTAINER}\nInstalled-Size: {kib}\nPriority: optional\n",
            self.name, self.version, self.architecture
        );
        for (name, value) in &self.fields {
            control.push_str(&format!("{name}: {value}\n"));
        }
        self.control.push(Entry::file("control", control));
        self.control.push(Entry::file("md5sums", sums));
        self.control.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(ar(&[
            ("debian-binary", b"2.0\n"),
            ("control.tar.gz", &tar_gz(&self.control)?),
            ("data.tar.gz", &tar_gz(&self.data)?),
        ]))
    }
}

fn description(part: &str, what: &str) -> String {
    format!(
        "reasoning on the device ({part})\n skimstone runs small models that reason, inside an app and without a network.\n .\n This package has {what}."
    )
}

/// The number in `#define SKIM_ABI_MAJOR 0`.
pub(super) fn abi_major(header: &str) -> Result<u32> {
    let line = header
        .lines()
        .find_map(|line| line.strip_prefix("#define SKIM_ABI_MAJOR "));
    let number = line.and_then(|number| number.trim().parse().ok());
    Ok(number.ok_or_else(|| {
        Error::new(ErrorKind::Data, "defines no SKIM_ABI_MAJOR").at("ffi/include/skimstone.h")
    })?)
}

/// A library whose own name is another one would not be found by the programs that link it.
fn check_soname(shared: &[u8], major: u32) -> Result {
    let soname = format!("libskimstone.so.{major}");
    if strings(shared).contains(soname.as_str()) {
        return Ok(());
    }
    Err(
        Error::new(ErrorKind::Data, format!("does not call itself {soname}"))
            .at("libskimstone.so")
            .with_hint("the linker that cargo was told to use ignores -soname")
            .into(),
    )
}

/// The packages that the library needs: libc by the newest version of its symbols that the library asks for.
fn depends(shared: &[u8]) -> String {
    let strings = strings(shared);
    let versions = strings
        .iter()
        .filter_map(|text| text.strip_prefix("GLIBC_2."));
    let newest = versions
        .filter_map(|minor| minor.split('.').next()?.parse::<u32>().ok())
        .max();
    let mut depends = match newest {
        Some(minor) => format!("libc6 (>= 2.{minor})"),
        None => "libc6".to_owned(),
    };
    if strings.contains("libgcc_s.so.1") {
        depends.push_str(", libgcc-s1");
    }
    depends
}

/// The short texts in a library that its string table may have: between zeros, without blanks.
fn strings(library: &[u8]) -> BTreeSet<&str> {
    library
        .split(|byte| *byte == 0)
        .filter(|text| (5..64).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic))
        .filter_map(|text| std::str::from_utf8(text).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_says_what_it_needs() {
        let library =
            b"\x7fELF\0libgcc_s.so.1\0GLIBC_2.9\0GLIBC_2.34\0GLIBC_2.2.5\0libskimstone.so.0\0";
        assert_eq!(depends(library), "libc6 (>= 2.34), libgcc-s1");
        assert!(check_soname(library, 0).is_ok());
        assert!(check_soname(library, 1).is_err());
    }

    #[test]
    fn the_abi_is_read_from_the_header() {
        assert_eq!(abi_major("/* x */\n#define SKIM_ABI_MAJOR 3\n").unwrap(), 3);
        assert!(abi_major("").is_err());
    }
}
