//! `.env` files: `NAME=value` lines with the meaning that `vmm-cli.py` gives them, and likely mistakes.

use std::fmt;

use zeroize::{Zeroize as _, Zeroizing};

use super::python;

/// The largest file that is read.
pub const MAX_BYTES: usize = 1 << 20;
/// The most variables.
pub const MAX_VARIABLES: usize = 4096;

/// Names and values, in the order of each name's first line. Values are wiped when dropped.
#[derive(Default)]
pub struct Environment {
    variables: Vec<Variable>,
}

struct Variable {
    name: String,
    value: String,
}

impl Drop for Variable {
    fn drop(&mut self) {
        self.value.zeroize();
    }
}

/// The content of a file, and likely mistakes.
pub struct Reading {
    /// The variables.
    pub environment: Environment,
    /// Lines that may mean something else than intended.
    pub doubts: Vec<Doubt>,
}

/// A line that is accepted, as `vmm-cli.py` does, but may not mean what its author intended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// The line number, from 1.
    pub line: usize,
    /// What it means.
    pub meaning: Meaning,
}

/// The meaning of such a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The quotes around the value are part of it.
    QuotesStay,
    /// The name occurred before: the later value is used.
    Replaces {
        /// The first line with the name.
        earlier: usize,
    },
    /// The `#` after the value is part of it.
    CommentStays,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        match self.meaning {
            Meaning::QuotesStay => f.write_str("the quotes are part of the value"),
            Meaning::Replaces { earlier } => write!(f, "this value replaces that of line {earlier}"),
            Meaning::CommentStays => f.write_str("the # and what follows are part of the value"),
        }
    }
}

/// Why text is not an environment. Contains no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DotenvError {
    /// Longer than [`MAX_BYTES`].
    #[error("longer than {MAX_BYTES} bytes")]
    TooLong,
    /// More than [`MAX_VARIABLES`].
    #[error("line {line}: more than {MAX_VARIABLES} variables")]
    TooMany {
        /// The line number, from 1.
        line: usize,
    },
    /// An invalid line.
    #[error("line {line}: {problem}")]
    Line {
        /// The line number, from 1.
        line: usize,
        /// What is wrong.
        problem: Problem,
    },
}

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No `=`. `vmm-cli.py` silently skips such lines.
    #[error("not NAME=value: there is no =")]
    NoAssignment,
    /// Nothing before `=`.
    #[error("no name before =")]
    NoName,
    /// An `export`, as in a shell script.
    #[error("remove `export`: the line is not run by a shell")]
    Export,
    /// A name that an environment cannot have.
    #[error("a name has no white space and no control characters")]
    Name,
    /// A zero byte in a value.
    #[error("a value has no zero byte")]
    ZeroByte,
    /// The file starts with a byte order mark.
    #[error("the file starts with a byte order mark; save it as UTF-8 without one")]
    ByteOrderMark,
}

impl Environment {
    /// Parses a `.env` file.
    ///
    /// Like `vmm-cli.py`: white space around names and values is removed; empty lines and lines that start
    /// with `#` are skipped; quotes and a later `#` are part of the value; the last value of a name is used,
    /// in the place of the first. What `vmm-cli.py` silently skips or corrupts is an error here.
    pub fn parse(text: &str) -> Result<Reading, DotenvError> {
        if text.len() > MAX_BYTES {
            return Err(DotenvError::TooLong);
        }
        let mut environment = Self::default();
        let mut lines_of_names: Vec<usize> = Vec::new();
        let mut doubts = Vec::new();
        if text.starts_with('\u{feff}') {
            return Err(DotenvError::Line { line: 1, problem: Problem::ByteOrderMark });
        }
        for (line, content) in (1..).zip(python::lines(text)) {
            let content = python::strip(content);
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let wrong = |problem| DotenvError::Line { line, problem };
            let (name, value) = content.split_once('=').ok_or(wrong(Problem::NoAssignment))?;
            let (name, value) = (python::strip(name), python::strip(value));
            check_name(name).map_err(wrong)?;
            if value.contains('\0') {
                return Err(wrong(Problem::ZeroByte));
            }
            doubts.extend(doubt(value).map(|meaning| Doubt { line, meaning }));
            match environment.variables.iter().position(|variable| variable.name == name) {
                Some(index) => {
                    doubts
                        .push(Doubt { line, meaning: Meaning::Replaces { earlier: lines_of_names[index] } });
                    let old = &mut environment.variables[index].value;
                    old.zeroize();
                    *old = value.to_owned();
                }
                None if environment.variables.len() == MAX_VARIABLES => {
                    return Err(DotenvError::TooMany { line });
                }
                None => {
                    let variable = Variable { name: name.to_owned(), value: value.to_owned() };
                    environment.variables.push(variable);
                    lines_of_names.push(line);
                }
            }
        }
        Ok(Reading { environment, doubts })
    }

