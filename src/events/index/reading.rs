//! The inventory and the counts over time as they are read: a page, a sum or an entry at a time.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::fmt;

use kms_attest::identity::DomainName;
use kms_attest::tcb::{TOLERABLE, TcbStatus};
use redb::{ReadTransaction, ReadableTableMetadata as _};

use super::IndexError;
use super::derived::{
    CVMS, CVMS_DROPPED, DENIED, DOMAIN_HOURS, DOMAIN_MINUTES, FIRST, HANDOVERS, HOUR, HOURS, List, MINUTE,
    MINUTES, REFUSED, SINCE, STATE, THROUGH, of_domain, read,
};
use super::error::unusable;
use crate::events::inventory::{ALL, Cvm, CvmId, Entry, Handover, MAX_CVMS, Refusal, any_domain, property};

/// The most entries that are read for one page. A page that ends early has a cursor to continue.
const MAX_READ: usize = 10_000;

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
    /// Only CVMs of this domain.
    pub domain: Option<DomainName>,
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
    /// The number of the record with which it began; 0 if none was counted, or by a version that did not note it.
    pub first: u64,
    /// Whether CVMs were dropped, because there were too many.
    pub has_dropped_cvms: bool,
}

impl Coverage {
    /// Whether it began with the first record of the log, as far as that is known, and has each CVM that it has counted.
    pub fn is_whole(&self) -> bool {
        self.first <= 1 && !self.has_dropped_cvms
    }
}

/// Who uses the keys of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochUse {
    /// Apps.
    pub apps: u64,
    /// CVMs.
    pub cvms: u64,
}

