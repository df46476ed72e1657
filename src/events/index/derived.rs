//! The inventory and the counts over time in the tables of the index: written in the same transaction as the
//! records.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use kms_attest::identity::DomainName;
use redb::{ReadableTable as _, ReadableTableMetadata as _, Table, TableDefinition, WriteTransaction};

use super::error::unusable;
use super::{IndexError, RECORDS, line};
use crate::audit::RecordKey;
use crate::events::inventory::{
    ALL, Content, Cvm, CvmId, Delivered, Entry, Handover, Line, MAX_CVMS, MAX_DENIED, MAX_HANDOVERS,
    MAX_REFUSED, Refusal, Span, handover_key, property, refusal_key,
};

/// By key: an entry as JSON.
pub(super) type Rows = TableDefinition<'static, u128, &'static [u8]>;
/// By property and number of the last record: its time in milliseconds, the app, and the key of the entry.
pub(super) type Order = TableDefinition<'static, (u64, u64), (u64, u64, u128)>;
/// By minute or hour since 1970: releases and refusals.
pub(super) type Buckets = TableDefinition<'static, u64, (u64, u64)>;

/// A list of the inventory.
#[derive(Clone, Copy)]
pub(super) struct List {
    pub(super) rows: Rows,
    pub(super) order: Order,
    /// The most entries.
    max: u64,
}

pub(super) const CVMS: List =
    List { rows: TableDefinition::new("cvms"), order: TableDefinition::new("cvms_in_order"), max: MAX_CVMS };
pub(super) const DENIED: List = List {
    rows: TableDefinition::new("denied"),
    order: TableDefinition::new("denied_in_order"),
    max: MAX_DENIED,
};
pub(super) const REFUSED: List = List {
    rows: TableDefinition::new("refused"),
    order: TableDefinition::new("refused_in_order"),
    max: MAX_REFUSED,
};
pub(super) const HANDOVERS: List = List {
    rows: TableDefinition::new("handovers"),
    order: TableDefinition::new("handovers_in_order"),
    max: MAX_HANDOVERS,
};

pub(super) const MINUTES: Buckets = TableDefinition::new("minutes");
pub(super) const HOURS: Buckets = TableDefinition::new("hours");
/// By property of a domain, and minute or hour since 1970: as [`Buckets`]. An index of an older version has none of the time
/// before.
pub(super) type DomainBuckets = TableDefinition<'static, (u64, u64), (u64, u64)>;
pub(super) const DOMAIN_MINUTES: DomainBuckets = TableDefinition::new("minutes_by_domain");
pub(super) const DOMAIN_HOURS: DomainBuckets = TableDefinition::new("hours_by_domain");
/// How many of them are kept: 31 days and 400 days.
const MAX_MINUTES: u64 = 31 * 24 * 60;
const MAX_HOURS: u64 = 400 * 24;
pub(super) const MINUTE: u64 = 60_000;
pub(super) const HOUR: u64 = 60 * MINUTE;

/// Whether lists may get longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growth {
    /// Up to the most that they may have.
    Bounded,
    /// Not beyond what they have now: the disk is nearly full, and the audit log needs it.
    Stopped,
}

/// How far the inventory is: numbers of records, and a time in milliseconds.
pub(super) const STATE: TableDefinition<'_, &str, u64> = TableDefinition::new("inventory");
/// Everything up to this record is counted.
pub(super) const THROUGH: &str = "through";
/// The record with which the count began.
pub(super) const FIRST: &str = "first";
/// Set once CVMs were dropped.
pub(super) const CVMS_DROPPED: &str = "cvms_dropped";
/// The time of the oldest record that was counted.
pub(super) const SINCE: &str = "since";

/// The most records that are counted in one transaction where they are read from the index.
const CATCH_UP: usize = 1000;

/// Creates the tables.
pub(super) fn create(transaction: &WriteTransaction) -> Result<(), IndexError> {
    for List { rows, order, .. } in [CVMS, DENIED, REFUSED, HANDOVERS] {
        transaction.open_table(rows).map_err(unusable)?;
        transaction.open_table(order).map_err(unusable)?;
    }
    transaction.open_table(MINUTES).map_err(unusable)?;
    transaction.open_table(HOURS).map_err(unusable)?;
    transaction.open_table(DOMAIN_MINUTES).map_err(unusable)?;
    transaction.open_table(DOMAIN_HOURS).map_err(unusable)?;
    transaction.open_table(STATE).map_err(unusable)?;
    Ok(())
}

