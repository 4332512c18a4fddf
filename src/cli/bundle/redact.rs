//! PURE  a text -> the same without what looks like a secret.
//!
//! Nothing that is gathered should hold one. This is for what people and clusters write where they should not: a token in a
//! message, a password in an address, a key in a log.

/// In the place of a secret.
const GONE: &str = "[removed]";

/// Words after which a secret stands, up to the next blank, comma, quote or line's end.
const BEFORE: [&str; 14] = [
    "bearer ",
    "basic ",
    "token: ",
    "token=",
    "\"token\":\"",
    "password: ",
    "password=",
    "\"password\":\"",
    "passwd=",
    "secret=",
    "apikey=",
    "api_key=",
    "client-key-data: ",
    "client-certificate-data: ",
];

/// A text without what looks like a secret.
pub(super) fn redact(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut in_key = false;
    for line in text.split_inclusive('\n') {
        // A key in PEM, in as many lines as it has, or all on one.
        if line.contains("-----BEGIN") && line.contains("PRIVATE KEY-----") {
            in_key = !(line.contains("-----END"));
            result += GONE;
            result.push('\n');
            continue;
        }
        if in_key {
            in_key = !line.contains("-----END");
            continue;
        }
        result += &redact_line(line);
    }
    result
}

fn redact_line(line: &str) -> String {
    let mut line = line.to_owned();
    for before in BEFORE {
        line = after(&line, before);
    }
    addresses(&tokens(&line))
}

/// Removes what stands after each `before`, in letters of any case.
fn after(line: &str, before: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let (mut result, mut from) = (String::new(), 0);
    while let Some(found) = lower[from..].find(before) {
        let mut begin = from + found + before.len();
        begin += line[begin..].len() - line[begin..].trim_start_matches(['"', '\'', ' ']).len();
        let end = line[begin..].find(|c: char| c.is_whitespace() || ",;\"'&".contains(c));
        let end = end.map_or(line.len(), |end| begin + end);
        result += &line[from..begin];
        if end > begin {
            result += GONE;
        }
        from = end;
    }
    result + &line[from..]
}

/// Removes what looks like a JSON web token, wherever it stands.
fn tokens(line: &str) -> String {
    let (mut result, mut from) = (String::new(), 0);
    while let Some(found) = line[from..].find("eyJ") {
        let begin = from + found;
        let belongs = |c: char| c.is_ascii_alphanumeric() || "-_.=+/".contains(c);
        let end = line[begin..].find(|c: char| !belongs(c)).map_or(line.len(), |end| begin + end);
        result += &line[from..begin];
        result += if end - begin > 20 { GONE } else { &line[begin..end] };
        from = end;
    }
    result + &line[from..]
}

/// Removes who logs in at an address: `https://user:password@host`.
fn addresses(line: &str) -> String {
    let (mut result, mut from) = (String::new(), 0);
    while let Some(found) = line[from..].find("://") {
        let begin = from + found + 3;
        let ends = |c: char| c.is_whitespace() || "/\"'<>,".contains(c);
        let end = line[begin..].find(ends).map_or(line.len(), |end| begin + end);
        result += &line[from..begin];
        match line[begin..end].rfind('@') {
            Some(at) => {
                result += GONE;
                result += &line[begin + at..end];
            }
            None => result += &line[begin..end],
        }
        from = end;
    }
    result + &line[from..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_looks_like_a_secret_goes_and_the_rest_stays() {
        for (text, left) in [
            ("Authorization: Bearer abc.def, next", "Authorization: Bearer [removed], next"),
            ("proxy-url: http://me:pw@proxy:3128/x", "proxy-url: http://[removed]@proxy:3128/x"),
            ("said eyJhbGciOiJSUzI1NiIsImtpZCI6.eyJh.sig!", "said [removed]!"),
            ("PASSWORD=hunter2 and more", "PASSWORD=[removed] and more"),
            ("  token: abc\n  name: x\n", "  token: [removed]\n  name: x\n"),
            ("token: \"abc\", x", "token: \"[removed]\", x"),
            ("an eyJ is no token, https://east:6443 no secret", "an eyJ is no token, https://east:6443 no secret"),
        ] {
            assert_eq!(redact(text), left);
        }
    }

    #[test]
    fn a_private_key_goes_with_all_its_lines() {
        let text = "a\n-----BEGIN EC PRIVATE KEY-----\nMHcC\nAAAA\n-----END EC PRIVATE KEY-----\nb\n";
        assert_eq!(redact(text), "a\n[removed]\nb\n");
    }

    proptest! {
        #[test]
        fn any_text_can_be_looked_through(text in "(?s).{0,200}") {
            redact(&text);
        }

        #[test]
        fn no_token_survives_whatever_stands_around_it(before in "[ \"=,a-z]{0,9}", after in "[ \",;\n]{1}.{0,9}") {
            let text = format!("{before} Bearer s3cr3t-word{after}");
            prop_assert!(!redact(&text).contains("s3cr3t"), "{}", redact(&text));
        }
    }
}
