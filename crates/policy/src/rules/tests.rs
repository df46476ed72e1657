//! Each rule with its reason, the normalisation of hex, and files that are refused.

use kms_attest::identity::BootInfo;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::decision::DenialCode;

fn file() -> Value {
    json!({
        "gatewayAppId": "any",
        "kmsContractAddr": "0xabc",
        "chainId": 8453,
        "appImplementation": "0xdef",
        "osImages": ["44".repeat(32)],
        "kms": {"mrAggregated": ["55".repeat(32)], "devices": ["33".repeat(32)]},
        "apps": {"11".repeat(20): {"composeHashes": ["22".repeat(32)], "devices": ["33".repeat(32)]}},
    })
}

fn changed(change: impl FnOnce(&mut Value)) -> Rules {
    let mut file = file();
    change(&mut file);
    Rules::parse(file.to_string().as_bytes()).unwrap()
}

fn rules() -> Rules {
    changed(|_| {})
}

fn with(change: impl FnOnce(&mut BootInfo)) -> BootInfo {
    let mut boot_info = BootInfo::example();
    change(&mut boot_info);
    boot_info
}

/// The reasons of the denials as a KMS and as an app; empty if allowed.
fn reasons_with(rules: &Rules, boot_info: &BootInfo, empty_devices: EmptyDevices) -> [String; 2] {
    [Subject::Kms(boot_info), Subject::App(boot_info)].map(|subject| {
        match rules.decide(subject, empty_devices) {
            Decision::Allowed { gateway_app_id, .. } => {
                assert_eq!(gateway_app_id, "any");
                String::new()
            }
            Decision::IfImage(condition) => panic!("{condition:?}"),
            Decision::Denied(denial) => denial.reason,
        }
    })
}

fn reasons(rules: &Rules, boot_info: &BootInfo) -> [String; 2] {
    reasons_with(rules, boot_info, EmptyDevices::AnyDevice)
}

#[test]
fn what_the_file_allows_is_allowed() {
    assert_eq!(reasons(&rules(), &BootInfo::example()), ["", ""]);
}

#[test]
fn each_rule_denies_with_its_own_reason() {
    for (boot_info, kms, app) in [
        (
            with(|b| b.tcb_status = "OutOfDate".into()),
            "TCB status is not allowed",
            "TCB status is not allowed",
        ),
        (with(|b| b.tcb_status = String::new()), "TCB status is not allowed", "TCB status is not allowed"),
        (
            with(|b| b.tcb_status = "uptodate".into()),
            "TCB status is not allowed",
            "TCB status is not allowed",
        ),
        (
            with(|b| b.advisory_ids = vec!["INTEL-SA-00837".into()]),
            "advisory ID is not allowed",
            "advisory ID is not allowed",
        ),
        (with(|b| b.os_image_hash = vec![0; 32]), "OS image is not allowed", "OS image is not allowed"),
        (with(|b| b.os_image_hash = vec![]), "OS image is not allowed", "OS image is not allowed"),
        (with(|b| b.mr_aggregated = vec![0; 32]), "aggregated MR not allowed", ""),
        (
            with(|b| b.device_id = vec![0; 32]),
            "KMS is not allowed to boot on this device",
            "app is not allowed to boot on this device",
        ),
        (
            with(|b| b.device_id = vec![]),
            "KMS is not allowed to boot on this device",
            "app is not allowed to boot on this device",
        ),
        (with(|b| b.app_id = vec![0; 20]), "", "app not registered"),
        (with(|b| b.compose_hash = vec![0; 32]), "", "compose hash not allowed"),
    ] {
        assert_eq!(reasons(&rules(), &boot_info), [kms, app], "{boot_info:?}");
    }
}

