//! What a rollout does next, given what is known of the nodes. Nothing here waits, asks or writes.

use std::borrow::Cow;
use std::time::Duration;

use super::facts::{Facts, NodeFact};
use crate::state::rollout::{
    MAX_ROLLOUT_REASON, Measurement, Rollout, RolloutHook, RolloutNode, RolloutState, RolloutStep,
};

/// The most steps that are taken at once.
const MAX_STEPS: usize = 8;

/// A node took a step, or the rollout ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// The name of the node; empty for the rollout.
    pub node: String,
    /// The step that the node left, or the state of the rollout before.
    pub from: &'static str,
    /// The step or the state now.
    pub to: &'static str,
    /// Why, if it did not go well.
    pub reason: String,
}

/// Whether anything may be begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// The policy would allow the image, and the driver with the lease asks, or none is needed.
    Allowed,
    /// Only what happens by itself is noted.
    Never,
}

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Begin nothing.
    Pause,
    /// Go on, past what failed.
    Resume,
    /// Begin a node that failed or was skipped again.
    Retry(String),
    /// Leave a node as it is.
    Skip(String),
    /// End the rollout.
    Cancel,
}

impl Order {
    /// The order with this name, about a node if it needs one.
    ///
    /// # Errors
    /// [`NoOrder`].
    pub fn parse(name: &str, node: Option<String>) -> Result<Self, NoOrder> {
        let order = match name {
            "retry" => return node.map(Self::Retry).ok_or(NoOrder::NodeMissing),
            "skip" => return node.map(Self::Skip).ok_or(NoOrder::NodeMissing),
            "pause" => Self::Pause,
            "resume" => Self::Resume,
            "cancel" => Self::Cancel,
            _ => return Err(NoOrder::Unknown),
        };
        if node.is_some() { Err(NoOrder::ForNoNode) } else { Ok(order) }
    }

    /// The stable name, for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Retry(_) => "retry",
            Self::Skip(_) => "skip",
            Self::Cancel => "cancel",
        }
    }

    /// The node that it is about; empty if it is about the whole rollout.
    pub fn node(&self) -> &str {
        match self {
            Self::Retry(node) | Self::Skip(node) => node,
            Self::Pause | Self::Resume | Self::Cancel => "",
        }
    }
}

/// Why a request is not an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoOrder {
    /// No order has this name.
    #[error("there is no such order; the orders are pause, resume, retry, skip, cancel")]
    Unknown,
    /// It is about a node, which is not named.
    #[error("node is missing: the name of a node")]
    NodeMissing,
    /// A node is named, and it is about none.
    #[error("this order is about the whole rollout: leave node out")]
    ForNoNode,
}

