//! The vectors can fail: whatever is unknown, missing or altered is reported.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::cases::{Case, Notes};
use super::json::{Check, Failure, Json, ensure};
use super::{Directory, FILES, Role};

/// Tests of this test, on our own vectors.
pub(crate) fn cases() -> Vec<Case<'static>> {
    let case = |name: String, run: Box<dyn FnOnce(&mut Notes) -> Check + Send>| Case { name, run };
    let mut cases = vec![
        case("strictness/altered cases".to_owned(), Box::new(|_| altered_cases_fail())),
        case("strictness/a key twice".to_owned(), Box::new(|_| a_key_that_is_there_twice_fails())),
        case("strictness/altered directory".to_owned(), Box::new(|_| altered_directories_fail())),
        case("strictness/number of cases".to_owned(), Box::new(|_| our_own_vectors_are_all_there())),
    ];
    for (name, role) in FILES {
        if matches!(role, Role::Cases(_)) {
            cases.push(case(format!("strictness/{name}/lists"), Box::new(|_| altered_lists_fail(name))));
            cases.push(case(format!("strictness/{name}/values"), Box::new(|_| altered_values_fail(name))));
        }
    }
    cases
}

/// Values without influence on a result, by the end of their path: explanations and names, the peer's error
/// texts, whether its repository has a copy of a file, its results for OS images.
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

/// Inputs that can change without changing the outcome: unused parts of a set, a time by a second, a status
/// of the same class, values of cases that only test acceptance; and everything in refused cases.
const INPUTS: [&str; 17] = [
    "os_image.json.download_failures[].",
    "os_image.json.legacy[].vm_config",
    "os_image_v4.json.legacy[].vm_config",
    "os_image.json.lite[].event_log[].preimage",
    // Invented, and refused for that reason.
    "os_image.json.lite[].event_log[].digest",
    "os_image.json.lite[].expected.rtmr0",
    "os_image_v4.json.lite[].actual.",
    "acpi/acpi_tables.json.note.",
    // The arguments of QEMU, and cases that the peer refuses.
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

fn content(name: &str) -> Check<Value> {
    let mut content: Value = serde_json::from_slice(&Directory::own().bytes(name)?)?;
    if let ("acpi/acpi_tables.json", Some(cases)) = (name, content["vectors"].as_array_mut()) {
        // A sample is enough where many cases are alike.
        *cases = std::mem::take(cases).into_iter().step_by(7).collect();
    }
    Ok(content)
}

/// Whether something fails as expected with other content in place of a file. Cases with the altered value
/// run first.
fn fails(name: &str, content: &Value, pointer: &str, is_expected: impl Fn(&str) -> bool) -> bool {
    let directory = Directory::own();
    let file = Json::parse(name, content.to_string().as_bytes());
    let mut cases = directory.cases(name, &file);
    let place = pointer.trim_start_matches("/fixtures").splitn(4, '/').skip(1).take(2);
    let place = place.fold(name.to_owned(), |place, part| format!("{place}/{part}"));
    let list = place.rsplit_once('/').map(|(list, _)| list.to_owned()).unwrap_or_default();
    let rank = |case: &Case<'_>| (!case.name.starts_with(&place), !case.name.starts_with(&list));
    cases.sort_by_key(rank);
    cases.into_iter().filter_map(failure).any(|failure| is_expected(&failure))
}

/// How a case fails, with its name.
fn failure(Case { name, run }: Case<'_>) -> Option<String> {
    let outcome = std::thread::scope(|scope| scope.spawn(|| run(&mut Notes::default())).join());
    match outcome {
        Ok(Ok(())) => None,
        Ok(Err(Failure(why))) => Some(format!("{name}: {why}")),
        Err(_) => Some(format!("{name}: panicked")),
    }
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

fn at<'a>(content: &'a mut Value, pointer: &str) -> Check<&'a mut Value> {
    content.pointer_mut(pointer).ok_or_else(|| Failure(format!("{pointer}: is not there")))
}

/// A list that is missing, empty or unknown, or an unknown key in a case.
fn altered_lists_fail(name: &str) -> Check {
    let original = content(name)?;
    let above = if name == "fixtures.json" { "/fixtures" } else { "" };
    for pointer in lists(name, &original).into_iter().chain([above.to_owned()]) {
        let mut altered = original.clone();
        let target = at(&mut altered, &pointer)?;
        if !target[0].is_string() {
            let case = if target.is_array() { &mut target[0] } else { target };
            case["unheard_of"] = json!(["x"]);
            let is_told = fails(name, &altered, &pointer, |failure| failure.contains("unheard_of"));
            ensure!(is_told, "{name} {pointer}: a key that is not known is not told");
        }
    }
    for pointer in lists(name, &original) {
        let (above, key) = pointer.rsplit_once('/').unwrap_or_default();
        let mut missing = original.clone();
        at(&mut missing, above)?.as_object_mut().and_then(|lists| lists.remove(key));
        ensure!(fails(name, &missing, &pointer, |failure| failure.contains(key)), "{name} without {pointer}");
        let mut empty = original.clone();
        let list = at(&mut empty, &pointer)?;
        *list = if list.is_array() { json!([]) } else { json!({}) };
        ensure!(fails(name, &empty, &pointer, |_| true), "{name} with an empty {pointer}");
    }
    Ok(())
}

