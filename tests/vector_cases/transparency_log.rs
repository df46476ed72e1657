//! `ledger.json`: hashes, proofs, tiles, keys, checkpoints, cosignatures and witnesses of a transparency log.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::signature::{KeyPair as _, ML_DSA_44_SIGNING, PqdsaKeyPair};
use kms_ledger::bundle;
use kms_ledger::checkpoint::Checkpoint;
use kms_ledger::edge::Edge;
use kms_ledger::key::VerifyingKey;
use kms_ledger::log::Log;
use kms_ledger::note::Note;
use kms_ledger::proof::{ConsistencyProof, HashReader, InclusionProof, Node, root};
use kms_ledger::proof_file::ProofFile;
use kms_ledger::signature::{CosigningKey, Signed, SigningKey, cosigned_text, cosigned_tree};
use kms_ledger::tile::{Content, Tile, TileHashes, TileReader, Width};
use kms_ledger::witness::{Answer, AnswerError, Rejection, Request, SIZE_TYPE};
use kms_ledger::{Hash, Index, Size};
use sha2::{Digest as _, Sha256};

use super::cases::{Cases, Notes};
use super::json::{Check, Failure, Json, ensure};

/// The number of leaves of the tree in the file.
const LEAVES: u64 = 70_000;

pub(super) fn check<'a>(file: &'a Json, cases: &mut Cases<'a>) -> Check {
    file.at("specs")?.informative();
    file.at("leaf_rule")?.informative();
    let label = file.at("label_text")?.text()?;
    cases.list(file, "leaf_hashes", move |case, _| leaf_hash(case, &*tree(label)?))?;
    cases.list(file, "node_hashes", |case, _| {
        case.at("hash")?.is_bytes(Hash::node(&hash(case, "left")?, &hash(case, "right")?).as_bytes())
    })?;
    cases.list(file, "roots", move |case, _| root_of(case, &*tree(label)?))?;
    cases.list(file, "inclusion", move |case, _| inclusion(case, &*tree(label)?))?;
    cases.list(file, "consistency", move |case, _| consistency(case, &*tree(label)?))?;
    cases.list(file, "tiles", move |case, _| tiles(case, &*tree(label)?))?;
    cases.list(file, "tile_content", move |case, _| {
        case.at("content")?.is_bytes(tree(label)?.tile(&case.at("path")?.text()?.parse()?)?)
    })?;
    cases.list(file, "new_tiles", |case, _| {
        let new = Tile::new_hashes(size(case, "old_size")?, size(case, "new_size")?);
        let paths: Vec<String> = new.map(|tile| tile.to_string()).collect();
        case.at("count")?.is_number(paths.len())?;
        case.at("paths")?.is_json(&paths.into())
    })?;
    cases.list(file, "tile_paths", |case, _| tile_path(case))?;
    cases.list(file, "entry_bundles", |case, _| entry_bundle(case))?;
    cases.list(file, "keys", |case, _| key_pair(case))?;
    cases.list(file, "vkeys", |case, _| {
        is_decided(case, case.at("vkey")?.text()?.parse::<VerifyingKey>().is_ok(), false)
    })?;
    cases.list(file, "checkpoints", |case, _| checkpoint(case))?;
    cases.list(file, "cosignatures", |case, _| cosignature(case))?;
    cases.single(file, "cosignature_spec_example", |case, _| {
        case.at("why")?.informative();
        let note = Note::parse(case.at("note")?.text()?.as_bytes())?;
        let line = note.signatures().last().ok_or_else(|| Failure("there is no signature".to_owned()))?;
        case.at("key_id")?.is_text(&line.id().to_string())?;
        let time = line.signature().first_chunk().map(|time| u64::from_be_bytes(*time).to_string());
        case.at("timestamp")?.is_text(&time.unwrap_or_default())
    })?;
    cases.list(file, "cosignatures_mldsa44", move |case, _| cosignature_of_ml_dsa_44(case, file))?;
    cases.list(file, "tlog_proofs", |case, _| proof_file(case))?;
    let witness = file.at("witness")?;
    witness.at("about")?.informative();
    for name in ["log", "witness_key"] {
        witness.at(name)?.text()?.parse::<VerifyingKey>()?;
    }
    cases.each("witness", witness.at("steps")?.list()?, move |case, notes| step(case, file, notes));
    cases.single(witness, "monitoring", move |case, _| {
        let (last, _) = seen_before(witness, None)?;
        case.at("after")?.informative();
        case.at("size")?.is_number(last.get())?;
        let origin = Log::of_key(key(witness.at("log")?)?)?.origin().as_str().to_owned();
        case.at("path")?.is_text(&format!("{}/checkpoint", hex::encode(Sha256::digest(origin))))
    })
}

