//! `kmsctl env`: encrypts to the right key or not at all, so that only the app can decrypt.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use kms_attest::identity::AppId;
use kms_client::environment::envelope;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::json;
use sha2::{Digest as _, Sha256};

// The path that the test server uses.
use crate::support::{Desk, Kms, Ran, RootKey, World, env_secret, now, refusal};

const ID: &str = "0101010101010101010101010101010101010101";
const APP: AppId = AppId([1; 20]);
const DOTENV: &str = "# comment\nA=1\nB = two words \nC=\"quoted\"\n";
/// The output of Python's `json.dumps({"env": […]})`.
const PLAINTEXT: &str = r#"{"env": [{"key": "A", "value": "1"}, {"key": "B", "value": "two words"}, {"key": "C", "value": "\"quoted\""}]}"#;

fn desk() -> Desk {
    let desk = Desk::default();
    desk.write(".env", DOTENV);
    desk
}

fn encrypt<'a>(url: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["env", "encrypt", ".env", "--app-id", ID, "--kms", url], more].concat()
}

fn opened(hex_text: &str) -> String {
    let sealed = hex::decode(hex_text.trim()).expect("hex");
    let plaintext = envelope::open(&env_secret(APP), &sealed).expect("the app's key opens it");
    String::from_utf8(plaintext.to_vec()).expect("text")
}

fn signer() -> String {
    RootKey::new(7).public().to_string()
}

/// A KMS whose env key response is altered.
async fn altered(world: &World, alter: impl Fn(&mut serde_json::Value) + Send + Sync + 'static) -> Kms {
    Kms::altered(world, move |method, answer| {
        if method == "GetAppEnvEncryptPubKey" {
            alter(answer);
        }
        None
    })
    .await
}

#[tokio::test]
async fn the_result_is_what_vmm_cli_makes_and_the_app_reads() {
    let world = World::start().await;
    let kms = Kms::honest(&world).await;
    let desk = desk();
    let (url, signer) = (kms.url(), signer());
    let ran = desk.run(&encrypt(&url, &["--signer", &signer])).await.expect(0);
    assert_eq!(opened(&ran.out), PLAINTEXT);
    assert!(ran.err.contains(".env: line 4: the quotes are part of the value"), "{}", ran.err);
    assert_eq!(kms.calls(), ["GetAppEnvEncryptPubKey"]);

    // The same with 0x, as JSON, and into a file.
    let prefixed = format!("0x{ID}");
    let arguments =
        ["env", "encrypt", ".env", "--app-id", &prefixed, "--kms", &url, "--signer", &signer, "--json"];
    let report = desk.run(&arguments).await.expect(0).json();
    assert_eq!(opened(report["encrypted_env"].as_str().expect("hex")), PLAINTEXT);
    assert_eq!(report["names"], json!(["A", "B", "C"]));
    assert_eq!(report["signer"], signer);
    desk.run(&encrypt(&url, &["--signer", &signer, "--out", "env.hex"])).await.expect(0);
    assert_eq!(opened(&desk.read("env.hex")), PLAINTEXT);
    desk.run(&encrypt(&url, &["--signer", &signer, "--out", "env.hex"]))
        .await
        .expect(2)
        .says("exists; --force");

    // Decrypted again, from hexadecimal and from raw bytes, with a key in either form.
    desk.write("key.hex", hex::encode(env_secret(APP)));
    desk.write("key.raw", env_secret(APP));
    desk.write("env.raw", hex::decode(desk.read("env.hex")).expect("hex"));
    for (key, file) in [("key.hex", "env.hex"), ("key.raw", "env.raw")] {
        let ran = desk.run(&["env", "decrypt", file, "--key-file", key]).await.expect(0);
        assert_eq!(ran.out, "A=1\nB=two words\nC=\"quoted\"\n");
    }
    let input = desk.read("env.hex");
    let ran = desk.run_with_input(&["env", "decrypt", "-", "--key-file", "key.hex", "--json"], &input).await;
    assert_eq!(ran.expect(0).out, PLAINTEXT);
    desk.run(&["env", "decrypt", "env.hex", "--key-file", "key.hex", "--out", "clear"]).await.expect(0);
    assert_eq!(
        (desk.read("clear").as_str(), desk.mode("clear")),
        ("A=1\nB=two words\nC=\"quoted\"\n", 0o600)
    );
}

