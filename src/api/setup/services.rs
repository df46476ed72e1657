//! The services that are asked beside the policy: whether each that the configuration names can be reached.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kms_attest::outgoing::{self, Endpoint, RequestError, ResponseTimeout, Timeouts};
use reqwest::{Client, Method, redirect};
use rustls_pki_types::CertificateDer;
use url::Url;

use super::check::{Check, ended};
use super::finding::{Failure, Finding};
use crate::config::{Core, Postgres, State};
use crate::state::shared;

/// Shorter than a check, so that its result names the service.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// A kind of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Issuer,
    Witness,
    NotifyTarget,
}

impl Kind {
    /// Where the configuration names them.
    fn key(self) -> &'static str {
        match self {
            Self::Issuer => "core.admin.oidc",
            Self::Witness => "core.ledger.witnesses",
            Self::NotifyTarget => "core.notify",
        }
    }

    /// The document of an issuer is read; others are not given work, and any answer of their own will do.
    fn verb(self) -> Method {
        match self {
            Self::Issuer => Method::GET,
            Self::Witness | Self::NotifyTarget => Method::HEAD,
        }
    }

    fn accepts(self, status: u16) -> bool {
        match self {
            Self::Issuer => (200..300).contains(&status),
            Self::Witness | Self::NotifyTarget => status < 500,
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Self::Issuer => {
                "Make sure that core.admin.oidc.issuer can be reached from here. Until then its users cannot sign in; \
                 others can."
            }
            Self::Witness => {
                "Make sure that each can be reached from here: while fewer than core.ledger.witnesses.require cosign, \
                 nothing is released."
            }
            Self::NotifyTarget => {
                "Make sure that each can be reached from here, and that `kms notify test` arrives there."
            }
        }
    }
}

/// Why a service cannot be reached, in words without its address.
type Unreached = String;

struct Service {
    kind: Kind,
    /// For the log only: it may be a host.
    name: String,
    url: Url,
    client: Result<Client, Unreached>,
}

impl Service {
    fn new<E: fmt::Display>(
        kind: Kind,
        name: String,
        endpoint: &Endpoint,
        url: Url,
        trusted: Result<Vec<CertificateDer<'static>>, E>,
    ) -> Self {
        let client = trusted.map_err(|error| error.to_string()).and_then(|trusted| {
            let unusable = "no HTTP client can be made";
            let tls = outgoing::client_config(&trusted).map_err(|_| unusable.to_owned())?;
            let timeouts = Timeouts { connect: ANSWER_TIME, response: ResponseTimeout::Total(ANSWER_TIME) };
            let client = outgoing::client(endpoint, tls, timeouts, redirect::Policy::none());
            client.pool_max_idle_per_host(0).build().map_err(|_| unusable.to_owned())
        });
        Self { kind, name, url, client }
    }

    async fn reach(&self) -> Result<(), Unreached> {
        let client = self.client.as_ref().map_err(Unreached::clone)?;
        let request = client.request(self.kind.verb(), self.url.clone());
        let answer = request.send().await.map_err(|error| RequestError::from(error).to_string())?;
        match answer.status().as_u16() {
            status if self.kind.accepts(status) => Ok(()),
            status => Err(format!("it answered {status}")),
        }
    }
}

/// All services of a configuration.
#[derive(Default)]
pub struct Services {
    list: Vec<Service>,
    /// The database of the shared state.
    state: Option<Arc<Postgres>>,
}

/// Without URLs, which may hold credentials.
impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = self.list.iter().map(|service| service.kind);
        f.debug_list().entries(kinds).finish()
    }
}

impl Services {
    /// Those that this configuration uses. May read files.
    pub fn of(core: &Core) -> Self {
        let issuer = core.admin.oidc.as_deref().filter(|_| core.admin.enabled).map(|oidc| {
            let url = oidc.discovery();
            Service::new(Kind::Issuer, "the issuer".to_owned(), &oidc.issuer, url, oidc.certificates())
        });
        let witnesses = core.ledger.witnesses.list.iter().map(|witness| {
            let (name, url) = (witness.key.name().to_string(), witness.add_checkpoint());
            Service::new(Kind::Witness, name, &witness.url, url, Ok::<_, fmt::Error>(Vec::new()))
        });
        let targets = core.notify.iter().map(|target| {
            let (name, url) = (target.name.clone(), target.url.url().clone());
            Service::new(Kind::NotifyTarget, name, &target.url, url, target.certificates())
        });
        let state = match &core.state {
            State::Files => None,
            State::Postgres(settings) => Some(Arc::clone(settings)),
        };
        Self { list: issuer.into_iter().chain(witnesses).chain(targets).collect(), state }
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Service> {
        self.list.iter().filter(move |service| service.kind == kind)
    }

    /// Asks all services of a kind at once.
    pub(super) async fn reach(&self, kind: Kind) -> Result<String, Failure> {
        let asked = join_all(self.of_kind(kind).map(Service::reach)).await;
        let key = kind.key();
        if asked.is_empty() {
            return Ok(format!("{key} names none: nothing has to be reached."));
        }
        let all = asked.len();
        let failed = asked.iter().enumerate().filter_map(|(index, one)| Some((index, one.as_ref().err()?)));
        let failed: Vec<_> = failed.collect();
        if failed.is_empty() {
            return Ok(match kind {
                Kind::Issuer => format!("The issuer of {key} answers with its document."),
                Kind::Witness | Kind::NotifyTarget => format!("All {all} of {key} can be reached."),
            });
        }
        let told: Vec<_> =
            failed.iter().map(|(index, problem)| format!("number {}: {problem}", index + 1)).collect();
        let names: Vec<_> = self.of_kind(kind).map(|service| &*service.name).collect();
        let logged: Vec<_> = failed
            .iter()
            .filter_map(|(index, problem)| Some(format!("{}: {problem}", names.get(*index)?)))
            .collect();
        let text = format!("Of {all} in {key} cannot be reached: {}.", told.join("; "));
        Err(Failure::new(text, kind.advice()).caused_by(logged.join("; ")))
    }

    /// Whether the database of the shared state can be used.
    pub(super) async fn state(&self) -> Result<String, Failure> {
        let Some(settings) = &self.state else {
            return Ok("core.state is \"files\": nothing has to be reached.".to_owned());
        };
        match shared::examine(settings).await {
            Ok(None) => Ok("The database of the shared state can be used.".to_owned()),
            Ok(Some(lacks)) => Ok(format!("The database of the shared state can be used, but {lacks}.")),
            Err(error) => {
                let remedy = error.remedy().unwrap_or("Correct core.postgres, or the database");
                let advice =
                    format!("{remedy}: without it this node does not know what is frozen on others.");
                Err(Failure::new(format!("{error}."), advice))
            }
        }
    }

    /// Runs the checks of the kinds that there are, except that of the issuer, which `kms check` asks for its keys.
    pub async fn examine(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        for (check, kind) in [(Check::Witness, Kind::Witness), (Check::Notify, Kind::NotifyTarget)] {
            if self.of_kind(kind).next().is_some() {
                found.push(ended(check, async { self.reach(kind).await.into() }).await);
            }
        }
        found
    }
}