fn hash(case: &Json, name: &str) -> Check<Hash> {
    Ok(Hash::try_from(case.at(name)?.bytes()?.as_slice())?)
}

fn size(case: &Json, name: &str) -> Check<Size> {
    Ok(case.at(name)?.number()?.try_into()?)
}

fn key(case: &Json) -> Check<VerifyingKey> {
    Ok(case.text()?.parse()?)
}

/// The hashes of a proof, or `None` if one is not a hash.
fn proof(case: &Json) -> Check<Option<Vec<Hash>>> {
    let hashes = case.at("proof")?.texts()?;
    Ok(hashes.iter().map(|hash| Hash::try_from(hex::decode(hash).ok()?.as_slice()).ok()).collect())
}

/// Whether the decision is the expected one; `either` expects that of `strict`.
fn is_decided(case: &Json, accepted: bool, strict: bool) -> Check {
    if let Some(why) = case.maybe("why") {
        why.informative();
    }
    let expected = match case.at("expect")?.text()? {
        "accept" => true,
        "refuse" => false,
        "either" => strict,
        other => return Err(Failure(format!("unknown verdict {other:?}"))),
    };
    ensure!(accepted == expected, "{}: accepted: {accepted}", case.path());
    Ok(())
}

/// Every hash of a tree, by level.
struct Tree {
    entries: Vec<Vec<u8>>,
    levels: Vec<Vec<Hash>>,
    /// Roots by size, from the growing edge.
    roots: Vec<Hash>,
}

/// The tree of a label, built once.
fn tree(label: &str) -> Check<Arc<Tree>> {
    static GROWN: Mutex<Option<HashMap<String, Arc<Tree>>>> = Mutex::new(None);
    let mut grown = GROWN.lock().unwrap_or_else(PoisonError::into_inner);
    let grown = grown.get_or_insert_default();
    if let Some(tree) = grown.get(label) {
        return Ok(Arc::clone(tree));
    }
    let tree = Arc::new(Tree::grow(label)?);
    grown.insert(label.to_owned(), Arc::clone(&tree));
    Ok(tree)
}

impl Tree {
    fn grow(label: &str) -> Check<Self> {
        let mut tree = Self { entries: Vec::new(), levels: Vec::new(), roots: vec![Hash::EMPTY_ROOT] };
        let mut edge = Edge::EMPTY;
        for index in 0..LEAVES {
            let digest = Sha256::new().chain_update(label).chain_update(index.to_be_bytes()).finalize();
            let entry = digest[..usize::try_from(index % 33)?].to_vec();
            for (node, hash) in edge.append(Hash::leaf(&entry))? {
                let level = usize::from(node.level);
                if tree.levels.len() == level {
                    tree.levels.push(Vec::new());
                }
                ensure!(
                    tree.levels[level].len() as u64 == node.index,
                    "{node:?} is not the next of its level"
                );
                tree.levels[level].push(hash);
            }
            tree.entries.push(entry);
            tree.roots.push(edge.root());
        }
        Ok(tree)
    }

    fn tile(&self, tile: &Tile) -> Check<Vec<u8>> {
        let start = usize::try_from(tile.number())? * 256;
        let range = start..start + usize::from(tile.width().get());
        let outside = || Failure(format!("{tile} is not in the tree"));
        match tile.content() {
            Content::Hashes(level) => {
                let hashes = self.levels.get(usize::from(level) * 8).and_then(|level| level.get(range));
                Ok(hashes.ok_or_else(outside)?.iter().flat_map(|hash| *hash.as_bytes()).collect())
            }
            Content::Entries => {
                let mut content = Vec::new();
                for entry in self.entries.get(range).ok_or_else(outside)? {
                    bundle::append(&mut content, entry)?;
                }
                Ok(content)
            }
        }
    }
}

