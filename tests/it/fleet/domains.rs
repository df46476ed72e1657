//! Domains and epochs of apps: what the shared state says decides, whatever a node knows of it, and which keys an app has is known from
//! all nodes.

use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::{Value, json};

use super::Fleet;
use crate::support::proxy::Network;
use crate::support::{ADMIN_TOKEN, Answer, eventually};

/// A change, and the one that takes it back: verb, path and body.
struct Case {
    make: (&'static str, String, Value),
    undo: (&'static str, String, Value),
    /// Where it is seen, and the text that says it.
    seen: (String, &'static str),
}

fn cases(app: &str) -> [Case; 3] {
    let domain = |path: &str| format!("/api/v1/domains/{path}");
    let epochs = format!("/api/v1/epochs/apps/{app}");
    let chosen = |epoch: u32| json!({ "root_epoch": "current", "app_epoch": epoch });
    [
        Case {
            make: ("POST", domain("team/archive"), Value::Null),
            undo: ("POST", domain("team/restore"), Value::Null),
            seen: (domain("team"), "\"archived_by\":\"token\""),
        },
        Case {
            make: ("PUT", epochs.clone(), chosen(1)),
            undo: ("PUT", epochs.clone(), chosen(2)),
            seen: (epochs, "\"app_epoch\":1"),
        },
        Case {
            make: ("POST", domain(&format!("prod/apps/{app}/move")), json!({})),
            undo: ("POST", domain(&format!("default/apps/{app}/move")), json!({})),
            seen: (domain("prod"), "\"app_id\""),
        },
    ]
}

impl Fleet {
    async fn change(&self, node: usize, (verb, path, body): &(&str, String, Value)) -> Answer {
        self.send(node, verb, path, body.clone(), ADMIN_TOKEN).await
    }

    async fn changed(&self, node: usize, change: &(&str, String, Value)) {
        eventually(&format!("{} {}", change.0, change.1), async || {
            let answer = self.change(node, change).await;
            let told = answer.text();
            assert!([200, 503].contains(&answer.status), "{} {}: {told}", change.0, change.1);
            // A busy database may be too slow.
            (answer.status == 200).then_some(())
        })
        .await;
    }

    async fn reads(&self, node: usize, (path, text): &(String, &str), is_there: bool) {
        eventually(&format!("{text} of {path} on node {node}: {is_there}"), async || {
            let shown = self.done(node, "GET", path, Value::Null).await.to_string();
            (shown.contains(text) == is_there).then_some(())
        })
        .await;
    }

    async fn assigned(&self, node: usize, domain: &str, app: &str) -> (u16, String) {
        let path = format!("/api/v1/domains/{domain}/apps");
        let answer = self.send(node, "POST", &path, json!({ "app_id": app }), ADMIN_TOKEN).await;
        (answer.status, answer.text().to_owned())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_node_believes_to_be_so_already_is_asked_of_the_shared_state() {
    let fleet = Fleet::apart(2, "").await;
    for name in ["team", "prod"] {
        fleet.done(0, "POST", "/api/v1/domains", json!({ "name": name })).await;
    }
    for Case { make, undo, seen } in cases(&hex::encode([7; 20])) {
        // A node that heard of nothing for too long answers that it cannot tell; then it is tried again.
        eventually("a change that another node had taken back", async || {
            fleet.changed(0, &make).await;
            fleet.reads(1, &seen, true).await;
            fleet.networks[1].set(Network::BlackHole);
            fleet.changed(0, &undo).await;
            let heals = async {
                fleet.done(1, "GET", "/api/v1/me", Value::Null).await;
                fleet.networks[1].set(Network::Whole);
            };
            let (answer, ()) = tokio::join!(fleet.change(1, &make), heals);
            if answer.status == 503 {
                return None;
            }
            assert_eq!(answer.status, 200, "{}", answer.text());
            for node in 0..2 {
                fleet.reads(node, &seen, true).await;
            }
            Some(())
        })
        .await;
        fleet.networks[1].set(Network::Reset);
        fleet.changed(0, &undo).await;
        let refused = fleet.change(1, &make).await;
        let told = refused.text();
        assert!(refused.status == 503 && told.contains("nothing was changed"), "{}: {told}", make.1);
        fleet.networks[1].set(Network::Whole);
        fleet.reads(1, &seen, false).await;
        let (make, undo) = (&make.1, &undo.1);
        println!("{make} after {undo} is decided by what is shared");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_app_with_keys_of_any_node_is_not_put_into_another_domain_as_one_without() {
    let fleet = Fleet::apart(2, "core.postgres.max_view_age = \"3s\"").await;
    fleet.done(0, "POST", "/api/v1/domains", json!({ "name": "team" })).await;
    let (there, app) = (&fleet.nodes[1], fleet.nodes[0].app(2));
    there.allow_app(&app);
    let id = hex::encode(app.app_id());
    let identity = there.attested(&app).await;
    eventually("its keys", async || {
        let answer = there.caller().shows(&identity).json("GetAppKey", json!({})).await;
        (answer.status == 200).then_some(())
    })
    .await;
    // What a node gave is told within seconds.
    eventually("what the other node gave", async || {
        let path = format!("/api/v1/cvms?fleet=true&app={id}");
        let cvms = fleet.done(0, "GET", &path, Value::Null).await;
        cvms["cvms"].as_array().is_some_and(|cvms| !cvms.is_empty()).then_some(())
    })
    .await;
    let (status, told) = fleet.assigned(0, "team", &id).await;
    assert!(status == 409 && told.contains("needs_move"), "{told}");
    assert!(told.contains("which 1 CVM has received since"), "{told}");
    assert!(told.contains("move it instead"), "{told}");
    // What the second owner of a move reads says the same.
    let path = format!("/api/v1/domains/team/apps/{id}/move");
    let preview = fleet.done(0, "POST", &path, json!({ "preview": true })).await;
    assert_eq!(preview["loses"]["cvms"], 1, "{preview}");
    // One that has none, once both nodes have told of all.
    eventually("an app without keys", async || {
        let (status, told) = fleet.assigned(0, "team", &"07".repeat(20)).await;
        assert!(
            told.contains(if status == 200 { "told seconds ago" } else { "not all nodes have told" }),
            "{told}"
        );
        (status == 200).then_some(())
    })
    .await;
    // A node that does not answer may give keys.
    fleet.networks[1].set(Network::Reset);
    let number = AtomicU16::new(0x800);
    eventually("a node that does not answer", async || {
        let next = format!("{:04x}", number.fetch_add(1, Ordering::Relaxed)).repeat(10);
        let (status, told) = fleet.assigned(0, "team", &next).await;
        assert!(status == 200 || told.contains("not all nodes have told"), "{told}");
        (status == 409).then_some(())
    })
    .await;
}
