//! The setup service: what this KMS is waiting for before it serves, and checks that an operator can run
//! beforehand.

mod calls;
mod check;
mod checks;
mod console;
mod finding;
mod reasons;
mod services;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kms_attest::single_flight::{Answer, Latest};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

pub use self::calls::Machine;
pub use self::check::Check;
pub use self::checks::About;
use self::checks::Turns;
pub use self::console::Console;
pub use self::finding::Finding;
pub use self::services::Services;
use super::health::Boot;
use super::onboard::{OnboardService, RestoreStatus};
use crate::clock::{rfc3339, unix};
use crate::error::{Error, Result};
use crate::lifecycle::{Held, Inspection};

/// The longest time that `status` waits for a change.
pub const MAX_WAIT: Duration = Duration::from_secs(20);
/// How often the key directory is checked meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How many callers may wait for a change; further ones get the status at once.
const WAITING: usize = 32;

/// The progress of the switch to the KMS phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// `Finish` was not called, or there were no keys then.
    Resting,
    /// Keys exist, and the KMS phase is being prepared.
    Trying,
    /// The named thing is missing; tried again until it is there.
    Lacking(&'static str),
    /// The named fault can only be corrected by a restart.
    Stuck(&'static str),
    /// The KMS phase serves.
    Done,
}

/// The state of this KMS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// There are no keys yet.
    Onboarding,
    /// Keys are saved. `Finish` comes next, or the KMS phase is being prepared.
    Committed,
    /// The KMS phase serves. Only calls that began before the switch see this: afterwards there is no setup
    /// service.
    Serving,
    /// The key directory holds some of the keys. Nothing is overwritten.
    Broken,
    /// Keys are saved, but this process cannot serve them: its configuration has to change.
    RestartRequired,
    /// Keys are served, as the admin listener says it afterwards.
    Installed,
}

/// What an operator can do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its name: `allow`, `bootstrap`, `onboard`, `share`, `finish`, `wait`, `restore`, `restart` or `use`.
    pub step: &'static str,
    /// A sentence about it.
    pub text: String,
}

/// The response of `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The state of this KMS.
    pub mode: Mode,
    /// The program's version.
    pub version: &'static str,
    /// 32 hexadecimal digits, different after each start.
    pub boot_id: String,
    /// When the process started (RFC 3339).
    pub started_at: String,
    /// Whether `core.onboard.auth_token` is set.
    pub token_required: bool,
    /// The port that will serve the keys, if it is not this one.
    pub serving_port: Option<u16>,
    /// Where the console is once keys are served, if there is one.
    pub console: Option<Console>,
    /// What officers restore, or have restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreStatus>,
    /// The next steps.
    pub next: Vec<Step>,
}

impl Status {
    /// That of a KMS that serves, in this run of its process.
    pub fn installed(boot: &Boot) -> Self {
        Self {
            mode: Mode::Installed,
            version: env!("CVM_KMS_VERSION"),
            boot_id: boot.id.clone(),
            started_at: rfc3339(unix(boot.started)),
            token_required: false,
            serving_port: None,
            console: None,
            restore: None,
            next: Vec::new(),
        }
    }
}

/// Whether calls that change something need the onboarding token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// `core.onboard.auth_token` is set.
    Required,
    /// They need no token.
    NotConfigured,
}

/// What operators see of a KMS that does not serve yet. It changes nothing.
#[derive(Debug)]
pub struct SetupService {
    onboard: Arc<OnboardService>,
    switch: watch::Receiver<Switch>,
    token: Token,
    serving_port: Option<u16>,
    console: Option<Console>,
    boot_id: String,
    started_at: String,
    services: Services,
    turns: Turns,
    waiting: Semaphore,
    seen: Latest<Inspection>,
}

impl SetupService {
    /// The setup service beside `onboard`, in a process that started at `started` and will serve keys at
    /// `serving_port`, if that is another port, with a `console`, if there is one.
    pub fn new(
        onboard: Arc<OnboardService>,
        switch: watch::Receiver<Switch>,
        token: Token,
        serving_port: Option<u16>,
        console: Option<Console>,
        started: SystemTime,
        boot_id: String,
    ) -> Self {
        let started_at =
            OffsetDateTime::from(started).replace_nanosecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        Self {
            onboard,
            switch,
            token,
            serving_port,
            console,
            boot_id,
            started_at: started_at.format(&Rfc3339).unwrap_or_default(),
            services: Services::default(),
            turns: Turns::default(),
            waiting: Semaphore::new(WAITING),
            seen: Latest::default(),
        }
    }

