//! The wall clock as an argument, so that tests can choose the time.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::clock_floor::{ClockBehind, Floor};

/// Tells the time in Unix seconds, and below which date it cannot be.
#[derive(Clone)]
pub struct Clock {
    tell: Arc<dyn Fn() -> u64 + Send + Sync>,
    floor: Floor,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::from_fn(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }

    /// A clock that stands still.
    pub fn fixed(unix_seconds: u64) -> Self {
        Self::from_fn(move || unix_seconds)
    }

    /// A clock that asks `now` each time.
    pub fn from_fn(now: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self { tell: Arc::new(now), floor: Floor::default() }
    }

    /// The same clock, which cannot be below `floor`. Collateral raises it.
    #[must_use]
    pub fn above(self, floor: Floor) -> Self {
        Self { floor, ..self }
    }

    /// The date below which it cannot be.
    pub fn floor(&self) -> &Floor {
        &self.floor
    }

    /// Whether it can be right.
    ///
    /// # Errors
    /// [`ClockBehind`].
    pub fn check(&self) -> Result<(), ClockBehind> {
        self.floor.check(self.now())
    }

    /// Unix seconds.
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
