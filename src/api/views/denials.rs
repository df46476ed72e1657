//! Denials: the requests that were refused. Those since the start are in memory with their evidence, and can be
//! explained; earlier ones come from the audit log.

use std::collections::HashSet;

use kms_policy::Role;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::query::{Cursor, Digits, Domain, Limit, Moment, OfFleet, Word};
use super::{Views, at, not_found, some};
use crate::control::{DenialId, RefusalRecord};
use crate::error::{Error, Result};
use crate::events::{Refusal, Subject};
use crate::operator::DomainScope;
use crate::proto::{Check, ExplainRequest, ExplainResponse};
use crate::state::shared::ListKind;

/// Parameters of `GET /api/v1/denials`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DenialQuery {
    /// Only refusals of this app.
    app: Option<Digits>,
    /// Only refusals with this code.
    code: Option<Word>,
    /// Only refusals in this domain.
    domain: Option<Domain>,
    since: Option<Moment>,
    limit: Option<Limit>,
    cursor: Option<Cursor>,
    /// Also those of the other nodes of the fleet: of each node the newest hundred at most.
    fleet: Option<OfFleet>,
}

/// A page of denials, the one with the newest refusal first.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DenialList {
    denials: Vec<Denial>,
    /// `cursor` of the next page, if there may be more.
    next: Option<u64>,
}

/// A refusal; the same caller that is refused again for the same reason is counted. Hashes and ids are hexadecimal,
/// and null where the caller's evidence did not verify.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Denial {
    /// The id that the caller was told.
    pub(super) id: String,
    pub(super) first_at: String,
    pub(super) last_at: String,
    pub(super) count: u64,
    /// `GetAppKey`, `SignCert` or `GetKmsKey`; null for a refusal before the last start.
    method: Option<&'static str>,
    /// `kms` if it asked for root keys; null for others.
    role: Option<&'static str>,
    pub(super) code: String,
    /// What the caller was told.
    pub(super) message: String,
    /// The step of the examination that failed.
    step: String,
    expected: Option<String>,
    actual: Option<String>,
    pub(super) app_id: Option<String>,
    /// The domain of the app.
    domain: Option<String>,
    pub(super) instance_id: Option<String>,
    pub(super) device_id: Option<String>,
    compose_hash: Option<String>,
    os_image_hash: Option<String>,
    tcb_status: Option<String>,
    tcb_advisories: Vec<String>,
    /// The address of the last request; empty for one to another node.
    address: String,
    /// Whether its evidence is kept, so that it can be judged again.
    explainable: bool,
    /// What would allow it, in a sentence.
    remedy_text: Option<String>,
    /// The name of the node, where those of all nodes were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    /// Unix milliseconds of the last refusal.
    #[serde(skip)]
    pub(super) last: u64,
    #[serde(skip)]
    pub(super) first: u64,
}

/// A denial, with every check by today's rules, if its evidence is kept.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ExplainedDenial {
    #[serde(flatten)]
    denial: Denial,
    /// `allowed`, `denied` or `unknown`: today's verdict; null if the evidence is not kept.
    verdict: Option<String>,
    /// The checks in the order of a live request.
    walk: Vec<Step>,
    remedy: Option<Remedy>,
    /// The nearest entry of the allowlist, and how it differs.
    nearest: Option<Nearest>,
}

/// One check.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Step {
    step: String,
    /// The rule of the policy; empty in other steps.
    rule: String,
    state: StepState,
    message: String,
    expected: Option<String>,
    actual: Option<String>,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum StepState {
    Passed,
    Failed,
    /// An earlier failure makes it pointless, or a service does not respond.
    NotReached,
}

/// What would allow the caller.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Remedy {
    /// To be merged into the allowlist; null if no addition to it would allow the caller.
    fragment: Option<Value>,
    /// What to do, and which protection that gives up.
    text: String,
    /// The command that shows this.
    kmsctl: String,
}

/// The nearest entry of the allowlist.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Nearest {
    entry: String,
    reason: String,
    differences: Vec<Difference>,
}

/// A field in which the caller differs from an entry.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Difference {
    field: String,
    listed: String,
    measured: String,
}

