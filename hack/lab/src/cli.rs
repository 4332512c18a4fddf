//! The command line.

use std::{
    ffi::OsString,
    io::{self, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use lab::{ClusterStatus, Lab, Process, Simulation, UpOptions, deps, image::Image};

/// Real Kubernetes clusters on this machine, without Docker
///
/// Each cluster is a set of processes in a network namespace of its own, joined to the others by a bridge. The first
/// `up` builds Kubernetes from its Go modules, which takes minutes; later ones take seconds. Needs root.
#[derive(Debug, Parser)]
#[command(
    name = "hack/clusters",
    version,
    after_help = "\
Environment:
  LONGSHORE_STATE  where clusters live; default /var/lib/longshore/clusters
  LONGSHORE_CACHE  where built programs are kept; default ~/.cache/longshore"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check what the machine needs, and install missing Debian packages
    Deps,
    /// Build Kubernetes into the cache
    Build {
        /// Build agnhost too, Kubernetes' own test program, and print its path
        #[arg(long)]
        agnhost: bool,
        /// Build helm too, and print its path
        #[arg(long)]
        helm: bool,
        /// Build Kueue too, and print its path
        #[arg(long)]
        kueue: bool,
        /// Build Kubernetes' own end-to-end suites too, and print the path of e2e.test, beside which is ginkgo
        #[arg(long)]
        suites: bool,
        /// Build kwok too, which simulates nodes, and print its path
        #[arg(long)]
        kwok: bool,
        /// Build metrics-server too, and print its path
        #[arg(long)]
        metrics_server: bool,
        /// Fetch Prometheus too, and print its path
        #[arg(long)]
        prometheus: bool,
    },
    /// Bring clusters up, or repair them
    Up(Up),
    /// Remove clusters and all their traces; all clusters by default
    Down {
        /// The clusters to remove
        names: Vec<String>,
    },
    /// Show how the clusters do; fails if one is unhealthy or cut off
    Status {
        /// How to show it
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Print the path of a cluster's admin kubeconfig
    Kubeconfig {
        /// The cluster
        name: String,
    },
    /// Run kubectl, of the clusters' version, on a cluster
    Kubectl {
        /// The cluster
        name: String,
        /// kubectl's arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Give a cluster simulated nodes (kwok), on which pods are Ready at once without any container
    ///
    /// The nodes are named kwok-1 and so on, and carry the label type=kwok. Pods of Jobs complete, pods that are deleted
    /// end first and then go, as on a kubelet; there are no logs and no exec. The first use builds kwok, which takes
    /// minutes. Asked again with other numbers, it changes what is there; --nodes 0 removes all.
    Simulate {
        /// The cluster
        name: String,
        /// How many
        #[arg(long, default_value_t = 1)]
        nodes: u32,
        /// CPU of each
        #[arg(long, default_value = "64")]
        cpu: String,
        /// Memory of each
        #[arg(long, default_value = "256Gi")]
        memory: String,
        /// Pods of each
        #[arg(long, default_value_t = 500)]
        pods: u32,
        /// The longest that a pod takes to start, to complete and to stop, each
        #[arg(long, default_value_t = 0, value_name = "MILLISECONDS")]
        pace: u64,
    },
    /// Load image archives into a cluster's node
    LoadImage {
        /// The cluster
        name: String,
        /// Archives, as `image` and `docker save` make them
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Make an image archive from static files
    Image(MakeImage),
    /// Route the pods and services of clusters to each other, as a VPN between sites does
    Join {
        /// The clusters
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Cut a cluster off from this machine and the other clusters
    Cut {
        /// The cluster
        name: String,
    },
    /// Undo `cut`
    Heal {
        /// The cluster
        name: String,
    },
    /// Show the log of one of a cluster's processes
    Logs {
        /// The cluster
        name: String,
        /// The process, as `status` names it
        process: String,
        /// Go on showing what comes
        #[arg(short, long)]
        follow: bool,
    },
    /// Run a command in a cluster's network namespace
    Exec {
        /// The cluster
        name: String,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Start a program in a cluster's network namespace that stays until `stop` or `down`
    Start {
        /// The cluster
        name: String,
        /// What to call it in `status`, `logs` and `stop`
        process: String,
        /// The program's absolute path and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Stop one of a cluster's processes
    Stop {
        /// The cluster
        name: String,
        /// The process, as `status` names it
        process: String,
    },
}

#[derive(Debug, Args)]
struct Up {
    /// The clusters
    #[arg(required = true)]
    names: Vec<String>,
    /// Control plane only: no containerd, kubelet and kube-proxy
    #[arg(long)]
    no_kubelet: bool,
    /// Give clusters that came up with --no-kubelet their node now
    #[arg(long, conflicts_with = "no_kubelet")]
    kubelet: bool,
    /// An argument for the API server beside the usual ones; may be repeated. Running clusters get it too
    #[arg(long = "api-server-arg", value_name = "ARG", allow_hyphen_values = true)]
    api_server_args: Vec<String>,
}

#[derive(Debug, Args)]
struct MakeImage {
    /// The archive to write
    archive: PathBuf,
    /// The image's full name, with a tag
    reference: String,
    /// A static program from this machine and its path in the image; may be repeated
    #[arg(long = "program", value_name = "FROM:TO")]
    programs: Vec<String>,
    /// The same for a program that runs as its owner, root, whoever starts it; may be repeated
    #[arg(long = "setuid-program", value_name = "FROM:TO")]
    setuid_programs: Vec<String>,
    /// A file from this machine and its path in the image; may be repeated
    #[arg(long = "file", value_name = "FROM:TO")]
    files: Vec<String>,
    /// A symbolic link in the image and where it points; may be repeated
    #[arg(long = "link", value_name = "PATH:TARGET")]
    links: Vec<String>,
    /// A word of the entrypoint; may be repeated
    #[arg(long = "entrypoint", value_name = "WORD", allow_hyphen_values = true)]
    entrypoint: Vec<String>,
    /// A word of the default arguments; may be repeated
    #[arg(long = "cmd", value_name = "WORD", allow_hyphen_values = true)]
    cmd: Vec<String>,
    /// The user it runs as, like 65534:65534
    #[arg(long, default_value = "")]
    user: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Table,
    Json,
}

impl Cli {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let lab = Lab::open()?;
        let mut out = io::stdout().lock();
        match self.action {
            Action::Deps => {
                let installed = deps::ensure()?;
                let said = if installed.is_empty() { "nothing is missing".into() } else { installed.join(" ") };
                writeln!(out, "{}{said}", if installed.is_empty() { "" } else { "installed: " })?;
            }
            Action::Build { agnhost, helm, kueue, suites, kwok, metrics_server, prometheus } => {
                lab.toolchain().ensure()?;
                writeln!(out, "{}", lab.kubectl_path().display())?;
                if agnhost {
                    writeln!(out, "{}", lab.toolchain().ensure_agnhost()?.display())?;
                }
                if helm {
                    writeln!(out, "{}", lab.toolchain().ensure_helm()?.display())?;
                }
                if kueue {
                    writeln!(out, "{}", lab.toolchain().ensure_kueue()?.program.display())?;
                }
                if suites {
                    writeln!(out, "{}", lab.toolchain().ensure_suites()?.display())?;
                }
                if kwok {
                    writeln!(out, "{}", lab.toolchain().ensure_kwok()?.display())?;
                }
                if metrics_server {
                    writeln!(out, "{}", lab.toolchain().ensure_metrics_server()?.display())?;
                }
                if prometheus {
                    writeln!(out, "{}", lab.toolchain().ensure_prometheus()?.server.display())?;
                }
            }
            Action::Up(up) => up.run(&lab)?,
            Action::Down { names } if names.is_empty() => lab.down()?,
            Action::Down { names } => lab.down_only(&refs(&names))?,
            Action::Status { output } => return status(&lab, output),
            Action::Kubeconfig { name } => writeln!(out, "{}", lab.kubeconfig(&name)?.display())?,
            Action::Kubectl { name, args } => return Err(become_command(lab.kubectl(&name)?.args(args))),
            Action::Simulate { name, nodes, cpu, memory, pods, pace } => {
                let pace = Duration::from_millis(pace);
                lab.simulate(&name, &Simulation { nodes, cpu, memory, pods, pace })?;
            }
            Action::LoadImage { name, archives } => {
                archives.iter().try_for_each(|archive| lab.load_image(&name, archive))?;
            }
            Action::Image(image) => image.run()?,
            Action::Join { names } => lab.join(&refs(&names))?,
            Action::Cut { name } => lab.cut(&name)?,
            Action::Heal { name } => lab.heal(&name)?,
            Action::Logs { name, process, follow } => {
                let log = lab.log(&name, &process)?;
                let tail = ["-n", if follow { "100" } else { "+1" }];
                return Err(become_command(Command::new("tail").args(tail).args(follow.then_some("-F")).arg(log)));
            }
            Action::Exec { name, command } => return Err(become_command(lab.exec(&name)?.args(command))),
            Action::Start { name, process, command } => {
                let mut words = command.into_iter();
                let program = words.next().map(PathBuf::from).unwrap_or_default();
                lab.start(&name, Process { name: process, program, args: words.collect(), env: [].into() })?;
            }
            Action::Stop { name, process } => lab.stop(&name, &process)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Up {
    fn run(self, lab: &Lab) -> anyhow::Result<()> {
        let started = Instant::now();
        let options = UpOptions {
            kubelet: (self.kubelet || self.no_kubelet).then_some(self.kubelet),
            api_server_args: Some(self.api_server_args).filter(|args| !args.is_empty()),
            controller_manager_args: None,
        };
        lab.up_with(&refs(&self.names), &options)?;
        eprintln!("{} up after {:.1} s", self.names.join(" and "), started.elapsed().as_secs_f32());
        for name in &self.names {
            println!("{name}: KUBECONFIG={}", lab.kubeconfig(name)?.display());
        }
        Ok(())
    }
}

impl MakeImage {
    fn run(self) -> anyhow::Result<()> {
        let mut image = Image::new(&self.reference).entrypoint(self.entrypoint).cmd(self.cmd).user(&self.user);
        for pair in &self.programs {
            let (from, to) = split(pair)?;
            image = image.program(Path::new(from), to)?;
        }
        for pair in &self.setuid_programs {
            let (from, to) = split(pair)?;
            image = image.setuid_program(Path::new(from), to)?;
        }
        for pair in &self.files {
            let (from, to) = split(pair)?;
            image = image.file(Path::new(from), to)?;
        }
        for pair in &self.links {
            let (path, target) = split(pair)?;
            image = image.link(path, target);
        }
        Ok(image.write(&self.archive)?)
    }
}

fn split(pair: &str) -> anyhow::Result<(&str, &str)> {
    pair.split_once(':').with_context(|| format!("{pair:?} is not two paths with a colon between them"))
}

fn refs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// Goes on as another program; returns only if that fails.
fn become_command(command: &mut Command) -> anyhow::Error {
    anyhow::Error::from(command.exec()).context(format!("cannot run {}", command.get_program().display()))
}

fn status(lab: &Lab, output: Output) -> anyhow::Result<ExitCode> {
    let clusters = lab.status()?;
    let mut out = io::stdout().lock();
    match output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&clusters)?)?,
        Output::Table if clusters.is_empty() => bail!("there are no clusters; `hack/clusters up NAME` makes one"),
        Output::Table => write!(out, "{}", table(&clusters))?,
    }
    let healthy = !clusters.is_empty() && clusters.iter().all(|cluster| cluster.healthy);
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn table(clusters: &[ClusterStatus]) -> String {
    let mut rows = vec![["NAME", "IP", "LINK", "API", "NODE", "PODS", "PROCESSES"].map(str::to_owned)];
    for cluster in clusters {
        let dead: Vec<&str> = cluster.processes.iter().filter(|(_, runs)| !**runs).map(|(name, _)| &**name).collect();
        let all = cluster.processes.len();
        rows.push([
            cluster.name.clone(),
            cluster.ip.to_string(),
            if cluster.cut { "cut" } else { "up" }.to_owned(),
            if cluster.api_ready { "ready" } else { "no answer" }.to_owned(),
            cluster.node_ready.map_or("-", |ready| if ready { "ready" } else { "not ready" }).to_owned(),
            cluster.pods.map_or("-".to_owned(), |pods| pods.to_string()),
            if dead.is_empty() { format!("{all} run") } else { format!("dead: {}", dead.join(", ")) },
        ]);
    }
    let widths: [usize; 7] = std::array::from_fn(|i| rows.iter().map(|row| row[i].len()).max().unwrap_or(0));
    let line = |row: &[String; 7]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("   ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn kubectl_gets_its_flags() {
        let cli = Cli::try_parse_from(["clusters", "kubectl", "east", "get", "pods", "-A", "-o", "json"]).unwrap();
        assert!(matches!(cli.action, Action::Kubectl { args, .. } if args.len() == 5));
    }

    #[test]
    fn the_table_names_dead_processes() {
        let status = ClusterStatus {
            name: "east".into(),
            ip: [172, 30, 0, 11].into(),
            cut: true,
            api_ready: false,
            node_ready: None,
            pods: None,
            processes: [("etcd".into(), false), ("kubelet".into(), true)].into(),
            healthy: false,
        };
        let text = table(&[status]);
        assert_eq!(text.lines().nth(1).unwrap(), "east   172.30.0.11   cut    no answer   -      -      dead: etcd");
    }
}
