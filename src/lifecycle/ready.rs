//! A KMS with keys. Secrets are released only with a recorded permit, public values only with our
//! self-authorization.

mod recovery;

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use kms_attest::binding::{ReportData, kms_attestation_by_root};
use kms_attest::certificate;
use kms_attest::evidence::Evidence;
use kms_attest::identity::{AppId, DomainName, InstanceId};
use kms_attest::p256::P256Key;
use kms_ledger::signature::SigningKey;
use quick_cache::sync::Cache;
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

pub use self::recovery::{DrillError, UnrecordedSet};
use super::epochs::HandedEpoch;
use super::{LifecycleError, Released};
use crate::admission::{App, Certificate, Kms, Permit, SelfAuthorization};
use crate::audit::{LegacySalts, LogKey, LogKeys, NodeId};
use crate::ca::{self, CaCertificate, CaError, Freshness, OwnNames, RPC_LEAF, Restricted};
use crate::clock::{unix, unix_now};
use crate::domain::{Domain, ReservedName};
use crate::keys::derive::{self, AppAt, AppKeys, DeriveError};
use crate::keys::epoch::{KeyEpochs, RootEpoch};
use crate::keys::keyring::{EpochError, Keyring, Unreadable};
use crate::keys::{RootKeys, Secret, statement};
use crate::metrics::CacheState;
use crate::proto::BootstrapResponse;
use crate::state::shared::{FleetId, Roots};
use crate::store::{Derived, KeyDirectory, Stored};

/// What a KMS with its root keys can do.
#[derive(Debug)]
pub struct Ready {
    pub(super) directory: KeyDirectory,
    pub(super) keyring: ArcSwap<Keyring>,
    /// One change of the keyring at a time.
    pub(super) changing: Mutex<()>,
    /// The root keys that sign what this node says of itself, the same as long as the process runs.
    pub(super) identity: Arc<RootKeys>,
    root_ca_pem: String,
    temp_ca_pem: String,
    temp_ca_key_pem: String,
    rpc: RpcIdentity,
    names: OwnNames,
    bootstrap_info: Option<BootstrapResponse>,
    app_signatures: AppSignatures,
}

/// A cache of the root key's signatures over the public keys of apps, by all that such a key depends on: they cost more than the keys, and
/// the instances of an app request them repeatedly. They are public, so they may stay in memory.
#[derive(Debug)]
struct AppSignatures(Cache<AppKeyName, [u8; 65]>);

/// All that the secp256k1 key of an app depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct AppKeyName {
    domain: DomainName,
    app: AppId,
    instance: Option<InstanceId>,
    epochs: KeyEpochs,
}

/// Apps whose signature is remembered; the least used go first. Some 200 bytes each.
const APPS: usize = 4096;

impl Default for AppSignatures {
    fn default() -> Self {
        Self(Cache::new(APPS))
    }
}

impl AppSignatures {
    fn state(&self) -> CacheState {
        let (entries, limit) = (self.0.len() as u64, Some(self.0.capacity()));
        CacheState { entries, limit, hits: self.0.hits(), misses: self.0.misses() }
    }

    fn get_or_sign(&self, root: &RootKeys, app: AppAt<'_>) -> Result<[u8; 65], DeriveError> {
        let AppAt { domain, id, instance, epoch } = app;
        let epochs = KeyEpochs { root: root.epoch(), app: epoch };
        let key = AppKeyName { domain: domain.clone(), app: *id, instance: instance.copied(), epochs };
        if let Some(signature) = self.0.get(&key) {
            return Ok(signature);
        }
        let signature = derive::app_key_signature(root, app)?;
        self.0.insert(key, signature);
        Ok(signature)
    }
}

/// The key of our TLS certificate, and the name in it.
#[derive(Debug)]
pub struct RpcIdentity {
    key: P256Key,
    domain: Domain,
}

/// What a replica receives.
pub struct Handover<'a> {
    /// Root CA key, PKCS#8 PEM.
    pub ca_key_pem: Zeroizing<String>,
    /// Root secp256k1 key.
    pub k256_key: Secret,
    /// Key of the temporary CA, the text of its file.
    pub temp_ca_key_pem: &'a str,
    /// The epoch of both root keys: 0, or where its keys are destroyed, the one that signs for this node.
    pub epoch: RootEpoch,
    /// Every epoch, if there is more than epoch 0 or it is not active any more; empty otherwise.
    pub epochs: Vec<HandedEpoch>,
}

