//! Freezes and unfreezes of the same target at the same time, on one node and on several: none is lost, and each operator is told
//! what is so.

use tokio::task::JoinHandle;

use super::*;
use crate::support::proxy::Network;

const SHORT: &str = "core.postgres.max_view_age = \"3s\"";

/// What an operator of a node sees of the freeze of the app of the fleet.
fn seen(listed: &Value) -> Option<Value> {
    listed["frozen"].as_array().and_then(|frozen| frozen.first()).cloned()
}

impl Fleet {
    fn request(&self, more: Value) -> Value {
        let mut request =
            json!({ "scope": "app", "value": hex::encode(self.app.app_id()), "reason": "a test" });
        let fields = request.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("an object").clone());
        request
    }

    /// Asks for a change of a freeze, and does not wait for the answer.
    async fn ask_for(&self, node: usize, method: &'static str, more: Value) -> JoinHandle<Answer> {
        let (operator, request) = (self.operator(node).await, self.request(more));
        tokio::spawn(async move { operator.call(method, request).await })
    }

    /// Waits until a node knows that it does not know what is changed on others.
    async fn is_without_state(&self, node: usize) {
        eventually(&format!("node {node} is without state"), async || {
            let ready = self.nodes[node].caller().get("/readyz").await;
            ready.text().contains("state_stale").then_some(())
        })
        .await;
    }

    /// Waits until the app is frozen for this reason as a node shows it.
    async fn is_frozen_for(&self, node: usize, reason: &str) -> Value {
        eventually(&format!("the freeze \"{reason}\" on node {node}"), async || {
            let listed = self.operator(node).await.called("ListFrozen", json!({})).await;
            seen(&listed).filter(|freeze| freeze["reason"] == reason)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_freeze_while_an_earlier_one_is_unfrozen_or_shortened_on_the_same_node_is_not_lost() {
    let fleet = Fleet::of(2).await;
    for method in ["Unfreeze", "Freeze"] {
        // What waits for the database gives up after some time, which a busy machine may need for the other freeze.
        let ended = eventually("an end that another freeze overtakes", async || {
            fleet.operator(0).await.called("Freeze", fleet.request(json!({ "replace": true }))).await;
            fleet.is_frozen_for(1, "a test").await;
            let before = fleet.nodes[0].audited("frozen").len();
            let head = fleet.postgres.client().await;
            head.batch_execute("BEGIN; SELECT 1 FROM kms_head FOR UPDATE").await.expect("the head");
            let ends_soon = json!({ "expires_at": in_an_hour(), "replace": true });
            let more = if method == "Freeze" { ends_soon } else { json!({}) };
            let ending = fleet.ask_for(0, method, more).await;
            eventually("the end waits for the database", async || {
                let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
                let rows = fleet.postgres.client().await.query(waits, &[]).await.expect("a count");
                (rows[0].get::<_, i64>(0) > 0 || ending.is_finished()).then_some(())
            })
            .await;
            let again = fleet.ask_for(0, "Freeze", json!({ "reason": "again" })).await;
            eventually("it is frozen again", async || {
                (fleet.nodes[0].audited("frozen").len() > before || again.is_finished()).then_some(())
            })
            .await;
            head.batch_execute("COMMIT").await.expect("the head is free");
            let (ended, again) = (ending.await.expect("an answer"), again.await.expect("an answer"));
            assert_eq!(again.status, 200, "{}", again.text());
            for node in 0..2 {
                let freeze = fleet.is_frozen_for(node, "again").await;
                assert!(freeze["expires_at"].is_null(), "{freeze}");
                fleet.is_frozen(node).await;
            }
            (ended.status != 503).then_some(ended)
        })
        .await;
        let (status, told) = (ended.status, ended.text());
        let because = match method {
            "Unfreeze" => {
                "it is still frozen: it was frozen again meanwhile; in force is the freeze by token (again)"
            }
            _ => "it is frozen already until it is taken back, by token (again); nothing was changed",
        };
        assert!(status == 400 && told.contains(because), "{method}: {status} {told}");
        if method == "Unfreeze" {
            eventually("the log ends with what is so", async || {
                let failed = fleet.nodes[0].audited("unfreeze_failed");
                failed.into_iter().find(|failed| failed["reason"] == "another operator froze it again")
            })
            .await;
        }
        fleet.unfreeze(1).await;
        fleet.releases(0).await;
        fleet.releases(1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn operators_see_which_freezes_the_other_nodes_do_not_know_yet() {
    let fleet = Fleet::apart(2, SHORT).await;
    // Both lists say the same, unless it arrives between the two.
    let listed = async |node: usize| {
        eventually("both lists", async || {
            let in_api = fleet.done(node, "GET", "/api/v1/freezes", Value::Null).await["freezes"].clone();
            let in_prpc = fleet.operator(node).await.called("ListFrozen", json!({})).await["frozen"].clone();
            (in_api[0]["shared"] == in_prpc[0]["shared"]).then(|| in_api[0]["shared"].clone())
        })
        .await
    };
    fleet.networks[1].set(Network::Reset);
    fleet.is_stale(1).await;
    let app = hex::encode(fleet.app.app_id());
    let body = json!({ "scope": "app", "target": app, "reason": "a test" });
    let frozen = fleet.done(1, "POST", "/api/v1/freezes", body.clone()).await;
    assert_eq!(
        (&frozen["shared"], listed(1).await, listed(0).await),
        (&json!(false), json!(false), json!(null))
    );
    fleet.networks[1].set(Network::Whole);
    for node in 0..2 {
        eventually(&format!("it is shared as node {node} shows it"), async || {
            (listed(node).await == true).then_some(())
        })
        .await;
    }
    // The node that was away may be changing the same.
    eventually("what is shared already", async || {
        (fleet.done(0, "POST", "/api/v1/freezes", body.clone()).await["shared"] == true).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_freeze_is_later_than_an_end_that_the_node_has_not_seen() {
    let fleet = Fleet::apart(2, SHORT).await;
    let for_an_hour = || fleet.request(json!({ "expires_at": in_an_hour(), "reason": "again" }));
    for _ in 0..5 {
        fleet.freeze(0).await;
        fleet.is_frozen(1).await;
        fleet.unfreeze(0).await;
        fleet.operator(1).await.freezes_all(for_an_hour()).await;
        fleet.is_frozen_for(0, "again").await;
        fleet.is_frozen_for(1, "again").await;
        let refused = fleet
            .operator(1)
            .await
            .call("Freeze", fleet.request(json!({ "expires_at": in_an_hour() - 60 })))
            .await;
        assert!(
            refused.status == 400 && refused.text().contains("nothing was changed"),
            "{}",
            refused.text()
        );
        fleet.unfreeze(0).await;
        fleet.releases(1).await;
    }

    for replace in [false, true] {
        fleet.freeze(0).await;
        fleet.is_frozen(1).await;
        fleet.networks[1].set(Network::Reset);
        fleet.is_without_state(1).await;
        fleet.unfreeze(0).await;
        fleet.releases(0).await;
        let mut request = for_an_hour();
        request["replace"] = json!(replace);
        let refused = fleet.operator(1).await.call("Freeze", request).await;
        let told = match replace {
            true => "it is still frozen: the database cannot be reached",
            false => {
                "until it is taken back, by token (a test), which stays; whether the other nodes have that freeze is not"
            }
        };
        assert!(refused.status == 503 && refused.text().contains(told), "{}", refused.text());
        fleet.networks[1].set(Network::Whole);
        for node in 0..2 {
            fleet.is_frozen_for(node, "a test").await;
            fleet.is_frozen(node).await;
        }
        fleet.unfreeze(0).await;
        fleet.releases(1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_unfreeze_finds_what_another_node_has_just_frozen_or_says_that_it_does_not_know() {
    let fleet = Fleet::apart(2, SHORT).await;
    let lift = format!("/api/v1/freezes/app-{}/lift", hex::encode(fleet.app.app_id()));
    for _ in 0..5 {
        fleet.freeze(0).await;
        fleet.unfreeze(1).await;
        fleet.freeze(1).await;
        let lifted = fleet.send(0, "POST", &lift, json!({}), ADMIN_TOKEN).await;
        assert_eq!((lifted.status, &lifted.value()["lifted"]), (200, &json!(true)), "{}", lifted.text());
    }
    assert!(!fleet.operator(1).await.unfreeze("app", fleet.app.app_id()).await, "it is not frozen");

    fleet.networks[1].set(Network::Reset);
    fleet.is_stale(1).await;
    fleet.freeze(0).await;
    let unknown = fleet.operator(1).await.call("Unfreeze", fleet.request(json!({}))).await;
    for refused in [unknown, fleet.send(1, "POST", &lift, json!({}), ADMIN_TOKEN).await] {
        let told = "whether it is on another one is not known now";
        assert!(refused.status == 503 && refused.text().contains(told), "{}", refused.text());
    }
    fleet.networks[1].set(Network::Whole);
    fleet.is_frozen(1).await;
    fleet.unfreeze(1).await;
    fleet.releases(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_tells_that_a_freeze_does_not_fit_into_the_shared_state_until_it_does() {
    let mut fleet = Fleet::of(1).await;
    fleet.nodes[0].stop().await;
    let app = |number: usize| format!("{number:040x}");
    let record = |number: usize| {
        json!({ "scope": "app", "value": app(number), "reason": "r", "since": number, "expires_at": null, "by": "token",
            "remote": "127.0.0.1", "unshared": true })
    };
    let frozen: Vec<_> = (1..=4001).map(record).collect();
    let file = json!({ "version": 1, "shared": true, "frozen": frozen });
    std::fs::write(fleet.nodes[0].key_file("frozen.json"), file.to_string()).expect("the file");
    fleet.nodes[0].start().await.expect("it starts");
    let warned = async |is: bool| {
        eventually(&format!("a warning: {is}"), async || {
            let view = fleet.done(0, "GET", "/api/v1/fleet", Value::Null).await;
            let told = "what this node has of freezes is not shared: the nodes of the fleet would have more than 4000 freezes: end some";
            (view["warnings"].to_string().contains(told) == is).then_some(())
        })
        .await;
    };
    warned(true).await;
    let last = json!({ "scope": "app", "value": app(4001), "reason": "r" });
    let listed = fleet.operator(0).await.called("ListFrozen", json!({})).await;
    let shared = |is: bool| {
        let frozen = listed["frozen"].as_array().expect("freezes");
        frozen
            .iter()
            .filter(|freeze| freeze["shared"] == is)
            .map(|freeze| freeze["value"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!((shared(true).len(), shared(false)), (4000, vec![last["value"].clone()]));
    let kms = json!({ "scope": "kms", "reason": "everything" });
    // There is always room for it.
    fleet.operator(0).await.freezes_all(kms).await;
    warned(true).await;
    assert!(fleet.operator(0).await.unfreeze("app", &[[0; 19].as_slice(), &[7]].concat()).await);
    warned(false).await;
    fleet.operator(0).await.freezes_all(last).await;
}

/// In an hour, Unix seconds.
fn in_an_hour() -> u64 {
    kms_attest::clock::unix_now() + 3600
}
