//! Where the audit log says more of root epochs than the key directory, as after an old copy of the directory was put back: keys of
//! retired epochs are readable again, and apps that follow get keys of an older epoch than elsewhere.
//!
//! A process that runs loses no epoch, so what its log says at its start is compared. A log without an index, as without an admin
//! listener, is not: there nobody changes epochs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use serde_json::Value;

use crate::audit::{Audit, Event, Record};
use crate::control::Accepted;
use crate::events::{Ask, Events, Filter, Index, IndexError, Order};
use crate::keys::epoch::RootEpoch;
use crate::keys::keyring::{EpochInfo, EpochState};
use crate::lifecycle::Ready;
use crate::operator::DomainScope;

/// The records of what becomes of root epochs.
const EPOCH_EVENTS: [&str; 6] = [
    "epoch_prepared",
    "epoch_received",
    "epoch_activated",
    "epoch_retired",
    "epoch_destroyed",
    "epoch_change_failed",
];
/// The most records of one type that are compared: more than there can be epochs.
const MAX_RECORDS: usize = 1024;
/// The most records of what owners accepted among which the newest of a kind is looked for.
const MAX_ACCEPTED: usize = 200;
/// How often it is tried while the index does not have the log yet.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Compares the root epochs of the key directory with those of the audit log.
#[derive(Debug)]
pub struct LostEpochs {
    audit: Arc<Audit>,
    events: Arc<Events>,
    ready: Arc<Ready>,
    /// The number of the newest record when this process began to serve.
    until: u64,
    /// What the log says, in order, once it was read.
    said: ArcSwapOption<Vec<Record>>,
    /// Whether an owner has accepted it since.
    is_accepted: AtomicBool,
}

impl LostEpochs {
    /// Compares nothing yet: that is done by [`LostEpochs::look`], because the log may be long.
    pub fn new(audit: Arc<Audit>, events: Arc<Events>, ready: Arc<Ready>) -> Self {
        let until = events.acknowledged();
        Self {
            audit,
            events,
            ready,
            until,
            said: ArcSwapOption::empty(),
            is_accepted: AtomicBool::new(false),
        }
    }

    /// What the log says of epochs that is not so here now, as sentences. Empty until the log was read.
    pub fn lost(&self) -> Vec<String> {
        let said = self.said.load();
        match &*said {
            Some(said) if !said.is_empty() && !self.is_accepted.load(Ordering::Acquire) => {
                lost_epochs(said, &self.ready.epochs())
            }
            Some(_) | None => Vec::new(),
        }
    }

    /// The same as one text for operators, with what to do.
    pub fn sentence(&self) -> Option<String> {
        let lost = self.lost();
        (!lost.is_empty()).then(|| {
            format!(
                "{}; put the newest keyring.json and root-fingerprints.json back, or get the epochs from a replica with kmsctl epoch \
                 fetch; without either, do again what the log says, or let an owner accept the loss with kmsctl epoch accept \
                 lost-epochs",
                lost.join("; ")
            )
        })
    }

    /// From now on nothing of it is lost. It must be recorded.
    pub(super) fn accept(&self) {
        self.is_accepted.store(true, Ordering::Release);
    }

