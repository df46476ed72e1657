//! Why bytes are not a bundle that may decide.

use kms_ledger::note::{NoteError, OpenError};

use super::header::HeaderError;
use crate::rules::RulesError;

/// The largest bundle in bytes: ten thousand apps, and a hundred signatures.
pub const MAX_BUNDLE: usize = 8 << 20;

/// The first line of the text, so that no other note of the same key is a bundle.
pub const FIRST_LINE: &str = "cvm-kms/policy-bundle/v1";

/// Why bytes are not a bundle that may decide.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// More than [`MAX_BUNDLE`] bytes.
    #[error("a bundle has at most {MAX_BUNDLE} bytes")]
    TooLarge,
    /// Not a signed note.
    #[error("the bundle is not a signed note: {0}")]
    Note(#[source] NoteError),
    /// It is a bundle of Sigstore.
    #[error(
        "a Sigstore bundle is not read, because it needs the keys of a log and of an authority beside the pinned keys: sign the \
         policy with kms policy sign or minisign"
    )]
    Sigstore,
    /// There is a text, and no signature below it.
    #[error(
        "the bundle has no signature: kms policy sign adds one, or put that of minisign beside it in a file with the same name \
         and .minisig"
    )]
    Unsigned,
    /// Lines that begin as a signature of minisign are not one.
    #[error("signature {number} of minisign must be the four lines of a .minisig file")]
    Minisign {
        /// Which one, from 1.
        number: usize,
    },
    /// A signature of a pinned key of minisign does not hold.
    #[error(
        "the bundle is refused: signature of {0}: it is not over this text, or its trusted comment was altered"
    )]
    MinisignSignature(String),
    /// The first line is another one.
    #[error("the first line of a bundle must be {FIRST_LINE}")]
    FirstLine,
    /// The second line is not a header.
    #[error("the header of the bundle {0}")]
    Header(#[source] HeaderError),
    /// The rest is not one JSON object, without blank lines around it.
    #[error("the policy of the bundle must be a JSON object, without space before and behind it")]
    Object,
    /// The rest repeats a key, so that two readers may see two policies.
    #[error("the policy of the bundle gives {0} more than once")]
    Repeated(String),
    /// The rest is not an allowlist.
    #[error("the policy of the bundle {0}")]
    Rules(#[source] RulesError),
    /// A signature of a pinned key does not hold.
    #[error("the bundle is refused: {0}")]
    Signature(#[source] OpenError),
    /// Too few of the pinned keys have signed.
    #[error("{signed} of the pinned keys have signed the bundle, {threshold} must")]
    Threshold {
        /// How many did.
        signed: usize,
        /// How many must.
        threshold: usize,
    },
    /// It is of another domain.
    #[error("the bundle is for the domain {found}, not for {expected}")]
    Domain {
        /// The domain that reads it.
        expected: String,
        /// The domain that it names.
        found: String,
    },
}

impl BundleError {
    /// A stable name, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge => "bundle_too_large",
            Self::Note(_)
            | Self::Sigstore
            | Self::Unsigned
            | Self::Minisign { .. }
            | Self::FirstLine
            | Self::Header(_) => "bundle_malformed",
            Self::Object | Self::Repeated(_) | Self::Rules(_) => "bundle_policy_invalid",
            Self::Signature(_) | Self::MinisignSignature(_) => "bundle_signature_invalid",
            Self::Threshold { .. } => "bundle_threshold_missed",
            Self::Domain { .. } => "bundle_of_other_domain",
        }
    }
}
