use super::*;

const OF: Identity<'static> = Identity { host_id: "home-1", node: "virtual" };

fn claim(more_spec: &Value) -> DynamicObject {
    let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data-web-0", "namespace": "shop", "uid": "c-1", "labels": {"app": "web"},
            "finalizers": ["kubernetes.io/pvc-protection"],
            "annotations": {STORAGE_PROVISIONER[0]: PROVISIONER, SELECTED_NODE: "virtual"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem", "storageClassName": "longshore",
            "resources": {"requests": {"storage": "1Gi"}}, "inventedIn2031": {"x": 1}},
        "status": {"phase": "Pending"}});
    for (field, value) in more_spec.as_object().unwrap() {
        claim["spec"][field] = value.clone();
    }
    serde_json::from_value(claim).unwrap()
}

fn class(parameters: &Value, policy: &str) -> StorageClass {
    serde_json::from_value(json!({"metadata": {"name": "longshore"}, "provisioner": PROVISIONER,
        "parameters": parameters, "reclaimPolicy": policy}))
    .unwrap()
}

fn there() -> Remote {
    Remote { target: "east".into(), namespace: "shop".into(), name: "data-web-0-c-1".into(), uid: "r-1".into() }
}

fn made(policy: &str, phase: &str, deleting: bool) -> Volume {
    let mut volume = volume(&claim(&json!({})), &class(&json!({}), policy), OF, &there());
    volume["metadata"]["uid"] = "v-1".into();
    volume["status"] = json!({"phase": phase});
    if deleting {
        volume["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    }
    Volume::read(&serde_json::from_value(volume).unwrap()).unwrap()
}

#[test]
fn only_claims_for_this_node_and_this_provisioner_are_ours() {
    let mut one = claim(&json!({}));
    assert_eq!(next(&one, "virtual"), Next::Provision);
    assert_eq!(next(&one, "other"), Next::Nothing);
    one.annotations_mut().remove(SELECTED_NODE);
    assert_eq!(next(&one, "virtual"), Next::Unchosen);
    one.annotations_mut().insert(SELECTED_NODE.into(), "virtual".into());
    one.annotations_mut().insert(STORAGE_PROVISIONER[0].into(), "disk.csi".into());
    assert_eq!(next(&one, "virtual"), Next::Nothing);
    one.annotations_mut().insert(STORAGE_PROVISIONER[1].into(), PROVISIONER.into());
    assert_eq!(next(&one, "virtual"), Next::Provision);
    one.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    assert_eq!(next(&one, "virtual"), Next::Nothing, "nobody will mount it");
}

#[test]
fn a_bound_claim_is_compared_and_a_claim_that_needs_home_is_refused() {
    assert_eq!(next(&claim(&json!({"volumeName": "pv"})), "virtual"), Next::Compare("pv".into()));
    for field in ["selector", "dataSource", "dataSourceRef", "volumeAttributesClassName"] {
        let refused = next(&claim(&json!({field: {"x": "y"}})), "virtual");
        assert!(matches!(&refused, Next::Refuse(why) if why.starts_with(&format!("spec.{field}: "))), "{refused:?}");
        assert_eq!(next(&claim(&json!({field: null})), "virtual"), Next::Provision);
    }
}

#[test]
fn the_targets_claim_asks_for_the_same_of_its_own_class() {
    let made = remote(&claim(&json!({"volumeName": ""})), OF, "far", Some("fast"));
    assert_eq!(
        json!(made),
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data-web-0-c-1", "namespace": "far",
                "labels": {"app": "web", "longshore.dev/host": "home-1", "longshore.dev/node": "virtual",
                    "longshore.dev/uid": "c-1"},
                "annotations": {"longshore.dev/namespace": "shop", "longshore.dev/name": "data-web-0"}},
            "spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem", "storageClassName": "fast",
                "resources": {"requests": {"storage": "1Gi"}}, "inventedIn2031": {"x": 1}}})
    );
    let default = remote(&claim(&json!({})), OF, "far", None);
    assert_eq!(default.data.pointer("/spec/storageClassName"), None, "the target's admission fills it in");
}

