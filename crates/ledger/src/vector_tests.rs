//! The known answers of `ledger.json`, in `tests/vectors` or where `KMS_VECTORS_DIR` says.

use std::convert::Infallible;
use std::path::PathBuf;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::bundle;
use crate::edge::Edge;
use crate::hash::Hash;
use crate::key::VerifyingKey;
use crate::log::Log;
use crate::note::Note;
use crate::number::{Index, Size};
use crate::proof::{ConsistencyProof, HashReader, InclusionProof, Node, root};
use crate::proof_file::ProofFile;
use crate::signature::{CosigningKey, Signed, SigningKey, cosigned_text, cosigned_tree};
use crate::tile::{Content, Tile, TileHashes, TileReader, Width};
use crate::witness::{Answer, AnswerError, Rejection, Request, SIZE_TYPE};

fn file() -> Value {
    let directory = std::env::var_os("KMS_VECTORS_DIR").filter(|path| !path.is_empty());
    let own = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors");
    let path = directory.map_or_else(own, PathBuf::from).join("ledger.json");
    serde_json::from_slice(&std::fs::read(path).expect("the vectors")).expect("JSON")
}

fn list<'a>(file: &'a Value, name: &str) -> &'a [Value] {
    let cases = file[name].as_array().expect(name);
    assert!(!cases.is_empty(), "{name}");
    cases
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap_or_else(|| panic!("{key} of {case}"))
}

fn bytes(case: &Value, key: &str) -> Vec<u8> {
    hex::decode(text(case, key)).expect("hex")
}

fn number(case: &Value, key: &str) -> u64 {
    case[key].as_u64().unwrap_or_else(|| panic!("{key} of {case}"))
}

fn hash(case: &Value, key: &str) -> Hash {
    Hash::try_from(bytes(case, key).as_slice()).expect("32 bytes")
}

fn size(case: &Value, key: &str) -> Size {
    number(case, key).try_into().expect("a size")
}

fn proof(case: &Value) -> Option<Vec<Hash>> {
    let hashes = case["proof"].as_array().expect("a list").iter();
    hashes.map(|hash| Hash::try_from(hex::decode(hash.as_str()?).ok()?.as_slice()).ok()).collect()
}

/// Whether the case is decided as it expects; `either` is decided as `strict` says.
fn check(case: &Value, accepted: bool, strict: bool) {
    let expected = match text(case, "expect") {
        "accept" => true,
        "refuse" => false,
        "either" => strict,
        other => panic!("{other}"),
    };
    assert_eq!(accepted, expected, "{case}");
}

fn key(text: &str) -> VerifyingKey {
    text.parse().expect("a verifier key")
}

/// Every hash of a tree, by level.
struct Stored {
    entries: Vec<Vec<u8>>,
    levels: Vec<Vec<Hash>>,
    /// Roots by size, as the growing edge says.
    roots: Vec<Hash>,
}

impl Stored {
    fn of(label: &str, leaves: u64) -> Self {
        let mut stored = Self { entries: Vec::new(), levels: Vec::new(), roots: vec![Hash::EMPTY_ROOT] };
        let mut edge = Edge::EMPTY;
        for index in 0..leaves {
            let digest = Sha256::new().chain_update(label).chain_update(index.to_be_bytes()).finalize();
            let entry = digest[..usize::try_from(index % 33).expect("small")].to_vec();
            for (node, hash) in edge.append(Hash::leaf(&entry)).expect("small") {
                let level = usize::from(node.level);
                if stored.levels.len() == level {
                    stored.levels.push(Vec::new());
                }
                assert_eq!(stored.levels[level].len() as u64, node.index);
                stored.levels[level].push(hash);
            }
            stored.entries.push(entry);
            stored.roots.push(edge.root());
        }
        stored
    }

