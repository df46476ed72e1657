//! The onboarding service: creates or receives the root keys.

mod joined;
mod restore;
mod source;
mod wrong_shares;

pub(super) use self::source::{HandoverTerms, root_keys};

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kms_attest::p256::P256Key;
use kms_attest::verify::Verified;
use kms_client::operator::OperatorToken;
use kms_client::source::{Invited, JoinToken};
use kms_client::url::KmsUrl;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore, watch};
use zeroize::Zeroizing;

pub use self::joined::JoinReports;
pub use self::restore::{EmptyKms, RestorePlan, RestoreStatus, Restored, RestoredEpoch, ShareAccepted};
use self::source::Brought;
use crate::admission::{
    Foundation, OwnEvidenceError, Refusal, SelfDenialCode, SelfRefusal, own_evidence, own_identity,
};
use crate::api::Caller;
use crate::audit::Event;
use crate::config::{Core, Posture};
use crate::control::{AppEpochError, Author, DomainsDiffer, Preference};
use crate::domain::Domain;
use crate::error::{Code, Error, Result};
use crate::lifecycle::{LifecycleError, Onboarding, Prepared};
use crate::proto::{
    AttestationInfoResponse, BootstrapRequest, BootstrapResponse, OnboardRequest, OnboardResponse,
};
use crate::state::DomainsTooLarge;

/// How long `GetAttestationInfo` waits for the backend's description.
const INFO_TIME: Duration = Duration::from_secs(3);

/// How many `Onboard` calls may wait for their source at once; further ones are refused.
const RECEIVERS: usize = 4;
/// How many manifests and shares of officers are checked at once; further ones wait.
const CHECKS: usize = 2;
/// The error when keys exist already, before and after they are received.
const ONBOARDED: &str = "KMS has already been onboarded";

/// The right to change the key directory, held by one call at a time.
type Turn = OwnedMutexGuard<()>;

/// What automatic bootstrap does when no evidence over the new keys is available.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnattestedAutoBootstrap {
    /// It fails.
    Refused,
    /// It continues without a statement, as the peer does in its development setting, where neither the
    /// certificate is attested nor this KMS checks whether it is allowed.
    Tolerated,
}

/// Whether this KMS runs in a TEE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tee {
    /// It does.
    Present,
    /// `core.insecure_no_tee = true`: statements carry no attestation.
    InsecureAbsent,
}

/// `service Onboard` of the proto file.
#[derive(Debug)]
pub struct OnboardService {
    pub(super) foundation: Arc<Foundation>,
    /// The empty key directory.
    pub(super) onboarding: Arc<Onboarding>,
    terms: HandoverTerms,
    site_name: String,
    tee: Tee,
    /// Codes of the settings that are relaxed.
    relaxed: Vec<&'static str>,
    unattested_auto_bootstrap: UnattestedAutoBootstrap,
    one_at_a_time: Arc<Mutex<()>>,
    receiving: Semaphore,
    restore: restore::Restore,
    wrong: wrong_shares::WrongShares,
    checks: Arc<Semaphore>,
    finished: watch::Sender<bool>,
    /// The key that invitations are bound to.
    join_key: P256Key,
    join_reports: Arc<JoinReports>,
}

/// The result of `Finish`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// The KMS phase starts.
    Yes,
    /// There are no keys yet; nothing has changed.
    NoKeys,
}

impl Tee {
    fn of(core: &Core) -> Self {
        if core.insecure_no_tee { Self::InsecureAbsent } else { Self::Present }
    }
}