#[test]
fn a_class_may_stand_for_another_one_in_each_target() {
    let both = class(&json!({"storageClassName": "slow", "storageClassName/west": "fast"}), "Delete");
    assert_eq!((remote_class(&both, "east"), remote_class(&both, "west")), (Some("slow"), Some("fast")));
    assert_eq!(remote_class(&class(&json!({}), "Delete"), "east"), None);
}

#[test]
fn a_long_name_keeps_its_uid() {
    let uid = "1f0c2a52-0000-4000-8000-000000000000";
    let name = remote_name(&"n".repeat(253), uid);
    assert!(name.len() == 253 && name.ends_with(uid));
    assert_eq!(remote_name("data", "c-1"), "data-c-1");
}

#[test]
fn a_volume_names_both_claims_and_is_read_again() {
    let read = made("Retain", "Bound", false);
    assert_eq!(read.remote, there());
    assert_eq!(read.claim, ("shop".into(), "data-web-0".into(), "c-1".into()));
    assert_eq!((read.node.as_str(), read.name.as_str(), read.retain), ("virtual", "pvc-c-1", true));
    let strange = json!({"metadata": {"name": "x", "uid": "u"}, "spec": {"nfs": {"server": "s", "path": "/"}}});
    assert_eq!(Volume::read(&serde_json::from_value(strange).unwrap()), None);
}

#[test]
fn the_reclaim_policy_decides_when_the_claim_has_gone_and_not_before() {
    for (policy, phase, deleting, fate) in [
        ("Delete", "Bound", false, Fate::Stay),
        ("Delete", "Bound", true, Fate::Stay),
        ("Delete", "Pending", false, Fate::Stay),
        ("Delete", "Available", true, Fate::Remove),
        ("Delete", "Released", false, Fate::Remove),
        ("Delete", "Released", true, Fate::Remove),
        ("Retain", "Released", false, Fate::Stay),
        ("Retain", "Released", true, Fate::LetGo),
        ("Retain", "Bound", true, Fate::Stay),
    ] {
        assert_eq!(made(policy, phase, deleting).fate(), fate, "{policy} {phase} {deleting}");
    }
}

#[test]
fn what_cannot_be_mounted_says_why() {
    let bound = claim(&json!({"volumeName": "disk-1"}));
    let never = unfit("data", Some(&bound), None, "virtual");
    assert!(matches!(&never, Unfit::Never(why) if why.contains("disk-1") && why.contains(PROVISIONER)), "{never:?}");
    let elsewhere = Volume { node: "other".into(), ..made("Delete", "Bound", false) };
    assert!(matches!(unfit("data", Some(&bound), Some(&elsewhere), "virtual"), Unfit::Never(_)));
    assert!(matches!(unfit("data", Some(&claim(&json!({}))), None, "virtual"), Unfit::NotYet("ClaimPending", _)));
    assert!(matches!(unfit("data", None, None, "virtual"), Unfit::NotYet("ClaimNotFound", _)));
}

#[test]
fn sizes_follow_upwards_only() {
    let sized = |ask: &str, has: &str| {
        let mut one = claim(&json!({"resources": {"requests": {"storage": ask}}}));
        one.data["status"] = json!({"phase": "Bound", "capacity": {"storage": has}});
        one
    };
    let volume = made("Delete", "Bound", false);
    assert_eq!(sizes(&sized("1Gi", "1Gi"), &volume, &sized("1Gi", "1Gi")), Sizes::default());
    let asked = sizes(&sized("2Gi", "1Gi"), &volume, &sized("1Gi", "1Gi"));
    assert_eq!(asked, Sizes { ask: Some("2Gi".into()), ..Sizes::default() });
    let grown = sizes(&sized("2Gi", "1Gi"), &volume, &sized("2Gi", "2Gi"));
    assert_eq!(grown, Sizes { ask: None, volume: Some("2Gi".into()), claim: Some("2Gi".into()) });
    assert_eq!(sizes(&sized("1Gi", "2Gi"), &volume, &sized("2Gi", "512Mi")), Sizes::default());
}
