//! Sentences about root keys: their epochs, their restore and their recovery sets.

use std::fmt::Write as _;

use crate::audit::record::Record;

pub(super) fn keys_bootstrapped(record: &Record) -> String {
    format!("root keys were generated for domain {}", record.value("domain"))
}

pub(super) fn keys_received(record: &Record) -> String {
    format!("root keys for domain {} were received from {}", record.value("domain"), record.value("source"))
}

pub(super) fn keys_not_received(record: &Record) -> String {
    let what_to_do = match record.text("code") {
        "source_invitation_over" => "; ask one of its owners for a new invitation",
        _ => "",
    };
    format!(
        "root keys for domain {} were not received from {}: {}{what_to_do}",
        record.value("domain"),
        record.value("source"),
        record.value("code")
    )
}

pub(super) fn restore_opened(record: &Record) -> String {
    format!(
        "officers may restore root keys for domain {} from the recovery set {}: {} shares are needed; opened from {}",
        record.value("domain"),
        record.value("set"),
        record.value("threshold"),
        record.value("remote")
    )
}

pub(super) fn restore_cancelled(record: &Record) -> String {
    format!(
        "the restore from the recovery set {} was cancelled from {}",
        record.value("set"),
        record.value("remote")
    )
}

pub(super) fn keys_restored(record: &Record) -> String {
    let mut text = format!(
        "root keys for domain {} were restored from the recovery set {} by {}",
        record.value("domain"),
        record.value("set"),
        record.value("officers")
    );
    if record.fields.contains_key("ledger_checkpoint") {
        let (origin, at) = (record.value("ledger_origin"), record.value("ledger_checkpoint"));
        let _ = write!(text, "; when the set was made, the log {origin} was at {at}");
    }
    if record.fields.contains_key("apps_with_epochs") {
        let _ = write!(text, "; with the epochs chosen for {} apps", record.value("apps_with_epochs"));
    }
    text
}

pub(super) fn source_relaxed(record: &Record) -> String {
    format!(
        "the KMS that root keys came from was allowed by relaxed rules only: {}",
        record.value("relaxations")
    )
}

pub(super) fn epoch_prepared(record: &Record) -> String {
    format!("epoch {} of the root keys was made by {}", record.value("epoch"), record.by())
}

pub(super) fn epoch_received(record: &Record) -> String {
    format!(
        "epoch {} of the root keys, {}, was received from {} by {}",
        record.value("epoch"),
        record.value("state"),
        record.value("source"),
        record.by()
    )
}

pub(super) fn epoch_activated(record: &Record) -> String {
    let mut text = format!(
        "epoch {} of the root keys is in force from {} (Unix seconds) on, by {}",
        record.value("epoch"),
        record.value("at"),
        record.by()
    );
    if record.fields.contains_key("except") {
        let _ = write!(text, "; without these KMSs: {}", record.value("except"));
    }
    text
}

pub(super) fn epoch_retired(record: &Record) -> String {
    format!(
        "epoch {} of the root keys was retired by {}: nobody gets its keys any more",
        record.value("epoch"),
        record.by()
    )
}

pub(super) fn epoch_destroyed(record: &Record) -> String {
    format!("the keys of epoch {} were overwritten by {}", record.value("epoch"), record.by())
}

pub(super) fn epoch_change_failed(record: &Record) -> String {
    format!(
        "the change of epoch {} by {} ({}) was not made, or not wholly{}",
        record.value("epoch"),
        record.by(),
        record.value("change"),
        record.because()
    )
}

pub(super) fn epochs_missing(record: &Record) -> String {
    format!(
        "the key directory is older than this log, which says more of root epochs: {}",
        record.value("lost")
    )
}

pub(super) fn epoch_state_accepted(record: &Record) -> String {
    match record.text("what") {
        "lost_epochs" => {
            format!(
                "a key directory that is older than this log was accepted by {}: {}",
                record.by(),
                record.value("seen")
            )
        }
        _ => format!("the epochs chosen for apps were said to be complete by {}", record.by()),
    }
}

pub(super) fn app_epoch_set(record: &Record) -> String {
    if record.text("root_epoch").is_empty() {
        return format!(
            "app {} has the epochs that the policy says, by {}",
            record.value("app_id"),
            record.by()
        );
    }
    let root = match record.text("root_epoch") {
        "current" => "follows the current epoch of the root keys".to_owned(),
        _ => format!("stays at epoch {} of the root keys", record.value("root_epoch")),
    };
    let from = match record.text("source") {
        "" => String::new(),
        _ => format!(", as received from {}", record.value("source")),
    };
    format!(
        "app {} {root}, app epoch {}{from}; by {}",
        record.value("app_id"),
        record.value("app_epoch"),
        record.by()
    )
}

pub(super) fn app_epochs_received(record: &Record) -> String {
    format!(
        "the epochs chosen for {} apps were received from {} by {}: {} apps changed, {} have another choice here",
        record.value("apps"),
        record.value("source"),
        record.by(),
        record.value("changed"),
        record.value("kept")
    )
}

pub(super) fn recovery_set_created(record: &Record) -> String {
    let retires = match record.text("retires") {
        "" => String::new(),
        _ => format!(
            "; set {} counts no more, but its shares still open the root keys of then",
            record.value("retires")
        ),
    };
    format!(
        "recovery set {} was made by {}: {} of the officers {} restore the root keys of epochs {}; manifest SHA-256 {}{retires}",
        record.value("set"),
        record.by(),
        record.value("threshold"),
        record.value("officers"),
        record.value("epochs"),
        record.value("manifest_sha256")
    )
}

pub(super) fn recovery_set_failed(record: &Record) -> String {
    format!("recovery set {} does not count{}", record.value("set"), record.because())
}

pub(super) fn recovery_drill_started(record: &Record) -> String {
    format!("a drill of recovery set {} was started by {}", record.value("set"), record.by())
}

pub(super) fn recovery_drill(record: &Record) -> String {
    format!(
        "recovery set {} gave the root keys in a drill, with the shares of {}",
        record.value("set"),
        record.value("officers")
    )
}

pub(super) fn recovery_drill_failed(record: &Record) -> String {
    format!(
        "a drill of recovery set {} failed, with the shares of {}{}",
        record.value("set"),
        record.value("officers"),
        record.because()
    )
}

pub(super) fn recovery_drill_cancelled(record: &Record) -> String {
    format!(
        "a drill of recovery set {} ended early, with the shares of {}{}",
        record.value("set"),
        record.value("officers"),
        record.because()
    )
}

pub(super) fn recovery_drill_reminder(record: &Record) -> String {
    format!("reminded by {}{}", record.by(), record.because())
}
