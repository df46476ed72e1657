//! A denial by the contract, with the call that would allow the caller.

use alloy_primitives::Address;

use super::rpc::printable;
use crate::contract;
use crate::decision::{Denial, DenialCode, Subject};
use crate::remedy::{self, Contract};

/// Maximum length of a reason in characters.
const MAX_REASON: usize = 512;

/// The denial of `subject` by `kms`, the DstackKms contract, or by the contract of the app that it calls.
pub(super) fn denial(subject: Subject<'_>, kms: Address, reason: &str) -> Denial {
    let reason: String = reason.chars().take(MAX_REASON).map(printable).collect();
    let code = contract::code_of(&reason);
    let (expected, actual) = remedy(subject, kms, code).unzip();
    Denial { code, reason, expected, actual }
}

/// The call that would change the decision, and its argument. An app can have its own kind of contract; these
/// are the calls of the standard one.
fn remedy(subject: Subject<'_>, kms: Address, code: DenialCode) -> Option<(String, String)> {
    let boot_info = subject.boot_info();
    let app = hex(&boot_info.app_id);
    let app_contract = format!("the app's contract {app}");
    match code {
        DenialCode::TcbStatus => {
            let expected = match subject {
                Subject::Kms(_) => "UpToDate".to_owned(),
                Subject::App(_) => {
                    format!("UpToDate, or setRequireTcbUpToDate(false) on {app_contract}")
                }
            };
            Some((expected, boot_info.tcb_status.clone()))
        }
        DenialCode::AppNotDeployed => Some((format!("a contract at {app}"), "no code there".to_owned())),
        DenialCode::Advisory
        | DenialCode::OsImage
        | DenialCode::KmsMeasurement
        | DenialCode::Device
        | DenialCode::AppNotRegistered
        | DenialCode::ComposeHash
        | DenialCode::InvalidRequest
        | DenialCode::GuestHasBooted
        | DenialCode::EpochTooNew
        | DenialCode::EpochNotReadable
        | DenialCode::EpochNotActive
        | DenialCode::EpochRetired
        | DenialCode::EpochDestroyed
        | DenialCode::EpochUnknown
        | DenialCode::AllowlistUnusable
        | DenialCode::Backend => remedy::call(code, subject).map(|(contract, function, argument)| {
            let contract = match contract {
                Contract::Kms => format!("the DstackKms contract {kms}"),
                Contract::App => app_contract,
            };
            let name = function.split('(').next().unwrap_or(function);
            (format!("{name}({}) on {contract}", hex(argument)), hex(argument))
        }),
    }
}

fn hex(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use kms_attest::identity::BootInfo;

    use super::*;

    #[test]
    fn each_reason_of_the_contracts_names_the_call_that_helps() {
        let mut boot_info = BootInfo::example();
        boot_info.tcb_status = "OutOfDate".to_owned();
        let kms = Address::from([0xee; 20]);
        let (kms_text, app_text) = (
            format!("on the DstackKms contract {kms}"),
            format!("on the app's contract 0x{}", "11".repeat(20)),
        );
        let word = |byte: &str| format!("0x{}", byte.repeat(32));
        let app_id = format!("0x{}", "11".repeat(20));
        let (app, own) = (Subject::App(&boot_info), Subject::Kms(&boot_info));
        for (subject, reason, code, expected, actual) in [
            (
                own,
                "TCB status is not up to date",
                "tcb_status_not_allowed",
                "UpToDate".to_owned(),
                "OutOfDate".to_owned(),
            ),
            (
                own,
                "OS image is not allowed",
                "os_image_not_allowed",
                format!("addOsImageHash({}) {kms_text}", word("44")),
                word("44"),
            ),
            (
                own,
                "Aggregated MR not allowed",
                "kms_measurement_not_allowed",
                format!("addKmsAggregatedMr({}) {kms_text}", word("55")),
                word("55"),
            ),
            (
                own,
                "KMS is not allowed to boot on this device",
                "device_not_allowed",
                format!("addKmsDevice({}) {kms_text}", word("33")),
                word("33"),
            ),
            (
                app,
                "App not registered",
                "app_not_registered",
                format!("registerApp({app_id}) {kms_text}"),
                app_id.clone(),
            ),
            (
                app,
                "OS image is not allowed",
                "os_image_not_allowed",
                format!("addOsImageHash({}) {kms_text}", word("44")),
                word("44"),
            ),
            (
                app,
                "App not deployed or invalid address",
                "app_not_deployed",
                format!("a contract at {app_id}"),
                "no code there".to_owned(),
            ),
            (
                app,
                "TCB status is not up to date",
                "tcb_status_not_allowed",
                format!("UpToDate, or setRequireTcbUpToDate(false) {app_text}"),
                "OutOfDate".to_owned(),
            ),
            (
                app,
                "Compose hash not allowed",
                "compose_hash_not_allowed",
                format!("addComposeHash({}) {app_text}", word("22")),
                word("22"),
            ),
            (
                app,
                "Device not allowed",
                "device_not_allowed",
                format!("addDevice({}) {app_text}", word("33")),
                word("33"),
            ),
        ] {
            let denial = denial(subject, kms, reason);
            assert_eq!((denial.code.name(), &*denial.reason), (code, reason));
            assert_eq!((denial.expected, denial.actual), (Some(expected), Some(actual)), "{reason}");
        }
    }

    #[test]
    fn an_unknown_reason_is_bounded_and_has_no_remedy() {
        let boot_info = BootInfo::example();
        let reason = format!("closed on Sundays\n{}", "é".repeat(1000));
        let denial = denial(Subject::App(&boot_info), Address::ZERO, &reason);
        assert_eq!(denial.code, DenialCode::Backend);
        assert!(
            denial.reason.starts_with("closed on Sundays é") && denial.reason.chars().count() == MAX_REASON
        );
        assert_eq!((denial.expected, denial.actual), (None, None));
    }
}
