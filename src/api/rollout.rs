//! `/api/v1/rollout`: a rollout of an OS image over the nodes of a fleet, planned, started, driven and shown.

mod operation;
mod plan;
mod shown;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kms_wire::join::is_hex;
use kms_wire::operation::Operation;
use kms_wire::rollout::RolloutView;
use schemars::JsonSchema;
use serde::Deserialize;

use self::plan::Refusal;
pub use self::plan::StartRequest;
use super::Caller;
use super::approval_gate::ApprovalGate;
use crate::admission::Foundation;
use crate::audit::Event;
use crate::control::{
    Approved, Begin, Current, Driver, HookReport, HookSays, Moved, NoOrder, Order, RolloutError, Rollouts,
    StartRollout,
};
use crate::error::{Code, Error, Result};
use crate::request;
use crate::state::rollout::{Rollout, RolloutNode, RolloutState, RolloutStep};
use crate::state::shared::{DatabaseError, Unshared};

/// The most bytes of what a driver says about its program.
const MAX_SAID: usize = 300;
/// Where no driver asks, the policy that refuses an image is asked again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// Starts, drives and shows rollouts.
#[derive(Debug)]
pub struct RolloutService {
    /// `None` where nothing is shared.
    rollouts: Option<Arc<Rollouts>>,
    foundation: Arc<Foundation>,
    gate: ApprovalGate,
    /// Why nothing may be begun, when this node looked last.
    refused: Mutex<Option<Refused>>,
}

/// Why nothing of a rollout may be begun.
#[derive(Debug, Clone)]
struct Refused {
    /// The id of the rollout.
    rollout: String,
    refusal: Refusal,
    at: Instant,
}

impl Refused {
    /// Whether the policy was asked about this rollout so recently that it need not be asked again.
    fn is_recent(&self, rollout: &Rollout, now: Instant) -> bool {
        self.rollout == rollout.id
            && matches!(self.refusal, Refusal::ByPolicy(_))
            && now.saturating_duration_since(self.at) < ASK_AGAIN
    }
}

/// The body of the orders; `pause`, `resume` and `cancel` have an empty one.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderRequest {
    /// The name of the node, for `retry` and `skip`.
    #[serde(default)]
    node: Option<String>,
}

/// The body of `POST /api/v1/rollout/step`: a driver asks for what comes next.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StepRequest {
    /// A random id of the driver, 32 hex digits.
    driver: String,
    /// The rollout that it drives: another one is not touched. Absent before it knows.
    #[serde(default)]
    rollout: Option<String>,
    /// Whether it replaces a driver that has not been silent for long enough.
    #[serde(default)]
    take_over: bool,
    /// What the driver's program does.
    #[serde(default)]
    hook: Option<HookBody>,
}

/// What a driver says of the program that replaces a node.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HookBody {
    /// The name of the node.
    node: String,
    /// The attempt, as it was told.
    attempt: u32,
    /// Whether it starts, or how it ended.
    says: HookWord,
    /// When it starts: for how many seconds it may run.
    #[serde(default)]
    seconds: u64,
    /// Why it failed.
    #[serde(default)]
    reason: String,
}

/// What a program does.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HookWord {
    /// It will be started if the response is no error.
    Starts,
    /// It has ended well.
    Succeeded,
    /// It has not, or was ended.
    Failed,
}

impl RolloutService {
    /// `rollouts` is `None` where nothing is shared.
    pub fn new(rollouts: Option<Arc<Rollouts>>, foundation: Arc<Foundation>, gate: ApprovalGate) -> Self {
        Self { rollouts, foundation, gate, refused: Mutex::default() }
    }

    fn rollouts(&self) -> Result<&Arc<Rollouts>> {
        let nothing = || {
            let text =
                "this KMS shares no state (core.state is \"files\"), so there is nothing to roll out over";
            Error::invalid(text).because("not_shared")
        };
        self.rollouts.as_ref().ok_or_else(nothing)
    }

