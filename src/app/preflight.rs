//! What a start would do, without changing anything.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kms_attest::attester::{Attester, AttesterError};
use kms_attest::collateral::CacheStats;
use kms_attest::identity::DomainName;
use kms_policy::Policy;

use super::{AppError, admin_tls, process};
use crate::admission::ImageCheck;
use crate::audit::{self, AuditError};
use crate::clock::{ClockBehind, Floor, unix_now};
use crate::config::{APP_EPOCHS, Config, DOMAINS, DRAINS, JOINS, POLICY_BUNDLES, State, UnsafeSetting};
use crate::control::{
    AppEpochs, BundleKeeper, Domains, Drain, Freezes, Joins, KeeperError, NamedCredentials, WillMakeOwner,
};
use crate::events::Pipe;
use crate::lifecycle::{Node, Prospect};
use crate::net::oidc::{Bounds, Issuer, IssuerError};
use crate::notify;
use crate::operator::Credentials;
use crate::os_image::ImageCache;
use crate::state::CredentialFile;
use crate::state::shared::{self, DatabaseError};
use crate::store::{self, KeyDirectory, StoreError};
use crate::traces;

/// What a start would do.
#[derive(Debug)]
pub struct Preflight {
    /// Why it would be refused: every fault that can be known beforehand, so not a port in use.
    pub problems: Vec<AppError>,
    /// The state in which the node would start; `None` if the key directory is unusable.
    pub prospect: Option<Prospect>,
    /// The policy that would decide; `None` if it cannot be built.
    pub policy: Option<Policy>,
    /// Users of the admin listener with a slow password hash, which makes others wait, and its cost.
    pub slow_users: Vec<(String, u32)>,
    /// Whether a KMS is using the key directory now.
    pub is_running: bool,
    /// Why there would be no evidence of this machine, if it is needed. For an operator's terminal only.
    pub unattested: Option<String>,
    /// Why the issuer of operators' access tokens gives no keys.
    pub no_issuer: Option<IssuerError>,
    /// How far the clock is behind the last audit record, if that is too far: nothing would be released.
    pub clock_behind: Option<ClockBehind>,
    /// How many bytes at the end of the audit file are not records.
    pub damaged_log: u64,
    /// Whether it would make a credential of an owner, and print its token, because no other is configured.
    pub makes_owner: bool,
    /// What is kept of collateral; `None` if evidence cannot be verified at all.
    pub collateral: Option<CacheStats>,
    /// Why the database of the shared state cannot be used, or what a node would go on without; `None` if it was not asked.
    pub state: Option<Result<Option<&'static str>, DatabaseError>>,
    /// What `profile = "production"` refuses, whatever the profile is.
    pub unsafe_settings: Vec<UnsafeSetting>,
}

/// The time limit for the guest agent to respond.
const AGENT_TIME: Duration = Duration::from_secs(5);

