//! The KMS service. Each handler is a ladder: parse, admit, record, reply.

mod joining;
mod recording;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use kms_attest::csr::{ApiVersion, Csr};
use kms_attest::identity::{AppId, BadDomainName, DomainName};
use kms_policy::Role;

use self::recording::{LINES, tell};
use super::env_keys::EnvKeys;
use super::images::{clear, note_cleared};
use super::meta::Meta;
use super::prepared::Prepared;
use super::quota::ReleaseLimit;
use super::refusal::Attempt;
use super::wrong_credentials::WrongCredentials;
use super::{Caller, Method};
use crate::admission::{
    Admission, Asked, AskedEpochs, AskedFresh, CHALLENGE_LIFETIME, Explainer, Foundation, OwnSeal, Permit,
    Refusal, ReleaseRules, SelfAuthorization, Verification, both,
};
use crate::ca::{CaError, Restricted};
use crate::clock::unix_now;
use crate::config::{Core, PublicHandover, Rate};
use crate::control::{Denials, Shadow};
use crate::error::{Code, Error, Result};
use crate::keys::derive::DeriveError;
use crate::keys::epoch::{KeyEpochs, RootEpoch};
use crate::keys::keyring::EpochTimes;
use crate::lifecycle::{HandedEpoch, Ready, Released};
use crate::log_limit::LogLimit;
use crate::metrics::RequestStage;
use crate::operator::{Operator, OperatorToken};
use crate::proto::{
    self, AppId as AppIdMessage, AppKeyResponse, EpochKeys, GetAppKeyRequest, GetChallengeResponse,
    GetKmsKeyRequest, GetMetaResponse, GetTempCaCertResponse, KmsKeyResponse, KmsKeys,
    LegacyClearImageCacheRequest, PublicKeyResponse, SignCertRequest, SignCertResponse,
};

/// `service KMS` of the proto file.
#[derive(Debug)]
pub struct KmsService {
    pub(super) foundation: Arc<Foundation>,
    ready: Arc<Ready>,
    admission: Admission,
    /// Evaluates each request without deciding.
    pub(super) shadow: Arc<Shadow>,
    /// Keeps refusals for operators.
    pub(super) denials: Arc<Denials>,
    /// What `ClearImageCache` clears.
    meta: Arc<Meta>,
    /// The release rate of each app and instance.
    limit: ReleaseLimit,
    /// The token for the legacy `ClearImageCache`; `None` refuses every token.
    operator: Option<OperatorToken>,
    public_handover: PublicHandover,
    env_keys: Arc<EnvKeys>,
    wrong_tokens: WrongCredentials,
    releases: LogLimit,
    root_releases: LogLimit,
}

/// The peer's text, by which operators know which setting to change.
const NO_PUBLIC_HANDOVER: &str = "public KMS key handover is disabled; use the admin listener";

/// A replica that stored one epoch only would give apps other keys than this KMS.
const ONE_EPOCH: &str = "this KMS has more than one epoch of root keys, and the caller can store only one: update it, then \
                         let it receive the root keys again";

const APP_KEY_API_VERSION: u32 = 1;

impl KmsService {
    /// The service over `[core]`. It needs [`Ready`], which holds the keys.
    pub fn new(core: &Core, foundation: Arc<Foundation>, ready: Arc<Ready>, meta: Arc<Meta>) -> Self {
        let [releases, root_releases] = [LINES; 2].map(LogLimit::per_second);
        let (audit, metrics) = (Arc::clone(&foundation.audit), Arc::clone(&foundation.metrics));
        let shadow = Arc::<Shadow>::default();
        let env_keys = Arc::<EnvKeys>::default();
        let watched = Arc::downgrade(&env_keys);
        metrics.watch_cache("env_keys", move || Some(watched.upgrade()?.state()));
        let watched = Arc::downgrade(&ready);
        metrics.watch_cache("app_signatures", move || Some(watched.upgrade()?.signature_cache()));
        Self {
            admission: Admission::new(
                Arc::clone(&foundation),
                Arc::clone(&shadow),
                ReleaseRules { stage: core.release_stage, require_fresh: core.attestation.require_fresh },
                Arc::<Ready>::clone(&ready),
            ),
            foundation,
            ready,
            shadow,
            denials: Arc::default(),
            meta,
            limit: ReleaseLimit::new(&core.limits),
            operator: core.admin_token_hash.map(OperatorToken::from_hash).or_else(|| core.admin.token()),
            public_handover: core.onboard.public_handover,
            env_keys,
            wrong_tokens: WrongCredentials::new("main", audit, metrics),
            releases,
            root_releases,
        }
    }

