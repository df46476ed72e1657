//! Lists what rules allow, entry by entry, so that two files can be compared.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Devices, Rules};
use crate::decision::ReleaseStage;
use crate::settings::EmptyDevices;

/// An entry of an allowlist that can allow a caller. Hashes and ids are lower-case hex without `0x`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Grant {
    /// `allowedTcbStatuses`
    TcbStatus {
        /// Intel's name of it.
        status: String,
    },
    /// `allowedAdvisoryIds`
    Advisory {
        /// `INTEL-SA-00837`
        id: String,
    },
    /// `osImages`
    OsImage {
        /// 32 bytes.
        hash: String,
    },
    /// `kms.mrAggregated`
    KmsMeasurement {
        /// 32 bytes.
        hash: String,
    },
    /// An entry of `kms.images`
    KmsImage {
        /// 32 bytes.
        image: String,
        /// 32 bytes.
        hash: String,
        /// Name and id in hex; `None` if the guest makes the key of its disk itself.
        key_provider: Option<String>,
        /// 20 bytes; `None` if every app id is allowed.
        app: Option<String>,
    },
    /// `kms.devices`
    KmsDevice {
        /// 32 bytes; `any` if every device is allowed.
        device: String,
    },
    /// A key of `apps`.
    App {
        /// 20 bytes.
        app: String,
    },
    /// `apps.<id>.composeHashes`
    ComposeHash {
        /// Its app.
        app: String,
        /// 32 bytes.
        hash: String,
    },
    /// `apps.<id>.devices`
    AppDevice {
        /// Its app.
        app: String,
        /// 32 bytes; `any` if every device is allowed.
        device: String,
    },
    /// `apps.<id>.releaseStage`, unless it is `boot`: keys after the guest has booted.
    Running {
        /// Its app.
        app: String,
        /// The setting that allows it: `releaseStage`, or `core.release_stage` if the entry has no stage and
        /// that is `any`.
        rule: &'static str,
    },
    /// `apps.<id>.rootEpoch`, `appEpoch` and `readableEpochs`, unless the entry has none of them.
    Epochs {
        /// Its app.
        app: String,
        /// What the entry says: `rootEpoch current, appEpoch 1, readableEpochs 0`.
        epochs: String,
    },
    /// `gatewayAppId`
    Gateway {
        /// As apps get it.
        app: String,
    },
}

impl std::fmt::Display for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TcbStatus { status } => write!(f, "TCB status {status}"),
            Self::Advisory { id } => write!(f, "advisory {id}"),
            Self::OsImage { hash } => write!(f, "OS image {hash}"),
            Self::KmsMeasurement { hash } => write!(f, "KMS measurement {hash}"),
            Self::KmsImage { image, hash, key_provider, app } => {
                let provider = key_provider.as_deref().unwrap_or("none");
                write!(f, "KMS with compose hash {hash} in OS image {image}, key provider {provider}")?;
                app.as_ref().map_or(Ok(()), |app| write!(f, ", app {app}"))
            }
            Self::KmsDevice { device } => write!(f, "KMS on device {device}"),
            Self::App { app } => write!(f, "app {app}"),
            Self::ComposeHash { app, hash } => write!(f, "app {app} with compose hash {hash}"),
            Self::AppDevice { app, device } => write!(f, "app {app} on device {device}"),
            Self::Running { app, rule } => write!(f, "app {app} after it has booted ({rule} any)"),
            Self::Epochs { app, epochs } => write!(f, "app {app} with keys of these epochs: {epochs}"),
            Self::Gateway { app } => write!(f, "gateway {app}"),
        }
    }
}

impl Rules {
    /// All grants, with the meaning of an empty device list applied.
    pub(crate) fn grants(&self, empty_devices: EmptyDevices) -> BTreeSet<Grant> {
        let hex = |hash: &[u8]| hex::encode(hash);
        let mut grants = BTreeSet::new();
        grants.extend(self.tcb_statuses.iter().cloned().map(|status| Grant::TcbStatus { status }));
        grants.extend(self.advisories.iter().cloned().map(|id| Grant::Advisory { id }));
        grants.extend(self.os_images.allowed.iter().map(|hash| Grant::OsImage { hash: hex(hash) }));
        for hash in &self.kms_measurements.allowed {
            grants.insert(Grant::KmsMeasurement { hash: hex(hash) });
        }
        grants.extend(self.kms_images.iter().map(|entry| Grant::KmsImage {
            image: entry.image.to_string(),
            hash: entry.compose.to_string(),
            key_provider: entry.key_provider.as_ref().map(ToString::to_string),
            app: entry.app.as_ref().map(ToString::to_string),
        }));
        let devices = self.kms_devices.granted(empty_devices);
        grants.extend(devices.map(|device| Grant::KmsDevice { device }));
        for (id, entry) in &self.apps {
            let app = hex(id);
            grants.insert(Grant::App { app: app.clone() });
            for hash in &entry.compose_hashes.allowed {
                grants.insert(Grant::ComposeHash { app: app.clone(), hash: hex(hash) });
            }
            let devices = entry.devices.granted(empty_devices);
            grants.extend(devices.map(|device| Grant::AppDevice { app: app.clone(), device }));
            if let Some(epochs) = &entry.epochs {
                grants.insert(Grant::Epochs { app: app.clone(), epochs: epochs.to_string() });
            }
            let rule = match entry.release_stage {
                Some(ReleaseStage::Boot) => continue,
                Some(ReleaseStage::Any) => "releaseStage",
                None => "core.release_stage",
            };
            grants.insert(Grant::Running { app, rule });
        }
        if !self.gateway_app_id.is_empty() {
            grants.insert(Grant::Gateway { app: self.gateway_app_id.clone() });
        }
        grants
    }
}

impl Devices {
    fn granted(&self, empty_devices: EmptyDevices) -> impl Iterator<Item = String> {
        let any = self.allow_any || (self.is_empty && empty_devices == EmptyDevices::AnyDevice);
        let listed = self.allowed.allowed.iter().filter(move |_| !any).map(hex::encode);
        any.then(|| "any".to_owned()).into_iter().chain(listed)
    }
}
