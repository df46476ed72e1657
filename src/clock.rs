//! Time in the protocol and in files, and what to do about a clock that is slow.

pub use kms_attest::clock::{unix, unix_now};
pub use kms_attest::clock_floor::{ClockBehind, Floor, MAX_BEHIND};

/// Advice to the operator of a machine whose clock is slow.
pub const CLOCK_REMEDY: &str =
    "Set the clock. If it is right and an earlier one was ahead, kmsctl clock-floor lower says so";
