//! P-256 keys and signatures that depend only on a seed and a label.

use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use sha2::{Digest, Sha256};

const DOMAIN: &[u8] = b"dstack-mock-p256-v1";

/// A simulated key. It is not secret, because anyone with the seed can derive it.
pub struct SimulatedKey {
    signing: SigningKey,
    point: [u8; 65],
}

impl SimulatedKey {
    /// scalar = SHA-256(`"dstack-mock-p256-v1"` ‖ seed ‖ label ‖ u32be counter), counter raised until valid
    /// (the development PKI of attestation.md section 20).
    pub fn derive(seed: &[u8], label: &str) -> Self {
        let mut counter = 0u32;
        loop {
            let scalar = Sha256::new()
                .chain_update(DOMAIN)
                .chain_update(seed)
                .chain_update(label)
                .chain_update(counter.to_be_bytes())
                .finalize();
            if let Ok(signing) = SigningKey::from_slice(&scalar) {
                let encoded = signing.verifying_key().to_sec1_point(false);
                let mut point = [0u8; 65];
                point.copy_from_slice(encoded.as_bytes());
                return Self { signing, point };
            }
            counter += 1;
        }
    }

    /// Uncompressed point, `04 ‖ X ‖ Y`.
    pub fn public_point(&self) -> &[u8; 65] {
        &self.point
    }

    /// ECDSA over SHA-256 with an RFC 6979 nonce, as `r ‖ s`.
    pub fn sign_raw(&self, message: &[u8]) -> [u8; 64] {
        let signature: Signature = self.signing.sign(message);
        signature.to_bytes().into()
    }
}

impl rcgen::PublicKeyData for SimulatedKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for SimulatedKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature: Signature = self.signing.sign(message);
        Ok(signature.to_der().as_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_the_same_every_time() {
        let key = SimulatedKey::derive(b"seed", "label");
        assert_eq!(key.sign_raw(b"message"), SimulatedKey::derive(b"seed", "label").sign_raw(b"message"));
        assert_ne!(key.public_point(), SimulatedKey::derive(b"seed", "other").public_point());
        assert_ne!(key.public_point(), SimulatedKey::derive(b"other", "label").public_point());
    }
}
