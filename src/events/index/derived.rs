//! The inventory and the counts over time in the tables of the index: written in the same transaction as the
//! records, and read page by page.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use kms_attest::tcb::{TOLERABLE, TcbStatus};
use redb::{
    ReadTransaction, ReadableTable as _, ReadableTableMetadata as _, Table, TableDefinition, WriteTransaction,
};

use super::error::unusable;
use super::{IndexError, RECORDS, line};
use crate::events::inventory::{
    ALL, Content, Cvm, CvmId, Delivered, Entry, Handover, Line, MAX_CVMS, MAX_DENIED, MAX_HANDOVERS,
    MAX_REFUSED, Refusal, Span, handover_key, property, refusal_key,
};

/// By key: an entry as JSON.
type Rows = TableDefinition<'static, u128, &'static [u8]>;
/// By property and number of the last record: its time in milliseconds, the app, and the key of the entry.
type Order = TableDefinition<'static, (u64, u64), (u64, u64, u128)>;
/// By minute or hour since 1970: releases and refusals.
type Buckets = TableDefinition<'static, u64, (u64, u64)>;

/// A list of the inventory.
#[derive(Clone, Copy)]
struct List {
    rows: Rows,
    order: Order,
    /// The most entries.
    max: u64,
}

const CVMS: List =
    List { rows: TableDefinition::new("cvms"), order: TableDefinition::new("cvms_in_order"), max: MAX_CVMS };
const DENIED: List = List {
    rows: TableDefinition::new("denied"),
    order: TableDefinition::new("denied_in_order"),
    max: MAX_DENIED,
};
const REFUSED: List = List {
    rows: TableDefinition::new("refused"),
    order: TableDefinition::new("refused_in_order"),
    max: MAX_REFUSED,
};
const HANDOVERS: List = List {
    rows: TableDefinition::new("handovers"),
    order: TableDefinition::new("handovers_in_order"),
    max: MAX_HANDOVERS,
};

const MINUTES: Buckets = TableDefinition::new("minutes");
const HOURS: Buckets = TableDefinition::new("hours");
/// How many of them are kept: 31 days and 400 days.
const MAX_MINUTES: u64 = 31 * 24 * 60;
const MAX_HOURS: u64 = 400 * 24;
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

/// Whether lists may get longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growth {
    /// Up to the most that they may have.
    Bounded,
    /// Not beyond what they have now: the disk is nearly full, and the audit log needs it.
    Stopped,
}

/// How far the inventory is: numbers of records, and a time in milliseconds.
const STATE: TableDefinition<'_, &str, u64> = TableDefinition::new("inventory");
/// Everything up to this record is counted.
const THROUGH: &str = "through";
/// The time of the oldest record that was counted.
const SINCE: &str = "since";

/// The most records that are counted in one transaction where they are read from the index.
const CATCH_UP: usize = 1000;
/// The most entries that are read for one page. A page that ends early has a cursor to continue.
const MAX_READ: usize = 10_000;

/// Creates the tables.
pub(super) fn create(transaction: &WriteTransaction) -> Result<(), IndexError> {
    for List { rows, order, .. } in [CVMS, DENIED, REFUSED, HANDOVERS] {
        transaction.open_table(rows).map_err(unusable)?;
        transaction.open_table(order).map_err(unusable)?;
    }
    transaction.open_table(MINUTES).map_err(unusable)?;
    transaction.open_table(HOURS).map_err(unusable)?;
    transaction.open_table(STATE).map_err(unusable)?;
    Ok(())
}

/// Counts records that follow the one of number `before`, unless earlier ones are still to be counted.
pub(super) fn note<'a>(
    transaction: &WriteTransaction,
    growth: Growth,
    before: u64,
    last: u64,
    lines: impl Iterator<Item = (u64, &'a [u8])>,
) -> Result<(), IndexError> {
    let mut state = transaction.open_table(STATE).map_err(unusable)?;
    let through = state.get(THROUGH).map_err(unusable)?.map_or(0, |through| through.value());
    if through < before {
        return Ok(());
    }
    let new = lines.filter(|(seq, _)| *seq > through).map(|(_, line)| line);
    let since = count(transaction, growth, new)?;
    advance(&mut state, last.max(through), since)
}

