//! A table of files with their findings.

use serde_json::{Value, json};

use super::findings::MAX_FINDINGS;
use super::*;

const APP: &str = "1111111111111111111111111111111111111111";

fn hash(byte: &str) -> String {
    byte.repeat(32)
}

/// A file without findings.
fn good() -> Value {
    json!({
        "gatewayAppId": "0xgate",
        "osImages": [hash("44")],
        "allowedAdvisoryIds": ["INTEL-SA-00837"],
        "kms": {"mrAggregated": [hash("55")], "devices": [hash("33")]},
        "apps": {APP: {"composeHashes": [hash("22")], "allowAnyDevice": true}},
    })
}

fn with(change: impl FnOnce(&mut Value)) -> String {
    let mut file = good();
    change(&mut file);
    file.to_string()
}

fn found(text: &str, empty_devices: EmptyDevices) -> Vec<(Severity, &'static str, String)> {
    let review = Review::of(text.as_bytes(), empty_devices);
    let is_usable = Rules::parse(text.as_bytes()).is_ok();
    assert_eq!(review.is_usable(), is_usable, "what decides and what is reviewed agree: {text}");
    assert_eq!(review.findings.has_errors(), !is_usable, "{text}");
    assert!(
        review.findings().iter().all(|finding| finding.code != "invalid"),
        "an error has a place: {text}"
    );
    review.findings().iter().map(|finding| (finding.severity, finding.code, finding.at.clone())).collect()
}

#[test]
fn a_good_file_has_no_findings() {
    for empty_devices in [EmptyDevices::AnyDevice, EmptyDevices::NoDevice] {
        assert_eq!(found(&good().to_string(), empty_devices), []);
    }
    let summary = Review::of(good().to_string().as_bytes(), EmptyDevices::AnyDevice).summary().unwrap();
    let expected = Summary {
        apps: 1,
        compose_hashes: 1,
        os_images: 1,
        kms_measurements: 1,
        kms_images: 0,
        tcb_statuses: 1,
        advisories: 1,
    };
    assert_eq!(summary, expected);
}

#[test]
fn errors_have_a_place() {
    for (text, code, at) in [
        ("{\n \"apps\": }".to_owned(), "not_json", "line 2, column 10"),
        (String::new(), "not_json", "line 1, column 0"),
        ("[]".to_owned(), "wrong_type", ""),
        ("null".to_owned(), "wrong_type", ""),
        (with(|f| f["osImages"] = json!("44")), "wrong_type", "osImages"),
        (with(|f| f["osImages"] = json!([7])), "wrong_type", "osImages[0]"),
        (with(|f| f["chainId"] = json!(-1)), "wrong_type", "chainId"),
        (with(|f| f["chainId"] = json!(1.5)), "wrong_type", "chainId"),
        (with(|f| f["gatewayAppId"] = json!(null)), "wrong_type", "gatewayAppId"),
        (with(|f| f["allowedTcbStatuses"] = json!(null)), "wrong_type", "allowedTcbStatuses"),
        (with(|f| f["kms"] = json!(null)), "wrong_type", "kms"),
        (with(|f| f["kms"]["allowAnyDevice"] = json!("true")), "wrong_type", "kms.allowAnyDevice"),
        (with(|f| f["apps"] = json!([])), "wrong_type", "apps"),
        (with(|f| f["kms"]["images"] = json!({})), "wrong_type", "kms.images"),
        (with(|f| f["kms"]["images"] = json!([{}])), "wrong_type", "kms.images[0]"),
        (
            with(|f| f["kms"]["images"] = json!([{ "osImageHash": hash("44"), "composehash": hash("22") }])),
            "wrong_type",
            "kms.images[0]",
        ),
        (with(|f| f["apps"]["22"] = json!([])), "wrong_type", "apps.22"),
        (
            with(|f| f["apps"][APP]["composeHashes"][0] = json!({})),
            "wrong_type",
            "apps.1111111111111111111111111111111111111111.composeHashes[0]",
        ),
        (with(|f| f["apps"]["22"] = json!({"rootEpoch": "new"})), "wrong_type", "apps.22.rootEpoch"),
        (with(|f| f["apps"]["22"] = json!({"appEpoch": "1"})), "wrong_type", "apps.22.appEpoch"),
        (with(|f| f["apps"]["22"] = json!({"readableEpochs": 1})), "wrong_type", "apps.22.readableEpochs"),
        (with(|f| f["apps"]["22"] = json!({"app_epoch": 1})), "wrong_type", "apps.22.app_epoch"),
    ] {
        let found = found(&text, EmptyDevices::AnyDevice);
        assert!(found.contains(&(Severity::Error, code, at.to_owned())), "{text}: {found:?}");
    }
}

