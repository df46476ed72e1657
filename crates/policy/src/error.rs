//! Why a policy cannot be built.

/// A policy that cannot be built from its configuration.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// There is no HTTP client.
    #[error("the policy's HTTP client cannot be built")]
    Client(#[source] reqwest::Error),
    /// A file that the configuration names cannot be used.
    #[error("{key} {problem}")]
    File {
        /// The key that names it.
        key: &'static str,
        /// Why; no path.
        problem: String,
    },
}

impl SetupError {
    pub(crate) fn file(key: &'static str, problem: impl Into<String>) -> Self {
        Self::File { key, problem: problem.into() }
    }
}
