//! Closed files that are compressed: gzip (RFC 1952) in members of whole lines, so that a record is found
//! without decompressing the file before it.
//!
//! Each member has an extra field `KL` with its own length and the number of its first record, both u64le.
//! Other programs skip it, and a file without it is read from its beginning.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek as _, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use flate2::{Compression, GzBuilder};
use sha2::{Digest as _, Sha256};

use crate::chain::{MAX_LINE, number};

/// What the name of a compressed file ends with.
const EXTENSION: &str = "gz";

/// Bytes of a member before compression.
const MEMBER: usize = 1 << 20;

/// Audit records compress to less than half; a higher level gains little.
const LEVEL: Compression = Compression::new(4);

/// A member begins with 10 bytes, the length of its extra field, and the field's identifier and length.
const FIELD: usize = 16;

/// Where the compressed data of a member begins.
const HEADER: usize = FIELD + 16;

/// The member does not begin with a record.
const NO_NUMBER: u64 = u64::MAX;

/// The name under which a file is compressed.
pub fn name(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".");
    name.push(EXTENSION);
    PathBuf::from(name)
}

/// The name that a file has before it is compressed.
pub fn plain_name(file: &Path) -> PathBuf {
    if is_compressed(file) { file.with_extension("") } else { file.to_owned() }
}

/// The name under which a file is there, compressed or not.
pub fn present_name(file: &Path) -> PathBuf {
    if file.exists() { file.to_owned() } else { name(file) }
}

fn is_compressed(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == EXTENSION)
}

/// A file as it is on the disk.
#[derive(Debug)]
pub enum Stored {
    /// As it was written.
    Plain(File),
    /// Compressed.
    Compressed(File),
}

impl Stored {
    /// Opens a file by its plain name, or by the one of its compressed form.
    ///
    /// # Errors
    /// It cannot be opened; [`io::ErrorKind::NotFound`] if it is there in neither form.
    pub fn open(file: &Path) -> io::Result<Self> {
        if is_compressed(file) {
            return Ok(Self::Compressed(File::open(file)?));
        }
        match File::open(file) {
            Ok(plain) => Ok(Self::Plain(plain)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // The error names the plain form.
                File::open(name(file)).map(Self::Compressed).map_err(|_| error)
            }
            Err(error) => Err(error),
        }
    }

    /// The content from the beginning.
    pub fn reader(self) -> Box<dyn BufRead + Send> {
        match self {
            Self::Plain(file) => Box::new(BufReader::with_capacity(MAX_LINE, file)),
            Self::Compressed(file) => decompressed(file),
        }
    }
}

fn decompressed(file: File) -> Box<dyn BufRead + Send> {
    let decoder = MultiGzDecoder::new(BufReader::with_capacity(MAX_LINE, file));
    Box::new(BufReader::with_capacity(MAX_LINE, decoder))
}

/// The lines of a compressed file from the record of this number on; `None` if it does not have it.
///
/// # Errors
/// The file cannot be read.
pub fn lines_from(mut file: File, seq: u64) -> io::Result<Option<Box<dyn BufRead + Send>>> {
    let start = member_of(&file, seq)?;
    file.seek(SeekFrom::Start(start))?;
    let mut lines = decompressed(file);
    loop {
        let mut line = Vec::new();
        (&mut lines).take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line)?;
        match number(&line) {
            Some(found) if found < seq => {}
            Some(found) if found == seq => return Ok(Some(Box::new(Cursor::new(line).chain(lines)))),
            _ => return Ok(None),
        }
    }
}

/// Where the member begins that has the record of this number, as the extra fields say.
fn member_of(file: &File, seq: u64) -> io::Result<u64> {
    let (mut offset, mut found) = (0_u64, 0);
    let mut header = [0; HEADER];
    while file.read_exact_at(&mut header, offset).is_ok() {
        let (length, first) = match Member::parse(&header) {
            Some(Member { length, first }) => (length, first),
            None => break,
        };
        if first != NO_NUMBER && first > seq {
            break;
        }
        if first != NO_NUMBER {
            found = offset;
        }
        offset = offset.checked_add(length).ok_or(io::ErrorKind::InvalidData)?;
    }
    Ok(found)
}

/// What the extra field of a member says.
struct Member {
    length: u64,
    first: u64,
}

impl Member {
    /// `None` for a member of other programs.
    fn parse(header: &[u8; HEADER]) -> Option<Self> {
        let is_ours = header.starts_with(&[0x1f, 0x8b, 8, 4]) && header[10..FIELD] == *b"\x14\0KL\x10\0";
        let u64le =
            |at: usize| header[at..at + 8].iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
        let (length, first) = (u64le(FIELD), u64le(FIELD + 8));
        // A shorter one would be no step forward.
        (is_ours && length >= HEADER as u64).then_some(Self { length, first })
    }
}

/// The content of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of it.
    pub sha256: [u8; 32],
}

/// Reads to the end.
///
/// # Errors
/// Those of the source.
pub fn content(mut source: impl Read) -> io::Result<Content> {
    let (mut digest, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 16]);
    loop {
        let read = source.read(&mut buffer)?;
        if read == 0 {
            return Ok(Content { bytes, sha256: digest.finalize().into() });
        }
        digest.update(&buffer[..read]);
        bytes += read as u64;
    }
}

