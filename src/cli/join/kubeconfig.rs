//! PURE  how a person reaches a target, and a token -> the kubeconfig by which Longshore does.

use std::fmt::Write;

use k8s_openapi::ByteString;
use kube::Config;
use serde_json::{Value, json};

/// A kubeconfig that is complete in itself.
pub(super) fn with_token(name: &str, config: &Config, server: Option<&str>, token: &str) -> String {
    let url = config.cluster_url.to_string();
    let mut cluster = json!({"server": server.unwrap_or_else(|| url.trim_end_matches('/'))});
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            cluster[key] = value;
        }
    };
    set("certificate-authority-data", config.root_cert.as_ref().map(|all| base64(pem(all).as_bytes()).into()));
    set("tls-server-name", config.tls_server_name.clone().map(Into::into));
    set("proxy-url", config.proxy_url.as_ref().map(|url| url.to_string().into()));
    set("insecure-skip-tls-verify", config.accept_invalid_certs.then_some(true.into()));
    let document = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": name,
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": "longshore", "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": "longshore"}}],
    });
    crate::cli::show::yaml(&document)
}

/// Certificates as files hold them.
fn pem(certificates: &[Vec<u8>]) -> String {
    let mut text = String::new();
    for certificate in certificates {
        let encoded = base64(certificate);
        text += "-----BEGIN CERTIFICATE-----\n";
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            // It is ASCII.
            let (line, more) = rest.split_at(rest.len().min(64));
            // Writing to a String does not fail.
            _ = writeln!(text, "{line}");
            rest = more;
        }
        text += "-----END CERTIFICATE-----\n";
    }
    text
}

fn base64(bytes: &[u8]) -> String {
    // The one encoder that is there anyway.
    match json!(ByteString(bytes.to_vec())) {
        Value::String(text) => text,
        _ => String::new(),
    }
}

/// Whether only this machine reaches an address, which Longshore may have to reach from another one.
pub(super) fn is_local(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::clients;

    #[tokio::test]
    async fn what_is_written_can_be_used_from_a_secret() {
        let certificate = rcgen::generate_simple_self_signed(["east".to_owned()]).unwrap().cert;
        let mut config = Config::new("https://east.example:6443/".parse().unwrap());
        config.root_cert = Some(vec![certificate.der().to_vec()]);
        config.tls_server_name = Some("east".into());
        let text = with_token("east", &config, None, "t0ken");
        assert!(text.contains("server: https://east.example:6443\n") || text.contains("6443\""), "{text}");
        let access = clients::secret("a test", &text, None).await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(access.root_cert, config.root_cert);
        assert_eq!(access.tls_server_name, config.tls_server_name);
        let other = with_token("east", &config, Some("https://10.0.0.1:443"), "t0ken");
        assert!(other.contains("https://10.0.0.1:443"), "{other}");
    }

    #[test]
    fn addresses_of_this_machine_are_known() {
        assert!(["localhost", "127.0.0.1", "[::1]", "127.1.2.3"].into_iter().all(is_local));
        assert!(!["10.0.0.1", "east.example", "[fd00::1]"].into_iter().any(is_local));
    }
}
