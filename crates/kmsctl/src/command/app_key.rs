//! `kmsctl app-key`: what a guest does at boot. Verify a KMS, prove what runs here, receive the keys of the app.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use kms_client::{AppKeys, ServerAttestation, boot::Deadlines, boot::fetch_app_keys_within};
use serde_json::json;

use crate::{
    app_keys_file::AppKeysFile,
    exit::{self, Exit, Failure, Outcome},
    files::{self, Existing, Readers},
    input::{self, Hex},
    output::{Terminal, Tone},
    trust::{self, Guest},
};

/// SubjectPublicKeyInfo of a P-256 key.
const SPKI_BYTES: usize = kms_attest::p256::SPKI_LENGTH;

/// Arguments of `kmsctl app-key`.
#[derive(Args, Debug)]
pub(crate) struct AppKey {
    #[command(flatten)]
    guest: Guest,
    /// Public key of the root CA that the app insists on (SubjectPublicKeyInfo DER, hex)
    #[arg(long, value_name = "HEX")]
    key_provider_id: Option<Hex<SPKI_BYTES>>,
    /// Accept a server whose certificate carries no attestation, as guests of dstack do
    #[arg(long)]
    dangerous_unattested_server: bool,
    /// File for the keys, readable by its owner only; - is standard output
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Overwrite the file
    #[arg(long)]
    force: bool,
    /// How long the guest agent and all URLs together may take, in seconds
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
        let attester = self.guest.evidence.attester()?;
        let verifier = self.guest.verification.verifier(terminal)?;
        let server = if self.dangerous_unattested_server {
            terminal.warn("a server without attestation is accepted (--dangerous-unattested-server)");
            ServerAttestation::IfPresent(&verifier)
        } else {
            ServerAttestation::Required(&verifier)
        };
        let progress = terminal.progress("asking the guest agent");
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
        let keys = fetch_app_keys_within(deadlines, self.guest.kms.all(), &attester, server, &vm_config, pin)
            .await
            .map_err(|error| trust::explained(error.into(), &verifier))?;
        drop(progress);
        for attempt in &keys.failed {
            terminal.warn(format_args!("{}: {}", attempt.url, exit::attempt_text(&attempt.error)));
        }
        let file = AppKeysFile::from(&keys).to_json()?;
        if to_stdout {
            terminal.write(file.as_bytes())?;
            return Ok(Exit::Done);
        }
        files::write(&self.out, file.as_bytes(), Readers::Owner, existing)?;
        self.report(terminal, &keys)?;
        Ok(Exit::Done)
    }

    /// Says what was received, and never the keys.
    fn report(&self, terminal: &Terminal, keys: &AppKeys) -> Outcome<()> {
        let app_id = keys.app_id.map(|id| id.to_string()).unwrap_or_default();
        let server = keys.server.as_ref().map(kms_attest::verify::Verified::tcb_status);
        let report = json!({
            "kms_url": keys.url.to_string(),
            "app_id": app_id,
            "key_provider_id": hex::encode(&keys.key_provider),
            "key_provider_pinned": self.key_provider_id.is_some(),
            "server_tcb_status": server,
            "gateway_app_id": keys.response.gateway_app_id,
            "os_image_hash": hex::encode(&keys.response.os_image_hash),
            "file": self.out.display().to_string(),
            "failed": exit::earlier_attempts(keys),
        });
        terminal.show(&report, |page| {
            let done = page.toned(Tone::Good, "keys received");
            page.line(format_args!("{done} from {}", keys.url));
            page.field("app", &app_id);
            page.field("key provider id", hex::encode(&keys.key_provider));
            page.field("server TCB status", server.unwrap_or("the server is not attested"));
            page.field("file", self.out.display());
            if self.key_provider_id.is_none() {
                page.line("");
                page.line("The key provider was not pinned: whoever relies on this app must check its id.");
            }
        })
    }
}

/// Keys of an app from a file, with its name in errors.
pub(crate) fn read_keys(path: &Path) -> Outcome<AppKeysFile> {
    AppKeysFile::read(path)
}

/// Says of which file a field is wrong.
pub(crate) fn field_of(path: &Path) -> impl Fn(String) -> Failure {
    move |problem| Failure::usage(format_args!("{}: {problem}", path.display()))
}

/// `--app-id` as clap parses it.
pub(crate) fn app_id_argument(text: &str) -> Result<kms_attest::identity::AppId, String> {
    input::app_id(text)
}
