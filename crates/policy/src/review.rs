//! A candidate allowlist, looked at before it decides anything.

mod walk;

use std::collections::BTreeSet;

use kms_attest::json::duplicate_keys;
use serde::Serialize;

pub use crate::rules::grants::Grant;
use crate::rules::{MAX_FILE, Rules};
use crate::settings::EmptyDevices;

/// Findings beyond this many are counted, not listed.
const MOST: usize = 200;

/// A file of this size is read on every change; it works, but slowly.
const HUGE: usize = 8 << 20;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file cannot be used: it would deny everything.
    Error,
    /// The file can be used, but not everything in it does what it looks like.
    Warning,
}

/// One thing about a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Stable, for machines: `unknown_key`.
    pub code: &'static str,
    /// Where: `line 3, column 7`, or the key's path, `apps.<id>.composeHashes[0]`. Empty for the whole file.
    pub at: String,
    /// For people.
    pub message: String,
}

/// How much a file allows: entries that can match something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Apps.
    pub apps: usize,
    /// Compose hashes of all apps.
    pub compose_hashes: usize,
    /// OS images.
    pub os_images: usize,
    /// Measurements of KMS nodes.
    pub kms_measurements: usize,
    /// TCB statuses.
    pub tcb_statuses: usize,
    /// Advisories.
    pub advisories: usize,
}

/// What is known about a file.
#[derive(Debug)]
pub struct Review {
    findings: Vec<Finding>,
    unlisted: usize,
    grants: Option<BTreeSet<Grant>>,
}

/// What changes when one file takes the place of another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// In the new file only.
    pub newly_allowed: Vec<Grant>,
    /// In the old file only.
    pub newly_denied: Vec<Grant>,
}

impl Review {
    /// Looks at the content of a file.
    pub fn of(content: &[u8], empty_devices: EmptyDevices) -> Self {
        let mut review = Self { findings: Vec::new(), unlisted: 0, grants: None };
        if content.len() as u64 > MAX_FILE {
            review.find(Severity::Error, "too_large", "", "is larger than 64 MiB".to_owned());
            return review;
        }
        if content.len() > HUGE {
            let size = content.len() >> 20;
            let message = format!("has {size} MiB: decisions wait for it after each change");
            review.find(Severity::Warning, "huge", "", message);
        }
        let value = match kms_attest::json::from_utf8(content) {
            Ok(value) => value,
            Err(error) => {
                let at = format!("line {}, column {}", error.line(), error.column());
                review.find(Severity::Error, "not_json", &at, format!("is not valid JSON: {error}"));
                return review;
            }
        };
        for key in duplicate_keys(content) {
            let message = "is given more than once; the last one counts".to_owned();
            review.find(Severity::Warning, "duplicate_key", &key, message);
        }
        walk::file(&value, empty_devices, &mut review);
        match Rules::parse(content) {
            Ok(rules) => review.grants = Some(rules.grants(empty_devices)),
            Err(error) if review.has_errors() => drop(error),
            Err(error) => review.find(Severity::Error, "invalid", "", error.to_string()),
        }
        review.findings.sort_by_key(|finding| finding.severity);
        review
    }

    /// Whether the file would be used; otherwise it denies everything.
    pub fn is_usable(&self) -> bool {
        self.grants.is_some()
    }

    /// What was found, errors first.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// How many more findings there are than are listed.
    pub fn unlisted(&self) -> usize {
        self.unlisted
    }

    /// How much the file allows; `None` if it cannot be used.
    pub fn summary(&self) -> Option<Summary> {
        let mut summary = Summary::default();
        for grant in self.grants.as_ref()? {
            match grant {
                Grant::App { .. } => summary.apps += 1,
                Grant::ComposeHash { .. } => summary.compose_hashes += 1,
                Grant::OsImage { .. } => summary.os_images += 1,
                Grant::KmsMeasurement { .. } => summary.kms_measurements += 1,
                Grant::TcbStatus { .. } => summary.tcb_statuses += 1,
                Grant::Advisory { .. } => summary.advisories += 1,
                Grant::KmsDevice { .. }
                | Grant::AppDevice { .. }
                | Grant::Running { .. }
                | Grant::Gateway { .. } => {}
            }
        }
        Some(summary)
    }

    /// What changes when this file takes the place of `old`. A file that cannot be used allows nothing.
    pub fn against(&self, old: &Self) -> Difference {
        let nothing = BTreeSet::new();
        let are_usable = self.is_usable() && old.is_usable();
        let (new, old) = (self.grants.as_ref().unwrap_or(&nothing), old.grants.as_ref().unwrap_or(&nothing));
        // When an app as such is new or gone, its stage is no news.
        let is_news = |grant: &&Grant, other: &BTreeSet<Grant>| match grant {
            Grant::Running { app, .. } if are_usable => other.contains(&Grant::App { app: app.clone() }),
            _ => true,
        };
        Difference {
            newly_allowed: new.difference(old).filter(|grant| is_news(grant, old)).cloned().collect(),
            newly_denied: old.difference(new).filter(|grant| is_news(grant, new)).cloned().collect(),
        }
    }

    fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }

    fn find(&mut self, severity: Severity, code: &'static str, at: &str, message: String) {
        // Errors are few, or everything is one; none of them may hide behind warnings.
        if self.findings.len() >= MOST && (severity == Severity::Warning || self.has_errors()) {
            self.unlisted += 1;
            return;
        }
        self.findings.push(Finding { severity, code, at: at.to_owned(), message });
    }
}

#[cfg(test)]
mod tests;
