//! The command line: from flags to a running kubelet.
//!
//! Flags are converted once into validated parts ([`crate::run::Setup`]); what runs knows nothing of flags.

mod ask;
pub mod bundle;
pub mod check;
pub mod clusters;
pub mod doctor;
pub mod drain;
pub mod explain;
pub mod join;
pub mod leave;
pub mod logging;
pub mod pods;
pub mod provider;
pub mod reference;
pub mod run;
pub mod serving;
mod show;
pub mod status;
pub mod trial;
pub mod webhook;

use std::path::Path;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt};

use crate::api::clients::ClientsError;
use crate::api::configuration::ConfigErrors;
use crate::registry::Registry;

use self::ask::AskError;
use self::bundle::{BundleArgs, BundleError};
use self::clusters::{Clusters, ConfigurationArgs, HostArgs};
use self::doctor::uninstall::{UninstallArgs, UninstallError};
use self::doctor::{DoctorArgs, DoctorError};
use self::drain::{DrainArgs, DrainError, UncordonArgs};
use self::explain::{ExplainArgs, ExplainError};
use self::join::{JoinArgs, JoinError};
use self::leave::{LeaveArgs, LeaveError};
use self::logging::LogArgs;
use self::pods::{PodsArgs, PodsError};
use self::reference::{CompletionArgs, ManualArgs, ReferenceError};
use self::run::{RunArgs, RunError};
use self::serving::{ServingArgs, ServingError};
use self::status::{StatusArgs, StatusError};
use self::trial::{TestArgs, TestError};
use self::webhook::{PrintArgs, WebhookError};

/// Offloads pods from one Kubernetes cluster to others.
///
/// Exit codes: 0 all went well; 1 a failure, or something is wrong that was looked for; 2 bad usage or a bad configuration; 3
/// done, but not all of it, or not in time; 4 nothing was done, since somebody said no.
#[derive(Parser)]
#[command(name = "longshore", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Let a cluster join as a target: make an account with the least rights there, and a Target here
    Join(Box<JoinArgs>),
    /// Let a target go, with all that `longshore join` has made on both sides
    Leave(LeaveArgs),
    /// Show how targets, nodes and pods are, and what is wrong
    Status(StatusArgs),
    /// Show each pod beside its delegate
    Pods(PodsArgs),
    /// Run a pod in a target, from end to end, and remove it
    Test(TestArgs),
    /// Show what a pod would be in a target, and why it differs; nothing is changed
    Explain(ExplainArgs),
    /// Close a target to new pods, and evict those that it has, as their disruption budgets allow
    Drain(DrainArgs),
    /// Open a target again that was drained
    Uncordon(UncordonArgs),
    /// Tell whether a configuration and the clusters in it can be used
    Check(CheckArgs),
    /// Find what Longshore has left behind on either side, explain it, and remove it with --fix
    Doctor(DoctorArgs),
    /// Remove all that Longshore has made in the host and in the targets that answer; the chart does it before it goes
    Uninstall(UninstallArgs),
    /// Gather what somebody needs who is to find out what is wrong, without secrets
    DebugBundle(BundleArgs),
    /// Serve the Targets and VirtualNodes of the host, or those of a file, until told to stop
    Run(Box<RunArgs>),
    /// Print the CustomResourceDefinitions of Target and VirtualNode, for kubectl apply
    Crds,
    /// Print the MutatingWebhookConfiguration for pods that ask to be offloaded, for kubectl apply
    Webhook(PrintArgs),
    /// Print the completions of a shell
    Completion(CompletionArgs),
    /// Write the manual pages
    Man(ManualArgs),
    /// Print the version
    Version,
}

