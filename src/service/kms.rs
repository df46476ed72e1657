//! The KMS service. Each handler is a ladder: parse, admit, record, reply.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use kms_attest::{
    csr::{ApiVersion, Csr},
    identity::AppId,
};

use super::{Caller, env_keys::EnvKeys, meta::Meta, prepared::Prepared};
use crate::{
    admission::{Admission, OwnStanding, Refusal},
    audit::{Audit, AuditError, Event, Subject},
    ca::Restricted,
    error::{Code, Error, Result},
    lifecycle::{Ready, Released},
    metrics::Metrics,
    operator::OperatorToken,
    os_image::{CacheError, ImageCache},
    proto::{
        AppId as AppIdMessage, AppKeyResponse, GetAppKeyRequest, GetKmsKeyRequest, GetMetaResponse,
        GetTempCaCertResponse, KmsKeyResponse, KmsKeys, LegacyClearImageCacheRequest, PublicKeyResponse,
        SignCertRequest, SignCertResponse,
    },
};

/// The code of a denial that is not the policy's: the registers are not those of the image.
const OS_IMAGE_NOT_VERIFIED: &str = "os_image_not_verified";

/// The parts that the service is made of.
#[derive(Debug)]
pub struct Parts {
    /// The keys.
    pub ready: Arc<Ready>,
    /// Who may have what.
    pub admission: Admission,
    /// Whether we may serve at all.
    pub standing: Arc<OwnStanding>,
    /// Where releases are recorded.
    pub audit: Arc<Audit>,
    /// What `GetMeta` shows.
    pub meta: Arc<Meta>,
    /// Where refusals are counted.
    pub metrics: Arc<Metrics>,
    /// What `ClearImageCache` clears.
    pub images: ImageCache,
    /// What the legacy `ClearImageCache` asks for; `None` refuses every token.
    pub operator: Option<OperatorToken>,
}

/// `service KMS` of the proto file.
#[derive(Debug)]
pub struct KmsService {
    parts: Parts,
    env_keys: EnvKeys,
}

/// Highest `api_version` of `GetAppKey`.
const APP_KEY_API_VERSION: u32 = 1;

impl KmsService {
    /// The service over its parts. There is none without keys: [`Ready`] is one of them.
    pub fn new(parts: Parts) -> Self {
        Self { parts, env_keys: EnvKeys::default() }
    }

    /// `KMS.GetAppKey`: the keys of the app that the caller proves to run.
    ///
    /// # Errors
    /// Unsupported version, no standing, no or bad evidence, denied by policy, audit log not writable.
    pub async fn get_app_key(&self, caller: &Caller, request: GetAppKeyRequest) -> Result<AppKeyResponse> {
        if request.api_version > APP_KEY_API_VERSION {
            return Err(Error::invalid(format!("Unsupported API version: {}", request.api_version)));
        }
        let parts = &self.parts;
        let (standing, permit) =
            tokio::join!(parts.standing.fresh(), parts.admission.app(caller.peer(), &request.vm_config));
        let standing = standing.map_err(refused)?;
        let permit = match permit {
            Ok(permit) => permit,
            // The peer verifies evidence before the method, so that error has no prefix.
            Err(refusal @ Refusal::BadEvidence(_)) => return Err(self.turn_away(caller, refusal)),
            Err(refusal) => return Err(self.turn_away(caller, refusal).within("App not allowed")),
        };
        let released = Released::app(&parts.audit, permit, &standing, caller.remote()).await;
        let released = self.recorded(released)?;
        let keys = parts
            .ready
            .app_keys(&released)
            .map_err(|error| Error::internal("the keys of this app cannot be derived", error))?;
        let permit = released.permit();
        Ok(AppKeyResponse {
            ca_cert: parts.ready.root_ca_pem().to_owned(),
            disk_crypt_key: keys.disk_crypt_key.expose().to_vec(),
            env_crypt_key: keys.env_crypt_key.expose().to_vec(),
            k256_key: keys.k256_key.expose().to_vec(),
            k256_signature: keys.k256_signature.to_vec(),
            tproxy_app_id: permit.gateway_app_id().to_owned(),
            gateway_app_id: permit.gateway_app_id().to_owned(),
            os_image_hash: permit.identity().os_image_hash.clone(),
        })
    }

