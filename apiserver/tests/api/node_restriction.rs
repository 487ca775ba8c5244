//! The admission plugin NodeRestriction, as the agent of a node meets it, behind the authorizer.

use apiserver::admission::Options;
use apiserver::testing::TestServer;
use http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const TOKEN: &str = "/api/v1/namespaces/default/serviceaccounts/default/token";

async fn send(client: &Client, method: Method, path: &str, body: &Value) -> Result<Value, String> {
    let patch = method == Method::PATCH;
    let format = if patch { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder().method(method).uri(path).header("content-type", format);
    match client.request(request.body(body.to_string().into_bytes()).unwrap()).await {
        Ok(answer) => Ok(answer),
        Err(kube::Error::Api(status)) => Err(format!("{} {}", status.code, status.message)),
        Err(error) => panic!("{path}: {error}"),
    }
}

async fn post(client: &Client, path: &str, body: Value) -> Result<Value, String> {
    send(client, Method::POST, path, &body).await
}

async fn patch(client: &Client, path: &str, body: Value) -> Result<Value, String> {
    send(client, Method::PATCH, path, &body).await
}

#[track_caller]
fn refused(answer: Result<Value, String>, words: &str) {
    let why = answer.unwrap_err();
    assert!(why.starts_with("403 ") && why.contains(words), "{why}");
}

fn node(name: &str, labels: Value) -> Value {
    json!({"metadata": {"name": name, "labels": labels}})
}

/// A pod on a node, which shows its containers a token for `vault`.
fn pod(name: &str, node: &str) -> Value {
    let token = json!({"serviceAccountToken": {"path": "token", "audience": "vault"}});
    json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": [{"name": "a", "image": "x"}],
        "volumes": [{"name": "v", "projected": {"sources": [token]}}]}})
}

/// A server with two nodes and a pod on each; with clients of the administrator and of the first node's agent.
async fn start(plugins: &[&str]) -> (TestServer, Client, Client) {
    let enable = plugins.iter().map(|name| (*name).to_owned()).collect();
    let options = Options { enable, ..Options::default() };
    let server = TestServer::builder().with_admission(options).start().await.unwrap();
    let (admin, agent) = (server.client(), server.client_as("system:node:n1", &["system:nodes"]));
    let account = json!({"metadata": {"name": "default"}, "automountServiceAccountToken": false});
    post(&admin, "/api/v1/namespaces/default/serviceaccounts", account).await.unwrap();
    post(&agent, "/api/v1/nodes", node("n1", json!({"kubernetes.io/os": "linux"}))).await.unwrap();
    post(&admin, "/api/v1/nodes", node("n2", json!({}))).await.unwrap();
    post(&admin, PODS, pod("own", "n1")).await.unwrap();
    post(&admin, PODS, pod("other", "n2")).await.unwrap();
    (server, admin, agent)
}

