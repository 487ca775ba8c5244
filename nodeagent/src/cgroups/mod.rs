//! The cgroup tree of the node's pods: `<base>/[burstable/|besteffort/]pod<uid>/<container>`.
//!
//! The agent makes and limits the levels down to the pod; the containers' own groups are made by runc.
//! Both versions are spoken: v1, also with a mount of v2 beside it, and v2 alone.

mod limits;
mod stats;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::runtime::{Qos, Resources, Stats};

pub(crate) use limits::{CPU_PERIOD_MICROS, cpu_quota, cpu_shares};

/// Where the controllers are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Hierarchies {
    /// One folder a controller (some may share one), and the named or v2 mounts that only hold processes.
    V1 { controllers: Vec<Hierarchy>, others: Vec<PathBuf> },
    /// A single tree.
    V2(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    /// As `cpu,cpuacct`.
    names: Vec<String>,
    root: PathBuf,
}

/// The part of the cgroup tree that belongs to one agent.
#[derive(Clone, Debug)]
pub struct Cgroups {
    hierarchies: Hierarchies,
    base: String,
}

/// The v1 controllers in which a pod's group is made; runc makes the others as it needs them.
const V1_CONTROLLERS: [&str; 8] =
    ["cpu", "cpuacct", "memory", "pids", "blkio", "devices", "freezer", "cpuset"];

/// The v2 controllers that are switched on for the levels below, where the kernel has them.
const V2_CONTROLLERS: [&str; 5] = ["cpu", "memory", "pids", "io", "cpuset"];

