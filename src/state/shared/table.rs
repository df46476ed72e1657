//! Reads and writes the rows of the shared state. What is read here is not yet believed.

use std::collections::BTreeMap;
use std::pin::pin;

use futures_util::TryStreamExt as _;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{GenericClient, Row};

use super::beat::MAX_NODES;
use super::document::MAX_DOCUMENT;
use super::error::DatabaseError;
use super::head::{MAX_HEAD, Sha256Digest};
use super::history::{PAGE, REACH};
use super::seal::{FleetId, NodeId, Seal};

/// The most rows of documents that are read: a fleet has few.
const MAX_ROWS: usize = 256;
/// The most rows of reports that are read: those of this node, and some that are not authentic beside those of all others.
const MAX_REPORTS: usize = MAX_NODES * 2;

/// The row of the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeadRow {
    pub(super) seq: i64,
    pub(super) body: Vec<u8>,
    pub(super) seal: Seal,
}

/// A row of a document without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DocumentRow {
    pub(super) name: String,
    pub(super) version: i64,
    /// By the database.
    pub(super) sha256: Vec<u8>,
    pub(super) seal: Seal,
}

/// A row of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReportRow {
    pub(super) node: Vec<u8>,
    pub(super) counter: i64,
    pub(super) body: Vec<u8>,
    pub(super) seal: Seal,
}

/// Runs a statement that gives at most `most` rows.
pub(super) async fn rows(
    client: &impl GenericClient,
    statement: &str,
    values: &[(&(dyn ToSql + Sync), Type)],
    most: usize,
) -> Result<Vec<Row>, DatabaseError> {
    let values: Vec<_> = values.iter().map(|(value, of)| (*value, of.clone())).collect();
    let mut stream = pin!(client.query_typed_raw(statement, values).await?);
    let mut rows = Vec::new();
    while let Some(row) = stream.try_next().await? {
        if rows.len() == most {
            return Err(DatabaseError::TooMuch);
        }
        rows.push(row);
    }
    Ok(rows)
}

/// Runs a statement that writes one row.
async fn write(
    client: &impl GenericClient,
    statement: &str,
    values: &[(&(dyn ToSql + Sync), Type)],
) -> Result<(), DatabaseError> {
    match client.execute_typed(statement, values).await? {
        1 => Ok(()),
        _ => Err(DatabaseError::Ignored),
    }
}

/// A negative number is of no epoch.
fn seal(row: &Row, epoch: usize, mac: usize) -> Result<Seal, DatabaseError> {
    let epoch: i32 = row.try_get(epoch)?;
    Ok(Seal { epoch: u32::try_from(epoch).unwrap_or(u32::MAX), mac: row.try_get(mac)? })
}

fn epoch(seal: &Seal) -> i32 {
    i32::try_from(seal.epoch).unwrap_or(i32::MAX)
}

/// Whether the row of the head is held until the end of the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    Nothing,
    Head,
}

pub(super) async fn head(
    client: &impl GenericClient,
    fleet: FleetId,
    hold: Hold,
) -> Result<Option<HeadRow>, DatabaseError> {
    let select = match hold {
        Hold::Nothing => {
            "SELECT seq, body, epoch, substring(mac FROM 1 FOR 33) FROM kms_head WHERE fleet = $1 AND length(body) <= $2"
        }
        Hold::Head => {
            "SELECT seq, body, epoch, substring(mac FROM 1 FOR 33) FROM kms_head WHERE fleet = $1 AND length(body) <= $2 FOR UPDATE"
        }
    };
    let limit = i32::try_from(MAX_HEAD).unwrap_or(i32::MAX);
    let rows = rows(client, select, &[(&&fleet.0[..], Type::BYTEA), (&limit, Type::INT4)], 1).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(HeadRow { seq: row.try_get(0)?, body: row.try_get(1)?, seal: seal(row, 2, 3)? }))
}

pub(super) async fn documents(
    client: &impl GenericClient,
    fleet: FleetId,
) -> Result<Vec<DocumentRow>, DatabaseError> {
    // What is longer than it can be is cut, and so not authentic.
    let select = "SELECT left(scope, 128), version, sha256(body), epoch, substring(mac FROM 1 FOR 33) FROM kms_state \
                  WHERE fleet = $1 ORDER BY scope LIMIT $2";
    let values: [(&(dyn ToSql + Sync), Type); 2] =
        [(&&fleet.0[..], Type::BYTEA), (&(MAX_ROWS as i64), Type::INT8)];
    let rows = rows(client, select, &values, MAX_ROWS).await?;
    let read = |row: &Row| {
        let (name, version, sha256) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        Ok(DocumentRow { name, version, sha256, seal: seal(row, 3, 4)? })
    };
    rows.iter().map(read).collect()
}

