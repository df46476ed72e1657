//! Which epochs the keys of a request are of: decided once, from the policy, the operators' choice and the request.

use std::collections::BTreeSet;
use std::fmt;

use kms_policy::{AppEpochs, Denial, DenialCode, ReadableEpoch, RootChoice};

use crate::keys::epoch::{AppEpoch, KeyEpochs, RootEpoch};
use crate::keys::keyring::Unreadable;

/// The most older epochs that an answer lists.
const MAX_PREVIOUS: usize = 64;

/// The root epochs of this KMS, as far as the choice of one needs them.
pub trait RootEpochs: fmt::Debug + Send + Sync {
    /// The newest one that is active now.
    fn current(&self) -> RootEpoch;

    /// Whether apps may get keys of it now.
    ///
    /// # Errors
    /// [`Unreadable`].
    fn readable(&self, epoch: RootEpoch) -> Result<(), Unreadable>;
}

/// The epochs that a request names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AskedEpochs {
    root: Option<RootEpoch>,
    app: Option<AppEpoch>,
}

impl AskedEpochs {
    /// A request that names none: it gets those of its app.
    pub const NONE: Self = Self { root: None, app: None };

    /// From the fields of a request.
    pub fn new(root: Option<u32>, app: Option<u32>) -> Self {
        Self { root: root.map(RootEpoch), app: app.map(AppEpoch) }
    }

    /// The fields of the request.
    pub fn fields(self) -> (Option<u32>, Option<u32>) {
        (self.root.map(|root| root.0), self.app.map(|app| app.0))
    }

    /// Whether the request names an epoch.
    pub fn is_some(self) -> bool {
        self != Self::NONE
    }

    /// The epochs that the request means for an app that is at `own` epochs.
    fn of(self, own: KeyEpochs) -> KeyEpochs {
        match (self.root, self.app) {
            (None, None) => own,
            (None, Some(app)) => KeyEpochs { app, ..own },
            (Some(root), app) => KeyEpochs { root, app: app.unwrap_or(AppEpoch::FIRST) },
        }
    }
}

/// What an operator chose for an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChosenEpochs {
    /// The epoch of the root keys.
    pub root: RootChoice,
    /// The epoch of the app.
    pub app: AppEpoch,
}

/// The epochs of a permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantedEpochs {
    used: KeyEpochs,
    is_named: bool,
    previous: Vec<KeyEpochs>,
}

impl GrantedEpochs {
    /// The epochs of a request that names none, for an app whose keys were never changed.
    pub const FIRST: Self = Self { used: KeyEpochs::FIRST, is_named: false, previous: Vec::new() };

    /// The epochs of the keys.
    pub fn used(&self) -> KeyEpochs {
        self.used
    }

    /// The older epochs whose keys the caller may ask for too, the newest first.
    pub fn previous(&self) -> &[KeyEpochs] {
        &self.previous
    }

    /// What an answer says: nothing to a caller that named no epochs and gets the keys that it always got.
    pub fn said(&self) -> Option<KeyEpochs> {
        (self.is_named || !self.used.is_first()).then_some(self.used)
    }
}

/// The epochs in force for an app: what the policy says, else what an operator chose, else 0 and 0.
fn own_epochs(policy: Option<&AppEpochs>, chosen: Option<ChosenEpochs>, ring: &dyn RootEpochs) -> KeyEpochs {
    let root = policy.and_then(|said| said.root).or(chosen.map(|chosen| chosen.root));
    let app = policy.and_then(|said| said.app).map(AppEpoch).or(chosen.map(|chosen| chosen.app));
    KeyEpochs {
        root: match root {
            Some(RootChoice::Current) => ring.current(),
            Some(RootChoice::Fixed(number)) => RootEpoch(number),
            None => RootEpoch::FIRST,
        },
        app: app.unwrap_or(AppEpoch::FIRST),
    }
}

/// Decides which epochs the keys of an allowed caller are of.
///
/// # Errors
/// The denial: the epochs are newer than those of the app, may not be read, or have no keys for anybody.
pub(super) fn grant(
    asked: AskedEpochs,
    policy: Option<&AppEpochs>,
    chosen: Option<ChosenEpochs>,
    ring: &dyn RootEpochs,
) -> Result<GrantedEpochs, Denial> {
    let own = own_epochs(policy, chosen, ring);
    let used = asked.of(own);
    let older = Older { own, listed: policy.and_then(|said| said.readable.as_ref()) };
    match ring.readable(used.root) {
        // An epoch that exists nowhere is never called too new.
        Err(error @ Unreadable::Unknown(_)) => return Err(unreadable(error, used)),
        Err(_) | Ok(()) if used == own || older.includes(used) => {}
        Err(error @ Unreadable::NotActive(_)) => return Err(unreadable(error, used)),
        Err(_) | Ok(()) if used > own || used.app > own.app => {
            let reason = format!("epoch {} is newer than epoch {} of this app", dotted(used), dotted(own));
            return Err(denial(DenialCode::EpochTooNew, reason, format!("at most {}", dotted(own)), used));
        }
        Err(_) | Ok(()) => {
            let reason = format!("keys of epoch {} may not be read by this app any more", dotted(used));
            let listed =
                older.listed.map(|listed| listed.iter().map(ToString::to_string).collect::<Vec<_>>());
            let listed =
                listed.filter(|listed| !listed.is_empty()).map_or("none".to_owned(), |it| it.join(", "));
            let expected = format!("{}, or readableEpochs: {listed}", dotted(own));
            return Err(denial(DenialCode::EpochNotReadable, reason, expected, used));
        }
    }
    ring.readable(used.root).map_err(|error| unreadable(error, used))?;
    Ok(GrantedEpochs { used, is_named: asked.is_some(), previous: older.all(used, ring) })
}

