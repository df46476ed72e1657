//! Actions of operators: a closed set, each recorded by two events. None runs a program.

mod drain;
mod self_test;

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::drain::Target;
use super::Caller;
use super::admin::AdminService;
use super::readiness::policy_problem;
use super::recovery::RecoveryService;
use crate::audit::{Event, OnNode, Receipt};
use crate::clock::{rfc3339, unix_now};
use crate::error::{Code, Error, Result};
use crate::lifecycle::Ready;
use crate::proto::{ClearImageCacheRequest, RefreshedCollateral};
use crate::request;

/// How long an action may take. Less than the limit of a request, so that the caller learns the outcome.
const MAX_TIME: Duration = Duration::from_secs(40);

/// An action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Fetches Intel's collateral again.
    RefreshCollateral,
    /// Reads the policy again.
    ReloadPolicy,
    /// Issues the TLS certificates again.
    ReissueCertificate,
    /// Tells load balancers to send requests elsewhere.
    Drain,
    /// Ends that.
    Undrain,
    /// Removes all cached OS images and measurements.
    ClearImageCache,
    /// Checks what a release depends on.
    SelfTest,
    /// Signs a checkpoint of the audit log.
    Checkpoint,
    /// Reminds owners of the next drill of the recovery set.
    RecoveryDrillReminder,
}

impl Action {
    /// All actions.
    pub const ALL: [Self; 9] = [
        Self::RefreshCollateral,
        Self::ReloadPolicy,
        Self::ReissueCertificate,
        Self::Drain,
        Self::Undrain,
        Self::ClearImageCache,
        Self::SelfTest,
        Self::Checkpoint,
        Self::RecoveryDrillReminder,
    ];

    /// Its name in paths and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::RefreshCollateral => "refresh-collateral",
            Self::ReloadPolicy => "reload-policy",
            Self::ReissueCertificate => "reissue-certificate",
            Self::Drain => "drain",
            Self::Undrain => "undrain",
            Self::ClearImageCache => "clear-image-cache",
            Self::SelfTest => "self-test",
            Self::Checkpoint => "checkpoint",
            Self::RecoveryDrillReminder => "recovery-drill-reminder",
        }
    }

    /// What it does, in a sentence.
    pub fn description(self) -> &'static str {
        match self {
            Self::RefreshCollateral => {
                "fetch Intel's collateral again, and verify every caller by the result"
            }
            Self::ReloadPolicy => {
                "read the allowlist again, or ask the authorization backend whether it answers"
            }
            Self::ReissueCertificate => "issue the TLS certificates again, with new evidence",
            Self::Drain => {
                "have load balancers send requests elsewhere; requests that arrive are still served"
            }
            Self::Undrain => "end a drain: load balancers send requests here again",
            Self::ClearImageCache => "remove all cached OS images and measurements",
            Self::SelfTest => "check keys, attestation, policy, collateral and the audit log",
            Self::Checkpoint => {
                "sign a checkpoint of the audit log, and wait for the witnesses that are required"
            }
            Self::RecoveryDrillReminder => {
                "record, and so notify, when the recovery set was last proved, and what is to be done"
            }
        }
    }

    /// Whether it may run several times at once: drains may be of several nodes, and one that waits for the database keeps no
    /// node from its own.
    fn may_overlap(self) -> bool {
        self == Self::Drain
    }

    /// Whether the body of its request is read, an [`ActionRequest`].
    pub fn has_body(self) -> bool {
        matches!(self, Self::Drain | Self::Undrain)
    }

    /// The action with this name.
    ///
    /// # Errors
    /// `unknown_action`, with the names that exist.
    pub fn parse(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::invalid(format!("there is no such action; the actions are {names}"))
                .because("unknown_action")
        })
    }
}

/// Issues the TLS certificates of this KMS again.
pub trait Reissue: fmt::Debug + Send + Sync {
    /// Issues and uses them.
    ///
    /// The error is a sentence for operators.
    fn reissue(&self) -> Pin<Box<dyn Future<Output = std::result::Result<(), String>> + Send + '_>>;
}

/// Runs actions, each at most once at a time.
#[derive(Debug)]
pub struct ActionService {
    admin: Arc<AdminService>,
    ready: Arc<Ready>,
    certificates: Arc<dyn Reissue>,
    recovery: Arc<RecoveryService>,
    states: Mutex<BTreeMap<Action, State>>,
}

