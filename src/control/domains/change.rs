//! Changes of domains at run time, one at a time.
//!
//! A change is in the audit log before it is on the disk, and on the disk, by one rename, before it takes effect.

use std::io;
use std::sync::Arc;

use kms_attest::identity::{AppId, DomainName};
use kms_attest::state_file::Replaced;

use super::{Domain, DomainOrigin, Domains, Map};
use crate::audit::{Audit, AuditError, Event, Receipt};
use crate::clock::unix_now;
use crate::config::{DomainRules, MAX_DOMAIN_NAME};
use crate::control::{Author, Store};
use crate::state::shared::{Edit, Unshared};
use crate::state::{
    self, ArchivedRecord, DomainFile, DomainRecord, DomainRecords, DomainsTooLarge, HandedDomains,
    MAX_DOMAINS_BYTES, MAX_MADE, MAX_PLACED, MemberRecord,
};

/// A change that an owner makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DomainChange {
    /// Makes a domain.
    Create(DomainName, Box<DomainRules>),
    /// Lets nothing be released in a domain any more.
    Archive(DomainName),
    /// Ends that.
    Restore {
        /// The domain.
        name: DomainName,
        /// Since when it is archived, Unix seconds; a later archival stays.
        archived_at: u64,
    },
    /// Puts an app that no domain names into one.
    Assign(AppId, DomainName),
    /// Takes an app from the domain that it is in now to another one.
    Move {
        /// The app.
        app: AppId,
        /// Where it is.
        from: DomainName,
        /// Where it will be; the default domain names no app at run time.
        to: DomainName,
    },
}

/// Why a change was not made. Nothing has changed then, except for [`DomainError::Unsynced`].
#[derive(Debug, thiserror::Error)]
pub enum DomainError {
    /// No domain has this name.
    #[error("there is no domain {0}")]
    Unknown(DomainName),
    /// A domain has this name.
    #[error("there is a domain {0}; nothing was changed")]
    Exists(DomainName),
    /// The name is too long.
    #[error("the name of a domain has at most {MAX_DOMAIN_NAME} characters; nothing was changed")]
    LongName,
    /// The rules contradict themselves.
    #[error("{0}; nothing was changed")]
    Contradiction(&'static str),
    /// Too many domains.
    #[error("{MAX_MADE} domains were made at run time, the maximum; nothing was changed")]
    TooManyDomains,
    /// Too many apps.
    #[error("{MAX_PLACED} apps were put into domains at run time, the maximum; nothing was changed")]
    TooManyApps,
    /// A replica or a recovery set would not take them.
    #[error(
        "the rules and apps of the domains that were made at run time would have more than {MAX_DOMAINS_BYTES} bytes, so they \
         could not be handed over to a replica; nothing was changed"
    )]
    TooLong,
    /// The file has no room for the change.
    #[error("{0}; nothing was changed")]
    TooLarge(#[from] DomainsTooLarge),
    /// The default domain.
    #[error("the domain default cannot be archived; nothing was changed")]
    Default,
    /// The domain is archived.
    #[error(
        "the domain {0} is archived, so the app would get nothing there: restore it first; nothing was changed"
    )]
    Archived(DomainName),
    /// It was restored and archived since.
    #[error("the domain {0} was archived again since, so it stays archived; nothing was changed")]
    ArchivedAgain(DomainName),
    /// The configuration names the app.
    #[error(
        "the configuration puts the app {app} into the domain {domain} (domains.{domain}.apps), so only an edit of it moves the \
         app; nothing was changed"
    )]
    Configured {
        /// The app.
        app: AppId,
        /// Its domain.
        domain: DomainName,
    },
    /// The app is in another domain than the change says, or already has one.
    #[error("the app {app} is in the domain {domain}; nothing was changed")]
    Elsewhere {
        /// The app.
        app: AppId,
        /// Its domain.
        domain: DomainName,
    },
    /// The audit log could not be written.
    #[error("nothing was changed: the audit log does not take the record: {0}")]
    NotRecorded(#[source] AuditError),
    /// The file could not be written.
    #[error("nothing was changed: the file of the domains cannot be written: {0}")]
    NotKept(#[source] io::Error),
    /// The state that the nodes of a fleet share could not be changed.
    #[error("{}", .0.after("nothing was changed"))]
    NotShared(#[from] Unshared),
    /// The change is made, and the disk does not say that it stays so.
    #[error(
        "the change is made, but the key directory cannot be synced, so the change may be lost if the machine stops: {0}"
    )]
    Unsynced(#[source] io::Error),
}

/// What is on the disk.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) file: DomainFile,
}

