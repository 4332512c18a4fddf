//! The command line: from flags to a running kubelet.
//!
//! Flags are converted once into validated parts ([`crate::run::Setup`]); what runs knows nothing of flags.

pub mod check;
pub mod doctor;
pub mod drain;
pub mod explain;
pub mod logging;
pub mod node_ip;
pub mod provider;
pub mod run;
pub mod webhook;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::api::clients::{self, Access, ClientsError};
use crate::api::configuration::{self, ConfigErrors, Configuration, Declared, Problem};
use crate::api::field::{FieldPath, Finding};
use crate::api::target::TargetSpec;
use crate::errors::chain;
use crate::registry::Registry;

use self::doctor::{DoctorArgs, DoctorError};
use self::drain::{DrainArgs, DrainError, UncordonArgs};
use self::explain::{ExplainArgs, ExplainError};
use self::logging::LogArgs;
use self::run::{RunArgs, RunError};
use self::webhook::{PrintArgs, WebhookError};

/// Offloads pods from one Kubernetes cluster to others.
///
/// Exit codes: 0 all went well, 1 a failure at run time, 2 bad usage or a bad configuration.
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
    /// Serve the Targets and VirtualNodes of the host, or those of a file, until told to stop
    Run(Box<RunArgs>),
    /// Tell whether a configuration and the clusters in it can be used
    Check(ConfigurationArgs),
    /// Find what Longshore has left behind on either side, explain it, and remove it with --fix
    Doctor(DoctorArgs),
    /// Close a target to new pods, and evict those that it has, as their disruption budgets allow
    Drain(DrainArgs),
    /// Open a target again that was drained
    Uncordon(UncordonArgs),
    /// Print the CustomResourceDefinitions of Target and VirtualNode, for kubectl apply
    Crds,
    /// Show what a pod would be in a target, and why it differs; nothing is changed
    Explain(ExplainArgs),
    /// Print the MutatingWebhookConfiguration for pods that ask to be offloaded, for kubectl apply
    Webhook(PrintArgs),
    /// Print the version
    Version,
}

/// Where the configuration and the host cluster are.
#[derive(Args)]
pub struct ConfigurationArgs {
    /// The file that declares targets and virtual nodes
    #[arg(long, value_name = "FILE", env = "LONGSHORE_PROVIDER_CONFIG")]
    provider_config: PathBuf,
    #[command(flatten)]
    host: HostArgs,
}

/// Where the host cluster is.
#[derive(Args, Clone)]
pub struct HostArgs {
    /// The kubeconfig of the host cluster [default: as kubectl, else the service account of the pod]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of the host's kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

impl HostArgs {
    /// Reads its kubeconfig, and connects to nothing.
    pub(crate) async fn load(&self) -> Result<Access, CliError> {
        let host = clients::host(self.kubeconfig.as_deref(), self.context.as_deref());
        host.await.map_err(CliError::ConfigureHost)
    }
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
    /// A check found trouble, and has told it.
    #[error("failed to find everything in order: {0} of the checks above failed")]
    Check(usize),
    /// The doctor has found something, or could not look.
    #[error(transparent)]
    Doctor(#[from] DoctorError),
    /// A target was not emptied.
    #[error(transparent)]
    Drain(#[from] DrainError),
    /// There is nothing to explain, or a pod would be held.
    #[error(transparent)]
    Explain(#[from] ExplainError),
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
            Self::Log(_) | Self::Configure(_) | Self::ConfigureHost(_) => ExitCode::from(2),
            Self::StartRuntime(_)
            | Self::PrintCrds(_)
            | Self::Check(_)
            | Self::Doctor(_)
            | Self::Drain(_)
            | Self::Explain(_)
            | Self::Webhook(_)
            | Self::Run(_) => ExitCode::from(1),
        }
    }
}

impl Cli {
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
            // What a check finds is its output; the log is for the rest.
            Command::Check(args) => ("warn", Work::Check(args)),
            Command::Doctor(args) => ("warn", Work::Doctor(args)),
            Command::Drain(args) => ("warn", Work::Drain(args)),
            Command::Uncordon(args) => ("warn", Work::Uncordon(args)),
            Command::Explain(args) => ("warn", Work::Explain(args)),
            Command::Webhook(args) => ("warn", Work::Webhook(args)),
            Command::Run(args) => ("info", Work::Run(args)),
        };
        self.log.start(default_level)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(CliError::StartRuntime)?;
        let result = runtime.block_on(async {
            match work {
                Work::Check(args) => check::check(&args).await,
                Work::Doctor(args) => doctor::doctor(&args).await,
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
    Check(ConfigurationArgs),
    Doctor(DoctorArgs),
    Drain(DrainArgs),
    Uncordon(UncordonArgs),
    Explain(ExplainArgs),
    Webhook(PrintArgs),
    Run(Box<RunArgs>),
}

/// A configuration, and how to reach all clusters in it. It has no `Debug` because that would show credentials.
pub(crate) struct Clusters {
    pub(crate) configuration: Configuration,
    pub(crate) host: Access,
    /// In the order of the configuration's targets.
    pub(crate) targets: Vec<Access>,
}

impl ConfigurationArgs {
    /// Reads the configuration and every kubeconfig, and connects to nothing.
    pub(crate) async fn load(&self) -> Result<Clusters, CliError> {
        let configuration = configuration::load(&self.provider_config)?;
        let host = self.host.load().await?;
        let (mut targets, mut problems) = (Vec::new(), Vec::new());
        for target in &configuration.targets {
            let source = &target.spec.kubeconfig;
            let Some(file) = &source.file else {
                problems.push(target.problem(Finding::new(
                    FieldPath::of("spec.kubeconfig.secretRef"),
                    "Secrets are for Targets in the API",
                    "use `file` here, or create this Target in the host and run without --provider-config",
                )));
                continue;
            };
            match clients::target(file, source.context.as_deref()).await {
                Ok(config) => targets.push(config),
                Err(error) => problems.push(kubeconfig_problem(target, &error)),
            }
        }
        if !problems.is_empty() {
            return Err(ConfigErrors::Accept { problems }.into());
        }
        Ok(Clusters { configuration, host, targets })
    }
}

fn kubeconfig_problem(target: &Declared<TargetSpec>, error: &ClientsError) -> Problem {
    let field = match error {
        ClientsError::FindContext { .. } | ClientsError::ChooseContext { .. } => "spec.kubeconfig.context",
        _ => "spec.kubeconfig.file",
    };
    target.problem(Finding::new(FieldPath::of(field), chain(error), "correct the kubeconfig or this field"))
}
