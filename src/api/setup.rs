//! The setup service: what this KMS waits for before it serves, and checks that an operator can run beforehand.

mod calls;
mod checks;
mod finding;
mod reasons;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kms_attest::single_flight::{Answer, Latest};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use self::checks::Turns;
pub use self::checks::{About, Check};
pub use self::finding::Finding;
use super::onboard::OnboardService;
use crate::error::{Error, Result};
use crate::lifecycle::{Held, Sight};

/// The longest time that an answer to `status` is held back until something changes.
pub const MAX_WAIT: Duration = Duration::from_secs(20);
/// How often the key directory is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// So many callers may wait for a change; further ones are answered at once.
const WAITING: usize = 32;

/// How far the switch to the KMS phase has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// Nobody has called `Finish`, or there were no keys then.
    Resting,
    /// Keys exist, and the KMS phase is being prepared.
    Trying,
    /// What is named here is missing; it is tried again until it is there.
    Lacking(&'static str),
    /// What is named here is as it is until the next start.
    Stuck(&'static str),
    /// The KMS phase serves.
    Done,
}

/// Where this KMS stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// There are no keys yet.
    Onboarding,
    /// Keys are saved. `Finish` is next, or the KMS phase is being prepared.
    Committed,
    /// The KMS phase serves. Seen only by who asked before the switch: afterwards there is no setup service.
    Serving,
    /// The key directory holds a part of the keys. Nothing is written over them.
    Broken,
    /// Keys are saved, but this process cannot serve them: its configuration has to change.
    RestartRequired,
}

/// Something that an operator can do now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// A word for it: `allow`, `bootstrap`, `onboard`, `finish`, `wait`, `restore`, `restart` or `use`.
    pub step: &'static str,
    /// What it is, in a sentence.
    pub text: String,
}

/// What `status` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Where this KMS stands.
    pub mode: Mode,
    /// Its version.
    pub version: &'static str,
    /// Another one after each start of the process: 32 hex digits.
    pub boot_id: String,
    /// When the process started, RFC 3339.
    pub started_at: String,
    /// Whether `core.onboard.auth_token` is set.
    pub token_required: bool,
    /// Where the keys will be served, if that is another port than this one.
    pub serving_port: Option<u16>,
    /// What can be done now.
    pub next: Vec<Step>,
}

/// Whether what changes something asks for the onboarding token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// `core.onboard.auth_token` is set.
    Required,
    /// Whoever reaches the port is served.
    NotConfigured,
}

/// What operators see of a KMS that does not serve yet. It changes nothing.
#[derive(Debug)]
pub struct SetupService {
    onboard: Arc<OnboardService>,
    switch: watch::Receiver<Switch>,
    token: Token,
    serving_port: Option<u16>,
    boot_id: String,
    started_at: String,
    turns: Turns,
    waiting: Semaphore,
    seen: Latest<Sight>,
}

impl SetupService {
    /// The setup service beside `onboard`, in a process that started at `started` and serves keys at `serving_port`, if
    /// that is another port.
    pub fn new(
        onboard: Arc<OnboardService>,
        switch: watch::Receiver<Switch>,
        token: Token,
        serving_port: Option<u16>,
        started: SystemTime,
    ) -> Self {
        let mut boot_id = [0; 16];
        aws_lc_rs::rand::fill(&mut boot_id).expect("the system has randomness");
        let started_at =
            OffsetDateTime::from(started).replace_nanosecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        Self {
            onboard,
            switch,
            token,
            serving_port,
            boot_id: hex::encode(boot_id),
            started_at: started_at.format(&Rfc3339).unwrap_or_default(),
            turns: Turns::default(),
            waiting: Semaphore::new(WAITING),
            seen: Latest::default(),
        }
    }

