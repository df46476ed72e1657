//! Reads and writes the rows of the shared state. What is read here is not yet believed.

use tokio_postgres::types::Type;
use tokio_postgres::{GenericClient, Row};

use super::beat::MAX_NODES;
use super::client::DatabaseError;
use super::document::MAX_DOCUMENT;
use super::head::{MAX_HEAD, Sha256Digest};
use super::seal::{FleetId, NodeId, Seal};

/// The most rows of documents that are read: a fleet has few.
const MAX_ROWS: i64 = 256;

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
        Hold::Nothing => "SELECT seq, body, epoch, mac FROM kms_head WHERE fleet = $1 AND length(body) <= $2",
        Hold::Head => {
            "SELECT seq, body, epoch, mac FROM kms_head WHERE fleet = $1 AND length(body) <= $2 FOR UPDATE"
        }
    };
    let limit = i32::try_from(MAX_HEAD).unwrap_or(i32::MAX);
    let rows = client.query_typed(select, &[(&&fleet.0[..], Type::BYTEA), (&limit, Type::INT4)]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(HeadRow { seq: row.try_get(0)?, body: row.try_get(1)?, seal: seal(row, 2, 3)? }))
}

pub(super) async fn documents(
    client: &impl GenericClient,
    fleet: FleetId,
) -> Result<Vec<DocumentRow>, DatabaseError> {
    let select = "SELECT scope, version, sha256(body), epoch, mac FROM kms_state WHERE fleet = $1 ORDER BY scope LIMIT $2";
    let rows = client.query_typed(select, &[(&&fleet.0[..], Type::BYTEA), (&MAX_ROWS, Type::INT8)]).await?;
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
    let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
        [(&&fleet.0[..], Type::BYTEA), (&name, Type::TEXT), (&limit, Type::INT4)];
    let rows = client.query_typed(select, &values).await?;
    let body: Option<Vec<u8>> = rows.first().map(|row| row.try_get(0)).transpose()?;
    Ok(body.filter(|body| Sha256Digest::of(body) == sha256))
}

/// The reports of one kind of all nodes, without those of more than `size` bytes.
pub(super) async fn reports(
    client: &impl GenericClient,
    fleet: FleetId,
    kind: &str,
    size: usize,
) -> Result<Vec<ReportRow>, DatabaseError> {
    let select = "SELECT node, counter, body, epoch, mac FROM kms_reports WHERE fleet = $1 AND kind = $2 \
                  AND length(body) <= $3 ORDER BY node LIMIT $4";
    let (size, most) = (i32::try_from(size).unwrap_or(i32::MAX), MAX_NODES as i64 * 2);
    let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 4] =
        [(&&fleet.0[..], Type::BYTEA), (&kind, Type::TEXT), (&size, Type::INT4), (&most, Type::INT8)];
    let rows = client.query_typed(select, &values).await?;
    let read = |row: &Row| {
        let (node, counter, body) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        Ok(ReportRow { node, counter, body, seal: seal(row, 3, 4)? })
    };
    rows.iter().map(read).collect()
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
    let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 7] = [
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
    let rows = client.query_typed(select, &values[..3]).await?;
    Ok(Some(rows.first().map(|row| row.try_get(0)).transpose()?.unwrap_or(0)))
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
    head_statement(client, update, fleet, row).await.map(drop)
}

async fn head_statement(
    client: &impl GenericClient,
    statement: &str,
    fleet: FleetId,
    row: &HeadRow,
) -> Result<u64, DatabaseError> {
    let epoch = epoch(&row.seal);
    let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 5] = [
        (&&fleet.0[..], Type::BYTEA),
        (&row.seq, Type::INT8),
        (&row.body, Type::BYTEA),
        (&epoch, Type::INT4),
        (&row.seal.mac, Type::BYTEA),
    ];
    Ok(client.execute_typed(statement, &values).await?)
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
    let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 6] = [
        (&&fleet.0[..], Type::BYTEA),
        (&name, Type::TEXT),
        (&version, Type::INT8),
        (&body, Type::BYTEA),
        (&epoch, Type::INT4),
        (&seal.mac, Type::BYTEA),
    ];
    client.execute_typed(write, &values).await?;
    Ok(())
}

/// Replaces the seal of a document, whose bytes stay.
pub(super) async fn reseal(
    client: &impl GenericClient,
    fleet: FleetId,
    name: &str,
    seal: &Seal,
) -> Result<(), DatabaseError> {
    let epoch = epoch(seal);
    let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 4] =
        [(&&fleet.0[..], Type::BYTEA), (&name, Type::TEXT), (&epoch, Type::INT4), (&seal.mac, Type::BYTEA)];
    let update = "UPDATE kms_state SET epoch = $3, mac = $4 WHERE fleet = $1 AND scope = $2";
    client.execute_typed(update, &values).await?;
    Ok(())
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
    let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
        [(&channel, Type::TEXT), (&fleet, Type::TEXT)];
    client.query_typed("SELECT pg_notify($1, $2)", &values).await?;
    Ok(())
}