/// The env public key of an app, with its signature without a timestamp, which never changes.
#[derive(Debug)]
pub struct EnvPublicKey {
    /// The epochs that it was derived at.
    pub epochs: KeyEpochs,
    /// X25519, 32 bytes.
    pub public_key: [u8; 32],
    /// Signature without time, 65 bytes.
    pub signature: [u8; 65],
}

/// Saves a file that can be derived from the keys. If that fails, the KMS serves without it.
fn keep(directory: &KeyDirectory, file: Derived, content: &[u8]) {
    if let Err(error) = directory.write_derived(file, content) {
        tracing::warn!(file = file.name(), %error, "a file cannot be kept; it is served from memory and made again later");
    }
}

/// The CA certificates of a directory, as kept or renewed.
pub(super) struct Certificates {
    keyring: Keyring,
    /// Of epoch 0; `None` if its keys are destroyed.
    root_ca: Option<CaCertificate>,
    temp_ca: CaCertificate,
}

/// The certificates of a directory's keys. Those that are missing or expire soon are issued again.
///
/// # Errors
/// [`CaError`].
pub(super) fn certificates(stored: &Stored, now: SystemTime) -> Result<Certificates, CaError> {
    let mut keyring = stored.keyring.clone();
    let first = keyring.epochs()[0].keys().cloned();
    let root_ca = first.map(|root| ca::root_ca(&root, stored.root_ca_pem.as_deref(), now)).transpose()?;
    if let Some(root_ca) = &root_ca {
        keyring = keyring.with_root_ca(RootEpoch::FIRST, &root_ca.pem);
    }
    let any = keyring.epochs().iter().find_map(|epoch| epoch.keys()).cloned();
    let any = any.ok_or(DeriveError::Epoch(Unreadable::Destroyed(RootEpoch::FIRST)))?;
    let temp_ca = ca::temp_ca(&any, stored.temp_ca_pem.as_deref(), now)?;
    Ok(Certificates { keyring: certified(keyring, now)?, root_ca, temp_ca })
}

/// The keyring with a root CA certificate of every epoch that has keys.
///
/// # Errors
/// [`CaError`].
pub(super) fn certified(mut keyring: Keyring, now: SystemTime) -> Result<Keyring, CaError> {
    for epoch in keyring.clone().epochs() {
        let Some(keys) = epoch.keys() else { continue };
        let certificate = ca::root_ca(keys, epoch.root_ca_pem(), now)?;
        if certificate.freshness == Freshness::Renewed {
            keyring = keyring.with_root_ca(epoch.number(), &certificate.pem);
        }
    }
    Ok(keyring)
}

impl Ready {
    /// The cache of signatures over the keys of apps, for diagnostics.
    pub fn signature_cache(&self) -> CacheState {
        self.app_signatures.state()
    }

    /// Loads the directory's content; issues CA certificates that expire soon again, over the same keys.
    pub(super) fn new(
        directory: KeyDirectory,
        stored: Stored,
        domain: Domain,
        reserved: &[ReservedName],
        now: SystemTime,
    ) -> Result<Self, LifecycleError> {
        let Certificates { keyring, root_ca, temp_ca } = certificates(&stored, now)?;
        let Stored {
            keyring: kept,
            rpc_key,
            temp_ca_key_pem,
            bootstrap_info,
            domain: kept_domain,
            is_fingerprinted,
            ..
        } = stored;
        if !is_fingerprinted && let Err(error) = directory.write_fingerprints(&keyring) {
            tracing::warn!(%error, "the fingerprints of the root keys cannot be kept; the next start tries again");
        }
        let root_ca = root_ca.iter().map(|certificate| (Derived::RootCaCertificate, certificate));
        for (name, certificate) in root_ca.chain([(Derived::TempCaCertificate, &temp_ca)]) {
            if certificate.freshness == Freshness::Renewed {
                keep(&directory, name, certificate.pem.as_bytes());
            }
        }
        let number = keyring.identity(unix(now));
        let (identity, root_ca_pem) = keyring
            .epoch(number)
            .and_then(|epoch| Some((Arc::clone(epoch.keys()?), epoch.root_ca_pem()?.to_owned())))
            .ok_or(EpochError::NoneActive)?;
        let keyring = keyring.stated(&identity);
        if !keyring.is_vouched_as(&kept)
            && let Err(error) = directory.write_keyring(&keyring)
        {
            tracing::warn!(
                %error,
                "certificates of root epochs and statements over them cannot be kept; the next start makes them again"
            );
        }
        let key = match rpc_key {
            Some(key) => key,
            None => {
                let key = P256Key::generate();
                keep(&directory, Derived::RpcKey, key.pem().as_bytes());
                key
            }
        };
        // It speaks of the keys of epoch 0.
        let bootstrap_info = bootstrap_info
            .filter(|_| number == RootEpoch::FIRST)
            .and_then(|bytes| kms_attest::json::from_utf8(&bytes).ok());
        Ok(Self {
            names: OwnNames::new(&domain, kept_domain).reserving(reserved.iter().cloned()),
            root_ca_pem,
            temp_ca_pem: temp_ca.pem,
            temp_ca_key_pem,
            rpc: RpcIdentity { key, domain },
            bootstrap_info,
            app_signatures: AppSignatures::default(),
            directory,
            keyring: ArcSwap::from_pointee(keyring),
            changing: Mutex::new(()),
            identity,
        })
    }

