//! What happens after a write that did not happen, until records are written again.

use std::io;
use std::time::{Duration, Instant};

use super::super::event::Event;
use super::super::health::FailureReason;
use super::Writer;
use super::cause::Cause;
use super::reserve::is_full;

/// The pause between attempts to write again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The pause before another attempt where no attempt helps.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// After this time without a failure, the pause begins at its shortest again.
const STEADY: Duration = Duration::from_secs(30);

/// Why nothing is written, and what must be done first.
pub(super) struct Trouble {
    pub(super) cause: Cause,
    pub(super) reason: FailureReason,
    pub(super) need: Need,
    pub(super) since: Instant,
    pub(super) next_try: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// The file is sound: the next write may do.
    Write,
    /// The file is in doubt, or no longer ours.
    NewSegment,
    /// There is no open file.
    Open,
    /// Nothing that this process does helps.
    Restart,
}

/// A write that did not happen, as far as anyone knows.
pub(super) struct Failure {
    pub(super) cause: Cause,
    pub(super) reason: FailureReason,
    pub(super) need: Need,
    pub(super) error: io::Error,
}

impl Failure {
    pub(super) fn write(need: Need) -> impl Fn(io::Error) -> Self {
        move |error| {
            let (cause, reason) = match is_full(&error) {
                true => (Cause::DiskFull, FailureReason::DiskFull),
                false => (Cause::WriteFailed, FailureReason::Write),
            };
            Self { cause, reason, need, error }
        }
    }

    pub(super) fn sync(need: Need) -> impl Fn(io::Error) -> Self {
        move |error| {
            let reason = if is_full(&error) { FailureReason::DiskFull } else { FailureReason::Sync };
            Self { cause: Cause::SyncFailed, reason, need, error }
        }
    }

    pub(super) fn changed(cause: Cause) -> Self {
        let error = io::Error::other(FailureReason::FileChanged.to_string());
        Self { cause, reason: FailureReason::FileChanged, need: Need::NewSegment, error }
    }
}

impl Writer {
    pub(super) fn fail(&mut self, failure: Failure) {
        let Failure { cause, reason, need, error } = failure;
        let now = Instant::now();
        if self.trouble.is_none()
            && self.recovered.is_none_or(|recovered| now.duration_since(recovered) > STEADY)
        {
            self.pause = Duration::ZERO;
        }
        if self.trouble.as_ref().is_none_or(|known| known.reason != reason) {
            tracing::error!(cause = cause.name(), %error, "audit records cannot be written: no keys are released");
        }
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, MAX_PAUSE);
        self.status.failed(reason);
        let since = self.trouble.as_ref().map_or(now, |trouble| trouble.since);
        // What is in doubt stays so, whatever else fails later.
        let (cause, need) = match &self.trouble {
            Some(old) if need == Need::Write || need == old.need => (old.cause, old.need),
            _ => (cause, need),
        };
        let pause = if need == Need::Restart { NEVER } else { self.pause };
        self.trouble = Some(Trouble { cause, reason, need, since, next_try: now + pause });
    }

    /// Tries to write again.
    pub(super) fn repair(&mut self) {
        let Some(trouble) = self.trouble.as_ref().filter(|trouble| trouble.need != Need::Restart) else {
            return;
        };
        let (cause, seconds) = (trouble.cause, trouble.since.elapsed().as_secs());
        self.status.begins();
        let outcome = match trouble.need {
            Need::Write => self
                .look()
                .and_then(|()| self.write_kept(Some(Event::Resumed { reason: cause.name(), seconds }))),
            Need::NewSegment => self.begin_segment(cause),
            Need::Open => self.open_again(Event::Resumed { reason: cause.name(), seconds }),
            Need::Restart => return,
        };
        match outcome {
            Ok(()) => {
                self.trouble = None;
                self.recovered = Some(Instant::now());
                self.status.succeeded();
                tracing::warn!(cause = cause.name(), seconds, "audit records are written again");
            }
            Err(failure) => self.fail(failure),
        }
    }

    pub(super) fn look_and_repair(&mut self) {
        self.looked = Some(Instant::now());
        if let Err(failure) = self.look() {
            self.fail(failure);
            self.repair();
        }
    }
}
