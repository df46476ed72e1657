//! That the vectors can fail: whatever is unknown, missing or altered is told.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{Directory, FILES, Role};

/// What no result depends on, by the end of its place: explanations and names, the words of the peer's errors, whether
/// its repository has a copy of a file, what it makes of OS images.
const INFORMATIVE: [&str; 16] = [
    ".about",
    ".either",
    ".reason",
    ".origin",
    ".name",
    ".case",
    ".source",
    ".checked",
    ".error",
    ".verify_error",
    ".verify_error_with_matching_report",
    ".report_data_error",
    ".peer_error",
    ".error_3601s_later",
    ".os_image_verify_error",
    ".same_as_sdk_simulator_copy",
];

/// What goes into cases and can change without another outcome: unused parts of a set, a second more or less, a status
/// of the same class, what nothing is said about but whether it is accepted; and all of what is refused anyway.
const INPUTS: [&str; 17] = [
    "os_image.json.download_failures[].",
    "os_image.json.legacy[].vm_config",
    "os_image_v4.json.legacy[].vm_config",
    "os_image.json.lite[].event_log[].preimage",
    // Invented, and refused for that.
    "os_image.json.lite[].event_log[].digest",
    "os_image.json.lite[].expected.rtmr0",
    "os_image_v4.json.lite[].actual.",
    "acpi/acpi_tables.json.note.",
    // What QEMU was called with, and what the peer refuses.
    "acpi/acpi_tables.json.vectors[].shape.",
    "acpi/acpi_tables.json.vectors[].qemu_args",
    "acpi/acpi_tables.json.vectors[].peer_refuses",
    ".pck_crl_issuer_chain",
    ".now",
    ".status",
    "msgpack_leniency.json.cases[].bytes",
    "tdx_quotes.json.collateral.",
    "pccs.json.exchanges[].routes_differing_from_normal.",
];

fn names() -> impl Iterator<Item = &'static str> {
    FILES.iter().filter(|(_, role)| matches!(role, Role::Cases(_))).map(|(name, _)| *name)
}

fn content(name: &str) -> Value {
    let bytes = Directory::own().bytes(name).map_err(|problem| problem.0).expect("our own file");
    let mut content: Value = serde_json::from_slice(&bytes).expect("JSON");
    if name == "acpi/acpi_tables.json" {
        // Of many cases that are alike some are enough.
        let cases = content["vectors"].as_array_mut().expect("a list");
        *cases = std::mem::take(cases).into_iter().step_by(7).collect();
    }
    content
}

/// What fails with other content in the place of a file.
fn failures(name: &str, content: &Value) -> String {
    Directory::own().run_bytes(name, content.to_string().as_bytes()).failures().join("\n")
}

/// Every list of a file, as a JSON pointer.
fn lists(name: &str, content: &Value) -> Vec<String> {
    let (above, lists) = match name {
        "fixtures.json" => ("/fixtures", &content["fixtures"]),
        _ => ("", content),
    };
    let lists =
        lists.as_object().into_iter().flatten().filter(|(_, list)| list.is_array() || list.is_object());
    lists.map(|(key, _)| format!("{above}/{key}")).collect()
}

#[test]
fn a_list_that_is_not_known_fails_and_so_does_a_key_of_a_case() {
    for name in names() {
        let original = content(name);
        let above = if name == "fixtures.json" { "/fixtures" } else { "" };
        for pointer in lists(name, &original).into_iter().chain([above.to_owned()]) {
            let mut altered = original.clone();
            let target = altered.pointer_mut(&pointer).expect("it was found there");
            if target[0].is_string() {
                continue;
            }
            let case = if target.is_array() { &mut target[0] } else { target };
            case["unheard_of"] = json!(["x"]);
            let failures = failures(name, &altered);
            assert!(failures.contains("unheard_of"), "{name} {pointer}: {failures:?}");
        }
    }
}

#[test]
fn a_missing_or_empty_list_fails() {
    for name in names() {
        let original = content(name);
        for pointer in lists(name, &original) {
            let (above, key) = pointer.rsplit_once('/').expect("a pointer begins with a slash");
            let mut missing = original.clone();
            missing.pointer_mut(above).and_then(Value::as_object_mut).expect("an object").remove(key);
            assert!(failures(name, &missing).contains(key), "{name} without {pointer}");
            let mut empty = original.clone();
            let list = empty.pointer_mut(&pointer).expect("it was found there");
            *list = if list.is_array() { json!([]) } else { json!({}) };
            assert!(!failures(name, &empty).is_empty(), "{name} with an empty {pointer}");
        }
    }
}

