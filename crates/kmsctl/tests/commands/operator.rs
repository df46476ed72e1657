//! The commands for operators: onboarding over plain HTTP and TLS, status, and what all commands have in
//! common.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kms_attest::certificate::{self, CertificateSpec, Issuer, LONG_AGO, Role, Validity};
use kms_attest::p256::P256Key;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::{Desk, Kms, Leaf, Reply, TestServer, World};

const TOKEN: &str = "the-token-of-the-operator";

/// A KMS without keys over plain HTTP, and the requests it received: path, `Authorization`, body.
struct Onboarding {
    url: String,
    seen: Arc<Mutex<Vec<[String; 3]>>>,
    task: JoinHandle<()>,
}

impl Drop for Onboarding {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Onboarding {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let seen: Arc<Mutex<Vec<[String; 3]>>> = Arc::default();
        let log = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let Ok((tcp, _)) = listener.accept().await else { return };
                let log = Arc::clone(&log);
                let service = service_fn(move |request| answer(request, Arc::clone(&log)));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service),
                );
            }
        });
        Self { url, seen, task }
    }

    fn seen(&self) -> Vec<[String; 3]> {
        self.seen.lock().expect("log").clone()
    }
}

async fn answer(
    request: Request<Incoming>,
    log: Arc<Mutex<Vec<[String; 3]>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let token = request.headers().get("authorization").map(|value| value.to_str().expect("text").to_owned());
    let body = request.into_body().collect().await.expect("body").to_bytes();
    let body = String::from_utf8(body.to_vec()).expect("text");
    let domain =
        serde_json::from_str::<Value>(&body).map(|value| value["domain"].clone()).unwrap_or_default();
    log.lock().expect("log").push([path.clone(), token.clone().unwrap_or_default(), body]);
    let (status, answer) = match path.as_str() {
        "/prpc/Onboard.GetAttestationInfo" => (
            200,
            json!({ "mr_aggregated": "a1", "os_image_hash": "b2", "device_id": "c3", "tee_variant": "dstack-tdx" }),
        ),
        "/prpc/Onboard.Bootstrap" | "/prpc/Onboard.Onboard" | "/prpc/Onboard.Finish"
            if token.as_deref() != Some(&format!("Bearer {TOKEN}")) =>
        {
            (401, json!({ "error": "this KMS asks for its onboarding token" }))
        }
        "/prpc/Onboard.Bootstrap" if domain == "bad_domain" => {
            (400, json!({ "error": "domain contains an invalid DNS label" }))
        }
        "/prpc/Onboard.Bootstrap" => {
            (200, json!({ "ca_pubkey": "3059", "k256_pubkey": "02ee", "attestation": "0102" }))
        }
        "/token-only/api/v1/setup/status" if token.is_none() => {
            (401, json!({ "error": "this KMS asks for its onboarding token" }))
        }
        "/token-only/api/v1/setup/status" | "/new/api/v1/setup/status" => (
            200,
            json!({ "mode": "onboarding", "serving_port": 9, "next": [{ "step": "bootstrap", "text": "call Bootstrap" }] }),
        ),
        "/prpc/Onboard.Onboard" => (200, json!({ "k256_pubkey": "02ee" })),
        "/prpc/Onboard.Finish" => (200, Value::Null),
        other => (404, json!({ "error": format!("Service not found: {other}") })),
    };
    let mut response = Response::new(Full::new(answer.to_string().into()));
    *response.status_mut() = http::StatusCode::from_u16(status).expect("status");
    Ok(response)
}

