//! Limits how often keys are released to one app and one instance, because each release adds a line to the
//! audit log and even allowed callers must not fill the disk.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use kms_attest::identity::{AppId, DeviceId, Identity, InstanceId};

use crate::config::{Limits, Rate};

/// From this many apps or instances on, idle ones are forgotten.
const MAX_REMEMBERED: usize = 16 * 1024;

/// A token bucket for each app, and for each instance of it.
pub struct ReleaseLimit(ArcSwap<Buckets>);

struct Buckets {
    apps: DefaultKeyedRateLimiter<AppId>,
    instances: DefaultKeyedRateLimiter<(AppId, Instance)>,
    rates: [Rate; 2],
}

/// One instance of an app: its id, or the machine of an app whose instances have no id.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Instance {
    Id(InstanceId),
    Device(DeviceId),
}

/// Which limit was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exceeded {
    /// That of the app, over all its instances.
    App,
    /// That of one instance.
    Instance,
}

impl Exceeded {
    /// The configuration's name of the limit.
    pub fn limit(self) -> &'static str {
        match self {
            Self::App => "app_per_second",
            Self::Instance => "instance_per_second",
        }
    }

    /// The error text for the caller.
    pub fn text(self) -> &'static str {
        match self {
            Self::App => "too many requests of this app; slow down",
            Self::Instance => "too many requests of this instance; slow down",
        }
    }
}

impl ReleaseLimit {
    /// The configured limits.
    pub fn new(limits: &Limits) -> Self {
        Self(ArcSwap::from_pointee(Buckets::new(limits.app, limits.instance)))
    }

    /// Puts these rates in force, with full bursts. The same rates change nothing.
    pub fn change(&self, app: Rate, instance: Rate) {
        if self.0.load().rates != [app, instance] {
            self.0.store(Arc::new(Buckets::new(app, instance)));
        }
    }

    /// Takes a token of an allowed caller's instance, then one of its app. Without an instance id, the app on
    /// one machine counts as one instance.
    ///
    /// # Errors
    /// Which of them has none left.
    pub fn admit(&self, identity: &Identity) -> Result<(), Exceeded> {
        let instance = identity.instance_id.map_or(Instance::Device(identity.device_id), Instance::Id);
        let Buckets { apps, instances, .. } = &**self.0.load();
        instances.check_key(&(identity.app_id, instance)).map_err(|_| Exceeded::Instance)?;
        apps.check_key(&identity.app_id).map_err(|_| Exceeded::App)
    }

    /// Forgets idle apps and instances; called periodically.
    pub fn prune(&self) {
        let Buckets { apps, instances, .. } = &**self.0.load();
        if apps.len() > MAX_REMEMBERED {
            apps.retain_recent();
            apps.shrink_to_fit();
        }
        if instances.len() > MAX_REMEMBERED {
            instances.retain_recent();
            instances.shrink_to_fit();
        }
    }
}

impl Buckets {
    fn new(app: Rate, instance: Rate) -> Self {
        let quota = |rate: Rate| Quota::per_second(rate.per_second).allow_burst(rate.burst);
        Self {
            apps: RateLimiter::keyed(quota(app)),
            instances: RateLimiter::keyed(quota(instance)),
            rates: [app, instance],
        }
    }
}

impl fmt::Debug for ReleaseLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReleaseLimit").finish_non_exhaustive()
    }
}
