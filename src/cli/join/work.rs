//! Finding out what a join would do, and doing it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::api::clients::{self, Access};
use crate::api::diagnosis::diagnose_config;
use crate::api::resource;
use crate::api::rights::{Features, Right, target_rights};
use crate::api::target::{Scope, TargetSpec};
use crate::api::virtual_node::VirtualNodeSpec;
use crate::cli::CliError;
use crate::cli::ask::{AskError, Progress, ROUND, api_of, ask, ask_opt, has_definitions, title};
use crate::cli::clusters::{name_of, of_host, text_of};
use crate::cli::show::{Palette, Tone, yaml};
use crate::provider::names::JOINED;

use super::plan::Wish;
use super::{JoinArgs, JoinError, Side, check_names, kubeconfig, plan, spec};

/// Whose fields these are in what we apply.
const MANAGER: &str = "longshore-join";

/// How long a cluster may take to give an account its token, and to let new rights count.
const SETTLES: Duration = Duration::from_secs(20);

/// What becomes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Create,
    Change,
    Keep,
}

impl Fate {
    fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Change => "change",
            Self::Keep => "keep",
        }
    }
}

/// Everything that is known before anything is done.
pub(super) struct Join {
    host: Client,
    host_access: Access,
    target: Client,
    target_access: Access,
    wish: Wish,
    rights: Vec<Right>,
    target_spec: TargetSpec,
    pub(super) has_definitions: bool,
}

pub(super) async fn look(args: &JoinArgs) -> Result<Join, CliError> {
    check_names(args)?;
    // What can be told without a cluster is told first.
    resource::target(&args.name, &spec(args)).map_err(|found| JoinError::Flags(resource::sentence(&found)))?;
    let target_access = args.target.load().await.map_err(JoinError::ConfigureTarget)?.ok_or(JoinError::NameTarget)?;
    let target = clients::client(&target_access).await.map_err(JoinError::ConfigureTarget)?;
    let host_access = args.host.args().load().await?;
    let host = clients::client(&host_access).await.map_err(CliError::ConfigureHost)?;

    let host_id = crate::cli::host_id(&host).await?;
    let has_definitions = has_definitions(&host).await?;
    let first = args.namespaces.first().cloned();
    let account_namespace = args.account_namespace.clone().or(first).unwrap_or_else(|| "longshore".into());
    let make = |client: &Client, name: &str| {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let name = name.to_owned();
        async move {
            let what = format!("look for the namespace {name}");
            match ask_opt(what, namespaces.get_metadata(&name)).await {
                Ok(found) => Ok(found.is_none_or(|found| found.labels().contains_key(JOINED))),
                // Who may not look at namespaces makes none.
                Err(error) if error.code() == Some(403) => Ok(false),
                Err(error) => Err(error),
            }
        }
    };
    let mut wish = Wish {
        make_account_namespace: !args.namespaces.contains(&account_namespace)
            && make(&target, &account_namespace).await?,
        make_secret_namespace: make(&host, &args.secret_namespace).await?,
        name: args.name.clone(),
        host_id,
        account_namespace,
        secret_namespace: args.secret_namespace.clone(),
        lasting_token: args.token_lifetime.is_none(),
        labels: args.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
        target: spec(args),
        node: None,
    };
    let mut features = Features { claims: args.claims, services: args.services, ..Features::default() };
    let mut effective = wish.target.clone();
    if has_definitions {
        // What is declared already counts too: fields of others stay as they are.
        let clusters = of_host(host_access.clone(), &host).await?;
        let nodes = &clusters.configuration.nodes;
        let known = Features::of_target(nodes, &args.name);
        features = Features {
            claims: features.claims || known.claims,
            services: features.services || known.services,
            ..known
        };
        let resources = clusters.resources.unwrap_or_default();
        let ours = |node: &&Value| node["metadata"]["labels"][JOINED] == args.name.as_str();
        let has = |node: &&Value| {
            node["spec"]["targets"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one["name"] == args.name.as_str()))
        };
        if let Some(other) = resources.nodes.iter().find(|node| has(node) && !ours(node))
            && (args.claims || args.services)
        {
            return Err(JoinError::OtherNode(name_of(other).to_owned()).into());
        }
        let declared = wish.declaration("Target", &wish.target);
        effective = apply(&host, &declared, true).await?["spec"].take();
    }
    if args.claims || args.services {
        let mut spec = VirtualNodeSpec::for_target(&args.name);
        (spec.claims, spec.services) = (args.claims, args.services);
        wish.node = Some(json!(spec));
    }
    let target_spec = resource::target(&args.name, &effective);
    let target_spec = target_spec.map_err(|found| JoinError::Flags(resource::sentence(&found)))?;
    if target_spec.scope == Scope::Namespaces {
        let namespaces: Api<Namespace> = Api::all(target.clone());
        for name in &target_spec.namespaces.names {
            match ask_opt(format!("look for the namespace {name} in the target"), namespaces.get_metadata(name)).await {
                Ok(None) => return Err(JoinError::FindNamespace(name.clone()).into()),
                Err(error) if error.code() != Some(403) => return Err(error.into()),
                _ => {}
            }
        }
    }
    let rights = target_rights(&target_spec, features);
    Ok(Join { host, host_access, target, target_access, wish, rights, target_spec, has_definitions })
}

