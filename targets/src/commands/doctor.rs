//! `skim doctor`: what this machine has, and what would go wrong with a bundle on it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;
use skimstone::memory::estimate;
use skimstone::{Bundle, Error};

use crate::failure::Result;
use crate::machine::{Machine, file_system};
use crate::model::at_least_one;
use crate::terminal::{Style, bytes, counted, print_json};

/// Context of the memory estimate where none is asked for; as that of the other commands.
const CONTEXT: usize = 4096;

/// File systems that fetch pages from elsewhere: a mapped page may take long, or fail with a signal when the other side is gone.
const REMOTE: [&str; 7] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "9p",
    "fuse.sshfs",
    "virtiofs",
];
/// File systems whose files are memory.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];

/// Arguments of `skim doctor`.
#[derive(clap::Args)]
#[command(after_help = "\
With --json: machine (arch, os, cpu, features, kernels, tables, cores, page_bytes, huge_pages,
memory_bytes, available_bytes, cgroup_limit_bytes; null where unknown), bundle (null without MODEL),
findings (level, what, try). A bundle that cannot be opened is told on standard error, too, and
the exit status is 2 then.")]
pub(crate) struct Doctor {
    /// A bundle to open and verify.
    #[arg(value_name = "MODEL")]
    model: Option<PathBuf>,

    /// Positions of the context [default: the model's, at most 4096].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    context: Option<usize>,

    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    machine: Machine,
    bundle: Option<BundleReport>,
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct BundleReport {
    path: String,
    file_system: Option<String>,
    /// Of what follows `None` if it could not be opened.
    verified: bool,
    verify_ms: Option<f64>,
    context: Option<usize>,
    file_backed: Option<u64>,
    anonymous: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Fine,
    Slow,
    Wrong,
}

/// One thing, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    what: String,
    #[serde(rename = "try", skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    fn new(level: Level, what: impl Into<String>, advice: &str) -> Finding {
        Finding {
            level,
            what: what.into(),
            advice: (!advice.is_empty()).then(|| advice.to_owned()),
        }
    }
}

