//! Kubeconfig files, as JSON, which every reader of YAML takes.

use std::path::Path;

use serde_json::{Value, json};

use crate::{files, pki, pki::Pki, plan::Plan};

/// Writes a kubeconfig that acts as the user of the certificate `user`.
///
/// Certificates go in by value, so that the file can be copied elsewhere.
pub(crate) fn write(path: &Path, plan: &Plan, pki: &Pki, user: &str) -> Result<(), files::Error> {
    let authority = files::read(&pki.certificate(pki::CA))?;
    let certificate = files::read(&pki.certificate(user))?;
    let key = files::read(&pki.key(user))?;
    files::write_json(path, &render(plan, &authority, &certificate, &key))
}

fn render(plan: &Plan, authority: &[u8], certificate: &[u8], key: &[u8]) -> Value {
    let name = plan.name().as_str();
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{
            "name": name,
            "cluster": {"server": plan.server(), "certificate-authority-data": base64(authority)},
        }],
        "users": [{
            "name": name,
            "user": {"client-certificate-data": base64(certificate), "client-key-data": base64(key)},
        }],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    })
}

/// Standard base64 with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = (0..3).fold(0u32, |group, i| group << 8 | u32::from(chunk.get(i).copied().unwrap_or(0)));
        for i in 0..4 {
            let digit = ALPHABET[(group >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn the_current_context_leads_to_the_api_server() {
        let config = render(&Plan::new("east".parse().unwrap(), 1), b"a", b"b", b"c");
        assert_eq!(config["current-context"], "east");
        assert_eq!(config["clusters"][0]["cluster"]["server"], "https://172.30.0.11:6443");
        assert_eq!(config["contexts"][0]["context"], json!({"cluster": "east", "user": "east"}));
    }
}
