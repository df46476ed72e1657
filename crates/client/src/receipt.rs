//! The receipt of a release, verified from the root key down to the record in the log.

use kms_ledger::checkpoint::CheckpointError;
use kms_ledger::key::{KeyError, VerifyingKey};
use kms_ledger::log::Log;
use kms_ledger::number::NumberError;
use kms_ledger::proof::{InclusionProof, MAX_PROOF_HASHES};
use kms_ledger::proof_file::{ProofFile, VerifyError};
use kms_ledger::{Hash, Index};

use crate::proto::{GetMetaResponse, Receipt};
use crate::statement::{SignatureError, Signer, log_key_signer};

/// Why a receipt is not valid.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// The KMS signs no log, or its version has none.
    #[error("the KMS shows no key of its log")]
    NoLogKey,
    /// The key of the log is malformed.
    #[error("the key of the log: {0}")]
    LogKey(#[from] KeyError),
    /// The name of the key is not an origin.
    #[error("the key of the log: {0}")]
    Origin(#[from] CheckpointError),
    /// The signature over the log's key is malformed.
    #[error("the signature over the key of the log: {0}")]
    Vouching(#[from] SignatureError),
    /// The signature over the log's key is by another key.
    #[error("the key of the log is vouched for by {0}, not by the root key of these keys")]
    OtherRoot(Signer),
    /// The index is out of range.
    #[error("the index of the receipt: {0}")]
    Index(#[from] NumberError),
    /// The proof is not a list of hashes.
    #[error("the proof of the receipt is not a list of at most {MAX_PROOF_HASHES} hashes")]
    Hashes,
    /// The signature or the proof does not hold.
    #[error(transparent)]
    Verify(#[from] VerifyError),
}

/// Verifies that the record in `receipt` is in the log whose key `meta` shows, and that `root`, the secp256k1
/// root key, has signed that key. Returns the proof as a file (`c2sp.org/tlog-proof@v1`) with the record as
/// its extra data.
///
/// The caller checks that the record names its own release. `meta` need not be trusted, because `root` signs
/// the key.
///
/// # Errors
/// [`ReceiptError`].
pub fn verify(receipt: &Receipt, meta: &GetMetaResponse, root: &Signer) -> Result<ProofFile, ReceiptError> {
    let (log, signer) = shown_log(meta)?;
    if signer != *root {
        return Err(ReceiptError::OtherRoot(signer));
    }
    let (hashes, rest) = receipt.proof.as_chunks::<{ Hash::LEN }>();
    if !rest.is_empty() || hashes.len() > MAX_PROOF_HASHES {
        return Err(ReceiptError::Hashes);
    }
    let proof = InclusionProof::from_hashes(hashes.iter().map(|hash| Hash::from(*hash)).collect());
    let file = ProofFile {
        extra: Some(receipt.entry.clone()),
        index: Index::try_from(receipt.index)?,
        proof,
        checkpoint: receipt.checkpoint.clone(),
    };
    file.verify(&receipt.entry, &log, &[])?;
    Ok(file)
}

/// The log whose key `meta` shows, and the secp256k1 key that has signed that key.
///
/// # Errors
/// [`ReceiptError`].
pub fn shown_log(meta: &GetMetaResponse) -> Result<(Log, Signer), ReceiptError> {
    if meta.log_key.is_empty() {
        return Err(ReceiptError::NoLogKey);
    }
    let signer = log_key_signer(&meta.log_key, &meta.log_key_signature)?;
    Ok((Log::of_key(meta.log_key.parse::<VerifyingKey>()?)?, signer))
}

#[cfg(test)]
pub(crate) mod tests {
    use kms_ledger::Size;
    use kms_ledger::checkpoint::Checkpoint;
    use kms_ledger::key::KeyName;
    use kms_ledger::signature::SigningKey;
    use secp256k1::ecdsa::RecoverableSignature;
    use secp256k1::{Message, SecretKey};
    use sha3::{Digest as _, Keccak256};

    use super::*;

    const ROOT: [u8; 32] = [7; 32];
    const ENTRY: &[u8] = br#"{"event":"app_key_released","salt":"AAAAAAAAAAAAAAAAAAAAAA","seq":2}"#;

    /// A receipt for the second of two records, and the `GetMeta` response.
    pub(crate) fn receipt() -> (Receipt, GetMetaResponse, Signer) {
        let name: KeyName = "kms.example/cvm-kms/00112233".parse().expect("a name");
        let key = SigningKey::from_seed(name, &[1; 32]).expect("a key");
        let log_key = key.verifying_key().to_string();
        let digest = Keccak256::digest(format!("cvm-kms-log-key-v1:{log_key}"));
        let secret = SecretKey::from_secret_bytes(ROOT).expect("a scalar");
        let signature =
            RecoverableSignature::sign_ecdsa_recoverable(Message::from_digest(digest.into()), &secret);
        let (recovery, compact) = signature.serialize_compact();
        let log_key_signature = [&compact[..], &[recovery.to_u8()]].concat();

        let first = Hash::leaf(b"another record");
        let root = Hash::node(&first, &Hash::leaf(ENTRY));
        let size = Size::try_from(2).expect("a size");
        let log = Log::of_key(key.verifying_key().clone()).expect("an origin");
        let checkpoint = key.sign_checkpoint(&Checkpoint::new(log.origin().clone(), size, root));
        let receipt =
            Receipt { entry: ENTRY.to_vec(), index: 1, proof: first.as_bytes().to_vec(), checkpoint };
        let meta = GetMetaResponse { log_key, log_key_signature, ..GetMetaResponse::default() };
        (receipt, meta, Signer::of_secret(&ROOT).expect("a key"))
    }

    #[test]
    fn a_receipt_leads_from_the_root_key_to_its_record() {
        let (receipt, meta, root) = receipt();
        let file = verify(&receipt, &meta, &root).expect("proven").to_string();
        let read = ProofFile::parse(file.as_bytes()).expect("a proof file");
        assert_eq!(read.extra.as_deref(), Some(ENTRY));
        let log = Log::of_key(meta.log_key.parse().expect("a key")).expect("a log");
        assert!(read.verify(ENTRY, &log, &[]).is_ok());
    }

    #[test]
    fn no_altered_receipt_proves_anything() {
        let (receipt, meta, root) = receipt();
        let fails = |receipt: &Receipt, meta: &GetMetaResponse| verify(receipt, meta, &root).is_err();
        for place in 0..receipt.entry.len() {
            let mut altered = receipt.clone();
            altered.entry[place] ^= 1;
            assert!(fails(&altered, &meta), "byte {place} of the entry");
        }
        for place in 0..receipt.proof.len() {
            let mut altered = receipt.clone();
            altered.proof[place] ^= 1;
            assert!(fails(&altered, &meta), "byte {place} of the proof");
        }
        for place in 0..receipt.checkpoint.len() {
            let mut bytes = receipt.checkpoint.clone().into_bytes();
            bytes[place] ^= 1;
            let Ok(checkpoint) = String::from_utf8(bytes) else { continue };
            assert!(
                fails(&Receipt { checkpoint, ..receipt.clone() }, &meta),
                "byte {place} of the checkpoint"
            );
        }
        for place in 0..meta.log_key.len() {
            let mut bytes = meta.log_key.clone().into_bytes();
            bytes[place] ^= 1;
            let Ok(log_key) = String::from_utf8(bytes) else { continue };
            assert!(fails(&receipt, &GetMetaResponse { log_key, ..meta.clone() }), "byte {place} of the key");
        }
        for place in 0..meta.log_key_signature.len() {
            let mut altered = meta.clone();
            altered.log_key_signature[place] ^= 1;
            assert!(fails(&receipt, &altered), "byte {place} of the signature");
        }
        for proof in [vec![], vec![0; 31], vec![0; 33], receipt.proof.repeat(2), vec![0; 32 * 64]] {
            assert!(fails(&Receipt { proof, ..receipt.clone() }, &meta));
        }
        for index in [0, 2, u64::MAX] {
            assert!(fails(&Receipt { index, ..receipt.clone() }, &meta), "{index}");
        }
    }

    #[test]
    fn a_log_that_this_root_key_does_not_vouch_for_is_named() {
        let (receipt, meta, _) = receipt();
        let other = Signer::of_secret(&[8; 32]).expect("a key");
        assert!(matches!(verify(&receipt, &meta, &other), Err(ReceiptError::OtherRoot(_))));
        let without = GetMetaResponse::default();
        assert!(matches!(verify(&receipt, &without, &other), Err(ReceiptError::NoLogKey)));
    }
}
