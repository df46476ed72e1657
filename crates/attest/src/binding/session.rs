//! Report data that bind evidence to one TLS session and one call: they prove that it was made for this call, now.

use sha2::{Digest as _, Sha256, Sha512};

use super::ReportData;

/// The first part of what is hashed. No other report data begin like this: those of tags begin with letters, and these with
/// a length.
pub const SESSION: &str = "cvm-kms-session-v1";

/// Length of a challenge, bytes.
pub const CHALLENGE_BYTES: usize = 32;

/// The session and the call that evidence is made for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Session<'a> {
    /// The challenge that the server gave on this connection.
    pub challenge: &'a [u8; CHALLENGE_BYTES],
    /// SHA-256 of the SubjectPublicKeyInfo of the client: of its TLS certificate, or of its certificate request.
    pub client_spki_sha256: &'a [u8; 32],
    /// SHA-256 of the SubjectPublicKeyInfo of the server's TLS certificate.
    pub server_spki_sha256: &'a [u8; 32],
    /// The channel binding `tls-exporter` of RFC 9266, of TLS 1.3.
    pub exporter: &'a [u8; 32],
    /// Service and method: `KMS.GetAppKey`.
    pub method: &'a str,
}

impl Session<'_> {
    /// `SHA-512(part ‖ part ‖ …)`, where a part is its length (4 bytes, big-endian) and its bytes, so that two different
    /// sessions never hash the same bytes. The parts: [`SESSION`], the challenge, the client's digest, the server's digest,
    /// the exporter, the method.
    pub fn report_data(&self) -> ReportData {
        let Self { challenge, client_spki_sha256, server_spki_sha256, exporter, method } = self;
        let parts: [&[u8]; 6] = [
            SESSION.as_bytes(),
            *challenge,
            *client_spki_sha256,
            *server_spki_sha256,
            *exporter,
            method.as_bytes(),
        ];
        let mut hash = Sha512::new();
        for part in parts {
            let length = u32::try_from(part.len()).expect("the name of a method is short");
            hash.update(length.to_be_bytes());
            hash.update(part);
        }
        ReportData(hash.finalize().into())
    }
}

/// SHA-256 of a SubjectPublicKeyInfo (DER), as [`Session`] has it.
pub fn spki_sha256(spki: &[u8]) -> [u8; 32] {
    Sha256::digest(spki).into()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const EXAMPLE: Session<'_> = Session {
        challenge: &[1; 32],
        client_spki_sha256: &[2; 32],
        server_spki_sha256: &[3; 32],
        exporter: &[4; 32],
        method: "KMS.GetAppKey",
    };

    /// Made with Python:
    /// ```python
    /// parts = [b"cvm-kms-session-v1", bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32, bytes([4]) * 32, b"KMS.GetAppKey"]
    /// hashlib.sha512(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).hexdigest()
    /// ```
    #[test]
    fn the_report_data_are_those_that_python_computes() {
        assert_eq!(
            EXAMPLE.report_data().to_string(),
            "ddc38fd9e3f0af8405c8d0606fab8bf74c671662ebcb44bafbc00845a5b52554dba1996436bcdac1bbe22a2f3b1543ae377dc535ae0a0732806049141e4ffc5a"
        );
        assert_eq!(
            hex::encode(spki_sha256(b"key")),
            "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683"
        );
    }

    #[test]
    fn each_part_counts_and_none_can_pass_as_another() {
        let other = [9; 32];
        let sessions = [
            EXAMPLE,
            Session { challenge: &other, ..EXAMPLE },
            Session { client_spki_sha256: &other, ..EXAMPLE },
            Session { server_spki_sha256: &other, ..EXAMPLE },
            Session { exporter: &other, ..EXAMPLE },
            Session { method: "KMS.SignCert", ..EXAMPLE },
            Session { method: "Admin.GetAppKey", ..EXAMPLE },
            Session { method: "", ..EXAMPLE },
            // Two parts changed places.
            Session { client_spki_sha256: &[3; 32], server_spki_sha256: &[2; 32], ..EXAMPLE },
        ];
        let distinct: HashSet<[u8; 64]> = sessions.iter().map(|session| session.report_data().0).collect();
        assert_eq!(distinct.len(), sessions.len());
    }
}
