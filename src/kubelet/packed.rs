//! Texts in as little memory as it takes: there are ten thousand pods, and most of what they say is the same.

use lz4_flex::block::{compress_prepend_size_with_dict, decompress_size_prepended_with_dict};

/// Between the parts of texts that are kept in one piece. Nobody has them in a name, a word or a time.
const UNIT: char = '\u{1f}';
const RECORD: char = '\u{1e}';

/// Several texts in one piece: a piece of memory for each word would cost more than the words.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Packed(Box<str>);

impl Packed {
    /// These texts. The two separators in them, which are control characters, are lost.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut all = String::new();
        for (index, text) in texts.into_iter().enumerate() {
            if index > 0 {
                all.push(RECORD);
            }
            all.extend(text.chars().filter(|c| ![RECORD, UNIT].contains(c)));
        }
        Self(all.into())
    }

    /// The texts in their order; empty ones at the only place are none.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split(RECORD).filter(|_| !self.0.is_empty())
    }
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A condition of home, as far as the next report needs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Condition<'a> {
    /// `type`.
    pub kind: &'a str,
    /// `True`, `False` or `Unknown`.
    pub status: &'a str,
    /// In a word, why; empty where nobody says.
    pub reason: &'a str,
    /// When it got that status, RFC 3339.
    pub since: Option<&'a str>,
}

/// Words of conditions, each kept as one character: its place here, as a control character. At most 26, before the separators.
const WORDS: [&str; 14] = [
    "True",
    "False",
    "Unknown",
    "PodReadyToStartContainers",
    "Initialized",
    "ContainersReady",
    "Ready",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
    "DisruptionTarget",
    "longshore.dev/Delegated",
    "longshore.dev/UpToDate",
    "PodCompleted",
];

/// In the place of a time: the same as that of the condition before.
const SAME: char = '\u{1d}';

/// Conditions in one piece.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Conditions(Packed);

impl Conditions {
    /// These, in their order. Control characters in them are lost.
    pub fn new<'a>(all: impl IntoIterator<Item = Condition<'a>>) -> Self {
        let mut packed = String::new();
        let mut before = None;
        for (index, condition) in all.into_iter().enumerate() {
            if index > 0 {
                packed.push(RECORD);
            }
            for word in [condition.kind, condition.status, condition.reason] {
                match (0..).zip(WORDS).find(|(_, known)| *known == word) {
                    Some((place, _)) => packed.push(char::from(1_u8.saturating_add(place))),
                    None => packed.extend(word.chars().filter(|c| !c.is_control())),
                }
                packed.push(UNIT);
            }
            match condition.since {
                Some(since) if before == Some(since) => packed.push(SAME),
                since => packed.extend(since.unwrap_or_default().chars().filter(|c| !c.is_control())),
            }
            before = condition.since;
        }
        Self(Packed(packed.into()))
    }

    /// All of them, in home's order.
    pub fn iter(&self) -> impl Iterator<Item = Condition<'_>> {
        let mut before = None;
        self.0.iter().map(move |packed| {
            let mut parts = packed.split(UNIT);
            let mut part = || parts.next().unwrap_or_default();
            let (kind, status, reason, since) = (word(part()), word(part()), word(part()), part());
            if !since.starts_with(SAME) {
                before = Some(since).filter(|since| !since.is_empty());
            }
            Condition { kind, status, reason, since: before }
        })
    }
}

/// What stands for itself, or for one of the words.
fn word(packed: &str) -> &str {
    match packed.as_bytes() {
        [code @ 1..=26] => WORDS.get(usize::from(*code) - 1).copied().unwrap_or_default(),
        _ => packed,
    }
}

impl std::fmt::Debug for Conditions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// JSON of a pod or its status, compressed.
#[derive(Default)]
pub struct Compact(Box<[u8]>);

/// What pods and their statuses consist of, in the order in which they are written: documents are kept as what differs from it. It
/// is in memory only, so that it may change with any version.
const SAMPLE: &str = include_str!("packed/sample.json");

impl Compact {
    /// This text.
    pub fn new(text: &[u8]) -> Self {
        Self(compress_prepend_size_with_dict(text, SAMPLE.as_bytes()).into())
    }

    /// The text; empty where there never was one.
    pub fn text(&self) -> Vec<u8> {
        // What was compressed above can be read.
        decompress_size_prepended_with_dict(&self.0, SAMPLE.as_bytes()).unwrap_or_default()
    }
}

impl std::fmt::Debug for Compact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        String::from_utf8_lossy(&self.text()).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn condition<'a>(kind: &'a str, status: &'a str, reason: &'a str, since: Option<&'a str>) -> Condition<'a> {
        Condition { kind, status, reason, since }
    }

    #[test]
    fn conditions_come_back_as_they_were() {
        let (early, late) = (Some("2026-01-01T10:00:00Z"), Some("2026-01-01T10:00:01Z"));
        let all = [
            condition("Ready", "True", "", early),
            condition("example.com/gate", "False", "Odd", early),
            condition("ContainersReady", "Neither", "Unknown", None),
            condition("Initialized", "Unknown", "True", early),
            condition("PodScheduled", "True", "", late),
            condition("longshore.dev/Delegated", "True", "", late),
        ];
        let packed = Conditions::new(all);
        assert_eq!(packed.iter().collect::<Vec<_>>(), all);
        assert!(packed.0.0.len() < 130, "{}", packed.0.0.len());
        assert_eq!(Conditions::default().iter().next(), None);
    }

    #[test]
    fn codes_of_words_are_no_separators() {
        assert!(WORDS.len() <= 26);
        let known = super::super::view::OWNED_CONDITIONS;
        assert!(known.iter().all(|kind| WORDS.contains(kind)));
    }

    proptest! {
        #[test]
        fn any_words_come_back(words in prop::collection::vec("[ -~]{0,6}", 4)) {
            let since = Some(words[3].as_str()).filter(|since| !since.is_empty());
            let one = condition(&words[0], &words[1], &words[2], since);
            let packed = Conditions::new([one, one]);
            prop_assert_eq!(packed.iter().collect::<Vec<_>>(), vec![one, one]);
        }

        #[test]
        fn any_text_comes_back(text in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert_eq!(Compact::new(&text).text(), text);
        }
    }

    #[test]
    fn a_text_that_never_was_is_empty() {
        assert_eq!(Compact::default().text(), Vec::<u8>::new());
    }

    #[test]
    fn the_sample_is_json() {
        for line in SAMPLE.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }
}
