//! Trusted signers of app public keys: one line for each KMS, like the known hosts of ssh.

use std::fmt;

use crate::statement::{NotASigner, Signer};
use crate::url::KmsUrl;

/// The largest file that is read.
pub const MAX_BYTES: usize = 1 << 20;

/// The signers in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownSigners {
    entries: Vec<Entry>,
}

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The line number, from 1.
    pub line: usize,
    /// The KMS.
    pub kms: KmsName,
    /// Its signer.
    pub signer: Signer,
}

/// The name of a KMS: `host:port`, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KmsName(String);

/// Why text is not a list of signers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KnownSignersError {
    /// Longer than [`MAX_BYTES`].
    #[error("longer than {MAX_BYTES} bytes")]
    TooLong,
    /// Fewer than two words.
    #[error("line {line}: expected host:port and a signer")]
    Words {
        /// The line number, from 1.
        line: usize,
    },
    /// The first word is not `host:port`.
    #[error("line {line}: the KMS must be written as host:port")]
    Kms {
        /// The line number, from 1.
        line: usize,
    },
    /// The second word is not a signer.
    #[error("line {line}: {problem}")]
    Signer {
        /// The line number, from 1.
        line: usize,
        /// What is wrong.
        problem: NotASigner,
    },
}

/// What the list says about the signer of a KMS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing<'a> {
    /// It is the known signer.
    Known,
    /// No signer is known for the KMS.
    New,
    /// Other signers are known.
    Changed(Vec<&'a Entry>),
}

impl KmsName {
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let named = !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0);
        named.then(|| Self(text.to_ascii_lowercase()))
    }
}

impl From<&KmsUrl> for KmsName {
    fn from(url: &KmsUrl) -> Self {
        let host = url.host().to_ascii_lowercase();
        let port = url.port();
        Self(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
    }
}

impl fmt::Display for KmsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl KnownSigners {
    /// Parses a file of `host:port signer` lines, with signers as 66 hexadecimal digits. The rest of a line
    /// is a comment, and so is a line that starts with `#`.
    pub fn parse(text: &str) -> Result<Self, KnownSignersError> {
        if text.len() > MAX_BYTES {
            return Err(KnownSignersError::TooLong);
        }
        let mut entries = Vec::new();
        for (line, content) in (1..).zip(text.lines()) {
            let content = content.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let mut words = content.split_whitespace();
            let (Some(kms), Some(signer)) = (words.next(), words.next()) else {
                return Err(KnownSignersError::Words { line });
            };
            let kms = KmsName::parse(kms).ok_or(KnownSignersError::Kms { line })?;
            let signer = signer.parse().map_err(|problem| KnownSignersError::Signer { line, problem })?;
            entries.push(Entry { line, kms, signer });
        }
        Ok(Self { entries })
    }

    /// Looks up the signer of a KMS. Several lines for one KMS are alternatives.
    pub fn standing(&self, kms: &KmsName, signer: Signer) -> Standing<'_> {
        let known: Vec<&Entry> = self.of(kms).collect();
        if known.is_empty() {
            return Standing::New;
        }
        if known.iter().any(|entry| entry.signer == signer) {
            Standing::Known
        } else {
            Standing::Changed(known)
        }
    }

    /// The entries of one KMS.
    pub fn of(&self, kms: &KmsName) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.kms == *kms)
    }

    /// The entries, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

/// The line to add for a signer.
pub fn line(kms: &KmsName, signer: Signer) -> String {
    format!("{kms} {signer}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "02eb9e2174489d1407dff05d417040e06f2acc3b77f5bbb99b570c3e4c5d3a613b";
    const OTHER: &str = "0217610d74cbd39b6143842c6d8bc310d79da1d82cc9d17f8876376221eda0c38f";

    #[test]
    fn a_signer_is_known_new_or_changed() {
        let text = format!("# list\n\nKMS.example:8000 0x{ONE} first\n[::1]:443\t{OTHER}\n");
        let known = KnownSigners::parse(&text).expect("list");
        let name = |url: &str| KmsName::from(&url.parse::<KmsUrl>().expect(url));
        let (one, other) = (ONE.parse().expect("signer"), OTHER.parse().expect("signer"));
        assert_eq!(known.standing(&name("https://kms.EXAMPLE:8000/prpc"), one), Standing::Known);
        assert_eq!(known.standing(&name("https://[::1]"), other), Standing::Known);
        assert_eq!(known.standing(&name("https://kms.example:8001"), one), Standing::New);
        let Standing::Changed(entries) = known.standing(&name("https://kms.example:8000"), other) else {
            panic!("changed")
        };
        assert_eq!((entries.len(), entries[0].line, entries[0].signer), (1, 3, one));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let kms = KmsName::from(&"https://kms.example:8000".parse::<KmsUrl>().expect("url"));
        let signer = ONE.parse().expect("signer");
        let known = KnownSigners::parse(&line(&kms, signer)).expect("list");
        assert_eq!(known.standing(&kms, signer), Standing::Known);
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, expected) in [
            ("\nkms:1".to_owned(), "line 2: expected host:port and a signer"),
            (format!("kms {ONE}"), "line 1: the KMS must be written as host:port"),
            (format!("kms:x {ONE}"), "line 1: the KMS must be written as host:port"),
            (format!(":1 {ONE}"), "line 1: the KMS must be written as host:port"),
            (
                "kms:1 02".to_owned(),
                "line 1: not a compressed secp256k1 public key: 66 hexadecimal digits that start with 02 or 03",
            ),
            (" ".repeat(MAX_BYTES + 1), "longer than 1048576 bytes"),
        ] {
            assert_eq!(KnownSigners::parse(&text).expect_err(expected).to_string(), expected);
        }
    }
}
