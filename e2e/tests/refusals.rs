//! What the target refuses, and what it says about delegates, is told at home.

use std::time::Instant;

use e2e::{Asked, Context, IDLE, Meddler, Pod, Result, Value, World, container, ensure, json, secs};

const DELEGATED: &str = "longshore.dev/Delegated";

/// Creates a pod and waits until home says why it does not run: by the condition, and by an event.
fn refused(world: &World, name: &str, words: &str) -> Result<Pod> {
    let begin = Instant::now();
    let proxy = world.host.wait_for_pod(name, "refused", |pod| {
        let condition = pod.condition(DELEGATED);
        condition["reason"] == "TargetRefused" && condition["message"].as_str().is_some_and(|it| it.contains(words))
    })?;
    let shown = begin.elapsed();
    let message = world.host.wait_for_event(name, "TargetRefused")?;
    println!(
        "{words}: condition {} ms, event {} ms after the pod was created",
        shown.as_millis(),
        begin.elapsed().as_millis()
    );
    assert!(message.contains(words), "{message}");
    assert_eq!(proxy.phase(), "Pending");
    assert_eq!(proxy.container("main")["state"]["waiting"]["reason"], "TargetRefused", "kubectl get shows it");
    Ok(proxy)
}

/// Waits until nothing is said any more.
fn solved(world: &World, name: &str) -> Result<()> {
    let proxy = world.host.wait_for_ready(name)?;
    assert_eq!(proxy.condition(DELEGATED)["status"], "True", "{}", proxy.condition(DELEGATED));
    assert!(proxy.condition(DELEGATED)["reason"].is_null());
    Ok(())
}

#[test]
fn an_exceeded_quota_is_told_and_gone_when_raised() -> Result<()> {
    let world = World::new("quota")?;
    world.create_target_namespace()?;
    world
        .east
        .create(json!({"kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": {"pods": "0"}}}))?;
    world.east.wait("the quota to count", secs(30), |east| {
        ensure!(east.get("resourcequotas", "few")?["status"]["hard"]["pods"] == "0", "not yet");
        Ok(())
    })?;
    world.host.create(world.pod("many", &[container("main", IDLE)]))?;
    refused(&world, "many", "QuotaExceeded")?;
    world.east.patch("resourcequotas", "few", &json!({"spec": {"hard": {"pods": "5"}}}))?;
    solved(&world, "many")
}

#[test]
fn a_refusal_is_told_within_two_seconds_of_the_answer() -> Result<()> {
    let between = Meddler::before(&World::cluster("east", "default")?)?;
    let world = World::changed("soon", |options| options.target = between.kubeconfig())?;
    world.wait_for_node()?;
    world.create_target_namespace()?;
    let none = json!({"kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": {"pods": "0"}}});
    world.east.create(none)?;
    world.east.wait("the quota to count", secs(30), |east| {
        ensure!(east.get("resourcequotas", "few")?["status"]["hard"]["pods"] == "0", "not yet");
        Ok(())
    })?;
    let mut waited = vec![];
    for name in ["first", "second", "third"] {
        let before = between.asked().len();
        world.host.create(world.pod(name, &[container("main", IDLE)]))?;
        let told = |pod: &Pod| pod.condition(DELEGATED)["reason"] == "TargetRefused" && pod.phase() == "Pending";
        world.host.wait_for_pod(name, "refused", told)?;
        world.host.wait_for_event(name, "TargetRefused")?;
        let shown = Instant::now();
        // An earlier one may be refused once more meanwhile, which makes the time longer and not shorter.
        let asked = between.asked();
        let refused = |asked: &&Asked| asked.method == "POST" && asked.is_about("pods") && asked.status == 403;
        let answer = asked[before..].iter().find(refused).context("nobody was refused")?;
        waited.push(shown.duration_since(answer.at));
    }
    println!("condition and event after the request that was refused: {waited:?}");
    // The machine may be busy with something else once or twice, but not each time.
    ensure!(waited.iter().min() < Some(&secs(2)), "{waited:?}");
    Ok(())
}

