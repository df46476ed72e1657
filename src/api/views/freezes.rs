//! Freezes: what is frozen, what a freeze would stop, and the two changes, which are those of the admin service.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::cvms::CvmShown;
use super::{Views, not_found};
use crate::api::Caller;
use crate::clock::{rfc3339, unix_now};
use crate::control::{Freeze, Scope};
use crate::error::{Error, Result};
use crate::events::CvmAsk;
use crate::operator::DomainScope;
use crate::proto::{FreezeRequest, UnfreezeRequest};

/// What the console calls the scope `kms`.
const ALL: &str = "all";
/// The most CVMs that a preview names.
const NAMED: usize = 20;
const DAY: u64 = 86_400;

/// The freezes in force, the oldest first.
#[derive(Debug, Serialize, JsonSchema)]
pub struct FreezeList {
    freezes: Vec<FreezeShown>,
}

/// A freeze.
#[derive(Debug, Serialize, JsonSchema)]
pub struct FreezeShown {
    /// Scope and target, such as `app-00…`; `all`.
    id: String,
    /// `all`, `app`, `instance`, `device` or `os_image`.
    scope: &'static str,
    /// Hexadecimal; empty for `all`.
    target: String,
    reason: String,
    by: String,
    /// When it began.
    at: String,
    /// When it ends; null if it does not end by itself.
    expires_at: Option<String>,
    /// In a fleet: whether it is in the state that the nodes share. If not yet, it is in force on this node only. Null without
    /// other nodes.
    shared: Option<bool>,
}

/// The body of `POST /api/v1/freezes`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FreezeBody {
    /// `all`, `app`, `instance`, `device` or `os_image`.
    scope: String,
    /// Hexadecimal; absent for `all`.
    #[serde(default)]
    target: String,
    /// For other operators and the audit log.
    reason: String,
    /// RFC 3339; absent for a freeze that does not end by itself.
    #[serde(default)]
    expires_at: Option<String>,
    /// Let a freeze that is in force end earlier.
    #[serde(default)]
    replace: bool,
}

/// The body of `POST /api/v1/freezes/preview`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PreviewBody {
    /// `all`, `app`, `instance`, `device` or `os_image`.
    scope: String,
    /// Hexadecimal; absent for `all`.
    #[serde(default)]
    target: String,
}

/// The body of `POST /api/v1/freezes/{id}/lift`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LiftBody {
    /// For the audit log; may be empty.
    #[serde(default)]
    reason: String,
}

/// What a freeze would have stopped in the last 24 hours.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Preview {
    /// Releases, by whole hours; of the 10,000 CVMs with the newest releases at most.
    releases_24h: u64,
    /// The CVMs with the newest releases, 20 at most.
    cvms: Vec<CvmShown>,
    /// The number of CVMs.
    cvm_count: u64,
}

/// A freeze has ended.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Lifted {
    /// Whether it was in force.
    lifted: bool,
}

impl Views {
    /// The freezes in force that `scope` has.
    ///
    /// # Errors
    /// None today.
    pub fn freezes(&self, scope: &DomainScope) -> Result<FreezeList> {
        let freezes = self.sources.admin.freezes(scope);
        let shown =
            |freeze: &Arc<Freeze>| FreezeShown::of(freeze, self.foundation().freezes.is_shared(freeze.scope));
        Ok(FreezeList { freezes: freezes.iter().map(shown).collect() })
    }

    /// Freezes a target, as `Admin.Freeze`.
    ///
    /// # Errors
    /// Those of [`super::super::admin::AdminService::freeze`].
    pub async fn freeze(&self, caller: &Caller, body: FreezeBody) -> Result<FreezeShown> {
        let scope = scope(&body.scope, &body.target)?;
        let expires_at = body.expires_at.as_deref().map(unix).transpose()?;
        let FreezeBody { reason, replace, .. } = body;
        let (name, value) = (scope.name().to_owned(), scope.value().to_vec());
        let request = FreezeRequest { scope: name, value, reason, expires_at, replace };
        let shared = self.sources.admin.freeze(caller, request).await?.shared;
        let frozen = self.foundation().freezes.of(scope);
        frozen
            .map(|freeze| FreezeShown::of(&freeze, shared))
            .ok_or_else(|| Error::invalid("it has ended already"))
    }

