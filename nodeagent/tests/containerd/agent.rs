//! The whole agent on a real containerd, driven by kubectl through an API server in this process.

use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver::testing::TestServer;
use kit::testing::eventually;
use nodeagent::probes::action::NetworkProber;
use nodeagent::runtime::containerd::Containerd;
use nodeagent::{Agent, Config};

use crate::world::{IMAGE, World, free_port};

/// A cluster of one node without any controller.
pub(crate) struct Cluster {
    pub(crate) world: World,
    server: TestServer,
    agent: Option<Agent>,
    kubeconfig: std::path::PathBuf,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let mut world = World::start().await;
        let server = TestServer::builder()
            .with_socket()
            .configure(|config| config.proxy.allow_loopback_nodes = true)
            .start()
            .await
            .unwrap();
        let kubeconfig = world.folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, server.server().kubeconfig("system:admin").unwrap()).unwrap();
        let runtime = world.runtime.take().unwrap();
        let mut cluster = Self { world, server, agent: None, kubeconfig };
        cluster.agent = Some(cluster.agent(runtime).await);
        cluster.until("the node is ready", "get node node-1", "Ready").await;
        cluster.kubectl("create serviceaccount default").await;
        cluster
    }

    async fn agent(&self, runtime: Containerd) -> Agent {
        let mut config = Config::new("node-1");
        let folder = self.world.folder.path();
        config.root_dir = folder.join("kubelet");
        config.run_dir = folder.join("kubelet-run");
        config.log_dir = folder.join("pod-logs");
        config.node_ips = vec!["127.0.0.1".parse().unwrap()];
        config.server.bind = Some("127.0.0.1:0".parse().unwrap());
        let pki = &self.server.server().core().pki;
        let serving = pki.server_cert("system:node:node-1", &[], &["127.0.0.1".into()]).unwrap();
        config.server.certificate = Some((serving.certificate, serving.key));
        config.server.client_ca = Some(pki.ca_certificate().to_owned());
        let client = self.server.client();
        Agent::start(config, client, Arc::new(runtime), Arc::new(NetworkProber)).await.unwrap()
    }

    /// Ends the agent as a kill would, and starts another one.
    pub(crate) async fn restart_agent(&mut self) {
        self.agent.take().unwrap().stop().await;
        let runtime = Containerd::start(self.world.options.clone()).await.unwrap();
        self.agent = Some(self.agent(runtime).await);
    }

    async fn run(&self, arguments: &str, input: &str) -> Output {
        self.run_list(&arguments.split(' ').collect::<Vec<_>>(), input).await
    }

    async fn run_list(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let input = input.to_owned();
        let run = move || {
            let mut child = command.spawn().expect("kubectl is installed");
            let mut stdin = child.stdin.take().unwrap();
            std::io::Write::write_all(&mut stdin, input.as_bytes()).ok();
            drop(stdin);
            child.wait_with_output().unwrap()
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    /// What kubectl prints; it must succeed.
    pub(crate) async fn kubectl(&self, arguments: &str) -> String {
        self.kubectl_with(arguments, "").await
    }

    async fn kubectl_with(&self, arguments: &str, input: &str) -> String {
        let output = self.run(arguments, input).await;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "kubectl {arguments}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(crate) async fn apply(&self, yaml: &str) {
        self.kubectl_with("create -f -", yaml).await;
    }

    pub(crate) async fn until(&self, what: &str, arguments: &str, expected: &str) -> String {
        eventually(Duration::from_secs(30), async || {
            let output = self.run(arguments, "").await;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if text.contains(expected) { Ok(text) } else { Err(format!("{what}: {text}")) }
        })
        .await
    }

    pub(crate) async fn end(mut self) {
        self.agent.take().unwrap().stop().await;
        self.world.end().await;
    }
}

/// A pod with one container; `more` goes on with its fields.
pub(crate) fn pod(name: &str, script: &str, more: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeName: node-1
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: {IMAGE}
    imagePullPolicy: IfNotPresent
    command: ["/bin/sh", "-c", {script:?}]
{more}
"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_sees_real_containers() {
    let cluster = Cluster::start().await;
    cluster.kubectl("create configmap settings --from-literal=color=blue").await;
    let script = "echo color=$COLOR; cat /etc/settings/color; echo; sleep 0.2; echo oops >&2; mkdir /www; echo hi > /www/index.html; exec httpd -f -p 8080 -h /www";
    let more = r"
    env:
    - {name: COLOR, valueFrom: {configMapKeyRef: {name: settings, key: color}}}
    readinessProbe: {httpGet: {port: 8080, path: /index.html}}
    volumeMounts:
    - {name: settings, mountPath: /etc/settings}
    - {name: settings, mountPath: /one, subPath: color}
    - {name: scratch, mountPath: /scratch}
  volumes:
  - {name: settings, configMap: {name: settings}}
  - {name: scratch, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
";
    let begin = Instant::now();
    cluster.apply(&pod("web", script, more)).await;
    cluster.kubectl("wait --for=condition=Ready pod/web --timeout=20s").await;
    println!("apply to Ready, two kubectl runs included: {:?}", begin.elapsed());

    assert_eq!(cluster.kubectl("logs web").await, "color=blue\nblue\noops\n");
    assert_eq!(cluster.kubectl("exec web -- cat /one").await, "blue");
    let shm = cluster.kubectl("exec web -- stat -f -c %T /scratch").await;
    assert!(shm.contains("tmpfs") || shm.contains("UNKNOWN"), "{shm}");
    assert_eq!(cluster.kubectl_with("exec -i web -- cat", "through stdin").await, "through stdin");
    let output =
        cluster.run_list(&["exec", "web", "--", "sh", "-c", "echo err >&2; exit 7"], "").await;
    assert_eq!(output.status.code(), Some(7));
    assert!(String::from_utf8_lossy(&output.stderr).contains("err\n"));
    let output = cluster.run("exec web -- nosuch", "").await;
    assert!(!output.status.success());

    // Older clients, and upstream's API server, speak SPDY.
    let mut old = Command::new("kubectl");
    old.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false");
    old.arg("--kubeconfig").arg(&cluster.kubeconfig);
    old.args(["exec", "web", "--", "sh", "-c", "echo by spdy; exit 9"]);
    let output = tokio::task::spawn_blocking(move || old.output().unwrap()).await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "by spdy\n", "{errors}");
    assert_eq!(output.status.code(), Some(9), "{errors}");

    for websocket in ["true", "false"] {
        let port = free_port();
        let mut forward = Command::new("kubectl");
        forward.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websocket);
        forward.arg("--kubeconfig").arg(&cluster.kubeconfig);
        forward.args(["port-forward", "web", &format!("{port}:8080")]).stdout(Stdio::null());
        let _forward = crate::world::Killed(forward.spawn().unwrap());
        let page = crate::world::until("the port is forwarded", || fetch(port)).await;
        assert!(page.ends_with("hi\n"), "{page}");
        let again = fetch(port).unwrap();
        assert!(again.ends_with("hi\n"), "{again}");
    }

    cluster.kubectl("delete pod web").await;
    cluster.end().await;
}

