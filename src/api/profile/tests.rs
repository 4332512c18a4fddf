use super::*;

fn profile() -> Key {
    ("fleet".into(), "east".into())
}

fn programs(value: &Value) -> Programs {
    serde_json::from_value(json!({"providers": value})).unwrap()
}

fn offering(list: &str, name: &str, extensions: &Value) -> Value {
    json!({list: [{"name": name, "cluster": {"server": "https://east", "certificate-authority-data": "Q0E=",
        "extensions": extensions}}]})
}

fn said(extension: &Value) -> Value {
    json!([{"name": FOR_PROGRAMS, "extension": extension}])
}

fn found(status: &Value, programs: &Programs) -> Result<Way, String> {
    way(&profile(), status, programs, "longshore").map_err(|error| error.to_string())
}

fn kubeconfig(way: &Way, secret: Option<&str>) -> Value {
    serde_json::from_str(&way.kubeconfig(secret).unwrap()).unwrap()
}

#[test]
fn a_token_is_read_from_the_secret_that_the_profile_names() {
    let none = Programs::default();
    let status = offering("accessProviders", SECRET_READER, &said(&json!({"clusterName": "spoke"})));
    let way = found(&status, &none).unwrap();
    assert_eq!(way.credentials.secret(), Some((&("longshore".into(), "spoke".into()), "token")));
    let kubeconfig = kubeconfig(&way, Some("t0ken\n"));
    assert_eq!(
        kubeconfig["clusters"][0]["cluster"],
        json!({"server": "https://east", "certificate-authority-data": "Q0E="})
    );
    assert_eq!(kubeconfig["users"][0]["user"], json!({"token": "t0ken"}));
    assert_eq!(way.kubeconfig(Some(" ")).unwrap_err(), "is empty");
    // Without a word it has the profile's own name.
    let way = found(&offering("accessProviders", SECRET_READER, &json!([])), &none).unwrap();
    assert_eq!(way.credentials, Credentials::Token(("longshore".into(), "east".into())));
}

#[test]
fn a_user_is_read_from_a_kubeconfig_in_a_secret() {
    let extension = json!({"name": "keys", "key": "value", "namespace": "fleet"});
    let mut status = offering("credentialProviders", KUBECONFIG_SECRET_READER, &said(&extension));
    let way = found(&status, &Programs::default()).unwrap();
    assert_eq!(way.credentials.secret(), Some((&("fleet".into(), "keys".into()), "value")));
    let text = "current-context: c\ncontexts: [{name: c, context: {user: u, cluster: other}}, {name: d, context: {user: x}}]\n\
        clusters: [{name: other, cluster: {server: https://elsewhere}}]\n\
        users: [{name: u, user: {token: t, client-key-data: az09, tokenFile: /etc/passwd}}, {name: x, user: {exec: {}}}]\n";
    let made = kubeconfig(&way, Some(text));
    assert_eq!(made["users"][0]["user"], json!({"token": "t", "client-key-data": "az09"}));
    assert_eq!(made["clusters"][0]["cluster"]["server"], "https://east", "where it is, the profile says");
    assert_eq!(way.kubeconfig(Some("{")).unwrap_err(), "is no kubeconfig");
    status["credentialProviders"][0]["cluster"]["extensions"][0]["extension"]["context"] = "d".into();
    let way = found(&status, &Programs::default()).unwrap();
    assert!(way.kubeconfig(Some(text)).unwrap_err().contains("for the user `x`"), "no program of the Secret's is run");
    status["credentialProviders"][0]["cluster"]["extensions"][0]["extension"]["context"] = "e".into();
    let way = found(&status, &Programs::default()).unwrap();
    assert_eq!(way.kubeconfig(Some(text)).unwrap_err(), "has no `e` in `contexts`");
}

