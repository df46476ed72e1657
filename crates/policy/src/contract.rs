//! Maps the reasons of known backends to our stable codes.

use crate::decision::DenialCode;

/// The reason that auth-eth gives for a denial while its node does not respond, and dstack-auth while its
/// backend does not.
pub(crate) const OUTAGE: &str = "authorization backend unavailable";

/// The code for a reason of auth-simple, dstack-auth, auth-eth or the contracts, ignoring case.
pub(crate) fn code_of(reason: &str) -> DenialCode {
    match reason.to_ascii_lowercase().as_str() {
        "tcb status is not allowed" | "tcb status is not up to date" => DenialCode::TcbStatus,
        "advisory id is not allowed" => DenialCode::Advisory,
        "os image is not allowed" | "os image not allowed" => DenialCode::OsImage,
        "aggregated mr not allowed" | "kms mraggregated not allowed" => DenialCode::KmsMeasurement,
        "kms is not allowed to boot on this device"
        | "app is not allowed to boot on this device"
        | "device not allowed" => DenialCode::Device,
        "app not registered" => DenialCode::AppNotRegistered,
        "compose hash not allowed" => DenialCode::ComposeHash,
        "app not deployed or invalid address" => DenialCode::AppNotDeployed,
        "invalid authorization request" => DenialCode::InvalidRequest,
        _ => DenialCode::Backend,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Rule;

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
            assert_eq!(code_of(reason).name(), code, "{reason:?}");
        }
    }

    #[test]
    fn a_rules_own_reason_leads_back_to_its_code() {
        use Rule::*;
        for rule in [TcbStatus, Advisories, OsImage, KmsMeasurement, KmsDevice, App, ComposeHash, AppDevice] {
            assert_eq!(code_of(rule.reason()), rule.code());
        }
    }
}
