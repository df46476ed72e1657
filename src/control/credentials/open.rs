//! A start: the file is read and its credentials are put in force.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex as StdMutex};

use tokio::sync::Mutex;

use super::super::Store;
use super::error::OpenError;
use super::first::{FirstOwner, first_owner};
use super::fleet::{Mark, Revoked};
use super::owners::lasting_owners;
use super::records::{directory, records_of};
use super::{FIRST, Kept, NamedCredentials};
use crate::audit::{Audit, Event, Health};
use crate::operator::named::{BadName, CredentialName, Directory};
use crate::operator::{Credentials, Users};
use crate::state::{CredentialContent, CredentialFile, CredentialFileError, RevokedRecord};

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
        show: impl FnOnce(&str) -> io::Result<()>,
    ) -> Result<Option<Opened>, OpenError> {
        let Some(named) = configured.named().cloned() else { return Ok(None) };
        named.not_before(audit.floor().clone());
        let Examined { mut directory, revoked, makes_owner: WillMakeOwner(makes_owner) } =
            examined(&file, &configured)?;
        let mut made = None;
        let can_record = !matches!(audit.health(), Health::Failing { .. });
        if makes_owner && !can_record {
            tracing::warn!(
                "the audit log cannot be written, so no credential of an owner is made: the admin listener admits nobody \
                 until this KMS is started again"
            );
        }
        if makes_owner && can_record {
            let name: CredentialName = FIRST.parse().expect("a name");
            let owner = first_owner(&name, &file)?;
            show(&owner.shown()).map_err(OpenError::NotShown)?;
            let event = Event::OwnerCreated { name: name.to_string() };
            let _ = audit.record(event).await.map_err(OpenError::NotRecorded)?;
            match owner {
                FirstOwner::Named(issued) => {
                    directory.insert(name.clone(), issued.credential);
                    file.begin(records_of(&directory, named.now())).map_err(OpenError::NotKept)?;
                }
                FirstOwner::User(user) => {
                    file.begin_users(&user.entry).map_err(OpenError::UsersNotKept)?;
                    configured.set_users(Users::parse(&user.entry).map_err(OpenError::Htpasswd)?);
                }
            }
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
        let credentials = Self {
            named,
            configured,
            file: Mutex::new(Kept { unfinished: BTreeSet::new() }),
            disk: Mutex::new(Arc::new(file)),
            store: Store::File,
            revoked: StdMutex::new(revoked),
        };
        Ok(Some(Opened { credentials, made }))
    }

    /// Whether [`NamedCredentials::open`] would accept the file, and whether it would create an owner.
    ///
    /// # Errors
    /// As [`NamedCredentials::open`].
    pub fn inspect(file: &CredentialFile, configured: &Credentials) -> Result<WillMakeOwner, OpenError> {
        examined(file, configured).map(|examined| examined.makes_owner)
    }
}

/// What a file and the configuration say.
struct Examined {
    directory: Directory,
    revoked: Revoked,
    makes_owner: WillMakeOwner,
}

/// The content of the file, and whether there never was an owner.
fn examined(file: &CredentialFile, configured: &Credentials) -> Result<Examined, OpenError> {
    let content = file.read()?;
    let has_file = content.is_some();
    let CredentialContent { credentials, revoked } =
        content.unwrap_or(CredentialContent { credentials: Vec::new(), revoked: Vec::new() });
    let directory = directory(credentials).map_err(CredentialFileError::Damaged)?;
    let marked = |RevokedRecord { name, created_at, owner }| Ok((name.parse()?, Mark { created_at, owner }));
    let revoked = revoked.into_iter().map(marked);
    let revoked = revoked.collect::<Result<BTreeMap<_, _>, BadName>>();
    let revoked = revoked.map_err(|error| CredentialFileError::Damaged(error.to_string()))?;
    let revoked = Revoked::of(revoked);
    if let Some(name) = directory.keys().find(|name| configured.has_user(name.as_str())) {
        return Err(OpenError::IsUser(name.clone()));
    }
    let has_owner = lasting_owners(configured, &directory) > 0;
    if file.lacks_users() && has_owner {
        return Err(OpenError::UsersMissing);
    }
    let makes_owner = match (has_owner, has_file) {
        (true, _) => false,
        (false, true) => return Err(OpenError::NoOwner),
        (false, false) if file.has_begun().map_err(CredentialFileError::Unreadable)? => {
            return Err(OpenError::Gone);
        }
        (false, false) => true,
    };
    Ok(Examined { directory, revoked, makes_owner: WillMakeOwner(makes_owner) })
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