/// Why an order changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// It has ended.
    #[error("the rollout is over ({0})")]
    Over(&'static str),
    /// It is not paused.
    #[error("the rollout is not paused")]
    NotPaused,
    /// It is already.
    #[error("the rollout is paused already")]
    PausedAlready,
    /// There is no such node in it.
    #[error("no node of the rollout has this name")]
    NoSuchNode,
    /// The node is in another step.
    #[error("the node is {0}; only one that failed or was skipped can be begun again")]
    NotEnded(&'static str),
    /// The node is in another step.
    #[error("the node is {0} already")]
    EndedAlready(&'static str),
    /// Its program runs.
    #[error("the driver's program replaces the node: wait for its end, or stop the driver")]
    Runs,
    /// Another one is in work.
    #[error("another node is in work: {0}")]
    InWork(String),
}

/// What happened to the node that is worked on.
enum Found {
    /// Nothing is known yet; the text says what is waited for.
    Nothing(String),
    /// It has come back, and is not healthy.
    Back(String),
    /// It is healthy since so long.
    Healthy(Duration),
    /// It can never be done.
    Wrong(String),
}

impl Rollout {
    /// The node that is worked on.
    pub fn in_work(&self) -> Option<&RolloutNode> {
        self.nodes.iter().find(|node| node.step.is_in_work())
    }

    /// The step of a node as it is shown: a cancelled rollout leaves every node as it is, works on none, and drains none.
    pub fn step_now<'a>(&self, node: &'a RolloutNode) -> Cow<'a, RolloutStep> {
        let step = &node.step;
        if !step.is_in_work() || !matches!(self.state, RolloutState::Cancelled { .. }) {
            return Cow::Borrowed(step);
        }
        let drain = if step.drains() { "; its drain is over" } else { "" };
        let program = match node.hook {
            RolloutHook::Running => "; the program that replaces it may still run",
            RolloutHook::None | RolloutHook::Succeeded | RolloutHook::Unknown => "",
        };
        let reason = format!("the rollout was cancelled while it was {}{drain}{program}", step.name());
        Cow::Owned(RolloutStep::Skipped { reason })
    }

    /// How many nodes beside `name` are known to serve.
    pub fn others_that_serve(name: &str, facts: &Facts) -> u32 {
        let others = facts.nodes.iter().filter(|node| node.name != name && node.serves());
        u32::try_from(others.count()).unwrap_or(u32::MAX)
    }

    /// Takes all steps that can be taken now.
    pub fn take_steps(&mut self, now: u64, facts: &Facts, begin: Begin) -> Vec<Moved> {
        std::iter::from_fn(|| self.advance(now, facts, begin)).take(MAX_STEPS).collect()
    }

    /// The driver is gone, and what its program did is not known.
    pub fn lose_driver(&mut self) {
        self.lease = None;
        for node in self.nodes.iter_mut().filter(|node| node.hook == RolloutHook::Running) {
            node.hook = RolloutHook::Unknown;
        }
    }

    /// Takes at most one step. `None` if nothing changes.
    pub fn advance(&mut self, now: u64, facts: &Facts, begin: Begin) -> Option<Moved> {
        if self.state.is_over() {
            return None;
        }
        let may_begin =
            begin == Begin::Allowed && self.state == RolloutState::Running && facts.stale.is_none();
        if let Some(at) = self.nodes.iter().position(|node| node.step.is_in_work()) {
            return self.go_on(at, now, facts, may_begin);
        }
        if let Some(at) = self.nodes.iter().position(|node| node.step == RolloutStep::Waiting) {
            return if may_begin { self.begin(at, now, facts) } else { None };
        }
        if self.state == RolloutState::Running {
            self.lease = None;
            return Some(self.end(RolloutState::Done { at: now }));
        }
        None
    }

    fn end(&mut self, state: RolloutState) -> Moved {
        let (from, to) = (self.state.name(), state.name());
        self.state = state;
        Moved { node: String::new(), from, to, reason: String::new() }
    }

    /// Why nothing is begun, or what is waited for; `None` if the next call of [`Rollout::advance`] goes on.
    pub fn waits_for(&self, facts: &Facts) -> Option<String> {
        if self.state.is_over() {
            return None;
        }
        if let Some(stale) = &facts.stale {
            return Some(format!("this node is stale: {stale}"));
        }
        let next =
            self.in_work().or_else(|| self.nodes.iter().find(|node| node.step == RolloutStep::Waiting))?;
        match next.step {
            RolloutStep::Waiting | RolloutStep::Draining if self.state == RolloutState::Running => {
                let held = || Self::unclear(next, facts).or_else(|| Self::held_back(next, facts));
                self.too_few(&next.name, facts).or_else(held).or_else(|| {
                    (next.step == RolloutStep::Draining)
                        .then(|| format!("{} is drained for {} s", next.name, self.drain_for))
                })
            }
            RolloutStep::Replacing if next.hook == RolloutHook::Running => {
                Some(format!("the driver's program replaces {}", next.name))
            }
            RolloutStep::Replacing if next.hook == RolloutHook::Unknown => Some(format!(
                "the driver that replaced {} is gone; if the node does not come back, run: kmsctl rollout retry {0}",
                next.name
            )),
            RolloutStep::Replacing | RolloutStep::Booting | RolloutStep::Checking | RolloutStep::Healthy => {
                Some(match self.found(next, facts) {
                    Found::Nothing(text) | Found::Back(text) | Found::Wrong(text) => text,
                    Found::Healthy(so_far) => format!(
                        "{} is healthy for {} s of {} s",
                        next.name,
                        so_far.as_secs().min(self.healthy_for),
                        self.healthy_for
                    ),
                })
            }
            RolloutStep::Waiting
            | RolloutStep::Draining
            | RolloutStep::Done
            | RolloutStep::Failed { .. }
            | RolloutStep::Skipped { .. } => None,
        }
    }

    /// Why it is not clear which process a node that waits is.
    fn unclear(node: &RolloutNode, facts: &Facts) -> Option<String> {
        let name = &node.name;
        let mut bearers = facts.nodes.iter().filter(|fact| fact.name == *name && fact.answers);
        match (bearers.next(), bearers.next()) {
            _ if node.step != RolloutStep::Waiting => None,
            (_, Some(_)) => Some(format!("two nodes answer with the name {name}: end the old one")),
            (Some(fact), None) if fact.boot_id.is_none() => Some(format!("{name} has not reported yet")),
            (None, None) if !facts.is_settled => Some(format!("whether {name} answers is not known yet")),
            _ => None,
        }
    }

    /// Why a node that waits is left to the operator who drains it.
    fn held_back(node: &RolloutNode, facts: &Facts) -> Option<String> {
        let bearers = || facts.nodes.iter().filter(|fact| fact.name == node.name);
        // One that is gone does not hold back the one that answers with its name.
        let answers = bearers().any(|fact| fact.answers);
        let waits = node.step == RolloutStep::Waiting;
        bearers().filter(|fact| fact.answers == answers).find_map(NodeFact::drained).filter(|_| waits)
    }

    fn too_few(&self, name: &str, facts: &Facts) -> Option<String> {
        let serving = Self::others_that_serve(name, facts);
        (serving < self.min_serving).then(|| {
            format!("{name} is not begun: {serving} other nodes serve, {} are needed", self.min_serving)
        })
    }

    /// Begins the first node that waits, if enough others serve.
    fn begin(&mut self, at: usize, now: u64, facts: &Facts) -> Option<Moved> {
        let node = &self.nodes[at];
        if self.too_few(&node.name, facts).is_some()
            || Self::unclear(node, facts).is_some()
            || Self::held_back(node, facts).is_some()
        {
            return None;
        }
        let image = self.image;
        let node = &mut self.nodes[at];
        let mut step = RolloutStep::Draining;
        match facts.nodes.iter().find(|fact| fact.name == node.name && fact.answers) {
            Some(fact) => {
                let boot_id = fact.boot_id.clone()?;
                node.id.clone_from(&fact.id);
                // Somebody has replaced it meanwhile: it only has to prove itself.
                match fact.image == Some(image) && !node.boot_id.is_empty() && boot_id != node.boot_id {
                    true => step = RolloutStep::Checking,
                    false => node.boot_id = boot_id,
                }
            }
            // What does not answer cannot be asked to drain.
            None => step = RolloutStep::Replacing,
        }
        node.began = now;
        node.attempt += 1;
        node.hook = RolloutHook::None;
        node.gaps = 0;
        Some(self.to(at, step, now))
    }

    fn go_on(&mut self, at: usize, now: u64, facts: &Facts, may_begin: bool) -> Option<Moved> {
        let node = &self.nodes[at];
        // A program that runs has an end of its own, and until then nobody may begin another one.
        if node.hook != RolloutHook::Running && now.saturating_sub(node.began) > self.node_timeout {
            let waited = self.waits_for(facts).unwrap_or_default();
            let reason = format!("it was not done within {} s; at the end: {waited}", self.node_timeout);
            return Some(self.fail(at, reason, now));
        }
        if facts.stale.is_some() || facts.canary.is_none() {
            return None;
        }
        match node.step {
            RolloutStep::Draining => self.drained(at, now, facts, may_begin),
            // While a program runs, its end decides: it may start more than one VM.
            RolloutStep::Replacing if node.hook == RolloutHook::Running => None,
            RolloutStep::Replacing | RolloutStep::Booting => match self.found(node, facts) {
                Found::Nothing(_) => None,
                Found::Wrong(reason) => Some(self.fail(at, reason, now)),
                Found::Back(_) | Found::Healthy(_) => Some(self.to(at, RolloutStep::Checking, now)),
            },
            RolloutStep::Checking => match self.found(node, facts) {
                Found::Nothing(_) | Found::Back(_) => None,
                Found::Wrong(reason) => Some(self.fail(at, reason, now)),
                Found::Healthy(_) => Some(self.to(at, RolloutStep::Healthy, now)),
            },
            RolloutStep::Healthy => match self.found(node, facts) {
                Found::Wrong(reason) => Some(self.fail(at, reason, now)),
                Found::Nothing(_) if !facts.is_settled => None,
                Found::Nothing(text) | Found::Back(text) => {
                    self.nodes[at].gaps += 1;
                    let moved = self.to(at, RolloutStep::Checking, now);
                    Some(Moved { reason: cut(&text), ..moved })
                }
                Found::Healthy(so_far) if so_far >= Duration::from_secs(self.healthy_for) => {
                    Some(self.to(at, RolloutStep::Done, now))
                }
                Found::Healthy(_) => None,
            },
            RolloutStep::Waiting
            | RolloutStep::Done
            | RolloutStep::Failed { .. }
            | RolloutStep::Skipped { .. } => None,
        }
    }

    /// Whether a drained node may be replaced.
    fn drained(&mut self, at: usize, now: u64, facts: &Facts, may_begin: bool) -> Option<Moved> {
        let node = &self.nodes[at];
        let old =
            facts.nodes.iter().find(|fact| fact.boot_id.as_deref() == Some(&node.boot_id) && fact.answers);
        if old.is_none() {
            match self.found(node, facts) {
                Found::Wrong(_) => {
                    // It has started again as it was: it is asked again.
                    let again = self.bearers(node, facts).next()?;
                    let (id, boot_id) = (again.id.clone(), again.boot_id.clone()?);
                    let node = &mut self.nodes[at];
                    (node.id, node.boot_id) = (id, boot_id);
                    return Some(self.to(at, RolloutStep::Draining, now));
                }
                // It may have started again as it was, and not know its own evidence yet.
                Found::Back(_) if self.bearers(node, facts).any(|fact| fact.image.is_none()) => return None,
                Found::Back(_) | Found::Healthy(_) => {
                    return Some(self.to(at, RolloutStep::Checking, now));
                }
                Found::Nothing(_) => {}
            }
        }
        let has_drained =
            |old: &NodeFact| old.draining_for.is_some_and(|time| time.as_secs() >= self.drain_for);
        let is_drained = match old {
            Some(old) => has_drained(old),
            None => facts.is_settled && self.bearers(&self.nodes[at], facts).next().is_none(),
        };
        match is_drained && may_begin && self.too_few(&self.nodes[at].name, facts).is_none() {
            true => Some(self.to(at, RolloutStep::Replacing, now)),
            false => None,
        }
    }

    /// The nodes that bear the name, answer, and are not the process that was to be replaced.
    fn bearers<'a>(
        &self,
        node: &'a RolloutNode,
        facts: &'a Facts,
    ) -> impl Iterator<Item = &'a NodeFact> + use<'a> {
        facts.nodes.iter().filter(|fact| {
            let is_other = fact.boot_id.as_deref().is_some_and(|boot_id| boot_id != node.boot_id);
            fact.name == node.name && fact.answers && is_other
        })
    }

    /// What the node that bears the name now is.
    fn found(&self, node: &RolloutNode, facts: &Facts) -> Found {
        let name = &node.name;
        let is_old = |fact: &&NodeFact| fact.answers && fact.boot_id.as_deref() == Some(&node.boot_id);
        let old = facts.nodes.iter().find(is_old);
        let mut bearers = self.bearers(node, facts);
        let (Some(fact), other) = (bearers.next(), bearers.next()) else {
            return Found::Nothing(match old {
                Some(_) => format!("{name} has not been replaced: it is the same process as before"),
                None => format!("no node with the name {name} answers"),
            });
        };
        if old.is_some() || other.is_some() {
            return Found::Nothing(format!("two nodes answer with the name {name}: end the old one"));
        }
        let shown = |bytes: [u8; 32]| hex::encode(bytes);
        match fact.image {
            None => return Found::Back(format!("{name} does not say which OS image it runs")),
            Some(image) if image != self.image => {
                return Found::Wrong(format!("{name} came back with the OS image {}", shown(image)));
            }
            Some(_) => {}
        }
        match (self.mr_aggregated, fact.mr_aggregated) {
            (Some(_), None) => return Found::Back(format!("{name} does not say what it measures")),
            (Some(Measurement(expected)), Some(found)) if expected != found => {
                return Found::Wrong(format!("{name} came back with the measurement {}", shown(found)));
            }
            _ => {}
        }
        match (&facts.canary, &fact.canary) {
            (Some(own), Some(its)) if own == its => {}
            (Some(_), Some(_)) if fact.has_same_roots => {
                return Found::Back(format!("{name} has another current root epoch"));
            }
            (Some(_), Some(_)) => {
                return Found::Wrong(format!(
                    "{name} came back with other keys: its canary fingerprint differs"
                ));
            }
            _ => return Found::Back(format!("the canary fingerprint of {name} is not known")),
        }
        if let Some(drained) = fact.drained() {
            return Found::Back(drained);
        }
        match fact.ready {
            true => Found::Healthy(fact.healthy_for),
            false if fact.reasons.is_empty() => Found::Back(format!("{name} is not ready")),
            false => Found::Back(format!("{name} is not ready: {}", fact.reasons.join(", "))),
        }
    }

    fn to(&mut self, at: usize, step: RolloutStep, now: u64) -> Moved {
        let node = &mut self.nodes[at];
        let (from, to) = (node.step.name(), step.name());
        (node.step, node.since) = (step, now);
        Moved { node: node.name.clone(), from, to, reason: String::new() }
    }

    /// The program that replaced a node has ended well.
    pub(super) fn replaced(&mut self, at: usize, now: u64) -> Moved {
        self.to(at, RolloutStep::Booting, now)
    }

    /// Ends a node badly, and pauses.
    pub(super) fn fail(&mut self, at: usize, reason: String, now: u64) -> Moved {
        let reason = cut(&reason);
        let moved = self.to(at, RolloutStep::Failed { reason: reason.clone() }, now);
        // An operator must speak first: any driver may go on then.
        self.lease = None;
        let node = &self.nodes[at].name;
        self.state = RolloutState::Paused {
            reason: cut(&format!("{node} failed: {reason}")),
            failed: true,
            since: now,
        };
        Moved { reason, ..moved }
    }

    /// Does what an operator asks for.
    ///
    /// # Errors
    /// [`OrderError`]: nothing was changed.
    pub fn order(&mut self, order: &Order, by: &str, now: u64) -> Result<Option<Moved>, OrderError> {
        if self.state.is_over() {
            return Err(OrderError::Over(self.state.name()));
        }
        match order {
            Order::Pause => match &self.state {
                RolloutState::Running => {
                    let reason = cut(&format!("by {by}"));
                    self.state = RolloutState::Paused { reason, failed: false, since: now };
                    Ok(None)
                }
                RolloutState::Paused { .. } | RolloutState::Done { .. } | RolloutState::Cancelled { .. } => {
                    Err(OrderError::PausedAlready)
                }
            },
            Order::Resume => match &self.state {
                RolloutState::Paused { .. } => {
                    self.state = RolloutState::Running;
                    Ok(None)
                }
                RolloutState::Running | RolloutState::Done { .. } | RolloutState::Cancelled { .. } => {
                    Err(OrderError::NotPaused)
                }
            },
            Order::Retry(name) => {
                let at = self.place(name)?;
                if let Some(node) = self.in_work() {
                    return match node.name == *name && node.hook == RolloutHook::Unknown {
                        // Its program is started once more.
                        true => {
                            self.nodes[at].hook = RolloutHook::None;
                            Ok(None)
                        }
                        false if node.name == *name => Err(OrderError::NotEnded(node.step.name())),
                        false => Err(OrderError::InWork(node.name.clone())),
                    };
                }
                match self.nodes[at].step {
                    RolloutStep::Failed { .. } | RolloutStep::Skipped { .. } => {
                        self.unpause_failure();
                        Ok(Some(self.to(at, RolloutStep::Waiting, now)))
                    }
                    ref step => Err(OrderError::NotEnded(step.name())),
                }
            }
            Order::Skip(name) => {
                let at = self.place(name)?;
                match self.nodes[at].step {
                    RolloutStep::Done | RolloutStep::Skipped { .. } => {
                        Err(OrderError::EndedAlready(self.nodes[at].step.name()))
                    }
                    RolloutStep::Replacing if self.nodes[at].hook == RolloutHook::Running => {
                        Err(OrderError::Runs)
                    }
                    ref step => {
                        if matches!(step, RolloutStep::Failed { .. }) {
                            self.unpause_failure();
                        }
                        let reason = cut(&format!("by {by}"));
                        Ok(Some(self.to(at, RolloutStep::Skipped { reason }, now)))
                    }
                }
            }
            Order::Cancel => {
                // Until its program has ended, its driver keeps others from starting one.
                if self.in_work().is_none_or(|node| node.hook != RolloutHook::Running) {
                    self.lease = None;
                }
                let by = by.chars().take(100).collect();
                Ok(Some(self.end(RolloutState::Cancelled { by, at: now })))
            }
        }
    }

    fn place(&self, name: &str) -> Result<usize, OrderError> {
        self.nodes.iter().position(|node| node.name == name).ok_or(OrderError::NoSuchNode)
    }

    fn unpause_failure(&mut self) {
        if matches!(self.state, RolloutState::Paused { failed: true, .. }) {
            self.state = RolloutState::Running;
        }
    }

    /// Whether the process with this boot id shall let load balancers send requests elsewhere.
    pub fn drains(&self, boot_id: &str) -> bool {
        !self.state.is_over()
            && self
                .nodes
                .iter()
                .any(|node| node.step.drains() && node.boot_id == boot_id && !boot_id.is_empty())
    }
}

/// At most [`MAX_ROLLOUT_REASON`] bytes, and no control characters.
fn cut(text: &str) -> String {
    let mut kept = String::new();
    for letter in text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }) {
        if kept.len() + letter.len_utf8() > MAX_ROLLOUT_REASON {
            break;
        }
        kept.push(letter);
    }
    kept
}
