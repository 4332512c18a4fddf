use serde_json::json;

use super::*;
use crate::provider::translate::{Change, Rules, What, translate};

fn object(value: Value) -> Object {
    let Value::Object(object) = value else { unreachable!() };
    object
}

fn claiming() -> Value {
    json!({
        "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "big"}, {"name": "net", "resourceClaimName": "shared"}],
        "initContainers": [{"name": "init", "resources": {"claims": [{"name": "net"}]}}],
        "containers": [
            {"name": "main", "resources": {"limits": {"cpu": "1"}, "claims": [{"name": "gpu", "request": "r"}]}},
            {"name": "side", "resources": {}},
        ],
    })
}

fn site(claimed: Claimed) -> Site {
    let rules = Rules { claimed, ..Rules::default() };
    Site { target: "east".into(), namespace: "far".into(), rules: rules.into(), ..Site::default() }
}

fn pod(annotations: &Value, spec: &Value) -> PodDocument {
    let metadata = json!({"name": "p", "namespace": "n", "uid": "u", "annotations": annotations});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

/// A spec as the webhook leaves it, with the annotation.
fn taken() -> (Value, Value) {
    let mut spec = object(claiming());
    let devices = Devices::take(&mut spec).unwrap();
    (json!({names::RESOURCE_CLAIMS: devices.print()}), Value::Object(spec))
}

#[test]
fn what_is_taken_off_comes_back() {
    let (annotations, mut spec) = taken();
    assert_eq!(spec["resourceClaims"], Value::Null);
    assert_eq!(spec["containers"][0]["resources"], json!({"limits": {"cpu": "1"}}));
    assert!(!spec.to_string().contains("claims"), "{spec}");
    let text = annotations[names::RESOURCE_CLAIMS].as_str().unwrap();
    let expected = json!({"pod": claiming()["resourceClaims"],
        "containers": {"init": [{"name": "net"}], "main": [{"name": "gpu", "request": "r"}]}});
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), expected);
    Devices::read(text).unwrap().restore(spec.as_object_mut().unwrap()).unwrap();
    assert_eq!(spec, claiming());
}

#[test]
fn where_nothing_is_claimed_nothing_is_taken() {
    for spec in [
        json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}]}),
        json!({"resourceClaims": [], "containers": []}),
        json!({"resourceClaims": null}),
        json!({"resourceClaims": ["odd"], "containers": 7}),
        json!({"resourceClaims": [{"name": "a"}], "containers": [{"name": "c", "resources": {"claims": [7]}}]}),
    ] {
        let mut same = object(spec.clone());
        assert_eq!(Devices::take(&mut same), None, "{spec}");
        assert_eq!(Value::Object(same), spec);
    }
}

