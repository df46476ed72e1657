//! Allowlists: the decisions of a file, compared with a second, slow evaluation of the same rules.

use std::fs;

use cvm_kms::config::{AuthApi, EmptyDevices};
use kms_attest::identity::BootInfo;
use kms_policy::review::{Difference, Review};
use kms_policy::{AppEpochs, Decision, Policy, Subject};
use serde_json::Value;
use tempfile::TempDir;

thread_local! {
    static DIRECTORY: TempDir = TempDir::new().expect("a directory for allowlists");
}

/// A file that cannot be used allows nothing; any other allows exactly what its rules say.
pub fn allowlist(data: &[u8]) {
    let value: Option<Value> = serde_json::from_slice(data).ok();
    for empty_devices in [EmptyDevices::AnyDevice, EmptyDevices::NoDevice] {
        let policy = open(data, empty_devices);
        let _ = (policy.relaxation(), policy.last_info());
        let file = value.as_ref().filter(|_| policy.last_error().is_none());
        let review = Review::of(data, empty_devices);
        assert_eq!(review.is_usable(), file.is_some(), "{:?}", String::from_utf8_lossy(data));
        assert!(review.findings().iter().all(|finding| finding.code != "invalid"), "an error has a place");
        assert_eq!(review.against(&review), Difference::default());
        for advisories in [vec![], vec!["INTEL-SA-1".to_owned()]] {
            let short = boot_info(advisories);
            let whole = whole(&short);
            let callers = [&short, &whole].map(|it| [Subject::App(it), Subject::Kms(it)]);
            for subject in callers.into_iter().flatten() {
                let answer = match policy.snapshot_decide(subject).expect("a file decides at once") {
                    Decision::Allowed { gateway_app_id, epochs, .. } => {
                        assert_eq!(file.map(|file| text(&file["gatewayAppId"])), Some(gateway_app_id));
                        let said = epochs.map(|epochs| epochs.fields());
                        let again =
                            said.as_ref().map(|said| AppEpochs::parse(said).expect("what it says is valid"));
                        assert_eq!(again.flatten().map(|epochs| epochs.fields()), said);
                        Answer::Allowed
                    }
                    Decision::IfImage(condition) => {
                        assert_eq!(&condition.image().0[..], &subject.boot_info().os_image_hash[..]);
                        Answer::IfImage
                    }
                    Decision::Denied(denial) => {
                        assert_eq!(denial.code.name() == "allowlist_unusable", file.is_none());
                        Answer::Denied
                    }
                };
                let expected = file.map_or(Answer::Denied, |file| answer_of(file, subject, empty_devices));
                assert_eq!(answer, expected, "{:?}", String::from_utf8_lossy(data));
            }
        }
    }
}

fn open(data: &[u8], empty_devices: EmptyDevices) -> Policy {
    DIRECTORY.with(|directory| {
        let path = directory.path().join("auth-config.json");
        fs::write(&path, data).expect("the file can be written");
        Policy::from_config(&AuthApi::Allowlist { path, empty_devices })
            .expect("an allowlist is always a policy")
    })
}

/// Short values, so that matches occur by chance.
pub fn boot_info(advisory_ids: Vec<String>) -> BootInfo {
    BootInfo {
        tee_variant: "dstack-tdx".to_owned(),
        mr_aggregated: vec![0xa1],
        os_image_hash: vec![0xb2],
        mr_system: vec![0xc3],
        app_id: vec![0xd4],
        compose_hash: vec![0xe5],
        instance_id: vec![],
        device_id: vec![0xf6],
        key_provider_info: vec![],
        tcb_status: "UpToDate".to_owned(),
        advisory_ids,
    }
}

/// The same values in the lengths that measured ones have, which entries of `kms.images` need.
fn whole(short: &BootInfo) -> BootInfo {
    BootInfo {
        os_image_hash: short.os_image_hash.repeat(32),
        compose_hash: short.compose_hash.repeat(32),
        app_id: short.app_id.repeat(20),
        key_provider_info: br#"{"name":"none","id":""}"#.to_vec(),
        ..short.clone()
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Allowed,
    IfImage,
    Denied,
}

/// The rules as in auth-simple: lower-case text with `0x`, compared one by one; and ours about images.
fn answer_of(file: &Value, subject: Subject<'_>, empty_devices: EmptyDevices) -> Answer {
    let boot = subject.boot_info();
    let lists = |list: &Value, hash: &[u8]| texts(list).iter().any(|text| is_hex_of(text, hash));
    let device = |rule: &Value| {
        let devices = texts(&rule["devices"]);
        rule["allowAnyDevice"] == true
            || (devices.is_empty() && empty_devices == EmptyDevices::AnyDevice)
            || devices.iter().any(|text| is_hex_of(text, &boot.device_id))
    };
    let statuses = match &file["allowedTcbStatuses"] {
        Value::Null => vec!["UpToDate".to_owned()],
        statuses => texts(statuses),
    };
    let advisories = texts(&file["allowedAdvisoryIds"]);
    let system = statuses.contains(&boot.tcb_status)
        && boot.advisory_ids.iter().all(|advisory| advisories.contains(advisory))
        && lists(&file["osImages"], &boot.os_image_hash);
    let kms = &file["kms"];
    let by_image = || {
        kms["images"].as_array().into_iter().flatten().any(|entry| {
            is_hex_of(&text(&entry["osImageHash"]), &boot.os_image_hash)
                && is_hex_of(&text(&entry["composeHash"]), &boot.compose_hash)
                && (entry["appId"].is_null() || is_hex_of(&text(&entry["appId"]), &boot.app_id))
                && (entry["keyProvider"].is_null() || entry["keyProvider"]["name"] == "none")
        })
    };
    match subject {
        _ if !system => Answer::Denied,
        Subject::Kms(_) if !device(kms) => Answer::Denied,
        Subject::Kms(_) if lists(&kms["mrAggregated"], &boot.mr_aggregated) => Answer::Allowed,
        Subject::Kms(_) if by_image() => Answer::IfImage,
        Subject::Kms(_) => Answer::Denied,
        Subject::App(_) => {
            let mut apps = file["apps"].as_object().into_iter().flatten().rev();
            let app = apps.find(|(id, _)| is_hex_of(id, &boot.app_id)).map(|(_, app)| app);
            match app.is_some_and(|app| lists(&app["composeHashes"], &boot.compose_hash) && device(app)) {
                true => Answer::Allowed,
                false => Answer::Denied,
            }
        }
    }
}

fn is_hex_of(text: &str, bytes: &[u8]) -> bool {
    let text = text.to_lowercase();
    let with_prefix = if text.starts_with("0x") { text } else { format!("0x{text}") };
    with_prefix == format!("0x{}", hex::encode(bytes))
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(text).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
