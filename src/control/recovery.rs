//! Recovery sets: which is the current one, which were retired, and how the last drill ended.

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use kms_attest::state_file::Replaced;
use kms_recovery::{EpochFingerprint, SignedManifest};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::clock::unix_now;
use crate::state::{self, RecoveryFile};

/// How many retired sets are remembered: all of them still open the root keys that they were made of.
const MAX_RETIRED: usize = 256;
/// How many drills are remembered.
const MAX_DRILLS: usize = 32;
/// After how many days the next drill is due.
const DRILL_DAYS: u64 = 90;
const DAY: u64 = 24 * 60 * 60;
/// For how long a process may have no recovery set, and a set no drill, before that is a warning.
const GRACE: u64 = DAY;

/// What is known of recovery.
#[derive(Debug, Clone, Default)]
pub struct Recovery {
    /// Since when this process knows, Unix seconds.
    since: u64,
    current: Option<Arc<CurrentSet>>,
    retired: Vec<RetiredSet>,
    drills: Vec<Drill>,
}

/// The current set.
#[derive(Debug)]
pub struct CurrentSet {
    /// The manifest.
    pub manifest: SignedManifest,
    /// Who made it.
    pub by: String,
    /// SHA-256 of what operators had chosen for apps then; unknown of a set of an older version.
    pub choices: Option<[u8; 32]>,
}

/// A set that was replaced. Its shares still open the root keys that it was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetiredSet {
    /// Its number.
    pub set: String,
    /// When it was made, Unix seconds.
    pub created_at: u64,
    /// When another replaced it, Unix seconds.
    pub retired_at: u64,
    /// How many of its officers restore.
    pub threshold: u8,
    /// Their names.
    pub officers: Vec<String>,
    /// The epochs of root keys that it opens.
    pub epochs: Vec<u32>,
}

/// A drill that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drill {
    /// The set.
    pub set: String,
    /// When it ended, Unix seconds.
    pub at: u64,
    /// Who brought a share.
    pub officers: Vec<String>,
    /// Why it failed; `None` if it gave the root keys.
    pub failure: Option<String>,
}

/// What an operator should do about recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Fine,
    /// There is no set: the loss of every replica would be the loss of every key.
    NoSet,
    /// The set does not have the root keys of these epochs.
    NotCovered {
        /// The epochs.
        epochs: Vec<u32>,
    },
    /// The set has keys that are destroyed here: its officers can still bring them back.
    StillHolds {
        /// The epochs.
        epochs: Vec<u32>,
    },
    /// The states of these epochs have changed since the set was made: a restore would bring the old ones back.
    OutOfDate {
        /// The epochs.
        epochs: Vec<u32>,
    },
    /// Operators have chosen other epochs for apps since the set was made.
    ChoicesChanged,
    /// No drill of the set has given the root keys: nobody knows whether its officers have their shares.
    NeverProved,
    /// The last drill is too long ago.
    DrillDue {
        /// How many days ago.
        days: u64,
    },
}

/// What the file has.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    current: Option<KeptSet>,
    retired: Vec<RetiredSet>,
    drills: Vec<Drill>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptSet {
    /// The text of the manifest's file.
    manifest: String,
    by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    choices_sha256: Option<Digest>,
}

/// SHA-256, hex.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Digest(#[serde(with = "hex::serde")] [u8; 32]);

/// All of it, and its file.
#[derive(Debug)]
pub struct RecoverySets {
    current: ArcSwap<Recovery>,
    /// One change at a time.
    file: Mutex<Arc<RecoveryFile>>,
}

impl RecoverySets {
    /// Reads what is kept. If the file cannot be used, there is no set until the next one is made: its officers could still
    /// restore with it.
    pub fn open(file: RecoveryFile) -> Self {
        let kept = file.read::<Kept>().map_err(|error| error.to_string());
        let read = match kept.and_then(|kept| kept.map(Recovery::read).transpose()) {
            Ok(Some(recovery)) => recovery,
            Ok(None) => Recovery::from_now_on(),
            Err(error) => {
                tracing::error!(
                    error,
                    "the current recovery set is not known: make a new one; officers of the last one can still restore with it"
                );
                Recovery::from_now_on()
            }
        };
        Self { current: ArcSwap::from_pointee(read), file: Mutex::new(Arc::new(file)) }
    }

    /// What is known now.
    pub fn state(&self) -> Arc<Recovery> {
        self.current.load_full()
    }

