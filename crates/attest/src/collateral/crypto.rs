//! The cryptography for the quote library: AWS-LC, as everywhere in this project, with a cache of valid
//! signatures.
//!
//! The library asks for a test that a custom provider gives the same results as its own: see the tests below.

use std::sync::LazyLock;

use aws_lc_rs::digest::{Context, SHA256, SHA384, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use dcap_qvl::config::{Config, CryptoProvider};
use dcap_qvl::signature::DerSigEncoder;
use dcap_qvl::x509::X509CertBackend;
use quick_cache::sync::Cache;
use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id};

/// Maximum number of cached signatures. About ten belong to a platform and repeat with each quote
/// (certificates, CRLs, TCB info, QE identity, QE report); the quote's own signature occurs once.
const MAX_REMEMBERED: usize = 4096;

/// First byte of an uncompressed point (SEC 1, section 2.3.3).
const UNCOMPRESSED: u8 = 4;

/// The configuration of the quote library: its own parsers, our cryptography.
pub(crate) struct Dcap;

impl Config for Dcap {
    type X509 = X509CertBackend;
    type SigEncoder = DerSigEncoder;
    type Crypto = AwsLc;
}

/// The AWS-LC provider.
pub(crate) struct AwsLc;

impl CryptoProvider for AwsLc {
    fn sig_algo() -> &'static dyn SignatureVerificationAlgorithm {
        &EcdsaP256
    }

    fn sha256(data: &[u8]) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, data).as_ref());
        hash
    }

    fn sha384(data: &[u8]) -> [u8; 48] {
        let mut hash = [0; 48];
        hash.copy_from_slice(digest(&SHA384, data).as_ref());
        hash
    }
}

/// ECDSA on P-256 with SHA-256, the only signature algorithm of DCAP.
///
/// Validity depends on key, message and signature alone, so a valid signature stays valid: it is cached by a
/// SHA-256 over all three. Failures are never cached.
#[derive(Debug)]
struct EcdsaP256;

static REMEMBERED: LazyLock<Cache<[u8; 32], ()>> = LazyLock::new(|| Cache::new(MAX_REMEMBERED));

impl SignatureVerificationAlgorithm for EcdsaP256 {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let key = cache_key(public_key, message, signature);
        if REMEMBERED.get(&key).is_some() {
            return Ok(());
        }
        verify(public_key, message, signature)?;
        REMEMBERED.insert(key, ());
        Ok(())
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P256
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA256
    }
}

fn verify(public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
    // AWS-LC also accepts compressed points. Intel's certificates have none, and the library's own provider
    // refuses them.
    if public_key.first() != Some(&UNCOMPRESSED) {
        return Err(InvalidSignature);
    }
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public_key)
        .verify(message, signature)
        .map_err(|_| InvalidSignature)
}

