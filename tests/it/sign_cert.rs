//! Certificates for apps: what a request may contain, what is never granted, and the errors.

use std::fs;
use std::net::Ipv4Addr;

use crate::support::process::run;
use crate::support::{World, csr};
use cvm_kms::proto::{SignCertRequest, SignCertResponse};
use kms_attest::binding::ReportData;
use kms_attest::certificate::{self, LAST_SECOND, LONG_AGO};
use kms_attest::clock::unix_now;
use kms_attest::csr::Csr;
use kms_attest::evidence::Wire;
use kms_attest::p256::P256Key;
use kms_attest::ra_tls;
use kms_client::sign::sign_cert_request;
use kms_simulator::Cvm;
use serde_json::json;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

const DAY: u64 = 86_400;

/// A small request of an app for its own key.
fn wish(app: &Cvm, key: &P256Key) -> Csr {
    Csr { subject_alt_names: vec!["app.example".to_owned()], ..csr(app, key) }
}

fn version_1(csr: &Csr, key: &P256Key) -> SignCertRequest {
    let csr = csr.encode_v1().expect("TDX evidence");
    SignCertRequest { api_version: 1, signature: Csr::sign(&csr, key), csr, ..Default::default() }
}

/// Signs any bytes.
fn signed(api_version: u32, csr: Vec<u8>, key: &P256Key) -> SignCertRequest {
    SignCertRequest { api_version, signature: Csr::sign(&csr, key), csr, ..Default::default() }
}

async fn ask(world: &World, request: &SignCertRequest) -> crate::support::Answer {
    world.caller().json("SignCert", serde_json::to_value(request).expect("JSON")).await
}

/// The chain, DER: leaf, app CA, root CA.
fn chain(answer: &crate::support::Answer) -> [Vec<u8>; 3] {
    assert_eq!(answer.status, 200, "{answer:?}");
    let response: SignCertResponse = answer.message();
    let ders: Vec<_> =
        response.certificate_chain.iter().map(|pem| certificate::der(pem).expect("PEM")).collect();
    ders.try_into().expect("three certificates")
}

async fn allowed_app() -> (World, std::sync::Arc<Cvm>) {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    (world, app)
}

#[tokio::test]
async fn both_versions_give_a_chain_that_openssl_accepts() {
    let (world, app) = allowed_app().await;
    let key = P256Key::generate();
    let csr = wish(&app, &key);
    let mut of_v1 = csr.clone();
    // Version 1 contains no configuration, so the caller sends it.
    of_v1.evidence.stack.config = String::new();
    let first = SignCertRequest { vm_config: app.vm_config().to_owned(), ..version_1(&of_v1, &key) };
    let mut messagepack = csr.clone();
    messagepack.evidence.wire = Wire::V1;
    let requests =
        [first, sign_cert_request(&csr, &key, ""), sign_cert_request(&messagepack, &key, app.vm_config())];
    let mut authorities = Vec::new();
    for request in requests {
        let by_protobuf: SignCertResponse = world.caller().protobuf("SignCert", &request).await.decoded();
        let by_grpc =
            world.caller().grpc().await.sign_cert(request.clone()).await.expect("a chain").into_inner();
        assert_eq!((by_protobuf.certificate_chain.len(), by_grpc.certificate_chain.len()), (3, 3));
        let [leaf, app_ca, root] = chain(&ask(&world, &request).await);
        assert_eq!(ra_tls::spki_of(&leaf).expect("a key"), key.spki_der());
        assert_eq!(ra_tls::spki_of(&root).expect("a key"), world.root_keys().ca_spki());
        authorities.push(ra_tls::spki_of(&app_ca).expect("a key"));

        let file = |name: &str, der: &[u8]| {
            let path = world.path(name);
            fs::write(&path, certificate::pem(der)).expect("a file");
            path.to_str().expect("text").to_owned()
        };
        let (leaf, app_ca, root) =
            (file("leaf.pem", &leaf), file("app-ca.pem", &app_ca), file("root.pem", &root));
        let verify = ["verify", "-CAfile", &root, "-untrusted", &app_ca];
        for purpose in [&["-purpose", "sslserver", "-verify_hostname", "app.example"][..], &[]] {
            run("openssl", &[&verify, purpose, &[&leaf]].concat(), "").await.expect_ok();
        }
        let wrong = [&verify[..], &["-purpose", "sslclient", &leaf]].concat();
        assert_ne!(run("openssl", &wrong, "").await.code, 0, "not asked for");
    }
    assert!(authorities.iter().all(|key| key == &authorities[0]), "an app has one CA key for ever");
}

