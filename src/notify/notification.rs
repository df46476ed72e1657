//! The content of a notification: one event, or the start or end of a condition, as JSON.

use std::sync::OnceLock;

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::audit::Record;
use crate::event_type::{Condition, EventType, Severity, Topic};

/// Whether a condition starts or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// It has started.
    Raised,
    /// It has ended.
    Resolved,
}

/// One notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Notification {
    /// The same at each attempt, and for the same record also after a restart.
    pub(super) id: String,
    /// RFC 3339.
    pub(super) time: String,
    pub(super) topic: Topic,
    pub(super) severity: Severity,
    /// `kms`, or `pipe` or `api` for reports from outside.
    pub(super) source: &'static str,
    pub(super) message: String,
    /// The number of the record; `None` for what is not in the log.
    pub(super) sequence: Option<u64>,
    pub(super) app_id: Option<String>,
    /// For conditions only.
    pub(super) state: Option<State>,
    /// How many of the same type before it were omitted because there were too many.
    pub(super) left_out: u64,
}

/// The sender of notifications.
#[derive(Debug, Default)]
pub(super) struct Sender {
    /// Different after each start of the process.
    pub(super) boot_id: String,
    /// The origin of the log, once there are keys that sign it.
    pub(super) origin: OnceLock<String>,
}

impl Notification {
    /// The notification of a record with its line.
    pub(super) fn of_record(record: &Record, line: &[u8], event: EventType, left_out: u64) -> Self {
        let digest = Sha256::digest(line);
        Self {
            id: hex::encode(&digest[..16]),
            time: record.time.clone(),
            topic: Topic::Event(event),
            severity: record.severity(),
            source: record.source(),
            message: record.sentence(),
            sequence: Some(record.seq),
            app_id: Some(record.app_id()).filter(|app| !app.is_empty()).map(str::to_owned),
            state: None,
            left_out,
        }
    }

    pub(super) fn of_condition(condition: Condition, state: State, message: String) -> Self {
        let severity = match state {
            State::Raised | State::Resolved => condition.severity(),
        };
        Self::now(Topic::Condition(condition), severity, message, Some(state))
    }

    pub(super) fn test() -> Self {
        let message = "an operator asked for this notification, to see that it arrives".to_owned();
        Self::now(Topic::Test, Severity::Info, message, None)
    }

    fn now(topic: Topic, severity: Severity, message: String, state: Option<State>) -> Self {
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id).expect("the system has randomness");
        Self {
            id: hex::encode(id),
            time: now(),
            topic,
            severity,
            source: "kms",
            message,
            sequence: None,
            app_id: None,
            state,
            left_out: 0,
        }
    }

    /// The body to send. `lost` is how many earlier notifications were never delivered.
    pub(super) fn body(&self, sender: &Sender, lost: u64) -> String {
        #[derive(Serialize)]
        struct Body<'a> {
            id: &'a str,
            time: &'a str,
            #[serde(rename = "type")]
            kind: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            state: Option<State>,
            severity: &'static str,
            source: &'static str,
            message: &'a str,
            sequence: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            app_id: Option<&'a str>,
            origin: Option<&'a str>,
            boot_id: &'a str,
            left_out: u64,
            lost: u64,
        }
        let body = Body {
            id: &self.id,
            time: &self.time,
            kind: self.topic.name(),
            state: self.state,
            severity: self.severity.name(),
            source: self.source,
            message: &self.message,
            sequence: self.sequence,
            app_id: self.app_id.as_deref(),
            origin: sender.origin.get().map(String::as_str),
            boot_id: &sender.boot_id,
            left_out: self.left_out,
            lost,
        };
        serde_json::to_string(&body).expect("texts and numbers are JSON")
    }
}

/// RFC 3339, to the millisecond.
fn now() -> String {
    let now = OffsetDateTime::now_utc();
    let now = now.replace_millisecond(now.millisecond()).unwrap_or(now);
    now.format(&Rfc3339).unwrap_or_default()
}
