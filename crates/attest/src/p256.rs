//! P-256 private keys in the exact encodings that the protocol hashes, stores and sends.

use std::fmt;
use std::sync::OnceLock;

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::encoding::AsBigEndian;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::asn1_rs::{Any, FromDer};
use zeroize::Zeroizing;

use crate::pem;

/// The bytes of [`P256Key::pkcs8_der`] before the scalar: PKCS#8 version 0, id-ecPublicKey with prime256v1,
/// and an `ECPrivateKey` without its own curve parameters.
const PKCS8_BEFORE_SCALAR: [u8; 36] = [
    0x30, 0x81, 0x87, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
    0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x6d, 0x30, 0x6b, 0x02, 0x01, 0x01,
    0x04, 0x20,
];
/// The bytes between the scalar and the public point.
const PKCS8_BEFORE_POINT: [u8; 5] = [0xa1, 0x44, 0x03, 0x42, 0x00];
/// The bytes of a SubjectPublicKeyInfo before the public point.
const SPKI_BEFORE_POINT: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Length of [`P256Key::pkcs8_der`].
pub const PKCS8_LENGTH: usize = 138;
/// Length of a SubjectPublicKeyInfo with an uncompressed point.
pub const SPKI_LENGTH: usize = 91;
/// Maximum length of a key file, bytes.
const MAX_PEM: usize = 64 * 1024;

/// Why bytes are not a P-256 private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The scalar is zero or not below the group order.
    #[error("scalar is not in the range of a P-256 private key")]
    ScalarOutOfRange,
    /// Neither PKCS#8 nor SEC1, or another curve, or the public key in it belongs to another private key.
    #[error("not a P-256 private key in PKCS#8 or SEC1 form")]
    Encoding,
    /// No `PRIVATE KEY` or `EC PRIVATE KEY` block, or its content is not base64.
    #[error("no private key in the PEM text")]
    Pem,
}

/// A P-256 private key.
///
/// It is not `Clone`, `Debug` prints only its public key, and it is zeroized on drop. Only
/// [`scalar`](Self::scalar), [`pkcs8_der`](Self::pkcs8_der) and [`pem`](Self::pem) expose the secret.
pub struct P256Key {
    scalar: Zeroizing<[u8; 32]>,
    point: [u8; 65],
    /// Created by the first signature: most derived keys are only hashed.
    signer: OnceLock<EcdsaKeyPair>,
}

impl P256Key {
    /// Generates a random key.
    pub fn generate() -> Self {
        loop {
            let mut scalar = Zeroizing::new([0; 32]);
            aws_lc_rs::rand::fill(&mut scalar[..]).expect("the system has randomness");
            if let Ok(key) = P256Key::from_scalar(&scalar) {
                return key;
            }
        }
    }

    /// The key with this big-endian scalar. Zero and values from the group order upwards are refused, not
    /// reduced.
    pub fn from_scalar(scalar: &[u8; 32]) -> Result<Self, KeyError> {
        let public = PrivateKey::from_private_key(&ECDH_P256, scalar)
            .map_err(|_| KeyError::ScalarOutOfRange)?
            .compute_public_key()
            .map_err(|_| KeyError::ScalarOutOfRange)?;
        let point = public.as_ref().try_into().map_err(|_| KeyError::ScalarOutOfRange)?;
        Ok(P256Key { scalar: Zeroizing::new(*scalar), point, signer: OnceLock::new() })
    }

