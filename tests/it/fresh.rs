//! Fresh evidence: evidence that is made for one call on one connection, and what is refused instead of it.

mod attacks;
mod explained;

use std::net::SocketAddr;
use std::sync::Arc;

use cvm_kms::proto::{AppKeyResponse, GetAppKeyRequest, GetChallengeResponse, SignCertResponse};
use kms_attest::attester::Attester;
use kms_attest::binding::ReportData;
use kms_attest::binding::session::{Session, spki_sha256};
use kms_attest::collateral::{CacheOptions, CollateralCache};
use kms_attest::evidence::Evidence;
use kms_attest::p256::P256Key;
use kms_attest::ra_tls;
use kms_attest::trust::TrustAnchors;
use kms_attest::verify::{Verified, Verifier};
use kms_client::operator::OperatorToken;
use kms_client::sign::sign_cert_request;
use kms_client::source::receive_root_keys_as_operator;
use kms_simulator::Cvm;
use serde_json::{Value, json};

use crate::support::http::json;
use crate::support::{ADMIN_TOKEN, Answer, Caller, Identity, Line, World, csr};

/// A guest with its key, and its connection to a KMS.
struct Guest {
    cvm: Arc<Cvm>,
    key: P256Key,
    line: Line,
}

/// The session of a connection, every part of which can be replaced by a wrong one.
struct Bound {
    challenge: [u8; 32],
    client_spki: Vec<u8>,
    server_spki: Vec<u8>,
    exporter: [u8; 32],
    method: &'static str,
}

impl Bound {
    fn report_data(&self) -> ReportData {
        let session = Session {
            challenge: &self.challenge,
            client_spki_sha256: &spki_sha256(&self.client_spki),
            server_spki_sha256: &spki_sha256(&self.server_spki),
            exporter: &self.exporter,
            method: self.method,
        };
        session.report_data()
    }
}

/// A client that shows a certificate of this CVM for this key.
fn showing(caller: &Caller, cvm: &Cvm, key: &P256Key) -> Caller {
    let evidence = cvm.evidence(ReportData::ra_tls(&key.spki_der()));
    let certificate = ra_tls::self_issued_certificate(key, &evidence).expect("a certificate");
    caller.shows(&Identity::of(certificate, key))
}

/// A challenge of this connection.
async fn challenge(line: &mut Line) -> [u8; 32] {
    let answer = line.json("GetChallenge", json!({})).await;
    let response: GetChallengeResponse = answer.message();
    assert_eq!(response.expires_in, 30);
    response.nonce.try_into().expect("32 bytes")
}

/// The key of the server on this connection.
fn server_spki(line: &Line) -> Vec<u8> {
    ra_tls::spki_of(line.server_certificate.as_ref().expect("a certificate")).expect("a key")
}

/// The fields of a request with fresh evidence.
fn fields(challenge: &[u8], evidence: &Evidence) -> Value {
    json!({ "challenge": hex::encode(challenge), "fresh_evidence": hex::encode(evidence.stripped().encode()) })
}

impl Guest {
    async fn connect(world: &World, cvm: &Arc<Cvm>) -> Self {
        Self::over(&world.caller(), cvm).await
    }

    async fn over(caller: &Caller, cvm: &Arc<Cvm>) -> Self {
        let key = P256Key::generate();
        let line = showing(caller, cvm, &key).connect().await.expect("a connection");
        Self { cvm: Arc::clone(cvm), key, line }
    }

    /// The session of this connection with a new challenge.
    async fn bound(&mut self, method: &'static str) -> Bound {
        Bound {
            challenge: challenge(&mut self.line).await,
            client_spki: self.key.spki_der().to_vec(),
            server_spki: server_spki(&self.line),
            exporter: self.line.exporter.expect("TLS 1.3"),
            method,
        }
    }

    /// Right fresh evidence, as the fields of a request.
    async fn fresh(&mut self, method: &'static str) -> Value {
        let bound = self.bound(method).await;
        fields(&bound.challenge, &self.cvm.evidence(bound.report_data()))
    }

    async fn ask(&mut self, body: Value) -> Answer {
        self.line.json("GetAppKey", body).await
    }
}

/// The record of the last release.
fn last(world: &World, event: &str) -> Value {
    world.audited(event).pop().expect("a record")
}

/// How many callers were counted with this result.
async fn counted(world: &World, result: &str) -> u64 {
    let text = world.caller().get("/metrics").await;
    let name = format!("cvm_kms_fresh_evidence_total{{result=\"{result}\"}} ");
    text.text().lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
}

