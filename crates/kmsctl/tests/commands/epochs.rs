//! Epochs of an app's keys: `app-key --epoch`, `env encrypt --epoch` and `env rekey`.

use kms_attest::identity::AppId;
use kms_client::environment::{Epochs, SealedEnv, envelope};
use kms_client::proto::{GetMetaResponse, RootEpochInfo};
use serde_json::{Value, json};

use crate::support::{Desk, Kms, RootKey, World, epoch_secret};

const ID: &str = "0101010101010101010101010101010101010101";
const APP: AppId = AppId([1; 20]);
const PLAINTEXT: &str = r#"{"env": [{"key": "A", "value": "1"}]}"#;

/// A KMS that answers with keys of epoch 1.2, whatever it is asked for.
async fn kms_of_epoch_1_2(world: &World) -> Kms {
    Kms::altered(world, |method, answer| {
        if method == "GetAppKey" {
            answer["root_epoch"] = json!(1);
            answer["app_epoch"] = json!(2);
            answer["previous"] = json!([{ "root": 1, "app": 1 }, { "root": 0, "app": 0 }]);
        }
        None
    })
    .await
}

#[tokio::test]
async fn keys_of_named_epochs_are_those_or_an_error() {
    let world = World::start().await;
    let kms = kms_of_epoch_1_2(&world).await;
    let desk = Desk::in_world(&world);
    let url = kms.url();
    let fetch = async |kms: &str, more: &[&str]| {
        let fixed =
            ["app-key", "--dangerous-root", "root.der", "--out", "keys.json", "--force", "--kms", kms];
        desk.run(&[&fixed[..], more].concat()).await
    };
    for more in [&["--json"][..], &["--json", "--epoch", "1.2"]] {
        let report = fetch(&url, more).await.expect(0).json();
        assert_eq!((&report["epoch"], &report["previous"]), (&json!("1.2"), &json!(["1.1", "0.0"])));
        let keys: Value = serde_json::from_str(&desk.read("keys.json")).expect("JSON");
        assert_eq!((&keys["root_epoch"], &keys["app_epoch"]), (&json!(1), &json!(2)));
    }
    let ran = fetch(&url, &[]).await.expect(0);
    assert!(ran.out.contains("1.2") && ran.out.contains("1.1, 0.0"), "{}", ran.out);
    let text = "the keys are of root epoch 1, app epoch 2, not of root epoch 1, app epoch 0";
    fetch(&url, &["--epoch", "1"]).await.expect(4).says(text);
    fetch(&url, &["--epoch", "1.x"]).await.expect(2).says("must be a root epoch");

    // A KMS that knows no epochs answers with the only keys that it has.
    let older = Kms::honest(&world).await;
    let report = fetch(&older.url(), &["--json", "--epoch", "0"]).await.expect(0).json();
    assert_eq!((&report["epoch"], &report["previous"]), (&json!("0.0"), &json!([])));
    fetch(&older.url(), &["--epoch", "1"]).await.expect(4).says("the KMS knows no epochs");
}

