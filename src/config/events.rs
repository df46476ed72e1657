//! `[core.events]`: the event log that operators read.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::reader::Section;

/// What the index may hold. More than this was not measured.
const KEEP: std::ops::RangeInclusive<u64> = 1000..=10_000_000;

/// `[core.events]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    /// The index of the audit log, already resolved to `<cert_dir>/events.redb` where the key is empty.
    pub index: PathBuf,
    /// How many events it holds.
    pub keep: u64,
    /// The named pipe through which events are reported.
    pub fifo: Option<PathBuf>,
}

pub(super) fn read(section: &mut Section<'_>, cert_dir: &Path) -> Events {
    Events {
        index: section.path("index").unwrap_or_else(|| cert_dir.join("events.redb")),
        keep: section.required("keep", *KEEP.start(), keep),
        fifo: section.path("fifo"),
    }
}

fn keep(value: Value) -> Result<u64, String> {
    let number = value.as_u64().filter(|number| KEEP.contains(number));
    number.ok_or_else(|| format!("must be a whole number from {} to {}", KEEP.start(), KEEP.end()))
}
