//! What a recovery set seals: the root keys as bytes, and back.

use kms_attest::p256::P256Key;
use zeroize::Zeroizing;

use super::{K256Key, RootKeys};

/// The only form.
const FORM: &[u8; 8] = b"cvmkms-0";

/// Why bytes are no root keys.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// Another length, or another form.
    #[error("the material is not that of root keys that this version knows")]
    Form,
    /// A key is invalid.
    #[error("the material has an invalid {0} key")]
    Key(&'static str),
}

/// `form (8) ‖ root CA scalar (32) ‖ temporary CA scalar (32) ‖ secp256k1 scalar (32)`
pub fn export(root: &RootKeys) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(FORM.len() + 96));
    bytes.extend_from_slice(FORM);
    for scalar in [root.ca().scalar(), root.temp_ca().scalar(), root.k256().scalar()] {
        bytes.extend_from_slice(scalar);
    }
    bytes
}

/// The inverse.
///
/// # Errors
/// [`MaterialError`]
pub fn import(bytes: &[u8]) -> Result<RootKeys, MaterialError> {
    let (scalars, rest) = bytes.strip_prefix(FORM).ok_or(MaterialError::Form)?.as_chunks::<32>();
    let ([ca, temp_ca, k256], []) = (scalars, rest) else { return Err(MaterialError::Form) };
    let p256 = |scalar, name| P256Key::from_scalar(scalar).map_err(|_| MaterialError::Key(name));
    let k256 = K256Key::from_scalar(k256).map_err(|_| MaterialError::Key("secp256k1"))?;
    Ok(RootKeys::from_parts(p256(ca, "root CA")?, p256(temp_ca, "temporary CA")?, k256))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_exported_is_imported_and_nothing_else_is() {
        let root = RootKeys::generate();
        let bytes = export(&root);
        let back = import(&bytes).expect("its own export");
        assert_eq!((back.ca_spki(), back.k256_public()), (root.ca_spki(), root.k256_public()));
        assert_eq!(back.temp_ca().spki_der(), root.temp_ca().spki_der());
        for length in 0..bytes.len() {
            assert!(import(&bytes[..length]).is_err(), "{length} bytes");
        }
        assert!(import(&[&bytes[..], &[0]].concat()).is_err(), "one byte more");
        assert!(import(&[&bytes[..8], &[0; 96]].concat()).is_err(), "keys of zeros");
    }
}
