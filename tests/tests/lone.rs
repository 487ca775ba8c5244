//! Each player's binary runs alone, as a process with no rights but those of its chart; together they are a cluster.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::fs::File;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use improv_tests::{Cluster, eventually, free_port, program, repository, run};

const SOON: Duration = Duration::from_secs(60);

/// Player, its binary, and the flags without which it would meet others on this machine.
const PLAYERS: [(&str, &str, &[&str]); 15] = [
    ("namespace", "namespace-controller", &[]),
    ("service-account", "serviceaccount-controller", &[]),
    ("certificate", "certificate-controller", &[]),
    ("scheduler", "kube-scheduler", &[]),
    ("replicaset", "replicaset-controller", &[]),
    ("deployment", "deployment-controller", &[]),
    ("endpointslice", "endpointslice-controller", &[]),
    ("garbage-collector", "garbage-collector-controller", &[]),
    ("resource-quota", "resource-quota-controller", &[]),
    ("volume-protection", "volume-protection-controller", &[]),
    ("node-lifecycle", "node-lifecycle-controller", &[]),
    ("node-ipam", "node-ipam-controller", &["--cluster-cidr=10.245.0.0/16"]),
    ("bootstrap-token", "bootstrap-token-controller", &[]),
    ("proxy", "kube-proxy", &["--table=improv-test-lone", "--node-name=lone"]),
    ("dns", "kube-dns", &["--listen=127.0.0.1:0"]),
];

/// A player in a process of its own; killed when dropped.
struct Lone {
    name: &'static str,
    process: Child,
    health_port: u16,
    log: PathBuf,
}

impl Lone {
    fn start(cluster: &Cluster, name: &'static str, binary: &str, flags: &[&str]) -> Self {
        install_rights(cluster, name);
        let folder = cluster.data_dir().join("lone");
        std::fs::create_dir_all(&folder).unwrap();
        let kubeconfig = folder.join(format!("{name}.kubeconfig"));
        let token = cluster.kubectl(&format!("create token {name} -n kube-system"));
        std::fs::write(&kubeconfig, kubeconfig_with(cluster, token.trim())).unwrap();
        let log = folder.join(format!("{name}.log"));
        let health_port = free_port();
        let mut command = Command::new(program(binary));
        command
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .arg(format!("--health-address=127.0.0.1:{health_port}"));
        let pki = cluster.data_dir().join("pki");
        match name {
            "service-account" => _ = command.arg("--root-ca-file").arg(pki.join("ca.crt")),
            "certificate" => {
                command.arg("--cluster-signing-cert-file").arg(pki.join("ca.crt"));
                command.arg("--cluster-signing-key-file").arg(pki.join("ca.key"));
            }
            _ => (),
        }
        let process = command.args(flags).stderr(File::create(&log).unwrap()).spawn().unwrap();
        Self { name, process, health_port, log }
    }

    fn is_ready(&self) -> Result<(), String> {
        use std::io::{Read, Write};
        let mut answer = String::new();
        let asked = TcpStream::connect(("127.0.0.1", self.health_port)).and_then(|mut stream| {
            stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n")?;
            stream.read_to_string(&mut answer)
        });
        match asked {
            Ok(_) if answer.contains(" 200 ") => Ok(()),
            _ => Err(format!(
                "{}: {answer}\n{}",
                self.name,
                std::fs::read_to_string(&self.log).unwrap_or_default()
            )),
        }
    }

    /// Lines of its log that tell of a refused right.
    fn refusals(&self) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap();
        let refused = |line: &&str| line.to_ascii_lowercase().contains("forbidden");
        log.lines().filter(refused).map(|line| format!("{}: {line}", self.name)).collect()
    }
}

