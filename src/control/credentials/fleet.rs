//! The credentials of a fleet. What gives somebody a secret is in the shared state before it counts anywhere. A revocation counts
//! here at once, and is written to the shared state until it is there. The person who asks for a change must count in the shared state when it
//! is made there.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;

use super::{Changer, CredentialError, NamedCredentials, directory, records_of};
use crate::audit::{Audit, Event};
use crate::control::approvals::OwnerChange;
use crate::control::store::{Store, keep_adopted, see_newest};
use crate::operator::named::{CredentialName, Directory, Named, NamedCredential};
use crate::operator::{Credentials, Operator, Person};
use crate::state::shared::{AdoptError, Arrival, Document, Edit, Format, Provenance, Shared};
use crate::state::{self, RevokedRecord};

/// Its name in the database.
pub(super) const DOCUMENT: &str = "credentials";
/// The most changes of one adoption that are recorded one by one.
const MAX_RECORDED: usize = 50;

/// Credentials that were revoked here and may still be in the shared state.
#[derive(Debug, Default)]
pub(super) struct Revoked {
    /// With the time at which each was created.
    marks: BTreeMap<CredentialName, u64>,
    /// Those of them whose revocation the shared state has not admitted or refused yet.
    undecided: BTreeSet<CredentialName>,
    /// Whether what is there is to be adopted once more.
    again: bool,
}

impl Revoked {
    /// As the file has them.
    pub(super) fn of(marks: BTreeMap<CredentialName, u64>) -> Self {
        Self { marks, ..Self::default() }
    }

    /// Marks one whose revocation is to be decided.
    pub(super) fn begin(&mut self, credential: &NamedCredential) {
        self.undecided.insert(credential.name.clone());
        self.add(credential);
    }

    /// Marks one that is revoked.
    pub(super) fn add(&mut self, credential: &NamedCredential) {
        self.marks.insert(credential.name.clone(), credential.created_at);
    }

    /// The revocation is in the shared state, or it is to be written there again.
    pub(super) fn decided(&mut self, name: &CredentialName, is_there: bool) {
        self.undecided.remove(name);
        if is_there {
            self.marks.remove(name);
        }
    }

    /// The shared state refuses the revocation: what is there is in force.
    pub(super) fn take_back(&mut self, name: &CredentialName) {
        self.decided(name, true);
        self.again = true;
    }

    fn is_of(&self, credential: &NamedCredential) -> bool {
        self.marks.get(&credential.name) == Some(&credential.created_at)
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

    /// Checks that they count here and among the credentials that are there.
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
        self.credentials.marks().has_news()
    }

    fn adopt<'a>(&'a self, body: &'a [u8], from: &'a Provenance) -> BoxFuture<'a, Result<(), AdoptError>> {
        Box::pin(async move {
            let there = parse(body).map_err(AdoptError::Unreadable)?;
            let credentials = &*self.credentials;
            let mut before = Directory::new();
            let Ok(()) = credentials.named.change(|current| {
                credentials.marks().again = false;
                before = Directory::clone(current);
                *current = credentials.taken(&before, there.clone());
                Ok::<_, Infallible>(())
            });
            // What is not there any more needs no mark.
            credentials.marks().marks.retain(|name, created_at| {
                there.get(name).is_some_and(|credential| credential.created_at == *created_at)
            });
            let after = credentials.named.current();
            if from.arrival != Arrival::Own {
                self.record(&before, &after, from);
            }
            let is_other = from.arrival == Arrival::Joined && before.keys().ne(after.keys());
            let file = credentials.disk.lock().await;
            let aside = (is_other && !before.is_empty()).then(|| file.path().to_owned());
            let (writer, content) = (Arc::clone(&*file), credentials.content(&after));
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
        let record = |(name, created_at): (&CredentialName, &u64)| RevokedRecord {
            name: name.to_string(),
            created_at: *created_at,
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

    /// What is there without what was revoked here.
    pub(super) fn merge(&self, there: Option<&[u8]>) -> Result<Option<Vec<u8>>, String> {
        let Some(there) = there else { return self.encoded(&self.named.current()).map(Some) };
        let directory = {
            let revoked = self.marks();
            if !revoked.has_news() {
                return Ok(None);
            }
            let mut directory = parse(there)?;
            let all = directory.len();
            directory.retain(|_, credential| !revoked.to_be_written(credential));
            if directory.len() == all {
                return Ok(Some(there.to_vec()));
            }
            directory
        };
        self.encoded(&directory).map(Some)
    }

    /// What is there as this node has it in force: without what was revoked here, and with what only this node knows of its use.
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

    /// Changes the credentials on all nodes, if `asker` counts there.
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
        shared.edit(DOCUMENT, by, InFile::of(&self.named), edit).await
    }

    fn encoded(&self, directory: &Directory) -> Result<Vec<u8>, String> {
        let records = records_of(directory, self.named.now());
        state::credentials_content(records).map_err(|error| error.to_string())
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
