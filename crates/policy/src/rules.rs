//! The rules of an `auth-config.json`, parsed into sets so that ten thousand apps do not slow a decision
//! down.

pub(crate) mod grants;
mod images;
mod nearest;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kms_attest::identity::BootInfo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::images::KmsImages;
use crate::decision::ReleaseStage;
use crate::decision::{Decision, Denial, IfImage, Subject};
use crate::epochs::{self, AppEpochs};
use crate::hex_text::bytes_of;
use crate::info::Info;
use crate::relaxation::{Relaxation, RelaxationCode};
use crate::rule::{Outcome, Rule, RuleOutcome};
use crate::settings::EmptyDevices;

const ZERO_ADDRESS: &str = "0x0000000000000000000000000000000000000000";

/// Maximum size of an allowlist in bytes.
pub(crate) const MAX_FILE: u64 = 64 << 20;

/// The outcome of the rules for an app that is not registered.
const NO_ENTRY: Outcome = Outcome::Skipped("the app has no entry");

/// The parsed file.
#[derive(Debug)]
pub(crate) struct Rules {
    gateway_app_id: String,
    kms_contract_address: String,
    chain_id: u64,
    app_implementation: String,
    os_images: Hashes,
    tcb_statuses: HashSet<String>,
    advisories: HashSet<String>,
    kms_measurements: Hashes,
    kms_images: KmsImages,
    kms_devices: Devices,
    apps: HashMap<Box<[u8]>, App>,
}

#[derive(Debug)]
struct App {
    compose_hashes: Hashes,
    devices: Devices,
    release_stage: Option<ReleaseStage>,
    epochs: Option<Arc<AppEpochs>>,
}

/// Why a file is not an allowlist. The message of the parser names keys and types, not contents.
#[derive(Debug, thiserror::Error)]
#[error("is not a valid auth-config.json: {0}")]
pub struct RulesError(String);

impl RulesError {
    fn new(error: serde_json::Error) -> Self {
        Self(error.to_string().chars().take(200).collect())
    }
}

impl Rules {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, RulesError> {
        // Through a `Value`, so that the last of two equal keys wins, as in the peer.
        let mut value: Value = kms_attest::json::from_utf8(json).map_err(RulesError::new)?;
        let mut section = |key| value.as_object_mut().and_then(|file| file.shift_remove(key));
        let mut kms: KmsEntry = section("kms").map_or_else(|| Ok(KmsEntry::default()), object)?;
        let images = KmsImages::parse(std::mem::take(&mut kms.images)).map_err(RulesError)?;
        let apps = section("apps").map_or_else(|| Ok(HashMap::new()), apps)?;
        Ok(Self { kms_images: images, ..Self::new(object(value)?, kms, apps) })
    }

    /// The rules of a missing or invalid file: nothing is allowed.
    pub(crate) fn deny_all() -> Self {
        Self::new(File::default(), KmsEntry::default(), HashMap::new())
    }

    fn new(file: File, kms: KmsEntry, apps: HashMap<Box<[u8]>, App>) -> Self {
        Self {
            gateway_app_id: file.gateway_app_id,
            kms_contract_address: file.kms_contract_addr,
            chain_id: file.chain_id,
            app_implementation: file.app_implementation,
            os_images: file.os_images.into(),
            tcb_statuses: file.allowed_tcb_statuses.into_iter().collect(),
            advisories: file.allowed_advisory_ids.into_iter().collect(),
            kms_measurements: kms.mr_aggregated.into(),
            kms_images: KmsImages::default(),
            kms_devices: Devices::new(kms.devices, kms.allow_any_device),
            apps,
        }
    }

