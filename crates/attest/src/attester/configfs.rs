//! Quotes from the kernel's TSM report interface (`/sys/kernel/config/tsm/report`), without a guest agent.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::AttesterError;
use crate::binding::ReportData;
use crate::evidence::Evidence;
use crate::measurement::RuntimeEvent;
use crate::platform::tdx::TdReport;
use crate::small_file::small_file;

const REPORT_DIRECTORY: &str = "/sys/kernel/config/tsm/report";
const ENTRY: &str = "cvm-kms";
const PROVIDER: &str = "tdx_guest";
// Linux error numbers, the same on every architecture.
const EIO: i32 = 5;
const ENXIO: i32 = 6;
const ENODEV: i32 = 19;
/// Maximum number of characters of another provider's name in a message.
const MAX_PROVIDER: usize = 64;
/// Maximum length of a quote, bytes; the kernel's limit is 32 KiB.
const MAX_QUOTE: u64 = 64 * 1024;
/// Maximum length of another attribute, bytes; the kernel states a page as the size of each.
const MAX_ATTRIBUTE: u64 = 64 * 1024;
/// Maximum length of the runtime event log, bytes; a guest's has a few kilobytes.
const MAX_EVENT_LOG: u64 = 4 << 20;
/// Attempts to get a quote while other processes use the entry.
const ATTEMPTS: usize = 5;

/// Evidence from the kernel's TSM report interface and the guest's runtime event log.
///
/// The event log in the evidence has only the runtime events: the firmware's log is not read.
#[derive(Debug, Clone)]
pub struct ConfigfsTsm {
    report_directory: PathBuf,
    event_log: PathBuf,
    vm_config: String,
    turn: Arc<Mutex<()>>,
}

impl ConfigfsTsm {
    /// `event_log` is the file of runtime events, one JSON object per line.
    pub fn new(event_log: PathBuf, vm_config: String) -> Self {
        Self { report_directory: REPORT_DIRECTORY.into(), event_log, vm_config, turn: Arc::default() }
    }

    /// The VM's configuration as given.
    pub fn vm_config(&self) -> &str {
        &self.vm_config
    }

    /// Requests new evidence.
    pub async fn attest(&self, report_data: ReportData) -> Result<Evidence, AttesterError> {
        let own = self.clone();
        let attested = tokio::task::spawn_blocking(move || own.attest_blocking(report_data)).await;
        attested.unwrap_or(Err(AttesterError::Broken))
    }

    fn attest_blocking(&self, report_data: ReportData) -> Result<Evidence, AttesterError> {
        // If an event is extended between the two reads, the log lacks it and the evidence does not verify.
        let events = self.runtime_events()?;
        let quote = self.quote(report_data)?;
        let log = events.iter().map(RuntimeEvent::to_tdx_event_with_preimage).collect();
        Ok(Evidence::new_tdx(quote, events, log, report_data, self.vm_config.clone()))
    }

    fn quote(&self, report_data: ReportData) -> Result<Vec<u8>, AttesterError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = self.report_directory.join(ENTRY);
        match fs::create_dir(&entry) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(AttesterError::NoReports),
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(tsm("create entry", &error));
            }
            _ => {}
        }
        let quote = without_conflict(|| attempt(&entry, report_data));
        // If the entry cannot be removed, the next call uses it again.
        let _ = fs::remove_dir(&entry);
        quote
    }

    fn runtime_events(&self) -> Result<Vec<RuntimeEvent>, AttesterError> {
        let log = small_file(&self.event_log, MAX_EVENT_LOG).map_err(|error| {
            AttesterError::EventLogFile { path: self.event_log.clone(), kind: error.kind() }
        })?;
        let log = String::from_utf8(log).map_err(|_| AttesterError::EventLog("is not utf-8"))?;
        let lines = log.lines().filter(|line| !line.trim().is_empty());
        let events: Vec<RuntimeEvent> = lines
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()
            .map_err(|_| AttesterError::EventLog("a line is not a runtime event"))?;
        match events.is_empty() {
            true => Err(AttesterError::EventLog("has no event")),
            false => Ok(events),
        }
    }
}

/// The first outcome that is not a conflict, within [`ATTEMPTS`].
fn without_conflict<T>(mut attempt: impl FnMut() -> Result<T, AttesterError>) -> Result<T, AttesterError> {
    (0..ATTEMPTS)
        .map(|_| attempt())
        .find(|outcome| !matches!(outcome, Err(AttesterError::Conflict)))
        .unwrap_or(Err(AttesterError::Conflict))
}