#[tokio::test]
async fn the_app_may_be_named_by_its_compose_file() {
    let world = World::start().await;
    let kms = Kms::honest(&world).await;
    let desk = desk();
    desk.write("app-compose.json", r#"{"name": "x"}"#);
    let app_id = AppId::try_from(&Sha256::digest(r#"{"name": "x"}"#)[..20]).expect("20 bytes");
    let (url, signer) = (kms.url(), signer());
    let arguments = [
        "env",
        "encrypt",
        ".env",
        "--compose",
        "app-compose.json",
        "--kms",
        &url,
        "--signer",
        &signer,
        "--json",
    ];
    let report = desk.run(&arguments).await.expect(0).json();
    assert_eq!(report["app_id"], app_id.to_string());
    let sealed = hex::decode(report["encrypted_env"].as_str().expect("text")).expect("hex");
    assert_eq!(envelope::open(&env_secret(app_id), &sealed).expect("opens").as_slice(), PLAINTEXT.as_bytes());
}

#[tokio::test]
async fn a_compose_file_that_keeps_variables_from_the_app_is_warned_of_and_another_file_is_refused() {
    let world = World::start().await;
    let kms = Kms::honest(&world).await;
    let desk = desk();
    desk.write(".env", "KEPT=1\nLEFT_OUT=2\n");
    let (url, signer) = (kms.url(), signer());
    let encrypt = |file: &'static str| {
        ["env", "encrypt", ".env", "--compose", file, "--kms", &url, "--signer", &signer, "--out", "env.hex"]
    };
    desk.write("app-compose.json", r#"{"allowed_envs": ["KEPT"], "kms_enabled": false}"#);
    let ran = desk.run(&encrypt("app-compose.json")).await.expect(0);
    for expected in ["allowed_envs does not list LEFT_OUT", "kms_enabled is false"] {
        assert!(ran.err.contains(&format!("warning: app-compose.json: {expected}")), "{}", ran.err);
    }
    assert!(!ran.err.contains("KEPT,") && ran.out.contains("encrypted 2 variables"), "{}", ran.out);

    desk.write("app-compose.json", r#"{"allowed_envs": ["KEPT", "LEFT_OUT"], "kms_enabled": true}"#);
    desk.write(".env", "KEPT=1\n");
    let again = [&encrypt("app-compose.json")[..], &["--force"]].concat();
    let ran = desk.run(&again).await.expect(0);
    assert!(!ran.err.contains("warning") && ran.out.contains("encrypted 1 variable for"), "{}", ran.out);

    desk.write("docker-compose.yml", "services:\n  web:\n    image: x\n");
    desk.write("list.json", "[]");
    for (file, expected) in [
        ("docker-compose.yml", "docker-compose.yml: line 1, column 1: not JSON"),
        ("/dev/null", "/dev/null: line 1, column 0: not JSON"),
        ("list.json", "list.json: not a JSON object"),
    ] {
        let ran = desk.run(&[&encrypt(file)[..], &["--force"]].concat()).await.expect(2);
        ran.says(expected);
    }
}

#[tokio::test]
async fn app_keys_decrypt_what_was_encrypted_to_them() {
    let world = World::start().await;
    let kms = Kms::honest(&world).await;
    let desk = Desk::in_world(&world);
    desk.write(".env", "A=1\n");
    let (url, signer, id) = (kms.url(), signer(), hex::encode(world.cvm.app_id()));
    desk.run(&["app-key", "--dangerous-root", "root.der", "--out", "keys.json", "--kms", &url])
        .await
        .expect(0);
    let arguments =
        ["env", "encrypt", ".env", "--app-id", &id, "--kms", &url, "--signer", &signer, "--out", "env.hex"];
    desk.run(&arguments).await.expect(0);
    let ran = desk.run(&["env", "decrypt", "env.hex", "--app-keys", "keys.json"]).await.expect(0);
    assert_eq!(ran.out, "A=1\n");

    desk.write("other.hex", "0b".repeat(32));
    let ran = desk.run(&["env", "decrypt", "env.hex", "--key-file", "other.hex"]).await.expect(4);
    ran.says("env.hex: it was not encrypted to this key, or it was changed since");
    for (name, content, expected) in [
        ("short.hex", "0b".repeat(31), "short.hex: must be 32 bytes, got 31"),
        ("text", "no key at all, just words".to_owned(), "text: "),
    ] {
        desk.write(name, content);
        desk.run(&["env", "decrypt", "env.hex", "--key-file", name]).await.expect(2).says(expected);
    }
    desk.write("keys.json", "{\n  \"env_crypt_key\": 7\n}");
    let ran = desk.run(&["env", "decrypt", "env.hex", "--app-keys", "keys.json"]).await.expect(2);
    ran.says("keys.json: line 2, column");
    desk.write("short", "00");
    desk.run(&["env", "decrypt", "short", "--key-file", "other.hex"])
        .await
        .expect(4)
        .says("short: an encrypted");
}

#[tokio::test]
async fn a_wrong_line_of_the_file_is_named_and_nothing_is_asked() {
    let world = World::start().await;
    let kms = Kms::honest(&world).await;
    let desk = desk();
    let url = kms.url();
    for (content, expected) in [
        ("A=1\nnonsense\n", ".env: line 2: not NAME=value: there is no ="),
        ("export A=1\n", ".env: line 1: remove `export`"),
        ("# nothing\n", ".env: there is no variable in it"),
    ] {
        desk.write(".env", content);
        desk.run(&encrypt(&url, &["--accept-new"])).await.expect(2).says(expected);
    }
    desk.write(".env", b"A=1\nB=\xff\n");
    desk.run(&encrypt(&url, &["--accept-new"])).await.expect(2).says(".env: line 2: not UTF-8");
    let arguments = ["env", "encrypt", "missing", "--app-id", ID, "--kms", &url];
    desk.run(&arguments).await.expect(2).says("missing: No such file");
    desk.run(&["env", "encrypt", ".env", "--app-id", "0x12", "--kms", &url])
        .await
        .expect(2)
        .says("must be 20 bytes");
    desk.run(&["env", "encrypt", ".env", "--kms", &url]).await.expect(2).says("--app-id");
    assert!(kms.calls().is_empty());
}

#[tokio::test]
async fn what_the_kms_signed_wrongly_is_refused() {
    let world = World::start().await;
    let root = RootKey::new(7);
    let app = |timestamp: u64| RootKey::new(7).env_key(APP, timestamp);
    let (stale, ahead) = (app(now() - 400), app(now() + 3600));
    let foreign = root.env_key(AppId([2; 20]), now());
    let mut unsigned = app(now());
    unsigned["signature_v1"] = "".into();
    let mut cut = app(now());
    cut["signature_v1"] = "00".repeat(64).into();
    let mut swapped = app(now());
    swapped["public_key"] = hex::encode(envelope::public_key(&[5; 32]).expect("key")).into();
    for (answer, reasons) in [
        (stale, &["the key was signed 4"][..]),
        (ahead, &["in the future"]),
        // A modified statement has an unknown signer, or none.
        (foreign, &["another signer than --signer", "different signers"]),
        (swapped, &["another signer than --signer", "different signers", "the signature is not one"]),
        (unsigned, &["there is no signature_v1"]),
        (cut, &["a signature must be 65 bytes, got 64"]),
    ] {
        let kms = altered(&world, move |shown| *shown = answer.clone()).await;
        let desk = desk();
        let ran = desk.run(&encrypt(&kms.url(), &["--signer", &signer()])).await.expect(4);
        assert!(reasons.iter().any(|reason| ran.err.contains(reason)), "{reasons:?}: {}", ran.err);
        assert!(ran.out.is_empty(), "nothing was encrypted");
    }
}

#[tokio::test]
async fn a_tampered_signature_is_of_nobody_who_is_known() {
    let world = World::start().await;
    let kms = altered(&world, |answer| {
        let mut signature = hex::decode(answer["signature_v1"].as_str().expect("text")).expect("hex");
        signature[40] ^= 1;
        answer["signature_v1"] = hex::encode(signature).into();
        answer["signature"] = "".into();
    })
    .await;
    let desk = desk();
    let ran = desk.run(&encrypt(&kms.url(), &["--signer", &signer(), "--json"])).await.expect(4);
    assert_eq!(ran.json()["exit"], 4);
    assert!(ran.json().get("encrypted_env").is_none());
}

#[tokio::test]
async fn another_signer_than_the_pinned_one_is_refused_with_both() {
    let world = World::start().await;
    let kms = Kms::honest(&world).await;
    let pinned = RootKey::new(8).public().to_string();
    let desk = desk();
    let ran = desk.run(&encrypt(&kms.url(), &["--signer", &pinned])).await.expect(4);
    ran.says(&pinned).says(&signer());
    // Several pins are alternatives.
    let signer = signer();
    desk.run(&encrypt(&kms.url(), &["--signer", &pinned, "--signer", &signer])).await.expect(0);
    desk.run(&encrypt(&kms.url(), &["--signer", "02ab"])).await.expect(2).says("66 hexadecimal digits");
}

#[tokio::test]
async fn an_unknown_signer_is_refused_where_nobody_can_be_asked() {
    let world = World::start().await;
    let kms = Kms::honest(&world).await;
    let desk = desk();
    let ran = desk.run_with_input(&encrypt(&kms.url(), &[]), "yes\n").await.expect(4);
    ran.says("nobody can be asked").says("--accept-new").says(&signer());
    assert!(!desk.path(".config/kmsctl/known-signers").exists());
}

#[tokio::test]
async fn a_new_signer_becomes_known_once_and_a_changed_one_is_refused() {
    let world = World::start().await;
    let kms = Kms::honest(&world).await;
    let desk = desk();
    let url = kms.url();
    desk.run(&encrypt(&url, &["--accept-new"])).await.expect(0).says("is now known by its signer");
    let known = desk.read(".config/kmsctl/known-signers");
    assert_eq!(known, format!("{} {}\n", host(&url), signer()));
    assert_eq!(desk.mode(".config/kmsctl/known-signers"), 0o600);
    let again = desk.run(&encrypt(&url, &[])).await.expect(0);
    assert!(!again.err.contains("known"), "{}", again.err);

    let other = RootKey::new(8).public();
    desk.write("signers", format!("# mine\n{} {other}", host(&url)));
    for more in [&["--known-signers", "signers"][..], &["--known-signers", "signers", "--accept-new"]] {
        let ran = desk.run(&encrypt(&url, more)).await.expect(4);
        let ran = ran.says("HAS CHANGED").says(&other.to_string()).says(&signer()).says("line 2 of signers");
        ran.says(&format!("replace the line by\n  {} {}", host(&url), signer()));
    }
    desk.write("signers", "nonsense\n");
    let ran = desk.run(&encrypt(&url, &["--known-signers", "signers"])).await.expect(2);
    ran.says("signers: line 1: expected host:port and a signer");

    // The last line of a list without a line break stays intact when another is added.
    desk.write("signers", format!("kms.example:1 {other}"));
    desk.run(&encrypt(&url, &["--known-signers", "signers", "--accept-new"])).await.expect(0);
    assert_eq!(desk.read("signers"), format!("kms.example:1 {other}\n{} {}\n", host(&url), signer()));
}

#[tokio::test]
async fn a_stranger_is_not_learnt_in_place_of_a_known_signer() {
    let world = World::start().await;
    let stranger = Kms::honest(&world).await;
    let desk = desk();
    let (url, silent, known) = (stranger.url(), "https://127.0.0.1:1", RootKey::new(8).public());
    let both = |first: &'static str| encrypt(first, &[]);
    let arguments =
        [&both(silent)[..], &["--kms", &url, "--accept-new", "--known-signers", "signers"]].concat();
    // An attacker who blocks the known one.
    desk.write("signers", format!("127.0.0.1:1 {known}\n"));
    let ran = desk.run(&arguments).await.expect(4).says("not the signer known of the others");
    let ran = ran.says(&known.to_string()).says(&signer());
    assert!(ran.out.is_empty());
    assert_eq!(desk.read("signers"), format!("127.0.0.1:1 {known}\n"));
    // A replica has the signer of its cluster.
    desk.write("signers", format!("127.0.0.1:1 {}\n", signer()));
    desk.run(&arguments).await.expect(0);
    // If none is known, one is added.
    desk.write("signers", format!("kms.example:1 {known}\n"));
    desk.run(&arguments).await.expect(0).says("is now known by its signer");
}

fn host(url: &str) -> &str {
    url.trim_start_matches("https://").trim_end_matches("/prpc")
}

#[tokio::test]
async fn on_a_terminal_the_user_is_asked_once() {
    let world = World::start().await;
    let kms = Kms::honest(&world).await;
    for (answer, code) in [("yes\n", 0), ("y\n", 4), ("no\n", 4), ("\n", 4)] {
        let desk = desk();
        let url = kms.url();
        let ran = on_a_terminal(&desk, &encrypt(&url, &[]), answer).await;
        assert_eq!(ran.code, code, "{answer:?}: {}", ran.err);
        assert!(ran.err.contains("Compare it with") && ran.err.contains(&signer()), "{}", ran.err);
        assert_eq!(desk.path(".config/kmsctl/known-signers").exists(), code == 0);
        if code == 0 {
            assert_eq!(opened(&ran.out), PLAINTEXT);
            desk.run(&encrypt(&url, &[])).await.expect(0);
        }
    }
}

/// Runs with a terminal as standard input and standard error, with typed input.
async fn on_a_terminal(desk: &Desk, arguments: &[&str], typed: &str) -> Ran {
    let (keyboard, screen) = terminal();
    let mut command = desk.command(arguments);
    let typed = typed.to_owned();
    tokio::task::spawn_blocking(move || {
        command.stdin(Stdio::from(screen.try_clone().expect("terminal"))).stderr(Stdio::from(screen));
        let child = command.stdout(Stdio::piped()).spawn().expect("kmsctl starts");
        // Closes our copies of the terminal, so that its end is seen.
        drop(command);
        let mut keyboard = std::fs::File::from(keyboard);
        // The terminal buffers input that is typed early.
        keyboard.write_all(typed.as_bytes()).expect("typed");
        let mut shown = Vec::new();
        let mut buffer = [0; 4096];
        // At the end a terminal reports an error.
        while let Ok(length @ 1..) = keyboard.read(&mut buffer) {
            shown.extend_from_slice(&buffer[..length]);
        }
        let output = child.wait_with_output().expect("kmsctl ends");
        Ran {
            code: output.status.code().expect("no signal"),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8_lossy(&shown).into_owned(),
        }
    })
    .await
    .expect("no panic")
}

fn terminal() -> (OwnedFd, OwnedFd) {
    let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&keyboard).expect("grant");
    unlockpt(&keyboard).expect("unlock");
    let name = ptsname(&keyboard, Vec::new()).expect("name");
    let screen = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("open");
    (keyboard, screen)
}

#[tokio::test]
async fn the_next_url_is_asked_only_when_one_does_not_answer() {
    let world = World::start().await;
    let (refusing, honest) = (
        Kms::altered(&world, |_, _| refusal(503, "KMS self authorization failed")).await,
        Kms::honest(&world).await,
    );
    let desk = desk();
    let (first, second, signer) = (refusing.url(), honest.url(), signer());
    let ran = desk.run(&encrypt(&first, &["--kms", &second, "--signer", &signer])).await.expect(0);
    ran.says("KMS self authorization failed");
    desk.run(&encrypt("https://127.0.0.1:1", &["--signer", &signer]))
        .await
        .expect(1)
        .says("connection failed");
    let denied = Kms::altered(&world, |_, _| refusal(403, "KMS is not allowed")).await;
    desk.run(&encrypt(&denied.url(), &["--signer", &signer])).await.expect(3).says("KMS is not allowed");

    // A response that does not verify is not an outage.
    let lying = altered(&world, |answer| *answer = RootKey::new(7).env_key(APP, now() - 4000)).await;
    let calls = honest.calls().len();
    desk.run(&encrypt(&lying.url(), &["--kms", &second, "--signer", &signer])).await.expect(4);
    assert_eq!(honest.calls().len(), calls);
}
