//! Identity of a TDX guest: its registers, and the runtime events that replay to RTMR3.

use super::Quoted;
use crate::identity::{AppInfo, Registers};
use crate::measurement::{self, RuntimeEvent};
use crate::platform::events::{Events, EventsError, sha256};
use crate::vm_config::VmConfig;

/// The identity of a TDX guest, from its registers and the runtime events that RTMR3 replays to.
///
/// `mr_system = SHA-256(MRTD ‖ RTMR0 ‖ RTMR1 ‖ RTMR2 ‖ mr_key_provider)`;
/// `mr_aggregated = SHA-256(MRTD ‖ RTMR0 ‖ RTMR1 ‖ RTMR2 ‖ rtmr3 [‖ MRCONFIGID ‖ MROWNER ‖ MROWNERCONFIG])`, with the
/// last three if any of them is not zero.
pub fn tdx_identity(
    quoted: &Quoted,
    runtime_events: &[RuntimeEvent],
    registers: Registers,
    config: &VmConfig,
    ppid: &[u8],
) -> Result<AppInfo, EventsError> {
    let events = Events::decode(runtime_events, registers)?;
    let Quoted { mr_td, rt_mr0, rt_mr1, rt_mr2, .. } = quoted;
    let rt_mr3 = measurement::replay_rtmr3(runtime_events, registers.until());
    let system = sha256(&[mr_td, rt_mr0, rt_mr1, rt_mr2, &events.mr_key_provider()]);
    let launch = [quoted.mr_config_id, quoted.mr_owner, quoted.mr_owner_config].concat();
    let launch: &[u8] = if launch.iter().all(|byte| *byte == 0) { &[] } else { &launch };
    let aggregated = sha256(&[mr_td, rt_mr0, rt_mr1, rt_mr2, &rt_mr3, launch]);
    Ok(events.into_app_info(system, aggregated, config, ppid))
}
