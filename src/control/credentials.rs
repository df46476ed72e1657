//! Credentials of operators: created, rotated, revoked and activated while the KMS runs.
//!
//! A new secret takes effect only after it is in the audit log and on the disk. A revocation takes effect at once, even if the
//! disk fails, and the response comes after it is on the disk and in the log.

mod records;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kms_wire::role::Role;
use tokio::sync::{Mutex, MutexGuard};
use zeroize::Zeroizing;

use self::records::{directory, records_of};
use super::Author;
use super::approvals::{OwnerChange, OwnerCredential};
use crate::audit::{Audit, AuditError, Event, Health};
use crate::clock::unix_now;
use crate::operator::named::{
    CredentialName, Directory, Named, NamedCredential, NoRandomNumbers, Secret, SecretHash, Standing,
};
use crate::operator::{Credentials, Operator};
use crate::state::{CredentialFile, CredentialFileError};

/// The largest number of credentials.
const MAX_CREDENTIALS: usize = 1000;
/// The lifetime of an invitation, in seconds.
pub const INVITATION: u64 = 15 * 60;
/// The name of the owner that the first start creates.
const FIRST: &str = "admin";

/// Why a change failed, or took effect only in part.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// No credential has this name.
    #[error("there is no credential named {0}")]
    Unknown(CredentialName),
    /// The name is taken.
    #[error("there is a credential named {0} already; rotate it, or revoke it first")]
    Exists(CredentialName),
    /// A user of the htpasswd file has the name.
    #[error("{0} is a user of the htpasswd file; choose another name")]
    IsUser(CredentialName),
    /// There are as many credentials as allowed already.
    #[error("there are {MAX_CREDENTIALS} credentials, which is the most; revoke some")]
    Full,
    /// Without it no owner would be left to manage credentials.
    #[error("{0} is the last credential of an owner without an end; create another one first")]
    LastOwner(CredentialName),
    /// Its end is in the past.
    #[error("expires_at must be later than now, {now}, got {expires_at}")]
    Ended {
        /// Unix seconds.
        expires_at: u64,
        /// Unix seconds.
        now: u64,
    },
    /// It is the credential of an owner, which was not known when the change was requested.
    #[error("nothing was changed: the credential is an owner's, or another one than it was; try again")]
    OfOwner,
    /// Fewer than two owners without an end would be left, and changes of theirs need two.
    #[error("{0} is one of the last two owners without an end; create another one first")]
    LastTwoOwners(CredentialName),
    /// The caller's credential was revoked or rotated since the request began.
    #[error("nothing was changed: the credential that asks for it does not count any more")]
    NotLive,
    /// The invitation was used or has expired.
    #[error("the invitation is not valid any more; ask for another one")]
    NotInvited,
    /// No random numbers for a secret.
    #[error(transparent)]
    Random(#[from] NoRandomNumbers),
    /// The audit log could not be written; nothing was changed.
    #[error("nothing was changed: the audit log does not take the record: {0}")]
    NotRecorded(#[source] AuditError),
    /// The file could not be written; nothing was changed.
    #[error("nothing was changed: the file of credentials cannot be written: {0}")]
    NotKept(#[source] io::Error),
    /// Revoked in memory, but valid again after a restart.
    #[error(
        "the credential does not count any more, but it would again after a restart: its file cannot be written: {0}; \
         revoke it again"
    )]
    RevokedNotKept(#[source] io::Error),
    /// Revoked, but without a record.
    #[error(
        "the credential does not count any more, but the audit log does not take the record: {0}; revoke it again"
    )]
    RevokedNotRecorded(#[source] AuditError),
    /// The task panicked.
    #[error("the change ended in a panic")]
    Panicked,
}

/// How the holder of a new credential gets its secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Issue {
    /// The response contains it.
    Secret,
    /// The response contains a token that can be exchanged for it once, within [`INVITATION`] seconds.
    Invitation,
}

impl Issue {
    /// The end of the invitation, if it is one.
    fn until(self, now: u64) -> Option<u64> {
        match self {
            Self::Secret => None,
            Self::Invitation => Some(now.saturating_add(INVITATION)),
        }
    }
}