#[test]
fn an_entry_without_its_apparent_effect_is_a_warning() {
    let app = |key: &str| format!("apps.{APP}.{key}");
    let any = EmptyDevices::AnyDevice;
    let none = EmptyDevices::NoDevice;
    for (text, empty_devices, code, at) in [
        (with(|f| f["osImage"] = json!([])), any, "unknown_key", "osImage".to_owned()),
        (with(|f| f["kms"]["device"] = json!([])), any, "unknown_key", "kms.device".to_owned()),
        (with(|f| f["apps"][APP]["composehashes"] = json!([])), any, "unknown_key", app("composehashes")),
        (
            with(|f| f["apps"][APP]["readableEpochs"] = json!([0])),
            any,
            "epoch_not_older",
            app("readableEpochs"),
        ),
        (
            with(|f| f["kms"]["images"] = json!([{ "osImageHash": hash("43"), "composeHash": hash("22") }])),
            any,
            "image_not_listed",
            "kms.images[0]".to_owned(),
        ),
        (
            with(|f| {
                let entry = |image| json!({ "osImageHash": image, "composeHash": hash("22") });
                f["kms"]["images"] = json!([entry(hash("44")), entry(format!("0X{}", hash("44")))]);
            }),
            any,
            "duplicate_value",
            "kms.images[1]".to_owned(),
        ),
        (with(|f| f["osImages"][0] = json!("444")), any, "impossible_value", "osImages[0]".to_owned()),
        (with(|f| f["osImages"][0] = json!("44")), any, "impossible_value", "osImages[0]".to_owned()),
        (with(|f| f["osImages"][0] = json!("xyz")), any, "impossible_value", "osImages[0]".to_owned()),
        (with(|f| f["osImages"][0] = json!("")), any, "impossible_value", "osImages[0]".to_owned()),
        (
            with(|f| f["osImages"][0] = json!(format!(" {}", hash("44")))),
            any,
            "impossible_value",
            "osImages[0]".to_owned(),
        ),
        (with(|f| f["osImages"] = json!([hash("44"), null])), any, "wrong_type", "osImages[1]".to_owned()),
        (
            with(|f| f["apps"]["11"] = json!({"composeHashes": [hash("22")], "allowAnyDevice": true})),
            any,
            "impossible_value",
            "apps.11".to_owned(),
        ),
        (
            with(|f| f["apps"]["shop"] = json!({"composeHashes": [hash("22")], "allowAnyDevice": true})),
            any,
            "impossible_value",
            "apps.shop".to_owned(),
        ),
        (
            with(|f| f["osImages"] = json!([hash("44"), format!("0x{}", hash("44"))])),
            any,
            "duplicate_value",
            "osImages[1]".to_owned(),
        ),
        (
            with(|f| f["apps"][format!("0x{APP}")] = f["apps"][APP].clone()),
            any,
            "duplicate_app",
            format!("apps.0x{APP}"),
        ),
        (with(|f| f["apps"][APP]["allowAnyDevice"] = json!(false)), any, "any_device", app("devices")),
        (with(|f| f["apps"][APP]["allowAnyDevice"] = json!(false)), none, "no_device", app("devices")),
        (with(|f| f["kms"]["devices"] = json!([])), any, "any_device", "kms.devices".to_owned()),
        (
            with(|f| f["kms"]["allowAnyDevice"] = json!(true)),
            any,
            "devices_ignored",
            "kms.devices".to_owned(),
        ),
        (
            with(|f| f["allowedTcbStatuses"] = json!(["uptodate"])),
            any,
            "unknown_tcb_status",
            "allowedTcbStatuses[0]".to_owned(),
        ),
        (
            with(|f| f["allowedTcbStatuses"] = json!(["UpToDate", "Revoked"])),
            any,
            "revoked_allowed",
            "allowedTcbStatuses[1]".to_owned(),
        ),
        (with(|f| f["allowedTcbStatuses"] = json!([])), any, "denies_all", "allowedTcbStatuses".to_owned()),
        (with(|f| f["osImages"] = json!([])), any, "denies_all", "osImages".to_owned()),
        (
            with(|f| f["allowedAdvisoryIds"] = json!(["SA-1"])),
            any,
            "unknown_advisory",
            "allowedAdvisoryIds[0]".to_owned(),
        ),
        (with(|f| f["kms"]["mrAggregated"] = json!([])), any, "no_kms", "kms.mrAggregated".to_owned()),
        (with(|f| f["apps"][APP]["composeHashes"] = json!([])), any, "no_compose_hash", app("composeHashes")),
        (with(|f| f["gatewayAppId"] = json!("any")), any, "any_gateway", "gatewayAppId".to_owned()),
        (with(|f| f["gatewayAppId"] = json!("")), any, "no_gateway", "gatewayAppId".to_owned()),
        (with(|_| {}).replacen('{', "{\"osImages\": [],", 1), any, "duplicate_key", "osImages".to_owned()),
    ] {
        let found = found(&text, empty_devices);
        assert!(
            found.iter().any(|(_, known, place)| (*known, place) == (code, &at)),
            "{code} {at}: {found:?}\n{text}"
        );
    }
}

