//! Identity: who a guest is. Types only; `platform::decode` reads them from evidence.

mod app_info;
mod boot_info;
mod domain;
mod fixed;
pub mod mr_config;

use dcap_qvl::TcbStatus;

pub use self::app_info::{AppInfo, AppInfoError, MAX_INIT_SCRIPTS};
pub use self::boot_info::BootInfo;
pub use self::domain::{BadDomainName, DomainName};
pub use self::fixed::{
    AppId, AppIdLength, ComposeHash, DeviceId, InstanceId, MrAggregated, MrSystem, OsImageHash,
};
pub use self::mr_config::MrConfigError;
use crate::measurement::Until;

/// Who a guest is, and the state of its platform. `verify` parses it from the verified evidence, so that no later
/// code checks widths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The platform, such as `dstack-tdx`.
    pub tee_variant: &'static str,
    /// The app.
    pub app_id: AppId,
    /// SHA-256 of the app's compose file.
    pub compose_hash: ComposeHash,
    /// The instance; `None` if the app's instances have no id.
    pub instance_id: Option<InstanceId>,
    /// The machine.
    pub device_id: DeviceId,
    /// Hardware, firmware, system and key provider.
    pub mr_system: MrSystem,
    /// Everything that is measured.
    pub mr_aggregated: MrAggregated,
    /// The OS image that the VM configuration claims; `None` if it claims none, as that of older guests.
    pub os_image_hash: Option<OsImageHash>,
    /// The key provider as JSON, empty at boot time. It has no fixed width; the limits on evidence bound it.
    pub key_provider_info: Vec<u8>,
    /// The worst TCB status of platform, TDX module and quoting enclave.
    pub tcb_status: TcbStatus,
    /// Intel's security advisories that apply to the platform.
    pub advisory_ids: Vec<String>,
}

/// A field of app info that does not have the width of the identity's field.
///
/// Policy, the audit log and clients get canonical widths only: a sender cannot choose the length of a field,
/// and a backend that pads or ignores an empty compose hash never gets one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WidthError {
    /// The app id.
    #[error(transparent)]
    AppId(#[from] AppIdLength),
    /// The compose hash.
    #[error("compose_hash must be 32 bytes, got {0}")]
    ComposeHash(usize),
    /// The instance id.
    #[error("instance_id must be 20 bytes or empty, got {0}")]
    InstanceId(usize),
    /// The hash of the OS image.
    #[error("os_image_hash must be 32 bytes or empty, got {0}")]
    OsImageHash(usize),
    /// The device id.
    #[error("device_id must be 32 bytes, got {0}")]
    DeviceId(usize),
}

impl Identity {
    /// The identity that verified evidence states, on a platform in this state.
    ///
    /// # Errors
    /// The first field of another width.
    pub fn parse(
        app_info: AppInfo,
        tee_variant: &'static str,
        tcb_status: TcbStatus,
        advisory_ids: Vec<String>,
    ) -> Result<Self, WidthError> {
        Ok(Self {
            tee_variant,
            app_id: AppId::try_from(app_info.app_id.as_slice())?,
            compose_hash: ComposeHash(exact(&app_info.compose_hash).map_err(WidthError::ComposeHash)?),
            instance_id: optional(&app_info.instance_id).map_err(WidthError::InstanceId)?.map(InstanceId),
            os_image_hash: optional(&app_info.os_image_hash)
                .map_err(WidthError::OsImageHash)?
                .map(OsImageHash),
            device_id: DeviceId(exact(&app_info.device_id).map_err(WidthError::DeviceId)?),
            mr_system: MrSystem(app_info.mr_system),
            mr_aggregated: MrAggregated(app_info.mr_aggregated),
            key_provider_info: app_info.key_provider_info,
            tcb_status,
            advisory_ids,
        })
    }

    /// The instance id's bytes; none without an instance id.
    pub fn instance_bytes(&self) -> &[u8] {
        self.instance_id.as_ref().map_or(&[], AsRef::as_ref)
    }

    /// The bytes of the OS image's hash; none if the configuration claims no image.
    pub fn os_image_bytes(&self) -> &[u8] {
        self.os_image_hash.as_ref().map_or(&[], AsRef::as_ref)
    }
}

