//! Which callers receive which keys, and the errors for all others.

use crate::support::{Identity, World, certificate_request, eventually};
use cvm_kms::audit;
use cvm_kms::keys::derive::{self, AppKeys};
use cvm_kms::keys::{K256Key, statement};
use cvm_kms::proto::{
    AppId as AppIdMessage, AppKeyResponse, GetAppKeyRequest, GetKmsKeyRequest, KmsKeyResponse,
    PublicKeyResponse,
};
use kms_attest::binding::ReportData;
use kms_attest::evidence::{Evidence, Platform, TpmPlatform, TpmQuote};
use kms_attest::identity::AppId;
use kms_attest::p256::P256Key;
use kms_simulator::{Cvm, PccsMode, QuoteFormat, TcbLevel, TdReport};
use secp256k1::Message;
use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use serde_json::json;

/// The public key that made this signature over `digest`: `r ‖ s ‖ v`.
fn signer(digest: [u8; 32], signature: &[u8]) -> Vec<u8> {
    assert_eq!(signature.len(), 65);
    assert!(signature[64] <= 1, "the recovery id is 0 or 1, not 27 or 28");
    let recovery = RecoveryId::try_from(i32::from(signature[64])).expect("recovery id");
    let signature = RecoverableSignature::from_compact(&signature[..64], recovery).expect("signature");
    signature.recover_ecdsa(Message::from_digest(digest)).expect("a key").serialize().to_vec()
}

fn expected_keys(world: &World, app: &Cvm) -> AppKeys {
    derive::app_keys(&world.root_keys(), &AppId(*app.app_id()), app.instance_id()).expect("keys")
}

#[tokio::test]
async fn an_allowed_app_gets_its_own_keys_by_every_codec() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let caller = world.caller().shows(&world.attested(&app).await);
    let request = GetAppKeyRequest { api_version: 1, ..Default::default() };

    let answers: Vec<(&str, AppKeyResponse)> = vec![
        ("JSON over HTTP/2", caller.http2().json("GetAppKey", json!({"api_version": 1})).await.message()),
        ("JSON over HTTP/1.1", caller.http1().json("KMS.GetAppKey", json!({})).await.message()),
        ("protobuf", caller.protobuf("GetAppKey", &request).await.decoded()),
        ("query", caller.get("/prpc/GetAppKey?api_version=1").await.message()),
        ("gRPC", caller.grpc().await.get_app_key(request).await.expect("keys").into_inner()),
    ];
    let expected = expected_keys(&world, &app);
    let root_ca = std::fs::read_to_string(world.key_file("root-ca.crt")).expect("root CA");
    for (codec, keys) in &answers {
        assert_eq!(keys.disk_crypt_key, expected.disk_crypt_key.expose(), "{codec}");
        assert_eq!(keys.env_crypt_key, expected.env_crypt_key.expose(), "{codec}");
        assert_eq!(keys.k256_key, expected.k256_key.expose(), "{codec}");
        assert_eq!(keys.k256_signature, expected.k256_signature, "{codec}");
        assert_eq!(keys.ca_cert, root_ca, "{codec}");
        assert_eq!([&*keys.gateway_app_id, &*keys.tproxy_app_id], ["0xgateway"; 2], "{codec}");
        assert_eq!(keys.os_image_hash, app.os_image_hash(), "{codec}");
    }
}

#[tokio::test]
async fn the_signature_over_an_apps_key_recovers_to_the_key_that_get_meta_shows() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let caller = world.caller().shows(&world.attested(&app).await);
    let keys: AppKeyResponse = caller.json("GetAppKey", json!({})).await.message();
    let public = *K256Key::from_bytes(&keys.k256_key).expect("key").public_key();
    let digest = statement::digest(b"dstack-kms-issued", app.app_id(), &public);
    assert_eq!(signer(digest, &keys.k256_signature), world.meta().await.k256_pubkey);
}