    /// Root CA certificate of the epoch that signs for this node, the text of its file.
    pub fn root_ca_pem(&self) -> &str {
        &self.root_ca_pem
    }

    /// Temporary CA certificate, the text of its file.
    pub fn temp_ca_pem(&self) -> &str {
        &self.temp_ca_pem
    }

    /// Key of the temporary CA, the text of its file. Public by design (docs/compatibility.md).
    pub fn temp_ca_key_pem(&self, _: &SelfAuthorization) -> &str {
        &self.temp_ca_key_pem
    }

    /// Root secp256k1 public key of the epoch that signs for this node, compressed.
    pub fn k256_public_key(&self) -> [u8; 33] {
        self.identity.k256_public()
    }

    /// Root CA public key of the epoch that signs for this node, SubjectPublicKeyInfo DER: what apps pin.
    pub fn ca_public_key(&self) -> [u8; 91] {
        self.identity.ca_spki()
    }

    /// The statement made at bootstrap, if this node made one.
    pub fn bootstrap_info(&self) -> Option<&BootstrapResponse> {
        self.bootstrap_info.as_ref()
    }

    /// The names that no app's certificate may carry.
    pub fn names(&self) -> &OwnNames {
        &self.names
    }

    /// The keys of the app that the permit names, in the permit's domain and at its epochs.
    ///
    /// # Errors
    /// The root epoch was retired meanwhile. One app id in 2³² has no P-256 child; it cannot have keys from any KMS.
    pub fn app_keys(&self, released: &Released<App>) -> Result<AppKeys, DeriveError> {
        let permit = released.permit();
        let identity = permit.identity();
        let (root, app) = self.of_permit(permit)?;
        derive::signed_app_keys(&root, app, identity.instance_bytes(), || {
            self.app_signatures.get_or_sign(&root, app)
        })
    }

