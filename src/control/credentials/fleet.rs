//! The credentials of a fleet. A new secret is in the shared state before it is valid anywhere. A revocation is in force here
//! at once, and is written to the shared state until it is there. The credential that asks for a change must be valid in the shared
//! state when the change is made there.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;

use super::owners::expect_enough_owners;
use super::{Changer, CredentialError, NamedCredentials, directory, records_of};
use crate::audit::{Audit, Event};
use crate::control::adopted::{AdoptedChange, note_adopted};
use crate::control::approvals::OwnerChange;
use crate::control::store::{Store, keep_adopted, see_newest};
use crate::operator::named::{CredentialName, Directory, Named, NamedCredential};
use crate::operator::{Credentials, Operator, Person};
use crate::state::shared::{AdoptError, Arrival, Document, Edit, Format, Provenance, Shared};
use crate::state::{self, RevokedOwner, RevokedRecord};

/// Its name in the database.
pub(super) const DOCUMENT: &str = "credentials";

/// Credentials that were revoked here and may still be in the shared state.
#[derive(Debug, Default)]
pub(super) struct Revoked {
    marks: BTreeMap<CredentialName, Mark>,
    /// Those of them whose revocation the shared state has not admitted or refused yet.
    undecided: BTreeSet<CredentialName>,
    /// Whether the shared document is to be adopted once more.
    again: bool,
}

/// A credential that was revoked here.
#[derive(Debug)]
pub(super) struct Mark {
    /// When it was created.
    pub(super) created_at: u64,
    /// Of an owner's, which is written for all nodes only if enough owners are left there.
    pub(super) owner: Option<RevokedOwner>,
}

impl Revoked {
    /// As the file has them.
    pub(super) fn of(marks: BTreeMap<CredentialName, Mark>) -> Self {
        Self { marks, ..Self::default() }
    }

    /// Marks one whose revocation is to be decided.
    pub(super) fn begin(&mut self, credential: &NamedCredential) {
        self.undecided.insert(credential.name.clone());
        self.add(credential);
    }

    /// Marks one that is revoked.
    pub(super) fn add(&mut self, credential: &NamedCredential) {
        let mark = Mark { created_at: credential.created_at, owner: None };
        self.marks.insert(credential.name.clone(), mark);
    }

    /// Marks an owner's that is revoked.
    pub(super) fn add_owner(&mut self, credential: &NamedCredential, owner: RevokedOwner) {
        let mark = Mark { created_at: credential.created_at, owner: Some(owner) };
        self.marks.insert(credential.name.clone(), mark);
    }

    /// Whether a credential of this name is revoked here, and to be written.
    pub(super) fn has(&self, name: &CredentialName) -> bool {
        self.marks.contains_key(name) && !self.undecided.contains(name)
    }

    /// The revocation is in the shared state, or it is to be written there again.
    pub(super) fn decided(&mut self, name: &CredentialName, is_there: bool) {
        self.undecided.remove(name);
        if is_there {
            self.marks.remove(name);
        }
    }

    /// The shared state refuses the revocation: the credential is in force as the shared document has it.
    pub(super) fn take_back(&mut self, name: &CredentialName) {
        self.decided(name, true);
        self.again = true;
    }

    fn is_of(&self, credential: &NamedCredential) -> bool {
        self.marks.get(&credential.name).is_some_and(|mark| mark.created_at == credential.created_at)
    }

    fn to_be_written(&self, credential: &NamedCredential) -> bool {
        self.is_of(credential) && !self.undecided.contains(&credential.name)
    }

    fn has_news(&self) -> bool {
        self.again || self.marks.keys().any(|name| !self.undecided.contains(name))
    }
}

/// Who asks for a change, to be looked up where it is made.
#[derive(Debug)]
pub(super) struct Asker {
    configured: Arc<Credentials>,
    operator: Operator,
    /// Of a change that a second owner has approved.
    requester: Option<Person>,
}

impl Asker {
    pub(super) fn of(configured: &Arc<Credentials>, changer: &Changer) -> Self {
        let requester = changer.owner_change.as_ref().and_then(OwnerChange::requester).cloned();
        Self::with(configured, changer.operator.clone(), requester)
    }