    /// Explains decisions of this service's admission.
    pub(super) fn explainer(&self) -> Explainer {
        self.admission.explainer()
    }

    /// Tells whether this KMS itself is sealed.
    pub fn own_seal(&self) -> OwnSeal {
        self.admission.own_seal()
    }

    /// From now on these rates of releases count.
    pub fn change_limits(&self, app: Rate, instance: Rate) {
        self.limit.change(app, instance);
    }

    /// Forgets the limits of idle apps and instances.
    pub fn prune(&self) {
        self.limit.prune();
    }

    /// `KMS.GetAppKey`: the keys of the app that the caller proves to run.
    ///
    /// # Errors
    /// Unsupported version, no self-authorization, missing or bad evidence, denied by policy, audit log not
    /// writable.
    pub async fn get_app_key(&self, caller: &Caller, request: GetAppKeyRequest) -> Result<AppKeyResponse> {
        if request.api_version > APP_KEY_API_VERSION {
            return Err(Error::invalid(format!("Unsupported API version: {}", request.api_version)));
        }
        let epochs = AskedEpochs::new(request.root_epoch, request.app_epoch);
        let fresh = fresh(Method::GetAppKey, &request.challenge, &request.fresh_evidence)?;
        let domain = asked_domain(&request.app_domain)?;
        let asked = Asked { vm_config: &request.vm_config, epochs, domain: domain.as_ref(), fresh };
        let attempt = self.attempt(Method::GetAppKey, Role::App, caller, asked);
        let (self_authorization, permit) =
            self.beside(async |verified| self.admission.app(caller.peer(), asked, verified).await).await;
        let self_authorization = self_authorization.map_err(|refusal| attempt.refuse(refusal))?;
        let permit = match permit {
            Ok(permit) => permit,
            // The peer verifies evidence before the method, so that error has no prefix.
            Err(refusal @ Refusal::BadEvidence(_)) => return Err(attempt.refuse(refusal)),
            Err(refusal) => return Err(attempt.refuse(refusal).within("App not allowed")),
        };
        self.within_limits(&permit)?;
        let released = {
            let _measured = self.foundation.metrics.stage(RequestStage::Record);
            Released::app(self.guards(), permit, &self_authorization, caller.remote()).await
        };
        let released = self.recorded(released, &attempt).map_err(|error| {
            if error.code() == Code::Denied { error.within("App not allowed") } else { error }
        })?;
        let measured = self.foundation.metrics.stage(RequestStage::KeyDerivation);
        let keys = match self.ready.app_keys(&released) {
            Ok(keys) => keys,
            Err(DeriveError::Epoch(error)) => {
                let refused = self.withheld(released, error, &attempt).await;
                return Err(refused.within("App not allowed"));
            }
            Err(error) => return Err(Error::internal("the keys of this app cannot be derived", error)),
        };
        drop(measured);
        let permit = released.permit();
        let said = permit.granted_epochs().said();
        tell(&self.releases, "app keys released", &released, caller);
        Ok(AppKeyResponse {
            ca_cert: self.ready.root_ca_pem().to_owned(),
            disk_crypt_key: keys.disk_crypt_key.expose().to_vec(),
            env_crypt_key: keys.env_crypt_key.expose().to_vec(),
            k256_key: keys.k256_key.expose().to_vec(),
            k256_signature: keys.k256_signature.to_vec(),
            tproxy_app_id: permit.gateway_app_id().to_owned(),
            gateway_app_id: permit.gateway_app_id().to_owned(),
            os_image_hash: permit.identity().os_image_bytes().to_vec(),
            receipt: released.leaf().map(Into::into),
            root_epoch: said.map(|epochs| epochs.root.0),
            app_epoch: said.map(|epochs| epochs.app.0),
            previous: permit.granted_epochs().previous().iter().map(shown_epochs).collect(),
            app_domain: permit.domain().said().unwrap_or_default().to_owned(),
        })
    }

