//! What this node and the others say of themselves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_wire::fleet::NodeStatus;
use tokio_postgres::Client;

use super::super::client::{EXCHANGE, within};
use super::super::error::DatabaseError;
use super::super::judge::authentic;
use super::super::seal::Sealed;
use super::super::split;
use super::super::table;
use super::{Keeper, MAX_STATUS};

/// The kind of the reports of [`Reporter`](super::Reporter).
const STATUS: &str = "status";

/// How often they are written and read.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// What a node said of itself last.
#[derive(Debug, Clone)]
pub(super) struct Status {
    pub(super) counter: u64,
    /// `None` if it cannot be read.
    pub(super) said: Option<Arc<NodeStatus>>,
    /// When it was first read.
    pub(super) at: Instant,
}

impl Keeper {
    /// Says what this node is, and reads what the others say, every few seconds.
    pub(super) async fn exchange_statuses(&mut self, client: &Client) -> Result<(), DatabaseError> {
        if self.status_at.is_some_and(|at| at.elapsed() < STATUS_EVERY) {
            return Ok(());
        }
        if self.status_at.is_none() {
            // What it said before it started, so that it notices if its own log went back.
            self.read_statuses(client).await?;
        }
        self.status_at = Some(Instant::now());
        let body = self.reporter.status();
        if body.len() > MAX_STATUS {
            return Ok(());
        }
        self.tell(client, STATUS, &body).await?;
        if !self.settings.other_fleets {
            let read = table::other_fleets(client, self.seals().fleet);
            self.watch.others(within(EXCHANGE, read).await?, Instant::now());
        }
        self.read_statuses(client).await
    }

    /// Replaces a report of this node other than its beat. Whether it is there now: nothing can be written without a key of the current
    /// root epoch, or over a number that is not lower.
    pub(in super::super) async fn tell(
        &self,
        client: &Client,
        kind: &'static str,
        body: &[u8],
    ) -> Result<bool, DatabaseError> {
        let (seals, node) = (self.seals(), self.node());
        let sealed = Sealed::Report { node, kind, counter: self.counter, body };
        let Some(seal) = seals.seal(sealed) else { return Ok(false) };
        let counter = i64::try_from(self.counter).unwrap_or(i64::MAX);
        let written = table::report(client, seals.fleet, node, (kind, counter), (body, &seal));
        if within(EXCHANGE, written).await?.is_none() {
            return Ok(true);
        }
        // Only this node writes it, with the numbers of its beats: a higher one is made up.
        within(EXCHANGE, table::forget(client, seals.fleet, node, kind)).await?;
        Ok(false)
    }

    async fn read_statuses(&mut self, client: &Client) -> Result<(), DatabaseError> {
        let seals = self.seals();
        let read = table::reports(client, seals.fleet, self.memory.node(), STATUS, MAX_STATUS);
        let rows = within(EXCHANGE, read).await?;
        let (now, mut before) = (Instant::now(), std::mem::take(&mut self.statuses));
        for (node, counter, body) in authentic(&seals, STATUS, &rows) {
            let status = match before.remove(&node) {
                // The database shows the same one again, or an older one.
                Some(known) if known.counter >= counter => known,
                Some(_) | None => {
                    let said = split::status(body).map(Arc::new);
                    if let Some(said) = &said {
                        self.watch.said(node, said, now);
                    }
                    Status { counter, said, at: now }
                }
            };
            self.statuses.insert(node, status);
        }
        Ok(())
    }
}