    /// Ends a freeze, as `Admin.Unfreeze`.
    ///
    /// # Errors
    /// Those of [`super::super::admin::AdminService::unfreeze`]; it is not in force.
    pub async fn lift(&self, caller: &Caller, id: &str, body: LiftBody) -> Result<Lifted> {
        let (name, target) = id.split_once('-').unwrap_or((id, ""));
        let scope = scope(name, target)?;
        self.sources.admin.learn(scope).await?;
        if self.foundation().freezes.of(scope).is_none() {
            return Err(not_found(&format!("freeze of {scope}")));
        }
        let (name, value) = (scope.name().to_owned(), scope.value().to_vec());
        let request = UnfreezeRequest { scope: name, value, reason: body.reason };
        let lifted = self.sources.admin.unfreeze(caller, request).await?.was_frozen;
        Ok(Lifted { lifted })
    }

    /// What a freeze would stop.
    ///
    /// # Errors
    /// An invalid scope; `other_domain`; no index.
    pub async fn preview(&self, domains: &DomainScope, body: PreviewBody) -> Result<Preview> {
        let scope = scope(&body.scope, &body.target)?;
        self.sources.admin.expect_target(domains, scope)?;
        let target = Some(hex::encode(scope.value()));
        let since = unix_now().saturating_sub(DAY) * 1000;
        let domain = domains.limit().cloned();
        let ask = CvmAsk { since, limit: NAMED, domain, ..CvmAsk::default() };
        let ask = match scope {
            Scope::Kms => ask,
            Scope::App(_) => CvmAsk { app_id: target, ..ask },
            Scope::Instance(_) => CvmAsk { instance_id: target, ..ask },
            Scope::Device(_) => CvmAsk { device_id: target, ..ask },
            Scope::OsImage(_) => CvmAsk { os_image_hash: target, ..ask },
        };
        self.inventory(move |inventory| {
            let recent = inventory.recent(&ask)?;
            let page = inventory.cvms(&ask)?;
            Ok(Preview {
                releases_24h: recent.releases,
                cvm_count: recent.cvms,
                cvms: page.cvms.into_iter().map(|(id, cvm)| CvmShown::of(id, cvm)).collect(),
            })
        })
        .await
    }
}

fn scope(name: &str, target: &str) -> Result<Scope> {
    let name = if name == ALL { Scope::Kms.name() } else { name };
    let value = hex::decode(target.trim_start_matches("0x"))
        .map_err(|_| Error::invalid("target must be hexadecimal digits"))?;
    Scope::parse(name, &value).map_err(|error| Error::invalid(error.to_string()))
}

fn unix(text: &str) -> Result<u64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok();
    let seconds = time.and_then(|time| u64::try_from(time.unix_timestamp()).ok());
    seconds.ok_or_else(|| Error::invalid("expires_at must be a time as in RFC 3339"))
}

impl FreezeShown {
    fn of(freeze: &Freeze, shared: Option<bool>) -> Self {
        let target = hex::encode(freeze.scope.value());
        let scope = match freeze.scope {
            Scope::Kms => ALL,
            Scope::App(_) | Scope::Instance(_) | Scope::Device(_) | Scope::OsImage(_) => freeze.scope.name(),
        };
        Self {
            id: if target.is_empty() { scope.to_owned() } else { format!("{scope}-{target}") },
            scope,
            target,
            reason: freeze.reason.clone(),
            by: freeze.author.by.clone(),
            at: rfc3339(freeze.since),
            expires_at: freeze.expires_at.map(rfc3339),
            shared,
        }
    }
}
