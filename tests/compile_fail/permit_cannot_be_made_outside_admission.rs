//! Only admission makes permits.

use cvm_kms::admission::{App, Permit};
use kms_attest::identity::{AppId, BootInfo};

fn forge(identity: BootInfo, app_id: AppId) -> Permit<App> {
    Permit::new(identity, app_id, String::new())
}

fn main() {}