/// A credential to be created.
#[derive(Debug)]
pub struct NewCredential {
    /// Its name.
    pub name: CredentialName,
    /// What it may do.
    pub role: Role,
    /// Unix seconds at which it ends by itself.
    pub expires_at: Option<u64>,
    /// How its holder gets the secret.
    pub issue: Issue,
}

/// The result of a change. The token is shown once and not stored.
#[derive(Debug)]
pub struct Issued {
    /// The credential after the change.
    pub credential: Arc<NamedCredential>,
    /// The token of its holder.
    pub token: Zeroizing<String>,
}

/// The operator that requests a change. Checked again when the change has the file.
#[derive(Debug)]
pub struct Changer {
    /// The operator, with the version of its secret.
    pub operator: Operator,
    /// The same for the audit log.
    pub author: Author,
    /// Which change of an owner's credential was approved.
    pub(super) owner_change: Option<OwnerChange>,
}

impl Changer {
    /// An operator who changes no owner's credential.
    pub fn new(operator: Operator, author: Author) -> Self {
        Self { operator, author, owner_change: None }
    }

    /// Checks that this change of an owner's credential was approved.
    fn expect_approval(&self, change: &OwnerCredential) -> Result<&OwnerChange, CredentialError> {
        let approved = self.owner_change.as_ref().filter(|approved| approved.is(change));
        approved.ok_or(CredentialError::OfOwner)
    }
}

/// All named credentials, and the right to change them.
#[derive(Debug)]
pub struct NamedCredentials {
    named: Arc<Named>,
    /// The credentials of the configuration.
    configured: Arc<Credentials>,
    /// One change at a time.
    file: Mutex<Kept>,
}

/// The part that survives a restart.
#[derive(Debug)]
struct Kept {
    file: Arc<CredentialFile>,
    /// Revoked in memory, but not on the disk or not in the log. Revoking them again retries both.
    unfinished: BTreeSet<CredentialName>,
}

impl NamedCredentials {
    /// Reads the file and puts its credentials in force; `None` if no credentials are needed. If the configuration names no
    /// owner and there never was a file, creates an owner. `show` shows its token and the audit log records it before the
    /// file is written: if either fails, the next start creates another one. While the audit log cannot be written, for example
    /// because it imports an older log, no owner is created, nobody is admitted, and the start goes on.
    ///
    /// # Errors
    /// The file cannot be read or written, or no owner would exist.
    pub async fn open(
        file: CredentialFile,
        configured: Arc<Credentials>,
        audit: &Audit,
        show: impl FnOnce(&Issued) -> io::Result<()>,
    ) -> Result<Option<Opened>, OpenError> {
        let Some(named) = configured.named().cloned() else { return Ok(None) };
        named.not_before(audit.floor().clone());
        let (mut directory, WillMakeOwner(makes_owner)) = examined(&file, &configured)?;
        let mut made = None;
        let can_record = !matches!(audit.health(), Health::Failing { .. });
        if makes_owner && !can_record {
            tracing::warn!(
                "the audit log cannot be written, so no credential of an owner is made: the admin listener admits nobody \
                 until this KMS is started again"
            );
        }
        if makes_owner && can_record {
            let issued = first_owner()?;
            show(&issued).map_err(OpenError::NotShown)?;
            let name = issued.credential.name.clone();
            let event = Event::OwnerCreated { name: name.to_string() };
            let _ = audit.record(event).await.map_err(OpenError::NotRecorded)?;
            directory.insert(name.clone(), issued.credential);
            file.begin(records_of(&directory)).map_err(OpenError::NotKept)?;
            made = Some(name);
        }
        // Written by a version without the marker.
        if made.is_none()
            && !directory.is_empty()
            && let Err(error) = file.mark()
        {
            tracing::warn!(%error, "credentials-created cannot be written to the key directory");
        }
        let Ok(()) = named.change(|current| {
            *current = directory;
            Ok::<_, Infallible>(())
        });
        let file = Mutex::new(Kept { file: Arc::new(file), unfinished: BTreeSet::new() });
        Ok(Some(Opened { credentials: Self { named, configured, file }, made }))
    }

