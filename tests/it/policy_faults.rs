//! Every fault of the authorization backend, and for each: the caller's error, the time until it comes, the
//! audit record, that nothing is released, and that keys are released again after the fault.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fs, io};

use crate::support::faults::{Asked, ELSEWHERE, Fault, FaultServer, Reply, SECRET, SECRET_PATH};
use crate::support::{Caller, Identity, World, eventually};
use base64::Engine as _;
use cvm_kms::proto::{GetAppKeyRequest, GetKmsKeyRequest};
use futures_util::future::join_all;
use kms_policy::SubjectKind;
use kms_policy::signed::{Claims, DecisionSigner, NONCE_HEADER, Nonce, SignedRequest};
use serde_json::{Value, json};

const NO_POLICY: &str = "the authorization backend does not answer";

/// The longest wait for a webhook.
const PATIENCE: Duration = Duration::from_secs(10);

/// Immediate failures take much less, but machines that run tests are busy.
const QUICK: Duration = Duration::from_secs(8);

fn webhook(server: &FaultServer) -> String {
    format!(
        "[core]\nenforce_self_authorization = false\nauth_api.type = \"webhook\"\nauth_api.webhook.url = \"{}\"",
        server.url()
    )
}

/// The response of auth-eth while its node does not respond.
fn denied_by_an_outage() -> Fault {
    let denial =
        json!({"isAllowed": false, "gatewayAppId": "", "reason": "authorization backend unavailable"});
    Fault::Page(200, denial.to_string().into_bytes())
}

/// The log of this thread, on which the KMS of a test runs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Keeps the log until the guard is dropped. The second subscriber sees nothing: with only one, `tracing` asks the thread that
    /// reaches a log line first whether anybody wants it, and that may be the thread of another test, for which nobody does.
    fn kept(&self) -> (tracing::subscriber::DefaultGuard, tracing::Dispatch) {
        let log = self.clone();
        let another = tracing::Dispatch::new(tracing_subscriber::fmt().with_writer(io::sink).finish());
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone()).finish();
        (tracing::subscriber::set_default(subscriber), another)
    }

    /// The lines about requests that ended without a result.
    fn failures(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.0.lock().expect("no panic")).into_owned();
        text.lines().filter(|line| line.contains("request failed")).map(str::to_owned).collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A KMS, its callers, and its counts.
struct Fixtures {
    world: World,
    app: Caller,
    replica: Caller,
}

impl Fixtures {
    async fn new(toml: &str) -> Self {
        let world = World::ready_with(toml).await;
        let app = world.caller().shows(&Identity::self_issued(&world.app(1)));
        let replica = world.caller().shows(&Identity::self_issued(&world.replica()));
        Self { world, app, replica }
    }

    /// The number of records of releases.
    fn releases(&self) -> usize {
        let events = ["app_key_released", "kms_key_released", "certificate_issued"];
        self.world.audit().iter().filter(|line| events.iter().any(|event| line["event"] == *event)).count()
    }

    async fn count(&self, metric: &str) -> u64 {
        let metrics = self.world.caller().get("/metrics").await;
        let line = metrics.text().lines().find_map(|line| line.strip_prefix(metric));
        line.map_or(0, |count| count.trim().parse().expect("a count"))
    }

    async fn answers(&self, answer: &str) -> u64 {
        self.count(&format!("cvm_kms_policy_answers_total{{answer=\"{answer}\"}} ")).await
    }

    /// Requests for keys that ended with 503, by metrics.
    async fn failed(&self) -> [u64; 2] {
        let app = "cvm_kms_requests_total{method=\"GetAppKey\",status=\"503\"} ";
        let kms = "cvm_kms_requests_total{method=\"GetKmsKey\",status=\"503\"} ";
        [self.count(app).await, self.count(kms).await]
    }

    /// Denials of any code, by metrics.
    async fn denials(&self) -> usize {
        let metrics = self.world.caller().get("/metrics").await;
        metrics.text().lines().filter(|line| line.starts_with("cvm_kms_denials_total{")).count()
    }

