//! What a KMS must match: allowed identities, known keys, accepted statuses.

use kms_attest::identity::{AppId, AppInfo};
use kms_attest::platform::tdx::image::lite;
use kms_attest::verify::Verified;
use kms_attest::vm_config::{TdxAttestationVariant, VmConfig};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::epochs::Epochs;
use crate::statement::Signer;

/// The largest allowlist that is read.
pub const MAX_BYTES: usize = 4 << 20;
/// The TCB status that is accepted by default.
pub const UP_TO_DATE: &str = "UpToDate";

/// Known values that are compared with the proven ones.
#[derive(Clone, Debug)]
pub struct Pins {
    /// Accepted TCB statuses, in Intel's words.
    pub tcb: Vec<String>,
    /// Accepted TCB statuses of the platform that made the root keys; `None`: the same.
    pub bootstrap_tcb: Option<Vec<String>>,
    /// Accepted advisories; `None`: shown but not checked.
    pub advisories: Option<Vec<String>>,
    /// Accepted advisories of the platform that made the root keys; `None`: the same.
    pub bootstrap_advisories: Option<Vec<String>>,
    /// Identities, of which the KMS must have one; empty: not checked.
    pub identities: Vec<Identity>,
    /// Public key of the root CA.
    pub root: Option<RootPin>,
    /// The secp256k1 root key.
    pub k256: Option<Signer>,
    /// Keys that the KMS released to an app.
    pub released: Option<ReleasedKeys>,
}

impl Default for Pins {
    fn default() -> Self {
        Self {
            tcb: vec![UP_TO_DATE.to_owned()],
            bootstrap_tcb: None,
            advisories: None,
            bootstrap_advisories: None,
            identities: Vec::new(),
            root: None,
            k256: None,
            released: None,
        }
    }
}

/// A root CA, by its public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootPin {
    /// SubjectPublicKeyInfo DER: the key provider id.
    Spki(Vec<u8>),
    /// Its SHA-256.
    Sha256([u8; 32]),
}

impl RootPin {
    /// Whether the pinned key is this one, SubjectPublicKeyInfo DER.
    pub fn is(&self, spki: &[u8]) -> bool {
        match self {
            Self::Spki(pinned) => pinned == spki,
            Self::Sha256(pinned) => pinned[..] == Sha256::digest(spki)[..],
        }
    }
}

/// The public part of the keys that an app received.
#[derive(Clone, Debug)]
pub struct ReleasedKeys {
    /// The app.
    pub app_id: AppId,
    /// The epochs of the keys.
    pub epochs: Epochs,
    /// Its secp256k1 key.
    pub k256_key: Signer,
    /// The signature of the root key over it.
    pub k256_signature: Vec<u8>,
    /// Its X25519 key for environments.
    pub env_public_key: [u8; 32],
    /// Public key of the root CA that came with them, SubjectPublicKeyInfo DER.
    pub root_spki: Vec<u8>,
}

/// One identity: for each listed register, its allowed values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// A name for display.
    #[serde(default)]
    pub name: String,
    /// All registers and MRCONFIGID, MROWNER, MROWNERCONFIG, 32 bytes each.
    pub mr_aggregated: Option<Values>,
    /// Firmware, kernel, image and key provider, without the app, 32 bytes each.
    pub mr_system: Option<Values>,
    /// The OS image, where the registers follow from it alone, 32 bytes each.
    pub os_image_hash: Option<Values>,
    /// SHA-256 of the platform's provisioning id, 32 bytes each.
    pub device_id: Option<Values>,
    /// SHA-256 of the compose file that the OS measured, 32 bytes each.
    pub compose_hash: Option<Values>,
}

