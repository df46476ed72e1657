//! What operators read of a KMS: releases, denials, CVMs and the overview, as they are in the audit log.

use std::sync::Arc;

use crate::support::operator::{Operator, done};
use crate::support::{Answer, World, eventually};
use kms_ledger::proof_file::ProofFile;
use kms_simulator::Cvm;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

async fn get(world: &World, path: &str) -> Answer {
    Operator::of(world).await.get(path).await
}

/// The document at `path`, once the index is as far as the audit log.
async fn document(world: &World, path: &str) -> Value {
    eventually("an index with all records", async || {
        let answer = get(world, "/api/v1/events?limit=1").await;
        (answer.status == 200 && answer.header("x-index-last") == answer.header("x-log-newest")).then_some(())
    })
    .await;
    let answer = get(world, path).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    assert_eq!(answer.header("cache-control"), "no-store");
    answer.value()
}

async fn boot(world: &World, cvm: &Arc<Cvm>) -> Answer {
    let caller = world.caller().shows(&world.attested(cvm).await);
    caller.json("GetAppKey", json!({ "api_version": 1 })).await
}

/// A KMS that has released keys to app 1 twice, and refused app 2.
async fn world() -> World {
    let world = World::ready().await;
    let (known, unknown) = (world.app(1), world.app(2));
    world.allow_app(&known);
    assert_eq!([boot(&world, &known).await.status, boot(&world, &known).await.status], [200, 200]);
    assert_eq!(boot(&world, &unknown).await.status, 403);
    // Nothing waits for the record of a denial.
    let denied = eventually("a recorded denial", async || world.audited("denied").pop()).await;
    // It is in the file before it is synced, and shown after that.
    eventually("an index with it", async || {
        let answer = get(&world, "/api/v1/events?limit=1").await;
        (answer.header("x-index-last").parse::<u64>().ok()? >= denied["seq"].as_u64()?).then_some(())
    })
    .await;
    world
}

fn texts<'a>(list: &'a Value, key: &str) -> Vec<&'a str> {
    let items = list.as_array().expect("a list").iter();
    items.map(|item| item[key].as_str().unwrap_or_else(|| panic!("{key} in {item}"))).collect()
}

#[tokio::test]
async fn the_overview_says_what_a_kms_is_has_done_and_needs() {
    let world = world().await;
    let overview = document(&world, "/api/v1/overview").await;
    assert_eq!((&overview["mode"], &overview["ready"]), (&json!("serving"), &json!(true)), "{overview}");
    assert_eq!(overview["name"], "localhost");
    let k256 = world.root_keys().k256_public();
    assert_eq!(overview["root_fingerprint"], hex::encode(Sha256::digest(k256)));
    let day = &overview["last_24h"];
    let counts = ["releases", "cvms", "apps", "denials", "distinct_denials", "denied_cvms"];
    assert_eq!(counts.map(|name| day[name].as_u64()), [2, 1, 1, 1, 1, 1].map(Some), "{day}");
    assert!(overview["latency"]["p99_ms"].as_f64().is_some_and(|p99| p99 > 0.0), "{}", overview["latency"]);
    assert!(overview["ledger"]["size"].as_u64().is_some_and(|size| size >= 5));
    let attention = &overview["attention"];
    let refused = attention.as_array().expect("a list").iter().find(|item| item["link"]["view"] == "denials");
    let refused = refused.unwrap_or_else(|| panic!("no denial in {attention}"));
    assert_eq!((&refused["code"], &refused["count"]), (&json!("app_not_registered"), &json!(1)));
    let last = refused["last"].as_str().expect("a time");
    assert!(refused["since"].as_str().is_some_and(|since| since <= last), "{refused}");
    let id = refused["link"]["id"].as_str().expect("an id");
    let denial = document(&world, &format!("/api/v1/denials/{id}")).await;
    assert_eq!(denial["app_id"], hex::encode(world.app(2).app_id()));

    let end = kms_attest::clock::unix_now() + 86_400;
    let ends_soon = json!({ "name": "ci", "role": "viewer", "expires_at": end });
    done(&world, "POST", "/api/v1/credentials", ends_soon).await;
    let attention = document(&world, "/api/v1/overview").await["attention"].clone();
    let item = |code: &str| {
        let item = attention.as_array().expect("a list").iter().find(|item| item["code"] == code);
        item.unwrap_or_else(|| panic!("no {code} in {attention}")).clone()
    };
    let ending = item("credential_expires");
    assert_eq!(ending["link"], json!({ "view": "credentials", "id": "ci" }));
    assert!(ending["by"].as_str().is_some_and(|by| by.ends_with('Z')), "{ending}");
    let relaxed = item("relaxed_settings");
    assert!(
        relaxed["detail"].as_str().is_some_and(|codes| codes.contains("external_trust_anchors")),
        "{relaxed}"
    );
    assert_eq!(
        overview["relaxed"].as_array().map(Vec::len),
        relaxed["count"].as_u64().map(|count| count as usize)
    );

    Operator::of(&world).await.freeze("kms", &[]).await;
    let overview = document(&world, "/api/v1/overview").await;
    assert_eq!(overview["ready"], false);
    assert_eq!(texts(&overview["reasons"], "code"), ["frozen"]);
    let first = &overview["attention"][0];
    assert_eq!(
        (&first["code"], &first["severity"], &first["link"]["view"]),
        (&json!("frozen"), &json!("critical"), &json!("freezes"))
    );
}

