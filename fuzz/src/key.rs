//! Private keys in key files, and from another KMS.

use cvm_kms::keys::K256Key;
use kms_attest::p256::P256Key;

/// Uses the bytes as PEM, as DER and as a raw scalar: a key that parses is the same after it is written
/// again.
pub fn key_pem(data: &[u8]) {
    let pem = std::str::from_utf8(data).ok().and_then(|text| P256Key::from_pem(text).ok());
    let der = P256Key::from_pkcs8_der(data).ok();
    let scalar = data.first_chunk().and_then(|scalar| P256Key::from_scalar(scalar).ok());
    for key in [pem, der, scalar].into_iter().flatten() {
        for read in [P256Key::from_pem(&key.pem()), P256Key::from_pkcs8_der(&key.pkcs8_der()[..])] {
            let read = read.expect("our own encoding reads");
            assert!(read.scalar() == key.scalar() && read.public_point() == key.public_point());
        }
    }
    if let Ok(key) = K256Key::from_bytes(data) {
        assert!(key.scalar() == data, "a raw key is its scalar");
    }
}
