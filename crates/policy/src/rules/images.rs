//! `kms.images`: the KMSs that an allowlist names by what they run.

use std::collections::HashSet;

use kms_attest::identity::{BootInfo, OsImageHash};
use serde_json::Value;

use crate::kms_image::KmsImage;

/// The entries.
#[derive(Debug, Default)]
pub(super) struct KmsImages(HashSet<KmsImage>);

impl KmsImages {
    /// # Errors
    /// The first entry that is not one, and what it lacks.
    pub(super) fn parse(entries: Vec<Value>) -> Result<Self, String> {
        let entries = entries.into_iter().enumerate().map(|(index, entry)| {
            KmsImage::parse(entry).map_err(|problem| format!("kms.images[{index}] {problem}"))
        });
        entries.collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &KmsImage> {
        self.0.iter()
    }

    /// The OS image that a caller must have booted for one of the entries to hold; `None` if it is not what any entry names.
    pub(super) fn image_of(&self, caller: &BootInfo) -> Option<OsImageHash> {
        if self.0.is_empty() {
            return None;
        }
        let exact = KmsImage::of(caller)?;
        let any_app = KmsImage { app: None, ..exact.clone() };
        (self.0.contains(&exact) || self.0.contains(&any_app)).then_some(exact.image)
    }
}
