//! `Freeze`, `Unfreeze`, `ListFrozen`: stop releases to one target now.

use std::sync::Arc;
use std::time::Duration;

use kms_attest::identity::DomainName;
use tokio::task::JoinHandle;

use super::AdminService;
use crate::api::{Caller, Role, other_domain};
use crate::clock::unix_now;
use crate::control::{
    Approved, Earlier, Freeze, FreezeError, MAX_REASON, Reach, RecentApps, Room, Scope, SeenFreeze, Unfreeze,
    Unfrozen,
};
use crate::error::{Code, Error, Result};
use crate::operator::{DomainScope, Operator};
use crate::proto::{
    FreezeRequest, FreezeResponse, FrozenEntry, ListFrozenResponse, RecentReleasesResponse, UnfreezeRequest,
    UnfreezeResponse,
};
use crate::request;

/// When so many freezes of a domain are in force, operators who are limited to it add no further ones.
const SHARE_OF_DOMAIN: usize = 100;

/// What is said of a freeze that would end earlier than the one in force.
const ONLY_BY_UNFREEZE: &str = "it is frozen for longer already; nothing was changed. With core.admin.approvals = 2 it ends earlier \
                                only by unfreeze";
/// How long a response waits for the file and the audit log.
const DISK_TIME: Duration = Duration::from_secs(20);

impl AdminService {
    /// `Admin.Freeze`: once this returns, nothing is released to the target.
    ///
    /// # Errors
    /// An invalid scope; no reason; an end in the past, or before that of a freeze in force; too many
    /// freezes. If the file or the audit log cannot be written, the error says so, and that the freeze is in
    /// force nevertheless.
    pub async fn freeze(&self, caller: &Caller, request: FreezeRequest) -> Result<FreezeResponse> {
        let scope = scope(&request.scope, &request.value)?;
        self.expect_target(caller.scope()?, scope)?;
        if self.domain_of(scope).is_none() {
            caller.expect_whole_kms()?;
        }
        self.expect_share(caller.scope()?, scope)?;
        let reason = reason(request.reason)?;
        if reason.is_empty() {
            return Err(Error::invalid("reason must not be empty: other operators will need it"));
        }
        let since = unix_now();
        if let Some(end) = request.expires_at.filter(|end| *end <= since) {
            return Err(Error::invalid(format!("expires_at must be later than now, {since}, got {end}")));
        }
        let freeze = Freeze { scope, reason, since, expires_at: request.expires_at, author: caller.author() };
        // With two owners, a freeze that ends earlier is an unfreeze, which one person cannot do.
        let needs_two = self.gate.needs_two();
        let earlier = match request.replace && !needs_two {
            true => Earlier::IsReplaced,
            false => Earlier::MayBeExtended,
        };
        let is_owner = |operator: &Operator| {
            operator.domain().is_none() && operator.role().is_some_and(|role| role.includes(Role::Owner))
        };
        let room = match caller.identity().is_some_and(is_owner) {
            true => Room::OfOwners,
            false => Room::OfOperators,
        };
        let frozen = entry(&freeze, None);
        let (freezes, audit) = (Arc::clone(&self.foundation.freezes), Arc::clone(&self.foundation.audit));
        let change = request::spawn(async move { freezes.freeze(freeze, earlier, room, &audit).await });
        let reach = finished(
            change,
            "it is frozen now, but the disk does not respond: the freeze may not survive a restart",
            |error| match needs_two && matches!(error, FreezeError::Shortens { .. }) {
                true => Error::invalid(ONLY_BY_UNFREEZE).caused_by(error),
                false => failed(error),
            },
        )
        .await?;
        let shared = match reach {
            Reach::ThisMachine => None,
            Reach::Fleet => Some(true),
            Reach::NotYet(why) => {
                tracing::warn!(%why, "a freeze is in force here, and not on the other nodes yet");
                Some(false)
            }
        };
        Ok(FreezeResponse { frozen: Some(FrozenEntry { shared, ..frozen }), shared })
    }

    /// `Admin.Unfreeze`.
    ///
    /// # Errors
    /// An invalid scope; a file or an audit log that cannot be written. The freeze stays then.
    pub async fn unfreeze(&self, caller: &Caller, request: UnfreezeRequest) -> Result<UnfreezeResponse> {
        let scope = scope(&request.scope, &request.value)?;
        let reason = reason(request.reason)?;
        self.learn(scope).await?;
        // Not asked of a second owner if there is nothing to end.
        let Some(freeze) = self.foundation.freezes.kept_of(scope) else {
            return Ok(UnfreezeResponse { was_frozen: false });
        };
        let freeze = self.gate.needs_two().then(|| SeenFreeze::from(&*freeze));
        let unfreeze = Unfreeze { scope: request.scope, value: request.value, reason, freeze };
        self.unfreeze_approved(self.gate.pass(caller, unfreeze).await?).await
    }

    /// Waits until this node knows whether another one has frozen `target`, unless it is frozen here.
    ///
    /// # Errors
    /// That is not known in time.
    pub(in crate::api) async fn learn(&self, target: Scope) -> Result<()> {
        self.foundation.freezes.learn(target).await.map_err(failed)
    }

    /// Makes the change.
    pub(in crate::api) async fn unfreeze_approved(
        &self,
        approved: Approved<Unfreeze>,
    ) -> Result<UnfreezeResponse> {
        let (freezes, audit) = (Arc::clone(&self.foundation.freezes), Arc::clone(&self.foundation.audit));
        let change = request::spawn(async move { freezes.unfreeze(&approved, &audit).await });
        let when_slow = "the disk does not respond: it may still be frozen, see ListFrozen";
        let thaw = finished(change, when_slow, failed).await?;
        Ok(UnfreezeResponse { was_frozen: thaw == Unfrozen::Done })
    }

