//! The machines: simulated TDX hardware, the CVM of the KMS, and their connections to the software.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use kms_attest::attester::Attester;
use kms_attest::collateral::{CacheOptions, CollateralCache};
use kms_attest::trust::TrustAnchors;
use kms_attest::verify::Verifier;
use kms_simulator::{Cvm, GuestAgent, KeyProvider, PccsServer, Platform, Stage};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::state::StateDir;

/// The compose file of the KMS's own CVM.
const KMS_COMPOSE: &str = concat!("kms-sandbox: cvm-kms ", env!("CARGO_PKG_VERSION"));

/// The hardware and its servers.
pub(crate) struct Env {
    platform: Arc<Platform>,
    pccs: PccsServer,
    kms_agent: GuestAgent,
    sockets: TempDir,
}

/// A CVM with its guest agent's socket.
pub(crate) struct Machine {
    pub(crate) cvm: Arc<Cvm>,
    agent: GuestAgent,
}

impl Env {
    /// Starts the machines. What is derived from the seed is the same at every start.
    pub(crate) async fn start(state: &StateDir) -> Result<Self> {
        let platform = Platform::from_seed(&state.seed()?);
        state.write("simulated-root-ca.pem", platform.root_pem())?;
        let pccs = PccsServer::start(&platform).await.context("start the simulated collateral service")?;
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
        Ok(Self { platform, pccs, kms_agent, sockets })
    }

    pub(crate) fn platform(&self) -> &Platform {
        &self.platform
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
