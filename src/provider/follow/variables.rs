//! The variables that tell containers of the Services of home. Pure.
//!
//! Follows `getServiceEnvVarMap` of pkg/kubelet/kubelet_pods.go and `FromServices` of pkg/kubelet/envvars. They come by a
//! ConfigMap, one for each namespace, which is the first in `envFrom` of each container: so they lose against all that the
//! pod says itself, `$(…)` finds them, and a container that starts anew sees newer ones, as on a plain node.
//!
//! The Service `kubernetes` of `default`, of which a kubelet tells every pod, is not among them: the target's kubelet tells
//! of the target's own, whose tokens a pod may have, and [`introduce`](super::accounts::introduce) of home's where it has
//! those of home.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use serde_json::{Map, Value, json};

use super::names::Names;
use super::references::Reference;
use crate::kubelet::provider::HostKind;

/// What the ConfigMap is called, less the suffix of its host.
pub const NAME: &str = "longshore-services";

/// What a ConfigMap may hold, in bytes, with some room to spare (`MaxSecretSize` is 1 MiB).
const MOST: usize = 1_000_000;

/// More than fits into a ConfigMap, and into the environment of most processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany(pub usize);

/// Whether a pod is told of the Services of its namespace. (The API server fills the field in.)
pub fn wanted(spec: &Map<String, Value>) -> bool {
    spec.get("enableServiceLinks") != Some(&Value::Bool(false))
}

/// Puts the reference to the variables in front of what each container has; `changed` is told of each path.
pub fn refer(spec: &mut Map<String, Value>, names: &Names, mut changed: impl FnMut(String)) -> Reference {
    let source = source(names);
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for (i, container) in containers.into_iter().flatten().enumerate() {
            let Some(container) = container.as_object_mut() else { continue };
            let own = container.get("envFrom").and_then(Value::as_array).cloned().unwrap_or_default();
            let all: Vec<Value> = std::iter::once(source.clone()).chain(own).collect();
            container.insert("envFrom".into(), all.into());
            changed(format!("spec.{list}[{i}].envFrom"));
        }
    }
    let field = "spec.enableServiceLinks".into();
    Reference { kind: HostKind::Service, name: NAME.into(), optional: false, field }
}

/// The entry of `envFrom`.
pub fn source(names: &Names) -> Value {
    json!({"configMapRef": {"name": names.of(HostKind::Service, NAME)}})
}

/// The variables of these Services of a namespace.
pub fn of(namespace: &str, services: &[Service]) -> Result<BTreeMap<String, String>, TooMany> {
    let mut variables = BTreeMap::new();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        if (namespace, name) == ("default", "kubernetes") {
            continue;
        }
        tell(name, service, &mut variables);
    }
    let size = variables.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > MOST { Err(TooMany(size)) } else { Ok(variables) }
}

fn tell(name: &str, service: &Service, variables: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { return };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    let prefix = upper(name);
    let mut set = |name: String, value: String| drop(variables.insert(name, value));
    set(format!("{prefix}_SERVICE_HOST"), ip.into());
    set(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    let bracketed = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    for (i, port) in ports.iter().enumerate() {
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            set(format!("{prefix}_SERVICE_PORT_{}", upper(name)), port.port.to_string());
        }
        let protocol = port.protocol.as_deref().filter(|protocol| !protocol.is_empty()).unwrap_or("TCP");
        let lower = protocol.to_lowercase();
        let url = format!("{lower}://{bracketed}:{}", port.port);
        if i == 0 {
            set(format!("{prefix}_PORT"), url.clone());
        }
        let link = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        set(format!("{link}_PROTO"), lower);
        set(format!("{link}_PORT"), port.port.to_string());
        set(format!("{link}_ADDR"), ip.into());
        set(link, url);
    }
}

