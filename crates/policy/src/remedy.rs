//! Changes that would allow a denied caller: an addition to an `auth-config.json`, or a call of a contract.

use serde_json::{Map, Value, json};

use crate::decision::{DenialCode, Subject};
use crate::kms_image::KmsImage;

/// What to do about one denial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remedy {
    /// The denial's code.
    pub code: DenialCode,
    /// What to do, and which protection that removes, if any.
    pub sentence: String,
    /// A JSON object to merge into an `auth-config.json`; its list entries are added.
    pub fragment: Option<Value>,
    /// A call of a contract, if a contract decides.
    pub call: Option<Call>,
}

/// A call that changes what a contract allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its address: `0x` and 40 digits; empty if unknown.
    pub contract: String,
    /// The canonical signature.
    pub function: &'static str,
    /// `0x…`
    pub argument: String,
}

/// The contract that is called.
pub(crate) enum Contract {
    Kms,
    App,
}

/// What to add to an `auth-config.json` against a denial with `code`.
pub(crate) fn in_allowlist(code: DenialCode, subject: Subject<'_>) -> Option<Remedy> {
    let (sentence, fragment) = addition(code, subject)?;
    Some(Remedy { code, sentence, fragment: Some(fragment), call: None })
}

/// The same, where registers are compared with OS images: a KMS is added by what it runs, so that the entry also holds for
/// instances of other shapes.
pub(crate) fn by_image(code: DenialCode, subject: Subject<'_>) -> Option<Remedy> {
    match (code, subject) {
        (DenialCode::KmsMeasurement, Subject::Kms(caller)) => {
            let entry = KmsImage::of(caller)?.written();
            let measurement = hex::encode(&caller.mr_aggregated);
            let sentence = format!(
                "add {entry} to kms.images, which allows the KMS on VMs of any shape; or add the measurement {measurement} to \
                 kms.mrAggregated, which allows this VM only"
            );
            Some(Remedy {
                code,
                sentence,
                fragment: Some(json!({ "kms": { "images": [entry] } })),
                call: None,
            })
        }
        (DenialCode::KmsMeasurement, Subject::App(_))
        | (
            DenialCode::TcbStatus
            | DenialCode::Advisory
            | DenialCode::OsImage
            | DenialCode::Device
            | DenialCode::AppNotRegistered
            | DenialCode::ComposeHash
            | DenialCode::AppNotDeployed
            | DenialCode::InvalidRequest
            | DenialCode::GuestHasBooted
            | DenialCode::EpochTooNew
            | DenialCode::EpochNotReadable
            | DenialCode::EpochNotActive
            | DenialCode::EpochRetired
            | DenialCode::EpochDestroyed
            | DenialCode::EpochUnknown
            | DenialCode::AllowlistUnusable
            | DenialCode::Backend,
            _,
        ) => None,
    }
}

/// What the owner of a contract can do about a denial with `code`; `kms_contract` is the address of the
/// DstackKms contract, if it is known.
pub(crate) fn on_chain(
    code: DenialCode,
    subject: Subject<'_>,
    kms_contract: impl FnOnce() -> Option<String>,
) -> Option<Remedy> {
    let app = || prefixed(&subject.boot_info().app_id);
    let (sentence, call) = match (code, subject) {
        (DenialCode::TcbStatus, Subject::Kms(_)) => {
            ("update the machine's firmware, or tolerate its state in core.tcb".to_owned(), None)
        }
        (DenialCode::TcbStatus, Subject::App(_)) => {
            let sentence = "update the machine's firmware, tolerate its state in core.tcb, or have the app's \
                            owner accept every state";
            let function = "setRequireTcbUpToDate(bool)";
            let call = Call { contract: app(), function, argument: "false".to_owned() };
            (sentence.to_owned(), Some(call))
        }
        (DenialCode::AppNotDeployed, Subject::App(_)) => {
            (format!("deploy the app's contract at {}, and register it", app()), None)
        }
        (DenialCode::AppNotDeployed, Subject::Kms(_)) => return None,
        (
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
            | DenialCode::Backend,
            Subject::App(_) | Subject::Kms(_),
        ) => {
            let (contract, function, value) = call(code, subject)?;
            let (contract, owner) = match contract {
                Contract::App => (app(), "the app's contract"),
                Contract::Kms => (kms_contract().unwrap_or_default(), "the DstackKms contract"),
            };
            let call = Call { contract, function, argument: prefixed(value) };
            (format!("the owner of {owner} calls {function} with {}", call.argument), Some(call))
        }
    };
    Some(Remedy { code, sentence, fragment: None, call })
}

