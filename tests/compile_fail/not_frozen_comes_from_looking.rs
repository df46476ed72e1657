//! The proof that an identity is not frozen comes only from checking the freezes.

use cvm_kms::control::NotFrozen;

fn forge() -> NotFrozen {
    NotFrozen(())
}

fn main() {}