    /// `Admin.RecentReleases`: what a freeze of everything would stop.
    pub async fn recent_releases(&self, _: &Caller, (): ()) -> Result<RecentReleasesResponse> {
        let RecentApps { apps, since } = self.foundation.freezes.recent_apps();
        Ok(RecentReleasesResponse { apps: u32::try_from(apps).unwrap_or(u32::MAX), since })
    }

    /// `Admin.ListFrozen`.
    pub async fn list_frozen(&self, caller: &Caller, (): ()) -> Result<ListFrozenResponse> {
        let freezes = self.freezes(caller.scope()?);
        let shown = |freeze: &Arc<Freeze>| entry(freeze, self.foundation.freezes.is_shared(freeze.scope));
        Ok(ListFrozenResponse { frozen: freezes.iter().map(shown).collect() })
    }

    /// The freezes in force that `domains` has: those of its apps.
    pub(in crate::api) fn freezes(&self, domains: &DomainScope) -> Vec<Arc<Freeze>> {
        let mut freezes = self.foundation.freezes.list();
        freezes.retain(|freeze| domains.reads(self.domain_of(freeze.scope).as_ref()));
        freezes
    }

    /// Checks that `domains` has what a freeze is about. A machine or an OS image is of no domain.
    ///
    /// # Errors
    /// `other_domain`
    pub(in crate::api) fn expect_target(&self, domains: &DomainScope, target: Scope) -> Result<()> {
        if domains.reads(self.domain_of(target).as_ref()) {
            return Ok(());
        }
        Err(other_domain(domains, "this is about something else than an app of this domain"))
    }

    /// Checks that one domain does not take the room of the others. A freeze that is in force takes no more.
    fn expect_share(&self, domains: &DomainScope, target: Scope) -> Result<()> {
        let Some(domain) = domains.limit() else { return Ok(()) };
        if self.foundation.freezes.of(target).is_some() || self.freezes(domains).len() < SHARE_OF_DOMAIN {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "{SHARE_OF_DOMAIN} freezes of the domain {domain} are in force: only an operator of the whole KMS can add more; \
             nothing was changed"
        )))
    }

    /// The domain of a target; `None` if it is no app.
    fn domain_of(&self, target: Scope) -> Option<DomainName> {
        match target {
            Scope::App(app) => Some(self.foundation.domains.of(&app).name.clone()),
            Scope::Kms | Scope::Instance(_) | Scope::Device(_) | Scope::OsImage(_) => None,
        }
    }
}

/// Waits for a change. It is a task of its own, so that a caller that disconnects does not leave it half
/// done.
async fn finished<T>(
    change: JoinHandle<std::result::Result<T, FreezeError>>,
    when_slow: &'static str,
    failed: impl FnOnce(FreezeError) -> Error,
) -> Result<T> {
    match tokio::time::timeout(DISK_TIME, change).await {
        Ok(Ok(outcome)) => outcome.map_err(failed),
        Ok(Err(error)) => Err(Error::internal("the change ended in a panic", error)),
        Err(slow) => Err(Error::unavailable(when_slow, slow)),
    }
}

fn scope(name: &str, value: &[u8]) -> Result<Scope> {
    Scope::parse(name, value).map_err(|error| Error::invalid(error.to_string()))
}

/// A reason: one line, at most [`MAX_REASON`] bytes.
pub(super) fn reason(text: String) -> Result<String> {
    let trimmed = text.trim();
    if trimmed.len() > MAX_REASON {
        return Err(Error::invalid(format!(
            "reason must be at most {MAX_REASON} bytes, got {}",
            trimmed.len()
        )));
    }
    if trimmed.chars().any(char::is_control) {
        return Err(Error::invalid("reason must be one line of text"));
    }
    Ok(trimmed.to_owned())
}

/// Includes the system's error text: operators are authenticated, and it contains no path.
fn failed(error: FreezeError) -> Error {
    let code = match error {
        FreezeError::Full
        | FreezeError::ShareFull
        | FreezeError::Shortens { .. }
        | FreezeError::Changed { .. }
        | FreezeError::FrozenAgain { .. }
        | FreezeError::Scope(_) => Code::InvalidRequest,
        FreezeError::NotKept(_)
        | FreezeError::NotRecorded(_)
        | FreezeError::NeitherKeptNorRecorded { .. }
        | FreezeError::UnfreezeNotRecorded(_)
        | FreezeError::NotSeen
        | FreezeError::ShortensHere { .. }
        | FreezeError::UnfreezeNotShared(_)
        | FreezeError::UnfreezeNotKept(_)
        | FreezeError::UnfreezeLeftOnDisk(_)
        | FreezeError::UnfreezeUnsynced(_) => Code::Unavailable,
    };
    Error::new(code, error.to_string()).caused_by(error)
}

fn entry(freeze: &Freeze, shared: Option<bool>) -> FrozenEntry {
    FrozenEntry {
        scope: freeze.scope.name().to_owned(),
        value: freeze.scope.value().to_vec(),
        reason: freeze.reason.clone(),
        since: freeze.since,
        expires_at: freeze.expires_at,
        by: freeze.author.by.clone(),
        remote: freeze.author.remote.to_string(),
        shared,
    }
}