    /// `KMS.GetKmsKey`: the root keys, for an allowed replica.
    ///
    /// # Errors
    /// No self-authorization, missing or bad evidence, denied by policy, audit log not writable, an invitation that is not valid.
    pub async fn get_kms_key(&self, caller: &Caller, request: GetKmsKeyRequest) -> Result<KmsKeyResponse> {
        match self.public_handover {
            PublicHandover::Enabled => self.hand_over(Method::KmsGetKmsKey, caller, request).await,
            // An owner has invited it, which is what the setting asks for.
            PublicHandover::Disabled if !request.join_token.is_empty() => {
                self.hand_over(Method::KmsGetKmsKey, caller, request).await
            }
            PublicHandover::Disabled => Err(Error::new(Code::Denied, NO_PUBLIC_HANDOVER)),
        }
    }

    /// Hands the root keys to an allowed replica that called `method`.
    pub(super) async fn hand_over(
        &self,
        method: Method,
        caller: &Caller,
        request: GetKmsKeyRequest,
    ) -> Result<KmsKeyResponse> {
        if !request.epochs && !self.ready.has_first_epoch_only() {
            return Err(Error::invalid(ONE_EPOCH));
        }
        let fresh = fresh(method, &request.challenge, &request.fresh_evidence)?;
        let (epochs, domain) = (AskedEpochs::NONE, None);
        let asked = Asked { vm_config: &request.vm_config, epochs, domain, fresh };
        let attempt = self.attempt(method, Role::Kms, caller, asked);
        let mut joining = self.joining(caller, &request.join_token, &attempt).await?;
        let permitted = async {
            let (self_authorization, permit) =
                self.beside(async |verified| self.admission.kms(caller.peer(), asked, verified).await).await;
            let self_authorization = self_authorization.map_err(|refusal| attempt.refuse(refusal))?;
            let permit = permit.map_err(|refusal| attempt.refuse(refusal))?;
            self.within_limits(&permit)?;
            Ok((self_authorization, permit))
        };
        let (self_authorization, permit) = joining.refused_if(permitted.await).await?;
        joining.claim().await?;
        let released = {
            let _measured = self.foundation.metrics.stage(RequestStage::Record);
            // Not more than it gets: epochs that are made meanwhile are handed over too.
            let up_to = self.ready.newest_epoch();
            let (remote, operator) = (caller.remote(), caller.operator());
            Released::kms(self.guards(), permit, &self_authorization, remote, operator, up_to).await
        };
        let released = joining.refused_if(self.recorded(released, &attempt)).await?;
        joining.handed_over();
        let handover = self.ready.handover(&released);
        tell(&self.root_releases, "ROOT KEYS given to a replica", &released, caller);
        let keys = KmsKeys {
            ca_key: handover.ca_key_pem.to_string(),
            k256_key: handover.k256_key.expose().to_vec(),
        };
        Ok(KmsKeyResponse {
            temp_ca_key: handover.temp_ca_key_pem.to_owned(),
            keys: vec![keys],
            receipt: released.leaf().map(Into::into),
            epochs: handover.epochs.iter().map(epoch_keys).collect(),
            identity_epoch: Some(handover.epoch)
                .filter(|epoch| *epoch != RootEpoch::FIRST)
                .map(|epoch| epoch.0),
            choices: request.epochs.then(|| self.foundation.choices().to_json()),
        })
    }

    /// `KMS.GetAppEnvEncryptPubKey`: the public key to which an app's environment is encrypted, signed.
    ///
    /// # Errors
    /// No self-authorization; an `app_id` that is not 20 bytes; epochs without keys.
    pub async fn get_app_env_encrypt_pub_key(
        &self,
        caller: &Caller,
        request: AppIdMessage,
    ) -> Result<Arc<Prepared<PublicKeyResponse>>> {
        let self_authorization =
            self.current_self_authorization(Method::GetAppEnvEncryptPubKey, caller).await?;
        let app_id =
            AppId::try_from(request.app_id.as_slice()).map_err(|error| Error::invalid(error.to_string()))?;
        let epochs = AskedEpochs::new(request.root_epoch, request.app_epoch);
        let asked = asked_domain(&request.app_domain)?;
        let (domain, granted) = self
            .admission
            .public_key_of(&app_id, epochs, asked.as_ref())
            .map_err(|reason| Error::new(Code::Denied, reason))?;
        self.env_keys.answer(&self.ready, &self_authorization, (&domain, app_id), &granted, unix_now())
    }

    /// `KMS.GetMeta`. Calls no other service, so it responds whatever else is down.
    pub async fn get_meta(&self, _: &Caller, (): ()) -> Result<Arc<Prepared<GetMetaResponse>>> {
        Ok(self.meta.answer())
    }

