//! Devices of a target that pods of home claim: real API servers, controllers and schedulers, a simulated node, and a driver that
//! is nothing but a ResourceSlice.

use std::time::Instant;

use e2e::{Cluster, Declared, Hooked, Injector, Pod, Result, Value, World, container, deployment, ensure, json, secs};
use lab::{Lab, Simulation, UpOptions};

const CLUSTERS: [&str; 2] = ["devhost", "devfar"];
const DRIVER: &str = "gpu.example.com";
const ANNOTATION: &str = "longshore.dev/resource-claims";

/// They go with this.
struct Clusters(Lab);

impl Drop for Clusters {
    fn drop(&mut self) {
        _ = self.0.down_only(&CLUSTERS);
    }
}

/// One after the other, since they share two devices.
#[test]
fn devices_of_a_target_are_claimed_from_home() -> Result<()> {
    let clusters = Clusters(Lab::open()?);
    clusters.0.up_with(&CLUSTERS, &UpOptions { kubelet: Some(false), ..UpOptions::default() })?;
    clusters.0.simulate("devfar", &Simulation::default())?;
    let far = World::cluster("devfar", "default")?;
    far.create(json!({"kind": "DeviceClass", "metadata": {"name": DRIVER},
        "spec": {"selectors": [{"cel": {"expression": format!("device.driver == '{DRIVER}'")}}]}}))?;
    far.create(json!({"kind": "ResourceSlice", "metadata": {"name": "kwok-1"}, "spec": {
        "driver": DRIVER, "nodeName": "kwok-1", "devices": [{"name": "gpu-0"}, {"name": "gpu-1"}],
        "pool": {"name": "kwok-1", "generation": 1, "resourceSliceCount": 1}}}))?;
    for (name, test) in [
        ("sent", sent as fn() -> Result<()>),
        ("by_hand", by_hand),
        ("held", held),
        ("declared", declared),
        ("left_out", left_out),
    ] {
        let begun = Instant::now();
        test().map_err(|error| error.context(format!("in {name}")))?;
        eprintln!("{name}: {:.0?}", begun.elapsed());
    }
    Ok(())
}

fn request() -> Value {
    json!({"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": DRIVER}}]}})
}

fn template(name: &str) -> Value {
    json!({"kind": "ResourceClaimTemplate", "metadata": {"name": name}, "spec": {"spec": request()}})
}

/// A spec whose only container claims one device, as `gpu`, by this reference.
fn claiming(field: &str, name: &str) -> Value {
    let mut main = container("main", "sleep infinity");
    main["resources"] = json!({"requests": {"cpu": "10m"}, "claims": [{"name": "gpu"}]});
    json!({"containers": [main], "resourceClaims": [{"name": "gpu", (field): name}], "terminationGracePeriodSeconds": 1})
}

fn pod(name: &str, annotations: &Value, spec: &Value) -> Value {
    json!({"kind": "Pod", "metadata": {"name": name, "annotations": annotations}, "spec": spec})
}

/// A world in whose namespace pods are taken by the webhook.
fn hooked(name: &str, target_spec: &str) -> Result<(World, Hooked)> {
    let hook = Hooked::of("devhost", name)?;
    let world = World::elsewhere(name, "devhost", "devfar", |options| {
        options.flags = hook.flags(30);
        options.target_spec = target_spec.into();
    })?;
    world.wait_for_node()?;
    world.create_target_namespace()?;
    hook.cover(&world.host, &world.namespace, world.longshore().node())?;
    Ok((world, hook))
}

/// The claim of a delegate that the target's controller has made.
fn claim_of(far: &Cluster, delegate: &Pod) -> Result<Value> {
    let made = &delegate.0["status"]["resourceClaimStatuses"];
    ensure!(made[0]["name"] == "gpu", "{made}");
    far.get("resourceclaims", made[0]["resourceClaimName"].as_str().unwrap_or_default())
}

/// The device that the target's scheduler has given a delegate.
fn device_of(claim: &Value, delegate: &Pod) -> Result<String> {
    let status = &claim["status"];
    ensure!(status["reservedFor"][0]["uid"] == delegate.uid(), "{status}");
    let result = &status["allocation"]["devices"]["results"][0];
    ensure!(result["driver"] == DRIVER && result["pool"] == "kwok-1", "{status}");
    Ok(result["device"].to_string())
}

