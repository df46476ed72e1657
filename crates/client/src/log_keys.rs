//! From the key of a log that GetMeta shows back to the keys that the same log had before: each change is vouched for.

use kms_ledger::key::VerifyingKey;
use kms_ledger::log::Log;

use crate::proto::{GetMetaResponse, LogKeyChange};
use crate::receipt::{ReceiptError, shown_log};
use crate::root_epochs::follow_to;
use crate::statement::{Signer, log_key_signer};

/// A KMS shows not more changes.
const MAX_CHANGES: usize = 64;

/// A key that the log had before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlierKey {
    /// The log under that key.
    pub log: Log,
    /// The key's text.
    pub log_key: String,
    /// The root key that signed it.
    pub root_key: Signer,
}

/// The keys that the log had before the one that `meta` shows, the newest first, as far as each change is vouched for: the root
/// key that signed the key before has signed the one after it too, or it leads to the root key that did
/// ([`crate::root_epochs::follow`]). The first change that is not vouched for, or does not fit, ends the list.
///
/// Anybody can make a chain from a known key of a log, with a root key of their own. So the caller must know a root key: that of
/// the shown key, or [`EarlierKey::root_key`].
///
/// # Errors
/// [`ReceiptError`]: the shown key is not signed.
pub fn earlier_keys(meta: &GetMetaResponse) -> Result<Vec<EarlierKey>, ReceiptError> {
    let (log, mut signer) = shown_log(meta)?;
    let (mut key, mut earlier) = (meta.log_key.clone(), Vec::new());
    for change in meta.log_key_changes.iter().rev().take(MAX_CHANGES) {
        let Some(before) = vouched(meta, change, &key, &signer) else { break };
        if before.log.origin() != log.origin() {
            break;
        }
        (key, signer) = (before.log_key.clone(), before.root_key);
        earlier.push(before);
    }
    Ok(earlier)
}

/// The key before a change to `key`, which `signer` has signed.
fn vouched(meta: &GetMetaResponse, change: &LogKeyChange, key: &str, signer: &Signer) -> Option<EarlierKey> {
    if change.key != key || log_key_signer(key, &change.signature).ok()? != *signer {
        return None;
    }
    let root_key = log_key_signer(&change.earlier_key, &change.earlier_signature).ok()?;
    let is_endorsed = || log_key_signer(key, &change.endorsement) == Ok(root_key);
    if root_key != *signer && !is_endorsed() && follow_to(meta, &root_key, signer).is_err() {
        return None;
    }
    let log = Log::of_key(change.earlier_key.parse::<VerifyingKey>().ok()?).ok()?;
    Some(EarlierKey { log, log_key: change.earlier_key.clone(), root_key })
}

#[cfg(test)]
mod tests {
    use kms_ledger::signature::SigningKey;
    use secp256k1::ecdsa::RecoverableSignature;
    use secp256k1::{Message, SecretKey};
    use sha3::{Digest as _, Keccak256};

    use super::*;
    use crate::proto::RootEpochInfo;

    fn log_key(seed: u8) -> String {
        let name = "kms.example/cvm-kms/0123456789abcdef".parse().expect("a name");
        SigningKey::from_seed(name, &[seed; 32]).expect("a key").verifying_key().to_string()
    }

    fn root(byte: u8) -> Signer {
        Signer::of_secret(&[byte; 32]).expect("a scalar")
    }

    /// The signature of the root key `by` over these bytes behind a label.
    fn signed(by: u8, label: &[u8], content: &[u8]) -> Vec<u8> {
        let digest = Keccak256::digest([label, b":", content].concat());
        let secret = SecretKey::from_secret_bytes([by; 32]).expect("a scalar");
        let signed =
            RecoverableSignature::sign_ecdsa_recoverable(Message::from_digest(digest.into()), &secret);
        let (recovery, compact) = signed.serialize_compact();
        [&compact[..], &[recovery.to_u8()]].concat()
    }