/// The inventory at one moment.
pub struct Inventory {
    pub(super) transaction: ReadTransaction,
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
        let (through, first) = (value(THROUGH)?.unwrap_or(0), value(FIRST)?.unwrap_or(0));
        // A version that did not note it may have dropped some of a full list.
        let has_dropped_cvms = value(CVMS_DROPPED)?.is_some() || self.count(None)? >= MAX_CVMS;
        Ok(Coverage { through, since: value(SINCE)?, first, has_dropped_cvms })
    }

    /// The number of CVMs, or of those of one domain.
    pub fn count(&self, domain: Option<&DomainName>) -> Result<u64, IndexError> {
        let all = self.transaction.open_table(CVMS.rows).map_err(unusable)?.len().map_err(unusable)?;
        let order = self.transaction.open_table(CVMS.order).map_err(unusable)?;
        let with = |property| -> Result<u64, IndexError> {
            Ok(order.range((property, 0)..=(property, u64::MAX)).map_err(unusable)?.count() as u64)
        };
        match domain.map(DomainName::said) {
            None => Ok(all),
            Some(None) => Ok(all.saturating_sub(with(any_domain())?)),
            Some(Some(name)) => with(property("domain", name)),
        }
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
        known.sort_by_key(|(_, cvms)| Reverse(*cvms));
        Ok(known)
    }

    /// The CVMs and apps with a release since `since`, in milliseconds since 1970, of one domain if it is given.
    pub fn active(&self, since: u64, domain: Option<&DomainName>) -> Result<Active, IndexError> {
        let order = self.transaction.open_table(CVMS.order).map_err(unusable)?;
        let (mut cvms, mut apps) = (0, HashSet::new());
        let mut elsewhere = HashSet::new();
        let wanted = match domain.map(DomainName::said) {
            None => ALL,
            Some(Some(name)) => property("domain", name),
            // Those of the default domain are the ones that are in no other.
            Some(None) => {
                for place in order.range((any_domain(), 0)..=(any_domain(), u64::MAX)).map_err(unusable)? {
                    elsewhere.insert(place.map_err(unusable)?.1.value().2);
                }
                ALL
            }
        };
        for place in order.range((wanted, 0)..=(wanted, u64::MAX)).map_err(unusable)? {
            let (time, app, cvm) = place.map_err(unusable)?.1.value();
            if time >= since && !elsewhere.contains(&cvm) {
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
        let mut counts = Steps::new(from, step, steps, size);
        for bucket in table.range(counts.first()..counts.end()).map_err(unusable)? {
            let (bucket, value) = bucket.map_err(unusable)?;
            counts.add(bucket.value(), value.value());
        }
        Ok(counts.counts)
    }

    /// As [`Inventory::history`], of one domain.
    pub fn history_of(
        &self,
        domain: &DomainName,
        from: u64,
        step: u64,
        steps: usize,
    ) -> Result<Vec<Counts>, IndexError> {
        let (table, size) = match step.is_multiple_of(3600) && from.is_multiple_of(HOUR) {
            true => (DOMAIN_HOURS, HOUR),
            false => (DOMAIN_MINUTES, MINUTE),
        };
        let table = self.transaction.open_table(table).map_err(unusable)?;
        let mut counts = Steps::new(from, step, steps, size);
        let domain = of_domain(domain);
        for bucket in table.range((domain, counts.first())..(domain, counts.end())).map_err(unusable)? {
            let (bucket, value) = bucket.map_err(unusable)?;
            counts.add(bucket.value().1, value.value());
        }
        Ok(counts.counts)
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

    /// The CVMs whose last keys or certificate, since a time in milliseconds, were of this epoch of the root keys.
    pub fn used_epoch(&self, root_epoch: u32, since: u64) -> Result<EpochUse, IndexError> {
        let rows = self.transaction.open_table(CVMS.rows).map_err(unusable)?;
        let (mut apps, mut cvms) = (HashSet::new(), 0);
        for row in rows.range::<u128>(..).map_err(unusable)? {
            let Cvm { subject, releases, .. } = read(row.map_err(unusable)?.1.value())?;
            if subject.root_epoch() == root_epoch && releases.last >= since {
                apps.insert(subject.app_id);
                cvms += 1;
            }
        }
        Ok(EpochUse { apps: apps.len() as u64, cvms })
    }

    fn all<E: Entry>(&self, list: List) -> Result<Vec<E>, IndexError> {
        let rows = self.transaction.open_table(list.rows).map_err(unusable)?;
        rows.range::<u128>(..).map_err(unusable)?.map(|row| read(row.map_err(unusable)?.1.value())).collect()
    }
}

/// Buckets of one size, added up in steps.
struct Steps {
    counts: Vec<Counts>,
    /// Milliseconds, as `step` and `size`.
    from: u64,
    step: u64,
    size: u64,
}

impl Steps {
    /// `step` is in seconds.
    fn new(from: u64, step: u64, steps: usize, size: u64) -> Self {
        Self { counts: vec![Counts::default(); steps], from, step: (step * 1000).max(size), size }
    }

    fn first(&self) -> u64 {
        self.from / self.size
    }

    fn end(&self) -> u64 {
        (self.from + self.step * self.counts.len() as u64).div_ceil(self.size)
    }

    fn add(&mut self, bucket: u64, (releases, refusals): (u64, u64)) {
        let at = (bucket * self.size).saturating_sub(self.from) / self.step;
        if let Some(counts) = usize::try_from(at).ok().and_then(|at| self.counts.get_mut(at)) {
            counts.releases += releases;
            counts.refusals += refusals;
        }
    }
}

impl fmt::Debug for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
        let domain = self.domain.as_ref().and_then(|domain| Some(property("domain", domain.said()?)));
        let found = filters.iter().find_map(|(name, value)| Some(property(name, value.as_ref()?)));
        found.or(domain).unwrap_or(ALL)
    }

    /// Whether it is about this CVM, without regard to time and place in the list.
    pub fn admits(&self, cvm: &Cvm) -> bool {
        let is =
            |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        is(&self.app_id, &cvm.subject.app_id)
            && is(&self.instance_id, &cvm.subject.instance_id)
            && is(&self.device_id, &cvm.subject.device_id)
            && is(&self.os_image_hash, &cvm.subject.os_image_hash)
            && is(&self.tcb_status, &cvm.subject.tcb_status)
            && self
                .domain
                .as_ref()
                .is_none_or(|domain| cvm.subject.domain == domain.said().unwrap_or_default())
    }
}
