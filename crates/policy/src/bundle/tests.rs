//! Bundles as attackers and operators send them.

use std::time::{Duration, SystemTime};

use kms_attest::identity::BootInfo;
use proptest::prelude::*;

use super::*;
use crate::decision::{Decision, DenialCode, Subject};
use crate::settings::{self, Activation, BundleSource, EmptyDevices, OnExpiry};

const NOW: u64 = 1_800_000_000;

fn key(name: &str, seed: u8) -> SecretKey {
    use base64::Engine as _;
    let signing = kms_ledger::signature::SigningKey::from_seed(name.parse().unwrap(), &[seed; 32]).unwrap();
    let id = signing.verifying_key().id();
    let bytes = [&[1][..], &[seed; 32]].concat();
    let text = format!("PRIVATE+KEY+{name}+{id}+{}", base64::engine::general_purpose::STANDARD.encode(bytes));
    SecretKey::parse(&text).unwrap()
}

fn pinned(keys: &[&SecretKey], threshold: u64) -> PinnedKeys {
    let vkeys: Vec<String> = keys.iter().map(|key| key.verifying_key().to_string()).collect();
    PinnedKeys::new(vkeys.iter().map(String::as_str), threshold).unwrap()
}

fn policy() -> String {
    format!(
        "{{\n  \"osImages\": [\"{}\"],\n  \"apps\": {{ \"{}\": {{ \"composeHashes\": [\"{}\"], \"allowAnyDevice\": true }} }}\n}}",
        hex::encode([0x44; 32]),
        hex::encode([0x11; 20]),
        hex::encode([0x22; 32])
    )
}

fn header(domain: &str, serial: u64) -> Header {
    let previous = (serial > 1).then_some(BundleDigest([7; 32]));
    Header::new("prod", domain, serial, (NOW - 100, NOW + 1000), previous).unwrap()
}

fn signed(serial: u64, keys: &[&SecretKey]) -> Vec<u8> {
    let mut bundle = sign(&header("default", serial), policy().as_bytes(), keys[0]).unwrap();
    for key in &keys[1..] {
        bundle = add_signature(&UnverifiedBundle::parse(&bundle).unwrap(), key).unwrap();
    }
    bundle
}

fn bundled(on_expiry: OnExpiry, keys: PinnedKeys) -> Bundled {
    Bundled::new(settings::Bundle {
        source: BundleSource::Operators,
        keys,
        poll_interval: Duration::from_secs(60),
        ca_file: None,
        on_expiry,
        warn_before_expiry: Duration::from_secs(500),
        activation: Activation::Automatic,
        shadow: None,
        minimum_serial: 0,
        empty_devices: EmptyDevices::NoDevice,
    })
}

#[test]
fn what_is_signed_is_read_back() {
    let (a, b) = (key("team/a", 1), key("team/b", 2));
    let bytes = signed(2, &[&a, &b]);
    let bundle = Bundle::open(&bytes, &pinned(&[&a, &b], 2), "default").unwrap();
    assert_eq!(bundle.signers(), ["team/a", "team/b"]);
    assert_eq!(bundle.header(), &header("default", 2));
    assert_eq!(bundle.policy(), format!("{}\n", policy()));
    assert_eq!(bundle.bytes(), bytes);
    let text = std::str::from_utf8(&bytes).unwrap();
    assert!(text.starts_with(
        "cvm-kms/policy-bundle/v1\n{\"name\":\"prod\",\"domain\":\"default\",\"serial\":2,\"not_before\":\""
    ));
    // A further signature does not change the digest.
    assert_eq!(UnverifiedBundle::parse(&signed(2, &[&a])).unwrap().digest(), bundle.digest());
    assert_ne!(UnverifiedBundle::parse(&signed(3, &[&a])).unwrap().digest(), bundle.digest());
}

