//! Reads the configuration files again: settings that can change at run time are put in force, and the others are named.

use std::collections::{BTreeMap, BTreeSet};

use super::{SettingsService, laid_over};
use crate::config::{Config, Effective, Hot, HotKey};
use crate::error::{Error, Result};

/// What reading the files again has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// Settings that are in force now.
    pub changed: Vec<String>,
    /// Settings that need a restart.
    pub restart_required: Vec<String>,
    /// Whether there are files.
    pub has_files: bool,
}

impl SettingsService {
    /// Reads the files again, all of them or none.
    ///
    /// # Errors
    /// `invalid_configuration`, with everything that is wrong; the process goes on with what it had.
    pub async fn read_again(&self) -> Result<Reading> {
        let _turn = self.turn.lock().await;
        let origin = self.origin.clone();
        // The disk may be slow.
        let read = tokio::task::spawn_blocking(move || Config::read_again(&origin)).await;
        let read = read.map_err(|error| Error::internal("reading ended in a panic", error))?;
        let config = match read {
            None => return Ok(Reading::default()),
            Some(Ok((config, _))) => config,
            Some(Err(error)) => {
                // Without the files: a path is nobody's business here.
                let findings = error.findings.iter().map(|finding| match finding.subject.contains('/') {
                    true => format!("a file {}", finding.message),
                    false => format!("{}: {}", finding.subject, finding.message),
                });
                let text = findings.collect::<Vec<_>>().join("; ");
                let text = format!("the files cannot be used, and nothing was changed: {text}");
                return Err(Error::invalid(text).because("invalid_configuration"));
            }
        };
        let of_files = Hot::of(&config);
        let before = self.known().clone();
        let hot = laid_over(of_files, &before.runtime)?;
        let changed: Vec<_> =
            HotKey::ALL.into_iter().filter(|key| hot.value(*key) != before.hot.value(*key)).collect();
        self.apply.apply(&hot);
        let pending = differing(&before.listed, &config.effective);
        let mut known = self.known();
        for one in config.effective.into_iter().filter(|one| HotKey::parse(&one.key).is_some()) {
            if let Some(listed) = known.listed.iter_mut().find(|listed| listed.key == one.key) {
                *listed = one;
            }
        }
        (known.of_files, known.hot) = (of_files, hot);
        known.pending.clone_from(&pending);
        Ok(Reading {
            changed: changed.into_iter().map(|key| key.name().to_owned()).collect(),
            restart_required: pending.into_iter().collect(),
            has_files: true,
        })
    }
}

/// Keys whose files say something else than what is in force, and that do not change at run time.
fn differing(before: &[Effective], now: &[Effective]) -> BTreeSet<String> {
    let digests = |list: &[Effective]| -> BTreeMap<String, [u8; 32]> {
        list.iter().map(|one| (one.key.clone(), one.digest)).collect()
    };
    let (before, now) = (digests(before), digests(now));
    let keys = before.keys().chain(now.keys());
    let differs = |key: &&String| before.get(*key) != now.get(*key) && HotKey::parse(key).is_none();
    keys.filter(differs).cloned().collect()
}
