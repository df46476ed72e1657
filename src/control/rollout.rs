//! Rollouts of an OS image over the nodes of a fleet: one at a time, one node at a time, and never below the number of nodes that
//! must serve. Who decides is [`machine`]; this file makes its decisions those of all nodes.

mod facts;
mod fleet;
mod lease;
mod machine;
#[cfg(test)]
mod properties;

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use self::facts::Observer;
pub use self::facts::{Facts, NodeFact};
pub use self::fleet::SharedRollout;
pub use self::lease::LEASE;
use self::lease::LeaseSeen;
pub use self::machine::{Begin, Moved, NoOrder, Order, OrderError};
use super::{Author, Drain};
use crate::clock::unix_now;
use crate::metrics::Metrics;
use crate::state::rollout::{
    self, Rollout, RolloutHook, RolloutLease, RolloutNode, RolloutState, RolloutStep,
};
use crate::state::shared::{Shared, Unshared};

/// Its name in the database.
const DOCUMENT: &str = "rollout";
/// A time-out that the driver does not notice is noted this much later by any node, in seconds.
const UNATTENDED: u64 = 15;

/// The rollout of a fleet.
#[derive(Debug)]
pub struct Rollouts {
    shared: Arc<Shared>,
    current: ArcSwap<Current>,
    observer: Observer,
    lease: Mutex<LeaseSeen>,
    drain: Arc<Drain>,
    metrics: Arc<Metrics>,
    boot_id: String,
}

/// What this node knows of the document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Current {
    /// There never was a rollout.
    #[default]
    None,
    /// The last one.
    Known(Box<Rollout>),
    /// A later version wrote it.
    Unreadable(String),
}

/// Why nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RolloutError {
    /// It is not in the shared state.
    #[error("{}", .0.after("nothing was changed"))]
    NotShared(#[from] Unshared),
    /// There is none.
    #[error("there is no rollout")]
    None,
    /// The document cannot be read here.
    #[error("this node cannot read the rollout, which a later version may have written: {0}")]
    Unreadable(String),
    /// Another one goes on.
    #[error("the rollout {0} is {1}: there is never more than one")]
    Another(String, &'static str),
    /// The program of one that was cancelled runs.
    #[error(
        "the program of the rollout {0}, which was cancelled, still runs: stop its driver, or wait for it"
    )]
    StillRuns(String),
    /// Another driver acts.
    #[error(
        "another driver acts, started by {0}; it may be replaced when it has been silent for {1} s, or at once if it is gone \
         (kmsctl rollout run --take-over)"
    )]
    Driven(String, u64),
    /// An order cannot be carried out.
    #[error("nothing was changed: {0}")]
    Order(#[from] OrderError),
    /// The report of a driver about its program does not fit.
    #[error("the program must not be started: {0}")]
    Hook(String),
    /// It is not what it was.
    #[error("{0}; nothing was changed")]
    Changed(String),
    /// What would be written is beyond a bound.
    #[error("nothing was changed: {0}")]
    TooLarge(String),
}

/// What a driver says of the program that replaces a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookReport {
    /// The node.
    pub node: String,
    /// Its attempt, as the driver was told.
    pub attempt: u32,
    /// What is said.
    pub says: HookSays,
}

/// See [`HookReport`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookSays {
    /// It will be started, and may run for so many seconds.
    Starts(u64),
    /// It has ended well.
    Succeeded,
    /// It has not, or was ended.
    Failed(String),
}

/// A driver that asks for the next steps.
#[derive(Debug, Clone)]
pub struct Driver {
    /// Its random id, 32 hex digits.
    pub id: String,
    /// The rollout that it drives; `None` before it knows.
    pub rollout: Option<String>,
    /// Whose credential it has.
    pub by: String,
    /// Whether it replaces another one that is not over yet.
    pub takes_over: bool,
    /// What its program does.
    pub hook: Option<HookReport>,
    /// Whether anything may be begun.
    pub begin: Begin,
}

impl Rollouts {
    /// The rollouts as this run of the process takes part in them.
    pub fn new(shared: Arc<Shared>, drain: Arc<Drain>, metrics: Arc<Metrics>, boot_id: String) -> Self {
        Self {
            shared,
            current: ArcSwap::default(),
            observer: Observer::default(),
            lease: Mutex::default(),
            drain,
            metrics,
            boot_id,
        }
    }

