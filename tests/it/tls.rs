//! TLS: versions, protocols, accepted client certificates, and the server's certificate.

use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use crate::support::http::{json, request};
use crate::support::identity::{LOOK_ALIKE, look_alikes, spec};
use crate::support::process::run;
use crate::support::{DOMAIN, Identity, PATIENCE, World, eventually};
use cvm_kms::net::tls::{self, ClientPolicy, Leaf};
use kms_attest::binding::ReportData;
use kms_attest::certificate::{self, CertificateSpec, Issuer, LAST_SECOND, LONG_AGO, Role, Validity};
use kms_attest::clock::unix_now;
use kms_attest::p256::P256Key;
use kms_attest::ra_tls;
use kms_client::{ClientIdentity, Connection, Trust};
use rustls::client::Resumption;
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ProtocolVersion, SupportedProtocolVersion};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Each TLS version alone.
const VERSIONS: [&[&SupportedProtocolVersion]; 2] = [&[&TLS13], &[&TLS12]];

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_and_h2_is_preferred() {
    let world = World::ready().await;
    for (versions, expected) in VERSIONS.into_iter().zip([ProtocolVersion::TLSv1_3, ProtocolVersion::TLSv1_2])
    {
        for (offered, chosen) in [
            (&[b"h2" as &[u8], b"http/1.1"][..], Some(b"h2".to_vec())),
            (&[b"http/1.1", b"h2"], Some(b"h2".to_vec())),
            (&[b"http/1.1"], Some(b"http/1.1".to_vec())),
            (&[b"h2"], Some(b"h2".to_vec())),
            (&[], None),
        ] {
            let caller = world.caller().speaks(versions).offers(Box::leak(offered.into()));
            let mut line = caller.connect().await.expect("a connection");
            assert_eq!((line.version, &line.alpn), (Some(expected), &chosen));
            assert_eq!(line.json("GetMeta", json!({})).await.status, 200, "{expected:?} {chosen:?}");
        }
    }
    let unknown = world.caller().offers(&[b"spdy/3"]).connect().await;
    assert!(unknown.is_err(), "no protocol in common");
}

#[tokio::test]
async fn older_versions_are_refused_with_an_alert() {
    let world = World::ready().await;
    let address = world.address().to_string();
    for version in ["-tls1", "-tls1_1"] {
        let arguments = ["s_client", "-connect", &address, version, "-cipher", "ALL:@SECLEVEL=0"];
        let ran = run("openssl", &arguments, "").await;
        assert_ne!(ran.code, 0, "{}", ran.text());
        assert!(ran.text().contains("alert handshake failure"), "{}", ran.text());
    }
}

/// The server's bytes after `bytes`, up to the end of the connection.
async fn reply_to(world: &World, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(world.address()).await.expect("a connection");
    stream.write_all(bytes).await.expect("sent");
    let mut reply = Vec::new();
    // Unread bytes turn the close into a reset.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut reply)).await.expect("an end");
    reply
}

#[tokio::test]
async fn plain_http_is_closed_without_an_answer_and_junk_with_an_alert_at_most() {
    let world = World::ready().await;
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: kms\r\n\r\n"[..],
        b"POST /prpc/GetMeta HTTP/1.1\r\nHost: kms\r\nContent-Length: 0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\n",
        b"\0\0\0",
    ] {
        assert!(reply_to(&world, bytes).await.is_empty(), "{bytes:?}");
    }
    for junk in [&b"\x16\x03\x01\x00\x05hello"[..], &[0x16; 2000], b"\x16\x03\x03\xff\xff\x00"] {
        let reply = tokio::time::timeout(Duration::from_millis(500), reply_to(&world, junk)).await;
        let reply = reply.unwrap_or_default();
        assert!(reply.is_empty() || reply[0] == 0x15, "{junk:?}: {reply:?}");
    }
    assert_eq!(world.caller().json("GetMeta", json!({})).await.status, 200);
}

