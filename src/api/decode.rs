//! From a [`Node`] to a typed resource, with every error and not only the first.
//!
//! The shape is said once, by the derived `Deserialize` of the resource. Serde stops at its first error; so the value
//! that it stopped at is recorded, taken out of sight, and decoding starts over until nothing is wrong with the rest.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};

use super::document::{Node, Value};
use super::field::{FieldPath, Finding};

/// The resource that `root` describes, as far as it can be understood, and everything that keeps it from being one.
///
/// A resource with findings is good for finding more, and for nothing else.
pub(super) fn decode<'de, T: Deserialize<'de>>(root: &'de Node) -> (Option<T>, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut hidden = BTreeSet::new();
    loop {
        let error = match T::deserialize(Cursor { node: root, path: FieldPath::default(), hidden: &hidden }) {
            Ok(value) => return (Some(value), findings),
            Err(error) => error,
        };
        let path = error.path.unwrap_or_default();
        // What is missing because it is hidden has been told already.
        let known = matches!(error.kind, Kind::Missing(name) if hidden.contains(&path.key(name)));
        if !known {
            findings.push(error.kind.finding(&path));
        }
        if path.is_root() || !hidden.insert(path) {
            return (None, findings);
        }
    }
}

/// What serde complains about.
#[derive(Debug)]
enum Kind {
    Unsupported { supported: &'static [&'static str] },
    Missing(&'static str),
    NoSuchVariant { given: String, valid: &'static [&'static str] },
    Mismatch { found: String, expected: String },
    Other(String),
}

impl Kind {
    fn finding(self, path: &FieldPath) -> Finding {
        let (path, message, remedy) = match self {
            Kind::Unsupported { supported } => {
                let message = format!("not supported by this version; supported: {}", supported.join(", "));
                (path.clone(), message, "remove it, or correct its spelling".to_owned())
            }
            Kind::Missing(name) => (path.key(name), "is missing".to_owned(), "add it".to_owned()),
            Kind::NoSuchVariant { given, valid } => {
                let message = format!("`{given}` is not supported by this version; supported: {}", valid.join(", "));
                (path.clone(), message, "choose one of these".to_owned())
            }
            Kind::Mismatch { found, expected } => {
                let quotable =
                    expected == "a string" && ["boolean", "integer", "float"].iter().any(|k| found.starts_with(k));
                let remedy = if quotable { "put it in quotes" } else { "correct the value" };
                (path.clone(), format!("expected {}, found {found}", in_words(&expected)), remedy.to_owned())
            }
            Kind::Other(message) => (path.clone(), message, "correct the value".to_owned()),
        };
        Finding { field: path, message, remedy }
    }
}

/// Serde names Rust types where a user knows only YAML.
fn in_words(expected: &str) -> &str {
    match expected {
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "path string" => "a path",
        "a map" => "a mapping",
        words if words.starts_with("struct ") => "a mapping",
        words if words.starts_with("enum ") => "one word",
        words => words,
    }
}

#[derive(Debug)]
struct DecodeError {
    path: Option<FieldPath>,
    kind: Kind,
}

impl DecodeError {
    /// The innermost place is the right one: outer ones do not overwrite it.
    fn at(mut self, path: &FieldPath) -> Self {
        self.path.get_or_insert_with(|| path.clone());
        self
    }
}

impl From<Kind> for DecodeError {
    fn from(kind: Kind) -> Self {
        Self { path: None, kind }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Kind::Other(message.to_string()).into()
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = if found == Unexpected::Unit { "nothing".to_owned() } else { found.to_string() };
        Kind::Mismatch { found, expected: expected.to_string() }.into()
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(given: &str, valid: &'static [&'static str]) -> Self {
        Kind::NoSuchVariant { given: given.to_owned(), valid }.into()
    }

    fn unknown_field(_: &str, supported: &'static [&'static str]) -> Self {
        Kind::Unsupported { supported }.into()
    }

    fn missing_field(field: &'static str) -> Self {
        Kind::Missing(field).into()
    }
}

/// A value, the way to it, and what to overlook below it.
struct Cursor<'de, 'a> {
    node: &'de Node,
    path: FieldPath,
    hidden: &'a BTreeSet<FieldPath>,
}

impl<'de> Deserializer<'de> for Cursor<'de, '_> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let result = match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Unsigned(value) => visitor.visit_u64(*value),
            Value::Signed(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::String(value) => visitor.visit_borrowed_str(value),
            Value::List(items) => {
                visitor.visit_seq(Items { rest: items.iter().enumerate(), path: &self.path, hidden: self.hidden })
            }
            Value::Map(entries) => {
                visitor.visit_map(Entries { rest: entries.iter(), next: None, path: &self.path, hidden: self.hidden })
            }
        };
        result.map_err(|error| error.at(&self.path))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if matches!(self.node.value, Value::Null) { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Value::String(word) => visitor.visit_enum(Word(word)).map_err(|error| error.at(&self.path)),
            _ => self.deserialize_any(visitor),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Items<'de, 'a> {
    rest: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
    path: &'a FieldPath,
    hidden: &'a BTreeSet<FieldPath>,
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        for (index, node) in self.rest.by_ref() {
            let path = self.path.index(index);
            if !self.hidden.contains(&path) {
                return seed.deserialize(Cursor { node, path, hidden: self.hidden }).map(Some);
            }
        }
        Ok(None)
    }
}

struct Entries<'de, 'a> {
    rest: std::slice::Iter<'de, (String, super::document::Place, Node)>,
    next: Option<Cursor<'de, 'a>>,
    path: &'a FieldPath,
    hidden: &'a BTreeSet<FieldPath>,
}

impl<'de> MapAccess<'de> for Entries<'de, '_> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        for (key, _, node) in self.rest.by_ref() {
            let path = self.path.key(key);
            if self.hidden.contains(&path) {
                continue;
            }
            let key: StrDeserializer<'_, DecodeError> = key.as_str().into_deserializer();
            let key = seed.deserialize(key).map_err(|error| error.at(&path))?;
            self.next = Some(Cursor { node, path, hidden: self.hidden });
            return Ok(Some(key));
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let cursor = self.next.take().ok_or_else(|| <DecodeError as de::Error>::custom("a value without a key"))?;
        let path = cursor.path.clone();
        seed.deserialize(cursor).map_err(|error| error.at(&path))
    }
}

/// An enum is written as the name of one of its variants, and nothing more.
struct Word<'de>(&'de str);

impl<'de> EnumAccess<'de> for Word<'de> {
    type Error = DecodeError;
    type Variant = NoContent;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, NoContent), DecodeError> {
        let word: StrDeserializer<'_, DecodeError> = self.0.into_deserializer();
        Ok((seed.deserialize(word)?, NoContent))
    }
}

struct NoContent;

impl<'de> VariantAccess<'de> for NoContent {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, DecodeError> {
        Err(de::Error::invalid_type(Unexpected::UnitVariant, &"a variant with content"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DecodeError> {
        Err(de::Error::invalid_type(Unexpected::UnitVariant, &visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, DecodeError> {
        Err(de::Error::invalid_type(Unexpected::UnitVariant, &visitor))
    }
}
