//! How a CVM boots: find a KMS, verify it, prove what it runs, receive the keys of its app.

use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use kms_attest::attester::Attester;
use kms_attest::identity::{AppId, Registers};
use kms_attest::ra_tls;
use kms_attest::verify::Verified;
use tokio::time::{Instant, sleep, timeout_at};

use crate::connection::{ConnectError, Connection};
use crate::epochs::Epochs;
use crate::fresh::Fresh;
use crate::identity::IdentityError;
use crate::proto::{AppKeyResponse, GetTempCaCertResponse};
use crate::rpc::CallError;
use crate::server::{ServerAttestation, ServerError};
use crate::tls::{self, ClientIdentity, Trust};
use crate::url::KmsUrl;

/// How often a KMS that is busy is asked again, when all others have failed.
const MAX_RETRIES: usize = 5;
/// The longest pause that a KMS may ask for; the jitter comes on top.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Time limits of a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For one KMS: two connections, two calls and the verification between them.
    pub per_kms: Duration,
    /// For all KMSs together.
    pub altogether: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { per_kms: Duration::from_secs(150), altogether: Duration::from_secs(300) }
    }
}

/// The keys of an app, and which KMS released them.
pub struct AppKeys {
    /// The response of the KMS. Wiped when dropped.
    pub response: AppKeyResponse,
    /// The key provider id: the public key of the root CA, SubjectPublicKeyInfo DER.
    pub key_provider: Vec<u8>,
    /// The temporary CA, for the client certificates of later `SignCert` calls.
    pub temp_ca: GetTempCaCertResponse,
    /// What the KMS has proved about itself, if its certificate carries an attestation.
    pub server: Option<Verified>,
    /// The app in this machine's own evidence, for which the KMS derived the keys.
    pub app_id: Option<AppId>,
    /// The KMS that released them.
    pub url: KmsUrl,
    /// Why earlier ones did not.
    pub failed: Vec<FailedAttempt>,
}

impl AppKeys {
    /// The epochs of these keys.
    pub fn epochs(&self) -> Epochs {
        Epochs::from(&self.response)
    }

    /// Older epochs whose keys can still be asked for, the newest first.
    pub fn previous(&self) -> Vec<Epochs> {
        self.response.previous.iter().map(Epochs::from).collect()
    }
}

/// A KMS that did not release the keys.
#[derive(Debug)]
pub struct FailedAttempt {
    /// The KMS.
    pub url: KmsUrl,
    /// Why not.
    pub error: AttemptError,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The list of URLs is empty.
    #[error("no URL of a KMS is given")]
    NoUrls,
    /// Every KMS failed; each with its reason.
    #[error("no KMS released the keys: {}", Reasons(.0))]
    AllFailed(Vec<FailedAttempt>),
}

/// Why one KMS did not release the keys.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// It cannot be reached, or the server of the second connection is not under the root CA of the first.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A call failed; this includes refusals by the KMS.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The client certificate cannot be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The server is not a KMS.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The root CA of the KMS is not the pinned key provider.
    #[error("the root CA of this KMS is not the pinned key provider")]
    KeyProvider,
    /// A root CA certificate in a response cannot be parsed.
    #[error("{method}: ca_cert is not exactly one certificate in PEM")]
    RootCa {
        /// The method of that response.
        method: &'static str,
    },
    /// The response has another root CA than the one that the server was verified with.
    #[error("GetAppKey: ca_cert has another key than that of GetTempCaCert")]
    OtherRootCa,
    /// The keys are of other epochs than those that were asked for.
    #[error("GetAppKey: the keys are of {given}, not of {asked}: the KMS knows no epochs")]
    OtherEpochs {
        /// Those of the request.
        asked: Epochs,
        /// Those of the response.
        given: Epochs,
    },
    /// A key in the response has an invalid length.
    #[error("GetAppKey: {field} must be {expected} bytes, got {actual}")]
    KeyLength {
        /// The field.
        field: &'static str,
        /// Its length in bytes.
        expected: usize,
        /// The length received.
        actual: usize,
    },
    /// The time limit of this KMS, or of all of them, has passed.
    #[error("out of time")]
    OutOfTime,
}