impl Cgroups {
    /// Looks where cgroups are mounted; `base` is the folder for all pods, as `/kubepods`.
    ///
    /// # Errors
    /// When no cgroup hierarchy is mounted.
    pub fn detect(base: &str) -> io::Result<Self> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
        let hierarchies = find(&mountinfo).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "no cgroup hierarchy is mounted below /sys/fs/cgroup",
            )
        })?;
        Ok(Self { hierarchies, base: format!("/{}", base.trim_matches('/')) })
    }

    /// Whether this is a pure v2 node.
    pub fn is_v2(&self) -> bool {
        matches!(self.hierarchies, Hierarchies::V2(_))
    }

    /// The pod's group, from the root of each hierarchy.
    pub fn pod_path(&self, qos: Qos, uid: &str) -> String {
        match qos {
            Qos::Guaranteed => format!("{}/pod{uid}", self.base),
            Qos::Burstable => format!("{}/burstable/pod{uid}", self.base),
            Qos::BestEffort => format!("{}/besteffort/pod{uid}", self.base),
        }
    }

    /// Makes a group with all levels above it and sets its limits.
    pub(crate) fn create(&self, path: &str, resources: &Resources) -> io::Result<()> {
        match &self.hierarchies {
            Hierarchies::V1 { controllers, .. } => {
                for hierarchy in controllers.iter().filter(|h| h.has_any(&V1_CONTROLLERS)) {
                    make_levels(&hierarchy.root, path, |level| {
                        hierarchy.prepare_v1(level, &self.base)
                    })?;
                }
            }
            Hierarchies::V2(root) => make_levels(root, path, enable_v2)?,
        }
        self.limit(path, resources)
    }

    /// Sets the limits of an existing group.
    pub(crate) fn limit(&self, path: &str, resources: &Resources) -> io::Result<()> {
        match &self.hierarchies {
            Hierarchies::V1 { .. } => {
                for (controller, file, value) in limits::v1(resources) {
                    if let Some(folder) = self.v1_folder(controller, path) {
                        write_if_there(&folder.join(file), &value)?;
                    }
                }
            }
            Hierarchies::V2(root) => {
                let folder = join(root, path);
                for (file, value) in limits::v2(resources) {
                    write_if_there(&folder.join(file), &value)?;
                }
            }
        }
        Ok(())
    }

    /// Sets the limits of an existing group of a pod.
    ///
    /// The group of a container that has ended stays until the container is forgotten. v1 refuses a CPU quota below
    /// those of the groups in it, so theirs are lifted: nothing runs there any more.
    pub(crate) fn limit_pod(&self, path: &str, resources: &Resources) -> io::Result<()> {
        if let Some(pod) = self.v1_folder("cpu", path) {
            for group in fs::read_dir(pod)?.flatten().map(|entry| entry.path()) {
                let ended = fs::read_to_string(group.join("cgroup.procs"));
                if ended.is_ok_and(|processes| processes.is_empty()) {
                    write_if_there(&group.join("cpu.cfs_quota_us"), "-1")?;
                }
            }
        }
        self.limit(path, resources)
    }

    /// Removes a group and the groups below it, killing what still runs there.
    pub(crate) fn remove(&self, path: &str) -> io::Result<()> {
        for root in self.roots() {
            let folder = join(&root, path);
            if folder.exists() {
                remove_tree(&folder)?;
            }
        }
        Ok(())
    }

    /// Removes the whole tree of this agent.
    ///
    /// # Errors
    /// When a group cannot be emptied.
    pub fn remove_all(&self) -> io::Result<()> {
        self.remove(&self.base)
    }

    /// What the processes of a group use.
    pub(crate) fn stats(&self, path: &str) -> io::Result<Stats> {
        match &self.hierarchies {
            Hierarchies::V1 { .. } => {
                let folder = |controller| {
                    self.v1_folder(controller, path)
                        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
                };
                stats::v1(
                    &folder("cpuacct")?,
                    &folder("memory")?,
                    self.v1_folder("pids", path).as_deref(),
                )
            }
            Hierarchies::V2(root) => stats::v2(&join(root, path)),
        }
    }

    /// Processes of a group that the kernel killed for lack of memory; 0 if nobody knows.
    pub(crate) fn n_oom_kills(&self, path: &str) -> u64 {
        let file = match &self.hierarchies {
            Hierarchies::V1 { .. } => {
                self.v1_folder("memory", path).map(|folder| folder.join("memory.oom_control"))
            }
            Hierarchies::V2(root) => Some(join(root, path).join("memory.events")),
        };
        file.and_then(|file| stats::n_oom_kills(&file).ok()).unwrap_or_default()
    }

    /// Whether the kernel counts swap, so that it can be limited.
    pub(crate) fn counts_swap(&self) -> bool {
        match &self.hierarchies {
            Hierarchies::V1 { .. } => self
                .v1_folder("memory", "")
                .is_some_and(|root| root.join("memory.memsw.limit_in_bytes").exists()),
            Hierarchies::V2(_) => Path::new("/proc/swaps").exists(),
        }
    }

    fn v1_folder(&self, controller: &str, path: &str) -> Option<PathBuf> {
        let Hierarchies::V1 { controllers, .. } = &self.hierarchies else { return None };
        controllers
            .iter()
            .find(|h| h.names.iter().any(|name| name == controller))
            .map(|h| join(&h.root, path))
    }

    fn roots(&self) -> Vec<PathBuf> {
        match &self.hierarchies {
            Hierarchies::V1 { controllers, others } => {
                controllers.iter().map(|h| h.root.clone()).chain(others.iter().cloned()).collect()
            }
            Hierarchies::V2(root) => vec![root.clone()],
        }
    }
}

impl Hierarchy {
    fn has_any(&self, names: &[&str]) -> bool {
        self.names.iter().any(|name| names.contains(&name.as_str()))
    }

    /// What a new v1 level needs before processes can join it.
    fn prepare_v1(&self, level: &Path, base: &str) -> io::Result<()> {
        if self.has_any(&["cpuset"]) {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let own = fs::read_to_string(level.join(file))?;
                if let (true, Some(parent)) = (own.trim().is_empty(), level.parent()) {
                    fs::write(level.join(file), fs::read_to_string(parent.join(file))?)?;
                }
            }
        }
        if self.has_any(&["cpu"])
            && level.ends_with(format!("{}/besteffort", base.trim_start_matches('/')))
        {
            write_if_there(&level.join("cpu.shares"), "2")?;
        }
        if self.has_any(&["memory"]) {
            write_if_there(&level.join("memory.use_hierarchy"), "1").ok(); // Refused, and not needed, where it is on already.
        }
        Ok(())
    }
}

