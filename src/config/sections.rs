//! The keys of each section and their types.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::AuditFailure;
use super::layers::Layers;
use super::reader::{ConfigError, Notice, Report, Section};
use super::{
    AcpiPins, Attestation, Attester, Audit, AuthApi, BodyLimits, Config, Core, EmptyDevices, Freeze, Image,
    Ledger, Limits, LiteAttestation, Metrics, Origin, Profile, Rate, ReleaseStage, RequireFresh, Witnesses,
};
use super::{
    bundle, consistency, domains, effective, ethereum, events, listeners, notify, production, state, traces,
    values, webhook,
};

const TDX_ONLY: &str = "without effect: this version verifies Intel TDX evidence only";
/// The default of `core.attestation.urls.amd_kds`.
const AMD_KDS: &str = "https://kdsintf.amd.com/vcek/v1";

/// Value of an environment variable.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(super) fn read(
    layers: Layers,
    environment: Environment<'_>,
) -> Result<(Config, Vec<Notice>), ConfigError> {
    let listed = effective::list(&layers, environment);
    let mut shown = production::Values::of(&layers);
    let variables = production::Variables::default();
    let environment: Environment<'_> = &production::recorded(environment, &variables);
    let mut report = Report { files: layers.files, findings: layers.findings, notices: Vec::new() };
    let mut tls_files = listeners::TlsFiles::default();
    let (profile, rpc, core, domains) = Section::root(layers.root, &mut report, |root| {
        for profile in ["default", "debug", "release", "global"] {
            root.inert(profile, "this table has no effect, here as in dstack-kms");
        }
        let profile = root.required("profile", Profile::Standard, Profile::parse);
        let limits = listeners::server_settings(root, &BodyLimits::default());
        let rpc = root.section("rpc", |section| listeners::rpc(section, &limits, &mut tls_files));
        let core = root.section("core", |section| core(section, &limits, environment));
        let domains = domains::read(root);
        (profile, rpc, core, domains)
    });
    shown.add_variables(variables.take(), &core.auth_api);
    let config = Config {
        profile,
        rpc,
        core,
        domains,
        files: report.files.clone(),
        effective: listed,
        origin: Origin::Text,
        values: shown,
    };
    tls_files.check(&config.core.cert_dir, &mut report);
    consistency::check(&config, &mut report);
    match report.findings.is_empty() {
        true => Ok((config, report.notices)),
        false => Err(ConfigError { findings: report.findings }),
    }
}

