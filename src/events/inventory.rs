//! The inventory: which CVMs have received keys, which callers were refused, and which replicas have the root
//! keys. It is derived from the records of the log, and kept in the index.
//!
//! Only a release adds a CVM, so callers that are refused cannot displace any. All lists are bounded: the
//! entries whose last record is the oldest are dropped first.

use std::fmt;

use kms_attest::identity::DomainName;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::query::milliseconds;
use crate::audit::{ROLE_OF_KMS, RecordKey};

/// The most CVMs in the inventory.
pub(super) const MAX_CVMS: u64 = 100_000;
/// The most refusals of verified callers.
pub(super) const MAX_DENIED: u64 = 1000;
/// The most refusals of other callers.
pub(super) const MAX_REFUSED: u64 = 200;
/// The most replicas.
pub(super) const MAX_HANDOVERS: u64 = 1000;

/// The most hours in which the releases of one CVM are counted.
const MAX_HOURS_OF_ONE: usize = 25;
/// The most times of one replica that may still be withheld.
const MAX_RECENT: usize = 16;
/// Milliseconds.
const HOUR: u64 = 3_600_000;

/// The types of the records of releases.
pub const RELEASES: [&str; 3] = [APP_KEYS, CERTIFICATE, ROOT_KEYS];
const APP_KEYS: &str = "app_key_released";
const CERTIFICATE: &str = "certificate_issued";
const ROOT_KEYS: &str = "kms_key_released";

/// The id of a CVM: of its app and instance, or of its app and machine if it has no instance id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CvmId(pub(super) u128);

impl CvmId {
    /// The CVM that a record is about: SHA-256(name ‖ 00 ‖ app_id ‖ 00 ‖ id), 16 bytes of it, over hexadecimal text.
    pub(super) fn of(subject: &Subject) -> Self {
        match &*subject.instance_id {
            "" => Self(digest(&["machine", &subject.app_id, &subject.device_id])),
            instance => Self(digest(&["instance", &subject.app_id, instance])),
        }
    }

    /// Parses the form of [`fmt::Display`].
    pub fn parse(text: &str) -> Option<Self> {
        let is_id = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_id.then(|| u128::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

impl fmt::Display for CvmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The subject of a record, in hexadecimal; texts are empty where the record has none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are those of the log")]
pub struct Subject {
    pub app_id: String,
    pub instance_id: String,
    pub compose_hash: String,
    pub device_id: String,
    pub os_image_hash: String,
    pub mr_aggregated: String,
    pub tee_variant: String,
    pub tcb_status: String,
    pub advisory_ids: Vec<String>,
    /// The address that the last request came from.
    pub remote: String,
    /// The epochs of the keys of the last release, `ROOT.APP`; empty for 0 and 0.
    pub epochs: String,
    /// The domain of the app; empty for the default one.
    pub domain: String,
    /// `kms` of a KMS that was refused; empty for others.
    pub role: String,
}

impl Subject {
    /// Whether it is a KMS that asked for root keys.
    pub fn is_kms(&self) -> bool {
        self.role == ROLE_OF_KMS
    }

    /// The domain of the app; `None` for a KMS, and for a text that is not the name of one.
    pub fn domain_name(&self) -> Option<DomainName> {
        if self.is_kms() {
            return None;
        }
        if self.domain.is_empty() { Some(DomainName::DEFAULT) } else { self.domain.parse().ok() }
    }

    /// The root epoch of the keys of the last release.
    pub fn root_epoch(&self) -> u32 {
        self.epochs.split_once('.').and_then(|(root, _)| root.parse().ok()).unwrap_or(0)
    }
}

/// When something happened, and how often. Times are in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The earliest time.
    pub first: u64,
    /// The time of the last record.
    pub last: u64,
    /// The number of the last record.
    pub seq: u64,
    /// How often.
    pub count: u64,
}

impl Span {
    /// Counts a record of this number and time.
    pub(super) fn extend(&mut self, seq: u64, time: u64) {
        // The newest record counts, not the latest time: a clock can have been ahead.
        self.first = self.first.min(time);
        self.last = time;
        self.seq = self.seq.max(seq);
        self.count += 1;
    }

    /// The span before its first record.
    pub(super) fn before(seq: u64, time: u64) -> Self {
        Self { first: time, last: time, seq, count: 0 }
    }
}

/// A CVM that has received keys or a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cvm {
    /// As of its last release.
    pub subject: Subject,
    /// Its releases.
    pub releases: Span,
    /// How often it received the keys of its app.
    pub app_keys: u64,
    /// How often it received a certificate.
    pub certificates: u64,
    /// Its releases by hour since 1970, of the last 24 hours with a release.
    #[serde(default)]
    pub hours: Vec<(u64, u64)>,
    /// Its refusals after its first release.
    pub denials: u64,
    /// The time of the last of them.
    pub denied_at: Option<u64>,
}

/// A refusal that is in the log; repeated ones are counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the log")]
pub struct Refusal {
    /// The id that the caller was told.
    pub denial_id: String,
    /// The caller; `None` if it was not verified.
    pub subject: Option<Subject>,
    pub times: Span,
    pub remote: String,
    pub code: String,
    pub reason: String,
    pub step: String,
    pub expected: Option<String>,
    pub actual: Option<String>,
    pub remedy: Option<String>,
}

impl Refusal {
    /// The domain of the caller; `None` if it was not verified.
    pub fn domain(&self) -> Option<DomainName> {
        self.subject.as_ref()?.domain_name()
    }
}

/// A KMS that has received the root keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// As of the last time.
    pub subject: Subject,
    /// When it received them.
    pub times: Span,
    /// The highest epoch that it received the last time.
    #[serde(default)]
    pub up_to_epoch: u32,
    /// The last times, by the numbers of their records, with the highest epoch of each: one of them may be withheld.
    #[serde(default)]
    pub recent: Vec<(u64, u32)>,
}