    /// Whether [`NamedCredentials::open`] would accept the file, and whether it would create an owner.
    ///
    /// # Errors
    /// As [`NamedCredentials::open`].
    pub fn inspect(file: &CredentialFile, configured: &Credentials) -> Result<WillMakeOwner, OpenError> {
        examined(file, configured).map(|(_, makes_owner)| makes_owner)
    }

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
        let mut turn = self.file.lock().await;
        self.expect_live(&changer)?;
        if new.role == Role::Owner {
            let (name, expires_at) = (new.name.to_string(), new.expires_at);
            changer.expect_approval(&OwnerCredential::Create { name, expires_at })?;
        }
        self.expect_free(&new)?;
        let now = self.named.now();
        let until = new.issue.until(now);
        let name = new.name.clone();
        let issued = issue(until, |standing, version| NamedCredential {
            name: new.name,
            role: new.role,
            standing,
            version,
            created_at: now,
            created_by: changer.author.by.clone(),
            expires_at: new.expires_at,
            last_used: AtomicU64::new(0),
        })
        .await?;
        let event = Event::CredentialCreated {
            name: name.to_string(),
            role: new.role.name(),
            expires_at: new.expires_at,
            invited: until.is_some(),
            by: changer.author.by.clone(),
            remote: changer.author.remote,
        };
        self.put(&mut turn, None, issued, &changer, event, audit).await
    }

    /// Whether a credential could be created now.
    ///
    /// # Errors
    /// Why not.
    pub fn expect_free(&self, new: &NewCredential) -> Result<(), CredentialError> {
        let directory = self.named.current();
        let now = self.named.now();
        if let Some(expires_at) = new.expires_at.filter(|end| *end <= now) {
            return Err(CredentialError::Ended { expires_at, now });
        }
        if self.configured.has_user(new.name.as_str()) {
            return Err(CredentialError::IsUser(new.name.clone()));
        }
        if directory.get(&new.name).is_some_and(|credential| !credential.has_ended(now)) {
            return Err(CredentialError::Exists(new.name.clone()));
        }
        if directory.values().filter(|credential| !credential.has_ended(now)).count() >= MAX_CREDENTIALS {
            return Err(CredentialError::Full);
        }
        Ok(())
    }

    /// Replaces the secret of a credential; the old one is invalid at once.
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
        let mut turn = self.file.lock().await;
        self.expect_live(&changer)?;
        let now = self.named.now();
        let old = self.named.get(name.as_str(), now);
        let Some(old) = old else { return Err(CredentialError::Unknown(name)) };
        if old.role == Role::Owner {
            let (name, created_at) = (name.to_string(), old.created_at);
            changer.expect_approval(&OwnerCredential::Rotate { name, created_at })?;
        }
        let until = issue_as.until(now);
        let issued = issue(until, |standing, version| again(&old, standing, version)).await?;
        let Author { by, remote } = changer.author.clone();
        let event = Event::CredentialRotated { name: name.to_string(), by, remote };
        self.put(&mut turn, Some(old.version), issued, &changer, event, audit).await
    }

    /// Exchanges the invitation of `changer` for a secret.
    ///
    /// # Errors
    /// [`CredentialError`]; nothing was changed then.
    pub async fn activate(&self, changer: Changer, audit: &Audit) -> Result<Issued, CredentialError> {
        let mut turn = self.file.lock().await;
        let Operator::Invited { name, version } = &changer.operator else {
            return Err(CredentialError::NotInvited);
        };
        let old =
            self.named.get(name, self.named.now()).filter(|_| self.configured.is_live(&changer.operator));
        let Some(old) = old else { return Err(CredentialError::NotInvited) };
        let issued = issue(None, |standing, version| again(&old, standing, version)).await?;
        let Author { by, remote } = changer.author.clone();
        let event = Event::CredentialActivated { name: name.clone(), by, remote };
        self.put(&mut turn, Some(*version), issued, &changer, event, audit).await
    }

    /// Revokes a credential at once, without waiting for another change.
    ///
    /// # Errors
    /// [`CredentialError`]
    pub async fn revoke(
        &self,
        name: CredentialName,
        changer: Changer,
        audit: &Audit,
    ) -> Result<(), CredentialError> {
        let removed = self.named.change(|directory| {
            self.expect_live(&changer)?;
            let Some(old) = directory.remove(&name) else { return Ok(None) };
            if old.role != Role::Owner {
                return Ok(Some(old));
            }
            let revoke = OwnerCredential::Revoke { name: name.to_string(), created_at: old.created_at };
            let least = changer.expect_approval(&revoke)?.least_owners();
            match old.is_lasting_owner() && lasting_owners(&self.configured, directory) < least {
                true if least > 1 => Err(CredentialError::LastTwoOwners(name.clone())),
                true => Err(CredentialError::LastOwner(name.clone())),
                false => Ok(Some(old)),
            }
        })?;
        let mut turn = self.file.lock().await;
        if removed.is_none() && !turn.unfinished.contains(&name) {
            return Err(CredentialError::Unknown(name));
        }
        if turn.unfinished.len() < MAX_CREDENTIALS {
            turn.unfinished.insert(name.clone());
        }
        let kept = replace(&turn.file, &self.named.current()).await;
        let Author { by, remote } = changer.author;
        let recorded = audit.record(Event::CredentialRevoked { name: name.to_string(), by, remote }).await;
        kept?.map_err(CredentialError::RevokedNotKept)?;
        recorded.map(drop).map_err(CredentialError::RevokedNotRecorded)?;
        turn.unfinished.remove(&name);
        Ok(())
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
        turn: &mut MutexGuard<'_, Kept>,
        before: Option<u64>,
        issued: Issued,
        changer: &Changer,
        event: Event,
        audit: &Audit,
    ) -> Result<Issued, CredentialError> {
        // Hashing is slow, and a revocation does not wait for it.
        self.expect_live(changer)?;
        let credential = &issued.credential;
        let put = |directory: &mut Directory| {
            let replaced = directory.get(&credential.name).map(|old| old.version);
            if before.is_some() && replaced != before {
                return Err(CredentialError::Unknown(credential.name.clone()));
            }
            if directory.len() >= MAX_CREDENTIALS {
                let now = self.named.now();
                directory.retain(|_, old| !old.has_ended(now));
            }
            directory.insert(credential.name.clone(), Arc::clone(credential));
            Ok(())
        };
        let mut directory = Directory::clone(&self.named.current());
        put(&mut directory)?;
        let _ = audit.record(event).await.map_err(CredentialError::NotRecorded)?;
        replace(&turn.file, &directory).await?.map_err(CredentialError::NotKept)?;
        // A credential revoked meanwhile stays revoked; its revocation then writes the file after this change.
        self.named.change(put)?;
        turn.unfinished.remove(&credential.name);
        Ok(issued)
    }
}