impl Views {
    /// A page of denials.
    ///
    /// # Errors
    /// The index is being opened, and nothing is kept in memory.
    pub async fn denials(&self, scope: &DomainScope, query: DenialQuery) -> Result<DenialList> {
        let DenialQuery { app, code, domain, since, limit, cursor, fleet } = query;
        let fleet = fleet.is_some_and(|OfFleet(fleet)| fleet);
        let since = since.map_or(0, |Moment(at)| at);
        let mut denials = self.all_denials(scope).await?;
        if fleet {
            let own = self.node_name();
            denials.iter_mut().for_each(|denial| denial.node.clone_from(&own));
            denials.extend(self.denials_of_others(scope));
            denials.sort_by(|one, other| other.last.cmp(&one.last).then_with(|| one.id.cmp(&other.id)));
        }
        denials.retain(|denial| {
            app.as_ref().is_none_or(|Digits(app)| denial.app_id.as_ref() == Some(app))
                && code.as_ref().is_none_or(|Word(code)| denial.code == *code)
                && domain
                    .as_ref()
                    .is_none_or(|Domain(domain)| denial.domain.as_deref() == Some(domain.as_str()))
                && denial.last >= since
        });
        let start = cursor.map_or(0, |Cursor(start)| usize::try_from(start).unwrap_or(usize::MAX));
        let mut rest = denials.into_iter().skip(start);
        let page: Vec<_> = rest.by_ref().take(Limit::of(limit)).collect();
        let next = rest.next().map(|_| (start + page.len()) as u64);
        Ok(DenialList { denials: page, next })
    }

    /// The denials that other nodes have told of.
    fn denials_of_others(&self, scope: &DomainScope) -> impl Iterator<Item = Denial> + use<> {
        let scope = scope.clone();
        let told = self.told_by_others::<Refusal>(ListKind::Denials).into_iter();
        let refusals = told.filter(move |(_, refusal)| scope.reads(refusal.domain().as_ref()));
        refusals.map(|(node, refusal)| Denial { node: Some(node), ..Denial::recorded(refusal) })
    }

    /// All denials of `scope`, the one with the newest refusal first: some hundred in memory, and some hundred in the index.
    pub(super) async fn all_denials(&self, scope: &DomainScope) -> Result<Vec<Denial>> {
        let (kept, _) = self.sources.kms.denials.page(None, usize::MAX, |denial| denial.is_in(scope));
        let mut denials: Vec<Denial> = kept.iter().map(|record| Denial::of(record)).collect();
        let known: HashSet<String> = denials.iter().map(|denial| denial.id.clone()).collect();
        match self.inventory(|inventory| inventory.refusals()).await {
            Ok(recorded) => {
                let is_earlier = |refusal: &Refusal| {
                    scope.reads(refusal.domain().as_ref()) && !known.contains(&refusal.denial_id)
                };
                denials.extend(recorded.into_iter().filter(is_earlier).map(Denial::recorded));
            }
            // What is in memory is there without the index.
            Err(error) if denials.is_empty() => return Err(error),
            Err(_) => {}
        }
        denials.sort_by(|one, other| other.last.cmp(&one.last).then_with(|| one.id.cmp(&other.id)));
        Ok(denials)
    }

    /// One denial, judged by today's rules.
    ///
    /// # Errors
    /// It is not kept.
    pub async fn denial(&self, scope: &DomainScope, id: &str) -> Result<ExplainedDenial> {
        let id =
            DenialId::parse(id).ok_or_else(|| Error::invalid("the id of a denial has twelve hex digits"))?;
        let text = id.to_string();
        let denials = self.all_denials(scope).await?;
        let denial = denials.into_iter().find(|denial| denial.id == text);
        let denial = denial.ok_or_else(|| not_found(&format!("denial {id}")))?;
        let explained = match denial.explainable {
            true => self.sources.admin.explained(scope, text.clone()).await?,
            false => None,
        };
        let Some(explained) = explained else {
            let remedy = denial.remedy_text.clone().map(|text| Remedy {
                fragment: None,
                text,
                kmsctl: "kmsctl explain --evidence FILE".to_owned(),
            });
            return Ok(ExplainedDenial { denial, verdict: None, walk: Vec::new(), remedy, nearest: None });
        };
        Ok(ExplainedDenial {
            denial,
            verdict: Some(explained.verdict.clone()),
            walk: explained.checks.iter().map(Step::of).collect(),
            remedy: Remedy::of(&explained, &text),
            nearest: explained.nearest.map(Nearest::from),
        })
    }

    /// `POST /api/v1/explain`: as `Admin.Explain`, which records it.
    ///
    /// # Errors
    /// Those of [`super::super::admin::AdminService::explain`].
    pub async fn explain(
        &self,
        caller: &super::super::Caller,
        request: ExplainRequest,
    ) -> Result<ExplainResponse> {
        self.sources.admin.explain(caller, request).await
    }
}

