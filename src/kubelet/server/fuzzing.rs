//! What must hold for whatever a client sends: each function takes bytes and panics where it does not. The unit tests feed
//! them a corpus and random bytes, the targets in `fuzz/` what libFuzzer finds.
#![expect(clippy::missing_panics_doc, reason = "to panic is what they are for")]

use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use rustls::pki_types::CertificateDer;

use super::authn::{bearer_token, user_of_certificate};
use super::authz::Attributes;
use super::path::{PodPath, Route};
use super::query;
use super::upgrade::{is_upgrade, without_credentials};

/// A path: names are names, what reaches into a pod needs the strongest right, and the same path written plainly is the same
/// route.
pub fn path(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let route = Route::of(text);
    let plain = match &route {
        Route::Logs { pod, container } => Some(format!("/containerLogs/{}/{container}", pod_path(pod))),
        Route::Exec { pod, container } => Some(format!("/exec/{}/{container}", pod_path(pod))),
        Route::Run { pod, container } => Some(format!("/run/{}/{container}", pod_path(pod))),
        Route::Attach { pod, container } => Some(format!("/attach/{}/{container}", pod_path(pod))),
        Route::PortForward { pod } => Some(format!("/portForward/{}", pod_path(pod))),
        _ => None,
    };
    let reaches_in =
        matches!(route, Route::Exec { .. } | Route::Run { .. } | Route::Attach { .. } | Route::PortForward { .. });
    for method in [Method::GET, Method::HEAD, Method::POST] {
        let needed = Attributes::of(&route, &method);
        assert!(!needed.subresources.is_empty(), "{text:?} needs no right");
        assert!(!reaches_in || (needed.verb == "create" && needed.subresources == ["proxy"]), "{text:?}: {needed:?}");
        assert!(plain.is_none() || needed.subresources == ["proxy"], "{text:?}: {needed:?}");
    }
    if let Some(plain) = plain {
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"/-.".contains(&byte);
        assert!(plain.bytes().all(safe) && !plain.contains("..") && !plain.contains("//"), "{plain:?}");
        assert_eq!(Route::of(&plain), route, "{text:?}");
    }
}

fn pod_path(pod: &PodPath) -> String {
    let uid = pod.uid.as_ref().map(|uid| format!("/{uid}")).unwrap_or_default();
    format!("{}/{}{uid}", pod.namespace, pod.name)
}

/// A query: what is accepted makes sense.
pub fn query(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(options) = query::logs(text) {
        assert!(options.tail_lines.is_none_or(|lines| lines >= 0), "{text:?}");
        assert!(options.limit_bytes.is_none_or(|limit| limit > 0), "{text:?}");
        assert!(options.since_seconds.is_none_or(|seconds| seconds > 0), "{text:?}");
        assert!(options.since_seconds.is_none() || options.since_time.is_none(), "{text:?}");
    }
    for options in [query::exec(text), query::run(text), query::attach(text)].into_iter().flatten() {
        assert!(options.stdin || options.stdout || options.stderr, "{text:?}");
        assert!(!(options.tty && options.stderr), "{text:?}");
    }
    assert!(query::exec(text).is_err() || !query::exec(text).unwrap_or_default().command.is_empty(), "{text:?}");
    assert!(query::run(text).is_err() || !query::run(text).unwrap_or_default().command.is_empty(), "{text:?}");
    assert!(query::ports(text).is_err() || !query::ports(text).unwrap_or_default().contains(&0), "{text:?}");
}

/// Headers, a line each as `name: value`: no credential passes on, and nothing else is lost of what is not one.
pub fn headers(bytes: &[u8]) {
    let mut all = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(line[colon + 1..].trim_ascii()));
        // More do not fit into a request's head.
        if let (Ok(name), Ok(value), true) = (name, value, all.len() < 1000) {
            all.append(name, value);
        }
    }
    let kept = without_credentials(&all);
    assert!(kept.len() <= all.len());
    for name in [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE] {
        assert!(!kept.contains_key(&name), "{name}");
    }
    for (name, value) in &kept {
        let private = ["x-remote-", "impersonate-"].iter().any(|prefix| name.as_str().starts_with(prefix));
        let token = String::from_utf8_lossy(value.as_bytes()).contains("base64url.bearer.authorization.k8s.io.");
        assert!(!private, "{name}");
        assert!(!token || name != "sec-websocket-protocol", "{value:?}");
    }
    assert_eq!(is_upgrade(&kept), is_upgrade(&all));
    let token = bearer_token(&all);
    assert!(token.is_none_or(|token| !token.is_empty() && token.trim() == token), "{token:?}");
}

