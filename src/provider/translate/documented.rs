//! docs/pods.md says of every field what becomes of it, and the tests that it names exist.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, PodSpec, Volume, VolumeProjection};
use serde::de::value::Error;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};

const PAGE: &str = include_str!("../../../docs/pods.md");

/// The names of the fields that a generated type asks its format for.
fn fields<'de, T: Deserialize<'de>>() -> Vec<&'static str> {
    let mut names = Vec::new();
    // It ends with an error as soon as it has asked.
    drop(T::deserialize(Asked(&mut names)));
    assert!(!names.is_empty(), "a generated type is a struct");
    names
}

struct Asked<'a>(&'a mut Vec<&'static str>);

impl<'de> Deserializer<'de> for Asked<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("asked for no struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.0.extend(fields);
        Err(Error::custom("that is all"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The texts between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The rows below a heading, by their cells.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let section = PAGE.split("\n## ").find(|section| section.starts_with(heading));
    let section = section.unwrap_or_else(|| panic!("a section {heading}"));
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

struct Missing(&'static str, Vec<&'static str>);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has no row for {}", self.0, self.1.join(", "))
    }
}

fn without_row(heading: &'static str, fields: &[&'static str]) -> Missing {
    let named: BTreeSet<&str> = rows(heading).iter().flat_map(|row| quoted(row[0])).collect();
    // A name is what the parts of a volume are called by.
    Missing(heading, fields.iter().filter(|field| !named.contains(*field) && **field != "name").copied().collect())
}

#[test]
fn every_field_that_this_build_knows_has_a_row() {
    for missing in [
        without_row("The pod", &fields::<PodSpec>()),
        without_row("A container", &fields::<Container>()),
        without_row("Volumes", &fields::<Volume>()),
        without_row("Volumes", &fields::<VolumeProjection>()),
    ] {
        assert!(missing.1.is_empty(), "{missing}");
    }
    assert_eq!(without_row("Volumes", &["inventedIn2031"]).1, ["inventedIn2031"]);
}

/// All names of functions below a directory.
fn functions(directory: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let found = text.split("#[test]").skip(1).filter_map(|after| after.split_once("fn ")?.1.split_once('('));
            names.extend(found.map(|(name, _)| name.to_owned()));
        }
    }
}

#[test]
fn every_row_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = BTreeSet::new();
    for directory in ["src", "e2e/tests"] {
        functions(&root.join(directory), &mut tests);
    }
    let all = ["The pod", "A container", "Volumes", "The downward API"].map(rows).concat();
    assert!(all.len() > 60, "{} rows", all.len());
    for row in all {
        assert_eq!(row.len(), 3, "{row:?}");
        let named: Vec<_> = quoted(row[2]).collect();
        assert!(!named.is_empty(), "no test shows {}", row[0]);
        for test in named {
            assert!(tests.contains(test), "{test}, which should show {}, does not exist", row[0]);
        }
    }
    for test in quoted(PAGE).filter(|word| word.matches('_').count() > 2) {
        assert!(tests.contains(test), "{test} does not exist");
    }
}