/// Writes the report data and reads the quote. The generation and the quote itself show whether another
/// process wrote in between.
fn attempt(entry: &Path, report_data: ReportData) -> Result<Vec<u8>, AttesterError> {
    let write = || OpenOptions::new().write(true).open(entry.join("inblob"))?.write_all(&report_data.0);
    or_conflict("write report data", write())?;
    let before = or_conflict("read generation", text(&entry.join("generation")))?;
    let provider = or_conflict("read provider", text(&entry.join("provider")))?;
    if provider != PROVIDER {
        return Err(AttesterError::Provider(provider.chars().take(MAX_PROVIDER).collect()));
    }
    let quote = small_file(&entry.join("outblob"), MAX_QUOTE).map_err(unquoted)?;
    let after = or_conflict("read generation", text(&entry.join("generation")))?;
    if before != after {
        return Err(AttesterError::Conflict);
    }
    if quote.is_empty() {
        return Err(AttesterError::EmptyQuote);
    }
    match TdReport::parse(&quote) {
        Ok(td) if td.quoted.report_data == report_data.0 => Ok(quote),
        Ok(_) => Err(AttesterError::Conflict),
        Err(_) => Err(AttesterError::UnreadableQuote),
    }
}

/// The kernel's errors in place of a quote: `ETIMEDOUT` if the host does not respond, `EIO`, `ENXIO` or
/// `ENODEV` if it refuses.
fn unquoted(error: io::Error) -> AttesterError {
    match error.raw_os_error() {
        _ if error.kind() == ErrorKind::TimedOut => AttesterError::QuoteLate,
        Some(EIO | ENXIO | ENODEV) => AttesterError::QuoteRefused(error.kind()),
        _ => match or_conflict::<()>("read quote", Err(error)) {
            Err(error) => error,
            Ok(()) => AttesterError::Conflict,
        },
    }
}

/// The kernel returns "busy" while another process writes.
fn or_conflict<T>(step: &'static str, result: io::Result<T>) -> Result<T, AttesterError> {
    result.map_err(|error| match error.kind() {
        ErrorKind::ResourceBusy | ErrorKind::Interrupted | ErrorKind::WouldBlock => AttesterError::Conflict,
        _ => tsm(step, &error),
    })
}

fn tsm(step: &'static str, error: &io::Error) -> AttesterError {
    AttesterError::Tsm { step, kind: error.kind() }
}

