//! A server, an agent, and helpers that wait for a state with a deadline.

use std::time::Duration;

use apiserver::testing::TestServer;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod, PodCondition, ServiceAccount};
use kit::testing::eventually;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use nodeagent::runtime::hollow;
use nodeagent::{Agent, Config};
use serde_json::{Value, json};

/// Longest wait for any state.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until there is what `look` looks for.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    eventually(PATIENCE, async || look().await.ok_or(what)).await
}

pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) agent: Option<Agent>,
    _server: TestServer,
}

impl World {
    pub(crate) async fn new() -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let server = TestServer::builder()
            .with_socket()
            .configure(|config| config.proxy.allow_loopback_nodes = true)
            .start()
            .await
            .unwrap();
        let text = server.server().kubeconfig("system:admin").unwrap();
        let file = kube::config::Kubeconfig::from_yaml(&text).unwrap();
        let options = kube::config::KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(file, &options).await.unwrap();
        // Over the socket, since streams need a connection to upgrade.
        let client = Client::try_from(config).unwrap();
        // The agent has a node's rights and no more.
        let as_node = server.client_as("system:node:node-1", &["system:nodes"]);
        let pki = &server.server().core().pki;
        let serving = pki.server_cert("system:node:node-1", &[], &["127.0.0.1".into()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::new("node-1");
        config.root_dir = folder.path().join("root");
        config.run_dir = folder.path().join("run");
        config.log_dir = folder.path().join("logs");
        config.server.bind = Some("127.0.0.1:0".parse().unwrap());
        config.server.certificate = Some((serving.certificate, serving.key));
        config.server.client_ca = Some(pki.ca_certificate().to_owned());
        config.node_ips = vec!["127.0.0.1".parse().unwrap()];
        let (runtime, prober) = hollow::pair(Some("10.244.3.0/24"));
        let agent = Agent::start(config, as_node, runtime, prober).await.unwrap();
        // No controllers here: what they would make for the namespace is made by hand.
        let account = json!({"metadata": {"name": "default", "namespace": "default"}});
        let account = serde_json::from_value::<ServiceAccount>(account).unwrap();
        let accounts = Api::<ServiceAccount>::namespaced(client.clone(), "default");
        accounts.create(&PostParams::default(), &account).await.unwrap();
        Self { client, folder, agent: Some(agent), _server: server }
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    pub(crate) async fn create(&self, name: &str, spec: Value) -> Pod {
        self.create_with(name, spec, json!({})).await
    }

    pub(crate) async fn create_with(&self, name: &str, spec: Value, annotations: Value) -> Pod {
        let mut spec = spec;
        spec["nodeName"] = json!("node-1");
        spec["automountServiceAccountToken"] = json!(false);
        let meta = json!({"name": name, "namespace": "default", "annotations": annotations});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        self.pods().create(&PostParams::default(), &pod).await.unwrap()
    }

    /// Waits until the pod's status, rendered, is as expected.
    pub(crate) async fn expect(&self, name: &str, expected: &str) -> Pod {
        eventually(PATIENCE, async || {
            let pod = self.pods().get_opt(name).await.unwrap().ok_or("no pod")?;
            match render(&pod) {
                rendered if rendered == expected => Ok(pod),
                other => Err(format!("{name} is {other:?}, expected {expected:?}")),
            }
        })
        .await
    }

    pub(crate) async fn expect_gone(&self, name: &str) {
        eventually(PATIENCE, async || match self.pods().get_opt(name).await.unwrap() {
            None => Ok(()),
            Some(_) => Err(format!("{name} is still there")),
        })
        .await;
    }

    /// Waits for an event about a pod.
    pub(crate) async fn expect_event(&self, pod: &str, reason: &str, message: &str) {
        let api = Api::<Event>::namespaced(self.client.clone(), "default");
        eventually(PATIENCE, async || {
            let events = api.list(&ListParams::default()).await.unwrap();
            let about =
                events.items.into_iter().filter(|e| e.involved_object.name.as_deref() == Some(pod));
            let seen: Vec<_> = about.map(|e| (e.reason.unwrap(), e.message.unwrap())).collect();
            match seen.iter().any(|(r, m)| r == reason && m == message) {
                true => Ok(()),
                false => Err(format!("no {reason} event {message:?} among {seen:#?}")),
            }
        })
        .await;
    }

    /// Waits until a pod has a condition of that type.
    pub(crate) async fn expect_condition(&self, pod: &str, type_: &str) -> Option<PodCondition> {
        self.condition(pod, type_, Option::is_some).await
    }

    /// Waits until a pod has no condition of that type.
    pub(crate) async fn expect_no_condition(&self, pod: &str, type_: &str) {
        self.condition(pod, type_, Option::is_none).await;
    }

    async fn condition(
        &self,
        pod: &str,
        type_: &str,
        fits: fn(&Option<PodCondition>) -> bool,
    ) -> Option<PodCondition> {
        eventually(PATIENCE, async || {
            let status = self.pods().get(pod).await.unwrap().status.unwrap_or_default();
            let conditions = status.conditions.unwrap_or_default();
            let found = conditions.into_iter().find(|c| c.type_ == type_);
            if fits(&found) { Ok(found) } else { Err(format!("{pod} has {found:?}")) }
        })
        .await
    }

    pub(crate) async fn config_map(&self, name: &str, data: Value) {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "default"}, "data": data});
        let map: ConfigMap = serde_json::from_value(map).unwrap();
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), "default");
        if api.get_opt(name).await.unwrap().is_some() {
            api.replace(name, &PostParams::default(), &map).await.unwrap();
        } else {
            api.create(&PostParams::default(), &map).await.unwrap();
        }
    }

    pub(crate) async fn delete(&self, name: &str) {
        self.pods().delete(name, &DeleteParams::default()).await.unwrap();
    }

    pub(crate) async fn node(&self) -> Node {
        let api = Api::<Node>::all(self.client.clone());
        until("the node registers", async || {
            let node = api.get_opt("node-1").await.unwrap();
            node.filter(|n| n.status.as_ref().is_some_and(|s| s.node_info.is_some()))
        })
        .await
    }
}

/// Phase, then each container: state, restarts, ready.
fn render(pod: &Pod) -> String {
    let Some(status) = &pod.status else { return "none".into() };
    let all = [&status.init_container_statuses, &status.container_statuses];
    let containers = all.into_iter().flatten().flatten().map(|s| {
        let state = s.state.clone().unwrap_or_default();
        let state = if let Some(w) = state.waiting {
            w.reason.unwrap_or_default()
        } else if let Some(t) = state.terminated {
            format!("exit {}", t.exit_code)
        } else if state.running.is_some() {
            "running".to_owned()
        } else {
            "?".to_owned()
        };
        let ready = if s.ready { " ready" } else { "" };
        format!("{} {state} x{}{ready}", s.name, s.restart_count)
    });
    let list: Vec<_> = containers.collect();
    format!("{}: {}", status.phase.as_deref().unwrap_or("none"), list.join(", "))
}