fn core(section: &mut Section<'_>, server_limits: &BodyLimits, environment: Environment<'_>) -> Core {
    let cert_dir = section.path("cert_dir").unwrap_or_default();
    section.unsupported(
        "keyring_dir",
        "the keyring of dstack-kms 0.6.6 and later is not read here: root keys are in core.cert_dir, and \
         keys of such a KMS come by Onboard",
    );
    section.required("subject_postfix", String::new(), values::string);
    section.section("gpu", |gpu| gpu.inert("enabled", "retired, without effect"));
    let insecure_no_tee = section.flag("insecure_no_tee");
    let legacy_pccs = retired_url(section, "pccs_url", "core.attestation.urls.pccs");
    let legacy_amd_kds = retired_url(section, "amd_kds_base_url", "core.attestation.urls.amd_kds");
    Core {
        site_name: section.text("site_name"),
        reserved_domains: section.required("reserved_domains", Vec::new(), values::reserved_names),
        enforce_self_authorization: section.flag("enforce_self_authorization"),
        attest_rpc_cert: section.flag("attest_rpc_cert"),
        sev_snp_key_release: key_release(section, "sev_snp_key_release"),
        aws_nitro_tpm_key_release: key_release(section, "aws_nitro_tpm_key_release"),
        nitro_enclave_key_release: key_release(section, "nitro_enclave_key_release"),
        release_stage: section.required("release_stage", ReleaseStage::Boot, |value| {
            ReleaseStage::parse(&values::string(value)?).map_err(str::to_owned)
        }),
        admin_token_hash: section.retired("admin_token_hash", token_hash).flatten(),
        insecure_no_tee,
        insecure_world_readable_keys: section.flag("insecure_world_readable_keys"),
        attestation: section
            .section("attestation", |section| attestation(section, legacy_pccs, legacy_amd_kds)),
        attester: section.section("attester", |section| attester(section, insecure_no_tee, environment)),
        tcb: section.section("tcb", |section| super::tcb::read(section, &cert_dir)),
        image: section.section("image", image),
        auth_api: section.section("auth_api", |section| auth_api(section, environment)),
        onboard: section.section("onboard", |section| {
            listeners::onboard(section, server_limits, insecure_no_tee, environment)
        }),
        admin: section.section("admin", |section| listeners::admin(section, &cert_dir, environment)),
        metrics: section.section("metrics", |section| Metrics { enabled: section.flag("enabled") }),
        audit: section.section("audit", |section| Audit {
            file: section.path("file").unwrap_or_else(|| cert_dir.join("audit.jsonl")),
            reserve: section.required("reserve", 0, values::reserve),
            on_failure: section.required("on_failure", AuditFailure::Retry, |value| match value.as_str() {
                Some("retry") => Ok(AuditFailure::Retry),
                Some("exit") => Ok(AuditFailure::Exit),
                _ => Err("must be \"retry\" or \"exit\"".to_owned()),
            }),
        }),
        ledger: section.section("ledger", |section| Ledger {
            segment_size: section.required("segment_size", 64 << 20, values::segment_size),
            segment_age: section.required("segment_age", None, values::age),
            compress: section.flag("compress"),
            witnesses: section.section("witnesses", witnesses),
        }),
        events: section.section("events", |section| events::read(section, &cert_dir)),
        notify: notify::read(section),
        traces: section.section("traces", traces::read),
        freeze: section.section("freeze", |section| Freeze {
            file: section.path("file").unwrap_or_else(|| cert_dir.join("frozen.json")),
        }),
        state: state::read(section, environment),
        limits: section.section("limits", limits),
        cert_dir,
    }
}

fn witnesses(section: &mut Section<'_>) -> Witnesses {
    let list = section.required("list", Vec::new(), values::witnesses);
    let require = section.required("require", 0, |value| match value.as_u64() {
        Some(count) if count <= list.len() as u64 => Ok(usize::try_from(count).unwrap_or(list.len())),
        _ => Err("must be a number, at most that of the witnesses in list".to_owned()),
    });
    let max_wait = section.required("max_wait", Duration::ZERO, finite_duration);
    Witnesses { list, require, max_wait }
}

/// A flag for a platform whose evidence this version does not verify.
fn key_release(section: &mut Section<'_>, key: &'static str) -> bool {
    if section.value(key).and_then(Value::as_bool) == Some(true) {
        section.notice(key, TDX_ONLY);
    }
    section.flag(key)
}

fn retired_url(section: &mut Section<'_>, key: &'static str, successor: &str) -> Option<Value> {
    section.is_set(key).then(|| section.notice(key, format!("retired, read as {successor}")));
    section.retired(key, Ok).filter(|url| *url != Value::String(String::new()))
}

fn attestation(section: &mut Section<'_>, pccs: Option<Value>, amd_kds: Option<Value>) -> Attestation {
    let external = section.flag("insecure_allow_external_trust_anchors");
    section.inert(
        "allowed_collateral_hosts",
        "without effect: collateral comes from core.attestation.urls.pccs and, for Intel's root CRL, from \
         the address in the trusted root certificate; no other host is asked",
    );
    let (pccs, amd_kds) = section.section("urls", |urls| {
        let pccs = pccs.filter(|_| !urls.is_set("pccs"));
        let amd_kds = amd_kds.filter(|_| !urls.is_set("amd_kds"));
        if amd_kds.as_ref().or(urls.value("amd_kds")).is_some_and(|url| *url != AMD_KDS) {
            urls.notice("amd_kds", TDX_ONLY);
        }
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
            root(key, Some(TDX_ONLY));
        }
        root("tdx", None).flatten()
    });
    let ca_file = section.path("ca_file");
    let is_offline = section.flag("offline");
    let require_fresh = section.required("require_fresh", RequireFresh::Off, |value| {
        RequireFresh::parse(&values::string(value)?).map_err(str::to_owned)
    });
    Attestation {
        is_offline,
        pccs,
        amd_kds: amd_kds.unwrap_or_else(values::placeholder),
        tdx_root,
        ca_file,
        require_fresh,
    }
}