fn fetch(port: u16) -> Option<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    (!text.is_empty()).then_some(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_adopts_what_runs() {
    let mut cluster = Cluster::start().await;
    cluster.apply(&pod("stays", "echo one; sleep 1000", "")).await;
    cluster.apply(&pod("ends", "sleep 1; exit 5", "  restartPolicy: Never")).await;
    cluster.kubectl("wait --for=condition=Ready pod/stays pod/ends --timeout=20s").await;
    let id = "get pod stays -o jsonpath={.status.containerStatuses[0].containerID}";
    let before = cluster.kubectl(id).await;
    cluster.agent.take().unwrap().stop().await;
    // `ends` ends while nobody watches.
    crate::world::ended("sleep 1; exit 5").await;
    let runtime = Containerd::start(cluster.world.options.clone()).await.unwrap();
    cluster.agent = Some(cluster.agent(runtime).await);
    let code = "get pod ends -o jsonpath={.status.phase}:{.status.containerStatuses[0].state.terminated.exitCode}";
    cluster.until("the end is seen", code, "Failed:5").await;
    assert_eq!(cluster.kubectl(id).await, before);
    let restarts = "get pod stays -o jsonpath={.status.containerStatuses[0].restartCount}";
    assert_eq!(cluster.kubectl(restarts).await, "0");
    assert_eq!(cluster.kubectl("exec stays -- echo still here").await, "still here\n");
    // A pod that is deleted while no agent runs is removed by the next one.
    cluster.agent.take().unwrap().stop().await;
    cluster.kubectl("delete pod stays --force --grace-period=0").await;
    let runtime = Containerd::start(cluster.world.options.clone()).await.unwrap();
    cluster.agent = Some(cluster.agent(runtime).await);
    let sandboxes = cluster.world.options.state_dir.join("sandboxes");
    crate::world::until("the orphan is gone", || {
        (std::fs::read_dir(&sandboxes).unwrap().count() <= 1).then_some(())
    })
    .await;
    cluster.restart_agent().await;
    cluster.kubectl("delete pod ends").await;
    cluster.end().await;
}
