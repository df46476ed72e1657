//! Tests of what `profile = "production"` refuses.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::*;
use crate::config::{DEFAULTS, Sources};
use crate::operator::chosen::DOCUMENTED;

const TOKEN: &str = "9f86d081884c7d659a2feaa0c55ad015";

/// Nothing in it is unsafe.
const SAFE: &str = "profile = 'production'\ncore.cert_dir = '/nonexistent'\ncore.auth_api.type = 'allowlist'\n\
                    core.onboard.auto_bootstrap_domain = 'kms.example.com'\n";

fn config(toml: &str) -> Config {
    Config::from_toml(toml).unwrap_or_else(|error| panic!("{toml}: {error}")).0
}

fn found(toml: &str) -> Vec<(&'static str, String)> {
    let found = config(&format!("{SAFE}{toml}")).unsafe_settings();
    for setting in &found {
        assert!(!setting.remedy.is_empty() && !setting.problem.is_empty(), "{setting:?}");
        assert!(!setting.to_string().contains("hush"), "{setting}");
    }
    found.into_iter().map(|setting| (setting.code, setting.subject)).collect()
}

fn subjects(toml: &str, code: &str) -> Vec<String> {
    found(toml).into_iter().filter(|(found, _)| *found == code).map(|(_, subject)| subject).collect()
}

#[test]
fn the_profile_is_standard_unless_it_is_production() {
    assert_eq!(config("").profile, Profile::Standard);
    assert_eq!(config("").permitted(), Ok(()));
    assert_eq!(config("profile = 'production'").profile, Profile::Production);
    for wrong in ["profile = 'prod'", "profile = true", "profile = ''", "core.profile = 'production'"] {
        let error = Config::from_toml(wrong).err().unwrap_or_else(|| panic!("{wrong}"));
        assert!(error.to_string().contains("profile: "), "{error}");
    }
}

#[test]
fn a_safe_configuration_is_permitted_and_the_defaults_are_not() {
    assert_eq!(found(""), []);
    assert_eq!(config(SAFE).permitted(), Ok(()));
    let defaults = config("profile = 'production'").unsafe_settings();
    let codes: Vec<_> = defaults.iter().map(|setting| setting.code).collect();
    assert!(codes.contains(&"plain_http") && codes.contains(&"onboarding_without_token"), "{codes:?}");
    let told = config("profile = 'production'").permitted().unwrap_err().to_string();
    assert!(defaults.iter().all(|setting| told.contains(&setting.to_string())), "{told}");
}

#[test]
fn every_insecure_key_is_an_unsafe_setting() {
    let mut section = String::new();
    let mut keys = Vec::new();
    for line in DEFAULTS.lines() {
        let line = line.trim_start_matches("# ");
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            section = name.trim_start_matches('[').to_owned();
        } else if line.starts_with("insecure_") {
            keys.push(format!("{section}.{}", line.split(' ').next().unwrap_or_default()));
        }
    }
    assert!(keys.len() >= 6, "{keys:?}");
    for key in keys {
        let text = match key.as_str() {
            "core.insecure_no_tee" => "core.insecure_no_tee = true\ncore.attest_rpc_cert = false\n\
                                       core.enforce_self_authorization = false"
                .to_owned(),
            "core.notify.insecure_plain_http" => format!(
                "[[core.notify]]\nurl = 'https://pager.example'\nsecret = '{TOKEN}'\ninsecure_plain_http = true"
            ),
            _ => format!("{key} = true"),
        };
        let key = key.replace("notify", "notify[0]");
        assert!(found(&text).iter().any(|(_, subject)| *subject == key), "{key}: {:?}", found(&text));
    }
}

#[test]
fn every_url_is_examined_whatever_its_section() {
    let notify = format!("[[core.notify]]\nsecret = '{TOKEN}'\ninsecure_plain_http = true\nurl = ");
    for (toml, subject) in [
        ("core.attestation.urls.pccs = 'http://pccs.example'".to_owned(), "core.attestation.urls.pccs"),
        (
            "core.attestation.urls.pccs = ['https://pccs.example', 'HTTP:pccs.example']".to_owned(),
            "core.attestation.urls.pccs[1]",
        ),
        (
            "core.image.download_url = 'http://images.example/{OS_IMAGE_HASH}'".to_owned(),
            "core.image.download_url",
        ),
        ("core.image.download_url = 'http://{OS_IMAGE_HASH}.example/'".to_owned(), "core.image.download_url"),
        ("core.attester.address = 'http://10.0.2.2:8090'".to_owned(), "core.attester.address"),
        ("core.attester.address = 'http://[::ffff:10.0.2.2]:8090'".to_owned(), "core.attester.address"),
        ("core.attester.address = 'http://localhost.:8090'".to_owned(), "core.attester.address"),
        (
            "core.traces = { endpoint = 'http://collector.example:4318/', insecure_plain_http = true }"
                .to_owned(),
            "core.traces.endpoint",
        ),
        (format!("{notify}'http://user:hush@pager.example/hush'"), "core.notify[0].url"),
        (format!("{notify}\" ht\\ttp://pager.example\""), "core.notify[0].url"),
    ] {
        assert_eq!(subjects(&toml, "plain_http"), [subject], "{toml}");
    }
    for toml in [
        "core.attestation.urls.pccs = 'http://127.0.0.1:8081'",
        "core.attestation.urls.pccs = 'http://[::ffff:127.0.0.1]:8081'",
        "core.attester.address = 'unix:/var/run/dstack.sock'",
        "rpc.cors_origins = ['http://app.example']",
        "core.site_name = 'see http://wiki.example'",
        // Of policies that do not decide.
        "core.auth_api.webhook.url = 'http://auth-api:8000'",
        "core.auth_api.ethereum.rpc_urls = ['http://node.example']",
    ] {
        assert_eq!(found(toml), [], "{toml}");
    }
    let witness = values::url("list", "w.example+00000000+BGFi http://w.example/prefix");
    assert!(witness.is_some_and(|found| found.problem.contains("http://w.example is called")));
    let chosen = "profile = 'production'\ncore.auth_api.type = 'webhook'\ncore.auth_api.webhook.url = 'http://auth-api'";
    assert!(config(chosen).unsafe_settings().iter().any(|it| it.subject == "core.auth_api.webhook.url"));
}