#[tokio::test]
async fn the_leaf_says_what_was_asked_for_and_what_the_kms_decides() {
    let (world, app) = allowed_app().await;
    let key = P256Key::generate();
    let now = unix_now();
    let csr = Csr {
        org_name: Some("Example & Söhne".to_owned()),
        subject: "My app".to_owned(),
        subject_alt_names: vec!["app.example".into(), "*.apps.example".into(), "10.1.2.3".into()],
        usage_client_auth: true,
        ext_quote: true,
        ext_app_info: true,
        not_before: Some(now - 60),
        not_after: Some(now + DAY),
        ..wish(&app, &key)
    };
    let [leaf, app_ca, _] = chain(&ask(&world, &sign_cert_request(&csr, &key, "")).await);
    let (_, parsed) = X509Certificate::from_der(&leaf).expect("a certificate");
    assert_eq!(parsed.subject().to_string(), "O=Example & Söhne, CN=My app");
    let names = parsed.subject_alternative_name().expect("readable").expect("names");
    assert_eq!(
        names.value.general_names,
        [
            GeneralName::DNSName("app.example"),
            GeneralName::DNSName("*.apps.example"),
            GeneralName::IPAddress(&Ipv4Addr::new(10, 1, 2, 3).octets()),
        ]
    );
    let usage = parsed.extended_key_usage().expect("readable").expect("usages").value;
    assert!(usage.server_auth && usage.client_auth && !usage.any && usage.other.is_empty());
    assert!(!parsed.is_ca());
    let validity = parsed.validity();
    assert_eq!(validity.not_before.timestamp() as u64, now - 60);
    assert_eq!(validity.not_after.timestamp() as u64, now + DAY);
    assert_eq!(ra_tls::special_usage(&leaf).expect("readable").as_deref(), Some("app:custom"));
    assert_eq!(ra_tls::app_id_in(&leaf).expect("readable").expect("an app id").0, *app.app_id());
    let info = ra_tls::app_info_in(&leaf).expect("readable").expect("app info");
    assert_eq!((info.app_id, info.compose_hash), (app.app_id().to_vec(), app.compose_hash().to_vec()));
    let evidence = ra_tls::evidence_in(&leaf).expect("readable").expect("evidence");
    assert_eq!(evidence.report_data().expect("64 bytes"), ReportData::ra_tls(&key.spki_der()));

    let (_, parsed) = X509Certificate::from_der(&app_ca).expect("a certificate");
    assert_eq!(parsed.subject().to_string(), "O=Dstack, CN=Dstack App CA");
    assert_eq!(
        parsed.basic_constraints().expect("readable").expect("there").value.path_len_constraint,
        Some(0)
    );
    assert_eq!(ra_tls::special_usage(&app_ca).expect("readable").as_deref(), Some("app:ca"));
    assert_eq!(ra_tls::app_id_in(&app_ca).expect("readable").expect("an app id").0, *app.app_id());

    let line = &world.audited("certificate_issued")[0];
    assert_eq!(line["app_id"], hex::encode(app.app_id()));
    assert_eq!(line["common_name"], "My app");
    assert_eq!(line["names"], json!(["app.example", "*.apps.example", "10.1.2.3"]));
}