impl HashReader for Tree {
    type Error = Infallible;

    fn read(&self, nodes: &[Node]) -> Result<Vec<Hash>, Infallible> {
        let at =
            |node: &Node| self.levels[usize::from(node.level)][usize::try_from(node.index).expect("small")];
        Ok(nodes.iter().map(at).collect())
    }
}

impl TileReader for &Tree {
    type Error = Infallible;

    fn read_tile(&self, tile: &Tile) -> Result<Vec<u8>, Infallible> {
        Ok(self.tile(tile).expect("a tile of the tree"))
    }
}

fn leaf_hash(case: &Json, tree: &Tree) -> Check {
    let entry = match case.maybe("data") {
        Some(data) => data.bytes()?,
        None => case.at("data_repeat")?.bytes()?.repeat(usize::try_from(case.at("count")?.number()?)?),
    };
    case.at("hash")?.is_bytes(Hash::leaf(&entry).as_bytes())?;
    if let Some(index) = case.maybe("index") {
        let ours = tree.entries.get(usize::try_from(index.number()?)?);
        ensure!(ours == Some(&entry), "{}: another entry of the tree", case.path());
    }
    Ok(())
}

fn root_of(case: &Json, tree: &Tree) -> Check {
    let (size, expected) = (size(case, "size")?, hash(case, "root")?);
    let grown = tree.roots.get(usize::try_from(size.get())?);
    ensure!(grown == Some(&expected), "{}: the tree has the root {grown:?}", case.path());
    ensure!(root(tree, size)? == expected, "{}: another root of the nodes", case.path());
    let edge = Edge::read(&TileHashes::new(tree, size), size)?;
    ensure!(edge.root() == expected, "{}: another root of the edge in tiles", case.path());
    ensure!(Edge::from_parts(size, edge.hashes().to_vec())? == edge, "{}: another edge", case.path());
    Ok(())
}

/// Whether the proof is the one that a log would make for the tree of this file.
fn is_made(case: &Json) -> Check<bool> {
    let name = case.at("name")?.text()?;
    Ok(name.starts_with("all_") || name.starts_with("big_"))
}

fn inclusion(case: &Json, tree: &Tree) -> Check {
    let index: Index = case.at("index")?.number()?.try_into()?;
    let (size, root, leaf) = (size(case, "size")?, hash(case, "root")?, case.at("leaf_hash")?.bytes()?);
    let accepted = match (proof(case)?, Hash::try_from(leaf.as_slice())) {
        (Some(hashes), Ok(leaf)) => {
            InclusionProof::from_hashes(hashes).verify_leaf_hash(&leaf, index, size, &root).is_ok()
        }
        _ => false,
    };
    is_decided(case, accepted, false)?;
    if is_made(case)? {
        let made = InclusionProof::build(tree, index, size)?;
        ensure!(Some(made.hashes().to_vec()) == proof(case)?, "{}: ours is {made:?}", case.path());
        let of_tiles = InclusionProof::build(&TileHashes::new(tree, size), index, size)?;
        ensure!(of_tiles == made, "{}: of tiles it is {of_tiles:?}", case.path());
    }
    Ok(())
}

fn consistency(case: &Json, tree: &Tree) -> Check {
    let (old, new) = (size(case, "old_size")?, size(case, "new_size")?);
    let (old_root, new_root) = (hash(case, "old_root")?, hash(case, "new_root")?);
    let accepted = proof(case)?.is_some_and(|hashes| {
        ConsistencyProof::from_hashes(hashes).verify((old, &old_root), (new, &new_root)).is_ok()
    });
    is_decided(case, accepted, false)?;
    if is_made(case)? {
        let made = ConsistencyProof::build(tree, old, new)?;
        ensure!(Some(made.hashes().to_vec()) == proof(case)?, "{}: ours is {made:?}", case.path());
        let of_tiles = ConsistencyProof::build(&TileHashes::new(tree, new), old, new)?;
        ensure!(of_tiles == made, "{}: of tiles it is {of_tiles:?}", case.path());
    }
    Ok(())
}