#[tokio::test]
async fn deployers_get_the_env_key_that_the_app_will_hold_signed_with_and_without_time() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let request = json!({"app_id": hex::encode(app.app_id())});
    let key: PublicKeyResponse = world.caller().json("GetAppEnvEncryptPubKey", request).await.message();

    let caller = world.caller().shows(&world.attested(&app).await);
    let held: AppKeyResponse = caller.json("GetAppKey", json!({})).await.message();
    let secret: [u8; 32] = held.env_crypt_key.as_slice().try_into().expect("32 bytes");
    let public = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(secret));
    assert_eq!(key.public_key, public.as_bytes());

    let root = world.meta().await.k256_pubkey;
    let prefix = b"dstack-env-encrypt-pubkey";
    let plain = statement::digest(prefix, app.app_id(), &key.public_key);
    assert_eq!(signer(plain, &key.signature), root);
    let dated = [&key.timestamp.to_be_bytes()[..], &key.public_key].concat();
    assert_eq!(signer(statement::digest(prefix, app.app_id(), &dated), &key.signature_v1), root);
    let now = kms_attest::clock::unix_now();
    assert!((now - 2..=now).contains(&key.timestamp), "{} is not now", key.timestamp);
}

#[tokio::test]
async fn an_env_key_is_asked_for_with_exactly_20_bytes() {
    let world = World::ready().await;
    for length in [0, 19, 21, 32] {
        let id = "ab".repeat(length);
        let refusal = world.caller().json("GetAppEnvEncryptPubKey", json!({"app_id": id})).await.refusal();
        assert_eq!(refusal, (400, format!("app_id must be 20 bytes, got {length}")));
        let status = world.caller().grpc().await;
        let request = AppIdMessage { app_id: vec![1; length], ..Default::default() };
        let status = { status }.get_app_env_encrypt_pub_key(request).await.expect_err("refused");
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert_eq!(status.message(), format!("app_id must be 20 bytes, got {length}"));
    }
}

#[tokio::test]
async fn each_rule_of_the_allow_list_is_told_in_its_own_words() {
    let world = World::ready().await;
    let app = world.app(1);
    let other_code = Cvm::builder(&world.platform).app_id([1; 20]).compose_hash([9; 32]).build();
    let other_image =
        Cvm::builder(&world.platform).app_id([1; 20]).compose_hash([1; 32]).os_image_hash([9; 32]).build();
    let behind =
        |level| Cvm::builder(&world.platform).app_id([1; 20]).compose_hash([1; 32]).tcb(level).build();
    world.allow_app(&app);
    for (cvm, reason) in [
        (world.app(2), "app not registered"),
        (other_code, "compose hash not allowed"),
        (other_image, "OS image is not allowed"),
        (behind(TcbLevel::OutOfDate), "TCB status is not allowed"),
        (behind(TcbLevel::ConfigurationNeeded), "TCB status is not allowed"),
    ] {
        let caller = world.caller().shows(&world.attested(&cvm).await);
        let text = format!("App not allowed: Boot denied: {reason}");
        assert_eq!(caller.json("GetAppKey", json!({})).await.refusal(), (403, text.clone()));
        let status = caller.grpc().await.get_app_key(GetAppKeyRequest::default()).await.expect_err("denied");
        assert_eq!((status.code(), status.message()), (tonic::Code::PermissionDenied, &*text));
    }

    world.allowlist.change(|rules| rules["allowedTcbStatuses"] = json!(["UpToDate", "SWHardeningNeeded"]));
    let caller = world.caller().shows(&world.attested(&behind(TcbLevel::SwHardeningNeeded)).await);
    let refusal = caller.json("GetAppKey", json!({})).await.refusal();
    assert_eq!(refusal, (403, "App not allowed: Boot denied: advisory ID is not allowed".into()));
    world.allowlist.change(|rules| rules["allowedAdvisoryIds"] = json!(["INTEL-SA-00615"]));
    assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200);

    world.allowlist.change(|rules| {
        let app = &mut rules["apps"][hex::encode([1; 20])];
        app["allowAnyDevice"] = json!(false);
        app["devices"] = json!([hex::encode([0; 32])]);
    });
    let refusal = caller.json("GetAppKey", json!({})).await.refusal();
    let reason = "App not allowed: Boot denied: app is not allowed to boot on this device";
    assert_eq!(refusal, (403, reason.into()));
    world.allowlist.change(|rules| {
        rules["apps"][hex::encode([1; 20])]["devices"] = json!([hex::encode(world.platform.device_id())]);
    });
    assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200);
}

