//! `kmsctl onboard`: has a new KMS receive the root keys of a running one.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kms_client::KmsUrl;
use kms_client::proto::{OnboardRequest, OnboardResponse};

use crate::exit::{Exit, Failure, Outcome};
use crate::input::Hex;
use crate::output::Terminal;
use crate::pin::Pin;
use crate::target::{Operated, Pinned, token_in};
use crate::trust::Verification;

/// Two connections to the source, evidence of both sides, two policies.
const CALL_TIME: Duration = Duration::from_secs(300);

#[derive(Args, Debug)]
pub(crate) struct Onboard {
    #[command(flatten)]
    kms: Operated,
    #[command(flatten)]
    verification: Verification,
    #[command(flatten)]
    pin: Pin,
    /// URL of a running KMS, as the new one reaches it
    #[arg(long, value_name = "URL")]
    source: KmsUrl,
    /// File with the token of an invitation (`kmsctl replica invite`), or of an operator of the running KMS: --source is then
    /// its admin listener; `-` for standard input
    #[arg(long, value_name = "FILE")]
    source_token_file: Option<PathBuf>,
    /// SHA-256 of the public key of the root CA: the new KMS takes no other root keys
    #[arg(long, value_name = "HEX")]
    source_root_sha256: Option<Hex<32>>,
    /// DNS name or IPv4 address under which CVMs will reach the new KMS
    #[arg(long)]
    domain: String,
}

impl Onboard {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let source_token = self.source_token_file.as_deref().map(token_in).transpose()?;
        let pinned =
            Pinned { pin: &self.pin, verification: &self.verification, source_token: source_token.as_ref() };
        let connection = self.kms.connect_pinned(pinned, terminal).await?;
        let progress = terminal.progress("the KMS verifies the source and receives its keys");
        let request = OnboardRequest {
            source_url: self.source.to_string(),
            domain: self.domain,
            source_token: source_token.map(|token| token.expose().to_owned()).unwrap_or_default(),
            source_root_sha256: self.source_root_sha256.map(|root| root.0.to_vec()).unwrap_or_default(),
        };
        let keys: OnboardResponse = match connection.call(CALL_TIME, "Onboard.Onboard", &request).await {
            Ok(keys) => keys,
            Err(error) => return Err(self.kms.failure(error).await),
        };
        drop(progress);
        if keys.k256_pubkey.is_empty() {
            return Err(Failure::failed("Onboard.Onboard: the response lacks k256_pubkey"));
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
