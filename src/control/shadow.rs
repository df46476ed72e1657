//! Shadow policy: a candidate allowlist evaluates the same live requests as the active policy, without
//! deciding.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use kms_attest::identity::BootInfo;
use kms_policy::{Decision, Denial, DenialCode, RulesError, Ruleset, Subject, SubjectKind};
use sha2::{Digest as _, Sha256};

use crate::clock::unix_now;
use crate::config::EmptyDevices;

/// The most distinct changes in the list.
const MAX_CHANGES: usize = 256;
/// The largest candidate in bytes, about ten thousand apps; also the largest request with one, unless the
/// configuration sets another limit.
pub const MAX_CANDIDATE: usize = 8 << 20;

/// Why a text is not a candidate.
#[derive(Debug, thiserror::Error)]
pub enum CandidateError {
    /// Larger than [`MAX_CANDIDATE`].
    #[error("the candidate must be at most {MAX_CANDIDATE} bytes, got {0}")]
    TooLarge(usize),
    /// Not a valid allowlist.
    #[error("the candidate {0}")]
    Rules(#[source] RulesError),
}

/// What a candidate would change for a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// It allows what the active policy denies.
    NewlyAllowed,
    /// It denies what the active policy allows.
    NewlyDenied,
}

impl Effect {
    /// `newly_allowed` or `newly_denied`.
    pub fn name(self) -> &'static str {
        match self {
            Self::NewlyAllowed => "newly_allowed",
            Self::NewlyDenied => "newly_denied",
        }
    }
}

/// One kind of change, and how often it was seen.
#[derive(Debug, Clone)]
pub struct Change {
    /// Its direction.
    pub effect: Effect,
    /// The role that is judged.
    pub subject: SubjectKind,
    /// The denial of the side that denies.
    pub denial: Denial,
    /// The identity it was first seen for.
    pub identity: BootInfo,
    /// How often it was seen.
    pub count: u64,
    /// When it was first seen, Unix seconds.
    pub first: u64,
    /// When it was last seen, Unix seconds.
    pub last: u64,
}

/// What a candidate would have changed so far.
#[derive(Debug, Clone)]
pub struct Report {
    /// The name that the operator gave it.
    pub name: String,
    /// A summary of what it allows.
    pub rules: String,
    /// When it started, Unix seconds.
    pub since: u64,
    /// Both allow.
    pub allowed_by_both: u64,
    /// Both deny.
    pub denied_by_both: u64,
    /// Only the candidate allows.
    pub newly_allowed: u64,
    /// Only the active policy allows.
    pub newly_denied: u64,
    /// The active policy gave no decision.
    pub without_answer: u64,
    /// The changes, newest first.
    pub changes: Vec<Change>,
    /// Changes that did not fit in the list.
    pub omitted: u64,
}

/// The text of a candidate.
#[derive(Debug, Clone)]
pub struct CandidateText {
    /// The allowlist, as it was given.
    pub text: Arc<[u8]>,
    /// SHA-256 of it.
    pub sha256: [u8; 32],
    /// What an empty device list means in it.
    pub empty_devices: EmptyDevices,
}

/// An allowlist with its counts.
struct Candidate {
    name: String,
    rules: Ruleset,
    text: CandidateText,
    since: u64,
    allowed_by_both: AtomicU64,
    denied_by_both: AtomicU64,
    newly_allowed: AtomicU64,
    newly_denied: AtomicU64,
    without_answer: AtomicU64,
    changes: Mutex<Changes>,
}

#[derive(Default)]
struct Changes {
    seen: HashMap<ChangeKey, Change>,
    omitted: u64,
}

/// What identifies a change: the caller and the rule.
#[derive(PartialEq, Eq, Hash)]
struct ChangeKey {
    effect: Effect,
    subject: SubjectKind,
    code: DenialCode,
    fields: [Vec<u8>; 5],
}

/// The running candidate, if there is one.
#[derive(Default)]
pub struct Shadow {
    running: ArcSwapOption<Candidate>,
}

impl fmt::Debug for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shadow").finish_non_exhaustive()
    }
}

