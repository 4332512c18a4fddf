//! Text as Go's `%q` prints it, which is how a kubelet writes labels and annotations into a volume.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Labels or annotations as text: `FormatMap` in pkg/fieldpath of Kubernetes.
pub(super) fn lines(map: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (key, value) in map {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(key);
        text.push('=');
        quote(value, &mut text);
    }
    text
}

/// Appends a text in Go's double quotes: `strconv.Quote`.
fn quote(value: &str, into: &mut String) {
    into.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => into.extend(['\\', c]),
            ' '..='~' => into.push(c),
            '\x07' => into.push_str(r"\a"),
            '\x08' => into.push_str(r"\b"),
            '\x0c' => into.push_str(r"\f"),
            '\n' => into.push_str(r"\n"),
            '\r' => into.push_str(r"\r"),
            '\t' => into.push_str(r"\t"),
            '\x0b' => into.push_str(r"\v"),
            _ if printable(c) => into.push(c),
            // Writing to a String does not fail.
            ..='\x7f' => drop(write!(into, r"\x{:02x}", u32::from(c))),
            ..='\u{ffff}' => drop(write!(into, r"\u{:04x}", u32::from(c))),
            _ => drop(write!(into, r"\U{:08x}", u32::from(c))),
        }
    }
    into.push('"');
}

/// Whether Go prints a character as it is: letters, marks, numbers, punctuation, symbols and the ASCII space.
///
/// The standard library escapes the complement of the same categories when it formats for debugging. It escapes a
/// combining mark too, but only at the start of a text, hence the letter before it. The two differ in nothing but
/// characters of a Unicode that one does not know yet.
fn printable(c: char) -> bool {
    let mut buffer = [b'a'; 5];
    let end = 1 + c.encode_utf8(&mut buffer[1..]).len();
    let text = str::from_utf8(&buffer[..end]).unwrap_or_default();
    text.escape_debug().nth(1) == Some(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(value: &str) -> String {
        let mut text = String::new();
        quote(value, &mut text);
        text
    }

    #[test]
    fn quotes_as_go_does() {
        for (value, expected) in [
            ("", r#""""#),
            ("plain text, it's", r#""plain text, it's""#),
            (r#"say "hi" \ bye"#, r#""say \"hi\" \\ bye""#),
            ("\x07\x08\x0c\n\r\t\x0b", r#""\a\b\f\n\r\t\v""#),
            ("\0\x1b\x1f\x7f", r#""\x00\x1b\x1f\x7f""#),
            ("\u{80}\u{9f}\u{a0}\u{ad}", r#""\u0080\u009f\u00a0\u00ad""#),
            ("grüße, 世界, e\u{301}", "\"grüße, 世界, e\u{301}\""),
            ("\u{301}first", "\"\u{301}first\""),
            ("\u{200b}\u{2028}\u{3000}\u{feff}\u{e000}", r#""\u200b\u2028\u3000\ufeff\ue000""#),
            ("\u{fffd}\u{1f600}", "\"\u{fffd}\u{1f600}\""),
            ("\u{10ffff}\u{e0001}", r#""\U0010ffff\U000e0001""#),
        ] {
            assert_eq!(quoted(value), expected);
        }
    }

    #[test]
    fn a_map_is_lines_in_order_of_keys() {
        let map = [("b", "2"), ("a/x", "one\ntwo")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(lines(&map.into()), "a/x=\"one\\ntwo\"\nb=\"2\"");
        assert_eq!(lines(&BTreeMap::new()), "");
    }
}