    /// Parses the plaintext of an encrypted environment.
    pub fn from_json(plaintext: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(serde::Deserialize)]
        struct Plaintext {
            env: Vec<Pair>,
        }
        #[derive(serde::Deserialize)]
        struct Pair {
            key: String,
            value: String,
        }
        let Plaintext { env } = kms_attest::json::from_utf8(plaintext)?;
        let variables = env.into_iter().map(|Pair { key, value }| Variable { name: key, value }).collect();
        Ok(Self { variables })
    }

    /// `{"env": [{"key": "NAME", "value": "text"}, …]}`, byte for byte as Python's `json.dumps` writes it.
    pub fn to_json(&self) -> Zeroizing<String> {
        // A character takes at most twelve bytes; growing would leave copies in memory.
        let room =
            self.variables.iter().map(|variable| 12 * (variable.name.len() + variable.value.len()) + 32);
        let mut json = Zeroizing::new(String::with_capacity(32 + room.sum::<usize>()));
        json.push_str("{\"env\": [");
        for (index, Variable { name, value }) in self.variables.iter().enumerate() {
            json.push_str(if index == 0 { "{\"key\": " } else { ", {\"key\": " });
            python::push_json_text(&mut json, name);
            json.push_str(", \"value\": ");
            python::push_json_text(&mut json, value);
            json.push('}');
        }
        json.push_str("]}");
        json
    }

    /// As a `.env` file, or the name of the first variable that such a file cannot express.
    pub fn to_dotenv(&self) -> Result<Zeroizing<String>, &str> {
        let room = self.variables.iter().map(|variable| variable.name.len() + variable.value.len() + 2);
        let mut text = Zeroizing::new(String::with_capacity(room.sum::<usize>()));
        for Variable { name, value } in &self.variables {
            let fits = check_name(name).is_ok()
                && !name.starts_with('#')
                && !name.contains('=')
                && !value.contains(['\n', '\r', '\0'])
                && python::strip(value) == value;
            if !fits {
                return Err(name);
            }
            text.push_str(name);
            text.push('=');
            text.push_str(value);
            text.push('\n');
        }
        Ok(text)
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().map(|variable| variable.name.as_str())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

fn check_name(name: &str) -> Result<(), Problem> {
    if name.is_empty() {
        return Err(Problem::NoName);
    }
    if name.strip_prefix("export").is_some_and(|rest| rest.starts_with(char::is_whitespace)) {
        return Err(Problem::Export);
    }
    if name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Problem::Name);
    }
    Ok(())
}

