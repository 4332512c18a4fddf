//! Whose tokens pods have in a target: nobody's, those of an account there, or their own.

use std::path::PathBuf;

use e2e::{Cluster, Context, IDLE, Result, Value, World, container, ensure, json, secs, write_json};

/// Where clients look for a token.
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A client in a pod: it serves the API that it talks to, so that it goes on, and further ones can be run beside it.
fn client(image: &str) -> Value {
    json!({"name": "main", "image": image, "imagePullPolicy": "IfNotPresent", "args": ["proxy", "--port=8001"]})
}

fn exec(host: &Cluster, pod: &str, command: &[&str]) -> Result<String> {
    host.kubectl(&[&["exec", pod, "--"], command].concat())?.ok()
}

fn whoami(host: &Cluster, pod: &str) -> Result<Value> {
    Ok(serde_json::from_str(&exec(host, pod, &["/usr/bin/kubectl", "auth", "whoami", "-o", "json"])?)?)
}

/// The claims of the token that the container `vault` has in a file.
fn vault_token(host: &Cluster, pod: &str) -> Result<Value> {
    let script = "cut -d. -f2 /vault/token | tr _- /+ | (read t; while [ $((${#t} % 4)) != 0 ]; do t=$t=; done; echo $t) | base64 -d";
    let text = host.kubectl(&["exec", pod, "-c", "vault", "--", "sh", "-c", script])?.ok()?;
    serde_json::from_str(&text).with_context(|| text)
}

/// The container, and the volume with a token of this life for it.
fn vault(seconds: u32) -> (Value, Value) {
    let mut vault = container("vault", IDLE);
    vault["volumeMounts"] = json!([{"name": "vault", "mountPath": "/vault"}]);
    let token = json!({"serviceAccountToken": {"path": "token", "audience": "vault", "expirationSeconds": seconds}});
    (vault, json!({"name": "vault", "projected": {"sources": [token]}}))
}

#[test]
fn without_a_word_no_token_is_mounted() -> Result<()> {
    let world = World::new("none")?;
    world.host.create(world.pod("plain", &[container("main", IDLE)]))?;
    world.host.wait_for_ready("plain")?;
    let found = exec(&world.host, "plain", &["sh", "-c", &format!("ls {MOUNT} 2>&1 || true")])?;
    ensure!(found.contains("No such file"), "{found}");

    let token = json!({"serviceAccountToken": {"path": "token", "audience": "vault"}});
    world.host.create(world.pod_of(
        "asks",
        json!({"containers": [container("main", IDLE)],
        "volumes": [{"name": "token", "projected": {"sources": [token]}}]}),
    ))?;
    let message = world.host.wait_for_event("asks", "OffloadHeld")?;
    ensure!(message.contains("spec.serviceAccounts"), "the remedy is named: {message}");
    Ok(())
}

#[test]
fn an_account_of_the_target_speaks_to_the_target() -> Result<()> {
    let image = World::load_kubectl("east")?;
    let world = World::with_spec("remote", None, "serviceAccounts: {mode: Remote, name: runner}")?;
    world.create_target_namespace()?;
    world.east.create(json!({"kind": "ServiceAccount", "metadata": {"name": "runner"}}))?;
    world.host.create(world.pod("client", &[client(image)]))?;
    world.host.wait_for_ready("client")?;
    let who = whoami(&world.host, "client")?;
    let name = format!("system:serviceaccount:{}:runner", world.namespace);
    assert_eq!(who["status"]["userInfo"]["username"], json!(name));
    let account = world.east.get("serviceaccounts", "runner")?;
    assert_eq!(who["status"]["userInfo"]["uid"], account["metadata"]["uid"], "of the target");
    Ok(())
}

