//! Decides by itself when a new bundle of the source is put in force: after it has judged live requests for long enough, and
//! would have denied no more than is tolerated. Time and counts come from outside.

use std::time::Duration;

use kms_policy::bundle::Differences;
use kms_policy::settings::UnattendedShadow;

use crate::state::SeenShadow;

/// How often what was seen is saved.
const SAVE_EVERY: Duration = Duration::from_secs(30);

/// The shadow of a bundle, also in earlier processes.
#[derive(Debug)]
pub(super) struct Unattended {
    /// What earlier processes have seen.
    before: SeenShadow,
    began: Duration,
    saved: Duration,
}

/// What is next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Wait,
    /// To save what was seen.
    Save(SeenShadow),
    /// An operator has to decide. It is said once.
    Hold(SeenShadow),
    /// The bundle is put in force.
    Activate,
}

impl Unattended {
    /// Goes on with a shadow, or begins one. Time while no process ran does not count.
    pub(super) fn resume(before: SeenShadow, now: Duration) -> Self {
        Self { before, began: now, saved: now }
    }

    /// The digest of its bundle.
    pub(super) fn digest(&self) -> &str {
        &self.before.digest
    }

    /// What was seen in all at `now`, with what this process has seen.
    pub(super) fn so_far(&self, now: Duration, seen: Differences) -> SeenShadow {
        let before = &self.before;
        SeenShadow {
            digest: before.digest.clone(),
            ran: before.ran.saturating_add(now.saturating_sub(self.began).as_secs()),
            compared: before.compared.saturating_add(seen.compared),
            newly_allowed: before.newly_allowed.saturating_add(seen.newly_allowed),
            newly_denied: before.newly_denied.saturating_add(seen.newly_denied),
            denies_this_kms: before.denies_this_kms || seen.denies_this_kms,
            held: before.held,
        }
    }

    /// What is next at `now`, a time that only grows.
    pub(super) fn step(&mut self, now: Duration, seen: Differences, shadow: UnattendedShadow) -> Step {
        let so_far = self.so_far(now, seen);
        if !so_far.held && (so_far.denies_this_kms || so_far.newly_denied > shadow.max_denied) {
            self.before.held = true;
            self.saved = now;
            return Step::Hold(SeenShadow { held: true, ..so_far });
        }
        if !so_far.held && so_far.ran >= shadow.time.as_secs() {
            return Step::Activate;
        }
        if now.saturating_sub(self.saved) >= SAVE_EVERY {
            self.saved = now;
            return Step::Save(so_far);
        }
        Step::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: UnattendedShadow = UnattendedShadow { time: Duration::from_secs(600), max_denied: 0 };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn denied(newly_denied: u64) -> Differences {
        Differences { compared: 9, newly_denied, ..Differences::default() }
    }

    fn begun(now: u64) -> Unattended {
        Unattended::resume(SeenShadow::of("aa".to_owned()), at(now))
    }

    #[test]
    fn it_is_put_in_force_after_its_time_and_not_before() {
        let mut it = begun(100);
        assert_eq!(it.step(at(100), denied(0), TEN), Step::Wait);
        assert_eq!(it.step(at(129), denied(0), TEN), Step::Wait);
        let Step::Save(saved) = it.step(at(130), denied(0), TEN) else { panic!("not saved") };
        assert_eq!((saved.ran, saved.compared, saved.held), (30, 9, false));
        assert_eq!(it.step(at(159), denied(0), TEN), Step::Wait);
        assert!(matches!(it.step(at(699), denied(0), TEN), Step::Save(_)));
        assert_eq!(it.step(at(700), denied(0), TEN), Step::Activate);
    }

    #[test]
    fn a_denial_holds_it_once_and_for_good() {
        let mut it = begun(0);
        assert!(
            matches!(it.step(at(5), denied(1), TEN), Step::Hold(held) if held.held && held.newly_denied == 1)
        );
        assert_eq!(it.step(at(6), denied(2), TEN), Step::Wait);
        // Also when its time is over, and what was seen is still saved.
        assert!(
            matches!(it.step(at(10_000), denied(2), TEN), Step::Save(saved) if saved.held && saved.newly_denied == 2)
        );
        let tolerant = UnattendedShadow { max_denied: 3, ..TEN };
        let mut it = begun(0);
        assert_eq!(it.step(at(5), denied(3), tolerant), Step::Wait);
        assert!(matches!(it.step(at(6), denied(4), tolerant), Step::Hold(_)));
        // No number of denials is tolerated for this KMS itself.
        let own = Differences { denies_this_kms: true, ..Differences::default() };
        assert!(matches!(begun(0).step(at(1), own, tolerant), Step::Hold(_)));
        // The last moment counts.
        assert!(matches!(begun(0).step(at(600), denied(1), TEN), Step::Hold(_)));
    }

    #[test]
    fn a_restart_goes_on_with_what_was_saved() {
        let mut it = begun(0);
        let Step::Save(saved) = it.step(at(400), denied(0), TEN) else { panic!("not saved") };
        // Another process, whose time begins again, and which was off for whatever time.
        let mut it = Unattended::resume(saved, at(3));
        assert_eq!(it.step(at(3), denied(0), TEN), Step::Wait);
        assert!(
            matches!(it.step(at(202), denied(0), TEN), Step::Save(saved) if saved.ran == 599 && saved.compared == 18)
        );
        assert_eq!(it.step(at(203), denied(0), TEN), Step::Activate);
        let held = SeenShadow { held: true, ran: 700, ..SeenShadow::of("aa".to_owned()) };
        assert_eq!(Unattended::resume(held, at(0)).step(at(1), denied(0), TEN), Step::Wait);
        // What earlier processes saw and this one saw count together.
        let before = SeenShadow { newly_denied: 2, ..SeenShadow::of("aa".to_owned()) };
        let tolerant = UnattendedShadow { max_denied: 2, ..TEN };
        assert!(matches!(Unattended::resume(before, at(0)).step(at(1), denied(1), tolerant), Step::Hold(_)));
    }
}
