//! The sections of the three listeners.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kms_wire::method::NAMES;
use serde_json::Value;

use super::reader::{Report, Section};
use super::sections::Environment;
use super::{
    Admin, AdminTls, BodyLimits, ClientCertificates, MissingFiles, Onboard, OwnerRule, PublicHandover, Rpc,
    Secret, Supervision, values,
};
use crate::domain::Domain;

/// Settings of the peer's HTTP server in the sections of listeners; they have no effect here.
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

/// The limits of the peer's HTTP server that belong to no method.
const SERVER_LIMITS: [&str; 7] = ["form", "data-form", "file", "string", "bytes", "json", "msgpack"];

/// How long a request may wait for a second owner.
const APPROVAL_LIFETIME: RangeInclusive<Duration> =
    Duration::from_secs(300)..=Duration::from_secs(30 * 86_400);

const MAX_BODY_LIMIT: usize = 64 << 20;

pub(super) fn server_settings(section: &mut Section<'_>, base: &BodyLimits) -> BodyLimits {
    for key in SERVER_SETTINGS {
        section.inert(key, "a setting of the peer's HTTP server, without effect here");
    }
    let mut limits = base.clone();
    limits.0.extend(section.section("limits", body_limits));
    limits
}

pub(super) fn rpc(section: &mut Section<'_>, limits: &BodyLimits, tls_files: &mut TlsFiles) -> Rpc {
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
    Rpc {
        address: section.address("address"),
        port: section.port("port"),
        cors_origins: section.required("cors_origins", Vec::new(), values::origins),
        client_certificates,
        limits,
    }
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

    /// Adds a notice for each file that is elsewhere.
    pub(super) fn check(&self, cert_dir: &Path, report: &mut Report) {
        for file in &self.0 {
            if file.path != cert_dir.join(file.name_in_cert_dir) {
                report.notice(file.key, "without effect: the listener uses the file in core.cert_dir");
            }
        }
    }
}

pub(super) fn onboard(
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
            values::non_empty(values::string(value)?)
                .map(|text| Domain::parse(&text).map_err(|error| error.to_string()))
                .transpose()
        }),
        address: section.address("address"),
        port: section.port("port"),
        auth_token: token(section, "auth_token", &["DSTACK_KMS_ONBOARD_TOKEN"], environment),
        public_handover: match section.flag("public_key_handover") {
            true => PublicHandover::Enabled,
            false => PublicHandover::Disabled,
        },
        limits,
    }
}

/// Refuses old keys that would silently turn attestation off.
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
    section.retired("quote_enabled", values::boolean);
}

pub(super) fn admin(section: &mut Section<'_>, cert_dir: &Path, environment: Environment<'_>) -> Admin {
    let limits = server_settings(section, &BodyLimits::default());
    Admin {
        enabled: section.flag("enabled"),
        address: section.address("address"),
        port: section.port("port"),
        auth_token: token(section, "auth_token", &["DSTACK_KMS_ADMIN_TOKEN", "ADMIN_API_TOKEN"], environment),
        htpasswd_file: section.path("htpasswd_file"),
        credentials_file: section
            .path("credentials_file")
            .unwrap_or_else(|| cert_dir.join("credentials.json")),
        approvals: approvals(section),
        approvals_file: section.path("approvals_file").unwrap_or_else(|| cert_dir.join("approvals.json")),
        oidc: section.section("oidc", super::oidc::read),
        insecure_no_auth: section.flag("insecure_no_auth"),
        insecure_plain_http: section.flag("insecure_plain_http"),
        supervision: if section.flag("supervised") { Supervision::Restarts } else { Supervision::None },
        tls: admin_tls(section),
        limits,
    }
}

fn approvals(section: &mut Section<'_>) -> OwnerRule {
    let lifetime = section.required("approval_lifetime", Duration::ZERO, |value| {
        let lifetime = values::duration(&values::string(value)?)?;
        let lifetime = lifetime.filter(|lifetime| APPROVAL_LIFETIME.contains(lifetime));
        lifetime.ok_or_else(|| "must be from 5m to 30d".to_owned())
    });
    section.required("approvals", OwnerRule::OneOwner, |value| match value.as_u64() {
        Some(1) => Ok(OwnerRule::OneOwner),
        Some(2) => Ok(OwnerRule::TwoOwners { lifetime }),
        _ => Err("must be 1, or 2 for changes that a second owner must approve".to_owned()),
    })
}

/// Without key and certificates the listener speaks plain HTTP.
fn admin_tls(section: &mut Section<'_>) -> Option<Arc<AdminTls>> {
    section.section("tls", |tls| {
        let (key, certs) = (tls.path("key"), tls.path("certs"));
        let creates = tls.flag("create_if_missing");
        let hosts = tls.required("hosts", Vec::new(), values::reserved_names);
        let missing_files = if creates { MissingFiles::Created } else { MissingFiles::Refused };
        match (key, certs) {
            (Some(key), Some(certs)) => Some(Arc::new(AdminTls { key, certs, missing_files, hosts })),
            (None, None) if !creates && hosts.is_empty() => None,
            (key, _) => {
                let missing = if key.is_none() { "key" } else { "certs" };
                tls.find(
                    missing,
                    "must name a file: the admin listener speaks HTTPS with a key and certificates",
                );
                None
            }
        }
    })
}

/// The key's token, or the first variable's that has one.
pub(super) fn token(
    section: &mut Section<'_>,
    key: &'static str,
    variables: &[&str],
    environment: Environment<'_>,
) -> Option<Secret> {
    let configured = section.optional(key, |value| Ok(Secret::trimmed(values::string(value)?))).flatten();
    configured.or_else(|| variables.iter().find_map(|name| environment(name).and_then(Secret::trimmed)))
}

/// The `limits` table: sizes by method. The peer's HTTP server has names of its own in it, for the bodies of its forms.
fn body_limits(section: &mut Section<'_>) -> BTreeMap<String, usize> {
    for name in SERVER_LIMITS {
        section.inert(name, "a limit of the peer's HTTP server, without effect here");
    }
    NAMES
        .into_iter()
        .filter_map(|method| Some((method.to_owned(), section.optional(method, body_limit)?)))
        .collect()
}

fn body_limit(value: Value) -> Result<usize, String> {
    let limit = match value {
        Value::Number(number) => number.as_u64().and_then(|number| usize::try_from(number).ok()),
        Value::String(text) => values::size(&text).ok(),
        _ => None,
    };
    limit
        .filter(|limit| *limit <= MAX_BODY_LIMIT)
        .ok_or_else(|| "must be a size up to 64MiB such as 512KiB".to_owned())
}
