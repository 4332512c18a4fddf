//! What is ours in a target that leaves, and its removal.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::cli::ask::{api_of, ask, ask_opt, title};
use crate::errors::chain;
use crate::only::only;
use crate::provider::follow::names::EVERYWHERE;
use crate::provider::names;
use crate::provider::names::{JOINED, JOINED_TO};
use crate::provider::reach::Reach;
use crate::provider::target::marker;
use crate::run::rules::reach;

use super::Leave;
use super::of_these;

/// Something of ours in the target.
pub(super) struct Thing {
    kind: &'static str,
    pub(super) namespace: String,
    name: String,
    uid: Option<String>,
}

impl Leave<'_> {
    /// All that is ours in the target because of these nodes; with `all` pods too.
    pub(super) async fn things(&self, all: bool) -> Result<Vec<Thing>, String> {
        let (client, reach) = (self.there()?, self.spec.as_ref().map(reach).unwrap_or_default());
        let mut things = vec![];
        if all {
            things.extend(self.list::<Pod>("pod", client, &reach).await?);
        }
        things.extend(self.list::<ConfigMap>("configmap", client, &reach).await?);
        things.extend(self.list::<Secret>("secret", client, &reach).await?);
        things.extend(self.list::<Service>("service", client, &reach).await?);
        things.extend(self.list::<Ingress>("ingress", client, &reach).await?);
        Ok(things)
    }

    async fn list<K>(&self, kind: &'static str, client: &Client, reach: &Reach) -> Result<Vec<Thing>, String>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let nodes = self.nodes();
        let params = ListParams::default().labels(&format!("{}={}", names::HOST, self.host_id));
        let mut things = vec![];
        for api in reach.apis::<K>(client) {
            let list = match ask(format!("list every {kind} of Longshore"), api.list_metadata(&params)).await {
                Ok(list) => list,
                // Who may not read them has made none.
                Err(error) if error.code() == Some(403) => continue,
                Err(error) => return Err(chain(&error)),
            };
            let found = list.items.into_iter().filter(|found| belongs(found.labels(), &nodes));
            things.extend(found.map(|found| Thing {
                kind,
                namespace: found.namespace().unwrap_or_default(),
                name: found.name_any(),
                uid: found.uid(),
            }));
        }
        Ok(things)
    }

    /// Removes what is left of the nodes in the target: delegates whose proxies have gone, copies, and empty namespaces.
    pub(super) async fn clean(&self, left: &mut Vec<String>) {
        // Of a node that is shared, or has pods, delegates are somebody else's business.
        let alone = self.leaving.iter().all(|one| one.whole);
        let none_at_home = matches!(self.pods_now().await, Ok(pods) if pods.is_empty());
        let things = match self.things(alone && none_at_home).await {
            Ok(things) => things,
            Err(reason) => {
                left.push(format!("what Longshore has made in the target, which cannot be read: {reason}"));
                return;
            }
        };
        let Ok(client) = self.there() else { return };
        for thing in things {
            let (version, kind) = match thing.kind {
                "pod" => ("v1", "Pod"),
                "configmap" => ("v1", "ConfigMap"),
                "secret" => ("v1", "Secret"),
                "service" => ("v1", "Service"),
                _ => ("networking.k8s.io/v1", "Ingress"),
            };
            let object = json!({"apiVersion": version, "kind": kind,
                "metadata": {"name": thing.name, "namespace": thing.namespace}});
            let what = format!("delete {}", title(&object));
            let deleted = ask_opt(what, api_of(client, &object).delete(&thing.name, &only(thing.uid.clone()))).await;
            if let Err(error) = of_these(deleted) {
                left.push(chain(&error));
            }
        }
        for namespace in &self.used {
            self.clean_namespace(client, namespace, left).await;
        }
    }

    /// Removes what marks a namespace as used by this host, and the namespace where Longshore made it and nothing else is in it.
    async fn clean_namespace(&self, client: &Client, namespace: &str, left: &mut Vec<String>) {
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let delegates = ListParams::default().labels(&format!("{}={}", names::HOST, self.host_id));
        match ask("list delegates", pods.list_metadata(&delegates)).await {
            Ok(list) if list.items.is_empty() => {}
            // Those of other targets of this host.
            _ => return,
        }
        let markers: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        _ = ask_opt("delete the marker", markers.delete(&marker(&self.host_id), &DeleteParams::default())).await;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let found = ask_opt("look at the namespace", namespaces.get_metadata(namespace)).await;
        let Ok(Some(found)) = found else { return };
        if found.labels().get(names::HOST) != Some(&self.host_id) || !is_empty(client, namespace).await {
            return;
        }
        let what = format!("delete the namespace {namespace}");
        if let Err(error) = of_these(ask_opt(what, namespaces.delete(namespace, &only(found.uid()))).await) {
            let command = format!("`kubectl delete namespace {namespace}` there, or give --kubeconfig");
            left.push(format!(
                "namespace {namespace} of the target, which Longshore made ({}); {command}",
                chain(&error)
            ));
        }
    }

    /// Removes the account, its token and its roles.
    pub(super) async fn remove_account(&self, left: &mut Vec<String>) {
        let Some(admin) = &self.admin else {
            if self.target.is_some() && !self.args.lost {
                left.push(format!(
                    "Longshore's account and roles in the target, if `longshore join` made them; `longshore leave {} --kubeconfig FILE` removes them",
                    self.args.name
                ));
            }
            return;
        };
        let selector = format!("{JOINED}={},{JOINED_TO}={}", self.args.name, self.host_id);
        let within: Vec<String> = self.spec.iter().flat_map(|spec| spec.namespaces.names.clone()).collect();
        let mut homes = BTreeSet::new();
        // Bindings first: an account without them can do nothing, whatever fails afterwards.
        for kind in [
            ApiResource::erase::<RoleBinding>(&()),
            ApiResource::erase::<ClusterRoleBinding>(&()),
            ApiResource::erase::<Role>(&()),
            ApiResource::erase::<ClusterRole>(&()),
            ApiResource::erase::<Secret>(&()),
            ApiResource::erase::<ServiceAccount>(&()),
        ] {
            remove_all(admin, &kind, &selector, &within, &mut homes, left).await;
        }
        for namespace in homes {
            remove_namespace(admin, &namespace).await;
        }
    }
}