/// Applies an object, or only tries to; answers what it is then.
async fn apply(client: &Client, object: &Value, dry_run: bool) -> Result<Value, AskError> {
    let params = PatchParams { dry_run, force: true, field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    let what = format!("apply {}", title(object));
    let api = api_of(client, object);
    Ok(json!(ask(what, api.patch(name_of(object), &params, &Patch::Apply(object))).await?))
}

impl Join {
    /// What would become of each object, targets first.
    pub(super) async fn compare(&self) -> Result<Vec<(Side, Fate, Value)>, JoinError> {
        let progress = Progress::start("looking at both clusters");
        let mut plan = vec![];
        let sides = [
            (Side::Target, &self.target, self.wish.target_side(&self.rights)),
            (Side::Host, &self.host, self.wish.host_side(Some(""))),
        ];
        for (side, client, objects) in sides {
            for object in objects {
                progress.say(format!("looking at {}", title(&object)));
                let fate = self.fate(client, &object).await?;
                plan.push((side, fate, object));
            }
        }
        Ok(plan)
    }

    async fn fate(&self, client: &Client, object: &Value) -> Result<Fate, JoinError> {
        let what = format!("look for {}", title(object));
        let Some(live) = ask_opt(what, api_of(client, object).get(name_of(object))).await? else {
            let made_first = |name: &Value| {
                name == self.wish.account_namespace.as_str() && self.wish.make_account_namespace
                    || name == self.wish.secret_namespace.as_str() && self.wish.make_secret_namespace
            };
            // What may not be done is found out now; but a namespace that is not there yet holds nothing.
            match apply(client, object, true).await {
                Ok(_) => {}
                Err(error) if error.code() == Some(404) && made_first(&object["metadata"]["namespace"]) => {}
                Err(error) => return Err(error.into()),
            }
            return Ok(Fate::Create);
        };
        let ours =
            live.labels().get(JOINED).is_some_and(|name| *name == self.wish.name || object["kind"] == "Namespace");
        // A Target may have been there before, and is taken over. Whatever else has the name is somebody's.
        if !ours && object["kind"] != "Target" {
            return Err(JoinError::Taken(title(object)));
        }
        if object["kind"] == "Secret" {
            // Its content is known when the token is.
            return Ok(if object["stringData"].is_null() { Fate::Keep } else { Fate::Change });
        }
        let after = apply(client, object, true).await?;
        let same = after["metadata"]["resourceVersion"] == json!(live.resource_version());
        Ok(if same { Fate::Keep } else { Fate::Change })
    }

    /// The plan, as a person reads it.
    pub(super) fn told(&self, args: &JoinArgs, plan: &[(Side, Fate, Value)]) -> String {
        let palette = Palette::of_stdout();
        let strong = |text: &str| palette.paint(Tone::Strong, text);
        // Writing to a String does not fail.
        let mut text = String::new();
        let sides = [(Side::Target, "target", &self.target_access), (Side::Host, "host", &self.host_access)];
        for (side, word, access) in sides {
            text += &strong(&format!("In the {word} {}:\n", clients::address(access)));
            for (_, fate, object) in plan.iter().filter(|one| one.0 == side) {
                _ = writeln!(text, "  {:<6}  {}", fate.word(), title(object));
            }
        }
        text += &strong(&format!("Longshore may in {} do this and nothing else:\n", self.where_()));
        for line in plan::purposes(&self.rights) {
            _ = writeln!(text, "  {line}");
        }
        for note in self.notes(args) {
            _ = writeln!(text, "{} {note}", palette.paint(Tone::Doubtful, "note:"));
        }
        text
    }

    fn where_(&self) -> String {
        match self.target_spec.scope {
            Scope::Cluster => "all namespaces of the target".into(),
            Scope::Namespaces => {
                format!("the namespaces {} of the target", self.target_spec.namespaces.names.join(", "))
            }
        }
    }

    fn notes(&self, args: &JoinArgs) -> Vec<String> {
        let mut notes = vec![];
        let host = self.target_access.cluster_url.host().unwrap_or_default();
        if args.server.is_none() && kubeconfig::is_local(host) {
            notes.push(format!(
                "{host} is this machine: Longshore reaches the target there only if it runs here too; give --server otherwise"
            ));
        }
        if self.target_access.accept_invalid_certs {
            notes.push(
                "the kubeconfig has insecure-skip-tls-verify, and so will Longshore's: anybody in between can read all"
                    .into(),
            );
        }
        if let Some(seconds) = args.token_lifetime {
            notes.push(format!("the token ends after {seconds} s at most; join again before, with the same flags"));
        }
        if self.wish.account_namespace == "default" {
            notes.push("whoever may read Secrets in the namespace default of the target can read the token".into());
        }
        notes
    }

    /// What would be made, for those who keep it in Git. A token does not belong there.
    pub(super) fn manifests(&self, only: Option<Side>) -> String {
        let mut documents = vec![];
        if only != Some(Side::Host) {
            for (index, object) in self.wish.target_side(&self.rights).iter().enumerate() {
                let comment = if index == 0 { "# In the target\n" } else { "" };
                documents.push(format!("{comment}{}", yaml(object)));
            }
        }
        if only != Some(Side::Target) {
            let Wish { name, secret_namespace, .. } = &self.wish;
            let comment = format!(
                "# In the host. The kubeconfig is no matter for Git; when the account is there, make it with\n#   longshore join \
                 {name} --kubeconfig FILE -o kubeconfig > {name}.yaml\n#   kubectl create secret generic {name} --namespace \
                 {secret_namespace} --from-file=kubeconfig={name}.yaml\n"
            );
            for (index, object) in self.wish.host_side(None).iter().enumerate() {
                let comment = if index == 0 { comment.as_str() } else { "" };
                documents.push(format!("{comment}{}", yaml(object)));
            }
        }
        documents.join("---\n")
    }

    pub(super) async fn kubeconfig(&self, args: &JoinArgs) -> Result<String, JoinError> {
        let token = self.token(args).await?;
        Ok(kubeconfig::with_token(&self.wish.name, &self.target_access, args.server.as_deref(), &token))
    }

    async fn token(&self, args: &JoinArgs) -> Result<String, JoinError> {
        let (account, namespace) = (self.wish.account(), &self.wish.account_namespace);
        let failed = |reason: &str| JoinError::Token { account: account.clone(), reason: reason.into() };
        if let Some(seconds) = args.token_lifetime {
            let accounts: Api<ServiceAccount> = Api::namespaced(self.target.clone(), namespace);
            let spec = TokenRequestSpec { expiration_seconds: Some(seconds), ..TokenRequestSpec::default() };
            let request = TokenRequest { metadata: ObjectMeta::default(), spec, status: None };
            let what = format!("ask for a token of {namespace}/{account}");
            let made = ask(what, accounts.create_token_request(&account, &PostParams::default(), &request)).await?;
            return Ok(made.status.ok_or_else(|| failed("the API server gave none"))?.token);
        }
        let secrets: Api<Secret> = Api::namespaced(self.target.clone(), namespace);
        let begun = Instant::now();
        loop {
            let what = format!("read the Secret {namespace}/{account} of the target");
            let found = ask_opt(what, secrets.get(&account)).await?;
            let missing = "there is no Secret with it; apply what `-o yaml` prints, or join without -o";
            let found = found.ok_or_else(|| failed(missing))?;
            let token = found.data.and_then(|mut data| data.remove("token"));
            if let Some(token) = token.and_then(|token| String::from_utf8(token.0).ok()) {
                return Ok(token);
            }
            if begun.elapsed() > SETTLES {
                return Err(failed("the target's controller manager has put none into its Secret"));
            }
            sleep(ROUND).await;
        }
    }

    pub(super) async fn carry_out(&self, args: &JoinArgs) -> Result<(), JoinError> {
        let progress = Progress::start("making the account");
        for object in self.wish.target_side(&self.rights) {
            progress.say(format!("applying {}", title(&object)));
            apply(&self.target, &object, false).await?;
        }
        progress.say("waiting for the token");
        let text = self.kubeconfig(args).await?;
        progress.say("trying the new account");
        self.verify(&text).await?;
        for object in self.wish.host_side(Some(&text)) {
            progress.say(format!("applying {}", title(&object)));
            apply(&self.host, &object, false).await?;
        }
        Ok(())
    }

    /// The account can do what it has to. New rights may take a moment to count.
    async fn verify(&self, kubeconfig: &str) -> Result<(), JoinError> {
        let access = clients::secret("of the new account", kubeconfig, None).await;
        let access = access.map_err(JoinError::ConfigureTarget)?;
        let begun = Instant::now();
        loop {
            match diagnose_config(&access, &self.rights).await {
                Ok(_) => return Ok(()),
                Err(trouble) if begun.elapsed() > SETTLES => return Err(JoinError::Verify(trouble)),
                Err(_) => sleep(ROUND).await,
            }
        }
    }

    /// Waits until the Target is ready, and answers its version for people.
    pub(super) async fn wait(&self, args: &JoinArgs) -> Result<String, JoinError> {
        let declared = self.wish.declaration("Target", &self.wish.target);
        let api = api_of(&self.host, &declared);
        let progress = Progress::start(format!("waiting for Target {} to be ready", args.name));
        let begun = Instant::now();
        let mut last = String::new();
        while begun.elapsed() < Duration::from_secs(args.timeout) {
            let found = ask(format!("look at Target {}", args.name), api.get(&args.name)).await?;
            let status = &found.data["status"];
            let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            match conditions.iter().find(|one| one["type"] == "Ready") {
                Some(ready) if ready["status"] == "True" => {
                    let version = status["version"].as_str().map(|version| format!(", {version}"));
                    return Ok(version.unwrap_or_default());
                }
                Some(ready) => {
                    last = format!("{}: {}", text_of(ready, "reason"), text_of(ready, "message"));
                }
                None => {
                    "no Longshore has looked at it; is `longshore run` running, and does its --selector match?"
                        .clone_into(&mut last);
                }
            }
            progress.say(format!("waiting for Target {} to be ready ({last})", args.name));
            sleep(ROUND).await;
        }
        Err(JoinError::Wait { name: args.name.clone(), seconds: args.timeout, reason: last })
    }
}
