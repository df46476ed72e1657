//! What each request costs over loopback TLS.
fn main() {}
