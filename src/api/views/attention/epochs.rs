//! What needs attention of the epochs of the root keys and of apps.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::Views;
use super::denials::MAX_GROUPS;
use super::{Attention, Severity};
use crate::api::epochs::{newest_accepted, newest_records};
use crate::audit::Record;
use crate::clock::rfc3339;
use crate::control::Accepted;
use crate::events::{Index, IndexError};
use crate::keys::keyring::EpochState;

/// The most records of choices of epochs that are compared.
const MAX_CHOICES: usize = 200;

/// How long it is said that an epoch came into force, in seconds.
const EPOCH_NEWS: u64 = 7 * 86_400;

/// The apps whose last record, in ascending order, says another choice than `chosen`, by app id.
fn lost_choices<'a>(records: &'a [Record], chosen: &BTreeMap<String, (String, u64)>) -> Vec<&'a str> {
    let mut last = BTreeMap::new();
    for record in records {
        let root = record.fields.get("root_epoch").and_then(Value::as_str);
        let app = record.fields.get("app_epoch").and_then(Value::as_u64);
        last.insert(record.app_id(), root.zip(app));
    }
    let counts = |app: &str| chosen.get(app).map(|(root, app)| (&**root, *app));
    last.into_iter().filter(|(app, said)| counts(app) != *said).map(|(app, _)| app).collect()
}

/// What to do about choices that did not come with the keys of `set` or `received`, unless they were `fetched` after they were
/// received, or an owner said since that they are `complete`. After a restore only an owner knows: a KMS that they are
/// fetched from may have been restored too, and a new set has no more than what is here.
pub(super) fn missing_choices(
    set: Option<Record>,
    received: Option<Record>,
    fetched: Option<Record>,
    complete: Option<Record>,
) -> Option<Attention> {
    let origin = set.into_iter().chain(received).max_by_key(|record| record.seq)?;
    let fetched = fetched.filter(|_| origin.kind == "keys_received");
    if fetched.into_iter().chain(complete).any(|done| done.seq > origin.seq) {
        return None;
    }
    let apps = origin.fields.get("apps_with_epochs").and_then(Value::as_u64);
    if origin.kind == "keys_received" {
        return apps.is_none().then(|| Attention {
            detail: "compare with kmsctl epoch apps there, and get them with kmsctl epoch fetch once it is updated".to_owned(),
            ..Attention::new(
                "app_epochs_unknown",
                Severity::Info,
                "The KMS that this one got its keys from did not tell which epochs operators chose for apps.",
                "epochs",
            )
        });
    }
    let made_at = origin.fields.get("made_at").and_then(Value::as_u64).map(rfc3339).unwrap_or_default();
    let message = match apps {
        Some(apps) => {
            format!(
                "The epochs chosen for apps are as of {made_at}, when the recovery set was made: {apps} apps."
            )
        }
        None => "The recovery set had no epochs chosen for apps: what operators chose is lost.".to_owned(),
    };
    Some(Attention {
        count: apps,
        detail:
            "choose again what was chosen later (kmsctl epoch follow, stay), say that it is complete (kmsctl epoch accept \
             app-epochs), then make a new recovery set"
                .to_owned(),
        ..Attention::new("app_epochs_as_of", Severity::Warning, message, "epochs")
    })
}

impl Views {
    /// If the last record of an app in the log has another choice of epochs than is in force here, as after the loss of the file.
    pub(in super::super) async fn of_lost_choices(&self) -> Option<Attention> {
        let newest = |index: &Index| newest_records(index, "app_epoch_set", MAX_CHOICES);
        let records = self.sources.events.ask_index(newest).await.ok()?;
        let chosen = self.foundation().app_epochs.list().into_iter();
        let chosen = chosen.map(|(app, it)| (hex::encode(app), (it.root.to_string(), u64::from(it.app))));
        let lost = lost_choices(&records, &chosen.collect());
        if lost.is_empty() {
            return None;
        }
        let named: Vec<_> = lost.iter().take(MAX_GROUPS).copied().collect();
        Some(Attention {
            count: Some(lost.len() as u64),
            detail: format!("{}; choose again with kmsctl epoch follow, stay or forget", named.join(", ")),
            ..Attention::new(
                "app_epochs_lost",
                Severity::Warning,
                format!(
                    "By the audit log operators chose the epochs of {} apps, and other choices count here.",
                    lost.len()
                ),
                "replicas",
            )
        })
    }

    /// Where the keys came without all that operators had chosen: from a recovery set, which is older than the loss, or from a
    /// KMS that does not tell. Until what that has was fetched, or an owner says that they are complete.
    pub(in super::super) async fn of_missing_choices(&self) -> Option<Attention> {
        let newest = |index: &Index| {
            let newest = |kind| Ok::<_, IndexError>(newest_records(index, kind, 1)?.pop());
            let complete = newest_accepted(index, Accepted::AppEpochs)?;
            Ok((newest("keys_restored")?, newest("keys_received")?, newest("app_epochs_received")?, complete))
        };
        let (set, received, fetched, complete) = self.sources.events.ask_index(newest).await.ok()?;
        missing_choices(set, received, fetched, complete)
    }

    pub(super) fn of_epochs(&self, now: u64) -> Vec<Attention> {
        let ready = &self.sources.ready;
        let mut list = Vec::new();
        let (identity, next) = (ready.identity_epoch(), ready.next_identity_epoch(now));
        if identity != next {
            list.push(Attention::new(
                "epoch_restart_required",
                Severity::Warning,
                format!("This KMS signs with epoch {identity}, which is retired: after a restart it signs with epoch {next}."),
                "epochs",
            ));
        }
        for info in ready.epochs() {
            let number = info.epoch;
            let told = match (info.state, info.times.activate_at) {
                (EpochState::Prepared, None) => Some((
                    Severity::Info,
                    format!("Epoch {number} of the root keys is made and waits to be activated."),
                    None,
                )),
                (EpochState::Prepared, Some(at)) => Some((
                    Severity::Info,
                    format!("Epoch {number} of the root keys comes into force."),
                    Some(at),
                )),
                (EpochState::Active, Some(at)) if at > 0 && info.is_current && now < at + EPOCH_NEWS => {
                    Some((Severity::Info, format!("Epoch {number} of the root keys is in force."), None))
                }
                (EpochState::Active | EpochState::Retired | EpochState::Destroyed, _) => None,
            };
            let Some((severity, message, by)) = told else { continue };
            list.push(Attention {
                by: by.map(rfc3339),
                since: info.times.activate_at.filter(|at| *at <= now).map(rfc3339),
                ..Attention::new("epoch", severity, message, "epochs")
            });
        }
        list
    }
}
