//! Which modules of a crate name which others, read from the text of their sources.

use std::collections::{BTreeMap, BTreeSet};

/// A module's path below the crate's root: `["collateral", "cache"]`.
pub(crate) type Name = Vec<String>;

/// The modules of a crate, with the paths that each of them names.
pub(crate) struct Graph {
    modules: BTreeMap<Name, Vec<Named>>,
}

/// A path that a module names.
struct Named {
    /// From the crate's root.
    path: Name,
    /// What a `use` calls it here.
    alias: Option<String>,
    is_reexport: bool,
}

/// The words, `::` and other signs of Rust source, without comments and literals.
fn tokens(text: &str) -> Vec<&str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '/' if rest.starts_with("//") => {
                rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
                continue;
            }
            '"' => {
                let mut escaped = false;
                let is_end = |c: char| {
                    let ends = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    ends
                };
                rest = rest[1..].split_once(is_end).map_or("", |(_, rest)| rest);
                continue;
            }
            'r' if rest.starts_with("r\"") => {
                rest = rest[2..].split_once('"').map_or("", |(_, rest)| rest);
                continue;
            }
            'r' if rest.starts_with("r#\"") => {
                rest = rest[3..].split_once("\"#").map_or("", |(_, rest)| rest);
                continue;
            }
            '\'' if rest.starts_with("'\"'") => {
                rest = &rest[3..];
                continue;
            }
            '\'' if rest.starts_with("'\\") => {
                rest = rest[3..].split_once('\'').map_or("", |(_, rest)| rest);
                continue;
            }
            ':' if rest.starts_with("::") => 2,
            first if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            first => first.len_utf8(),
        };
        if !first.is_whitespace() {
            found.push(&rest[..length]);
        }
        rest = &rest[length..];
    }
    found
}

/// Reads the tree of paths that begins at `at`, such as `a::{b, c as d}`. Returns each with its alias, and where the
/// tree ends.
fn tree(tokens: &[&str], mut at: usize, before: &[&str], found: &mut Vec<(Name, Option<String>)>) -> usize {
    let mut path = before.to_vec();
    loop {
        match tokens.get(at).copied() {
            Some("{") => {
                at += 1;
                while tokens.get(at).is_some_and(|token| *token != "}") {
                    at = match tokens[at] {
                        "," => at + 1,
                        _ => tree(tokens, at, &path, found).max(at + 1),
                    };
                }
                return at + 1;
            }
            Some(word) if word == "*" || word.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                at += 1;
                if word != "self" || path.is_empty() {
                    path.push(word);
                }
                if tokens.get(at) == Some(&"::") {
                    at += 1;
                    continue;
                }
            }
            _ => {}
        }
        let alias = (tokens.get(at) == Some(&"as")).then(|| tokens.get(at + 1)).flatten();
        if alias.is_some() {
            at += 2;
        }
        let name = alias.or(path.last()).map(|name| (*name).to_owned());
        found.push((path.into_iter().map(str::to_owned).collect(), name));
        return at;
    }
}

/// `path`, as `module` writes it, from the crate's root; `None` if it leads to another crate.
fn absolute(module: &[String], path: &[String], children: &BTreeSet<&str>) -> Option<Name> {
    let mut base = module.to_vec();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" => base.clear(),
        "self" => {}
        "super" => {
            base.pop();
        }
        first if children.contains(first) => {
            base.push(first.to_owned());
        }
        _ => return None,
    }
    rest = &rest[1..];
    while rest.first().is_some_and(|first| first == "super") {
        base.pop();
        rest = &rest[1..];
    }
    base.extend_from_slice(rest);
    Some(base)
}