#[tokio::test]
async fn an_environment_is_encrypted_to_a_new_epoch_that_the_known_root_key_states() {
    let world = World::start().await;
    // The key of epoch 2 is signed by a new root key, which the old one states, or somebody else does.
    let kms = async |stated_by: u8| {
        Kms::altered(&world, move |method, answer| {
            match method {
                "GetMeta" => {
                    let (new, ca) = (RootKey::new(8).public(), [0x30; 91]);
                    let signature = RootKey::new(stated_by).root_epoch_signature(2, &ca, &new);
                    let epoch = RootEpochInfo {
                        number: 2,
                        ca_pubkey: ca.to_vec(),
                        k256_pubkey: new.as_bytes().to_vec(),
                        signature,
                        ..RootEpochInfo::default()
                    };
                    let meta = GetMetaResponse { epochs: vec![epoch], ..GetMetaResponse::default() };
                    answer["epochs"] = serde_json::to_value(meta).expect("JSON")["epochs"].clone();
                }
                "GetAppEnvEncryptPubKey" if answer["root_epoch"] == 2 => {
                    *answer = RootKey::new(8).epoch_env_key(APP, 2, 0);
                }
                _ => {}
            }
            None
        })
        .await
    };
    let desk = Desk::default();
    desk.write(".env", "A=1\n");
    let (known, new) = (RootKey::new(7).public().to_string(), RootKey::new(8).public().to_string());
    let encrypt = async |kms: &Kms, more: &[&str]| {
        let url = kms.url();
        let fixed = ["env", "encrypt", ".env", "--app-id", ID, "--kms", &url, "--epoch", "2"];
        desk.run(&[&fixed[..], more].concat()).await
    };
    let honest = kms(7).await;
    for signer in [&known, &new] {
        let ran = encrypt(&honest, &["--signer", signer]).await.expect(0);
        let sealed = hex::decode(ran.out.trim()).expect("hex");
        let plaintext = envelope::open(&epoch_secret(APP, 2, 0), &sealed).expect("opens");
        assert_eq!(plaintext.as_slice(), PLAINTEXT.as_bytes());
    }
    let report = encrypt(&honest, &["--signer", &known, "--json"]).await.expect(0).json();
    assert_eq!((&report["epoch"], &report["signer"]), (&json!("2.0"), &json!(new)));
    // Whoever knows neither is not led on by the statement.
    let other = RootKey::new(9).public().to_string();
    encrypt(&honest, &["--signer", &other]).await.expect(4).says("nothing was encrypted");
    let forged = kms(8).await;
    encrypt(&forged, &["--signer", &known]).await.expect(4).says("not by the root key of the KMS");
    // Without naming the epoch nobody follows.
    let url = honest.url();
    let plain = ["env", "encrypt", ".env", "--app-id", ID, "--kms", &url, "--signer", &new];
    desk.run(&plain).await.expect(4).says("another signer than --signer");
}

#[tokio::test]
async fn a_guest_encrypts_its_environment_again_to_its_newer_keys() {
    let desk = Desk::default();
    let keys = |name: &str, app: &str, root: u32| {
        let secret = hex::encode(epoch_secret(APP, root.into(), 0));
        desk.write(name, json!({ "app_id": app, "env_crypt_key": secret, "root_epoch": root }).to_string());
    };
    keys("old.json", ID, 0);
    keys("new.json", ID, 1);
    keys("other.json", &"02".repeat(20), 1);
    keys("third.json", ID, 3);
    let (old, new) = (epoch_secret(APP, 0, 0), epoch_secret(APP, 1, 0));
    let old_public = envelope::public_key(&old).expect("a key");
    desk.write("env.hex", hex::encode(envelope::seal(&old_public, PLAINTEXT.as_bytes()).expect("sealed")));
    let sealed = SealedEnv::seal(&old_public, Epochs::default(), PLAINTEXT.as_bytes()).expect("sealed");
    desk.write("env.json", sealed.to_json());
    let rekey = async |file: &str, from: &str, to: &str, out: &str, more: &[&str]| {
        let fixed = ["env", "rekey", file, "--app-keys", from, "--new-app-keys", to, "--out", out];
        desk.run(&[&fixed[..], more].concat()).await
    };

    let report = rekey("env.hex", "old.json", "new.json", "new.hex", &["--json"]).await.expect(0).json();
    assert_eq!(
        (&report["from"], &report["to"], &report["was_done"]),
        (&json!("0.0"), &json!("1.0"), &json!(false))
    );
    let envelope = hex::decode(desk.read("new.hex")).expect("hex");
    assert_eq!(envelope::open(&new, &envelope).expect("opens").as_slice(), PLAINTEXT.as_bytes());
    assert!(envelope::open(&old, &envelope).is_err());

    rekey("env.json", "old.json", "new.json", "new-sealed.json", &[]).await.expect(0);
    let sealed = SealedEnv::parse(desk.read("new-sealed.json").as_bytes()).expect("sealed");
    assert_eq!(sealed.epochs(), Epochs { root: 1, app: 0 });
    assert_eq!(sealed.open(&new).expect("opens").as_slice(), PLAINTEXT.as_bytes());

    // Once more: it is done already.
    let again = rekey("new.hex", "old.json", "new.json", "again.hex", &["--json"]).await.expect(0).json();
    assert_eq!(again["was_done"], json!(true));

    rekey("env.hex", "old.json", "new.json", "new.hex", &[]).await.expect(2).says("--force");
    rekey("env.hex", "old.json", "other.json", "x", &[])
        .await
        .expect(2)
        .says("an environment stays with its app");
    rekey("env.hex", "third.json", "new.json", "x", &[]).await.expect(4).says("neither of the keys opens it");
    assert!(!desk.path("x").exists());
}
