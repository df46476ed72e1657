//! `kmsctl events`: what happened at a KMS, and with `--follow` what happens.

use std::time::Duration;

use clap::Args;
use kms_client::CallError;
use kms_client::event_stream::EventStream;
use serde_json::Value;
use tokio::time::{Instant, interval, sleep, timeout};

use crate::event_log::{Event, MAX_PAGE, Period, Question, Selection};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Audience, Output, Terminal};
use crate::target::{ADMIN_TIME, AdminService, Administered};

/// Where events are, and where they come as they happen.
const EVENTS: &str = "/api/v1/events";
const STREAM: &str = "/api/v1/events/stream";
/// How many are shown unless it is said.
const USUAL: usize = 100;
/// The same, before those that happen.
const USUAL_BEFORE: usize = 10;
/// A KMS sends something every 15 seconds: after this time without anything the connection is dead.
const SILENCE: Duration = Duration::from_secs(45);
/// How long after a lost connection it is tried again: at first, and at most.
const BACKOFF: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(30)];
/// How often it is looked whether standard output is still read.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Arguments of `kmsctl events`.
#[derive(Args, Debug)]
pub(crate) struct Events {
    #[command(flatten)]
    admin: Administered,
    #[command(flatten)]
    period: Period,
    #[command(flatten)]
    selection: Selection,
    /// At most this many, the newest [default: 100; with --follow 10]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(0..=100_000))]
    limit: Option<u32>,
    /// Go on with what happens, until interrupted; with --json a line an event
    #[arg(long, conflicts_with = "until")]
    follow: bool,
}

/// Why a stream of events is over.
enum Ended {
    /// Nobody reads what is printed.
    Unread,
    /// The connection, with the reason.
    Lost(String),
}

