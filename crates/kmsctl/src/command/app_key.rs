//! `kmsctl app-key`: what a guest does at boot: verifies a KMS, proves what runs here, receives the keys of
//! the app.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use kms_client::boot::{Deadlines, fetch_app_keys_at};
use kms_client::root_epochs::stated_epoch;
use kms_client::statement::{Signer, app_key_signer};
use kms_client::{AppKeys, Connection, Epochs, ServerAttestation, Trust, receipt};
use kms_ledger::proof_file::ProofFile;
use serde::Deserialize;
use serde_json::json;

use crate::app_keys_file::AppKeysFile;
use crate::exit::{self, Exit, Failure, Outcome};
use crate::files::{self, Existing, Readers};
use crate::input::{self, Hex};
use crate::output::{Terminal, Tone};
use crate::trust::{self, Guest};

/// The time limit for requesting the key of the log.
const RECEIPT_TIME: Duration = Duration::from_secs(30);
/// The length of the SubjectPublicKeyInfo of a P-256 key.
const SPKI_BYTES: usize = kms_attest::p256::SPKI_LENGTH;

#[derive(Args, Debug)]
pub(crate) struct AppKey {
    #[command(flatten)]
    guest: Guest,
    /// Public key of the root CA that the app requires (SubjectPublicKeyInfo DER, hex)
    #[arg(long, value_name = "HEX")]
    key_provider_id: Option<Hex<SPKI_BYTES>>,
    /// Epochs of the keys, for what is still encrypted with older ones [default: those of the app]
    #[arg(long, value_name = "ROOT[.APP]")]
    epoch: Option<Epochs>,
    /// Accept a server whose certificate carries no attestation, as guests of dstack do
    #[arg(long)]
    dangerous_unattested_server: bool,
    /// File for the keys, readable by its owner only; - is standard output
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Verify the receipt of the release and save it in this file (c2sp.org/tlog-proof)
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
    /// Overwrite the files
    #[arg(long)]
    force: bool,
    /// Time limit for the guest agent and all URLs together, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

impl AppKey {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let existing = if self.force { Existing::Replaced } else { Existing::Kept };
        let to_stdout = self.out == Path::new("-");
        if !to_stdout {
            files::check_writable(&self.out, existing)?;
        }
        if let Some(receipt) = &self.receipt {
            files::check_writable(receipt, existing)?;
        }
        let attester = self.guest.evidence.attester()?;
        let verifier = self.guest.verification.verifier(terminal)?;
        let server = if self.dangerous_unattested_server {
            terminal.warn("a server without attestation is accepted (--dangerous-unattested-server)");
            ServerAttestation::IfPresent(&verifier)
        } else {
            ServerAttestation::Required(&verifier)
        };
        let progress = terminal.progress("waiting for the guest agent");
        let altogether = Duration::from_secs(self.timeout);
        let deadline = Instant::now() + altogether;
        let vm_config = tokio::time::timeout(altogether, self.guest.evidence.vm_config(&attester));
        let vm_config = vm_config.await.unwrap_or_else(|_| {
            Err(Failure::failed(format_args!("the guest agent gives no vm_config within {} s", self.timeout)))
        })?;
        progress.now("verifying a KMS and proving this CVM to it");
        let pin = self.key_provider_id.as_ref().map(|Hex(spki)| &spki[..]);
        let altogether = deadline.saturating_duration_since(Instant::now());
        let per_kms = Deadlines::default().per_kms.min(altogether);
        let deadlines = Deadlines { per_kms, altogether };
        let urls = self.guest.kms.all();
        let keys = fetch_app_keys_at(self.epoch, deadlines, urls, &attester, server, &vm_config, pin)
            .await
            .map_err(|error| trust::explained(error.into(), &verifier))?;
        drop(progress);
        for attempt in &keys.failed {
            terminal.warn(format_args!("{}: {}", attempt.url, exit::attempt_text(&attempt.error)));
        }
        let file = AppKeysFile::from(&keys).to_json()?;
        if to_stdout {
            terminal.write(file.as_bytes())?;
        } else {
            files::write(&self.out, file.as_bytes(), Readers::Owner, existing)?;
        }
        // After the keys: if the receipt does not verify, the guest still has them, and the exit status says
        // so.
        if let Some(path) = &self.receipt {
            let proof = tokio::time::timeout(RECEIPT_TIME, proven(&keys)).await;
            let proof = proof
                .unwrap_or_else(|_| Err(Failure::failed("the KMS does not show the key of its log in time")));
            let proof = proof.map_err(|failure| failure.hint("the keys were received and kept"))?;
            files::write(path, proof.to_string().as_bytes(), Readers::Everyone, existing)?;
        }
        if !to_stdout {
            self.report(terminal, &keys)?;
        }
        Ok(Exit::Done)
    }

