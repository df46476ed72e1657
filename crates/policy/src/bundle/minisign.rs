//! Detached signatures of minisign: the four lines of a `.minisig` file, below the text of a bundle or in a file beside it.
//!
//! Such a signature is over the text without any signature, so all signers sign the same bytes. What its comments say is not
//! used: the untrusted one is not signed, and the trusted one is, together with this signature, but says nothing of a bundle that its
//! header does not say.

use kms_ledger::note::MAX_SIGNATURES;
use minisign_verify::Signature;

use super::BundleError;
use crate::settings::minisign::name;

/// What the first of the four lines begins with.
const FIRST_LINE: &str = "untrusted comment:";
/// The longest line: minisign writes 8,192 bytes of a trusted comment.
const MAX_LINE: usize = 8192 + 64;
/// The largest `.minisig` file: a hundred signatures.
pub(super) const MAX_MINISIG: usize = MAX_SIGNATURES * 3 * MAX_LINE;

/// A signature, of which nothing is verified.
#[derive(Clone)]
pub(super) struct Minisignature {
    id: [u8; 8],
    signature: Signature,
}

impl std::fmt::Debug for Minisignature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Minisignature({})", self.name())
    }
}

impl Minisignature {
    /// Reads four lines, each without its newline.
    fn read(lines: &[&str]) -> Option<Self> {
        use base64::Engine as _;
        let [_, signed, _, _] = lines else { return None };
        if lines.iter().any(|line| line.len() > MAX_LINE) {
            return None;
        }
        let signature = Signature::decode(&lines.join("\n")).ok()?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(signed.trim_end()).ok()?;
        Some(Self { id: bytes.get(2..10)?.try_into().ok()?, signature })
    }

    /// The id of its key.
    pub(super) fn id(&self) -> [u8; 8] {
        self.id
    }

    /// The name that its key has where it is pinned.
    pub(super) fn name(&self) -> String {
        name(self.id)
    }

    pub(super) fn signature(&self) -> &Signature {
        &self.signature
    }
}

/// Separates the lines below a text into those of a note and the signatures of minisign.
///
/// # Errors
/// [`BundleError::Minisign`]
pub(super) fn split(lines: &str) -> Result<(String, Vec<Minisignature>), BundleError> {
    let (mut note, mut found) = (String::new(), Vec::new());
    let mut rest = lines.split_inclusive('\n');
    while let Some(line) = rest.next() {
        if !line.starts_with(FIRST_LINE) {
            note.push_str(line);
            continue;
        }
        let more: Vec<&str> = std::iter::once(line).chain(rest.by_ref().take(3)).collect();
        // A last line without its newline may have been cut.
        let whole = more.iter().map(|line| {
            let line = line.strip_suffix('\n')?;
            Some(line.strip_suffix('\r').unwrap_or(line))
        });
        let whole: Option<Vec<&str>> = whole.collect();
        let read = whole.as_deref().and_then(Minisignature::read);
        found.push(read.ok_or(BundleError::Minisign { number: found.len() + 1 })?);
        if found.len() > MAX_SIGNATURES {
            return Err(BundleError::Minisign { number: found.len() });
        }
    }
    Ok((note, found))
}

/// Whether bytes end as the text of a bundle without signatures, which no bundle with signatures does.
pub fn is_unsigned(bytes: &[u8]) -> bool {
    bytes.ends_with(b"}\n")
}

/// A text without signatures, and the content of the `.minisig` file beside it, as one bundle.
pub fn with_minisig(text: &[u8], minisig: &[u8]) -> Vec<u8> {
    let end: &[u8] = if minisig.ends_with(b"\n") { b"" } else { b"\n" };
    [text, b"\n", minisig, end].concat()
}

#[cfg(any(test, feature = "testing"))]
pub mod vectors;

#[cfg(test)]
mod tests;
