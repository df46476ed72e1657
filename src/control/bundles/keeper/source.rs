//! Asks the source of the configuration for bundles.

use std::time::{Duration, Instant};

use kms_policy::bundle::BundleDigest;
use kms_policy::bundle::source::Fetched;
use kms_policy::settings::{Activation, BundleSource};

use super::super::error::TRY_AGAIN;
use super::{BundleKeeper, Origin};

/// How often a file is looked at, whatever the configuration says of servers.
const LOOK_AT_FILE: Duration = Duration::from_secs(2);

/// How often a source is asked while no bundle is in force.
const ASK_AT_FIRST: Duration = Duration::from_secs(10);

/// How long a start waits for a source.
const FIRST_WAIT: Duration = Duration::from_secs(10);

/// How often gauges are set, and it is looked whether a bundle that waits has become valid.
const TICK: Duration = Duration::from_secs(1);

impl BundleKeeper {
    /// Asks the source now.
    ///
    /// # Errors
    /// Why it gives nothing that can be used, for operators.
    pub async fn fetch(&self) -> Result<Option<BundleDigest>, String> {
        let mut source = self.source.lock().await;
        let fetched = source.fetch().await;
        let result = match &fetched {
            Ok(Fetched::New(..)) => "new",
            Ok(Fetched::Unchanged) => "unchanged",
            Err(_) => "failed",
        };
        self.metrics.policy_bundle_fetched(&self.domain, result);
        let outcome = match fetched {
            Ok(Fetched::Unchanged) => Ok(None),
            Ok(Fetched::New(bytes, seen)) => match self.offer(bytes, self.origin(), None).await {
                Ok((_, digest)) => {
                    source.accept(seen);
                    Ok(Some(digest))
                }
                Err(error) => Err(error.to_string()),
            },
            Err(error) => Err(error.to_string()),
        };
        drop(source);
        let problem = outcome.as_ref().err().cloned();
        if self.bundled().source_problem() != problem {
            match &problem {
                Some(problem) => tracing::warn!(domain = self.domain, problem, "no new policy bundle"),
                None => {
                    tracing::info!(domain = self.domain, "the source of policy bundles can be used again")
                }
            }
            self.bundled().set_source_problem(problem);
        }
        outcome
    }

    pub(super) fn origin(&self) -> Origin {
        match self.bundled().settings().source {
            BundleSource::Operators => Origin::Operators,
            BundleSource::File(_) => Origin::File,
            BundleSource::Server(_) => Origin::Server,
        }
    }

    /// Takes what the source has at a start: from a file, and from a server if no bundle is in force.
    pub async fn begin(&self) {
        let is_file = matches!(self.bundled().settings().source, BundleSource::File(_));
        let is_needed = self.bundled().bundle().is_none() && self.origin() == Origin::Server;
        if !is_file && !is_needed {
            return;
        }
        let first = async {
            // Its outcome is in the view.
            let _ = self.fetch().await;
            if self.bundled().settings().activation == Activation::Automatic {
                // Its failure is in the log, and it is tried again.
                let _ = self.advance(self.started.elapsed()).await;
            }
        };
        if tokio::time::timeout(FIRST_WAIT, first).await.is_err() {
            tracing::warn!(
                domain = self.domain,
                "the source of policy bundles is slow; the start goes on without it"
            );
        }
    }

    /// Asks the source from time to time, and puts into force what the configuration wants at once, until dropped.
    pub async fn keep_fresh(&self) {
        let settings = self.bundled().settings();
        let mut asked: Option<Instant> = None;
        let mut failed: Option<Instant> = None;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let every = match (&settings.source, self.bundled().bundle()) {
                (BundleSource::Operators, _) => None,
                (BundleSource::File(_), _) => Some(LOOK_AT_FILE.min(settings.poll_interval)),
                (BundleSource::Server(_), None) => Some(ASK_AT_FIRST.min(settings.poll_interval)),
                (BundleSource::Server(_), Some(_)) => Some(settings.poll_interval),
            };
            if every.is_some_and(|every| asked.is_none_or(|asked| asked.elapsed() >= every)) {
                asked = Some(Instant::now());
                // Its outcome is in the view.
                let _ = self.fetch().await;
            }
            self.follow_again().await;
            let may_try = failed.is_none_or(|failed| failed.elapsed() >= TRY_AGAIN);
            if settings.activation == Activation::Automatic && may_try {
                failed = self.advance(self.started.elapsed()).await.is_err().then(Instant::now);
            }
            self.measure();
        }
    }
}
