//! A TDX guest's evidence: a quote and its event log.

use crate::measurement::TdxEvent;

/// Evidence of a TDX guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tdx {
    /// The quote, version 4 or 5.
    pub quote: Vec<u8>,
    /// The extensions of the registers. The quote does not bind the log: identity comes from the runtime
    /// events.
    pub event_log: Vec<TdxEvent>,
}
