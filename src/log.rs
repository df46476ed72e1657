//! The process log: lines go to stderr through a bounded queue, so that a slow reader delays nothing.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter, format};
use tracing_subscriber::layer::{Context, Filter, Layer as _, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};

use crate::request;

/// The size of the queue in bytes; further lines are dropped.
const MAX_QUEUE: usize = 1 << 20;
/// Longer lines are cut.
const MAX_LINE: usize = 16 << 10;
/// The most bytes in one write.
const MAX_WRITE: usize = 64 << 10;
/// Lines a second of all libraries together, the same limit as for refusals; further ones are dropped.
const LINES_OF_LIBRARIES: NonZeroU32 = NonZeroU32::new(50).expect("not zero");
/// How often the number of dropped lines is logged.
const SAY_DROPPED_EVERY: Duration = Duration::from_secs(10);
/// The pause between attempts to write to a non-blocking stderr.
const PAUSE: Duration = Duration::from_millis(20);

/// The process log. Clones share it.
#[derive(Clone, Debug)]
pub struct ProcessLog(Arc<Shared>);

/// Changes what is logged.
type FilterHandle = reload::Handle<EnvFilter, Registry>;

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Notified when a line is added, and when the queue is empty.
    changed: Condvar,
    dropped: AtomicU64,
    /// Set by [`ProcessLog::install`].
    filter: OnceLock<FilterHandle>,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Whether lines were taken from the queue that are not written yet.
    is_writing: bool,
}

impl ProcessLog {
    /// A log on stderr.
    ///
    /// # Errors
    /// Stderr is closed, or the thread cannot be started.
    pub fn to_stderr() -> io::Result<Self> {
        // A descriptor of its own, because std locks its handle during a write, and others would wait for
        // that lock.
        Self::to(File::from(io::stderr().as_fd().try_clone_to_owned()?))
    }

    fn to(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let log = Self(Arc::default());
        let shared = Arc::clone(&log.0);
        thread::Builder::new().name("log".to_owned()).spawn(move || shared.drain(sink))?;
        Ok(log)
    }

    /// Receives all events and panics from now on. `RUST_LOG` selects what is logged.
    pub fn install(&self) {
        let (filter, handle) = reload::Layer::new(as_started());
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(self.clone())
            .event_format(WithRequest(format()))
            // Would print to stderr, and panic if that fails.
            .log_internal_errors(false)
            .with_filter(FewOfLibraries::new(self.clone()));
        // A second installation, as in tests, has no effect.
        if tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok() {
            let _ = self.0.filter.set(handle);
        }
        std::panic::set_hook(Box::new(|panic| {
            tracing::error!(thread = thread::current().name(), "panic: {panic}");
        }));
    }

    /// Selects what is logged from now on: what these directives say, or what `RUST_LOG` did at the start.
    pub fn select(&self, directives: Option<&str>) {
        let Some(filter) = self.0.filter.get() else { return };
        let selected = directives.map_or_else(as_started, EnvFilter::new);
        if let Err(error) = filter.reload(selected) {
            tracing::error!(%error, "the log level could not be changed");
        }
    }

    /// Adds a line without time and level.
    pub fn say(&self, text: &str) {
        self.0.push(format!("{text}\n").as_bytes());
    }

    /// How many bytes wait, and how many may.
    pub fn waiting(&self) -> (usize, usize) {
        (self.0.lock().bytes, MAX_QUEUE)
    }

    /// The number of dropped lines.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything is written, at most `limit`.
    pub fn flush(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut queue = self.0.lock();
        while !queue.lines.is_empty() || queue.is_writing {
            let Some(left) = end.checked_duration_since(Instant::now()) else { return };
            queue = self.0.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn as_started() -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drop_lines(&self, count: usize) {
        self.dropped.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn push(&self, line: &[u8]) {
        let mut kept = line[..line.len().min(MAX_LINE)].to_vec();
        if kept.len() < line.len() {
            kept.extend_from_slice(b" [cut]\n");
        }
        let mut queue = self.lock();
        if queue.bytes + kept.len() > MAX_QUEUE {
            drop(queue);
            return self.drop_lines(1);
        }
        queue.bytes += kept.len();
        queue.lines.push_back(kept);
        drop(queue);
        self.changed.notify_all();
    }

    /// Writes until the process ends.
    fn drain(&self, mut sink: impl Write) {
        let mut told = Told { dropped: 0, at: None };
        // Whether the last write ended within a line.
        let mut is_torn = false;
        loop {
            let (lines, count) = self.next(is_torn);
            match write_all(&mut sink, &lines) {
                Ok(()) => {
                    is_torn = false;
                    if let Some(notice) = told.notice(self.dropped.load(Ordering::Relaxed)) {
                        is_torn = write_all(&mut sink, notice.as_bytes()).is_err();
                    }
                }
                // The reader has closed, or the disk is full: continues with the next lines.
                Err(_) => {
                    is_torn = true;
                    self.drop_lines(count);
                }
            }
            self.lock().is_writing = false;
            self.changed.notify_all();
        }
    }

    /// Waits for lines; returns those that fit into one write, and their number.
    fn next(&self, is_torn: bool) -> (Vec<u8>, usize) {
        let mut queue = self.lock();
        while queue.lines.is_empty() {
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let mut bytes = if is_torn { vec![b'\n'] } else { Vec::new() };
        let mut count = 0;
        while let Some(line) =
            queue.lines.pop_front_if(|line| count == 0 || bytes.len() + line.len() <= MAX_WRITE)
        {
            queue.bytes -= line.len();
            bytes.extend_from_slice(&line);
            count += 1;
        }
        queue.is_writing = true;
        (bytes, count)
    }
}

/// How many dropped lines were reported, and when.
struct Told {
    dropped: u64,
    at: Option<Instant>,
}

impl Told {
    fn notice(&mut self, dropped: u64) -> Option<String> {
        let is_early = self.at.is_some_and(|at| at.elapsed() < SAY_DROPPED_EVERY);
        if dropped == self.dropped || is_early {
            return None;
        }
        let new = dropped - self.dropped;
        *self = Self { dropped, at: Some(Instant::now()) };
        let time = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        Some(format!("{time}  WARN cvm_kms::log: lines of this log were dropped lines={new}\n"))
    }
}

fn write_all(sink: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl MakeWriter<'_> for ProcessLog {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line(Arc::clone(&self.0))
    }
}

/// Writes one whole line. Never fails, never waits for stderr.
#[derive(Debug)]
pub struct Line(Arc<Shared>);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Adds the id of the task's request to each line.
struct WithRequest<F>(F);

impl<S, N, F> FormatEvent<S, N> for WithRequest<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(id) = request::logged_id() else { return self.0.format_event(context, writer, event) };
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        writeln!(writer, "{} request_id={id}", line.trim_end_matches('\n'))
    }
}

/// Limits the lines of libraries, because callers can cause any number of them.
struct FewOfLibraries {
    limit: DefaultDirectRateLimiter,
    log: ProcessLog,
}

impl FewOfLibraries {
    fn new(log: ProcessLog) -> Self {
        Self { limit: RateLimiter::direct(Quota::per_second(LINES_OF_LIBRARIES)), log }
    }
}

impl<S: Subscriber> Filter<S> for FewOfLibraries {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let target = event.metadata().target();
        let is_ours = target.starts_with("cvm_kms") || target.starts_with("kms");
        let is_logged = is_ours || self.limit.check().is_ok();
        if !is_logged {
            self.log.0.drop_lines(1);
        }
        is_logged
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Gives each write a prepared result, and keeps what was written.
    struct Sink {
        answers: mpsc::Receiver<io::Result<()>>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Blocks until a result is prepared, as a full pipe does.
            self.answers.recv().unwrap_or(Ok(()))?;
            self.taken.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    type Answers = mpsc::SyncSender<io::Result<()>>;

