//! What the audit log says of bundles: where the file of serials is gone, its records still have them.

use std::io;
use std::path::Path;

use serde::Deserialize;

use crate::audit::{Audit, Reader};
use crate::state::SeenBundle;

/// The text that each of these records has.
const MARK: &[u8] = b"\"event\":\"policy_bundle_activated\"";

#[derive(Deserialize)]
struct Activated {
    domain: String,
    bundle: String,
    serial: u64,
    policy_sha256: String,
}

/// The bundle with the highest serial that was put in force in `domain`, by the records that are still on the disk. Reads the
/// whole log, so it is for a start that finds no file of serials.
///
/// # Errors
/// A file of the log cannot be read, so a later bundle may be in it.
pub(super) fn last_activated(log: &Path, audit: &Audit, domain: &str) -> io::Result<Option<SeenBundle>> {
    let acknowledged = audit.progress().acknowledged();
    let mut reader = Reader::after(log, 0);
    let mut line = Vec::new();
    let mut last: Option<SeenBundle> = None;
    while reader.next(acknowledged, &mut line)?.is_some() {
        let Some(record) = activated(&line).filter(|record| record.domain == domain) else { continue };
        if last.as_ref().is_none_or(|last| last.serial <= record.serial) {
            last = Some(SeenBundle {
                serial: record.serial,
                digest: record.policy_sha256,
                name: record.bundle,
                signers: Vec::new(),
                expires: 0,
                received_at: 0,
                origin: "audit log".to_owned(),
                activated_at: None,
                activated_by: None,
            });
        }
    }
    Ok(last)
}

fn activated(line: &[u8]) -> Option<Activated> {
    if !line.windows(MARK.len()).any(|window| window == MARK) {
        return None;
    }
    serde_json::from_str(std::str::from_utf8(line).ok()?).ok()
}
