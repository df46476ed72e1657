//! `/api/v1/fleet`: the nodes that share their state, what each says of itself, and the repair of a state that is not believed.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Caller;
use super::approvals::ApprovalGate;
use super::readiness::Readiness;
use crate::admission::Foundation;
use crate::audit::Event;
use crate::clock::unix_now;
use crate::control::{Approved, RepairFleet};
use crate::error::{Code, Error, Result};
use crate::lifecycle::Ready;
use crate::state::shared::{NodeSeen, Reporter, Shared, Standing, Unshared};

/// Clocks that differ by more seconds are worth a warning: what a node says is a few seconds old.
const MAX_SKEW: u64 = 30;

/// The nodes of a fleet.
#[derive(Debug)]
pub struct FleetService {
    shared: Option<Arc<Shared>>,
    foundation: Arc<Foundation>,
    gate: ApprovalGate,
}

/// The body of `GET /api/v1/fleet`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct FleetView {
    /// Whether this node shares its state: `core.state = "postgres"`.
    shared: bool,
    /// Milliseconds since what this node knows was true; absent without a view.
    #[serde(skip_serializing_if = "Option::is_none")]
    view_age_ms: Option<u64>,
    /// Why this node is stale; absent if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    stale: Option<String>,
    /// Why the shared state is not believed; absent if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    alarm: Option<AlarmShown>,
    /// What is wrong with the fleet as a whole.
    warnings: Vec<String>,
    /// All nodes that were ever in the fleet, by name.
    nodes: Vec<NodeShown>,
}

/// Why the shared state is not believed.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AlarmShown {
    /// A stable code: `rolled_back`.
    code: &'static str,
    /// What is wrong.
    text: String,
    /// What to do.
    remedy: &'static str,
}

/// A node.
#[derive(Debug, Serialize, JsonSchema)]
pub struct NodeShown {
    /// Its id, hex.
    id: String,
    /// What people call it.
    name: String,
    /// Whether it is the node that answers.
    this: bool,
    /// Whether it has answered a challenge of this node within `max_view_age`.
    answers: bool,
    /// The number of the shared state that it has; absent before it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<u64>,
    /// What it last said of itself; absent if it never did, or if a later version did.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<NodeStatus>,
}

/// What a node says of itself every few seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeStatus {
    /// The version of its program.
    version: String,
    /// Different after each start of its process.
    boot_id: String,
    /// Its clock, Unix seconds.
    time: u64,
    /// Whether it is ready.
    ready: bool,
    /// Why it is not, or will not be: the codes of `/readyz`.
    reasons: Vec<String>,
    /// What it runs, hex; absent without evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mr_aggregated: Option<String>,
    /// How many records its log has signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ledger_size: Option<u64>,
    /// The signed checkpoint of its log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checkpoint: Option<String>,
    /// SHA-256 of the rules in force, hex, by domain.
    #[serde(default)]
    policies: BTreeMap<String, String>,
    /// SHA-256 of what decides which domain's keys an app gets, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    domains_sha256: Option<String>,
    /// The newest epoch that apps get keys of.
    root_epoch: u32,
    /// The states of all root epochs, from 0.
    root_epochs: Vec<String>,
}

impl FleetService {
    /// `shared` is `None` where nothing is shared.
    pub fn new(shared: Option<Arc<Shared>>, foundation: Arc<Foundation>, gate: ApprovalGate) -> Self {
        Self { shared, foundation, gate }
    }

