//! Tells the source of an invitation what became of it: first that the keys are on the disk, then that they are served.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kms_client::source::Joined;
use kms_wire::join::JoinReport;

/// How often the source is called before it is given up, and the pause after the first call, which doubles.
const CALLS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// What is told of the invitation by which this KMS got its keys, in this run of its process.
#[derive(Debug, Default)]
pub struct JoinReports(Mutex<Option<Arc<Joined>>>);

impl JoinReports {
    /// The keys are on the disk.
    pub(super) fn committed(&self, joined: Joined) {
        let joined = Arc::new(joined);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&joined));
        tokio::spawn(async move { told(&joined, JoinReport::Committed).await });
    }

    /// The keys are served.
    pub async fn serving(&self) {
        let joined = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(joined) = joined {
            told(&joined, JoinReport::Serving).await;
        }
    }
}

/// Tells the source what became of the handover. Nothing depends on it here: without it the source shows this replica as unconfirmed.
async fn told(joined: &Joined, stage: JoinReport) {
    let mut pause = PAUSE;
    for call in 1..=CALLS {
        match joined.report(stage).await {
            Ok(()) => return tracing::info!(stage = stage.name(), "the source of the root keys was told"),
            Err(error) if error.is_refusal() || call == CALLS => {
                let stage = stage.name();
                return tracing::warn!(%error, stage, "the source could not be told; it will show this replica as unconfirmed");
            }
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(MAX_PAUSE);
    }
}
