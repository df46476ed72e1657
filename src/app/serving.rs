//! The KMS phase, which serves keys.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::admin_tls::AdminCertificate;
use super::leaf::Renewal;
use super::process::{Process, bind};
use super::{AppError, background, fleet, leaf};
use crate::admission::{Foundation, TcbWarning};
use crate::api::actions::ActionService;
use crate::api::admin::AdminService;
use crate::api::approvals::{ApprovalService, Makers};
use crate::api::attestation::{AttestationService, Maker};
use crate::api::credentials::CredentialService;
use crate::api::diagnostics::DiagnosticsService;
use crate::api::domains::DomainService;
use crate::api::epochs::{EpochService, LostEpochs};
use crate::api::events::EventService;
use crate::api::fleet::FleetService;
use crate::api::health::HealthService;
use crate::api::joins::JoinService;
use crate::api::kms::KmsService;
use crate::api::me::MeService;
use crate::api::meta::Meta;
use crate::api::operations::OperationService;
use crate::api::policy::{BundleService, PolicyService};
use crate::api::readiness::Readiness;
use crate::api::recovery::RecoveryService;
use crate::api::reload::ReloadService;
use crate::api::restart::RestartService;
use crate::api::rollout::RolloutService;
use crate::api::settings::SettingsService;
use crate::api::setup::Switch;
use crate::api::uploads::{CollateralFile, HtpasswdFile, UploadService};
use crate::api::views::{LatencyLog, ServedCertificate, Sources, Views};
use crate::ca;
use crate::clock::unix;
use crate::config::{COLLATERAL_BUNDLE, RECOVERY};
use crate::control::{NamedCredentials, Opened, RecoverySets};
use crate::domain::ReservedName;
use crate::lifecycle::Ready;
use crate::net::listener::{Phase, PlainHttp};
use crate::net::middleware::Middleware;
use crate::net::oidc::{Bounds, Issuer};
use crate::net::tls::{self, ClientPolicy, Leaf};
use crate::net::{self, AdminServices, KmsServices, OwnNames, SignIn};
use crate::operator::Credentials;
use crate::state::{CredentialFile, RecoveryFile};

/// The main listener of the KMS phase.
pub(super) enum MainListener {
    Bound(TcpListener),
    /// The one of onboarding, which continues into the next phase.
    Inherited {
        phases: watch::Sender<Phase>,
        accepting: JoinHandle<()>,
    },
}

/// The KMS phase, prepared.
pub(super) struct Serving {
    pub(super) ready: Arc<Ready>,
    pub(super) meta: Arc<Meta>,
    pub(super) readiness: Arc<Readiness>,
    health: Arc<HealthService>,
    pub(super) kms: Arc<KmsService>,
    pub(super) leaf: Arc<Leaf>,
    pub(super) admin_certificate: Option<AdminCertificate>,
    pub(super) latency: Arc<LatencyLog>,
    pub(super) forecast: watch::Sender<Vec<TcbWarning>>,
    admin: Arc<AdminService>,
    settings: Arc<SettingsService>,
    collateral: Arc<CollateralFile>,
    pub(super) recovery: Arc<RecoveryService>,
    pub(super) lost: Arc<LostEpochs>,
    pub(super) attestation: Arc<AttestationService>,
    /// The named credentials, where there is an admin listener that needs some.
    pub(super) named: OnceLock<Arc<NamedCredentials>>,
    /// Starts, drives and shows rollouts: one service, so that what it learns as it looks after one is shown.
    pub(super) rollout: Arc<RolloutService>,
    phase: Phase,
}

/// The named credentials. At the first start without any other, one is made, and its token is printed: it is kept nowhere.
async fn named_credentials(
    process: &Process,
    credentials: &Arc<Credentials>,
    named: &OnceLock<Arc<NamedCredentials>>,
) -> Result<Option<Arc<CredentialService>>, AppError> {
    let (core, audit) = (&process.config.core, process.audit());
    let file = CredentialFile::new(core.admin.credentials_file.clone(), &core.cert_dir)
        .beside(core.admin.htpasswd_file.as_deref());
    let opened = NamedCredentials::open(file, Arc::clone(credentials), &audit, |token| {
        let mut terminal = io::stdout();
        let text = format!("credential of an owner, shown only now: {token}\n");
        terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush())
    });
    let Some(Opened { credentials, made }) = opened.await? else { return Ok(None) };
    let credentials = match &process.shared {
        Some(shared) => credentials.shared(Arc::clone(shared)),
        None => credentials,
    };
    if let Some(name) = made {
        tracing::warn!(
            %name,
            "a credential of an owner was made, and its token printed to standard output; rotate it if others can read that"
        );
    }
    let credentials = Arc::new(credentials);
    tokio::spawn(NamedCredentials::settle_loop(Arc::downgrade(&credentials), Arc::downgrade(&audit)));
    let _ = named.set(Arc::clone(&credentials));
    Ok(Some(Arc::new(CredentialService::new(
        credentials,
        Arc::clone(&process.foundation().domains),
        audit,
        process.gate(),
    ))))
}

