//! The MutatingWebhookConfiguration: which pods the API server asks us about. Pure.
//!
//! It asks only about pods that ask to be offloaded, so that no other pod depends on a running Longshore: those with the
//! annotation (by a condition that the API server evaluates itself), and those in namespaces with the label (by a selector).
//! The condition cannot fail: every field that it reads is looked for first. For those pods the failure policy is Fail: a
//! pod that should be offloaded and is not would run at home, unnoticed, perhaps where it must not; one that is refused is
//! created again by its controller.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use serde_json::{Value, json};

use crate::provider::names;

/// The path of pods with the annotation.
pub(super) const PODS: &str = "/pods";
/// The path of pods in namespaces with the label.
pub(super) const NAMESPACES: &str = "/namespaces";

/// How long the API server waits for an answer, in seconds. The answer takes milliseconds, or a request for the namespace.
const TIMEOUT: u8 = 5;

/// How the API server reaches the webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// At an URL: `https://HOST:PORT`, perhaps with a path, without a slash at its end.
    Url(String),
    /// By a Service.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its port.
        port: u16,
    },
}

impl Reach {
    /// What is wrong with an URL, as the rest of a sentence, or the way to it.
    ///
    /// # Errors
    /// When the API server would refuse it.
    pub fn url(text: &str) -> Result<Self, String> {
        let url: http::Uri = text.parse().map_err(|error| format!("is no URL: {error}"))?;
        if url.scheme_str() != Some("https") {
            return Err("has to begin with https://".into());
        }
        url.host().filter(|host| !host.is_empty()).ok_or("has no host")?;
        if url.authority().is_some_and(|authority| authority.as_str().contains('@')) || url.query().is_some() {
            return Err("must have neither a user nor a query".into());
        }
        Ok(Self::Url(text.trim_end_matches('/').to_owned()))
    }

    /// What is wrong with `NAMESPACE/NAME` or `NAMESPACE/NAME:PORT`, or the way to it.
    ///
    /// # Errors
    /// When it is neither.
    pub fn service(text: &str) -> Result<Self, String> {
        let (path, port) = match text.split_once(':') {
            Some((path, port)) => {
                (path, port.parse().ok().filter(|port| *port > 0).ok_or("has no port after the colon")?)
            }
            None => (text, 443),
        };
        let (namespace, name) = path.split_once('/').ok_or("is not NAMESPACE/NAME or NAMESPACE/NAME:PORT")?;
        crate::api::names::check_label_name(namespace).map_err(|why| format!("has a namespace that {why}"))?;
        crate::api::names::check_label_name(name).map_err(|why| format!("has a name that {why}"))?;
        Ok(Self::Service { namespace: namespace.into(), name: name.into(), port })
    }

    /// The names by which the API server knows the webhook, for its certificate.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Url(url) => {
                let url: Option<http::Uri> = url.parse().ok();
                let host = url.as_ref().and_then(http::Uri::host).unwrap_or_default();
                vec![host.trim_matches(['[', ']']).to_owned()]
            }
            Self::Service { namespace, name, .. } => {
                vec![format!("{name}.{namespace}.svc"), format!("{name}.{namespace}.svc.cluster.local")]
            }
        }
    }

    fn client_config(&self, path: &str, authorities: &str) -> Value {
        let bundle = ByteString(authorities.as_bytes().to_vec());
        match self {
            Self::Url(url) => json!({"url": format!("{url}{path}"), "caBundle": bundle}),
            Self::Service { namespace, name, port } => {
                let service = json!({"namespace": namespace, "name": name, "port": port, "path": path});
                json!({"service": service, "caBundle": bundle})
            }
        }
    }
}

/// Which webhook it is, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its name, and that of the MutatingWebhookConfiguration.
    pub name: String,
    /// How it is reached.
    pub reach: Reach,
    /// Labels of the namespaces that it is for; none means all.
    pub namespaces: BTreeMap<String, String>,
    /// The namespace of Longshore itself, whose pods it is never for.
    pub own_namespace: String,
}

