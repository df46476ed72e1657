//! The error that a caller receives when a request has no result.

use std::error::Error as StdError;
use std::fmt;

pub use kms_wire::code::Code;

type Source = Box<dyn StdError + Send + Sync>;

/// Why a request ended: `message` is for the caller, `source` only for the log.
#[derive(Debug)]
pub struct Error {
    code: Code,
    message: String,
    reason: &'static str,
    source: Option<Source>,
    denial: Option<DenialReference>,
    approval: Option<Box<serde_json::Value>>,
}

/// How a refusal can be looked up: the caller may quote this to an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DenialReference {
    /// Stable, for machines: `compose_hash_not_allowed`.
    pub code: &'static str,
    /// The id of this refusal, for `Explain`.
    pub id: String,
}

/// The result of a service method.
pub type Result<T> = std::result::Result<T, Error>;

/// The longest message in bytes that is sent whole, as in the peer.
const MAX_MESSAGE: usize = 2048;
/// Replaces the middle of a longer one.
const OMISSION: &str = " … ";

impl Error {
    /// An error with a message for the caller. A message over 2,048 bytes loses its middle, at character
    /// boundaries, because its end names the innermost cause.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MAX_MESSAGE {
            let kept = (MAX_MESSAGE - OMISSION.len()) / 2;
            let head = message.floor_char_boundary(kept);
            let tail = message.ceil_char_boundary(message.len() - kept);
            message.replace_range(head..tail, OMISSION);
        }
        Self { code, message, reason: code.name(), source: None, denial: None, approval: None }
    }

    /// Attaches the cause, which only the log shows.
    pub fn caused_by(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds a stable code that is more exact than [`Error::code`], such as `source_not_allowed`.
    pub fn because(self, reason: &'static str) -> Self {
        Self { reason, ..self }
    }

    /// The more exact code, or else the name of the code, for programs that advise people.
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    /// Adds how the refusal can be looked up.
    pub fn denied_as(mut self, denial: DenialReference) -> Self {
        self.denial = Some(denial);
        self
    }

    /// How the refusal can be looked up, if it can.
    pub fn denial(&self) -> Option<&DenialReference> {
        self.denial.as_ref()
    }

    /// Adds the request that waits for a second owner.
    pub fn awaiting(self, approval: serde_json::Value) -> Self {
        Self { approval: Some(Box::new(approval)), ..self }
    }

    /// The request that waits for a second owner, if one does.
    pub fn approval(&self) -> Option<&serde_json::Value> {
        self.approval.as_deref()
    }

    /// Prefixes the message with `context: `.
    pub fn within(self, context: &str) -> Self {
        let Self { code, message, reason, source, denial, approval } = self;
        Self { reason, source, denial, approval, ..Self::new(code, format!("{context}: {message}")) }
    }

    /// [`Code::InvalidRequest`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, message)
    }

    /// [`Code::Unavailable`]: `message` names the part in our words, `source` holds the detail.
    pub fn unavailable(message: &'static str, source: impl Into<Source>) -> Self {
        Self::new(Code::Unavailable, message).caused_by(source)
    }

    /// [`Code::Internal`]: `message` names the part in our words, `source` holds the detail.
    pub fn internal(message: &'static str, source: impl Into<Source>) -> Self {
        Self::new(Code::Internal, message).caused_by(source)
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The message for the caller.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The whole chain of causes, for the log.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut next = self.source();
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_keep_their_start_and_their_end() {
        for middle in ["x", "é", "…", "🦀"] {
            for length in [0, 1, 1000, 2000, 2030, 2040, 2048, 5000, 100_000] {
                let whole = format!("first{}last", middle.repeat(length / middle.len()));
                let error = Error::invalid(whole.clone());
                let message = error.message();
                assert!(message.len() <= MAX_MESSAGE, "{length}");
                assert_eq!(message == whole, whole.len() <= MAX_MESSAGE, "{length}");
                assert!(message.starts_with("first") && message.ends_with("last"), "{length}");
                // The same for a message that a caller has prefixed.
                let again = error.within("context");
                assert!(
                    again.message().len() <= MAX_MESSAGE && again.message().starts_with("context: first")
                );
                assert!(again.message().ends_with("last"), "{length}");
            }
        }
    }

    #[test]
    fn the_cause_is_in_the_chain_and_not_in_the_message() {
        let error = Error::unavailable("authorization backend does not answer", "http://10.0.0.1/secret");
        assert!(!error.message().contains("10.0.0.1"));
        assert!(error.chain().contains("10.0.0.1"));
    }
}
