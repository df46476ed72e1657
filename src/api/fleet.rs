//! `/api/v1/fleet`: the nodes that share their state, what each says of itself, and the repair of a state that is not believed.

mod lists;
mod report;

use std::sync::Arc;

pub use kms_wire::fleet::FleetView;
use kms_wire::fleet::{AlarmShown, DrainShown, FleetAlarm, NodeShown, NodeStatus, Skew};
use schemars::JsonSchema;
use serde::Deserialize;

pub use self::lists::show_lists;
pub use self::report::StatusReporter;
use super::Caller;
use super::approval_gate::ApprovalGate;
use super::readiness::Readiness;
use crate::admission::Foundation;
use crate::audit::Event;
use crate::control::{Approved, DrainError, ForgetNode, RepairFleet};
use crate::error::{Code, Error, Result};
use crate::operator::Operator;
use crate::request;
use crate::state::DrainRecord;
use crate::state::shared::{NodeSeen, Shared, Split, Stale, Standing, Unshared};

/// The body of `POST /api/v1/fleet/forget`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForgetBody {
    /// The id of the node, or its name.
    node: String,
}

/// The nodes of a fleet.
#[derive(Debug)]
pub struct FleetService {
    shared: Option<Arc<Shared>>,
    foundation: Arc<Foundation>,
    readiness: Arc<Readiness>,
    gate: ApprovalGate,
}

impl FleetService {
    /// `shared` is `None` where nothing is shared.
    pub fn new(
        shared: Option<Arc<Shared>>,
        foundation: Arc<Foundation>,
        readiness: Arc<Readiness>,
        gate: ApprovalGate,
    ) -> Self {
        Self { shared, foundation, readiness, gate }
    }

    /// The nodes, from memory and without waiting.
    pub fn view(&self) -> FleetView {
        let Some(shared) = &self.shared else { return FleetView::default() };
        let view = shared.view();
        let mut nodes: Vec<_> = view.nodes().iter().map(|node| shown(node, view.answers(node))).collect();
        compare_canaries(&mut nodes);
        self.show_own_readiness(&mut nodes);
        let drained_unseen = show_drains(&mut nodes, self.foundation.drain.nodes());
        nodes.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
        FleetView {
            shared: true,
            view_age_ms: view.age().map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            stale: match view.standing() {
                Standing::Fresh(_) => None,
                Standing::Stale(stale) => Some(stale.with_remedy()),
            },
            alarm: view.alarm().map(|alarm| AlarmShown {
                code: alarm.code().to_owned(),
                text: alarm.to_string(),
                remedy: alarm.remedy().to_owned(),
            }),
            alarms: view.splits().into_iter().map(alarm).collect(),
            warnings: view
                .trouble()
                .into_iter()
                .chain(view.lacks().map(str::to_owned))
                .chain(warnings(&nodes))
                .chain(drained_unseen)
                .collect(),
            nodes,
        }
    }

    /// Shows whether this node is ready now: what it last wrote into the database was true before that did not answer.
    fn show_own_readiness(&self, nodes: &mut [NodeShown]) {
        let own = nodes.iter_mut().find(|node| node.this).and_then(|node| node.status.as_mut());
        let Some(own) = own else { return };
        let report = self.readiness.report();
        own.ready = report.is_ready();
        own.reasons = report.reasons().iter().map(|reason| reason.cause.name().to_owned()).collect();
        own.draining = self.foundation.drain.current().is_some();
        own.ready_for = self.readiness.ready_for().map(|ready| ready.as_secs());
    }

    /// Writes the state of this node over whatever is in the database.
    ///
    /// # Errors
    /// Nothing is shared; the database does not answer; a second owner must approve it.
    pub async fn repair(self: &Arc<Self>, caller: &Caller) -> Result<FleetView> {
        let shared = self.shared()?;
        let known = shared.view().known();
        let approved = self.gate.pass(caller, RepairFleet { state: known }).await?;
        let service = Arc::clone(self);
        // A caller who goes away does not end it between the change and its record.
        let made = request::spawn(async move { service.repair_approved(approved).await });
        made.await.map_err(|error| Error::internal("the repair ended in a panic", error))??;
        Ok(self.view())
    }

