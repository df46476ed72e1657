//! Signed bundles: an `auth-config.json` with a serial, a time of validity and signatures of pinned keys.
//!
//! A bundle is a C2SP signed note. Its text is
//!
//! ```text
//! cvm-kms/policy-bundle/v1
//! {"name":"prod","domain":"default","serial":2,"not_before":"2026-01-01T00:00:00Z","expires":"2026-07-01T00:00:00Z","previous":"<64 hex digits>"}
//! { …the auth-config.json, as it is… }
//! ```
//!
//! and its digest is SHA-256 of that text, so that further signatures do not change it. `previous` is the digest of the bundle
//! with the serial before; null for serial 1. Among the lines of the signatures there may be signatures of minisign over that text. There is one text for a header: everything that is read is compared with what this
//! program would write.

mod header;
mod minisign;
mod policy;
mod shadow;
mod sign;
pub mod source;

use std::fmt;
use std::sync::Arc;

use kms_attest::json::duplicate_keys;
use kms_ledger::note::{Note, NoteError, OpenError};
use sha2::{Digest as _, Sha256};

pub use self::header::{Header, HeaderError, MAX_SERIAL};
use self::minisign::Minisignature;
pub use self::minisign::{is_unsigned, with_minisig};
pub use self::policy::{BundleInForce, Bundled, Expiry};
pub use self::shadow::Differences;
pub use self::sign::{SecretKey, SecretKeyError, SignError, add_signature, sign, sign_text, unsigned};
use crate::rules::{Rules, RulesError};
use crate::settings::PinnedKeys;

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

/// SHA-256 of the text of a bundle.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BundleDigest([u8; 32]);

impl BundleDigest {
    fn of(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// Reads 64 lower-case hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).ok()?;
        (!text.bytes().any(|digit| digit.is_ascii_uppercase())).then_some(Self(digest))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for BundleDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for BundleDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BundleDigest({self})")
    }
}

/// A bundle that is well formed. Nothing is known about its signatures: it must not decide.
#[derive(Debug, Clone)]
pub struct UnverifiedBundle {
    /// As it came.
    content: Arc<str>,
    /// Where the text ends.
    text_end: usize,
    /// Where the policy begins in the text.
    policy_at: usize,
    header: Header,
    digest: BundleDigest,
    /// The text with its signature lines; `None` if only minisign has signed it.
    note: Option<Note>,
    minisignatures: Vec<Minisignature>,
}