    /// Makes this set the current one. `choices` is the SHA-256 of what operators had chosen for apps.
    ///
    /// # Errors
    /// The file cannot be written; the set before still counts. Where it was written and its directory cannot be synced, this set
    /// counts, and the one before may again if the machine stops.
    pub async fn replace(
        &self,
        manifest: SignedManifest,
        by: String,
        choices: Option<[u8; 32]>,
    ) -> io::Result<Replaced> {
        let file = self.file.lock().await;
        let mut next = Recovery::clone(&self.state());
        if let Some(before) = next.current.take() {
            next.retired.push(before.retired(unix_now()));
            let surplus = next.retired.len().saturating_sub(MAX_RETIRED);
            next.retired.drain(..surplus);
        }
        next.current = Some(Arc::new(CurrentSet { manifest, by, choices }));
        self.put(&file, next).await
    }

    /// Remembers how a drill ended, on the disk if that takes it.
    pub async fn drilled(&self, drill: Drill) {
        let file = self.file.lock().await;
        let mut next = Recovery::clone(&self.state());
        next.add_drill(drill);
        if let Err(error) = self.put(&file, next.clone()).await.and_then(Replaced::safely) {
            tracing::error!(%error, "the end of a drill cannot be kept over a restart; the audit log has it");
            self.current.store(Arc::new(next));
        }
    }

    async fn put(&self, file: &Arc<RecoveryFile>, next: Recovery) -> io::Result<Replaced> {
        let (file, kept) = (Arc::clone(file), next.kept());
        let replaced = state::written(move || file.replace(&kept)).await?;
        self.current.store(Arc::new(next));
        Ok(replaced)
    }
}

impl Recovery {
    fn from_now_on() -> Self {
        Self { since: unix_now(), ..Self::default() }
    }

    fn read(kept: Kept) -> Result<Self, String> {
        let Kept { current, retired, drills } = kept;
        let current = current.map(|KeptSet { manifest, by, choices_sha256 }| {
            let choices = choices_sha256.map(|Digest(choices)| choices);
            let manifest = SignedManifest::parse(manifest.as_bytes()).map_err(|error| error.to_string())?;
            Ok::<_, String>(Arc::new(CurrentSet { manifest, by, choices }))
        });
        Ok(Self { current: current.transpose()?, retired, drills, ..Self::from_now_on() })
    }

    fn kept(&self) -> Kept {
        let current = self.current.as_ref();
        Kept {
            current: current.map(|set| KeptSet {
                manifest: set.manifest.to_text(),
                by: set.by.clone(),
                choices_sha256: set.choices.map(Digest),
            }),
            retired: self.retired.clone(),
            drills: self.drills.clone(),
        }
    }

    /// The current set.
    pub fn current(&self) -> Option<&Arc<CurrentSet>> {
        self.current.as_ref()
    }

    /// Sets that were replaced, oldest first.
    pub fn retired(&self) -> &[RetiredSet] {
        &self.retired
    }

    /// Drills that have ended, oldest first.
    pub fn drills(&self) -> &[Drill] {
        &self.drills
    }

    /// When the current set last gave the root keys in a drill, Unix seconds.
    pub fn last_proved(&self) -> Option<u64> {
        let set = self.current.as_ref()?.manifest.manifest().set.to_string();
        self.last_passed(&set).and_then(|at| self.drills.get(at)).map(|drill| drill.at)
    }

    /// When the next drill of the current set is due, Unix seconds: the first one soon after it was made.
    pub fn drill_due(&self) -> Option<u64> {
        let made = self.current.as_ref()?.manifest.manifest().created_at;
        Some(match self.last_proved() {
            Some(proved) => proved.saturating_add(DRILL_DAYS * DAY),
            None => made.saturating_add(GRACE),
        })
    }

    fn last_passed(&self, set: &str) -> Option<usize> {
        self.drills.iter().rposition(|drill| drill.set == set && drill.failure.is_none())
    }

    /// Adds a drill. The last one that proved a set stays, however many end without a result after it.
    fn add_drill(&mut self, drill: Drill) {
        self.drills.push(drill);
        while self.drills.len() > MAX_DRILLS {
            let set = self.current.as_ref().map(|set| set.manifest.manifest().set.to_string());
            let proof = set.and_then(|set| self.last_passed(&set));
            self.drills.remove(usize::from(proof == Some(0)));
        }
    }

    /// The epochs among `own` whose root keys exist, and are not in the current set.
    pub fn not_covered(&self, own: &[EpochFingerprint]) -> Vec<u32> {
        let is_missing = |own: &EpochFingerprint| own.destroyed_at.is_none() && self.sealed(own).is_none();
        numbers(own.iter().filter(|own| is_missing(own)))
    }

    /// The epochs among `own` whose root keys are destroyed, and are in the current set.
    pub fn still_held(&self, own: &[EpochFingerprint]) -> Vec<u32> {
        let is_held = |own: &EpochFingerprint| {
            own.destroyed_at.is_some() && self.sealed(own).is_some_and(|sealed| sealed.destroyed_at.is_none())
        };
        numbers(own.iter().filter(|own| is_held(own)))
    }

