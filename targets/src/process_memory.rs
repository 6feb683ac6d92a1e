//! What the system charges this process for, as Linux tells it. Elsewhere every value is unknown.

use std::fs;

/// Bytes of memory of this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ProcessMemory {
    /// The most that was resident at any time, mapped files included.
    pub(crate) peak_rss: Option<u64>,
    /// Resident now and not backed by a file: what an app is charged for.
    pub(crate) anonymous_rss: Option<u64>,
}

impl ProcessMemory {
    /// Of this moment.
    pub(crate) fn now() -> ProcessMemory {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let status = read("/proc/self/status");
        // `status` counts anonymous pages per thread in batches; `smaps_rollup` walks them, but may be forbidden.
        let anonymous = field_bytes(&read("/proc/self/smaps_rollup"), "Anonymous:");
        ProcessMemory {
            peak_rss: field_bytes(&status, "VmHWM:"),
            anonymous_rss: anonymous.or_else(|| field_bytes(&status, "RssAnon:")),
        }
    }
}

/// The value of a line such as `VmHWM:     1234 kB`.
pub(crate) fn field_bytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_name() {
        let status = "Name:\tskim\nVmHWM:\t    1234 kB\nRssAnon:\t      12 kB\nThreads:\t3\n";
        assert_eq!(field_bytes(status, "VmHWM:"), Some(1234 * 1024));
        assert_eq!(field_bytes(status, "RssFile:"), None);
        assert_eq!(field_bytes(status, "Threads:"), None);
    }
}