fn tiles(case: &Json, tree: &Tree) -> Check {
    let size = size(case, "size")?;
    case.at("root")?.is_bytes(root(tree, size)?.as_bytes())?;
    let all: Vec<Tile> = Tile::new_hashes(Size::ZERO, size).collect();
    let full = all.iter().filter(|tile| tile.width().is_full()).count();
    case.at("full")?.is_number(full)?;
    case.at("partial")?.is_number(all.len() - full)?;
    let of_level = |level| all.iter().filter(|tile| tile.content() == Content::Hashes(level)).count();
    let by_level: Vec<usize> = (0..).map(of_level).take_while(|tiles| *tiles > 0).collect();
    case.at("count_by_level")?.is_json(&by_level.into())?;
    for (kind, are_entries) in [("tiles", false), ("entry_bundles", true)] {
        for file in case.at(kind)?.list()? {
            let tile: Tile = file.at("path")?.text()?.parse()?;
            ensure!(are_entries == (tile.content() == Content::Entries), "{}: another kind", file.path());
            ensure!(
                Tile::at(tile.content(), tile.number(), size) == Some(tile),
                "{}: no such tile",
                file.path()
            );
            let content = tree.tile(&tile)?;
            file.at("bytes")?.is_number(content.len())?;
            file.at("sha256")?.is_bytes(Sha256::digest(&content))?;
        }
    }
    Ok(())
}

fn tile_path(case: &Json) -> Check {
    let path = case.at("path")?;
    let tile = path.text()?.parse::<Tile>();
    is_decided(case, tile.is_ok(), false)?;
    if let Ok(tile) = tile {
        let content = match case.maybe("level") {
            Some(level) => Content::Hashes(level.number()?.try_into()?),
            None => Content::Entries,
        };
        if let Some(entries) = case.maybe("entries") {
            entries.is_bool(content == Content::Entries)?;
        }
        let width = Width::new(case.at("width")?.number()?);
        let made = width.and_then(|width| Tile::new(content, case.at("index").ok()?.number().ok()?, width));
        ensure!(made == Some(tile), "{}: ours is {made:?}", case.path());
        path.is_text(&tile.to_string())?;
    }
    Ok(())
}

fn entry_bundle(case: &Json) -> Check {
    let hashes = case.at("leaf_hashes")?.list()?.iter();
    let hashes =
        hashes.map(|hash| Ok(Hash::try_from(hash.bytes()?.as_slice())?)).collect::<Check<Vec<_>>>()?;
    case.at("width")?.is_number(hashes.len())?;
    let bundle = match case.maybe("bundle") {
        Some(bundle) => bundle.bytes()?,
        None => {
            case.at("bundle_rule")?.is_text("ffff followed by 65535 bytes 61")?;
            let mut bundle = Vec::new();
            bundle::append(&mut bundle, &[0x61; bundle::MAX_ENTRY])?;
            case.at("sha256")?.is_bytes(Sha256::digest(&bundle))?;
            bundle
        }
    };
    is_decided(case, bundle::verified_entries(&bundle, &hashes).is_ok(), false)
}

fn key_pair(case: &Json) -> Check {
    case.at("role")?.informative();
    let (name, seed) = (case.at("name")?.text()?.parse()?, case.at("seed")?.array()?);
    let ours = match case.at("type")?.number()? {
        1 => SigningKey::from_seed(name, &seed)?.verifying_key().clone(),
        4 => CosigningKey::from_seed(name, &seed)?.verifying_key().clone(),
        other => return Err(Failure(format!("unknown type {other}"))),
    };
    ensure!(ours == key(case.at("vkey")?)?, "{}: ours is {ours}", case.path());
    case.at("vkey")?.is_text(&ours.to_string())?;
    case.at("key_id")?.is_text(&ours.id().to_string())?;
    case.at("public")?.is_bytes(ours.key().as_bytes())
}