    /// The nodes, from memory and without waiting.
    pub fn view(&self) -> FleetView {
        let Some(shared) = &self.shared else {
            return FleetView {
                shared: false,
                view_age_ms: None,
                stale: None,
                alarm: None,
                warnings: Vec::new(),
                nodes: Vec::new(),
            };
        };
        let view = shared.view();
        let mut nodes: Vec<_> = view.nodes().iter().map(|node| shown(node, view.answers(node))).collect();
        nodes.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
        FleetView {
            shared: true,
            view_age_ms: view.age().map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            stale: match view.standing() {
                Standing::Fresh(_) => None,
                Standing::Stale(stale) => Some(stale.text().to_owned()),
            },
            alarm: view.alarm().map(|alarm| AlarmShown {
                code: alarm.code(),
                text: alarm.to_string(),
                remedy: alarm.remedy(),
            }),
            warnings: warnings(&nodes),
            nodes,
        }
    }

    /// Writes the state of this node over whatever is in the database.
    ///
    /// # Errors
    /// Nothing is shared; the database does not answer; a second owner must approve it.
    pub async fn repair(&self, caller: &Caller) -> Result<FleetView> {
        let shared = self.shared()?;
        let known = shared.view().known();
        self.repair_approved(self.gate.pass(caller, RepairFleet { state: known }).await?).await?;
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
        shared.repair(&author.by).await.map_err(failed)?;
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

    fn shared(&self) -> Result<&Arc<Shared>> {
        let nothing = || Error::invalid("core.state is \"files\": this node shares nothing");
        self.shared.as_ref().ok_or_else(nothing)
    }
}

fn failed(error: Unshared) -> Error {
    Error::new(Code::Unavailable, format!("nothing was repaired: {error}")).caused_by(error)
}

fn shown(node: &NodeSeen, answers: bool) -> NodeShown {
    let status = node.status.as_deref().and_then(|body| kms_attest::json::from_utf8(body).ok());
    NodeShown {
        id: node.id.to_string(),
        name: node.name.clone(),
        this: node.is_self,
        answers,
        state: node.state,
        status,
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
    for (node, status) in &answering {
        let skew = status.time.abs_diff(unix_now());
        if skew > MAX_SKEW {
            warnings.push(format!("the clock of {} differs by about {skew} s", node.name));
        }
    }
    warnings
}

/// Says what this node is.
#[derive(Debug)]
pub struct StatusReporter {
    foundation: Arc<Foundation>,
    ready: Arc<Ready>,
    readiness: Arc<Readiness>,
    boot_id: String,
}

impl StatusReporter {
    /// Of this run of the process.
    pub fn new(
        foundation: Arc<Foundation>,
        ready: Arc<Ready>,
        readiness: Arc<Readiness>,
        boot_id: String,
    ) -> Self {
        Self { foundation, ready, readiness, boot_id }
    }

    fn now(&self) -> NodeStatus {
        let Foundation { policy, domain_policies, domains, audit, self_authorization, .. } =
            &*self.foundation;
        let report = self.readiness.report();
        let head = audit.head();
        let policies = [("default".to_owned(), policy)]
            .into_iter()
            .chain(domain_policies.iter().map(|(name, policy)| (name.to_string(), policy)));
        let policies =
            policies.filter_map(|(name, policy)| Some((name, hex::encode(policy.in_force().digest?))));
        let now = unix_now();
        NodeStatus {
            version: env!("CVM_KMS_VERSION").to_owned(),
            boot_id: self.boot_id.clone(),
            time: now,
            ready: report.is_ready(),
            reasons: report.reasons().iter().map(|reason| reason.cause.name().to_owned()).collect(),
            mr_aggregated: self_authorization.told_identity().map(|told| hex::encode(&told.mr_aggregated)),
            ledger_size: head.as_ref().map(|head| head.size.get()),
            checkpoint: head.map(|head| head.checkpoint.to_string()),
            policies: policies.collect(),
            domains_sha256: domains.digest().map(hex::encode),
            root_epoch: self.ready.current_epoch(now).0,
            root_epochs: self.ready.epochs().iter().map(|epoch| epoch.state.name().to_owned()).collect(),
        }
    }
}

impl Reporter for StatusReporter {
    fn status(&self) -> Vec<u8> {
        serde_json::to_vec(&self.now()).expect("texts and numbers")
    }
}
