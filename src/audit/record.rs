//! A record of the log as it is read: its number, its type, its fields and the domain that it belongs to.

use std::borrow::Cow;

use kms_attest::identity::DomainName;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::event::ROLE_OF_KMS;
use crate::event_type::{BelongsTo, EventType, Severity};

/// A record parsed for display.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Record {
    /// Its number.
    pub seq: u64,
    /// When it was recorded, RFC 3339.
    pub time: String,
    /// Its type: the name of a variant of [`super::Event`].
    #[serde(rename = "event")]
    pub kind: String,
    /// The other fields.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

/// The properties by which a record is found, parsed without the others.
#[derive(Debug, Deserialize)]
pub struct RecordKey<'a> {
    /// As in [`Record`].
    pub seq: u64,
    /// As in [`Record`].
    #[serde(borrow)]
    pub time: Cow<'a, str>,
    /// As in [`Record`].
    #[serde(rename = "event", borrow)]
    pub kind: Cow<'a, str>,
    /// The app that it is about, hex; empty if it is about none.
    #[serde(borrow, default)]
    pub app_id: Cow<'a, str>,
    #[serde(borrow, default)]
    source: Cow<'a, str>,
    #[serde(borrow, default)]
    role: Cow<'a, str>,
    #[serde(borrow, default)]
    domain: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    previous_domain: Option<Cow<'a, str>>,
}

impl<'a> RecordKey<'a> {
    /// Reads a line of the log; `None` if it is not a record.
    pub fn read(line: &'a [u8]) -> Option<Self> {
        serde_json::from_str(std::str::from_utf8(line).ok()?).ok()
    }

    /// As [`Record::source`].
    pub fn source(&self) -> &'static str {
        source(&self.kind, &self.source)
    }

    /// As [`Record::domain`].
    pub fn domain(&self) -> Option<DomainName> {
        domain(&self.kind, &self.role, self.domain.as_deref())
    }

    /// As [`Record::left_domain`].
    pub fn left_domain(&self) -> Option<DomainName> {
        left_domain(&self.kind, self.previous_domain.as_deref())
    }
}

fn source(kind: &str, named: &str) -> &'static str {
    match (kind, named) {
        ("reported" | "suppressed", "pipe") => "pipe",
        ("reported" | "suppressed", "api") => "api",
        ("suppressed", "") => "kms",
        ("reported" | "suppressed", _) => "outside",
        _ => "kms",
    }
}

/// The domain that a record belongs to. A text that is not a name is that of no domain.
fn domain(kind: &str, role: &str, named: Option<&str>) -> Option<DomainName> {
    let named = match named.filter(|name| !name.is_empty()) {
        None => None,
        Some(name) => Some(name.parse().ok()?),
    };
    match EventType::parse(kind)?.belongs_to() {
        BelongsTo::WholeKms => None,
        BelongsTo::DomainOfApp if role == ROLE_OF_KMS => None,
        BelongsTo::DomainOfApp => Some(named.unwrap_or_default()),
        BelongsTo::NamedDomain | BelongsTo::BothDomains => named,
    }
}

/// The other domain that a record belongs to.
fn left_domain(kind: &str, named: Option<&str>) -> Option<DomainName> {
    match EventType::parse(kind)?.belongs_to() {
        BelongsTo::BothDomains => named?.parse().ok(),
        BelongsTo::WholeKms | BelongsTo::DomainOfApp | BelongsTo::NamedDomain => None,
    }
}

/// Members of a line that belong to the chain and to the tree, not to the event.
const CHAIN: [&str; 3] = ["prev", "hash", "salt"];

impl Record {
    /// A line of the log; `None` if it is not a record.
    pub fn read(line: &[u8]) -> Option<Self> {
        let mut record: Self = serde_json::from_str(std::str::from_utf8(line).ok()?).ok()?;
        for member in CHAIN {
            record.fields.remove(member);
        }
        Some(record)
    }

    /// The source: `kms`, or `pipe` or `api` for reports from outside.
    pub fn source(&self) -> &'static str {
        source(&self.kind, self.text("source"))
    }

    /// The app that it is about, hex; empty if it is about none.
    pub fn app_id(&self) -> &str {
        self.text("app_id")
    }

    /// The domain that it belongs to; `None` if it is about the whole KMS.
    pub fn domain(&self) -> Option<DomainName> {
        domain(&self.kind, self.text("role"), self.fields.get("domain").and_then(Value::as_str))
    }

    /// The domain that an app has left by what it says; it belongs to that one too.
    pub fn left_domain(&self) -> Option<DomainName> {
        left_domain(&self.kind, self.fields.get("previous_domain").and_then(Value::as_str))
    }

    /// Its severity. A type that this version does not know counts as `info`.
    pub fn severity(&self) -> Severity {
        let severity = |event: EventType| event.severity_with(self.text("reason"));
        EventType::parse(&self.kind).map_or(Severity::Info, severity)
    }

    pub(super) fn text(&self, field: &str) -> &str {
        self.fields.get(field).and_then(Value::as_str).unwrap_or_default()
    }
}
