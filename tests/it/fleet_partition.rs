//! A node of a fleet that cannot reach the database while the others can: what it still does, and what happens when it is back.

use std::time::{Duration, Instant};

use kms_simulator::Cvm;
use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::support::http::request;
use crate::support::proxy::Network;
use crate::support::{ADMIN_TOKEN, eventually};

const SHORT: &str = "core.postgres.max_view_age = \"3s\"";

impl Fleet {
    async fn frozen(&self, node: usize, count: usize) {
        eventually(&format!("{count} freezes on node {node}"), async || {
            let frozen = self.operator(node).await.called("ListFrozen", json!({})).await;
            (frozen["frozen"].as_array().map_or(0, Vec::len) == count).then_some(())
        })
        .await;
    }

    async fn freeze_app(&self, node: usize, app: &Cvm) -> Value {
        let request = json!({ "scope": "app", "value": hex::encode(app.app_id()), "reason": "a test" });
        self.operator(node).await.called("Freeze", request).await["shared"].clone()
    }

    async fn credential(&self, node: usize, name: &str, role: &str) -> String {
        let body = json!({ "name": name, "role": role });
        let made = self.send(node, "POST", "/api/v1/credentials", body, ADMIN_TOKEN).await;
        assert_eq!(made.status, 200, "{}", made.text());
        made.value()["token"].as_str().expect("a token").to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_was_apart_gives_and_gets_what_was_changed_meanwhile() {
    let fleet = Fleet::apart(2, SHORT).await;
    for network in [Network::Reset, Network::BlackHole] {
        fleet.networks[1].set(network);
        fleet.is_stale(1).await;
        let other = fleet.nodes[0].app(2);
        assert_eq!(fleet.freeze_app(1, &other).await, false, "{network:?}: in force there only");
        // The rest of the fleet goes on.
        fleet.freeze_all(0).await;
        fleet.frozen(0, 1).await;
        fleet.frozen(1, 1).await;
        let name = format!("zoe-{network:?}").to_lowercase();
        let token = fleet.credential(0, &name, "viewer").await;
        fleet.networks[1].set(Network::Whole);
        for node in 0..2 {
            fleet.frozen(node, 2).await;
            fleet.is_frozen(node).await;
        }
        eventually("the credential", async || {
            let listed = fleet.send(1, "GET", "/api/v1/credentials", Value::Null, ADMIN_TOKEN).await;
            listed.text().contains(&name).then_some(())
        })
        .await;
        assert!(fleet.counts(1, &token).await);
        assert!(fleet.operator(0).await.unfreeze("app", other.app_id()).await);
        fleet.unfreeze(1).await;
        for node in 0..2 {
            fleet.releases(node).await;
            fleet.frozen(node, 0).await;
            assert!(fleet.alarms(node).is_empty(), "to be apart is no alarm: {:?}", fleet.alarms(node));
        }
    }
}

impl Fleet {
    /// Makes this many changes of the shared state.
    async fn changes(&self, node: usize, count: usize) {
        for change in 0..count {
            let body = json!({ "name": format!("amy-{change}"), "role": "viewer" });
            self.done(node, "POST", "/api/v1/credentials", body).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_was_away_for_many_changes_believes_only_what_follows() {
    let fleet = Fleet::apart(2, SHORT).await;
    fleet.networks[1].set(Network::Reset);
    fleet.is_stale(1).await;
    fleet.changes(0, 70).await;
    fleet.networks[1].set(Network::Whole);
    fleet.releases(1).await;
    // The same again, but the fleet goes on in a database that lost a freeze which the node knows.
    fleet.networks[0].set(Network::Reset);
    fleet.is_stale(0).await;
    let backup = fleet.postgres.path("backup.sql");
    fleet.postgres.dump(&backup);
    fleet.freeze_all(1).await;
    fleet.networks[1].set(Network::Reset);
    eventually("it is stale", async || {
        let ready = fleet.nodes[1].caller().get("/readyz").await;
        ready.text().contains("state_stale").then_some(())
    })
    .await;
    fleet.postgres.restore(&backup);
    fleet.networks[0].set(Network::Whole);
    fleet.releases(0).await;
    for change in 0..35 {
        let revoke = format!("/api/v1/credentials/amy-{change}/revoke");
        fleet.done(0, "POST", &revoke, json!({})).await;
    }
    assert!(fleet.alarms(1).is_empty(), "{:?}", fleet.alarms(1));
    fleet.networks[1].set(Network::Whole);
    fleet.alarmed(1, "forked").await;
    fleet.is_frozen(1).await;
    let view = fleet.done(1, "GET", "/api/v1/fleet", Value::Null).await;
    let text = view["alarm"]["text"].as_str().unwrap_or_default();
    assert!(text.starts_with("the database does not show that its state number"), "{view}");
    // The heads in between are not read again at each look.
    let scans = "SELECT coalesce(seq_scan, 0) + coalesce(idx_scan, 0) FROM pg_stat_user_tables WHERE relname = 'kms_history'";
    let scans = async || {
        fleet.alarm_rounds(1, 5).await;
        fleet.postgres.client().await.query_one(scans, &[]).await.expect("a row").get::<_, i64>(0)
    };
    let before = scans().await;
    let more = scans().await - before;
    assert!(more < 5, "{more} reads in 5 looks");
    // An owner says which state is right, and the freeze is in it then.
    fleet.done(0, "POST", "/api/v1/fleet/repair", Value::Null).await;
    fleet.is_frozen(0).await;
    fleet.unfreeze(1).await;
    fleet.releases(1).await;
    fleet.releases(0).await;
}

impl Fleet {
    /// Waits until a node has looked this often more and believed nothing.
    async fn alarm_rounds(&self, node: usize, count: u64) {
        let rounds = async || {
            let metrics = self.nodes[node].caller().get("/metrics").await.text().to_owned();
            let is_alarm = |line: &&str| line.starts_with("cvm_kms_state_rounds_total{outcome=\"alarm\"}");
            metrics.lines().find(is_alarm).and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        };
        let before = rounds().await.unwrap_or(0);
        eventually("looks", async || rounds().await.filter(|now| *now >= before + count)).await;
    }
}

/// Whether a node lists a credential.
async fn lists(fleet: &Fleet, node: usize, name: &str) -> bool {
    let listed = fleet.send(node, "GET", "/api/v1/credentials", Value::Null, ADMIN_TOKEN).await;
    listed.text().contains(&format!("\"{name}\""))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_repair_takes_over_what_the_node_would_have_believed() {
    let fleet = Fleet::of(2).await;
    let waiting = async || {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cvm-kms' AND wait_event_type = 'Lock'";
        let rows = fleet.postgres.client().await.query(waits, &[]).await.expect("a count");
        rows[0].get::<_, i64>(0)
    };
    let mut refused = None;
    // Where the machine is slow, a node waits no longer for the other.
    for attempt in 0..10 {
        let (name, mut client) = (format!("amy-{attempt}"), fleet.postgres.client().await);
        let held = client.transaction().await.expect("a transaction");
        held.query("SELECT seq FROM kms_head FOR UPDATE", &[]).await.expect("the head");
        let until = async |count: i64| {
            let began = Instant::now();
            while waiting().await < count && began.elapsed() < Duration::from_secs(2) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let body = json!({ "name": name, "role": "viewer" });
        let made = fleet.send(0, "POST", "/api/v1/credentials", body, ADMIN_TOKEN);
        // It looks before the other node has written, and writes after it.
        let repaired = async {
            until(1).await;
            fleet.send(1, "POST", "/api/v1/fleet/repair", Value::Null, ADMIN_TOKEN).await
        };
        let freed = async {
            until(2).await;
            held.rollback().await.expect("the end of the lock");
        };
        let (made, repaired, ()) = tokio::join!(made, repaired, freed);
        if made.status != 200 {
            continue;
        }
        for node in 0..2 {
            eventually("the credential", async || lists(&fleet, node, &name).await.then_some(())).await;
        }
        if repaired.status == 409 {
            refused = Some((name, repaired));
            break;
        }
    }
    let (name, refused) = refused.expect("a repair that was overtaken");
    let told = refused.text();
    assert!(told.contains("nothing was repaired: the database has a newer state"), "{told}");
    // What it has taken over, it may write again, for nodes that do not believe it.
    fleet.done(1, "POST", "/api/v1/fleet/repair", Value::Null).await;
    for node in 0..2 {
        fleet.releases(node).await;
        assert!(lists(&fleet, node, &name).await);
        assert!(fleet.alarms(node).is_empty(), "{:?}", fleet.alarms(node));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_a_stale_node_a_credential_that_was_revoked_elsewhere_changes_nothing() {
    let fleet = Fleet::apart(2, SHORT).await;
    let (owner, operator, viewer) = (
        fleet.credential(0, "zoe", "owner").await,
        fleet.credential(0, "amy", "operator").await,
        fleet.credential(0, "eve", "viewer").await,
    );
    fleet.adopted(1, 3).await;
    fleet.networks[1].set(Network::Reset);
    fleet.is_stale(1).await;
    let revoke = |name: &str| format!("/api/v1/credentials/{name}/revoke");
    for name in ["zoe", "amy"] {
        let revoked = fleet.send(0, "POST", &revoke(name), json!({}), ADMIN_TOKEN).await;
        assert_eq!(revoked.status, 200, "{}", revoked.text());
    }
    let settings = json!({ "log": "warn" });
    let prpc = |method: &str| format!("/prpc/{method}");
    let kms = json!({ "scope": "kms", "value": "" });
    let age = json!({ "recipients": [] });
    for (verb, path, body, token) in [
        ("PATCH", "/api/v1/settings".to_owned(), settings, &owner),
        ("POST", "/api/v1/epochs".to_owned(), Value::Null, &owner),
        ("POST", "/api/v1/recovery/sets".to_owned(), age, &owner),
        ("POST", "/api/v1/file-upload/auth_config".to_owned(), json!({}), &owner),
        ("POST", "/api/v1/credentials".to_owned(), json!({ "name": "bob", "role": "viewer" }), &owner),
        ("POST", "/api/v1/replica-joins".to_owned(), json!({ "domain": "kms.example" }), &owner),
        ("POST", prpc("Unfreeze"), kms.clone(), &owner),
        ("POST", prpc("Admin.GetKmsKey"), json!({}), &owner),
        ("POST", prpc("LowerClockFloor"), json!({}), &owner),
        ("POST", "/api/v1/actions/drain".to_owned(), Value::Null, &operator),
        ("GET", "/api/v1/actions/drain".to_owned(), Value::Null, &operator),
        ("POST", prpc("ClearImageCache"), json!({}), &operator),
        ("GET", prpc("ClearImageCache?json"), Value::Null, &operator),
        ("POST", prpc("RefreshCollateral"), json!({}), &operator),
        ("GET", "/api/v1/nothing".to_owned(), Value::Null, &operator),
    ] {
        let refused = fleet.send(1, verb, &path, body, token).await;
        let told = refused.text().to_owned();
        assert_eq!(refused.status, 503, "{verb} {path}: {told}");
        // A method's error has the fields of the peer.
        let code = refused.value()["code"].clone();
        assert!(code == "state_stale" || path.starts_with("/prpc"), "{verb} {path}: {told}");
        assert!(
            told.contains("may have been revoked on another node") && told.contains("ask another node"),
            "{told}"
        );
        let seconds: u64 = refused.header("retry-after").parse().expect("seconds");
        assert!(seconds > 5, "{verb} {path}: {seconds}");
    }
    // What only reads or stops something stays.
    let freeze = json!({ "scope": "app", "value": "07".repeat(20), "reason": "a test" });
    for (verb, path, body, token) in [
        ("GET", "/api/v1/me", Value::Null, &owner),
        ("GET", "/api/v1/fleet", Value::Null, &owner),
        ("GET", "/api/v1/credentials", Value::Null, &owner),
        ("GET", "/readyz", Value::Null, &owner),
        ("GET", "/prpc/ListFrozen?json", Value::Null, &operator),
        ("POST", "/prpc/Freeze?json", freeze, &operator),
        ("POST", "/api/v1/reload", Value::Null, &operator),
        ("GET", "/api/v1/me", Value::Null, &viewer),
        ("GET", "/api/v1/releases", Value::Null, &viewer),
    ] {
        let answer = fleet.send(1, verb, path, body, token).await;
        let is_stale = answer.text().contains("may have been revoked");
        assert!(!is_stale && (answer.status == 200 || path == "/readyz"), "{verb} {path}: {}", answer.text());
    }
    // The database is not reached, but the credential is not what is in the way.
    let repair = fleet.send(1, "POST", "/api/v1/fleet/repair", Value::Null, &owner).await;
    assert!(repair.status == 503 && repair.text().contains("nothing was repaired"), "{}", repair.text());
    let told = fleet.send(1, "POST", &revoke("eve"), json!({}), &owner).await;
    assert_eq!((told.status, &told.value()["shared"]), (200, &json!(false)), "{}", told.text());
    assert!(told.text().contains("does not count on this node any more"), "{}", told.text());
    // The token is of this node's own configuration.
    let answer = fleet.send(1, "POST", "/api/v1/actions/drain", Value::Null, ADMIN_TOKEN).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    fleet.networks[1].set(Network::Whole);
    eventually("the revocation", async || {
        let listed = fleet.send(1, "GET", "/api/v1/credentials", Value::Null, ADMIN_TOKEN).await;
        (!listed.text().contains("\"zoe\"")).then_some(())
    })
    .await;
    assert!(!fleet.counts(1, &owner).await && !fleet.counts(1, &operator).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_a_stale_node_an_owner_who_may_be_revoked_approves_the_repair_only() {
    let fleet = Fleet::apart(2, &format!("{SHORT}\ncore.admin.approvals = 2")).await;
    let owner = fleet.credential(0, "zoe", "owner").await;
    fleet.adopted(1, 1).await;
    fleet.networks[1].set(Network::Reset);
    fleet.is_stale(1).await;
    let operator = fleet.operator(1).await;
    let asked = async |verb: &str, path: &str, body: &str| {
        let waits = operator.send(request(verb, path, body.to_owned())).await;
        waits.value()["approval"]["id"].as_str().unwrap_or_else(|| panic!("{}", waits.text())).to_owned()
    };
    let epoch = asked("POST", "/api/v1/epochs", "").await;
    let repair = asked("POST", "/api/v1/fleet/repair", "").await;
    let approve = async |id: &str| {
        let path = format!("/api/v1/approvals/{id}/approve");
        fleet.send(1, "POST", &path, Value::Null, &owner).await
    };
    let refused = approve(&epoch).await;
    assert_eq!(
        (refused.status, &refused.value()["code"]),
        (503, &json!("state_stale")),
        "{}",
        refused.text()
    );
    let failed = approve(&repair).await;
    assert_eq!((failed.status, &failed.value()["state"]), (200, &json!("failed")), "{}", failed.text());
    assert!(failed.text().contains("nothing was repaired"), "{}", failed.text());
    fleet.networks[1].set(Network::Whole);
    fleet.releases(1).await;
    let made = approve(&epoch).await;
    assert_eq!(made.value()["state"], "done", "{}", made.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn where_a_stale_node_only_warns_credentials_count_there() {
    let fleet = Fleet::apart(2, &format!("{SHORT}\ncore.postgres.when_stale = \"warn\"")).await;
    let operator = fleet.credential(0, "amy", "operator").await;
    fleet.adopted(1, 1).await;
    fleet.networks[1].set(Network::Reset);
    eventually("the cause", async || {
        let health = fleet.send(1, "GET", "/api/v1/health", Value::Null, ADMIN_TOKEN).await;
        health.text().contains("state_not_fresh").then_some(())
    })
    .await;
    let answer = fleet.send(1, "POST", "/api/v1/actions/drain", Value::Null, &operator).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_is_cut_off_in_the_middle_of_a_change_does_not_keep_others_from_theirs() {
    let fleet = Fleet::apart(2, "").await;
    let other = fleet.nodes[0].app(2);
    fleet.networks[1].set(Network::Slow(Duration::from_millis(300)));
    let (operator, app) = (fleet.operator(1).await, hex::encode(other.app_id()));
    let request = json!({ "scope": "app", "value": app, "reason": "a test" });
    let slow = tokio::spawn(async move { operator.call("Freeze", request).await });
    let client = fleet.postgres.client().await;
    let is_held = async |says: &str| {
        let held = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) \
                    WHERE state LIKE $1 AND relation = 'kms_head'::regclass AND mode = 'RowShareLock'";
        client.query(held, &[&says]).await.expect("a count")[0].get::<_, i64>(0) > 0
    };
    eventually("it holds the head and says nothing", async || {
        is_held("idle in transaction").await.then_some(())
    })
    .await;
    fleet.networks[1].set(Network::BlackHole);
    let cut = Instant::now();
    eventually("the head is free", async || (!is_held("%").await).then_some(())).await;
    assert!(cut.elapsed() < Duration::from_secs(5), "{:?}", cut.elapsed());
    fleet.freeze_all(0).await;
    fleet.networks[1].set(Network::Whole);
    assert_eq!(slow.await.expect("an answer").status, 200, "it is in force there");
    for node in 0..2 {
        fleet.frozen(node, 2).await;
        fleet.is_frozen(node).await;
    }
}