/// Counts records of the index that are not counted yet, a thousand at most; whether there were any.
pub(super) fn catch_up(transaction: &WriteTransaction, growth: Growth) -> Result<bool, IndexError> {
    let mut state = transaction.open_table(STATE).map_err(unusable)?;
    let through = state.get(THROUGH).map_err(unusable)?.map_or(0, |through| through.value());
    let records = transaction.open_table(RECORDS).map_err(unusable)?;
    let mut lines = Vec::new();
    let mut last = None;
    for row in records.range(through + 1..).map_err(unusable)?.take(CATCH_UP) {
        let (seq, row) = row.map_err(unusable)?;
        last = Some(seq.value());
        lines.extend(line(row.value()).map(<[u8]>::to_vec));
    }
    let Some(last) = last else { return Ok(false) };
    let since = count(transaction, growth, lines.iter().map(Vec::as_slice))?;
    advance(&mut state, last, since)?;
    Ok(true)
}

fn advance(state: &mut Table<'_, &str, u64>, last: u64, since: Option<u64>) -> Result<(), IndexError> {
    state.insert(THROUGH, last).map_err(unusable)?;
    if let Some(since) = since
        && state.get(SINCE).map_err(unusable)?.is_none()
    {
        state.insert(SINCE, since).map_err(unusable)?;
    }
    Ok(())
}

/// Returns the time of the first of the lines that counts.
fn count<'a>(
    transaction: &WriteTransaction,
    growth: Growth,
    lines: impl Iterator<Item = &'a [u8]>,
) -> Result<Option<u64>, IndexError> {
    let mut cvms = Changes::<Cvm>::open(transaction, CVMS, growth)?;
    let mut denied = Changes::<Refusal>::open(transaction, DENIED, growth)?;
    let mut refused = Changes::<Refusal>::open(transaction, REFUSED, growth)?;
    let mut handovers = Changes::<Handover>::open(transaction, HANDOVERS, growth)?;
    let mut buckets = HashMap::<u64, (u64, u64)>::new();
    let mut since = None;
    for Line { seq, time, content } in lines.filter_map(Line::read) {
        since.get_or_insert(time);
        let (releases, refusals) = buckets.entry(time / MINUTE).or_default();
        match content {
            Content::Release(subject, delivered) => {
                *releases += 1;
                let new = || Cvm::new(Span::before(seq, time));
                let cvm = cvms.get_or_insert(CvmId::of(&subject).0, new)?;
                cvm.subject = *subject;
                cvm.released(seq, time);
                match delivered {
                    Delivered::Keys => cvm.app_keys += 1,
                    Delivered::Certificate => cvm.certificates += 1,
                }
            }
            Content::Handover(subject) => {
                *releases += 1;
                let new = || Handover::new(Span::before(seq, time));
                let handover = handovers.get_or_insert(handover_key(&subject), new)?;
                handover.subject = *subject;
                handover.times.extend(seq, time);
            }
            Content::Withheld(subject) => {
                if let Some(cvm) = cvms.get(CvmId::of(&subject).0)? {
                    cvm.releases.count = cvm.releases.count.saturating_sub(1);
                }
            }
            Content::Suppressed(events) => *refusals += events,
            Content::Refusal(refusal) => {
                *refusals += 1;
                let list = match &refusal.subject {
                    Some(subject) => {
                        if let Some(cvm) = cvms.get(CvmId::of(subject).0)? {
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
    cvms.finish()?;
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
    Ok(since)
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
    fn finish(mut self) -> Result<(), IndexError> {
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
        }
        Ok(())
    }
}

fn places(entry: &impl Entry) -> Vec<(u64, u64)> {
    let (seq, _) = entry.last();
    entry.properties().into_iter().map(|property| (property, seq)).collect()
}

fn read<E: Entry>(row: &[u8]) -> Result<E, IndexError> {
    kms_attest::json::from_utf8(row).map_err(|_| IndexError::Damaged)
}

/// Which CVMs a page has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CvmAsk {
    /// Only CVMs of this app, hexadecimal.
    pub app_id: Option<String>,
    /// Only this instance, hexadecimal.
    pub instance_id: Option<String>,
    /// Only CVMs on this machine, hexadecimal.
    pub device_id: Option<String>,
    /// Only CVMs with this OS image, hexadecimal.
    pub os_image_hash: Option<String>,
    /// Only CVMs with this TCB status.
    pub tcb_status: Option<String>,
    /// Only CVMs with a release since this time, in milliseconds since 1970.
    pub since: u64,
    /// Only CVMs whose last release has a smaller number.
    pub before: Option<u64>,
    /// The most CVMs.
    pub limit: usize,
}

/// CVMs, the one with the newest release first.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CvmPage {
    /// The CVMs, by id.
    pub cvms: Vec<(CvmId, Cvm)>,
    /// The cursor of the next page, if there may be more.
    pub next: Option<u64>,
}

/// Releases and refusals in a span of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Releases.
    pub releases: u64,
    /// Refusals.
    pub refusals: u64,
}

/// The CVMs and apps with a release in a span of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Active {
    /// CVMs.
    pub cvms: u64,
    /// Their apps.
    pub apps: u64,
}

/// What a question about CVMs adds up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recent {
    /// CVMs.
    pub cvms: u64,
    /// Their releases.
    pub releases: u64,
}