#[test]
fn an_annotation_is_read_with_clear_errors() {
    let why = |text: &str| Devices::read(text).unwrap_err().to_string();
    for odd in ["", "{", "[]", r#"{"pod": {}}"#, r#"{"pod": [1]}"#, r#"{"pod": [{"name": "a"}], "more": 1}"#] {
        assert!(why(odd).starts_with("is not {\"pod\": [the pod's list]"), "{odd}: {}", why(odd));
    }
    assert!(why(r#"{"pod": []}"#).contains("claims nothing"));
    assert!(why(r#"{"pod": [{"resourceClaimName": "x"}]}"#).contains("without a name in the list of `pod`"));
    let nameless = why(r#"{"pod": [{"name": "a"}], "containers": {"c": [{}]}}"#);
    assert!(nameless.contains("in the list of container c"), "{nameless}");
    let unknown = why(r#"{"pod": [{"name": "a"}], "containers": {"c": [{"name": "b"}]}}"#);
    assert_eq!(unknown, "lets container c claim b, which the list `pod` does not have");
}

#[test]
fn an_annotation_that_does_not_fit_its_pod_changes_nothing() {
    let devices = Devices::read(r#"{"pod": [{"name": "a"}], "containers": {"main": [{"name": "a"}]}}"#).unwrap();
    let why = |spec: Value| {
        let mut same = object(spec.clone());
        let why = devices.restore(&mut same).unwrap_err().to_string();
        assert_eq!(Value::Object(same), spec);
        why
    };
    assert!(
        why(json!({"containers": [{"name": "other"}]})).contains("names container main, which the pod does not have")
    );
    let own = json!({"resourceClaims": [{"name": "b"}], "containers": [{"name": "main"}]});
    assert!(why(own).contains("beside spec.resourceClaims"));
    let own = json!({"containers": [{"name": "main", "resources": {"claims": [{"name": "b"}]}}]});
    assert!(why(own).contains("beside spec.containers[0].resources.claims"));
    let mut bare = object(json!({"containers": [{"name": "main"}]}));
    devices.restore(&mut bare).unwrap();
    assert_eq!(bare["containers"][0]["resources"], json!({"claims": [{"name": "a"}]}));
}

#[test]
fn what_names_objects_of_home_holds_the_pod() {
    let hold = translate(&pod(&json!({}), &claiming()), &site(Claimed::Hold)).unwrap_err();
    assert_eq!(hold.field, "spec.resourceClaims");
    assert!(hold.message.contains("set spec.resourceClaims of the Target east to Remote"), "{}", hold.message);
    let (annotations, spec) = taken();
    let hold = translate(&pod(&annotations, &spec), &site(Claimed::Hold)).unwrap_err();
    assert_eq!(hold.field, "metadata.annotations[longshore.dev/resource-claims]");
    assert!(translate(&pod(&json!({}), &json!({"resourceClaims": null})), &site(Claimed::Hold)).is_ok());
}

#[test]
fn claims_of_the_target_are_kept_and_it_is_said_what_they_mean() {
    let by_hand = translate(&pod(&json!({}), &claiming()), &site(Claimed::Remote)).unwrap();
    let (annotations, spec) = taken();
    let sent = translate(&pod(&annotations, &spec), &site(Claimed::Remote)).unwrap();
    for delegate in [&by_hand.delegate, &sent.delegate] {
        for path in ["/resourceClaims", "/initContainers/0/resources", "/containers/0/resources"] {
            assert_eq!(delegate.spec.pointer(path), claiming().pointer(path), "{path}");
        }
        assert_eq!(delegate.annotation(names::RESOURCE_CLAIMS), None);
    }
    let kept = |report: &[Change]| {
        let kept = report.iter().filter(|change| change.what == What::Kept);
        kept.map(ToString::to_string).collect::<Vec<_>>()
    };
    let expected = [
        "spec.resourceClaims[0] is kept: it means the ResourceClaimTemplate big of namespace far in target east",
        "spec.resourceClaims[1] is kept: it means the ResourceClaim shared of namespace far in target east",
    ];
    assert_eq!(kept(&by_hand.report), expected);
    assert_eq!(kept(&sent.report), expected);
    let changed: Vec<_> = sent.report.iter().map(|change| change.field.as_str()).take(4).collect();
    assert_eq!(
        changed,
        [
            "spec.resourceClaims",
            "spec.initContainers[0].resources.claims",
            "spec.containers[0].resources.claims",
            "spec.resourceClaims[0]"
        ]
    );
}

#[test]
fn an_annotation_of_the_users_that_cannot_be_understood_holds_the_pod_and_is_named() {
    let spec = json!({"containers": [{"name": "main"}]});
    for text in ["gpu", r#"{"pod": [{"name": "a"}], "containers": {"mian": [{"name": "a"}]}}"#] {
        let hold = translate(&pod(&json!({names::RESOURCE_CLAIMS: text}), &spec), &site(Claimed::Remote)).unwrap_err();
        assert_eq!(hold.field, "metadata.annotations[longshore.dev/resource-claims]");
        assert!(hold.message.contains("correct the annotation"), "{}", hold.message);
    }
}

#[test]
fn what_is_restored_is_no_change_of_a_live_delegate() {
    let (annotations, spec) = taken();
    let proxy = pod(&annotations, &spec);
    let mut live = translate(&proxy, &site(Claimed::Remote)).unwrap().delegate;
    live.metadata.uid = Some("d".into());
    let fresh = crate::provider::translate::refresh(&proxy, &site(Claimed::Remote)).unwrap();
    let update = fresh.update(&live);
    assert_eq!((update.resize, update.ephemeral, update.whole.get("spec")), (None, None, None));
}

#[test]
fn what_an_api_server_leaves_out_is_noticed() {
    let sent = pod(&json!({}), &claiming());
    assert_eq!(left_out(&sent, &sent), None);
    let mut answer = claiming();
    answer["containers"][1]["resources"]["claims"] = json!([{"name": "net"}]);
    answer["containers"].as_array_mut().unwrap().insert(0, json!({"name": "injected"}));
    answer["resourceClaims"][0]["more"] = json!(1);
    assert_eq!(left_out(&sent, &pod(&json!({}), &answer)), None, "what is added does no harm");
    let without = |pointer: &str, field: &str| {
        let mut answer = claiming();
        answer.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(field);
        left_out(&sent, &pod(&json!({}), &answer))
    };
    assert_eq!(without("", "resourceClaims").as_deref(), Some("spec.resourceClaims[0]"));
    assert_eq!(without("/containers/0/resources", "claims").as_deref(), Some("spec.containers[0].resources.claims[0]"));
    assert_eq!(without("/containers/0", "resources").as_deref(), Some("spec.containers[0].resources.claims[0]"));
    assert_eq!(
        without("/initContainers/0/resources", "claims").as_deref(),
        Some("spec.initContainers[0].resources.claims[0]")
    );
    let nothing = pod(&json!({}), &json!({"containers": [{"name": "main"}]}));
    assert_eq!(left_out(&nothing, &nothing), None);
}

#[test]
fn it_is_said_what_a_scheduler_waits_for_without_a_word() {
    let waits = |status: Value| {
        let metadata = json!({"name": "p", "namespace": "far"});
        awaited(&serde_json::from_value(json!({"metadata": metadata, "spec": claiming(), "status": status})).unwrap())
    };
    let both = waits(json!({"phase": "Pending"})).unwrap();
    assert_eq!(
        both,
        "the target's scheduler does not begin before namespace far there has a claim made of the ResourceClaimTemplate big \
         and the ResourceClaim shared; create what is missing"
    );
    let made = waits(json!({"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "p-gpu-x"}]})).unwrap();
    assert!(!made.contains("Template") && made.contains("ResourceClaim shared"), "{made}");
    assert_eq!(awaited(&pod(&json!({}), &json!({"containers": []}))), None);
}