impl Shadow {
    /// Starts a candidate in place of the running one; returns a summary of what it allows, and the last
    /// report of the other. Parsing ten thousand apps takes tens of milliseconds, so call it on a blocking
    /// thread.
    ///
    /// # Errors
    /// [`CandidateError`]; nothing changes then.
    pub fn start(
        &self,
        name: String,
        json: &[u8],
        empty_devices: EmptyDevices,
    ) -> Result<(String, Option<Report>), CandidateError> {
        if json.len() > MAX_CANDIDATE {
            return Err(CandidateError::TooLarge(json.len()));
        }
        let rules = Ruleset::parse(json, empty_devices).map_err(CandidateError::Rules)?;
        let summary = rules.summary();
        let candidate = Candidate {
            name,
            rules,
            text: CandidateText { text: json.into(), sha256: Sha256::digest(json).into(), empty_devices },
            since: unix_now(),
            allowed_by_both: AtomicU64::new(0),
            denied_by_both: AtomicU64::new(0),
            newly_allowed: AtomicU64::new(0),
            newly_denied: AtomicU64::new(0),
            without_answer: AtomicU64::new(0),
            changes: Mutex::default(),
        };
        let before = self.running.swap(Some(Arc::new(candidate)));
        Ok((summary, before.map(|candidate| candidate.report())))
    }

    /// Compares the candidate with a decision of the active policy; `None` if there was none. `denial` tells to which denial a
    /// decision leads, which depends on more than the policy: on the guest's stage and its events, and on the epochs.
    pub fn observe(
        &self,
        subject: Subject<'_>,
        active: Option<&Decision>,
        denial: impl Fn(&Decision) -> Option<Denial>,
    ) {
        if let Some(candidate) = &*self.running.load() {
            candidate.observe(subject, active, denial);
        }
    }

    /// How the candidate judges a caller, without counting it.
    pub fn judge(&self, subject: Subject<'_>) -> Option<Decision> {
        let candidate = self.running.load();
        candidate.as_ref().map(|candidate| candidate.rules.decide(subject))
    }

    /// The report so far; `None` if no candidate is running.
    pub fn report(&self) -> Option<Report> {
        self.running.load().as_ref().map(|candidate| candidate.report())
    }

    /// The text of the running candidate.
    pub fn text(&self) -> Option<CandidateText> {
        self.running.load().as_ref().map(|candidate| candidate.text.clone())
    }

    /// Stops the candidate if it has this digest, and returns its last report.
    pub fn stop_if(&self, sha256: &[u8; 32]) -> Option<Report> {
        let running = self.running.load_full().filter(|candidate| candidate.text.sha256 == *sha256)?;
        let before = self.running.compare_and_swap(&running, None);
        let is_stopped = before.as_ref().is_some_and(|before| Arc::ptr_eq(before, &running));
        is_stopped.then(|| running.report())
    }

    /// Stops the candidate and returns its last report.
    pub fn stop(&self) -> Option<Report> {
        self.running.swap(None).map(|candidate| candidate.report())
    }
}

