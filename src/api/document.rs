//! YAML documents in which every value knows its place.
//!
//! Typed deserialisation stops at the first error and forgets places once it is done; users want every error at once,
//! and references between documents can only be checked afterwards. So files are read into this tree first.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::field::{FieldPath, Segment};

/// A line and a column of a file, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) line: u64,
    pub(super) column: u64,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// The values of YAML's core schema.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    String(String),
    List(Vec<Node>),
    /// In the order of the file. The place of a key is where errors about its value point: a nested mapping's own
    /// place would be one line too low.
    Map(Vec<(String, Place, Node)>),
}

/// The documents of `text`; those without content are left out.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, serde_saphyr::Error> {
    // Kubernetes reads `yes` and `no` as strings in labels, and so do we.
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    serde_saphyr::from_multiple_with_options(text, options)
}

impl Node {
    /// The value at `key`, if this is a mapping that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|(name, ..)| name == key).map(|(.., node)| node)
    }

    /// The text at `path`, if there is one.
    pub(super) fn text(&self, path: &FieldPath) -> Option<&str> {
        let mut node = self;
        for segment in path.segments() {
            let Segment::Key(key) = segment else { return None };
            node = node.get(key)?;
        }
        if let Value::String(text) = &node.value { Some(text) } else { None }
    }

    /// The place of the value at `path`, or of the nearest thing around it that exists.
    pub(super) fn place_of(&self, path: &FieldPath) -> Place {
        let (mut node, mut place) = (self, self.place);
        for segment in path.segments() {
            let next = match (&node.value, segment) {
                (Value::Map(entries), Segment::Key(key)) => {
                    entries.iter().find(|(name, ..)| name == key).map(|(_, place, node)| (node, *place))
                }
                (Value::List(items), Segment::Index(index)) => items.get(*index).map(|node| (node, node.place)),
                _ => None,
            };
            let Some(next) = next else { break };
            (node, place) = next;
        }
        place
    }
}

impl From<Location> for Place {
    fn from(location: Location) -> Self {
        Self { line: location.line(), column: location.column() }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { place: spanned.referenced.into(), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Unsigned(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(u64::try_from(value).map_or(Value::Signed(value), Value::Unsigned))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            map.push((key.value, key.referenced.into(), entries.next_value()?));
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_knows_its_place() {
        let nodes = parse("a: 1\nb:\n  c:\n  - x\n  - y: no\n---\n---\nd: &d {e: -1}\nf: *d\n").unwrap();
        let at = |node: &Node, path| {
            let place = node.place_of(&path);
            (place.line, place.column)
        };
        assert_eq!(nodes.len(), 2);
        assert_eq!(at(&nodes[0], FieldPath::of("b.c")), (3, 3));
        assert_eq!(at(&nodes[0], FieldPath::of("b.c").index(1).key("y")), (5, 5));
        assert_eq!(at(&nodes[0], FieldPath::of("b.nothing")), (2, 1));
        assert_eq!(at(&nodes[1], FieldPath::of("f")), (9, 1));
    }
}