    /// Waits until keys are released.
    async fn recovered(&self, fault: &str) {
        eventually(&format!("keys after {fault}"), async || {
            (self.app.json("GetAppKey", json!({})).await.status == 200).then_some(())
        })
        .await;
    }

    /// Both releases are refused as unavailable in both protocols, without any text of the backend.
    async fn gets_nothing(&self, server: &FaultServer, fault: &str, limit: Duration) {
        let before = (self.releases(), self.answers("allowed").await, self.answers("unavailable").await);
        let failed = self.failed().await;
        let port = server.address().port().to_string();
        for (caller, method, text) in [
            (&self.app, "GetAppKey", format!("App not allowed: {NO_POLICY}")),
            (&self.replica, "GetKmsKey", NO_POLICY.to_owned()),
        ] {
            let began = Instant::now();
            let answer = caller.json(method, json!({})).await;
            assert!(began.elapsed() < limit, "{fault}: {method} took {:?}", began.elapsed());
            assert_eq!(answer.refusal(), (503, text), "{fault}: {method}");
            assert_eq!(answer.header("retry-after"), "1", "{fault}: {method}");
            for secret in [SECRET, SECRET_PATH, "127.0.0.1", &port, "hush", "disk_crypt_key", "temp_ca_key"] {
                let headers = format!("{:?}", answer.headers);
                assert!(
                    !answer.text().contains(secret),
                    "{fault}: {method} tells {secret}: {}",
                    answer.text()
                );
                assert!(!headers.contains("hush"), "{fault}: {method}: {headers}");
            }
        }
        assert_eq!(self.releases(), before.0, "{fault}: a release is recorded");
        assert_eq!(self.answers("allowed").await, before.1, "{fault}: counted as allowed");
        assert_eq!(self.answers("unavailable").await, before.2 + 2, "{fault}: counted as unavailable");
        assert_eq!(
            self.failed().await,
            failed.map(|count| count + 1),
            "{fault}: counted as answered with 503"
        );
        assert_eq!(self.denials().await, 0, "{fault}: counted as denied");
        assert!(self.world.audited("denied").is_empty(), "{fault}: an outage is no denial");
        assert!(!server.asked().iter().any(|asked| asked.path.contains(ELSEWHERE)), "{fault}: redirected");
    }
}

#[tokio::test]
async fn a_webhook_that_fails_at_once_allows_nobody_and_is_found_again() {
    let server = FaultServer::answering(Reply::allowing).await;
    let fixtures = Fixtures::new(&webhook(&server)).await;
    fixtures.recovered("nothing").await;
    let table = Fault::table(PATIENCE).into_iter().chain([denied_by_an_outage()]);
    for fault in table.filter(|fault| !fault.is_slow()) {
        server.suffer(fault.clone()).await;
        fixtures.gets_nothing(&server, &fault.to_string(), QUICK).await;
        server.recover().await;
        fixtures.recovered(&fault.to_string()).await;
    }
}

#[tokio::test]
async fn the_log_tells_what_callers_are_not_told_but_not_where_the_webhook_is() {
    let log = Log::default();
    let _kept = log.kept();
    let server = FaultServer::answering(Reply::allowing).await;
    let fixtures = Fixtures::new(&webhook(&server)).await;
    let port = server.address().port().to_string();
    for (fault, cause) in [
        (Fault::Down, "error sending request to the webhook: "),
        (
            Fault::Page(500, SECRET.into()),
            "the webhook returned 500 Internal Server Error: postgres://user:hush",
        ),
        (Fault::Page(200, b"[]".to_vec()), "the webhook returned 200 OK but not the expected JSON"),
        (Fault::Closing, "error sending request to the webhook: "),
        (denied_by_an_outage(), "the webhook answered that its own backend is unavailable"),
    ] {
        server.suffer(fault.clone()).await;
        let before = log.failures().len();
        fixtures.gets_nothing(&server, &fault.to_string(), QUICK).await;
        let failures = log.failures().split_off(before);
        assert_eq!(failures.len(), 2, "{fault}: {failures:?}");
        for (line, method) in failures.iter().zip(["GetAppKey", "GetKmsKey"]) {
            assert!(line.contains(" WARN ") && line.contains("code=\"unavailable\""), "{fault}: {line}");
            assert!(line.contains(&format!("method=\"{method}\"")), "{fault}: {line}");
            assert!(line.contains(NO_POLICY) && line.contains(cause), "{fault}: {line}");
            assert!(!line.contains(SECRET_PATH) && !line.contains(&port), "{fault}: {line}");
        }
        server.recover().await;
        fixtures.recovered(&fault.to_string()).await;
    }
}