#[test]
fn a_client_in_a_delegate_speaks_as_its_account_at_home() -> Result<()> {
    let image = World::load_kubectl("east")?;
    let world = World::with_spec("home", None, "serviceAccounts: {mode: Host}")?;
    let account = world.host.create(json!({"kind": "ServiceAccount", "metadata": {"name": "shopkeeper"}}))?;
    world.host.create(json!({"kind": "RoleBinding", "metadata": {"name": "shopkeeper"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "shopkeeper", "namespace": world.namespace}]}))?;
    let (vault, volume) = vault(1200);
    world.host.create(world.pod_of(
        "client",
        json!({"serviceAccountName": "shopkeeper", "containers": [client(image), vault], "volumes": [volume]}),
    ))?;
    let proxy = world.host.wait_for_ready("client")?;
    let delegate = world.delegate(&proxy)?;

    let who = whoami(&world.host, "client")?;
    let user = &who["status"]["userInfo"];
    assert_eq!(user["username"], json!(format!("system:serviceaccount:{}:shopkeeper", world.namespace)));
    assert_eq!(user["uid"], account["metadata"]["uid"], "of home");
    let bound = |user: &Value| user["extra"]["authentication.kubernetes.io/pod-uid"][0].clone();
    assert_eq!(bound(user), json!(proxy.uid()), "the token is bound to the pod at home");
    let listed =
        exec(&world.host, "client", &["/usr/bin/kubectl", "get", "pods", "client", "-o", "jsonpath={.metadata.uid}"])?;
    assert_eq!(listed, proxy.uid(), "it sees home's pods, in home's namespace");

    // The other source has its own audience and life.
    let payload = |pod: &str| vault_token(&world.host, pod);
    let claims = payload("client")?;
    assert_eq!(claims["aud"], json!(["vault"]));
    let life = claims["exp"].as_i64().unwrap_or_default() - claims["iat"].as_i64().unwrap_or_default();
    assert_eq!(life, 1200);

    // It is renewed when it is time, whoever has to do so, and the pod runs on.
    let secret = format!("longshore-token-{}", proxy.uid());
    let renewal = |secret: &Value| -> i64 {
        let text = secret["metadata"]["annotations"]["longshore.dev/renewal"].as_str().unwrap_or_default();
        text.parse().unwrap_or_default()
    };
    let issued = claims["iat"].as_i64().unwrap_or_default();
    let due = renewal(&world.east.get("secrets", &secret)?);
    ensure!((issued + 955..=issued + 965).contains(&due), "at 80 % of the shorter life: {issued}, {due}");
    world.longshore().kill9()?;
    let early = json!({"metadata": {"annotations": {"longshore.dev/renewal": "1"}}});
    world.east.patch("secrets", &secret, &early)?;
    world.longshore().restart()?;
    world.host.wait("the file in the pod to be renewed", secs(120), |_| {
        let claims = payload("client")?;
        ensure!(claims["iat"].as_i64().unwrap_or_default() > issued, "{claims}");
        Ok(())
    })?;
    ensure!(renewal(&world.east.get("secrets", &secret)?) > due);
    assert_eq!(bound(&whoami(&world.host, "client")?["status"]["userInfo"]), json!(proxy.uid()));
    let now = world.delegate(&proxy)?;
    ensure!(now.uid() == delegate.uid() && now.restarts() == 0, "{now}");

    world.host.delete("pods", "client")?;
    world.host.wait_for_gone(&proxy)?;
    world.east.wait("the tokens to go with their pod", secs(60), |east| {
        ensure!(east.find("secrets", &secret)?.is_none());
        Ok(())
    })
}

/// How much of the shortest life that an API server gives a token is over for Longshore when it gets one: it is due for renewal
/// 32 s later, at 80 % of the rest.
const AHEAD: &str = "560";