    /// The rollout as this node knows it, from memory and without waiting.
    pub fn view(&self) -> RolloutView {
        let Some(rollouts) = &self.rollouts else { return shown::of_files() };
        match &*rollouts.current() {
            Current::None => shown::none(),
            Current::Unreadable(problem) => shown::unreadable(problem),
            Current::Known(rollout) => self.shown(rollouts, rollout, self.last_refusal(rollout)),
        }
    }

    /// The same as something that goes on for longer than a request, and why there is one that cannot be shown.
    pub fn operation(&self) -> (Option<Operation>, Option<String>) {
        let RolloutView { shared, rollout, problem, next, .. } = self.view();
        (rollout.map(|rollout| operation::of(rollout, &next)), problem.filter(|_| shared))
    }

    fn shown(&self, rollouts: &Rollouts, rollout: &Rollout, refused: Option<String>) -> RolloutView {
        let is_driven = rollout.lease.as_ref().is_some_and(|lease| rollouts.is_driven(lease));
        shown::view(rollout, &rollouts.facts(), is_driven, refused)
    }

    /// Starts a rollout, or only shows its plan.
    ///
    /// # Errors
    /// Nothing is shared, the plan cannot be carried out, the policy would not allow the image, another rollout goes on, or a second
    /// owner must approve it.
    pub async fn start(self: &Arc<Self>, caller: &Caller, body: StartRequest) -> Result<RolloutView> {
        let rollouts = self.rollouts()?;
        caller.expect_whole_kms()?;
        if let Current::Known(rollout) = &*rollouts.current()
            && !rollout.state.is_over()
        {
            return Err(refused(RolloutError::Another(rollout.id.clone(), rollout.state.name())));
        }
        let is_preview = body.preview;
        let action = plan::of(&body, &rollouts.facts())?;
        // What starts at once asks the policy when it does.
        if is_preview || self.gate.needs_two() {
            self.would_allow(&action).await.map_err(not_allowed)?;
        }
        if is_preview {
            let rollout = plan::made(&action, &rollouts.facts(), &caller.author())?;
            return Ok(shown::planned(self.shown(rollouts, &rollout, None)));
        }
        let (approved, service) = (self.gate.pass(caller, action).await?, Arc::clone(self));
        // A caller who goes away does not end it between the change and its record.
        let made = request::spawn(async move { service.start_approved(approved).await });
        made.await.map_err(|error| Error::internal("the start ended in a panic", error))??;
        Ok(self.view())
    }

    /// Starts it.
    ///
    /// # Errors
    /// As [`RolloutService::start`].
    pub async fn start_approved(&self, approved: Approved<StartRollout>) -> Result<String> {
        let rollouts = Arc::clone(self.rollouts()?);
        let (action, author) = (approved.action().clone(), approved.author().clone());
        self.would_allow(&action).await.map_err(not_allowed)?;
        let rollout = plan::made(&action, &rollouts.facts(), &author)?;
        let started = rollouts.start(rollout, |facts| match &facts.stale {
            Some(stale) => Err(format!("this node is stale: {stale}")),
            None => Ok(()),
        });
        let rollout = started.await.map_err(refused)?;
        let event = Event::RolloutStarted {
            rollout: rollout.id.clone(),
            image: hex::encode(rollout.image),
            nodes: rollout.nodes.iter().map(|node| node.name.clone()).collect(),
            min_serving: rollout.min_serving,
            by: author.by.clone(),
            remote: author.remote,
        };
        self.record(event).await?;
        Ok(format!("the rollout {} is started", rollout.id))
    }

