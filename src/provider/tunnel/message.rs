//! What of a target's error its user at home may read.

use std::net::{IpAddr, SocketAddr};

use http::StatusCode;
use serde::Deserialize;

/// Stands for an address in a message.
const WITHHELD: &str = "(address withheld)";

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    message: String,
}

/// The message of an error: that of a `Status`, else the text; addresses taken out, since errors like
/// `dial tcp 10.0.0.5:10250: connect: connection refused` draw a map of the target's network.
pub(super) fn message_of(status: StatusCode, body: &[u8]) -> String {
    let text = match serde_json::from_slice::<Status>(body) {
        Ok(Status { message }) => message,
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    };
    if text.is_empty() {
        return format!("the target answered {status}");
    }
    text.split_inclusive(char::is_whitespace).map(withhold_address).collect()
}

fn withhold_address(word: &str) -> String {
    let core = word.trim_matches(|c: char| !c.is_ascii_hexdigit() && !matches!(c, '[' | ']'));
    let bare = core.trim_end_matches(':');
    let is_address = bare.parse::<SocketAddr>().is_ok()
        || bare.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| !ip.is_unspecified());
    let is_url = ["http://", "https://", "ws://", "wss://"].iter().any(|scheme| word.contains(scheme));
    if is_url {
        let space = &word[word.trim_end().len()..];
        return format!("{WITHHELD}{space}");
    }
    if is_address { word.replace(bare, WITHHELD) } else { word.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: &str) -> String {
        message_of(StatusCode::INTERNAL_SERVER_ERROR, body.as_bytes())
    }

    #[test]
    fn the_message_of_a_status_or_the_text() {
        assert_eq!(of(r#"{"kind":"Status","message":"pods \"a\" not found","code":404}"#), r#"pods "a" not found"#);
        assert_eq!(of("container not found (\"c\")\n"), r#"container not found ("c")"#);
        assert_eq!(of(""), "the target answered 500 Internal Server Error");
        assert_eq!(of("{}"), "the target answered 500 Internal Server Error");
    }

    #[test]
    fn addresses_are_withheld() {
        assert_eq!(
            of(
                r#"Get "https://10.0.0.5:10250/containerLogs/a/b/c": dial tcp 10.0.0.5:10250: connect: connection refused"#
            ),
            "Get (address withheld) dial tcp (address withheld): connect: connection refused"
        );
        assert_eq!(of("dial tcp [fd00::5]:10250: i/o timeout"), "dial tcp (address withheld): i/o timeout");
        assert_eq!(of("no route to host (10.0.0.5)"), "no route to host ((address withheld))");
        for harmless in ["exec: \"add\": exit 127", "image a:1.2.3 fed::", "containerd://abc is gone: 10 s", "a b c d"]
        {
            assert_eq!(of(harmless), harmless);
        }
    }
}