/// What to do about a denial, and the addition to an `auth-config.json`.
fn addition(code: DenialCode, subject: Subject<'_>) -> Option<(String, Value)> {
    let identity = subject.boot_info();
    let app = hex::encode(&identity.app_id);
    let compose = hex::encode(&identity.compose_hash);
    let device = hex::encode(&identity.device_id);
    let image = hex::encode(&identity.os_image_hash);
    Some(match (code, subject) {
        (DenialCode::TcbStatus, _) => {
            let status = &identity.tcb_status;
            let sentence = format!(
                "update the machine's firmware, tolerate its state in core.tcb, or accept it by adding {status} to \
                 allowedTcbStatuses, for everyone"
            );
            (sentence, json!({ "allowedTcbStatuses": ["UpToDate", status] }))
        }
        (DenialCode::Advisory, _) => {
            let sentence = "update the machine's firmware, tolerate the advisories in core.tcb, or accept them in \
                            allowedAdvisoryIds, for everyone";
            (sentence.to_owned(), json!({ "allowedAdvisoryIds": identity.advisory_ids }))
        }
        (DenialCode::OsImage, _) if image.is_empty() => return None,
        (DenialCode::OsImage, _) => {
            (format!("add the OS image {image} to osImages"), json!({ "osImages": [image] }))
        }
        (DenialCode::KmsMeasurement, Subject::Kms(_)) => {
            let measurement = hex::encode(&identity.mr_aggregated);
            let sentence = format!("add the measurement {measurement} to kms.mrAggregated");
            (sentence, json!({ "kms": { "mrAggregated": [measurement] } }))
        }
        (DenialCode::Device, Subject::Kms(_)) => {
            (format!("add the device {device} to kms.devices"), json!({ "kms": { "devices": [device] } }))
        }
        (DenialCode::Device, Subject::App(_)) => {
            let sentence = format!("add the device {device} to apps.{app}.devices");
            (sentence, json!({ "apps": { app: { "devices": [device] } } }))
        }
        (DenialCode::ComposeHash, Subject::App(_)) => {
            let sentence = format!("add the compose hash {compose} to apps.{app}.composeHashes");
            (sentence, json!({ "apps": { app: { "composeHashes": [compose] } } }))
        }
        (DenialCode::AppNotRegistered, Subject::App(_)) => {
            let sentence = format!("register the app {app}, with this compose hash and this device");
            let entry = json!({ "composeHashes": [compose], "devices": [device], "allowAnyDevice": false });
            (sentence, json!({ "apps": { app: entry } }))
        }
        (DenialCode::KmsMeasurement, Subject::App(_))
        | (DenialCode::ComposeHash | DenialCode::AppNotRegistered, Subject::Kms(_))
        | (
            DenialCode::AppNotDeployed
            | DenialCode::InvalidRequest
            | DenialCode::GuestHasBooted
            | DenialCode::EpochTooNew
            | DenialCode::EpochNotReadable
            | DenialCode::EpochNotActive
            | DenialCode::EpochRetired
            | DenialCode::EpochDestroyed
            | DenialCode::EpochUnknown
            | DenialCode::AllowlistUnusable
            | DenialCode::Backend,
            _,
        ) => return None,
    })
}

/// The contract, the canonical signature and the argument of the call that resolves a denial with `code`.
pub(crate) fn call(code: DenialCode, subject: Subject<'_>) -> Option<(Contract, &'static str, &[u8])> {
    let identity = subject.boot_info();
    Some(match (code, subject) {
        (DenialCode::OsImage, _) if identity.os_image_hash.is_empty() => return None,
        (DenialCode::OsImage, _) => (Contract::Kms, "addOsImageHash(bytes32)", &identity.os_image_hash),
        (DenialCode::KmsMeasurement, Subject::Kms(_)) => {
            (Contract::Kms, "addKmsAggregatedMr(bytes32)", &identity.mr_aggregated)
        }
        (DenialCode::Device, Subject::Kms(_)) => {
            (Contract::Kms, "addKmsDevice(bytes32)", &identity.device_id)
        }
        (DenialCode::Device, Subject::App(_)) => (Contract::App, "addDevice(bytes32)", &identity.device_id),
        (DenialCode::ComposeHash, Subject::App(_)) => {
            (Contract::App, "addComposeHash(bytes32)", &identity.compose_hash)
        }
        (DenialCode::AppNotRegistered, Subject::App(_)) => {
            (Contract::Kms, "registerApp(address)", &identity.app_id)
        }
        (DenialCode::KmsMeasurement, Subject::App(_))
        | (DenialCode::ComposeHash | DenialCode::AppNotRegistered, Subject::Kms(_))
        | (
            DenialCode::TcbStatus
            | DenialCode::Advisory
            | DenialCode::AppNotDeployed
            | DenialCode::InvalidRequest
            | DenialCode::GuestHasBooted
            | DenialCode::EpochTooNew
            | DenialCode::EpochNotReadable
            | DenialCode::EpochNotActive
            | DenialCode::EpochRetired
            | DenialCode::EpochDestroyed
            | DenialCode::EpochUnknown
            | DenialCode::AllowlistUnusable
            | DenialCode::Backend,
            _,
        ) => return None,
    })
}