    /// Does what an operator asks for.
    ///
    /// # Errors
    /// [`RolloutError`].
    pub async fn order(
        self: &Arc<Self>,
        caller: &Caller,
        name: &str,
        body: OrderRequest,
    ) -> Result<RolloutView> {
        caller.expect_whole_kms()?;
        let rollouts = Arc::clone(self.rollouts()?);
        let order = Order::parse(name, body.node).map_err(|problem| {
            let error = Error::invalid(problem.to_string());
            if problem == NoOrder::Unknown { error.because("unknown_order") } else { error }
        })?;
        let (author, service) = (caller.author(), Arc::clone(self));
        let made = request::spawn(async move {
            let (change, node) = (order.name(), order.node().to_owned());
            let event = |rollout: &Rollout, unconfirmed| Event::RolloutChanged {
                rollout: rollout.id.clone(),
                change,
                node: node.clone(),
                unconfirmed,
                by: author.by.clone(),
                remote: author.remote,
            };
            let (rollout, moved) = match rollouts.order(order, &author).await {
                Ok(done) => done,
                Err(error) => {
                    // What is adopted later does not say whose word it was.
                    if error == RolloutError::NotShared(Unshared::from(DatabaseError::Unconfirmed))
                        && let Current::Known(rollout) = &*rollouts.current()
                    {
                        service.foundation.audit.note(event(rollout, true));
                    }
                    return Err(refused(error));
                }
            };
            let recorded = service.record(event(&rollout, false)).await;
            service.note(&rollout, moved.as_slice());
            recorded?;
            let refusal = service.last_refusal(&rollout);
            Ok(service.shown(&rollouts, &rollout, refusal))
        });
        made.await.map_err(|error| Error::internal("the change ended in a panic", error))?
    }

    /// Takes the steps that can be taken now, for the driver that may act.
    ///
    /// # Errors
    /// Another driver acts; the shared state does not take the change.
    pub async fn step(self: &Arc<Self>, caller: &Caller, body: StepRequest) -> Result<RolloutView> {
        caller.expect_whole_kms()?;
        let rollouts = Arc::clone(self.rollouts()?);
        let StepRequest { driver: id, rollout, take_over, hook } = body;
        if !is_hex(&id, 32) {
            return Err(Error::invalid("driver must have 32 hex digits"));
        }
        let (author, service) = (caller.author(), Arc::clone(self));
        let made = request::spawn(async move {
            let refusal = service.refusal_now(&rollouts).await;
            let begin = if refusal.is_some() { Begin::Never } else { Begin::Allowed };
            let hook = hook.map(HookBody::report);
            let driver = Driver { id, rollout, by: author.by.clone(), takes_over: take_over, hook, begin };
            let (rollout, moved) = rollouts.step(driver).await.map_err(refused)?;
            service.note(&rollout, &moved);
            Ok(service.shown(&rollouts, &rollout, refusal))
        });
        made.await.map_err(|error| Error::internal("the step ended in a panic", error))?
    }

    /// Why nothing may be begun now although the rollout goes on: the policy may have changed since its start.
    async fn refusal_now(&self, rollouts: &Rollouts) -> Option<String> {
        let current = rollouts.current();
        let refused = match &*current {
            Current::Known(rollout) if begins(rollout) => {
                let refusal = self.would_allow(&StartRollout::of(rollout)).await.err();
                refusal.map(|refusal| Refused { rollout: rollout.id.clone(), refusal, at: Instant::now() })
            }
            Current::Known(_) | Current::None | Current::Unreadable(_) => None,
        };
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&refused);
        refused.map(|refused| refused.refusal.to_string())
    }

    fn refused(&self) -> Option<Refused> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why nothing of this rollout may be begun, as it was when this node looked last.
    fn last_refusal(&self, rollout: &Rollout) -> Option<String> {
        let refused = self.refused().filter(|refused| refused.rollout == rollout.id && begins(rollout));
        refused.map(|refused| refused.refusal.to_string())
    }

    /// Takes the steps that no driver takes.
    pub async fn attend(&self) {
        let Some(rollouts) = &self.rollouts else { return };
        let Some(begin) = rollouts.is_due() else { return };
        if begin == Begin::Allowed {
            let is_recent = |rollout| self.refused().is_some_and(|it| it.is_recent(rollout, Instant::now()));
            if matches!(&*rollouts.current(), Current::Known(rollout) if is_recent(rollout))
                || self.refusal_now(rollouts).await.is_some()
            {
                return;
            }
        }
        match rollouts.attend(begin).await {
            Ok((rollout, moved)) => self.note(&rollout, &moved),
            Err(error) => tracing::warn!(%error, "the rollout does not go on here"),
        }
    }

    /// Records the steps that were taken.
    fn note(&self, rollout: &Rollout, moved: &[Moved]) {
        let (audit, id) = (&self.foundation.audit, || rollout.id.clone());
        for Moved { node, from, to, reason } in moved {
            if node.is_empty() {
                let steps: Vec<_> = rollout.nodes.iter().map(|node| rollout.step_now(node).name()).collect();
                let count = |name: &str| steps.iter().filter(|step| **step == name).count();
                audit.note(Event::RolloutEnded {
                    rollout: id(),
                    state: to,
                    done: count("done"),
                    failed: count("failed"),
                    skipped: count("skipped"),
                });
                continue;
            }
            let (node, reason) = (|| node.clone(), || reason.clone());
            audit.note(Event::RolloutNode { rollout: id(), node: node(), from, to, reason: reason() });
            if *to == "failed" {
                audit.note(Event::RolloutFailed { rollout: id(), node: node(), reason: reason() });
            }
        }
    }

    async fn record(&self, event: Event) -> Result<()> {
        let recorded = self.foundation.audit.record(event).await;
        recorded.map(drop).map_err(|error| {
            Error::unavailable("it was changed, but the audit log does not take the record", error)
        })
    }
}