    /// `KMS.GetTempCaCert`: the temporary CA, including its key.
    ///
    /// # Errors
    /// No self-authorization.
    pub async fn get_temp_ca_cert(&self, caller: &Caller, (): ()) -> Result<GetTempCaCertResponse> {
        let self_authorization = self.current_self_authorization(Method::GetTempCaCert, caller).await?;
        let ready = &self.ready;
        Ok(GetTempCaCertResponse {
            temp_ca_cert: ready.temp_ca_pem().to_owned(),
            temp_ca_key: ready.temp_ca_key_pem(&self_authorization).to_owned(),
            ca_cert: ready.root_ca_pem().to_owned(),
        })
    }

    /// `KMS.GetChallenge`: a challenge of this connection, for fresh evidence.
    ///
    /// # Errors
    /// No random bytes.
    pub async fn get_challenge(&self, caller: &Caller, (): ()) -> Result<GetChallengeResponse> {
        challenge(caller)
    }

    /// `KMS.SignCert`: a certificate for an app, over the key of the attested request.
    ///
    /// # Errors
    /// Unsupported version, malformed or wrongly signed request, a name or date that an app may not have, no
    /// self-authorization, bad evidence, denied by policy, audit log not writable.
    pub async fn sign_cert(&self, caller: &Caller, request: SignCertRequest) -> Result<SignCertResponse> {
        let version = match request.api_version {
            1 => ApiVersion::V1,
            2 => ApiVersion::V2,
            other => return Err(Error::invalid(format!("Unsupported API version: {other}"))),
        };
        let csr = Csr::parse(version, &request.csr, &request.signature)
            .map_err(|error| Error::invalid(error.to_string()))?;
        let epochs = AskedEpochs::new(request.root_epoch, request.app_epoch);
        let fresh = fresh(Method::SignCert, &request.challenge, &request.fresh_evidence)?;
        let domain = asked_domain(&request.app_domain)?;
        let asked = Asked { vm_config: &request.vm_config, epochs, domain: domain.as_ref(), fresh };
        let attempt =
            Attempt { csr: Some(&csr), ..self.attempt(Method::SignCert, Role::Certificate, caller, asked) };
        let (self_authorization, permit) = self
            .beside(async |verified| self.admission.certificate(caller.peer(), &csr, asked, verified).await)
            .await;
        let self_authorization = self_authorization.map_err(|refusal| attempt.refuse(refusal))?;
        let permit = permit.map_err(|refusal| attempt.refuse(refusal))?;
        self.within_limits(&permit)?;
        let restricted = Restricted::parse(&csr, self.ready.names(), SystemTime::now())
            .map_err(|error| Error::invalid(error.to_string()))?;
        let released = {
            let _measured = self.foundation.metrics.stage(RequestStage::Record);
            let (guards, remote) = (self.guards(), caller.remote());
            let names = &csr.subject_alt_names;
            Released::certificate(guards, permit, &self_authorization, remote, &csr.subject, names).await
        };
        let released = self.recorded(released, &attempt)?;
        let measured = self.foundation.metrics.stage(RequestStage::KeyDerivation);
        let certificate_chain = match self.ready.app_certificate(&released, &restricted) {
            Ok(chain) => chain,
            Err(CaError::Derive(DeriveError::Epoch(error))) => {
                return Err(self.withheld(released, error, &attempt).await);
            }
            Err(error) => return Err(Error::internal("the certificate cannot be issued", error)),
        };
        drop(measured);
        tell(&self.releases, "app certificate issued", &released, caller);
        let said = released.permit().granted_epochs().said();
        Ok(SignCertResponse {
            certificate_chain,
            receipt: released.leaf().map(Into::into),
            root_epoch: said.map(|epochs| epochs.root.0),
            app_epoch: said.map(|epochs| epochs.app.0),
            app_domain: released.permit().domain().said().unwrap_or_default().to_owned(),
        })
    }

