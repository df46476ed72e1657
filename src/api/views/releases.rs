//! Releases: what was released to whom, from the records of the audit log.

use kms_wire::method::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::query::{Cursor, Digits, Domain, Limit, Moment, Word};
use super::{Views, not_found, some};
use crate::audit::{Proven, Record};
use crate::error::{Error, Result};
use crate::events::{Ask, Filter, Index, IndexError, Order, RELEASES};
use crate::operator::DomainScope;

/// Parameters of `GET /api/v1/releases`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseQuery {
    /// Only releases to this app.
    app: Option<Digits>,
    /// Only releases by this method: `GetAppKey`, `SignCert` or `GetKmsKey`.
    method: Option<Word>,
    /// Only releases of this domain.
    domain: Option<Domain>,
    since: Option<Moment>,
    until: Option<Moment>,
    limit: Option<Limit>,
    cursor: Option<Cursor>,
}

/// A page of releases, the newest first.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ReleaseList {
    releases: Vec<Release>,
    /// `cursor` of the next page, if there may be more.
    next: Option<u64>,
}

/// One release. Hashes and ids are hexadecimal.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Release {
    /// The number of its record in the audit log.
    seq: u64,
    at: String,
    /// `GetAppKey`, `SignCert` or `GetKmsKey`.
    method: &'static str,
    app_id: Option<String>,
    /// The domain of the app; null where the root keys were released.
    domain: Option<String>,
    instance_id: Option<String>,
    device_id: Option<String>,
    compose_hash: Option<String>,
    os_image_hash: Option<String>,
    mr_aggregated: Option<String>,
    tcb_status: Option<String>,
    tcb_advisories: Vec<String>,
    /// The digest of the rules that allowed it.
    policy_sha256: Option<String>,
    /// SHA-256 of the public key that the caller has shown.
    spki_sha256: Option<String>,
    /// Rules that had to be relaxed for it.
    relaxations: Vec<String>,
    /// The address that the request came from.
    address: Option<String>,
    /// The names in the certificate, if one was issued.
    names: Vec<String>,
    /// The start of the KMS that it belongs to; null if that is not in the index any more.
    boot_id: Option<String>,
    /// Its place in the tree of the ledger.
    leaf_index: Option<u64>,
}

/// One release with the proof that it is in the ledger.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ReleaseDetail {
    #[serde(flatten)]
    release: Release,
    /// The line of the audit log.
    record: String,
    /// The proof as a file (`c2sp.org/tlog-proof@v1`), with the entry as extra data; null while the record is not in a
    /// signed tree, or if its file was moved away.
    receipt: Option<String>,
    leaf: Option<LeafShown>,
    /// The signed checkpoint of the receipt.
    checkpoint: Option<String>,
    /// The root of its tree, hexadecimal.
    root: Option<String>,
}

/// A leaf of the ledger.
#[derive(Debug, Serialize, JsonSchema)]
pub struct LeafShown {
    index: u64,
    /// SHA-256(00 ‖ entry), hexadecimal.
    hash: String,
    /// The entry, as text: the record without the members of the chain.
    entry: String,
}

impl Views {
    /// A page of releases.
    ///
    /// # Errors
    /// An unknown method; no index.
    pub async fn releases(&self, scope: &DomainScope, query: ReleaseQuery) -> Result<ReleaseList> {
        let ReleaseQuery { app, method, domain, since, until, limit, cursor } = query;
        let kind = method.map(|Word(name)| kind(&name)).transpose()?;
        let filter = Filter {
            kind: kind.map(str::to_owned),
            app_id: app.map(|Digits(app)| app),
            domain: domain.map(|Domain(domain)| domain),
            kinds: &RELEASES,
            ..Filter::of(scope.clone())
        };
        let (since, until) = (since.map_or(0, |Moment(at)| at), until.map_or(u64::MAX, |Moment(at)| at));
        let (limit, beyond) = (Limit::of(limit), cursor.map(|Cursor(beyond)| beyond));
        self.sources
            .events
            .ask_index(move |index| {
                let order = Order::Newest;
                let page = index.page(&Ask { filter: &filter, since, until, beyond, order, limit })?;
                let boots = Boots::before(index, page.records.last())?;
                let releases = page.records.iter().rev().map(|record| Release::of(record, &boots));
                Ok(ReleaseList { releases: releases.collect(), next: page.next })
            })
            .await
    }