fn named(module: &[String], text: &str, children: &BTreeSet<&str>) -> Vec<Named> {
    let tokens = tokens(text);
    let mut all = Vec::new();
    let mut words = BTreeSet::new();
    let mut at = 0;
    while at < tokens.len() {
        let is_use = tokens[at] == "use";
        let before = at.checked_sub(1).map(|before| tokens[before]);
        let after = tokens.get(at + 1).copied();
        let starts = (["crate", "super", "self"].contains(&tokens[at]) || children.contains(tokens[at]))
            && after == Some("::")
            && !matches!(before, Some("::" | "$" | "."));
        if !is_use && !starts {
            // A type, or a function that is called.
            let is_named = tokens[at].starts_with(char::is_uppercase) || matches!(after, Some("(" | "::"));
            if is_named && !matches!(before, Some("::" | "." | "fn")) {
                words.insert(tokens[at]);
            }
            at += 1;
            continue;
        }
        let mut found = Vec::new();
        // `pub use`, `pub(crate) use`.
        let is_reexport = is_use && matches!(before, Some("pub" | ")"));
        at = tree(&tokens, at + usize::from(is_use), &[], &mut found).max(at + 1);
        for (path, alias) in found {
            if let Some(path) = absolute(module, &path, children) {
                all.push(Named { path, alias: alias.filter(|_| is_use), is_reexport });
            }
        }
    }
    for named in &mut all {
        named.is_reexport &= !named.alias.as_deref().is_some_and(|alias| words.contains(alias));
    }
    all
}

impl Graph {
    /// Reads `sources`, each with its module.
    pub(crate) fn read(sources: &BTreeMap<Name, String>) -> Self {
        let modules = sources.iter().map(|(module, text)| {
            let below =
                sources.keys().filter(|other| other.len() > module.len() && other.starts_with(module));
            let children = below.map(|child| child[module.len()].as_str()).collect();
            (module.clone(), named(module, text, &children))
        });
        Self { modules: modules.collect() }
    }

    /// The module that declares what `path` names, through re-exports.
    fn declaring(&self, path: &[String], depth: usize) -> Name {
        let length = (0..=path.len()).rev().find(|length| self.modules.contains_key(&path[..*length]));
        let module = &path[..length.unwrap_or_default()];
        let Some(item) = path.get(module.len()).filter(|_| depth < 16) else { return module.to_vec() };
        let imported = self.modules.get(module).into_iter().flatten();
        let mut imported = imported.filter(|named| named.alias.as_ref() == Some(item) && named.path != path);
        match imported.next() {
            Some(named) => {
                let rest = &path[module.len() + 1..];
                self.declaring(&[&named.path[..], rest].concat(), depth + 1)
            }
            None => module.to_vec(),
        }
    }

    /// The modules that `module` uses, re-exports aside.
    fn used(&self, module: &[String]) -> BTreeSet<Name> {
        let named = self.modules.get(module).into_iter().flatten().filter(|named| !named.is_reexport);
        named.map(|named| self.declaring(&named.path, 0)).filter(|other| other != module).collect()
    }

    /// Modules of one folder that use each other, each with all that is below it.
    pub(crate) fn pairs(&self) -> BTreeSet<(String, String)> {
        let mut uses = BTreeSet::new();
        for module in self.modules.keys() {
            for other in self.used(module) {
                let common = module.iter().zip(&other).take_while(|(a, b)| a == b).count();
                if common > 0 && common < module.len() && common < other.len() {
                    uses.insert((module[..=common].join("::"), other[..=common].join("::")));
                }
            }
        }
        let back = |(from, to): &&(String, String)| from < to && uses.contains(&(to.clone(), from.clone()));
        uses.iter().filter(back).cloned().collect()
    }

    /// Modules that depend on themselves, through others: each with those that it needs and that need it.
    pub(crate) fn circles(&self) -> BTreeSet<BTreeSet<String>> {
        let reached: BTreeMap<&Name, BTreeSet<Name>> =
            self.modules.keys().map(|module| (module, self.reached(module))).collect();
        let circles = self.modules.keys().map(|module| {
            let of = |other: &&Name| reached.get(other).is_some_and(|back| back.contains(module));
            reached[module].iter().filter(of).map(|name| name.join("::")).collect()
        });
        circles.filter(|circle: &BTreeSet<String>| !circle.is_empty()).collect()
    }

    fn reached(&self, module: &[String]) -> BTreeSet<Name> {
        let mut found = BTreeSet::new();
        let mut left = vec![module.to_vec()];
        while let Some(module) = left.pop() {
            left.extend(self.used(&module).into_iter().filter(|other| found.insert(other.clone())));
        }
        found
    }
}