#[test]
fn the_nearest_name_is_suggested() {
    let message = |text: &str, code: &str| {
        let review = Review::of(text.as_bytes(), EmptyDevices::AnyDevice);
        review.findings().iter().find(|finding| finding.code == code).unwrap().message.clone()
    };
    let text = with(|f| f["osImage"] = json!([]));
    assert!(message(&text, "unknown_key").contains("did you mean `osImages`?"));
    let text = with(|f| f["allowedTcbStatuses"] = json!(["UP_TO_DATE"]));
    assert!(message(&text, "unknown_tcb_status").contains("did you mean `UpToDate`?"));
    let text = with(|f| f["allowedTcbStatuses"] = json!(["fine"]));
    assert!(message(&text, "unknown_tcb_status").contains("they are UpToDate, SWHardeningNeeded"));
}

#[test]
fn findings_are_bounded_and_an_error_is_always_listed() {
    let list: Vec<String> = (0..1000).map(|_| "x".to_owned()).collect();
    let text = with(|f| {
        f["osImages"] = json!(list);
        f["apps"][APP]["devices"] = json!(7);
    });
    let review = Review::of(text.as_bytes(), EmptyDevices::AnyDevice);
    assert_eq!(review.findings()[0].severity, Severity::Error);
    assert!(review.findings().len() <= MAX_FINDINGS + 1 && review.unlisted() > 700);
    let nested = "[".repeat(1 << 16);
    assert_eq!(found(&nested, EmptyDevices::AnyDevice)[0].1, "not_json");
}

