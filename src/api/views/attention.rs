//! What needs an operator: one list out of what the parts of this KMS know, each with where to act.

mod domains;

use std::collections::{BTreeMap, HashSet};

use kms_attest::identity::DomainName;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::denials::Denial;
use super::{Views, at};
use crate::admission::TcbWarning;
use crate::api::epochs::{newest_accepted, newest_records};
use crate::api::readiness::{Cause, Effect, Report, collateral_left};
use crate::audit::Record;
use crate::clock::rfc3339;
use crate::config::Posture;
use crate::control::Accepted;
use crate::events::{Index, IndexError};
use crate::keys::keyring::EpochState;

/// Denials are shown as long as they are not older than this, in seconds.
const DENIALS_SINCE: u64 = 3600;
/// The most groups of denials; the rest is one item.
const MAX_GROUPS: usize = 10;
/// The most records of choices of epochs that are compared.
const MAX_CHOICES: usize = 200;
/// A credential is shown when it ends within this time, in seconds.
const CREDENTIAL_LEFT: u64 = 14 * 86_400;
/// The same for a certificate: ours are renewed long before, others by operators.
const CERTIFICATE_LEFT: u64 = 7 * 86_400;
/// How long it is said that an epoch came into force, in seconds.
const EPOCH_NEWS: u64 = 7 * 86_400;

/// Something that needs an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Attention {
    /// Stable, for programs.
    code: String,
    severity: Severity,
    message: String,
    detail: String,
    /// When it will stop something, if that is known.
    by: Option<String>,
    /// Since when it is so, if that is known.
    since: Option<String>,
    /// When it happened last, of what may be over.
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<String>,
    /// How often, or how many.
    count: Option<u64>,
    link: Link,
}

/// How urgent it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing, or not everything, is released.
    Critical,
    /// It will be so, or somebody waits.
    Warning,
    /// To be known.
    Info,
}

/// Where to act in the console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Link {
    view: &'static str,
    id: Option<String>,
}

impl Attention {
    fn new(code: &str, severity: Severity, message: impl Into<String>, view: &'static str) -> Self {
        Self {
            code: code.to_owned(),
            severity,
            message: message.into(),
            detail: String::new(),
            by: None,
            since: None,
            last: None,
            count: None,
            link: Link { view, id: None },
        }
    }
}

/// Everything that needs an operator, the most urgent first, and by when.
pub(super) fn list(
    views: &Views,
    report: &Report,
    posture: &Posture,
    denials: &[Denial],
    choices: Vec<Attention>,
    now: u64,
) -> Vec<Attention> {
    // Those of domains are listed by domain below.
    let reasons = report.reasons().iter().filter(|reason| !reason.is_of_domains_only());
    let mut list: Vec<Attention> = reasons.map(|reason| of_cause(reason.cause, &reason.detail)).collect();
    list.extend(choices);
    list.extend(of_denials(denials, now));
    list.extend(views.of_collateral(now));
    list.extend(views.of_forecast());
    list.extend(views.of_ledger());
    list.extend(views.of_epochs(now));
    list.extend(views.of_domains(None, now));
    list.extend(views.of_credentials(None, now));
    list.extend(views.of_useless_credentials());
    list.extend(views.of_certificates(now));
    list.extend(of_relaxed(posture));
    sorted(list)
}

/// What needs an operator of one domain: its `denials`, its policy and its credentials.
pub(super) fn of_domain(views: &Views, domain: &DomainName, denials: &[Denial], now: u64) -> Vec<Attention> {
    let mut list = of_denials(denials, now);
    list.extend(views.of_domains(Some(domain), now));
    list.extend(views.of_credentials(Some(domain), now));
    sorted(list)
}

fn sorted(mut list: Vec<Attention>) -> Vec<Attention> {
    list.sort_by(|one, other| {
        let by = |item: &Attention| (item.by.is_none(), item.by.clone());
        one.severity.cmp(&other.severity).then_with(|| by(one).cmp(&by(other)))
    });
    list
}

/// The apps whose last record, in ascending order, says another choice than `chosen`, by app id.
fn lost_choices<'a>(records: &'a [Record], chosen: &BTreeMap<String, (String, u64)>) -> Vec<&'a str> {
    let mut last = BTreeMap::new();
    for record in records {
        let root = record.fields.get("root_epoch").and_then(Value::as_str);
        let app = record.fields.get("app_epoch").and_then(Value::as_u64);
        last.insert(record.app_id(), root.zip(app));
    }
    let counts = |app: &str| chosen.get(app).map(|(root, app)| (&**root, *app));
    last.into_iter().filter(|(app, said)| counts(app) != *said).map(|(app, _)| app).collect()
}