impl Events {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let admin = self.admin.one()?;
        let usual = if self.follow { USUAL_BEFORE } else { USUAL };
        let limit = self.limit.map_or(usual, |limit| limit as usize);
        let newest = if self.follow { self.newest(admin, terminal).await? } else { 0 };
        let events = self.before(admin, terminal, limit).await?;
        if !self.follow {
            let content: Vec<&Value> = events.iter().map(|event| &event.content).collect();
            terminal.show(&content, |page| match events.is_empty() {
                true => page.line("There are no such events."),
                false => events.iter().for_each(|event| event.show(page)),
            })?;
            return Ok(Exit::Done);
        }
        let after = events.last().map_or(newest, |event| event.seq.max(newest));
        match print(terminal, &events)? {
            Output::Open => self.follow(admin, terminal, after).await,
            Output::Closed => Ok(Exit::Done),
        }
    }

    /// The number of the newest event of any kind.
    async fn newest(&self, admin: AdminService<'_>, terminal: &Terminal) -> Outcome<u64> {
        let connection = admin.connect(terminal).await?;
        let document = admin.fetch_on(&connection, &format!("{EVENTS}?limit=1"), 1 << 20).await?;
        let newest: Option<Vec<Value>> = document.json();
        let newest =
            newest.ok_or_else(|| Failure::failed(format_args!("{}: no list of events", admin.url)))?;
        Ok(newest.into_iter().filter_map(Event::read).map(|event| event.seq).max().unwrap_or(0))
    }

    /// The newest `limit` events, the oldest of them first.
    async fn before(
        &self,
        admin: AdminService<'_>,
        terminal: &Terminal,
        limit: usize,
    ) -> Outcome<Vec<Event>> {
        let connection = admin.connect(terminal).await?;
        let question = Question { route: EVENTS, selection: &self.selection, period: &self.period };
        let (mut found, mut cursor) = (Vec::new(), None);
        while found.len() < limit {
            let page = question.page(admin, &connection, cursor, (limit - found.len()).min(MAX_PAGE)).await?;
            found.extend(page.events.into_iter().rev());
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        found.reverse();
        Ok(found)
    }

    /// Prints what happens after the event `after`, over as many connections as it takes.
    async fn follow(&self, admin: AdminService<'_>, terminal: &Terminal, mut after: u64) -> Outcome {
        let mut is_first = true;
        let mut backoff = BACKOFF[0];
        loop {
            let before = after;
            let reason = match self.stream(admin, terminal, &mut after).await {
                Ok(Ended::Unread) => return Ok(Exit::Done),
                Ok(Ended::Lost(reason)) => reason,
                // What would be refused again, and what cannot be printed.
                Err(failure) if is_first || failure.exit != Exit::Failed => return Err(failure),
                Err(failure) => failure.message,
            };
            is_first = false;
            if after != before {
                backoff = BACKOFF[0];
            }
            terminal.warn(format_args!("{reason}; trying again in {} s", backoff.as_secs_f32()));
            sleep(backoff).await;
            if terminal.output() == Output::Closed {
                return Ok(Exit::Done);
            }
            backoff = (2 * backoff).min(BACKOFF[1]);
        }
    }

    /// Prints the events of one connection. `after` is the newest that is printed.
    async fn stream(&self, admin: AdminService<'_>, terminal: &Terminal, after: &mut u64) -> Outcome<Ended> {
        let connection = admin.connect(terminal).await?;
        let parameters = self.selection.parameters();
        let is_everything = parameters.is_empty();
        let path = format!("{STREAM}?{}", parameters.trim_start_matches('&'));
        let mut stream = match connection.stream(ADMIN_TIME, &path, Some(*after)).await {
            Ok(stream) => stream,
            Err(error) => return Err(admin.failure(error)?),
        };
        let mut events = EventStream::default();
        let mut look = interval(LOOK_EVERY);
        let mut heard = Instant::now();
        loop {
            let piece = tokio::select! {
                piece = timeout(SILENCE.saturating_sub(heard.elapsed()), stream.next()) => piece,
                _ = look.tick() => match terminal.output() {
                    Output::Open => continue,
                    Output::Closed => return Ok(Ended::Unread),
                },
            };
            heard = Instant::now();
            let lost = |reason: &str| Ok(Ended::Lost(format!("{}: {reason}", admin.url)));
            let piece = match piece {
                Err(_) => return lost("nothing comes any more"),
                Ok(Ok(None)) => return lost("the KMS ended the stream"),
                Ok(Err(CallError::Transport { .. })) => return lost("the connection was lost"),
                Ok(Err(error)) => return Err(admin.failure(error)?),
                Ok(Ok(Some(piece))) => piece,
            };
            let unreadable =
                |what: &dyn std::fmt::Display| Failure::unproven(format_args!("{}: {what}", admin.url));
            let mut read = Vec::new();
            for event in events.push(&piece).map_err(|error| unreadable(&error))? {
                match (event.kind.as_deref(), event.id) {
                    (None, _) => {}
                    (Some("gap"), Some(id)) => {
                        terminal.warn(format_args!(
                            "events after {after} are missing: the KMS does not have them, and continues after {id}"
                        ));
                        *after = id;
                        continue;
                    }
                    (Some("waiting"), _) => {
                        terminal.warn(format_args!(
                            "the KMS does not have the events after {after} ready yet; they will follow"
                        ));
                        continue;
                    }
                    // Of a later version.
                    (Some(_), _) => continue,
                }
                let content = serde_json::from_str(&event.data).ok().and_then(Event::read);
                let content =
                    content.ok_or_else(|| unreadable(&"the stream has something that is no event"))?;
                if event.id != Some(content.seq) || content.seq <= *after {
                    return Err(unreadable(&"the stream has events in another order"));
                }
                // Their numbers have no gaps.
                if is_everything && content.seq > *after + 1 {
                    terminal.warn(format_args!(
                        "events {} to {} were not sent: the index of the KMS did not have them",
                        *after + 1,
                        content.seq - 1
                    ));
                }
                *after = content.seq;
                read.push(content);
            }
            if !read.is_empty() && print(terminal, &read)? == Output::Closed {
                return Ok(Ended::Unread);
            }
        }
    }
}

/// Prints events whose end is open: for machines a line of JSON each.
fn print(terminal: &Terminal, events: &[Event]) -> Outcome<Output> {
    let text = match terminal.audience() {
        Audience::People => terminal.page(|page| events.iter().for_each(|event| event.show(page))),
        Audience::Machines => events.iter().map(|event| format!("{}\n", event.content)).collect(),
    };
    terminal.append(&text)
}
