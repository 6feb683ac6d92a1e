//! What the machine that `skim` runs on has, as Linux and the CPU tell it. Elsewhere most values are unknown.

use std::fs;
use std::path::Path;

use serde::Serialize;
use skimstone::kernels::{Cpu, tables};

use crate::process_memory::field_bytes;

/// This machine.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) arch: &'static str,
    pub(crate) os: &'static str,
    pub(crate) cpu: Option<String>,
    /// Instruction sets that matter to the kernels and that the CPU has.
    pub(crate) features: Vec<&'static str>,
    /// The table of kernels that is used; `None` if the environment names an unknown one.
    pub(crate) kernels: Option<&'static str>,
    /// All tables that run here, best first.
    pub(crate) tables: Vec<&'static str>,
    pub(crate) cores: usize,
    pub(crate) page_bytes: Option<u64>,
    /// `always`, `madvise` or `never`.
    pub(crate) huge_pages: Option<String>,
    pub(crate) memory_bytes: Option<u64>,
    /// Free, or used only to cache files.
    pub(crate) available_bytes: Option<u64>,
    /// What the control group lets this process have.
    pub(crate) cgroup_limit_bytes: Option<u64>,
}

impl Machine {
    /// Of this moment.
    pub(crate) fn look() -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let meminfo = read("/proc/meminfo");
        Machine {
            arch: std::env::consts::ARCH,
            os: std::env::consts::OS,
            cpu: cpu_name(&read("/proc/cpuinfo")),
            features: features(),
            // One thread: only the choice of the table matters.
            kernels: Cpu::new(1).ok().map(|cpu| cpu.name()),
            tables: tables().into_iter().map(|table| table.name()).collect(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            page_bytes: fs::read("/proc/self/auxv")
                .ok()
                .and_then(|auxv| page_bytes(&auxv)),
            huge_pages: chosen(&read("/sys/kernel/mm/transparent_hugepage/enabled")),
            memory_bytes: field_bytes(&meminfo, "MemTotal:"),
            available_bytes: field_bytes(&meminfo, "MemAvailable:"),
            cgroup_limit_bytes: read("/sys/fs/cgroup/memory.max").trim().parse().ok(),
        }
    }
}

/// The file system that holds `path`, e.g. `ext4`; `None` where the system does not tell.
pub(crate) fn file_system(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    file_system_in(&fs::read_to_string("/proc/self/mountinfo").ok()?, &path)
}

/// The type of the last mount whose folder is the longest that holds `path` (proc(5): the fifth field is the folder, and the type
/// follows a lone `-`).
fn file_system_in(mountinfo: &str, path: &Path) -> Option<String> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, rest) = line.split_once(" - ")?;
        let folder = mount.split(' ').nth(4)?.replace("\\040", " ");
        let depth = path.starts_with(&folder).then_some(folder.len())?;
        Some((depth, rest.split(' ').next()?))
    });
    let (_, kind) = mounts.max_by_key(|(depth, _)| *depth)?;
    Some(kind.to_owned())
}

fn cpu_name(cpuinfo: &str) -> Option<String> {
    let named = ["model name", "Model", "Hardware"];
    let line = |name: &&str| {
        let mut lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.trim() == *name)
    };
    let (_, value) = named.iter().find_map(line)?;
    Some(value.trim().to_owned())
}

/// The word in brackets of `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// `AT_PAGESZ` of the auxiliary vector: pairs of machine words, the first of which says what the second is.
fn page_bytes(auxv: &[u8]) -> Option<u64> {
    const AT_PAGESZ: usize = 6;
    const WORD: usize = size_of::<usize>();
    let words = auxv.as_chunks::<WORD>().0;
    let words: Vec<usize> = words
        .iter()
        .map(|word| usize::from_ne_bytes(*word))
        .collect();
    let (pairs, _) = words.as_chunks::<2>();
    let pair = pairs.iter().find(|pair| pair[0] == AT_PAGESZ)?;
    Some(pair[1] as u64)
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    let features = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avxvnni", is_x86_feature_detected!("avxvnni")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
    ];
    present(&features)
}

#[cfg(target_arch = "aarch64")]
fn features() -> Vec<&'static str> {
    use std::arch::is_aarch64_feature_detected;
    let features = [
        ("neon", is_aarch64_feature_detected!("neon")),
        ("fp16", is_aarch64_feature_detected!("fp16")),
        ("dotprod", is_aarch64_feature_detected!("dotprod")),
        ("i8mm", is_aarch64_feature_detected!("i8mm")),
        ("sve2", is_aarch64_feature_detected!("sve2")),
    ];
    present(&features)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn present(features: &[(&'static str, bool)]) -> Vec<&'static str> {
    let present = features.iter().filter(|(_, there)| *there);
    present.map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_mount_holds_a_path() {
        let mounts = "\
22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
30 22 0:30 / /tmp rw - tmpfs tmpfs rw
31 22 0:31 / /tmpfiles rw - xfs /dev/sdb rw
32 22 0:32 / /a\\040b rw - nfs4 server:/x rw
";
        let on = |path: &str| file_system_in(mounts, Path::new(path));
        assert_eq!(on("/home/x").as_deref(), Some("ext4"));
        assert_eq!(on("/tmp/x").as_deref(), Some("tmpfs"));
        assert_eq!(on("/tmpfiles/x").as_deref(), Some("xfs"));
        assert_eq!(on("/a b/x").as_deref(), Some("nfs4"));
        assert_eq!(file_system_in("", Path::new("/x")), None);
    }

    #[test]
    fn texts_of_the_system_are_read() {
        assert_eq!(
            chosen("always [madvise] never\n").as_deref(),
            Some("madvise")
        );
        assert_eq!(chosen(""), None);
        let cpuinfo = "processor\t: 0\nmodel\t\t: 2\nmodel name\t: A CPU\n";
        assert_eq!(cpu_name(cpuinfo).as_deref(), Some("A CPU"));
        let words = [3usize, 9, 6, 16384, 0, 0];
        let auxv: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(page_bytes(&auxv), Some(16384));
        assert_eq!(page_bytes(&auxv[..7]), None);
    }
}