/// The code of a refusal.
fn code(answer: &Answer) -> (u16, String) {
    (answer.status, answer.value()["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn fresh_evidence_is_taken_by_every_codec_and_the_record_says_so() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let mut old = Guest::connect(&world, &app).await;
    let expected = old.ask(json!({})).await.value();
    assert!(last(&world, "app_key_released").get("fresh").is_none());

    for caller in [world.caller().http1(), world.caller().http2()] {
        let mut guest = Guest::over(&caller, &app).await;
        // Several times on a connection, each with its own challenge.
        for _ in 0..2 {
            let fresh = guest.fresh("KMS.GetAppKey").await;
            let keys = guest.ask(fresh).await;
            assert_eq!(keys.status, 200, "{keys:?}");
            let names =
                |keys: &Value| keys.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(&keys.value()), names(&expected), "no other fields");
            assert_eq!(keys.value()["disk_crypt_key"], expected["disk_crypt_key"]);
            assert_eq!(last(&world, "app_key_released")["fresh"], true);
        }
        let bound = guest.bound("KMS.GetAppKey").await;
        let request = GetAppKeyRequest {
            challenge: bound.challenge.to_vec(),
            fresh_evidence: app.evidence(bound.report_data()).encode(),
            ..Default::default()
        };
        let request = prost::Message::encode_to_vec(&request);
        let protobuf = guest.line.send(crate::support::http::post("/prpc/GetAppKey", request)).await;
        assert_eq!(protobuf.status, 200, "{protobuf:?}");
    }
    assert_eq!((counted(&world, "fresh").await, counted(&world, "absent").await), (6, 1));

    let mut guest = Guest::connect(&world, &app).await;
    let csr = csr(&app, &P256Key::generate());
    let key = P256Key::generate();
    let csr = kms_attest::csr::Csr {
        spki: key.spki_der().to_vec(),
        evidence: app.evidence(ReportData::ra_tls(&key.spki_der())),
        ..csr
    };
    let bound = Bound { client_spki: key.spki_der().to_vec(), ..guest.bound("KMS.SignCert").await };
    let mut request = serde_json::to_value(sign_cert_request(&csr, &key, "")).expect("JSON");
    let fresh = fields(&bound.challenge, &app.evidence(bound.report_data()));
    request.as_object_mut().expect("an object").extend(fresh.as_object().expect("an object").clone());
    let chain = guest.line.json("SignCert", request).await;
    assert_eq!(chain.status, 200, "{chain:?}");
    assert_eq!(last(&world, "certificate_issued")["fresh"], true);
    let meta = world.caller().json("GetMeta", json!({})).await.value();
    assert_eq!(meta["require_fresh"], "off");
}

#[tokio::test]
async fn old_guests_get_keys_only_where_fresh_evidence_is_not_required() {
    for (rule, apps, kms) in [("off", 200, 200), ("apps", 403, 200), ("all", 403, 403)] {
        let world = World::ready_with(&format!("core.attestation.require_fresh = \"{rule}\"")).await;
        let app = world.app(1);
        world.allow_app(&app);
        let meta = world.caller().json("GetMeta", json!({})).await.value();
        assert_eq!(meta["require_fresh"], rule);

        let mut guest = Guest::connect(&world, &app).await;
        let key = P256Key::generate();
        let request = serde_json::to_value(sign_cert_request(&csr(&app, &key), &key, "")).expect("JSON");
        let replica = world.replica();
        let mut replica = Guest::connect(&world, &replica).await;
        for (answer, expected, released) in [
            (guest.ask(json!({})).await, apps, "app_key_released"),
            (guest.line.json("SignCert", request).await, apps, "certificate_issued"),
            (replica.line.json("GetKmsKey", json!({})).await, kms, "kms_key_released"),
        ] {
            assert_eq!(answer.status, expected, "{rule} {released} {answer:?}");
            assert_eq!(world.audited(released).is_empty(), expected == 403, "{rule} {released}");
            if expected == 403 {
                assert_eq!(code(&answer).1, "fresh_evidence_required", "{rule} {released}");
            }
        }
        let fresh = guest.fresh("KMS.GetAppKey").await;
        assert_eq!(guest.ask(fresh).await.status, 200, "{rule}");
        let fresh = replica.fresh("KMS.GetKmsKey").await;
        assert_eq!(replica.line.json("GetKmsKey", fresh).await.status, 200, "{rule}");
        assert_eq!(last(&world, "kms_key_released")["fresh"], true);
    }
}

#[tokio::test]
async fn a_domain_can_require_what_the_kms_does_not_and_the_other_way_round() {
    for (general, special, in_default, in_domain) in
        [("off", "apps", 200, 403), ("apps", "off", 403, 200), ("off", "all", 200, 403)]
    {
        let world = World::ready_with(&format!(
            "core.attestation.require_fresh = \"{general}\"\n[domains.strict]\nallow_dev_images = true\napps = [\"{}\"]\n\
             require_fresh = \"{special}\"",
            "02".repeat(20)
        ))
        .await;
        for (number, expected) in [(1, in_default), (2, in_domain)] {
            let app = world.app(number);
            world.allow_app(&app);
            let mut guest = Guest::connect(&world, &app).await;
            assert_eq!(guest.ask(json!({})).await.status, expected, "{general} {special} {number}");
            let fresh = guest.fresh("KMS.GetAppKey").await;
            assert_eq!(guest.ask(fresh).await.status, 200, "{general} {special} {number}");
        }
    }
}

#[tokio::test]
async fn operators_see_that_fresh_evidence_was_required_and_what_to_do() {
    let world = World::ready_with("core.attestation.require_fresh = \"apps\"").await;
    let app = world.app(1);
    world.allow_app(&app);
    let mut guest = Guest::connect(&world, &app).await;
    let refused = guest.ask(json!({})).await;
    assert_eq!(
        refused.refusal(),
        (
            403,
            "App not allowed: fresh evidence is required: ask for a challenge on this connection, and bring evidence over it"
                .to_owned()
        )
    );
    let id = refused.value()["denial_id"].as_str().expect("an id").to_owned();
    let stranger = world.app(2);
    let mut stranger = Guest::connect(&world, &stranger).await;
    let fresh = stranger.fresh("KMS.GetAppKey").await;
    assert_eq!(code(&stranger.ask(fresh).await), (403, "app_not_registered".to_owned()));
    // Refusals are recorded after their answers.
    crate::support::eventually("a decision about fresh evidence", async || {
        (last(&world, "denied")["fresh"] == true).then_some(())
    })
    .await;

    let admin = Caller::new(world.admin_address().await).plain();
    let ask = async |method: &str, body: Value| {
        let request =
            crate::support::http::with(json(method, body), "authorization", &format!("Bearer {ADMIN_TOKEN}"));
        admin.send(request).await.value()
    };
    let denials = ask("ListDenials", json!({})).await;
    let [newest, older] = &denials["denials"].as_array().expect("a list")[..] else { panic!("{denials}") };
    assert_eq!(newest["fresh_evidence"], "verified");
    assert_eq!(
        (older["code"].as_str(), older.get("fresh_evidence")),
        (Some("fresh_evidence_required"), None)
    );
    assert!(older["remedy"].as_str().expect("text").contains("core.attestation.require_fresh"), "{older}");
    let explained = ask("Explain", json!({ "denial_id": id })).await;
    assert_eq!(
        (&explained["verdict"], &explained["code"]),
        (&json!("denied"), &json!("fresh_evidence_required"))
    );
    let steps = explained["checks"].as_array().expect("checks").iter();
    let session = steps.clone().find(|check| check["step"] == "session").expect("the step");
    assert_eq!(session["result"], "fail");
    // Without the request nobody knows whether the guest brings fresh evidence.
    let evidence = hex::encode(app.evidence(ReportData::ZERO).encode());
    let explained = ask("Explain", json!({ "evidence": evidence })).await;
    let steps = explained["checks"].as_array().expect("checks").iter();
    let session = steps.clone().find(|check| check["step"] == "session").expect("the step");
    assert_eq!((&explained["verdict"], &session["result"]), (&json!("allowed"), &json!("skipped")));
}

#[tokio::test]
async fn a_guest_whose_event_log_has_grown_is_judged_by_what_it_is_now() {
    for (rule, after_boot) in [("any", 200), ("boot", 403)] {
        let world = World::ready_with(&format!("core.release_stage = \"{rule}\"")).await;
        let app = world.app(1);
        world.allow_app(&app);
        let mut guest = Guest::connect(&world, &app).await;
        let fresh = guest.fresh("KMS.GetAppKey").await;
        assert_eq!(guest.ask(fresh).await.status, 200);
        let before = last(&world, "app_key_released");
        assert_eq!((&before["stage"], &before["fresh"]), (&json!("boot"), &json!(true)));
        let key = P256Key::generate();
        let csr = kms_attest::csr::Csr { ext_app_info: true, ..csr(&app, &key) };

        app.finish_boot(&kms_simulator::KeyProvider::None);
        let now = hex::encode(app.mr_aggregated());
        assert_ne!(before["mr_aggregated"], now.as_str());
        // The evidence in the certificate alone shows the guest of then.
        assert_eq!(guest.ask(json!({})).await.status, 200, "{rule}");
        assert_eq!(last(&world, "app_key_released")["mr_aggregated"], before["mr_aggregated"]);
        // Fresh evidence shows the guest of now, and is what is judged and recorded.
        let bound = guest.bound("KMS.GetAppKey").await;
        let evidence = app.evidence(bound.report_data()).stripped();
        let answer = guest.ask(fields(&bound.challenge, &evidence)).await;
        assert_eq!(answer.status, after_boot, "{rule} {answer:?}");
        match after_boot {
            200 => {
                let record = last(&world, "app_key_released");
                assert_eq!((&record["stage"], &record["fresh"]), (&json!("running"), &json!(true)));
                assert_eq!(record["mr_aggregated"], now.as_str());
                assert_eq!((record.get("evidence_sha256"), before.get("evidence_sha256")), (None, None));
            }
            _ => assert_eq!(code(&answer).1, "guest_has_booted"),
        }
        // So is the certificate of a request with evidence of then.
        let bound = Bound { client_spki: key.spki_der().to_vec(), ..guest.bound("KMS.SignCert").await };
        let mut request = serde_json::to_value(sign_cert_request(&csr, &key, "")).expect("JSON");
        let fresh = fields(&bound.challenge, &app.evidence(bound.report_data()));
        request.as_object_mut().expect("an object").extend(fresh.as_object().expect("an object").clone());
        let answer = guest.line.json("SignCert", request).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let chain: SignCertResponse = answer.message();
        let leaf = kms_attest::certificate::der(&chain.certificate_chain[0]).expect("PEM");
        let info = ra_tls::app_info_in(&leaf).expect("readable").expect("app info");
        assert_eq!(hex::encode(info.mr_aggregated), now);
    }
}

#[tokio::test]
async fn a_replica_is_allowed_by_its_registers_of_now() {
    let world = World::ready().await;
    let replica = world.replica();
    let mut guest = Guest::connect(&world, &replica).await;
    replica.emit("something-else", b"runs here");
    assert_eq!(guest.line.json("GetKmsKey", json!({})).await.status, 200, "by its certificate");
    let fresh = guest.fresh("KMS.GetKmsKey").await;
    let answer = guest.line.json("GetKmsKey", fresh).await;
    assert_eq!(code(&answer), (403, "kms_measurement_not_allowed".to_owned()), "{answer:?}");
    world.allow_kms(&replica);
    let fresh = guest.fresh("KMS.GetKmsKey").await;
    let answer = guest.line.json("GetKmsKey", fresh).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(last(&world, "kms_key_released")["mr_aggregated"], hex::encode(replica.mr_aggregated()));
}

#[tokio::test]
async fn a_guest_that_was_opened_since_its_certificate_is_not_sealed_any_more() {
    let world =
        World::ready_with(&format!("[domains.forge]\nsealed = true\napps = [\"{}\"]", "01".repeat(20))).await;
    let app = world.app(1);
    world.allow_app(&app);
    let mut guest = Guest::connect(&world, &app).await;
    // The images of these tests are not known to be no images for development, which is found last.
    let last_step = (403, "dev_image_not_allowed".to_owned());
    let fresh = guest.fresh("KMS.GetAppKey").await;
    assert_eq!(code(&guest.ask(fresh).await), last_step);
    app.emit("shell-opened", b"");
    assert_eq!(code(&guest.ask(json!({})).await), last_step, "the certificate is from before");
    let fresh = guest.fresh("KMS.GetAppKey").await;
    assert_eq!(code(&guest.ask(fresh).await), (403, "not_sealed".to_owned()));
}

#[tokio::test]
async fn a_receipt_of_a_fresh_release_in_a_domain_stays_small() {
    let name = "d".repeat(24);
    let world = World::ready_with(&format!(
        "[domains.{name}]\nallow_dev_images = true\napps = [\"{}\"]",
        "01".repeat(20)
    ))
    .await;
    let app = world.app(1);
    world.allow_app(&app);
    world.allowlist.change(|rules| {
        rules["apps"][hex::encode(app.app_id())]["releaseStage"] = json!("any");
        rules["apps"][hex::encode(app.app_id())]["appEpoch"] = json!(4_000_000_000_u32);
    });
    app.finish_boot(&kms_simulator::KeyProvider::None);
    let mut guest = Guest::connect(&world, &app).await;
    let fresh = guest.fresh("KMS.GetAppKey").await;
    let keys: AppKeyResponse = guest.ask(fresh).await.message();
    let receipt = keys.receipt.as_ref().expect("a receipt");
    let entry: Value = serde_json::from_slice(&receipt.entry).expect("JSON");
    assert_eq!((&entry["fresh"], &entry["domain"]), (&json!(true), &json!(name)));
    // A tree of 10 million leaves: 24 hashes, and an index and a size of 8 digits.
    let length = prost::Message::encoded_len(receipt) + 24 * 32 - receipt.proof.len() + 16;
    assert!(length <= 2048, "{length} bytes: {entry}");
}

/// A KMS whose admin listener speaks TLS with the certificate of the main one, and its address.
pub(super) async fn with_admin_over_tls(toml: &str) -> (World, SocketAddr) {
    let mut world = World::ready_with(toml).await;
    let (key, certs) = (world.key_file("rpc.key"), world.key_file("rpc.crt"));
    world.configure(&format!("core.admin.tls = {{ key = {key:?}, certs = {certs:?} }}"));
    world.start().await.expect("it starts again");
    let address = world.admin_address().await;
    (world, address)
}

/// Verifies evidence of the simulated platform.
fn verifier(world: &World) -> Verifier {
    let anchors = TrustAnchors::with_tdx_root(world.platform.root_der()).expect("a root");
    let cache = CollateralCache::new(&[&world.pccs.url()], &anchors, CacheOptions::default());
    Verifier::new(anchors, cache.expect("a cache"))
}

/// A token that can be sent as a bearer token.
const TOKEN: &str = "the-token-of-the-operators-of-a-source";

#[tokio::test]
async fn a_replica_that_an_operator_admits_brings_fresh_evidence_at_once() {
    for rule in ["off", "all"] {
        let (world, admin) = with_admin_over_tls(&format!(
            "core.attestation.require_fresh = \"{rule}\"\ncore.admin.auth_token = \"{TOKEN}\""
        ))
        .await;
        let replica = world.replica();
        let agent = kms_simulator::GuestAgent::serve(&replica, world.path("replica-agent.sock"));
        let agent = agent.await.expect("an agent");
        let attester = Attester::at(agent.address()).expect("an address");
        let url = format!("https://localhost:{}", admin.port()).parse().expect("a URL");
        let verifier = verifier(&world);
        let token = OperatorToken::new(TOKEN.to_owned().into()).expect("a token");
        let keys =
            receive_root_keys_as_operator(&url, &token, &attester, &verifier, "", async |_: &Verified| {
                Ok::<(), String>(())
            });
        keys.await.expect("keys");
        assert_eq!(last(&world, "kms_key_released")["fresh"], true, "{rule}");
        assert_eq!((counted(&world, "fresh").await, counted(&world, "refused").await), (1, 0), "{rule}");
        assert!(world.audited("denied").is_empty(), "{rule}");
    }
}

#[tokio::test]
async fn the_client_library_brings_fresh_evidence_where_it_is_taken() {
    for rule in ["off", "apps"] {
        let world = World::ready_with(&format!("core.attestation.require_fresh = \"{rule}\"")).await;
        let app = world.app(1);
        world.allow_app(&app);
        let agent =
            kms_simulator::GuestAgent::serve(&app, world.path("app-agent.sock")).await.expect("an agent");
        let attester = Attester::at(agent.address()).expect("an address");
        let verifier = verifier(&world);
        let url = format!("https://localhost:{}", world.address().port()).parse().expect("a URL");
        let server = kms_client::ServerAttestation::Required(&verifier);
        let keys = kms_client::fetch_app_keys(&[url], &attester, server, "", None).await.expect("keys");
        assert_eq!(last(&world, "app_key_released")["fresh"], true, "{rule}");
        let trust = kms_client::Trust::RootCa(&keys.response.ca_cert);
        let connection = kms_client::Connection::open(&keys.url, trust, None).await.expect("a connection");
        let leaf = kms_client::sign::LeafRequest { subject: "app".to_owned(), ..Default::default() };
        connection.sign_cert(&leaf, &P256Key::generate(), &attester, "").await.expect("a chain");
        assert_eq!(last(&world, "certificate_issued")["fresh"], true, "{rule}");
    }
}
