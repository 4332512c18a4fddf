//! Whether a proxy at home refers to what a delegate in a target needs. Pure.
//!
//! A kubelet may read only what the pods of its node refer to (the Node authorizer). Longshore may read more, so that it has to
//! hold itself to this: what is in a target is the word of whoever may write there.

use std::sync::Arc;

use super::accounts;
use super::copies::Home;
use super::names::{CopyKind, Key, Names, Need};
use super::{references, variables};
use crate::kubelet::document::{PodDocument, PodKey};
use crate::kubelet::provider::HostKind;
use crate::kubelet::sites::CHOICE;
use crate::provider::names;

/// What a delegate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// The proxy that it runs for.
    pub(super) proxy: PodKey,
    /// The name at home of what it needs.
    home: Box<str>,
}

impl Claim {
    /// The claim of the delegate of this proxy to something that it needs.
    pub(super) fn new(proxy: &PodKey, need: &Need) -> Self {
        Self { proxy: proxy.clone(), home: need.home.as_str().into() }
    }
}

/// The proxy that a delegate says to run for.
pub(super) fn proxy(delegate: &PodDocument) -> Option<PodKey> {
    Some(PodKey {
        namespace: delegate.annotation(names::NAMESPACE)?.into(),
        name: delegate.annotation(names::NAME)?.into(),
        uid: delegate.label(names::UID)?.into(),
    })
}

/// Whose word counts in a target.
pub(super) struct Warrant {
    /// The virtual node that proxies have to be bound to.
    pub(super) node: String,
    /// The target that has to be chosen on proxies, where there is a choice.
    pub(super) target: Option<String>,
}

impl Warrant {
    /// Where the copy of this key comes from by the word of the proxy; `None` if that refers to nothing of the kind.
    pub(super) fn home(&self, claim: &Claim, key: &Key, copies: &Names, proxy: &PodDocument) -> Option<Home> {
        let here = proxy.key() == claim.proxy
            && proxy.spec.get("nodeName").and_then(serde_json::Value::as_str) == Some(&self.node)
            && self.target.as_deref().is_none_or(|target| proxy.annotation(CHOICE) == Some(target));
        let mut spec = proxy.spec.as_object().filter(|_| here)?.clone();
        let namespace: Arc<str> = proxy.namespace().into();
        if key.kind == CopyKind::Token {
            if *key.name != accounts::secret_name(proxy.uid()) {
                return None;
            }
            let tokens = accounts::provide(&mut spec, proxy, |_| ())?;
            return Some(Home::Token {
                namespace,
                pod: proxy.name().into(),
                uid: proxy.uid().into(),
                tokens: Arc::new(tokens),
            });
        }
        if *key.name != *copies.plain(&claim.home) && *key.name != *copies.suffixed(&claim.home) {
            return None;
        }
        if key.kind == CopyKind::Services {
            let told = variables::wanted(&spec) && *claim.home == *variables::NAME;
            return told.then(|| Home::Object { kind: HostKind::Service, namespace, name: variables::NAME.into() });
        }
        let found = references::redirect(&mut spec, copies, |_| false, |_, _| ());
        let meant = found.into_iter().find(|it| CopyKind::from(it.kind) == key.kind && *it.name == *claim.home)?;
        Some(Home::Object { kind: meant.kind, namespace, name: meant.name.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn proxy(node: &str, annotations: &Value) -> PodDocument {
        let token = json!({"serviceAccountToken": {"path": "token"}});
        serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": "web", "uid": "u-1", "annotations": annotations},
            "spec": {"nodeName": node, "serviceAccountName": "keeper",
                "containers": [{"envFrom": [{"secretRef": {"name": "db"}}]}],
                "volumes": [{"projected": {"sources": [token]}}]}
        }))
        .unwrap()
    }

    fn claim(home: &str) -> Claim {
        let proxy = PodKey { namespace: "shop".into(), name: "web".into(), uid: "u-1".into() };
        Claim { proxy, home: home.into() }
    }

    fn key(kind: CopyKind, name: &str) -> Key {
        Key { namespace: "shop".into(), kind, name: name.into() }
    }

    fn home(target: Option<&str>, claim: &Claim, key: &Key, proxy: &PodDocument) -> Option<Home> {
        let warrant = Warrant { node: "virtual".into(), target: target.map(Into::into) };
        warrant.home(claim, key, &Names::new("home"), proxy)
    }

    #[test]
    fn only_what_the_proxy_refers_to_is_read_at_home() {
        let proxy = proxy("virtual", &json!({}));
        let expected = Home::Object { kind: HostKind::Secret, namespace: "shop".into(), name: "db".into() };
        let db = key(CopyKind::Secret, "db");
        assert_eq!(home(None, &claim("db"), &db, &proxy), Some(expected.clone()));
        let services = key(CopyKind::Services, &Names::new("home").suffixed(variables::NAME));
        assert!(home(None, &claim(variables::NAME), &services, &proxy).is_some(), "every pod is told of them");
        let suffixed = key(CopyKind::Secret, &Names::new("home").suffixed("db"));
        assert_eq!(home(None, &claim("db"), &suffixed, &proxy), Some(expected));
        for (claim, key) in [
            (claim("crown-jewels"), key(CopyKind::Secret, "crown-jewels")),
            (claim("db"), key(CopyKind::ConfigMap, "db")),
            (claim("db"), key(CopyKind::Secret, "elsewhere")),
        ] {
            assert_eq!(home(None, &claim, &key, &proxy), None, "{claim:?} {key}");
        }
    }

    #[test]
    fn a_proxy_vouches_for_itself_on_its_node_and_in_its_target_alone() {
        let db = key(CopyKind::Secret, "db");
        let other = Claim { proxy: PodKey { uid: "u-2".into(), ..claim("db").proxy }, ..claim("db") };
        assert_eq!(home(None, &other, &db, &proxy("virtual", &json!({}))), None);
        assert_eq!(home(None, &claim("db"), &db, &proxy("a-real-one", &json!({}))), None);
        let chosen = proxy("virtual", &json!({CHOICE: "east"}));
        assert!(home(Some("east"), &claim("db"), &db, &chosen).is_some());
        assert_eq!(home(Some("west"), &claim("db"), &db, &chosen), None);
        assert_eq!(home(Some("west"), &claim("db"), &db, &proxy("virtual", &json!({}))), None);
    }

    #[test]
    fn tokens_are_those_that_the_proxy_asks_for() {
        let proxy = proxy("virtual", &json!({names::TOKENS: "{\"account\": \"admin\", \"tokens\": []}"}));
        let Some(Home::Token { uid, tokens, .. }) =
            home(None, &claim("x"), &key(CopyKind::Token, "longshore-token-u-1"), &proxy)
        else {
            panic!("none")
        };
        assert_eq!((&*uid, tokens.account.as_str(), tokens.tokens.len()), ("u-1", "keeper", 1));
        assert_eq!(home(None, &claim("x"), &key(CopyKind::Token, "longshore-token-u-2"), &proxy), None);
    }
}