/// Counts records that follow the one of number `before`, unless earlier ones are still to be counted.
pub(super) fn note<'a>(
    transaction: &WriteTransaction,
    growth: Growth,
    before: u64,
    last: u64,
    lines: &[(RecordKey<'a>, &'a [u8])],
) -> Result<(), IndexError> {
    let mut state = transaction.open_table(STATE).map_err(unusable)?;
    let through = state.get(THROUGH).map_err(unusable)?.map_or(0, |through| through.value());
    if through < before {
        return Ok(());
    }
    let new = lines.iter().filter(|(key, _)| key.seq > through);
    let first = new.clone().next().map(|(key, _)| key.seq);
    let counted = count(transaction, growth, new)?;
    begin(&mut state, through, first)?;
    advance(&mut state, last.max(through), counted)
}

/// Counts records of the index that are not counted yet, a thousand at most; whether there were any.
pub(super) fn catch_up(transaction: &WriteTransaction, growth: Growth) -> Result<bool, IndexError> {
    let mut state = transaction.open_table(STATE).map_err(unusable)?;
    let through = state.get(THROUGH).map_err(unusable)?.map_or(0, |through| through.value());
    let records = transaction.open_table(RECORDS).map_err(unusable)?;
    let mut lines = Vec::new();
    let (mut first, mut last) = (None, None);
    for row in records.range(through + 1..).map_err(unusable)?.take(CATCH_UP) {
        let (seq, row) = row.map_err(unusable)?;
        last = Some(seq.value());
        first = first.or(last);
        lines.extend(line(row.value()).map(<[u8]>::to_vec));
    }
    let Some(last) = last else { return Ok(false) };
    let read = |line| RecordKey::read(line).map(|key| (key, line));
    let lines: Vec<_> = lines.iter().map(Vec::as_slice).filter_map(read).collect();
    let counted = count(transaction, growth, lines.iter())?;
    begin(&mut state, through, first)?;
    advance(&mut state, last, counted)?;
    Ok(true)
}

/// Notes with which record the count begins, if nothing was counted `through` yet.
fn begin(state: &mut Table<'_, &str, u64>, through: u64, first: Option<u64>) -> Result<(), IndexError> {
    if let Some(first) = first.filter(|_| through == 0) {
        state.insert(FIRST, first).map_err(unusable)?;
    }
    Ok(())
}

fn advance(state: &mut Table<'_, &str, u64>, last: u64, counted: Counted) -> Result<(), IndexError> {
    state.insert(THROUGH, last).map_err(unusable)?;
    if counted.dropped == Dropped::Some {
        state.insert(CVMS_DROPPED, 1).map_err(unusable)?;
    }
    if let Some(since) = counted.since
        && state.get(SINCE).map_err(unusable)?.is_none()
    {
        state.insert(SINCE, since).map_err(unusable)?;
    }
    Ok(())
}

/// What was counted.
struct Counted {
    /// The time of the first of the lines that counts.
    since: Option<u64>,
    /// Whether CVMs were dropped, because there are too many.
    dropped: Dropped,
}

/// Whether a list has lost entries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dropped {
    Nothing,
    Some,
}

