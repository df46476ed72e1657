//! Domains while something goes wrong: disks, crashes, races, and images for development.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::run_time::{DOMAINS, assign, create, is_given, move_to, send_as};
use super::{Derived, guest, refused};
use crate::support::images::{OsImage, verified_by_download};
use crate::support::operator::{ask, done};
use crate::support::{World, eventually};
use cvm_kms::proto::AppKeyResponse;
use kms_simulator::Cvm;
use serde_json::{Value, json};

#[tokio::test]
async fn an_image_for_development_gets_keys_only_where_the_domain_allows_it() {
    let images = [OsImage::release(), OsImage::development()];
    let toml = verified_by_download(&[&images[0], &images[1]]).await;
    let mut world = World::ready_with(&toml).await;
    let [release, development] = images.map(|image| {
        image.booted(Cvm::builder(&world.platform).app_id([1; 20]).compose_hash([1; 32])).build()
    });
    for app in [&release, &development] {
        world.allow_app(app);
    }
    for (settings, admits) in [
        ("", false),
        ("allow_dev_images = false", false),
        ("allow_dev_images = true", true),
        ("sealed = true", false),
    ] {
        assert_eq!(refused(&mut world, &release, settings).await, None, "{settings}");
        let found = refused(&mut world, &development, settings).await.map(|(_, code)| code);
        let expected = (!admits).then(|| json!("dev_image_not_allowed"));
        assert_eq!(found, expected, "{settings}");
    }
    // In the default domain they are allowed unless it says otherwise.
    for (settings, status) in [("", 200), ("domains.default.allow_dev_images = false", 403)] {
        world.configure(settings);
        world.start().await.expect("it starts again");
        for (app, expected) in [(&release, 200), (&development, status)] {
            let answer = guest(&world, app).await.json("GetAppKey", json!({})).await;
            assert_eq!(answer.status, expected, "{settings}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_written_changes_nothing_and_the_answer_says_so() {
    let mut world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let blocked = world.key_file("domains.json");
    std::fs::create_dir_all(blocked.join("x")).expect("a directory in its place");
    let before = done(&world, "GET", DOMAINS, Value::Null).await;
    let answer =
        ask(&world, "POST", DOMAINS, json!({ "name": "team", "rules": { "allow_dev_images": true } })).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(
        answer.text().contains("nothing was changed: the file of the domains cannot be written"),
        "{}",
        answer.text()
    );
    assert!(!answer.text().contains(&*world.path("").display().to_string()), "no path: {}", answer.text());
    assert_eq!(done(&world, "GET", DOMAINS, Value::Null).await, before);
    let failed = eventually("the record", async || world.audited("domain_change_failed").pop()).await;
    assert_eq!((&failed["domain"], &failed["change"]), (&json!("team"), &json!("create")));
    assert!(is_given(&world, "default", &app).await);
    std::fs::remove_dir_all(&blocked).expect("it can be written again");
    create(&world, "team").await;
    world.start().await.expect("it starts again");
    assert_eq!(done(&world, "GET", &format!("{DOMAINS}/team"), Value::Null).await["created_by"], "token");
}

#[tokio::test]
async fn after_a_crash_the_file_decides_and_a_change_that_is_only_in_the_log_can_be_made_again() {
    let mut world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    create(&world, "team").await;
    let file = world.key_file("domains.json");
    let before = std::fs::read(&file).expect("the file");
    assign(&world, "team", &app).await;
    let after = std::fs::read(&file).expect("the file");
    // Between the record and the rename, with a part of the new file beside it; then after the rename.
    for (content, apps) in [(&before, 0), (&after, 1)] {
        world.stop().await;
        std::fs::write(&file, content).expect("the file");
        for name in [".domains.json.new", "domains.json.new", ".domains.json.tmp", "domains.json.tmp"] {
            std::fs::write(world.key_file(name), &after[..after.len() / 2]).expect("a part");
        }
        world.start().await.expect("it starts after a crash");
        let shown = done(&world, "GET", &format!("{DOMAINS}/team"), Value::Null).await;
        assert_eq!(shown["apps"], apps);
    }
    world.stop().await;
    std::fs::write(&file, &before).expect("the file");
    world.start().await.expect("it starts after a crash");
    assert_eq!(assign(&world, "team", &app).await["changed"], true, "it is made again");
    assert_eq!(world.audited("app_assigned").len(), 2, "both are in the log");
    world.start().await.expect("it starts again");
    assert!(is_given(&world, "team", &app).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_releases_race_a_move_no_request_after_it_gets_a_key_of_the_old_domain() {
    // The guests are one instance, which a fast machine lets ask more often than a fleet's would.
    let world =
        World::ready_with("[core.limits]\ninstance_per_second = 100000\ninstance_burst = 1000000").await;
    let app = world.app(1);
    world.allow_app(&app);
    create(&world, "team").await;
    let key = |domain: &str| Derived::of(&world, domain, &app, None).keys.k256_key.expose().to_vec();
    let keys = [key("default"), key("team")];
    let moved = Arc::new(AtomicBool::new(false));
    let mut guests = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (caller, moved) = (guest(&world, &app).await, Arc::clone(&moved));
        guests.spawn(async move {
            let mut line = caller.connect().await.expect("a connection");
            let (mut found, mut after) = (Vec::new(), 0);
            while after < 5 {
                let (asked, is_after) = (Instant::now(), moved.load(Ordering::SeqCst));
                let answer = line.json("GetAppKey", json!({})).await;
                // A release that the move overtakes is withheld.
                if answer.status == 200 {
                    let keys: AppKeyResponse = answer.message();
                    found.push((asked, is_after, keys.k256_key.clone()));
                    after += u32::from(is_after);
                } else {
                    assert!([403, 503].contains(&answer.status), "{}", answer.text());
                }
            }
            found
        });
    }
    eventually("some releases", async || (world.audited("app_key_released").len() > 8).then_some(())).await;
    done(&world, "POST", &move_to("team", &app), Value::Null).await;
    moved.store(true, Ordering::SeqCst);
    let found: Vec<_> = guests.join_all().await.concat();
    assert!(found.iter().all(|(_, _, key)| keys.contains(key)));
    assert!(found.iter().any(|(_, _, key)| *key == keys[0]), "some were before it");
    let late = found.iter().filter(|(_, is_after, _)| *is_after);
    assert!(late.clone().count() >= 20);
    assert!(late.clone().all(|(_, _, key)| *key == keys[1]), "a key of the old domain after the move");
}

#[tokio::test]
async fn a_credential_of_an_archived_domain_reads_and_brings_nothing_back() {
    let world = World::ready().await;
    create(&world, "team").await;
    let body = json!({ "name": "ann", "role": "owner", "domain": "team" });
    let made = done(&world, "POST", "/api/v1/credentials", body).await;
    let token = made["token"].as_str().expect("a token").to_owned();
    done(&world, "POST", &format!("{DOMAINS}/team/archive"), Value::Null).await;
    let read = async |path: &str| send_as(&world, &token, "GET", path, Value::Null).await;
    let shown = read(&format!("{DOMAINS}/team")).await;
    assert_eq!((shown.status, &shown.value()["archived_by"]), (200, &json!("token")), "{}", shown.text());
    assert_eq!(read("/api/v1/releases").await.status, 200);
    let restored = send_as(&world, &token, "POST", &format!("{DOMAINS}/team/restore"), Value::Null).await;
    assert_eq!(
        (restored.status, &restored.value()["code"]),
        (403, &json!("other_domain")),
        "{}",
        restored.text()
    );
    assert!(world.audited("domain_restored").is_empty());
}