    /// `KMS.ClearImageCache`, the older form with the token in the message.
    ///
    /// # Errors
    /// `Invalid token`, an invalid hash, or a cache that cannot be cleared.
    pub async fn clear_image_cache(
        &self,
        caller: &Caller,
        request: LegacyClearImageCacheRequest,
    ) -> Result<()> {
        let address = caller.remote();
        if !self.operator.as_ref().is_some_and(|operator| operator.is(&request.token)) {
            // The peer's error, delayed after too many wrong tokens. An empty token does not count as a wrong
            // one.
            if !request.token.is_empty() {
                self.wrong_tokens.token(address).await;
            }
            return Err(Error::invalid("Invalid token"));
        }
        self.wrong_tokens.token_was_right(address);
        clear(&self.foundation.images, &request.image_hash, &request.config_hash).await?;
        let author = caller.clone().identified(Operator::Token).author();
        note_cleared(&self.foundation.audit, author, &request.image_hash, &request.config_hash);
        Ok(())
    }

    /// Limits even callers that may have keys, because each release adds a line to the audit log.
    fn within_limits<R>(&self, permit: &Permit<R>) -> Result<()> {
        self.limit.admit(permit.identity()).map_err(|exceeded| {
            self.foundation.metrics.release_limited(exceeded.limit());
            Error::new(Code::TooManyRequests, exceeded.text())
        })
    }

    /// Obtains the self-authorization while the caller is admitted. If one of them took so long that the
    /// other has expired, for example because an OS image was downloaded or a backend is slow, the other is
    /// decided again.
    ///
    /// For a caller whose evidence does not verify, the last self-authorization is used: it is refused in any
    /// case.
    async fn beside<R>(
        &self,
        admission: impl AsyncFnOnce(Verification) -> std::result::Result<Permit<R>, Refusal>,
    ) -> (std::result::Result<SelfAuthorization, Refusal>, std::result::Result<Permit<R>, Refusal>) {
        let self_authorization = &self.foundation.self_authorization;
        let (verified, is_verified) = Verification::pending();
        let own = async {
            let _measured = self.foundation.metrics.stage(RequestStage::SelfAuthorization);
            match is_verified.await {
                Ok(()) => self_authorization.fresh().await.map_err(Refusal::from),
                Err(_) => self_authorization.current().map_err(Refusal::from),
            }
        };
        both(
            own,
            admission(verified),
            async || self_authorization.fresh().await.map_err(Refusal::from),
            async |permit| self.admission.renewed(permit).await,
            Instant::now,
        )
        .await
    }

    /// The self-authorization from the last check, for methods that give every caller the same. Without it a
    /// guest learns nothing more, so the refusal is kept for operators.
    async fn current_self_authorization(&self, method: Method, caller: &Caller) -> Result<SelfAuthorization> {
        let attempt = Attempt {
            foundation: &self.foundation,
            denials: &self.denials,
            method,
            role: None,
            caller,
            vm_config: "",
            epochs: AskedEpochs::NONE,
            domain: None,
            fresh: None,
            csr: None,
        };
        self.foundation.self_authorization.recent().await.map_err(|refusal| attempt.refuse(refusal.into()))
    }
}

/// A challenge of the caller's connection; an empty one without a session that evidence can be bound to.
pub(super) fn challenge(caller: &Caller) -> Result<GetChallengeResponse> {
    let Some(session) = caller.peer().session() else { return Ok(GetChallengeResponse::default()) };
    let nonce = session
        .challenge(Instant::now())
        .map_err(|error| Error::internal("a challenge cannot be made now", error))?;
    let expires_in = u32::try_from(CHALLENGE_LIFETIME.as_secs()).unwrap_or(u32::MAX);
    Ok(GetChallengeResponse { nonce: nonce.to_vec(), expires_in })
}

/// The fresh evidence of a request to `method`, if it brings any.
fn fresh<'a>(method: Method, challenge: &[u8], evidence: &'a [u8]) -> Result<Option<AskedFresh<'a>>> {
    match (challenge, evidence) {
        ([], []) => Ok(None),
        ([], [_, ..]) | ([_, ..], []) => {
            Err(Error::invalid("challenge and fresh_evidence are sent together, or none of them"))
        }
        (challenge, evidence) => {
            let challenge = challenge.try_into().map_err(|_| {
                let length = challenge.len();
                Error::invalid(format!("challenge must be 32 bytes, got {length}"))
            })?;
            let row = method.row();
            Ok(Some(AskedFresh { challenge, evidence, service: row.service.name(), method: row.name }))
        }
    }
}

/// The domain that a request names, if it names one.
///
/// # Errors
/// A text that cannot be the name of a domain.
pub(super) fn asked_domain(name: &str) -> Result<Option<DomainName>> {
    let invalid = |error: BadDomainName| Error::invalid(error.to_string()).within("app_domain");
    Some(name).filter(|name| !name.is_empty()).map(str::parse).transpose().map_err(invalid)
}

