//! The head of an upgrade: whether it is one, and what of it may go further.

use http::header::{AUTHORIZATION, CONNECTION, COOKIE, PROXY_AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Browsers cannot set `Authorization` on a WebSocket, so Kubernetes takes tokens as a protocol too
/// (`k8s.io/apiserver/pkg/authentication/request/websocket`).
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// Whether a client asks to switch protocols.
pub(super) fn is_upgrade(headers: &HeaderMap) -> bool {
    let named = |value: &HeaderValue| {
        value.to_str().is_ok_and(|v| v.split(',').any(|word| word.trim().eq_ignore_ascii_case("upgrade")))
    };
    headers.get(UPGRADE).is_some_and(|value| !value.is_empty()) && headers.get_all(CONNECTION).iter().any(named)
}

/// Takes out what was meant for this server alone: whoever the client is here, it is nobody over there.
pub(super) fn without_credentials(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        if name == SEC_WEBSOCKET_PROTOCOL {
            if let Some(value) = without_token(value) {
                kept.append(name, value);
            }
        } else if !is_credential(name) {
            kept.append(name, value.clone());
        }
    }
    kept
}

fn is_credential(name: &HeaderName) -> bool {
    [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE].contains(name)
        || name.as_str().starts_with("x-remote-")
        || name.as_str().starts_with("impersonate-")
}

/// The protocols without a token, wherever in one it may be; `None` where nothing else was in it.
fn without_token(value: &HeaderValue) -> Option<HeaderValue> {
    let text = value.to_str().ok()?;
    let kept: Vec<_> = text.split(',').map(str::trim).filter(|p| !p.contains(TOKEN_PROTOCOL)).collect();
    if kept.is_empty() { None } else { HeaderValue::from_str(&kept.join(", ")).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn an_upgrade_says_so_twice() {
        assert!(is_upgrade(&headers(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")])));
        assert!(is_upgrade(&headers(&[("connection", "keep-alive, upgrade"), ("upgrade", "websocket")])));
        assert!(!is_upgrade(&headers(&[("connection", "keep-alive"), ("upgrade", "websocket")])));
        assert!(!is_upgrade(&headers(&[("connection", "upgrade")])));
        assert!(!is_upgrade(&headers(&[("connection", "upgrade"), ("upgrade", "")])));
    }

    #[test]
    fn credentials_stay_here() {
        let mut sent = headers(&[
            ("authorization", "Bearer x"),
            ("cookie", "x"),
            ("proxy-authorization", "x"),
            ("x-remote-user", "x"),
            ("x-remote-extra-scopes", "x"),
            ("impersonate-user", "x"),
            ("upgrade", "websocket"),
            (
                "sec-websocket-protocol",
                "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.c2VjcmV0,channel.k8s.io",
            ),
        ]);
        for version in ["v4.channel.k8s.io", "v3.channel.k8s.io"] {
            sent.append("x-stream-protocol-version", HeaderValue::from_static(version));
        }
        let kept = without_credentials(&sent);
        assert_eq!(kept["sec-websocket-protocol"], "v5.channel.k8s.io, channel.k8s.io");
        let versions: Vec<_> = kept.get_all("x-stream-protocol-version").iter().collect();
        assert_eq!(versions, ["v4.channel.k8s.io", "v3.channel.k8s.io"]);
        assert_eq!(kept.keys_len(), 3);
        let alone = headers(&[("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.c2VjcmV0")]);
        assert!(without_credentials(&alone).is_empty());
    }
}
