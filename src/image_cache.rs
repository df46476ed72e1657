//! The directories of cached OS images and measurements, as far as operators clear them.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Longest key, in hexadecimal digits: SHA-512.
const LONGEST_KEY: usize = 128;

/// `core.image.cache_dir`.
#[derive(Debug, Clone)]
pub struct ImageCache {
    directory: PathBuf,
}

/// Why nothing was cleared.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Neither empty, nor `all`, nor hexadecimal.
    #[error("invalid cache key")]
    InvalidKey,
    /// The directory cannot be changed.
    #[error("cannot remove from the cache directory")]
    Io(#[source] io::Error),
}

impl ImageCache {
    /// The caches below `directory`.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Removes one image (hexadecimal hash), every image (`all`), or none (empty).
    ///
    /// # Errors
    /// [`CacheError`]; what is not there is no error.
    pub async fn clear_images(&self, key: &str) -> Result<(), CacheError> {
        clear(self.directory.join("images"), key, &[""]).await
    }

    /// Removes one measurement, all, or none. Both spellings of the file are removed: operators name it without
    /// `.json`, which the peer never finds.
    ///
    /// # Errors
    /// [`CacheError`]; what is not there is no error.
    pub async fn clear_measurements(&self, key: &str) -> Result<(), CacheError> {
        clear(self.directory.join("measurements"), key, &["", ".json"]).await
    }
}

async fn clear(directory: PathBuf, key: &str, endings: &[&str]) -> Result<(), CacheError> {
    match key {
        "" => Ok(()),
        "all" => remove(&directory).await,
        key if is_hash(key) => {
            for ending in endings {
                remove(&directory.join(format!("{}{ending}", key.to_ascii_lowercase()))).await?;
            }
            Ok(())
        }
        _ => Err(CacheError::InvalidKey),
    }
}

fn is_hash(key: &str) -> bool {
    key.len() <= LONGEST_KEY
        && key.len().is_multiple_of(2)
        && key.bytes().all(|byte| byte.is_ascii_hexdigit())
}

async fn remove(path: &Path) -> Result<(), CacheError> {
    let kind = match tokio::fs::symlink_metadata(path).await {
        Ok(kind) => kind,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(CacheError::Io(error)),
    };
    let removed = match kind.is_dir() {
        true => tokio::fs::remove_dir_all(path).await,
        false => tokio::fs::remove_file(path).await,
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CacheError::Io(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn cache() -> (tempfile::TempDir, ImageCache) {
        let directory = tempfile::tempdir().expect("temporary directory");
        for entry in ["images/aa11", "images/bb22", "measurements"] {
            fs::create_dir_all(directory.path().join(entry)).expect("directory");
        }
        fs::write(directory.path().join("images/aa11/metadata.json"), "{}").expect("file");
        fs::write(directory.path().join("measurements/cc33.json"), "{}").expect("file");
        let cache = ImageCache::new(directory.path().to_owned());
        (directory, cache)
    }

    #[tokio::test]
    async fn one_entry_all_or_none_are_removed() {
        let (directory, cache) = cache();
        cache.clear_images("").await.expect("nothing");
        assert!(directory.path().join("images/aa11").exists());
        cache.clear_images("AA11").await.expect("one");
        assert!(!directory.path().join("images/aa11").exists());
        assert!(directory.path().join("images/bb22").exists());
        cache.clear_images("all").await.expect("all");
        assert!(!directory.path().join("images").exists());
        cache.clear_images("all").await.expect("missing is fine");
        cache.clear_measurements("cc33").await.expect("without its ending");
        assert!(!directory.path().join("measurements/cc33.json").exists());
    }

    #[tokio::test]
    async fn keys_that_are_no_hash_are_refused_and_remove_nothing() {
        let (directory, cache) = cache();
        for key in ["../images", "aa11/..", "a", "zz", "ALL", " ", "/etc", "aa11\0"] {
            assert!(matches!(cache.clear_images(key).await, Err(CacheError::InvalidKey)), "{key:?}");
        }
        assert!(directory.path().join("images/aa11/metadata.json").exists());
    }
}
