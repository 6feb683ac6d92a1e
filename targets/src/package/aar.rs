//! The Android package: Java classes, their JNI library where an NDK is there to link it, and the static library for apps that call
//! `skimstone.h` themselves ("prefab", <https://google.github.io/prefab/>).
//!
//! ```text
//! AndroidManifest.xml, R.txt, proguard.txt, classes.jar
//! jni/ABI/libskimstone_jni.so                              needs the NDK's linker
//! prefab/modules/skimstone/{include, libs/android.ABI/libskimstone.a}
//! META-INF/skimstone/                                      licences, bill of materials
//! ```
//!
//! Only the NDK has Android's C library and unwinder. So beside the AAR comes a folder with all that they are linked with and a
//! script that does it, `link`; it is run at once if `ANDROID_NDK_HOME` names an NDK.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use skimstone::Error;

use super::archive::{Entry, zip};
use super::{Inside, Made, save, tool};
use crate::failure::Result;

/// Oldest Android, the same as in the names of the platforms.
const API_LEVEL: u32 = 21;

/// Writes the AAR and the folder beside it to `out`.
pub(super) fn package(inside: &Inside<'_>, out: &Path) -> Result<Made> {
    let source = inside.source;
    let name = format!("skimstone-{}.aar", inside.version);
    let folder = out.join("skimstone-android");
    let mut entries = vec![
        Entry::file("AndroidManifest.xml", manifest()),
        // The build of an app reads it, even if there are no resources.
        Entry::file("R.txt", ""),
        Entry::file(
            "proguard.txt",
            source.read("bindings/java/consumer-rules.pro")?,
        ),
        Entry::file("classes.jar", classes(inside)?),
    ];
    for (name, text) in inside.documents()? {
        save_below(&folder, &name, text.as_bytes())?;
        entries.push(Entry::file(format!("META-INF/skimstone/{name}"), text));
    }
    entries.extend(prefab(inside)?);
    let aar = zip(&entries).map_err(|error| Error::io(Path::new(&name), error))?;
    let aar = save(&out.join(&name), &aar)?;

    for built in &inside.built {
        let archive = &built.library.archive;
        let bytes = fs::read(archive).map_err(|error| Error::io(archive, error))?;
        let path = format!("lib/{}/libskimstone.a", built.platform.name);
        save_below(&folder, &path, &bytes)?;
    }
    for (from, to) in [
        ("ffi/include/skimstone.h", "skimstone.h"),
        (
            "bindings/java/src/main/c/skimstone_jni.c",
            "skimstone_jni.c",
        ),
    ] {
        save_below(&folder, to, source.read(from)?.as_bytes())?;
    }
    let link = save_below(&folder, "link", script(inside, &name).as_bytes())?;

    let mut made = Made {
        files: vec![aar, link.clone()],
        remaining: Vec::new(),
    };
    match ndk() {
        Some(ndk) => {
            let mut command = Command::new("sh");
            command.arg(&link).env("ANDROID_NDK_HOME", ndk);
            tool::run(&mut command, "install a POSIX shell")?;
        }
        None => made.remaining.push(format!(
            "the JNI libraries need the NDK's linker; on a machine that has one: ANDROID_NDK_HOME=… sh {}",
            link.display()
        )),
    }
    Ok(made)
}

fn ndk() -> Option<PathBuf> {
    let names = ["ANDROID_NDK_HOME", "ANDROID_NDK_ROOT"];
    let mut paths = names.iter().filter_map(std::env::var_os).map(PathBuf::from);
    paths.find(|path| path.join("toolchains/llvm/prebuilt").is_dir())
}

fn save_below(folder: &Path, path: &str, bytes: &[u8]) -> Result<PathBuf> {
    let path = folder.join(path);
    if let Some(above) = path.parent() {
        fs::create_dir_all(above).map_err(|error| Error::io(above, error))?;
    }
    save(&path, bytes)
}

fn manifest() -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n\
         <manifest xmlns:android=\"http://schemas.android.com/apk/res/android\" package=\"io.github.skimstone\">\n    \
         <uses-sdk android:minSdkVersion=\"{API_LEVEL}\" />\n</manifest>\n"
    )
}

