//! Handovers from test servers that are, and are not, what a replica may trust.

use std::sync::{Arc, Mutex};

use kms_attest::ra_tls;
use serde_json::{Value, json};

use super::*;
use crate::testing::{Authority, Leaf, Reply, TestServer, World};

/// A source that hands over its keys, altered; and the calls it got.
async fn source(
    leaves: &[Leaf],
    alter: impl Fn(&mut Value) + Send + Sync + 'static,
) -> (TestServer, Arc<Mutex<Vec<String>>>) {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&calls);
    let server = TestServer::start(Arc::new(Authority::new()), leaves, &["h2"], move |authority, call| {
        log.lock().expect("log").push(format!("{} on {}", call.method, call.connection));
        match (call.method.as_str(), call.client) {
            ("GetTempCaCert", None) => Reply::Json(authority.temp_ca_answer()),
            ("GetKmsKey", Some(certificate))
                if ra_tls::evidence_in(&certificate).is_ok_and(|e| e.is_some()) =>
            {
                let mut answer = json!({
                    "temp_ca_key": authority.temp.pem().as_str(),
                    "keys": [{"ca_key": authority.root.pem().as_str(), "k256_key": "11".repeat(32)}],
                });
                alter(&mut answer);
                Reply::Json(answer)
            }
            _ => Reply::Status(400, br#"{"error": "No attestation provided"}"#.to_vec()),
        }
    })
    .await;
    (server, calls)
}

async fn receive(server: &TestServer, world: &World) -> Result<KmsKeyResponse, SourceError<String>> {
    receive_root_keys(&server.url, &world.attester, &world.verifier, "", async |_: &Verified| Ok(())).await
}

#[tokio::test]
async fn keys_come_from_the_source_that_was_verified_and_allowed() {
    let world = World::start().await;
    let (server, calls) = source(&[world.attested_leaf()], |_| ()).await;
    let keys =
        receive_root_keys(&server.url, &world.attester, &world.verifier, "", async |verified: &Verified| {
            (verified.tcb_status() == "UpToDate").then_some(()).ok_or("not up to date")
        })
        .await
        .expect("keys");
    assert_eq!(keys.keys[0].ca_key, server.authority.root.pem().as_str());
    assert_eq!(*calls.lock().expect("log"), ["GetTempCaCert on 0", "GetKmsKey on 1"]);
}

#[tokio::test]
async fn a_source_without_attestation_is_refused_before_any_call() {
    let world = World::start().await;
    let (server, calls) = source(&[Leaf::kms()], |_| ()).await;
    let error = receive(&server, &world).await.expect_err("not attested");
    assert_eq!(error.to_string(), "Source KMS certificate does not contain attestation");
    assert!(calls.lock().expect("log").is_empty());
}

#[tokio::test]
async fn an_attestation_of_another_key_is_refused_before_any_call() {
    let world = World::start().await;
    let stolen = Leaf { evidence: world.attested_leaf().evidence, ..Leaf::kms() };
    let (server, calls) = source(&[stolen], |_| ()).await;
    let error = receive(&server, &world).await.expect_err("another key");
    assert!(matches!(error, SourceError::Attestation(_)), "{error}");
    assert!(calls.lock().expect("log").is_empty());
}

#[tokio::test]
async fn unreadable_evidence_is_refused_before_any_call() {
    let world = World::start().await;
    let (server, calls) = source(&[Leaf { evidence: Some(vec![0xff; 9]), ..Leaf::kms() }], |_| ()).await;
    let error = receive(&server, &world).await.expect_err("garbage");
    let text = error.to_string();
    assert!(text.starts_with("Failed to decode attestation from cert extension: "), "{text}");
    assert!(calls.lock().expect("log").is_empty());
}