impl OnboardService {
    /// The service over `[core]`, what the configuration relaxes, and an empty key directory.
    pub fn new(core: &Core, posture: &Posture, foundation: Arc<Foundation>, onboarding: Onboarding) -> Self {
        Self {
            relaxed: posture.codes().collect(),
            foundation,
            onboarding: Arc::new(onboarding),
            terms: HandoverTerms::of(core),
            site_name: core.site_name.clone(),
            tee: Tee::of(core),
            unattested_auto_bootstrap: match (core.attest_rpc_cert, core.enforce_self_authorization) {
                (false, false) => UnattestedAutoBootstrap::Tolerated,
                (true, _) | (_, true) => UnattestedAutoBootstrap::Refused,
            },
            one_at_a_time: Arc::default(),
            receiving: Semaphore::new(RECEIVERS),
            restore: restore::Restore::default(),
            wrong: wrong_shares::WrongShares::default(),
            checks: Arc::new(Semaphore::new(CHECKS)),
            finished: watch::Sender::new(false),
            join_key: P256Key::generate(),
            join_reports: Arc::default(),
        }
    }

    /// What the source of an invitation is told.
    pub fn join_reports(&self) -> Arc<JoinReports> {
        Arc::clone(&self.join_reports)
    }

    /// Becomes true when keys exist and onboarding is finished.
    pub fn finished(&self) -> watch::Receiver<bool> {
        self.finished.subscribe()
    }

    /// `Onboard.Bootstrap`: new root keys, for the first KMS of a cluster.
    ///
    /// # Errors
    /// Invalid domain, keys exist, this KMS is not allowed, no evidence, directory not writable; nothing is
    /// saved then.
    pub async fn bootstrap(&self, _: &Caller, request: BootstrapRequest) -> Result<BootstrapResponse> {
        let domain = Domain::parse(&request.domain).map_err(|error| Error::invalid(error.to_string()))?;
        let turn = self.turn().await;
        self.refuse_if_committed("KMS has already been bootstrapped")?;
        self.refuse_if_restoring()?;
        self.allowed("KMS is not allowed to bootstrap").await?;
        let mut prepared = self.onboarding.bootstrap();
        let statement = self.state(&mut prepared).await?;
        self.commit_new(turn, prepared, domain).await?;
        Ok(statement)
    }

    /// Bootstraps without a caller (`core.onboard.auto_bootstrap_domain`).
    ///
    /// # Errors
    /// As [`OnboardService::bootstrap`].
    pub async fn auto_bootstrap(&self, domain: &Domain) -> Result<()> {
        let turn = self.turn().await;
        self.refuse_if_committed("KMS has already been bootstrapped")?;
        self.allowed("KMS is not allowed to auto-bootstrap").await?;
        let mut prepared = self.onboarding.bootstrap();
        if let Err(error) = self.state(&mut prepared).await {
            if self.unattested_auto_bootstrap == UnattestedAutoBootstrap::Refused {
                return Err(error);
            }
            tracing::warn!(
                error = error.chain(),
                "the new keys are not attested: GetMeta will show no statement"
            );
        }
        self.commit_new(turn, prepared, domain.clone()).await
    }

    async fn allowed(&self, when_denied: &'static str) -> Result<()> {
        self.foundation
            .self_authorization
            .fresh()
            .await
            .map(|_| ())
            .map_err(|refusal| not_allowed(refusal, when_denied))
    }

    /// The statement over new keys, with our evidence unless there is no TEE.
    async fn state(&self, prepared: &mut Prepared) -> Result<BootstrapResponse> {
        let attestation = match self.tee {
            Tee::InsecureAbsent => Vec::new(),
            Tee::Present => {
                let evidence = self.foundation.attester.attest(prepared.report_data()).await;
                evidence.map_err(|error| unattested(error.into()))?.encode()
            }
        };
        Ok(prepared.stated(attestation))
    }

    async fn commit_new(&self, turn: Turn, prepared: Prepared, domain: Domain) -> Result<()> {
        let event = Event::KeysBootstrapped {
            domain: domain.as_str().to_owned(),
            ca_pubkey: hex::encode(prepared.ca_public_key()),
            k256_pubkey: hex::encode(prepared.k256_public_key()),
        };
        let k256_pubkey = hex::encode(prepared.k256_public_key());
        let name = domain.as_str().to_owned();
        self.commit(turn, prepared, domain, event).await?;
        tracing::info!(domain = name, k256_pubkey, "root keys made");
        Ok(())
    }

