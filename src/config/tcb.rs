//! `[core.tcb]`: which TCB statuses below UpToDate and which advisories are accepted. None by default.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kms_attest::tcb::{TOLERABLE, TcbStatus};
use serde_json::Value;

use super::reader::{Report, Section};
use super::{Relaxation, RelaxationCode, values};

/// Most entries of a list: each may become a label of a metric.
const MAX_ENTRIES: usize = 64;
/// Intel changes its standard TCB set about six weeks after it has disclosed what a TCB recovery repairs.
const STANDARD_SET_FOLLOWS: Duration = Duration::from_secs(45 * 86_400);

/// `[core.tcb]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tcb {
    /// By status, no status twice.
    pub grace: Vec<Grace>,
    /// Advisories that policy does not see: upper case, no repeats.
    pub advisories: Vec<String>,
    /// Platform models whose status is tolerated whatever its age: no repeats.
    pub fmspcs: Vec<[u8; 6]>,
    /// How often Intel's early TCB set is looked at; `None` is `never`.
    pub look_ahead: Option<Duration>,
    /// The lowest `tcbEvaluationDataNumber` that TCB info and QE identity may have; 0 is any.
    pub min_evaluation_number: u32,
    /// The file that keeps the highest numbers seen, already resolved to `<cert_dir>/collateral-floors.json`
    /// where the key
    /// is empty.
    pub floors_file: PathBuf,
}

/// How long a status is tolerated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grace {
    /// Neither `UpToDate` nor `Revoked`.
    pub status: TcbStatus,
    /// Since the platform fell behind.
    pub lasts: Duration,
}

impl Tcb {
    /// The accepted exceptions, for the posture.
    pub(super) fn relaxations(&self) -> Vec<Relaxation> {
        let lasts = |grace: &Grace| format!("{}:{}", grace.status, shortest(grace.lasts));
        let graces: Vec<String> = self.grace.iter().map(lasts).collect();
        let fmspcs: Vec<String> = self.fmspcs.iter().map(hex::encode).collect();
        [
            (
                RelaxationCode::TcbGrace,
                "tcb_grace",
                graces,
                "platforms that Intel calls out of date or misconfigured are accepted for a time",
            ),
            (
                RelaxationCode::TcbAdvisories,
                "tcb_advisory",
                self.advisories.clone(),
                "platforms with known weaknesses are accepted",
            ),
            (
                RelaxationCode::TcbModels,
                "tcb_model",
                fmspcs,
                "platforms of these models are accepted however far behind they are",
            ),
        ]
        .into_iter()
        .filter(|(_, _, what, _)| !what.is_empty())
        .map(|(code, each, what, sentence)| Relaxation {
            code,
            sentence: format!("{sentence}: {}", what.join(", ")).into(),
            details: what.iter().map(|what| format!("{each}:{what}")).collect(),
        })
        .collect()
    }
}

/// In the form of the configuration, in the largest exact unit: `60d`, `90m`.
fn shortest(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [(86_400, 'd'), (3600, 'h'), (60, 'm')];
    let exact = units.into_iter().find(|(unit, _)| seconds.is_multiple_of(*unit));
    let (unit, letter) = exact.unwrap_or((1, 's'));
    format!("{}{letter}", seconds / unit)
}

pub(super) fn read(section: &mut Section<'_>, cert_dir: &Path) -> Tcb {
    Tcb {
        grace: section.required("grace", Vec::new(), grace),
        advisories: section.required("advisories", Vec::new(), |value| list(value, advisory)),
        fmspcs: section.required("fmspcs", Vec::new(), |value| list(value, fmspc)),
        look_ahead: section.required("look_ahead", None, look_ahead),
        min_evaluation_number: section.required("min_evaluation_number", 0, evaluation_number),
        floors_file: section.path("floors_file").unwrap_or_else(|| cert_dir.join("collateral-floors.json")),
    }
}

/// Adds a notice for settings that are valid but hardly intended.
pub(super) fn check(tcb: &Tcb, report: &mut Report) {
    let counts_from_recovery =
        |status| matches!(status, TcbStatus::OutOfDate | TcbStatus::OutOfDateConfigurationNeeded);
    for grace in &tcb.grace {
        if counts_from_recovery(grace.status) && grace.lasts < STANDARD_SET_FOLLOWS {
            report.notice(
                &format!("core.tcb.grace.{}", grace.status),
                "counts from Intel's TCB recovery; its standard TCB set follows about six weeks (45d) later, \
                 when this grace is usually over",
            );
        }
    }
}

