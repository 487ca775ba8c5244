//! Further nodes: they join with a token, run pods, renew their certificates, and leave nothing behind.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use improv_tests::{Cluster, eventually, free_port, program, run};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(60);

/// A node of a cluster, in a folder of its own. Gone when dropped.
struct Joined {
    folder: TempDir,
    arguments: Vec<String>,
}

impl Joined {
    fn new(arguments: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("improv-test-").tempdir().unwrap();
        let port = format!("--node-port={}", free_port());
        let arguments = arguments.iter().copied().chain([port.as_str(), "--detach"]);
        Self { folder, arguments: arguments.map(str::to_owned).collect() }
    }

    /// `improv <command>` on this node.
    fn improv(&self, command: &str) -> Command {
        let mut improv = Command::new(program("improv"));
        improv.args(command.split(' ')).arg("--data-dir").arg(self.data_dir());
        improv
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// `improv node join`, with the words of a printed command and what a test changes of them.
    fn join(&self, words: &[String]) -> Output {
        self.improv("node join").args(&self.arguments).args(words).output().unwrap()
    }

    fn joins(&self, words: &[String]) {
        let output = self.join(words);
        let log = std::fs::read_to_string(self.data_dir().join("improv.log")).unwrap_or_default();
        assert!(output.status.success(), "{output:?}\n{log}");
    }

    /// What it complains about when it is refused.
    #[track_caller]
    fn is_refused(&self, words: &[String], complaint: &str) {
        let output = self.join(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(complaint), "{said}");
    }

    fn certificate(&self) -> String {
        let file = self.data_dir().join("pki/kubelet-client-current.pem");
        std::fs::read_to_string(file).unwrap()
    }

    /// Ends the process, and leaves the rest as it is.
    fn stop(&self) {
        let pid = std::fs::read_to_string(self.data_dir().join("improv.pid")).unwrap();
        run(Command::new("kill").arg(pid.trim()));
        eventually("the node's process is gone", SOON, || {
            match PathBuf::from(format!("/proc/{}", pid.trim())).exists() {
                true => Err("it runs"),
                false => Ok(()),
            }
        });
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.data_dir().join("improv.log"));
            eprintln!("the node's log:\n{}", log.unwrap_or_default());
        }
        drop(self.improv("down").output());
    }
}

/// The words that `improv token create --print-join-command` prints after `improv node join`.
fn invitation(cluster: &Cluster, flags: &[&str]) -> Vec<String> {
    let mut create = cluster.improv("token create --print-join-command");
    let printed = run(create.args(flags));
    let words = printed.trim().strip_prefix("improv node join ").expect("a command");
    words.split(' ').map(str::to_owned).collect()
}

/// The words with the one after `flag` changed.
fn with(words: &[String], flag: &str, change: impl Fn(&str) -> String) -> Vec<String> {
    let at = words.iter().position(|word| word == flag).unwrap() + 1;
    let mut words = words.to_vec();
    words[at] = change(&words[at]);
    words
}

fn readiness(cluster: &Cluster, node: &str) -> String {
    let ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
    let since = "jsonpath={.status.conditions[?(@.type=='Ready')].lastTransitionTime}";
    let get = |what: &str| cluster.kubectl(&format!("get node {node} -o {what}"));
    format!("{} since {}", get(ready), get(since))
}

fn run_pod(cluster: &Cluster, name: &str, node: &str, container: &str) {
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: {node}\n  \
         terminationGracePeriodSeconds: 0\n  containers:\n  - {container}\n"
    ));
    cluster.kubectl(&format!("wait --for=condition=Ready pod/{name} --timeout=60s"));
}

const ANY: &str = "{name: a, image: improv.dev/any}";

#[test]
fn a_node_joins_renews_its_certificate_and_leaves() {
    let cluster = Cluster::start(&["--runtime=hollow", "--cluster-signing-duration=15s"]);
    let node = Joined::new(&["--runtime=hollow", "--node-name=second"]);
    node.joins(&invitation(&cluster, &["--ttl=5m"]));
    let status = run(&mut node.improv("status"));
    let lines: Vec<&str> = status.lines().filter_map(|line| line.split("  ").next()).collect();
    assert_eq!(lines, ["node agent", "certificate", "API server", "node second"], "{status}");
    let cidrs = cluster.kubectl("get nodes -o jsonpath={.items[*].spec.podCIDR}");
    assert!(cidrs.contains("10.245.1.0/24"), "{cidrs}");
    run_pod(&cluster, "before", "second", ANY);
    assert!(cluster.kubectl("logs before").contains("has started"));
    is_kept_to_its_own(&cluster, &node);

    let (first, ready) = (node.certificate(), readiness(&cluster, "second"));
    assert!(ready.starts_with("True since "), "{ready}");
    let mut seen = first;
    for _ in 0..2 {
        let last = seen.clone();
        seen = eventually("the certificate is renewed", SOON, || match node.certificate() {
            now if now != last => Ok(now),
            _ => Err("it is the same"),
        });
    }
    // The first one is over by now.
    run_pod(&cluster, "after", "second", ANY);
    assert_eq!(readiness(&cluster, "second"), ready);

    node.stop();
    node.joins(&[]); // Its certificate is enough.
    run_pod(&cluster, "again", "second", ANY);
    run(&mut node.improv("down"));
    assert!(!node.data_dir().exists());
}