    /// Parses PKCS#8 (with or without public key and inner curve parameters) or SEC1 DER.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, KeyError> {
        let (rest, _) = Any::from_der(der).map_err(|_| KeyError::Encoding)?;
        if !rest.is_empty() {
            return Err(KeyError::Encoding);
        }
        let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, der)
            .map_err(|_| KeyError::Encoding)?;
        let secret = pair.private_key().as_be_bytes().map_err(|_| KeyError::Encoding)?;
        let scalar: &[u8; 32] = secret.as_ref().try_into().map_err(|_| KeyError::Encoding)?;
        P256Key::from_scalar(scalar)
    }

    /// Parses the private key in a PEM text. LF or CRLF, and text around the block, are accepted.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        if text.len() > MAX_PEM {
            return Err(KeyError::Pem);
        }
        let block = pem::read(text, "PRIVATE KEY").or_else(|| pem::read(text, "EC PRIVATE KEY"));
        P256Key::from_pkcs8_der(&block.flatten().ok_or(KeyError::Pem)?)
    }

    /// The secret scalar, big-endian: the input of key derivation.
    pub fn scalar(&self) -> &[u8; 32] {
        &self.scalar
    }

    /// PKCS#8 version 0 with the public key and without inner curve parameters: the only form that is written
    /// or hashed.
    pub fn pkcs8_der(&self) -> Zeroizing<[u8; PKCS8_LENGTH]> {
        let mut der = Zeroizing::new([0; PKCS8_LENGTH]);
        der[..36].copy_from_slice(&PKCS8_BEFORE_SCALAR);
        der[36..68].copy_from_slice(&self.scalar[..]);
        der[68..73].copy_from_slice(&PKCS8_BEFORE_POINT);
        der[73..].copy_from_slice(&self.point);
        der
    }

    /// [`pkcs8_der`](Self::pkcs8_der) in PEM with LF line ends and a final LF.
    pub fn pem(&self) -> Zeroizing<String> {
        let mut base64 = Zeroizing::new([0; PKCS8_LENGTH.div_ceil(3) * 4]);
        let length =
            STANDARD.encode_slice(&self.pkcs8_der()[..], &mut base64[..]).expect("the buffer has the size");
        Zeroizing::new(pem::write("PRIVATE KEY", &base64[..length]))
    }

    /// The public point, uncompressed: `04 ‖ X ‖ Y`.
    pub fn public_point(&self) -> &[u8; 65] {
        &self.point
    }

    /// The public key as SubjectPublicKeyInfo DER.
    pub fn spki_der(&self) -> [u8; SPKI_LENGTH] {
        let mut der = [0; SPKI_LENGTH];
        der[..26].copy_from_slice(&SPKI_BEFORE_POINT);
        der[26..].copy_from_slice(&self.point);
        der
    }

    /// An ECDSA signature of SHA-256(`message`), ASN.1 DER, with a random nonce.
    pub fn sign_der(&self, message: &[u8]) -> Vec<u8> {
        let signer = self.signer.get_or_init(|| {
            EcdsaKeyPair::from_private_key_and_public_key(
                &ECDSA_P256_SHA256_ASN1_SIGNING,
                &self.scalar[..],
                &self.point,
            )
            .expect("from_scalar made the point from this scalar")
        });
        signer.sign(&SystemRandom::new(), message).expect("a valid key signs").as_ref().to_vec()
    }

    /// An ECDSA signature of SHA-256(`message`), `r ‖ s`, with a random nonce: the form that browsers verify.
    pub fn sign_fixed(&self, message: &[u8]) -> [u8; 64] {
        let signer = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &self.scalar[..],
            &self.point,
        )
        .expect("from_scalar made the point from this scalar");
        let signature = signer.sign(&SystemRandom::new(), message).expect("a valid key signs");
        signature.as_ref().try_into().expect("two numbers of 32 bytes")
    }
}

/// Prints the public key only.
impl fmt::Debug for P256Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "P256Key({})", hex::encode(self.point))
    }
}