/// Every kind of client certificate, and whether the handshake succeeds.
async fn certificates(world: &World) -> Vec<(&'static str, Identity, bool)> {
    let temp_ca = world.temp_ca().await;
    let app = world.app(1);
    let key = P256Key::generate;
    let now = unix_now();
    let evidence = |key: &P256Key| app.evidence(ReportData::ra_tls(&key.spki_der())).stripped().encode();
    let expired = Validity { not_before: LONG_AGO, not_after: now - 60 };
    let future = Validity { not_before: now + 3600, not_after: LAST_SECOND };
    let foreign_ca_key = key();
    let ca = CertificateSpec { role: Role::Ca { path_len: 0 }, common_name: "Other CA", ..spec() };
    let foreign_ca = certificate::self_signed(&ca, &foreign_ca_key).expect("certificate");
    // Our name with another key.
    let impostor_key = key();
    let impostor_spec = CertificateSpec {
        organization: Some("Dstack"),
        common_name: "Dstack Client Temp CA",
        role: Role::Ca { path_len: 0 },
        ..spec()
    };
    let impostor = certificate::self_signed(&impostor_spec, &impostor_key).expect("certificate");

    let of_temp_ca = |spec: &CertificateSpec<'_>| Identity::of_temp_ca(&temp_ca, spec, &key());
    let issued = |ca: &[u8], ca_key: &P256Key, spec: &CertificateSpec<'_>, key: &P256Key| {
        let issuer = Issuer::new(ca, ca_key).expect("an issuer");
        Identity::of(certificate::issue(spec, &key.spki_der(), &issuer).expect("certificate"), key)
    };
    let own = |spec: &CertificateSpec<'_>, key: &P256Key| {
        Identity::of(certificate::self_signed(spec, key).expect("certificate"), key)
    };
    let with_evidence =
        |validity, key: &P256Key, make: &dyn Fn(&CertificateSpec<'_>, &P256Key) -> Identity| {
            let evidence = evidence(key);
            make(&CertificateSpec { validity, evidence: Some(&evidence), ..spec() }, key)
        };
    let always = spec().validity;
    let stolen = {
        let owner = key();
        let evidence = evidence(&owner);
        let said = CertificateSpec { evidence: Some(&evidence), ..spec() };
        Identity::of(certificate::self_signed(&said, &owner).expect("certificate"), &key())
    };
    vec![
        ("none", Identity::none(), true),
        ("temporary CA, not attested", Identity::unattested(&temp_ca), true),
        ("temporary CA, attested", Identity::attested(&temp_ca, &app), true),
        (
            "temporary CA, for TLS clients",
            of_temp_ca(&CertificateSpec {
                role: Role::Leaf { server_auth: false, client_auth: true },
                ..spec()
            }),
            true,
        ),
        ("self-issued, attested", Identity::self_issued(&app), true),
        (
            "another CA, attested",
            with_evidence(always, &key(), &|spec, key| issued(&foreign_ca, &foreign_ca_key, spec, key)),
            true,
        ),
        ("self-issued, not attested", own(&spec(), &key()), false),
        ("another CA, not attested", issued(&foreign_ca, &foreign_ca_key, &spec(), &key()), false),
        ("a CA of the same name, not attested", issued(&impostor, &impostor_key, &spec(), &key()), false),
        (
            "self-issued, evidence that does not decode",
            own(&CertificateSpec { evidence: Some(&[0x55, 1]), ..spec() }, &key()),
            false,
        ),
        ("temporary CA, expired", of_temp_ca(&CertificateSpec { validity: expired, ..spec() }), false),
        ("temporary CA, not yet valid", of_temp_ca(&CertificateSpec { validity: future, ..spec() }), false),
        (
            "temporary CA, for TLS servers only",
            of_temp_ca(&CertificateSpec {
                role: Role::Leaf { server_auth: true, client_auth: false },
                ..spec()
            }),
            false,
        ),
        ("self-issued, attested, expired", with_evidence(expired, &key(), &own), false),
        ("self-issued, attested, not yet valid", with_evidence(future, &key(), &own), false),
        ("self-issued, attested, of another key", stolen, false),
        ("X.509 version 1", version_1(world).await, false),
    ]
}

