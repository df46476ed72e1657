//! The ledger: its newest checkpoint, its witnesses, its files, and whether it takes records.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_ledger::checkpoint::Checkpoint;
use kms_ledger::note::Note;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{Views, at};
use crate::audit::{FileOfLog, Health, files_of_log};
use crate::clock::rfc3339;
use crate::error::Result;
use crate::events::{Ask, Filter, Index, IndexError, Order};
use crate::operator::DomainScope;

/// The most archived files that are listed.
const MAX_ARCHIVED: usize = 200;

/// The audit log as a ledger.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Ledger {
    /// The name of the log; null before anything is signed.
    origin: Option<String>,
    /// The number of leaves.
    size: Option<u64>,
    /// The root of the tree, base64 as in the checkpoint.
    root: Option<String>,
    /// The signed checkpoint, with cosignatures.
    checkpoint: Option<String>,
    /// When the newest one was signed.
    checkpoint_at: Option<String>,
    /// The verifier key of the log.
    log_key: Option<String>,
    /// The root secp256k1 key's signature over the log key, hexadecimal.
    log_key_signature: Option<String>,
    /// Whether the log key is signed by the root key.
    vouched: bool,
    witnesses: Vec<Witness>,
    /// How many witnesses a release needs.
    require: usize,
    /// The files of the log, the oldest first.
    files: Vec<LogFile>,
    /// Whether it takes records.
    healthy: bool,
    problem: Option<String>,
    /// Bytes at the end of files that are not records.
    damaged_bytes: u64,
    /// Free bytes on its disk.
    free_bytes: u64,
}

/// A witness of the log.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Witness {
    name: String,
    /// When it last cosigned, since the last start.
    last_at: Option<String>,
    /// The size of the tree that it has cosigned.
    size: Option<u64>,
    /// The number of leaves that it has not seen.
    behind: Option<u64>,
    state: WitnessHealth,
    /// Why it does not cosign.
    message: Option<String>,
}

/// How a witness is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WitnessHealth {
    /// It has cosigned the newest checkpoint, or one shortly before it.
    Ok,
    /// It has cosigned, but not for many records.
    Behind,
    /// Its last response was no cosignature.
    Failing,
    /// It was not asked since the last start.
    Never,
}

/// A file of the log.
#[derive(Debug, Serialize, JsonSchema)]
pub struct LogFile {
    /// Without its directory.
    name: String,
    /// The number of its first record; null if it is not known.
    first: Option<u64>,
    /// The number of its last record.
    last: Option<u64>,
    bytes: u64,
    compressed: bool,
    /// Whether it was moved away.
    archived: bool,
}

/// A witness that has not seen more records than this is behind.
const BEHIND: u64 = 1000;

impl Views {
    /// The ledger.
    ///
    /// # Errors
    /// No index, or the directory of the log cannot be read.
    pub async fn ledger(&self) -> Result<Ledger> {
        let audit = Arc::clone(&self.foundation().audit);
        let (path, newest) = (self.sources.log.clone(), self.sources.events.acknowledged());
        let files = self.sources.events.ask_index(move |index| files(index, &path, newest)).await?;
        let head = audit.head();
        let checkpoint = audit.checkpoint();
        let signed = checkpoint.as_ref().and_then(|checkpoint| signed(checkpoint));
        let size = head.as_ref().map(|head| head.size.get());
        let witnesses = audit.witness_states().into_iter().map(|witness| {
            let behind = size.zip(witness.size).map(|(size, seen)| size.saturating_sub(seen));
            let state = match (&witness.problem, witness.last) {
                (Some(_), _) => WitnessHealth::Failing,
                (None, None) => WitnessHealth::Never,
                (None, Some(_)) if behind.is_some_and(|behind| behind > BEHIND) => WitnessHealth::Behind,
                (None, Some(_)) => WitnessHealth::Ok,
            };
            Witness {
                name: witness.name,
                last_at: witness.last.map(rfc3339),
                size: witness.size,
                behind,
                state,
                message: witness.problem,
            }
        });
        let health = audit.health();
        let problem = match health {
            Health::Writing => None,
            Health::Failing { since, reason } => Some(format!("{reason}, since {}", rfc3339(since))),
        };
        Ok(Ledger {
            origin: signed.as_ref().map(|signed| signed.origin.as_str().to_owned()),
            size,
            root: signed.map(|signed| STANDARD.encode(signed.root.as_bytes())),
            checkpoint: checkpoint.map(|checkpoint| checkpoint.to_string()),
            checkpoint_at: audit.signed_at().map(|signed| at(signed * 1000)),
            log_key: head.as_ref().map(|head| head.key.to_string()),
            log_key_signature: head.as_ref().map(|head| hex::encode(head.vouching)),
            vouched: head.is_some(),
            witnesses: witnesses.collect(),
            require: self.sources.required_witnesses,
            files,
            healthy: health.is_writing(),
            problem,
            damaged_bytes: audit.damaged_bytes(),
            free_bytes: audit.space().free,
        })
    }
}

fn signed(checkpoint: &str) -> Option<Checkpoint> {
    Note::parse(checkpoint.as_bytes()).ok()?.text().parse().ok()
}

/// The files of the log at `path`, and before them those that were moved away.
fn files(index: &Index, path: &Path, newest: u64) -> std::result::Result<Vec<LogFile>, IndexError> {
    let filter = Filter { kind: Some("segment_archived".to_owned()), ..Filter::of(DomainScope::WHOLE_KMS) };
    let (since, until, beyond, order, limit) = (0, u64::MAX, None, Order::Newest, MAX_ARCHIVED);
    let page = index.page(&Ask { filter: &filter, since, until, beyond, order, limit })?;
    let number =
        |fields: &serde_json::Map<String, Value>, name: &str| fields.get(name).and_then(Value::as_u64);
    let present = files_of_log(path)?;
    let mut list: Vec<LogFile> = Vec::new();
    let archived = page.records.iter().filter_map(|record| {
        let last = number(&record.fields, "last")?;
        let is_present = present.iter().any(|file| file.last == Some(last));
        (!is_present).then(|| FileOfLog {
            name: format!("record {last} and before"),
            last: Some(last),
            bytes: number(&record.fields, "bytes").unwrap_or(0),
            is_compressed: false,
        })
    });
    let archived: Vec<_> = archived.collect();
    let count = archived.len();
    let mut before = if count < MAX_ARCHIVED { Some(0) } else { None };
    for (place, file) in archived.into_iter().chain(present).enumerate() {
        let last = file.last.or(Some(newest));
        list.push(LogFile {
            first: before.map(|before| before + 1),
            last,
            name: file.name,
            bytes: file.bytes,
            compressed: file.is_compressed,
            archived: place < count,
        });
        before = last;
    }
    Ok(list)
}