#[tokio::test]
async fn without_evidence_there_are_no_keys_however_one_asks() {
    let world = World::ready().await;
    for identity in [Identity::none(), world.unattested().await] {
        let caller = world.caller().shows(&identity);
        for (method, text) in [
            ("GetAppKey", "App not allowed: No attestation provided"),
            ("GetKmsKey", "No attestation provided"),
        ] {
            assert_eq!(caller.json(method, json!({})).await.refusal(), (401, text.into()));
            let answer = caller.protobuf(method, &GetAppKeyRequest::default()).await;
            let error: cvm_kms::proto::PrpcError = answer.decoded();
            assert_eq!((answer.status, &*error.message), (401, text));
        }
        let mut grpc = caller.grpc().await;
        let status = grpc.get_app_key(GetAppKeyRequest::default()).await.expect_err("refused");
        assert_eq!(status.code(), tonic::Code::Unauthenticated);
        assert_eq!(status.message(), "App not allowed: No attestation provided");
        let status = grpc.get_kms_key(GetKmsKeyRequest::default()).await.expect_err("refused");
        assert_eq!(
            (status.code(), status.message()),
            (tonic::Code::Unauthenticated, "No attestation provided")
        );
    }
    assert!(world.audited("app_key_released").is_empty());
}

/// Evidence with one fault each, and the caller's error.
fn bad_evidence(world: &World) -> Vec<(&'static str, P256Key, Evidence, &'static str)> {
    let app = world.app(1);
    let bound = |key: &P256Key| ReportData::ra_tls(&key.spki_der());
    let mut cases = Vec::new();
    let mut case = |name, reason, make: &dyn Fn(&P256Key) -> Evidence| {
        let key = P256Key::generate();
        let evidence = make(&key);
        cases.push((name, key, evidence, reason));
    };
    case("evidence of another key", "report data mismatch", &|_| {
        app.evidence(ReportData::ra_tls(&P256Key::generate().spki_der()))
    });
    case("evidence over zeros", "report data mismatch", &|_| app.evidence(ReportData::ZERO));
    case("a quote over something else", "tdx report_data mismatch", &|key| {
        app.evidence_of(bound(key), |report| report.report_data = [7; 64])
    });
    case("a claimed binding", "tdx report_data mismatch", &|key| {
        let mut evidence = app.evidence(ReportData::ZERO);
        evidence.stack.report_data = bound(key).0.to_vec();
        evidence
    });
    case(
        "a flipped bit in the quote",
        "failed to verify TDX quote: ISV enclave report signature is invalid",
        &|key| {
            let mut evidence = app.evidence(bound(key));
            let Platform::Tdx(tdx) = &mut evidence.platform else { unreachable!("a TDX guest") };
            tdx.quote[48 + 136] ^= 1;
            evidence
        },
    );
    case("a debug TD", "failed to verify TDX quote: Debug mode is enabled", &|key| {
        app.evidence_of(bound(key), |report| report.td_attributes |= TdReport::DEBUG)
    });
    case(
        "a TD without SEPT_VE_DISABLE",
        "failed to verify TDX quote: SEPT_VE_DISABLE is not enabled",
        &|key| app.evidence_of(bound(key), |report| report.td_attributes = 0),
    );
    case("a foreign TDX module", "failed to verify TDX quote: TDX module identity check: ", &|key| {
        app.evidence_of(bound(key), |report| report.mr_signer_seam = [1; 48])
    });
    case("another RTMR3", "RTMR3 mismatch, quoted: ", &|key| {
        app.evidence_of(bound(key), |report| report.rt_mr3 = [0; 48])
    });
    case("events that were not measured", "RTMR3 mismatch, quoted: ", &|key| {
        let mut evidence = app.evidence(bound(key));
        evidence.stack.runtime_events[1].payload = vec![2; 20];
        evidence
    });
    case("a service TD", "failed to verify TDX quote: Invalid MR service TD", &|key| {
        let cvm = Cvm::builder(&world.platform).format(QuoteFormat::V5Td15).build();
        cvm.evidence_of(bound(key), |report| report.mr_service_td = [1; 48])
    });
    case("a revoked platform", "failed to verify TDX quote: TCB status is invalid: Revoked", &|key| {
        Cvm::builder(&world.platform).tcb(TcbLevel::Revoked).build().evidence(bound(key))
    });
    case(
        "another vendor's root",
        "failed to verify TDX quote: Failed to verify certificate chain: ",
        &|key| {
            let platform = kms_simulator::Platform::from_seed(b"not ours");
            Cvm::builder(&platform).build().evidence(bound(key))
        },
    );
    for (name, platform, reason) in [
        (
            "SEV-SNP",
            Platform::SevSnp { report: vec![0; 1184], cert_chain: Vec::new(), mr_config: String::new() },
            "verification of sev-snp evidence is not supported",
        ),
        (
            "Nitro Enclave",
            Platform::NitroEnclave { nsm_quote: vec![1] },
            "verification of nitro-enclave evidence is not supported",
        ),
        (
            "NitroTPM",
            Platform::AwsNitroTpm { attestation_doc: vec![1] },
            "verification of aws-nitro-tpm evidence is not supported",
        ),
        (
            "GCP TDX",
            Platform::GcpTdx { tdx: kms_attest::evidence::Tdx::default(), tpm: tpm_quote() },
            "verification of gcp-tdx evidence is not supported",
        ),
    ] {
        case(name, reason, &|key| Evidence { platform: platform.clone(), ..app.evidence(bound(key)) });
    }
    cases
}

