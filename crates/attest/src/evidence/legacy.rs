//! Legacy evidence: a TDX quote and its event log in JSON, from before evidence had versions.

use std::io::Read;

use super::{Evidence, MAX_BYTES, MAX_ELEMENTS};
use crate::binding::ReportData;
use crate::measurement::{self, TdxEvent};
use crate::platform::tdx::{Quoted, QuotedError};

/// The first bytes of a compressed event log.
const GZIP_PREFIX: &[u8] = b"ELGZv1";

/// Maximum length of a decompressed event log, bytes.
const MAX_DECOMPRESSED: u64 = 16 * 1024;

/// Why a quote and an event log are not evidence.
#[derive(Debug, thiserror::Error)]
pub enum LegacyError {
    /// The quote is not a TDX quote.
    #[error("legacy quote: {0}")]
    Quote(#[from] QuotedError),
    /// Quote and log together are more than [`MAX_BYTES`].
    #[error("legacy quote and event log must be at most {MAX_BYTES} bytes together, got {0}")]
    TooLarge(usize),
    /// A compressed log that is not gzip.
    #[error("the event log does not decompress: {0}")]
    Gzip(#[source] std::io::Error),
    /// A compressed log that is too long.
    #[error("the event log must decompress to at most {MAX_DECOMPRESSED} bytes")]
    DecompressedTooLarge,
    /// The log is not a JSON array of events.
    #[error("the event log does not parse: {0}")]
    EventLog(#[source] serde_json::Error),
    /// More than [`MAX_ELEMENTS`].
    #[error("the event log must have at most {MAX_ELEMENTS} events, got {0}")]
    TooManyEvents(usize),
}

impl Evidence {
    /// Evidence from a quote and its event log: report data from the quote, runtime events from the log, no
    /// configuration. The log may be compressed (`ELGZv1` and gzip), which the peer no longer reads.
    pub fn from_legacy(quote: &[u8], event_log_json: &[u8]) -> Result<Self, LegacyError> {
        let length = quote.len().saturating_add(event_log_json.len());
        if length > MAX_BYTES {
            return Err(LegacyError::TooLarge(length));
        }
        let quoted = Quoted::parse(quote)?;
        let event_log = parse_log(event_log_json)?;
        let runtime_events = measurement::runtime_events_of(&event_log);
        let report_data = ReportData(quoted.report_data);
        Ok(Self::new_tdx(quote.to_vec(), runtime_events, event_log, report_data, String::new()))
    }
}

fn parse_log(json: &[u8]) -> Result<Vec<TdxEvent>, LegacyError> {
    let decompressed = json.strip_prefix(GZIP_PREFIX).map(decompress).transpose()?;
    let json = decompressed.as_deref().unwrap_or(json);
    let log: Vec<TdxEvent> = crate::json::from_utf8(json).map_err(LegacyError::EventLog)?;
    if log.len() > MAX_ELEMENTS {
        return Err(LegacyError::TooManyEvents(log.len()));
    }
    Ok(log)
}

fn decompress(gzip: &[u8]) -> Result<Vec<u8>, LegacyError> {
    let mut json = Vec::new();
    let mut decoder = flate2::read::GzDecoder::new(gzip).take(MAX_DECOMPRESSED + 1);
    decoder.read_to_end(&mut json).map_err(LegacyError::Gzip)?;
    if json.len() as u64 > MAX_DECOMPRESSED {
        return Err(LegacyError::DecompressedTooLarge);
    }
    Ok(json)
}
