//! What the library can be built for, and the names that each packaging system has for it.

use skimstone::{Error, ErrorKind};

use crate::failure::Result;
use crate::profiles;

/// Whose packages a platform belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Linux,
    Android,
    Apple,
}

impl Family {
    const ALL: [Family; 3] = [Family::Linux, Family::Android, Family::Apple];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Family::Linux => "linux",
            Family::Android => "android",
            Family::Apple => "apple",
        }
    }
}

/// One kind of binary.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Platform {
    /// Rust's name.
    pub(crate) triple: &'static str,
    pub(crate) family: Family,
    /// The family's name: Debian's architecture, Android's ABI, the folder of an XCFramework.
    pub(crate) name: &'static str,
    /// Folder of Debian's libraries, prefix of a cross compiler, or what clang calls the target.
    pub(crate) system: &'static str,
    /// Whether rustup has a standard library for it; without one it is built from its sources.
    pub(crate) rustup: bool,
}

const fn platform(
    triple: &'static str,
    family: Family,
    name: &'static str,
    system: &'static str,
) -> Platform {
    Platform {
        triple,
        family,
        name,
        system,
        rustup: true,
    }
}

/// Tier 3 of Rust: no binaries from rustup.
const fn from_sources(platform: Platform) -> Platform {
    Platform {
        rustup: false,
        ..platform
    }
}

/// All of them, the widest used of a family first.
pub(crate) static PLATFORMS: [Platform; 10] = [
    platform(
        "x86_64-unknown-linux-gnu",
        Family::Linux,
        "amd64",
        "x86_64-linux-gnu",
    ),
    platform(
        "aarch64-unknown-linux-gnu",
        Family::Linux,
        "arm64",
        "aarch64-linux-gnu",
    ),
    // API level 21: the oldest that today's NDK links for.
    platform(
        "aarch64-linux-android",
        Family::Android,
        "arm64-v8a",
        "aarch64-linux-android21",
    ),
    platform(
        "armv7-linux-androideabi",
        Family::Android,
        "armeabi-v7a",
        "armv7a-linux-androideabi21",
    ),
    platform(
        "x86_64-linux-android",
        Family::Android,
        "x86_64",
        "x86_64-linux-android21",
    ),
    platform("aarch64-apple-ios", Family::Apple, "ios-arm64", "ios"),
    platform(
        "aarch64-apple-ios-sim",
        Family::Apple,
        "ios-arm64-simulator",
        "ios",
    ),
    platform(
        "aarch64-apple-darwin",
        Family::Apple,
        "macos-arm64",
        "macos",
    ),
    from_sources(platform(
        "arm64_32-apple-watchos",
        Family::Apple,
        "watchos-arm64_32",
        "watchos",
    )),
    from_sources(platform(
        "aarch64-apple-watchos",
        Family::Apple,
        "watchos-arm64",
        "watchos",
    )),
];

/// The platforms that `name` stands for: `all`, a family, a triple of Rust, or a device of `skim targets list`.
///
/// # Errors
/// [`ErrorKind::Argument`] for an unknown name, and for a device that no library is built for.
pub(crate) fn find(name: &str) -> Result<Vec<&'static Platform>> {
    if name == "all" {
        return Ok(PLATFORMS.iter().collect());
    }
    if let Some(family) = Family::ALL.iter().find(|family| family.name() == name) {
        return Ok(PLATFORMS.iter().filter(|p| p.family == *family).collect());
    }
    if let Some(platform) = PLATFORMS.iter().find(|p| p.triple == name) {
        return Ok(vec![platform]);
    }
    let known = || {
        let triples: Vec<&str> = PLATFORMS.iter().map(|p| p.triple).collect();
        format!("all, linux, android, apple, {}", triples.join(", "))
    };
    let device = profiles::find(name).map_err(|_| {
        let message = format!("unknown target `{name}`; known: {}", known());
        Error::new(ErrorKind::Argument, message).with_hint(
            "or a device of `skim targets list`, or the path of a profile of your own (.toml)",
        )
    })?;
    let triple = &device.profile.rust_target;
    let platform = PLATFORMS.iter().find(|p| p.triple == triple);
    let platform = platform.ok_or_else(|| {
        let message = format!("no library is built for `{triple}`; known: {}", known());
        Error::new(ErrorKind::Argument, message).at(&device.name)
    })?;
    Ok(vec![platform])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_has_a_platform() {
        for device in profiles::built_in().unwrap() {
            let found = find(&device.name).unwrap();
            assert_eq!(found[0].triple, device.profile.rust_target);
        }
    }

    #[test]
    fn names_stand_for_one_or_many() {
        assert_eq!(find("all").unwrap().len(), PLATFORMS.len());
        assert_eq!(find("android").unwrap().len(), 3);
        assert_eq!(find("aarch64-apple-ios").unwrap()[0].name, "ios-arm64");
        assert!(find("pdp-11").is_err());
    }
}