#[tokio::test]
async fn grpc_callers_are_told_the_same() {
    let server = FaultServer::answering(Reply::allowing).await;
    let fixtures = Fixtures::new(&webhook(&server)).await;
    for fault in
        [Fault::Down, Fault::Page(500, SECRET.into()), Fault::Page(200, SECRET.into()), denied_by_an_outage()]
    {
        server.suffer(fault.clone()).await;
        let app =
            fixtures.app.grpc().await.get_app_key(GetAppKeyRequest::default()).await.expect_err("nothing");
        assert_eq!(
            (app.code(), app.message()),
            (tonic::Code::Unavailable, &*format!("App not allowed: {NO_POLICY}"))
        );
        let kms = fixtures
            .replica
            .grpc()
            .await
            .get_kms_key(GetKmsKeyRequest::default())
            .await
            .expect_err("nothing");
        assert_eq!((kms.code(), kms.message()), (tonic::Code::Unavailable, NO_POLICY), "{fault}");
        server.recover().await;
        fixtures.recovered(&fault.to_string()).await;
    }
}

/// A fault that shows only by its delay; each has its own KMS, so that they can be waited for concurrently.
async fn waited_for(fault: Fault) {
    let server = FaultServer::answering(Reply::allowing).await;
    let fixtures = Fixtures::new(&webhook(&server)).await;
    server.suffer(fault.clone()).await;
    let began = Instant::now();
    let (first, second) = tokio::join!(
        fixtures.app.json("GetAppKey", json!({})),
        fixtures.replica.json("GetKmsKey", json!({}))
    );
    let took = began.elapsed();
    assert!(took >= PATIENCE / 2 && took < PATIENCE * 4, "{fault}: {took:?}");
    assert_eq!(first.refusal(), (503, format!("App not allowed: {NO_POLICY}")), "{fault}");
    assert_eq!(second.refusal(), (503, NO_POLICY.to_owned()), "{fault}");
    assert_eq!(first.header("retry-after"), "1");
    assert_eq!(fixtures.releases(), 0, "{fault}");
    assert_eq!(fixtures.answers("unavailable").await, 2, "{fault}: counted as unavailable");
    assert_eq!(fixtures.failed().await, [1, 1], "{fault}: counted as answered with 503");
    assert_eq!(fixtures.denials().await, 0, "{fault}: counted as denied");
    assert!(fixtures.world.audited("denied").is_empty(), "{fault}: an outage is no denial");
    server.recover().await;
    fixtures.recovered(&fault.to_string()).await;
}

#[tokio::test]
async fn a_webhook_that_keeps_callers_waiting_is_given_up_and_found_again() {
    let slow = Fault::table(PATIENCE).into_iter().filter(Fault::is_slow);
    let waits: Vec<_> = slow.map(waited_for).collect();
    assert_eq!(waits.len(), 4);
    join_all(waits).await;
}

#[tokio::test]
async fn a_slow_webhook_is_still_one() {
    let server = FaultServer::answering(Reply::allowing).await;
    let fixtures = Fixtures::new(&webhook(&server)).await;
    for fault in [Fault::Slow(Duration::from_millis(500)), Fault::Dripping(Duration::from_millis(2))] {
        server.suffer(fault.clone()).await;
        assert_eq!(fixtures.app.json("GetAppKey", json!({})).await.status, 200, "{fault}");
    }
}