impl rcgen::PublicKeyData for P256Key {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for P256Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.sign_der(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_vectors;

    const ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";

    fn bytes(hex: &str) -> Vec<u8> {
        hex::decode(hex).expect("hex")
    }

    fn key(scalar: &str) -> Result<P256Key, KeyError> {
        P256Key::from_scalar(&bytes(scalar).try_into().expect("32 bytes"))
    }

    fn root() -> P256Key {
        key(test_vectors::json("keys.json")["root_ca"]["scalar"].as_str().unwrap()).unwrap()
    }

    /// DER of a constructed value.
    fn wrap(tag: u8, content: &[&[u8]]) -> Vec<u8> {
        let content = content.concat();
        let length = u8::try_from(content.len()).expect("short");
        let header = if length < 128 { vec![tag, length] } else { vec![tag, 0x81, length] };
        [header, content].concat()
    }

    fn pkcs8(ec_private_key: &[u8]) -> Vec<u8> {
        let algorithm = &PKCS8_BEFORE_SCALAR[6..27];
        wrap(0x30, &[&[2, 1, 0], algorithm, &wrap(4, &[ec_private_key])])
    }

    fn ec_private_key(key: &P256Key, curve: bool, point: Option<&[u8; 65]>) -> Vec<u8> {
        let curve_oid = &PKCS8_BEFORE_SCALAR[17..27];
        let curve = if curve { wrap(0xa0, &[curve_oid]) } else { Vec::new() };
        let point = point.map_or(Vec::new(), |point| wrap(0xa1, &[&wrap(3, &[&[0], point])]));
        wrap(0x30, &[&[2, 1, 1, 4, 32], key.scalar(), &curve, &point])
    }

    #[test]
    fn every_form_of_a_private_key_is_read_as_the_same_key() {
        let root = root();
        let point = Some(root.public_point());
        let forms = [
            ("the peer's", root.pkcs8_der().to_vec()),
            ("pkcs8 without public key", pkcs8(&ec_private_key(&root, false, None))),
            ("pkcs8 with curve and public key", pkcs8(&ec_private_key(&root, true, point))),
            ("pkcs8 with curve only", pkcs8(&ec_private_key(&root, true, None))),
            ("sec1", ec_private_key(&root, true, point)),
            ("sec1 without public key", ec_private_key(&root, true, None)),
        ];
        for (form, der) in forms {
            let read = P256Key::from_pkcs8_der(&der).expect(form);
            assert_eq!(read.scalar(), root.scalar(), "{form}");
            assert_eq!(read.public_point(), root.public_point(), "{form}");
        }
    }

    #[test]
    fn pem_is_read_with_any_line_ends_and_text_around_it() {
        let root = root();
        let pem = root.pem();
        let sec1 = STANDARD.encode(ec_private_key(&root, true, Some(root.public_point())));
        let forms = [
            pem.to_string(),
            pem.replace('\n', "\r\n"),
            format!("Bag Attributes\n  name: x\n{}trailing words\n", *pem),
            format!("-----BEGIN EC PRIVATE KEY-----\n{sec1}\n-----END EC PRIVATE KEY-----\n"),
            format!(
                "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n\
                 -----BEGIN EC PRIVATE KEY-----\n{sec1}\n-----END EC PRIVATE KEY-----"
            ),
        ];
        for form in forms {
            assert_eq!(P256Key::from_pem(&form).expect(&form).scalar(), root.scalar());
        }
    }

    #[test]
    fn what_is_not_a_p256_private_key_is_refused() {
        let root = root();
        let other = P256Key::generate();
        let mut p384 = root.pkcs8_der().to_vec();
        p384[26] = 0x22;
        let with_tail = [&root.pkcs8_der()[..], &[0]].concat();
        let mut cases = vec![
            ("empty", Vec::new()),
            ("truncated", root.pkcs8_der()[..137].to_vec()),
            ("followed by a byte", with_tail),
            ("another curve", p384),
            ("public key of another key", ec_private_key(&root, true, Some(other.public_point()))),
            ("public key", root.spki_der().to_vec()),
        ];
        for scalar in ["00".repeat(32), ORDER.to_owned(), "ff".repeat(32)] {
            let mut der = root.pkcs8_der().to_vec();
            der[36..68].copy_from_slice(&bytes(&scalar));
            cases.push(("scalar out of range", der));
        }
        for (case, der) in cases {
            assert_eq!(P256Key::from_pkcs8_der(&der).err(), Some(KeyError::Encoding), "{case}");
        }
        let body = root.pem();
        let texts = [
            String::new(),
            "-----BEGIN PRIVATE KEY-----".to_owned(),
            body.replace("END PRIVATE", "END PUBLIC"),
            body.replace('M', "*"),
            format!("{}{}", *body, " ".repeat(MAX_PEM)),
        ];
        for text in texts {
            assert_eq!(P256Key::from_pem(&text).err(), Some(KeyError::Pem));
        }
    }

    #[test]
    fn scalars_outside_the_group_are_refused_and_never_reduced() {
        let above = ORDER.replace("2551", "2552");
        for scalar in [&"00".repeat(32), ORDER, &above, &"ff".repeat(32)] {
            assert_eq!(key(scalar).err(), Some(KeyError::ScalarOutOfRange), "{scalar}");
        }
        let below = ORDER.replace("2551", "2550");
        for scalar in [&format!("{}01", "00".repeat(31)), &below] {
            assert!(key(scalar).is_ok(), "{scalar}");
        }
    }

    #[test]
    fn signatures_verify_under_the_public_point() {
        use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
        let key = P256Key::generate();
        let signature = key.sign_der(b"message");
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_point());
        assert!(public.verify(b"message", &signature).is_ok());
        assert!(public.verify(b"another", &signature).is_err());
    }

    #[test]
    fn printing_shows_the_public_key_only() {
        let root = root();
        let shown = format!("{root:?}");
        assert!(shown.contains(&hex::encode(root.public_point())));
        assert!(!shown.contains(&hex::encode(root.scalar())));
    }

    #[test]
    fn generated_keys_differ_and_survive_their_own_encoding() {
        let key = P256Key::generate();
        assert_ne!(key.scalar(), P256Key::generate().scalar());
        assert_eq!(P256Key::from_pem(&key.pem()).unwrap().scalar(), key.scalar());
    }
}
