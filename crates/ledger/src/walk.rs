//! The records of a log in their order: every link of every file, and from each file to the next.

use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::chain::{Link, LinkProblem, MAX_LINE};
use crate::files::LogFiles;

/// Why the records cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// A file cannot be read.
    #[error("{} cannot be read", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The chain does not hold.
    #[error("record {seq} does not follow from the one before: {problem}")]
    Broken {
        /// Number of the first record that is wrong.
        seq: u64,
        /// What is wrong with it.
        problem: LinkProblem,
    },
}

/// What one or more files of a log say about themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Number of the first record; 1 at the beginning of a log.
    pub first: u64,
    /// SHA-256 of the record before the first; zeros at the beginning of a log.
    pub after: [u8; 32],
    /// Number of the last record.
    pub last: u64,
    /// SHA-256 of the last one.
    pub head: [u8; 32],
    /// Lines at the end of closed files that the chain goes on without: they were never acknowledged, and nothing was
    /// released on them.
    pub unacknowledged: u64,
    /// Bytes at the end of closed files that are not records.
    pub damages: Vec<Damage>,
}

impl Chain {
    /// How many records are in these files.
    pub fn records(&self) -> u64 {
        self.last + 1 - self.first
    }

    /// Whether the log begins in these files.
    pub fn is_whole(&self) -> bool {
        self.first == 1
    }
}

/// Bytes at the end of a closed file that are not records. The chain continues without them, and their
/// meaning is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// The number of the last record before them.
    pub after: u64,
    /// How many.
    pub bytes: u64,
}

/// A record that follows from the one before.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Its number.
    pub seq: u64,
    /// Its line, without the newline.
    pub line: &'a [u8],
}

/// Follows the chain through files that hold one log, or its end, in this order, and shows each record to `visit`.
///
/// # Errors
/// [`WalkError`], or what `visit` says.
pub fn walk<E: From<WalkError>>(
    source: &dyn LogFiles,
    files: &[PathBuf],
    visit: &mut dyn FnMut(Record<'_>) -> Result<(), E>,
) -> Result<Chain, E> {
    let mut chain: Option<(Link, Link)> = None;
    let mut unacknowledged = 0;
    let mut damages = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let mut records = Records::open(source, file)?;
        // An empty file says nothing: the one after it does.
        let mut next = None;
        for later in files.iter().skip(index + 1) {
            next = Records::open(source, later)?.peek()?;
            if next.is_some() {
                break;
            }
        }
        let Some(before) = records.peek()? else { continue };
        let begin = chain.map_or(before, |(_, end)| end);
        if begin.seq() == 0 && begin != Link::GENESIS {
            return Err(WalkError::Broken { seq: 1, problem: LinkProblem::Predecessor }.into());
        }
        let mut end = begin;
        // Where the next file goes on, if it is not at the end of this one.
        let mut joint = None;
        while records.read()? {
            if next.is_some_and(|next| next == end) {
                joint = Some(end);
            }
            end = match records.follow(end) {
                Ok(end) => end,
                // A file that was left because of this: the next one goes on before it.
                Err(WalkError::Broken { .. }) if joint == Some(end) => {
                    let bytes = records.rest()?;
                    damages.push(Damage { file: file.clone(), after: end.seq(), bytes });
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            if joint.is_none() {
                visit(Record { seq: end.seq(), line: records.record() })?;
            }
        }
        if let (Some(joint), Some(next)) = (joint, next)
            && next != end
        {
            unacknowledged += end.seq() - joint.seq();
            end = joint;
        }
        chain = Some((chain.map_or(before, |(begin, _)| begin), end));
    }
    let (begin, end) = chain.unwrap_or((Link::GENESIS, Link::GENESIS));
    Ok(Chain {
        first: begin.seq() + 1,
        after: *begin.hash(),
        last: end.seq(),
        head: *end.hash(),
        unacknowledged,
        damages,
    })
}

/// The lines of a file.
struct Records<'a> {
    path: &'a Path,
    reader: BufReader<Box<dyn Read + 'a>>,
    line: Vec<u8>,
    /// `line` is read, but not followed.
    is_peeked: bool,
}

impl<'a> Records<'a> {
    fn open(source: &'a dyn LogFiles, path: &'a Path) -> Result<Self, WalkError> {
        let file = source.open(path).map_err(|source| WalkError::Read { file: path.to_owned(), source })?;
        let reader = BufReader::with_capacity(MAX_LINE, file);
        Ok(Self { path, reader, line: Vec::new(), is_peeked: false })
    }

    /// What the first record follows, as it says; `None` in an empty file.
    fn peek(&mut self) -> Result<Option<Link>, WalkError> {
        if !self.read()? {
            return Ok(None);
        }
        self.is_peeked = true;
        // An invalid first line is reported as the first record of a log.
        Ok(Some(Link::before(self.record()).unwrap_or(Link::GENESIS)))
    }

    /// Reads a line; `false` at the end.
    fn read(&mut self) -> Result<bool, WalkError> {
        if std::mem::take(&mut self.is_peeked) {
            return Ok(true);
        }
        self.line.clear();
        let length = (&mut self.reader)
            .take(MAX_LINE as u64 + 1)
            .read_until(b'\n', &mut self.line)
            .map_err(|source| WalkError::Read { file: self.path.to_owned(), source })?;
        Ok(length > 0)
    }

    fn record(&self) -> &[u8] {
        self.line.strip_suffix(b"\n").unwrap_or(&self.line)
    }

    /// How many bytes there are from the line that was read to the end of the file.
    fn rest(&mut self) -> Result<u64, WalkError> {
        let unusable = |source| WalkError::Read { file: self.path.to_owned(), source };
        let further = io::copy(&mut self.reader, &mut io::sink()).map_err(unusable)?;
        Ok(self.line.len() as u64 + further)
    }

    /// The end after the line that was read, if it follows.
    fn follow(&self, link: Link) -> Result<Link, WalkError> {
        let broken = |problem| WalkError::Broken { seq: link.seq() + 1, problem };
        let record = self.line.strip_suffix(b"\n").ok_or_else(|| broken(LinkProblem::Unfinished))?;
        link.next(record).map_err(broken)
    }
}
