//! The check of a candidate allowlist: its problems, what it would change, and how it would judge a refused caller.

use kms_attest::identity::BootInfo;
use kms_attest::small_file::small_file;
use kms_policy::review::{Finding, Review, Severity};
use kms_policy::{Decision, Denial, Role, Ruleset, Subject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::PolicyService;
use crate::admission::ImageCheck;
use crate::control::{DenialId, MAX_CANDIDATE};
use crate::error::{Error, Result};
use crate::operator::DomainScope;

/// The most lines of a difference.
const MAX_LINES: usize = 500;

/// The body of `POST /api/v1/policy/check`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckRequest {
    /// The candidate: an allowlist as an object, or its text as a string, whose lines and columns are then named.
    document: Value,
    /// A denial, as its caller was told it: would the candidate allow that caller?
    #[serde(default)]
    denial_id: Option<String>,
}

/// The result of a check. Nothing was changed.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Checked {
    /// Whether it could be used. One that is not valid would deny everything.
    valid: bool,
    /// SHA-256 of its text, hex.
    sha256: String,
    /// Problems, errors first.
    problems: Vec<Problem>,
    /// Problems that are not listed.
    more_problems: usize,
    /// What would change.
    difference: Changes,
    /// Whether it allows this KMS itself; null if that is not known. One that does not would stop every release.
    allows_this_kms: Option<bool>,
    /// How it would judge the refused caller of `denial_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<Judged>,
}

/// A problem of a document.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Problem {
    /// `error` or `warning`.
    severity: &'static str,
    /// Stable, for programs.
    code: &'static str,
    /// The place: `line 3, column 7`, or the path of a key; empty for the whole document.
    at: String,
    message: String,
}

/// What a document allows that the policy in force does not, and the other way round. Each entry is a short text.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(super) struct Changes {
    added: Vec<String>,
    removed: Vec<String>,
    /// Entries that are not listed.
    omitted: usize,
    /// Why there is no comparison, if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'static str>,
}

/// A decision of a candidate, by the identity as it was measured: tolerances of `core.tcb` do not count here.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Judged {
    allowed: bool,
    /// The rule that denies; empty if none does.
    code: &'static str,
    message: String,
    expected: Option<String>,
    found: Option<String>,
}

impl Problem {
    pub(super) fn is_error(&self) -> bool {
        self.severity == "error"
    }

    /// The place and the message.
    pub(super) fn sentence(&self) -> String {
        match self.at.as_str() {
            "" => format!("the document {}", self.message),
            at => format!("{at} {}", self.message),
        }
    }
}

impl From<&Finding> for Problem {
    fn from(finding: &Finding) -> Self {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        Self { severity, code: finding.code, at: finding.at.clone(), message: finding.message.clone() }
    }
}

impl PolicyService {
    /// Checks a candidate without using it. For a credential of one domain nothing is compared that is about the whole KMS.
    ///
    /// # Errors
    /// It is too large, or the denial is not known.
    pub async fn check(&self, scope: &DomainScope, request: CheckRequest) -> Result<Checked> {
        let text = match request.document {
            Value::String(text) => text,
            document => document.to_string(),
        };
        if text.len() > MAX_CANDIDATE {
            let text = format!("document must be at most {MAX_CANDIDATE} bytes, got {}", text.len());
            return Err(Error::invalid(text));
        }
        let asked = match &request.denial_id {
            None => None,
            Some(id) => Some(self.refused(scope, id)?),
        };
        let (file, empty_devices) = (self.file.clone(), self.empty_devices);
        let is_limited = scope.only().is_some();
        let own = self.foundation.self_authorization.told_identity().filter(|_| !is_limited);
        let image = self.foundation.image.clone();
        let check = move || {
            let review = Review::of(text.as_bytes(), empty_devices);
            let difference = match &file {
                _ if is_limited => Changes {
                    message: Some("nothing is compared for a credential of one domain"),
                    ..Changes::default()
                },
                None => {
                    Changes { message: Some("the policy in force is not an allowlist"), ..Changes::default() }
                }
                Some(path) => {
                    let old = small_file(path, MAX_CANDIDATE as u64).unwrap_or_default();
                    changes(&review, &Review::of(&old, empty_devices))
                }
            };
            let rules = Ruleset::parse(text.as_bytes(), empty_devices).ok();
            let judge = |subject: Subject<'_>| rules.as_ref().map(|rules| rules.decide(subject));
            let of_this_kms = own.and_then(|own| judge(Subject::Kms(&own)));
            let checked = Checked {
                valid: review.is_usable(),
                sha256: hex::encode(Sha256::digest(text.as_bytes())),
                problems: review.findings().iter().map(Problem::from).collect(),
                more_problems: review.unlisted(),
                difference,
                allows_this_kms: None,
                decision: asked.map(|(role, identity)| judged(judge(role.subject(&identity)), &image)),
            };
            (checked, of_this_kms)
        };
        let checked = tokio::task::spawn_blocking(check).await;
        let (checked, of_this_kms) =
            checked.map_err(|error| Error::internal("the check ended in a panic", error))?;
        let allows_this_kms = match of_this_kms {
            None => None,
            Some(decision) => Some(self.foundation.self_authorization.settled(decision).await.is_allowed()),
        };
        Ok(Checked { allows_this_kms, ..checked })
    }

    /// The role and the identity of a refused caller.
    fn refused(&self, scope: &DomainScope, id: &str) -> Result<(Role, BootInfo)> {
        let unknown = || Error::invalid("no such denial is kept here").because("unknown_denial");
        let id = DenialId::parse(id).ok_or_else(unknown)?;
        let denial = self.kms.denials.find(id).filter(|denial| denial.is_in(scope)).ok_or_else(unknown)?;
        let identity = denial.identity.as_ref().ok_or_else(|| {
            Error::invalid("the caller of this denial was not verified, so no policy can allow it")
                .because("unverified_denial")
        })?;
        Ok((denial.role.unwrap_or(Role::App), BootInfo::from(identity)))
    }
}

fn changes(new: &Review, old: &Review) -> Changes {
    let difference = new.against(old);
    let mut omitted = 0;
    let mut shown = |grants: &[kms_policy::review::Grant]| {
        omitted += grants.len().saturating_sub(MAX_LINES);
        grants.iter().take(MAX_LINES).map(ToString::to_string).collect::<Vec<_>>()
    };
    let (added, removed) = (shown(&difference.newly_allowed), shown(&difference.newly_denied));
    Changes { added, removed, omitted, message: None }
}

/// An invalid candidate denies everything.
fn judged(decision: Option<Decision>, image: &ImageCheck) -> Judged {
    match decision {
        None => Judged {
            allowed: false,
            code: "allowlist_unusable",
            message: "the document is not valid, so everything is denied".to_owned(),
            expected: None,
            found: None,
        },
        Some(Decision::Allowed { .. }) => Judged {
            allowed: true,
            code: "",
            message: "it would be allowed".to_owned(),
            expected: None,
            found: None,
        },
        Some(Decision::IfImage(condition)) => match image.is_ruled_out(None) {
            None => Judged {
                allowed: true,
                code: "",
                message: format!(
                    "it would be allowed if its registers are those of the OS image {}, which is compared when it asks",
                    condition.image()
                ),
                expected: None,
                found: None,
            },
            Some(why) => refused(condition.otherwise(&why)),
        },
        Some(Decision::Denied(denial)) => refused(denial),
    }
}

fn refused(denial: Denial) -> Judged {
    Judged {
        allowed: false,
        code: denial.code.name(),
        message: denial.reason,
        expected: denial.expected,
        found: denial.actual,
    }
}
