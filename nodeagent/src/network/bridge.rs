//! The built-in network: a bridge, a veth pair a pod, addresses from a small table, all by netlink.
//!
//! A pod's address is a /32 and its only route leads to the gateway, so that packets between two pods of a node are
//! routed, not bridged: they pass the node's connection tracking in both directions, and Services work between
//! neighbours with and without `br_netfilter`.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use futures::TryStreamExt;
use parking_lot::Mutex;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth,
    RouteMessageBuilder,
};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex as AsyncMutex;

use super::addresses::Addresses;
use super::nft::{self, Forward};
use super::{Config, Traffic};
use crate::runtime::HostPort;
use crate::sys::namespaces;

/// Name of the interface inside a pod.
const POD_INTERFACE: &str = "eth0";

/// Index of the loopback interface in every network namespace.
const LOOPBACK: u32 = 1;

pub(super) struct Bridge {
    handle: Handle,
    index: u32,
    mtu: Option<u32>,
    config: Config,
    addresses: Mutex<Addresses>,
    /// Host ports are changed by one nft call at a time.
    ports: AsyncMutex<()>,
}

impl Bridge {
    pub(super) async fn start(config: &Config) -> io::Result<Self> {
        fs::create_dir_all(config.state_dir.join("ports"))?;
        let handle = connect()?;
        let name = config.bridge();
        let mtu = config.mtu.or_else(uplink_mtu);
        let index = match find(&handle, &name).await? {
            Some(index) => index,
            None => create_bridge(&handle, &name, mtu).await?,
        };
        let gateway = config.pod_cidr.gateway();
        let fixed = LinkUnspec::new_with_index(index).address(hardware_address(gateway)).build();
        handle.link().change(fixed).execute().await.map_err(netlink)?;
        handle
            .address()
            .add(index, gateway.into(), config.pod_cidr.prefix())
            .replace()
            .execute()
            .await
            .map_err(netlink)?;
        set_kernel_parameters(&name)?;
        let addresses = Addresses::load(&config.state_dir.join("addresses"), config.pod_cidr)?;
        nft::run(&nft::table(config, &saved_forwards(config, &addresses)?)).await?;
        Ok(Self {
            handle,
            index,
            mtu,
            config: config.clone(),
            addresses: Mutex::new(addresses),
            ports: AsyncMutex::new(()),
        })
    }

    pub(super) async fn attach(
        &self,
        uid: &str,
        namespace: &Path,
        ports: &[HostPort],
    ) -> io::Result<Vec<IpAddr>> {
        let address = self.addresses.lock().take(uid)?;
        let outside = interface(&self.config.cluster, uid);
        if let Some(index) = find(&self.handle, &outside).await? {
            self.handle.link().del(index).execute().await.map_err(netlink)?; // Left by an attempt that was killed.
        }
        let pin = fs::File::open(namespace)?;
        let pair = veth(&outside, self.index, self.mtu, address, &pin);
        self.handle.link().add(pair).execute().await.map_err(netlink)?;
        // Where br_netfilter is on, a pod that reaches itself through a host port or a Service is sent back by the
        // bridge, out of the port that it came from.
        let hairpin = LinkBridgePort::new(0).name(outside.clone()).hairpin(true).build();
        self.handle.link().set_port(hairpin).execute().await.map_err(netlink)?;
        set_up_inside(namespace, address, self.config.pod_cidr.gateway()).await?;
        self.forward(uid, address, ports).await?;
        Ok(vec![address.into()])
    }

    pub(super) async fn detach(&self, uid: &str) -> io::Result<()> {
        if let Some(index) = find(&self.handle, &interface(&self.config.cluster, uid)).await? {
            let deleted = self.handle.link().del(index).execute().await.map_err(netlink);
            // The pair also goes when the last process leaves the namespace.
            deleted.or_else(|error| {
                if error.raw_os_error() == Some(libc::ENODEV) { Ok(()) } else { Err(error) }
            })?;
        }
        self.stop_forwarding(uid).await?;
        self.addresses.lock().release(uid)
    }

    pub(super) async fn retain(&self, uids: &[String]) -> io::Result<()> {
        let known = self.addresses.lock().uids();
        for uid in known.iter().filter(|uid| !uids.contains(uid)) {
            self.detach(uid).await?;
        }
        Ok(())
    }