#[tokio::test]
async fn releases_are_listed_by_app_and_method_and_each_has_its_proof() {
    let world = world().await;
    let app = hex::encode(world.app(1).app_id());
    let all = document(&world, "/api/v1/releases").await;
    assert_eq!(texts(&all["releases"], "method"), ["GetAppKey"; 2]);
    assert!(all["next"].is_null(), "{all}");
    let first = document(&world, &format!("/api/v1/releases?app=0x{app}&method=GetAppKey&limit=1")).await;
    let release = &first["releases"][0];
    let recorded = world.audited("app_key_released");
    assert_eq!(
        (&release["seq"], &release["at"]),
        (&recorded[1]["seq"], &recorded[1]["time"]),
        "newest first"
    );
    assert_eq!((&release["app_id"], &release["tcb_status"]), (&json!(app), &json!("UpToDate")));
    assert_eq!(release["boot_id"], world.audited("started").last().expect("a start")["boot_id"]);
    let next = document(&world, &format!("/api/v1/releases?limit=1&cursor={}", first["next"])).await;
    assert_eq!(next["releases"][0]["seq"], recorded[0]["seq"]);
    for none in ["app=00", "method=SignCert", "since=2040-01-01", "until=2020-01-01", "since=0s&until=9h"] {
        let page = document(&world, &format!("/api/v1/releases?{none}")).await;
        assert_eq!((&page["releases"], &page["next"]), (&json!([]), &Value::Null), "{none}");
    }

    let one = document(&world, &format!("/api/v1/releases/{}", release["seq"])).await;
    let record: Value = serde_json::from_str(one["record"].as_str().expect("text")).expect("a record");
    assert_eq!(record, recorded[1]);
    let receipt = ProofFile::parse(one["receipt"].as_str().expect("text").as_bytes()).expect("a proof");
    let entry = one["leaf"]["entry"].as_str().expect("text").as_bytes();
    assert_eq!(receipt.extra.as_deref(), Some(entry));
    assert_eq!(receipt.index.get(), one["leaf"]["index"].as_u64().expect("a number"));
    let leaf = hex::encode(Sha256::new().chain_update([0]).chain_update(entry).finalize());
    assert_eq!(one["leaf"]["hash"], leaf);
    assert_eq!(one["checkpoint"], receipt.checkpoint);

    let denied = &world.audited("denied")[0]["seq"];
    for (path, status, told) in [
        (format!("/api/v1/releases/{denied}"), 404, format!("release {denied}: not found")),
        ("/api/v1/releases/99999".to_owned(), 404, "release 99999: not found".to_owned()),
        ("/api/v1/releases/x".to_owned(), 400, "a release has a number".to_owned()),
        (
            "/api/v1/releases?method=GetMeta".to_owned(),
            400,
            "method must be GetAppKey, SignCert or GetKmsKey".to_owned(),
        ),
        ("/api/v1/releases?limit=0".to_owned(), 400, "limit must be a whole number from 1 to 200".to_owned()),
        ("/api/v1/releases?limit=1&limit=2".to_owned(), 400, "parameter `limit` is there twice".to_owned()),
        (
            "/api/v1/releases?cursor=-1".to_owned(),
            400,
            "cursor must be `next` of an earlier response".to_owned(),
        ),
        (
            "/api/v1/releases?apps=00".to_owned(),
            400,
            "unknown parameter `apps`, expected one of `app`, `method`, `domain`, `since`, `until`, `limit`, `cursor`"
                .to_owned(),
        ),
        ("/api/v1/overview?x=1".to_owned(), 400, "unknown parameter `x`, there are no fields".to_owned()),
    ] {
        assert_eq!(get(&world, &path).await.refusal(), (status, told), "{path}");
    }
}

