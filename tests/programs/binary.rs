//! The `kms` program as operators use it: `curl`, signals, exit statuses, and its output.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use crate::support::guests::killed_under_load;
use crate::support::process::{finish, run};
use crate::support::program::{KMS, Setting, Stderr};
use crate::support::{ADMIN_TOKEN, DOMAIN, Identity, PATIENCE, World, eventually};
use cvm_kms::store::{KeyDirectory, Permissions, State};
use kms_attest::p256::P256Key;
use kms_attest::ra_tls;
use kms_simulator::AgentMode;
use rustix::process::Signal;
use serde_json::{Value, json};

/// The result of `curl`: HTTP status, content type, body.
struct Got {
    status: u16,
    kind: String,
    body: String,
}

/// Runs `curl` with the arguments of a command line; quotes as in a shell.
async fn curl(line: &str) -> Got {
    let mut arguments = vec!["-sS", "--max-time", "100", "-w", "\n%{http_code} %{content_type}"];
    let words = words(line);
    arguments.extend(words.iter().map(String::as_str));
    let ran = run("curl", &arguments, "").await;
    assert_eq!(ran.code, 0, "curl {line}: {}", ran.text());
    let (body, end) = ran.out.rsplit_once('\n').expect("the end");
    let (status, kind) = end.split_once(' ').expect("two words");
    Got { status: status.parse().expect("a status"), kind: kind.to_owned(), body: body.to_owned() }
}

