//! The requests that were refused recently: a bounded list in memory, with the evidence, so that an operator
//! can find out why.
//!
//! Requests whose evidence does not verify have a list of their own, so that a flood of them does not
//! displace the others. An app on one machine has a bounded share of the other list, however it varies its
//! requests. A request that is refused again for the same reason is counted, and keeps its id.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use kms_attest::identity::{DomainName, Identity};
use kms_policy::Role;
use sha2::{Digest as _, Sha256};

use crate::clock::unix_now;
use crate::operator::DomainScope;

/// The most refusals of verified callers, and the most of others.
const MAX_ENTRIES: usize = 500;
/// The most refusals of one app on one machine, both verified.
const MAX_OF_ONE: usize = 32;
/// The most bytes of evidence in each of the two lists.
const MAX_BYTES: usize = 16 << 20;
/// Larger evidence is not kept.
const MAX_EVIDENCE: usize = 256 << 10;

/// The longest text that is kept, in bytes.
const MAX_TEXT: usize = 1024;

/// The id with which a caller can quote its refusal: twelve hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DenialId([u8; 6]);

impl DenialId {
    fn random() -> Self {
        let mut bytes = [0; 6];
        // Not secret: a repeated id would only show another denial.
        let _ = aws_lc_rs::rand::fill(&mut bytes);
        Self(bytes)
    }

    /// Parses an id in upper or lower case.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        hex::decode_to_slice(text.trim(), &mut bytes).ok().map(|()| Self(bytes))
    }
}

impl fmt::Display for DenialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for DenialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DenialId({self})")
    }
}

/// What a caller presented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// No certificate.
    Nothing,
    /// A client certificate, DER.
    Certificate(Vec<u8>),
    /// Evidence in a certificate request.
    Evidence {
        /// The evidence, encoded.
        evidence: Vec<u8>,
        /// The key that it must be bound to, SubjectPublicKeyInfo DER.
        spki: Vec<u8>,
    },
}

impl Shown {
    fn size(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Certificate(certificate) => certificate.len(),
            Self::Evidence { evidence, spki } => evidence.len() + spki.len(),
        }
    }
}

/// What has become of the fresh evidence of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreshEvidence {
    /// It brought none.
    Absent,
    /// The request was refused before it was looked at.
    NotJudged,
    /// It was refused.
    Refused,
    /// It was verified.
    Verified,
}

impl FreshEvidence {
    /// The name; empty without any.
    pub fn name(self) -> &'static str {
        match self {
            Self::Absent => "",
            Self::NotJudged => "not_judged",
            Self::Refused => "refused",
            Self::Verified => "verified",
        }
    }
}

/// What a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concerns {
    /// The caller.
    Caller,
    /// This KMS, or something it depends on: every caller is refused, which counts as one refusal.
    Everyone,
}

/// One refused request.
#[derive(Debug)]
pub struct RefusedRequest<'a> {
    /// The method that was called.
    pub method: &'static str,
    /// The address of the caller.
    pub remote: IpAddr,
    /// The role that the caller claimed; `None` where every caller gets the same.
    pub role: Option<Role>,
    /// Whether the cause is this caller.
    pub concerns: Concerns,
    /// The name of the step where admission stopped.
    pub step: &'static str,
    /// The name of the code.
    pub code: &'static str,
    /// What would have been right.
    pub expected: Option<&'a str>,
    /// What was found.
    pub actual: Option<&'a str>,
    /// The caller's identity, if it was verified.
    pub identity: Option<&'a Identity>,
    /// The text for the caller.
    pub reason: &'a str,
    /// What would allow it.
    pub remedy: Option<String>,
    /// What the caller presented.
    pub shown: Shown,
    /// The VM configuration of the request.
    pub vm_config: &'a str,
    /// The root epoch and the app epoch that the request names.
    pub epochs: (Option<u32>, Option<u32>),
    /// What has become of its fresh evidence.
    pub fresh: FreshEvidence,
    /// That evidence, encoded.
    pub fresh_evidence: Option<Vec<u8>>,
    /// The domain that the request names.
    pub domain: Option<DomainName>,
    /// The domain that the caller is in; `None` if its evidence did not verify.
    pub place: Option<DomainName>,
}

impl RefusedRequest<'_> {
    fn size(&self) -> usize {
        self.shown.size() + self.fresh_evidence.as_ref().map_or(0, Vec::len) + self.vm_config.len()
    }
}