fn tpm_quote() -> TpmQuote {
    TpmQuote {
        message: vec![1],
        signature: vec![2],
        pcr_values: Vec::new(),
        ak_cert: Vec::new(),
        platform: TpmPlatform::Gcp,
        event_log: Vec::new(),
    }
}

#[tokio::test]
async fn evidence_that_does_not_hold_is_refused_by_name_and_nothing_is_released() {
    let world = World::ready().await;
    world.allow_app(&world.app(1));
    world.allow_kms(&world.app(1));
    let temp_ca = world.temp_ca().await;
    for (name, key, evidence, reason) in bad_evidence(&world) {
        let caller = world.caller().shows(&Identity::with_evidence(&temp_ca, &key, &evidence));
        for method in ["GetAppKey", "GetKmsKey"] {
            let (status, text) = caller.json(method, json!({})).await.refusal();
            assert_eq!(status, 401, "{name}: {text}");
            assert!(text.starts_with(&format!("invalid quote: {reason}")), "{name}: {text}");
        }
        let status = caller.grpc().await.get_app_key(GetAppKeyRequest::default()).await.expect_err(name);
        assert_eq!(status.code(), tonic::Code::Unauthenticated, "{name}");
    }
    assert!(world.audited("app_key_released").is_empty());
    assert!(world.audited("kms_key_released").is_empty());
}

#[tokio::test]
async fn evidence_that_does_not_decode_is_refused_and_only_where_it_is_needed() {
    let world = World::ready().await;
    let temp_ca = world.temp_ca().await;
    for (bytes, reason) in [
        (&[0x55, 1, 2][..], "unknown attestation wire format: first byte is 0x55"),
        (&[0x00], "attestation in SCALE form does not decode: "),
        (&[0x80], "attestation in MessagePack form does not decode: "),
        (&[], "attestation is empty"),
    ] {
        let identity = Identity::with_evidence_bytes(&temp_ca, &P256Key::generate(), bytes);
        let caller = world.caller().shows(&identity);
        let (status, text) = caller.json("GetAppKey", json!({})).await.refusal();
        assert_eq!(status, 401, "{text}");
        assert!(text.starts_with(&format!("invalid quote: the attestation extension: {reason}")), "{text}");
        for (method, body) in [
            ("GetMeta", json!({})),
            ("GetTempCaCert", json!({})),
            ("GetAppEnvEncryptPubKey", json!([hex::encode([1; 20])])),
        ] {
            assert_eq!(caller.json(method, body).await.status, 200, "{method} needs no evidence");
        }
    }
}