/// A certificate of the temporary CA without version and extensions, by openssl.
async fn version_1(world: &World) -> Identity {
    let key = P256Key::generate();
    let file = |name: &str| world.path(name).to_str().expect("text").to_owned();
    let (key_file, csr, out) = (file("v1.key"), file("v1.csr"), file("v1.crt"));
    fs::write(&key_file, key.pem().as_bytes()).expect("key file");
    let ca = world.key_file("tmp-ca.crt").to_str().expect("text").to_owned();
    let ca_key = world.key_file("tmp-ca.key").to_str().expect("text").to_owned();
    run("openssl", &["req", "-new", "-key", &key_file, "-subj", "/CN=old", "-out", &csr], "")
        .await
        .expect_ok();
    let sign = ["x509", "-req", "-in", &csr, "-CA", &ca, "-CAkey", &ca_key, "-days", "9", "-out", &out];
    run("openssl", &sign, "").await.expect_ok();
    let der = certificate::der(&fs::read_to_string(&out).expect("certificate")).expect("PEM");
    let (_, parsed) = X509Certificate::from_der(&der).expect("a certificate");
    assert_eq!(parsed.version().0, 0, "openssl made version 1");
    Identity::of(der, &key)
}

#[tokio::test]
async fn only_certificates_of_the_temporary_ca_or_with_an_attestation_pass_the_handshake() {
    let world = World::ready().await;
    for (name, identity, passes) in certificates(&world).await {
        for versions in VERSIONS {
            let caller = world.caller().shows(&identity).speaks(versions);
            // In TLS 1.3 the client learns of the refusal with its first response.
            let answer: io::Result<_> = caller.try_json("GetMeta", json!({})).await;
            match answer {
                Ok(answer) => assert!(passes && answer.status == 200, "{name}: {answer:?}"),
                Err(error) => assert!(!passes, "{name}: {error}"),
            }
        }
    }
    assert_eq!(world.caller().json("GetMeta", json!({})).await.status, 200);
}

const HANDSHAKE_CPU: &str = "cvm_kms_handshake_cpu_seconds_total";

#[tokio::test]
async fn a_chain_beyond_two_intermediates_or_16_kib_fails_the_handshake_and_costs_no_path_search() {
    let world = World::ready_with("core.metrics.enabled = true").await;
    let temp_ca = world.temp_ca().await;
    let app = world.app(1);
    let ca_key = P256Key::generate();
    let ca = CertificateSpec { role: Role::Ca { path_len: 255 }, common_name: LOOK_ALIKE, ..spec() };
    let ca = certificate::self_signed(&ca, &ca_key).expect("certificate");
    let issuer = Issuer::new(&ca, &ca_key).expect("an issuer");
    let key = P256Key::generate();
    // Of no root and without attestation: only a path search could tell.
    let stray =
        || Identity::of(certificate::issue(&spec(), &key.spki_der(), &issuer).expect("certificate"), &key);
    let few = look_alikes(1_500);
    let large = {
        let names: Vec<String> = (0..400).map(|n| format!("name-{n:030}.example")).collect();
        let said = CertificateSpec { names: &names, ..spec() };
        certificate::self_signed(&said, &P256Key::generate()).expect("certificate")
    };
    assert!(few.len() >= 3 && large.len() > 16 * 1024, "{} {}", few.len(), large.len());
    let flood = look_alikes(62_000);
    assert!(flood.len() > 100);
    for (name, identity, passes) in [
        ("attested, two intermediates", Identity::self_issued(&app).followed_by(&few[..2]), true),
        ("temporary CA, two intermediates", Identity::unattested(&temp_ca).followed_by(&few[..2]), true),
        ("attested, three intermediates", Identity::self_issued(&app).followed_by(&few[..3]), false),
        ("temporary CA, three intermediates", Identity::unattested(&temp_ca).followed_by(&few[..3]), false),
        ("attested, 16 KiB and more", Identity::self_issued(&app).followed_by(&[large]), false),
        ("a stray, two look-alikes", stray().followed_by(&few[..2]), false),
        ("a stray, look-alikes of 14 KB", stray().followed_by(&look_alikes(14_000)), false),
        ("a stray, look-alikes of 62 KB", stray().followed_by(&flood), false),
        (
            "attested, look-alikes of 50 KB",
            Identity::self_issued(&app).followed_by(&look_alikes(50_000)),
            false,
        ),
    ] {
        for versions in VERSIONS {
            let before = world.metric(HANDSHAKE_CPU).await.unwrap_or(0.0);
            let answer =
                world.caller().shows(&identity).speaks(versions).try_json("GetMeta", json!({})).await;
            assert_eq!(answer.is_ok_and(|answer| answer.status == 200), passes, "{name}");
            let cost = world.metric(HANDSHAKE_CPU).await.unwrap_or(0.0) - before;
            assert!(cost > 0.0 && cost < 0.5, "{name}: {cost} CPU-seconds");
        }
    }
}