impl AttemptError {
    /// When a KMS wants to be asked again that was only busy.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Call(CallError::Refused { retry_after, .. }) => *retry_after,
            Self::Connect(_)
            | Self::Call(_)
            | Self::Identity(_)
            | Self::Server(_)
            | Self::KeyProvider
            | Self::RootCa { .. }
            | Self::OtherRootCa
            | Self::OtherEpochs { .. }
            | Self::KeyLength { .. }
            | Self::OutOfTime => None,
        }
    }
}

/// `pause`, and up to half of it more, so that guests who were told the same do not all come at the same time.
fn jittered(pause: Duration) -> Duration {
    let pause = pause.min(MAX_PAUSE);
    // A hasher with random keys: what it gives for nothing differs each time.
    let random = RandomState::new().build_hasher().finish();
    pause + (pause / 2).mul_f64(random as f64 / u64::MAX as f64)
}

/// Fetches the keys of the app on this machine, from the first KMS that releases them.
///
/// Each URL is tried once, in order, and those that were busy (429 or 503 with `Retry-After`) again when they want it, a few times: `GetTempCaCert` over an unverified connection; a client certificate with
/// a fresh attestation; a second connection whose server must chain to the received root CA, have the host's
/// name and the usage `kms:rpc`, and whose attestation is verified; then `GetAppKey`, with fresh evidence if the server takes
/// some. `key_provider_pin` is
/// the root CA's public key (SubjectPublicKeyInfo DER) that the app requires. Without it, security rests on the
/// measurement of the key provider that the caller makes afterwards.
pub async fn fetch_app_keys(
    urls: &[KmsUrl],
    attester: &Attester,
    attestation: ServerAttestation<'_>,
    vm_config: &str,
    key_provider_pin: Option<&[u8]>,
) -> Result<AppKeys, BootError> {
    let deadlines = Deadlines::default();
    fetch_app_keys_within(deadlines, urls, attester, attestation, vm_config, key_provider_pin).await
}

/// Like [`fetch_app_keys`], with other time limits.
pub async fn fetch_app_keys_within(
    deadlines: Deadlines,
    urls: &[KmsUrl],
    attester: &Attester,
    attestation: ServerAttestation<'_>,
    vm_config: &str,
    key_provider_pin: Option<&[u8]>,
) -> Result<AppKeys, BootError> {
    fetch_app_keys_at(None, deadlines, urls, attester, attestation, vm_config, key_provider_pin).await
}

/// Like [`fetch_app_keys_within`], the keys of these epochs: of older ones, for what is still encrypted with them.
pub async fn fetch_app_keys_at(
    epochs: Option<Epochs>,
    deadlines: Deadlines,
    urls: &[KmsUrl],
    attester: &Attester,
    attestation: ServerAttestation<'_>,
    vm_config: &str,
    key_provider_pin: Option<&[u8]>,
) -> Result<AppKeys, BootError> {
    let Deadlines { per_kms, altogether } = deadlines;
    Guest { epochs, attester, attestation, vm_config, key_provider_pin }.boot(urls, per_kms, altogether).await
}

struct Guest<'a> {
    epochs: Option<Epochs>,
    attester: &'a Attester,
    attestation: ServerAttestation<'a>,
    vm_config: &'a str,
    key_provider_pin: Option<&'a [u8]>,
}

