//! The command line of `improv bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Measure an API server, ours or another, from this machine
    Api(Api),
}

/// How bodies are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Encoding {
    /// `application/json`.
    Json,
    /// `application/vnd.kubernetes.protobuf`; patches stay JSON, as Go's clients send them.
    Protobuf,
}

/// One kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Phase {
    /// POST of pods.
    Create,
    /// GET of one pod.
    Get,
    /// LIST of all pods in one answer.
    List,
    /// LIST in pages.
    Page,
    /// Strategic merge patch of `status`.
    Status,
    /// Server-side apply of whole pods.
    Apply,
    /// Many watchers, writes at a fixed rate.
    Watch,
    /// Fewer watchers, writes as fast as they go.
    Saturate,
    /// Gets, pages, status patches, creations and deletions together.
    Mixed,
    /// DELETE of every pod.
    Delete,
}

/// Arguments of `improv bench api`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Api {
    /// Server and credentials; without it, what kubectl would use
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Put load on a server that is not on this machine
    #[arg(long)]
    pub allow_remote: bool,
    /// What to measure, in this order: names with commas between them
    #[arg(
        long,
        value_enum,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "create,get,list,page,status,apply,watch,saturate,mixed,delete"
    )]
    pub phases: Vec<Phase>,
    /// Connections that send requests, one at a time each
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub workers: usize,
    /// Threads of the load generator
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// Pods that are created
    #[arg(long, value_name = "N", default_value_t = 5000)]
    pub pods: usize,
    /// Bytes of a pod's body, about; at least 800
    #[arg(long, value_name = "BYTES", default_value_t = 1500)]
    pub size: usize,
    /// Longest time of one phase
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub seconds: u64,
    /// Most requests of one phase; 0 for as many as there is time for
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub requests: usize,
    /// Objects of one page
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub limit: usize,
    /// Watchers of the phase `watch`
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub watchers: usize,
    /// Writes a second in the phase `watch`
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub rate: u32,
    /// Watchers of the phase `saturate`
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub saturating_watchers: usize,
    /// How bodies are written and answers wanted
    #[arg(long, value_enum, default_value_t = Encoding::Json)]
    pub encoding: Encoding,
    /// Process whose memory is noted after each phase
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}
