//! Device profiles: what a target has, what its system allows an app, and who says so.
//!
//! A profile is a TOML file in `targets/profiles/`; all of them are part of the binary. Wherever a target is named, the path of
//! another such file does as well. Every number names an entry of the file's `[sources]`, and that entry says how far it is to be
//! trusted. What could not be sourced is left out and listed under `missing`: nothing here is guessed in silence.

mod schema;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::Path;

use skimstone::{Error, ErrorKind};

use crate::failure::Result;
pub(crate) use schema::{BandwidthIs, Number, Profile, State};

/// Largest profile file that is read. Ours have about 2 KB.
const MAX_BYTES: u64 = 1 << 20;

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../profiles/", $name, ".toml")))),*]
    };
}

/// Name and text of every profile in the binary, sorted by name.
const BUILT_IN: [(&str, &str); 16] = built_in![
    "android-6gb",
    "apple-watch-series-9",
    "ipad-air-m4",
    "iphone-13",
    "iphone-15-pro",
    "iphone-16",
    "jetson-agx-orin-64gb",
    "jetson-orin-nano-8gb",
    "jetson-thor",
    "macbook-air-m2",
    "pixel-8",
    "raspberry-pi-4-4gb",
    "raspberry-pi-5-8gb",
    "x86-64-avx512vnni-2-cores",
    "x86-64-zen4-2-cores",
    "x86-laptop",
];

/// A profile and what it is called.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Of a profile in the binary its name, otherwise the path of its file.
    pub(crate) name: String,
    pub(crate) profile: Profile,
}

/// Every profile in the binary, sorted by name.
pub(crate) fn built_in() -> Result<Vec<Target>> {
    let targets = BUILT_IN.iter().map(|(name, text)| read(name, text));
    targets.collect()
}

/// The profile called `name`, or that in the file `name` if it ends with `.toml`.
///
/// # Errors
/// [`ErrorKind::Argument`] for an unknown name, listing the known ones; [`ErrorKind::Io`] and [`ErrorKind::Config`] for a file that
/// cannot be read or breaks a rule, which is named.
pub(crate) fn find(name: &str) -> Result<Target> {
    if let Some((name, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
        return read(name, text);
    }
    let path = Path::new(name);
    if path
        .extension()
        .is_some_and(|extension| extension == "toml")
    {
        return read(name, &read_file(path)?);
    }
    let known = BUILT_IN.map(|(known, _)| known).join(", ");
    let message = format!("unknown target `{name}`; known: {known}");
    Err(Error::new(ErrorKind::Argument, message)
        .with_hint("the path of a profile of your own, ending with .toml, does as well")
        .into())
}

fn read_file(path: &Path) -> Result<String> {
    let fail = |error| Error::io(path, error);
    let bytes = fs::metadata(path).map_err(fail)?.len();
    if bytes > MAX_BYTES {
        let message = format!("{bytes} bytes are no profile; at most {MAX_BYTES} are read");
        return Err(Error::new(ErrorKind::Config, message)
            .at(path.display())
            .into());
    }
    Ok(fs::read_to_string(path).map_err(fail)?)
}

fn read(name: &str, text: &str) -> Result<Target> {
    let profile: Profile = toml::from_str(text).map_err(|error| {
        Error::new(ErrorKind::Config, error.to_string().trim_end().to_owned())
            .at(name)
            .with_source(error)
    })?;
    profile.validate().map_err(|error| error.at(name))?;
    Ok(Target {
        name: name.to_owned(),
        profile,
    })
}