#[tokio::test]
async fn an_agent_does_not_steer_pods_to_its_node() {
    let (_server, admin, agent) = start(&["NodeRestriction"]).await;
    let own = "/api/v1/nodes/n1";
    let label = "node-restriction.kubernetes.io/trusted";
    let labels = json!({"metadata": {"labels": {label: "yes"}}});
    let words = format!("nodes \"n1\" is forbidden: is not allowed to modify labels: {label}");
    refused(patch(&agent, own, labels.clone()).await, &words);
    refused(patch(&agent, "/api/v1/nodes/n1/status", labels.clone()).await, &words);
    patch(&admin, own, labels).await.unwrap();
    refused(patch(&agent, own, json!({"metadata": {"labels": {label: null}}})).await, &words);
    let taints = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
    refused(patch(&agent, own, taints).await, "node \"n1\" is not allowed to modify taints");
    patch(&agent, own, json!({"metadata": {"labels": {"pool": "a"}}})).await.unwrap();
    let condition = json!({"type": "Ready", "status": "True"});
    let status = json!({"status": {"conditions": [condition]}});
    patch(&agent, "/api/v1/nodes/n1/status", status).await.unwrap();
    let third = post(&agent, "/api/v1/nodes", node("n3", json!({}))).await;
    refused(third, "node \"n1\" is not allowed to modify node \"n3\"");
    let lease = |name: &str| json!({"metadata": {"name": name}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    post(&agent, leases, lease("n1")).await.unwrap();
    refused(
        post(&agent, leases, lease("n2")).await,
        "can only access node lease with the same name",
    );
}

#[tokio::test]
async fn an_agent_handles_the_pods_of_its_node_only() {
    let (_server, admin, agent) = start(&["NodeRestriction"]).await;
    let uid = send(&admin, Method::GET, "/api/v1/nodes/n1", &Value::Null).await.unwrap();
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "controller": true,
        "uid": uid["metadata"]["uid"]});
    let mut mirror = json!({
        "metadata": {"name": "mirror", "ownerReferences": [owner],
            "annotations": {"kubernetes.io/config.mirror": "a", "kubernetes.io/config.hash": "a"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "a", "image": "x"}]},
    });
    post(&agent, PODS, mirror.clone()).await.unwrap();
    mirror["metadata"]["ownerReferences"][0]["uid"] = "u".into();
    refused(post(&agent, PODS, mirror).await, "node n1 UID mismatch: expected u got");
    refused(post(&agent, PODS, pod("new", "n1")).await, "node \"n1\" can only create mirror pods");

    let report = json!({"status": {"phase": "Running"}});
    let path = |name: &str, part: &str| format!("{PODS}/{name}{part}");
    patch(&agent, &path("own", "/status"), report.clone()).await.unwrap();
    refused(patch(&agent, &path("other", "/status"), report).await, "can only update pod status");
    let labels = json!({"metadata": {"labels": {"app": "web"}}});
    let words = "node \"n1\" cannot update labels through pod status";
    refused(patch(&agent, &path("own", "/status"), labels).await, words);
    let eviction = |name: &str| json!({"metadata": {"name": name}});
    refused(
        post(&agent, &path("other", "/eviction"), eviction("other")).await,
        "can only evict pods",
    );
    let absent = post(&agent, &path("absent", "/eviction"), eviction("absent")).await;
    assert!(absent.unwrap_err().starts_with("404 "));
    let delete = async |name: &str| send(&agent, Method::DELETE, &path(name, ""), &json!({})).await;
    refused(delete("other").await, "can only delete pods with spec.nodeName set to itself");
    delete("own").await.unwrap();
}

#[tokio::test]
async fn an_agent_gets_tokens_for_what_runs_on_its_node() {
    let (_server, admin, agent) = start(&["NodeRestriction"]).await;
    let ask = async |pod: &str, audience: &str| {
        let found =
            send(&admin, Method::GET, &format!("{PODS}/{pod}"), &Value::Null).await.unwrap();
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": found["metadata"]["uid"]});
        let spec = json!({"audiences": [audience], "boundObjectRef": bound});
        post(&agent, TOKEN, json!({"spec": spec})).await
    };
    assert!(ask("own", "vault").await.unwrap()["status"]["token"].is_string());
    refused(ask("other", "vault").await, "bound to a pod scheduled on a different node");
    refused(ask("own", "bank").await, "audience \"bank\" not found in pod spec volume");
    let unbound = post(&agent, TOKEN, json!({"spec": {"audiences": ["vault"]}})).await;
    refused(unbound, "node requested token not bound to a pod");
    // An administrator may let nodes ask for more.
    let rule = json!({"verbs": ["request-serviceaccounts-token-audience"], "apiGroups": [""], "resources": ["bank"]});
    let role = json!({"metadata": {"name": "bank"}, "rules": [rule]});
    let group = "rbac.authorization.k8s.io";
    post(&admin, &format!("/apis/{group}/v1/clusterroles"), role).await.unwrap();
    let binding = json!({"metadata": {"name": "bank"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "bank"},
        "subjects": [{"apiGroup": group, "kind": "Group", "name": "system:nodes"}]});
    post(&admin, &format!("/apis/{group}/v1/clusterrolebindings"), binding).await.unwrap();
    ask("own", "bank").await.unwrap();
}

#[tokio::test]
async fn nobody_else_is_restricted_nor_anybody_without_the_plugin() {
    let labels = json!({"metadata": {"labels": {"node-restriction.kubernetes.io/a": "b"}}});
    let (server, admin, _) = start(&["NodeRestriction"]).await;
    patch(&admin, "/api/v1/nodes/n1", labels.clone()).await.unwrap();
    // Whoever has only the name is no agent.
    let named = server.client_as("system:node:n1", &["system:masters"]);
    patch(&named, "/api/v1/nodes/n2", labels.clone()).await.unwrap();
    let nameless = server.client_as("system:node:", &["system:nodes", "system:masters"]);
    let words = "could not determine node from user \"system:node:\"";
    refused(patch(&nameless, "/api/v1/nodes/n2", labels.clone()).await, words);
    let (_server, _, agent) = start(&[]).await;
    patch(&agent, "/api/v1/nodes/n1", labels).await.unwrap();
}
