//! Choices that come from another KMS of the cluster, or from a recovery set.
//!
//! They never change a choice that was made here by themselves: an app whose choice is another one keeps it, and the difference
//! is reported. An owner may say otherwise.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use futures_util::future::try_join_all;
use kms_attest::identity::AppId;
use kms_policy::RootChoice;
use tokio::sync::OwnedMutexGuard;

use super::{AppChoice, AppEpochError, AppEpochs, MAX_APPS, record};
use crate::audit::{Audit, Event};
use crate::clock::unix_now;
use crate::control::{Author, Domains, Store};
use crate::state::shared::Shared;
use crate::state::{self, AppEpochFile, Choices, ChosenEpochs, app_epochs_content};

/// How many events are waited for at the same time.
const RECORDED_AT_ONCE: usize = 256;

/// Which choice is in force for an app where the two differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preference {
    /// The choice that was made here.
    #[default]
    Own,
    /// The choice of the other one, as an owner says.
    Received,
}

/// An app whose choice here is another one than the received one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference {
    /// The app.
    pub app: AppId,
    /// What was chosen here; `None` if nobody chose.
    pub own: Option<ChosenEpochs>,
    /// What was received; `None` if nobody chose there.
    pub received: Option<ChosenEpochs>,
}

/// Received choices that are not in force yet. While it exists, nobody else changes choices.
#[derive(Debug)]
pub struct Adoption {
    file: OwnedMutexGuard<AppEpochFile>,
    after: BTreeMap<AppId, Arc<AppChoice>>,
    /// The choices that are new or change, each with the choice in force until now.
    changed: Vec<Difference>,
    /// The choices that stay although others were received.
    kept: Vec<Difference>,
    source: String,
    domains: Arc<Domains>,
}

/// What became of received choices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// Where they came from.
    pub source: String,
    /// How many apps have another choice than before.
    pub changed: usize,
    /// The apps that have another choice here than there.
    pub kept: Vec<Difference>,
}

impl AppChoice {
    fn chosen(&self) -> ChosenEpochs {
        let root = match self.root {
            RootChoice::Current => None,
            RootChoice::Fixed(root) => Some(root),
        };
        ChosenEpochs { root, app: self.app }
    }
}

/// The choices as another KMS gets them.
pub(super) fn choices_of(chosen: &BTreeMap<AppId, Arc<AppChoice>>) -> Choices {
    let app_epochs = chosen.iter().map(|(app, choice)| (*app, choice.chosen())).collect();
    Choices { app_epochs, ..Choices::default() }
}

impl AppEpochs {
    /// What operators chose, for another KMS.
    pub fn choices(&self) -> Choices {
        choices_of(&self.current.load())
    }

    /// Prepares to adopt what `source` sent; nothing has changed yet.
    ///
    /// # Errors
    /// [`AppEpochError::Full`]
    pub async fn adoption(
        &self,
        received: &Choices,
        source: String,
        preference: Preference,
    ) -> Result<Adoption, AppEpochError> {
        let file = Arc::clone(&self.file).lock_owned().await;
        let before = self.current.load_full();
        let mut after = BTreeMap::clone(&before);
        let (mut changed, mut kept) = (Vec::new(), Vec::new());
        for (app, chosen) in &received.app_epochs {
            let own = before.get(app).map(|choice| choice.chosen());
            let difference = Difference { app: *app, own, received: Some(*chosen) };
            match (own, preference) {
                (Some(own), _) if own == *chosen => {}
                (Some(_), Preference::Own) => kept.push(difference),
                (None, _) | (Some(_), Preference::Received) => {
                    let ChosenEpochs { root, app: app_epoch } = *chosen;
                    let root = root.map_or(RootChoice::Current, RootChoice::Fixed);
                    let choice = AppChoice { root, app: app_epoch, since: unix_now(), by: source.clone() };
                    after.insert(*app, Arc::new(choice));
                    changed.push(difference);
                }
            }
        }
        let only_here = before.iter().filter(|(app, _)| !received.app_epochs.contains_key(*app));
        kept.extend(only_here.map(|(app, choice)| Difference {
            app: *app,
            own: Some(choice.chosen()),
            received: None,
        }));
        match after.len() > MAX_APPS {
            true => Err(AppEpochError::Full),
            false => Ok(Adoption { file, after, changed, kept, source, domains: Arc::clone(&self.domains) }),
        }
    }
}

impl Adoption {
    /// Whether any app gets another choice.
    pub fn changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The file with the choices as they will be, for a commit that writes it with other files.
    pub fn content(&self) -> io::Result<Vec<u8>> {
        app_epochs_content(self.after.iter().map(record).collect())
    }

