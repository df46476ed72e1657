//! What the fields and the extensions of a certificate have in common.

use sha2::{Digest, Sha256};
use yasna::DERWriterSeq;

pub(super) const IDENTIFIER_LENGTH: usize = 20;

pub(super) fn first_of_sha256(bytes: &[u8]) -> [u8; IDENTIFIER_LENGTH] {
    let mut first = [0; IDENTIFIER_LENGTH];
    first.copy_from_slice(&Sha256::digest(bytes)[..IDENTIFIER_LENGTH]);
    first
}

pub(super) fn sequence(content: impl FnOnce(&mut DERWriterSeq<'_>)) -> Vec<u8> {
    yasna::construct_der(|writer| writer.write_sequence(content))
}
