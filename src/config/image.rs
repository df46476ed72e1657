//! How OS images are verified, from `[core.image]`.

use super::Image;
use super::file::{FileError, ca_file};
use crate::os_image::Settings;

impl Image {
    /// What images are verified with.
    ///
    /// # Errors
    /// The file with certificates is unusable.
    pub fn settings(&self) -> Result<Settings, FileError> {
        Ok(Settings {
            download_url: self.download_url.clone(),
            download_timeout: self.download_timeout,
            lite: self.lite,
            acpi_tables: self.acpi_tables.clone(),
            acpi_digests: self.acpi_digests.clone(),
            extra_roots: ca_file("core.image.ca_file", self.ca_file.as_deref())?,
        })
    }
}
