//! The users' ConfigMaps and Secrets, which pods refer to.

use anyhow::Result;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::workload::{NAMESPACES, is_taken};

/// What each namespace has: the resource, the kind and the name.
const EACH: [(&str, &str, &str); 3] =
    [("configmaps", "ConfigMap", "settings"), ("configmaps", "ConfigMap", "options"), ("secrets", "Secret", "key")];

/// A ConfigMap or a Secret, and whether it is there.
#[derive(Clone, Debug)]
struct Config {
    namespace: &'static str,
    resource: &'static str,
    kind: &'static str,
    name: &'static str,
    exists: bool,
}

impl Config {
    fn all(&self) -> String {
        format!("/api/v1/namespaces/{}/{}", self.namespace, self.resource)
    }

    fn path(&self) -> String {
        format!("{}/{}", self.all(), self.name)
    }

    fn object(&self, round: u64) -> Value {
        let meta = json!({"name": self.name, "labels": {"app": "chaos"}});
        // Base64 for Secrets: "MDE3" and the like are.
        json!({"apiVersion": "v1", "kind": self.kind, "metadata": meta, "data": {"round": format!("{round:04}")}})
    }
}

/// All of them.
pub(crate) struct Configs(Vec<Config>);

impl Configs {
    /// None of them exists yet.
    pub(crate) fn new() -> Self {
        let one = |namespace, (resource, kind, name)| Config { namespace, resource, kind, name, exists: false };
        Self(NAMESPACES.iter().flat_map(|namespace| EACH.map(|each| one(*namespace, each))).collect())
    }

    /// A user changes one of them, or takes it away for a while, although pods need it.
    pub(crate) async fn step(&mut self, which: u64, choice: u64, number: u64, host: &Cluster) -> Result<&'static str> {
        let count = u64::try_from(self.0.len()).unwrap_or(1);
        let config = &mut self.0[usize::try_from(which % count).unwrap_or(0)];
        if !config.exists {
            match host.create(&config.all(), &config.object(number)).await {
                // It was made by a request without an answer.
                Err(error) if !is_taken(&error) => return Err(error),
                _ => config.exists = true,
            }
            return Ok("configs created");
        }
        if choice < 15 {
            config.exists = false;
            return host.delete(&config.path(), &json!({})).await.map(|_| "configs deleted");
        }
        host.patch(&config.path(), &json!({"data": config.object(number)["data"]})).await.map(|_| "configs changed")
    }

    /// All of them are there again, whatever has become of them.
    pub(crate) async fn restore(&mut self, host: &Cluster) -> Result<()> {
        for config in &mut self.0 {
            if host.get(&config.path()).await.is_err() {
                host.create(&config.all(), &config.object(1)).await?;
            }
            config.exists = true;
        }
        Ok(())
    }

    /// All of them go.
    pub(crate) async fn delete_all(&mut self, host: &Cluster) -> Result<()> {
        for config in &mut self.0 {
            host.delete(&config.path(), &json!({})).await?;
            config.exists = false;
        }
        Ok(())
    }
}

/// Lets the pod of this spec refer to some of them, as this number says. Half of the pods refer to none.
pub(crate) fn refer(spec: &mut Value, number: u64) {
    if number.is_multiple_of(2) {
        return;
    }
    let mut volumes = vec![];
    if number.is_multiple_of(3) {
        spec["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "settings"}}]);
    } else {
        volumes.push(json!({"name": "settings", "configMap": {"name": "settings"}}));
    }
    if number % 5 < 2 {
        volumes.push(json!({"name": "options", "configMap": {"name": "options", "optional": true}}));
    }
    if number % 7 < 3 {
        volumes.push(json!({"name": "key", "secret": {"secretName": "key"}}));
    }
    let mount = |volume: &Value| json!({"name": volume["name"], "mountPath": format!("/{}", text(&volume["name"]))});
    spec["containers"][0]["volumeMounts"] = volumes.iter().map(mount).collect();
    spec["volumes"] = volumes.into();
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_refer_to_all_of_them_in_all_ways() {
        let specs = (0..210).map(|number| {
            let mut spec = json!({"containers": [{"name": "main"}]});
            refer(&mut spec, number);
            spec.to_string()
        });
        let all: Vec<String> = specs.collect();
        for words in ["configMapRef", "\"configMap\"", "\"optional\":true", "secretName"] {
            let count = all.iter().filter(|spec| spec.contains(words)).count();
            assert!((10..=105).contains(&count), "{words}: {count}");
        }
    }
}
