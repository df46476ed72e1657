//! Which replicas have which epochs, as far as the ledger of this KMS knows.

use std::time::Duration;

use super::EpochService;
use crate::error::{Code, Error, Result};
use crate::events::Handover;

/// How long an activation waits for the index to have the newest records.
const INDEX_TIME: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// The most replicas that an error names.
const MAX_NAMED: usize = 10;

impl EpochService {
    /// The replicas that have received root keys from this KMS, with the epochs of the last time.
    ///
    /// # Errors
    /// The index is not available.
    pub(super) async fn replicas(&self) -> Result<Vec<Handover>> {
        let handovers = self.events.ask_index(|index| index.inventory()?.handovers()).await?;
        // A handover that was withheld did not happen.
        Ok(handovers.into_iter().filter(|handover| handover.times.count > 0).collect())
    }

    /// Checks that no replica lacks an epoch, except these. Its guests would get keys of another epoch there.
    ///
    /// # Errors
    /// `replicas_lack_epoch`; no index; an exception that is no replica.
    pub(super) async fn expect_replicas(&self, epoch: u32, except: &[String]) -> Result<()> {
        self.indexed().await?;
        let replicas = self.replicas().await?;
        if let Some(unknown) = except.iter().find(|id| !replicas.iter().any(|replica| replica.id() == **id)) {
            let unknown: String = unknown.chars().filter(|c| !c.is_control()).take(64).collect();
            return Err(Error::invalid(format!(
                "except: no replica has the id {unknown}; /api/v1/replicas has them"
            )));
        }
        let lacking: Vec<_> = replicas
            .iter()
            .filter(|replica| replica.up_to_epoch < epoch && !except.contains(&replica.id()))
            .collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let named: Vec<_> = lacking
            .iter()
            .take(MAX_NAMED)
            .map(|replica| format!("{} (last seen at {})", replica.id(), replica.subject.remote))
            .collect();
        let text = format!(
            "{} replicas have root keys from this KMS and lack epoch {epoch}: {}; let them fetch it with kmsctl epoch fetch, \
             or name in except those that are gone; nothing was changed",
            lacking.len(),
            named.join(", ")
        );
        Err(Error::new(Code::Conflict, text).because("replicas_lack_epoch"))
    }

    /// Waits until every record so far is counted.
    async fn indexed(&self) -> Result<()> {
        let newest = self.events.acknowledged();
        let end = tokio::time::Instant::now() + INDEX_TIME;
        loop {
            let coverage = self.events.ask_index(|index| index.inventory()?.coverage()).await?;
            if coverage.through >= newest {
                return Ok(());
            }
            if tokio::time::Instant::now() >= end {
                let text = "the index of events is still being built, so it is not known which replicas there are; try again";
                return Err(Error::new(Code::Unavailable, text).because("index_behind"));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}
