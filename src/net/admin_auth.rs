//! Authentication on the admin listener, and the delay for wrong credentials.
//!
//! The token is compared first, at once and in constant time: a caller with the token is admitted whatever
//! others at the same address do. Wrong credentials are slowed down.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Method as Verb, Response, StatusCode, Uri, header};

use super::answer::{Answer, refusal};
use super::oidc::{Issuer, Refusal};
use super::passwords::{Passwords, Verdict};
use super::same_site::{self, OwnNames};
use super::{probes, prpc};
use crate::api::fleet::perhaps_revoked;
use crate::api::routes::Route;
use crate::api::wrong_credentials::WrongCredentials;
use crate::api::{Method, Role, Service, WhileStale};
use crate::audit::Audit;
use crate::control::Domains;
use crate::error::{Code, Error};
use crate::metrics::Metrics;
use crate::operator::{AccessToken, Credentials, DomainScope, Operator, Password, Shown};
use crate::state::shared::{Stale, View};

/// `Retry-After` when a password could not be checked.
const BUSY: Duration = Duration::from_secs(2);
/// `Retry-After` when what was changed on other nodes is not known.
const STALE: Duration = Duration::from_secs(5);
/// `Retry-After` when the issuer's keys are not known.
const NO_ISSUER: Duration = Duration::from_secs(10);
/// How long the response is delayed for a password that was wrong before.
const AGAIN: Duration = Duration::from_secs(1);

/// Why a request is not let through.
#[derive(Debug)]
pub(super) enum Refused {
    /// TRACE and other unusual methods: gRPC would serve any.
    Verb,
    /// No credentials, or wrong ones.
    Credentials,
    /// Too many wrong credentials from this address, which is locked for this long.
    Locked(Duration),
    /// Too many other passwords are being checked.
    Busy,
    /// It has an access token, and the issuer's keys are not known.
    NoIssuer,
    /// A page of another site made a browser send it, with the credentials that the browser stores.
    OtherSite,
    /// The credential is limited to a domain that this KMS does not have.
    OtherDomain,
    /// It is for a host of another name, and no credentials are needed.
    OtherHost,
    /// Its credential may have been revoked on another node.
    Stale(Stale),
}

/// Authenticates every request.
#[derive(Debug)]
pub(super) struct AdminAuth {
    credentials: Arc<Credentials>,
    domains: Arc<Domains>,
    passwords: Passwords,
    wrong: WrongCredentials,
    names: OwnNames,
    /// Of access tokens.
    issuer: Option<Arc<Issuer>>,
    /// What is known of the other nodes of a fleet.
    view: Option<Arc<View>>,
}

impl AdminAuth {
    pub(super) fn new(
        credentials: Arc<Credentials>,
        domains: Arc<Domains>,
        names: OwnNames,
        audit: Arc<Audit>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let wrong = WrongCredentials::new("admin", audit, Arc::clone(&metrics));
        let passwords = Passwords::new(Arc::clone(&credentials), Arc::clone(wrong.lockout()));
        passwords.report_to(&metrics);
        Self { credentials, domains, passwords, wrong, names, issuer: None, view: None }
    }

    /// Accepts the access tokens of this issuer too.
    pub(super) fn trust(&mut self, issuer: Option<Arc<Issuer>>) {
        self.issuer = issuer;
    }

    /// Trusts named credentials of operators and owners only while `view` is fresh.
    pub(super) fn share(&mut self, view: Option<Arc<View>>) {
        self.view = view;
    }

