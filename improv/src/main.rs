//! Improv: Kubernetes as a jazz combo. This command runs every component in one process, and does what a
//! newcomer needs beside: images, kubeconfig, status, and the repository's generated files.

mod arguments;
mod backup;
mod bench;
mod down;
mod generate;
mod grants;
mod image;
mod join;
mod layout;
mod node;
mod players;
mod preflight;
mod process;
mod status;
mod token;
mod up;

use std::process::ExitCode;

use crate::arguments::{Arguments, Command, Image};
use crate::layout::Layout;

/// The road of a write allocates a thousand small values; glibc's allocator took half of its time. And after much work
/// few pages stay in use for what little is left (docs/performance.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // The containers' shims start this same binary as their logger: before anything else, and without a runtime.
    nodeagent::logger::maybe_run();
    let arguments = Arguments::of_process();
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("improv: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Generate(generate) => generate::generate(&generate.root, generate.check),
        Command::Image(Image::Build(build)) => image::run_build(&build),
        Command::Up(up) if up.detach => process::detach(&Layout::new(&up.data_dir)),
        Command::Node(arguments::Node::Join(join)) if join.detach => {
            process::detach(&Layout::new(&join.data_dir))
        }
        Command::Up(up) => {
            log(&up.log);
            block_on(up::up(*up))
        }
        Command::Node(arguments::Node::Join(join)) => {
            log(&join.log);
            block_on(join::join(*join))
        }
        Command::Token(token) => block_on(token::run(&token)),
        Command::Down(down) => block_on(down::down(&down)),
        Command::Status(which) => block_on(status::status(&which)),
        Command::Bench(bench) => bench::run(&bench),
        Command::Kubeconfig(kubeconfig) => print_kubeconfig(&kubeconfig),
        Command::Backup(arguments) => backup::backup(&arguments),
        Command::Restore(arguments) => backup::restore(&arguments),
        Command::Image(Image::Import(import)) => block_on(image::run_import(&import)),
    }
}

/// Logs what passes `filter` to stderr.
fn log(filter: &str) {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
}

fn block_on(task: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(task)
}

fn print_kubeconfig(arguments: &arguments::Kubeconfig) -> anyhow::Result<()> {
    let path = Layout::new(&arguments.which.data_dir).kubeconfig();
    if arguments.path {
        println!("{}", path.display());
        return Ok(());
    }
    let text = std::fs::read_to_string(&path);
    let text = text.map_err(|error| {
        anyhow::anyhow!(
            "cannot read {} ({error}); has `improv up` run, and as the same user?",
            path.display()
        )
    })?;
    print!("{text}");
    Ok(())
}
