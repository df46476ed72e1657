//! Checks the JSON of an allowlist key by key.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::findings::{Findings, Severity};
use crate::decision::ReleaseStage;
use crate::epochs::{AppEpochs, ReadableEpoch, RootChoice};
use crate::hex_text::bytes_of;
use crate::kms_image::KmsImage;
use crate::rules::misspelt;
use crate::settings::EmptyDevices;

/// Intel's names for the `tcbStatus` of a verified quote.
const TCB_STATUSES: [&str; 7] = [
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
];

/// Size of a measured hash or a device id in bytes.
const HASH: usize = 32;
/// Size of an app id in bytes.
const APP_ID: usize = 20;

const TOP: [&str; 9] = [
    "gatewayAppId",
    "kmsContractAddr",
    "chainId",
    "appImplementation",
    "osImages",
    "allowedTcbStatuses",
    "allowedAdvisoryIds",
    "kms",
    "apps",
];

const ENTRY: [&str; 7] =
    ["composeHashes", "devices", "allowAnyDevice", "releaseStage", "rootEpoch", "appEpoch", "readableEpochs"];

pub(super) fn file(value: &Value, empty_devices: EmptyDevices, findings: &mut Findings) {
    let Some(fields) = object(value, "", findings) else { return };
    known(fields, &TOP, "", findings);
    for key in ["gatewayAppId", "kmsContractAddr", "appImplementation"] {
        if fields.get(key).is_some_and(|value| !value.is_string()) {
            error(findings, key, "must be a text");
        }
    }
    match fields.get("gatewayAppId").and_then(Value::as_str) {
        Some("any") => {
            warn(
                findings,
                "any_gateway",
                "gatewayAppId",
                "turns off the check of gateways in every guest".into(),
            );
        }
        Some("") | None => {
            warn(findings, "no_gateway", "gatewayAppId", "is empty: guests accept no gateway".to_owned());
        }
        Some(_) => {}
    }
    if fields.get("chainId").is_some_and(|value| !value.is_u64()) {
        error(findings, "chainId", "must be a whole number, not negative");
    }
    if hashes(fields, "osImages", "", HASH, findings) == Some(0) {
        warn(findings, "denies_all", "osImages", "lists no OS image: everyone is denied".to_owned());
    }
    statuses(fields, findings);
    for (index, id) in texts(fields, "allowedAdvisoryIds", "", findings).into_iter().flatten().enumerate() {
        let is_usual = id
            .strip_prefix("INTEL-SA-")
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()));
        if !is_usual {
            let message =
                format!("{} is not an Intel advisory; they have names such as INTEL-SA-00837", shown(id));
            warn(findings, "unknown_advisory", &format!("allowedAdvisoryIds[{index}]"), message);
        }
    }
    kms(fields.get("kms"), fields.get("osImages"), empty_devices, findings);
    apps(fields.get("apps"), empty_devices, findings);
}

fn statuses(fields: &Map<String, Value>, findings: &mut Findings) {
    let Some(statuses) = texts(fields, "allowedTcbStatuses", "", findings) else { return };
    if statuses.is_empty() && fields.contains_key("allowedTcbStatuses") {
        warn(findings, "denies_all", "allowedTcbStatuses", "lists no status: everyone is denied".to_owned());
    }
    for (index, status) in statuses.into_iter().enumerate() {
        let at = format!("allowedTcbStatuses[{index}]");
        if status == "Revoked" {
            let message = "allows platforms whose keys Intel has revoked".to_owned();
            warn(findings, "revoked_allowed", &at, message);
        } else if !TCB_STATUSES.contains(&status) {
            let message = match nearest(status, &TCB_STATUSES) {
                Some(name) => format!("{} is not a TCB status, did you mean `{name}`?", shown(status)),
                None => {
                    format!("{} is not a TCB status; they are {}", shown(status), TCB_STATUSES.join(", "))
                }
            };
            warn(findings, "unknown_tcb_status", &at, message);
        }
    }
}

fn kms(
    value: Option<&Value>,
    os_images: Option<&Value>,
    empty_devices: EmptyDevices,
    findings: &mut Findings,
) {
    let empty = Map::new();
    let fields = match value {
        None => &empty,
        Some(value) => match object(value, "kms", findings) {
            Some(fields) => fields,
            None => return,
        },
    };
    known(fields, &["mrAggregated", "images", "devices", "allowAnyDevice"], "kms", findings);
    let measurements = hashes(fields, "mrAggregated", "kms", HASH, findings);
    let images = images(fields, os_images, findings);
    let is_none = measurements == Some(0) && images == 0;
    if is_none {
        let message = "lists no measurement, so no KMS is allowed, including this one".to_owned();
        warn(findings, "no_kms", "kms.mrAggregated", message);
    }
    let open = devices(fields, "kms", empty_devices, findings);
    if open && !is_none {
        let message =
            "is empty: any device may run a KMS, because insecure_empty_devices_allow_any is set".to_owned();
        warn(findings, "any_device", "kms.devices", message);
    }
}