    /// The rollout as this node knows it.
    pub fn current(&self) -> Arc<Current> {
        self.current.load_full()
    }

    /// What is known of the nodes now.
    pub fn facts(&self) -> Facts {
        let mut facts = self.observer.look(self.shared.view());
        for record in self.drain.nodes() {
            let id = record.node.to_string();
            for node in facts.nodes.iter_mut().filter(|node| node.id == id) {
                node.drained_by = Some(record.by.clone());
            }
        }
        facts
    }

    /// Whether a driver acts now, as far as this node knows.
    pub fn is_driven(&self, lease: &RolloutLease) -> bool {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner).holds(lease)
    }

    /// Starts a rollout.
    ///
    /// # Errors
    /// [`RolloutError`]; `agree` looks at what is known in the moment of the start.
    pub async fn start(
        self: &Arc<Self>,
        rollout: Rollout,
        agree: impl Fn(&Facts) -> Result<(), String> + Send + 'static,
    ) -> Result<Rollout, RolloutError> {
        let (by, rollouts) = (rollout.by.clone(), Arc::clone(self));
        self.change(&by, move |there, facts| {
            if let Some(there) = there.as_ref().filter(|there| !there.state.is_over()) {
                return Err(RolloutError::Another(there.id.clone(), there.state.name()));
            }
            if let Some(there) = there.as_ref()
                && there.lease.as_ref().is_some_and(|lease| rollouts.is_driven(lease))
            {
                return Err(RolloutError::StillRuns(there.id.clone()));
            }
            agree(facts).map_err(RolloutError::Changed)?;
            *there = Some(rollout.clone());
            Ok(rollout.clone())
        })
        .await
    }

    /// Does what an operator asks for.
    ///
    /// # Errors
    /// [`RolloutError`].
    pub async fn order(
        self: &Arc<Self>,
        order: Order,
        author: &Author,
    ) -> Result<(Rollout, Option<Moved>), RolloutError> {
        let by = author.by.clone();
        self.change(&author.by, move |there, _| {
            let rollout = there.as_mut().ok_or(RolloutError::None)?;
            let moved = rollout.order(&order, &by, unix_now())?;
            Ok((rollout.clone(), moved))
        })
        .await
    }

    /// Takes the steps that can be taken now, for the driver that has the lease.
    ///
    /// # Errors
    /// [`RolloutError`]: another driver has it.
    pub async fn step(self: &Arc<Self>, driver: Driver) -> Result<(Rollout, Vec<Moved>), RolloutError> {
        let (by, rollouts) = (driver.by.clone(), Arc::clone(self));
        self.change(&by, move |there, facts| {
            let rollout = there.as_mut().ok_or(RolloutError::None)?;
            if driver.rollout.as_ref().is_some_and(|id| *id != rollout.id) {
                return Err(RolloutError::Hook(format!("there is another rollout now: {}", rollout.id)));
            }
            let says = driver.hook.as_ref().map(|report| &report.says);
            if rollout.state.is_over() {
                return match says {
                    Some(HookSays::Starts(_)) => Err(not_running(rollout)),
                    Some(HookSays::Succeeded | HookSays::Failed(_)) => {
                        // The program that ran when the rollout was cancelled has ended.
                        if rollout.lease.as_ref().is_some_and(|lease| lease.driver == driver.id) {
                            rollout.lease = None;
                        }
                        Ok((rollout.clone(), Vec::new()))
                    }
                    None => Ok((rollout.clone(), Vec::new())),
                };
            }
            // After a failure an operator speaks first: until then nobody needs the right to act.
            if matches!(rollout.state, RolloutState::Paused { failed: true, .. }) && says.is_none() {
                return Ok((rollout.clone(), Vec::new()));
            }
            let mut moved = Vec::new();
            let is_renewed = rollouts.lease(rollout, &driver)?;
            let before = rollout.clone();
            if let Some(report) = &driver.hook {
                if matches!(report.says, HookSays::Starts(_)) && driver.begin == Begin::Never {
                    return Err(RolloutError::Hook(
                        "the policy in force would not allow the image".to_owned(),
                    ));
                }
                moved.extend(reported(rollout, report, facts)?);
            }
            moved.extend(rollout.take_steps(unix_now(), facts, driver.begin));
            // Each change of the document is one of all nodes, so the lease is renewed with others, or when it is needed.
            if (is_renewed || *rollout != before)
                && let Some(lease) = &mut rollout.lease
            {
                lease.serial += 1;
            }
            Ok((rollout.clone(), moved))
        })
        .await
    }

    /// Gives the lease to this driver. Whether it must be written.
    fn lease(&self, rollout: &mut Rollout, driver: &Driver) -> Result<bool, RolloutError> {
        let mut seen = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        let serial = match &rollout.lease {
            Some(lease) if lease.driver == driver.id => return Ok(seen.is_due(lease)),
            Some(lease) => {
                seen.note(Some(lease));
                if seen.holds(lease) && !driver.takes_over {
                    return Err(RolloutError::Driven(lease.by.clone(), lease.ttl));
                }
                lease.serial
            }
            None => 0,
        };
        rollout.lose_driver();
        let lease = RolloutLease {
            driver: driver.id.clone(),
            by: driver.by.chars().take(60).collect(),
            serial,
            ttl: LEASE.as_secs(),
        };
        rollout.lease = Some(lease);
        Ok(true)
    }

    /// Looks at the nodes. Whether this node would take a step by itself now: [`Begin::Never`] if it begins nothing.
    pub fn is_due(&self) -> Option<Begin> {
        let facts = self.facts();
        let Current::Known(rollout) = &*self.current() else { return None };
        if rollout.state.is_over() {
            return None;
        }
        [Begin::Never, Begin::Allowed].into_iter().find(|begin| {
            let mut next = Rollout::clone(rollout);
            self.unattended(&mut next, &facts, *begin);
            next != **rollout
        })
    }

    /// Takes the steps that no driver takes.
    ///
    /// # Errors
    /// [`RolloutError`].
    pub async fn attend(self: &Arc<Self>, begin: Begin) -> Result<(Rollout, Vec<Moved>), RolloutError> {
        let rollouts = Arc::clone(self);
        self.change("", move |there, facts| {
            let rollout = there.as_mut().ok_or(RolloutError::None)?;
            let moved = rollouts.unattended(rollout, facts, begin);
            Ok((rollout.clone(), moved))
        })
        .await
    }

    /// While a driver acts, only that a node is not done in time; else what happened, and if people replace the nodes, what is next.
    fn unattended(&self, rollout: &mut Rollout, facts: &Facts, begin: Begin) -> Vec<Moved> {
        let now = unix_now();
        if rollout.state.is_over() || facts.stale.is_some() {
            return Vec::new();
        }
        if rollout.lease.as_ref().is_some_and(|lease| self.is_driven(lease)) {
            let late = rollout.node_timeout.saturating_add(UNATTENDED);
            let is_late = rollout.in_work().is_some_and(|node| now.saturating_sub(node.began) > late);
            return if is_late {
                rollout.advance(now, facts, Begin::Never).into_iter().collect()
            } else {
                Vec::new()
            };
        }
        rollout.lose_driver();
        // Another one looks at it better than itself.
        let judges_itself = rollout.in_work().is_some_and(|node| node.name == facts.own_name);
        if judges_itself && facts.nodes.iter().any(|node| node.answers && node.name != facts.own_name) {
            return Vec::new();
        }
        let begin = if rollout.driven { Begin::Never } else { begin };
        rollout.take_steps(now, facts, begin)
    }

    /// Changes the document for all nodes. `edit` may be called more than once, each time with the shared document and what is known then.
    async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        by: &str,
        edit: impl Fn(&mut Option<Rollout>, &Facts) -> Result<T, RolloutError> + Send + 'static,
    ) -> Result<T, RolloutError> {
        let rollouts = Arc::clone(self);
        let changed = self.shared.change(DOCUMENT, by, move |there: Option<&[u8]>| {
            let facts = rollouts.facts();
            let mut rollout = there.map(rollout::parse).transpose().map_err(RolloutError::Unreadable)?;
            let before = rollout.clone();
            let result = edit(&mut rollout, &facts)?;
            let changed = rollout.filter(|rollout| Some(rollout) != before.as_ref());
            let body = changed.as_ref().map(rollout::content).transpose().map_err(RolloutError::TooLarge)?;
            Ok((body, result))
        });
        changed.await?
    }

    /// Puts a document in force here: this node drains if it is to be replaced.
    fn put(&self, current: Current) {
        let known = match &current {
            Current::Known(rollout) => Some(&**rollout),
            Current::None | Current::Unreadable(_) => None,
        };
        self.lease
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .note(known.and_then(|it| it.lease.as_ref()));
        let drains = known.filter(|rollout| rollout.drains(&self.boot_id));
        self.drain
            .of_rollout(drains.map(|rollout| format!("rollout {}, started by {}", rollout.id, rollout.by)));
        let count = |name: &str| {
            known.map_or(0, |rollout| {
                rollout.nodes.iter().filter(|node| rollout.step_now(node).name() == name).count()
            })
        };
        let is_failed =
            known.is_some_and(|rollout| matches!(rollout.state, RolloutState::Paused { failed: true, .. }));
        self.metrics.set_rollout(RolloutStep::NAMES.map(|name| (name, count(name))), is_failed);
        self.current.store(Arc::new(current));
    }

    /// Why a rollout has paused by itself.
    pub fn failure(&self) -> Option<String> {
        match &*self.current() {
            Current::Known(rollout) => match &rollout.state {
                RolloutState::Paused { reason, failed, .. } => failed.then(|| reason.clone()),
                RolloutState::Running | RolloutState::Done { .. } | RolloutState::Cancelled { .. } => None,
            },
            Current::None | Current::Unreadable(_) => None,
        }
    }
}

