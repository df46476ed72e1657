//! The settings that an owner may change at run time: a closed set, each read where it is used.

use std::num::NonZeroU32;
use std::time::Duration;

use serde_json::Value;

use super::events::{storm_count, storm_window};
use super::sections::positive;
use super::{Config, DenialStorm, Rate, values};

/// A setting that can change at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HotKey {
    /// `core.limits.unauthenticated_per_second`
    UnauthenticatedPerSecond,
    /// `core.limits.unauthenticated_burst`
    UnauthenticatedBurst,
    /// `core.limits.app_per_second`
    AppPerSecond,
    /// `core.limits.app_burst`
    AppBurst,
    /// `core.limits.instance_per_second`
    InstancePerSecond,
    /// `core.limits.instance_burst`
    InstanceBurst,
    /// `core.events.denial_storm_count`
    DenialStormCount,
    /// `core.events.denial_storm_window`
    DenialStormWindow,
    /// `log_level`, which is not a key of the files.
    LogLevel,
}

/// How much the process log says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// As `RUST_LOG` says, or else `info`.
    AsStarted,
    /// Errors.
    Error,
    /// Also warnings.
    Warn,
    /// Also the usual lines.
    Info,
    /// Also details of this program. Not of its libraries: theirs may hold secrets.
    Debug,
}

impl LogLevel {
    const ALL: [(Self, &'static str); 5] = [
        (Self::AsStarted, "as started"),
        (Self::Error, "error"),
        (Self::Warn, "warn"),
        (Self::Info, "info"),
        (Self::Debug, "debug"),
    ];

    fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(level, _)| *level == self).map_or("", |(_, name)| name)
    }
}

/// The values in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hot {
    /// Requests of one address on which the policy has allowed nobody yet.
    pub unauthenticated: Rate,
    /// Releases to one app.
    pub app: Rate,
    /// Releases to one instance of it.
    pub instance: Rate,
    /// What counts as a storm of refusals.
    pub denial_storm: DenialStorm,
    /// How much the process log says.
    pub log_level: LogLevel,
}

impl HotKey {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::UnauthenticatedPerSecond,
        Self::UnauthenticatedBurst,
        Self::AppPerSecond,
        Self::AppBurst,
        Self::InstancePerSecond,
        Self::InstanceBurst,
        Self::DenialStormCount,
        Self::DenialStormWindow,
        Self::LogLevel,
    ];

    /// Its name, as in the files.
    pub fn name(self) -> &'static str {
        match self {
            Self::UnauthenticatedPerSecond => "core.limits.unauthenticated_per_second",
            Self::UnauthenticatedBurst => "core.limits.unauthenticated_burst",
            Self::AppPerSecond => "core.limits.app_per_second",
            Self::AppBurst => "core.limits.app_burst",
            Self::InstancePerSecond => "core.limits.instance_per_second",
            Self::InstanceBurst => "core.limits.instance_burst",
            Self::DenialStormCount => "core.events.denial_storm_count",
            Self::DenialStormWindow => "core.events.denial_storm_window",
            Self::LogLevel => "log_level",
        }
    }

    /// The one with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.name() == name)
    }
}

impl Hot {
    /// The values of the files.
    pub fn of(config: &Config) -> Self {
        let limits = &config.core.limits;
        Self {
            unauthenticated: Rate {
                per_second: limits.unauthenticated_per_second,
                burst: limits.unauthenticated_burst,
            },
            app: limits.app,
            instance: limits.instance,
            denial_storm: config.core.events.denial_storm,
            log_level: LogLevel::AsStarted,
        }
    }

    /// Changes one value.
    ///
    /// # Errors
    /// What the value must be.
    pub fn set(&mut self, key: HotKey, value: &Value) -> Result<(), String> {
        let number = || positive(value.clone());
        let place: &mut NonZeroU32 = match key {
            HotKey::UnauthenticatedPerSecond => &mut self.unauthenticated.per_second,
            HotKey::UnauthenticatedBurst => &mut self.unauthenticated.burst,
            HotKey::AppPerSecond => &mut self.app.per_second,
            HotKey::AppBurst => &mut self.app.burst,
            HotKey::InstancePerSecond => &mut self.instance.per_second,
            HotKey::InstanceBurst => &mut self.instance.burst,
            HotKey::DenialStormCount => {
                self.denial_storm.count = storm_count(value.clone())?;
                return Ok(());
            }
            HotKey::DenialStormWindow => {
                self.denial_storm.window = storm_window(value.clone())?;
                return Ok(());
            }
            HotKey::LogLevel => {
                let name = values::string(value.clone())?;
                let level = LogLevel::ALL.into_iter().find(|(_, known)| *known == name);
                let names = LogLevel::ALL.map(|(_, name)| name).join(", ");
                self.log_level = level.ok_or_else(|| format!("must be one of {names}"))?.0;
                return Ok(());
            }
        };
        *place = number()?;
        Ok(())
    }

    /// One value, as the files write it.
    pub fn value(&self, key: HotKey) -> Value {
        match key {
            HotKey::UnauthenticatedPerSecond => self.unauthenticated.per_second.get().into(),
            HotKey::UnauthenticatedBurst => self.unauthenticated.burst.get().into(),
            HotKey::AppPerSecond => self.app.per_second.get().into(),
            HotKey::AppBurst => self.app.burst.get().into(),
            HotKey::InstancePerSecond => self.instance.per_second.get().into(),
            HotKey::InstanceBurst => self.instance.burst.get().into(),
            HotKey::DenialStormCount => self.denial_storm.count.into(),
            HotKey::DenialStormWindow => written(self.denial_storm.window).into(),
            HotKey::LogLevel => self.log_level.name().into(),
        }
    }
}

/// `90s`, `5m`, `1h`.
fn written(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        seconds if seconds % 60 == 0 => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_key_is_read_and_written_alike() {
        let mut hot = Hot::of(&Config::from_toml("").expect("defaults").0);
        for key in HotKey::ALL {
            assert_eq!(HotKey::parse(key.name()), Some(key));
            let value = match key {
                HotKey::DenialStormWindow => json!("90s"),
                HotKey::LogLevel => json!("debug"),
                _ => json!(7),
            };
            assert_ne!(hot.value(key), value, "{key:?}");
            hot.set(key, &value).expect("a value");
            assert_eq!(hot.value(key), value, "{key:?}");
            let before = hot;
            for wrong in
                [json!(0), json!(-1), json!(null), json!([]), json!("x"), json!("never"), json!("trace")]
            {
                assert!(hot.set(key, &wrong).is_err(), "{key:?} {wrong}");
            }
            assert_eq!(hot, before);
        }
    }

    #[test]
    fn a_time_is_written_in_its_largest_unit() {
        for (seconds, text) in [(1, "1s"), (60, "1m"), (90, "90s"), (3600, "1h"), (5400, "90m")] {
            assert_eq!(written(Duration::from_secs(seconds)), text);
        }
    }
}
