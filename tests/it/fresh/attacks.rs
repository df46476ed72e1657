//! Evidence that is not made for this call on this connection by this guest: none of it releases anything.

use std::sync::Arc;

use cvm_kms::proto::{GetAppKeyRequest, GetChallengeResponse};
use kms_attest::binding::ReportData;
use kms_attest::p256::P256Key;
use kms_attest::ra_tls;
use kms_simulator::{Cvm, Platform};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ProtocolVersion, SupportedProtocolVersion};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{
    Bound, Guest, challenge, code, counted, fields, last, server_spki, showing, with_admin_over_tls,
};
use crate::support::grpc::{Channel, origin};
use crate::support::http::{json, with};
use crate::support::{ADMIN_TOKEN, Caller, DOMAIN, World};

const METHOD: &str = "KMS.GetAppKey";

const ONLY_12: &[&SupportedProtocolVersion] = &[&TLS12];
const ONLY_13: &[&SupportedProtocolVersion] = &[&TLS13];

/// A KMS with an allowed app and an allowed other one.
async fn world() -> (World, Arc<Cvm>, Arc<Cvm>) {
    let world = World::ready().await;
    let (app, other) = (world.app(1), world.app(2));
    world.allow_app(&app);
    world.allow_app(&other);
    (world, app, other)
}

/// Sends this, which must be refused with this code, and must release nothing.
async fn refused(world: &World, guest: &mut Guest, what: &str, body: Value, expected: (u16, &str)) {
    let (releases, refusals) = (world.audited("app_key_released").len(), counted(world, "refused").await);
    let answer = guest.ask(body).await;
    assert_eq!(code(&answer), (expected.0, expected.1.to_owned()), "{what}: {answer:?}");
    assert!(answer.value().get("disk_crypt_key").is_none(), "{what}");
    assert_eq!(world.audited("app_key_released").len(), releases, "{what}");
    let is_counted = u64::from(expected.0 == 403);
    assert_eq!(counted(world, "refused").await, refusals + is_counted, "{what}");
}

#[tokio::test]
async fn evidence_of_another_session_call_or_guest_is_refused() {
    let (world, app, other) = world().await;
    let mut guest = Guest::connect(&world, &app).await;
    let elsewhere = Guest::connect(&world, &app).await;
    let not_bound = (403, "fresh_evidence_not_bound");
    let mismatch = (403, "fresh_evidence_mismatch");

    // Every part of the session counts.
    let exporter = elsewhere.line.exporter.expect("TLS 1.3");
    let key = P256Key::generate().spki_der().to_vec();
    type Alter = Box<dyn FnOnce(Bound) -> Bound>;
    let (client, server) = (key.clone(), key);
    let alterations: [(&str, Alter); 6] = [
        ("the exporter of another session", Box::new(move |bound| Bound { exporter, ..bound })),
        ("another method", Box::new(|bound| Bound { method: "KMS.SignCert", ..bound })),
        (
            "the same method of another service",
            Box::new(|bound| Bound { method: "Admin.GetAppKey", ..bound }),
        ),
        ("another client key", Box::new(|bound| Bound { client_spki: client, ..bound })),
        ("another server key", Box::new(|bound| Bound { server_spki: server, ..bound })),
        ("no exporter", Box::new(|bound| Bound { exporter: [0; 32], ..bound })),
    ];
    for (what, alter) in alterations {
        let bound = guest.bound(METHOD).await;
        let challenge = bound.challenge;
        let body = fields(&challenge, &app.evidence(alter(bound).report_data()));
        refused(&world, &mut guest, what, body, not_bound).await;
    }
    let (first, second) = (guest.bound(METHOD).await, guest.bound(METHOD).await);
    let body = fields(&second.challenge, &app.evidence(first.report_data()));
    refused(&world, &mut guest, "evidence over another challenge", body, not_bound).await;

    // The certificate's own evidence, which is bound to the key alone.
    let bound = guest.bound(METHOD).await;
    let body = fields(&bound.challenge, &app.evidence(ReportData::ra_tls(&guest.key.spki_der())));
    refused(&world, &mut guest, "the evidence of a certificate", body, not_bound).await;

    // Reflection: what the KMS says of itself, and what its machine would say.
    let bound = guest.bound(METHOD).await;
    let certificate = guest.line.server_certificate.clone().expect("a certificate");
    let own = ra_tls::evidence_in(&certificate).expect("readable").expect("evidence");
    let body = fields(&bound.challenge, &own);
    refused(&world, &mut guest, "the KMS's own evidence", body, not_bound).await;
    let bound = guest.bound(METHOD).await;
    let body = fields(&bound.challenge, &world.cvm.evidence(bound.report_data()));
    refused(&world, &mut guest, "evidence of the KMS's machine", body, mismatch).await;

    // Splice: another CVM answers for this connection, with the certificate of this one.
    let twin = Cvm::builder(&world.platform).app_id([1; 20]).compose_hash([1; 32]);
    let instance = twin.instance_id(&[9; 20]).build();
    let far = Cvm::builder(&Platform::from_seed(b"integration tests, another machine"));
    let far = far.app_id([1; 20]).compose_hash([1; 32]).build();
    let bound = guest.bound(METHOD).await;
    let body = fields(&bound.challenge, &far.evidence(bound.report_data()));
    refused(&world, &mut guest, "another machine's root", body, (403, "quote_not_genuine")).await;
    for (what, cvm) in [("another app", &other), ("another instance", &instance)] {
        let bound = guest.bound(METHOD).await;
        let body = fields(&bound.challenge, &cvm.evidence(bound.report_data()));
        refused(&world, &mut guest, what, body, mismatch).await;
    }

    // A changed quote, and what is no evidence.
    let bound = guest.bound(METHOD).await;
    let mut forged = app.evidence(bound.report_data());
    let kms_attest::evidence::Platform::Tdx(tdx) = &mut forged.platform else { panic!("TDX") };
    // In the signature over the report.
    tdx.quote[48 + 584 + 4 + 10] ^= 1;
    let body = fields(&bound.challenge, &forged);
    refused(&world, &mut guest, "a forged quote", body, (403, "quote_not_genuine")).await;
    let challenge = hex::encode(challenge(&mut guest.line).await);
    let body = json!({ "challenge": challenge, "fresh_evidence": "00ff" });
    refused(&world, &mut guest, "no evidence", body, (403, "evidence_malformed")).await;

    // The connection is still good.
    let fresh = guest.fresh(METHOD).await;
    assert_eq!(guest.ask(fresh).await.status, 200);
    assert_eq!(world.audited("app_key_released").len(), 1);
}

