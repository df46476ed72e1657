//! A relaxed setting, as a stable code with a sentence.

use std::borrow::Cow;

/// One relaxed setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relaxation {
    /// Stable, for machines: `dev_auth`.
    pub code: &'static str,
    /// One sentence for people: what is given up.
    pub sentence: Cow<'static, str>,
    /// One entry for each relaxed item: `tcb_grace:OutOfDate:60d`. It is public, so it contains no URL and no
    /// path. Empty where the code is enough.
    pub details: Vec<String>,
}
