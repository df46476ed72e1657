//! The token of a source's operator is sent only to an attested KMS that the replica's policy allows.

use kms_attest::p256::P256Key;
use kms_simulator::{Cvm, Stage};
use serde_json::{Value, json};

use super::{PREFIX, kms, nothing_is_kept};
use crate::support::source::{Cluster, Reply, Source};
use crate::support::{Answer, World};

const TOKEN: &str = "t0ken-of-the-source";

async fn onboard(replica: &World, url: &str) -> Answer {
    let body = json!({ "source_url": url, "domain": "replica.example", "source_token": TOKEN });
    replica.caller().plain().json("Onboard", body).await
}

#[tokio::test]
async fn who_is_not_an_allowed_kms_is_sent_nothing_at_all() {
    let replica = World::onboarding().await;
    let cluster = Cluster::new();
    let genuine = cluster.leaf(&kms(&replica.platform));
    let other =
        Cvm::builder(&replica.platform).app_id([0xbb; 20]).compose_hash([9; 32]).stage(Stage::Ready).build();
    for (what, shown, text) in [
        (
            "a man in the middle with a certificate of its own",
            cluster.leaf_over(P256Key::generate(), None),
            "Source KMS certificate does not contain attestation",
        ),
        (
            "a man in the middle with the certificate of the source",
            genuine.stolen(),
            "GetKmsKey: the server does not hold the private key of the certificate that it shows",
        ),
        (
            "a KMS that our policy denies",
            cluster.leaf(&other),
            "Source KMS is not allowed for onboarding: boot denied: ",
        ),
    ] {
        let server = Source::start(&[shown], cluster.answers()).await;
        let (status, said) = onboard(&replica, &server.url()).await.refusal();
        assert!(status >= 400 && said.starts_with(&format!("{PREFIX}{text}")), "{what}: {status} {said}");
        assert!(!said.contains(TOKEN), "{what}: {said}");
        assert!(server.calls().is_empty(), "{what}: {:?}", server.calls());
        nothing_is_kept(&replica, what);
    }
}

#[tokio::test]
async fn what_an_admin_listener_hands_over_must_be_the_keys_of_its_certificate() {
    let replica = World::onboarding().await;
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let leaf = cluster.leaf(&kms(&replica.platform));
    let altered = |pointer: &str, value: Value| {
        let mut answer = cluster.handover();
        *answer.pointer_mut(pointer).expect("a field") = value;
        Reply::Json(answer)
    };
    for (what, reply, text) in [
        (
            "the keys of another cluster",
            Reply::Json(other.handover()),
            "the CA key does not belong to the certificate of the source KMS",
        ),
        ("no keys", altered("/keys", json!([])), "Invalid keys"),
        ("no temporary CA", altered("/temp_ca_key", json!("")), "Failed to parse tmp CA key"),
        (
            "a wrong token",
            Reply::Page(401, "text/plain", String::new()),
            "GetKmsKey: the server answered 401: ",
        ),
    ] {
        let answers = cluster.answering(move |_| Some(reply.clone()));
        let server = Source::start(std::slice::from_ref(&leaf), answers).await;
        let (status, said) = onboard(&replica, &server.url()).await.refusal();
        assert!(status >= 400 && said.starts_with(&format!("{PREFIX}{text}")), "{what}: {status} {said}");
        assert_eq!(server.calls(), ["GetKmsKey on 0"], "{what}");
        nothing_is_kept(&replica, what);
    }
    let genuine = Source::start(&[leaf], cluster.answers()).await;
    let answer = onboard(&replica, &genuine.url()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(genuine.calls(), ["GetKmsKey on 0"], "one connection, no GetTempCaCert");
}