#[test]
fn a_case_that_cannot_be_run_fails() {
    let cases = [
        ("keys.json", "/published_known_answers/0/kind", json!("lattice_signature")),
        ("keys.json", "/guest_getkey_chain/0/algorithm", json!("rsa")),
        ("keys.json", "/env_pubkey_signatures/0/timestamp", json!(0)),
        ("certs.json", "/csr/0/api_version", json!(3)),
        ("certs.json", "/report_data/0/hash", json!("md5")),
        ("certs.json", "/certificates/0/private_key_pem", json!("")),
        ("attestation.json", "/mr_config_ids/0/version", json!(4)),
        ("attestation.json", "/blobs/2/bytes", json!("ABCD")),
        ("eventlog.json", "/v2_preimage_validation/0/case", json!("v2 events from another planet")),
        ("eventlog.json", "/scenarios/0/events/0/version", json!(3)),
        ("tdx_quotes.json", "/cases/0/collateral", json!("unheard of")),
        ("tdx_quotes.json", "/cases/0/root_ca", json!("unheard of")),
        ("pccs.json", "/exchanges/0/routes", json!({})),
        ("fixtures.json", "/fixtures/dcap_qvl_samples/0/name", json!("unheard_of")),
    ];
    for (name, pointer, value) in cases {
        let mut altered = content(name);
        *altered.pointer_mut(pointer).expect(pointer) = value;
        assert!(!failures(name, &altered).is_empty(), "{name} {pointer}");
    }
}

#[test]
fn an_expectation_that_is_not_met_fails_with_its_place() {
    let cases = [
        ("keys.json", "/app_keys/3/disk_crypt_key"),
        ("certs.json", "/certificates/4/parsed/serial"),
        ("certs.json", "/csr/2/leaf_example/parsed/extensions/3/value"),
        ("attestation.json", "/blobs/3/decoded/platform/event_log/2/digest"),
        ("attestation.json", "/blobs/3/peer_verify/boot_info_signcert_request_config/boot_info/mrSystem"),
        ("attestation.json", "/blobs/3/peer_verify/boot_info_signcert_request_config/boot_info_json_text"),
        ("attestation.json", "/blobs/1/decoded/app_info_unverified_boottime/mr_aggregated"),
        ("eventlog.json", "/scenarios/4/pcr14_sha256_to_boot_mr_done"),
        ("tdx_quotes.json", "/cases/2/expected/ok/report/tee_tcb_svn2"),
        ("pccs.json", "/exchanges/2/requests/1"),
        ("fixtures.json", "/fixtures/ccel_bin/events/5/event_payload"),
        ("fixtures.json", "/fixtures/nitro_enclave/boot_info/boot_info/deviceId"),
    ];
    for (name, pointer) in cases {
        let mut altered = content(name);
        alter(altered.pointer_mut(pointer).expect(pointer));
        let told = failures(name, &altered);
        assert!(!told.is_empty(), "{name} {pointer}");
        let list = pointer.split('/').find(|part| !["", "fixtures"].contains(part)).expect("a list");
        assert!(told.contains(list), "{name} {pointer}: {told}");
    }
}

#[test]
fn a_verdict_that_is_turned_around_fails() {
    let refused = json!({"error": "no"});
    let cases = [
        ("msgpack_leniency.json", "/cases/0/peer_accepts", json!(false)),
        ("msgpack_leniency.json", "/cases/0/peer_error", json!("no")),
        ("attestation.json", "/blobs/2/peer_verify", json!({"ok": false, "error": "no"})),
        ("attestation.json", "/blobs/2/decoded/app_info_unverified_runtime", refused.clone()),
        ("attestation.json", "/decode_failures/0/error", json!(null)),
        ("certs.json", "/csr/9/verify_error", json!(null)),
        ("certs.json", "/csr/12/verify_of_decoded", json!(false)),
        ("certs.json", "/client_certificates/3/peer_decode", refused.clone()),
        ("eventlog.json", "/v2_preimage_validation/0/error", json!("no")),
        ("eventlog.json", "/v2_preimage_validation/1/error", json!(null)),
        ("tdx_quotes.json", "/cases/0/expected", refused.clone()),
        ("pccs.json", "/exchanges/0/verify", refused.clone()),
        ("pccs.json", "/exchanges/4/error", json!(null)),
        ("fixtures.json", "/fixtures/dcap_qvl_samples/0/verify/1/result", refused),
    ];
    for (name, pointer, value) in cases {
        let mut altered = content(name);
        *altered.pointer_mut(pointer).expect(pointer) = value;
        assert!(!failures(name, &altered).is_empty(), "{name} {pointer}");
    }
}

