//! Domains, for operators: shown, made, archived and restored, and apps that are put into one or moved to another.

mod loss;
mod shown;

use std::sync::Arc;

use kms_attest::identity::{AppId, BadDomainName, DomainName};
use kms_policy::RootChoice;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use self::loss::Loss;
pub use self::loss::LostKeys;
pub use self::shown::{DomainDetail, DomainList, DomainShown, MemberShown};
use super::approval_gate::ApprovalGate;
use super::events::EventService;
use super::{Caller, app_id};
use crate::admission::Foundation;
use crate::clock::unix_now;
use crate::config::{DefaultEpoch, DomainRules};
use crate::control::{Approved, Author, DomainChange, DomainError, MoveApp, RestoreDomain};
use crate::error::{Code, Error, Result};
use crate::keys::epoch::RootEpoch;
use crate::lifecycle::Ready;
use crate::operator::DomainScope;
use crate::request;

/// Shows and changes domains.
#[derive(Debug)]
pub struct DomainService {
    foundation: Arc<Foundation>,
    ready: Arc<Ready>,
    gate: ApprovalGate,
    events: Arc<EventService>,
    /// One change at a time, from the look at the inventory to its end.
    turn: Mutex<()>,
}

/// The body of `POST /api/v1/domains`. A policy of its own can only be in the configuration.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateDomain {
    /// Its name: 1 to 24 lower-case letters, digits, `-` or `.`. It is part of the derivation of its apps' keys.
    #[schemars(with = "String")]
    name: DomainName,
    /// What holds in it, as in `[domains.NAME]`.
    #[serde(default)]
    rules: DomainRules,
}

/// A body without content: `{}`, or nothing.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoContent {}

/// The body of `POST /api/v1/domains/{name}/apps`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AssignApp {
    /// 40 hex digits.
    app_id: String,
}

/// The body of `POST /api/v1/domains/{name}/apps/{app}/move`, which may be empty.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveBody {
    /// Whether it is only said what the app would lose.
    #[serde(default)]
    preview: bool,
}

/// What became of an app.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PlacedApp {
    /// Hexadecimal.
    app_id: String,
    /// The domain that was asked for.
    domain: String,
    /// The domain that the app was in; the same if there was nothing to change.
    previous_domain: String,
    /// Whether it is in another domain since.
    changed: bool,
    /// Which keys it loses by that, or has lost; null if it stays where it is.
    loses: Option<LostKeys>,
    /// The same as a sentence.
    message: String,
}

impl DomainService {
    /// The service of a KMS with keys.
    pub fn new(
        foundation: Arc<Foundation>,
        ready: Arc<Ready>,
        gate: ApprovalGate,
        events: Arc<EventService>,
    ) -> Self {
        Self { foundation, ready, gate, events, turn: Mutex::default() }
    }

    /// The domains of `scope`.
    pub fn list(&self, scope: &DomainScope) -> DomainList {
        let domains = self.foundation.domains.list();
        let own = domains.iter().filter(|domain| scope.has(&domain.name));
        DomainList { domains: own.map(|domain| self.shown(domain)).collect() }
    }

    /// One domain of `scope` with its apps.
    ///
    /// # Errors
    /// There is none of this name, or it is another one: the answer is the same.
    pub fn show(&self, scope: &DomainScope, name: &str) -> Result<DomainDetail> {
        let name = parse(name)?;
        match scope.has(&name) {
            true => self.detail(&name),
            false => Err(refused(DomainError::Unknown(name))),
        }
    }

    fn detail(&self, name: &DomainName) -> Result<DomainDetail> {
        let domains = &self.foundation.domains;
        let domain = domains.named(name).ok_or_else(|| refused(DomainError::Unknown(name.clone())))?;
        let apps = domains.members(name).into_iter().map(MemberShown::of).collect();
        Ok(DomainDetail { domain: self.shown(&domain), apps })
    }

    /// Makes a domain.
    ///
    /// # Errors
    /// `domain_refused`, `other_domain`; a disk or an audit log that does not take it.
    pub async fn create(self: &Arc<Self>, caller: &Caller, body: CreateDomain) -> Result<DomainDetail> {
        let CreateDomain { name, rules } = body;
        if let Some(DefaultEpoch(RootChoice::Fixed(epoch))) = rules.default_epoch {
            let readable = self.ready.readable_epoch(RootEpoch(epoch), unix_now());
            readable.map_err(|error| Error::invalid(format!("{error}; nothing was changed")))?;
        }
        self.change(caller, DomainChange::Create(name.clone(), Box::new(rules))).await?;
        self.detail(&name)
    }