    /// By which requests are authenticated.
    pub(super) fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }

    /// Whether these headers show the token, or no credentials are needed: the checks that need no password
    /// hash.
    pub(super) fn knows_at_once(&self, headers: &HeaderMap) -> bool {
        matches!(self.credentials.shown(headers), Shown::Right(_))
    }

    /// The operator who sent the request and what it may see, or why it is refused.
    pub(super) async fn identify(
        &self,
        verb: &Verb,
        uri: &Uri,
        headers: &HeaderMap,
        address: IpAddr,
        metrics: &Metrics,
    ) -> Result<(Operator, DomainScope), Refused> {
        const GUARDED: [Verb; 7] =
            [Verb::GET, Verb::POST, Verb::PUT, Verb::PATCH, Verb::DELETE, Verb::OPTIONS, Verb::HEAD];
        if !GUARDED.contains(verb) {
            return Err(Refused::Verb);
        }
        if same_site::is_of_another_site(verb, uri, headers) {
            return Err(Refused::OtherSite);
        }
        if matches!(*self.credentials, Credentials::NoneNeeded) && !self.names.include(uri, headers) {
            return Err(Refused::OtherHost);
        }
        let operator = self.known(headers, address, metrics).await?;
        self.expect_known(&operator, verb, uri.path())?;
        let scope = self.scope(&operator)?;
        Ok((operator, scope))
    }

    /// Checks that a named credential of an operator or owner, which may have been revoked on another node, changes nothing while
    /// that is not known. The token and the users of this machine's files are not changed elsewhere.
    fn expect_known(&self, operator: &Operator, verb: &Verb, path: &str) -> Result<(), Refused> {
        let (Operator::Named { role, .. }, Some(view)) = (operator, &self.view) else { return Ok(()) };
        let is_allowed = match while_stale(path) {
            WhileStale::All => true,
            WhileStale::Reads => matches!(*verb, Verb::GET | Verb::HEAD | Verb::OPTIONS),
            WhileStale::Nothing => false,
        };
        match is_allowed || !role.includes(Role::Operator) {
            true => Ok(()),
            false => view.check().map_err(Refused::Stale),
        }
    }

    /// What an operator may see and change. A credential of a domain that is gone is of no use.
    fn scope(&self, operator: &Operator) -> Result<DomainScope, Refused> {
        let Some(limit) = operator.domain() else { return Ok(DomainScope::WHOLE_KMS) };
        let domain = self.domains.named(limit).ok_or(Refused::OtherDomain)?;
        Ok(DomainScope::limited(domain.name.clone(), self.domains.others()))
    }

    /// The operator whose credentials these headers show.
    async fn known(
        &self,
        headers: &HeaderMap,
        address: IpAddr,
        metrics: &Metrics,
    ) -> Result<Operator, Refused> {
        match self.credentials.shown(headers) {
            Shown::Nothing => Err(Refused::Credentials),
            Shown::Right(operator) => {
                if operator == Operator::Token {
                    self.wrong.token_was_right(address);
                    self.passwords.knows(address);
                }
                Ok(operator)
            }
            Shown::Wrong => Err(match self.wrong.token(address).await {
                None => Refused::Credentials,
                Some(wait) => Refused::Locked(wait),
            }),
            Shown::Password(shown) => self.password(shown, address, metrics).await,
            Shown::Token(token) => self.access_token(&token, address).await,
        }
    }

    /// The holder of an access token. A token that the issuer has signed is no guess, even if it is no longer valid.
    async fn access_token(&self, token: &AccessToken, address: IpAddr) -> Result<Operator, Refused> {
        let identified = match &self.issuer {
            Some(issuer) => issuer.identify(token.text(), self.credentials.now()).await,
            None => Err(Refusal::Wrong),
        };
        match identified {
            Ok(operator) => {
                self.passwords.knows(address);
                Ok(operator)
            }
            Err(Refusal::Outdated) => Err(Refused::Credentials),
            Err(Refusal::Unreachable) => Err(Refused::NoIssuer),
            Err(Refusal::Wrong) => Err(match self.wrong.token(address).await {
                None => Refused::Credentials,
                Some(wait) => Refused::Locked(wait),
            }),
        }
    }

    async fn password(
        &self,
        shown: Password,
        address: IpAddr,
        metrics: &Metrics,
    ) -> Result<Operator, Refused> {
        let user = shown.user().to_owned();
        match self.passwords.check(shown, address).await {
            Verdict::Right(version) => self.credentials.operator(&user, version).ok_or(Refused::Credentials),
            Verdict::Wrong(lock) => {
                self.wrong.password(address, lock);
                Err(Refused::Credentials)
            }
            Verdict::Again => {
                self.wrong.password(address, None);
                self.wrong.slow(AGAIN).await;
                Err(Refused::Credentials)
            }
            Verdict::Locked(wait) => {
                self.wrong.slow(wait).await;
                Err(Refused::Locked(wait))
            }
            Verdict::Busy => {
                metrics.password_shed();
                Err(Refused::Busy)
            }
        }
    }
}

impl Refused {
    /// 404; 401 without a body; 403, 429 and 503 in the protocol of the request.
    pub(super) fn answer(self, is_grpc: bool) -> Answer {
        match self {
            Self::Verb => prpc::plain(StatusCode::NOT_FOUND, "not found").map(Body::new),
            Self::Credentials => {
                let mut answer = Response::new(Body::empty());
                *answer.status_mut() = StatusCode::UNAUTHORIZED;
                let challenge = HeaderValue::from_static("Basic realm=\"dstack-kms admin\"");
                answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
                answer
            }
            Self::OtherSite => {
                let text = "a page of another site may not do this; use kmsctl, or curl";
                refusal(is_grpc, &Error::new(Code::Denied, text))
            }
            Self::OtherDomain => {
                let text = "this credential is limited to a domain that this KMS does not have";
                refusal(is_grpc, &Error::new(Code::Denied, text).because("other_domain"))
            }
            Self::OtherHost => {
                let text = "without credentials, this listener is called by its IP address, or by a name in the configuration";
                refusal(is_grpc, &Error::new(Code::Denied, text))
            }
            Self::Stale(stale) => try_again(is_grpc, STALE, &perhaps_revoked(&stale)),
            Self::Locked(wait) => {
                let text = "too many wrong credentials from this address; try later";
                try_again(is_grpc, wait, &Error::new(Code::TooManyRequests, text))
            }
            Self::NoIssuer => {
                let text =
                    "the issuer of access tokens cannot be reached; try again, or use another credential";
                try_again(
                    is_grpc,
                    NO_ISSUER,
                    &Error::new(Code::Unavailable, text).because("issuer_unavailable"),
                )
            }
            Self::Busy => {
                let text = "too many passwords are being checked; try again";
                try_again(is_grpc, BUSY, &Error::new(Code::Unavailable, text))
            }
        }
    }
}

/// What named credentials may do while the node is stale, by the tables of routes and methods; nothing with what is in neither.
fn while_stale(path: &str) -> WhileStale {
    let method = || {
        let name = path.rsplit(['/', '.']).next().unwrap_or_default();
        Method::find(Service::Admin, name).map(|row| row.while_stale)
    };
    let route = Route::serving(Service::Admin, path).map(|row| row.while_stale);
    let probe = || path.starts_with(probes::GRPC).then_some(WhileStale::All);
    route.or_else(method).or_else(probe).unwrap_or(WhileStale::Nothing)
}

fn try_again(is_grpc: bool, wait: Duration, cause: &Error) -> Answer {
    let mut answer = refusal(is_grpc, cause);
    let seconds = HeaderValue::from(wait.as_secs() + 1);
    answer.headers_mut().insert(header::RETRY_AFTER, seconds);
    answer
}
