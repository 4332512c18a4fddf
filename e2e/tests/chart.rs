//! What helm makes of the chart, compared with what it made before: `UPDATE_CHART=1` writes it anew, to be read.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use e2e::{Output, Result, ensure, helm, run};

/// Without the definitions, which are the types' own and compared there.
const CASES: &[(&str, &[&str])] = &[
    ("default", &["--set", "crds.install=false"]),
    (
        "narrow",
        &[
            "--set",
            "crds.install=false,uninstall.cleanUp=false,rbac.claims=false,rbac.services=false,rbac.hostTokens=true",
            "--set",
            "rbac.followNamespaces={shop,web},rbac.kubeconfigNamespaces={longshore,targets},rbac.clusterProfileNamespaces={fleet}",
            "--set",
            "hostNetwork=true,kubeletPort=10350,selector=team=shop,logLevel=debug,replicas=3,priorityClassName=high",
            "--set",
            "serviceMonitor.enabled=true,traces.otlpEndpoint=http://otel:4318,alerts.enabled=true,alerts.labels.release=prom,podLabels.team=shop,nodeSelector.pool=system",
            "--set",
            "image.digest=sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "--set",
            "webhook.namespaceLabels=team=shop,imagePullSecrets[0].name=pull,extraArgs={--workers=64},tolerations[0].operator=Exists",
            "--set-json",
            r#"extraVolumes=[{"name": "programs", "image": {"reference": "registry.example.com/programs:1"}}]"#,
            "--set-json",
            r#"extraVolumeMounts=[{"name": "programs", "mountPath": "/programs", "readOnly": true}]"#,
            "--set-json",
            r#"extraEnv=[{"name": "AWS_REGION", "value": "eu-west-1"}]"#,
            "--set-json",
            r#"extraInitContainers=[{"name": "login", "image": "registry.example.com/login:1"}]"#,
        ],
    ),
    (
        "bare",
        &[
            "--set",
            "crds.install=false,rbac.create=false,webhook.enabled=false,flowSchema.enabled=false,replicas=1,serviceAccount.name=mine",
            "--set",
            "serviceAccount.annotations.a=b,fullnameOverride=ls",
        ],
    ),
    (
        "reached",
        &[
            "--set",
            "crds.install=false,rbac.create=false,flowSchema.enabled=false,webhook.enabled=false,podDisruptionBudget.enabled=false",
            "--set",
            "hostNetwork=true,kubeletPort=10350,podLabels.identity=cloud,priorityClassName=high,runAsUser=null",
            "--set-json",
            r#"extraArgs=["--workers", "64", "--clusterprofile-provider-file", "/lists/providers.json", "--relist=600"]"#,
            "--set-json",
            r#"extraVolumes=[{"name": "lists", "configMap": {"name": "programs"}}, {"name": "programs", "emptyDir": {}}]"#,
            "--set-json",
            r#"extraVolumeMounts=[{"name": "lists", "mountPath": "/lists"}, {"name": "programs", "mountPath": "/programs"}]"#,
            "--set-json",
            r#"extraEnv=[{"name": "AWS_REGION", "value": "eu-west-1"}]"#,
            "--set-json",
            r#"extraInitContainers=[{"name": "copy", "image": "registry.example.com/programs:1"}]"#,
        ],
    ),
    ("private", &["--set", "crds.install=false,rbac.create=false,flowSchema.enabled=false,webhook.port=443"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("")
}

fn template(args: &[&str]) -> Result<Output> {
    let mut command = Command::new(helm()?);
    command.args(["template", "longshore", "charts/longshore", "--namespace", "longshore"]);
    command.args(["--kube-version", "1.35.0"]).args(args).current_dir(root());
    run(&mut command, b"")
}

#[test]
fn the_rendered_chart_is_what_was_read() -> Result<()> {
    let mut different = vec![];
    for (name, args) in CASES {
        let path = root().join("e2e/tests/chart").join(format!("{name}.yaml"));
        let rendered = template(args)?.ok()?;
        if std::env::var_os("UPDATE_CHART").is_some() {
            fs::write(&path, &rendered)?;
        }
        if fs::read_to_string(&path).unwrap_or_default() != rendered {
            different.push(path.display().to_string());
        }
    }
    ensure!(different.is_empty(), "{different:?} differ: UPDATE_CHART=1 cargo test -p e2e --test chart, and git diff");
    Ok(())
}

#[test]
fn definitions_are_there_unless_somebody_else_has_them() -> Result<()> {
    let rendered = template(&[])?.ok()?;
    assert_eq!(rendered.matches("kind: CustomResourceDefinition").count(), 2);
    ensure!(!rendered.contains("helm.sh/resource-policy"), "they go with the release");
    let kept = template(&["--set", "crds.keep=true"])?.ok()?;
    assert_eq!(kept.matches("helm.sh/resource-policy: keep").count(), 2);
    Ok(())
}

/// A file of the chart, as deep as it is in what was rendered.
fn indented(file: &str, spaces: usize) -> Result<String> {
    let text = fs::read_to_string(root().join("charts/longshore").join(file))?;
    let indent = " ".repeat(spaces);
    Ok(text.trim_end().lines().map(|line| format!("{indent}{line}").trim_end().to_owned() + "\n").collect())
}

#[test]
fn dashboards_and_alerts_are_the_files_as_they_are() -> Result<()> {
    let rendered = template(&["--set", "dashboards.enabled=true,alerts.enabled=true"])?.ok()?;
    for (file, spaces) in [("dashboards/longshore.json", 4), ("rules/longshore.yaml", 2)] {
        ensure!(rendered.contains(&indented(file, spaces)?), "{file} is not in it, or is changed");
    }
    ensure!(rendered.contains("grafana_dashboard: \"1\""), "Grafana's sidecar does not find it");
    Ok(())
}

#[test]
fn values_that_mean_nothing_are_refused() -> Result<()> {
    for (values, word) in [
        ("replica=3", "replica"),
        ("image.tagg=x", "tagg"),
        ("replicas=0", "replicas"),
        ("webhook.port=0", "webhook"),
        ("hostNetwork=true", "kubeletPort"),
        ("hostNetwork=true,kubeletPort=10350,webhook.port=443", "webhook.port"),
        ("traces.otlpEndpoint=otel:4318", "otlpEndpoint"),
        ("image.digest=latest", "digest"),
        ("runAsUser=0", "runAsUser"),
        ("extraVolumes={programs}", "extraVolumes"),
        ("extraVolumeMounts[0].name=programs", "mountPath"),
    ] {
        let output = template(&["--set", values])?;
        ensure!(output.code != 0 && output.stderr.contains(word), "{values}: {output:?}");
    }
    Ok(())
}
