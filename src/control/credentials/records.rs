//! Credentials as the file has them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::MAX_CREDENTIALS;
use crate::operator::named::{CredentialName, Directory, NamedCredential, Standing};
use crate::state::CredentialRecord;

/// The records to write.
pub(super) fn records_of(directory: &Directory) -> Vec<CredentialRecord> {
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

/// The credentials in the records of the file, or what is wrong with them.
pub(super) fn directory(records: Vec<CredentialRecord>) -> Result<Directory, String> {
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
