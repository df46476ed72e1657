//! The event log on the admin listener of a KMS: selection of events, and pages of them.

use std::io::Write as _;
use std::time::Duration;

use clap::{Args, ValueEnum};
use kms_attest::identity::{AppId, DomainName};
use kms_client::operator::OperatorConnection;
use kms_client::resource::Reach;
use serde_json::Value;
use tokio::time::sleep;

use crate::exit::{Failure, Outcome};
use crate::output::{Page, Tone, printable};
use crate::target::AdminService;
use crate::{input, when};

/// The most events in one response of a KMS.
pub(crate) const MAX_PAGE: usize = 1000;
/// A record is shorter than 64 KiB, and its message occurs twice in an event. A KMS ends a page before this
/// size.
const MAX_PAGE_BYTES: usize = 16 << 20;
/// An index is usually 0.2 seconds behind its log: how often it is asked again before it counts as behind, and when.
const ASK_AGAIN: u32 = 8;
const ASK_AFTER: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 250 });

/// Which events are shown.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Selection {
    /// Only of this type, such as app_key_released or denied
    #[arg(long = "type", value_name = "TYPE", value_parser = kind)]
    kind: Option<String>,
    /// Only about this app, 20 bytes in hexadecimal
    #[arg(long, value_name = "APP_ID", value_parser = input::app_id)]
    app_id: Option<AppId>,
    /// Only of this source
    #[arg(long)]
    source: Option<Source>,
    /// Only of this domain
    #[arg(long, value_name = "NAME")]
    domain: Option<DomainName>,
}

/// The source of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Source {
    /// The KMS itself
    Kms,
    /// Written to the KMS's pipe
    Pipe,
    /// Reported by operators
    Api,
}

/// The period of the events.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Period {
    /// Not before this: RFC 3339, a date, or a time ago such as 2h
    #[arg(long, value_name = "TIME", value_parser = when::moment)]
    since: Option<String>,
    /// Not after this
    #[arg(long, value_name = "TIME", value_parser = when::moment)]
    until: Option<String>,
}

/// Checks the name of a type for use in a query.
fn kind(text: &str) -> Result<String, String> {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    match !text.is_empty() && text.len() <= 128 && text.bytes().all(is_word) {
        true => Ok(text.to_owned()),
        false => Err("must be the name of a type, such as denied".to_owned()),
    }
}

impl Selection {
    /// The selection as query parameters, each with `&` in front.
    pub(crate) fn parameters(&self) -> String {
        let source = self.source.map(|source| match source {
            Source::Kms => "kms",
            Source::Pipe => "pipe",
            Source::Api => "api",
        });
        let app_id = self.app_id.map(|id| id.to_string());
        let domain = self.domain.as_ref().map(DomainName::as_str);
        let kind = self.kind.as_deref();
        [("type", kind), ("app_id", app_id.as_deref()), ("source", source), ("domain", domain)]
            .into_iter()
            .filter_map(|(name, value)| value.map(|value| format!("&{name}={value}")))
            .collect()
    }
}

impl Selection {
    /// Whether it selects every event.
    pub(crate) fn is_everything(&self) -> bool {
        self.kind.is_none() && self.app_id.is_none() && self.source.is_none() && self.domain.is_none()
    }
}

impl Period {
    /// The period until this one begins; `None` if this one has no begin.
    pub(crate) fn before(&self) -> Option<Self> {
        self.since.as_ref().map(|since| Self { since: None, until: Some(since.clone()) })
    }

    /// The period as query parameters, each with `&` in front.
    pub(crate) fn parameters(&self) -> String {
        [("since", &self.since), ("until", &self.until)]
            .into_iter()
            .filter_map(|(name, value)| value.as_ref().map(|value| format!("&{name}={value}")))
            .collect()
    }
}

/// An event in the form of the KMS.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// Its number in the audit log.
    pub(crate) seq: u64,
    /// The whole event.
    pub(crate) content: Value,
}

impl Event {
    /// Parses an event; `None` if it has no number.
    pub(crate) fn read(content: Value) -> Option<Self> {
        Some(Self { seq: content.get("seq")?.as_u64()?, content })
    }

    /// A member as text; empty if it is missing.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.content.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// Prints a line: time, source unless it is the KMS, message.
    pub(crate) fn show(&self, page: &mut Page) {
        let by = self
            .content
            .pointer("/details/by")
            .and_then(Value::as_str)
            .filter(|_| self.text("type") == "reported");
        let source = match (self.text("source"), by) {
            ("kms", _) => String::new(),
            (source, None) => format!("[{}] ", printable(source)),
            (source, Some(by)) => format!("[{}, {}] ", printable(source), printable(by)),
        };
        let message = printable(self.text("message"));
        let message = match self.text("severity") {
            "critical" => page.toned(Tone::Bad, &message),
            "warning" => page.toned(Tone::Doubtful, &message),
            _ => message,
        };
        page.line(format_args!("{} {source}{message}", printable(self.text("received_at"))));
    }
}

