//! Which keys exist, section by section, and what they must look like.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::consistency;
use super::layers::Layers;
use super::reader::{ConfigError, Notice, Report, Section};
use super::values::{self, Endpoint, Secret};
use super::{
    Admin, Attestation, Attester, Audit, AuthApi, BodyLimits, ClientCertificates, Config, Core, EmptyDevices,
    Image, Limits, Metrics, Onboard, Rpc,
};
use crate::domain::Domain;

type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Settings of the peer's HTTP server that reach it from its listeners' sections; here they do nothing.
const SERVER_SETTINGS: [&str; 13] = [
    "workers",
    "max_blocking",
    "ident",
    "ip_header",
    "proxy_proto_header",
    "temp_dir",
    "keep_alive",
    "http2_keep_alive",
    "shutdown",
    "log_level",
    "log_format",
    "cli_colors",
    "secret_key",
];

const MAX_BODY_LIMIT: usize = 64 << 20;

pub(super) fn read(
    layers: Layers,
    environment: Environment<'_>,
) -> Result<(Config, Vec<Notice>), ConfigError> {
    let mut report = Report { files: layers.files, findings: layers.findings, notices: Vec::new() };
    let mut tls_files = TlsFiles::default();
    let (rpc, core) = Section::root(layers.root, &mut report, |root| {
        for profile in ["default", "debug", "release", "global"] {
            root.inert(profile, "this table has no effect, here as in dstack-kms");
        }
        let limits = server_settings(root, &BodyLimits::default());
        let rpc = root.section("rpc", |section| rpc(section, &limits, &mut tls_files));
        let core = root.section("core", |section| core(section, &limits, environment));
        (rpc, core)
    });
    let config = Config { rpc, core, files: report.files.clone() };
    tls_files.check(&config.core.cert_dir, &mut report);
    consistency::check(&config, &mut report);
    match report.findings.is_empty() {
        true => Ok((config, report.notices)),
        false => Err(ConfigError { findings: report.findings }),
    }
}

fn server_settings(section: &mut Section<'_>, base: &BodyLimits) -> BodyLimits {
    for key in SERVER_SETTINGS {
        section.inert(key, "a setting of the peer's HTTP server, without effect here");
    }
    let mut limits = base.clone();
    limits.0.extend(section.optional("limits", body_limits).unwrap_or_default());
    limits
}

fn rpc(section: &mut Section<'_>, limits: &BodyLimits, tls_files: &mut TlsFiles) -> Rpc {
    let limits = server_settings(section, limits);
    let client_certificates = section.section("tls", |tls| {
        tls_files.note(tls, "key", "rpc.tls.key", "rpc.key");
        tls_files.note(tls, "certs", "rpc.tls.certs", "rpc.crt");
        tls.section("mutual", |mutual| {
            tls_files.note(mutual, "ca_certs", "rpc.tls.mutual.ca_certs", "tmp-ca.crt");
            mutual.required("mandatory", ClientCertificates::Optional, |value| {
                Ok(if values::boolean(value)? {
                    ClientCertificates::Mandatory
                } else {
                    ClientCertificates::Optional
                })
            })
        })
    });
    Rpc { address: section.address("address"), port: section.port("port"), client_certificates, limits }
}

/// The TLS files that configuration files name although the listener always uses those in `core.cert_dir`.
#[derive(Default)]
pub(super) struct TlsFiles(Vec<TlsFile>);

struct TlsFile {
    key: &'static str,
    path: PathBuf,
    name_in_cert_dir: &'static str,
}

impl TlsFiles {
    fn note(
        &mut self,
        section: &mut Section<'_>,
        name: &'static str,
        key: &'static str,
        name_in_cert_dir: &'static str,
    ) {
        let is_set = section.is_set(name);
        let path = section.path(name).filter(|_| is_set);
        self.0.extend(path.map(|path| TlsFile { key, path, name_in_cert_dir }));
    }

