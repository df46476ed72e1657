//! JSON in which nothing is ignored: each value must be consumed by a check, and leftovers are a failure.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// The result of a check: a failure says which value, and what is wrong with it.
pub(crate) type Check<T = ()> = Result<T, Failure>;

/// What went wrong, for the reader of the test's output.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

/// A failure from an error of the service that the vectors do not expect.
impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(format!("unexpected error: {error}"))
    }
}

/// Fails with a formatted message unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::vector_cases::json::Failure(format!($($message)+)));
        }
    };
}
pub(crate) use ensure;

/// A value of a file, with its place in the file.
pub(crate) struct Json {
    path: String,
    value: Value,
    /// Whether a check has read it. Values below it are marked separately.
    taken: AtomicBool,
    /// Whether it is a case of its own, which must consume everything in it.
    is_case: AtomicBool,
}

enum Value {
    Null,
    Bool(bool),
    Number(u64),
    Text(String),
    List(Vec<Json>),
    Map(Vec<(String, Json)>),
}

/// A value without its place in the file.
impl From<Value> for Json {
    fn from(value: Value) -> Self {
        Self { path: String::new(), value, taken: AtomicBool::default(), is_case: AtomicBool::default() }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON with numbers from 0 on")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Value::Null.into())
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Value::Bool(value).into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Value::Number(value).into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Value::Text(value.to_owned()).into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list).into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut map: Vec<(String, Json)> = Vec::new();
        while let Some((key, item)) = entries.next_entry::<String, Json>()? {
            if map.iter().any(|(known, _)| *known == key) {
                return Err(A::Error::custom(format!("the key {key:?} is there twice")));
            }
            map.push((key, item));
        }
        Ok(Value::Map(map).into())
    }
}

impl Json {
    /// Parses a file; a repeated key is an error.
    pub(crate) fn parse(name: &str, bytes: &[u8]) -> Check<Self> {
        let mut file: Self =
            serde_json::from_slice(bytes).map_err(|error| Failure(format!("{name}: {error}")))?;
        file.place(name.to_owned());
        Ok(file)
    }

