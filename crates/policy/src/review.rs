//! The review of a candidate allowlist before it is used.

mod findings;
mod walk;

use std::collections::BTreeSet;

use kms_attest::json::duplicate_keys;
use serde::Serialize;

use self::findings::Findings;
pub use self::findings::{Finding, Severity};
pub use crate::rules::grants::Grant;
use crate::rules::{MAX_FILE, Rules};
use crate::settings::EmptyDevices;

/// A file larger than this works, but decisions wait while it is read.
const LARGE: usize = 8 << 20;

/// How many entries of a file can match something.
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
    /// KMS nodes by compose hash and OS image.
    pub kms_images: usize,
    /// TCB statuses.
    pub tcb_statuses: usize,
    /// Advisories.
    pub advisories: usize,
}

/// The result of a review.
#[derive(Debug)]
pub struct Review {
    findings: Findings,
    grants: Option<BTreeSet<Grant>>,
}

/// What changes when one file replaces another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// In the new file only.
    pub newly_allowed: Vec<Grant>,
    /// In the old file only.
    pub newly_denied: Vec<Grant>,
}

impl Review {
    /// Reviews the content of a file.
    pub fn of(content: &[u8], empty_devices: EmptyDevices) -> Self {
        let mut review = Self { findings: Findings::default(), grants: None };
        if content.len() as u64 > MAX_FILE {
            review.findings.find(Severity::Error, "too_large", "", "is larger than 64 MiB".to_owned());
            return review;
        }
        if content.len() > LARGE {
            let size = content.len() >> 20;
            let message = format!("has {size} MiB: decisions wait for it after each change");
            review.findings.find(Severity::Warning, "huge", "", message);
        }
        let value = match kms_attest::json::from_utf8(content) {
            Ok(value) => value,
            Err(error) => {
                let at = format!("line {}, column {}", error.line(), error.column());
                review.findings.find(Severity::Error, "not_json", &at, format!("is not valid JSON: {error}"));
                return review;
            }
        };
        for key in duplicate_keys(content) {
            let message = "is given more than once; the last one counts".to_owned();
            review.findings.find(Severity::Warning, "duplicate_key", &key, message);
        }
        walk::file(&value, empty_devices, &mut review.findings);
        match Rules::parse(content) {
            Ok(rules) => review.grants = Some(rules.grants(empty_devices)),
            Err(error) if review.findings.has_errors() => drop(error),
            Err(error) => review.findings.find(Severity::Error, "invalid", "", error.to_string()),
        }
        review.findings.listed.sort_by_key(|finding| finding.severity);
        review
    }

    /// Whether the file is valid; otherwise it denies everything.
    pub fn is_usable(&self) -> bool {
        self.grants.is_some()
    }

    /// The findings, errors first.
    pub fn findings(&self) -> &[Finding] {
        &self.findings.listed
    }

    /// How many findings are not listed.
    pub fn unlisted(&self) -> usize {
        self.findings.unlisted
    }

    /// How much the file allows; `None` if it is invalid.
    pub fn summary(&self) -> Option<Summary> {
        let mut summary = Summary::default();
        for grant in self.grants.as_ref()? {
            match grant {
                Grant::App { .. } => summary.apps += 1,
                Grant::ComposeHash { .. } => summary.compose_hashes += 1,
                Grant::OsImage { .. } => summary.os_images += 1,
                Grant::KmsMeasurement { .. } => summary.kms_measurements += 1,
                Grant::KmsImage { .. } => summary.kms_images += 1,
                Grant::TcbStatus { .. } => summary.tcb_statuses += 1,
                Grant::Advisory { .. } => summary.advisories += 1,
                Grant::KmsDevice { .. }
                | Grant::AppDevice { .. }
                | Grant::Running { .. }
                | Grant::Epochs { .. }
                | Grant::Gateway { .. } => {}
            }
        }
        Some(summary)
    }

    /// What changes when this file replaces `old`. An invalid file allows nothing.
    pub fn against(&self, old: &Self) -> Difference {
        let nothing = BTreeSet::new();
        let are_usable = self.is_usable() && old.is_usable();
        let (new, old) = (self.grants.as_ref().unwrap_or(&nothing), old.grants.as_ref().unwrap_or(&nothing));
        // If the app itself is added or removed, its stage and its epochs are not listed.
        let is_news = |grant: &&Grant, other: &BTreeSet<Grant>| match grant {
            Grant::Running { app, .. } | Grant::Epochs { app, .. } if are_usable => {
                other.contains(&Grant::App { app: app.clone() })
            }
            Grant::Running { .. }
            | Grant::Epochs { .. }
            | Grant::TcbStatus { .. }
            | Grant::Advisory { .. }
            | Grant::OsImage { .. }
            | Grant::KmsMeasurement { .. }
            | Grant::KmsImage { .. }
            | Grant::KmsDevice { .. }
            | Grant::App { .. }
            | Grant::ComposeHash { .. }
            | Grant::AppDevice { .. }
            | Grant::Gateway { .. } => true,
        };
        Difference {
            newly_allowed: new.difference(old).filter(|grant| is_news(grant, old)).cloned().collect(),
            newly_denied: old.difference(new).filter(|grant| is_news(grant, new)).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests;