/// How far the inventory is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Every record up to this number is counted.
    pub through: u64,
    /// The time of the oldest record that was counted, in milliseconds since 1970.
    pub since: Option<u64>,
}

/// The inventory at one moment.
pub struct Inventory {
    transaction: ReadTransaction,
}

impl Inventory {
    pub(super) fn new(transaction: ReadTransaction) -> Self {
        Self { transaction }
    }

    /// How far it is.
    ///
    /// # Errors
    /// [`IndexError`], as of all functions here.
    pub fn coverage(&self) -> Result<Coverage, IndexError> {
        let state = self.transaction.open_table(STATE).map_err(unusable)?;
        let value = |name| -> Result<Option<u64>, IndexError> {
            Ok(state.get(name).map_err(unusable)?.map(|value| value.value()))
        };
        Ok(Coverage { through: value(THROUGH)?.unwrap_or(0), since: value(SINCE)? })
    }

    /// The number of CVMs.
    pub fn count(&self) -> Result<u64, IndexError> {
        self.transaction.open_table(CVMS.rows).map_err(unusable)?.len().map_err(unusable)
    }

    /// The CVM with this id.
    pub fn cvm(&self, id: CvmId) -> Result<Option<Cvm>, IndexError> {
        let rows = self.transaction.open_table(CVMS.rows).map_err(unusable)?;
        rows.get(id.0).map_err(unusable)?.map(|row| read(row.value())).transpose()
    }

    /// A page of CVMs.
    pub fn cvms(&self, ask: &CvmAsk) -> Result<CvmPage, IndexError> {
        let rows = self.transaction.open_table(CVMS.rows).map_err(unusable)?;
        let order = self.transaction.open_table(CVMS.order).map_err(unusable)?;
        let property = ask.narrowest();
        let mut page = CvmPage::default();
        let mut examined = 0;
        let range = (property, 0)..(property, ask.before.unwrap_or(u64::MAX));
        for place in order.range(range).map_err(unusable)?.rev() {
            let (place, value) = place.map_err(unusable)?;
            let (time, _, key) = value.value();
            if time < ask.since {
                continue;
            }
            if page.cvms.len() >= ask.limit || examined >= MAX_READ {
                return Ok(page);
            }
            examined += 1;
            page.next = Some(place.value().1);
            let Some(row) = rows.get(key).map_err(unusable)? else { return Err(IndexError::Damaged) };
            let cvm: Cvm = read(row.value())?;
            if ask.admits(&cvm) {
                page.cvms.push((CvmId(key), cvm));
            }
        }
        page.next = None;
        Ok(page)
    }

    /// How many CVMs a question is about, and how many releases they had since its time. The releases are those of the
    /// ten thousand CVMs with the newest ones at most.
    pub fn recent(&self, ask: &CvmAsk) -> Result<Recent, IndexError> {
        let rows = self.transaction.open_table(CVMS.rows).map_err(unusable)?;
        let order = self.transaction.open_table(CVMS.order).map_err(unusable)?;
        let property = ask.narrowest();
        let mut recent = Recent::default();
        for place in order.range((property, 0)..=(property, u64::MAX)).map_err(unusable)?.rev() {
            let (time, _, key) = place.map_err(unusable)?.1.value();
            if time < ask.since {
                continue;
            }
            recent.cvms += 1;
            if recent.cvms <= MAX_READ as u64 {
                let Some(row) = rows.get(key).map_err(unusable)? else { return Err(IndexError::Damaged) };
                recent.releases += read::<Cvm>(row.value())?.released_since(ask.since);
            }
        }
        Ok(recent)
    }

