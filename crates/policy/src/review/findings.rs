//! What a review finds in a candidate allowlist.

use serde::Serialize;

/// Further findings are counted, not listed.
pub(super) const MAX_FINDINGS: usize = 200;

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is invalid: it would deny everything.
    Error,
    /// The file is valid, but a part of it has no effect or an unexpected one.
    Warning,
}

/// A problem in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its severity.
    pub severity: Severity,
    /// A stable code for programs: `unknown_key`.
    pub code: &'static str,
    /// The place: `line 3, column 7`, or the path of a key, `apps.<id>.composeHashes[0]`. Empty for the whole
    /// file.
    pub at: String,
    /// The message.
    pub message: String,
}

/// The findings of a review, in the order in which they were found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) listed: Vec<Finding>,
    /// How many are not listed.
    pub(super) unlisted: usize,
}

impl Findings {
    pub(super) fn has_errors(&self) -> bool {
        self.listed.iter().any(|finding| finding.severity == Severity::Error)
    }

    pub(super) fn find(&mut self, severity: Severity, code: &'static str, at: &str, message: String) {
        // Warnings must not hide the only error.
        if self.listed.len() >= MAX_FINDINGS && (severity == Severity::Warning || self.has_errors()) {
            self.unlisted += 1;
            return;
        }
        self.listed.push(Finding { severity, code, at: at.to_owned(), message });
    }
}
