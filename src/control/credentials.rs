//! Credentials of operators: created, rotated, revoked and activated while the KMS runs.
//!
//! What gives power is in the audit log and on the disk before it counts. What takes power away counts at once, whatever the
//! disk does, and is on the disk and in the log before it is answered.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kms_wire::role::Role;
use tokio::sync::{Mutex, MutexGuard};
use zeroize::Zeroizing;

use super::Author;
use crate::audit::{Audit, AuditError, Event};
use crate::clock::unix_now;
use crate::operator::Credentials;
use crate::operator::named::{
    CredentialName, Directory, Named, NamedCredential, NoRandomNumbers, Secret, SecretHash, Standing,
};
use crate::state::{CredentialFile, CredentialFileError, CredentialRecord};

/// Most credentials at a time.
const MAX_CREDENTIALS: usize = 1000;
/// How long an invitation can be used.
pub const INVITATION: u64 = 15 * 60;
/// The name of the credential that is made at the first start.
const FIRST: &str = "admin";

/// Why a change did not happen, or not as a whole.
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
    /// There are as many as there can be.
    #[error("there are {MAX_CREDENTIALS} credentials, which is the most; revoke some")]
    Full,
    /// Nobody could manage credentials any more.
    #[error("{0} is the last credential of an owner without an end; create another one first")]
    LastOwner(CredentialName),
    /// It ends in the past.
    #[error("expires_at must be later than now, {now}, got {expires_at}")]
    Ended {
        /// Unix seconds.
        expires_at: u64,
        /// Unix seconds.
        now: u64,
    },
    /// Somebody else has used the invitation, or it has ended.
    #[error("the invitation is not valid any more; ask for another one")]
    NotInvited,
    /// There is no randomness for a secret.
    #[error(transparent)]
    Random(#[from] NoRandomNumbers),
    /// The audit log does not take the record, so nothing was changed.
    #[error("nothing was changed: the audit log does not take the record: {0}")]
    NotRecorded(#[source] AuditError),
    /// The file cannot be written, so nothing was changed.
    #[error("nothing was changed: the file of credentials cannot be written: {0}")]
    NotKept(#[source] io::Error),
    /// It does not count any more, but would again after a restart.
    #[error(
        "the credential does not count any more, but it would again after a restart: its file cannot be written: {0}"
    )]
    RevokedNotKept(#[source] io::Error),
    /// It does not count any more, but the log does not say so.
    #[error("the credential does not count any more, but the audit log does not take the record: {0}")]
    RevokedNotRecorded(#[source] AuditError),
    /// The work ended in a panic.
    #[error("the change ended in a panic")]
    Panicked,
}

/// How the holder of a new credential comes to its secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Issue {
    /// It is in the answer.
    Secret,
    /// The answer has a token that is exchanged for it once, within [`INVITATION`] seconds.
    Invitation,
}

/// A credential to be made.
#[derive(Debug)]
pub struct NewCredential {
    /// Its name.
    pub name: CredentialName,
    /// What it may do.
    pub role: Role,
    /// Unix seconds at which it ends by itself.
    pub expires_at: Option<u64>,
    /// How its holder comes to the secret.
    pub issue: Issue,
}

/// What a change gives out: shown once, and kept nowhere.
#[derive(Debug)]
pub struct Issued {
    /// The credential as it is now.
    pub credential: Arc<NamedCredential>,
    /// What its holder shows.
    pub token: Zeroizing<String>,
}

/// All named credentials, and the right to change them.
#[derive(Debug)]
pub struct NamedCredentials {
    named: Arc<Named>,
    /// What the configuration has besides.
    configured: Arc<Credentials>,
    /// One change at a time.
    file: Mutex<Arc<CredentialFile>>,
}

impl NamedCredentials {
    /// Reads the file, and puts what it has in force in `configured`; `None` where no credentials are needed. Where the
    /// configuration names no owner and there is no file, an owner is made, and shown by `show` before it is kept: if that
    /// fails, the next start makes another one.
    ///
    /// # Errors
    /// A file that cannot be read or written, or by which nobody would be an owner.
    pub fn open(
        path: PathBuf,
        configured: Arc<Credentials>,
        show: impl FnOnce(&Issued) -> io::Result<()>,
    ) -> Result<Option<Opened>, OpenError> {
        let Some(named) = configured.named().cloned() else { return Ok(None) };
        let has_other_owners = configured.has_configured_owner();
        let file = CredentialFile::new(path);
        let records = file.read()?;
        let is_first = records.is_none();
        let mut directory = directory(records.unwrap_or_default()).map_err(CredentialFileError::Damaged)?;
        let mut made = None;
        if !has_other_owners && is_first {
            let issued = first_owner()?;
            show(&issued).map_err(OpenError::NotShown)?;
            directory.insert(issued.credential.name.clone(), Arc::clone(&issued.credential));
            file.replace(records_of(&directory)).map_err(OpenError::NotKept)?;
            made = Some(issued.credential.name.clone());
        }
        if !has_other_owners && !directory.values().any(|credential| credential.is_lasting_owner()) {
            return Err(OpenError::NoOwner);
        }
        named.replace(directory);
        Ok(Some(Opened { credentials: Self { named, configured, file: Mutex::new(Arc::new(file)) }, made }))
    }

    /// Whether [`NamedCredentials::open`] would take the file that is there; whether it would make an owner.
    ///
    /// # Errors
    /// As [`NamedCredentials::open`].
    pub fn inspect(path: PathBuf, configured: &Credentials) -> Result<WillMakeOwner, OpenError> {
        let has_other_owners = configured.has_configured_owner();
        let Some(records) = CredentialFile::new(path).read()? else {
            return Ok(WillMakeOwner(!has_other_owners));
        };
        let directory = directory(records).map_err(CredentialFileError::Damaged)?;
        match has_other_owners || directory.values().any(|credential| credential.is_lasting_owner()) {
            true => Ok(WillMakeOwner(false)),
            false => Err(OpenError::NoOwner),
        }
    }

    /// All credentials by name, those that have ended included.
    pub fn list(&self) -> Arc<Directory> {
        self.named.current()
    }

    /// Makes a credential.
    ///
    /// # Errors
    /// [`CredentialError`]; nothing was changed then.
    pub async fn create(
        &self,
        new: NewCredential,
        author: Author,
        audit: &Audit,
    ) -> Result<Issued, CredentialError> {
        let turn = self.file.lock().await;
        let mut directory = Directory::clone(&self.named.current());
        let now = unix_now();
        if let Some(expires_at) = new.expires_at.filter(|end| *end <= now) {
            return Err(CredentialError::Ended { expires_at, now });
        }
        if self.configured.has_user(new.name.as_str()) {
            return Err(CredentialError::IsUser(new.name));
        }
        if directory.get(&new.name).is_some_and(|credential| !credential.has_ended(now)) {
            return Err(CredentialError::Exists(new.name));
        }
        if directory.len() >= MAX_CREDENTIALS {
            directory.retain(|_, credential| !credential.has_ended(now));
        }
        if directory.len() >= MAX_CREDENTIALS {
            return Err(CredentialError::Full);
        }
        let until = match new.issue {
            Issue::Secret => None,
            Issue::Invitation => Some(now.saturating_add(INVITATION)),
        };
        let before = directory.get(&new.name).map_or(0, |ended| ended.version);
        let name = new.name.clone();
        let issued = issue(before, until, |standing, version| NamedCredential {
            name: new.name,
            role: new.role,
            standing,
            version,
            created_at: now,
            created_by: author.by.clone(),
            expires_at: new.expires_at,
            last_used: AtomicU64::new(0),
        })
        .await?;
        let event = Event::CredentialCreated {
            name: name.to_string(),
            role: new.role.name(),
            expires_at: new.expires_at,
            invited: until.is_some(),
            by: author.by,
            remote: author.remote,
        };
        self.put(&turn, directory, issued, event, audit).await
    }

    /// Gives a credential another secret; the one before does not count any more.
    ///
    /// # Errors
    /// [`CredentialError`]; nothing was changed then.
    pub async fn rotate(
        &self,
        name: CredentialName,
        author: Author,
        audit: &Audit,
    ) -> Result<Issued, CredentialError> {
        let turn = self.file.lock().await;
        let directory = Directory::clone(&self.named.current());
        let old = live(&directory, &name)?;
        let issued = issue(old.version, None, |standing, version| again(&old, standing, version)).await?;
        let event = Event::CredentialRotated { name: name.to_string(), by: author.by, remote: author.remote };
        self.put(&turn, directory, issued, event, audit).await
    }

    /// Exchanges an invitation for a secret.
    ///
    /// # Errors
    /// [`CredentialError`]; nothing was changed then.
    pub async fn activate(
        &self,
        name: &str,
        author: Author,
        audit: &Audit,
    ) -> Result<Issued, CredentialError> {
        let turn = self.file.lock().await;
        let directory = Directory::clone(&self.named.current());
        let invited = self.named.get(name, unix_now());
        let invited = invited.filter(|credential| matches!(credential.standing, Standing::Invited { .. }));
        let Some(old) = invited else { return Err(CredentialError::NotInvited) };
        let issued = issue(old.version, None, |standing, version| again(&old, standing, version)).await?;
        let event =
            Event::CredentialActivated { name: name.to_owned(), by: author.by, remote: author.remote };
        self.put(&turn, directory, issued, event, audit).await
    }

    /// Takes a credential away, from now on.
    ///
    /// # Errors
    /// [`CredentialError`]
    pub async fn revoke(
        &self,
        name: CredentialName,
        author: Author,
        audit: &Audit,
    ) -> Result<(), CredentialError> {
        let turn = self.file.lock().await;
        let mut directory = Directory::clone(&self.named.current());
        let Some(old) = directory.remove(&name) else { return Err(CredentialError::Unknown(name)) };
        let has_owner = self.configured.has_configured_owner()
            || directory.values().any(|credential| credential.is_lasting_owner());
        if old.is_lasting_owner() && !has_owner {
            return Err(CredentialError::LastOwner(name));
        }
        self.named.replace(directory.clone());
        let kept = replace(&turn, &directory).await;
        let event = Event::CredentialRevoked { name: name.to_string(), by: author.by, remote: author.remote };
        let recorded = audit.record(event).await;
        kept?.map_err(CredentialError::RevokedNotKept)?;
        recorded.map(drop).map_err(CredentialError::RevokedNotRecorded)
    }

    /// Records, keeps, and then puts in force.
    async fn put(
        &self,
        turn: &MutexGuard<'_, Arc<CredentialFile>>,
        mut directory: Directory,
        issued: Issued,
        event: Event,
        audit: &Audit,
    ) -> Result<Issued, CredentialError> {
        let _ = audit.record(event).await.map_err(CredentialError::NotRecorded)?;
        directory.insert(issued.credential.name.clone(), Arc::clone(&issued.credential));
        replace(turn, &directory).await?.map_err(CredentialError::NotKept)?;
        self.named.replace(directory);
        Ok(issued)
    }
}

/// The credentials of a KMS that starts.
#[derive(Debug)]
pub struct Opened {
    /// All of them.
    pub credentials: NamedCredentials,
    /// The owner that this start has made.
    pub made: Option<CredentialName>,
}

/// Whether a start would make an owner, and show its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WillMakeOwner(pub bool);

/// Why it is not known who is an owner.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] CredentialFileError),
    /// Nobody would know the first owner's token.
    #[error("the token of the first owner cannot be printed to standard output, so nobody would know it")]
    NotShown(#[source] io::Error),
    /// The file with the first owner cannot be written.
    #[error(
        "the file that core.admin.credentials_file names cannot be written, so the first owner cannot be made"
    )]
    NotKept(#[source] io::Error),
    /// There is no randomness for a secret.
    #[error(transparent)]
    Random(#[from] NoRandomNumbers),
    /// The file names no owner without an end, and neither does the configuration.
    #[error(
        "no credential of an owner without an end is in the file that core.admin.credentials_file names, so nobody could \
         manage this KMS; set core.admin.auth_token, or remove the file to begin with a new owner"
    )]
    NoOwner,
}

