//! Whether some node of a target could take a pod now. Pure.
//!
//! A look ahead, and no more than that: the target's scheduler decides. It spares a pod the way to a target where nothing
//! matches, while there is another one where something does. What depends on other pods (affinity between pods, spread) is not
//! looked at.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::capacity::{NodeShare, Offer};
use super::requests::Requests;

/// Why no node would take a pod; `None` if one would. `spec` is the delegate's, and `ours` what our own pods ask for, by node.
pub fn obstacle<'a>(
    spec: &Value,
    asks: &Requests,
    offers: impl Iterator<Item = Offer<'a>>,
    ours: &BTreeMap<Arc<str>, Requests>,
) -> Option<String> {
    let mut nodes = 0_usize;
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for offer in offers.filter(|offer| !offer.share.virtual_node) {
        nodes += 1;
        let share = offer.share;
        let reason = if !share.ready {
            "not ready".to_owned()
        } else if !share.schedulable || share.cordoned {
            "closed".to_owned()
        } else if !selected(spec, offer.name, share) {
            "not selected by its node selector or affinity".to_owned()
        } else if let Some(taint) = share.taints.iter().find(|taint| taint.forbids() && !tolerated(spec, taint)) {
            format!("with the taint {} that it does not tolerate", taint.key)
        } else if let Some(lacking) = lacking(asks, &offer, ours.get(offer.name)) {
            format!("with too little {lacking}")
        } else {
            return None;
        };
        *reasons.entry(reason).or_default() += 1;
    }
    let told: Vec<_> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let told = if told.is_empty() { String::new() } else { format!(": {}", told.join(", ")) };
    Some(format!("none of its {nodes} nodes would take it now{told}"))
}

/// The first resource of which there is not enough left.
fn lacking<'a>(asks: &'a Requests, offer: &Offer<'_>, ours: Option<&Requests>) -> Option<&'a str> {
    let short = |(name, amount): &(&String, &super::quantity::Quantity)| {
        let of = |amounts: Option<&Requests>| amounts.and_then(|all| all.get(*name)).copied().unwrap_or_default();
        **amount > of(Some(&offer.share.allocatable)).minus(of(offer.taken)).minus(of(ours))
    };
    asks.iter().find(short).map(|(name, _)| name.as_str())
}

/// A taint of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

