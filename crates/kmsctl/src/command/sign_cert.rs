//! `kmsctl sign-cert`: a certificate for the app in this CVM, from a KMS that is verified first.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kms_attest::p256::{P256Key, SPKI_LENGTH};
use kms_attest::{certificate, ra_tls};
use kms_client::sign::LeafRequest;
use kms_client::{Connection, KmsUrl, ServerAttestation, Trust};
use rustls_pki_types::{CertificateDer, UnixTime};
use serde_json::json;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use zeroize::Zeroizing;

use super::app_key;
use super::meta::public_key;
use crate::exit::{Exit, Failure, Outcome};
use crate::files::{self, Existing, Readers};
use crate::input::Hex;
use crate::output::Terminal;
use crate::trust::{self, Guest};
use crate::when::now;

const MAX_KEY_BYTES: usize = 64 << 10;

#[derive(Args, Debug)]
pub(crate) struct SignCert {
    #[command(flatten)]
    guest: Guest,
    /// Public key of the root CA that the app requires (SubjectPublicKeyInfo DER, hex)
    #[arg(long, value_name = "HEX", conflicts_with = "app_keys")]
    key_provider_id: Option<Hex<SPKI_LENGTH>>,
    /// Keys of the app as app-key wrote them: the KMS must be under the same root
    #[arg(long, value_name = "FILE")]
    app_keys: Option<PathBuf>,
    /// Common name
    #[arg(long, default_value = "")]
    subject: String,
    /// Organization
    #[arg(long)]
    organization: Option<String>,
    /// DNS name or IP address; may be given more than once
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// For TLS servers
    #[arg(long)]
    server_auth: bool,
    /// For TLS clients
    #[arg(long)]
    client_auth: bool,
    /// Put the attestation into the certificate
    #[arg(long)]
    with_attestation: bool,
    /// Put the identity of the app into the certificate
    #[arg(long)]
    with_app_info: bool,
    /// First second of validity, Unix time
    #[arg(long, value_name = "SECONDS")]
    not_before: Option<u64>,
    /// Last second of validity, Unix time
    #[arg(long, value_name = "SECONDS")]
    not_after: Option<u64>,
    /// P-256 private key (PEM); made if it does not exist
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// File for the chain (PEM): leaf, app CA, root CA
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Overwrite the chain
    #[arg(long)]
    force: bool,
}

