//! Responses that no real source gives, call by call.

use serde_json::{Value, json};

use super::{Case, each_is_refused};
use crate::support::World;
use crate::support::source::{Cluster, Reply, Source};

#[tokio::test]
async fn answers_that_no_source_gives_are_refused_one_by_one() {
    let replica = World::onboarding().await;
    let cluster = Cluster::new();
    let other = Cluster::new();
    let page = "<!doctype html><html><body>It works!</body></html>";
    let refusal =
        |status, text: &str| Reply::Page(status, "application/json", json!({ "error": text }).to_string());
    let altered = |pointer: &str, value: Value| {
        let mut answer = cluster.handover();
        *answer.pointer_mut(pointer).expect("a field") = value;
        Reply::Json(answer)
    };
    let temp_ca = |field: &str, value: String| {
        let mut answer = cluster.temp_ca();
        answer[field] = json!(value);
        Reply::Json(answer)
    };
    let meta = |field: &str, value: Value| {
        let mut answer = cluster.meta();
        answer[field] = value;
        Reply::Json(answer)
    };
    let key_set = cluster.handover()["keys"][0].clone();
    let (foreign_ca, foreign_temp) = (other.ca.root.pem().to_string(), other.ca.temp.pem().to_string());
    let out_of_range = "ff".repeat(32);
    let rows: Vec<(&'static str, &'static str, Reply, u16, &str)> = vec![
        // The source cannot serve now, or refuses.
        (
            "GetTempCaCert",
            "a source without standing",
            refusal(403, "KMS self authorization failed: KMS is not allowed: x"),
            403,
            "GetTempCaCert: the server answered 403: KMS self authorization failed: KMS is not allowed: x",
        ),
        (
            "GetTempCaCert",
            "a source that is busy",
            refusal(429, "slow down"),
            503,
            "GetTempCaCert: the server answered 429: slow down",
        ),
        (
            "GetTempCaCert",
            "a source in trouble",
            refusal(503, "try again"),
            503,
            "GetTempCaCert: the server answered 503: try again",
        ),
        (
            "GetKmsKey",
            "a replica that the source denies",
            refusal(403, "Boot denied: aggregated MR not allowed"),
            403,
            "GetKmsKey: the server answered 403: Boot denied: aggregated MR not allowed",
        ),
        (
            "GetKmsKey",
            "a replica that an older source denies",
            refusal(400, "Boot denied: Aggregated MR not allowed"),
            400,
            "GetKmsKey: the server answered 400: Boot denied: Aggregated MR not allowed",
        ),
        (
            "GetKmsKey",
            "a source that cannot have the image",
            refusal(503, "Failed to verify os image hash: the OS image cannot be had"),
            503,
            "GetKmsKey: the server answered 503: Failed to verify os image hash: the OS image cannot be had",
        ),
        (
            "GetKmsKey",
            "an evidence that the source does not see",
            refusal(401, "No attestation provided"),
            403,
            "GetKmsKey: the server answered 401: No attestation provided",
        ),
        // Another server responds.
        (
            "GetTempCaCert",
            "a page",
            Reply::Page(200, "text/html", page.into()),
            400,
            "GetTempCaCert: the response is not the expected JSON (line 1, column 1)",
        ),
        (
            "GetTempCaCert",
            "a page that is not found",
            Reply::Page(404, "text/html", page.into()),
            400,
            "GetTempCaCert: the server answered 404: ",
        ),
        (
            "GetKmsKey",
            "a page instead of keys",
            Reply::Page(200, "text/html", page.into()),
            400,
            "GetKmsKey: the response is not the expected JSON (line 1, column 1)",
        ),
        (
            "GetKmsKey",
            "an array instead of keys",
            Reply::Json(json!([1, 2])),
            400,
            "GetKmsKey: the response is not the expected JSON",
        ),
        (
            "GetKmsKey",
            "nothing instead of keys",
            Reply::Page(200, "application/json", String::new()),
            400, // An empty response counts as `null`, as for the peer's clients.
            "GetKmsKey: the response is not the expected JSON (line 1, column 4)",
        ),
        // Responses that are truncated or never end.
        (
            "GetTempCaCert",
            "half an answer",
            Reply::Truncated(cluster.temp_ca()),
            503,
            "GetTempCaCert: the connection to the source KMS broke: ",
        ),
        (
            "GetKmsKey",
            "half of the keys",
            Reply::Truncated(cluster.handover()),
            503,
            "GetKmsKey: the connection to the source KMS broke: ",
        ),
        (
            "GetTempCaCert",
            "an endless answer",
            Reply::Endless,
            400,
            "GetTempCaCert: the response is larger than 4194304 bytes",
        ),
        (
            "GetKmsKey",
            "endless keys",
            Reply::Endless,
            400,
            "GetKmsKey: the response is larger than 4194304 bytes",
        ),
        (
            "GetTempCaCert",
            "a closed connection",
            Reply::Close,
            503,
            "GetTempCaCert: the connection to the source KMS broke: ",
        ),
        (
            "GetKmsKey",
            "a connection closed after our certificate",
            Reply::Close,
            503,
            "GetKmsKey: the connection to the source KMS broke: ",
        ),
        // A temporary CA that cannot issue certificates, and an invalid root.
        (
            "GetTempCaCert",
            "a temporary CA without a key",
            temp_ca("temp_ca_key", String::new()),
            400,
            "the key of the temporary CA cannot be read",
        ),
        (
            "GetTempCaCert",
            "a temporary CA with another key",
            temp_ca("temp_ca_key", foreign_temp.clone()),
            400,
            "the client certificate cannot be issued: ",
        ),
        (
            "GetTempCaCert",
            "a temporary CA that is none",
            temp_ca("temp_ca_cert", "pem".into()),
            400,
            "the client certificate cannot be issued: ",
        ),
        (
            "GetTempCaCert",
            "no root CA",
            temp_ca("ca_cert", String::new()),
            400,
            "GetTempCaCert: ca_cert is not exactly one CA certificate in PEM",
        ),
        (
            "GetTempCaCert",
            "two root CAs",
            temp_ca("ca_cert", cluster.ca.root_pem.repeat(2)),
            400,
            "GetTempCaCert: ca_cert is not exactly one CA certificate in PEM",
        ),
        (
            "GetTempCaCert",
            "a root CA that did not issue the source's certificate",
            temp_ca("ca_cert", other.ca.root_pem.clone()),
            400,
            "the certificate of the source KMS is not issued by the root CA that it shows: ",
        ),
        // Keys that are invalid, or not the source's own.
        ("GetKmsKey", "no keys", altered("/keys", json!([])), 400, "Invalid keys"),
        ("GetKmsKey", "two sets of keys", altered("/keys", json!([key_set, key_set])), 400, "Invalid keys"),
        ("GetKmsKey", "no CA key", altered("/keys/0/ca_key", json!("")), 400, "Failed to parse CA key"),
        (
            "GetKmsKey",
            "a certificate as CA key",
            altered("/keys/0/ca_key", json!(cluster.ca.root_pem)),
            400,
            "Failed to parse CA key",
        ),
        (
            "GetKmsKey",
            "no tmp CA key",
            altered("/temp_ca_key", json!("x")),
            400,
            "Failed to parse tmp CA key",
        ),
        (
            "GetKmsKey",
            "a short ECDSA key",
            altered("/keys/0/k256_key", json!("11")),
            400,
            "Failed to parse ECDSA key",
        ),
        (
            "GetKmsKey",
            "a zero ECDSA key",
            altered("/keys/0/k256_key", json!("00".repeat(32))),
            400,
            "Failed to parse ECDSA key",
        ),
        (
            "GetKmsKey",
            "an ECDSA key out of range",
            altered("/keys/0/k256_key", json!(out_of_range)),
            400,
            "Failed to parse ECDSA key",
        ),
        (
            "GetKmsKey",
            "another CA key",
            altered("/keys/0/ca_key", json!(foreign_ca)),
            400,
            "the CA key does not belong to the CA certificate of the source KMS",
        ),
        (
            "GetKmsKey",
            "another tmp CA key",
            altered("/temp_ca_key", json!(foreign_temp)),
            400,
            "the tmp CA key does not belong to the tmp CA certificate of the source KMS",
        ),
        (
            "GetKmsKey",
            "another ECDSA key",
            altered("/keys/0/k256_key", json!("22".repeat(32))),
            400,
            "the ECDSA key does not belong to k256_pubkey in GetMeta of the source KMS",
        ),
        (
            "GetMeta",
            "another root CA in GetMeta",
            meta("ca_cert", json!(other.ca.root_pem)),
            400,
            "the CA key does not belong to ca_cert in GetMeta of the source KMS",
        ),
        (
            "GetMeta",
            "another statement in GetMeta",
            meta("bootstrap_info", json!({ "ca_pubkey": "3059", "k256_pubkey": "02" })),
            400,
            "the CA key does not belong to bootstrap_info in GetMeta of the source KMS",
        ),
    ];
    let mut cases = Vec::new();
    for (method, what, reply, status, text) in rows {
        let answers = cluster.answering(move |called| (called == method).then(|| reply.clone()));
        let source = Source::start(&[cluster.leaf(&replica.cvm)], answers).await;
        cases.push(Case { what, source, status, text: text.to_owned() });
    }
    each_is_refused(&replica, cases).await;
}
