//! What somebody who may change the database can do to a node: delay what operators change, and stop releases, but nothing else;
//! and the node says what is wrong, and goes on when it is right again.

use std::time::Duration;

use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::support::postgres::Postgres;
use crate::support::proxy::Network;
use crate::support::{ADMIN_TOKEN, eventually};

/// What the tests of one node do to the database, and take back.
struct Harm {
    change: &'static str,
    undo: &'static str,
    /// What the node then says of it.
    told: &'static str,
}

const SHORT: &str = "core.postgres.max_view_age = \"3s\"";
/// Ends all connections but the own one.
const DISCONNECT: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND application_name = 'cvm-kms'";

impl Fleet {
    /// How many looks at the database a node has found to be new.
    async fn fresh(&self, node: usize) -> u64 {
        let metrics = self.nodes[node].caller().get("/metrics").await.text().to_owned();
        let line =
            metrics.lines().find(|line| line.starts_with("cvm_kms_state_rounds_total{outcome=\"fresh\"}"));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
    }

    /// Waits until a node has looked a few times more.
    async fn goes_on(&self, node: usize) {
        let before = self.fresh(node).await;
        eventually("looks that count", async || (self.fresh(node).await > before + 3).then_some(())).await;
        self.releases(node).await;
    }

    /// Waits until a node says this of the shared state.
    async fn tells(&self, node: usize, text: &str) {
        eventually(text, async || {
            let view = self.done(node, "GET", "/api/v1/fleet", Value::Null).await;
            view.to_string().contains(text).then_some(())
        })
        .await;
    }

    /// Waits until a node has done what it could not do.
    async fn tells_no_more(&self, node: usize, text: &str) {
        eventually("nothing to say", async || {
            let view = self.done(node, "GET", "/api/v1/fleet", Value::Null).await;
            (!view.to_string().contains(text)).then_some(())
        })
        .await;
    }

    /// What `fleet.json` says of how often a node has started.
    fn starts(&self, node: usize) -> u64 {
        let file = std::fs::read(self.nodes[node].key_file("fleet.json")).expect("fleet.json");
        serde_json::from_slice::<Value>(&file).expect("JSON")["starts"].as_u64().expect("a number")
    }

