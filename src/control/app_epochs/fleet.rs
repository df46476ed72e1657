//! The epochs of apps in a fleet: a choice is made in the shared state, and each node adopts it from there.

use std::io;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use kms_attest::identity::AppId;

use super::{AppChoice, AppEpochError, AppEpochs, Choices, MAX_APPS, chosen, record};
use crate::audit::Audit;
use crate::control::adopted::{AdoptedChange, note_adopted};
use crate::control::store::{Store, keep_adopted};
use crate::state;
use crate::state::shared::{AdoptError, Arrival, Document, Edit, Format, Provenance, Shared};

/// Its name in the database.
pub(super) const DOCUMENT: &str = "app-epochs";

/// The epochs of apps, as the shared state sees them.
#[derive(Debug)]
pub struct SharedAppEpochs {
    epochs: Arc<AppEpochs>,
    audit: Arc<Audit>,
}

impl SharedAppEpochs {
    /// What other nodes change is recorded in `audit`.
    pub fn new(epochs: Arc<AppEpochs>, audit: Arc<Audit>) -> Self {
        Self { epochs, audit }
    }

    fn record(&self, before: &Choices, after: &Choices, from: &Provenance) {
        let mut apps: Vec<&AppId> = before.keys().chain(after.keys()).collect();
        apps.sort_unstable();
        apps.dedup();
        let differs = |app: &&&AppId| before.get(**app) != after.get(**app);
        let changed: Vec<_> = apps.iter().filter(differs).collect();
        note_adopted(&self.audit, DOCUMENT, from, &changed, |app| AdoptedChange {
            change: "changed",
            target: format!("the choice of epochs of app {}", hex::encode(app)),
            by: after.get(**app).map_or_else(|| from.operator.clone(), |choice| choice.by.clone()),
            domain: self.epochs.domains.recorded(app),
        });
    }
}

impl Document for SharedAppEpochs {
    fn name(&self) -> &'static str {
        DOCUMENT
    }

    fn merge(&self, there: Option<&[u8]>) -> Result<Option<Vec<u8>>, String> {
        match there {
            Some(_) => Ok(None),
            None => content(&self.epochs.current.load()).map(Some).map_err(|error| error.to_string()),
        }
    }

    fn has_news(&self) -> bool {
        false
    }

    fn adopt<'a>(&'a self, body: &'a [u8], from: &'a Provenance) -> BoxFuture<'a, Result<(), AdoptError>> {
        Box::pin(async move {
            let after = parse(body).map_err(AdoptError::Unreadable)?;
            let file = Arc::clone(&self.epochs.file).lock_owned().await;
            let before = self.epochs.current.load_full();
            let is_replaced = from.arrival == Arrival::Joined && !before.is_empty() && *before != after;
            let records = after.iter().map(record).collect();
            if from.arrival != Arrival::Own {
                self.record(&before, &after, from);
            }
            self.epochs.current.store(Arc::new(after));
            let aside = is_replaced.then(|| file.path().to_owned());
            keep_adopted(DOCUMENT, aside, move || file.replace(records), &self.audit).await
        })
    }
}

/// An app, the choice that it must still have, and the choice that replaces it.
pub(super) type Change = (AppId, Option<Arc<AppChoice>>, Option<Arc<AppChoice>>);

impl AppEpochs {
    /// Shares them with the other nodes of a fleet.
    #[must_use]
    pub fn shared(self, shared: Arc<Shared>) -> Self {
        Self { store: Store::Shared(shared), ..self }
    }

    /// Makes choices on all nodes.
    pub(super) async fn change_everywhere(
        &self,
        shared: &Shared,
        changes: Vec<Change>,
        by: &str,
    ) -> Result<(), AppEpochError> {
        let edit = move |choices: &mut Choices| {
            for (app, before, after) in &changes {
                if choices.get(app) != before.as_ref() {
                    return Err(AppEpochError::Overtaken);
                }
                match after {
                    Some(choice) => drop(choices.insert(*app, Arc::clone(choice))),
                    None => drop(choices.remove(app)),
                }
            }
            Ok(Edit::Changed)
        };
        shared.edit(DOCUMENT, by, InFile, edit).await.map(drop)
    }
}

/// As in the file.
struct InFile;

impl Format for InFile {
    type Content = Choices;
    type Error = AppEpochError;

    fn parse(&self, body: &[u8]) -> Result<Choices, AppEpochError> {
        parse(body).map_err(|problem| AppEpochError::NotKept(io::Error::other(problem)))
    }

    fn encode(&self, choices: &Choices) -> Result<Vec<u8>, AppEpochError> {
        match choices.len() > MAX_APPS {
            true => Err(AppEpochError::Full),
            false => content(choices).map_err(AppEpochError::NotKept),
        }
    }
}

fn parse(body: &[u8]) -> Result<Choices, String> {
    let records = state::parse_app_epochs(body)?;
    match records.len() > MAX_APPS {
        true => Err(format!("at most {MAX_APPS} apps are allowed, got {}", records.len())),
        false => Ok(records.into_iter().map(chosen).collect()),
    }
}

fn content(choices: &Choices) -> io::Result<Vec<u8>> {
    state::app_epochs_content(choices.iter().map(record).collect())
}
