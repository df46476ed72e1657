//! From a root key that is known to the root keys of other epochs: each is stated by the known one.

use kms_attest::p256::SPKI_LENGTH;

use crate::proto::{GetMetaResponse, RootEpochInfo};
use crate::statement::{NotASigner, SignatureError, Signer, root_epoch_signer};

/// The public keys of a root epoch that a known root key has stated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatedEpoch {
    /// Its number.
    pub number: u32,
    /// Root CA public key, SubjectPublicKeyInfo DER: the key provider id.
    pub ca_spki: [u8; SPKI_LENGTH],
    /// The root secp256k1 key.
    pub signer: Signer,
    /// The root key that stated it.
    pub stated_by: Signer,
}

/// Why the keys of an epoch are not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotStated {
    /// The KMS does not list the epoch.
    #[error("the KMS lists no root epoch {0}")]
    Unknown(u32),
    /// It lists two of the number.
    #[error("the KMS lists root epoch {0} twice")]
    Twice(u32),
    /// A key of another form.
    #[error("a public key of root epoch {0} is malformed")]
    Key(u32),
    /// The root key of the KMS is malformed.
    #[error("the root key of the KMS: {0}")]
    Root(#[from] NotASigner),
    /// The statement is malformed.
    #[error("the statement about root epoch {number}: {error}")]
    Signature {
        /// The epoch.
        number: u32,
        /// What is wrong.
        error: SignatureError,
    },
    /// Another key than the root key of the KMS stated it.
    #[error("the keys of root epoch {number} are stated by {by}, not by the root key of the KMS")]
    OtherRoot {
        /// The epoch.
        number: u32,
        /// Whoever signed.
        by: Signer,
    },
}

/// The public keys of a root epoch, as the root key of the KMS (`k256_pubkey` of GetMeta) states them. The caller decides
/// whether it trusts [`StatedEpoch::stated_by`]: whoever pinned that key may follow to the epoch, on purpose, because all
/// keys of the epoch are other keys.
///
/// # Errors
/// [`NotStated`]
pub fn stated_epoch(meta: &GetMetaResponse, number: u32) -> Result<StatedEpoch, NotStated> {
    let root = Signer::try_from(meta.k256_pubkey.as_slice())?;
    let mut listed = meta.epochs.iter().filter(|epoch| epoch.number == number);
    let epoch = listed.next().ok_or(NotStated::Unknown(number))?;
    if listed.next().is_some() {
        return Err(NotStated::Twice(number));
    }
    let RootEpochInfo { ca_pubkey, k256_pubkey, signature, .. } = epoch;
    let ca_spki = ca_pubkey.as_slice().try_into().map_err(|_| NotStated::Key(number))?;
    let signer = Signer::try_from(k256_pubkey.as_slice()).map_err(|_| NotStated::Key(number))?;
    // The root key itself needs no statement.
    if signer != root {
        let by = root_epoch_signer(number, &ca_spki, &signer, signature)
            .map_err(|error| NotStated::Signature { number, error })?;
        if by != root {
            return Err(NotStated::OtherRoot { number, by });
        }
    }
    Ok(StatedEpoch { number, ca_spki, signer, stated_by: root })
}

#[cfg(test)]
mod tests {
    use secp256k1::ecdsa::RecoverableSignature;
    use secp256k1::{Message, SecretKey};
    use sha3::{Digest as _, Keccak256};

    use super::*;

    const CA: [u8; SPKI_LENGTH] = [0x30; SPKI_LENGTH];

    fn secret(byte: u8) -> SecretKey {
        SecretKey::from_secret_bytes([byte; 32]).expect("a scalar")
    }

    fn public(byte: u8) -> Vec<u8> {
        Signer::of_secret(&[byte; 32]).expect("a scalar").as_bytes().to_vec()
    }

    /// The statement of the key `by`, written out from its definition.
    fn statement(by: u8, number: u32, ca: &[u8], k256: &[u8]) -> Vec<u8> {
        let text = [b"cvm-kms-root-epoch-v1:", &number.to_be_bytes()[..], ca, k256].concat();
        let digest = Keccak256::digest(text);
        let signed =
            RecoverableSignature::sign_ecdsa_recoverable(Message::from_digest(digest.into()), &secret(by));
        let (recovery, compact) = signed.serialize_compact();
        [&compact[..], &[recovery.to_u8()]].concat()
    }

    fn epoch(number: u32, key: u8, signature: Vec<u8>) -> RootEpochInfo {
        let (ca_pubkey, k256_pubkey) = (CA.to_vec(), public(key));
        RootEpochInfo { number, ca_pubkey, k256_pubkey, signature, ..RootEpochInfo::default() }
    }

    fn meta(epochs: Vec<RootEpochInfo>) -> GetMetaResponse {
        GetMetaResponse { k256_pubkey: public(1), epochs, ..GetMetaResponse::default() }
    }

    #[test]
    fn who_knows_a_root_key_can_follow_to_the_epochs_that_it_states() {
        let meta = meta(vec![epoch(0, 1, Vec::new()), epoch(1, 2, statement(1, 1, &CA, &public(2)))]);
        let root = Signer::try_from(public(1).as_slice()).expect("a key");
        for (number, key) in [(0, 1), (1, 2)] {
            let stated = stated_epoch(&meta, number).expect("stated");
            assert_eq!((stated.number, stated.ca_spki, stated.stated_by), (number, CA, root));
            assert_eq!(stated.signer.as_bytes().as_slice(), public(key));
        }
        assert_eq!(stated_epoch(&meta, 2), Err(NotStated::Unknown(2)));
    }

    #[test]
    fn what_the_root_key_did_not_state_is_not_believed() {
        let good = statement(1, 1, &CA, &public(2));
        let other = |by: u8| NotStated::OtherRoot {
            number: 1,
            by: Signer::try_from(public(by).as_slice()).expect("a key"),
        };
        assert_eq!(
            stated_epoch(&meta(vec![epoch(1, 2, statement(3, 1, &CA, &public(2)))]), 1),
            Err(other(3))
        );
        // By the new key itself.
        assert_eq!(
            stated_epoch(&meta(vec![epoch(1, 2, statement(2, 1, &CA, &public(2)))]), 1),
            Err(other(2))
        );
        for (changed, what) in [
            (epoch(1, 3, good.clone()), "another key"),
            (epoch(1, 2, statement(1, 2, &CA, &public(2))), "another number"),
            (epoch(1, 2, statement(1, 1, &[0x31; SPKI_LENGTH], &public(2))), "another CA"),
            (epoch(1, 2, Vec::new()), "no statement"),
        ] {
            assert!(stated_epoch(&meta(vec![changed]), 1).is_err(), "{what}");
        }
        let twice = meta(vec![epoch(1, 2, good.clone()), epoch(1, 2, good.clone())]);
        assert_eq!(stated_epoch(&twice, 1), Err(NotStated::Twice(1)));
        let mut short = epoch(1, 2, good);
        short.ca_pubkey.pop();
        assert_eq!(stated_epoch(&meta(vec![short]), 1), Err(NotStated::Key(1)));
    }
}