#[test]
fn the_first_failing_rule_answers() {
    let mut boot_info = with(|b| {
        b.tcb_status = "Revoked".into();
        b.advisory_ids = vec!["A".into()];
        b.os_image_hash = vec![];
        b.mr_aggregated = vec![];
        b.app_id = vec![];
        b.compose_hash = vec![];
        b.device_id = vec![];
    });
    let rules = rules();
    let mut seen = Vec::new();
    let fixes: [fn(&mut BootInfo); 6] = [
        |b| b.tcb_status = "UpToDate".into(),
        |b| b.advisory_ids.clear(),
        |b| b.os_image_hash = vec![0x44; 32],
        |b| (b.mr_aggregated, b.app_id) = (vec![0x55; 32], vec![0x11; 20]),
        |b| b.compose_hash = vec![0x22; 32],
        |b| b.device_id = vec![0x33; 32],
    ];
    for fix in fixes {
        seen.push(reasons(&rules, &boot_info));
        fix(&mut boot_info);
    }
    assert_eq!(reasons(&rules, &boot_info), ["", ""]);
    let expected = [
        ["TCB status is not allowed"; 2],
        ["advisory ID is not allowed"; 2],
        ["OS image is not allowed"; 2],
        ["aggregated MR not allowed", "app not registered"],
        ["KMS is not allowed to boot on this device", "compose hash not allowed"],
        ["KMS is not allowed to boot on this device", "app is not allowed to boot on this device"],
    ];
    assert_eq!(seen, expected);
}

#[test]
fn statuses_and_advisories_can_be_allowed() {
    let rules = changed(|file| {
        file["allowedTcbStatuses"] = json!(["SWHardeningNeeded"]);
        file["allowedAdvisoryIds"] = json!(["INTEL-SA-1", "INTEL-SA-2"]);
    });
    for (status, advisories, reason) in [
        ("SWHardeningNeeded", vec!["INTEL-SA-2", "INTEL-SA-1"], ""),
        ("SWHardeningNeeded", vec!["INTEL-SA-1", "INTEL-SA-3"], "advisory ID is not allowed"),
        ("UpToDate", vec![], "TCB status is not allowed"),
    ] {
        let boot_info = with(|b| {
            b.tcb_status = status.into();
            b.advisory_ids = advisories.into_iter().map(str::to_owned).collect();
        });
        assert_eq!(reasons(&rules, &boot_info), [reason; 2]);
    }
}

#[test]
fn hex_is_compared_in_any_case_with_or_without_its_prefix() {
    let abcd = "abCD".repeat(16);
    let boot_info = with(|b| b.os_image_hash = hex::decode(&abcd).unwrap());
    for (text, allowed) in [
        (abcd.clone(), true),
        (abcd.to_lowercase(), true),
        (abcd.to_uppercase(), true),
        (format!("0x{abcd}"), true),
        (format!("0X{abcd}"), true),
        (format!(" {abcd}"), false),
        (format!("{abcd}\n"), false),
        (format!("0x0x{abcd}"), false),
        (abcd[2..].to_owned(), false),
        (format!("00{abcd}"), false),
        (abcd[1..].to_owned(), false),
        ("not hex".to_owned(), false),
        (String::new(), false),
    ] {
        let rules = changed(|file| file["osImages"] = json!([text]));
        assert_eq!(reasons(&rules, &boot_info)[1].is_empty(), allowed, "{text:?}");
    }
}

