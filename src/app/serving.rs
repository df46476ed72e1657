//! The KMS phase: what it is made of, and what runs beside it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use kms_attest::collateral::{CacheStats, FloorKind};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::{
    AppError, admin_tls, bind,
    leaf::{self, AdminRenewal, Renewal},
    parts,
    shared::{Shared, started},
};
use crate::{
    admission::{self, Admission, TcbWatch, denials::Denials},
    api::{
        admin::{self, AdminService},
        kms::{self, KmsService},
        meta::Meta,
        quota::ReleaseLimit,
        readiness::{self, Readiness},
        setup::Switch,
    },
    ca,
    clock::unix_now,
    config,
    lifecycle::Ready,
    metrics::CollateralState,
    net::{
        self,
        listener::{Phase, PlainHttp},
        middleware::Middleware,
        tls::{self, ClientPolicy, Leaf},
    },
    operator::OperatorToken,
    os_image::ImageCache,
    policy::Shadow,
};

/// How often addresses that are quiet are forgotten, and gauges set.
const HOUSEKEEPING: Duration = Duration::from_secs(15);

/// Where the KMS phase gets its connections from.
pub(super) enum Listener {
    /// A listener of its own.
    Main(TcpListener),
    /// The one that onboarding used: it goes on accepting, into the next phase.
    Taken { phases: watch::Sender<Phase>, accepting: JoinHandle<()> },
}

impl Listener {
    pub(super) fn address(&self) -> Result<SocketAddr, AppError> {
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        match self {
            Self::Main(listener) => {
                listener.local_addr().map_err(|source| AppError::Listen { address: unknown, source })
            }
            Self::Taken { .. } => Ok(unknown),
        }
    }
}

/// The KMS phase, ready to be served.
pub(super) struct Serving {
    ready: Arc<Ready>,
    meta: Arc<Meta>,
    readiness: Arc<Readiness>,
    release_limit: Arc<ReleaseLimit>,
    leaf: Arc<Leaf>,
    admin: Arc<AdminService>,
    admin_tls: Option<AdminCertificate>,
    phase: Phase,
}

/// The certificate of the admin listener, and where it comes from.
struct AdminCertificate {
    source: admin_tls::Source,
    leaf: Arc<Leaf>,
}

impl AdminCertificate {
    /// What renews it; files of an operator's own, and what is the main listener's too, are not renewed here.
    fn renewed(&self) -> Option<AdminRenewal> {
        match &self.source {
            admin_tls::Source::Issued(own) => {
                Some(AdminRenewal { own: own.clone(), leaf: Arc::clone(&self.leaf) })
            }
            admin_tls::Source::Main | admin_tls::Source::Files(..) => None,
        }
    }
}

