//! Sentences about what is released or refused, and about policies and collateral.

use serde_json::Value;

use crate::audit::record::Record;

pub(super) fn app_key_released(record: &Record) -> String {
    format!("keys{} were released to {} at {}", record.of_epochs(), record.of_app(), record.value("remote"))
}

pub(super) fn kms_key_released(record: &Record) -> String {
    format!(
        "root keys were handed over to a KMS (mr_aggregated {}) at {}",
        record.value("mr_aggregated"),
        record.value("remote")
    )
}

pub(super) fn certificate_issued(record: &Record) -> String {
    format!(
        "certificate {}{} was issued to {} at {}",
        record.value("common_name"),
        record.of_epochs(),
        record.of_app(),
        record.value("remote")
    )
}

pub(super) fn denied(record: &Record) -> String {
    format!(
        "{} at {} was denied ({}){}",
        record.of_app(),
        record.value("remote"),
        record.value("code"),
        record.because()
    )
}

pub(super) fn refused(record: &Record) -> String {
    format!(
        "a request from {} was refused ({}){}",
        record.value("remote"),
        record.value("code"),
        record.because()
    )
}

pub(super) fn withheld(record: &Record) -> String {
    format!(
        "the release of record {} to {} did not happen: it was withheld",
        record.value("released"),
        record.of_app()
    )
}

pub(super) fn explained(record: &Record) -> String {
    format!("it was explained to {} how a caller is judged: {}", record.by(), record.value("verdict"))
}

pub(super) fn shadow_started(record: &Record) -> String {
    format!("candidate allowlist {} began to run in shadow mode, by {}", record.value("name"), record.by())
}

pub(super) fn shadow_stopped(record: &Record) -> String {
    format!(
        "candidate allowlist {} ended: it would have newly allowed {} and newly denied {}; by {}",
        record.value("name"),
        record.value("newly_allowed"),
        record.value("newly_denied"),
        record.by()
    )
}

pub(super) fn policy_bundle_received(record: &Record) -> String {
    format!(
        "policy bundle {} of the domain {} with serial {} was received from {}",
        record.value("bundle"),
        record.value("domain"),
        record.value("serial"),
        record.value("origin")
    )
}

pub(super) fn policy_bundle_activated(record: &Record) -> String {
    let by = if record.text("by").is_empty() { String::new() } else { format!(", by {}", record.by()) };
    format!(
        "policy bundle {} with serial {} decides in the domain {} from now on{by}",
        record.value("bundle"),
        record.value("serial"),
        record.value("domain")
    )
}

pub(super) fn policy_bundle_refused(record: &Record) -> String {
    format!(
        "a policy bundle from {} was refused in the domain {}{}",
        record.value("origin"),
        record.value("domain"),
        record.because()
    )
}

pub(super) fn policy_bundle_held(record: &Record) -> String {
    format!(
        "policy bundle {} with serial {} waits for an operator in the domain {}: of {} requests it would deny {} that are \
                 allowed{}",
        record.value("bundle"),
        record.value("serial"),
        record.value("domain"),
        record.value("compared"),
        record.value("newly_denied"),
        if record.fields.get("denies_this_kms").and_then(Value::as_bool) == Some(true) {
            ", and this KMS itself"
        } else {
            ""
        }
    )
}

pub(super) fn policy_forked(record: &Record) -> String {
    format!(
        "policy bundle {} with serial {} of the domain {} contradicts one that was seen: its signers have signed \
                 two policies; the one in force stays",
        record.value("bundle"),
        record.value("serial"),
        record.value("domain")
    )
}

pub(super) fn policy_serials_lost(record: &Record) -> String {
    format!(
        "the file with the serials of policy bundles of the domain {} is gone; none below {} is used",
        record.value("domain"),
        record.value("floor")
    )
}

pub(super) fn collateral_refreshed(record: &Record) -> String {
    format!(
        "collateral of {} models was fetched again, {} failed; by {}",
        record.value("models"),
        record.value("failed"),
        record.by()
    )
}

pub(super) fn collateral_refused(record: &Record) -> String {
    let from = match record.value("source").as_ref() {
        "disk" => "kept collateral",
        _ => "the collateral of a service",
    };
    format!("{from} was refused{}", record.because())
}
