//! Runs CNI plugins (specification 1.0) from a configuration list, and remembers what they answered, since taking a
//! pod off needs it, also after a crash.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::runtime::{HostPort, PodIdentity, Protocol};

/// Name of the interface inside a pod.
const POD_INTERFACE: &str = "eth0";

pub(super) struct Plugins {
    config: Value,
    folders: Vec<PathBuf>,
    cache: PathBuf,
}

/// What is kept of an ADD.
#[derive(Serialize, Deserialize)]
struct Attached {
    pod: PodIdentity,
    namespace: PathBuf,
    config: Value,
    ports: Vec<HostPort>,
    result: Value,
}

impl Plugins {
    pub(super) fn load(file: &Path, folders: &[PathBuf], cache: &Path) -> io::Result<Self> {
        let explain = |error: &dyn std::fmt::Display| {
            io::Error::other(format!("{}: {error}", file.display()))
        };
        let text = fs::read_to_string(file).map_err(|error| explain(&error))?;
        let config: Value = serde_json::from_str(&text).map_err(|error| explain(&error))?;
        let config = match config.get("plugins") {
            Some(Value::Array(_)) => config,
            // A single plugin's file is a list of one.
            _ => {
                json!({"cniVersion": config["cniVersion"], "name": config["name"], "plugins": [config]})
            }
        };
        if !config["name"].is_string() {
            return Err(explain(&"the configuration has no name"));
        }
        fs::create_dir_all(cache)?;
        Ok(Self { config, folders: folders.to_vec(), cache: cache.to_owned() })
    }

    pub(super) async fn attach(
        &self,
        pod: &PodIdentity,
        namespace: &Path,
        ports: &[HostPort],
    ) -> io::Result<Vec<IpAddr>> {
        self.detach(pod, namespace).await?; // What an attempt left that was killed.
        super::bridge::loopback_up(namespace).await?;
        let mut attached = Attached {
            pod: pod.clone(),
            namespace: namespace.to_owned(),
            config: self.config.clone(),
            ports: ports.to_vec(),
            result: Value::Null,
        };
        self.save(&attached)?;
        for plugin in plugins(&self.config) {
            attached.result = self.call("ADD", &attached, plugin).await?;
        }
        self.save(&attached)?;
        addresses(&attached.result)
    }

    pub(super) async fn detach(&self, pod: &PodIdentity, namespace: &Path) -> io::Result<()> {
        let file = self.cache.join(&pod.uid);
        let mut attached: Attached = match fs::read(&file) {
            Ok(json) => serde_json::from_slice(&json)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        namespace.clone_into(&mut attached.namespace);
        for plugin in plugins(&attached.config).iter().rev() {
            self.call("DEL", &attached, plugin).await?;
        }
        fs::remove_file(file)
    }

    pub(super) async fn retain(&self, uids: &[String]) -> io::Result<()> {
        for entry in fs::read_dir(&self.cache)?.flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            if uid.ends_with(".new") || uids.contains(&uid) {
                continue;
            }
            let attached: Attached = serde_json::from_slice(&fs::read(entry.path())?)?;
            self.detach(&attached.pod, &attached.namespace).await?;
        }
        Ok(())
    }

    fn save(&self, attached: &Attached) -> io::Result<()> {
        let file = self.cache.join(&attached.pod.uid);
        let draft = self.cache.join(format!("{}.new", attached.pod.uid));
        fs::write(&draft, serde_json::to_vec(attached)?)?;
        fs::rename(draft, file)
    }

