//! What this node says of itself to the others every few seconds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kms_policy::Policy;
use kms_wire::fleet::NodeStatus;
use sha2::{Digest as _, Sha256};

use crate::admission::Foundation;
use crate::api::health::Boot;
use crate::api::readiness::Readiness;
use crate::clock::{unix, unix_now, unix_now_ms};
use crate::lifecycle::Ready;
use crate::state::shared::{Reporter, signed_tree};

/// Says what this node is.
#[derive(Debug)]
pub struct StatusReporter {
    foundation: Arc<Foundation>,
    ready: Arc<Ready>,
    readiness: Arc<Readiness>,
    boot: Boot,
}

impl StatusReporter {
    /// The reporter for this run of the process.
    pub fn new(
        foundation: Arc<Foundation>,
        ready: Arc<Ready>,
        readiness: Arc<Readiness>,
        boot: Boot,
    ) -> Self {
        Self { foundation, ready, readiness, boot }
    }

    fn now(&self) -> NodeStatus {
        let Foundation {
            verifier,
            policy,
            domain_policies,
            domains,
            drain,
            freezes,
            audit,
            self_authorization,
            ..
        } = &*self.foundation;
        let report = self.readiness.report();
        let head = audit.head();
        let policies: Vec<(String, &Policy)> = [("default".to_owned(), &**policy)]
            .into_iter()
            .chain(domain_policies.iter().map(|(name, policy)| (name.to_string(), &**policy)))
            .collect();
        let digests: BTreeMap<String, String> = policies
            .iter()
            .filter_map(|(name, policy)| Some((name.clone(), hex::encode(policy.in_force().digest?))))
            .collect();
        let serial = |policy: &Policy| Some(policy.bundled()?.bundle()?.bundle.header().serial());
        let serials = policies.iter().filter_map(|(name, policy)| Some((name.clone(), serial(policy)?)));
        let told = self_authorization.told_identity();
        let identity = |of: fn(&kms_attest::identity::BootInfo) -> &[u8]| {
            told.as_ref().map(|told| hex::encode(of(told))).filter(|hex| !hex.is_empty())
        };
        let collateral = verifier.cache().stats();
        let (now, canaries) = (unix_now(), self.ready.canaries());
        let epoch = self.ready.current_epoch(now).0;
        let canary = usize::try_from(epoch).ok().and_then(|epoch| canaries.get(epoch)).copied().flatten();
        NodeStatus {
            format: NodeStatus::FORMAT,
            version: env!("CVM_KMS_VERSION").to_owned(),
            boot_id: self.boot.id.clone(),
            started: Some(unix(self.boot.started)),
            time: now,
            time_ms: Some(unix_now_ms()),
            ready: report.is_ready(),
            ready_for: self.readiness.ready_for().map(|ready| ready.as_secs()),
            reasons: report.reasons().iter().map(|reason| reason.cause.name().to_owned()).collect(),
            view_age_ms: freezes
                .view()
                .and_then(|view| view.age())
                .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            draining: drain.current().is_some(),
            mr_aggregated: identity(|told| &told.mr_aggregated),
            os_image_hash: identity(|told| &told.os_image_hash),
            ledger_size: head.as_ref().map(|head| head.size.get()),
            ledger_root: head
                .as_ref()
                .and_then(|head| signed_tree(&head.checkpoint))
                .map(|tree| hex::encode(tree.root.as_bytes())),
            checkpoint: head.map(|head| head.checkpoint.to_string()),
            policies_sha256: Some(digest_of(&digests)),
            policies: first(digests),
            bundle_serials: serials.take(NodeStatus::MAX_DOMAINS).collect(),
            domains_sha256: domains.digest().map(hex::encode),
            root_epoch: epoch,
            root_epochs: self.ready.epochs().iter().map(|epoch| epoch.state.name().to_owned()).collect(),
            canary: canary.map(hex::encode),
            canaries: canaries.iter().map(|canary| canary.map(hex::encode).unwrap_or_default()).collect(),
            collateral_expires: collateral.entries.iter().map(|entry| entry.expires).min(),
        }
    }
}

impl Reporter for StatusReporter {
    fn status(&self) -> Vec<u8> {
        serde_json::to_vec(&self.now()).expect("texts and numbers")
    }

    fn poll_interval(&self) -> Duration {
        let Foundation { policy, domain_policies, .. } = &*self.foundation;
        let policies = domain_policies.values().chain([policy]);
        let polls = policies.filter_map(|policy| Some(policy.bundled()?.settings().poll_interval));
        polls.max().unwrap_or_default()
    }
}

/// `SHA-256(name ‖ 0 ‖ digest ‖ 0 ‖ …)`, hex: no name of a domain has a zero.
fn digest_of(digests: &BTreeMap<String, String>) -> String {
    let all = digests.iter().fold(Sha256::new(), |all, (name, digest)| {
        all.chain_update(name).chain_update([0]).chain_update(digest).chain_update([0])
    });
    hex::encode(all.finalize())
}

/// The rules of the KMS itself, and those of the first domains, so that a report has a bound.
fn first(mut digests: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let own = digests.remove_entry("default");
    let most = NodeStatus::MAX_DOMAINS - usize::from(own.is_some());
    own.into_iter().chain(digests.into_iter().take(most)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_lists_the_first_domains_and_compares_all() {
        let name = |number: usize| format!("domain-{number:03}");
        let mut digests: BTreeMap<_, _> = (0..500).map(|number| (name(number), "aa".to_owned())).collect();
        digests.insert("default".to_owned(), "bb".to_owned());
        let listed = first(digests.clone());
        assert_eq!(listed.len(), NodeStatus::MAX_DOMAINS);
        assert_eq!((&*listed["default"], &*listed[&name(0)]), ("bb", "aa"));
        let before = digest_of(&digests);
        digests.insert(name(499), "cc".to_owned());
        assert_ne!(before, digest_of(&digests));
    }
}
