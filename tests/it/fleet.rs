//! Nodes that share what operators change through PostgreSQL: a freeze on one stops all, whatever becomes of the database, and
//! what others wrote into it is not believed.

mod alarms;
mod credentials;
mod domains;
mod drain;
mod freezes;
mod others;
mod rollout;
mod unread;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::support::http::{request, with};
use crate::support::operator::Operator;
use crate::support::postgres::Postgres;
use crate::support::proxy::Proxy;
use crate::support::{ADMIN_TOKEN, Answer, Caller, World, eventually};
use kms_simulator::Cvm;
use serde_json::{Value, json};

/// Nodes with the same root keys and one database.
pub(crate) struct Fleet {
    pub(crate) postgres: Postgres,
    pub(crate) nodes: Vec<World>,
    pub(crate) app: Arc<Cvm>,
    /// The network between each node and the database, where it can be cut.
    pub(crate) networks: Vec<Proxy>,
}

/// What an app is told where nothing is known of other nodes.
const STALE: &str = "this KMS does not know what is frozen on others now, so nothing is released";

impl Fleet {
    pub(crate) async fn of(size: usize) -> Self {
        Self::with(size, "").await
    }

    pub(crate) async fn with(size: usize, toml: &str) -> Self {
        Self::over(Postgres::start().await, Vec::new(), size, toml).await
    }

    /// Nodes whose networks to the database can be cut.
    pub(crate) async fn apart(size: usize, toml: &str) -> Self {
        let (postgres, mut networks) = (Postgres::start().await, Vec::new());
        for _ in 0..size {
            networks.push(Proxy::start(&postgres.socket()).await);
        }
        Self::over(postgres, networks, size, toml).await
    }

    async fn over(postgres: Postgres, networks: Vec<Proxy>, size: usize, toml: &str) -> Self {
        let urls = (0..size).map(|number| match networks.get(number) {
            Some(network) => postgres.url_through(&[network.address()]),
            None => postgres.url(),
        });
        let urls = urls.collect();
        Self::at(postgres, networks, urls, toml).await
    }

    /// Nodes with these URLs of the database.
    pub(crate) async fn at(postgres: Postgres, networks: Vec<Proxy>, urls: Vec<String>, toml: &str) -> Self {
        let size = urls.len();
        let config = |number: usize| {
            format!("{}\n{toml}", Postgres::toml_of(&urls[number], &format!("node-{number}")))
        };
        let first = World::ready_with(&config(0)).await;
        let mut nodes = vec![first];
        for number in 1..size {
            let node = nodes[0].sibling_with(&config(number)).await;
            nodes.push(node);
        }
        let app = nodes[0].app(1);
        for node in &nodes {
            node.allow_app(&app);
        }
        let fleet = Self { postgres, nodes, app, networks };
        for node in 0..size {
            fleet.releases(node).await;
        }
        fleet
    }

    pub(crate) async fn ask(&self, node: usize) -> Answer {
        let world = &self.nodes[node];
        let caller: Caller = world.caller().shows(&world.attested(&self.app).await);
        caller.json("GetAppKey", json!({})).await
    }

    /// Waits until a node answers with this status and code.
    pub(crate) async fn answers(&self, node: usize, status: u16, code: &str) {
        let what = format!("{status} {code} of node {node}");
        eventually(&what, async || {
            let answer = self.ask(node).await;
            let found = answer.value()["code"].as_str().unwrap_or_default().to_owned();
            (answer.status == status && found == code).then_some(())
        })
        .await;
    }

    pub(crate) async fn releases(&self, node: usize) {
        self.answers(node, 200, "").await;
    }

    pub(crate) async fn is_frozen(&self, node: usize) {
        self.answers(node, 403, "frozen").await;
    }

    pub(crate) async fn is_stale(&self, node: usize) {
        self.answers(node, 503, "state_stale").await;
    }

    pub(crate) async fn operator(&self, node: usize) -> Operator {
        Operator::of(&self.nodes[node]).await
    }