impl SignCert {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let existing = if self.force { Existing::Replaced } else { Existing::Kept };
        files::check_writable(&self.out, existing)?;
        let attester = self.guest.evidence.attester()?;
        let verifier = self.guest.verification.verifier(terminal)?;
        let known_root = match &self.app_keys {
            Some(path) => Some(app_key::read_keys(path)?.ca_cert.clone()),
            None => None,
        };
        let key = self.own_key()?;
        let url = self.guest.kms.one()?;
        let progress = terminal.progress("verifying the KMS");
        let root = match known_root {
            Some(root) => root,
            None => self.shown_root(url).await?,
        };
        let kms = Connection::open(url, Trust::RootCa(&root), None).await?;
        kms.verify_server(ServerAttestation::Required(&verifier))
            .await
            .map_err(|error| trust::explained(error.into(), &verifier))?;
        progress.now("proving this CVM and having the certificate issued");
        let vm_config = self.guest.evidence.vm_config(&attester).await?;
        let chain = kms.sign_cert(&self.leaf(), &key, &attester, &vm_config).await?;
        drop(progress);
        check(&chain, &key, &root, self.usage(), self.valid_at())?;
        if !self.is_pinned() {
            terminal
                .warn("the root CA is not pinned: --app-keys or --key-provider-id says which KMS it must be");
        }
        files::write(&self.out, chain.concat().as_bytes(), Readers::Everyone, existing)?;
        let report = json!({
            "kms_url": url.to_string(),
            "key": self.key.display().to_string(),
            "file": self.out.display().to_string(),
            "certificates": chain.len(),
            "key_provider_pinned": self.is_pinned(),
        });
        terminal.show(&report, |page| {
            page.field("key", self.key.display());
            page.field("chain", self.out.display());
        })?;
        Ok(Exit::Done)
    }

    /// The root CA that the KMS shows, if it is the pinned one.
    async fn shown_root(&self, url: &KmsUrl) -> Outcome<String> {
        let stranger = Connection::open(url, Trust::DangerousAnyServer, None).await?;
        let root = stranger.temp_ca_cert().await?.ca_cert.clone();
        match &self.key_provider_id {
            Some(Hex(pin)) if public_key(&root).as_deref() != Some(&pin[..]) => {
                Err(Failure::unproven("the root CA of this KMS is not the pinned key provider"))
            }
            _ => Ok(root),
        }
    }

    /// Whether an option pins the root CA.
    fn is_pinned(&self) -> bool {
        self.app_keys.is_some() || self.key_provider_id.is_some()
    }

    /// The key usage that the chain must allow.
    fn usage(&self) -> KeyUsage {
        if self.client_auth && !self.server_auth { KeyUsage::client_auth() } else { KeyUsage::server_auth() }
    }

    /// Now, or the nearest time at which the certificate is to be valid.
    fn valid_at(&self) -> UnixTime {
        let at = now().max(self.not_before.unwrap_or(0)).min(self.not_after.unwrap_or(u64::MAX));
        UnixTime::since_unix_epoch(Duration::from_secs(at))
    }

    fn leaf(&self) -> LeafRequest {
        LeafRequest {
            organization: self.organization.clone(),
            subject: self.subject.clone(),
            names: self.names.clone(),
            server_auth: self.server_auth,
            client_auth: self.client_auth,
            with_attestation: self.with_attestation,
            with_app_info: self.with_app_info,
            not_before: self.not_before,
            not_after: self.not_after,
        }
    }

    fn own_key(&self) -> Outcome<P256Key> {
        if self.key.exists() {
            let text: Zeroizing<String> = files::read_text(&self.key, MAX_KEY_BYTES)?;
            return P256Key::from_pem(&text)
                .map_err(|error| Failure::usage(format_args!("{}: {error}", self.key.display())));
        }
        let key = P256Key::generate();
        files::write(&self.key, key.pem().as_bytes(), Readers::Owner, Existing::Kept)?;
        Ok(key)
    }
}

/// Checks the chain: over our key, up to the verified root, each certificate signed by the next.
fn check(chain: &[String], key: &P256Key, root: &str, usage: KeyUsage, at: UnixTime) -> Outcome<()> {
    let (Some(leaf), Some(last)) = (chain.first(), chain.last()) else {
        return Err(Failure::unproven("SignCert: the chain is empty"));
    };
    let shown = certificate::der(leaf).ok().and_then(|der| ra_tls::spki_of(&der).ok());
    if shown.as_deref() != Some(&key.spki_der()[..]) {
        return Err(Failure::unproven("SignCert: the certificate is over another key"));
    }
    if public_key(last).is_none() || public_key(last) != public_key(root) {
        return Err(Failure::unproven("SignCert: the chain ends in another root CA"));
    }
    let unreadable = || Failure::unproven("SignCert: the chain has a certificate that cannot be read");
    let ders = chain.iter().map(|pem| certificate::der(pem).map(CertificateDer::from));
    let ders: Vec<CertificateDer<'_>> = ders.collect::<Result<_, _>>().map_err(|_| unreadable())?;
    let anchor = certificate::der(root).map(CertificateDer::from).map_err(|_| unreadable())?;
    let anchor = anchor_from_trusted_cert(&anchor).map_err(|_| unreadable())?;
    let leaf = ders.first().ok_or_else(unreadable)?;
    let leaf = EndEntityCert::try_from(leaf).map_err(|_| unreadable())?;
    leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &[anchor], &ders[1..], at, usage, None, None)
        .map(drop)
        .map_err(|error| Failure::unproven(format_args!("SignCert: the chain does not hold: {error}")))
}
