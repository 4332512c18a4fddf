//! Where a value stands inside a resource, and what is wrong with it.

use std::fmt;

/// One step from a value to a part of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Segment {
    /// A key of a mapping.
    Key(String),
    /// An item of a list, counted from 0 as in the rest of Kubernetes.
    Index(usize),
}

/// The way from the root of a document to a value: `spec.targets[0].name`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FieldPath(Vec<Segment>);

impl FieldPath {
    /// The path of plain keys that `keys` names, separated by dots.
    pub fn of(keys: &str) -> Self {
        Self(keys.split('.').map(|key| Segment::Key(key.to_owned())).collect())
    }

    /// The path of the value at `key` below this one.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        self.with(Segment::Key(key.to_owned()))
    }

    /// The path of the item at `index` below this one.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    /// The steps, outermost first.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// The path of what contains this value; `None` at the root.
    pub fn parent(&self) -> Option<Self> {
        let (_, rest) = self.0.split_last()?;
        Some(Self(rest.to_vec()))
    }

    /// Whether `other` is this value or a part of it.
    pub fn contains(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }

    /// Whether this is the document itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    fn with(&self, segment: Segment) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment);
        Self(segments)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                // A label's key has dots of its own.
                Segment::Key(key) if key.contains(['.', '/', '[', ' ']) || key.is_empty() => write!(f, "[{key:?}]")?,
                Segment::Key(key) if position == 0 => f.write_str(key)?,
                Segment::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

/// Something wrong with a resource, wherever the resource came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which field.
    pub field: FieldPath,
    /// What is wrong with it.
    pub message: String,
    /// What the user can do about it.
    pub remedy: String,
}

impl Finding {
    /// A finding at `field`.
    pub fn new(field: FieldPath, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { field, message: message.into(), remedy: remedy.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_a_person_would_write_it() {
        assert_eq!(FieldPath::of("spec.targets").index(0).key("name").to_string(), "spec.targets[0].name");
        assert_eq!(FieldPath::of("spec.labels").key("a.b/c").to_string(), "spec.labels[\"a.b/c\"]");
        assert_eq!(FieldPath::default().to_string(), "");
    }
}
