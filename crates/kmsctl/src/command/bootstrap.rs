//! `kmsctl bootstrap`: makes new root keys, for the first KMS of a cluster.

use std::time::Duration;

use clap::Args;
use kms_attest::evidence::Evidence;
use kms_attest::verify::{Binding, VerifyError};
use kms_client::proto::{BootstrapRequest, BootstrapResponse};
use kms_client::statement::{Signer, bootstrap_report_data};
use kms_client::text::causes;

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Terminal, Tone};
use crate::pin::Pin;
use crate::target::{Operated, Pinned};
use crate::trust::{self, Verification};

/// The KMS calls its policy, its guest agent and perhaps a collateral service.
const CALL_TIME: Duration = Duration::from_secs(120);

/// For fetching collateral; without any the keys are shown as unverified.
const VERIFY_TIME: Duration = Duration::from_secs(30);

#[derive(Args, Debug)]
pub(crate) struct Bootstrap {
    #[command(flatten)]
    kms: Operated,
    #[command(flatten)]
    verification: Verification,
    #[command(flatten)]
    pin: Pin,
    /// DNS name or IPv4 address under which CVMs will reach this KMS
    #[arg(long)]
    domain: String,
}

impl Bootstrap {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let pinned = Pinned { pin: &self.pin, verification: &self.verification, source_token: None };
        let connection = self.kms.connect_pinned(pinned, terminal).await?;
        let progress = terminal.progress("the KMS makes its root keys");
        let request = BootstrapRequest { domain: self.domain.clone() };
        let keys: BootstrapResponse = match connection.call(CALL_TIME, "Onboard.Bootstrap", &request).await {
            Ok(keys) => keys,
            Err(error) => return Err(self.kms.failure(error).await),
        };
        progress.now("verifying the attestation of the keys");
        for (name, key) in [("ca_pubkey", &keys.ca_pubkey), ("k256_pubkey", &keys.k256_pubkey)] {
            if key.is_empty() {
                return Err(Failure::failed(format_args!("Onboard.Bootstrap: the response lacks {name}")));
            }
        }
        let doubt = self.doubt(&keys, terminal).await?;
        drop(progress);
        let mut report = serde_json::to_value(&keys).map_err(Failure::failed)?;
        report["verified"] = doubt.is_none().into();
        report["unverified_because"] = doubt.clone().into();
        if let Some(doubt) = &doubt {
            terminal.warn(format_args!("the keys are UNVERIFIED: {doubt}"));
        }
        terminal.show(&report, |page| {
            page.field("key provider id", hex::encode(&keys.ca_pubkey));
            page.field("k256 public key", hex::encode(&keys.k256_pubkey));
            let attestation = match keys.attestation.len() {
                0 => "none: this KMS runs without a TEE".to_owned(),
                length => format!("{length} bytes (--json prints them)"),
            };
            page.field("attestation", attestation);
            match &doubt {
                None => page.line(page.toned(Tone::Good, "verified: it covers both keys")),
                Some(doubt) => {
                    let word = page.toned(Tone::Bad, "UNVERIFIED");
                    page.line(format_args!(
                        "{word}: {doubt}. Pin nothing before kmsctl verify has proven it."
                    ));
                }
            }
            page.line("");
            page.line("Apps pin the key provider id. Next: kmsctl finish, then kmsctl verify.");
        })?;
        Ok(Exit::Done)
    }
    /// Why it is uncertain that a TEE made these keys. A statement about other keys is an error.
    async fn doubt(&self, keys: &BootstrapResponse, terminal: &Terminal) -> Outcome<Option<String>> {
        if keys.attestation.is_empty() {
            return Ok(Some("there is no attestation".to_owned()));
        }
        let k256 = match Signer::try_from(keys.k256_pubkey.as_slice()) {
            Ok(k256) => k256,
            Err(error) => return Ok(Some(format!("k256_pubkey: {error}"))),
        };
        let evidence = match Evidence::decode(&keys.attestation) {
            Ok(evidence) => evidence,
            Err(error) => return Ok(Some(format!("the attestation cannot be read: {error}"))),
        };
        let expected = bootstrap_report_data(&keys.ca_pubkey, &k256);
        let verifier = self.verification.verifier(terminal)?;
        let verifying = verifier.verify(&evidence, Binding::ReportData(&expected));
        match tokio::time::timeout(VERIFY_TIME, verifying).await {
            Ok(Ok(_)) => Ok(None),
            Ok(Err(VerifyError::ReportData | VerifyError::QuotedReportData)) => Err(Failure::unproven(
                "the attestation in the response covers other keys: they are not of this KMS",
            )),
            Ok(Err(error)) => {
                let failure = Failure::failed(causes(&error));
                Ok(Some(trust::explained(failure, &verifier).message))
            }
            Err(_) => {
                let failure =
                    Failure::failed(format_args!("no collateral within {} s", VERIFY_TIME.as_secs()));
                Ok(Some(trust::explained(failure, &verifier).message))
            }
        }
    }
}
