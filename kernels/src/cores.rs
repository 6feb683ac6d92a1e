//! How many cores are worth computing on.
//!
//! Phones and some boards and laptops have cores of different speeds. Every layer ends with all threads meeting, so a core of a quarter of
//! the speed holds up the others, and it runs on the battery all the same. Threads are not pinned: which core a thread runs on stays with the
//! system, which moves busy threads to the fast cores by itself and knows what else the app does.
#![cfg_attr(
    target_vendor = "apple",
    allow(unsafe_code, reason = "asks the system by its C interface")
)]

use std::thread;

/// Cores of at least half the speed of the fastest one that this process may use; at least 1. All cores where the system does not tell them
/// apart.
///
/// Linux and Android: the capacity that the kernel gives each core for its scheduler, else its highest frequency. Apple: the cores of the
/// first performance level.
pub fn fast_cores() -> usize {
    let all = thread::available_parallelism().map_or(1, usize::from);
    of_system().map_or(all, |fast| fast.clamp(1, all))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn of_system() -> Option<usize> {
    linux::fast_cores(std::path::Path::new("/sys/devices/system/cpu"))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux {
    use std::fs;
    use std::path::Path;

    /// Speeds of a core relative to the others, the better measure first.
    const SPEEDS: [&str; 2] = ["cpu_capacity", "cpufreq/cpuinfo_max_freq"];

    /// Counts the fast cores below `folder`; `None` if it does not tell the speed of every core.
    pub(super) fn fast_cores(folder: &Path) -> Option<usize> {
        let cores = || {
            let entries = fs::read_dir(folder).ok()?.flatten();
            Some(entries.map(|entry| entry.path()).filter(|path| {
                let name = path.file_name().and_then(|name| name.to_str());
                let number = name.and_then(|name| name.strip_prefix("cpu"));
                number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
            }))
        };
        SPEEDS.into_iter().find_map(|file| {
            let read = |core: &Path| {
                fs::read_to_string(core.join(file))
                    .ok()?
                    .trim()
                    .parse()
                    .ok()
            };
            let speeds: Option<Vec<u64>> = cores()?.map(|core| read(&core)).collect();
            let speeds = speeds?;
            let fastest = *speeds.iter().max()?;
            Some(
                speeds
                    .iter()
                    .filter(|speed| **speed >= fastest.div_ceil(2))
                    .count(),
            )
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn folder(name: &str, file: &str, speeds: &[&str]) -> std::path::PathBuf {
            let root = std::env::temp_dir().join(format!("cores-{}-{name}", std::process::id()));
            for (i, speed) in speeds.iter().enumerate() {
                let file = root.join(format!("cpu{i}")).join(file);
                fs::create_dir_all(file.parent().expect("it lies in a folder")).expect("room");
                fs::write(file, format!("{speed}\n")).expect("room");
            }
            // What is no core.
            fs::create_dir_all(root.join("cpufreq")).expect("room");
            root
        }

        #[test]
        fn cores_of_half_the_speed_count() {
            struct Case(
                &'static str,
                &'static str,
                &'static [&'static str],
                Option<usize>,
            );
            let cases = [
                // One core of the fastest kind, four of the middle, four small ones, as a phone of 2023 has them.
                Case(
                    "phone",
                    SPEEDS[0],
                    &[
                        "160", "160", "160", "160", "666", "666", "666", "666", "1024",
                    ],
                    Some(5),
                ),
                Case(
                    "board",
                    SPEEDS[1],
                    &["2400000", "2400000", "2400000", "2400000"],
                    Some(4),
                ),
                Case("half", SPEEDS[1], &["1000001", "500001", "500000"], Some(2)),
                Case("unreadable", SPEEDS[0], &["1024", "fast"], None),
                Case("none", SPEEDS[0], &[], None),
            ];
            for Case(name, file, speeds, want) in cases {
                let root = folder(name, file, speeds);
                assert_eq!(fast_cores(&root), want, "{name}");
                fs::remove_dir_all(root).expect("it was made above");
            }
            assert_eq!(fast_cores(Path::new("/nowhere")), None);
        }
    }
}

#[cfg(target_vendor = "apple")]
fn of_system() -> Option<usize> {
    use std::ffi::{c_char, c_int, c_void};

    unsafe extern "C" {
        fn sysctlbyname(
            name: *const c_char,
            value: *mut c_void,
            size: *mut usize,
            new: *mut c_void,
            new_size: usize,
        ) -> c_int;
    }
    let mut cores: c_int = 0;
    let mut size = size_of::<c_int>();
    // SAFETY: the name ends with a zero, `value` points to `size` bytes that live until the call returns, and nothing is set.
    let status = unsafe {
        sysctlbyname(
            c"hw.perflevel0.logicalcpu".as_ptr(),
            (&raw mut cores).cast(),
            &raw mut size,
            std::ptr::null_mut(),
            0,
        )
    };
    (status == 0)
        .then(|| usize::try_from(cores).ok())?
        .filter(|cores| *cores > 0)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn of_system() -> Option<usize> {
    None
}
