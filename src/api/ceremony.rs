//! A ceremony: officers bring their shares of one recovery set to a KMS, each on its own. A drill and a restore differ in what
//! is done with the result.

mod attempts;

use std::time::{Duration, Instant};

use kms_recovery::{Combiner, ShareError};
use schemars::JsonSchema;
use serde::Serialize;

pub(super) use self::attempts::Attempts;
use crate::error::{Code, Error};

/// What the shares are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// To show that the set still gives the root keys of this KMS. Nothing is kept.
    Drill,
    /// To give a KMS without keys the root keys of the set.
    Restore,
}

/// A ceremony that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CeremonyStatus {
    /// What the shares are for.
    pub purpose: Purpose,
    /// The number of the recovery set, 32 hexadecimal digits.
    pub set: String,
    /// SHA-256 of the set's manifest, hexadecimal.
    pub manifest_sha256: String,
    /// How many shares are needed.
    pub threshold: u8,
    /// How many have arrived.
    pub received: usize,
    /// All officers of the set.
    pub officers: Vec<OfficerStatus>,
    /// When it ends, and all shares are forgotten: seconds from now.
    pub ends_in_seconds: u64,
}

/// An officer of the set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct OfficerStatus {
    /// The index of the officer's share.
    pub index: u8,
    /// The officer's name.
    pub name: String,
    /// Whether the officer's share has arrived.
    pub received: bool,
}

/// The end of a ceremony by a clock that nobody can set.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    began: Instant,
    lasts: Duration,
}

impl Deadline {
    /// The deadline that is this long from now.
    pub fn after(lasts: Duration) -> Self {
        Self { began: Instant::now(), lasts }
    }

    /// The time that is left; zero at the end.
    pub fn left(&self) -> Duration {
        self.lasts.saturating_sub(self.began.elapsed())
    }

    /// Whether the deadline has come.
    pub fn is_over(&self) -> bool {
        self.left().is_zero()
    }
}

impl CeremonyStatus {
    /// How far `combiner` is.
    pub fn of(purpose: Purpose, combiner: &Combiner, ends: Deadline) -> Self {
        let manifest = combiner.manifest().manifest();
        let received: Vec<u8> = combiner.officers().map(|(index, _)| index).collect();
        let officers = manifest.officers.iter().map(|officer| OfficerStatus {
            index: officer.index,
            name: officer.name.to_string(),
            received: received.contains(&officer.index),
        });
        Self {
            purpose,
            set: manifest.set.to_string(),
            manifest_sha256: hex::encode(manifest.sha256()),
            threshold: manifest.threshold,
            received: received.len(),
            officers: officers.collect(),
            ends_in_seconds: ends.left().as_secs(),
        }
    }
}

/// What an officer is told whose share is not accepted.
pub fn refused(error: &ShareError) -> Error {
    let (code, reason) = match error {
        ShareError::OtherSet { .. } => (Code::Conflict, "share_of_other_set"),
        ShareError::Repeated { .. } => (Code::Conflict, "share_repeated"),
        ShareError::Complete => (Code::Conflict, "ceremony_complete"),
        ShareError::NoSuchIndex { .. } | ShareError::OtherOfficer { .. } | ShareError::Wrong { .. } => {
            (Code::InvalidRequest, "share_wrong")
        }
    };
    Error::new(code, error.to_string()).because(reason)
}