/// What to do about choices that did not come with the keys of `set` or `received`, unless they were `fetched` after they were
/// received, or an owner said since that they are `complete`. After a restore only an owner knows: a KMS that they are
/// fetched from may have been restored too, and a new set has no more than what is here.
fn missing_choices(
    set: Option<Record>,
    received: Option<Record>,
    fetched: Option<Record>,
    complete: Option<Record>,
) -> Option<Attention> {
    let origin = set.into_iter().chain(received).max_by_key(|record| record.seq)?;
    let fetched = fetched.filter(|_| origin.kind == "keys_received");
    if fetched.into_iter().chain(complete).any(|done| done.seq > origin.seq) {
        return None;
    }
    let apps = origin.fields.get("apps_with_epochs").and_then(Value::as_u64);
    if origin.kind == "keys_received" {
        return apps.is_none().then(|| Attention {
            detail: "compare with kmsctl epoch apps there, and get them with kmsctl epoch fetch once it is updated".to_owned(),
            ..Attention::new(
                "app_epochs_unknown",
                Severity::Info,
                "The KMS that this one got its keys from did not tell which epochs operators chose for apps.",
                "epochs",
            )
        });
    }
    let made_at = origin.fields.get("made_at").and_then(Value::as_u64).map(rfc3339).unwrap_or_default();
    let message = match apps {
        Some(apps) => {
            format!(
                "The epochs chosen for apps are as of {made_at}, when the recovery set was made: {apps} apps."
            )
        }
        None => "The recovery set had no epochs chosen for apps: what operators chose is lost.".to_owned(),
    };
    Some(Attention {
        count: apps,
        detail:
            "choose again what was chosen later (kmsctl epoch follow, stay), say that it is complete (kmsctl epoch accept \
             app-epochs), then make a new recovery set"
                .to_owned(),
        ..Attention::new("app_epochs_as_of", Severity::Warning, message, "epochs")
    })
}

fn of_cause(cause: Cause, detail: &str) -> Attention {
    let view = match cause {
        Cause::Frozen => "freezes",
        Cause::AllowlistUnusable
        | Cause::PolicyUnavailable
        | Cause::KmsNotAllowed
        | Cause::PolicyExpires
        | Cause::PolicyFork
        | Cause::PolicyHeld
        | Cause::DomainPolicyUnavailable => "policy",
        Cause::CollateralUnavailable | Cause::CollateralNotRefreshed => "platforms",
        Cause::AuditLogUnavailable | Cause::DiskNearlyFull => "ledger",
        Cause::NoKeys
        | Cause::Draining
        | Cause::OwnEvidenceUnavailable
        | Cause::OwnEvidenceRefused
        | Cause::Clock => "diagnostics",
        Cause::StateStale | Cause::StateNotFresh | Cause::StateRolledBack | Cause::Fleet(_) => "fleet",
        Cause::EpochsLost => "epochs",
        Cause::Recovery => "recovery",
    };
    let severity = match cause.effect() {
        Effect::Stops => Severity::Critical,
        Effect::Drains if cause == Cause::EpochsLost => Severity::Critical,
        Effect::Drains | Effect::Warns => Severity::Warning,
    };
    Attention { detail: detail.to_owned(), ..Attention::new(cause.name(), severity, cause.text(), view) }
}

/// The denials of the last hour by app and code.
fn of_denials(denials: &[Denial], now: u64) -> Vec<Attention> {
    let since = now.saturating_sub(DENIALS_SINCE) * 1000;
    let mut groups = BTreeMap::<(Option<&str>, &str), Vec<&Denial>>::new();
    for denial in denials.iter().filter(|denial| denial.last >= since) {
        groups.entry((denial.app_id.as_deref(), &denial.code)).or_default().push(denial);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, denials)| {
        std::cmp::Reverse(denials.iter().map(|denial| denial.count).sum::<u64>())
    });
    let rest = groups.split_off(groups.len().min(MAX_GROUPS));
    let mut list: Vec<_> =
        groups.iter().filter_map(|((app, code), denials)| group(*app, code, denials)).collect();
    if !rest.is_empty() {
        let count = rest.iter().flat_map(|(_, denials)| denials).map(|denial| denial.count).sum();
        let message = format!("{} other groups of callers are refused.", rest.len());
        let last = rest.iter().flat_map(|(_, denials)| denials).map(|denial| denial.last).max();
        list.push(Attention {
            last: last.map(at),
            count: Some(count),
            ..Attention::new("denials", Severity::Warning, message, "denials")
        });
    }
    list
}

