//! Boots from test servers that a guest may trust, and from others.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use kms_attest::p256::P256Key;
use kms_attest::ra_tls;
use kms_attest::verify::{Binding, Verifier};
use serde_json::{Value, json};
use tokio::net::TcpSocket;

use super::*;
use crate::testing::{Authority, Leaf, Reply, TestServer, World};

const VM_CONFIG: &str = r#"{"spec_version":1}"#;

/// The method and client certificate of each call.
type Log = Arc<Mutex<Vec<(String, Option<Vec<u8>>)>>>;

/// A KMS that releases keys, possibly altered, and the calls it received.
struct Kms {
    server: TestServer,
    calls: Log,
}

impl Kms {
    async fn start(leaves: &[Leaf], alter: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        let calls = Log::default();
        let log = Arc::clone(&calls);
        let server =
            TestServer::start(Arc::new(Authority::new()), leaves, &["h2"], move |authority, call| {
                // Every guest asks for a challenge; this KMS knows none.
                if call.method == "GetChallenge" {
                    return Reply::Status(404, Vec::new());
                }
                log.lock().expect("log").push((call.method.clone(), call.client.clone()));
                match call.method.as_str() {
                    "GetTempCaCert" => Reply::Json(authority.temp_ca_answer()),
                    "GetAppKey" => {
                        let expected = json!({"api_version": 1, "vm_config": VM_CONFIG});
                        assert_eq!(serde_json::from_slice::<Value>(&call.body).expect("json"), expected);
                        let mut answer = json!({
                            "ca_cert": authority.root_pem,
                            "disk_crypt_key": "01".repeat(32),
                            "env_crypt_key": "02".repeat(32),
                            "k256_key": "03".repeat(32),
                            "k256_signature": "04".repeat(65),
                            "gateway_app_id": "any",
                        });
                        alter(&mut answer);
                        Reply::Json(answer)
                    }
                    _ => Reply::Status(404, Vec::new()),
                }
            })
            .await;
        Self { server, calls }
    }

    fn urls(&self) -> [KmsUrl; 1] {
        [self.server.url.clone()]
    }

    fn was_asked_for_keys(&self) -> bool {
        self.calls.lock().expect("log").iter().any(|(method, _)| method == "GetAppKey")
    }
}

fn guest(world: &World) -> Guest<'_> {
    Guest {
        epochs: None,
        attester: &world.attester,
        attestation: ServerAttestation::IfPresent(&world.verifier),
        vm_config: VM_CONFIG,
        key_provider_pin: None,
    }
}

async fn fetch(urls: &[KmsUrl], world: &World) -> Result<AppKeys, BootError> {
    let attestation = ServerAttestation::IfPresent(&world.verifier);
    fetch_app_keys(urls, &world.attester, attestation, VM_CONFIG, None).await
}

async fn refusal(kms: &Kms, world: &World) -> AttemptError {
    match fetch(&kms.urls(), world).await.expect_err("refused") {
        BootError::AllFailed(mut attempts) => attempts.remove(0).error,
        error => panic!("{error}"),
    }
}

#[tokio::test]
async fn keys_come_to_a_caller_that_proves_what_it_runs() {
    let world = World::start().await;
    let kms = Kms::start(&[Leaf::kms()], |_| ()).await;
    let keys = fetch(&kms.urls(), &world).await.expect("keys");
    assert_eq!(keys.response.disk_crypt_key, [1; 32]);
    assert_eq!(keys.key_provider, kms.server.authority.root.spki_der());
    assert!(keys.server.is_none() && keys.failed.is_empty());

    let calls = kms.calls.lock().expect("log").clone();
    let [(_, None), (_, Some(certificate))] = &calls[..] else { panic!("{} calls", calls.len()) };
    let evidence = ra_tls::evidence_in(certificate).expect("certificate").expect("evidence");
    let key = ra_tls::spki_of(certificate).expect("key");
    world.verifier.verify(&evidence, Binding::PublicKey(&key)).await.expect("bound to the connection's key");
}