fn not_running(rollout: &Rollout) -> RolloutError {
    RolloutError::Hook(format!("the rollout is {}", rollout.state.name()))
}

/// Notes what a driver says of its program, in a rollout that is not over.
fn reported(
    rollout: &mut Rollout,
    report: &HookReport,
    facts: &Facts,
) -> Result<Option<Moved>, RolloutError> {
    let HookReport { node: name, attempt, says } = report;
    let is_meant = |node: &RolloutNode| {
        node.name == *name && node.attempt == *attempt && node.step == RolloutStep::Replacing
    };
    let at = rollout.nodes.iter().position(is_meant);
    // The program has ended, so its time counts no longer.
    if !matches!(says, HookSays::Starts(_))
        && let Some(lease) = &mut rollout.lease
    {
        lease.ttl = LEASE.as_secs();
    }
    match (at, says) {
        (Some(at), HookSays::Starts(seconds)) => {
            if rollout.state != RolloutState::Running {
                return Err(not_running(rollout));
            }
            if rollout.nodes[at].hook != RolloutHook::None {
                return Err(RolloutError::Hook("it was started before".to_owned()));
            }
            if let Some(stale) = &facts.stale {
                return Err(RolloutError::Hook(stale.clone()));
            }
            let serving = Rollout::others_that_serve(name, facts);
            if serving < rollout.min_serving {
                let least = rollout.min_serving;
                return Err(RolloutError::Hook(format!("{serving} other nodes serve, {least} are needed")));
            }
            rollout.nodes[at].hook = RolloutHook::Running;
            let most = rollout.node_timeout + LEASE.as_secs();
            if let Some(lease) = &mut rollout.lease {
                lease.ttl = (*seconds).saturating_add(LEASE.as_secs()).min(most);
            }
            Ok(None)
        }
        (None, HookSays::Starts(_)) => {
            Err(RolloutError::Hook("the node is not to be replaced any more".to_owned()))
        }
        (Some(at), HookSays::Succeeded) => {
            rollout.nodes[at].hook = RolloutHook::Succeeded;
            Ok(Some(rollout.replaced(at, unix_now())))
        }
        (Some(at), HookSays::Failed(reason)) => Ok(Some(rollout.fail(at, reason.clone(), unix_now()))),
        // It went on without it.
        (None, HookSays::Succeeded | HookSays::Failed(_)) => Ok(None),
    }
}