#[test]
fn a_secret_key_is_read_as_it_is_written() {
    let made = SecretKey::generate("team/x".parse().unwrap()).unwrap();
    let text = made.expose();
    assert!(text.starts_with("PRIVATE+KEY+team/x+") && text.ends_with('\n'));
    assert_eq!(SecretKey::parse(&text).unwrap().verifying_key(), made.verifying_key());
    let other = text.replace("team/x", "team/y");
    for bad in ["", "PRIVATE+KEY+", &other, &text[..text.len() - 4], &made.verifying_key().to_string()] {
        assert!(SecretKey::parse(bad).is_err());
    }
}

#[test]
fn a_threshold_counts_keys_and_not_lines() {
    let (a, b, c) = (key("team/a", 1), key("team/b", 2), key("team/c", 3));
    let keys = pinned(&[&a, &b], 2);
    let one = signed(1, &[&a]);
    let missed = |bytes: &[u8]| match Bundle::open(bytes, &keys, "default") {
        Err(BundleError::Threshold { signed: 1, threshold: 2 }) => {}
        other => panic!("{other:?}"),
    };
    missed(&one);
    // The same line twice.
    let text = String::from_utf8(one.clone()).unwrap();
    let line = text.lines().last().unwrap();
    missed(format!("{text}{line}\n").as_bytes());
    // A key that nobody pinned.
    missed(&signed(1, &[&a, &c]));
    // The pinned key under another name is another key.
    missed(&signed(1, &[&a, &key("team/other", 2)]));
    assert!(Bundle::open(&signed(1, &[&a, &b]), &keys, "default").is_ok());
    assert!(matches!(add_signature(&UnverifiedBundle::parse(&one).unwrap(), &a), Err(SignError::Signed(_))));
}

#[test]
fn a_bundle_of_sigstore_is_told_what_to_use_instead() {
    for text in [
        r#"{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{},"messageSignature":{}}"#,
        "\n{ \"mediaType\": \"application/vnd.dev.sigstore.bundle+json;version=0.2\" }\n",
    ] {
        let error = UnverifiedBundle::parse(text.as_bytes()).expect_err("not read");
        assert!(matches!(error, BundleError::Sigstore), "{error}");
        assert!(error.to_string().contains("kms policy sign or minisign"), "{error}");
    }
    // An allowlist that merely speaks of one is another thing.
    assert!(!is_sigstore(b"{\"apps\":{}}") && !is_sigstore(b"application/vnd.dev.sigstore.bundle"));
}

#[test]
fn a_bundle_in_shadow_counts_differences_and_decides_nothing() {
    let a = key("team/a", 1);
    let keys = pinned(&[&a], 1);
    let policy = bundled(OnExpiry::Warn, keys.clone());
    policy.put_in_force(Bundle::open(&signed(1, &[&a]), &keys, "default").unwrap(), SystemTime::now());
    let without = sign(&header("default", 2), b"{\"osImages\":[],\"apps\":{}}", &a).unwrap();
    let without = Bundle::open(&without, &keys, "default").unwrap();
    let digest = without.digest();
    let identity = BootInfo::example();
    let subject = Subject::App(&identity);
    let active = || policy.decide_at(subject, NOW).decision;
    assert_eq!(policy.differences(digest), None);
    policy.begin_shadow(without);
    policy.observe(subject, &active(), Decision::is_allowed);
    // A guest that gets no keys by either.
    policy.observe(subject, &active(), |_| false);
    assert!(active().is_allowed(), "the one in force decides");
    let expected = Differences { compared: 2, newly_denied: 1, ..Differences::default() };
    assert_eq!(policy.differences(digest), Some(expected));
    assert_eq!(policy.differences(BundleDigest([0; 32])), None, "of another bundle");
    let own = Decision::Allowed { gateway_app_id: String::new(), release_stage: None, epochs: None };
    policy.observe_own(&identity, &own);
    assert_eq!(policy.differences(digest), Some(Differences { denies_this_kms: true, ..expected }));
    policy.begin_shadow(Bundle::open(&signed(1, &[&a]), &keys, "default").unwrap());
    assert_eq!(policy.differences(digest), None, "another took its place");
    policy.end_shadow();
    policy.observe(subject, &active(), Decision::is_allowed);
}

