//! Proof of a KMS for relying parties: its responses, checked step by step against pinned values.
//!
//! | Module | Purpose |
//! |---|---|
//! | [`answers`] | everything that a proof needs, saved so that it can be repeated without the KMS |
//! | [`gather`] | requests it |
//! | [`pins`] | the expected values |
//! | [`examine`] | the verdict: a pure function of answers, pins, roots and a time |
//! | [`attestation`] | the same of one document, `/attestation.json`, which a KMS makes about itself |
//!
//! A KMS's statements about itself are never compared with a pin, only what a quote proves.

pub mod answers;
pub mod attestation;
mod examine;
mod gather;
pub mod pins;
mod quote;
pub mod release;
mod statements;

use serde::Serialize;

pub use answers::{Answers, BundleError};
pub use examine::examine;
pub use gather::gather;
pub use pins::{Identity, Pins, PinsError, ReleasedKeys};

/// The checks in order, with their outcomes.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The KMS.
    pub url: String,
    /// When the responses were collected, Unix seconds.
    pub taken_at: u64,
    /// The time of the verdict, Unix seconds.
    pub judged_at: u64,
    /// The checks.
    pub steps: Vec<Step>,
    /// What the verified quote says; empty while none is verified.
    pub quoted: Option<Quoted>,
    /// SHA-256 of the root CA's public key (SubjectPublicKeyInfo DER), hex.
    pub root_spki_sha256: Option<String>,
    /// Public key of the root CA (SubjectPublicKeyInfo DER), hex: the key provider id.
    pub root_spki: Option<String>,
    /// The secp256k1 root key, hex.
    pub k256_pubkey: Option<String>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Which check.
    pub step: Check,
    /// Its outcome.
    pub outcome: Outcome,
    /// Details in words.
    pub detail: String,
}

/// The checks, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The server showed a certificate and holds its key.
    Certificate,
    /// All responses have the same root CA.
    Root,
    /// The certificate is issued by that root for this host, and is valid.
    Chain,
    /// The certificate is that of a KMS.
    Usage,
    /// It contains evidence.
    QuotePresent,
    /// The quote is signed under the hardware vendor's root.
    QuoteGenuine,
    /// The platform's TCB status is accepted.
    Tcb,
    /// The advisories that apply are accepted.
    Advisories,
    /// The TD cannot be debugged.
    NotDebug,
    /// The quote is bound to the key of this certificate.
    KeyBound,
    /// The event log matches the measured registers.
    EventLog,
    /// The measurements are in the allowlist.
    Measurements,
    /// The root is the pinned one.
    RootPin,
    /// The secp256k1 root key was attested where it was made, or is pinned.
    K256Attested,
    /// That key signs keys for apps.
    AppKeyChain,
    /// The app's own keys are from this KMS.
    ReleasedKeys,
    /// The k256 key vouches for the key of this node's log. Not listed for a KMS that shows no such key.
    LogKey,
}

impl Check {
    /// A title for display.
    pub fn title(self) -> &'static str {
        match self {
            Self::Certificate => "TLS certificate obtained",
            Self::Root => "one root CA in all answers",
            Self::Chain => "certificate chains to the root",
            Self::Usage => "certificate is of a KMS",
            Self::QuotePresent => "quote present",
            Self::QuoteGenuine => "quote genuine",
            Self::Tcb => "TCB status accepted",
            Self::Advisories => "advisories accepted",
            Self::NotDebug => "TD not in debug mode",
            Self::KeyBound => "quote bound to this certificate",
            Self::EventLog => "event log as measured",
            Self::Measurements => "measurements allowed",
            Self::RootPin => "root CA pinned",
            Self::K256Attested => "k256 key attested",
            Self::AppKeyChain => "app keys signed by the k256 key",
            Self::ReleasedKeys => "released keys of this KMS",
            Self::LogKey => "log key signed by the k256 key",
        }
    }
}

/// The outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It does not.
    Failed,
    /// It could not be made, because a response is missing.
    Unavailable,
    /// Nothing is pinned, or an earlier check failed.
    NotChecked,
}

/// The verdict of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every check was made and holds.
    Proven,
    /// Nothing failed, but this was not checked because nothing was pinned. The caller decides whether that
    /// suffices.
    Incomplete(Check),
    /// This failed.
    Refuted(Check),
    /// Nothing failed, but this could not be checked.
    Unknown(Check),
}

/// What a verified quote says, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Quoted {
    pub tcb_status: String,
    pub advisory_ids: Vec<String>,
    pub fmspc: String,
    pub device_id: String,
    pub mr_aggregated: Option<String>,
    pub mr_system: Option<String>,
    pub compose_hash: Option<String>,
    pub app_id: Option<String>,
    /// Only claimed by the VM's configuration, unless `os_image_proven`.
    pub os_image_hash: Option<String>,
    pub os_image_proven: bool,
}

impl Report {
    /// The verdict: the first failure, or else the first missing response, or else the first gap.
    pub fn verdict(&self) -> Verdict {
        let first = |outcome| self.steps.iter().find(|step| step.outcome == outcome).map(|step| step.step);
        let failed = first(Outcome::Failed).map(Verdict::Refuted);
        failed
            .or_else(|| first(Outcome::Unavailable).map(Verdict::Unknown))
            .or_else(|| first(Outcome::NotChecked).map(Verdict::Incomplete))
            .unwrap_or(Verdict::Proven)
    }
}

#[cfg(test)]
mod tests;