    /// Freezes the app on a node; whether the others have it.
    pub(crate) async fn freeze(&self, node: usize) -> Value {
        let value = hex::encode(self.app.app_id());
        let request = json!({ "scope": "app", "value": value, "reason": "a test" });
        self.operator(node).await.called("Freeze", request).await["shared"].clone()
    }

    /// Freezes the app on a node, and waits until the others have it, which a busy machine may need some time for.
    pub(crate) async fn freeze_all(&self, node: usize) {
        eventually(&format!("a freeze of node {node} is shared"), async || {
            (self.freeze(node).await == true).then_some(())
        })
        .await;
    }

    pub(crate) async fn unfreeze(&self, node: usize) {
        let request = json!({ "scope": "app", "value": hex::encode(self.app.app_id()) });
        let is_unsure = AtomicBool::new(false);
        eventually(&format!("an unfreeze on node {node}"), async || {
            let answer = self.operator(node).await.call("Unfreeze", request.clone()).await;
            // A busy database may be too slow, or not say what it did.
            if answer.status == 503 {
                is_unsure.store(true, Ordering::Relaxed);
                return None;
            }
            let was_frozen = answer.status == 200 && answer.value()["was_frozen"] == true;
            assert!(was_frozen || is_unsure.load(Ordering::Relaxed), "{}", answer.text());
            Some(())
        })
        .await;
    }

    /// The codes of alarms in the audit log of a node.
    pub(crate) fn alarms(&self, node: usize) -> Vec<String> {
        let alarms = self.nodes[node].audited("state_alarm");
        alarms.iter().map(|alarm| alarm["code"].as_str().expect("a code").to_owned()).collect()
    }