    /// Lets nothing be released in a domain any more.
    ///
    /// # Errors
    /// As [`DomainService::create`].
    pub async fn archive(self: &Arc<Self>, caller: &Caller, name: &str) -> Result<DomainDetail> {
        let name = parse(name)?;
        self.change(caller, DomainChange::Archive(name.clone())).await?;
        self.detail(&name)
    }

    /// Ends that, as the end of a freeze.
    ///
    /// # Errors
    /// `approval_needed`; otherwise as [`DomainService::create`].
    pub async fn restore(self: &Arc<Self>, caller: &Caller, name: &str) -> Result<DomainDetail> {
        let name = parse(name)?;
        caller.expect_whole_kms()?;
        let mut domain = self.foundation.domains.named(&name);
        if domain.as_ref().is_none_or(|domain| domain.archived.is_none()) {
            self.foundation.domains.see_newest().await.map_err(refused)?;
            domain = self.foundation.domains.named(&name);
        }
        let domain = domain.ok_or_else(|| refused(DomainError::Unknown(name.clone())))?;
        if let Some(archived) = &domain.archived {
            let (archived_at, archived_by) = (archived.since, archived.by.clone());
            let action = RestoreDomain { name: name.clone(), archived_at, archived_by };
            let approved = self.gate.pass(caller, action).await?;
            self.restore_approved(approved).await?;
        }
        self.detail(&name)
    }

    /// Restores a domain.
    ///
    /// # Errors
    /// It was archived again since; a disk or an audit log that does not take it.
    pub async fn restore_approved(self: &Arc<Self>, approved: Approved<RestoreDomain>) -> Result<String> {
        let RestoreDomain { name, archived_at, .. } = approved.action().clone();
        let (service, author) = (Arc::clone(self), approved.author().clone());
        let made = request::spawn(async move {
            let _turn = service.turn.lock().await;
            let change = DomainChange::Restore { name: name.clone(), archived_at };
            Ok(match service.make(change, author).await? {
                true => format!("keys are released in the domain {name} again"),
                false => format!("the domain {name} was not archived"),
            })
        });
        made.await.map_err(|error| Error::internal("the change ended in a panic", error))?
    }

    async fn change(self: &Arc<Self>, caller: &Caller, change: DomainChange) -> Result<bool> {
        caller.expect_whole_kms()?;
        let (service, author) = (Arc::clone(self), caller.author());
        // A task of its own, so that a caller that disconnects does not leave a change half made.
        let made = request::spawn(async move {
            let _turn = service.turn.lock().await;
            service.make(change, author).await
        });
        made.await.map_err(|error| Error::internal("the change ended in a panic", error))?
    }

    async fn make(&self, change: DomainChange, author: Author) -> Result<bool> {
        let Foundation { domains, audit, .. } = &*self.foundation;
        domains.change(change, author, audit).await.map_err(refused)
    }

    /// Puts an app into a domain that no domain names yet, and that has received no keys.
    ///
    /// # Errors
    /// `needs_move`, if it has received keys, or if the inventory lacks records by which that would be known; otherwise as [`DomainService::create`].
    pub async fn assign(self: &Arc<Self>, caller: &Caller, name: &str, body: AssignApp) -> Result<PlacedApp> {
        let (domain, app) = (parse(name)?, app_id(&body.app_id)?);
        caller.expect_whole_kms()?;
        let (service, author) = (Arc::clone(self), caller.author());
        let made = request::spawn(async move { service.assigned(app, domain, author).await });
        made.await.map_err(|error| Error::internal("the change ended in a panic", error))?
    }

    async fn assigned(&self, app: AppId, domain: DomainName, author: Author) -> Result<PlacedApp> {
        let _turn = self.turn.lock().await;
        let change = DomainChange::Assign(app, domain.clone());
        if !self.foundation.domains.foresee(&change).await.map_err(refused)? {
            return Ok(PlacedApp::unchanged(&app, &domain));
        }
        let before = self.loss(&app).await?;
        if !before.is_known_to_be_none() {
            let text = format!(
                "the app {app} would lose keys, or may: {}; nothing was changed: move it instead (kmsctl domain move)",
                before.sentence()
            );
            return Err(Error::new(Code::Conflict, text).because("needs_move"));
        }
        if !self.make(change, author).await? {
            return Ok(PlacedApp::unchanged(&app, &domain));
        }
        // A release that was under way when the app was looked up is either withheld or recorded by now.
        let loss = self.loss_of(&app, before.domain()).await.unwrap_or(before);
        Ok(PlacedApp::of(&app, &domain, true, &loss))
    }

