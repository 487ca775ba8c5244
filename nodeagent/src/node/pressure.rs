//! Whether the node is short of memory, disk or process ids. What is read is apart from what it means.
//!
//! It is told in the node's conditions, from which taints follow that keep new pods away; nothing is evicted here.
//!
//! Source: kubernetes.io, "Node-pressure Eviction".

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use nix::sys::statvfs::statvfs;

use super::machine::meminfo;
use crate::pods::quantity::thousandths;

/// A pressure that is over is told for this long all the same, so that the node's taints do not come and go.
///
/// Source: `--eviction-pressure-transition-period` of upstream.
const TRANSITION: Duration = Duration::from_secs(5 * 60);

/// What the node may be short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Bytes of memory.
    Memory,
    /// Bytes or files of a disk.
    Disk,
    /// Process ids.
    Pid,
}

impl Pressure {
    /// Type of its condition, then reason and message: where it is felt, and where it is not.
    pub fn words(self) -> (&'static str, [(&'static str, &'static str); 2]) {
        match self {
            Self::Memory => (
                "MemoryPressure",
                [
                    ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
                    ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
                ],
            ),
            Self::Disk => (
                "DiskPressure",
                [
                    ("KubeletHasDiskPressure", "kubelet has disk pressure"),
                    ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                ],
            ),
            Self::Pid => (
                "PIDPressure",
                [
                    ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
                    ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                ],
            ),
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Bytes of memory that are free, or hold what is on a disk too.
    Memory,
    /// Bytes on the disk with the pods' files.
    NodeDisk,
    /// Files that this disk can still hold.
    NodeFiles,
    /// Bytes on the disk with images and what containers write.
    ImageDisk,
    /// Files that this disk can still hold.
    ImageFiles,
    /// Process ids.
    Pids,
}

impl Signal {
    const ALL: [Self; 6] = [
        Self::Memory,
        Self::NodeDisk,
        Self::NodeFiles,
        Self::ImageDisk,
        Self::ImageFiles,
        Self::Pids,
    ];

    /// Its name in `--eviction-hard`.
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory.available",
            Self::NodeDisk => "nodefs.available",
            Self::NodeFiles => "nodefs.inodesFree",
            Self::ImageDisk => "imagefs.available",
            Self::ImageFiles => "imagefs.inodesFree",
            Self::Pids => "pid.available",
        }
    }

    /// The pressure of which it tells.
    pub fn pressure(self) -> Pressure {
        match self {
            Self::Memory => Pressure::Memory,
            Self::NodeDisk | Self::NodeFiles | Self::ImageDisk | Self::ImageFiles => Pressure::Disk,
            Self::Pids => Pressure::Pid,
        }
    }
}

/// How much is left of how much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Left.
    pub available: u64,
    /// There is.
    pub capacity: u64,
}

/// What was measured; what cannot be measured is left out.
pub type Levels = BTreeMap<Signal, Level>;

/// The least that must be left.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Least {
    Amount(u64),
    /// Of the capacity.
    Percent(f64),
}

impl Least {
    fn parse(text: &str) -> Option<Self> {
        let Some(percent) = text.strip_suffix('%') else {
            let amount = u64::try_from(thousandths(text)? / 1000).ok()?;
            return Some(Self::Amount(amount));
        };
        let percent = percent.parse().ok().filter(|percent| (0.0..=100.0).contains(percent))?;
        Some(Self::Percent(percent))
    }

    fn is_left(self, level: Level) -> bool {
        match self {
            Self::Amount(amount) => level.available >= amount,
            Self::Percent(percent) => {
                level.available as f64 >= level.capacity as f64 * percent / 100.0
            }
        }
    }
}

/// Below what levels the node is under pressure.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds(BTreeMap<Signal, Least>);

impl Default for Thresholds {
    /// Source: `DefaultEvictionHard` in upstream's `pkg/kubelet/apis/config`; it has none for process ids.
    fn default() -> Self {
        let percent = Least::Percent;
        Self(BTreeMap::from([
            (Signal::Memory, Least::Amount(100 << 20)),
            (Signal::NodeDisk, percent(10.0)),
            (Signal::NodeFiles, percent(5.0)),
            (Signal::ImageDisk, percent(15.0)),
            (Signal::ImageFiles, percent(5.0)),
        ]))
    }
}

impl Thresholds {
    /// No pressure is ever felt.
    #[must_use]
    pub fn none() -> Self {
        Self(BTreeMap::new())
    }

    /// The same, with disks that may be as full as they like.
    #[must_use]
    pub fn without_disks(mut self) -> Self {
        self.0.retain(|signal, _| signal.pressure() != Pressure::Disk);
        self
    }

    /// The pressures under which the node is at these levels.
    pub fn felt(&self, levels: &Levels) -> BTreeSet<Pressure> {
        let low = |(signal, least): (&Signal, &Least)| {
            levels.get(signal).filter(|level| !least.is_left(**level)).map(|_| signal.pressure())
        };
        self.0.iter().filter_map(low).collect()
    }
}

/// As `memory.available<100Mi,nodefs.available<10%`; it takes the place of all defaults.
impl FromStr for Thresholds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = |part: &str| {
            let (name, least) = part.split_once('<')?;
            let signal = Signal::ALL.into_iter().find(|signal| signal.name() == name)?;
            Some((signal, Least::parse(least)?))
        };
        let parts = text.split(',').filter(|part| !part.is_empty());
        let known = Signal::ALL.map(Signal::name).join(", ");
        let refused = |part: &str| format!("{part:?} is not of the form signal<value, of {known}");
        parts
            .map(|part| read(part).ok_or_else(|| refused(part)))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// When pressures were felt last.
