//! The commands about policy: `kms auth serve` as another KMS's backend, and `kms policy check` before a change.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::http::{post, request, with};
use crate::support::process::{Ran, finish};
use crate::support::program::KMS;
use crate::support::{AllowlistFile, Caller, Identity, PATIENCE, World, eventually};
use base64::Engine as _;
use http::Request;
use kms_policy::bundle::minisign_vectors;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const TOKEN: &str = "the-token-of-askers";

/// A running `kms auth serve`; dropping it kills it.
struct AuthServe {
    child: Child,
    address: SocketAddr,
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(KMS);
    command.args(arguments).env_clear().current_dir("/").stdin(Stdio::null());
    command
}

impl AuthServe {
    async fn start(file: &Path, arguments: &[&str], token: Option<&str>) -> Self {
        let mut command = command(&["auth", "serve", "--port", "0", "--file"]);
        command.arg(file).args(arguments).stdout(Stdio::piped()).stderr(Stdio::null());
        if let Some(token) = token {
            command.env("KMS_WEBHOOK_TOKEN", token);
        }
        let mut child = command.spawn().expect("the program starts");
        let stdout = child.stdout.take().expect("piped");
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).map(|_| line)
        });
        let line = line.await.expect("no panic").expect("a line");
        let address = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("{line:?}"));
        let address = address.parse().expect("an address");
        Self { child, address }
    }

    fn caller(&self) -> Caller {
        Caller::new(self.address).plain()
    }

    /// SIGTERM, and the exit status.
    async fn stop(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it runs");
        let child = std::sync::Mutex::new(&mut self.child);
        eventually("its end", async || child.lock().expect("no panic").try_wait().expect("a status"))
            .await
            .code()
    }
}

impl Drop for AuthServe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// PKCS #8 in PEM of the key of RFC 8032, section 7.1, test 1, and the public key.
fn signing_key() -> (String, &'static str) {
    let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    let der = hex::decode(format!("302e020100300506032b657004220420{seed}")).expect("hex");
    let base64 = base64::engine::general_purpose::STANDARD.encode(der);
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{base64}\n-----END PRIVATE KEY-----\n");
    (pem, "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
}

#[tokio::test]
async fn a_kms_asks_another_programs_allow_list_with_token_and_signature() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = AllowlistFile::new(directory.path().join("auth-config.json"));
    let (pem, public) = signing_key();
    let key = directory.path().join("decision.key");
    fs::write(&key, pem).expect("a key");
    let arguments = ["--signing-key", key.to_str().expect("UTF-8")];
    let backend = AuthServe::start(file.path(), &arguments, Some(TOKEN)).await;
    let toml = format!(
        "[core.auth_api]\ntype = \"webhook\"\n[core.auth_api.webhook]\nurl = \"http://{}\"\n\
         bearer_token = \"{TOKEN}\"\ndecision_key = \"{public}\"",
        backend.address
    );
    let mut world = World::stopped_with(&toml).await;
    let app = world.app(1);
    file.allow_kms(&world.cvm);
    world.start().await.expect("starts");
    world.bootstrap().await;
    world.finish().await;
    let caller = world.caller().shows(&Identity::self_issued(&app));
    let refusal = caller.json("GetAppKey", json!({})).await.refusal();
    assert_eq!(refusal, (403, "App not allowed: Boot denied: app not registered".to_owned()));
    file.allow_app(&app);
    let keys = caller.json("GetAppKey", json!({})).await;
    assert_eq!((keys.status, &keys.value()["gateway_app_id"]), (200, &json!("0xgateway")));
    eventually("the backend's description", async || {
        let meta = world.caller().json("GetMeta", json!({})).await.value();
        (meta["chain_id"] == 7 && meta["gateway_app_id"] == "0xgateway").then_some(())
    })
    .await;
    file.write_text("{");
    let refusal = caller.json("GetAppKey", json!({})).await.refusal();
    assert_eq!(refusal.0, 403, "the allowlist cannot be used: {}", refusal.1);

    // With a key that is not pinned, or a wrong token, there is no decision.
    let other = "00".repeat(32);
    for change in [
        format!("core.auth_api.webhook.decision_key = \"{other}\""),
        format!("core.auth_api.webhook = {{ decision_key = \"{public}\", bearer_token = \"other\" }}"),
    ] {
        world.configure(&change);
        world.start().await.expect("starts");
        let caller = world.caller().shows(&Identity::self_issued(&app));
        let (status, text) = caller.json("GetAppKey", json!({})).await.refusal();
        assert_eq!(status, 503, "{text}");
        assert!(!text.contains("127.0.0.1") && !text.contains(TOKEN), "{text}");
    }
    assert_eq!(backend.stop().await, Some(0));
}

