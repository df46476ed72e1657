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

mod digest;
mod error;
mod header;
mod minisign;
mod policy;
mod shadow;
mod sign;
pub mod source;

use std::sync::Arc;

use kms_attest::json::duplicate_keys;
use kms_ledger::note::{Note, NoteError};

pub use self::digest::BundleDigest;
pub use self::error::{BundleError, FIRST_LINE, MAX_BUNDLE};
pub use self::header::{Header, HeaderError, MAX_SERIAL};
use self::minisign::Minisignature;
#[cfg(any(test, feature = "testing"))]
pub use self::minisign::vectors as minisign_vectors;
pub use self::minisign::{is_unsigned, with_minisig};
pub use self::policy::{BundleInForce, Bundled, Expiry};
pub use self::shadow::Differences;
pub use self::sign::{SecretKey, SecretKeyError, SignError, add_signature, sign, sign_text, unsigned};
use crate::rules::Rules;
use crate::settings::PinnedKeys;

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