impl Drop for Lone {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Service account and rights of a player's chart, without its workload.
fn install_rights(cluster: &Cluster, name: &str) {
    let chart = repository().join("charts").join(name).display().to_string();
    let only =
        ["--show-only", "templates/serviceaccount.yaml", "--show-only", "templates/rbac.yaml"];
    let mut helm = cluster.tool("helm");
    cluster.apply(&run(helm.args(["template", name, &chart, "-n", "kube-system"]).args(only)));
}

fn kubeconfig_with(cluster: &Cluster, token: &str) -> String {
    let ca = cluster.data_dir().join("pki/ca.crt");
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: lone\n\
         clusters: [{{name: lone, cluster: {{server: 'https://127.0.0.1:{}', certificate-authority: {}}}}}]\n\
         users: [{{name: lone, user: {{token: {token}}}}}]\n\
         contexts: [{{name: lone, context: {{cluster: lone, user: lone}}}}]\n",
        cluster.port,
        ca.display()
    )
}

fn signing_request(user: &str) -> String {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, user);
    let key = rcgen::KeyPair::generate().unwrap();
    let request = BASE64_STANDARD.encode(params.serialize_request(&key).unwrap().pem().unwrap());
    format!(
        "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {user}}}\n\
         spec: {{signerName: kubernetes.io/kube-apiserver-client, usages: [client auth], request: {request}}}\n"
    )
}

#[test]
fn lone_players_need_no_more_than_their_charts_rights() {
    let cluster = Cluster::start(&["--players=none", "--runtime=hollow"]);
    let players: Vec<Lone> = PLAYERS
        .iter()
        .map(|(name, binary, flags)| Lone::start(&cluster, name, binary, flags))
        .collect();
    for player in &players {
        eventually("the player is ready", SOON, || player.is_ready());
    }

    cluster.kubectl("create namespace shop");
    let hello = std::fs::read_to_string(repository().join("examples/hello/hello.yaml")).unwrap();
    cluster.apply(
        &hello.replace("  name: hello\n  labels", "  namespace: shop\n  name: hello\n  labels"),
    );
    cluster.kubectl("rollout status deployment/hello -n shop --timeout=60s");
    cluster.kubectl("set image deployment/hello hello=improv.dev/hello:0.2.0 -n shop");
    cluster.kubectl("rollout status deployment/hello -n shop --timeout=60s");
    cluster.kubectl("scale deployment/hello --replicas=1 -n shop");
    eventually("one pod is left", SOON, || {
        let addresses = "jsonpath={.items[*].endpoints[*].addresses[0]}";
        let left = cluster.kubectl(&format!(
            "get endpointslices -n shop -l kubernetes.io/service-name=hello -o {addresses}"
        ));
        if left.split_whitespace().count() == 1 { Ok(()) } else { Err(left) }
    });
    cluster.kubectl("delete namespace shop --timeout=60s");
    cluster.apply(&signing_request("lone"));
    cluster.kubectl("certificate approve lone");
    eventually("the certificate", SOON, || {
        let signed = cluster.try_kubectl("get csr lone -o jsonpath={.status.certificate}")?;
        if signed.is_empty() { Err("not signed") } else { Ok(()) }.map_err(str::to_owned)
    });

    cluster.apply("apiVersion: v1\nkind: Node\nmetadata: {name: further}\n");
    eventually("a new node has addresses", SOON, || {
        let cidr = cluster.kubectl("get node further -o jsonpath={.spec.podCIDR}");
        if cidr == "10.245.1.0/24" { Ok(()) } else { Err(cidr) }
    });
    run(&mut cluster.improv("token create abcdef.0123456789abcdef"));
    eventually("a token signs", SOON, || {
        let info = cluster.kubectl("get configmap cluster-info -n kube-public -o yaml");
        if info.contains("jws-kubeconfig-abcdef") { Ok(()) } else { Err(info) }
    });
    let over = "{\"stringData\":{\"expiration\":\"2020-01-01T00:00:00Z\"}}";
    cluster.kubectl(&format!("patch secret bootstrap-token-abcdef -n kube-system -p {over}"));
    cluster.kubectl("wait --for=delete secret/bootstrap-token-abcdef -n kube-system --timeout=60s");

    let refusals: Vec<String> = players.iter().flat_map(Lone::refusals).collect();
    assert!(refusals.is_empty(), "{refusals:#?}");
    drop(players);
    for family in ["ip", "ip6"] {
        run(Command::new("nft").args(["delete", "table", family, "improv-test-lone"]));
    }
}