fn question(app: &str) -> Value {
    json!({
        "mrAggregated": "55".repeat(32), "osImageHash": "44".repeat(32), "appId": app, "tcbStatus": "UpToDate",
        "composeHash": "22".repeat(32), "instanceId": "", "deviceId": "33".repeat(32),
    })
}

fn asked(app: &str) -> Request<bytes::Bytes> {
    with(post("/bootAuth/app", question(app).to_string()), "content-type", "application/json")
}

#[tokio::test]
async fn auth_serve_answers_as_auth_simple_does_and_stops_in_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("auth-config.json");
    let app = "11".repeat(20);
    let backend = AuthServe::start(&path, &["--insecure-empty-devices-allow-any"], None).await;
    let caller = backend.caller();
    let decision = async || {
        let answer = caller.send(asked(&app)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        (answer.value()["isAllowed"] == true, answer.value()["reason"].as_str().expect("a reason").to_owned())
    };
    assert_eq!(decision().await, (false, "OS image is not allowed".to_owned()), "there is no file");
    let rules = json!({
        "gatewayAppId": "any", "osImages": ["0x".to_owned() + &"44".repeat(32)],
        "apps": { &app: { "composeHashes": ["22".repeat(32)], "devices": [] } },
    });
    fs::write(&path, rules.to_string()).expect("a file");
    assert_eq!(decision().await, (true, String::new()));
    let unsigned = caller.send(asked(&app)).await.value();
    assert_eq!(unsigned, json!({"isAllowed": true, "gatewayAppId": "any", "reason": ""}));
    assert_eq!(caller.send(asked("22")).await.value()["reason"], "app not registered");
    assert_eq!(caller.get("/").await.value()["status"], "ok");
    assert_eq!(caller.get("/health").await.status, 200);
    assert_eq!(caller.get("/elsewhere").await.status, 404);
    assert_eq!(caller.send(request("POST", "/bootAuth/app", "{}")).await.status, 400);

    // Signals of log rotation and monitoring do not end it.
    for signal in [Signal::USR1, Signal::USR2, Signal::XFSZ, Signal::HUP] {
        kill_process(Pid::from_child(&backend.child), signal).expect("it runs");
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(caller.get("/health").await.status, 200);

    // An idle connection does not delay the end.
    let mut line = caller.connect().await.expect("a connection");
    assert_eq!(line.send(request("GET", "/", "")).await.status, 200);
    let silent = tokio::net::TcpStream::connect(backend.address).await.expect("a connection");
    let stopped = tokio::time::timeout(PATIENCE, backend.stop()).await;
    assert_eq!(stopped.expect("soon"), Some(0));
    drop(silent);

    let strict = AuthServe::start(&path, &[], None).await;
    let answer = strict.caller().send(asked(&app)).await.value();
    assert_eq!(answer["reason"], "app is not allowed to boot on this device");
}

#[tokio::test]
async fn auth_serve_says_what_it_cannot_use() {
    let directory = tempfile::tempdir().expect("a directory");
    let key = directory.path().join("key");
    fs::write(&key, "no key").expect("a file");
    let key = key.to_str().expect("UTF-8");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener.local_addr().expect("an address").port().to_string();
    for (arguments, expected) in [
        (["--signing-key", "/nowhere"], "--signing-key cannot be read: No such file"),
        (["--signing-key", key], "--signing-key cannot be used: holds no Ed25519 private key in PEM"),
        (["--address", "here"], "invalid value 'here' for '--address"),
        (["--port", "70000"], "invalid value '70000' for '--port"),
    ] {
        let mut command = command(&["auth", "serve"]);
        command.args(arguments);
        let ran = finish(command, String::new()).await;
        assert!(ran.code != 0 && ran.err.contains(expected), "{}", ran.text());
    }
    let ran = finish(command(&["auth", "serve", "--port", &taken]), String::new()).await;
    assert!(ran.code == 1 && ran.err.contains("cannot listen on 127.0.0.1"), "{}", ran.text());
    drop(listener);
}

/// Files to check.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn write(&self, name: &str, content: &str) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, content).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    }
}

async fn check(arguments: &[&str]) -> Ran {
    finish(command(&[&["policy", "check"], arguments].concat()), String::new()).await
}