    /// Denies by the first rule that fails.
    pub(crate) fn decide(&self, subject: Subject<'_>, empty_devices: EmptyDevices) -> Decision {
        let mut condition = None;
        for RuleOutcome { outcome, .. } in self.checks(subject, empty_devices) {
            match outcome {
                Outcome::Holds | Outcome::Skipped(_) => {}
                Outcome::HoldsIfImage(image, denial) => condition = Some((image, denial)),
                Outcome::Fails(denial) => return Decision::Denied(denial),
            }
        }
        let gateway_app_id = self.gateway_app_id.clone();
        match condition {
            None => Decision::Allowed {
                gateway_app_id,
                release_stage: self.release_stage(subject),
                epochs: self.epochs(subject),
            },
            Some((image, denial)) => Decision::IfImage(Box::new(IfImage::new(image, gateway_app_id, denial))),
        }
    }

    /// The outcome of each rule for `subject`, in the order in which they decide; evaluated lazily.
    pub(crate) fn checks<'a>(
        &'a self,
        subject: Subject<'a>,
        empty_devices: EmptyDevices,
    ) -> impl Iterator<Item = RuleOutcome> + use<'a> {
        let boot_info = subject.boot_info();
        let app = match subject {
            Subject::App(_) => self.apps.get(&boot_info.app_id[..]),
            Subject::Kms(_) => None,
        };
        Rule::all_for(subject).iter().map(move |rule| RuleOutcome {
            rule: *rule,
            outcome: self.check(*rule, boot_info, app, empty_devices),
        })
    }

    fn check(
        &self,
        rule: Rule,
        boot_info: &BootInfo,
        app: Option<&App>,
        empty_devices: EmptyDevices,
    ) -> Outcome {
        match rule {
            Rule::TcbStatus if self.tcb_statuses.contains(&boot_info.tcb_status) => Outcome::Holds,
            Rule::TcbStatus => {
                Outcome::Fails(rule.denial(listed(&self.tcb_statuses), rule.measured(boot_info)))
            }
            Rule::Advisories => {
                let ids = boot_info.advisory_ids.iter();
                let unlisted: Vec<&str> =
                    ids.filter(|id| !self.advisories.contains(*id)).map(String::as_str).collect();
                let denial = || rule.denial(listed(&self.advisories), unlisted.join(", "));
                (!unlisted.is_empty()).then(denial).into()
            }
            Rule::OsImage => self.os_images.denial(rule, &boot_info.os_image_hash).into(),
            Rule::KmsMeasurement => self.kms_measurement(boot_info),
            Rule::KmsDevice => self.kms_devices.denial(rule, &boot_info.device_id, empty_devices).into(),
            Rule::App => match app {
                Some(_) => Outcome::Holds,
                None => {
                    let known = format!("one of {} apps", self.apps.len());
                    Outcome::Fails(rule.denial(known, rule.measured(boot_info)))
                }
            },
            Rule::ComposeHash => {
                app.map_or(NO_ENTRY, |app| app.compose_hashes.denial(rule, &boot_info.compose_hash).into())
            }
            Rule::AppDevice => app
                .map_or(NO_ENTRY, |app| app.devices.denial(rule, &boot_info.device_id, empty_devices).into()),
        }
    }

    /// A KMS needs its measurement in `kms.mrAggregated`, or an entry of `kms.images`.
    fn kms_measurement(&self, boot_info: &BootInfo) -> Outcome {
        let Some(denial) = self.kms_measurements.denial(Rule::KmsMeasurement, &boot_info.mr_aggregated)
        else {
            return Outcome::Holds;
        };
        match (self.kms_images.image_of(boot_info), self.kms_images.len()) {
            (Some(image), _) => Outcome::HoldsIfImage(image, denial),
            (None, 0) => Outcome::Fails(denial),
            (None, entries) => {
                let listed = denial.expected.unwrap_or_default();
                let expected = format!(
                    "{listed}; or OS image, compose hash and key provider of one of {entries} entries of kms.images"
                );
                Outcome::Fails(Denial { expected: Some(expected), ..denial })
            }
        }
    }

    /// The stages at which the keys of this app are released, if its entry specifies them.
    pub(crate) fn release_stage(&self, subject: Subject<'_>) -> Option<ReleaseStage> {
        match subject {
            Subject::App(boot_info) => self.apps.get(&boot_info.app_id[..])?.release_stage,
            Subject::Kms(_) => None,
        }
    }

    /// The epochs of this app's keys, if its entry specifies them.
    pub(crate) fn epochs(&self, subject: Subject<'_>) -> Option<Arc<AppEpochs>> {
        match subject {
            Subject::App(boot_info) => self.epochs_of(&boot_info.app_id),
            Subject::Kms(_) => None,
        }
    }

    /// The epochs of the keys of the app with this id, if its entry specifies them.
    pub(crate) fn epochs_of(&self, app_id: &[u8]) -> Option<Arc<AppEpochs>> {
        self.apps.get(app_id)?.epochs.clone()
    }

    pub(crate) fn info(&self) -> Info {
        Info {
            gateway_app_id: Some(self.gateway_app_id.clone()),
            kms_contract_address: Some(self.kms_contract_address.clone()),
            chain_id: Some(self.chain_id),
            app_auth_implementation: Some(self.app_implementation.clone()),
            eth_rpc_url: None,
        }
    }

    /// How much the rules allow, for the log.
    pub(crate) fn summary(&self) -> String {
        let images = match self.kms_images.len() {
            0 => String::new(),
            count => format!(", {count} KMS images"),
        };
        format!(
            "{} apps, {} OS images, {} KMS measurements{images}",
            self.apps.len(),
            self.os_images.allowed.len(),
            self.kms_measurements.allowed.len(),
        )
    }

    /// The entries whose empty device list means any device.
    pub(crate) fn relaxation(&self) -> Option<Relaxation> {
        let mut open: Vec<_> = self
            .apps
            .iter()
            .filter(|(_, app)| app.devices.is_open_by_emptiness())
            .map(|(id, _)| id)
            .collect();
        open.sort_unstable();
        let has_kms = !self.kms_measurements.allowed.is_empty() || self.kms_images.len() > 0;
        let kms = self.kms_devices.is_open_by_emptiness() && has_kms;
        if open.is_empty() && !kms {
            return None;
        }
        let mut names: Vec<String> = kms.then(|| "the KMS".to_owned()).into_iter().collect();
        names.extend(open.iter().take(3).map(|id| format!("app {}", hex::encode(id))));
        if open.len() > 3 {
            names.push(format!("{} more apps", open.len() - 3));
        }
        Some(Relaxation {
            code: RelaxationCode::EmptyDeviceList,
            sentence: format!(
                "an empty device list in the allowlist means any device \
                 (core.auth_api.allowlist.insecure_empty_devices_allow_any): {}",
                names.join(", ")
            )
            .into(),
            // Only operators may see whose devices are unrestricted.
            details: Vec::new(),
        })
    }
}

