//! The KMS of the demo: its configuration, its start in this process, and its onboarding through its own API.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use cvm_kms::app::{self, AppError, Running};
use cvm_kms::config::Config;
use kms_attest::{certificate, ra_tls};
use kms_client::proto::{AttestationInfoResponse, BootstrapRequest, BootstrapResponse};
use kms_client::{Connection, KmsUrl, Trust};

use crate::env::Env;
use crate::state::StateDir;

/// The time limit of the switch from onboarding to serving.
const SWITCH_TIME: Duration = Duration::from_secs(30);
/// The time for running requests when the sandbox ends.
const STOP_TIME: Duration = Duration::from_secs(10);

/// The key directory of a KMS, and its ports on 127.0.0.1.
pub(crate) struct Node {
    pub(crate) certs: PathBuf,
    pub(crate) port: u16,
    pub(crate) admin: Option<Admin>,
}

pub(crate) struct Admin {
    pub(crate) port: u16,
    pub(crate) token: String,
}

/// A KMS that runs in this process.
pub(crate) struct Kms {
    running: Running,
    address: SocketAddr,
}

impl Kms {
    /// Starts the KMS of the demo, and writes its configuration to the state directory.
    pub(crate) async fn start(state: &StateDir, env: &Env, node: &Node) -> Result<Self> {
        let text = configuration(state, env, node);
        state.write("kms.toml", &text)?;
        Self::with(&text).await
    }

    /// Starts a KMS without keys, for the user to onboard.
    pub(crate) async fn spare(state: &StateDir, env: &Env, certs: PathBuf) -> Result<Self> {
        Self::with(&configuration(state, env, &Node { certs, port: 0, admin: None })).await
    }

    async fn with(toml: &str) -> Result<Self> {
        let (config, _) = Config::from_toml(toml).context("the sandbox's own kms.toml")?;
        let running = app::start(config).await.map_err(|error| match error {
            AppError::Listen { address, source } => anyhow!(source).context(format!(
                "cannot listen on {address}; choose another port with --port or --admin-port"
            )),
            error => anyhow!(error).context("the KMS does not start"),
        })?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, running.address().port()));
        Ok(Self { running, address })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of its admin listener, once it serves keys.
    pub(crate) fn admin_address(&self) -> Result<SocketAddr> {
        self.running.admin_address().context("the KMS has no admin listener")
    }

    /// `https://127.0.0.1:<port>`
    pub(crate) fn base(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(crate) fn url(&self) -> KmsUrl {
        self.base().parse().expect("an address and a port make a URL")
    }

    /// The onboarding API of a KMS without keys, whose server is not authenticated yet.
    pub(crate) async fn onboarding(&self) -> Result<Onboarding> {
        let connection = Connection::open(&self.url(), Trust::DangerousAnyServer, None).await?;
        Ok(Onboarding { connection })
    }

    /// Waits until it serves keys under the root CA in the state directory.
    pub(crate) async fn serving(&mut self, state: &StateDir) -> Result<(Connection, String)> {
        let deadline = Instant::now() + SWITCH_TIME;
        loop {
            let attempt = self.reach(state).await;
            match attempt {
                Ok(reached) => return Ok(reached),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context("the KMS does not serve keys"));
                }
                Err(_) => {}
            }
            tokio::select! {
                ended = self.running.stopped() => {
                    ended?;
                    bail!("the KMS ended");
                }
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
    }

    async fn reach(&self, state: &StateDir) -> Result<(Connection, String)> {
        let path = state.root_ca();
        let root = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let connection = Connection::open(&self.url(), Trust::RootCa(&root), None).await?;
        let meta = connection.meta().await?;
        ensure!(meta.ca_cert == root, "GetMeta shows another root CA than {}", path.display());
        Ok((connection, root))
    }

    /// Waits for an unexpected end.
    pub(crate) async fn ended(&mut self) -> Result<()> {
        self.running.stopped().await?;
        bail!("the KMS ended")
    }

    /// Waits until an operator asks for a restart.
    pub(crate) fn restart_requested(&self) -> impl Future<Output = ()> + Send + use<> {
        self.running.restart_requested()
    }

    /// Lets running requests finish.
    pub(crate) async fn stop(self) {
        // An error at the end has no reader.
        let _ = tokio::time::timeout(STOP_TIME, self.running.stop()).await;
    }
}

/// The onboarding API.
pub(crate) struct Onboarding {
    connection: Connection,
}

impl Onboarding {
    pub(crate) async fn measurements(&self) -> Result<AttestationInfoResponse> {
        Ok(self.connection.call("Onboard.GetAttestationInfo", &()).await?)
    }

    pub(crate) async fn bootstrap(&self) -> Result<BootstrapResponse, kms_client::CallError> {
        let request = BootstrapRequest { domain: Ipv4Addr::LOCALHOST.to_string() };
        self.connection.call("Onboard.Bootstrap", &request).await
    }

    pub(crate) async fn finish(self) -> Result<()> {
        Ok(self.connection.call("Onboard.Finish", &()).await?)
    }
}

/// The public key of a certificate (SubjectPublicKeyInfo DER), by which clients identify a root CA.
pub(crate) fn public_key(certificate_pem: &str) -> Result<Vec<u8>> {
    Ok(ra_tls::spki_of(&certificate::der(certificate_pem)?)?)
}

fn configuration(state: &StateDir, env: &Env, node: &Node) -> String {
    let text = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let path = |path: std::path::PathBuf| text(&path.display().to_string());
    let admin = node.admin.as_ref().map_or_else(String::new, |Admin { port, token }| {
        let token = text(token);
        format!(
            "\n[core.admin]\nenabled = true\naddress = \"127.0.0.1\"\nport = {port}\nauth_token = {token}\nsupervised = true\n"
        )
    });
    format!(
        r#"# Written by kms-sandbox at each start.

[rpc]
address = "127.0.0.1"
port = {port}

[core]
cert_dir = {certs}
site_name = "kms-sandbox"

[core.attestation]
insecure_allow_external_trust_anchors = true  # the hardware is simulated

[core.attestation.urls]
pccs = {pccs}

[core.attestation.root_ca]
tdx = {root}

[core.attester]
type = "guest_agent"
address = {agent}

[core.image]
verify = false  # a simulated CVM boots no OS image
cache_dir = {images}

[core.auth_api]
type = "allowlist"

[core.auth_api.allowlist]
path = {policy}

[core.onboard]
address = "127.0.0.1"
port = {port}
{admin}"#,
        port = node.port,
        certs = path(node.certs.clone()),
        pccs = text(&env.pccs_url()),
        root = path(state.hardware_root()),
        agent = text(env.kms_agent()),
        images = path(state.images()),
        policy = path(state.policy()),
    )
}
