//! Layers, findings and notices of whole configurations.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

fn read(text: &str) -> (Config, Vec<Notice>) {
    Config::from_toml(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn findings(text: &str) -> Vec<String> {
    let error = Config::from_toml(text).err().unwrap_or_else(|| panic!("no finding in\n{text}"));
    error.findings.iter().map(ToString::to_string).collect()
}

fn codes(text: &str) -> Vec<&'static str> {
    read(text).0.posture().codes().collect()
}

#[test]
fn lite_attestation_and_acpi_tables_can_be_narrowed() {
    let (image, tables) = ("0a".repeat(32), "0B".repeat(48));
    let pins = format!("core.image.acpi_digests = {{ {image} = ['{tables}'] }}");
    let (config, _) = read(&format!("{pins}\ncore.image.lite = 'refuse'"));
    let read_image = config.core.image;
    assert_eq!(read_image.lite, LiteAttestation::Refuse);
    let expected = AcpiPins::from([([0x0a; 32], vec![[0x0b; 48]])]);
    assert_eq!(read_image.acpi_digests, expected);
    // They hold with the tables of a program too.
    let (config, _) = read(&format!("{pins}\ncore.image.acpi_tables = 'dstack-acpi-tables'"));
    assert_eq!(config.core.image.acpi_digests, expected);
    for (text, finding) in [
        ("core.image.lite = 'deny'".to_owned(), "core.image.lite: must be \"allow\" or \"refuse\""),
        (
            format!("core.image.acpi_digests = {{ {image} = [], {} = [] }}", image.to_uppercase()),
            "core.image.acpi_digests: names an image twice",
        ),
        (
            "core.image.acpi_digests = { aa = [] }".to_owned(),
            "core.image.acpi_digests: its keys must be image hashes, 64 hex digits",
        ),
        (
            format!("core.image.acpi_digests = {{ {image} = '{tables}' }}"),
            "core.image.acpi_digests: its values must be lists of SHA-384 values, 96 hex digits each",
        ),
        (
            format!("core.image.acpi_digests = {{ {image} = ['{image}'] }}"),
            "core.image.acpi_digests: its values must be lists of SHA-384 values, 96 hex digits each",
        ),
    ] {
        let found = findings(&text);
        assert!(found.iter().any(|found| found.contains(finding)), "{text}: {found:?}");
    }
}

#[test]
fn the_defaults_are_the_peers() {
    let (config, notices) = read("");
    assert_eq!(notices, []);
    let Config { rpc, core, .. } = config;
    assert_eq!((rpc.address.to_string(), rpc.port), ("0.0.0.0".to_owned(), 8000));
    assert_eq!(rpc.client_certificates, ClientCertificates::Optional);
    assert_eq!(rpc.limits.of("SignCert"), None);
    assert_eq!(rpc.cors_origins, Vec::<String>::new());
    assert_eq!(core.cert_dir, Path::new("/etc/kms/certs"));
    assert_eq!(core.site_name, "");
    assert!(core.reserved_domains.is_empty());
    assert!(core.enforce_self_authorization && core.attest_rpc_cert);
    assert!(!core.sev_snp_key_release && !core.aws_nitro_tpm_key_release && !core.nitro_enclave_key_release);
    assert!(!core.insecure_no_tee && !core.insecure_world_readable_keys);
    assert_eq!(core.admin_token_hash, None);
    let [pccs] = &core.attestation.pccs[..] else { panic!("one collateral service by default") };
    assert_eq!(pccs.as_str(), "https://pccs.phala.network");
    assert_eq!(core.attestation.amd_kds.as_str(), "https://kdsintf.amd.com/vcek/v1");
    assert_eq!(core.attestation.tdx_root, None);
    assert_eq!(core.attester, Attester::GuestAgent { address: None });
    let image = Image {
        verify: true,
        cache_dir: PathBuf::from("/usr/share/dstack/images"),
        download_url: "http://localhost:8000/{OS_IMAGE_HASH}.tar.gz".to_owned(),
        download_timeout: Some(Duration::from_secs(120)),
        lite: LiteAttestation::Allow,
        acpi_tables: None,
        acpi_digests: AcpiPins::default(),
        ca_file: None,
    };
    assert_eq!(core.image, image);
    let AuthApi::Webhook(webhook) = &core.auth_api else { panic!("a webhook by default") };
    assert_eq!(webhook.url.as_str(), "http://auth-api:8000");
    assert!(core.onboard.enabled);
    assert_eq!(core.onboard.auto_bootstrap_domain, None);
    assert_eq!((core.onboard.address.to_string(), core.onboard.port), ("0.0.0.0".to_owned(), 8000));
    assert!(core.onboard.auth_token.is_none());
    assert_eq!(core.onboard.public_handover, PublicHandover::Enabled);
    assert_eq!(core.admin.tls, None);
    assert!(!core.admin.enabled && !core.admin.insecure_no_auth);
    assert_eq!((core.admin.address.to_string(), core.admin.port), ("127.0.0.1".to_owned(), 8001));
    assert!(core.admin.auth_token.is_none() && core.admin.htpasswd_file.is_none());
    assert!(core.metrics.enabled);
    assert_eq!(core.audit.file, Path::new("/etc/kms/certs/audit.jsonl"));
    assert_eq!((core.audit.reserve, core.audit.on_failure), (16 << 20, AuditFailure::Retry));
    assert_eq!(core.events.index, Path::new("/etc/kms/certs/events.redb"));
    assert_eq!((core.events.keep, core.events.fifo.as_deref()), (1_000_000, None));
    let storm = DenialStorm { count: 100, window: Duration::from_secs(60) };
    assert_eq!((core.events.denial_storm, core.notify.len()), (storm, 0));
    assert_eq!(core.freeze.file, Path::new("/etc/kms/certs/frozen.json"));
    assert_eq!(core.limits.unauthenticated_per_second.get(), 2000);
    let shares =
        [core.limits.app, core.limits.instance].map(|rate| (rate.per_second.get(), rate.burst.get()));
    assert_eq!(shares, [(50, 20_000), (2, 200)]);
    assert_eq!(core.limits.request_timeout, Duration::from_secs(50));
}

#[test]
fn the_defaults_can_be_given_again() {
    let (_, notices) = read(DEFAULTS);
    assert_eq!(notices, []);
}

#[test]
fn every_key_in_comments_of_the_defaults_exists() {
    // A line such as `# tdx = "root.pem"  # …` is a key without a default.
    let is_key = |text: &str| text.split(' ').nth(1) == Some("=");
    let is_section = |text: &str| text.starts_with("[[") || text.starts_with("[domains.");
    let text: String = DEFAULTS
        .lines()
        .map(|line| match line.strip_prefix("# ").filter(|rest| is_key(rest) || is_section(rest)) {
            Some(key) => format!("{key}\n"),
            None => format!("{line}\n"),
        })
        .collect();
    let text = text.replace("trust_anchors = false", "trust_anchors = true");
    assert!(
        text.contains("\ntdx = ") && text.contains("\nadmin_token_hash = ") && text.contains("\nlimits = ")
    );
    let (config, _) = read(&text);
    assert_eq!(config.core.attestation.tdx_root, Some(PathBuf::from("root.pem")));
    assert_eq!(config.rpc.limits.of("SignCert"), Some(1 << 20));
    assert_eq!(config.core.notify.len(), 1);
    assert_eq!(config.domains.len(), 1);
}

struct Machine {
    directory: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["etc", "cwd"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self { directory }
    }

    fn with(self, name: &str, text: &str) -> Self {
        fs::write(self.directory.path().join(name), text).unwrap();
        self
    }

    fn load(
        &self,
        explicit: Option<&str>,
        variables: &[(&str, &str)],
    ) -> Result<(Config, Vec<Notice>), ConfigError> {
        let root = self.directory.path();
        let explicit = explicit.map(|name| root.join(name));
        let environment = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Config::from_sources(&Sources {
            system: &root.join("etc"),
            working: &root.join("cwd"),
            explicit: explicit.as_deref(),
            environment: &environment,
        })
    }
}

#[test]
fn later_layers_win_key_by_key() {
    let machine = Machine::new()
        .with("etc/kms.toml", "[rpc]\nport = 1\n[core]\nsite_name = 'a'\n[core.image]\nverify = false")
        .with("etc/kms.json", r#"{"rpc": {"port": 2}, "core": {"site_name": "b"}}"#)
        .with("cwd/kms.toml", "[rpc]\nport = 3")
        .with("cwd/kms.json", r#"{"rpc": {"port": 4}}"#)
        .with("last.conf", r#"{"rpc": {"port": 5}}"#)
        .with("last.toml", "rpc.port = 6");
    for (explicit, port, files) in [(None, 4, 4), (Some("last.conf"), 5, 5), (Some("last.toml"), 6, 5)] {
        let (config, _) = machine.load(explicit, &[]).unwrap();
        assert_eq!(config.rpc.port, port);
        assert_eq!(config.core.site_name, "b");
        assert!(!config.core.image.verify);
        assert_eq!(config.files.len(), files);
    }
}

#[test]
fn one_file_in_two_places_is_read_once() {
    let machine = Machine::new()
        .with("cwd/kms.toml", "core.audit.fil = 'x'\nrpc.port = 3")
        .with("cwd/kms.json", r#"{"rpc": {"port": 4}}"#);
    let text = machine.load(Some("cwd/kms.toml"), &[]).err().unwrap().to_string();
    assert_eq!(text.matches("core.audit.fil").count(), 1, "{text}");
    let machine = machine.with("cwd/kms.toml", "rpc.port = 3");
    let (config, _) = machine.load(Some("cwd/../cwd/kms.toml"), &[]).unwrap();
    assert_eq!((config.rpc.port, config.files.len()), (3, 2), "{:?}", config.files);
    assert!(config.files[1].ends_with("cwd/../cwd/kms.toml"), "as it was named: {:?}", config.files);
}

#[test]
fn a_missing_file_is_skipped_unless_it_was_asked_for() {
    assert!(Machine::new().load(None, &[]).is_ok());
    let error = Machine::new().load(Some("absent.toml"), &[]).err().unwrap();
    assert!(error.to_string().contains("absent.toml: cannot be read: No such file"), "{error}");
}

#[test]
fn the_admin_listener_speaks_https_with_a_key_and_certificates() {
    let text = r#"core.admin.tls = { key = "/k", certs = "/c", create_if_missing = true, hosts = ["kms.example", "10.0.0.5"] }"#;
    let hosts = ["kms.example", "10.0.0.5"].map(|name| ReservedName::parse(name).expect("a name"));
    let expected = AdminTls {
        key: PathBuf::from("/k"),
        certs: PathBuf::from("/c"),
        missing_files: MissingFiles::Created,
        hosts: hosts.to_vec(),
    };
    assert_eq!(read(text).0.core.admin.tls.as_deref(), Some(&expected));
    let missing = "must name a file: the admin listener speaks HTTPS with a key and certificates";
    for (text, key) in [
        (r#"core.admin.tls.key = "/k""#, "certs"),
        (r#"core.admin.tls.certs = "/c""#, "key"),
        ("core.admin.tls.create_if_missing = true", "key"),
        (r#"core.admin.tls.hosts = ["kms.example"]"#, "key"),
    ] {
        assert_eq!(findings(text), [format!("core.admin.tls.{key}: {missing}")], "{text}");
    }
    let handover = "core.onboard.public_key_handover = false\ncore.admin.enabled = true\n";
    let tls = "core.admin.tls = { key = \"/k\", certs = \"/c\" }\n";
    for (text, notices) in [
        (format!("{handover}core.admin.auth_token = \"t\"\n{tls}"), 0),
        (format!("{handover}core.admin.auth_token = \"t\""), 1),
        (format!("{handover}core.admin.insecure_no_auth = true\n{tls}"), 1),
        ("core.onboard.public_key_handover = false".to_owned(), 1),
    ] {
        assert_eq!(read(&text).1.len(), notices, "{text}: {:?}", read(&text).1);
    }
    for host in ["*.example", "kms.example:8001", "https://kms.example", ""] {
        let text = format!(r#"core.admin.tls = {{ key = "/k", certs = "/c", hosts = ["{host}"] }}"#);
        assert_eq!(findings(&text).len(), 1, "{text}");
    }
}

#[test]
fn everything_that_is_wrong_is_reported_at_once_with_its_file() {
    let machine = Machine::new()
        .with("etc/kms.toml", "[rpc]\nprot = 1\nport = 'x'")
        .with("cwd/kms.json", r#"{"core": {"onboard": {"enabled": 1}}}"#)
        .with("cwd/kms.toml", "broken =");
    let error = machine.load(Some("absent.toml"), &[]).err().unwrap();
    let text = error.to_string();
    for part in [
        "rpc.prot: unknown key, did you mean `port`? (in ",
        "etc/kms.toml)",
        "rpc.port: must be a port, a whole number from 0 to 65535 (in ",
        "core.onboard.enabled: must be true or false (in ",
        "cwd/kms.json)",
        "cwd/kms.toml: is not valid TOML: line 1: ",
        "absent.toml: cannot be read",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert_eq!(error.findings.len(), 5, "{text}");
}

#[test]
fn every_wrong_value_is_a_finding() {
    for (text, expected) in [
        ("rpc.address = 'host'", "rpc.address: must be an IP address"),
        ("rpc.port = 65536", "rpc.port: must be a port"),
        ("rpc.port = '8000'", "rpc.port: must be a port"),
        ("rpc.limits = 5", "rpc.limits: must be a table"),
        ("rpc.limits.GetMeta = '65MiB'", "rpc.limits.GetMeta: must be a size up to 64MiB such as 512KiB"),
        ("limits.GetMeta = true", "limits.GetMeta: must be a size"),
        ("rpc = 5", "rpc: must be a table"),
        ("core.cert_dir = ''", "core.cert_dir: must name a directory"),
        ("core.site_name = 5", "core.site_name: must be a text in quotes"),
        ("core.reserved_domains = 'kms2'", "core.reserved_domains: must be a list of texts in quotes"),
        ("core.reserved_domains = [5]", "core.reserved_domains: must be a text in quotes"),
        (
            "core.reserved_domains = ['kms2.example', '*.example']",
            "core.reserved_domains: must be DNS names and IP addresses, without wildcards, ports and final dots",
        ),
        ("core.attest_rpc_cert = 'no'", "core.attest_rpc_cert: must be true or false"),
        ("core.admin_token_hash = 'abc'", "core.admin_token_hash: must be the 64 hex digits of a SHA-256"),
        ("core.attestation.urls.pccs = []", "core.attestation.urls.pccs: must name at least one URL"),
        (
            "core.attestation.urls.pccs = ['ftp://x']",
            "core.attestation.urls.pccs: must be an http or https URL",
        ),
        ("core.pccs_url = 'pccs'", "core.attestation.urls.pccs: must be an http or https URL"),
        (
            "core.attestation.root_ca.tdx = 'root.pem'",
            "core.attestation.root_ca.tdx: needs core.attestation.insecure_allow_external_trust_anchors = true",
        ),
        (
            "core.attestation.pccs = ''",
            "core.attestation.pccs: unknown key, the keys here are insecure_allow",
        ),
        (
            "core.attester.type = 'tpm'",
            "core.attester.type: must be \"guest_agent\", \"configfs_tsm\" or \"none\"",
        ),
        ("core.attester.type = 'none'", "core.attester.type: \"none\" needs core.insecure_no_tee = true"),
        ("core.attester.address = '/run/x'", "core.attester.address: must start with unix: or http://"),
        ("core.attester.address = 'https://x'", "core.attester.address: must start with unix: or http://"),
        (
            "core.attester.type = 'configfs_tsm'",
            "core.attester.event_log: must name the file with the runtime events of this machine",
        ),
        (
            "core.image.download_timeout = '2 minutes'",
            "core.image.download_timeout: must be a duration such as 30s",
        ),
        (
            "core.auth_api.type = 'simple'",
            "core.auth_api.type: must be \"webhook\", \"allowlist\", \"ethereum\" or \"dev\"",
        ),
        ("core.auth_api.webhook.url = 'auth-api'", "core.auth_api.webhook.url: must be an http or https URL"),
        (
            "core.auth_api = {type = 'allowlist', allowlist.path = ''}",
            "core.auth_api.allowlist.path: must name a file",
        ),
        (
            "core.onboard.auto_bootstrap_domain = 'a_b'",
            "core.onboard.auto_bootstrap_domain: domain contains an invalid DNS label",
        ),
        ("core.events.keep = 999", "core.events.keep: must be a whole number from 1000 to 10000000"),
        ("core.limits.max_connections = 0", "core.limits.max_connections: must be a whole number from 1"),
        (
            "core.limits.max_request_memory = '1MiB'",
            "core.limits.max_request_memory: must be \"auto\" or a size",
        ),
        (
            "core.limits.max_request_memory = 'much'",
            "core.limits.max_request_memory: must be \"auto\" or a size",
        ),
        ("core.limits.request_timeout = 'never'", "core.limits.request_timeout: must have an end"),
        ("core.limits.request_timeout = '0s'", "core.limits.request_timeout: must have an end"),
        ("core.onboard.quote_enabled = 'no'", "core.onboard.quote_enabled: must be true or false"),
    ] {
        let findings = findings(text);
        assert_eq!(findings.len(), 1, "{text}: {findings:?}");
        assert!(findings[0].starts_with(expected), "{text}: {findings:?}");
    }
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_name() {
    for (text, expected) in [
        ("cores = {}", "cores: unknown key, did you mean `core`?"),
        ("core.cert_dri = '/x'", "core.cert_dri: unknown key, did you mean `cert_dir`?"),
        ("core.enforce_self_authorisation = false", "did you mean `enforce_self_authorization`?"),
        ("core.auth_api.webhok.url = 'x'", "core.auth_api.webhok: unknown key, did you mean `webhook`?"),
        ("core.image.verfiy = false", "did you mean `verify`?"),
        ("limits = { SignCrt = '1MiB' }", "limits.SignCrt: unknown key, did you mean `SignCert`?"),
        ("rpc.limits.getmeta = '1KiB'", "rpc.limits.getmeta: unknown key, did you mean `GetMeta`?"),
        ("core.metrics.xyz = 1", "core.metrics.xyz: unknown key, the keys here are enabled"),
    ] {
        let findings = findings(text);
        assert_eq!(findings.len(), 1, "{text}: {findings:?}");
        assert!(findings[0].contains(expected), "{text}: {findings:?}");
    }
}

#[test]
fn settings_that_contradict_each_other_are_findings() {
    for (text, expected) in [
        ("core.insecure_no_tee = true", vec!["core.attest_rpc_cert", "core.enforce_self_authorization"]),
        (
            "core = {insecure_no_tee = true, attest_rpc_cert = false, enforce_self_authorization = false, \
             attester.type = 'guest_agent'}",
            vec!["core.attester.type"],
        ),
        ("core.admin = {enabled = true, auth_token = ' ', port = 8000}", vec!["core.admin.port"]),
        (
            "core.admin = {enabled = true, auth_token = 't', port = 8000}",
            vec!["core.admin.port: 8000 is the port of"],
        ),
        (
            "core.admin = {enabled = true, auth_token = 't', address = '10.0.0.5'}",
            vec!["core.admin.address: 10.0.0.5 is not this machine, and without core.admin.tls"],
        ),
        ("core.admin = {enabled = true, address = '::'}", vec!["core.admin.address: :: is not this machine"]),
        (
            "core = {admin = {enabled = true, auth_token = 't'}, auth_api.webhook.url = 'http://127.0.0.1:8001'}",
            vec!["core.admin.port: 8001 is the port of core.auth_api.webhook.url too"],
        ),
    ] {
        let findings = findings(text);
        assert_eq!(findings.len(), expected.len(), "{text}: {findings:?}");
        for (finding, expected) in findings.iter().zip(expected) {
            assert!(finding.starts_with(expected), "{text}: {findings:?}");
        }
    }
}

/// Every key that a file for dstack-kms 0.6.0 can have, with the values of a machine of its acceptance suite.
const RELEASED_0_6_0: &str = include_str!("../../tests/support/released-0.6.0.toml");

#[test]
fn attestatio_005_every_key_of_the_released_peer_is_read_or_explained() {
    let (config, notices) = read(RELEASED_0_6_0);
    let explained: Vec<&str> = notices.iter().map(|notice| notice.key.as_str()).collect();
    // What is not named here is obeyed; each notice says what the key means here.
    for key in [
        "default",
        "core.attestation.allowed_collateral_hosts",
        "core.attestation.urls.amd_kds",
        "core.attestation.root_ca.gcp_tpm",
        "core.gpu.enabled",
        "core.onboard.quote_enabled",
    ] {
        assert!(explained.contains(&key), "{key}: {explained:?}");
    }
    let core = &config.core;
    assert!(core.admin.tls.is_some());
    assert_eq!(core.onboard.public_handover, PublicHandover::Disabled);
    assert_eq!(
        core.onboard.auto_bootstrap_domain.as_ref().map(ToString::to_string).as_deref(),
        Some("localhost")
    );
    assert!(!core.image.verify && !core.enforce_self_authorization);
    assert!(matches!(&core.auth_api, AuthApi::Dev { gateway_app_id } if gateway_app_id == "any"));
    assert_eq!(core.image.download_timeout, Some(Duration::from_secs(2)));
    assert_eq!(config.rpc.port, 18000);
}

#[test]
fn keys_of_later_releases_that_would_mean_something_else_here_are_refused_by_name() {
    let [finding] = &findings("core.keyring_dir = '/var/lib/kms/keyring'")[..] else { panic!("one finding") };
    assert!(finding.starts_with("core.keyring_dir: the keyring of dstack-kms 0.6.6"), "{finding}");
}

#[test]
fn what_deployed_files_still_contain_is_accepted_and_said() {
    for (text, expected) in [
        ("[default]\nworkers = 8\nident = 'dstack KMS'", vec!["default: this table has no effect"]),
        ("workers = 4", vec!["workers: a setting of the peer's HTTP server"]),
        ("rpc.keep_alive = 10", vec!["rpc.keep_alive: a setting of the peer's HTTP server"]),
        ("core.onboard.ident = 'x'", vec!["core.onboard.ident: a setting"]),
        ("core.admin.log_level = 'off'", vec!["core.admin.log_level: a setting"]),
        ("core.gpu.enabled = true", vec!["core.gpu.enabled: retired"]),
        ("core.subject_postfix = '.x'", vec![]),
        ("core.onboard.quote_enabled = false", vec!["core.onboard.quote_enabled: retired and IGNORED"]),
        ("core.onboard.quote_enabled = true", vec!["core.onboard.quote_enabled: retired"]),
        ("core.pccs_url = 'https://pccs.example'", vec!["core.pccs_url: retired, read as"]),
        (
            "core.amd_kds_base_url = 'https://amd.example'",
            vec!["core.amd_kds_base_url: retired, read as", "core.attestation.urls.amd_kds: without effect"],
        ),
        (
            "core.attestation.urls.amd_kds = 'https://amd.example'",
            vec!["core.attestation.urls.amd_kds: without effect"],
        ),
        ("core.sev_snp_key_release = true", vec!["core.sev_snp_key_release: without effect"]),
        ("core.aws_nitro_tpm_key_release = true", vec!["core.aws_nitro_tpm_key_release: without effect"]),
        ("core.nitro_enclave_key_release = true", vec!["core.nitro_enclave_key_release: without effect"]),
        ("core.nitro_enclave_key_release = false", vec![]),
        (
            "limits = { json = '1MiB', data-form = '2MiB' }",
            vec!["limits.data-form: a limit", "limits.json: a"],
        ),
        ("core.admin.auth_token = 't'", vec!["core.admin.enabled: false"]),
        (
            "rpc.tls.key = '/elsewhere/rpc.key'",
            vec!["rpc.tls.key: without effect: the listener uses the file in core.cert_dir"],
        ),
        ("core.cert_dir = '/kms'\nrpc.tls.key = '/kms/rpc.key'\nrpc.tls.certs = '/kms/rpc.crt'", vec![]),
        (
            "core.attestation = {insecure_allow_external_trust_anchors = true, root_ca.gcp_tpm = 'x.pem'}",
            vec!["core.attestation.root_ca.gcp_tpm: without effect"],
        ),
    ] {
        let (_, notices) = read(text);
        let notices: Vec<String> = notices.iter().map(ToString::to_string).collect();
        assert_eq!(notices.len(), expected.len(), "{text}: {notices:?}");
        for (notice, expected) in notices.iter().zip(expected) {
            assert!(notice.starts_with(expected), "{text}: {notices:?}");
        }
    }
}

#[test]
fn an_old_file_never_turns_attestation_off() {
    let (config, _) = read("core.onboard.quote_enabled = false");
    assert_eq!(config.core.attester, Attester::GuestAgent { address: None });
    assert!(config.core.attest_rpc_cert);
}

#[test]
fn retired_urls_are_read_where_nothing_newer_is_said() {
    for (text, expected) in [
        ("core.pccs_url = 'https://old.example'", "https://old.example"),
        ("core.pccs_url = ''", "https://pccs.phala.network"),
        (
            "core.pccs_url = 'https://old.example'\ncore.attestation.urls.pccs = 'https://new.example'",
            "https://new.example",
        ),
    ] {
        assert_eq!(read(text).0.core.attestation.pccs[0].as_str(), expected);
    }
    let (config, _) = read("core.attestation.urls.pccs = ['https://a.example', 'https://b.example/x/']");
    let urls: Vec<_> = config.core.attestation.pccs.iter().map(Endpoint::as_str).collect();
    assert_eq!(urls, ["https://a.example", "https://b.example/x/"]);
}

#[test]
fn the_legacy_token_hash_is_read() {
    let digits = "ab".repeat(32);
    let (config, notices) = read(&format!("core.admin_token_hash = '{digits}'"));
    assert_eq!(config.core.admin_token_hash, Some([0xab; 32]));
    assert_eq!(notices, []);
    assert_eq!(read("core.admin_token_hash = ''").0.core.admin_token_hash, None);
}

#[test]
fn body_limits_of_the_top_level_reach_the_public_listeners() {
    let (config, _) = read(
        "limits = {SignCert = '1MiB', GetMeta = 100}\nrpc.limits.GetMeta = '1KiB'\ncore.admin.limits.ClearImageCache = '1B'",
    );
    assert_eq!(config.rpc.limits.of("SignCert"), Some(1 << 20));
    assert_eq!(config.rpc.limits.of("GetMeta"), Some(1024));
    assert_eq!(config.core.onboard.limits.of("GetMeta"), Some(100));
    assert_eq!(config.core.admin.limits.of("SignCert"), None);
}

#[test]
fn the_environment_fills_in_what_no_file_says() {
    let empty = Machine::new();
    let all = [("DSTACK_KMS_ADMIN_TOKEN", " first "), ("ADMIN_API_TOKEN", "second")];
    let token = |machine: &Machine, variables: &[(&str, &str)]| {
        let (config, _) = machine.load(None, variables).unwrap();
        config.core.admin.auth_token.map(|token| token.expose().to_owned())
    };
    assert_eq!(token(&empty, &all).as_deref(), Some("first"));
    assert_eq!(token(&empty, &[("DSTACK_KMS_ADMIN_TOKEN", " "), all[1]]).as_deref(), Some("second"));
    assert_eq!(token(&empty, &[]), None);
    let file = Machine::new().with("cwd/kms.toml", "core.admin.auth_token = 'file'");
    assert_eq!(token(&file, &all).as_deref(), Some("file"));
    let (config, _) = empty
        .load(None, &[("DSTACK_KMS_ONBOARD_TOKEN", "o"), ("DSTACK_AGENT_ADDRESS", "unix:/agent.sock")])
        .unwrap();
    assert!(config.core.onboard.auth_token.is_some_and(|token| token.expose() == "o"));
    assert_eq!(config.core.attester, Attester::GuestAgent { address: Some("unix:/agent.sock".to_owned()) });
}

#[test]
fn policies_and_attesters_are_closed_sets() {
    let (config, _) = read("core.auth_api = {type = 'allowlist', allowlist.path = '/a.json'}");
    let file = |config: Config| match config.core.auth_api {
        AuthApi::Allowlist { path, empty_devices } => (path, empty_devices),
        _ => panic!("an allowlist"),
    };
    assert_eq!(file(config), (PathBuf::from("/a.json"), EmptyDevices::NoDevice));
    for (key, expected) in [
        ("insecure_empty_devices_allow_any = true", EmptyDevices::AnyDevice),
        ("insecure_empty_devices_allow_any = false", EmptyDevices::NoDevice),
        // Retired: neither of its values opens anything.
        ("strict_devices = true", EmptyDevices::NoDevice),
        ("strict_devices = false", EmptyDevices::NoDevice),
    ] {
        let (config, notices) =
            read(&format!("core.auth_api = {{type = 'allowlist', allowlist = {{path = '/a.json', {key}}}}}"));
        assert_eq!(file(config), (PathBuf::from("/a.json"), expected), "{key}");
        let is_noticed = notices.iter().any(|notice| notice.key.ends_with("strict_devices"));
        assert_eq!(is_noticed, key.starts_with("strict"), "{key}");
    }
    let (config, _) = read("core.auth_api = {type = 'dev', dev.gateway_app_id = 'x'}");
    assert!(matches!(config.core.auth_api, AuthApi::Dev { gateway_app_id } if gateway_app_id == "x"));
    let (config, _) = read("core.attester = {type = 'configfs_tsm', event_log = '/log'}");
    assert_eq!(config.core.attester, Attester::ConfigfsTsm { event_log: PathBuf::from("/log") });
    let (config, _) =
        read("core = {insecure_no_tee = true, attest_rpc_cert = false, enforce_self_authorization = false}");
    assert_eq!(config.core.attester, Attester::None);
}

#[test]
fn the_posture_names_everything_that_is_relaxed() {
    let strict = "core.auth_api.webhook.url = 'https://auth.example'";
    assert_eq!(codes(strict), [""; 0]);
    for (text, expected) in [
        ("", vec!["webhook_unencrypted"]),
        ("core.auth_api.webhook.url = 'http://127.0.0.1:3000'", vec![]),
        ("core.auth_api.type = 'dev'", vec!["dev_auth"]),
        ("core = {auth_api.type = 'allowlist', image.verify = false}", vec!["os_image_not_verified"]),
        (
            "core = {auth_api.type = 'allowlist', attestation = \
             {insecure_allow_external_trust_anchors = true, root_ca.tdx = 'r.pem'}}",
            vec!["external_trust_anchors"],
        ),
        (
            "core = {auth_api.type = 'allowlist', admin = {enabled = true, address = '10.0.0.5', insecure_plain_http = true}}",
            vec!["admin_unencrypted"],
        ),
        (
            "core = {auth_api.type = 'allowlist', admin = {enabled = true, insecure_plain_http = true}}",
            vec![],
        ),
        (
            "core = {auth_api.type = 'dev', insecure_no_tee = true, attest_rpc_cert = false, \
             enforce_self_authorization = false, insecure_world_readable_keys = true, \
             admin = {enabled = true, insecure_no_auth = true}}",
            vec![
                "no_tee",
                "dev_auth",
                "rpc_cert_not_attested",
                "self_authorization_off",
                "admin_without_credentials",
                "world_readable_keys",
            ],
        ),
    ] {
        assert_eq!(codes(text), expected, "{text}");
    }
}

#[test]
fn the_peers_documented_deployments_load() {
    let single_host = "core.enforce_self_authorization = false\ncore.image.verify = false\n\
                       core.metrics.enabled = false\ncore.onboard.auto_bootstrap_domain = '10.0.2.2'\n\
                       core.auth_api.webhook.url = 'http://10.0.2.2:8001'";
    let (config, notices) = read(single_host);
    assert_eq!(notices, []);
    assert_eq!(config.core.onboard.auto_bootstrap_domain.unwrap().as_str(), "10.0.2.2");
    let development = "core.auth_api.type = 'dev'\ncore.attest_rpc_cert = false\n\
                       core.enforce_self_authorization = false\ncore.onboard.auto_bootstrap_domain = 'localhost'";
    assert_eq!(read(development).1, []);
}

#[test]
fn parse_errors_do_not_show_the_line() {
    for (name, text) in [
        ("kms.toml", "[core.admin]\nauth_token = \"hush\" oops"),
        ("kms.json", r#"{"auth_token": "hush" oops}"#),
    ] {
        let error =
            Machine::new().with(&format!("cwd/{name}"), text).load(None, &[]).err().unwrap().to_string();
        assert!(error.contains("is not valid"), "{error}");
        assert!(!error.contains("hush"), "{error}");
    }
}

#[test]
fn a_key_that_json_gives_twice_is_refused() {
    let text = r#"{"rpc": {"port": 1}, "core": {"admin": {"port": 5, "auth_token": "hush", "port": 6}}}"#;
    let error = Machine::new().with("cwd/kms.json", text).load(None, &[]).err().unwrap().to_string();
    assert!(error.contains("kms.json: gives the key `core.admin.port` twice"), "{error}");
    assert!(!error.contains("hush"), "{error}");
}

#[test]
fn large_files_are_refused() {
    let machine = Machine::new().with("cwd/kms.toml", &"#".repeat((1 << 20) + 1));
    let error = machine.load(None, &[]).err().unwrap().to_string();
    assert!(error.contains("larger than 1 MiB"), "{error}");
}