fn checkpoint(case: &Json) -> Check {
    let keys = case.at("keys")?.list()?.iter().map(key).collect::<Check<Vec<_>>>()?;
    let log = Log::new(case.at("origin")?.text()?.parse()?, keys);
    let note = match case.maybe("note_hex") {
        Some(note) => note.bytes()?,
        None => case.at("note")?.text()?.as_bytes().to_vec(),
    };
    let opened = log.open(&note, &[]);
    // A second valid line of the same key is counted once.
    is_decided(case, opened.is_ok(), case.at("name")?.text()? == "log_line_twice")?;
    let (size, root, extension) = (case.maybe("size"), case.maybe("root"), case.maybe("extension"));
    match (opened, size, root, extension) {
        (Ok(signed), Some(size), Some(root), Some(extension)) => {
            let tree = signed.checkpoint();
            size.is_text(&tree.size.to_string())?;
            root.is_bytes(tree.root.as_bytes())?;
            let lines: String = tree.extension().iter().map(|line| format!("{line}\n")).collect();
            extension.is_text(&lines)?;
            ensure!(tree.to_string() == Note::parse(&note)?.text(), "{}: another text", case.path());
            Ok(())
        }
        // Some cases state the content of what is refused.
        (Err(_), ..) => {
            size.into_iter().chain(root).chain(extension).for_each(Json::informative);
            Ok(())
        }
        (Ok(_), ..) => Ok(()),
    }
}

fn cosignature(case: &Json) -> Check {
    let log = Log::of_key(key(case.at("log")?)?)?;
    let witnesses = [key(case.at("witness")?)?];
    let (note, time) = (case.at("note")?.text()?, case.maybe("timestamp"));
    let opened = log.open(note.as_bytes(), &witnesses);
    let cosignature = opened.ok().and_then(|signed| signed.cosignatures().first().cloned());
    // 2^63 - 1 is a valid time, 0 is not.
    let is_zero = time.map(Json::text).transpose()? == Some("0");
    is_decided(case, cosignature.is_some(), !is_zero)?;
    let Some(cosignature) = cosignature else { return Ok(()) };
    case.at("timestamp")?.is_text(&cosignature.time.to_string())?;
    match case.maybe("signed_message") {
        Some(message) => {
            message.is_text(&cosigned_text(cosignature.time, Note::parse(note.as_bytes())?.text()))
        }
        None => Ok(()),
    }
}

/// The first case has the key and the tree of all others.
fn cosignature_of_ml_dsa_44(case: &Json, file: &Json) -> Check {
    let valid = file.at("cosignatures_mldsa44")?.list()?.first();
    let valid = valid.ok_or_else(|| Failure("there is no case".to_owned()))?;
    let witness = [key(valid.at("vkey")?)?];
    valid.at("cosigner")?.is_text(witness[0].name().as_str())?;
    let pair = PqdsaKeyPair::from_seed(&ML_DSA_44_SIGNING, &valid.at("seed")?.bytes()?)?;
    ensure!(pair.public_key().as_ref() == witness[0].key().as_bytes(), "the seed makes another key");
    let origin = valid.at("origin")?.text()?.parse()?;
    let checkpoint = Checkpoint::new(origin, size(valid, "size")?, hash(valid, "root")?);
    let line = case.at("line")?.text()?.trim_end_matches('\n');
    let note = Note::parse(format!("{checkpoint}\n{line}\n").as_bytes())?;
    let verified = note.verify(&witness);
    is_decided(case, verified.as_ref().is_ok_and(|verified| verified.len() == 1), false)?;
    let Some(message) = case.maybe("signed_message") else { return Ok(()) };
    let Signed::Cosigned(time) = verified?[0].signed else {
        return Err(Failure("the cosignature has no time".to_owned()));
    };
    case.at("timestamp")?.is_text(&time.to_string())?;
    message.is_bytes(cosigned_tree(witness[0].name(), time, &checkpoint).unwrap_or_default())
}

fn proof_file(case: &Json) -> Check {
    let log = Log::of_key(key(case.at("log")?)?)?;
    let (entry, text) = (case.at("leaf")?.bytes()?, case.at("text")?);
    case.at("leaf_hash")?.is_bytes(Hash::leaf(&entry).as_bytes())?;
    let proof = ProofFile::parse(text.text()?.as_bytes());
    let verified = proof.as_ref().is_ok_and(|proof| proof.verify(&entry, &log, &[]).is_ok());
    is_decided(case, verified, false)?;
    match proof {
        Ok(proof) if verified => text.is_text(&proof.to_string()),
        _ => Ok(()),
    }
}

