//! Imports follow the tables of ARCHITECTURE.md, no modules of `attest` and `policy` need each other, and the `kms`
//! binary does not link the simulator.

#[path = "architecture/graph.rs"]
mod graph;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use graph::Graph;

/// The modules of `src/`, top to bottom. A module may import those of lower rows only, and none of its own
/// row. `ARCHITECTURE.md` shows the same table.
const ROWS: [&[&str]; 14] = [
    &["main"],
    &["cli"],
    &["app"],
    &["net"],
    &["api"],
    &["lifecycle"],
    &["admission"],
    &["control", "events", "notify", "traces"],
    &["audit", "ca", "state", "store"],
    &["keys"],
    &["config"],
    &["os_image", "operator"],
    &["address", "clock", "domain", "error", "event_type", "log", "log_limit", "metrics", "proto"],
    &["request"],
];

/// The modules of `crates/attest/src/`, with the same rule.
const ATTEST_ROWS: [&[&str]; 8] = [
    &["attester", "csr", "ra_tls", "verify"],
    &["evidence"],
    &["platform"],
    &["tcb"],
    &["collateral"],
    &["certificate", "identity", "outgoing", "trust", "vm_config"],
    &["codec", "measurement", "p256", "state_file", "tls"],
    &["binding", "clock", "clock_floor", "json", "pem", "single_flight", "small_file"],
];

/// The modules of `crates/policy/src/`, with the same rule.
const POLICY_ROWS: [&[&str]; 7] = [
    &["policy"],
    &["allow_all", "allowlist", "bundle", "ethereum", "review", "ruleset", "webhook"],
    &["rules"],
    &["examination"],
    &["contract", "file", "queue", "remedy", "rule", "signed"],
    &["decision", "drop_in_background", "error", "info", "kms_image", "observer", "relaxation", "settings"],
    &["epochs", "hex_text"],
];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("source directory") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn row(rows: &[&[&str]], module: &str) -> Option<usize> {
    rows.iter().position(|row| row.contains(&module))
}

/// The crate's own modules named after `crate::`, also inside braces.
fn imports(text: &str) -> BTreeSet<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        // `$crate::` and `other_crate::` are not ours.
        if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => {
                let mut depth = 0;
                let mut start = true;
                for (index, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && depth == 0 && !c.is_whitespace() => {
                            found.insert(word(&list[index..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
            None => {
                found.insert(word(rest));
            }
        }
    }
    found
}

/// The modules below `root`, without those of tests, with what each names.
fn graph_of(root: &Path) -> Graph {
    let mut files = Vec::new();
    sources(root, &mut files);
    let mut texts = BTreeMap::new();
    for file in files.iter().filter(|file| !is_test_file(file) && !file.ends_with("main.rs")) {
        let text = fs::read_to_string(file).expect("source");
        let code = text.split("#[cfg(test)]\nmod tests {").next().expect("a first part").to_owned();
        let module = file.strip_prefix(root).expect("below src").with_extension("");
        let names = module.iter().map(|name| name.to_str().expect("text").to_owned());
        texts.insert(names.filter(|name| name != "lib").collect(), code);
    }
    Graph::read(&texts)
}

/// Files of tests, which may import anything.
fn is_test_file(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).expect("text");
    let names = ["tests.rs", "testing.rs", "test_vectors.rs", "properties.rs", "chains.rs"];
    names.contains(&name)
        || name.ends_with("_tests.rs")
        || path.parent().is_some_and(|parent| parent.ends_with("tests"))
}

fn assert_imports_point_down(root: &Path, rows: &[&[&str]]) {
    let mut files = Vec::new();
    sources(root, &mut files);
    let mut upward = Vec::new();
    for file in files {
        let relative = file.strip_prefix(root).expect("below src");
        let module = relative.iter().next().and_then(|first| first.to_str()).expect("text");
        let module = module.trim_end_matches(".rs");
        if module == "lib" || is_test_file(&file) {
            continue;
        }
        let own = row(rows, module).unwrap_or_else(|| panic!("{module} is in no row of the table"));
        let text = fs::read_to_string(&file).expect("source");
        let text = text.split("#[cfg(test)]\nmod tests {").next().expect("a first part");
        // In a file of the crate's root, `super::` is `crate::`; one level below, `super::super::` is.
        let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let text = code.join("\n").replace(&"super::".repeat(relative.iter().count()), "crate::");
        for import in imports(&text).iter().filter(|import| *import != module) {
            // Types and macros at the crate's root would be capitalized; there are none.
            let target =
                row(rows, import).unwrap_or_else(|| panic!("{}: crate::{import}", relative.display()));
            if target <= own {
                upward.push(format!("{} imports {import}", relative.display()));
            }
        }
    }
    assert!(upward.is_empty(), "imports that do not point down:\n{}", upward.join("\n"));
}

#[test]
fn imports_point_down() {
    assert_imports_point_down(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &ROWS);
}

#[test]
fn imports_of_attest_point_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/attest/src");
    assert_imports_point_down(&root, &ATTEST_ROWS);
}

#[test]
fn imports_of_policy_point_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/policy/src");
    assert_imports_point_down(&root, &POLICY_ROWS);
}

