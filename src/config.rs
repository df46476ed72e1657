//! Configuration: reads layers into one typed `Config`, or reports all errors at once.

mod admin;
mod attestation;
mod bundle;
mod consistency;
mod domains;
mod effective;
mod ethereum;
mod events;
mod file;
mod hot;
mod image;
mod layers;
mod listeners;
mod notify;
mod oidc;
mod paths;
mod posture;
mod production;
mod profile;
mod reader;
mod sections;
mod state;
mod tcb;
mod traces;
mod values;
mod webhook;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kms_ledger::key::VerifyingKey;
use url::Url;

use crate::domain::{Domain, ReservedName};
pub use crate::os_image::{AcpiPins, LiteAttestation};

pub use admin::CredentialsError;
pub use attestation::{RequireFresh, VerifierError};
pub use domains::{DefaultEpoch, DomainRules, DomainSettings, Domains, MAX_DOMAIN_NAME};
pub use effective::{Effective, Presence, Shown, Source};
pub use events::{DenialStorm, Events};
pub use file::{FileError, read_file};
pub use hot::{Hot, HotKey, LogLevel};
pub use kms_attest::outgoing::Endpoint;
pub use kms_policy::settings::{
    AuthApi, BlockChoice, ClientFiles, DecisionKey, EmptyDevices, Ethereum, Secret, Webhook,
};
pub use kms_policy::{Relaxation, RelaxationCode, ReleaseStage};
pub use kms_wire::method::NAMES as METHODS;
pub use layers::{DEFAULTS, Setting, Sources};
pub use notify::{NotifyError, NotifyFilter, NotifyKey, NotifyTarget};
pub use oidc::Oidc;
pub use paths::{
    APP_EPOCHS, BEFORE_FLEET, COLLATERAL, COLLATERAL_BUNDLE, DOMAINS, DRAINS, FLEET, JOINS, KEY_FILES,
    NOTIFIED, POLICY_BUNDLES, RECOVERY, RUNTIME_SETTINGS, STAGED,
};
pub use posture::Posture;
pub use production::{UnsafeConfig, UnsafeSetting};
pub use profile::Profile;
pub use reader::{ConfigError, Finding, Notice};
pub use state::{Database, Postgres, PostgresError, State, WhenStale};
pub use tcb::{Grace, Tcb};
pub use traces::{Traces, TracesError};

/// The service's configuration; a field's path is the key's path.
pub struct Config {
    /// `profile`: whether unsafe settings stop the start.
    pub profile: Profile,
    /// `[rpc]`: the main listener.
    pub rpc: Rpc,
    /// `[core]`: everything else.
    pub core: Core,
    /// `[domains.NAME]`: parts of this KMS with keys of their own.
    pub domains: Domains,
    /// The files this configuration was read from, first to last; the compiled-in defaults are not listed.
    pub files: Vec<PathBuf>,
    /// Every key with its value and its source.
    pub effective: Vec<Effective>,
    /// Where it can be read again.
    pub origin: Origin,
    /// What the values show, whatever their section.
    values: production::Values,
}

/// Where a configuration can be read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In the files of these directories, and in the one of the command line.
    Files {
        /// As [`Sources::system`].
        system: PathBuf,
        /// As [`Sources::working`].
        working: PathBuf,
        /// As [`Sources::explicit`].
        explicit: Option<PathBuf>,
    },
    /// Nowhere: it was a text.
    Text,
}

impl Config {
    /// Reads the layers of this machine: the compiled-in defaults, `/etc/kms`, the working directory, then `explicit`.
    pub fn load(explicit: Option<&Path>) -> Result<(Self, Vec<Notice>), ConfigError> {
        let environment = |name: &str| std::env::var(name).ok();
        Self::from_sources(&Sources {
            system: Path::new("/etc/kms"),
            working: Path::new("."),
            explicit,
            environment: &environment,
        })
    }

    /// The keys that files set, as [`Config::load`] reads them.
    pub fn settings(explicit: Option<&Path>) -> Vec<Setting> {
        let sources = Sources {
            system: Path::new("/etc/kms"),
            working: Path::new("."),
            explicit,
            environment: &|_| None,
        };
        layers::settings(&layers::read(&sources))
    }