fn shown_epochs(epochs: &KeyEpochs) -> proto::KeyEpochs {
    proto::KeyEpochs { root: epochs.root.0, app: epochs.app.0 }
}

/// An epoch for a replica.
fn epoch_keys(epoch: &HandedEpoch) -> EpochKeys {
    let HandedEpoch { info, keys, statement } = epoch;
    let EpochTimes { prepared_at, activate_at, retired_at, destroyed_at } = info.times;
    EpochKeys {
        number: info.epoch.0,
        state: info.state.name().to_owned(),
        ca_key: keys.as_ref().map(|keys| keys.ca_key_pem.to_string()).unwrap_or_default(),
        k256_key: keys.as_ref().map(|keys| keys.k256_key.expose().to_vec()).unwrap_or_default(),
        ca_pubkey: info.ca_spki.to_vec(),
        k256_pubkey: info.k256_public.to_vec(),
        prepared_at,
        active_from: activate_at,
        retired_at,
        destroyed_at,
        stated_by: statement.map(|statement| statement.by.0),
        statement: statement.map(|statement| statement.signature.to_vec()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use kms_attest::p256::P256Key;
    use kms_client::rpc::MAX_RESPONSE_BYTES;

    use super::*;
    use crate::config::DomainRules;
    use crate::keys::keyring::MAX_EPOCHS;
    use crate::state::{
        Choices, ChosenEpochs, DomainRecord, HandedDomains, MAX_CHOSEN_APPS, MAX_DOMAINS_BYTES, MAX_MADE,
        MAX_PLACED, MemberRecord, StatedDomain,
    };
    use kms_attest::identity::DomainName;

    #[test]
    fn the_largest_hand_over_is_not_too_large_for_a_replica() {
        let time = Some(u64::from(u32::MAX));
        let pem = P256Key::generate().pem().to_string();
        let epoch = |number| EpochKeys {
            number,
            state: "destroyed".to_owned(),
            ca_key: pem.clone(),
            k256_key: vec![0xff; 32],
            ca_pubkey: vec![0xff; 91],
            k256_pubkey: vec![0xff; 33],
            prepared_at: time,
            active_from: time,
            retired_at: time,
            destroyed_at: time,
            stated_by: Some(number),
            statement: vec![0xff; 65],
        };
        let name = |text: &str| -> DomainName { text.parse().unwrap() };
        let mut handed = HandedDomains::default();
        let rules = DomainRules::default();
        for number in 0..MAX_MADE {
            let (name, rules) = (name(&format!("a-long-name-{number}")), rules.clone());
            handed.stated.insert(name.clone(), StatedDomain::default());
            handed.records.domains.push(DomainRecord { name, rules, since: 0, by: String::new() });
        }
        for number in 0..u32::try_from(MAX_PLACED).unwrap() {
            let mut app_id = [0xff; 20];
            app_id[..4].copy_from_slice(&number.to_be_bytes());
            let (domain, by) = (name("a-long-name-0"), String::new());
            handed.records.apps.push(MemberRecord { app_id, domain, since: 0, by });
        }
        // Rules may take what is left.
        let rest = MAX_DOMAINS_BYTES - HandedDomains::length(&handed.records);
        let mut choices = Choices { domains: Some(handed), ..Choices::default() };
        for app in 0..u32::try_from(MAX_CHOSEN_APPS).unwrap() {
            let mut id = [0xff; 20];
            id[..4].copy_from_slice(&app.to_be_bytes());
            choices.app_epochs.insert(AppId(id), ChosenEpochs { root: Some(u32::MAX), app: u32::MAX });
        }
        let response = KmsKeyResponse {
            temp_ca_key: pem.clone(),
            keys: vec![KmsKeys { ca_key: pem.clone(), k256_key: vec![0xff; 32] }],
            receipt: None,
            epochs: (0..u32::try_from(MAX_EPOCHS).unwrap()).map(epoch).collect(),
            identity_epoch: Some(u32::MAX),
            choices: Some(choices.to_json()),
        };
        // A receipt has at most 2,048 bytes, and twice that in hex.
        let length = serde_json::to_vec(&response).expect("JSON").len() + 3 * 2048 + 2 * rest;
        assert!(length <= MAX_RESPONSE_BYTES, "{length}");
    }
}
