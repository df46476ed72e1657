//! Root keys through the admin listener of a source: only for a replica that is attested and allowed, and
//! whose operator has credentials there.

use serde_json::json;

use super::Node;
use crate::support::http::{json, post, with};
use crate::support::program::Setting;
use crate::support::{Answer, Caller, Identity};

const TOKEN: &str = "s3cret-t0ken-of-the-source";
const WRONG_TOKEN: &str = "s3cret-t0ken-of-another";
const DISABLED: &str = "public KMS key handover is disabled; use the admin listener";

/// The certificate of the admin listener.
#[derive(Clone, Copy, Debug)]
enum Files {
    /// That of the main listener.
    Main,
    /// One that the root CA issues.
    Created,
}

/// A KMS with keys that hands them over on its admin listener only, with a full log.
async fn source(files: Files) -> Node {
    let mut setting = Setting::with(&format!(
        "core.admin.auth_token = \"{TOKEN}\"\ncore.onboard.public_key_handover = false"
    ))
    .await;
    let world = &setting.world;
    let (key, certs, creates) = match files {
        Files::Main => (world.key_file("rpc.key"), world.key_file("rpc.crt"), false),
        Files::Created => (world.path("admin/tls.key"), world.path("admin/tls.crt"), true),
    };
    setting.configure(&format!(
        "core.admin.tls = {{ key = {key:?}, certs = {certs:?}, create_if_missing = {creates} }}"
    ));
    let node = logging(setting).await;
    let answer = node.caller().plain().json("Bootstrap", json!({ "domain": "localhost" })).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    node.finish().await;
    node
}

async fn logging(setting: Setting) -> Node {
    let program = Some(setting.start_logging("trace").await);
    Node { setting, program }
}

async fn onboard(replica: &Node, url: &str, token: Option<&str>) -> Answer {
    let mut body = json!({ "source_url": url, "domain": "replica.example" });
    if let Some(token) = token {
        body["source_token"] = json!(token);
    }
    replica.caller().plain().json("Onboard", body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn onboard_005_root_keys_come_through_the_admin_listener_and_the_token_is_in_no_log() {
    for files in [Files::Main, Files::Created] {
        let source = source(files).await;
        let admin = format!("https://{}", source.setting.admin);
        let replica = logging(Setting::with("").await).await;
        for (what, url, token, status, expected) in [
            ("a closed door", source.url(), None, 403, DISABLED),
            ("a token at the wrong door", source.url(), Some(TOKEN), 403, DISABLED),
            (
                "the admin listener without a token",
                admin.clone(),
                None,
                403,
                "GetTempCaCert: the server answered 401",
            ),
            ("another token", admin.clone(), Some(WRONG_TOKEN), 403, "GetKmsKey: the server answered 401"),
            (
                "a token that is none",
                admin.clone(),
                Some("two\nlines"),
                400,
                "source_token: a token is one line",
            ),
            (
                "plain HTTP",
                admin.replace("https", "http"),
                Some(TOKEN),
                400,
                "the URL of a KMS starts with https://",
            ),
        ] {
            let answer = onboard(&replica, &url, token).await;
            let (got, text) = answer.refusal();
            assert_eq!(got, status, "{files:?}, {what}: {text}");
            assert!(text.starts_with("Failed to onboard: ") && text.contains(expected), "{what}: {text}");
            for name in ["root-ca.key", "root-k256.key", "tmp-ca.key"] {
                assert!(!replica.setting.world.key_file(name).exists(), "{files:?}, {what}: {name}");
            }
        }
        assert!(source.setting.world.audited("kms_key_released").is_empty(), "{files:?}");

        let answer = onboard(&replica, &admin, Some(TOKEN)).await;
        assert_eq!(answer.status, 200, "{files:?}: {answer:?}");
        replica.finish().await;
        for name in ["root-ca.key", "root-k256.key", "tmp-ca.key"] {
            assert!(replica.file(name) == source.file(name), "{files:?}: {name}");
        }
        let (mut source, mut replica) = (source, replica);
        assert_eq!(source.setting.world.audited("kms_key_released").len(), 1, "{files:?}");
        for node in [&source, &replica] {
            let log = node.program.as_ref().expect("it runs").log();
            assert!(log.len() > 1000, "everything is logged");
            let audit = node.file("audit.jsonl");
            for text in [log.as_str(), &String::from_utf8_lossy(&audit)] {
                for secret in [TOKEN, WRONG_TOKEN, "two words"] {
                    assert!(!text.contains(secret), "{files:?}: {secret} is in a log");
                }
            }
        }
        source.stop().await;
        replica.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_listener_asks_for_credentials_and_evidence_both() {
    let source = source(Files::Created).await;
    let world = &source.setting.world;
    let (app, kms) = (world.app(1), world.replica());
    world.allow_app(&app);
    let admin = Caller::new(source.setting.admin);
    let nobody = Identity::none();
    let (app, kms) = (Identity::self_issued(&app), Identity::self_issued(&kms));
    for path in ["/prpc/GetKmsKey?json", "/prpc/Admin.GetKmsKey?json"] {
        for (what, identity, token, status, text) in [
            ("nothing", &nobody, None, 401, ""),
            ("a wrong token", &kms, Some(WRONG_TOKEN), 401, ""),
            ("a certificate without credentials", &kms, None, 401, ""),
            ("credentials without certificate", &nobody, Some(TOKEN), 401, "No attestation provided"),
            ("the certificate of an app", &app, Some(TOKEN), 403, "Boot denied: aggregated MR not allowed"),
        ] {
            let mut call = post(path, "{}");
            if let Some(token) = token {
                call = with(call, "authorization", &format!("Bearer {token}"));
            }
            let answer = admin.shows(identity).send(call).await;
            assert_eq!(answer.status, status, "{path}, {what}: {answer:?}");
            let told = if answer.body.is_empty() { String::new() } else { answer.refusal().1 };
            assert_eq!(told, text, "{path}, {what}");
        }
    }
    let signed = |call| with(call, "authorization", &format!("Bearer {TOKEN}"));
    let answer = admin.send(signed(json("GetTempCaCert", json!({})))).await;
    assert_eq!(answer.refusal(), (404, "Service not found: GetTempCaCert".to_owned()));
    // The other methods need no certificate.
    assert_eq!(admin.send(signed(json("ListFrozen", json!({})))).await.status, 200);
    assert!(admin.plain().try_send(signed(json("ListFrozen", json!({})))).await.is_err(), "no plain HTTP");

    let answer = admin.shows(&kms).send(signed(json("GetKmsKey", json!({})))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    // A denial has an id here too, as on the main listener.
    world.allowlist.write(&json!({}));
    let answer = admin.shows(&kms).send(signed(json("GetKmsKey", json!({})))).await;
    assert_eq!(answer.status, 403, "{answer:?}");
}