/// A module that needs another one, which needs the first, can only be read, moved or tested together with it.
#[test]
fn no_modules_of_attest_and_policy_need_each_other() {
    for source in ["crates/attest/src", "crates/policy/src"] {
        let graph = graph_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join(source));
        let circles = graph.circles();
        assert!(circles.is_empty(), "modules of {source} that need each other: {circles:#?}");
        let pairs = graph.pairs();
        assert!(pairs.is_empty(), "folders of {source} that need each other: {pairs:#?}");
    }
}

#[test]
fn no_two_modules_of_net_and_api_need_each_other() {
    let mut pairs = graph_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).pairs();
    pairs.retain(|(one, _)| ["net::", "api::"].iter().any(|folder| one.starts_with(folder)));
    assert!(pairs.is_empty(), "{pairs:#?}");
}

#[test]
fn the_graph_sees_modules_that_need_each_other() {
    let of = |sources: &[(&str, &str)]| {
        let module =
            |name: &str| name.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Graph::read(&sources.iter().map(|(name, text)| (module(name), (*text).to_owned())).collect())
    };
    let circle = |modules: &[&str]| BTreeSet::from([modules.iter().map(|name| (*name).to_owned()).collect()]);
    let pair = |one: &str, other: &str| BTreeSet::from([(one.to_owned(), other.to_owned())]);
    let root = ("", "mod a;");

    // Files beside each other: by a `use`, and by a path in the code.
    let beside = of(&[
        root,
        ("a", "mod b;\nmod c;"),
        ("a::b", "use super::c::C;"),
        ("a::c", "fn c() { super::b::b() }"),
    ]);
    assert_eq!(beside.circles(), circle(&["a::b", "a::c"]));
    assert_eq!(beside.pairs(), pair("a::b", "a::c"));

    // A parent that calls its child, which takes what the parent declares: also if the parent re-exports the child's type.
    let above = "mod b;\npub use b::B;\npub struct A;\nimpl A { fn b(&self) -> B { B::new() } }";
    let parent = of(&[root, ("a", above), ("a::b", "use crate::a::A;\npub struct B;")]);
    assert_eq!(parent.circles(), circle(&["a", "a::b"]));
    // What the parent only re-exports is of the module that declares it, whoever names it by the parent.
    let names = "mod b;\nmod c;\npub use b::B;\npub use self::c::{C, d as e};";
    let apart =
        of(&[root, ("a", names), ("a::b", "pub struct B;"), ("a::c", "use super::B;\npub struct C;")]);
    assert_eq!((apart.circles(), apart.pairs()), Default::default());

    // Two folders, through different files of each, and through a third one.
    let folders = of(&[
        root,
        ("a", "mod b;\nmod c;"),
        ("a::b", "mod x;\nmod y;"),
        ("a::b::x", "use crate::a::c::z;"),
        ("a::b::y", ""),
        ("a::c", "mod z;"),
        ("a::c::z", "use super::super::b::y::{self, Y};"),
    ]);
    assert_eq!((folders.circles(), folders.pairs()), (BTreeSet::new(), pair("a::b", "a::c")));
    let round = of(&[
        root,
        ("a", "mod b;\nmod c;\nmod d;"),
        ("a::b", "use super::c;"),
        ("a::c", "use super::{d::D, other as b};"),
        ("a::d", "use crate::{x::Y, a::{b::B}};"),
    ]);
    assert_eq!(round.circles(), circle(&["a::b", "a::c", "a::d"]));

    // Comments, texts and other crates name nothing.
    let text = "//! [`super::c`]\nuse other::a::c; // super::c\nconst C: &str = \"super::c::C\";";
    let none = of(&[root, ("a", "mod b;\nmod c;"), ("a::b", text), ("a::c", "use super::b::B;")]);
    assert_eq!((none.circles(), none.pairs()), Default::default());
}

