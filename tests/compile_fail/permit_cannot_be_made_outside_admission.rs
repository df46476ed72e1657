//! Only admission makes permits.

use cvm_kms::admission::{App, NotFrozen, Permit};
use kms_attest::identity::{AppId, BootInfo};

fn forge(identity: BootInfo, app_id: AppId, not_frozen: NotFrozen) -> Permit<App> {
    Permit::new(identity, app_id, String::new(), not_frozen)
}

fn main() {}
