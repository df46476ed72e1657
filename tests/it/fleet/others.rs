//! What a node shows of the others: their CVMs and denials, and that they are forgotten when they are gone.

use super::*;

impl Fleet {
    async fn listed(&self, node: usize, path: &str, list: &str) -> Vec<Value> {
        self.done(node, "GET", path, Value::Null).await[list].as_array().expect("a list").clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cvms_and_denials_of_all_nodes_are_shown_by_each_without_addresses() {
    let mut fleet = Fleet::of(2).await;
    let app = hex::encode(fleet.app.app_id());
    let stranger = fleet.nodes[1].app(9);
    let world = &fleet.nodes[1];
    let refused = world.caller().shows(&world.attested(&stranger).await).json("GetAppKey", json!({})).await;
    assert_eq!(refused.status, 403);
    let both = eventually("the app on both nodes", async || {
        let cvms = fleet.listed(0, "/api/v1/cvms?fleet=true", "cvms").await;
        (cvms.len() == 2).then_some(cvms)
    })
    .await;
    let [own, other] = ["node-0", "node-1"].map(|name| {
        both.iter().find(|cvm| cvm["node"] == name).unwrap_or_else(|| panic!("no CVM on {name}: {both:?}"))
    });
    assert_eq!((&own["app_id"], &other["app_id"]), (&json!(app), &json!(app)));
    assert_eq!(own["id"], other["id"], "the same CVM on two nodes");
    assert!(own["address"].is_string() && other["address"].is_null(), "{both:?}");
    let denied = eventually("the denial on the other node", async || {
        let denials = fleet.listed(0, "/api/v1/denials?fleet=true", "denials").await;
        denials.into_iter().find(|denial| denial["node"] == "node-1")
    })
    .await;
    assert_eq!(denied["app_id"], hex::encode(stranger.app_id()));
    assert_eq!((&denied["address"], &denied["explainable"]), (&json!(""), &json!(false)));
    // Without the word, only what is here, and filters count for all.
    let here = fleet.listed(0, "/api/v1/denials", "denials").await;
    assert!(here.iter().all(|it| it["id"] != denied["id"] && it["node"].is_null()), "{here:?}");
    assert_eq!(fleet.listed(0, "/api/v1/cvms", "cvms").await.len(), 1);
    for (query, count) in [
        (format!("app={app}"), 2),
        ("app=00".to_owned(), 0),
        ("limit=1".to_owned(), 1),
        ("domain=other".to_owned(), 0),
        ("since=2100-01-01".to_owned(), 0),
    ] {
        let cvms = fleet.listed(0, &format!("/api/v1/cvms?fleet=true&{query}"), "cvms").await;
        assert_eq!(cvms.len(), count, "{query}: {cvms:?}");
    }
    for (query, problem) in
        [("fleet=true&cursor=5", "fleet gives one page"), ("fleet=yes", "fleet must be true or false")]
    {
        let told = fleet.send(0, "GET", &format!("/api/v1/cvms?{query}"), Value::Null, ADMIN_TOKEN).await;
        assert!(told.status == 400 && told.text().contains(problem), "{}", told.text());
    }

    // A credential of a domain sees what is of its domain only, of other nodes too.
    fleet.done(0, "POST", "/api/v1/domains", json!({ "name": "team" })).await;
    let made = json!({ "name": "tom", "role": "viewer", "domain": "team" });
    let made = fleet.done(0, "POST", "/api/v1/credentials", made).await;
    let token = made["token"].as_str().expect("a token");
    for list in ["cvms", "denials"] {
        let shown = fleet.send(0, "GET", &format!("/api/v1/{list}?fleet=true"), Value::Null, token).await;
        assert_eq!((shown.status, &shown.value()[list]), (200, &json!([])), "{}", shown.text());
    }

    // It is forgotten when it is gone, and is there again when it comes back.
    let nodes = async |fleet: &Fleet| fleet.listed(0, "/api/v1/fleet", "nodes").await.len();
    let forget = json!({ "node": "node-1" });
    let early = fleet.send(0, "POST", "/api/v1/fleet/forget", forget.clone(), ADMIN_TOKEN).await;
    assert!(early.status == 409 && early.text().contains("stop it first"), "{}", early.text());
    let unknown =
        fleet.send(0, "POST", "/api/v1/fleet/forget", json!({ "node": "node-7" }), ADMIN_TOKEN).await;
    assert_eq!(unknown.status, 404, "{}", unknown.text());
    fleet.nodes[1].stop().await;
    eventually("silence", async || {
        let shown = fleet.listed(0, "/api/v1/fleet", "nodes").await;
        shown.iter().any(|node| node["answers"] == false).then_some(())
    })
    .await;
    fleet.done(0, "POST", "/api/v1/fleet/forget", forget).await;
    eventually("one node", async || (nodes(&fleet).await == 1).then_some(())).await;
    let event = &fleet.nodes[0].audited("node_forgotten")[0];
    assert_eq!((&event["name"], &event["by"]), (&json!("node-1"), &json!("token")));
    eventually("only what is here", async || {
        (fleet.listed(0, "/api/v1/cvms?fleet=true", "cvms").await.len() == 1).then_some(())
    })
    .await;
    fleet.nodes[1].start().await.expect("it starts");
    fleet.releases(1).await;
    eventually("two nodes", async || (nodes(&fleet).await == 2).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_is_not_forgotten_before_it_was_listened_to() {
    let mut fleet = Fleet::apart(2, "core.postgres.max_view_age = \"3s\"").await;
    fleet.networks[1].set(crate::support::proxy::Network::BlackHole);
    fleet.nodes[0].start().await.expect("it starts");
    eventually("the other node", async || {
        let nodes = fleet.listed(0, "/api/v1/fleet", "nodes").await;
        nodes.iter().any(|node| node["name"] == "node-1" && node["answers"] == false).then_some(())
    })
    .await;
    let forget = async || {
        let body = json!({ "node": "node-1" });
        fleet.send(0, "POST", "/api/v1/fleet/forget", body, ADMIN_TOKEN).await
    };
    let early = forget().await;
    // Before its first view it is stale, and afterwards it has not watched for long enough.
    let told = match early.status {
        503 => "cannot know whether node-1 answers: there is no view of the shared state yet",
        _ => "whether node-1 answers is not known yet",
    };
    assert!([409, 503].contains(&early.status) && early.text().contains(told), "{}", early.text());
    eventually("it is known", async || (forget().await.status == 200).then_some(())).await;
}