#[test]
fn a_bundle_of_another_domain_is_refused() {
    let a = key("team/a", 1);
    let bytes = sign(&header("sandbox", 1), policy().as_bytes(), &a).unwrap();
    assert!(matches!(
        Bundle::open(&bytes, &pinned(&[&a], 1), "default"),
        Err(BundleError::Domain { expected, found }) if expected == "default" && found == "sandbox"
    ));
}

/// A bundle with any text, signed as it should be.
fn signed_text(text: &str, key: &SecretKey) -> Vec<u8> {
    let seed = key.verifying_key().name().clone();
    let signing = kms_ledger::signature::SigningKey::from_seed(seed, &[1; 32]).unwrap();
    format!("{text}\n{}", signing.sign(text)).into_bytes()
}

#[test]
fn only_the_canonical_form_is_read() {
    let a = key("team/a", 1);
    let keys = pinned(&[&a], 1);
    let good = header("default", 1).line();
    let open = |text: &str| Bundle::open(&signed_text(text, &a), &keys, "default").map(|_| ());
    assert!(open(&format!("{FIRST_LINE}\n{good}\n{{}}\n")).is_ok());
    let with = |from: &str, to: &str| good.replace(from, to);
    for (line, expected) in [
        (with("\"serial\":1", "\"serial\": 1"), "canonical"),
        (with("\"serial\":1", "\"serial\":1.0"), "expected"),
        (with("\"serial\":1", "\"serial\":0"), "serial"),
        (with("\"serial\":1", "\"serial\":2"), "previous = null"),
        (with("\"serial\":1", "\"serial\":1,\"serial\":1"), "duplicate field"),
        (with("\"serial\":1", "\"serial\":1,\"x\":1"), "unknown field"),
        (with("\"previous\":null", "\"previous\":\"00\""), "64 lower-case"),
        (with(",\"previous\":null", ""), "canonical"),
        (with("Z\",\"expires", "+00:00\",\"expires"), "canonical"),
        (with("Z\",\"expires", ".5Z\",\"expires"), "canonical"),
        (with("\"prod\"", "\"Prod\""), "name"),
        (with("\"prod\"", "\"\""), "name"),
        (with("\"prod\"", "\"\\u0070rod\""), "canonical"),
        (with("\"expires\":\"2027", "\"expires\":\"2026"), "expiry"),
        (format!("{good} "), "canonical"),
        ("[]".to_owned(), "expected"),
    ] {
        let Err(error) = open(&format!("{FIRST_LINE}\n{line}\n{{}}\n")) else { panic!("{line}") };
        assert_eq!(error.code(), "bundle_malformed", "{line}: {error}");
        let text = error.to_string();
        assert!(text.contains(expected), "{line}: {text}");
    }
    for (text, code) in [
        (format!("cvm-kms/policy-bundle/v2\n{good}\n{{}}\n"), "bundle_malformed"),
        (format!("{good}\n{{}}\n"), "bundle_malformed"),
        (format!("{FIRST_LINE}\n{good}\n"), "bundle_policy_invalid"),
        (format!("{FIRST_LINE}\n{good}\n\n{{}}\n"), "bundle_policy_invalid"),
        (format!("{FIRST_LINE}\n{good}\n {{}}\n"), "bundle_policy_invalid"),
        (format!("{FIRST_LINE}\n{good}\n{{}} \n"), "bundle_policy_invalid"),
        (format!("{FIRST_LINE}\n{good}\n{{}}{{}}\n"), "bundle_policy_invalid"),
        (format!("{FIRST_LINE}\n{good}\n{{\"apps\":[]}}\n"), "bundle_policy_invalid"),
        (format!("{FIRST_LINE}\n{good}\n{{\"apps\":{{}},\"apps\":{{}}}}\n"), "bundle_policy_invalid"),
    ] {
        let error = open(&text).expect_err(&text);
        assert_eq!(error.code(), code, "{text}: {error}");
    }
    assert!(matches!(UnverifiedBundle::parse(&vec![b'a'; MAX_BUNDLE + 1]), Err(BundleError::TooLarge)));
}