/// A refusal in the list.
#[derive(Debug, Clone)]
pub struct RefusalRecord {
    /// The id that the caller was told.
    pub id: DenialId,
    /// Increases with each refusal, including repeated ones.
    pub sequence: u64,
    /// Time of the first refusal, Unix seconds.
    pub first: u64,
    /// Time of the last refusal, Unix seconds.
    pub last: u64,
    /// How often it was refused.
    pub count: u64,
    /// The method that was called.
    pub method: &'static str,
    /// The address of the last request.
    pub remote: IpAddr,
    /// The role that the caller claimed; `None` where every caller gets the same.
    pub role: Option<Role>,
    /// The name of the step where admission stopped.
    pub step: &'static str,
    /// The name of the code.
    pub code: &'static str,
    /// The text for the caller.
    pub reason: String,
    /// What would have been right.
    pub expected: Option<String>,
    /// What was found.
    pub actual: Option<String>,
    /// What would allow it.
    pub remedy: Option<String>,
    /// The caller's identity, if it was verified.
    pub identity: Option<Identity>,
    /// What the caller presented in the last request whose evidence is not too large; `None` if it always was.
    pub shown: Option<Shown>,
    /// The VM configuration of that request.
    pub vm_config: String,
    /// The root epoch and the app epoch that the last request named.
    pub epochs: (Option<u32>, Option<u32>),
    /// What has become of the fresh evidence of that request.
    pub fresh: FreshEvidence,
    /// The fresh evidence of that request, encoded.
    pub fresh_evidence: Option<Vec<u8>>,
    /// The domain that the last request named.
    pub domain: Option<DomainName>,
    /// The domain that the caller is in; `None` if its evidence did not verify.
    pub place: Option<DomainName>,
}

impl RefusalRecord {
    /// Whether an operator with this scope may see it.
    pub fn is_in(&self, scope: &DomainScope) -> bool {
        scope.reads(self.place.as_ref())
    }

    fn size(&self) -> usize {
        let fresh = self.fresh_evidence.as_ref().map_or(0, Vec::len);
        self.shown.as_ref().map_or(0, Shown::size) + fresh + self.vm_config.len()
    }
}

/// Whether a similar refusal is in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Novelty {
    /// None is.
    New,
    /// One is, and counts this one.
    Repeated,
}

/// The lists of refused requests.
#[derive(Debug, Default)]
pub struct Denials(Mutex<Lists>);

#[derive(Debug, Default)]
struct Lists {
    sequence: u64,
    verified: List,
    others: List,
}

#[derive(Debug, Default)]
struct List {
    /// Oldest first. A repeated refusal keeps its place, so that no entry stays forever.
    entries: VecDeque<Entry>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    dedup_key: [u8; 32],
    record: Arc<RefusalRecord>,
}

impl Denials {
    /// Adds a refusal, or counts it with a similar one.
    pub fn record(&self, refused: RefusedRequest<'_>) -> (DenialId, Novelty) {
        let dedup_key = dedup_key(&refused);
        let now = unix_now();
        let mut lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lists.sequence += 1;
        let sequence = lists.sequence;
        let list = if refused.identity.is_some() { &mut lists.verified } else { &mut lists.others };
        let is_kept = refused.size() <= MAX_EVIDENCE;
        if let Some(known) = list.entries.iter_mut().rev().find(|entry| entry.dedup_key == dedup_key) {
            let record = Arc::make_mut(&mut known.record);
            (record.sequence, record.last, record.remote) = (sequence, now, refused.remote);
            (record.epochs, record.domain) = (refused.epochs, refused.domain);
            record.count += 1;
            let (id, before) = (record.id, record.size());
            // Together, because fresh evidence is compared with what else the same request has shown.
            if is_kept {
                record.vm_config.clear();
                record.vm_config.push_str(refused.vm_config);
                record.shown = Some(refused.shown);
                (record.fresh, record.fresh_evidence) = (refused.fresh, refused.fresh_evidence);
            }
            let after = record.size();
            list.bytes = list.bytes - before + after;
            list.shrink();
            return (id, Novelty::Repeated);
        }
        let id = DenialId::random();
        let record = RefusalRecord {
            id,
            sequence,
            first: now,
            last: now,
            count: 1,
            method: refused.method,
            remote: refused.remote,
            role: refused.role,
            step: refused.step,
            code: refused.code,
            reason: bounded(refused.reason),
            expected: refused.expected.map(bounded),
            actual: refused.actual.map(bounded),
            remedy: refused.remedy,
            identity: refused.identity.cloned(),
            epochs: refused.epochs,
            fresh: refused.fresh,
            fresh_evidence: refused.fresh_evidence.filter(|_| is_kept),
            domain: refused.domain,
            place: refused.place,
            vm_config: if is_kept { refused.vm_config.to_owned() } else { String::new() },
            shown: is_kept.then_some(refused.shown),
        };
        list.push(Entry { dedup_key, record: Arc::new(record) });
        (id, Novelty::New)
    }

