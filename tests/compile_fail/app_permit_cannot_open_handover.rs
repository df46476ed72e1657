//! The root keys ask for a recorded KMS permit; one for an app does not open them.

use cvm_kms::admission::App;
use cvm_kms::lifecycle::{Ready, Released};

fn steal(ready: &Ready, released: &Released<App>) {
    let _ = ready.handover(released);
}

fn main() {}