fn count<'a>(
    transaction: &WriteTransaction,
    growth: Growth,
    lines: impl Iterator<Item = &'a (RecordKey<'a>, &'a [u8])>,
) -> Result<Counted, IndexError> {
    let mut cvms = Changes::<Cvm>::open(transaction, CVMS, growth)?;
    let mut denied = Changes::<Refusal>::open(transaction, DENIED, growth)?;
    let mut refused = Changes::<Refusal>::open(transaction, REFUSED, growth)?;
    let mut handovers = Changes::<Handover>::open(transaction, HANDOVERS, growth)?;
    let mut buckets = HashMap::<u64, (u64, u64)>::new();
    let mut of_domains = HashMap::<(u64, u64), (u64, u64)>::new();
    let mut since = None;
    for (key, line) in lines {
        let Some(Line { seq, time, content }) = Line::read(key, line) else { continue };
        since.get_or_insert(time);
        let (releases, refusals) = buckets.entry(time / MINUTE).or_default();
        if let Some(domain) = key.domain() {
            let counts = of_domains.entry((of_domain(&domain), time / MINUTE)).or_default();
            match &content {
                Content::Release(..) => counts.0 += 1,
                Content::Refusal(_) => counts.1 += 1,
                Content::Handover(..) | Content::Withheld(..) | Content::Suppressed(_) => {}
            }
        }
        match content {
            Content::Release(subject, delivered) => {
                *releases += 1;
                let new = || Cvm::new(Span::before(seq, time));
                let cvm = cvms.get_or_insert(CvmId::of(&subject).0, new)?;
                if cvm.releases.count > 0 && cvm.subject.domain != subject.domain {
                    // It gets other keys there, and its operators are others: a new one.
                    *cvm = new();
                }
                cvm.subject = *subject;
                cvm.released(seq, time);
                match delivered {
                    Delivered::Keys => cvm.app_keys += 1,
                    Delivered::Certificate => cvm.certificates += 1,
                }
            }
            Content::Handover(subject, up_to_epoch) => {
                *releases += 1;
                let new = || Handover::new(Span::before(seq, time));
                let handover = handovers.get_or_insert(handover_key(&subject), new)?;
                handover.subject = *subject;
                handover.delivered(seq, time, up_to_epoch);
            }
            Content::Withheld(subject, released) => {
                let handover = handovers.get(handover_key(&subject))?;
                let is_handover = handover.is_some_and(|handover| handover.withheld(released));
                if !is_handover
                    && !subject.is_kms()
                    && let Some(cvm) = cvms.get(CvmId::of(&subject).0)?
                {
                    cvm.releases.count = cvm.releases.count.saturating_sub(1);
                }
            }
            Content::Suppressed(events) => *refusals += events,
            Content::Refusal(refusal) => {
                *refusals += 1;
                let list = match &refusal.subject {
                    Some(subject) => {
                        if let Some(cvm) = cvms.get(CvmId::of(subject).0)?
                            && cvm.subject.domain_name() == subject.domain_name()
                        {
                            cvm.denials += 1;
                            cvm.denied_at = Some(time);
                        }
                        &mut denied
                    }
                    None => &mut refused,
                };
                if refusal.denial_id.is_empty() {
                    continue;
                }
                let key = refusal_key(&refusal.denial_id);
                let new = Refusal { times: Span::before(seq, time), ..*refusal };
                list.get_or_insert(key, || new)?.times.extend(seq, time);
            }
        }
    }
    let dropped = cvms.finish()?;
    denied.finish()?;
    refused.finish()?;
    handovers.finish()?;
    for (table, size, max) in [(MINUTES, MINUTE, MAX_MINUTES), (HOURS, HOUR, MAX_HOURS)] {
        let mut table = transaction.open_table(table).map_err(unusable)?;
        for (minute, (releases, refusals)) in &buckets {
            let key = minute * MINUTE / size;
            let known = table.get(key).map_err(unusable)?.map_or((0, 0), |known| known.value());
            let sum = (known.0.saturating_add(*releases), known.1.saturating_add(*refusals));
            table.insert(key, sum).map_err(unusable)?;
        }
        while table.len().map_err(unusable)? > max {
            table.pop_first().map_err(unusable)?;
        }
    }
    for (table, size, max) in [(DOMAIN_MINUTES, MINUTE, MAX_MINUTES), (DOMAIN_HOURS, HOUR, MAX_HOURS)] {
        let mut table = transaction.open_table(table).map_err(unusable)?;
        for ((domain, minute), (releases, refusals)) in &of_domains {
            let key = (*domain, minute * MINUTE / size);
            let known = table.get(key).map_err(unusable)?.map_or((0, 0), |known| known.value());
            let sum = (known.0.saturating_add(*releases), known.1.saturating_add(*refusals));
            table.insert(key, sum).map_err(unusable)?;
            let old = (key.0, 0)..(key.0, key.1.saturating_sub(max));
            table.retain_in(old, |_, _| false).map_err(unusable)?;
        }
    }
    Ok(Counted { since, dropped })
}

