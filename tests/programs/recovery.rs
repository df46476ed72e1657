//! Owners make a recovery set with `kmsctl`, and its officers prove it in a drill.

use age::secrecy::ExposeSecret as _;
use age::x25519::Identity;
use serde_json::Value;

use crate::support::World;
use crate::support::kmsctl::Desk;

const TOKEN: &str = "operators-token";
const ROOT: [&str; 2] = ["--dangerous-root", "root.der"];

#[tokio::test]
async fn owners_make_a_set_and_its_officers_prove_it() {
    let world = World::ready_with(&format!("core.admin.auth_token = \"{TOKEN}\"")).await;
    let desk = Desk::of_operator(&world, TOKEN).await;
    let doctor = desk.run(&["doctor"]).await;
    assert!(doctor.out.contains("there is no recovery set"), "{}", doctor.text());

    let identities: Vec<Identity> = (0..3).map(|_| Identity::generate()).collect();
    let mut officers = "# officers\n".to_owned();
    for (name, identity) in ["alice", "bob", "carol"].iter().zip(&identities) {
        officers += &format!("{name} {}\n", identity.to_public());
        desk.write(&format!("{name}.key"), identity.to_string().expose_secret());
    }
    desk.write("officers.txt", &officers);
    desk.write(
        "twice.txt",
        officers.replace(&identities[1].to_public().to_string(), &identities[0].to_public().to_string()),
    );
    let create = |file: &'static str, threshold: &'static str| {
        ["recovery", "create", "--recipients", file, "--threshold", threshold]
    };
    for (file, threshold, text) in [
        ("officers.txt", "1", "the threshold must be at least 2"),
        ("officers.txt", "4", "at most the number of officers, 3"),
        ("twice.txt", "2", "alice and bob have the same recipient"),
        ("alice.key", "2", "this is a private key"),
        ("none.txt", "2", "none.txt: "),
    ] {
        let ran = desk.run(&create(file, threshold)).await;
        assert_eq!((ran.code, ran.text().contains(text)), (2, true), "{text}: {}", ran.text());
        assert!(!ran.text().contains("AGE-SECRET-KEY"), "{}", ran.text());
    }
    let made = desk.json(0, &create("officers.txt", "2")).await;
    let set = made["set"].as_str().expect("a number").to_owned();
    assert!(!world.audited("recovery_set_created").is_empty());
    // What is there is not replaced.
    let again = desk.run(&["recovery", "fetch", &set]).await;
    assert!(again.code != 0 && again.text().contains("exists"), "{}", again.text());

    let status = async || desk.json(0, &["recovery", "drill", "status"]).await;
    assert_eq!(status().await["ceremony"], Value::Null);
    assert_eq!(desk.run(&["recovery", "drill", "cancel"]).await.code, 0, "without one it changes nothing");
    let started = desk.json(0, &["recovery", "drill", "start"]).await;
    assert_eq!(started["ceremony"]["set"], set.as_str());
    let second = desk.run(&["recovery", "drill", "start"]).await;
    assert!(second.code != 0 && second.text().contains("a drill is open already"), "{}", second.text());

    let url = format!("https://localhost:{}", world.address().port());
    let pin = hex::encode(world.cvm.mr_aggregated());
    let manifest = format!("recovery-{set}.json");
    let send = async |name: &str, key: &str| {
        let (share, key) = (format!("{name}-of-{set}.age"), format!("{key}.key"));
        let who = ["recovery", "send", "--kms", &url, "--pin", &pin, "--manifest", &manifest];
        let files = ["--share", &share, "--identity", &key, "--yes"];
        desk.run(&[&who[..], &files, &ROOT].concat()).await
    };
    let other = send("alice", "bob").await;
    assert_eq!(
        (other.code, other.text().contains("it is for another officer")),
        (2, true),
        "{}",
        other.text()
    );
    let first = send("carol", "carol").await;
    assert_eq!(first.code, 0, "{}", first.text());
    assert_eq!(status().await["ceremony"]["received"], 1);
    let last = send("alice", "alice").await;
    assert_eq!(last.code, 0, "{}", last.text());
    let ended = status().await;
    assert_eq!((&ended["ceremony"], &ended["drill"]["ok"]), (&Value::Null, &Value::Bool(true)), "{ended}");

    let shown = desk.run(&["recovery", "show"]).await;
    for text in [&set, "2 of 3", "alice", "passed"] {
        assert!(shown.out.contains(text), "{text}: {}", shown.text());
    }
    let doctor = desk.run(&["doctor"]).await;
    assert!(doctor.out.contains("proved at"), "{}", doctor.text());
    // A newer epoch is not in the set: a drill says nothing about it, and its exit code says so.
    assert_eq!(desk.run(&["epoch", "prepare"]).await.code, 0);
    for (command, code) in [("start", 4), ("status", 4), ("cancel", 0)] {
        let ran = desk.run(&["recovery", "drill", command]).await;
        assert_eq!(ran.code, code, "{command}: {}", ran.text());
        assert!(ran.out.contains("does not have the root keys of epochs 1"), "{command}: {}", ran.text());
    }
    let viewer = desk.json(0, &["credential", "create", "eve", "--role", "viewer"]).await;
    let viewer = desk_of(&world, viewer["token"].as_str().expect("a token")).await;
    assert_eq!(viewer.run(&["recovery", "show"]).await.code, 0);
    assert_eq!(viewer.run(&["recovery", "drill", "start"]).await.code, 3);
    assert_eq!(viewer.run(&["recovery", "fetch", &set]).await.code, 3);
}

async fn desk_of(world: &World, token: &str) -> Desk {
    Desk::of_operator(world, token).await
}