impl Serving {
    pub(super) async fn prepare(process: &Process, ready: Ready) -> Result<Self, AppError> {
        let (rpc, core, foundation) = (&process.config.rpc, &process.config.core, process.foundation());
        let Foundation { audit, self_authorization, metrics, .. } = &*foundation;
        let ready = Arc::new(ready);
        // Certificates of the peer and ours are dated 1975. One of another tool says when it was made.
        for certificate in [ready.root_ca_pem(), ready.temp_ca_pem()] {
            audit.floor().raise_by_record(ca::issued(certificate));
        }
        audit.sign_with(Arc::<Ready>::clone(&ready)).await;
        let attester = process.certificate_attester();
        let collateral = CollateralFile::new(Arc::clone(&foundation.verifier), process.audit());
        let collateral = Arc::new(collateral);
        Arc::clone(&collateral).take_over(core.cert_dir.join(COLLATERAL_BUNDLE)).await;
        // Concurrently, because one waits for the network, the other for the disk, and both for the attester.
        let issued = leaf::issue(attester.as_deref(), &ready);
        let ((), certificate) = tokio::join!(self_authorization.prepare(), issued);
        let certificate = certificate?;
        let leaf = Leaf::new(vec![certificate], &ready.rpc_key_der())?;
        let sets = Arc::new(RecoverySets::open(RecoveryFile::new(core.cert_dir.join(RECOVERY))));
        let recovery =
            RecoveryService::new(Arc::clone(&foundation), Arc::clone(&ready), sets, process.gate());
        let recovery = Arc::new(recovery);
        let lost = LostEpochs::new(process.audit(), Arc::clone(&process.events), Arc::clone(&ready));
        let lost = Arc::new(lost);
        let readiness = Readiness::serving(Arc::clone(&foundation), Arc::clone(&recovery), Arc::clone(&lost));
        let readiness = Arc::new(readiness);
        let meta = Arc::new(Meta::new(
            Arc::clone(&ready),
            &foundation,
            process.config.posture(),
            core.attestation.require_fresh,
            Arc::clone(&readiness),
        ));
        let kms = KmsService::new(core, Arc::clone(&foundation), Arc::clone(&ready), Arc::clone(&meta));
        let kms = Arc::new(kms);
        let settings = Arc::new(process.settings(Arc::clone(&kms)));
        let admin = Arc::new(AdminService::new(core, Arc::clone(&kms), process.gate()));
        let admin_certificate =
            AdminCertificate::find(&process.config, &leaf, &ready, attester.as_deref()).await?;
        let shown = core.metrics.enabled.then(|| Arc::clone(metrics));
        let health = Arc::new(HealthService::new(Arc::clone(&readiness), process.boot()));
        let (facts, keys) = (Arc::clone(&foundation), Arc::clone(&ready));
        let maker = Maker::new(facts, keys, Arc::clone(&meta), rpc.port, kms.own_seal());
        let attestation = Arc::new(AttestationService::new(maker));
        let services = KmsServices {
            kms: Arc::clone(&kms),
            metrics: shown,
            health: Arc::clone(&health),
            audit: Arc::clone(audit),
            recovery: Arc::clone(&recovery),
            attestation: Arc::clone(&attestation),
        };
        let router = net::kms(services, &rpc.limits);
        let middleware = Middleware::new(router, process.memory(), process.metrics())
            .shared_by(Arc::clone(&foundation.domains), process.config.core.limits.max_connections)
            .watched()
            .traced(process.tracer.clone())
            .limited(process.limit())
            .readable_by(&rpc.cors_origins)
            .versioned();
        let phase = Phase {
            number: 1,
            tls: Some(tls::serving(Arc::clone(&leaf), &ready.temp_ca_der(), rpc.client_certificates.into())?),
            plain: PlainHttp::Closed,
            middleware: Arc::new(middleware),
        };
        let latency = Arc::new(LatencyLog::new(Arc::clone(metrics)));
        let forecast = watch::Sender::default();
        Ok(Self {
            ready,
            meta,
            readiness,
            health,
            kms,
            leaf,
            admin_certificate,
            latency,
            forecast,
            admin,
            settings,
            collateral,
            recovery,
            lost,
            attestation,
            named: OnceLock::new(),
            rollout: fleet::rollout_service(process),
            phase,
        })
    }

