//! A KMS that has proved what it runs before it is sent anything: for shares of the root keys, which nobody else may see.

use std::time::Duration;

use clap::Args;
use kms_attest::ra_tls;
use kms_client::operator::{OperatorConnection, OperatorUrl};
use kms_client::proof::pins::UP_TO_DATE;
use kms_client::resource::Document;
use kms_client::server::{KMS_USAGE, ONBOARDING_USAGE};
use kms_client::{Connection, KmsUrl, Trust};
use zeroize::Zeroizing;

use crate::exit::{Failure, Outcome};
use crate::input::Hex;
use crate::output::{Terminal, printable};
use crate::pin::{Proven, prove};
use crate::target::{Credentials, Service};
use crate::trust::{Verification, explained};

/// The limit of one call: the KMS asks its policy about itself before it answers.
const CALL_TIME: Duration = Duration::from_secs(120);

/// A KMS that must prove what it runs. No option lets another server pass.
#[derive(Args, Debug)]
pub(crate) struct Attested {
    /// URL of the KMS, https:// only
    #[arg(long = "kms", visible_alias = "url", value_name = "URL", env = "KMS_URL", hide_env_values = true)]
    url: KmsUrl,
    /// The KMS must prove this mrAggregated by the attestation in its TLS certificate; may be given more than once
    #[arg(long = "pin", value_name = "HEX", required = true)]
    registers: Vec<Hex<32>>,
    /// Accepted TCB statuses
    #[arg(long = "pin-tcb", value_name = "STATUS", value_delimiter = ',', default_value = UP_TO_DATE)]
    tcb: Vec<String>,
    #[command(flatten)]
    verification: Verification,
    #[command(flatten)]
    credentials: Credentials,
}

/// What a KMS is, by the usage in its attested certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It has no keys yet.
    Empty,
    /// It serves keys.
    Serving,
}

/// A KMS that has proved itself. Each call opens a connection to the holder of the key that was attested.
pub(crate) struct Verified<'a> {
    url: &'a KmsUrl,
    /// The attested key of its TLS certificate, SubjectPublicKeyInfo DER.
    key: Vec<u8>,
    phase: Phase,
    proven: Proven,
    credentials: &'a Credentials,
}

impl Attested {
    /// Connects, and verifies the attestation of the server. Nothing is sent before.
    pub(crate) async fn verify(&self, terminal: &Terminal) -> Outcome<Verified<'_>> {
        let verifier = self.verification.verifier(terminal)?;
        let progress = terminal.progress("verifying the KMS");
        let connection = Connection::open(&self.url, Trust::DangerousAnyServer, None)
            .await
            .map_err(|error| Failure::from(error).about(&self.url))?;
        let unproven = |why: &dyn std::fmt::Display| {
            Failure::unproven(format_args!("{}: {why}; nothing was sent", self.url))
        };
        let usage =
            ra_tls::special_usage(connection.server_certificate()).map_err(|error| unproven(&error))?;
        let phase = match usage.as_deref() {
            Some(KMS_USAGE) => Phase::Serving,
            Some(ONBOARDING_USAGE) => Phase::Empty,
            Some(other) => {
                let other = printable(other);
                return Err(unproven(&format_args!("its certificate is not that of a KMS, but for {other}")));
            }
            None => return Err(unproven(&"its certificate is not that of a KMS")),
        };
        let proven = prove(&connection, &verifier, &self.registers, &self.tcb)
            .await
            .map_err(|failure| explained(failure, &verifier))?;
        drop(progress);
        let key = connection.server_public_key().to_vec();
        Ok(Verified { url: &self.url, key, phase, proven, credentials: &self.credentials })
    }
}

impl Verified<'_> {
    /// Its URL.
    pub(crate) fn url(&self) -> &KmsUrl {
        self.url
    }

    /// Whether it has keys.
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// What it has proved.
    pub(crate) fn proven(&self) -> &Proven {
        &self.proven
    }

    /// Reads the document at `path`.
    pub(crate) async fn get(&self, path: &str, max_bytes: usize) -> Outcome<Document> {
        let connection = self.open().await?;
        Ok(connection.fetch(CALL_TIME, path, max_bytes).await?)
    }

    /// Posts `body` to `path`.
    pub(crate) async fn post(&self, path: &str, body: Vec<u8>, max_bytes: usize) -> Outcome<Document> {
        let connection = self.open().await?;
        Ok(connection.post(CALL_TIME, path, body, max_bytes).await?)
    }

    /// Posts `body`, and overwrites it.
    pub(crate) async fn post_secret(
        &self,
        path: &str,
        body: Zeroizing<String>,
        max_bytes: usize,
    ) -> Outcome<Document> {
        let connection = self.open().await?;
        Ok(connection.post_secret(CALL_TIME, path, body, max_bytes).await?)
    }

    /// A person may have taken long to confirm, so the connection that was verified may be closed by now. Only the
    /// holder of its attested key is accepted, and sent the token.
    async fn open(&self) -> Outcome<OperatorConnection> {
        // One that serves asks officers for no credential.
        let token = match self.phase {
            Phase::Empty => self.credentials.token(Service::Onboarding)?,
            Phase::Serving => None,
        };
        let url = OperatorUrl::Tls(self.url.clone());
        OperatorConnection::open(&url, Trust::PublicKey(&self.key), token).await.map_err(|error| {
            let failure = Failure::from(error).about(self.url);
            failure.hint("it must be the KMS that was verified: another one, or a restart, has another key")
        })
    }
}
