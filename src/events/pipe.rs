//! The named pipe to which other programs write events, one a line: `core.events.fifo`.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Weak;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::outside::{MAX_MESSAGE, Message, Reports};

/// Read and write for the owner, write for the group.
const MODE: u32 = 0o620;
/// A line without an end is complete after this pause.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause after an error.
const RETRY: Duration = Duration::from_secs(1);

/// Why the pipe cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    /// The path is something else.
    #[error("it is not a named pipe: move it away, or name another path")]
    Other,
    /// It cannot be created or opened.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The open pipe.
#[derive(Debug)]
pub struct Pipe(pipe::Receiver);

impl Pipe {
    /// Whether `path` is a pipe, or is free for a new one.
    ///
    /// # Errors
    /// [`PipeError::Other`].
    pub fn check(path: &Path) -> Result<(), PipeError> {
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_fifo() => Err(PipeError::Other),
            _ => Ok(()),
        }
    }

    /// Opens the pipe at `path`, and creates it if it is missing. Must be called in a runtime.
    ///
    /// # Errors
    /// [`PipeError`].
    pub fn open(path: &Path) -> Result<Self, PipeError> {
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_fifo() => {}
            Ok(_) => return Err(PipeError::Other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).map_err(io::Error::from)?;
                // Independent of the umask.
                std::fs::set_permissions(path, Permissions::from_mode(MODE))?;
            }
            Err(error) => return Err(error.into()),
        }
        // Opened for writing too, so that there is always a writer, and no end of file when the last other
        // one closes.
        Ok(Self(pipe::OpenOptions::new().read_write(true).open_receiver(path)?))
    }

    /// Records each line until `reports` is dropped. Reads everything that is written, so that no writer
    /// waits for long.
    pub async fn record(mut self, reports: Weak<Reports>) {
        let mut lines = Lines::default();
        let mut bytes = [0; 4096];
        loop {
            let read = match lines.is_empty() {
                true => Ok(self.0.read(&mut bytes).await),
                false => timeout(PAUSE, self.0.read(&mut bytes)).await,
            };
            let complete = match read {
                Ok(Ok(length)) if length > 0 => lines.take(&bytes[..length]),
                // There is no end of file while we hold it open, and an error must not cause a busy loop.
                Ok(_) => {
                    tokio::time::sleep(RETRY).await;
                    Vec::new()
                }
                Err(_) => lines.end().into_iter().collect(),
            };
            for message in complete {
                let Some(reports) = reports.upgrade() else { return };
                reports.of_pipe(message).await;
            }
        }
    }
}

/// Splits the bytes of a pipe into lines. Holds at most one message.
#[derive(Debug, Default)]
pub struct Lines {
    line: Vec<u8>,
    /// Whether the rest of the line is discarded.
    is_cut: bool,
}

impl Lines {
    /// Whether no line has begun.
    pub fn is_empty(&self) -> bool {
        self.line.is_empty() && !self.is_cut
    }

    /// The lines that are complete with these bytes.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<Message> {
        let mut messages = Vec::new();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_ended) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            let room = MAX_MESSAGE - self.line.len();
            self.is_cut |= text.len() > room;
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if is_ended {
                messages.extend(self.end());
            }
        }
        messages
    }

    /// Ends the current line here.
    pub fn end(&mut self) -> Option<Message> {
        let message = Message::of_line(&self.line, self.is_cut);
        self.line.clear();
        self.is_cut = false;
        message
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::sync::Arc;

    use super::*;
    use crate::audit::Audit;

    fn texts(messages: &[Message]) -> Vec<&str> {
        messages.iter().map(Message::as_str).collect()
    }

    #[test]
    fn lines_are_cut_where_they_end_and_where_they_are_too_long() {
        let mut lines = Lines::default();
        assert_eq!(texts(&lines.take(b"one\ntwo\n\n \nthr")), ["one", "two"]);
        assert_eq!(texts(&lines.take(b"ee\n")), ["three"]);
        let long = "x".repeat(MAX_MESSAGE);
        assert!(lines.take(long.as_bytes()).is_empty() && lines.take(&[b'y'; 100_000]).is_empty());
        assert!(lines.line.capacity() <= 2 * MAX_MESSAGE, "{}", lines.line.capacity());
        assert_eq!(texts(&lines.take(b"y\nnext\n")), [&*(long + "…"), "next"]);
        assert_eq!(texts(&lines.take(b"\xff\x00\n")), ["\u{fffd}\\u{0}"]);
        assert!(lines.is_empty() && lines.take(b"begun").is_empty() && !lines.is_empty());
        assert_eq!(lines.end().unwrap().as_str(), "begun");
        assert_eq!(lines.end(), None);
    }

    #[tokio::test]
    async fn what_is_not_a_pipe_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("file"), "").unwrap();
        fs::create_dir(path("directory")).unwrap();
        drop(Pipe::open(&path("pipe")).unwrap());
        std::os::unix::fs::symlink(path("pipe"), path("link")).unwrap();
        for name in ["file", "directory", "link"] {
            assert!(matches!(Pipe::open(&path(name)), Err(PipeError::Other)), "{name}");
        }
        assert!(matches!(Pipe::open(&path("no/pipe")), Err(PipeError::Io(_))));
        let mode = fs::metadata(path("pipe")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, MODE);
        Pipe::open(&path("pipe")).unwrap();
    }

    #[tokio::test]
    async fn writers_come_and_go_and_their_lines_do_not_mix() {
        let directory = tempfile::tempdir().unwrap();
        let (log, path) = (directory.path().join("audit.jsonl"), directory.path().join("pipe"));
        let reports = Arc::new(Reports::new(Arc::new(Audit::open(&log).unwrap())));
        let reading = tokio::spawn(Pipe::open(&path).unwrap().record(Arc::downgrade(&reports)));
        let writers = ["a", "b"].map(|name| {
            let path = path.clone();
            tokio::task::spawn_blocking(move || {
                for count in 0..20 {
                    let mut pipe = fs::OpenOptions::new().write(true).open(&path).unwrap();
                    let line = format!("{}{count}\n", name.repeat(1000));
                    pipe.write_all(line.as_bytes()).unwrap();
                }
            })
        });
        for writer in writers {
            writer.await.unwrap();
        }
        fs::OpenOptions::new().write(true).open(&path).unwrap().write_all(b"no newline").unwrap();
        let read = || fs::read_to_string(&log).unwrap();
        for _ in 0..1_000 {
            if read().contains("no newline") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(read().lines().count(), 41);
        for name in ["a", "b"] {
            for count in 0..20 {
                assert!(read().contains(&format!("\"message\":\"{}{count}\"", name.repeat(1000))));
            }
        }
        reading.abort();
    }
}
