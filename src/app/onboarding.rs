//! The onboarding phase: an operator makes keys or receives them from another KMS; then the same process
//! serves them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::AppError;
use super::leaf::Ephemeral;
use super::process::{Process, address_of, bind};
use super::running::Running;
use super::serving::{MainListener, Serving};
use crate::api::health::HealthService;
use crate::api::onboard::{JoinReports, OnboardService};
use crate::api::readiness::Readiness;
use crate::api::setup::{Console, Services, SetupService, Switch, Token};
use crate::lifecycle::Onboarding;
use crate::net::listener::{Phase, PlainHttp};
use crate::net::middleware::Middleware;
use crate::net::{self, OnboardingAuth, tls};
use crate::operator::OperatorToken;

/// How long onboarding waits for an attested certificate before it starts with an unattested one.
const ATTEST_TIME: Duration = Duration::from_secs(2);

/// Pause between attempts to serve existing keys.
const SWITCH_RETRY: Duration = Duration::from_secs(1);

struct Phases {
    /// Dropping it ends the phase.
    sender: watch::Sender<Phase>,
    accepting: JoinHandle<()>,
    attesting: JoinHandle<()>,
    finished: watch::Receiver<bool>,
    join_reports: Arc<JoinReports>,
}

/// Serves onboarding until an operator calls `Finish`, then the keys.
pub(super) async fn start(process: Process, onboarding: Onboarding) -> Result<Running, AppError> {
    let core = &process.config.core;
    let listener = bind(SocketAddr::new(core.onboard.address, core.onboard.port)).await?;
    let address = address_of(&listener)?;
    let token = core.onboard.auth_token.as_ref().map(|token| OperatorToken::new(token.expose()));
    if token.is_none() {
        tracing::warn!(
            "anyone who reaches {address} first can onboard this KMS; set core.onboard.auth_token to prevent that"
        );
    }
    let needed = if token.is_some() { Token::Required } else { Token::NotConfigured };
    let service = Arc::new(OnboardService::new(core, process.posture(), process.foundation(), onboarding));
    let (finished, join_reports) = (service.finished(), service.join_reports());
    let setup = SetupService::new(
        Arc::clone(&service),
        process.switch.subscribe(),
        needed,
        process.other_serving_port(),
        Console::of(&core.admin),
        process.started,
        process.boot_id.clone(),
    )
    .asking(Services::of(core));
    let auth = OnboardingAuth::new(token, process.audit(), process.metrics());
    let readiness = Arc::new(Readiness::onboarding(process.metrics()));
    let health = Arc::new(HealthService::new(readiness, process.boot()));
    let router = net::onboarding(service, Arc::new(setup), &core.onboard.limits, auth, health);
    let certificate = Ephemeral::new(core.onboard.address)?;
    let tls = tls::onboarding(certificate.leaf())?;
    let attester = process.attester();
    let mut attesting = tokio::spawn(async move { certificate.attest(&attester).await });
    // So that the first callers can already verify this KMS, without waiting long for a missing attester.
    let _ = timeout(ATTEST_TIME, &mut attesting).await;
    let middleware = Middleware::new(router, process.memory(), process.metrics()).limited(process.limit());
    let phase =
        Phase { number: 0, tls: Some(tls), plain: PlainHttp::Served, middleware: Arc::new(middleware) };
    let (sender, phase) = watch::channel(phase);
    let accepting = tokio::spawn(process.listen(listener, phase));
    process.note_start("onboarding");
    tracing::info!(%address, "onboarding: open the page, or call Bootstrap or Onboard, then Finish");
    let phases = Phases { sender, accepting, attesting, finished, join_reports };
    Ok(Running::new(address, process, async move |process| phases.live(&process).await))
}

