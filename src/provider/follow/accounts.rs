//! Which service account a delegate speaks as. Pure.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::kubelet::document::PodDocument;

/// Whose tokens the containers of a delegate have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Accounts {
    /// None: none is mounted.
    #[default]
    None,
    /// Those of this account of the target, made by the target's own admission and kubelet.
    Remote(String),
    /// Those of the proxy's account at home, and with it home's API server.
    Host(ApiServer),
}

/// Where the target's pods reach home's API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiServer {
    /// Name or address; an IPv6 address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// The tokens of one pod, as its delegate has them in an annotation: all that is needed to ask for them anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// The service account at home.
    pub account: String,
    /// What is asked for; the key in the Secret is `token-` with the place in this list.
    pub tokens: Vec<Token>,
}

/// One token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// For whom it is; `None` for the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// How long it is to live.
    pub seconds: i64,
}

/// What a token lives where the pod does not say: the default of `expirationSeconds`.
const SECONDS: i64 = 3600;

/// A kubelet renews a token at this age at the latest, however long it lives. (pkg/kubelet/token)
const OLDEST: i64 = 24 * 3600;

/// The Secret with the tokens of a pod.
pub fn secret_name(proxy_uid: &str) -> String {
    format!("{}{proxy_uid}", super::names::TOKENS)
}

/// The key of a token in that Secret.
pub fn key(index: usize) -> String {
    format!("token-{index}")
}

/// When a token of this age and end is to be renewed, in seconds of the epoch: at 80 % of its life, as a kubelet does.
pub fn renewal(now: i64, end: i64) -> i64 {
    now + ((end - now).max(0) * 4 / 5).min(OLDEST)
}

/// Puts the tokens of a Secret in the place of those that the target's kubelet would ask for; `changed` is told of each.
pub fn provide(spec: &mut Map<String, Value>, proxy: &PodDocument, mut changed: impl FnMut(String)) -> Option<Tokens> {
    let mut tokens: Vec<Token> = vec![];
    let secret = secret_name(proxy.uid());
    let volumes = spec.get_mut("volumes").and_then(Value::as_array_mut);
    for (i, volume) in volumes.into_iter().flatten().enumerate() {
        let sources = volume.pointer_mut("/projected/sources").and_then(Value::as_array_mut);
        for (j, source) in sources.into_iter().flatten().enumerate() {
            let Some(wanted) = source.get("serviceAccountToken").filter(|it| !it.is_null()) else { continue };
            let text = |field: &str| wanted.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
            let seconds = wanted.get("expirationSeconds").and_then(Value::as_i64).unwrap_or(SECONDS);
            let token = Token { audience: text("audience").map(Into::into), seconds };
            let index = tokens.iter().position(|known| *known == token).unwrap_or_else(|| {
                tokens.push(token);
                tokens.len() - 1
            });
            let path = text("path").unwrap_or_default();
            *source = json!({"secret": {"name": secret, "items": [{"key": key(index), "path": path}]}});
            changed(format!("spec.volumes[{i}].projected.sources[{j}].serviceAccountToken"));
        }
    }
    (!tokens.is_empty()).then(|| Tokens { account: account(proxy).to_owned(), tokens })
}

/// The proxy's account.
fn account(proxy: &PodDocument) -> &str {
    let name = proxy.spec.get("serviceAccountName").and_then(Value::as_str);
    name.filter(|name| !name.is_empty()).unwrap_or("default")
}

/// The variables by which a client in a container finds its API server, in front of the container's own, which win.
/// (A kubelet sets them for the Service `kubernetes`: pkg/kubelet/envvars)
pub fn introduce(spec: &mut Map<String, Value>, server: &ApiServer) {
    let host = if server.host.contains(':') { format!("[{}]", server.host) } else { server.host.clone() };
    let port = server.port.to_string();
    let variables = [
        ("KUBERNETES_SERVICE_HOST", server.host.clone()),
        ("KUBERNETES_SERVICE_PORT", port.clone()),
        ("KUBERNETES_SERVICE_PORT_HTTPS", port.clone()),
        ("KUBERNETES_PORT", format!("tcp://{host}:{port}")),
    ];
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(container) = container.as_object_mut() else { continue };
            let own = container.get("env").and_then(Value::as_array).cloned().unwrap_or_default();
            let has = |name: &str| own.iter().any(|one| one.get("name").and_then(Value::as_str) == Some(name));
            let added = variables.iter().filter(|(name, _)| !has(name));
            let mut env: Vec<Value> = added.map(|(name, value)| json!({"name": name, "value": value})).collect();
            env.extend(own);
            container.insert("env".into(), env.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        let Value::Object(object) = value else { unreachable!() };
        object
    }

    #[test]
    fn sources_become_keys_of_one_secret() {
        let mut spec = object(json!({"volumes": [{"emptyDir": {}}, {"projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}, {"configMap": {"name": "c"}},
            {"serviceAccountToken": {"path": "vault", "audience": "vault"}},
            {"serviceAccountToken": {"path": "again", "audience": "vault", "expirationSeconds": 3600}}]}}]}));
        let proxy: PodDocument =
            serde_json::from_value(json!({"metadata": {"uid": "u-1"}, "spec": {"serviceAccountName": "shop"}}))
                .unwrap();
        let mut changes = vec![];
        let tokens = provide(&mut spec, &proxy, |path| changes.push(path)).unwrap();
        let token = |audience: Option<&str>, seconds| Token { audience: audience.map(Into::into), seconds };
        assert_eq!(
            tokens,
            Tokens { account: "shop".into(), tokens: vec![token(None, 3607), token(Some("vault"), 3600)] }
        );
        let sources = &spec["volumes"][1]["projected"]["sources"];
        let secret = |key: &str, path: &str| json!({"secret": {"name": "longshore-token-u-1", "items": [{"key": key, "path": path}]}});
        assert_eq!(sources[0], secret("token-0", "token"));
        assert_eq!(sources[1], json!({"configMap": {"name": "c"}}));
        assert_eq!((&sources[2], &sources[3]), (&secret("token-1", "vault"), &secret("token-1", "again")));
        assert_eq!(changes.len(), 3);
        assert_eq!(provide(&mut object(json!({"volumes": [{"emptyDir": {}}]})), &proxy, |_| ()), None);
    }

    #[test]
    fn the_address_of_home_comes_first_and_gives_way() {
        let mut spec =
            object(json!({"containers": [{}, {"env": [{"name": "KUBERNETES_SERVICE_HOST", "value": "mine"}]}]}));
        introduce(&mut spec, &ApiServer { host: "fd00::1".into(), port: 6443 });
        let env = |i: usize| spec["containers"][i]["env"].as_array().unwrap();
        assert_eq!(env(0)[0], json!({"name": "KUBERNETES_SERVICE_HOST", "value": "fd00::1"}));
        assert_eq!(env(0)[3]["value"], "tcp://[fd00::1]:6443");
        assert_eq!((env(1).len(), &env(1)[3]["value"]), (4, &json!("mine")));
    }

    #[test]
    fn tokens_are_renewed_at_four_fifths_or_after_a_day() {
        assert_eq!(renewal(1000, 1600), 1480);
        assert_eq!(renewal(0, 365 * 24 * 3600), 24 * 3600);
        assert_eq!(renewal(1000, 900), 1000, "one that has ended already");
    }
}