impl DomainChange {
    /// Its name in the audit log.
    fn name(&self) -> &'static str {
        match self {
            Self::Create(..) => "create",
            Self::Archive(_) => "archive",
            Self::Restore { .. } => "restore",
            Self::Assign(..) => "assign",
            Self::Move { .. } => "move",
        }
    }

    /// The domain that it is about: of a move, the new one.
    pub fn domain(&self) -> &DomainName {
        match self {
            Self::Create(domain, _)
            | Self::Archive(domain)
            | Self::Restore { name: domain, .. }
            | Self::Assign(_, domain)
            | Self::Move { to: domain, .. } => domain,
        }
    }

    fn app(&self) -> Option<&AppId> {
        match self {
            Self::Create(..) | Self::Archive(_) | Self::Restore { .. } => None,
            Self::Assign(app, _) | Self::Move { app, .. } => Some(app),
        }
    }

    fn event(&self, author: &Author) -> Event {
        let (by, remote) = (author.by.clone(), author.remote);
        match self {
            Self::Create(domain, rules) => {
                Event::DomainCreated { domain: domain.to_string(), rules: rules.clone(), by, remote }
            }
            Self::Archive(domain) => Event::DomainArchived { domain: domain.to_string(), by, remote },
            Self::Restore { name, .. } => Event::DomainRestored { domain: name.to_string(), by, remote },
            Self::Assign(app, domain) => {
                Event::AppAssigned { app_id: hex::encode(app), domain: domain.to_string(), by, remote }
            }
            Self::Move { app, from, to } => Event::AppMoved {
                app_id: hex::encode(app),
                domain: to.to_string(),
                previous_domain: from.to_string(),
                by,
                remote,
            },
        }
    }
}

impl Domains {
    /// Whether a change could be made now, and would change something. What this node would not make may be one for what is shared,
    /// which is looked at then.
    ///
    /// # Errors
    /// [`DomainError`], as of [`Domains::change`].
    pub async fn foresee(&self, change: &DomainChange) -> Result<bool, DomainError> {
        let known = self.current.load().admits(change);
        if matches!(known, Ok(true)) {
            return known;
        }
        match &self.store {
            Store::File => known,
            Store::Shared(_) => {
                self.see_newest().await?;
                self.current.load().admits(change)
            }
        }
    }

    /// Makes a change, and says whether there was something to change; if not, nothing is recorded.
    ///
    /// # Errors
    /// [`DomainError`]; nothing has changed then, except for [`DomainError::Unsynced`].
    pub async fn change(
        &self,
        change: DomainChange,
        author: Author,
        audit: &Audit,
    ) -> Result<bool, DomainError> {
        let _turn = self.turn.lock().await;
        if !self.foresee(&change).await? {
            return Ok(false);
        }
        let kept = self.kept.lock().await;
        // What is received or adopted may have changed it meanwhile.
        if !self.current.load().admits(&change)? {
            return Ok(false);
        }
        let mut records = DomainRecords::clone(&self.current.load().records);
        change.apply(&mut records, &author)?;
        // What cannot be handed over to a replica is not made.
        if HandedDomains::length(&records) > MAX_DOMAINS_BYTES {
            return Err(DomainError::TooLong);
        }
        // Before anything is recorded: it can only contradict the configuration, which does not change.
        let map = Map::new(&self.configured, &records)
            .map_err(|problem| DomainError::NotKept(io::Error::other(problem)))?;
        let text = records.text()?;
        let _: Receipt = audit.record(change.event(&author)).await.map_err(DomainError::NotRecorded)?;
        let mut is_changed = true;
        let written = match &self.store {
            Store::Shared(shared) => {
                // What is changed is adopted, which takes it.
                drop(kept);
                let changed = self.change_everywhere(&Arc::clone(shared), &change, &author).await;
                changed.map(|edit| {
                    is_changed = edit == Edit::Changed;
                    Replaced::Safely
                })
            }
            Store::File => {
                let file = kept.file.clone();
                let written = state::written(move || file.replace(&text)).await;
                written.map_err(DomainError::NotKept).inspect(|_| self.current.store(Arc::new(map)))
            }
        };
        let replaced = written.inspect_err(|error| {
            // The last record in the log must be true.
            audit.note(Event::DomainChangeFailed {
                domain: change.domain().to_string(),
                change: change.name(),
                app_id: change.app().map(hex::encode).unwrap_or_default(),
                reason: match error {
                    DomainError::NotKept(_) => "the file of the domains cannot be written".to_owned(),
                    other => other.to_string(),
                },
                by: author.by.clone(),
                remote: author.remote,
            });
        })?;
        tracing::warn!(
            domain = %change.domain(),
            change = change.name(),
            app_id = change.app().map(hex::encode),
            by = author.by,
            "a domain was changed"
        );
        replaced.safely().map_err(DomainError::Unsynced)?;
        Ok(is_changed)
    }
}

