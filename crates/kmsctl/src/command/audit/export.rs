//! `kmsctl audit export`: events as lines of JSON, each with its entry in the log, so that it can be verified.

use std::io::{BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use kms_client::CallError;
use kms_client::operator::OperatorConnection;
use kms_ledger::bundle;
use kms_ledger::checkpoint::Checkpoint;
use kms_ledger::note::{MAX_NOTE, Note};
use kms_ledger::tile::{Content, FULL_WIDTH, Tile};
use kms_ledger::{Hash, Size};
use serde_json::{Map, Value, json};
use tempfile::tempfile;
use tokio::time::sleep;

use crate::event_log::{Event, MAX_PAGE, Period, Question, Selection};
use crate::exit::{Exit, Failure, Outcome};
use crate::files::{self, Existing, Readers};
use crate::output::{Output, Terminal};
use crate::target::{ADMIN_TIME, AdminService, Administered};

const AUDIT_LOGS: &str = "/api/v1/audit-logs";
/// Events in a page.
const PAGE: usize = 500;
/// How often a page is asked for until it comes, and how long is waited at first and at most.
const TRIES: u32 = 8;
const BACKOFF: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(10)];

const COMPLETE: &str = "\
It fails (exit code 1) rather than leave events out: while the KMS's index of events is behind or
built again, and if it no longer holds events that are asked for (core.events.keep).";

/// Arguments of `kmsctl audit export`.
#[derive(Args, Debug)]
#[command(after_help = COMPLETE)]
pub(crate) struct Export {
    #[command(flatten)]
    admin: Administered,
    #[command(flatten)]
    period: Period,
    #[command(flatten)]
    selection: Selection,
    /// File for the events [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Overwrite the file
    #[arg(long)]
    force: bool,
}

/// Pages as they came, the newest first, in a file without a name: memory does not grow with them.
struct Spool {
    file: BufWriter<std::fs::File>,
    /// Where each page ends.
    ends: Vec<u64>,
    events: u64,
    /// Those whose entries are not kept there any more.
    without_entry: u64,
}

/// What the pages so far say about the completeness of the export.
#[derive(Debug, Default)]
struct Coverage {
    /// The newest event of the index at the first page, which it must have at all later ones.
    newest: Option<u64>,
    /// The oldest event that was exported.
    lowest: Option<u64>,
    /// The oldest event of the index, at the last page.
    first: Option<u64>,
}

impl Coverage {
    /// Adds a page with these numbers, in ascending order; returns the pairs of neighbours that have others in between.
    fn add(&mut self, seqs: &[u64]) -> Vec<(u64, u64)> {
        let above = self.lowest.or(seqs.last().copied());
        let pairs = seqs.iter().copied().zip(seqs.iter().copied().skip(1).chain(above));
        let gaps = pairs.filter(|(seq, above)| seq.saturating_add(1) < *above).collect();
        self.lowest = seqs.first().copied().or(self.lowest);
        gaps
    }
}