#[test]
fn a_difference_is_what_one_file_allows_and_the_other_does_not() {
    let review = |text: &str| Review::of(text.as_bytes(), EmptyDevices::AnyDevice);
    let old = review(&good().to_string());
    // The same in another notation.
    let same = with(|f| {
        f["osImages"][0] = json!(format!("0X{}", hash("44")));
        f["allowedTcbStatuses"] = json!(["UpToDate"]);
        f["apps"][APP]["allowAnyDevice"] = json!(false);
    });
    assert_eq!(review(&same).against(&old), Difference::default());
    let new = review(&with(|f| {
        f["osImages"] = json!([hash("45")]);
        f["apps"][APP]["composeHashes"] = json!([hash("22"), hash("23")]);
        f["apps"][APP]["allowAnyDevice"] = json!(false);
        f["apps"][APP]["devices"] = json!([hash("33")]);
        f["apps"]["22".repeat(20)] = json!({});
        f["kms"]["devices"] = json!([]);
    }));
    let shown = |grants: &[Grant]| -> Vec<String> { grants.iter().map(ToString::to_string).collect() };
    let Difference { newly_allowed, newly_denied } = new.against(&old);
    assert_eq!(
        shown(&newly_allowed),
        [
            format!("OS image {}", hash("45")),
            "KMS on device any".to_owned(),
            format!("app {}", "22".repeat(20)),
            format!("app {APP} with compose hash {}", hash("23")),
            format!("app {APP} on device {}", hash("33")),
            format!("app {} on device any", "22".repeat(20)),
        ]
    );
    assert_eq!(
        shown(&newly_denied),
        [
            format!("OS image {}", hash("44")),
            format!("KMS on device {}", hash("33")),
            format!("app {APP} on device any"),
        ]
    );
    let broken = review("{");
    assert_eq!(broken.against(&old).newly_denied.len(), old.grants.as_ref().unwrap().len());
    assert_eq!(broken.against(&old).newly_allowed, []);
}

#[test]
fn a_difference_lists_changed_release_stages() {
    let review = |stage: Value| {
        let text = with(|f| f["apps"][APP]["releaseStage"] = stage);
        Review::of(text.as_bytes(), EmptyDevices::NoDevice)
    };
    let shown = |grants: &[Grant]| -> Vec<String> { grants.iter().map(ToString::to_string).collect() };
    let running = |rule: &str| vec![format!("app {APP} after it has booted ({rule} any)")];
    let (by_entry, by_default) = (running("releaseStage"), running("core.release_stage"));
    for (old, new, allowed, denied) in [
        (json!(null), json!("boot"), vec![], by_default.clone()),
        (json!("boot"), json!(null), by_default.clone(), vec![]),
        (json!("boot"), json!("any"), by_entry.clone(), vec![]),
        (json!("any"), json!("boot"), vec![], by_entry.clone()),
        (json!(null), json!("any"), by_entry, by_default),
        (json!("boot"), json!("boot"), vec![], vec![]),
    ] {
        let Difference { newly_allowed, newly_denied } = review(new.clone()).against(&review(old.clone()));
        assert_eq!((shown(&newly_allowed), shown(&newly_denied)), (allowed, denied), "{old} {new}");
    }
}

#[test]
fn a_difference_lists_changed_epochs() {
    let review = |root: Value| {
        let text = with(|f| {
            f["apps"][APP]["rootEpoch"] = root;
            f["apps"][APP]["readableEpochs"] = json!(["0.0"]);
        });
        Review::of(text.as_bytes(), EmptyDevices::NoDevice)
    };
    let grant = |epochs: &str| {
        let epochs = format!("{epochs}readableEpochs 0.0");
        Grant::Epochs { app: APP.to_owned(), epochs }
    };
    let Difference { newly_allowed, newly_denied } = review(json!("current")).against(&review(json!(null)));
    assert_eq!((newly_allowed, newly_denied), (vec![grant("rootEpoch current, ")], vec![grant("")]));
    assert_eq!(review(json!(1)).against(&review(json!(1))), Difference::default());
    assert_eq!(grant("").to_string(), format!("app {APP} with keys of these epochs: readableEpochs 0.0"));
}
