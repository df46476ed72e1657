//! The wire format: URLs, verbs, encodings, errors, limits, headers, and gRPC beside prpc on one port.

use crate::support::grpc::origin;
use crate::support::http::{json, post, request, with};
use crate::support::process::run;
use crate::support::{Caller, World};
use bytes::Bytes;
use cvm_kms::api::{METHODS, Service};
use cvm_kms::proto::{
    AppId, AppKeyResponse, BootstrapRequest, GetAppKeyRequest, GetKmsKeyRequest, GetMetaResponse, PrpcError,
    PublicKeyResponse, SignCertRequest,
};
use http::Request;
use prost::Message as _;
use serde_json::{Value, json};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

const APP: [u8; 20] = [0xab; 20];

fn app_json() -> String {
    json!({ "app_id": hex::encode(APP) }).to_string()
}

fn app_protobuf() -> Vec<u8> {
    AppId { app_id: APP.to_vec(), ..Default::default() }.encode_to_vec()
}

#[tokio::test]
async fn one_segment_below_prpc_names_a_method_with_or_without_its_own_prefix() {
    let world = World::ready().await;
    let not_found = |name: &str| Some(format!("Service not found: {name}"));
    for caller in [world.caller().http1(), world.caller().http2()] {
        for path in [
            "/prpc/GetMeta",
            "/prpc/KMS.GetMeta",
            "/prpc/KMS.KMS.GetMeta",
            "//prpc/GetMeta",
            "/prpc//GetMeta",
            "///prpc///KMS.GetMeta",
            "/prpc/KMS%2EGetMeta",
            "/prpc/KMS%2eGetMeta",
            "/prpc/GetMeta?x=1&y",
        ] {
            let answer = caller.send(json_post(path)).await;
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
            assert!(!answer.message::<GetMetaResponse>().ca_cert.is_empty(), "{path}");
        }
        for (path, status, error) in [
            ("/prpc/getmeta", 404, not_found("getmeta")),
            ("/prpc/kms.KMS.GetMeta", 404, not_found("kms.KMS.GetMeta")),
            ("/prpc/kms.GetMeta", 404, not_found("kms.GetMeta")),
            ("/prpc/Admin.ClearImageCache", 404, not_found("Admin.ClearImageCache")),
            ("/prpc/Onboard.Bootstrap", 404, not_found("Onboard.Bootstrap")),
            ("/prpc/Bootstrap", 404, not_found("Bootstrap")),
            ("/prpc/Finish", 404, not_found("Finish")),
            ("/prpc/KMS.Nothing", 404, not_found("Nothing")),
            ("/prpc/KMS.", 404, not_found("")),
            ("/prpc/GetMeta/", 404, None),
            ("/prpc/GetMeta/x", 404, None),
            ("/prpc", 404, None),
            ("/prpc/", 422, None),
            ("/PRPC/GetMeta", 404, None),
            ("/GetMeta", 404, None),
            ("/", 404, None),
            ("/finish", 404, None),
        ] {
            let answer = caller.send(json_post(path)).await;
            assert_eq!(answer.status, status, "{path}: {answer:?}");
            if let Some(error) = error {
                assert_eq!(answer.refusal().1, error, "{path}");
            }
        }
    }
}

fn json_post(path: &str) -> Request<Bytes> {
    with(post(path, "{}"), "content-type", "application/json")
}

#[tokio::test]
async fn get_and_head_and_post_call_and_other_verbs_are_not_found() {
    let world = World::ready().await;
    let path = format!("/prpc/GetAppEnvEncryptPubKey?app_id={}", hex::encode(APP));
    for caller in [world.caller().http1(), world.caller().http2()] {
        let got = caller.get(&path).await;
        assert_eq!((got.status, got.header("content-type")), (200, "application/json"));
        let head = caller.send(request("HEAD", &path, "")).await;
        assert_eq!((head.status, head.header("content-type")), (200, "application/json"));
        assert!(head.body.is_empty());
        assert_eq!(head.header("content-length"), got.body.len().to_string());
        let head = caller.send(request("HEAD", "/prpc/GetAppEnvEncryptPubKey", "")).await;
        assert_eq!((head.status, head.body.len()), (400, 0));
        for verb in ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
            for path in ["/prpc/GetMeta", "/nowhere"] {
                let answer = caller.send(request(verb, path, "")).await;
                assert_eq!((answer.status, answer.text()), (404, "not found"), "{verb} {path}");
                assert!(answer.header("content-type").starts_with("text/plain"), "{verb} {path}");
            }
            assert_eq!(world.caller().send(request(verb, "/health", "")).await.status, 405, "{verb} /health");
        }
        assert_eq!(
            caller.send(with(request("GET", "/nowhere", ""), "accept", "application/json")).await.refusal(),
            (404, "not found".into())
        );
    }
}