impl Export {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let existing = if self.force { Existing::Replaced } else { Existing::Kept };
        if let Some(path) = &self.out {
            files::check_writable(path, existing)?;
        }
        let admin = self.admin.one()?;
        let progress = terminal.progress("exporting");
        let spool = self.spool(admin, terminal).await?;
        drop(progress);
        let (events, without_entry) = (spool.events, spool.without_entry);
        if without_entry > 0 {
            terminal.warn(format_args!(
                "{without_entry} events are without their entry: the KMS does not keep these records any more"
            ));
        }
        let Some(path) = &self.out else {
            spool.read(|piece| Ok(terminal.append_bytes(piece)? == Output::Open))?;
            return Ok(Exit::Done);
        };
        files::write_with(path, Readers::Owner, existing, |file| {
            spool.read(|piece| {
                let written = file.write_all(piece).map(|()| true);
                written.map_err(|error| Failure::file("cannot write", path, &error))
            })
        })?;
        let report =
            json!({ "file": path.display().to_string(), "events": events, "without_entry": without_entry });
        terminal
            .show(&report, |page| page.line(format_args!("{events} events are in {}.", path.display())))?;
        Ok(Exit::Done)
    }

    /// All pages. A page that does not come is asked for again, so that none is left out.
    async fn spool(&self, admin: AdminService<'_>, terminal: &Terminal) -> Outcome<Spool> {
        let question = Question { route: AUDIT_LOGS, selection: &self.selection, period: &self.period };
        let mut spool = Spool::new()?;
        let mut reader: Option<Entries> = None;
        let mut coverage = Coverage::default();
        let (mut cursor, mut failures) = (None, 0);
        loop {
            match next(&question, admin, terminal, &mut reader, cursor, &mut coverage).await {
                Ok((lines, next)) => {
                    self.check_gaps(admin, reader.as_ref(), &mut coverage, &lines).await?;
                    spool.push(&lines)?;
                    failures = 0;
                    let Some(next) = next else {
                        self.check_begin(admin, reader.as_ref(), &coverage, terminal).await?;
                        return Ok(spool);
                    };
                    cursor = Some(next);
                }
                // The first page says whether anything answers there.
                Err(failure) if failure.exit != Exit::Failed || cursor.is_none() || failures + 1 == TRIES => {
                    return Err(failure);
                }
                Err(failure) => {
                    reader = None;
                    let backoff = (BACKOFF[0] * 2_u32.pow(failures)).min(BACKOFF[1]);
                    failures += 1;
                    terminal.warn(format_args!(
                        "{}; trying again in {} s",
                        failure.message,
                        backoff.as_secs_f32()
                    ));
                    sleep(backoff).await;
                }
            }
        }
    }
}

impl Export {
    /// Whether nothing is missing between the events of a page and those after it. Events whose time is out of order
    /// may be outside the period.
    async fn check_gaps(
        &self,
        admin: AdminService<'_>,
        reader: Option<&Entries>,
        coverage: &mut Coverage,
        lines: &[Value],
    ) -> Outcome<()> {
        let seqs: Vec<u64> = lines.iter().filter_map(|line| line["seq"].as_u64()).collect();
        let gaps = coverage.add(&seqs);
        if !self.selection.is_everything() {
            return Ok(());
        }
        let all = Question { route: AUDIT_LOGS, selection: &self.selection, period: &Period::default() };
        for (below, above) in gaps {
            let missing = usize::try_from(above - below - 1).unwrap_or(usize::MAX);
            let found = match reader {
                Some(reader) if missing <= MAX_PAGE => {
                    let page =
                        all.complete_page(admin, &reader.connection, Some(above), missing, Some(0)).await?.0;
                    page.events.iter().filter(|event| event.seq > below).count()
                }
                _ => 0,
            };
            if found != missing {
                return Err(Failure::failed(format_args!(
                    "{}: events {} to {} are missing in its index: they are in the files of the audit log at most",
                    admin.url,
                    below + 1,
                    above - 1
                )));
            }
        }
        Ok(())
    }

    /// Whether the index holds the oldest events that are asked for.
    async fn check_begin(
        &self,
        admin: AdminService<'_>,
        reader: Option<&Entries>,
        coverage: &Coverage,
        terminal: &Terminal,
    ) -> Outcome<()> {
        let Some(first) = coverage.first else {
            terminal.warn("this KMS does not say which events its index holds: some may be missing");
            return Ok(());
        };
        if first <= 1 {
            return Ok(());
        }
        if let (Some(before), Some(reader)) = (self.period.before(), reader) {
            let any = Selection::default();
            let question = Question { route: AUDIT_LOGS, selection: &any, period: &before };
            let (page, _) = question.complete_page(admin, &reader.connection, None, 1, Some(0)).await?;
            if !page.events.is_empty() {
                return Ok(());
            }
        }
        let failure = Failure::failed(format_args!(
            "{}: its index begins with event {first}: older ones that were asked for are in the files of the audit log at \
             most (core.events.keep)",
            admin.url
        ));
        Err(failure.hint("give a later --since"))
    }
}

