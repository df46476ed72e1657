//! Certificate signing requests, and what a request may contain.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cvm_kms::ca::{self, OwnNames, Restricted};
use cvm_kms::domain::Domain;
use cvm_kms::keys::{K256Key, RootKeys};
use kms_attest::certificate::Issuer;
use kms_attest::csr::{ApiVersion, Csr, CsrError};
use kms_attest::identity::{AppId, AppInfo};
use kms_attest::p256::P256Key;
use kms_attest::ra_tls::{app_id_in, app_info_in, evidence_in, special_usage, spki_of};

use super::evidence::{carried, check};

const DOMAIN: &str = "kms.example.com";

/// The first bytes of every request of [`Authority::requester`]: the confirm word and the key, each with its
/// length.
const CONFIRM: &[u8] = b"\x44please sign cert:";
const SPKI_LENGTH: [u8; 2] = [0x6d, 0x01];

/// A KMS that signs, and a requester.
struct Authority {
    requester: P256Key,
    root: RootKeys,
    root_certificate: Vec<u8>,
    own: OwnNames,
    now: SystemTime,
}

static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| {
    let key = |byte| P256Key::from_scalar(&[byte; 32]).expect("the scalar is in range");
    let k256 = K256Key::from_bytes(&[3; 32]).expect("the scalar is in range");
    let root = RootKeys::from_parts(key(1), key(2), k256);
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let root_certificate = ca::root_certificate(&root, now).expect("a root certificate can be issued");
    let domain = Domain::parse(DOMAIN).expect("a domain");
    let own = OwnNames::new(&domain, ["10.0.2.2".to_owned()]);
    Authority { requester: key(4), root, root_certificate, own, now }
});

/// The first byte is the version. The rest is parsed as a complete, unsigned request, and as the fields after
/// the key of a request that is then signed.
pub fn csr(data: &[u8]) {
    let Some((version, fields)) = data.split_first() else { return };
    let Ok(version) = ApiVersion::try_from(u32::from(*version)) else { return };
    assert!(Csr::parse(version, fields, &[]).is_err(), "nobody signed this");

    let signed = [CONFIRM, &SPKI_LENGTH, &AUTHORITY.requester.spki_der(), fields].concat();
    // No signature is made if the fields do not decode.
    let Err(CsrError::Signature) = Csr::parse(version, &signed, &[]) else { return };
    let signature = AUTHORITY.requester.sign_der(&signed);
    match Csr::parse(version, &signed, &signature) {
        Ok(csr) => check_request(version, &csr, &signed),
        // Version 1 allows trailing bytes, which are not signed.
        Err(CsrError::Signature) if version == ApiVersion::V1 => {}
        Err(error) => panic!("a signed request is refused: {error}"),
    }
}

/// A request survives encoding; its certificate contains what is permitted and nothing else.
fn check_request(version: ApiVersion, csr: &Csr, bytes: &[u8]) {
    check(&csr.evidence);
    assert_eq!(csr.spki, AUTHORITY.requester.spki_der());
    let encoded = match version {
        ApiVersion::V1 => csr.encode_v1().expect("it came in version 1"),
        ApiVersion::V2 => csr.encode_v2(),
    };
    let signature = Csr::sign(&encoded, &AUTHORITY.requester);
    let again = Csr::parse(version, &encoded, &signature).expect("our own encoding parses");
    assert!(&again == csr, "encoding lost something");
    // Evidence in V0 is SCALE like the request, so there is only one form.
    if version == ApiVersion::V2 && csr.evidence.encode().first() == Some(&0) {
        assert!(encoded == bytes, "SCALE has one form only");
    }

    let Authority { root, root_certificate, own, now, .. } = &*AUTHORITY;

    let Ok(request) = Restricted::parse(csr, own, *now) else { return };

    assert!(request.names().len() <= 32);
    for name in request.names().iter().map(String::as_str).chain([request.common_name()]) {
        assert!(!name.eq_ignore_ascii_case(DOMAIN) && name != "10.0.2.2", "{name} is the KMS's");
    }
    let validity = request.validity();
    assert!(validity.not_before < validity.not_after && validity.not_after <= latest(*now));

    let issuer = Issuer::new(root_certificate, root.ca()).expect("the root certificate is the root's");
    let app_id = AppId([5; 20]);
    let chain = ca::app_chain(&issuer, root, &app_id, &app_info(), &request, *now);
    let leaf = &chain.expect("what may be asked for can be issued").leaf;
    let shown = app_info_in(leaf).expect("the leaf's app info reads");
    assert_eq!(
        shown,
        csr.ext_app_info.then(app_info),
        "the leaf says what was verified, and only if it is asked to"
    );
    assert_eq!(spki_of(leaf).expect("the leaf has a key"), csr.spki);
    assert_eq!(special_usage(leaf).expect("the leaf says its usage").as_deref(), Some("app:custom"));
    assert_eq!(app_id_in(leaf).expect("the leaf says its app"), Some(app_id));
    let evidence = csr.ext_quote.then(|| carried(&csr.evidence.stripped()));
    assert!(evidence_in(leaf).expect("the leaf's evidence reads") == evidence, "the leaf has other evidence");
    assert!(
        Issuer::new(leaf, &AUTHORITY.requester).is_ok(),
        "the leaf is a certificate of the requester's key"
    );
}

/// The verified identity, whatever the request says.
fn app_info() -> AppInfo {
    AppInfo {
        app_id: vec![5; 20],
        compose_hash: vec![6; 32],
        instance_id: Vec::new(),
        device_id: vec![7; 32],
        mr_system: [8; 32],
        mr_aggregated: [9; 32],
        os_image_hash: vec![10; 32],
        key_provider_info: Vec::new(),
        init_script_hashes: Some(Vec::new()),
    }
}

/// The last second of an app's certificate: ten years.
fn latest(now: SystemTime) -> u64 {
    let now = now.duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
    now + 3650 * 24 * 60 * 60
}