#[test]
fn app_ids_are_normalised_too_and_of_equal_ones_the_last_wins() {
    let id = hex::encode([0xab; 20]);
    let boot_info = with(|b| b.app_id = vec![0xab; 20]);
    let allowing = json!({"composeHashes": ["22".repeat(32)], "allowAnyDevice": true});
    let rules = changed(|file| file["apps"] = json!({format!("0x{}", id.to_uppercase()): allowing}));
    assert_eq!(reasons(&rules, &boot_info)[1], "");
    let rules = changed(|file| file["apps"] = json!({id.clone(): allowing, format!("0x{id}"): {}}));
    assert_eq!(reasons(&rules, &boot_info)[1], "compose hash not allowed");
    let twice = format!(r#"{{"osImages": [], "osImages": ["{}"]}}"#, "44".repeat(32));
    assert_eq!(reasons(&Rules::parse(twice.as_bytes()).unwrap(), &with(|_| ()))[1], "app not registered");
}

#[test]
fn an_empty_value_is_never_allowed() {
    let rules = changed(|file| {
        for list in [json!([""]), json!(["0x"])] {
            file["osImages"] = list.clone();
            file["kms"]["devices"] = list;
        }
    });
    let boot_info = with(|b| b.os_image_hash = vec![]);
    assert_eq!(reasons(&rules, &boot_info), ["OS image is not allowed"; 2]);
}

#[test]
fn an_empty_device_list_means_any_device_unless_strict() {
    let elsewhere = with(|b| b.device_id = vec![0; 32]);
    let rules = changed(|file| {
        file["apps"]["11".repeat(20)]["devices"] = json!([]);
        file["kms"]["devices"] = json!([]);
    });
    assert_eq!(reasons(&rules, &elsewhere), ["", ""]);
    let denied = ["KMS is not allowed to boot on this device", "app is not allowed to boot on this device"];
    assert_eq!(reasons_with(&rules, &elsewhere, EmptyDevices::NoDevice), denied);
    let relaxation = rules.relaxation().unwrap();
    assert_eq!(relaxation.code.name(), "empty_device_list");
    let named = format!("the KMS, app {}", "11".repeat(20));
    assert!(relaxation.sentence.ends_with(&named), "{}", relaxation.sentence);
}

#[test]
fn any_device_can_be_allowed_explicitly() {
    let elsewhere = with(|b| b.device_id = vec![0; 32]);
    let rules = changed(|file| {
        file["kms"]["allowAnyDevice"] = json!(true);
        file["apps"]["11".repeat(20)]["allowAnyDevice"] = json!(true);
    });
    assert_eq!(reasons_with(&rules, &elsewhere, EmptyDevices::NoDevice), ["", ""]);
    assert_eq!(rules.relaxation(), None);
}

#[test]
fn a_device_list_of_nonsense_allows_no_device() {
    let rules = changed(|file| file["kms"]["devices"] = json!(["nonsense"]));
    assert_eq!(reasons(&rules, &BootInfo::example())[0], "KMS is not allowed to boot on this device");
}

#[test]
fn denials_say_what_was_expected_and_what_was_there() {
    let other = with(|b| b.compose_hash = vec![0; 32]);
    let Decision::Denied(denial) = rules().decide(Subject::App(&other), EmptyDevices::AnyDevice) else {
        panic!("the compose hash is not in the file")
    };
    let expected = Denial {
        code: DenialCode::ComposeHash,
        reason: "compose hash not allowed".to_owned(),
        expected: Some("22".repeat(32)),
        actual: Some("00".repeat(32)),
    };
    assert_eq!(denial, expected);
    let many =
        changed(|file| file["osImages"] = (0..100).map(|n| format!("{n:064}")).collect::<Vec<_>>().into());
    let Decision::Denied(denial) = many.decide(Subject::App(&other), EmptyDevices::AnyDevice) else {
        panic!("the OS image is not in the file")
    };
    let expected = denial.expected.unwrap();
    assert!(expected.ends_with(", and 96 more") && expected.len() < 400, "{expected}");
}

#[test]
fn an_empty_file_has_the_peers_defaults_and_allows_nothing() {
    for rules in
        [Rules::deny_all(), Rules::parse(b"{}").unwrap(), Rules::parse(br#"{"unknown": null}"#).unwrap()]
    {
        let zero = "0x0000000000000000000000000000000000000000";
        let info = rules.info();
        assert_eq!(info.gateway_app_id.as_deref(), Some(""));
        assert_eq!(info.kms_contract_address.as_deref(), Some(zero));
        assert_eq!(info.app_auth_implementation.as_deref(), Some(zero));
        assert_eq!((info.chain_id, info.eth_rpc_url), (Some(0), None));
        assert_eq!(reasons(&rules, &BootInfo::example()), ["OS image is not allowed"; 2]);
    }
}

#[test]
fn info_comes_from_the_file() {
    let info = rules().info();
    assert_eq!(info.gateway_app_id.as_deref(), Some("any"));
    assert_eq!(info.kms_contract_address.as_deref(), Some("0xabc"));
    assert_eq!(info.chain_id, Some(8453));
    assert_eq!(info.app_auth_implementation.as_deref(), Some("0xdef"));
}

#[test]
fn files_with_another_structure_are_refused() {
    for text in [
        "",
        "{",
        "[]",
        "null",
        "{} {}",
        r#"{"osImages": "x"}"#,
        r#"{"osImages": [1]}"#,
        r#"{"osImages": null}"#,
        r#"{"chainId": "1"}"#,
        r#"{"chainId": -1}"#,
        r#"{"apps": []}"#,
        r#"{"apps": {"11": []}}"#,
        r#"{"apps": {"11": {"allowAnyDevice": 1}}}"#,
        r#"{"apps": {"11": [["22"], [], true]}}"#,
        r#"{"kms": {"devices": {}}}"#,
        r#"{"kms": [["55"], [], true]}"#,
    ] {
        let error = Rules::parse(text.as_bytes()).expect_err(text).to_string();
        assert!(error.starts_with("is not a valid auth-config.json: "), "{error}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(Rules::parse(deep.as_bytes()).is_err());
}

#[test]
fn ten_thousand_apps_cost_what_one_costs() {
    let apps: serde_json::Map<String, Value> = (0..10_000)
        .map(|n| {
            (format!("{n:040x}"), json!({"composeHashes": ["22".repeat(32)], "devices": ["33".repeat(32)]}))
        })
        .collect();
    let rules = changed(|file| file["apps"] = apps.into());
    let last = with(|b| b.app_id = hex::decode(format!("{:040x}", 9_999)).unwrap());
    let decisions = |_| {
        let started = std::time::Instant::now();
        for _ in 0..50 {
            let decision = rules.decide(Subject::App(&last), EmptyDevices::AnyDevice);
            assert!(matches!(decision, Decision::Allowed { .. }));
        }
        started.elapsed() / 50
    };
    // The quickest, because other programs use this machine too.
    let each = (0..50).map(decisions).min().expect("some");
    println!("{each:?} a decision");
    assert!(each < std::time::Duration::from_micros(100), "{each:?} a decision");
}

#[test]
fn a_misspelt_stage_makes_the_file_unusable() {
    let id = "11".repeat(20);
    for key in
        ["release_stage", "releasestage", "ReleaseStage", "release-stage", "RELEASE_STAGE", "releaseStage "]
    {
        let mut file = file();
        file["apps"][&id][key] = json!("boot");
        let error = Rules::parse(file.to_string().as_bytes()).expect_err(key).to_string();
        assert!(error.ends_with(&format!("`{key}` of an app must be written releaseStage")), "{error}");
        // Also beside the correct key: which of the two is meant is unknown.
        file["apps"][&id]["releaseStage"] = json!("any");
        assert!(Rules::parse(file.to_string().as_bytes()).is_err(), "{key}");
    }
    for key in ["stage", "releaseStages", "release.stage", "note"] {
        let mut file = file();
        file["apps"][&id][key] = json!("boot");
        assert!(Rules::parse(file.to_string().as_bytes()).is_ok(), "{key}");
    }
}

#[test]
fn an_entry_says_the_epochs_of_its_app() {
    let id = "11".repeat(20);
    let entry = |change: &dyn Fn(&mut Value)| {
        let mut file = file();
        change(&mut file["apps"][&id]);
        Rules::parse(file.to_string().as_bytes())
    };
    let identity = BootInfo::example();
    let said = |rules: &Rules, subject| match rules.decide(subject, EmptyDevices::AnyDevice) {
        Decision::Allowed { epochs, .. } => epochs.map(|epochs| epochs.to_string()),
        other => panic!("{other:?}"),
    };
    let rules = entry(&|_| {}).unwrap();
    assert_eq!((said(&rules, Subject::App(&identity)), rules.epochs_of(&[0x11; 20])), (None, None));
    let rules = entry(&|app| {
        app["rootEpoch"] = json!("current");
        app["readableEpochs"] = json!([0]);
    });
    let rules = rules.unwrap();
    let expected = "rootEpoch current, readableEpochs 0".to_owned();
    assert_eq!(said(&rules, Subject::App(&identity)), Some(expected));
    assert_eq!(said(&rules, Subject::Kms(&identity)), None);
    assert!(rules.epochs_of(&[0x11; 20]).is_some() && rules.epochs_of(&[0x12; 20]).is_none());
    for (key, value, problem) in [
        ("rootEpoch", json!("latest"), "rootEpoch must be \"current\" or the number of a root epoch"),
        ("appEpoch", json!(1.5), "appEpoch must be a whole number, not negative"),
        ("readableEpochs", json!(["x"]), "readableEpochs must be a list"),
        ("root_epoch", json!(0), "`root_epoch` of an app must be written rootEpoch"),
        ("APPEPOCH", json!(0), "`APPEPOCH` of an app must be written appEpoch"),
    ] {
        let error = entry(&|app| app[key] = value.clone()).expect_err(key).to_string();
        assert!(error.contains(problem), "{error}");
    }
}

fn hash(byte: u8) -> String {
    hex::encode([byte; 32])
}

proptest! {
    /// Decisions and explanations use the same rules.
    #[test]
    fn the_first_rule_that_fails_is_the_one_that_decides(
        picks in prop::collection::vec(any::<bool>(), 8),
        strict in any::<bool>(),
    ) {
        let some = |pick: bool, value: String| if pick { vec![value] } else { Vec::new() };
        let identity = BootInfo::example();
        let file = json!({
            "allowedTcbStatuses": some(picks[0], "UpToDate".to_owned()),
            "osImages": some(picks[1], hash(0x44)),
            "kms": { "mrAggregated": some(picks[2], hash(0x55)), "devices": some(picks[3], hash(0x33)) },
            "apps": match picks[4] {
                false => json!({}),
                true => json!({ hex::encode([0x11; 20]): {
                    "composeHashes": some(picks[5], hash(0x22)),
                    "devices": some(picks[6], hash(0x33)),
                    "allowAnyDevice": picks[7],
                } }),
            },
        });
        let rules = Rules::parse(file.to_string().as_bytes()).expect("rules");
        let empty = if strict { EmptyDevices::NoDevice } else { EmptyDevices::AnyDevice };
        for subject in [Subject::App(&identity), Subject::Kms(&identity)] {
            let checks = rules.checks(subject, empty).collect::<Vec<_>>();
            let first = checks.iter().find_map(RuleOutcome::failure).cloned();
            let decided = match rules.decide(subject, empty) {
                Decision::Denied(denial) => Some(denial),
                Decision::Allowed { .. } | Decision::IfImage(_) => None,
            };
            prop_assert_eq!(first, decided);
        }
    }
}

/// A file that names KMSs by what they run only.
fn by_image(entries: Value) -> Result<Rules, RulesError> {
    let mut file = file();
    file["kms"] = json!({ "images": entries, "allowAnyDevice": true });
    Rules::parse(file.to_string().as_bytes())
}

fn entry() -> Value {
    json!({ "osImageHash": "44".repeat(32), "composeHash": "22".repeat(32) })
}

fn provider(name: &str, id: &str) -> Vec<u8> {
    json!({ "name": name, "id": id }).to_string().into_bytes()
}

/// A KMS as it runs.
fn running(change: impl FnOnce(&mut BootInfo)) -> BootInfo {
    with(|boot_info| {
        boot_info.key_provider_info = provider("none", "");
        change(boot_info);
    })
}

/// The image that the decision depends on, or the reason of the denial.
fn image_of(rules: &Rules, caller: &BootInfo) -> Result<String, String> {
    match rules.decide(Subject::Kms(caller), EmptyDevices::NoDevice) {
        Decision::IfImage(condition) => Ok(condition.image().to_string()),
        Decision::Denied(denial) => Err(denial.reason),
        allowed @ Decision::Allowed { .. } => panic!("it must depend on the image: {allowed:?}"),
    }
}

#[test]
fn an_entry_by_image_depends_on_the_image_and_on_what_runs_in_it() {
    let denied = || Err("aggregated MR not allowed".to_owned());
    let image = || Ok("44".repeat(32));
    let with_key = |change: &dyn Fn(&mut Value)| {
        let mut entry = entry();
        change(&mut entry);
        by_image(json!([entry])).unwrap()
    };
    let plain = with_key(&|_| {});
    let sgx = with_key(&|it| {
        it["keyProvider"] = json!({ "name": "local-sgx", "id": format!("0X{}", "AB".repeat(32)) })
    });
    let none = with_key(&|it| it["keyProvider"] = json!({ "name": "none" }));
    let app = with_key(&|it| it["appId"] = json!(format!("0x{}", "11".repeat(20))));
    let of_sgx = || running(|b| b.key_provider_info = provider("local-sgx", &"ab".repeat(32)));
    let cases: [(&Rules, BootInfo, Result<String, String>); 20] = [
        (&plain, running(|_| {}), image()),
        // Another shape or instance has another measurement.
        (&plain, running(|b| b.mr_aggregated = vec![9; 32]), image()),
        (&plain, running(|b| b.instance_id = vec![]), image()),
        (&plain, running(|b| b.app_id = vec![9; 20]), image()),
        (&none, running(|_| {}), image()),
        (&plain, running(|b| b.compose_hash = vec![9; 32]), denied()),
        (&plain, running(|b| b.os_image_hash = vec![9; 32]), Err("OS image is not allowed".to_owned())),
        (&plain, running(|b| b.os_image_hash = vec![]), Err("OS image is not allowed".to_owned())),
        // The host chose where the key of the disk comes from.
        (&plain, of_sgx(), denied()),
        (&sgx, of_sgx(), image()),
        (&sgx, running(|_| {}), denied()),
        (&sgx, running(|b| b.key_provider_info = provider("local-sgx", &"ac".repeat(32))), denied()),
        (&sgx, running(|b| b.key_provider_info = provider("kms", &"ab".repeat(32))), denied()),
        // It still boots: its key provider is not known.
        (&plain, running(|b| b.key_provider_info.clear()), denied()),
        (&none, running(|b| b.key_provider_info.clear()), denied()),
        (&plain, running(|b| b.key_provider_info = b"{}".to_vec()), denied()),
        (
            &plain,
            running(|b| b.key_provider_info = br#"{"name":"none","id":"","more":1}"#.to_vec()),
            denied(),
        ),
        (&app, running(|_| {}), image()),
        (&app, running(|b| b.app_id = vec![9; 20]), denied()),
        (&app, running(|b| b.device_id = vec![9; 32]), image()),
    ];
    for (index, (rules, caller, expected)) in cases.into_iter().enumerate() {
        assert_eq!(image_of(rules, &caller), expected, "{index}: {caller:?}");
    }
    let app = Subject::App(&BootInfo::example());
    assert!(plain.decide(app, EmptyDevices::AnyDevice).is_allowed(), "apps are judged as before");
}

#[test]
fn a_listed_measurement_needs_no_image_and_other_rules_come_first() {
    let mut both = file();
    both["kms"]["images"] = json!([entry(), entry()]);
    let rules = Rules::parse(both.to_string().as_bytes()).unwrap();
    assert_eq!(reasons(&rules, &BootInfo::example()), ["", ""]);
    assert_eq!(image_of(&rules, &running(|b| b.mr_aggregated = vec![9; 32])), Ok("44".repeat(32)));
    let elsewhere = running(|b| (b.mr_aggregated, b.device_id) = (vec![9; 32], vec![9; 32]));
    assert_eq!(image_of(&rules, &elsewhere), Err("KMS is not allowed to boot on this device".to_owned()));
    let old = running(|b| (b.mr_aggregated, b.tcb_status) = (vec![9; 32], "OutOfDate".to_owned()));
    assert_eq!(image_of(&rules, &old), Err("TCB status is not allowed".to_owned()));
    // An empty device list means any device only where the setting says so, and operators are told.
    both["kms"] = json!({ "images": [entry()] });
    let rules = Rules::parse(both.to_string().as_bytes()).unwrap();
    assert_eq!(
        image_of(&rules, &running(|_| {})),
        Err("KMS is not allowed to boot on this device".to_owned())
    );
    assert!(rules.relaxation().unwrap().sentence.ends_with("the KMS"));
    assert!(rules.summary().ends_with("0 KMS measurements, 1 KMS images"), "{}", rules.summary());
}

#[test]
fn an_entry_by_image_that_is_not_whole_makes_the_file_invalid() {
    for (entries, problem) in [
        (json!({}), "invalid type: map, expected a sequence"),
        (json!(["44"]), "kms.images[0] must be an object"),
        (json!([["44", "22"]]), "kms.images[0] must be an object"),
        (json!([entry(), {}]), "kms.images[1] missing field `osImageHash`"),
        (json!([{ "osImageHash": "44".repeat(32) }]), "missing field `composeHash`"),
        (
            json!([{ "osImageHash": "44", "composeHash": "22".repeat(32) }]),
            "osImageHash must have 64 hex digits",
        ),
        (
            json!([{ "osImageHash": "44".repeat(32), "composeHash": "" }]),
            "composeHash must have 64 hex digits",
        ),
    ] {
        let error = by_image(entries.clone()).expect_err("it is not whole").to_string();
        assert!(error.contains(problem), "{entries}: {error}");
    }
    for (key, value, problem) in [
        ("appid", json!("11"), "unknown field `appid`"),
        ("appId", json!("11"), "appId must have 40 hex digits"),
        ("keyProvider", json!("local-sgx"), "invalid type"),
        ("keyProvider", json!({ "name": "" }), "keyProvider.name must be"),
        ("keyProvider", json!({ "name": "none", "id": "00" }), "keyProvider.id must be empty"),
        ("keyProvider", json!({ "name": "kms", "id": "xy" }), "keyProvider.id must be hex"),
        ("keyProvider", json!({ "name": "kms", "mr": "00" }), "unknown field `mr`"),
    ] {
        let mut entry = entry();
        entry[key] = value.clone();
        let error = by_image(json!([entry])).expect_err("it is not whole").to_string();
        assert!(error.contains(problem), "{key} {value}: {error}");
    }
}

#[test]
fn of_ten_thousand_entries_the_one_that_fits_decides() {
    let entries: Vec<Value> = (0..10_000)
        .map(|n| json!({ "osImageHash": "44".repeat(32), "composeHash": format!("{n:064x}"), "appId": format!("{n:040x}") }))
        .collect();
    let rules = by_image(Value::Array(entries)).unwrap();
    let last = running(|b| {
        b.compose_hash = hex::decode(format!("{:064x}", 9_999)).unwrap();
        b.app_id = hex::decode(format!("{:040x}", 9_999)).unwrap();
    });
    assert!(image_of(&rules, &last).is_ok());
    let other = running(|b| b.compose_hash = hex::decode(format!("{:064x}", 9_999)).unwrap());
    assert!(image_of(&rules, &other).is_err());
}