#[tokio::test]
async fn root_keys_go_to_an_allowed_kms_and_to_nobody_else() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let caller = world.caller().shows(&world.attested(&app).await);
    let refusal = caller.json("GetKmsKey", json!({})).await.refusal();
    assert_eq!(refusal, (403, "Boot denied: aggregated MR not allowed".into()));
    let status = caller.grpc().await.get_kms_key(GetKmsKeyRequest::default()).await.expect_err("denied");
    assert_eq!(status.message(), "Boot denied: aggregated MR not allowed");

    let caller = world.caller().shows(&world.attested(&world.replica()).await);
    let by_json: KmsKeyResponse = caller.json("GetKmsKey", json!({})).await.message();
    let by_protobuf = caller.protobuf("GetKmsKey", &GetKmsKeyRequest::default()).await.decoded();
    let by_grpc =
        caller.grpc().await.get_kms_key(GetKmsKeyRequest::default()).await.expect("keys").into_inner();
    let root = world.root_keys();
    let temp_ca_key = std::fs::read_to_string(world.key_file("tmp-ca.key")).expect("key file");
    for handover in [by_json, by_protobuf, by_grpc] {
        let [keys] = handover.keys.as_slice() else { panic!("exactly one set") };
        assert_eq!(P256Key::from_pem(&keys.ca_key).expect("PEM").scalar(), root.ca().scalar());
        assert_eq!(keys.k256_key, root.k256().scalar());
        assert_eq!(handover.temp_ca_key, temp_ca_key);
    }
    let refusal = caller.json("GetAppKey", json!({})).await.refusal();
    assert_eq!(refusal, (403, "App not allowed: Boot denied: app not registered".into()));

    world.allowlist.change(|rules| {
        rules["kms"]["allowAnyDevice"] = json!(false);
        rules["kms"]["devices"] = json!([hex::encode([0; 32])]);
    });
    let (status, text) = caller.json("GetKmsKey", json!({})).await.refusal();
    assert_eq!(status, 403);
    let own = "KMS self authorization failed: KMS is not allowed: KMS is not allowed to boot on this device";
    assert_eq!(text, own, "the source and the replica are on one machine");
}

#[tokio::test]
async fn a_kms_that_is_not_allowed_itself_gives_nothing_but_its_description() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let caller = world.caller().shows(&world.attested(&app).await);
    let replica = world.caller().shows(&world.attested(&world.replica()).await);
    assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200);
    world.allowlist.change(|rules| rules["kms"]["mrAggregated"] = json!([]));

    let reason = "KMS self authorization failed: KMS is not allowed: aggregated MR not allowed";
    let expected = (403, reason.to_owned());
    assert_eq!(caller.json("GetAppKey", json!({})).await.refusal(), expected, "at once");
    assert_eq!(replica.json("GetKmsKey", json!({})).await.refusal(), expected, "at once");
    for (method, body) in
        [("GetTempCaCert", json!({})), ("GetAppEnvEncryptPubKey", json!({"app_id": hex::encode([1; 20])}))]
    {
        let refusal = eventually("the open methods notice", async || {
            let answer = world.caller().json(method, body.clone()).await;
            (answer.status != 200).then(|| answer.refusal())
        })
        .await;
        assert_eq!(refusal, expected, "{method}");
    }
    assert_eq!(world.caller().json("GetMeta", json!({})).await.status, 200);
}

#[tokio::test]
async fn every_release_and_every_denial_is_one_line_of_an_unbroken_chain() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let caller = world.caller().shows(&world.attested(&app).await);
    let mut line = caller.connect().await.expect("a connection");
    for _ in 0..3 {
        assert_eq!(line.json("GetAppKey", json!({})).await.status, 200);
    }
    let replica = world.caller().shows(&world.attested(&world.replica()).await);
    assert_eq!(replica.json("GetKmsKey", json!({})).await.status, 200);
    let denied = world.caller().shows(&world.attested(&world.app(2)).await);
    assert_eq!(denied.json("GetAppKey", json!({})).await.status, 403);

    eventually("the denial", async || (world.audited("denied").len() == 1).then_some(())).await;
    let released = world.audited("app_key_released");
    assert_eq!(released.len(), 3);
    for line in released {
        assert_eq!(line["app_id"], hex::encode(app.app_id()));
        assert_eq!(line["instance_id"], hex::encode(app.instance_id()));
        assert_eq!(line["compose_hash"], hex::encode(app.compose_hash()));
        assert_eq!(line["device_id"], hex::encode(world.platform.device_id()));
        assert_eq!(line["tcb_status"], "UpToDate");
        assert_eq!(line["remote"], "127.0.0.1");
    }
    assert_eq!(world.audited("kms_key_released").len(), 1);
    let denial = &world.audited("denied")[0];
    assert_eq!(denial["app_id"], hex::encode([2; 20]));
    assert_eq!(denial["reason"], "app not registered");

    let verified = audit::verify_file(&world.key_file("audit.jsonl")).expect("an unbroken chain");
    assert_eq!(verified.records, world.audit().len() as u64);
    let text = std::fs::read_to_string(world.key_file("audit.jsonl")).expect("audit log");
    let keys = expected_keys(&world, &app);
    for secret in [&keys.disk_crypt_key, &keys.env_crypt_key, &keys.k256_key] {
        assert!(!text.contains(&hex::encode(secret.expose())), "no secret is in the audit log");
    }
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_released() {
    let mut world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    world.start_without_room_for_audit().await;
    let app = world.caller().shows(&world.attested(&app).await);
    let replica = world.caller().shows(&world.attested(&world.replica()).await);
    let expected = (503, "the release cannot be recorded, so nothing is released".to_owned());
    for _ in 0..2 {
        assert_eq!(app.json("GetAppKey", json!({})).await.refusal(), expected);
        assert_eq!(replica.json("GetKmsKey", json!({})).await.refusal(), expected);
    }
    let status = app.grpc().await.get_app_key(GetAppKeyRequest::default()).await.expect_err("refused");
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert_eq!(world.caller().json("GetMeta", json!({})).await.status, 200);
}

