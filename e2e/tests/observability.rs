//! A real Prometheus scrapes Longshore, and finds all that the docs, the dashboard and the alerts of the chart speak of.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use e2e::{Berth, Context, Cut, IDLE, Prometheus, Result, Value, World, container, ensure, json, secs};

const RULES: &str = "charts/longshore/rules/longshore.yaml";
const DASHBOARD: &str = "charts/longshore/dashboards/longshore.json";
const DOCS: &str = "docs/observability.md";
const ALERT_TESTS: &str = "e2e/tests/observability/alerts.yaml";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(name)
}

fn read(name: &str) -> Result<String> {
    fs::read_to_string(path(name)).with_context(|| name.to_owned())
}

/// The names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("longshore_") || word.starts_with("process_")).map(ToOwned::to_owned).collect()
}

/// The queries of the dashboard, with values for its variables.
fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries = targets.filter_map(|target| target["expr"].as_str());
    let replaced =
        |query: &str| query.replace("$__rate_interval", "1m").replace("$virtual_node", ".*").replace("$target", ".*");
    queries.map(replaced).collect()
}

/// The alerts by name, each with its query. promtool has found the file to be well-formed.
fn alerts(rules: &str) -> Result<Vec<(String, String)>> {
    let mut alerts = vec![];
    let mut lines = rules.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(name) = line.trim().strip_prefix("- alert: ") {
            alerts.push((name.to_owned(), String::new()));
        } else if let Some(first) = line.trim().strip_prefix("expr: ") {
            let query = &mut alerts.last_mut().context("a query before its alert")?.1;
            *query = first.replace(">-", "");
            while let Some(more) = lines.next_if(|line| line.starts_with("          ")) {
                query.push(' ');
                query.push_str(more.trim());
            }
        }
    }
    Ok(alerts)
}

/// Each alert is raised by what it is for, and says what to do.
#[test]
fn alerts_are_raised_and_documented() -> Result<()> {
    Prometheus::tool(&["check", "rules", &path(RULES).display().to_string()])?;
    Prometheus::tool(&["test", "rules", &path(ALERT_TESTS).display().to_string()])?;
    let (tests, docs) = (read(ALERT_TESTS)?, read(DOCS)?);
    let alerts = alerts(&read(RULES)?)?;
    ensure!(alerts.len() > 10, "{alerts:?}");
    for (name, _) in alerts {
        ensure!(tests.contains(&format!("alertname: {name}\n")), "{name} is raised by no test in {ALERT_TESTS}");
        ensure!(docs.contains(&format!("\n### {name}\n")), "{name} is not in {DOCS}");
    }
    Ok(())
}

#[test]
fn a_real_prometheus_finds_all_that_dashboard_and_alerts_speak_of() -> Result<()> {
    let berth = Arc::new(Berth::new()?);
    let world = World::changed("seen", |options| {
        options.berth = Some(berth.clone());
        options.heartbeat_seconds = 10;
        options.flags = ["--http-port", "8080"].map(ToOwned::to_owned).to_vec();
    })?;
    let prometheus = Prometheus::start(&[format!("{}:8080", berth.ip())], &path(RULES))?;
    world.wait_for_node()?;
    lives(&world)?;
    counts(&world, &prometheus)?;
    everything_exists(&prometheus)?;
    no_label_names_a_pod(&world, &prometheus)?;
    silence(&world, &berth, &prometheus)
}

/// Some pods come, one goes, and one is held.
fn lives(world: &World) -> Result<()> {
    for name in ["one", "two", "three"] {
        world.host.create(world.pod(name, &[container("main", IDLE)]))?;
    }
    for name in ["one", "two", "three"] {
        world.host.wait_for_ready(name)?;
    }
    let gone = world.host.pod("three")?;
    world.host.delete("pods", "three")?;
    world.host.wait_for_gone(&gone)?;
    let volume = json!({"name": "h", "hostPath": {"path": "/etc"}});
    world.host.create(world.pod_of("held", json!({"containers": [container("main", IDLE)], "volumes": [volume]})))?;
    world.host.wait_for_event("held", "OffloadHeld").map(drop)
}

