//! The epochs that operators choose for apps, one by one.

use std::sync::Arc;

use kms_attest::identity::AppId;
use kms_policy::RootChoice;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::EpochService;
use crate::api::{Caller, app_id, other_domain};
use crate::clock::{rfc3339, unix_now};
use crate::control::{Adopted, AppChoice, AppEpochError};
use crate::error::{Code, Error, Result};
use crate::keys::epoch::RootEpoch;
use crate::operator::DomainScope;
use crate::request;

/// When the epochs of so many apps of a domain are chosen, owners who are limited to it choose those of no further ones.
const SHARE_OF_DOMAIN: usize = 1000;

/// The apps whose epochs an operator chose.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AppEpochsList {
    /// By app id.
    apps: Vec<AppEpochsShown>,
    /// What became of the choices of another KMS that were received last, since the start of this process.
    received: Option<AppEpochsReceived>,
}

/// Choices that came from another KMS.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AppEpochsReceived {
    /// Where they came from.
    source: String,
    /// When; RFC 3339.
    at: String,
    /// How many apps have another choice since.
    changed: usize,
    /// Apps whose choice here is another one than there: it stays, unless an owner says otherwise.
    differing: Vec<AppDifference>,
}

/// An app whose epochs are chosen differently here and there: `ROOT.APP`, such as `current.2`, or null if nobody chose.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AppDifference {
    /// Hexadecimal.
    app_id: String,
    /// Here.
    own: Option<String>,
    /// There.
    received: Option<String>,
}

/// What an operator chose for an app. It is in force where the policy says nothing about the epochs of the app.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AppEpochsShown {
    /// Hexadecimal.
    app_id: String,
    /// Whether an operator chose; otherwise the app has the epochs that the policy says, 0 and 0 where it says nothing.
    chosen: bool,
    /// Whether the keys of the app are always those of the current epoch of the root keys.
    follows: bool,
    /// The epoch of the root keys at which it stays; null if it follows, or if nobody chose.
    root_epoch: Option<u32>,
    /// The epoch of the app itself; null if nobody chose.
    app_epoch: Option<u32>,
    /// When; RFC 3339.
    since: Option<String>,
    by: Option<String>,
}

/// The body of `PUT /api/v1/epochs/apps/{app}`: what it leaves out stays.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AppEpochsBody {
    /// `"current"` to follow the current epoch, or the number of the epoch to stay at.
    #[serde(default)]
    root_epoch: Option<RootEpochWanted>,
    /// The epoch of the app itself. A new one gives it other keys without new root keys.
    #[serde(default)]
    app_epoch: Option<u32>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "root_epoch must be \"current\" or the number of an epoch")]
enum RootEpochWanted {
    Number(u32),
    Word(Word),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Word {
    Current,
}

impl EpochService {
    /// What operators chose for the apps of `scope`.
    pub fn apps(&self, scope: &DomainScope) -> AppEpochsList {
        let chosen = self.foundation.app_epochs.list();
        let chosen = chosen.iter().filter(|(app, _)| self.expect_own(scope, app).is_ok());
        AppEpochsList {
            apps: chosen.map(|(app, choice)| AppEpochsShown::of(app, Some(choice))).collect(),
            received: self
                .received
                .load_full()
                .filter(|_| scope.reads_whole_kms())
                .map(|received| AppEpochsReceived::of(&received.0, received.1)),
        }
    }

    /// What an operator chose for one app.
    ///
    /// # Errors
    /// `app` is not an app id; `other_domain`.
    pub fn app(&self, scope: &DomainScope, app: &str) -> Result<AppEpochsShown> {
        let app = app_id(app)?;
        self.expect_own(scope, &app)?;
        Ok(AppEpochsShown::of(&app, self.foundation.app_epochs.of(&app).as_deref()))
    }

    /// Chooses the epochs of an app.
    ///
    /// # Errors
    /// `app` is not an app id; the epoch does not exist; `denied`, `other_domain`; a disk or an audit log that does not take
    /// it.
    pub async fn choose(&self, caller: &Caller, app: &str, body: AppEpochsBody) -> Result<AppEpochsShown> {
        let app = app_id(app)?;
        let AppEpochsBody { root_epoch, app_epoch } = body;
        if root_epoch.is_none() && app_epoch.is_none() {
            return Err(Error::invalid("names neither root_epoch nor app_epoch, so nothing was changed"));
        }
        let root = match root_epoch {
            None => None,
            Some(RootEpochWanted::Word(Word::Current)) => Some(RootChoice::Current),
            Some(RootEpochWanted::Number(epoch)) => Some(self.existing(epoch)?),
        };
        self.change(caller, app, move |before| {
            let (root_before, app_before) =
                before.map_or((RootChoice::Fixed(0), 0), |before| (before.root, before.app));
            Some((root.unwrap_or(root_before), app_epoch.unwrap_or(app_before)))
        })
        .await
    }