/// The Java binding as `classes.jar`. It is the code of Java 8, which every Android of today runs.
fn classes(inside: &Inside<'_>) -> Result<Vec<u8>> {
    const HINT: &str =
        "install a JDK, 9 or newer; on Debian and Ubuntu: apt install default-jdk-headless";
    let java = inside
        .source
        .file("bindings/java/src/main/java/io/github/skimstone");
    let mut sources: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(&java).map_err(|error| Error::io(&java, error))? {
        let path = entry.map_err(|error| Error::io(&java, error))?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "java")
        {
            sources.push(path);
        }
    }
    sources.sort();
    let work = std::env::temp_dir().join(format!("skimstone-classes-{}", std::process::id()));
    let compiled = (|| {
        let mut javac = Command::new("javac");
        javac
            .args(["--release", "8", "-Xlint:-options", "-d"])
            .arg(&work)
            .args(&sources);
        tool::run(&mut javac, HINT)?;
        let folder = work.join("io/github/skimstone");
        let mut entries = Vec::new();
        for entry in fs::read_dir(&folder).map_err(|error| Error::io(&folder, error))? {
            let path = entry.map_err(|error| Error::io(&folder, error))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let bytes = fs::read(&path).map_err(|error| Error::io(&path, error))?;
            entries.push(Entry::file(format!("io/github/skimstone/{name}"), bytes));
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(zip(&entries).map_err(|error| Error::io(Path::new("classes.jar"), error))?)
    })();
    // Best effort: it is a temporary folder.
    let _ = fs::remove_dir_all(&work);
    compiled
}

fn prefab(inside: &Inside<'_>) -> Result<Vec<Entry>> {
    let module = "prefab/modules/skimstone";
    let source = inside.source;
    let text = |value: serde_json::Value| format!("{value:#}\n");
    let mut entries = vec![
        Entry::file(
            "prefab/prefab.json",
            text(json!({
                "schema_version": 2, "name": "skimstone", "version": inside.version, "dependencies": [],
            })),
        ),
        Entry::file(
            format!("{module}/module.json"),
            text(json!({"export_libraries": ["-ldl", "-lm"]})),
        ),
    ];
    for header in ["skimstone.h", "skimstone.hpp"] {
        let text = source.read(&format!("ffi/include/{header}"))?;
        entries.push(Entry::file(format!("{module}/include/{header}"), text));
    }
    for built in &inside.built {
        let abi = built.platform.name;
        let folder = format!("{module}/libs/android.{abi}");
        let archive = &built.library.archive;
        let bytes = fs::read(archive).map_err(|error| Error::io(archive, error))?;
        entries.push(Entry::file(format!("{folder}/libskimstone.a"), bytes));
        entries.push(Entry::file(
            format!("{folder}/abi.json"),
            text(json!({"abi": abi, "api": API_LEVEL, "ndk": 27, "stl": "none", "static": true})),
        ));
    }
    Ok(entries)
}

/// Links `libskimstone_jni.so` for every ABI and puts them into the AAR.
fn script(inside: &Inside<'_>, aar: &str) -> String {
    let abis: Vec<String> = inside
        .built
        .iter()
        .map(|built| format!("link {} {}", built.platform.name, built.platform.system))
        .collect();
    format!(
        r#"#!/bin/sh
# Links libskimstone_jni.so for every ABI and puts them into ../{aar}. Needs an NDK, 26 or newer, and `jar` of a JDK:
#   ANDROID_NDK_HOME=/path/to/ndk sh link
set -eu
cd "$(dirname "$0")"
host=$(uname -s | tr '[:upper:]' '[:lower:]')-x86_64
bin="${{ANDROID_NDK_HOME:?names no NDK}}/toolchains/llvm/prebuilt/$host/bin"

# Pages of 16 KB: Android 15 has devices with them, and Google Play refuses libraries that are aligned to less.
link() {{
    mkdir -p "jni/$1"
    "$bin/$2-clang" -std=gnu11 -O2 -fPIC -fvisibility=hidden -I . -shared skimstone_jni.c "lib/$1/libskimstone.a" \
        -Wl,-z,max-page-size=16384 -Wl,-soname,libskimstone_jni.so -Wl,--exclude-libs,ALL -Wl,--gc-sections \
        -Wl,--no-undefined -Wl,-s -ldl -lm -o "jni/$1/libskimstone_jni.so"
    "$bin/llvm-readelf" -lW "jni/$1/libskimstone_jni.so" | awk '$1 == "LOAD" && $NF != "0x4000" {{ print "aligned to " $NF; exit 1 }}'
}}
{}
jar --update --no-manifest --file "../{aar}" jni
echo "../{aar} has jni/"
"#,
        abis.join("\n")
    )
}