fn group(app: Option<&str>, code: &str, denials: &[&Denial]) -> Option<Attention> {
    let newest = denials.iter().max_by_key(|denial| denial.last)?;
    let first = denials.iter().map(|denial| denial.first).min()?;
    let callers = denials.iter().map(|denial| denial.caller()).collect::<HashSet<_>>().len();
    let who = match (app, callers) {
        (Some(app), 1) => format!("A CVM of app {app} is refused"),
        (Some(app), callers) => format!("{callers} CVMs of app {app} are refused"),
        (None, 1) => "A caller whose evidence does not verify is refused".to_owned(),
        (None, callers) => format!("{callers} callers whose evidence does not verify are refused"),
    };
    // Anyone can cause the others.
    let severity = if app.is_some() { Severity::Warning } else { Severity::Info };
    Some(Attention {
        detail: newest.message.clone(),
        since: Some(at(first)),
        last: Some(at(newest.last)),
        count: Some(denials.iter().map(|denial| denial.count).sum()),
        link: Link { view: "denials", id: Some(newest.id.clone()) },
        ..Attention::new(code, severity, format!("{who}: {code}."), "denials")
    })
}

fn of_relaxed(posture: &Posture) -> Option<Attention> {
    let relaxed = posture.relaxed();
    let codes: Vec<_> = posture.codes().collect();
    (!relaxed.is_empty()).then(|| Attention {
        detail: codes.join(", "),
        count: Some(relaxed.len() as u64),
        ..Attention::new(
            "relaxed_settings",
            Severity::Info,
            "Protections are switched off in the settings.",
            "settings",
        )
    })
}

impl Views {
    fn of_collateral(&self, now: u64) -> Option<Attention> {
        let left = collateral_left(self.foundation().verifier.cache())?;
        Some(Attention {
            by: Some(rfc3339(now + left)),
            ..Attention::new(
                "collateral_expires",
                Severity::Warning,
                format!("Collateral expires in {} minutes, and no service has given newer one.", left / 60),
                "platforms",
            )
        })
    }

    fn of_forecast(&self) -> Vec<Attention> {
        let forecast = self.sources.forecast.borrow();
        let mut models = BTreeMap::<[u8; 6], Vec<&TcbWarning>>::new();
        for warning in forecast.iter() {
            models.entry(warning.fmspc).or_default().push(warning);
        }
        let items = models.into_iter().map(|(fmspc, warnings)| {
            let fmspc = hex::encode(fmspc);
            let follows = warnings.iter().filter_map(|warning| warning.follows).min();
            let ahead: HashSet<&str> = warnings.iter().map(|warning| &*warning.ahead).collect();
            let ahead: Vec<_> = ahead.into_iter().collect();
            Attention {
                detail: format!("By the early TCB set: {}.", ahead.join(", ")),
                by: follows.map(rfc3339),
                count: Some(warnings.len() as u64),
                link: Link { view: "platforms", id: Some(fmspc.clone()) },
                ..Attention::new(
                    "platform_outdated_soon",
                    Severity::Warning,
                    format!("Intel's next TCB set makes platforms of model {fmspc} out of date."),
                    "platforms",
                )
            }
        });
        items.collect()
    }

    fn of_ledger(&self) -> Vec<Attention> {
        let audit = &self.foundation().audit;
        let mut list = Vec::new();
        if audit.head().is_none() {
            let message = "The audit log is not signed, so nobody else can verify it.";
            list.push(Attention::new("log_not_signed", Severity::Warning, message, "ledger"));
        }
        if audit.progress().lacks_witnesses() {
            let behind = audit.witness_states().iter().filter(|witness| !witness.is_well()).count();
            list.push(Attention {
                count: Some(behind as u64),
                ..Attention::new(
                    "witnesses_behind",
                    Severity::Warning,
                    "Too few witnesses cosign the audit log.",
                    "ledger",
                )
            });
        }
        let damaged = audit.damaged_bytes();
        if damaged > 0 {
            list.push(Attention {
                count: Some(damaged),
                ..Attention::new(
                    "log_damaged",
                    Severity::Warning,
                    format!("{damaged} bytes at the end of files of the audit log are not records."),
                    "ledger",
                )
            });
        }
        list
    }

