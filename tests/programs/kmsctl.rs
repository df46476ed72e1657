//! `kmsctl` against the real KMS: from an empty directory to an app's keys, and every proof that a user can
//! make.

use crate::support::kmsctl::Desk;
use crate::support::{World, free_port};
use kms_attest::measurement::EventVersion;
use kms_simulator::{Cvm, GuestAgent, Platform, Stage};
use serde_json::{Value, json};

/// The URLs of the KMS before and after onboarding.
fn urls(world: &World) -> (String, String) {
    let port = world.address().port();
    (format!("http://localhost:{port}"), format!("https://localhost:{port}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// The outcome of a step.
fn outcome<'a>(report: &'a Value, step: &str) -> &'a str {
    let steps = report["steps"].as_array().expect("steps");
    text(&steps.iter().find(|found| found["step"] == step).expect(step)["outcome"])
}

#[tokio::test]
async fn from_an_empty_directory_to_the_keys_of_an_app() {
    from_nothing_to_keys(EventVersion::V1).await;
}

#[tokio::test]
async fn from_an_empty_directory_to_the_keys_of_an_app_where_guests_measure_v2_events() {
    from_nothing_to_keys(EventVersion::V2).await;
}

async fn from_nothing_to_keys(version: EventVersion) {
    let platform = Platform::from_seed(b"kmsctl");
    let kms = Cvm::builder(&platform).app_id([0xca; 20]).event_version(version).stage(Stage::Ready).build();
    let mut world = World::stopped_in(kms, "").await;
    world.start().await.expect("the KMS starts");
    let (plain, url) = urls(&world);
    let desk = Desk::in_world(&world);

    // The operator.
    let status = desk.json(0, &["status", "--kms", &plain]).await;
    assert_eq!(status["kms"][0]["state"], "onboarding");
    let measured = text(&status["kms"][0]["mr_aggregated"]).to_owned();
    let bootstrap = ["bootstrap", "--kms", &plain, "--domain", "localhost", "--dangerous-root", "root.der"];
    let keys = desk.json(0, &bootstrap).await;
    assert_eq!(keys["verified"], true, "{keys}");
    let (root, k256) = (text(&keys["ca_pubkey"]), text(&keys["k256_pubkey"]));
    let again = desk.json(3, &["bootstrap", "--kms", &plain, "--domain", "localhost"]).await;
    assert!(text(&again["error"]).contains("already been bootstrapped"), "{again}");
    let finished = desk.json(0, &["finish", "--kms", &plain]).await;
    assert_eq!(finished["serving"], true);

    // From here on the server is in another phase, for every scheme and command.
    let bootstrap = ["bootstrap", "--domain", "localhost", "--kms"];
    let onboard = ["onboard", "--domain", "localhost", "--source", "https://localhost:1", "--kms"];
    for command in [&["finish", "--kms"][..], &bootstrap, &onboard, &["status", "--kms"]] {
        let is_status = command[0] == "status";
        for kms in [&plain, &url].into_iter().filter(|kms| !is_status || *kms == &plain) {
            let report = desk.json(1, &[command, &[kms.as_str()]].concat()).await;
            let error = if is_status { &report["kms"][0]["error"] } else { &report["error"] };
            let expected =
                format!("this KMS serves already: onboarding is over. It is reached at {url}/prpc");
            assert!(text(error).contains(&expected), "{command:?} {kms}: {report}");
        }
    }
    let status = desk.json(0, &["status", "--kms", &url]).await;
    assert_eq!(
        (&status["kms"][0]["state"], &status["kms"][0]["key_provider_id"]),
        (&json!("serving"), &json!(root))
    );
    let meta = desk.json(0, &["meta", "--kms", &url]).await;
    assert_eq!(meta["k256_pubkey"], k256);

    // The relying party.
    desk.write("allow.json", json!({ "name": "our KMS", "mr_aggregated": measured }).to_string());
    let pins = ["--dangerous-root", "root.der", "--strict", "--allow", "allow.json", "--root-spki", root];
    let verify = [&["verify", &url, "--save-bundle", "bundle.json"], &pins[..]].concat();
    let report = desk.json(0, &verify).await;
    assert_eq!(report["verdict"], "proven");
    assert_eq!(report["k256_pubkey"], k256);

    // The CVM: denied, then allowed.
    let app = Cvm::builder(&platform).app_id([1; 20]).compose_hash([1; 32]).event_version(version).build();
    let agent = GuestAgent::serve_tcp(&app).await.expect("guest agent");
    let desk = desk.with("DSTACK_AGENT_ADDRESS", agent.address()).with("KMS_URL", url.clone());
    let fetch = [
        "app-key",
        "--dangerous-root",
        "root.der",
        "--key-provider-id",
        root,
        "--out",
        "keys.json",
        "--receipt",
        "keys.tlog-proof",
        "--force",
    ];
    let denied = desk.json(3, &fetch).await;
    assert!(text(&denied["error"]).contains("app not registered"), "{denied}");
    world.allow_app(&app);
    let report = desk.json(0, &fetch).await;
    assert_eq!(report["app_id"], hex::encode(app.app_id()));
    let receipt = desk.read("keys.tlog-proof");
    assert!(receipt.starts_with("c2sp.org/tlog-proof@v1\nextra "), "{receipt}");
    let with_keys = [&["verify", &url, "--app-keys", "keys.json"], &pins[..]].concat();
    assert_eq!(outcome(&desk.json(0, &with_keys).await, "released_keys"), "passed");

    // The deployer.
    desk.write(".env", "NAME=a value\n");
    let id = hex::encode(app.app_id());
    let encrypt = ["env", "encrypt", ".env", "--app-id", &id, "--signer", k256, "--out", "env.hex"];
    assert_eq!(desk.json(0, &encrypt).await["signer"], k256);
    let decrypted = desk.run(&["env", "decrypt", "env.hex", "--app-keys", "keys.json"]).await.expect_ok();
    assert_eq!(decrypted.out, "NAME=a value\n");

    // The app.
    let sign = [
        "sign-cert",
        "--dangerous-root",
        "root.der",
        "--app-keys",
        "keys.json",
        "--subject",
        "app.example",
        "--name",
        "app.example",
        "--server-auth",
        "--key",
        "key.pem",
        "--out",
        "chain.pem",
    ];
    desk.json(0, &sign).await;
    assert_eq!(desk.read("chain.pem").matches("BEGIN CERTIFICATE").count(), 3);

    // Later, on another machine, without the KMS.
    drop(world);
    let offline = [&["verify", "--offline", "bundle.json"], &pins[..]].concat();
    assert_eq!(desk.json(0, &offline).await["verdict"], "proven");
}

#[tokio::test]
async fn keys_served_at_another_port_are_found_and_finish_waits_for_keys_first() {
    let port = free_port();
    let world = World::onboarding_with(&format!("rpc.port = {port}")).await;
    let plain = format!("http://localhost:{}", world.address().port());
    let desk = Desk::in_world(&world).with("KMS_URL", plain);
    let early = desk.json(1, &["finish"]).await;
    assert!(text(&early["error"]).contains("there are no keys yet"), "{early}");
    let status = desk.json(0, &["status"]).await;
    assert_eq!(
        (&status["kms"][0]["mode"], &status["kms"][0]["serving_port"]),
        (&json!("onboarding"), &json!(port))
    );
    desk.json(0, &["bootstrap", "--domain", "localhost"]).await;
    let status = desk.json(0, &["status"]).await;
    assert_eq!(
        (&status["kms"][0]["mode"], &status["kms"][0]["next"][0]["step"]),
        (&json!("committed"), &json!("finish"))
    );
    let finished = desk.json(0, &["finish"]).await;
    assert_eq!(finished["url"], format!("https://localhost:{port}/prpc"));
}

#[tokio::test]
async fn a_replica_holds_the_same_keys_and_another_bootstrap_does_not() {
    let source = World::ready().await;
    let replica = World::onboarding().await;
    let (plain, url) = urls(&replica);
    let (_, source_url) = urls(&source);
    let desk = Desk::in_world(&source);
    let keys =
        desk.json(0, &["onboard", "--kms", &plain, "--source", &source_url, "--domain", "localhost"]).await;
    desk.json(0, &["finish", "--kms", &plain]).await;
    let status = desk.json(0, &["status", "--kms", &source_url, "--kms", &url]).await;
    assert_eq!(status["same_keys"], true);
    let k256 = text(&keys["k256_pubkey"]);
    assert_eq!(status["kms"][0]["k256_pubkey"], k256);

    // A replica has no bootstrap statement about the k256 key: a pin replaces it.
    let verify = ["verify", &url, "--dangerous-root", "root.der"];
    assert_eq!(outcome(&desk.json(0, &verify).await, "k256_attested"), "not_checked");
    let pinned = [&verify[..], &["--k256-pubkey", k256]].concat();
    assert_eq!(outcome(&desk.json(0, &pinned).await, "k256_attested"), "passed");

    // Signed by the same key: one known signer covers both, and keys come from either.
    let app = source.app(1);
    let agent = GuestAgent::serve_tcp(&app).await.expect("guest agent");
    let desk = desk.with("DSTACK_AGENT_ADDRESS", agent.address());
    source.allow_app(&app);
    replica.allow_app(&app);
    let mut fetched = Vec::new();
    for (kms, file) in [(&source_url, "one.json"), (&url, "two.json")] {
        let fetch = ["app-key", "--dangerous-root", "root.der", "--kms", kms, "--out", file];
        desk.json(0, &fetch).await;
        let keys: Value = serde_json::from_str(&desk.read(file)).expect("JSON");
        fetched.push(json!([keys["disk_crypt_key"], keys["env_crypt_key"], keys["k256_key"]]));
    }
    assert_eq!(fetched[0], fetched[1]);

    let stranger = World::ready().await;
    let (_, strange_url) = urls(&stranger);
    let status = desk.json(4, &["status", "--kms", &source_url, "--kms", &strange_url]).await;
    assert_eq!(status["same_keys"], false);
    let ran =
        [&["verify", &strange_url, "--dangerous-root", "root.der"], &["--k256-pubkey", k256][..]].concat();
    assert_eq!(desk.json(4, &ran).await["decided_by"], "k256_attested");
}

#[tokio::test]
async fn the_onboarding_token_is_asked_for_and_read_from_a_file() {
    let world = World::onboarding_with("core.onboard.auth_token = \"ceremony\"").await;
    let (plain, _) = urls(&world);
    let desk = Desk::in_world(&world).with("KMS_URL", plain);
    let bootstrap = ["bootstrap", "--domain", "localhost"];
    let refused = desk.json(3, &bootstrap).await;
    assert!(text(&refused["error"]).contains("onboarding token"), "{refused}");
    desk.write("wrong", "ceremonies");
    desk.json(3, &[&bootstrap[..], &["--token-file", "wrong"]].concat()).await;
    desk.write("token", "ceremony\n");
    desk.json(0, &[&bootstrap[..], &["--token-file", "token"]].concat()).await;
    let desk = desk.with("KMS_ONBOARD_TOKEN", "ceremony");
    desk.json(0, &["finish"]).await;
}

#[tokio::test]
async fn a_kms_without_attestation_is_refused_by_everybody_who_needs_one() {
    let world = World::ready_with("core.attest_rpc_cert = false").await;
    let (_, url) = urls(&world);
    let app = world.app(1);
    world.allow_app(&app);
    let agent = GuestAgent::serve_tcp(&app).await.expect("guest agent");
    let desk =
        Desk::in_world(&world).with("DSTACK_AGENT_ADDRESS", agent.address()).with("KMS_URL", url.clone());
    let report = desk.json(4, &["verify", &url, "--dangerous-root", "root.der"]).await;
    assert_eq!(report["decided_by"], "quote_present");
    let refused = desk.json(4, &["app-key", "--dangerous-root", "root.der", "--out", "keys.json"]).await;
    assert!(text(&refused["error"]).contains("does not contain attestation"), "{refused}");
    assert!(!desk.path("keys.json").exists());
}
