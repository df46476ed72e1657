//! What the other files do wrong, done right: the recorded permit of an app opens the keys of that app.

use cvm_kms::admission::App;
use cvm_kms::lifecycle::{Ready, Released};

fn release(ready: &Ready, released: &Released<App>) {
    let _ = ready.app_keys(released);
}

fn main() {}