impl Candidate {
    fn observe(
        &self,
        subject: Subject<'_>,
        active: Option<&Decision>,
        denial: impl Fn(&Decision) -> Option<Denial>,
    ) {
        let Some(active) = active else {
            self.without_answer.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let candidate = self.rules.decide(subject);
        let counter = match (denial(active), denial(&candidate)) {
            (None, None) => &self.allowed_by_both,
            (Some(_), Some(_)) => &self.denied_by_both,
            (Some(denial), None) => {
                self.note(Effect::NewlyAllowed, subject, &denial);
                &self.newly_allowed
            }
            (None, Some(denial)) => {
                self.note(Effect::NewlyDenied, subject, &denial);
                &self.newly_denied
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn note(&self, effect: Effect, subject: Subject<'_>, denial: &Denial) {
        let identity = subject.boot_info();
        let BootInfo { app_id, compose_hash, device_id, os_image_hash, mr_aggregated, .. } = identity;
        let subject = subject.kind();
        let fields = [app_id, compose_hash, device_id, os_image_hash, mr_aggregated].map(Vec::clone);
        let dedup_key = ChangeKey { effect, subject, code: denial.code, fields };
        let now = unix_now();
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = changes.seen.get_mut(&dedup_key) {
            known.count += 1;
            known.last = now;
        } else if changes.seen.len() < MAX_CHANGES {
            let (denial, identity) = (denial.clone(), identity.clone());
            let change = Change { effect, subject, denial, identity, count: 1, first: now, last: now };
            changes.seen.insert(dedup_key, change);
        } else {
            changes.omitted += 1;
        }
    }

    fn report(&self) -> Report {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut listed: Vec<_> = changes.seen.values().cloned().collect();
        let omitted = changes.omitted;
        drop(changes);
        listed.sort_by(|a, b| (b.last, &a.identity.app_id).cmp(&(a.last, &b.identity.app_id)));
        Report {
            name: self.name.clone(),
            rules: self.rules.summary(),
            since: self.since,
            allowed_by_both: of(&self.allowed_by_both),
            denied_by_both: of(&self.denied_by_both),
            newly_allowed: of(&self.newly_allowed),
            newly_denied: of(&self.newly_denied),
            without_answer: of(&self.without_answer),
            changes: listed,
            omitted,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn candidate(app: u8) -> String {
        json!({
            "osImages": [hex::encode([0x44; 32])],
            "apps": {
                hex::encode([app; 20]): { "composeHashes": [hex::encode([0x22; 32])], "allowAnyDevice": true },
            },
        })
        .to_string()
    }

    fn allowed() -> Decision {
        Decision::Allowed { gateway_app_id: String::new(), release_stage: None, epochs: None }
    }

    /// The denial that is in the decision itself.
    fn as_it_is(decision: &Decision) -> Option<Denial> {
        match decision {
            Decision::Denied(denial) => Some(denial.clone()),
            Decision::Allowed { .. } => None,
            Decision::IfImage(condition) => panic!("{condition:?}"),
        }
    }

    fn denied() -> Decision {
        Decision::Denied(Denial {
            code: DenialCode::AppNotRegistered,
            reason: "app not registered".to_owned(),
            expected: None,
            actual: None,
        })
    }

    #[test]
    fn changes_are_counted_and_listed_once() {
        let shadow = Shadow::default();
        let identity = BootInfo::example();
        let other = BootInfo { app_id: vec![0x99; 20], ..BootInfo::example() };
        shadow.observe(Subject::App(&identity), Some(&allowed()), as_it_is);
        assert!(shadow.report().is_none());
        let (rules, before) =
            shadow.start("next".to_owned(), candidate(0x11).as_bytes(), EmptyDevices::AnyDevice).unwrap();
        assert!(rules.starts_with("1 apps") && before.is_none());
        for _ in 0..3 {
            shadow.observe(Subject::App(&identity), Some(&denied()), as_it_is);
            shadow.observe(Subject::App(&identity), Some(&allowed()), as_it_is);
            shadow.observe(Subject::App(&other), Some(&allowed()), as_it_is);
            shadow.observe(Subject::App(&other), Some(&denied()), as_it_is);
            shadow.observe(Subject::Kms(&identity), None, as_it_is);
        }
        let report = shadow.stop().expect("running");
        assert_eq!((report.newly_allowed, report.newly_denied), (3, 3));
        assert_eq!((report.allowed_by_both, report.denied_by_both, report.without_answer), (3, 3, 3));
        let mut changes: Vec<_> = report
            .changes
            .iter()
            .map(|c| (c.effect, c.denial.code.name(), c.identity.app_id[0], c.count))
            .collect();
        changes.sort_by_key(|change| change.2);
        let expected = [
            (Effect::NewlyAllowed, "app_not_registered", 0x11, 3),
            (Effect::NewlyDenied, "app_not_registered", 0x99, 3),
        ];
        assert_eq!(changes, expected);
        assert!(shadow.report().is_none());
    }

    #[test]
    fn the_stage_of_a_guest_counts_for_both_sides() {
        use crate::config::ReleaseStage::{self, Any, Boot};
        let of = |stage: Option<ReleaseStage>| Decision::Allowed {
            gateway_app_id: String::new(),
            release_stage: stage,
            epochs: None,
        };
        let identity = BootInfo::example();
        for (active, candidate_stage, has_booted, expected) in [
            (None, "boot", true, [0, 0, 0, 1]),
            (None, "boot", false, [1, 0, 0, 0]),
            (Some(Any), "boot", true, [0, 0, 0, 1]),
            (Some(Boot), "any", true, [0, 0, 1, 0]),
            (Some(Boot), "any", false, [1, 0, 0, 0]),
            (Some(Boot), "boot", true, [0, 1, 0, 0]),
            (Some(Any), "any", true, [1, 0, 0, 0]),
        ] {
            let shadow = Shadow::default();
            let mut file: serde_json::Value = serde_json::from_str(&candidate(0x11)).unwrap();
            file["apps"][hex::encode([0x11; 20])]["releaseStage"] = json!(candidate_stage);
            shadow.start(String::new(), file.to_string().as_bytes(), EmptyDevices::AnyDevice).unwrap();
            let too_late = || Denial {
                code: DenialCode::GuestHasBooted,
                reason: "keys are released to a guest that boots".to_owned(),
                expected: None,
                actual: None,
            };
            shadow.observe(Subject::App(&identity), Some(&of(active)), |decision| match decision {
                Decision::Allowed { release_stage: Some(Boot), .. } if has_booted => Some(too_late()),
                other => as_it_is(other),
            });
            let report = shadow.stop().expect("running");
            let counts =
                [report.allowed_by_both, report.denied_by_both, report.newly_allowed, report.newly_denied];
            assert_eq!(counts, expected, "{active:?} {candidate_stage} {has_booted}");
            assert!(report.changes.iter().all(|change| change.denial.code == DenialCode::GuestHasBooted));
        }
    }

    #[test]
    fn the_list_of_changes_is_bounded_and_says_so() {
        let shadow = Shadow::default();
        shadow.start(String::new(), b"{}", EmptyDevices::AnyDevice).unwrap();
        for number in 0..MAX_CHANGES as u32 + 7 {
            let app_id = [&[0; 16][..], &number.to_be_bytes()].concat();
            let identity = BootInfo { app_id, ..BootInfo::example() };
            shadow.observe(Subject::App(&identity), Some(&allowed()), as_it_is);
        }
        let report = shadow.report().expect("running");
        assert_eq!((report.changes.len(), report.omitted), (MAX_CHANGES, 7));
        assert_eq!(report.newly_denied, MAX_CHANGES as u64 + 7);
    }

    #[test]
    fn a_text_that_is_no_allowlist_changes_nothing() {
        let shadow = Shadow::default();
        shadow.start("one".to_owned(), b"{}", EmptyDevices::AnyDevice).unwrap();
        for text in ["", "[]", r#"{"apps": []}"#, "not JSON"] {
            assert!(
                shadow.start("two".to_owned(), text.as_bytes(), EmptyDevices::AnyDevice).is_err(),
                "{text}"
            );
        }
        assert_eq!(shadow.report().expect("running").name, "one");
    }

    #[test]
    fn a_candidate_may_be_large_and_no_larger() {
        let shadow = Shadow::default();
        let padded = |length: usize| format!("{{}}{}", " ".repeat(length - 2));
        let start = |text: String| shadow.start(String::new(), text.as_bytes(), EmptyDevices::AnyDevice);
        assert!(start(padded(MAX_CANDIDATE)).is_ok());
        let error = start(padded(MAX_CANDIDATE + 1)).expect_err("too large").to_string();
        assert_eq!(error, "the candidate must be at most 8388608 bytes, got 8388609");
    }

    #[tokio::test]
    async fn a_candidate_that_ends_is_let_go() {
        let shadow = Shadow::default();
        shadow.start("one".to_owned(), b"{}", EmptyDevices::AnyDevice).unwrap();
        let one = Arc::downgrade(shadow.running.load().as_ref().expect("running"));
        let (_, before) = shadow.start("two".to_owned(), b"{}", EmptyDevices::AnyDevice).unwrap();
        assert_eq!(before.expect("the first").name, "one");
        let two = Arc::downgrade(shadow.running.load().as_ref().expect("running"));
        assert_eq!(shadow.stop().expect("the second").name, "two");
        let began = std::time::Instant::now();
        while one.strong_count() + two.strong_count() > 0 {
            assert!(began.elapsed().as_secs() < 60, "they stay");
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
}
