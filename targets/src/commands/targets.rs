//! `skim targets`: the device profiles in the binary.

use std::io::{self, Write};

use serde::Serialize;

use crate::failure::Result;
use crate::profiles::{self, BandwidthIs, Number, Profile, Target};
use crate::terminal::{Style, print_json};

/// Arguments of `skim targets`.
#[derive(clap::Args)]
pub(crate) struct Targets {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// One line per device.
    List {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Everything about one device, with sources.
    Show {
        /// A name from the list, or the path of a profile of your own (.toml).
        target: String,

        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// What `list --json` prints.
#[derive(Serialize)]
struct ListReport {
    targets: Vec<ListEntry>,
}

#[derive(Serialize)]
struct ListEntry {
    name: String,
    #[serde(flatten)]
    profile: Profile,
}

impl Targets {
    pub(crate) fn run(self) -> Result {
        match self.what {
            What::List { json } => list(profiles::built_in()?, json),
            What::Show { target, json } => show(profiles::find(&target)?, json),
        }
    }
}

impl From<Target> for ListEntry {
    fn from(target: Target) -> Self {
        ListEntry {
            name: target.name,
            profile: target.profile,
        }
    }
}

fn list(targets: Vec<Target>, json: bool) -> Result {
    if json {
        let targets = targets.into_iter().map(ListEntry::from).collect();
        return print_json(&ListReport { targets });
    }
    let mut out = io::stdout().lock();
    let style = Style::of(&out);
    let title = format!(
        "{:26}{:>8}  {:>10}  {:>5}  device",
        "name", "memory", "bandwidth", "cores"
    );
    writeln!(out, "{}", style.strong(&title))?;
    for target in &targets {
        let profile = &target.profile;
        let number = |number: &Option<Number>, unit: &str| match number {
            Some(number) => format!("{} {unit}", number.value),
            None => "unknown".to_owned(),
        };
        writeln!(
            out,
            "{:26}{:>8}  {:>10}  {:>5}  {}",
            target.name,
            number(&profile.memory.memory_gib, "GiB"),
            number(&profile.memory.bandwidth_gb_per_s, "GB/s"),
            profile.core_count(),
            profile.title,
        )?;
    }
    Ok(out.flush()?)
}

fn show(target: Target, json: bool) -> Result {
    if json {
        return print_json(&ListEntry::from(target));
    }
    let profile = &target.profile;
    let mut out = io::stdout().lock();
    let style = Style::of(&out);
    let trust = |key: &str| profile.source(key).map_or("", |source| source.trust.name());
    let note = |number: &Number| match &number.note {
        Some(note) => format!("{}; {note}", trust(&number.source)),
        None => trust(&number.source).to_owned(),
    };
    let mut line = |name: &str, value: String, note: String| {
        let name = format!("{name:12}");
        writeln!(
            out,
            "{}  {value}  {}",
            style.strong(&name),
            style.dim(&note)
        )
    };
    line("name", target.name.clone(), String::new())?;
    line("device", profile.title.clone(), String::new())?;
    line("built for", profile.rust_target.clone(), String::new())?;
    if let Some(memory) = &profile.memory.memory_gib {
        line("memory", format!("{} GiB", memory.value), note(memory))?;
    }
    if let Some(bandwidth) = &profile.memory.bandwidth_gb_per_s {
        let is = match profile.memory.bandwidth_is {
            Some(BandwidthIs::Sustained) => "reached by a loop over memory",
            _ => "peak of the wires",
        };
        let value = format!("{} GB/s, {is}", bandwidth.value);
        line("bandwidth", value, note(bandwidth))?;
    }
    for cores in &profile.cpu.cores {
        let clock = cores.max_ghz.map(|ghz| format!(" up to {ghz} GHz"));
        let value = format!(
            "{} x {}{}",
            cores.count,
            cores.kind,
            clock.unwrap_or_default()
        );
        line("cores", value, trust(&cores.source).to_owned())?;
    }
    let isa = profile.cpu.isa.join(" ");
    line("isa", isa, trust(&profile.cpu.isa_source).to_owned())?;
    if let Some(peak) = &profile.cpu.int8_gigamacs_per_s {
        let value = format!("{} int8 multiply-adds a ns", peak.value);
        line("int8 peak", value, note(peak))?;
    }
    if let Some(gpu) = &profile.gpu {
        let value = format!("{} ({})", gpu.name, gpu.api);
        line("gpu", value, trust(&gpu.source).to_owned())?;
    }
    if let Some(storage) = &profile.storage {
        let trust = trust(&storage.source).to_owned();
        line("storage", storage.name.clone(), trust)?;
    }
    for limit in &profile.limits {
        let entitled = limit.entitlement.as_ref();
        let value = format!(
            "{} GB anonymous{}: {}",
            limit.anonymous_gb.value,
            entitled.map_or(String::new(), |name| format!(" with {name}")),
            limit.rule
        );
        line(limit.state.name(), value, note(&limit.anonymous_gb))?;
    }
    let heat = &profile.thermal;
    line(
        "heat",
        match &heat.sustained_watts {
            Some(watts) => format!("{}, {} W", heat.class, watts.value),
            None => heat.class.clone(),
        },
        heat.sustained_watts.as_ref().map_or(String::new(), note),
    )?;
    for missing in &profile.missing {
        line("missing", missing.clone(), String::new())?;
    }
    for source in profile.sources.values() {
        line(
            "source",
            source.cite.clone(),
            source.trust.name().to_owned(),
        )?;
    }
    Ok(out.flush()?)
}
