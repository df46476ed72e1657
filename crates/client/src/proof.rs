//! Proof of a KMS for those who rely on it: what it answers, step by step against what was pinned.
//!
//! | Module | Idea |
//! |---|---|
//! | [`answers`] | everything that a proof needs, kept so that it can be repeated without the KMS |
//! | [`gather`] | asking for it |
//! | [`pins`] | what the KMS must be |
//! | [`examine`] | the judgement: pure, of answers, pins, roots and a time |
//!
//! Nothing that a KMS says about itself is compared with anything: only what a quote vouches for.

pub mod answers;
mod examine;
mod gather;
pub mod pins;
mod quote;
mod statements;

use serde::Serialize;

pub use answers::{Answers, BundleError};
pub use examine::examine;
pub use gather::gather;
pub use pins::{Identity, Pins, PinsError, ReleasedKeys};

/// What was checked, in order, and what came out.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The KMS.
    pub url: String,
    /// When its answers were taken, Unix seconds.
    pub taken_at: u64,
    /// The time at which everything was judged, Unix seconds.
    pub judged_at: u64,
    /// Each step.
    pub steps: Vec<Step>,
    /// What the verified quote says; empty as long as none is verified.
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
    /// What was checked.
    pub step: Check,
    /// What came out.
    pub outcome: Outcome,
    /// In words.
    pub detail: String,
}

/// The checks, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The server showed a certificate and holds its key.
    Certificate,
    /// All answers name one root CA.
    Root,
    /// The certificate is issued by that root for this host, and valid.
    Chain,
    /// The certificate is that of a KMS.
    Usage,
    /// There is evidence in it.
    QuotePresent,
    /// The hardware vendor vouches for the quote.
    QuoteGenuine,
    /// The platform's TCB status is accepted.
    Tcb,
    /// The advisories that apply are accepted.
    Advisories,
    /// Nobody can look into the TD.
    NotDebug,
    /// The quote vouches for the key of this certificate.
    KeyBound,
    /// The events are those that were measured.
    EventLog,
    /// What runs is on the allowlist.
    Measurements,
    /// The root is the pinned one.
    RootPin,
    /// The secp256k1 root key was attested where it was made, or is pinned.
    K256Attested,
    /// That key signs keys for apps.
    AppKeyChain,
    /// The app's own keys are of this KMS.
    ReleasedKeys,
}

impl Check {
    /// In words.
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
        }
    }
}

/// What comes out of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It does not.
    Failed,
    /// Whether it holds could not be found out: an answer is missing.
    Unavailable,
    /// Nothing to compare with, or an earlier check left nothing to look at.
    NotChecked,
}

/// What a report comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The KMS is what it must be: every check was made and holds.
    Proven,
    /// Nothing failed, but this was not checked, because nothing was pinned: whether that is enough is not for us to say.
    Incomplete(Check),
    /// This failed.
    Refuted(Check),
    /// Nothing failed, but this could not be found out.
    Unknown(Check),
}

/// What a verified quote says. Hex.
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
    /// A claim of the VM's configuration unless `os_image_proven`.
    pub os_image_hash: Option<String>,
    pub os_image_proven: bool,
}

impl Report {
    /// What it comes to: the first failure, else the first answer that is missing, else the first gap.
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
