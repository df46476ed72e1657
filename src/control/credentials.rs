//! Credentials of operators: created, rotated, revoked and activated while the KMS runs.
//!
//! A new secret takes effect only after it is in the audit log and on the disk. A revocation takes effect at once, even if the
//! disk fails, and the response comes after it is on the disk and in the log.

mod change;
mod error;
mod first;
mod fleet;
mod issue;
mod open;
mod owners;
mod records;
mod revoke;
mod room;
mod settle;

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex as StdMutex};

use kms_attest::identity::DomainName;
use kms_attest::state_file;
use kms_wire::role::Role;
use tokio::sync::{Mutex, MutexGuard};

pub use self::change::{Changer, Issue, Issued, NewCredential, OwnerSecret};
pub use self::error::{CredentialError, OpenError};
pub use self::fleet::SharedCredentials;
use self::fleet::{Asker, Revoked};
use self::issue::{again, invited, issue, overlap, version};
pub use self::open::{Opened, WillMakeOwner};
use self::owners::{lasting_owners, must_stay};
use self::records::{directory, records_of};
use self::room::{expect_room, expect_share};
use super::approvals::OwnerCredential;
use super::{Author, Store};
use crate::audit::{Audit, Event};
use crate::operator::chosen::ChosenSecret;
use crate::operator::named::{CredentialName, Directory, Named, NamedCredential, SecretHash, Standing};
use crate::operator::{Credentials, Operator};
use crate::state::{self, CredentialContent, CredentialFile};

/// The largest number of credentials.
const MAX_CREDENTIALS: usize = 1000;
/// When a domain has so many, only owners of the whole KMS make further ones for it.
const SHARE_OF_DOMAIN: usize = 100;
/// The lifetime of an invitation, in seconds.
pub const INVITATION: u64 = 15 * 60;
/// How long the old secret of the last owner is valid after a rotation, in seconds, unless the new one is used before.
const OVERLAP: u64 = 15 * 60;
/// The name of the owner that the first start creates.
const FIRST: &str = "admin";

/// All named credentials, and the right to change them.
#[derive(Debug)]
pub struct NamedCredentials {
    named: Arc<Named>,
    /// The credentials of the configuration.
    configured: Arc<Credentials>,
    /// One change at a time.
    file: Mutex<Kept>,
    /// The part that survives a restart.
    disk: Mutex<Arc<CredentialFile>>,
    store: Store,
    /// Revoked here, and perhaps not in the state of the fleet.
    revoked: StdMutex<Revoked>,
}

/// What is not finished.
#[derive(Debug)]
struct Kept {
    /// Revoked in memory, but not on the disk or not in the log. Revoking them again retries both.
    unfinished: BTreeSet<CredentialName>,
}

impl NamedCredentials {
    /// All credentials by name, including expired ones.
    pub fn list(&self) -> Arc<Directory> {
        self.named.current()
    }

    /// Creates a credential.
    ///
    /// # Errors
    /// [`CredentialError`]; nothing was changed then.
    pub async fn create(
        &self,
        new: NewCredential,
        changer: Changer,
        audit: &Audit,
    ) -> Result<Issued, CredentialError> {
        let turn = self.file.lock().await;
        let _names = self.named.names().await;
        self.expect_live(&changer)?;
        if new.role == Role::Owner {
            changer.expect_approval(&OwnerCredential::create(&new))?;
        }
        self.expect_free(&new, &changer)?;
        let now = self.named.now();
        let until = new.issue.until(now);
        let (name, domain) = (new.name.clone(), new.domain.as_ref().map(ToString::to_string));
        let issued = issue(until, |standing, version| NamedCredential {
            name: new.name,
            role: new.role,
            domain: new.domain,
            standing,
            version,
            replaced: None,
            invitation: None,
            chosen_by: None,
            created_at: now,
            created_by: changer.author.by.clone(),
            expires_at: new.expires_at,
            last_used: AtomicU64::new(0),
        })
        .await?;
        let event = Event::CredentialCreated {
            name: name.to_string(),
            role: new.role.name(),
            domain,
            expires_at: new.expires_at,
            invited: until.is_some(),
            by: changer.author.by.clone(),
            remote: changer.author.remote,
        };
        self.put(&turn, None, &issued.credential, &changer, event, audit).await?;
        Ok(issued)
    }

