//! What policy says of a caller before its OS image is compared, and what that comparison makes of it.

use std::time::Instant;

use kms_attest::identity::Identity;
use kms_policy::{IfImage, NotCompared};

use super::permit::{Allowed, DecidedBy};
use super::{GrantedEpochs, Refusal, Relaxations, StageRule};
use crate::os_image::{BootedImage, ImageKind, OsImageError};

/// What is known of the OS image that a caller has booted.
#[derive(Debug, Clone)]
pub(super) enum Compared {
    /// `core.image.verify = false`: nothing.
    Waived,
    /// Nothing yet: the observer does not wait for it.
    NotAwaited,
    /// The registers are those of this image.
    Booted {
        image: BootedImage,
        kind: ImageKind,
        /// The event by which the guest may have been opened since.
        opened_by: Option<String>,
    },
}

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
        let gateway = match (said, compared) {
            (Said::Allowed(gateway), _) => Ok(gateway),
            (Said::IfImage(condition), Compared::Booted { opened_by: Some(event), .. }) => {
                Err(condition.otherwise(&NotCompared::Opened(event.clone())))
            }
            (Said::IfImage(condition), Compared::Booted { image, .. }) => {
                condition.compared_with(image.hash())
            }
            (Said::IfImage(condition), Compared::Waived) => Err(condition.otherwise(&NotCompared::Disabled)),
            (Said::IfImage(_), Compared::NotAwaited) => {
                let (identity, by) = (Box::new(identity.clone()), Some(Box::new(by)));
                return Err(Refusal::OsImage { error: OsImageError::Stopped, identity, relaxations, by });
            }
        };
        match gateway {
            Ok(gateway_app_id) => Ok(Allowed { gateway_app_id, by, relaxations, epochs, rule, at }),
            Err(denial) => {
                let (identity, by) = (Box::new(identity.clone()), Some(Box::new(by)));
                Err(Refusal::Denied { denial, identity, relaxations, by })
            }
        }
    }
}

impl Compared {
    /// The kind of the image; `None` if it is not awaited.
    pub(super) fn kind(&self) -> Option<ImageKind> {
        match self {
            Self::Waived => Some(ImageKind::Unknown),
            Self::NotAwaited => None,
            Self::Booted { kind, .. } => Some(*kind),
        }
    }
}