impl Preflight {
    /// Builds what can be built from `config`.
    pub fn of(config: &Config) -> Self {
        let core = &config.core;
        let mut problems = Problems(Vec::new());
        let prospect = problems.note(prospect(config));
        let attester = problems.note(core.attester.build().map_err(AppError::from));
        problems.note(core.verifier(Floor::default()).map_err(AppError::from));
        let policy = problems.note(Policy::from_config(&core.auth_api).map_err(AppError::from));
        let of_domains = problems.note(process::domain_policies(&config.domains)).unwrap_or_default();
        let own = policy.iter().map(|policy| (&DomainName::DEFAULT, policy));
        let of_domains = of_domains.iter().map(|(name, policy)| (name, &**policy));
        for (name, policy) in own.chain(of_domains) {
            let bundles = core.cert_dir.join(POLICY_BUNDLES);
            let inspected = BundleKeeper::inspect(name.as_str(), policy, &bundles);
            problems.note(inspected.map_err(KeeperError::from).map_err(AppError::from));
        }
        let images = ImageCache::new(core.image.cache_dir.clone());
        problems
            .note(ImageCheck::from_config(&core.image, &images, Default::default()).map_err(AppError::from));
        if let Some(tls) = core.admin.tls.as_ref().filter(|_| core.admin.enabled) {
            problems.note(admin_tls::check(tls, config));
        }
        let credentials = problems.note(core.admin.credentials().map_err(AppError::from)).flatten();
        let mut makes_owner = false;
        if let Some(credentials) = &credentials {
            let file = CredentialFile::new(core.admin.credentials_file.clone(), &core.cert_dir)
                .beside(core.admin.htpasswd_file.as_deref());
            let inspected =
                problems.note(NamedCredentials::inspect(&file, credentials).map_err(AppError::from));
            makes_owner = inspected.is_some_and(|WillMakeOwner(makes)| makes);
        }
        let slow_users = credentials.iter().flat_map(Credentials::slow_users).collect();
        let is_running = store::is_occupied(&core.cert_dir);
        let log = problems.note(audit_log(&core.audit.file)).flatten();
        if log.is_some_and(|log| log.used == audit::Use::InUse) && !is_running {
            problems.0.push(AuditError::Locked { path: core.audit.file.clone() }.into());
        }
        let clock_behind = log.and_then(|log| {
            let floor = Floor::default();
            floor.raise_by_record(log.newest);
            floor.check(unix_now()).err()
        });
        let damaged_log = log.map_or(0, |log| log.damaged);
        problems.note(Freezes::inspect(core.freeze.file.clone()).map_err(AppError::from));
        problems.note(Domains::open(&config.domains, core.cert_dir.join(DOMAINS)).map_err(AppError::from));
        problems.note(AppEpochs::inspect(core.cert_dir.join(APP_EPOCHS)).map_err(AppError::from));
        problems.note(Joins::inspect(core.cert_dir.join(JOINS)).map_err(AppError::from));
        if matches!(core.state, State::Postgres(_)) {
            problems.note(Drain::inspect(core.cert_dir.join(DRAINS)).map_err(AppError::from));
        }
        if let Some(fifo) = &core.events.fifo {
            problems.note(Pipe::check(fifo).map_err(AppError::from));
        }
        problems.note(traces::check(&core.traces).map_err(AppError::from));
        for target in &core.notify {
            problems.note(notify::check(target).map_err(AppError::from));
        }
        let mut no_issuer = None;
        if let Some(oidc) = core.admin.oidc.as_ref().filter(|_| core.admin.enabled)
            && let Some(issuer) = problems.note(Issuer::new(oidc, Bounds::USUAL).map_err(AppError::from))
        {
            no_issuer = wait_for(async { issuer.check().await.err() }).flatten();
        }
        let state = match &core.state {
            State::Files => None,
            State::Postgres(settings) => wait_for(shared::examine(settings)),
        };
        let unattested = attester.and_then(|attester| unattested(&attester));
        Self {
            problems: problems.0,
            prospect,
            policy,
            slow_users,
            is_running,
            unattested,
            no_issuer,
            state,
            clock_behind,
            damaged_log,
            makes_owner,
            collateral: core.verifier_of_kept().ok().map(|verifier| verifier.cache().stats()),
            unsafe_settings: config.unsafe_settings(),
        }
    }
}

/// Makes a cheap request to the attester. Whether it can quote shows only when a quote is needed.
fn unattested(attester: &Attester) -> Option<String> {
    if matches!(attester, Attester::None) {
        return None;
    }
    match wait_for(async { tokio::time::timeout(AGENT_TIME, attester.vm_config()).await })? {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.detailed()),
        Err(_) => Some(AttesterError::Timeout.detailed()),
    }
}

/// What `work` comes to; `None` if there is no runtime for it.
fn wait_for<T: Send>(work: impl Future<Output = T> + Send) -> Option<T> {
    let wait = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        Some(runtime.block_on(work))
    };
    // On a thread of its own, because the caller may be inside a runtime.
    let done = std::thread::scope(|scope| scope.spawn(wait).join());
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

struct Problems(Vec<AppError>);

impl Problems {
    fn note<T>(&mut self, built: Result<T, AppError>) -> Option<T> {
        built.map_err(|problem| self.0.push(problem)).ok()
    }
}

fn prospect(config: &Config) -> Result<Prospect, AppError> {
    let core = &config.core;
    let directory = &core.cert_dir;
    let state = KeyDirectory::inspect(directory, core.into())?;
    let prospect = Node::foresee(state, core.onboard.auto_bootstrap_domain.clone(), SystemTime::now())?;
    if prospect == Prospect::Onboarding {
        if !core.onboard.enabled {
            return Err(AppError::NoKeys);
        }
        creatable(&directory.join("new")).map_err(|cause| StoreError::Io {
            doing: "create files in",
            path: directory.clone(),
            cause,
        })?;
    }
    Ok(prospect)
}

/// Inspects the existing audit file.
fn audit_log(path: &Path) -> Result<Option<audit::Inspected>, AppError> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(Some(audit::inspect(path)?)),
        Err(_) => match creatable(path) {
            Ok(()) => Ok(None),
            Err(source) => Err(AuditError::Open { path: path.to_owned(), source }.into()),
        },
    }
}

/// Whether a file could be created at `path`, with its missing directories.
fn creatable(path: &Path) -> io::Result<()> {
    use rustix::fs::{Access, access};
    let mut above = path.parent().map(Path::to_owned).unwrap_or_default();
    loop {
        if above.as_os_str().is_empty() {
            above = PathBuf::from(".");
        }
        match std::fs::metadata(&above) {
            Ok(found) if !found.is_dir() => return Err(io::ErrorKind::NotADirectory.into()),
            Ok(_) => return Ok(access(&above, Access::WRITE_OK | Access::EXEC_OK)?),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) => above = above.parent().map(Path::to_owned).unwrap_or_default(),
        }
    }
}