#[tokio::test]
async fn evidence_of_another_boot_is_refused() {
    let (world, app, _) = world().await;
    let mismatch = (403, "fresh_evidence_mismatch");
    app.emit("system-ready", b"");
    app.emit("update", b"1");
    let mut guest = Guest::connect(&world, &app).await;
    // The same CVM after another boot: its log is shorter, or goes on in another way.
    let rebooted = world.app(1);
    assert_eq!(rebooted.instance_id(), app.instance_id());
    for (what, event, payload) in [
        ("boot", "system-ready", &b""[..]),
        ("running", "update", b"2"),
        ("longer", "update", b"1"),
        ("even longer", "update", b"1"),
    ] {
        rebooted.emit(event, payload);
        let bound = guest.bound(METHOD).await;
        let body = fields(&bound.challenge, &rebooted.evidence(bound.report_data()));
        refused(&world, &mut guest, what, body, mismatch).await;
    }
    let bound = guest.bound(METHOD).await;
    let body = fields(&bound.challenge, &rebooted.evidence(bound.report_data()));
    let answer = guest.ask(body).await;
    assert!(answer.text().contains("rt_mr3 differs"), "{answer:?}");
    // Events that are only claimed do not replay to the register.
    let bound = guest.bound(METHOD).await;
    let mut lie = rebooted.evidence(bound.report_data());
    lie.stack.runtime_events = app.runtime_events();
    let body = fields(&bound.challenge, &lie);
    let answer = guest.ask(body).await;
    assert_eq!((answer.status, world.audited("app_key_released").len()), (403, 0), "{answer:?}");
    let fresh = guest.fresh(METHOD).await;
    assert_eq!(guest.ask(fresh).await.status, 200);
}