#[tokio::test]
async fn what_hangs_for_one_app_does_not_hang_for_the_others() {
    let server = FaultServer::answering(Reply::allowing).await;
    let fixtures = Fixtures::new(&webhook(&server)).await;
    let hanging = hex::encode([2; 20]);
    server.suffer_when(Fault::Hanging, move |asked| asked.json()["appId"] == hanging.as_str()).await;
    let other = fixtures.world.caller().shows(&Identity::self_issued(&fixtures.world.app(2)));
    // More than one app may send requests at once.
    let waiting: Vec<_> = (0..48)
        .map(|_| {
            let other = other.clone();
            tokio::spawn(async move { other.json("GetAppKey", json!({})).await })
        })
        .collect();
    eventually("the others hang", async || {
        let asked = server.asked();
        (asked.iter().filter(|asked| asked.verb == "POST").count() >= 32).then_some(())
    })
    .await;
    for _ in 0..50 {
        let began = Instant::now();
        assert_eq!(fixtures.app.json("GetAppKey", json!({})).await.status, 200);
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    }
    for waiting in waiting {
        assert_eq!(waiting.await.expect("an answer").status, 503);
    }
    assert_eq!(
        fixtures.count("cvm_kms_webhook_breaker_openings_total ").await,
        0,
        "they do not take it from the others"
    );
    assert_eq!(fixtures.app.json("GetAppKey", json!({})).await.status, 200);
}

/// A release needs a decision about this KMS that is not older than the request; concurrent requests share
/// it.
#[tokio::test]
async fn requests_that_come_together_share_the_question_about_this_kms() {
    let server = FaultServer::answering(Reply::allowing).await;
    let toml = webhook(&server).replace("enforce_self_authorization = false\n", "");
    let fixtures = Fixtures::new(&toml).await;
    let about_us = || server.asked().iter().filter(|asked| asked.path.ends_with("/bootAuth/kms")).count();

    let before = about_us();
    assert_eq!(fixtures.app.json("GetAppKey", json!({})).await.status, 200);
    assert!(about_us() > before, "an answer from before the request does not count");

    server.suffer_when(Fault::Slow(Duration::from_secs(1)), |asked| asked.path.ends_with("/kms")).await;
    let before = about_us();
    let requests = (0..200).map(|_| fixtures.app.json("GetAppKey", json!({})));
    let answers = join_all(requests).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "all are served, none is shed");
    let asked = about_us() - before;
    assert!(asked < 150, "{asked} questions for 200 requests");

    // A denial applies to the very next request.
    let denial = json!({"isAllowed": false, "gatewayAppId": "", "reason": "revoked"});
    let denied = Fault::Page(200, denial.to_string().into_bytes());
    server.suffer_when(denied, |asked| asked.path.ends_with("/kms")).await;
    assert_eq!(fixtures.app.json("GetAppKey", json!({})).await.status, 403);
}

#[tokio::test]
async fn callers_without_evidence_have_nobody_asked() {
    let server = FaultServer::answering(Reply::allowing).await;
    let toml = webhook(&server).replace("enforce_self_authorization = false\n", "");
    let fixtures = Fixtures::new(&toml).await;
    let caller = fixtures.world.caller();
    let (began, before) = (Instant::now(), server.asked().len());
    for _ in 0..100 {
        let refusal = caller.json("GetAppKey", json!({})).await.refusal();
        assert_eq!(refusal, (401, "App not allowed: No attestation provided".to_owned()));
    }
    // The KMS's own requests: for its self-authorization twice a second, and for the description.
    let own = usize::try_from(began.elapsed().as_millis() / 250).expect("few") + 4;
    let asked = server.asked().len() - before;
    assert!(asked <= own, "{asked} questions, {own} of them our own");
}