fn live(directory: &Directory, name: &CredentialName) -> Result<Arc<NamedCredential>, CredentialError> {
    let credential = directory.get(name).filter(|credential| !credential.has_ended(unix_now()));
    credential.cloned().ok_or_else(|| CredentialError::Unknown(name.clone()))
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

/// A new secret for what `make` gives.
async fn issue(
    before: u64,
    until: Option<u64>,
    make: impl FnOnce(Standing, u64) -> NamedCredential,
) -> Result<Issued, CredentialError> {
    let made = tokio::task::spawn_blocking(|| {
        let secret = Secret::generate()?;
        Ok::<_, NoRandomNumbers>((SecretHash::of(&secret)?, secret))
    });
    let (hash, secret) = made.await.map_err(|_| CredentialError::Panicked)??;
    let standing = match until {
        None => Standing::Active(hash),
        Some(until) => Standing::Invited { hash, until },
    };
    // Not only the next number: a credential that was revoked and made again must not meet what is remembered of the old one.
    let version = before.max(unix_now().saturating_mul(1000)).saturating_add(1);
    let credential = Arc::new(make(standing, version));
    Ok(Issued { token: secret.token(&credential.name), credential })
}

fn first_owner() -> Result<Issued, OpenError> {
    let secret = Secret::generate()?;
    let name: CredentialName = FIRST.parse().expect("a name");
    let credential = NamedCredential {
        name,
        role: Role::Owner,
        standing: Standing::Active(SecretHash::of(&secret)?),
        version: unix_now().saturating_mul(1000).saturating_add(1),
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

fn records_of(directory: &Directory) -> Vec<CredentialRecord> {
    let record = |credential: &Arc<NamedCredential>| {
        let (hash, invited_until) = match &credential.standing {
            Standing::Active(hash) => (hash, None),
            Standing::Invited { hash, until } => (hash, Some(*until)),
        };
        CredentialRecord {
            name: credential.name.to_string(),
            role: credential.role.name().to_owned(),
            hash: hash.as_str().to_owned(),
            invited_until,
            secret_version: credential.version,
            created_at: credential.created_at,
            created_by: credential.created_by.clone(),
            expires_at: credential.expires_at,
            last_used: credential.last_used.load(Ordering::Relaxed),
        }
    };
    directory.values().map(record).collect()
}

fn directory(records: Vec<CredentialRecord>) -> Result<Directory, String> {
    if records.len() > MAX_CREDENTIALS {
        return Err(format!("there are more than {MAX_CREDENTIALS} credentials"));
    }
    let mut directory = BTreeMap::new();
    for record in records {
        let hash = record.hash.parse().map_err(|error| format!("{error}"))?;
        let name: CredentialName = record.name.parse().map_err(|error| format!("{error}"))?;
        if record.secret_version == 0 {
            return Err("secret_version must be at least 1".to_owned());
        }
        let credential = NamedCredential {
            name: name.clone(),
            role: record.role.parse().map_err(|error| format!("{error}"))?,
            standing: match record.invited_until {
                None => Standing::Active(hash),
                Some(until) => Standing::Invited { hash, until },
            },
            version: record.secret_version,
            created_at: record.created_at,
            created_by: record.created_by,
            expires_at: record.expires_at,
            last_used: AtomicU64::new(record.last_used),
        };
        if directory.insert(name.clone(), Arc::new(credential)).is_some() {
            return Err(format!("{name} is there twice"));
        }
    }
    Ok(directory)
}