    /// Says which of them are elsewhere.
    pub(super) fn check(&self, cert_dir: &Path, report: &mut Report) {
        for file in &self.0 {
            let used = cert_dir.join(file.name_in_cert_dir);
            if file.path != used {
                report.notice(file.key, format!("without effect: the listener uses {}", used.display()));
            }
        }
    }
}

fn core(section: &mut Section<'_>, server_limits: &BodyLimits, environment: Environment<'_>) -> Core {
    let cert_dir = section.path("cert_dir").unwrap_or_default();
    section.required("subject_postfix", String::new(), values::string);
    section.section("gpu", |gpu| gpu.inert("enabled", "retired, without effect"));
    let insecure_no_tee = section.flag("insecure_no_tee");
    let legacy_pccs = retired_url(section, "pccs_url", "core.attestation.urls.pccs");
    let legacy_amd_kds = retired_url(section, "amd_kds_base_url", "core.attestation.urls.amd_kds");
    Core {
        site_name: section.text("site_name"),
        enforce_self_authorization: section.flag("enforce_self_authorization"),
        attest_rpc_cert: section.flag("attest_rpc_cert"),
        sev_snp_key_release: section.flag("sev_snp_key_release"),
        aws_nitro_tpm_key_release: section.flag("aws_nitro_tpm_key_release"),
        nitro_enclave_key_release: section.flag("nitro_enclave_key_release"),
        admin_token_hash: section.optional("admin_token_hash", token_hash).flatten(),
        insecure_no_tee,
        insecure_world_readable_keys: section.flag("insecure_world_readable_keys"),
        attestation: section
            .section("attestation", |section| attestation(section, legacy_pccs, legacy_amd_kds)),
        attester: section.section("attester", |section| attester(section, insecure_no_tee, environment)),
        image: section.section("image", image),
        auth_api: section.section("auth_api", auth_api),
        onboard: section
            .section("onboard", |section| onboard(section, server_limits, insecure_no_tee, environment)),
        admin: section.section("admin", |section| admin(section, environment)),
        metrics: section.section("metrics", |section| Metrics { enabled: section.flag("enabled") }),
        audit: section.section("audit", |section| Audit {
            file: section.path("file").unwrap_or_else(|| cert_dir.join("audit.jsonl")),
        }),
        limits: section.section("limits", limits),
        cert_dir,
    }
}

fn retired_url(section: &mut Section<'_>, key: &'static str, successor: &str) -> Option<Value> {
    section.is_set(key).then(|| section.notice(key, format!("retired, read as {successor}")));
    section.optional(key, Ok)
}

fn attestation(section: &mut Section<'_>, pccs: Option<Value>, amd_kds: Option<Value>) -> Attestation {
    let external = section.flag("insecure_allow_external_trust_anchors");
    let (pccs, amd_kds) = section.section("urls", |urls| {
        let pccs = pccs.filter(|_| !urls.is_set("pccs"));
        let amd_kds = amd_kds.filter(|_| !urls.is_set("amd_kds"));
        (
            urls.required("pccs", Vec::new(), |value| values::endpoints(pccs.unwrap_or(value))),
            urls.required("amd_kds", None, |value| values::endpoint(amd_kds.unwrap_or(value)).map(Some)),
        )
    });
    let tdx_root = section.section("root_ca", |roots| {
        let mut root = |key, message: Option<&str>| {
            let set = roots.is_set(key);
            if let (true, Some(message)) = (set, message) {
                roots.notice(key, message);
            }
            roots.optional(key, |value| {
                let path = Some(values::string(value)?).filter(|path| !path.is_empty()).map(PathBuf::from);
                match path {
                    Some(_) if !external => {
                        Err("needs core.attestation.insecure_allow_external_trust_anchors = true".to_owned())
                    }
                    path => Ok(path),
                }
            })
        };
        for key in [
            "gcp_tpm",
            "aws_nitro_enclave",
            "aws_nitro_tpm",
            "sev_snp_milan",
            "sev_snp_genoa",
            "sev_snp_turin",
        ] {
            root(key, Some("without effect: this version verifies Intel TDX evidence only"));
        }
        root("tdx", None).flatten()
    });
    Attestation { pccs, amd_kds: amd_kds.unwrap_or_else(Endpoint::placeholder), tdx_root }
}