impl Cvm {
    /// Without a release yet.
    pub(super) fn new(releases: Span) -> Self {
        let subject = Subject::default();
        Self {
            subject,
            releases,
            app_keys: 0,
            certificates: 0,
            hours: Vec::new(),
            denials: 0,
            denied_at: None,
        }
    }
}

impl Cvm {
    /// Counts a release.
    pub(super) fn released(&mut self, seq: u64, time: u64) {
        self.releases.extend(seq, time);
        let hour = time / HOUR;
        match self.hours.iter_mut().find(|(known, _)| *known == hour) {
            Some((_, count)) => *count += 1,
            None => self.hours.push((hour, 1)),
        }
        if self.hours.len() > MAX_HOURS_OF_ONE {
            self.hours.sort_unstable();
            self.hours.remove(0);
        }
    }

    /// Its releases since a time in milliseconds, by whole hours.
    pub(super) fn released_since(&self, since: u64) -> u64 {
        self.hours.iter().filter(|(hour, _)| *hour >= since / HOUR).map(|(_, count)| count).sum()
    }
}

impl Handover {
    /// A replica before its first handover.
    pub(super) fn new(times: Span) -> Self {
        Self { subject: Subject::default(), times, up_to_epoch: 0, recent: Vec::new() }
    }

    /// Counts a time.
    pub(super) fn delivered(&mut self, seq: u64, time: u64, up_to_epoch: u32) {
        if self.recent.is_empty() && self.times.count > 0 {
            self.recent.push((self.times.seq, self.up_to_epoch));
        }
        self.recent.push((seq, up_to_epoch));
        if self.recent.len() > MAX_RECENT {
            self.recent.remove(0);
        }
        self.up_to_epoch = up_to_epoch;
        self.times.extend(seq, time);
    }

    /// Takes back the time with this record, which did not happen: it has what it had before. `false` if there is none.
    pub(super) fn withheld(&mut self, released: u64) -> bool {
        let count = self.recent.len();
        self.recent.retain(|(seq, _)| *seq != released);
        let is_known = self.recent.len() < count || count == 0 && self.times.seq == released;
        if is_known {
            self.up_to_epoch = self.recent.last().map_or(0, |(_, epoch)| *epoch);
            self.times.count = self.times.count.saturating_sub(1);
        }
        is_known
    }

    /// Its id: of its measurement and machine.
    pub fn id(&self) -> String {
        format!("{:032x}", handover_key(&self.subject))
    }
}

/// The key of a replica: its measurement and machine.
pub(super) fn handover_key(subject: &Subject) -> u128 {
    digest(&["replica", &subject.mr_aggregated, &subject.device_id])
}

/// The key of a refusal.
pub(super) fn refusal_key(denial_id: &str) -> u128 {
    digest(&["refusal", denial_id])
}

/// An entry of a list of the inventory.
pub(super) trait Entry: Serialize + for<'a> Deserialize<'a> {
    /// Its last record, by number and time.
    fn last(&self) -> (u64, u64);
    /// The properties by which it is found, besides its key.
    fn properties(&self) -> Vec<u64>;
    /// The app, as [`property`] of its id.
    fn app(&self) -> u64;
}

/// The property that all entries of a list have.
pub(super) const ALL: u64 = 0;

impl Entry for Cvm {
    fn last(&self) -> (u64, u64) {
        (self.releases.seq, self.releases.last)
    }