/// Finds the hierarchies in the text of a mountinfo file.
fn find(mountinfo: &str) -> Option<Hierarchies> {
    let (mut controllers, mut others, mut unified) = (Vec::new(), Vec::new(), None);
    for line in mountinfo.lines() {
        let Some((front, back)) = line.split_once(" - ") else { continue };
        let Some(point) = front.split(' ').nth(4).map(PathBuf::from) else { continue };
        let mut fields = back.split(' ');
        match fields.next() {
            Some("cgroup2") if point == Path::new("/sys/fs/cgroup") => unified = Some(point),
            Some("cgroup2") => others.push(point),
            Some("cgroup") => {
                let options: Vec<&str> = fields.nth(1).unwrap_or_default().split(',').collect();
                let known = |name: &&str| V1_CONTROLLERS.contains(name);
                let names: Vec<String> =
                    options.iter().copied().filter(known).map(String::from).collect();
                match names.is_empty() {
                    true => others.push(point),
                    false => controllers.push(Hierarchy { names, root: point }),
                }
            }
            _ => (),
        }
    }
    match (controllers.is_empty(), unified) {
        (false, _) => Some(Hierarchies::V1 { controllers, others }),
        (true, unified) => unified.map(Hierarchies::V2),
    }
}

/// Makes each level of `path` below `root` and runs `prepare` on those that are new.
fn make_levels(
    root: &Path,
    path: &str,
    prepare: impl Fn(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let mut level = root.to_owned();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        level.push(part);
        match fs::create_dir(&level) {
            Ok(()) => prepare(&level)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Switches the controllers on for a new v2 level; its parent must allow them first.
fn enable_v2(level: &Path) -> io::Result<()> {
    let Some(parent) = level.parent() else { return Ok(()) };
    let available = fs::read_to_string(parent.join("cgroup.controllers"))?;
    for name in
        V2_CONTROLLERS.iter().filter(|name| available.split_whitespace().any(|word| word == **name))
    {
        fs::write(parent.join("cgroup.subtree_control"), format!("+{name}"))?;
    }
    Ok(())
}

fn join(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Writes a control file; one that the kernel was built without is skipped.
fn write_if_there(file: &Path, value: &str) -> io::Result<()> {
    match fs::write(file, value) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ) && !file.exists() =>
        {
            Ok(())
        }
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("cannot write {value} to {}: {error}", file.display()),
        )),
        Ok(()) => Ok(()),
    }
}

/// How often a busy group is tried again, and how long between: a killed process leaves its group some
/// milliseconds later.
const REMOVE_TRIES: u32 = 100;
const REMOVE_PAUSE: Duration = Duration::from_millis(10);

fn remove_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    for _ in 0..REMOVE_TRIES {
        match fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                kill_all(folder);
                thread::sleep(REMOVE_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::ResourceBusy,
        format!("processes do not leave {}", folder.display()),
    ))
}

fn kill_all(folder: &Path) {
    let Ok(list) = fs::read_to_string(folder.join("cgroup.procs")) else { return };
    for pid in
        list.lines().filter_map(|line| line.trim().parse::<i32>().ok()).filter(|pid| *pid > 0)
    {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 20 0:1 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:2 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:3 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:4 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
34 30 0:5 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";

    #[test]
    fn hybrid_nodes_are_v1() {
        let Some(Hierarchies::V1 { controllers, others }) = find(HYBRID) else { panic!("not v1") };
        let names: Vec<_> = controllers.iter().map(|h| h.names.join("+")).collect();
        assert_eq!(names, ["cpu+cpuacct", "memory"]);
        assert_eq!(others.len(), 2);
    }

    #[test]
    fn a_single_tree_is_v2() {
        let text = "30 20 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(find(text), Some(Hierarchies::V2("/sys/fs/cgroup".into())));
        assert_eq!(find("1 1 0:1 / / rw - ext4 /dev/vda rw\n"), None);
    }

    #[test]
    fn quality_decides_the_place() {
        let cgroups =
            Cgroups { hierarchies: Hierarchies::V2("/x".into()), base: "/kubepods".into() };
        assert_eq!(cgroups.pod_path(Qos::Guaranteed, "u"), "/kubepods/podu");
        assert_eq!(cgroups.pod_path(Qos::Burstable, "u"), "/kubepods/burstable/podu");
        assert_eq!(cgroups.pod_path(Qos::BestEffort, "u"), "/kubepods/besteffort/podu");
    }
}