/// What is checked.
#[derive(Args)]
pub struct CheckArgs {
    #[command(flatten)]
    configuration: ConfigurationArgs,
    #[command(flatten)]
    serving: ServingArgs,
    /// Check for the webhook of `longshore run --webhook-bind`, too
    #[arg(long)]
    webhook: bool,
    /// The same for one that `longshore run --webhook-register` registers
    #[arg(long)]
    webhook_register: bool,
    /// The namespace of the leases, as `longshore run` has it, in which the certificates of the webhook are
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-node-lease")]
    lease_namespace: String,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The filter for the log is none.
    #[error("failed to set up the log; correct --log or RUST_LOG")]
    Log(#[from] logging::LogError),
    /// The runtime did not start.
    #[error("failed to start the runtime")]
    StartRuntime(#[source] std::io::Error),
    /// The configuration is bad.
    #[error(transparent)]
    Configure(#[from] ConfigErrors),
    /// The host's kubeconfig is bad.
    #[error("failed to configure the host cluster")]
    ConfigureHost(#[source] ClientsError),
    /// The definitions could not be written as YAML.
    #[error("failed to print the CustomResourceDefinitions")]
    PrintCrds(#[source] serde_saphyr::ser::Error),
    /// The host does not know Targets.
    #[error(
        "failed to find the CustomResourceDefinitions of Longshore in the host; install them with `longshore crds | kubectl apply \
         --server-side -f -`, or give --provider-config where a file declares targets"
    )]
    FindDefinitions,
    /// A cluster did not do what it was asked.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// There is no bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A target has not joined.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// A target has not left.
    #[error(transparent)]
    Leave(#[from] LeaveError),
    /// Pods could not be shown.
    #[error(transparent)]
    Pods(#[from] PodsError),
    /// Completions or manual pages were not written.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// Something is wrong, or could not be looked at.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// A target has not passed its test.
    #[error(transparent)]
    Test(#[from] TestError),
    /// A check found trouble, and has told it.
    #[error("failed to find everything in order: {0} of the checks above failed")]
    Check(usize),
    /// The doctor has found something, or could not look.
    #[error(transparent)]
    Doctor(#[from] DoctorError),
    /// Longshore could not be taken away.
    #[error(transparent)]
    Uninstall(#[from] UninstallError),
    /// A target was not emptied.
    #[error(transparent)]
    Drain(#[from] DrainError),
    /// There is nothing to explain, or a pod would be held.
    #[error(transparent)]
    Explain(#[from] ExplainError),
    /// The flags for serving certificates contradict each other.
    #[error(transparent)]
    Serving(#[from] ServingError),
    /// The webhook's configuration could not be printed.
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    /// The run failed.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl CliError {
    /// The exit code, by whether the user has to change what they wrote.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Explain(error) if error.is_usage() => ExitCode::from(2),
            Self::Run(RunError::Provider(error)) if error.is_usage() => ExitCode::from(2),
            Self::Webhook(error) | Self::Run(RunError::Webhook(error)) if error.is_usage() => ExitCode::from(2),
            Self::Join(error) => ExitCode::from(error.code()),
            Self::Leave(error) => ExitCode::from(error.code()),
            Self::Test(error) => ExitCode::from(error.code()),
            Self::Run(RunError::Serving(_) | RunError::Trace(_))
            | Self::Serving(_)
            | Self::Log(_)
            | Self::Configure(_)
            | Self::ConfigureHost(_)
            | Self::Pods(PodsError::Target { .. }) => ExitCode::from(2),
            Self::StartRuntime(_)
            | Self::FindDefinitions
            | Self::Ask(_)
            | Self::Bundle(_)
            | Self::Pods(_)
            | Self::Reference(_)
            | Self::Status(_)
            | Self::PrintCrds(_)
            | Self::Check(_)
            | Self::Doctor(_)
            | Self::Uninstall(_)
            | Self::Drain(_)
            | Self::Explain(_)
            | Self::Webhook(_)
            | Self::Run(_) => ExitCode::from(1),
        }
    }
}

impl Cli {
    /// The command line of this process. A binary of the name `kubectl-longshore` is a plugin, and calls itself so.
    pub fn of_process() -> Self {
        let arguments: Vec<_> = std::env::args_os().collect();
        let program = arguments.first().map(Path::new).and_then(Path::file_stem);
        let command = match program {
            Some(name) if name == "kubectl-longshore" => Self::command().bin_name("kubectl longshore"),
            _ => Self::command(),
        };
        let matches = command.get_matches_from(arguments);
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// Does what the command line says.
    pub fn execute(self) -> Result<(), CliError> {
        self.execute_with(&Registry::default())
    }

    /// The same, with these providers to choose from.
    pub fn execute_with(self, registry: &Registry) -> Result<(), CliError> {
        let (default_level, work) = match self.command {
            Command::Version => {
                println!("longshore {}", env!("CARGO_PKG_VERSION"));
                return Ok(());
            }
            Command::Crds => {
                print!("{}", crate::api::crds::yaml().map_err(CliError::PrintCrds)?);
                return Ok(());
            }
            Command::Completion(args) => {
                reference::completion(&args);
                return Ok(());
            }
            Command::Man(args) => return Ok(reference::manual(&args)?),
            // What a command finds is its output; the log is for the rest.
            Command::Join(args) => ("warn", Work::Join(args)),
            Command::Leave(args) => ("warn", Work::Leave(args)),
            Command::Status(args) => ("warn", Work::Status(args)),
            Command::Pods(args) => ("warn", Work::Pods(args)),
            Command::Test(args) => ("warn", Work::Test(args)),
            Command::DebugBundle(args) => ("warn", Work::Bundle(args)),
            Command::Check(args) => ("warn", Work::Check(args)),
            Command::Doctor(args) => ("warn", Work::Doctor(args)),
            Command::Uninstall(args) => ("warn", Work::Uninstall(args)),
            Command::Drain(args) => ("warn", Work::Drain(args)),
            Command::Uncordon(args) => ("warn", Work::Uncordon(args)),
            Command::Explain(args) => ("warn", Work::Explain(args)),
            Command::Webhook(args) => ("warn", Work::Webhook(args)),
            Command::Run(args) => ("info", Work::Run(args)),
        };
        self.log.start(default_level)?;
        let runtime = runtime().map_err(CliError::StartRuntime)?;
        let result = runtime.block_on(async {
            match work {
                Work::Join(args) => Box::pin(join::join(&args)).await,
                Work::Leave(args) => Box::pin(leave::leave(&args)).await,
                Work::Status(args) => Box::pin(status::status(&args)).await,
                Work::Pods(args) => Box::pin(pods::pods(&args)).await,
                Work::Test(args) => Box::pin(trial::test(&args)).await,
                Work::Bundle(args) => Box::pin(bundle::bundle(&args)).await,
                Work::Check(args) => check::check(&args).await,
                Work::Doctor(args) => doctor::doctor(&args).await,
                Work::Uninstall(args) => doctor::uninstall::uninstall(args).await,
                Work::Drain(args) => drain::drain(&args).await,
                Work::Uncordon(args) => drain::uncordon(&args).await,
                Work::Explain(args) => explain::explain(&args).await,
                Work::Webhook(args) => webhook::print(&args).await,
                Work::Run(args) => Box::pin(run::run(*args, registry)).await,
            }
        });
        // A credential plugin that hangs must not keep the process.
        runtime.shutdown_background();
        result
    }
}

enum Work {
    Join(Box<JoinArgs>),
    Leave(LeaveArgs),
    Status(StatusArgs),
    Pods(PodsArgs),
    Test(TestArgs),
    Bundle(BundleArgs),
    Check(CheckArgs),
    Doctor(DoctorArgs),
    Uninstall(UninstallArgs),
    Drain(DrainArgs),
    Uncordon(UncordonArgs),
    Explain(ExplainArgs),
    Webhook(PrintArgs),
    Run(Box<RunArgs>),
}

/// One thread for every four cores, unless `TOKIO_WORKER_THREADS` says otherwise: one keeps some five hundred pods a second busy,
/// more than an API server takes, and two that wake each other for every message take a quarter more of CPU time. Whatever may
/// block has threads of its own, and so have the leases of nodes.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        builder.worker_threads(cores.div_ceil(4));
    }
    builder.enable_all().build()
}

/// Which cluster the host is, for ever.
async fn host_id(host: &Client) -> Result<String, AskError> {
    let namespaces: Api<Namespace> = Api::all(host.clone());
    let found =
        ask::ask("identify the host by its namespace kube-system", namespaces.get_metadata("kube-system")).await?;
    Ok(found.uid().unwrap_or_default())
}