/// The lines of a page, and the cursor of the one before it.
async fn next(
    question: &Question<'_>,
    admin: AdminService<'_>,
    terminal: &Terminal,
    reader: &mut Option<Entries>,
    cursor: Option<u64>,
    coverage: &mut Coverage,
) -> Outcome<(Vec<Value>, Option<u64>)> {
    let entries = match reader {
        Some(entries) => entries,
        None => reader.insert(Entries::open(admin.connect(terminal).await?)),
    };
    let (page, behind) =
        question.complete_page(admin, &entries.connection, cursor, PAGE, coverage.newest).await?;
    if let Some(behind) = behind {
        return Err(Failure::failed(format_args!("{}: {behind}", admin.url)).hint("try again later"));
    }
    if let Some(reach) = page.reach {
        coverage.newest.get_or_insert(reach.last);
        coverage.first = coverage.first.max(Some(reach.first));
    }
    let mut lines = Vec::new();
    // The newest first, as pages are: the bundle of the last is that of the next.
    for event in page.events.into_iter().rev() {
        lines.push(entries.line(admin, event).await?);
    }
    lines.reverse();
    Ok((lines, page.next))
}

/// Entries of the log, a bundle at a time.
struct Entries {
    connection: OperatorConnection,
    /// The size of the tree, as its checkpoint says.
    size: Size,
    /// The bundle that was read last; `None` in it if it is not kept there any more.
    read: Option<(u64, Option<Vec<String>>)>,
}

impl Entries {
    fn open(connection: OperatorConnection) -> Self {
        Self { connection, size: Size::ZERO, read: None }
    }

    /// What is written of an event.
    async fn line(&mut self, admin: AdminService<'_>, event: Event) -> Outcome<Value> {
        let wrong =
            |what: &str| Failure::unproven(format_args!("{}: event {}: {what}", admin.url, event.seq));
        let leaf = event.content.pointer("/proof/leaf_index").and_then(Value::as_u64);
        let leaf = leaf.ok_or_else(|| wrong("it does not say which leaf it is"))?;
        let entry = self.entry(admin, leaf).await?;
        if let Some(entry) = &entry {
            let is_same = is_of(entry, &event);
            if !is_same {
                return Err(wrong(&format!("leaf {leaf} of the log is another record")));
            }
        }
        let Value::Object(mut line) = event.content else { return Err(wrong("it is no object")) };
        line.remove("proof");
        line.insert("leaf_index".to_owned(), leaf.into());
        let hash = entry.as_ref().map(|entry| Hash::leaf(entry.as_bytes()).to_base64());
        line.insert("leaf_hash".to_owned(), hash.into());
        line.insert("entry".to_owned(), entry.into());
        Ok(Value::Object(line))
    }

    /// The entry of a leaf; `None` if the KMS does not keep it any more.
    async fn entry(&mut self, admin: AdminService<'_>, leaf: u64) -> Outcome<Option<String>> {
        let width = u64::from(FULL_WIDTH);
        let (number, offset) = (leaf / width, leaf % width);
        let is_read = self.read.as_ref().is_some_and(|(known, _)| *known == number);
        if leaf >= self.size.get() {
            self.size = self.signed_size(admin).await?;
        }
        if !is_read || leaf >= self.size.get() {
            self.read = Some((number, self.bundle(admin, number).await?));
        }
        let Some((_, Some(entries))) = &self.read else { return Ok(None) };
        let entry = usize::try_from(offset).ok().and_then(|offset| entries.get(offset));
        let outside =
            || Failure::failed(format_args!("{}: leaf {leaf} is not in its signed tree yet", admin.url));
        entry.cloned().map(Some).ok_or_else(outside)
    }