    /// `KMS.GetKmsKey`: the root keys, for an allowed replica.
    ///
    /// # Errors
    /// No standing, no or bad evidence, denied by policy, audit log not writable.
    pub async fn get_kms_key(&self, caller: &Caller, request: GetKmsKeyRequest) -> Result<KmsKeyResponse> {
        let parts = &self.parts;
        let (standing, permit) =
            tokio::join!(parts.standing.fresh(), parts.admission.kms(caller.peer(), &request.vm_config));
        let standing = standing.map_err(refused)?;
        let permit = match permit {
            Ok(permit) => permit,
            Err(refusal) => return Err(self.turn_away(caller, refusal)),
        };
        let released = Released::kms(&parts.audit, permit, &standing, caller.remote()).await;
        let released = self.recorded(released)?;
        let handover = parts.ready.handover(&released);
        let keys = KmsKeys {
            ca_key: handover.ca_key_pem.to_string(),
            k256_key: handover.k256_key.expose().to_vec(),
        };
        Ok(KmsKeyResponse { temp_ca_key: handover.temp_ca_key_pem.to_owned(), keys: vec![keys] })
    }

    /// `KMS.GetAppEnvEncryptPubKey`: the public key that an app's environment is encrypted to, signed.
    ///
    /// # Errors
    /// No standing, `app_id` not of 20 bytes.
    pub async fn get_app_env_encrypt_pub_key(
        &self,
        request: AppIdMessage,
    ) -> Result<Arc<Prepared<PublicKeyResponse>>> {
        let standing = self.parts.standing.current().map_err(refused)?;
        let app_id =
            AppId::try_from(request.app_id.as_slice()).map_err(|error| Error::invalid(error.to_string()))?;
        self.env_keys.answer(&self.parts.ready, &standing, app_id, unix_now())
    }

    /// `KMS.GetMeta`: never asks anyone, so it answers whatever else is down.
    pub fn get_meta(&self) -> Arc<Prepared<GetMetaResponse>> {
        self.parts.meta.answer()
    }

    /// `KMS.GetTempCaCert`: the temporary CA, key included.
    ///
    /// # Errors
    /// No standing.
    pub async fn get_temp_ca_cert(&self) -> Result<GetTempCaCertResponse> {
        let standing = self.parts.standing.current().map_err(refused)?;
        let ready = &self.parts.ready;
        Ok(GetTempCaCertResponse {
            temp_ca_cert: ready.temp_ca_pem().to_owned(),
            temp_ca_key: ready.temp_ca_key_pem(&standing).to_owned(),
            ca_cert: ready.root_ca_pem().to_owned(),
        })
    }

    /// `KMS.SignCert`: a certificate for an app, to the key of the attested request.
    ///
    /// # Errors
    /// Unsupported version, malformed or wrongly signed request, a name or date that an app may not have, no standing,
    /// bad evidence, denied by policy, audit log not writable.
    pub async fn sign_cert(&self, caller: &Caller, request: SignCertRequest) -> Result<SignCertResponse> {
        let parts = &self.parts;
        let version = match request.api_version {
            1 => ApiVersion::V1,
            2 => ApiVersion::V2,
            other => return Err(Error::invalid(format!("Unsupported API version: {other}"))),
        };
        let csr = Csr::parse(version, &request.csr, &request.signature)
            .map_err(|error| Error::invalid(error.to_string()))?;
        let (standing, permit) =
            tokio::join!(parts.standing.fresh(), parts.admission.certificate(&csr, &request.vm_config));
        let standing = standing.map_err(refused)?;
        let permit = match permit {
            Ok(permit) => permit,
            Err(refusal) => return Err(self.turn_away(caller, refusal)),
        };
        let restricted = Restricted::parse(&csr, parts.ready.names(), SystemTime::now())
            .map_err(|error| Error::invalid(error.to_string()))?;
        let released = Released::certificate(
            &parts.audit,
            permit,
            &standing,
            caller.remote(),
            &csr.subject,
            &csr.subject_alt_names,
        )
        .await;
        let released = self.recorded(released)?;
        let certificate_chain = parts
            .ready
            .app_certificate(&released, &restricted)
            .map_err(|error| Error::internal("the certificate cannot be issued", error))?;
        Ok(SignCertResponse { certificate_chain })
    }

