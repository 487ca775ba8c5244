//! Lives of pods, from the first sight to the last delete.

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use serde_json::json;

use crate::world::{World, until};

fn c(name: &str) -> serde_json::Value {
    json!({"name": name, "image": "img:1"})
}

#[tokio::test]
async fn the_node_registers_and_renews_its_lease() {
    let world = World::new().await;
    let node = world.node().await;
    let status = node.status.unwrap();
    let ready = status.conditions.unwrap().into_iter().find(|c| c.type_ == "Ready").unwrap();
    assert_eq!(ready.status, "True");
    assert_eq!(status.allocatable.unwrap()["pods"].0, "110");
    assert_eq!(node.metadata.labels.unwrap()["kubernetes.io/hostname"], "node-1");
    let port = status.daemon_endpoints.unwrap().kubelet_endpoint.unwrap().port;
    assert_eq!(port, i32::from(world.agent.as_ref().unwrap().server.unwrap().port()));
    let leases = Api::<Lease>::namespaced(world.client.clone(), "kube-node-lease");
    until("the node has a lease", async || leases.get_opt("node-1").await.unwrap()).await;
}

#[tokio::test]
async fn a_pod_runs_and_is_deleted_without_a_trace() {
    let world = World::new().await;
    let probe = json!({"httpGet": {"port": 80}});
    let mut container = c("a");
    container["readinessProbe"] = probe;
    world
        .create("p", json!({"containers": [container, c("b")], "terminationGracePeriodSeconds": 1}))
        .await;
    let pod = world.expect("p", "Running: a running x0 ready, b running x0 ready").await;
    let status = pod.status.unwrap();
    assert_eq!(status.pod_ip.as_deref().map(|ip| ip.starts_with("10.244.3.")), Some(true));
    assert_eq!(status.host_ip.as_deref(), Some("127.0.0.1"));
    for condition in status.conditions.unwrap() {
        assert_eq!(condition.status, "True", "{condition:?}");
        assert_eq!((&condition.reason, &condition.message), (&None, &None), "{condition:?}");
    }
    world.expect_event("p", "Started", "Container started").await;
    world.delete("p").await;
    world.expect_gone("p").await;
    world.expect_event("p", "Killing", "Stopping container a").await;
    let is_empty = |name: &&str| {
        std::fs::read_dir(world.folder.path().join(name)).map_or(0, Iterator::count) == 0
    };
    let folders = ["logs", "root/pods", "run/pods"];
    until("no file is left", async || folders.iter().all(is_empty).then_some(())).await;
}

#[tokio::test]
async fn init_containers_run_first() {
    let world = World::new().await;
    let spec = json!({"initContainers": [c("i"), c("j")], "containers": [c("a")]});
    let notes = json!({"hollow.improv.dev/exit.i": "0@0.05", "hollow.improv.dev/exit.j": "0@0.05"});
    world.create_with("p", spec, notes).await;
    world.expect("p", "Running: i exit 0 x0 ready, j exit 0 x0 ready, a running x0 ready").await;
}

#[tokio::test]
async fn a_port_of_the_node_is_one_pods() {
    let world = World::new().await;
    let mut container = c("a");
    container["ports"] = json!([{"containerPort": 80, "hostPort": 8080}]);
    let spec = json!({"containers": [container]});
    world.create("first", spec.clone()).await;
    world.expect("first", "Running: a running x0 ready").await;
    world.create("second", spec.clone()).await;
    let status = world.expect("second", "Failed: a ContainerCreating x0").await.status.unwrap();
    assert_eq!(status.reason.as_deref(), Some("NodePorts"));
    world.delete("first").await;
    world.expect_gone("first").await;
    world.create("third", spec).await;
    world.expect("third", "Running: a running x0 ready").await;
}