    pub(super) fn with(configured: &Arc<Credentials>, operator: Operator, requester: Option<Person>) -> Self {
        Self { configured: Arc::clone(configured), operator, requester }
    }

    /// Checks that the credentials are valid here and in the shared document.
    pub(super) fn expect_live_in(&self, there: &Directory) -> Result<(), CredentialError> {
        let Self { configured, operator, requester } = self;
        let is_live = configured.is_live(operator) && configured.is_live_in(operator, there);
        match is_live && requester.as_ref().is_none_or(|it| configured.is_owner_in(it, there)) {
            true => Ok(()),
            false => Err(CredentialError::NotLive),
        }
    }
}

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
        names.retain(|name| versions(before, name) != versions(after, name));
        note_adopted(&self.audit, DOCUMENT, from, &names, |name| {
            let target = match after.contains_key(*name) {
                true => format!("the credential {name}"),
                false => format!("the credential {name}, which was revoked,"),
            };
            AdoptedChange::of(target, from)
        });
    }
}

impl SharedCredentials {
    fn record_taken_back(&self, taken_back: Vec<(CredentialName, RevokedOwner)>) {
        for (name, RevokedOwner { by, remote, .. }) in taken_back {
            tracing::warn!(%name, "revocation of an owner undone: too few owners would be left on the fleet");
            let name = name.to_string();
            self.audit.note(Event::CredentialChangeFailed { name, by, remote, domain: None });
        }
    }
}

impl Document for SharedCredentials {
    fn name(&self) -> &'static str {
        DOCUMENT
    }

    fn merge(&self, there: Option<&[u8]>) -> Result<Option<Vec<u8>>, String> {
        let Merged { body, taken_back } = self.credentials.merge(there)?;
        self.record_taken_back(taken_back);
        Ok(body)
    }

    fn has_news(&self) -> bool {
        self.credentials.marks().has_news()
    }

    fn only_stops(&self) -> bool {
        true
    }

    fn adopt<'a>(&'a self, body: &'a [u8], from: &'a Provenance) -> BoxFuture<'a, Result<(), AdoptError>> {
        Box::pin(async move {
            let there = parse(body).map_err(AdoptError::Unreadable)?;
            let credentials = &*self.credentials;
            // Also where it cannot be written at once that they are revoked, enough owners must be left.
            self.record_taken_back(credentials.without_revoked(&mut there.clone()));
            let mut before = Directory::new();
            let Ok(()) = credentials.named.change(|current| {
                credentials.marks().again = false;
                before = Directory::clone(current);
                *current = credentials.taken(&before, there.clone());
                Ok::<_, Infallible>(())
            });
            // A credential that is no longer in the shared document needs no mark.
            credentials.marks().marks.retain(|name, mark| {
                there.get(name).is_some_and(|credential| credential.created_at == mark.created_at)
            });
            let after = credentials.named.current();
            if from.arrival != Arrival::Own {
                self.record(&before, &after, from);
            }
            let is_other = from.arrival == Arrival::Joined && before.keys().ne(after.keys());
            let file = credentials.disk.lock().await;
            let aside = (is_other && !before.is_empty()).then(|| file.path().to_owned());
            // With what was revoked while the file was waited for.
            let (writer, content) = (Arc::clone(&*file), credentials.content(&credentials.named.current()));
            keep_adopted(DOCUMENT, aside, move || writer.replace(content), &self.audit).await
        })
    }
}

impl NamedCredentials {
    /// Shares them with the other nodes of a fleet.
    #[must_use]
    pub fn shared(self, shared: Arc<Shared>) -> Self {
        Self { store: Store::Shared(shared), ..self }
    }

    /// What was revoked here and may still be in the shared state.
    pub(super) fn marks(&self) -> MutexGuard<'_, Revoked> {
        self.revoked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The records of those.
    pub(super) fn revoked_records(&self) -> Vec<RevokedRecord> {
        let record = |(name, mark): (&CredentialName, &Mark)| RevokedRecord {
            name: name.to_string(),
            created_at: mark.created_at,
            owner: mark.owner.clone(),
        };
        self.marks().marks.iter().map(record).collect()
    }