#[tokio::test]
async fn nobody_waits_for_a_webhook_that_is_known_to_be_gone() {
    let server = FaultServer::answering(Reply::allowing).await;
    let fixtures = Fixtures::new(&webhook(&server)).await;
    server.suffer(Fault::Down).await;
    eventually("the breaker opens", async || {
        assert_eq!(fixtures.app.json("GetAppKey", json!({})).await.status, 503);
        (fixtures.count("cvm_kms_webhook_breaker_open ").await == 1).then_some(())
    })
    .await;
    // Not even one that hangs now.
    server.suffer(Fault::Hanging).await;
    let (mut quick, mut trials) = (0, 0);
    for _ in 0..20 {
        let began = Instant::now();
        let answer = tokio::time::timeout(PATIENCE / 4, fixtures.app.json("GetAppKey", json!({}))).await;
        match answer {
            Ok(answer) => {
                assert_eq!(answer.refusal(), (503, format!("App not allowed: {NO_POLICY}")));
                assert_eq!(answer.header("retry-after"), "1");
                assert!(began.elapsed() < PATIENCE / 4);
                quick += 1;
            }
            Err(_) => trials += 1,
        }
        if quick >= 5 {
            break;
        }
    }
    assert!(quick >= 5, "{quick} at once, {trials} as trials");
    server.recover().await;
    fixtures.recovered("an outage").await;
    assert_eq!(fixtures.count("cvm_kms_webhook_breaker_open ").await, 0);
}

/// A signer whose public key can be pinned.
fn signer() -> DecisionSigner {
    let pem = base64::engine::general_purpose::STANDARD.encode(pkcs8());
    DecisionSigner::from_pem(
        format!("-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----\n").as_bytes(),
    )
    .expect("a key")
}

/// PKCS #8 of the key of RFC 8032, section 7.1, test 1.
fn pkcs8() -> Vec<u8> {
    let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    hex::decode(format!("302e020100300506032b657004220420{seed}")).expect("hex")
}

fn signed(signer: &DecisionSigner, asked: &Asked) -> Reply {
    let kind = match asked.path.rsplit('/').next() {
        Some("app") => SubjectKind::App,
        Some("kms") => SubjectKind::Kms,
        _ => return Reply::allowing(asked),
    };
    let nonce = Nonce::parse(asked.header(NONCE_HEADER).expect("a nonce")).expect("hex");
    let answer =
        Claims { is_allowed: true, gateway_app_id: "0xback", reason: "", release_stage: None, epochs: None };
    let expires = kms_attest::clock::unix_now() + 60;
    let signature = signer.sign(SignedRequest { kind, body: &asked.body, nonce: &nonce }, answer, expires);
    let mut reply: Value = serde_json::from_slice(&Reply::allowing(asked).body).expect("JSON");
    reply["signature"] = json!(signature);
    Reply::json(&reply)
}

#[tokio::test]
async fn a_replayed_decision_is_none() {
    let signer = Arc::new(signer());
    let signing = Arc::clone(&signer);
    let server = FaultServer::answering(move |asked| signed(&signing, asked)).await;
    let key = signer.public_key();
    let toml = format!("{}\nauth_api.webhook.decision_key = \"{key}\"", webhook(&server));
    let fixtures = Fixtures::new(&toml).await;
    // The same caller with the same request.
    for _ in 0..3 {
        assert_eq!(fixtures.app.json("GetAppKey", json!({})).await.status, 200);
    }
    server.suffer(Fault::Replay).await;
    fixtures.gets_nothing(&server, "Replay", QUICK).await;
    server.recover().await;
    fixtures.recovered("Replay").await;
}

#[tokio::test]
async fn an_unsigned_decision_is_none_where_a_key_is_pinned() {
    let server = FaultServer::answering(Reply::allowing).await;
    let toml = format!("{}\nauth_api.webhook.decision_key = \"{}\"", webhook(&server), signer().public_key());
    let fixtures = Fixtures::new(&toml).await;
    fixtures.gets_nothing(&server, "unsigned", QUICK).await;
    let meta = fixtures.world.caller().json("GetMeta", json!({})).await.value();
    assert_eq!(
        meta["relaxed_settings"].as_array().map(|all| all.iter().any(|code| code == "webhook_unencrypted")),
        Some(false)
    );
}

/// Damage to the allowlist, and the expected message.
type Damage = fn(&Path);

