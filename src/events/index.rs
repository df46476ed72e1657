//! The index: the records of the log by number, with a set of numbers for each type, app and source.
//!
//! It is derived from the log, so it is rebuilt when in doubt. Records are grouped in blocks of 1,024. Each
//! block has its earliest and latest time, because a clock can go back, and for each property of its records
//! a set of offsets. A query intersects the sets block by block, so that even one without results reads at
//! most some thousand small entries.

mod blocks;
mod derived;
mod error;
mod reading;

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use redb::{
    AccessGuard, Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase as _,
    ReadableTable as _, ReadableTableMetadata as _, TableDefinition, WriteTransaction,
};
use sha2::{Digest as _, Sha256};

use self::blocks::{common, either, in_order, ordered};
pub use self::derived::Growth;
pub use self::error::IndexError;
use self::error::unusable;
pub use self::reading::{Active, Counts, Coverage, CvmAsk, CvmPage, Inventory, Recent};
use super::offsets::{BLOCK, Offsets};
use super::query::{Filter, milliseconds};
use crate::audit::{Record, RecordKey};

/// By number: the time in milliseconds (eight bytes) and the line of the log.
const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
/// By property and block: the offsets of the records with the property.
const SETS: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("sets");
/// By block: its earliest and latest time.
const TIMES: TableDefinition<'_, u64, (u64, u64)> = TableDefinition::new("times");

/// Bytes of the page cache.
const CACHE: usize = 16 << 20;
/// The most records examined for one page. A page that ends early has a cursor to continue.
const MAX_EXAMINED: usize = 10_000;
/// The most bytes of a page, as text or JSON, unless a single record is larger.
const MAX_PAGE: usize = 1 << 20;

/// So many records are read together at most, by so many threads, unless they are few.
const MAX_WAVE: usize = 256;
const READERS: usize = 8;
const FEW: usize = 16;

/// The order in which records are visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The newest first.
    Newest,
    /// The oldest first.
    Oldest,
}

/// The parameters of a page.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// Which records.
    pub filter: &'a Filter,
    /// The earliest time, in milliseconds since 1970.
    pub since: u64,
    /// The latest time.
    pub until: u64,
    /// Only records after this one, in the order of the visit.
    pub beyond: Option<u64>,
    /// The order.
    pub order: Order,
    /// The most records.
    pub limit: usize,
}

/// A page of records.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// In ascending order, whatever the order of the visit.
    pub records: Vec<Record>,
    /// The cursor of the next page, if there may be more.
    pub next: Option<u64>,
}

/// The records that an index holds: all from the first to the last that are in a file of the log. 0 if it holds none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reach {
    /// The number of the oldest.
    pub first: u64,
    /// The number of the newest.
    pub last: u64,
}

/// What comes after a record, for a reader that follows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stretch {
    /// The oldest first.
    pub records: Vec<Record>,
    /// Every record up to this number is in this stretch, does not match, or is missing.
    pub place: u64,
    /// The number of the last record before `records` that the index does not hold any more, if it lacks any.
    pub missing: Option<u64>,
}

/// An open index.
#[derive(Debug)]
pub struct Index {
    database: Database,
    path: PathBuf,
}