    /// Records each change, in the name of `author`.
    ///
    /// # Errors
    /// The audit log does not take it; some may be recorded then.
    pub async fn record(&self, author: &Author, audit: &Audit) -> Result<(), AppEpochError> {
        self.record_each(author, audit, |it| (it.own, it.received)).await
    }

    async fn record_each(
        &self,
        author: &Author,
        audit: &Audit,
        direction: impl Fn(&Difference) -> (Option<ChosenEpochs>, Option<ChosenEpochs>),
    ) -> Result<(), AppEpochError> {
        let root = |chosen: ChosenEpochs| match chosen.root {
            None => "current".to_owned(),
            Some(root) => root.to_string(),
        };
        for some in self.changed.chunks(RECORDED_AT_ONCE) {
            let recorded = some.iter().map(|it| {
                let (from, to) = direction(it);
                audit.record(Event::AppEpochSet {
                    app_id: hex::encode(it.app),
                    root_epoch: to.map(root),
                    app_epoch: to.map(|to| to.app),
                    previous_root_epoch: from.map(root),
                    previous_app_epoch: from.map(|from| from.app),
                    source: Some(self.source.clone()),
                    by: author.by.clone(),
                    remote: author.remote,
                    domain: self.domains.recorded(&it.app),
                })
            });
            try_join_all(recorded).await.map_err(AppEpochError::NotRecorded)?;
        }
        Ok(())
    }

    /// Puts them in force, once the file with [`Adoption::content`] is on the disk.
    pub fn written(self, epochs: &AppEpochs) -> Adopted {
        let Self { file, after, changed, kept, source, domains: _ } = self;
        epochs.current.store(Arc::new(after));
        drop(file);
        if !kept.is_empty() {
            tracing::warn!(apps = kept.len(), source, "apps have another choice of epochs here than there");
        }
        Adopted { source, changed: changed.len(), kept }
    }

    /// Records each change, writes the file and puts it in force: all changes or none.
    ///
    /// # Errors
    /// [`AppEpochError`]; nothing has changed then, except for [`AppEpochError::Unsynced`].
    pub async fn adopt(
        self,
        author: &Author,
        audit: &Audit,
        epochs: &AppEpochs,
    ) -> Result<Adopted, AppEpochError> {
        if !self.changes() {
            return Ok(self.written(epochs));
        }
        self.record(author, audit).await?;
        if let Store::Shared(shared) = &epochs.store {
            return self.adopt_everywhere(&Arc::clone(shared), author, audit, epochs).await;
        }
        let (records, writer) = (self.after.iter().map(record).collect(), self.file.clone());
        match state::written(move || writer.replace(records)).await {
            Err(error) => {
                // The last record in the log must be true.
                if let Err(error) = self.record_each(author, audit, |it| (it.received, it.own)).await {
                    tracing::warn!(%error, "the audit log records app epoch changes that were not made");
                }
                Err(AppEpochError::NotKept(error))
            }
            Ok(replaced) => {
                let adopted = self.written(epochs);
                replaced.safely().map(|()| adopted).map_err(AppEpochError::Unsynced)
            }
        }
    }