#[tokio::test]
async fn key_exchange_is_hybrid_with_all_who_have_it_and_classic_with_the_rest() {
    const HYBRID: &dyn SupportedKxGroup = kx_group::X25519MLKEM768;
    let world = World::ready_with("core.metrics.enabled = true").await;
    let counted = async |group: &str| {
        world.metric(&format!("cvm_kms_key_exchanges_total{{group=\"{group}\"}}")).await.unwrap_or(0.0)
    };
    for (offered, versions, agreed) in [
        (&[HYBRID, kx_group::X25519][..], VERSIONS[0], "X25519MLKEM768"),
        // Like current guests: they support it, but do not prefer it.
        (&[kx_group::X25519, kx_group::SECP256R1, HYBRID], VERSIONS[0], "X25519MLKEM768"),
        (&[HYBRID], VERSIONS[0], "X25519MLKEM768"),
        (&[kx_group::X25519, kx_group::SECP256R1], VERSIONS[0], "x25519"),
        (&[kx_group::SECP256R1], VERSIONS[0], "secp256r1"),
        (&[kx_group::SECP384R1], VERSIONS[0], "secp384r1"),
        // TLS 1.2 has no hybrid groups; clients name them all the same.
        (&[HYBRID, kx_group::X25519], VERSIONS[1], "x25519"),
        (&[kx_group::SECP256R1], VERSIONS[1], "secp256r1"),
    ] {
        let before = counted(agreed).await;
        let mut line = world.caller().exchanges(offered).speaks(versions).connect().await.expect("connected");
        assert_eq!(line.json("GetMeta", json!({})).await.status, 200);
        // The request for the metric is a hybrid handshake too.
        let asked = if agreed == "X25519MLKEM768" { 2.0 } else { 1.0 };
        assert_eq!(counted(agreed).await - before, asked, "{agreed}");
    }
    let url = format!("https://localhost:{}", world.address().port()).parse().expect("a URL");
    let before = counted("X25519MLKEM768").await;
    Connection::open(&url, Trust::DangerousAnyServer, None).await.expect("a connection");
    assert_eq!(counted("X25519MLKEM768").await - before, 2.0, "our client");
    // The provider of all our other clients.
    let first = rustls::crypto::aws_lc_rs::default_provider().kx_groups[0].name();
    assert_eq!(first, rustls::NamedGroup::X25519MLKEM768);
}

#[tokio::test]
async fn mandatory_certificates_shut_out_everyone_without_one() {
    let mut world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let identities = [world.unattested().await, world.attested(&app).await, Identity::self_issued(&app)];
    world.configure("rpc.tls.mutual.mandatory = true");
    world.start().await.expect("starts");
    for versions in VERSIONS {
        let caller = world.caller().speaks(versions);
        assert!(caller.try_json("GetMeta", json!({})).await.is_err());
        assert!(caller.try_send(request("GET", "/health", "")).await.is_err());
        for identity in &identities {
            assert_eq!(caller.shows(identity).json("GetMeta", json!({})).await.status, 200);
        }
    }
}

async fn leaf_of(world: &World) -> CertificateDer<'static> {
    world.caller().connect().await.expect("a connection").server_certificate.expect("a certificate")
}

