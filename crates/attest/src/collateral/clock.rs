//! The wall clock as an argument, so that tests can choose the time.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::clock_floor::{ClockBehind, Floor};

/// Gives the time in Unix seconds, and the floor below which a time must be wrong.
#[derive(Clone)]
pub struct Clock {
    tell: Arc<dyn Fn() -> u64 + Send + Sync>,
    floor: Floor,
}

impl Clock {
    /// The system clock.
    pub fn system() -> Self {
        Self::from_fn(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }

    /// A clock that always gives `unix_seconds`.
    pub fn fixed(unix_seconds: u64) -> Self {
        Self::from_fn(move || unix_seconds)
    }

    /// A clock that calls `now` each time.
    pub fn from_fn(now: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self { tell: Arc::new(now), floor: Floor::default() }
    }

    /// This clock with `floor`, which collateral raises.
    #[must_use]
    pub fn above(self, floor: Floor) -> Self {
        Self { floor, ..self }
    }

    /// The earliest time that can be right.
    pub fn floor(&self) -> &Floor {
        &self.floor
    }

    /// Checks the time against the floor.
    ///
    /// # Errors
    /// [`ClockBehind`].
    pub fn check(&self) -> Result<(), ClockBehind> {
        self.floor.check(self.now())
    }

    /// The time, Unix seconds.
    pub fn now(&self) -> u64 {
        (self.tell)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
