//! `kmsctl finish`: ends onboarding, and waits until keys are served.

use std::time::{Duration, Instant};

use clap::Args;
use kms_client::operator::SetupStatus;
use kms_client::proto::GetMetaResponse;
use kms_client::{Connection, KmsUrl, Trust};
use serde_json::json;

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Terminal, printable};
use crate::target::{Operated, Service};

const CALL_TIME: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(250);

#[derive(Args, Debug)]
pub(crate) struct Finish {
    #[command(flatten)]
    kms: Operated,
    /// How long to wait until the KMS serves keys, in seconds; 0 does not wait
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(..=3600))]
    wait: u64,
}

impl Finish {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let connection = self.kms.connect(Service::Onboarding, terminal).await?;
        // Other implementations have no setup service; then the state is unknown.
        let status = self.kms.setup_status(CALL_TIME).await?;
        if let Some(status) = &status {
            ready(status).map_err(|failure| failure.about(&self.kms.url))?;
        }
        if let Err(error) = connection.call::<_, ()>(CALL_TIME, "Onboard.Finish", &()).await {
            return Err(self.kms.failure(error).await);
        }
        drop(connection);
        if self.wait == 0 {
            terminal.show(&json!({ "finished": true, "serving": null }), |page| {
                page.line("onboarding has ended")
            })?;
            return Ok(Exit::Done);
        }
        let serving_port = status.and_then(|status| status.serving_port);
        let url = self.kms.url.once_serving(serving_port).map_err(Failure::usage)?;
        let progress = terminal.progress("waiting until keys are served");
        let meta = serving(&url, Duration::from_secs(self.wait)).await?;
        drop(progress);
        terminal.show(
            &json!({ "finished": true, "serving": true, "url": url.to_string(), "version": meta.version }),
            |page| page.line(format_args!("{url} serves keys")),
        )?;
        Ok(Exit::Done)
    }
}

/// Whether `Finish` can start the KMS phase.
fn ready(status: &SetupStatus) -> Outcome<()> {
    let problem = match status.mode.as_str() {
        "onboarding" => "there are no keys yet, so there is nothing to finish",
        "broken" => "the key directory holds a part of the keys",
        "restart_required" => "the keys are saved, but this process cannot serve them",
        _ => return Ok(()),
    };
    let next: Vec<String> = status.next.iter().map(|step| printable(&step.text)).collect();
    let failure = Failure::failed(format_args!("{problem}. Next: {}", next.join("; or ")));
    Err(failure.with("setup", json!(status)))
}

async fn serving(url: &KmsUrl, limit: Duration) -> Outcome<GetMetaResponse> {
    let deadline = Instant::now() + limit;
    loop {
        let attempt = async {
            let connection = Connection::open(url, Trust::DangerousAnyServer, None).await?;
            Ok::<_, Failure>(connection.meta().await?)
        };
        match attempt.await {
            Ok(meta) => return Ok(meta),
            Err(failure) if Instant::now() >= deadline => {
                let seconds = limit.as_secs();
                let about = format_args!("{url} does not serve keys after {seconds} s");
                return Err(Failure::failed(failure.about(about).message));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