#[tokio::test]
async fn what_was_not_asked_for_is_not_in_the_leaf() {
    let (world, app) = allowed_app().await;
    let key = P256Key::generate();
    let csr = Csr {
        subject: String::new(),
        subject_alt_names: Vec::new(),
        usage_server_auth: false,
        ..wish(&app, &key)
    };
    let [leaf, ..] = chain(&ask(&world, &sign_cert_request(&csr, &key, "")).await);
    let (_, parsed) = X509Certificate::from_der(&leaf).expect("a certificate");
    assert!(parsed.extended_key_usage().expect("readable").is_none());
    assert!(parsed.subject_alternative_name().expect("readable").is_none());
    assert!(ra_tls::evidence_in(&leaf).expect("readable").is_none());
    assert!(ra_tls::app_info_in(&leaf).expect("readable").is_none());
    assert_eq!(ra_tls::special_usage(&leaf).expect("readable").as_deref(), Some("app:custom"));
    let days = (parsed.validity().not_after.timestamp() as u64 - unix_now()) / DAY;
    assert!((3649..=3650).contains(&days), "{days}");
    assert_eq!(parsed.validity().not_before.timestamp() as u64, LONG_AGO);
}

#[tokio::test]
async fn the_leaf_states_what_was_verified_and_authorized() {
    let (world, app) = allowed_app().await;
    let key = P256Key::generate();
    let with_copy = Csr { ext_app_info: true, ..wish(&app, &key) };
    let mut without_copy = with_copy.clone();
    without_copy.evidence.stack.config = String::new();
    let spaced = app.vm_config().replace(':', ": ").replace(',', ",\n");
    for (csr, vm_config) in [
        (&with_copy, ""),
        (&with_copy, app.vm_config()),
        (&with_copy, &spaced),
        (&without_copy, app.vm_config()),
    ] {
        let [leaf, ..] = chain(&ask(&world, &sign_cert_request(csr, &key, vm_config)).await);
        let info = ra_tls::app_info_in(&leaf).expect("readable").expect("app info");
        assert_eq!(info.os_image_hash, app.os_image_hash(), "{vm_config}");
        assert_eq!(info.device_id, world.platform.device_id(), "the real device, not SHA-256 of nothing");
        assert_eq!(info.mr_aggregated, app.mr_aggregated());
        assert_eq!((&info.app_id[..], &info.instance_id[..]), (&app.app_id()[..], app.instance_id()));
        // The named map of 0.6.0: nine keys, first `app_id`.
        let map = [b"\x89\xa6app_id\xc4\x14", &app.app_id()[..], b"\xaccompose_hash\xc4\x20"].concat();
        assert!(leaf.windows(map.len()).any(|window| window == map));
    }
    for line in world.audited("certificate_issued") {
        assert_eq!(line["stage"], "boot");
        let digests = [&with_copy, &without_copy].map(|csr| hex::encode(csr.evidence.digest()));
        assert!(digests.iter().any(|digest| line["evidence_sha256"] == digest.as_str()), "{line}");
    }
}

#[tokio::test]
async fn copies_of_the_vm_config_that_differ_are_refused_with_an_explanation() {
    let (world, app) = allowed_app().await;
    let key = P256Key::generate();
    let other = app.vm_config().replace(&hex::encode(app.os_image_hash()), &"dd".repeat(32));
    let nested = |config: &str| json!({ "kms_urls": [], "vm_config": config }).to_string();
    let claims = |config: &str| {
        let mut csr = Csr { ext_app_info: true, ..wish(&app, &key) };
        csr.evidence.stack.config = config.to_owned();
        csr
    };
    let refused = (
        403,
        "the vm_config of the request differs from the one in the attestation: os_image_hash".to_owned(),
    );
    let lies = [claims(&other), claims(&nested(&other))];
    for csr in &lies {
        let request = sign_cert_request(csr, &key, app.vm_config());
        assert_eq!(ask(&world, &request).await.refusal(), refused);
        // Without its own copy the request is judged by the evidence, which is not allowed.
        let request = sign_cert_request(csr, &key, "");
        let (status, text) = ask(&world, &request).await.refusal();
        assert_eq!((status, &*text), (403, "Boot denied: OS image is not allowed"));
    }
    assert!(world.audited("certificate_issued").is_empty());
    let denied = crate::support::eventually("four denials", async || {
        Some(world.audited("denied")).filter(|denied| denied.len() == 4)
    });
    let denied = denied.await;
    assert_eq!((&denied[0]["code"], &denied[0]["step"]), (&json!("vm_config_mismatch"), &json!("identity")));
    assert_eq!(denied[0]["expected"], "dd".repeat(32));
    assert_eq!(denied[0]["actual"], hex::encode(app.os_image_hash()));
    assert_eq!(denied[0]["evidence_sha256"], hex::encode(lies[0].evidence.digest()));
    // The same evidence with the same copy is accepted, nested or not.
    for attested in [app.vm_config().to_owned(), nested(app.vm_config())] {
        let request = sign_cert_request(&claims(&attested), &key, app.vm_config());
        assert_eq!(ask(&world, &request).await.status, 200);
    }
}