    async fn forward(&self, uid: &str, pod: Ipv4Addr, ports: &[HostPort]) -> io::Result<()> {
        if ports.is_empty() {
            return Ok(());
        }
        self.stop_forwarding(uid).await?;
        let _one_at_a_time = self.ports.lock().await;
        nft::run(&nft::add(&self.config.table(), &Forward { pod, ports: ports.to_vec() })).await?;
        fs::write(ports_file(&self.config, uid), serde_json::to_vec(ports)?)
    }

    async fn stop_forwarding(&self, uid: &str) -> io::Result<()> {
        let _one_at_a_time = self.ports.lock().await;
        let (file, address) = (ports_file(&self.config, uid), self.addresses.lock().get(uid));
        let (Some(pod), Some(ports)) = (address, read_ports(&file)?) else { return Ok(()) };
        nft::run(&nft::remove(&self.config.table(), &Forward { pod, ports })).await?;
        fs::remove_file(file)
    }
}

/// The node's end of a pod's veth pair: 15 characters, the most that a name may have.
fn interface(cluster: &str, uid: &str) -> String {
    let hash = Sha256::digest(format!("{cluster} {uid}"));
    let hex: String = hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("imp{hex}")
}

/// Bytes through the pod's interface; what the node sends is what the pod receives.
pub(super) fn traffic(cluster: &str, uid: &str) -> Option<Traffic> {
    let folder = Path::new("/sys/class/net").join(interface(cluster, uid)).join("statistics");
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok();
    Some(Traffic { received: read("tx_bytes")?, sent: read("rx_bytes")? })
}

/// Removes the bridge and all interfaces on it.
pub(super) async fn teardown(bridge: &str) -> io::Result<()> {
    let handle = connect()?;
    let Some(index) = find(&handle, bridge).await? else { return Ok(()) };
    let mut links = handle.link().get().execute();
    let mut on_bridge = Vec::new();
    while let Some(link) = links.try_next().await.map_err(netlink)? {
        if link.attributes.contains(&LinkAttribute::Controller(index)) {
            on_bridge.push(link.header.index);
        }
    }
    for index in on_bridge.into_iter().chain([index]) {
        match handle.link().del(index).execute().await.map_err(netlink) {
            Err(error) if error.raw_os_error() != Some(libc::ENODEV) => return Err(error),
            _ => (),
        }
    }
    Ok(())
}

/// MTU of the interface that leads out of the node: the pods' packets must fit it.
fn uplink_mtu() -> Option<u32> {
    let routes = fs::read_to_string("/proc/net/route").ok()?;
    let interface = default_interface(&routes)?;
    fs::read_to_string(Path::new("/sys/class/net").join(interface).join("mtu"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// The interface of the default route in the text of /proc/net/route.
fn default_interface(routes: &str) -> Option<&str> {
    routes.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let (interface, destination) = (fields.next()?, fields.next()?);
        (destination == "00000000").then_some(interface)
    })
}

fn connect() -> io::Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    Ok(handle)
}

