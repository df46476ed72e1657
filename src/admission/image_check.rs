//! Whether the measured registers are compared with the OS image.

use kms_attest::verify::Verified;
use kms_policy::{Decision, Denial, NotCompared, Unmet, Unsettled};

use super::sealed;
use crate::config::{self, FileError};
use crate::os_image::{BootedImage, ImageCache, OsImages, ProgressListener, SetupError};

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

/// A decision about a KMS that depends on nothing more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// It is allowed.
    Allowed,
    /// It is denied.
    Denied(Denial),
}

impl Settled {
    /// Whether the KMS is allowed.
    pub fn is_allowed(&self) -> bool {
        match self {
            Self::Allowed => true,
            Self::Denied(_) => false,
        }
    }
}

impl ImageCheck {
    /// Why a guest that this event may have opened is not allowed by its image, whichever that is; `None` if the comparison tells.
    pub fn is_ruled_out(&self, opened_by: Option<&str>) -> Option<NotCompared> {
        match (self, opened_by) {
            (Self::Waived, _) => Some(NotCompared::Disabled),
            (Self::Required(_), Some(event)) => Some(NotCompared::Opened(event.to_owned())),
            (Self::Required(_), None) => None,
        }
    }

    /// The image that a guest has booted and still runs, by the VM configuration and the events in its evidence.
    ///
    /// # Errors
    /// [`NotCompared`].
    pub(super) async fn booted(&self, verified: &Verified) -> Result<BootedImage, NotCompared> {
        let opened_by = sealed::opened_by(&verified.evidence().stack.runtime_events);
        match (self, self.is_ruled_out(opened_by)) {
            (_, Some(why)) => Err(why),
            (Self::Waived, None) => Err(NotCompared::Disabled),
            (Self::Required(images), None) => {
                images.verify(verified, "").await.map_err(|error| match error.is_unavailable() {
                    true => NotCompared::Unavailable(error.to_string()),
                    false => NotCompared::Refused(error.to_string()),
                })
            }
        }
    }

    /// A decision about the KMS with this evidence, after the comparison with its OS image if it depends on that.
    ///
    /// # Errors
    /// [`Unsettled`].
    pub async fn settled(&self, decision: Decision, verified: &Verified) -> Result<Settled, Unsettled> {
        settled(decision, || self.booted(verified)).await
    }

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

/// A decision about a KMS, which is compared with its OS image only if it depends on that.
///
/// # Errors
/// [`Unsettled`].
pub(super) async fn settled(
    decision: Decision,
    booted: impl AsyncFnOnce() -> Result<BootedImage, NotCompared>,
) -> Result<Settled, Unsettled> {
    let condition = match decision {
        Decision::Allowed { .. } => return Ok(Settled::Allowed),
        Decision::Denied(denial) => return Ok(Settled::Denied(denial)),
        Decision::IfImage(condition) => condition,
    };
    match condition.settled(booted().await.as_ref().map(BootedImage::hash)) {
        Ok(_gateway) => Ok(Settled::Allowed),
        Err(Unmet::Denied(denial)) => Ok(Settled::Denied(denial)),
        Err(Unmet::Unknown(unsettled)) => Err(unsettled),
    }
}