/// With the node's own kubeconfig: NodeRestriction and the node authorizer stand around it.
fn is_kept_to_its_own(cluster: &Cluster, node: &Joined) {
    cluster.kubectl("create secret generic other --from-literal=a=b");
    let as_node = |arguments: &str| {
        let mut kubectl = cluster.tool("kubectl");
        kubectl.env("KUBECONFIG", node.data_dir().join("kubelet.conf"));
        let output = kubectl.args(arguments.split(' ')).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { String::new() } else { said }
    };
    assert_eq!(as_node("label node second pool=a"), "");
    let refused = as_node("label node second node-restriction.kubernetes.io/a=b");
    assert!(refused.contains("is not allowed to modify labels"), "{refused}");
    let refused = as_node("taint node second a=b:NoSchedule");
    assert!(refused.contains("is not allowed to modify taints"), "{refused}");
    let refused = as_node("get secret other");
    assert!(refused.contains("no relationship found between node 'second'"), "{refused}");
}

#[test]
fn who_must_not_join_is_told_why() {
    let cluster = Cluster::start(&["--runtime=hollow"]);
    let words = invitation(&cluster, &[]);
    let node = Joined::new(&["--runtime=hollow", "--node-name=second"]);
    node.is_refused(&[], "--server and --token are needed");
    let token = "--token";
    let unknown = with(&words, token, |token| format!("zzzzzz{}", &token[6..]));
    node.is_refused(&unknown, "it does not know the token \"zzzzzz\", or the token is over");
    let wrong = with(&words, token, |token| format!("{}.0000000000000000", &token[..6]));
    node.is_refused(&wrong, "was not signed with this token");
    let hash = "--discovery-token-ca-cert-hash";
    let other = with(&words, hash, |_| format!("sha256:{}", "0".repeat(64)));
    node.is_refused(&other, "which is none of --discovery-token-ca-cert-hash");
    node.is_refused(&words[..4], "whoever knows the token could pass for the cluster");

    let short = invitation(&cluster, &["--ttl=1s", "--description=short"]);
    eventually("the token is cleaned away", SOON, || {
        let listed = run(&mut cluster.improv("token list"));
        if listed.contains("short") { Err(listed) } else { Ok(()) }
    });
    node.is_refused(&short, "or the token is over");

    let id = &words[3][..6];
    run(cluster.improv("token delete").arg(id));
    node.is_refused(&words, "it does not know the token");
    let nodes = cluster.kubectl("get nodes -o name");
    assert_eq!(nodes.lines().count(), 1, "{nodes}");
}

/// All but the proxy, which shall play on the joined node alone.
const PLAYERS: &str = "--players=namespace,service-account,certificate,scheduler,endpointslice,garbage-collector,\
    node-lifecycle,node-ipam,bootstrap-token";

#[test]
fn a_joined_node_runs_containers_and_reaches_services() {
    let cluster = Cluster::start(&["--runtime=hollow", PLAYERS]);
    let node = Joined::new(&["--node-name=real", "--rotate-server-certificates"]);
    node.joins(&invitation(&cluster, &[]));
    let archive = node.data_dir().join("hello.tar");
    let mut build = Command::new(program("improv"));
    build.args(["image", "build", "--name=improv.dev/hello:1", "--binary"]).arg(program("hello"));
    run(build.arg("--output").arg(&archive));
    run(node.improv("image import").arg(&archive));
    run_pod(&cluster, "real", "real", "{name: a, image: 'improv.dev/hello:1'}");
    let ip = cluster.kubectl("get pod real -o jsonpath={.status.podIP}");
    assert!(ip.starts_with("10.245.1."), "{ip}");
    cluster.kubectl("label pod real app=real");
    cluster.kubectl("expose pod real --port=80 --target-port=8080 --selector=app=real");
    let service = cluster.kubectl("get service real -o jsonpath={.spec.clusterIP}");
    eventually("the Service answers", SOON, || match get(&service) {
        Ok(answer) if answer.contains("hello from") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert!(cluster.kubectl("logs real").contains("listens on"));
    gets_a_serving_certificate(&cluster, &node);
    cluster.kubectl("delete pod real");
    run(&mut node.improv("down"));
    assert!(!get(&service).is_ok_and(|answer| answer.contains("hello from")));
}

/// It waits for a person, and is used once it is approved.
fn gets_a_serving_certificate(cluster: &Cluster, node: &Joined) {
    let filter = "?(@.spec.signerName=='kubernetes.io/kubelet-serving')";
    let request = eventually("it asks for a serving certificate", SOON, || {
        match cluster.kubectl(&format!("get csr -o jsonpath={{.items[{filter}].metadata.name}}")) {
            none if none.is_empty() => Err(none),
            name => Ok(name),
        }
    });
    cluster.kubectl(&format!("certificate approve {request}"));
    let kept = node.data_dir().join("pki/kubelet-server-current.pem");
    eventually("the serving certificate is kept", SOON, || {
        if kept.exists() { Ok(()) } else { Err("it is not there") }
    });
    assert!(cluster.kubectl("logs real").contains("listens on"));
}

/// What a plain HTTP GET of `/` answers.
fn get(host: &str) -> std::io::Result<String> {
    let address = (host, 80).to_socket_addrs()?.next().ok_or(std::io::ErrorKind::NotFound)?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
