//! Sandboxes: a folder with a record, the pins of the namespaces, and the files that containers mount.
//!
//! The folder is written before anything is made, so that what a killed agent left half made is found again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::jiff::Timestamp;
use nix::mount::{MsFlags, mount};
use serde::{Deserialize, Serialize};

use super::Inner;
use super::oci::Place;
use crate::runtime::{Error, PodIdentity, Resources, Sandbox, SandboxSpec};
use crate::sys::mounts;
use crate::sys::namespaces::{self, Own};

/// Size of /dev/shm.
///
/// Source: the CRI plugin's default.
const SHM_OPTIONS: &str = "mode=1777,size=67108864";

const RECORD: &str = "sandbox.json";

/// Folder of what containers may write and the node keeps: a file system of the pod's own, which ends when it is full.
const FILES: &str = "files";
/// Bytes that a pod may write there, beyond what it finds. Of a termination message 4 KiB are read.
const FILES_ROOM: usize = 1 << 20;

/// What is kept of a sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) spec: SandboxSpec,
    pub(super) ips: Vec<std::net::IpAddr>,
    pub(super) created_at: Timestamp,
    /// Whether the creation was completed.
    pub(super) complete: bool,
    /// Id of the container that holds the shared process namespace.
    pub(super) pause: Option<String>,
}

impl Record {
    pub(super) fn pod(&self) -> &PodIdentity {
        &self.spec.pod
    }

    /// Whether containers can join: complete, and its pins are alive.
    fn is_ready(&self, folder: &Path) -> bool {
        let pinned = |name: &str| namespaces::is_pinned(&folder.join(name));
        self.complete
            && (self.spec.host_network || pinned("net"))
            && (self.spec.host_ipc || pinned("ipc"))
    }
}

impl Inner {
    pub(super) fn sandbox_folder(&self, uid: &str) -> PathBuf {
        self.options.state_dir.join("sandboxes").join(uid)
    }

    /// Where the files are that containers of a pod may write; none in sandboxes that older agents have made.
    pub(super) fn sandbox_files(&self, uid: &str) -> Option<PathBuf> {
        let files = self.sandbox_folder(uid).join(FILES);
        (is_file_name(uid) && files.is_dir()).then_some(files)
    }

    pub(super) async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<Sandbox, Error> {
        let uid = &spec.pod.uid;
        if !is_file_name(uid) {
            return Err(Error::CreateSandbox {
                step: "check the pod",
                reason: format!("{uid:?} cannot be a uid"),
            });
        }
        let lock = self.sandbox_locks.of(uid);
        let _one_at_a_time = lock.lock().await;
        let folder = self.sandbox_folder(uid);
        if let Some(record) = self.sandbox_record(uid)? {
            if record.is_ready(&folder) {
                return Ok(describe(&record, true));
            }
            self.take_down(uid).await?;
        }
        let failed =
            |step| move |error: io::Error| Error::CreateSandbox { step, reason: error.to_string() };
        let mut record = Record {
            spec: spec.clone(),
            ips: Vec::new(),
            created_at: Timestamp::now(),
            complete: false,
            pause: None,
        };
        fs::create_dir_all(&folder).map_err(failed("make its folder"))?;
        save(&folder, &record).map_err(failed("write its record"))?;
        let cgroup = self.cgroups.pod_path(spec.qos, uid);
        {
            let (cgroups, folder, spec) = (self.cgroups.clone(), folder.clone(), spec.clone());
            blocking(move || {
                cgroups.create(&cgroup, &spec.resources).map_err(failed("make its cgroup"))?;
                make_namespaces(&folder, &spec).map_err(failed("make its namespaces"))
            })
            .await?;
        }
        if !spec.host_network {
            let attached = self.network.attach(&spec.pod, &folder.join("net"), &spec.ports).await;
            record.ips = attached.map_err(failed("set up its network"))?;
        }
        write_files(&folder, &record).map_err(failed("write its files"))?;
        if spec.share_process_namespace && !spec.host_pid {
            record.pause = Some(self.start_pause(&record).await?);
        }
        record.complete = true;
        save(&folder, &record).map_err(failed("write its record"))?;
        Ok(describe(&record, true))
    }

    pub(super) fn sandbox(&self, uid: &str) -> Result<Option<Sandbox>, Error> {
        let folder = self.sandbox_folder(uid);
        Ok(self.sandbox_record(uid)?.map(|record| describe(&record, record.is_ready(&folder))))
    }

