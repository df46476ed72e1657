//! Handovers from test servers that a replica may trust, and from others.

use std::sync::{Arc, Mutex};

use kms_attest::p256::P256Key;
use kms_attest::ra_tls;
use serde_json::{Value, json};

use super::*;
use crate::testing::{Authority, Leaf, Reply, TestServer, World};

/// A source that hands over its keys, possibly altered, and the calls it received.
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
            ("GetMeta", None) => Reply::Json(json!({ "ca_cert": authority.root_pem, "k256_pubkey": "02" })),
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

async fn receive(server: &TestServer, world: &World) -> Result<RootKeyParts, SourceError<String>> {
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
    assert_eq!(keys.ca.scalar(), server.authority.root.scalar());
    assert_eq!(keys.temp_ca.scalar(), server.authority.temp.scalar());
    assert_eq!(*keys.k256, [0x11; 32]);
    assert_eq!(keys.stated_k256, [[2]]);
    assert_eq!(*calls.lock().expect("log"), ["GetTempCaCert on 0", "GetMeta on 0", "GetKmsKey on 1"]);
}

#[tokio::test]
async fn a_source_without_attestation_is_refused_before_any_call() {
    let world = World::start().await;
    let (server, calls) = source(&[Leaf::kms()], |_| ()).await;
    let error = receive(&server, &world).await.err().expect("not attested");
    assert_eq!(error.to_string(), "Source KMS certificate does not contain attestation");
    assert!(calls.lock().expect("log").is_empty());
}

#[tokio::test]
async fn an_attestation_of_another_key_is_refused_before_any_call() {
    let world = World::start().await;
    let stolen = Leaf { evidence: world.attested_leaf().evidence, ..Leaf::kms() };
    let (server, calls) = source(&[stolen], |_| ()).await;
    let error = receive(&server, &world).await.err().expect("another key");
    assert!(matches!(error, SourceError::Attestation(_)), "{error}");
    assert!(calls.lock().expect("log").is_empty());
}

#[tokio::test]
async fn unreadable_evidence_is_refused_before_any_call() {
    let world = World::start().await;
    let (server, calls) = source(&[Leaf { evidence: Some(vec![0xff; 9]), ..Leaf::kms() }], |_| ()).await;
    let error = receive(&server, &world).await.err().expect("garbage");
    let text = error.to_string();
    assert!(text.starts_with("Failed to decode attestation from cert extension: "), "{text}");
    assert!(calls.lock().expect("log").is_empty());
}

#[tokio::test]
async fn a_source_that_policy_denies_is_asked_for_nothing() {
    let world = World::start().await;
    let (server, calls) = source(&[world.attested_leaf()], |_| ()).await;
    let error = receive_root_keys(&server.url, &world.attester, &world.verifier, "", async |_: &Verified| {
        Err("boot denied: OS image is not allowed")
    })
    .await
    .err()
    .expect("denied");
    assert_eq!(
        error.to_string(),
        "Source KMS is not allowed for onboarding: boot denied: OS image is not allowed"
    );
    assert!(calls.lock().expect("log").is_empty());
}

#[tokio::test]
async fn a_server_in_between_cannot_take_the_second_connection() {
    let world = World::start().await;
    let genuine = world.attested_leaf();
    let copied = Leaf { impostor: Some(Arc::new(P256Key::generate())), ..genuine.clone() };
    let other =
        "GetKmsKey: the server has another key than the source KMS that was attested on the first connection";
    let stolen = "GetKmsKey: the server does not hold the private key of the certificate that it shows";
    // The third is an attested KMS, but not the allowed one.
    for (second, expected) in [(Leaf::kms(), other), (copied, stolen), (world.attested_leaf(), other)] {
        let (server, calls) = source(&[genuine.clone(), second], |_| ()).await;
        let error = receive(&server, &world).await.err().expect("man in the middle").to_string();
        assert!(error.starts_with(expected), "{error}");
        assert_eq!(*calls.lock().expect("log"), ["GetTempCaCert on 0", "GetMeta on 0"]);
    }
}

#[tokio::test]
async fn a_copied_certificate_is_named_on_the_first_connection_too() {
    let world = World::start().await;
    let copied = Leaf { impostor: Some(Arc::new(P256Key::generate())), ..world.attested_leaf() };
    let (server, calls) = source(&[copied], |_| ()).await;
    let error = receive(&server, &world).await.err().expect("impostor").to_string();
    assert_eq!(
        error,
        "GetTempCaCert: the server does not hold the private key of the certificate that it shows"
    );
    assert!(calls.lock().expect("log").is_empty());
}