/// The newest tree that the witness has cosigned before a step, or before the end.
fn seen_before(witness: &Json, step: Option<&Json>) -> Check<(Size, Hash)> {
    let mut last = (Size::ZERO, Hash::EMPTY_ROOT);
    for earlier in witness.at("steps")?.list()? {
        if step.is_some_and(|step| step.path() == earlier.path()) {
            break;
        }
        if earlier.at("status")?.number()? == 200 {
            let request = Request::parse(earlier.at("request")?.text()?.as_bytes())?;
            last = (request.checkpoint().size, request.checkpoint().root);
        }
    }
    Ok(last)
}

/// A step of the one conversation with a witness.
fn step(case: &Json, file: &Json, _: &mut Notes) -> Check {
    for remark in ["why", "body_is", "status_v1_0_0", "status_also"] {
        if let Some(remark) = case.maybe(remark) {
            remark.informative();
        }
    }
    let conversation = file.at("witness")?;
    let log = Log::of_key(key(conversation.at("log")?)?)?;
    let witness_key = conversation.at("witness_key")?;
    let mut pairs = file.at("keys")?.list()?.iter();
    let pair =
        pairs.find(|pair| pair.at("vkey").is_ok_and(|vkey| vkey.text().ok() == witness_key.text().ok()));
    let pair = pair.ok_or_else(|| Failure("the key of the witness is not in the file".to_owned()))?;
    let keys = [key(witness_key)?];
    let witness = CosigningKey::from_seed(keys[0].name().clone(), &pair.at("seed")?.array()?)?;

    let last = seen_before(conversation, Some(case))?;
    let text = case.at("request")?;
    let request = Request::parse(text.text()?.as_bytes());
    let judged = request.as_ref().ok().map(|request| request.judge(&log, (last.0, &last.1)));
    let status = match &judged {
        None => 400,
        Some(Ok(())) => 200,
        Some(Err(rejection)) => rejection.status(),
    };
    case.at("status")?.is_number(status)?;
    let Ok(request) = request else { return Ok(()) };
    text.is_text(&request.to_string())?;
    let read = |content_type, body: &str| {
        request.read_answer(&Answer { status, content_type, body: body.as_bytes() }, &keys)
    };
    let is_refused = |content_type, body: &str, error: AnswerError| {
        let ours = read(content_type, body);
        ensure!(ours.as_ref() == Err(&error), "{}: {body:?}: {ours:?}", case.path());
        Ok(())
    };
    match judged {
        Some(Ok(())) => {
            let time = 1_700_000_000.try_into()?;
            let cosignatures = read(None, &witness.cosign(request.text(), time))?;
            ensure!(cosignatures[0].time == time, "{}: cosigned at {:?}", case.path(), cosignatures[0].time);
            is_refused(None, "\u{2014} other.example AAAAAAA=\n", AnswerError::NotCosigned)?;
            let another = read(None, &witness.cosign("another\n", time));
            ensure!(matches!(another, Err(AnswerError::Signature(_))), "{}: {another:?}", case.path());
            Ok(())
        }
        Some(Err(Rejection::Conflict { known })) => {
            let body = case.at("body")?;
            body.is_text(&format!("{known}\n"))?;
            case.at("content_type")?.is_text(SIZE_TYPE)?;
            is_refused(Some(SIZE_TYPE), body.text()?, AnswerError::Conflict { known })?;
            let above = Size::try_from(request.checkpoint().size.get() + 1)?;
            is_refused(Some(SIZE_TYPE), &format!("{above}\n"), AnswerError::Ahead { known: above })?;
            is_refused(
                Some("Text/x.tlog.size; charset=utf-8"),
                body.text()?,
                AnswerError::Conflict { known },
            )?;
            is_refused(None, body.text()?, AnswerError::Inconsistent)?;
            for body in ["", "5", "05\n", "-1\n", &format!("{}\n", request.old())] {
                is_refused(Some(SIZE_TYPE), body, AnswerError::Size)?;
            }
            Ok(())
        }
        Some(Err(Rejection::Proof(_))) => is_refused(None, "", AnswerError::Inconsistent),
        Some(Err(_)) | None => is_refused(None, "", AnswerError::Status(status)),
    }
}