#[tokio::test]
async fn a_kms_is_bootstrapped_onboarded_and_finished() {
    let kms = Onboarding::start().await;
    let desk = Desk::default().with("KMS_URL", &kms.url);
    desk.write("token", format!("{TOKEN}\n"));
    let ran = desk
        .run(&["bootstrap", "--domain", "kms.example", "--token-file", "token", "--json"])
        .await
        .expect(0);
    let (report, ran) = (ran.json(), ran.says("UNVERIFIED"));
    for (name, expected) in [("ca_pubkey", "3059"), ("k256_pubkey", "02ee"), ("attestation", "0102")] {
        assert_eq!(report[name], expected, "{}", ran.out);
    }
    assert_eq!(report["verified"], false);
    let ran = desk.run(&["bootstrap", "--domain", "kms.example", "--token-file", "token"]).await.expect(0);
    assert!(ran.out.contains("key provider id") && ran.out.contains("UNVERIFIED: "), "{}", ran.out);

    let desk = desk.with("KMS_ONBOARD_TOKEN", TOKEN);
    let ran = desk
        .run(&["onboard", "--source", "https://kms.example:8000", "--domain", "kms2.example", "--json"])
        .await
        .expect(0);
    assert_eq!(ran.json(), json!({ "k256_pubkey": "02ee" }));
    let ran = desk.run(&["finish", "--wait", "0", "--json"]).await.expect(0);
    assert_eq!(ran.json()["finished"], true);

    let bearer = format!("Bearer {TOKEN}");
    let seen = kms.seen();
    assert!(seen.iter().all(|[_, token, _]| *token == bearer), "{seen:?}");
    assert_eq!(seen[0][2], r#"{"domain":"kms.example"}"#);
    let onboard: Value = serde_json::from_str(&seen[2][2]).expect("JSON");
    let source = "https://kms.example:8000/prpc";
    assert_eq!(onboard, json!({ "source_url": source, "domain": "kms2.example", "source_token": "" }));
}

#[tokio::test]
async fn refusals_and_bad_tokens_are_told_apart() {
    let kms = Onboarding::start().await;
    let desk = Desk::default().with("KMS_URL", &kms.url);
    let ran = desk.run(&["bootstrap", "--domain", "kms.example", "--json"]).await.expect(3);
    assert_eq!(
        ran.json()["error"],
        "Onboard.Bootstrap: the server answered 401: this KMS asks for its onboarding token"
    );
    desk.write("token", "another-token");
    let ran = desk.run(&["bootstrap", "--domain", "kms.example", "--token-file", "token"]).await.expect(3);
    ran.says("the token that was sent is not the one of this KMS");
    desk.write("token", TOKEN);
    let ran = desk.run(&["bootstrap", "--domain", "bad_domain", "--token-file", "token"]).await.expect(3);
    ran.says("domain contains an invalid DNS label");
    desk.write("token", "two\nlines");
    let ran = desk.run(&["bootstrap", "--domain", "kms.example", "--token-file", "token"]).await.expect(2);
    let ran = ran.says("token: a token is one line of visible ASCII characters");
    assert!(!ran.err.contains("two"), "{}", ran.err);
    desk.run(&["finish", "--token-file", "missing"]).await.expect(2).says("missing: No such file");
    let ran = desk.run(&["onboard", "--source", "http://kms.example", "--domain", "x"]).await.expect(2);
    ran.says("the URL of a KMS starts with https://");
    desk.run(&["finish", "--kms", "http://127.0.0.1:1"])
        .await
        .expect(1)
        .says("http://127.0.0.1:1/prpc: connection failed");
    let over_tls = kms.url.replace("http://", "https://");
    let ran = desk.run(&["finish", "--kms", &over_tls]).await.expect(4);
    ran.says("TLS handshake failed").says("plain HTTP is spoken there: try http://");
    for word in ["--token", "--password"] {
        desk.run(&["finish", word, TOKEN]).await.expect(2).says("unexpected argument");
    }
}

#[tokio::test]
async fn onboarding_over_tls_reaches_a_certificate_that_nobody_vouches_for() {
    let server = TestServer::answering(|| Reply::Json(json!({ "k256_pubkey": "02ee" }))).await;
    let desk = Desk::default();
    let url = server.url.to_string();
    let arguments = ["onboard", "--kms", &url, "--source", "https://kms.example", "--domain", "kms2.example"];
    let ran = desk.run(&arguments).await.expect(0).says("is an unverified server");
    assert!(ran.out.contains("02ee"), "{}", ran.out);
}

/// A server that counts requests.
async fn counting(answer: Value) -> (TestServer, Leaf, Arc<Mutex<Vec<String>>>) {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let (log, leaf) = (Arc::clone(&asked), Leaf::kms());
    let authority = Arc::new(crate::support::Authority::new());
    let server =
        TestServer::start(authority, std::slice::from_ref(&leaf), &["h2", "http/1.1"], move |_, call| {
            log.lock().expect("log").push(call.method);
            Reply::Json(answer.clone())
        })
        .await;
    (server, leaf, asked)
}

#[tokio::test]
async fn an_admin_server_that_nobody_vouches_for_is_sent_nothing() {
    let (server, leaf, asked) = counting(json!({ "frozen": [] })).await;
    let (url, foreign) = (server.url.to_string(), crate::support::Authority::new());
    let desk = Desk::default().with("KMS_ADMIN_TOKEN", TOKEN).with("KMS_ADMIN_URL", &url);
    desk.write("foreign.pem", &foreign.root_pem);
    desk.write("root.pem", &server.authority.root_pem);
    let other = hex::encode(foreign.root.spki_der());
    desk.run(&["frozen"]).await.expect(4).says("nothing was sent").says("--server-spki");
    desk.run(&["frozen", "--root-ca", "foreign.pem"]).await.expect(4).says("TLS handshake failed");
    desk.run(&["frozen", "--server-spki", &other]).await.expect(4).says("TLS handshake failed");
    let kms = ["freeze", "kms", "--reason", "r", "--yes"];
    desk.run(&kms).await.expect(4);
    desk.run(&["denials"]).await.expect(4);
    assert_eq!(*asked.lock().expect("log"), Vec::<String>::new(), "a stranger saw a request");

    let key = hex::encode(leaf.key.spki_der());
    desk.run(&["frozen", "--server-spki", &key]).await.expect(0);
    desk.run(&["frozen", "--root-ca", "root.pem"]).await.expect(0);
    desk.run(&["frozen", "--dangerous-any-server"]).await.expect(0).says("any server is believed");
    assert_eq!(asked.lock().expect("log").len(), 3);
    desk.run(&["frozen", "--root-ca", "root.pem", "--dangerous-any-server"]).await.expect(2);
    let hash = "ab".repeat(32);
    desk.run(&["frozen", "--server-spki", &hash]).await.expect(2).says("SubjectPublicKeyInfo");
    let plain = ["frozen", "--admin", "http://127.0.0.1:1", "--server-spki", &key];
    desk.run(&plain).await.expect(2).says("plain http proves no server");
}

#[tokio::test]
async fn an_onboarding_token_goes_over_tls_only_to_a_known_key() {
    let (server, leaf, asked) = counting(json!({ "k256_pubkey": "02ee" })).await;
    let url = server.url.to_string();
    let desk = Desk::default().with("KMS_ONBOARD_TOKEN", TOKEN).with("KMS_URL", &url);
    let onboard = ["onboard", "--source", "https://kms.example", "--domain", "kms2.example"];
    desk.run(&onboard).await.expect(2).says("--server-spki");
    desk.run(&["finish"]).await.expect(2).says("the token does not go to");
    let other = hex::encode(crate::support::Authority::new().root.spki_der());
    desk.run(&[&onboard[..], &["--server-spki", &other]].concat()).await.expect(4);
    assert_eq!(*asked.lock().expect("log"), Vec::<String>::new(), "a stranger saw a request");
    let key = hex::encode(leaf.key.spki_der());
    let ran = desk.run(&[&onboard[..], &["--server-spki", &key]].concat()).await.expect(0);
    assert!(!ran.err.contains("unverified"), "{}", ran.err);
    desk.run(&[&onboard[..], &["--dangerous-any-server"]].concat()).await.expect(0).says("unverified server");
    assert_eq!(asked.lock().expect("log").len(), 2);
}

#[tokio::test]
async fn what_an_answer_does_not_say_is_not_assumed() {
    for (answer, arguments, field) in [
        (json!({}), &["frozen"][..], "lacks frozen"),
        (json!([]), &["frozen"], "lacks frozen"),
        (json!({ "frozen": [{ "scope": "app" }] }), &["frozen"], "lacks frozen.0."),
        (json!({}), &["denials"], "lacks denials"),
        (json!({}), &["unfreeze", "kms"], "lacks was_frozen"),
        (json!({}), &["freeze", "kms", "--reason", "r", "--yes"], "lacks frozen"),
        (json!({ "frozen": null }), &["freeze", "kms", "--reason", "r", "--yes"], "lacks frozen"),
        (json!({}), &["shadow", "report"], "lacks "),
        (json!({ "verdict": "allowed" }), &["explain", "--denial", "x"], "lacks "),
        (json!({}), &["onboard", "--source", "https://kms.example", "--domain", "k"], "lacks k256_pubkey"),
        (json!({}), &["bootstrap", "--domain", "k"], "lacks ca_pubkey"),
    ] {
        let (server, _, _) = counting(answer).await;
        let url = server.url.to_string();
        let desk = Desk::default().with("KMS_ADMIN_URL", &url).with("KMS_URL", &url);
        let ran = desk.run(&[arguments, &["--dangerous-any-server"]].concat()).await.expect(1);
        assert!(ran.err.contains(field) && ran.out.is_empty(), "{arguments:?} {}", ran.err);
    }
}

#[tokio::test]
async fn finish_before_there_are_keys_says_what_comes_first() {
    let kms = Onboarding::start().await;
    let desk = Desk::default().with("KMS_ONBOARD_TOKEN", TOKEN);
    let url = format!("{}/new", kms.url);
    let ran = desk.run(&["finish", "--kms", &url, "--json"]).await.expect(1);
    assert_eq!(ran.json()["setup"]["mode"], "onboarding");
    ran.says("there are no keys yet").says("call Bootstrap");
    assert!(kms.seen().iter().all(|[path, ..]| !path.contains("Finish")), "{:?}", kms.seen());
}

#[tokio::test]
async fn status_shows_the_token_only_where_it_is_asked_for() {
    let kms = Onboarding::start().await;
    let desk = Desk::default();
    let (open, closed) = (format!("{}/new", kms.url), format!("{}/token-only", kms.url));
    let ran = desk.run(&["status", "--kms", &closed, "--json"]).await.expect(0);
    assert_eq!(ran.json()["kms"][0]["mode"], Value::Null);
    ran.says("only with its token");
    let desk = desk.with("KMS_ONBOARD_TOKEN", TOKEN);
    let report = desk.run(&["status", "--kms", &open, "--kms", &closed, "--json"]).await.expect(0).json();
    for kms in [&report["kms"][0], &report["kms"][1]] {
        assert_eq!((&kms["mode"], &kms["serving_port"]), (&json!("onboarding"), &json!(9)));
        assert_eq!(kms["next"][0]["step"], "bootstrap");
    }
    let shown: Vec<String> =
        kms.seen().into_iter().filter(|[_, token, _]| !token.is_empty()).map(|[path, ..]| path).collect();
    assert_eq!(shown, ["/token-only/api/v1/setup/status"]);
    let people = desk.run(&["status", "--kms", &open]).await.expect(0).out;
    assert!(people.contains("onboarding") && people.contains("call Bootstrap"), "{people}");
}

#[tokio::test]
async fn new_keys_are_shown_as_verified_only_if_their_attestation_is() {
    let world = World::start().await;
    let (root, k256) = (P256Key::generate().spki_der(), crate::support::RootKey::new(7).public());
    let statement = kms_client::statement::bootstrap_report_data(&root, &k256);
    let evidence = world.cvm.evidence(kms_attest::binding::ReportData(statement.0)).encode();
    let answer = json!({
        "ca_pubkey": hex::encode(root), "k256_pubkey": k256.to_string(), "attestation": hex::encode(evidence),
    });
    let mut swapped = answer.clone();
    swapped["k256_pubkey"] = crate::support::RootKey::new(8).public().to_string().into();
    let (honest, _, _) = counting(answer).await;
    let (lying, _, _) = counting(swapped).await;
    let desk = Desk::in_world(&world);
    let (url, other) = (honest.url.to_string(), lying.url.to_string());
    let run = ["bootstrap", "--domain", "k", "--json", "--dangerous-root", "root.der", "--kms"];
    let report = desk.run(&[&run[..], &[&url]].concat()).await.expect(0).json();
    assert_eq!((&report["verified"], &report["unverified_because"]), (&json!(true), &Value::Null));
    desk.run(&[&run[..], &[&other]].concat()).await.expect(4).says("covers other keys");
    let without = ["bootstrap", "--domain", "k", "--json", "--kms", &url];
    let ran = desk.run(&without).await.expect(0).says("UNVERIFIED");
    assert_eq!(ran.json()["verified"], false);
}

#[tokio::test]
async fn finish_waits_until_keys_are_served() {
    let world = World::start().await;
    // The same address serves both phases, as with a KMS.
    let kms =
        Kms::altered(&world, |method, _| (method == "Onboard.Finish").then(|| Reply::Json(Value::Null)))
            .await;
    let desk = Desk::default().with("KMS_URL", &kms.url());
    let ran = desk.run(&["finish", "--json"]).await.expect(0);
    assert_eq!(ran.json()["serving"], true);
    assert!(kms.calls().contains(&"GetMeta".to_owned()));

    let stuck = Onboarding::start().await;
    let desk = Desk::default().with("KMS_URL", &stuck.url).with("KMS_ONBOARD_TOKEN", TOKEN);
    desk.run(&["finish", "--wait", "1"]).await.expect(1).says("does not serve keys after 1 s");
}

#[tokio::test]
async fn status_compares_the_keys_of_all_and_shows_those_that_wait() {
    let world = World::start().await;
    let (first, other) = (Kms::honest(&world).await, Kms::honest(&world).await);
    let waiting = Onboarding::start().await;
    let desk = Desk::default();
    let (url, another) = (first.url(), other.url());
    let report = desk.run(&["status", "--kms", &url, "--kms", &waiting.url, "--json"]).await.expect(0).json();
    assert_eq!(report["kms"][0]["state"], "serving");
    assert_eq!(report["kms"][0]["key_provider_id"], first.root_spki());
    assert_eq!(report["kms"][1]["state"], "onboarding");
    assert_eq!(report["kms"][1]["mr_aggregated"], "a1");
    assert_eq!(report["same_keys"], Value::Null);

    let report = desk.run(&["status", "--kms", &url, "--kms", &url, "--json"]).await.expect(0).json();
    assert_eq!(report["same_keys"], true);
    let ran = desk.run(&["status", "--kms", &url, "--kms", &another]).await.expect(4);
    assert!(ran.out.contains("DIFFERENT root keys"), "{}", ran.out);
    let ran = desk.run(&["status", "--kms", &url, "--kms", "https://127.0.0.1:1", "--json"]).await.expect(1);
    assert_eq!(ran.json()["kms"][1]["state"], "unreachable");
}

#[tokio::test]
async fn meta_shows_what_a_kms_says_and_under_which_root_if_asked() {
    let world = World::start().await;
    let kms = Kms::honest(&world).await;
    let desk = Desk::default();
    let url = kms.url();
    let ran = desk.run(&["meta", "--kms", &url, "--json"]).await.expect(0);
    assert_eq!(ran.json()["version"], "test");
    let ran = desk.run(&["meta", "--kms", &url]).await.expect(0);
    assert!(ran.out.contains(&kms.root_spki()) && ran.out.contains("kmsctl verify"), "{}", ran.out);
    desk.write("root.pem", &kms.server.authority.root_pem);
    desk.run(&["meta", "--kms", &url, "--root-ca", "root.pem"]).await.expect(0);
    desk.write("root.pem", crate::support::Authority::new().root_pem);
    desk.run(&["meta", "--kms", &url, "--root-ca", "root.pem"]).await.expect(4).says("TLS handshake failed");
    desk.run(&["meta", "--kms", &url, "--kms", &url]).await.expect(2).says("takes one --kms");
    desk.run(&["meta"]).await.expect(2).says("--kms");
}

#[tokio::test]
async fn what_a_server_says_cannot_drive_the_terminal() {
    let server = TestServer::answering(|| {
        Reply::Status(400, json!({ "error": "no\u{1b}[2J\nreally" }).to_string().into_bytes())
    })
    .await;
    let ran = Desk::default().run(&["meta", "--kms", &server.url.to_string()]).await.expect(3);
    assert!(!ran.err.contains('\u{1b}') && ran.err.contains("no [2J really"), "{}", ran.err);
}

#[tokio::test]
async fn a_certificate_is_asked_for_only_of_a_verified_kms_and_checked() {
    let world = World::start().await;
    let unattested = Kms::showing(&world, Leaf::kms()).await;
    let desk = Desk::in_world(&world);
    let arguments = |url: &str| -> Vec<String> {
        let fixed = ["sign-cert", "--dangerous-root", "root.der", "--key", "key.pem", "--out", "chain.pem"];
        fixed.into_iter().chain(["--kms", url]).map(str::to_owned).collect()
    };
    let run = async |url: &str| {
        let arguments = arguments(url);
        desk.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    run(&unattested.url()).await.expect(4).says("does not contain attestation");
    assert_eq!(unattested.calls(), ["GetTempCaCert"]);

    let honest = Kms::honest(&world).await;
    let other = hex::encode(P256Key::generate().spki_der());
    let url = honest.url();
    let mut pinned = arguments(&url);
    pinned.extend(["--key-provider-id".to_owned(), other]);
    let ran = desk.run(&pinned.iter().map(String::as_str).collect::<Vec<_>>()).await.expect(4);
    ran.says("not the pinned key provider");
    assert_eq!(honest.calls(), ["GetTempCaCert"]);

    // A chain over another key than ours.
    let root = crate::support::Authority::new().root_pem;
    let lying = Kms::altered(&world, move |method, _| {
        (method == "SignCert")
            .then(|| Reply::Json(json!({ "certificate_chain": [root.clone(), root.clone()] })))
    })
    .await;
    run(&lying.url()).await.expect(4).says("the certificate is over another key");
    assert!(!crate::support::exists(&desk.path("chain.pem")));
    assert_eq!(desk.mode("key.pem"), 0o600);
}

#[tokio::test]
async fn a_chain_is_kept_only_if_each_certificate_is_signed_by_the_next() {
    let world = World::start().await;
    let desk = Desk::in_world(&world);
    let key = P256Key::generate();
    desk.write("key.pem", key.pem().as_bytes());
    let chain: Arc<Mutex<Vec<String>>> = Arc::default();
    let answer = Arc::clone(&chain);
    let kms = Kms::altered(&world, move |method, _| {
        let chain = answer.lock().expect("chain").clone();
        (method == "SignCert").then(|| Reply::Json(json!({ "certificate_chain": chain })))
    })
    .await;
    let issued_by = |authority: &crate::support::Authority| {
        let validity = Validity { not_before: LONG_AGO, not_after: 4_102_444_800 };
        let spec = CertificateSpec {
            organization: None,
            common_name: "app",
            names: &[],
            validity,
            role: Role::LEAF,
            app_id: None,
            app_info: None,
            usage: None,
            evidence: None,
        };
        let issuer = Issuer::from_pem(&authority.root_pem, &authority.root).expect("CA");
        certificate::pem(&certificate::issue(&spec, &key.spki_der(), &issuer).expect("leaf"))
    };
    let (url, ours) = (kms.url(), &kms.server.authority);
    let sign = [
        "sign-cert",
        "--dangerous-root",
        "root.der",
        "--key",
        "key.pem",
        "--out",
        "chain.pem",
        "--kms",
        &url,
    ];
    // Both ends are right, but the chain between them is not signed.
    *chain.lock().expect("chain") = vec![issued_by(&crate::support::Authority::new()), ours.root_pem.clone()];
    desk.run(&sign).await.expect(4).says("the chain does not hold");
    assert!(!crate::support::exists(&desk.path("chain.pem")));
    *chain.lock().expect("chain") = vec![issued_by(ours), ours.root_pem.clone()];
    desk.run(&sign).await.expect(0).says("the root CA is not pinned");
    let root = kms.root_spki();
    let ran = desk.run(&[&sign[..], &["--force", "--key-provider-id", &root]].concat()).await.expect(0);
    assert!(!ran.err.contains("not pinned"), "{}", ran.err);
}

#[tokio::test]
async fn every_command_has_help_a_page_and_completions() {
    let desk = Desk::default();
    let help = desk.run(&["--help"]).await.expect(0);
    for code in ["0  done", "1  failed", "2  wrong usage", "3  refused by the KMS", "4  verification failed"]
    {
        assert!(help.out.contains(code), "{code}: {}", help.out);
    }
    desk.run(&["man", "--dir", "man"]).await.expect(0);
    let mut pages: Vec<String> = std::fs::read_dir(desk.path("man"))
        .expect("directory")
        .map(|entry| entry.expect("entry").file_name().into_string().expect("text"))
        .collect();
    pages.sort();
    for command in [
        "app-key",
        "bootstrap",
        "completions",
        "env",
        "env-decrypt",
        "env-encrypt",
        "finish",
        "man",
        "meta",
        "onboard",
        "sign-cert",
        "status",
        "verify",
    ] {
        assert!(pages.contains(&format!("kmsctl-{command}.1")), "{command}: {pages:?}");
        let words: Vec<&str> =
            if let Some(inner) = command.strip_prefix("env-") { vec!["env", inner] } else { vec![command] };
        let ran = desk.run(&[&words[..], &["--help"]].concat()).await.expect(0);
        assert!(ran.out.contains("Usage:"), "{command}");
    }
    assert!(pages.contains(&"kmsctl.1".to_owned()));
    let page = desk.run(&["man", "env encrypt"]).await.expect(0).out;
    assert!(page.contains(".TH KMSCTL-ENV-ENCRYPT 1") && page.contains("kmsctl env encrypt"), "{page}");
    desk.run(&["man", "nothing"]).await.expect(2).says("there is no page kmsctl-nothing");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = desk.run(&["completions", shell]).await.expect(0).out;
        assert!(script.contains("app-key") && script.contains("save-bundle"), "{shell}");
    }
    desk.run(&["nonsense"]).await.expect(2);
    let ran = desk.run(&["nonsense", "--json"]).await.expect(2);
    assert_eq!(ran.json(), json!({ "error": "unrecognized subcommand 'nonsense'", "exit": 2 }));
    desk.run(&[]).await.expect(2);
    let version = desk.run(&["--version"]).await.expect(0).out;
    assert!(version.starts_with("kmsctl "), "{version}");
}
