//! The progress of a download, for the log and for listeners, at a readable rate.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time between two reports of one download.
pub(super) const TELL_EVERY: Duration = Duration::from_secs(10);

/// A step in the download of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It has started.
    Started,
    /// It continues.
    Fetching {
        /// Bytes so far.
        bytes: u64,
        /// The total, if the server stated it.
        of: Option<u64>,
    },
    /// The archive is complete, and is being unpacked and checked.
    Unpacking {
        /// Its length in bytes.
        bytes: u64,
    },
    /// The image is in the cache.
    Done {
        /// How long it took.
        seconds: u64,
    },
    /// It failed.
    Failed {
        /// The cause, without any address.
        reason: String,
    },
}

type Told = dyn Fn(&str, &Progress) + Send + Sync;

/// A callback for the progress, with the hash of the image in hexadecimal.
#[derive(Clone)]
pub struct ProgressListener(Arc<Told>);

impl ProgressListener {
    /// Calls `told`, which must not block.
    pub fn new(told: impl Fn(&str, &Progress) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }

    /// Logs the progress and calls the listener.
    pub(super) fn tell(&self, image: &str, progress: &Progress) {
        match progress {
            Progress::Started => tracing::info!(image, "the download of an OS image has started"),
            Progress::Fetching { bytes, of } => {
                let percent = of.filter(|of| *of > 0).map(|of| bytes.saturating_mul(100) / of);
                tracing::info!(image, bytes, of, percent, "an OS image is being downloaded");
            }
            Progress::Unpacking { bytes } => {
                tracing::info!(image, bytes, "an OS image is being unpacked and checked");
            }
            Progress::Done { seconds } => tracing::info!(image, seconds, "an OS image was downloaded"),
            Progress::Failed { reason } => {
                tracing::warn!(image, reason, "an OS image could not be downloaded")
            }
        }
        (self.0)(image, progress);
    }
}

impl Default for ProgressListener {
    fn default() -> Self {
        Self::new(|_, _| ())
    }
}

impl fmt::Debug for ProgressListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProgressListener")
    }
}

/// Counts the bytes of a download, and decides when to report.
#[derive(Debug)]
pub(super) struct Meter {
    every: Duration,
    told: Instant,
    bytes: u64,
}

impl Meter {
    pub(super) fn new(every: Duration) -> Self {
        Self { every, told: Instant::now(), bytes: 0 }
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds `bytes`; `true` if a report is due.
    pub(super) fn add(&mut self, bytes: usize) -> bool {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        let is_time = self.told.elapsed() >= self.every;
        if is_time {
            self.told = Instant::now();
        }
        is_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_counts_everything_and_tells_now_and_then() {
        let mut slow = Meter::new(Duration::from_secs(3600));
        assert!((0..100).all(|_| !slow.add(10)));
        assert_eq!(slow.bytes(), 1000);
        let mut fast = Meter::new(Duration::ZERO);
        assert!(fast.add(1) && fast.add(1));
    }
}