fn grace(value: Value) -> Result<Vec<Grace>, String> {
    let Value::Object(table) = value else {
        return Err("must be a table such as { OutOfDate = \"60d\" }".to_owned());
    };
    let entry = |(word, lasts): (String, Value)| {
        let status = status(&word)?;
        let lasts = values::string(lasts)
            .and_then(|text| values::duration(&text))
            .ok()
            .flatten()
            .filter(|lasts| !lasts.is_zero())
            .ok_or_else(|| format!("{word} must be a duration with an end, such as \"60d\""))?;
        Ok(Grace { status, lasts })
    };
    table.into_iter().map(entry).collect()
}

fn status(word: &str) -> Result<TcbStatus, String> {
    let known = TOLERABLE.into_iter().find(|status| status.to_string() == word);
    known.ok_or_else(|| match word {
        "Revoked" => "Revoked is never tolerated".to_owned(),
        "UpToDate" => "UpToDate needs no grace".to_owned(),
        _ => {
            let known: Vec<String> = TOLERABLE.iter().map(ToString::to_string).collect();
            let word: String = word.chars().take(64).collect();
            format!("{word} is no TCB status of Intel's; they are {}", known.join(", "))
        }
    })
}

fn list<T: PartialEq>(value: Value, entry: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    let Value::Array(entries) = value else { return Err("must be a list of texts".to_owned()) };
    if entries.len() > MAX_ENTRIES {
        return Err(format!("must have {MAX_ENTRIES} entries at most"));
    }
    let mut list = Vec::new();
    for value in entries {
        let value = entry(&values::string(value)?)?;
        if !list.contains(&value) {
            list.push(value);
        }
    }
    Ok(list)
}

/// `INTEL-SA-00837`, or `INTEL-DOC-10000`, which Intel uses for documents that are not advisories.
fn advisory(text: &str) -> Result<String, String> {
    let advisory = text.to_ascii_uppercase();
    let number = advisory.strip_prefix("INTEL-SA-").or_else(|| advisory.strip_prefix("INTEL-DOC-"));
    match number.is_some_and(|number| number.len() == 5 && number.bytes().all(|b| b.is_ascii_digit())) {
        true => Ok(advisory),
        false => Err("must be advisories such as \"INTEL-SA-00837\"".to_owned()),
    }
}

fn fmspc(text: &str) -> Result<[u8; 6], String> {
    let mut fmspc = [0; 6];
    hex::decode_to_slice(text, &mut fmspc)
        .map(|()| fmspc)
        .map_err(|_| "must be platform models of 12 hex digits, such as \"b0c06f000000\"".to_owned())
}

fn evaluation_number(value: Value) -> Result<u32, String> {
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
    number.ok_or_else(|| format!("must be a whole number from 0 to {}", u32::MAX))
}