fn rules(change: impl FnOnce(&mut Value)) -> String {
    let mut rules = json!({
        "gatewayAppId": "0xgate",
        "osImages": ["44".repeat(32)],
        "kms": {"mrAggregated": ["55".repeat(32)], "allowAnyDevice": true},
        "apps": {"11".repeat(20): {"composeHashes": ["22".repeat(32)], "devices": []}},
    });
    change(&mut rules);
    rules.to_string()
}

#[tokio::test]
async fn policy_check_tells_what_a_file_does_and_what_it_would_change() {
    let files = Files::new();
    let good = files.write("good.json", &rules(|_| {}));
    let ran = check(&["--insecure-empty-devices-allow-any", &good]).await.expect_ok();
    let app = "11".repeat(20);
    assert!(
        ran.out.contains(&format!("warning   apps.{app}.devices is empty: any device is allowed")),
        "{}",
        ran.out
    );
    let line = "allows    1 apps with 1 compose hashes, 1 OS images, 1 KMS measurements, 1 TCB statuses, 0 advisories";
    assert!(ran.out.contains(line), "{}", ran.out);
    let strict = check(&[&good]).await.expect_ok();
    assert!(
        strict.out.contains("is empty: no device is allowed, unless allowAnyDevice is true"),
        "{}",
        strict.out
    );

    let changed = files.write("new.json", &rules(|rules| rules["osImages"] = json!(["45".repeat(32)])));
    let ran = check(&[&changed, "--against", &good]).await.expect_ok();
    assert!(ran.out.contains("changes   1 newly allowed, 1 newly denied"), "{}", ran.out);
    assert!(ran.out.contains(&format!("+         OS image {}", "45".repeat(32))), "{}", ran.out);
    assert!(ran.out.contains(&format!("-         OS image {}", "44".repeat(32))), "{}", ran.out);

    let ran = check(&["--json", &changed, "--against", &good]).await.expect_ok();
    let told: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(told["usable"], true);
    assert_eq!(told["summary"]["apps"], 1);
    assert_eq!(told["findings"][0]["severity"], "warning");
    assert_eq!(told["findings"][0]["code"], "no_device");
    let expected = json!([{"kind": "os_image", "hash": "45".repeat(32)}]);
    assert_eq!(told["difference"]["newly_allowed"], expected);
}

#[tokio::test]
async fn policy_check_refuses_what_would_deny_everything() {
    let files = Files::new();
    let good = files.write("good.json", &rules(|_| {}));
    for (content, expected) in [
        ("{\n  \"apps\": {},\n}", "ERROR     line 3, column 1 is not valid JSON"),
        ("", "ERROR     line 1, column 0 is not valid JSON"),
        ("[]", "ERROR     the file must be an object"),
        (&*rules(|rules| rules["osImages"][0] = json!(5)), "ERROR     osImages[0] must be a text"),
    ] {
        let bad = files.write("bad.json", content);
        let ran = check(&[&bad]).await;
        assert_eq!(ran.code, 1, "{}", ran.text());
        assert!(ran.out.contains(expected), "{}", ran.out);
        assert!(ran.out.contains("allows    nothing: everything would be denied"), "{}", ran.out);
        let ran = check(&[&bad, "--against", &good, "--json"]).await;
        let told: Value = serde_json::from_str(&ran.out).expect("JSON");
        assert_eq!((ran.code, &told["usable"]), (1, &json!(false)));
        assert!(
            told["difference"]["newly_denied"].as_array().is_some_and(|denied| denied.len() > 3),
            "{told}"
        );
        let ran = check(&[&good, "--against", &bad]).await.expect_ok();
        assert!(
            ran.out.contains("the file to compare with cannot be used: it denies everything"),
            "{}",
            ran.out
        );
    }
    let ran = check(&["/nowhere/auth-config.json"]).await;
    assert!(ran.code == 1 && ran.err.contains("/nowhere/auth-config.json cannot be read"), "{}", ran.text());
}

/// The arguments of `kms policy`, run to the end.
async fn policy(arguments: &[&str]) -> Ran {
    finish(command(&[&["policy"], arguments].concat()), String::new()).await
}

