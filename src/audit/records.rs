//! Records by their numbers, wherever they are among the files of a log.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use kms_ledger::compressed::{self, Stored};

use super::AuditError;
use super::chain::{Link, LinkProblem, MAX_LINE, number};
use super::segments;

/// A part of a file that is read rather than halved again: it has a whole line, wherever it begins.
const SMALL: u64 = 4 * MAX_LINE as u64;

/// Records of a log in their order, each link checked.
pub(super) struct Records {
    path: PathBuf,
    /// Files that are not opened yet, the last record of each known.
    files: std::vec::IntoIter<(u64, PathBuf)>,
    open: Option<Open>,
    /// The last record that was read; only its number is known before the first.
    link: Link,
    is_linked: bool,
    last: u64,
    line: Vec<u8>,
}

struct Open {
    reader: Box<dyn BufRead + Send>,
    last: u64,
}

impl Records {
    /// Records `first` to `last` of the log at `path`.
    ///
    /// # Errors
    /// Its files cannot be listed.
    pub(super) fn between(path: &Path, first: u64, last: u64) -> Result<Self, AuditError> {
        let unusable = |source| AuditError::Open { path: path.to_owned(), source };
        let mut files = segments::numbered(path).map_err(unusable)?;
        files.push((last, path.to_owned()));
        files.retain(|(last, _)| *last >= first);
        Ok(Self {
            path: path.to_owned(),
            files: files.into_iter(),
            open: None,
            link: Link::numbered(first.saturating_sub(1)),
            is_linked: false,
            last,
            line: Vec::new(),
        })
    }

    /// The next one, without its newline; `None` after the last.
    ///
    /// # Errors
    /// It is in none of the files, or does not follow from the one before.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, AuditError> {
        if self.link.seq() >= self.last {
            return Ok(None);
        }
        let seq = self.link.seq() + 1;
        let broken = |problem| AuditError::Broken { seq, problem };
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        let Some(open) = self.advance(seq)? else { return Err(AuditError::Missing { seq }) };
        let read = (&mut open.reader).take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line);
        read.map_err(|source| AuditError::Open { path: self.path.clone(), source })?;
        if line.is_empty() {
            return Err(AuditError::Missing { seq });
        }
        if line.pop() != Some(b'\n') {
            return Err(broken(LinkProblem::Unfinished));
        }
        let link = if self.is_linked { self.link } else { Link::before(&line).map_err(broken)? };
        self.link = link.next(&line).map_err(broken)?;
        if self.link.seq() != seq {
            return Err(broken(LinkProblem::Order));
        }
        self.is_linked = true;
        self.line = line;
        Ok(Some(&self.line))
    }

    /// The hash of the last one that was read.
    pub(super) fn head(&self) -> &[u8; 32] {
        self.link.hash()
    }

    /// The open file, where the record with this number is next.
    fn advance(&mut self, seq: u64) -> Result<Option<&mut Open>, AuditError> {
        if self.open.as_ref().is_none_or(|open| open.last < seq) {
            let Some((last, path)) = self.files.next() else { return Ok(None) };
            let unusable = |source| AuditError::Open { path: path.clone(), source };
            let Some(reader) = lines_from(&path, seq).map_err(unusable)? else { return Ok(None) };
            self.open = Some(Open { reader, last });
        }
        Ok(self.open.as_mut())
    }
}

/// The lines of a file from the one of this number on; `None` if the file does not have it.
fn lines_from(path: &Path, seq: u64) -> io::Result<Option<Box<dyn BufRead + Send>>> {
    match Stored::open(path)? {
        Stored::Plain(mut file) => {
            let Some(start) = locate(&file, seq)? else { return Ok(None) };
            file.seek(SeekFrom::Start(start))?;
            Ok(Some(Box::new(BufReader::with_capacity(1 << 16, file))))
        }
        Stored::Compressed(file) => compressed::lines_from(file, seq),
    }
}

/// The number of the first record that is there; `None` without one.
pub(super) fn first(path: &Path) -> io::Result<Option<u64>> {
    for file in segments::segments(path)? {
        let mut line = Vec::new();
        Stored::open(&file)?.reader().take(MAX_LINE as u64).read_until(b'\n', &mut line)?;
        if let Some(number) = number(&line) {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// Where the line of this number begins; `None` if the file does not have it.
fn locate(file: &File, seq: u64) -> io::Result<Option<u64>> {
    let (mut low, mut high) = (0, file.metadata()?.len());
    while high - low > SMALL {
        let middle = low + (high - low) / 2;
        match numbered_line(file, middle, high)? {
            Some((start, number)) if number <= seq => low = start,
            _ => high = middle,
        }
    }
    // What begins before `high` can end after it.
    let mut start = low;
    let bytes = read(file, low, high - low + MAX_LINE as u64)?;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if number(line) == Some(seq) {
            return Ok(Some(start));
        }
        start += line.len() as u64;
    }
    Ok(None)
}

/// The first line that begins after `from`, and its number.
fn numbered_line(file: &File, from: u64, to: u64) -> io::Result<Option<(u64, u64)>> {
    let bytes = read(file, from, (to - from).min(SMALL / 2))?;
    let Some(newline) = bytes.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let start = newline + 1;
    Ok(number(&bytes[start..]).map(|number| (from + start as u64, number)))
}

/// Reads `length` bytes from `from`, or fewer at the end of the file.
fn read(file: &File, from: u64, length: u64) -> io::Result<Vec<u8>> {
    let size = file.metadata()?.len();
    let length = usize::try_from(length.min(size.saturating_sub(from))).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes)
}
