//! Whether the measured registers are compared with the OS image.

use kms_attest::verify::Verified;
use kms_policy::{Decision, Denial, IfImage, NotCompared};

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

/// A decision depends on an OS image that cannot be compared now.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the policy depends on the OS image, which cannot be compared now: {why}")]
pub struct Unsettled {
    condition: Box<IfImage>,
    why: String,
}

impl Unsettled {
    /// The denial, where nothing waits for the comparison.
    pub(super) fn denied(self) -> Denial {
        self.condition.otherwise(&NotCompared::Unavailable(self.why))
    }
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
    /// The image that a guest has booted and still runs, by the VM configuration and the events in its evidence.
    ///
    /// # Errors
    /// [`NotCompared`].
    pub(super) async fn booted(&self, verified: &Verified) -> Result<BootedImage, NotCompared> {
        if let Some(event) = sealed::opened_by(&verified.evidence().stack.runtime_events) {
            return Err(NotCompared::Opened(event.to_owned()));
        }
        match self {
            Self::Waived => Err(NotCompared::Disabled),
            Self::Required(images) => {
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
    let compared = match booted().await {
        Ok(image) => condition.compared_with(image.hash()),
        Err(NotCompared::Unavailable(why)) => return Err(Unsettled { condition, why }),
        Err(why) => Err(condition.otherwise(&why)),
    };
    Ok(match compared {
        Ok(_gateway) => Settled::Allowed,
        Err(denial) => Settled::Denied(denial),
    })
}