fn attester(section: &mut Section<'_>, insecure_no_tee: bool, environment: Environment<'_>) -> Attester {
    let is_set = section.is_set("type");
    let kind = section.required("type", None, |value| {
        let kind = values::string(value)?;
        match (kind.as_str(), insecure_no_tee) {
            ("none", false) => Err("\"none\" needs core.insecure_no_tee = true".to_owned()),
            ("guest_agent" | "configfs_tsm", true) if is_set => {
                Err("contradicts core.insecure_no_tee = true".to_owned())
            }
            ("guest_agent" | "configfs_tsm" | "none", _) => Ok(Some(kind)),
            _ => Err("must be \"guest_agent\", \"configfs_tsm\" or \"none\"".to_owned()),
        }
    });
    let address = section.required("address", String::new(), |value| {
        let address = values::string(value)?;
        let known = ["unix:", "http://", "https://"];
        if address.is_empty() || known.iter().any(|scheme| address.starts_with(scheme)) {
            return Ok(address);
        }
        Err("must start with unix: or http://".to_owned())
    });
    let event_log = section.path("event_log");
    match kind.as_deref() {
        _ if insecure_no_tee => Attester::None,
        Some("configfs_tsm") => Attester::ConfigfsTsm { event_log },
        _ => Attester::GuestAgent {
            address: non_empty(address).or_else(|| environment("DSTACK_AGENT_ADDRESS").and_then(non_empty)),
        },
    }
}

fn image(section: &mut Section<'_>) -> Image {
    Image {
        verify: section.flag("verify"),
        cache_dir: section.path("cache_dir").unwrap_or_default(),
        download_url: section.text("download_url"),
        download_timeout: section
            .required("download_timeout", None, |value| values::duration(&values::string(value)?)),
    }
}

fn auth_api(section: &mut Section<'_>) -> AuthApi {
    let kind = section.required("type", "webhook".to_owned(), |value| {
        let kind = values::string(value)?;
        match kind.as_str() {
            "webhook" | "allowlist" | "dev" => Ok(kind),
            _ => Err("must be \"webhook\", \"allowlist\" or \"dev\"".to_owned()),
        }
    });
    let url = section.section("webhook", |webhook| {
        webhook
            .required("url", None, |value| values::endpoint(value).map(Some))
            .unwrap_or_else(Endpoint::placeholder)
    });
    let (path, strict) = section.section("allowlist", |allowlist| {
        (allowlist.path("path").unwrap_or_default(), allowlist.flag("strict_devices"))
    });
    let gateway_app_id = section.section("dev", |dev| dev.text("gateway_app_id"));
    let empty_devices = if strict { EmptyDevices::NoDevice } else { EmptyDevices::AnyDevice };
    match kind.as_str() {
        "allowlist" => AuthApi::Allowlist { path, empty_devices },
        "dev" => AuthApi::Dev { gateway_app_id },
        _ => AuthApi::Webhook { url },
    }
}

fn onboard(
    section: &mut Section<'_>,
    server_limits: &BodyLimits,
    insecure_no_tee: bool,
    environment: Environment<'_>,
) -> Onboard {
    let limits = server_settings(section, server_limits);
    quote_enabled(section, insecure_no_tee);
    Onboard {
        enabled: section.flag("enabled"),
        auto_bootstrap_domain: section.required("auto_bootstrap_domain", None, |value| {
            non_empty(values::string(value)?)
                .map(|text| Domain::parse(&text).map_err(|error| error.to_string()))
                .transpose()
        }),
        address: section.address("address"),
        port: section.port("port"),
        auth_token: token(section, "auth_token", &["DSTACK_KMS_ONBOARD_TOKEN"], environment),
        limits,
    }
}