#[tokio::test]
async fn evidence_for_one_service_is_none_for_the_same_method_of_another() {
    let (world, address) = with_admin_over_tls("").await;
    let replica = world.replica();
    let operator = format!("Bearer {ADMIN_TOKEN}");
    let as_operator = |method: &str, body: Value| with(json(method, body), "authorization", &operator);
    let mut main = Guest::connect(&world, &replica).await;
    let mut admin = Guest::over(&Caller::new(address), &replica).await;
    let not_bound = (403, "fresh_evidence_not_bound".to_owned());
    let released = || world.audited("kms_key_released").len();

    for (method, is_right) in [
        ("KMS.GetKmsKey", false),
        ("Admin.GetAppKey", false),
        ("GetKmsKey", false),
        ("Admin.GetKmsKey", true),
    ] {
        let given = admin.line.send(as_operator("GetChallenge", json!({}))).await;
        let given: GetChallengeResponse = given.message();
        let bound = Bound {
            challenge: given.nonce.try_into().expect("32 bytes"),
            client_spki: admin.key.spki_der().to_vec(),
            server_spki: server_spki(&admin.line),
            exporter: admin.line.exporter.expect("TLS 1.3"),
            method,
        };
        let body = fields(&bound.challenge, &replica.evidence(bound.report_data()));
        if is_right {
            let elsewhere = main.line.json("GetKmsKey", body.clone()).await;
            assert_eq!(code(&elsewhere), (403, "challenge_unknown".to_owned()), "{elsewhere:?}");
        }
        let answer = admin.line.send(as_operator("GetKmsKey", body)).await;
        match is_right {
            true => assert_eq!((answer.status, released()), (200, 1), "{answer:?}"),
            false => assert_eq!((code(&answer), released()), (not_bound.clone(), 0), "{method}"),
        }
    }
    assert_eq!(last(&world, "kms_key_released")["fresh"], true);

    // On the main listener, by each of its names.
    for path in ["GetKmsKey", "KMS.GetKmsKey"] {
        for method in ["Admin.GetKmsKey", "kms.GetKmsKey", "/kms.KMS/GetKmsKey", "KMS.GetAppKey"] {
            let fresh = main.fresh(method).await;
            let answer = main.line.json(path, fresh).await;
            assert_eq!((code(&answer), released()), (not_bound.clone(), 1), "{path} {method}");
        }
    }
    let fresh = main.fresh("KMS.GetKmsKey").await;
    let answer = main.line.json("KMS.GetKmsKey", fresh).await;
    assert_eq!((answer.status, released()), (200, 2), "{answer:?}");
}

#[tokio::test]
async fn half_of_the_fields_and_challenges_of_another_length_are_refused() {
    let (world, app, _) = world().await;
    let mut guest = Guest::connect(&world, &app).await;
    let bound = guest.bound(METHOD).await;
    let evidence = hex::encode(app.evidence(bound.report_data()).encode());
    let challenge = hex::encode(bound.challenge);
    for (body, text) in [
        (
            json!({ "challenge": challenge }),
            "challenge and fresh_evidence are sent together, or none of them",
        ),
        (
            json!({ "fresh_evidence": evidence }),
            "challenge and fresh_evidence are sent together, or none of them",
        ),
        (
            json!({ "challenge": challenge[2..], "fresh_evidence": evidence }),
            "challenge must be 32 bytes, got 31",
        ),
        (
            json!({ "challenge": format!("{challenge}00"), "fresh_evidence": evidence }),
            "challenge must be 32 bytes, got 33",
        ),
    ] {
        assert_eq!(guest.ask(body).await.refusal(), (400, text.to_owned()));
    }
    assert!(world.audited("app_key_released").is_empty());
    // None of them has used the challenge up.
    let body = json!({ "challenge": challenge, "fresh_evidence": evidence });
    assert_eq!(guest.ask(body).await.status, 200);
}

#[tokio::test]
async fn what_was_used_or_given_elsewhere_is_not_taken() {
    let (world, app, _) = world().await;
    let mut guest = Guest::connect(&world, &app).await;
    let mut elsewhere = Guest::connect(&world, &app).await;
    let unknown = (403, "challenge_unknown");

    let fresh = guest.fresh(METHOD).await;
    assert_eq!(guest.ask(fresh.clone()).await.status, 200);
    refused(&world, &mut guest, "a replay on the same connection", fresh.clone(), unknown).await;
    refused(&world, &mut elsewhere, "a replay on another connection", fresh.clone(), unknown).await;
    // With the same key: whoever has stolen it.
    let line = showing(&world.caller(), &app, &guest.key).connect().await.expect("a connection");
    let mut thief =
        Guest { cvm: Arc::clone(&app), key: P256Key::from_pem(&guest.key.pem()).expect("a key"), line };
    refused(&world, &mut thief, "a replay with the key of the guest", fresh.clone(), unknown).await;
    let own = challenge(&mut thief.line).await;
    let mut body = fresh;
    body["challenge"] = hex::encode(own).into();
    let not_bound = (403, "fresh_evidence_not_bound");
    refused(&world, &mut thief, "old evidence for a new challenge", body, not_bound).await;

    // An unused answer to a challenge of another connection.
    let body = guest.fresh(METHOD).await;
    refused(&world, &mut elsewhere, "an answer of another connection", body.clone(), unknown).await;
    assert_eq!(guest.ask(body).await.status, 200, "another connection does not use it up");
    // A refused answer uses its challenge up.
    let bound = guest.bound(METHOD).await;
    let wrong = fields(&bound.challenge, &app.evidence(ReportData::ZERO));
    refused(&world, &mut guest, "wrong evidence", wrong, not_bound).await;
    let right = fields(&bound.challenge, &app.evidence(bound.report_data()));
    refused(&world, &mut guest, "right evidence after wrong one", right, unknown).await;
    // So many challenges that the first is forgotten.
    let first = guest.fresh(METHOD).await;
    for _ in 0..16 {
        challenge(&mut guest.line).await;
    }
    refused(&world, &mut guest, "a forgotten challenge", first, unknown).await;
    let zero = json!({ "challenge": "00".repeat(32), "fresh_evidence": "00" });
    refused(&world, &mut guest, "a challenge that was never given", zero, unknown).await;
}