    /// `Onboard.Onboard`: the root keys of a running KMS, for a replica.
    ///
    /// # Errors
    /// Invalid domain or URL, keys exist, source not attested or not allowed, this KMS not allowed by the
    /// source; nothing is saved then.
    pub async fn onboard(&self, caller: &Caller, request: OnboardRequest) -> Result<OnboardResponse> {
        let within = |error: Error| error.within("Failed to onboard");
        let root = source_root(&request.source_root_sha256).map_err(within)?;
        let (mut operator, mut invitation) = (None, None);
        match JoinToken::is_meant(request.source_token.trim()) {
            true => invitation = Some(join_token(&request.source_token).map_err(within)?),
            false => operator = source_credential(&request.source_token).map_err(within)?,
        }
        let brought = match (&operator, &invitation) {
            (_, Some(token)) => Brought::Invitation(Invited { token, key: &self.join_key }),
            (Some(token), None) => Brought::Operator(token),
            (None, None) => Brought::Nothing,
        };
        let domain = Domain::parse(&request.domain).map_err(|error| Error::invalid(error.to_string()))?;
        let url: KmsUrl = request.source_url.parse().map_err(|error: kms_client::url::UrlError| {
            Error::invalid(error.to_string()).within("Failed to onboard")
        })?;
        self.refuse_if_committed(ONBOARDED)?;
        self.refuse_if_restoring()?;
        // Without a turn while waiting: a source that does not respond must not block other calls.
        let receiving = self.receiving.try_acquire().map_err(|_| {
            Error::new(Code::NotReady, "other Onboard calls are waiting for their source KMS; try again")
        })?;
        let received = source::receive(self, &url, brought, root).await;
        if let Err(error) = &received {
            // Before there is a credential, anyone may ask.
            self.foundation.audit.note_of_strangers(Event::KeysNotReceived {
                domain: domain.as_str().to_owned(),
                source: url.to_string(),
                code: error.reason(),
                remote: caller.remote(),
            });
        }
        let (prepared, joined) = received.map_err(|error| error.within("Failed to onboard"))?;
        drop(receiving);
        let turn = self.turn().await;
        self.refuse_if_committed(ONBOARDED)?;
        self.refuse_if_restoring()?;
        let k256_pubkey = prepared.k256_public_key().to_vec();
        let event = Event::KeysReceived {
            domain: domain.as_str().to_owned(),
            source: url.to_string(),
            k256_pubkey: hex::encode(&k256_pubkey),
            up_to_epoch: Some(prepared.newest_epoch().0).filter(|epoch| *epoch > 0),
            apps_with_epochs: apps_with_epochs(&prepared),
        };
        let name = domain.as_str().to_owned();
        self.commit_with_choices(turn, prepared, domain, event, url.to_string(), caller.remote()).await?;
        if let Some(joined) = joined {
            self.join_reports.committed(joined);
        }
        let shown = hex::encode(&k256_pubkey);
        tracing::info!(domain = name, k256_pubkey = shown, "root keys received from another KMS");
        Ok(OnboardResponse { k256_pubkey })
    }

    /// Waits for earlier commits and bootstraps.
    pub(super) async fn turn(&self) -> Turn {
        Arc::clone(&self.one_at_a_time).lock_owned().await
    }

    /// Asks our policy about the source. An older source that names no OS image is assumed to run ours.
    pub(super) async fn authorize_source(&self, source: &Verified) -> std::result::Result<(), String> {
        source::authorize(&self.foundation, source).await.map_err(|unacceptable| unacceptable.to_string())
    }

