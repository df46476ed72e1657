//! The correct form of what the other files do wrong: the recorded permit of an app gives the keys of that
//! app.

use cvm_kms::admission::App;
use cvm_kms::lifecycle::{Ready, Released};

fn release(ready: &Ready, released: &Released<App>) {
    let _ = ready.app_keys(released);
}

fn main() {}