    /// The epochs among `own` that have another state in the current set.
    pub fn out_of_date(&self, own: &[EpochFingerprint]) -> Vec<u32> {
        numbers(own.iter().filter(|own| self.sealed(own).is_some_and(|sealed| sealed != *own)))
    }

    /// What the current set has of the same keys.
    fn sealed(&self, own: &EpochFingerprint) -> Option<&EpochFingerprint> {
        let sealed = &self.current.as_ref()?.manifest.manifest().epochs;
        sealed.iter().find(|sealed| sealed.has_keys_of(own))
    }

    /// Whether operators have chosen something else for apps since the set was made, where `choices` is the SHA-256 of what they
    /// have chosen by now.
    pub fn choices_changed(&self, choices: &[u8; 32]) -> bool {
        self.current.as_ref().and_then(|set| set.choices).is_some_and(|of_set| of_set != *choices)
    }

    /// The same as [`Recovery::standing`], also of what operators have chosen for apps.
    pub fn standing_with(&self, own: &[EpochFingerprint], choices: &[u8; 32], now: u64) -> Standing {
        match self.standing(own, now) {
            Standing::Fine | Standing::NeverProved | Standing::DrillDue { .. }
                if self.choices_changed(choices) =>
            {
                Standing::ChoicesChanged
            }
            standing => standing,
        }
    }

    /// What an operator should do now, where `own` are the epochs of this KMS.
    pub fn standing(&self, own: &[EpochFingerprint], now: u64) -> Standing {
        let Some(current) = &self.current else {
            return if now.saturating_sub(self.since) < GRACE { Standing::Fine } else { Standing::NoSet };
        };
        let epochs = self.not_covered(own);
        if !epochs.is_empty() {
            return Standing::NotCovered { epochs };
        }
        let epochs = self.still_held(own);
        if !epochs.is_empty() {
            return Standing::StillHolds { epochs };
        }
        let epochs = self.out_of_date(own);
        if !epochs.is_empty() {
            return Standing::OutOfDate { epochs };
        }
        let Some(proved) = self.last_proved() else {
            let since = now.saturating_sub(current.manifest.manifest().created_at);
            return if since < GRACE { Standing::Fine } else { Standing::NeverProved };
        };
        match now.saturating_sub(proved) / DAY {
            days if days >= DRILL_DAYS => Standing::DrillDue { days },
            _ => Standing::Fine,
        }
    }
}

impl CurrentSet {
    fn retired(&self, now: u64) -> RetiredSet {
        let manifest = self.manifest.manifest();
        RetiredSet {
            set: manifest.set.to_string(),
            created_at: manifest.created_at,
            retired_at: now,
            threshold: manifest.threshold,
            officers: manifest.officers.iter().map(|officer| officer.name.to_string()).collect(),
            epochs: manifest.epochs.iter().map(|epoch| epoch.epoch).collect(),
        }
    }
}

impl Standing {
    /// The sentence for operators; `None` if there is nothing to do.
    pub fn sentence(&self) -> Option<String> {
        Some(match self {
            Self::Fine => return None,
            Self::NoSet => "there is no recovery set: if every replica is lost, every key of every app is; make one with kmsctl recovery create".to_owned(),
            Self::NotCovered { epochs } => format!(
                "the recovery set does not have the root keys of epoch {}: make a new one with kmsctl recovery create",
                joined(epochs)
            ),
            Self::StillHolds { epochs } => format!(
                "the recovery set still has the destroyed keys of epoch {}: make a new one with kmsctl recovery create, and let \
                 its officers destroy their shares of this one",
                joined(epochs)
            ),
            Self::OutOfDate { epochs } => format!(
                "the state of epoch {} has changed since the recovery set was made, and a restore would bring the old one back: \
                 make a new one with kmsctl recovery create",
                joined(epochs)
            ),
            Self::ChoicesChanged => "the epochs chosen for apps have changed since the recovery set was made, and a restore would bring the old ones back: make a new one with kmsctl recovery create".to_owned(),
            Self::NeverProved => "no drill has proved the recovery set, so nobody knows whether its officers have their shares: let them prove it, kmsctl recovery drill start".to_owned(),
            Self::DrillDue { days } => format!(
                "the recovery set was last proved {days} days ago: let its officers prove it, kmsctl recovery drill start"
            ),
        })
    }
}

fn numbers<'a>(epochs: impl Iterator<Item = &'a EpochFingerprint>) -> Vec<u32> {
    epochs.map(|epoch| epoch.epoch).collect()
}

fn joined(epochs: &[u32]) -> String {
    epochs.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