impl Denial {
    fn of(record: &RefusalRecord) -> Self {
        let identity = record.identity.as_ref();
        let id = |bytes: &[u8]| some(&hex::encode(bytes));
        let (first, last) = (record.first * 1000, record.last * 1000);
        Self {
            id: record.id.to_string(),
            first_at: at(first),
            last_at: at(last),
            count: record.count,
            method: Some(record.method),
            role: record.role.filter(|role| *role == Role::Kms).map(Role::name),
            code: record.code.to_owned(),
            message: record.reason.clone(),
            step: record.step.to_owned(),
            expected: record.expected.clone(),
            actual: record.actual.clone(),
            app_id: identity.and_then(|identity| id(identity.app_id.as_ref())),
            instance_id: identity.and_then(|identity| id(identity.instance_bytes())),
            device_id: identity.and_then(|identity| id(identity.device_id.as_ref())),
            domain: record.place.as_ref().map(ToString::to_string),
            compose_hash: identity.and_then(|identity| id(identity.compose_hash.as_ref())),
            os_image_hash: identity.and_then(|identity| id(identity.os_image_bytes())),
            tcb_status: identity.map(|identity| identity.tcb_status.to_string()),
            tcb_advisories: identity.map(|identity| identity.advisory_ids.clone()).unwrap_or_default(),
            address: record.remote.to_string(),
            explainable: record.shown.is_some(),
            remedy_text: record.remedy.clone(),
            node: None,
            last,
            first,
        }
    }

    /// A denial from before the last start.
    pub(super) fn recorded(refusal: Refusal) -> Self {
        let domain = refusal.domain().map(|domain| domain.to_string());
        let is_kms = refusal.subject.as_ref().is_some_and(Subject::is_kms);
        let Subject {
            app_id,
            instance_id,
            compose_hash,
            device_id,
            os_image_hash,
            tcb_status,
            advisory_ids,
            ..
        } = refusal.subject.unwrap_or_default();
        Self {
            id: refusal.denial_id,
            first_at: at(refusal.times.first),
            last_at: at(refusal.times.last),
            count: refusal.times.count,
            method: None,
            role: is_kms.then(|| Role::Kms.name()),
            code: refusal.code,
            message: refusal.reason,
            step: refusal.step,
            expected: refusal.expected,
            actual: refusal.actual,
            app_id: some(&app_id),
            domain,
            instance_id: some(&instance_id),
            device_id: some(&device_id),
            compose_hash: some(&compose_hash),
            os_image_hash: some(&os_image_hash),
            tcb_status: some(&tcb_status),
            tcb_advisories: advisory_ids,
            address: refusal.remote,
            explainable: false,
            remedy_text: refusal.remedy,
            node: None,
            last: refusal.times.last,
            first: refusal.times.first,
        }
    }

    /// What identifies the CVM that was refused; its address, if its evidence did not verify.
    pub(super) fn caller(&self) -> (Option<&str>, &str) {
        let machine = self.instance_id.as_deref().or(self.device_id.as_deref());
        (self.app_id.as_deref(), machine.unwrap_or(&self.address))
    }
}

impl Step {
    fn of(check: &Check) -> Self {
        let state = match &*check.result {
            "pass" => StepState::Passed,
            "fail" => StepState::Failed,
            _ => StepState::NotReached,
        };
        let message = if check.detail.is_empty() { &check.code } else { &check.detail };
        Self {
            step: check.step.clone(),
            rule: check.rule.clone(),
            state,
            message: message.clone(),
            expected: some(&check.expected),
            actual: some(&check.actual),
        }
    }
}

impl Remedy {
    fn of(explained: &ExplainResponse, id: &str) -> Option<Self> {
        let sentences: Vec<&str> = explained.remedies.iter().map(|remedy| &*remedy.sentence).collect();
        (!sentences.is_empty()).then(|| Self {
            fragment: serde_json::from_str(&explained.allowlist_fragment).ok(),
            text: sentences.join("\n"),
            kmsctl: format!("kmsctl explain --denial {id}"),
        })
    }
}

impl From<crate::proto::NearestEntry> for Nearest {
    fn from(nearest: crate::proto::NearestEntry) -> Self {
        let difference = |it: crate::proto::Difference| Difference {
            field: it.field,
            listed: it.listed,
            measured: it.measured,
        };
        Self {
            entry: nearest.entry,
            reason: nearest.reason,
            differences: nearest.differences.into_iter().map(difference).collect(),
        }
    }
}