/// Compresses a file, in memory that does not grow with it. Gives what was read.
///
/// # Errors
/// Those of source and target.
pub fn compress(mut source: impl Read, mut target: impl Write) -> io::Result<Content> {
    let (mut digest, mut bytes) = (Sha256::new(), 0);
    let mut pending = Vec::with_capacity(MEMBER);
    loop {
        let missing = MEMBER - pending.len();
        let read = (&mut source).take(missing as u64).read_to_end(&mut pending)?;
        let is_end = read < missing;
        // Damage can be longer than a member, and without lines.
        let end = match pending.iter().rposition(|byte| *byte == b'\n') {
            Some(newline) if !is_end => newline + 1,
            _ => pending.len(),
        };
        if end > 0 {
            digest.update(&pending[..end]);
            bytes += end as u64;
            target.write_all(&member(&pending[..end])?)?;
            pending.drain(..end);
        }
        if is_end {
            if bytes == 0 {
                target.write_all(&member(b"")?)?;
            }
            target.flush()?;
            return Ok(Content { bytes, sha256: digest.finalize().into() });
        }
    }
}

fn member(lines: &[u8]) -> io::Result<Vec<u8>> {
    let first = number(lines).unwrap_or(NO_NUMBER);
    let field = [b"KL\x10\0".as_slice(), &[0; 8], &first.to_le_bytes()].concat();
    let mut encoder = GzBuilder::new().extra(field).write(Vec::with_capacity(lines.len() / 2), LEVEL);
    encoder.write_all(lines)?;
    let mut member = encoder.finish()?;
    let length = (member.len() as u64).to_le_bytes();
    member[FIELD..FIELD + 8].copy_from_slice(&length);
    Ok(member)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seq: u64) -> String {
        format!("{{\"seq\":{seq},\"x\":\"{}\"}}\n", hex::encode(Sha256::digest(seq.to_be_bytes())))
    }

    /// A file with these lines, compressed, under its plain name.
    fn stored(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("audit.9.jsonl");
        let written = compress(content, File::create(name(&file)).unwrap()).unwrap();
        assert_eq!(written, super::content(content).unwrap());
        (directory, file)
    }

    #[test]
    fn what_is_compressed_is_read_again_by_either_name_and_from_any_record() {
        let lines: String = (5..60_000).map(line).collect();
        let (_directory, file) = stored(lines.as_bytes());
        let size = name(&file).metadata().unwrap().len();
        assert!(size < lines.len() as u64 * 7 / 10, "{size}");
        for name in [&file, &name(&file)] {
            let mut read = String::new();
            Stored::open(name).unwrap().reader().read_to_string(&mut read).unwrap();
            assert!(read == lines);
        }
        for seq in [5, 6, 12_345, 40_000, 59_999] {
            let mut read = String::new();
            let mut from = lines_from(File::open(name(&file)).unwrap(), seq).unwrap().unwrap();
            from.read_line(&mut read).unwrap();
            from.read_line(&mut read).unwrap();
            let next = if seq == 59_999 { String::new() } else { line(seq + 1) };
            assert_eq!(read, line(seq) + &next);
        }
        for seq in [4, 60_000] {
            assert!(lines_from(File::open(name(&file)).unwrap(), seq).unwrap().is_none(), "{seq}");
        }
        assert!(
            member_of(&File::open(name(&file)).unwrap(), 59_999).unwrap() > size / 2,
            "it is not searched"
        );
    }

    #[test]
    fn what_is_no_line_is_kept_too() {
        let damaged = [line(1).as_bytes(), &vec![0; 3 << 20], b"\n\n{\"seq\":2"].concat();
        for content in [&damaged[..], b"", b"\n"] {
            let (_directory, file) = stored(content);
            let mut read = Vec::new();
            Stored::open(&file).unwrap().reader().read_to_end(&mut read).unwrap();
            assert!(read == content);
        }
    }

    #[test]
    fn files_of_other_programs_are_read_and_damaged_ones_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("audit.3.jsonl");
        let mut encoder = GzBuilder::new().write(File::create(name(&file)).unwrap(), LEVEL);
        encoder.write_all((line(1) + &line(2) + &line(3)).as_bytes()).unwrap();
        encoder.finish().unwrap();
        let mut read = String::new();
        let from = lines_from(File::open(name(&file)).unwrap(), 2).unwrap().unwrap();
        from.take(1000).read_to_string(&mut read).unwrap();
        assert_eq!(read, line(2) + &line(3));

        let whole = std::fs::read(name(&file)).unwrap();
        let flipped = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        };
        let longer = [&whole[..], b"x"].concat();
        for damaged in [&whole[..whole.len() - 1], &longer, &flipped(30), &flipped(whole.len() - 5), b"text"]
        {
            std::fs::write(name(&file), damaged).unwrap();
            assert!(content(Stored::open(&file).unwrap().reader()).is_err());
        }
    }

    #[test]
    fn a_member_that_leads_nowhere_ends_the_search() {
        for length in [0, 31, u64::MAX] {
            let mut member = member(line(7).as_bytes()).unwrap();
            member[FIELD..FIELD + 8].copy_from_slice(&u64::to_le_bytes(length));
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("f.gz");
            std::fs::write(&file, &member).unwrap();
            assert!(member_of(&File::open(&file).unwrap(), 7).is_ok_and(|start| start == 0), "{length}");
        }
    }

    #[test]
    fn a_bomb_is_read_in_bounded_memory() {
        // 256 MiB without a line in a quarter of a megabyte.
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f.gz");
        let mut encoder = GzBuilder::new().write(File::create(&file).unwrap(), Compression::best());
        for _ in 0..256 {
            encoder.write_all(&[b'{'; 1 << 20]).unwrap();
        }
        encoder.finish().unwrap();
        assert!(lines_from(File::open(&file).unwrap(), 7).unwrap().is_none());
        let mut line = Vec::new();
        let reader = Stored::open(&file).unwrap().reader();
        reader.take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line).unwrap();
        assert_eq!(line.len(), MAX_LINE + 1);
    }
}