/// Waits until the condition of a pod says that its delegate waits for this reason, and answers the message.
fn wait_for_reason(host: &Cluster, name: &str, reason: &str) -> Result<String> {
    let pod = host.wait_for_pod(name, reason, |pod| pod.condition("longshore.dev/Delegated")["reason"] == reason)?;
    Ok(pod.condition("longshore.dev/Delegated")["message"].as_str().unwrap_or_default().to_owned())
}

/// What the webhook sends away is placed by home's scheduler, and gets its device of the target's.
fn sent() -> Result<()> {
    let (world, _hook) = hooked("sent", "resourceClaims: Remote")?;
    let (host, far, node) = (&world.host, &world.east, world.longshore().node().to_owned());
    far.create(template("one"))?;
    let asks = json!({"longshore.dev/offload": node});
    let mut train = deployment("train", 2, &claiming("resourceClaimTemplateName", "one"));
    train["spec"]["template"]["metadata"]["annotations"] = asks.clone();
    host.create(train)?;
    let proxies = host.wait_for_pods("app=train", 2, "Ready", Pod::is_ready)?;
    let mut devices = vec![];
    for proxy in &proxies {
        assert_eq!(proxy.text("/spec/nodeName"), node, "{proxy}");
        assert_eq!(proxy.0["spec"]["resourceClaims"], Value::Null, "home's scheduler is not asked for it");
        assert_eq!(proxy.0["spec"]["containers"][0]["resources"]["claims"], Value::Null);
        assert_eq!(proxy.0["status"]["resourceClaimStatuses"], Value::Null);
        let said = proxy.0["metadata"]["annotations"][ANNOTATION].as_str().unwrap_or_default();
        let said: Value = serde_json::from_str(said)?;
        let claims = json!([{"name": "gpu", "resourceClaimTemplateName": "one"}]);
        assert_eq!(said, json!({"pod": claims, "containers": {"main": [{"name": "gpu"}]}}));
        let delegate = world.delegate(proxy)?;
        assert_eq!(delegate.0["spec"]["resourceClaims"], claims);
        assert_eq!(delegate.0["spec"]["containers"][0]["resources"]["claims"], json!([{"name": "gpu"}]));
        assert_eq!(delegate.0["metadata"]["annotations"][ANNOTATION], Value::Null);
        devices.push(device_of(&claim_of(far, &delegate)?, &delegate)?);
    }
    devices.sort_unstable();
    assert_eq!(devices, ["\"gpu-0\"", "\"gpu-1\""], "each has its own");

    // What changes at home reaches a delegate with claims, which may not change.
    let first = &proxies[0];
    host.patch("pods", first.name(), &json!({"metadata": {"labels": {"step": "2"}}}))?;
    let delegate = far.wait("the label", secs(60), |_| {
        let delegate = world.delegate(first)?;
        ensure!(delegate.label("step") == "2", "{delegate}");
        Ok(delegate)
    })?;
    assert_eq!(delegate.0["spec"]["containers"][0]["resources"]["claims"], json!([{"name": "gpu"}]));
    assert_eq!(host.pod(first.name())?.condition("longshore.dev/UpToDate"), &Value::Null, "nothing is refused");

    // One pod more than there are devices.
    host.scale("deployments", "train", 3)?;
    let waits = |pod: &Pod| pod.condition("longshore.dev/Delegated")["reason"] == "Unschedulable";
    let third = host.wait("the third pod to wait", secs(60), |host| {
        let all = host.pods("app=train")?;
        let third = all.into_iter().find(waits);
        third.ok_or_else(|| e2e::anyhow!("none does"))
    })?;
    let said = host.wait_for_event(third.name(), "DelegateUnschedulable")?;
    assert!(said.contains("cannot allocate all claims"), "{said}");
    host.scale("deployments", "train", 1)?;
    host.wait_for_pods("app=train", 1, "Ready", Pod::is_ready)?;

    // A template that is missing, until it is there.
    host.create(pod("early", &asks, &claiming("resourceClaimTemplateName", "late")))?;
    let said = wait_for_reason(host, "early", "WaitingForResourceClaims")?;
    assert!(said.contains("the ResourceClaimTemplate late"), "{said}");
    let told = host.wait_for_event("early", "DelegateUnschedulable")?;
    assert_eq!(told, said);
    let theirs = host.wait_for_event("early", "FailedResourceClaimCreation")?;
    assert!(theirs.contains("late"), "{theirs}");
    far.create(template("late"))?;
    let early = host.wait_for_ready("early")?;
    device_of(&claim_of(far, &world.delegate(&early)?)?, &world.delegate(&early)?)?;

    // A claim belongs to its delegate, and goes with it.
    host.delete("pods", "early")?;
    host.delete("deployments", "train")?;
    host.wait_for_pods("", 0, "all gone", |_| true)?;
    far.wait("all claims to be gone", secs(60), |far| {
        let claims = far.list("resourceclaims", "")?;
        ensure!(claims.is_empty(), "{claims:?}");
        Ok(())
    })
}