/// The cache key: SHA-256 over the three, each preceded by its length, so that different inputs never hash
/// the same bytes.
fn cache_key(public_key: &[u8], message: &[u8], signature: &[u8]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in [public_key, message, signature] {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use dcap_qvl::crypto::RingCrypto;

    use super::*;
    use crate::p256::P256Key;

    #[test]
    fn only_valid_signatures_are_cached() {
        let (key, other) = (P256Key::generate(), P256Key::generate());
        let (message, algorithm) = (b"a message", AwsLc::sig_algo());
        let (public_key, signature) = (key.public_point(), key.sign_der(message));
        let is_remembered =
            |message: &[u8]| REMEMBERED.get(&cache_key(public_key, message, &signature)).is_some();
        assert!(algorithm.verify_signature(public_key, b"a massage", &signature).is_err());
        assert!(!is_remembered(b"a massage"));
        assert!(!is_remembered(message));
        for _ in 0..2 {
            assert!(algorithm.verify_signature(public_key, message, &signature).is_ok());
            assert!(is_remembered(message));
            // Cached are this key, this message and this signature, and no other.
            assert!(algorithm.verify_signature(other.public_point(), message, &signature).is_err());
            assert!(algorithm.verify_signature(public_key, b"a message ", &signature).is_err());
            for bit in 0..signature.len() * 8 {
                let mut altered = signature.clone();
                altered[bit / 8] ^= 1 << (bit % 8);
                assert!(algorithm.verify_signature(public_key, message, &altered).is_err(), "bit {bit}");
            }
            // The same bytes, split at another place.
            let (head, tail) = signature.split_at(1);
            let moved = [&message[..], head].concat();
            assert!(algorithm.verify_signature(public_key, &moved, tail).is_err());
        }
    }

    /// Keys and signatures in forms that one provider might accept and the other refuse.
    #[test]
    fn it_gives_the_results_of_the_librarys_own_provider() {
        let key = P256Key::generate();
        let message = b"a message";
        let (point, signature) = (key.public_point(), key.sign_der(message));
        let compressed = [&[2 | (point[64] & 1)][..], &point[1..33]].concat();
        let hybrid = [&[6 | (point[64] & 1)][..], &point[1..]].concat();
        let longer = [&point[..], &[0]].concat();
        let mut off_the_curve = point.to_vec();
        off_the_curve[64] ^= 1;
        let keys: [(&str, &[u8], bool); 8] = [
            ("right", point, true),
            ("compressed", &compressed, false),
            ("hybrid", &hybrid, false),
            ("longer", &longer, false),
            ("shorter", &point[..64], false),
            ("not on the curve", &off_the_curve, false),
            ("the point at infinity", &[0], false),
            ("none", &[], false),
        ];
        for (name, key, is_right) in keys {
            for algorithm in [AwsLc::sig_algo(), RingCrypto::sig_algo()] {
                let result = algorithm.verify_signature(key, message, &signature);
                assert_eq!(result.is_ok(), is_right, "{name}: {algorithm:?}");
            }
        }
        let integer = |value: &[u8]| [&[2, value.len() as u8][..], value].concat();
        let sequence = |parts: &[&[u8]]| {
            let body = parts.concat();
            [&[0x30, body.len() as u8][..], &body].concat()
        };
        let r_length = usize::from(signature[3]);
        let (r, s) = (signature[4..4 + r_length].to_vec(), signature[6 + r_length..].to_vec());
        let (r_der, s_der) = (integer(&r), integer(&s));
        let padded = |value: &[u8]| integer(&[&[0, 0][..], value].concat());
        let long_form = [&[0x30, 0x81, signature[1]][..], &signature[2..]].concat();
        let signatures: [(&str, Vec<u8>, bool); 11] = [
            ("right", sequence(&[&r_der, &s_der]), true),
            ("r padded", sequence(&[&padded(&r), &s_der]), false),
            ("s padded", sequence(&[&r_der, &padded(&s)]), false),
            ("length in its long form", long_form, false),
            ("a third number", sequence(&[&r_der, &s_der, &integer(&[1])]), false),
            ("a byte after it", [&signature[..], &[0]].concat(), false),
            ("r is 0", sequence(&[&integer(&[0]), &s_der]), false),
            ("s is 0", sequence(&[&r_der, &integer(&[0])]), false),
            ("r is negative", sequence(&[&integer(&[0xff]), &s_der]), false),
            ("r and s exchanged", sequence(&[&s_der, &r_der]), false),
            ("none", Vec::new(), false),
        ];
        for (name, signature, is_right) in signatures {
            for algorithm in [AwsLc::sig_algo(), RingCrypto::sig_algo()] {
                let result = algorithm.verify_signature(point, message, &signature);
                assert_eq!(result.is_ok(), is_right, "{name}: {algorithm:?}");
            }
        }
        for data in [&b""[..], b"abc", &[7; 1000]] {
            assert_eq!(AwsLc::sha256(data), RingCrypto::sha256(data));
            assert_eq!(AwsLc::sha384(data), RingCrypto::sha384(data));
        }
    }
}
