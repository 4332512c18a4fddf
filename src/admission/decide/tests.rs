use proptest::prelude::*;

use super::*;
use crate::provider::translate::devices::Claimed;
use crate::provider::translate::{Rules, Site, translate};

fn taint(key: &str, value: &str, effect: TaintEffect) -> Taint {
    Taint { key: key.into(), value: value.into(), effect }
}

fn roster() -> Roster {
    let place = |node: &str, targets: &[&str], taints: &[Taint]| Place {
        node: node.into(),
        targets: targets.iter().map(|name| (*name).to_owned()).collect(),
        devices: targets
            .iter()
            .filter(|name| ["east", "north"].contains(name))
            .map(|name| (*name).to_owned())
            .collect(),
        taints: taints.to_vec(),
    };
    let own = |node: &str| taint(names::TAINT, node, TaintEffect::NoSchedule);
    Roster::new(vec![
        place("east", &["east"], &[own("east")]),
        place("both", &["west", "north"], &[own("both"), taint("far", "", TaintEffect::NoExecute)]),
        place("bare", &["bare"], &[taint("slow", "", TaintEffect::PreferNoSchedule)]),
    ])
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn decide(pod: &Value, namespace: &[(&str, &str)]) -> Result<Admitted, String> {
    let roster = roster();
    admission(pod, &labels(namespace), &Config { roster: &roster, name: "longshore" }).map_err(|refusal| refusal.0)
}

/// The pod as the API server makes it.
fn patched(pod: &Value, patch: &[Value]) -> Value {
    let mut pod = pod.clone();
    for step in patch {
        let (parent, key) = step["path"].as_str().unwrap().rsplit_once('/').unwrap();
        let key = key.replace("~1", "/").replace("~0", "~");
        let parent = pod.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        match step["op"].as_str().unwrap() {
            "add" => drop(parent.insert(key, step["value"].clone())),
            "remove" => assert!(parent.remove(&key).is_some(), "{step} of what is not there"),
            other => panic!("{other}"),
        }
    }
    pod
}

fn admitted(pod: &Value, namespace: &[(&str, &str)]) -> Value {
    patched(pod, &decide(pod, namespace).unwrap().patch)
}

fn pod(annotations: &Value, spec: &Value) -> Value {
    json!({"kind": "Pod", "metadata": {"name": "p", "annotations": annotations}, "spec": spec})
}

fn asking(wish: &str, spec: &Value) -> Value {
    pod(&json!({names::OFFLOAD: wish}), spec)
}

fn tolerates_node(node: &str) -> Value {
    json!({"key": names::TAINT, "operator": "Equal", "value": node, "effect": "NoSchedule"})
}

fn node_terms(pod: &Value) -> &Value {
    let path = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    pod.pointer(path).unwrap_or(&Value::Null)
}

fn term(nodes: &[&str]) -> Value {
    json!({"matchExpressions": [{"key": "longshore.dev/virtual-node", "operator": "In", "values": nodes}]})
}

fn constraints(pod: &Value) -> Constraints {
    Constraints::read(annotation(pod, names::CONSTRAINTS).unwrap()).unwrap()
}

#[test]
fn a_pod_that_does_not_ask_stays_as_it_is() {
    assert_eq!(decide(&pod(&Value::Null, &json!({})), &[]), Ok(Admitted::default()));
    assert_eq!(decide(&asking("false", &json!({})), &[(names::OFFLOAD, "true")]), Ok(Admitted::default()));
    let local = pod(&json!({names::OFFLOAD_MODE: "Local"}), &json!({}));
    assert_eq!(decide(&local, &[(names::OFFLOAD, "true")]), Ok(Admitted::default()));
    assert_eq!(decide(&pod(&Value::Null, &json!({})), &[(names::OFFLOAD, "false")]), Ok(Admitted::default()));
    assert_eq!(decide(&json!({"metadata": 7, "spec": []}), &[]), Ok(Admitted::default()));
}

#[test]
fn a_pod_that_is_none_of_ours_stays_as_it_is() {
    for odd in [
        json!({"spec": {"nodeName": "metal"}}),
        json!({"metadata": {"annotations": {names::OFFLOAD: "true"}, "labels": {names::HOST: "h"}}}),
        json!({"metadata": {"annotations": {names::OFFLOAD: "true"},
            "ownerReferences": [{"kind": "DaemonSet", "controller": true}]}}),
    ] {
        let mut one = asking("true", &json!({}));
        for (part, fields) in odd.as_object().unwrap() {
            for (field, value) in fields.as_object().unwrap() {
                one[part][field] = value.clone();
            }
        }
        assert_eq!(decide(&one, &[(names::OFFLOAD, "true")]), Ok(Admitted::default()), "{one}");
    }
}

#[test]
fn a_mode_without_a_place_is_told_and_changes_nothing() {
    let admitted = decide(&pod(&json!({names::OFFLOAD_MODE: "Remote"}), &json!({})), &[]).unwrap();
    assert!(admitted.patch.is_empty());
    assert!(admitted.warnings[0].contains("add the annotation longshore.dev/offload"), "{:?}", admitted.warnings);
}

#[test]
fn a_remote_pod_is_for_the_virtual_nodes_alone() {
    let own = json!({"nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "gpu"}],
        "affinity": {"podAntiAffinity": {"x": []}}, "topologySpreadConstraints": [{"maxSkew": 1}]});
    let after = admitted(&asking("true", &own), &[]);
    assert_eq!(after["spec"]["affinity"], required(&json!([term(&["bare", "both", "east"])])));
    let far = json!({"key": "far", "operator": "Equal", "value": "", "effect": "NoExecute"});
    let added = json!([tolerates_node("both"), far, tolerates_node("east")]);
    assert_eq!(after["spec"]["tolerations"], json!([{"key": "gpu"}, added[0], added[1], added[2]]));
    assert_eq!(after["spec"].as_object().unwrap().len(), 2, "{after}");
    let kept = constraints(&after);
    assert_eq!(
        json!(kept.was),
        json!({"nodeSelector": own["nodeSelector"], "affinity": own["affinity"],
        "topologySpreadConstraints": own["topologySpreadConstraints"]})
    );
    assert_eq!(json!(kept.added.tolerations), added);
    assert_eq!(after["metadata"]["labels"], Value::Null);
}

#[test]
fn what_is_tolerated_already_is_not_added() {
    for tolerations in [
        json!([{"operator": "Exists"}]),
        json!([{"key": names::TAINT, "operator": "Exists", "effect": "NoSchedule"}]),
        json!([{"key": names::TAINT, "value": "east"}]),
    ] {
        let after = admitted(&asking("east", &json!({"tolerations": tolerations})), &[]);
        assert_eq!(after["spec"]["tolerations"], tolerations);
    }
    for other in [
        json!({"key": names::TAINT, "value": "west"}),
        json!({"key": names::TAINT, "operator": "Exists", "effect": "NoExecute"}),
        json!({"key": names::TAINT, "operator": "Gt", "value": "1"}),
        json!({"key": "gpu", "operator": "Exists"}),
    ] {
        let after = admitted(&asking("east", &json!({"tolerations": [other]})), &[]);
        assert_eq!(after["spec"]["tolerations"], json!([other, tolerates_node("east")]));
    }
}

#[test]
fn targets_and_virtual_nodes_are_named_alike() {
    let goes_to = |wish: &str| node_terms(&admitted(&asking(wish, &json!({})), &[])).clone();
    assert_eq!(goes_to("east"), json!([term(&["east"])]));
    assert_eq!(goes_to("north,east"), json!([term(&["both", "east"])]));
    assert_eq!(goes_to("both"), json!([term(&["both"])]));
}

#[test]
fn the_namespace_asks_for_its_pods_and_a_pod_for_itself() {
    let bare = pod(&Value::Null, &json!({}));
    let after = admitted(&bare, &[(names::OFFLOAD, "east_north"), (names::OFFLOAD_MODE, "Remote")]);
    assert_eq!(node_terms(&after), &json!([term(&["both", "east"])]));
    assert_eq!(annotation(&after, names::OFFLOAD), Some("east,north"), "it is written where the placement reads it");
    let after = admitted(&asking("both", &json!({})), &[(names::OFFLOAD, "east")]);
    assert_eq!(node_terms(&after), &json!([term(&["both"])]));
    let both = pod(&json!({names::OFFLOAD_MODE: "Remote"}), &json!({}));
    let after = admitted(&both, &[(names::OFFLOAD, "east"), (names::OFFLOAD_MODE, "LocalAndRemote")]);
    assert_eq!(after["metadata"]["labels"], Value::Null, "{after}");
}

#[test]
fn what_makes_no_sense_is_refused_with_a_remedy() {
    let refused = |pod: &Value, labels: &[(&str, &str)]| decide(pod, labels).unwrap_err();
    let unknown = refused(&asking("wset", &json!({})), &[]);
    assert!(unknown.contains("names wset, which is neither a target nor a virtual node here"), "{unknown}");
    assert!(unknown.contains("known are bare, both, east, north, west"), "{unknown}");
    let empty = refused(&asking("", &json!({})), &[]);
    assert!(empty.starts_with("the pod's annotation longshore.dev/offload is \"\"; write true"), "{empty}");
    let mode = refused(&asking("true", &json!({})), &[(names::OFFLOAD_MODE, "remote")]);
    assert!(mode.starts_with("the namespace's label longshore.dev/offload-mode is \"remote\"; write Local,"), "{mode}");
    let config = Config { roster: &Roster::default(), name: "longshore" };
    let none = admission(&asking("east", &json!({})), &BTreeMap::new(), &config).unwrap_err().0;
    assert!(none.contains("create a Target"), "{none}");
}

#[test]
fn one_unknown_name_among_others_is_a_warning() {
    let admitted = decide(&asking("east,wset", &json!({})), &[]).unwrap();
    assert!(admitted.warnings[0].contains("names wset, which is neither"), "{:?}", admitted.warnings);
    assert!(!admitted.patch.is_empty());
}

fn later_pod(spec: &Value) -> Value {
    pod(&json!({names::OFFLOAD: "east", names::OFFLOAD_MODE: "LocalAndRemote"}), spec)
}

#[test]
fn a_pod_that_stays_at_home_first_asks_home_what_it_asked() {
    let own = json!({"tolerations": [{"key": "gpu"}], "topologySpreadConstraints": [{"maxSkew": 1}],
        "affinity": {"podAntiAffinity": {"x": []}}});
    let after = admitted(&later_pod(&own), &[]);
    assert_eq!(after["spec"], own);
    assert_eq!(after["metadata"]["labels"], json!({names::LATER: "longshore"}));
    assert_eq!(constraints(&after).added.tolerations, [tolerates_node("east")]);
}

#[test]
fn to_kinds_of_nodes_the_virtual_nodes_become_an_alternative() {
    let after = admitted(&later_pod(&json!({"nodeSelector": {"disk": "ssd"}})), &[]);
    let ssd = json!({"key": "disk", "operator": "In", "values": ["ssd"]});
    assert_eq!(node_terms(&after), &json!([{"matchExpressions": [ssd]}, term(&["east"])]));
    assert_eq!(after["spec"]["nodeSelector"], Value::Null);

    let gpu = json!({"key": "gpu", "operator": "Exists"});
    let name = json!({"key": "metadata.name", "operator": "In", "values": ["metal"]});
    let mut own = required(&json!([{"matchExpressions": [gpu]}, {"matchFields": [name]}, {}]));
    own["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] = json!([{"weight": 1}]);
    let spec = json!({"nodeSelector": {"disk": "ssd"}, "affinity": own});
    let after = admitted(&later_pod(&spec), &[]);
    let terms = json!([{"matchExpressions": [gpu, ssd]}, {"matchFields": [name], "matchExpressions": [ssd]}, {},
        term(&["east"])]);
    assert_eq!(node_terms(&after), &terms);
    let preferred = &after["spec"]["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(preferred, &json!([{"weight": 1}]));
    assert_eq!(json!(constraints(&after).was), spec);
}

#[test]
fn a_node_without_a_taint_cannot_keep_a_pod_at_home() {
    let mut one = later_pod(&json!({}));
    one["metadata"]["annotations"][names::OFFLOAD] = "bare".into();
    let admitted = decide(&one, &[]).unwrap();
    assert!(admitted.warnings[0].contains("the virtual node bare has no taint"), "{:?}", admitted.warnings);
    assert_eq!(patched(&one, &admitted.patch)["metadata"]["labels"], Value::Null, "there is nothing to wait for");
}

#[test]
fn a_copy_of_a_pod_that_was_offloaded_begins_anew() {
    let own = json!({"nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "gpu"}]});
    let mut copy = admitted(&asking("east", &own), &[]);
    copy["metadata"]["annotations"][names::OFFLOAD] = "both".into();
    let after = admitted(&copy, &[]);
    assert_eq!(node_terms(&after), &json!([term(&["both"])]));
    assert_eq!(json!(constraints(&after).was), json!({"nodeSelector": {"disk": "ssd"}}));
    copy["metadata"]["annotations"][names::OFFLOAD] = "false".into();
    let home = admitted(&copy, &[]);
    assert_eq!(home["spec"], own, "it stays at home, as its user made it");
    assert_eq!(annotation(&home, names::CONSTRAINTS), None);
    let mut waiting = admitted(&later_pod(&own), &[]);
    waiting["metadata"]["annotations"][names::OFFLOAD_MODE] = "Remote".into();
    assert_eq!(admitted(&waiting, &[])["metadata"]["labels"], json!({}));
}

/// A spec whose pod claims a device for a container.
fn claiming() -> Value {
    json!({"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "t"}],
        "initContainers": [{"name": "i", "resources": {"claims": [{"name": "gpu"}]}}],
        "containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}, "claims": [{"name": "gpu"}]}}, {"name": "d"}]})
}

#[test]
fn devices_are_not_asked_of_homes_scheduler() {
    let pod = asking("east", &claiming());
    let after = admitted(&pod, &[]);
    assert_eq!(after["spec"]["resourceClaims"], Value::Null);
    let containers = [&after["spec"]["initContainers"], &after["spec"]["containers"]];
    assert_eq!(containers[0], &json!([{"name": "i", "resources": {}}]));
    assert_eq!(containers[1], &json!([{"name": "c", "resources": {"limits": {"cpu": "1"}}}, {"name": "d"}]));
    let kept: Value = serde_json::from_str(annotation(&after, names::RESOURCE_CLAIMS).unwrap()).unwrap();
    let claims = json!([{"name": "gpu"}]);
    assert_eq!(kept, json!({"pod": claiming()["resourceClaims"], "containers": {"c": claims, "i": claims}}));
    // A copy of it is its user's own again.
    let mut copy = after;
    copy["metadata"]["annotations"][names::OFFLOAD] = "false".into();
    let home = admitted(&copy, &[]);
    assert_eq!(home["spec"], claiming());
    assert_eq!(annotation(&home, names::RESOURCE_CLAIMS), None);
}

#[test]
fn a_pod_that_claims_devices_goes_where_some_are_given() {
    let goes_to = |wish: &str| {
        let pod = asking(wish, &claiming());
        let admitted = decide(&pod, &[]).unwrap();
        (node_terms(&patched(&pod, &admitted.patch)).clone(), admitted.warnings.concat())
    };
    let (terms, warning) = goes_to("true");
    assert_eq!(terms, json!([term(&["both", "east"])]));
    assert!(warning.contains("does not go to bare, which give none"), "{warning}");
    assert_eq!(goes_to("east"), (json!([term(&["east"])]), String::new()));
    assert_eq!(goes_to("west,east").0, json!([term(&["east"])]), "of the node both only west is meant");
    assert_eq!(goes_to("both"), (json!([term(&["both"])]), String::new()), "one of its targets gives some");
    // Nobody gives any: the pod is held there, and says what to do.
    let (terms, warning) = goes_to("bare,west");
    assert_eq!(terms, json!([term(&["bare", "both"])]));
    assert!(warning.contains("is held at bare, both") && warning.contains("to Remote"), "{warning}");
}

#[test]
fn a_pod_that_may_stay_at_home_claims_devices_there() {
    let pod = later_pod(&claiming());
    let admitted = decide(&pod, &[]).unwrap();
    let after = patched(&pod, &admitted.patch);
    assert_eq!(after["spec"], claiming());
    assert_eq!(annotation(&after, names::RESOURCE_CLAIMS), None);
    assert!(admitted.warnings[0].contains("use the mode Remote"), "{:?}", admitted.warnings);
}

#[test]
fn devices_that_a_user_writes_into_the_annotation_are_read_like_ours() {
    let said = r#"{"pod":[{"name":"gpu","resourceClaimName":"x"}],"containers":{"c":[{"name":"gpu"}]}}"#;
    let with = |text: &str, spec: Value| pod(&json!({names::OFFLOAD: "east", names::RESOURCE_CLAIMS: text}), &spec);
    let bare = json!({"containers": [{"name": "c"}]});
    let after = admitted(&with(said, bare.clone()), &[]);
    assert_eq!(after["spec"]["containers"], json!([{"name": "c"}]));
    assert_eq!(
        serde_json::from_str::<Value>(annotation(&after, names::RESOURCE_CLAIMS).unwrap()).unwrap(),
        serde_json::from_str::<Value>(said).unwrap()
    );
    let refused = |text: &str, spec: Value| decide(&with(text, spec), &[]).unwrap_err();
    let why = refused("gpu", bare.clone());
    assert!(why.starts_with("the pod's annotation longshore.dev/resource-claims is not {"), "{why}");
    assert!(refused(said, json!({"containers": []})).contains("names container c, which the pod does not have"));
    assert!(refused(said, claiming()).contains("is there beside spec.resourceClaims"));
    let mut home = with("gpu", bare);
    home["metadata"]["annotations"][names::OFFLOAD] = "false".into();
    assert_eq!(decide(&home, &[]), Ok(Admitted::default()), "at home it means nothing");
}

prop_compose! {
    fn any_map()(map in proptest::option::of(proptest::collection::btree_map("[a-c](/[a-c~])?", "[a-z]{0,3}", 0..3))) -> Value {
        json!(map)
    }
}

fn any_terms() -> impl Strategy<Value = Value> {
    let expression = prop_oneof![
        Just(json!({"key": "disk", "operator": "Exists"})),
        Just(json!({"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]})),
        Just(json!({"key": "kubernetes.io/hostname", "operator": "In", "values": ["metal"]})),
    ];
    let term = prop_oneof![
        1 => Just(json!({})),
        3 => proptest::collection::vec(expression, 1..3).prop_map(|all| json!({"matchExpressions": all})),
    ];
    proptest::collection::vec(term, 0..3).prop_map(Value::Array)
}

fn any_toleration() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"operator": "Exists"})),
        Just(json!({"key": "gpu", "operator": "Exists"})),
        Just(json!({"key": "far", "effect": "NoExecute"})),
        Just(tolerates_node("east")),
        Just(json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": 300})),
    ]
}

prop_compose! {
    fn any_pod()(
        annotations in any_map(), labels in any_map(), selector in any_map(), terms in proptest::option::of(any_terms()),
        others in proptest::option::of(Just(json!({"podAffinity": {"x": []}}))),
        tolerations in proptest::option::of(proptest::collection::vec(any_toleration(), 1..3)),
        spread in proptest::option::of(Just(json!([{"maxSkew": 1}]))),
        wish in prop_oneof![Just("true"), Just("east"), Just("both,east"), Just("north"), Just("false"), Just("bare")],
        mode in proptest::option::of(prop_oneof![Just("Remote"), Just("LocalAndRemote"), Just("Local")]),
        novel in any_map(), owners in proptest::option::of(Just(json!([{"kind": "Job", "uid": "j", "controller": true}]))),
        devices in any::<bool>(),
    ) -> Value {
        let mut pod = json!({"kind": "Pod", "novel": novel, "metadata": {"name": "p", "namespace": "n", "uid": "u",
            "generateName": "g"}, "spec": {"containers": [{"name": "c", "image": "i"}], "novel": novel}});
        let mut set = |part: &str, field: &str, value: Value| {
            if !value.is_null() {
                pod[part][field] = value;
            }
        };
        set("metadata", "annotations", annotations);
        set("metadata", "labels", labels);
        set("metadata", "ownerReferences", json!(owners));
        set("spec", "nodeSelector", selector);
        let mut affinity = others.unwrap_or(Value::Null);
        if let Some(terms) = terms {
            affinity["nodeAffinity"] = required(&terms)["nodeAffinity"].clone();
        }
        set("spec", "affinity", affinity);
        set("spec", "tolerations", json!(tolerations));
        set("spec", "topologySpreadConstraints", json!(spread));
        if devices {
            for (field, value) in claiming().as_object().into_iter().flatten() {
                set("spec", field, value.clone());
            }
        }
        give(&mut pod, "annotations", names::OFFLOAD, wish);
        if let Some(mode) = mode {
            give(&mut pod, "annotations", names::OFFLOAD_MODE, mode);
        }
        pod
    }
}

/// A pod without the fields that may be changed.
fn unrelated(pod: &Value) -> Value {
    let mut pod = pod.clone();
    take(&mut pod, "annotations", names::CONSTRAINTS);
    take(&mut pod, "annotations", names::RESOURCE_CLAIMS);
    take(&mut pod, "labels", names::LATER);
    for kind in ["initContainers", "containers"] {
        for container in pod["spec"][kind].as_array_mut().into_iter().flatten() {
            container["resources"]["claims"].take();
        }
    }
    if pod["metadata"]["labels"] == json!({}) {
        pod["metadata"].as_object_mut().unwrap().remove("labels");
    }
    for field in ["nodeSelector", "affinity", "tolerations", "topologySpreadConstraints", "resourceClaims"] {
        pod["spec"].as_object_mut().unwrap().remove(field);
    }
    pod
}

proptest! {
    #[test]
    fn nothing_else_changes(pod in any_pod()) {
        let after = admitted(&pod, &[]);
        prop_assert_eq!(unrelated(&after), unrelated(&pod));
        let own = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
        let now = after["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
        prop_assert!(now.starts_with(&own), "tolerations are added at the end: {now:?}");
    }

    #[test]
    fn a_second_time_changes_nothing(pod in any_pod()) {
        let after = admitted(&pod, &[]);
        prop_assert_eq!(decide(&after, &[]).unwrap().patch, Vec::<Value>::new());
    }

    #[test]
    fn the_delegate_is_as_if_nobody_had_touched_the_pod(pod in any_pod()) {
        let rules = Rules { claimed: Claimed::Remote, ..Rules::default() }.into();
        let site =
            Site { host_id: "home".into(), node_name: "both".into(), namespace: "n".into(), rules, ..Site::default() };
        let delegate = |pod: &Value| {
            let pod = serde_json::from_value(pod.clone()).unwrap();
            translate(&pod, &site).unwrap().delegate.spec
        };
        let mut after = admitted(&pod, &[]);
        // As when it is let go.
        if after["metadata"]["labels"].get(names::LATER).is_some() {
            let mut all = after["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
            all.extend(constraints(&after).added.tolerations);
            after["spec"]["tolerations"] = all.into();
        }
        prop_assert_eq!(delegate(&after), delegate(&pod));
    }

    #[test]
    fn no_junk_makes_it_panic(text in "\\PC*", pod in any_pod()) {
        let mut pod = pod;
        give(&mut pod, "annotations", names::CONSTRAINTS, &text);
        give(&mut pod, "annotations", names::RESOURCE_CLAIMS, &text);
        drop(decide(&pod, &[(names::OFFLOAD_MODE, &text)]));
        give(&mut pod, "annotations", names::OFFLOAD, &text);
        drop(decide(&pod, &[]));
        for field in ["nodeSelector", "affinity", "tolerations", "topologySpreadConstraints", "resourceClaims"] {
            pod["spec"][field] = text.clone().into();
        }
        give(&mut pod, "annotations", names::OFFLOAD, "true");
        drop(decide(&pod, &[]));
    }
}

#[test]
fn a_pod_is_kept_off_nodes_that_had_no_room_for_its_siblings() {
    let room = json!({"key": "no-room.longshore.dev/rs-1", "operator": "DoesNotExist"});
    let made = |wish: &Value, spec: &Value, uid: &str| {
        let mut pod = pod(wish, spec);
        pod["metadata"]["ownerReferences"] = json!([{"kind": "Whoever", "uid": "other"},
            {"kind": "ReplicaSet", "uid": uid, "controller": true}]);
        pod
    };
    let remote = made(&json!({names::OFFLOAD: "east"}), &json!({}), "rs-1");
    let after = admitted(&remote, &[]);
    let mut wanted = term(&["east"]);
    wanted["matchExpressions"].as_array_mut().unwrap().push(room.clone());
    assert_eq!(node_terms(&after), &json!([wanted]));
    assert_eq!(admitted(&after, &[]), after, "a second time changes nothing");
    // What no API server gives is no label, and must not keep the pod from being created.
    let odd = admitted(&made(&json!({names::OFFLOAD: "east"}), &json!({}), "a b"), &[]);
    assert_eq!(node_terms(&odd), &json!([term(&["east"])]));

    let later = json!({names::OFFLOAD: "east", names::OFFLOAD_MODE: "LocalAndRemote"});
    let anywhere = admitted(&made(&later, &json!({}), "rs-1"), &[]);
    assert_eq!(node_terms(&anywhere), &json!([{"matchExpressions": [room]}]), "home's nodes are as open as before");
    assert_eq!(constraints(&anywhere).was.affinity, None, "its delegate does not know of it");
    let picky = admitted(&made(&later, &json!({"nodeSelector": {"disk": "ssd"}}), "rs-1"), &[]);
    let own = json!({"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]});
    assert_eq!(node_terms(&picky), &json!([own, wanted]));
}
