//! Reads what is recorded while it is recorded, from the files alone: the writer never waits for a reader.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use kms_ledger::compressed::{self, Stored};

use super::chain::{MAX_LINE, number};
use super::disk::{Identity, Seen};
use super::segments;

/// Follows the records of one log. A record whose file is gone is left out.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    open: Option<Open>,
    next: u64,
}

struct Open {
    lines: Box<dyn BufRead + Send>,
    /// Of the file that grows.
    identity: Option<Identity>,
    /// The number of its last record, in a closed file. Lines after it were never acknowledged.
    last: Option<u64>,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").field("last", &self.last).finish_non_exhaustive()
    }
}

impl Reader {
    /// Follows the log at `path` after the record of this number.
    pub fn after(path: &Path, seq: u64) -> Self {
        Self { path: path.to_owned(), open: None, next: seq + 1 }
    }

    /// The next record, of those up to `acknowledged`, without its newline in `line`; its number, or `None` if there is
    /// none. `acknowledged` is what [`super::Progress::acknowledged`] said before this call.
    ///
    /// # Errors
    /// A file cannot be read. The next call tries again.
    pub fn next(&mut self, acknowledged: u64, line: &mut Vec<u8>) -> io::Result<Option<u64>> {
        while self.next <= acknowledged {
            let Some(open) = &mut self.open else {
                self.open = self.find()?;
                if self.open.is_none() {
                    return Ok(None);
                }
                continue;
            };
            line.clear();
            let read = (&mut open.lines).take(MAX_LINE as u64 + 1).read_until(b'\n', line);
            let number = match read {
                Ok(_) if line.pop() == Some(b'\n') => number(line),
                Ok(_) => None,
                Err(error) => {
                    self.open = None;
                    return Err(error);
                }
            };
            match (number, open.last) {
                (Some(seq), last) if last.is_none_or(|last| seq <= last) => {
                    // Smaller ones are before the place where we begin. Where some are missing, nobody has them.
                    if seq > acknowledged {
                        self.open = None;
                        return Ok(None);
                    }
                    if seq >= self.next {
                        self.next = seq + 1;
                        return Ok(Some(seq));
                    }
                }
                (_, Some(last)) => {
                    self.next = self.next.max(last + 1);
                    self.open = None;
                }
                (_, None) => {
                    self.open = None;
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    /// Whether all records up to this number were read, or are in no file.
    pub fn is_past(&self, seq: u64) -> bool {
        self.next > seq
    }

    /// Call it after asking what is acknowledged and before reading up to there: lines that the writer has
    /// left in a file without acknowledging them are not read then.
    ///
    /// # Errors
    /// The file cannot be looked at.
    pub fn renew(&mut self) -> io::Result<()> {
        let named = Seen::at(&self.path)?.map(|seen| seen.identity);
        self.open.take_if(|open| open.last.is_none() && open.identity != named);
        Ok(())
    }

    /// The file with the next record.
    fn find(&self) -> io::Result<Option<Open>> {
        let closed = segments::numbered(&self.path)?.into_iter().find(|(last, _)| *last >= self.next);
        if let Some((last, path)) = closed {
            // A pipe or a device cannot be read again.
            if !Seen::at(&compressed::present_name(&path))?.is_some_and(|seen| seen.is_file) {
                return Ok(None);
            }
            let lines = Stored::open(&path)?.reader();
            return Ok(Some(Open { lines, identity: None, last: Some(last) }));
        }
        if !Seen::at(&self.path)?.is_some_and(|seen| seen.is_file) {
            return Ok(None);
        }
        let file = File::open(&self.path)?;
        let identity = Some(Seen::of(&file.metadata()?).identity);
        Ok(Some(Open { lines: Box::new(BufReader::with_capacity(1 << 16, file)), identity, last: None }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seq: u64, text: &str) -> String {
        format!("{{\"seq\":{seq},\"x\":\"{text}\"}}\n")
    }

    fn read(reader: &mut Reader, acknowledged: u64) -> Vec<String> {
        reader.renew().unwrap();
        let (mut read, mut line) = (Vec::new(), Vec::new());
        while let Some(seq) = reader.next(acknowledged, &mut line).unwrap() {
            assert!(line.starts_with(format!("{{\"seq\":{seq},").as_bytes()));
            read.push(String::from_utf8(line.clone()).unwrap() + "\n");
        }
        read
    }

    #[test]
    fn what_is_acknowledged_is_read_once_from_file_to_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let mut reader = Reader::after(&path, 0);
        assert!(read(&mut reader, 3).is_empty(), "there is no file");
        std::fs::write(&path, [line(1, "a"), line(2, "b"), line(3, "never acknowledged")].concat()).unwrap();
        assert_eq!(read(&mut reader, 1), [line(1, "a")]);
        assert_eq!(read(&mut reader, 2), [line(2, "b")]);
        assert!(read(&mut reader, 2).is_empty());
        // As the writer does after a failed sync: another line has the number now.
        std::fs::rename(&path, directory.path().join("audit.2.jsonl")).unwrap();
        std::fs::write(&path, [line(3, "c"), line(4, "d")].concat()).unwrap();
        assert_eq!(read(&mut reader, 4), [line(3, "c"), line(4, "d")]);
        let mut again = Reader::after(&path, 0);
        assert_eq!(read(&mut again, 4), [line(1, "a"), line(2, "b"), line(3, "c"), line(4, "d")]);
        assert_eq!(read(&mut Reader::after(&path, 3), 4), [line(4, "d")]);
    }

    #[test]
    fn records_that_were_moved_away_are_left_out_and_what_is_no_record_stops_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        std::fs::write(directory.path().join("audit.9.jsonl"), line(9, "x") + "damage\n").unwrap();
        std::fs::write(&path, line(10, "y")).unwrap();
        assert_eq!(read(&mut Reader::after(&path, 0), 10), [line(9, "x"), line(10, "y")]);
        std::fs::write(directory.path().join("audit.9.jsonl"), "\0\0\0\0").unwrap();
        assert_eq!(read(&mut Reader::after(&path, 0), 10), [line(10, "y")]);
    }
}
