//! `Explain`: why a caller is refused, every check in order. A dry run: it has only `Admission`'s
//! `Explainer`, and only `Admission` makes permits.

mod checklist;
mod checks;
mod observer;

use std::sync::Arc;

use kms_attest::certificate;
use kms_attest::identity::{AppId, BootInfo, DomainName, Identity};
use kms_policy::Role;
use kms_policy::examination::Nearest;
use kms_policy::remedy::{self, merged};

use self::checklist::{Checklist, Failure};
use super::denials::record;
use super::{AdminService, shown};
use crate::admission::{AskedEpochs, RefusalCode, Step};
use crate::api::kms::asked_domain;
use crate::api::{Caller, other_domain, remedy as own_remedy};
use crate::audit::Event;
use crate::control::{DenialId, RefusalRecord, Shown};
use crate::error::{Error, Result};
use crate::operator::DomainScope;
use crate::proto::{Difference, ExplainRequest, ExplainResponse, NearestEntry, Remedy};

/// The entry of an allowlist for KMS nodes.
const KMS_ENTRY: &str = "kms";

struct Question {
    shown: Shown,
    role: Role,
    vm_config: String,
    epochs: AskedEpochs,
    domain: Option<DomainName>,
    denial: Option<Arc<RefusalRecord>>,
    /// For the audit log.
    input: String,
}

/// The results beside the list of checks.
#[derive(Default)]
struct Found {
    identity: Option<Identity>,
    nearest: Option<Nearest>,
    relaxations: Vec<String>,
}

impl AdminService {
    /// `Admin.Explain`. Releases nothing.
    ///
    /// # Errors
    /// Nothing to explain, or more than one thing; a denial that is not kept; an unknown subject.
    pub async fn explain(&self, caller: &Caller, request: ExplainRequest) -> Result<ExplainResponse> {
        let scope = caller.scope()?;
        let question = self.question(scope, request)?;
        let response = self.answer(&question).await;
        let Some(response) = self.seen(scope, &question, response) else {
            return Err(other_domain(scope, "this is about a caller of another domain"));
        };
        let author = caller.author();
        self.recorded(Event::Explained {
            input: question.input,
            subject: question.role.name(),
            verdict: response.verdict.clone(),
            code: response.code.clone(),
            domain: scope.limit().map(ToString::to_string),
            by: author.by,
            remote: author.remote,
        })
        .await;
        Ok(response)
    }

    /// The same for a refusal that is kept, without a record: a look at the list of refusals is no event.
    ///
    /// # Errors
    /// A denial that is not kept, or whose evidence is not.
    pub(in crate::api) async fn explained(
        &self,
        scope: &DomainScope,
        denial_id: String,
    ) -> Result<Option<ExplainResponse>> {
        let question = self.question(scope, ExplainRequest { denial_id, ..ExplainRequest::default() })?;
        let response = self.answer(&question).await;
        // Its app can have been moved since.
        Ok(self.seen(scope, &question, response))
    }

    /// What an operator with this scope sees of a response: nothing if it is about a caller of another domain, and no entry of
    /// another domain's app, which can be in the same policy.
    fn seen(
        &self,
        scope: &DomainScope,
        question: &Question,
        response: ExplainResponse,
    ) -> Option<ExplainResponse> {
        if !self.is_own(scope, question, &response) {
            return None;
        }
        let is_seen = |nearest: &NearestEntry| {
            let own = |app| scope.has(&self.foundation.domains.of(&app).name);
            nearest.entry == KMS_ENTRY
                || scope.limit().is_none()
                || entry_app(&nearest.entry).is_some_and(own)
        };
        let nearest = response.nearest.filter(is_seen);
        Some(ExplainResponse { nearest, ..response })
    }

    /// Whether the caller that is explained is in `scope`, as far as it is known.
    fn is_own(&self, scope: &DomainScope, question: &Question, response: &ExplainResponse) -> bool {
        let app = response.identity.as_ref().and_then(|identity| AppId::try_from(&identity.app_id[..]).ok());
        let place = match (question.role, app) {
            (Role::Kms, _) => DomainName::DEFAULT,
            (role, Some(app)) => self.foundation.place_of(Some(role), &app).0,
            // Evidence that does not verify says nothing of anybody.
            (Role::App | Role::Certificate, None) => return true,
        };
        scope.has(&place)
    }

    async fn answer(&self, question: &Question) -> ExplainResponse {
        let mut list = Checklist::default();
        let (self_authorization, verified) =
            tokio::join!(self.foundation.self_authorization.fresh(), self.verified(question));
        match self_authorization {
            Ok(_) => list.pass(Step::SelfAuthorization, "", "this KMS may serve"),
            Err(refusal) => list.refuse(Step::SelfAuthorization, &refusal.into()),
        }
        let found = match verified {
            Ok(verified) => self.judge(&mut list, question, &verified).await,
            Err(refusal) => {
                list.evidence_refused(&refusal, question.binding());
                self.unjudged(&mut list);
                Found::default()
            }
        };
        self.response(question, list, found)
    }