/// A case that cannot run, an inverted verdict, and an unmet expectation, whose failure names its place.
fn altered_cases_fail() -> Check {
    let refused = json!({"error": "no"});
    let cases = [
        ("keys.json", "/published_known_answers/0/kind", Some(json!("lattice_signature"))),
        ("keys.json", "/guest_getkey_chain/0/algorithm", Some(json!("rsa"))),
        ("keys.json", "/env_pubkey_signatures/0/timestamp", Some(json!(0))),
        ("certs.json", "/csr/0/api_version", Some(json!(3))),
        ("certs.json", "/report_data/0/hash", Some(json!("md5"))),
        ("certs.json", "/certificates/0/private_key_pem", Some(json!(""))),
        ("attestation.json", "/mr_config_ids/0/version", Some(json!(4))),
        ("attestation.json", "/blobs/2/bytes", Some(json!("ABCD"))),
        ("eventlog.json", "/v2_preimage_validation/0/case", Some(json!("v2 events from another planet"))),
        ("eventlog.json", "/scenarios/0/events/0/version", Some(json!(3))),
        ("tdx_quotes.json", "/cases/0/collateral", Some(json!("unheard of"))),
        ("tdx_quotes.json", "/cases/0/root_ca", Some(json!("unheard of"))),
        ("pccs.json", "/exchanges/0/routes", Some(json!({}))),
        ("fixtures.json", "/fixtures/dcap_qvl_samples/0/name", Some(json!("unheard_of"))),
        ("keys.json", "/app_keys/3/disk_crypt_key", None),
        ("certs.json", "/certificates/4/parsed/serial", None),
        ("certs.json", "/csr/2/leaf_example/parsed/extensions/3/value", None),
        ("attestation.json", "/blobs/3/decoded/platform/event_log/2/digest", None),
        (
            "attestation.json",
            "/blobs/3/peer_verify/boot_info_signcert_request_config/boot_info/mrSystem",
            None,
        ),
        (
            "attestation.json",
            "/blobs/3/peer_verify/boot_info_signcert_request_config/boot_info_json_text",
            None,
        ),
        ("attestation.json", "/blobs/1/decoded/app_info_unverified_boottime/mr_aggregated", None),
        ("eventlog.json", "/scenarios/4/pcr14_sha256_to_boot_mr_done", None),
        ("tdx_quotes.json", "/cases/2/expected/ok/report/tee_tcb_svn2", None),
        ("pccs.json", "/exchanges/2/requests/1", None),
        ("fixtures.json", "/fixtures/ccel_bin/events/5/event_payload", None),
        ("fixtures.json", "/fixtures/nitro_enclave/boot_info/boot_info/deviceId", None),
        ("msgpack_leniency.json", "/cases/0/peer_accepts", Some(json!(false))),
        ("msgpack_leniency.json", "/cases/0/peer_error", Some(json!("no"))),
        ("attestation.json", "/blobs/2/peer_verify", Some(json!({"ok": false, "error": "no"}))),
        ("attestation.json", "/blobs/2/decoded/app_info_unverified_runtime", Some(refused.clone())),
        ("attestation.json", "/decode_failures/0/error", Some(json!(null))),
        ("certs.json", "/csr/9/verify_error", Some(json!(null))),
        ("certs.json", "/csr/12/verify_of_decoded", Some(json!(false))),
        ("certs.json", "/client_certificates/3/peer_decode", Some(refused.clone())),
        ("eventlog.json", "/v2_preimage_validation/0/error", Some(json!("no"))),
        ("eventlog.json", "/v2_preimage_validation/1/error", Some(json!(null))),
        ("tdx_quotes.json", "/cases/0/expected", Some(refused.clone())),
        ("pccs.json", "/exchanges/0/verify", Some(refused.clone())),
        ("pccs.json", "/exchanges/4/error", Some(json!(null))),
        ("fixtures.json", "/fixtures/dcap_qvl_samples/0/verify/1/result", Some(refused)),
    ];
    for (name, pointer, value) in cases {
        let mut altered = content(name)?;
        let target = at(&mut altered, pointer)?;
        let list = match value {
            Some(value) => {
                *target = value;
                ""
            }
            None => {
                alter(target);
                pointer.split('/').find(|part| !["", "fixtures"].contains(part)).unwrap_or_default()
            }
        };
        ensure!(fails(name, &altered, pointer, |failure| failure.contains(list)), "{name} {pointer}");
    }
    Ok(())
}