    /// The root keys and the app that a permit names.
    fn of_permit<'a, R>(&self, permit: &'a Permit<R>) -> Result<(Arc<RootKeys>, AppAt<'a>), Unreadable> {
        let KeyEpochs { root, app: epoch } = permit.epochs();
        let id = &permit.identity().app_id;
        let app = AppAt { domain: permit.domain(), id, instance: permit.placed().instance(), epoch };
        Ok((self.root_of(root)?, app))
    }

    /// The root keys of an epoch.
    fn root_of(&self, epoch: RootEpoch) -> Result<Arc<RootKeys>, Unreadable> {
        self.keyring.load().readable(epoch, unix_now()).cloned()
    }

    /// The root keys of all epochs, for the replica that the permit names.
    pub fn handover(&self, _: &Released<Kms>) -> Handover<'_> {
        let keyring = self.keyring.load();
        let root = keyring.epochs()[0].keys().unwrap_or(&self.identity);
        Handover {
            ca_key_pem: root.ca().pem(),
            k256_key: Secret::new(Zeroizing::new(*root.k256().scalar())),
            temp_ca_key_pem: &self.temp_ca_key_pem,
            epoch: root.epoch(),
            epochs: HandedEpoch::all(&keyring),
        }
    }

    /// A certificate for the app that the permit names, in the permit's domain and at its epochs: leaf, app CA and root, PEM each.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn app_certificate(
        &self,
        released: &Released<Certificate>,
        request: &Restricted,
    ) -> Result<Vec<String>, CaError> {
        let permit = released.permit();
        let app_info = permit.app_info();
        let (root, app) = self.of_permit(permit).map_err(DeriveError::from)?;
        let keyring = self.keyring.load();
        let root_ca_pem = keyring.epoch(root.epoch()).and_then(|epoch| epoch.root_ca_pem());
        let root_ca_pem = root_ca_pem.ok_or(DeriveError::Epoch(Unreadable::Destroyed(root.epoch())))?;
        let issuer = ca::root_issuer(&root, root_ca_pem)?;
        let chain = ca::app_chain(&issuer, &root, app, app_info, request, SystemTime::now())?;
        let [leaf, app_ca] = chain.pem();
        Ok(vec![leaf, app_ca, root_ca_pem.to_owned()])
    }

    /// The canary fingerprints of all root epochs from 0, see [`derive::canary`]; `None` where the keys are destroyed.
    pub fn canaries(&self) -> Vec<Option<[u8; 32]>> {
        let keyring = self.keyring.load();
        let fleet = FleetId::of(&keyring);
        let canary = |keys: &Arc<RootKeys>| derive::canary(keys, &fleet.0);
        keyring.epochs().iter().map(|epoch| epoch.keys().map(canary)).collect()
    }

    /// The env public key of an app in this domain and at these epochs, signed by the root key of the epoch.
    ///
    /// # Errors
    /// As [`Ready::app_keys`].
    pub fn env_public_key(
        &self,
        _: &SelfAuthorization,
        domain: &DomainName,
        app_id: &AppId,
        epochs: KeyEpochs,
    ) -> Result<EnvPublicKey, DeriveError> {
        let root = self.root_of(epochs.root)?;
        let app = AppAt { domain, epoch: epochs.app, ..app_id.into() };
        let public_key = derive::env_public_key(&root, app)?;
        let signature = statement::sign_env_public_key(&root, app_id, &public_key);
        Ok(EnvPublicKey { epochs, public_key, signature })
    }

    /// The signature over an env public key and a time in Unix seconds.
    ///
    /// # Errors
    /// The root epoch was retired meanwhile.
    pub fn sign_env_public_key_at(
        &self,
        _: &SelfAuthorization,
        app_id: &AppId,
        key: &EnvPublicKey,
        timestamp: u64,
    ) -> Result<[u8; 65], DeriveError> {
        let root = self.root_of(key.epochs.root)?;
        Ok(statement::sign_env_public_key_at(&root, app_id, &key.public_key, timestamp))
    }

    /// What evidence in our TLS certificate must commit to.
    pub fn rpc_report_data(&self) -> ReportData {
        ReportData::ra_tls(&self.rpc.key.spki_der())
    }

    /// The public key of our TLS certificate, SubjectPublicKeyInfo DER.
    pub fn rpc_public_key(&self) -> [u8; 91] {
        self.rpc.key.spki_der()
    }

    /// The signature of the root CA key over a quote and the statement that it is over, `r ‖ s`, which makes the quote that
    /// of this KMS (`/attestation.json`, docs/decisions/0042).
    pub fn sign_attestation(&self, quote: &[u8], statement: &[u8]) -> [u8; 64] {
        self.identity.ca().sign_fixed(&kms_attestation_by_root(quote, statement))
    }

    /// The key of our TLS certificate, PKCS#8 DER.
    pub fn rpc_key_der(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.rpc.key.pkcs8_der().to_vec())
    }

    /// Issues our TLS certificate again, with `evidence` if it is to be attested, and keeps it in the directory where
    /// that takes it.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn issue_rpc_leaf(
        &self,
        evidence: Option<&Evidence>,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, CaError> {
        let issuer = ca::root_issuer(&self.identity, &self.root_ca_pem)?;
        let evidence = evidence.map(|evidence| evidence.stripped().encode());
        let der = ca::rpc_leaf(&issuer, &self.rpc.domain, &self.rpc.key, evidence.as_deref(), now)?;
        keep(&self.directory, Derived::RpcCertificate, certificate::pem(&der).as_bytes());
        Ok(CertificateDer::from(der))
    }

    /// Issues the certificate of another listener of ours, to `key` and under these names, the first of which is its
    /// subject. `evidence` must be bound to `key`.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn issue_server_leaf(
        &self,
        names: &[String],
        key: &P256Key,
        evidence: Option<&Evidence>,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, CaError> {
        let issuer = ca::root_issuer(&self.identity, &self.root_ca_pem)?;
        let evidence = evidence.map(|evidence| evidence.stripped().encode());
        ca::server_leaf(&issuer, names, key, evidence.as_deref(), now).map(CertificateDer::from)
    }

    /// Whether the root CA of any epoch has signed this certificate.
    pub fn has_issued(&self, certificate: &CertificateDer<'_>) -> bool {
        let keyring = self.keyring.load();
        keyring.epochs().iter().any(|epoch| ca::has_issued(&epoch.public().ca_spki, certificate))
    }

    /// The name in our TLS certificate.
    pub fn domain(&self) -> &Domain {
        &self.rpc.domain
    }

    /// Whether a TLS certificate issued at `issued` is to be issued again.
    pub fn rpc_leaf_is_due(&self, issued: SystemTime, now: SystemTime) -> bool {
        RPC_LEAF.is_due(RPC_LEAF.from(issued).not_after, now)
    }

    /// The temporary CA certificate, DER.
    pub fn temp_ca_der(&self) -> CertificateDer<'static> {
        certificate::der(&self.temp_ca_pem)
            .map(CertificateDer::from)
            .expect("the CA parsed or wrote this text when the node came up")
    }
}