#[tokio::test]
async fn fresh_evidence_is_brought_wherever_challenges_are_given_whatever_else_is_said() {
    let world = World::start().await;
    let nonce = "07".repeat(32);
    let unknown = br#"{"error": "Service not found: GetChallenge"}"#.to_vec();
    type Answer = Box<dyn Fn() -> Reply + Send + Sync>;
    let given = json!({ "nonce": nonce, "expires_in": 30 });
    let cases: [(&str, Answer, Result<bool, &str>); 6] = [
        ("a challenge", Box::new(move || Reply::Json(given.clone())), Ok(true)),
        ("dstack-kms", Box::new(|| Reply::Status(404, Vec::new())), Ok(false)),
        ("an old server", Box::new(move || Reply::Status(400, unknown.clone())), Ok(false)),
        (
            "TLS 1.2 at the server",
            Box::new(|| Reply::Json(json!({ "nonce": "", "expires_in": 0 }))),
            Ok(false),
        ),
        (
            "a fault",
            Box::new(|| Reply::Status(503, Vec::new())),
            Err("GetChallenge: the server answered 503"),
        ),
        (
            "a short challenge",
            Box::new(|| Reply::Json(json!({ "nonce": "0707", "expires_in": 30 }))),
            Err("GetChallenge: the answer lacks nonce of 32 bytes"),
        ),
    ];
    for (what, answer, expected) in cases {
        let asked = Arc::<Mutex<Option<Value>>>::default();
        let body = Arc::clone(&asked);
        let reply = move |authority: &Authority, call: crate::testing::Call| match call.method.as_str() {
            "GetTempCaCert" => Reply::Json(authority.temp_ca_answer()),
            // Nothing that a server says of what it requires has a guest bring less.
            "GetMeta" => Reply::Json(json!({ "require_fresh": "off" })),
            "GetChallenge" => answer(),
            _ => {
                *body.lock().expect("body") = Some(serde_json::from_slice(&call.body).expect("JSON"));
                Reply::Status(403, br#"{"error": "no keys"}"#.to_vec())
            }
        };
        let server = TestServer::start(Arc::new(Authority::new()), &[Leaf::kms()], &["h2"], reply).await;
        let error = match fetch(std::slice::from_ref(&server.url), &world).await.expect_err("no keys") {
            BootError::AllFailed(mut attempts) => attempts.remove(0).error.to_string(),
            error => panic!("{error}"),
        };
        let asked = asked.lock().expect("body").take();
        match expected {
            Ok(is_fresh) => {
                let asked = asked.expect(what);
                assert_eq!(asked["challenge"] == nonce.as_str(), is_fresh, "{what}: {asked}");
                let evidence = asked["fresh_evidence"].as_str().unwrap_or_default();
                assert_eq!(!evidence.is_empty(), is_fresh, "{what}");
            }
            Err(text) => {
                assert!(error.starts_with(text), "{what}: {error}");
                assert_eq!(asked, None, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_is_no_kms_is_not_asked_for_keys() {
    let world = World::start().await;
    for (usage, expected) in [
        (None, "missing server cert usage"),
        (Some("app:custom"), "Invalid server cert usage: app:custom"),
        (Some("kms:rpc "), "Invalid server cert usage: kms:rpc"),
        (Some("app:ca"), "Invalid server cert usage: app:ca"),
    ] {
        let kms = Kms::start(&[Leaf { usage, ..Leaf::kms() }], |_| ()).await;
        assert_eq!(refusal(&kms, &world).await.to_string(), expected);
        assert!(!kms.was_asked_for_keys());
    }
}

#[tokio::test]
async fn an_attestation_that_is_there_must_verify() {
    let world = World::start().await;
    let kms = Kms::start(&[world.attested_leaf()], |_| ()).await;
    let keys = fetch(&kms.urls(), &world).await.expect("keys");
    assert_eq!(keys.server.expect("attested").tcb_status(), "UpToDate");

    let stolen = world.attested_leaf().evidence;
    for evidence in [stolen, Some(vec![0xff; 40])] {
        let kms = Kms::start(&[Leaf { evidence, ..Leaf::kms() }], |_| ()).await;
        let error = refusal(&kms, &world).await;
        assert!(matches!(error, AttemptError::Server(_)), "{error}");
        assert!(!kms.was_asked_for_keys());
    }
}

#[tokio::test]
async fn an_attestation_that_is_required_must_be_there() {
    let world = World::start().await;
    let kms = Kms::start(&[Leaf::kms()], |_| ()).await;
    let attestation = ServerAttestation::Required(&world.verifier);
    let error = fetch_app_keys(&kms.urls(), &world.attester, attestation, VM_CONFIG, None)
        .await
        .expect_err("required");
    assert!(error.to_string().ends_with("the server certificate does not contain attestation"), "{error}");
    assert!(!kms.was_asked_for_keys());
}

#[tokio::test]
async fn a_second_connection_to_somebody_else_is_refused() {
    let world = World::start().await;
    let kms = Kms::start(&[Leaf::kms(), Leaf { names: vec![], ..Leaf::kms() }], |_| ()).await;
    let error = refusal(&kms, &world).await;
    assert!(matches!(error, AttemptError::Connect(ConnectError::Tls(_))), "{error}");
    assert!(!kms.was_asked_for_keys());
}

#[tokio::test]
async fn a_pinned_key_provider_is_compared_before_anything_is_proved() {
    let world = World::start().await;
    let kms = Kms::start(&[Leaf::kms()], |_| ()).await;
    let urls = kms.urls();
    let attestation = ServerAttestation::IfPresent(&world.verifier);
    let right = kms.server.authority.root.spki_der();
    fetch_app_keys(&urls, &world.attester, attestation, VM_CONFIG, Some(&right)).await.expect("keys");

    kms.calls.lock().expect("log").clear();
    let wrong = P256Key::generate().spki_der();
    let error = fetch_app_keys(&urls, &world.attester, attestation, VM_CONFIG, Some(&wrong))
        .await
        .expect_err("another key provider");
    assert!(error.to_string().ends_with("the root CA of this KMS is not the pinned key provider"), "{error}");
    assert_eq!(kms.calls.lock().expect("log").len(), 1);
}

#[tokio::test]
async fn impossible_keys_are_refused() {
    let world = World::start().await;
    for (field, value, expected) in [
        ("disk_crypt_key", json!(""), "GetAppKey: disk_crypt_key must be 32 bytes, got 0"),
        ("env_crypt_key", json!("00"), "GetAppKey: env_crypt_key must be 32 bytes, got 1"),
        ("k256_key", json!("00".repeat(33)), "GetAppKey: k256_key must be 32 bytes, got 33"),
        ("k256_signature", json!("00".repeat(64)), "GetAppKey: k256_signature must be 65 bytes, got 64"),
        ("ca_cert", json!("text"), "GetAppKey: ca_cert is not exactly one certificate in PEM"),
        (
            "ca_cert",
            json!(Authority::new().root_pem),
            "GetAppKey: ca_cert has another key than that of GetTempCaCert",
        ),
    ] {
        let kms = Kms::start(&[Leaf::kms()], move |answer| answer[field] = value.clone()).await;
        assert_eq!(refusal(&kms, &world).await.to_string(), expected);
    }
}

#[tokio::test]
async fn the_next_kms_is_asked_when_one_fails_and_each_reason_is_kept() {
    let world = World::start().await;
    // Bound and not listening, so that no other server gets the port.
    let closed = TcpSocket::new_v4().expect("a socket");
    closed.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("loopback");
    let down: KmsUrl = format!("https://{}", closed.local_addr().expect("address")).parse().expect("url");
    let refusing =
        TestServer::answering(|| Reply::Status(403, br#"{"error": "App not allowed"}"#.to_vec())).await;
    let kms = Kms::start(&[Leaf::kms()], |_| ()).await;

    let urls = [down.clone(), refusing.url.clone(), kms.server.url.clone()];
    let keys = fetch(&urls, &world).await.expect("keys of the third");
    assert_eq!(keys.url, kms.server.url);
    assert_eq!(keys.failed.len(), 2);

    let error = fetch(&urls[..2], &world).await.expect_err("none").to_string();
    let reason = format!("{}: GetTempCaCert: the server answered 403: App not allowed", refusing.url);
    assert!(error.starts_with(&format!("no KMS released the keys: {down}: connection failed: ")), "{error}");
    assert!(error.ends_with(&reason), "{error}");
}

#[tokio::test]
async fn a_busy_kms_is_asked_again_when_it_wants_it_and_not_for_ever() {
    let world = World::start().await;
    let refusing =
        TestServer::answering(|| Reply::Status(403, br#"{"error": "App not allowed"}"#.to_vec())).await;
    // How often it is busy, what it says of when to come, how often it is asked, and whether it answers in the end.
    for (busy, seconds, asked, answers) in [
        (2, "0", 3, true),
        (MAX_RETRIES, "0", MAX_RETRIES + 1, true),
        (100, "0", MAX_RETRIES + 1, false),
        // Longer than all the time that there is.
        (100, "4294967295", 1, false),
        (100, "Wed, 21 Oct 2026 07:28:00 GMT", 1, false),
        (100, "-1", 1, false),
    ] {
        let calls = Arc::new(Mutex::new(0));
        let count = Arc::clone(&calls);
        let server =
            TestServer::start(Arc::new(Authority::new()), &[Leaf::kms()], &["h2"], move |_, call| {
                if call.method != "GetTempCaCert" {
                    return Reply::Status(404, Vec::new());
                }
                let mut count = count.lock().expect("count");
                *count += 1;
                match *count <= busy {
                    true => Reply::Busy(seconds),
                    // The end of the boot is another test's.
                    false => Reply::Status(403, br#"{"error": "now it answers"}"#.to_vec()),
                }
            })
            .await;
        let guest = guest(&world);
        let altogether = Duration::from_secs(30);
        let urls = [refusing.url.clone(), server.url.clone()];
        let error = guest.boot(&urls, altogether, altogether).await.expect_err("no keys");
        let BootError::AllFailed(attempts) = error else { panic!("{error}") };
        assert_eq!(*calls.lock().expect("count"), asked, "{busy} {seconds}");
        let urls: Vec<_> = attempts.iter().map(|attempt| &attempt.url).collect();
        assert_eq!(urls, [&refusing.url, &server.url], "each once: who only refuses is not asked again");
        assert_eq!(attempts[1].error.to_string().contains("now it answers"), answers, "{busy} {seconds}");
    }
}

#[test]
fn a_pause_is_what_the_kms_wants_or_up_to_half_more() {
    for seconds in [0, 1, 10, 60] {
        let pause = Duration::from_secs(seconds);
        assert!((0..50).all(|_| (pause..=pause * 3 / 2).contains(&jittered(pause))), "{seconds}");
    }
    assert!(jittered(Duration::MAX) <= MAX_PAUSE * 3 / 2);
    let seen: std::collections::BTreeSet<_> = (0..20).map(|_| jittered(MAX_PAUSE)).collect();
    assert!(seen.len() > 10, "guests that were told the same come at different times");
}

#[tokio::test]
async fn without_urls_nothing_is_tried() {
    let world = World::start().await;
    assert!(matches!(fetch(&[], &world).await, Err(BootError::NoUrls)));
}

#[tokio::test]
async fn a_silent_kms_costs_its_share_of_time_only() {
    let world = World::start().await;
    let silent = TestServer::answering(|| Reply::Hang).await;
    let kms = Kms::start(&[Leaf::kms()], |_| ()).await;
    let guest = guest(&world);
    let (silent, kms) = (silent.url.clone(), kms.server.url.clone());
    let share = Duration::from_secs(4);
    let keys = guest
        .boot(&[silent.clone(), kms.clone()], share, Deadlines::default().altogether)
        .await
        .expect("keys");
    assert!(matches!(keys.failed[0].error, AttemptError::OutOfTime));

    let error = guest
        .boot(&[silent, kms], Deadlines::default().altogether, share)
        .await
        .expect_err("all time used up");
    assert_eq!(error.to_string().matches("out of time").count(), 2, "{error}");
}

#[test]
fn a_boot_can_be_awaited_anywhere() {
    fn assert_send<T: Send>(_: impl FnOnce(&'static [KmsUrl], &'static Attester, &'static Verifier) -> T) {}
    assert_send(|urls, attester, verifier| {
        fetch_app_keys(urls, attester, ServerAttestation::Required(verifier), "", None)
    });
}