impl Index {
    /// Opens the index at `path`, or creates one.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let database = Database::builder().set_cache_size(CACHE).create(path).map_err(unusable)?;
        let index = Self { database, path: path.to_owned() };
        index.write(Durability::None, |transaction| {
            transaction.open_table(RECORDS).map_err(unusable)?;
            transaction.open_table(SETS).map_err(unusable)?;
            transaction.open_table(TIMES).map_err(unusable)?;
            derived::create(transaction)
        })?;
        Ok(index)
    }

    pub(super) fn remove(self) -> io::Result<()> {
        let path = self.path.clone();
        drop(self);
        fs::remove_file(path)
    }

    /// The number and line of its last record; `None` if it is empty.
    pub fn last(&self) -> Result<Option<(u64, Vec<u8>)>, IndexError> {
        let records = self.records()?;
        let last = records.last().map_err(unusable)?;
        Ok(last.map(|(seq, row)| (seq.value(), row.value().get(8..).unwrap_or_default().to_vec())))
    }

    /// The number of records.
    pub fn count(&self) -> Result<u64, IndexError> {
        self.records()?.len().map_err(unusable)
    }

    fn records(&self) -> Result<ReadOnlyTable<u64, &'static [u8]>, IndexError> {
        self.database.begin_read().map_err(unusable)?.open_table(RECORDS).map_err(unusable)
    }

    fn write<T>(
        &self,
        durability: Durability,
        change: impl FnOnce(&WriteTransaction) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        let mut transaction = self.database.begin_write().map_err(unusable)?;
        // Avoids reading the whole file after a crash.
        transaction.set_quick_repair(matches!(durability, Durability::Immediate));
        transaction.set_durability(durability).map_err(|error| io::Error::other(error.to_string()))?;
        let changed = change(&transaction)?;
        transaction.commit().map_err(unusable)?;
        Ok(changed)
    }

    /// Adds records by number and line, in ascending order, and removes old ones beyond `keep`. They are durable after
    /// [`Index::sync`].
    ///
    /// # Errors
    /// [`IndexError`]; none of them is added then.
    pub fn add(&self, lines: &[(u64, Vec<u8>)], keep: u64, growth: Growth) -> Result<(), IndexError> {
        let mut read = Vec::with_capacity(lines.len());
        for (_, line) in lines {
            if let Some(key) = RecordKey::read(line) {
                read.push((key, &line[..]));
            }
        }
        self.write(Durability::None, |transaction| {
            let mut records = transaction.open_table(RECORDS).map_err(unusable)?;
            let mut sets = transaction.open_table(SETS).map_err(unusable)?;
            let mut times = transaction.open_table(TIMES).map_err(unusable)?;
            if let Some((last, _)) = read.last() {
                let before = records.last().map_err(unusable)?.map_or(0, |(seq, _)| seq.value());
                derived::note(transaction, growth, before, last.seq, &read)?;
            }
            for block in read.chunk_by(|(one, _), (next, _)| one.seq / BLOCK == next.seq / BLOCK) {
                let Some((first, _)) = block.first() else { continue };
                let number = first.seq / BLOCK;
                let known = times.get(number).map_err(unusable)?.map(|times| times.value());
                let (mut earliest, mut latest) = known.unwrap_or((u64::MAX, 0));
                let mut found = std::collections::HashMap::<u64, Offsets>::new();
                for (record, line) in block {
                    let time = milliseconds(&record.time).unwrap_or(0);
                    (earliest, latest) = (earliest.min(time), latest.max(time));
                    let row = [&time.to_be_bytes()[..], line].concat();
                    records.insert(record.seq, &row[..]).map_err(unusable)?;
                    for property in properties(record) {
                        found.entry(property).or_insert(Offsets::NONE).insert(record.seq);
                    }
                }
                times.insert(number, (earliest, latest)).map_err(unusable)?;
                for (property, mut offsets) in found {
                    if let Some(known) = sets.get((property, number)).map_err(unusable)? {
                        offsets = offsets.or(&Offsets::from_bytes(known.value()));
                    }
                    sets.insert((property, number), &offsets.to_bytes()[..]).map_err(unusable)?;
                }
            }
            // Removes whole blocks, so up to one more than requested may stay.
            while records.len().map_err(unusable)? > keep.max(1) + BLOCK {
                let Some(oldest) = records.first().map_err(unusable)?.map(|(seq, _)| seq.value() / BLOCK)
                else {
                    break;
                };
                let all = oldest * BLOCK..(oldest + 1) * BLOCK;
                let mut properties_of_block = std::collections::HashSet::new();
                for row in records.range(all.clone()).map_err(unusable)? {
                    if let Some(record) = line(row.map_err(unusable)?.1.value()).and_then(RecordKey::read) {
                        properties_of_block.extend(properties(&record));
                    }
                }
                records.retain_in(all, |_, _| false).map_err(unusable)?;
                for property in properties_of_block {
                    sets.remove((property, oldest)).map_err(unusable)?;
                }
                times.remove(oldest).map_err(unusable)?;
            }
            Ok(())
        })
    }

    /// Counts in the inventory what an index of an older version has not counted, a part of it at a time; whether
    /// there was something.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn catch_up(&self, growth: Growth) -> Result<bool, IndexError> {
        self.write(Durability::None, |transaction| derived::catch_up(transaction, growth))
    }

    /// The inventory as it is now.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn inventory(&self) -> Result<Inventory, IndexError> {
        Ok(Inventory::new(self.database.begin_read().map_err(unusable)?))
    }

    /// Returns when everything added is on the disk.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn sync(&self) -> Result<(), IndexError> {
        self.write(Durability::Immediate, |_| Ok(()))
    }

    /// One page of a query.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn page(&self, ask: &Ask<'_>) -> Result<Page, IndexError> {
        page(&self.database.begin_read().map_err(unusable)?, ask)
    }

    /// One page of a query, and what the index held when it was asked.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn page_and_reach(&self, ask: &Ask<'_>) -> Result<(Page, Reach), IndexError> {
        let transaction = self.database.begin_read().map_err(unusable)?;
        let records = transaction.open_table(RECORDS).map_err(unusable)?;
        let first = records.first().map_err(unusable)?.map_or(0, |(seq, _)| seq.value());
        let last = records.last().map_err(unusable)?.map_or(0, |(seq, _)| seq.value());
        Ok((page(&transaction, ask)?, Reach { first, last }))
    }

    /// The record of this number, and its line.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn record(&self, seq: u64) -> Result<Option<(Record, Vec<u8>)>, IndexError> {
        let records = self.records()?;
        let row = records.get(seq).map_err(unusable)?;
        Ok(row.and_then(|row| {
            let line = line(row.value())?;
            Some((Record::read(line)?, line.to_vec()))
        }))
    }

    /// At most `limit` records that `filter` admits after the record `after`. Its place is `after` while the index has none beyond it.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn after(&self, filter: &Filter, after: u64, limit: usize) -> Result<Stretch, IndexError> {
        let transaction = self.database.begin_read().map_err(unusable)?;
        let records = transaction.open_table(RECORDS).map_err(unusable)?;
        let number =
            |row: Option<(AccessGuard<'_, u64>, AccessGuard<'_, &[u8]>)>| row.map(|(seq, _)| seq.value());
        let first = number(records.first().map_err(unusable)?);
        let last = number(records.last().map_err(unusable)?);
        let (Some(first), Some(last)) = (first, last.filter(|last| *last > after)) else {
            return Ok(Stretch { place: after, ..Stretch::default() });
        };
        let (since, until, order) = (0, u64::MAX, Order::Oldest);
        let page = page(&transaction, &Ask { filter, since, until, beyond: Some(after), order, limit })?;
        let missing = (first > after + 1).then(|| first - 1);
        Ok(Stretch { records: page.records, place: page.next.unwrap_or(last), missing })
    }
}