#[derive(Debug, Clone, Default)]
struct State {
    running: usize,
    last: Option<Last>,
}

/// The list of actions.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Actions {
    actions: Vec<Listed>,
}

/// An action, and how it ended last.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Listed {
    name: &'static str,
    /// What it does.
    description: &'static str,
    /// The lowest role that may run it.
    role: &'static str,
    /// Whether it runs now.
    running: bool,
    /// How it ended last since the start of the process.
    last: Option<Last>,
}

/// How an action ended.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Last {
    /// When it ended, RFC 3339 in UTC.
    at: String,
    ok: bool,
    /// What was done, or why it failed.
    message: String,
}

/// The response to a request for an action that succeeded.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Done {
    name: &'static str,
    /// Always true; an action that fails is an error with the code `action_failed`.
    ok: bool,
    /// What was done.
    message: String,
    took_ms: u64,
    /// Whether the other nodes of the fleet know it; absent without any, and for what is about one node.
    #[serde(skip_serializing_if = "Option::is_none")]
    shared: Option<bool>,
}

/// What an action is about.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActionRequest {
    /// The node of the fleet that is drained or undrained, by its id or name; this one if it is absent.
    #[serde(default)]
    node: Option<String>,
}

/// Marks an action as running until dropped.
#[derive(Debug)]
struct Running {
    service: Arc<ActionService>,
    action: Action,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.service.change(self.action, |state| state.running -= 1);
    }
}

/// How an action ends: a sentence about what was done, or why it failed.
type Ended<T = String> = std::result::Result<T, String>;

/// What was done.
#[derive(Debug)]
struct Made {
    /// As a sentence.
    message: String,
    shared: Option<bool>,
}

impl From<String> for Made {
    fn from(message: String) -> Self {
        Self { message, shared: None }
    }
}

impl ActionService {
    /// The actions of a KMS with keys.
    pub fn new(
        admin: Arc<AdminService>,
        ready: Arc<Ready>,
        certificates: Arc<dyn Reissue>,
        recovery: Arc<RecoveryService>,
    ) -> Self {
        Self { admin, ready, certificates, recovery, states: Mutex::default() }
    }

    /// All actions.
    pub fn list(&self) -> Actions {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let listed = |action: Action| {
            let State { running, last } = states.get(&action).cloned().unwrap_or_default();
            Listed {
                name: action.name(),
                description: action.description(),
                role: super::Role::Operator.name(),
                running: running > 0,
                last,
            }
        };
        Actions { actions: Action::ALL.into_iter().map(listed).collect() }
    }

    /// Runs an action to its end, also if the caller disconnects.
    ///
    /// # Errors
    /// `action_running`, if it runs already; `action_failed`, with the reason; it is about a node that is not known.
    pub async fn run(self: Arc<Self>, caller: &Caller, action: Action, asked: ActionRequest) -> Result<Done> {
        let target =
            asked.node.map(|node| drain::target(&self.admin.foundation().drain, &node)).transpose()?;
        let running = Arc::clone(&self).begin(action)?;
        let caller = caller.clone();
        let task = request::spawn(async move {
            let began = Instant::now();
            let ended = running.service.carry_out(action, &caller, target).await;
            (ended, began.elapsed())
        });
        let ended = task.await.map_err(|error| Error::internal("the action ended in a panic", error))?;
        match ended {
            (Ok(Made { message, shared }), took) => Ok(Done {
                name: action.name(),
                ok: true,
                message,
                shared,
                took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            }),
            (Err(reason), _) => Err(Error::new(Code::Unavailable, reason)
                .within(&format!("action {} failed", action.name()))
                .because("action_failed")),
        }
    }

    fn begin(self: Arc<Self>, action: Action) -> Result<Running> {
        let begins = self.change(action, |state| {
            let begins = state.running == 0 || action.may_overlap();
            state.running += usize::from(begins);
            begins
        });
        match begins {
            true => Ok(Running { service: self, action }),
            false => Err(Error::new(Code::Conflict, format!("{} runs already", action.name()))
                .because("action_running")),
        }
    }

    fn change<T>(&self, action: Action, change: impl FnOnce(&mut State) -> T) -> T {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        change(states.entry(action).or_default())
    }

