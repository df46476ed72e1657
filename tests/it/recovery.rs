//! Recovery sets and drills: owners make and start them, officers bring their shares to the main listener.

use std::time::Duration;

use age::secrecy::ExposeSecret as _;
use age::x25519::Identity;
use kms_recovery::{Combiner, Identities, NoCallbacks, Progress, Share, SignedManifest, decrypt};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::http::{post, with};
use crate::support::operator::ask;
use crate::support::{ADMIN_TOKEN, Answer, Caller, World, eventually};

const RECOVERY: &str = "/api/v1/recovery";
const SETS: &str = "/api/v1/recovery/sets";
const DRILL: &str = "/api/v1/recovery/drill";

/// Officers with their private keys, and the set that was made for them.
struct Officers {
    identities: Vec<Identity>,
    made: Value,
}

fn recipients(identities: &[Identity]) -> Value {
    let officer = |(at, identity): (usize, &Identity)| json!({ "name": format!("officer-{at}"), "recipient": identity.to_public().to_string() });
    identities.iter().enumerate().map(officer).collect()
}

impl Officers {
    async fn with_a_set(world: &World, threshold: usize, number: usize) -> Self {
        let identities: Vec<Identity> = (0..number).map(|_| Identity::generate()).collect();
        let body = json!({ "recipients": recipients(&identities), "threshold": threshold });
        let answer = ask(world, "POST", SETS, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        Self { identities, made: answer.value() }
    }

    fn set(&self) -> &str {
        self.made["set"].as_str().expect("a number")
    }

    fn manifest(&self) -> SignedManifest {
        let text = self.made["manifest"].as_str().expect("a text");
        SignedManifest::parse(text.as_bytes()).expect("a manifest")
    }

    fn share(&self, at: usize) -> Share {
        let key = self.identities[at].to_string();
        let identities = Identities::parse(key.expose_secret().as_bytes(), NoCallbacks).expect("a key");
        let file = self.made["files"][at]["content"].as_str().expect("a file");
        decrypt(file.as_bytes(), &identities).expect("the officer's own file")
    }

    async fn send(&self, world: &World, at: usize) -> Answer {
        send(world, &self.share(at).to_json()).await
    }
}

async fn send(world: &World, share: &str) -> Answer {
    world.caller().send(post("/recovery/shares", share.to_owned())).await
}

fn refusal(answer: &Answer) -> (u16, String, String) {
    let told = answer.value();
    let text = |member: &str| told[member].as_str().unwrap_or_default().to_owned();
    (answer.status, text("code"), text("message"))
}

#[tokio::test]
async fn officers_prove_a_set_in_a_drill_and_the_kms_says_so() {
    let mut world = World::ready().await;
    let none = ask(&world, "GET", RECOVERY, &Value::Null).await.value();
    assert_eq!((&none["set"], &none["not_covered"]), (&Value::Null, &json!([0])));
    assert_eq!(refusal(&ask(&world, "POST", DRILL, &Value::Null).await).1, "no_recovery_set");

    let officers = Officers::with_a_set(&world, 2, 3).await;
    let root = world.root_keys();
    let manifest = officers.manifest();
    assert_eq!(manifest.manifest().epochs[0].k256_public.0, root.k256_public());
    assert!(manifest.manifest().ledger.is_some(), "the ledger is signed");
    let created = &world.audited("recovery_set_created")[0];
    assert_eq!((&created["set"], &created["threshold"]), (&officers.made["set"], &json!(2)));
    assert_eq!(created["manifest_sha256"], officers.made["manifest_sha256"]);
    let shown = ask(&world, "GET", RECOVERY, &Value::Null).await.value();
    assert_eq!(shown["set"]["officers"][2]["name"], "officer-2");
    assert_eq!((&shown["covers_all_epochs"], &shown["retired"]), (&json!(true), &json!([])));
    assert_eq!((&shown["out_of_date"], &shown["proved_at"]), (&json!([]), &Value::Null));

    // Nobody can bring a share before an owner asks for it.
    assert_eq!(refusal(&officers.send(&world, 0).await).1, "no_ceremony");
    let started = ask(&world, "POST", DRILL, &Value::Null).await;
    assert_eq!(started.value()["ceremony"]["purpose"], "drill", "{}", started.text());
    assert_eq!(refusal(&ask(&world, "POST", DRILL, &Value::Null).await).1, "drill_open");

    let first = officers.send(&world, 2).await;
    assert_eq!(first.status, 200, "{}", first.text());
    let first = first.value();
    assert_eq!((&first["officer"], &first["index"]), (&json!("officer-2"), &json!(3)));
    assert_eq!((&first["ceremony"]["received"], &first["ceremony"]["threshold"]), (&json!(1), &json!(2)));
    let repeated = refusal(&officers.send(&world, 2).await);
    assert_eq!((repeated.1.as_str(), repeated.2.contains("is in already")), ("share_repeated", true));
    let open = world.caller().get("/recovery").await.value();
    assert_eq!(open["ceremony"]["officers"][2]["received"], true);

    let last = officers.send(&world, 0).await;
    assert_eq!(last.status, 200, "{}", last.text());
    let last = last.value();
    assert_eq!((&last["ceremony"], &last["drill"]["ok"]), (&Value::Null, &json!(true)));
    let drilled = &world.audited("recovery_drill")[0];
    assert_eq!((&drilled["officers"], &drilled["epochs"]), (&json!(["officer-2", "officer-0"]), &json!([0])));

    // Anyone may know that it ended, and only operators who took part.
    let public = world.caller().get("/recovery").await.value();
    let ended = &public["drill"];
    assert_eq!(
        (&ended["ok"], &ended["officers"], &ended["reason"]),
        (&json!(true), &json!([]), &Value::Null)
    );
    assert!(!public.to_string().contains("officer-"), "{public}");
    let shown = ask(&world, "GET", DRILL, &Value::Null).await.value();
    assert_eq!(shown["drill"]["officers"], json!(["officer-2", "officer-0"]));

    // What is kept is public, and outlives a restart; the officers' files do not.
    let path = format!("{SETS}/{}", officers.set());
    assert_eq!(ask(&world, "GET", &path, &Value::Null).await.value()["files"], officers.made["files"]);
    world.start().await.expect("starts");
    let again = ask(&world, "GET", RECOVERY, &Value::Null).await.value();
    assert_eq!((&again["set"]["set"], &again["drills"][0]["ok"]), (&officers.made["set"], &json!(true)));
    let made = ask(&world, "GET", &path, &Value::Null).await.value();
    assert_eq!((&made["manifest"], &made["files"]), (&officers.made["manifest"], &json!([])));
    eventually("the metrics know it", async || {
        let metrics = world.caller().get("/metrics").await;
        let lines = ["\ncvm_kms_recovery_set 1\n", "\ncvm_kms_recovery_covers_all_epochs 1\n"];
        let is_known = lines.iter().all(|line| metrics.text().contains(line));
        (is_known && !metrics.text().contains("\ncvm_kms_recovery_last_drill_seconds NaN\n")).then_some(())
    })
    .await;

    // No share, and no part of one, is in a file of this KMS.
    for at in 0..3 {
        let json = officers.share(at).to_json();
        let share = json.rsplit('"').nth(1).expect("the share").to_owned();
        assert_eq!(share.len(), 64);
        for name in ["recovery.json", "audit.jsonl"] {
            let content = std::fs::read_to_string(world.key_file(name)).expect("a file");
            assert!(!content.contains(&share[..16]), "{name}");
        }
    }
}

#[tokio::test]
async fn a_drill_says_which_epochs_its_set_does_not_prove() {
    let world = World::ready().await;
    let none = ask(&world, "GET", DRILL, &Value::Null).await.value();
    assert!(none.get("not_proved").is_none(), "without a set there is no drill: {none}");
    let officers = Officers::with_a_set(&world, 2, 2).await;
    assert!(ask(&world, "GET", DRILL, &Value::Null).await.value().get("not_proved").is_none());
    let prepared = ask(&world, "POST", "/api/v1/epochs", &Value::Null).await;
    assert_eq!(prepared.status, 200, "{}", prepared.text());
    let started = ask(&world, "POST", DRILL, &Value::Null).await.value();
    assert_eq!(started["not_proved"], json!([1]), "{started}");
    officers.send(&world, 0).await;
    let last = officers.send(&world, 1).await.value();
    // What is in the set is proved, and the officer learns what is not.
    assert_eq!((&last["drill"]["ok"], &last["not_proved"]), (&json!(true), &json!([1])), "{last}");
    assert_eq!(world.audited("recovery_drill")[0]["epochs"], json!([0]));
    Officers::with_a_set(&world, 2, 2).await;
    let covered = ask(&world, "GET", DRILL, &Value::Null).await.value();
    assert!(covered.get("not_proved").is_none(), "{covered}");
}

/// Sends a request to the admin listener, and goes away without waiting for the answer.
async fn ask_and_leave(world: &World, verb: &str, path: &str, wait: Duration) {
    let mut line = TcpStream::connect(world.admin_address().await).await.expect("it listens");
    let head = format!(
        "{verb} {path} HTTP/1.1\r\nhost: kms\r\nx-admin-token: {ADMIN_TOKEN}\r\ncontent-length: 0\r\n\r\n"
    );
    line.write_all(head.as_bytes()).await.expect("it is sent");
    tokio::time::sleep(wait).await;
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_drill_in_the_log_that_is_not_open() {
    let world = World::ready().await;
    Officers::with_a_set(&world, 2, 2).await;
    // At other moments each time: before the record, during it, and after it.
    for round in 1..=12 {
        let wait = Duration::from_micros(round * round * 100);
        ask_and_leave(&world, "POST", DRILL, wait).await;
        // One that the KMS has not seen before the connection ended is asked for once more.
        eventually("a drill is open", async || {
            let open = ask(&world, "GET", DRILL, &Value::Null).await.value();
            if open["ceremony"].is_null() {
                let begun = world.audited("recovery_drill_started").len() as u64;
                if begun < round {
                    ask(&world, "POST", DRILL, &Value::Null).await;
                }
            }
            (!open["ceremony"].is_null()).then_some(())
        })
        .await;
        assert_eq!(world.audited("recovery_drill_started").len() as u64, round, "each drill once");
        ask_and_leave(&world, "DELETE", DRILL, wait).await;
        eventually("the drill is over", async || {
            let open = ask(&world, "DELETE", DRILL, &Value::Null).await.value();
            open["ceremony"].is_null().then_some(())
        })
        .await;
        eventually("the end is recorded and kept", async || {
            let kept = ask(&world, "GET", RECOVERY, &Value::Null).await.value();
            let ended = world.audited("recovery_drill_cancelled").len() as u64;
            let drills = kept["drills"].as_array().expect("a list").len() as u64;
            (ended == round && drills == round).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn any_two_of_three_officers_have_the_root_keys_themselves() {
    let world = World::ready().await;
    let officers = Officers::with_a_set(&world, 2, 3).await;
    for pair in [[0, 1], [0, 2], [1, 2]] {
        let mut combiner = Combiner::new(officers.manifest());
        combiner.add(officers.share(pair[0])).expect("a right share");
        assert_eq!(combiner.add(officers.share(pair[1])), Ok(Progress::Complete));
        let material = combiner.open().expect("two shares");
        let root = world.root_keys();
        for scalar in [root.ca().scalar(), root.k256().scalar(), root.temp_ca().scalar()] {
            assert!(material.windows(32).any(|window| window == scalar), "{pair:?}");
        }
    }
}

#[tokio::test]
async fn a_set_that_a_kms_has_made_restores_another_one() {
    let lost = World::ready().await;
    let officers = Officers::with_a_set(&lost, 2, 3).await;
    let root = lost.root_keys();
    drop(lost);
    let world = World::onboarding().await;
    let manifest = officers.made["manifest"].as_str().expect("a text").to_owned();
    let opened = world.caller().send(post("/recovery/restore", manifest)).await;
    assert_eq!(opened.status, 200, "{}", opened.text());
    for at in [2, 0] {
        let sent = officers.send(&world, at).await;
        assert_eq!(sent.status, 200, "{}", sent.text());
    }
    world.finish().await;
    let restored = world.root_keys();
    assert!(restored.ca().scalar() == root.ca().scalar() && restored.k256().scalar() == root.k256().scalar());
    assert!(restored.temp_ca().scalar() == root.temp_ca().scalar());
}

#[tokio::test]
async fn wrong_shares_are_named_and_their_sender_is_stopped() {
    let world = World::ready().await;
    let old = Officers::with_a_set(&world, 2, 2).await;
    let officers = Officers::with_a_set(&world, 2, 3).await;
    assert_eq!(officers.made["retires"], old.made["set"]);
    let shown = ask(&world, "GET", RECOVERY, &Value::Null).await.value();
    assert_eq!(shown["retired"][0]["set"], old.made["set"]);
    assert_eq!(ask(&world, "POST", DRILL, &Value::Null).await.status, 200);

    let right = officers.share(0).to_json();
    let value = right.rsplit('"').nth(1).expect("the share");
    let other = officers.share(1).to_json();
    let other = other.rsplit('"').nth(1).expect("the share");
    for (share, code, text) in [
        (old.share(0).to_json().to_string(), "share_of_other_set", "is of the set"),
        (right.replace("\"index\":1", "\"index\":2"), "share_wrong", "says that it is of officer-0"),
        (right.replace("\"index\":1", "\"index\":9"), "share_wrong", "the set has 1 to 3"),
        (right.replace(value, other), "share_wrong", "the share of officer-0 (index 1) is wrong"),
        (right.replace(value, &"f".repeat(64)), "share_wrong", "is not a number below the group order"),
        (right.replace("\"version\":1", "\"version\":2"), "share_wrong", "version 2"),
        (right.replace("\"set\"", "\"sat\""), "share_wrong", "not a share"),
        ("{}".to_owned(), "share_wrong", "not a share"),
        (" ".repeat(2000), "share_wrong", "at most 1024 bytes"),
    ] {
        let (status, found, message) = refusal(&send(&world, &share).await);
        assert_eq!((found.as_str(), message.contains(text)), (code, true), "{status} {message}");
        assert!(!message.contains(&value[..16]) && !message.contains(&other[..16]), "{message}");
    }
    assert_eq!(send(&world, &" ".repeat(17 * 1024)).await.status, 413);
    let open = world.caller().get("/recovery").await.value();
    assert_eq!(open["ceremony"]["received"], 0);

    let wrong = right.replace(value, other);
    let stopped = eventually("too many are wrong", async || {
        let (status, code, _) = refusal(&send(&world, &wrong).await);
        (code == "too_many_wrong_shares").then_some(status)
    })
    .await;
    assert_eq!(stopped, 429);
    // An owner ends it, and starts another.
    let ended = ask(&world, "DELETE", DRILL, &Value::Null).await.value();
    assert_eq!(ended["ceremony"], Value::Null);
    let reason = ended["drill"]["reason"].as_str().expect("why it ended");
    assert!(reason.starts_with("cancelled by "), "{reason}");
    assert_eq!(world.caller().get("/recovery").await.value()["drill"]["reason"], Value::Null);
    eventually("it is recorded", async || world.audited("recovery_drill_cancelled").pop()).await;
    assert_eq!(ask(&world, "POST", DRILL, &Value::Null).await.status, 200);
    assert_eq!(send(&world, &right).await.status, 200);
}

#[tokio::test]
async fn officers_and_thresholds_that_make_no_set_are_refused() {
    let world = World::ready().await;
    let identities: Vec<Identity> = (0..33).map(|_| Identity::generate()).collect();
    let all = recipients(&identities);
    let few = recipients(&identities[..3]);
    let mut twice = few.clone();
    twice[1]["recipient"] = few[0]["recipient"].clone();
    for (recipients, threshold, text) in [
        (&few, json!(1), "the threshold must be at least 2, got 1"),
        (&few, json!(4), "at most the number of officers, 3, got 4"),
        (&all, json!(3), "at most 32 officers, got 33"),
        (&json!([]), json!(2), "at most the number of officers, 0"),
        (&twice, json!(2), "officer-0 and officer-1 have the same recipient"),
        (&few, json!(-1), "invalid value"),
        (&json!([{ "name": "../x", "recipient": few[0]["recipient"] }]), json!(2), "an officer's name has"),
        (&json!([{ "name": "x", "recipient": "age1x" }]), json!(2), "not a recipient"),
    ] {
        let body = json!({ "recipients": recipients, "threshold": threshold });
        let answer = ask(&world, "POST", SETS, &body).await;
        let (status, _, message) = refusal(&answer);
        assert_eq!((status, message.contains(text)), (400, true), "{message}");
    }
    assert!(world.audited("recovery_set_created").is_empty());
    assert_eq!(ask(&world, "GET", RECOVERY, &Value::Null).await.value()["set"], Value::Null);
}

#[tokio::test]
async fn a_set_needs_a_second_owner_where_the_rule_says_so() {
    let mut world = World::ready().await;
    world.configure("core.admin.approvals = 2");
    world.start().await.expect("starts");
    let bob = ask(&world, "POST", "/api/v1/credentials", &json!({ "name": "bob", "role": "owner" })).await;
    let bob = bob.value()["token"].as_str().expect("a token").to_owned();
    let identities = [Identity::generate(), Identity::generate()];
    let body = json!({ "recipients": recipients(&identities), "threshold": 2 });
    let waits = ask(&world, "POST", SETS, &body).await;
    let id = waits.value()["approval"]["id"].as_str().expect("an id").to_owned();
    assert!(world.audited("recovery_set_created").is_empty());
    let shown = ask(&world, "GET", &format!("/api/v1/approvals/{id}"), &Value::Null).await.value();
    let document = shown["document"].as_str().expect("the officers");
    assert!(document.contains(&identities[1].to_public().to_string()), "{document}");
    let caller = Caller::new(world.admin_address().await).plain();
    let approve =
        with(post(&format!("/api/v1/approvals/{id}/approve"), ""), "authorization", &format!("Bearer {bob}"));
    let approved = caller.send(approve).await.value();
    assert_eq!(approved["state"], "done", "{approved}");
    let created = &world.audited("recovery_set_created")[0];
    let keys = identities.iter().map(|key| hex::encode(Sha256::digest(key.to_public().to_string())));
    assert_eq!(created["recipients_sha256"], keys.collect::<Value>());
    let set = created["set"].as_str().expect("a number");
    assert!(approved["result"].as_str().expect("a text").contains(set), "{approved}");
    let files = ask(&world, "GET", &format!("{SETS}/{set}"), &Value::Null).await.value()["files"].clone();
    assert_eq!(files.as_array().map(Vec::len), Some(2));
}
