//! Signed bundles of a domain: which came, which waits, which decides. Serials only grow, also over restarts, and two bundles
//! that contradict each other are a fork: the one in force stays.

mod error;
mod fleet;
mod keeper;
mod past;
mod seen;
mod serials;
mod unattended;

pub use self::error::OfferError;
pub use self::fleet::{SharedBundle, bundle_document};
pub use self::keeper::{Activated, BundleKeeper, BundleView, KeeperError, Offered, Origin, PendingBundle};
pub use self::seen::{SharedSerials, parse_serials};
