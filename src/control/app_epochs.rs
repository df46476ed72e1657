//! The epochs that operators chose for apps. They count where the policy says nothing about the epochs of an app, and survive
//! restarts.
//!
//! A choice is in the audit log before it is on the disk, and on the disk before it takes effect.

mod fleet;
mod received;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use kms_attest::identity::AppId;
use kms_attest::state_file::Replaced;
use kms_policy::RootChoice;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use self::fleet::DOCUMENT;
pub use self::fleet::SharedAppEpochs;
pub use self::received::{Adopted, Adoption, Difference, Preference};
use super::store::see_newest;
use super::{Author, Domains, Store};
use crate::audit::{Audit, AuditError, Event, Receipt};
use crate::clock::unix_now;
use crate::state::shared::Unshared;
use crate::state::{self, AppEpochFile, AppEpochFileError, AppEpochRecord, MAX_CHOSEN_APPS as MAX_APPS};

/// What an operator chose for one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppChoice {
    /// The epoch of the root keys.
    pub root: RootChoice,
    /// The app's own epoch.
    pub app: u32,
    /// When, Unix seconds.
    pub since: u64,
    /// The operator.
    pub by: String,
}

/// Why a choice was not made.
#[derive(Debug, thiserror::Error)]
pub enum AppEpochError {
    /// Too many apps.
    #[error("{MAX_APPS} apps have epochs of their own, the maximum; nothing was changed")]
    Full,
    /// The audit log could not be written.
    #[error("nothing was changed: the audit log does not take the record: {0}")]
    NotRecorded(#[source] AuditError),
    /// The file could not be written.
    #[error("nothing was changed: the file of the epochs of apps cannot be written: {0}")]
    NotKept(#[source] io::Error),
    /// It is in force, and the disk does not say that it stays so.
    #[error(
        "the epochs were chosen, but the key directory cannot be synced, so the choice may be lost if the machine stops: {0}"
    )]
    Unsynced(#[source] io::Error),
    /// Another node has chosen meanwhile.
    #[error("another node changed the epochs of this app meanwhile, nothing was changed: try again")]
    Overtaken,
    /// The state that the nodes of a fleet share could not be changed.
    #[error("{}", .0.after("nothing was changed"))]
    NotShared(#[from] Unshared),
}

type Choices = BTreeMap<AppId, Arc<AppChoice>>;

/// All choices of this KMS.
#[derive(Debug)]
pub struct AppEpochs {
    current: ArcSwap<Choices>,
    /// SHA-256 of the choices that it is of.
    digest: ArcSwapOption<(Arc<Choices>, [u8; 32])>,
    /// One change at a time.
    file: Arc<Mutex<AppEpochFile>>,
    store: Store,
    /// Records name the domain of an app.
    domains: Arc<Domains>,
}

impl AppEpochs {
    /// Reads the choices; a missing file means there are none.
    ///
    /// # Errors
    /// [`AppEpochFileError`]: an app could get the keys of another epoch, so nothing may be served.
    pub fn open(path: PathBuf, domains: Arc<Domains>) -> Result<Self, AppEpochFileError> {
        let file = AppEpochFile::new(path);
        let choices: Choices = file.read()?.into_iter().map(chosen).collect();
        let digest = ArcSwapOption::empty();
        Ok(Self {
            current: ArcSwap::from_pointee(choices),
            digest,
            file: Arc::new(Mutex::new(file)),
            store: Store::File,
            domains,
        })
    }

    /// Whether [`AppEpochs::open`] would accept the existing file.
    ///
    /// # Errors
    /// [`AppEpochFileError`]
    pub fn inspect(path: PathBuf) -> Result<(), AppEpochFileError> {
        AppEpochFile::new(path).read().map(drop)
    }

    /// What was chosen for an app.
    pub fn of(&self, app: &AppId) -> Option<Arc<AppChoice>> {
        self.current.load().get(app).cloned()
    }

    /// SHA-256 of the choices as another KMS gets them: two KMSs that choose the same have the same.
    pub fn digest(&self) -> [u8; 32] {
        let current = self.current.load_full();
        if let Some((of, digest)) = self.digest.load().as_deref()
            && Arc::ptr_eq(of, &current)
        {
            return *digest;
        }
        let digest = Sha256::digest(received::choices_of(&current).to_json()).into();
        self.digest.store(Some(Arc::new((current, digest))));
        digest
    }

    /// All choices, by app id.
    pub fn list(&self) -> Vec<(AppId, Arc<AppChoice>)> {
        self.current.load().iter().map(|(app, choice)| (*app, Arc::clone(choice))).collect()
    }

    /// Chooses the epochs of an app, or takes the choice back. `choose` gets what was chosen before. Without a difference
    /// nothing is recorded.
    ///
    /// # Errors
    /// [`AppEpochError`]; nothing has changed then, except for [`AppEpochError::Unsynced`].
    pub async fn change(
        &self,
        app: AppId,
        choose: impl Fn(Option<&AppChoice>) -> Option<(RootChoice, u32)>,
        author: Author,
        audit: &Audit,
    ) -> Result<Option<Arc<AppChoice>>, AppEpochError> {
        let epochs = |choice: &AppChoice| (choice.root, choice.app);
        if let Store::Shared(shared) = &self.store {
            let before = self.of(&app);
            let would_change = before.as_deref().map(epochs) != choose(before.as_deref());
            let has_room = before.is_some() || self.current.load().len() < MAX_APPS;
            // Another node may have chosen otherwise.
            if !would_change || !has_room {
                see_newest(shared, DOCUMENT).await?;
            }
        }
        let file = self.file.lock().await;
        let mut choices = Choices::clone(&self.current.load());
        let before = choices.get(&app).cloned();
        let after = choose(before.as_deref());
        if before.as_deref().map(epochs) == after {
            return Ok(before);
        }
        if before.is_none() && choices.len() >= MAX_APPS {
            return Err(AppEpochError::Full);
        }
        let event = |from: Option<(RootChoice, u32)>, to: Option<(RootChoice, u32)>| Event::AppEpochSet {
            app_id: hex::encode(app),
            root_epoch: to.map(|(root, _)| root.to_string()),
            app_epoch: to.map(|(_, app)| app),
            previous_root_epoch: from.map(|(root, _)| root.to_string()),
            previous_app_epoch: from.map(|(_, app)| app),
            source: None,
            by: author.by.clone(),
            remote: author.remote,
            domain: self.domains.recorded(&app),
        };
        let from = before.as_deref().map(epochs);
        let _: Receipt = audit.record(event(from, after)).await.map_err(AppEpochError::NotRecorded)?;
        let after = after
            .map(|(root, app)| Arc::new(AppChoice { root, app, since: unix_now(), by: author.by.clone() }));
        match &after {
            Some(choice) => drop(choices.insert(app, Arc::clone(choice))),
            None => drop(choices.remove(&app)),
        }
        let written = match &self.store {
            // It is adopted from there, with the file.
            Store::Shared(shared) => {
                drop(file);
                let changes = vec![(app, before, after.clone())];
                let changed = self.change_everywhere(&Arc::clone(shared), changes, &author.by).await;
                changed.map(|()| Replaced::Safely)
            }
            Store::File => self.keep(&file, choices).await,
        };
        let replaced = written.inspect_err(|_| {
            // The last record in the log must be true.
            audit.note(event(after.as_deref().map(epochs), from));
        })?;
        tracing::warn!(
            app_id = hex::encode(app),
            root_epoch = after.as_ref().map(|choice| choice.root.to_string()),
            app_epoch = after.as_ref().map(|choice| choice.app),
            by = author.by,
            "the epochs of an app were chosen"
        );
        replaced.safely().map_err(AppEpochError::Unsynced)?;
        Ok(after)
    }

    /// Writes all choices to the file, and then puts them in force.
    async fn keep(&self, file: &AppEpochFile, choices: Choices) -> Result<Replaced, AppEpochError> {
        let (records, file) = (choices.iter().map(record).collect(), file.clone());
        let replaced = state::written(move || file.replace(records)).await.map_err(AppEpochError::NotKept)?;
        self.current.store(Arc::new(choices));
        Ok(replaced)
    }
}

fn chosen(record: AppEpochRecord) -> (AppId, Arc<AppChoice>) {
    let AppEpochRecord { app_id, root_epoch, app_epoch, since, by } = record;
    let root = root_epoch.map_or(RootChoice::Current, RootChoice::Fixed);
    (AppId(app_id), Arc::new(AppChoice { root, app: app_epoch, since, by }))
}

fn record((app, choice): (&AppId, &Arc<AppChoice>)) -> AppEpochRecord {
    let AppChoice { root, app: app_epoch, since, by } = &**choice;
    AppEpochRecord {
        app_id: app.0,
        root_epoch: match root {
            RootChoice::Current => None,
            RootChoice::Fixed(epoch) => Some(*epoch),
        },
        app_epoch: *app_epoch,
        since: *since,
        by: by.clone(),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use kms_attest::state_file::StateFile;

    use super::*;
    use crate::state::ChosenEpochs;

    const APP: AppId = AppId([7; 20]);

    #[tokio::test]
    async fn a_choice_is_recorded_kept_and_taken_back() {
        let home = tempfile::tempdir().unwrap();
        let (log, path) = (home.path().join("audit.jsonl"), home.path().join("app-epochs.json"));
        let audit = Audit::open(&log).unwrap();
        let epochs = AppEpochs::open(path.clone(), Domains::default_only()).unwrap();
        assert!(epochs.of(&APP).is_none());
        let choose = async |epochs: &AppEpochs, to: Option<(RootChoice, u32)>| {
            epochs.change(APP, |_| to, Author::example(), &audit).await.unwrap()
        };
        let chosen = choose(&epochs, Some((RootChoice::Current, 2))).await.unwrap();
        assert_eq!((chosen.root, chosen.app, &*chosen.by), (RootChoice::Current, 2, "token"));
        choose(&epochs, Some((RootChoice::Current, 2))).await;
        choose(&epochs, Some((RootChoice::Fixed(1), 2))).await;
        let again = AppEpochs::open(path.clone(), Domains::default_only()).unwrap();
        assert_eq!(again.of(&APP), epochs.of(&APP));
        assert_eq!(again.list().len(), 1);
        assert!(choose(&again, None).await.is_none() && again.of(&APP).is_none());
        let text = std::fs::read_to_string(&log).unwrap();
        let recorded: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let told: Vec<_> = recorded
            .iter()
            .map(|event| {
                (
                    event["previous_root_epoch"].clone(),
                    event["root_epoch"].clone(),
                    event["app_epoch"].clone(),
                )
            })
            .collect();
        let null = serde_json::Value::Null;
        assert_eq!(
            told,
            [
                (null.clone(), "current".into(), 2.into()),
                ("current".into(), "1".into(), 2.into()),
                ("1".into(), null.clone(), null),
            ],
            "what changes nothing is not recorded"
        );
    }

    #[tokio::test]
    async fn a_choice_that_is_made_while_others_are_received_loses_none_of_them() {
        let home = tempfile::tempdir().unwrap();
        let audit = Audit::open(&home.path().join("audit.jsonl")).unwrap();
        let path = home.path().join("app-epochs.json");
        let epochs = AppEpochs::open(path.clone(), Domains::default_only()).unwrap();
        let mut received = epochs.choices();
        received.app_epochs.insert(AppId([8; 20]), ChosenEpochs { root: None, app: 3 });
        let adoption = epochs.adoption(&received, "there".to_owned(), Preference::Own).await.unwrap();
        let mut change =
            Box::pin(epochs.change(APP, |_| Some((RootChoice::Current, 2)), Author::example(), &audit));
        for _ in 0..100 {
            assert!((&mut change).now_or_never().is_none(), "what is received has the turn");
            tokio::task::yield_now().await;
        }
        adoption.adopt(&Author::example(), &audit, &epochs).await.unwrap();
        change.await.unwrap();
        assert_eq!(epochs.list().len(), 2);
        assert_eq!(AppEpochs::open(path, Domains::default_only()).unwrap().list(), epochs.list());
    }

    #[tokio::test]
    async fn a_choice_whose_directory_is_not_synced_is_what_the_next_start_reads() {
        let home = tempfile::tempdir().unwrap();
        let (log, path) = (home.path().join("audit.jsonl"), home.path().join("app-epochs.json"));
        let audit = Audit::open(&log).unwrap();
        let epochs = AppEpochs::open(path.clone(), Domains::default_only()).unwrap();
        let unsynced = StateFile::from(path.clone()).synced_by(|_| Err(io::Error::other("no sync")));
        *epochs.file.lock().await = AppEpochFile::new(unsynced);
        let outcome = epochs.change(APP, |_| Some((RootChoice::Current, 2)), Author::example(), &audit).await;
        assert!(matches!(outcome, Err(AppEpochError::Unsynced(_))), "{outcome:?}");
        let again = AppEpochs::open(path, Domains::default_only()).unwrap();
        assert_eq!((epochs.of(&APP).unwrap().app, epochs.of(&APP)), (2, again.of(&APP)));

        // The same of choices that were received.
        let (other, preference) = (AppId([8; 20]), Preference::Own);
        let mut received = epochs.choices();
        received.app_epochs.insert(other, received.app_epochs[&APP]);
        let adoption = epochs.adoption(&received, "there".to_owned(), preference).await.unwrap();
        let outcome = adoption.adopt(&Author::example(), &audit, &epochs).await;
        assert!(matches!(outcome, Err(AppEpochError::Unsynced(_))), "{outcome:?}");
        let again = AppEpochs::open(home.path().join("app-epochs.json"), Domains::default_only()).unwrap();
        assert_eq!((again.list().len(), again.list()), (2, epochs.list()));
        drop(audit);
        assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), 2, "nothing was taken back");
    }

    #[tokio::test]
    async fn a_choice_that_cannot_be_kept_is_not_in_force_and_the_log_says_so() {
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("audit.jsonl");
        let audit = Audit::open(&log).unwrap();
        // A directory in the place of the file: it cannot be replaced.
        let path = home.path().join("app-epochs.json");
        let epochs = AppEpochs::open(path.clone(), Domains::default_only()).unwrap();
        std::fs::create_dir_all(path.join("x")).unwrap();
        let outcome = epochs.change(APP, |_| Some((RootChoice::Current, 0)), Author::example(), &audit).await;
        assert!(matches!(outcome, Err(AppEpochError::NotKept(_))), "{outcome:?}");
        assert!(epochs.of(&APP).is_none());
        assert!(
            matches!(AppEpochs::open(path, Domains::default_only()), Err(AppEpochFileError::Unreadable(_))),
            "nothing is served"
        );
        drop(audit);
        let text = std::fs::read_to_string(&log).unwrap();
        let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(
            (&last["previous_root_epoch"], &last["root_epoch"]),
            (&"current".into(), &serde_json::Value::Null)
        );
    }
}