#[test]
fn what_a_profile_may_not_ask_for_is_refused() {
    let none = Programs::default();
    let elsewhere = said(&json!({"name": "keys", "key": "value", "namespace": "kube-system"}));
    let error = found(&offering("accessProviders", KUBECONFIG_SECRET_READER, &elsewhere), &none).unwrap_err();
    assert!(error.contains("a Secret of the namespace kube-system is not allowed"), "{error}");
    let mut file = offering("accessProviders", SECRET_READER, &json!([]));
    file["accessProviders"][0]["cluster"]["certificate-authority"] = "/etc/passwd".into();
    let error = found(&file, &none).unwrap_err();
    assert!(error.contains("certificate-authority, a file, is not allowed"), "{error}");
    let error = found(&offering("accessProviders", "eks", &json!([])), &none).unwrap_err();
    assert!(error.contains("which offers eks; known are secretreader, kubeconfig-secretreader; add"), "{error}");
    assert!(found(&Value::Null, &none).unwrap_err().contains("which offers none"));
    let missing = offering("accessProviders", KUBECONFIG_SECRET_READER, &said(&json!({"name": "keys"})));
    assert!(found(&missing, &none).unwrap_err().contains("`key` is missing"));
    let odd = offering("accessProviders", SECRET_READER, &said(&json!({"clusterName": 7})));
    assert!(found(&odd, &none).unwrap_err().contains("`clusterName` is no text"));
}

#[test]
fn programs_are_the_operators_and_a_profile_adds_what_it_may() {
    let exec = json!({"apiVersion": "client.authentication.k8s.io/v1", "command": "/eks", "args": ["-a"],
        "env": [{"name": "A", "value": "own"}], "provideClusterInfo": true});
    let extensions = json!([{"name": MORE_ARGUMENTS, "extension": ["-b"]},
        {"name": MORE_VARIABLES, "extension": {"A": "theirs", "B": "b"}}]);
    let status = offering("accessProviders", "eks", &extensions);
    let user = |program: Value| {
        let way = found(&status, &programs(&json!([program]))).unwrap();
        kubeconfig(&way, None)["users"][0]["user"]["exec"].clone()
    };
    assert_eq!(user(json!({"name": "eks", "execConfig": exec})), exec, "by default it adds nothing");
    let more = user(json!({"name": "eks", "execConfig": exec, "profileSourcedCLIArgsPolicy": "Append",
        "profileSourcedEnvVarsPolicy": "AppendIfNotExists"}));
    assert_eq!(more["args"], json!(["-a", "-b"]));
    assert_eq!(more["env"], json!([{"name": "A", "value": "own"}, {"name": "B", "value": "b"}]));
    let replaced = user(json!({"name": "eks", "execConfig": exec, "profileSourcedEnvVarsPolicy": "Replace"}));
    assert_eq!(replaced["env"], json!([{"name": "A", "value": "theirs"}, {"name": "B", "value": "b"}]));
    assert_eq!(replaced["args"], json!(["-a"]));
}

#[test]
fn the_first_program_that_is_offered_is_taken_and_the_newer_list_wins() {
    let both = json!({
        "credentialProviders": [{"name": "b", "cluster": {"server": "https://old"}}],
        "accessProviders": [{"name": "a", "cluster": {"server": "https://a"}}, {"name": "b", "cluster": {"server": "https://b"}},
            {"name": SECRET_READER, "cluster": {"server": "https://s"}}],
    });
    let server = |programs: &Programs| found(&both, programs).unwrap().cluster["server"].clone();
    let program = |name: &str| json!({"name": name, "execConfig": {"command": name}});
    assert_eq!(server(&programs(&json!([program("b"), program("a")]))), "https://b");
    assert_eq!(server(&programs(&json!([program("c")]))), "https://s");
    let own = programs(&json!([program(SECRET_READER)]));
    let way = found(&both, &own).unwrap();
    assert_eq!(way.credentials, Credentials::Program(json!({"command": SECRET_READER})), "the operator's word counts");
}

#[test]
fn the_operators_file_is_read_or_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("providers.json");
    assert!(Programs::read(&path).unwrap_err().to_string().contains("--clusterprofile-provider-file"));
    std::fs::write(&path, r#"{"providers": [{"name": "a", "execConfig": {"command": "/a"}}]}"#).unwrap();
    assert_eq!(Programs::read(&path).unwrap().providers[0].name, "a");
    std::fs::write(&path, r#"{"providers": [{"name": "a", "execConfig": {}, "profileSourcedCLIArgsPolicy": "All"}]}"#)
        .unwrap();
    let error = crate::errors::chain(&Programs::read(&path).unwrap_err());
    assert!(error.contains("KEP-5339") && error.contains("Append"), "{error}");
}
