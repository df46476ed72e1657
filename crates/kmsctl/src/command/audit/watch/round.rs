//! One look at all logs.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use kms_client::ledger::leaves::Read;
use kms_client::ledger::watched::{MAX_VIEWS, View, Watched};
use kms_client::ledger::{LedgerError, RemoteLog, Tree};
use kms_client::log_keys::EarlierKey;
use kms_client::operator::OperatorUrl;
use kms_ledger::Index;
use kms_ledger::log::Log;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::super::source::{Elsewhere, Shown};
use super::alarm::{Alarm, Kind, keep_evidence};
use super::compare::compare;
use super::{Watch, write};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Page, Terminal, Tone, printable};
use crate::when;

/// How long the look at one URL may take, and how long its comparison with others.
pub(super) const LOOK_TIME: Duration = Duration::from_secs(120);
/// Leaves of one log that are verified in one look; the next one continues.
const MAX_LEAVES: u64 = 1 << 17;

/// What was found.
pub(super) struct Round {
    at: u64,
    looks: Vec<Look>,
    pub(super) alarms: Vec<Alarm>,
    usage: Option<Failure>,
}

/// What one URL has shown.
struct Look {
    url: String,
    origin: Option<String>,
    size: Option<u64>,
    standing: Standing,
    /// What was not verified although the log holds as far as it was.
    warnings: Vec<String>,
}

pub(super) enum Standing {
    /// It is known from now on.
    First,
    Same,
    /// By so many leaves.
    Grown(u64),
    Unreachable(String),
    Alarm,
}

/// A log that holds, compared with what this URL has shown before.
pub(super) struct Seen {
    pub(super) shown: Shown,
    pub(super) view: View,
    standing: Standing,
    warnings: Vec<String>,
    /// Whether it was accepted in place of another log at this URL.
    is_replacement: bool,
    /// The same log under the key that it had at the last look.
    renewed: Option<Log>,
}