#[test]
fn signing_keeps_the_policy_and_refuses_what_could_not_be_used() {
    let a = key("team/a", 1);
    let header = header("default", 1);
    let bytes = sign(&header, b"\n{\t\"apps\": {}\r\n}\r\n\n", &a).unwrap();
    let bundle = UnverifiedBundle::parse(&bytes).unwrap();
    assert_eq!(bundle.policy(), "{    \"apps\": {}\n}\n");
    for bad in
        [&b"[]"[..], b"", b"{\"apps\": 1}", b"{\x01}", b"{\"a\":\"\xff\"}", b"{\"apps\":{},\"apps\":{}}"]
    {
        assert!(sign(&header, bad, &a).is_err(), "{bad:?}");
    }
}

#[test]
fn a_bundle_decides_until_it_expires_or_beyond_as_configured() {
    let a = key("team/a", 1);
    let keys = pinned(&[&a], 1);
    let identity = BootInfo::example();
    let subject = Subject::App(&identity);
    for (on_expiry, at_the_end) in [(OnExpiry::Warn, true), (OnExpiry::Deny, false)] {
        let policy = bundled(on_expiry, keys.clone());
        let ruling = policy.decide_at(subject, NOW);
        let Decision::Denied(denial) = ruling.decision else { panic!("without a bundle") };
        assert_eq!((denial.code, ruling.digest), (DenialCode::AllowlistUnusable, None));
        let bundle = Bundle::open(&signed(1, &[&a]), &keys, "default").unwrap();
        let digest = bundle.digest();
        policy.put_in_force(bundle, SystemTime::now());
        for (time, allowed, expiry) in [
            (NOW, true, Expiry::Far),
            (NOW + 500, true, Expiry::Soon),
            (NOW + 999, true, Expiry::Soon),
            (NOW + 1000, at_the_end, Expiry::Expired),
            (NOW + 9999, at_the_end, Expiry::Expired),
        ] {
            let ruling = policy.decide_at(subject, time);
            assert_eq!(ruling.decision.is_allowed(), allowed, "{on_expiry:?} {time}");
            assert_eq!(ruling.digest, Some(*digest.as_bytes()));
            assert_eq!(policy.expiry(time), Some(expiry));
        }
    }
}

proptest! {
    #[test]
    fn any_altered_byte_is_refused(at in any::<prop::sample::Index>(), change in 1u8..) {
        let (a, b) = (key("team/a", 1), key("team/b", 2));
        let keys = pinned(&[&a, &b], 2);
        let mut bytes = signed(2, &[&a, &b]);
        prop_assert!(Bundle::open(&bytes, &keys, "default").is_ok());
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        prop_assert!(Bundle::open(&bytes, &keys, "default").is_err(), "byte {at}");
    }

    #[test]
    fn bytes_that_are_cut_or_longer_are_refused(cut in any::<prop::sample::Index>(), more in "[ -~\n]{1,20}") {
        let a = key("team/a", 1);
        let keys = pinned(&[&a], 1);
        let bytes = signed(1, &[&a]);
        let cut = cut.index(bytes.len());
        prop_assert!(Bundle::open(&bytes[..cut], &keys, "default").is_err());
        let longer = [&bytes[..], more.as_bytes()].concat();
        prop_assert!(Bundle::open(&longer, &keys, "default").is_err());
    }
}