#[tokio::test]
async fn what_a_guest_says_to_one_kms_or_to_a_man_in_the_middle_is_nothing_to_another() {
    let ((world, app, _), (other, other_app, _)) = tokio::join!(world(), world());
    assert_eq!(app.app_id(), other_app.app_id(), "the same app is allowed at both");
    let mut guest = Guest::connect(&world, &app).await;
    // The guest talks to a KMS that passes on what it says, even with the guest's key.
    let line = showing(&other.caller(), &app, &guest.key).connect().await.expect("a connection");
    let mut relay =
        Guest { cvm: Arc::clone(&app), key: P256Key::from_pem(&guest.key.pem()).expect("a key"), line };
    let body = guest.fresh(METHOD).await;
    let unknown = (403, "challenge_unknown");
    refused(&other, &mut relay, "an answer to the challenge of another KMS", body, unknown).await;
    // It passes the challenge of the other KMS on to the guest, as its own.
    let not_bound = (403, "fresh_evidence_not_bound");
    let bound = Bound { challenge: challenge(&mut relay.line).await, ..guest.bound(METHOD).await };
    let body = fields(&bound.challenge, &app.evidence(bound.report_data()));
    refused(&other, &mut relay, "an answer in the session with another KMS", body, not_bound).await;
    // A man in the middle with a certificate of its own, which may even copy the server's key digest into the session.
    let bound = Bound {
        challenge: challenge(&mut relay.line).await,
        server_spki: server_spki(&relay.line),
        ..guest.bound(METHOD).await
    };
    let body = fields(&bound.challenge, &app.evidence(bound.report_data()));
    refused(&other, &mut relay, "an answer in the session with a man in the middle", body, not_bound).await;
    // With its own client key: then the evidence in its certificate is not the guest's.
    let attacker = other.app(2);
    let mut attacker = Guest::connect(&other, &attacker).await;
    let bound = attacker.bound(METHOD).await;
    let body = fields(&bound.challenge, &app.evidence(bound.report_data()));
    refused(
        &other,
        &mut attacker,
        "the guest answers for another client",
        body,
        (403, "fresh_evidence_mismatch"),
    )
    .await;
    assert!(other.audited("app_key_released").is_empty());
}

#[tokio::test]
async fn of_two_requests_at_once_with_one_answer_one_gets_keys() {
    let (world, app, _) = world().await;
    let key = P256Key::generate();
    let caller = showing(&world.caller(), &app, &key).http2();
    let tcp = TcpStream::connect(world.address()).await.expect("a connection");
    let name = ServerName::try_from(DOMAIN).expect("a name");
    let stream = TlsConnector::from(Arc::new(caller.tls())).connect(name, tcp).await.expect("a handshake");
    let tls = stream.get_ref().1;
    let exporter = kms_attest::tls::exporter(tls).expect("TLS 1.3");
    let server = ra_tls::spki_of(&tls.peer_certificates().expect("a chain")[0]).expect("a key");
    let channel = Channel::over(stream).await.expect("HTTP/2");
    let client = cvm_kms::proto::kms_client::KmsClient::with_origin(channel, origin());
    for round in 1..=4 {
        let given = client.clone().get_challenge(()).await.expect("a challenge").into_inner();
        let bound = Bound {
            challenge: given.nonce.try_into().expect("32 bytes"),
            client_spki: key.spki_der().to_vec(),
            server_spki: server.clone(),
            exporter,
            method: METHOD,
        };
        let request = GetAppKeyRequest {
            challenge: bound.challenge.to_vec(),
            fresh_evidence: app.evidence(bound.report_data()).encode(),
            ..Default::default()
        };
        let asked = (0..8).map(|_| {
            let (mut client, request) = (client.clone(), request.clone());
            async move { client.get_app_key(request).await }
        });
        let answers = futures_util::future::join_all(asked).await;
        let (given, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!((given.len(), refused.len()), (1, 7));
        for status in refused.into_iter().filter_map(Result::err) {
            assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status}");
        }
        assert_eq!(world.audited("app_key_released").len(), round);
        assert_eq!(last(&world, "app_key_released")["fresh"], true);
    }
}

