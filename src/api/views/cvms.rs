//! The inventory of CVMs: who has received keys, when, with which measurements, from where and how often.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::query::{Cursor, Digits, Domain, Limit, Moment, OfFleet, Word};
use super::{Building, Views, at, not_found, some};
use crate::error::{Error, Result};
use crate::events::{Cvm, CvmAsk, CvmId, CvmPage};
use crate::operator::DomainScope;
use crate::state::shared::ListKind;

/// Parameters of `GET /api/v1/cvms`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CvmQuery {
    /// Only CVMs of this app.
    app: Option<Digits>,
    /// Only CVMs with this OS image.
    image: Option<Digits>,
    /// Only CVMs on this machine.
    device: Option<Digits>,
    /// Only CVMs with this TCB status, such as `UpToDate`.
    tcb: Option<Word>,
    /// Only CVMs of this domain.
    domain: Option<Domain>,
    /// Only CVMs with a release since then.
    since: Option<Moment>,
    limit: Option<Limit>,
    cursor: Option<Cursor>,
    /// Also those of the other nodes of the fleet, in one page: of each node the newest hundred at most.
    fleet: Option<OfFleet>,
}

/// A page of CVMs, the one with the newest release first. A page can be short, or empty, and have a next one.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CvmList {
    cvms: Vec<CvmShown>,
    /// `cursor` of the next page, if there may be more.
    next: Option<u64>,
    /// The number of CVMs in the inventory that the caller may see, whatever was asked for.
    total: u64,
    /// The time of the oldest record that was counted: an inventory that was built again lacks what was archived.
    covers_since: Option<String>,
    /// Null unless the inventory is being built.
    building: Option<Building>,
}

/// A CVM, on one node. Ids and hashes are hexadecimal; measurements are those of its last release.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CvmShown {
    /// Of app and instance, or of app and machine without an instance id; the same in each KMS.
    pub(super) id: String,
    pub(super) app_id: String,
    /// The domain of the app at its last release.
    domain: String,
    pub(super) instance_id: Option<String>,
    /// Its first release.
    first_at: String,
    /// Its last release.
    pub(super) last_at: String,
    releases: u64,
    /// The number of the record of its last release.
    last_seq: u64,
    /// Its refusals since its first release.
    denials: u64,
    last_denied_at: Option<String>,
    methods: Methods,
    compose_hash: Option<String>,
    pub(super) os_image_hash: Option<String>,
    mr_aggregated: Option<String>,
    device_id: Option<String>,
    tee: Option<String>,
    pub(super) tcb_status: Option<String>,
    advisories: Vec<String>,
    /// The epochs of its last keys or certificate, `ROOT.APP`.
    epochs: String,
    /// The address that its last request came from; other nodes do not tell it.
    address: Option<String>,
    /// The name of the node, where those of all nodes were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
}

/// How often it received what.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Methods {
    /// Keys of its app.
    #[serde(rename = "GetAppKey")]
    app_keys: u64,
    /// Certificates.
    #[serde(rename = "SignCert")]
    certificates: u64,
}

impl Views {
    /// A page of CVMs.
    ///
    /// # Errors
    /// No index.
    pub async fn cvms(&self, scope: &DomainScope, query: CvmQuery) -> Result<CvmList> {
        let CvmQuery { app, image, device, tcb, domain, since, limit, cursor, fleet } = query;
        let fleet = fleet.is_some_and(|OfFleet(fleet)| fleet);
        if fleet && cursor.is_some() {
            return Err(Error::invalid("fleet gives one page: leave cursor out"));
        }
        let domain = domain.map(|Domain(domain)| domain);
        let (own, is_elsewhere) = (scope.limit().cloned(), domain.as_ref().is_some_and(|it| !scope.has(it)));
        let ask = CvmAsk {
            app_id: app.map(|Digits(app)| app),
            os_image_hash: image.map(|Digits(image)| image),
            device_id: device.map(|Digits(device)| device),
            instance_id: None,
            tcb_status: tcb.map(|Word(tcb)| tcb),
            domain: domain.or_else(|| own.clone()),
            since: since.map_or(0, |Moment(since)| since),
            before: cursor.map(|Cursor(before)| before),
            limit: Limit::of(limit),
        };
        let newest = self.sources.events.acknowledged();
        let others = match fleet && !is_elsewhere {
            true => self.cvms_of_others(scope, &ask),
            false => Vec::new(),
        };
        let (own_name, limit) = (self.node_name().filter(|_| fleet), ask.limit);
        let mut list = self
            .inventory(move |inventory| {
                let page = if is_elsewhere { CvmPage::default() } else { inventory.cvms(&ask)? };
                Ok(CvmList {
                    cvms: page.cvms.into_iter().map(|(id, cvm)| CvmShown::of(id, cvm)).collect(),
                    next: page.next,
                    total: inventory.count(own.as_ref())?,
                    covers_since: inventory.coverage()?.since.map(at),
                    building: Building::of(inventory, newest)?,
                })
            })
            .await?;
        if fleet {
            list.cvms.iter_mut().for_each(|cvm| cvm.node.clone_from(&own_name));
            list.cvms.extend(others);
            list.cvms.sort_by(|one, other| other.last_at.cmp(&one.last_at));
            list.cvms.truncate(limit);
            list.next = None;
        }
        Ok(list)
    }

    /// The CVMs that other nodes have told of.
    fn cvms_of_others(&self, scope: &DomainScope, ask: &CvmAsk) -> Vec<CvmShown> {
        let told = self.told_by_others::<Cvm>(ListKind::Inventory).into_iter();
        let cvms = told.filter(|(_, cvm)| {
            scope.reads(cvm.subject.domain_name().as_ref())
                && cvm.releases.last >= ask.since
                && ask.admits(cvm)
        });
        cvms.map(|(node, cvm)| CvmShown { node: Some(node), ..CvmShown::of(cvm.id(), cvm) }).collect()
    }

    /// One CVM.
    ///
    /// # Errors
    /// It is not in the inventory; no index.
    pub async fn cvm(&self, scope: &DomainScope, id: &str) -> Result<CvmShown> {
        let id = CvmId::parse(id).ok_or_else(|| Error::invalid("the id of a CVM has 32 hex digits"))?;
        let found = self.inventory(move |inventory| inventory.cvm(id)).await?;
        let found = found.filter(|cvm| scope.reads(cvm.subject.domain_name().as_ref()));
        found.map(|cvm| CvmShown::of(id, cvm)).ok_or_else(|| not_found(&format!("CVM {id}")))
    }
}

impl CvmShown {
    pub(super) fn of(id: CvmId, cvm: Cvm) -> Self {
        let Cvm { subject, releases, app_keys, certificates, denials, denied_at, .. } = cvm;
        Self {
            id: id.to_string(),
            instance_id: some(&subject.instance_id),
            domain: subject.domain_name().map_or_else(String::new, |domain| domain.to_string()),
            first_at: at(releases.first),
            last_at: at(releases.last),
            releases: releases.count,
            last_seq: releases.seq,
            denials,
            last_denied_at: denied_at.map(at),
            methods: Methods { app_keys, certificates },
            compose_hash: some(&subject.compose_hash),
            os_image_hash: some(&subject.os_image_hash),
            mr_aggregated: some(&subject.mr_aggregated),
            device_id: some(&subject.device_id),
            tee: some(&subject.tee_variant),
            tcb_status: some(&subject.tcb_status),
            advisories: subject.advisory_ids,
            epochs: some(&subject.epochs).unwrap_or_else(|| "0.0".to_owned()),
            address: some(&subject.remote),
            app_id: subject.app_id,
            node: None,
        }
    }
}