#[test]
fn the_import_reader_sees_lists_and_ignores_other_crates() {
    let text = "use crate::{a, b::{c, d}, e as f};\nuse $crate::g; crate::h::I; my_crate::j;";
    let expected: BTreeSet<String> = ["a", "b", "e", "h"].map(str::to_owned).into();
    assert_eq!(imports(text), expected);
}

/// `serde_json` does not check UTF-8 in what it skips, so bytes that are not JSON text could pass.
#[test]
fn bodies_are_read_as_utf_8_before_they_are_parsed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for directory in ["src", "crates/attest/src", "crates/policy/src", "crates/client/src", "crates/wire/src"]
    {
        sources(&root.join(directory), &mut files);
    }
    // Tests read what they wrote; the lines of the audit log are protected by their hashes.
    let is_test = |path: &Path| {
        let parts: Vec<_> = path.iter().filter_map(|part| part.to_str()).collect();
        parts.contains(&"tests")
            || path.ends_with("audit/chain.rs")
            || ["tests.rs", "testing.rs", "test_vectors.rs"].iter().any(|name| path.ends_with(name))
    };
    let reads_bytes =
        |path: &PathBuf| fs::read_to_string(path).expect("source").contains("serde_json::from_slice");
    let found: Vec<_> = files.into_iter().filter(|path| !is_test(path)).filter(reads_bytes).collect();
    assert!(found.is_empty(), "kms_attest::json::from_utf8 reads bodies: {found:?}");
}

#[test]
fn every_module_is_in_the_table_once() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tables =
        [("src", &ROWS[..]), ("crates/attest/src", &ATTEST_ROWS), ("crates/policy/src", &POLICY_ROWS)];
    for (root, rows) in tables.map(|(source, rows)| (root.join(source), rows)) {
        let listed: Vec<&str> = rows.iter().flat_map(|row| row.iter().copied()).collect();
        let distinct: BTreeSet<&str> = listed.iter().copied().collect();
        assert_eq!(listed.len(), distinct.len());
        for module in listed {
            let (file, folder) = (root.join(format!("{module}.rs")), root.join(module));
            assert!(
                file.exists() || folder.is_dir(),
                "the table lists {module}, {} does not have it",
                root.display()
            );
        }
    }
}

/// The levels of a table of ARCHITECTURE.md, top to bottom, each with the modules that it names.
fn levels(table: &str) -> Vec<BTreeSet<&str>> {
    let is_between = |c: char| !c.is_alphanumeric() && c != '_';
    table.split('→').map(|level| level.split(is_between).filter(|name| !name.is_empty()).collect()).collect()
}

#[test]
fn architecture_md_shows_these_tables() {
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).expect("page");
    let start = page.find("\nmain →").expect("the table of src/");
    let shown = levels(page[start..].split("\n\n").next().expect("a first paragraph"));
    let expected: Vec<BTreeSet<&str>> = ROWS.iter().map(|row| row.iter().copied().collect()).collect();
    assert_eq!(shown, expected);
    // The tables of the crates name some modules of a row only.
    for (start, rows) in [("\ninside attest:", &ATTEST_ROWS[..]), ("\ninside policy:", &POLICY_ROWS[..])] {
        let (_, table) = page.split_once(start).expect("the table of a crate");
        let mut before = None;
        for level in levels(table.lines().next().expect("a line")) {
            let found: BTreeSet<Option<usize>> = level.iter().map(|module| row(rows, module)).collect();
            assert_eq!(found.len(), 1, "not one row: {level:?}");
            let at = found.first().copied().flatten();
            assert!(at.is_some() && at > before, "not below the level before: {level:?}");
            before = at;
        }
    }
}

