//! How much space the disk of the audit log has left, measured now and then.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// How often it is measured.
const MEASURE_EVERY: Duration = Duration::from_secs(5);
/// Less than this is little, unless the whole disk is small.
const LITTLE: u64 = 512 << 20;
/// Of a small disk, less than one part in this many is little.
const LITTLE_PART: u64 = 10;
/// Fewer files than this can still be made on the disk: as good as full.
const FEW_FILES: u64 = 64;
/// Nothing is short.
const ENOUGH: u64 = u64::MAX;

/// The space that was left when it was last measured.
#[derive(Debug)]
pub(super) struct Space {
    /// Free bytes where they are little, else [`ENOUGH`].
    short: AtomicU64,
}

impl Default for Space {
    fn default() -> Self {
        Self { short: AtomicU64::new(ENOUGH) }
    }
}

impl Space {
    /// What is left where it is little, in words for operators.
    pub(super) fn shortage(&self) -> Option<String> {
        match self.short.load(Ordering::Relaxed) {
            ENOUGH => None,
            free => Some(format!("{} MiB are left", free >> 20)),
        }
    }

    /// Measures until dropped. A disk that cannot be measured is not called full: writing to it tells.
    pub(super) async fn keep_measuring(&self, directory: PathBuf) {
        let mut tick = tokio::time::interval(MEASURE_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let directory = directory.clone();
            let measured = tokio::task::spawn_blocking(move || measure(&directory)).await;
            if let Ok(Ok(state)) = measured {
                self.short.store(state, Ordering::Relaxed);
            }
        }
    }
}

fn measure(directory: &Path) -> rustix::io::Result<u64> {
    let disk = rustix::fs::statvfs(directory)?;
    let (free, total) =
        (disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize));
    // File systems without a fixed number of files say 0 for all of them.
    let few_files = disk.f_files > 0 && disk.f_favail < FEW_FILES;
    Ok(if is_little(free, total) || few_files { free } else { ENOUGH })
}

fn is_little(free: u64, total: u64) -> bool {
    free < LITTLE.min(total / LITTLE_PART)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_half_a_gibibyte_or_a_tenth_of_a_small_disk() {
        const MIB: u64 = 1 << 20;
        for (free, total, little) in [
            (511 * MIB, 1 << 40, true),
            (512 * MIB, 1 << 40, false),
            (9 * MIB, 100 * MIB, true),
            (10 * MIB, 100 * MIB, false),
            (0, 100 * MIB, true),
            (0, 0, false),
        ] {
            assert_eq!(is_little(free, total), little, "{free} of {total}");
        }
    }

    #[test]
    fn a_directory_is_measured_and_one_that_is_not_there_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(measure(directory.path()).is_ok());
        assert!(measure(&directory.path().join("missing")).is_err());
    }

    #[test]
    fn a_shortage_is_told_in_mebibytes() {
        let space = Space::default();
        assert_eq!(space.shortage(), None);
        space.short.store(300 << 20, Ordering::Relaxed);
        assert_eq!(space.shortage().as_deref(), Some("300 MiB are left"));
    }
}