/// The bytes of a document, if they have this digest.
pub(super) async fn body(
    client: &impl GenericClient,
    fleet: FleetId,
    name: &str,
    sha256: Sha256Digest,
) -> Result<Option<Vec<u8>>, DatabaseError> {
    let limit = i32::try_from(MAX_DOCUMENT).unwrap_or(i32::MAX);
    let select = "SELECT body FROM kms_state WHERE fleet = $1 AND scope = $2 AND length(body) <= $3";
    let values: [(&(dyn ToSql + Sync), Type); 3] =
        [(&&fleet.0[..], Type::BYTEA), (&name, Type::TEXT), (&limit, Type::INT4)];
    let rows = rows(client, select, &values, 1).await?;
    let body: Option<Vec<u8>> = rows.first().map(|row| row.try_get(0)).transpose()?;
    Ok(body.filter(|body| Sha256Digest::of(body) == sha256))
}

/// The reports of one kind of all nodes, that of `own` first, without those of more than `size` bytes.
pub(super) async fn reports(
    client: &impl GenericClient,
    fleet: FleetId,
    own: NodeId,
    kind: &str,
    size: usize,
) -> Result<Vec<ReportRow>, DatabaseError> {
    let select = "SELECT substring(node FROM 1 FOR 17), counter, body, epoch, substring(mac FROM 1 FOR 33) FROM kms_reports \
                  WHERE fleet = $1 AND kind = $2 AND length(body) <= $3 ORDER BY node = $5 DESC, node LIMIT $4";
    let (size, most) = (i32::try_from(size).unwrap_or(i32::MAX), MAX_REPORTS as i64);
    let values: [(&(dyn ToSql + Sync), Type); 5] = [
        (&&fleet.0[..], Type::BYTEA),
        (&kind, Type::TEXT),
        (&size, Type::INT4),
        (&most, Type::INT8),
        (&&own.0[..], Type::BYTEA),
    ];
    let rows = rows(client, select, &values, MAX_REPORTS).await?;
    rows.iter().map(report_row).collect()
}

/// The reports of one kind that other nodes have written, without those of more than `size` bytes, and without those whose counters
/// are known.
pub(super) async fn new_reports(
    client: &impl GenericClient,
    fleet: FleetId,
    (kind, size): (&str, usize),
    own: NodeId,
    known: &BTreeMap<NodeId, u64>,
) -> Result<Vec<ReportRow>, DatabaseError> {
    let select = "SELECT substring(node FROM 1 FOR 17), counter, body, epoch, substring(mac FROM 1 FOR 33) FROM kms_reports r \
                  WHERE fleet = $1 AND kind = $2 AND length(body) <= $3 AND node <> $5 AND NOT EXISTS \
                  (SELECT 1 FROM unnest($6::bytea[], $7::int8[]) AS known(node, counter) \
                  WHERE known.node = r.node AND known.counter = r.counter) ORDER BY node LIMIT $4";
    let (size, most) = (i32::try_from(size).unwrap_or(i32::MAX), MAX_REPORTS as i64);
    let (nodes, counters): (Vec<&[u8]>, Vec<i64>) = known
        .iter()
        .map(|(node, counter)| (&node.0[..], i64::try_from(*counter).unwrap_or(i64::MAX)))
        .unzip();
    let values: [(&(dyn ToSql + Sync), Type); 7] = [
        (&&fleet.0[..], Type::BYTEA),
        (&kind, Type::TEXT),
        (&size, Type::INT4),
        (&most, Type::INT8),
        (&&own.0[..], Type::BYTEA),
        (&nodes, Type::BYTEA_ARRAY),
        (&counters, Type::INT8_ARRAY),
    ];
    let rows = rows(client, select, &values, MAX_REPORTS).await?;
    rows.iter().map(report_row).collect()
}

/// The numbers of the beats of nodes of other fleets that use the same database, some of them where there are many. Nothing of it
/// is authentic.
pub(super) async fn other_fleets(
    client: &impl GenericClient,
    own: FleetId,
) -> Result<BTreeMap<(FleetId, NodeId), i64>, DatabaseError> {
    let select = "SELECT fleet, node, counter FROM kms_reports \
                  WHERE fleet <> $1 AND kind = $2 AND length(fleet) = $3 AND length(node) = $3 ORDER BY fleet, node LIMIT $4";
    let length = i32::try_from(own.0.len()).unwrap_or(i32::MAX);
    let values: [(&(dyn ToSql + Sync), Type); 4] = [
        (&&own.0[..], Type::BYTEA),
        (&super::beat::KIND, Type::TEXT),
        (&length, Type::INT4),
        (&(MAX_REPORTS as i64), Type::INT8),
    ];
    let rows = rows(client, select, &values, MAX_REPORTS).await?;
    let id = |row: &Row, column: usize| -> Result<Option<[u8; 16]>, DatabaseError> {
        Ok(<[u8; 16]>::try_from(row.try_get::<_, &[u8]>(column)?).ok())
    };
    let mut beats = BTreeMap::new();
    for row in &rows {
        if let (Some(fleet), Some(node)) = (id(row, 0)?, id(row, 1)?) {
            beats.insert((FleetId(fleet), NodeId(node)), row.try_get(2)?);
        }
    }
    Ok(beats)
}