/// The epochs of a public key of an app, which anyone may ask for: those in force for the app, or any that there are keys
/// of.
///
/// # Errors
/// The denial: nobody has keys of this epoch now.
pub(super) fn grant_public(
    asked: AskedEpochs,
    policy: Option<&AppEpochs>,
    chosen: Option<ChosenEpochs>,
    ring: &dyn RootEpochs,
) -> Result<GrantedEpochs, Denial> {
    let used = asked.of(own_epochs(policy, chosen, ring));
    ring.readable(used.root).map_err(|error| unreadable(error, used))?;
    Ok(GrantedEpochs { used, is_named: asked.is_some(), previous: Vec::new() })
}

/// `1.2`: as callers and operators write epochs.
pub fn dotted(epochs: KeyEpochs) -> String {
    format!("{}.{}", epochs.root, epochs.app)
}

/// Why keys of an epoch cannot be given to anybody, as a denial.
pub(super) fn unreadable(error: Unreadable, used: KeyEpochs) -> Denial {
    let (code, expected) = match error {
        Unreadable::Unknown(_) => (DenialCode::EpochUnknown, "a root epoch of this KMS"),
        Unreadable::NotActive(_) => (DenialCode::EpochNotActive, "an active root epoch"),
        Unreadable::Retired(_) => (DenialCode::EpochRetired, "a root epoch that is not retired"),
        Unreadable::Destroyed(_) => (DenialCode::EpochDestroyed, "a root epoch that is not destroyed"),
    };
    denial(code, error.to_string(), expected.to_owned(), used)
}

fn denial(code: DenialCode, reason: String, expected: String, used: KeyEpochs) -> Denial {
    Denial { code, reason, expected: Some(expected), actual: Some(dotted(used)) }
}

/// The epochs before an app's own whose keys it may ask for.
struct Older<'a> {
    own: KeyEpochs,
    /// `readableEpochs` of the policy; without it all older ones are readable.
    listed: Option<&'a BTreeSet<ReadableEpoch>>,
}

impl Older<'_> {
    fn includes(&self, epochs: KeyEpochs) -> bool {
        let is_up_to_own = epochs.app <= self.own.app;
        epochs < self.own
            && match self.listed {
                None => is_up_to_own,
                Some(listed) => {
                    let KeyEpochs { root: RootEpoch(root), app: AppEpoch(app) } = epochs;
                    (is_up_to_own && listed.contains(&ReadableEpoch::Root(root)))
                        || listed.contains(&ReadableEpoch::Exactly { root, app })
                }
            }
    }

    /// Those that can be read now, except `used`, the newest first. Of each root epoch the newest ones, so that each has a
    /// share of a list with an end.
    fn all(&self, used: KeyEpochs, ring: &dyn RootEpochs) -> Vec<KeyEpochs> {
        if self.own.is_first() {
            return Vec::new();
        }
        let mut roots = BTreeSet::new();
        match self.listed {
            // Epochs have no gap. An entry may say a number far beyond them.
            None => roots.extend(
                (0..=self.own.root.0)
                    .map(RootEpoch)
                    .take_while(|root| !matches!(ring.readable(*root), Err(Unreadable::Unknown(_)))),
            ),
            Some(listed) => roots.extend(listed.iter().map(|epoch| match *epoch {
                ReadableEpoch::Root(root) | ReadableEpoch::Exactly { root, .. } => RootEpoch(root),
            })),
        }
        roots.retain(|root| *root <= self.own.root && ring.readable(*root).is_ok());
        let share = (MAX_PREVIOUS / roots.len().max(1)).max(1);
        let mut all = BTreeSet::new();
        for root in roots {
            let exact = self.listed.into_iter().flatten().filter_map(|epoch| match *epoch {
                ReadableEpoch::Exactly { root: of, app } if of == root.0 => Some(app),
                ReadableEpoch::Exactly { .. } | ReadableEpoch::Root(_) => None,
            });
            let has_all = self.listed.is_none_or(|listed| listed.contains(&ReadableEpoch::Root(root.0)));
            let up_to_own = has_all.then(|| (0..=self.own.app.0).rev().take(share + 2)).into_iter().flatten();
            let apps: BTreeSet<u32> = exact.chain(up_to_own).collect();
            let epochs = apps.into_iter().rev().map(|app| KeyEpochs { root, app: AppEpoch(app) });
            all.extend(epochs.filter(|epochs| *epochs != used && self.includes(*epochs)).take(share));
        }
        all.into_iter().rev().take(MAX_PREVIOUS).collect()
    }
}

#[cfg(test)]
mod tests;