    /// [`Config::load`] with injected directories and environment.
    pub fn from_sources(sources: &Sources<'_>) -> Result<(Self, Vec<Notice>), ConfigError> {
        let (config, notices) = sections::read(layers::read(sources), sources.environment)?;
        let [system, working] = [sources.system, sources.working].map(Path::to_owned);
        let origin = Origin::Files { system, working, explicit: sources.explicit.map(Path::to_owned) };
        Ok((Self { origin, ..config }, notices))
    }

    /// Reads the files again that a configuration came from; `None` if it came from none.
    pub fn read_again(origin: &Origin) -> Option<Result<(Self, Vec<Notice>), ConfigError>> {
        let Origin::Files { system, working, explicit } = origin else { return None };
        let environment = |name: &str| std::env::var(name).ok();
        let explicit = explicit.as_deref();
        Some(Self::from_sources(&Sources { system, working, explicit, environment: &environment }))
    }

    /// The defaults with one TOML text over them and no environment, for tests and the sandbox.
    pub fn from_toml(text: &str) -> Result<(Self, Vec<Notice>), ConfigError> {
        sections::read(layers::from_toml(text), &|_| None)
    }
}

/// `[rpc]`
#[derive(Debug, Clone)]
pub struct Rpc {
    /// Address of the main listener.
    pub address: IpAddr,
    /// Port of the main listener; 0 lets the system choose.
    pub port: u16,
    /// The origins whose pages may read responses; serialized as browsers do.
    pub cors_origins: Vec<String>,
    /// `rpc.tls.mutual.mandatory`
    pub client_certificates: ClientCertificates,
    /// Body limits by method of the main listener.
    pub limits: BodyLimits,
}

/// Whether a TLS client must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Requested, not required: the default.
    Optional,
    /// Callers without one fail the handshake.
    Mandatory,
}

/// Largest request body in bytes by bare method name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BodyLimits(BTreeMap<String, usize>);

impl BodyLimits {
    /// The configured limit of a bare method name such as `SignCert`; `None` leaves the built-in one.
    pub fn of(&self, method: &str) -> Option<usize> {
        self.0.get(method).copied()
    }
}

/// `[core]`
pub struct Core {
    /// The key directory.
    pub cert_dir: PathBuf,
    /// Shown by `GetAttestationInfo`.
    pub site_name: String,
    /// Names and addresses of other replicas, and of a balancer in front of them, that no app's certificate may carry.
    pub reserved_domains: Vec<ReservedName>,
    /// This KMS must itself be allowed before it serves.
    pub enforce_self_authorization: bool,
    /// The server certificate carries evidence.
    pub attest_rpc_cert: bool,
    /// Release keys to AMD SEV-SNP machines.
    pub sev_snp_key_release: bool,
    /// Release keys to AWS Nitro TPM machines.
    pub aws_nitro_tpm_key_release: bool,
    /// Release keys to AWS Nitro enclaves.
    pub nitro_enclave_key_release: bool,
    /// At which stages of a guest its app's keys are released, unless the policy says it for the app.
    pub release_stage: ReleaseStage,
    /// SHA-256 of the token of the main listener's legacy `ClearImageCache`.
    pub admin_token_hash: Option<[u8; 32]>,
    /// Run without a TEE; then [`Core::attester`] is [`Attester::None`], and self-authorization and the attested
    /// server certificate are off.
    pub insecure_no_tee: bool,
    /// Tolerate a key directory that others can read.
    pub insecure_world_readable_keys: bool,
    /// `[core.attestation]`
    pub attestation: Attestation,
    /// `[core.attester]`
    pub attester: Attester,
    /// `[core.tcb]`
    pub tcb: Tcb,
    /// `[core.image]`
    pub image: Image,
    /// `[core.auth_api]`
    pub auth_api: AuthApi,
    /// `[core.onboard]`
    pub onboard: Onboard,
    /// `[core.admin]`
    pub admin: Admin,
    /// `[core.metrics]`
    pub metrics: Metrics,
    /// `[core.audit]`
    pub audit: Audit,
    /// `[core.ledger]`
    pub ledger: Ledger,
    /// `[core.events]`
    pub events: Events,
    /// `[[core.notify]]`
    pub notify: Vec<NotifyTarget>,
    /// `[core.traces]`
    pub traces: Traces,
    /// `[core.freeze]`
    pub freeze: Freeze,
    /// `core.state` and `[core.postgres]`
    pub state: State,
    /// `[core.limits]`
    pub limits: Limits,
}

