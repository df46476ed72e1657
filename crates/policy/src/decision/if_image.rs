//! A decision that depends on the OS image that a guest has booted.

use kms_attest::identity::OsImageHash;

use super::Denial;

/// How much of the name of an event is shown.
const MAX_EVENT: usize = 64;

/// A KMS is allowed because of an entry of `kms.images`, which holds only for a guest whose registers were compared with
/// those of the OS image. The hash that the guest names is a claim, and is not enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IfImage {
    image: OsImageHash,
    gateway_app_id: String,
    /// The decision about a guest that has booted something else.
    denial: Denial,
}

/// Why the registers of a guest are not those of its OS image, or are not known to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotCompared {
    /// The configuration disables the comparison.
    Disabled,
    /// Only the identity is known here, not the registers.
    IdentityOnly,
    /// They were compared, and differ, or cannot be: for this reason.
    Refused(String),
    /// They could not be compared now, for this reason.
    Unavailable(String),
    /// Its event log shows this event, which its OS does not add while it boots.
    Opened(String),
}

/// Why a guest is not allowed by its OS image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unmet {
    /// It is denied.
    Denied(Denial),
    /// It is not known whether it is allowed.
    Unknown(Unsettled),
}

/// A decision depends on an OS image that cannot be compared now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the policy depends on the OS image, which cannot be compared now: {why}")]
pub struct Unsettled {
    condition: Box<IfImage>,
    why: String,
}

impl Unsettled {
    /// The denial, where nothing waits for the comparison.
    pub fn denied(self) -> Denial {
        self.condition.otherwise(&NotCompared::Unavailable(self.why))
    }
}

impl NotCompared {
    fn sentence(&self) -> String {
        match self {
            Self::Disabled => {
                "this KMS does not compare registers with OS images: set core.image.verify, or list the \
                               measurement in kms.mrAggregated"
                    .to_owned()
            }
            Self::IdentityOnly => {
                "only the KMS that asks can compare registers with the OS image: list the measurement \
                                   in kms.mrAggregated, or let that KMS read the allowlist itself"
                    .to_owned()
            }
            Self::Refused(why) => format!("its registers are not those of the OS image: {why}"),
            Self::Unavailable(why) => {
                format!("its registers are not compared with the OS image yet: {why}")
            }
            Self::Opened(event) => {
                let event: String = event.chars().take(MAX_EVENT).collect();
                format!(
                    "its event log shows {event:?}, which is not of the boot of its OS, so it may have been opened: if that is \
                     meant, list the measurement in kms.mrAggregated"
                )
            }
        }
    }
}

impl IfImage {
    pub(crate) fn new(image: OsImageHash, gateway_app_id: String, denial: Denial) -> Self {
        Self { image, gateway_app_id, denial }
    }

    /// The OS image that the guest must have booted.
    pub fn image(&self) -> &OsImageHash {
        &self.image
    }

    /// The decision, by what is known of the image that the guest has booted: it is allowed with this gateway.
    ///
    /// # Errors
    /// [`Unmet`].
    pub fn settled(self, booted: Result<&OsImageHash, &NotCompared>) -> Result<String, Unmet> {
        let why = match booted {
            Ok(image) if *image == self.image => return Ok(self.gateway_app_id),
            Ok(other) => &NotCompared::Refused(format!("they are those of the image {other}")),
            Err(NotCompared::Unavailable(why)) => {
                return Err(Unmet::Unknown(Unsettled { condition: Box::new(self), why: why.clone() }));
            }
            Err(why) => why,
        };
        Err(Unmet::Denied(self.otherwise(why)))
    }

    /// The denial of a guest that is not known to have booted the image.
    pub fn otherwise(self, why: &NotCompared) -> Denial {
        let Self { image, denial, .. } = self;
        let others = denial.expected.unwrap_or_default();
        let why = why.sentence();
        let expected = format!("{others}; an entry of kms.images names its OS image {image}, but {why}");
        Denial { expected: Some(expected), ..denial }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::{Decision, DenialCode};

    fn condition() -> IfImage {
        let denial = Denial {
            code: DenialCode::KmsMeasurement,
            reason: "aggregated MR not allowed".to_owned(),
            expected: Some("none is allowed".to_owned()),
            actual: Some("55".repeat(32)),
        };
        IfImage::new(OsImageHash([0x44; 32]), "any".to_owned(), denial)
    }

    #[test]
    fn it_allows_a_guest_that_has_booted_this_image_and_no_other() {
        assert!(!Decision::IfImage(Box::new(condition())).is_allowed(), "not without the comparison");
        assert_eq!(condition().settled(Ok(&OsImageHash([0x44; 32]))), Ok("any".to_owned()));
        let other = condition().settled(Ok(&OsImageHash([0x45; 32]))).expect_err("another image");
        let Unmet::Denied(denial) = other else { panic!("{other:?}") };
        assert_eq!((denial.code, &*denial.reason), (DenialCode::KmsMeasurement, "aggregated MR not allowed"));
    }

    #[test]
    fn what_is_not_known_is_no_denial() {
        for (why, is_denial) in [
            (NotCompared::Disabled, true),
            (NotCompared::IdentityOnly, true),
            (NotCompared::Refused("MRTD".to_owned()), true),
            (NotCompared::Opened("ssh".to_owned()), true),
            (NotCompared::Unavailable("busy".to_owned()), false),
        ] {
            let denied = condition().otherwise(&why);
            match condition().settled(Err(&why)).expect_err("nothing was compared") {
                Unmet::Denied(denial) => assert!(is_denial && denial == denied, "{why:?}"),
                Unmet::Unknown(unsettled) => assert!(!is_denial && unsettled.denied() == denied, "{why:?}"),
            }
        }
    }

    #[test]
    fn a_denial_says_why_the_entry_does_not_hold_and_what_to_do() {
        for (why, words) in [
            (NotCompared::Disabled, "set core.image.verify, or list the measurement in kms.mrAggregated"),
            (NotCompared::IdentityOnly, "or let that KMS read the allowlist itself"),
            (NotCompared::Refused("MRTD".to_owned()), "are not those of the OS image: MRTD"),
            (NotCompared::Unavailable("busy".to_owned()), "not compared with the OS image yet: busy"),
            (NotCompared::Opened("ssh".to_owned()), "list the measurement in kms.mrAggregated"),
        ] {
            let denial = condition().otherwise(&why);
            let expected = denial.expected.expect("what would be allowed");
            assert!(expected.starts_with("none is allowed; an entry of kms.images names"), "{expected}");
            assert!(expected.contains(&"44".repeat(32)) && expected.ends_with(words), "{expected}");
        }
    }
}