#[tokio::test]
async fn the_servers_certificate_says_what_clients_look_for() {
    let world = World::ready().await;
    let der = leaf_of(&world).await;
    let (_, leaf) = X509Certificate::from_der(&der).expect("a certificate");
    assert_eq!(leaf.subject().to_string(), "CN=localhost");
    assert_eq!(leaf.issuer().to_string(), "O=Dstack, CN=Dstack KMS CA");
    let names: Vec<_> = leaf.extensions().iter().map(|extension| extension.oid.to_id_string()).collect();
    assert_eq!(
        names,
        ["2.5.29.17", "2.5.29.15", "1.3.6.1.4.1.62397.1.4", "1.3.6.1.4.1.62397.1.8"].map(String::from)
    );
    for extension in leaf.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                assert_eq!(names.general_names, [GeneralName::DNSName(DOMAIN)]);
            }
            ParsedExtension::KeyUsage(usage) => {
                assert!(extension.critical && usage.digital_signature() && usage.flags.count_ones() == 1);
            }
            _ => assert!(!extension.critical),
        }
    }
    assert_eq!(ra_tls::special_usage(&der).expect("readable").as_deref(), Some("kms:rpc"));
    let spki = ra_tls::spki_of(&der).expect("a key");
    let rpc_key =
        P256Key::from_pem(&fs::read_to_string(world.key_file("rpc.key")).expect("key")).expect("PEM");
    assert_eq!(spki, rpc_key.spki_der());
    let evidence = ra_tls::evidence_in(&der).expect("readable").expect("evidence");
    assert_eq!(evidence.report_data().expect("64 bytes"), ReportData::ra_tls(&spki));
    assert_eq!(leaf.validity().not_before.timestamp() as u64, LONG_AGO);
    let days = (leaf.validity().not_after.timestamp() as u64 - unix_now()) / 86_400;
    assert!((89..=90).contains(&days), "{days}");
    let stored = fs::read_to_string(world.key_file("rpc.crt")).expect("certificate");
    assert_eq!(certificate::der(&stored).expect("PEM"), der.as_ref());
}

#[tokio::test]
async fn an_address_becomes_an_address_in_the_certificate_and_evidence_can_be_left_out() {
    let toml = "core.attest_rpc_cert = false\ncore.onboard.auto_bootstrap_domain = \"127.0.0.1\"";
    let world = World::onboarding_with(toml).await;
    let der = leaf_of(&world).await;
    let (_, leaf) = X509Certificate::from_der(&der).expect("a certificate");
    let names = leaf.subject_alternative_name().expect("readable").expect("names");
    assert_eq!(names.value.general_names, [GeneralName::IPAddress(&[127, 0, 0, 1])]);
    assert!(ra_tls::evidence_in(&der).expect("readable").is_none());
    let root = fs::read_to_string(world.key_file("root-ca.crt")).expect("root CA");
    let url = format!("https://{}", world.address()).parse().expect("a URL");
    let connection = Connection::open(&url, Trust::RootCa(&root), None).await.expect("trusted by address");
    connection.meta().await.expect("an answer");
}

#[tokio::test]
async fn clients_that_trust_the_root_accept_the_name_and_no_other() {
    let world = World::ready().await;
    let root = fs::read_to_string(world.key_file("root-ca.crt")).expect("root CA");
    let temp_ca = world.temp_ca().await.temp_ca_cert.clone();
    let port = world.address().port();
    let named = format!("https://localhost:{port}").parse().expect("a URL");
    let by_address = format!("https://127.0.0.1:{port}").parse().expect("a URL");
    let connection = Connection::open(&named, Trust::RootCa(&root), None).await.expect("trusted");
    connection.meta().await.expect("an answer");
    assert!(Connection::open(&by_address, Trust::RootCa(&root), None).await.is_err(), "another name");
    assert!(Connection::open(&named, Trust::RootCa(&temp_ca), None).await.is_err(), "another root");
    // The same certificate for any SNI.
    assert!(Connection::open(&by_address, Trust::DangerousAnyServer, None).await.is_ok());
}