impl Guest<'_> {
    async fn boot(
        &self,
        urls: &[KmsUrl],
        per_kms: Duration,
        altogether: Duration,
    ) -> Result<AppKeys, BootError> {
        if urls.is_empty() {
            return Err(BootError::NoUrls);
        }
        let end = Instant::now() + altogether;
        let mut failed: Vec<FailedAttempt> = Vec::new();
        let mut asked: Vec<&KmsUrl> = urls.iter().collect();
        for round in 0.. {
            for url in asked {
                let deadline = end.min(Instant::now() + per_kms);
                match timeout_at(deadline, self.ask(url)).await.unwrap_or(Err(AttemptError::OutOfTime)) {
                    Ok(mut keys) => {
                        keys.failed = failed;
                        return Ok(keys);
                    }
                    Err(error) => {
                        tracing::warn!(%url, %error, "no keys from this KMS");
                        failed.push(FailedAttempt { url: url.clone(), error });
                    }
                }
            }
            // Only those that were busy are asked again, when the first of them wants it.
            let pauses = failed.iter().filter_map(|attempt| attempt.error.retry_after());
            let Some(pause) = pauses.min().map(jittered) else { break };
            if round >= MAX_RETRIES || Instant::now() + pause >= end {
                break;
            }
            let (busy, others): (Vec<_>, Vec<_>) =
                failed.into_iter().partition(|attempt| attempt.error.retry_after().is_some());
            asked = urls.iter().filter(|url| busy.iter().any(|attempt| attempt.url == **url)).collect();
            failed = others;
            tracing::info!(?pause, "the KMS is busy and is asked again");
            sleep(pause).await;
        }
        Err(BootError::AllFailed(failed))
    }

    async fn ask(&self, url: &KmsUrl) -> Result<AppKeys, AttemptError> {
        let stranger = Connection::open(url, Trust::DangerousAnyServer, None).await?;
        let temp_ca = stranger.temp_ca_cert().await?;
        drop(stranger);
        let key_provider = root_public_key("GetTempCaCert", &temp_ca.ca_cert)?;
        if self.key_provider_pin.is_some_and(|pin| pin != key_provider) {
            return Err(AttemptError::KeyProvider);
        }

        let identity = ClientIdentity::attested(&temp_ca, self.attester).await?;
        let kms = Connection::open(url, Trust::RootCa(&temp_ca.ca_cert), Some(&identity)).await?;
        let server = kms.verify_server(self.attestation).await?;

        let fresh = match kms.client_public_key() {
            Some(key) => kms.fresh_evidence("KMS.GetAppKey", key, self.attester).await?,
            None => Fresh::default(),
        };
        let response = kms.app_key_fresh(self.vm_config, self.epochs, fresh).await?;
        check_lengths(&response)?;
        let given = Epochs::from(&response);
        if let Some(asked) = self.epochs.filter(|asked| *asked != given) {
            return Err(AttemptError::OtherEpochs { asked, given });
        }
        if root_public_key("GetAppKey", &response.ca_cert)? != key_provider {
            return Err(AttemptError::OtherRootCa);
        }
        let app_id = app_id_of(&identity);
        Ok(AppKeys { response, key_provider, temp_ca, server, app_id, url: url.clone(), failed: Vec::new() })
    }
}

/// The app in the evidence of our own certificate, which the KMS has just verified.
fn app_id_of(identity: &ClientIdentity) -> Option<AppId> {
    let evidence = ra_tls::evidence_in(identity.certificate()).ok()??;
    let app_info = evidence.unverified_app_info(Registers::BootTime).ok()?;
    AppId::try_from(app_info.app_id.as_slice()).ok()
}

fn root_public_key(method: &'static str, ca_cert: &str) -> Result<Vec<u8>, AttemptError> {
    tls::single_certificate(ca_cert)
        .ok()
        .and_then(|certificate| tls::public_key_of(&certificate).ok())
        .ok_or(AttemptError::RootCa { method })
}

fn check_lengths(keys: &AppKeyResponse) -> Result<(), AttemptError> {
    for (field, value, expected) in [
        ("disk_crypt_key", &keys.disk_crypt_key, 32),
        ("env_crypt_key", &keys.env_crypt_key, 32),
        ("k256_key", &keys.k256_key, 32),
        ("k256_signature", &keys.k256_signature, 65),
    ] {
        let actual = value.len();
        if actual != expected {
            return Err(AttemptError::KeyLength { field, expected, actual });
        }
    }
    Ok(())
}

struct Reasons<'a>(&'a [FailedAttempt]);

impl fmt::Display for Reasons<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, attempt) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", attempt.url, attempt.error)?;
        }
        Ok(())
    }
}

impl fmt::Debug for AppKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppKeys").field("url", &self.url).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