fn report_row(row: &Row) -> Result<ReportRow, DatabaseError> {
    let (node, counter, body) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    Ok(ReportRow { node, counter, body, seal: seal(row, 3, 4)? })
}

/// Removes all reports of a node.
pub(super) async fn forget_node(
    client: &impl GenericClient,
    fleet: FleetId,
    node: NodeId,
) -> Result<(), DatabaseError> {
    let values: [(&(dyn ToSql + Sync), Type); 2] =
        [(&&fleet.0[..], Type::BYTEA), (&&node.0[..], Type::BYTEA)];
    client.execute_typed("DELETE FROM kms_reports WHERE fleet = $1 AND node = $2", &values).await?;
    Ok(())
}

/// Replaces a report of this node. `None` if it was written, else the counter that is there and is not lower.
pub(super) async fn report(
    client: &impl GenericClient,
    fleet: FleetId,
    node: NodeId,
    (kind, counter): (&str, i64),
    (body, seal): (&[u8], &Seal),
) -> Result<Option<i64>, DatabaseError> {
    let write = "INSERT INTO kms_reports (fleet, node, kind, counter, body, epoch, mac) VALUES ($1, $2, $3, $4, $5, $6, $7) \
                 ON CONFLICT (fleet, node, kind) DO UPDATE SET counter = EXCLUDED.counter, body = EXCLUDED.body, \
                 epoch = EXCLUDED.epoch, mac = EXCLUDED.mac WHERE kms_reports.counter < EXCLUDED.counter";
    let (node, epoch) = (&node.0[..], epoch(seal));
    let values: [(&(dyn ToSql + Sync), Type); 7] = [
        (&&fleet.0[..], Type::BYTEA),
        (&node, Type::BYTEA),
        (&kind, Type::TEXT),
        (&counter, Type::INT8),
        (&body, Type::BYTEA),
        (&epoch, Type::INT4),
        (&seal.mac, Type::BYTEA),
    ];
    if client.execute_typed(write, &values).await? > 0 {
        return Ok(None);
    }
    let select = "SELECT counter FROM kms_reports WHERE fleet = $1 AND node = $2 AND kind = $3";
    let rows = rows(client, select, &values[..3], 1).await?;
    let there: Option<i64> = rows.first().map(|row| row.try_get(0)).transpose()?;
    // Something keeps it from being written.
    there.filter(|there| *there >= counter).map(Some).ok_or(DatabaseError::Ignored)
}

/// Removes a report of a node.
pub(super) async fn forget(
    client: &impl GenericClient,
    fleet: FleetId,
    node: NodeId,
    kind: &str,
) -> Result<(), DatabaseError> {
    let delete = "DELETE FROM kms_reports WHERE fleet = $1 AND node = $2 AND kind = $3";
    let values: [(&(dyn ToSql + Sync), Type); 3] =
        [(&&fleet.0[..], Type::BYTEA), (&&node.0[..], Type::BYTEA), (&kind, Type::TEXT)];
    client.execute_typed(delete, &values).await?;
    Ok(())
}

/// Writes a first head. Whether there was none.
pub(super) async fn first_head(
    client: &impl GenericClient,
    fleet: FleetId,
    row: &HeadRow,
) -> Result<bool, DatabaseError> {
    let insert = "INSERT INTO kms_head (fleet, seq, body, epoch, mac) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
    Ok(head_statement(client, insert, fleet, row).await? > 0)
}

/// Replaces the head, which is held.
pub(super) async fn replace_head(
    client: &impl GenericClient,
    fleet: FleetId,
    row: &HeadRow,
) -> Result<(), DatabaseError> {
    let update = "UPDATE kms_head SET seq = $2, body = $3, epoch = $4, mac = $5 WHERE fleet = $1";
    match head_statement(client, update, fleet, row).await? {
        1 => Ok(()),
        _ => Err(DatabaseError::Ignored),
    }
}

async fn head_statement(
    client: &impl GenericClient,
    statement: &str,
    fleet: FleetId,
    row: &HeadRow,
) -> Result<u64, DatabaseError> {
    let epoch = epoch(&row.seal);
    let values: [(&(dyn ToSql + Sync), Type); 5] = [
        (&&fleet.0[..], Type::BYTEA),
        (&row.seq, Type::INT8),
        (&row.body, Type::BYTEA),
        (&epoch, Type::INT4),
        (&row.seal.mac, Type::BYTEA),
    ];
    Ok(client.execute_typed(statement, &values).await?)
}

