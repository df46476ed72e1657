//! Configuration files in TOML, and the same in JSON.

use std::fs;
use std::path::PathBuf;

use cvm_kms::config::{Config, ConfigError, Hot, HotKey, Notice, Sources};
use cvm_kms::control::parse_serials;
use cvm_kms::events::check_reported;
use cvm_kms::state::rollout;
use cvm_kms::state::shared::{check_memory, check_rows};
use cvm_kms::state::{
    Choices, drains_content, joins_content, parse_app_epochs, parse_credentials, parse_domains, parse_drains,
    parse_freezes, parse_joins, parse_settings,
};
use serde_json::Value;
use tempfile::TempDir;

/// Maximum length of the message of a finding.
const MAX_MESSAGE: usize = 2048;

thread_local! {
    static DIRECTORY: TempDir = TempDir::new().expect("a directory for configuration files");
}

type Outcome = Result<(Config, Vec<Notice>), ConfigError>;

/// Text is parsed as TOML and as the equivalent JSON; other bytes as a JSON file.
///
/// Both forms have the same result; messages are bounded and contain no secret.
pub fn config(data: &[u8]) {
    changes(data);
    epochs_of_apps(data);
    domains(data);
    joins(data);
    drains(data);
    fleet(data);
    rollouts(data);
    let toml = std::str::from_utf8(data).ok().filter(|text| !text.trim_start().starts_with('{'));
    let Some(text) = toml else {
        check(&from_json(data), serde_json::from_slice(data).ok());
        return;
    };
    let value: Option<Value> = toml::from_str(text).ok();
    let outcome = Config::from_toml(text);
    if let Some(json) = value.as_ref().and_then(|value| serde_json::to_vec(value).ok()) {
        let other = from_json(&json);
        assert_eq!(said(&outcome), said(&other), "TOML and JSON are read differently");
        assert_eq!(outcome.is_ok(), other.is_ok());
    }
    check(&outcome, value);
}

/// The file of what owners changed at run time. A value that is taken is read back.
fn changes(data: &[u8]) {
    let Ok(settings) = parse_settings(data) else { return };
    let mut hot = Hot::of(&Config::from_toml("").expect("the defaults").0);
    for (name, value) in settings {
        let Some(key) = HotKey::parse(&name) else { continue };
        if hot.set(key, &value).is_ok() {
            let mut again = hot;
            assert!(again.set(key, &hot.value(key)).is_ok() && again == hot, "{name} = {value}");
        }
    }
}

/// The file of the epochs of apps: no app is there twice.
fn epochs_of_apps(data: &[u8]) {
    // As another KMS or a recovery set tells them: what is read has one form.
    match Choices::parse(data) {
        Ok(choices) => assert_eq!(Choices::parse(choices.to_json().as_bytes()), Ok(choices)),
        Err(error) => assert!(error.to_string().len() < MAX_MESSAGE),
    }
    let Ok(records) = parse_app_epochs(data) else { return };
    let apps: std::collections::BTreeSet<_> = records.iter().map(|record| record.app_id).collect();
    assert_eq!(apps.len(), records.len());
}

/// The file of domains: no app is in two, and the default one is not among them.
fn domains(data: &[u8]) {
    let records = match parse_domains(data) {
        Ok(records) => records,
        Err(error) => return assert!(error.len() < MAX_MESSAGE),
    };
    let apps: std::collections::BTreeSet<_> = records.apps.iter().map(|record| record.app_id).collect();
    assert_eq!(apps.len(), records.apps.len());
    assert!(records.domains.iter().all(|record| !record.name.is_default()));
}

/// The file of invitations: what is read is written the same again.
fn joins(data: &[u8]) {
    match parse_joins(data) {
        Ok(records) => {
            let text = joins_content(&records).expect("texts and numbers");
            assert_eq!(parse_joins(&text), Ok(records));
        }
        Err(error) => assert!(error.len() < MAX_MESSAGE),
    }
}

/// The file of drained nodes: what is read is written the same again.
fn drains(data: &[u8]) {
    match parse_drains(data) {
        Ok(records) => {
            let text = drains_content(records.clone()).expect("texts and numbers");
            assert_eq!(parse_drains(&text), Ok(records));
        }
        Err(error) => assert!(error.len() < MAX_MESSAGE),
    }
}

/// The document of a rollout: what is read is written the same again, and never has two nodes in work.
fn rollouts(data: &[u8]) {
    match rollout::parse(data) {
        Ok(rollout) => {
            assert!(rollout.nodes.iter().filter(|node| node.step.is_in_work()).count() <= 1);
            // What a document leaves out is written, so one near the bound may become too long.
            if let Ok(text) = rollout::content(&rollout) {
                assert_eq!(rollout::parse(&text), Ok(rollout));
            }
        }
        Err(error) => assert!(error.len() < MAX_MESSAGE),
    }
}

/// What a database shows, and what a node remembers of it.
fn fleet(data: &[u8]) {
    check_reported(data);
    for outcome in [
        check_rows(data),
        check_memory(data),
        parse_serials(data).map(drop),
        parse_freezes(data).map(drop),
        parse_credentials(data).map(drop),
    ] {
        if let Err(error) = outcome {
            assert!(error.len() < MAX_MESSAGE);
        }
    }
}

fn from_json(json: &[u8]) -> Outcome {
    DIRECTORY.with(|directory| {
        let (nowhere, file): (PathBuf, PathBuf) =
            (directory.path().join("none"), directory.path().join("kms.json"));
        fs::write(&file, json).expect("the file can be written");
        let sources =
            Sources { system: &nowhere, working: &nowhere, explicit: Some(&file), environment: &|_| None };
        Config::from_sources(&sources)
    })
}

fn check(outcome: &Outcome, value: Option<Value>) {
    if let Err(error) = outcome {
        assert!(!error.findings.is_empty(), "an error says what is wrong");
    }
    if let Ok((config, _)) = outcome {
        let _ = config.posture();
        assert!(!config.core.attestation.pccs.is_empty());
    }
    let said = said(outcome);
    for (_, message) in &said {
        assert!(message.len() <= MAX_MESSAGE, "a message of {} bytes: {message}", message.len());
    }
    for section in ["admin", "onboard"] {
        let Some(token) = value.as_ref().and_then(|value| value["core"][section]["auth_token"].as_str())
        else {
            continue;
        };
        let mut other = value.clone().unwrap_or_default();
        other["core"][section]["auth_token"] = "x".repeat(token.trim().chars().count()).into();
        assert_eq!(
            said,
            self::said(&from_json(other.to_string().as_bytes())),
            "what is said depends on the token"
        );
    }
}

/// Findings or notices: subject and message, without the file name.
fn said(outcome: &Outcome) -> Vec<(String, String)> {
    match outcome {
        Ok((_, notices)) => {
            notices.iter().map(|notice| (notice.key.clone(), notice.message.clone())).collect()
        }
        Err(error) => {
            error.findings.iter().map(|finding| (finding.subject.clone(), finding.message.clone())).collect()
        }
    }
}