/// A domain as a number: the name of the default one too.
pub(super) fn of_domain(domain: &DomainName) -> u64 {
    property("domain", domain.as_str())
}

/// Entries of a list that a transaction changes. Each is written once.
struct Changes<'t, E> {
    max: u64,
    rows: Table<'t, u128, &'static [u8]>,
    order: Table<'t, (u64, u64), (u64, u64, u128)>,
    changed: HashMap<u128, Changed<E>>,
}

struct Changed<E> {
    /// Where it is in the order now.
    before: Vec<(u64, u64)>,
    entry: E,
}

impl<'t, E: Entry> Changes<'t, E> {
    fn open(transaction: &'t WriteTransaction, list: List, growth: Growth) -> Result<Self, IndexError> {
        let rows = transaction.open_table(list.rows).map_err(unusable)?;
        let order = transaction.open_table(list.order).map_err(unusable)?;
        let max = match growth {
            Growth::Bounded => list.max,
            Growth::Stopped => list.max.min(rows.len().map_err(unusable)?),
        };
        Ok(Self { max, rows, order, changed: HashMap::new() })
    }

    fn stored(&self, key: u128) -> Result<Option<Changed<E>>, IndexError> {
        let Some(row) = self.rows.get(key).map_err(unusable)? else { return Ok(None) };
        let entry = read(row.value())?;
        Ok(Some(Changed { before: places(&entry), entry }))
    }

    fn get(&mut self, key: u128) -> Result<Option<&mut E>, IndexError> {
        if !self.changed.contains_key(&key)
            && let Some(stored) = self.stored(key)?
        {
            self.changed.insert(key, stored);
        }
        Ok(self.changed.get_mut(&key).map(|changed| &mut changed.entry))
    }

    fn get_or_insert(&mut self, key: u128, new: impl FnOnce() -> E) -> Result<&mut E, IndexError> {
        let stored = if self.changed.contains_key(&key) { None } else { self.stored(key)? };
        let changed = match self.changed.entry(key) {
            Slot::Occupied(known) => known.into_mut(),
            Slot::Vacant(slot) => {
                slot.insert(stored.unwrap_or_else(|| Changed { before: Vec::new(), entry: new() }))
            }
        };
        Ok(&mut changed.entry)
    }

    fn oldest(&self) -> Result<Option<u128>, IndexError> {
        let mut places = self.order.range((ALL, 0)..=(ALL, u64::MAX)).map_err(unusable)?;
        Ok(places.next().transpose().map_err(unusable)?.map(|(_, value)| value.value().2))
    }

    /// Writes the changed entries, and drops the oldest beyond the most that the list may have.
    fn finish(mut self) -> Result<Dropped, IndexError> {
        let mut dropped = Dropped::Nothing;
        for (key, Changed { before, entry }) in self.changed.drain() {
            for place in before {
                self.order.remove(place).map_err(unusable)?;
            }
            let (_, time) = entry.last();
            for place in places(&entry) {
                self.order.insert(place, (time, entry.app(), key)).map_err(unusable)?;
            }
            let row = serde_json::to_vec(&entry).map_err(|_| IndexError::Damaged)?;
            self.rows.insert(key, &row[..]).map_err(unusable)?;
        }
        while self.rows.len().map_err(unusable)? > self.max {
            let key = self.oldest()?.ok_or(IndexError::Damaged)?;
            let Some(Changed::<E> { before, .. }) = self.stored(key)? else {
                return Err(IndexError::Damaged);
            };
            for place in before {
                self.order.remove(place).map_err(unusable)?;
            }
            self.rows.remove(key).map_err(unusable)?;
            dropped = Dropped::Some;
        }
        Ok(dropped)
    }
}

fn places(entry: &impl Entry) -> Vec<(u64, u64)> {
    let (seq, _) = entry.last();
    entry.properties().into_iter().map(|property| (property, seq)).collect()
}

pub(super) fn read<E: Entry>(row: &[u8]) -> Result<E, IndexError> {
    kms_attest::json::from_utf8(row).map_err(|_| IndexError::Damaged)
}

#[cfg(test)]
#[path = "derived_tests.rs"]
mod tests;
