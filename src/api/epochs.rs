//! Epochs of keys, for operators.

mod apps;

use std::sync::Arc;

pub use self::apps::{AppEpochsBody, AppEpochsList, AppEpochsShown};
use crate::admission::Foundation;

/// Shows and changes epochs.
#[derive(Debug)]
pub struct EpochService {
    foundation: Arc<Foundation>,
}

impl EpochService {
    /// The service of a KMS with keys.
    pub fn new(foundation: Arc<Foundation>) -> Self {
        Self { foundation }
    }
}
