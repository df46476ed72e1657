//! Malicious inputs: too long, repeated, empty, out of bounds.

use crate::bundle::entries;
use crate::checkpoint::Checkpoint;
use crate::edge::Edge;
use crate::hash::Hash;
use crate::key::VerifyingKey;
use crate::log::{Log, OpenCheckpointError};
use crate::note::{MAX_NOTE, Note, NoteError, OpenError};
use crate::number::{Index, Size};
use crate::proof::{ConsistencyProof, InclusionProof, MAX_PROOF_HASHES, ProofError};
use crate::proof_file::{MAX_PROOF_FILE, ProofFile, ProofFileError};
use crate::signature::SigningKey;
use crate::tile::{Tile, Width};

fn signing_key() -> SigningKey {
    SigningKey::from_seed("log.example".parse().expect("a name"), &[7; 32]).expect("a key")
}

fn checkpoint(size: u64) -> Checkpoint {
    let size = size.try_into().expect("a size");
    Checkpoint::new("log.example".parse().expect("an origin"), size, Hash::leaf(b"entry"))
}

fn log() -> Log {
    Log::of_key(signing_key().verifying_key().clone()).expect("an origin")
}

#[test]
fn what_a_log_signs_is_opened_and_no_altered_byte_of_it_is() {
    let note = signing_key().sign_checkpoint(&checkpoint(1));
    assert_eq!(log().open(note.as_bytes(), &[]).expect("signed").checkpoint(), &checkpoint(1));
    for at in 0..note.len() {
        for bit in 0..8 {
            let mut altered = note.as_bytes().to_vec();
            altered[at] ^= 1 << bit;
            assert!(log().open(&altered, &[]).is_err(), "bit {bit} of byte {at}");
        }
        assert!(log().open(&note.as_bytes()[..at], &[]).is_err(), "the first {at} bytes");
    }
}

#[test]
fn lines_of_a_note_are_counted_and_each_line_of_a_known_key_is_verified() {
    let note = signing_key().sign_checkpoint(&checkpoint(1));
    let other = "\u{2014} other.example AAAAAAA=\n";
    let lines = |count: usize| format!("{note}{}", other.repeat(count));
    assert!(log().open(lines(99).as_bytes(), &[]).is_ok());
    assert_eq!(Note::parse(lines(100).as_bytes()), Err(NoteError::TooManyLines));
    let (text, line) = note.split_once("\n\n").expect("signed");
    assert!(log().open(format!("{note}{line}").as_bytes(), &[]).is_ok(), "a repeated line");
    // The same key under another text.
    let foreign = signing_key().sign("another text\n");
    for doubled in [format!("{note}{foreign}"), format!("{text}\n\n{foreign}{line}")] {
        let opened = log().open(doubled.as_bytes(), &[]);
        let is_refused = matches!(opened, Err(OpenCheckpointError::Signature(OpenError::Signature { .. })));
        assert!(is_refused, "{opened:?}");
    }
}

#[test]
fn long_inputs_are_refused_at_once() {
    assert_eq!(Note::parse(&vec![b'\n'; MAX_NOTE + 1]), Err(NoteError::TooLong));
    assert_eq!(ProofFile::parse(&vec![b'\n'; MAX_PROOF_FILE + 1]), Err(ProofFileError::TooLong));
    let long = "x".repeat(1 << 20);
    assert!(long.parse::<VerifyingKey>().is_err());
    assert!(format!("tile/0/{}", "x001/".repeat(1 << 10)).parse::<Tile>().is_err());
    assert!("tile/0/x999/x999/x999/x999/x999/x999/999".parse::<Tile>().is_err(), "above 64 bits");
    let hashes = format!("{}\n", Hash::EMPTY_ROOT.to_base64()).repeat(MAX_PROOF_HASHES + 1);
    let file = format!("c2sp.org/tlog-proof@v1\nindex 0\n{hashes}\nlog.example\n");
    assert_eq!(ProofFile::parse(file.as_bytes()), Err(ProofFileError::TooManyHashes));
    // A bundle that promises more than it has.
    assert!(entries(&[0xff; 3], Width::FULL).is_err());
}

#[test]
fn the_largest_tree_neither_panics_nor_verifies() {
    let (hash, other) = (Hash::leaf(b"a"), Hash::leaf(b"b"));
    let last = Index::try_from(Size::MAX.get() - 1).expect("an index");
    for length in 0..70 {
        let inclusion = InclusionProof::from_hashes(vec![hash; length]);
        assert!(inclusion.verify(b"a", last, Size::MAX, &other).is_err());
        assert!(inclusion.verify(b"a", Index::default(), Size::MAX, &other).is_err());
        assert!(matches!(
            inclusion.verify(b"a", Index::MAX, Size::MAX, &hash),
            Err(ProofError::IndexOutside { .. })
        ));
        let consistency = ConsistencyProof::from_hashes(vec![hash; length]);
        for old in [1, 2, 3, 1 << 62, Size::MAX.get() - 1] {
            let old = Size::try_from(old).expect("a size");
            assert!(consistency.verify((old, &hash), (Size::MAX, &other)).is_err());
        }
    }
    let full = vec![hash; 63];
    let mut edge = Edge::from_parts(Size::MAX, full).expect("63 bits");
    assert!(edge.append(hash).is_err());
    assert_eq!(edge.size(), Size::MAX);
    assert!(Edge::from_parts(Size::MAX, vec![hash; 62]).is_err());
}

#[test]
fn a_proof_that_is_too_short_proves_no_other_index() {
    let leaves: Vec<Vec<u8>> = (0..5_u8).map(|leaf| vec![leaf]).collect();
    let mut edge = Edge::EMPTY;
    for leaf in &leaves {
        edge.append(Hash::leaf(leaf)).expect("small");
    }
    // Leaf 4 of 5 hangs below the root: one hash proves it, and no other index.
    let proof = InclusionProof::from_hashes(vec![edge.hashes()[0]]);
    let size = edge.size();
    for index in 0..8 {
        let verified = proof.verify(&leaves[4], Index::try_from(index).expect("small"), size, &edge.root());
        assert_eq!(verified.is_ok(), index == 4, "{index}");
    }
}
