//! The plan of a rollout: which nodes in which order, and whether the policy would allow what they shall run.

use kms_attest::identity::BootInfo;
use kms_policy::{Decision, DenialCode, Subject};
use schemars::JsonSchema;
use serde::Deserialize;

use super::RolloutService;
use crate::clock::unix_now;
use crate::control::{Author, Facts, NodeFact, StartRollout};
use crate::error::{Error, Result};
use crate::state::rollout::{
    MAX_ROLLOUT_NODES, Measurement, NewRollout, Rollout, RolloutHook, RolloutNode, RolloutStep, is_node_name,
};

/// How long a node is drained unless it is said, in seconds.
const DRAIN_FOR: u64 = 10;
/// How long a node must be healthy.
const HEALTHY_FOR: u64 = 120;
/// How long a node may take.
const NODE_TIMEOUT: u64 = 20 * 60;
/// The longest of the three.
const LONGEST: u64 = 7 * 86_400;

/// The body of `POST /api/v1/rollout`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartRequest {
    /// The hash of the OS image that each node shall run, 64 hex digits.
    image: String,
    /// The names of the nodes in their order; without, all that answer, by name.
    #[serde(default)]
    nodes: Vec<String>,
    /// How many other nodes must serve whenever one is taken out of service; without, all others but at least one.
    #[serde(default)]
    min_serving: Option<u32>,
    /// How long a node is drained before it is replaced, in seconds.
    #[serde(default)]
    drain_for: Option<u64>,
    /// How long a node must be healthy without a gap, in seconds.
    #[serde(default)]
    healthy_for: Option<u64>,
    /// How long a node may take from its drain to the end, in seconds.
    #[serde(default)]
    node_timeout: Option<u64>,
    /// `mr_aggregated` of the new nodes, where the policy names KMSs by it; each must then have it.
    #[serde(default)]
    mr_aggregated: Option<String>,
    /// Whether nothing is begun without a driver, whose program replaces nodes. Otherwise people do, and the nodes go on by themselves.
    #[serde(default)]
    driven: bool,
    /// Whether the plan is only shown.
    #[serde(default)]
    pub(super) preview: bool,
}

/// The rollout that is asked for, as an owner may have to approve it.
///
/// # Errors
/// It cannot be carried out.
pub(super) fn of(body: &StartRequest, facts: &Facts) -> Result<StartRollout> {
    if let Some(stale) = &facts.stale {
        let text = format!("this node does not know the state of the fleet now: {stale}");
        return Err(Error::new(crate::error::Code::Unavailable, text));
    }
    let image = digest("image", &body.image)?;
    let mr_aggregated =
        body.mr_aggregated.as_deref().map(|text| digest("mr_aggregated", text)).transpose()?;
    let time = |name: &str, value: Option<u64>, usual: u64, least: u64| match value.unwrap_or(usual) {
        time if (least..=LONGEST).contains(&time) => Ok(time),
        _ => Err(Error::invalid(format!("{name} must be from {least} to {LONGEST} seconds"))),
    };
    let drain_for = time("drain_for", body.drain_for, DRAIN_FOR, 0)?;
    let healthy_for = time("healthy_for", body.healthy_for, HEALTHY_FOR, 1)?;
    let node_timeout = time("node_timeout", body.node_timeout, NODE_TIMEOUT, 1)?;
    if node_timeout <= drain_for + healthy_for {
        let text = "node_timeout must be longer than drain_for and healthy_for together";
        return Err(Error::invalid(text));
    }
    let serving = |name: &str| Rollout::others_that_serve(name, facts);
    let min_serving = match body.min_serving {
        Some(least) => least,
        None => {
            let all = facts.nodes.iter().filter(|node| node.serves()).count();
            u32::try_from(all.saturating_sub(1)).unwrap_or(u32::MAX).max(1)
        }
    };
    let names = names(body, facts)?;
    // First, because fewer nodes serve while it is so.
    let drained = |name: &String| node(name, facts).and_then(NodeFact::drained);
    if let Some(drained) = names.iter().find_map(drained) {
        return Err(Error::invalid(format!("{drained}; or name the other nodes only")));
    }
    if let Some(name) = names.iter().find(|name| serving(name) < min_serving) {
        let text = format!(
            "{name} could not be begun: {} other nodes serve, and {min_serving} must (min_serving). If nobody is served meanwhile \
             on purpose, say min_serving = 0 (kmsctl: --min-serving 0)",
            serving(name)
        );
        return Err(Error::invalid(text));
    }
    let runs =
        |name: &String| node(name, facts).is_some_and(|node| node.answers && node.image == Some(image));
    if names.iter().all(runs) {
        return Err(Error::invalid("every one of these nodes runs this image already"));
    }
    let is_silent =
        |name: &&String| node(name, facts).is_some_and(|node| node.answers && node.image.is_none());
    if let Some(name) = names.iter().find(is_silent) {
        let text = format!(
            "{name} does not say which OS image it runs, so its replacement could not either: it needs \
             core.enforce_self_authorization, and some seconds after its start"
        );
        return Err(Error::invalid(text));
    }
    Ok(StartRollout {
        image: hex::encode(image),
        mr_aggregated: mr_aggregated.map(hex::encode),
        nodes: names,
        min_serving,
        drain_for,
        healthy_for,
        node_timeout,
        driven: body.driven,
    })
}

