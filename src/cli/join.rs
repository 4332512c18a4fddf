//! `longshore join`: an account with the least rights in a target, and a Target in the host that uses it.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::api::clients::{self, Access, ClientsError};
use crate::api::diagnosis::Trouble;
use crate::api::names;

use super::CliError;
use super::ask::{AskError, Consent, consent};
use super::clusters::HostArgs;

mod kubeconfig;
pub(super) mod plan;
mod work;

use work::look;

/// The flags of `join`.
#[expect(clippy::struct_excessive_bools, reason = "they are independent flags")]
#[derive(Args)]
pub struct JoinArgs {
    /// The name of the Target, and of its virtual node
    name: String,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    host: OtherHostArgs,
    /// Use only these namespaces of the target, which exist: a Role in each, and no ClusterRole
    #[arg(long, value_name = "NAMESPACES", value_delimiter = ',')]
    namespaces: Vec<String>,
    /// All delegates go to this one namespace of the target
    #[arg(long, value_name = "NAMESPACE", conflicts_with = "prefix")]
    single: Option<String>,
    /// The delegates' namespaces begin with this
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Keep claims of pods in the target
    #[arg(long)]
    claims: bool,
    /// Let Services and Ingresses follow pods to the target
    #[arg(long)]
    services: bool,
    /// The address at which Longshore reaches the target's API server [default: that of its kubeconfig]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// The namespace of the account in the target, which is made if it is missing [default: longshore, with --namespaces the
    /// first of them]
    #[arg(long, value_name = "NAMESPACE")]
    account_namespace: Option<String>,
    /// The namespace of the Secret with the kubeconfig in the host, which is made if it is missing
    #[arg(long, value_name = "NAMESPACE", default_value = "longshore")]
    secret_namespace: String,
    /// Use a token that ends after so many seconds, in place of one that does not; join again before
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(600..))]
    token_lifetime: Option<i64>,
    /// Labels of the Target, for --selector of `longshore run`: KEY=VALUE,…
    #[arg(long, value_name = "LABELS", value_delimiter = ',', value_parser = label)]
    labels: Vec<(String, String)>,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Print this in place of doing anything
    #[arg(long, short, value_enum)]
    output: Option<Output>,
    /// Print the objects of this side only
    #[arg(long, value_enum, requires = "output")]
    only: Option<Side>,
    /// How many seconds to wait until the Target is ready; 0 means not at all
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
}

/// Where the target is, as a person with many rights reaches it.
#[derive(Args, Clone)]
pub struct TargetArgs {
    /// The kubeconfig of the target, of somebody who may make accounts and roles there
    #[arg(id = "target_kubeconfig", long = "kubeconfig", value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// The context of the target's kubeconfig [default: its current one]
    #[arg(id = "target_context", long = "context", value_name = "NAME", requires = "target_kubeconfig")]
    pub(super) context: Option<String>,
}

impl TargetArgs {
    /// Reads its kubeconfig, if one was given.
    pub(super) async fn load(&self) -> Result<Option<Access>, ClientsError> {
        match &self.kubeconfig {
            Some(file) => clients::target(file, self.context.as_deref()).await.map(Some),
            None => Ok(None),
        }
    }
}

/// Where the host is, beside a target.
#[derive(Args, Clone)]
pub struct OtherHostArgs {
    /// The kubeconfig of the host cluster [default: as kubectl, else the service account of the pod]
    #[arg(long, value_name = "FILE")]
    host_kubeconfig: Option<PathBuf>,
    /// The context of the host's kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    host_context: Option<String>,
}

impl OtherHostArgs {
    pub(super) fn args(&self) -> HostArgs {
        HostArgs { kubeconfig: self.host_kubeconfig.clone(), context: self.host_context.clone() }
    }
}

/// What is printed in place of being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// The objects of both sides, without the token, for kubectl apply and Git.
    Yaml,
    /// The kubeconfig of the account that is there, token and all.
    Kubeconfig,
}

/// One of the two clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Side {
    /// The target.
    Target,
    /// The host.
    Host,
}

/// Why a target has not joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It is not said where the target is.
    #[error("failed to find the target: give --kubeconfig with the kubeconfig of the cluster that is to join")]
    NameTarget,
    /// Its kubeconfig is bad.
    #[error("failed to configure the target; correct --kubeconfig or --context")]
    ConfigureTarget(#[source] ClientsError),
    /// It has a bad name.
    #[error("failed to name the Target {name:?}, which {why}; use lower-case letters, digits, `-` and `.`, at most 63")]
    Name {
        /// The name.
        name: String,
        /// Why.
        why: String,
    },
    /// The flags do not fit together.
    #[error("failed to make a Target of these flags: {0}")]
    Flags(String),
    /// A namespace cannot be one.
    #[error("failed to use {flag} {name:?}, which {why}; use lower-case letters, digits and `-`, at most 63")]
    NameNamespace {
        /// The flag.
        flag: &'static str,
        /// The name.
        name: String,
        /// Why.
        why: String,
    },
    /// A namespace is missing.
    #[error("failed to find the namespace {0} in the target; create it, or correct --namespaces")]
    FindNamespace(String),
    /// The address is none.
    #[error("failed to use --server {0:?}; write https://HOST:PORT")]
    Server(String),
    /// There are nodes for it that say something else.
    #[error(
        "failed to apply --claims or --services: VirtualNode {0} has this target; set spec.claims and spec.services there, and \
         join again without these flags"
    )]
    OtherNode(String),
    /// A request failed.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// There is somebody else's object.
    #[error(
        "failed to use the name of {0}, which is there and was not made by `longshore join`; remove it, or choose another name or --secret-namespace"
    )]
    Taken(String),
    /// Nobody could be asked.
    #[error("failed to ask whether to go ahead, as this is no terminal; give --yes, or --dry-run to look only")]
    Nobody,
    /// Somebody said no.
    #[error("nothing was done")]
    Declined,
    /// The account has no token.
    #[error("failed to get a token of {account}: {reason}; join again")]
    Token {
        /// The account.
        account: String,
        /// Why.
        reason: String,
    },
    /// The account is not good enough.
    #[error("failed to use the target with the new account, so that nothing was made in the host")]
    Verify(#[source] Trouble),
    /// It takes too long.
    #[error("joined, but Target {name} was not ready within {seconds} s: {reason}")]
    Wait {
        /// The Target.
        name: String,
        /// `--timeout`.
        seconds: u64,
        /// What it says.
        reason: String,
    },
}

