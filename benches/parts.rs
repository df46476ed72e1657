//! What each part of a request costs alone, on one core.
fn main() {}
