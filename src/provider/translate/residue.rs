//! What the host filled in, which the target fills in by its own lights, and what home keeps for itself.

use serde_json::Value;

use super::super::follow::accounts::Accounts;
use super::report::Report;
use super::spec::{CONTAINERS, Object, containers, drop_entries, entries, entries_mut, list, text};

/// Fields of the spec that a delegate never has.
const FIELDS: [(&str, &str); 10] = [
    ("nodeName", "the target's scheduler chooses a node of the target"),
    ("priority", "the host's admission computes it from the class, and the target's does so from its own"),
    ("preemptionPolicy", "the host's admission takes it from the class, and the target's does so from its own"),
    ("overhead", "the host's admission takes it from the runtime class, and the target's does so from its own"),
    ("serviceAccountName", "the account is one of home, and the delegate runs without any rights in the target"),
    ("serviceAccount", "it is the old name of serviceAccountName"),
    ("readinessGates", "home evaluates them, where their conditions are set"),
    ("schedulingGates", "they hold back home's scheduler, which is done"),
    ("workloadRef", "it names a Workload of home, by which home's scheduler has placed the pod"),
    ("ephemeralContainers", "a pod is not created with them"),
];

/// Where the admission plugin ServiceAccount mounts the token.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Takes out what is home's.
pub(super) fn strip(spec: &mut Object, accounts: &Accounts, report: &mut Report) {
    let remote = matches!(accounts, Accounts::Remote(_));
    let automount = remote && token_volume(spec).is_some();
    if let Some(name) = token_volume(spec).map(str::to_owned) {
        strip_token(spec, &name, report);
    }
    for (field, why) in FIELDS {
        if spec.remove(field).is_some() {
            report.dropped(format!("spec.{field}"), why);
        }
    }
    if let Accounts::Remote(name) = accounts {
        spec.insert("serviceAccountName".into(), name.as_str().into());
        report.changed("spec.serviceAccountName", "the Target names the account that its pods have there");
    }
    for (field, value, why) in [
        ("automountServiceAccountToken", automount, "only the accounts that the Target names have tokens there"),
        ("enableServiceLinks", false, "variables of the target's Services would be taken for home's"),
    ] {
        if spec.insert(field.into(), Value::Bool(value)) != Some(Value::Bool(value)) {
            report.changed(format!("spec.{field}"), format!("it is {value}: {why}"));
        }
    }
}

/// The name of the volume with which the admission plugin ServiceAccount mounts the token, if there is one.
///
/// It is known by its name, by what it holds (OpenShift adds a certificate of its own), and by where it is mounted. One
/// that a user has written for an audience or a place of their own is not this.
pub(super) fn token_volume(spec: &Object) -> Option<&str> {
    let name = entries(spec, "volumes").iter().find(|volume| is_token(volume)).and_then(|v| text(v, "name"))?;
    containers(spec)
        .flat_map(|(_, container)| list(container, "volumeMounts"))
        .filter(|mount| text(mount, "name") == Some(name))
        .all(|mount| text(mount, "mountPath") == Some(TOKEN_PATH))
        .then_some(name)
}

fn is_token(volume: &Value) -> bool {
    let named = text(volume, "name").is_some_and(|name| name.starts_with("kube-api-access-"));
    let Some(projected) = volume.get("projected").filter(|_| named) else { return false };
    let sources = list(projected, "sources");
    let token = |source: &Value| source.get("serviceAccountToken").is_some_and(|t| t.get("audience").is_none());
    let bundle = |source: &Value| {
        let name = source.get("configMap").and_then(|c| text(c, "name"));
        matches!(name, Some("kube-root-ca.crt" | "openshift-service-ca.crt"))
    };
    sources.iter().any(token)
        && sources.iter().all(|source| token(source) || bundle(source) || source.get("downwardAPI").is_some())
}

