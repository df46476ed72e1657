//! The keys of the policy that is read from a chain.

use std::time::Duration;

use super::super::{AuthApi, Config};
use super::{BlockChoice, Ethereum};

const GOOD: [(&str, &str); 4] = [
    ("rpc_urls", "['https://one.example/v2/hush', 'https://two.example', 'https://three.example']"),
    ("chain_id", "8453"),
    ("kms_contract", "'0x5FbDB2315678afecb367f032d93F642f64180aa3'"),
    ("block", "'finalized'"),
];

/// A configuration in which `changed` replaces or adds lines.
fn text(changed: &[(&str, &str)]) -> String {
    let mut lines: Vec<(&str, &str)> = GOOD.to_vec();
    lines.retain(|(key, _)| changed.iter().all(|(other, _)| other != key));
    lines.extend(changed);
    let lines: Vec<String> = lines.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    format!("[core.auth_api]\ntype = 'ethereum'\n[core.auth_api.ethereum]\n{}", lines.join("\n"))
}

fn read(changed: &[(&str, &str)]) -> (Ethereum, Vec<String>) {
    let (config, notices) = Config::from_toml(&text(changed)).unwrap_or_else(|error| panic!("{error}"));
    let AuthApi::Ethereum(ethereum) = config.core.auth_api else { panic!("another policy") };
    (*ethereum, notices.iter().map(ToString::to_string).collect())
}