/// Why there is no such log.
pub(super) enum Trouble {
    Unreachable(String),
    /// It cannot be looked at with these options: ends the command, unless there is an alarm.
    Usage(Failure),
    Alarm {
        kind: Kind,
        problem: String,
        notes: Option<[String; 2]>,
    },
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
    /// Both checkpoints are signed by the log: they are evidence.
    pub(super) fn between(error: LedgerError, kept: &str, shown: &str) -> Self {
        match Self::from(error) {
            Self::Alarm { kind, problem, .. } => {
                Self::Alarm { kind, problem, notes: Some([kept.to_owned(), shown.to_owned()]) }
            }
            other @ (Self::Unreachable(_) | Self::Usage(_)) => other,
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
        let mut round = Self { at: when::now(), looks: Vec::new(), alarms: Vec::new(), usage: None };
        let known = watched.clone();
        let mut seen = round.see(watch, watched, state, terminal).await;
        let compared = compare(&seen, &known).await;
        for (place, compared) in compared {
            match compared {
                Ok(warning) => seen[place].warnings.extend(warning),
                Err(trouble) => {
                    let View { url, log, .. } = &seen[place].view;
                    // Under the key before it is kept as it was.
                    watched.restore(url, log, known.view(url, log));
                    round.note(url.clone(), trouble, state, terminal);
                }
            }
        }
        let is_good = |found: &Seen| round.looks.iter().all(|look| look.url != found.view.url);
        let good: Vec<Seen> = seen.into_iter().filter(is_good).collect();
        for found in good {
            let View { url, log, .. } = &found.view;
            if found.is_replacement {
                let others = watched.views.iter_mut().filter(|view| view.url == *url && view.log != *log);
                others.for_each(|view| view.is_replaced = true);
            }
            if let Some(before) = &found.renewed {
                let is_before = |view: &&mut View| view.url == *url && view.log == *before;
                watched.views.iter_mut().filter(is_before).for_each(|view| {
                    view.is_replaced = true;
                    view.is_ended = true;
                });
            }
            for warning in &found.warnings {
                terminal.warn(format_args!("{url}: {warning}"));
            }
            round.looks.push(Look {
                url: url.clone(),
                origin: Some(log.origin().to_string()),
                size: Some(found.view.checkpoint.size.get()),
                standing: found.standing,
                warnings: found.warnings,
            });
        }
        round.note_silence(watch, watched, terminal);
        match round.usage.take() {
            Some(failure) if round.alarms.is_empty() => return Err(failure),
            Some(_) | None => {}
        }
        let place = |look: &Look| watch.urls.iter().position(|url| url.to_string() == look.url);
        round.looks.sort_by_key(place);
        Ok(round)
    }

    /// Looks at all URLs at once, so that none delays another, and keeps what holds as it comes.
    async fn see(
        &mut self,
        watch: &Watch,
        watched: &mut Watched,
        state: &Path,
        terminal: &Terminal,
    ) -> Vec<Seen> {
        let known = watched.clone();
        let (known, at) = (&known, self.at);
        let is_first = |(place, url): &(usize, &OperatorUrl)| {
            watch.urls.iter().take(*place).all(|before| before.to_string() != url.to_string())
        };
        let mut looks: FuturesUnordered<_> = watch
            .urls
            .iter()
            .enumerate()
            .filter(is_first)
            .map(async |(_, url)| (url, in_time(LOOK_TIME, watch.look_at(url, known, at, terminal)).await))
            .collect();
        let mut seen = Vec::new();
        while let Some((url, found)) = looks.next().await {
            let is_full = watched.views.len() >= MAX_VIEWS;
            let found = found.and_then(|found| {
                if is_full && watched.view(&found.view.url, &found.view.log).is_none() {
                    return Err(Trouble::Unreachable(format!(
                        "the state has {MAX_VIEWS} logs already; watch further ones with another --state"
                    )));
                }
                Ok(found)
            });
            match found {
                Ok(found) => {
                    watched.keep(found.view.clone());
                    // Others may take long. If it cannot be written, that is said at the end of the round.
                    let _ = write(state, watched);
                    seen.push(found);
                }
                Err(trouble) => self.note(url.to_string(), trouble, state, terminal),
            }
        }
        seen
    }

    fn note(&mut self, url: String, trouble: Trouble, state: &Path, terminal: &Terminal) {
        let standing = match trouble {
            Trouble::Unreachable(reason) => Standing::Unreachable(reason),
            Trouble::Usage(failure) => {
                let reason = failure.message.clone();
                self.usage.get_or_insert(failure);
                Standing::Unreachable(reason)
            }
            Trouble::Alarm { kind, problem, notes } => {
                let evidence = match &notes {
                    Some([kept, shown]) => keep_evidence(state, kind, kept, shown),
                    None => Ok(Vec::new()),
                };
                let evidence = evidence.unwrap_or_else(|failure| {
                    terminal.warn(failure.message);
                    Vec::new()
                });
                self.alarm(
                    Alarm { kind, url: url.clone(), problem, since: when::at(self.at), evidence },
                    terminal,
                );
                Standing::Alarm
            }
        };
        self.looks.push(Look { url, origin: None, size: None, standing, warnings: Vec::new() });
    }

    /// Prints an alarm before anything else can fail, and keeps it.
    fn alarm(&mut self, alarm: Alarm, terminal: &Terminal) {
        terminal.alarm(alarm.text());
        self.alarms.push(alarm);
    }

    /// Logs that are not shown any more, or do not grow.
    fn note_silence(&mut self, watch: &Watch, watched: &Watched, terminal: &Terminal) {
        let urls: Vec<String> = watch.urls.iter().map(ToString::to_string).collect();
        let at = self.at;
        let since = |time: u64| at.saturating_sub(time);
        let is_awaited = |view: &&View| !view.is_replaced && urls.contains(&view.url);
        for view in watched.views.iter().filter(is_awaited) {
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
            let (url, since) = (view.url.clone(), when::at(at));
            self.alarm(Alarm { kind, url, problem, since, evidence: Vec::new() }, terminal);
        }
    }

    pub(super) fn exit(&self) -> Exit {
        let is_open =
            |look: &Look| matches!(look.standing, Standing::Unreachable(_)) || !look.warnings.is_empty();
        match (self.alarms.is_empty(), self.looks.iter().any(is_open)) {
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
                "warnings": look.warnings,
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

    /// Shows what has changed since the last look, and the alarms of earlier ones.
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

/// What `look` gives, unless it takes too long.
pub(super) async fn in_time<T>(
    limit: Duration,
    look: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    timeout(limit, look).await.unwrap_or_else(|_| {
        Err(Trouble::Unreachable(format!("it did not show its log within {} seconds", limit.as_secs())))
    })
}

impl Watch {
    /// What `url` shows, compared with what it has shown before.
    async fn look_at(
        &self,
        url: &OperatorUrl,
        watched: &Watched,
        now: u64,
        terminal: &Terminal,
    ) -> Result<Seen, Trouble> {
        let name = url.to_string();
        let known: Vec<&View> = watched.views.iter().filter(|view| view.url == name).collect();
        // Only a log that is known by now needs no known server.
        let elsewhere = if known.is_empty() { Elsewhere::FirstLook } else { Elsewhere::Signature };
        let mut shown = self.source.open(url, &self.log_keys, elsewhere).await?;
        let mut before = watched.view(&name, &shown.log).cloned();
        let earlier = under_earlier_key(&shown, &known);
        // Also where it is known already: the look before may have ended early.
        let renewed = earlier.map(|view| view.log.clone());
        if before.is_none()
            && let Some(view) = earlier
        {
            shown.root_key = shown.signer;
            before = Some(View { root_key: shown.signer, ..view.clone() });
        }
        let before = before.as_ref();
        if before.is_some_and(|before| before.root_key.is_some() && before.root_key == shown.signer) {
            // Known from then on, whatever this server is.
            shown.root_key = shown.signer;
        }
        if let (Some(kept), Some(signer)) = (before.and_then(|before| before.root_key), shown.signer)
            && kept != signer
        {
            let problem = format!("the key of its log is signed by the root key {signer}, and was by {kept}");
            return Err(Trouble::Alarm { kind: Kind::Key, problem, notes: None });
        }
        let is_replacement = !known.is_empty() && before.is_none();
        if is_replacement {
            let is_signed = known.iter().any(|view| view.root_key.is_some() && view.root_key == shown.signer);
            let is_vouched = is_signed || self.log_keys.iter().any(|key| key.log == shown.log);
            if !(self.accept_new && is_vouched) {
                let before = known.iter().map(|view| view.log_key.clone()).collect::<Vec<_>>().join(", ");
                let advice = if is_vouched { " If that is meant: --accept-new" } else { "" };
                let problem = format!("it shows the log {}, and showed {before}.{advice}", shown.log_key);
                return Err(Trouble::Alarm { kind: Kind::Key, problem, notes: None });
            }
            if is_signed {
                shown.root_key = shown.signer;
            }
        }
        let entries = match self.entries {
            true => Some(RemoteLog::new(self.admin.service(self.source.server()).connect(terminal).await?)),
            false => None,
        };
        let seen = self.verify(shown, before, &name, entries.as_ref(), now).await?;
        if let Some(ended) = before.filter(|before| before.is_ended) {
            let problem = format!(
                "its log is signed with the key {} again, which another one had followed: a KMS does not go back, so somebody else has \
                 the old key, or an old copy of the key directory runs",
                ended.log_key
            );
            let after = known.iter().find(|view| !view.is_ended && view.log.origin() == ended.log.origin());
            let notes = after.map(|after| [after.note.clone(), seen.view.note.clone()]);
            return Err(Trouble::Alarm { kind: Kind::Key, problem, notes });
        }
        Ok(Seen { is_replacement, renewed, ..seen })
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
        let own_note = shown.log.own_note(&note).unwrap_or_default();
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
        let tree = Tree::open(&shown.files, checkpoint).await.map_err(between)?;
        let old = before.map_or(0, |before| before.checkpoint.size.get());
        if let Some(before) = before {
            tree.check_beginning(&before.checkpoint).await.map_err(between)?;
        }
        let new = checkpoint.size.get();
        let checked = before.map_or(0, |before| before.checked);
        let read = match new > checked {
            true => tree.check_leaves(checked, MAX_LEAVES, entries, &mut |_| ()).await.map_err(between)?,
            false => Read { end: checked, ..Read::default() },
        };
        for _ in 0..self.spot_checks {
            // Every new one has a key of its own.
            let random = RandomState::new().build_hasher().finish();
            let Some(index) = random.checked_rem(checked).and_then(|index| Index::try_from(index).ok())
            else {
                break;
            };
            tree.leaf(index).await.map_err(between)?;
        }
        let mut warnings = Vec::new();
        if read.end < new {
            warnings.push(format!("{} leaves are not verified yet; the next look continues", new - read.end));
        }
        if read.elsewhere > 0 {
            warnings.push(format!(
                "the records of {} leaves are not served: only their hashes were read",
                read.elsewhere
            ));
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
            // Once verified it stays: any server may show another one beside the same log.
            root_key: before.and_then(|before| before.root_key).or(shown.root_key),
            checkpoint: checkpoint.clone(),
            note: own_note,
            checked: read.end,
            is_replaced: false,
            is_ended: false,
            seen_at: now,
            grown_at,
        };
        drop(tree);
        Ok(Seen { shown, view, standing, warnings, is_replacement: false, renewed: None })
    }
}

/// What was kept of the log under a key that it had before: each change since then is vouched for, from the root key that
/// was kept, or to one that is known.
fn under_earlier_key<'a>(shown: &Shown, known: &[&'a View]) -> Option<&'a View> {
    let kept = |earlier: &EarlierKey| {
        let is_vouched = |view: &View| match view.root_key {
            Some(kept) => kept == earlier.root_key,
            None => shown.root_key.is_some(),
        };
        known.iter().copied().find(|view| view.log == earlier.log && is_vouched(view))
    };
    shown.claimed.iter().find_map(kept)
}

/// A server that does not answer is looked at again later; one that is another is an alarm.
impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        match failure.exit {
            Exit::Usage => Self::Usage(failure),
            Exit::Unproven => Self::Alarm { kind: Kind::Key, problem: failure.message, notes: None },
            Exit::Done | Exit::Failed | Exit::Refused => Self::Unreachable(failure.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_url_that_never_ends_to_answer_is_unreachable() {
        let found = in_time(Duration::from_millis(1), std::future::pending::<Result<(), Trouble>>()).await;
        assert!(matches!(found, Err(Trouble::Unreachable(reason)) if reason.contains("within")));
        assert!(in_time(LOOK_TIME, async { Ok(()) }).await.is_ok());
    }
}
