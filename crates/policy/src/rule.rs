//! The rules of an allowlist, and the outcome of a rule for a caller.

use kms_attest::identity::{BootInfo, OsImageHash};

use crate::decision::{Denial, DenialCode, Subject};

/// A rule of the allowlist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The TCB status is listed.
    TcbStatus,
    /// All advisories are listed.
    Advisories,
    /// The OS image is listed.
    OsImage,
    /// The measurement of a KMS is listed.
    KmsMeasurement,
    /// A KMS may run on the device.
    KmsDevice,
    /// The app has an entry.
    App,
    /// The entry lists the compose hash.
    ComposeHash,
    /// The app may run on the device.
    AppDevice,
}

impl Rule {
    /// The rules for `subject`, in the order in which they decide.
    pub(crate) fn all_for(subject: Subject<'_>) -> &'static [Self] {
        match subject {
            Subject::App(_) => &[
                Self::TcbStatus,
                Self::Advisories,
                Self::OsImage,
                Self::App,
                Self::ComposeHash,
                Self::AppDevice,
            ],
            Subject::Kms(_) => {
                &[Self::TcbStatus, Self::Advisories, Self::OsImage, Self::KmsMeasurement, Self::KmsDevice]
            }
        }
    }

    /// The stable name: `compose_hash`.
    pub fn name(self) -> &'static str {
        match self {
            Self::TcbStatus => "tcb_status",
            Self::Advisories => "advisories",
            Self::OsImage => "os_image",
            Self::KmsMeasurement => "kms_measurement",
            Self::KmsDevice => "kms_device",
            Self::App => "app",
            Self::ComposeHash => "compose_hash",
            Self::AppDevice => "app_device",
        }
    }

    /// The value of an identity that it checks, for people.
    pub fn measured(self, boot_info: &BootInfo) -> String {
        match self {
            Self::TcbStatus => boot_info.tcb_status.clone(),
            Self::Advisories => boot_info.advisory_ids.join(", "),
            Self::OsImage => hex::encode(&boot_info.os_image_hash),
            Self::KmsMeasurement => hex::encode(&boot_info.mr_aggregated),
            Self::KmsDevice | Self::AppDevice => hex::encode(&boot_info.device_id),
            Self::App => hex::encode(&boot_info.app_id),
            Self::ComposeHash => hex::encode(&boot_info.compose_hash),
        }
    }

    /// The code of the denial if it fails.
    pub fn code(self) -> DenialCode {
        match self {
            Self::TcbStatus => DenialCode::TcbStatus,
            Self::Advisories => DenialCode::Advisory,
            Self::OsImage => DenialCode::OsImage,
            Self::KmsMeasurement => DenialCode::KmsMeasurement,
            Self::KmsDevice | Self::AppDevice => DenialCode::Device,
            Self::App => DenialCode::AppNotRegistered,
            Self::ComposeHash => DenialCode::ComposeHash,
        }
    }

    /// The exact reasons of auth-simple: operators and their documentation know them.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::TcbStatus => "TCB status is not allowed",
            Self::Advisories => "advisory ID is not allowed",
            Self::OsImage => "OS image is not allowed",
            Self::KmsMeasurement => "aggregated MR not allowed",
            Self::KmsDevice => "KMS is not allowed to boot on this device",
            Self::App => "app not registered",
            Self::ComposeHash => "compose hash not allowed",
            Self::AppDevice => "app is not allowed to boot on this device",
        }
    }

    pub(crate) fn denial(self, expected: String, actual: String) -> Denial {
        Denial {
            code: self.code(),
            reason: self.reason().to_owned(),
            expected: Some(expected),
            actual: Some(actual),
        }
    }
}

/// The outcome of a rule for a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleOutcome {
    /// The rule.
    pub rule: Rule,
    /// Its outcome.
    pub outcome: Outcome,
}

/// Whether a rule holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The rule holds.
    Holds,
    /// The rule holds if the guest has booted this OS image, and fails with this denial otherwise.
    HoldsIfImage(OsImageHash, Denial),
    /// The rule fails.
    Fails(Denial),
    /// The rule has nothing to compare with, because an earlier rule failed.
    Skipped(&'static str),
}

impl RuleOutcome {
    /// Whether it fails with this code.
    pub fn is_failure_of(&self, code: DenialCode) -> bool {
        self.failure().is_some_and(|denial| denial.code == code)
    }

    /// The denial, if it fails.
    pub fn failure(&self) -> Option<&Denial> {
        match &self.outcome {
            Outcome::Fails(denial) => Some(denial),
            Outcome::Holds | Outcome::HoldsIfImage(..) | Outcome::Skipped(_) => None,
        }
    }
}

impl From<Option<Denial>> for Outcome {
    fn from(denial: Option<Denial>) -> Self {
        denial.map_or(Self::Holds, Self::Fails)
    }
}