/// The inputs and expectations of cases, by their number in our own vectors: none may disappear. A quote of a
/// vector has the peer's result, and signatures have both recovery ids.
fn our_own_vectors_are_all_there() -> Check {
    const PRESENT: [(&str, &str, usize); 19] = [
        ("tdx_quotes.json", "quote", 43),
        ("certs.json", "api_version", 13),
        ("certs.json", "leaf_example", 9),
        ("certs.json", "tag", 40),
        ("certs.json", "attestation_prefix_byte", 3),
        ("certs.json", "msgpack", 3),
        ("msgpack_leniency.json", "peer_accepts", 18),
        ("eventlog.json", "rtmr3_full", 9),
        ("eventlog.json", "sha384_digest", 65),
        ("eventlog.json", "mr_td", 27),
        ("attestation.json", "peer_verify", 17),
        ("attestation.json", "boot_info_json_text", 29),
        ("attestation.json", "decoded", 27),
        ("attestation.json", "mr_config_id", 10),
        ("fixtures.json", "boot_info_json_text", 3),
        ("os_image.json", "verify_matching", 8),
        ("os_image.json", "verify_error_with_matching_report", 4),
        ("os_image.json", "ovmf_sections", 7),
        ("ledger.json", "expect", 634),
    ];
    for (name, key, least) in PRESENT {
        let found = occurrences(&content(name)?, key);
        ensure!(found >= least, "{name} has {key:?} {found} times, expected {least}");
    }
    let keys = content("keys.json")?;
    for id in ["00", "01"] {
        let ends = |case: &Value| case["signature"].as_str().is_some_and(|signature| signature.ends_with(id));
        ensure!(
            keys["sign_message"].as_array().is_some_and(|list| list.iter().any(ends)),
            "recovery id {id}"
        );
    }
    let (directory, mut notes) = (Directory::own(), Notes::default());
    let file = directory.json("tdx_quotes.json");
    for case in directory.cases("tdx_quotes.json", &file) {
        if case.name.starts_with("tdx_quotes.json/cases/") {
            (case.run)(&mut notes)?;
        }
    }
    ensure!(notes.0.is_empty(), "{:?}", notes.0);
    Ok(())
}

/// How often a key has a value, at any depth.
fn occurrences(value: &Value, key: &str) -> usize {
    match value {
        Value::Array(items) => items.iter().map(|item| occurrences(item, key)).sum(),
        Value::Object(entries) => {
            let here = entries.get(key).is_some_and(|value| !value.is_null());
            usize::from(here) + entries.values().map(|item| occurrences(item, key)).sum::<usize>()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

fn a_key_that_is_there_twice_fails() -> Check {
    let file = Json::parse("keys.json", br#"{"about": "a", "about": "b"}"#);
    let told = Directory::own().cases("keys.json", &file).into_iter().find_map(failure).unwrap_or_default();
    ensure!(told.contains(r#"the key "about" is there twice"#), "{told}");
    Ok(())
}

fn altered_directories_fail() -> Check {
    type Spoil = fn(&Path) -> std::io::Result<()>;
    let cases: [(&str, Spoil); 6] = [
        ("directory: more.json: not a file", |root| fs::write(root.join("more.json"), "{}")),
        ("fixtures.json/fixtures/dstack/more.bin: not a file", |root| {
            fs::write(root.join("fixtures/dstack/more.bin"), "")
        }),
        ("pccs.json/file: pccs.json: ", |root| fs::remove_file(root.join("pccs.json"))),
        ("fixtures.json/ccel_bin: fixtures/dstack/ccel.bin: ", |root| {
            fs::remove_file(root.join("fixtures/dstack/ccel.bin"))
        }),
        ("fixtures.json/dcap_qvl_samples/0", |root| {
            fs::write(root.join("fixtures/dcap-qvl/tdx_quote.bin"), "not a quote")
        }),
        ("keys.json/file: keys.json: ", |root| fs::write(root.join("keys.json"), "not JSON")),
    ];
    for (expected, spoil) in cases {
        let copy = tempfile::tempdir()?;
        copy_all(Directory::own().path(), copy.path())?;
        spoil(copy.path())?;
        let directory = Directory(copy.path().to_owned());
        let files = directory.files();
        let cases = files.iter().flat_map(|(name, file)| directory.cases(name, file));
        let mut cases = cases
            .chain([directory.listing("directory")])
            .filter(|case| expected.starts_with(&case.name) || case.name.starts_with(expected));
        let is_told = cases.any(|case| failure(case).is_some_and(|failure| failure.contains(expected)));
        ensure!(is_told, "not told: {expected}");
    }
    Ok(())
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

/// Alters one value for each path (`.list[].key`) in turn.
fn altered_values_fail(name: &str) -> Check {
    let (mut unnoticed, original, mut found) = (Vec::new(), content(name)?, Vec::new());
    shapes(&original, "", name, &mut found);
    for (shape, pointer) in found {
        let is_free = INFORMATIVE.iter().any(|end| shape.ends_with(end))
            || INPUTS.iter().any(|input| shape.starts_with(input) || shape.ends_with(input));
        let mut altered = original.clone();
        alter(at(&mut altered, &pointer)?);
        if !is_free && !fails(name, &altered, &pointer, |_| true) {
            unnoticed.push(format!("{shape} ({pointer})"));
        }
    }
    ensure!(unnoticed.is_empty(), "{} values:\n{}", unnoticed.len(), unnoticed.join("\n"));
    Ok(())
}

/// The first value for each path, as a JSON pointer.
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

/// Another value of the same kind; in a text, another character in the middle.
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