/// `[core.attestation]`: how evidence of others is verified.
#[derive(Debug, Clone)]
pub struct Attestation {
    /// `offline`: no collateral service is ever asked.
    pub is_offline: bool,
    /// Collateral services for Intel TDX, tried in order; never empty.
    pub pccs: Vec<Endpoint>,
    /// Certificate service for AMD SEV-SNP.
    pub amd_kds: Endpoint,
    /// Replaces Intel's root; only with `insecure_allow_external_trust_anchors`.
    pub tdx_root: Option<PathBuf>,
    /// PEM: what a collateral service's certificate may lead to, or be, besides the public roots.
    pub ca_file: Option<PathBuf>,
    /// Who must bring fresh evidence.
    pub require_fresh: RequireFresh,
}

/// `[core.attester]`: where evidence of this KMS comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attester {
    /// The guest agent; `None` tries its usual sockets.
    GuestAgent {
        /// `unix:/path` or `http://host:port`, from the key or from `DSTACK_AGENT_ADDRESS`.
        address: Option<String>,
    },
    /// The kernel's TSM report files.
    ConfigfsTsm {
        /// File with the runtime events of this machine.
        event_log: PathBuf,
    },
    /// No TEE; only with `insecure_no_tee`.
    None,
}

/// `[core.image]`: OS images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Recompute the registers from the OS image.
    pub verify: bool,
    /// Contains `images/<hash>/` and `measurements/<hash>`.
    pub cache_dir: PathBuf,
    /// URL with the placeholder `{OS_IMAGE_HASH}`.
    pub download_url: String,
    /// `None` is `never`.
    pub download_timeout: Option<Duration>,
    /// Whether the registers may be recomputed from digests that come with the evidence.
    pub lite: LiteAttestation,
    /// A program that prints a VM's ACPI tables, in place of those that are computed: a path, or a name that is looked
    /// for in `PATH`.
    pub acpi_tables: Option<PathBuf>,
    /// By image hash: SHA-384 of the ACPI tables with which the image may run. Other images may run with any.
    pub acpi_digests: AcpiPins,
    /// PEM: what the image server's certificate may lead to, or be, besides the public roots.
    pub ca_file: Option<PathBuf>,
}

/// `[core.onboard]`
pub struct Onboard {
    /// Offer onboarding if there are no keys.
    pub enabled: bool,
    /// Bootstrap without interaction.
    pub auto_bootstrap_domain: Option<Domain>,
    /// Address of the onboarding listener.
    pub address: IpAddr,
    /// Port of the onboarding listener.
    pub port: u16,
    /// The token that methods which change state need.
    pub auth_token: Option<Secret>,
    /// Whether the main listener hands root keys over.
    pub public_handover: PublicHandover,
    /// Body limits by method of the onboarding listener.
    pub limits: BodyLimits,
}

/// `core.onboard.public_key_handover`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublicHandover {
    /// To attested replicas that policy allows, as the admin listener does.
    Enabled,
    /// Only through the admin listener, which also needs an operator's credentials.
    Disabled,
}

/// `[core.admin]`
pub struct Admin {
    /// Start the admin listener.
    pub enabled: bool,
    /// Address of the admin listener.
    pub address: IpAddr,
    /// Port of the admin listener.
    pub port: u16,
    /// From the key, else from `DSTACK_KMS_ADMIN_TOKEN`, else from `ADMIN_API_TOKEN`; trimmed, never empty.
    pub auth_token: Option<Secret>,
    /// bcrypt entries.
    pub htpasswd_file: Option<PathBuf>,
    /// Named credentials, already resolved to `<cert_dir>/credentials.json` where the key is empty.
    pub credentials_file: PathBuf,
    /// How many owners a change of an owner needs.
    pub approvals: OwnerRule,
    /// What waits for a second owner, already resolved to `<cert_dir>/approvals.json` where the key is empty.
    pub approvals_file: PathBuf,
    /// Operators who sign in with OpenID Connect.
    pub oidc: Option<Arc<Oidc>>,
    /// Serve without credentials.
    pub insecure_no_auth: bool,
    /// Serve plain HTTP beyond loopback.
    pub insecure_plain_http: bool,
    /// `core.admin.supervised`
    pub supervision: Supervision,
    /// HTTPS settings; `None` is plain HTTP.
    pub tls: Option<Arc<AdminTls>>,
    /// Body limits by method of the admin listener.
    pub limits: BodyLimits,
}