#[tokio::test]
async fn a_connection_is_verified_once_and_the_next_one_asks_nobody() {
    // Without self-authorization nothing is fetched before the first app's request.
    let world = World::ready_with("core.enforce_self_authorization = false").await;
    let app = world.app(1);
    world.allow_app(&app);
    let caller = world.caller().shows(&world.attested(&app).await);
    assert_eq!(world.pccs.request_count(), 0);
    let verified = r#"cvm_kms_verifications_total{result="verified"}"#;

    let mut line = caller.connect().await.expect("a connection");
    for _ in 0..5 {
        assert_eq!(line.json("GetAppKey", json!({})).await.status, 200);
    }
    let fetched = world.pccs.request_count();
    assert!(fetched > 0);
    assert_eq!(world.metric(verified).await, Some(1.0));

    world.pccs.set_mode(PccsMode::Down);
    let other = world.app(2);
    world.allow_app(&other);
    for cvm in [&app, &other] {
        let caller = world.caller().shows(&world.attested(cvm).await);
        assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200);
    }
    assert_eq!(world.pccs.request_count(), fetched);
    assert_eq!(world.metric(verified).await, Some(3.0));
}

#[tokio::test]
async fn a_denial_is_not_remembered() {
    let world = World::ready().await;
    let app = world.app(1);
    let caller = world.caller().shows(&world.attested(&app).await);
    let mut line = caller.connect().await.expect("a connection");
    assert_eq!(line.json("GetAppKey", json!({})).await.status, 403);
    world.allow_app(&app);
    assert_eq!(line.json("GetAppKey", json!({})).await.status, 200, "the same connection");
}

#[tokio::test]
async fn versions_and_configurations_that_do_not_fit_are_refused() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let caller = world.caller().shows(&world.attested(&app).await);
    for version in [0, 1] {
        assert_eq!(caller.json("GetAppKey", json!({"api_version": version})).await.status, 200);
    }
    for version in [2_u32, u32::MAX] {
        let refusal = caller.json("GetAppKey", json!({"api_version": version})).await.refusal();
        assert_eq!(refusal, (400, format!("Unsupported API version: {version}")));
    }
    let stated = json!({"os_image_hash": hex::encode([9; 32])}).to_string();
    let refusal = caller.json("GetAppKey", json!({"vm_config": stated})).await.refusal();
    // The evidence has its own copy, which decides.
    let differs = "the vm_config of the request differs from the one in the attestation: os_image_hash";
    assert_eq!(refusal, (403, format!("App not allowed: {differs}")));
    assert_eq!(caller.json("GetAppKey", json!({"vm_config": app.vm_config()})).await.status, 200);
    let (status, text) = caller.json("GetAppKey", json!({"vm_config": "{"})).await.refusal();
    assert_eq!(status, 400, "{text}");
    assert!(text.starts_with("App not allowed: decode app info: "), "{text}");
}

#[tokio::test]
async fn an_app_without_an_app_id_of_20_bytes_is_nobody() {
    let world = World::ready().await;
    let template = world.app(1);
    for (id, got) in [(&[1; 19][..], 19), (&[1; 32], 32)] {
        let mut events = template.runtime_events();
        events[1].payload = id.to_vec();
        let cvm = Cvm::builder(&world.platform).runtime_events(events).build();
        let caller = world.caller().shows(&world.attested(&cvm).await);
        let refusal = caller.json("GetAppKey", json!({})).await.refusal();
        assert_eq!(refusal, (400, format!("App not allowed: app_id must be 20 bytes, got {got}")));
    }
}

