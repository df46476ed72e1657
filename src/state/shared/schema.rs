//! The tables of the shared state, and how they came to be: migrations run once each, forward only, under a lock of the database.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::error::DatabaseError;
use super::table;

/// The key of the lock under which migrations run: "cvm-kms" in ASCII.
const LOCK: i64 = 0x0063_766d_2d6b_6d73;

struct Migration {
    version: i32,
    /// Nodes that know a lower version cannot go on.
    min_version: i32,
    sql: &'static str,
}

/// All of them, by version.
const MIGRATIONS: [Migration; 2] = [FIRST, HISTORY];

const FIRST: Migration = Migration {
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
};

/// Older nodes neither read nor write it.
const HISTORY: Migration = Migration {
    version: 2,
    min_version: 1,
    sql: "
        CREATE TABLE IF NOT EXISTS kms_history (
            fleet bytea NOT NULL,
            seq bigint NOT NULL,
            body bytea NOT NULL,
            PRIMARY KEY (fleet, seq)
        );
    ",
};

/// The newest version that this program knows.
const VERSION: i32 = MIGRATIONS[MIGRATIONS.len() - 1].version;

/// Whether the heads of [`super::history`] can be kept and read with the rights of this database user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Past {
    Kept,
    /// Nodes go on as those of the version before, which knew no such table.
    Unkept,
}

/// What becomes of the migrations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Committed,
    /// For a check: they run, and are taken back.
    TakenBack,
}

/// What nodes do with the tables, to find missing rights and a standby, for a fleet that cannot exist.
const PROBE: &str = "
    INSERT INTO kms_head (fleet, seq, body, epoch, mac) VALUES ('', 1, '', 0, '');
    UPDATE kms_head SET seq = 2 WHERE fleet = (SELECT fleet FROM kms_head WHERE fleet = '' FOR UPDATE);
    DELETE FROM kms_head WHERE fleet = '';
    INSERT INTO kms_state (fleet, scope, version, body, epoch, mac) VALUES ('', '', 1, '', 0, '');
    UPDATE kms_state SET version = 2 WHERE fleet = (SELECT fleet FROM kms_state WHERE fleet = '');
    DELETE FROM kms_state WHERE fleet = '';
    INSERT INTO kms_reports (fleet, node, kind, counter, body, epoch, mac) VALUES ('', '', '', 1, '', 0, '');
    UPDATE kms_reports SET counter = 2 WHERE fleet = (SELECT fleet FROM kms_reports WHERE fleet = '');
    DELETE FROM kms_reports WHERE fleet = '';
";

/// The same of what nodes can do without.
const PROBE_HISTORY: &str = "
    INSERT INTO kms_history (fleet, seq, body) VALUES ('', 1, '');
    UPDATE kms_history SET seq = 2 WHERE fleet = (SELECT fleet FROM kms_history WHERE fleet = '');
    DELETE FROM kms_history WHERE fleet = '';
";

/// A table is made in the schema that is first in the path, and needs this right even where it exists.
const MAY_MIGRATE: &str = "has_schema_privilege(current_schema(), 'CREATE') \
     AND has_table_privilege(to_regclass('kms_schema'), 'UPDATE')";

/// All of them are needed, and false for a table that does not exist.
const HAS_HISTORY: &str = "has_table_privilege(to_regclass('kms_history'), 'SELECT') \
     AND has_table_privilege(to_regclass('kms_history'), 'INSERT') \
     AND has_table_privilege(to_regclass('kms_history'), 'UPDATE') \
     AND has_table_privilege(to_regclass('kms_history'), 'DELETE')";

/// Brings the tables to the version of this program. Where an older program has made them, and there is no right to change them, they
/// stay as they are.
///
/// # Errors
/// [`DatabaseError`]: they need a newer program, or there is no right to create the first tables.
pub(super) async fn migrate(client: &mut Client, fate: Fate) -> Result<Past, DatabaseError> {
    let from = found(client).await?;
    let stays = from == VERSION || (from >= FIRST.version && !holds(client, MAY_MIGRATE).await?);
    if stays && fate == Fate::Committed {
        return past(client).await;
    }
    let change = client.transaction().await?;
    change.execute_typed("SELECT pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)]).await?;
    let from = if stays { VERSION } else { found(change.client()).await? };
    for migration in MIGRATIONS.iter().filter(|migration| migration.version > from) {
        change.batch_execute(migration.sql).await?;
        let (version, min_version) = (migration.version, migration.min_version);
        let set = "UPDATE kms_schema SET version = $1, min_version = $2";
        change.execute_typed(set, &[(&version, Type::INT4), (&min_version, Type::INT4)]).await?;
    }
    let past = past(change.client()).await?;
    match fate {
        Fate::Committed => change.commit().await?,
        Fate::TakenBack => {
            change.batch_execute(PROBE).await?;
            if past == Past::Kept {
                change.batch_execute(PROBE_HISTORY).await?;
            }
            change.rollback().await?;
        }
    }
    Ok(past)
}

/// A statement that fails would end its transaction, so the rights are looked up.
pub(super) async fn past(client: &Client) -> Result<Past, DatabaseError> {
    Ok(if holds(client, HAS_HISTORY).await? { Past::Kept } else { Past::Unkept })
}

/// Whether a condition is true, rather than false or null.
async fn holds(client: &Client, condition: &str) -> Result<bool, DatabaseError> {
    let rows = table::rows(client, &format!("SELECT ({condition}) IS TRUE"), &[], 1).await?;
    Ok(rows.first().map(|row| row.try_get(0)).transpose()?.unwrap_or(false))
}

/// The version of the tables, at most our own; 0 without tables.
async fn found(client: &Client) -> Result<i32, DatabaseError> {
    if !holds(client, "to_regclass('kms_schema') IS NOT NULL").await? {
        return Ok(0);
    }
    let rows = table::rows(client, "SELECT version, min_version FROM kms_schema LIMIT 1", &[], 1).await?;
    let Some(row) = rows.first() else { return Err(DatabaseError::Schema) };
    let (version, min_version): (i32, i32) = (row.try_get(0)?, row.try_get(1)?);
    match min_version > VERSION {
        true => Err(DatabaseError::TooNew { needs: min_version, knows: VERSION }),
        false => Ok(version.min(VERSION)),
    }
}