impl Registration {
    /// The MutatingWebhookConfiguration, with every field that the API server would fill in, so that it can be compared.
    pub fn document(&self, authorities: &str) -> Value {
        let (asks, mode) = (names::OFFLOAD, names::OFFLOAD_MODE);
        let annotated = format!(
            "has(object.metadata) && has(object.metadata.annotations) && ('{asks}' in object.metadata.annotations || \
             '{mode}' in object.metadata.annotations)"
        );
        let unbound = "!has(object.spec) || !has(object.spec.nodeName) || object.spec.nodeName == ''";
        let no_daemon = "!has(object.metadata) || !has(object.metadata.ownerReferences) || \
            !object.metadata.ownerReferences.exists(owner, has(owner.kind) && owner.kind == 'DaemonSet' && \
            has(owner.controller) && owner.controller)";
        let entry = |what: &str, path: &str, asks: String, expression: Option<Value>| {
            let mut namespaces = vec![
                json!({"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [self.own_namespace]}),
            ];
            namespaces.extend(expression);
            let mut selector = json!({"matchExpressions": namespaces});
            if !self.namespaces.is_empty() {
                selector["matchLabels"] = json!(self.namespaces);
            }
            json!({
                "name": format!("{what}.{}.longshore.dev", self.name),
                "clientConfig": self.reach.client_config(path, authorities),
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"],
                    "scope": "Namespaced"}],
                "failurePolicy": "Fail",
                "matchPolicy": "Equivalent",
                "namespaceSelector": selector,
                "objectSelector": {"matchExpressions": [
                    {"key": names::HOST, "operator": "DoesNotExist"},
                    {"key": "app.kubernetes.io/name", "operator": "NotIn", "values": ["longshore"]},
                ]},
                "matchConditions": [
                    {"name": "asks", "expression": asks},
                    {"name": "unbound", "expression": unbound},
                    {"name": "no-daemonset", "expression": no_daemon},
                ],
                "sideEffects": "None",
                "timeoutSeconds": TIMEOUT,
                "admissionReviewVersions": ["v1"],
                "reinvocationPolicy": "Never",
            })
        };
        // A pod of both kinds is asked about once.
        let rest = format!("!({annotated})");
        let labelled = json!({"key": asks, "operator": "NotIn", "values": ["false"]});
        let mut second = entry("namespaces", NAMESPACES, rest, Some(labelled));
        if let Some(all) = second.pointer_mut("/namespaceSelector/matchExpressions").and_then(Value::as_array_mut) {
            // NotIn is also true of those that do not have it.
            all.push(json!({"key": asks, "operator": "Exists"}));
        }
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": self.name, "labels": {names::MANAGED_BY: names::FIELD_MANAGER}},
            "webhooks": [entry("pods", PODS, annotated, None), second],
        })
    }
}

/// Whether a live object has all that is wanted. Lists have to be the same in number and order.
pub(super) fn covers(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            wanted.iter().all(|(field, wanted)| live.get(field).is_some_and(|live| covers(live, wanted)))
        }
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(live, wanted)| covers(live, wanted))
        }
        _ => live == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration(reach: Reach) -> Registration {
        Registration {
            name: "longshore".into(),
            reach,
            namespaces: BTreeMap::new(),
            own_namespace: "longshore-system".into(),
        }
    }

    #[test]
    fn ways_are_read() {
        let url = Reach::url("https://172.30.0.1:9443/").unwrap();
        assert_eq!(url, Reach::Url("https://172.30.0.1:9443".into()));
        assert_eq!(url.names(), ["172.30.0.1"]);
        assert_eq!(Reach::url("https://[fd00::1]:9443/x").unwrap().names(), ["fd00::1"]);
        for (odd, why) in [
            ("http://a", "begin with https://"),
            ("a", "begin with https://"),
            ("https://a?b", "neither a user nor a query"),
            ("https://u@a", "neither a user nor a query"),
            ("https://", "is no URL"),
        ] {
            let told = Reach::url(odd).unwrap_err();
            assert!(told.contains(why), "{odd}: {told}");
        }
        let service = Reach::service("ns/web:8443").unwrap();
        assert_eq!(service.names(), ["web.ns.svc", "web.ns.svc.cluster.local"]);
        assert_eq!(service, Reach::Service { namespace: "ns".into(), name: "web".into(), port: 8443 });
        assert!(matches!(Reach::service("ns/web"), Ok(Reach::Service { port: 443, .. })));
        for odd in ["web", "ns/web:", "ns/web:0", "Ns/web", "ns/we.b"] {
            assert!(Reach::service(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn no_pod_is_asked_about_that_does_not_ask() {
        let document = registration(Reach::Url("https://a".into())).document("ca");
        let [pods, namespaces] = &document["webhooks"].as_array().unwrap()[..] else { panic!("{document}") };
        assert_eq!(pods["clientConfig"], json!({"url": "https://a/pods", "caBundle": "Y2E="}));
        assert_eq!(namespaces["clientConfig"]["url"], "https://a/namespaces");
        let condition = |webhook: &Value| webhook["matchConditions"][0]["expression"].as_str().unwrap().to_owned();
        assert!(condition(pods).contains("'longshore.dev/offload' in object.metadata.annotations"));
        assert_eq!(condition(namespaces), format!("!({})", condition(pods)));
        let selected = namespaces["namespaceSelector"]["matchExpressions"].to_string();
        assert!(selected.contains(r#"{"key":"longshore.dev/offload","operator":"Exists"}"#), "{selected}");
        for webhook in [pods, namespaces] {
            assert!(webhook["namespaceSelector"].to_string().contains("longshore-system"));
            assert_eq!(webhook["failurePolicy"], "Fail");
        }
    }

    #[test]
    fn some_namespaces_are_enough_for_some() {
        let mut some = registration(Reach::service("ns/web").unwrap());
        some.namespaces = [("team".to_owned(), "a".to_owned())].into();
        let document = some.document("ca");
        for webhook in document["webhooks"].as_array().unwrap() {
            assert_eq!(webhook["namespaceSelector"]["matchLabels"], json!({"team": "a"}));
            assert_eq!(webhook["clientConfig"]["service"]["port"], 443);
        }
    }

    #[test]
    fn what_others_add_to_it_is_theirs() {
        let wanted = json!({"a": {"b": [1, {"c": 2}]}});
        assert!(covers(&json!({"a": {"b": [1, {"c": 2, "d": 3}], "e": 4}, "f": 5}), &wanted));
        for other in [json!({}), json!({"a": {"b": [1]}}), json!({"a": {"b": [1, {"c": 3}]}}), json!({"a": 1})] {
            assert!(!covers(&other, &wanted), "{other}");
        }
    }
}
