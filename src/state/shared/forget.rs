//! Forgets nodes that are gone: a fleet has a bound, and each node that ever was in it would have a row.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::beat::{self, Beat, MAX_BEAT};
use super::client::{EXCHANGE, within};
use super::error::DatabaseError;
use super::judge::authentic;
use super::keeper::Keeper;
use super::seal::NodeId;
use super::{Unshared, table};
use crate::clock::unix_now_ms;

/// A node that has written nothing for so long is forgotten. By the clocks of two nodes: a wrong one costs nothing, since a node that
/// runs is there again with its next beat.
const GONE_AFTER: Duration = Duration::from_secs(30 * 24 * 3600);
/// How often it is looked for such nodes.
const EVERY: Duration = Duration::from_secs(600);

/// Whether a node that wrote its last beat at this time, in Unix milliseconds, is gone.
fn is_gone(written_ms: Option<u64>, now_ms: u64) -> bool {
    let age = written_ms.map(|written| Duration::from_millis(now_ms.saturating_sub(written)));
    age.is_some_and(|age| age > GONE_AFTER)
}

impl Keeper {
    /// Forgets a node that an owner names.
    pub(super) async fn forget(&mut self, client: &mut Client, node: NodeId) -> Result<(), Unshared> {
        let forgotten = async {
            let change = client.transaction().await?;
            table::forget_node(&change, self.seals().fleet, node).await?;
            self.commit(change).await
        };
        within(EXCHANGE, forgotten).await?;
        Ok(())
    }

    /// Forgets the nodes that have written nothing for long.
    pub(super) async fn forget_gone(&mut self, client: &Client) -> Result<(), DatabaseError> {
        if self.looked_for_gone.is_some_and(|at| at.elapsed() < EVERY) {
            return Ok(());
        }
        self.looked_for_gone = Some(Instant::now());
        let (seals, own, now) = (self.seals(), self.node(), unix_now_ms());
        // Not those of the view, which leaves out nodes that are gone where there are too many.
        let read = table::reports(client, seals.fleet, own, beat::KIND, MAX_BEAT);
        let rows = within(EXCHANGE, read).await?;
        for (node, _, body) in authentic(&seals, beat::KIND, &rows).filter(|(node, ..)| *node != own) {
            let Some(beat) = Beat::parse(body).ok().filter(|beat| is_gone(beat.time_ms, now)) else {
                continue;
            };
            tracing::warn!(node = beat.name, "a node that has written nothing for 30 days is forgotten");
            within(EXCHANGE, table::forget_node(client, seals.fleet, node)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_gone_after_thirty_days_by_its_own_word() {
        let day = 24 * 3600 * 1000;
        for (written, now, gone) in [
            (Some(5 * day), 35 * day, false),
            (Some(5 * day), 35 * day + 1, true),
            (Some(40 * day), 5 * day, false),
            (None, 500 * day, false),
        ] {
            assert_eq!(is_gone(written, now), gone, "{written:?} {now}");
        }
    }
}