/// The number of entries of `kms.images`.
fn images(fields: &Map<String, Value>, os_images: Option<&Value>, findings: &mut Findings) -> usize {
    let Some(value) = fields.get("images") else { return 0 };
    let Value::Array(list) = value else {
        error(findings, "kms.images", "must be a list of objects");
        return 0;
    };
    let listed: HashSet<Box<[u8]>> = os_images
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .filter_map(bytes_of)
        .collect();
    let mut seen = HashSet::new();
    for (index, entry) in list.iter().enumerate() {
        let at = format!("kms.images[{index}]");
        match KmsImage::parse(entry.clone()) {
            Err(problem) => error(findings, &at, &problem),
            Ok(entry) => {
                if !listed.contains(&entry.image.0[..]) {
                    let message = "allows nothing: its OS image is not in osImages".to_owned();
                    warn(findings, "image_not_listed", &at, message);
                }
                if !seen.insert(entry) {
                    warn(findings, "duplicate_value", &at, "is in the list already".to_owned());
                }
            }
        }
    }
    list.len()
}

fn apps(value: Option<&Value>, empty_devices: EmptyDevices, findings: &mut Findings) {
    let Some(value) = value else { return };
    let Value::Object(entries) = value else {
        error(findings, "apps", "must be an object: app id to entry");
        return;
    };
    let mut ids: HashMap<Box<[u8]>, &str> = HashMap::new();
    let mut open = Vec::new();
    for (id, entry) in entries {
        let at = format!("apps.{}", id.chars().take(64).collect::<String>());
        match bytes_of(id) {
            Some(bytes) => {
                if bytes.len() != APP_ID {
                    warn(findings, "impossible_value", &at, impossible(bytes.len(), APP_ID));
                }
                if let Some(other) = ids.insert(bytes, id) {
                    let message = format!("is the same app as {}; the last one counts", shown(other));
                    warn(findings, "duplicate_app", &at, message);
                }
            }
            None => warn(findings, "impossible_value", &at, format!("allows nothing: {}", not_hex(id))),
        }
        let Some(fields) = object(entry, &at, findings) else { continue };
        known(fields, &ENTRY, &at, findings);
        if let Some((key, name)) = misspelt(entry) {
            error(findings, &below(&at, key), &format!("must be written {name}"));
        }
        epochs(fields, &at, findings);
        let stage = fields.get("releaseStage");
        if stage.is_some_and(|stage| {
            !stage.is_null() && stage.as_str().is_none_or(|it| ReleaseStage::parse(it).is_err())
        }) {
            error(findings, &below(&at, "releaseStage"), "must be \"boot\" or \"any\"");
        }
        if hashes(fields, "composeHashes", &at, HASH, findings) == Some(0) {
            let message = "lists no compose hash: this app is never allowed".to_owned();
            warn(findings, "no_compose_hash", &format!("{at}.composeHashes"), message);
        }
        if devices(fields, &at, empty_devices, findings) {
            open.push(at);
        }
    }
    if let Some(first) = open.first() {
        let more = match open.len() - 1 {
            0 => String::new(),
            1 => " (and that of 1 more app)".to_owned(),
            more => format!(" (and that of {more} more apps)"),
        };
        let message = format!(
            "is empty{more}: any device is allowed, because insecure_empty_devices_allow_any is set; list \
             devices or set allowAnyDevice"
        );
        warn(findings, "any_device", &format!("{first}.devices"), message);
    }
}

/// Epochs that do not parse, and readable ones that say nothing because they are not older.
fn epochs(fields: &Map<String, Value>, at: &str, findings: &mut Findings) {
    let epochs = match AppEpochs::parse(fields) {
        Ok(Some(epochs)) => epochs,
        Ok(None) => return,
        Err(wrong) => return error(findings, &below(at, wrong.key), wrong.problem),
    };
    let RootChoice::Fixed(own) = epochs.root.unwrap_or(RootChoice::Fixed(0)) else { return };
    let app = epochs.app.unwrap_or_default();
    for epoch in epochs.readable.iter().flatten() {
        let is_older = match *epoch {
            ReadableEpoch::Root(root) => root < own || (root == own && app > 0),
            ReadableEpoch::Exactly { root, app: of_app } => (root, of_app) < (own, app),
        };
        if !is_older {
            let message =
                format!("{epoch} has no effect: it is not older than the app's own epochs, {own}.{app}");
            warn(findings, "epoch_not_older", &below(at, "readableEpochs"), message);
        }
    }
}