#[tokio::test]
async fn an_allow_list_that_cannot_be_used_denies_and_the_next_good_one_allows() {
    let fixtures = Fixtures::new("core.enforce_self_authorization = false").await;
    let (app, replica) = (fixtures.world.app(1), fixtures.world.replica());
    fixtures.world.allow_app(&app);
    fixtures.world.allow_kms(&replica);
    let path = fixtures.world.allowlist.path().to_owned();
    let good = fs::read(&path).expect("an allowlist");
    fixtures.recovered("nothing").await;
    let table: [(&str, Damage); 14] = [
        ("missing", |_| {}),
        ("a directory", |path| fs::create_dir(path).expect("a directory")),
        ("a link to nothing", |path| std::os::unix::fs::symlink("nowhere", path).expect("a link")),
        ("a link to itself", |path| std::os::unix::fs::symlink(path, path).expect("a link")),
        ("a pipe that nobody writes to", |path| {
            let (node, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
            rustix::fs::mknodat(rustix::fs::CWD, path, node, mode, 0).expect("a pipe");
        }),
        ("larger than any", |path| {
            fs::File::create(path).and_then(|file| file.set_len((64 << 20) + 1)).expect("a file");
        }),
        ("empty", |path| fs::write(path, "").expect("a file")),
        ("cut off", |path| fs::write(path, "{\"apps\": {\"11").expect("a file")),
        ("no object", |path| fs::write(path, "[]").expect("a file")),
        ("of the wrong types", |path| fs::write(path, "{\"osImages\": \"any\"}").expect("a file")),
        ("not UTF-8", |path| fs::write(path, b"{\"gatewayAppId\": \"\xff\"}").expect("a file")),
        ("too deep", |path| fs::write(path, "[".repeat(100_000)).expect("a file")),
        ("all zeros", |path| fs::write(path, vec![0; 4096]).expect("a file")),
        ("HTML", |path| fs::write(path, format!("<html>{SECRET}")).expect("a file")),
    ];
    for (name, damage) in table {
        let (releases, denials) = (fixtures.releases(), fixtures.world.audited("denied").len());
        let _ = fs::remove_file(&path);
        damage(&path);
        for (caller, method, text) in [
            (&fixtures.app, "GetAppKey", "App not allowed: Boot denied: OS image is not allowed"),
            (&fixtures.replica, "GetKmsKey", "Boot denied: OS image is not allowed"),
        ] {
            let began = Instant::now();
            let answer = caller.json(method, json!({})).await;
            assert!(began.elapsed() < QUICK, "{name}: {method} took {:?}", began.elapsed());
            let (status, error) = answer.refusal();
            assert_eq!(status, 403, "{name}: {error}");
            assert!(error.ends_with(text), "{name}: {error}");
            assert!(!answer.text().contains("auth-config") && !answer.text().contains(SECRET), "{name}");
        }
        // Denials are written soon, but not before the response.
        let denied = eventually(&format!("two denials about {name}"), async || {
            Some(fixtures.world.audited("denied")).filter(|denied| denied.len() >= denials + 2)
        })
        .await;
        assert_eq!(denied.len(), denials + 2, "{name}");
        assert!(
            denied[denials..].iter().all(|line| line["code"] == "allowlist_unusable"),
            "{name}: {denied:?}"
        );
        assert_eq!(fixtures.releases(), releases, "{name}: a release is recorded");
        let _ = fs::remove_file(&path);
        let _ = fs::remove_dir(&path);
        fs::write(&path, &good).expect("an allowlist");
        assert_eq!(fixtures.app.json("GetAppKey", json!({})).await.status, 200, "at once after {name}");
        assert_eq!(fixtures.replica.json("GetKmsKey", json!({})).await.status, 200, "at once after {name}");
    }
}

#[tokio::test]
async fn a_large_allow_list_that_changes_all_the_time_keeps_deciding() {
    let fixtures = Fixtures::new("core.enforce_self_authorization = false").await;
    fixtures.world.allow_app(&fixtures.world.app(1));
    fixtures.world.allowlist.change(|file| {
        for number in 0..10_000_u32 {
            file["apps"][format!("{number:040x}")] =
                json!({"composeHashes": ["77".repeat(32)], "allowAnyDevice": true});
        }
    });
    fixtures.recovered("nothing").await;
    let path = fixtures.world.allowlist.path().to_owned();
    let text = fs::read_to_string(&path).expect("an allowlist");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let writing = std::thread::spawn(move || {
        let mut written = 0_usize;
        while !stopped.load(Ordering::Relaxed) {
            let new = path.with_extension("next");
            // Different content each time, so that it is parsed each time.
            fs::write(&new, format!("{text}{}", " ".repeat(written % 7))).expect("a file");
            fs::rename(&new, &path).expect("a file");
            written += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
        written
    });
    let mut line = fixtures.app.connect().await.expect("a connection");
    let mut longest = Duration::ZERO;
    for _ in 0..100 {
        let began = Instant::now();
        assert_eq!(line.json("GetAppKey", json!({})).await.status, 200);
        longest = longest.max(began.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    assert!(writing.join().expect("no panic") > 0);
    assert!(longest < QUICK, "{longest:?}");
}

#[tokio::test]
async fn what_is_revoked_while_our_own_standing_is_waited_for_is_not_released() {
    let questions = Arc::new(Mutex::new(Vec::new()));
    let asked_about = Arc::clone(&questions);
    let server = FaultServer::answering(move |asked| {
        if !asked.path.ends_with("/bootAuth/app") {
            return Reply::allowing(asked);
        }
        let mut questions = asked_about.lock().expect("no panic");
        questions.push(Instant::now());
        let is_allowed = questions.len() == 1;
        Reply::json(&json!({"isAllowed": is_allowed, "gatewayAppId": "", "reason": "App not registered"}))
    })
    .await;
    let toml =
        webhook(&server).replace("enforce_self_authorization = false", "enforce_self_authorization = true");
    let fixtures = Fixtures::new(&toml).await;
    server
        .suffer_when(Fault::Slow(Duration::from_secs(6)), |asked| asked.path.ends_with("/bootAuth/kms"))
        .await;
    let answer = fixtures.app.json("GetAppKey", json!({})).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.refusal().1.contains("App not registered"), "{answer:?}");
    assert_eq!(questions.lock().expect("no panic").len(), 2, "it was allowed at first, and asked again");
    assert_eq!(fixtures.releases(), 0);
}

#[tokio::test]
async fn a_webhook_says_at_which_stage_keys_are_released() {
    let stage = Arc::new(Mutex::new(json!(null)));
    let said = Arc::clone(&stage);
    let server = FaultServer::answering(move |asked| {
        let mut reply: Value = serde_json::from_slice(&Reply::allowing(asked).body).expect("JSON");
        reply["releaseStage"] = said.lock().expect("no panic").clone();
        Reply::json(&reply)
    })
    .await;
    let fixtures = Fixtures::new(&webhook(&server)).await;
    let app = fixtures.world.app(1);
    app.finish_boot(&kms_simulator::KeyProvider::None);
    let running = fixtures.world.caller().shows(&Identity::self_issued(&app));
    for (word, status, rule) in [
        (json!(null), 200, "core.release_stage any"),
        (json!("boot"), 403, "releaseStage boot"),
        (json!("any"), 200, "releaseStage any"),
        (json!("late"), 503, ""),
    ] {
        *stage.lock().expect("no panic") = word.clone();
        let before = fixtures.releases();
        let answer = running.json("GetAppKey", json!({})).await;
        assert_eq!(answer.status, status, "{word}: {answer:?}");
        assert_eq!(fixtures.releases() - before, usize::from(status == 200), "{word}");
        let event = match status {
            200 => "app_key_released",
            403 => "denied",
            _ => continue,
        };
        let line = eventually("its record", async || fixtures.world.audited(event).pop()).await;
        assert_eq!((&line["stage"], &line["stage_rule"]), (&stage_of(status), &json!(rule)), "{line}");
    }
}

/// A release records the guest's stage; a denial records it as the actual value.
fn stage_of(status: u16) -> Value {
    if status == 200 { json!("running") } else { json!(null) }
}
