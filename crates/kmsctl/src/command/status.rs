//! `kmsctl status`: whether each KMS can be reached, whether it can release keys, and whether all hold the
//! same keys.

use std::time::Duration;

use clap::Args;
use kms_client::operator::{OperatorConnection, OperatorUrl, SetupStatus};
use kms_client::proto::{AttestationInfoResponse, GetMetaResponse};
use kms_client::text::causes;
use kms_client::{CallError, Trust};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::meta::public_key;
use crate::exit::{Exit, Outcome};
use crate::output::{Page, Terminal, Tone, printable};
use crate::target::{Belief, Credentials, Server, Service, other_side};

const CALL_TIME: Duration = Duration::from_secs(30);

#[derive(Args, Debug)]
pub(crate) struct Status {
    /// URL of a KMS, http:// if it has no keys yet; may be given more than once, or with commas
    #[arg(
        long = "kms",
        value_name = "URL",
        env = "KMS_URL",
        hide_env_values = true,
        value_delimiter = ',',
        required = true
    )]
    urls: Vec<OperatorUrl>,
    #[command(flatten)]
    credentials: Credentials,
    #[command(flatten)]
    server: Server,
}

/// The state of one KMS.
enum State {
    Serving(Box<GetMetaResponse>),
    Onboarding(Box<Waiting>),
    Unreachable(String),
}

/// What a KMS that does not serve says about itself.
struct Waiting {
    /// `None` if its guest agent does not respond.
    info: Option<AttestationInfoResponse>,
    /// `None` if there is no setup service, or the token is missing.
    setup: Option<SetupStatus>,
}

/// Replicas of one another have these in common.
#[derive(PartialEq, Eq)]
struct Keys {
    root: Vec<u8>,
    k256: Vec<u8>,
}

impl Status {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let progress = terminal.progress("waiting for each KMS");
        let mut states = Vec::new();
        for url in &self.urls {
            states.push((url, self.ask(url, terminal).await?));
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
        let useless = states.iter().any(|(_, state)| !state.is_useful());
        Ok(match same {
            Some(false) => Exit::Unproven,
            _ if useless => Exit::Failed,
            _ => Exit::Done,
        })
    }
}

impl Status {
    async fn ask(&self, url: &OperatorUrl, terminal: &Terminal) -> Outcome<State> {
        let connection = match OperatorConnection::open(url, Trust::DangerousAnyServer, None).await {
            Ok(connection) => connection,
            Err(error) => return Ok(State::Unreachable(causes(&error))),
        };
        let refusal = match connection.call(CALL_TIME, "GetMeta", &()).await {
            Ok(meta) => return Ok(State::Serving(Box::new(meta))),
            Err(refusal) => refusal,
        };
        // A KMS without keys does not have the method.
        let CallError::Refused { .. } = &refusal else {
            let other_side = other_side(url, &refusal).await;
            return Ok(State::Unreachable(other_side.unwrap_or_else(|| causes(&refusal))));
        };
        if !refusal.is_unknown_method() {
            return Ok(State::Unreachable(refusal.to_string()));
        }
        // It is onboarding even if its guest agent does not respond.
        let info = connection.call(CALL_TIME, "Onboard.GetAttestationInfo", &()).await.ok();
        let setup = self.setup(&connection, terminal).await?;
        Ok(State::Onboarding(Box::new(Waiting { info, setup })))
    }

    /// The status from the setup service. The token is sent only if it is required, and over https only to a
    /// server that an option identifies.
    async fn setup(
        &self,
        connection: &OperatorConnection,
        terminal: &Terminal,
    ) -> Outcome<Option<SetupStatus>> {
        match connection.setup_status(CALL_TIME).await {
            Ok(status) => return Ok(Some(status)),
            Err(CallError::Refused { status, .. }) if status.as_u16() == 401 => {}
            Err(_) => return Ok(None),
        }
        let url = connection.url();
        let Some(token) = self.credentials.token(Service::Onboarding)? else {
            terminal.warn(format_args!(
                "{url} tells its state only with its token, in KMS_ONBOARD_TOKEN or --token-file"
            ));
            return Ok(None);
        };
        let belief = match url {
            // Pins apply to servers over https.
            OperatorUrl::Plain(_) => Belief::Any,
            OperatorUrl::Tls(_) => self.server.belief(url)?,
        };
        if matches!(belief, Belief::Unsaid) {
            terminal.warn(format_args!(
                "the token does not go to {url}, which is not authenticated: give its key with --server-spki"
            ));
            return Ok(None);
        }
        if url.is_exposed() {
            terminal.warn(format_args!("the token goes to {url} in clear"));
        }
        match OperatorConnection::open(url, belief.trust(Trust::PublicRoots), Some(token)).await {
            Ok(trusted) => Ok(trusted.setup_status(CALL_TIME).await.ok()),
            Err(error) => {
                terminal.warn(format_args!("{url}: {error}; the token was not sent"));
                Ok(None)
            }
        }
    }
}

