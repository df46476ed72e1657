//! Which blocks can follow on those that decided.

/// How many blocks `latest` may be behind the newest block that decided. It is more than a chain drops in
/// practice, and more than the distance between honest nodes. With confirmations, both blocks have the same
/// number of them.
pub(super) const MAX_BACK: u64 = 64;

/// How many blocks a new block may be ahead of the newest one that decided, in addition to
/// [`BLOCKS_A_SECOND`] since then. No chain is faster, so a number that is further ahead is false.
pub(super) const MAX_LEAP: u64 = 1000;
pub(super) const BLOCKS_A_SECOND: u64 = 100;