#[tokio::test]
async fn a_denial_is_explained_with_what_would_allow_it_also_after_a_restart_without_that() {
    let mut world = world().await;
    let list = document(&world, "/api/v1/denials").await;
    assert_eq!(texts(&list["denials"], "code"), ["app_not_registered"], "{list}");
    let denial = &list["denials"][0];
    assert_eq!((&denial["count"], &denial["method"]), (&json!(1), &json!("GetAppKey")));
    assert_eq!(denial["explainable"], true);
    let id = denial["id"].as_str().expect("an id").to_owned();
    let explained = document(&world, &format!("/api/v1/denials/{id}")).await;
    assert_eq!(explained["verdict"], "denied");
    let app = hex::encode(world.app(2).app_id());
    assert!(explained["remedy"]["fragment"]["apps"][&app].is_object(), "{}", explained["remedy"]);
    assert_eq!(explained["remedy"]["kmsctl"], format!("kmsctl explain --denial {id}"));
    let states = texts(&explained["walk"], "state");
    assert!(states.contains(&"passed") && states.contains(&"failed"), "{states:?}");
    assert!(world.audited("explained").is_empty(), "a look is no event");

    assert_eq!(document(&world, "/api/v1/denials?code=frozen").await["denials"], json!([]));
    let of_app = document(&world, &format!("/api/v1/denials?app={app}&since=1h&limit=1")).await;
    assert_eq!(of_app["denials"][0]["id"], id);

    world.start().await.expect("a start");
    let list = document(&world, "/api/v1/denials").await;
    let denial = &list["denials"][0];
    assert_eq!(
        (&denial["id"], &denial["count"], &denial["explainable"]),
        (&json!(id), &json!(1), &json!(false))
    );
    let one = document(&world, &format!("/api/v1/denials/{id}")).await;
    assert_eq!((&one["verdict"], &one["walk"]), (&Value::Null, &json!([])));
    let text = one["remedy"]["text"].as_str().expect("a sentence");
    assert!(!text.is_empty());
    assert_eq!(
        get(&world, "/api/v1/denials/0123456789ab").await.refusal(),
        (404, "denial 0123456789ab: not found".to_owned())
    );
    assert_eq!(
        get(&world, "/api/v1/denials/x").await.refusal(),
        (400, "the id of a denial has twelve hex digits".to_owned())
    );
}

#[tokio::test]
async fn a_history_counts_each_release_and_denial_once() {
    let mut world = world().await;
    for query in ["", "?window=1h&points=2", "?window=30d&points=500", "?window=7d"] {
        let history = document(&world, &format!("/api/v1/history{query}")).await;
        let points = history["points"].as_array().expect("points");
        let sum = |name: &str| points.iter().filter_map(|point| point[name].as_u64()).sum::<u64>();
        assert_eq!((sum("released"), sum("denied")), (2, 1), "{query}");
        assert_eq!(points[0]["at"], history["from"]);
        assert!(history["building"].is_null());
    }
    world.start().await.expect("a start");
    let history = document(&world, "/api/v1/history").await;
    let points = history["points"].as_array().expect("points");
    assert_eq!(points.len(), 72);
    assert_eq!(points.iter().filter_map(|point| point["released"].as_u64()).sum::<u64>(), 2);
    for (query, told) in [
        ("window=59m", "window must be from 1h to 30d"),
        ("window=31d", "window must be from 1h to 30d"),
        ("window=99999999999999999999d", "window must be from 1h to 30d"),
        ("window=-1h", "window must be from 1h to 30d"),
        ("points=1", "points must be a whole number from 2 to 500"),
        ("points=501", "points must be a whole number from 2 to 500"),
    ] {
        assert_eq!(
            get(&world, &format!("/api/v1/history?{query}")).await.refusal(),
            (400, told.to_owned()),
            "{query}"
        );
    }
}
