//! Storage that follows pods: claims of home that are kept in a target.
//!
//! The targets have no provisioner: the volumes there are directories of this machine, made beforehand, and bound when the
//! first pod that uses them is scheduled, as local volumes are.

use e2e::{Cluster, IDLE, Pod, Result, Value, World, bail, container, ensure, json, secs, stateful_set};
use tempfile::TempDir;

/// Says how often it was started before, by what it finds in its volume.
const COUNT: &str =
    "touch /data/log; wc -l < /data/log; echo begun >> /data/log; trap 'exit 0' TERM; sleep 86400 & wait";

/// Storage for one test in a target, and the StorageClass at home that stands for it. Dropping it removes what has no
/// namespace.
struct Storage {
    dir: TempDir,
    objects: Vec<(Cluster, &'static str, String)>,
}

impl Storage {
    fn new(world: &World, parameters: &Value, policy: &str) -> Result<(Self, String)> {
        let mut storage = Self { dir: tempfile::Builder::new().prefix("longshore-e2e-").tempdir()?, objects: vec![] };
        let class = storage.home_class(world, parameters, policy)?;
        Ok((storage, class))
    }

    /// A StorageClass at home.
    fn home_class(&mut self, world: &World, parameters: &Value, policy: &str) -> Result<String> {
        let name = format!("{}-{}", world.namespace, self.objects.len());
        world.host.create(json!({"kind": "StorageClass", "metadata": {"name": name},
            "provisioner": "longshore.dev/claims", "parameters": parameters, "reclaimPolicy": policy,
            "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true}))?;
        self.objects.push((world.host.clone(), "storageclasses", name.clone()));
        Ok(name)
    }

    /// A storage class in a target with this many volumes.
    fn in_target(&mut self, target: &Cluster, class: &str, volumes: usize) -> Result<()> {
        target.create(json!({"kind": "StorageClass", "metadata": {"name": class},
            "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}))?;
        self.objects.push((target.clone(), "storageclasses", class.to_owned()));
        for index in 0..volumes {
            let name = format!("{class}-{index}");
            let path = self.dir.path().join(target.name()).join(&name);
            target.create(json!({"kind": "PersistentVolume", "metadata": {"name": name}, "spec": {
                "capacity": {"storage": "64Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": class,
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": path, "type": "DirectoryOrCreate"}}}))?;
            self.objects.push((target.clone(), "persistentvolumes", name));
        }
        Ok(())
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        for (cluster, plural, name) in &self.objects {
            _ = cluster.delete(plural, name);
        }
    }
}

fn claim_spec(class: &str) -> Value {
    json!({"accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": {"requests": {"storage": "16Mi"}}})
}

fn claim(name: &str, class: &str) -> Value {
    json!({"kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": claim_spec(class)})
}

fn counter() -> Value {
    let mut container = container("main", COUNT);
    container["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    container
}

/// A pod that counts its lives in a claim.
fn user(world: &World, name: &str, claim: &str) -> Value {
    world.pod_of(
        name,
        json!({"containers": [counter()], "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]}),
    )
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The claim in a target that keeps home's claim of this name.
fn remote(home: &Cluster, target: &Cluster, name: &str) -> Result<Value> {
    let claim = home.get("persistentvolumeclaims", name)?;
    let uid = text(&claim, "/metadata/uid");
    let mut found = target.list("persistentvolumeclaims", &format!("longshore.dev/uid={uid}"))?;
    ensure!(found.len() == 1, "{name} has {} claims in {}", found.len(), target.name());
    Ok(found.remove(0))
}

fn lives(world: &World, pod: &str) -> Result<String> {
    Ok(world.host.kubectl(&["logs", pod])?.ok()?.trim().to_owned())
}

fn wait_for_no(cluster: &Cluster, plural: &str, name: &str) -> Result<()> {
    cluster.wait(&format!("{name} of the {plural} to go"), secs(60), |cluster| {
        cluster.find(plural, name)?.map_or(Ok(()), |found| bail!("{} {}", found["metadata"], found["status"]))
    })
}

#[test]
fn a_stateful_set_finds_its_data_again() -> Result<()> {
    let world = World::alone_with("stateful", "claims: true")?;
    let there = format!("{}-there", world.namespace);
    let (mut storage, class) = Storage::new(&world, &json!({"storageClassName": there}), "Delete")?;
    storage.in_target(&world.east, &there, 1)?;

    let mut set = stateful_set("web", 1, &world.placed(json!({"containers": [counter()]})));
    set["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": claim_spec(&class)}]);
    world.host.create(set)?;
    let first = world.host.wait_for_ready("web-0")?;
    assert_eq!(lives(&world, "web-0")?, "0");

    let delegate = world.delegate(&first)?;
    let kept = remote(&world.host, &world.east, "data-web-0")?;
    assert_eq!(text(&kept, "/spec/storageClassName"), there);
    let mounted = delegate.0["spec"]["volumes"].as_array().unwrap().iter().find(|one| one["name"] == "data").unwrap();
    assert_eq!(mounted["persistentVolumeClaim"]["claimName"], kept["metadata"]["name"]);
    let home = world.host.get("persistentvolumeclaims", "data-web-0")?;
    let volume = world.host.get("persistentvolumes", text(&home, "/spec/volumeName"))?;
    assert_eq!(volume["spec"]["csi"]["driver"], "longshore.dev");
    assert!(world.host.wait_for_event("data-web-0", "Provisioned")?.contains("target east"));
    world.host.wait("home to show the size that the target has given", secs(20), |host| {
        let claim = host.get("persistentvolumeclaims", "data-web-0")?;
        ensure!(text(&claim, "/status/capacity/storage") == "64Mi", "{}", claim["status"]);
        Ok(())
    })?;

    // Whoever starts anew knows it from the objects.
    world.longshore().kill9()?;
    world.host.delete("pods", "web-0")?;
    world.longshore().restart()?;
    let second = world.host.wait_for_pod("web-0", "Ready anew", |pod| pod.is_ready() && pod.uid() != first.uid())?;
    assert_eq!(lives(&world, "web-0")?, "1", "it finds what the first has written");
    assert_ne!(world.delegate(&second)?.uid(), delegate.uid());

    world.host.delete("statefulsets", "web")?;
    world.host.wait_for_gone(&second)?;
    assert!(world.host.find("persistentvolumeclaims", "data-web-0")?.is_some(), "data outlive their pods");
    assert!(remote(&world.host, &world.east, "data-web-0")?["metadata"]["deletionTimestamp"].is_null());
    world.host.delete("persistentvolumeclaims", "data-web-0")?;
    wait_for_no(&world.host, "persistentvolumes", text(&home, "/spec/volumeName"))?;
    wait_for_no(&world.east, "persistentvolumeclaims", text(&kept, "/metadata/name"))
}

#[test]
fn what_is_to_be_retained_stays_in_the_target() -> Result<()> {
    let world = World::alone_with("retained", "claims: true")?;
    let there = format!("{}-there", world.namespace);
    let (mut storage, class) = Storage::new(&world, &json!({"storageClassName/east": there}), "Retain")?;
    storage.in_target(&world.east, &there, 2)?;
    world.host.create(claim("data", &class))?;
    world.host.create(user(&world, "first", "data"))?;
    let pod = world.host.wait_for_ready("first")?;
    let kept = remote(&world.host, &world.east, "data")?;
    let volume = text(&world.host.get("persistentvolumeclaims", "data")?, "/spec/volumeName").to_owned();

    // A claim that is in use waits for its pod.
    world.host.delete("persistentvolumeclaims", "data")?;
    assert!(world.host.get("persistentvolumeclaims", "data")?["metadata"]["deletionTimestamp"].is_string());
    world.host.delete("pods", "first")?;
    world.host.wait_for_gone(&pod)?;
    wait_for_no(&world.host, "persistentvolumeclaims", "data")?;
    world.host.wait("the volume to be released", secs(30), |host| {
        let volume = host.get("persistentvolumes", &volume)?;
        ensure!(volume["status"]["phase"] == "Released", "{}", volume["status"]);
        Ok(())
    })?;

    // A new claim of the same name is another one.
    world.host.create(claim("data", &class))?;
    world.host.create(user(&world, "second", "data"))?;
    world.host.wait_for_ready("second")?;
    assert_eq!(lives(&world, "second")?, "0");
    let other = remote(&world.host, &world.east, "data")?;
    assert_ne!(other["metadata"]["uid"], kept["metadata"]["uid"]);
    storage.objects.push((
        world.host.clone(),
        "persistentvolumes",
        text(&world.host.get("persistentvolumeclaims", "data")?, "/spec/volumeName").to_owned(),
    ));

    // Who deletes the volume at home takes the data over.
    world.host.delete("persistentvolumes", &volume)?;
    wait_for_no(&world.host, "persistentvolumes", &volume)?;
    let mine = world.east.get("persistentvolumeclaims", text(&kept, "/metadata/name"))?;
    assert!(mine["metadata"]["deletionTimestamp"].is_null() && mine["status"]["phase"] == "Bound", "{mine}");
    assert!(mine["metadata"]["labels"]["longshore.dev/uid"].is_null(), "{mine}");
    Ok(())
}

#[test]
fn an_ephemeral_volume_goes_with_its_pod() -> Result<()> {
    let world = World::alone_with("ephemeral", "claims: true")?;
    let there = format!("{}-there", world.namespace);
    let (mut storage, class) = Storage::new(&world, &json!({"storageClassName": there}), "Delete")?;
    storage.in_target(&world.east, &there, 1)?;
    let volumes = json!([{"name": "data", "ephemeral": {"volumeClaimTemplate": {"spec": claim_spec(&class)}}}]);
    world.host.create(world.pod_of("scratch", json!({"containers": [counter()], "volumes": volumes})))?;
    let pod = world.host.wait_for_ready("scratch")?;
    assert_eq!(lives(&world, "scratch")?, "0");
    let kept = remote(&world.host, &world.east, "scratch-data")?;
    world.host.delete("pods", "scratch")?;
    world.host.wait_for_gone(&pod)?;
    wait_for_no(&world.host, "persistentvolumeclaims", "scratch-data")?;
    wait_for_no(&world.east, "persistentvolumeclaims", text(&kept, "/metadata/name"))
}

#[test]
fn what_the_target_cannot_do_is_told_at_home() -> Result<()> {
    let world = World::alone_with("failures", "claims: true")?;
    let there = format!("{}-there", world.namespace);
    let (mut storage, class) = Storage::new(&world, &json!({"storageClassName": there}), "Delete")?;

    // The target refuses the claim, until somebody changes its mind.
    world.create_target_namespace()?;
    world.east.create(json!({"kind": "ResourceQuota", "metadata": {"name": "none"},
        "spec": {"hard": {"persistentvolumeclaims": "0"}}}))?;
    world.east.wait("the quota to count", secs(30), |east| {
        let quota = east.get("resourcequotas", "none")?;
        ensure!(quota["status"]["used"]["persistentvolumeclaims"] == "0", "{}", quota["status"]);
        Ok(())
    })?;
    world.host.create(claim("data", &class))?;
    world.host.create(user(&world, "user", "data"))?;
    let refused = world.host.wait_for_event("data", "ProvisioningFailed")?;
    assert!(refused.contains("target east") && refused.contains("exceeded quota"), "{refused}");
    world.east.delete("resourcequotas", "none")?;

    // It takes the claim, and has no such storage: the pod is bound all the same, and both say what is wrong.
    world.host.wait("the target's own words about the claim", secs(90), |host| {
        let events = host.events_of("data")?;
        let told = events.iter().any(|event| {
            let message = text(event, "/message");
            message.contains("target east") && message.contains(&there) && message.contains("not found")
        });
        ensure!(told, "{:?}", events.iter().map(|event| text(event, "/message")).collect::<Vec<_>>());
        Ok(())
    })?;
    world.host.wait_for_pod("user", "waiting for its claim in the target", |pod| {
        pod.text("/spec/nodeName") == world.longshore().node()
            && pod.condition("longshore.dev/Delegated")["message"].to_string().contains("PersistentVolumeClaim")
    })?;
    storage.in_target(&world.east, &there, 1)?;
    world.host.wait_for_ready("user")?;

    // Nobody chooses a node for a claim that is bound at once.
    let hasty = format!("{}-hasty", world.namespace);
    world.host.create(json!({"kind": "StorageClass", "metadata": {"name": hasty},
        "provisioner": "longshore.dev/claims", "volumeBindingMode": "Immediate"}))?;
    storage.objects.push((world.host.clone(), "storageclasses", hasty.clone()));
    world.host.create(claim("hasty", &hasty))?;
    assert!(world.host.wait_for_event("hasty", "ProvisioningFailed")?.contains("WaitForFirstConsumer"));

    // Storage of home stays at home.
    let local = format!("{}-local", world.namespace);
    let path = storage.dir.path().join("local");
    world.host.create(json!({"kind": "PersistentVolume", "metadata": {"name": local}, "spec": {
        "capacity": {"storage": "64Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "",
        "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": path}}}))?;
    storage.objects.push((world.host.clone(), "persistentvolumes", local.clone()));
    let mut bound = claim("bound", "");
    bound["spec"]["volumeName"] = json!(local);
    world.host.create(bound)?;
    world.host.create(user(&world, "stays", "bound"))?;
    let held = world.host.wait_for_event("stays", "OffloadHeld")?;
    assert!(held.contains("spec.volumes[0].persistentVolumeClaim") && held.contains(&local), "{held}");
    Ok(())
}

#[test]
fn pods_go_to_the_target_that_keeps_their_claim() -> Result<()> {
    let (world, west, _berth) = World::with_west("placed", "claims: true")?;
    let there = format!("{}-there", world.namespace);
    let (mut storage, class) = Storage::new(&world, &json!({"storageClassName": there}), "Delete")?;
    for target in [&world.east, &west] {
        storage.in_target(target, &there, 2)?;
    }
    let target = |pod: &Pod| pod.text("/metadata/annotations/longshore.dev~1target").to_owned();

    // Two claims of one pod: both in the same place.
    let mut pod = user(&world, "first", "data");
    pod["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
        {"name": "more", "persistentVolumeClaim": {"claimName": "more"}}]);
    for name in ["data", "more"] {
        world.host.create(claim(name, &class))?;
    }
    world.host.create(pod)?;
    let first = world.host.wait_for_ready("first")?;
    let place = target(&first);
    let cluster = if place == "east" { &world.east } else { &west };
    for name in ["data", "more"] {
        remote(&world.host, cluster, name)?;
    }
    world.host.delete("pods", "first")?;
    world.host.wait_for_gone(&first)?;

    // There is more room in the other one now, which is of no use to the claim.
    world.host.create(world.pod("filler", &[container("main", IDLE)]))?;
    let filler = world.host.wait_for_ready("filler")?;
    assert_eq!(target(&filler), place, "both were empty, so that the first in the list is taken");
    world.host.create(user(&world, "second", "data"))?;
    let second = world.host.wait_for_ready("second")?;
    assert_eq!(target(&second), place);
    assert_eq!(lives(&world, "second")?, "1");
    assert!(world.host.wait_for_event("second", "Placed")?.contains("claim data"));
    Ok(())
}
