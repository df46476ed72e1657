//! Sentences about freezes, domains, actions and settings.

use super::short;
use crate::audit::printable;
use crate::audit::record::Record;

pub(super) fn domains_received(record: &Record) -> String {
    format!(
        "{} domains and the domains of {} apps were received from {} with the root keys",
        record.value("domains"),
        record.value("apps"),
        record.value("source")
    )
}

pub(super) fn domain_created(record: &Record) -> String {
    format!("the domain {} was created by {}", record.value("domain"), record.by())
}

pub(super) fn domain_archived(record: &Record) -> String {
    format!(
        "the domain {} was archived by {}: nothing is released in it",
        record.value("domain"),
        record.by()
    )
}

pub(super) fn domain_restored(record: &Record) -> String {
    format!("the domain {} was restored by {}", record.value("domain"), record.by())
}

pub(super) fn app_assigned(record: &Record) -> String {
    format!(
        "app {} was put into the domain {} by {}",
        record.value("app_id"),
        record.value("domain"),
        record.by()
    )
}

pub(super) fn app_moved(record: &Record) -> String {
    // Readers of one domain do not see the name of the other one.
    let named = |field, told: &str, other: &str| match record.text(field) {
        "" => other.to_owned(),
        _ => format!("{told}{}", record.value(field)),
    };
    format!(
        "app {} was moved from {} to {} by {}, and gets other keys",
        record.value("app_id"),
        named("previous_domain", "the domain ", "another domain"),
        named("domain", "", "another one"),
        record.by()
    )
}

pub(super) fn domain_change_failed(record: &Record) -> String {
    format!(
        "the change of the domain {} by {} ({}) was not made{}",
        record.value("domain"),
        record.by(),
        record.value("change"),
        record.because()
    )
}

pub(super) fn frozen(record: &Record) -> String {
    match record.text("scope") {
        "kms" => format!("the whole KMS was frozen by {}{}", record.by(), record.because()),
        scope => {
            format!(
                "{} {} was frozen by {}{}",
                short(&printable(scope)),
                record.value("value"),
                record.by(),
                record.because()
            )
        }
    }
}

pub(super) fn unfrozen(record: &Record) -> String {
    match record.text("scope") {
        "kms" => format!("the whole KMS was unfrozen by {}{}", record.by(), record.because()),
        scope => format!(
            "{} {} was unfrozen by {}{}",
            short(&printable(scope)),
            record.value("value"),
            record.by(),
            record.because()
        ),
    }
}

pub(super) fn unfreeze_failed(record: &Record) -> String {
    match record.text("scope") {
        "kms" => format!("the unfreeze of the whole KMS by {} was not made{}", record.by(), record.because()),
        scope => format!(
            "the unfreeze of {} {} by {} was not made{}",
            short(&printable(scope)),
            record.value("value"),
            record.by(),
            record.because()
        ),
    }
}

pub(super) fn action_started(record: &Record) -> String {
    format!("executing action: {}{}, by {}", record.value("action"), record.on_node(), record.by())
}

pub(super) fn action_succeeded(record: &Record) -> String {
    format!("action {}{} succeeded", record.value("action"), record.on_node())
}

pub(super) fn action_failed(record: &Record) -> String {
    format!("action {}{} failed{}", record.value("action"), record.on_node(), record.because())
}

pub(super) fn setting_changed(record: &Record) -> String {
    format!(
        "setting {} was changed from {} to {} by {}",
        record.value("setting"),
        record.value("previous"),
        record.value("value"),
        record.by()
    )
}

pub(super) fn reloaded(record: &Record) -> String {
    format!(
        "reloaded; changed settings: {}; settings that need a restart: {}; by {}",
        record.value("changed"),
        record.value("restart_required"),
        record.value("by")
    )
}

pub(super) fn restart_requested(record: &Record) -> String {
    format!("a restart was requested by {}", record.by())
}

pub(super) fn file_uploaded(record: &Record) -> String {
    format!(
        "file {} was uploaded: {} bytes, SHA-256 {}; by {}",
        record.value("name"),
        record.value("bytes"),
        record.value("sha256"),
        record.by()
    )
}

pub(super) fn file_upload_failed(record: &Record) -> String {
    format!(
        "file {} with SHA-256 {} is not in force{}",
        record.value("name"),
        record.value("sha256"),
        record.because()
    )
}