fn text(path: &Path) -> io::Result<String> {
    let bytes = small_file(path, MAX_ATTRIBUTE)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collateral::testing::mock_quote;

    /// A directory like the kernel's, with an entry that gives the mock quote (report data 03…03).
    fn kernel() -> (tempfile::TempDir, ConfigfsTsm) {
        let directory = tempfile::tempdir().unwrap();
        let entry = directory.path().join(ENTRY);
        fs::create_dir(&entry).unwrap();
        fs::write(entry.join("inblob"), "").unwrap();
        fs::write(entry.join("provider"), "tdx_guest\n").unwrap();
        fs::write(entry.join("generation"), "1\n").unwrap();
        fs::write(entry.join("outblob"), mock_quote()).unwrap();
        let event_log = directory.path().join("events.log");
        fs::write(
            &event_log,
            "{\"event\":\"app-id\",\"payload\":\"AQI=\"}\n\n{\"event\":\"x\",\"payload\":\"\"}\n",
        )
        .unwrap();
        let mut kernel = ConfigfsTsm::new(event_log, "{\"cpu_count\":1}".into());
        kernel.report_directory = directory.path().to_owned();
        (directory, kernel)
    }

    #[tokio::test]
    async fn evidence_has_the_kernels_quote_and_the_logs_events() {
        let (directory, kernel) = kernel();
        let report_data = ReportData([3; 64]);
        let evidence = kernel.attest(report_data).await.unwrap();
        assert_eq!(fs::read(directory.path().join(ENTRY).join("inblob")).unwrap(), [3; 64]);
        let tdx = evidence.tdx().unwrap();
        assert_eq!(tdx.quote, mock_quote());
        assert_eq!(tdx.event_log.len(), 2);
        assert_eq!(evidence.stack.runtime_events[0].event, "app-id");
        assert_eq!(evidence.stack.runtime_events[0].payload, [1, 2]);
        assert_eq!(evidence.stack.config, "{\"cpu_count\":1}");
        assert_eq!(evidence.report_data().unwrap(), report_data);
    }

    #[tokio::test]
    async fn a_quote_for_other_report_data_is_a_conflict() {
        let (_directory, kernel) = kernel();
        let error = kernel.attest(ReportData([9; 64])).await.unwrap_err();
        assert!(matches!(error, AttesterError::Conflict), "{error}");
    }

    #[tokio::test]
    async fn a_changing_generation_is_a_conflict() {
        let (directory, kernel) = kernel();
        let generation = directory.path().join(ENTRY).join("generation");
        fs::remove_file(&generation).unwrap();
        // Reads as another text each time.
        std::os::unix::fs::symlink("/proc/sys/kernel/random/uuid", &generation).unwrap();
        let error = kernel.attest(ReportData([3; 64])).await.unwrap_err();
        assert!(matches!(error, AttesterError::Conflict), "{error}");
    }

    #[test]
    fn a_conflict_is_tried_again_and_nothing_else_is() {
        let attempts = |outcomes: fn(usize) -> Result<usize, AttesterError>| {
            let mut count = 0;
            let outcome = without_conflict(|| {
                count += 1;
                outcomes(count)
            });
            (outcome.ok(), count)
        };
        assert_eq!(attempts(Ok), (Some(1), 1));
        let third = |n| if n == 3 { Ok(n) } else { Err(AttesterError::Conflict) };
        assert_eq!(attempts(third), (Some(3), 3));
        assert_eq!(attempts(|_| Err(AttesterError::Conflict)), (None, ATTEMPTS));
        assert_eq!(attempts(|_| Err(AttesterError::EmptyQuote)), (None, 1));
    }

    #[tokio::test]
    async fn another_provider_and_missing_files_are_refused_with_a_reason() {
        type Spoil = fn(&Path);
        let cases: [(Spoil, &str); 9] = [
            (|d| fs::write(d.join("cvm-kms/outblob"), "").unwrap(), "configfs-tsm: the quote is empty"),
            (
                |d| fs::write(d.join("cvm-kms/outblob"), "x").unwrap(),
                "configfs-tsm: what the host gave is not",
            ),
            (|d| fs::write(d.join("events.log"), "\n").unwrap(), "runtime event log: has no event"),
            (
                |d| fs::write(d.join("cvm-kms/provider"), "sev_guest").unwrap(),
                "configfs-tsm: provider is not",
            ),
            (|d| fs::remove_file(d.join("cvm-kms/outblob")).unwrap(), "configfs-tsm: read quote: entity not"),
            (|d| fs::remove_dir_all(d.join("cvm-kms")).unwrap(), "configfs-tsm: write report data: entity"),
            (|d| fs::remove_file(d.join("events.log")).unwrap(), "runtime event log: cannot be read"),
            (|d| fs::write(d.join("events.log"), "{}").unwrap(), "runtime event log: a line is not"),
            (|d| fs::write(d.join("events.log"), [0xff]).unwrap(), "runtime event log: is not utf-8"),
        ];
        for (spoil, expected) in cases {
            let (directory, kernel) = kernel();
            spoil(directory.path());
            let error = kernel.attest(ReportData([3; 64])).await.unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        let (directory, mut kernel) = kernel();
        kernel.report_directory = directory.path().join("absent");
        let error = kernel.attest(ReportData([3; 64])).await.unwrap_err().to_string();
        assert_eq!(error, "configfs-tsm: this kernel offers no reports");
    }

    #[test]
    fn every_error_of_the_kernel_says_where_to_look() {
        let (timed_out, access, busy) = (110, 13, 16);
        for (errno, message, place) in [
            (timed_out, "no quote in time", "quote-generation-socket"),
            (EIO, "the host made no quote", "PCK certificate"),
            (ENODEV, "the host made no quote", "PCK certificate"),
            (access, "read quote: permission denied", "run as root"),
            (busy, "report entry is in use", "another process"),
        ] {
            let told = unquoted(io::Error::from_raw_os_error(errno)).detailed();
            assert!(told.contains(message) && told.contains(place), "{told}");
        }
    }

    #[test]
    fn no_two_failures_say_the_same() {
        let kind = ErrorKind::NotFound;
        let failures = [
            AttesterError::NoReports,
            AttesterError::QuoteLate,
            AttesterError::QuoteRefused(ErrorKind::Other),
            AttesterError::EmptyQuote,
            AttesterError::UnreadableQuote,
            AttesterError::Conflict,
            AttesterError::Provider("sev_guest".to_owned()),
            AttesterError::Tsm { step: "create entry", kind: ErrorKind::PermissionDenied },
            AttesterError::EventLogFile { path: "/run/log".into(), kind },
            AttesterError::EventLog("has no event"),
        ];
        let told: std::collections::BTreeSet<String> = failures.iter().map(AttesterError::detailed).collect();
        assert_eq!(told.len(), failures.len());
        assert!(
            told.iter().any(|told| told.contains("sev_guest"))
                && told.iter().any(|told| told.contains("/run/log"))
        );
    }
}