/// An old file must never turn attestation off without a word.
fn quote_enabled(section: &mut Section<'_>, insecure_no_tee: bool) {
    let message = match (section.value("quote_enabled").and_then(Value::as_bool), insecure_no_tee) {
        (Some(false), false) => {
            "retired and IGNORED: attestation stays on; to run without a TEE set core.insecure_no_tee = true"
        }
        (Some(false), true) => "retired: core.insecure_no_tee = true already says so",
        (Some(true), _) => "retired: attestation is on unless core.insecure_no_tee = true",
        (None, _) => "retired",
    };
    if section.is_set("quote_enabled") {
        section.notice("quote_enabled", message);
    }
    section.optional("quote_enabled", values::boolean);
}

fn admin(section: &mut Section<'_>, environment: Environment<'_>) -> Admin {
    let limits = server_settings(section, &BodyLimits::default());
    Admin {
        enabled: section.flag("enabled"),
        address: section.address("address"),
        port: section.port("port"),
        auth_token: token(section, "auth_token", &["DSTACK_KMS_ADMIN_TOKEN", "ADMIN_API_TOKEN"], environment),
        htpasswd_file: section.path("htpasswd_file"),
        insecure_no_auth: section.flag("insecure_no_auth"),
        limits,
    }
}

fn limits(section: &mut Section<'_>) -> Limits {
    Limits {
        unauthenticated_per_second: section.required("unauthenticated_per_second", NonZeroU32::MIN, positive),
        unauthenticated_burst: section.required("unauthenticated_burst", NonZeroU32::MIN, positive),
        max_connections: section.required("max_connections", NonZeroU32::MIN, positive).get() as usize,
        handshake_timeout: section.required("handshake_timeout", Duration::ZERO, finite_duration),
        request_timeout: section.required("request_timeout", Duration::ZERO, finite_duration),
        idle_timeout: section.required("idle_timeout", Duration::ZERO, finite_duration),
        shutdown_grace: section.required("shutdown_grace", Duration::ZERO, finite_duration),
    }
}

fn positive(value: Value) -> Result<NonZeroU32, String> {
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok()).and_then(NonZeroU32::new);
    number.ok_or_else(|| format!("must be a whole number from 1 to {}", u32::MAX))
}

fn finite_duration(value: Value) -> Result<Duration, String> {
    values::duration(&values::string(value)?)?
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "must have an end and be longer than 0s".to_owned())
}

/// The key's token, or the first variable's that has one.
fn token(
    section: &mut Section<'_>,
    key: &'static str,
    variables: &[&str],
    environment: Environment<'_>,
) -> Option<Secret> {
    let configured = section.optional(key, |value| Ok(Secret::trimmed(values::string(value)?))).flatten();
    configured.or_else(|| variables.iter().find_map(|name| environment(name).and_then(Secret::trimmed)))
}

fn token_hash(value: Value) -> Result<Option<[u8; 32]>, String> {
    let text = values::string(value)?;
    let digits = text.trim();
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    let mut hash = [0; 32];
    match digits {
        "" => Ok(None),
        _ => hex::decode_to_slice(digits, &mut hash)
            .map(|()| Some(hash))
            .map_err(|_| "must be the 64 hex digits of a SHA-256".to_owned()),
    }
}

/// The legacy `limits` table: sizes by method.
fn body_limits(value: Value) -> Result<BTreeMap<String, usize>, String> {
    let Value::Object(entries) = value else {
        return Err("must be a table of sizes by method".to_owned());
    };
    let limit = |value| match value {
        Value::Number(number) => number.as_u64().and_then(|number| usize::try_from(number).ok()),
        Value::String(text) => values::size(&text).ok(),
        _ => None,
    };
    entries
        .into_iter()
        .map(|(method, value)| match limit(value) {
            Some(limit) if limit <= MAX_BODY_LIMIT => Ok((method, limit)),
            _ => Err(format!("must hold sizes up to 64MiB such as 512KiB: {}", method.escape_debug())),
        })
        .collect()
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}