    /// Makes the change.
    pub(in crate::api) async fn repair_approved(&self, approved: Approved<RepairFleet>) -> Result<()> {
        let shared = self.shared()?;
        let author = approved.author();
        let RepairFleet { state } = approved.action();
        if shared.view().known() != *state {
            return Err(Error::new(
                Code::Conflict,
                "this node knows another state than when the repair was asked for; nothing was changed",
            ));
        }
        shared.repair(&author.by).await.map_err(|error| failed(error, "nothing was repaired"))?;
        let event = Event::StateRepaired {
            state: shared.view().known(),
            by: author.by.clone(),
            remote: author.remote,
        };
        let recorded = self.foundation.audit.record(event).await;
        recorded.map(drop).map_err(|error| {
            Error::unavailable("it was repaired, but the audit log does not take the record", error)
        })
    }

    /// Checks that the caller's credential, if it is a named one, was not revoked on another node.
    ///
    /// # Errors
    /// `state_stale`: that is not known.
    pub(in crate::api) fn expect_known(&self, caller: &Caller) -> Result<()> {
        match (&self.shared, caller.identity()) {
            (Some(shared), Some(Operator::Named { .. })) => {
                shared.view().check().map_err(|stale| perhaps_revoked(&stale))
            }
            (
                Some(_),
                None
                | Some(
                    Operator::Anyone
                    | Operator::Token
                    | Operator::User { .. }
                    | Operator::Oidc { .. }
                    | Operator::Invited { .. },
                ),
            )
            | (None, _) => Ok(()),
        }
    }

    /// Forgets a node that does not answer, by its id or its name.
    ///
    /// # Errors
    /// There is no such node, there are two, or it is not known to be silent; the database does not answer; a second owner must approve it.
    pub async fn forget(self: &Arc<Self>, caller: &Caller, body: ForgetBody) -> Result<FleetView> {
        let shared = self.shared()?;
        let nodes = shared.view().nodes();
        let node = the_node(&nodes, &body.node)?;
        is_silent(shared, node)?;
        let action = ForgetNode { node: node.id.to_string(), name: node.name.clone() };
        let (approved, service) = (self.gate.pass(caller, action).await?, Arc::clone(self));
        let made = request::spawn(async move { service.forget_approved(approved).await });
        made.await.map_err(|error| Error::internal("the change ended in a panic", error))??;
        Ok(self.view())
    }

    /// Makes the change.
    pub(in crate::api) async fn forget_approved(&self, approved: Approved<ForgetNode>) -> Result<()> {
        let shared = self.shared()?;
        let (author, nodes) = (approved.author(), shared.view().nodes());
        let node = the_node(&nodes, &approved.action().node)?;
        is_silent(shared, node)?;
        shared.forget(node.id).await.map_err(|error| failed(error, "nothing was forgotten"))?;
        let event = Event::NodeForgotten {
            node: node.id.to_string(),
            name: node.name.clone(),
            by: author.by.clone(),
            remote: author.remote,
        };
        let recorded = self.foundation.audit.record(event).await;
        let ended = self.foundation.drain.end(Some(node.id), &author.by).await;
        let unrecorded = "the audit log does not take the record";
        let drained =
            |error: &DrainError| format!("its drain may not be over (undrain {}): {error}", node.id);
        let but = |text: String| Error::new(Code::Unavailable, format!("it was forgotten, but {text}"));
        match (recorded, ended) {
            (Ok(_), Ok(_)) => Ok(()),
            (Err(error), Ok(_)) => Err(but(unrecorded.to_owned()).caused_by(error)),
            (Ok(_), Err(left)) => Err(but(drained(&left)).caused_by(left)),
            (Err(error), Err(left)) => {
                Err(but(format!("{unrecorded}, and {}", drained(&left))).caused_by(error))
            }
        }
    }

    fn shared(&self) -> Result<&Arc<Shared>> {
        let nothing = || Error::invalid("core.state is \"files\": this node shares nothing");
        self.shared.as_ref().ok_or_else(nothing)
    }
}

/// The refusal of a named credential on a node that does not know what was changed on others.
pub fn perhaps_revoked(stale: &Stale) -> Error {
    let text = format!(
        "your credential may have been revoked on another node, which this one cannot know now: {stale}. Until it does, the \
         credential still reads, freezes, revokes, repairs the fleet, and reloads or restarts this node. Try again, ask another \
         node, or use the token of this node's configuration"
    );
    Error::new(Code::Unavailable, text).because("state_stale")
}