/// How many owners that do not expire are in the configuration and in `directory`.
fn lasting_owners(configured: &Credentials, directory: &Directory) -> usize {
    let named = directory.values().filter(|credential| credential.is_lasting_owner());
    configured.count_configured_owners() + named.count()
}

/// The content of the file, and whether there never was an owner.
fn examined(
    file: &CredentialFile,
    configured: &Credentials,
) -> Result<(Directory, WillMakeOwner), OpenError> {
    let records = file.read()?;
    let has_file = records.is_some();
    let directory = directory(records.unwrap_or_default()).map_err(CredentialFileError::Damaged)?;
    if let Some(name) = directory.keys().find(|name| configured.has_user(name.as_str())) {
        return Err(OpenError::IsUser(name.clone()));
    }
    match (lasting_owners(configured, &directory) > 0, has_file) {
        (true, _) => Ok((directory, WillMakeOwner(false))),
        (false, true) => Err(OpenError::NoOwner),
        (false, false) if file.has_begun().map_err(CredentialFileError::Unreadable)? => Err(OpenError::Gone),
        (false, false) => Ok((directory, WillMakeOwner(true))),
    }
}

/// The credentials of a KMS that starts.
#[derive(Debug)]
pub struct Opened {
    /// All of them.
    pub credentials: NamedCredentials,
    /// The owner that this start created.
    pub made: Option<CredentialName>,
}