/// The crates of this repository that a manifest names under `[dependencies]`.
fn dependencies(manifest: &str) -> BTreeSet<&str> {
    let (_, section) = manifest.split_once("\n[dependencies]\n").expect("dependencies");
    let section = section.split("\n[").next().expect("a first part");
    let names = section.lines().filter_map(|line| line.split(['.', ' ', '=']).next());
    names
        .filter_map(|name| (name == "cvm-kms").then_some(name).or_else(|| name.strip_prefix("kms-")))
        .collect()
}

#[test]
fn architecture_md_shows_what_crates_depend_on() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("page");
    let (_, table) = page.split_once("\ncrates:\n").expect("the table of crates");
    let mut shown = BTreeMap::new();
    for line in table.split("\n\n").next().expect("a first paragraph").lines() {
        let (name, others) = line.split_once(" → ").expect("an arrow");
        let others = others.trim_matches(['{', ' ', '}']).split(", ");
        shown.insert(name.to_owned(), others.map(str::to_owned).collect::<BTreeSet<_>>());
    }
    let crates = fs::read_dir(root.join("crates")).expect("crates");
    let folders = crates.map(|entry| entry.expect("an entry").path());
    let mut declared = BTreeMap::new();
    for folder in folders.chain([root.to_owned()]) {
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).expect("a manifest");
        let name = if folder == root {
            "cvm-kms"
        } else {
            folder.file_name().and_then(|it| it.to_str()).expect("text")
        };
        let others = dependencies(&manifest);
        if !others.is_empty() {
            declared.insert(name.to_owned(), others.into_iter().map(str::to_owned).collect());
        }
    }
    assert_eq!(shown, declared);
}

#[test]
fn the_server_does_not_link_the_simulator() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "-p", "cvm-kms", "-e", "normal", "--prefix", "none"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo tree runs");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8_lossy(&tree.stdout);
    assert!(tree.contains("kms-attest"), "the tree is that of the server");
    for forbidden in ["kms-simulator", "kms-sandbox"] {
        assert!(!tree.contains(forbidden), "{forbidden} is linked into the server");
    }
}

/// Paths in code spans of ARCHITECTURE.md that name a file or a folder.
fn named_paths(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    let spans = prose.flat_map(|prose| prose.split('`').skip(1).step_by(2));
    let is_path = |span: &&str| {
        span.contains('/')
            && !span.contains(['<', '(', ' '])
            && [".rs", ".proto", ".toml", ".md", "/"].iter().any(|end| span.ends_with(end))
    };
    spans.filter(is_path).collect()
}

#[test]
fn the_architecture_page_names_paths_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("the page");
    let named = named_paths(&text);
    assert!(named.len() > 20, "the page says which files to touch: {named:?}");
    // The page names the server's modules by their path below `src/`.
    let missing: Vec<_> = named
        .into_iter()
        .filter(|path| !root.join(path).exists() && !root.join("src").join(path).exists())
        .collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names paths that do not exist: {missing:?}");
}

/// The names of tests in a page: code spans of small letters, digits and underscores.
fn named_tests(text: &str) -> Vec<&str> {
    let is_name = |span: &&str| {
        span.len() > 20
            && span.contains('_')
            && span.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
    };
    text.split('`').skip(1).step_by(2).filter(is_name).collect()
}

#[test]
fn each_claim_of_the_threat_model_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/security/threat-model.md")).expect("the threat model");
    let mut files = Vec::new();
    for directory in ["src", "tests", "crates"] {
        sources(&root.join(directory), &mut files);
    }
    let mut tests = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("source file");
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test) {
                let name = rest.split(['(', '<']).next().expect("a first part");
                tests.insert(name.to_owned());
            }
            is_test = line.contains("test]") || line.contains("test(") || (is_test && line.starts_with("#["));
        }
    }
    let named = named_tests(&page);
    let unknown: Vec<_> = named.iter().filter(|name| !tests.contains(**name)).collect();
    assert!(unknown.is_empty(), "no such tests: {unknown:?}");
    for line in page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Claim ")) {
        assert!(!named_tests(line).is_empty(), "no test proves: {line}");
    }
    assert!(named.len() > 40, "{}", named.len());
}