    /// Whether a credential could be created now.
    ///
    /// # Errors
    /// Why not.
    pub fn expect_free(&self, new: &NewCredential, changer: &Changer) -> Result<(), CredentialError> {
        let directory = self.named.current();
        let now = self.named.now();
        if let Some(expires_at) = new.expires_at.filter(|end| *end <= now) {
            return Err(CredentialError::Ended { expires_at, now });
        }
        changer.expect_covers(new.domain.as_ref())?;
        if self.configured.has_user(new.name.as_str()) {
            return Err(CredentialError::IsUser(new.name.clone()));
        }
        if let Some(old) = directory.get(&new.name) {
            if !old.has_ended(now) {
                return Err(CredentialError::Exists(new.name.clone()));
            }
            changer.expect_covers(old.domain.as_ref())?;
            if new.role != Role::Owner && old.counts_as_owner(now) {
                return Err(CredentialError::WasOwner(new.name.clone()));
            }
        }
        if let Some(own) = changer.operator.domain() {
            expect_share(&directory, &new.name, own, now)?;
        }
        expect_room(&directory, &new.name, now)
    }

    /// Replaces the secret of a credential; the old one is invalid at once. Only that of the last owner is valid until the new
    /// one is used, or for 15 minutes: if the response is lost, nobody else could make another owner. With an invitation, the
    /// old one is valid until that is used: an invitation that lapses takes no owner away.
    ///
    /// # Errors
    /// [`CredentialError`]; nothing was changed then.
    pub async fn rotate(
        &self,
        name: CredentialName,
        issue_as: Issue,
        changer: Changer,
        audit: &Audit,
    ) -> Result<Issued, CredentialError> {
        let turn = self.file.lock().await;
        self.expect_live(&changer)?;
        let now = self.named.now();
        let old = self.named.get(name.as_str(), now);
        let Some(old) = old else { return Err(CredentialError::Unknown(name)) };
        changer.expect_covers(old.domain.as_ref())?;
        if old.role == Role::Owner {
            let (name, created_at) = (name.to_string(), old.created_at);
            changer.expect_approval(&OwnerCredential::Rotate { name, created_at })?;
        }
        let has_overlap = issue_as == Issue::Secret && self.is_last_owner(&old);
        let old_until = has_overlap.then(|| now.saturating_add(OVERLAP));
        let replaced = old_until.map(|until| overlap(&old, now, until));
        let issued = issue(issue_as.until(now), |standing, version| match issue_as {
            Issue::Secret => NamedCredential { replaced, ..again(&old, standing, version) },
            Issue::Invitation => invited(&old, standing, version, now),
        })
        .await?;
        let Author { by, remote } = changer.author.clone();
        let (name, invited) = (name.to_string(), issue_as == Issue::Invitation);
        let domain = old.domain.as_ref().map(ToString::to_string);
        let event =
            Event::CredentialRotated { name, invited, old_secret_until: old_until, by, remote, domain };
        self.put(&turn, Some(old.version), &issued.credential, &changer, event, audit).await?;
        Ok(issued)
    }

    /// What gives the owner `admin` this secret.
    ///
    /// # Errors
    /// Why it cannot have one.
    pub fn owner_secret(&self, hash: SecretHash, changer: &Changer) -> Result<OwnerSecret, CredentialError> {
        changer.expect_covers(None)?;
        let name: CredentialName = FIRST.parse().expect("a name");
        if self.configured.has_user(name.as_str()) {
            return Err(CredentialError::IsUser(name));
        }
        let (directory, now) = (self.named.current(), self.named.now());
        match directory.get(&name).filter(|credential| !credential.has_ended(now)) {
            Some(old) if old.role != Role::Owner || old.domain.is_some() => {
                Err(CredentialError::NotOwner(name))
            }
            Some(old) => Ok(OwnerSecret { name, hash, created_at: Some(old.created_at) }),
            None => {
                expect_room(&directory, &name, now).map(|()| OwnerSecret { name, hash, created_at: None })
            }
        }
    }