#[tokio::test]
async fn an_identity_with_a_field_of_another_width_is_refused_before_policy_is_asked() {
    let world = World::ready().await;
    let template = world.app(1);
    world.allow_app(&template);
    for (event, payload, text) in [
        ("compose-hash", vec![1; 31], "compose_hash must be 32 bytes, got 31"),
        ("compose-hash", Vec::new(), "compose_hash must be 32 bytes, got 0"),
        ("instance-id", vec![1; 21], "instance_id must be 20 bytes or empty, got 21"),
    ] {
        let mut events = template.runtime_events();
        for found in events.iter_mut().filter(|found| found.event == event) {
            found.payload = payload.clone();
        }
        let cvm = Cvm::builder(&world.platform).runtime_events(events).build();
        let caller = world.caller().shows(&world.attested(&cvm).await);
        let refusal = caller.json("GetAppKey", json!({})).await.refusal();
        assert_eq!(refusal, (400, format!("App not allowed: {text}")));
    }
    // The evidence of older guests has no configuration, so the request names the image.
    let cvm = Cvm::builder(&world.platform).app_id(*template.app_id()).vm_config("").build();
    let caller = world.caller().shows(&world.attested(&cvm).await);
    let named = json!({"vm_config": json!({"os_image_hash": "09"}).to_string()});
    let refusal = caller.json("GetAppKey", named).await.refusal();
    let text = "App not allowed: os_image_hash must be 32 bytes or empty, got 1";
    assert_eq!(refusal, (400, text.to_owned()));
}

#[tokio::test]
async fn instances_share_all_keys_but_the_disk_key() {
    let world = World::ready().await;
    let instance = |id: &[u8]| {
        Cvm::builder(&world.platform).app_id([1; 20]).compose_hash([1; 32]).instance_id(id).build()
    };
    world.allow_app(&world.app(1));
    let mut keys = Vec::new();
    for id in [&[1; 20][..], &[2; 20], &[]] {
        let caller = world.caller().shows(&world.attested(&instance(id)).await);
        keys.push(caller.json("GetAppKey", json!({})).await.message::<AppKeyResponse>());
    }
    let [first, second, without] = keys.as_slice() else { panic!("three answers") };
    for other in [second, without] {
        assert_eq!(first.env_crypt_key, other.env_crypt_key);
        assert_eq!(first.k256_key, other.k256_key);
        assert_ne!(first.disk_crypt_key, other.disk_crypt_key);
    }
    assert_ne!(second.disk_crypt_key, without.disk_crypt_key);
}