/// One page of a query.
fn page(transaction: &ReadTransaction, ask: &Ask<'_>) -> Result<Page, IndexError> {
    let records = transaction.open_table(RECORDS).map_err(unusable)?;
    let sets = transaction.open_table(SETS).map_err(unusable)?;
    let times = transaction.open_table(TIMES).map_err(unusable)?;
    // The range of numbers that may match.
    let (from, to) = match (ask.order, ask.beyond) {
        (_, None) => (0, u64::MAX),
        (Order::Newest, Some(beyond)) => match beyond.checked_sub(1) {
            Some(to) => (0, to),
            None => return Ok(Page::default()),
        },
        (Order::Oldest, Some(beyond)) => match beyond.checked_add(1) {
            Some(from) => (from, u64::MAX),
            None => return Ok(Page::default()),
        },
    };
    let (first, last) = (from / BLOCK, to / BLOCK);
    let in_time = times.range(first..=last).map_err(unusable)?.filter_map(|entry| match entry {
        Ok((block, times)) => {
            let (earliest, latest) = times.value();
            let is_in = earliest <= ask.until && latest >= ask.since;
            is_in.then(|| Ok((block.value(), Offsets::ALL)))
        }
        Err(error) => Some(Err(unusable(error))),
    });
    let mut streams = vec![ordered(in_time, ask.order)];
    let set = |property| {
        let set = sets.range((property, first)..=(property, last)).map_err(unusable)?.map(|entry| {
            let (key, offsets) = entry.map_err(unusable)?;
            Ok((key.value().1, Offsets::from_bytes(offsets.value())))
        });
        Ok::<_, IndexError>(ordered(set, ask.order))
    };
    for property in asked_properties(ask.filter) {
        streams.push(set(property)?);
    }
    if !ask.filter.kinds.is_empty() {
        let kinds = ask.filter.kinds.iter().map(|kind| set(property("type", kind)));
        streams.push(either(kinds.collect::<Result<_, _>>()?, ask.order));
    }
    let mut candidates = std::iter::from_fn(|| common(&mut streams, ask.order).transpose())
        .flat_map(|common| match common {
            Ok((block, offsets)) => in_order(offsets, ask.order)
                .into_iter()
                .map(|offset| Ok(block * BLOCK + offset))
                .collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        })
        .filter(|seq| seq.as_ref().map_or(true, |seq| (from..=to).contains(seq)));
    let mut page = Page::default();
    let (mut examined, mut bytes) = (0, 0);
    loop {
        let room = ask.limit.saturating_sub(page.records.len()).min(MAX_EXAMINED - examined).min(MAX_WAVE);
        if bytes >= MAX_PAGE {
            break;
        }
        let wave = candidates.by_ref().take(room).collect::<Result<Vec<u64>, IndexError>>()?;
        if wave.is_empty() {
            break;
        }
        for (seq, found) in wave.iter().zip(look_up(&records, &wave, ask)?) {
            let Some(Found { length, record }) = found else { continue };
            if bytes >= MAX_PAGE {
                break;
            }
            examined += 1;
            page.next = Some(*seq);
            if let Some(record) = record {
                bytes += length;
                page.records.push(record);
            }
        }
    }
    let is_full = page.records.len() >= ask.limit || bytes >= MAX_PAGE || examined >= MAX_EXAMINED;
    page.next = page.next.filter(|_| is_full);
    if ask.order == Order::Newest {
        page.records.reverse();
    }
    Ok(page)
}

