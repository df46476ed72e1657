//! How evidence is verified, and where the evidence of this machine comes from.

use std::path::PathBuf;

use clap::Args;
use kms_attest::attester::Attester;
use kms_attest::collateral::{CacheOptions, Clock, CollateralCache};
use kms_attest::trust::TrustAnchors;
use kms_attest::verify::Verifier;

use crate::exit::{Failure, Outcome};
use crate::files;
use crate::output::Terminal;
use crate::target::Kms;

const MAX_ROOT_BYTES: usize = 64 << 10;
const MAX_VM_CONFIG_BYTES: usize = 1 << 20;

/// How quotes are verified.
#[derive(Args, Debug)]
pub(crate) struct Verification {
    /// Collateral service (PCCS); may be given more than once
    #[arg(
        long = "pccs",
        value_name = "URL",
        env = "KMS_PCCS_URL",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pccs: Vec<String>,
    /// Trust quotes under this root certificate (PEM or DER) INSTEAD of Intel's: for simulators only
    #[arg(long, value_name = "FILE")]
    dangerous_root: Option<PathBuf>,
}

impl Verification {
    /// The root certificate of all quotes.
    pub(crate) fn anchors(&self, terminal: &Terminal) -> Outcome<TrustAnchors> {
        let Some(path) = &self.dangerous_root else { return Ok(TrustAnchors::intel()) };
        let anchors = TrustAnchors::with_tdx_root(&files::read(path, MAX_ROOT_BYTES)?)
            .map_err(|error| Failure::usage(format_args!("{}: {error}", path.display())))?;
        if anchors.is_external() {
            terminal.warn("quotes are verified under a root that is not Intel's (--dangerous-root)");
        }
        Ok(anchors)
    }

    /// The source of collateral.
    pub(crate) fn collateral(&self, anchors: &TrustAnchors, clock: Clock) -> Outcome<CollateralCache> {
        let options = CacheOptions { clock, ..CacheOptions::default() };
        CollateralCache::new(&self.pccs, anchors, options)
            .map_err(|error| Failure::usage(format_args!("--pccs: {error}")))
    }

    /// A verifier for the current time.
    pub(crate) fn verifier(&self, terminal: &Terminal) -> Outcome<Verifier> {
        let anchors = self.anchors(terminal)?;
        let collateral = self.collateral(&anchors, Clock::system())?;
        Ok(Verifier::new(anchors, collateral))
    }
}

/// Adds which collateral services failed, and why.
pub(crate) fn explained(failure: Failure, verifier: &Verifier) -> Failure {
    let services = verifier.cache().service_failures();
    if services.is_empty() {
        return failure;
    }
    let told: Vec<String> = services.iter().map(ToString::to_string).collect();
    let details = serde_json::json!(&told);
    let failure = failure.hint(&format!("collateral services: {}", told.join("; ")));
    if failure.details.is_some() { failure } else { failure.with("collateral_services", details) }
}

/// Options of commands that prove this CVM to a KMS.
#[derive(Args, Debug)]
pub(crate) struct Guest {
    #[command(flatten)]
    pub(crate) kms: Kms,
    #[command(flatten)]
    pub(crate) evidence: OwnEvidence,
    #[command(flatten)]
    pub(crate) verification: Verification,
}

/// The CVM in which this program runs.
#[derive(Args, Debug)]
pub(crate) struct OwnEvidence {
    /// Guest agent (unix:PATH or http://HOST:PORT), or the kernel (configfs-tsm:EVENT-LOG)
    #[arg(
        long = "agent",
        value_name = "ADDRESS",
        env = "DSTACK_AGENT_ADDRESS",
        hide_env_values = true,
        default_value = "unix:/var/run/dstack.sock"
    )]
    agent: String,
    /// File with the vm_config to send; default: from the guest agent
    #[arg(long, value_name = "FILE")]
    vm_config: Option<PathBuf>,
}

impl OwnEvidence {
    pub(crate) fn attester(&self) -> Outcome<Attester> {
        Attester::at(&self.agent).map_err(|error| Failure::usage(format_args!("--agent: {error}")))
    }

    /// The description of this VM, JSON.
    pub(crate) async fn vm_config(&self, attester: &Attester) -> Outcome<String> {
        match &self.vm_config {
            Some(path) => Ok(files::read_text(path, MAX_VM_CONFIG_BYTES)?.trim().to_owned()),
            None => attester.vm_config().await.map_err(|error| {
                Failure::failed(format_args!("the guest agent gives no vm_config: {}", error.detailed()))
            }),
        }
    }
}
