//! The file that keeps named credentials over restarts: replaced as a whole, by one rename. It holds hashes, no secret.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use kms_attest::state_file::{self, Replaced, StateFile};
use serde::{Deserialize, Serialize};

use crate::operator::Person;

/// Larger than the file of the largest number of credentials.
const MAX_FILE: u64 = 4 << 20;
/// The only version that is written and read.
const VERSION: u32 = 1;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialFileError {
    /// It cannot be read.
    #[error("the file that core.admin.credentials_file names cannot be read, so nobody could be identified")]
    Unreadable(#[source] io::Error),
    /// Its content is invalid.
    #[error(
        "the file that core.admin.credentials_file names is damaged ({0}), so nobody could be identified; restore it, or \
         remove it, and credentials-created from the key directory, to begin with a new owner"
    )]
    Damaged(String),
}

/// The file, which no other process writes.
#[derive(Debug)]
pub struct CredentialFile {
    file: StateFile,
    /// Exists once the file existed: deleting the file must not make a new owner.
    marker: PathBuf,
    /// An htpasswd file that is configured and missing.
    missing_users: Option<PathBuf>,
}

/// The name of the marker in the key directory.
const MARKER: &str = "credentials-created";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    credentials: Vec<CredentialRecord>,
    /// Revoked on this node of a fleet, and perhaps not on the others yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    revoked: Vec<RevokedRecord>,
}

/// A credential that was revoked on this node of a fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokedRecord {
    /// Its name.
    pub name: String,
    /// When it was created, Unix seconds: a later one of the same name is another one.
    pub created_at: u64,
    /// Of an owner's: it must leave enough owners when it is written for all nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<RevokedOwner>,
}

/// The revocation of an owner's credential while the other nodes could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokedOwner {
    /// How many owners without an end must be left.
    pub least_owners: usize,
    /// Who revoked it.
    pub by: String,
    /// The address that the request came from.
    pub remote: IpAddr,
}

/// What the file has.
#[derive(Debug)]
pub struct CredentialContent {
    /// All credentials.
    pub credentials: Vec<CredentialRecord>,
    /// Those that were revoked on this node of a fleet, and perhaps not on the others yet.
    pub revoked: Vec<RevokedRecord>,
}

/// One credential in the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialRecord {
    /// Its name.
    pub name: String,
    /// The name of its role.
    pub role: String,
    /// The domain to which it is limited; absent for the whole KMS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Argon2id in PHC form, of the secret or of the invitation.
    pub hash: String,
    /// The end of the invitation, in Unix seconds; absent once the credential is active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invited_until: Option<u64>,
    /// Changes with the secret.
    pub secret_version: u64,
    /// The secret before this one, while both are valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<ReplacedRecord>,
    /// The invitation to replace this secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invitation: Option<ReplacedRecord>,
    /// The other owner who has chosen this secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_by: Option<Person>,
    /// Unix seconds.
    pub created_at: u64,
    /// The operator that created it.
    pub created_by: String,
    /// Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// Unix seconds; 0 before the first use. Up to date as of the last change of any credential.
    pub last_used: u64,
}

/// A secret that is valid beside that of the credential: the one before it, or an invitation to replace it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplacedRecord {
    /// Argon2id in PHC form.
    pub hash: String,
    /// Another one than that of the credential.
    pub secret_version: u64,
    /// Its end, in Unix seconds.
    pub until: u64,
}

impl CredentialFile {
    /// The file at this path, which may not exist yet. The key directory says whether it existed.
    pub fn new(file: impl Into<StateFile>, key_directory: &Path) -> Self {
        Self { file: file.into(), marker: key_directory.join(MARKER), missing_users: None }
    }

    /// The same beside an htpasswd file, if that is missing.
    #[must_use]
    pub fn beside(self, htpasswd: Option<&Path>) -> Self {
        let missing = htpasswd.filter(|path| path.try_exists().is_ok_and(|exists| !exists));
        Self { missing_users: missing.map(Path::to_owned), ..self }
    }

    /// Whether there is a configured htpasswd file that is missing.
    pub fn lacks_users(&self) -> bool {
        self.missing_users.is_some()
    }

