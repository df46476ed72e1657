//! One look at all logs.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::Path;

use kms_client::ledger::watched::{MAX_VIEWS, View, Watched};
use kms_client::ledger::{LedgerError, RemoteLog, Tree};
use kms_client::operator::OperatorUrl;
use kms_ledger::Index;
use serde_json::{Value, json};

use super::super::source::{Elsewhere, Shown};
use super::Watch;
use super::alarm::{Alarm, Kind, keep_evidence};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Page, Terminal, Tone, printable};
use crate::when;

/// What was found.
pub(super) struct Round {
    at: u64,
    looks: Vec<Look>,
    pub(super) alarms: Vec<Alarm>,
}

/// What one URL has shown.
struct Look {
    url: String,
    origin: Option<String>,
    size: Option<u64>,
    standing: Standing,
}

enum Standing {
    /// It is known from now on.
    First,
    Same,
    /// By so many leaves.
    Grown(u64),
    Unreachable(String),
    Alarm,
}

/// A log that holds, compared with what this URL has shown before.
struct Seen {
    shown: Shown,
    view: View,
    standing: Standing,
}

/// Why there is no such log.
enum Trouble {
    Unreachable(String),
    Alarm { kind: Kind, problem: String, notes: Option<[String; 2]> },
}

impl From<LedgerError> for Trouble {
    fn from(error: LedgerError) -> Self {
        match Kind::of(&error) {
            None => Self::Unreachable(error.to_string()),
            Some(kind) => Self::Alarm { kind, problem: error.to_string(), notes: None },
        }
    }
}

impl Trouble {
    /// Two signed checkpoints contradict each other: both are evidence.
    fn between(error: LedgerError, kept: &str, shown: &str) -> Self {
        match Self::from(error) {
            Self::Alarm { kind: kind @ (Kind::Fork | Kind::Shrunk), problem, .. } => {
                Self::Alarm { kind, problem, notes: Some([kept.to_owned(), shown.to_owned()]) }
            }
            other => other,
        }
    }
}

impl Round {
    /// Looks at each URL, keeps what holds, and compares the URLs of each log.
    pub(super) async fn look(
        watch: &Watch,
        watched: &mut Watched,
        state: &Path,
        terminal: &Terminal,
    ) -> Outcome<Self> {
        let at = when::now();
        let mut round = Self { at, looks: Vec::new(), alarms: Vec::new() };
        let mut seen = Vec::new();
        for url in &watch.urls {
            match watch.look_at(url, watched, at, terminal).await? {
                Ok(found) => seen.push(found),
                Err(trouble) => round.note(url.to_string(), trouble, state)?,
            }
        }
        // The largest tree of each log shows whether the others are its beginning.
        let mut contradicted = Vec::new();
        for largest in &seen {
            let (log, size) = (&largest.view.log, largest.view.checkpoint.size);
            let is_largest =
                seen.iter().all(|other| other.view.log != *log || other.view.checkpoint.size <= size);
            let others = seen.iter().map(|other| &other.view).chain(&watched.views);
            let others: Vec<&View> = others
                .filter(|other| {
                    other.log == *log && other.url != largest.view.url && other.checkpoint.size <= size
                })
                .collect();
            if !is_largest || others.is_empty() {
                continue;
            }
            if let Err(trouble) = compare(largest, &others).await {
                contradicted.push(largest.view.url.clone());
                round.note(largest.view.url.clone(), trouble, state)?;
            }
        }
        for found in seen.into_iter().filter(|found| !contradicted.contains(&found.view.url)) {
            round.looks.push(Look {
                url: found.view.url.clone(),
                origin: Some(found.view.log.origin().to_string()),
                size: Some(found.view.checkpoint.size.get()),
                standing: found.standing,
            });
            watched.keep(found.view);
        }
        round.note_silence(watch, watched);
        Ok(round)
    }

    fn note(&mut self, url: String, trouble: Trouble, state: &Path) -> Outcome<()> {
        let standing = match trouble {
            Trouble::Unreachable(reason) => Standing::Unreachable(reason),
            Trouble::Alarm { kind, problem, notes } => {
                let evidence = match &notes {
                    Some([kept, shown]) => keep_evidence(state, kept, shown)?,
                    None => Vec::new(),
                };
                self.alarms.push(Alarm {
                    kind,
                    url: url.clone(),
                    problem,
                    since: when::at(self.at),
                    evidence,
                });
                Standing::Alarm
            }
        };
        self.looks.push(Look { url, origin: None, size: None, standing });
        Ok(())
    }

