//! The statement of a document: what this KMS says of itself, and its quote covers.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use kms_attest::identity::DomainName;
use serde::Serialize;

use crate::admission::Foundation;
use crate::audit::Head;
use crate::keys::keyring::EpochInfo;
use crate::lifecycle::Ready;

/// The statement; bytes are hex.
#[derive(Debug, Serialize)]
pub(super) struct Statement<'a> {
    pub(super) version: u64,
    pub(super) time: u64,
    pub(super) nonce: Option<String>,
    pub(super) kms_version: &'static str,
    pub(super) program_sha256: Option<String>,
    pub(super) name: &'a str,
    pub(super) endpoints: Vec<String>,
    pub(super) rpc_spki_sha256: String,
    pub(super) root: Root,
    pub(super) epochs: Vec<EpochRoot>,
    pub(super) log: Option<Log>,
    pub(super) policies: BTreeMap<String, PolicyState>,
    pub(super) relaxed: Vec<String>,
    /// Whether nobody can log in to its machine; `None` if that is not known.
    pub(super) sealed: Option<bool>,
}

#[derive(Debug, Serialize)]
pub(super) struct Root {
    ca_spki_sha256: String,
    k256_public_key: String,
}

#[derive(Debug, Serialize)]
pub(super) struct EpochRoot {
    epoch: u32,
    state: &'static str,
    #[serde(flatten)]
    root: Root,
}

#[derive(Debug, Serialize)]
pub(super) struct Log {
    origin: String,
    key: String,
    checkpoint: String,
}

#[derive(Debug, Serialize)]
pub(super) struct PolicyState {
    kind: &'static str,
    digest: Option<String>,
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

/// Where this KMS is reached, by the name in its TLS certificate.
pub(super) fn endpoints(name: &str, port: u16) -> Vec<String> {
    match port {
        // The system chose one, which nobody outside can know.
        0 => Vec::new(),
        443 => vec![format!("https://{name}")],
        port => vec![format!("https://{name}:{port}")],
    }
}

pub(super) fn root(ready: &Ready) -> Root {
    Root {
        ca_spki_sha256: sha256(&ready.ca_public_key()),
        k256_public_key: hex::encode(ready.k256_public_key()),
    }
}

pub(super) fn epochs(ready: &Ready) -> Vec<EpochRoot> {
    let shown = |info: EpochInfo| EpochRoot {
        epoch: info.epoch.0,
        state: info.state.name(),
        root: Root {
            ca_spki_sha256: hex::encode(info.ca_fingerprint),
            k256_public_key: hex::encode(info.k256_public),
        },
    };
    ready.epochs().into_iter().map(shown).collect()
}

/// The first line of a checkpoint is the name of its log.
pub(super) fn log(head: &Head) -> Option<Log> {
    let origin = head.checkpoint.lines().next()?.to_owned();
    Some(Log { origin, key: head.key.to_string(), checkpoint: head.checkpoint.to_string() })
}

/// The policy that decides in each domain.
pub(super) fn policies(foundation: &Foundation) -> BTreeMap<String, PolicyState> {
    let state = |name: &DomainName| {
        let policy = foundation.policy_of(name);
        PolicyState { kind: policy.kind(), digest: policy.in_force().digest.map(hex::encode) }
    };
    foundation.domains.list().iter().map(|domain| (domain.name.to_string(), state(&domain.name))).collect()
}