#[tokio::test]
async fn the_request_decides_between_json_and_protobuf_for_both_directions() {
    let world = World::ready().await;
    let json_body = Bytes::from(app_json());
    let protobuf_body = Bytes::from(app_protobuf());
    let spaced = Bytes::from(format!(" \r\n\t{}", app_json()));
    let typed = |kind: &'static str| Some(kind);
    // verb and query, content type, body, whether the response is JSON
    let cases: Vec<(&str, &str, Option<&str>, &Bytes, bool)> = vec![
        ("POST", "", None, &protobuf_body, false),
        ("POST", "", typed("application/x-not-a-thing"), &protobuf_body, false),
        ("POST", "?json", None, &spaced, true),
        ("POST", "", typed("application/x-www-form-urlencoded"), &json_body, true),
        ("POST", "", typed("Application/X-WWW-Form-Urlencoded; charset=utf-8"), &spaced, true),
        ("POST", "", typed("application/x-www-form-urlencoded"), &protobuf_body, false),
        ("POST", "", typed("application/octet-stream"), &protobuf_body, false),
        ("POST", "", typed("application/vnd.api+json"), &json_body, true),
        ("POST", "", typed("text/json"), &json_body, true),
        ("POST", "", typed("application/vnd.api+json"), &protobuf_body, false),
        ("POST", "", typed("application/json"), &json_body, true),
        ("POST", "", typed("application/json; charset=utf-8"), &json_body, true),
        ("POST", "", typed("APPLICATION/JSON"), &json_body, true),
        ("POST", "?json", None, &json_body, true),
        ("POST", "?json=", None, &json_body, true),
        ("POST", "?json=1", None, &json_body, true),
        ("POST", "?json=true", typed("application/octet-stream"), &json_body, true),
        ("POST", "?a=1&json", None, &json_body, true),
        ("POST", "?json=0", None, &protobuf_body, false),
        ("POST", "?json=yes", None, &protobuf_body, false),
        ("POST", "?JSON", None, &protobuf_body, false),
    ];
    for (verb, query, kind, body, is_json) in cases {
        let mut call = request(verb, &format!("/prpc/GetAppEnvEncryptPubKey{query}"), body.clone());
        // The `Accept` header has no effect.
        call = with(call, "accept", if is_json { "application/octet-stream" } else { "application/json" });
        if let Some(kind) = kind {
            call = with(call, "content-type", kind);
        }
        let answer = world.caller().send(call).await;
        assert_eq!(answer.status, 200, "{query} {kind:?}: {answer:?}");
        let key: PublicKeyResponse = if is_json { answer.message() } else { answer.decoded() };
        assert_eq!((key.public_key.len(), key.signature.len()), (32, 65), "{query} {kind:?}");
        let expected = if is_json { "application/json" } else { "application/octet-stream" };
        assert_eq!(answer.header("content-type"), expected, "{query} {kind:?}");
    }
}

#[tokio::test]
async fn a_message_whose_field_and_length_are_line_feeds_is_not_taken_for_json() {
    let world = World::ready().await;
    let request = GetKmsKeyRequest {
        vm_config: r#"{"a":"bc"}"#.to_owned(),
        epochs: false,
        challenge: Vec::new(),
        fresh_evidence: Vec::new(),
        join_token: String::new(),
    };
    assert!(request.encode_to_vec().starts_with(b"\n\n{"));
    for call in [
        post("/prpc/GetKmsKey", request.encode_to_vec()),
        with(
            post("/prpc/GetKmsKey", request.encode_to_vec()),
            "content-type",
            "application/x-www-form-urlencoded",
        ),
    ] {
        let answer = world.caller().send(call).await;
        assert_eq!(answer.header("content-type"), "application/octet-stream");
        assert_eq!(answer.decoded::<PrpcError>().message, "No attestation provided");
    }
}

#[tokio::test]
async fn what_is_not_said_to_be_json_is_protobuf_even_if_it_begins_with_a_brace() {
    let world = World::ready().await;
    for kind in
        [None, Some("application/x-not-a-thing"), Some("application/octet-stream"), Some("text/plain")]
    {
        for body in ["{}", r#"{"path":"a"}"#, &app_json()] {
            let mut call = post("/prpc/GetAppEnvEncryptPubKey", body.to_owned());
            if let Some(kind) = kind {
                call = with(call, "content-type", kind);
            }
            let answer = world.caller().send(call).await;
            assert_eq!(
                (answer.status, answer.header("content-type")),
                (400, "application/octet-stream"),
                "{kind:?} {body}"
            );
            let text = answer.decoded::<PrpcError>().message;
            assert!(text.starts_with("failed to decode Protobuf message: "), "{kind:?} {body}: {text}");
        }
    }
}

