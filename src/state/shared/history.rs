//! How a node that was away for long sees that the state in the database follows the one that it knows: by heads between the two, of
//! which the database keeps each 32nd. Each is named by a later one, so they need no seal of their own.

use std::time::{Duration, Instant};

use tokio_postgres::GenericClient;

use super::error::DatabaseError;
use super::head::{Head, HeadId, Sha256Digest};
use super::seal::Seals;
use super::table::{self, HeadRow};

/// How many heads are read at once: more than one names, so the next one is among them whatever else is there.
pub(super) const PAGE: usize = 64;
/// The most numbers back to which heads are kept: some months of many changes, in 16 MB.
pub(super) const REACH: u64 = 1 << 17;

/// When a way that was not there is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What operators are told where nothing can be kept.
pub(super) const LACKS: &str = "the database user may neither create nor use the table kms_history, so nodes that were away for \
    long cannot check that what they find follows what they knew, and may not believe it: let the user create tables, or grant SELECT, \
    INSERT, UPDATE and DELETE on kms_history";

/// The head with this digest follows a known one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Followed {
    pub(super) head: Sha256Digest,
    pub(super) known: HeadId,
}

/// The way back from a head to one that is known.
#[derive(Debug)]
pub(super) struct Trail {
    shows: Followed,
    /// Where it is now.
    at: Head,
}

impl Trail {
    /// From `head`, whose digest is `own`.
    pub(super) fn new(head: Head, own: Sha256Digest, known: HeadId) -> Self {
        Self { shows: Followed { head: own, known }, at: head }
    }

    /// Goes back to a head that may be any bytes, if the one before names it.
    pub(super) fn back_to(&mut self, body: &[u8], digest: Sha256Digest) {
        let Ok(head) = Head::parse(body) else { return };
        if head.seq > self.shows.known.seq && self.at.named(head.seq) == Some(digest) {
            self.at = head;
        }
    }

    /// What the trail shows, if it has come to the known head.
    pub(super) fn end(&self) -> Option<Followed> {
        let known = self.shows.known;
        (self.at.named(known.seq) == Some(known.digest)).then_some(self.shows)
    }
}

/// A head in the database from which no way leads back to the one that is known. It is not looked for again at each look, which would
/// read all heads in between.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeadEnd {
    way: Followed,
    since: Instant,
}

impl DeadEnd {
    /// The way from this head to a known one.
    pub(super) fn of(seals: &Seals, row: &HeadRow, known: HeadId) -> Self {
        let head = Sha256Digest(seals.head_digest(&row.body));
        Self { way: Followed { head, known }, since: Instant::now() }
    }

    /// Whether this is the same way, and it is too early to look again. Later, rows that were lost may be back.
    pub(super) fn is_still(&self, now: Self) -> bool {
        self.way == now.way && now.since.saturating_duration_since(self.since) < LOOK_AGAIN
    }
}

/// Looks whether an authentic head follows a known one.
pub(super) async fn follow(
    client: &impl GenericClient,
    seals: &Seals,
    row: &HeadRow,
    known: HeadId,
) -> Result<Option<Followed>, DatabaseError> {
    let digest = |body: &[u8]| Sha256Digest(seals.head_digest(body));
    let Ok(head) = Head::parse(&row.body) else { return Ok(None) };
    let mut trail = Trail::new(head, digest(&row.body), known);
    loop {
        let from = trail.at.seq;
        for body in table::kept_heads(client, seals.fleet, known.seq, from).await? {
            trail.back_to(&body, digest(&body));
        }
        if trail.at.seq == from {
            return Ok(trail.end());
        }
    }
}
