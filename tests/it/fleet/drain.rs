//! Operators drain nodes through any node, and a drain is lost by no restart, no other operator and no outage.

use super::*;

impl Fleet {
    /// Drains or undrains a node, or the one that is asked.
    pub(super) async fn act(&self, through: usize, action: &str, node: Option<&str>, token: &str) -> Answer {
        let body = node.map_or(Value::Null, |node| json!({ "node": node }));
        self.send(through, "POST", &format!("/api/v1/actions/{action}"), body, token).await
    }

    pub(super) async fn acted(&self, through: usize, action: &str, node: Option<&str>) -> Value {
        let answer = self.act(through, action, node, ADMIN_TOKEN).await;
        assert_eq!(answer.status, 200, "{action} {node:?}: {}", answer.text());
        answer.value()
    }

    /// Whether a node says that an operator drains it, and who.
    async fn drains(&self, node: usize) -> bool {
        let ready = self.send(node, "GET", "/readyz", Value::Null, ADMIN_TOKEN).await;
        ready.text().contains("\"draining\"")
    }

    pub(super) async fn is_drained(&self, node: usize, is: bool) {
        eventually(&format!("node {node} drains: {is}"), async || {
            (self.drains(node).await == is).then_some(())
        })
        .await;
    }

    async fn serves(&self, node: usize) {
        eventually(&format!("node {node} serves"), async || {
            (self.nodes[node].caller().get("/readyz").await.status == 200).then_some(())
        })
        .await;
    }

    /// Who drains a node, as another one shows it.
    async fn shown(&self, at: usize, name: &str) -> Value {
        let view = self.done(at, "GET", "/api/v1/fleet", Value::Null).await;
        let nodes = view["nodes"].as_array().expect("nodes");
        nodes.iter().find(|node| node["name"] == name).map(|node| node["drained"].clone()).unwrap_or_default()
    }

    async fn is_shown(&self, at: usize, name: &str, by: Value) {
        eventually(&format!("{name} is drained by {by} as node {at} shows it"), async || {
            (self.shown(at, name).await["by"] == by).then_some(())
        })
        .await;
    }

    pub(super) async fn is_shared(&self, at: usize, name: &str) {
        eventually(&format!("the drain of {name} is shared as node {at} shows it"), async || {
            (self.shown(at, name).await["shared"] == true).then_some(())
        })
        .await;
    }

    /// The newest change of a drain that a node has recorded as taken over, once it is this one.
    async fn took_over(&self, node: usize, change: &str) -> Value {
        eventually(&format!("node {node} records that a node is {change}"), async || {
            let mut adopted = self.nodes[node].audited("state_adopted");
            adopted.retain(|event| event["document"] == "drain");
            adopted.pop().filter(|event| event["change"] == change)
        })
        .await
    }