#[tokio::test]
async fn a_crashing_container_backs_off() {
    let world = World::new().await;
    let notes = json!({"hollow.improv.dev/exit.a": "3@0.05"});
    world.create_with("p", json!({"containers": [c("a")]}), notes).await;
    let pod = world.expect("p", "Running: a CrashLoopBackOff x1").await;
    let status = pod.status.unwrap().container_statuses.unwrap().remove(0);
    assert_eq!(status.last_state.unwrap().terminated.unwrap().exit_code, 3);
    let uid = pod.metadata.uid.unwrap();
    let message = format!("Back-off restarting failed container a in pod p_default({uid})");
    world.expect_event("p", "BackOff", &message).await;
}

#[tokio::test]
async fn jobs_end() {
    let world = World::new().await;
    let spec = json!({"restartPolicy": "Never", "containers": [c("a"), c("b")]});
    let good = json!({"hollow.improv.dev/exit.a": "0@0.05", "hollow.improv.dev/exit.b": "0"});
    world.create_with("good", spec.clone(), good).await;
    let bad = json!({"hollow.improv.dev/exit.a": "0@0.05", "hollow.improv.dev/exit.b": "2"});
    world.create_with("bad", spec, bad).await;
    world.expect("good", "Succeeded: a exit 0 x0, b exit 0 x0").await;
    world.expect("bad", "Failed: a exit 0 x0, b exit 2 x0").await;
    world.delete("good").await;
    world.expect_gone("good").await;
}

