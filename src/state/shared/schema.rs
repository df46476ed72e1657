//! The tables of the shared state, and how they came to be: migrations run once each, forward only, under a lock of the database.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::client::DatabaseError;

/// The key of the lock under which migrations run: "cvm-kms" in ASCII.
const LOCK: i64 = 0x0063_766d_2d6b_6d73;

struct Migration {
    version: i32,
    /// Nodes that know a lower version cannot go on.
    min_version: i32,
    sql: &'static str,
}

/// All of them, by version.
const MIGRATIONS: [Migration; 1] = [Migration {
    version: 1,
    min_version: 1,
    sql: "
        CREATE TABLE kms_schema (version int NOT NULL, min_version int NOT NULL);
        INSERT INTO kms_schema VALUES (0, 0);
        CREATE TABLE kms_head (
            fleet bytea PRIMARY KEY,
            seq bigint NOT NULL,
            body bytea NOT NULL,
            epoch int NOT NULL,
            mac bytea NOT NULL
        );
        CREATE TABLE kms_state (
            fleet bytea NOT NULL,
            scope text NOT NULL,
            version bigint NOT NULL,
            body bytea NOT NULL,
            epoch int NOT NULL,
            mac bytea NOT NULL,
            PRIMARY KEY (fleet, scope)
        );
        CREATE TABLE kms_reports (
            fleet bytea NOT NULL,
            node bytea NOT NULL,
            kind text NOT NULL,
            counter bigint NOT NULL,
            body bytea NOT NULL,
            epoch int NOT NULL,
            mac bytea NOT NULL,
            PRIMARY KEY (fleet, node, kind)
        );
    ",
}];

/// The newest version that this program knows.
const VERSION: i32 = MIGRATIONS[MIGRATIONS.len() - 1].version;

/// What becomes of the migrations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Committed,
    /// For a check: they run, and are taken back.
    TakenBack,
}

/// Brings the tables to the version of this program.
///
/// # Errors
/// [`DatabaseError`]: they need a newer program, or there is no right to create tables.
pub(super) async fn migrate(client: &mut Client, fate: Fate) -> Result<(), DatabaseError> {
    if found(client).await? == VERSION && fate == Fate::Committed {
        return Ok(());
    }
    let change = client.transaction().await?;
    change.execute_typed("SELECT pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)]).await?;
    let from = found(change.client()).await?;
    for migration in MIGRATIONS.iter().filter(|migration| migration.version > from) {
        change.batch_execute(migration.sql).await?;
        let (version, min_version) = (migration.version, migration.min_version);
        let set = "UPDATE kms_schema SET version = $1, min_version = $2";
        change.execute_typed(set, &[(&version, Type::INT4), (&min_version, Type::INT4)]).await?;
    }
    match fate {
        Fate::Committed => change.commit().await?,
        Fate::TakenBack => change.rollback().await?,
    }
    Ok(())
}

/// The version of the tables, at most our own; 0 without tables.
async fn found(client: &Client) -> Result<i32, DatabaseError> {
    let exists = client.query_typed("SELECT to_regclass('kms_schema') IS NOT NULL", &[]).await?;
    if !exists.first().is_some_and(|row| row.get(0)) {
        return Ok(0);
    }
    let rows = client.query_typed("SELECT version, min_version FROM kms_schema", &[]).await?;
    let Some(row) = rows.first() else { return Err(DatabaseError::Schema) };
    let (version, min_version): (i32, i32) = (row.try_get(0)?, row.try_get(1)?);
    match min_version > VERSION {
        true => Err(DatabaseError::TooNew { needs: min_version, knows: VERSION }),
        false => Ok(version.min(VERSION)),
    }
}