/// `core.attester.type`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AttesterKind {
    GuestAgent,
    ConfigfsTsm,
    None,
}

fn attester(section: &mut Section<'_>, insecure_no_tee: bool, environment: Environment<'_>) -> Attester {
    let is_set = section.is_set("type");
    // The placeholder stands beside a finding, which refuses the configuration.
    let kind = section.required("type", AttesterKind::None, |value| {
        let kind = match values::string(value)?.as_str() {
            "guest_agent" => AttesterKind::GuestAgent,
            "configfs_tsm" => AttesterKind::ConfigfsTsm,
            "none" => AttesterKind::None,
            _ => return Err("must be \"guest_agent\", \"configfs_tsm\" or \"none\"".to_owned()),
        };
        match (kind, insecure_no_tee) {
            (AttesterKind::None, false) => Err("\"none\" needs core.insecure_no_tee = true".to_owned()),
            (AttesterKind::GuestAgent | AttesterKind::ConfigfsTsm, true) if is_set => {
                Err("contradicts core.insecure_no_tee = true".to_owned())
            }
            (AttesterKind::GuestAgent | AttesterKind::ConfigfsTsm, true) => Ok(AttesterKind::None),
            (kind, _) => Ok(kind),
        }
    });
    let address = section.required("address", String::new(), |value| {
        let address = values::string(value)?;
        if address.is_empty() || ["unix:", "http://"].iter().any(|scheme| address.starts_with(scheme)) {
            return Ok(address);
        }
        Err("must start with unix: or http://".to_owned())
    });
    let is_needed = kind == AttesterKind::ConfigfsTsm;
    let event_log = section.required("event_log", PathBuf::new(), |value| match values::string(value)? {
        path if path.is_empty() && is_needed => {
            Err("must name the file with the runtime events of this machine".to_owned())
        }
        path => Ok(PathBuf::from(path)),
    });
    match kind {
        AttesterKind::None => Attester::None,
        AttesterKind::ConfigfsTsm => Attester::ConfigfsTsm { event_log },
        AttesterKind::GuestAgent => Attester::GuestAgent {
            address: values::non_empty(address)
                .or_else(|| environment("DSTACK_AGENT_ADDRESS").and_then(values::non_empty)),
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
        lite: section.required("lite", LiteAttestation::Allow, |value| {
            match values::string(value)?.as_str() {
                "allow" => Ok(LiteAttestation::Allow),
                "refuse" => Ok(LiteAttestation::Refuse),
                _ => Err("must be \"allow\" or \"refuse\"".to_owned()),
            }
        }),
        acpi_tables: section.path("acpi_tables"),
        acpi_digests: section.required("acpi_digests", AcpiPins::default(), acpi_pins),
        ca_file: section.path("ca_file"),
    }
}

/// A table from image hashes to lists of digests.
fn acpi_pins(value: Value) -> Result<AcpiPins, String> {
    let Value::Object(images) = value else { return Err("must be a table of image hashes".to_owned()) };
    let mut pins = AcpiPins::new();
    for (image, digests) in images {
        let mut hash = [0; 32];
        hex::decode_to_slice(&image, &mut hash)
            .map_err(|_| "its keys must be image hashes, 64 hex digits")?;
        let digests = digests.as_array().and_then(|list| list.iter().map(acpi_digest).collect());
        let digests = digests.ok_or("its values must be lists of SHA-384 values, 96 hex digits each")?;
        if pins.insert(hash, digests).is_some() {
            return Err("names an image twice".to_owned());
        }
    }
    Ok(pins)
}

fn acpi_digest(value: &Value) -> Option<[u8; 48]> {
    let mut digest = [0; 48];
    hex::decode_to_slice(value.as_str()?, &mut digest).ok()?;
    Some(digest)
}

/// `core.auth_api.type`
#[derive(Clone, Copy)]
enum PolicyKind {
    Webhook,
    Allowlist,
    Ethereum,
    Dev,
}

pub(super) fn auth_api(section: &mut Section<'_>, environment: Environment<'_>) -> AuthApi {
    let kind = section.required("type", PolicyKind::Webhook, |value| match values::string(value)?.as_str() {
        "webhook" => Ok(PolicyKind::Webhook),
        "allowlist" => Ok(PolicyKind::Allowlist),
        "ethereum" => Ok(PolicyKind::Ethereum),
        "dev" => Ok(PolicyKind::Dev),
        _ => Err("must be \"webhook\", \"allowlist\", \"ethereum\" or \"dev\"".to_owned()),
    });
    let webhook = section.section("webhook", |section| webhook::read(section, environment));
    let (path, empty_devices) = section.section("allowlist", |allowlist| {
        allowlist.inert(
            "strict_devices",
            "retired: an empty device list allows no device, unless insecure_empty_devices_allow_any is true",
        );
        let empty_devices = match allowlist.flag("insecure_empty_devices_allow_any") {
            true => EmptyDevices::AnyDevice,
            false => EmptyDevices::NoDevice,
        };
        (allowlist.path("path").unwrap_or_default(), empty_devices)
    });
    let bundle = section.section("bundle", |section| bundle::read(section, empty_devices));
    let need = match kind {
        PolicyKind::Ethereum => ethereum::Need::Chosen,
        PolicyKind::Webhook | PolicyKind::Allowlist | PolicyKind::Dev => ethereum::Need::Unused,
    };
    let ethereum = section.section("ethereum", |section| ethereum::read(section, need));
    let gateway_app_id = section.section("dev", |dev| dev.text("gateway_app_id"));
    match kind {
        PolicyKind::Webhook => AuthApi::Webhook(Box::new(webhook)),
        PolicyKind::Allowlist => match bundle {
            Some(bundle) => AuthApi::Bundle(Box::new(bundle)),
            None => AuthApi::Allowlist { path, empty_devices },
        },
        PolicyKind::Ethereum => AuthApi::Ethereum(Box::new(ethereum)),
        PolicyKind::Dev => AuthApi::Dev { gateway_app_id },
    }
}

fn limits(section: &mut Section<'_>) -> Limits {
    Limits {
        unauthenticated_per_second: section.required("unauthenticated_per_second", NonZeroU32::MIN, positive),
        unauthenticated_burst: section.required("unauthenticated_burst", NonZeroU32::MIN, positive),
        app: Rate {
            per_second: section.required("app_per_second", NonZeroU32::MIN, positive),
            burst: section.required("app_burst", NonZeroU32::MIN, positive),
        },
        instance: Rate {
            per_second: section.required("instance_per_second", NonZeroU32::MIN, positive),
            burst: section.required("instance_burst", NonZeroU32::MIN, positive),
        },
        max_connections: section.required("max_connections", NonZeroU32::MIN, positive).get() as usize,
        max_request_memory: section.required("max_request_memory", None, request_memory),
        handshake_timeout: section.required("handshake_timeout", Duration::ZERO, finite_duration),
        request_timeout: section.required("request_timeout", Duration::ZERO, finite_duration),
        idle_timeout: section.required("idle_timeout", Duration::ZERO, finite_duration),
        shutdown_grace: section.required("shutdown_grace", Duration::ZERO, finite_duration),
    }
}

/// `auto`, or a size.
fn request_memory(value: Value) -> Result<Option<usize>, String> {
    const MIN: usize = 16 << 20;
    let text = values::string(value)?;
    if text == "auto" {
        return Ok(None);
    }
    let size = values::size(&text).ok().filter(|size| *size >= MIN);
    size.map(Some).ok_or_else(|| "must be \"auto\" or a size from 16MiB such as 256MiB".to_owned())
}

pub(super) fn positive(value: Value) -> Result<NonZeroU32, String> {
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok()).and_then(NonZeroU32::new);
    number.ok_or_else(|| format!("must be a whole number from 1 to {}", u32::MAX))
}

fn finite_duration(value: Value) -> Result<Duration, String> {
    values::duration(&values::string(value)?)?
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "must have an end and be longer than 0s".to_owned())
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