    /// Reloads what can be reloaded.
    pub(super) fn reload_service(&self, process: &Process) -> ReloadService {
        let foundation = process.foundation();
        let (policy, audit) = (Arc::clone(&foundation.policy), process.audit());
        ReloadService::new(Arc::clone(&self.settings), policy, Arc::new(Renewal::of(process, self)), audit)
    }

    pub(super) async fn bind_admin(
        &self,
        process: &Process,
    ) -> Result<Option<(TcpListener, Phase)>, AppError> {
        let admin = &process.config.core.admin;
        let Some(credentials) = &process.credentials else { return Ok(None) };
        let events = EventService::new(
            Arc::clone(&process.events),
            Arc::clone(&process.reports),
            Arc::clone(&process.foundation().domains),
        );
        let events = Arc::new(events);
        let certificates = Arc::new(Renewal::of(process, self));
        let actions = ActionService::new(
            Arc::clone(&self.admin),
            Arc::clone(&self.ready),
            certificates,
            Arc::clone(&self.recovery),
        );
        let core = &process.config.core;
        let policy = PolicyService::new(core, Arc::clone(&self.kms), Arc::clone(&self.admin));
        let policy = Arc::new(policy);
        let foundation = process.foundation();
        let bundles = process.bundles.iter().map(|keeper| {
            let policy = keeper.domain().parse().map(|domain| foundation.policy_of(&domain));
            (Arc::clone(keeper), Arc::clone(policy.unwrap_or(&foundation.policy)))
        });
        let bundles =
            Arc::new(BundleService::new(bundles.collect(), process.shared.clone(), Arc::clone(&self.admin)));
        let credentials_service = named_credentials(process, credentials, &self.named).await?;
        let htpasswd = Arc::new(HtpasswdFile::new(
            admin.htpasswd_file.clone(),
            Arc::clone(credentials),
            process.gate(),
            process.audit(),
        ));
        let epochs = Arc::new(EpochService::new(
            core,
            process.foundation(),
            Arc::clone(&self.ready),
            process.gate(),
            Arc::clone(&events),
            Arc::clone(&self.lost),
        ));
        let domains = Arc::new(DomainService::new(
            process.foundation(),
            Arc::clone(&self.ready),
            process.gate(),
            Arc::clone(&events),
        ));
        let fleet = FleetService::new(
            process.shared.clone(),
            process.foundation(),
            Arc::clone(&self.readiness),
            process.gate(),
        );
        let fleet = Arc::new(fleet);
        let rollout = Arc::clone(&self.rollout);
        let joins =
            JoinService::new(&process.config, process.foundation(), Arc::clone(&self.ready), process.gate());
        let joins = Arc::new(joins);
        let makers = Makers {
            joins: Arc::clone(&joins),
            fleet: Arc::clone(&fleet),
            rollout: Arc::clone(&rollout),
            epochs: Arc::clone(&epochs),
            domains: Arc::clone(&domains),
            htpasswd: Arc::clone(&htpasswd),
            admin: Arc::clone(&self.admin),
            policy: Arc::clone(&policy),
            bundles: Arc::clone(&bundles),
            recovery: Arc::clone(&self.recovery),
            credentials: credentials_service.clone(),
        };
        let services = AdminServices {
            admin: Arc::clone(&self.admin),
            views: Arc::new(self.views(process, Arc::clone(&events), credentials_service.clone())),
            events,
            health: Arc::clone(&self.health),
            audit: process.audit(),
            me: Arc::new(MeService::new(Arc::clone(credentials), process.boot_id.clone())),
            diagnostics: Arc::new(DiagnosticsService::new(process.foundation())),
            actions: Arc::new(actions),
            uploads: Arc::new(UploadService::new(
                Arc::clone(&policy),
                Arc::clone(&htpasswd),
                Arc::clone(&self.collateral),
            )),
            policy,
            bundles,
            settings: Arc::clone(&self.settings),
            reload: Arc::new(self.reload_service(process)),
            restart: Arc::new(RestartService::new(
                Arc::clone(&self.admin),
                admin.supervision,
                process.boot(),
                process.restart.clone(),
            )),
            epochs,
            domains,
            fleet,
            operations: OperationService::new(Arc::clone(&joins), Arc::clone(&rollout)),
            rollout,
            joins,
            recovery: Arc::clone(&self.recovery),
            approvals: Arc::new(ApprovalService::new(Arc::clone(&process.approvals), makers)),
            credentials: credentials_service,
        };
        let router = net::admin(services, &admin.limits);
        let sign_in = match **credentials {
            Credentials::NoneNeeded => SignIn::NotNeeded,
            Credentials::Needed { .. } => SignIn::Required,
        };
        let router = router.merge(net::console(sign_in));
        let reserved = core.reserved_names();
        let names = reserved.iter().map(ReservedName::as_str).chain([self.ready.domain().as_str()]);
        let names = OwnNames::new(names);
        let issuer = admin.oidc.as_ref().map(|oidc| Issuer::new(oidc, Bounds::USUAL)).transpose()?;
        let issuer = issuer.map(Arc::new);
        let middleware = Middleware::new(router, process.memory(), process.metrics())
            .traced(process.tracer.clone())
            .limited(process.limit())
            .guarded(
                Arc::clone(credentials),
                Arc::clone(&process.foundation().domains),
                names,
                process.audit(),
            )
            .trusting(issuer)
            .sharing(process.shared.as_ref().map(|shared| Arc::clone(shared.view())));
        let (tls, plain) = match &self.admin_certificate {
            // Client certificates are optional: a replica shows its attested one, operators have none.
            Some(AdminCertificate { leaf, .. }) => {
                let tls = tls::serving(Arc::clone(leaf), &self.ready.temp_ca_der(), ClientPolicy::Optional)?;
                (Some(tls), PlainHttp::Closed)
            }
            None => (None, PlainHttp::Served),
        };
        let phase = Phase { number: 1, tls, plain, middleware: Arc::new(middleware) };
        let address = SocketAddr::new(admin.address, admin.port);
        let listener = bind(address).await?;
        let actual = listener.local_addr().map_err(|source| AppError::Listen { address, source })?;
        let _ = process.admin_address.set(actual);
        Ok(Some((listener, phase)))
    }