fn names(body: &StartRequest, facts: &Facts) -> Result<Vec<String>> {
    let mut answering: Vec<&str> =
        facts.nodes.iter().filter(|node| node.answers).map(|node| node.name.as_str()).collect();
    answering.sort_unstable();
    if let Some(twice) = answering.windows(2).find(|pair| pair[0] == pair[1]) {
        let text = format!(
            "two nodes have the name {}: a rollout knows nodes by core.postgres.node_name, so each needs its own",
            twice[0]
        );
        return Err(Error::invalid(text));
    }
    let names: Vec<String> = match body.nodes.is_empty() {
        true => answering.iter().map(|name| (*name).to_owned()).collect(),
        false => body.nodes.clone(),
    };
    let known = |name: &str| facts.nodes.iter().any(|node| node.name == name);
    for (at, name) in names.iter().enumerate() {
        if !is_node_name(name) || !known(name) {
            let text =
                format!("there is no node {name:?}; the nodes that answer are {}", answering.join(", "));
            return Err(Error::invalid(text));
        }
        if names[..at].contains(name) {
            return Err(Error::invalid(format!("the node {name} is named twice")));
        }
    }
    match names.len() {
        1..=MAX_ROLLOUT_NODES => Ok(names),
        0 => Err(Error::invalid("no node answers, so there is nothing to roll out")),
        _ => Err(Error::invalid(format!("a rollout has at most {MAX_ROLLOUT_NODES} nodes"))),
    }
}

/// The node that bears a name: the one that answers, or else any.
fn node<'a>(name: &str, facts: &'a Facts) -> Option<&'a NodeFact> {
    let bearers = || facts.nodes.iter().filter(|node| node.name == name);
    bearers().find(|node| node.answers).or_else(|| bearers().next())
}

/// The document of a rollout that may start.
///
/// # Errors
/// The system has no randomness, or a node is not known any more.
pub(super) fn made(action: &StartRollout, facts: &Facts, author: &Author) -> Result<Rollout> {
    let mut id = [0; 8];
    aws_lc_rs::rand::fill(&mut id)
        .map_err(|_| Error::internal("internal error", "the system has no randomness"))?;
    let image = digest("image", &action.image)?;
    let now = unix_now();
    let planned = |name: &String| {
        let gone = || Error::invalid(format!("there is no node {name:?} any more; nothing was changed"));
        let fact = node(name, facts).ok_or_else(gone)?;
        let step = match fact.answers && fact.image == Some(image) {
            true => RolloutStep::Skipped { reason: "it runs this image already".to_owned() },
            false => RolloutStep::Waiting,
        };
        Ok(RolloutNode {
            name: name.clone(),
            id: fact.id.clone(),
            boot_id: fact.boot_id.clone().unwrap_or_default(),
            step,
            since: now,
            began: 0,
            attempt: 0,
            hook: RolloutHook::None,
            gaps: 0,
        })
    };
    let measurement = |text: &String| digest("mr_aggregated", text).map(Measurement);
    Ok(Rollout::from(NewRollout {
        id: hex::encode(id),
        image,
        mr_aggregated: action.mr_aggregated.as_ref().map(measurement).transpose()?,
        min_serving: action.min_serving,
        drain_for: action.drain_for,
        healthy_for: action.healthy_for,
        node_timeout: action.node_timeout,
        driven: action.driven,
        started_at: now,
        by: author.by.chars().take(60).collect(),
        nodes: action.nodes.iter().map(planned).collect::<Result<_>>()?,
    }))
}

