//! The document itself: its parts, read strictly, none of them verified.

use kms_attest::json::duplicate_keys;
use serde::Deserialize;
use serde_json::Value;

use super::error::Refusal;
use super::statement::{Hex, Statement, decode};

/// The largest document that is read.
pub const MAX_BYTES: usize = 1 << 20;

const VERSION: u64 = 1;

/// A document; nothing in it is verified.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The statement, exactly as it was sent.
    pub statement: String,
    /// The quote.
    pub quote: Vec<u8>,
    /// The event log, JSON.
    pub event_log: String,
    /// The configuration of the VM, JSON; may be empty.
    pub vm_config: String,
    /// The collateral for the quote.
    pub collateral: Option<Value>,
    /// The signature of the root CA key.
    pub root: Option<RootSignature>,
}

/// A signature of the root CA key over the quote and the statement.
#[derive(Clone, Debug, Deserialize)]
pub struct RootSignature {
    /// The key's SubjectPublicKeyInfo, DER.
    pub ca_spki: Hex<91>,
    /// ECDSA with SHA-256, `r ‖ s`.
    pub signature: Hex<64>,
}

#[derive(Deserialize)]
struct Fields {
    statement: String,
    quote: String,
    event_log: String,
    vm_config: String,
    #[serde(default)]
    collateral: Option<Value>,
    #[serde(default)]
    root: Option<RootSignature>,
}

#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

impl Answer {
    /// Reads a document.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`], [`Refusal::Malformed`], [`Refusal::DuplicateKey`], [`Refusal::UnknownVersion`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > MAX_BYTES {
            return Err(Refusal::TooLarge);
        }
        let text =
            std::str::from_utf8(bytes).map_err(|_| Refusal::Malformed("it is not UTF-8".to_owned()))?;
        let Fields { statement, quote, event_log, vm_config, collateral, root } = read(text, "")?;
        let quote =
            decode(&quote).ok_or_else(|| Refusal::Malformed("quote is not hexadecimal".to_owned()))?;
        Ok(Self { statement, quote, event_log, vm_config, collateral, root })
    }

    /// Reads the statement, which only a verified quote makes one of the KMS.
    pub(super) fn read_statement(&self) -> Result<Statement, Refusal> {
        read(&self.statement, "statement: ")
    }
}

/// An object of version 1. Other keys than those of `T` are skipped, and none may be there twice.
fn read<T: for<'de> Deserialize<'de>>(text: &str, place: &str) -> Result<T, Refusal> {
    let malformed = |error: serde_json::Error| Refusal::Malformed(format!("{place}{error}"));
    if !text.trim_ascii_start().starts_with('{') {
        return Err(Refusal::Malformed(format!("{place}not a JSON object")));
    }
    // Whole, so that what follows is about JSON.
    let _: Value = serde_json::from_str(text).map_err(malformed)?;
    if let Some(key) = duplicate_keys(text.as_bytes()).first() {
        return Err(Refusal::DuplicateKey(format!("{place}{}", crate::text::printable(key))));
    }
    let Versioned { version } = serde_json::from_str(text).map_err(malformed)?;
    if version != VERSION {
        return Err(Refusal::UnknownVersion(version));
    }
    serde_json::from_str(text).map_err(malformed)
}