#[tokio::test]
async fn tls_1_2_has_no_session_that_evidence_can_be_bound_to() {
    let (world, app, _) = world().await;
    let mut guest = Guest::over(&world.caller().speaks(ONLY_12), &app).await;
    assert_eq!((guest.line.version, guest.line.exporter), (Some(ProtocolVersion::TLSv1_2), None));
    let answer = guest.line.json("GetChallenge", json!({})).await;
    assert_eq!(answer.value(), json!({ "nonce": "", "expires_in": 0 }));
    let body = fields(&[7; 32], &app.evidence(ReportData::ZERO));
    refused(&world, &mut guest, "TLS 1.2", body, (403, "fresh_evidence_not_possible")).await;
    assert_eq!(guest.ask(json!({})).await.status, 200, "it is not required");
}

#[tokio::test]
async fn a_resumed_session_has_an_exporter_of_its_own() {
    let (world, app, _) = world().await;
    let key = P256Key::generate();
    let caller = showing(&world.caller(), &app, &key).speaks(ONLY_13).http2();
    let mut config = caller.tls();
    config.resumption = Resumption::in_memory_sessions(8);
    let connector = TlsConnector::from(Arc::new(config));
    let mut exporters: Vec<[u8; 32]> = Vec::new();
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let tcp = TcpStream::connect(world.address()).await.expect("a connection");
        let name = ServerName::try_from(DOMAIN).expect("a name");
        let stream = connector.connect(name, tcp).await.expect("a handshake");
        let tls = stream.get_ref().1;
        kinds.push(tls.handshake_kind());
        exporters.push(kms_attest::tls::exporter(tls).expect("TLS 1.3"));
        let server = ra_tls::spki_of(&tls.peer_certificates().expect("a chain")[0]).expect("a key");
        let channel = Channel::over(stream).await.expect("HTTP/2");
        let mut client = cvm_kms::proto::kms_client::KmsClient::with_origin(channel, origin());
        // The exporter of each session so far, that of this one last.
        for (number, exporter) in exporters.iter().enumerate() {
            let given = client.get_challenge(()).await.expect("a challenge").into_inner();
            let bound = Bound {
                challenge: given.nonce.try_into().expect("32 bytes"),
                client_spki: key.spki_der().to_vec(),
                server_spki: server.clone(),
                exporter: *exporter,
                method: METHOD,
            };
            let request = GetAppKeyRequest {
                challenge: bound.challenge.to_vec(),
                fresh_evidence: app.evidence(bound.report_data()).encode(),
                ..Default::default()
            };
            let answer = client.get_app_key(request).await;
            assert_eq!(answer.is_ok(), number + 1 == exporters.len(), "{answer:?}");
        }
    }
    assert_eq!(kinds, [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)]);
    assert_ne!(exporters[0], exporters[1]);
    assert_eq!(world.audited("app_key_released").len(), 2);
}

#[tokio::test]
async fn after_a_renewal_open_and_new_connections_are_bound_to_the_certificate_that_they_were_shown() {
    let (world, app, _) = world().await;
    let mut before = Guest::connect(&world, &app).await;
    let early = before.fresh(METHOD).await;
    let admin = Caller::new(world.admin_address().await).plain();
    let renew = crate::support::http::with(
        crate::support::http::post("/api/v1/actions/reissue-certificate", ""),
        "authorization",
        &format!("Bearer {}", crate::support::ADMIN_TOKEN),
    );
    let renewed = admin.send(renew).await;
    assert!([200, 202].contains(&renewed.status), "{renewed:?}");
    let old = before.line.server_certificate.clone();
    let mut after = crate::support::eventually("the new certificate", async || {
        let guest = Guest::connect(&world, &app).await;
        (guest.line.server_certificate != old).then_some(guest)
    })
    .await;
    assert_eq!(before.ask(early).await.status, 200, "given before");
    let late = before.fresh(METHOD).await;
    assert_eq!(before.ask(late).await.status, 200, "given after");
    let fresh = after.fresh(METHOD).await;
    refused(
        &world,
        &mut before,
        "an answer of the new connection",
        fresh.clone(),
        (403, "challenge_unknown"),
    )
    .await;
    assert_eq!(after.ask(fresh).await.status, 200);
}
