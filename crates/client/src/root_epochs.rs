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
        /// The key that signed.
        by: Signer,
    },
}

/// The public keys of a root epoch, as the root key of the KMS (`k256_pubkey` of GetMeta) states them. The caller decides
/// whether it trusts [`StatedEpoch::stated_by`]: those that pinned that key may follow to the epoch, on purpose, because all
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

/// Why a root key that was known does not lead to the root key of the KMS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFollowed {
    /// A key is malformed, or listed twice.
    #[error(transparent)]
    Epoch(#[from] NotStated),
    /// The key to which it should lead is that of no epoch.
    #[error("the KMS lists no root epoch with the key {0}")]
    Unlisted(Signer),
    /// No older root has stated the epoch.
    #[error("the KMS shows no statement of an older root key over root epoch {0}")]
    NoStatement(u32),
    /// The statement is of a key that is neither the known one nor that of an older epoch.
    #[error("the keys of root epoch {number} are stated by {by}, to which the known root key does not lead")]
    OtherRoot {
        /// The epoch.
        number: u32,
        /// The key that signed.
        by: Signer,
    },
}

/// The epoch of the root key of the KMS (`k256_pubkey` of GetMeta), if an older root key that is `known` has stated it, or has
/// stated an epoch whose key has, and so on. So one who pinned the root key of an older epoch knows the root of today, its
/// CA too. It is as good as the older key: the holder of that one can state other roots.
///
/// # Errors
/// [`NotFollowed`], also where `known` is that key itself, which needs no statement.
pub fn follow(meta: &GetMetaResponse, known: &Signer) -> Result<StatedEpoch, NotFollowed> {
    let root = Signer::try_from(meta.k256_pubkey.as_slice()).map_err(NotStated::Root)?;
    follow_to(meta, known, &root)
}

/// The same to the key of any epoch that GetMeta lists.
///
/// # Errors
/// [`NotFollowed`].
pub fn follow_to(meta: &GetMetaResponse, known: &Signer, to: &Signer) -> Result<StatedEpoch, NotFollowed> {
    let last = epoch_of(meta, to)?.ok_or(NotFollowed::Unlisted(*to))?;
    let mut at = last.clone();
    loop {
        let number = at.number;
        // That of the root key of the KMS itself is by an older one; of others it is that of the KMS.
        let is_root = at.signer.as_bytes()[..] == meta.k256_pubkey;
        let statement = if is_root { &at.info.signature } else { &at.info.older_signature };
        if statement.is_empty() {
            return Err(NotFollowed::NoStatement(number));
        }
        let by = root_epoch_signer(number, &at.ca_spki, &at.signer, statement)
            .map_err(|error| NotStated::Signature { number, error })?;
        if by == *known {
            let Listed { number, ca_spki, signer, .. } = last;
            return Ok(StatedEpoch { number, ca_spki, signer, stated_by: by });
        }
        // Numbers only fall, so this ends.
        at = epoch_of(meta, &by)?
            .filter(|older| older.number < number)
            .ok_or(NotFollowed::OtherRoot { number, by })?;
    }
}

/// An epoch that is listed.
#[derive(Clone)]
struct Listed<'a> {
    number: u32,
    ca_spki: [u8; SPKI_LENGTH],
    signer: Signer,
    info: &'a RootEpochInfo,
}

/// The epoch with this root key.
fn epoch_of<'a>(meta: &'a GetMetaResponse, signer: &Signer) -> Result<Option<Listed<'a>>, NotStated> {
    let mut found = meta.epochs.iter().filter(|epoch| epoch.k256_pubkey == signer.as_bytes());
    let Some(info) = found.next() else { return Ok(None) };
    let number = info.number;
    if found.next().is_some() || meta.epochs.iter().filter(|epoch| epoch.number == number).count() > 1 {
        return Err(NotStated::Twice(number));
    }
    let ca_spki = info.ca_pubkey.as_slice().try_into().map_err(|_| NotStated::Key(number))?;
    Ok(Some(Listed { number, ca_spki, signer: *signer, info }))
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

    /// A KMS whose identity is epoch 2; epoch 0 has stated epoch 1, and epoch 1 has stated epoch 2.
    fn moved_twice() -> GetMetaResponse {
        let mut epochs = vec![
            epoch(0, 1, statement(3, 0, &CA, &public(1))),
            epoch(1, 2, statement(3, 1, &CA, &public(2))),
            epoch(2, 3, statement(2, 2, &CA, &public(3))),
        ];
        epochs[1].older_signature = statement(1, 1, &CA, &public(2));
        GetMetaResponse { k256_pubkey: public(3), epochs, ..GetMetaResponse::default() }
    }

    fn signer(byte: u8) -> Signer {
        Signer::of_secret(&[byte; 32]).expect("a scalar")
    }

    #[test]
    fn who_knows_an_older_root_follows_from_epoch_to_epoch_to_the_root_of_today() {
        let meta = moved_twice();
        for known in [2, 1] {
            let today = follow(&meta, &signer(known)).expect("it leads there");
            assert_eq!((today.number, today.signer, today.ca_spki), (2, signer(3), CA));
        }
        assert_eq!(follow_to(&meta, &signer(1), &signer(2)).expect("it leads there").number, 1);
        // The newest one has stated the older ones too, which leads nobody back.
        assert_eq!(follow_to(&meta, &signer(3), &signer(1)), Err(NotFollowed::NoStatement(0)));
        assert_eq!(follow(&meta, &signer(3)), Err(NotFollowed::NoStatement(0)));
        assert_eq!(follow(&meta, &signer(9)), Err(NotFollowed::NoStatement(0)));
    }

    #[test]
    fn without_each_statement_of_the_chain_nobody_follows() {
        let fails = |what: &str, change: &dyn Fn(&mut GetMetaResponse)| {
            let mut meta = moved_twice();
            change(&mut meta);
            let found = follow(&meta, &signer(1));
            assert!(found.is_err(), "{what}: {found:?}");
        };
        fails("no statement over epoch 1", &|meta| meta.epochs[1].older_signature.clear());
        fails("no statement over epoch 2", &|meta| meta.epochs[2].signature.clear());
        fails("epoch 1 is left out", &|meta| drop(meta.epochs.remove(1)));
        fails("the root of today is left out", &|meta| drop(meta.epochs.remove(2)));
        fails("epoch 1 is there twice", &|meta| meta.epochs.push(meta.epochs[1].clone()));
        fails("another CA", &|meta| meta.epochs[2].ca_pubkey[0] ^= 1);
        fails("another number", &|meta| meta.epochs[2].number = 3);
        fails("another root key", &|meta| meta.k256_pubkey = public(8));
        fails("a stranger's root", &|meta| {
            meta.k256_pubkey = public(8);
            meta.epochs[2] = epoch(2, 8, statement(8, 2, &CA, &public(8)));
        });
        for place in 0..65 {
            fails("a byte of the first statement", &|meta| meta.epochs[1].older_signature[place] ^= 1);
            fails("a byte of the second statement", &|meta| meta.epochs[2].signature[place] ^= 1);
        }
    }
}