/// `core.admin.approvals` and `core.admin.approval_lifetime`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerRule {
    /// The owner who requests a change makes it.
    OneOwner,
    /// A second owner approves it within this time.
    TwoOwners {
        /// How long a request waits.
        lifetime: Duration,
    },
}

impl Admin {
    /// Whether others on the way can read requests and their credentials.
    pub fn is_exposed(&self) -> bool {
        self.enabled && self.tls.is_none() && !self.address.to_canonical().is_loopback()
    }
}

/// What happens when the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supervision {
    /// A supervisor starts it again.
    Restarts,
    /// Nothing, as far as is known.
    None,
}

/// `[core.admin.tls]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminTls {
    /// Private key, PEM.
    pub key: PathBuf,
    /// Certificates, PEM, the listener's own first.
    pub certs: PathBuf,
    /// What happens if the files are not there.
    pub missing_files: MissingFiles,
    /// Names and addresses in a certificate of ours; none: our domain and the address of the listener.
    pub hosts: Vec<ReservedName>,
}

/// `core.admin.tls.create_if_missing`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingFiles {
    /// They are created, with a certificate that our root CA issues.
    Created,
    /// This KMS does not serve.
    Refused,
}

/// `[core.metrics]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metrics {
    /// Serve `GET /metrics` on the main listener.
    pub enabled: bool,
}

/// `[core.audit]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// The audit file, already resolved to `<cert_dir>/audit.jsonl` where the key is empty.
    pub file: PathBuf,
    /// Bytes of its disk that are reserved for it; 0 reserves none.
    pub reserve: u64,
    /// What happens while it cannot be written.
    pub on_failure: AuditFailure,
}

/// `[core.ledger]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    /// A file of the audit log that is larger is closed.
    pub segment_size: u64,
    /// A file whose first record is older is closed; `None` for no age.
    pub segment_age: Option<Duration>,
    /// Whether closed files are compressed.
    pub compress: bool,
    /// `[core.ledger.witnesses]`
    pub witnesses: Witnesses,
}

/// `[core.ledger.witnesses]`: others that sign the checkpoints of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witnesses {
    /// All of them, each key once.
    pub list: Vec<Witness>,
    /// How many must have cosigned a release before the response is sent.
    pub require: usize,
    /// How long a release waits for them.
    pub max_wait: Duration,
}

/// A witness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// Its key: of type 04 or 06.
    pub key: VerifyingKey,
    /// Its submission prefix.
    pub url: Endpoint,
}

impl Witness {
    /// Where checkpoints are sent.
    pub fn add_checkpoint(&self) -> Url {
        let mut url = self.url.url().clone();
        url.set_path(&format!("{}/add-checkpoint", url.path().trim_end_matches('/')));
        url
    }
}

/// What happens while the audit log cannot be written. No key is released in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditFailure {
    /// Writing is retried until it succeeds.
    Retry,
    /// The process ends, so that its supervisor can act.
    Exit,
}

/// `[core.freeze]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freeze {
    /// The file that keeps freezes, already resolved to `<cert_dir>/frozen.json` where the key is empty.
    pub file: PathBuf,
}

/// A rate limit: the average per second and the largest burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Average per second.
    pub per_second: NonZeroU32,
    /// Largest burst.
    pub burst: NonZeroU32,
}

/// `[core.limits]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests per second of one address that has not proved what it runs.
    pub unauthenticated_per_second: NonZeroU32,
    /// The largest burst of them.
    pub unauthenticated_burst: NonZeroU32,
    /// What is released to one app, over all its instances.
    pub app: Rate,
    /// What is released to one instance of an app.
    pub instance: Rate,
    /// Open connections of one listener.
    pub max_connections: usize,
    /// Bytes that all requests together may hold; `None` is a tenth of the machine's memory.
    pub max_request_memory: Option<usize>,
    /// Timeout of a TLS handshake.
    pub handshake_timeout: Duration,
    /// Timeout of one request.
    pub request_timeout: Duration,
    /// Timeout of an idle connection.
    pub idle_timeout: Duration,
    /// Time that running requests have at shutdown.
    pub shutdown_grace: Duration,
}

#[cfg(test)]
mod tests;