/// An existing row, with its record if that matches.
struct Found {
    length: usize,
    record: Option<Record>,
}

/// The rows with these numbers, in their order. Many are read side by side: a disk is slow at one at a time.
fn look_up(
    records: &ReadOnlyTable<u64, &'static [u8]>,
    seqs: &[u64],
    ask: &Ask<'_>,
) -> Result<Vec<Option<Found>>, IndexError> {
    let read = |seq: &u64| -> Result<Option<Found>, IndexError> {
        let Some(row) = records.get(*seq).map_err(unusable)? else { return Ok(None) };
        let row = row.value();
        let is_in = time(row).is_some_and(|time| (ask.since..=ask.until).contains(&time));
        // Two properties can have the same hash, so the record itself is checked.
        let record = line(row).filter(|_| is_in).and_then(Record::read);
        let record = record.filter(|record| ask.filter.admits(record));
        Ok(Some(Found { length: row.len(), record }))
    };
    if seqs.len() <= FEW {
        return seqs.iter().map(read).collect();
    }
    thread::scope(|scope| {
        let share = seqs.len().div_ceil(READERS);
        let readers = seqs.chunks(share).map(|share| {
            let read = || share.iter().map(read).collect::<Result<Vec<_>, _>>();
            thread::Builder::new().name("event-query".to_owned()).spawn_scoped(scope, read)
        });
        let readers = readers.collect::<io::Result<Vec<_>>>()?;
        let mut found = Vec::with_capacity(seqs.len());
        for reader in readers {
            found.extend(reader.join().unwrap_or_else(|panic| resume_unwind(panic))?);
        }
        Ok(found)
    })
}

fn time(row: &[u8]) -> Option<u64> {
    row.first_chunk().map(|time| u64::from_be_bytes(*time))
}

fn line(row: &[u8]) -> Option<&[u8]> {
    row.get(8..)
}

/// The properties by which a record can be found.
fn properties(record: &RecordKey<'_>) -> impl Iterator<Item = u64> {
    let app = (!record.app_id.is_empty()).then(|| property("app", &record.app_id));
    // Records of the default domain are most of them, and in the index of an older version.
    let domains = [record.domain(), record.left_domain()].into_iter().flatten();
    let domains = domains.filter_map(|domain| Some(property("domain", domain.said()?)));
    [property("type", &record.kind), property("source", record.source())]
        .into_iter()
        .chain(app)
        .chain(domains)
}

fn asked_properties(filter: &Filter) -> impl Iterator<Item = u64> {
    let Filter { kind, app_id, source, domain, kinds: _, scope } = filter;
    let domains = [domain.as_ref(), scope.limit()].into_iter().flatten();
    let domains = domains.filter_map(|domain| Some(property("domain", domain.said()?)));
    [("type", kind), ("app", app_id), ("source", source)]
        .into_iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| property(name, value)))
        .chain(domains)
}

fn property(name: &str, value: &str) -> u64 {
    let digest: [u8; 32] =
        Sha256::new().chain_update(name).chain_update([0]).chain_update(value).finalize().into();
    u64::from_be_bytes(*digest.first_chunk().expect("32 bytes have 8"))
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