/// Serde would accept an array as an object.
fn object<T: DeserializeOwned>(value: Value) -> Result<T, RulesError> {
    if !value.is_object() {
        return Err(RulesError("an object was expected".to_owned()));
    }
    T::deserialize(value).map_err(RulesError::new)
}

fn apps(entries: Value) -> Result<HashMap<Box<[u8]>, App>, RulesError> {
    let Value::Object(entries) = entries else {
        return Err(RulesError("apps must be an object".to_owned()));
    };
    let mut apps = HashMap::with_capacity(entries.len());
    for (id, entry) in entries {
        if let Some((key, name)) = misspelt(&entry) {
            return Err(RulesError(format!("`{key}` of an app must be written {name}")));
        }
        let epochs = entry.as_object().map_or(Ok(None), AppEpochs::parse);
        let epochs = epochs.map_err(|error| RulesError(error.to_string()))?.map(Arc::new);
        let entry: AppEntry = object(entry)?;
        let release_stage = entry.release_stage.as_deref().map(ReleaseStage::parse).transpose();
        let release_stage = release_stage.map_err(|problem| RulesError(format!("releaseStage {problem}")))?;
        if let Some(id) = bytes_of(&id) {
            let devices = Devices::new(entry.devices, entry.allow_any_device);
            let compose_hashes = entry.compose_hashes.into();
            apps.insert(id, App { compose_hashes, devices, release_stage, epochs });
        }
    }
    Ok(apps)
}