    pub(super) fn sandboxes(&self) -> Result<Vec<Sandbox>, Error> {
        let mut sandboxes = Vec::new();
        for uid in self.sandbox_uids()? {
            sandboxes.extend(self.sandbox(&uid)?);
        }
        Ok(sandboxes)
    }

    pub(super) fn sandbox_uids(&self) -> Result<Vec<String>, Error> {
        let failed = |error| Error::runtime("list the sandboxes", error);
        let entries = fs::read_dir(self.options.state_dir.join("sandboxes")).map_err(failed)?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect::<io::Result<_>>().map_err(failed)
    }

    /// The record of a sandbox. A folder without a readable one is half made, by nobody that is known.
    pub(super) fn sandbox_record(&self, uid: &str) -> Result<Option<Record>, Error> {
        let folder = self.sandbox_folder(uid);
        match fs::read(folder.join(RECORD)) {
            Ok(json) => Ok(Some(serde_json::from_slice(&json).unwrap_or_else(|_| unknown(uid)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(folder.exists().then(|| unknown(uid)))
            }
            Err(error) => Err(Error::runtime("read a sandbox record", error)),
        }
    }

    /// Where a container of this sandbox finds its surroundings.
    pub(super) async fn place(&self, record: &Record) -> Result<Place, Error> {
        let pause = match &record.pause {
            Some(id) => Some(self.pid(id).await?),
            None => None,
        };
        let host_name = || {
            nix::unistd::gethostname()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        Ok(Place {
            pod_uid: record.pod().uid.clone(),
            hostname: if record.spec.host_network {
                host_name()
            } else {
                record.spec.hostname.clone()
            },
            files: self
                .sandbox_files(&record.pod().uid)
                .unwrap_or_else(|| self.sandbox_folder(&record.pod().uid)),
            folder: self.sandbox_folder(&record.pod().uid),
            host_network: record.spec.host_network,
            host_pid: record.spec.host_pid,
            host_ipc: record.spec.host_ipc,
            pause,
        })
    }

    pub(super) async fn remove_sandbox(&self, uid: &str) -> Result<(), Error> {
        let lock = self.sandbox_locks.of(uid);
        let _one_at_a_time = lock.lock().await;
        self.take_down(uid).await
    }

    /// Removes what there is of a sandbox, in the reverse order of its making; the record goes last.
    async fn take_down(&self, uid: &str) -> Result<(), Error> {
        let failed =
            |step| move |error: io::Error| Error::RemoveSandbox { step, reason: error.to_string() };
        for id in self.containers_of(uid).await? {
            self.remove_container(&id).await?;
        }
        let Some(record) = self.sandbox_record(uid)? else { return Ok(()) };
        let folder = self.sandbox_folder(uid);
        if !record.spec.host_network {
            self.network
                .detach(record.pod(), &folder.join("net"))
                .await
                .map_err(failed("take down its network"))?;
        }
        let cgroups = self.cgroups.clone();
        let paths: Vec<String> = match record.complete {
            true => vec![cgroups.pod_path(record.spec.qos, uid)],
            false => super::ALL_QOS.iter().map(|qos| cgroups.pod_path(*qos, uid)).collect(),
        };
        blocking(move || {
            for path in paths {
                cgroups.remove(&path).map_err(failed("remove its cgroup"))?;
            }
            mounts::remove_tree(&folder).map_err(failed("remove its folder"))
        })
        .await
    }

    pub(super) fn update_sandbox(&self, uid: &str, resources: &Resources) -> Result<(), Error> {
        let not_found = || Error::NotFound { what: "sandbox", name: uid.to_owned() };
        let record = self.sandbox_record(uid)?.ok_or_else(not_found)?;
        let path = self.cgroups.pod_path(record.spec.qos, uid);
        let limited = self.cgroups.limit_pod(&path, resources);
        limited.map_err(|error| Error::runtime("limit a pod", error))
    }
}

fn describe(record: &Record, ready: bool) -> Sandbox {
    Sandbox {
        pod: record.pod().clone(),
        ips: record.ips.clone(),
        ready,
        created_at: record.created_at,
    }
}

fn unknown(uid: &str) -> Record {
    let pod = PodIdentity { uid: uid.to_owned(), ..PodIdentity::default() };
    let spec = SandboxSpec { pod, ..SandboxSpec::default() };
    Record {
        spec,
        ips: Vec::new(),
        created_at: Timestamp::UNIX_EPOCH,
        complete: false,
        pause: None,
    }
}

/// Uids become folders: nothing else may be in them.
fn is_file_name(uid: &str) -> bool {
    !uid.is_empty()
        && uid.len() <= 128
        && uid.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
}

fn save(folder: &Path, record: &Record) -> io::Result<()> {
    let draft = folder.join("sandbox.new");
    fs::write(&draft, serde_json::to_vec(record)?)?;
    fs::rename(draft, folder.join(RECORD))
}

fn make_namespaces(folder: &Path, spec: &SandboxSpec) -> io::Result<()> {
    let own = Own { network: !spec.host_network, ipc: !spec.host_ipc };
    let sysctls: Vec<_> = spec.sysctls.clone().into_iter().collect();
    namespaces::pin(folder, own, &spec.hostname, &sysctls)?;
    if !spec.host_ipc {
        let shm = folder.join("shm");
        fs::create_dir_all(&shm)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("shm"), &shm, Some("tmpfs"), flags, Some(SHM_OPTIONS))?;
    }
    Ok(())
}

fn write_files(folder: &Path, record: &Record) -> io::Result<()> {
    let node_hosts =
        if record.spec.host_network { fs::read_to_string("/etc/hosts").ok() } else { None };
    let hostname = if record.spec.host_network {
        nix::unistd::gethostname()?.to_string_lossy().into_owned()
    } else {
        record.spec.hostname.clone()
    };
    let texts = [
        ("hosts", hosts(&record.spec, &record.ips, node_hosts.as_deref())),
        ("hostname", format!("{hostname}\n")),
        ("resolv.conf", record.spec.dns.render()),
    ];
    let files = folder.join(FILES);
    fs::create_dir_all(&files)?;
    let size = FILES_ROOM + texts.iter().map(|(_, text)| text.len()).sum::<usize>();
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = format!("mode=0755,size={size}");
    mount(Some("files"), &files, Some("tmpfs"), flags, Some(options.as_str()))?;
    texts.into_iter().try_for_each(|(name, text)| fs::write(files.join(name), text))
}

/// The text of a pod's /etc/hosts.
///
/// Source: the layout is the kubelet's, as programs and people look for it.
fn hosts(spec: &SandboxSpec, ips: &[std::net::IpAddr], node_hosts: Option<&str>) -> String {
    let mut text = match node_hosts {
        Some(hosts) => format!("# Kubernetes-managed hosts file (host network).\n{hosts}"),
        None => "# Kubernetes-managed hosts file.\n\
                 127.0.0.1\tlocalhost\n\
                 ::1\tlocalhost ip6-localhost ip6-loopback\n\
                 fe00::0\tip6-localnet\n\
                 fe00::0\tip6-mcastprefix\n\
                 fe00::1\tip6-allnodes\n\
                 fe00::2\tip6-allrouters\n"
            .to_owned(),
    };
    for ip in ips {
        text += &match &spec.fqdn {
            Some(fqdn) => format!("{ip}\t{fqdn}\t{}\n", spec.hostname),
            None => format!("{ip}\t{}\n", spec.hostname),
        };
    }
    if !spec.host_aliases.is_empty() {
        text += "\n# Entries added by HostAliases.\n";
        for alias in &spec.host_aliases {
            text += &format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t"));
        }
    }
    text
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|error| Err(Error::runtime("run a blocking step", error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::HostAlias;

    #[test]
    fn hosts_name_the_pod() {
        let alias = HostAlias { ip: "192.0.2.9".into(), hostnames: vec!["a".into(), "b".into()] };
        let mut spec = SandboxSpec {
            hostname: "web-0".into(),
            host_aliases: vec![alias],
            ..SandboxSpec::default()
        };
        let text = hosts(&spec, &["10.1.0.2".parse().unwrap()], None);
        assert!(
            text.contains(
                "\n10.1.0.2\tweb-0\n\n# Entries added by HostAliases.\n192.0.2.9\ta\tb\n"
            )
        );
        spec.fqdn = Some("web-0.svc.cluster.local".into());
        assert!(
            hosts(&spec, &["10.1.0.2".parse().unwrap()], None)
                .contains("10.1.0.2\tweb-0.svc.cluster.local\tweb-0\n")
        );
        assert!(hosts(&spec, &[], Some("127.0.0.1 node\n")).contains("127.0.0.1 node\n"));
    }

    #[test]
    fn uids_cannot_leave_their_folder() {
        assert!(is_file_name("6c1b1e0e-9f5c-4a3f-8a52-1c0d5e2f7b11"));
        assert!(!is_file_name("..") && !is_file_name("a/b") && !is_file_name(""));
    }
}
