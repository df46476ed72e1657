//! Sentences about the fleet: its shared state, its replicas and its rollouts.

use serde_json::Value;

use crate::audit::record::Record;

pub(super) fn state_adopted(record: &Record) -> String {
    let by = if record.text("by").is_empty() { String::new() } else { format!(", by {}", record.by()) };
    let what = match (record.text("change"), record.text("target")) {
        ("frozen", target) => format!("{target} was frozen"),
        ("unfrozen", target) => format!("the freeze of {target} was ended"),
        ("drained", target) => format!("{target} was drained"),
        ("undrained", target) => format!("the drain of {target} was ended"),
        (_, "") => match record.text("document") {
            "drain" => "drains of nodes were changed".to_owned(),
            "joins" => "invitations of replicas were changed".to_owned(),
            _ => format!("the {} were changed", record.value("document")),
        },
        (_, target) => format!("{target} was changed"),
    };
    format!("{what} on the node {}{by}; here it is in force too", record.value("node"))
}

pub(super) fn state_alarm(record: &Record) -> String {
    format!("the state that the nodes share is not believed{}", record.because())
}

pub(super) fn fleet_alarm(record: &Record) -> String {
    format!("there is something in the fleet that must not be{}", record.because())
}

pub(super) fn node_forgotten(record: &Record) -> String {
    format!(
        "the node {} was forgotten, which is no longer in the fleet, by {}",
        record.value("name"),
        record.by()
    )
}

pub(super) fn state_repaired(record: &Record) -> String {
    format!(
        "the state of this node was written over that of its fleet, as number {}, by {}",
        record.value("state"),
        record.by()
    )
}

pub(super) fn replica_invited(record: &Record) -> String {
    format!(
        "the replica {} was invited, by {}; invitation {}",
        record.value("domain"),
        record.by(),
        record.value("invitation")
    )
}

pub(super) fn replica_progress(record: &Record) -> String {
    let what = match record.text("stage") {
        "started" => "has called".to_owned(),
        "attested" => "has shown evidence that verified".to_owned(),
        "allowed" => "is allowed by the policy".to_owned(),
        "keys" => "was sent the root keys".to_owned(),
        "committed" => "has saved the root keys".to_owned(),
        "serving" => "serves".to_owned(),
        _ => format!("has reached the stage {}", record.value("stage")),
    };
    format!(
        "the invited replica {} {what}; invitation {}",
        record.value("domain"),
        record.value("invitation")
    )
}

pub(super) fn replica_refused(record: &Record) -> String {
    format!(
        "the invited replica {} was refused: {}; invitation {}",
        record.value("domain"),
        record.value("code"),
        record.value("invitation")
    )
}

pub(super) fn invitation_ended(record: &Record) -> String {
    let by = if record.text("by").is_empty() { String::new() } else { format!(", by {}", record.by()) };
    format!(
        "the invitation {} of the replica {} has ended: {}{by}",
        record.value("invitation"),
        record.value("domain"),
        record.value("reason")
    )
}

pub(super) fn rollout_started(record: &Record) -> String {
    format!(
        "the rollout {} of the OS image {} was started, by {}",
        record.value("rollout"),
        record.value("image"),
        record.by()
    )
}

pub(super) fn rollout_changed(record: &Record) -> String {
    let of =
        if record.text("node").is_empty() { String::new() } else { format!(" {} of", record.value("node")) };
    let perhaps = match record.fields.get("unconfirmed") {
        Some(Value::Bool(true)) => "; the database did not confirm it",
        _ => "",
    };
    format!(
        "{}:{of} the rollout {}, by {}{perhaps}",
        record.value("change"),
        record.value("rollout"),
        record.by()
    )
}

pub(super) fn rollout_node(record: &Record) -> String {
    format!(
        "{} is {} now{}; rollout {}",
        record.value("node"),
        record.value("to"),
        record.because(),
        record.value("rollout")
    )
}

pub(super) fn rollout_failed(record: &Record) -> String {
    format!(
        "the rollout {} has paused: {} failed{}",
        record.value("rollout"),
        record.value("node"),
        record.because()
    )
}

pub(super) fn rollout_ended(record: &Record) -> String {
    format!(
        "the rollout {} is {}: {} nodes done, {} failed, {} skipped",
        record.value("rollout"),
        record.value("state"),
        record.value("done"),
        record.value("failed"),
        record.value("skipped")
    )
}

pub(super) fn state_set_aside(record: &Record) -> String {
    format!(
        "the {} of this node were replaced by those of the fleet; the file {} keeps them",
        record.value("document"),
        record.value("file")
    )
}