#[tokio::test]
async fn guests_of_every_quote_format_and_a_self_issued_certificate_are_served() {
    let world = World::ready().await;
    for format in QuoteFormat::ALL {
        let app = Cvm::builder(&world.platform).app_id([1; 20]).compose_hash([1; 32]).format(format).build();
        world.allow_app(&app);
        for identity in [Identity::self_issued(&app), world.attested(&app).await] {
            let answer = world.caller().shows(&identity).json("GetAppKey", json!({})).await;
            assert_eq!(answer.status, 200, "{format:?}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn an_app_and_an_instance_have_a_share_and_others_are_not_held_up() {
    let limits =
        "[core.limits]\napp_per_second = 1\napp_burst = 5\ninstance_per_second = 1\ninstance_burst = 3";
    let world = World::ready_with(limits).await;
    let instance = |app: u8, seed: u8| {
        kms_simulator::Cvm::builder(&world.platform)
            .app_id([app; 20])
            .compose_hash([app; 32])
            .instance_id(&[seed; 20])
            .build()
    };
    let text = |who: &str| (429, format!("too many requests of this {who}; slow down"));
    let ask = async |cvm: &kms_simulator::Cvm, times: usize| {
        let caller = world.caller().shows(&world.attested(cvm).await);
        let mut line = caller.connect().await.expect("a connection");
        let mut answers = Vec::new();
        for _ in 0..times {
            answers.push(line.json("GetAppKey", json!({})).await);
        }
        answers
    };
    let is_refused =
        |answer: &crate::support::Answer, who: &str| answer.status == 429 && answer.refusal() == text(who);
    world.allow_app(&instance(1, 1));
    world.allow_app(&instance(2, 1));
    let mut answers = ask(&instance(1, 1), 12).await;
    assert!(answers[..3].iter().all(|answer| answer.status == 200), "{answers:?}");
    let limited = answers.iter().find(|answer| is_refused(answer, "instance")).expect("a share of three");
    assert_eq!(limited.header("retry-after"), "1");
    for number in 2..=8 {
        answers.extend(ask(&instance(1, number), 3).await);
    }
    assert!(answers.iter().any(|answer| is_refused(answer, "app")), "a share of five: {answers:?}");
    let other = ask(&instance(2, 1), 1).await;
    assert_eq!(other[0].status, 200, "another app: {other:?}");
    let released = world.audited("app_key_released").len();
    let answered = answers.iter().chain(&other).filter(|answer| answer.status == 200).count();
    assert_eq!(released, answered, "what is refused leaves no line");
    let metrics = world.caller().get("/metrics").await;
    for limit in ["app_per_second", "instance_per_second"] {
        assert!(metrics.text().contains(&format!("cvm_kms_shed_total{{limit=\"{limit}\"}}")), "{limit}");
    }
}

#[tokio::test]
async fn keys_are_released_at_the_stages_that_are_configured_or_that_the_apps_entry_says() {
    for (configured, of_app, after_boot) in [
        ("", None, 200),
        ("core.release_stage = \"any\"", None, 200),
        ("core.release_stage = \"any\"", Some("boot"), 403),
        ("core.release_stage = \"boot\"", None, 403),
        ("core.release_stage = \"boot\"", Some("any"), 200),
    ] {
        let world = World::ready_with(configured).await;
        let app = world.app(1);
        world.allow_app(&app);
        if let Some(stage) = of_app {
            world.allowlist.change(|rules| {
                rules["apps"][hex::encode(app.app_id())]["releaseStage"] = json!(stage);
            });
        }
        let case = format!("{configured} {of_app:?}");
        let booting = world.caller().shows(&world.attested(&app).await);
        assert_eq!(booting.json("GetAppKey", json!({})).await.status, 200, "{case}");
        app.finish_boot(&kms_simulator::KeyProvider::None);
        let running = world.caller().shows(&world.attested(&app).await);
        let answer = running.json("GetAppKey", json!({})).await;
        assert_eq!(answer.status, after_boot, "{case}: {answer:?}");
        let released = world.audited("app_key_released");
        let stages: Vec<_> = released.iter().map(|line| line["stage"].clone()).collect();
        let rule = match of_app {
            Some(stage) => format!("releaseStage {stage}"),
            None if configured.contains("boot") => "core.release_stage boot".to_owned(),
            None => "core.release_stage any".to_owned(),
        };
        assert!(released.iter().all(|line| line["stage_rule"] == rule.as_str()), "{case}: {released:?}");
        if after_boot == 200 {
            assert_eq!(stages, ["boot", "running"], "{case}");
        } else {
            let text = "App not allowed: Boot denied: keys are released to a guest that boots, and this evidence is from \
                        after system-ready";
            assert_eq!(
                (answer.value()["error"].clone(), answer.value()["code"].clone()),
                (json!(text), json!("guest_has_booted"))
            );
            assert_eq!(stages, ["boot"], "{case}");
            let denied = eventually("its record", async || world.audited("denied").pop()).await;
            assert_eq!(denied["stage_rule"], rule.as_str(), "{case}");
            // Evidence from before system-ready is still accepted.
            assert_eq!(booting.json("GetAppKey", json!({})).await.status, 200, "{case}");
        }
        // Certificates are also issued to guests that have booted.
        let key = P256Key::generate();
        let request = certificate_request(&app, &key);
        assert_eq!(world.caller().json("SignCert", request).await.status, 200, "{case}");
        assert_eq!(world.audited("certificate_issued")[0]["stage_rule"], json!(null), "{case}");
    }
}

#[tokio::test]
async fn an_entry_with_an_unknown_release_stage_makes_the_file_unusable() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let caller = world.caller().shows(&world.attested(&app).await);
    assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200);
    world.allowlist.change(|rules| {
        rules["apps"][hex::encode(app.app_id())]["releaseStage"] = json!("never");
    });
    eventually("the file is read again", async || {
        (caller.json("GetAppKey", json!({})).await.status == 403).then_some(())
    })
    .await;
}
