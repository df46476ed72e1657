//! The credentials of a fleet. What gives somebody a secret is in the shared state before it counts anywhere. A revocation counts
//! here at once, and is written to the shared state until it is there; that of an owner must be there first, so that two owners who
//! revoke each other on two nodes do not both succeed.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use futures_util::future::BoxFuture;

use super::{CredentialError, NamedCredentials, directory, records_of};
use crate::audit::{Audit, Event};
use crate::control::Store;
use crate::operator::named::{CredentialName, Directory, Named};
use crate::state::shared::{AdoptError, Arrival, Document, Edit, Format, Provenance, Shared};
use crate::state::{self, RevokedRecord};

/// Its name in the database.
pub(super) const DOCUMENT: &str = "credentials";
/// The most changes of one adoption that are recorded one by one.
const MAX_RECORDED: usize = 50;

/// Credentials that were revoked here and may still be in the shared state, with the time at which each was created.
pub(super) type Revoked = BTreeMap<CredentialName, u64>;

/// The credentials, as the shared state sees them.
#[derive(Debug)]
pub struct SharedCredentials {
    credentials: Arc<NamedCredentials>,
    audit: Arc<Audit>,
}

impl SharedCredentials {
    /// What other nodes change is recorded in `audit`.
    pub fn new(credentials: Arc<NamedCredentials>, audit: Arc<Audit>) -> Self {
        Self { credentials, audit }
    }

    fn record(&self, before: &Directory, after: &Directory, from: &Provenance) {
        let mut names: Vec<&CredentialName> = before.keys().chain(after.keys()).collect();
        names.sort_unstable();
        names.dedup();
        let versions = |directory: &Directory, name: &CredentialName| {
            directory.get(name).map(|it| it.versions(u64::MIN).collect::<Vec<_>>())
        };
        let changed = names.into_iter().filter(|name| versions(before, name) != versions(after, name));
        for name in changed.take(MAX_RECORDED) {
            let target = match after.contains_key(name) {
                true => format!("the credential {name}"),
                false => format!("the credential {name}, which was revoked,"),
            };
            self.audit.note(Event::StateAdopted {
                document: DOCUMENT,
                change: "changed",
                target,
                by: from.operator.clone(),
                node: from.node.clone(),
                state: from.state,
                domain: None,
            });
        }
    }
}

impl Document for SharedCredentials {
    fn name(&self) -> &'static str {
        DOCUMENT
    }

    fn merge(&self, there: Option<&[u8]>) -> Result<Option<Vec<u8>>, String> {
        self.credentials.merge(there)
    }

    fn has_news(&self) -> bool {
        !self.credentials.revoked().is_empty()
    }

    fn adopt<'a>(&'a self, body: &'a [u8], from: &'a Provenance) -> BoxFuture<'a, Result<(), AdoptError>> {
        Box::pin(async move {
            let there = parse(body).map_err(AdoptError::Unreadable)?;
            let credentials = &*self.credentials;
            let mut before = Directory::new();
            let Ok(()) = credentials.named.change(|current| {
                before = Directory::clone(current);
                *current = credentials.taken(&before, there.clone());
                Ok::<_, Infallible>(())
            });
            // What is not there any more needs no mark.
            credentials.revoked.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, created_at| {
                there.get(name).is_some_and(|credential| credential.created_at == *created_at)
            });
            let after = credentials.named.current();
            if from.arrival != Arrival::Own {
                self.record(&before, &after, from);
            }
            let is_other = from.arrival == Arrival::Joined && before.keys().ne(after.keys());
            if is_other && !before.is_empty() {
                let file = Arc::clone(&*credentials.disk.lock().await);
                let aside = tokio::task::spawn_blocking(move || state::set_aside(file.path())).await;
                match aside.unwrap_or_else(|_| Err(io::Error::other("the writer ended in a panic"))) {
                    Ok(aside) => self.audit.note(Event::StateSetAside { document: DOCUMENT, file: aside }),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(AdoptError::NotKept(error)),
                }
            }
            let kept = credentials.keep(&after).await.map_err(io::Error::other).and_then(|kept| kept);
            kept.map_err(AdoptError::NotKept)
        })
    }
}

impl NamedCredentials {
    /// Shares them with the other nodes of a fleet.
    #[must_use]
    pub fn shared(self, shared: Arc<Shared>) -> Self {
        Self { store: Store::Shared(shared), ..self }
    }

    pub(super) fn revoked(&self) -> Revoked {
        self.revoked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The records of those that were revoked here and may still be in the shared state.
    pub(super) fn revoked_records(&self) -> Vec<RevokedRecord> {
        let record =
            |(name, created_at): (CredentialName, u64)| RevokedRecord { name: name.to_string(), created_at };
        self.revoked().into_iter().map(record).collect()
    }

    /// Marks a credential as revoked here until the shared state says so too.
    pub(super) fn mark_revoked(&self, name: &CredentialName, created_at: u64) {
        self.revoked.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), created_at);
    }

    /// What is there without what was revoked here.
    fn merge(&self, there: Option<&[u8]>) -> Result<Option<Vec<u8>>, String> {
        let Some(there) = there else { return self.encoded(&self.named.current()).map(Some) };
        let revoked = self.revoked();
        if revoked.is_empty() {
            return Ok(None);
        }
        let mut directory = parse(there)?;
        directory.retain(|name, credential| revoked.get(name) != Some(&credential.created_at));
        self.encoded(&directory).map(Some)
    }

    /// What is there as this node has it in force: without what was revoked here, and with what only this node knows of its use.
    fn taken(&self, before: &Directory, mut there: Directory) -> Directory {
        let revoked = self.revoked();
        there.retain(|name, credential| revoked.get(name) != Some(&credential.created_at));
        for (name, credential) in &there {
            let Some(own) = before.get(name).filter(|own| own.version == credential.version) else {
                continue;
            };
            credential.end_replaced_with(own);
            credential.last_used.fetch_max(own.last_used.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        there
    }

    /// Changes the credentials on all nodes.
    pub(super) async fn change_everywhere(
        &self,
        shared: &Shared,
        by: &str,
        mut change: impl FnMut(&mut Directory) -> Result<(), CredentialError> + Send + 'static,
    ) -> Result<(), CredentialError> {
        let edit = move |directory: &mut Directory| change(directory).map(|()| Edit::Changed);
        shared.edit(DOCUMENT, by, InFile(Arc::clone(&self.named)), edit).await
    }

    fn encoded(&self, directory: &Directory) -> Result<Vec<u8>, String> {
        let records = records_of(directory, self.named.now());
        state::credentials_content(records).map_err(|error| error.to_string())
    }
}

/// As in the file, without the replaced secrets that have ended by the clock of these.
struct InFile(Arc<Named>);

impl Format for InFile {
    type Content = Directory;
    type Error = CredentialError;

    fn parse(&self, body: &[u8]) -> Result<Directory, CredentialError> {
        parse(body).map_err(|problem| CredentialError::NotKept(io::Error::other(problem)))
    }

    fn encode(&self, directory: &Directory) -> Result<Vec<u8>, CredentialError> {
        let records = records_of(directory, self.0.now());
        state::credentials_content(records).map_err(CredentialError::NotKept)
    }
}

fn parse(body: &[u8]) -> Result<Directory, String> {
    directory(state::parse_credentials(body)?)
}
