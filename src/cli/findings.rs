//! What is found about a KMS before it starts: one list, which `kms check` and `kms doctor` print.

use serde::Serialize;

use crate::config::UnsafeSetting;

/// How much a finding matters, in rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    /// It tells how things are.
    Fact,
    /// A setting that is unsafe where keys matter.
    Advice,
    /// Something will not work as it should.
    Warning,
    /// `run` would start but release nothing.
    Useless,
    /// `run` would refuse to start.
    Refused,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// What it is about, in a word.
    #[serde(rename = "about")]
    pub(super) label: &'static str,
    pub(super) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

/// All findings, in the order in which they were found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    pub(super) fn fact(&mut self, label: &'static str, message: impl Into<String>) {
        self.add(Level::Fact, label, message.into());
    }

    pub(super) fn refuse(&mut self, message: impl Into<String>) {
        self.add(Level::Refused, "REFUSED", message.into());
    }

    pub(super) fn useless(&mut self, message: impl Into<String>) {
        self.add(Level::Useless, "USELESS", message.into());
    }

    pub(super) fn warn(&mut self, message: impl Into<String>) {
        self.add(Level::Warning, "warning", message.into());
    }

    /// An unsafe setting: at `Refused` where the profile permits none, else at `Advice`.
    pub(super) fn unsafe_setting(&mut self, level: Level, setting: UnsafeSetting) {
        let label = if level == Level::Refused { "REFUSED" } else { "unsafe" };
        let message = format!("{}: {}", setting.subject, setting.problem);
        self.0.push(Finding { level, label, message, remedy: Some(setting.remedy) });
    }

    fn add(&mut self, level: Level, label: &'static str, message: String) {
        self.0.push(Finding { level, label, message, remedy: None });
    }

    /// How many there are of a level.
    pub(super) fn count(&self, level: Level) -> usize {
        self.0.iter().filter(|finding| finding.level == level).count()
    }

    /// The level of the worst.
    pub(super) fn worst(&self) -> Level {
        self.0.iter().map(|finding| finding.level).max().unwrap_or(Level::Fact)
    }

    /// Prints them as lines.
    pub(super) fn print(&self) {
        for Finding { label, message, remedy, .. } in &self.0 {
            match remedy {
                Some(remedy) => say!("{label:<9} {}. {remedy}", message.trim_end_matches('.')),
                None => say!("{label:<9} {message}"),
            }
        }
    }
}