    pub(crate) async fn alarmed(&self, node: usize, code: &str) {
        eventually(&format!("the alarm {code}"), async || {
            self.alarms(node).last().filter(|last| *last == code).map(|_| ())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_freeze_on_one_node_stops_all_and_an_unfreeze_lifts_it_on_all() {
    let fleet = Fleet::of(2).await;
    fleet.freeze_all(0).await;
    let began = Instant::now();
    fleet.is_frozen(1).await;
    println!("a freeze reached the other node after {:?}", began.elapsed());
    let adopted = &fleet.nodes[1].audited("state_adopted")[0];
    assert_eq!(
        (&adopted["change"], &adopted["node"], &adopted["by"]),
        (&json!("frozen"), &json!("node-0"), &json!("token"))
    );
    assert_eq!(adopted["target"], format!("app {}", hex::encode(fleet.app.app_id())));
    fleet.unfreeze(1).await;
    fleet.releases(0).await;
    fleet.releases(1).await;
    let ended = fleet.nodes[0].audited("state_adopted");
    assert_eq!(
        (&ended[0]["change"], &ended[0]["node"], &ended[0]["by"]),
        (&json!("unfrozen"), &json!("node-1"), &json!("token"))
    );
    let metrics = fleet.nodes[1].caller().get("/metrics").await;
    assert!(metrics.text().contains("cvm_kms_state_rounds_total{outcome=\"fresh\"}"), "{}", metrics.text());
    assert!(fleet.alarms(0).is_empty() && fleet.alarms(1).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_answer_to_a_freeze_and_to_a_drain_says_that_the_others_know_it() {
    let fleet = Fleet::of(2).await;
    // A busy machine may need longer than an answer waits, but not each time.
    let (mut frozen, mut drained) = (false, false);
    for _ in 0..20 {
        frozen |= fleet.freeze(0).await == true;
        fleet.unfreeze(0).await;
        drained |= fleet.acted(0, "drain", Some("node-1")).await["shared"] == true;
        fleet.acted(0, "undrain", Some("node-1")).await;
        if frozen && drained {
            return;
        }
    }
    panic!("no answer said that the others know it: a freeze: {frozen}, a drain: {drained}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_a_database_nothing_is_released_and_a_freeze_is_not_lost() {
    let mut fleet = Fleet::of(2).await;
    fleet.postgres.stop();
    fleet.is_stale(0).await;
    fleet.is_stale(1).await;
    let answer = fleet.ask(1).await;
    assert!(answer.refusal().1.ends_with(STALE), "{}", answer.text());
    let ready = fleet.nodes[0].caller().get("/readyz").await;
    assert!(ready.status == 503 && ready.text().contains("state_stale"), "{}", ready.text());
    for path in ["/readyz", "/api/v1/fleet"] {
        let told = fleet.send(0, "GET", path, Value::Null, ADMIN_TOKEN).await;
        assert!(told.text().contains("Start PostgreSQL, or correct core.postgres.url"), "{}", told.text());
    }
    assert_eq!(fleet.freeze(0).await, false, "in force here only");
    let forget = json!({ "node": "node-1" });
    let refused = fleet.send(0, "POST", "/api/v1/fleet/forget", forget, ADMIN_TOKEN).await;
    let told = refused.text();
    assert!(refused.status == 503 && told.contains("state_stale"), "{told}");
    assert!(told.contains("cannot know whether node-1 answers: the last view"), "{told}");
    let lifted = json!({ "scope": "app", "value": hex::encode(fleet.app.app_id()) });
    let refused = fleet.operator(0).await.call("Unfreeze", lifted).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(
        refused.text().contains("it is still frozen: the database cannot be reached"),
        "{}",
        refused.text()
    );
    let failed =
        eventually("the log ends with what is so", async || fleet.nodes[0].audited("unfreeze_failed").pop())
            .await;
    let because = failed["reason"].as_str().expect("a reason");
    assert!(because.starts_with("the database cannot be reached"), "{because}");
    // A restart without a database starts with what was known, and releases nothing.
    fleet.nodes[0].start().await.expect("it starts");
    fleet.is_frozen(0).await;
    fleet.postgres.resume().await;
    fleet.is_frozen(1).await;
    fleet.is_frozen(0).await;
    fleet.unfreeze(0).await;
    fleet.releases(0).await;
    fleet.releases(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_of_yesterday_is_noticed_and_not_believed() {
    let fleet = Fleet::of(2).await;
    let backup = fleet.postgres.path("backup.sql");
    fleet.postgres.dump(&backup);
    fleet.freeze(0).await;
    fleet.is_frozen(1).await;
    fleet.postgres.restore(&backup);
    for node in 0..2 {
        fleet.alarmed(node, "rolled_back").await;
        fleet.is_frozen(node).await;
    }
    // A caller that is not frozen gets nothing either.
    let other = fleet.nodes[0].app(2);
    fleet.nodes[0].allow_app(&other);
    let caller = fleet.nodes[0].caller().shows(&fleet.nodes[0].attested(&other).await);
    let answer = caller.json("GetAppKey", json!({})).await;
    assert_eq!((answer.status, &answer.value()["code"]), (503, &json!("state_stale")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_nodes_under_load_stop_together() {
    let fleet = Arc::new(Fleet::of(8).await);
    let (stop, until) = tokio::sync::watch::channel(false);
    let mut load = tokio::task::JoinSet::new();
    for node in 0..8 {
        let (fleet, until) = (Arc::clone(&fleet), until.clone());
        load.spawn(async move {
            let (mut released, mut last) = (0, None);
            while !*until.borrow() {
                let answer = fleet.ask(node).await;
                assert!([200, 403].contains(&answer.status), "{}", answer.text());
                if answer.status == 200 {
                    released += 1;
                    last = Some(Instant::now());
                }
            }
            (node, released, last)
        });
    }
    eventually("load", async || {
        let logs = fleet.nodes.iter().map(|node| node.audited("app_key_released").len());
        logs.min().filter(|least| *least > 3).map(|_| ())
    })
    .await;
    let frozen = fleet.freeze(3).await;
    let answered = Instant::now();
    assert_eq!(frozen, true);
    for node in 0..8 {
        fleet.is_frozen(node).await;
    }
    stop.send_replace(true);
    for (node, released, last) in load.join_all().await {
        let late = last.map(|last| last.saturating_duration_since(answered)).unwrap_or_default();
        println!("node {node}: {released} releases, the last {late:?} after the answer");
        assert!(released > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_nodes_freeze_at_once_while_the_database_restarts_and_both_hold() {
    let mut fleet = Fleet::of(2).await;
    fleet.postgres.stop();
    let other = fleet.nodes[0].app(2);
    let freeze = |node: usize, app: &Cvm| {
        let value = hex::encode(app.app_id());
        let operator = fleet.operator(node);
        async move {
            operator
                .await
                .called("Freeze", json!({ "scope": "app", "value": value, "reason": "a test" }))
                .await
        }
    };
    let (one, two) = tokio::join!(freeze(0, &fleet.app), freeze(1, &other));
    assert_eq!((&one["shared"], &two["shared"]), (&json!(false), &json!(false)));
    fleet.postgres.resume().await;
    for node in 0..2 {
        eventually("both freezes", async || {
            let frozen = fleet.operator(node).await.called("ListFrozen", json!({})).await;
            (frozen["frozen"].as_array().map(Vec::len) == Some(2)).then_some(())
        })
        .await;
    }
    assert!(fleet.operator(1).await.unfreeze("app", other.app_id()).await);
    for node in 0..2 {
        fleet.is_frozen(node).await;
        eventually("one freeze", async || {
            let frozen = fleet.operator(node).await.called("ListFrozen", json!({})).await;
            (frozen["frozen"].as_array().map(Vec::len) == Some(1)).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_others_wrote_into_the_database_is_not_believed() {
    let fleet = Fleet::of(2).await;
    fleet.freeze(0).await;
    fleet.is_frozen(1).await;
    fleet
        .postgres
        .run("CREATE TABLE old_head AS TABLE kms_head; CREATE TABLE old_state AS TABLE kms_state")
        .await;
    let back = "DELETE FROM kms_head; DELETE FROM kms_state; INSERT INTO kms_head TABLE old_head; INSERT INTO kms_state TABLE old_state";
    for (change, code) in [
        (
            "UPDATE kms_state SET body = set_byte(body, 40, get_byte(body, 40) # 1) WHERE scope = 'freezes'",
            "altered",
        ),
        (
            "UPDATE kms_state SET mac = set_byte(mac, 3, get_byte(mac, 3) # 1) WHERE scope = 'freezes'",
            "altered",
        ),
        ("UPDATE kms_state SET version = version + 1 WHERE scope = 'freezes'", "altered"),
        ("UPDATE kms_state SET scope = 'other' WHERE scope = 'freezes'", "mismatched"),
        ("DELETE FROM kms_state WHERE scope = 'freezes'", "mismatched"),
        (
            "INSERT INTO kms_state SELECT fleet, 'other', version, body, epoch, mac FROM kms_state WHERE scope = 'freezes'",
            "mismatched",
        ),
        ("UPDATE kms_head SET body = set_byte(body, 12, get_byte(body, 12) # 1)", "altered"),
        ("UPDATE kms_head SET seq = seq + 1", "altered"),
        ("UPDATE kms_head SET epoch = 7", "root_epoch"),
        ("DELETE FROM kms_head", "rolled_back"),
        ("DELETE FROM kms_head; DELETE FROM kms_state", "rolled_back"),
    ] {
        let before = fleet.alarms(1).len();
        fleet.postgres.run(&format!("BEGIN; {change}; COMMIT")).await;
        eventually(change, async || (fleet.alarms(1).len() > before).then_some(())).await;
        assert_eq!(fleet.alarms(1).last().map(String::as_str), Some(code), "{change}");
        fleet.is_frozen(1).await;
        let ready = fleet.nodes[1].caller().get("/readyz").await;
        assert!(ready.text().contains("state_rolled_back"), "{change}: {}", ready.text());
        fleet.postgres.run(&format!("BEGIN; {back}; COMMIT")).await;
        eventually("it is believed again", async || {
            let ready = fleet.nodes[1].caller().get("/readyz").await;
            (ready.status == 200).then_some(())
        })
        .await;
    }
    fleet.unfreeze(1).await;
    fleet.releases(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_with_other_root_keys_in_the_same_database_share_nothing_and_are_an_alarm() {
    let fleet = Fleet::of(2).await;
    let toml = format!("{}\ncore.postgres.other_fleets = true", fleet.postgres.toml("stranger"));
    let stranger = World::ready_with(&toml).await;
    let app = stranger.app(1);
    stranger.allow_app(&app);
    let operator = Operator::of(&stranger).await;
    operator.freezes_all(json!({ "scope": "kms", "value": "", "reason": "a test" })).await;
    fleet.freeze_all(0).await;
    fleet.is_frozen(1).await;
    let frozen = operator.called("ListFrozen", json!({})).await;
    assert_eq!(frozen["frozen"].as_array().map(Vec::len), Some(1), "{frozen}");
    fleet.unfreeze(1).await;
    fleet.releases(0).await;
    for node in 0..2 {
        let told = eventually("the alarm", async || {
            let view = fleet.done(node, "GET", "/api/v1/fleet", Value::Null).await;
            view["alarms"]
                .as_array()
                .expect("alarms")
                .iter()
                .find(|alarm| alarm["kind"] == "fleet_roots")
                .cloned()
        })
        .await;
        let (text, remedy) = (told["text"].to_string(), told["remedy"].to_string());
        assert!(text.contains("nodes of another fleet, with other root keys"), "{told}");
        assert!(remedy.contains("core.postgres.other_fleets"), "{told}");
        // It stops nothing.
        fleet.releases(node).await;
        let recorded =
            eventually("its record", async || fleet.nodes[node].audited("fleet_alarm").pop()).await;
        assert_eq!(recorded["code"], "fleet_roots", "{recorded}");
    }
    assert!(stranger.audited("fleet_alarm").is_empty(), "where it is on purpose, it is none");
    assert!(stranger.audited("state_alarm").is_empty() && fleet.alarms(0).is_empty());
}

#[tokio::test]
async fn the_database_is_checked_before_it_is_used() {
    let postgres = Postgres::start().await;
    postgres
        .run("CREATE ROLE guest LOGIN PASSWORD 'guest'; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        .await;
    let check = async |url: String| {
        let config = format!("core.state = \"postgres\"\ncore.postgres.url = \"{url}\"");
        let world = World::onboarding_with(&config).await;
        let request = crate::support::http::request("POST", "/api/v1/setup/validate/state", "{}".to_owned());
        let caller = world.caller().plain();
        let found = caller.send(request).await.value();
        (found["ok"].as_bool().expect("a word"), found["detail"].as_str().expect("a text").to_owned())
    };
    assert_eq!(
        check(postgres.url()).await,
        (true, "The database of the shared state can be used.".to_owned())
    );
    let tables = "SELECT count(*) FROM pg_class WHERE relname LIKE 'kms_%'";
    let rows = postgres.client().await.query(tables, &[]).await.expect("a count");
    assert_eq!(rows[0].get::<_, i64>(0), 0, "a check makes nothing");
    for (url, problem) in [
        (postgres.url_of("kms", "wrong"), "refuses the user or the password"),
        (postgres.url_of("guest", "guest"), "lacks the right to create or to use the tables"),
        (postgres.url().replace("/postgres", "/nothing"), "no database of that name"),
        ("postgres://kms@%2Fno%2Fsuch%2Fdirectory/kms".to_owned(), "there is no such socket"),
        ("postgres://kms@127.0.0.1:1/kms?sslmode=require".to_owned(), "nothing listens there"),
    ] {
        let (ok, detail) = check(url.clone()).await;
        assert!(!ok && detail.contains(problem), "{url}: {detail}");
        assert!(!detail.contains("no/such") && !detail.contains("127.0.0.1"), "{detail}");
    }
    postgres
        .run("CREATE TABLE kms_schema (version int, min_version int); INSERT INTO kms_schema VALUES (9, 9)")
        .await;
    let (ok, detail) = check(postgres.url()).await;
    assert!(!ok && detail.contains("they need a program that knows version 9"), "{detail}");
}

impl Fleet {
    /// Sends a request of an operator to a node.
    pub(crate) async fn send(&self, node: usize, verb: &str, path: &str, body: Value, token: &str) -> Answer {
        let caller = Caller::new(self.nodes[node].admin_address().await).plain();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        caller.send(with(request(verb, path, body), "x-admin-token", token)).await
    }

    pub(crate) async fn done(&self, node: usize, verb: &str, path: &str, body: Value) -> Value {
        let answer = self.send(node, verb, path, body, ADMIN_TOKEN).await;
        assert_eq!(answer.status, 200, "{verb} {path}: {}", answer.text());
        answer.value()
    }

    /// Waits until a node has adopted so many changes of credentials. A token that does not count must not be tried again and again.
    pub(crate) async fn adopted(&self, node: usize, changes: usize) {
        eventually(&format!("change {changes} at node {node}"), async || {
            let adopted = self.nodes[node].audited("state_adopted");
            let adopted = adopted.iter().filter(|event| event["document"] == "credentials").count();
            (adopted >= changes).then_some(())
        })
        .await;
    }

    /// Whether a token may read at a node.
    pub(crate) async fn counts(&self, node: usize, token: &str) -> bool {
        self.send(node, "GET", "/api/v1/me", Value::Null, token).await.status == 200
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_credential_counts_on_all_nodes_and_stops_on_all() {
    let mut fleet = Fleet::of(2).await;
    let body = json!({ "name": "zoe", "role": "operator" });
    let made = fleet.done(0, "POST", "/api/v1/credentials", body).await;
    let token = made["token"].as_str().expect("a token").to_owned();
    fleet.adopted(1, 1).await;
    assert!(fleet.counts(0, &token).await && fleet.counts(1, &token).await);
    let rotated = fleet.done(1, "POST", "/api/v1/credentials/zoe/rotate", json!({})).await;
    let newer = rotated["token"].as_str().expect("a token").to_owned();
    fleet.adopted(0, 1).await;
    assert!(fleet.counts(0, &newer).await && !fleet.counts(0, &token).await);
    fleet.done(0, "POST", "/api/v1/credentials/zoe/revoke", json!({})).await;
    fleet.adopted(1, 2).await;
    assert!(!fleet.counts(0, &newer).await && !fleet.counts(1, &newer).await);
    // A revocation counts at once where it is made, and is not lost with the database, nor by a restart.
    let body = json!({ "name": "eve", "role": "viewer" });
    let made = fleet.done(0, "POST", "/api/v1/credentials", body).await;
    let token = made["token"].as_str().expect("a token").to_owned();
    fleet.adopted(1, 3).await;
    assert!(fleet.counts(1, &token).await);
    fleet.postgres.stop();
    let revoked = fleet.send(1, "POST", "/api/v1/credentials/eve/revoke", json!({}), ADMIN_TOKEN).await;
    let told = revoked.text();
    assert!(revoked.status == 200 && told.contains("does not count on this node any more"), "{told}");
    assert!(!fleet.counts(1, &token).await);
    let body = json!({ "name": "amy", "role": "viewer" });
    let refused = fleet.send(1, "POST", "/api/v1/credentials", body, ADMIN_TOKEN).await;
    assert!(refused.status == 503 && refused.text().contains("nothing was changed"), "{}", refused.text());
    fleet.nodes[1].start().await.expect("it starts");
    assert!(!fleet.counts(1, &token).await, "a restart brings it back");
    fleet.postgres.resume().await;
    fleet.adopted(0, 2).await;
    assert!(!fleet.counts(0, &token).await && !fleet.counts(1, &token).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn domains_and_epochs_of_apps_are_those_of_the_fleet() {
    let fleet = Fleet::of(2).await;
    let app = hex::encode(fleet.app.app_id());
    fleet.done(0, "POST", "/api/v1/domains", json!({ "name": "team" })).await;
    let listed = async |node: usize| {
        let domains = fleet.done(node, "GET", "/api/v1/domains", Value::Null).await;
        domains.to_string().contains("\"team\"")
    };
    eventually("the domain", async || listed(1).await.then_some(())).await;
    // An app that has received keys is moved by an owner's word only, so another one is put there.
    let other = hex::encode([7; 20]);
    // Once both nodes have told which CVMs they gave keys to.
    eventually("an app without keys", async || {
        let assign = json!({ "app_id": other });
        let answer = fleet.send(1, "POST", "/api/v1/domains/team/apps", assign, ADMIN_TOKEN).await;
        (answer.status == 200).then_some(())
    })
    .await;
    eventually("the app in its domain", async || {
        let domains = fleet.done(0, "GET", "/api/v1/domains/team", Value::Null).await;
        domains.to_string().contains(&other).then_some(())
    })
    .await;
    let chosen = json!({ "root_epoch": "current", "app_epoch": 1 });
    fleet.done(1, "PUT", &format!("/api/v1/epochs/apps/{app}"), chosen).await;
    eventually("the choice", async || {
        let choices = fleet.done(0, "GET", "/api/v1/epochs/apps", Value::Null).await;
        choices.to_string().contains(&app).then_some(())
    })
    .await;
    for document in ["domains", "app-epochs"] {
        eventually("records", async || {
            let adopted = fleet.nodes.iter().flat_map(|node| node.audited("state_adopted"));
            adopted.into_iter().any(|event| event["document"] == document).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_fleet_shows_its_nodes_and_is_repaired_by_an_owner() {
    let fleet = Fleet::of(2).await;
    let backup = fleet.postgres.path("backup.sql");
    fleet.postgres.dump(&backup);
    fleet.freeze(0).await;
    fleet.is_frozen(1).await;
    let shown = eventually("what both nodes say of themselves", async || {
        let view = fleet.done(0, "GET", "/api/v1/fleet", Value::Null).await;
        let nodes = view["nodes"].as_array().expect("nodes").clone();
        let is_whole = |node: &Value| node["answers"] == true && node["status"]["ready"] == true;
        // Until each has said what it decides by, they seem to differ.
        let is_alike = view["warnings"] == json!([]);
        (nodes.len() == 2 && nodes.iter().all(is_whole) && is_alike).then_some(view)
    })
    .await;
    assert_eq!(
        (&shown["nodes"][0]["name"], &shown["nodes"][1]["name"]),
        (&json!("node-0"), &json!("node-1"))
    );
    assert_eq!(shown["nodes"][0]["this"], true);
    assert_eq!(shown["nodes"][0]["state"], shown["nodes"][1]["state"]);
    let [one, two] = [0, 1].map(|node| &shown["nodes"][node]["status"]);
    for field in ["canary", "mr_aggregated", "os_image_hash", "policies_sha256", "domains_sha256"] {
        assert_eq!(one[field], two[field], "{field}");
    }
    assert_eq!(one["canary"].as_str().map(str::len), Some(64), "{one}");
    assert_eq!((&one["canaries"], &one["draining"]), (&json!([one["canary"]]), &json!(false)));
    assert_ne!(one["boot_id"], two["boot_id"]);
    assert!(one["started"].as_u64() <= one["time"].as_u64() && one["started"].is_u64(), "{one}");
    assert!(one["mr_aggregated"].is_string() && one["os_image_hash"].is_string(), "{one}");
    assert!(one["ready_for"].is_u64() && one["view_age_ms"].is_u64(), "{one}");
    assert!(one["checkpoint"].is_string() && one["ledger_root"].as_str().map(str::len) == Some(64), "{one}");
    for node in [0, 1] {
        let node = &shown["nodes"][node];
        assert_eq!(node["canary_equal"], true, "{node}");
        assert!(node["last_seen"].is_u64() && node["status_age"].is_u64(), "{node}");
    }
    assert_eq!(shown["alarms"], json!([]));
    let skew = &shown["nodes"][1]["skew"];
    assert!(skew["min_ms"].as_i64() <= Some(0) && skew["max_ms"].as_i64() >= Some(0), "one clock: {skew}");
    assert!(shown["nodes"][0]["skew"].is_null(), "of itself nothing is measured");
    fleet.postgres.restore(&backup);
    fleet.alarmed(1, "rolled_back").await;
    let view = fleet.done(1, "GET", "/api/v1/fleet", Value::Null).await;
    assert_eq!(view["alarm"]["code"], "rolled_back", "{view}");
    fleet.done(1, "POST", "/api/v1/fleet/repair", Value::Null).await;
    for node in 0..2 {
        eventually("the repaired state", async || {
            let view = fleet.done(node, "GET", "/api/v1/fleet", Value::Null).await;
            (view["alarm"].is_null() && view["stale"].is_null()).then_some(())
        })
        .await;
        fleet.is_frozen(node).await;
    }
    assert_eq!(fleet.nodes[1].audited("state_repaired")[0]["by"], "token");
    fleet.unfreeze(0).await;
    fleet.releases(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_root_epoch_takes_the_shared_state_over_before_the_old_one_is_retired() {
    let fleet = Fleet::of(2).await;
    fleet.freeze(0).await;
    fleet.is_frozen(1).await;
    let epochs = "/api/v1/epochs";
    fleet.done(0, "POST", epochs, Value::Null).await;
    let source = json!({ "source_url": format!("https://{}", fleet.nodes[0].address()) });
    fleet.done(1, "POST", &format!("{epochs}/fetch"), source.clone()).await;
    let sealed = async |epoch: i32| {
        eventually("seals of the new epoch", async || {
            let rows = fleet.postgres.client().await;
            let select = "SELECT epoch FROM kms_head UNION ALL SELECT epoch FROM kms_state";
            let rows = rows.query(select, &[]).await.expect("rows");
            rows.iter().all(|row| row.get::<_, i32>(0) == epoch).then_some(())
        })
        .await;
    };
    sealed(0).await;
    fleet.done(0, "POST", &format!("{epochs}/1/activate"), Value::Null).await;
    sealed(1).await;
    fleet.done(1, "POST", &format!("{epochs}/fetch"), source.clone()).await;
    fleet.done(0, "POST", &format!("{epochs}/0/retire"), Value::Null).await;
    fleet.done(1, "POST", &format!("{epochs}/fetch"), source).await;
    fleet.unfreeze(1).await;
    eventually("no freeze", async || {
        let frozen = fleet.operator(0).await.called("ListFrozen", json!({})).await;
        frozen["frozen"].as_array().is_none_or(Vec::is_empty).then_some(())
    })
    .await;
    for node in 0..2 {
        assert!(fleet.alarms(node).is_empty(), "{:?}", fleet.alarms(node));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn where_other_nodes_must_answer_a_silent_one_makes_the_others_stale() {
    let mut fleet = Fleet::with(2, "core.postgres.min_peers = 1\ncore.postgres.max_view_age = \"5s\"").await;
    fleet.nodes[1].stop().await;
    fleet.is_stale(0).await;
    let ready = fleet.nodes[0].caller().get("/readyz").await;
    assert!(ready.status == 503 && ready.text().contains("state_stale"), "{}", ready.text());
    assert!(fleet.alarms(0).is_empty(), "silence is no alarm");
    // If it never comes back, it can be forgotten all the same.
    let forget = json!({ "node": "node-1" });
    eventually("it is forgotten", async || {
        let told = fleet.send(0, "POST", "/api/v1/fleet/forget", forget.clone(), ADMIN_TOKEN).await;
        assert!(told.status == 200 || told.text().contains("state_stale"), "{}", told.text());
        (told.status == 200).then_some(())
    })
    .await;
    assert_eq!(fleet.nodes[0].audited("node_forgotten")[0]["name"], "node-1");
    fleet.is_stale(0).await;
    fleet.nodes[1].start().await.expect("it starts");
    fleet.releases(0).await;
    fleet.releases(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_may_go_on_and_tell() {
    let mut fleet =
        Fleet::with(1, "core.postgres.when_stale = \"warn\"\ncore.postgres.max_view_age = \"3s\"").await;
    fleet.postgres.stop();
    eventually("the cause", async || {
        let health = fleet.done(0, "GET", "/api/v1/health", Value::Null).await;
        health.to_string().contains("state_not_fresh").then_some(())
    })
    .await;
    assert_eq!(fleet.ask(0).await.status, 200);
    assert_eq!(fleet.nodes[0].caller().get("/readyz").await.status, 200);
}
