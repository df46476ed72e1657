//! Whether the measured registers are compared with the OS image.

use crate::config::{self, FileError};
use crate::os_image::{ImageCache, OsImages, ProgressListener, SetupError};

/// Whether the measured registers are compared with the OS image before a permit is given.
#[derive(Debug, Clone)]
pub enum ImageCheck {
    /// `core.image.verify = true`.
    Required(OsImages),
    /// `core.image.verify = false`: policy decides on the image hash that the caller names.
    Waived,
}

/// Why OS images cannot be verified at all.
#[derive(Debug, thiserror::Error)]
pub enum ImageCheckError {
    /// A file that `[core.image]` names is unusable.
    #[error(transparent)]
    File(#[from] FileError),
    /// The client for downloads cannot be set up.
    #[error(transparent)]
    Client(#[from] SetupError),
}

impl ImageCheck {
    /// As `[core.image]` has it, with images kept in `cache`; `listener` hears of downloads.
    ///
    /// # Errors
    /// [`ImageCheckError`].
    pub fn from_config(
        image: &config::Image,
        cache: &ImageCache,
        listener: ProgressListener,
    ) -> Result<Self, ImageCheckError> {
        if !image.verify {
            return Ok(Self::Waived);
        }
        Ok(Self::Required(OsImages::heard_by(image.settings()?, cache.clone(), listener)?))
    }
}
