//! `kmsctl epoch` with several KMSs at once: an epoch comes into force at all of them, or nothing is changed.

use serde_json::{Value, json};

use crate::support::kmsctl::Desk;
use crate::support::{World, eventually};

const TOKEN: &str = "operators-token";

fn config() -> String {
    format!("[core.admin]\nauth_token = \"{TOKEN}\"")
}

async fn admin(world: &World) -> String {
    format!("http://{}", world.admin_address().await)
}

/// A replica of `source`.
async fn replica_of(source: &World) -> World {
    let replica = World::onboarding_with(&config()).await;
    let body = json!({ "source_url": format!("https://{}", source.address()), "domain": "replica.example" });
    let answer = replica.caller().plain().json("Onboard", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    replica.finish().await;
    replica
}

#[tokio::test]
async fn an_epoch_is_activated_at_all_nodes_at_one_time_or_at_none() {
    let source = World::ready_with(&config()).await;
    let replicas = [replica_of(&source).await, replica_of(&source).await];
    let (first, second, third) = (admin(&source).await, admin(&replicas[0]).await, admin(&replicas[1]).await);
    let desk = Desk::in_world(&source).with("KMS_ADMIN_TOKEN", TOKEN);
    let nodes = format!("{second},{third}");
    let activate = ["epoch", "activate", "1", "--admin", &first, "--nodes", &nodes];
    let states = async || {
        let mut states = Vec::new();
        for url in [&first, &second, &third] {
            let told = desk.json(0, &["epoch", "list", "--admin", url]).await;
            let list = told[0]["epochs"].as_array().or(told["epochs"].as_array()).expect("a list").clone();
            states.push(list.iter().map(|epoch| epoch["state"].clone()).collect::<Vec<Value>>());
        }
        states
    };
    let refused = async |text: &str, more: &[&str], code: i32| {
        let before = states().await;
        let ran = desk.run(&[&activate[..], more].concat()).await;
        assert!(ran.code == code && ran.text().contains(text), "{text}: {}", ran.text());
        assert_eq!(states().await, before, "{text}");
    };
    refused("needs a time at which all of them begin together", &[], 2).await;
    refused("has no epoch 1", &["--at", "1h"], 3).await;
    desk.json(0, &["epoch", "prepare", "--admin", &first]).await;
    eventually("the source knows its replicas", async || {
        let told = desk.json(0, &["epoch", "list", "--admin", &first]).await;
        told.to_string().contains("replicas_without").then_some(())
    })
    .await;
    let source_url = format!("https://{}", source.address());
    let fetch = async |url: &str| {
        let ran = desk.run(&["epoch", "fetch", "--source", &source_url, "--admin", url]).await;
        assert_eq!(ran.code, 0, "{}", ran.text());
    };
    fetch(&second).await;
    // One has not fetched it: the source says so by its log before the node itself is asked.
    let ran = desk.run(&[&activate[..], &["--at", "1h"]].concat()).await;
    assert!(ran.code != 0 && ran.text().contains("nothing was changed"), "{}", ran.text());
    fetch(&third).await;
    // One that made an epoch of its own has other keys.
    let stranger = World::ready_with(&config()).await;
    let other = admin(&stranger).await;
    desk.json(0, &["epoch", "prepare", "--admin", &other]).await;
    refused("has other keys than at", &["--at", "1h", "--nodes", &other], 3).await;
    // One that does not answer is asked before any is told.
    let closed = crate::support::Closed::new();
    let gone = format!("http://{}", closed.address());
    refused(&gone, &["--at", "1h", "--nodes", &gone], 1).await;

    let report = eventually("the replicas are known to have it", async || {
        let ran = desk.run(&[&activate[..], &["--at", "1h", "--json"]].concat()).await;
        (ran.code == 0).then(|| serde_json::from_str::<Value>(&ran.out).expect("JSON"))
    })
    .await;
    let times: Vec<&Value> = report
        .as_array()
        .expect("each node")
        .iter()
        .map(|node| &node["answer"]["epochs"][1]["active_from"])
        .collect();
    assert_eq!(times.len(), 3);
    assert!(times.iter().all(|time| time.is_string() && *time == times[0]), "{report}");
    for world in [&source, &replicas[0], &replicas[1]] {
        assert_eq!(world.audited("epoch_activated").len(), 1);
    }
    // It waits for its time everywhere.
    assert!(states().await.iter().all(|states| states[1] == "prepared"));
}
