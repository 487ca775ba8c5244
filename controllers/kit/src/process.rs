//! How a player gets onto its stage: in a process of its own, or beside others.

use std::{
    io::IsTerminal, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration,
};

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    Clock, Error, Options, Player, RealClock, Recorder, Reflectors, Stage, Tasks,
    component::Reporter,
    error::chain,
    health,
    lease::{BUILT_IN, CHART, Candidate, Election, Leadership, Rank, Timing},
    metrics::Registry,
    player::Run,
};

/// Reconciles may take this long to finish: less than a pod's default grace period of 30 s.
const FINISH_WITHIN: Duration = Duration::from_secs(20);

/// Pauses before a failed built-in player is started again.
const RESTART: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Flags that every player's binary has.
#[derive(Debug, Clone, Args)]
struct Flags {
    /// Kubeconfig file; without it, $KUBECONFIG, ~/.kube/config or the pod's service account
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    context: Option<String>,
    /// Where /healthz, /livez, /readyz and /metrics are served
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8081")]
    health_address: SocketAddr,
    /// Namespace of the Lease
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-system")]
    lease_namespace: String,
    /// Name of this instance; without it, $POD_NAME, or the host's name and a random suffix
    #[arg(long, value_name = "NAME", env = "POD_NAME", hide_env = true)]
    identity: Option<String>,
    /// Rank in the election: the highest leads
    #[arg(long, value_name = "NUMBER", default_value_t = CHART)]
    priority: u32,
    /// What to log, as `info` or `info,kit=debug`
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", hide_env = true, default_value = "info")]
    log: String,
    /// Log as JSON lines
    #[arg(long)]
    log_json: bool,
}

/// The whole `main` of a player's binary: flags, telemetry, client, health and metrics server,
/// election, and a graceful end on SIGTERM or SIGINT.
#[must_use]
pub fn main(player: &'static Player) -> ExitCode {
    let matches = command(player).get_matches();
    let flags = match Flags::from_arg_matches(&matches) {
        Ok(flags) => flags,
        Err(error) => error.exit(),
    };
    init_logs(&flags);
    let options = options(player, &matches);
    // One thread: a reconciler waits for the server most of the time, and each thread costs memory.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "failed to start the runtime");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run_alone(player, flags, options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(error = chain(&error), "{} ends", player.name);
            ExitCode::FAILURE
        }
    }
}

/// The command line of a player's binary.
fn command(player: &'static Player) -> Command {
    let own = player.flags.iter().map(|flag| {
        Arg::new(flag.name)
            .long(flag.name)
            .help(flag.help)
            .value_name("VALUE")
            .default_value(flag.default)
    });
    let command = Command::new(player.name).version(player.version).args(own);
    // The description last: that of the common flags would replace it.
    Flags::augment_args(command)
        .about(format!("The {} player of Improv, as a process of its own", player.name))
}

fn options(player: &Player, matches: &ArgMatches) -> Options {
    player.flags.iter().fold(Options::default(), |options, flag| {
        match matches.get_one::<String>(flag.name) {
            Some(value) => options.set(flag.name, value),
            None => options,
        }
    })
}

fn init_logs(flags: &Flags) {
    let filter = tracing_subscriber::EnvFilter::new(&flags.log);
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let logs = logs.with_ansi(std::io::stderr().is_terminal());
    if flags.log_json { logs.json().init() } else { logs.init() }
}

async fn run_alone(player: &'static Player, flags: Flags, options: Options) -> Result<(), Error> {
    let client = client(&flags).await?;
    let shutdown = CancellationToken::new();
    let (leadership, leadership_seen) = watch::channel(Leadership::Unknown);
    let registry = Registry::default();
    let performance = Performance {
        player,
        client: client.clone(),
        reflectors: Reflectors::new(client),
        registry: registry.clone(),
        identity: flags.identity.unwrap_or_else(unique_identity),
        priority: flags.priority,
        lease_namespace: flags.lease_namespace,
        options,
        clock: RealClock::new(),
    };
    info!(
        player = player.name,
        version = player.version,
        identity = performance.identity,
        "starting"
    );
    let mut tasks = Tasks::default();
    let router = health::router(registry, leadership_seen);
    tasks.spawn("health", health::serve(flags.health_address, router, shutdown.clone()));
    tasks.spawn("player", performance.run(leadership, shutdown.clone()));
    let ended = tokio::select! {
        ended = tasks.first_to_end() => ended,
        () = termination() => {
            info!("asked to stop");
            None
        }
    };
    shutdown.cancel();
    let finished = tasks.finish(FINISH_WITHIN + Duration::from_secs(5)).await;
    ended.map_or(Ok(()), |(_, result)| result).and(finished)
}

async fn client(flags: &Flags) -> Result<Client, Error> {
    let mut config = match &flags.kubeconfig {
        None => {
            Config::infer().await.map_err(|source| Error::ClientConfig { source: source.into() })?
        }
        Some(path) => {
            let failed =
                |source| Error::Kubeconfig { path: path.clone(), source: Box::new(source) };
            let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
            let options = KubeConfigOptions {
                context: flags.context.clone(),
                ..KubeConfigOptions::default()
            };
            Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(failed)?
        }
    };
    // Watches live long; the server ends them.
    config.read_timeout = None;
    Client::try_from(config).map_err(|source| Error::Client { source: Box::new(source) })
}