    /// Gives an owner the secret that the requester has chosen, and creates the owner if it is missing. The old secret is
    /// invalid at once: the requester knows the new one.
    ///
    /// # Errors
    /// [`CredentialError`]; nothing was changed then.
    pub async fn set_secret(
        &self,
        secret: OwnerSecret,
        changer: Changer,
        audit: &Audit,
    ) -> Result<(), CredentialError> {
        let turn = self.file.lock().await;
        let _names = self.named.names().await;
        self.expect_live(&changer)?;
        let change = changer.expect_approval(&OwnerCredential::set_secret(&secret))?;
        let OwnerSecret { name, hash, created_at } = secret;
        if self.owner_secret(hash.clone(), &changer)?.created_at != created_at {
            return Err(CredentialError::OfOwner);
        }
        let (directory, now) = (self.named.current(), self.named.now());
        let old = directory.get(&name).filter(|credential| !credential.has_ended(now));
        let Author { by, remote } = changer.author.clone();
        let credential = Arc::new(NamedCredential {
            name: name.clone(),
            role: Role::Owner,
            domain: None,
            standing: Standing::Active(hash),
            version: version()?,
            replaced: None,
            invitation: None,
            chosen_by: change.chosen_by(old.and_then(|old| old.chosen_by.as_ref())),
            created_at: created_at.unwrap_or(now),
            created_by: old.map_or_else(|| by.clone(), |old| old.created_by.clone()),
            // An owner with an end does not take it away alone.
            expires_at: old.and_then(|old| old.expires_at),
            last_used: AtomicU64::new(0),
        });
        let event = Event::BasicAuthSet { name: name.to_string(), by, remote };
        self.put(&turn, old.map(|old| old.version), &credential, &changer, event, audit).await
    }

    /// Does not remember that a chosen secret was wrong before it counted.
    pub fn exempt_wrong(&self, name: &CredentialName, secret: &ChosenSecret) {
        self.named.wrong().exempt(name.as_str(), secret.expose());
    }

    /// Exchanges the invitation of `changer` for a secret.
    ///
    /// # Errors
    /// [`CredentialError`]; nothing was changed then.
    pub async fn activate(&self, changer: Changer, audit: &Audit) -> Result<Issued, CredentialError> {
        let turn = self.file.lock().await;
        let Operator::Invited { name, .. } = &changer.operator else {
            return Err(CredentialError::NotInvited);
        };
        let now = self.named.now();
        let old = self.named.get(name, now).filter(|_| self.configured.is_live(&changer.operator));
        let Some(old) = old else { return Err(CredentialError::NotInvited) };
        // As in a rotation, unless another owner knows the old secret.
        let has_overlap = old.chosen_by.is_none() && self.is_last_owner(&old);
        let replaced = has_overlap.then(|| overlap(&old, now, now.saturating_add(OVERLAP)));
        let issued = issue(None, |standing, version| NamedCredential {
            replaced,
            chosen_by: None,
            ..again(&old, standing, version)
        })
        .await?;
        let Author { by, remote } = changer.author.clone();
        let domain = old.domain.as_ref().map(ToString::to_string);
        let event = Event::CredentialActivated { name: name.clone(), by, remote, domain };
        self.put(&turn, Some(old.version), &issued.credential, &changer, event, audit).await?;
        Ok(issued)
    }

    fn content(&self, directory: &Directory) -> CredentialContent {
        let credentials = records_of(directory, self.named.now());
        CredentialContent { credentials, revoked: self.revoked_records() }
    }

    /// Writes the file, and waits for the disk.
    async fn keep(&self, directory: &Directory) -> io::Result<state_file::Replaced> {
        let file = self.disk.lock().await;
        let (writer, content) = (Arc::clone(&*file), self.content(directory));
        state::written(move || writer.replace(content)).await
    }