    async fn call(&self, command: &str, attached: &Attached, plugin: &Value) -> io::Result<Value> {
        let name = plugin["type"].as_str().unwrap_or_default();
        let program = self
            .folders
            .iter()
            .map(|folder| folder.join(name))
            .find(|program| program.is_file())
            .ok_or_else(|| {
                io::Error::other(format!("CNI plugin {name:?} is in none of {:?}", self.folders))
            })?;
        let search: Vec<_> =
            self.folders.iter().map(|folder| folder.display().to_string()).collect();
        let PodIdentity { namespace, name: pod, uid } = &attached.pod;
        let mut child = Command::new(&program)
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", uid)
            .env("CNI_NETNS", if attached.namespace.exists() { attached.namespace.as_os_str() } else { "".as_ref() })
            .env("CNI_IFNAME", POD_INTERFACE)
            .env("CNI_PATH", search.join(":"))
            .env(
                "CNI_ARGS",
                format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod};K8S_POD_INFRA_CONTAINER_ID={uid};K8S_POD_UID={uid}"),
            )
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(&serde_json::to_vec(&input(attached, plugin))?).await?;
        }
        let output = child.wait_with_output().await?;
        if output.status.success() {
            return Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null));
        }
        let error: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        let said = match error["msg"].as_str() {
            Some(message) => format!("{message} {}", error["details"].as_str().unwrap_or_default()),
            None => String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        Err(io::Error::other(format!("CNI plugin {name} failed to {command}: {}", said.trim())))
    }
}

fn plugins(config: &Value) -> &[Value] {
    config["plugins"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// What a plugin reads: its own object, with what the list and the runtime add.
fn input(attached: &Attached, plugin: &Value) -> Value {
    let mut input = plugin.clone();
    let Some(object) = input.as_object_mut() else { return input };
    object.insert("cniVersion".into(), attached.config["cniVersion"].clone());
    object.insert("name".into(), attached.config["name"].clone());
    if !attached.result.is_null() {
        object.insert("prevResult".into(), attached.result.clone());
    }
    let capabilities = object.remove("capabilities").unwrap_or_default();
    if capabilities["portMappings"] == true && !attached.ports.is_empty() {
        let ports: Vec<Value> = attached.ports.iter().map(port_mapping).collect();
        object.insert("runtimeConfig".into(), json!({ "portMappings": ports }));
    }
    input
}

fn port_mapping(port: &HostPort) -> Value {
    let protocol = match port.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    let mut mapping = json!({"hostPort": port.host_port, "containerPort": port.container_port, "protocol": protocol});
    if let Some(ip) = port.host_ip {
        mapping["hostIP"] = ip.to_string().into();
    }
    mapping
}

/// The pod's addresses in a result; those of `eth0` if the result tells interfaces apart.
fn addresses(result: &Value) -> io::Result<Vec<IpAddr>> {
    let address = |entry: &Value| entry["address"].as_str()?.split('/').next()?.parse().ok();
    let ips: Vec<IpAddr> =
        result["ips"].as_array().into_iter().flatten().filter_map(address).collect();
    match ips.is_empty() {
        true => Err(io::Error::other("the CNI plugins gave the pod no address")),
        false => Ok(ips),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached(ports: Vec<HostPort>, result: Value) -> Attached {
        let config = json!({"cniVersion": "1.0.0", "name": "net", "plugins": []});
        Attached { pod: PodIdentity::default(), namespace: "/n".into(), config, ports, result }
    }

    #[test]
    fn plugins_get_the_last_result_and_their_capabilities() {
        let port = HostPort {
            host_ip: None,
            host_port: 80,
            container_port: 8080,
            protocol: Protocol::Tcp,
        };
        let plugin = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        let got = input(&attached(vec![port], json!({"ips": []})), &plugin);
        let expected = json!({
            "type": "portmap", "cniVersion": "1.0.0", "name": "net", "prevResult": {"ips": []},
            "runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 8080, "protocol": "tcp"}]},
        });
        assert_eq!(got, expected);
        let without = input(&attached(vec![], Value::Null), &json!({"type": "bridge"}));
        assert_eq!(without, json!({"type": "bridge", "cniVersion": "1.0.0", "name": "net"}));
    }

    #[test]
    fn addresses_lose_their_prefix() {
        let result = json!({"ips": [{"address": "10.1.0.2/24"}, {"address": "fd00::2/64"}]});
        assert_eq!(
            addresses(&result).unwrap(),
            ["10.1.0.2".parse::<IpAddr>().unwrap(), "fd00::2".parse().unwrap()]
        );
        assert!(addresses(&json!({})).is_err());
    }
}
