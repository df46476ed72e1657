//! What the shared state says of credentials and invitations decides, whatever a node knows of it.

use kms_attest::clock::unix_now;
use serde_json::{Value, json};

use super::Fleet;
use crate::support::proxy::Network;
use crate::support::{ADMIN_TOKEN, Answer, eventually};

const CREDENTIALS: &str = "/api/v1/credentials";

fn revoke(name: &str) -> String {
    format!("{CREDENTIALS}/{name}/revoke")
}

impl Fleet {
    async fn created(&self, node: usize, name: &str, role: &str) -> String {
        let made = self.done(node, "POST", CREDENTIALS, json!({ "name": name, "role": role })).await;
        made["token"].as_str().expect("a token").to_owned()
    }

    async fn lists(&self, node: usize, name: &str) -> bool {
        let listed = self.done(node, "GET", CREDENTIALS, Value::Null).await;
        listed["credentials"].as_array().expect("a list").iter().any(|it| it["name"] == name)
    }

    async fn comes(&self, node: usize, name: &str, is_there: bool) {
        eventually(&format!("{name} at node {node}: {is_there}"), async || {
            (self.lists(node, name).await == is_there).then_some(())
        })
        .await;
    }

    async fn revokes(&self, node: usize, name: &str, token: &str) -> Answer {
        self.send(node, "POST", &revoke(name), json!({}), token).await
    }