    /// `Onboard.GetAttestationInfo`: the values that an operator must allow.
    ///
    /// # Errors
    /// No evidence, or evidence that does not verify.
    pub async fn get_attestation_info(&self, _: &Caller, (): ()) -> Result<AttestationInfoResponse> {
        let Foundation { attester, verifier, policy, .. } = &*self.foundation;
        let verified = own_evidence(attester, verifier).await.map_err(unattested)?;
        let identity = own_identity(&verified).map_err(unattested)?;
        // Optional: a backend that is down must not hide the other values.
        let info = match tokio::time::timeout(INFO_TIME, policy.info()).await {
            Ok(Ok(info)) => info,
            Ok(Err(_)) | Err(_) => policy.last_info().unwrap_or_default(),
        };
        Ok(AttestationInfoResponse {
            device_id: Sha256::digest(verified.ppid()).to_vec(),
            mr_aggregated: identity.mr_aggregated.0.to_vec(),
            os_image_hash: identity.os_image_bytes().to_vec(),
            tee_variant: identity.tee_variant.to_owned(),
            site_name: self.site_name.clone(),
            eth_rpc_url: info.eth_rpc_url.as_deref().map(origin).unwrap_or_default(),
            kms_contract_address: info.kms_contract_address.unwrap_or_default(),
            ppid: verified.ppid().to_vec(),
        })
    }

    /// `Onboard.Finish`: starts the KMS phase. Like the peer's, the response is empty whether there are keys
    /// or not.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub async fn finish(&self, _: &Caller, (): ()) -> Result<()> {
        self.finish_onboarding().await.map(|_| ())
    }

    /// Starts the KMS phase. Without keys it changes nothing, so that a caller without credentials cannot
    /// stop this process.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub async fn finish_onboarding(&self) -> Result<Finished> {
        let _turn = self.turn().await;
        if !self.onboarding.is_committed().map_err(unreadable)? {
            tracing::warn!("Finish was called before there are keys: still onboarding");
            return Ok(Finished::NoKeys);
        }
        self.finished.send_replace(true);
        Ok(Finished::Yes)
    }

    fn refuse_if_committed(&self, message: &'static str) -> Result<()> {
        match self.onboarding.is_committed().map_err(unreadable)? {
            true => Err(Error::new(Code::AlreadyOnboarded, message)),
            false => Ok(()),
        }
    }

    /// As [`OnboardService::commit`], with what operators had chosen at `source`. Choices that are here already stay, as after
    /// keys were removed by hand.
    async fn commit_with_choices(
        &self,
        turn: Turn,
        mut prepared: Prepared,
        domain: Domain,
        event: Event,
        source: String,
        remote: IpAddr,
    ) -> Result<()> {
        // A source that says nothing of choices has no domains, as a version before them.
        let choices = prepared.choices().cloned().unwrap_or_default();
        let Foundation { app_epochs, audit, domains, .. } = &*self.foundation;
        let placed = domains.adoption(&choices, source.clone()).await.map_err(domains_differ)?;
        let unadopted =
            |error: AppEpochError| Error::unavailable("no keys are kept", error).because("choices_not_kept");
        let adoption = app_epochs.adoption(&choices, source, Preference::Own).await.map_err(unadopted)?;
        let author = Author { by: "onboarding".to_owned(), remote };
        let unkept = |error: DomainsTooLarge| {
            Error::unavailable("no keys are kept", error).because("choices_not_kept")
        };
        if let Some(content) = placed.content().map_err(unkept)? {
            prepared.keep_domains(content);
            // As below.
            placed.record(&author, audit).await.map_err(|error| {
                Error::unavailable("the domains cannot be recorded, so no keys are kept", error)
                    .because("audit_unavailable")
            })?;
        }
        if adoption.changes() {
            let content = adoption.content().map_err(AppEpochError::NotKept).map_err(unadopted)?;
            prepared.keep_app_epochs(content);
            // Before the keys exist: an app never has keys of epochs that the log does not tell.
            adoption.record(&author, audit).await.map_err(unadopted)?;
        }
        let committed = self.commit(turn, prepared, domain, event).await;
        // The files are there also if the end of the commit failed.
        if committed.is_ok() || !matches!(self.onboarding.is_committed(), Ok(false)) {
            adoption.written(app_epochs);
            placed.written(domains);
        }
        committed
    }

    /// Records first, then saves: a record without keys is harmless, keys without a record are not.
    async fn commit(&self, turn: Turn, prepared: Prepared, domain: Domain, event: Event) -> Result<()> {
        let receipt = self.foundation.audit.record(event).await.map_err(|error| {
            Error::unavailable("the new keys cannot be recorded, so none are kept", error)
                .because("audit_unavailable")
        })?;
        let onboarding = Arc::clone(&self.onboarding);
        // The turn lasts as long as the commit, which continues if the caller disconnects.
        let commit = move || {
            let _turn = turn;
            onboarding.commit(&prepared, &domain, receipt, SystemTime::now())
        };
        tokio::task::spawn_blocking(commit)
            .await
            .map_err(|error| Error::internal("Failed to store keys", error).because("keys_not_saved"))?
            .map_err(|error| Error::internal("Failed to store keys", error).because("keys_not_saved"))
    }
}