    fn tile(&self, tile: &Tile) -> Vec<u8> {
        let start = usize::try_from(tile.number()).expect("small") * 256;
        let range = start..start + usize::from(tile.width().get());
        match tile.content() {
            Content::Hashes(level) => {
                let hashes = &self.levels[usize::from(level) * 8][range];
                hashes.iter().flat_map(|hash| *hash.as_bytes()).collect()
            }
            Content::Entries => {
                let mut content = Vec::new();
                for entry in &self.entries[range] {
                    bundle::append(&mut content, entry).expect("short");
                }
                content
            }
        }
    }
}

impl HashReader for Stored {
    type Error = Infallible;

    fn read(&self, nodes: &[Node]) -> Result<Vec<Hash>, Infallible> {
        let at =
            |node: &Node| self.levels[usize::from(node.level)][usize::try_from(node.index).expect("small")];
        Ok(nodes.iter().map(at).collect())
    }
}

impl TileReader for &Stored {
    type Error = Infallible;

    fn read_tile(&self, tile: &Tile) -> Result<Vec<u8>, Infallible> {
        Ok(self.tile(tile))
    }
}

fn stored(file: &Value) -> Stored {
    Stored::of(text(file, "label_text"), 70_000)
}

#[test]
fn leaves_nodes_and_roots() {
    let file = file();
    let tree = stored(&file);
    for case in list(&file, "leaf_hashes") {
        let entry = match case.get("data") {
            Some(_) => bytes(case, "data"),
            None => bytes(case, "data_repeat").repeat(usize::try_from(number(case, "count")).expect("small")),
        };
        assert_eq!(Hash::leaf(&entry), hash(case, "hash"), "{case:.200}");
        if let Some(index) = case.get("index").and_then(Value::as_u64) {
            assert_eq!(tree.entries[usize::try_from(index).expect("small")], entry);
        }
    }
    for case in list(&file, "node_hashes") {
        assert_eq!(Hash::node(&hash(case, "left"), &hash(case, "right")), hash(case, "hash"));
    }
    for case in list(&file, "roots") {
        let size = size(case, "size");
        assert_eq!(tree.roots[usize::try_from(size.get()).expect("small")], hash(case, "root"), "{case}");
        assert_eq!(root(&tree, size), Ok(hash(case, "root")));
        let tiles = TileHashes::new(&tree, size);
        let edge = Edge::read(&tiles, size).expect("an edge");
        assert_eq!(edge.root(), hash(case, "root"));
        assert_eq!(Edge::from_parts(size, edge.hashes().to_vec()), Ok(edge));
    }
}

#[test]
fn inclusion() {
    let file = file();
    let tree = stored(&file);
    for case in list(&file, "inclusion") {
        let index: Index = number(case, "index").try_into().expect("an index");
        let (size, root) = (size(case, "size"), hash(case, "root"));
        let leaf = bytes(case, "leaf_hash");
        let accepted = match (proof(case), Hash::try_from(leaf.as_slice())) {
            (Some(hashes), Ok(leaf)) => {
                InclusionProof::from_hashes(hashes).verify_leaf_hash(&leaf, index, size, &root).is_ok()
            }
            _ => false,
        };
        check(case, accepted, false);
        // Cases of the whole tree are made as they are read, from nodes and from tiles.
        if text(case, "name").starts_with("all_") || text(case, "name").starts_with("big_") {
            let made = InclusionProof::build(&tree, index, size).expect("a proof");
            assert_eq!(Some(made.hashes().to_vec()), proof(case), "{case}");
            assert_eq!(InclusionProof::build(&TileHashes::new(&tree, size), index, size), Ok(made));
        }
    }
}

#[test]
fn consistency() {
    let file = file();
    let tree = stored(&file);
    for case in list(&file, "consistency") {
        let (old, new) = (size(case, "old_size"), size(case, "new_size"));
        let accepted = proof(case).is_some_and(|hashes| {
            let (old_root, new_root) = (hash(case, "old_root"), hash(case, "new_root"));
            ConsistencyProof::from_hashes(hashes).verify((old, &old_root), (new, &new_root)).is_ok()
        });
        check(case, accepted, false);
        if text(case, "name").starts_with("all_") || text(case, "name").starts_with("big_") {
            let made = ConsistencyProof::build(&tree, old, new).expect("a proof");
            assert_eq!(Some(made.hashes().to_vec()), proof(case), "{case}");
            assert_eq!(ConsistencyProof::build(&TileHashes::new(&tree, new), old, new), Ok(made));
        }
    }
}

