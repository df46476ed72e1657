//! Revocations. One takes effect on this node at once, without waiting for another change. Where state is shared, what is in force
//! there is revoked, whatever this node knows of it. That of an owner is made there first, so that of two owners who revoke each other on
//! two nodes one stays. Where the other nodes cannot be asked, it takes effect here, and is written there if enough owners are left.

use std::convert::Infallible;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use kms_attest::state_file;
use kms_wire::role::Role;

use super::fleet::{Asker, DOCUMENT, InFile};
use super::owners::expect_enough_owners;
use super::{Changer, CredentialError, Kept, MAX_CREDENTIALS, NamedCredentials};
use crate::audit::{Audit, Event};
use crate::control::approvals::{OwnerChange, OwnerCredential};
use crate::control::{Author, Reach, Store};
use crate::operator::Credentials;
use crate::operator::named::{CredentialName, Directory, NamedCredential};
use crate::state::RevokedOwner;
use crate::state::shared::{Edit, Shared, Unshared};

/// What a revocation found in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removed {
    Nothing,
    Credential,
}

/// A revocation that is being made.
struct Revocation<'a> {
    name: CredentialName,
    changer: Arc<Changer>,
    audit: &'a Audit,
}

impl NamedCredentials {
    /// Revokes a credential at once, without waiting for another change.
    ///
    /// # Errors
    /// [`CredentialError`]
    pub async fn revoke(
        &self,
        name: CredentialName,
        changer: Changer,
        audit: &Audit,
    ) -> Result<Reach, CredentialError> {
        let revocation = Revocation { name, changer: Arc::new(changer), audit };
        match &self.store {
            Store::File => self.revoke_here(revocation).await.map(|()| Reach::ThisMachine),
            Store::Shared(shared) => self.revoke_everywhere(&Arc::clone(shared), revocation).await,
        }
    }

    async fn revoke_here(&self, revocation: Revocation<'_>) -> Result<(), CredentialError> {
        let remove = self.removal(&revocation);
        let domain = self.named.current().get(&revocation.name).and_then(|it| domain_of(it));
        let at_once = self.named.change(|directory| {
            self.expect_live(&revocation.changer)?;
            remove(directory)
        })?;
        let mut turn = self.file.lock().await;
        // The change that had the turn may have put the name in force again.
        let again = self.named.change(remove)?;
        let is_removed = at_once == Removed::Credential || again == Removed::Credential;
        if !is_removed && !turn.unfinished.contains(&revocation.name) {
            return Err(CredentialError::Unknown(revocation.name));
        }
        self.keep_revocation(&mut turn, &revocation, domain).await
    }

    async fn revoke_everywhere(
        &self,
        shared: &Shared,
        revocation: Revocation<'_>,
    ) -> Result<Reach, CredentialError> {
        let Revocation { name, changer, .. } = &revocation;
        let remove = self.removal(&revocation);
        let at_once = self.named.change(|directory| {
            self.expect_live(changer)?;
            let known = directory.get(name).filter(|it| it.role != Role::Owner).cloned();
            if let Some(known) = &known {
                remove(directory)?;
                self.marks().begin(known);
            }
            Ok::<_, CredentialError>(known)
        })?;
        let mut turn = self.file.lock().await;
        let is_known = at_once.is_some() || turn.unfinished.contains(name);
        let mut kept = match is_known {
            true => {
                let domain = at_once.as_deref().and_then(domain_of);
                Some(self.keep_revocation(&mut turn, &revocation, domain).await)
            }
            false => None,
        };
        let (decided, there) = self.decide(shared, &revocation, remove).await;
        let unshared = match decided {
            Ok(()) => None,
            Err(CredentialError::NotShared(unshared)) => Some(unshared),
            Err(CredentialError::NotKept(error)) => Some(Unshared::Unusable(error.to_string())),
            Err(refused) => {
                if at_once.is_some() {
                    self.take_back(shared, &revocation).await;
                }
                return Err(refused);
            }
        };
        self.marks().decided(name, unshared.is_none());
        let is_other = |it: &Arc<NamedCredential>| {
            at_once.as_ref().is_none_or(|known| known.created_at != it.created_at)
        };
        match there.filter(is_other) {
            Some(there) if unshared.is_some() && there.role != Role::Owner => {
                self.remove_seen(&there);
                kept = Some(self.keep_revocation(&mut turn, &revocation, domain_of(&there)).await);
            }
            Some(there) if unshared.is_none() && kept.is_none() => {
                kept = Some(self.keep_revocation(&mut turn, &revocation, domain_of(&there)).await);
            }
            Some(_) | None => {}
        }
        if kept.is_none() && unshared.is_some() {
            kept = self.revoke_owner_here(&mut turn, &revocation).await?;
        }
        match (kept, unshared) {
            (Some(kept), None) => kept.map(|()| Reach::Fleet),
            (Some(kept), Some(unshared)) => kept.map(|()| Reach::NotYet(unshared)),
            (None, Some(unshared)) => Err(CredentialError::NotShared(unshared)),
            (None, None) => Err(CredentialError::Unknown(revocation.name)),
        }
    }

