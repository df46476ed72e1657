//! A permit that was not written to the audit log gives no keys.

use cvm_kms::admission::{App, Permit};
use cvm_kms::lifecycle::Ready;

fn steal(ready: &Ready, permit: &Permit<App>) {
    let _ = ready.app_keys(permit);
}

fn main() {}