fn unique_identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let host = if host.is_empty() { "unnamed" } else { host };
    format!("{host}-{:08x}", rand::random::<u32>())
}

/// Ends at SIGTERM or SIGINT.
pub async fn termination() {
    let (Ok(mut term), Ok(mut int)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// What a process with several players shares, and what one of them gets.
#[derive(Clone)]
pub struct InProcess {
    /// Acts as the player's service account.
    pub client: Client,
    /// Shared by all players of the process.
    pub reflectors: Reflectors,
    /// Shared by all players of the process.
    pub registry: Registry,
    /// Must name this process alone, and be the same after a restart: a process that was killed
    /// then goes on at once instead of waiting for its own Leases to expire.
    pub identity: String,
    /// Values of the player's flags.
    pub options: Options,
    /// Shared by all players of the process.
    pub clock: Arc<dyn Clock>,
}

impl InProcess {
    /// A process of one player, with the rank of a built-in one.
    #[must_use]
    pub fn new(client: Client, identity: &str) -> Self {
        Self {
            reflectors: Reflectors::new(client.clone()),
            client,
            registry: Registry::default(),
            identity: identity.to_owned(),
            options: Options::default(),
            clock: RealClock::new(),
        }
    }
}

/// Runs a built-in player until `shutdown`: the same election, with the lower rank. A player that
/// fails is started again, after a pause; the others play on.
///
/// # Errors
/// None today; the signature leaves room for what a restart cannot mend.
pub async fn run_in_process(
    player: &'static Player,
    with: InProcess,
    leadership: watch::Sender<Leadership>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    run_with_priority(player, with, BUILT_IN, leadership, shutdown).await
}

/// [`run_in_process`] with another rank, for tests of what charts do.
pub(crate) async fn run_with_priority(
    player: &'static Player,
    with: InProcess,
    priority: u32,
    leadership: watch::Sender<Leadership>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let mut pause = RESTART.0;
    while !shutdown.is_cancelled() {
        let performance = Performance {
            player,
            client: with.client.clone(),
            reflectors: with.reflectors.clone(),
            registry: with.registry.clone(),
            identity: with.identity.clone(),
            priority,
            lease_namespace: "kube-system".to_owned(),
            options: with.options.clone(),
            clock: Arc::clone(&with.clock),
        };
        let (began, ended) =
            (with.clock.elapsed(), performance.run(leadership.clone(), shutdown.clone()).await);
        let Err(error) = ended else { return Ok(()) };
        warn!(player = player.name, error = chain(&error), "player failed, starting it again");
        if with.clock.elapsed().saturating_sub(began) > RESTART.1 * 2 {
            pause = RESTART.0;
        }
        tokio::select! {
            () = with.clock.sleep(pause) => {}
            () = shutdown.cancelled() => {}
        }
        pause = (pause * 2).min(RESTART.1);
    }
    Ok(())
}

/// One player, its election and its Component.
struct Performance {
    player: &'static Player,
    client: Client,
    reflectors: Reflectors,
    registry: Registry,
    identity: String,
    priority: u32,
    lease_namespace: String,
    options: Options,
    clock: Arc<dyn Clock>,
}

impl Performance {
    async fn run(
        self,
        leadership: watch::Sender<Leadership>,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let rank = Rank { priority: self.priority, version: self.player.version.to_owned() };
        let election = Election {
            client: self.client.clone(),
            namespace: self.lease_namespace.clone(),
            name: self.player.name.to_owned(),
            me: Candidate { identity: self.identity.clone(), rank: Some(rank) },
            timing: Timing::default(),
            finish_within: FINISH_WITHIN,
            clock: Arc::clone(&self.clock),
            leadership,
        };
        let identity: Arc<str> = self.identity.clone().into();
        let stage = Stage {
            player: self.player,
            recorder: Recorder::new(
                self.client.clone(),
                self.player.source,
                &identity,
                Arc::clone(&self.clock),
            ),
            identity,
            client: self.client,
            reflectors: self.reflectors,
            clock: self.clock,
            metrics: self.registry.player(self.player.name),
            shutdown: CancellationToken::new(),
            options: self.options,
        };
        if !self.player.elected {
            election.leadership.send_replace(Leadership::Leading);
            return play(stage, shutdown).await;
        }
        election.run(shutdown, move |stop| -> Run { Box::pin(play(stage.clone(), stop)) }).await
    }
}

/// One term of leading.
async fn play(mut stage: Stage, stop: CancellationToken) -> Result<(), Error> {
    stage.shutdown = stop;
    let metrics = stage.metrics.clone();
    let reporter = Reporter {
        client: stage.client.clone(),
        player: stage.player,
        identity: Arc::clone(&stage.identity),
        metrics: metrics.clone(),
        clock: Arc::clone(&stage.clock),
    };
    metrics.leader.set(1);
    let ended = tokio::select! {
        ended = (stage.player.run)(stage) => ended,
        () = reporter.run() => Ok(()),
    };
    metrics.leader.set(0);
    metrics.queue.set(0);
    reporter.stop().await;
    ended
}