    async fn suffers(&self, harm: &Harm) {
        let Harm { change, undo, told } = harm;
        println!("{change}");
        self.postgres.run(change).await;
        self.tells(0, told).await;
        self.is_stale(0).await;
        self.postgres.run(undo).await;
        self.releases(0).await;
        self.tells_no_more(0, told).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tables_that_are_not_ours_stop_releases_until_they_are_right_again() {
    let fleet = Fleet::with(1, SHORT).await;
    let form = "a table kms_* is missing, empty or of another form";
    let more = "the database sends more than it was asked for";
    let listed = "is not the one that the head lists";
    let written = "was not written by a node of this fleet";
    for harm in [
        Harm {
            change: "ALTER TABLE kms_head ALTER seq TYPE text",
            undo: "ALTER TABLE kms_head ALTER seq TYPE bigint USING seq::bigint",
            told: form,
        },
        Harm {
            change: "ALTER TABLE kms_head ALTER mac DROP NOT NULL; CREATE TABLE macs AS TABLE kms_head; UPDATE kms_head SET mac = NULL",
            undo: "UPDATE kms_head SET mac = macs.mac FROM macs",
            told: form,
        },
        Harm {
            change: "ALTER TABLE kms_reports RENAME mac TO cam",
            undo: "ALTER TABLE kms_reports RENAME cam TO mac",
            told: form,
        },
        Harm {
            change: "ALTER TABLE kms_state RENAME TO kms_other",
            undo: "ALTER TABLE kms_other RENAME TO kms_state",
            told: form,
        },
        Harm {
            change: "CREATE TABLE old AS TABLE kms_head; ALTER TABLE kms_head DROP CONSTRAINT kms_head_pkey; INSERT INTO kms_head TABLE old",
            undo: "DELETE FROM kms_head; INSERT INTO kms_head TABLE old; ALTER TABLE kms_head ADD PRIMARY KEY (fleet)",
            told: more,
        },
        Harm {
            change: "INSERT INTO kms_state SELECT fleet, 'x' || n, 1, '', 0, '' FROM kms_head, generate_series(1, 1000) n",
            undo: "DELETE FROM kms_state WHERE scope LIKE 'x%'",
            told: listed,
        },
        Harm {
            change: "INSERT INTO kms_state SELECT fleet, repeat('x', 100000), 1, convert_to(repeat('x', 5000000), 'UTF8'), 0, '' FROM kms_head",
            undo: "DELETE FROM kms_state WHERE scope LIKE 'x%'",
            told: listed,
        },
        Harm {
            change: "CREATE TABLE bodies AS TABLE kms_state; UPDATE kms_state SET body = convert_to(repeat('x', 5000000), 'UTF8')",
            undo: "UPDATE kms_state SET body = bodies.body FROM bodies WHERE bodies.scope = kms_state.scope",
            told: written,
        },
        Harm {
            change: "UPDATE kms_state SET mac = convert_to(repeat('x', 5000000), 'UTF8')",
            undo: "UPDATE kms_state SET mac = bodies.mac FROM bodies WHERE bodies.scope = kms_state.scope",
            told: written,
        },
        Harm {
            change: "ALTER TABLE kms_reports RENAME TO kms_gone; CREATE VIEW kms_reports AS SELECT DISTINCT * FROM kms_gone",
            undo: "DROP VIEW kms_reports; ALTER TABLE kms_gone RENAME TO kms_reports",
            told: "SQLSTATE",
        },
    ] {
        fleet.suffers(&harm).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_keeps_a_node_from_writing_is_told() {
    let fleet = Fleet::with(1, SHORT).await;
    let ignored = "the database did not store what was written";
    fleet
        .postgres
        .run("CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(30); RETURN NEW; END'")
        .await;
    for harm in [
        Harm {
            change: "CREATE TRIGGER t BEFORE INSERT OR UPDATE ON kms_reports FOR EACH ROW EXECUTE FUNCTION nothing()",
            undo: "DROP TRIGGER t ON kms_reports",
            told: ignored,
        },
        Harm {
            change: "CREATE RULE r AS ON UPDATE TO kms_reports DO INSTEAD NOTHING; CREATE RULE i AS ON INSERT TO kms_reports DO INSTEAD NOTHING",
            undo: "DROP RULE r ON kms_reports; DROP RULE i ON kms_reports",
            told: "SQLSTATE",
        },
        Harm {
            change: "CREATE TRIGGER t BEFORE INSERT OR UPDATE ON kms_reports FOR EACH ROW EXECUTE FUNCTION slow()",
            undo: "DROP TRIGGER t ON kms_reports",
            told: "the database does not answer in time",
        },
    ] {
        fleet.suffers(&harm).await;
    }
    assert!(fleet.starts(0) < 10, "no number was used up: {}", fleet.starts(0));
    // What the node reads is right, but nothing that it writes is kept.
    for table in ["kms_state", "kms_head"] {
        println!("{table}");
        let make = format!(
            "CREATE TRIGGER t BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION nothing()"
        );
        fleet.postgres.run(&make).await;
        assert_eq!(fleet.freeze(0).await, false, "in force here only");
        fleet.tells(0, ignored).await;
        let before = fleet.fresh(0).await;
        eventually("looks that count", async || (fleet.fresh(0).await > before + 2).then_some(())).await;
        fleet.tells(0, ignored).await;
        fleet.is_frozen(0).await;
        fleet.postgres.run(&format!("DROP TRIGGER t ON {table}")).await;
        fleet.tells_no_more(0, ignored).await;
        fleet.unfreeze(0).await;
        fleet.releases(0).await;
    }
    assert!(fleet.alarms(0).is_empty(), "{:?}", fleet.alarms(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn made_up_numbers_are_not_believed_and_use_up_none() {
    let fleet = Fleet::with(2, SHORT).await;
    let seq = async || {
        let rows = fleet.postgres.client().await.query("SELECT seq FROM kms_head", &[]).await;
        rows.expect("a head")[0].get::<_, i64>(0)
    };
    let (before, starts) = (seq().await, fleet.starts(0));
    // Of beats and of what nodes say of themselves.
    fleet.postgres.run("UPDATE kms_reports SET counter = 9223372036854775807").await;
    for node in 0..2 {
        fleet.goes_on(node).await;
    }
    // A list that has not changed is written again after minutes; until then it is not shown.
    let highest = "SELECT max(counter) FROM kms_reports WHERE kind IN ('beat', 'status')";
    eventually("numbers of nodes only", async || {
        let rows = fleet.postgres.client().await.query(highest, &[]).await.expect("numbers");
        (rows[0].get::<_, i64>(0) < 1 << 40).then_some(())
    })
    .await;
    assert_eq!(fleet.starts(0), starts, "what is remembered");
    // Of heads.
    fleet.postgres.run("UPDATE kms_head SET seq = 9223372036854775807").await;
    fleet.alarmed(0, "altered").await;
    fleet.alarmed(1, "altered").await;
    fleet.done(0, "POST", "/api/v1/fleet/repair", Value::Null).await;
    for node in 0..2 {
        fleet.goes_on(node).await;
    }
    let after = seq().await;
    assert!((before + 1..before + 10).contains(&after), "{before} {after}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_rows_that_no_node_wrote_stop_nothing() {
    let fleet = Fleet::with(2, SHORT).await;
    fleet
        .postgres
        .run(
            "INSERT INTO kms_reports SELECT fleet, decode(lpad(to_hex(n), 32, '0'), 'hex'), kind, 1, 'x', 0, '' \
             FROM kms_head, generate_series(1, 3000) n, unnest(ARRAY['beat', 'status', 'other']) kind",
        )
        .await;
    fleet
        .postgres
        .run(
            "INSERT INTO kms_reports SELECT fleet, convert_to(repeat('x', 20000), 'UTF8'), 'beat', 1, \
             convert_to(repeat('x', 5000000), 'UTF8'), 0, convert_to(repeat('x', 5000000), 'UTF8') FROM kms_head",
        )
        .await;
    for node in 0..2 {
        fleet.goes_on(node).await;
    }
    fleet.freeze_all(0).await;
    fleet.is_frozen(1).await;
    fleet.postgres.run("DELETE FROM kms_reports WHERE mac = '' OR length(mac) > 32").await;
    fleet.unfreeze(1).await;
    fleet.releases(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_flood_of_notifications_wakes_a_node_seldom_enough() {
    let fleet = Fleet::with(2, &format!("{SHORT}\ncore.postgres.min_peers = 1")).await;
    let client = fleet.postgres.client().await;
    let flood = tokio::spawn(async move {
        let some = "DO $$ BEGIN FOR n IN 1..100 LOOP PERFORM pg_notify('cvm_kms_state', n || repeat('x', 7000)); END LOOP; END $$";
        while client.batch_execute(some).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let began = std::time::Instant::now();
    let before = fleet.fresh(0).await;
    for node in 0..2 {
        fleet.goes_on(node).await;
        fleet.goes_on(node).await;
    }
    let (looks, seconds) = (fleet.fresh(0).await - before, began.elapsed().as_secs_f64());
    assert!((looks as f64) < 10.0 + 7.0 * seconds, "{looks} in {seconds} s");
    fleet.freeze_all(0).await;
    fleet.is_frozen(1).await;
    flood.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rights_that_are_taken_and_a_later_version_are_told_by_name() {
    let postgres = Postgres::start().await;
    postgres.run("CREATE ROLE node LOGIN PASSWORD 'node'; GRANT ALL ON SCHEMA public TO node").await;
    let urls = vec![postgres.url_of("node", "node")];
    let fleet = Fleet::at(postgres, Vec::new(), urls, SHORT).await;
    let rights = "lacks the right to create or to use the tables";
    for harm in [
        Harm {
            change: "REVOKE INSERT, UPDATE ON kms_reports FROM node",
            undo: "GRANT ALL ON kms_reports TO node",
            told: rights,
        },
        Harm {
            change: "REVOKE SELECT ON kms_state FROM node",
            undo: "GRANT ALL ON kms_state TO node",
            told: rights,
        },
        Harm {
            change: "REVOKE ALL ON SCHEMA public FROM node, PUBLIC",
            undo: "GRANT ALL ON SCHEMA public TO node",
            told: rights,
        },
    ] {
        fleet.suffers(&harm).await;
    }
    // Those for changes only: what is read goes on.
    fleet.postgres.run("REVOKE UPDATE ON kms_head FROM node").await;
    assert_eq!(fleet.freeze(0).await, false);
    fleet.tells(0, rights).await;
    fleet.is_frozen(0).await;
    fleet.postgres.run("GRANT ALL ON kms_head TO node").await;
    fleet.tells_no_more(0, rights).await;
    fleet.unfreeze(0).await;
    for (change, undo, told) in [
        (
            "UPDATE kms_schema SET version = 9, min_version = 9",
            "UPDATE kms_schema SET version = 1, min_version = 1",
            "they need a program that knows version 9",
        ),
        ("DELETE FROM kms_schema", "INSERT INTO kms_schema VALUES (1, 1)", "a table kms_* is missing, empty"),
        (
            "ALTER ROLE node PASSWORD 'other'",
            "ALTER ROLE node PASSWORD 'node'",
            "refuses the user or the password",
        ),
        ("ALTER ROLE node NOLOGIN", "ALTER ROLE node LOGIN", "refuses the user or the password"),
        (
            "ALTER ROLE node CONNECTION LIMIT 0",
            "ALTER ROLE node CONNECTION LIMIT -1",
            "has no free connection",
        ),
    ] {
        println!("{change}");
        fleet.postgres.run(change).await;
        fleet.postgres.run(DISCONNECT).await;
        fleet.tells(0, told).await;
        fleet.is_stale(0).await;
        fleet.postgres.run(undo).await;
        fleet.releases(0).await;
    }
    // A later version that this one still knows.
    fleet.postgres.run("UPDATE kms_schema SET version = 9; ALTER TABLE kms_state ADD later int").await;
    fleet.postgres.run(DISCONNECT).await;
    fleet.goes_on(0).await;
    assert!(fleet.alarms(0).is_empty(), "{:?}", fleet.alarms(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_slow_database_delays_and_a_locked_one_stops() {
    let fleet = Fleet::apart(2, SHORT).await;
    for network in &fleet.networks {
        network.set(Network::Slow(Duration::from_millis(10)));
    }
    for node in 0..2 {
        fleet.goes_on(node).await;
    }
    fleet.freeze(0).await;
    fleet.is_frozen(1).await;
    fleet.unfreeze(1).await;
    fleet.releases(0).await;
    for network in &fleet.networks {
        network.set(Network::Whole);
    }
    let mut client = fleet.postgres.client().await;
    let lock = client.transaction().await.expect("a transaction");
    lock.batch_execute("LOCK TABLE kms_head IN ACCESS EXCLUSIVE MODE").await.expect("the lock");
    fleet.is_stale(0).await;
    fleet.tells(0, "the database does not answer in time").await;
    assert_eq!(fleet.freeze(0).await, false, "in force here only");
    fleet.is_frozen(0).await;
    lock.rollback().await.expect("the end of the lock");
    fleet.is_frozen(1).await;
    fleet.unfreeze(0).await;
    fleet.releases(1).await;
    assert!(fleet.alarms(0).is_empty() && fleet.alarms(1).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lock_that_another_session_holds_for_too_long_ends_no_connection() {
    let fleet = Fleet::of(1).await;
    let mut client = fleet.postgres.client().await;
    let select = "SELECT pid FROM pg_stat_activity WHERE application_name = 'cvm-kms'";
    let connected = async || {
        let rows = fleet.postgres.client().await.query(select, &[]).await.expect("rows");
        rows.iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>()
    };
    let before = connected().await;
    assert_eq!(before.len(), 1, "{before:?}");
    let lock = client.transaction().await.expect("a transaction");
    lock.query("SELECT seq FROM kms_head FOR UPDATE", &[]).await.expect("the head");
    let body = json!({ "name": "amy", "role": "viewer" });
    let made = fleet.send(0, "POST", "/api/v1/credentials", body, ADMIN_TOKEN).await;
    assert!(made.status == 503 && made.text().contains("does not answer in time"), "{}", made.text());
    assert_eq!(fleet.freeze(0).await, false);
    fleet.tells(0, "another session holds a lock there").await;
    assert_eq!(connected().await, before);
    lock.rollback().await.expect("the end of the lock");
    fleet.tells_no_more(0, "another session holds a lock there").await;
    assert_eq!(connected().await, before);
    fleet.unfreeze(0).await;
    fleet.releases(0).await;
}
