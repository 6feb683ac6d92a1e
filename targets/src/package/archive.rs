//! The containers of packages: `ar` and `tar.gz` of a `.deb`, `zip` of an AAR. The same files give the same bytes.

use std::io::{self, Cursor, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// One thing in a package.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// With `/`, relative to the package's root.
    pub(crate) path: String,
    pub(crate) content: Content,
}

#[derive(Debug, Clone)]
pub(crate) enum Content {
    File(Vec<u8>),
    Link(String),
}

impl Entry {
    pub(crate) fn file(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Entry {
        Entry {
            path: path.into(),
            content: Content::File(bytes.into()),
        }
    }

    pub(crate) fn link(path: impl Into<String>, to: impl Into<String>) -> Entry {
        Entry {
            path: path.into(),
            content: Content::Link(to.into()),
        }
    }
}

/// When everything in a package was changed: `SOURCE_DATE_EPOCH`, <https://reproducible-builds.org/specs/source-date-epoch/>, or the
/// first moment that a zip file can express.
pub(crate) fn modified() -> u64 {
    const YEAR_1980: u64 = 315_532_800;
    let set = std::env::var("SOURCE_DATE_EPOCH").ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(YEAR_1980)
}

/// A `tar.gz` whose names begin with `./`, with every folder above a file in front of it, owned by root.
pub(crate) fn tar_gz(entries: &[Entry]) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::best()));
    let mut folders: Vec<&str> = Vec::new();
    for entry in entries {
        let cuts = entry.path.match_indices('/').map(|(at, _)| at);
        for folder in cuts.map(|at| &entry.path[..=at]) {
            if !folders.contains(&folder) {
                let mut header = header(folder, tar::EntryType::Directory, 0o755, 0)?;
                header.set_cksum();
                tar.append(&header, io::empty())?;
                folders.push(folder);
            }
        }
        let path = &entry.path;
        match &entry.content {
            Content::File(bytes) => {
                let size = bytes.len() as u64;
                let mut header = header(path, tar::EntryType::Regular, 0o644, size)?;
                header.set_cksum();
                tar.append(&header, bytes.as_slice())?;
            }
            Content::Link(to) => {
                let mut header = header(path, tar::EntryType::Symlink, 0o777, 0)?;
                header.set_link_name(to)?;
                header.set_cksum();
                tar.append(&header, io::empty())?;
            }
        }
    }
    tar.into_inner()?.finish()
}

fn header(path: &str, kind: tar::EntryType, mode: u32, size: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(modified());
    header.set_uid(0);
    header.set_gid(0);
    // `set_path` would drop the `./` that Debian's own tools write.
    let name = format!("./{path}");
    let field = &mut header.as_old_mut().name;
    let place = field.get_mut(..name.len()).ok_or_else(|| {
        io::Error::other(format!(
            "{name}: a name of more than 100 bytes in a tar file"
        ))
    })?;
    place.copy_from_slice(name.as_bytes());
    Ok(header)
}

/// An `ar` archive in the common format, whose names have at most 16 bytes (deb(5)).
pub(crate) fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = b"!<arch>\n".to_vec();
    for (name, bytes) in members {
        let time = modified();
        let header = format!(
            "{name:<16}{time:<12}0     0     100644  {:<10}`\n",
            bytes.len()
        );
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(bytes);
        if bytes.len() % 2 == 1 {
            out.push(b'\n');
        }
    }
    out
}

/// A zip file. Links are not for it.
pub(crate) fn zip(entries: &[Entry]) -> io::Result<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .last_modified_time(zip::DateTime::default())
        .unix_permissions(0o644);
    for entry in entries {
        let Content::File(bytes) = &entry.content else {
            return Err(io::Error::other(format!(
                "{}: a link in a zip file",
                entry.path
            )));
        };
        zip.start_file(entry.path.as_str(), options)?;
        zip.write_all(bytes)?;
    }
    Ok(zip.finish()?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn an_ar_archive_has_even_members() {
        let bytes = ar(&[("a", b"odd"), ("debian-binary", b"2.0\n")]);
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("!<arch>\na               "));
        assert!(text.contains("3         `\nodd\ndebian-binary   "));
        assert!(text.ends_with("4         `\n2.0\n"));
    }

    #[test]
    fn a_tar_file_has_its_folders_once_and_its_links() {
        let entries = [
            Entry::file("usr/lib/a", "1"),
            Entry::link("usr/lib/b", "a"),
            Entry::file("usr/share/c", "22"),
        ];
        let packed = tar_gz(&entries).unwrap();
        assert_eq!(packed, tar_gz(&entries).unwrap());
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(packed.as_slice()));
        let names: Vec<String> = tar
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        let expected = [
            "./usr/",
            "./usr/lib/",
            "./usr/lib/a",
            "./usr/lib/b",
            "./usr/share/",
            "./usr/share/c",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_zip_file_is_read_back() {
        let packed = zip(&[Entry::file("jni/x86_64/a.so", "library")]).unwrap();
        let mut archive = zip::ZipArchive::new(Cursor::new(packed)).unwrap();
        let mut text = String::new();
        archive
            .by_name("jni/x86_64/a.so")
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "library");
    }
}
