//! Whether what the database shows is believed: the one place that decides it, without any input or output.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::alarm::Alarm;
use super::beat::{Beat, MAX_NODES};
use super::head::{Head, HeadId, Kinship, Listed, Sha256Digest};
use super::history::Followed;
use super::seal::{NodeId, Opened, Seal, Sealed, Seals, Unsealed};
use super::table::{DocumentRow, HeadRow, ReportRow};

/// What was read at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) head: Option<HeadRow>,
    pub(super) documents: Vec<DocumentRow>,
    pub(super) beats: Vec<ReportRow>,
    /// What heads between the known one and this one have shown, where that is needed.
    pub(super) followed: Option<Followed>,
}

/// The head and the documents that a node knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before<'a> {
    pub(super) head: HeadId,
    pub(super) documents: &'a BTreeMap<String, Listed>,
}

/// What is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Believed {
    pub(super) head: Head,
    pub(super) id: HeadId,
    /// Whether something is sealed under another root epoch than the current one.
    pub(super) needs_seals: bool,
    /// The beats that are authentic, of this node too.
    pub(super) beats: BTreeMap<NodeId, (u64, Beat)>,
}

/// Judges what was read. `None` if nothing is there, and nothing was known.
///
/// # Errors
/// Why it is not believed.
pub(super) fn judge(
    seals: &Seals,
    before: Option<Before<'_>>,
    seen: &Seen,
) -> Result<Option<Believed>, Alarm> {
    let beats = authentic_beats(seals, &seen.beats);
    let known_elsewhere = |shown| {
        let known = beats.values().filter_map(|(_, beat)| Some((beat, beat.head?)));
        let newest = known.filter(|(_, head)| head.seq > shown).max_by_key(|(_, head)| head.seq);
        newest.map(|(beat, head)| Alarm::Hidden { node: beat.name.clone(), known: head.seq, shown })
    };
    let Some(row) = &seen.head else {
        return match (before, known_elsewhere(0)) {
            (Some(before), _) => Err(Alarm::RolledBack { known: before.head.seq, shown: 0 }),
            (None, Some(alarm)) => Err(alarm),
            (None, None) => match seen.documents.first() {
                Some(row) => Err(Alarm::Mismatched { row: shown(&row.name) }),
                None => Ok(None),
            },
        };
    };
    let digest = Sha256Digest(seals.head_digest(&row.body));
    let is_known = before.is_some_and(|before| before.head.digest == digest);
    let mut needs_seals = opened(seals, &row.seal, Sealed::Head { body: &row.body }, "head", is_known)?;
    let head =
        Head::parse(&row.body).map_err(|problem| Alarm::Unreadable { row: "head".to_owned(), problem })?;
    if u64::try_from(row.seq) != Ok(head.seq) {
        return Err(Alarm::Altered { row: "head".to_owned() });
    }
    if let Some(before) = before {
        match head.kinship(digest, before.head) {
            Kinship::Same | Kinship::Newer => {}
            Kinship::Distant if seen.followed == Some(Followed { head: digest, known: before.head }) => {}
            Kinship::Distant => {
                return Err(Alarm::Unproven { known: before.head.seq, shown: head.seq });
            }
            Kinship::Older => return Err(Alarm::RolledBack { known: before.head.seq, shown: head.seq }),
            Kinship::Fork => return Err(Alarm::Forked { known: before.head.seq }),
        }
    }
    if let Some(alarm) = known_elsewhere(head.seq) {
        return Err(alarm);
    }
    for (_, beat) in beats.values() {
        let Some(known) = beat.head else { continue };
        if head.kinship(digest, known) == Kinship::Fork {
            return Err(Alarm::ForkedFrom { node: beat.name.clone(), known: known.seq });
        }
    }
    let known = before.map(|before| before.documents);
    needs_seals |= documents(seals, &head, known, &seen.documents)?;
    let id = HeadId { seq: head.seq, digest };
    Ok(Some(Believed { head, id, needs_seals, beats }))
}

/// A name that the database gives, which may be any text, for people.
fn shown(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).take(96).collect()
}