#[test]
fn a_token_is_renewed_before_its_end_while_everything_runs_on() -> Result<()> {
    let world = World::with_spec("renewal", None, "serviceAccounts: {mode: Host}")?;
    world.longshore().stop()?;
    world.longshore().restart_with(&[("LONGSHORE_TOKENS_AHEAD", AHEAD)])?;
    let (vault, volume) = vault(600);
    let spec = json!({"containers": [vault], "volumes": [volume], "automountServiceAccountToken": false});
    world.host.create(world.pod_of("client", spec))?;
    let proxy = world.host.wait_for_ready("client")?;
    let (first, delegate) = (vault_token(&world.host, "client")?, world.delegate(&proxy)?);
    let time = |claims: &Value, name: &str| claims[name].as_i64().with_context(|| claims.to_string());
    assert_eq!(time(&first, "exp")? - time(&first, "iat")?, 600);

    // Half a minute until it is due, and up to two until the kubelet looks at the volume again.
    let second = world.host.wait("the file in the pod to be renewed", secs(180), |_| {
        let claims = vault_token(&world.host, "client")?;
        ensure!(claims["iat"] != first["iat"], "{claims}");
        Ok(claims)
    })?;
    let age = time(&second, "iat")? - time(&first, "iat")?;
    ensure!((30..600).contains(&age), "renewed when it was due, before its end: after {age} s");
    ensure!(time(&second, "exp")? > time(&first, "exp")?, "{second}");

    let token = world.host.kubectl(&["exec", "client", "--", "cat", "/vault/token"])?.ok()?;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token, "audiences": ["vault"]}});
    let create = ["create", "-o", "json", "-f", "-"];
    let answer = world.host.kubectl_with(&create, review.to_string().as_bytes())?.ok()?;
    let answer: Value = serde_json::from_str(&answer)?;
    let status = &answer["status"];
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(status["user"]["extra"]["authentication.kubernetes.io/pod-uid"][0], json!(proxy.uid()));

    let now = world.delegate(&proxy)?;
    ensure!(now.uid() == delegate.uid() && now.restarts() == 0, "{now}");
    assert_eq!(now.container_ids(), delegate.container_ids(), "the same container");
    world.longshore().check()
}

/// A kubeconfig for an account with all rights that Longshore needs, but for tokens.
fn without_tokens(world: &World, dir: &tempfile::TempDir) -> Result<(String, PathBuf)> {
    let kubeconfig = write_json(dir, "longshore", &world.host.stranger_kubeconfig("longshore")?)?;
    let name = format!("{}-longshore", world.namespace);
    let rule = |group: &str, resources: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": ["*"]});
    world.host.create(json!({"kind": "ClusterRole", "metadata": {"name": name}, "rules": [
        rule("", &["pods", "pods/status", "pods/eviction", "nodes", "nodes/status", "namespaces", "configmaps", "secrets", "services"]),
        rule("coordination.k8s.io", &["leases"]), rule("events.k8s.io", &["events"]), rule("", &["events"]),
        rule("authentication.k8s.io", &["tokenreviews"]), rule("authorization.k8s.io", &["subjectaccessreviews"])]}))?;
    let subject = json!({"kind": "ServiceAccount", "name": "longshore", "namespace": world.namespace});
    world.host.create(json!({"kind": "ClusterRoleBinding", "metadata": {"name": name}, "subjects": [subject],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}}))?;
    Ok((name, kubeconfig))
}

#[test]
fn the_right_to_tokens_is_granted_by_namespace() -> Result<()> {
    let owner = World::new("owner")?;
    let dir = tempfile::tempdir()?;
    let (role, kubeconfig) = without_tokens(&owner, &dir)?;
    let outcome = held_until_granted(&owner, kubeconfig);
    for plural in ["clusterrolebindings", "clusterroles"] {
        owner.host.delete(plural, &role)?;
        owner.host.delete(plural, &format!("{role}-tokens"))?;
    }
    outcome
}

fn held_until_granted(owner: &World, kubeconfig: PathBuf) -> Result<()> {
    let world = World::with_spec("right", Some(kubeconfig), "serviceAccounts: {mode: Host}")?;
    world.host.create(world.pod("asks", &[container("main", IDLE)]))?;
    let message = world.host.wait_for_event("asks", "TokenForbidden")?;
    for words in ["create serviceaccounts/token", &world.namespace, "RoleBinding"] {
        ensure!(message.contains(words), "{words:?} is said: {message}");
    }
    let proxy = world.host.pod("asks")?;
    ensure!(world.delegates(&proxy)?.is_empty(), "it has not started without");

    let tokens = format!("{}-longshore-tokens", owner.namespace);
    world.host.create(json!({"kind": "ClusterRole", "metadata": {"name": tokens}, "rules": [
        {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]}]}))?;
    world.host.create(json!({"kind": "RoleBinding", "metadata": {"name": "tokens"},
        "subjects": [{"kind": "ServiceAccount", "name": "longshore", "namespace": owner.namespace}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": tokens}}))?;
    world.host.wait_for_ready("asks")?;
    Ok(())
}