#[tokio::test]
async fn bundles_are_made_signed_by_several_and_checked() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = tempfile::tempdir().expect("a directory");
    let path = |name: &str| home.path().join(name).display().to_string();
    let allowlist = AllowlistFile::new(home.path().join("auth-config.json"));
    let rules = allowlist.path().display().to_string();
    let done = async |arguments: &[&str]| {
        let ran = policy(arguments).await;
        assert_eq!(ran.code, 0, "{arguments:?}: {}{}", ran.out, ran.err);
        ran.out
    };
    let key = async |name: &str| {
        let file = path(&format!("{name}.key"));
        let vkey = done(&["keygen", "--name", &format!("team/{name}"), "--out", &file]).await;
        assert_eq!(fs::metadata(&file).expect("a key").permissions().mode() & 0o777, 0o600);
        assert_eq!(policy(&["keygen", "--name", "team/x", "--out", &file]).await.code, 1, "kept");
        (file, vkey.trim().to_owned())
    };
    let ((ann, ann_key), (bob, bob_key)) = (key("ann").await, key("bob").await);
    let (first, second) = (path("1.bundle"), path("2.bundle"));
    let signed = async |more: &[&str]| {
        let mut arguments = vec!["sign", &*rules, "--key", &*ann, "--expires", "90d"];
        arguments.extend(more);
        policy(&arguments).await.code
    };
    assert_eq!(signed(&["--name", "prod", "--out", &first]).await, 0);
    done(&["sign", &first, "--key", &bob, "--out", &first]).await;
    assert_eq!(signed(&["--previous", &first, "--out", &second]).await, 0);
    let shown: Value = serde_json::from_str(&done(&["show", &second, "--json"]).await).expect("JSON");
    assert_eq!(
        (&shown["serial"], &shown["name"], &shown["verified"]),
        (&json!(2), &json!("prod"), &json!(false))
    );
    let before: Value = serde_json::from_str(&done(&["show", &first, "--json"]).await).expect("JSON");
    assert_eq!(shown["previous"], before["digest"]);
    let check = async |file: &str| {
        let keys = ["--signer", &ann_key, "--signer", &bob_key, "--threshold", "2"];
        policy(&[&["check", file, "--json"], &keys[..]].concat()).await
    };
    let checked = check(&first).await;
    assert_eq!(checked.code, 0, "{}", checked.err);
    let checked: Value = serde_json::from_str(&checked.out).expect("JSON");
    assert_eq!(checked["bundle"]["signers"], json!(["team/ann", "team/bob"]));
    let ran = check(&second).await;
    assert!(ran.code == 1 && ran.err.contains("1 of the pinned keys"), "{}", ran.err);
    // minisign signs the text alone, and its signature is read beside it.
    let text = path("3.bundle");
    let unsigned = ["--unsigned", "--previous", &second, "--expires", "2999-01-01T00:00:00Z", "--out", &text];
    assert_eq!(policy(&[&["sign", &*rules], &unsigned[..]].concat()).await.code, 0);
    let ran = policy(&["show", &text]).await;
    assert!(ran.code == 1 && ran.err.contains("has no signature"), "{}", ran.err);
    let by_minisign = path("4.bundle");
    fs::write(&by_minisign, minisign_vectors::FIRST).expect("a text");
    fs::write(path("4.bundle.minisig"), minisign_vectors::BY_ONE).expect("a signature");
    let public = minisign_vectors::ONE.lines().nth(1).expect("a key");
    let shown: Value = serde_json::from_str(&done(&["show", &by_minisign, "--json"]).await).expect("JSON");
    assert_eq!(shown["claimed_signers"], json!(["minisign/DDFD49498CF8CC92"]));
    done(&["check", &by_minisign, "--minisign-signer", public]).await;
    let both = path("5.bundle");
    done(&["sign", &by_minisign, "--key", &ann, "--out", &both]).await;
    let keys = ["--signer", &ann_key, "--minisign-signer", public, "--threshold", "2", "--json"];
    let checked: Value =
        serde_json::from_str(&done(&[&["check", &*both], &keys[..]].concat()).await).expect("JSON");
    assert_eq!(checked["bundle"]["signers"], json!(["team/ann", "minisign/DDFD49498CF8CC92"]));
    fs::write(path("4.bundle.minisig"), minisign_vectors::SECOND_BY_ONE).expect("a signature");
    let ran = policy(&["check", &by_minisign, "--minisign-signer", public]).await;
    assert!(ran.code == 1 && ran.err.contains("it is not over this text"), "{}", ran.err);
    let foreign = path("agent-attestation-allowlist.json");
    let text = json!({ "version": "1.0", "release_tag": "v1", "quote_measurements": { "rtmr0": "00" } });
    fs::write(&foreign, text.to_string()).expect("a file");
    let arguments = ["sign", &foreign, "--key", &ann, "--name", "x", "--expires", "1d", "--out", &second];
    let ran = policy(&arguments).await;
    assert!(ran.code == 1 && ran.err.contains("without its MRTD"), "{}", ran.err);
}