fn counts(world: &World, prometheus: &Prometheus) -> Result<()> {
    let labels = format!(r#"virtual_node="{}",target="east""#, world.longshore().node());
    let expected = [
        (format!("longshore_pods{{{labels},phase=\"Running\"}}"), 2.0),
        (format!("longshore_pods{{{labels},phase=\"Pending\"}}"), 1.0),
        (format!("longshore_pods_held{{{labels}}}"), 1.0),
        (format!("longshore_pod_start_duration_seconds_count{{{labels}}}"), 3.0),
        (format!("longshore_pod_start_step_duration_seconds_count{{{labels},step=\"create\"}}"), 3.0),
        (format!("longshore_pod_start_step_duration_seconds_count{{{labels},step=\"run\"}}"), 3.0),
        (format!("longshore_pod_start_step_duration_seconds_count{{{labels},step=\"report\"}}"), 3.0),
        (format!("longshore_pod_stop_duration_seconds_count{{{labels}}}"), 1.0),
        (format!("longshore_pod_stop_step_duration_seconds_count{{{labels},step=\"remove\"}}"), 1.0),
        (format!("longshore_target_answers{{{labels}}}"), 1.0),
        (format!("longshore_node_requested{{node=\"{}\",resource=\"pods\"}}", world.longshore().node()), 2.0),
        (format!("longshore_leader{{node=\"{}\"}}", world.longshore().node()), 1.0),
        (r#"sum(longshore_api_requests_total{side="target",target="east",verb="create",code="201"}) >= bool 3"#.into(), 1.0),
        (r#"sum(longshore_watches{side="home"}) > bool 0"#.into(), 1.0),
        (r#"sum(longshore_watches{side="target",target="east"}) > bool 0"#.into(), 1.0),
        // The steps are parts of the whole.
        (
            "abs(sum(longshore_pod_start_step_duration_seconds_sum) - sum(longshore_pod_start_duration_seconds_sum)) < bool 0.1"
                .into(),
            1.0,
        ),
        ("min(longshore_serving_certificate_expiry_timestamp_seconds) > bool time()".into(), 1.0),
        (r#"min(longshore_client_certificate_expiry_timestamp_seconds{target="east"}) > bool time()"#.into(), 1.0),
    ];
    for (query, value) in expected {
        prometheus.wait(&format!("{query} to be {value}"), secs(60), |prometheus| {
            let found = prometheus.value(&query)?;
            ensure!((found - value).abs() < 1e-9, "{found}");
            Ok(())
        })?;
    }
    Ok(())
}

fn everything_exists(prometheus: &Prometheus) -> Result<()> {
    let (rules, dashboard) = (read(RULES)?, read(DASHBOARD)?);
    let docs: Vec<String> =
        read(DOCS)?.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned())).collect();
    ensure!(docs.len() > 20, "{docs:?}");
    let known = prometheus.labels("__name__")?;
    let exists = |name: &String| known.contains(name) || known.contains(&format!("{name}_bucket"));
    let asked: BTreeSet<String> = names(&rules).into_iter().chain(names(&dashboard)).chain(docs.clone()).collect();
    let missing: Vec<_> = asked.iter().filter(|name| !exists(name)).collect();
    ensure!(missing.is_empty(), "{missing:?} are spoken of and not there");
    // And the other way round.
    let told = |name: &str| {
        let stem = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        docs.iter().any(|one| one == name || one == stem)
    };
    let untold: Vec<_> = known.iter().filter(|name| !names(name).is_empty() && !told(name)).collect();
    ensure!(untold.is_empty(), "{untold:?} are there and not in {DOCS}");

    for (name, query) in alerts(&rules)? {
        prometheus.query(&query).with_context(|| name)?;
    }
    let dashboard: Value = serde_json::from_str(&dashboard)?;
    let queries = queries(&dashboard);
    ensure!(queries.len() > 30, "{queries:?}");
    for query in queries {
        prometheus.wait(&format!("{query} to show something"), secs(60), |prometheus| {
            let shown = prometheus.query(&query)?;
            // What shows trouble alone may show nothing.
            ensure!(!shown.is_empty() || query.contains("> 0"), "nothing");
            Ok(())
        })?;
    }
    for variable in dashboard["templating"]["list"].as_array().context("no variables")? {
        let Some(query) = variable["query"]["query"].as_str() else { continue };
        let inner =
            query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')).context("what is it")?;
        let (metric, label) = inner.split_once(", ").context("no label")?;
        ensure!(!prometheus.query(&format!("count by ({label}) ({metric})"))?.is_empty(), "{query} finds nothing");
    }
    Ok(())
}

/// The number of series does not grow with that of pods.
fn no_label_names_a_pod(world: &World, prometheus: &Prometheus) -> Result<()> {
    let series = prometheus.query(r#"{job="longshore"}"#)?;
    let uid = world.host.pod("one")?.uid().to_owned();
    for one in &series {
        let labels = one["metric"].as_object().context("no labels")?;
        let names = [uid.as_str(), &world.namespace, "one", "held"];
        let values = labels.values().filter_map(Value::as_str);
        ensure!(!values.into_iter().any(|value| names.contains(&value)), "{one}");
    }
    Ok(())
}

/// A target that does not answer is seen, and its alert is about to be raised.
fn silence(world: &World, berth: &Berth, prometheus: &Prometheus) -> Result<()> {
    let silent = "max(longshore_target_silence_seconds)";
    ensure!(prometheus.value(silent)? < 0.5, "it is silent before the link is cut");
    berth.cut(&world.east.address()?, Cut::Both)?;
    prometheus.wait("the target to be silent", secs(90), |prometheus| {
        let silence = prometheus.value(silent)?;
        ensure!(silence > 0.0, "{silence}");
        ensure!(prometheus.value("max(longshore_target_answers)")? < 0.5, "it answers");
        let alerts = prometheus.query(r#"ALERTS{alertname="LongshoreTargetSilent",target="east"}"#)?;
        ensure!(alerts.len() == 1, "{alerts:?}");
        let broken = prometheus.value(r#"sum(longshore_watch_ends_total{target="east",how="broken"})"#)?;
        ensure!(broken > 0.0, "no watch is broken");
        let lost = prometheus.value(r#"sum(longshore_api_requests_total{target="east",code="0"})"#)?;
        ensure!(lost > 0.0, "every request was answered");
        Ok(())
    })?;
    berth.heal()?;
    prometheus.wait("the target to answer again", secs(90), |prometheus| {
        ensure!(prometheus.value(silent)? < 0.5, "silent");
        ensure!(prometheus.value("min(longshore_target_answers)")? > 0.5, "no answer");
        Ok(())
    })?;
    world.longshore().check()
}