/// Whether something in a target is there because of these nodes and no other.
fn belongs(labels: &BTreeMap<String, String>, nodes: &BTreeSet<&str>) -> bool {
    let needed_by: Vec<&str> = labels.keys().filter_map(|key| key.strip_prefix(names::NEEDED_BY)).collect();
    match labels.get(names::NODE) {
        Some(node) => nodes.contains(node.as_str()),
        None => !needed_by.is_empty() && needed_by.iter().all(|node| nodes.contains(node)),
    }
}

/// Whether nobody has anything in a namespace but what every namespace has.
async fn is_empty(client: &Client, namespace: &str) -> bool {
    async fn none<K>(client: &Client, namespace: &str, counts: fn(&str) -> bool) -> bool
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(client.clone(), namespace);
        let list = ask("look into the namespace", api.list_metadata(&ListParams::default())).await;
        list.is_ok_and(|list| !list.items.iter().any(|found| counts(&found.name_any())))
    }
    none::<Pod>(client, namespace, |_| true).await
        && none::<PersistentVolumeClaim>(client, namespace, |_| true).await
        && none::<Service>(client, namespace, |_| true).await
        && none::<Secret>(client, namespace, |_| true).await
        && none::<ConfigMap>(client, namespace, |name| !EVERYWHERE.contains(&name)).await
        && none::<ServiceAccount>(client, namespace, |name| name != "default").await
}

/// Removes a namespace that `longshore join` made, once it is empty.
pub(super) async fn remove_namespace(client: &Client, namespace: &str) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let found = ask_opt("look at the namespace", namespaces.get_metadata(namespace)).await;
    let Ok(Some(found)) = found else { return };
    if found.labels().contains_key(JOINED) && is_empty(client, namespace).await {
        _ = ask_opt("delete the namespace", namespaces.delete(namespace, &only(found.uid()))).await;
    }
}

/// Removes all with these labels: everywhere, or in these namespaces where that is all that may be read.
async fn remove_all(
    client: &Client,
    kind: &ApiResource,
    selector: &str,
    within: &[String],
    homes: &mut BTreeSet<String>,
    left: &mut Vec<String>,
) {
    let params = ListParams::default().labels(selector);
    let what = || format!("list every {} of the account", kind.kind);
    let everywhere: Api<DynamicObject> = Api::all_with(client.clone(), kind);
    let mut found = vec![];
    match ask(what(), everywhere.list_metadata(&params)).await {
        Ok(list) => found.extend(list.items),
        Err(error) if error.code() == Some(403) && !within.is_empty() => {
            if kind.kind.starts_with("Cluster") {
                // Who may not read them has made none.
                return;
            }
            for namespace in within {
                let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, kind);
                match ask(what(), api.list_metadata(&params)).await {
                    Ok(list) => found.extend(list.items),
                    Err(error) => left.push(format!("{} of the target, in namespace {namespace}", chain(&error))),
                }
            }
        }
        Err(error) => left.push(format!("{} of the target; remove those with the labels {selector}", chain(&error))),
    }
    for one in found {
        let mut object =
            json!({"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": one.name_any()}});
        if let Some(namespace) = one.namespace() {
            object["metadata"]["namespace"] = namespace.as_str().into();
            if kind.kind == "ServiceAccount" {
                homes.insert(namespace);
            }
        }
        let what = format!("delete {}", title(&object));
        if let Err(error) =
            of_these(ask_opt(what, api_of(client, &object).delete(&one.name_any(), &only(one.uid()))).await)
        {
            left.push(chain(&error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_need_too_does_not_belong_to_the_nodes_that_go() {
        let nodes = BTreeSet::from(["east"]);
        let labels =
            |all: &[(&str, &str)]| all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        assert!(belongs(&labels(&[(names::NODE, "east")]), &nodes));
        assert!(!belongs(&labels(&[(names::NODE, "west")]), &nodes));
        assert!(belongs(&labels(&[("node.longshore.dev/east", "")]), &nodes));
        assert!(!belongs(&labels(&[("node.longshore.dev/east", ""), ("node.longshore.dev/west", "")]), &nodes));
        assert!(!belongs(&labels(&[]), &nodes));
    }
}