/// Checks that each document is the one that the head lists, and that there is no other. Whether a seal is old.
fn documents(
    seals: &Seals,
    head: &Head,
    known: Option<&BTreeMap<String, Listed>>,
    rows: &[DocumentRow],
) -> Result<bool, Alarm> {
    let mut is_old = false;
    for row in rows {
        let mismatched = || Alarm::Mismatched { row: shown(&row.name) };
        let listed = head.documents.get(&row.name).ok_or_else(mismatched)?;
        let is_known = known.and_then(|known| known.get(&row.name)) == Some(listed);
        let version = u64::try_from(row.version).map_err(|_| mismatched())?;
        let sha256 = <[u8; 32]>::try_from(&row.sha256[..]).map_err(|_| mismatched())?;
        let sealed = Sealed::Row { document: &row.name, version, sha256: &sha256 };
        is_old |= opened(seals, &row.seal, sealed, &row.name, is_known)?;
        if (version, Sha256Digest(sha256)) != (listed.version, listed.sha256) {
            return Err(mismatched());
        }
    }
    let is_missing = |name: &&String| rows.iter().all(|row| row.name != **name);
    match head.documents.keys().find(is_missing) {
        Some(name) => Err(Alarm::Mismatched { row: name.clone() }),
        None => Ok(is_old),
    }
}

/// Whether a seal is of an older root epoch. One of a retired epoch is accepted only for what was known before.
fn opened(seals: &Seals, seal: &Seal, what: Sealed<'_>, row: &str, is_known: bool) -> Result<bool, Alarm> {
    match seals.open(seal, what) {
        Ok(Opened::Current | Opened::Newer) => Ok(false),
        Ok(Opened::Older) => Ok(true),
        Ok(Opened::Retired) if is_known => Ok(true),
        Ok(Opened::Retired) => Err(Alarm::Epoch { epoch: seal.epoch }),
        Err(Unsealed::Epoch(epoch)) => Err(Alarm::Epoch { epoch }),
        Err(Unsealed::Wrong) => Err(Alarm::Altered { row: row.to_owned() }),
    }
}

/// The number of the state of a head, if a node with the keys of today has written it.
pub(super) fn number(seals: &Seals, row: &HeadRow) -> Option<u64> {
    match seals.open(&row.seal, Sealed::Head { body: &row.body }) {
        Ok(Opened::Current | Opened::Older | Opened::Newer) => {
            Head::parse(&row.body).ok().map(|head| head.seq)
        }
        Ok(Opened::Retired) | Err(_) => None,
    }
}

/// The number of the newest state that any node says it knows.
pub(super) fn newest(seals: &Seals, beats: &[ReportRow]) -> Option<u64> {
    let beats = authentic_beats(seals, beats);
    beats.values().filter_map(|(_, beat)| Some(beat.head?.seq)).max()
}

/// The beats with a valid seal. Where there are too many: the first row, which is that of this node, and those that were
/// written last.
fn authentic_beats(seals: &Seals, rows: &[ReportRow]) -> BTreeMap<NodeId, (u64, Beat)> {
    let mut beats: Vec<_> = authentic(seals, super::beat::KIND, rows)
        .filter_map(|(node, counter, body)| Some((node, (counter, Beat::parse(body).ok()?))))
        .collect();
    if let Some((_, others)) = beats.split_first_mut() {
        others.sort_by_key(|(_, (_, beat))| Reverse(beat.time_ms));
    }
    beats.truncate(MAX_NODES);
    beats.into_iter().collect()
}

/// The reports of a kind that are authentic, each with its node and counter.
pub(super) fn authentic<'a>(
    seals: &'a Seals,
    kind: &'a str,
    rows: &'a [ReportRow],
) -> impl Iterator<Item = (NodeId, u64, &'a [u8])> {
    rows.iter().filter_map(move |row| {
        let node = NodeId(<[u8; 16]>::try_from(&row.node[..]).ok()?);
        let counter = u64::try_from(row.counter).ok()?;
        let sealed = Sealed::Report { node, kind, counter, body: &row.body };
        let opened = seals.open(&row.seal, sealed).ok().filter(|opened| *opened != Opened::Retired);
        opened.map(|_| (node, counter, &row.body[..]))
    })
}