    fn log() -> (ProcessLog, Answers, Arc<Mutex<Vec<u8>>>) {
        let (answer, answers) = mpsc::sync_channel(8);
        let taken = Arc::<Mutex<Vec<u8>>>::default();
        let log = ProcessLog::to(Sink { answers, taken: Arc::clone(&taken) }).unwrap();
        (log, answer, taken)
    }

    fn text(taken: &Mutex<Vec<u8>>) -> String {
        String::from_utf8(taken.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_stderr_that_nobody_reads_holds_nobody_up_and_the_rest_is_counted() {
        let (log, answer, taken) = log();
        let began = Instant::now();
        let line = "x".repeat(1023);
        for _ in 0..3000 {
            log.say(&line);
        }
        log.flush(Duration::from_millis(50));
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
        let dropped = log.dropped();
        assert!((1900..=1976).contains(&dropped), "{dropped}");
        drop(answer);
        log.flush(Duration::from_secs(5));
        let text = text(&taken);
        assert_eq!(text.lines().filter(|kept| **kept == line).count() as u64, 3000 - dropped);
        assert!(text.contains(&format!("lines of this log were dropped lines={dropped}\n")));
    }

    #[test]
    fn a_stderr_that_fails_loses_lines_and_is_tried_again() {
        let (log, answer, taken) = log();
        for error in [io::ErrorKind::BrokenPipe, io::ErrorKind::StorageFull] {
            answer.send(Err(error.into())).unwrap();
            log.say("lost");
            log.flush(Duration::from_secs(5));
        }
        assert_eq!(log.dropped(), 2);
        drop(answer);
        log.say("kept");
        log.flush(Duration::from_secs(5));
        let text = text(&taken);
        assert!(text.starts_with("\nkept\n") && text.ends_with("were dropped lines=2\n"), "{text}");
    }

    #[test]
    fn a_long_line_is_cut() {
        let (log, answer, taken) = log();
        drop(answer);
        log.say(&"y".repeat(MAX_LINE * 2));
        log.flush(Duration::from_secs(5));
        let text = text(&taken);
        assert_eq!(text.len(), MAX_LINE + " [cut]\n".len());
    }

    #[test]
    fn lines_of_libraries_are_limited_and_ours_are_not() {
        let (log, answer, taken) = log();
        drop(answer);
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(log.clone())
            .with_filter(FewOfLibraries::new(log.clone()));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            for _ in 0..500 {
                tracing::warn!(target: "h2::proto", "theirs");
                tracing::warn!("ours");
            }
        });
        log.flush(Duration::from_secs(5));
        let text = text(&taken);
        assert_eq!(text.matches("ours").count(), 500);
        let theirs = text.matches("theirs").count();
        assert!((50..=70).contains(&theirs), "{theirs}");
        assert_eq!(log.dropped(), 500 - theirs as u64);
    }

    #[tokio::test]
    async fn lines_within_a_request_name_it() {
        let (log, answer, taken) = log();
        drop(answer);
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(log.clone())
            .event_format(WithRequest(format()));
        let subscriber = tracing_subscriber::registry().with(lines);
        let _guard = tracing::subscriber::set_default(subscriber);
        tracing::info!("before");
        let context = request::Context::new(request::RequestId::ours(10), request::ErrorBody::Peer);
        context.scope(async { tracing::warn!(code = "denied", "within\ntwo lines") }).await;
        log.flush(Duration::from_secs(5));
        let text = text(&taken);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("before"), "{text}");
        assert!(text.ends_with(" request_id=0000000000000000000000000000000a\n"), "{text}");
        assert_eq!(text.matches("request_id=").count(), 1, "{text}");
    }
}
