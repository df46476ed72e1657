//! `kmsctl meta`: what a KMS says about itself, unproven. `kmsctl verify` proves it.

use std::path::PathBuf;

use clap::Args;
use kms_client::proto::GetMetaResponse;
use kms_client::{Connection, Trust};

use crate::exit::{Exit, Failure, Outcome};
use crate::files;
use crate::output::{Page, Terminal, Tone, printable};
use crate::target::Kms;

const MAX_CERTIFICATE_BYTES: usize = 64 << 10;

#[derive(Args, Debug)]
pub(crate) struct Meta {
    #[command(flatten)]
    kms: Kms,
    /// Root CA certificate (PEM) that must have issued the server's; default: any server is accepted
    #[arg(long, value_name = "FILE")]
    root_ca: Option<PathBuf>,
}

impl Meta {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let url = self.kms.one()?;
        let root = match &self.root_ca {
            Some(path) => Some(files::read_text(path, MAX_CERTIFICATE_BYTES)?),
            None => None,
        };
        let trust = root.as_ref().map_or(Trust::DangerousAnyServer, |root| Trust::RootCa(root));
        let connection = Connection::open(url, trust, None).await?;
        let meta = connection.meta().await?;
        if root
            .as_ref()
            .is_some_and(|root| public_key(root).is_none_or(|key| Some(key) != public_key(&meta.ca_cert)))
        {
            return Err(Failure::unproven("GetMeta shows another root CA than --root-ca"));
        }
        terminal.show(&meta, |page| {
            show(page, &meta);
            if root.is_none() {
                page.line("");
                page.line(page.toned(Tone::Quiet, "As the server says; `kmsctl verify` proves it."));
            }
        })?;
        Ok(Exit::Done)
    }
}

/// The public key of a certificate, SubjectPublicKeyInfo DER.
pub(crate) fn public_key(certificate: &str) -> Option<Vec<u8>> {
    let der = kms_attest::certificate::der(certificate).ok()?;
    kms_attest::ra_tls::spki_of(&der).ok()
}

fn show(page: &mut Page, meta: &GetMetaResponse) {
    page.field("version", printable(&meta.version));
    page.field("key provider id", public_key(&meta.ca_cert).map(hex::encode).unwrap_or_default());
    page.field("k256 public key", hex::encode(&meta.k256_pubkey));
    let bootstrap =
        if meta.bootstrap_info.is_some() { "shown" } else { "none: not the first KMS of its cluster" };
    page.field("bootstrap statement", bootstrap);
    let mode = if meta.is_dev {
        page.toned(Tone::Bad, "dev: every verified caller is allowed")
    } else {
        String::new()
    };
    page.field("authorization", mode);
    let text = |value: &Option<String>| printable(value.as_deref().unwrap_or_default());
    page.field("gateway app id", text(&meta.gateway_app_id));
    page.field("contract", text(&meta.kms_contract_address));
    page.field("chain id", meta.chain_id.map(|id| id.to_string()).unwrap_or_default());
    page.field("app implementation", text(&meta.app_auth_implementation));
    let relaxed: Vec<String> = meta.relaxed_settings.iter().map(|code| printable(code)).collect();
    page.field("relaxed settings", page.toned(Tone::Doubtful, &relaxed.join(", ")));
}