    /// Where this KMS stands and what can be done. Waits at most `patience`, and never longer than [`MAX_WAIT`], for
    /// another mode, or for something else to be missing.
    ///
    /// # Errors
    /// When the key directory cannot be read.
    pub async fn status(&self, patience: Duration) -> Result<Status> {
        let (first, before) = self.look().await?;
        if patience.is_zero() || first.mode == Mode::Serving {
            return Ok(first);
        }
        let Ok(_seat) = self.waiting.try_acquire() else { return Ok(first) };
        let deadline = Instant::now() + patience.min(MAX_WAIT);
        let mut switch = self.switch.clone();
        loop {
            let wake = deadline.min(Instant::now() + LOOK_EVERY);
            // A sender that is gone changes nothing any more: the deadline ends the wait.
            let _ = tokio::time::timeout_at(wake, changed(&mut switch)).await;
            let (now, after) = self.look().await?;
            // That the switch has begun is no news: who asks again then may find the port changed already.
            let is_news = now.mode != first.mode || missing(after) != missing(before);
            if is_news || Instant::now() >= deadline {
                return Ok(now);
            }
        }
    }

    async fn look(&self) -> Result<(Status, Switch)> {
        let switch = *self.switch.borrow();
        let held = self.held().await?;
        let mode = match (switch, &held) {
            (Switch::Done, _) => Mode::Serving,
            (_, Held::Part { .. }) => Mode::Broken,
            (_, Held::Nothing) => Mode::Onboarding,
            (Switch::Stuck(_), Held::Keys) => Mode::RestartRequired,
            (_, Held::Keys) => Mode::Committed,
        };
        let status = Status {
            mode,
            version: env!("CVM_KMS_VERSION"),
            boot_id: self.boot_id.clone(),
            started_at: self.started_at.clone(),
            token_required: self.token == Token::Required,
            serving_port: self.serving_port,
            next: next(mode, switch, held),
        };
        Ok((status, switch))
    }

    /// What the key directory holds. One look at a time serves everyone who asked before it began, and keys are read only
    /// after something has changed.
    async fn held(&self) -> Result<Held> {
        let asked = std::time::Instant::now();
        let look = async |before: Option<Arc<Answer<Sight>>>| {
            let before = before.map(|seen| seen.value.clone());
            let sight = self.sight(before.clone()).await?;
            if matches!(sight.held(), Held::Part { .. }) && before.as_ref() != Some(&sight) {
                // Or it is in the middle of a commit: the one that saves keys holds the turn until all are there.
                let _turn = self.onboard.turn().await;
                return self.sight(None).await;
            }
            Ok(sight)
        };
        Ok(self.seen.get(|seen| seen.asked > asked, look).await?.value.held().clone())
    }

    async fn sight(&self, before: Option<Sight>) -> Result<Sight> {
        let onboarding = Arc::clone(&self.onboard.onboarding);
        let unreadable = "the key directory cannot be read";
        tokio::task::spawn_blocking(move || onboarding.look(before))
            .await
            .map_err(|error| Error::internal(unreadable, error))?
            .map_err(|error| Error::internal(unreadable, error))
    }
}

async fn changed(switch: &mut watch::Receiver<Switch>) {
    if switch.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn missing(switch: Switch) -> Option<&'static str> {
    match switch {
        Switch::Lacking(what) | Switch::Stuck(what) => Some(what),
        Switch::Resting | Switch::Trying | Switch::Done => None,
    }
}

fn next(mode: Mode, switch: Switch, held: Held) -> Vec<Step> {
    let step = |step, text: &str| Step { step, text: text.to_owned() };
    match mode {
        Mode::Onboarding => vec![
            step("allow", "allow what GetAttestationInfo shows of this KMS in the policy"),
            step("bootstrap", "first KMS: call Bootstrap with its domain, which makes new keys"),
            step("onboard", "replica: call Onboard with the URL of a running KMS and its own domain"),
        ],
        Mode::Committed => match switch {
            Switch::Resting => vec![step("finish", "the keys are saved: call Finish to serve them")],
            Switch::Lacking(what) => {
                vec![Step { step: "wait", text: format!("{what}; it is tried again every second") }]
            }
            _ => vec![step("wait", "the keys are being brought into service")],
        },
        Mode::Serving => vec![step("use", "this KMS serves its keys over TLS: ask it for GetMeta")],
        Mode::Broken => {
            let Held::Part { reason } = held else { return Vec::new() };
            vec![Step { step: "restore", text: reason }]
        }
        Mode::RestartRequired => {
            let Switch::Stuck(what) = switch else { return Vec::new() };
            vec![Step { step: "restart", text: format!("{what}; correct that and start this KMS again") }]
        }
    }
}
