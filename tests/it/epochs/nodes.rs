//! Epochs of the root keys on one KMS and on several.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::http::{request, with};
use crate::support::operator::{ask, done};
use crate::support::source::{Authority, Cluster, Reply, Source};
use crate::support::{Answer, Caller, World, eventually};
use cvm_kms::proto::{AppKeyResponse, GetMetaResponse};
use futures_util::future::join;
use kms_attest::p256::P256Key;
use serde_json::{Value, json};

const EPOCHS: &str = "/api/v1/epochs";

async fn refused(world: &World, path: &str, body: Value, code: &str, text: &str) {
    let answer = ask(world, "POST", path, &body).await;
    let told = (answer.status, answer.header("x-error-code").to_owned());
    assert_eq!(
        told,
        (if code.starts_with("source") { 503 } else { 409 }, code.to_owned()),
        "{path}: {}",
        answer.text()
    );
    assert!(answer.text().contains(text), "{path}: {}", answer.text());
}

async fn epochs(world: &World) -> Value {
    done(world, "GET", EPOCHS, Value::Null).await
}

/// The states of all epochs.
async fn states(world: &World) -> Vec<String> {
    let told = epochs(world).await;
    let list = told["epochs"].as_array().expect("a list").clone();
    list.iter().map(|epoch| epoch["state"].as_str().expect("a state").to_owned()).collect()
}

async fn prepare(world: &World) -> Value {
    done(world, "POST", EPOCHS, Value::Null).await
}

async fn activate(world: &World, epoch: u32, body: Value) -> Value {
    done(world, "POST", &format!("{EPOCHS}/{epoch}/activate"), body).await
}

fn main_url(world: &World) -> String {
    format!("https://{}", world.address())
}

async fn fetch(world: &World, source: &World) -> Value {
    done(world, "POST", &format!("{EPOCHS}/fetch"), json!({ "source_url": main_url(source) })).await
}