#[test]
fn tiles() {
    let file = file();
    let tree = stored(&file);
    for case in list(&file, "tiles") {
        let size = size(case, "size");
        let all: Vec<Tile> = Tile::new_hashes(Size::ZERO, size).collect();
        let full = all.iter().filter(|tile| tile.width().is_full()).count() as u64;
        assert_eq!(
            (full, all.len() as u64 - full),
            (number(case, "full"), number(case, "partial")),
            "{size}"
        );
        for (kind, level) in [("tiles", None), ("entry_bundles", Some(Content::Entries))] {
            for file in case[kind].as_array().expect("a list") {
                let tile: Tile = text(file, "path").parse().expect("a path");
                assert_eq!(level.is_some(), tile.content() == Content::Entries);
                assert_eq!(Tile::at(tile.content(), tile.number(), size), Some(tile));
                let content = tree.tile(&tile);
                assert_eq!(content.len() as u64, number(file, "bytes"));
                assert_eq!(hex::encode(Sha256::digest(&content)), text(file, "sha256"), "{tile}");
            }
        }
    }
    for case in list(&file, "tile_content") {
        let tile = text(case, "path").parse().expect("a path");
        assert_eq!(tree.tile(&tile), bytes(case, "content"), "{tile}");
    }
    for case in list(&file, "new_tiles") {
        let new = Tile::new_hashes(size(case, "old_size"), size(case, "new_size"));
        let paths: Vec<String> = new.map(|tile| tile.to_string()).collect();
        assert_eq!(Value::from(paths.clone()), case["paths"]);
        assert_eq!(paths.len() as u64, number(case, "count"));
    }
}

#[test]
fn tile_paths_and_bundles() {
    let file = file();
    for case in list(&file, "tile_paths") {
        let tile = text(case, "path").parse::<Tile>();
        check(case, tile.is_ok(), false);
        if let Ok(tile) = tile {
            let content = match case.get("level") {
                Some(_) => Content::Hashes(number(case, "level").try_into().expect("a level")),
                None => Content::Entries,
            };
            let width = Width::new(number(case, "width")).expect("a width");
            assert_eq!(Some(tile), Tile::new(content, number(case, "index"), width));
            assert_eq!(tile.to_string(), text(case, "path"));
        }
    }
    for case in list(&file, "entry_bundles") {
        let hashes: Vec<Hash> = case["leaf_hashes"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|hash| {
                let hash = hex::decode(hash.as_str().expect("text")).expect("hex");
                Hash::try_from(hash.as_slice()).expect("32 bytes")
            })
            .collect();
        assert_eq!(hashes.len() as u64, number(case, "width"));
        let bundle = match case.get("bundle") {
            Some(_) => bytes(case, "bundle"),
            None => {
                let mut bundle = Vec::new();
                bundle::append(&mut bundle, &[b'a'; bundle::MAX_ENTRY]).expect("the longest");
                assert_eq!(hex::encode(Sha256::digest(&bundle)), text(case, "sha256"));
                bundle
            }
        };
        check(case, bundle::verified_entries(&bundle, &hashes).is_ok(), false);
    }
}

#[test]
fn keys() {
    let file = file();
    for case in list(&file, "keys") {
        let known = key(text(case, "vkey"));
        let seed: [u8; 32] = bytes(case, "seed").try_into().expect("32 bytes");
        let name = text(case, "name").parse().expect("a name");
        let ours = match number(case, "type") {
            1 => SigningKey::from_seed(name, &seed).expect("a key").verifying_key().clone(),
            4 => CosigningKey::from_seed(name, &seed).expect("a key").verifying_key().clone(),
            other => panic!("{other}"),
        };
        assert_eq!(ours, known);
        assert_eq!(ours.to_string(), text(case, "vkey"));
        assert_eq!(ours.id().to_string(), text(case, "key_id"));
        assert_eq!(ours.key().as_bytes(), bytes(case, "public"));
    }
    for case in list(&file, "vkeys") {
        check(case, text(case, "vkey").parse::<VerifyingKey>().is_ok(), false);
    }
}

