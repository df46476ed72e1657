//! `kmsctl env seal` and `env open`: sealed to the key of the named epochs or not at all.

use kms_attest::identity::AppId;
use kms_client::environment::{Epochs, SealedEnv, envelope};
use serde_json::json;

use crate::support::{Desk, Kms, RootKey, World, env_secret, epoch_secret};

const ID: &str = "0101010101010101010101010101010101010101";
const APP: AppId = AppId([1; 20]);
const PLAINTEXT: &str = r#"{"env": [{"key": "A", "value": "1"}, {"key": "B", "value": "two words"}]}"#;

fn desk() -> Desk {
    let desk = Desk::default();
    desk.write(".env", "A=1\nB = two words \n");
    desk
}

fn opened(file: &str, secret: &[u8; 32]) -> (Epochs, String) {
    let sealed = SealedEnv::parse(file.as_bytes()).expect("a sealed environment");
    let plaintext = sealed.open(secret).expect("opens");
    (sealed.epochs(), String::from_utf8(plaintext.to_vec()).expect("text"))
}

#[tokio::test]
async fn an_environment_is_sealed_to_the_signed_key_of_the_epochs_that_are_named() {
    let world = World::start().await;
    let kms = Kms::honest(&world).await;
    let desk = desk();
    let (url, signer) = (kms.url(), RootKey::new(7).public().to_string());
    let seal = |more: &[&str]| {
        let fixed = ["env", "seal", ".env", "--app-id", ID, "--kms", &url, "--signer", &signer];
        [&fixed[..], more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let run = async |more: &[&str]| {
        let arguments = seal(more);
        desk.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    let ran = run(&[]).await.expect(0);
    assert_eq!(opened(&ran.out, &env_secret(APP)), (Epochs::default(), PLAINTEXT.to_owned()));

    for (more, root, app) in [
        (&["--root-epoch", "2"][..], 2, 0),
        (&["--root-epoch", "2", "--app-epoch", "7"], 2, 7),
        (&["--root-epoch", "0"], 0, 0),
    ] {
        let ran = run(more).await.expect(0);
        let secret = epoch_secret(APP, u64::from(root), u64::from(app));
        assert_eq!(opened(&ran.out, &secret), (Epochs { root, app }, PLAINTEXT.to_owned()));
    }
    run(&["--app-epoch", "1"]).await.expect(2).says("--root-epoch");

    let report = run(&["--root-epoch", "3", "--json"]).await.expect(0).json();
    assert_eq!((&report["root_epoch"], &report["app_epoch"]), (&json!(3), &json!(0)));
    assert_eq!(report["names"], json!(["A", "B"]));
    assert_eq!((&report["signer"], &report["app_id"]), (&json!(signer), &json!(ID)));
    let secret = epoch_secret(APP, 3, 0);
    assert_eq!(opened(&report["sealed_env"].to_string(), &secret).1, PLAINTEXT);

    let ran = run(&["--root-epoch", "3", "--out", "env.json"]).await.expect(0);
    assert!(ran.out.contains("sealed 2 variables for root epoch 3, app epoch 0"), "{}", ran.out);
    assert_eq!(opened(&desk.read("env.json"), &secret).1, PLAINTEXT);
    run(&["--root-epoch", "3", "--out", "env.json"]).await.expect(2).says("exists; --force");

    desk.write("key.hex", hex::encode(secret));
    let ran = desk.run(&["env", "open", "env.json", "--key-file", "key.hex"]).await.expect(0);
    assert_eq!(ran.out, "A=1\nB=two words\n");
    let ran = desk.run(&["env", "open", "env.json", "--key-file", "key.hex", "--json"]).await.expect(0);
    assert_eq!(ran.out, PLAINTEXT);
    desk.run(&["env", "open", "env.json", "--key-file", "key.hex", "--out", "clear"]).await.expect(0);
    assert_eq!((desk.read("clear").as_str(), desk.mode("clear")), ("A=1\nB=two words\n", 0o600));
}

#[tokio::test]
async fn a_key_of_other_epochs_or_of_another_signer_is_not_sealed_to() {
    let world = World::start().await;
    let desk = desk();
    let signer = RootKey::new(7).public().to_string();
    // A KMS that knows no epochs answers with its only key.
    let older = Kms::altered(&world, |method, answer| {
        if method == "GetAppEnvEncryptPubKey" {
            let fields = answer.as_object_mut().expect("object");
            fields.remove("root_epoch");
            fields.remove("app_epoch");
        }
        None
    })
    .await;
    let url = older.url();
    let arguments = ["env", "seal", ".env", "--app-id", ID, "--kms", &url, "--root-epoch", "2"];
    let ran = desk.run(&[&arguments[..], &["--signer", &signer]].concat()).await.expect(4);
    let ran = ran.says("the key of root epoch 2, app epoch 0 was requested");
    let ran = ran.says("this is the key of root epoch 0, app epoch 0");
    assert!(ran.out.is_empty());
    // What it answers without being asked for an epoch is that of epoch 0.
    let arguments = ["env", "seal", ".env", "--app-id", ID, "--kms", &url, "--root-epoch", "0"];
    desk.run(&[&arguments[..], &["--signer", &signer]].concat()).await.expect(0);

    let other = RootKey::new(8).public().to_string();
    let arguments = ["env", "seal", ".env", "--app-id", ID, "--kms", &url, "--signer", &other];
    let ran = desk.run(&arguments).await.expect(4).says("another signer than --signer");
    assert!(ran.out.is_empty());
}

#[tokio::test]
async fn an_environment_is_sealed_to_a_key_in_a_file_without_a_kms() {
    let desk = desk();
    let secret = [7; 32];
    let public = envelope::public_key(&secret).expect("key");
    desk.write("public.hex", format!("{}\n", hex::encode(public)));
    desk.write("public.raw", public);
    for (file, more, epochs) in [
        ("public.hex", &[][..], Epochs::default()),
        (
            "public.raw",
            &["--root-epoch", "4294967295", "--app-epoch", "1"],
            Epochs { root: u32::MAX, app: 1 },
        ),
    ] {
        let arguments = [&["env", "seal", ".env", "--public-key-file", file], more].concat();
        let ran = desk.run(&arguments).await.expect(0);
        assert_eq!(opened(&ran.out, &secret), (epochs, PLAINTEXT.to_owned()));
    }
    desk.write("short.hex", "0b".repeat(31));
    desk.write("no-key.hex", "00".repeat(32));
    for (arguments, code, expected) in [
        (&["--public-key-file", "short.hex"][..], 2, "short.hex: must be 32 bytes (64 digits), got 31"),
        (&["--public-key-file", "no-key.hex"], 4, "no-key.hex: the public key is not one to seal to"),
        (&["--public-key-file", "missing"], 2, "missing: "),
        (&["--public-key-file", "public.hex", "--app-id", ID], 2, "--public-key-file"),
        (&["--public-key-file", "public.hex", "--root-epoch", "4294967296"], 2, "--root-epoch"),
        (&["--kms", "https://127.0.0.1:1"], 2, "--public-key-file"),
        (&["--app-id", ID], 2, "--kms"),
    ] {
        let ran = desk.run(&[&["env", "seal", ".env"], arguments].concat()).await.expect(code);
        let ran = ran.says(expected);
        assert!(ran.out.is_empty());
    }
}

#[tokio::test]
async fn what_does_not_open_says_which_epoch_it_is_for() {
    let desk = desk();
    let public = envelope::public_key(&[7; 32]).expect("key");
    desk.write("public", public);
    let arguments =
        ["env", "seal", ".env", "--public-key-file", "public", "--root-epoch", "5", "--out", "env.json"];
    desk.run(&arguments).await.expect(0);
    desk.write("other.hex", "0b".repeat(32));
    desk.write("key.hex", "07".repeat(32));
    let ran = desk.run(&["env", "open", "env.json", "--key-file", "other.hex"]).await.expect(4);
    ran.says("env.json: it is for root epoch 5, app epoch 0, and was not sealed to this key");
    // Another label does not make it another epoch's.
    desk.write("other.json", desk.read("env.json").replace("\"root_epoch\":5", "\"root_epoch\":6"));
    let ran = desk.run(&["env", "open", "other.json", "--key-file", "key.hex"]).await.expect(4);
    ran.says("other.json: it is for root epoch 6, app epoch 0");

    // Each form points to the command that reads the other.
    let ran = desk.run(&["env", "decrypt", "env.json", "--key-file", "key.hex"]).await.expect(2);
    ran.says("env.json: a sealed environment for root epoch 5, app epoch 0; `kmsctl env open` opens it");
    desk.write("env.hex", "0b".repeat(60));
    let ran = desk.run(&["env", "open", "env.hex", "--key-file", "key.hex"]).await.expect(2);
    ran.says("env.hex: line 1, column").says("not a sealed environment").says("kmsctl env decrypt");
    desk.write("later.json", r#"{"version": 2}"#);
    let ran = desk.run(&["env", "open", "later.json", "--key-file", "key.hex"]).await.expect(2);
    ran.says("later.json: version 2 of sealed environments is not known");
    desk.write(
        "keys.json",
        r#"{"env_crypt_key": "0707070707070707070707070707070707070707070707070707070707070707"}"#,
    );
    let ran = desk.run(&["env", "open", "env.json", "--app-keys", "keys.json"]).await.expect(0);
    assert_eq!(ran.out, "A=1\nB=two words\n");
}
