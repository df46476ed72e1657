//! A node that cannot read one of the documents that the nodes share: the others are in force there all the same.

use serde_json::{Value, json};

use super::Fleet;
use crate::support::{ADMIN_TOKEN, eventually};

impl Fleet {
    /// What a node says of the shared state that it does not believe.
    async fn alarm(&self, node: usize) -> Value {
        self.done(node, "GET", "/api/v1/fleet", Value::Null).await["alarm"].clone()
    }

    /// Waits until it believes it and knows of all changes.
    async fn is_fresh(&self, node: usize) {
        eventually("a view that counts", async || {
            let view = self.done(node, "GET", "/api/v1/fleet", Value::Null).await;
            (view["stale"].is_null() && view["alarm"].is_null()).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn freezes_reach_and_leave_a_node_whose_configuration_contradicts_a_domain() {
    for when_stale in ["warn", "refuse"] {
        println!("{when_stale}");
        let mut fleet = Fleet::with(2, &format!("core.postgres.when_stale = \"{when_stale}\"")).await;
        fleet.nodes[1].configure("[domains.team]\ninstance_scoped = true");
        fleet.nodes[1].start().await.expect("it starts");
        fleet.is_fresh(1).await;
        fleet.done(0, "POST", "/api/v1/domains", json!({ "name": "team" })).await;
        fleet.alarmed(1, "unreadable").await;
        let alarm = fleet.alarm(1).await;
        let text = alarm["text"].as_str().expect("a text");
        assert!(text.contains("(domains) contradicts the configuration file of this node"), "{alarm}");
        assert!(alarm["remedy"].as_str().expect("a text").starts_with("Change the configuration"), "{alarm}");
        // What another node froze, and then ended.
        fleet.freeze_all(0).await;
        fleet.is_frozen(1).await;
        fleet.unfreeze(0).await;
        match when_stale {
            "warn" => fleet.releases(1).await,
            _ => fleet.is_stale(1).await,
        }
        // What it froze itself; but it ends nothing.
        fleet.freeze_all(1).await;
        fleet.is_frozen(0).await;
        let scope = json!({ "scope": "app", "value": hex::encode(fleet.app.app_id()) });
        let refused = fleet.send(1, "POST", "/prpc/Unfreeze?json", scope, ADMIN_TOKEN).await;
        assert!(refused.status != 200, "{}", refused.text());
        // Over a restart too.
        fleet.nodes[1].start().await.expect("it starts");
        fleet.is_frozen(1).await;
        fleet.is_frozen(0).await;
        eventually("the alarm", async || (!fleet.alarm(1).await.is_null()).then_some(())).await;
        // The configuration agrees.
        fleet.nodes[1].configure("[domains.team]\ninstance_scoped = false");
        fleet.nodes[1].start().await.expect("it starts");
        fleet.is_fresh(1).await;
        fleet.unfreeze(1).await;
        fleet.releases(0).await;
        fleet.releases(1).await;
        assert!(fleet.alarms(0).is_empty(), "{:?}", fleet.alarms(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_ended_after_a_repair_stays_ended_while_a_node_cannot_read_another_document() {
    let mut fleet = Fleet::with(2, "core.postgres.when_stale = \"warn\"").await;
    fleet.nodes[1].configure("[domains.team]\ninstance_scoped = true");
    fleet.nodes[1].start().await.expect("it starts");
    fleet.is_fresh(1).await;
    fleet.done(0, "POST", "/api/v1/domains", json!({ "name": "team" })).await;
    fleet.alarmed(1, "unreadable").await;
    fleet.freeze_all(0).await;
    fleet.is_frozen(1).await;
    fleet.postgres.run("DELETE FROM kms_head; DELETE FROM kms_state").await;
    fleet.alarmed(0, "rolled_back").await;
    fleet.done(0, "POST", "/api/v1/fleet/repair", Value::Null).await;
    fleet.is_fresh(0).await;
    for again in [false, true] {
        if again {
            fleet.nodes[1].start().await.expect("it starts");
        }
        fleet.freeze_all(0).await;
        fleet.is_frozen(1).await;
        fleet.unfreeze(0).await;
        fleet.releases(1).await;
        // A freeze of that node comes after what it would have brought back.
        let other = fleet.nodes[1].app(2);
        let request = json!({ "scope": "app", "value": hex::encode(other.app_id()), "reason": "a test" });
        fleet.operator(1).await.freezes_all(request).await;
        let frozen = eventually("the freeze of the other node", async || {
            let frozen = fleet.operator(0).await.called("ListFrozen", json!({})).await["frozen"].clone();
            let is_there = frozen.to_string().contains(&hex::encode(other.app_id()));
            is_there.then_some(frozen)
        })
        .await;
        assert_eq!(frozen.as_array().map(Vec::len), Some(1), "{frozen}");
        assert!(fleet.operator(0).await.unfreeze("app", other.app_id()).await);
    }
    // What was repaired is still taken over when it can be read.
    fleet.nodes[1].configure("[domains.team]\ninstance_scoped = false");
    fleet.nodes[1].start().await.expect("it starts");
    fleet.is_fresh(1).await;
    let domain = fleet.done(1, "GET", "/api/v1/domains/team", Value::Null).await;
    assert_eq!(domain["name"], "team", "{domain}");
}