impl Phases {
    /// Runs onboarding, the switch, and the KMS phase.
    async fn live(mut self, process: &Process) -> Result<(), AppError> {
        let is_finished = tokio::select! {
            () = process.stopping() => false,
            _ = self.finished.wait_for(|finished| *finished) => true,
        };
        self.attesting.abort();
        let prepared = match is_finished {
            true => tokio::select! {
                () = process.stopping() => None,
                prepared = switched(process) => Some(prepared),
            },
            false => None,
        };
        let Some(Prepared { serving, main, admin }) = prepared else {
            drop(self.sender);
            let _ = self.accepting.await;
            return Ok(());
        };
        let listener = match main {
            Main::Onboardings => MainListener::Inherited { phases: self.sender, accepting: self.accepting },
            Main::Bound(listener) => {
                // The new listener is bound and queues connections, so callers can already be told that the
                // switch is done.
                process.switch.send_replace(Switch::Done);
                drop(self.sender);
                let _ = self.accepting.await;
                MainListener::Bound(listener)
            }
            Main::Overlaps(address) => {
                process.switch.send_replace(Switch::Done);
                drop(self.sender);
                let _ = self.accepting.await;
                let bound = tokio::select! {
                    () = process.stopping() => return Ok(()),
                    bound = bound(address) => bound,
                };
                MainListener::Bound(bound)
            }
        };
        let (mut switched, readiness) = (process.switch.subscribe(), Arc::clone(&serving.readiness));
        let join_reports = self.join_reports;
        let reporting = tokio::spawn(async move {
            if switched.wait_for(|switch| *switch == Switch::Done).await.is_ok() {
                while !readiness.report().is_ready() {
                    tokio::time::sleep(SWITCH_RETRY).await;
                }
                join_reports.serving().await;
            }
        });
        let outcome = serving.live(process, listener, admin).await;
        reporting.abort();
        outcome
    }
}

/// The KMS phase with its bound listeners.
struct Prepared {
    serving: Serving,
    main: Main,
    admin: Option<(TcpListener, Phase)>,
}

/// The main listener.
enum Main {
    /// That of onboarding, which has the same address.
    Onboardings,
    /// Another one.
    Bound(TcpListener),
    /// That of onboarding has the port and part of its addresses, so it must close first.
    Overlaps(SocketAddr),
}

/// Whether only one of two different addresses can be listened on: one of them is all addresses with the same port.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let is_all = |address: SocketAddr| address.ip().is_unspecified();
    one.port() == other.port() && one.port() != 0 && (is_all(one) || is_all(other))
}

/// A listener, as soon as the port is free.
async fn bound(address: SocketAddr) -> TcpListener {
    loop {
        match bind(address).await {
            Ok(listener) => return listener,
            Err(error) => tracing::error!(%error, "keys exist but cannot be served yet; trying again"),
        }
        tokio::time::sleep(SWITCH_RETRY).await;
    }
}

/// Prepares the KMS phase. The keys are saved by now, so this retries until everything it needs (the
/// attester, a port) is there. Onboarding still responds meanwhile, and reports what is missing.
async fn switched(process: &Process) -> Prepared {
    process.switch.send_replace(Switch::Trying);
    loop {
        match prepared(process).await {
            Ok(prepared) => return prepared,
            Err(error) => {
                process.switch.send_replace(error.hindrance());
                tracing::error!(%error, "keys exist but cannot be served yet; trying again");
            }
        }
        tokio::time::sleep(SWITCH_RETRY).await;
    }
}

async fn prepared(process: &Process) -> Result<Prepared, AppError> {
    let serving = Serving::prepare(process, process.reopen()?).await?;
    let onboard = &process.config.core.onboard;
    let (main, onboarding) = (process.main_address(), SocketAddr::new(onboard.address, onboard.port));
    let main = match main == onboarding {
        true => Main::Onboardings,
        false if overlap(main, onboarding) => Main::Overlaps(main),
        false => Main::Bound(bind(main).await?),
    };
    let admin = serving.bind_admin(process).await?;
    Ok(Prepared { serving, main, admin })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_overlap_each_one_with_the_same_port() {
        for (one, other, overlaps) in [
            ("127.0.0.1:8000", "0.0.0.0:8000", true),
            ("0.0.0.0:8000", "10.0.0.5:8000", true),
            ("[::1]:8000", "[::]:8000", true),
            ("127.0.0.1:8000", "[::]:8000", true),
            ("127.0.0.1:8000", "0.0.0.0:8001", false),
            ("127.0.0.1:8000", "10.0.0.5:8000", false),
            ("127.0.0.1:0", "0.0.0.0:0", false),
        ] {
            let [one, other] = [one, other].map(|text| text.parse().unwrap());
            assert_eq!((overlap(one, other), overlap(other, one)), (overlaps, overlaps), "{one} {other}");
        }
    }
}
