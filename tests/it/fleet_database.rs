//! The connection to the database of the shared state: TLS, and a standby that takes over.

use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::support::http::request;
use crate::support::operator::Operator;
use crate::support::postgres::{PASSWORD, Postgres};
use crate::support::proxy::{Network, Proxy};
use crate::support::{Answer, World, eventually};

/// Whether a KMS with this configuration can use its database, and what it says.
async fn check(toml: &str) -> (bool, String) {
    let world = World::onboarding_with(&format!("core.state = \"postgres\"\n{toml}")).await;
    let request = request("POST", "/api/v1/setup/validate/state", "{}".to_owned());
    let found = world.caller().plain().send(request).await.value();
    (found["ok"].as_bool().expect("a word"), found["detail"].as_str().expect("a text").to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_database_is_known_by_its_certificate() {
    let mut postgres = Postgres::start().await;
    let port = postgres.with_tls("localhost").await;
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(postgres.path("other.pem"), other.cert.pem()).expect("a file");
    let password = PASSWORD.replace(' ', "%20");
    let url =
        |host: &str, mode: &str| format!("postgres://kms:{password}@{host}:{port}/postgres?sslmode={mode}");
    let toml = |url: &str, ca: Option<&str>| {
        let ca = ca.map(|ca| format!("core.postgres.ca_file = \"{}\"", postgres.path(ca).display()));
        format!("core.postgres.url = \"{url}\"\n{}", ca.unwrap_or_default())
    };
    let (ok, detail) = check(&toml(&url("localhost", "require"), Some("ca.pem"))).await;
    assert!(ok, "{detail}");
    for (host, mode, ca, problem) in [
        ("localhost", "require", Some("other.pem"), "its certificate is of no CA that is trusted here"),
        ("localhost", "require", None, "its certificate is of no CA that is trusted here"),
        ("127.0.0.1", "require", Some("ca.pem"), "its certificate is not for the host that"),
        // The server wants TLS.
        ("localhost", "disable", Some("ca.pem"), "refuses the user or the password"),
    ] {
        let (ok, detail) = check(&toml(&url(host, mode), ca)).await;
        assert!(!ok && detail.contains(problem), "{host} {mode} {ca:?}: {detail}");
        assert!(!["127.0.0.1", "localhost", PASSWORD].iter().any(|it| detail.contains(it)), "{detail}");
    }
    // A server without TLS gets no password from a KMS that wants it.
    let plain = Postgres::start().await;
    let (ok, detail) = check(&format!("core.postgres.url = \"{}?sslmode=require\"", plain.url())).await;
    assert!(!ok && detail.contains("it has no TLS"), "{detail}");
    // And the shared state works over it.
    let node = World::ready_with(&format!(
        "core.state = \"postgres\"\n{}",
        toml(&url("localhost", "require"), Some("ca.pem"))
    ))
    .await;
    let freeze = json!({ "scope": "app", "value": "07".repeat(20), "reason": "a test" });
    Operator::of(&node).await.freezes_all(freeze).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_connection_that_has_read_much_is_replaced_and_nothing_stops() {
    let mut postgres = Postgres::start().await;
    let port = postgres.with_tls("localhost").await;
    let password = PASSWORD.replace(' ', "%20");
    let url = format!("postgres://kms:{password}@localhost:{port}/postgres?sslmode=require");
    let node = World::ready_with(&format!(
        "{}\ncore.postgres.ca_file = \"{}\"",
        Postgres::toml_of(&url, "node-0"),
        postgres.path("ca.pem").display()
    ))
    .await;
    let connected = async || {
        let client = postgres.client().await;
        let select = "SELECT backend_start::text FROM pg_stat_activity WHERE application_name = 'cvm-kms'";
        let rows = client.query(select, &[]).await.expect("rows");
        rows.first().map(|row| row.get::<_, String>(0))
    };
    let before = eventually("a connection", connected).await;
    eventually("it is ready", async || (node.caller().get("/readyz").await.status == 200).then_some(()))
        .await;
    // Rows that are no reports of a node, but have to be read to see that.
    postgres
        .run(
            "INSERT INTO kms_reports SELECT fleet, decode(lpad(to_hex(n), 32, '0'), 'hex'), kind, 1, \
             convert_to(repeat('x', 16384), 'UTF8'), 0, '' FROM kms_head, generate_series(1, 300) n, \
             unnest(ARRAY['beat', 'status']) kind",
        )
        .await;
    eventually("another connection", async || {
        let ready = node.caller().get("/readyz").await;
        assert_eq!(ready.status, 200, "{}", ready.text());
        connected().await.filter(|now| *now != before)
    })
    .await;
    let freeze = json!({ "scope": "app", "value": "07".repeat(20), "reason": "a test" });
    Operator::of(&node).await.freezes_all(freeze).await;
    assert_eq!(Operator::of(&node).await.get("/api/v1/fleet").await.value()["warnings"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_host_that_accepts_connections_and_never_answers_is_passed_over() {
    let postgres = Postgres::start().await;
    let hosts = [Proxy::start(&postgres.socket()).await, Proxy::start(&postgres.socket()).await];
    let url = postgres.url_through(&[hosts[0].address(), hosts[1].address()]);
    let toml = format!("core.postgres.url = \"{url}\"");
    let fleet = Fleet::at(postgres, hosts.into(), vec![url.clone(), url], "").await;
    fleet.networks[0].set(Network::BlackHole);
    fleet.freeze(0).await;
    fleet.is_frozen(1).await;
    eventually("a view that counts", async || {
        let view = fleet.done(0, "GET", "/api/v1/fleet", Value::Null).await;
        (view["stale"].is_null() && view["warnings"] == json!([])).then_some(())
    })
    .await;
    fleet.unfreeze(1).await;
    for node in 0..2 {
        fleet.releases(node).await;
        assert!(fleet.alarms(node).is_empty(), "{:?}", fleet.alarms(node));
    }
    let (ok, detail) = check(&toml).await;
    assert!(ok, "{detail}");
    // Where none answers, that is told.
    fleet.networks[1].set(Network::Reset);
    let (ok, detail) = check(&toml).await;
    assert!(!ok && detail.contains("does not answer in time"), "{detail}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_standby_takes_over_and_no_freeze_is_lost() {
    let mut postgres = Postgres::start().await;
    let standby = postgres.standby().await;
    let url = |servers: [&Postgres; 2]| {
        let hosts = servers
            .map(|server| server.path("").display().to_string().trim_end_matches('/').replace('/', "%2F"));
        format!("postgres://kms:{}@{}/postgres", PASSWORD.replace(' ', "%20"), hosts.join(","))
    };
    // The standby first: a server that is read-only is passed over.
    let url = url([&standby, &postgres]);
    let toml =
        format!("core.state = \"postgres\"\ncore.postgres.url = \"{url}\"\ncore.postgres.node_name = ");
    let first = World::ready_with(&format!("{toml}\"node-0\"")).await;
    let second = first.sibling_with(&format!("{toml}\"node-1\"")).await;
    let app = first.app(1);
    let nodes = [&first, &second];
    nodes.iter().for_each(|node| node.allow_app(&app));
    let answers = async |node: &World, status: u16| {
        eventually(&format!("{status}"), async || {
            let caller = node.caller().shows(&node.attested(&app).await);
            let answer: Answer = caller.json("GetAppKey", json!({})).await;
            (answer.status == status).then_some(())
        })
        .await;
    };
    for node in nodes {
        answers(node, 200).await;
    }
    let target = json!({ "scope": "app", "value": hex::encode(app.app_id()), "reason": "a test" });
    Operator::of(&first).await.freezes_all(target).await;
    postgres.stop();
    standby.promote().await;
    for node in nodes {
        answers(node, 403).await;
        eventually("it is ready", async || (node.caller().get("/readyz").await.status == 200).then_some(()))
            .await;
        answers(node, 403).await;
        assert!(node.audited("state_alarm").is_empty(), "nothing was lost");
    }
    assert!(Operator::of(&second).await.unfreeze("app", app.app_id()).await);
    for node in nodes {
        answers(node, 200).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_whose_user_may_not_have_the_newest_table_goes_on_without_it() {
    let postgres = Postgres::start().await;
    postgres
        .run(
            "CREATE ROLE guest LOGIN PASSWORD 'guest'; REVOKE CREATE ON SCHEMA public FROM PUBLIC; \
             ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO guest",
        )
        .await;
    let urls = vec![postgres.url(), postgres.url_of("guest", "guest")];
    let guest = format!("core.postgres.url = \"{}\"", urls[1]);
    let mut fleet = Fleet::at(postgres, Vec::new(), urls, "").await;
    let lacks = async |fleet: &Fleet, node: usize| {
        let view = fleet.done(node, "GET", "/api/v1/fleet", Value::Null).await;
        view["warnings"].to_string().contains("kms_history")
    };
    let change = async |fleet: &Fleet, node: usize, times: usize| {
        for _ in 0..times {
            fleet.freeze_all(node).await;
            fleet.unfreeze(node).await;
        }
    };
    assert!(!lacks(&fleet, 0).await && !lacks(&fleet, 1).await);
    for node in &mut fleet.nodes {
        node.stop().await;
    }
    // The tables are those of the version before.
    fleet
        .postgres
        .run(
            "DROP TABLE kms_history; UPDATE kms_schema SET version = 1; \
             ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE ALL ON TABLES FROM guest",
        )
        .await;
    let (ok, detail) = check(&guest).await;
    assert!(ok && detail.contains("may neither create nor use the table kms_history"), "{detail}");
    fleet.nodes[1].start().await.expect("it starts");
    fleet.releases(1).await;
    assert!(lacks(&fleet, 1).await);
    change(&fleet, 1, 20).await;
    // The user of another node makes the table.
    fleet.nodes[0].start().await.expect("it starts");
    fleet.releases(0).await;
    assert!(!lacks(&fleet, 0).await);
    change(&fleet, 1, 20).await;
    fleet.nodes[1].stop().await;
    change(&fleet, 0, 40).await;
    let kept = fleet.postgres.client().await.query("SELECT seq FROM kms_history", &[]).await.expect("rows");
    assert!(kept.len() >= 2, "{}", kept.len());
    let (ok, detail) = check(&guest).await;
    assert!(ok && detail.contains("may neither create nor use the table kms_history"), "{detail}");
    // Whether this follows what the node knew, the database does not let it see.
    fleet.nodes[1].start().await.expect("it starts");
    eventually("an alarm", async || (fleet.alarms(1) == ["forked"]).then_some(())).await;
    assert!(lacks(&fleet, 1).await);
    assert!(fleet.nodes[1].caller().get("/readyz").await.text().contains("state_rolled_back"));
    // With the rights it does as the others.
    fleet.postgres.run("GRANT SELECT, INSERT, UPDATE, DELETE ON kms_history TO guest").await;
    fleet.releases(1).await;
    assert!(!lacks(&fleet, 1).await && fleet.alarms(0).is_empty());
    let (ok, detail) = check(&guest).await;
    assert!(ok && !detail.contains("kms_history"), "{detail}");
    fleet.freeze_all(0).await;
    fleet.is_frozen(1).await;
}
