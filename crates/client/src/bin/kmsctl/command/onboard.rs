//! `kmsctl onboard`: a new KMS receives the root keys of a running one.

use std::time::Duration;

use clap::Args;
use kms_client::{
    KmsUrl,
    proto::{OnboardRequest, OnboardResponse},
};

use crate::{
    exit::{Exit, Failure, Outcome},
    output::Terminal,
    target::{Operated, Service},
};

/// Two connections to the source, evidence of both sides, two policies.
const CALL_TIME: Duration = Duration::from_secs(300);

/// Arguments of `kmsctl onboard`.
#[derive(Args, Debug)]
pub(crate) struct Onboard {
    #[command(flatten)]
    kms: Operated,
    /// URL of a running KMS, as the new one reaches it
    #[arg(long, value_name = "URL")]
    source: KmsUrl,
    /// DNS name or IPv4 address under which CVMs will reach the new KMS
    #[arg(long)]
    domain: String,
}

impl Onboard {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let connection = self.kms.connect(Service::Onboarding, terminal).await?;
        let progress = terminal.progress("the KMS verifies the source and receives its keys");
        let request = OnboardRequest { source_url: self.source.to_string(), domain: self.domain };
        let keys: OnboardResponse = connection.call(CALL_TIME, "Onboard.Onboard", &request).await?;
        drop(progress);
        if keys.k256_pubkey.is_empty() {
            return Err(Failure::failed("Onboard.Onboard: the answer lacks k256_pubkey"));
        }
        terminal.show(&keys, |page| {
            page.field("k256 public key", hex::encode(&keys.k256_pubkey));
            page.line("");
            page.line(
                "Next: kmsctl finish, then kmsctl status with both URLs: they must hold the same keys.",
            );
        })?;
        Ok(Exit::Done)
    }
}