#[test]
fn tokens_are_examined_wherever_they_come_from() {
    for (toml, subject) in [
        ("core.admin.auth_token = 'hush'", "core.admin.auth_token"),
        ("core.admin.auth_token = 'A token of your own'", "core.admin.auth_token"),
        (
            "[[core.notify]]\nurl = 'https://pager.example'\nsecret = 'hush hush hush hush'",
            "core.notify[0].secret",
        ),
    ] {
        assert_eq!(subjects(toml, "weak_token"), [subject], "{toml}");
    }
    let webhook = "core.auth_api = { type = 'webhook', webhook = { url = 'https://a.example', bearer_token = 'hush' } }";
    let found = config(webhook).unsafe_settings();
    assert!(found.iter().any(|it| it.subject == "core.auth_api.webhook.bearer_token"), "{found:?}");
    let hash = hex::encode(Sha256::digest(b"a token of your own"));
    assert_eq!(
        subjects(&format!("core.admin_token_hash = '0x{hash}'"), "weak_token"),
        ["core.admin_token_hash"]
    );

    let directory = tempfile::tempdir().unwrap();
    let variables = |name: &str| match name {
        "DSTACK_KMS_ADMIN_TOKEN" | "KMS_WEBHOOK_TOKEN" => Some("hush".to_owned()),
        "DSTACK_AGENT_ADDRESS" => Some("http://10.0.2.2:8090".to_owned()),
        _ => None,
    };
    let file = directory.path().join("kms.toml");
    fs::write(&file, SAFE).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let sources = Sources {
        system: Path::new("/nonexistent"),
        working: Path::new("/nonexistent"),
        explicit: Some(&file),
        environment: &variables,
    };
    let (config, _) = Config::from_sources(&sources).unwrap();
    let found: Vec<_> = config.unsafe_settings().into_iter().map(|it| (it.code, it.subject)).collect();
    let expected = [("plain_http", "DSTACK_AGENT_ADDRESS"), ("weak_token", "DSTACK_KMS_ADMIN_TOKEN")];
    let mut found: Vec<_> = found.iter().map(|(code, subject)| (*code, subject.as_str())).collect();
    found.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn an_open_listener_needs_tls_or_a_token() {
    for (toml, expected) in [
        (
            "core.admin = { enabled = true, address = '10.0.0.5', insecure_plain_http = true }",
            Some("core.admin.address"),
        ),
        (
            "core.admin = { enabled = true, address = '::', insecure_plain_http = true }",
            Some("core.admin.address"),
        ),
        ("core.admin = { enabled = true, address = '127.0.0.9' }", None),
        ("core.admin = { enabled = true, address = '::ffff:127.0.0.1', insecure_plain_http = true }", None),
        ("core.admin = { enabled = true, address = '10.0.0.5', tls = { key = '/k', certs = '/c' } }", None),
        ("core.admin = { enabled = false, address = '10.0.0.5', insecure_plain_http = true }", None),
    ] {
        let subjects = subjects(toml, "admin_unencrypted");
        assert_eq!(subjects.first().map(String::as_str), expected, "{toml}");
    }
    for (toml, expected) in [
        ("auth_token = ''", true),
        ("auth_token = ''\nenabled = false", false),
        ("auth_token = ''\naddress = '127.0.0.1'", false),
        ("auth_token = ''\nauto_bootstrap_domain = 'kms.example.com'", false),
    ] {
        let toml = format!(
            "profile = 'production'\ncore.auth_api.type = 'allowlist'\ncore.cert_dir = '/nonexistent'\n[core.onboard]\n{toml}"
        );
        let found = config(&toml).unsafe_settings();
        assert_eq!(found.iter().any(|it| it.code == "onboarding_without_token"), expected, "{toml}");
    }
}

#[test]
fn files_with_secrets_are_for_their_owner() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let mode = |name: &str, mode: u32| {
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    fs::create_dir(path("keys")).unwrap();
    fs::write(path("secret"), TOKEN).unwrap();
    fs::write(path("htpasswd"), "").unwrap();
    fs::write(path("headers"), "").unwrap();
    let text = format!(
        "{}\n[core.admin]\nenabled = true\nauth_token = '{TOKEN}'\nhtpasswd_file = '{}'\n[[core.notify]]\nurl = 'https://pager.example'\n\
         secret_file = '{}'\n[core.traces]\nheader_file = '{}'\n",
        SAFE.replace("/nonexistent", &path("keys").display().to_string()),
        path("htpasswd").display(),
        path("secret").display(),
        path("headers").display(),
    );
    fs::write(path("kms.toml"), &text).unwrap();
    let found = || {
        let sources = Sources {
            system: Path::new("/nonexistent"),
            working: Path::new("/nonexistent"),
            explicit: Some(&path("kms.toml")),
            environment: &|_| None,
        };
        let found = Config::from_sources(&sources).unwrap().0.unsafe_settings();
        found.into_iter().map(|it| format!("{} {}", it.code, it.subject)).collect::<Vec<_>>()
    };
    for (name, loose) in
        [("keys", 0o755), ("secret", 0o644), ("htpasswd", 0o660), ("headers", 0o644), ("kms.toml", 0o644)]
    {
        mode(name, loose);
    }
    let file = path("kms.toml").display().to_string();
    let mut expected = vec![
        "readable_by_others core.admin.htpasswd_file".to_owned(),
        "readable_by_others core.cert_dir".to_owned(),
        "readable_by_others core.notify[0].secret_file".to_owned(),
        "readable_by_others core.traces.header_file".to_owned(),
        format!("readable_by_others {file}"),
    ];
    let mut all = found();
    all.sort();
    expected.sort();
    assert_eq!(all, expected);
    for (name, right) in
        [("keys", 0o700), ("secret", 0o600), ("htpasswd", 0o640), ("headers", 0o600), ("kms.toml", 0o400)]
    {
        mode(name, right);
    }
    assert_eq!(found(), [""; 0]);
    fs::write(path("secret"), "hush hush hush hush").unwrap();
    assert_eq!(found(), ["weak_token core.notify[0].secret_file"]);
}

#[test]
fn each_relaxation_has_its_own_remedy() {
    let relaxed = "core.attest_rpc_cert = false\ncore.enforce_self_authorization = false\n\
                   core.image.verify = false\ncore.insecure_world_readable_keys = true\n\
                   core.tcb = { grace = { OutOfDate = '60d' }, advisories = ['INTEL-SA-00837'], fmspcs = ['b0c06f000000'] }\n\
                   core.auth_api.allowlist.insecure_empty_devices_allow_any = true";
    for (code, subject) in found(relaxed) {
        assert!(subject.starts_with("core."), "{code}: {subject}");
    }
    assert_eq!(found(relaxed).len(), 8);
}

/// The values of tokens, secrets and passwords in a text: what follows `=`, and `:` in YAML.
fn values_in(text: &str, separators: &[char]) -> BTreeSet<String> {
    let lower = text.to_lowercase();
    let mut values = BTreeSet::new();
    for word in ["token", "secret", "password"] {
        for (at, _) in lower.match_indices(word) {
            let rest = lower[at + word.len()..].trim_start_matches(['\'', '"', ']']).trim_start_matches(' ');
            let Some(rest) = rest.strip_prefix(separators) else { continue };
            let rest = rest.trim_start_matches(' ');
            let value = match rest.chars().next() {
                Some(quote @ ('"' | '\'')) => rest[1..].split(quote).next().unwrap_or_default(),
                _ => rest.split([' ', '\n', '`', ',', '&', '"']).next().unwrap_or_default(),
            };
            if !value.is_empty() && !value.starts_with(['$', '<', '?']) {
                values.insert(value.to_owned());
            }
        }
    }
    for mark in ["x-admin-token: ", "x-onboard-token: ", "--user "] {
        for (at, _) in lower.match_indices(mark) {
            let word = lower[at + mark.len()..].split([' ', '\n', '`', '"', '\'']).next().unwrap_or_default();
            let value = word.rsplit(':').next().unwrap_or_default();
            if !value.is_empty() && !value.starts_with(['$', '<', '?']) {
                values.insert(value.to_owned());
            }
        }
    }
    values
}

#[test]
fn every_value_in_the_documents_is_known_and_no_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = vec![root.join("README.md"), root.join("kms.toml"), root.join("SECURITY.md")];
    let mut directories = vec![root.join("docs"), root.join("docker")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { directories.push(path) } else { documents.push(path) }
        }
    }
    assert!(documents.len() > 40);
    let mut values = BTreeSet::new();
    for document in documents {
        let Ok(text) = fs::read_to_string(&document) else { continue };
        let is_yaml = document.extension().is_some_and(|extension| extension == "yaml");
        let separators: &[char] = if is_yaml { &['=', ':'] } else { &['='] };
        values.extend(values_in(&text, separators));
    }
    assert_eq!(values, DOCUMENTED.map(str::to_owned).into());
}