impl Doctor {
    pub(crate) fn run(self) -> Result {
        let machine = Machine::look();
        let mut findings = of_machine(&machine);
        let mut failed = None;
        let bundle = self.model.as_ref().map(|path| {
            let (report, more, error) = examine(path, self.context, &machine);
            findings.extend(more);
            failed = error;
            report
        });
        let report = Report {
            machine,
            bundle,
            findings,
        };
        if self.json {
            print_json(&report)?;
        } else {
            report.print()?;
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}

fn of_machine(machine: &Machine) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut say =
        |level, what: String, advice: &str| findings.push(Finding::new(level, what, advice));
    let best = machine.tables.first().copied();
    match machine.kernels {
        None => say(
            Level::Wrong,
            "SKIMSTONE_KERNELS names a table that this CPU does not have: no model will open"
                .to_owned(),
            "unset SKIMSTONE_KERNELS",
        ),
        Some(kernels) if best != Some(kernels) => say(
            Level::Slow,
            format!("SKIMSTONE_KERNELS forces {kernels}; this CPU can do better"),
            "unset SKIMSTONE_KERNELS",
        ),
        Some("scalar" | "generic") => say(
            Level::Slow,
            "this CPU has none of the instruction sets that have fast kernels".to_owned(),
            "use a small model, and give it few threads",
        ),
        Some(_) => {}
    }
    if machine.arch == "x86_64" && !machine.features.iter().any(|name| name.contains("vnni")) {
        say(
            Level::Slow,
            "this CPU has no int8 dot product: prompts take about three times as long as with AVX-512 VNNI".to_owned(),
            "keep prompts short, or fork a session that has read their common part",
        );
    }
    if machine.huge_pages.as_deref() == Some("never") {
        say(
            Level::Slow,
            "transparent huge pages are off: copied weights are read a little slower".to_owned(),
            "allow them with `madvise`, or leave the weights mapped",
        );
    }
    if let Some(limit) = machine.cgroup_limit_bytes {
        say(
            Level::Fine,
            format!(
                "the control group allows {}, mapped pages included while they are in use",
                bytes(limit)
            ),
            "",
        );
    }
    findings
}

/// Opens and verifies the bundle. Its error, if it has one, is a finding as well.
fn examine(
    path: &Path,
    context: Option<usize>,
    machine: &Machine,
) -> (BundleReport, Vec<Finding>, Option<Error>) {
    let mut findings = Vec::new();
    let file_system = file_system(path);
    if let Some(kind) = file_system.as_deref() {
        findings.extend(of_file_system(kind));
    }
    let mut report = BundleReport {
        path: path.display().to_string(),
        file_system,
        verified: false,
        verify_ms: None,
        context: None,
        file_backed: None,
        anonymous: None,
    };
    let start = Instant::now();
    let bundle = match Bundle::open(path) {
        Ok(bundle) => bundle,
        Err(error) => {
            let advice = error.hint().unwrap_or("copy or export the bundle again");
            findings.push(Finding::new(Level::Wrong, error.to_string(), advice));
            return (report, findings, Some(error));
        }
    };
    report.verified = true;
    report.verify_ms = Some(start.elapsed().as_secs_f64() * 1e3);
    let most = bundle.config().max_position_embeddings;
    let positions = context.unwrap_or(CONTEXT).min(most);
    if context.is_some_and(|asked| asked > most) {
        let what = format!("the model has {most} positions; a longer context is refused");
        findings.push(Finding::new(
            Level::Wrong,
            what,
            "ask for a shorter context",
        ));
    }
    let memory = estimate(&bundle, positions, 1, None);
    report.context = Some(positions);
    report.file_backed = Some(memory.file_backed);
    report.anonymous = Some(memory.anonymous);
    findings.extend(of_memory(memory.file_backed, memory.anonymous, machine));
    let error = of_contents(&bundle, &mut findings);
    (report, findings, error)
}

fn of_file_system(kind: &str) -> Option<Finding> {
    if REMOTE.contains(&kind) {
        return Some(Finding::new(
            Level::Slow,
            format!(
                "the bundle lies on {kind}: weights that the system dropped come back over a connection, and if that breaks, reading them ends the process"
            ),
            "copy the bundle to a local disk, or open it with its weights copied (--copy-weights)",
        ));
    }
    IN_MEMORY.contains(&kind).then(|| {
        Finding::new(
            Level::Slow,
            format!("the bundle lies on {kind}: its pages are memory that the system cannot drop"),
            "put it on a disk",
        )
    })
}

/// Whether the bundle and a session fit beside what runs already.
fn of_memory(file_backed: u64, anonymous: u64, machine: &Machine) -> Option<Finding> {
    let limits = [machine.available_bytes, machine.cgroup_limit_bytes];
    let room = limits.into_iter().flatten().min()?;
    if anonymous > room {
        let what = format!(
            "a session needs {} of memory, {} more than is free: the system may end the process",
            bytes(anonymous),
            bytes(anonymous - room)
        );
        let advice = "use a smaller --context, --kv q8, or end other programs";
        return Some(Finding::new(Level::Wrong, what, advice));
    }
    let total = file_backed.saturating_add(anonymous);
    (total > room).then(|| {
        let what = format!(
            "weights and session need {}, {} more than is free: weights are read from storage again and again, which is many times slower",
            bytes(total),
            bytes(total - room)
        );
        Finding::new(Level::Slow, what, "use a smaller format (q4) or model, or end other programs")
    })
}

/// What else is in the bundle; the first error of it.
fn of_contents(bundle: &Bundle, findings: &mut Vec<Finding>) -> Option<Error> {
    if bundle.provenance().get("random") == Some(&Value::Bool(true)) {
        let what = "the weights are random: good for measuring, not for answers";
        findings.push(Finding::new(Level::Fine, what, ""));
    }
    match bundle.tokenizer() {
        Err(error) => {
            let what = format!("the tokenizer does not load: {error}");
            findings.push(Finding::new(
                Level::Wrong,
                what,
                "import or export the bundle again",
            ));
            return Some(error);
        }
        Ok(None) => {
            let what = "there is no tokenizer: the bundle takes token ids, not text";
            findings.push(Finding::new(Level::Fine, what, ""));
        }
        Ok(Some(_)) if bundle.chat_template().is_none() => {
            let what = "there is no chat template: prompts are used as they are";
            findings.push(Finding::new(Level::Fine, what, ""));
        }
        Ok(Some(_)) => {}
    }
    None
}

impl Report {
    fn print(&self) -> Result {
        let mut out = io::stdout().lock();
        let style = Style::of(&out);
        let machine = &self.machine;
        let unknown = || "unknown".to_owned();
        let size = |value: Option<u64>| value.map_or_else(unknown, bytes);
        let mut line = |name: &str, value: String| {
            writeln!(out, "{}  {value}", style.strong(&format!("{name:11}")))
        };
        line("machine", format!("{} {}", machine.os, machine.arch))?;
        line("cpu", machine.cpu.clone().unwrap_or_else(unknown))?;
        line("features", machine.features.join(" "))?;
        let kernels = machine.kernels.unwrap_or("none").to_owned();
        line(
            "kernels",
            format!("{kernels} of {}", machine.tables.join(", ")),
        )?;
        line("cores", machine.cores.to_string())?;
        let (free, all) = (size(machine.available_bytes), size(machine.memory_bytes));
        line("memory", format!("{free} free of {all}"))?;
        line("pages", size(machine.page_bytes))?;
        line(
            "huge pages",
            machine.huge_pages.clone().unwrap_or_else(unknown),
        )?;
        if let Some(bundle) = &self.bundle {
            line("bundle", bundle.path.clone())?;
            line(
                "lies on",
                bundle.file_system.clone().unwrap_or_else(unknown),
            )?;
            if let (Some(ms), Some(context)) = (bundle.verify_ms, bundle.context) {
                line("verified", format!("every checksum, in {ms:.0} ms"))?;
                let (file, memory) = (size(bundle.file_backed), size(bundle.anonymous));
                let context = counted(context, "position");
                line(
                    "needs",
                    format!("{file} mapped and {memory} of memory for {context}"),
                )?;
            }
        }
        for finding in &self.findings {
            let level = match finding.level {
                Level::Fine => "note",
                Level::Slow => "slow",
                Level::Wrong => "wrong",
            };
            line(level, finding.what.clone())?;
            if let Some(advice) = &finding.advice {
                line("  try", advice.clone())?;
            }
        }
        if self
            .findings
            .iter()
            .all(|finding| finding.level == Level::Fine)
        {
            line(
                "verdict",
                "nothing would go wrong that can be seen from here".to_owned(),
            )?;
        }
        Ok(out.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            arch: "x86_64",
            os: "linux",
            cpu: None,
            features: vec!["avx2", "avx512vnni"],
            kernels: Some("x86_64-avx512vnni"),
            tables: vec!["x86_64-avx512vnni", "scalar"],
            cores: 2,
            page_bytes: Some(4096),
            huge_pages: Some("madvise".to_owned()),
            memory_bytes: Some(1000),
            available_bytes: Some(500),
            cgroup_limit_bytes: None,
        }
    }