    /// If the last record of an app in the log has another choice of epochs than is in force here, as after the loss of the file.
    pub(super) async fn of_lost_choices(&self) -> Option<Attention> {
        let newest = |index: &Index| newest_records(index, "app_epoch_set", MAX_CHOICES);
        let records = self.sources.events.ask_index(newest).await.ok()?;
        let chosen = self.foundation().app_epochs.list().into_iter();
        let chosen = chosen.map(|(app, it)| (hex::encode(app), (it.root.to_string(), u64::from(it.app))));
        let lost = lost_choices(&records, &chosen.collect());
        if lost.is_empty() {
            return None;
        }
        let named: Vec<_> = lost.iter().take(MAX_GROUPS).copied().collect();
        Some(Attention {
            count: Some(lost.len() as u64),
            detail: format!("{}; choose again with kmsctl epoch follow, stay or forget", named.join(", ")),
            ..Attention::new(
                "app_epochs_lost",
                Severity::Warning,
                format!(
                    "By the audit log operators chose the epochs of {} apps, and other choices count here.",
                    lost.len()
                ),
                "replicas",
            )
        })
    }

    /// Where the keys came without all that operators had chosen: from a recovery set, which is older than the loss, or from a
    /// KMS that does not tell. Until what that has was fetched, or an owner says that they are complete.
    pub(super) async fn of_missing_choices(&self) -> Option<Attention> {
        let newest = |index: &Index| {
            let newest = |kind| Ok::<_, IndexError>(newest_records(index, kind, 1)?.pop());
            let complete = newest_accepted(index, Accepted::AppEpochs)?;
            Ok((newest("keys_restored")?, newest("keys_received")?, newest("app_epochs_received")?, complete))
        };
        let (set, received, fetched, complete) = self.sources.events.ask_index(newest).await.ok()?;
        missing_choices(set, received, fetched, complete)
    }

    fn of_epochs(&self, now: u64) -> Vec<Attention> {
        let ready = &self.sources.ready;
        let mut list = Vec::new();
        let (identity, next) = (ready.identity_epoch(), ready.next_identity_epoch(now));
        if identity != next {
            list.push(Attention::new(
                "epoch_restart_required",
                Severity::Warning,
                format!("This KMS signs with epoch {identity}, which is retired: after a restart it signs with epoch {next}."),
                "epochs",
            ));
        }
        for info in ready.epochs() {
            let number = info.epoch;
            let told = match (info.state, info.times.activate_at) {
                (EpochState::Prepared, None) => Some((
                    Severity::Info,
                    format!("Epoch {number} of the root keys is made and waits to be activated."),
                    None,
                )),
                (EpochState::Prepared, Some(at)) => Some((
                    Severity::Info,
                    format!("Epoch {number} of the root keys comes into force."),
                    Some(at),
                )),
                (EpochState::Active, Some(at)) if at > 0 && info.is_current && now < at + EPOCH_NEWS => {
                    Some((Severity::Info, format!("Epoch {number} of the root keys is in force."), None))
                }
                (EpochState::Active | EpochState::Retired | EpochState::Destroyed, _) => None,
            };
            let Some((severity, message, by)) = told else { continue };
            list.push(Attention {
                by: by.map(rfc3339),
                since: info.times.activate_at.filter(|at| *at <= now).map(rfc3339),
                ..Attention::new("epoch", severity, message, "epochs")
            });
        }
        list
    }

    fn of_credentials(&self, only: Option<&DomainName>, now: u64) -> Vec<Attention> {
        let Some(credentials) = &self.sources.credentials else { return Vec::new() };
        let directory = credentials.directory();
        let shown = directory.values().filter(|it| only.is_none() || it.domain.as_ref() == only);
        let ending = shown.filter_map(|credential| {
            let end = credential.expires_at.filter(|end| *end > now && *end <= now + CREDENTIAL_LEFT)?;
            let name = credential.name.as_str();
            Some(Attention {
                by: Some(rfc3339(end)),
                link: Link { view: "credentials", id: Some(name.to_owned()) },
                ..Attention::new(
                    "credential_expires",
                    Severity::Warning,
                    format!("The credential {name} ({}) ends soon.", credential.role.name()),
                    "credentials",
                )
            })
        });
        ending.collect()
    }

    fn of_certificates(&self, now: u64) -> Vec<Attention> {
        let ending = self.sources.certificates.iter().filter_map(|(listener, certificate)| {
            let end = certificate.expires_at().filter(|end| *end <= now + CERTIFICATE_LEFT)?;
            let severity = if end <= now { Severity::Critical } else { Severity::Warning };
            Some(Attention {
                by: Some(rfc3339(end)),
                ..Attention::new(
                    "certificate_expires",
                    severity,
                    format!("The TLS certificate of the {listener} listener expires."),
                    "settings",
                )
            })
        });
        ending.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Refusal, Span, Subject};