    fn vouching(by: u8, seed: u8) -> Vec<u8> {
        signed(by, b"cvm-kms-log-key-v1", log_key(seed).as_bytes())
    }

    /// From the key of a root to that of another one.
    fn change(from: u8, to: u8, endorsed_by: Option<u8>) -> LogKeyChange {
        LogKeyChange {
            earlier_key: log_key(from),
            earlier_signature: vouching(from, from),
            key: log_key(to),
            signature: vouching(to, to),
            endorsement: endorsed_by.map_or_else(Vec::new, |by| vouching(by, to)),
        }
    }

    /// A log that had the keys 1, 2 and 3, each under a root of its own.
    fn meta() -> GetMetaResponse {
        GetMetaResponse {
            k256_pubkey: root(3).as_bytes().to_vec(),
            log_key: log_key(3),
            log_key_signature: vouching(3, 3),
            log_key_changes: vec![change(1, 2, Some(1)), change(2, 3, Some(2))],
            ..GetMetaResponse::default()
        }
    }

    fn roots(meta: &GetMetaResponse) -> Vec<Signer> {
        earlier_keys(meta).expect("a log").into_iter().map(|earlier| earlier.root_key).collect()
    }

    #[test]
    fn the_earlier_keys_of_a_log_are_found_as_far_as_they_are_vouched_for() {
        let found = earlier_keys(&meta()).expect("a log");
        let keys: Vec<&str> = found.iter().map(|earlier| earlier.log_key.as_str()).collect();
        assert_eq!(keys, [log_key(2), log_key(1)]);
        assert_eq!(roots(&meta()), [root(2), root(1)]);
        let cut = |change: &dyn Fn(&mut GetMetaResponse)| {
            let mut meta = meta();
            change(&mut meta);
            roots(&meta).len()
        };
        let none = Vec::new();
        assert_eq!(cut(&|meta| meta.log_key_changes.clear()), 0);
        assert_eq!(cut(&|meta| meta.log_key_changes[1].endorsement.clone_from(&none)), 0);
        assert_eq!(cut(&|meta| meta.log_key_changes[1].endorsement = vouching(9, 3)), 0, "a stranger");
        assert_eq!(cut(&|meta| meta.log_key_changes[1].endorsement = vouching(2, 2)), 0, "another key");
        assert_eq!(cut(&|meta| meta.log_key_changes[1].signature = vouching(9, 3)), 0, "another root");
        assert_eq!(cut(&|meta| meta.log_key_changes[0].endorsement.clone_from(&none)), 1);
        assert_eq!(cut(&|meta| meta.log_key_changes[0].key = log_key(9)), 1, "a gap");
        assert_eq!(cut(&|meta| meta.log_key_changes.swap(0, 1)), 0, "another order");
        // The roots say that a key is theirs, not only that they exist.
        assert_eq!(cut(&|meta| meta.log_key_changes[1].earlier_signature = vouching(9, 2)), 0);
        assert!(earlier_keys(&GetMetaResponse { log_key: String::new(), ..meta() }).is_err());
    }

    #[test]
    fn a_root_that_was_destroyed_before_the_change_has_stated_the_next_one() {
        let mut meta = meta();
        meta.log_key_changes = vec![change(2, 3, None)];
        assert_eq!(roots(&meta), []);
        let ca = [0x30; kms_attest::p256::SPKI_LENGTH];
        let content = [&1_u32.to_be_bytes()[..], &ca, root(3).as_bytes()].concat();
        let mut epoch = RootEpochInfo {
            number: 1,
            ca_pubkey: ca.to_vec(),
            k256_pubkey: root(3).as_bytes().to_vec(),
            signature: signed(2, b"cvm-kms-root-epoch-v1", &content),
            ..RootEpochInfo::default()
        };
        meta.epochs = vec![epoch.clone()];
        assert_eq!(roots(&meta), [root(2)]);
        epoch.signature = signed(9, b"cvm-kms-root-epoch-v1", &content);
        meta.epochs = vec![epoch];
        assert_eq!(roots(&meta), []);
    }
}
