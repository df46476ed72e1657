//! `[core.events]`: the event log for operators.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::reader::Section;
use super::values;

/// The permitted size of the index. Larger ones were not measured.
const KEEP: std::ops::RangeInclusive<u64> = 1000..=10_000_000;

/// The largest `count` of a denial storm.
const MAX_STORM: u64 = 1_000_000;
const MAX_STORM_WINDOW: Duration = Duration::from_secs(3600);

/// `[core.events]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    /// The index of the audit log, already resolved to `<cert_dir>/events.redb` where the key is empty.
    pub index: PathBuf,
    /// How many events it holds.
    pub keep: u64,
    /// The named pipe through which events are reported.
    pub fifo: Option<PathBuf>,
    /// How many refusals count as a storm.
    pub denial_storm: DenialStorm,
}

/// This many refusals within this time are a storm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DenialStorm {
    /// The number of refusals.
    pub count: u64,
    /// From the first of them to the last.
    pub window: Duration,
}

pub(super) fn read(section: &mut Section<'_>, cert_dir: &Path) -> Events {
    Events {
        index: section.path("index").unwrap_or_else(|| cert_dir.join("events.redb")),
        keep: section.required("keep", *KEEP.start(), keep),
        fifo: section.path("fifo"),
        denial_storm: DenialStorm {
            count: section.required("denial_storm_count", 1, storm_count),
            window: section.required("denial_storm_window", Duration::ZERO, storm_window),
        },
    }
}

pub(super) fn storm_count(value: Value) -> Result<u64, String> {
    let count = value.as_u64().filter(|count| (1..=MAX_STORM).contains(count));
    count.ok_or_else(|| format!("must be a whole number from 1 to {MAX_STORM}"))
}

pub(super) fn storm_window(value: Value) -> Result<Duration, String> {
    let window = values::duration(&values::string(value)?)?;
    let window = window.filter(|window| !window.is_zero() && *window <= MAX_STORM_WINDOW);
    window.ok_or_else(|| "must be from 1s to 1h".to_owned())
}

fn keep(value: Value) -> Result<u64, String> {
    let number = value.as_u64().filter(|number| KEEP.contains(number));
    number.ok_or_else(|| format!("must be a whole number from {} to {}", KEEP.start(), KEEP.end()))
}