    /// With checks of these services.
    #[must_use]
    pub fn asking(self, services: Services) -> Self {
        Self { services, ..self }
    }

    /// The status. Waits up to `wait`, at most [`MAX_WAIT`], for another mode or another missing thing.
    ///
    /// # Errors
    /// The key directory cannot be read.
    pub async fn status(&self, wait: Duration) -> Result<Status> {
        let (first, before) = self.look().await?;
        if wait.is_zero() || first.mode == Mode::Serving {
            return Ok(first);
        }
        let Ok(_seat) = self.waiting.try_acquire() else { return Ok(first) };
        let deadline = Instant::now() + wait.min(MAX_WAIT);
        let mut switch = self.switch.clone();
        loop {
            let wake = deadline.min(Instant::now() + LOOK_EVERY);
            // If the sender is gone nothing changes again, and the deadline ends the wait.
            let _ = tokio::time::timeout_at(wake, changed(&mut switch)).await;
            let (now, after) = self.look().await?;
            // The start of the switch alone is not reported: a caller that then reconnects may find that the
            // port has changed.
            let is_news = now.mode != first.mode
                || missing(after) != missing(before)
                || progress(&now) != progress(&first);
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
        let restore = self.onboard.restore_status();
        let status = Status {
            mode,
            version: env!("CVM_KMS_VERSION"),
            boot_id: self.boot_id.clone(),
            started_at: self.started_at.clone(),
            token_required: self.token == Token::Required,
            serving_port: self.serving_port,
            console: self.console.clone(),
            next: next(mode, switch, held, &restore),
            restore: (restore.ceremony.is_some() || restore.restored.is_some()).then_some(restore),
        };
        Ok((status, switch))
    }

    /// What the key directory holds. One read serves all callers that came before it began, and the keys are
    /// only read after a change.
    async fn held(&self) -> Result<Held> {
        let asked = std::time::Instant::now();
        let look = async |before: Option<Arc<Answer<Inspection>>>| {
            let before = before.map(|seen| seen.value.clone());
            let inspection = self.inspect(before.clone()).await?;
            if matches!(inspection.held(), Held::Part { .. }) && before.as_ref() != Some(&inspection) {
                // Maybe in the middle of a commit, which holds the turn until all keys are there.
                let _turn = self.onboard.turn().await;
                return self.inspect(None).await;
            }
            Ok(inspection)
        };
        Ok(self.seen.get(|seen| seen.asked > asked, look).await?.value.held().clone())
    }

    async fn inspect(&self, before: Option<Inspection>) -> Result<Inspection> {
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

/// How far a restore is: its set, and how many shares have arrived.
fn progress(status: &Status) -> Option<(&str, usize)> {
    let open = status.restore.as_ref()?.ceremony.as_ref()?;
    Some((&open.set, open.received))
}

/// What a recovery set does not hold.
const RESTORED: &str = "the keys are saved. Freezes, and the epochs that operators chose for apps, are not restored: deny in the \
                        allowlist what must get no keys, call Finish, and set both again";

fn next(mode: Mode, switch: Switch, held: Held, restore: &RestoreStatus) -> Vec<Step> {
    let step = |step, text: &str| Step { step, text: text.to_owned() };
    match mode {
        Mode::Onboarding => match &restore.ceremony {
            Some(open) => vec![Step {
                step: "share",
                text: format!(
                    "{} of {} shares have arrived: officers send theirs with kmsctl recovery send",
                    open.received, open.threshold
                ),
            }],
            None => vec![
                step(
                    "allow",
                    "allow what GetAttestationInfo shows of this KMS in the policy, unless it is allowed already",
                ),
                step("bootstrap", "first KMS: call Bootstrap with its domain, which makes new keys"),
                step("onboard", "replica: call Onboard with the URL of a running KMS and its own domain"),
            ],
        },
        Mode::Committed => match switch {
            Switch::Resting => match restore.restored {
                None => vec![step("finish", "the keys are saved: call Finish to serve them")],
                Some(_) => vec![step("finish", RESTORED)],
            },
            Switch::Lacking(what) => {
                vec![Step { step: "wait", text: format!("{what}; it is tried again every second") }]
            }
            Switch::Trying | Switch::Stuck(_) | Switch::Done => {
                vec![step("wait", "the keys are being brought into service")]
            }
        },
        Mode::Serving => vec![step("use", "this KMS serves its keys over TLS: call GetMeta")],
        Mode::Installed => Vec::new(),
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
