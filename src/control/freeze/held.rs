//! A freeze with what is known of its end: it has ended only when two clocks say so.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Earlier, Entries, Freeze, FreezeError, MAX_FREEZES};
use crate::clock::unix_now;

/// How long a freeze is kept after its end: a clock that is set back within this time brings it back.
const KEPT: Duration = Duration::from_secs(30 * 86_400);

/// A moment, by the clock that the host can set and by the one that only runs forward.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Unix seconds.
    pub(super) wall: u64,
    pub(super) steady: Instant,
}

/// Tells the time.
pub(super) trait TellTime: fmt::Debug + Send + Sync {
    fn now(&self) -> Moment;
}

/// The clocks of this machine.
#[derive(Debug)]
pub(super) struct MachineTime;

impl TellTime for MachineTime {
    /// A clock before 1970 ends no freeze.
    fn now(&self) -> Moment {
        Moment { wall: unix_now(), steady: Instant::now() }
    }
}

/// A freeze as it is held in memory.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) freeze: Arc<Freeze>,
    end: End,
}

#[derive(Debug)]
enum End {
    /// An operator takes it back, or nobody does; also where the end is further away than this machine can count.
    Open,
    At {
        /// Unix seconds.
        wall: u64,
        /// What was left when it was made or loaded, by the clock that nobody sets.
        steady: Instant,
    },
}

impl Held {
    /// Holds a freeze that is made or loaded `now`.
    pub(super) fn new(freeze: Freeze, now: Moment) -> Self {
        let end = freeze.expires_at.and_then(|wall| {
            let left = Duration::from_secs(wall.saturating_sub(now.wall));
            Some(End::At { wall, steady: now.steady.checked_add(left)? })
        });
        Self { freeze: Arc::new(freeze), end: end.unwrap_or(End::Open) }
    }

    pub(super) fn is_live(&self, now: Moment) -> bool {
        match self.end {
            End::Open => true,
            End::At { wall, steady } => now.wall < wall || now.steady < steady,
        }
    }

    /// Whether it ended so long ago, by both clocks, that no clock is believed to be set back before it.
    fn is_forgotten(&self, now: Moment) -> bool {
        match self.end {
            End::Open => false,
            End::At { wall, steady } => {
                now.wall >= wall.saturating_add(KEPT.as_secs())
                    && now.steady.saturating_duration_since(steady) >= KEPT
            }
        }
    }
}

/// `entries` with `new` in the place of an earlier one of its scope. Where they are too many, those that ended first go.
///
/// # Errors
/// [`FreezeError::Full`]: there is no place, and none has ended. [`FreezeError::Shortens`]: the earlier one is in force and
/// lasts longer.
pub(super) fn with(
    entries: &Entries,
    new: &Arc<Held>,
    earlier: Earlier,
    now: Moment,
) -> Result<Entries, FreezeError> {
    let mut entries = kept(entries, now);
    let replaced = entries.remove(&new.freeze.scope);
    let lasts_longer = |held: &Arc<Held>| held.is_live(now) && new.freeze.ends_before(&held.freeze);
    if let Some(held) = replaced.filter(|held| earlier == Earlier::MayBeExtended && lasts_longer(held)) {
        return Err(FreezeError::Shortens { earlier: Arc::clone(&held.freeze) });
    }
    while entries.len() >= MAX_FREEZES {
        let ended = entries.values().filter(|held| !held.is_live(now));
        let first = ended.min_by_key(|held| held.freeze.expires_at).map(|held| held.freeze.scope);
        entries.remove(&first.ok_or(FreezeError::Full)?);
    }
    entries.insert(new.freeze.scope, Arc::clone(new));
    Ok(entries)
}

/// What goes on being held.
pub(super) fn kept(entries: &Entries, now: Moment) -> Entries {
    let kept = entries.iter().filter(|(_, held)| !held.is_forgotten(now));
    kept.map(|(scope, held)| (*scope, Arc::clone(held))).collect()
}
