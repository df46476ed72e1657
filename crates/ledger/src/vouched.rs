//! The key of a log and the statement that certifies it, in the files beside the log.

use std::fmt;

use crate::key::VerifyingKey;

/// The verifier key of a log, and the root secp256k1 key's signature over it. Who trusts the root key can
/// trust the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VouchedKey {
    /// The key.
    pub key: VerifyingKey,
    /// `r ‖ s ‖ v` over Keccak-256 of `cvm-kms-log-key-v1:` and the key's text.
    pub vouching: [u8; 65],
}

impl VouchedKey {
    /// Reads exactly what [`fmt::Display`] writes.
    pub fn parse(file: &[u8]) -> Option<Self> {
        let (key, vouching) = std::str::from_utf8(file).ok()?.strip_suffix('\n')?.split_once('\n')?;
        let mut signature = [0; 65];
        hex::decode_to_slice(vouching, &mut signature).ok()?;
        let parsed = Self { key: key.parse().ok()?, vouching: signature };
        (parsed.to_string().as_bytes() == file).then_some(parsed)
    }
}

/// The key and the signature in hex, each on a line.
impl fmt::Display for VouchedKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}\n{}", self.key, hex::encode(self.vouching))
    }
}
