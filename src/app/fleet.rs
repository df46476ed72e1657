//! Shares what operators change with the other nodes of a fleet, and records when the shared state is not believed.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::process::Process;
use super::serving::Serving;
use crate::api::fleet::StatusReporter;
use crate::audit::{Audit, Event};
use crate::control::{
    SharedAppEpochs, SharedBundle, SharedCredentials, SharedDomains, SharedFreezes, SharedJoins,
};
use crate::lifecycle::Ready;
use crate::state::shared::{Alarm, Document, Roots};

/// Shares the state, if the configuration says so.
pub(super) fn spawn(process: &Process, serving: &Serving, background: &mut JoinSet<()>) {
    let Some(keeping) = process.keeping() else { return };
    let foundation = process.foundation();
    let roots: Arc<dyn Roots> = Arc::<Ready>::clone(&serving.ready);
    let audit = || process.audit();
    // The domains first: what is recorded of apps names theirs.
    let mut documents: Vec<Arc<dyn Document>> = vec![
        Arc::new(SharedDomains::new(Arc::clone(&foundation.domains), audit())),
        Arc::new(SharedFreezes::new(Arc::clone(&foundation.freezes), audit())),
        Arc::new(SharedAppEpochs::new(Arc::clone(&foundation.app_epochs), audit())),
        Arc::new(SharedJoins::new(Arc::clone(&foundation.joins))),
    ];
    for keeper in &process.bundles {
        documents.push(Arc::new(SharedBundle::new(Arc::clone(keeper))));
    }
    if let Some(named) = serving.named.get() {
        documents.push(Arc::new(SharedCredentials::new(Arc::clone(named), audit())));
    }
    if let Some(view) = foundation.freezes.view() {
        background.spawn(record_alarms(view.alarms(), process.audit()));
    }
    let reporter = StatusReporter::new(
        foundation,
        Arc::clone(&serving.ready),
        Arc::clone(&serving.readiness),
        process.boot_id.clone(),
    );
    background.spawn(keeping.run(roots, documents, Arc::new(reporter)));
}

/// Records each alarm.
async fn record_alarms(mut alarms: watch::Receiver<Option<Alarm>>, audit: Arc<Audit>) {
    while alarms.changed().await.is_ok() {
        let alarm = alarms.borrow_and_update().clone();
        if let Some(alarm) = alarm {
            audit.note(Event::StateAlarm { code: alarm.code(), reason: alarm.to_string() });
        }
    }
}
