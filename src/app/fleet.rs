//! Shares what operators change with the other nodes of a fleet, and records when the shared state is not believed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::process::Process;
use super::serving::Serving;
use crate::api::events::EventService;
use crate::api::fleet::{StatusReporter, show_lists};
use crate::api::rollout::RolloutService;
use crate::audit::{Audit, Event};
use crate::control::{
    SharedAppEpochs, SharedBundle, SharedCredentials, SharedDomains, SharedDrains, SharedFreezes,
    SharedJoins, SharedRollout, SharedSerials,
};
use crate::lifecycle::Ready;
use crate::state::shared::{Alarm, Document, Roots, Split};

/// How often a rollout is looked after.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Shares the state, if the configuration says so.
pub(super) fn spawn(process: &Process, serving: &Serving, background: &mut JoinSet<()>) {
    let Some(keeping) = process.keeping() else { return };
    let foundation = process.foundation();
    let roots: Arc<dyn Roots> = Arc::<Ready>::clone(&serving.ready);
    let audit = || process.audit();
    // They are adopted in this order. The freezes first, so that they wait for nothing; the domains before what is recorded of apps,
    // which names theirs. A freeze is recorded with the domain that its app had here before.
    let mut documents: Vec<Arc<dyn Document>> = vec![
        Arc::new(SharedFreezes::new(Arc::clone(&foundation.freezes), audit())),
        Arc::new(SharedDomains::new(Arc::clone(&foundation.domains), audit())),
        Arc::new(SharedAppEpochs::new(Arc::clone(&foundation.app_epochs), audit())),
        Arc::new(SharedJoins::new(Arc::clone(&foundation.joins))),
        Arc::new(SharedDrains::new(Arc::clone(&foundation.drain), audit())),
    ];
    if !process.bundles.is_empty() {
        documents.push(Arc::new(SharedSerials::new(process.bundles.clone())));
    }
    if let Some(rollouts) = &process.rollouts {
        documents.push(Arc::new(SharedRollout::new(Arc::clone(rollouts), audit())));
        background.spawn(attend(Arc::clone(&serving.rollout)));
    }
    for keeper in &process.bundles {
        documents.push(Arc::new(SharedBundle::new(Arc::clone(keeper))));
    }
    if let Some(named) = serving.named.get() {
        documents.push(Arc::new(SharedCredentials::new(Arc::clone(named), audit())));
    }
    if let Some(view) = process.shared.as_ref().map(|shared| shared.view()) {
        background.spawn(record_alarms(view.alarms(), process.audit()));
        background.spawn(record_splits(view.watch_splits(), process.audit()));
        let events = EventService::new(
            Arc::clone(&process.events),
            Arc::clone(&process.reports),
            Arc::clone(&foundation.domains),
        );
        background.spawn(show_lists(Arc::new(events), Arc::clone(view)));
    }
    let reporter = StatusReporter::new(
        foundation,
        Arc::clone(&serving.ready),
        Arc::clone(&serving.readiness),
        process.boot(),
    );
    background.spawn(keeping.run(roots, documents, Arc::new(reporter)));
}

/// Starts, drives and shows rollouts.
pub(super) fn rollout_service(process: &Process) -> Arc<RolloutService> {
    Arc::new(RolloutService::new(process.rollouts.clone(), process.foundation(), process.gate()))
}

/// Looks at the nodes, and takes the steps of a rollout that no driver takes.
async fn attend(service: Arc<RolloutService>) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        service.attend().await;
    }
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

/// Records what must not be in a fleet, once for each node that it is about until it is over; or once, where it is about none of them.
async fn record_splits(mut splits: watch::Receiver<Vec<Split>>, audit: Arc<Audit>) {
    let mut known = BTreeSet::new();
    while splits.changed().await.is_ok() {
        let splits = splits.borrow_and_update().clone();
        let mut now = BTreeSet::new();
        for split in splits {
            let about = split.nodes.iter().copied().map(Some);
            let about = about.chain(split.nodes.is_empty().then_some(None));
            let nodes: BTreeSet<_> = about.map(|node| (split.kind, node)).collect();
            if !nodes.is_subset(&known) {
                audit.note(Event::FleetAlarm { code: split.kind.name(), reason: split.text });
            }
            now.extend(nodes);
        }
        known = now;
    }
}