#[test]
fn a_key_that_is_there_twice_fails() {
    let ledger = Directory::own().run_bytes("keys.json", br#"{"about": "a", "about": "b"}"#);
    assert!(ledger.failures()[0].contains(r#"the key "about" is there twice"#), "{:?}", ledger.failures());
}

#[test]
fn files_that_are_unknown_missing_or_altered_fail() {
    type Spoil = fn(&Path) -> std::io::Result<()>;
    let cases: [(&str, Spoil); 6] = [
        ("more.json: not a file that this test knows", |root| fs::write(root.join("more.json"), "{}")),
        ("fixtures/dstack/more.bin: not a file", |root| fs::write(root.join("fixtures/dstack/more.bin"), "")),
        ("pccs.json: ", |root| fs::remove_file(root.join("pccs.json"))),
        ("fixtures/dstack/ccel.bin: ", |root| fs::remove_file(root.join("fixtures/dstack/ccel.bin"))),
        ("fixtures.json: dcap_qvl_samples[0]", |root| {
            fs::write(root.join("fixtures/dcap-qvl/tdx_quote.bin"), "not a quote")
        }),
        ("keys.json: ", |root| fs::write(root.join("keys.json"), "not JSON")),
    ];
    for (expected, spoil) in cases {
        let copy = tempfile::tempdir().expect("a temporary directory");
        copy_all(Directory::own().path(), copy.path()).expect("a copy");
        spoil(copy.path()).expect("a spoilt copy");
        let ledgers = Directory(copy.path().to_owned()).run();
        let failures: Vec<&String> = ledgers.iter().flat_map(|ledger| ledger.failures()).collect();
        assert!(failures.iter().any(|failure| failure.contains(expected)), "{expected}: {failures:?}");
    }
}

fn copy_all(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_all(&entry.path(), &target)?;
        } else {
            fs::write(target, fs::read(entry.path())?)?;
        }
    }
    Ok(())
}

/// Alters one value of each shape (`.list[].key`) in turn.
#[test]
fn no_value_can_be_altered_unnoticed() {
    let mut unnoticed = Vec::new();
    for name in names() {
        let original = content(name);
        let mut found = Vec::new();
        shapes(&original, "", name, &mut found);
        for (shape, pointer) in found {
            let is_free = INFORMATIVE.iter().any(|end| shape.ends_with(end))
                || INPUTS.iter().any(|input| shape.starts_with(input) || shape.ends_with(input));
            let mut altered = original.clone();
            alter(altered.pointer_mut(&pointer).expect("it was found there"));
            if !is_free && failures(name, &altered).is_empty() {
                unnoticed.push(format!("{shape} ({pointer})"));
            }
        }
    }
    assert!(unnoticed.is_empty(), "{} values:\n{}", unnoticed.len(), unnoticed.join("\n"));
}

/// The first value of each shape, as a JSON pointer.
fn shapes(value: &Value, pointer: &str, shape: &str, found: &mut Vec<(String, String)>) {
    match value {
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                shapes(item, &format!("{pointer}/{index}"), &format!("{shape}[]"), found);
            }
        }
        Value::Object(entries) => {
            for (key, item) in entries {
                let escaped = key.replace('~', "~0").replace('/', "~1");
                shapes(item, &format!("{pointer}/{escaped}"), &format!("{shape}.{key}"), found);
            }
        }
        _ if found.iter().all(|(known, _)| known != shape) => {
            found.push((shape.to_owned(), pointer.to_owned()));
        }
        _ => {}
    }
}

/// Another value of the same kind: in texts, another character in the middle.
fn alter(value: &mut Value) {
    *value = match &*value {
        Value::Null => json!("x"),
        Value::Bool(value) => json!(!value),
        Value::Number(number) => json!(number.as_u64().unwrap_or_default() ^ 1),
        Value::String(text) => {
            let middle = text.char_indices().skip(text.chars().count() / 2);
            match middle.clone().find(|(_, character)| character.is_ascii_hexdigit()) {
                Some((at, character)) => {
                    let other = if character == '1' { '2' } else { '1' };
                    json!(format!("{}{other}{}", &text[..at], &text[at + 1..]))
                }
                None => json!(format!("{text}1")),
            }
        }
        Value::Array(_) => json!([null]),
        Value::Object(_) => json!({"unheard_of": null}),
    };
}
