//! Credentials as the file has them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::MAX_CREDENTIALS;
use crate::operator::named::{CredentialName, Directory, Invitation, NamedCredential, Replaced, Standing};
use crate::state::{CredentialRecord, ReplacedRecord};
use kms_attest::identity::DomainName;

/// The records to write.
pub(super) fn records_of(directory: &Directory, now: u64) -> Vec<CredentialRecord> {
    let record = |credential: &Arc<NamedCredential>| {
        let (hash, invited_until) = match &credential.standing {
            Standing::Active(hash) => (hash, None),
            Standing::Invited { hash, until } => (hash, Some(*until)),
        };
        CredentialRecord {
            name: credential.name.to_string(),
            role: credential.role.name().to_owned(),
            domain: credential.domain.as_ref().map(ToString::to_string),
            hash: hash.as_str().to_owned(),
            invited_until,
            secret_version: credential.version,
            replaced: credential.replaced(now).map(|old| ReplacedRecord {
                hash: old.hash.as_str().to_owned(),
                secret_version: old.version,
                until: old.until,
            }),
            invitation: credential.invitation(now).map(|invitation| ReplacedRecord {
                hash: invitation.hash.as_str().to_owned(),
                secret_version: invitation.version,
                until: invitation.until,
            }),
            chosen_by: credential.chosen_by.clone(),
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
        if let Some(replaced) = &record.replaced
            && (record.invited_until.is_some()
                || [0, record.secret_version].contains(&replaced.secret_version))
        {
            return Err("replaced must be an earlier secret of an active credential".to_owned());
        }
        if let Some(invitation) = &record.invitation {
            let replaced = record.replaced.as_ref().map_or(0, |replaced| replaced.secret_version);
            if record.invited_until.is_some()
                || [0, record.secret_version, replaced].contains(&invitation.secret_version)
            {
                return Err("invitation must be one to replace the secret of an active credential".to_owned());
            }
        }
        let domain = record.domain.map(|domain| domain.parse::<DomainName>());
        let credential = NamedCredential {
            name: name.clone(),
            role: record.role.parse().map_err(|error| format!("{error}"))?,
            domain: domain.transpose().map_err(|error| error.to_string())?,
            standing: match record.invited_until {
                None => Standing::Active(hash),
                Some(until) => Standing::Invited { hash, until },
            },
            version: record.secret_version,
            replaced: record.replaced.map(replaced).transpose()?,
            invitation: record.invitation.map(invitation).transpose()?,
            chosen_by: record.chosen_by,
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

fn replaced(record: ReplacedRecord) -> Result<Replaced, String> {
    let hash = record.hash.parse().map_err(|error| format!("{error}"))?;
    Ok(Replaced::new(hash, record.secret_version, record.until))
}

fn invitation(record: ReplacedRecord) -> Result<Invitation, String> {
    let hash = record.hash.parse().map_err(|error| format!("{error}"))?;
    Ok(Invitation { hash, version: record.secret_version, until: record.until })
}
