//! New secrets of credentials.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{CredentialError, Issued};
use crate::operator::named::{
    Invitation, NamedCredential, NoRandomNumbers, Replaced, Secret, SecretHash, Standing,
};

/// The same credential with another secret, and without an invitation.
pub(super) fn again(old: &NamedCredential, standing: Standing, version: u64) -> NamedCredential {
    NamedCredential {
        name: old.name.clone(),
        role: old.role,
        domain: old.domain.clone(),
        standing,
        version,
        replaced: None,
        invitation: None,
        chosen_by: old.chosen_by.clone(),
        created_at: old.created_at,
        created_by: old.created_by.clone(),
        expires_at: old.expires_at,
        last_used: AtomicU64::new(old.last_used.load(Ordering::Relaxed)),
    }
}

/// The same credential with an invitation to replace its secret. One that was never active gets another invitation.
pub(super) fn invited(old: &NamedCredential, standing: Standing, version: u64, now: u64) -> NamedCredential {
    match (&old.standing, standing) {
        (Standing::Active(_), Standing::Invited { hash, until }) => NamedCredential {
            replaced: old.replaced(now).map(|it| Replaced::new(it.hash.clone(), it.version, it.until)),
            invitation: Some(Invitation { hash, version, until }),
            ..again(old, old.standing.clone(), old.version)
        },
        (Standing::Active(_) | Standing::Invited { .. }, standing) => again(old, standing, version),
    }
}

/// The secret of `old` that its holder has used: the one before its last rotation, if the new one was not used.
pub(super) fn overlap(old: &NamedCredential, now: u64, until: u64) -> Replaced {
    match old.replaced(now) {
        Some(unconfirmed) => Replaced::new(unconfirmed.hash.clone(), unconfirmed.version, until),
        None => Replaced::new(old.hash().clone(), old.version, until),
    }
}

/// Makes a secret for the credential that `make` builds.
pub(super) async fn issue(
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
pub(super) fn version() -> Result<u64, NoRandomNumbers> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoRandomNumbers)?;
    Ok(u64::from_be_bytes(bytes).max(1))
}