    fn properties(&self) -> Vec<u64> {
        let Subject { app_id, instance_id, device_id, os_image_hash, tcb_status, domain, .. } = &self.subject;
        let [instance, device] = [property("instance", instance_id), property("device", device_id)];
        let [image, tcb] = [property("image", os_image_hash), property("tcb", tcb_status)];
        let properties = [ALL, property("app", app_id), instance, device, image, tcb];
        // Of the default domain nothing is said, as in the inventory of an older version.
        let domains = [property("domain", domain), any_domain()].into_iter().filter(|_| !domain.is_empty());
        properties.into_iter().chain(domains).collect()
    }

    fn app(&self) -> u64 {
        property("app", &self.subject.app_id)
    }
}

impl Entry for Refusal {
    fn last(&self) -> (u64, u64) {
        (self.times.seq, self.times.last)
    }

    fn properties(&self) -> Vec<u64> {
        vec![ALL]
    }

    fn app(&self) -> u64 {
        self.subject.as_ref().map_or(ALL, |subject| property("app", &subject.app_id))
    }
}

impl Entry for Handover {
    fn last(&self) -> (u64, u64) {
        (self.times.seq, self.times.last)
    }

    fn properties(&self) -> Vec<u64> {
        vec![ALL]
    }

    fn app(&self) -> u64 {
        ALL
    }
}

/// The property that all CVMs of other domains than the default one have.
pub(super) fn any_domain() -> u64 {
    property("domain", "")
}

/// A property and its value as a number; never [`ALL`].
pub(super) fn property(name: &str, value: &str) -> u64 {
    (digest(&[name, value]) as u64).max(ALL + 1)
}

fn digest(parts: &[&str]) -> u128 {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part);
        digest.update([0]);
    }
    let digest: [u8; 32] = digest.finalize().into();
    u128::from_be_bytes(*digest.first_chunk().expect("32 bytes have 16"))
}

/// A line of the log that counts for the inventory.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) seq: u64,
    /// Milliseconds since 1970.
    pub(super) time: u64,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    /// Keys of an app or a certificate.
    Release(Box<Subject>, Delivered),
    /// The root keys, up to this epoch.
    Handover(Box<Subject>, u32),
    /// The release of this number did not happen after all.
    Withheld(Box<Subject>, u64),
    Refusal(Box<Refusal>),
    /// So many refusals were not recorded.
    Suppressed(u64),
}

/// What an app received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivered {
    Keys,
    Certificate,
}

#[derive(Deserialize)]
struct Refused {
    /// Empty in records of early versions.
    #[serde(default)]
    denial_id: String,
    #[serde(default)]
    remote: String,
    #[serde(default)]
    code: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    step: String,
    expected: Option<String>,
    actual: Option<String>,
    remedy: Option<String>,
}

#[derive(Deserialize)]
struct Withheld {
    released: u64,
}

#[derive(Deserialize)]
struct HandedOver {
    /// Absent where there was epoch 0 only.
    #[serde(default)]
    up_to_epoch: u32,
}

#[derive(Deserialize)]
struct Suppressed {
    events: u64,
    source: Option<String>,
}

impl Line {
    /// `None` for a line that is of no interest, or cannot be read. `key` is what was read of it already.
    pub(super) fn read(key: &RecordKey<'_>, line: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(line).ok()?;
        let subject = || serde_json::from_str(text).ok().map(Box::new);
        let content = match &*key.kind {
            APP_KEYS => Content::Release(subject()?, Delivered::Keys),
            CERTIFICATE => Content::Release(subject()?, Delivered::Certificate),
            ROOT_KEYS => {
                let HandedOver { up_to_epoch } = serde_json::from_str(text).ok()?;
                Content::Handover(subject()?, up_to_epoch)
            }
            "withheld" => {
                let Withheld { released } = serde_json::from_str(text).ok()?;
                Content::Withheld(subject()?, released)
            }
            "denied" => Content::Refusal(refusal(text, Some(*subject()?))?),
            "refused" => Content::Refusal(refusal(text, None)?),
            "suppressed" => {
                let Suppressed { events, source } = serde_json::from_str(text).ok()?;
                if source.is_some() {
                    return None;
                }
                Content::Suppressed(events)
            }
            _ => return None,
        };
        Some(Self { seq: key.seq, time: milliseconds(&key.time).unwrap_or(0), content })
    }
}

fn refusal(text: &str, subject: Option<Subject>) -> Option<Box<Refusal>> {
    let Refused { denial_id, remote, code, reason, step, expected, actual, remedy } =
        serde_json::from_str(text).ok()?;
    let times = Span::before(0, 0);
    Some(Box::new(Refusal {
        denial_id,
        subject,
        times,
        remote,
        code,
        reason,
        step,
        expected,
        actual,
        remedy,
    }))
}
