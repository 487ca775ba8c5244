//! The command line.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use apiserver::config::ServiceRanges;
use apiserver::duration;
use clap::{
    ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
};

use crate::join::discovery::Pin;
use crate::layout::DEFAULT_DATA_DIR;

/// Kubernetes as a jazz combo: every component in one process, each replaceable alone.
#[derive(Debug, Parser)]
#[command(name = "improv", version)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// Reads the command line of this process; a wrong one ends the process.
    pub(crate) fn of_process() -> Self {
        let mut command = Self::command();
        let matches = command.get_matches_mut();
        Self::of_matches(&command, &matches).unwrap_or_else(|error| error.exit())
    }

    fn of_matches(command: &clap::Command, matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut arguments = Self::from_arg_matches(matches)?;
        if let (Command::Up(up), Some((name, said))) =
            (&mut arguments.command, matches.subcommand())
            && let Some(command) = command.find_subcommand(name)
        {
            up.shown = apiserver::flags::shown(command, said);
        }
        Ok(arguments)
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a cluster on this machine
    Up(Box<Up>),
    /// Stop the cluster and remove all that it left on this machine, its data too
    Down(Down),
    /// Show what runs, and whether it is ready
    Status(Which),
    /// Print the administrator's kubeconfig
    Kubeconfig(Kubeconfig),
    /// Bootstrap tokens, by which nodes join
    #[command(subcommand)]
    Token(Token),
    /// Nodes on further machines
    #[command(subcommand)]
    Node(Node),
    /// Write all objects of a cluster to a file, while it runs or not
    Backup(Backup),
    /// Make a cluster's objects from a backup
    Restore(Restore),
    /// Build images, and bring them into the cluster
    #[command(subcommand)]
    Image(Image),
    /// Measure
    #[command(subcommand)]
    Bench(crate::bench::Bench),
    /// Write crds/ and charts/ of this repository
    Generate(Generate),
}

/// Which cluster is meant.
#[derive(Debug, Clone, Args)]
pub(crate) struct Which {
    /// Folder with the cluster's data; another folder is another cluster
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    pub data_dir: PathBuf,
}

/// How containers are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Runtime {
    /// For real.
    Containerd,
    /// Simulated, without root.
    Hollow,
}

/// How the nodes of this machine are run.
#[derive(Debug, Clone, Args)]
pub(crate) struct NodeFlags {
    /// How containers are run
    #[arg(long, value_enum, default_value_t = Runtime::Containerd)]
    pub runtime: Runtime,
    /// Socket of a containerd to use; without it, one of our own is started
    #[arg(long, value_name = "SOCKET")]
    pub containerd: Option<PathBuf>,
    /// Port of the node agent; with several nodes, of the first
    #[arg(long, value_name = "PORT", default_value_t = 10250)]
    pub node_port: u16,
    /// Registries that are asked over plain http, as host:port with commas between them
    #[arg(long, value_name = "HOSTS", default_value = "localhost,127.0.0.1")]
    pub insecure_registries: String,
}

/// Arguments of `improv up`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Up {
    /// Folder with the cluster's data; another folder is another cluster
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    pub data_dir: PathBuf,
    /// Port of the API server
    #[arg(long, default_value_t = 6443)]
    pub port: u16,
    /// Address of the API server
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    pub bind: IpAddr,
    /// Where the administrator's kubeconfig is written; without it, in the data folder
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Built-in players to start: names with commas between them, all, or none
    #[arg(long, value_name = "NAMES", default_value = "all")]
    pub players: String,
    /// Number of nodes on this machine; more than one only with --runtime hollow
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub nodes: usize,
    /// Addresses of the pods
    #[arg(long, value_name = "CIDR", default_value = "10.244.0.0/16")]
    pub pod_cidr: String,
    /// Addresses of the Services; a second range, after a comma, for the other family
    #[arg(long, value_name = "CIDR", default_value_t)]
    pub service_cidr: ServiceRanges,
    /// Its nodes.
    #[command(flatten)]
    pub node: NodeFlags,
    /// Longest life of the certificates that the cluster signs, as 24h
    #[arg(long, value_name = "DURATION", default_value = "8760h", value_parser = duration::flag)]
    pub cluster_signing_duration: Duration,
    /// Go into the background once the cluster is ready
    #[arg(long)]
    pub detach: bool,
    /// What to log, as `info` or `info,kit=debug`
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", hide_env = true, default_value = "info")]
    pub log: String,
    /// The API server.
    #[command(flatten)]
    pub server: apiserver::flags::Flags,
    /// Every flag and its value, defaults included, for `/flagz`.
    #[arg(skip)]
    pub shown: BTreeMap<String, String>,
}

/// What to do with bootstrap tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make one, and print it
    Create(TokenCreate),
    /// List all
    List(ByKubeconfig),
    /// Delete some
    Delete(TokenDelete),
}

/// Which cluster is asked, and as whom.
#[derive(Debug, Clone, Args)]
pub(crate) struct ByKubeconfig {
    /// Kubeconfig of somebody who may handle Secrets in kube-system; without it, the administrator's
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Which cluster.
    #[command(flatten)]
    pub which: Which,
}