/// The keys that authenticate the state of a fleet are those of its root epochs.
impl Roots for Ready {
    fn keyring(&self) -> Arc<Keyring> {
        self.keyring.load_full()
    }
}

/// The log of a node is called `<domain>/cvm-kms/<node id>`; each log has a key of its own.
impl LogKeys for Ready {
    fn log_key(&self, node: &NodeId) -> Option<LogKey> {
        let origin = format!("{}/cvm-kms/{node}", self.rpc.domain);
        let keys = derive::log_keys(&self.identity, &origin);
        let signing = SigningKey::from_seed(origin.parse().ok()?, keys.seed.expose()).ok()?;
        let key = signing.verifying_key().to_string();
        let keyring = self.keyring.load();
        let older = keyring.epochs().iter().take_while(|epoch| epoch.number() < self.identity.epoch());
        let older: Vec<&Arc<RootKeys>> = older.filter_map(|epoch| epoch.keys()).collect();
        // Leaves of old records depend on these salts, so they stay those of epoch 0 as long as it exists.
        let oldest = keyring.epochs()[0].keys().unwrap_or(&self.identity);
        let legacy = derive::log_keys(oldest, &origin).legacy_salts;
        Some(LogKey {
            vouching: statement::sign_log_key(&self.identity, &key),
            endorsements: older.into_iter().map(|root| statement::sign_log_key(root, &key)).collect(),
            legacy: LegacySalts::new(legacy.expose()),
            signing,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::K256Key;

    #[test]
    fn a_remembered_signature_is_that_of_its_app_and_no_other_and_their_number_is_bounded() {
        let k256 = K256Key::from_scalar(&[2; 32]).unwrap();
        let root = RootKeys::from_parts(P256Key::generate(), P256Key::generate(), k256);
        let remembered = AppSignatures::default();
        let apps = [AppId([1; 20]), AppId([2; 20])];
        for _ in 0..2 {
            for app in &apps {
                let keys = derive::app_keys(&root, app, b"instance").unwrap();
                assert_eq!(remembered.get_or_sign(&root, app.into()), Ok(keys.k256_signature));
            }
        }
        assert_eq!(remembered.0.len(), apps.len());
        for number in 0..2 * APPS as u32 {
            let mut app = [3; 20];
            app[..4].copy_from_slice(&number.to_be_bytes());
            let (domain, app, epochs) = (DomainName::DEFAULT, AppId(app), KeyEpochs::FIRST);
            remembered.0.insert(AppKeyName { domain, app, instance: None, epochs }, [0; 65]);
        }
        assert!(remembered.0.len() <= APPS, "{}", remembered.0.len());
    }
}