/// A replica of `source`.
async fn replica_of(source: &World) -> World {
    let replica = World::onboarding().await;
    let body = json!({ "source_url": main_url(source), "domain": "replica.example" });
    let answer = replica.caller().plain().json("Onboard", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    replica.finish().await;
    replica
}

fn unix() -> u64 {
    cvm_kms::clock::unix_now()
}

#[tokio::test]
async fn an_epoch_is_made_fetched_by_replicas_activated_and_gives_the_same_keys_everywhere() {
    let source = World::ready().await;
    let replica = replica_of(&source).await;
    let app = source.app(1);
    source.allow_app(&app);
    let identity = source.attested(&app).await;
    let keys = async |world: &World| {
        let answer = world.caller().shows(&identity).json("GetAppKey", json!({})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let keys: AppKeyResponse = answer.message();
        keys.k256_key.clone()
    };
    let before = keys(&source).await;
    let told = prepare(&source).await;
    assert_eq!((&told["current"], &told["epochs"][1]["state"]), (&json!(0), &json!("prepared")));
    // The index may be behind the log for a moment.
    let listed = eventually("the replica is known", async || {
        let listed = done(&source, "GET", "/api/v1/replicas", Value::Null).await;
        (!listed["handovers"][0].is_null()).then_some(listed)
    })
    .await;
    let now = epochs(&source).await;
    let without = now["epochs"][1]["replicas_without"].as_array().expect("known").clone();
    assert_eq!(without, [listed["handovers"][0]["id"].clone()]);
    assert_eq!(listed["handovers"][0]["up_to_epoch"], 0);
    assert_eq!(listed["self"]["epochs"]["prepared"], json!([1]));

    let path = format!("{EPOCHS}/1/activate");
    refused(&source, &path, Value::Null, "replicas_lack_epoch", "lack epoch 1").await;
    let unknown = ask(&source, "POST", &path, &json!({ "except": ["00"] })).await;
    assert!(unknown.status == 400 && unknown.text().contains("no replica has the id"), "{}", unknown.text());
    assert_eq!(keys(&source).await, before);

    let fetched = fetch(&replica, &source).await;
    for field in ["ca_fingerprint", "k256_fingerprint", "ca_pubkey", "k256_pubkey", "prepared_at"] {
        assert_eq!(fetched["epochs"][1][field], told["epochs"][1][field], "{field}");
    }
    assert_eq!(states(&replica).await, ["active", "prepared"]);
    let event = &replica.audited("epoch_received")[0];
    assert_eq!((&event["epoch"], &event["state"]), (&json!(1), &json!("prepared")));
    assert_eq!(source.audited("kms_key_released").last().expect("a handover")["up_to_epoch"], 1);

    let told = activate(&source, 1, Value::Null).await;
    assert_eq!(
        (&told["current"], &told["identity"], &told["restart_required"]),
        (&json!(1), &json!(0), &json!(false))
    );
    let after = keys(&source).await;
    // Guests that know no epochs do not break: an app that does not follow keeps its keys.
    assert_eq!(after, before);
    // The epoch is in force on one node only, until the other one follows.
    assert_eq!(states(&replica).await, ["active", "prepared"]);
    fetch(&replica, &source).await;
    assert_eq!(states(&replica).await, ["active", "active"]);
    // Nothing is new now, and nothing is recorded.
    let recorded = replica.audited("epoch_received").len();
    fetch(&replica, &source).await;
    assert_eq!(replica.audited("epoch_received").len(), recorded);
    let overview = done(&source, "GET", "/api/v1/overview", Value::Null).await;
    assert_eq!((&overview["epochs"]["current"], &overview["epochs"]["count"]), (&json!(1), &json!(2)));
    let metrics = source.caller().get("/metrics").await;
    for line in ["cvm_kms_root_epoch{state=\"active\"} 2", "cvm_kms_current_root_epoch 1"] {
        assert!(metrics.text().contains(line), "{line}");
    }
}

#[tokio::test]
async fn a_new_replica_receives_all_epochs_at_once_and_keeps_them_over_a_restart() {
    let source = World::ready().await;
    prepare(&source).await;
    activate(&source, 1, Value::Null).await;
    prepare(&source).await;
    let mut replica = replica_of(&source).await;
    assert_eq!(states(&replica).await, ["active", "active", "prepared"]);
    assert_eq!(replica.audited("keys_received")[0]["up_to_epoch"], 2);
    let mode = fs::metadata(replica.key_file("keyring.json")).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = epochs(&replica).await;
    replica.start().await.expect("it starts again");
    let after = epochs(&replica).await;
    for field in ["current", "identity", "epochs"] {
        assert_eq!(before[field], after[field], "{field}");
    }
}

/// What operators chose for apps: app id, root epoch (null follows), app epoch.
async fn chosen(world: &World) -> Vec<(Value, Value, Value)> {
    let listed = done(world, "GET", &format!("{EPOCHS}/apps"), Value::Null).await;
    let apps = listed["apps"].as_array().expect("a list").clone();
    apps.iter()
        .map(|app| (app["app_id"].clone(), app["root_epoch"].clone(), app["app_epoch"].clone()))
        .collect()
}

async fn choose(world: &World, app: &str, body: Value) {
    done(world, "PUT", &format!("{EPOCHS}/apps/{app}"), body).await;
}

#[tokio::test]
async fn epochs_chosen_for_apps_reach_new_replicas_and_those_that_fetch_and_change_no_choice_by_themselves() {
    let source = World::ready().await;
    prepare(&source).await;
    activate(&source, 1, Value::Null).await;
    let app = source.app(1);
    source.allow_app(&app);
    let identity = source.attested(&app).await;
    let keys = async |world: &World| {
        let answer = world.caller().shows(&identity).json("GetAppKey", json!({})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let keys: AppKeyResponse = answer.message();
        (keys.k256_key.clone(), keys.root_epoch, keys.app_epoch)
    };
    let id = hex::encode(app.app_id());
    let [other, third] = ["0a".repeat(20), "0b".repeat(20)];
    choose(&source, &id, json!({ "root_epoch": "current", "app_epoch": 2 })).await;
    choose(&source, &other, json!({ "root_epoch": 0, "app_epoch": 1 })).await;
    let mut replica = replica_of(&source).await;
    replica.allow_app(&app);
    let expected = chosen(&source).await;
    assert_eq!((expected.len(), chosen(&replica).await), (2, expected.clone()));
    let given = keys(&source).await;
    assert_eq!((given.1, given.2), (Some(1), Some(2)));
    assert_eq!(keys(&replica).await, given);
    assert_eq!(replica.audited("keys_received")[0]["apps_with_epochs"], 2);
    let recorded = replica.audited("app_epoch_set");
    assert_eq!((recorded.len(), &recorded[0]["by"]), (2, &json!("onboarding")));
    assert_eq!(recorded[0]["source"], replica.audited("keys_received")[0]["source"]);
    replica.start().await.expect("it starts again");
    assert_eq!(chosen(&replica).await, expected, "they are on its disk");

    // Chosen later at one of both: the replica keeps what it has, and says what differs, until an owner says otherwise.
    choose(&source, &third, json!({ "app_epoch": 7 })).await;
    choose(&source, &id, json!({ "app_epoch": 1 })).await;
    fetch(&replica, &source).await;
    let listed = done(&replica, "GET", &format!("{EPOCHS}/apps"), Value::Null).await;
    assert_eq!(listed["received"]["changed"], 1);
    assert_eq!(
        listed["received"]["differing"],
        json!([{ "app_id": id, "own": "current.2", "received": "current.1" }])
    );
    assert_eq!(chosen(&replica).await.len(), 3, "the new one is there");
    assert_eq!(keys(&replica).await, given, "no key has changed by itself");
    let event = &replica.audited("app_epochs_received")[0];
    assert_eq!((&event["apps"], &event["changed"], &event["kept"]), (&json!(3), &json!(1), &json!(1)));
    let body = json!({ "source_url": main_url(&source), "app_epochs": "received" });
    done(&replica, "POST", &format!("{EPOCHS}/fetch"), body).await;
    assert_eq!(chosen(&replica).await, chosen(&source).await);
    assert_eq!(keys(&replica).await, keys(&source).await);
    let body = json!({ "source_url": main_url(&source), "app_epochs": "newest" });
    let refused = ask(&replica, "POST", &format!("{EPOCHS}/fetch"), &body).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
}

#[tokio::test]
async fn an_epoch_comes_into_force_at_its_time_under_load_and_no_request_fails() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    prepare(&world).await;
    let identity = world.attested(&app).await;
    let mut to = world.caller().shows(&identity).connect().await.expect("a connection");
    let at = unix() + 4;
    let told = activate(&world, 1, json!({ "at": at })).await;
    assert_eq!((&told["current"], &told["epochs"][1]["state"]), (&json!(0), &json!("prepared")));
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let mut after = 0;
    while after < 5 {
        let asked = unix();
        let answer = to.json("GetAppKey", json!({})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let received: AppKeyResponse = answer.message();
        keys.push(received.k256_key.clone());
        let current = epochs(&world).await["current"].as_u64().expect("a number");
        let answered = unix();
        assert!(answered >= at || current == 0, "not before its time");
        assert!(asked < at || current == 1, "from its time on");
        after += current;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    keys.dedup();
    assert_eq!(keys.len(), 1, "the app does not follow");
    assert_eq!(epochs(&world).await["current"], 1);
    assert_eq!(world.audited("epoch_activated")[0]["at"], at);
}

#[tokio::test]
async fn a_retired_epoch_gives_no_keys_and_is_destroyed_once_the_process_does_not_sign_with_it() {
    let mut world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    refused(&world, &format!("{EPOCHS}/0/retire"), Value::Null, "epoch_refused", "is the current one").await;
    prepare(&world).await;
    activate(&world, 1, Value::Null).await;
    let preview = done(&world, "GET", &format!("{EPOCHS}/0"), Value::Null).await;
    assert_eq!((&preview["not_retirable"], preview["not_destroyable"].is_string()), (&Value::Null, true));
    let warnings = preview["warnings"].to_string();
    assert!(warnings.contains("must pin the new one") && warnings.contains("are at epoch 0"), "{warnings}");
    refused(&world, &format!("{EPOCHS}/0/destroy"), Value::Null, "epoch_refused", "restart it first").await;
    let told = done(&world, "POST", &format!("{EPOCHS}/0/retire"), Value::Null).await;
    assert_eq!((&told["restart_required"], &told["next_identity"]), (&json!(true), &json!(1)));
    let identity = world.attested(&app).await;
    let answer = world.caller().shows(&identity).json("GetAppKey", json!({})).await;
    assert_ne!(answer.status, 200, "the app is at epoch 0: {answer:?}");
    let overview = done(&world, "GET", "/api/v1/overview", Value::Null).await;
    assert!(overview["attention"].to_string().contains("epoch_restart_required"));
    refused(&world, &format!("{EPOCHS}/0/destroy"), Value::Null, "epoch_refused", "restart it first").await;
    world.start().await.expect("it starts again");
    let told = done(&world, "POST", &format!("{EPOCHS}/0/destroy"), Value::Null).await;
    assert_eq!((&told["epochs"][0]["state"], &told["identity"]), (&json!("destroyed"), &json!(1)));
    assert!(!world.key_file("root-ca.key").exists() && !world.key_file("root-k256.key").exists());
    world.start().await.expect("it starts without them");
    assert_eq!(states(&world).await, ["destroyed", "active"]);
    let names = ["epoch_prepared", "epoch_activated", "epoch_retired", "epoch_destroyed"];
    assert!(names.iter().all(|name| world.audited(name).len() == 1));
}

#[tokio::test]
async fn a_new_replica_proves_that_its_root_follows_one_that_is_gone() {
    let mut source = World::ready().await;
    prepare(&source).await;
    activate(&source, 1, Value::Null).await;
    done(&source, "POST", &format!("{EPOCHS}/0/retire"), Value::Null).await;
    source.start().await.expect("it starts again");
    done(&source, "POST", &format!("{EPOCHS}/0/destroy"), Value::Null).await;
    let meta = async |world: &World| -> GetMetaResponse {
        world.caller().json("GetMeta", json!({})).await.message()
    };
    let told = meta(&source).await;
    assert_eq!(told.epochs[1].signature.len(), 65, "what the root of epoch 0 stated");
    let replica = replica_of(&source).await;
    let again = meta(&replica).await;
    assert_eq!(again.k256_pubkey, told.k256_pubkey);
    assert_eq!(again.epochs[1].signature, told.epochs[1].signature);
}

#[tokio::test]
async fn an_old_copy_of_the_key_directory_beside_the_newer_log_is_noticed() {
    let mut world = World::ready().await;
    prepare(&world).await;
    activate(&world, 1, Value::Null).await;
    world.stop().await;
    for name in ["keyring.json", "root-fingerprints.json"] {
        fs::remove_file(world.key_file(name)).expect("a file");
    }
    world.start().await.expect("it starts with epoch 0");
    assert_eq!(states(&world).await, ["active"]);
    let item = eventually("the overview says so", async || {
        let overview = done(&world, "GET", "/api/v1/overview", Value::Null).await;
        let items = overview["attention"].as_array().expect("a list").clone();
        items.into_iter().find(|item| item["code"] == "epochs_lost")
    })
    .await;
    assert_eq!(item["severity"], "critical");
    assert!(
        item["detail"].as_str().expect("a text").starts_with("epoch 1 is not here; put the newest"),
        "{item}"
    );
    // Load balancers send nobody here, and the log says why.
    let ready = async |world: &World| world.caller().send(request("GET", "/readyz", "")).await;
    let answer = ready(&world).await;
    assert!(answer.status == 503 && answer.text().contains("epochs_lost"), "{}", answer.text());
    assert!(!answer.text().contains("epoch 1"), "strangers get no details: {}", answer.text());
    let found = eventually("it is recorded", async || world.audited("epochs_missing").pop()).await;
    assert_eq!(found["lost"], json!(["epoch 1 is not here"]));

    // An owner who has nothing newer accepts it, and it stays accepted.
    let path = format!("{EPOCHS}/accept");
    done(&world, "POST", &path, json!({ "what": "lost_epochs" })).await;
    let accepted = world.audited("epoch_state_accepted");
    assert_eq!((&accepted[0]["what"], &accepted[0]["seen"]), (&json!("lost_epochs"), &found["lost"]));
    assert_eq!(ready(&world).await.status, 200);
    refused(&world, &path, json!({ "what": "lost_epochs" }), "epoch_refused", "lacks nothing").await;
    world.start().await.expect("it starts again");
    prepare(&world).await;
    eventually("the index has the log", async || {
        let text = done(&world, "GET", "/api/v1/overview", Value::Null).await.to_string();
        (text.contains("waits to be activated") && !text.contains("epochs_lost")).then_some(())
    })
    .await;
    assert_eq!(ready(&world).await.status, 200);
    assert_eq!(world.audited("epochs_missing").len(), 1);
}

#[tokio::test]
async fn epochs_that_a_log_knows_come_back_from_a_replica_without_an_acceptance() {
    let mut source = World::ready().await;
    let replica = replica_of(&source).await;
    prepare(&source).await;
    fetch(&replica, &source).await;
    activate(&source, 1, Value::Null).await;
    fetch(&replica, &source).await;
    source.stop().await;
    for name in ["keyring.json", "root-fingerprints.json"] {
        fs::remove_file(source.key_file(name)).expect("a file");
    }
    source.start().await.expect("it starts with epoch 0");
    let ready = async |world: &World| world.caller().send(request("GET", "/readyz", "")).await.status;
    eventually("it is drained", async || (ready(&source).await == 503).then_some(())).await;
    replica.allow_kms(&source.cvm);
    source.allow_kms(&replica.cvm);
    fetch(&source, &replica).await;
    assert_eq!(states(&source).await, ["active", "active"]);
    assert_eq!(ready(&source).await, 200, "what was lost is back");
}

#[tokio::test]
async fn a_source_that_is_of_others_lies_or_is_behind_changes_nothing() {
    let source = World::ready().await;
    let replica = replica_of(&source).await;
    let path = format!("{EPOCHS}/fetch");
    let stranger = World::ready().await;
    let body = json!({ "source_url": main_url(&stranger) });
    refused(&replica, &path, body, "epoch_refused", "are not of one cluster").await;

    // A source with the keys of this cluster, which says something else of its epochs.
    let root = source.root_keys();
    let read = |name: &str| fs::read_to_string(source.key_file(name)).expect("a file");
    let p256 = |key: &P256Key| P256Key::from_scalar(key.scalar()).expect("a key");
    let cluster = Cluster {
        ca: Authority {
            root: p256(root.ca()),
            root_pem: read("root-ca.crt"),
            temp: p256(root.temp_ca()),
            temp_pem: read("tmp-ca.crt"),
        },
        k256: *root.k256().scalar(),
    };
    let other = P256Key::generate();
    let first = json!({
        "number": 0, "state": "active", "active_from": 0,
        "ca_pubkey": hex::encode(root.ca_spki()), "k256_pubkey": hex::encode(root.k256_public()),
    });
    let second = json!({
        "number": 1, "state": "prepared", "ca_key": other.pem().as_str(), "k256_key": hex::encode([7; 32]),
        "ca_pubkey": hex::encode(other.spki_der()), "k256_pubkey": hex::encode(root.k256_public()),
    });
    let mut retired = first.clone();
    retired["state"] = json!("retired");
    for (list, text) in [
        (json!([first.clone(), second]), "do not belong to its public keys"),
        (json!([first.clone(), first.clone()]), "is not the next one"),
        (json!([retired]), "a state that is not that of its times"),
    ] {
        let mut handover = cluster.handover();
        handover["epochs"] = list;
        let answers = cluster
            .answering(move |call| call.starts_with("GetKmsKey").then(|| Reply::Json(handover.clone())));
        let lying = Source::start(&[cluster.leaf(&replica.cvm)], answers).await;
        let answer = ask(&replica, "POST", &path, &json!({ "source_url": lying.url() })).await;
        assert!(answer.status >= 400 && answer.text().contains(text), "{}", answer.text());
    }
    // It chose an epoch for an app that it does not have.
    let app = "ab".repeat(20);
    let mut handover = cluster.handover();
    handover["choices"] = json!(format!(r#"{{"version":1,"app_epochs":{{"{app}":"4294967295.0"}}}}"#));
    let answers =
        cluster.answering(move |call| call.starts_with("GetKmsKey").then(|| Reply::Json(handover.clone())));
    let lying = Source::start(&[cluster.leaf(&replica.cvm)], answers).await;
    refused(
        &replica,
        &path,
        json!({ "source_url": lying.url() }),
        "choices_unknown",
        "chose epoch 4294967295",
    )
    .await;
    let listed = done(&replica, "GET", &format!("{EPOCHS}/apps"), Value::Null).await;
    assert_eq!(listed["apps"], json!([]));
    // It ends in the middle of the keys.
    let handover = cluster.handover();
    let answers = cluster
        .answering(move |call| call.starts_with("GetKmsKey").then(|| Reply::Truncated(handover.clone())));
    let broken = Source::start(&[cluster.leaf(&replica.cvm)], answers).await;
    let answer = ask(&replica, "POST", &path, &json!({ "source_url": broken.url() })).await;
    assert!(answer.status >= 400, "{}", answer.text());
    assert_eq!(states(&replica).await, ["active"]);
    assert!(replica.audited("epoch_received").is_empty() && !replica.key_file("keyring.json").exists());

    // The replica is ahead: an epoch that is in force does not wait again.
    prepare(&source).await;
    fetch(&replica, &source).await;
    activate(&replica, 1, Value::Null).await;
    fetch(&replica, &source).await;
    assert_eq!(states(&replica).await, ["active", "active"]);
    activate(&source, 1, json!({ "at": unix() + 1000 })).await;
    let body = json!({ "source_url": main_url(&source) });
    refused(&replica, &path, body, "epoch_refused", "which is earlier than here").await;
    assert_eq!(states(&replica).await, ["active", "active"]);
    replica.allow_kms(&source.cvm);
    source.allow_kms(&replica.cvm);
    fetch(&source, &replica).await;
    assert_eq!(states(&source).await, ["active", "active"]);
}

#[tokio::test]
async fn two_owners_at_once_make_one_epoch_and_each_change_needs_both() {
    let mut world = World::ready().await;
    world.configure("core.admin.approvals = 2");
    world.start().await.expect("it starts again");
    let made = done(&world, "POST", "/api/v1/credentials", json!({ "name": "bob", "role": "owner" })).await;
    let bob = made["token"].as_str().expect("a token").to_owned();
    let admin = Caller::new(world.admin_address().await).plain();
    let by_bob = async |path: &str| {
        eventually("a password that is checked", async || {
            let call = with(request("POST", path, ""), "authorization", &format!("Bearer {bob}"));
            let answer = admin.send(call).await;
            (!answer.text().contains("passwords are being checked")).then_some(answer)
        })
        .await
    };
    let (one, two) = join(ask(&world, "POST", EPOCHS, &Value::Null), by_bob(EPOCHS)).await;
    let id = |answer: &Answer| {
        assert_eq!(answer.value()["code"], "approval_needed", "{}", answer.text());
        answer.value()["approval"]["id"].as_str().expect("an id").to_owned()
    };
    let (one, two) = (id(&one), id(&two));
    assert_ne!(one, two);
    assert_eq!(states(&world).await, ["active"]);
    let done_by_bob = by_bob(&format!("/api/v1/approvals/{one}/approve")).await.value();
    assert_eq!(done_by_bob["state"], "done", "{done_by_bob}");
    let late = done(&world, "POST", &format!("/api/v1/approvals/{two}/approve"), Value::Null).await;
    assert_eq!(late["state"], "failed");
    assert!(late["result"].as_str().expect("why").contains("was made meanwhile"), "{late}");
    assert_eq!(states(&world).await, ["active", "prepared"]);

    let asked = ask(&world, "POST", &format!("{EPOCHS}/1/activate"), &Value::Null).await.value();
    assert_eq!(
        (&asked["code"], &asked["approval"]["action"]),
        (&json!("approval_needed"), &json!("activate_epoch"))
    );
    let fingerprint = epochs(&world).await["epochs"][1]["k256_fingerprint"].as_str().expect("hex").to_owned();
    assert!(asked["approval"]["detail"].as_str().expect("a sentence").contains(&fingerprint), "{asked}");
    let id = asked["approval"]["id"].as_str().expect("an id");
    assert_eq!(states(&world).await, ["active", "prepared"]);
    assert_eq!(by_bob(&format!("/api/v1/approvals/{id}/approve")).await.value()["state"], "done");
    assert_eq!(states(&world).await, ["active", "active"]);
    assert_eq!(world.audited("epoch_activated")[0]["by"], "token with credential bob");
}

#[tokio::test]
async fn states_that_are_fetched_need_both_owners_and_the_keys_come_at_once() {
    let source = World::ready().await;
    let mut replica = replica_of(&source).await;
    prepare(&source).await;
    activate(&source, 1, json!({ "except": replicas(&source).await })).await;
    replica.configure("core.admin.approvals = 2");
    replica.start().await.expect("it starts again");
    let made = done(&replica, "POST", "/api/v1/credentials", json!({ "name": "bob", "role": "owner" })).await;
    let bob = made["token"].as_str().expect("a token").to_owned();
    let admin = Caller::new(replica.admin_address().await).plain();
    let path = format!("{EPOCHS}/fetch");
    let body = json!({ "source_url": main_url(&source) });
    let asked = ask(&replica, "POST", &path, &body).await.value();
    assert_eq!(asked["code"], "approval_needed", "{asked}");
    // The keys are received, and nobody gets them before both agree.
    assert_eq!(states(&replica).await, ["active", "prepared"]);
    assert!(replica.audited("epoch_activated").is_empty());
    let id = asked["approval"]["id"].as_str().expect("an id");
    let approve = format!("/api/v1/approvals/{id}/approve");
    let own = ask(&replica, "POST", &approve, &Value::Null).await;
    assert!(own.status >= 400, "one owner is not two: {}", own.text());
    assert_eq!(states(&replica).await, ["active", "prepared"]);
    let by_bob = eventually("a password that is checked", async || {
        let call = with(request("POST", &approve, ""), "authorization", &format!("Bearer {bob}"));
        let answer = admin.send(call).await;
        (!answer.text().contains("passwords are being checked")).then_some(answer)
    })
    .await;
    assert_eq!(by_bob.value()["state"], "done", "{}", by_bob.text());
    assert_eq!(states(&replica).await, ["active", "active"]);
    // There is nothing left to approve.
    let told = fetch(&replica, &source).await;
    assert_eq!(told["current"], 1);
}

/// The ids of the replicas that a KMS knows.
async fn replicas(world: &World) -> Vec<Value> {
    eventually("the replica is known", async || {
        let listed = done(world, "GET", "/api/v1/replicas", Value::Null).await;
        let ids: Vec<Value> =
            listed["handovers"].as_array()?.iter().map(|handover| handover["id"].clone()).collect();
        (!ids.is_empty()).then_some(ids)
    })
    .await
}

#[tokio::test]
async fn a_time_that_has_passed_puts_no_epoch_in_force() {
    let world = World::ready().await;
    prepare(&world).await;
    let path = format!("{EPOCHS}/1/activate");
    for at in [0, 1, unix() - 1000, unix() - 1] {
        refused(&world, &path, json!({ "at": at }), "epoch_refused", "has passed").await;
    }
    for at in [json!(-1), json!("tomorrow"), json!(1.5)] {
        let answer = ask(&world, "POST", &path, &json!({ "at": at })).await;
        assert_eq!(answer.status, 400, "{at}: {}", answer.text());
    }
    assert_eq!(states(&world).await, ["active", "prepared"]);
    assert!(world.audited("epoch_activated").is_empty());
}

#[tokio::test]
async fn an_epoch_that_cannot_be_recorded_is_not_made() {
    let mut world = World::ready().await;
    prepare(&world).await;
    world.start_without_room_for_audit().await;
    for path in [EPOCHS.to_owned(), format!("{EPOCHS}/1/activate")] {
        let answer = ask(&world, "POST", &path, &Value::Null).await;
        assert_eq!(answer.status, 503, "{path}: {}", answer.text());
    }
    assert_eq!(states(&world).await, ["active", "prepared"]);
}