/// A certificate: whoever it names has a name, and counts as authenticated. (That it is genuine is for TLS to say.)
pub fn certificate(bytes: &[u8]) {
    if let Some(user) = user_of_certificate(&CertificateDer::from(bytes)) {
        assert!(!user.name.is_empty() && user.groups.iter().any(|group| group == "system:authenticated"), "{user:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::fakes::Pki;
    use super::*;
    use proptest::prelude::*;

    const PATHS: [&str; 16] = [
        "/exec/ns/p/c",
        "/exec/ns/p/u-1/c?",
        "/run/ns/p/u-1/c",
        "/metrics/../run/ns/p/c",
        "/attach/ns/a.b/c/",
        "/portForward/ns/p/u",
        "/containerLogs/ns/p/c",
        "/exec/ns/p%2f..%2f/c",
        "/exec/ns/..%2fq/c",
        "/%65xec/ns/p/c",
        "/metrics/../exec/ns/p/c",
        "/stats/summary//",
        "/exec/ns/p/%00",
        "/exec/ns/%ff/c",
        "/pods/",
        "//",
    ];
    const QUERIES: [&str; 11] = [
        "cmd=+&cmd=ls+-l",
        "follow=true&tailLines=0&limitBytes=1&sinceSeconds=1",
        "sinceTime=2026-11-01T10%3A00%3A00Z&sinceSeconds=1",
        "tailLines=9223372036854775808",
        "tailLines=-0",
        "command=&input=1",
        "command=%00&command=+&output=true&tty=1&error=1",
        "error=1&tty=1",
        "port=80,81&port=0",
        "port=65536",
        "&&=&%=%&command=%e2%82",
    ];
    const HEADERS: [&str; 8] = [
        "sec-websocket-protocol: v4.channel.k8s.io  base64url.bearer.authorization.k8s.io.YQ",
        "Connection: Upgrade\nUpgrade: SPDY/3.1\nAuthorization: Bearer a",
        "connection: keep-alive, UPGRADE\nupgrade: websocket\ncookie: a=b",
        "sec-websocket-protocol: v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.YQ",
        "sec-websocket-protocol:base64url.bearer.authorization.k8s.io.YQ,,",
        "Impersonate-User: root\nX-Remote-Extra-a: b\nProxy-Authorization: Basic YQ==",
        "authorization: Bearer  \nauthorization: Bearer b",
        "authorization:bearer \u{e9}",
    ];

    #[test]
    fn the_corpus_holds() {
        for one in PATHS {
            path(one.as_bytes());
        }
        for one in QUERIES {
            query(one.as_bytes());
        }
        for one in HEADERS {
            headers(one.as_bytes());
        }
    }

    /// Bytes near a seed: some are replaced, and the end may be cut off.
    fn near(seeds: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
        let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
        (prop::sample::select(seeds), changes, any::<prop::sample::Index>()).prop_map(|(seed, changes, end)| {
            let mut bytes = seed.as_bytes().to_vec();
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            bytes.truncate(end.index(2 * bytes.len()));
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn any_path(bytes in near(&PATHS), noise in any::<String>()) {
            path(&bytes);
            path(noise.as_bytes());
        }

        #[test]
        fn paths_of_likely_parts(parts in proptest::collection::vec(
            "(exec|attach|run|pods|metrics|portForward|containerLogs|ns|p|c|\\.\\.|%2f|%2e%2e|A|)", 0..7)) {
            path(format!("/{}", parts.join("/")).as_bytes());
        }

        #[test]
        fn any_query(bytes in near(&QUERIES), noise in any::<String>()) {
            query(&bytes);
            query(noise.as_bytes());
        }

        #[test]
        fn any_headers(bytes in near(&HEADERS), noise in any::<Vec<u8>>()) {
            headers(&bytes);
            headers(&noise);
        }

        #[test]
        fn any_certificate(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8)) {
            let mut bytes = SAMPLE.clone();
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            certificate(&bytes);
        }
    }

    static SAMPLE: std::sync::LazyLock<Vec<u8>> =
        std::sync::LazyLock::new(|| Pki::new().client("somebody", "group").certificate.to_vec());
}