    /// `KMS.ClearImageCache`, the older form with the token in the message.
    ///
    /// # Errors
    /// `Invalid token`, a hash that is not one, or a cache that cannot be cleared.
    pub async fn clear_image_cache(&self, request: LegacyClearImageCacheRequest) -> Result<()> {
        if !self.parts.operator.as_ref().is_some_and(|operator| operator.is(&request.token)) {
            return Err(Error::invalid("Invalid token"));
        }
        clear(&self.parts.images, &request.image_hash, &request.config_hash).await
    }

    /// Counts a record; without one nothing goes out.
    fn recorded<T>(&self, outcome: std::result::Result<T, AuditError>) -> Result<T> {
        match outcome {
            Ok(released) => {
                self.parts.metrics.audit_recorded();
                Ok(released)
            }
            Err(error) => {
                self.parts.metrics.audit_failed();
                Err(Error::unavailable("the release cannot be recorded, so nothing is released", error))
            }
        }
    }

    /// Counts, logs and records a refusal, and says what the caller may know of it.
    fn turn_away(&self, caller: &Caller, refusal: Refusal) -> Error {
        let denial = match &refusal {
            Refusal::Denied { denial, identity } => Some((denial.code, denial.reason.clone(), identity)),
            Refusal::OsImage { error, identity } if !error.is_unavailable() => {
                Some((OS_IMAGE_NOT_VERIFIED, error.to_string(), identity))
            }
            _ => None,
        };
        if let Some((code, reason, identity)) = denial {
            self.parts.metrics.denied(code);
            let subject = Subject::new(identity, caller.remote());
            self.parts.audit.note(Event::Denied { subject, code: code.to_owned(), reason });
        }
        refused(refusal)
    }
}

/// Clears both caches, the image cache first.
pub(super) async fn clear(images: &ImageCache, image_hash: &str, config_hash: &str) -> Result<()> {
    images.clear_images(image_hash).await.map_err(|e| uncleared("failed to clear image cache", e))?;
    images
        .clear_measurements(config_hash)
        .await
        .map_err(|e| uncleared("failed to clear measurement cache", e))
}

fn uncleared(what: &'static str, error: CacheError) -> Error {
    match error {
        CacheError::InvalidKey => Error::invalid(error.to_string()).within(what),
        CacheError::Io(_) => Error::internal(what, error),
    }
}

/// What a caller is told of a refusal.
pub(super) fn refused(refusal: Refusal) -> Error {
    let code = match &refusal {
        Refusal::NoAttestation | Refusal::BadEvidence(_) => Code::Unauthenticated,
        Refusal::BadIdentity(_) => Code::InvalidRequest,
        Refusal::OsImage { error, .. } if error.is_unavailable() => Code::Unavailable,
        Refusal::Denied { .. } | Refusal::OsImage { .. } | Refusal::NoStanding(_) => Code::Denied,
        Refusal::CollateralUnavailable(_)
        | Refusal::PolicyUnavailable(_)
        | Refusal::StandingUnknown { .. } => Code::Unavailable,
    };
    Error::new(code, refusal.to_string()).caused_by(detail(&refusal))
}

/// What only the log says of a refusal: what was expected and found, or why something did not answer.
fn detail(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Denied { denial, .. } => {
            let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
            format!("{}, expected {}, found {}", denial.code, shown(&denial.expected), shown(&denial.actual))
        }
        Refusal::PolicyUnavailable(error) => error.detail().to_owned(),
        Refusal::StandingUnknown { detail, .. } => detail.clone(),
        Refusal::CollateralUnavailable(error) => error.to_string(),
        Refusal::OsImage { error, .. } => error.to_string(),
        other => other.to_string(),
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