/// Keys of ours that restrict, or that decide which keys are released.
const EXACT_KEYS: [&str; 4] =
    ["releaseStage", epochs::ROOT_EPOCH, epochs::APP_EPOCH, epochs::READABLE_EPOCHS];

/// A key that differs from one of [`EXACT_KEYS`] only in case, hyphens and underscores, and that one. Unknown keys are
/// ignored, as in the peer, where every key grants something; a typing error in one of these would release keys that it
/// should hold back.
pub(crate) fn misspelt(entry: &Value) -> Option<(&str, &'static str)> {
    let letters = |key: &str| -> String {
        key.chars()
            .filter(|character| !matches!(character, '-' | '_' | ' '))
            .collect::<String>()
            .to_lowercase()
    };
    let meant = |key: &str| EXACT_KEYS.into_iter().find(|name| letters(name) == letters(key));
    let keys = entry.as_object()?.keys().map(String::as_str);
    keys.filter(|key| !EXACT_KEYS.contains(key)).find_map(|key| Some((key, meant(key)?)))
}

/// The allowed values of one kind.
#[derive(Debug)]
struct Hashes {
    allowed: HashSet<Box<[u8]>>,
}

impl Hashes {
    fn denial(&self, rule: Rule, actual: &[u8]) -> Option<Denial> {
        (!self.allowed.contains(actual)).then(|| {
            let mut expected: Vec<String> = self.allowed.iter().take(EXAMPLES).map(hex::encode).collect();
            expected.sort_unstable();
            rule.denial(examples(expected, self.allowed.len()), hex::encode(actual))
        })
    }
}

impl From<Vec<String>> for Hashes {
    fn from(list: Vec<String>) -> Self {
        Self { allowed: list.iter().filter_map(|text| bytes_of(text)).collect() }
    }
}

#[derive(Debug)]
struct Devices {
    allowed: Hashes,
    is_empty: bool,
    allow_any: bool,
}

impl Devices {
    fn new(list: Vec<String>, allow_any: bool) -> Self {
        Self { is_empty: list.is_empty(), allowed: list.into(), allow_any }
    }

    fn is_open_by_emptiness(&self) -> bool {
        self.is_empty && !self.allow_any
    }

    fn denial(&self, rule: Rule, actual: &[u8], empty_devices: EmptyDevices) -> Option<Denial> {
        if self.allow_any || (self.is_empty && empty_devices == EmptyDevices::AnyDevice) {
            return None;
        }
        self.allowed.denial(rule, actual)
    }
}

const EXAMPLES: usize = 4;

fn listed(values: &HashSet<String>) -> String {
    let mut shown: Vec<String> = values.iter().take(EXAMPLES).cloned().collect();
    shown.sort_unstable();
    examples(shown, values.len())
}

fn examples(shown: Vec<String>, total: usize) -> String {
    match total - shown.len() {
        0 if total == 0 => "none is allowed".to_owned(),
        0 => shown.join(", "),
        more => format!("{}, and {more} more", shown.join(", ")),
    }
}

/// The file as it is written; keys that are not here are ignored, as in the peer.
#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    gateway_app_id: String,
    kms_contract_addr: String,
    chain_id: u64,
    app_implementation: String,
    os_images: Vec<String>,
    allowed_tcb_statuses: Vec<String>,
    allowed_advisory_ids: Vec<String>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            gateway_app_id: String::new(),
            kms_contract_addr: ZERO_ADDRESS.to_owned(),
            chain_id: 0,
            app_implementation: ZERO_ADDRESS.to_owned(),
            os_images: Vec::new(),
            allowed_tcb_statuses: vec!["UpToDate".to_owned()],
            allowed_advisory_ids: Vec::new(),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct KmsEntry {
    mr_aggregated: Vec<String>,
    /// A key of ours.
    images: Vec<Value>,
    devices: Vec<String>,
    allow_any_device: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AppEntry {
    compose_hashes: Vec<String>,
    devices: Vec<String>,
    allow_any_device: bool,
    /// A key of ours.
    release_stage: Option<String>,
}

#[cfg(test)]
mod tests;