    /// The refusal with this id, if it is still in the list.
    pub fn find(&self, id: DenialId) -> Option<Arc<RefusalRecord>> {
        let lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lists.all().find(|record| record.id == id).map(Arc::clone)
    }

    /// Refusals before sequence number `before` that match, newest first, at most `limit`; and where the next
    /// page begins.
    pub fn page(
        &self,
        before: Option<u64>,
        limit: usize,
        matches: impl Fn(&RefusalRecord) -> bool,
    ) -> (Vec<Arc<RefusalRecord>>, Option<u64>) {
        let lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<Arc<RefusalRecord>> = lists
            .all()
            .filter(|record| before.is_none_or(|before| record.sequence < before) && matches(record))
            .map(Arc::clone)
            .collect();
        drop(lists);
        found.sort_by_key(|record| std::cmp::Reverse(record.sequence));
        let is_more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| is_more).map(|record| record.sequence);
        (found, next)
    }
}

impl Lists {
    fn all(&self) -> impl Iterator<Item = &Arc<RefusalRecord>> {
        self.verified.entries.iter().chain(&self.others.entries).map(|entry| &entry.record)
    }
}

impl List {
    fn push(&mut self, entry: Entry) {
        if let Some(identity) = &entry.record.identity {
            self.make_room_for(identity);
        }
        self.bytes += entry.record.size();
        self.entries.push_back(entry);
        self.shrink();
    }

    /// Removes the oldest refusals until the rest is within the limits.
    fn shrink(&mut self) {
        while self.entries.len() > MAX_ENTRIES || self.bytes > MAX_BYTES {
            self.remove(0);
        }
    }

    /// Removes the oldest refusals of an app on one machine until there is room for one more.
    fn make_room_for(&mut self, identity: &Identity) {
        let of_same = |entry: &Entry| {
            let other = entry.record.identity.as_ref();
            other.is_some_and(|it| it.app_id == identity.app_id && it.device_id == identity.device_id)
        };
        while self.entries.iter().filter(|entry| of_same(entry)).count() >= MAX_OF_ONE {
            let Some(oldest) = self.entries.iter().position(of_same) else { return };
            self.remove(oldest);
        }
    }

    fn remove(&mut self, index: usize) {
        if let Some(removed) = self.entries.remove(index) {
            self.bytes -= removed.record.size();
        }
    }
}

/// Refusals with the same key count as one: the same caller, request, address and fault. The evidence is not
/// part of the key, because a caller makes new evidence for each connection, nor is the VM configuration,
/// which the caller chooses.
fn dedup_key(refused: &RefusedRequest<'_>) -> [u8; 32] {
    let mut digest = Sha256::new();
    let mut add = |part: &[u8]| {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    };
    let role = refused.role.map_or("", Role::name);
    let place = refused.place.as_ref().map_or("", DomainName::as_str);
    for text in [refused.method, role, refused.code, refused.step, refused.reason, place] {
        add(text.as_bytes());
    }
    match refused.identity {
        Some(identity) => {
            add(identity.app_id.as_ref());
            add(identity.instance_bytes());
            add(identity.compose_hash.as_ref());
            add(identity.device_id.as_ref());
            add(identity.os_image_bytes());
            add(identity.mr_aggregated.as_ref());
        }
        None if refused.concerns == Concerns::Everyone => {}
        None => add(refused.remote.to_canonical().to_string().as_bytes()),
    }
    digest.finalize().into()
}

/// Shortens a text, because part of it can come from the caller or a backend.
fn bounded(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned()
}

#[cfg(test)]
mod tests;