fn prefixed(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

/// Merges the fragments into one object. Lists are joined without repeats.
pub fn merged<'a>(fragments: impl IntoIterator<Item = &'a Value>) -> Value {
    let mut whole = Value::Object(Map::new());
    for fragment in fragments {
        merge(&mut whole, fragment);
    }
    whole
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                match into.get_mut(key) {
                    Some(known) => merge(known, value),
                    None => {
                        into.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        (Value::Array(into), Value::Array(from)) => {
            for value in from {
                if !into.contains(value) {
                    into.push(value.clone());
                }
            }
        }
        (into, from) => *into = from.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Duration;

    use alloy_primitives::Address;
    use kms_attest::identity::BootInfo;
    use kms_attest::outgoing::Endpoint;

    use super::*;
    use crate::decision::Decision;
    use crate::policy::Policy;
    use crate::rules::Rules;
    use crate::settings::{self, AuthApi, BlockChoice, EmptyDevices};

    fn policy(file: &std::path::Path) -> Policy {
        let config = AuthApi::Allowlist { path: file.to_owned(), empty_devices: EmptyDevices::NoDevice };
        Policy::from_config(&config).expect("an allowlist")
    }

    /// Follows the remedies until the caller is allowed. Each remedy must satisfy one more rule.
    #[test]
    fn following_the_remedies_of_an_empty_allowlist_allows_everyone() {
        let mut identity = BootInfo::example();
        identity.tcb_status = "OutOfDate".to_owned();
        identity.advisory_ids = vec!["INTEL-SA-1".to_owned(), "INTEL-SA-2".to_owned()];
        let mut file = tempfile::NamedTempFile::new().expect("file");
        file.write_all(b"{}").expect("written");
        let policy = policy(file.path());
        for subject in [Subject::App(&identity), Subject::Kms(&identity)] {
            let mut whole = json!({});
            let mut seen = Vec::new();
            loop {
                let rules = Rules::parse(whole.to_string().as_bytes()).expect("rules");
                let Decision::Denied(denial) = rules.decide(subject, EmptyDevices::NoDevice) else { break };
                assert!(!seen.contains(&denial.code), "{} did not help: {whole}", denial.code.name());
                seen.push(denial.code);
                let remedy = policy.remedy(denial.code, subject).expect("a remedy");
                whole = merged([&whole, remedy.fragment.as_ref().expect("a fragment")]);
            }
            assert!(seen.len() >= 4, "{seen:?}");
        }
    }

    #[test]
    fn where_images_are_compared_a_kms_is_added_by_what_it_runs() {
        let provider = json!({ "name": "local-sgx", "id": "51".repeat(32) });
        let mut caller = BootInfo::example();
        caller.key_provider_info = provider.to_string().into_bytes();
        let file = tempfile::NamedTempFile::new().expect("file");
        let policy = policy(file.path());
        let remedy =
            policy.remedy_by_image(DenialCode::KmsMeasurement, Subject::Kms(&caller)).expect("a remedy");
        let fragment = remedy.fragment.expect("a fragment");
        let entry = json!({
            "osImageHash": "44".repeat(32),
            "composeHash": "22".repeat(32),
            "keyProvider": provider,
        });
        assert_eq!(fragment, json!({ "kms": { "images": [entry] } }));
        for part in [
            "to kms.images, which allows the KMS on VMs of any shape",
            "to kms.mrAggregated, which allows this VM only",
        ] {
            assert!(remedy.sentence.contains(part), "{}", remedy.sentence);
        }
        // It allows this caller on another shape too, if the image is the right one.
        let whole =
            merged([&json!({ "osImages": ["44".repeat(32)], "kms": { "allowAnyDevice": true } }), &fragment]);
        let rules = Rules::parse(whole.to_string().as_bytes()).expect("rules");
        for measurement in [[0x55; 32], [0x56; 32]] {
            caller.mr_aggregated = measurement.to_vec();
            let decision = rules.decide(Subject::Kms(&caller), EmptyDevices::NoDevice);
            assert!(matches!(decision, Decision::IfImage(_)), "{decision:?}");
        }
        // There is no entry for a caller that names no image, or whose key provider is written in another way.
        let changes: [fn(&mut BootInfo); 2] = [
            |it: &mut BootInfo| it.os_image_hash.clear(),
            |it: &mut BootInfo| it.key_provider_info = b"sgx".to_vec(),
        ];
        for change in changes {
            let mut caller = caller.clone();
            change(&mut caller);
            let subject = Subject::Kms(&caller);
            let remedy = policy.remedy_by_image(DenialCode::KmsMeasurement, subject).expect("a remedy");
            assert_eq!(Some(remedy), policy.remedy(DenialCode::KmsMeasurement, subject));
        }
    }

    #[test]
    fn remedies_on_a_chain_name_contract_function_and_argument() {
        let chain = settings::Ethereum {
            rpc_urls: vec![Endpoint::parse("http://127.0.0.1:9").expect("a URL")],
            chain_id: 1,
            kms_contract: Address::repeat_byte(0x11),
            block: BlockChoice::Finalized,
            max_block_age: BlockChoice::Finalized.usual_age(),
            agreement: 1,
            request_timeout: Duration::from_secs(5),
            ca_file: None,
        };
        let policy = Policy::from_config(&AuthApi::Ethereum(Box::new(chain))).expect("a policy");
        let identity = BootInfo::example();
        let (app, kms) = (Subject::App(&identity), Subject::Kms(&identity));
        for (subject, code, function, argument) in [
            (app, DenialCode::AppNotRegistered, "registerApp(address)", "11".repeat(20)),
            (app, DenialCode::ComposeHash, "addComposeHash(bytes32)", "22".repeat(32)),
            (app, DenialCode::Device, "addDevice(bytes32)", "33".repeat(32)),
            (app, DenialCode::OsImage, "addOsImageHash(bytes32)", "44".repeat(32)),
            (kms, DenialCode::Device, "addKmsDevice(bytes32)", "33".repeat(32)),
            (kms, DenialCode::KmsMeasurement, "addKmsAggregatedMr(bytes32)", "55".repeat(32)),
        ] {
            let remedy = policy.remedy(code, subject).unwrap_or_else(|| panic!("{code:?}"));
            let call = remedy.call.unwrap_or_else(|| panic!("{code:?}"));
            assert_eq!((call.function, call.argument), (function, format!("0x{argument}")), "{code:?}");
            assert_eq!(remedy.fragment, None, "{code:?}");
        }
        let compose = policy.remedy(DenialCode::ComposeHash, app).and_then(|remedy| remedy.call);
        assert_eq!(compose.expect("a call").contract, format!("0x{}", "11".repeat(20)));
        let tcb = policy.remedy(DenialCode::TcbStatus, app).and_then(|remedy| remedy.call).expect("a call");
        assert_eq!((tcb.function, &*tcb.argument), ("setRequireTcbUpToDate(bool)", "false"));
        assert_eq!(policy.remedy(DenialCode::TcbStatus, kms).expect("a sentence").call, None);
        assert_eq!(policy.remedy(DenialCode::Backend, app), None);
    }

    #[test]
    fn fragments_are_merged_without_repeats() {
        let whole = merged([
            &json!({ "osImages": ["a"], "apps": { "x": { "devices": ["d"] } } }),
            &json!({ "osImages": ["a", "b"], "apps": { "x": { "composeHashes": ["c"] } } }),
        ]);
        let expected = json!({
            "osImages": ["a", "b"],
            "apps": { "x": { "devices": ["d"], "composeHashes": ["c"] } },
        });
        assert_eq!(whole, expected);
    }

    #[test]
    fn an_image_hash_that_is_missing_cannot_be_added() {
        let mut identity = BootInfo::example();
        identity.os_image_hash.clear();
        let file = tempfile::NamedTempFile::new().expect("file");
        assert_eq!(policy(file.path()).remedy(DenialCode::OsImage, Subject::App(&identity)), None);
    }
}
