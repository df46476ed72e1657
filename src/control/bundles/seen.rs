//! The serials of bundles that the nodes of a fleet have seen: one that was away takes none that is older than what others know,
//! also if what they know is in force nowhere yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::keeper::BundleKeeper;
use crate::state::shared::{AdoptError, Document, Provenance};

/// Its name in the database.
const DOCUMENT: &str = "policy-serials";
/// The only version that is written and read.
const VERSION: u32 = 1;

/// The highest serial of each domain, as the shared state sees them.
#[derive(Debug)]
pub struct SharedSerials {
    keepers: Vec<Arc<BundleKeeper>>,
    /// Those that are shared.
    shared: Mutex<BTreeMap<String, u64>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    highest: BTreeMap<String, u64>,
}

impl SharedSerials {
    /// The serials of these keepers.
    pub fn new(keepers: Vec<Arc<BundleKeeper>>) -> Self {
        Self { keepers, shared: Mutex::default() }
    }

    /// The serials seen here that are higher than those in the shared document.
    fn news<'a>(&'a self, there: &'a BTreeMap<String, u64>) -> impl Iterator<Item = (&'a str, u64)> {
        self.keepers.iter().filter_map(|keeper| {
            let known = there.get(keeper.domain()).copied().unwrap_or(0);
            Some((keeper.domain(), keeper.highest_seen().filter(|highest| *highest > known)?))
        })
    }
}

/// Reads the document.
///
/// # Errors
/// Why it cannot be read.
pub fn parse_serials(body: &[u8]) -> Result<BTreeMap<String, u64>, String> {
    let content: Content = kms_attest::json::from_utf8(body).map_err(|error| error.to_string())?;
    match content.version {
        VERSION => Ok(content.highest),
        other => Err(format!("version must be {VERSION}, got {other}")),
    }
}

impl Document for SharedSerials {
    fn name(&self) -> &'static str {
        DOCUMENT
    }

    fn merge(&self, there: Option<&[u8]>) -> Result<Option<Vec<u8>>, String> {
        let there = there.map_or(Ok(BTreeMap::new()), parse_serials)?;
        let mut highest = there.clone();
        highest.extend(self.news(&there).map(|(domain, serial)| (domain.to_owned(), serial)));
        if highest == there {
            return Ok(None);
        }
        let content = serde_json::to_vec(&Content { version: VERSION, highest });
        content.map(Some).map_err(|error| error.to_string())
    }

    fn has_news(&self) -> bool {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        self.news(&shared).next().is_some()
    }

    fn adopt<'a>(&'a self, body: &'a [u8], _: &'a Provenance) -> BoxFuture<'a, Result<(), AdoptError>> {
        Box::pin(async move {
            let highest = parse_serials(body).map_err(AdoptError::Unreadable)?;
            self.shared.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&highest);
            let mut kept = Ok(());
            for keeper in &self.keepers {
                let serial = highest.get(keeper.domain()).copied().unwrap_or(0);
                kept = kept.and(keeper.others_have_seen(serial).await);
            }
            kept.map_err(AdoptError::NotKept)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nodes_write_is_read() {
        let read = parse_serials(br#"{"version":1,"highest":{"default":7}}"#);
        assert_eq!(read, Ok([("default".to_owned(), 7)].into()));
        for body in [
            "",
            "{}",
            r#"{"version":2,"highest":{}}"#,
            r#"{"version":1,"highest":{"default":-7}}"#,
            r#"{"version":1,"highest":{},"a":1}"#,
        ] {
            assert!(parse_serials(body.as_bytes()).is_err(), "{body}");
        }
    }
}