impl DomainChange {
    pub(super) fn apply(&self, records: &mut DomainRecords, author: &Author) -> Result<(), DomainError> {
        let (since, by) = (unix_now(), author.by.clone());
        match self {
            Self::Create(name, rules) => {
                if records.domains.len() >= MAX_MADE {
                    return Err(DomainError::TooManyDomains);
                }
                let rules = DomainRules::clone(rules);
                records.domains.push(DomainRecord { name: name.clone(), rules, since, by });
            }
            Self::Archive(name) => records.archived.push(ArchivedRecord { name: name.clone(), since, by }),
            Self::Restore { name, .. } => records.archived.retain(|record| record.name != *name),
            Self::Assign(app, domain) | Self::Move { app, to: domain, .. } => {
                records.apps.retain(|record| record.app_id != app.0);
                if domain.is_default() {
                    return Ok(());
                }
                if records.apps.len() >= MAX_PLACED {
                    return Err(DomainError::TooManyApps);
                }
                records.apps.push(MemberRecord { app_id: app.0, domain: domain.clone(), since, by });
            }
        }
        Ok(())
    }
}

impl Map {
    /// Whether there is something to change.
    pub(super) fn admits(&self, change: &DomainChange) -> Result<bool, DomainError> {
        let known =
            |name: &DomainName| self.domains.get(name).ok_or_else(|| DomainError::Unknown(name.clone()));
        match change {
            DomainChange::Create(name, rules) => {
                if name.as_str().len() > MAX_DOMAIN_NAME {
                    return Err(DomainError::LongName);
                }
                if self.domains.contains_key(name) {
                    return Err(DomainError::Exists(name.clone()));
                }
                rules.contradiction().map_or(Ok(true), |text| Err(DomainError::Contradiction(text)))
            }
            DomainChange::Archive(name) if name.is_default() => Err(DomainError::Default),
            DomainChange::Archive(name) => Ok(known(name)?.archived.is_none()),
            DomainChange::Restore { name, archived_at } => match &known(name)?.archived {
                None => Ok(false),
                Some(archived) if archived.since == *archived_at => Ok(true),
                Some(_) => Err(DomainError::ArchivedAgain(name.clone())),
            },
            DomainChange::Assign(app, domain) => {
                let to = known(domain)?;
                let member = self.members.get(app);
                let is = member.map_or(&self.default, |member| &member.domain);
                match member {
                    _ if is.name == *domain => Ok(false),
                    None => usable(to).map(|()| true),
                    Some(_) => Err(self
                        .fixed(app)
                        .unwrap_or_else(|| DomainError::Elsewhere { app: *app, domain: is.name.clone() })),
                }
            }
            DomainChange::Move { app, from, to } => {
                let to = known(to)?;
                if let Some(error) = self.fixed(app) {
                    return Err(error);
                }
                let is = self.members.get(app).map_or(&self.default, |member| &member.domain);
                if is.name == to.name {
                    return Ok(false);
                }
                if is.name != *from {
                    return Err(DomainError::Elsewhere { app: *app, domain: is.name.clone() });
                }
                usable(to).map(|()| true)
            }
        }
    }

    /// The error if an app cannot be moved at run time.
    fn fixed(&self, app: &AppId) -> Option<DomainError> {
        let member = self.members.get(app)?;
        match member.origin {
            DomainOrigin::Configuration => {
                Some(DomainError::Configured { app: *app, domain: member.domain.name.clone() })
            }
            DomainOrigin::RunTime(_) => None,
        }
    }
}

fn usable(domain: &Domain) -> Result<(), DomainError> {
    match domain.archived {
        None => Ok(()),
        Some(_) => Err(DomainError::Archived(domain.name.clone())),
    }
}
