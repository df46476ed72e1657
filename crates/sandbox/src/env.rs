//! The machines: simulated TDX hardware, the CVM of the KMS, and their connections to the software.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use kms_attest::attester::Attester;
use kms_attest::collateral::{CacheOptions, CollateralCache};
use kms_attest::trust::TrustAnchors;
use kms_attest::verify::Verifier;
use kms_simulator::{
    CollateralSpec, Cvm, EarlySet, GuestAgent, KeyProvider, PccsServer, Platform, PlatformSpec, Stage,
    TcbLevel,
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::state::StateDir;

/// The compose file of the KMS's own CVM.
const KMS_COMPOSE: &str = concat!("kms-sandbox: cvm-kms ", env!("CARGO_PKG_VERSION"));

/// How long ago the TCB recovery of the early set was. The standard set follows six weeks after it.
const TCB_RECOVERY: Duration = Duration::from_secs(14 * 86_400);

/// The hardware and its servers.
pub(crate) struct Env {
    platform: Arc<Platform>,
    second: Arc<Platform>,
    pccs: PccsServer,
    kms_agent: GuestAgent,
    sockets: TempDir,
}

/// A machine that CVMs run on. The demo uses the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    First,
    Second,
}

/// A CVM with its guest agent's socket.
pub(crate) struct Machine {
    pub(crate) cvm: Arc<Cvm>,
    agent: GuestAgent,
}

impl Env {
    /// Starts the machines. What is derived from the seed is the same at every start.
    pub(crate) async fn start(state: &StateDir) -> Result<Self> {
        let seed = state.seed()?;
        let platform = Platform::from_seed(&seed);
        let second = Platform::new(&PlatformSpec {
            fmspc: *b"SIM\0\0\x02",
            ppid: [2; 16],
            ..PlatformSpec::from_seed(&seed)
        });
        state.write("simulated-root-ca.pem", platform.root_pem())?;
        let pccs = PccsServer::start_on(([127, 0, 0, 1], 0).into(), &platform, &[Arc::clone(&second)])
            .await
            .context("start the simulated collateral service")?;
        let recovery = SystemTime::now().duration_since(UNIX_EPOCH)?.saturating_sub(TCB_RECOVERY);
        pccs.set_early(EarlySet::Published(Box::new(CollateralSpec::after_tcb_recovery_of(
            recovery.as_secs(),
            TcbLevel::OutOfDate,
        ))));
        // Not in the state directory, because the path of a unix socket has at most 107 bytes.
        let sockets =
            tempfile::Builder::new().prefix("kms-sandbox-").tempdir().context("make a directory")?;
        let cvm = Cvm::builder(&platform)
            .compose_hash(Sha256::digest(KMS_COMPOSE).into())
            .key_provider(KeyProvider::LocalSgx(vec![0x51; 32]))
            .stage(Stage::Ready)
            .build();
        let socket = sockets.path().join("kms.sock");
        let kms_agent = GuestAgent::serve(&cvm, socket).await.context("start the KMS's guest agent")?;
        Ok(Self { platform, second, pccs, kms_agent, sockets })
    }

    pub(crate) fn platform(&self) -> &Platform {
        &self.platform
    }

    pub(crate) fn host(&self, host: Host) -> &Arc<Platform> {
        match host {
            Host::First => &self.platform,
            Host::Second => &self.second,
        }
    }

    pub(crate) fn pccs_url(&self) -> String {
        self.pccs.url()
    }

    /// The address of the KMS's guest agent.
    pub(crate) fn kms_agent(&self) -> &str {
        self.kms_agent.address()
    }

    /// Boots a CVM for an app, up to the request for its keys. `name` distinguishes its guest agent.
    pub(crate) async fn boot(&self, name: &str, compose: &str) -> Result<Machine> {
        let cvm = Cvm::builder(&self.platform).compose_hash(Sha256::digest(compose).into()).build();
        self.serve(name, cvm).await
    }

    /// Starts the guest agent of a CVM, which `name` distinguishes from the others.
    pub(crate) async fn serve(&self, name: &str, cvm: Arc<Cvm>) -> Result<Machine> {
        let socket: PathBuf = self.sockets.path().join(format!("{name}.sock"));
        let agent = GuestAgent::serve(&cvm, socket).await.context("start the app's guest agent")?;
        Ok(Machine { cvm, agent })
    }

    /// A directory that is removed at the end of this run.
    pub(crate) fn passing_directory(&self, name: &str) -> PathBuf {
        self.sockets.path().join(name)
    }

    /// A verifier that trusts the simulated hardware; each CVM has its own.
    pub(crate) fn verifier(&self) -> Result<Verifier> {
        let anchors = TrustAnchors::with_tdx_root(self.platform.root_der())?;
        let cache = CollateralCache::new(&[self.pccs.url()], &anchors, CacheOptions::default())?;
        Ok(Verifier::new(anchors, cache))
    }
}

impl Machine {
    pub(crate) fn agent_address(&self) -> &str {
        self.agent.address()
    }

    pub(crate) fn attester(&self) -> Result<Attester> {
        Ok(Attester::at(self.agent.address())?)
    }
}
