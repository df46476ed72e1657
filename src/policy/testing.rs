//! Identities for tests.

use kms_attest::identity::BootInfo;

/// An identity that nothing is wrong with: app id `11…`, compose hash `22…`, device `33…`, OS image `44…`,
/// mrAggregated `55…`.
pub(crate) fn boot_info() -> BootInfo {
    BootInfo {
        tee_variant: "dstack-tdx".to_owned(),
        mr_aggregated: vec![0x55; 32],
        os_image_hash: vec![0x44; 32],
        mr_system: vec![0x66; 32],
        app_id: vec![0x11; 20],
        compose_hash: vec![0x22; 32],
        instance_id: vec![0x77; 20],
        device_id: vec![0x33; 32],
        key_provider_info: Vec::new(),
        tcb_status: "UpToDate".to_owned(),
        advisory_ids: Vec::new(),
    }
}
