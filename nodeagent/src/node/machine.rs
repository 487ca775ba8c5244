//! Facts about the machine, from /proc and /etc.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use nix::sys::socket::SockaddrIn;

/// What the machine is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Processors.
    pub cpus: u64,
    /// Memory in bytes.
    pub memory: u64,
    /// Size of the disk with the pods' files, in bytes.
    pub disk: u64,
    /// Kernel release.
    pub kernel: String,
    /// As `Debian GNU/Linux 12 (bookworm)`.
    pub os_image: String,
    /// Changes with every boot.
    pub boot_id: String,
    /// Stays.
    pub machine_id: String,
    /// Of the hardware.
    pub system_uuid: String,
}

impl Machine {
    /// Reads this machine; `folder` is on the disk that counts.
    pub fn read(folder: &Path) -> Self {
        let machine_id = line("/etc/machine-id");
        let system_uuid = line("/sys/class/dmi/id/product_uuid");
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory: meminfo("MemTotal").unwrap_or(0),
            disk: nix::sys::statvfs::statvfs(folder).map_or(0, |s| s.blocks() * s.fragment_size()),
            kernel: line("/proc/sys/kernel/osrelease"),
            os_image: os_image(&std::fs::read_to_string("/etc/os-release").unwrap_or_default()),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            system_uuid: if system_uuid.is_empty() { machine_id.clone() } else { system_uuid },
            machine_id,
        }
    }
}

fn line(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// A figure of /proc/meminfo in bytes.
pub fn meminfo(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.split(':').next() == Some(name))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// CPU time that the machine has spent since its boot, in nanoseconds.
pub fn cpu_nanos() -> u64 {
    /// Length of a tick: Linux counts in hundredths for user space, whatever its own clock.
    const TICK: u64 = 10_000_000;
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> = text
        .lines()
        .next()
        .into_iter()
        .flat_map(|l| l.split_whitespace().skip(1))
        .filter_map(|f| f.parse().ok())
        .collect();
    // Idle (3) and waiting for disks (4) is not work; guest time (8, 9) is in user time already.
    let busy: u64 =
        fields.iter().enumerate().filter(|(i, _)| ![3, 4, 8, 9].contains(i)).map(|(_, f)| f).sum();
    busy * TICK
}

fn os_image(os_release: &str) -> String {
    let line = os_release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".to_owned(), |l| l.trim_matches('"').to_owned())
}

/// The address by which others reach this machine: the one that its default route uses, else any that is not
/// loopback.
pub fn address() -> Option<IpAddr> {
    // Nothing is sent: connecting a datagram socket only asks the routing table (192.0.2.0/24 is nobody's, RFC 5737).
    let routed = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    let routed = routed.ok().map(|local| local.ip()).filter(|ip| !ip.is_unspecified());
    routed.or_else(|| {
        let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
        let mut ips = interfaces.filter_map(|i| i.address?.as_sockaddr_in().map(SockaddrIn::ip));
        ips.find(|ip| !ip.is_loopback()).map(IpAddr::V4)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_can_be_read() {
        let machine = Machine::read(Path::new("/"));
        assert!(machine.cpus > 0 && machine.memory > 1 << 20 && machine.disk > 1 << 20);
        assert!(!machine.kernel.is_empty() && !machine.boot_id.is_empty());
        assert!(cpu_nanos() > 0);
        assert_eq!(os_image("ID=x\nPRETTY_NAME=\"X 1\"\n"), "X 1");
    }
}
