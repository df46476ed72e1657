//! Sealed environments between `kmsctl`, a real KMS and another implementation of HPKE.

use serde_json::{Value, json};

use crate::clients::{python, said};
use crate::support::World;
use crate::support::kmsctl::Desk;

#[tokio::test]
async fn pyhpke_opens_what_kmsctl_seals_and_the_other_way_round() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let caller = world.caller().shows(&world.attested(&app).await);
    let keys = caller.json("GetAppKey", json!({})).await.value();
    let secret = keys["env_crypt_key"].as_str().expect("hex");
    let id = hex::encode(app.app_id());
    let url = format!("https://{}", world.address());
    let env = json!([{ "key": "TOKEN", "value": "ünïcödé \"quoted\" \\" }, { "key": "EMPTY", "value": "" }]);

    let desk = Desk::in_world(&world);
    desk.write(".env", "TOKEN=ünïcödé \"quoted\" \\\nEMPTY=\n");
    desk.write("key.hex", secret);
    let from_kms = ["env", "seal", ".env", "--app-id", &id, "--kms", &url, "--accept-new"];
    let report = desk.json(0, &from_kms).await;
    desk.write("public.hex", report["public_key"].as_str().expect("hex"));
    let from_file =
        ["env", "seal", ".env", "--public-key-file", "public.hex", "--root-epoch", "3", "--app-epoch", "12"];
    let later = desk.json(0, &from_file).await;

    let open = |report: &Value, root_epoch: u32, app_epoch: u32| {
        json!({
            "envelope": report["sealed_env"], "secret": secret, "root_epoch": root_epoch, "app_epoch": app_epoch,
        })
    };
    let seal = |root_epoch: u32, app_epoch: u32| {
        json!({
            "public_key": report["public_key"], "root_epoch": root_epoch, "app_epoch": app_epoch, "env": env,
        })
    };
    let asked = json!({
        "open": [open(&report, 0, 0), open(&later, 3, 12), open(&later, 3, 0), open(&report, 3, 12)],
        "seal": [seal(0, 0), seal(u32::MAX, 7)],
    });
    let answer = said(&python("sealed_env.py", &[], &asked).await);
    let plaintext = json!({ "env": env });
    assert_eq!(answer["opened"], json!([plaintext, plaintext, null, null]));

    for sealed in answer["sealed"].as_array().expect("a list") {
        desk.write("env.json", sealed.to_string());
        let opened = desk.json(0, &["env", "open", "env.json", "--key-file", "key.hex"]).await;
        assert_eq!(opened, plaintext);
        let mut relabelled = sealed.clone();
        relabelled["app_epoch"] = json!(1);
        desk.write("env.json", relabelled.to_string());
        let ran = desk.run(&["env", "open", "env.json", "--key-file", "key.hex"]).await;
        let text = ran.text();
        assert!(ran.code == 4 && text.contains("app epoch 1, and was not sealed to this key"), "{text}");
    }
}
