//! Domains that come from another KMS of the cluster, or from a recovery set, with the root keys.
//!
//! A KMS that has made none itself takes those that were made at run time there. Those of the configuration are not received: they
//! must be equal, or apps would get other keys here.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::try_join_all;
use kms_attest::identity::{AppId, DomainName};
use sha2::{Digest as _, Sha256};
use tokio::sync::OwnedMutexGuard;

use super::change::Kept;
use super::{Domain, DomainOrigin, Domains, Map};
use crate::audit::{Audit, AuditError, Event, Receipt};
use crate::clock::unix_now;
use crate::config::DomainRules;
use crate::control::Author;
use crate::state::{
    ArchivedRecord, Choices, DomainRecord, DomainRecords, DomainText, DomainsTooLarge, HandedDomains,
    MemberRecord, StatedDomain, stated_apps,
};

/// How many events are waited for at the same time.
const RECORDED_AT_ONCE: usize = 256;
/// The most differences that are named.
const MAX_NAMED: usize = 5;

/// The source would give apps keys of other domains than this KMS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DomainsDiffer(String);

/// Received domains that are not in force yet. While it exists, nobody else changes domains.
#[derive(Debug)]
pub struct DomainAdoption {
    _kept: OwnedMutexGuard<Kept>,
    /// What will be there, and its map; `None` if nothing changes.
    after: Option<(DomainRecords, Map)>,
    source: String,
}

impl Map {
    /// For every domain that could give apps other keys, what decides the keys.
    fn stated(&self) -> BTreeMap<DomainName, StatedDomain> {
        let mut apps = BTreeMap::<&DomainName, Vec<AppId>>::new();
        for (app, member) in &self.members {
            apps.entry(&member.domain.name).or_default().push(*app);
        }
        let mut stated = BTreeMap::new();
        for Domain { name, rules, .. } in self.domains.values().map(|domain| &**domain) {
            let DomainRules { instance_scoped, default_epoch, .. } = *rules;
            // An app that the default domain names is where it is anyway.
            let apps = apps.get_mut(name).filter(|_| !name.is_default());
            let (apps, apps_sha256) = stated_apps(apps.map_or(&mut [], Vec::as_mut_slice));
            if !name.is_default() || instance_scoped || default_epoch.is_some() {
                stated
                    .insert(name.clone(), StatedDomain { apps, apps_sha256, instance_scoped, default_epoch });
            }
        }
        stated
    }

    fn handed(&self) -> Option<HandedDomains> {
        let (since, by) = (0, String::new);
        let made = |domain: &&Arc<Domain>| matches!(domain.origin, DomainOrigin::RunTime(_));
        let mut records = DomainRecords::default();
        for domain in self.domains.values().filter(made) {
            let (name, rules) = (domain.name.clone(), domain.rules.clone());
            records.domains.push(DomainRecord { name, rules, since, by: by() });
        }
        for domain in self.domains.values().filter(|domain| domain.archived.is_some()) {
            records.archived.push(ArchivedRecord { name: domain.name.clone(), since, by: by() });
        }
        for (app, member) in &self.members {
            if matches!(member.origin, DomainOrigin::RunTime(_)) {
                let domain = member.domain.name.clone();
                records.apps.push(MemberRecord { app_id: app.0, domain, since, by: by() });
            }
        }
        records
            .apps
            .sort_unstable_by(|one, other| (&one.domain, one.app_id).cmp(&(&other.domain, other.app_id)));
        let stated = self.stated();
        (!stated.is_empty() || !records.is_empty()).then_some(HandedDomains { stated, records })
    }

    pub(super) fn handed_digest_now(&self) -> Option<[u8; 32]> {
        let choices = Choices { domains: Some(self.handed()?), ..Choices::default() };
        Some(Sha256::digest(choices.to_json()).into())
    }

    /// # Errors
    /// In what this map differs from what a source says.
    fn expect(&self, source: &Choices) -> Result<(), DomainsDiffer> {
        if source.domains_sha256 == self.digest {
            return Ok(());
        }
        let there = source.domains.clone().unwrap_or_default();
        let found = match (&source.domains, source.domains_sha256) {
            // A version that says only that it has domains.
            (None, Some(_)) => Vec::new(),
            (Some(_), _) | (None, None) => there.differences(&self.stated()),
        };
        let mut named = found.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join("; ");
        match found.len() {
            0 => named.push_str("the source does not say in what"),
            1..=MAX_NAMED => {}
            more => named.push_str(&format!("; and {} more", more - MAX_NAMED)),
        }
        Err(DomainsDiffer(named))
    }
}