fn digest(name: &str, text: &str) -> Result<[u8; 32]> {
    let text = text.strip_prefix("0x").unwrap_or(text);
    let mut bytes = [0; 32];
    match hex::decode_to_slice(text, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(Error::invalid(format!("{name} must have 64 hex digits"))),
    }
}

/// Why an image may not be rolled out: a sentence with what is missing.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Refusal {
    /// This node does not know what it is itself, so the policy was not asked.
    #[error("{0}")]
    NotAsked(String),
    /// The policy would not allow it, or did not answer.
    #[error("{0}")]
    ByPolicy(String),
}

impl RolloutService {
    /// Whether the policy in force would allow a KMS as this one with another image: the same app, compose file and machine.
    ///
    /// # Errors
    /// [`Refusal`]: it would not, or that is not known.
    pub(super) async fn would_allow(&self, action: &StartRollout) -> std::result::Result<(), Refusal> {
        let own = self.foundation.self_authorization.told_identity();
        let own = own.ok_or_else(|| {
            Refusal::NotAsked(
                "this node has no verified evidence of itself, so it cannot say whether the policy would allow the image"
                    .to_owned(),
            )
        })?;
        let image = hex::decode(&action.image).unwrap_or_default();
        let measurement = match &action.mr_aggregated {
            Some(measurement) => hex::decode(measurement).unwrap_or_default(),
            None if own.os_image_hash == image => own.mr_aggregated.clone(),
            // Nobody knows it before such a node has started: an entry that names a measurement must not fit by accident.
            None => vec![0; 32],
        };
        let new = BootInfo { os_image_hash: image, mr_aggregated: measurement, ..own };
        let policy = &self.foundation.policy;
        let subject = Subject::Kms(&new);
        let denial = match policy.decide(subject).await {
            Err(_) => {
                return Err(Refusal::ByPolicy(
                    "the policy does not answer, so it is not known whether it would allow the image"
                        .to_owned(),
                ));
            }
            Ok(Decision::Allowed { .. }) => return Ok(()),
            Ok(Decision::IfImage(condition)) => match self.foundation.image.is_ruled_out(None) {
                None => return Ok(()),
                Some(why) => condition.otherwise(&why),
            },
            Ok(Decision::Denied(denial)) => denial,
        };
        let remedy = self.foundation.remedy(policy, denial.code, subject);
        let missing = match remedy {
            Some(remedy) if denial.code == DenialCode::KmsMeasurement && action.mr_aggregated.is_none() => {
                let entry = remedy.fragment.as_ref().and_then(|fragment| fragment["kms"]["images"].get(0));
                match entry {
                    Some(entry) => {
                        format!("add {entry} to kms.images, or say mr_aggregated (kmsctl: --mr-aggregated) if the policy lists it")
                    }
                    None => "the policy names KMSs by their measurement: say mr_aggregated (kmsctl: --mr-aggregated) of the new \
                             nodes"
                        .to_owned(),
                }
            }
            Some(remedy) => remedy.sentence,
            None => "no entry would allow it".to_owned(),
        };
        Err(Refusal::ByPolicy(format!(
            "the policy in force would not allow a KMS with this image ({}): {missing}",
            denial.reason
        )))
    }
}