    /// Logs that are not shown any more, or do not grow.
    fn note_silence(&mut self, watch: &Watch, watched: &Watched) {
        let urls: Vec<String> = watch.urls.iter().map(ToString::to_string).collect();
        let since = |time: u64| self.at.saturating_sub(time);
        let mut alarms = Vec::new();
        for view in watched.views.iter().filter(|view| urls.contains(&view.url)) {
            let origin = view.log.origin();
            let (kind, problem) = if since(view.seen_at) > watch.stopped_after.as_secs() {
                let seen = when::at(view.seen_at);
                (Kind::Stopped, format!("the log {origin} was shown last at {seen}"))
            } else if watch.grows_within.is_some_and(|within| since(view.grown_at) > within.as_secs()) {
                let grown = when::at(view.grown_at);
                (Kind::Quiet, format!("the log {origin} has not grown since {grown}"))
            } else {
                continue;
            };
            let (url, since) = (view.url.clone(), when::at(self.at));
            alarms.push(Alarm { kind, url, problem, since, evidence: Vec::new() });
        }
        self.alarms.extend(alarms);
    }

    pub(super) fn exit(&self) -> Exit {
        let is_unreachable = |look: &Look| matches!(look.standing, Standing::Unreachable(_));
        match (self.alarms.is_empty(), self.looks.iter().any(is_unreachable)) {
            (false, _) => Exit::Unproven,
            (true, true) => Exit::Failed,
            (true, false) => Exit::Done,
        }
    }

    /// With `alarms` of this look and of earlier ones.
    pub(super) fn report(&self, alarms: &[Alarm]) -> Value {
        let look = |look: &Look| {
            let (standing, grown, reason) = match &look.standing {
                Standing::First => ("first", None, None),
                Standing::Same => ("same", None, None),
                Standing::Grown(leaves) => ("grown", Some(*leaves), None),
                Standing::Unreachable(reason) => ("unreachable", None, Some(reason)),
                Standing::Alarm => ("alarm", None, None),
            };
            json!({
                "url": look.url,
                "origin": look.origin,
                "size": look.size,
                "standing": standing,
                "grown": grown,
                "error": reason,
            })
        };
        json!({
            "checked_at": when::at(self.at),
            "logs": self.looks.iter().map(look).collect::<Vec<_>>(),
            "alarms": alarms,
        })
    }

    pub(super) fn show(&self, page: &mut Page) {
        self.looks.iter().for_each(|look| look.show(page, self.at));
    }

    /// What is not as it was at the last look, and what was wrong at an earlier one.
    pub(super) fn show_changes(&self, page: &mut Page, alarms: &[Alarm]) {
        let is_news = |look: &&Look| !matches!(look.standing, Standing::Same);
        self.looks.iter().filter(is_news).for_each(|look| look.show(page, self.at));
        for alarm in alarms {
            let word = page.toned(Tone::Bad, "ALARM");
            page.line(format_args!("{} {word} since {}: {}", when::at(self.at), alarm.since, alarm.text()));
        }
    }
}

impl Look {
    fn show(&self, page: &mut Page, at: u64) {
        let leaves = |what: &str| {
            let size = self.size.unwrap_or_default();
            format!("{}: {size} leaves, {what}", printable(self.origin.as_deref().unwrap_or_default()))
        };
        let text = match &self.standing {
            Standing::First => leaves("seen for the first time"),
            Standing::Same => leaves("as before"),
            Standing::Grown(by) => leaves(&format!("{by} more than before, the same beginning")),
            Standing::Unreachable(reason) => {
                page.toned(Tone::Doubtful, &format!("not looked at: {}", printable(reason)))
            }
            Standing::Alarm => page.toned(Tone::Bad, "ALARM"),
        };
        page.line(format_args!("{} {} {text}", when::at(at), self.url));
    }
}

/// That each of `others` is the beginning of the largest tree.
async fn compare(largest: &Seen, others: &[&View]) -> Result<(), Trouble> {
    let tree = Tree::open(&largest.shown.files, &largest.view.checkpoint).await?;
    for other in others {
        tree.check_beginning(&other.checkpoint)
            .await
            .map_err(|error| Trouble::between(error, &other.note, &largest.view.note))?;
    }
    Ok(())
}

