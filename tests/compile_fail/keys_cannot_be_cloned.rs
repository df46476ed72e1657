//! Root keys exist once in memory.

use cvm_kms::keys::RootKeys;

fn copy(keys: &RootKeys) -> RootKeys {
    keys.clone()
}

fn main() {
    let keys = RootKeys::generate();
    drop(copy(&keys));
}