/// Without the webhook: a node that is named, and the annotation that the webhook would write.
fn by_hand() -> Result<()> {
    let world = World::elsewhere("hand", "devhost", "devfar", |options| {
        options.target_spec = "resourceClaims: Remote".into();
    })?;
    world.wait_for_node()?;
    world.create_target_namespace()?;
    let (host, far) = (&world.host, &world.east);
    let mut bound = claiming("resourceClaimName", "own");
    bound["nodeName"] = world.longshore().node().into();
    bound["tolerations"] = json!([{"operator": "Exists"}]);
    host.create(pod("bound", &json!({}), &bound))?;
    let said = wait_for_reason(host, "bound", "WaitingForResourceClaims")?;
    assert!(said.contains(&format!("namespace {} there has the ResourceClaim own", world.namespace)), "{said}");
    assert_eq!(host.wait_for_event("bound", "DelegateUnschedulable")?, said);
    far.create(json!({"kind": "ResourceClaim", "metadata": {"name": "own"}, "spec": request()}))?;
    let proxy = host.wait_for_ready("bound")?;
    assert_eq!(proxy.0["spec"]["resourceClaims"], bound["resourceClaims"]);
    device_of(&far.get("resourceclaims", "own")?, &world.delegate(&proxy)?)?;

    let claims =
        r#"{"pod": [{"name": "gpu", "resourceClaimTemplateName": "one"}], "containers": {"main": [{"name": "gpu"}]}}"#;
    let placed = world.placed(json!({"containers": [container("main", "sleep infinity")]}));
    far.create(template("one"))?;
    host.create(pod("annotated", &json!({ANNOTATION: claims}), &placed))?;
    let proxy = host.wait_for_ready("annotated")?;
    let delegate = world.delegate(&proxy)?;
    assert_eq!(delegate.0["spec"]["containers"][0]["resources"]["claims"], json!([{"name": "gpu"}]));
    device_of(&claim_of(far, &delegate)?, &delegate)?;

    let (config, kubeconfig) = (world.longshore().config(), World::kubeconfig("devhost")?);
    let (config, kubeconfig) = (config.to_string_lossy(), kubeconfig.to_string_lossy());
    let live = format!("{}/annotated", world.namespace);
    let args = ["explain", "--provider-config", &config, "--kubeconfig", &kubeconfig, &live];
    let explained = World::longshore_command(&args)?.ok()?;
    let meaning = format!("it means the ResourceClaimTemplate one of namespace {} in target east", world.namespace);
    assert!(explained.contains("# kept     spec.resourceClaims[0] ") && explained.contains(&meaning), "{explained}");

    host.create(pod("odd", &json!({ANNOTATION: claims.replace("main", "mian")}), &placed))?;
    let said = wait_for_reason(host, "odd", "OffloadHeld")?;
    assert!(said.starts_with(&format!("metadata.annotations[{ANNOTATION}]: it names container mian")), "{said}");
    Ok(())
}

