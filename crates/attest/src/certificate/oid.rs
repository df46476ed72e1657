//! Object identifiers of the private extensions and of standard attributes.

use x509_parser::der_parser::Oid;

/// TDX quote, raw (legacy, read only).
pub const TDX_QUOTE: &[u64] = &[1, 3, 6, 1, 4, 1, 62397, 1, 1];
/// TDX event log, JSON (legacy, read only).
pub const EVENT_LOG: &[u64] = &[1, 3, 6, 1, 4, 1, 62397, 1, 2];
/// App id, 20 raw bytes.
pub const APP_ID: &[u64] = &[1, 3, 6, 1, 4, 1, 62397, 1, 3];
/// Special usage, UTF-8 text.
pub const SPECIAL_USAGE: &[u64] = &[1, 3, 6, 1, 4, 1, 62397, 1, 4];
/// Versioned attestation, stripped.
pub const ATTESTATION: &[u64] = &[1, 3, 6, 1, 4, 1, 62397, 1, 8];
/// App info, MessagePack.
pub const APP_INFO: &[u64] = &[1, 3, 6, 1, 4, 1, 62397, 1, 9];

/// Whether a parsed identifier is the one with these arcs.
pub fn is(found: &Oid<'_>, arcs: &[u64]) -> bool {
    found.iter().is_some_and(|found| found.eq(arcs.iter().copied()))
}

pub(super) const COMMON_NAME: &[u64] = &[2, 5, 4, 3];
pub(super) const ORGANIZATION: &[u64] = &[2, 5, 4, 10];
pub(super) const SUBJECT_KEY_IDENTIFIER: &[u64] = &[2, 5, 29, 14];
pub(super) const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
pub(super) const SUBJECT_ALTERNATIVE_NAME: &[u64] = &[2, 5, 29, 17];
pub(super) const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
pub(super) const EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37];
pub(super) const SERVER_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 1];
pub(super) const CLIENT_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 2];
pub(super) const ECDSA_WITH_SHA256: &[u64] = &[1, 2, 840, 10045, 4, 3, 2];