/// Words of a line, as a shell splits them where only single quotes quote.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_quoted = false;
    for character in line.chars() {
        match character {
            '\'' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(String::new()),
            other => words.last_mut().expect("a word").push(other),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

impl Got {
    fn json(&self) -> Value {
        assert!(self.kind.starts_with("application/json"), "{} {}", self.kind, self.body);
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_onboards_with_curl_as_the_documents_show_it() {
    for (scheme, finish) in [("http", "GET /finish"), ("https", "Finish")] {
        let setting = Setting::with("").await;
        let program = setting.start().await;
        let base = format!("-k {scheme}://{}", setting.address);
        for line in [
            format!("{base}/prpc/GetAttestationInfo"),
            format!("{base}/prpc/Onboard.GetAttestationInfo?json"),
            format!("-X POST {base}/prpc/GetAttestationInfo -d '{{}}'"),
            format!("{base}/prpc/Onboard.GetAttestationInfo -d '{{}}' -H 'Content-Type: application/json'"),
            format!("-X POST {base}/prpc/GetAttestationInfo?json"),
        ] {
            let info = curl(&line).await.json();
            assert_eq!(info["mr_aggregated"], hex::encode(setting.world.cvm.mr_aggregated()), "{line}");
        }
        let page = curl(&format!("{base}/")).await;
        assert_eq!((page.status, &*page.kind), (200, "text/html; charset=utf-8"));
        assert_eq!(curl(&format!("{base}/health")).await.body, "OK");
        let unknown = curl(&format!("{base}/prpc/GetMeta -d '{{}}'")).await;
        assert_eq!((unknown.status, &unknown.json()["error"]), (404, &json!("Service not found: GetMeta")));
        let bad = curl(&format!("{base}/prpc/Bootstrap?json -d '{{\"domain\": \"\"}}'")).await;
        assert_eq!(bad.status, 400);

        let bootstrap = match scheme {
            "http" => format!("-X POST {base}/prpc/Bootstrap -d '{{\"domain\": \"{DOMAIN}\"}}'"),
            _ => format!("{base}/prpc/Onboard.Bootstrap?domain={DOMAIN}"),
        };
        let keys = curl(&bootstrap).await;
        assert_eq!(keys.status, 200, "{}", keys.body);
        let keys = keys.json();
        assert_eq!(keys["ca_pubkey"].as_str().map(str::len), Some(182));
        let again = curl(&bootstrap).await;
        assert_eq!(
            (again.status, &again.json()["error"]),
            (400, &json!("KMS has already been bootstrapped"))
        );

        match finish {
            "Finish" => {
                let answer = curl(&format!(
                    "{base}/prpc/Onboard.Finish -d '{{}}' -H 'Content-Type: application/json'"
                ))
                .await;
                assert_eq!(answer.json(), Value::Null);
            }
            _ => assert_eq!(curl(&format!("{base}/finish")).await.body, "OK"),
        }
        eventually("keys are served", async || {
            setting.caller().try_json("GetMeta", json!({})).await.ok()?.status.eq(&200).then_some(())
        })
        .await;
        let meta = curl(&format!("-k https://{}/prpc/GetMeta -d '{{}}'", setting.address)).await.json();
        assert_eq!(meta["k256_pubkey"], keys["k256_pubkey"]);
        assert_eq!(meta["bootstrap_info"], keys);
        assert_eq!(program.stop(Signal::TERM).await, Some(0));
    }
}

/// Writes a client certificate and its key for `curl`.
fn client_files(world: &World, name: &str, identity: &Identity) -> String {
    let (certificate, key) = identity.pem();
    let file = |ending: &str, text: &str| {
        let path = world.path(&format!("{name}.{ending}"));
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    format!("--cert {} --key {}", file("crt", &certificate), file("key", &key))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_of_a_kms_with_keys_answers_to_curl() {
    let hash = "aa4cbe2c111aa8b9a76ce688ed1ed6b0cabedb407fc464137d83e1a5341fd35a"; // sha256("legacy token")
    let toml =
        format!("core.onboard.auto_bootstrap_domain = \"{DOMAIN}\"\ncore.admin_token_hash = \"{hash}\"");
    let setting = Setting::with(&toml).await;
    let _program = setting.start().await;
    let world = &setting.world;
    let app = world.app(1);
    world.allow_app(&app);
    let temp_ca = setting.caller().json("GetTempCaCert", json!({})).await.message();
    let as_app = client_files(world, "app", &Identity::attested(&temp_ca, &app));
    let as_kms = client_files(world, "kms", &Identity::attested(&temp_ca, &world.replica()));
    let as_other = client_files(world, "other", &Identity::self_issued(&world.app(2)));
    let unattested = client_files(world, "unattested", &Identity::unattested(&temp_ca));
    let address = setting.address;
    let base = format!("https://{address}/prpc");
    let id = hex::encode(app.app_id());
    let root = world.key_file("root-ca.crt").display().to_string();
    let verified = format!(
        "--cacert {root} --resolve {DOMAIN}:{}:127.0.0.1 https://{DOMAIN}:{}/prpc",
        address.port(),
        address.port()
    );

    // The command line, the status, and a field of the response or its error.
    let cases: Vec<(String, u16, &str)> = vec![
        (format!("-k {base}/GetMeta"), 200, "ca_cert"),
        (format!("-k -X POST {base}/GetMeta -d '{{}}'"), 200, "ca_cert"),
        (format!("-k -X POST {base}/KMS.GetMeta?json"), 200, "ca_cert"),
        (format!("-k https://{address}//prpc/GetMeta"), 200, "ca_cert"),
        (format!("{verified}/GetMeta"), 200, "ca_cert"),
        (format!("--tlsv1.2 --tls-max 1.2 {verified}/GetMeta"), 200, "ca_cert"),
        (format!("--tlsv1.3 --http2 {verified}/GetMeta"), 200, "ca_cert"),
        (format!("--http1.1 {verified}/GetMeta"), 200, "ca_cert"),
        (format!("-k {base}/GetTempCaCert -d '{{}}'"), 200, "temp_ca_key"),
        (format!("-k {base}/GetAppEnvEncryptPubKey?app_id={id}"), 200, "signature_v1"),
        (format!("-k {base}/GetAppEnvEncryptPubKey -d '{{\"app_id\": \"0x{id}\"}}'"), 200, "signature_v1"),
        (
            format!("-k {base}/GetAppEnvEncryptPubKey -d '{{\"app_id\": \"00\"}}'"),
            400,
            "app_id must be 20 bytes, got 1",
        ),
        (format!("-k {base}/GetAppKey -d '{{}}'"), 401, "App not allowed: No attestation provided"),
        (
            format!("-k {unattested} {base}/GetAppKey -d '{{}}'"),
            401,
            "App not allowed: No attestation provided",
        ),
        (format!("-k {as_app} {base}/GetAppKey -d '{{\"api_version\": 1}}'"), 200, "disk_crypt_key"),
        (format!("-k {as_app} {base}/KMS.GetAppKey"), 200, "k256_signature"),
        (
            format!("-k {as_app} --http1.1 --tls-max 1.2 {base}/GetAppKey?json -d '{{}}'"),
            200,
            "env_crypt_key",
        ),
        (
            format!("-k {as_other} {base}/GetAppKey -d '{{}}'"),
            403,
            "App not allowed: Boot denied: app not registered",
        ),
        (format!("-k {as_app} {base}/GetKmsKey -d '{{}}'"), 403, "Boot denied: aggregated MR not allowed"),
        (format!("-k {as_kms} {base}/GetKmsKey -d '{{}}'"), 200, "temp_ca_key"),
        (
            format!("-k {base}/SignCert -d '{{\"api_version\": 1}}'"),
            400,
            "Failed to parse csr: confirm: the input ends inside it",
        ),
        (format!("-k {base}/ClearImageCache -d '{{\"token\": \"no\"}}'"), 400, "Invalid token"),
        (format!("-k {base}/Nothing -d '{{}}'"), 404, "Service not found: Nothing"),
        (format!("-k {base}/Bootstrap -d '{{}}'"), 404, "Service not found: Bootstrap"),
    ];
    for (line, status, found) in cases {
        let got = curl(&line).await;
        assert_eq!(got.status, status, "{line}: {}", got.body);
        let value = got.json();
        match status {
            200 => assert!(value.get(found).is_some_and(|field| !field.is_null()), "{line}: {value}"),
            _ => assert_eq!(value["error"], found, "{line}"),
        }
    }
    let cleared = curl(&format!(
        "-k {base}/ClearImageCache -d '{{\"token\": \"legacy token\", \"image_hash\": \"all\"}}'"
    ))
    .await;
    assert_eq!((cleared.status, &*cleared.body), (200, ""));
    let metrics = curl(&format!("-k https://{address}/metrics")).await;
    assert!(metrics.body.contains("\ndstack_kms_attestation_requests_total 9\n"), "{}", metrics.body);
    assert!(metrics.body.contains("\ndstack_kms_attestation_failures_total 5\n"), "{}", metrics.body);
    let head = curl(&format!("-k -I {base}/GetMeta")).await;
    assert_eq!(head.status, 200);

    let admin = format!("http://{}/prpc/ClearImageCache -d '{{\"image_hash\": \"all\"}}'", setting.admin);
    assert_eq!(curl(&admin).await.status, 401);
    for credentials in [
        format!("-H 'X-Admin-Token: {ADMIN_TOKEN}'"),
        format!("-H 'Authorization: Bearer {ADMIN_TOKEN}'"),
        format!("-u 'anyone:{ADMIN_TOKEN}'"),
    ] {
        let got = curl(&format!("{credentials} {admin}")).await;
        assert_eq!((got.status, &*got.body), (200, "null"), "{credentials}");
    }
    let plain = run("curl", &["-sS", &format!("http://{address}/prpc/GetMeta")], "").await;
    assert!(matches!(plain.code, 52 | 56), "closed or reset: {}", plain.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_end_it_in_order_in_either_phase() {
    for signal in [Signal::TERM, Signal::INT] {
        let setting = Setting::with("").await;
        let program = setting.start().await;
        assert_eq!(program.stop(signal).await, Some(0), "{signal:?} while onboarding");
        let setting = Setting::with("core.onboard.auto_bootstrap_domain = \"localhost\"").await;
        let program = setting.start().await;
        let mut line = setting.caller().connect().await.expect("a connection");
        assert_eq!(line.json("GetMeta", json!({})).await.status, 200);
        assert_eq!(program.stop(signal).await, Some(0), "{signal:?} with an open connection");
        let audit = setting.world.audit();
        assert_eq!(audit.last().expect("a line")["event"], "stopped");
        let verify = setting
            .run(&["audit", "verify", setting.world.key_file("audit.jsonl").to_str().expect("text")])
            .await;
        assert!(verify.expect_ok().out.starts_with(&format!("{} records, unbroken; head ", audit.len())));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_log_that_takes_nothing_stops_nothing() {
    for stderr in [Stderr::Full, Stderr::Closed, Stderr::FullDisk] {
        let setting = Setting::with("core.onboard.auto_bootstrap_domain = \"localhost\"").await;
        let (stdio, _reader) = stderr.open();
        let program = setting.spawn_with_stderr(stdio);
        eventually("the port opens", async || setting.caller().try_json("GetMeta", json!({})).await.ok())
            .await;
        let (app, other) = (setting.world.app(1), setting.world.app(2));
        setting.world.allow_app(&app);
        let allowed = setting.caller().shows(&Identity::self_issued(&app));
        let refused = setting.caller().shows(&Identity::self_issued(&other));
        let mut line = refused.connect().await.expect("a connection");
        // Each logs a line; together they exceed the buffer of a pipe.
        for _ in 0..400 {
            assert_eq!(line.json("GetAppKey", json!({})).await.status, 403, "{stderr:?}");
        }
        assert_eq!(allowed.json("GetAppKey", json!({})).await.status, 200, "{stderr:?}");
        // Reading the allowlist again logs a line, and takes effect all the same.
        setting.world.allowlist.write_text("{}");
        assert_eq!(allowed.json("GetAppKey", json!({})).await.status, 403, "{stderr:?}");
        let base = format!("http://{}/prpc/Admin.Freeze -H 'X-Admin-Token: {ADMIN_TOKEN}'", setting.admin);
        let freeze = curl(&format!("{base} -d '{{\"scope\": \"kms\", \"reason\": \"a test\"}}'")).await;
        assert_eq!(freeze.status, 200, "{stderr:?}: {}", freeze.body);
        program.signal(Signal::HUP);
        let began = Instant::now();
        assert_eq!(program.stop(Signal::TERM).await, Some(0), "{stderr:?}");
        assert!(began.elapsed() < PATIENCE, "{stderr:?}: {:?}", began.elapsed());
        assert_eq!(setting.world.audit().last().expect("a line")["event"], "stopped");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_cannot_start_says_so_to_nobody_and_ends() {
    let mut setting = Setting::with("").await;
    setting.configure("core.audit.file = \"/proc/none\"");
    for stderr in [Stderr::Full, Stderr::Closed, Stderr::FullDisk] {
        let (stdio, _reader) = stderr.open();
        let mut program = setting.spawn_with_stderr(stdio);
        assert_eq!(program.ended().await.code(), Some(1), "{stderr:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_of_log_rotation_and_monitoring_do_not_end_it() {
    let setting = Setting::with("core.onboard.auto_bootstrap_domain = \"localhost\"").await;
    let program = setting.start().await;
    eventually("keys are served", async || setting.caller().try_json("GetMeta", json!({})).await.ok()).await;
    let certificate = || fs::read(setting.world.key_file("rpc.crt")).expect("a certificate");
    let before = certificate();
    for signal in [Signal::USR1, Signal::USR2, Signal::XFSZ, Signal::HUP] {
        program.signal(signal);
    }
    eventually("SIGHUP issues the certificate again", async || (certificate() != before).then_some(())).await;
    assert_eq!(setting.caller().json("GetMeta", json!({})).await.status, 200);
    assert!(program.log().contains("reloading"), "{}", program.log());
    assert_eq!(program.stop(Signal::TERM).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_ends_it_with_the_code_after_which_supervisors_start_it_again() {
    let toml = "core.onboard.auto_bootstrap_domain = \"localhost\"\ncore.admin.supervised = true";
    let setting = Setting::with(toml).await;
    let mut program = setting.start().await;
    eventually("keys are served", async || setting.caller().try_json("GetMeta", json!({})).await.ok()).await;
    let restart =
        format!("http://{}/api/v1/restart -X POST -H 'X-Admin-Token: {ADMIN_TOKEN}'", setting.admin);
    let asked = curl(&restart).await;
    assert_eq!(asked.status, 200, "{}", asked.body);
    assert_eq!(program.ended().await.code(), Some(75), "{}", program.log());
    assert_eq!(setting.world.audit().last().expect("a line")["event"], "stopped");
}

/// A reader such as `head -n 0` that closes the pipe.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_has_gone_changes_no_status() {
    let setting = Setting::with("").await;
    let file = setting.world.path("kms.toml").display().to_string();
    let whole = run(KMS, &["check", "-c", &file], "").await;
    let script = format!("{KMS} check -c {file} | true; exit ${{PIPESTATUS[0]}}");
    for _ in 0..5 {
        let unread = run("bash", &["-c", &script], "").await;
        assert_eq!((unread.code, unread.err.as_str()), (whole.code, whole.err.as_str()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_directory_is_for_one_process_and_can_be_checked_meanwhile() {
    let mut setting = Setting::with("core.onboard.auto_bootstrap_domain = \"localhost\"").await;
    let program = setting.start().await;
    eventually("keys are served", async || setting.caller().try_json("GetMeta", json!({})).await.ok()).await;
    let check = setting.run(&["check"]).await.expect_ok();
    assert!(check.out.contains("running   a KMS has this audit log open"), "{}", check.out);
    let other = setting.world.path("other.jsonl").display().to_string();
    setting.configure(&format!("core.audit.file = {other:?}"));
    let second = setting.run(&[]).await;
    assert_eq!(second.code, 1);
    assert!(second.err.contains("Error: the key directory is in use by another process"), "{}", second.err);
    assert_eq!(program.stop(Signal::TERM).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_serves_what_it_can_without_writing_files_that_can_be_made_again() {
    let setting = Setting::with("core.onboard.auto_bootstrap_domain = \"localhost\"").await;
    let program = setting.start().await;
    eventually("keys are served", async || setting.caller().try_json("GetMeta", json!({})).await.ok()).await;
    assert_eq!(program.stop(Signal::TERM).await, Some(0));
    fs::remove_file(setting.world.key_file("rpc.crt")).expect("removed");
    // No file may grow by a single byte, as on a full disk.
    let file = setting.world.path("kms.toml").display().to_string();
    let mut full = std::process::Command::new("sh")
        .args(["-c", &format!("ulimit -f 0; exec {KMS} -c {file} 2>/dev/null")])
        .spawn()
        .expect("sh");
    let meta =
        eventually("it serves", async || setting.caller().try_json("GetMeta", json!({})).await.ok()).await;
    assert_eq!(meta.status, 200);
    let app = setting.world.app(1);
    setting.world.allow_app(&app);
    let caller = setting.caller().shows(&Identity::self_issued(&app));
    let refusal = caller.json("GetAppKey", json!({})).await.refusal();
    assert_eq!(refusal, (503, "the release cannot be recorded, so nothing is released".to_owned()));
    full.kill().expect("it runs");
    full.wait().expect("it ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_end_of_the_audit_log_is_kept_and_told_and_stops_nothing() {
    let setting = Setting::with("core.onboard.auto_bootstrap_domain = \"localhost\"").await;
    let program = setting.start().await;
    eventually("keys are served", async || setting.caller().try_json("GetMeta", json!({})).await.ok()).await;
    assert_eq!(program.stop(Signal::TERM).await, Some(0));
    let log = setting.world.key_file("audit.jsonl");
    let records = fs::read(&log).expect("an audit log");
    let last = setting.world.audit().len();
    fs::write(&log, [records.as_slice(), &[0; 5000]].concat()).expect("an audit log");
    let program = setting.start().await;
    let app = setting.world.app(1);
    setting.world.allow_app(&app);
    let caller = setting.caller().shows(&Identity::self_issued(&app));
    assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200);
    eventually("the metric says so", async || {
        let metrics = setting.caller().get("/metrics").await;
        metrics.text().contains("\ncvm_kms_audit_damaged_bytes 5000\n").then_some(())
    })
    .await;
    assert_eq!(program.stop(Signal::TERM).await, Some(0));
    let log = log.to_str().expect("text");
    let verified = setting.run(&["audit", "verify", log]).await;
    assert_eq!(verified.code, 1, "{}", verified.out);
    let told = format!("DAMAGED: 5000 bytes after record {last} in ");
    assert!(verified.out.contains("unbroken") && verified.out.contains(&told), "{}", verified.out);
    let known = last.to_string();
    let known = setting.run(&["audit", "verify", log, "--known-damage", &known]).await.expect_ok();
    assert!(known.out.contains("known damage: 5000 bytes"), "{}", known.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_request_is_answered_before_the_end() {
    let setting = Setting::with("").await;
    let program = setting.start().await;
    // The KMS also requests a quote for its own certificate; after that, further requests are the caller's.
    eventually("the certificate is attested", async || {
        let leaf = setting.caller().connect().await.ok()?.server_certificate?;
        ra_tls::evidence_in(&leaf).expect("readable")
    })
    .await;
    setting.world.agent.set_mode(AgentMode::Slow(Duration::from_millis(700)));
    let caller = setting.caller().plain();
    let asked = setting.world.agent.request_count();
    let running = tokio::spawn(async move { caller.json("GetAttestationInfo", json!({})).await.status });
    let is_running = async || (setting.world.agent.request_count() > asked).then_some(());
    eventually("the request reaches the guest agent", is_running).await;
    assert_eq!(program.stop(Signal::TERM).await, Some(0));
    assert_eq!(running.await.expect("an answer"), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_relaxed_is_said_at_each_start_and_no_secret_ever() {
    let setting =
        Setting::with("core.onboard.auto_bootstrap_domain = \"localhost\"\ncore.attest_rpc_cert = false")
            .await;
    for _ in 0..2 {
        let program = setting.start().await;
        let app = setting.world.app(1);
        setting.world.allow_app(&app);
        let caller = setting.caller().shows(&Identity::self_issued(&app));
        let keys = caller.json("GetAppKey", json!({})).await.value();
        let log = program.log();
        for code in ["rpc_cert_not_attested", "external_trust_anchors", "os_image_not_verified"] {
            let is_said =
                |line: &str| line.contains(" RELAXED: ") && line.ends_with(&format!("setting=\"{code}\""));
            assert!(log.lines().any(is_said), "{code}: {log}");
        }
        // The peer's words (keys-certs-008).
        let unverified = "os image verification is disabled; os_image_hash is caller-supplied and unverified";
        assert!(log.contains(unverified), "{log}");
        let root = setting.world.root_keys();
        let secrets = [
            hex::encode(root.k256().scalar()),
            hex::encode(root.ca().scalar()),
            keys["disk_crypt_key"].as_str().expect("hex").to_owned(),
            keys["env_crypt_key"].as_str().expect("hex").to_owned(),
            ADMIN_TOKEN.to_owned(),
            "PRIVATE KEY".to_owned(),
        ];
        assert!(secrets.iter().all(|secret| !log.contains(secret)), "{log}");
        let limits = fs::read_to_string(format!("/proc/{}/limits", program.pid())).expect("limits");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line");
        assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
        assert_eq!(program.stop(Signal::TERM).await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_tells_everything_at_once_and_changes_nothing() {
    let mut setting = Setting::with("").await;
    let fine = setting.run(&["check"]).await.expect_ok();
    assert!(fine.out.contains("run would start"), "{}", fine.out);
    assert!(fine.out.contains(&format!("keys      none: onboarding on {}", setting.address)), "{}", fine.out);
    assert!(fine.out.contains("RELAXED   external_trust_anchors"), "{}", fine.out);
    assert!(!setting.world.path("certs").exists(), "nothing is made");

    setting.configure("core.onboard.enabled = false");
    let refused = setting.run(&["check"]).await;
    assert_eq!(refused.code, 1);
    assert!(
        refused
            .out
            .contains("REFUSED   Failed to onboard: there are no keys, and core.onboard.enabled is false"),
        "{}",
        refused.out
    );
    assert!(refused.out.contains("run would refuse to start"));

    setting.configure(
        "rpc.prot = 1\n[core]\ncert_dri = \"x\"\nlimits.max_connections = 0\nauth_api.type = \"simple\"\nadmin.auth_token = \"\"\n\
         attestation.urls.pccs = \"ftp://x\"\nonboard.auto_bootstrap_domain = \"a_b\"",
    );
    for arguments in [&["check"][..], &[]] {
        let findings = setting.run(arguments).await;
        assert_eq!(findings.code, 1);
        let text = findings.text();
        for part in [
            "rpc.prot",
            "port",
            "core.cert_dri",
            "cert_dir",
            "core.limits.max_connections",
            "core.auth_api.type",
            "core.attestation.urls.pccs",
            "core.onboard.auto_bootstrap_domain",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_check_refuses_run_refuses_in_the_same_words() {
    let setting = Setting::with("").await;
    let world = &setting.world;
    fs::write(world.path("junk"), "junk\n").expect("a file");
    fs::create_dir(world.path("locked")).expect("a directory");
    let locked = fs::File::create(world.path("locked/audit")).expect("a file");
    locked.lock().expect("a lock");
    let [absent, junk, taken, below_junk] =
        ["absent", "junk", "locked/audit", "junk/audit"].map(|name| world.path(name).display().to_string());
    for (toml, text) in [
        (
            format!("core.attestation.root_ca.tdx = \"{absent}\""),
            "core.attestation.root_ca.tdx cannot be read: No such file",
        ),
        (format!("core.attestation.root_ca.tdx = \"{junk}\""), "core.attestation.root_ca.tdx: "),
        (
            format!("core.admin.htpasswd_file = \"{absent}\""),
            "core.admin.htpasswd_file cannot be read: No such file",
        ),
        (
            format!("core.admin.htpasswd_file = \"{junk}\""),
            "core.admin.htpasswd_file: line 1 of the htpasswd file is not",
        ),
        (format!("core.audit.file = \"{taken}\""), "audit file audit is in use by another process"),
        (format!("core.audit.file = \"{below_junk}\""), "audit file audit cannot be used: "),
        (format!("core.audit.file = \"{junk}\""), "audit record "),
        (format!("core.freeze.file = \"{junk}\""), "the file that core.freeze.file names is damaged"),
        (
            format!("core.freeze.file = \"{below_junk}\""),
            "the file that core.freeze.file names cannot be read",
        ),
        ("core.attester.address = \"unix:\"".to_owned(), "attester address must be"),
        (format!("core.cert_dir = \"{junk}\""), "the key directory: "),
        ("core.attester.type = \"configfs_tsm\"".to_owned(), "core.attester.event_log: must name the file"),
    ] {
        let mut setting = Setting::with("").await;
        setting.configure(&toml);
        let before = fs::read(&junk).expect("a file");
        let checked = setting.run(&["check"]).await;
        assert_eq!(checked.code, 1, "{toml}: {}", checked.text());
        assert!(checked.text().contains(text), "{toml}: {}", checked.text());
        assert!(!setting.world.path("certs").exists(), "{toml}: nothing is made");
        assert_eq!(fs::read(&junk).expect("a file"), before, "{toml}");
        let ran = setting.run(&[]).await;
        assert_eq!(ran.code, 1, "{toml}: {}", ran.text());
        assert!(ran.err.contains(text), "{toml}: {}", ran.err);
        assert!(!ran.err.contains(world.path("").to_str().expect("text")), "no path in a log: {}", ran.err);
    }
    let ran = {
        let mut setting = Setting::with("").await;
        setting.configure(&format!(
            "core.admin.htpasswd_file = \"{junk}\"\ncore.attestation.root_ca.tdx = \"{absent}\""
        ));
        setting.run(&["check"]).await
    };
    assert_eq!(ran.out.matches("REFUSED").count(), 2, "all at once: {}", ran.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_says_what_would_keep_a_kms_from_releasing_anything() {
    let mut setting = Setting::with("core.onboard.auto_bootstrap_domain = \"localhost\"").await;
    let fine = setting.run(&["check"]).await.expect_ok();
    let file = setting.world.path("kms.toml").display().to_string();
    let set = format!("set       core.onboard.auto_bootstrap_domain = \"localhost\"  (in {file})");
    assert!(fine.out.contains(&set), "{}", fine.out);
    assert!(fine.out.contains("set       core.admin.auth_token = (set)"), "{}", fine.out);
    let program = setting.start().await;
    eventually("it has its keys", async || setting.caller().try_json("GetMeta", json!({})).await.ok()).await;
    let beside = setting.run(&["check"]).await.expect_ok();
    assert!(beside.out.contains("running   a KMS has this audit log open"), "{}", beside.out);
    assert!(
        beside.out.contains("keys      found") && beside.out.contains("run would start"),
        "{}",
        beside.out
    );
    assert_eq!(program.stop(Signal::TERM).await, Some(0));

    // An audit log that does not end with a record, and one from a clock that was ahead.
    let log = setting.world.key_file("audit.jsonl");
    let records = fs::read(&log).expect("an audit log");
    fs::write(&log, [records.as_slice(), &[0; 900]].concat()).expect("an audit log");
    let damaged = setting.run(&["check"]).await.expect_ok();
    assert!(damaged.out.contains("warning   the last 900 bytes of the audit file"), "{}", damaged.out);
    fs::write(&log, &records).expect("an audit log");
    crate::support::append_record(&log, "2999-01-01T00:00:00Z");
    let ahead = setting.run(&["check"]).await;
    assert_eq!(ahead.code, 1, "{}", ahead.out);
    assert!(ahead.out.contains("USELESS   the clock is "), "{}", ahead.out);
    assert!(ahead.out.contains("kmsctl clock-floor lower"), "{}", ahead.out);
    fs::write(&log, &records).expect("an audit log");

    // A file with warnings of `kms policy check`, and one that denies everyone.
    let allowlist = setting.world.path("auth-config.json");
    let content = fs::read_to_string(&allowlist).expect("an allowlist");
    fs::write(&allowlist, r#"{"osImages": ["0x12"], "ksm": {}}"#).expect("a file");
    let warned = setting.run(&["check"]).await.expect_ok();
    let policy = setting.run(&["policy", "check", allowlist.to_str().expect("text")]).await;
    let warnings = policy.out.matches("warning ").count();
    assert!(warnings > 2, "{}", policy.out);
    assert_eq!(warned.out.matches("warning   allowlist: ").count(), warnings, "{}", warned.out);
    assert!(
        warned.out.contains("allowlist: ksm") && warned.out.contains("run would start, with "),
        "{}",
        warned.out
    );
    for broken in [Some("{\"osImages\": ["), None] {
        match broken {
            Some(text) => fs::write(&allowlist, text).expect("a file"),
            None => fs::remove_file(&allowlist).expect("removed"),
        }
        let useless = setting.run(&["check"]).await;
        assert_eq!(useless.code, 1, "{}", useless.out);
        assert!(useless.out.contains("USELESS   the policy would deny everyone"), "{}", useless.out);
        assert!(useless.out.contains("run would come up and release nothing"), "{}", useless.out);
    }
    fs::write(&allowlist, content).expect("a file");

    // Without a guest agent a KMS with keys has no TLS certificate; one without keys only waits.
    setting.configure("core.attester.address = \"unix:/absent/agent.sock\"");
    let refused = setting.run(&["check"]).await;
    assert_eq!(refused.code, 1, "{}", refused.out);
    assert!(
        refused.out.contains("REFUSED   the TLS certificate needs evidence of this machine"),
        "{}",
        refused.out
    );
    assert!(refused.out.contains("(unix:/absent/agent.sock); there is no such socket"), "{}", refused.out);
    setting.configure(&format!("core.cert_dir = \"{}\"", setting.world.path("other").display()));
    let useless = setting.run(&["check"]).await;
    assert_eq!(useless.code, 1, "{}", useless.out);
    assert!(useless.out.contains("USELESS   there is no evidence of this machine"), "{}", useless.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_without_a_domain_are_refused_before_and_at_the_start() {
    let mut setting = Setting::with("core.onboard.auto_bootstrap_domain = \"localhost\"").await;
    let program = setting.start().await;
    assert_eq!(program.stop(Signal::TERM).await, Some(0));
    setting.configure("core.onboard.auto_bootstrap_domain = \"\"");
    setting.run(&["check"]).await.expect_ok();
    fs::remove_file(setting.world.key_file("rpc-domain")).expect("removed");
    for arguments in [&["check"][..], &[]] {
        let ran = setting.run(arguments).await;
        assert_eq!(ran.code, 1);
        assert!(ran.text().contains("names the domain of this KMS"), "{}", ran.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notices_are_logged_without_paths_and_checked_with_them() {
    let toml = "core.sev_snp_key_release = true\nrpc.tls.key = \"/elsewhere/rpc.key\"";
    let setting = Setting::with(toml).await;
    let file = setting.world.path("kms.toml").display().to_string();
    let checked = setting.run(&["check"]).await.expect_ok();
    let notice = "core.sev_snp_key_release: without effect: this version verifies Intel TDX evidence only";
    assert!(checked.out.contains(&format!("notice    {notice} (in {file})")), "{}", checked.out);
    let program = setting.start().await;
    let log = program.log();
    assert!(log.contains(notice), "{log}");
    assert!(
        log.contains("rpc.tls.key: without effect: the listener uses the file in core.cert_dir"),
        "{log}"
    );
    assert!(!log.contains(setting.world.path("").to_str().expect("text")), "{log}");
    assert_eq!(program.stop(Signal::TERM).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reasons_not_to_start_are_one_line_and_status_1() {
    let mut setting = Setting::with("core.onboard.auto_bootstrap_domain = \"localhost\"").await;
    let program = setting.start().await;
    let second = setting.run(&[]).await;
    assert_eq!(second.code, 1, "{}", second.text());
    assert!(second.err.contains("Error: "), "{}", second.err);
    assert_eq!(setting.caller().json("GetMeta", json!({})).await.status, 200, "the first one goes on");
    assert_eq!(program.stop(Signal::TERM).await, Some(0));

    let taken = TcpListener::bind(setting.address).expect("the port is free again");
    let ran = setting.run(&[]).await;
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains(&format!("Error: cannot listen on {}: Address already in use", setting.address)),
        "{}",
        ran.err
    );
    drop(taken);

    let key = setting.world.key_file("root-ca.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("mode");
    let text = "root-ca.key has mode 0644, others may use the key: run chmod 600 on it";
    for arguments in [&[][..], &["check"]] {
        let ran = setting.run(arguments).await;
        assert_eq!(ran.code, 1);
        assert!(ran.text().contains(text), "{}", ran.text());
    }
    setting.configure("core.insecure_world_readable_keys = true");
    let program = setting.start().await;
    assert!(
        program.log().contains("RELAXED: the key directory may be readable by others"),
        "{}",
        program.log()
    );
    assert_eq!(program.stop(Signal::TERM).await, Some(0));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("mode");

    fs::remove_file(setting.world.key_file("root-k256.key")).expect("removed");
    let ran = setting.run(&[]).await;
    assert_eq!(ran.code, 1);
    let text =
        "Error: the key directory is incomplete (root-k256.key is missing although root-ca.key is there";
    assert!(ran.err.contains(text), "{}", ran.err);
    assert!(setting.run(&["check"]).await.out.contains("REFUSED   the key directory is incomplete"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_is_checked() {
    let setting = Setting::with("").await;
    let missing = setting.world.path("missing.toml").display().to_string();
    for (arguments, code, text) in [
        (&["--version"][..], 0, concat!("kms v", env!("CARGO_PKG_VERSION"))),
        (&["--help"], 0, "Usage: kms"),
        (&["nonsense"], 2, "unrecognized subcommand 'nonsense'"),
        (&["--nonsense"], 2, "unexpected argument '--nonsense'"),
        (&["-c", &missing], 1, "missing.toml"),
        (&["-c", &missing, "check"], 1, "missing.toml"),
        (&["audit", "verify", &missing], 1, "missing.toml"),
    ] {
        let mut command = std::process::Command::new(KMS);
        command.args(arguments).env_clear().current_dir(setting.world.path(""));
        let ran = finish(command, String::new()).await;
        assert_eq!(ran.code, code, "{arguments:?}: {}", ran.text());
        assert!(ran.text().contains(text), "{arguments:?}: {}", ran.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_working_directory_is_a_layer_and_the_environment_gives_tokens() {
    let setting =
        Setting::with("core.onboard.auto_bootstrap_domain = \"localhost\"\ncore.admin.auth_token = \"\"")
            .await;
    fs::write(setting.world.path("kms.json"), r#"{"core": {"site_name": "from json"}}"#).expect("kms.json");
    let mut command = std::process::Command::new(KMS);
    command.args(["check"]).env_clear().env("ADMIN_API_TOKEN", " t0ken ").current_dir(setting.world.path(""));
    let ran = finish(command, String::new()).await.expect_ok();
    assert!(ran.out.contains("kms.toml") && ran.out.contains("kms.json"), "{}", ran.out);
    assert!(!ran.text().contains("t0ken"), "{}", ran.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_an_exit_status() {
    let setting = Setting::with("").await;
    let program = setting.start().await;
    for url in [format!("http://{}", setting.address), format!("https://{}/", setting.address)] {
        setting.run(&["health", "--live", "--url", &url]).await.expect_ok();
        let ran = setting.run(&["health", "--url", &url]).await;
        assert_eq!(ran.code, 1, "{}", ran.text());
        assert!(ran.err.contains("not ready: ") && ran.err.contains("(no_keys)"), "{}", ran.err);
    }
    assert_eq!(program.stop(Signal::TERM).await, Some(0));
    for arguments in [&["health", "--live"][..], &["health"][..]] {
        let url = format!("http://{}", setting.address);
        let ran = setting.run(&[arguments, &["--url", &url]].concat()).await;
        assert_eq!(ran.code, 1);
        assert!(ran.err.contains("no answer from"), "{}", ran.err);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_of_a_kms_that_serves_is_its_readiness() {
    let setting = Setting::with("core.onboard.auto_bootstrap_domain = \"localhost\"").await;
    let program = setting.start().await;
    let url = format!("https://{}", setting.address);
    let health =
        async |arguments: &[&str]| setting.run(&[&["health", "--url", &url], arguments].concat()).await;
    eventually("readiness", async || (health(&[]).await.code == 0).then_some(())).await;
    setting.world.allowlist.write_text("{\"osImages\": [");
    let ran = eventually("a refusal", async || Some(health(&[]).await).filter(|ran| ran.code != 0)).await;
    assert!(ran.err.contains("(allowlist_unusable)"), "{}", ran.err);
    health(&["--live"]).await.expect_ok();
    assert_eq!(program.stop(Signal::TERM).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_moment_of_bootstrap_leaves_no_keys_or_all_of_them() {
    let bootstrap = async |caller: crate::support::Caller| {
        caller.try_json("Bootstrap", json!({ "domain": DOMAIN })).await.ok()
    };
    let usual = {
        let setting = Setting::with("").await;
        let _program = setting.start().await;
        let began = Instant::now();
        bootstrap(setting.caller().plain()).await.expect("keys");
        began.elapsed()
    };
    let (mut nothing, mut everything) = (0, 0);
    for tenths in 1..=12 {
        let setting = Setting::with("").await;
        let program = setting.start().await;
        let caller = setting.caller().plain();
        let kill = async {
            tokio::time::sleep(usual * tenths / 10).await;
            program.signal(Signal::KILL);
        };
        let (answered, ()) = tokio::join!(bootstrap(caller), kill);
        drop(program);

        let certs = setting.world.path("certs");
        let directory = KeyDirectory::open(&certs, Permissions::OwnerOnly).expect("a directory");
        let k256 = match directory.state().expect("readable") {
            State::Empty => None,
            State::Complete(stored) => Some(hex::encode(stored.keyring.epochs()[0].public().k256)),
            State::Broken { reason, .. } => panic!("after {tenths} tenths: {reason}"),
        };
        drop(directory);
        if let Some(answer) = answered.filter(|answer| answer.status == 200) {
            assert_eq!(Some(answer.value()["k256_pubkey"].as_str().expect("hex")), k256.as_deref());
        }
        // It restarts with these keys or with none.
        let program = setting.start().await;
        match k256 {
            None => {
                nothing += 1;
                let answer = bootstrap(setting.caller().plain()).await.expect("an answer");
                assert_eq!(answer.status, 200, "after {tenths} tenths: {answer:?}");
            }
            Some(k256) => {
                everything += 1;
                let meta = setting.caller().json("GetMeta", json!({})).await.value();
                assert_eq!(meta["k256_pubkey"], k256);
            }
        }
        assert_eq!(program.stop(Signal::TERM).await, Some(0));
    }
    println!("{nothing} times nothing, {everything} times everything, within {usual:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_key_handed_out_before_a_kill_has_its_line() {
    let setting = Setting::with("core.onboard.auto_bootstrap_domain = \"localhost\"").await;
    let killed = killed_under_load(&setting, |kills| kills < 10).await.expect("an account");
    assert!(killed.handed >= 80 && killed.recorded >= killed.handed, "{} {}", killed.handed, killed.recorded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_releases_and_nothing_else() {
    let setting = Setting::with("core.onboard.auto_bootstrap_domain = \"localhost\"").await;
    let program = setting.start().await;
    let app = setting.world.app(1);
    setting.world.allow_app(&app);
    let caller = setting.caller().shows(&Identity::self_issued(&app));
    assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200);
    assert_eq!(program.stop(Signal::TERM).await, Some(0));

    // No file may grow, as on a full disk. The signals about it are ignored. The certificate, which is
    // written at each start, still fits.
    let size = |name: &str| fs::metadata(setting.world.key_file(name)).expect("a file").len();
    let blocks = size("audit.jsonl").max(size("rpc.crt")).div_ceil(512) + 2;
    let file = setting.world.path("kms.toml").display().to_string();
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec {KMS} -c {file} 2>/dev/null");
    let mut limited = std::process::Command::new("sh");
    let mut limited = limited.args(["-c", &script]).spawn().expect("sh");
    eventually("the port opens", async || setting.caller().try_json("GetMeta", json!({})).await.ok()).await;
    let refusal = eventually("the disk is full", async || {
        let answer = caller.json("GetAppKey", json!({})).await;
        (answer.status != 200).then(|| answer.refusal())
    })
    .await;
    assert_eq!(refusal, (503, "the release cannot be recorded, so nothing is released".to_owned()));
    assert_eq!(caller.json("GetMeta", json!({})).await.status, 200);
    limited.kill().expect("it runs");
    limited.wait().expect("it ends");
    let key = P256Key::from_pem(&fs::read_to_string(setting.world.key_file("rpc.key")).expect("key"));
    assert!(key.is_ok(), "the keys are whole");
    cvm_kms::audit::verify_file(&setting.world.key_file("audit.jsonl")).expect("an unbroken chain");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_to_keys_and_credentials_has_a_line_in_the_log_and_no_secret_has() {
    let toml = format!("[core.onboard]\nauth_token = \"{ADMIN_TOKEN} of onboarding\"");
    let setting = Setting::with(&toml).await;
    let program = setting.start().await;
    let token = format!("{ADMIN_TOKEN} of onboarding");
    let caller = setting.caller().plain();
    let bootstrap = |token: &str| {
        crate::support::http::with(
            crate::support::http::json("Bootstrap", json!({ "domain": DOMAIN })),
            "x-onboard-token",
            token,
        )
    };
    assert_eq!(caller.send(bootstrap("a guess at it")).await.status, 401);
    assert_eq!(caller.send(bootstrap(&token)).await.status, 200);
    let finish = crate::support::http::with(
        crate::support::http::json("Finish", json!({})),
        "x-onboard-token",
        &token,
    );
    assert_eq!(caller.send(finish).await.status, 200);
    let meta = eventually("keys", async || {
        let answer = setting.caller().try_json("GetMeta", json!({})).await.ok()?;
        (answer.status == 200).then(|| answer.value())
    })
    .await;
    let app = setting.world.app(1);
    setting.world.allow_app(&app);
    let keys = setting.caller().shows(&Identity::self_issued(&app)).json("GetAppKey", json!({})).await;
    assert_eq!(keys.status, 200, "{keys:?}");
    let replica = setting.world.replica();
    let root = setting.caller().shows(&Identity::self_issued(&replica)).json("GetKmsKey", json!({})).await;
    assert_eq!(root.status, 200, "{root:?}");
    let expected = [
        "a wrong onboarding token was shown",
        "root keys made",
        meta["k256_pubkey"].as_str().expect("hex"),
        "app keys released",
        &hex::encode(app.app_id()),
        &hex::encode(app.instance_id()),
        "ROOT KEYS given to a replica",
        &hex::encode(replica.mr_aggregated()),
    ];
    let log = eventually("each line", async || {
        Some(program.log()).filter(|log| expected.iter().all(|text| log.contains(*text)))
    })
    .await;
    let secrets = ["disk_crypt_key", "env_crypt_key", "k256_key"].map(|key| keys.value()[key].clone());
    for secret in secrets.iter().map(|secret| secret.as_str().expect("hex")) {
        assert!(!log.contains(secret), "{log}");
    }
    assert!(!log.contains("a guess at it") && !log.contains(ADMIN_TOKEN), "{log}");
    assert_eq!(program.stop(Signal::TERM).await, Some(0));
}