/// Whether a start would create an owner and show its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WillMakeOwner(pub bool);

/// Why the credentials cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] CredentialFileError),
    /// The first owner's token could not be shown.
    #[error("the token of the first owner cannot be printed to standard output, so nobody would know it")]
    NotShown(#[source] io::Error),
    /// The file with the first owner cannot be written.
    #[error(
        "the file that core.admin.credentials_file names cannot be written, so the first owner cannot be made"
    )]
    NotKept(#[source] io::Error),
    /// The audit log could not record the first owner.
    #[error("the first owner cannot be made: the audit log does not take the record")]
    NotRecorded(#[source] AuditError),
    /// There is no randomness for a secret.
    #[error(transparent)]
    Random(#[from] NoRandomNumbers),
    /// A name is both a named credential and an htpasswd user.
    #[error(
        "{0} is a credential in the file that core.admin.credentials_file names, and a user of the htpasswd file; rename the \
         user"
    )]
    IsUser(CredentialName),
    /// There was a file, and it is missing.
    #[error(
        "the file that core.admin.credentials_file names is gone, and this KMS has had credentials; restore it, set \
         core.admin.auth_token, or remove credentials-created from the key directory to begin with a new owner"
    )]
    Gone,
    /// Neither the file nor the configuration has an owner that does not expire.
    #[error(
        "no credential of an owner without an end is in the file that core.admin.credentials_file names, so nobody could \
         manage this KMS; set core.admin.auth_token, or remove the file, and credentials-created from the key \
         directory, to begin with a new owner"
    )]
    NoOwner,
}

/// The same credential with another secret.
fn again(old: &NamedCredential, standing: Standing, version: u64) -> NamedCredential {
    NamedCredential {
        name: old.name.clone(),
        role: old.role,
        standing,
        version,
        created_at: old.created_at,
        created_by: old.created_by.clone(),
        expires_at: old.expires_at,
        last_used: AtomicU64::new(old.last_used.load(Ordering::Relaxed)),
    }
}

/// Makes a secret for the credential that `make` builds.
async fn issue(
    until: Option<u64>,
    make: impl FnOnce(Standing, u64) -> NamedCredential,
) -> Result<Issued, CredentialError> {
    let made = tokio::task::spawn_blocking(|| {
        let secret = Secret::generate()?;
        Ok::<_, NoRandomNumbers>((SecretHash::of(&secret)?, secret, version()?))
    });
    let (hash, secret, version) = made.await.map_err(|_| CredentialError::Panicked)??;
    let standing = match until {
        None => Standing::Active(hash),
        Some(until) => Standing::Invited { hash, until },
    };
    let credential = Arc::new(make(standing, version));
    Ok(Issued { token: secret.token(&credential.name), credential })
}

/// Random, so that a remembered password of a revoked credential does not match a new one of the same name. Never 0, which is
/// for users of the htpasswd file.
fn version() -> Result<u64, NoRandomNumbers> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoRandomNumbers)?;
    Ok(u64::from_be_bytes(bytes).max(1))
}

fn first_owner() -> Result<Issued, OpenError> {
    let secret = Secret::generate()?;
    let name: CredentialName = FIRST.parse().expect("a name");
    let credential = NamedCredential {
        name,
        role: Role::Owner,
        standing: Standing::Active(SecretHash::of(&secret)?),
        version: version()?,
        created_at: unix_now(),
        created_by: "the first start".to_owned(),
        expires_at: None,
        last_used: AtomicU64::new(0),
    };
    Ok(Issued { token: secret.token(&credential.name), credential: Arc::new(credential) })
}

async fn replace(
    file: &Arc<CredentialFile>,
    directory: &Directory,
) -> Result<io::Result<()>, CredentialError> {
    let (file, records) = (Arc::clone(file), records_of(directory));
    tokio::task::spawn_blocking(move || file.replace(records)).await.map_err(|_| CredentialError::Panicked)
}
