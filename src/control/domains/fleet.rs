//! The domains of a fleet: what operators change at run time is changed in the shared state, and each node adopts it from there.

use std::io;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::change::{DomainChange, DomainError};
use super::{Configured, Domains, Map};
use crate::audit::Audit;
use crate::control::Author;
use crate::control::adopted::{AdoptedChange, note_adopted};
use crate::control::store::{Store, keep_adopted, see_newest};
use crate::state::shared::{AdoptError, Arrival, Document, Edit, Format, Provenance, Shared};
use crate::state::{self, DomainRecords, HandedDomains, MAX_DOMAINS_BYTES};

/// Its name in the database.
const DOCUMENT: &str = "domains";

/// The domains, as the shared state sees them.
#[derive(Debug)]
pub struct SharedDomains {
    domains: Arc<Domains>,
    audit: Arc<Audit>,
}

impl SharedDomains {
    /// What other nodes change is recorded in `audit`.
    pub fn new(domains: Arc<Domains>, audit: Arc<Audit>) -> Self {
        Self { domains, audit }
    }
}

impl Document for SharedDomains {
    fn name(&self) -> &'static str {
        DOCUMENT
    }

    fn merge(&self, there: Option<&[u8]>) -> Result<Option<Vec<u8>>, String> {
        match there {
            Some(_) => Ok(None),
            None => text(&self.domains.current.load().records).map(Some),
        }
    }

    fn has_news(&self) -> bool {
        false
    }

    fn adopt<'a>(&'a self, body: &'a [u8], from: &'a Provenance) -> BoxFuture<'a, Result<(), AdoptError>> {
        Box::pin(async move {
            let records = state::parse_domains(body).map_err(AdoptError::Unreadable)?;
            let content = records.text().map_err(|error| AdoptError::Unreadable(error.to_string()))?;
            let map = Map::new(&self.domains.configured, &records).map_err(AdoptError::Contradicts)?;
            let file = self.domains.kept.lock().await.file.clone();
            let before = Arc::clone(&self.domains.current.load().records);
            let is_news = *before != records;
            self.domains.current.store(Arc::new(map));
            if is_news && from.arrival != Arrival::Own {
                note_adopted(&self.audit, DOCUMENT, from, &[changed_domain(&before, &records)], |domain| {
                    let target = domain.as_ref().map(|domain| format!("the domain {domain}"));
                    AdoptedChange::of(target.unwrap_or_default(), from)
                });
            }
            let is_replaced =
                is_news && from.arrival == Arrival::Joined && *before != DomainRecords::default();
            let aside = is_replaced.then(|| file.path().to_owned());
            keep_adopted(DOCUMENT, aside, move || file.replace(&content), &self.audit).await
        })
    }
}

/// The domain of which something differs, if it is only one.
fn changed_domain(before: &DomainRecords, after: &DomainRecords) -> Option<String> {
    fn differing<'a, T: PartialEq>(one: &'a [T], other: &'a [T]) -> impl Iterator<Item = &'a T> {
        let only = |some: &'a [T], others: &'a [T]| some.iter().filter(move |it| !others.contains(it));
        only(one, other).chain(only(other, one))
    }
    let mut names: Vec<_> =
        differing(&before.domains, &after.domains).map(|it| it.name.to_string()).collect();
    names.extend(differing(&before.archived, &after.archived).map(|it| it.name.to_string()));
    names.extend(differing(&before.apps, &after.apps).map(|it| it.domain.to_string()));
    names.sort_unstable();
    names.dedup();
    match &names[..] {
        [only] => Some(only.clone()),
        _ => None,
    }
}

fn text(records: &DomainRecords) -> Result<Vec<u8>, String> {
    records.text().map(state::DomainText::into_bytes).map_err(|error| error.to_string())
}

impl Domains {
    /// Shares them with the other nodes of a fleet.
    #[must_use]
    pub fn shared(self, shared: Arc<Shared>) -> Self {
        Self { store: Store::Shared(shared), ..self }
    }

    /// Waits until this node knows the domains that are those of all nodes now.
    ///
    /// # Errors
    /// [`DomainError::NotShared`].
    pub async fn see_newest(&self) -> Result<(), DomainError> {
        match &self.store {
            Store::File => Ok(()),
            Store::Shared(shared) => Ok(see_newest(shared, DOCUMENT).await?),
        }
    }

    /// Makes a change on all nodes, and says whether there was something to change.
    pub(super) async fn change_everywhere(
        &self,
        shared: &Shared,
        change: &DomainChange,
        author: &Author,
    ) -> Result<Edit, DomainError> {
        let (configured, change, by) = (Arc::clone(&self.configured), change.clone(), author.clone());
        let format = InFile(Arc::clone(&configured));
        let edit = move |records: &mut DomainRecords| {
            if !Map::new(&configured, records).map_err(contradiction)?.admits(&change)? {
                return Ok(Edit::Unchanged);
            }
            change.apply(records, &by)?;
            Ok(Edit::Changed)
        };
        shared.edit(DOCUMENT, &author.by, format, edit).await
    }
}

fn contradiction(problem: String) -> DomainError {
    DomainError::NotKept(io::Error::other(problem))
}

/// As in the file, where the domains contradict no other and not those of this configuration.
struct InFile(Arc<Configured>);

impl Format for InFile {
    type Content = DomainRecords;
    type Error = DomainError;

    fn parse(&self, body: &[u8]) -> Result<DomainRecords, DomainError> {
        state::parse_domains(body).map_err(contradiction)
    }

    fn encode(&self, records: &DomainRecords) -> Result<Vec<u8>, DomainError> {
        if HandedDomains::length(records) > MAX_DOMAINS_BYTES {
            return Err(DomainError::TooLong);
        }
        let _ = Map::new(&self.0, records).map_err(contradiction)?;
        Ok(records.text()?.into_bytes())
    }
}