    /// Moves an app to another domain, or says what it would lose.
    ///
    /// # Errors
    /// `approval_needed`; otherwise as [`DomainService::create`].
    pub async fn move_app(
        self: &Arc<Self>,
        caller: &Caller,
        name: &str,
        app: &str,
        body: MoveBody,
    ) -> Result<PlacedApp> {
        let (to, app) = (parse(name)?, app_id(app)?);
        if self.foundation.domains.of(&app).name == to {
            self.foundation.domains.see_newest().await.map_err(refused)?;
        }
        let from = self.foundation.domains.of(&app).name.clone();
        let change = DomainChange::Move { app, from: from.clone(), to: to.clone() };
        if !self.foundation.domains.foresee(&change).await.map_err(refused)? {
            return Ok(PlacedApp::unchanged(&app, &to));
        }
        let loss = self.loss_of(&app, &from).await?;
        if body.preview {
            return Ok(PlacedApp::of(&app, &to, false, &loss));
        }
        let action = MoveApp { app_id: app.0, from, to: to.clone(), loses: loss.sentence() };
        let approved = self.gate.pass(caller, action).await?;
        self.move_approved(approved).await?;
        Ok(PlacedApp::of(&app, &to, true, &loss))
    }

    /// Moves an app, and says what it has lost.
    ///
    /// # Errors
    /// It is in another domain by now; a disk or an audit log that does not take it.
    pub async fn move_approved(self: &Arc<Self>, approved: Approved<MoveApp>) -> Result<String> {
        let MoveApp { app_id, from, to, .. } = approved.action().clone();
        let (service, author, app) = (Arc::clone(self), approved.author().clone(), AppId(app_id));
        let made = request::spawn(async move {
            let _turn = service.turn.lock().await;
            let changed =
                service.make(DomainChange::Move { app, from: from.clone(), to: to.clone() }, author).await?;
            // Also of releases since it was asked for. The move is made: that the index does not answer is no failure of it.
            let sentence = match service.loss_of(&app, &from).await {
                Ok(loss) => loss.sentence(),
                Err(_) => format!("it gets no keys of the domain {from} any more"),
            };
            Ok(match changed {
                true => format!("the app {app} is in the domain {to} now; {sentence}"),
                false => format!("the app {app} was in the domain {to} already"),
            })
        });
        made.await.map_err(|error| Error::internal("the change ended in a panic", error))?
    }
}

impl PlacedApp {
    fn unchanged(app: &AppId, domain: &DomainName) -> Self {
        Self {
            app_id: hex::encode(app),
            domain: domain.to_string(),
            previous_domain: domain.to_string(),
            changed: false,
            loses: None,
            message: format!("the app is in the domain {domain} already; nothing was changed"),
        }
    }

    fn of(app: &AppId, domain: &DomainName, changed: bool, loss: &Loss) -> Self {
        Self {
            app_id: hex::encode(app),
            domain: domain.to_string(),
            previous_domain: loss.domain().to_string(),
            changed,
            loses: Some(loss.shown()),
            message: loss.sentence(),
        }
    }
}

fn parse(name: &str) -> Result<DomainName> {
    name.parse().map_err(|error: BadDomainName| Error::invalid(error.to_string()))
}

fn refused(error: DomainError) -> Error {
    let text = error.to_string();
    match error {
        DomainError::Unknown(_) | DomainError::LongName | DomainError::Contradiction(_) => {
            Error::invalid(text)
        }
        DomainError::Exists(_)
        | DomainError::TooManyDomains
        | DomainError::TooManyApps
        | DomainError::TooLarge(_)
        | DomainError::TooLong
        | DomainError::Default
        | DomainError::Archived(_)
        | DomainError::ArchivedAgain(_)
        | DomainError::Configured { .. }
        | DomainError::Elsewhere { .. } => Error::new(Code::Conflict, text).because("domain_refused"),
        DomainError::NotRecorded(_)
        | DomainError::NotKept(_)
        | DomainError::NotShared(_)
        | DomainError::Unsynced(_) => Error::new(Code::Unavailable, text).caused_by(error),
    }
}