#[tokio::test]
async fn what_does_not_decode_is_refused_in_the_decoders_words() {
    let world = World::ready().await;
    for (method, body, reason) in [
        ("GetAppEnvEncryptPubKey", r#"{"app_id":"0"}"#, "Odd number of digits at line 1 column 13"),
        (
            "GetAppEnvEncryptPubKey",
            r#"{"app_id":"zz"}"#,
            "Invalid character 'z' at position 0 at line 1 column 14",
        ),
        ("GetAppEnvEncryptPubKey", r#"{"app_id":"0X00"}"#, "Invalid character 'X' at position 1"),
        ("GetAppEnvEncryptPubKey", r#"{"app_id":null}"#, "invalid type: null, expected "),
        ("GetAppEnvEncryptPubKey", r#"{"app_id":7}"#, "invalid type: integer `7`, expected "),
        ("GetAppEnvEncryptPubKey", r#"{"app_id":"00","app_id":"00"}"#, "duplicate field `app_id`"),
        ("GetAppEnvEncryptPubKey", "5", "invalid type: integer `5`, expected struct AppId"),
        ("GetAppEnvEncryptPubKey", "\"00\"", "invalid type: string \"00\", expected struct AppId"),
        ("GetAppEnvEncryptPubKey", " \n ", "EOF while parsing a value"),
        ("GetAppEnvEncryptPubKey", "{", "EOF while parsing an object"),
        ("GetAppEnvEncryptPubKey", "{} x", "trailing characters at line 1 column 4"),
        ("GetAppEnvEncryptPubKey", "{'app_id':'00'}", "key must be a string"),
        ("GetAppEnvEncryptPubKey", "\u{feff}{}", "expected value at line 1 column 1"),
        ("GetAppKey", r#"{"api_version":-1}"#, "invalid type: integer `-1`, expected "),
        ("GetAppKey", r#"{"api_version":1.5}"#, "invalid type: floating point `1.5`, expected "),
        ("GetAppKey", r#"{"api_version":4294967296}"#, "invalid value: integer `4294967296`, expected "),
        ("GetAppKey", r#"{"api_version":true}"#, "invalid type: boolean `true`, expected "),
        ("GetAppKey", r#"{"vm_config":{}}"#, "invalid type: map, expected a string"),
    ] {
        let sent =
            with(post(&format!("/prpc/{method}"), body.to_owned()), "content-type", "application/json");
        let (status, text) = world.caller().send(sent).await.refusal();
        assert_eq!(status, 400, "{body}: {text}");
        assert!(text.starts_with(reason), "{body}: {text}");
    }
    for body in [&[0x0a][..], &[0x0a, 0x05, 1], &[0xff], &[0x08, 0x01], &[0x0b]] {
        let answer = world.caller().send(post("/prpc/GetAppEnvEncryptPubKey", body.to_vec())).await;
        assert_eq!((answer.status, answer.header("content-type")), (400, "application/octet-stream"));
        let text = answer.decoded::<PrpcError>().message;
        assert!(text.starts_with("failed to decode Protobuf message: "), "{body:?}: {text}");
    }
    for query in ["app_id=0", "app_id=zz", "app_id=00&app_id=01"] {
        let answer = world.caller().get(&format!("/prpc/GetAppEnvEncryptPubKey?{query}")).await;
        assert_eq!(answer.refusal().0, 400, "{query}");
    }
}

#[tokio::test]
async fn requests_are_read_leniently_where_clients_differ() {
    let world = World::ready().await;
    let id = hex::encode(APP);
    let whole = format!("0x{id}");
    for body in [
        json!({ "app_id": id }),
        json!({ "app_id": id.to_uppercase() }),
        json!({ "app_id": whole }),
        json!({ "app_id": format!("0x{whole}") }),
        json!({ "app_id": id, "appId": 1, "later": { "deep": [null] } }),
        json!([id]),
    ] {
        let answer = world.caller().json("GetAppEnvEncryptPubKey", body.clone()).await;
        assert_eq!(answer.status, 200, "{body}: {answer:?}");
    }
    let mut unknown_fields = app_protobuf();
    unknown_fields.extend([0x92, 0x03, 0x02, 9, 9, 0x98, 0x03, 0x07]);
    let answer = world.caller().send(post("/prpc/GetAppEnvEncryptPubKey", unknown_fields)).await;
    assert_eq!(answer.status, 200);
    for query in [format!("json&app_id={id}"), format!("app_id=0x{id}&x=1"), format!("app%5Fid={id}")] {
        let answer = world.caller().get(&format!("/prpc/GetAppEnvEncryptPubKey?{query}")).await;
        assert_eq!(answer.status, 200, "{query}: {answer:?}");
    }
    // Older documents show numbers as decimal text.
    let answer = world.caller().json("GetAppKey", json!({"api_version": "2"})).await;
    assert_eq!(answer.refusal(), (400, "Unsupported API version: 2".into()));
}

#[tokio::test]
async fn no_body_is_the_message_with_all_defaults() {
    let world = World::ready().await;
    let missing = "app_id must be 20 bytes, got 0";
    let answer = world.caller().send(post("/prpc/GetAppEnvEncryptPubKey", "")).await;
    assert_eq!((answer.status, &*answer.decoded::<PrpcError>().message), (400, missing));
    for call in [
        post("/prpc/GetAppEnvEncryptPubKey?json", ""),
        with(post("/prpc/GetAppEnvEncryptPubKey", ""), "content-type", "application/json"),
        request("GET", "/prpc/GetAppEnvEncryptPubKey", ""),
        request("GET", "/prpc/GetAppEnvEncryptPubKey?json", ""),
    ] {
        assert_eq!(world.caller().send(call).await.refusal(), (400, missing.into()));
    }
}

#[tokio::test]
async fn methods_without_a_request_message_ignore_the_body() {
    let world = World::ready().await;
    for (body, kind, answered) in [
        ("}not json{", "application/json", "application/json"),
        ("null", "application/json", "application/json"),
        ("{broken", "application/x-www-form-urlencoded", "application/json"),
        ("{broken", "text/plain", "application/octet-stream"),
        ("", "application/json", "application/json"),
    ] {
        for method in ["GetMeta", "GetTempCaCert"] {
            let answer =
                world.caller().send(with(post(&format!("/prpc/{method}"), body), "content-type", kind)).await;
            assert_eq!((answer.status, answer.header("content-type")), (200, answered), "{method} {body}");
        }
    }
    let answer = world.caller().send(post("/prpc/GetMeta", vec![0xff; 100])).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/octet-stream"));
    assert!(!answer.decoded::<GetMetaResponse>().ca_cert.is_empty());
}

#[tokio::test]
async fn answers_carry_every_field_in_order_compactly_and_numbers_as_numbers() {
    let world = World::ready().await;
    let answer = world.caller().json("GetMeta", json!({})).await;
    let keys: Vec<String> = answer.value().as_object().expect("an object").keys().cloned().collect();
    assert_eq!(
        keys,
        [
            "ca_cert",
            "allow_any_upgrade",
            "k256_pubkey",
            "bootstrap_info",
            "is_dev",
            "gateway_app_id",
            "kms_contract_address",
            "chain_id",
            "app_auth_implementation",
            "os_image_verification",
            "version",
            "relaxed_settings",
            "auth_info_age_seconds",
            "relaxed_details",
            "ready",
            "not_ready",
            "readiness_warnings",
            "log_key",
            "log_key_signature",
            "require_fresh",
        ]
    );
    let meta = crate::support::eventually("the allowlist's answer", async || {
        let meta = world.caller().json("GetMeta", json!({})).await.value();
        (!meta["chain_id"].is_null()).then_some(meta)
    })
    .await;
    assert_eq!(meta["chain_id"], 7);
    assert_eq!(meta["gateway_app_id"], "0xgateway");
    assert_eq!(meta["kms_contract_address"], "0x1111111111111111111111111111111111111111");
    assert_eq!(meta["app_auth_implementation"], "0x2222222222222222222222222222222222222222");
    assert_eq!([&meta["is_dev"], &meta["allow_any_upgrade"]], [&json!(false); 2]);
    let info = &meta["bootstrap_info"];
    assert_eq!(info["ca_pubkey"], hex::encode(world.root_keys().ca_spki()));
    assert_eq!(info["k256_pubkey"], meta["k256_pubkey"]);

    let key = world.caller().send(post("/prpc/GetAppEnvEncryptPubKey?json", app_json())).await;
    let value = key.value();
    assert_eq!(key.text(), value.to_string(), "compact, in the order of declaration");
    let keys: Vec<&String> = value.as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["public_key", "signature", "timestamp", "signature_v1"]);
    assert!(value["timestamp"].is_u64());
    let text = value["public_key"].as_str().expect("text");
    assert!(text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{text}");
}

#[tokio::test]
async fn errors_are_one_pretty_object_or_one_message_in_the_callers_encoding() {
    let world = World::ready().await;
    for caller in [world.caller().http1(), world.caller().http2()] {
        let answer = caller.json("GetKmsKey", json!({})).await;
        let id = answer.header("x-denial-id");
        let expected = format!(
            "{{\n  \"error\": \"No attestation provided\",\n  \"code\": \"no_attestation\",\n  \"denial_id\": \"{id}\"\n}}"
        );
        assert_eq!(answer.text(), expected);
        let answer = caller.json("GetAppEnvEncryptPubKey", json!({ "app_id": "00" })).await;
        assert_eq!(answer.text(), "{\n  \"error\": \"app_id must be 20 bytes, got 1\"\n}");
        assert_eq!(answer.header("content-type"), "application/json");
        let answer = caller.send(post("/prpc/GetKmsKey", "")).await;
        assert_eq!(&answer.body[..], b"\x0a\x17No attestation provided");
        assert_eq!(answer.header("content-type"), "application/octet-stream");
        let answer = caller.send(post("/prpc/Nothing?json", "{}")).await;
        assert_eq!(answer.refusal(), (404, "Service not found: Nothing".into()));
        let answer = caller.send(post("/prpc/Nothing", vec![1])).await;
        assert_eq!(answer.decoded::<PrpcError>().message, "Service not found: Nothing");
        let long = format!("/prpc/{}", "x".repeat(5000));
        let (status, text) = caller.get(&long).await.refusal();
        assert_eq!(status, 404);
        assert!(text.len() <= 2048 && text.ends_with('x'), "{}", text.len());
    }
}

#[tokio::test]
async fn each_method_takes_its_own_limit_and_not_a_byte_more() {
    let world = World::ready().await;
    let too_large = (413, "failed to read data: payload too large".to_owned());
    for caller in [world.caller().http1(), world.caller().http2()] {
        let mut line = caller.connect().await.expect("a connection");
        for row in METHODS.iter().filter(|row| row.service == Service::Kms) {
            let padded = |length: usize| {
                let body = format!("{}{}", "{}", " ".repeat(length - 2));
                with(post(&format!("/prpc/{}", row.name), body), "content-type", "application/json")
            };
            let fits = line.send(padded(row.body_limit)).await;
            assert_ne!(fits.status, 413, "{}: {fits:?}", row.name);
            assert_eq!(line.send(padded(row.body_limit + 1)).await.refusal(), too_large, "{}", row.name);
            let answer = line.send(post(&format!("/prpc/{}", row.name), vec![0; row.body_limit + 1])).await;
            assert_eq!(answer.status, 413, "{}", row.name);
            assert_eq!(answer.decoded::<PrpcError>().message, too_large.1, "{}", row.name);
        }
        // Far over the limit: the response still arrives, and over HTTP/2 the connection continues.
        for path in ["/prpc/GetMeta", "/prpc/Nothing"] {
            let mut line = caller.connect().await.expect("a connection");
            let huge = with(post(path, vec![b' '; 8 << 20]), "content-type", "application/json");
            assert_eq!(line.send(huge).await.refusal(), too_large, "{path}");
            assert_eq!(line.json("GetMeta", json!({})).await.status, 200, "{path}");
        }
    }
}

#[tokio::test]
async fn configured_limits_replace_the_built_in_ones() {
    let world =
        World::ready_with(r#"rpc.limits = { GetMeta = "1KiB", GetAppEnvEncryptPubKey = "32KiB" }"#).await;
    let meta = |length: usize| post("/prpc/GetMeta?json", vec![b' '; length]);
    assert_eq!(world.caller().send(meta(1024)).await.status, 200);
    assert_eq!(world.caller().send(meta(1025)).await.status, 413);
    let key = |length: usize| {
        let body = app_json();
        post("/prpc/KMS.GetAppEnvEncryptPubKey?json", format!("{body}{}", " ".repeat(length - body.len())))
    };
    assert_eq!(world.caller().send(key(32 << 10)).await.status, 200);
    assert_eq!(world.caller().send(key((32 << 10) + 1)).await.status, 413);
}

#[tokio::test]
async fn the_version_and_the_security_headers_are_on_every_answer_and_lengths_are_stated() {
    let world = World::ready().await;
    for caller in [world.caller().http1(), world.caller().http2()] {
        for call in [
            json("GetMeta", json!({})),
            json("GetKmsKey", json!({})),
            request("GET", "/health", ""),
            request("GET", "/nowhere", ""),
            request("PUT", "/prpc/GetMeta", ""),
            post("/prpc/GetMeta", vec![0; 20_000]),
        ] {
            let path = call.uri().path().to_owned();
            let answer = caller.send(call).await;
            assert!(
                answer.header("x-app-version").starts_with(concat!("v", env!("CARGO_PKG_VERSION"))),
                "{path}"
            );
            assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
            assert_eq!(answer.header("x-frame-options"), "SAMEORIGIN", "{path}");
            assert_eq!(answer.header("permissions-policy"), "interest-cohort=()", "{path}");
            assert_eq!(answer.header("strict-transport-security"), "", "{path}");
            assert_eq!(answer.header("content-length"), answer.body.len().to_string(), "{path}");
            assert_eq!(answer.header("transfer-encoding"), "", "{path}");
        }
    }
}

#[tokio::test]
async fn probes_see_health_and_metrics_count_what_the_peers_counters_count() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let caller = world.caller().shows(&world.attested(&app).await);
    let health = caller.get("/health").await;
    assert_eq!((health.status, health.text()), (200, "OK"));
    assert!(health.header("content-type").starts_with("text/plain"));

    let counters = async || {
        let answer = world.caller().get("/metrics").await;
        assert!(answer.header("content-type").starts_with("text/plain"), "{}", answer.header("content-type"));
        let text = answer.text().to_owned();
        for line in [
            "# HELP dstack_kms_attestation_requests_total Total number of KMS attestation requests.",
            "# TYPE dstack_kms_attestation_requests_total counter",
            "# HELP dstack_kms_attestation_failures_total Total number of failed KMS attestation requests.",
            "# TYPE dstack_kms_attestation_failures_total counter",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}");
        }
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
            line.expect("the counter").parse::<u64>().expect("a number")
        };
        (value("dstack_kms_attestation_requests_total"), value("dstack_kms_attestation_failures_total"))
    };
    assert_eq!(counters().await, (0, 0));
    let counted = [
        (json("GetAppKey", json!({})), 200),
        (json("KMS.GetAppKey", json!({})), 200),
        (request("GET", "/prpc/GetAppKey", ""), 200),
        (json("GetKmsKey", json!({})), 403),
        (json("SignCert", json!({})), 400),
        (post("/prpc/GetAppKey", vec![0; 300 << 10]), 413),
        (request("GET", "/prpc/KMS.SignCert?api_version=x", ""), 400),
    ];
    let failures = counted.iter().filter(|(_, status)| *status >= 400).count() as u64;
    let total = counted.len() as u64;
    for (call, status) in counted {
        let path = call.uri().to_string();
        assert_eq!(caller.send(call).await.status, status, "{path}");
    }
    assert_eq!(counters().await, (total, failures));
    for path in ["/prpc/GetMeta", "/prpc/GetTempCaCert", "/prpc/Nothing", "/health", "/prpc/Admin.GetAppKey"]
    {
        caller.get(path).await;
    }
    assert_eq!(counters().await, (total, failures), "nothing else counts");
}

#[tokio::test]
async fn metrics_can_be_switched_off() {
    let world = World::ready_with("core.metrics.enabled = false").await;
    assert_eq!(world.caller().get("/metrics").await.status, 404);
    assert_eq!(world.caller().get("/health").await.status, 200);
}

#[tokio::test]
async fn finish_answers_each_kind_of_caller_as_it_expects() {
    let world = World::onboarding().await;
    let caller = world.caller().plain();
    for (call, body, kind) in [
        (json("Finish", json!({})), "null", "application/json"),
        (post("/prpc/Onboard.Finish?json", "{}"), "null", "application/json"),
        (request("GET", "/prpc/Finish", ""), "null", "application/json"),
        (post("/prpc/Finish", ""), "", "application/octet-stream"),
        (post("/prpc/Finish", "{}"), "", "application/octet-stream"),
        (
            with(post("/prpc/Finish", "{}"), "content-type", "application/x-www-form-urlencoded"),
            "OK",
            "text/plain",
        ),
    ] {
        let path = call.uri().to_string();
        let answer = caller.send(call).await;
        assert_eq!((answer.status, answer.text()), (200, body), "{path}");
        assert!(answer.header("content-type").starts_with(kind), "{path}");
        assert_eq!(answer.header("x-app-version"), "", "onboarding does not name its version");
    }
    assert_eq!(caller.get("/finish").await.status, 503, "there are no keys yet");
    world.bootstrap().await;
    let answer = caller.get("/finish").await;
    assert_eq!((answer.status, answer.text()), (200, "OK"));
    assert!(answer.header("content-type").starts_with("text/plain"));
}

#[tokio::test]
async fn grpc_is_served_on_the_same_port_with_the_same_messages() {
    let world = World::ready().await;
    let mut grpc = world.caller().grpc().await;
    let meta = grpc.get_meta(()).await.expect("meta").into_inner();
    let by_prpc: GetMetaResponse = world.caller().json("GetMeta", json!({})).await.message();
    assert_eq!((meta.ca_cert, meta.k256_pubkey), (by_prpc.ca_cert, by_prpc.k256_pubkey));
    let temp_ca = grpc.get_temp_ca_cert(()).await.expect("temporary CA").into_inner();
    assert_eq!(temp_ca.temp_ca_key, world.temp_ca().await.temp_ca_key);
    let key = grpc
        .get_app_env_encrypt_pub_key(AppId { app_id: APP.to_vec(), ..Default::default() })
        .await
        .expect("key")
        .into_inner();
    assert_eq!(key.public_key.len(), 32);
    let status = grpc.sign_cert(SignCertRequest::default()).await.expect_err("no version");
    assert_eq!(
        (status.code(), status.message()),
        (tonic::Code::InvalidArgument, "Unsupported API version: 0")
    );
}

#[tokio::test]
async fn grpc_health_and_reflection_tell_what_is_served() {
    let world = World::ready().await;
    let channel = world.caller().channel().await.expect("a connection");
    let mut health = HealthClient::with_origin(channel.clone(), origin());
    for service in ["", "kms.KMS"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let status = health.check(request).await.expect("health").into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service:?}");
    }
    let request = HealthCheckRequest { service: "kms.Onboard".to_owned() };
    assert_eq!(health.check(request).await.expect_err("unknown").code(), tonic::Code::NotFound);

    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let symbol = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol("kms.KMS.GetAppKey".to_owned())),
    };
    let mut reflection = ServerReflectionClient::with_origin(channel, origin());
    let requests = futures_util::stream::iter([list, symbol]);
    let mut answers = reflection.server_reflection_info(requests).await.expect("reflection").into_inner();
    let listed = answers.message().await.expect("an answer").expect("an answer").message_response;
    let Some(MessageResponse::ListServicesResponse(listed)) = listed else { panic!("a list: {listed:?}") };
    let names: Vec<String> = listed.service.into_iter().map(|service| service.name).collect();
    for name in ["kms.KMS", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
    }
    for name in ["kms.Onboard", "kms.Admin"] {
        assert!(!names.iter().any(|found| found == name), "{name} is not served here: {names:?}");
    }
    let file = answers.message().await.expect("an answer").expect("an answer").message_response;
    let Some(MessageResponse::FileDescriptorResponse(file)) = file else { panic!("a file: {file:?}") };
    assert!(!file.file_descriptor_proto.is_empty());
}

#[tokio::test]
async fn each_message_of_a_stream_counts_as_a_request() {
    let mut world = World::ready().await;
    world.configure("core.limits = { unauthenticated_per_second = 1, unauthenticated_burst = 5 }");
    world.start().await.expect("starts");
    let channel = world.caller().channel().await.expect("a connection");
    let mut reflection = ServerReflectionClient::with_origin(channel, origin());
    let list = || ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    for (sent, most) in [(3, 3), (50, 10)] {
        let requests = futures_util::stream::iter((0..sent).map(move |_| list()));
        let mut answered = 0;
        if let Ok(answers) = reflection.server_reflection_info(requests).await {
            let mut answers = answers.into_inner();
            while let Ok(Some(_)) = answers.message().await {
                answered += 1;
            }
        }
        assert!(answered <= most && (sent > most || answered == sent), "{answered} of {sent} messages");
    }
}

#[tokio::test]
async fn messages_of_a_stream_are_short() {
    let world = World::ready().await;
    let channel = world.caller().channel().await.expect("a connection");
    let mut reflection = ServerReflectionClient::with_origin(channel, origin());
    for (length, answered) in [(8 * 1024, true), (32 * 1024, false)] {
        let symbol = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::FileContainingSymbol("x".repeat(length))),
        };
        let requests = futures_util::stream::iter([symbol]);
        // Not found is a response; nothing, or the end of the stream, is not.
        let found = match reflection.server_reflection_info(requests).await {
            Ok(answers) => answers.into_inner().message().await.err().map(|status| status.code()),
            Err(status) => Some(status.code()),
        };
        assert_eq!(found == Some(tonic::Code::NotFound), answered, "{length}: {found:?}");
    }
}

#[tokio::test]
async fn an_answer_that_does_not_need_the_body_waits_for_its_end() {
    let world = World::ready().await;
    for path in ["/nope", "/health", "/finish", "/prpc/Nope", "/prpc/GetMeta"] {
        let (sender, body) = tokio::sync::mpsc::channel::<Bytes>(4);
        let body = futures_util::stream::unfold(body, |mut body| async {
            body.recv().await.map(|data| (Ok::<_, tonic::Status>(http_body::Frame::data(data)), body))
        });
        let body = tonic::body::Body::new(http_body_util::StreamBody::new(body));
        let request = Request::post(format!("https://localhost{path}")).body(body).expect("a request");
        let mut channel = world.caller().channel().await.expect("a connection");
        let answer = tokio::spawn(tower::Service::call(&mut channel, request));
        sender.send(Bytes::from_static(b"{")).await.expect("sent");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        assert!(!answer.is_finished(), "{path}: answered before the end of the body");
        sender.send(Bytes::from_static(b"}")).await.expect("the body is still read");
        drop(sender);
        let status = answer.await.expect("no panic").expect("an answer").status();
        assert!([200, 404, 405].contains(&status.as_u16()), "{path}: {status}");
    }
}

#[tokio::test]
async fn curl_gets_each_answer_that_does_not_need_the_body() {
    let world = World::ready().await;
    for path in ["/nope", "/health", "/finish", "/prpc/Nope"] {
        for _ in 0..12 {
            let url = format!("https://{}{path}", world.address());
            let arguments = ["-sk", "--http2", "-d", "{}", "-o", "/dev/null", "-w", "%{http_code}", &url];
            let status = run("curl", &arguments, "").await.expect_ok().out;
            assert!(["200", "404", "405"].contains(&status.as_str()), "{path}: {status}");
        }
    }
}

#[tokio::test]
async fn bodies_in_flight_have_one_budget_and_an_address_its_share() {
    let mut world = World::ready().await;
    world.configure("core.limits.max_request_memory = \"32MiB\"\ncore.metrics.enabled = true");
    world.start().await.expect("starts");
    let mut channel = world.caller().channel().await.expect("a connection");
    let unfinished = |channel: &mut crate::support::Channel| {
        let begin =
            futures_util::stream::iter([Ok(http_body::Frame::data(Bytes::from(vec![b' '; 1_000_000])))]);
        let body = futures_util::StreamExt::chain(
            begin,
            futures_util::stream::pending::<Result<_, tonic::Status>>(),
        );
        let body = tonic::body::Body::new(http_body_util::StreamBody::new(body));
        let request = Request::post("https://localhost/prpc/SignCert?json").body(body).expect("a request");
        tokio::spawn(tower::Service::call(channel, request))
    };
    // A quarter of 32 MiB, counted twice: four fit.
    let held: Vec<_> = (0..8).map(|_| unfinished(&mut channel)).collect();
    let refused = crate::support::eventually("bodies are refused", async || {
        let refused = held.iter().filter(|answer| answer.is_finished()).count();
        (refused >= 4).then_some(refused)
    })
    .await;
    assert_eq!(refused, 4, "the others still fit");
    let mut kept = Vec::new();
    for answer in held {
        match answer.is_finished() {
            true => {
                let answer = answer.await.expect("no panic").expect("an answer");
                assert_eq!(answer.status(), 503);
                assert_eq!(answer.headers()["retry-after"], "1");
            }
            false => kept.push(answer),
        }
    }
    let metrics = world.caller().get("/metrics").await;
    assert!(
        metrics.text().contains("cvm_kms_shed_total{limit=\"max_request_memory\"} 4"),
        "{}",
        metrics.text()
    );
    for answer in kept {
        answer.abort();
    }
    drop(channel);
    let whole = "x".repeat(900_000);
    crate::support::eventually("the memory is free again", async || {
        let body = json!({ "api_version": 1, "csr": "", "signature": "", "vm_config": whole });
        (world.caller().json("SignCert", body).await.status != 503).then_some(())
    })
    .await;
}

/// `grpc-status` of a response, from its trailers or, without a body, from its headers.
fn grpc_status(answer: &crate::support::Answer) -> String {
    let trailing = answer.trailers.get("grpc-status").map(|value| value.to_str().expect("text").to_owned());
    trailing.unwrap_or_else(|| answer.header("grpc-status").to_owned())
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

fn grpc_call(path: &str, body: Vec<u8>) -> Request<Bytes> {
    with(with(post(path, body), "content-type", "application/grpc"), "te", "trailers")
}

#[tokio::test]
async fn grpc_refusals_have_their_own_statuses() {
    let world = World::ready().await;
    let caller = world.caller().http2();
    for (path, body, status) in [
        ("/kms.KMS/GetMeta", framed(&[]), "0"),
        ("/kms.KMS/Nothing", framed(&[]), "12"),
        ("/kms.Onboard/Bootstrap", framed(&[]), "12"),
        ("/kms.Admin/ClearImageCache", framed(&[]), "12"),
        ("/other.Service/Method", framed(&[]), "12"),
        ("/nowhere", framed(&[]), "12"),
        ("/kms.KMS/GetKmsKey", framed(&[]), "16"),
        ("/kms.KMS/GetAppEnvEncryptPubKey", framed(&app_protobuf()), "0"),
        ("/kms.KMS/GetAppEnvEncryptPubKey", framed(&[]), "3"),
        ("/kms.KMS/GetMeta", framed(&vec![0; 40 << 10]), "8"),
        // A message that does not parse is 13 by gRPC's own rule (statuscodes.md).
        ("/kms.KMS/GetAppEnvEncryptPubKey", framed(&[0xff, 0xff]), "13"),
        ("/kms.KMS/GetAppEnvEncryptPubKey", framed(&vec![0; 40 << 10]), "8"),
        ("/kms.KMS/SignCert", framed(&vec![0; 2 << 20]), "8"),
        // It announces more than it sends.
        ("/kms.KMS/GetMeta", vec![0, 7, 7, 7, 7], "8"),
    ] {
        let answer = caller.send(grpc_call(path, body)).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert_eq!(grpc_status(&answer), status, "{path}: {answer:?}");
    }
    for broken in [vec![0, 0, 0, 0, 9, 1], vec![1, 0, 0, 0, 0], vec![7, 0, 0, 0, 1, 1]] {
        let answer = caller.send(grpc_call("/kms.KMS/GetAppEnvEncryptPubKey", broken.clone())).await;
        assert_eq!(grpc_status(&answer), "13", "a frame that is none: {broken:?}");
    }
}

#[tokio::test]
async fn grpc_web_is_served_over_http_1() {
    let world = World::ready().await;
    let caller = world.caller().http1();
    let call = with(post("/kms.KMS/GetMeta", framed(&[])), "content-type", "application/grpc-web+proto");
    let answer = caller.send(with(call, "accept", "application/grpc-web+proto")).await;
    assert_eq!(answer.status, 200);
    assert!(
        answer.header("content-type").starts_with("application/grpc-web"),
        "{}",
        answer.header("content-type")
    );
    let (flag, rest) = answer.body.split_first().expect("a frame");
    let length = u32::from_be_bytes(rest[..4].try_into().expect("a length")) as usize;
    let meta = GetMetaResponse::decode(&rest[4..4 + length]).expect("a message");
    assert_eq!((*flag, meta.k256_pubkey.len()), (0, 33));
    let trailers = &rest[4 + length..];
    assert_eq!(trailers[0], 0x80);
    let text = String::from_utf8_lossy(&trailers[5..]);
    assert!(text.contains("grpc-status:0") || text.contains("grpc-status: 0"), "{text}");

    let call = with(post("/kms.KMS/GetKmsKey", framed(&[])), "content-type", "application/grpc-web");
    let answer = caller.send(call).await;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let status = answer.header("grpc-status").to_owned();
    assert!(status == "16" || text.contains("grpc-status:16"), "{status} {text}");
}

#[tokio::test]
async fn media_types_of_grpc_are_compared_without_case_and_parameters() {
    let world = World::ready().await;
    let caller = world.caller().http2();
    let text = |message: &[u8]| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(framed(message)).into_bytes()
    };
    let web = "application/grpc-web";
    let web_text = "application/grpc-web-text";
    // content type, accept, whether the body is text, the response's type
    for (kind, accept, is_text, answered) in [
        ("application/grpc", "", false, "application/grpc"),
        ("application/grpc+proto", "", false, "application/grpc"),
        ("Application/gRPC; charset=utf-8", "", false, "application/grpc"),
        (web, "", false, web),
        ("Application/gRPC-Web+Proto;charset=utf-8", "*/*", false, web),
        (web_text, "", true, web_text),
        ("APPLICATION/GRPC-WEB-TEXT ; x=y", "text/html, Application/Grpc-Web-Text;q=0.5", true, web_text),
        ("application/grpc-web-text+proto", "application/grpc-web+proto", true, web),
    ] {
        let body = if is_text { text(&app_protobuf()) } else { framed(&app_protobuf()) };
        let mut call = with(post("/kms.KMS/GetAppEnvEncryptPubKey", body), "content-type", kind);
        if !accept.is_empty() {
            call = with(call, "accept", accept);
        }
        let answer = caller.send(call).await;
        assert_eq!(answer.status, 200, "{kind}");
        let got = answer.header("content-type");
        assert!(got.strip_suffix("+proto").unwrap_or(got) == answered, "{kind}, {accept}: {got}");
        assert!(!answer.body.is_empty(), "{kind}: {answer:?}");
    }
    for kind in
        ["", "application/json", "application/grpcx", "application/grpc+json", "application/grpc-web+thrift"]
    {
        for caller in [world.caller().http1(), world.caller().http2()] {
            let call = with(post("/kms.KMS/GetMeta", framed(&[])), "content-type", kind);
            let answer = caller.send(call).await;
            assert_eq!(answer.status, 415, "{kind}: {answer:?}");
            assert!(answer.header("content-type").starts_with("text/plain"), "{kind}");
        }
    }
    for verb in ["OPTIONS", "GET", "PUT", "DELETE"] {
        let call = with(request(verb, "/kms.KMS/GetMeta", ""), "content-type", "application/grpc-web");
        let answer = caller.send(with(call, "origin", "https://app.example")).await;
        assert_eq!((answer.status, answer.header("allow")), (405, "POST"), "{verb}");
        assert_eq!(answer.header("access-control-allow-origin"), "", "{verb}");
    }
}

#[tokio::test]
async fn pages_of_listed_origins_and_no_others_may_read_answers() {
    let world =
        World::ready_with(r#"rpc.cors_origins = ["https://app.example", "http://localhost:8080"]"#).await;
    let from = |call: Request<Bytes>, origin: &str| with(call, "origin", origin);
    let preflight = |path: &str| {
        let call = with(request("OPTIONS", path, ""), "access-control-request-method", "POST");
        with(call, "access-control-request-headers", "content-type,x-grpc-web,x-user-agent")
    };
    for caller in [world.caller().http1(), world.caller().http2()] {
        for path in ["/kms.KMS/GetMeta", "/prpc/GetMeta"] {
            for origin in ["https://app.example", "http://localhost:8080"] {
                let answer = caller.send(from(preflight(path), origin)).await;
                assert_eq!((answer.status, answer.body.len()), (204, 0), "{path} {origin}: {answer:?}");
                assert_eq!(answer.header("access-control-allow-origin"), origin, "{path}");
                assert_eq!(answer.header("access-control-allow-credentials"), "", "{path}");
                assert!(answer.header("access-control-allow-headers").contains("x-grpc-web"), "{path}");
                assert_eq!(answer.header("vary"), "origin", "{path}");
            }
            for origin in ["https://app.example:8443", "http://app.example", "https://other.example", "null"]
            {
                let answer = caller.send(from(preflight(path), origin)).await;
                assert!([404, 405].contains(&answer.status), "{path} {origin}: {answer:?}");
                assert_eq!(answer.header("access-control-allow-origin"), "", "{path} {origin}");
                assert_eq!(answer.header("vary"), "origin", "{path} {origin}");
            }
        }
        // Refusals can be read too, because a page could otherwise not tell the reason.
        for call in [json("GetMeta", json!({})), json("GetKmsKey", json!({})), json("Nothing", json!({}))] {
            let path = call.uri().path().to_owned();
            let answer = caller.send(from(call, "https://app.example")).await;
            assert_eq!(answer.header("access-control-allow-origin"), "https://app.example", "{path}");
            assert!(answer.header("access-control-expose-headers").contains("x-denial-id"), "{path}");
        }
        let answer = caller.send(from(json("GetMeta", json!({})), "https://other.example")).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, ""));
    }
}

#[tokio::test]
async fn grpc_is_served_while_onboarding_with_and_without_tls() {
    let world = World::onboarding().await;
    let tcp = tokio::net::TcpStream::connect(world.address()).await.expect("a connection");
    let channel = crate::support::Channel::over(tcp).await.expect("HTTP/2 with prior knowledge");
    let plain = http::Uri::from_static("http://localhost");
    let mut client = cvm_kms::proto::onboard_client::OnboardClient::with_origin(channel, plain);
    let status = client.bootstrap(BootstrapRequest::default()).await.expect_err("no domain");
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    let mut client = world.caller().grpc_onboard().await;
    let keys = client
        .bootstrap(BootstrapRequest { domain: "localhost".to_owned() })
        .await
        .expect("keys")
        .into_inner();
    assert_eq!((keys.ca_pubkey.len(), keys.k256_pubkey.len()), (91, 33));
    let request = BootstrapRequest { domain: "localhost".to_owned() };
    let status = client.bootstrap(request).await.expect_err("twice");
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    assert_eq!(status.message(), "KMS has already been bootstrapped");
}

#[tokio::test]
async fn many_requests_share_one_connection_and_come_back_in_their_own_encoding() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let caller: Caller = world.caller().shows(&world.attested(&app).await);
    for caller in [caller.http1(), caller.http2()] {
        let mut line = caller.connect().await.expect("a connection");
        let keys: AppKeyResponse = line.json("GetAppKey", json!({})).await.message();
        let request = GetAppKeyRequest::default().encode_to_vec();
        let again: AppKeyResponse = line.send(post("/prpc/GetAppKey", request)).await.decoded();
        assert_eq!(keys.disk_crypt_key, again.disk_crypt_key);
        assert_eq!(line.json("Nothing", Value::Null).await.status, 404);
        assert_eq!(line.json("GetMeta", json!({})).await.status, 200);
    }
}
