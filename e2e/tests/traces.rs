//! An OpenTelemetry collector gets one trace for each pod.

use std::time::{SystemTime, UNIX_EPOCH};

use e2e::{Collector, Context, IDLE, PATIENCE, Pod, Result, Span, World, container, ensure, secs};

const STEPS: [&str; 3] = ["create delegate", "run in target", "report at home"];

/// The trace of a pod once it is whole: its steps in their order, and all of it.
fn trace(world: &World, collector: &Collector, pod: &Pod) -> Result<([Span; 3], Span)> {
    let id = pod.uid().replace('-', "");
    world.host.wait("the pod's trace", PATIENCE, |_| {
        let spans = collector.trace(&id);
        ensure!(spans.len() == 4, "{spans:#?}");
        let find = |name: &str| spans.iter().find(|span| span.name == name).cloned().context("a span is missing");
        Ok(([find(STEPS[0])?, find(STEPS[1])?, find(STEPS[2])?], find("pod start")?))
    })
}

#[test]
fn each_pod_has_one_trace_from_its_binding_until_it_is_ready() -> Result<()> {
    let collector = Collector::start()?;
    let world = World::changed("traced", |options| {
        options.flags = vec!["--otlp-endpoint".to_owned(), collector.url.clone()];
    })?;
    world.wait_for_node()?;
    let before = nanoseconds();
    world.host.create(world.pod("one", &[container("main", IDLE)]))?;
    let pod = world.host.wait_for_ready("one")?;
    let (steps, whole) = trace(&world, &collector, &pod)?;
    for (step, name) in steps.iter().zip(STEPS) {
        ensure!(step.parent == whole.id && step.name == name, "{step:?} is no part of {whole:?}");
        ensure!(step.begin <= step.end && whole.begin <= step.end, "{step:?} is out of {whole:?}");
    }
    ensure!(whole.parent.is_empty() && before < whole.begin && whole.end < nanoseconds(), "{whole:?}");
    // One after the other, but for what their clocks round away.
    let slack = 50_000_000;
    for pair in steps.windows(2) {
        ensure!(pair[0].end.abs_diff(pair[1].begin) < slack, "{pair:#?}");
    }
    ensure!(
        steps[0].begin.abs_diff(whole.begin) < slack && steps[2].end.abs_diff(whole.end) < slack,
        "{steps:#?} {whole:?}"
    );
    let expected = [
        ("k8s.pod.name", "one"),
        ("k8s.pod.uid", pod.uid()),
        ("k8s.namespace.name", &world.namespace),
        ("k8s.node.name", world.longshore().node()),
        ("longshore.target", "east"),
        ("service.name", "longshore"),
    ];
    for (key, value) in expected {
        ensure!(whole.attributes.get(key).is_some_and(|found| found == value), "{key}: {:?}", whole.attributes);
    }

    // A pod that has waited while nobody was there: from its binding all the same. The last spans come before the end.
    world.longshore().stop()?;
    world.host.create(world.pod("waits", &[container("main", IDLE)]))?;
    let bound = world.host.wait_for_pod("waits", "bound", |pod| !pod.text("/spec/nodeName").is_empty())?;
    std::thread::sleep(secs(3));
    world.longshore().restart()?;
    world.host.wait_for_ready("waits")?;
    let ([create, ..], whole) = trace(&world, &collector, &bound)?;
    ensure!(create.end - create.begin > 2_000_000_000, "it has waited: {create:?}");
    ensure!(whole.begin.abs_diff(create.begin) < slack, "{whole:?} {create:?}");

    // Nobody waits for a collector that does not answer.
    drop(collector);
    world.host.create(world.pod("alone", &[container("main", IDLE)]))?;
    world.host.wait_for_ready("alone")?;
    world.host.wait("a word in the log", secs(60), |_| {
        let log = world.longshore().log();
        ensure!(log.contains("traces are not taken by --otlp-endpoint"), "nothing is said");
        Ok(())
    })?;
    world.longshore().check()
}

#[test]
fn an_endpoint_that_is_none_is_refused() -> Result<()> {
    let output = World::longshore_command(&["run", "--otlp-endpoint", "otel:4317"])?;
    ensure!(output.code == 2 && output.stderr.contains("http://HOST:4318"), "{output:?}");
    Ok(())
}

fn nanoseconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or_default()
}