#[tokio::test]
async fn what_is_missing_is_waited_for() {
    let world = World::new().await;
    let mut image = c("a");
    image["image"] = json!("localhost/missing/x:1");
    world.create("image", json!({"containers": [image]})).await;
    let mut env = c("a");
    env["envFrom"] = json!([{"configMapRef": {"name": "later"}}]);
    world.create("env", json!({"containers": [env]})).await;
    let mut volume = c("a");
    volume["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let volumes = json!([{"name": "v", "configMap": {"name": "later"}}]);
    world.create("volume", json!({"containers": [volume], "volumes": volumes})).await;
    let mut command = c("a");
    command["command"] = json!(["/no/such/program"]);
    world.create("command", json!({"containers": [command]})).await;
    world.expect("image", "Pending: a ImagePullBackOff x0").await;
    world.expect("env", "Pending: a CreateContainerConfigError x0").await;
    world.expect("volume", "Pending: a ContainerCreating x0").await;
    world.expect("command", "Pending: a CreateContainerError x0").await;
    let message = "MountVolume.SetUp failed for volume \"v\" : configmap \"later\" not found";
    world.expect_event("volume", "FailedMount", message).await;
    world.expect_event("env", "Failed", "Error: configmap \"later\" not found").await;
    world.expect_event("image", "Failed", "Error: ImagePullBackOff").await;
    world.config_map("later", json!({"k": "1"})).await;
    world.expect("env", "Running: a running x0 ready").await;
    world.expect("volume", "Running: a running x0 ready").await;
}

#[tokio::test]
async fn volumes_follow_their_config_map() {
    let world = World::new().await;
    world.config_map("m", json!({"k": "1"})).await;
    let mut container = c("a");
    container["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let volumes = json!([{"name": "v", "configMap": {"name": "m"}}]);
    let pod = world.create("p", json!({"containers": [container], "volumes": volumes})).await;
    world.expect("p", "Running: a running x0 ready").await;
    let uid = pod.metadata.uid.unwrap();
    let file = world.folder.path().join(format!("root/pods/{uid}/volumes/v/k"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "1");
    world.config_map("m", json!({"k": "2"})).await;
    let is_new = || std::fs::read_to_string(&file).unwrap() == "2";
    until("the file has the new text", async || is_new().then_some(())).await;
}

#[tokio::test]
async fn a_token_of_the_account_is_projected() {
    let world = World::new().await;
    let mut container = c("a");
    container["volumeMounts"] = json!([{"name": "t", "mountPath": "/t"}]);
    let token = json!({"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}});
    let volumes = json!([{"name": "t", "projected": {"sources": [token]}}]);
    let pod = world.create("p", json!({"containers": [container], "volumes": volumes})).await;
    world.expect("p", "Running: a running x0 ready").await;
    let uid = pod.metadata.uid.unwrap();
    let file = world.folder.path().join(format!("run/pods/{uid}/volumes/t/token"));
    let text = std::fs::read_to_string(file).unwrap();
    assert_eq!(text.split('.').count(), 3, "not a JWT: {text}");
}

#[tokio::test]
async fn probes_end_and_hooks_hold() {
    let world = World::new().await;
    let mut container = c("a");
    container["livenessProbe"] =
        json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1});
    container["lifecycle"] = json!({"postStart": {"exec": {"command": ["true"]}}});
    world.create("p", json!({"containers": [container], "terminationGracePeriodSeconds": 1})).await;
    world.expect("p", "Running: a running x1 ready").await;
    world
        .expect_event("p", "Killing", "Container a failed liveness probe, will be restarted")
        .await;
}

/// How long it takes from the create of the pods until all are ready. Prints a figure; fails only if it is absurd.
#[tokio::test]
async fn many_pods_come_up_together() {
    let world = World::new().await;
    world.node().await;
    let mut container = c("a");
    container["readinessProbe"] = json!({"httpGet": {"port": 80}});
    let begin = std::time::Instant::now();
    for n in 0..50 {
        world.create(&format!("p{n}"), json!({"containers": [container.clone()]})).await;
    }
    for n in 0..50 {
        world.expect(&format!("p{n}"), "Running: a running x0 ready").await;
    }
    println!("50 pods ready after {:?}", begin.elapsed());
}

#[tokio::test]
async fn a_resize_waits_for_room() {
    let world = World::new().await;
    let node = world.node().await;
    let cpus: u64 = node.status.unwrap().allocatable.unwrap()["cpu"].0.parse().unwrap();
    let sized = |name: &str, millis: u64| {
        let list = json!({"cpu": format!("{millis}m")});
        json!({"name": name, "image": "img:1", "resources": {"requests": list}})
    };
    world.create("big", json!({"containers": [sized("a", cpus * 1000 - 500)]})).await;
    world.create("small", json!({"containers": [sized("a", 300)]})).await;
    world.expect("big", "Running: a running x0 ready").await;
    world.expect("small", "Running: a running x0 ready").await;
    let patch = json!({"spec": {"containers": [sized("a", 600)]}});
    let patch = kube::api::Patch::Strategic(patch);
    let params = kube::api::PatchParams::default();
    world.pods().patch_subresource("resize", "small", &params, &patch).await.unwrap();
    let deferred = world.expect_condition("small", "PodResizePending").await.unwrap();
    assert_eq!(deferred.reason.as_deref(), Some("Deferred"));
    let (used, capacity) = (cpus * 1000 - 500, cpus * 1000);
    let message = format!(
        "Node didn't have enough resource: cpu, requested: 600, used: {used}, capacity: {capacity}"
    );
    assert_eq!((deferred.message, deferred.observed_generation), (Some(message), Some(2)));
    let own = |pod: k8s_openapi::api::core::v1::Pod| {
        let status = pod.status.unwrap().container_statuses.unwrap().remove(0);
        let allocated = status.allocated_resources.unwrap()["cpu"].0.clone();
        (status.resources.unwrap().requests.unwrap()["cpu"].0.clone(), allocated)
    };
    let pair = |cpu: &str| (cpu.to_owned(), cpu.to_owned());
    assert_eq!(own(world.pods().get("small").await.unwrap()), pair("300m"));
    world.delete("big").await;
    world.expect_gone("big").await;
    world.expect_no_condition("small", "PodResizePending").await;
    world.expect_no_condition("small", "PodResizeInProgress").await;
    assert_eq!(own(world.pods().get("small").await.unwrap()), pair("600m"));
}