#[tokio::test]
async fn what_is_marked_for_another_use_is_no_source() {
    let world = World::start().await;
    for (usage, expected) in [
        (Some("app:custom"), "the source is not a KMS: Invalid server cert usage: app:custom"),
        (Some("kms:rpc "), "the source is not a KMS: Invalid server cert usage: kms:rpc"),
        (None, "the source is not a KMS: missing server cert usage"),
    ] {
        let (server, calls) = source(&[Leaf { usage, ..world.attested_leaf() }], |_| ()).await;
        let error = receive(&server, &world).await.err().expect(expected).to_string();
        assert_eq!(error, expected);
        assert!(calls.lock().expect("log").is_empty());
    }
}

#[tokio::test]
async fn a_source_must_be_certified_by_the_root_that_it_shows() {
    let world = World::start().await;
    let other = Authority::new().root_pem;
    for (shown, expected) in [
        (other, "the certificate of the source KMS is not issued by the root CA that it shows: "),
        (String::new(), "GetTempCaCert: ca_cert is not exactly one CA certificate in PEM"),
    ] {
        let reply = move |authority: &Authority, call: crate::testing::Call| match call.method.as_str() {
            "GetTempCaCert" => {
                let mut answer = authority.temp_ca_answer();
                answer["ca_cert"] = json!(shown);
                Reply::Json(answer)
            }
            other => panic!("{other} was called"),
        };
        let server =
            TestServer::start(Arc::new(Authority::new()), &[world.attested_leaf()], &["h2"], reply).await;
        let error = receive(&server, &world).await.err().expect("another root").to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[tokio::test]
async fn a_source_that_contradicts_itself_is_refused_and_a_silent_one_is_not() {
    let world = World::start().await;
    let other = Authority::new().root_pem;
    let cases = [
        (
            json!({ "ca_cert": other }),
            Some("the CA key does not belong to ca_cert in GetMeta of the source KMS"),
        ),
        (
            json!({ "bootstrap_info": { "ca_pubkey": "3059" } }),
            Some("the CA key does not belong to bootstrap_info in GetMeta of the source KMS"),
        ),
        (json!({}), None),
        (json!("no object"), None),
    ];
    for (meta, expected) in cases {
        let shown = meta.clone();
        let reply = move |authority: &Authority, call: crate::testing::Call| match call.method.as_str() {
            "GetTempCaCert" => Reply::Json(authority.temp_ca_answer()),
            "GetMeta" => Reply::Json(meta.clone()),
            "GetChallenge" => Reply::Status(404, Vec::new()),
            _ => Reply::Json(json!({
                "temp_ca_key": authority.temp.pem().as_str(),
                "keys": [{"ca_key": authority.root.pem().as_str(), "k256_key": "11".repeat(32)}],
            })),
        };
        let server =
            TestServer::start(Arc::new(Authority::new()), &[world.attested_leaf()], &["http/1.1"], reply)
                .await;
        let error = receive(&server, &world).await.err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), expected, "{shown}");
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
            "the CA key does not belong to the CA certificate of the source KMS",
        ),
        (
            "/temp_ca_key",
            json!(other),
            "the tmp CA key does not belong to the tmp CA certificate of the source KMS",
        ),
        ("/keys/0/ca_key", json!(null), "GetKmsKey: the response is not the expected JSON"),
    ];
    for (pointer, value, expected) in cases {
        let (server, _) = source(&[world.attested_leaf()], move |answer| {
            *answer.pointer_mut(pointer).expect("field") = value.clone();
        })
        .await;
        let error = receive(&server, &world).await.err().expect(expected).to_string();
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
    let error = receive(&server, &world).await.err().expect("refused");
    assert_eq!(
        error.to_string(),
        "GetKmsKey: the server answered 403: Boot denied: Aggregated MR not allowed"
    );
}

fn token() -> OperatorToken {
    OperatorToken::new("t0ken-of-the-source".to_owned().into()).expect("a token")
}

async fn receive_as_operator(
    server: &TestServer,
    world: &World,
    allowed: Result<(), String>,
) -> Result<RootKeyParts, SourceError<String>> {
    let (attester, verifier) = (&world.attester, &world.verifier);
    receive_root_keys_as_operator(&server.url, &token(), attester, verifier, "", async |_: &Verified| allowed)
        .await
}