impl JoinError {
    /// The exit code.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::NameTarget
            | Self::ConfigureTarget(_)
            | Self::Name { .. }
            | Self::Flags(_)
            | Self::NameNamespace { .. }
            | Self::Server(_)
            | Self::Nobody => 2,
            Self::Wait { .. } => 3,
            Self::Declined => 4,
            _ => 1,
        }
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it like KEY=VALUE")?;
    names::check_key(key).and_then(|()| names::check_value(value))?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) async fn join(args: &JoinArgs) -> Result<(), CliError> {
    let join = look(args).await?;
    match args.output {
        Some(Output::Yaml) => {
            print!("{}", join.manifests(args.only));
            return Ok(());
        }
        Some(Output::Kubeconfig) => {
            print!("{}", join.kubeconfig(args).await?);
            return Ok(());
        }
        None if !join.has_definitions => return Err(CliError::FindDefinitions),
        None => {}
    }
    let plan = join.compare().await?;
    print!("{}", join.told(args, &plan));
    if args.dry_run {
        return Ok(());
    }
    match consent(args.yes) {
        Consent::Given => {}
        Consent::Refused => return Err(JoinError::Declined.into()),
        Consent::Nobody => return Err(JoinError::Nobody.into()),
    }
    join.carry_out(args).await?;
    if args.timeout == 0 {
        println!("joined; `longshore status` shows when Target {} is ready", args.name);
        return Ok(());
    }
    let version = join.wait(args).await?;
    println!("joined: Target {} is ready{version}; `longshore test {0}` runs a pod there", args.name);
    Ok(())
}

fn check_names(args: &JoinArgs) -> Result<(), JoinError> {
    if let Err(why) = names::check_name(&args.name) {
        return Err(JoinError::Name { name: args.name.clone(), why });
    }
    let mut all: Vec<(&'static str, &String)> = args.namespaces.iter().map(|name| ("--namespaces", name)).collect();
    all.extend(args.single.iter().map(|name| ("--single", name)));
    all.extend(args.account_namespace.iter().map(|name| ("--account-namespace", name)));
    all.push(("--secret-namespace", &args.secret_namespace));
    for (flag, name) in all {
        if let Err(why) = names::check_label_name(name) {
            return Err(JoinError::NameNamespace { flag, name: name.clone(), why });
        }
    }
    if let Some(server) = &args.server {
        let url: Option<http::Uri> = server.parse().ok();
        if !url.is_some_and(|url| url.scheme_str() == Some("https") && url.host().is_some()) {
            return Err(JoinError::Server(server.clone()));
        }
    }
    Ok(())
}

/// The spec of the Target, as far as flags say something.
fn spec(args: &JoinArgs) -> Value {
    let mut spec = json!({"kubeconfig": {"secretRef": {
        "namespace": args.secret_namespace, "name": args.name, "key": "kubeconfig"}}});
    let mut namespaces = json!({});
    if !args.namespaces.is_empty() {
        spec["scope"] = "Namespaces".into();
        namespaces["names"] = json!(args.namespaces);
    }
    if let Some(single) = &args.single {
        namespaces["mapping"] = "Single".into();
        namespaces["single"] = single.as_str().into();
    }
    if let Some(prefix) = &args.prefix {
        namespaces["mapping"] = "Prefixed".into();
        namespaces["prefix"] = prefix.as_str().into();
    }
    if namespaces != json!({}) {
        spec["namespaces"] = namespaces;
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::resource;
    use crate::api::target::Scope;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: JoinArgs,
    }

    fn args(line: &str) -> JoinArgs {
        Line::parse_from(format!("join {line}").split(' ')).args
    }

    #[test]
    fn flags_become_a_spec_of_what_they_say_and_no_more() {
        let plain = spec(&args("east --kubeconfig f"));
        assert_eq!(plain.as_object().unwrap().len(), 1, "{plain}");
        let some = args("east --kubeconfig f --namespaces a,b --single a");
        let read = resource::target("east", &spec(&some)).unwrap();
        assert_eq!((read.scope, read.namespaces.names.len()), (Scope::Namespaces, 2));
        let bad = args("east --kubeconfig f --namespaces a --single c");
        assert!(resource::target("east", &spec(&bad)).is_err());
    }

    #[test]
    fn bad_names_are_told_with_their_flag() {
        for (line, words) in [
            ("East --kubeconfig f", "failed to name the Target"),
            ("east --kubeconfig f --namespaces a,B", "--namespaces \"B\""),
            ("east --kubeconfig f --single x.y", "--single"),
            ("east --kubeconfig f --server http://x", "--server"),
        ] {
            let error = check_names(&args(line)).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.code(), 2);
        }
        assert!(check_names(&args("east --kubeconfig f --server https://10.0.0.1:6443")).is_ok());
        assert!(Line::try_parse_from("join east --context c".split(' ')).is_err());
        assert!(label("a=b").is_ok() && label("a").is_err() && label("a b=c").is_err());
    }
}
