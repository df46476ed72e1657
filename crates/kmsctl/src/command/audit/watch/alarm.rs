//! What a person must look at, and its evidence.

use std::path::Path;

use kms_client::ledger::LedgerError;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::beside;
use crate::exit::Outcome;
use crate::files::{self, Existing, Readers};
use crate::output::printable;

/// Files of evidence beside one state file: a log that forks again and again does not fill the disk.
const MAX_EVIDENCE: usize = 64;

/// The most files of notes that do not contradict each other: every look can bring new ones.
const MAX_WEAK_EVIDENCE: usize = 32;

/// What is wrong with a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Two signed checkpoints contradict each other.
    Fork,
    /// There are fewer leaves than before.
    Shrunk,
    /// A tile or an entry is not that of the signed tree.
    Altered,
    /// A checkpoint is not signed by the log.
    Signature,
    /// Another log, or another server, than the one that is known.
    Key,
    /// It was not shown for too long.
    Stopped,
    /// It did not grow for too long.
    Quiet,
}

/// An alarm about a log.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Alarm {
    pub(super) kind: Kind,
    pub(super) url: String,
    pub(super) problem: String,
    /// When it was found first.
    pub(super) since: String,
    /// Files with what proves it.
    pub(super) evidence: Vec<String>,
}

impl Alarm {
    /// A line for people.
    pub(super) fn text(&self) -> String {
        let evidence = match &self.evidence[..] {
            [] => String::new(),
            files => format!(" (evidence: {})", files.join(", ")),
        };
        format!("{}: {}{evidence}", self.url, printable(&self.problem))
    }

    /// Adds it to those of earlier looks: one of each kind for a URL, with its last problem and when it was found first.
    pub(super) fn remember(self, alarms: &mut Vec<Self>) {
        match alarms.iter_mut().find(|known| known.kind == self.kind && known.url == self.url) {
            Some(known) => {
                known.problem = self.problem;
                if !self.evidence.is_empty() {
                    known.evidence = self.evidence;
                }
            }
            None => alarms.push(self),
        }
    }
}

impl Kind {
    /// `None` for a server that does not answer.
    pub(super) fn of(error: &LedgerError) -> Option<Self> {
        Some(match error {
            LedgerError::Call(_) => return None,
            LedgerError::Forked(_) => Self::Fork,
            LedgerError::Shrunk { .. } => Self::Shrunk,
            LedgerError::Missing(_)
            | LedgerError::Length(_)
            | LedgerError::Tiles(_)
            | LedgerError::Altered(_)
            | LedgerError::Entries { .. }
            | LedgerError::Chain(_)
            | LedgerError::OtherRecord(_)
            | LedgerError::Outside { .. } => Self::Altered,
        })
    }
}

/// Keeps two signed notes of one log beside the state file, and gives the names of the files.
pub(super) fn keep_evidence(state: &Path, kind: Kind, kept: &str, shown: &str) -> Outcome<Vec<String>> {
    let most = match kind {
        Kind::Fork | Kind::Shrunk => MAX_EVIDENCE,
        Kind::Altered | Kind::Signature | Kind::Key | Kind::Stopped | Kind::Quiet => MAX_WEAK_EVIDENCE,
    };
    let digest = Sha256::new().chain_update(kept).chain_update(shown).finalize();
    let name = hex::encode(&digest[..8]);
    let mut names = Vec::new();
    for (note, role) in [(kept, "kept"), (shown, "shown")] {
        let path = beside(state, &format!(".{name}-{role}"));
        if !path.exists() {
            if count(state) >= most {
                return Ok(names);
            }
            files::write(&path, note.as_bytes(), Readers::Everyone, Existing::Replaced)?;
        }
        names.push(path.display().to_string());
    }
    Ok(names)
}

/// How many files of evidence are beside the state file.
fn count(state: &Path) -> usize {
    let directory = state.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    let Ok(files) = std::fs::read_dir(directory) else { return 0 };
    files
        .flatten()
        .filter(|file| {
            let name = file.file_name();
            let name = name.to_string_lossy();
            name.ends_with("-kept") || name.ends_with("-shown")
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alarm_of_each_kind_is_remembered_for_a_url() {
        let alarm = |kind, url: &str, problem: &str, since: &str, evidence: &[&str]| Alarm {
            kind,
            url: url.to_owned(),
            problem: problem.to_owned(),
            since: since.to_owned(),
            evidence: evidence.iter().map(ToString::to_string).collect(),
        };
        let mut alarms = Vec::new();
        alarm(Kind::Fork, "a", "at 5", "1", &["x"]).remember(&mut alarms);
        for at in 0..1000 {
            alarm(Kind::Altered, "a", &format!("at {at}"), &at.to_string(), &[]).remember(&mut alarms);
        }
        alarm(Kind::Fork, "a", "at 6", "2", &[]).remember(&mut alarms);
        alarm(Kind::Fork, "b", "at 7", "3", &[]).remember(&mut alarms);
        let found: Vec<_> = alarms
            .iter()
            .map(|alarm| (alarm.problem.as_str(), alarm.since.as_str(), alarm.evidence.len()))
            .collect();
        assert_eq!(found, [("at 6", "1", 1), ("at 999", "0", 0), ("at 7", "3", 0)]);
    }
}
