//! The public key to which an app's environment is encrypted, after its signature and age were checked.

use kms_attest::identity::AppId;

use super::envelope;
use super::sealed::Epochs;
use crate::proto::PublicKeyResponse;
use crate::statement::{SignatureError, Signer, env_key_signer, timeless_env_key_signer};

/// An older statement may be a replay.
pub const MAX_AGE_SECONDS: u64 = 300;
/// The accepted clock difference between KMS and deployer.
pub const MAX_AHEAD_SECONDS: u64 = 60;

/// A public key with a fresh signature. The caller decides whether the signer is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnvKey {
    /// X25519.
    pub public_key: [u8; envelope::KEY_BYTES],
    /// Its signer.
    pub signer: Signer,
    /// When it was signed, Unix seconds.
    pub timestamp: u64,
    /// The epochs of the key, as the response says. The signature does not cover them: the guest cannot open what
    /// was sealed for others.
    pub epochs: Epochs,
}

/// Why a response does not contain a usable key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvKeyError {
    /// A key of another length.
    #[error("public_key must be 32 bytes, got {0}")]
    PublicKey(usize),
    /// No time of signature: a KMS from before signature_v1, or a replay of its response.
    #[error("there is no signature_v1, so nothing says when the key was signed")]
    Unsigned,
    /// The signature is invalid.
    #[error("signature_v1: {0}")]
    Signature(#[from] SignatureError),
    /// Signed too long ago.
    #[error(
        "the key was signed {age} s ago, at most {MAX_AGE_SECONDS} s are accepted: a replay, or a wrong clock"
    )]
    Stale {
        /// Age in seconds.
        age: u64,
    },
    /// Signed in the future.
    #[error(
        "the key was signed {ahead} s in the future, at most {MAX_AHEAD_SECONDS} s are accepted: a wrong clock"
    )]
    Future {
        /// Difference in seconds.
        ahead: u64,
    },
    /// The older signature is by another signer.
    #[error("signature and signature_v1 are of different signers")]
    TwoSigners,
}

impl EnvKey {
    /// Checks the response of `GetAppEnvEncryptPubKey` for an app, at `now` (Unix seconds).
    pub fn verify(answer: &PublicKeyResponse, app_id: AppId, now: u64) -> Result<Self, EnvKeyError> {
        let Ok(public_key) = answer.public_key.as_slice().try_into() else {
            return Err(EnvKeyError::PublicKey(answer.public_key.len()));
        };
        if answer.signature_v1.is_empty() {
            return Err(EnvKeyError::Unsigned);
        }
        let timestamp = answer.timestamp;
        let signer = env_key_signer(app_id, timestamp, &answer.public_key, &answer.signature_v1)?;
        if !answer.signature.is_empty()
            && timeless_env_key_signer(app_id, &answer.public_key, &answer.signature) != Ok(signer)
        {
            return Err(EnvKeyError::TwoSigners);
        }
        let age = now.saturating_sub(timestamp);
        if age > MAX_AGE_SECONDS {
            return Err(EnvKeyError::Stale { age });
        }
        let ahead = timestamp.saturating_sub(now);
        if ahead > MAX_AHEAD_SECONDS {
            return Err(EnvKeyError::Future { ahead });
        }
        let epochs = Epochs::of(answer.root_epoch, answer.app_epoch);
        Ok(Self { public_key, signer, timestamp, epochs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The response in a vector, its app and its signer.
    fn answer() -> (PublicKeyResponse, AppId, Signer) {
        let vectors = crate::statement::tests::vectors();
        let cases = vectors["env_pubkey_signatures"].as_array().expect("list");
        let is_recent = |case: &&serde_json::Value| {
            case["timestamp"]
                .as_str()
                .and_then(|text| text.parse().ok())
                .is_some_and(|time: u64| (1_000_000..=u64::from(u32::MAX)).contains(&time))
        };
        let case = cases.iter().find(is_recent).expect("a time");
        let bytes = |name: &str| hex::decode(case[name].as_str().expect("text")).expect("hex");
        let answer = PublicKeyResponse {
            public_key: bytes("public_key"),
            signature: bytes("signature"),
            timestamp: case["timestamp"].as_str().expect("text").parse().expect("number"),
            signature_v1: bytes("signature_v1"),
            ..Default::default()
        };
        let root = vectors["guest_getkey_chain"][0]["kms_root_public_key"].as_str().expect("text");
        (answer, AppId::try_from(bytes("app_id").as_slice()).expect("app id"), root.parse().expect("signer"))
    }

    #[test]
    fn a_fresh_statement_names_its_signer() {
        let (answer, app_id, root) = answer();
        for now in [answer.timestamp, answer.timestamp + 300, answer.timestamp - 60] {
            let key = EnvKey::verify(&answer, app_id, now).expect("fresh");
            assert_eq!((key.signer, key.timestamp), (root, answer.timestamp));
        }
    }

    #[test]
    fn every_defect_is_named() {
        let (answer, app_id, root) = answer();
        let now = answer.timestamp;
        let verify = |answer: &PublicKeyResponse, now| EnvKey::verify(answer, app_id, now);
        assert_eq!(verify(&answer, now + 301), Err(EnvKeyError::Stale { age: 301 }));
        assert_eq!(verify(&answer, now - 61), Err(EnvKeyError::Future { ahead: 61 }));

        let unsigned = PublicKeyResponse { signature_v1: Vec::new(), ..answer.clone() };
        assert_eq!(verify(&unsigned, now), Err(EnvKeyError::Unsigned));
        let short = PublicKeyResponse { public_key: vec![0; 31], ..answer.clone() };
        assert_eq!(verify(&short, now), Err(EnvKeyError::PublicKey(31)));
        let cut = PublicKeyResponse { signature_v1: vec![0; 64], ..answer.clone() };
        assert_eq!(verify(&cut, now), Err(EnvKeyError::Signature(SignatureError::Length(64))));

        // A modified statement has another, unknown signer.
        let later = PublicKeyResponse { timestamp: now + 1, signature: Vec::new(), ..answer.clone() };
        assert!(verify(&later, now).map_or(true, |key| key.signer != root));
        let other = PublicKeyResponse { timestamp: now + 1, ..answer.clone() };
        assert!(matches!(verify(&other, now), Err(EnvKeyError::TwoSigners | EnvKeyError::Signature(_))));
        let foreign = EnvKey::verify(&answer, AppId([0xee; 20]), now);
        assert!(foreign.map_or(true, |key| key.signer != root));
    }
}