fn findings(changed: &[(&str, &str)]) -> Vec<String> {
    let error = Config::from_toml(&text(changed)).err().unwrap_or_else(|| panic!("{changed:?}"));
    error.findings.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_not_said_has_a_default() {
    let (ethereum, notices) = read(&[]);
    assert_eq!(notices, [""; 0]);
    assert_eq!(ethereum.rpc_urls.len(), 3);
    assert_eq!(ethereum.chain_id, 8453);
    assert_eq!(ethereum.kms_contract.to_string(), "0x5FbDB2315678afecb367f032d93F642f64180aa3");
    assert_eq!(ethereum.block, BlockChoice::Finalized);
    assert_eq!(ethereum.max_block_age, Duration::from_secs(3600));
    assert_eq!((ethereum.agreement, ethereum.request_timeout), (1, Duration::from_secs(3)));
}

#[test]
fn the_block_decides_how_old_it_may_be() {
    for (block, confirmations, age, choice, seconds) in [
        ("'safe'", "0", "''", BlockChoice::Safe, 1800),
        ("'latest'", "0", "''", BlockChoice::Latest { confirmations: 0 }, 300),
        ("'latest'", "12", "'20m'", BlockChoice::Latest { confirmations: 12 }, 1200),
        ("'finalized'", "0", "'2h'", BlockChoice::Finalized, 7200),
    ] {
        let (ethereum, _) =
            read(&[("block", block), ("confirmations", confirmations), ("max_block_age", age)]);
        assert_eq!(ethereum.block, choice);
        assert_eq!(ethereum.max_block_age, Duration::from_secs(seconds));
    }
}

#[test]
fn each_mistake_is_a_finding_with_its_key() {
    let many: Vec<String> = (0..9).map(|number| format!("'https://{number}.example'")).collect();
    let many = format!("[{}]", many.join(", "));
    for (key, value, expected) in [
        ("rpc_urls", "[]", "must name at least one URL"),
        ("rpc_urls", "['ftp://hush.example']", "must be an http or https URL"),
        (
            "rpc_urls",
            "['https://a.example/hush', 'https://a.example/hush']",
            "must not name the same URL twice",
        ),
        ("rpc_urls", &many, "must name at most 8 URLs"),
        ("rpc_urls", "5", "must be a text in quotes"),
        ("chain_id", "0", "must name the chain"),
        ("chain_id", "-1", "must be a whole number"),
        ("chain_id", "'1'", "must be a whole number"),
        ("kms_contract", "''", "must be the address of the DstackKms contract"),
        ("kms_contract", "'0x1234'", "must be 0x and 40 hex digits"),
        ("kms_contract", "'5FbDB2315678afecb367f032d93F642f64180aa3'", "must be 0x and 40 hex digits"),
        ("kms_contract", "'0x5fBDB2315678afecb367f032d93F642f64180aa3'", "must be an address whose capital"),
        ("kms_contract", "'0x0000000000000000000000000000000000000000'", "must not be the zero address"),
        ("block", "'pending'", "must be \"finalized\", \"safe\" or \"latest\""),
        ("confirmations", "1", "only with block = \"latest\""),
        ("confirmations", "10001", "must be a whole number up to 10000"),
        ("confirmations", "-1", "must be a whole number up to 10000"),
        ("max_block_age", "'never'", "must have an end"),
        ("max_block_age", "'soon'", "must be a duration"),
        ("agreement", "0", "must be a whole number from 1"),
        ("agreement", "4", "must be a whole number from 1"),
        ("request_timeout", "'6s'", "must be at most 5s"),
        ("request_timeout", "'0s'", "must have an end"),
    ] {
        let findings = findings(&[(key, value)]);
        assert_eq!(findings.len(), 1, "{key} = {value}: {findings:?}");
        let expected = format!("core.auth_api.ethereum.{key}: {expected}");
        assert!(findings[0].starts_with(&expected), "{findings:?}");
        assert!(!findings[0].contains("hush"), "{findings:?}");
    }
}

#[test]
fn what_is_missing_is_said_at_once() {
    let error = Config::from_toml("core.auth_api.type = 'ethereum'").err().expect("nothing is configured");
    let subjects: Vec<&str> = error.findings.iter().map(|finding| finding.subject.as_str()).collect();
    let keys = ["rpc_urls", "chain_id", "kms_contract"].map(|key| format!("core.auth_api.ethereum.{key}"));
    assert_eq!(subjects, keys);
    assert!(Config::from_toml("core.auth_api.type = 'dev'").is_ok(), "only who chooses it must configure it");
}

#[test]
fn two_halves_cannot_both_decide() {
    let four = "['https://1.example', 'https://2.example', 'https://3.example', 'https://4.example']";
    for (agreement, is_allowed) in [("1", true), ("2", false), ("3", true), ("4", true)] {
        let text = text(&[("rpc_urls", four), ("agreement", agreement)]);
        assert_eq!(Config::from_toml(&text).is_ok(), is_allowed, "{agreement} of 4");
    }
}

#[test]
fn endpoints_of_one_host_do_not_check_each_other() {
    let shared = "['https://one.example/a', 'https://one.example/b']";
    let (_, notices) = read(&[("rpc_urls", shared), ("agreement", "2")]);
    assert!(
        notices[0].starts_with("core.auth_api.ethereum.rpc_urls: some endpoints share a host"),
        "{notices:?}"
    );
    assert!(read(&[("rpc_urls", shared)]).1.is_empty(), "as substitutes they may");
}

#[test]
fn what_the_settings_give_up_is_shown() {
    let codes = |changed: &[(&str, &str)]| -> Vec<&'static str> {
        Config::from_toml(&text(changed))
            .unwrap_or_else(|error| panic!("{error}"))
            .0
            .posture()
            .codes()
            .collect()
    };
    assert_eq!(codes(&[]), [""; 0]);
    assert_eq!(codes(&[("block", "'safe'")]), [""; 0]);
    assert_eq!(codes(&[("block", "'latest'"), ("confirmations", "30")]), ["chain_not_final"]);
    assert_eq!(codes(&[("rpc_urls", "['http://127.0.0.1:8545']")]), [""; 0]);
    assert_eq!(codes(&[("rpc_urls", "['https://a.example', 'http://node:8545']")]), ["chain_unencrypted"]);
}

#[test]
fn nothing_shows_more_of_an_endpoint_than_its_origin() {
    let shown = format!("{:?}", read(&[]).0);
    assert!(shown.contains("https://one.example") && !shown.contains("hush"), "{shown}");
}