    async fn signed_size(&self, admin: AdminService<'_>) -> Outcome<Size> {
        let note = admin.fetch_on(&self.connection, "/log/checkpoint", MAX_NOTE).await?.body;
        let checkpoint = Note::parse(&note).ok().and_then(|note| note.text().parse::<Checkpoint>().ok());
        let checkpoint = checkpoint
            .ok_or_else(|| Failure::unproven(format_args!("{}: its checkpoint is malformed", admin.url)))?;
        Ok(checkpoint.size)
    }

    async fn bundle(&self, admin: AdminService<'_>, number: u64) -> Outcome<Option<Vec<String>>> {
        let wrong = |what: &dyn std::fmt::Display| Failure::unproven(format_args!("{}: {what}", admin.url));
        let Some(tile) = Tile::at(Content::Entries, number, self.size) else {
            return Err(Failure::failed(format_args!(
                "{}: the event is not in its signed tree yet",
                admin.url
            )));
        };
        let max_bytes = usize::from(tile.width().get()) * (bundle::MAX_ENTRY + 2);
        let content = match self.connection.fetch(ADMIN_TIME, &format!("/log/{tile}"), max_bytes).await {
            Ok(document) => document.body,
            Err(CallError::Refused { status, .. }) if matches!(status.as_u16(), 404 | 410) => {
                return Ok(None);
            }
            Err(error) => return Err(admin.failure(error)?),
        };
        let entries = bundle::entries(&content, tile.width()).map_err(|error| wrong(&error))?;
        let text = |entry: &[u8]| String::from_utf8(entry.to_vec());
        let entries: Result<Vec<String>, _> = entries.into_iter().map(text).collect();
        entries.map(Some).map_err(|_| wrong(&format_args!("{tile} is no text")))
    }
}

/// Whether an entry is that of an event. Those of records from before the ledger have their number only.
fn is_of(entry: &str, event: &Event) -> bool {
    let Ok(mut entry) = serde_json::from_str::<Map<String, Value>>(entry) else { return false };
    if entry.get("seq").and_then(Value::as_u64) != Some(event.seq) {
        return false;
    }
    if entry.get("type").and_then(Value::as_str) == Some("legacy") {
        return true;
    }
    let is = |name: &str, member: &str| entry.get(name).and_then(Value::as_str) == Some(event.text(member));
    if !is("time", "received_at") || !is("event", "type") {
        return false;
    }
    for member in ["seq", "time", "event", "prev", "salt"] {
        entry.remove(member);
    }
    event.content.get("details") == Some(&Value::Object(entry))
}

impl Spool {
    fn new() -> Outcome<Self> {
        let file = tempfile().map_err(|error| failed(&error))?;
        Ok(Self { file: BufWriter::new(file), ends: Vec::new(), events: 0, without_entry: 0 })
    }

    fn push(&mut self, lines: &[Value]) -> Outcome<()> {
        let mut end = self.ends.last().copied().unwrap_or(0);
        for line in lines {
            let text = format!("{line}\n");
            self.file.write_all(text.as_bytes()).map_err(|error| failed(&error))?;
            end += text.len() as u64;
            self.events += 1;
            self.without_entry += u64::from(line["entry"].is_null());
        }
        if !lines.is_empty() {
            self.ends.push(end);
        }
        Ok(())
    }

    /// Gives all lines, the oldest first, until `take` has enough.
    fn read(self, mut take: impl FnMut(&[u8]) -> Outcome<bool>) -> Outcome<()> {
        let mut file = self.file.into_inner().map_err(|error| failed(error.error()))?;
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        let pages: Vec<(u64, u64)> = starts.zip(self.ends.iter().copied()).collect();
        let mut buffer = vec![0; 1 << 16];
        for (start, end) in pages.into_iter().rev() {
            file.seek(SeekFrom::Start(start)).map_err(|error| failed(&error))?;
            let mut page = (&mut file).take(end - start);
            loop {
                let length = page.read(&mut buffer).map_err(|error| failed(&error))?;
                if length == 0 {
                    break;
                }
                if !take(&buffer[..length])? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

fn failed(error: &std::io::Error) -> Failure {
    Failure::file("cannot use a temporary file in", Path::new(&std::env::temp_dir()), error)
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
