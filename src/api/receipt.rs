//! What a caller keeps of a release: that it is in the log, with proof.

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