    const NOW: u64 = 1_800_000_000;

    fn denial(id: u64, app: Option<u64>, count: u64, last: u64) -> Denial {
        let subject = app.map(|app| Subject {
            app_id: format!("{app:040x}"),
            instance_id: format!("{id:040x}"),
            ..Subject::default()
        });
        Denial::recorded(Refusal {
            denial_id: format!("{id:012x}"),
            subject,
            times: Span { first: last - 1000, last, seq: id, count },
            remote: "10.0.0.1".to_owned(),
            code: "compose_hash_not_allowed".to_owned(),
            reason: "Boot denied: compose hash not allowed".to_owned(),
            step: "policy".to_owned(),
            expected: None,
            actual: None,
            remedy: None,
        })
    }

    #[test]
    fn denials_of_the_last_hour_are_grouped_and_a_flood_of_apps_is_one_item() {
        let recent = NOW * 1000 - 60_000;
        let one_app =
            [denial(1, Some(7), 30, recent), denial(2, Some(7), 1, recent), denial(3, Some(7), 9, 5000)];
        let list = of_denials(&one_app, NOW);
        assert_eq!(list.len(), 1);
        assert_eq!(
            list[0].message,
            format!("2 CVMs of app {:040x} are refused: compose_hash_not_allowed.", 7)
        );
        assert_eq!((list[0].count, list[0].severity), (Some(31), Severity::Warning));
        assert_eq!((&list[0].since, &list[0].last), (&Some(at(recent - 1000)), &Some(at(recent))));

        let flood: Vec<_> = (0..1000).map(|id| denial(id, Some(id), 1 + id, recent)).collect();
        let list = of_denials(&flood, NOW);
        assert_eq!(list.len(), MAX_GROUPS + 1);
        assert_eq!(list[0].count, Some(1000), "the most frequent first");
        assert_eq!(list[MAX_GROUPS].message, "990 other groups of callers are refused.");
        assert_eq!(list[MAX_GROUPS].last, Some(at(recent)));
        let all: u64 = list.iter().filter_map(|item| item.count).sum();
        assert_eq!(all, 1000 * 1001 / 2);

        let strangers = of_denials(&[denial(1, None, 5, recent)], NOW);
        assert_eq!(strangers[0].severity, Severity::Info, "anyone can cause it");
        assert!(of_denials(&[], NOW).is_empty());
    }

    #[test]
    fn choices_that_did_not_come_with_the_keys_are_missed_until_they_are_fetched_or_an_owner_says_so() {
        let record = |seq: u64, kind: &str, fields: Value| {
            let mut record = serde_json::json!({ "seq": seq, "time": "2026-01-01T00:00:00Z", "event": kind });
            record.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            Some(serde_json::from_value::<Record>(record).unwrap())
        };
        let none = || serde_json::json!({});
        let code = |set, received, fetched, complete| {
            missing_choices(set, received, fetched, complete).map(|item| (item.code, item.count))
        };
        let set = || record(7, "keys_restored", serde_json::json!({ "made_at": 1, "apps_with_epochs": 3 }));
        let old_set = || record(7, "keys_restored", serde_json::json!({ "made_at": 1 }));
        let as_of = |count| Some(("app_epochs_as_of".to_owned(), count));
        let (fetched, complete) = (
            |seq| record(seq, "app_epochs_received", none()),
            |seq| record(seq, "epoch_state_accepted", none()),
        );
        assert_eq!(code(set(), None, None, None), as_of(Some(3)));
        assert_eq!(code(old_set(), None, None, complete(6)), as_of(None), "that was before");
        assert_eq!(code(set(), None, fetched(8), None), as_of(Some(3)), "the source may be restored too");
        assert_eq!(code(set(), None, None, complete(8)), None);
        let told = || record(7, "keys_received", serde_json::json!({ "apps_with_epochs": 0 }));
        let untold = || record(7, "keys_received", none());
        assert_eq!(code(None, told(), None, None), None);
        assert_eq!(code(None, untold(), None, None), Some(("app_epochs_unknown".to_owned(), None)));
        assert_eq!(code(None, untold(), fetched(9), None), None);
        assert_eq!(code(None, untold(), None, complete(9)), None);
        assert_eq!(code(None, None, None, None), None, "its keys were made here");
    }
}