#[test]
fn checkpoints() {
    for case in list(&file(), "checkpoints") {
        let keys = case["keys"].as_array().expect("a list").iter();
        let keys = keys.map(|vkey| key(vkey.as_str().expect("text"))).collect();
        let log = Log::new(text(case, "origin").parse().expect("an origin"), keys);
        let note = match case.get("note_hex") {
            Some(_) => bytes(case, "note_hex"),
            None => text(case, "note").as_bytes().to_vec(),
        };
        let opened = log.open(&note, &[]);
        // A second good line of one key is counted once.
        check(case, opened.is_ok(), case["name"] == "log_line_twice");
        if let (Ok(signed), Some(_)) = (&opened, case.get("size")) {
            let tree = signed.checkpoint();
            assert_eq!(tree.size.to_string(), text(case, "size"));
            assert_eq!(tree.root, hash(case, "root"));
            let extension: String = tree.extension().iter().map(|line| format!("{line}\n")).collect();
            assert_eq!(extension, text(case, "extension"));
            assert_eq!(tree.to_string(), Note::parse(&note).expect("a note").text());
        }
    }
}

#[test]
fn cosignatures() {
    let file = file();
    for case in list(&file, "cosignatures") {
        let log = Log::of_key(key(text(case, "log"))).expect("an origin");
        let witnesses = [key(text(case, "witness"))];
        let opened = log.open(text(case, "note").as_bytes(), &witnesses);
        let cosignature = opened.ok().and_then(|signed| signed.cosignatures().first().cloned());
        // 2^63 - 1 is a time; 0 is none.
        check(case, cosignature.is_some(), case["timestamp"] != "0");
        if let Some(cosignature) = cosignature {
            assert_eq!(cosignature.time.to_string(), text(case, "timestamp"));
            let note = Note::parse(text(case, "note").as_bytes()).expect("a note");
            if case.get("signed_message").is_some() {
                assert_eq!(cosigned_text(cosignature.time, note.text()), text(case, "signed_message"));
            }
        }
    }
    let example = &file["cosignature_spec_example"];
    let note = Note::parse(text(example, "note").as_bytes()).expect("a note");
    let line = note.signatures().last().expect("a line");
    assert_eq!(line.id().to_string(), text(example, "key_id"));
    let time = line.signature().first_chunk().map(|time| u64::from_be_bytes(*time));
    assert_eq!(time.map(|time| time.to_string()).as_deref(), Some(text(example, "timestamp")));
}

#[test]
fn cosignatures_of_ml_dsa_44() {
    let file = file();
    let cases = list(&file, "cosignatures_mldsa44");
    let valid = &cases[0];
    let witness = [key(text(valid, "vkey"))];
    assert_eq!(witness[0].name().as_str(), text(valid, "cosigner"));
    let checkpoint = crate::checkpoint::Checkpoint::new(
        text(valid, "origin").parse().expect("an origin"),
        size(valid, "size"),
        hash(valid, "root"),
    );
    for case in cases {
        let line = text(case, "line").trim_end_matches('\n');
        let note = Note::parse(format!("{checkpoint}\n{line}\n").as_bytes()).expect("a note");
        let verified = note.verify(&witness);
        check(case, verified.as_ref().is_ok_and(|verified| verified.len() == 1), false);
        if case.get("signed_message").is_some() {
            let Signed::Cosigned(time) = verified.expect("valid")[0].signed else { panic!("no time") };
            assert_eq!(time.to_string(), text(case, "timestamp"));
            let message = cosigned_tree(witness[0].name(), time, &checkpoint);
            assert_eq!(message, Some(bytes(case, "signed_message")));
        }
    }
}

