//! The reasons of the known backends and the stable codes they get here.

use super::Denial;

/// What auth-eth gives as the reason of a denial while its node does not answer, and dstack-auth while its backend
/// does not.
pub(super) const OUTAGE: &str = "authorization backend unavailable";

/// A rule of the allowlist, in the order in which they are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    TcbStatus,
    Advisory,
    OsImage,
    KmsMeasurement,
    KmsDevice,
    App,
    ComposeHash,
    AppDevice,
}

impl Rule {
    /// For metrics and machines.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::TcbStatus => "tcb_status_not_allowed",
            Self::Advisory => "advisory_not_allowed",
            Self::OsImage => "os_image_not_allowed",
            Self::KmsMeasurement => "kms_measurement_not_allowed",
            Self::KmsDevice | Self::AppDevice => "device_not_allowed",
            Self::App => "app_not_registered",
            Self::ComposeHash => "compose_hash_not_allowed",
        }
    }

    /// auth-simple's words, verbatim: operators and their documentation know them.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::TcbStatus => "TCB status is not allowed",
            Self::Advisory => "advisory ID is not allowed",
            Self::OsImage => "OS image is not allowed",
            Self::KmsMeasurement => "aggregated MR not allowed",
            Self::KmsDevice => "KMS is not allowed to boot on this device",
            Self::App => "app not registered",
            Self::ComposeHash => "compose hash not allowed",
            Self::AppDevice => "app is not allowed to boot on this device",
        }
    }

    pub(super) fn denial(self, expected: String, actual: String) -> Denial {
        Denial {
            code: self.code(),
            reason: self.reason().to_owned(),
            expected: Some(expected),
            actual: Some(actual),
        }
    }
}

/// The code of a reason in the words of auth-simple, dstack-auth, auth-eth or the contracts, in any case of letters.
pub(super) fn code_of(reason: &str) -> &'static str {
    match reason.to_ascii_lowercase().as_str() {
        "tcb status is not allowed" | "tcb status is not up to date" => Rule::TcbStatus.code(),
        "advisory id is not allowed" => Rule::Advisory.code(),
        "os image is not allowed" | "os image not allowed" => Rule::OsImage.code(),
        "aggregated mr not allowed" | "kms mraggregated not allowed" => Rule::KmsMeasurement.code(),
        "kms is not allowed to boot on this device"
        | "app is not allowed to boot on this device"
        | "device not allowed" => Rule::AppDevice.code(),
        "app not registered" => Rule::App.code(),
        "compose hash not allowed" => Rule::ComposeHash.code(),
        "app not deployed or invalid address" => "app_not_deployed",
        "invalid authorization request" => "invalid_request",
        _ => "denied_by_backend",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_all_backends_have_codes() {
        for (reason, code) in [
            ("TCB status is not up to date", "tcb_status_not_allowed"),
            ("Aggregated MR not allowed", "kms_measurement_not_allowed"),
            ("App not registered", "app_not_registered"),
            ("Compose hash not allowed", "compose_hash_not_allowed"),
            ("Device not allowed", "device_not_allowed"),
            ("mock policy: denied", "denied_by_backend"),
            ("", "denied_by_backend"),
        ] {
            assert_eq!(code_of(reason), code, "{reason:?}");
        }
    }

    #[test]
    fn a_rules_own_reason_leads_back_to_its_code() {
        use Rule::*;
        for rule in [TcbStatus, Advisory, OsImage, KmsMeasurement, KmsDevice, App, ComposeHash, AppDevice] {
            assert_eq!(code_of(rule.reason()), rule.code());
        }
    }
}