    /// Whether nobody else could manage credentials without an end.
    fn is_last_owner(&self, credential: &NamedCredential) -> bool {
        let mut others = Directory::clone(&self.named.current());
        others.remove(&credential.name);
        credential.is_lasting_owner() && lasting_owners(&self.configured, &others) == 0
    }

    /// Checks that the caller's credential was not revoked or rotated and has not expired since the request began.
    fn expect_live(&self, changer: &Changer) -> Result<(), CredentialError> {
        match self.configured.is_live(&changer.operator) {
            true => Ok(()),
            false => Err(CredentialError::NotLive),
        }
    }

    /// Records, saves, and then puts in force: replaces the secret `before` if that is still valid.
    async fn put(
        &self,
        _turn: &MutexGuard<'_, Kept>,
        before: Option<u64>,
        credential: &Arc<NamedCredential>,
        changer: &Changer,
        event: Event,
        audit: &Audit,
    ) -> Result<(), CredentialError> {
        // Hashing is slow, and a revocation does not wait for it.
        self.expect_live(changer)?;
        let (named, new, limit) =
            (Arc::clone(&self.named), Arc::clone(credential), changer.operator.domain().cloned());
        let put = move |directory: &mut Directory| put(directory, before, &new, limit.as_ref(), named.now());
        let mut directory = Directory::clone(&self.named.current());
        put(&mut directory)?;
        let _ = audit.record(event).await.map_err(CredentialError::NotRecorded)?;
        let kept = match &self.store {
            // It is adopted from there.
            Store::Shared(shared) => {
                let asker = Asker::of(&self.configured, changer);
                self.change_everywhere(&Arc::clone(shared), &changer.author.by, Some(asker), put.clone())
                    .await
            }
            Store::File => match self.keep(&directory).await {
                Ok(state_file::Replaced::Safely) => Ok(()),
                // The next start reads it, so it is valid, and its secret is shown: nobody else has it.
                Ok(state_file::Replaced::Unsynced(error)) => {
                    tracing::error!(%error, name = %credential.name, "the change of a credential may be lost if the machine stops");
                    Ok(())
                }
                Err(error) => Err(CredentialError::NotKept(error)),
            },
        };
        if let Err(error) = kept {
            // The log has the change already.
            let Author { by, remote } = changer.author.clone();
            let domain = credential.domain.as_ref().map(ToString::to_string);
            audit.note(Event::CredentialChangeFailed {
                name: credential.name.to_string(),
                by,
                remote,
                domain,
            });
            return Err(error);
        }
        match self.store {
            Store::Shared(_) => Ok(()),
            // A credential revoked meanwhile stays revoked; its revocation then writes the file after this change.
            Store::File => self.named.change(put),
        }
    }
}

/// Puts a credential in the place of the one with the secret `before`, if that is still valid. `limit` is the domain to which the
/// one who does it is limited.
fn put(
    directory: &mut Directory,
    before: Option<u64>,
    credential: &Arc<NamedCredential>,
    limit: Option<&DomainName>,
    now: u64,
) -> Result<(), CredentialError> {
    let old = directory.get(&credential.name);
    match (before, old) {
        (Some(_), None) => return Err(CredentialError::Unknown(credential.name.clone())),
        (Some(before), Some(old)) if old.version != before => return Err(CredentialError::OfOwner),
        (None, Some(old)) if !old.has_ended(now) => {
            return Err(CredentialError::Exists(credential.name.clone()));
        }
        (_, Some(old)) => credential.end_replaced_with(old),
        (None, None) => {}
    }
    if let (None, Some(own)) = (before, limit) {
        expect_share(directory, &credential.name, own, now)?;
    }
    expect_room(directory, &credential.name, now)?;
    if directory.len() >= MAX_CREDENTIALS {
        directory.retain(|_, old| must_stay(old, now));
    }
    directory.insert(credential.name.clone(), Arc::clone(credential));
    Ok(())
}

#[cfg(test)]
mod tests;