impl Serving {
    pub(super) async fn prepare(shared: &Shared, ready: Ready) -> Result<Self, AppError> {
        let core = &shared.config.core;
        let ready = Arc::new(ready);
        // Those of the peer and ours are from 1975. One of another tool says when it was made.
        for certificate in [ready.root_ca_pem(), ready.temp_ca_pem()] {
            shared.audit.floor().raise_by_record(ca::issued(certificate));
        }
        shared.self_authorization.prepare().await;
        let certificate = leaf::issue(shared, &ready).await?;
        let leaf = Leaf::new(vec![certificate], &ready.rpc_key_der())?;
        let clients = match shared.config.rpc.client_certificates {
            config::ClientCertificates::Optional => ClientPolicy::Optional,
            config::ClientCertificates::Mandatory => ClientPolicy::Mandatory,
        };
        let posture = shared.config.posture();
        let readiness = Arc::new(Readiness::serving(
            readiness::Sources {
                self_authorization: Arc::clone(&shared.self_authorization),
                policy: Arc::clone(&shared.policy),
                freezes: Arc::clone(&shared.freezes),
                verifier: Arc::clone(&shared.verifier),
                audit: Arc::clone(&shared.audit),
            },
            Arc::clone(&shared.metrics),
        ));
        let meta = Arc::new(Meta::new(
            &ready,
            Arc::clone(&shared.policy),
            posture,
            Arc::clone(&readiness),
            Arc::clone(&shared.metrics),
        ));
        let images = ImageCache::new(core.image.cache_dir.clone());
        let operator =
            core.admin_token_hash.map(OperatorToken::from_hash).or_else(|| parts::admin_token(core));
        let image = parts::image_check(core, &images, parts::download_recorder(&shared.audit))?;
        let (shadow, denials) = (Arc::<Shadow>::default(), Arc::<Denials>::default());
        let release_limit = Arc::new(ReleaseLimit::new(&shared.config.core.limits));
        let service = Arc::new(KmsService::new(kms::Parts {
            ready: Arc::clone(&ready),
            admission: Admission::new(admission::Parts {
                verifier: Arc::clone(&shared.verifier),
                policy: Arc::clone(&shared.policy),
                tolerance: Arc::clone(&shared.tolerance),
                shadow: Arc::clone(&shadow),
                image: image.clone(),
                release_stage: core.release_stage,
                freezes: Arc::clone(&shared.freezes),
                metrics: Arc::clone(&shared.metrics),
            }),
            policy: Arc::clone(&shared.policy),
            freezes: Arc::clone(&shared.freezes),
            denials: Arc::clone(&denials),
            self_authorization: Arc::clone(&shared.self_authorization),
            audit: Arc::clone(&shared.audit),
            meta: Arc::clone(&meta),
            metrics: Arc::clone(&shared.metrics),
            limit: Arc::clone(&release_limit),
            images: images.clone(),
            operator,
            public_handover: core.onboard.public_handover,
        }));
        let admin = Arc::new(AdminService::new(admin::Parts {
            images,
            verifier: Arc::clone(&shared.verifier),
            policy: Arc::clone(&shared.policy),
            tolerance: Arc::clone(&shared.tolerance),
            image,
            release_stage: core.release_stage,
            self_authorization: Arc::clone(&shared.self_authorization),
            freezes: Arc::clone(&shared.freezes),
            denials,
            shadow,
            empty_devices: parts::empty_devices(core),
            audit: Arc::clone(&shared.audit),
            kms: Arc::clone(&service),
        }));
        let admin_tls = match core.admin.tls.as_ref().filter(|_| core.admin.enabled) {
            Some(tls) => {
                let source = admin_tls::Source::find(tls, &shared.config, &ready)?;
                let leaf = source.leaf(&leaf, &ready, admin_tls::attester(shared)).await?;
                Some(AdminCertificate { source, leaf })
            }
            None => None,
        };
        let shown = core.metrics.enabled.then(|| Arc::clone(&shared.metrics));
        let router = net::kms(service, &shared.config.rpc.limits, shown, Arc::clone(&readiness));
        let front = Middleware::new(router, Arc::clone(&shared.memory), Arc::clone(&shared.metrics))
            .limited(Arc::clone(&shared.limit))
            .readable_by(&shared.config.rpc.cors_origins)
            .versioned();
        let phase = Phase {
            number: 1,
            tls: Some(tls::serving(Arc::clone(&leaf), &ready.temp_ca_der(), clients)?),
            plain: PlainHttp::Closed,
            front: Arc::new(front),
        };
        Ok(Self { ready, meta, readiness, release_limit, leaf, admin, admin_tls, phase })
    }

    pub(super) async fn bind_admin(&self, shared: &Shared) -> Result<Option<(TcpListener, Phase)>, AppError> {
        let admin = &shared.config.core.admin;
        let Some(credentials) = &shared.credentials else { return Ok(None) };
        let router = net::admin(Arc::clone(&self.admin), &admin.limits, Arc::clone(&self.readiness));
        let front = Middleware::new(router, Arc::clone(&shared.memory), Arc::clone(&shared.metrics))
            .limited(Arc::clone(&shared.limit))
            .guarded(Arc::clone(credentials), Arc::clone(&shared.audit));
        let (tls, plain) = match &self.admin_tls {
            // A replica shows its attested certificate; operators need none.
            Some(AdminCertificate { leaf, .. }) => {
                let tls = tls::serving(Arc::clone(leaf), &self.ready.temp_ca_der(), ClientPolicy::Optional)?;
                (Some(tls), PlainHttp::Closed)
            }
            None => (None, PlainHttp::Served),
        };
        let phase = Phase { number: 1, tls, plain, front: Arc::new(front) };
        let address = SocketAddr::new(admin.address, admin.port);
        let listener = bind(address).await?;
        let actual = listener.local_addr().map_err(|source| AppError::Listen { address, source })?;
        let _ = shared.admin_address.set(actual);
        Ok(Some((listener, phase)))
    }

