//! The end of an audit file: its last records, and what follows them that is no record.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::chain::{Link, LinkProblem, MAX_LINE, Stamp, is_salted};
use super::records::Records;
use super::{AuditError, Use};

/// How much before the end of the last line is checked when a file is opened. Holds many lines of the largest size.
const TAIL: u64 = 1 << 20;

/// No more than this is looked through for the end of the last line.
const MAX_REST: u64 = 256 << 20;

/// No record is shorter: fewer zeros than this hide none.
const MIN_LINE: u64 = 200;

/// What the bytes after the last line are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// No such bytes.
    None,
    /// The first bytes of a line, this many: a crash interrupted the write. The record was never acknowledged.
    Unfinished(u64),
    /// This many bytes that no interrupted write leaves. There may have been records in their place.
    Damaged(u64),
}

/// The end of the chain in a file.
#[derive(Debug)]
pub(super) struct End {
    /// The last record.
    pub(super) link: Link,
    /// The records that were checked, and the one before them.
    pub(super) links: Vec<Link>,
    /// The one that the first record of the file follows; `None` in a file without records.
    pub(super) before: Option<Link>,
    /// The time of the newest record since the clock floor was lowered, in Unix seconds.
    pub(super) newest: u64,
    /// Where the last record ends.
    pub(super) length: u64,
    /// What follows it.
    pub(super) rest: Rest,
    /// When the first record of the file was made, in Unix seconds; `None` in a file without records.
    pub(super) began: Option<u64>,
    /// Whether the last record is of a version without a ledger.
    pub(super) is_legacy: bool,
}

impl End {
    /// Reads the end of the file. Everything up to the last newline must be records. The rest is what a crash
    /// leaves: one unfinished line. Zeros are that only where they are too few to be in the place of a
    /// record.
    pub(super) fn read(path: &Path, file: &File, size: u64) -> Result<Self, AuditError> {
        let unusable = |source| AuditError::Open { path: path.to_owned(), source };
        let length = end_of_last_line(file, size).map_err(unusable)?;
        let rest = Rest::read(file, length, size).map_err(unusable)?;
        let Some(length) = length else {
            return Err(AuditError::Broken { seq: 0, problem: LinkProblem::Malformed });
        };
        let start = length.saturating_sub(TAIL);
        let bytes = read_between(file, start, length).map_err(unusable)?;
        let whole = match start {
            0 => &bytes[..],
            _ => {
                bytes.iter().position(|byte| *byte == b'\n').map_or(&[][..], |newline| &bytes[newline + 1..])
            }
        };
        let (mut links, mut newest, mut is_legacy) = (Vec::new(), 0, false);
        for line in whole.split_inclusive(|byte| *byte == b'\n') {
            let record = line.strip_suffix(b"\n").unwrap_or(line);
            let broken = |seq| move |problem| AuditError::Broken { seq, problem };
            let link = match links.last() {
                None => {
                    links.push(Link::before(record).unwrap_or(Link::GENESIS));
                    Link::first(record).map_err(broken(0))?
                }
                Some(link) => Link::next(link, record).map_err(broken(link.seq() + 1))?,
            };
            links.push(link);
            newest = Stamp::of(record).newest_after(newest);
            is_legacy = !is_salted(record);
        }
        let Some(link) = links.last().copied() else {
            return match length {
                0 => {
                    let links = vec![Link::GENESIS];
                    Ok(Self {
                        link: Link::GENESIS,
                        links,
                        before: None,
                        newest,
                        length,
                        rest,
                        began: None,
                        is_legacy,
                    })
                }
                // One line that is longer than a record can be.
                _ => Err(AuditError::Broken { seq: 0, problem: LinkProblem::Malformed }),
            };
        };
        let first = first_line(file, length).map_err(unusable)?;
        let before = match start {
            0 => links.first().copied(),
            _ => first.as_ref().and_then(|line| Link::before(line).ok()),
        };
        let began = first.map(|line| Stamp::of(&line).newest_after(0));
        Ok(Self { link, links, before, newest, length, rest, began, is_legacy })
    }