#[test]
fn a_limit_and_a_policy_are_told() -> Result<()> {
    let world = World::new("limits")?;
    world.create_target_namespace()?;
    let limit = json!({"type": "Container", "max": {"memory": "16Mi"}, "default": {"memory": "16Mi"}});
    world.east.create(json!({"kind": "LimitRange", "metadata": {"name": "small"}, "spec": {"limits": [limit]}}))?;
    let mut main = container("main", IDLE);
    main["resources"] = json!({"limits": {"memory": "64Mi"}});
    world.host.create(world.pod("large", &[main]))?;
    let proxy = refused(&world, "large", "AdmissionDenied")?;
    let message = proxy.condition(DELEGATED)["message"].to_string();
    assert!(message.contains("maximum memory usage"), "{message}");

    let name = format!("{}-policy", world.namespace);
    world.east.create(json!({"kind": "ValidatingAdmissionPolicy", "metadata": {"name": name}, "spec": {
        "matchConstraints": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}},
            "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
        },
        "validations": [{"expression": "!object.metadata.name.startsWith('odd')", "message": "no odd pods here"}],
    }}))?;
    let binding = json!({"policyName": name, "validationActions": ["Deny"]});
    world
        .east
        .create(json!({"kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name}, "spec": binding}))?;
    // The policy counts from a moment on that nobody tells.
    let probe =
        json!({"kind": "Pod", "metadata": {"name": "odd-probe"}, "spec": {"containers": [container("main", IDLE)]}});
    let armed = world.east.wait("the policy to count", secs(30), |east| {
        if east.create(probe.clone()).is_ok() {
            east.delete_with("pods", "odd-probe", "gracePeriodSeconds=0")?;
            e2e::bail!("not yet");
        }
        Ok(())
    });
    let told = armed.and_then(|()| {
        let mut odd = container("main", IDLE);
        odd["resources"] = json!({"limits": {"memory": "16Mi"}});
        world.host.create(world.pod("odd", &[odd]))?;
        refused(&world, "odd", "no odd pods here")
    });
    world.east.delete("validatingadmissionpolicybindings", &name)?;
    world.east.delete("validatingadmissionpolicies", &name)?;
    told?;
    solved(&world, "odd")
}

#[test]
fn a_namespace_that_is_going_is_told() -> Result<()> {
    let world = World::new("going")?;
    world.create_target_namespace()?;
    let keep = json!({"kind": "ConfigMap", "metadata": {"name": "stays", "finalizers": ["example.com/stay"]}});
    world.east.create(keep)?;
    world.east.delete("namespaces", &world.namespace)?;
    world.host.create(world.pod("late", &[container("main", IDLE)]))?;
    let told = refused(&world, "late", "being");
    world.east.patch("configmaps", "stays", &json!({"metadata": {"finalizers": null}}))?;
    told.map(drop)
}

#[test]
fn an_unschedulable_delegate_is_told_with_the_schedulers_words() -> Result<()> {
    let world = World::new("unschedulable")?;
    let rack = format!("example.com/{}", world.namespace);
    let mut pod = world.pod("stuck", &[container("main", IDLE)]);
    // Home's scheduler would not let it pass: no node of home has this label, and none of the target yet.
    pod["spec"]["nodeName"] = world.longshore().node().into();
    pod["spec"]["nodeSelector"][&rack] = "1".into();
    world.create_target_namespace()?;
    let history = world.record_target()?;
    world.host.create(pod)?;
    history.wait("the target's scheduler to give up", secs(60), |all| {
        let no = |pod: &Pod| pod.name() == "stuck" && pod.condition("PodScheduled")["status"] == "False";
        all.iter().any(|one| no(&one.pod)).then_some(())
    })?;
    let begin = Instant::now();
    let proxy = world
        .host
        .wait_for_pod("stuck", "unschedulable", |pod| pod.condition(DELEGATED)["reason"] == "Unschedulable")?;
    println!("unschedulable: condition {} ms after the target's word", begin.elapsed().as_millis());
    let message = proxy.condition(DELEGATED)["message"].to_string();
    assert!(message.contains("nodes are available"), "{message}");
    let own = world.host.wait_for_event("stuck", "DelegateUnschedulable")?;
    assert!(own.contains("nodes are available"), "{own}");
    println!("unschedulable: event {} ms after the target's word", begin.elapsed().as_millis());
    // The scheduler's own event comes too, and says of which cluster it is.
    let mirrored = world.host.wait("the scheduler's event", secs(30), |host| {
        let events = host.events_of("stuck")?;
        events.into_iter().find(|event| event["reason"] == "FailedScheduling").context("none yet")
    })?;
    assert_eq!(mirrored["reportingComponent"], "east.longshore.dev/default-scheduler", "{mirrored}");
    assert_eq!(mirrored["type"], "Warning");

    let label = |value: Value| json!({"metadata": {"labels": {&rack: value}}});
    world.east.patch("nodes", "east-node", &label("1".into()))?;
    let proxy = world.host.wait_for_ready("stuck");
    world.east.patch("nodes", "east-node", &label(Value::Null))?;
    let proxy = proxy?;
    assert_eq!(proxy.condition(DELEGATED)["status"], "True");
    Ok(())
}

#[test]
fn warnings_about_the_delegate_are_shown_once_and_others_not() -> Result<()> {
    let world = World::new("warnings")?;
    let mut main = container("main", IDLE);
    main["readinessProbe"] = json!({"exec": {"command": ["sh", "-c", "echo not today; exit 1"]}, "periodSeconds": 1});
    world.host.create(world.pod("sulks", &[main]))?;
    let message = world.host.wait_for_event("sulks", "Unhealthy")?;
    assert!(message.contains("not today"), "{message}");
    let repeated = |event: &Value| event["reason"] == "Unhealthy" && event["series"]["count"].as_i64() > Some(1);
    world.host.wait("the repetition to be counted", secs(60), |host| {
        let events = host.events_of("sulks")?;
        ensure!(events.iter().any(repeated), "{events:?}");
        Ok(())
    })?;
    let events = world.host.events_of("sulks")?;
    let unhealthy: Vec<_> = events.iter().filter(|event| event["reason"] == "Unhealthy").collect();
    assert_eq!(unhealthy.len(), 1, "what repeats itself is counted: {unhealthy:?}");
    assert_eq!(unhealthy[0]["reportingComponent"], "east.longshore.dev/kubelet");
    assert_eq!(unhealthy[0]["reportingInstance"], "east/east-node");
    assert!(!events.iter().any(|event| event["reason"] == "Pulled"), "Normal ones are not asked for");
    Ok(())
}

#[test]
fn all_that_is_said_about_the_delegate_is_shown_on_demand() -> Result<()> {
    let world = World::changed("tales", |options| options.target_spec = "events: All".to_owned())?;
    world.wait_for_node()?;
    world.host.create(world.pod("watched", &[container("main", IDLE)]))?;
    for reason in ["Pulled", "Started"] {
        world.host.wait_for_event("watched", reason)?;
        let events = world.host.events_of("watched")?;
        let there: Vec<_> = events.iter().filter(|event| event["reason"] == reason).collect();
        assert_eq!(there.len(), 1, "{there:?}");
        assert_eq!(
            (&there[0]["type"], &there[0]["reportingComponent"]),
            (&json!("Normal"), &json!("east.longshore.dev/kubelet"))
        );
    }
    Ok(())
}

#[test]
fn a_refused_change_has_a_condition_while_the_pod_runs_on() -> Result<()> {
    let world = World::new("change")?;
    let mut main = container("main", IDLE);
    main["resources"] = json!({"requests": {"memory": "16Mi"}, "limits": {"memory": "32Mi"}});
    world.host.create(world.pod("steady", &[main]))?;
    let proxy = world.host.wait_for_ready("steady")?;
    let limit = json!({"type": "Container", "max": {"memory": "48Mi"}});
    world.east.create(json!({"kind": "LimitRange", "metadata": {"name": "small"}, "spec": {"limits": [limit]}}))?;
    let larger =
        json!({"spec": {"containers": [{"name": "main", "resources": {"limits": {"memory": "64Mi"}}}]}}).to_string();
    world.host.kubectl(&["patch", "pod", "steady", "--subresource", "resize", "--patch", &larger])?.ok()?;
    world.host.patch("pods", "steady", &json!({"metadata": {"labels": {"follows": "yes"}}}))?;
    let begin = Instant::now();
    let shown = world
        .host
        .wait_for_pod("steady", "behind", |pod| pod.condition("longshore.dev/UpToDate")["status"] == "False")?;
    println!("refused change: condition {} ms after it", begin.elapsed().as_millis());
    assert!(shown.is_ready(), "it runs on");
    let message = world.host.wait_for_event("steady", "TargetRefused")?;
    assert!(message.contains("maximum memory usage"), "{message}");
    world.east.wait_for_pod("steady", "labelled", |pod| pod.label("follows") == "yes")?;
    assert_ne!(shown.0["status"]["observedGeneration"], shown.0["metadata"]["generation"]);

    world.east.delete("limitranges", "small")?;
    world.host.wait_for_pod("steady", "up to date", |pod| {
        pod.condition("longshore.dev/UpToDate").is_null()
            && pod.0["status"]["observedGeneration"] == pod.0["metadata"]["generation"]
    })?;
    assert_eq!(world.delegate(&proxy)?.text("/spec/containers/0/resources/limits/memory"), "64Mi");
    Ok(())
}
