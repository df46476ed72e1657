//! Only admission makes permits.

use cvm_kms::admission::{App, Permit};
use cvm_kms::control::NotFrozen;

fn forge(not_frozen: NotFrozen) -> Permit<App> {
    Permit::new(unreachable!(), unreachable!(), unreachable!(), not_frozen)
}

fn main() {}