    /// The end of a compressed file of the log at `path` whose last record has this number: it was checked
    /// when it was closed.
    pub(super) fn of_compressed(path: &Path, last: u64) -> Result<Self, AuditError> {
        let broken = |problem| AuditError::Broken { seq: last, problem };
        let mut records = Records::between(path, last, last)?;
        let record = records.next()?.ok_or(AuditError::Missing { seq: last })?;
        let before = Link::before(record).map_err(broken)?;
        let link = before.next(record).map_err(broken)?;
        Ok(Self {
            link,
            links: vec![before, link],
            before: Some(before),
            newest: Stamp::of(record).newest_after(0),
            length: 0,
            rest: Rest::None,
            began: None,
            is_legacy: !is_salted(record),
        })
    }

    /// Whether `new`, the end of another file, can be the end of the same log.
    pub(super) fn is_continued_by(&self, new: &Self) -> bool {
        // Where nothing is left of the log, nothing else can tell.
        new.before.is_some_and(|before| self.link == Link::GENESIS || self.links.contains(&before))
    }
}

impl Rest {
    fn read(file: &File, from: Option<u64>, size: u64) -> io::Result<Self> {
        let Some(from) = from else { return Ok(Self::None) };
        let length = size - from;
        if length == 0 {
            return Ok(Self::None);
        }
        let is_damaged =
            length > MAX_LINE as u64 || length >= MIN_LINE && read_between(file, from, size)?.contains(&0);
        Ok(if is_damaged { Self::Damaged(length) } else { Self::Unfinished(length) })
    }

    /// How many bytes it is.
    pub(super) fn damaged(self) -> u64 {
        match self {
            Self::Damaged(bytes) => bytes,
            Self::None | Self::Unfinished(_) => 0,
        }
    }
}

/// Where the last newline is, and the byte after it; 0 if there is none, `None` if it is further away than we look.
fn end_of_last_line(file: &File, size: u64) -> io::Result<Option<u64>> {
    let mut end = size;
    while end > 0 {
        if size - end > MAX_REST {
            return Ok(None);
        }
        let start = end.saturating_sub(TAIL);
        let bytes = read_between(file, start, end)?;
        if let Some(newline) = bytes.iter().rposition(|byte| *byte == b'\n') {
            return Ok(Some(start + newline as u64 + 1));
        }
        end = start;
    }
    Ok(Some(0))
}

fn first_line(file: &File, length: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = read_between(file, 0, length.min(MAX_LINE as u64))?;
    let newline = bytes.iter().position(|byte| *byte == b'\n');
    Ok(newline.map(|newline| {
        bytes.truncate(newline);
        bytes
    }))
}

fn read_between(file: &File, start: u64, end: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(end - start).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, start)?;
    Ok(bytes)
}

/// What an audit file says before a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspected {
    /// Whether a process writes to it. Then nothing else is known.
    pub used: Use,
    /// When its newest record was made, in Unix seconds; 0 without one.
    pub newest: u64,
    /// How many bytes at its end are no records.
    pub damaged: u64,
}

/// What [`super::Audit::open`] would say of a file that is there, and whether a process writes to it.
pub(super) fn inspect(path: &Path) -> Result<Inspected, AuditError> {
    let unusable = |source| AuditError::Open { path: path.to_owned(), source };
    let file = OpenOptions::new().read(true).append(true).open(path).map_err(unusable)?;
    // Not locked for longer than this takes.
    match file.try_lock_shared() {
        Ok(()) => {}
        // Its end may be half written.
        Err(TryLockError::WouldBlock) => return Ok(Inspected { used: Use::InUse, newest: 0, damaged: 0 }),
        Err(TryLockError::Error(source)) => return Err(unusable(source)),
    }
    let size = file.metadata().map_err(unusable)?.len();
    let end = End::read(path, &file, size)?;
    Ok(Inspected { used: Use::Free, newest: end.newest, damaged: end.rest.damaged() })
}
