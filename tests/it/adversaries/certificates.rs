//! Certificates that the same root CA issued to an app are never accepted as those of a KMS.

use std::fs;

use cvm_kms::keys::derive;
use cvm_kms::proto::{AppKeyResponse, SignCertResponse};
use kms_attest::attester::Attester;
use kms_attest::binding::ReportData;
use kms_attest::certificate::{self, Issuer};
use kms_attest::collateral::{CacheOptions, CollateralCache};
use kms_attest::csr::Csr;
use kms_attest::identity::AppId;
use kms_attest::p256::P256Key;
use kms_attest::ra_tls;
use kms_attest::trust::TrustAnchors;
use kms_attest::verify::Verifier;
use kms_client::sign::sign_cert_request;
use kms_client::{Connection, KmsUrl, ServerAttestation, Trust, fetch_app_keys};
use kms_simulator::{Cvm, GuestAgent};
use serde_json::json;

use super::{PREFIX, nothing_is_kept, onboard};
use crate::support::source::{Answers, Cluster, Reply, Shown, Source, loopback, names};
use crate::support::{Answer, Identity, World};

/// A request for as much as an app can have.
fn wish(app: &Cvm, key: &P256Key, names: &[&str]) -> Csr {
    let spki = key.spki_der();
    Csr {
        org_name: Some("Dstack".to_owned()),
        subject_alt_names: names.iter().map(|name| (*name).to_owned()).collect(),
        usage_client_auth: true,
        ext_quote: true,
        ext_app_info: true,
        ..Csr::plain(&spki, "app.example", app.evidence(ReportData::ra_tls(&spki)))
    }
}

async fn sign(world: &World, csr: &Csr, key: &P256Key) -> Answer {
    let request = serde_json::to_value(sign_cert_request(csr, key, "")).expect("JSON");
    world.caller().json("SignCert", request).await
}

/// Leaf and app CA that the KMS of `world` issues to `app`.
async fn issued(world: &World, csr: &Csr, key: P256Key) -> Shown {
    let answer = sign(world, csr, &key).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let chain = answer.message::<SignCertResponse>().certificate_chain;
    Shown::of(chain[..2].iter().map(|pem| certificate::der(pem).expect("PEM")).collect(), key)
}

/// The responses of an app that relays the open methods of the KMS of `world`, and otherwise uses its own
/// keys.
async fn pretending(world: &World, own: &Cluster) -> Answers {
    let temp_ca = serde_json::to_value(world.temp_ca().await).expect("JSON");
    own.answering(move |method| (method == "GetTempCaCert").then(|| Reply::Json(temp_ca.clone())))
}

/// Two servers of an allowed app, with the KMS's names as far as the KMS grants them.
async fn impostors(world: &World, app: &Cvm) -> Vec<(&'static str, Shown)> {
    let key = P256Key::generate();
    let attested = wish(app, &key, &["127.0.0.1"]);
    let with_evidence = issued(world, &attested, key).await;
    let key = P256Key::generate();
    let bare = Csr { ext_quote: false, ext_app_info: false, ..wish(app, &key, &["127.0.0.1"]) };
    let without_evidence = issued(world, &bare, key).await;
    vec![("with evidence", with_evidence), ("without evidence", without_evidence)]
}

#[tokio::test]
async fn an_apps_certificate_does_not_pass_for_the_kms_with_any_client() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let victim = GuestAgent::serve(&app, world.path("victim.sock")).await.expect("guest agent");
    let attester = Attester::at(victim.address()).expect("address");
    let anchors = TrustAnchors::with_tdx_root(world.platform.root_der()).expect("root");
    let cache =
        CollateralCache::new(&[world.pccs.url()], &anchors, CacheOptions::default()).expect("collateral");
    let verifier = Verifier::new(anchors, cache);
    let replica = World::onboarding().await;
    let root = world.temp_ca().await.ca_cert.clone();
    let usage = "Invalid server cert usage: app:custom";
    for (what, shown) in impostors(&world, &app).await {
        let server = Source::start(&[shown], pretending(&world, &Cluster::new()).await).await;
        let url: KmsUrl = server.url().parse().expect("a URL");

        // A guest at boot rejects the certificate.
        let attestation = ServerAttestation::IfPresent(&verifier);
        let error = fetch_app_keys(std::slice::from_ref(&url), &attester, attestation, "", None)
            .await
            .expect_err("no keys");
        assert_eq!(error.to_string(), format!("no KMS released the keys: {url}: {usage}"), "{what}");
        // So does any other client of a KMS.
        for trust in [Trust::DangerousAnyServer, Trust::RootCa(&root)] {
            let connection = Connection::open(&url, trust, None).await.expect("a TLS server");
            for attestation in
                [ServerAttestation::IfPresent(&verifier), ServerAttestation::Required(&verifier)]
            {
                let error = connection.verify_server(attestation).await.expect_err("no KMS");
                assert_eq!(error.to_string(), usage, "{what}");
            }
        }
        // So does a replica.
        let refusal = onboard(&replica, &server.url()).await.refusal();
        assert_eq!(refusal, (400, format!("{PREFIX}the source is not a KMS: {usage}")), "{what}");
        nothing_is_kept(&replica, what);
        assert_eq!(server.calls(), ["GetTempCaCert on 0"], "{what}: only what anyone may ask");
    }
}