    /// The same on all nodes of a fleet.
    async fn adopt_everywhere(
        self,
        shared: &Shared,
        author: &Author,
        audit: &Audit,
        epochs: &AppEpochs,
    ) -> Result<Adopted, AppEpochError> {
        let before = epochs.current.load_full();
        let changes = self
            .changed
            .iter()
            .map(|it| (it.app, before.get(&it.app).cloned(), self.after.get(&it.app).cloned()));
        let changes = changes.collect();
        // They are adopted from there, with the file.
        let Self { file, after, changed, kept, source, domains } = self;
        drop(file);
        if let Err(error) = epochs.change_everywhere(shared, changes, &author.by).await {
            let file = Arc::clone(&epochs.file).lock_owned().await;
            let undone = Self { file, after, changed, kept, source, domains };
            if let Err(error) = undone.record_each(author, audit, |it| (it.received, it.own)).await {
                tracing::warn!(%error, "the audit log records app epoch changes that were not made");
            }
            return Err(error);
        }
        Ok(Adopted { source, changed: changed.len(), kept })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(number: u8) -> AppId {
        AppId([number; 20])
    }

    #[tokio::test]
    async fn own_choices_stay_and_differences_are_reported() {
        let home = tempfile::tempdir().unwrap();
        let (log, path) = (home.path().join("audit.jsonl"), home.path().join("app-epochs.json"));
        let audit = Audit::open(&log).unwrap();
        let epochs = AppEpochs::open(path.clone(), Domains::default_only()).unwrap();
        for (number, to) in
            [(1, (RootChoice::Current, 3)), (2, (RootChoice::Fixed(0), 1)), (3, (RootChoice::Current, 0))]
        {
            epochs.change(app(number), |_| Some(to), Author::example(), &audit).await.unwrap();
        }
        let chosen = |root, app| ChosenEpochs { root, app };
        // Older for 1, the same for 2, nothing for 3, and new for 4.
        let received = Choices {
            app_epochs: [(app(1), chosen(None, 2)), (app(2), chosen(Some(0), 1)), (app(4), chosen(None, 9))]
                .into(),
            ..Choices::default()
        };
        let source = || "https://kms.example".to_owned();
        let adoption = epochs.adoption(&received, source(), Preference::Own).await.unwrap();
        assert!(epochs.of(&app(4)).is_none(), "nothing is in force yet");
        let adopted = adoption.adopt(&Author::example(), &audit, &epochs).await.unwrap();
        let kept = vec![
            Difference { app: app(1), own: Some(chosen(None, 3)), received: Some(chosen(None, 2)) },
            Difference { app: app(3), own: Some(chosen(None, 0)), received: None },
        ];
        assert_eq!(adopted, Adopted { source: source(), changed: 1, kept });
        let again = AppEpochs::open(path.clone(), Domains::default_only()).unwrap();
        let apps = |epochs: &AppEpochs| {
            (1..=4).map(|number| epochs.of(&app(number)).map(|it| it.chosen())).collect::<Vec<_>>()
        };
        let expected = [chosen(None, 3), chosen(Some(0), 1), chosen(None, 0), chosen(None, 9)].map(Some);
        assert_eq!((apps(&epochs), apps(&again)), (expected.to_vec(), expected.to_vec()));
        assert_eq!(again.of(&app(4)).unwrap().by, source());

        // Twice changes nothing and records nothing; an owner's word changes 1, and still takes no choice away.
        let events = || std::fs::read_to_string(&log).unwrap().lines().count();
        let before = events();
        let adoption = epochs.adoption(&received, source(), Preference::Own).await.unwrap();
        assert_eq!(adoption.adopt(&Author::example(), &audit, &epochs).await.unwrap().changed, 0);
        assert_eq!(events(), before);
        let adoption = epochs.adoption(&received, source(), Preference::Received).await.unwrap();
        let adopted = adoption.adopt(&Author::example(), &audit, &epochs).await.unwrap();
        assert_eq!((adopted.changed, adopted.kept.len()), (1, 1));
        assert_eq!(apps(&epochs)[0], Some(chosen(None, 2)));
        let text = std::fs::read_to_string(&log).unwrap();
        let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(
            (&last["previous_app_epoch"], &last["app_epoch"], &last["source"]),
            (&3.into(), &2.into(), &"https://kms.example".into())
        );
    }

    #[tokio::test]
    async fn choices_that_cannot_be_kept_are_not_in_force_and_too_many_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("audit.jsonl");
        let audit = Audit::open(&log).unwrap();
        let path = home.path().join("app-epochs.json");
        let epochs = AppEpochs::open(path.clone(), Domains::default_only()).unwrap();
        std::fs::create_dir_all(path.join("x")).unwrap();
        let app_epochs = [(app(1), ChosenEpochs { root: None, app: 1 })].into();
        let one = Choices { app_epochs, ..Choices::default() };
        let adoption = epochs.adoption(&one, "x".to_owned(), Preference::Own).await.unwrap();
        let outcome = adoption.adopt(&Author::example(), &audit, &epochs).await;
        assert!(matches!(outcome, Err(AppEpochError::NotKept(_))), "{outcome:?}");
        assert!(epochs.of(&app(1)).is_none());
        let text = std::fs::read_to_string(&log).unwrap();
        let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(last["root_epoch"], serde_json::Value::Null, "the log says last that nobody chose");

        let mut many = one;
        for number in 0..u32::try_from(MAX_APPS).unwrap() {
            let mut id = [0; 20];
            id[..4].copy_from_slice(&number.to_be_bytes());
            many.app_epochs.insert(AppId(id), ChosenEpochs { root: None, app: 0 });
        }
        let refused = epochs.adoption(&many, "x".to_owned(), Preference::Own).await;
        assert!(matches!(refused, Err(AppEpochError::Full)));
    }
}
