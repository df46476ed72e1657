//! The receipt that a caller keeps of a release: a proof that it is in the audit log.

use crate::audit::Leaf;
use crate::proto::Receipt;

impl From<&Leaf> for Receipt {
    fn from(leaf: &Leaf) -> Self {
        let Leaf { entry, index, proof, checkpoint } = leaf;
        Self {
            entry: entry.clone(),
            index: index.get(),
            proof: proof.hashes().iter().flat_map(|hash| *hash.as_bytes()).collect(),
            checkpoint: checkpoint.to_string(),
        }
    }
}