    /// Writes the missing htpasswd file.
    ///
    /// # Errors
    /// Those of the system; there is no missing file.
    pub fn begin_users(&self, text: &str) -> io::Result<()> {
        let path = self.missing_users.as_ref().ok_or(io::ErrorKind::NotFound)?;
        state_file::replace(path, text.as_bytes())?;
        self.mark()
    }

    /// Whether the file ever existed.
    ///
    /// # Errors
    /// Those of the system.
    pub fn has_begun(&self) -> io::Result<bool> {
        self.marker.try_exists()
    }

    /// All records; `None` where there is no file.
    ///
    /// # Errors
    /// [`CredentialFileError`]
    pub fn read(&self) -> Result<Option<CredentialContent>, CredentialFileError> {
        super::parsed(
            &self.file,
            MAX_FILE,
            read,
            CredentialFileError::Unreadable,
            CredentialFileError::Damaged,
        )
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Replaces all records. Waits for the disk.
    ///
    /// # Errors
    /// Those of the system; the old file is then unchanged.
    pub fn replace(&self, content: CredentialContent) -> io::Result<Replaced> {
        self.mark()?;
        self.write(content)
    }

    /// Writes the first records. If only the marker fails, the file exists, and the next start uses it and writes the marker.
    ///
    /// # Errors
    /// Those of the system.
    pub fn begin(&self, credentials: Vec<CredentialRecord>) -> io::Result<()> {
        self.write(CredentialContent { credentials, revoked: Vec::new() })?.safely()?;
        self.mark()
    }

    /// Notes that there is a file.
    ///
    /// # Errors
    /// Those of the system.
    pub fn mark(&self) -> io::Result<()> {
        match self.has_begun()? {
            true => Ok(()),
            false => state_file::replace(&self.marker, b""),
        }
    }

    fn write(&self, CredentialContent { credentials, revoked }: CredentialContent) -> io::Result<Replaced> {
        self.file.replace(&text(credentials, revoked)?)
    }
}

fn text(credentials: Vec<CredentialRecord>, revoked: Vec<RevokedRecord>) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(&Content { version: VERSION, credentials, revoked })?;
    text.push(b'\n');
    Ok(text)
}

/// The document that the nodes of a fleet share.
///
/// # Errors
/// Only if the records cannot be serialized, which does not happen: they are texts and numbers.
pub fn content(credentials: Vec<CredentialRecord>) -> io::Result<Vec<u8>> {
    text(credentials, Vec::new())
}

/// Reads the document that the nodes of a fleet share.
///
/// # Errors
/// What is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<Vec<CredentialRecord>, String> {
    read(bytes).map(|content| content.credentials)
}

fn read(bytes: &[u8]) -> Result<CredentialContent, String> {
    let content: Content = kms_attest::json::from_utf8(bytes).map_err(|error| error.to_string())?;
    if content.version != VERSION {
        return Err(format!("version must be {VERSION}, got {}", content.version));
    }
    Ok(CredentialContent { credentials: content.credentials, revoked: content.revoked })
}

#[cfg(test)]
mod tests {
    use kms_wire::role::Role;

    use super::*;

    #[test]
    fn the_next_start_reads_as_many_credentials_as_there_may_be() {
        let text = |length: usize| "x".repeat(length);
        let replaced = || ReplacedRecord { hash: text(120), secret_version: u64::MAX, until: u64::MAX };
        let credentials = (0..1000).map(|_| CredentialRecord {
            name: text(64),
            role: Role::EventsWriter.name().to_owned(),
            domain: Some(text(63)),
            hash: text(120),
            invited_until: Some(u64::MAX),
            secret_version: u64::MAX,
            replaced: Some(replaced()),
            invitation: Some(replaced()),
            chosen_by: Some(Person::Oidc { subject: text(128), name: text(128) }),
            created_at: u64::MAX,
            created_by: text(150),
            expires_at: Some(u64::MAX),
            last_used: u64::MAX,
        });
        let revoked = (0..1000).map(|_| RevokedRecord {
            name: text(64),
            created_at: u64::MAX,
            owner: Some(RevokedOwner { least_owners: 2, by: text(150), remote: IpAddr::from([u8::MAX; 16]) }),
        });
        let content = self::text(credentials.collect(), revoked.collect()).unwrap();
        assert!(content.len() as u64 <= MAX_FILE, "{} bytes", content.len());
        assert_eq!(read(&content).unwrap().credentials.len(), 1000);
    }
}
