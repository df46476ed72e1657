//! A KMS without keys: it makes or receives them, and saves nothing before the commit.

use std::time::SystemTime;

use kms_attest::binding::ReportData;
use kms_attest::certificate;
use kms_attest::p256::P256Key;
use kms_client::source::RootKeyParts;

use super::LifecycleError;
use crate::audit::Receipt;
use crate::ca;
use crate::domain::Domain;
use crate::keys::{K256Error, K256Key, RootKeys, statement};
use crate::proto::BootstrapResponse;
use crate::store::{DirectorySnapshot, KeyDirectory, NewKeys, State};

/// What a KMS without keys can do.
#[derive(Debug)]
pub struct Onboarding {
    directory: KeyDirectory,
}

/// Complete keys that are not saved yet.
#[derive(Debug)]
pub struct Prepared {
    root: RootKeys,
    bootstrap_info: Option<Vec<u8>>,
}

/// What is in the key directory while a KMS onboards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// No root key.
    Nothing,
    /// All keys.
    Keys,
    /// Some keys, or unusable ones: nothing is overwritten.
    Part {
        /// What is missing or wrong, and what the operator can do.
        reason: String,
    },
}

/// The state of the key directory, with the file snapshot that it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    held: Held,
    snapshot: DirectorySnapshot,
}

impl Inspection {
    /// What was found.
    pub fn held(&self) -> &Held {
        &self.held
    }
}

/// Why keys from a source are refused.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The secp256k1 key is invalid.
    #[error("Failed to parse ECDSA key")]
    K256(#[source] K256Error),
    /// The secp256k1 key differs from the public key that the source states.
    #[error("the ECDSA key does not belong to k256_pubkey in GetMeta of the source KMS")]
    OtherK256,
}

impl Onboarding {
    pub(super) fn new(directory: KeyDirectory) -> Self {
        Self { directory }
    }

    /// Makes root keys; saves nothing.
    pub fn bootstrap(&self) -> Prepared {
        Prepared { root: RootKeys::generate(), bootstrap_info: None }
    }

    /// Checks the root keys from a source; saves nothing.
    ///
    /// # Errors
    /// [`HandoverError`].
    pub fn receive(&self, handover: RootKeyParts) -> Result<Prepared, HandoverError> {
        let k256 = K256Key::from_scalar(&handover.k256).map_err(HandoverError::K256)?;
        if handover.stated_k256.iter().any(|stated| stated[..] != k256.public_key()[..]) {
            return Err(HandoverError::OtherK256);
        }
        Ok(Prepared::received(RootKeys::from_parts(handover.ca, handover.temp_ca, k256)))
    }

    /// Whether a commit has happened.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn is_committed(&self) -> Result<bool, LifecycleError> {
        Ok(!matches!(self.directory.state()?, State::Empty))
    }

    /// What the key directory holds now. Read again only if its files have changed since `before`, because
    /// waiting callers poll often.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn look(&self, before: Option<Inspection>) -> Result<Inspection, LifecycleError> {
        // Taken before the directory is read, so that a change during the read is found the next time.
        let snapshot = self.directory.snapshot()?;
        if let Some(before) = before.filter(|before| before.snapshot == snapshot) {
            return Ok(before);
        }
        let held = match self.directory.state()? {
            State::Empty => Held::Nothing,
            State::Complete(_) => Held::Keys,
            State::Broken { reason, .. } => Held::Part { reason },
        };
        Ok(Inspection { held, snapshot })
    }

    /// Writes, syncs and removes a file in the key directory.
    ///
    /// # Errors
    /// What would prevent keys from being saved.
    pub fn probe(&self) -> Result<(), LifecycleError> {
        Ok(self.directory.probe()?)
    }

    /// Saves the keys, after their event was recorded: after this call, or a crash during it, the directory
    /// holds all of them or none.
    ///
    /// # Errors
    /// Keys exist already; the directory cannot be written.
    pub fn commit(
        &self,
        prepared: &Prepared,
        domain: &Domain,
        _recorded: Receipt,
        now: SystemTime,
    ) -> Result<(), LifecycleError> {
        let root = &prepared.root;
        let rpc_key = P256Key::generate();
        let root_ca_pem = certificate::pem(&ca::root_certificate(root, now)?);
        let temp_ca_pem = certificate::pem(&ca::temp_certificate(root, now)?);
        let leaf = ca::rpc_leaf(&ca::root_issuer(root, &root_ca_pem)?, domain, &rpc_key, None, now)?;
        self.directory.commit(&NewKeys {
            root,
            rpc_key: &rpc_key,
            root_ca_pem: &root_ca_pem,
            temp_ca_pem: &temp_ca_pem,
            rpc_pem: &certificate::pem(&leaf),
            domain,
            bootstrap_info: prepared.bootstrap_info.as_deref(),
        })?;
        Ok(())
    }
}

impl Prepared {
    /// Root keys that came from elsewhere, as they were checked.
    pub(super) fn received(root: RootKeys) -> Self {
        Self { root, bootstrap_info: None }
    }

    /// What evidence over new keys must commit to.
    pub fn report_data(&self) -> ReportData {
        statement::bootstrap_report_data(&self.root.ca_spki(), &self.root.k256_public())
    }

    /// The public statement over new keys, which is saved with them. `attestation` is empty only without a
    /// TEE.
    pub fn stated(&mut self, attestation: Vec<u8>) -> BootstrapResponse {
        let statement = BootstrapResponse {
            ca_pubkey: self.root.ca_spki().to_vec(),
            k256_pubkey: self.root.k256_public().to_vec(),
            attestation,
        };
        self.bootstrap_info = Some(serde_json::to_vec(&statement).expect("a message of three byte strings"));
        statement
    }

    /// Root CA public key, SubjectPublicKeyInfo DER.
    pub fn ca_public_key(&self) -> [u8; 91] {
        self.root.ca_spki()
    }

    /// Root secp256k1 public key, compressed.
    pub fn k256_public_key(&self) -> [u8; 33] {
        self.root.k256_public()
    }
}