fn look_ahead(value: Value) -> Result<Option<Duration>, String> {
    match values::duration(&values::string(value)?)? {
        Some(every) if every.is_zero() => Err("must be longer than 0s, or never".to_owned()),
        every => Ok(every),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn findings(tcb: &str) -> Vec<String> {
        let outcome = Config::from_toml(&format!("core.tcb = {tcb}")).map(drop);
        let findings = outcome.expect_err("refused").findings;
        findings.iter().map(|finding| format!("{}: {}", finding.subject, finding.message)).collect()
    }

    #[test]
    fn nothing_is_tolerated_by_default() {
        let (config, _) = Config::from_toml("").expect("defaults");
        let look_ahead = Some(Duration::from_secs(6 * 3600));
        let floors_file = PathBuf::from("/etc/kms/certs/collateral-floors.json");
        assert_eq!(config.core.tcb, Tcb { look_ahead, floors_file, ..Tcb::default() });
    }

    #[test]
    fn what_is_tolerated_is_read_once_and_in_one_spelling() {
        let (config, notices) = Config::from_toml(
            "[core.tcb]\nadvisories = ['intel-sa-00837', 'INTEL-SA-00837', 'INTEL-DOC-10000']\n\
             fmspcs = ['B0C06F000000', 'b0c06f000000']\nlook_ahead = 'never'\nmin_evaluation_number = 17\n\
             floors_file = '/var/lib/kms/floors.json'\n\
             [core.tcb.grace]\nOutOfDate = '60d'\nSWHardeningNeeded = '400d'",
        )
        .expect("a valid configuration");
        let days = |days: u64| Duration::from_secs(days * 86_400);
        let Tcb { mut grace, advisories, fmspcs, look_ahead, min_evaluation_number, floors_file } =
            config.core.tcb;
        assert_eq!(
            (min_evaluation_number, floors_file.as_path()),
            (17, Path::new("/var/lib/kms/floors.json"))
        );
        grace.sort_by_key(|grace| grace.lasts);
        assert_eq!(
            grace,
            [
                Grace { status: TcbStatus::OutOfDate, lasts: days(60) },
                Grace { status: TcbStatus::SWHardeningNeeded, lasts: days(400) }
            ]
        );
        assert_eq!(advisories, ["INTEL-SA-00837", "INTEL-DOC-10000"]);
        assert_eq!((fmspcs, look_ahead), (vec![[0xb0, 0xc0, 0x6f, 0, 0, 0]], None));
        assert!(notices.iter().all(|notice| !notice.key.starts_with("core.tcb")), "{notices:?}");
    }

    #[test]
    fn a_grace_that_ends_before_intel_changes_its_standard_set_is_said() {
        let (_, notices) =
            Config::from_toml("core.tcb.grace = { OutOfDate = '15d' }").expect("a valid configuration");
        let notice =
            notices.iter().find(|notice| notice.key == "core.tcb.grace.OutOfDate").expect("a notice");
        assert!(notice.message.contains("six weeks"), "{notice}");
    }

    #[test]
    fn mistakes_are_named() {
        for (tcb, expected) in [
            ("{ grace = { Revoked = '15d' } }", "core.tcb.grace: Revoked is never tolerated"),
            ("{ grace = { UpToDate = '15d' } }", "core.tcb.grace: UpToDate needs no grace"),
            (
                "{ grace = { outofdate = '15d' } }",
                "core.tcb.grace: outofdate is no TCB status of Intel's; they",
            ),
            (
                "{ grace = { OutOfDate = 'never' } }",
                "core.tcb.grace: OutOfDate must be a duration with an end",
            ),
            ("{ grace = { OutOfDate = '0d' } }", "core.tcb.grace: OutOfDate must be a duration with an end"),
            ("{ grace = { OutOfDate = 15 } }", "core.tcb.grace: OutOfDate must be a duration with an end"),
            ("{ grace = '15d' }", "core.tcb.grace: must be a table such as"),
            ("{ advisories = ['CVE-2024-1'] }", "core.tcb.advisories: must be advisories such as"),
            ("{ advisories = 'INTEL-SA-00837' }", "core.tcb.advisories: must be a list"),
            ("{ fmspcs = ['b0c06f'] }", "core.tcb.fmspcs: must be platform models of 12 hex digits"),
            ("{ fmspcs = ['x0c06f000000'] }", "core.tcb.fmspcs: must be platform models of 12 hex digits"),
            (
                "{ min_evaluation_number = -1 }",
                "core.tcb.min_evaluation_number: must be a whole number from 0",
            ),
            ("{ min_evaluation_number = '17' }", "core.tcb.min_evaluation_number: must be a whole number"),
            ("{ look_ahead = '0s' }", "core.tcb.look_ahead: must be longer than 0s, or never"),
            ("{ gracee = {} }", "core.tcb.gracee: unknown key, did you mean `grace`?"),
        ] {
            let findings = findings(tcb);
            assert!(findings.iter().any(|finding| finding.starts_with(expected)), "{tcb}: {findings:?}");
        }
        let many: Vec<String> = (0..=MAX_ENTRIES).map(|number| format!("'INTEL-SA-{number:05}'")).collect();
        let findings = findings(&format!("{{ advisories = [{}] }}", many.join(", ")));
        assert_eq!(findings, ["core.tcb.advisories: must have 64 entries at most"]);
    }
}
