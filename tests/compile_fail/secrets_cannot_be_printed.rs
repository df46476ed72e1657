//! A derived secret has no text form.

use cvm_kms::keys::Secret;

fn print(secret: &Secret) {
    println!("{secret}");
}

fn main() {}