    fn place(&mut self, path: String) {
        match &mut self.value {
            Value::List(items) => {
                items.iter_mut().enumerate().for_each(|(index, item)| item.place(format!("{path}[{index}]")));
            }
            Value::Map(entries) => {
                entries.iter_mut().for_each(|(key, item)| item.place(format!("{path}.{key}")));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => {}
        }
        self.path = path;
    }

    /// The file, and the place in it.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The value under a key that must be there.
    pub(crate) fn at(&self, key: &str) -> Check<&Json> {
        self.maybe(key).ok_or_else(|| Failure(format!("{}: has no {key:?}", self.path)))
    }

    /// The value under a key that may be missing.
    pub(crate) fn maybe(&self, key: &str) -> Option<&Json> {
        let Value::Map(entries) = &self.value else { return None };
        self.taken.store(true, Ordering::Relaxed);
        entries.iter().find(|(name, _)| name == key).map(|(_, item)| item)
    }

    /// The value under a key that may be missing or `null`.
    pub(crate) fn some(&self, key: &str) -> Option<&Json> {
        let item = self.maybe(key)?;
        match item.value {
            Value::Null => {
                item.taken.store(true, Ordering::Relaxed);
                None
            }
            _ => Some(item),
        }
    }

    /// Whether there is `null`.
    pub(crate) fn is_null(&self) -> bool {
        let is_null = matches!(self.value, Value::Null);
        self.taken.fetch_or(is_null, Ordering::Relaxed);
        is_null
    }

    pub(crate) fn text(&self) -> Check<&str> {
        match &self.value {
            Value::Text(text) => Ok(self.take(text)),
            _ => Err(self.expected("text")),
        }
    }

    pub(crate) fn number(&self) -> Check<u64> {
        match &self.value {
            Value::Number(number) => Ok(*self.take(number)),
            _ => Err(self.expected("a number")),
        }
    }

    pub(crate) fn boolean(&self) -> Check<bool> {
        match &self.value {
            Value::Bool(value) => Ok(*self.take(value)),
            _ => Err(self.expected("true or false")),
        }
    }

    pub(crate) fn list(&self) -> Check<&[Json]> {
        match &self.value {
            Value::List(items) => Ok(self.take(items)),
            _ => Err(self.expected("a list")),
        }
    }

    pub(crate) fn entries(&self) -> Check<&[(String, Json)]> {
        match &self.value {
            Value::Map(entries) => Ok(self.take(entries)),
            _ => Err(self.expected("an object")),
        }
    }

    /// Bytes in lower-case hex.
    pub(crate) fn bytes(&self) -> Check<Vec<u8>> {
        let text = self.text()?;
        match hex::decode(text) {
            Ok(bytes) if hex::encode(&bytes) == text => Ok(bytes),
            _ => Err(self.expected("lower-case hex")),
        }
    }

    /// Exactly `N` bytes in lower-case hex.
    pub(crate) fn array<const N: usize>(&self) -> Check<[u8; N]> {
        self.bytes()?.try_into().map_err(|_| self.expected(&format!("{N} bytes")))
    }

    pub(crate) fn texts(&self) -> Check<Vec<String>> {
        self.list()?.iter().map(|item| item.text().map(str::to_owned)).collect()
    }

    pub(crate) fn is_text(&self, ours: &str) -> Check {
        let theirs = self.text()?;
        ensure!(theirs == ours, "{}: is {}, ours is {}", self.path, cut(theirs), cut(ours));
        Ok(())
    }

    pub(crate) fn is_bytes(&self, ours: impl AsRef<[u8]>) -> Check {
        let (theirs, ours) = (hex::encode(self.bytes()?), hex::encode(ours));
        ensure!(theirs == ours, "{}: is {}, ours is {}", self.path, cut(&theirs), cut(&ours));
        Ok(())
    }

    pub(crate) fn is_number(&self, ours: impl TryInto<u64>) -> Check {
        let ours = ours.try_into().map_err(|_| Failure(format!("{}: ours is no u64", self.path)))?;
        let theirs = self.number()?;
        ensure!(theirs == ours, "{}: is {theirs}, ours is {ours}", self.path);
        Ok(())
    }

    pub(crate) fn is_bool(&self, ours: bool) -> Check {
        let theirs = self.boolean()?;
        ensure!(theirs == ours, "{}: is {theirs}, ours is {ours}", self.path);
        Ok(())
    }

    /// Compares everything below: the same keys, whatever their order, and the same values.
    pub(crate) fn is_json(&self, ours: &serde_json::Value) -> Check {
        use serde_json::Value as Ours;
        match (&self.value, ours) {
            (Value::Null, Ours::Null) => {
                self.taken.store(true, Ordering::Relaxed);
                Ok(())
            }
            (Value::Bool(_), Ours::Bool(ours)) => self.is_bool(*ours),
            (Value::Number(_), Ours::Number(ours)) if ours.is_u64() => {
                self.is_number(ours.as_u64().unwrap_or_default())
            }
            (Value::Text(_), Ours::String(ours)) => self.is_text(ours),
            (Value::List(_), Ours::Array(ours)) => {
                let theirs = self.list()?;
                ensure!(
                    theirs.len() == ours.len(),
                    "{}: has {} items, ours {}",
                    self.path,
                    theirs.len(),
                    ours.len()
                );
                theirs.iter().zip(ours).try_for_each(|(theirs, ours)| theirs.is_json(ours))
            }
            (Value::Map(_), Ours::Object(ours)) => {
                for key in ours.keys() {
                    self.at(key)?;
                }
                let known = |key: &String| {
                    ours.get(key).ok_or_else(|| Failure(format!("{}: ours has no {key:?}", self.path)))
                };
                self.entries()?.iter().try_for_each(|(key, theirs)| theirs.is_json(known(key)?))
            }
            _ => Err(Failure(format!("{}: ours is {}", self.path, cut(&ours.to_string())))),
        }
    }

    /// Everything below, as plain JSON.
    pub(crate) fn plain(&self) -> serde_json::Value {
        use serde_json::Value as Plain;
        self.taken.store(true, Ordering::Relaxed);
        match &self.value {
            Value::Null => Plain::Null,
            Value::Bool(value) => Plain::Bool(*value),
            Value::Number(value) => Plain::from(*value),
            Value::Text(value) => Plain::from(value.as_str()),
            Value::List(items) => items.iter().map(Json::plain).collect(),
            Value::Map(entries) => entries.iter().map(|(key, item)| (key.clone(), item.plain())).collect(),
        }
    }

    /// Marks a value and everything below it as informative: there is nothing to compare.
    pub(crate) fn informative(&self) {
        self.plain();
    }

    /// Everything below, as one of our types.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Check<T> {
        serde_json::from_value(self.plain()).map_err(|error| Failure(format!("{}: {error}", self.path)))
    }

    /// Makes it a case of its own: the file need not consume what is in it.
    pub(super) fn make_case(&self) {
        self.is_case.store(true, Ordering::Relaxed);
    }

    /// Fails if no check has read some value below.
    pub(crate) fn is_read_whole(&self) -> Check {
        let unknown = self.left_over();
        ensure!(unknown.is_empty(), "not known to this test: {}", unknown.join(", "));
        Ok(())
    }

    fn left_over(&self) -> Vec<String> {
        if !self.taken.load(Ordering::Relaxed) {
            return vec![self.path.clone()];
        }
        let below: Vec<&Json> = match &self.value {
            Value::List(items) => items.iter().collect(),
            Value::Map(entries) => entries.iter().map(|(_, item)| item).collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => Vec::new(),
        };
        let of_the_file = below.into_iter().filter(|item| !item.is_case.load(Ordering::Relaxed));
        of_the_file.flat_map(Json::left_over).collect()
    }

    fn take<'a, T: ?Sized>(&self, value: &'a T) -> &'a T {
        self.taken.store(true, Ordering::Relaxed);
        value
    }

    fn expected(&self, what: &str) -> Failure {
        Failure(format!("{}: is not {what}", self.path))
    }
}

/// The beginning of a long value, because the file has the rest.
pub(crate) fn cut(text: &str) -> String {
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{:?}… ({} characters)", &text[..end], text.chars().count()),
        None => format!("{text:?}"),
    }
}