/// Whether an empty list means any device although `allowAnyDevice` is false.
fn devices(
    fields: &Map<String, Value>,
    at: &str,
    empty_devices: EmptyDevices,
    findings: &mut Findings,
) -> bool {
    let any = fields.get("allowAnyDevice");
    if any.is_some_and(|any| !any.is_boolean()) {
        error(findings, &below(at, "allowAnyDevice"), "must be true or false");
    }
    let any = any.and_then(Value::as_bool).unwrap_or_default();
    let given = hashes(fields, "devices", at, HASH, findings);
    if any && given.is_some_and(|given| given > 0) {
        let message = "has no effect: allowAnyDevice is true".to_owned();
        warn(findings, "devices_ignored", &below(at, "devices"), message);
    }
    if given == Some(0) && !any && empty_devices == EmptyDevices::NoDevice {
        let message = "is empty: no device is allowed, unless allowAnyDevice is true".to_owned();
        warn(findings, "no_device", &below(at, "devices"), message);
    }
    given == Some(0) && !any && empty_devices == EmptyDevices::AnyDevice
}

/// The number of entries in a list of hashes; `None` after an error.
fn hashes(
    fields: &Map<String, Value>,
    key: &str,
    at: &str,
    width: usize,
    findings: &mut Findings,
) -> Option<usize> {
    let list = texts(fields, key, at, findings)?;
    let mut seen = HashSet::new();
    for (index, text) in list.iter().enumerate() {
        let at = format!("{}[{index}]", below(at, key));
        match bytes_of(text) {
            None => warn(findings, "impossible_value", &at, format!("allows nothing: {}", not_hex(text))),
            Some(bytes) => {
                if bytes.len() != width {
                    warn(findings, "impossible_value", &at, impossible(bytes.len(), width));
                }
                if !seen.insert(bytes) {
                    warn(findings, "duplicate_value", &at, "is in the list already".to_owned());
                }
            }
        }
    }
    Some(list.len())
}

/// The strings of a list; empty if the key is missing, `None` after an error.
fn texts<'a>(
    fields: &'a Map<String, Value>,
    key: &str,
    at: &str,
    findings: &mut Findings,
) -> Option<Vec<&'a str>> {
    let Some(value) = fields.get(key) else { return Some(Vec::new()) };
    let at = below(at, key);
    let Value::Array(list) = value else {
        error(findings, &at, "must be a list of texts");
        return None;
    };
    let texts = list.iter().enumerate().map(|(index, value)| {
        let text = value.as_str();
        if text.is_none() {
            error(findings, &format!("{at}[{index}]"), "must be a text");
        }
        text
    });
    // All entries are checked, so that all errors are reported.
    let texts: Vec<Option<&str>> = texts.collect();
    texts.into_iter().collect()
}

fn object<'a>(value: &'a Value, at: &str, findings: &mut Findings) -> Option<&'a Map<String, Value>> {
    if !value.is_object() {
        error(findings, at, "must be an object");
    }
    value.as_object()
}

fn known(fields: &Map<String, Value>, names: &[&str], at: &str, findings: &mut Findings) {
    for key in fields.keys().filter(|key| !names.contains(&key.as_str())) {
        let message = match nearest(key, names) {
            Some(name) => format!("is not a known key and is ignored, did you mean `{name}`?"),
            None => format!("is not a known key and is ignored; the keys here are {}", names.join(", ")),
        };
        let key: String = key.chars().take(64).collect();
        warn(findings, "unknown_key", &below(at, &key), message);
    }
}

fn nearest<'a>(text: &str, names: &[&'a str]) -> Option<&'a str> {
    let text: String = text.chars().take(64).collect();
    names
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&text.to_lowercase(), &name.to_lowercase()), *name))
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len() / 3)
        .map(|(_, name)| name)
}

fn not_hex(text: &str) -> String {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    if digits.is_empty() {
        "it is empty".to_owned()
    } else if text.trim() != text {
        "it has spaces around it".to_owned()
    } else if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        format!("it has an odd number of hex digits, {}", digits.len())
    } else {
        format!("{} is not hex", shown(text))
    }
}

fn impossible(found: usize, expected: usize) -> String {
    format!("allows nothing: it has {found} bytes, and a measured value has {expected}")
}

fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(40).collect::<String>())
}

fn below(at: &str, key: &str) -> String {
    if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") }
}

fn error(findings: &mut Findings, at: &str, message: &str) {
    findings.find(Severity::Error, "wrong_type", at, message.to_owned());
}

fn warn(findings: &mut Findings, code: &'static str, at: &str, message: String) {
    findings.find(Severity::Warning, code, at, message);
}