    /// The number of CVMs by TCB status, each with the one that has the newest release.
    pub fn by_tcb_status(&self) -> Result<Vec<(Cvm, u64)>, IndexError> {
        let rows = self.transaction.open_table(CVMS.rows).map_err(unusable)?;
        let order = self.transaction.open_table(CVMS.order).map_err(unusable)?;
        let mut known = Vec::new();
        for status in TOLERABLE.iter().chain([&TcbStatus::UpToDate, &TcbStatus::Revoked]) {
            let property = property("tcb", &status.to_string());
            let places = order.range((property, 0)..=(property, u64::MAX)).map_err(unusable)?;
            let (mut cvms, mut newest) = (0, None);
            for place in places {
                cvms += 1;
                newest = Some(place.map_err(unusable)?.1.value().2);
            }
            if let Some(newest) = newest
                && let Some(row) = rows.get(newest).map_err(unusable)?
            {
                known.push((read::<Cvm>(row.value())?, cvms));
            }
        }
        known.sort_by_key(|(_, cvms)| std::cmp::Reverse(*cvms));
        Ok(known)
    }

    /// The CVMs and apps with a release since `since`, in milliseconds since 1970.
    pub fn active(&self, since: u64) -> Result<Active, IndexError> {
        let order = self.transaction.open_table(CVMS.order).map_err(unusable)?;
        let (mut cvms, mut apps) = (0, std::collections::HashSet::new());
        for place in order.range((ALL, 0)..=(ALL, u64::MAX)).map_err(unusable)? {
            let (time, app, _) = place.map_err(unusable)?.1.value();
            if time >= since {
                cvms += 1;
                apps.insert(app);
            }
        }
        Ok(Active { cvms, apps: apps.len() as u64 })
    }

    /// Releases and refusals between two times, in milliseconds since 1970, in steps of `step` seconds. The number
    /// of steps is the caller's to bound.
    pub fn history(&self, from: u64, step: u64, steps: usize) -> Result<Vec<Counts>, IndexError> {
        let (table, size) = match step.is_multiple_of(3600) && from.is_multiple_of(HOUR) {
            true => (HOURS, HOUR),
            false => (MINUTES, MINUTE),
        };
        let table = self.transaction.open_table(table).map_err(unusable)?;
        let step = (step * 1000).max(size);
        let to = from + step * steps as u64;
        let mut counts = vec![Counts::default(); steps];
        for bucket in table.range(from / size..to.div_ceil(size)).map_err(unusable)? {
            let (bucket, value) = bucket.map_err(unusable)?;
            let at = (bucket.value() * size).saturating_sub(from) / step;
            if let Some(counts) = usize::try_from(at).ok().and_then(|at| counts.get_mut(at)) {
                let (releases, refusals) = value.value();
                counts.releases += releases;
                counts.refusals += refusals;
            }
        }
        Ok(counts)
    }

    /// All refusals that are kept, by verified callers and by others.
    pub fn refusals(&self) -> Result<Vec<Refusal>, IndexError> {
        let mut refusals = self.all(DENIED)?;
        refusals.extend(self.all(REFUSED)?);
        Ok(refusals)
    }

    /// All replicas.
    pub fn handovers(&self) -> Result<Vec<Handover>, IndexError> {
        self.all(HANDOVERS)
    }

    fn all<E: Entry>(&self, list: List) -> Result<Vec<E>, IndexError> {
        let rows = self.transaction.open_table(list.rows).map_err(unusable)?;
        rows.range::<u128>(..).map_err(unusable)?.map(|row| read(row.map_err(unusable)?.1.value())).collect()
    }
}

impl std::fmt::Debug for Inventory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inventory").finish_non_exhaustive()
    }
}

impl CvmAsk {
    /// The property of the filter that leaves the fewest.
    fn narrowest(&self) -> u64 {
        let filters = [
            ("instance", &self.instance_id),
            ("device", &self.device_id),
            ("app", &self.app_id),
            ("image", &self.os_image_hash),
            ("tcb", &self.tcb_status),
        ];
        filters.iter().find_map(|(name, value)| Some(property(name, value.as_ref()?))).unwrap_or(ALL)
    }

    fn admits(&self, cvm: &Cvm) -> bool {
        let is =
            |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        is(&self.app_id, &cvm.subject.app_id)
            && is(&self.instance_id, &cvm.subject.instance_id)
            && is(&self.device_id, &cvm.subject.device_id)
            && is(&self.os_image_hash, &cvm.subject.os_image_hash)
            && is(&self.tcb_status, &cvm.subject.tcb_status)
    }
}

#[cfg(test)]
#[path = "derived_tests.rs"]
mod tests;
