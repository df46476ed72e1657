//! Everyone who must not get root keys, or pass for a KMS: each is refused, told why, and leaves nothing behind.

mod adversary_cases;
mod support;