/// Some events, in ascending order.
#[derive(Debug)]
pub(crate) struct EventPage {
    pub(crate) events: Vec<Event>,
    /// The cursor of the events before these, if there may be any.
    pub(crate) next: Option<u64>,
    /// What the index of the KMS holds.
    pub(crate) reach: Option<Reach>,
}

/// A query for events.
#[derive(Clone, Debug)]
pub(crate) struct Question<'a> {
    /// `/api/v1/events` or `/api/v1/audit-logs`.
    pub(crate) route: &'static str,
    pub(crate) selection: &'a Selection,
    pub(crate) period: &'a Period,
}

impl Question<'_> {
    /// The newest events before `cursor`, at most `limit`. Warns if the newest may be missing.
    pub(crate) async fn page(
        &self,
        admin: AdminService<'_>,
        connection: &OperatorConnection,
        cursor: Option<u64>,
        limit: usize,
    ) -> Outcome<EventPage> {
        let (page, behind) = self.complete_page(admin, connection, cursor, limit, None).await?;
        if let Some(behind) = behind.filter(|_| cursor.is_none()) {
            let _ = writeln!(std::io::stderr(), "warning: {}: {behind}", admin.url);
        }
        Ok(page)
    }

    /// The same from an index that has the event `newest`, or at first the newest of the log; with a text if it has
    /// not within two seconds.
    pub(crate) async fn complete_page(
        &self,
        admin: AdminService<'_>,
        connection: &OperatorConnection,
        cursor: Option<u64>,
        limit: usize,
        newest: Option<u64>,
    ) -> Outcome<(EventPage, Option<String>)> {
        let (mut newest, mut asked) = (newest, 0);
        loop {
            let page = self.one_page(admin, connection, cursor, limit).await?;
            let Some(Reach { last, newest: of_log, .. }) = page.reach else { return Ok((page, None)) };
            let newest = *newest.get_or_insert(of_log);
            if last >= newest {
                return Ok((page, None));
            }
            if asked == ASK_AGAIN {
                let behind = format!(
                    "its index of events reaches event {last} of {newest}: it is behind, or built again, and later events \
                     are missing"
                );
                return Ok((page, Some(behind)));
            }
            asked += 1;
            sleep(ASK_AFTER).await;
        }
    }

    async fn one_page(
        &self,
        admin: AdminService<'_>,
        connection: &OperatorConnection,
        cursor: Option<u64>,
        limit: usize,
    ) -> Outcome<EventPage> {
        let cursor_parameter = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let (selection, period) = (self.selection.parameters(), self.period.parameters());
        let path = format!("{}?limit={limit}{selection}{period}{cursor_parameter}", self.route);
        let document = admin.fetch_on(connection, &path, MAX_PAGE_BYTES).await?;
        let wrong = |what: &str| Failure::failed(format_args!("{}: {} gives {what}", admin.url, self.route));
        let text = std::str::from_utf8(&document.body).map_err(|_| wrong("no text"))?;
        let events: Vec<Value> = serde_json::from_str(text).map_err(|_| wrong("no list of events"))?;
        let events: Option<Vec<Event>> = events.into_iter().map(Event::read).collect();
        let events = events.ok_or_else(|| wrong("events without a number"))?;
        // Without this check, a server with another order could cause endless requests.
        let numbers = events.iter().map(|event| event.seq).chain(cursor);
        if !numbers.is_sorted_by(|before, after| before < after) || events.len() > limit {
            return Err(wrong("events that were not asked for"));
        }
        let lowest = events.first().map(|event| event.seq);
        if document.next_cursor.is_some_and(|next| leads_back(next, lowest, cursor)) {
            return Err(wrong("a cursor that leads back"));
        }
        Ok(EventPage { events, next: document.next_cursor, reach: document.reach })
    }
}

/// Whether a page with this lowest event, which was asked for with `cursor`, cannot be continued at `next`.
fn leads_back(next: u64, lowest: Option<u64>, cursor: Option<u64>) -> bool {
    lowest.is_some_and(|lowest| next > lowest) || cursor.is_some_and(|cursor| next >= cursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_selected_is_asked_for() {
        let domain = Some("sandbox".parse().expect("a name"));
        let kind = Some("denied".to_owned());
        let selection = Selection { kind, domain, ..Selection::default() };
        assert_eq!(selection.parameters(), "&type=denied&domain=sandbox");
        assert!(!selection.is_everything() && Selection::default().is_everything());
        let only = Selection { kind: None, ..selection };
        assert!(!only.is_everything(), "an export of one domain is no whole log");
    }

    #[test]
    fn each_page_leads_to_older_ones() {
        for (next, lowest, cursor, expected) in [
            (5, None, None, false),
            (5, Some(5), None, false),
            (6, Some(5), None, true),
            (5, Some(5), Some(9), false),
            (8, None, Some(9), false),
            (9, None, Some(9), true),
            (10, None, Some(9), true),
        ] {
            assert_eq!(leads_back(next, lowest, cursor), expected, "{next} {lowest:?} {cursor:?}");
        }
    }
}