#[tokio::test]
async fn dates_are_cut_to_the_life_of_the_app_ca() {
    let (world, app) = allowed_app().await;
    let key = P256Key::generate();
    let csr = Csr { not_before: Some(0), not_after: Some(LAST_SECOND), ..wish(&app, &key) };
    let [leaf, app_ca, _] = chain(&ask(&world, &sign_cert_request(&csr, &key, "")).await);
    let dates = |der: &[u8]| {
        let (_, parsed) = X509Certificate::from_der(der).expect("a certificate");
        (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp())
    };
    let ((leaf_begin, leaf_end), (ca_begin, ca_end)) = (dates(&leaf), dates(&app_ca));
    assert!(leaf_begin >= ca_begin && leaf_end <= ca_end);
    assert!(ca_end as u64 <= unix_now() + 3650 * DAY);
}

#[tokio::test]
async fn names_and_dates_that_no_app_may_have_are_refused() {
    let (world, app) = allowed_app().await;
    let key = P256Key::generate();
    let own = |name: &str| format!("{name} is a name of this KMS, no app may have it");
    let named = |name: &str| Csr { subject_alt_names: vec![name.to_owned()], ..wish(&app, &key) };
    let called = |subject: &str| Csr { subject: subject.to_owned(), ..wish(&app, &key) };
    let numbered = (0..33).map(|number| format!("n{number}.example")).collect();
    let bad_name = "subject alternative name 1 is neither a DNS name of at most 253 bytes nor an IP address";
    let bad_text = "subject must be text of at most 253 bytes without control characters";
    let now = unix_now();
    let cases: Vec<(Csr, String)> = vec![
        (named("localhost"), own("localhost")),
        (named("LOCALHOST"), own("LOCALHOST")),
        (called("localhost"), own("localhost")),
        (called(" localhost. "), own(" localhost. ")),
        (called("*"), own("*")),
        (called("Dstack KMS CA"), own("Dstack KMS CA")),
        (called("dstack client temp ca"), own("dstack client temp ca")),
        (called("Dstack App CA"), own("Dstack App CA")),
        (named(""), bad_name.to_owned()),
        (named("a b"), bad_name.to_owned()),
        (named("*"), bad_name.to_owned()),
        (named("a\0.example"), bad_name.to_owned()),
        (called("two\nlines"), bad_text.to_owned()),
        (called(&"x".repeat(254)), bad_text.to_owned()),
        (
            Csr { subject_alt_names: numbered, ..wish(&app, &key) },
            "at most 32 subject alternative names are allowed, got 33".to_owned(),
        ),
        (
            Csr { not_after: Some(LAST_SECOND + 1), ..wish(&app, &key) },
            "not_after is after 9999-12-31T23:59:59Z".to_owned(),
        ),
        (
            Csr { not_before: Some(u64::MAX), ..wish(&app, &key) },
            "not_before is after 9999-12-31T23:59:59Z".to_owned(),
        ),
        (
            Csr { not_before: Some(now), not_after: Some(now), ..wish(&app, &key) },
            "not_after must be later than not_before, and not_before earlier than ".to_owned(),
        ),
    ];
    for (csr, text) in cases {
        let (status, found) = ask(&world, &sign_cert_request(&csr, &key, "")).await.refusal();
        assert_eq!(status, 400, "{found}");
        assert!(found.starts_with(&text), "{found} is not {text}");
    }
    assert!(world.audited("certificate_issued").is_empty());
    assert_eq!(world.caller().json("GetMeta", json!({})).await.status, 200);
}