impl State {
    /// Whether it does its work: it releases keys, or waits for some.
    fn is_useful(&self) -> bool {
        match self {
            // Versions without this field are assumed to be ready.
            Self::Serving(meta) => meta.ready.unwrap_or(true),
            Self::Onboarding(_) => true,
            Self::Unreachable(_) => false,
        }
    }

    fn keys(&self) -> Option<Keys> {
        match self {
            Self::Serving(meta) => {
                Some(Keys { root: public_key(&meta.ca_cert)?, k256: meta.k256_pubkey.clone() })
            }
            Self::Onboarding(_) | Self::Unreachable(_) => None,
        }
    }

    fn report(&self, url: &OperatorUrl) -> Value {
        let mut report = json!({ "url": url.to_string() });
        match self {
            Self::Serving(meta) => {
                report["state"] = if self.is_useful() { "serving" } else { "not_ready" }.into();
                report["ready"] = meta.ready.into();
                report["not_ready"] = json!(meta.not_ready);
                report["warnings"] = json!(meta.readiness_warnings);
                report["version"] = meta.version.clone().into();
                report["key_provider_id"] = public_key(&meta.ca_cert).map(hex::encode).into();
                report["k256_pubkey"] = hex::encode(&meta.k256_pubkey).into();
                report["relaxed_settings"] = meta.relaxed_settings.clone().into();
            }
            Self::Onboarding(waiting) => {
                report["state"] = "onboarding".into();
                report["mode"] = json!(waiting.setup.as_ref().map(|setup| &setup.mode));
                report["serving_port"] = json!(waiting.setup.as_ref().and_then(|setup| setup.serving_port));
                report["next"] = json!(waiting.setup.as_ref().map(|setup| &setup.next));
                if let Some(info) = &waiting.info {
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
            Self::Serving(_) if self.is_useful() => (Tone::Good, "serving".to_owned()),
            Self::Serving(meta)
                if !meta.not_ready.is_empty()
                    && meta.not_ready.iter().all(|reason| reason.code == "draining") =>
            {
                (Tone::Doubtful, "DRAINS: requests that still arrive are served".to_owned())
            }
            Self::Serving(_) => (Tone::Bad, "NOT READY: it releases no keys".to_owned()),
            Self::Onboarding(waiting) => match &waiting.setup {
                None => (Tone::Doubtful, "onboarding".to_owned()),
                Some(setup) if matches!(setup.mode.as_str(), "broken" | "restart_required") => {
                    (Tone::Bad, printable(&setup.mode).replace('_', " "))
                }
                Some(setup) => (Tone::Doubtful, printable(&setup.mode)),
            },
            Self::Unreachable(_) => (Tone::Bad, "unreachable".to_owned()),
        };
        let word = page.toned(tone, &word);
        page.line(format_args!("{url}  {word}"));
        match self {
            Self::Serving(meta) => {
                for (label, reasons) in
                    [("  not ready", &meta.not_ready), ("  warning", &meta.readiness_warnings)]
                {
                    for reason in reasons {
                        page.field(
                            label,
                            format!("{} ({})", printable(&reason.text), printable(&reason.code)),
                        );
                    }
                }
                page.field("  version", printable(&meta.version));
                let root = public_key(&meta.ca_cert).map(|key| hex::encode(Sha256::digest(key)));
                page.field("  root CA public key SHA-256", root.unwrap_or_default());
                page.field("  k256 public key", hex::encode(&meta.k256_pubkey));
                let relaxed: Vec<String> = meta.relaxed_settings.iter().map(|code| printable(code)).collect();
                page.field("  relaxed settings", relaxed.join(", "));
            }
            Self::Onboarding(waiting) => {
                if let Some(info) = &waiting.info {
                    page.field("  mr_aggregated", hex::encode(&info.mr_aggregated));
                    page.field("  os_image_hash", hex::encode(&info.os_image_hash));
                    page.field("  device_id", hex::encode(&info.device_id));
                    page.field("  TEE", printable(&info.tee_variant));
                }
                if let Some(setup) = &waiting.setup {
                    page.field(
                        "  serves at port",
                        setup.serving_port.map(|port| port.to_string()).unwrap_or_default(),
                    );
                    for step in &setup.next {
                        page.field("  next", printable(&step.text));
                    }
                }
            }
            Self::Unreachable(reason) => page.field("  reason", reason),
        }
    }
}
