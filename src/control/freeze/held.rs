//! A freeze in memory: it has expired only when two clocks say so.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Earlier, Entries, Freeze, FreezeError, MAX_FREEZES, Room, Scope};
use crate::clock::unix_now;

/// How long an expired freeze is kept: setting the clock back within this time revives it.
const KEPT: Duration = Duration::from_secs(30 * 86_400);

/// A moment by both clocks: the one that the host can set, and the monotonic one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Unix seconds.
    pub(super) wall: u64,
    pub(super) steady: Instant,
}

pub(super) trait TellTime: fmt::Debug + Send + Sync {
    fn now(&self) -> Moment;
}

#[derive(Debug)]
pub(super) struct MachineTime;

impl TellTime for MachineTime {
    /// A clock before 1970 lets no freeze expire.
    fn now(&self) -> Moment {
        Moment { wall: unix_now(), steady: Instant::now() }
    }
}

/// A freeze in memory.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) freeze: Arc<Freeze>,
    pub(super) sharing: Sharing,
    end: End,
}

/// Whether a freeze is in the state that the nodes of a fleet share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// It is, or there are no other nodes.
    Settled,
    /// Not yet.
    Unshared,
}

#[derive(Debug, Clone, Copy)]
enum End {
    /// It has no end, or one further away than this machine can represent.
    Open,
    At {
        /// Unix seconds.
        wall: u64,
        /// The same end by the monotonic clock, from the time left when it was made, loaded or learned of.
        steady: Instant,
    },
}

impl Held {
    /// Takes a freeze that was made or loaded `now`.
    pub(super) fn new(freeze: Freeze, now: Moment) -> Self {
        Self::learned(freeze, now, Duration::ZERO)
    }

    /// Takes a freeze of another node that this one learns of `now`. The clock of this node may be ahead: the time that is left counts by
    /// the slowest clock of the fleet, which is `behind` that of this node, and is at most as long as the freeze itself.
    pub(super) fn learned(freeze: Freeze, now: Moment, behind: Duration) -> Self {
        let end = freeze.expires_at.and_then(|wall| {
            let here = wall.saturating_sub(now.wall);
            let elsewhere = wall.saturating_sub(now.wall.saturating_sub(behind.as_secs()));
            let left = here.max(elsewhere.min(wall.saturating_sub(freeze.since)));
            Some(End::At { wall, steady: now.steady.checked_add(Duration::from_secs(left))? })
        });
        Self { freeze: Arc::new(freeze), sharing: Sharing::Settled, end: end.unwrap_or(End::Open) }
    }

    /// The same freeze, which ends at the same time.
    pub(super) fn with(&self, sharing: Sharing) -> Self {
        Self { freeze: Arc::clone(&self.freeze), sharing, end: self.end }
    }

    pub(super) fn is_live(&self, now: Moment) -> bool {
        match self.end {
            End::Open => true,
            End::At { wall, steady } => now.wall < wall || now.steady < steady,
        }
    }

    /// Whether it expired so long ago, by both clocks, that it need not be kept.
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

/// `entries` without those that expired first among the ones that `may_go`, as long as more than `most` of these are there.
pub(super) fn within(
    mut entries: Entries,
    most: usize,
    may_go: impl Fn(&Held) -> bool,
    now: Moment,
) -> Entries {
    let mut count = entries.values().filter(|held| may_go(held)).count();
    let ended = entries.values().filter(|held| may_go(held) && !held.is_live(now));
    let mut ended: Vec<_> = ended.map(|held| (held.freeze.expires_at, held.freeze.scope)).collect();
    ended.sort_unstable();
    for (_, scope) in ended {
        if count <= most {
            break;
        }
        entries.remove(&scope);
        count -= 1;
    }
    entries
}

/// `entries` with `new`, which replaces an earlier one of its scope. If there are more than [`MAX_FREEZES`] that are shared as it is, the
/// ones that expired first are removed. There is always room for a freeze of the whole KMS.
///
/// # Errors
/// [`FreezeError::Full`], [`FreezeError::ShareFull`]: no room, and none has expired. [`FreezeError::Shortens`]: the
/// earlier one is in force and lasts longer.
pub(super) fn with(
    entries: &Entries,
    new: &Arc<Held>,
    earlier: Earlier,
    room: Room,
    now: Moment,
) -> Result<Entries, FreezeError> {
    let mut entries = kept(entries, now);
    let replaced = entries.remove(&new.freeze.scope).filter(|held| held.is_live(now));
    let is_one_more = replaced.is_none() && new.freeze.scope != Scope::Kms;
    if let Some(held) =
        replaced.filter(|held| earlier == Earlier::MayBeExtended && new.freeze.ends_before(&held.freeze))
    {
        return Err(FreezeError::Shortens { earlier: Arc::clone(&held.freeze) });
    }
    let live = entries.values().filter(|held| held.is_live(now)).count();
    if is_one_more && live >= room.most() {
        return Err(room.exhausted());
    }
    let is_as_new = |held: &Held| held.sharing == new.sharing;
    let mut entries = within(entries, MAX_FREEZES - 1, is_as_new, now);
    entries.insert(new.freeze.scope, Arc::clone(new));
    Ok(entries)
}

/// The entries without those that need not be kept.
pub(super) fn kept(entries: &Entries, now: Moment) -> Entries {
    let kept = entries.iter().filter(|(_, held)| !held.is_forgotten(now));
    kept.map(|(scope, held)| (*scope, Arc::clone(held))).collect()
}
