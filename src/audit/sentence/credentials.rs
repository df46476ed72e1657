//! Sentences about credentials, and about changes that need a second owner.

use serde_json::Value;

use crate::audit::record::Record;

pub(super) fn owner_created(record: &Record) -> String {
    format!("the first start made the credential {} of an owner", record.value("name"))
}

pub(super) fn credential_created(record: &Record) -> String {
    let domain = match record.text("domain") {
        "" => String::new(),
        _ => format!(" in the domain {}", record.value("domain")),
    };
    format!(
        "credential {} with the role {}{domain} was created by {}",
        record.value("name"),
        record.value("role"),
        record.by()
    )
}

pub(super) fn credential_rotated(record: &Record) -> String {
    if record.fields.get("invited") == Some(&Value::Bool(true)) {
        return format!(
            "credential {} got an invitation to replace its secret, by {}",
            record.value("name"),
            record.by()
        );
    }
    format!("credential {} got another secret, by {}", record.value("name"), record.by())
}

pub(super) fn credential_activated(record: &Record) -> String {
    format!("credential {} was activated from {}", record.value("name"), record.value("remote"))
}

pub(super) fn old_secret_ended(record: &Record) -> String {
    format!("the new secret of credential {} was used, so the old one has ended", record.value("name"))
}

pub(super) fn basic_auth_set(record: &Record) -> String {
    format!("the secret of the owner {} was chosen by {}", record.value("name"), record.by())
}

pub(super) fn credential_revoked(record: &Record) -> String {
    format!("credential {} was revoked by {}", record.value("name"), record.by())
}

pub(super) fn credential_change_failed(record: &Record) -> String {
    format!(
        "the change of credential {} by {} is not in force: it could not be kept, or the other nodes decided otherwise",
        record.value("name"),
        record.by()
    )
}

pub(super) fn credentials_refused(record: &Record) -> String {
    format!(
        "wrong {} from {} on the {} listener",
        record.value("shown"),
        record.value("remote"),
        record.value("listener")
    )
}

pub(super) fn approval_requested(record: &Record) -> String {
    format!(
        "request {} of {} needs a second owner: {}",
        record.value("id"),
        record.by(),
        record.value("detail")
    )
}

pub(super) fn approval_approved(record: &Record) -> String {
    format!(
        "request {} of {} was approved by {}: {}",
        record.value("id"),
        record.value("requested_by"),
        record.by(),
        record.value("detail")
    )
}

pub(super) fn approval_rejected(record: &Record) -> String {
    format!(
        "request {} of {} ({}) was rejected by {}",
        record.value("id"),
        record.value("requested_by"),
        record.value("action"),
        record.by()
    )
}

pub(super) fn approval_expired(record: &Record) -> String {
    format!("request {} ({}) has ended{}", record.value("id"), record.value("action"), record.because())
}

pub(super) fn approval_done(record: &Record) -> String {
    format!("request {} ({}) is done: {}", record.value("id"), record.value("action"), record.value("result"))
}

pub(super) fn approval_failed(record: &Record) -> String {
    format!("request {} ({}) failed{}", record.value("id"), record.value("action"), record.because())
}

pub(super) fn approval_waived(record: &Record) -> String {
    format!(
        "no second owner was needed, because there are fewer than two; by {}: {}",
        record.by(),
        record.value("detail")
    )
}