#[cfg(any(test, feature = "testing"))]
impl Identity {
    /// An identity that nothing is wrong with, for tests: app id `11…`, compose hash `22…`, device `33…`, OS image
    /// `44…`, mrAggregated `55…`.
    pub fn example() -> Self {
        Self {
            tee_variant: "dstack-tdx",
            app_id: AppId([0x11; 20]),
            compose_hash: ComposeHash([0x22; 32]),
            instance_id: Some(InstanceId([0x77; 20])),
            device_id: DeviceId([0x33; 32]),
            mr_system: MrSystem([0x66; 32]),
            mr_aggregated: MrAggregated([0x55; 32]),
            os_image_hash: Some(OsImageHash([0x44; 32])),
            key_provider_info: Vec::new(),
            tcb_status: TcbStatus::UpToDate,
            advisory_ids: Vec::new(),
        }
    }
}

/// An array of these bytes; otherwise how many they are.
fn exact<const N: usize>(bytes: &[u8]) -> Result<[u8; N], usize> {
    bytes.try_into().map_err(|_| bytes.len())
}

/// The same, or `None` of no bytes.
fn optional<const N: usize>(bytes: &[u8]) -> Result<Option<[u8; N]>, usize> {
    if bytes.is_empty() { Ok(None) } else { exact(bytes).map(Some) }
}

/// The moment of a guest's life that registers are read at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registers {
    /// At `boot-mr-done`, when the guest has no key provider yet.
    BootTime,
    /// Now.
    RunTime,
}

impl Registers {
    /// The event after which the register is no longer extended for that moment.
    pub(crate) fn until(self) -> Until {
        match self {
            Self::BootTime => Until::BootMrDone,
            Self::RunTime => Until::End,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app_info() -> AppInfo {
        AppInfo {
            app_id: vec![1; 20],
            compose_hash: vec![2; 32],
            instance_id: vec![3; 20],
            device_id: vec![4; 32],
            mr_system: [5; 32],
            mr_aggregated: [6; 32],
            os_image_hash: vec![7; 32],
            key_provider_info: b"{}".to_vec(),
            init_script_hashes: None,
        }
    }

    fn parse(app_info: AppInfo) -> Result<Identity, WidthError> {
        Identity::parse(app_info, "dstack-tdx", TcbStatus::OutOfDate, vec!["INTEL-SA-1".to_owned()])
    }

    #[test]
    fn fields_of_another_width_are_no_identity() {
        type Alter = fn(&mut AppInfo, Vec<u8>);
        let cases: [(&str, Alter, usize, bool); 5] = [
            ("app_id", |info, bytes| info.app_id = bytes, 20, false),
            ("compose_hash", |info, bytes| info.compose_hash = bytes, 32, false),
            ("instance_id", |info, bytes| info.instance_id = bytes, 20, true),
            ("os_image_hash", |info, bytes| info.os_image_hash = bytes, 32, true),
            ("device_id", |info, bytes| info.device_id = bytes, 32, false),
        ];
        for (name, alter, width, may_be_empty) in cases {
            for length in [0, 1, width - 1, width, width + 1, 4096] {
                let mut info = app_info();
                alter(&mut info, vec![1; length]);
                let allowed = length == width || (length == 0 && may_be_empty);
                let or_empty = if may_be_empty { " or empty" } else { "" };
                let text = format!("{name} must be {width} bytes{or_empty}, got {length}");
                let refused = parse(info).map(drop).map_err(|error| error.to_string());
                assert_eq!(refused, if allowed { Ok(()) } else { Err(text) });
            }
        }
        for length in [0, 1, 4096] {
            assert!(parse(AppInfo { key_provider_info: vec![1; length], ..app_info() }).is_ok(), "{length}");
        }
    }

    #[test]
    fn the_wire_form_has_the_bytes_of_the_identity() {
        let mut expected = BootInfo {
            tee_variant: "dstack-tdx".to_owned(),
            mr_aggregated: vec![6; 32],
            os_image_hash: vec![7; 32],
            mr_system: vec![5; 32],
            app_id: vec![1; 20],
            compose_hash: vec![2; 32],
            instance_id: vec![3; 20],
            device_id: vec![4; 32],
            key_provider_info: b"{}".to_vec(),
            tcb_status: "OutOfDate".to_owned(),
            advisory_ids: vec!["INTEL-SA-1".to_owned()],
        };
        assert_eq!(parse(app_info()).map(|identity| BootInfo::from(&identity)), Ok(expected.clone()));
        let without = AppInfo { instance_id: Vec::new(), os_image_hash: Vec::new(), ..app_info() };
        expected.instance_id.clear();
        expected.os_image_hash.clear();
        assert_eq!(parse(without).map(|identity| BootInfo::from(&identity)), Ok(expected));
    }
}