/// Arguments of `improv token create`.
#[derive(Debug, Clone, Args)]
pub(crate) struct TokenCreate {
    /// The token; without it, one is made by chance
    #[arg(value_name = "TOKEN")]
    pub token: Option<crate::token::Token>,
    /// How long it holds, as 24h; 0 for ever
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration::flag)]
    pub ttl: Duration,
    /// Print the command with which a machine joins instead
    #[arg(long)]
    pub print_join_command: bool,
    /// What it is for, for people
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub description: String,
    /// What it may be used for
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "signing,authentication"
    )]
    pub usages: Vec<String>,
    /// Groups of who shows it
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = crate::join::objects::GROUP)]
    pub groups: Vec<String>,
    /// Which cluster.
    #[command(flatten)]
    pub of: ByKubeconfig,
}

/// Arguments of `improv token delete`.
#[derive(Debug, Clone, Args)]
pub(crate) struct TokenDelete {
    /// Tokens, or their first parts
    #[arg(required = true, value_name = "TOKEN")]
    pub tokens: Vec<String>,
    /// Which cluster.
    #[command(flatten)]
    pub of: ByKubeconfig,
}

/// What to do with nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// Make this machine a node of a cluster; later starts need no token
    Join(Box<Join>),
}

/// Arguments of `improv node join`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Join {
    /// Folder with the node's data; another folder is another node
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    pub data_dir: PathBuf,
    /// The API server, as 10.0.0.1:6443; once the node has joined, what it was told then is used
    #[arg(long, value_name = "ADDRESS", requires = "token")]
    pub server: Option<String>,
    /// Bootstrap token, from `improv token create`
    #[arg(long, value_name = "TOKEN", requires = "server")]
    pub token: Option<crate::token::Token>,
    /// Hash of the public key of the cluster's authority, as sha256:<hex>; may be repeated
    #[arg(long = "discovery-token-ca-cert-hash", alias = "ca-cert-hash", value_name = "HASH")]
    pub ca_cert_hashes: Vec<Pin>,
    /// Believe whoever knows the token
    #[arg(long)]
    pub discovery_token_unsafe_skip_ca_verification: bool,
    /// Name of the node; this machine's without it
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Address of the node; the one that leads out without it
    #[arg(long, value_name = "IP")]
    pub node_ip: Option<IpAddr>,
    /// Address that the node agent listens on
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    pub bind: IpAddr,
    /// Addresses of this node's pods; without it, those that the cluster gives
    #[arg(long, value_name = "CIDR")]
    pub pod_cidr: Option<String>,
    /// Do not make Services reachable from this machine; something else does
    #[arg(long)]
    pub disable_kube_proxy: bool,
    /// Ask the cluster for the agent's serving certificate, too; somebody must approve it
    #[arg(long)]
    pub rotate_server_certificates: bool,
    /// The node.
    #[command(flatten)]
    pub node: NodeFlags,
    /// Go into the background once the node is ready
    #[arg(long)]
    pub detach: bool,
    /// What to log, as `info` or `info,nodeagent=debug`
    #[arg(
        long,
        value_name = "FILTER",
        env = "RUST_LOG",
        hide_env = true,
        default_value = "info,kube_client=off"
    )]
    pub log: String,
}

/// Arguments of `improv down`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Down {
    /// Which cluster.
    #[command(flatten)]
    pub which: Which,
    /// Leave the data folder, so that the next `up` has every object again
    #[arg(long)]
    pub keep_data: bool,
}

/// Arguments of `improv kubeconfig`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Kubeconfig {
    /// Which cluster.
    #[command(flatten)]
    pub which: Which,
    /// Print where the file is instead
    #[arg(long)]
    pub path: bool,
}

/// Arguments of `improv backup`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Backup {
    /// Which cluster.
    #[command(flatten)]
    pub which: Which,
    /// The backup to write
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
}

/// Arguments of `improv restore`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Restore {
    /// The backup
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Which cluster.
    #[command(flatten)]
    pub which: Which,
}

/// What to do with images.
#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Make an OCI archive from a static binary and files
    Build(ImageBuild),
    /// Bring archives into the cluster's containerd
    Import(ImageImport),
}

/// Arguments of `improv image build`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ImageBuild {
    /// Name of the image, as improv.dev/hello:0.1.0
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// The program that the image runs; a static binary
    #[arg(long, value_name = "FILE")]
    pub binary: PathBuf,
    /// More files: path on this machine, colon, path in the image
    #[arg(long = "file", value_name = "FROM:TO")]
    pub files: Vec<String>,
    /// The user, as uid or uid:gid
    #[arg(long, default_value = "65532:65532")]
    pub user: String,
    /// The archive to write
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// Fixed first arguments of the program
    #[arg(last = true)]
    pub arguments: Vec<String>,
}

/// Arguments of `improv image import`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ImageImport {
    /// Which cluster.
    #[command(flatten)]
    pub which: Which,
    /// OCI or Docker archives
    #[arg(required = true, value_name = "FILE")]
    pub archives: Vec<PathBuf>,
}

/// Arguments of `improv generate`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Generate {
    /// Compare instead of writing; fails if something is out of date
    #[arg(long)]
    pub check: bool,
    /// The repository's root
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub root: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_server_are_shown() {
        let mut command = Arguments::command();
        let words = ["improv", "up", "--port=7443", "--event-ttl=2h"];
        let matches = command.try_get_matches_from_mut(words).unwrap();
        let read = Arguments::of_matches(&command, &matches).unwrap();
        let Command::Up(up) = read.command else { panic!("another command") };
        assert_eq!((&*up.shown["port"], &*up.shown["event-ttl"]), ("7443", "2h"));
        assert_eq!(up.shown["data-dir"], DEFAULT_DATA_DIR);
    }
}
