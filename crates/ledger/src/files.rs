//! The files of a log as a reader finds them: what each is called, and where it is read.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::compressed::{Stored, plain_name};

/// Where the files of a log are read: directories, or memory.
pub trait LogFiles {
    /// All files that there are, in no order.
    ///
    /// # Errors
    /// They cannot be listed.
    fn list(&self) -> io::Result<Vec<PathBuf>>;

    /// The content of a file from its beginning, decompressed where only its compressed form is there.
    ///
    /// # Errors
    /// It cannot be read; [`io::ErrorKind::NotFound`] if there is none.
    fn open(&self, file: &Path) -> io::Result<Box<dyn Read + '_>>;
}

/// The directory of a log, and those to which closed files of it were moved.
#[derive(Debug, Clone, Default)]
pub struct Directories {
    /// Where the log is read, the directory that holds its tree first.
    pub directories: Vec<PathBuf>,
}

impl LogFiles for Directories {
    fn list(&self) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for directory in &self.directories {
            for entry in fs::read_dir(directory)? {
                files.push(entry?.path());
            }
        }
        Ok(files)
    }

    fn open(&self, file: &Path) -> io::Result<Box<dyn Read + '_>> {
        Ok(Stored::open(file)?.reader())
    }
}

/// What the files of a log are called: `audit.jsonl` grows, `audit.<number>.jsonl` are closed
/// (`.gz`: compressed), and `audit.tree/`, `audit.node`
/// and `audit.checkpoint` belong to the tree.
#[derive(Debug, Clone)]
pub struct Names {
    directory: PathBuf,
    stem: String,
    extension: Option<String>,
}

impl Names {
    /// The names of the log whose growing file is at `path`; `None` for a name that is not text.
    pub fn of(path: &Path) -> Option<Self> {
        let extension = match path.extension() {
            Some(extension) => Some(extension.to_str()?.to_owned()),
            None => None,
        };
        let directory = path.parent().unwrap_or(Path::new("")).to_owned();
        Some(Self { directory, stem: path.file_stem()?.to_str()?.to_owned(), extension })
    }

    fn named(&self, middle: &str) -> PathBuf {
        let extension = self.extension.as_ref().map(|extension| format!(".{extension}")).unwrap_or_default();
        self.directory.join(format!("{}{middle}{extension}", self.stem))
    }

    /// The file that grows.
    pub fn growing(&self) -> PathBuf {
        self.named("")
    }

    /// The closed file whose last record has this number.
    pub fn closed(&self, last: u64) -> PathBuf {
        self.named(&format!(".{last}"))
    }

    /// A file of the tree.
    pub fn tree(&self, file: &str) -> PathBuf {
        self.directory.join(format!("{}.tree", self.stem)).join(file)
    }

    /// The file with the name of the node.
    pub fn node(&self) -> PathBuf {
        self.directory.join(format!("{}.node", self.stem))
    }

    /// The file with the newest signed checkpoint that stands beside the name of the node.
    pub fn checkpoint(&self) -> PathBuf {
        self.directory.join(format!("{}.checkpoint", self.stem))
    }

    /// The number of the last record of a closed file, in whichever directory it is.
    pub fn last_record(&self, file: &Path) -> Option<u64> {
        let file = plain_name(file);
        let rest = file.file_name()?.to_str()?.strip_prefix(&self.stem)?.strip_prefix('.')?;
        let middle = match &self.extension {
            Some(extension) => rest.strip_suffix(extension)?.strip_suffix('.')?,
            None => rest,
        };
        middle.parse().ok().filter(|number: &u64| number.to_string() == middle)
    }

    /// The closed files in the order of their records, then the active one. If a file is listed twice, the first
    /// copy is used.
    ///
    /// # Errors
    /// The files cannot be listed.
    pub fn segments(&self, files: &dyn LogFiles) -> io::Result<Vec<PathBuf>> {
        let mut closed: Vec<(u64, PathBuf)> = Vec::new();
        for file in files.list()? {
            if let Some(last) = self.last_record(&file) {
                closed.push((last, plain_name(&file)));
            }
        }
        closed.sort_by_key(|(last, _)| *last);
        closed.dedup_by_key(|(last, _)| *last);
        Ok(closed.into_iter().map(|(_, file)| file).chain([self.growing()]).collect())
    }
}