    /// Reads the log as soon as the index has it, and records what is lost. Ends then.
    pub async fn look(self: Arc<Self>) {
        let said = loop {
            let lost = Arc::clone(&self);
            if let Ok(Some(said)) = tokio::task::spawn_blocking(move || lost.read()).await {
                break said;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        };
        self.said.store(Some(Arc::new(said)));
        let lost = self.lost();
        if !lost.is_empty() {
            tracing::error!(lost = lost.join("; "), "the key directory is older than the audit log");
            self.audit.note(Event::EpochsMissing { lost });
        }
    }

    /// The records of epochs up to the start of this process, after what an owner accepted; `None` until the index has all.
    fn read(&self) -> Option<Vec<Record>> {
        let until = self.until;
        let read = move |index: &Index| {
            if index.last()?.map_or(0, |(seq, _)| seq) < until {
                return Ok(None);
            }
            let accepted = newest_accepted(index, Accepted::LostEpochs)?.map_or(0, |record| record.seq);
            let mut records = Vec::new();
            for kind in EPOCH_EVENTS {
                records.extend(newest_records(index, kind, MAX_RECORDS)?);
            }
            records.retain(|record| record.seq > accepted && record.seq <= until);
            records.sort_by_key(|record| record.seq);
            Ok(Some(records))
        };
        self.events.ask(read)?.ok()?
    }
}

/// The newest records of a type, in ascending order.
///
/// # Errors
/// [`IndexError`]
pub(in crate::api) fn newest_records(
    index: &Index,
    kind: &str,
    limit: usize,
) -> Result<Vec<Record>, IndexError> {
    let filter = Filter { kind: Some(kind.to_owned()), ..Filter::of(DomainScope::WHOLE_KMS) };
    let (since, until, beyond, order) = (0, u64::MAX, None, Order::Newest);
    Ok(index.page(&Ask { filter: &filter, since, until, beyond, order, limit })?.records)
}

/// The newest record by which an owner accepted this.
///
/// # Errors
/// [`IndexError`]
pub(in crate::api) fn newest_accepted(index: &Index, what: Accepted) -> Result<Option<Record>, IndexError> {
    let records = newest_records(index, "epoch_state_accepted", MAX_ACCEPTED)?;
    let is_of = |record: &Record| record.fields.get("what").and_then(Value::as_str) == Some(what.name());
    Ok(records.into_iter().filter(is_of).max_by_key(|record| record.seq))
}

/// What `records`, in order, say of epochs that `epochs` of the key directory do not, by epoch. A change that failed did not happen.
fn lost_epochs(records: &[Record], epochs: &[EpochInfo]) -> Vec<String> {
    let number = |record: &Record| {
        let number = record.fields.get("epoch").and_then(Value::as_u64);
        number.and_then(|number| u32::try_from(number).ok()).map(RootEpoch)
    };
    // Each change that was made last, by epoch and type.
    let mut made: BTreeMap<(RootEpoch, String), String> = BTreeMap::new();
    for record in records {
        let Some(epoch) = number(record) else { continue };
        let text =
            |name: &str| record.fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        match &*record.kind {
            "epoch_change_failed" => drop(made.remove(&(epoch, text("change")))),
            kind => drop(made.insert((epoch, kind.to_owned()), text("state"))),
        }
    }
    let mut lost = Vec::new();
    for ((epoch, kind), state) in &made {
        // Nobody got keys of an epoch that was only made, as by a process that was ended in the middle of it.
        let is_used = |(other, kind): &(RootEpoch, String)| {
            other == epoch && !matches!(&**kind, "epoch_prepared" | "epoch_destroyed")
        };
        if kind == "epoch_prepared" && !made.keys().any(is_used) {
            continue;
        }
        let Some(own) = epochs.iter().find(|own| own.epoch == *epoch) else {
            lost.push(format!("epoch {epoch} is not here"));
            continue;
        };
        let is_behind = match &**kind {
            "epoch_activated" => own.times.activate_at.is_none() && own.state < EpochState::Retired,
            "epoch_retired" => own.state < EpochState::Retired,
            "epoch_destroyed" => own.state < EpochState::Destroyed,
            "epoch_received" => state == "destroyed" && own.state < EpochState::Destroyed,
            _ => false,
        };
        if is_behind {
            lost.push(format!("epoch {epoch} is {} here, after {kind}", own.state.name()));
        }
    }
    lost.dedup();
    lost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_directory_that_is_older_than_the_log_is_noticed() {
        use crate::keys::RootKeys;
        use crate::keys::keyring::{EpochChange, Keyring};
        let record = |seq: u64, kind: &str, epoch: u32, more: (&str, &str)| {
            let record = serde_json::json!(
                { "seq": seq, "time": "2026-01-01T00:00:00Z", "event": kind, "epoch": epoch, more.0: more.1 }
            );
            serde_json::from_value::<Record>(record).unwrap()
        };
        let none = ("by", "token");
        let first = Keyring::first(RootKeys::generate());
        let new = first.new_epoch(5).unwrap();
        let prepared = first.after(EpochChange::Prepare(&new), 5).unwrap();
        let active = prepared.after(EpochChange::Activate { epoch: RootEpoch(1), at: 10 }, 8).unwrap();
        let retired = active.after(EpochChange::Retire(RootEpoch(0)), 20).unwrap();
        let log = || {
            vec![
                record(3, "epoch_retired", 0, none),
                record(1, "epoch_prepared", 1, none),
                record(2, "epoch_activated", 1, none),
            ]
        };
        let lost = |mut records: Vec<Record>, keyring: &Keyring| {
            records.sort_by_key(|record| record.seq);
            lost_epochs(&records, &keyring.infos(30))
        };
        assert_eq!(lost(log(), &retired), [""; 0]);
        assert_eq!(lost(log(), &active), ["epoch 0 is active here, after epoch_retired"]);
        let behind = [
            "epoch 0 is active here, after epoch_retired",
            "epoch 1 is prepared here, after epoch_activated",
        ];
        assert_eq!(lost(log(), &prepared), behind);
        assert_eq!(
            lost(log(), &first),
            ["epoch 0 is active here, after epoch_retired", "epoch 1 is not here"]
        );
        let failed = record(4, "epoch_change_failed", 0, ("change", "epoch_retired"));
        assert_eq!(lost([log(), vec![failed]].concat(), &active), [""; 0], "it was never retired");
        assert_eq!(lost(Vec::new(), &first), [""; 0]);
        let only_made = vec![record(1, "epoch_prepared", 1, none)];
        assert_eq!(lost(only_made, &first), [""; 0], "nobody got keys of it");
    }
}