fn strip_token(spec: &mut Object, name: &str, report: &mut Report) {
    let why = "the host's admission adds it, and a token of home is of no use in the target";
    drop_entries(spec, "volumes", |i, volume| {
        let drops = text(volume, "name") == Some(name);
        if drops {
            report.dropped(format!("spec.volumes[{i}]"), why);
        }
        drops
    });
    for kind in CONTAINERS {
        for (i, container) in entries_mut(spec, kind).iter_mut().enumerate() {
            let Some(container) = container.as_object_mut() else { continue };
            drop_entries(container, "volumeMounts", |j, mount| {
                let drops = text(mount, "name") == Some(name);
                if drops {
                    report.dropped(format!("spec.{kind}[{i}].volumeMounts[{j}]"), why);
                }
                drops
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stripped(spec: Value) -> (Value, Vec<String>) {
        let Value::Object(mut spec) = spec else { unreachable!() };
        let mut report = Report::default();
        strip(&mut spec, &Accounts::None, &mut report);
        (Value::Object(spec), report.into_changes().into_iter().map(|change| change.field).collect())
    }

    fn token_volume_as(name: &str, token: &Value) -> Value {
        json!({"name": name, "projected": {"defaultMode": 420, "sources": [{"serviceAccountToken": token},
            {"configMap": {"name": "kube-root-ca.crt", "items": []}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}})
    }

    #[test]
    fn what_admission_filled_in_goes_and_is_reported() {
        let (after, report) = stripped(
            json!({"nodeName": "n", "priority": 0, "preemptionPolicy": "PreemptLowerPriority",
            "overhead": {}, "serviceAccountName": "s", "serviceAccount": "s", "readinessGates": [{"conditionType": "x"}],
            "schedulingGates": [], "ephemeralContainers": [{"name": "e"}], "workloadRef": {"name": "w"},
            "priorityClassName": "high", "runtimeClassName": "gvisor", "enableServiceLinks": true}),
        );
        let left = json!({"priorityClassName": "high", "runtimeClassName": "gvisor", "enableServiceLinks": false,
            "automountServiceAccountToken": false});
        assert_eq!(after, left);
        assert_eq!(report.len(), 12);
    }

    #[test]
    fn what_is_so_already_is_not_reported() {
        let spec = json!({"enableServiceLinks": false, "automountServiceAccountToken": false, "schedulerName": "mine"});
        assert_eq!(stripped(spec.clone()), (spec, vec![]));
    }

    #[test]
    fn the_token_goes_from_all_containers() {
        let own = json!({"name": "data", "mountPath": "/data"});
        let mount = json!({"name": "kube-api-access-abcde", "mountPath": TOKEN_PATH, "readOnly": true});
        let token = token_volume_as("kube-api-access-abcde", &json!({"path": "token", "expirationSeconds": 3607}));
        let (after, report) = stripped(json!({"volumes": [{"name": "data", "emptyDir": {}}, token],
            "containers": [{"volumeMounts": [own, mount]}, {"volumeMounts": [mount]}],
            "initContainers": [{"volumeMounts": [mount]}]}));
        assert_eq!(after["volumes"], json!([{"name": "data", "emptyDir": {}}]));
        assert_eq!(after["containers"], json!([{"volumeMounts": [own]}, {}]));
        assert_eq!(after["initContainers"], json!([{}]));
        assert_eq!(
            report[..4],
            [
                "spec.volumes[1]",
                "spec.initContainers[0].volumeMounts[0]",
                "spec.containers[0].volumeMounts[1]",
                "spec.containers[1].volumeMounts[0]"
            ]
        );
    }

    #[test]
    fn a_token_of_the_users_own_is_not_admissions() {
        let of = |volume: Value, path: &str| {
            let mounts = json!([{"name": volume["name"], "mountPath": path}]);
            let spec = json!({"volumes": [volume], "containers": [{"volumeMounts": mounts}]});
            token_volume(spec.as_object().unwrap()).is_some()
        };
        let plain = json!({"path": "token"});
        assert!(of(token_volume_as("kube-api-access-abcde", &plain), TOKEN_PATH));
        assert!(!of(token_volume_as("kube-api-access-abcde", &plain), "/elsewhere"));
        assert!(!of(token_volume_as("mine", &plain), TOKEN_PATH));
        assert!(!of(token_volume_as("kube-api-access-abcde", &json!({"audience": "vault"})), TOKEN_PATH));
        let mut with_secret = token_volume_as("kube-api-access-abcde", &plain);
        with_secret["projected"]["sources"][2] = json!({"secret": {"name": "s"}});
        assert!(!of(with_secret, TOKEN_PATH));
    }

    #[test]
    fn an_account_of_the_target_is_named_and_mounts_its_token_where_home_does() {
        let Value::Object(mut spec) = json!({"serviceAccountName": "s", "volumes": [
            token_volume_as("kube-api-access-abcde", &json!({"path": "token"}))]})
        else {
            unreachable!()
        };
        let accounts = Accounts::Remote("runner".into());
        strip(&mut spec, &accounts, &mut Report::default());
        let expected =
            json!({"serviceAccountName": "runner", "automountServiceAccountToken": true, "enableServiceLinks": false});
        assert_eq!(Value::Object(spec), expected);
        let mut without = Object::new();
        strip(&mut without, &accounts, &mut Report::default());
        assert_eq!(without["automountServiceAccountToken"], false, "home mounts none either");
    }
}
