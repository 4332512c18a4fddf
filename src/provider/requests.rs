//! What a pod asks its node for. Pure.
//!
//! Follows PodRequests of k8s.io/component-helpers/resource: containers and sidecars run side by side, init containers one
//! after the other beside the sidecars that were started before them; the overhead comes on top.

use std::collections::BTreeMap;

use serde_json::Value;

use super::quantity::Quantity;

/// Amounts by resource. `pods` counts the pod itself.
pub type Requests = BTreeMap<String, Quantity>;

/// The requests of a pod's spec. An amount that cannot be read counts as none: the API server admits no such pod.
pub fn of(spec: &Value) -> Requests {
    let list = |field: &str| spec.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut side_by_side = Requests::new();
    for container in list("containers") {
        add(&mut side_by_side, &container_requests(container));
    }
    let (mut sidecars, mut peak) = (Requests::new(), Requests::new());
    for container in list("initContainers") {
        let own = container_requests(container);
        if container.get("restartPolicy").and_then(Value::as_str) == Some("Always") {
            add(&mut sidecars, &own);
            raise(&mut peak, &sidecars);
        } else {
            let mut moment = sidecars.clone();
            add(&mut moment, &own);
            raise(&mut peak, &moment);
        }
    }
    add(&mut side_by_side, &sidecars);
    raise(&mut side_by_side, &peak);
    // Of the whole pod (KEP-2837): what it names counts instead.
    for (name, amount) in amounts(spec.pointer("/resources/requests")) {
        side_by_side.insert(name, amount);
    }
    add(&mut side_by_side, &amounts(spec.get("overhead")));
    side_by_side.insert("pods".into(), Quantity::whole(1));
    side_by_side
}

/// Adds amounts.
pub fn add(total: &mut Requests, more: &Requests) {
    for (name, amount) in more {
        let entry = total.entry(name.clone()).or_default();
        *entry = *entry + *amount;
    }
}

/// Takes amounts away; never below nothing.
pub fn subtract(total: &mut Requests, less: &Requests) {
    for (name, amount) in less {
        if let Some(entry) = total.get_mut(name) {
            *entry = entry.minus(*amount);
        }
    }
}

fn raise(total: &mut Requests, least: &Requests) {
    for (name, amount) in least {
        let entry = total.entry(name.clone()).or_default();
        *entry = (*entry).max(*amount);
    }
}

/// A limit without a request is a request, as admission has it.
fn container_requests(container: &Value) -> Requests {
    let mut requests = amounts(container.pointer("/resources/limits"));
    requests.extend(amounts(container.pointer("/resources/requests")));
    requests
}

fn amounts(map: Option<&Value>) -> Requests {
    let read = |(name, amount): (&String, &Value)| {
        let text = amount.as_str().map_or_else(|| amount.to_string(), ToOwned::to_owned);
        Some((name.clone(), text.parse().ok()?))
    };
    map.and_then(Value::as_object).into_iter().flatten().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(cpu: &str) -> Value {
        json!({"resources": {"requests": {"cpu": cpu}}})
    }

    fn cpu(spec: &Value) -> String {
        of(spec).get("cpu").copied().unwrap_or_default().print("cpu")
    }

    #[test]
    fn containers_run_side_by_side_and_init_containers_one_after_the_other() {
        let spec = json!({"containers": [container("1"), container("500m")], "initContainers": [container("2")]});
        assert_eq!(cpu(&spec), "2");
        let spec = json!({"containers": [container("1"), container("500m")], "initContainers": [container("1")]});
        assert_eq!(cpu(&spec), "1500m");
    }

    #[test]
    fn a_sidecar_counts_beside_all_that_comes_after_it() {
        let mut sidecar = container("1");
        sidecar["restartPolicy"] = "Always".into();
        let spec = json!({"containers": [container("1")], "initContainers": [container("5"), sidecar, container("3")]});
        assert_eq!(cpu(&spec), "5");
        let spec = json!({"containers": [container("1")], "initContainers": [sidecar, container("5")]});
        assert_eq!(cpu(&spec), "6");
    }

    #[test]
    fn limits_overhead_and_the_whole_pod_count() {
        let limit = json!({"resources": {"limits": {"cpu": "2", "nvidia.com/gpu": "1"}, "requests": {"cpu": "1"}}});
        let spec = json!({"containers": [limit], "overhead": {"cpu": "250m"}});
        assert_eq!(cpu(&spec), "1250m");
        assert_eq!(of(&spec)["nvidia.com/gpu"], Quantity::whole(1));
        assert_eq!(of(&spec)["pods"], Quantity::whole(1));
        let spec = json!({"containers": [container("1")], "resources": {"requests": {"cpu": "4"}}});
        assert_eq!(cpu(&spec), "4");
    }
}
