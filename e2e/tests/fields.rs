//! Fields on which no kubelet of these tests can act, since its container runtime or its drivers are too old or not there,
//! are accepted by a real API server as they are.

use e2e::{Context, IMAGE, Pod, Result, Value, World, container, ensure, json, secs};

/// Creates a pod whose delegate no scheduler places, and compares these fields of both.
fn accepted(world: &World, name: &str, more: &Value) -> Result<Pod> {
    // Without what Longshore adds to containers: their account's token, and the variables of home's Services.
    let plain = json!({"containers": [container("main", "true")], "automountServiceAccountToken": false,
        "enableServiceLinks": false});
    let mut spec = world.placed(plain);
    // It comes with its node; the selector is the user's own, and no node of the target has the label.
    spec["nodeName"] = world.longshore().node().into();
    spec["nodeSelector"] = json!({"example.com/nowhere": "yes"});
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    let labels = json!({"app": name, "pod-template-hash": "abc", "tenant": "t"});
    let made = world.host.create(json!({"kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}))?;
    let proxy = Pod(made);
    let delegate = world.east.wait(&format!("the delegate of {name}"), secs(60), |_| {
        let found = world.delegates(&proxy)?.pop();
        let event = || {
            world.host.events_of(name).map(|events| events.iter().map(|e| e["message"].to_string()).collect::<String>())
        };
        found.with_context(|| event().unwrap_or_default())
    })?;
    for field in more.as_object().into_iter().flatten().map(|(field, _)| field) {
        let (home, target) = (&proxy.0["spec"][field], &delegate.0["spec"][field]);
        ensure!(!home.is_null(), "home has dropped {field} of {name}");
        ensure!(home == target, "{field} of {name} is {target} and not {home}");
    }
    assert_eq!(delegate.0["spec"]["nodeSelector"], json!({"example.com/nowhere": "yes"}));
    world.host.delete_with("pods", name, "gracePeriodSeconds=0")?;
    Ok(delegate)
}

#[test]
fn volumes_of_every_kind_are_accepted() -> Result<()> {
    let world = World::new("volumes")?;
    let kinds = json!({
        "nfs": {"server": "nfs.example", "path": "/", "readOnly": true},
        "iscsi": {"targetPortal": "192.0.2.1", "iqn": "iqn.2001-04.com.example:s", "lun": 0},
        "fc": {"targetWWNs": ["500a0982991b8dc5"], "lun": 2},
        "csi": {"driver": "inline.example.com", "volumeAttributes": {"a": "b"}},
        "image": {"reference": "registry.example/data:1", "pullPolicy": "IfNotPresent"},
        "cephfs": {"monitors": ["192.0.2.1"]},
        "rbd": {"monitors": ["192.0.2.1"], "image": "i"},
        "glusterfs": {"endpoints": "e", "path": "/p"},
        "cinder": {"volumeID": "v"},
        "azureDisk": {"diskName": "d", "diskURI": "https://blob.example/d.vhd"},
        "gcePersistentDisk": {"pdName": "p"},
        "awsElasticBlockStore": {"volumeID": "vol-1"},
        "vsphereVolume": {"volumePath": "[d] v"},
        "portworxVolume": {"volumeID": "v"},
        "quobyte": {"registry": "r.example:1", "volume": "v"},
        "flexVolume": {"driver": "example.com/d"},
        "flocker": {"datasetName": "d"},
        "storageos": {"volumeName": "v"},
        "photonPersistentDisk": {"pdID": "p"},
        "gitRepo": {"repository": "https://git.example/r"},
        "azureFile": {"secretName": "account", "shareName": "s"},
        "scaleIO": {"gateway": "https://g.example", "system": "s", "secretRef": {"name": "account"}, "volumeName": "v"},
    });
    // The delegate waits for what its volumes name.
    world.host.create(json!({"kind": "Secret", "metadata": {"name": "account"}, "stringData": {"key": "k"}}))?;
    let volumes: Vec<_> = kinds
        .as_object()
        .unwrap()
        .iter()
        .map(|(kind, source)| json!({"name": kind.to_lowercase(), kind: source}))
        .collect();
    accepted(&world, "volumes", &json!({"volumes": volumes})).map(drop)
}

#[test]
fn fields_of_newer_versions_are_accepted() -> Result<()> {
    let world = World::new("fields")?;
    accepted(&world, "users", &json!({"hostUsers": false, "os": {"name": "linux"}, "shareProcessNamespace": true}))?;
    accepted(
        &world,
        "security",
        &json!({"securityContext": {"supplementalGroupsPolicy": "Strict", "seLinuxChangePolicy": "Recursive",
            "fsGroup": 1, "fsGroupChangePolicy": "OnRootMismatch", "appArmorProfile": {"type": "Unconfined"},
            "seLinuxOptions": {"level": "s0"}}}),
    )?;
    accepted(&world, "resources", &json!({"resources": {"requests": {"cpu": "1m"}, "limits": {"memory": "64Mi"}}}))?;
    let main = json!({
        "name": "main", "image": IMAGE, "stdin": true, "stdinOnce": true, "tty": true, "workingDir": "/tmp",
        "terminationMessagePath": "/tmp/end", "terminationMessagePolicy": "FallbackToLogsOnError",
        "ports": [{"name": "p", "containerPort": 80, "hostPort": 31080, "protocol": "UDP"}],
        "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}],
        "resources": {"limits": {"cpu": "10m", "example.com/device": "1"}},
        "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [0]}}],
        "securityContext": {"seLinuxOptions": {"type": "t"}, "seccompProfile": {"type": "Localhost", "localhostProfile": "p.json"},
            "appArmorProfile": {"type": "RuntimeDefault"}},
        "volumeMounts": [{"name": "work", "mountPath": "/w", "readOnly": true, "recursiveReadOnly": "IfPossible"}],
        "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
        "livenessProbe": {"httpGet": {"port": 80, "scheme": "HTTPS", "host": "h.example"}, "terminationGracePeriodSeconds": 5},
    });
    accepted(&world, "container", &json!({"containers": [main], "volumes": [{"name": "work", "emptyDir": {}}]}))
        .map(drop)
}

#[test]
fn what_is_between_pods_is_accepted_although_home_has_completed_it() -> Result<()> {
    let world = World::new("between")?;
    let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "between"}},
        "matchLabelKeys": ["pod-template-hash"], "mismatchLabelKeys": ["tenant"]});
    let delegate = accepted(
        &world,
        "between",
        &json!({
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "between"}},
                "matchLabelKeys": ["pod-template-hash"], "nodeAffinityPolicy": "Ignore", "nodeTaintsPolicy": "Honor"}],
            "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
                [{"weight": 1, "podAffinityTerm": {"topologyKey": "zone", "labelSelector": {"matchLabels": {"a": "b"}},
                    "matchLabelKeys": ["pod-template-hash"]}}]}},
        }),
    )?;
    let made = json!([{"key": "pod-template-hash", "operator": "In", "values": ["abc"]}]);
    let selector = &delegate.0["spec"]["topologySpreadConstraints"][0]["labelSelector"];
    assert_eq!(selector["matchExpressions"], made, "the target's API server has made its own");
    let required = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
    // A requirement that keeps another tenant away may be there twice.
    let mut spec = world.placed(required);
    spec["containers"] = json!([container("main", "true")]);
    spec["nodeName"] = world.longshore().node().into();
    let labels = json!({"pod-template-hash": "abc", "tenant": "t"});
    let proxy =
        world.host.create(json!({"kind": "Pod", "metadata": {"name": "tenant", "labels": labels}, "spec": spec}))?;
    world.east.wait("the delegate of tenant", secs(60), |_| world.delegate(&Pod(proxy.clone()))).map(drop)
}
