//! Time in the protocol and in files: whole seconds since 1970, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

pub use kms_attest::clock_floor::{ClockBehind, Floor, MAX_BEHIND};

/// Unix seconds now.
pub fn unix_now() -> u64 {
    unix(SystemTime::now())
}

/// Unix seconds of `time`; a time before 1970 is 0.
pub fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Advice to the operator of a machine whose clock is slow.
pub const CLOCK_REMEDY: &str =
    "Set the clock. If it is right and an earlier one was ahead, kmsctl clock-floor lower says so";