#[tokio::test]
async fn what_an_app_issues_itself_does_not_pass_either() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let replica = World::onboarding().await;
    replica.allow_app(&app);
    let root = world.temp_ca().await.ca_cert.clone();
    let (names, key) = (names(), P256Key::generate());
    let evidence = app.evidence(ReportData::ra_tls(&key.spki_der())).stripped().encode();
    let spec = certificate::CertificateSpec {
        usage: Some("kms:rpc"),
        evidence: Some(&evidence),
        ..loopback("kms", &names)
    };

    // Below a certificate that the KMS issued: the chain ends in the right root, but a leaf is not a CA.
    let app_key = P256Key::generate();
    let csr = wish(&app, &app_key, &["127.0.0.1"]);
    let chain = sign(&world, &csr, &app_key).await.message::<SignCertResponse>().certificate_chain;
    let chain: Vec<_> = chain.iter().map(|pem| certificate::der(pem).expect("PEM")).collect();
    let issuer = Issuer::new(&chain[0], &app_key).expect("an issuer");
    let below = certificate::issue(&spec, &key.spki_der(), &issuer).expect("a certificate");
    let self_issued = certificate::self_signed(&spec, &key).expect("a certificate");
    let copy = || P256Key::from_scalar(key.scalar()).expect("the same key");
    for (what, chain) in [
        ("below the app's leaf", vec![below, chain[0].clone(), chain[1].clone()]),
        ("by itself", vec![self_issued]),
    ] {
        let shown = Shown::of(chain, copy());
        let server = Source::start(&[shown], pretending(&world, &Cluster::new()).await).await;
        let url: KmsUrl = server.url().parse().expect("a URL");
        let error = Connection::open(&url, Trust::RootCa(&root), None).await.expect_err("no chain");
        assert!(
            error.to_string().starts_with("TLS handshake failed: invalid peer certificate: "),
            "{what}: {error}"
        );
        // A source is judged by its evidence, which is an app's.
        let text = "Source KMS is not allowed for onboarding: boot denied: aggregated MR not allowed";
        assert_eq!(
            onboard(&replica, &server.url()).await.refusal(),
            (403, format!("{PREFIX}{text}")),
            "{what}"
        );
        nothing_is_kept(&replica, what);
        assert!(server.calls().is_empty(), "{what}");
    }
}

#[tokio::test]
async fn an_apps_certificate_opens_no_door_to_the_root_keys() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    for (what, shown) in impostors(&world, &app).await {
        let caller = world.caller().shows(&shown.identity());
        match what {
            "with evidence" => {
                let refusal = caller.json("GetKmsKey", json!({})).await.refusal();
                assert_eq!(refusal, (403, "Boot denied: aggregated MR not allowed".to_owned()));
            }
            // Neither of the temporary CA nor with evidence: TLS ends before any request.
            _ => {
                let error = caller.try_json("GetKmsKey", json!({})).await.expect_err("no answer");
                println!("{what}: {error}");
            }
        }
    }
    assert!(world.audited("kms_key_released").is_empty());
}

#[tokio::test]
async fn the_certificate_of_a_kms_opens_no_door_to_an_apps_keys() {
    let world = World::ready().await;
    // The KMS's own certificate with its key: only software in the KMS's CVM has both.
    let leaf = world.caller().connect().await.expect("a connection").server_certificate.expect("a leaf");
    let key = fs::read_to_string(world.key_file("rpc.key")).expect("its key");
    let key = P256Key::from_pem(&key).expect("its key");
    assert_eq!(ra_tls::special_usage(&leaf).expect("a certificate").as_deref(), Some("kms:rpc"));
    let caller = world.caller().shows(&Identity::of(leaf.to_vec(), &key));
    let ask = async || caller.json("GetAppKey", json!({ "api_version": 1 })).await;
    // Its evidence is that of a CVM like any other, and the app is not registered.
    assert_eq!(ask().await.refusal(), (403, "App not allowed: Boot denied: app not registered".to_owned()));
    assert!(world.audited("app_key_released").is_empty());
    // Once registered, it is an app, with the keys of its own app id only.
    world.allow_app(&world.cvm);
    let answer = ask().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let keys: AppKeyResponse = answer.message();
    let app_id = AppId(*world.cvm.app_id());
    let own = derive::app_keys(&world.root_keys(), &app_id, world.cvm.instance_id()).expect("keys");
    assert_eq!(keys.disk_crypt_key, own.disk_crypt_key.expose());
}

#[tokio::test]
async fn an_app_gets_no_certificate_for_a_name_of_the_cluster() {
    let toml =
        "core.reserved_domains = [\"kms2.cluster.example\", \"balancer.example\", \"10.0.2.9\", \"fd00::9\"]";
    let world = World::ready_with(toml).await;
    let app = world.app(1);
    world.allow_app(&app);
    let key = P256Key::generate();
    let reserved = |name: &str| format!("{name} is reserved for a KMS of this cluster, no app may have it");
    for name in [
        "kms2.cluster.example",
        "KMS2.cluster.EXAMPLE",
        "*.cluster.example",
        "*.example",
        "balancer.example",
        "10.0.2.9",
        "::ffff:10.0.2.9",
        "fd00::9",
        "fd00:0:0:0::9",
    ] {
        for csr in [
            wish(&app, &key, &["app.example", name]),
            Csr { subject: name.to_owned(), ..wish(&app, &key, &[]) },
        ] {
            assert_eq!(sign(&world, &csr, &key).await.refusal(), (400, reserved(name)), "{name}");
        }
    }
    let own = "localhost is a name of this KMS, no app may have it".to_owned();
    assert_eq!(sign(&world, &wish(&app, &key, &["localhost"]), &key).await.refusal(), (400, own));
    assert!(world.audited("certificate_issued").is_empty());
    for name in ["kms3.cluster.example", "*.apps.example", "10.0.2.8", "cluster.example"] {
        let answer = sign(&world, &wish(&app, &key, &[name]), &key).await;
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
    }
}
