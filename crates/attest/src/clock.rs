//! Time in protocols and in files: whole seconds since 1970, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix seconds now.
pub fn unix_now() -> u64 {
    unix(SystemTime::now())
}

/// Unix seconds of `time`; a time before 1970 is 0.
pub fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
