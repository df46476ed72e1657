//! The state that survives a restart: the progress of each target, and the conditions it was told of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use kms_attest::state_file;
use serde::{Deserialize, Serialize};

use super::target::{Place, Target};
use crate::event_type::Condition;

/// The largest file that this program writes.
const MAX_FILE: u64 = 64 << 10;

/// The file and its content.
#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
    kept: Kept,
    /// Whether the last attempt to write it failed.
    is_unsaved: bool,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// By name.
    targets: BTreeMap<String, KeptPlace>,
    conditions: BTreeSet<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeptPlace {
    after: u64,
    lost: u64,
}

impl Memory {
    /// Reads the file. If it is unusable, targets start with future events.
    pub(super) fn read(path: PathBuf) -> Self {
        let kept = match state_file::read(&path, MAX_FILE) {
            Ok(None) => Kept::default(),
            Ok(Some(content)) => kms_attest::json::from_utf8(&content).unwrap_or_else(|_| {
                tracing::warn!("the file that keeps what was notified is malformed: it is begun again");
                Kept::default()
            }),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "the file that keeps what was notified cannot be read");
                Kept::default()
            }
        };
        Self { path, kept, is_unsaved: false }
    }

    /// The saved progress of a target.
    pub(super) fn of(&self, name: &str) -> Option<Place> {
        self.kept.targets.get(name).map(|kept| Place { after: kept.after, lost: kept.lost })
    }

    /// The conditions that were reported.
    pub(super) fn raised(&self) -> Vec<Condition> {
        self.kept.conditions.iter().filter_map(|name| Condition::parse(name)).collect()
    }

    /// Writes the file if it would change.
    pub(super) fn save<'a>(
        &mut self,
        targets: impl IntoIterator<Item = &'a Target>,
        conditions: &BTreeSet<Condition>,
    ) {
        let place = |target: &Target| {
            let Place { after, lost } = target.place();
            (target.name().to_owned(), KeptPlace { after, lost })
        };
        let kept = Kept {
            targets: targets.into_iter().map(place).collect(),
            conditions: conditions.iter().map(|condition| condition.name().to_owned()).collect(),
        };
        if kept == self.kept {
            return;
        }
        let content = serde_json::to_vec(&kept).expect("texts and numbers are JSON");
        match state_file::replace(&self.path, &content) {
            Ok(()) => (self.kept, self.is_unsaved) = (kept, false),
            Err(_) if self.is_unsaved => {}
            Err(error) => {
                tracing::warn!(%error, "what was notified cannot be kept: after a restart it may be told again");
                self.is_unsaved = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::NotifyFilter;
    use crate::event_type::Severity;
    use crate::metrics::Metrics;

    fn target(name: &str, known: Option<Place>) -> Target {
        let filter = NotifyFilter { min_severity: Severity::Info, types: None };
        Target::new(name, filter, known, 1000, Arc::new(Metrics::new([])))
    }

    #[test]
    fn what_is_kept_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notified.json");
        let mut memory = Memory::read(path.clone());
        assert_eq!((memory.of("pager"), memory.raised()), (None, vec![]));
        let place = Place { after: 17, lost: 3 };
        memory.save([&target("pager", Some(place))], &[Condition::DenialStorm].into());
        let again = Memory::read(path);
        assert_eq!((again.of("pager"), again.of("other")), (Some(place), None));
        assert_eq!(again.raised(), [Condition::DenialStorm]);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_begun_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notified.json");
        for content in
            [&b""[..], b"{", b"\xff", b"[]", br#"{"targets":{"x":{"after":-1,"lost":0}},"conditions":[]}"#]
        {
            std::fs::write(&path, content).unwrap();
            assert_eq!(Memory::read(path.clone()).kept, Kept::default(), "{content:?}");
        }
        std::fs::write(&path, r#"{"targets":{},"conditions":["of_later","clock"]}"#).unwrap();
        assert_eq!(Memory::read(path.clone()).raised(), [Condition::Clock]);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let mut memory = Memory::read(path.clone());
        memory.save([&target("x", None)], &BTreeSet::new());
        assert!(memory.is_unsaved);
        std::fs::remove_dir(&path).unwrap();
        memory.save([&target("x", None)], &BTreeSet::new());
        assert!(!memory.is_unsaved && path.is_file());
    }
}
