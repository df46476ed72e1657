//! Background tasks of the KMS phase: refresh caches, set gauges, forget idle addresses, renew certificates.

use std::sync::Arc;
use std::time::Duration;

use kms_attest::collateral::{CacheStats, FloorKind};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::conditions;
use super::fleet;
use super::leaf::Renewal;
use super::process::Process;
use super::serving::Serving;
use crate::admission::{Foundation, TcbWatch};
use crate::api::reload::{ReloadService, Trigger};
use crate::audit::Event;
use crate::clock::unix_now;
use crate::metrics::CollateralState;

/// How often idle addresses are forgotten and gauges are set.
const HOUSEKEEPING: Duration = Duration::from_secs(15);

/// Runs until the returned set is shut down.
pub(super) fn spawn(process: &Process, serving: &Serving) -> JoinSet<()> {
    let mut background = JoinSet::new();
    let foundation = process.foundation();
    let self_authorization = Arc::clone(&foundation.self_authorization);
    background.spawn(async move { self_authorization.keep_fresh().await });
    let readiness = Arc::clone(&serving.readiness);
    background.spawn(async move { readiness.refresh_loop().await });
    background.spawn(Arc::clone(&serving.lost).look());
    let meta = Arc::clone(&serving.meta);
    background.spawn(async move { meta.refresh_loop().await });
    background.spawn(Arc::clone(&serving.attestation).refresh_loop());
    background.spawn(housekeeping(process, serving));
    let approvals = Arc::clone(&process.approvals);
    background.spawn(async move {
        let mut tick = tokio::time::interval(HOUSEKEEPING);
        loop {
            tick.tick().await;
            approvals.expire().await;
        }
    });
    let joins = Arc::clone(&foundation.joins);
    background.spawn(async move {
        let mut tick = tokio::time::interval(HOUSEKEEPING);
        loop {
            tick.tick().await;
            joins.expire().await;
        }
    });
    let latency = Arc::clone(&serving.latency);
    background.spawn(async move { latency.refresh_loop().await });
    let witnesses = &process.config.core.ledger.witnesses;
    if !witnesses.list.is_empty() {
        match foundation.audit.witness_loop(witnesses) {
            Ok(cosigning) => drop(background.spawn(cosigning)),
            Err(error) => tracing::error!(%error, "the witnesses cannot be used"),
        }
    }
    let mut forecast = None;
    let is_offline = foundation.verifier.cache().is_offline();
    if let Some(every) = process.config.core.tcb.look_ahead.filter(|_| !is_offline) {
        let Foundation { verifier, tolerance, metrics, .. } = &*foundation;
        let watch = TcbWatch::new(
            Arc::clone(verifier),
            Arc::clone(tolerance),
            Arc::clone(metrics),
            every,
            serving.forecast.clone(),
        );
        forecast = Some(watch.state());
        background.spawn(async move { watch.refresh_loop().await });
    }
    if !process.notifier.is_idle() {
        background.spawn(conditions::look_loop(process, serving, forecast));
    }
    fleet::spawn(process, serving, &mut background);
    background.spawn(Renewal::of(process, serving).renew_loop());
    background.spawn(reload_loop(serving.reload_service(process), process.reload.subscribe()));
    background
}

/// Reloads at each signal; those that come meanwhile count as one.
async fn reload_loop(service: ReloadService, mut reload: watch::Receiver<u64>) {
    // One that came before this phase counts too.
    if *reload.borrow() > 0 {
        reload.mark_changed();
    }
    while reload.changed().await.is_ok() {
        match service.reload(Trigger::Signal).await {
            Ok(_) => tracing::info!("reloaded"),
            Err(error) => tracing::error!(cause = error.chain(), "not reloaded: everything stays as it was"),
        }
    }
}

fn housekeeping(process: &Process, serving: &Serving) -> impl Future<Output = ()> + Send + use<> {
    let (foundation, limit, kms) = (process.foundation(), process.limit(), Arc::clone(&serving.kms));
    let (log, recovery) = (process.log.clone(), Arc::clone(&serving.recovery));
    let ready = Arc::clone(&serving.ready);
    async move {
        let Foundation { verifier, policy, freezes, audit, metrics, .. } = &*foundation;
        let mut tick = tokio::time::interval(HOUSEKEEPING);
        let _refresh = verifier.cache().spawn_refresh();
        loop {
            tick.tick().await;
            limit.prune();
            kms.prune();
            freezes.count();
            metrics.set_recovery(recovery.measured());
            let current = ready.current_epoch(unix_now()).0;
            metrics.set_epochs(ready.epochs().iter().map(|info| info.state.name()), current);
            metrics.set_audit_writable(audit.health().is_writing());
            let space = audit.space();
            metrics.set_audit_space(space.free, space.is_low);
            metrics.set_audit_damaged(audit.damaged_bytes());
            if let Some(log) = &log {
                metrics.set_log_dropped(log.dropped());
            }
            metrics.set_collateral(collateral_state(&verifier.cache().stats()));
            for refused in verifier.cache().take_refused() {
                let (source, reason) = (refused.source.name(), refused.reason);
                audit.note(Event::CollateralRefused { source, reason });
            }
            if let Some(chain) = policy.chain_state() {
                metrics.set_chain(chain);
            }
        }
    }
}

fn collateral_state(stats: &CacheStats) -> CollateralState {
    let now = unix_now();
    let expires = stats.entries.iter().map(|entry| entry.expires).min();
    CollateralState {
        entries: stats.entries.len() as u64,
        oldest_age: Duration::from_secs(stats.entries.iter().map(|entry| entry.age).max().unwrap_or(0)),
        expires_in: Duration::from_secs(expires.map_or(0, |expires| expires.saturating_sub(now))),
        fetches: stats.fetches,
        failures: stats.failures,
        refused_as_older: std::array::from_fn(|index| {
            (FloorKind::NAMES[index], stats.refused_as_older[index])
        }),
        floors_unsaved: stats.floors_unsaved,
        unsaved: stats.stored.unsaved,
        refused_files: stats.stored.refused.len() as u64,
    }
}
