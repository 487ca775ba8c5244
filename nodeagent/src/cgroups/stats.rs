//! Usage from the cgroup files: some ten microseconds, where asking containerd takes milliseconds.

use std::fs;
use std::io;
use std::path::Path;

use crate::runtime::{Bytes, Stats};

pub(super) fn v1(cpu: &Path, memory: &Path, pids: Option<&Path>) -> io::Result<Stats> {
    let usage = number(&memory.join("memory.usage_in_bytes"))?;
    let table = fs::read_to_string(memory.join("memory.stat"))?;
    Ok(Stats {
        cpu_nanos: number(&cpu.join("cpuacct.usage"))?,
        memory_usage: Bytes(usage),
        memory_working_set: Bytes(usage.saturating_sub(field(&table, "total_inactive_file"))),
        memory_rss: Bytes(field(&table, "total_rss")),
        processes: pids
            .and_then(|folder| number(&folder.join("pids.current")).ok())
            .unwrap_or_default(),
        ..Stats::default()
    })
}

pub(super) fn v2(folder: &Path) -> io::Result<Stats> {
    let usage = number(&folder.join("memory.current"))?;
    let memory = fs::read_to_string(folder.join("memory.stat"))?;
    let cpu = fs::read_to_string(folder.join("cpu.stat"))?;
    Ok(Stats {
        cpu_nanos: field(&cpu, "usage_usec") * 1000,
        memory_usage: Bytes(usage),
        memory_working_set: Bytes(usage.saturating_sub(field(&memory, "inactive_file"))),
        memory_rss: Bytes(field(&memory, "anon")),
        processes: number(&folder.join("pids.current")).unwrap_or_default(),
        ..Stats::default()
    })
}

pub(super) fn n_oom_kills(file: &Path) -> io::Result<u64> {
    Ok(field(&fs::read_to_string(file)?, "oom_kill"))
}

fn number(file: &Path) -> io::Result<u64> {
    fs::read_to_string(file)?.trim().parse().map_err(io::Error::other)
}

/// The value of `name` in lines of `name value`; 0 if it is not there.
fn field(table: &str, name: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    table.lines().find_map(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_match_whole_names() {
        let table = "inactive_file 1\ntotal_inactive_file 22\nanon 3";
        assert_eq!(field(table, "inactive_file"), 1);
        assert_eq!(field(table, "total_inactive_file"), 22);
        assert_eq!(field(table, "total"), 0);
    }
}