/// The refusal of a source with other domains.
pub(super) fn domains_differ(differ: DomainsDiffer) -> Error {
    let text = format!(
        "the source has other domains than this KMS, so apps would get other keys here ({differ}): write the same [domains] into both \
         configurations, and make those of run time the same; nothing was changed"
    );
    Error::new(Code::Conflict, text).because("domains_differ")
}

/// For how many apps operators had chosen epochs where the keys came from, if that is known.
fn apps_with_epochs(prepared: &Prepared) -> Option<usize> {
    prepared.choices().map(|choices| choices.app_epochs.len())
}

/// The operator's token for the admin listener of the source, if given.
pub(super) fn source_credential(source_token: &str) -> Result<Option<OperatorToken>> {
    if source_token.is_empty() {
        return Ok(None);
    }
    let text = Zeroizing::new(source_token.to_owned());
    let token = OperatorToken::new(text);
    token.map(Some).map_err(|error| Error::invalid(format!("source_token: {error}")))
}

/// The token of an invitation.
fn join_token(text: &str) -> Result<JoinToken> {
    JoinToken::parse(text.trim()).map_err(|error| Error::invalid(format!("source_token: {error}")))
}

/// SHA-256 of the public key of the root CA, if it is said.
fn source_root(bytes: &[u8]) -> Result<Option<[u8; 32]>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let length = bytes.len();
    let root = bytes
        .try_into()
        .map_err(|_| Error::invalid(format!("source_root_sha256 must be 32 bytes, got {length}")))?;
    Ok(Some(root))
}

/// Scheme, host and port only, because the path of a chain endpoint is often a key.
fn origin(url: &str) -> String {
    let parsed = url::Url::parse(url).ok().filter(url::Url::has_host);
    parsed.map(|url| url.origin().ascii_serialization()).unwrap_or_default()
}

fn unreadable(error: LifecycleError) -> Error {
    Error::internal("the key directory cannot be read", error)
}

fn unattested(error: OwnEvidenceError) -> Error {
    let message = match &error {
        OwnEvidenceError::Attester(_) => {
            "Failed to get attestation: the attester of this machine does not answer"
        }
        OwnEvidenceError::Verify(_) => "Failed to verify attestation",
        OwnEvidenceError::Identity(_) => "Failed to decode app info",
    };
    Error::unavailable(message, error).because("attester_unavailable")
}

fn not_allowed(refusal: SelfRefusal, context: &'static str) -> Error {
    let (code, reason, message) = match &refusal {
        SelfRefusal::Unknown { .. } => (Code::Unavailable, "policy_unavailable", refusal.to_string()),
        SelfRefusal::Denied(denial) => {
            let message = match denial.code {
                // The operator has to repair the file; an added entry would not help.
                SelfDenialCode::AllowlistUnusable => {
                    "boot denied: the allowlist of this KMS is missing or cannot be read".to_owned()
                }
                SelfDenialCode::NotAllowed => format!("boot denied: {}", denial.cause),
                SelfDenialCode::EvidenceRefused => denial.reason(),
            };
            (Code::Denied, "kms_not_allowed", message)
        }
    };
    Error::new(code, message).because(reason).within(context).caused_by(Refusal::from(refusal))
}
