//! The life of the process: open the key directory, onboard if it is empty, serve.

mod admin_tls;
mod background;
mod conditions;
mod error;
mod examination;
mod fleet;
mod hot;
mod leaf;
mod onboarding;
mod preflight;
mod process;
mod running;
mod serving;

use std::sync::Arc;

use tokio::net::TcpListener;

pub use self::error::AppError;
pub use self::examination::examine;
pub use self::preflight::Preflight;
use self::process::{Process, bind, key_directory};
pub use self::running::Running;
use self::serving::{MainListener, Serving};
use crate::api::onboard::OnboardService;
use crate::config::Config;
use crate::lifecycle::{Node, Ready};
use crate::log::ProcessLog;
use crate::store::Occupancy;

/// Builds all parts, binds the listeners, and starts the phase that the key directory requires.
///
/// # Errors
/// [`AppError`]; nothing is served then.
pub async fn start(config: Config) -> Result<Running, AppError> {
    start_logging_to(config, None).await
}

/// Like [`start`], with `log` as the process log, so that the metrics show what it dropped.
///
/// # Errors
/// [`AppError`]; nothing is served then.
pub async fn start_logging_to(config: Config, log: Option<ProcessLog>) -> Result<Running, AppError> {
    config.permitted()?;
    // First, because this creates the key directory with its permissions, and the audit log is usually in it.
    let occupancy = Arc::new(Occupancy::take(&config.core.cert_dir)?);
    let directory = key_directory(&config, &occupancy)?;
    let process = Process::build(config, occupancy, log)?;
    // Before anything asks the policy, such as an automatic bootstrap.
    process.first_bundles().await;
    process.announce();
    let onboard = &process.config.core.onboard;
    match process.open(directory)? {
        Node::Ready(ready) => {
            process.announce_new_log();
            let listener = bind(process.main_address()).await?;
            serve(process, *ready, listener).await
        }
        Node::Onboarding(_) if !onboard.enabled => Err(AppError::NoKeys),
        Node::Onboarding(onboarding) => match &onboard.auto_bootstrap_domain {
            Some(domain) => {
                let listener = bind(process.main_address()).await?;
                let (core, posture) = (&process.config.core, process.posture());
                let service = OnboardService::new(core, posture, process.foundation(), onboarding);
                service.auto_bootstrap(domain).await.map_err(AppError::AutoBootstrap)?;
                let ready = process.reopen()?;
                serve(process, ready, listener).await
            }
            None => onboarding::start(process, onboarding).await,
        },
    }
}

async fn serve(process: Process, ready: Ready, listener: TcpListener) -> Result<Running, AppError> {
    let serving = Serving::prepare(&process, ready).await?;
    let address = process::address_of(&listener)?;
    let admin = serving.bind_admin(&process).await?;
    Ok(Running::new(address, process, async move |process| {
        serving.live(&process, MainListener::Bound(listener), admin).await
    }))
}
