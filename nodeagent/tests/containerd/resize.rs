//! Pods that are resized while they run, from kubectl down to the cgroup.

use std::path::Path;
use std::time::Duration;

use kit::testing::eventually;

use crate::agent::{Cluster, pod};

/// What `jsonpath` finds in the pod `p`.
async fn field(cluster: &Cluster, path: &str) -> String {
    cluster.kubectl(&format!("get pod p -o jsonpath={{{path}}}")).await
}

async fn resize(cluster: &Cluster, resources: &str) {
    let patch =
        format!(r#"{{"spec":{{"containers":[{{"name":"main","resources":{resources}}}]}}}}"#);
    cluster.kubectl(&format!("patch pod p --subresource resize -p {patch}")).await;
}

/// Memory limit in bytes and CPU quota in microseconds, of the pod and of its container `main`.
async fn limits(cluster: &Cluster) -> [String; 2] {
    let uid = field(cluster, ".metadata.uid").await;
    let id = field(cluster, r#".status.containerStatuses[?(@.name=="main")].containerID"#).await;
    let id = id.trim_start_matches("containerd://").to_owned();
    let base = &cluster.world.options.cgroup_base;
    let pod = format!("{}/burstable/pod{uid}", base.trim_start_matches('/'));
    [pod.clone(), format!("{pod}/{id}")].map(|group| {
        let root = Path::new("/sys/fs/cgroup");
        let read = |v1: &str, file: &str, v2: &str| {
            let old = std::fs::read_to_string(root.join(v1).join(&group).join(file));
            old.or_else(|_| std::fs::read_to_string(root.join(&group).join(v2))).unwrap()
        };
        let memory = read("memory", "memory.limit_in_bytes", "memory.max");
        let cpu = read("cpu", "cpu.cfs_quota_us", "cpu.max");
        format!("{} {}", memory.trim(), cpu.split_whitespace().next().unwrap())
    })
}

const RESOURCES: &str =
    "    resources: {requests: {cpu: 20m, memory: 20Mi}, limits: {cpu: 100m, memory: 40Mi}}\n";
const MEMORY: &str = "get pod p -o jsonpath={.status.containerStatuses[*].resources.limits.memory}";
const REASON: &str =
    r#"get pod p -o jsonpath={.status.conditions[?(@.type=="PodResizeInProgress")].reason}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_running_container_gets_other_limits() {
    let mut cluster = Cluster::start().await;
    cluster.apply(&pod("p", "exec sleep 1000", RESOURCES)).await;
    cluster.kubectl("wait --for=condition=Ready pod/p --timeout=20s").await;
    assert_eq!(limits(&cluster).await, ["41943040 10000", "41943040 10000"]);
    let id = field(&cluster, ".status.containerStatuses[0].containerID").await;

    resize(&cluster, r#"{"limits":{"cpu":"200m","memory":"60Mi"}}"#).await;
    cluster.until("the container has more", MEMORY, "60Mi").await;
    assert_eq!(limits(&cluster).await, ["62914560 20000", "62914560 20000"]);
    cluster.until("people are told", "get events", "Pod resize completed").await;

    // Less than it uses: nothing changes, and the pod says why.
    resize(
        &cluster,
        r#"{"limits":{"cpu":"200m","memory":"8Ki"},"requests":{"cpu":"20m","memory":"8Ki"}}"#,
    )
    .await;
    cluster.until("the pod complains", REASON, "Error").await;
    let conditions = field(&cluster, ".status.conditions").await;
    assert!(conditions.contains("memory limit (8192) below current usage ("), "{conditions}");
    assert_eq!(cluster.kubectl(MEMORY).await, "60Mi");
    assert_eq!(limits(&cluster).await[1], "62914560 20000");

    // The next agent knows what the container has, not only what it should have.
    cluster.restart_agent().await;
    cluster.until("the pod complains again", REASON, "Error").await;
    assert_eq!(cluster.kubectl(MEMORY).await, "60Mi");
    resize(
        &cluster,
        r#"{"limits":{"cpu":"150m","memory":"50Mi"},"requests":{"cpu":"20m","memory":"8Ki"}}"#,
    )
    .await;
    cluster.until("the container has less", MEMORY, "50Mi").await;
    assert_eq!(limits(&cluster).await, ["52428800 15000", "52428800 15000"]);
    let conditions = field(&cluster, ".status.conditions[*].type").await;
    assert!(!conditions.contains("PodResize"), "{conditions}");
    assert_eq!(field(&cluster, ".status.containerStatuses[0].containerID").await, id);
    assert_eq!(field(&cluster, ".status.containerStatuses[0].restartCount").await, "0");
    cluster.kubectl("delete pod p").await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_may_ask_for_a_restart() {
    let cluster = Cluster::start().await;
    let other = format!(
        "{RESOURCES}    resizePolicy: [{{resourceName: memory, restartPolicy: RestartContainer}}]\n  - name: other\n    image: {}\n    imagePullPolicy: IfNotPresent\n    command: [sleep, '1000']\n{RESOURCES}",
        crate::world::IMAGE
    );
    cluster.apply(&pod("p", "trap 'exit 0' TERM; sleep 1000 & wait", &other)).await;
    cluster.kubectl("wait --for=condition=Ready pod/p --timeout=20s").await;
    resize(&cluster, r#"{"limits":{"cpu":"100m","memory":"60Mi"}}"#).await;
    let restarts = "get pod p -o jsonpath={.status.containerStatuses[*].restartCount}";
    cluster.until("one container is restarted", restarts, "1 0").await;
    cluster.until("it has more", MEMORY, "60Mi 40Mi").await;
    assert_eq!(limits(&cluster).await, ["104857600 20000", "62914560 10000"]);
    // Another restart at once is no crash, so nothing holds it back; and the pod's limits shrink, though the group of
    // the container that has ended is still there.
    resize(&cluster, r#"{"limits":{"cpu":"80m","memory":"30Mi"}}"#).await;
    cluster.until("it is restarted again", restarts, "2 0").await;
    cluster.until("no resize is left", "get events", "resize requires restart").await;
    cluster.kubectl("wait --for=condition=Ready pod/p --timeout=20s").await;
    eventually(Duration::from_secs(10), async || match limits(&cluster).await {
        limits if limits == ["73400320 18000", "31457280 8000"] => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    cluster.kubectl("delete pod p").await;
    cluster.end().await;
}