    /// The first record of this event on a node.
    async fn recorded(&self, node: usize, event: &str) -> Value {
        eventually(event, async || self.nodes[node].audited(event).into_iter().next()).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_is_drained_and_undrained_through_any_other_and_drains_after_its_restart() {
    let mut fleet = Fleet::of(3).await;
    fleet.serves(2).await;
    let unknown = fleet.act(0, "drain", Some("node-7"), ADMIN_TOKEN).await;
    assert!(unknown.status == 404 && unknown.text().contains("no node of the fleet"), "{}", unknown.text());
    let done = fleet.acted(0, "drain", Some("node-2")).await;
    let message = done["message"].as_str().expect("a text");
    assert!(
        message.contains("node-2") && message.contains("until it is undrained, also after a restart"),
        "{message}"
    );
    fleet.is_drained(2, true).await;
    assert_eq!(fleet.nodes[2].caller().get("/readyz").await.status, 503);
    fleet.releases(2).await;
    assert!(!fleet.drains(0).await && !fleet.drains(1).await, "only the one that was named");
    fleet.is_shown(1, "node-2", json!("token")).await;
    fleet.is_shared(1, "node-2").await;

    // Who and which node is in the logs of both.
    let adopted = fleet.took_over(2, "drained").await;
    assert_eq!(
        (&adopted["change"], &adopted["target"], &adopted["node"], &adopted["by"]),
        (&json!("drained"), &json!("the node node-2"), &json!("node-0"), &json!("token"))
    );
    for event in ["action_started", "action_succeeded"] {
        let event = fleet.recorded(0, event).await;
        assert_eq!((&event["action"], &event["name"]), (&json!("drain"), &json!("node-2")), "{event}");
        assert_eq!(event["node"].as_str().map(str::len), Some(32), "{event}");
    }

    fleet.nodes[2].start().await.expect("it starts");
    assert!(fleet.drains(2).await, "from its start");
    fleet.releases(2).await;
    assert!(fleet.drains(2).await);
    let view = fleet.done(1, "GET", "/api/v1/fleet", Value::Null).await;
    let id = view["nodes"][2]["id"].as_str().expect("an id").to_owned();
    assert_eq!(fleet.acted(1, "undrain", Some(&id)).await["message"], "the drain of node-2 is over");
    fleet.serves(2).await;
    fleet.took_over(2, "undrained").await;
    assert_eq!(fleet.acted(1, "undrain", Some(&id)).await["message"], "no operator drains node-2");
    fleet.nodes[2].start().await.expect("it starts");
    fleet.serves(2).await;

    // Without a name it is the node that is asked, and others end that too.
    let done = fleet.acted(1, "drain", None).await;
    assert!(fleet.drains(1).await, "at once: {done}");
    fleet.is_shared(0, "node-1").await;
    let again = fleet.acted(1, "drain", Some("node-1")).await;
    assert!(again["message"].as_str().expect("a text").contains("draining already, by token"), "{again}");
    fleet.acted(0, "undrain", Some("node-1")).await;
    fleet.serves(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_operators_the_first_drains_and_a_node_that_is_forgotten_is_drained_no_more() {
    let mut fleet = Fleet::of(3).await;
    let mut tokens = Vec::new();
    for (name, role) in [("amy", "operator"), ("bob", "operator"), ("eve", "viewer")] {
        let made = fleet.done(0, "POST", "/api/v1/credentials", json!({ "name": name, "role": role })).await;
        tokens.push(made["token"].as_str().expect("a token").to_owned());
    }
    fleet.adopted(2, 3).await;
    let refused = fleet.act(0, "drain", Some("node-1"), &tokens[2]).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    for _ in 0..3 {
        let (one, two) = tokio::join!(
            fleet.act(0, "drain", Some("node-1"), &tokens[0]),
            fleet.act(2, "drain", Some("node-1"), &tokens[1])
        );
        assert_eq!((one.status, two.status), (200, 200), "{} {}", one.text(), two.text());
        let late = [&one, &two].map(|answer| answer.text().contains("was draining already"));
        assert_ne!(late[0], late[1], "{} {}", one.text(), two.text());
        let first = if late[0] { "credential bob" } else { "credential amy" };
        for node in 0..3 {
            fleet.is_shown(node, "node-1", json!(first)).await;
        }
        fleet.is_drained(1, true).await;
        fleet.acted(2, "undrain", Some("node-1")).await;
        for node in 0..3 {
            fleet.is_shown(node, "node-1", Value::Null).await;
        }
        fleet.serves(1).await;
    }

    fleet.acted(0, "drain", Some("node-1")).await;
    fleet.is_drained(1, true).await;
    fleet.nodes[1].stop().await;
    let forget = json!({ "node": "node-1" });
    eventually("it is forgotten", async || {
        let forgotten = fleet.send(0, "POST", "/api/v1/fleet/forget", forget.clone(), ADMIN_TOKEN).await;
        (forgotten.status == 200).then_some(())
    })
    .await;
    fleet.nodes[1].start().await.expect("it starts");
    fleet.serves(1).await;
    fleet.is_shown(0, "node-1", Value::Null).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_a_database_a_node_drains_itself_and_neither_forgets_it_nor_undrains() {
    let mut fleet = Fleet::of(2).await;
    fleet.serves(0).await;
    fleet.postgres.stop();
    let done = fleet.acted(0, "drain", None).await;
    assert_eq!(done["shared"], false, "{done}");
    assert!(
        ["the other nodes do not know it yet", "undrain is possible only while the database answers"]
            .iter()
            .all(|said| done["message"].as_str().expect("a text").contains(said)),
        "{done}"
    );
    assert!(fleet.drains(0).await, "at once");
    assert_eq!(fleet.shown(0, "node-0").await["shared"], false);
    for (action, node) in [("drain", Some("node-1")), ("undrain", None), ("undrain", Some("node-0"))] {
        let refused = fleet.act(0, action, node, ADMIN_TOKEN).await;
        let told = refused.text();
        assert!(refused.status == 503 && told.contains("nothing was changed"), "{action} {node:?}: {told}");
    }
    assert!(fleet.drains(0).await && !fleet.drains(1).await);
    fleet.nodes[0].start().await.expect("it starts");
    assert!(fleet.drains(0).await, "after a restart without a database");
    fleet.postgres.resume().await;
    fleet.is_shown(1, "node-0", json!("token")).await;
    assert_eq!(fleet.took_over(1, "drained").await["by"], json!("token"));
    fleet.releases(0).await;
    assert!(fleet.drains(0).await);
    fleet.acted(1, "undrain", Some("node-0")).await;
    fleet.serves(0).await;
    fleet.is_shown(1, "node-0", Value::Null).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_apart_drains_itself_while_another_drains_it_and_one_undrain_ends_both() {
    let fleet = Fleet::apart(2, "core.postgres.max_view_age = \"3s\"").await;
    fleet.networks[1].set(crate::support::proxy::Network::Reset);
    fleet.is_stale(1).await;
    assert_eq!(fleet.acted(1, "drain", None).await["shared"], false);
    fleet.acted(0, "drain", Some("node-1")).await;
    fleet.is_shared(0, "node-1").await;
    fleet.networks[1].set(crate::support::proxy::Network::Whole);
    fleet.releases(1).await;
    fleet.is_shared(1, "node-1").await;
    fleet.acted(0, "undrain", Some("node-1")).await;
    fleet.serves(1).await;
    fleet.is_shown(0, "node-1", Value::Null).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_drain_is_later_than_an_end_that_the_node_has_not_seen() {
    let fleet = Fleet::apart(2, "core.postgres.max_view_age = \"3s\"").await;
    for _ in 0..5 {
        fleet.acted(0, "drain", Some("node-1")).await;
        fleet.is_drained(1, true).await;
        fleet.acted(0, "undrain", Some("node-1")).await;
        fleet.acted(1, "drain", None).await;
        fleet.is_shared(1, "node-1").await;
        fleet.is_shown(0, "node-1", json!("token")).await;
        fleet.acted(0, "undrain", Some("node-1")).await;
        fleet.serves(1).await;
    }

    fleet.acted(0, "drain", Some("node-1")).await;
    fleet.is_drained(1, true).await;
    fleet.networks[1].set(crate::support::proxy::Network::Reset);
    fleet.is_stale(1).await;
    fleet.acted(0, "undrain", Some("node-1")).await;
    let again = fleet.acted(1, "drain", None).await;
    assert_eq!(again["shared"], false, "{again}");
    fleet.is_shown(0, "node-1", Value::Null).await;
    fleet.networks[1].set(crate::support::proxy::Network::Whole);
    fleet.is_shown(0, "node-1", json!("token")).await;
    assert!(fleet.drains(1).await);
    fleet.acted(0, "undrain", Some("node-1")).await;
    fleet.serves(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_drain_while_an_earlier_one_is_ended_on_the_same_node_is_not_lost() {
    let fleet = Fleet::of(2).await;
    let started = |action: &str| {
        let started = fleet.nodes[0].audited("action_started");
        started.iter().filter(|event| event["action"] == action).count()
    };
    let ends = async |through: usize, name: &str| {
        eventually(&format!("an end of the drain of {name}"), async || {
            (fleet.act(through, "undrain", Some(name), ADMIN_TOKEN).await.status == 200).then_some(())
        })
        .await;
    };
    // What waits for the database gives up after some time, which a busy machine may need for the other drain.
    let told = eventually("an end that another drain overtakes", async || {
        fleet.act(0, "drain", None, ADMIN_TOKEN).await;
        ends(0, "node-1").await;
        fleet.is_shown(1, "node-0", json!("token")).await;
        fleet.is_shown(1, "node-1", Value::Null).await;
        let (drains, undrains) = (started("drain"), started("undrain"));
        let head = fleet.postgres.client().await;
        head.batch_execute("BEGIN; SELECT 1 FROM kms_head FOR UPDATE").await.expect("the head");
        // While one change waits for the database, the end and the next drain come.
        let ending = async {
            eventually("a change waits for the database", async || {
                let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
                let rows = fleet.postgres.client().await.query(waits, &[]).await.expect("a count");
                (rows[0].get::<_, i64>(0) > 0).then_some(())
            })
            .await;
            fleet.act(0, "undrain", None, ADMIN_TOKEN).await
        };
        let again = async {
            eventually("an end", async || (started("undrain") > undrains).then_some(())).await;
            fleet.act(0, "drain", None, ADMIN_TOKEN).await
        };
        let release = async {
            eventually("another drain", async || (started("drain") > drains + 1).then_some(())).await;
            head.batch_execute("COMMIT").await.expect("the head is free");
        };
        let (_, ended, again, ()) =
            tokio::join!(fleet.act(0, "drain", Some("node-1"), ADMIN_TOKEN), ending, again, release);
        assert_eq!(again.status, 200, "{}", again.text());
        // It came before the end.
        if again.text().contains("already") {
            return None;
        }
        assert!(fleet.drains(0).await, "{} {}", ended.text(), again.text());
        fleet.is_shown(1, "node-0", json!("token")).await;
        assert!(fleet.drains(0).await, "{} {}", ended.text(), again.text());
        Some(ended.text().to_owned()).filter(|told| told.contains("again meanwhile"))
    })
    .await;
    assert!(told.contains("the drain is not over: an operator drained the node again meanwhile"), "{told}");
    for node in ["node-0", "node-1"] {
        ends(1, node).await;
    }
    fleet.serves(0).await;
}