fn doubt(value: &str) -> Option<Meaning> {
    let quoted = |quote| value.len() >= 2 && value.starts_with(quote) && value.ends_with(quote);
    if quoted('"') || quoted('\'') {
        return Some(Meaning::QuotesStay);
    }
    value.contains(" #").then_some(Meaning::CommentStays)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> String {
        Environment::parse(text).map(|reading| reading.environment.to_json().to_string()).expect(text)
    }

    #[test]
    fn lines_mean_what_they_mean_to_vmm_cli() {
        for (text, expected) in [
            ("", r#"{"env": []}"#),
            ("A=1", r#"{"env": [{"key": "A", "value": "1"}]}"#),
            (
                " A = b c \r\n\n# no\n  # no\nB==\n",
                r#"{"env": [{"key": "A", "value": "b c"}, {"key": "B", "value": "="}]}"#,
            ),
            ("A='x'\nB=\"\"", r#"{"env": [{"key": "A", "value": "'x'"}, {"key": "B", "value": "\"\""}]}"#),
            ("A=1\nB=2\nA=3", r#"{"env": [{"key": "A", "value": "3"}, {"key": "B", "value": "2"}]}"#),
            ("A=x # y", r#"{"env": [{"key": "A", "value": "x # y"}]}"#),
            ("Ä=é", r#"{"env": [{"key": "\u00c4", "value": "\u00e9"}]}"#),
            ("A=", r#"{"env": [{"key": "A", "value": ""}]}"#),
        ] {
            assert_eq!(json(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_wrong_line_is_named_and_its_value_is_not() {
        for (text, expected) in [
            ("A=1\nsecret", "line 2: not NAME=value: there is no ="),
            ("\n\n=secret", "line 3: no name before ="),
            ("export A=secret", "line 1: remove `export`: the line is not run by a shell"),
            ("A B=secret", "line 1: a name has no white space and no control characters"),
            ("A\u{1b}=secret", "line 1: a name has no white space and no control characters"),
            ("A=sec\0ret", "line 1: a value has no zero byte"),
            ("\u{feff}A=1", "line 1: the file starts with a byte order mark; save it as UTF-8 without one"),
        ] {
            let error = Environment::parse(text).err().expect(text);
            assert_eq!(error.to_string(), expected, "{text:?}");
            assert!(!error.to_string().contains("secret"));
        }
        assert_eq!(Environment::parse(&"#".repeat(MAX_BYTES + 1)).err(), Some(DotenvError::TooLong));
        let many: String = (0..=MAX_VARIABLES).map(|n| format!("V{n}=\n")).collect();
        let error = Environment::parse(&many).err();
        assert_eq!(error, Some(DotenvError::TooMany { line: MAX_VARIABLES + 1 }));
    }

    #[test]
    fn doubtful_lines_are_accepted_and_named() {
        let reading = Environment::parse("A=\"x\"\nB='y'\nA=z # w\n").expect("environment");
        let doubts: Vec<String> = reading.doubts.iter().map(ToString::to_string).collect();
        assert_eq!(
            doubts,
            [
                "line 1: the quotes are part of the value",
                "line 2: the quotes are part of the value",
                "line 3: the # and what follows are part of the value",
                "line 3: this value replaces that of line 1",
            ]
        );
    }

    #[test]
    fn a_plaintext_becomes_the_file_again_unless_the_file_cannot_hold_it() {
        let text = "A=1\nB=x y\nC='z'\n";
        let environment = Environment::parse(text).expect("environment").environment;
        let again = Environment::from_json(environment.to_json().as_bytes()).expect("plaintext");
        assert_eq!(again.to_dotenv().expect("file").as_str(), text);
        for value in ["two\nlines", " x", "x\t"] {
            let plaintext = serde_json::json!({"env": [{"key": "K", "value": value}]}).to_string();
            let environment = Environment::from_json(plaintext.as_bytes()).expect("plaintext");
            assert_eq!(environment.to_dotenv().expect_err(value), "K");
        }
        assert!(Environment::from_json(b"{\"env\": [{\"key\": 1}]}").is_err());
    }

    #[test]
    fn printing_shows_names_only() {
        let environment = Environment::parse("A=secret").expect("environment").environment;
        assert_eq!(format!("{environment:?}"), r#"["A"]"#);
    }
}