#[derive(Debug, Default)]
pub struct Recent(BTreeMap<Pressure, Timestamp>);

impl Recent {
    /// The pressures to tell of: those that are `felt` now, and those that were until a moment ago.
    pub fn tell(&mut self, felt: BTreeSet<Pressure>, now: Timestamp) -> BTreeSet<Pressure> {
        self.0.extend(felt.into_iter().map(|pressure| (pressure, now)));
        self.0.retain(|_, last| now.duration_since(*last).unsigned_abs() < TRANSITION);
        self.0.keys().copied().collect()
    }
}

/// Reads the levels of this machine. `pods` and `images` are on the disks that count.
pub fn levels(pods: &Path, images: &Path) -> Levels {
    let mut levels = Levels::new();
    let of = |available, capacity| Level { available, capacity };
    // Files in the page cache that nobody has used lately can go at any time.
    if let (Some(total), Some(free), Some(cache)) =
        (meminfo("MemTotal"), meminfo("MemFree"), meminfo("Inactive(file)"))
    {
        levels.insert(Signal::Memory, of((free + cache).min(total), total));
    }
    let disks = [
        (pods, Signal::NodeDisk, Signal::NodeFiles),
        (images, Signal::ImageDisk, Signal::ImageFiles),
    ];
    for (folder, bytes, files) in disks {
        let Ok(disk) = statvfs(folder) else { continue };
        let block = disk.fragment_size();
        levels.insert(bytes, of(disk.blocks_available() * block, disk.blocks() * block));
        levels.insert(files, of(disk.files_free(), disk.files()));
    }
    levels.extend(pids().map(|level| (Signal::Pids, level)));
    levels
}

/// Process ids that are left, of as many as the kernel gives out.
fn pids() -> Option<Level> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let most = |path: &str| read(path)?.trim().parse::<u64>().ok();
    let capacity = most("/proc/sys/kernel/pid_max")?.min(most("/proc/sys/kernel/threads-max")?);
    let used = n_threads(&read("/proc/loadavg")?)?;
    Some(Level { available: capacity.saturating_sub(used), capacity })
}

/// Threads on the machine, from `/proc/loadavg`: its fourth field is `running/all`.
fn n_threads(loadavg: &str) -> Option<u64> {
    loadavg.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(available: u64, capacity: u64) -> Level {
        Level { available, capacity }
    }

    #[track_caller]
    fn check(thresholds: &Thresholds, levels: &[(Signal, Level)], expected: &[Pressure]) {
        let felt = thresholds.felt(&levels.iter().copied().collect());
        assert_eq!(felt.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn pressure_is_below_the_threshold() {
        let usual = Thresholds::default();
        check(&usual, &[], &[]);
        check(&usual, &[(Signal::Memory, level(100 << 20, 8 << 30))], &[]);
        check(&usual, &[(Signal::Memory, level((100 << 20) - 1, 8 << 30))], &[Pressure::Memory]);
        check(&usual, &[(Signal::NodeDisk, level(10, 100))], &[]);
        check(&usual, &[(Signal::NodeDisk, level(9, 100))], &[Pressure::Disk]);
        check(&usual, &[(Signal::NodeFiles, level(4, 100))], &[Pressure::Disk]);
        check(&usual, &[(Signal::ImageDisk, level(14, 100))], &[Pressure::Disk]);
        check(&usual, &[(Signal::NodeFiles, level(0, 0))], &[]); // Some file systems do not count files.
        check(&usual, &[(Signal::Pids, level(0, 100))], &[]);
    }

    #[test]
    fn thresholds_can_be_chosen() {
        let chosen: Thresholds = "pid.available<5%,memory.available<1Gi".parse().unwrap();
        let low = [
            (Signal::Pids, level(4, 100)),
            (Signal::Memory, level(1 << 20, 8 << 30)),
            (Signal::NodeDisk, level(0, 100)),
        ];
        check(&chosen, &low, &[Pressure::Memory, Pressure::Pid]);
        check(&Thresholds::default().without_disks(), &low, &[Pressure::Memory]);
        check(&Thresholds::none(), &low, &[]);
        assert_eq!("".parse(), Ok(Thresholds::none()));
        let text = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,\
            imagefs.available<15%,imagefs.inodesFree<5%";
        assert_eq!(text.parse(), Ok(Thresholds::default()));
        for wrong in ["memory.available", "cpu<1", "pid.available<x", "pid.available<101%"] {
            assert!(wrong.parse::<Thresholds>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn pressure_lasts_for_a_while() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let (mut recent, disk) = (Recent::default(), BTreeSet::from([Pressure::Disk]));
        assert_eq!(recent.tell(BTreeSet::new(), at(0)), BTreeSet::new());
        assert_eq!(recent.tell(disk.clone(), at(10)), disk);
        assert_eq!(recent.tell(BTreeSet::new(), at(309)), disk);
        assert_eq!(recent.tell(BTreeSet::new(), at(310)), BTreeSet::new());
    }

    #[test]
    fn this_machine_has_levels() {
        let levels = levels(Path::new("/"), Path::new("/nowhere"));
        for signal in [Signal::Memory, Signal::NodeDisk, Signal::NodeFiles, Signal::Pids] {
            assert!(levels[&signal].available <= levels[&signal].capacity, "{signal:?}");
        }
        assert!(levels[&Signal::Memory].available > 0 && levels[&Signal::Pids].available > 0);
        assert!(!levels.contains_key(&Signal::ImageDisk));
        assert_eq!(n_threads("0.1 0.2 0.3 6/111 27263\n"), Some(111));
    }
}
