//! What policy says of a caller before its OS image is compared, and what that comparison makes of it.

use std::time::Instant;

use kms_attest::identity::Identity;
use kms_policy::{IfImage, NotCompared, Unmet};

use super::permit::{Allowed, DecidedBy};
use super::{GrantedEpochs, Refusal, Relaxations, StageRule};
use crate::os_image::{BootedImage, ImageKind, OsImageError};

/// What is known of the OS image that a caller has booted: its registers are those of this image, of this kind.
#[derive(Debug, Clone)]
pub(super) struct Compared(pub(super) Result<(BootedImage, ImageKind), NotCompared>);

/// The answer of policy.
#[derive(Debug)]
pub(super) enum Said {
    /// The caller is allowed, with this gateway.
    Allowed(String),
    /// It is allowed if its registers are those of an OS image.
    IfImage(Box<IfImage>),
}

/// A caller to whom policy and the rules about stage and epochs have no objection.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) said: Said,
    pub(super) by: DecidedBy,
    pub(super) relaxations: Relaxations,
    pub(super) epochs: GrantedEpochs,
    pub(super) rule: Option<StageRule>,
    pub(super) at: Instant,
}

impl Judged {
    /// The decision, with what is known of the image. This is the only way to an [`Allowed`].
    ///
    /// # Errors
    /// [`Refusal::Denied`]: policy allows the caller only with an image, and it is not known to have booted that.
    /// [`Refusal::OsImage`]: the same, and it may become known.
    pub(super) fn proven(self, compared: &Compared, identity: &Identity) -> Result<Allowed, Refusal> {
        let Self { said, by, relaxations, epochs, rule, at } = self;
        let gateway = match said {
            Said::Allowed(gateway) => Ok(gateway),
            Said::IfImage(condition) => condition.settled(compared.0.as_ref().map(|(image, _)| image.hash())),
        };
        match gateway {
            Ok(gateway_app_id) => Ok(Allowed { gateway_app_id, by, relaxations, epochs, rule, at }),
            Err(unmet) => {
                let (identity, by) = (Box::new(identity.clone()), Some(Box::new(by)));
                Err(match unmet {
                    Unmet::Denied(denial) => Refusal::Denied { denial, identity, relaxations, by },
                    Unmet::Unknown(_) => {
                        Refusal::OsImage { error: OsImageError::Stopped, identity, relaxations, by }
                    }
                })
            }
        }
    }
}

impl Compared {
    /// `core.image.verify = false`: nothing is known.
    pub(super) const WAIVED: Self = Self(Err(NotCompared::Disabled));

    /// The image is not known yet, because the observer does not wait for it.
    pub(super) fn not_awaited() -> Self {
        Self(Err(NotCompared::Unavailable(OsImageError::Stopped.to_string())))
    }

    /// The kind of the image; `None` if it is not awaited.
    pub(super) fn kind(&self) -> Option<ImageKind> {
        match &self.0 {
            Ok((_, kind)) => Some(*kind),
            Err(NotCompared::Unavailable(_)) => None,
            Err(_) => Some(ImageKind::Unknown),
        }
    }
}