impl Mark {
    /// Keeps pods away that do not tolerate it.
    pub fn forbids(&self) -> bool {
        self.effect == "NoSchedule" || self.effect == "NoExecute"
    }
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// (ToleratesTaint in k8s.io/component-helpers/scheduling/corev1)
fn tolerated(spec: &Value, taint: &Mark) -> bool {
    list(spec, "/tolerations").iter().any(|toleration| {
        let (key, effect) = (text(toleration, "key"), text(toleration, "effect"));
        (effect.is_empty() || effect == taint.effect)
            && (key.is_empty() || key == taint.key)
            && match text(toleration, "operator") {
                "" | "Equal" => text(toleration, "value") == taint.value,
                // Comparisons of numbers, or something new: the target's scheduler will tell.
                _ => true,
            }
    })
}

/// Whether node selector and required node affinity allow a node.
fn selected(spec: &Value, name: &str, share: &NodeShare) -> bool {
    let selector = spec.get("nodeSelector").and_then(Value::as_object).into_iter().flatten();
    let mut selector = selector.map(|(key, value)| share.labels.get(key).map(String::as_str) == value.as_str());
    if !selector.all(|holds| holds) {
        return false;
    }
    let path = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    if spec.pointer(path).is_none() {
        return true;
    }
    list(spec, path).iter().any(|term| {
        let (expressions, fields) = (list(term, "/matchExpressions"), list(term, "/matchFields"));
        // An empty term matches nothing.
        !(expressions.is_empty() && fields.is_empty())
            && expressions.iter().all(|one| holds(one, share.labels.get(text(one, "key")).map(String::as_str)))
            && fields.iter().all(|one| text(one, "key") != "metadata.name" || holds(one, Some(name)))
    })
}

/// (Requirement.Matches in k8s.io/apimachinery/pkg/labels)
fn holds(requirement: &Value, value: Option<&str>) -> bool {
    let among = |value: &str| list(requirement, "/values").iter().any(|one| one.as_str() == Some(value));
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = || list(requirement, "/values").first().and_then(Value::as_str).and_then(number);
    match (text(requirement, "operator"), value) {
        ("In", Some(value)) => among(value),
        ("NotIn", Some(value)) => !among(value),
        ("Gt", Some(value)) => number(value).zip(bound()).is_some_and(|(value, bound)| value > bound),
        ("Lt", Some(value)) => number(value).zip(bound()).is_some_and(|(value, bound)| value < bound),
        ("In" | "Exists" | "Gt" | "Lt", None) | ("DoesNotExist", Some(_)) => false,
        // `Exists`, the negations of what is not there, or something new.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::quantity::Quantity;
    use serde_json::json;

    fn amounts(cpu: i64) -> Requests {
        [("cpu".to_owned(), Quantity::whole(cpu))].into()
    }

    fn node(cpu: i64, labels: &[(&str, &str)]) -> NodeShare {
        NodeShare {
            ready: true,
            schedulable: true,
            allocatable: amounts(cpu),
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..NodeShare::default()
        }
    }

    fn why(spec: &Value, cpu: i64, nodes: &[NodeShare]) -> Option<String> {
        let names: Vec<Arc<str>> = (0..nodes.len()).map(|i| format!("n{i}").into()).collect();
        let offers = nodes.iter().zip(&names).map(|(share, name)| Offer { name, share, taken: None });
        obstacle(spec, &amounts(cpu), offers, &BTreeMap::new())
    }

    #[test]
    fn what_fits_the_sum_and_no_node_is_told() {
        let nodes = [node(2, &[]), node(2, &[])];
        assert_eq!(why(&json!({}), 2, &nodes), None);
        let told = why(&json!({}), 3, &nodes).unwrap();
        assert_eq!(told, "none of its 2 nodes would take it now: 2 with too little cpu");
        assert!(why(&json!({}), 1, &[]).unwrap().contains("none of its 0 nodes"));
    }

    #[test]
    fn what_others_and_we_take_counts() {
        let (share, name, taken) = (node(4, &[]), Arc::<str>::from("n"), amounts(2));
        let offer = || [Offer { name: &name, share: &share, taken: Some(&taken) }].into_iter();
        let ours = |cpu| BTreeMap::from([(name.clone(), amounts(cpu))]);
        assert_eq!(obstacle(&json!({}), &amounts(1), offer(), &ours(1)), None);
        assert!(obstacle(&json!({}), &amounts(2), offer(), &ours(1)).is_some());
    }

    #[test]
    fn selectors_affinity_and_taints_are_looked_at() {
        let nodes = [node(4, &[("disk", "ssd"), ("cores", "16")])];
        let fits = |spec: Value| why(&spec, 1, &nodes).is_none();
        assert!(fits(json!({"nodeSelector": {"disk": "ssd"}})));
        assert!(!fits(json!({"nodeSelector": {"disk": "hdd"}})));
        let affinity = |terms: Value| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": terms}}}})
        };
        for (expected, requirement) in [
            (true, json!({"key": "disk", "operator": "In", "values": ["hdd", "ssd"]})),
            (false, json!({"key": "disk", "operator": "NotIn", "values": ["ssd"]})),
            (true, json!({"key": "gpu", "operator": "NotIn", "values": ["a"]})),
            (true, json!({"key": "gpu", "operator": "DoesNotExist"})),
            (false, json!({"key": "gpu", "operator": "Exists"})),
            (true, json!({"key": "cores", "operator": "Gt", "values": ["8"]})),
            (false, json!({"key": "cores", "operator": "Lt", "values": ["8"]})),
        ] {
            assert_eq!(fits(affinity(json!([{"matchExpressions": [requirement]}]))), expected, "{requirement}");
        }
        let name =
            |name: &str| json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]);
        assert!(fits(affinity(name("n0"))) && !fits(affinity(name("n1"))) && !fits(affinity(json!([{}]))));
        let mut tainted = nodes.clone();
        tainted[0].taints.push(Mark { key: "gpu".into(), value: "yes".into(), effect: "NoSchedule".into() });
        assert!(why(&json!({}), 1, &tainted).unwrap().contains("the taint gpu"));
        for (expected, toleration) in [
            (true, json!({"operator": "Exists"})),
            (true, json!({"key": "gpu", "value": "yes"})),
            (false, json!({"key": "gpu", "value": "no"})),
            (false, json!({"key": "gpu", "operator": "Exists", "effect": "NoExecute"})),
        ] {
            let fits = why(&json!({"tolerations": [toleration]}), 1, &tainted).is_none();
            assert_eq!(fits, expected, "{toleration}");
        }
    }

    #[test]
    fn nodes_that_take_nothing_do_not_help() {
        let closed = NodeShare { cordoned: true, ..node(4, &[]) };
        let away = NodeShare { ready: false, ..node(4, &[]) };
        let virtual_node = NodeShare { virtual_node: true, ..node(4, &[]) };
        let told = why(&json!({}), 1, &[closed, away, virtual_node]).unwrap();
        assert_eq!(told, "none of its 2 nodes would take it now: 1 closed, 1 not ready");
    }
}