/// The admin listener of a source that hands over its keys, possibly altered, and the calls it received.
async fn admin(
    leaves: &[Leaf],
    alter: impl Fn(&mut Value) + Send + Sync + 'static,
) -> (TestServer, Arc<Mutex<Vec<String>>>) {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&calls);
    let server = TestServer::start(Arc::new(Authority::new()), leaves, &["h2"], move |authority, call| {
        // Every replica asks for a challenge; this source knows none.
        if call.method == "GetChallenge" {
            return Reply::Status(404, Vec::new());
        }
        let authorization = call.authorization.unwrap_or_default();
        log.lock().expect("log").push(format!("{} on {} {authorization}", call.method, call.connection));
        let is_attested =
            call.client.is_some_and(|shown| ra_tls::evidence_in(&shown).is_ok_and(|e| e.is_some()));
        match call.method.as_str() {
            "GetKmsKey" if is_attested && authorization == "Bearer t0ken-of-the-source" => {
                let mut answer = json!({
                    "temp_ca_key": authority.temp.pem().as_str(),
                    "keys": [{"ca_key": authority.root.pem().as_str(), "k256_key": "11".repeat(32)}],
                });
                alter(&mut answer);
                Reply::Json(answer)
            }
            _ => Reply::Status(401, Vec::new()),
        }
    })
    .await;
    (server, calls)
}

#[tokio::test]
async fn an_operators_token_goes_over_the_one_connection_that_was_attested() {
    let world = World::start().await;
    let (server, calls) = admin(&[world.attested_leaf()], |_| ()).await;
    let keys = receive_as_operator(&server, &world, Ok(())).await.map_err(|e| e.to_string()).expect("keys");
    assert_eq!(keys.ca.scalar(), server.authority.root.scalar());
    assert_eq!(keys.temp_ca.scalar(), server.authority.temp.scalar());
    assert_eq!((*keys.k256, keys.stated_k256.len()), ([0x11; 32], 0));
    assert_eq!(*calls.lock().expect("log"), ["GetKmsKey on 0 Bearer t0ken-of-the-source"]);
}

#[tokio::test]
async fn no_server_gets_an_operators_token_that_is_not_attested_and_allowed() {
    let world = World::start().await;
    let genuine = world.attested_leaf();
    let denied = || Err("boot denied: aggregated MR not allowed".to_owned());
    for (what, leaf, allowed, expected) in [
        ("no attestation", Leaf::kms(), Ok(()), "Source KMS certificate does not contain attestation"),
        (
            "the attestation of another key",
            Leaf { evidence: genuine.evidence.clone(), ..Leaf::kms() },
            Ok(()),
            "Failed to verify the attestation of the source KMS: ",
        ),
        (
            "a copied certificate",
            Leaf { impostor: Some(Arc::new(P256Key::generate())), ..genuine.clone() },
            Ok(()),
            "GetKmsKey: the server does not hold the private key of the certificate that it shows",
        ),
        (
            "an app of the same root",
            Leaf { usage: Some("app:custom"), ..genuine.clone() },
            Ok(()),
            "the source is not a KMS: Invalid server cert usage: app:custom",
        ),
        ("a denied source", genuine, denied(), "Source KMS is not allowed for onboarding: boot denied: "),
    ] {
        let (server, calls) = admin(&[leaf], |_| ()).await;
        let error = receive_as_operator(&server, &world, allowed).await.err().expect(what).to_string();
        assert!(error.starts_with(expected), "{what}: {error}");
        assert!(!error.contains("t0ken"), "{what}: {error}");
        assert!(calls.lock().expect("log").is_empty(), "{what}");
    }
}

#[tokio::test]
async fn keys_that_did_not_issue_the_certificate_of_the_admin_listener_are_refused() {
    let world = World::start().await;
    let other = P256Key::generate().pem().to_string();
    for (pointer, value, expected) in [
        ("/keys/0/ca_key", json!(other), "the CA key does not belong to the certificate of the source KMS"),
        ("/keys", json!([]), "Invalid keys"),
        ("/temp_ca_key", json!(""), "Failed to parse tmp CA key"),
    ] {
        let (server, _) = admin(&[world.attested_leaf()], move |answer| {
            *answer.pointer_mut(pointer).expect("a field") = value.clone();
        })
        .await;
        let error = receive_as_operator(&server, &world, Ok(())).await.err().expect(expected).to_string();
        assert_eq!(error, expected);
    }
}

#[tokio::test]
async fn a_source_that_is_down_is_named_with_the_call() {
    let world = World::start().await;
    let (server, _) = source(&[world.attested_leaf()], |_| ()).await;
    let url = server.url.clone();
    drop(server);
    tokio::task::yield_now().await;
    let error: SourceError<String> =
        receive_root_keys(&url, &world.attester, &world.verifier, "", async |_: &Verified| Ok(()))
            .await
            .err()
            .expect("down");
    let expected =
        format!("Failed to send request: error sending request for url ({url}/GetTempCaCert?json): ");
    assert!(error.to_string().starts_with(&expected), "{error}");
}