/// The node with this id or name.
///
/// # Errors
/// There is none, or there are several.
pub(in crate::api) fn the_node<'a>(nodes: &'a [NodeSeen], wanted: &str) -> Result<&'a NodeSeen> {
    let by_id = nodes.iter().find(|node| node.id.to_string() == wanted);
    let mut by_name = nodes.iter().filter(|node| node.name == wanted);
    match (by_id, by_name.next(), by_name.next()) {
        (Some(node), _, _) | (None, Some(node), None) => Ok(node),
        (None, Some(_), Some(_)) => Err(Error::invalid("several nodes have this name: give the id")),
        (None, None, _) => {
            let text = "no node of the fleet has this id or name";
            Err(Error::new(Code::UnknownMethod, text).because("not_found"))
        }
    }
}

fn is_silent(shared: &Shared, node: &NodeSeen) -> Result<()> {
    let view = shared.view();
    let problem = match (view.answers(node), view.standing()) {
        (true, _) => "this node answers: stop it first, or it is there again at once".to_owned(),
        (false, _) if view.is_silent(node) => return Ok(()),
        (false, Standing::Stale(stale)) => {
            let text = format!("the node that you ask cannot know whether {} answers: {stale}", node.name);
            return Err(Error::new(Code::Unavailable, text).because("state_stale"));
        }
        (false, Standing::Fresh(_)) => format!(
            "whether {} answers is not known yet, because the node that you ask has not watched for {} s without a gap: try again",
            node.name,
            view.settles_after().as_secs()
        ),
    };
    Err(Error::new(Code::Conflict, problem))
}

fn failed(error: Unshared, so: &str) -> Error {
    let code = match error {
        Unshared::Behind | Unshared::Conflict => Code::Conflict,
        Unshared::Database(_) | Unshared::Alarm(_) | Unshared::Unusable(_) | Unshared::NotRunning => {
            Code::Unavailable
        }
    };
    Error::new(code, error.after(so)).caused_by(error)
}

fn alarm(split: Split) -> FleetAlarm {
    FleetAlarm {
        kind: split.kind.name().to_owned(),
        nodes: split.nodes.iter().map(ToString::to_string).collect(),
        text: split.text,
        remedy: split.kind.remedy().to_owned(),
        since: split.since,
    }
}

fn shown(node: &NodeSeen, answers: bool) -> NodeShown {
    NodeShown {
        id: node.id.to_string(),
        name: node.name.clone(),
        this: node.is_self,
        answers,
        drained: None,
        state: node.state,
        skew: node.skew.map(|(min_ms, max_ms)| Skew { min_ms, max_ms }),
        last_seen: node.written_ms.map(|millis| millis / 1000),
        canary_equal: None,
        status_age: node.status_at.map(|at| at.elapsed().as_secs()),
        status: node.status.as_deref().cloned(),
    }
}

/// Shows which nodes operators drain, and gives those that are not known any more as warnings.
fn show_drains(nodes: &mut [NodeShown], drains: Vec<DrainRecord>) -> Vec<String> {
    let mut unseen = Vec::new();
    for DrainRecord { node, by, since, unshared } in drains {
        let id = node.to_string();
        match nodes.iter_mut().find(|node| node.id == id) {
            Some(node) => node.drained = Some(DrainShown { by, since, shared: !unshared }),
            None => unseen.push(format!("the node {id} is drained by {by}, and is not in the fleet")),
        }
    }
    unseen
}

/// Compares the root keys of each node with those of this one.
fn compare_canaries(nodes: &mut [NodeShown]) {
    let own = nodes.iter().find(|node| node.this).and_then(|node| node.status.clone());
    let Some(own) = own else { return };
    for node in nodes {
        node.canary_equal = node.status.as_ref().and_then(|status| status.has_roots_of(&own));
    }
}

/// What is wrong with the nodes that answer, as far as they say it themselves.
fn warnings(nodes: &[NodeShown]) -> Vec<String> {
    let mut warnings = Vec::new();
    let answering: Vec<(&NodeShown, &NodeStatus)> = nodes
        .iter()
        .filter(|node| node.answers)
        .filter_map(|node| Some((node, node.status.as_ref()?)))
        .collect();
    let differ =
        |of: fn(&NodeStatus) -> String| answering.windows(2).any(|pair| of(pair[0].1) != of(pair[1].1));
    if differ(|status| format!("{:?}", status.policies)) {
        warnings.push("nodes decide by different policies".to_owned());
    }
    if differ(|status| format!("{:?}", status.domains_sha256)) {
        warnings.push("nodes have different domains, so they give apps different keys".to_owned());
    }
    if differ(|status| status.root_epoch.to_string()) {
        warnings.push("nodes have different current root epochs".to_owned());
    }
    warnings
}