#[tokio::test]
async fn openssl_accepts_the_chain_and_sees_no_hint_about_client_certificates() {
    let world = World::ready().await;
    let file = |name: &str| world.key_file(name).to_str().expect("text").to_owned();
    let (root, leaf, temp) = (file("root-ca.crt"), file("rpc.crt"), file("tmp-ca.crt"));
    run("openssl", &["verify", "-x509_strict", "-CAfile", &root, &root], "").await.expect_ok();
    run("openssl", &["verify", "-CAfile", &root, "-verify_hostname", "localhost", &leaf], "")
        .await
        .expect_ok();
    run("openssl", &["verify", "-CAfile", &temp, &temp], "").await.expect_ok();
    assert_ne!(run("openssl", &["verify", "-CAfile", &temp, &leaf], "").await.code, 0);

    let temp_ca = world.temp_ca().await;
    let key = P256Key::generate();
    let ca_key = P256Key::from_pem(&temp_ca.temp_ca_key).expect("PEM");
    let evidence = world.app(1).evidence(ReportData::ra_tls(&key.spki_der()));
    let client =
        ra_tls::client_certificate(&temp_ca.temp_ca_cert, &ca_key, &key, &evidence).expect("certificate");
    let client_file = world.path("client.crt").to_str().expect("text").to_owned();
    fs::write(&client_file, certificate::pem(&client)).expect("certificate");
    run("openssl", &["verify", "-CAfile", &temp, &client_file], "").await.expect_ok();

    let address = world.address().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let arguments = [
            "s_client",
            "-connect",
            &address,
            version,
            "-servername",
            DOMAIN,
            "-CAfile",
            &root,
            "-verify_return_error",
            "-verify_hostname",
            DOMAIN,
            "-alpn",
            "h2,http/1.1",
            "-showcerts",
        ];
        let ran = run("openssl", &arguments, "").await.expect_ok();
        let text = ran.text();
        assert!(text.contains("Verify return code: 0 (ok)"), "{text}");
        assert!(text.contains("ALPN protocol: h2"), "{text}");
        assert!(text.contains("No client certificate CA names sent"), "{text}");
        assert_eq!(text.matches("-----BEGIN CERTIFICATE-----").count(), 1, "the leaf alone");
    }
}

#[tokio::test]
async fn a_resumed_session_keeps_who_the_caller_is() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    for versions in VERSIONS {
        let caller = world.caller().shows(&world.attested(&app).await).speaks(versions).http1();
        let mut config = caller.tls();
        config.resumption = Resumption::in_memory_sessions(8);
        let connector = TlsConnector::from(Arc::new(config));
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let tcp = TcpStream::connect(world.address()).await.expect("a connection");
            let name = ServerName::try_from(DOMAIN).expect("a name");
            let mut stream = connector.connect(name, tcp).await.expect("a handshake");
            let call = "GET /prpc/GetAppKey HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            stream.write_all(call.as_bytes()).await.expect("sent");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.expect("an answer");
            assert!(answer.starts_with(b"HTTP/1.1 200 OK"), "{}", String::from_utf8_lossy(&answer));
            kinds.push(stream.get_ref().1.handshake_kind());
        }
        assert_eq!(kinds, [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)]);
    }
}

#[tokio::test]
async fn a_client_verifies_the_attestation_of_the_server() {
    let world = World::ready().await;
    let url = format!("https://localhost:{}", world.address().port()).parse().expect("a URL");
    let anchors = kms_attest::trust::TrustAnchors::with_tdx_root(world.platform.root_der()).expect("anchors");
    let options = kms_attest::collateral::CacheOptions::default();
    let cache =
        kms_attest::collateral::CollateralCache::new(&[&world.pccs.url()], &anchors, options).expect("cache");
    let verifier = kms_attest::verify::Verifier::new(anchors, cache);
    let key = P256Key::generate();
    let evidence = world.app(1).evidence(ReportData::ra_tls(&key.spki_der()));
    let identity =
        ClientIdentity::new(ra_tls::self_issued_certificate(&key, &evidence).expect("certificate"), key);
    let connection =
        Connection::open(&url, Trust::DangerousAnyServer, Some(&identity)).await.expect("a connection");
    let verified =
        connection.verify_server(kms_client::ServerAttestation::Required(&verifier)).await.expect("a KMS");
    let boot =
        verified.expect("evidence").identity(kms_attest::identity::Registers::RunTime, "").expect("identity");
    assert_eq!(boot.mr_aggregated.0, world.cvm.mr_aggregated());
}

