//! Why a policy cannot be built.

/// The policy cannot be built from its configuration.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The HTTP client cannot be built.
    #[error("the policy's HTTP client cannot be built")]
    Client(#[source] reqwest::Error),
    /// A file that the configuration names cannot be used.
    #[error("{key} {problem}")]
    File {
        /// The configuration key that names it.
        key: &'static str,
        /// The cause, without a path.
        problem: String,
    },
}

impl SetupError {
    pub(crate) fn file(key: &'static str, problem: impl Into<String>) -> Self {
        Self::File { key, problem: problem.into() }
    }
}
