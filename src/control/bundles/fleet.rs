//! The signed bundles of a fleet: what is put in force on one node is put in force on all, and no node goes back to an older one.
//! The bundle itself is shared, so each node checks its signatures and its serial as if an operator had brought it.

use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use futures_util::future::BoxFuture;
use kms_policy::bundle::{Bundle, BundleDigest};

use super::OfferError;
use super::keeper::{BundleKeeper, Offered, Origin};
use crate::clock::unix_now;
use crate::control::Author;
use crate::state::shared::{AdoptError, Document, Provenance};

/// What cannot be read here is not written over.
const UNKNOWN: u64 = u64::MAX;

/// The name in the database of the bundle in force of a domain.
pub fn bundle_document(domain: &str) -> String {
    format!("bundle:{domain}")
}

/// The bundle in force of one domain, as the shared state sees it.
#[derive(Debug)]
pub struct SharedBundle {
    keeper: Arc<BundleKeeper>,
    name: String,
}

impl SharedBundle {
    /// The document of this keeper.
    pub fn new(keeper: Arc<BundleKeeper>) -> Self {
        let name = bundle_document(keeper.domain());
        Self { keeper, name }
    }

    /// Puts the bundle in force if it is newer than the one here. Gives which one it is, if it can be read.
    async fn take(&self, body: &[u8], author: Author) -> Option<InFleet> {
        let error = match self.keeper.follow(body.to_vec(), author).await {
            Ok(taken) => return Some(taken),
            Err(error) => error,
        };
        // Older than the one here, or not signed by the pinned keys of this node; it is recorded.
        let (keys, domain) = (self.keeper.keys(), self.keeper.domain().to_owned());
        tracing::error!(%error, domain, "the policy bundle of the fleet is not in force here");
        let body = body.to_vec();
        let opened = tokio::task::spawn_blocking(move || Bundle::open(&body, &keys, &domain)).await;
        let of = |bundle: Bundle| InFleet { serial: bundle.header().serial(), digest: Some(bundle.digest()) };
        opened.ok()?.ok().map(of)
    }
}

/// The bundle that the fleet has in force, as the database showed it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct InFleet {
    /// 0 without one.
    serial: u64,
    /// `None` without one, or if it cannot be read.
    digest: Option<BundleDigest>,
}

/// A bundle that is in force in the fleet, and not here yet.
#[derive(Debug)]
pub(super) struct OfFleet {
    pub(super) bytes: Vec<u8>,
    author: Author,
    /// When it is tried again.
    pub(super) at: Instant,
}

impl BundleKeeper {
    /// Puts in force what is in force in the fleet. What only time, the disk or the audit log keeps from it is tried again.
    async fn follow(&self, bytes: Vec<u8>, author: Author) -> Result<InFleet, OfferError> {
        self.follow_or_wait(&mut *self.of_fleet.lock().await, bytes, author).await
    }

    /// The caller holds `waits` from before it read `bytes` there, so that no newer bundle is lost.
    async fn follow_or_wait(
        &self,
        waits: &mut Option<OfFleet>,
        bytes: Vec<u8>,
        author: Author,
    ) -> Result<InFleet, OfferError> {
        let followed = self.follow_now(bytes.clone(), &author).await;
        let pause = followed.as_ref().err().and_then(|error| error.pause(unix_now()));
        *waits = pause.map(|pause| OfFleet { bytes, author, at: Instant::now() + pause });
        followed
    }

    /// Tries again what could not be put in force, when it is time.
    pub(super) async fn follow_again(&self) {
        let mut waits = self.of_fleet.lock().await;
        let due = waits.take_if(|waits| waits.at <= Instant::now());
        let Some(OfFleet { bytes, author, .. }) = due else { return };
        match self.follow_or_wait(&mut waits, bytes, author).await {
            Ok(InFleet { serial, .. }) => {
                tracing::info!(
                    serial,
                    domain = self.domain(),
                    "the policy bundle of the fleet is in force here now"
                );
            }
            Err(error) => {
                tracing::debug!(%error, domain = self.domain(), "the policy bundle of the fleet is not in force here yet");
            }
        }
    }

    async fn follow_now(&self, bytes: Vec<u8>, author: &Author) -> Result<InFleet, OfferError> {
        let in_force =
            |digest| InFleet { serial: self.serial_in_force().unwrap_or_default(), digest: Some(digest) };
        let digest = match self.offer(bytes, Origin::Fleet, Some(author)).await {
            Ok((Offered::InForce, digest)) => return Ok(in_force(digest)),
            Ok((Offered::Waits, digest)) => digest,
            // It waits all the same.
            Err(error @ OfferError::Unsynced(_)) => match self.view().await.pending {
                Some(pending) => pending.bundle().digest(),
                None => return Err(error),
            },
            Err(error) => return Err(error),
        };
        match self.activate(digest, Some(author)).await {
            Ok(activated) => Ok(InFleet { serial: activated.serial, digest: Some(digest) }),
            Err(error @ OfferError::Unsynced(_)) => {
                tracing::error!(%error, domain = self.domain(), "the policy bundle of the fleet is in force, and may not outlive a stop of the machine");
                Ok(in_force(digest))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the fleet has this bundle in force, as far as this node has read.
    pub fn is_of_fleet(&self, digest: BundleDigest) -> bool {
        self.in_fleet().digest == Some(digest)
    }

    fn in_fleet(&self) -> InFleet {
        *self.in_fleet.lock().unwrap_or_else(PoisonError::into_inner)
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
        let shared = self.keeper.in_fleet().serial;
        self.keeper.serial_in_force().is_some_and(|serial| serial > shared)
    }

    fn adopt<'a>(&'a self, body: &'a [u8], from: &'a Provenance) -> BoxFuture<'a, Result<(), AdoptError>> {
        Box::pin(async move {
            let by = match from.operator.as_str() {
                "" => format!("node {}", from.node),
                operator => format!("{operator} on node {}", from.node),
            };
            let author = Author { by, remote: Ipv4Addr::UNSPECIFIED.into() };
            let taken = self.take(body, author).await.unwrap_or(InFleet { serial: UNKNOWN, digest: None });
            *self.keeper.in_fleet.lock().unwrap_or_else(PoisonError::into_inner) = taken;
            Ok(())
        })
    }
}
