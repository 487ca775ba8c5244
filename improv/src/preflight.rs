//! What this machine must have before a node can start, and what to do about what is missing.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use crate::arguments::{NodeFlags, Runtime};

/// Programs that a node needs, and the Debian package of each.
const PROGRAMS: [(&str, &str); 4] = [
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
];

/// What was found on the machine.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    /// Whether this process may do everything.
    pub is_root: bool,
    /// Whether control groups are mounted, in either version.
    pub has_cgroups: bool,
    /// Folders in which programs are looked for.
    pub path: Vec<PathBuf>,
}

/// What is wanted of the machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// At least one node with real containers.
    pub containers: bool,
    /// containerd is started by us.
    pub own_containerd: bool,
}

/// One missing thing: what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// A clause without a full stop.
    pub what: String,
    /// An imperative.
    pub remedy: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.remedy)
    }
}

/// Looks at the machine.
#[must_use]
pub(crate) fn look() -> Machine {
    let cgroups = ["/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup/memory"];
    Machine {
        is_root: nix::unistd::geteuid().is_root(),
        has_cgroups: cgroups.iter().any(|path| Path::new(path).exists()),
        path: std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect(),
    }
}

/// Everything that stands in the way.
#[must_use]
pub(crate) fn problems(machine: &Machine, wanted: Wanted) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add =
        |what: String, remedy: &str| problems.push(Problem { what, remedy: remedy.to_owned() });
    if !wanted.containers {
        return problems;
    }
    if !machine.is_root {
        add("not root".into(), "run it with sudo, or without real containers: --runtime hollow");
        return problems; // The rest can be seen only as root.
    }
    if !machine.has_cgroups {
        add("no control groups".into(), "mount them: mount -t cgroup2 none /sys/fs/cgroup");
    }
    for (program, package) in PROGRAMS {
        let needed = program != "containerd" || wanted.own_containerd;
        if needed && !machine.path.iter().any(|folder| folder.join(program).is_file()) {
            add(format!("{program} not found"), &format!("apt-get install {package}"));
        }
    }
    problems
}

/// Refuses a machine that cannot run `n_nodes` nodes of this kind.
///
/// # Errors
/// Names everything that is missing, with what to do about it.
pub(crate) fn check(n_nodes: usize, flags: &NodeFlags) -> anyhow::Result<()> {
    let wanted = Wanted {
        containers: n_nodes > 0 && flags.runtime == Runtime::Containerd,
        own_containerd: flags.containerd.is_none(),
    };
    let problems = problems(&look(), wanted);
    if problems.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = problems.iter().map(|problem| format!("  {problem}")).collect();
    anyhow::bail!("this machine cannot run a node:\n{}", list.join("\n"))
}

/// Whether somebody else listens on `address`.
#[must_use]
pub(crate) fn port_problem(address: SocketAddr) -> Option<Problem> {
    let error = TcpListener::bind(address).err()?;
    Some(Problem {
        what: format!("cannot listen on {address} ({error})"),
        remedy: "stop who does (ss -ltnp), or choose another port with --port".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTAINERS: Wanted = Wanted { containers: true, own_containerd: true };

    #[track_caller]
    fn check(machine: &Machine, wanted: Wanted, expected: &[&str]) {
        let found: Vec<String> =
            problems(machine, wanted).iter().map(ToString::to_string).collect();
        assert_eq!(found, expected);
    }

    fn bare() -> Machine {
        Machine { is_root: true, has_cgroups: true, path: Vec::new() }
    }

    #[test]
    fn everything_missing_is_told_at_once() {
        check(
            &Machine { has_cgroups: false, ..bare() },
            CONTAINERS,
            &[
                "no control groups: mount them: mount -t cgroup2 none /sys/fs/cgroup",
                "containerd not found: apt-get install containerd",
                "runc not found: apt-get install runc",
                "nft not found: apt-get install nftables",
                "conntrack not found: apt-get install conntrack",
            ],
        );
    }

    #[test]
    fn without_containers_nothing_is_needed() {
        check(
            &Machine { is_root: false, ..bare() },
            Wanted { containers: false, ..CONTAINERS },
            &[],
        );
    }

    #[test]
    fn another_containerd_needs_no_program_of_ours() {
        let found = problems(&bare(), Wanted { own_containerd: false, ..CONTAINERS });
        assert!(!found.iter().any(|problem| problem.what.contains("containerd")));
    }

    #[test]
    fn a_taken_port_is_told_with_a_remedy() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let problem = port_problem(taken.local_addr().unwrap()).unwrap();
        assert!(problem.to_string().contains("--port"), "{problem}");
    }
}