    /// Serves until `stopping`, then lets running requests finish.
    pub(super) async fn live(
        self,
        shared: &Shared,
        listener: Listener,
        admin: Option<(TcpListener, Phase)>,
        mut stopping: watch::Receiver<bool>,
    ) -> Result<(), AppError> {
        let mut background = JoinSet::new();
        self.spawn_background(shared, &mut background);
        let mut phases = Vec::new();
        let mut accepting = Vec::new();
        let mut accept = |listener: TcpListener, phase: Phase| {
            let (sender, phase) = watch::channel(phase);
            accepting.push(tokio::spawn(shared.listen(listener, phase)));
            phases.push(sender);
        };
        if let Some((listener, phase)) = admin {
            accept(listener, phase);
        }
        match listener {
            Listener::Main(listener) => accept(listener, self.phase),
            Listener::Taken { phases: sender, accepting: running } => {
                sender.send_replace(self.phase);
                phases.push(sender);
                accepting.push(running);
            }
        }
        self.readiness.report();
        shared.switch.send_replace(Switch::Done);
        shared.audit.note(started("ready", &shared.posture));
        tracing::info!("serving keys");
        let _ = stopping.wait_for(|stop| *stop).await;
        drop(phases);
        for listener in accepting {
            let _ = listener.await;
        }
        background.shutdown().await;
        Ok(())
    }

    fn spawn_background(&self, shared: &Shared, background: &mut JoinSet<()>) {
        let self_authorization = Arc::clone(&shared.self_authorization);
        background.spawn(async move { self_authorization.keep_fresh().await });
        let readiness = Arc::clone(&self.readiness);
        background.spawn(async move { readiness.refresh_loop().await });
        let meta = Arc::clone(&self.meta);
        background.spawn(async move { meta.refresh_loop().await });
        let (limit, metrics, verifier) =
            (Arc::clone(&shared.limit), Arc::clone(&shared.metrics), Arc::clone(&shared.verifier));
        let freezes = Arc::clone(&shared.freezes);
        let release_limit = Arc::clone(&self.release_limit);
        let policy = Arc::clone(&shared.policy);
        let (audit, log) = (Arc::clone(&shared.audit), shared.log.clone());
        let mut reload = shared.reload.subscribe();
        background.spawn(async move {
            let mut tick = tokio::time::interval(HOUSEKEEPING);
            let _refresh = verifier.cache().spawn_refresh();
            loop {
                tokio::select! {
                    _ = tick.tick() => {}
                    // Asking an allowlist reads it again.
                    Ok(()) = reload.changed() => drop(policy.info().await),
                }
                limit.prune();
                release_limit.prune();
                freezes.count();
                metrics.set_audit_writable(audit.health().is_writing());
                let space = audit.space();
                metrics.set_audit_space(space.free, space.is_low);
                metrics.set_audit_damaged(audit.damaged_bytes());
                if let Some(log) = &log {
                    metrics.set_log_dropped(log.dropped());
                }
                let collateral = verifier.cache().stats();
                metrics.set_collateral(collateral_state(&collateral));
                if let Some(chain) = policy.chain_state() {
                    metrics.set_chain(chain);
                }
            }
        });
        if let Some(every) = shared.config.core.tcb.look_ahead {
            let watch = TcbWatch::new(
                Arc::clone(&shared.verifier),
                Arc::clone(&shared.tolerance),
                Arc::clone(&shared.metrics),
                every,
            );
            background.spawn(async move { watch.refresh_loop().await });
        }
        let renewal = Renewal {
            ready: Arc::clone(&self.ready),
            leaf: Arc::clone(&self.leaf),
            admin: self.admin_tls.as_ref().and_then(AdminCertificate::renewed),
            attester: shared.config.core.attest_rpc_cert.then(|| Arc::clone(&shared.attester)),
        };
        background.spawn(renewal.renew_loop(shared.reload.subscribe()));
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
    }
}
