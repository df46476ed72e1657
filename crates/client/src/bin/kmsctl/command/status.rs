//! `kmsctl status`: is each KMS reached, what does it do, and do all of them hold the same keys?

use std::time::Duration;

use clap::Args;
use kms_client::{
    operator::{OperatorConnection, OperatorUrl},
    proto::{AttestationInfoResponse, GetMetaResponse},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::meta::public_key;
use crate::{
    exit::{Exit, Outcome},
    output::{Page, Terminal, Tone, printable},
};

const CALL_TIME: Duration = Duration::from_secs(30);

/// Arguments of `kmsctl status`.
#[derive(Args, Debug)]
pub(crate) struct Status {
    /// URL of a KMS, http:// also while it has no keys; may be given more than once, or with commas
    #[arg(
        long = "kms",
        value_name = "URL",
        env = "KMS_URL",
        hide_env_values = true,
        value_delimiter = ',',
        required = true
    )]
    urls: Vec<OperatorUrl>,
}

/// What one KMS does.
enum State {
    Serving(Box<GetMetaResponse>),
    Onboarding(Option<Box<AttestationInfoResponse>>),
    Unreachable(String),
}

/// What makes two KMSs replicas of each other.
#[derive(PartialEq, Eq)]
struct Keys {
    root: Vec<u8>,
    k256: Vec<u8>,
}

impl Status {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let progress = terminal.progress("asking each KMS");
        let mut states = Vec::new();
        for url in &self.urls {
            states.push((url, ask(url).await));
        }
        drop(progress);
        let keys: Vec<Keys> = states.iter().filter_map(|(_, state)| state.keys()).collect();
        let same = (keys.len() > 1).then(|| keys.windows(2).all(|pair| pair[0] == pair[1]));
        let report = json!({
            "kms": states.iter().map(|(url, state)| state.report(url)).collect::<Vec<_>>(),
            "same_keys": same,
        });
        terminal.show(&report, |page| {
            for (url, state) in &states {
                state.show(page, url);
            }
            match same {
                Some(true) => page.line(page.toned(Tone::Good, "All of them show the same root keys.")),
                Some(false) => page.line(page.toned(
                    Tone::Bad,
                    "They show DIFFERENT root keys: two were bootstrapped where one should have been onboarded.",
                )),
                None => {}
            }
        })?;
        let unreachable = states.iter().any(|(_, state)| matches!(state, State::Unreachable(_)));
        Ok(match same {
            Some(false) => Exit::Unproven,
            _ if unreachable => Exit::Failed,
            _ => Exit::Done,
        })
    }
}

async fn ask(url: &OperatorUrl) -> State {
    let connection = match OperatorConnection::open(url, None).await {
        Ok(connection) => connection,
        Err(error) => return State::Unreachable(error.to_string()),
    };
    let refusal = match connection.call(CALL_TIME, "GetMeta", &()).await {
        Ok(meta) => return State::Serving(Box::new(meta)),
        Err(refusal) => refusal,
    };
    // A KMS without keys knows no such method.
    let kms_client::CallError::Refused { status, message, .. } = &refusal else {
        return State::Unreachable(refusal.to_string());
    };
    if status.as_u16() != 404 && !message.starts_with("Service not found") {
        return State::Unreachable(refusal.to_string());
    }
    // Without an answer of its guest agent, it is onboarding all the same.
    State::Onboarding(connection.call(CALL_TIME, "Onboard.GetAttestationInfo", &()).await.ok().map(Box::new))
}

impl State {
    fn keys(&self) -> Option<Keys> {
        match self {
            Self::Serving(meta) => {
                Some(Keys { root: public_key(&meta.ca_cert)?, k256: meta.k256_pubkey.clone() })
            }
            _ => None,
        }
    }

    fn report(&self, url: &OperatorUrl) -> Value {
        let mut report = json!({ "url": url.to_string() });
        match self {
            Self::Serving(meta) => {
                report["state"] = "serving".into();
                report["version"] = meta.version.clone().into();
                report["key_provider_id"] = public_key(&meta.ca_cert).map(hex::encode).into();
                report["k256_pubkey"] = hex::encode(&meta.k256_pubkey).into();
                report["relaxed_settings"] = meta.relaxed_settings.clone().into();
            }
            Self::Onboarding(info) => {
                report["state"] = "onboarding".into();
                if let Some(info) = info {
                    report["mr_aggregated"] = hex::encode(&info.mr_aggregated).into();
                    report["os_image_hash"] = hex::encode(&info.os_image_hash).into();
                    report["device_id"] = hex::encode(&info.device_id).into();
                    report["tee_variant"] = info.tee_variant.clone().into();
                }
            }
            Self::Unreachable(reason) => {
                report["state"] = "unreachable".into();
                report["error"] = reason.clone().into();
            }
        }
        report
    }

    fn show(&self, page: &mut Page, url: &OperatorUrl) {
        let (tone, word) = match self {
            Self::Serving(_) => (Tone::Good, "serving"),
            Self::Onboarding(_) => (Tone::Doubtful, "onboarding"),
            Self::Unreachable(_) => (Tone::Bad, "unreachable"),
        };
        let word = page.toned(tone, word);
        page.line(format_args!("{url}  {word}"));
        match self {
            Self::Serving(meta) => {
                page.field("  version", printable(&meta.version));
                let root = public_key(&meta.ca_cert).map(|key| hex::encode(Sha256::digest(key)));
                page.field("  root SPKI SHA-256", root.unwrap_or_default());
                page.field("  k256 public key", hex::encode(&meta.k256_pubkey));
                let relaxed: Vec<String> = meta.relaxed_settings.iter().map(|code| printable(code)).collect();
                page.field("  relaxed settings", relaxed.join(", "));
            }
            Self::Onboarding(Some(info)) => {
                page.field("  mr_aggregated", hex::encode(&info.mr_aggregated));
                page.field("  os_image_hash", hex::encode(&info.os_image_hash));
                page.field("  device_id", hex::encode(&info.device_id));
                page.field("  TEE", printable(&info.tee_variant));
            }
            Self::Onboarding(None) => {}
            Self::Unreachable(reason) => page.field("  reason", reason),
        }
    }
}
