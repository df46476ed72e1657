//! The root keys require a recorded KMS permit; one for an app is not accepted.

use cvm_kms::admission::App;
use cvm_kms::lifecycle::{Ready, Released};

fn steal(ready: &Ready, released: &Released<App>) {
    let _ = ready.handover(released);
}

fn main() {}