/// 32-byte values in hexadecimal, with or without `0x`; a single value needs no list.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "OneOrMore")]
pub struct Values(pub Vec<[u8; 32]>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl TryFrom<OneOrMore> for Values {
    type Error = String;

    fn try_from(texts: OneOrMore) -> Result<Self, String> {
        let texts = match texts {
            OneOrMore::One(text) => vec![text],
            OneOrMore::More(texts) => texts,
        };
        let value = |text: String| {
            let bytes = hex::decode(text.strip_prefix("0x").unwrap_or(&text));
            bytes
                .ok()
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or_else(|| format!("{:?} is not 32 bytes in hexadecimal", crate::text::printable(&text)))
        };
        texts.into_iter().map(value).collect::<Result<_, _>>().map(Self)
    }
}

/// Why text is not an allowlist.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    /// Longer than [`MAX_BYTES`].
    #[error("longer than {MAX_BYTES} bytes")]
    TooLong,
    /// Not JSON of this format.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// It is empty.
    #[error("there is no identity in it")]
    Empty,
    /// An identity without a value that the hardware measures.
    #[error(
        "identity {0}: mr_aggregated, mr_system or os_image_hash is needed: the rest is only as good as the OS"
    )]
    Unmeasured(usize),
}

impl Identity {
    /// Parses an allowlist: one identity, or a list of them.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, PinsError> {
        if text.len() > MAX_BYTES {
            return Err(PinsError::TooLong);
        }
        let list: Vec<Self> = if text.trim_start().starts_with('[') {
            serde_json::from_str(text)?
        } else {
            vec![serde_json::from_str(text)?]
        };
        if list.is_empty() {
            return Err(PinsError::Empty);
        }
        for (number, identity) in (1..).zip(&list) {
            let Self { mr_aggregated, mr_system, os_image_hash, .. } = identity;
            if mr_aggregated.is_none() && mr_system.is_none() && os_image_hash.is_none() {
                return Err(PinsError::Unmeasured(number));
            }
        }
        Ok(list)
    }

    /// The identity with this aggregated measurement.
    pub fn aggregated(mr_aggregated: [u8; 32]) -> Self {
        Self { mr_aggregated: Some(Values(vec![mr_aggregated])), ..Self::default() }
    }

    /// The first value that differs.
    fn difference(&self, shown: &AppInfo, image: ImageProof) -> Option<String> {
        let parts: [(&str, &Option<Values>, &[u8]); 5] = [
            ("mr_aggregated", &self.mr_aggregated, &shown.mr_aggregated),
            ("mr_system", &self.mr_system, &shown.mr_system),
            ("os_image_hash", &self.os_image_hash, &shown.os_image_hash),
            ("device_id", &self.device_id, &shown.device_id),
            ("compose_hash", &self.compose_hash, &shown.compose_hash),
        ];
        for (part, allowed, actual) in parts {
            let Some(Values(allowed)) = allowed else { continue };
            if !allowed.iter().any(|value| value[..] == *actual) {
                return Some(format!("{part} is {}", hex::encode(actual)));
            }
        }
        if self.os_image_hash.is_some() && image == ImageProof::Claimed {
            return Some(
                "os_image_hash is a claim that the quote does not prove; pin mr_aggregated or mr_system"
                    .to_owned(),
            );
        }
        None
    }
}

/// Whether the quote proves the OS image that the configuration names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ImageProof {
    Claimed,
    Proven,
}

/// Without the image only the lite form can be checked.
pub(super) fn image_proof(verified: &Verified) -> ImageProof {
    let evidence = verified.evidence();
    let Ok(config) = VmConfig::effective("", &evidence.stack.config) else { return ImageProof::Claimed };
    let kms_attest::evidence::Platform::Tdx(tdx) = &evidence.platform else { return ImageProof::Claimed };
    if config.tdx_attestation_variant != TdxAttestationVariant::Lite {
        return ImageProof::Claimed;
    }
    match lite::boot_registers(&config, &tdx.event_log) {
        Ok(registers) if registers.compare(&verified.td().quoted).is_ok() => ImageProof::Proven,
        _ => ImageProof::Claimed,
    }
}

/// The name of the matching identity, or why none matches.
pub(super) fn find<'a>(
    identities: &'a [Identity],
    shown: &AppInfo,
    image: ImageProof,
) -> Result<&'a Identity, String> {
    let mut differences = Vec::new();
    for identity in identities {
        match identity.difference(shown, image) {
            None => return Ok(identity),
            Some(difference) => differences.push(difference),
        }
    }
    differences.dedup();
    differences.truncate(4);
    Err(format!("none of the {} allowed identities: {}", identities.len(), differences.join("; ")))
}