#[tokio::test]
async fn no_app_gets_a_certificate_under_a_name_of_the_admin_listener() {
    let mut world = World::stopped_with("").await;
    let (key_file, certs) = (world.path("a.key"), world.path("a.crt"));
    world.configure(&format!(
        "core.admin.tls = {{ key = {key_file:?}, certs = {certs:?}, create_if_missing = true, \
         hosts = [\"kms-admin.example\", \"10.9.8.7\"] }}"
    ));
    world.start().await.expect("it starts");
    world.bootstrap().await;
    world.finish().await;
    let app = world.app(1);
    world.allow_app(&app);
    let key = P256Key::generate();
    for name in ["kms-admin.example", "*.example", "10.9.8.7"] {
        let csr = Csr { subject_alt_names: vec![name.to_owned()], ..wish(&app, &key) };
        let (status, text) = ask(&world, &sign_cert_request(&csr, &key, "")).await.refusal();
        assert_eq!(status, 400, "{name}: {text}");
        assert!(text.starts_with(name), "{text}");
    }
    let csr = Csr { subject_alt_names: vec!["app.other.example".to_owned()], ..wish(&app, &key) };
    assert_eq!(ask(&world, &sign_cert_request(&csr, &key, "")).await.status, 200);
}

#[tokio::test]
async fn no_wildcard_covers_the_kms() {
    let world =
        World::onboarding_with("core.onboard.auto_bootstrap_domain = \"kms.cluster.example.com\"").await;
    let app = world.app(1);
    world.allow_app(&app);
    let key = P256Key::generate();
    for (name, refused) in [
        ("kms.cluster.example.com", true),
        ("Kms.Cluster.Example.com", true),
        ("*.cluster.example.com", true),
        ("*.example.com", true),
        ("*.com", true),
        ("cluster.example.com", false),
        ("*.other.example.com", false),
        ("notkms.cluster.example.com", false),
    ] {
        for csr in [
            Csr { subject_alt_names: vec![name.to_owned()], ..wish(&app, &key) },
            Csr { subject: name.to_owned(), ..wish(&app, &key) },
        ] {
            let answer = ask(&world, &sign_cert_request(&csr, &key, "")).await;
            match refused {
                true => assert_eq!(
                    answer.refusal(),
                    (400, format!("{name} is a name of this KMS, no app may have it"))
                ),
                false => assert_eq!(answer.status, 200, "{name}: {answer:?}"),
            }
        }
    }
}