#[tokio::test]
async fn a_source_that_policy_denies_is_not_asked_for_keys() {
    let world = World::start().await;
    let (server, calls) = source(&[world.attested_leaf()], |_| ()).await;
    let error = receive_root_keys(&server.url, &world.attester, &world.verifier, "", async |_: &Verified| {
        Err("boot denied: OS image is not allowed")
    })
    .await
    .expect_err("denied");
    assert_eq!(
        error.to_string(),
        "Source KMS is not allowed for onboarding: boot denied: OS image is not allowed"
    );
    assert_eq!(*calls.lock().expect("log"), ["GetTempCaCert on 0"]);
}

#[tokio::test]
async fn a_server_in_between_cannot_take_the_second_connection() {
    let world = World::start().await;
    let genuine = world.attested_leaf();
    let copied = Leaf { impostor: Some(Arc::new(P256Key::generate())), ..genuine.clone() };
    // The third is an attested KMS, but not the one that was allowed.
    for second in [Leaf::kms(), copied, world.attested_leaf()] {
        let (server, calls) = source(&[genuine.clone(), second], |_| ()).await;
        let error = receive(&server, &world).await.expect_err("man in the middle");
        assert!(
            matches!(error, SourceError::Connect { method: "GetKmsKey", source: ConnectError::Tls(_), .. }),
            "{error}"
        );
        assert_eq!(*calls.lock().expect("log"), ["GetTempCaCert on 0"]);
    }
}

#[tokio::test]
async fn keys_that_cannot_be_the_sources_own_are_refused() {
    let world = World::start().await;
    let other = P256Key::generate().pem().to_string();
    let cases: [(&str, Value, &str); 9] = [
        ("/keys", json!([]), "Invalid keys"),
        ("/keys", json!([{}, {}]), "Invalid keys"),
        ("/keys/0/ca_key", json!("no key"), "Failed to parse CA key"),
        ("/temp_ca_key", json!(""), "Failed to parse tmp CA key"),
        ("/keys/0/k256_key", json!("11"), "Failed to parse ECDSA key"),
        ("/keys/0/k256_key", json!(""), "Failed to parse ECDSA key"),
        (
            "/keys/0/ca_key",
            json!(other),
            "the CA key does not belong to the certificate that the source KMS showed",
        ),
        (
            "/temp_ca_key",
            json!(other),
            "the tmp CA key does not belong to the certificate that the source KMS showed",
        ),
        ("/keys/0/ca_key", json!(null), "GetKmsKey: the response is not the expected JSON"),
    ];
    for (pointer, value, expected) in cases {
        let (server, _) = source(&[world.attested_leaf()], move |answer| {
            *answer.pointer_mut(pointer).expect("field") = value.clone();
        })
        .await;
        let error = receive(&server, &world).await.expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[tokio::test]
async fn the_reason_of_a_refusing_source_is_reported() {
    let world = World::start().await;
    let server = TestServer::start(
        Arc::new(Authority::new()),
        &[world.attested_leaf()],
        &["h2"],
        |authority, call| match call.method.as_str() {
            "GetTempCaCert" => Reply::Json(authority.temp_ca_answer()),
            _ => Reply::Status(403, br#"{"error": "Boot denied: Aggregated MR not allowed"}"#.to_vec()),
        },
    )
    .await;
    let error = receive(&server, &world).await.expect_err("refused");
    assert_eq!(
        error.to_string(),
        "GetKmsKey: the server answered 403: Boot denied: Aggregated MR not allowed"
    );
}

#[tokio::test]
async fn a_source_that_is_down_is_named_with_the_call() {
    let world = World::start().await;
    let (server, _) = source(&[Leaf::kms()], |_| ()).await;
    let url = server.url.clone();
    drop(server);
    tokio::task::yield_now().await;
    let error: SourceError<String> =
        receive_root_keys(&url, &world.attester, &world.verifier, "", async |_: &Verified| Ok(()))
            .await
            .expect_err("down");
    let expected =
        format!("Failed to send request: error sending request for url ({url}/GetTempCaCert?json): ");
    assert!(error.to_string().starts_with(&expected), "{error}");
}