    fn views(
        &self,
        process: &Process,
        events: Arc<EventService>,
        credentials: Option<Arc<CredentialService>>,
    ) -> Views {
        let leaf: Arc<dyn ServedCertificate> = Arc::<Leaf>::clone(&self.leaf);
        let of_admin = self.admin_certificate.as_ref().map(|certificate| Arc::clone(&certificate.leaf));
        let of_admin = of_admin.map(|leaf| ("admin", leaf as Arc<dyn ServedCertificate>));
        Views::new(Sources {
            events,
            admin: Arc::clone(&self.admin),
            kms: Arc::clone(&self.kms),
            ready: Arc::clone(&self.ready),
            readiness: Arc::clone(&self.readiness),
            settings: Arc::clone(&self.settings),
            meta: Arc::clone(&self.meta),
            credentials,
            latency: Arc::clone(&self.latency),
            certificates: [("main", leaf)].into_iter().chain(of_admin).collect(),
            forecast: self.forecast.subscribe(),
            log: process.config.core.audit.file.clone(),
            required_witnesses: process.config.core.ledger.witnesses.require,
            profile: process.config.profile,
            boot_id: process.boot_id.clone(),
            started: unix(process.started),
        })
    }

    /// Serves until the process is stopped, then lets running requests finish.
    pub(super) async fn live(
        self,
        process: &Process,
        listener: MainListener,
        admin: Option<(TcpListener, Phase)>,
    ) -> Result<(), AppError> {
        let mut background = background::spawn(process, &self);
        let mut phases = Vec::new();
        let mut accepting = Vec::new();
        let mut accept = |listener: TcpListener, phase: Phase| {
            let (sender, phase) = watch::channel(phase);
            accepting.push(tokio::spawn(process.listen(listener, phase)));
            phases.push(sender);
        };
        if let Some((listener, phase)) = admin {
            accept(listener, phase);
        }
        match listener {
            MainListener::Bound(listener) => accept(listener, self.phase),
            MainListener::Inherited { phases: sender, accepting: running } => {
                sender.send_replace(self.phase);
                phases.push(sender);
                accepting.push(running);
            }
        }
        self.readiness.report();
        process.switch.send_replace(Switch::Done);
        process.note_start("ready");
        tracing::info!("serving keys");
        process.stopping().await;
        process.events.end_streams();
        drop(phases);
        for listener in accepting {
            let _ = listener.await;
        }
        background.shutdown().await;
        Ok(())
    }
}