impl UnverifiedBundle {
    /// Reads a bundle.
    ///
    /// # Errors
    /// The variants of [`BundleError`] about the form.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        if bytes.len() > MAX_BUNDLE {
            return Err(BundleError::TooLarge);
        }
        if is_sigstore(bytes) {
            return Err(BundleError::Sigstore);
        }
        if is_unsigned(bytes) {
            return Err(BundleError::Unsigned);
        }
        let content = str::from_utf8(bytes).map_err(|_| BundleError::Note(NoteError::Characters))?;
        let end = content.rfind("\n\n").ok_or(BundleError::Note(NoteError::Unsigned))? + 1;
        let text = &content[..end];
        let (lines, minisignatures) = minisign::split(&content[end + 1..])?;
        if text.contains(|c: char| c < ' ' && c != '\n') {
            return Err(BundleError::Note(NoteError::Characters));
        }
        let note = match lines.is_empty() && !minisignatures.is_empty() {
            true => None,
            false => {
                let note = format!("{text}\n{lines}");
                Some(Note::parse_within(note.as_bytes(), MAX_BUNDLE).map_err(BundleError::Note)?)
            }
        };
        let rest = text.strip_prefix(FIRST_LINE).and_then(|rest| rest.strip_prefix('\n'));
        let (header, policy) =
            rest.ok_or(BundleError::FirstLine)?.split_once('\n').ok_or(BundleError::Object)?;
        let header = Header::parse(header).map_err(BundleError::Header)?;
        if !policy.starts_with('{') || !policy.ends_with("}\n") {
            return Err(BundleError::Object);
        }
        let policy_at = text.len() - policy.len();
        let digest = BundleDigest::of(text);
        Ok(Self { content: content.into(), text_end: end, policy_at, header, digest, note, minisignatures })
    }

    /// What it says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its digest.
    pub fn digest(&self) -> BundleDigest {
        self.digest
    }

    /// The `auth-config.json`.
    pub fn policy(&self) -> &str {
        &self.text()[self.policy_at..]
    }

    /// What is signed.
    fn text(&self) -> &str {
        &self.content[..self.text_end]
    }

    /// The names of the keys that claim to have signed it.
    pub fn claimed_signers(&self) -> impl Iterator<Item = String> {
        let lines = self.note.iter().flat_map(Note::signatures).map(|line| line.name().to_string());
        lines.chain(self.minisignatures.iter().map(Minisignature::name))
    }

    /// Verifies the signatures and the domain, and reads the rules.
    ///
    /// # Errors
    /// [`BundleError`]
    pub fn verify(self, keys: &PinnedKeys, domain: &str) -> Result<Bundle, BundleError> {
        // Keys of one name and id, or of one value, are refused where they are pinned, so each counts once.
        let verified = self.note.as_ref().map_or(Ok(Vec::new()), |note| note.verify(keys.keys()));
        let verified = verified.map_err(BundleError::Signature)?;
        let mut signers: Vec<String> =
            verified.iter().map(|signature| signature.key.name().as_str().to_owned()).collect();
        for minisignature in &self.minisignatures {
            let pinned = keys.minisign_keys().iter().find(|key| key.id() == minisignature.id());
            // One that counts already is not verified again: each time costs a hash of the text.
            let Some(key) = pinned.filter(|key| signers.iter().all(|known| known != key.name())) else {
                continue;
            };
            if !key.verifies(self.text(), minisignature.signature()) {
                return Err(BundleError::MinisignSignature(key.name().to_owned()));
            }
            signers.push(key.name().to_owned());
        }
        if signers.len() < keys.threshold() {
            return Err(BundleError::Threshold { signed: signers.len(), threshold: keys.threshold() });
        }
        if self.header.domain() != domain {
            let (expected, found) = (domain.to_owned(), self.header.domain().to_owned());
            return Err(BundleError::Domain { expected, found });
        }
        let rules = rules(self.policy())?;
        Ok(Bundle { unverified: self, signers, rules: Arc::new(rules) })
    }
}

/// Whether bytes are meant as a bundle of Sigstore: JSON with its media type.
pub fn is_sigstore(bytes: &[u8]) -> bool {
    const MEDIA_TYPE: &[u8] = b"application/vnd.dev.sigstore.bundle";
    // Its first field in what cosign and the actions of GitHub write.
    let beginning = &bytes[..bytes.len().min(4096)];
    beginning.trim_ascii_start().starts_with(b"{")
        && beginning.windows(MEDIA_TYPE.len()).any(|window| window == MEDIA_TYPE)
}

/// The rules of a policy in a bundle.
fn rules(policy: &str) -> Result<Rules, BundleError> {
    if let Some(key) = duplicate_keys(policy.as_bytes()).into_iter().next() {
        return Err(BundleError::Repeated(key.chars().take(100).collect()));
    }
    Rules::parse(policy.as_bytes()).map_err(BundleError::Rules)
}

/// A bundle that enough of the pinned keys have signed, for the domain that reads it.
#[derive(Debug, Clone)]
pub struct Bundle {
    unverified: UnverifiedBundle,
    signers: Vec<String>,
    rules: Arc<Rules>,
}

impl Bundle {
    /// Reads and verifies a bundle.
    ///
    /// # Errors
    /// [`BundleError`]
    pub fn open(bytes: &[u8], keys: &PinnedKeys, domain: &str) -> Result<Self, BundleError> {
        UnverifiedBundle::parse(bytes)?.verify(keys, domain)
    }

    /// What it says of itself.
    pub fn header(&self) -> &Header {
        self.unverified.header()
    }

    /// Its digest.
    pub fn digest(&self) -> BundleDigest {
        self.unverified.digest
    }

    /// The names of the pinned keys that have signed it, once each.
    pub fn signers(&self) -> &[String] {
        &self.signers
    }

    /// The `auth-config.json`.
    pub fn policy(&self) -> &str {
        self.unverified.policy()
    }

    /// The file as it came.
    pub fn bytes(&self) -> &[u8] {
        self.unverified.content.as_bytes()
    }

    /// How much it allows.
    pub fn summary(&self) -> String {
        self.rules.summary()
    }
}

#[cfg(test)]
mod tests;