    fn levels(findings: &[Finding]) -> Vec<Level> {
        findings.iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn machines() {
        assert_eq!(of_machine(&machine()), []);
        let forced = Machine {
            kernels: Some("scalar"),
            ..machine()
        };
        let findings = of_machine(&forced);
        assert_eq!(levels(&findings), [Level::Slow]);
        assert!(findings[0].what.contains("forces scalar"));
        let unknown = Machine {
            kernels: None,
            huge_pages: Some("never".to_owned()),
            ..machine()
        };
        assert_eq!(levels(&of_machine(&unknown)), [Level::Wrong, Level::Slow]);
        let old = Machine {
            features: vec!["avx2"],
            ..machine()
        };
        assert_eq!(levels(&of_machine(&old)), [Level::Slow]);
    }

    #[test]
    fn memory() {
        assert_eq!(of_memory(300, 200, &machine()), None);
        let slow = of_memory(400, 200, &machine()).unwrap();
        assert_eq!(slow.level, Level::Slow);
        assert!(slow.what.contains("100 B more"), "{slow:?}");
        let wrong = of_memory(0, 501, &machine()).unwrap();
        assert_eq!(wrong.level, Level::Wrong);
        assert!(wrong.what.contains("1 B more"), "{wrong:?}");
        let capped = Machine {
            cgroup_limit_bytes: Some(100),
            ..machine()
        };
        assert_eq!(of_memory(0, 150, &capped).unwrap().level, Level::Wrong);
    }

    #[test]
    fn file_systems() {
        assert_eq!(of_file_system("ext4"), None);
        for kind in REMOTE.iter().chain(&IN_MEMORY) {
            assert_eq!(of_file_system(kind).unwrap().level, Level::Slow);
        }
    }
}