    /// One release, with its proof.
    ///
    /// # Errors
    /// No release has this number; no index.
    pub async fn release(&self, scope: &DomainScope, seq: &str) -> Result<ReleaseDetail> {
        let seq: u64 = seq.parse().map_err(|_| Error::invalid("a release has a number"))?;
        let audit = std::sync::Arc::clone(&self.foundation().audit);
        let scope = scope.clone();
        let found = self
            .sources
            .events
            .ask_index(move |index| {
                let Some((record, line)) = index.record(seq)? else { return Ok(None) };
                if !RELEASES.contains(&&*record.kind) || !scope.reads(record.domain().as_ref()) {
                    return Ok(None);
                }
                let boots = Boots::before(index, Some(&record))?;
                let proven = audit.prove(seq, &line).unwrap_or_else(|error| {
                    tracing::warn!(seq, %error, "there is no proof of a record");
                    None
                });
                Ok(Some((Release::of(&record, &boots), line, proven)))
            })
            .await?;
        let (release, line, proven) = found.ok_or_else(|| not_found(&format!("release {seq}")))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let leaf = proven.as_ref().map(|Proven { entry, index, hash, .. }| LeafShown {
            index: *index,
            hash: hex::encode(hash),
            entry: text(entry),
        });
        Ok(ReleaseDetail {
            release: Release { leaf_index: leaf.as_ref().map(|leaf| leaf.index), ..release },
            record: text(&line),
            leaf,
            root: proven.as_ref().map(|proven| hex::encode(proven.root)),
            checkpoint: proven.as_ref().map(|proven| proven.checkpoint.to_string()),
            receipt: proven.map(|proven| proven.file),
        })
    }
}

/// The type of the records of a method.
fn kind(method: &str) -> Result<&'static str> {
    let known = RELEASES.into_iter().find(|kind| method_of(kind) == method);
    known.ok_or_else(|| Error::invalid("method must be GetAppKey, SignCert or GetKmsKey"))
}

/// The method by which a record of this type was released.
fn method_of(kind: &str) -> &'static str {
    match kind {
        "app_key_released" => Method::GetAppKey.row().name,
        "certificate_issued" => Method::SignCert.row().name,
        _ => Method::KmsGetKmsKey.row().name,
    }
}

/// The starts of the process in the index, by the numbers of their records, the newest first.
struct Boots(Vec<(u64, String)>);

impl Boots {
    /// The most starts that are looked up for a page.
    const MAX: usize = 50;

    fn before(index: &Index, newest: Option<&Record>) -> std::result::Result<Self, IndexError> {
        let Some(newest) = newest else { return Ok(Self(Vec::new())) };
        let filter = Filter { kind: Some("started".to_owned()), ..Filter::of(DomainScope::WHOLE_KMS) };
        let (since, until, order, limit) = (0, u64::MAX, Order::Newest, Self::MAX);
        let beyond = Some(newest.seq);
        let page = index.page(&Ask { filter: &filter, since, until, beyond, order, limit })?;
        let boot = |record: &Record| Some((record.seq, field(record, "boot_id")?));
        Ok(Self(page.records.iter().rev().filter_map(boot).collect()))
    }

    fn of(&self, seq: u64) -> Option<String> {
        self.0.iter().find(|(start, _)| *start < seq).map(|(_, boot)| boot.clone())
    }
}

fn field(record: &Record, name: &str) -> Option<String> {
    record.fields.get(name).and_then(Value::as_str).and_then(some)
}

impl Release {
    fn of(record: &Record, boots: &Boots) -> Self {
        let text = |name| field(record, name);
        let list = |name: &str| -> Vec<String> {
            let items = record.fields.get(name).and_then(Value::as_array).into_iter().flatten();
            items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
        };
        Self {
            seq: record.seq,
            at: record.time.clone(),
            method: method_of(&record.kind),
            app_id: text("app_id"),
            domain: record.domain().map(|domain| domain.to_string()),
            instance_id: text("instance_id"),
            device_id: text("device_id"),
            compose_hash: text("compose_hash"),
            os_image_hash: text("os_image_hash"),
            mr_aggregated: text("mr_aggregated"),
            tcb_status: text("tcb_status"),
            tcb_advisories: list("advisory_ids"),
            policy_sha256: text("policy_sha256"),
            spki_sha256: text("spki_sha256"),
            relaxations: list("relaxations"),
            address: text("remote"),
            names: list("names"),
            boot_id: boots.of(record.seq),
            leaf_index: record.seq.checked_sub(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::api::METHODS;

    #[test]
    fn each_method_that_takes_evidence_has_its_type_of_records() {
        let methods: BTreeSet<_> = RELEASES.into_iter().map(method_of).collect();
        let releasing = METHODS.iter().filter(|row| row.access.takes_evidence()).map(|row| row.name);
        assert_eq!(methods, releasing.collect());
        for method in methods {
            assert_eq!(kind(method).map(method_of).expect("a type of records"), method);
        }
    }
}
