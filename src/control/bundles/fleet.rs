//! The signed bundles of a fleet: what is put in force on one node is put in force on all, and no node goes back to an older one.
//! The bundle itself is shared, so each node checks its signatures and its serial as if an operator had brought it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::BoxFuture;
use kms_policy::bundle::Bundle;

use super::keeper::{BundleKeeper, Offered, Origin};
use crate::control::Author;
use crate::state::shared::{AdoptError, Document, Provenance};

/// What cannot be read here is not written over.
const UNKNOWN: u64 = u64::MAX;

/// The bundle in force of one domain, as the shared state sees it.
#[derive(Debug)]
pub struct SharedBundle {
    keeper: Arc<BundleKeeper>,
    name: String,
    /// The serial of the one that is shared; 0 without one.
    shared: AtomicU64,
}

impl SharedBundle {
    /// That of this keeper.
    pub fn new(keeper: Arc<BundleKeeper>) -> Self {
        let name = format!("bundle:{}", keeper.domain());
        Self { keeper, name, shared: AtomicU64::new(0) }
    }

    /// Offers the bundle, and puts it in force if it is newer than the one here. Gives its serial.
    async fn take(&self, body: &[u8], author: &Author) -> Option<u64> {
        let offered = self.keeper.offer(body.to_vec(), Origin::Operators, Some(author)).await;
        match offered {
            Ok((Offered::InForce, _)) => self.keeper.serial_in_force(),
            Ok((Offered::Waits, digest)) => match self.keeper.activate(digest, Some(author)).await {
                Ok(activated) => Some(activated.serial),
                Err(error) => {
                    tracing::error!(%error, domain = self.keeper.domain(), "the policy bundle of the fleet is not in force here");
                    None
                }
            },
            // Older than the one here, or not signed by the pinned keys of this node; it is recorded.
            Err(_) => {
                let (keys, domain) = (self.keeper.keys(), self.keeper.domain().to_owned());
                let body = body.to_vec();
                let opened = tokio::task::spawn_blocking(move || Bundle::open(&body, &keys, &domain)).await;
                opened.ok()?.ok().map(|bundle| bundle.header().serial())
            }
        }
    }
}

impl Document for SharedBundle {
    fn name(&self) -> &str {
        &self.name
    }

    fn merge(&self, there: Option<&[u8]>) -> Result<Option<Vec<u8>>, String> {
        Ok(match there.is_none() || self.has_news() {
            true => self.keeper.bytes_in_force(),
            false => None,
        })
    }

    fn has_news(&self) -> bool {
        let shared = self.shared.load(Ordering::Acquire);
        self.keeper.serial_in_force().is_some_and(|serial| serial > shared)
    }

    fn adopt<'a>(&'a self, body: &'a [u8], from: &'a Provenance) -> BoxFuture<'a, Result<(), AdoptError>> {
        Box::pin(async move {
            let by = match from.operator.as_str() {
                "" => format!("node {}", from.node),
                operator => format!("{operator} on node {}", from.node),
            };
            let author = Author { by, remote: Ipv4Addr::UNSPECIFIED.into() };
            let serial = self.take(body, &author).await.unwrap_or(UNKNOWN);
            self.shared.store(serial, Ordering::Release);
            Ok(())
        })
    }
}