/// Whether something is to be begun that the policy must allow.
fn begins(rollout: &Rollout) -> bool {
    let is_next = |node: &RolloutNode| {
        matches!(node.step, RolloutStep::Waiting | RolloutStep::Draining | RolloutStep::Replacing)
    };
    rollout.state == RolloutState::Running && rollout.nodes.iter().any(is_next)
}

impl HookBody {
    fn report(self) -> HookReport {
        let Self { node, attempt, says, seconds, reason } = self;
        let reason: String = reason.chars().filter(|letter| !letter.is_control()).collect();
        let says = match says {
            HookWord::Starts => HookSays::Starts(seconds),
            HookWord::Succeeded => HookSays::Succeeded,
            HookWord::Failed => {
                let said = &reason[..reason.floor_char_boundary(MAX_SAID)];
                HookSays::Failed(format!("the program that replaces it failed: {said}"))
            }
        };
        HookReport { node, attempt, says }
    }
}

fn not_allowed(refusal: Refusal) -> Error {
    let (Refusal::NotAsked(text) | Refusal::ByPolicy(text)) = refusal;
    Error::invalid(text)
}

fn refused(error: RolloutError) -> Error {
    let text = error.to_string();
    match error {
        RolloutError::NotShared(unshared) => Error::new(Code::Unavailable, text).caused_by(unshared),
        RolloutError::None => Error::invalid(text).because("no_rollout"),
        RolloutError::Another(..) | RolloutError::StillRuns(_) => {
            Error::new(Code::Conflict, text).because("rollout_exists")
        }
        RolloutError::Driven(..) => Error::new(Code::Conflict, text).because("rollout_driven"),
        RolloutError::Hook(_) => Error::new(Code::Conflict, text).because("rollout_moved_on"),
        RolloutError::Order(_) | RolloutError::Changed(_) => Error::new(Code::Conflict, text),
        RolloutError::Unreadable(_) => Error::new(Code::Unavailable, text),
        RolloutError::TooLarge(_) => Error::invalid(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::rollout::NewRollout;

    #[test]
    fn the_policy_is_asked_again_after_some_time_or_about_another_rollout() {
        let rollout = |id: &str| Rollout::from(NewRollout { id: id.to_owned(), ..NewRollout::example() });
        let at = Instant::now();
        let refused = |refusal| Refused { rollout: "a".to_owned(), refusal, at };
        let by_policy = refused(Refusal::ByPolicy("it would not".to_owned()));
        for (id, after, is_recent) in
            [("a", Duration::ZERO, true), ("a", ASK_AGAIN, false), ("b", Duration::ZERO, false)]
        {
            assert_eq!(by_policy.is_recent(&rollout(id), at + after), is_recent, "{id} {after:?}");
        }
        let not_asked = refused(Refusal::NotAsked("no evidence".to_owned()));
        assert!(!not_asked.is_recent(&rollout("a"), at), "the policy was not asked");
    }
}
