//! What a TDX guest shows: a quote and its event log.

use crate::measurement::TdxEvent;

/// Evidence of a TDX guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tdx {
    /// Intel quote, version 4 or 5.
    pub quote: Vec<u8>,
    /// Everything the registers were extended with. Nothing binds it to the quote: identity comes from
    /// the runtime events.
    pub event_log: Vec<TdxEvent>,
}