    /// Two changes, on the first and on the second node: the first is made while the second waits for the database.
    async fn overtaken(
        &self,
        first: impl Future<Output = Answer>,
        second: impl Future<Output = Answer>,
    ) -> (Answer, Answer) {
        let database = self.postgres.client().await;
        database.batch_execute("BEGIN; SELECT 1 FROM kms_head FOR UPDATE").await.expect("the head is held");
        let waiting = async |count: i64| {
            eventually("a change that waits", async || {
                let select = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
                let rows = self.postgres.client().await.query(select, &[]).await.expect("a count");
                (rows[0].get::<_, i64>(0) == count).then_some(())
            })
            .await;
        };
        let second = async {
            waiting(1).await;
            second.await
        };
        let release = async {
            waiting(2).await;
            database.batch_execute("COMMIT").await.expect("the head is free");
        };
        let (first, second, ()) = tokio::join!(first, second, release);
        (first, second)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_credential_whose_revocation_is_on_its_way_changes_nothing() {
    let fleet = Fleet::of(2).await;
    let (amy, bob) = (fleet.created(0, "amy", "owner").await, fleet.created(0, "bob", "owner").await);
    let cat = fleet.created(0, "cat", "owner").await;
    fleet.adopted(1, 3).await;
    // From now on their secrets are known, and not hashed again.
    for token in [&amy, &bob, &cat] {
        assert!(fleet.counts(0, token).await && fleet.counts(1, token).await);
    }
    let body = json!({ "name": "eve", "role": "owner" });
    let revokes = fleet.revokes(0, "cat", &amy);
    let creates = fleet.send(1, "POST", CREDENTIALS, body, &cat);
    let (revoked, created) = fleet.overtaken(revokes, creates).await;
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    assert!(created.status == 401 && created.text().contains("nothing was changed"), "{}", created.text());
    eventually("the log says last what is so", async || {
        let failed = fleet.nodes[1].audited("credential_change_failed");
        failed.iter().any(|event| event["name"] == "eve").then_some(())
    })
    .await;
    assert!(!fleet.lists(0, "eve").await && !fleet.lists(1, "eve").await);

    let revokes = fleet.revokes(0, "bob", &amy);
    let other = fleet.revokes(1, "amy", &bob);
    let (revoked, other) = fleet.overtaken(revokes, other).await;
    assert_eq!((revoked.status, other.status), (200, 401), "{} {}", revoked.text(), other.text());

    // A revocation of another's credential takes effect at once, and is taken back.
    let ops = fleet.created(0, "ops", "operator").await;
    fleet.comes(1, "ops", true).await;
    let dan = fleet.created(0, "dan", "owner").await;
    fleet.comes(1, "dan", true).await;
    assert!(fleet.counts(1, &ops).await && fleet.counts(1, &dan).await);
    let revokes = fleet.revokes(0, "dan", &amy);
    let other = fleet.revokes(1, "ops", &dan);
    let (revoked, other) = fleet.overtaken(revokes, other).await;
    assert_eq!((revoked.status, other.status), (200, 401), "{} {}", revoked.text(), other.text());
    for node in 0..2 {
        fleet.comes(node, "ops", true).await;
        assert!(fleet.counts(node, &ops).await && fleet.lists(node, "amy").await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_revocation_ends_what_is_in_force_and_not_what_a_node_knows() {
    let fleet = Fleet::apart(2, "").await;
    // The node that did not hear of the later credential may give up before it hears of it: then it is tried again.
    eventually("a revocation of what another node has made again", async || {
        let name = format!("bob-{}", unix_now());
        fleet.created(0, &name, "operator").await;
        let made = unix_now();
        fleet.comes(1, &name, true).await;
        fleet.networks[1].set(Network::BlackHole);
        fleet.done(0, "POST", &revoke(&name), json!({})).await;
        eventually("a later second", async || (unix_now() > made).then_some(())).await;
        let later = fleet.created(0, &name, "operator").await;
        let heals = async {
            fleet.comes(1, &name, false).await;
            fleet.networks[1].set(Network::Whole);
        };
        let revokes = fleet.revokes(1, &name, ADMIN_TOKEN);
        let (revoked, ()) = tokio::join!(revokes, heals);
        assert_eq!(revoked.status, 200, "{}", revoked.text());
        if revoked.value()["shared"] == false {
            assert!(revoked.text().contains("stays"), "{}", revoked.text());
            return None;
        }
        for node in 0..2 {
            fleet.comes(node, &name, false).await;
            assert!(!fleet.counts(node, &later).await, "node {node}");
        }
        Some(())
    })
    .await;
    // What this node has not heard of at all.
    let asked_early = async |verb: &str, path: &str| {
        let heals = async {
            fleet.done(1, "GET", "/api/v1/me", Value::Null).await;
            fleet.networks[1].set(Network::Whole);
        };
        tokio::join!(fleet.send(1, verb, path, Value::Null, ADMIN_TOKEN), heals).0
    };
    fleet.networks[1].set(Network::BlackHole);
    let token = fleet.created(0, "eve", "viewer").await;
    let revoked = asked_early("POST", &revoke("eve")).await;
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    fleet.comes(0, "eve", false).await;
    assert!(!fleet.counts(0, &token).await);
    fleet.networks[1].set(Network::BlackHole);
    let body = json!({ "domain": "replica.example" });
    let invited = fleet.done(0, "POST", "/api/v1/replica-joins", body).await;
    let join = format!("/api/v1/replica-joins/{}", invited["join"]["id"].as_str().expect("an id"));
    let cancelled = asked_early("DELETE", &join).await;
    assert_eq!(cancelled.status, 200, "{}", cancelled.text());
    assert_eq!(fleet.done(1, "GET", &join, Value::Null).await["state"], "cancelled");

    // Where the database is not reached, what is not known is not said to be missing.
    let unknown = fleet.revokes(1, "nobody", ADMIN_TOKEN).await;
    assert!(unknown.status == 400 && unknown.text().contains("there is no credential"), "{}", unknown.text());
    fleet.networks[1].set(Network::Reset);
    fleet.is_stale(1).await;
    for (verb, path) in
        [("POST", revoke("nobody")), ("DELETE", "/api/v1/replica-joins/0123456789abcdef".to_owned())]
    {
        let refused = fleet.send(1, verb, &path, Value::Null, ADMIN_TOKEN).await;
        let told = refused.text();
        assert!(
            refused.status == 503 && (told.contains("not changed") || told.contains("nothing was changed")),
            "{told}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn owners_who_are_revoked_while_the_database_is_away_count_nowhere_afterwards() {
    let mut fleet = Fleet::of(2).await;
    let mut tokens = Vec::new();
    for name in ["amy", "bob", "cat"] {
        tokens.push(fleet.created(0, name, "owner").await);
    }
    let [amy, bob, cat] = &tokens[..] else { panic!("three") };
    fleet.adopted(1, 3).await;
    for token in &tokens {
        assert!(fleet.counts(0, token).await && fleet.counts(1, token).await);
    }
    let shared = fleet.revokes(0, "cat", ADMIN_TOKEN).await;
    assert_eq!((shared.status, &shared.value()["shared"]), (200, &json!(true)), "{}", shared.text());
    fleet.comes(1, "cat", false).await;
    assert!(!fleet.counts(0, cat).await);
    fleet.postgres.stop();
    // Each revokes the other on another node.
    let (first, second) = tokio::join!(fleet.revokes(0, "bob", amy), fleet.revokes(1, "amy", bob));
    for (node, revoked, gone, stays) in [(0, first, bob, amy), (1, second, amy, bob)] {
        let told = revoked.value();
        assert_eq!((revoked.status, &told["revoked"], &told["shared"]), (200, &json!(true), &json!(false)));
        assert!(told["note"].as_str().is_some_and(|note| note.contains("on this node")), "{told}");
        assert!(!fleet.counts(node, gone).await && fleet.counts(node, stays).await, "node {node}");
    }
    let again = fleet.revokes(0, "bob", amy).await;
    assert_eq!((again.status, &again.value()["shared"]), (200, &json!(false)), "{}", again.text());
    fleet.nodes[1].start().await.expect("it starts");
    assert!(!fleet.counts(1, amy).await, "a restart brings it back");
    fleet.postgres.resume().await;
    // The token of the configuration is an owner that stays.
    for node in 0..2 {
        fleet.comes(node, "amy", false).await;
        fleet.comes(node, "bob", false).await;
        assert!(!fleet.counts(node, amy).await && !fleet.counts(node, bob).await, "node {node}");
    }
}
