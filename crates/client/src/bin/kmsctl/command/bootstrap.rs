//! `kmsctl bootstrap`: new root keys, for the first KMS of a cluster.

use std::time::Duration;

use clap::Args;
use kms_client::proto::{BootstrapRequest, BootstrapResponse};

use crate::{
    exit::{Exit, Outcome},
    output::Terminal,
    target::{Operated, Service},
};

/// The KMS asks its policy, its guest agent and perhaps a collateral service.
const CALL_TIME: Duration = Duration::from_secs(120);

/// Arguments of `kmsctl bootstrap`.
#[derive(Args, Debug)]
pub(crate) struct Bootstrap {
    #[command(flatten)]
    kms: Operated,
    /// DNS name or IPv4 address under which CVMs will reach this KMS
    #[arg(long)]
    domain: String,
}

impl Bootstrap {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let connection = self.kms.connect(Service::Onboarding, terminal).await?;
        let progress = terminal.progress("the KMS makes its root keys");
        let request = BootstrapRequest { domain: self.domain };
        let keys: BootstrapResponse = connection.call(CALL_TIME, "Onboard.Bootstrap", &request).await?;
        drop(progress);
        terminal.show(&keys, |page| {
            page.field("key provider id", hex::encode(&keys.ca_pubkey));
            page.field("k256 public key", hex::encode(&keys.k256_pubkey));
            let attestation = match keys.attestation.len() {
                0 => "none: this KMS runs without a TEE".to_owned(),
                length => format!("{length} bytes over both keys (--json prints them)"),
            };
            page.field("attestation", attestation);
            page.line("");
            page.line("Apps pin the key provider id. Next: kmsctl finish, then kmsctl verify.");
        })?;
        Ok(Exit::Done)
    }
}
