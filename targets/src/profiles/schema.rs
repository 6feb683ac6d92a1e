//! The fields of a profile and the rules between them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use skimstone::{Error, ErrorKind};

/// One device. `GB` are 10⁹ bytes, `GiB` 2³⁰.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    /// What people call it.
    pub(crate) title: String,
    pub(crate) system: System,
    /// The triple that a library for it is built for.
    pub(crate) rust_target: String,
    /// What could not be sourced, in words.
    #[serde(default)]
    pub(crate) missing: Vec<String>,
    pub(crate) memory: Memory,
    pub(crate) cpu: Cpu,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gpu: Option<Gpu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) storage: Option<Storage>,
    /// What the system or the store allows an app. Without any, only the memory itself limits.
    #[serde(default)]
    pub(crate) limits: Vec<Limit>,
    pub(crate) thermal: Thermal,
    pub(crate) sources: BTreeMap<String, Source>,
}

/// What runs on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum System {
    Linux,
    Android,
    Ios,
    Ipados,
    Macos,
    Watchos,
}

/// A number and who says so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Number {
    pub(crate) value: f64,
    /// A key of `[sources]`.
    pub(crate) source: String,
    /// How it was reached, or under which condition it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Memory {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory_gib: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bandwidth_gb_per_s: Option<Number>,
    /// Present exactly where the bandwidth is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bandwidth_is: Option<BandwidthIs>,
}

/// What a bandwidth means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BandwidthIs {
    /// What the memory's wires carry; cores reach less, so that rates from it are upper bounds.
    Peak,
    /// What a loop over memory reached on the cores.
    Sustained,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cpu {
    /// Instruction sets that matter to the kernels, by the names of Rust's feature detection or LLVM.
    pub(crate) isa: Vec<String>,
    /// A key of `[sources]`.
    pub(crate) isa_source: String,
    /// The table of kernels that the SDK picks there, where a machine of this class has shown it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kernels: Option<String>,
    pub(crate) cores: Vec<Cores>,
    /// 10⁹ int8 multiply-adds a second of all cores with operands in registers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) int8_gigamacs_per_s: Option<Number>,
}

/// Cores of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cores {
    pub(crate) kind: String,
    pub(crate) count: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_ghz: Option<f64>,
    /// A key of `[sources]`, for every number here.
    pub(crate) source: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gpu {
    pub(crate) name: String,
    pub(crate) api: String,
    pub(crate) source: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Storage {
    pub(crate) name: String,
    pub(crate) source: String,
}

/// How much memory an app may have that no file backs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limit {
    pub(crate) state: State,
    pub(crate) anonymous_gb: Number,
    /// Whose rule it is, and what happens to who breaks it.
    pub(crate) rule: String,
    /// The limit holds only for apps with this entitlement, and replaces the one without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) entitlement: Option<String>,
}

/// Whether the user sees the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Foreground,
    Background,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            State::Foreground => "foreground",
            State::Background => "background",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Thermal {
    /// How heat leaves the device, in words.
    pub(crate) class: String,
    /// The most that it is built to turn into heat for long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sustained_watts: Option<Number>,
}

/// Where numbers come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    /// An address, or the title of a document.
    pub(crate) cite: String,
    pub(crate) trust: Trust,
}

/// How far a source is to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Trust {
    /// The maker says so.
    #[serde(rename = "vendor")]
    Vendor,
    /// Measured with this repository's tools.
    #[serde(rename = "measured")]
    Measured,
    /// Others say so.
    #[serde(rename = "third party")]
    ThirdParty,
    /// Computed, or carried over from a similar device.
    #[serde(rename = "estimate")]
    Estimate,
}

impl Trust {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Trust::Vendor => "vendor",
            Trust::Measured => "measured",
            Trust::ThirdParty => "third party",
            Trust::Estimate => "estimate",
        }
    }
}

impl Profile {
    /// Checks the rules that types do not express: every source exists and is used, numbers are positive, and what belongs together
    /// stands together.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], naming the field.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let fail = |place: &str, message: String| {
            Err(Error::new(ErrorKind::Config, message).at(format_args!("`{place}`")))
        };
        for (place, number) in self.numbers() {
            if !(number.value.is_finite() && number.value > 0.0) {
                return fail(&place, format!("{} is not above 0", number.value));
            }
        }
        if self.cpu.cores.is_empty() {
            return fail("cpu.cores", "no core is listed".to_owned());
        }
        for cores in &self.cpu.cores {
            let ghz = cores.max_ghz.unwrap_or(1.0);
            if cores.count == 0 || !(ghz.is_finite() && ghz > 0.0) {
                let message = format!("{} {:?} of `{}`", cores.count, cores.max_ghz, cores.kind);
                return fail("cpu.cores", message);
            }
        }
        if self.memory.bandwidth_gb_per_s.is_some() != self.memory.bandwidth_is.is_some() {
            let message = "stands together with `bandwidth_gb_per_s` or not at all";
            return fail("memory.bandwidth_is", message.to_owned());
        }
        let used: BTreeSet<&str> = self.cited().into_iter().collect();
        if let Some(unknown) = used.iter().find(|key| !self.sources.contains_key(**key)) {
            return fail("sources", format!("`{unknown}` is cited and absent"));
        }
        let unused = |key: &&String| !used.contains(key.as_str());
        if let Some(key) = self.sources.keys().find(unused) {
            return fail("sources", format!("`{key}` is cited nowhere"));
        }
        Ok(())
    }

    /// Who says so, and how far to trust it.
    pub(crate) fn source(&self, key: &str) -> Option<&Source> {
        self.sources.get(key)
    }

    /// Cores of all kinds.
    pub(crate) fn core_count(&self) -> usize {
        self.cpu.cores.iter().map(|cores| cores.count).sum()
    }

    /// Every number with a source of its own, and the field it stands in.
    pub(crate) fn numbers(&self) -> Vec<(String, &Number)> {
        let single = [
            ("memory.memory_gib", &self.memory.memory_gib),
            ("memory.bandwidth_gb_per_s", &self.memory.bandwidth_gb_per_s),
            ("cpu.int8_gigamacs_per_s", &self.cpu.int8_gigamacs_per_s),
            ("thermal.sustained_watts", &self.thermal.sustained_watts),
        ];
        let single = single
            .into_iter()
            .filter_map(|(place, number)| Some((place.to_owned(), number.as_ref()?)));
        let limits = self.limits.iter().enumerate().map(|(i, limit)| {
            let place = format!("limits.{i}.anonymous_gb");
            (place, &limit.anonymous_gb)
        });
        single.chain(limits).collect()
    }

    /// Every key of `[sources]` that some field names.
    fn cited(&self) -> Vec<&str> {
        let mut keys = vec![self.cpu.isa_source.as_str()];
        keys.extend(self.numbers().into_iter().map(|(_, n)| n.source.as_str()));
        keys.extend(self.cpu.cores.iter().map(|cores| cores.source.as_str()));
        keys.extend(self.gpu.iter().map(|gpu| gpu.source.as_str()));
        keys.extend(self.storage.iter().map(|storage| storage.source.as_str()));
        keys
    }
}
