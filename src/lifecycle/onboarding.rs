//! A KMS without keys: it makes or receives them, and saves nothing before the commit.

use std::time::SystemTime;

use kms_attest::binding::ReportData;
use kms_attest::certificate;
use kms_attest::p256::P256Key;
use kms_client::source::RootKeyParts;

use super::LifecycleError;
use super::received::{epoch_parts, epoch_statements};
use crate::audit::Receipt;
use crate::ca;
use crate::clock::unix;
use crate::domain::Domain;
use crate::keys::epoch::RootEpoch;
use crate::keys::keyring::{EpochError, Keyring, PublicRoot};
use crate::keys::{K256Error, K256Key, RootKeys, statement};
use crate::proto::BootstrapResponse;
use crate::state::{Choices, ChoicesError};
use crate::store::{DirectorySnapshot, KeyDirectory, NewKeys, State};

/// What a KMS without keys can do.
#[derive(Debug)]
pub struct Onboarding {
    directory: KeyDirectory,
}

/// Complete keys that are not saved yet.
#[derive(Debug)]
pub struct Prepared {
    keyring: Keyring,
    bootstrap_info: Option<Vec<u8>>,
    choices: Option<Choices>,
    app_epochs: Option<Vec<u8>>,
    domains: Option<Vec<u8>>,
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
    /// The epochs are not those of a KMS.
    #[error("the epochs of the source KMS are not usable: {0}")]
    Epochs(#[from] EpochError),
    /// What operators chose there, or what this version does not know of it.
    #[error("the keys of the source KMS are not usable here: {0}")]
    Choices(#[from] ChoicesError),
}

impl Onboarding {
    pub(super) fn new(directory: KeyDirectory) -> Self {
        Self { directory }
    }

    /// Makes root keys; saves nothing.
    pub fn bootstrap(&self) -> Prepared {
        Prepared::received(Keyring::first(RootKeys::generate()))
    }

    /// Checks the root keys from a source; saves nothing.
    ///
    /// # Errors
    /// [`HandoverError`].
    pub fn receive(&self, handover: RootKeyParts) -> Result<Prepared, HandoverError> {
        let k256 = K256Key::from_scalar(&handover.k256).map_err(HandoverError::K256)?;
        // What the source states is of the epoch that it signs with, or of its bootstrap.
        let known = |stated: &[u8]| {
            stated == k256.public_key() || handover.epochs.iter().any(|epoch| epoch.k256_public == *stated)
        };
        if !handover.stated_k256.iter().all(|stated| known(stated)) {
            return Err(HandoverError::OtherK256);
        }
        let choices =
            handover.choices.as_ref().map(|choices| Choices::parse(choices.as_bytes())).transpose()?;
        if handover.epochs.is_empty() {
            let root = RootKeys::from_parts(handover.ca, handover.temp_ca, k256);
            return Ok(self.receive_keyring(Keyring::first(root)).with_choices(choices));
        }
        let temp_ca = P256Key::from_scalar(handover.temp_ca.scalar()).expect("the scalar of a key");
        let statements = epoch_statements(&handover);
        let keyring = Keyring::from_parts(temp_ca, epoch_parts(handover)?)?;
        let stated = |keyring: Keyring, (epoch, statement)| keyring.with_statement(epoch, statement);
        Ok(self.receive_keyring(statements.into_iter().fold(keyring, stated)).with_choices(choices))
    }

    /// Takes the keys of all epochs, which were checked together; saves nothing.
    pub fn receive_keyring(&self, keyring: Keyring) -> Prepared {
        Prepared::received(keyring)
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
        let keyring = super::ready::certified(prepared.keyring.clone(), now)?;
        let rpc_key = P256Key::generate();
        let pem_of =
            |epoch| keyring.epoch(epoch).and_then(|epoch| Some((epoch.keys()?, epoch.root_ca_pem()?)));
        let identity = keyring.identity(unix(now));
        let (root, identity_pem) = pem_of(identity).ok_or(EpochError::NoneActive)?;
        let temp_ca_pem = certificate::pem(&ca::temp_certificate(root, now)?);
        let leaf = ca::rpc_leaf(&ca::root_issuer(root, identity_pem)?, domain, &rpc_key, None, now)?;
        self.directory.commit(&NewKeys {
            keyring: &keyring,
            rpc_key: &rpc_key,
            root_ca_pem: pem_of(RootEpoch::FIRST).map(|(_, pem)| pem),
            temp_ca_pem: &temp_ca_pem,
            rpc_pem: &certificate::pem(&leaf),
            domain,
            bootstrap_info: prepared.bootstrap_info.as_deref(),
            app_epochs: prepared.app_epochs.as_deref(),
            domains: prepared.domains.as_deref(),
        })?;
        Ok(())
    }
}

impl Prepared {
    /// Keys of all epochs that came from elsewhere, as they were checked.
    pub(super) fn received(keyring: Keyring) -> Self {
        Self { keyring, bootstrap_info: None, choices: None, app_epochs: None, domains: None }
    }

    /// With what operators had chosen where the keys came from; `None` if that is not known.
    #[must_use]
    pub(super) fn with_choices(mut self, choices: Option<Choices>) -> Self {
        self.choices = choices;
        self
    }

    /// What operators had chosen where the keys came from; `None` if that is not known.
    pub fn choices(&self) -> Option<&Choices> {
        self.choices.as_ref()
    }

    /// Saves this file of the epochs chosen for apps with the keys.
    pub fn keep_app_epochs(&mut self, content: Vec<u8>) {
        self.app_epochs = Some(content);
    }

    /// Saves this file of the domains that operators made with the keys.
    pub fn keep_domains(&mut self, content: Vec<u8>) {
        self.domains = Some(content);
    }

    /// The public keys of epoch 0, by which a cluster is known.
    fn public(&self) -> &PublicRoot {
        self.keyring.epochs()[0].public()
    }

    /// The highest epoch.
    pub fn newest_epoch(&self) -> RootEpoch {
        self.keyring.epochs().last().map_or(RootEpoch::FIRST, |epoch| epoch.number())
    }

    /// The keys of all epochs.
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// What evidence over new keys must commit to.
    pub fn report_data(&self) -> ReportData {
        statement::bootstrap_report_data(&self.public().ca_spki, &self.public().k256)
    }

    /// The public statement over new keys, which is saved with them. `attestation` is empty only without a
    /// TEE.
    pub fn stated(&mut self, attestation: Vec<u8>) -> BootstrapResponse {
        let statement = BootstrapResponse {
            ca_pubkey: self.public().ca_spki.to_vec(),
            k256_pubkey: self.public().k256.to_vec(),
            attestation,
        };
        self.bootstrap_info = Some(serde_json::to_vec(&statement).expect("a message of three byte strings"));
        statement
    }

    /// Root CA public key, SubjectPublicKeyInfo DER.
    pub fn ca_public_key(&self) -> [u8; 91] {
        self.public().ca_spki
    }

    /// Root secp256k1 public key, compressed.
    pub fn k256_public_key(&self) -> [u8; 33] {
        self.public().k256
    }
}
