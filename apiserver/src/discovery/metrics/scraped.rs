//! What is only counted when somebody looks: objects a resource, and what the process takes.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::discovery::GIT_VERSION;
use crate::server::Core;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GroupResource {
    group: String,
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Storage {
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    major: &'static str,
    minor: &'static str,
    git_version: &'static str,
}

type Fractional = Gauge<f64, std::sync::atomic::AtomicU64>;

/// A registry of what is true now.
pub(super) fn registry(core: &Core) -> Registry {
    let mut registry = Registry::default();
    objects(core, &mut registry);
    crate::fairness::scraped::put_into(&core.fairness, &mut registry);
    if let Some(process) = Process::read() {
        process.put_into(&mut registry);
    }
    let build = Family::<Build, Gauge>::default();
    build.get_or_create(&Build { major: "1", minor: "36", git_version: GIT_VERSION }).set(1);
    registry.register("kubernetes_build_info", "The version", build);
    registry
}

fn objects(core: &Core, registry: &mut Registry) {
    let (by_group, by_name) =
        (Family::<GroupResource, Gauge>::default(), Family::<Storage, Gauge>::default());
    for resource in core.registry().resources() {
        let Some(cache) = resource.storage.as_ref().and_then(|storage| storage.started()) else {
            continue;
        };
        let n = i64::try_from(cache.len()).unwrap_or(i64::MAX);
        let (group, name) = (resource.group.clone(), resource.name.clone());
        by_name.get_or_create(&Storage { resource: resource.group_resource().to_string() }).set(n);
        by_group.get_or_create(&GroupResource { group, resource: name }).set(n);
    }
    registry.register("apiserver_resource_objects", "Stored objects", by_group);
    registry.register("apiserver_storage_objects", "Stored objects, by one name", by_name);
}

/// What the kernel says of this process.
#[derive(Debug, Default, PartialEq)]
struct Process {
    resident_bytes: u64,
    virtual_bytes: u64,
    cpu_seconds: f64,
    start_seconds: f64,
    open_files: u64,
    threads: u64,
}

impl Process {
    fn read() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let boot = std::fs::read_to_string("/proc/stat").ok()?;
        let open_files = std::fs::read_dir("/proc/self/fd").ok()?.count() as u64;
        let boot = boot.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()?;
        Some(Self { open_files, ..Self::parse(&stat, boot)? })
    }

    /// Reads the line of `/proc/<pid>/stat`.
    ///
    /// Source: proc_pid_stat(5). Linux counts these times in hundredths of a second on every architecture.
    fn parse(stat: &str, boot: f64) -> Option<Self> {
        const TICKS: f64 = 100.0;
        const PAGE: u64 = 4096;
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        // The first one here is the third of the manual.
        let field = |n: usize| fields.get(n - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) as f64 / TICKS,
            threads: field(20)?,
            start_seconds: boot + field(22)? as f64 / TICKS,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * PAGE,
            open_files: 0,
        })
    }

    fn put_into(&self, registry: &mut Registry) {
        let mut gauge = |name: &str, help: &str, value: f64| {
            let gauge = Fractional::default();
            gauge.set(value);
            registry.register(name, help, gauge);
        };
        gauge("process_resident_memory_bytes", "Memory in use", self.resident_bytes as f64);
        gauge("process_virtual_memory_bytes", "Address space in use", self.virtual_bytes as f64);
        gauge("process_start_time_seconds", "Start, since 1970", self.start_seconds);
        gauge("process_open_fds", "Open files", self.open_files as f64);
        gauge("process_threads", "Threads", self.threads as f64);
        let cpu = prometheus_client::metrics::counter::Counter::<f64, std::sync::atomic::AtomicU64>::default();
        cpu.inc_by(self.cpu_seconds);
        registry.register("process_cpu_seconds", "Time on a processor", cpu);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_process_is_read() {
        let mut fields = vec!["0"; 50];
        for (n, value) in
            [(14, "150"), (15, "50"), (20, "4"), (22, "1000"), (23, "8192"), (24, "3")]
        {
            fields[n - 3] = value;
        }
        let line = format!("77 (a b) c) {}", fields.join(" "));
        let expected = Process {
            cpu_seconds: 2.0,
            threads: 4,
            start_seconds: 110.0,
            virtual_bytes: 8192,
            resident_bytes: 3 * 4096,
            open_files: 0,
        };
        assert_eq!(Process::parse(&line, 100.0), Some(expected));
        let own = Process::read().unwrap();
        assert!(own.resident_bytes > 1 << 20 && own.open_files > 2 && own.threads > 0);
    }
}
