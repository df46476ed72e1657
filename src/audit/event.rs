//! What is recorded: who got or was refused what. Never a secret.

use std::net::IpAddr;

use kms_attest::identity::BootInfo;
use serde::Serialize;

use super::AuditError;
use super::chain::MAX_LINE;

/// Room in a line for what the chain adds to an event.
const CHAIN_FIELDS: usize = 512;

/// Who an event is about: a verified identity in hex, and where it connected from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Subject {
    app_id: String,
    instance_id: String,
    compose_hash: String,
    device_id: String,
    os_image_hash: String,
    mr_aggregated: String,
    tee_variant: String,
    tcb_status: String,
    advisory_ids: Vec<String>,
    remote: IpAddr,
}

impl Subject {
    /// The identity that connected from `remote`.
    pub fn new(identity: &BootInfo, remote: IpAddr) -> Self {
        Self {
            app_id: hex::encode(&identity.app_id),
            instance_id: hex::encode(&identity.instance_id),
            compose_hash: hex::encode(&identity.compose_hash),
            device_id: hex::encode(&identity.device_id),
            os_image_hash: hex::encode(&identity.os_image_hash),
            mr_aggregated: hex::encode(&identity.mr_aggregated),
            tee_variant: identity.tee_variant.clone(),
            tcb_status: identity.tcb_status.clone(),
            advisory_ids: identity.advisory_ids.clone(),
            remote,
        }
    }
}

/// One event; its name and fields are the file's JSON, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The service started.
    Started {
        /// Version of this program.
        version: String,
        /// `onboarding` or `ready`.
        phase: &'static str,
        /// Codes of what is relaxed.
        posture: Vec<String>,
    },
    /// The service stopped in order.
    Stopped,
    /// A crash left an unfinished end, which was cut off.
    Recovered {
        /// How much was cut off.
        dropped_bytes: u64,
    },
    /// Refusals came faster than they are recorded.
    Suppressed {
        /// How many are missing here.
        events: u64,
    },
    /// Root keys were generated.
    KeysBootstrapped {
        /// Domain of the server certificate.
        domain: String,
        /// SPKI of the root CA, hex.
        ca_pubkey: String,
        /// Compressed secp256k1 root, hex.
        k256_pubkey: String,
    },
    /// Root keys were received from another KMS.
    KeysReceived {
        /// Domain of the server certificate.
        domain: String,
        /// Where they came from.
        source: String,
        /// Compressed secp256k1 root, hex.
        k256_pubkey: String,
    },
    /// An app got its keys.
    AppKeyReleased {
        /// Who got them.
        #[serde(flatten)]
        subject: Subject,
    },
    /// A KMS got the root keys.
    KmsKeyReleased {
        /// Who got them.
        #[serde(flatten)]
        subject: Subject,
    },
    /// An app got a certificate.
    CertificateIssued {
        /// Who got it.
        #[serde(flatten)]
        subject: Subject,
        /// The certificate's common name.
        common_name: String,
        /// Its subject alternative names.
        names: Vec<String>,
    },
    /// The policy said no.
    Denied {
        /// Who was refused.
        #[serde(flatten)]
        subject: Subject,
        /// Stable code of the reason.
        code: String,
        /// The reason that the caller was told.
        reason: String,
    },
}

impl Event {
    /// The event as a JSON object.
    pub(super) fn fields(&self) -> Result<String, AuditError> {
        let fields = serde_json::to_string(self).map_err(|_| AuditError::TooLarge)?;
        if fields.len() > MAX_LINE - CHAIN_FIELDS { Err(AuditError::TooLarge) } else { Ok(fields) }
    }
}