/// Keeps a head, and no longer those that are too far back.
pub(super) async fn keep_head(
    client: &impl GenericClient,
    fleet: FleetId,
    row: &HeadRow,
) -> Result<(), DatabaseError> {
    let values: [(&(dyn ToSql + Sync), Type); 3] =
        [(&&fleet.0[..], Type::BYTEA), (&row.seq, Type::INT8), (&row.body, Type::BYTEA)];
    let keep = "INSERT INTO kms_history (fleet, seq, body) VALUES ($1, $2, $3) \
                ON CONFLICT (fleet, seq) DO UPDATE SET body = EXCLUDED.body";
    write(client, keep, &values).await?;
    let last = row.seq.saturating_sub(i64::try_from(REACH).unwrap_or(i64::MAX));
    let values: [(&(dyn ToSql + Sync), Type); 2] = [(&&fleet.0[..], Type::BYTEA), (&last, Type::INT8)];
    client.execute_typed("DELETE FROM kms_history WHERE fleet = $1 AND seq < $2", &values).await?;
    Ok(())
}

/// Heads between these two numbers, the newest first, not all of them where there are many.
pub(super) async fn kept_heads(
    client: &impl GenericClient,
    fleet: FleetId,
    after: u64,
    before: u64,
) -> Result<Vec<Vec<u8>>, DatabaseError> {
    let select = "SELECT body FROM kms_history WHERE fleet = $1 AND seq > $2 AND seq < $3 AND length(body) <= $4 \
                  ORDER BY seq DESC LIMIT $5";
    let [after, before] = [after, before].map(|seq| i64::try_from(seq).unwrap_or(i64::MAX));
    let limit = i32::try_from(MAX_HEAD).unwrap_or(i32::MAX);
    let values: [(&(dyn ToSql + Sync), Type); 5] = [
        (&&fleet.0[..], Type::BYTEA),
        (&after, Type::INT8),
        (&before, Type::INT8),
        (&limit, Type::INT4),
        (&(PAGE as i64), Type::INT8),
    ];
    let rows = rows(client, select, &values, PAGE).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Writes a document.
pub(super) async fn put(
    client: &impl GenericClient,
    fleet: FleetId,
    (name, version): (&str, i64),
    (body, seal): (&[u8], &Seal),
) -> Result<(), DatabaseError> {
    let write = "INSERT INTO kms_state (fleet, scope, version, body, epoch, mac) VALUES ($1, $2, $3, $4, $5, $6) \
                 ON CONFLICT (fleet, scope) DO UPDATE SET version = EXCLUDED.version, body = EXCLUDED.body, \
                 epoch = EXCLUDED.epoch, mac = EXCLUDED.mac";
    let epoch = epoch(seal);
    let values: [(&(dyn ToSql + Sync), Type); 6] = [
        (&&fleet.0[..], Type::BYTEA),
        (&name, Type::TEXT),
        (&version, Type::INT8),
        (&body, Type::BYTEA),
        (&epoch, Type::INT4),
        (&seal.mac, Type::BYTEA),
    ];
    self::write(client, write, &values).await
}

/// Replaces the seal of a document, whose bytes stay.
pub(super) async fn reseal(
    client: &impl GenericClient,
    fleet: FleetId,
    name: &str,
    seal: &Seal,
) -> Result<(), DatabaseError> {
    let epoch = epoch(seal);
    let values: [(&(dyn ToSql + Sync), Type); 4] =
        [(&&fleet.0[..], Type::BYTEA), (&name, Type::TEXT), (&epoch, Type::INT4), (&seal.mac, Type::BYTEA)];
    let update = "UPDATE kms_state SET epoch = $3, mac = $4 WHERE fleet = $1 AND scope = $2";
    write(client, update, &values).await
}

/// Removes the head and all documents.
pub(super) async fn clear(client: &impl GenericClient, fleet: FleetId) -> Result<(), DatabaseError> {
    for delete in ["DELETE FROM kms_head WHERE fleet = $1", "DELETE FROM kms_state WHERE fleet = $1"] {
        client.execute_typed(delete, &[(&&fleet.0[..], Type::BYTEA)]).await?;
    }
    Ok(())
}

/// Tells the other nodes that something was written.
pub(super) async fn tell(client: &impl GenericClient, fleet: FleetId) -> Result<(), DatabaseError> {
    let (channel, fleet) = (super::client::CHANNEL, fleet.to_string());
    let values: [(&(dyn ToSql + Sync), Type); 2] = [(&channel, Type::TEXT), (&fleet, Type::TEXT)];
    rows(client, "SELECT pg_notify($1, $2)", &values, 1).await.map(drop)
}