    fn question(&self, scope: &DomainScope, request: ExplainRequest) -> Result<Question> {
        let ExplainRequest {
            evidence,
            certificate,
            denial_id,
            subject,
            vm_config,
            root_epoch,
            app_epoch,
            app_domain,
        } = request;
        let role = match subject.as_str() {
            "" => None,
            name => Some(Role::named(name).ok_or_else(|| {
                Error::invalid(
                    "subject must be app, kms or certificate, or empty for the role of the refused request",
                )
            })?),
        };
        let (shown, denial, input) = match (&evidence[..], &certificate[..], denial_id.trim()) {
            ([_, ..], [], "") => {
                (Shown::Evidence { evidence, spki: Vec::new() }, None, "evidence".to_owned())
            }
            ([], [_, ..], "") => (Shown::Certificate(der(certificate)?), None, "certificate".to_owned()),
            ([], [], id) if !id.is_empty() => {
                let denial = self.denial(scope, id)?;
                let shown = denial.shown.clone().ok_or_else(|| {
                    Error::invalid("the evidence of this denial was too large to keep; send it itself")
                })?;
                let input = format!("denial {}", denial.id);
                (shown, Some(denial), input)
            }
            _ => {
                return Err(Error::invalid(
                    "exactly one of evidence, certificate and denial_id must be given",
                ));
            }
        };
        let then = denial.as_ref().map(|denial| (denial.role, denial.vm_config.clone(), denial.epochs));
        let (role_then, config_then, (root_then, app_then)) = then.unwrap_or_default();
        let epochs = match AskedEpochs::new(root_epoch, app_epoch) {
            AskedEpochs::NONE => AskedEpochs::new(root_then, app_then),
            epochs => epochs,
        };
        let domain = asked_domain(&app_domain)?.or_else(|| denial.as_ref()?.domain.clone());
        let role_then = role_then.unwrap_or(Role::App);
        Ok(Question {
            shown,
            role: role.unwrap_or(role_then),
            vm_config: if vm_config.is_empty() { config_then } else { vm_config },
            epochs,
            domain,
            denial,
            input,
        })
    }

    fn denial(&self, scope: &DomainScope, id: &str) -> Result<Arc<RefusalRecord>> {
        let id = DenialId::parse(id).ok_or_else(|| Error::invalid("denial_id must be twelve hex digits"))?;
        self.kms.denials.find(id).filter(|denial| denial.is_in(scope)).ok_or_else(|| {
            Error::invalid(format!(
                "no denial {id} is kept here: it is too old, or from before the last start; or another node refused it, which \
                 explains it: kmsctl denials --fleet names that node"
            ))
        })
    }

    fn response(&self, question: &Question, list: Checklist, found: Found) -> ExplainResponse {
        let Found { identity, nearest, relaxations } = found;
        let place =
            identity.as_ref().map(|found| self.foundation.place_of(Some(question.role), &found.app_id));
        let (domain, policy) = match place {
            Some((domain, policy)) => (domain, policy),
            None => (DomainName::DEFAULT, &self.foundation.policy),
        };
        let identity = identity.as_ref().map(BootInfo::from);
        let of_policy = |failure: &Failure| match (failure.code, &identity) {
            (RefusalCode::Denied(code), Some(identity)) => {
                self.foundation.remedy(policy, code, question.role.subject(identity))
            }
            _ => own_remedy::of_self(&self.foundation, failure.of_self?),
        };
        // The fragment is for the policy that decides about the caller: this KMS is in another one than apps of some domains.
        let is_of_domain = self.foundation.has_policy(&domain);
        let mut fragments = Vec::new();
        let mut remedies = Vec::new();
        for failure in list.failures() {
            if let Some(remedy) = of_policy(failure) {
                let is_elsewhere = failure.of_self.is_some() && is_of_domain;
                fragments.extend(remedy.fragment.clone().filter(|_| !is_elsewhere));
                remedies.push(Remedy { code: failure.code.name().to_owned(), ..wire(remedy) });
            } else if let Some(sentence) = &failure.remedy {
                let (code, sentence) = (failure.code.name().to_owned(), sentence.clone());
                remedies.push(Remedy { code, sentence, ..Remedy::default() });
            }
        }
        let allowlist_fragment = match fragments.is_empty() {
            true => String::new(),
            false => format!("{:#}", merged(&fragments)),
        };
        let verdict = list.verdict();
        ExplainResponse {
            verdict: verdict.word.to_owned(),
            code: verdict.code.to_owned(),
            reason: verdict.reason,
            checks: list.into_checks(),
            identity: identity.map(shown),
            nearest: nearest.map(nearest_entry),
            remedies,
            allowlist_fragment,
            policy: policy.kind().to_owned(),
            relaxations,
            denial: question.denial.as_ref().map(|denial| record(denial)),
            app_domain: domain.said().unwrap_or_default().to_owned(),
        }
    }
}

/// A certificate, given as PEM or DER, as DER.
fn der(certificate: Vec<u8>) -> Result<Vec<u8>> {
    match std::str::from_utf8(&certificate) {
        Ok(text) if text.contains("-----BEGIN") => {
            certificate::der(text).map_err(|error| Error::invalid(error.to_string()).within("certificate"))
        }
        _ => Ok(certificate),
    }
}

fn wire(remedy: remedy::Remedy) -> Remedy {
    let remedy::Remedy { code, sentence, fragment, call } = remedy;
    let (contract, function, argument) =
        call.map(|call| (call.contract, call.function.to_owned(), call.argument)).unwrap_or_default();
    Remedy {
        code: code.name().to_owned(),
        sentence,
        allowlist_fragment: fragment.map(|fragment| fragment.to_string()).unwrap_or_default(),
        contract,
        function,
        argument,
    }
}

/// The app whose entry of an allowlist is called `apps."00…"`.
fn entry_app(name: &str) -> Option<AppId> {
    let id = name.strip_prefix("apps.\"")?.strip_suffix('"')?;
    AppId::try_from(&hex::decode(id).ok()?[..]).ok()
}

fn nearest_entry(nearest: Nearest) -> NearestEntry {
    let differences = nearest.differences.into_iter().map(|difference| Difference {
        field: difference.field.to_owned(),
        listed: difference.listed,
        measured: difference.measured,
    });
    NearestEntry {
        entry: nearest.entry,
        reason: nearest.reason.to_owned(),
        differences: differences.collect(),
    }
}