/// Unless the target's owner has said so, nobody gets its devices, and who asks is told what to set.
fn held() -> Result<()> {
    let (world, _hook) = hooked("held", "")?;
    let (host, node) = (&world.host, world.longshore().node());
    let spec = claiming("resourceClaimTemplateName", "one");
    let mut asks = pod("asks", &json!({"longshore.dev/offload": node}), &spec);
    asks["apiVersion"] = "v1".into();
    let asked = host.kubectl_with(&["create", "-f", "-"], asks.to_string().as_bytes())?;
    ensure!(asked.code == 0 && asked.stderr.contains("claims devices, and is held at"), "{asked:?}");
    let mut bound = spec.clone();
    bound["nodeName"] = node.into();
    host.create(pod("bound", &json!({}), &bound))?;
    for (name, field) in
        [("asks", format!("metadata.annotations[{ANNOTATION}]")), ("bound", "spec.resourceClaims".into())]
    {
        let said = wait_for_reason(host, name, "OffloadHeld")?;
        let remedy = "set spec.resourceClaims of the Target east to Remote";
        assert!(said.starts_with(&format!("{field}: ")) && said.contains(remedy), "{said}");
        assert!(world.delegates(&host.pod(name)?)?.is_empty());
    }
    Ok(())
}

/// Of several virtual nodes, a pod goes where there are devices; and where its owner thinks better of it, held ones get theirs.
fn declared() -> Result<()> {
    let hook = Hooked::of("devhost", "declared")?;
    let world = Declared::between_with("declared", ["devhost", "devfar"], hook.flags(30))?;
    let [gives, none] = ["gives", "none"].map(|name| world.name(name));
    for (name, claims) in [(&gives, "Remote"), (&none, "Hold")] {
        let kubeconfig = world.keep_kubeconfig(name, &world.east.admin_kubeconfig()?)?;
        world.declare("Target", name, &json!({"kubeconfig": kubeconfig, "resourceClaims": claims}))?;
        world.wait_for("targets", name, "Ready", "True", secs(60))?;
    }
    hook.cover(&world.host, &world.namespace, &none)?;
    world.east.create(template("one"))?;
    let spec = claiming("resourceClaimTemplateName", "one");
    world.host.create(pod("any", &json!({"longshore.dev/offload": "true"}), &spec))?;
    let any = world.host.wait_for_ready("any")?;
    assert_eq!(any.text("/spec/nodeName"), gives);
    device_of(&claim_of(&world.east, &world.delegate(&any)?)?, &world.delegate(&any)?)?;

    world.host.create(pod("there", &json!({"longshore.dev/offload": none}), &spec))?;
    let said = wait_for_reason(&world.host, "there", "OffloadHeld")?;
    assert!(said.contains(&format!("set spec.resourceClaims of the Target {none} to Remote")), "{said}");
    world.host.patch("targets", &none, &json!({"spec": {"resourceClaims": "Remote"}}))?;
    let there = world.host.wait_for_ready("there")?;
    device_of(&claim_of(&world.east, &world.delegate(&there)?)?, &world.delegate(&there)?)?;
    Ok(())
}

/// A target that takes the claims off pods, as an API server does that does not know them, starts none without its device.
fn left_out() -> Result<()> {
    let world = World::elsewhere("lost", "devhost", "devfar", |options| {
        options.target_spec = "resourceClaims: Remote".into();
    })?;
    world.wait_for_node()?;
    world.create_target_namespace()?;
    world.east.create(template("one"))?;
    let thief = Injector::patching(&world.east, &world.namespace, |pod| {
        let claims = "/spec/containers/0/resources/claims";
        match pod.pointer(claims) {
            Some(_) => json!([{"op": "remove", "path": "/spec/resourceClaims"}, {"op": "remove", "path": claims}]),
            None => json!([]),
        }
    })?;
    let mut spec = claiming("resourceClaimTemplateName", "one");
    spec["nodeName"] = world.longshore().node().into();
    let history = world.record_target()?;
    world.host.create(pod("robbed", &json!({}), &spec))?;
    let said = wait_for_reason(&world.host, "robbed", "TargetRefused")?;
    assert!(said.starts_with("DevicesLeftOut: target east would leave spec.resourceClaims[0] out"), "{said}");
    let seen = history.observations()?;
    ensure!(seen.is_empty(), "a pod was there for a moment: {}", history.tell());
    // It is tried again by itself.
    drop(thief);
    world.host.wait_for_ready("robbed")?;
    Ok(())
}
