//! A relaxed setting: a stable code and a sentence.

use std::borrow::Cow;

/// One relaxed setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relaxation {
    /// A stable code for programs: `dev_auth`.
    pub code: &'static str,
    /// One sentence for people: which protection is missing.
    pub sentence: Cow<'static, str>,
    /// One entry for each relaxed item: `tcb_grace:OutOfDate:60d`. It is public, so it contains no URL and no
    /// path. Empty if the code is enough.
    pub details: Vec<String>,
}