#[tokio::test]
async fn requests_that_are_not_whole_or_not_signed_are_refused_in_order() {
    let (world, app) = allowed_app().await;
    let key = P256Key::generate();
    let csr = wish(&app, &key);
    let good = sign_cert_request(&csr, &key, "");
    let first = version_1(&csr, &key);
    let invalid = "Failed to verify csr signature: invalid signature";
    let mut wrong_word = good.csr.clone();
    assert_eq!(&wrong_word[1..18], b"please sign cert:");
    wrong_word[17] = b';';
    let mut flipped = good.csr.clone();
    flipped[150] ^= 1;
    let p384 = Csr { spki: p384_spki(), ..csr.clone() };
    let cases: Vec<(SignCertRequest, &str)> = vec![
        (SignCertRequest::default(), "Unsupported API version: 0"),
        (SignCertRequest { api_version: 3, ..good.clone() }, "Unsupported API version: 3"),
        (signed(1, Vec::new(), &key), "Failed to parse csr: confirm: the input ends inside it"),
        (signed(2, Vec::new(), &key), "Failed to parse csr: confirm: the input ends inside it"),
        (signed(2, good.csr[..100].to_vec(), &key), "Failed to parse csr: "),
        (signed(2, vec![0xff; 64], &key), "Failed to parse csr: "),
        (
            signed(2, [&good.csr[..], &[0]].concat(), &key),
            "Failed to parse csr: 1 trailing bytes after the attestation",
        ),
        (signed(1, good.csr.clone(), &key), "Failed to parse csr: "),
        (signed(2, first.csr.clone(), &key), "Failed to parse csr: "),
        (SignCertRequest { signature: Vec::new(), ..good.clone() }, invalid),
        (SignCertRequest { signature: first.signature.clone(), ..good.clone() }, invalid),
        (signed(2, good.csr.clone(), &P256Key::generate()), invalid),
        (SignCertRequest { csr: flipped, ..good.clone() }, "Failed to "),
        (signed(2, wrong_word.clone(), &key), "Failed to verify csr signature: invalid confirm word"),
        (signed(2, wrong_word, &P256Key::generate()), invalid),
        (signed(2, p384.encode_v2(), &key), "Failed to verify csr signature: unsupported algorithm"),
    ];
    for (index, (request, text)) in cases.iter().enumerate() {
        let (status, found) = ask(&world, request).await.refusal();
        assert_eq!(status, 400, "{index}: {found}");
        assert!(found.starts_with(text), "{index}: {found}");
    }
    // Old guest agents leave trailing bytes after a request of version 1; the signature does not cover them.
    let trailing = SignCertRequest {
        csr: [&first.csr[..], b"left over"].concat(),
        vm_config: app.vm_config().to_owned(),
        ..first
    };
    assert_eq!(ask(&world, &trailing).await.status, 200);
}

fn p384_spki() -> Vec<u8> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
    rcgen::PublicKeyData::subject_public_key_info(&key)
}

#[tokio::test]
async fn the_evidence_in_the_request_decides_and_not_the_connection() {
    let (world, app) = allowed_app().await;
    let key = P256Key::generate();
    let other = P256Key::generate();
    let unbound = Csr { evidence: app.evidence(ReportData::ra_tls(&other.spki_der())), ..wish(&app, &key) };
    let debug = Cvm::builder(&world.platform).app_id([1; 20]).compose_hash([1; 32]).debug().build();
    for (csr, status, text) in [
        (unbound, 401, "Quote verification failed: report data mismatch"),
        (
            wish(&debug, &key),
            401,
            "Quote verification failed: failed to verify TDX quote: Debug mode is enabled",
        ),
        (wish(&world.app(2), &key), 403, "Boot denied: app not registered"),
    ] {
        let request = sign_cert_request(&csr, &key, "");
        // A connection of an allowed app changes nothing.
        let attested = world.caller().shows(&world.attested(&app).await);
        for caller in [world.caller(), attested] {
            let answer = caller.json("SignCert", serde_json::to_value(&request).expect("JSON")).await;
            assert_eq!(answer.refusal(), (status, text.to_owned()));
        }
    }
    assert!(world.audited("certificate_issued").is_empty());
    let denied = crate::support::eventually("the denial", async || world.audited("denied").pop()).await;
    assert_eq!(denied["app_id"], hex::encode([2; 20]));
}

#[tokio::test]
async fn a_kms_that_is_not_allowed_itself_signs_nothing() {
    let (world, app) = allowed_app().await;
    world.allowlist.change(|rules| rules["kms"]["mrAggregated"] = json!([]));
    let key = P256Key::generate();
    let refusal = ask(&world, &sign_cert_request(&wish(&app, &key), &key, "")).await.refusal();
    let text = "KMS self authorization failed: KMS is not allowed: aggregated MR not allowed";
    assert_eq!(refusal, (403, text.to_owned()));
}
