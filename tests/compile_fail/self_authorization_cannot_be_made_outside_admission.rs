//! Our self-authorization comes from asking, not from wishing.

use cvm_kms::admission::SelfAuthorization;

fn forge() -> SelfAuthorization {
    SelfAuthorization(())
}

fn main() {}