impl Domains {
    /// The domains as another KMS is told of them; `None` if there are none but the default one.
    pub fn handed(&self) -> Option<HandedDomains> {
        self.current.load().handed()
    }

    /// SHA-256 of them.
    pub fn handed_digest(&self) -> Option<[u8; 32]> {
        self.current.load().handed
    }

    /// Checks that another KMS gives apps the keys of the same domains as this one.
    ///
    /// # Errors
    /// [`DomainsDiffer`]
    pub fn expect(&self, source: &Choices) -> Result<(), DomainsDiffer> {
        self.current.load().expect(source)
    }

    /// Prepares to take the domains that were made at run time at `from`, if none were made here; nothing has changed yet.
    ///
    /// # Errors
    /// [`DomainsDiffer`]: also with them, apps would get other keys here than there.
    pub async fn adoption(&self, source: &Choices, from: String) -> Result<DomainAdoption, DomainsDiffer> {
        let _kept = Arc::clone(&self.kept).lock_owned().await;
        let received = source.domains.as_ref().map(|domains| &domains.records);
        let received =
            received.filter(|received| self.current.load().records.is_empty() && !received.is_empty());
        let Some(received) = received else {
            self.expect(source)?;
            return Ok(DomainAdoption { _kept, after: None, source: from });
        };
        let mut records = received.clone();
        let since = unix_now();
        let authors = records.domains.iter_mut().map(|it| (&mut it.since, &mut it.by));
        let authors = authors.chain(records.archived.iter_mut().map(|it| (&mut it.since, &mut it.by)));
        for (at, by) in authors.chain(records.apps.iter_mut().map(|it| (&mut it.since, &mut it.by))) {
            (*at, *by) = (since, from.clone());
        }
        let map = Map::new(&self.configured, &records).map_err(DomainsDiffer)?;
        map.expect(source)?;
        Ok(DomainAdoption { _kept, after: Some((records, map)), source: from })
    }
}

impl DomainAdoption {
    /// The file with the domains as they will be, for a commit that writes it with other files; `None` if nothing changes.
    ///
    /// # Errors
    /// [`DomainsTooLarge`]
    pub fn content(&self) -> Result<Option<Vec<u8>>, DomainsTooLarge> {
        self.after.as_ref().map(|(records, _)| records.text().map(DomainText::into_bytes)).transpose()
    }

    /// Records what is received, in the name of `author`: each domain and app as if it was made here, and where they come from.
    ///
    /// # Errors
    /// The audit log does not take it; some may be recorded then.
    pub async fn record(&self, author: &Author, audit: &Audit) -> Result<(), AuditError> {
        let Some((records, map)) = &self.after else { return Ok(()) };
        let by = || (author.by.clone(), author.remote);
        let (by_all, remote) = by();
        let received = Event::DomainsReceived {
            source: self.source.clone(),
            domains: records.domains.len(),
            archived: records.archived.len(),
            apps: records.apps.len(),
            domains_sha256: map.digest.map(hex::encode),
            by: by_all,
            remote,
        };
        let _: Receipt = audit.record(received).await?;
        let made = records.domains.iter().map(|record| {
            let (by, remote) = by();
            let (domain, rules) = (record.name.to_string(), Box::new(record.rules.clone()));
            Event::DomainCreated { domain, rules, by, remote }
        });
        let archived = records.archived.iter().map(|record| {
            let (by, remote) = by();
            Event::DomainArchived { domain: record.name.to_string(), by, remote }
        });
        let apps = records.apps.iter().map(|record| {
            let (by, remote) = by();
            let (app_id, domain) = (hex::encode(record.app_id), record.domain.to_string());
            Event::AppAssigned { app_id, domain, by, remote }
        });
        let events: Vec<_> = made.chain(archived).chain(apps).collect();
        let mut events = events.into_iter().peekable();
        while events.peek().is_some() {
            let some = events.by_ref().take(RECORDED_AT_ONCE).map(|event| audit.record(event));
            try_join_all(some).await?;
        }
        Ok(())
    }

    /// Puts them in force, once the file with [`DomainAdoption::content`] is on the disk.
    pub fn written(mut self, domains: &Domains) {
        if let Some((records, map)) = self.after.take() {
            tracing::warn!(
                domains = records.domains.len(),
                apps = records.apps.len(),
                source = self.source,
                "domains were received with the root keys"
            );
            domains.current.store(Arc::new(map));
        }
    }
}