    /// Reports what was received, without the keys.
    fn report(&self, terminal: &Terminal, keys: &AppKeys) -> Outcome<()> {
        let app_id = keys.app_id.map(|id| id.to_string()).unwrap_or_default();
        let server = keys.server.as_ref().map(kms_attest::verify::Verified::tcb_status);
        let report = json!({
            "kms_url": keys.url.to_string(),
            "app_id": app_id,
            "key_provider_id": hex::encode(&keys.key_provider),
            "key_provider_pinned": self.key_provider_id.is_some(),
            "server_tcb_status": server,
            "epoch": keys.epochs().dotted(),
            "previous": keys.previous().into_iter().map(Epochs::dotted).collect::<Vec<_>>(),
            "gateway_app_id": keys.response.gateway_app_id,
            "os_image_hash": hex::encode(&keys.response.os_image_hash),
            "file": self.out.display().to_string(),
            "receipt": self.receipt.as_ref().map(|path| path.display().to_string()),
            "failed": exit::earlier_attempts(keys),
        });
        terminal.show(&report, |page| {
            let done = page.toned(Tone::Good, "keys received");
            page.line(format_args!("{done} from {}", keys.url));
            page.field("app", &app_id);
            page.field("key provider id", hex::encode(&keys.key_provider));
            page.field("server TCB status", server.unwrap_or("the server is not attested"));
            if keys.epochs() != Epochs::default() || !keys.previous().is_empty() {
                page.field("epoch", keys.epochs().dotted());
                let previous: Vec<String> = keys.previous().into_iter().map(Epochs::dotted).collect();
                page.field(
                    "older epochs",
                    if previous.is_empty() { "none".to_owned() } else { previous.join(", ") },
                );
            }
            page.field("file", self.out.display());
            if let Some(receipt) = &self.receipt {
                page.field("receipt", receipt.display());
            }
            if self.key_provider_id.is_none() {
                page.line("");
                page.line("The key provider was not pinned: relying parties must check its id.");
            }
        })
    }
}

/// The proof that this release is in the log of the KMS. The root key that signed the log's key must be the
/// one that signed the app's key, which came over the verified connection.
async fn proven(keys: &AppKeys) -> Outcome<ProofFile> {
    let unproven =
        |error: &dyn std::fmt::Display| Failure::unproven(format_args!("the receipt is not valid: {error}"));
    let response = &keys.response;
    let Some(receipt) = &response.receipt else {
        return Err(Failure::unproven("the KMS gave no receipt: it signs no log, or is of an older version"));
    };
    let app_id = keys.app_id.ok_or_else(|| Failure::unproven("the evidence of this CVM names no app"))?;
    let scalar =
        response.k256_key.as_slice().try_into().map_err(|_| unproven(&"the app's key is malformed"))?;
    let app_key = Signer::of_secret(scalar).map_err(|error| unproven(&error))?;
    let root =
        app_key_signer(app_id, &app_key, &response.k256_signature).map_err(|error| unproven(&error))?;
    let meta = Connection::open(&keys.url, Trust::RootCa(&response.ca_cert), None).await?.meta().await?;
    // Keys of a later root epoch are signed by its root key, which the root key of the log states.
    let root = match keys.epochs().root {
        0 => root,
        number => {
            let stated = stated_epoch(&meta, number).map_err(|error| unproven(&error))?;
            if stated.signer != root {
                return Err(unproven(&format_args!("root epoch {number} has another root key")));
            }
            stated.stated_by
        }
    };
    let proof = receipt::verify(receipt, &meta, &root).map_err(|error| unproven(&error))?;
    let record: Record = serde_json::from_slice(&receipt.entry).map_err(|error| unproven(&error))?;
    let recorded = record.epochs.as_deref().unwrap_or("0.0");
    let is_ours = record.app_id == app_id.to_string() && recorded == keys.epochs().dotted();
    if record.event != "app_key_released" || !is_ours {
        return Err(unproven(&"its record is about another release"));
    }
    Ok(proof)
}

/// The fields of a record that identify its release.
#[derive(Deserialize)]
struct Record {
    event: String,
    app_id: String,
    /// Absent for 0 and 0.
    #[serde(default)]
    epochs: Option<String>,
}

/// Reads the keys of an app, with the file's name in errors.
pub(crate) fn read_keys(path: &Path) -> Outcome<AppKeysFile> {
    AppKeysFile::read(path)
}

/// Adds the file's name to an error about a field.
pub(crate) fn field_of(path: &Path) -> impl Fn(String) -> Failure {
    move |problem| Failure::usage(format_args!("{}: {problem}", path.display()))
}

/// Parses `--app-id` for clap.
pub(crate) fn app_id_argument(text: &str) -> Result<kms_attest::identity::AppId, String> {
    input::app_id(text)
}