    async fn carry_out(&self, action: Action, caller: &Caller, target: Option<Target>) -> Ended<Made> {
        let (by, remote) = (caller.author().by, caller.remote());
        let name = action.name();
        let on = target.as_ref().map(|it| OnNode { node: it.id.to_string(), name: it.name.clone() });
        let started = Event::ActionStarted { action: name, on: on.clone(), by: by.clone(), remote };
        let receipt = self.admin.recorded(started).await;
        let performed = self.perform(action, caller, target.as_ref(), receipt.as_ref());
        let ended = tokio::time::timeout(MAX_TIME, performed).await;
        let ended = ended.unwrap_or_else(|_| Err(format!("it did not end within {} s", MAX_TIME.as_secs())));
        let event = match &ended {
            Ok(_) => Event::ActionSucceeded { action: name, on, by, remote },
            Err(reason) => Event::ActionFailed { action: name, on, reason: reason.clone(), by, remote },
        };
        self.admin.recorded(event).await;
        let (Ok(Made { message, .. }) | Err(message)) = &ended;
        let last = Last { at: rfc3339(unix_now()), ok: ended.is_ok(), message: message.clone() };
        self.change(action, |state| state.last = Some(last));
        ended
    }

    async fn perform(
        &self,
        action: Action,
        caller: &Caller,
        target: Option<&Target>,
        receipt: Option<&Receipt>,
    ) -> Ended<Made> {
        let foundation = self.admin.foundation();
        let done: Ended = match action {
            Action::RefreshCollateral => {
                let refreshed =
                    self.admin.refresh_collateral(caller, ()).await.map_err(|error| text(&error))?;
                of_refreshed(&refreshed.models)
            }
            Action::ReloadPolicy => {
                let asked = foundation.policy.info().await;
                match (asked, policy_problem(&foundation.policy)) {
                    (Ok(_), None) => Ok(format!("the policy ({}) is in force", foundation.policy.kind())),
                    (Err(error), _) => Err(error.to_string()),
                    (Ok(_), Some(error)) => Err(error),
                }
            }
            Action::ReissueCertificate => {
                self.certificates.reissue().await?;
                Ok("new connections get the new certificates".to_owned())
            }
            Action::Drain => return drain::begin(&foundation.drain, target, &caller.author().by).await,
            Action::Undrain => return drain::end(&foundation.drain, target, &caller.author().by).await,
            Action::ClearImageCache => {
                let all = || "all".to_owned();
                let request = ClearImageCacheRequest { image_hash: all(), config_hash: all() };
                self.admin.clear_image_cache(caller, request).await.map_err(|error| text(&error))?;
                Ok("all cached images and measurements were removed".to_owned())
            }
            Action::SelfTest => self_test::run(foundation, &self.ready).await,
            Action::Checkpoint => self.checkpoint(receipt).await,
            Action::RecoveryDrillReminder => {
                let reason = self.recovery.reminder();
                let author = caller.author();
                let (by, remote) = (author.by, author.remote);
                let event = Event::RecoveryDrillReminder { reason: reason.clone(), by, remote };
                let _ = foundation.audit.record(event).await.map_err(|error| error.to_string())?;
                Ok(reason)
            }
        };
        done.map(Made::from)
    }

    /// The checkpoint that has the record of the action itself: each record is in a signed tree before its receipt exists.
    async fn checkpoint(&self, receipt: Option<&Receipt>) -> Ended {
        let audit = &self.admin.foundation().audit;
        let receipt = receipt.ok_or("the audit log cannot be written")?;
        audit.witnessed(receipt).await.map_err(|error| error.to_string())?;
        let head = audit.head().ok_or("the audit log is not signed yet")?;
        Ok(format!("the signed tree has {} records", head.size.get()))
    }
}

fn of_refreshed(models: &[RefreshedCollateral]) -> Ended {
    let failed: Vec<_> = models.iter().filter(|model| !model.failure.is_empty()).collect();
    match failed.first() {
        None if models.is_empty() => {
            Ok("no collateral is in use yet, so there was nothing to fetch".to_owned())
        }
        None => Ok(format!("collateral of {} models was fetched", models.len())),
        Some(first) => Err(format!(
            "{} of {} models could not be fetched: {}",
            failed.len(),
            models.len(),
            first.failure
        )),
    }
}

/// Operators see what the caller of a method would see.
fn text(error: &Error) -> String {
    error.message().to_owned()
}
