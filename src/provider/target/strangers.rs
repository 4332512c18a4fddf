//! The pods of a target that are not of this virtual node: what they ask for is not on offer.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::NamespaceResourceScope;
use kube::Client;
use kube::api::ObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::watcher;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::health::Health;
use super::land::Land;
use crate::provider::capacity::stock::WATCHES;
use crate::provider::names;
use crate::provider::part::Part;
use crate::provider::reach::Reach;
use crate::provider::requests;

/// What [`Health`] calls the watches.
const NAMES: [&str; WATCHES] = ["pods of others", "pods of other virtual nodes"];

/// As much of a pod as its requests need; the rest is skipped where it is read.
#[derive(Clone, Debug, Default, Deserialize)]
struct Tenant {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Asks,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Asks {
    #[serde(skip_serializing)]
    node_name: String,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    overhead: Value,
    resources: Value,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    restart_policy: Value,
    resources: Value,
}

impl kube::Resource for Tenant {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Whose pods are no strangers, and where the others are looked for.
#[derive(Clone)]
pub(super) struct Search {
    pub(super) client: Client,
    pub(super) reach: Reach,
    pub(super) host_id: String,
    pub(super) node: String,
    /// Only those that have a node; the others take from a quota, too.
    pub(super) bound: bool,
    /// The namespaces whose quotas count.
    pub(super) quotas: Vec<String>,
    pub(super) relist_after: Option<Duration>,
}

impl Search {
    /// Together they select everything but our own.
    fn selector(&self, watch: usize) -> String {
        let Self { host_id, node, .. } = self;
        if watch == 0 {
            format!("{}!={host_id}", names::HOST)
        } else {
            format!("{}={host_id},{}!={node}", names::HOST, names::NODE)
        }
    }

    fn fields(&self, part: &Part) -> String {
        // Those that have ended take nothing.
        let alive = "status.phase!=Succeeded,status.phase!=Failed";
        match part {
            Part::Node(name) => format!("{alive},spec.nodeName={name}"),
            Part::All | Part::Pool { .. } if self.bound => format!("{alive},spec.nodeName!="),
            Part::All | Part::Pool { .. } => alive.into(),
        }
    }
}

/// Follows those of one of the watches, for ever.
pub(super) async fn watch(search: Search, watch: usize, land: Arc<Land>, health: Arc<Health>) {
    let config = watcher::Config::default().labels(&search.selector(watch)).fields(&search.fields(land.part()));
    let places = search.reach.apis::<DeserializeGuard<Tenant>>(&search.client);
    let mut stream = crate::relist::watch_all(places, config, search.relist_after).boxed();
    loop {
        match stream.try_next().await {
            Ok(Some(watcher::Event::Init)) => land.change_if(|stock| {
                stock.strangers().listing(watch);
                false
            }),
            Ok(Some(watcher::Event::InitApply(pod) | watcher::Event::Apply(pod))) => {
                // One that cannot be read hides no other, and is counted once it can be.
                let Ok(pod) = &pod.0 else { continue };
                let asks = requests::of(&json!(pod.spec));
                let uid = pod.metadata.uid.as_deref().unwrap_or_default();
                let counts = pod.metadata.namespace.as_ref().is_some_and(|name| search.quotas.contains(name));
                land.change_if(|stock| stock.strangers().seen(watch, uid, &pod.spec.node_name, counts, &asks));
            }
            Ok(Some(watcher::Event::InitDone)) => {
                land.change(|stock| stock.strangers().listed(watch));
                health.works(NAMES[watch]);
            }
            Ok(Some(watcher::Event::Delete(pod))) => {
                let uid = kube::ResourceExt::uid(&pod).unwrap_or_default();
                land.change(|stock| stock.strangers().gone(watch, &uid));
            }
            Ok(None) => return,
            Err(error) => health.interrupted(NAMES[watch], &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::quantity::Quantity;

    #[test]
    fn requests_are_read_from_as_little_as_possible() {
        let sidecar = json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}});
        let pod = json!({"metadata": {"uid": "u"}, "spec": {"nodeName": "n", "volumes": [{"name": "v"}],
            "containers": [{"name": "a", "image": "i", "resources": {"requests": {"cpu": "2"}}}],
            "initContainers": [sidecar], "overhead": {"cpu": "1"}}, "status": {"phase": "Running"}});
        let tenant: Tenant = serde_json::from_value(pod).unwrap();
        assert_eq!(requests::of(&json!(tenant.spec))["cpu"], Quantity::whole(4));
        assert_eq!(tenant.spec.node_name, "n");
        let bare: Tenant = serde_json::from_value(json!({"metadata": {}})).unwrap();
        assert_eq!(requests::of(&json!(bare.spec)).len(), 1, "the pod itself");
    }
}