    /// Takes the choice for an app back.
    ///
    /// # Errors
    /// As [`EpochService::choose`].
    pub async fn forget(&self, caller: &Caller, app: &str) -> Result<AppEpochsShown> {
        self.change(caller, app_id(app)?, |_| None).await
    }

    async fn change(
        &self,
        caller: &Caller,
        app: AppId,
        choose: impl Fn(Option<&AppChoice>) -> Option<(RootChoice, u32)> + Send + 'static,
    ) -> Result<AppEpochsShown> {
        self.expect_own(caller.scope()?, &app)?;
        self.expect_share(caller.scope()?, &app)?;
        let (foundation, author) = (Arc::clone(&self.foundation), caller.author());
        // A task of its own, so that a caller that disconnects does not leave a change half made.
        let change = request::spawn(async move {
            foundation.app_epochs.change(app, choose, author, &foundation.audit).await
        });
        let choice = change.await.map_err(|error| Error::internal("the change ended in a panic", error))?;
        Ok(AppEpochsShown::of(&app, choice.map_err(failed)?.as_deref()))
    }

    /// Checks that an app is in a domain of `scope`.
    fn expect_own(&self, scope: &DomainScope, app: &AppId) -> Result<()> {
        match scope.has(&self.foundation.domains.of(app).name) {
            true => Ok(()),
            false => Err(other_domain(scope, "the app is in another one")),
        }
    }

    /// Checks that one domain does not take the room of the others. An app with a choice takes no more.
    fn expect_share(&self, scope: &DomainScope, app: &AppId) -> Result<()> {
        let chosen = self.foundation.app_epochs.list();
        let Some(domain) = scope.limit().filter(|_| chosen.iter().all(|(known, _)| known != app)) else {
            return Ok(());
        };
        match chosen.iter().filter(|(app, _)| self.expect_own(scope, app).is_ok()).count() {
            own if own < SHARE_OF_DOMAIN => Ok(()),
            own => Err(Error::invalid(format!(
                "the epochs of {own} apps of the domain {domain} are chosen already: only an owner of the whole KMS can choose \
                 those of more; nothing was changed"
            ))),
        }
    }

    /// An epoch at which an app can stay.
    fn existing(&self, epoch: u32) -> Result<RootChoice> {
        let readable = self.ready.readable_epoch(RootEpoch(epoch), unix_now());
        readable.map_err(|error| Error::invalid(format!("{error}; nothing was changed")))?;
        Ok(RootChoice::Fixed(epoch))
    }
}

impl AppEpochsReceived {
    fn of(adopted: &Adopted, at: u64) -> Self {
        let differing = adopted.kept.iter().map(|it| AppDifference {
            app_id: hex::encode(it.app),
            own: it.own.map(|own| own.to_string()),
            received: it.received.map(|received| received.to_string()),
        });
        Self {
            source: adopted.source.clone(),
            at: rfc3339(at),
            changed: adopted.changed,
            differing: differing.collect(),
        }
    }
}

impl AppEpochsShown {
    fn of(app: &AppId, choice: Option<&AppChoice>) -> Self {
        Self {
            app_id: hex::encode(app),
            chosen: choice.is_some(),
            follows: choice.is_some_and(|choice| choice.root == RootChoice::Current),
            root_epoch: choice.and_then(|choice| match choice.root {
                RootChoice::Current => None,
                RootChoice::Fixed(epoch) => Some(epoch),
            }),
            app_epoch: choice.map(|choice| choice.app),
            since: choice.map(|choice| rfc3339(choice.since)),
            by: choice.map(|choice| choice.by.clone()),
        }
    }
}

fn failed(error: AppEpochError) -> Error {
    let code = match error {
        AppEpochError::Full => Code::InvalidRequest,
        AppEpochError::Overtaken => Code::Conflict,
        AppEpochError::NotRecorded(_)
        | AppEpochError::NotKept(_)
        | AppEpochError::Unsynced(_)
        | AppEpochError::NotShared(_) => Code::Unavailable,
    };
    Error::new(code, error.to_string()).caused_by(error)
}