impl Watch {
    /// What `url` shows, compared with what it has shown before. Wrong usage ends the command.
    async fn look_at(
        &self,
        url: &OperatorUrl,
        watched: &Watched,
        now: u64,
        terminal: &Terminal,
    ) -> Outcome<Result<Seen, Trouble>> {
        let name = url.to_string();
        let known: Vec<&View> = watched.views.iter().filter(|view| view.url == name).collect();
        // Only a log that is known by now needs no known server.
        let elsewhere = if known.is_empty() { Elsewhere::Nothing } else { Elsewhere::Signature };
        let shown = match self.source.open(url, &self.log_keys, elsewhere).await {
            Ok(shown) => shown,
            Err(failure) => return trouble_of(failure).map(Err),
        };
        let is_new = !known.is_empty() && known.iter().all(|view| view.log != shown.log);
        let is_vouched = known.iter().any(|view| view.root_key.is_some() && view.root_key == shown.root_key);
        if is_new && !(self.accept_new && is_vouched) {
            let before = known.iter().map(|view| view.log_key.clone()).collect::<Vec<_>>().join(", ");
            let advice = if is_vouched { " If that is meant: --accept-new" } else { "" };
            let problem = format!("it shows the log {}, and showed {before}.{advice}", shown.log_key);
            return Ok(Err(Trouble::Alarm { kind: Kind::Key, problem, notes: None }));
        }
        let entries = match self.entries {
            true => match self.admin.service(self.source.server()).connect(terminal).await {
                Ok(connection) => Some(RemoteLog::new(connection)),
                Err(failure) => return trouble_of(failure).map(Err),
            },
            false => None,
        };
        let before = watched.view(&name, &shown.log);
        if before.is_none() && watched.views.len() >= MAX_VIEWS {
            return Err(Failure::usage(format_args!(
                "the state has {MAX_VIEWS} logs already; watch further ones with another --state"
            )));
        }
        Ok(self.verify(shown, before, &name, entries.as_ref(), now).await)
    }

    async fn verify(
        &self,
        shown: Shown,
        before: Option<&View>,
        url: &str,
        entries: Option<&RemoteLog>,
        now: u64,
    ) -> Result<Seen, Trouble> {
        let note = shown.files.checkpoint().await;
        let note = note.map_err(|error| Trouble::Unreachable(format!("it shows no checkpoint: {error}")))?;
        let signed = shown.log.open(&note, &[]).map_err(|error| Trouble::Alarm {
            kind: Kind::Signature,
            problem: format!("its checkpoint: {error}"),
            notes: None,
        })?;
        let checkpoint = signed.checkpoint();
        let note = String::from_utf8_lossy(&note).into_owned();
        let between = |error| match before {
            Some(before) => Trouble::between(error, &before.note, &note),
            None => error.into(),
        };
        // Before any tile is read: a log that shrank may not serve those that it had.
        if let Some(before) = before
            && before.checkpoint.size > checkpoint.size
        {
            let (old, new) = (before.checkpoint.size, checkpoint.size);
            return Err(between(LedgerError::Shrunk { old, new }));
        }
        let tree = Tree::open(&shown.files, checkpoint).await?;
        let old = before.map_or(0, |before| before.checkpoint.size.get());
        if let Some(before) = before {
            tree.check_beginning(&before.checkpoint).await.map_err(between)?;
        }
        let new = checkpoint.size.get();
        if new > old {
            tree.check_leaves(old, entries, &mut |_| ()).await?;
        }
        for _ in 0..self.spot_checks {
            // Every new one has a key of its own.
            let random = RandomState::new().build_hasher().finish();
            let Some(index) = random.checked_rem(old).and_then(|index| Index::try_from(index).ok()) else {
                break;
            };
            tree.leaf(index).await?;
        }
        let standing = match before {
            None => Standing::First,
            Some(_) if new == old => Standing::Same,
            Some(_) => Standing::Grown(new - old),
        };
        let grown_at = before.filter(|_| new == old).map_or(now, |before| before.grown_at);
        let view = View {
            url: url.to_owned(),
            log: shown.log.clone(),
            log_key: shown.log_key.clone(),
            root_key: shown.root_key,
            checkpoint: checkpoint.clone(),
            note,
            seen_at: now,
            grown_at,
        };
        drop(tree);
        Ok(Seen { shown, view, standing })
    }
}

/// A server that does not answer is looked at again later; one that is another is an alarm; wrong usage ends the command.
fn trouble_of(failure: Failure) -> Outcome<Trouble> {
    match failure.exit {
        Exit::Usage => Err(failure),
        Exit::Unproven => Ok(Trouble::Alarm { kind: Kind::Key, problem: failure.message, notes: None }),
        Exit::Done | Exit::Failed | Exit::Refused => Ok(Trouble::Unreachable(failure.message)),
    }
}