/// Default arms (`_ =>`) beside arms that name variants of an enum with a name of ours, each with the reason.
const DEFAULT_ARMS: [(&str, usize); 9] = [
    // What is added later is for whoever sees the whole KMS.
    ("src/event_type.rs", 1),
    // The body of an answer.
    ("src/net/prpc.rs", 1),
    // Several values at once, most of them of no enum of ours.
    ("src/config/ethereum.rs", 1),
    ("src/api/admin/explain.rs", 1),
    ("src/api/rollout/operation.rs", 1),
    // Enums of libraries that have the name of one of ours.
    ("src/net/status.rs", 1),
    ("src/state/shared/error.rs", 2),
    ("crates/client/src/source/error.rs", 1),
    ("crates/recovery/src/envelope.rs", 1),
];

/// The names of the enums that a file declares.
fn enums(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let (visibility, name) = line.trim_start().split_once("enum ")?;
        let is_declaration = visibility.is_empty() || visibility.starts_with("pub");
        name.split(|c: char| !c.is_alphanumeric()).next().filter(|name| is_declaration && !name.is_empty())
    })
}

/// The enums whose variants a pattern names, by the last part of their paths.
fn named_enums(pattern: &str) -> impl Iterator<Item = &str> {
    let words = pattern.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
    words.filter_map(|word| {
        let (path, variant) = word.rsplit_once("::")?;
        // A constant has no small letters.
        variant.contains(|c: char| c.is_lowercase()).then(|| path.rsplit("::").next().unwrap_or(path))
    })
}

/// How many default arms have an arm beside them that names a variant of one of these enums, or of `Self`. Arms of a match
/// begin in the same column, because the sources are formatted.
fn default_arms(text: &str, ours: &BTreeSet<&str>) -> usize {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let lines: Vec<&str> = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text).lines().collect();
    let of_ours = |(at, line): (usize, &&str)| {
        let column = indent(line);
        let is_of_ours = |name: &str| name == "Self" || ours.contains(name);
        line.trim_start().starts_with("_ =>")
            && lines[..at]
                .iter()
                .rev()
                .take_while(|other| other.trim().is_empty() || indent(other) >= column)
                .filter(|other| indent(other) == column || other.trim_start().starts_with('|'))
                .filter_map(|other| other.split("=>").next()?.split(" if ").next())
                .any(|pattern| named_enums(pattern).any(is_of_ours))
    };
    lines.iter().enumerate().filter(|line| of_ours(*line)).count()
}

#[test]
fn an_enum_of_ours_is_matched_without_a_default_arm() {
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    for entry in fs::read_dir("crates").expect("the crates") {
        sources(&entry.expect("a crate").path().join("src"), &mut files);
    }
    let texts: Vec<_> = files
        .iter()
        .filter(|path| !is_test_file(path))
        .map(|path| (path.to_str().expect("UTF-8"), fs::read_to_string(path).expect("a source")))
        .collect();
    let ours: BTreeSet<&str> = texts.iter().flat_map(|(_, text)| enums(text)).collect();
    let found: BTreeMap<&str, usize> = texts
        .iter()
        .map(|(path, text)| (*path, default_arms(text, &ours)))
        .filter(|(_, count)| *count > 0)
        .collect();
    assert_eq!(
        found,
        BTreeMap::from(DEFAULT_ARMS),
        "spell the variants out, so that the compiler asks about one that is added"
    );
}

#[test]
fn the_reader_of_matches_tells_our_enums_from_texts_and_constants() {
    let ours = BTreeSet::from(["Step"]);
    for (matched, expected) in [
        ("match step {\n    Step::One => 1,\n    _ => 2,\n}", 1),
        (
            "match step {\n    a::Step::One\n        | a::Step::Two(_) => {\n        1\n    }\n    _ => 2,\n}",
            1,
        ),
        ("match self {\n    Self::One => 1,\n    _ => 2,\n}", 1),
        ("match step {\n    Step::One => 1,\n    Step::Two => 2,\n}", 0),
        ("match kind {\n    Other::One => Step::One,\n    _ => Step::Two,\n}", 0),
        ("match text {\n    \"one\" => Step::One,\n    _ => Step::Two,\n}", 0),
        ("match length {\n    Self::LEN => 1,\n    _ => 2,\n}", 0),
    ] {
        assert_eq!(default_arms(matched, &ours), expected, "{matched}");
    }
    let declared = "pub enum One {}\nenum Two<T> {\n// an enum of ours\npub(super) enum Three {";
    assert_eq!(enums(declared).collect::<Vec<_>>(), ["One", "Two", "Three"]);
}