#[test]
fn proof_files() {
    for case in list(&file(), "tlog_proofs") {
        let log = Log::of_key(key(text(case, "log"))).expect("an origin");
        let entry = bytes(case, "leaf");
        assert_eq!(Hash::leaf(&entry), hash(case, "leaf_hash"));
        let proof = ProofFile::parse(text(case, "text").as_bytes());
        let verified = proof.as_ref().is_ok_and(|proof| proof.verify(&entry, &log, &[]).is_ok());
        check(case, verified, false);
        if let (Ok(proof), "accept") = (&proof, text(case, "expect")) {
            assert_eq!(proof.to_string(), text(case, "text"));
        }
    }
}

#[test]
fn a_conversation_with_a_witness() {
    let file = file();
    let conversation = &file["witness"];
    let log = Log::of_key(key(text(conversation, "log"))).expect("an origin");
    let witness_key = text(conversation, "witness_key");
    let seed = list(&file, "keys").iter().find(|key| text(key, "vkey") == witness_key).expect("its key");
    let seed: [u8; 32] = bytes(seed, "seed").try_into().expect("32 bytes");
    let keys = [key(witness_key)];
    let witness = CosigningKey::from_seed(keys[0].name().clone(), &seed).expect("a key");
    let mut last = (Size::ZERO, Hash::EMPTY_ROOT);
    for step in list(conversation, "steps") {
        let request = Request::parse(text(step, "request").as_bytes());
        let judged = request.as_ref().ok().map(|request| request.judge(&log, (last.0, &last.1)));
        let status = match &judged {
            None => 400,
            Some(Ok(())) => 200,
            Some(Err(rejection)) => rejection.status(),
        };
        assert_eq!(u64::from(status), number(step, "status"), "{step}");
        let Ok(request) = request else { continue };
        assert_eq!(request.to_string(), text(step, "request"));
        let read = |content_type, body: &str| {
            request.read_answer(&Answer { status, content_type, body: body.as_bytes() }, &keys)
        };
        match judged {
            Some(Ok(())) => {
                let time = 1_700_000_000.try_into().expect("a time");
                let line = witness.cosign(request.text(), time);
                assert_eq!(read(None, &line).expect("cosigned")[0].time, time);
                assert_eq!(read(None, "\u{2014} other.example AAAAAAA=\n"), Err(AnswerError::NotCosigned));
                assert!(matches!(
                    read(None, &witness.cosign("another\n", time)),
                    Err(AnswerError::Signature(_))
                ));
                last = (request.checkpoint().size, request.checkpoint().root);
            }
            Some(Err(Rejection::Conflict { known })) => {
                assert_eq!(
                    (text(step, "body"), text(step, "content_type")),
                    (format!("{known}\n").as_str(), SIZE_TYPE)
                );
                assert_eq!(read(Some(SIZE_TYPE), text(step, "body")), Err(AnswerError::Conflict { known }));
                let above = Size::try_from(request.checkpoint().size.get() + 1).expect("a size");
                assert_eq!(
                    read(Some(SIZE_TYPE), &format!("{above}\n")),
                    Err(AnswerError::Ahead { known: above })
                );
                assert_eq!(read(None, text(step, "body")), Err(AnswerError::Inconsistent));
                for body in ["", "5", "05\n", "-1\n", &format!("{}\n", request.old())] {
                    assert_eq!(read(Some(SIZE_TYPE), body), Err(AnswerError::Size), "{body:?}");
                }
            }
            Some(Err(Rejection::Proof(_))) => assert_eq!(read(None, ""), Err(AnswerError::Inconsistent)),
            _ => assert_eq!(read(None, ""), Err(AnswerError::Status(status))),
        }
    }
    let monitoring = &conversation["monitoring"];
    assert_eq!(last.0.get(), number(monitoring, "size"));
    let origin = hex::encode(Sha256::digest(log.origin().as_str()));
    assert_eq!(format!("{origin}/checkpoint"), text(monitoring, "path"));
}