    /// Revokes an owner's credential here, where the other nodes cannot be asked, if enough of the owners that this node knows are
    /// left. Whether that is kept; `None` if there is no such credential.
    async fn revoke_owner_here(
        &self,
        turn: &mut Kept,
        revocation: &Revocation<'_>,
    ) -> Result<Option<Result<(), CredentialError>>, CredentialError> {
        let Revocation { name, changer, .. } = revocation;
        let remove = self.removal(revocation);
        let revoked = self.named.change(|directory| {
            let Some(known) = directory.get(name).cloned() else { return Ok(None) };
            self.expect_live(changer)?;
            remove(directory)?;
            let Author { by, remote } = changer.author.clone();
            match changer.owner_change.as_ref().map(OwnerChange::least_owners) {
                Some(least_owners) if known.role == Role::Owner => {
                    self.marks().add_owner(&known, RevokedOwner { least_owners, by, remote });
                }
                Some(_) | None => self.marks().add(&known),
            }
            Ok::<_, CredentialError>(Some(known))
        })?;
        Ok(match revoked {
            Some(known) => Some(self.keep_revocation(turn, revocation, domain_of(&known)).await),
            None => self.marks().has(name).then_some(Ok(())),
        })
    }

    /// Revokes what is in force for all nodes, with what that was.
    async fn decide(
        &self,
        shared: &Shared,
        revocation: &Revocation<'_>,
        mut remove: impl FnMut(&mut Directory) -> Result<Removed, CredentialError> + Send + 'static,
    ) -> (Result<(), CredentialError>, Option<Arc<NamedCredential>>) {
        let seen = Arc::new(StdMutex::new(None));
        let (name, told) = (revocation.name.clone(), Arc::clone(&seen));
        let asker = Asker::of(&self.configured, &revocation.changer);
        let edit = move |directory: &mut Directory| {
            *told.lock().unwrap_or_else(PoisonError::into_inner) = directory.get(&name).cloned();
            asker.expect_live_in(directory)?;
            Ok(match remove(directory)? {
                Removed::Credential => Edit::Changed,
                Removed::Nothing => Edit::Unchanged,
            })
        };
        let by = &revocation.changer.author.by;
        let decided = shared.edit(DOCUMENT, by, InFile::of(&self.named), edit).await;
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
        (decided.map(drop), seen)
    }

    /// Revokes here what was in force for all nodes a moment ago.
    fn remove_seen(&self, seen: &NamedCredential) {
        let Ok(()) = self.named.change(|directory| {
            directory.retain(|name, it| *name != seen.name || it.created_at != seen.created_at);
            self.marks().add(seen);
            Ok::<_, Infallible>(())
        });
    }

    /// The shared state has refused what took effect here: it is again as it is there.
    async fn take_back(&self, shared: &Shared, revocation: &Revocation<'_>) {
        self.marks().take_back(&revocation.name);
        if let Err(error) = shared.push(DOCUMENT).await {
            tracing::warn!(name = %revocation.name, %error, "an owner's revocation was refused, but the credential is not valid here again yet");
        }
        let Author { by, remote } = revocation.changer.author.clone();
        let name = revocation.name.to_string();
        revocation.audit.note(Event::CredentialChangeFailed { name, by, remote, domain: None });
    }

    /// Writes a revocation to the disk and to the audit log. If one fails, revoking again tries both again.
    async fn keep_revocation(
        &self,
        turn: &mut Kept,
        revocation: &Revocation<'_>,
        domain: Option<String>,
    ) -> Result<(), CredentialError> {
        let Revocation { name, changer, audit } = revocation;
        if turn.unfinished.len() < MAX_CREDENTIALS {
            turn.unfinished.insert(name.clone());
        }
        let kept = self.keep(&self.named.current()).await;
        let Author { by, remote } = changer.author.clone();
        let event = Event::CredentialRevoked { name: name.to_string(), by, remote, domain };
        let recorded = audit.record(event).await;
        kept.and_then(state_file::Replaced::safely).map_err(CredentialError::RevokedNotKept)?;
        recorded.map(drop).map_err(CredentialError::RevokedNotRecorded)?;
        turn.unfinished.remove(name);
        Ok(())
    }

    /// What removes the credential from a directory, if that was approved and leaves enough owners.
    fn removal(
        &self,
        revocation: &Revocation<'_>,
    ) -> impl Fn(&mut Directory) -> Result<Removed, CredentialError> + Clone + Send + use<> {
        let (named, configured) = (Arc::clone(&self.named), Arc::clone(&self.configured));
        let (name, changer) = (revocation.name.clone(), Arc::clone(&revocation.changer));
        move |directory| removed(directory, &name, &changer, &configured, named.now())
    }
}

fn domain_of(credential: &NamedCredential) -> Option<String> {
    credential.domain.as_ref().map(ToString::to_string)
}

/// Removes a credential, if its removal was approved and leaves enough owners.
fn removed(
    directory: &mut Directory,
    name: &CredentialName,
    changer: &Changer,
    configured: &Credentials,
    now: u64,
) -> Result<Removed, CredentialError> {
    let Some(old) = directory.remove(name) else { return Ok(Removed::Nothing) };
    changer.expect_covers(old.domain.as_ref())?;
    if old.role != Role::Owner {
        return Ok(Removed::Credential);
    }
    let revoke = OwnerCredential::Revoke { name: name.to_string(), created_at: old.created_at };
    let least = changer.expect_approval(&revoke)?.least_owners();
    expect_enough_owners(&old, configured, directory, least, now).map(|()| Removed::Credential)
}
