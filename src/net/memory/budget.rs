//! The default budget, by the memory of the control group or the machine.

use std::fs;
use std::path::Path;

/// The smallest default budget.
const MIN_DEFAULT: usize = 64 << 20;

/// A tenth of that memory, at least [`MIN_DEFAULT`], with the system's files under `root`.
pub(super) fn default_total(root: &Path) -> usize {
    let limit = group_limit(root).into_iter().chain(machine(root)).min();
    let tenth = limit.and_then(|limit| usize::try_from(limit / 10).ok());
    tenth.unwrap_or(0).max(MIN_DEFAULT)
}

/// The smallest memory limit of the control groups of this process, version 1 or 2. In a container the path
/// may be that of the host, which does not exist inside: the limit is then at the top.
fn group_limit(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mut least = None;
    for line in groups.lines() {
        // `0::/path` is version 2, `5:memory:/path` version 1.
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (top, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|name| name == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let top = root.join(top);
        let own = top.join(path.trim_start_matches('/'));
        // A group has at most the memory of those above it.
        for group in own.ancestors().take_while(|group| group.starts_with(&top)) {
            let limit = fs::read_to_string(group.join(file)).ok();
            let limit = limit.and_then(|limit| limit.trim().parse::<u64>().ok());
            least = least.into_iter().chain(limit).min();
        }
    }
    least
}

/// The memory of the machine.
fn machine(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_a_tenth_of_the_least_limit() {
        const GIB: u64 = 1 << 30;
        let v2 = "0::/system.slice/kms.service\n";
        let v1 = "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n";
        for (groups, files, expected) in [
            (v2, &[("sys/fs/cgroup/system.slice/kms.service/memory.max", "4294967296\n")][..], 4 * GIB / 10),
            (v2, &[("sys/fs/cgroup/system.slice/kms.service/memory.max", "max\n")], 64 * GIB / 10),
            (
                v2,
                &[
                    ("sys/fs/cgroup/system.slice/kms.service/memory.max", "max\n"),
                    ("sys/fs/cgroup/system.slice/memory.max", "2147483648\n"),
                ],
                2 * GIB / 10,
            ),
            ("0::/\n", &[("sys/fs/cgroup/memory.max", "2147483648")], 2 * GIB / 10),
            ("0::/../outside\n", &[("sys/fs/cgroup/memory.max", "2147483648")], 2 * GIB / 10),
            (v1, &[("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "3221225472")], 3 * GIB / 10),
            (v1, &[("sys/fs/cgroup/memory/memory.limit_in_bytes", "3221225472")], 3 * GIB / 10),
            (v1, &[("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712")], 64 * GIB / 10),
            (v1, &[("sys/fs/cgroup/memory/memory.limit_in_bytes", "1048576")], 64 << 20),
            ("", &[], 64 * GIB / 10),
        ] {
            let root = tempfile::tempdir().expect("a directory");
            let write = |name: &str, text: &str| {
                let file = root.path().join(name);
                fs::create_dir_all(file.parent().expect("a parent")).expect("directories");
                fs::write(file, text).expect("written");
            };
            write("proc/self/cgroup", groups);
            write("proc/meminfo", "MemTotal:       67108864 kB\nMemFree: 1 kB\n");
            for (name, text) in files {
                write(name, text);
            }
            assert_eq!(default_total(root.path()) as u64, expected, "{groups:?} {files:?}");
        }
        let empty = tempfile::tempdir().expect("a directory");
        assert_eq!(default_total(empty.path()), MIN_DEFAULT, "nothing can be read");
    }
}