    /// Looks whether another node has made a credential of this name, where none is known. If that cannot be seen, the change that
    /// follows says so.
    pub async fn look_for(&self, name: &CredentialName) {
        let Store::Shared(shared) = &self.store else { return };
        if !self.named.current().contains_key(name) {
            let _ = see_newest(shared, DOCUMENT).await;
        }
    }

    /// The shared document without the credentials that were revoked here. A revocation that would leave it too few owners is undone.
    pub(super) fn merge(&self, there: Option<&[u8]>) -> Result<Merged, String> {
        let Some(there) = there else { return self.encoded(&self.named.current()).map(Merged::of) };
        if !self.marks().has_news() {
            return Ok(Merged { body: None, taken_back: Vec::new() });
        }
        let mut directory = parse(there)?;
        let all = directory.len();
        let taken_back = self.without_revoked(&mut directory);
        let body = if directory.len() == all { there.to_vec() } else { self.encoded(&directory)? };
        Ok(Merged { body: Some(body), taken_back })
    }

    /// Removes the credentials that were revoked here from the shared document. A revocation that would leave too few owners is undone.
    fn without_revoked(&self, there: &mut Directory) -> Vec<(CredentialName, RevokedOwner)> {
        let (mut taken_back, now) = (Vec::new(), self.named.now());
        let mut revoked = self.marks();
        let marked: Vec<_> = there.values().filter(|it| revoked.to_be_written(it)).map(Arc::clone).collect();
        for old in marked {
            let owner = revoked.marks.get(&old.name).and_then(|mark| mark.owner.clone());
            there.remove(&old.name);
            let Some(owner) = owner else { continue };
            if expect_enough_owners(&old, &self.configured, there, owner.least_owners, now).is_err() {
                revoked.take_back(&old.name);
                taken_back.push((old.name.clone(), owner));
                there.insert(old.name.clone(), old);
            }
        }
        taken_back
    }

    /// The shared document as it is in force here: without the credentials revoked here, and with what only this node knows of their use.
    pub(super) fn taken(&self, before: &Directory, mut there: Directory) -> Directory {
        let revoked = self.marks();
        there.retain(|_, credential| !revoked.is_of(credential));
        drop(revoked);
        for (name, credential) in &there {
            let Some(own) = before.get(name).filter(|own| own.version == credential.version) else {
                continue;
            };
            credential.end_replaced_with(own);
            credential.last_used.fetch_max(own.last_used.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        there
    }

    /// Changes the credentials on all nodes, if that of `asker` is valid in the shared document.
    pub(super) async fn change_everywhere(
        &self,
        shared: &Shared,
        by: &str,
        asker: Option<Asker>,
        mut change: impl FnMut(&mut Directory) -> Result<(), CredentialError> + Send + 'static,
    ) -> Result<(), CredentialError> {
        let edit = move |directory: &mut Directory| {
            if let Some(asker) = &asker {
                asker.expect_live_in(directory)?;
            }
            change(directory).map(|()| Edit::Changed)
        };
        shared.edit(DOCUMENT, by, InFile::of(&self.named), edit).await.map(drop)
    }

    fn encoded(&self, directory: &Directory) -> Result<Vec<u8>, String> {
        let records = records_of(directory, self.named.now());
        state::credentials_content(records).map_err(|error| error.to_string())
    }
}

/// What this node adds to the shared document.
#[derive(Debug)]
pub(super) struct Merged {
    /// `None` if there is nothing to write.
    pub(super) body: Option<Vec<u8>>,
    /// The owners whose revocation here was undone.
    pub(super) taken_back: Vec<(CredentialName, RevokedOwner)>,
}

impl Merged {
    fn of(body: Vec<u8>) -> Self {
        Self { body: Some(body), taken_back: Vec::new() }
    }
}

/// As in the file, without the replaced secrets that have ended by the clock of these.
pub(super) struct InFile(Arc<Named>);

impl InFile {
    pub(super) fn of(named: &Arc<Named>) -> Self {
        Self(Arc::clone(named))
    }
}

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