/// A name as a part of a variable's.
fn upper(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, spec: &Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    }

    fn lines(namespace: &str, services: &[Service]) -> Vec<String> {
        of(namespace, services).unwrap().iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn services_are_told_of_as_a_kubelet_does() {
        let ports = json!([{"name": "web-ui", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
        let found = lines("shop", &[service("my-web", &json!({"clusterIP": "10.0.0.7", "ports": ports}))]);
        assert_eq!(
            found,
            [
                "MY_WEB_PORT=tcp://10.0.0.7:80",
                "MY_WEB_PORT_53_UDP=udp://10.0.0.7:53",
                "MY_WEB_PORT_53_UDP_ADDR=10.0.0.7",
                "MY_WEB_PORT_53_UDP_PORT=53",
                "MY_WEB_PORT_53_UDP_PROTO=udp",
                "MY_WEB_PORT_80_TCP=tcp://10.0.0.7:80",
                "MY_WEB_PORT_80_TCP_ADDR=10.0.0.7",
                "MY_WEB_PORT_80_TCP_PORT=80",
                "MY_WEB_PORT_80_TCP_PROTO=tcp",
                "MY_WEB_SERVICE_HOST=10.0.0.7",
                "MY_WEB_SERVICE_PORT=80",
                "MY_WEB_SERVICE_PORT_DNS=53",
                "MY_WEB_SERVICE_PORT_WEB_UI=80",
            ]
        );
    }

    #[test]
    fn those_without_an_address_have_none() {
        let port = json!([{"port": 1}]);
        let services = [
            service("headless", &json!({"clusterIP": "None", "ports": port})),
            service("external", &json!({"type": "ExternalName", "externalName": "x.example"})),
            service("empty", &json!({"clusterIP": "", "ports": port})),
            service("portless", &json!({"clusterIP": "10.0.0.1"})),
        ];
        assert_eq!(lines("shop", &services), [] as [&str; 0]);
    }

    #[test]
    fn an_address_of_the_sixth_version_stands_in_brackets_before_its_port() {
        let found = lines("shop", &[service("a", &json!({"clusterIP": "fd00::1", "ports": [{"port": 1}]}))]);
        assert!(found.contains(&"A_PORT=tcp://[fd00::1]:1".into()), "{found:?}");
        assert!(found.contains(&"A_SERVICE_HOST=fd00::1".into()), "{found:?}");
    }

    #[test]
    fn the_api_server_of_home_is_not_told_of() {
        let own = || [service("kubernetes", &json!({"clusterIP": "10.0.0.1", "ports": [{"port": 443}]}))];
        assert_eq!(lines("default", &own()), [] as [&str; 0]);
        assert_eq!(lines("shop", &own()).len(), 7, "one that a user calls so in another namespace");
    }

    #[test]
    fn more_than_fits_is_refused() {
        let name = |i: usize| format!("service-with-a-long-name-as-some-generators-make-{i}");
        let spec = json!({"clusterIP": "10.0.0.1", "ports": [{"port": 443}]});
        let services: Vec<_> = (0..3000).map(|i| service(&name(i), &spec)).collect();
        assert!(of("shop", &services).is_err());
        assert!(of("shop", &services[..1000]).is_ok());
    }

    #[test]
    fn the_reference_comes_first_in_every_container() {
        let own = json!({"secretRef": {"name": "s"}});
        let Value::Object(mut spec) = json!({"initContainers": [{}], "containers": [{"envFrom": [own]}, 7]}) else {
            unreachable!()
        };
        assert!(wanted(&spec));
        let names = Names::new("home");
        let mut paths = vec![];
        let reference = refer(&mut spec, &names, |path| paths.push(path));
        assert_eq!(paths, ["spec.initContainers[0].envFrom", "spec.containers[0].envFrom"]);
        assert_eq!(spec["containers"][0]["envFrom"], json!([source(&names), own]));
        assert_eq!(spec["initContainers"][0]["envFrom"], json!([source(&names)]));
        assert!(names.of(reference.kind, &reference.name).starts_with("longshore-services-"));
        spec.insert("enableServiceLinks".into(), false.into());
        assert!(!wanted(&spec));
    }
}