/// An idle connection ends soon.
async fn ends(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let ended = tokio::time::timeout(Duration::from_secs(40), stream.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "still open");
}

#[tokio::test]
async fn connections_that_say_nothing_are_closed_at_every_stage() {
    let world = World::ready_with("[core.limits]\nhandshake_timeout = \"1s\"\nidle_timeout = \"1s\"").await;
    let tcp = async || TcpStream::connect(world.address()).await.expect("a connection");
    let before_tls = async || ends(&mut tcp().await).await;
    let within_tls = async || {
        let mut stream = tcp().await;
        stream.write_all(&[0x16, 3, 1]).await.expect("sent");
        ends(&mut stream).await;
    };
    let after_tls = async |protocols: &'static [&'static [u8]]| {
        let config = Arc::new(world.caller().offers(protocols).tls());
        let name = ServerName::try_from(DOMAIN).expect("a name");
        let mut stream = TlsConnector::from(config).connect(name, tcp().await).await.expect("a handshake");
        ends(&mut stream).await;
    };
    // HTTP/2 answers pings indefinitely.
    let after_a_request = async |caller: crate::support::Caller| {
        let mut line = caller.connect().await.expect("a connection");
        assert_eq!(line.json("GetMeta", json!({})).await.status, 200);
        eventually("an idle connection is closed", async || line.is_closed().then_some(())).await;
        assert!(line.try_send(json("GetMeta", json!({}))).await.is_err(), "still open");
    };
    tokio::join!(
        before_tls(),
        within_tls(),
        after_tls(&[b"http/1.1"]),
        after_tls(&[b"h2"]),
        after_tls(&[]),
        after_a_request(world.caller().http1()),
        after_a_request(world.caller().http2()),
    );
}

#[tokio::test]
async fn the_certificate_is_swapped_under_open_connections() {
    let make = |name: &'static str| {
        let key = P256Key::generate();
        let said = CertificateSpec { common_name: name, ..spec() };
        let der = certificate::self_signed(&said, &key).expect("certificate");
        (vec![CertificateDer::from(der)], key.pkcs8_der())
    };
    let (chain, key) = make("first");
    let leaf = Leaf::new(chain.clone(), &*key).expect("a leaf");
    let temp_ca_key = P256Key::generate();
    let temp_ca = CertificateSpec { role: Role::Ca { path_len: 0 }, ..spec() };
    let temp_ca =
        CertificateDer::from(certificate::self_signed(&temp_ca, &temp_ca_key).expect("certificate"));
    let acceptor = tls::serving(Arc::clone(&leaf), &temp_ca, ClientPolicy::Optional).expect("TLS");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.expect("a connection");
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = acceptor.accept(tcp).await.expect("a handshake").stream;
                let (mut read, mut write) = tokio::io::split(stream);
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    let connect = async || {
        let config = crate::support::Caller::new(address).offers(&[]).tls();
        let tcp = TcpStream::connect(address).await.expect("a connection");
        let name = ServerName::try_from(DOMAIN).expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.expect("a handshake")
    };
    let mut old = connect().await;
    let (next, next_key) = make("second");
    assert!(leaf.swap(next.clone(), &*key).is_err(), "a key of another certificate is not taken");
    leaf.swap(next.clone(), &*next_key).expect("swapped");
    let new = connect().await;
    assert_eq!(old.get_ref().1.peer_certificates(), Some(&chain[..]));
    assert_eq!(new.get_ref().1.peer_certificates(), Some(&next[..]));
    old.write_all(b"still here").await.expect("sent");
    let mut echo = [0; 10];
    old.read_exact(&mut echo).await.expect("an echo");
    assert_eq!(&echo, b"still here");
}
