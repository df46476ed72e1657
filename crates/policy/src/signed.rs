//! Signed decisions: a webhook's response, signed by a pinned key, valid for one request and some seconds.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::decision::{ReleaseStage, SubjectKind};
use crate::epochs::AppEpochs;
use crate::settings::DecisionKey;

/// The request header that makes each request different from all others: 32 hex digits.
pub const NONCE_HEADER: &str = "x-kms-nonce";

/// The first line of a signed statement: its format and version.
const TITLE: &str = "cvm-kms decision v1";
/// The first line for a response with a release stage, which adds a line.
const TITLE_WITH_STAGE: &str = "cvm-kms decision v2";
/// The first line for a response with epochs, which adds two lines.
const TITLE_WITH_EPOCHS: &str = "cvm-kms decision v3";

/// A number used once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nonce(String);

impl Nonce {
    /// 16 random bytes; `None` if the system's random number generator fails.
    pub fn random() -> Option<Self> {
        let mut bytes = [0; 16];
        SystemRandom::new().fill(&mut bytes).ok()?;
        Some(Self(hex::encode(bytes)))
    }

    /// Parses 1 to 64 hex digits and keeps them unchanged.
    pub fn parse(text: &str) -> Option<Self> {
        let is_nonce = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_nonce.then(|| Self(text.to_owned()))
    }

    /// Its hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A request as it was sent.
#[derive(Debug, Clone, Copy)]
pub struct SignedRequest<'a> {
    /// The kind of its subject.
    pub kind: SubjectKind,
    /// The exact bytes of its body.
    pub body: &'a [u8],
    /// Its [`NONCE_HEADER`].
    pub nonce: &'a Nonce,
}

/// What the JSON of a response states.
#[derive(Debug, Clone, Copy)]
pub struct Claims<'a> {
    /// `isAllowed`
    pub is_allowed: bool,
    /// `gatewayAppId`
    pub gateway_app_id: &'a str,
    /// `reason`
    pub reason: &'a str,
    /// `releaseStage`, if the response has it.
    pub release_stage: Option<ReleaseStage>,
    /// `rootEpoch`, `appEpoch` and `readableEpochs`, if the response has one of them.
    pub epochs: Option<&'a AppEpochs>,
}

/// The key `signature` of a response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Signature {
    /// SHA-256 of the request's body, 64 hex digits.
    pub request_sha256: String,
    /// The request's [`NONCE_HEADER`], unchanged.
    pub nonce: String,
    /// Unix seconds: the last second in which the response is valid.
    pub expires: u64,
    /// RFC 8032 over [`statement`], 128 hex digits.
    pub ed25519: String,
}

/// Why a response is not validly signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The signature is missing.
    #[error("is not signed")]
    Missing,
    /// The signature is for another body.
    #[error("is signed for another request")]
    OtherRequest,
    /// The signature is for an earlier request with the same body.
    #[error("is signed for an earlier request: replayed")]
    Replayed,
    /// The signature has expired.
    #[error("is signed, but the signature has expired")]
    Expired,
    /// The signature does not verify with the pinned key.
    #[error("is not signed by core.auth_api.webhook.decision_key")]
    WrongKey,
}

/// The signed statement: eight lines of ASCII, each with a line feed.
///
/// ```text
/// cvm-kms decision v1
/// app | kms                      the last part of the path
/// <SHA-256 of the request body>  64 lower-case hex digits
/// <X-KMS-Nonce>                  unchanged
/// <expires>                      Unix seconds, decimal
/// allow | deny                   isAllowed
/// <gatewayAppId>                 lower-case hex of its UTF-8
/// <reason>                       lower-case hex of its UTF-8
/// ```
///
/// A response with `releaseStage` has version 2 in its first line and the stage as a ninth line, so that a man in
/// the middle cannot add, change or remove it. One with epochs has version 3, the stage or `-` as a ninth line, and as a
/// tenth line what [`AppEpochs`] prints, such as `rootEpoch current, appEpoch 1, readableEpochs 0 1.1`.
pub fn statement(request: SignedRequest<'_>, claims: Claims<'_>, expires: u64) -> String {
    let mut text = String::new();
    let decision = if claims.is_allowed { "allow" } else { "deny" };
    let epochs = claims.epochs.map(AppEpochs::to_string);
    let stage = claims.release_stage.map(ReleaseStage::name);
    let (title, stage) = match (stage, &epochs) {
        (None, None) => (TITLE, None),
        (Some(_), None) => (TITLE_WITH_STAGE, stage),
        (stage, Some(_)) => (TITLE_WITH_EPOCHS, Some(stage.unwrap_or("-"))),
    };
    let lines = [
        title,
        request.kind.name(),
        &digest(request.body),
        request.nonce.as_str(),
        &expires.to_string(),
        decision,
        &hex::encode(claims.gateway_app_id),
        &hex::encode(claims.reason),
    ];
    for line in lines.into_iter().chain(stage).chain(epochs.as_deref()) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line}");
    }
    text
}

/// Verifies at `now` that `key` has signed `claims` for `request`.
///
/// # Errors
/// [`SignatureError`]: the response must be ignored.
pub fn verify(
    key: &DecisionKey,
    request: SignedRequest<'_>,
    claims: Claims<'_>,
    signature: Option<&Signature>,
    now: SystemTime,
) -> Result<(), SignatureError> {
    let signature = signature.ok_or(SignatureError::Missing)?;
    if signature.request_sha256 != digest(request.body) {
        return Err(SignatureError::OtherRequest);
    }
    if signature.nonce != request.nonce.as_str() {
        return Err(SignatureError::Replayed);
    }
    // A clock before 1970 is wrong, so the signature counts as expired.
    let now = now.duration_since(UNIX_EPOCH).map_or(u64::MAX, |since| since.as_secs());
    if now > signature.expires {
        return Err(SignatureError::Expired);
    }
    let mut bytes = [0; 64];
    hex::decode_to_slice(&signature.ed25519, &mut bytes).map_err(|_| SignatureError::WrongKey)?;
    let statement = statement(request, claims, signature.expires);
    UnparsedPublicKey::new(&ED25519, key.as_bytes())
        .verify(statement.as_bytes(), &bytes)
        .map_err(|_| SignatureError::WrongKey)
}

fn digest(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}

/// Signs decisions.
pub struct DecisionSigner(Ed25519KeyPair);

/// The text contains no Ed25519 key.
#[derive(Debug, thiserror::Error)]
#[error("holds no Ed25519 private key in PEM; `openssl genpkey -algorithm ed25519` makes one")]
pub struct NoSigningKey;

impl DecisionSigner {
    /// From a PKCS #8 key in PEM.
    ///
    /// # Errors
    /// [`NoSigningKey`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, NoSigningKey> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| NoSigningKey)?;
        let key =
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).map_err(|_| NoSigningKey)?;
        Ok(Self(key))
    }

    /// The public key, which the other side pins.
    pub fn public_key(&self) -> DecisionKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        DecisionKey::from(key)
    }

    /// Signs `claims` for `request`; valid until `expires`, in Unix seconds.
    pub fn sign(&self, request: SignedRequest<'_>, claims: Claims<'_>, expires: u64) -> Signature {
        let statement = statement(request, claims, expires);
        Signature {
            request_sha256: digest(request.body),
            nonce: request.nonce.as_str().to_owned(),
            expires,
            ed25519: hex::encode(self.0.sign(statement.as_bytes())),
        }
    }
}

#[cfg(test)]
mod tests;
