//! Identities for tests.

use kms_attest::identity::{
    AppId, ComposeHash, DeviceId, Identity, InstanceId, MrAggregated, MrSystem, OsImageHash,
};
use kms_attest::tcb::TcbStatus;

/// An identity that nothing is wrong with. Its wire form is `BootInfo::example()`.
pub(crate) fn identity() -> Identity {
    Identity {
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
