//! Events that others report: bounded, made printable, and recorded as reports.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use kms_attest::identity::DomainName;

use crate::audit::{Audit, AuditError, Event, printable};

/// The longest message in bytes, as received.
pub const MAX_MESSAGE: usize = 4096;

/// The burst that one source may send, and the interval of further messages.
const BURST: NonZeroU32 = NonZeroU32::new(100).expect("not zero");
/// Credentials of one domain report half as many, so that those of others can report too.
const BURST_OF_DOMAIN: NonZeroU32 = NonZeroU32::new(50).expect("not zero");
const PERIOD_OF_DOMAIN: Duration = Duration::from_secs(2);
const API_PERIOD: Duration = Duration::from_secs(1);
const PIPE_PERIOD: Duration = Duration::from_secs(5);

/// Why a message is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// It is empty.
    #[error("message must not be empty")]
    Empty,
    /// It is over [`MAX_MESSAGE`].
    #[error("message must be at most {MAX_MESSAGE} bytes")]
    TooLong,
    /// It is not UTF-8.
    #[error("message must be UTF-8")]
    NotText,
}

/// A reported text, without characters that could alter the display of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message(String);

impl Message {
    /// Parses a message, and trims white space.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn read(bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() > MAX_MESSAGE {
            return Err(MessageError::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| MessageError::NotText)?.trim();
        if text.is_empty() {
            return Err(MessageError::Empty);
        }
        let text = printable(text);
        // Checked again, because escapes are longer than what they replace.
        if text.len() > MAX_MESSAGE { Err(MessageError::TooLong) } else { Ok(Self(text)) }
    }

    /// Makes a message of any line from a pipe, because its writer cannot be told of an error. `None` if it is
    /// blank.
    pub(super) fn of_line(line: &[u8], is_cut: bool) -> Option<Self> {
        let text = String::from_utf8_lossy(&line[..line.len().min(MAX_MESSAGE)]);
        let text = text.trim();
        let mut message = printable(text);
        let end = if is_cut || message.len() > MAX_MESSAGE { "…" } else { "" };
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        (!text.is_empty()).then(|| Self(message + end))
    }

    /// The message as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Records reports, up to the rate at which they may grow the log.
#[derive(Debug)]
pub struct Reports {
    audit: Arc<Audit>,
    api: DefaultDirectRateLimiter,
    /// By domain.
    limited: DefaultKeyedRateLimiter<DomainName>,
    pipe: DefaultDirectRateLimiter,
    left_out: AtomicU64,
}

/// Why a report is not recorded.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Too many were sent before it.
    #[error("too many events are reported; slow down")]
    TooMany,
    /// The log cannot be written.
    #[error(transparent)]
    Audit(AuditError),
}

impl Reports {
    /// Records in this log.
    pub fn new(audit: Arc<Audit>) -> Self {
        let quota =
            |period, burst| Quota::with_period(period).unwrap_or(Quota::per_second(burst)).allow_burst(burst);
        let limiter = |period| RateLimiter::direct(quota(period, BURST));
        let limited = RateLimiter::keyed(quota(PERIOD_OF_DOMAIN, BURST_OF_DOMAIN));
        let (api, pipe) = (limiter(API_PERIOD), limiter(PIPE_PERIOD));
        Self { audit, api, limited, pipe, left_out: AtomicU64::new(0) }
    }

    /// Records a report of an operator, who may be limited to `domain`; returns the number of the record.
    ///
    /// # Errors
    /// [`ReportError`].
    pub async fn of_operator(
        &self,
        message: Message,
        domain: Option<&DomainName>,
        by: String,
        remote: IpAddr,
    ) -> Result<u64, ReportError> {
        if let Some(domain) = domain {
            self.limited.check_key(domain).map_err(|_| ReportError::TooMany)?;
        }
        self.api.check().map_err(|_| ReportError::TooMany)?;
        let (by, remote) = (Some(by), Some(remote));
        let domain = domain.map(ToString::to_string);
        let event = Event::Reported { source: "api", message: message.0, domain, by, remote };
        Ok(self.audit.record(event).await.map_err(ReportError::Audit)?.seq())
    }

    /// Records a line from the pipe; what exceeds the rate is only counted.
    pub(super) async fn of_pipe(&self, message: Message) {
        if self.pipe.check().is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        let counted = (left_out > 0).then_some(Event::Suppressed { events: left_out, source: Some("pipe") });
        let event =
            Event::Reported { source: "pipe", message: message.0, domain: None, by: None, remote: None };
        let counted = counted.map(|event| (event, left_out));
        for (event, count) in counted.into_iter().chain([(event, 1)]) {
            if let Err(error) = self.audit.record(event).await {
                self.left_out.fetch_add(count, Ordering::Relaxed);
                tracing::warn!(%error, "an event from the pipe could not be recorded");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_bounded_text_on_one_line() {
        for (bytes, expected) in [
            (&b" hello world \n"[..], Ok("hello world")),
            (b"a\nb", Ok(r"a\nb")),
            (
                "2026-01-01T00:00:00Z [x]\u{2028}\u{1b}[31m".as_bytes(),
                Ok(r"2026-01-01T00:00:00Z [x]\u{2028}\u{1b}[31m"),
            ),
            (b" \t\n", Err(MessageError::Empty)),
            (b"\xff", Err(MessageError::NotText)),
        ] {
            assert_eq!(
                Message::read(bytes).as_ref().map(Message::as_str),
                expected.as_ref().map(|text| *text)
            );
        }
        assert!(Message::read(&[b'x'; MAX_MESSAGE]).is_ok());
        assert_eq!(Message::read(&[b'x'; MAX_MESSAGE + 1]), Err(MessageError::TooLong));
    }

    #[test]
    fn escapes_do_not_make_a_message_longer_than_it_may_be() {
        assert_eq!(Message::read(&[0x7f; MAX_MESSAGE]), Err(MessageError::TooLong));
        let cut = Message::of_line(&[0x7f; MAX_MESSAGE], false).expect("a message");
        assert!(cut.as_str().len() <= MAX_MESSAGE + "…".len() && cut.as_str().ends_with('…'));
    }

    #[tokio::test]
    async fn a_flood_through_the_pipe_is_counted_and_holds_up_no_operator() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let reports = Reports::new(Arc::new(Audit::open(&path).unwrap()));
        for _ in 0..500 {
            reports.of_pipe(Message("x".to_owned())).await;
        }
        assert_eq!(reports.left_out.load(Ordering::Relaxed), 400);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 100);
        let message = Message("y".to_owned());
        let seq = reports.of_operator(message, None, "token".to_owned(), IpAddr::from([127, 0, 0, 1])).await;
        assert_eq!(seq.unwrap(), 101);
    }
}
