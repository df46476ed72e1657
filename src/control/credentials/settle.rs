//! Ends the old secret of a last owner once the new one was used.

use std::convert::Infallible;
use std::sync::{Arc, Weak};

use kms_attest::state_file;

use super::super::Store;
use super::NamedCredentials;
use super::error::CredentialError;
use super::issue::again;
use crate::audit::{Audit, Event};
use crate::operator::named::{Directory, NamedCredential, Replaced};

impl NamedCredentials {
    /// Keeps on the disk, and in the audit log, that the old secret of a last owner has ended because the new one was used.
    /// Ends with the credentials.
    pub async fn settle_loop(credentials: Weak<Self>, audit: Weak<Audit>) {
        let Some(mut changes) = credentials.upgrade().map(|credentials| credentials.named.changes()) else {
            return;
        };
        while changes.changed().await.is_ok() {
            let (Some(credentials), Some(audit)) = (credentials.upgrade(), audit.upgrade()) else { return };
            credentials.settle(&audit).await;
        }
    }

    async fn settle(&self, audit: &Audit) {
        let is_over = |it: &NamedCredential| it.replaced.as_ref().is_some_and(Replaced::is_over);
        if !self.named.current().values().any(|credential| is_over(credential)) {
            return;
        }
        let turn = self.file.lock().await;
        let Ok(settled) = self.named.change(|directory| {
            let mut settled = Vec::new();
            for credential in directory.values_mut().filter(|credential| is_over(credential)) {
                let invitation = credential.invitation.clone();
                let alone = again(credential, credential.standing.clone(), credential.version);
                *credential = Arc::new(NamedCredential { invitation, ..alone });
                settled.push(Arc::clone(credential));
            }
            Ok::<_, Infallible>(settled)
        });
        let kept = match &self.store {
            Store::File => {
                let kept = self.keep(&self.named.current()).await.and_then(state_file::Replaced::safely);
                kept.map_err(CredentialError::NotKept)
            }
            Store::Shared(shared) => {
                let ended = settled.clone();
                let change = move |directory: &mut Directory| {
                    for credential in &ended {
                        let same = directory.get_mut(&credential.name);
                        if let Some(same) = same.filter(|it| it.version == credential.version) {
                            let invitation = same.invitation.clone();
                            let alone = again(same, same.standing.clone(), same.version);
                            *same = Arc::new(NamedCredential { invitation, ..alone });
                        }
                    }
                    Ok(())
                };
                self.change_everywhere(&Arc::clone(shared), "", None, change).await
            }
        };
        if let Err(error) = kept {
            tracing::warn!(%error, "the old secret of an owner has ended, but is valid again after a restart, until its end");
        }
        drop(turn);
        for credential in settled {
            audit.note(Event::OldSecretEnded { name: credential.name.to_string() });
        }
    }
}
