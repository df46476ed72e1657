//! Whether the measured registers are compared with the OS image.

use kms_attest::verify::Verified;
use kms_policy::{Decision, NotCompared};

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
#[error("the policy depends on the OS image, which cannot be compared now: {0}")]
pub struct Unsettled(String);

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

    /// A decision about the guest with this evidence, after the comparison with its OS image if it depends on that.
    ///
    /// # Errors
    /// [`Unsettled`].
    pub async fn settled(&self, decision: Decision, verified: &Verified) -> Result<Decision, Unsettled> {
        match decision {
            Decision::IfImage(_) => settled(decision, self.booted(verified).await),
            decided @ (Decision::Allowed { .. } | Decision::Denied(_)) => Ok(decided),
        }
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

/// A decision about a guest of which this is known.
///
/// # Errors
/// [`Unsettled`].
pub(super) fn settled(
    decision: Decision,
    booted: Result<BootedImage, NotCompared>,
) -> Result<Decision, Unsettled> {
    let Decision::IfImage(condition) = decision else { return Ok(decision) };
    let gateway = match booted {
        Ok(image) => condition.compared_with(image.hash()),
        Err(NotCompared::Unavailable(why)) => return Err(Unsettled(why)),
        Err(why) => Err(condition.otherwise(&why)),
    };
    Ok(match gateway {
        Ok(gateway_app_id) => Decision::Allowed { gateway_app_id, release_stage: None, epochs: None },
        Err(denial) => Decision::Denied(denial),
    })
}