async fn find(handle: &Handle, name: &str) -> io::Result<Option<u32>> {
    match handle
        .link()
        .get()
        .match_name(name.to_owned())
        .execute()
        .try_next()
        .await
        .map_err(netlink)
    {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn create_bridge(handle: &Handle, name: &str, mtu: Option<u32>) -> io::Result<u32> {
    let mut bridge = LinkBridge::new(name).up();
    if let Some(mtu) = mtu {
        bridge = bridge.mtu(mtu);
    }
    handle.link().add(bridge.build()).execute().await.map_err(netlink)?;
    find(handle, name)
        .await?
        .ok_or_else(|| io::Error::other(format!("bridge {name} has gone again")))
}

/// A locally administered MAC address that follows from the IP address.
///
/// Whoever remembers who an address belonged to (ARP) is right about its next owner too. And a bridge whose MAC is
/// not set takes the lowest of its ports': with each pod that comes or goes all others might send to a MAC that is
/// no more, and connections would hang until they ask again.
///
/// Source: `hwaddr` of the CNI plugins, which use the same prefix.
fn hardware_address(ip: Ipv4Addr) -> Vec<u8> {
    [[0x0a, 0x58].as_slice(), &ip.octets()].concat()
}

fn veth(
    outside: &str,
    bridge: u32,
    mtu: Option<u32>,
    address: Ipv4Addr,
    namespace: &fs::File,
) -> LinkMessage {
    let mut inside = LinkMessageBuilder::<LinkUnspec>::new()
        .name(POD_INTERFACE.to_owned())
        .address(hardware_address(address))
        .setns_by_fd(namespace.as_raw_fd());
    let mut outside = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(outside.to_owned())
        .controller(bridge)
        .up();
    if let Some(mtu) = mtu {
        (inside, outside) = (inside.mtu(mtu), outside.mtu(mtu));
    }
    outside.set_info_data(InfoData::Veth(InfoVeth::Peer(inside.build()))).build()
}

/// Brings up the loopback interface of a network namespace.
pub(super) async fn loopback_up(namespace: &Path) -> io::Result<()> {
    let inside = Inside::connect(namespace)?;
    inside.loopback_up().await
}

/// Address and routes of a pod.
async fn set_up_inside(namespace: &Path, address: Ipv4Addr, gateway: Ipv4Addr) -> io::Result<()> {
    let inside = Inside::connect(namespace)?;
    inside.loopback_up().await?;
    let handle = &inside.handle;
    let index = find(handle, POD_INTERFACE)
        .await?
        .ok_or_else(|| io::Error::other("the pod has no eth0"))?;
    let up = LinkUnspec::new_with_index(index).up().build();
    handle.link().change(up).execute().await.map_err(netlink)?;
    handle.address().add(index, address.into(), 32).execute().await.map_err(netlink)?;
    let route = || RouteMessageBuilder::<Ipv4Addr>::new().output_interface(index);
    let to_gateway = route().destination_prefix(gateway, 32).scope(RouteScope::Link).build();
    handle.route().add(to_gateway).execute().await.map_err(netlink)?;
    handle.route().add(route().gateway(gateway).build()).execute().await.map_err(netlink)
}

/// A netlink connection inside a namespace: the socket is opened there and stays there.
struct Inside {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Inside {
    fn connect(namespace: &Path) -> io::Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        let (connection, handle, _) = namespaces::in_network(namespace, || {
            let _entered = runtime.enter();
            rtnetlink::new_connection()
        })?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    async fn loopback_up(&self) -> io::Result<()> {
        let up = LinkUnspec::new_with_index(LOOPBACK).up().build();
        self.handle.link().change(up).execute().await.map_err(netlink)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn set_kernel_parameters(bridge: &str) -> io::Result<()> {
    let set = |key: String, value: &str| {
        let path = PathBuf::from("/proc/sys/net/ipv4").join(key);
        fs::write(&path, value).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cannot write {value} to {}: {error}", path.display()),
            )
        })
    };
    set("ip_forward".into(), "1")?;
    // Host ports on 127.0.0.1 lead to the bridge with that source address until they are masqueraded.
    set(format!("conf/{bridge}/route_localnet"), "1")?;
    // Neighbours are reached through the node on purpose; it must not tell pods of a shorter way.
    set(format!("conf/{bridge}/send_redirects"), "0")?;
    namespaces::distrust_routers(bridge)
}

fn saved_forwards(config: &Config, addresses: &Addresses) -> io::Result<Vec<Forward>> {
    let mut forwards = Vec::new();
    for uid in addresses.uids() {
        if let (Some(pod), Some(ports)) =
            (addresses.get(&uid), read_ports(&ports_file(config, &uid))?)
        {
            forwards.push(Forward { pod, ports });
        }
    }
    Ok(forwards)
}

fn ports_file(config: &Config, uid: &str) -> PathBuf {
    config.state_dir.join("ports").join(uid)
}

/// The ports in a file; `None` without one. A file that was cut short by a crash has no ports.
fn read_ports(file: &Path) -> io::Result<Option<Vec<HostPort>>> {
    match fs::read(file) {
        Ok(json) => Ok(Some(serde_json::from_slice(&json).unwrap_or_default())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn netlink(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_names_the_uplink() {
        let routes =
            "Iface\tDestination\tGateway\neth1\t0001A8C0\t00000000\neth0\t00000000\t0101A8C0\n";
        assert_eq!(default_interface(routes), Some("eth0"));
        assert_eq!(default_interface("Iface\tDestination\n"), None);
    }

    #[test]
    fn interface_names_fit_the_kernel() {
        let name = interface("", "6c1b1e0e-9f5c-4a3f-8a52-1c0d5e2f7b11");
        assert_eq!(name.len(), 15);
        assert_ne!(name, interface("", "6c1b1e0e-9f5c-4a3f-8a52-1c0d5e2f7b12"));
        assert_ne!(name, interface("other", "6c1b1e0e-9f5c-4a3f-8a52-1c0d5e2f7b11"));
    }
}
