//! The fuzz targets on stable Rust: each over its committed corpus, over mutations of it, and over arbitrary
//! bytes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

// A crate of its own in `fuzz/`, where these items are public.
#[allow(unreachable_pub)]
#[path = "../../fuzz/src/lib.rs"]
mod entry;

use entry::TARGETS;

/// The largest corpus in the repository, in bytes.
const MAX_CORPUS: usize = 300 * 1024;

/// How many inputs of each kind a target gets; `cargo fuzz` gives it more.
const CASES: u32 = 512;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn file_names(directory: &Path) -> BTreeSet<String> {
    fs::read_dir(directory)
        .expect("the directory is there")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name in UTF-8"))
        .collect()
}

/// The committed inputs of a target, by name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = fuzz().join("corpus").join(target);
    let read = |name: String| {
        let input = fs::read(directory.join(&name)).expect("the input is there");
        (name, input)
    };
    file_names(&directory).into_iter().map(read).collect()
}

#[test]
fn every_target_has_a_program_and_a_corpus() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(file_names(&fuzz().join("corpus")), targets);
    let programs = targets.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(file_names(&fuzz().join("fuzz_targets")), programs);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("the manifest is there");
    for target in targets {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target}");
        assert!(!corpus(&target).is_empty(), "{target}");
    }
}

#[test]
fn the_corpus_is_small() {
    let size: usize = TARGETS.iter().flat_map(|(name, _)| corpus(name)).map(|(_, input)| input.len()).sum();
    assert!(size <= MAX_CORPUS, "the corpus has {size} bytes");
}

#[test]
fn every_input_of_the_corpus_passes() {
    for (target, run) in TARGETS {
        for (name, input) in corpus(target) {
            // Printed only if the test fails.
            println!("{target}/{name}");
            run(&input);
        }
    }
}

#[test]
fn mutated_inputs_pass() {
    for (target, run) in TARGETS {
        println!("{target}");
        let corpus: Vec<Vec<u8>> = corpus(target).into_iter().map(|(_, input)| input).collect();
        let input = proptest::sample::select(corpus.clone());
        let mutations = prop::collection::vec(mutation(corpus), 1..6);
        check(&(input, mutations), |(mut input, mutations)| {
            mutations.iter().for_each(|mutation| mutation.apply(&mut input));
            run(&input);
        });
    }
}

#[test]
fn arbitrary_bytes_pass() {
    for (target, run) in TARGETS {
        println!("{target}");
        check(&prop::collection::vec(any::<u8>(), 0..512), |input| run(&input));
    }
}

fn check<S: Strategy>(inputs: &S, run: impl Fn(S::Value)) {
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(inputs, |input| {
        run(input);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

/// One step away from an input.
#[derive(Clone, Debug)]
enum Mutation {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize),
    Truncate(Index),
    /// Continues from here like another input from there.
    Splice(Index, Vec<u8>, Index),
}

fn mutation(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (at(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        (at(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        (at(), 1..64_usize).prop_map(|(at, length)| Mutation::Remove(at, length)),
        (at(), 1..64_usize).prop_map(|(at, length)| Mutation::Repeat(at, length)),
        at().prop_map(Mutation::Truncate),
        (at(), proptest::sample::select(corpus), at())
            .prop_map(|(at, other, there)| Mutation::Splice(at, other, there)),
    ]
}

impl Mutation {
    fn apply(&self, input: &mut Vec<u8>) {
        match self {
            Self::Set(at, byte) => place(at, input, |input, at| input[at] = *byte),
            Self::Flip(at, bit) => place(at, input, |input, at| input[at] ^= 1 << bit),
            Self::Insert(at, bytes) => {
                let at = at.index(input.len() + 1);
                input.splice(at..at, bytes.iter().copied());
            }
            Self::Remove(at, length) => place(at, input, |input, at| {
                let end = input.len().min(at + length);
                input.drain(at..end);
            }),
            Self::Repeat(at, length) => place(at, input, |input, at| {
                let end = input.len().min(at + length);
                let part = input[at..end].to_vec();
                input.splice(at..at, part);
            }),
            Self::Truncate(at) => input.truncate(at.index(input.len() + 1)),
            Self::Splice(at, other, there) => {
                input.truncate(at.index(input.len() + 1));
                input.extend_from_slice(&other[there.index(other.len() + 1)..]);
            }
        }
    }
}

/// Leaves an empty input alone.
fn place(at: &Index, input: &mut Vec<u8>, change: impl FnOnce(&mut Vec<u8>, usize)) {
    if !input.is_empty() {
        let at = at.index(input.len());
        change(input, at);
    }
}
