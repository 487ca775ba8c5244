//! Clients as their makers publish them work: kubectl of two minors, Helm, and the Python and JavaScript libraries.
//!
//! Needs what `hack/tools` and `hack/clients` install.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use improv_tests::{Cluster, eventually, repository, run};

const SOON: Duration = Duration::from_secs(20);
/// Those that clients need; none touches the machine's network, so that the tests may run side by side.
const PLAYERS: &str = "--players=namespace,service-account,scheduler,replicaset,deployment,endpointslice,garbage-collector,node-lifecycle";

fn cluster() -> Cluster {
    Cluster::start(&[PLAYERS, "--runtime=hollow"])
}

fn file(name: &str) -> PathBuf {
    repository().join("tests/clients").join(name)
}

/// One kubectl, in a namespace of its own.
struct Kubectl<'a> {
    cluster: &'a Cluster,
    program: &'static str,
}

impl Kubectl<'_> {
    fn command(&self, arguments: &str) -> Command {
        let mut kubectl = self.cluster.tool(self.program);
        kubectl.args(["-n", "shop"]).args(arguments.split(' ')).current_dir(file(""));
        kubectl
    }

    /// What the command prints, which must contain all of `wanted`.
    fn says(&self, arguments: &str, wanted: &[&str]) -> String {
        let printed = run(&mut self.command(arguments));
        for text in wanted {
            assert!(printed.contains(text), "{arguments}: no {text:?} in\n{printed}");
        }
        printed
    }

    /// What the command prints soon contains all of `wanted`.
    fn comes_to_say(&self, arguments: &str, wanted: &[&str]) {
        eventually(arguments, SOON, || {
            let printed = self.command(arguments).output().unwrap().stdout;
            let printed = String::from_utf8(printed).unwrap();
            let missing = wanted.iter().find(|text| !printed.contains(**text));
            missing.map_or(Ok(()), |text| Err(format!("no {text:?} in\n{printed}")))
        });
    }

    /// The command ends with `code`, and what it says and prints contains `wanted`.
    fn fails(&self, arguments: &str, code: i32, wanted: &str) {
        let output = self.command(arguments).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {said}");
        assert!(said.contains(wanted), "{arguments}: no {wanted:?} in\n{said}");
    }

    /// The value at a JSON path of an object.
    fn is(&self, object: &str, path: &str, value: &str) {
        let found = self.says(&format!("get {object} -o jsonpath={{{path}}}"), &[]);
        assert_eq!(found, value, "{path} of {object}");
    }

    /// A copy of web.yaml in which `from` has become `to`.
    fn changed(&self, from: &str, to: &str) -> String {
        let text = std::fs::read_to_string(file("web.yaml")).unwrap();
        assert!(text.contains(from));
        let changed = self.cluster.data_dir().join("web.yaml");
        std::fs::write(&changed, text.replace(from, to)).unwrap();
        changed.display().to_string()
    }
}

fn kubectl_works(program: &'static str, version: &str) {
    let cluster = cluster();
    let kubectl = Kubectl { cluster: &cluster, program };
    kubectl.says("version", &[&format!("Client Version: v{version}."), "Server Version: v1.36."]);
    kubectl.says("create namespace shop", &["namespace/shop created"]);
    kubectl.says("apply -f crontabs.yaml", &["crontabs.clients.improv.dev created"]);
    kubectl.says("wait --for=condition=Established crd/crontabs.clients.improv.dev", &["met"]);
    discovers(&kubectl);
    applies(&kubectl);
    shows(&kubectl);
    changes(&kubectl);
    makes_more(&kubectl);
    manages_nodes(&kubectl);
    asks_for_rights(&kubectl);
    deletes(&kubectl);
}

fn discovers(kubectl: &Kubectl<'_>) {
    kubectl.says("explain pods.spec.containers.image", &["image <string>"]);
    let old = "explain pods.spec.containers.image --output plaintext-openapiv2";
    kubectl.says(old, &["image <string>"]);
    kubectl.says("explain deployment --recursive", &["matchLabels", "progressDeadlineSeconds"]);
    let fields =
        ["A table of what runs when.", "schedule\t<string> -required-", "command\t<string>"];
    kubectl.comes_to_say("explain crontabs --recursive", &fields);
    kubectl.says("explain ct.spec.schedule", &["When it runs."]);
    kubectl.says("api-versions", &["apps/v1", "clients.improv.dev/v1", "\nv1\n"]);
    kubectl.says("api-resources --api-group=clients.improv.dev", &["crontabs", "ct", "CronTab"]);
    kubectl.says("api-resources -o wide --api-group=apps", &["deploy", "patch", "all"]);
}

fn applies(kubectl: &Kubectl<'_>) {
    kubectl.fails("diff -f web.yaml", 1, "+  name: web");
    kubectl.says("apply -f web.yaml", &["web created"]);
    kubectl.says("apply -f web.yaml", &["web unchanged"]);
    kubectl.says("wait --for=condition=Available deployment/web --timeout=20s", &["condition met"]);
    kubectl.says("diff -f web.yaml", &[]);

    let two = kubectl.changed("replicas: 1", "replicas: 2");
    kubectl.fails(&format!("diff -f {two}"), 1, "+  replicas: 2");
    let apply = format!("apply --server-side --field-manager=other -f {two}");
    kubectl.fails(&apply, 1, "conflict with \"kubectl-client-side-apply\"");
    kubectl.says(&format!("{apply} --force-conflicts"), &["web serverside-applied"]);
    kubectl.is("deploy/web", ".spec.replicas", "2");
    kubectl.says("rollout status deploy/web --timeout=20s", &["successfully rolled out"]);
    kubectl.says(&format!("diff --server-side --field-manager=other -f {two}"), &[]);
}

fn shows(kubectl: &Kubectl<'_>) {
    kubectl
        .says("get deploy -o wide", &["CONTAINERS", "IMAGES", "improv.dev/hello:0.1.0", "app=web"]);
    kubectl.says("get pods -o wide", &["NOMINATED NODE", "Running", "10.245."]);
    kubectl.says("get deploy web -o yaml", &["kind: Deployment\n", "  replicas: 2\n"]);
    kubectl.says("get deploy web -o yaml --show-managed-fields", &["manager: other\n"]);
    let columns =
        "custom-columns=NAME:.metadata.name,IMAGE:.spec.template.spec.containers[*].image";
    kubectl.says(&format!("get deploy -o {columns}"), &["NAME", "IMAGE", "web", "hello:0.1.0"]);
    kubectl
        .says("get pods -l app=web --field-selector=status.phase=Running -o name", &["pod/web-"]);
    kubectl.says("get all", &["deployment.apps/web", "replicaset.apps/web-", "pod/web-"]);
    // Events are written on the side.
    kubectl.comes_to_say("describe deploy web", &["2 desired", "ScalingReplicaSet"]);
}

fn changes(kubectl: &Kubectl<'_>) {
    let next = kubectl.changed("hello:0.1.0", "hello:0.2.0");
    kubectl.says(&format!("replace -f {next}"), &["web replaced"]);
    kubectl.says("rollout status deploy/web --timeout=20s", &["successfully rolled out"]);
    kubectl.says("rollout undo deploy/web", &["rolled back"]);
    kubectl.is("deploy/web", ".spec.template.spec.containers[0].image", "improv.dev/hello:0.1.0");

    let mut edit = kubectl.command("edit deploy web");
    run(edit.env("KUBE_EDITOR", "sed -i 's/^  replicas: 1/  replicas: 3/'"));
    kubectl.is("deploy/web", ".spec.replicas", "3");

    kubectl.says("label deploy web tier=front", &["labeled"]);
    kubectl.fails("label deploy web tier=back", 1, "--overwrite is false");
    kubectl.says("annotate deploy web note=yes", &["annotated"]);
    kubectl.is("deploy/web", ".metadata.annotations.note", "yes");
    for (kind, patch, replicas) in [
        (
            "strategic",
            r#"{"spec":{"replicas":2,"template":{"spec":{"containers":[{"name":"main","env":[{"name":"A","value":"1"}]}]}}}}"#,
            "2",
        ),
        ("merge", r#"{"spec":{"replicas":3}}"#, "3"),
        ("json", r#"[{"op":"replace","path":"/spec/replicas","value":1}]"#, "1"),
    ] {
        kubectl.says(&format!("patch deploy web --type={kind} -p {patch}"), &["web patched"]);
        kubectl.is("deploy/web", ".spec.replicas", replicas);
    }
    // The strategic patch found the container by its name.
    kubectl.is("deploy/web", ".spec.template.spec.containers[*].image", "improv.dev/hello:0.1.0");
    kubectl.is("deploy/web", ".spec.template.spec.containers[0].env[0].value", "1");
    kubectl.says("scale deploy web --replicas=2", &["web scaled"]);
    kubectl.says("set image deploy/web main=improv.dev/hello:0.3.0", &["image updated"]);
}

fn makes_more(kubectl: &Kubectl<'_>) {
    kubectl.says("create configmap settings --from-literal=a=1", &["settings created"]);
    kubectl.fails("create configmap settings", 1, "already exists");
    kubectl.says("create secret generic key --from-literal=k=v", &["key created"]);
    kubectl.is("secret/key", ".data.k", "dg==");
    kubectl.says("expose deploy web --port=80 --target-port=8080", &["web exposed"]);
    kubectl.is("service/web", ".spec.ports[0].targetPort", "8080");
    kubectl.says("autoscale deploy web --min=1 --max=3", &["web autoscaled"]);
    kubectl.is("hpa/web", ".spec.maxReplicas", "3");
    let line = kubectl.says("create configmap dry --dry-run=server -o name", &[]);
    assert_eq!(line, "configmap/dry\n");
    kubectl.fails("get configmap dry", 1, "NotFound");
}

fn manages_nodes(kubectl: &Kubectl<'_>) {
    let node = kubectl.says("get nodes -o name", &["node/"]);
    let node = node.trim();
    kubectl.says(&format!("cordon {node}"), &["cordoned"]);
    kubectl.is(node, ".spec.unschedulable", "true");
    kubectl.says(&format!("uncordon {node}"), &["uncordoned"]);
    let taint = format!("taint {}", node.replace('/', " "));
    kubectl.says(&format!("{taint} night=yes:NoSchedule"), &["tainted"]);
    kubectl.is(node, ".spec.taints[?(@.key==\"night\")].effect", "NoSchedule");
    kubectl.says(&format!("{taint} night:NoSchedule-"), &["untainted"]);
}

fn asks_for_rights(kubectl: &Kubectl<'_>) {
    kubectl.says("auth can-i create pods", &["yes"]);
    kubectl.fails("auth can-i create pods --as=nobody", 1, "no");
    kubectl.says("auth can-i --list --as=nobody", &["selfsubjectreviews.authentication.k8s.io"]);
    kubectl.says("auth whoami", &["kubernetes-admin", "system:masters"]);
    kubectl.says("create token default", &["."]);
}

fn deletes(kubectl: &Kubectl<'_>) {
    kubectl.says("delete deploy web --wait=false", &["deleted"]);
    kubectl.says("wait --for=delete pods -l app=web --timeout=20s", &[]);
    kubectl.says("delete -f crontabs.yaml --timeout=20s", &["deleted"]);
    kubectl.says("delete namespace shop --timeout=20s", &["deleted"]);
    kubectl.fails("get configmap settings", 1, "NotFound");
}

#[test]
fn kubectl_1_36_works() {
    kubectl_works("kubectl", "1.36");
}

#[test]
fn kubectl_1_32_works() {
    kubectl_works("kubectl-1.32", "1.32");
}

#[test]
fn helm_works() {
    let cluster = cluster();
    let chart = file("chart").display().to_string();
    let helm = |arguments: &str| {
        let mut helm = cluster.tool("helm");
        helm.args(["-n", "shop"]).args(arguments.split(' '));
        helm
    };
    let replicas = || cluster.kubectl("get deploy web -n shop -o jsonpath={.spec.replicas}");
    assert!(run(&mut helm("version --short")).starts_with("v4."));
    run(&mut helm(&format!("install web {chart} --create-namespace --wait --timeout 20s")));
    assert_eq!(replicas(), "1");
    run(&mut helm("test web --timeout 20s"));
    let upgrade = format!("upgrade web {chart} --set replicas=2,code=3 --wait --timeout 20s");
    run(&mut helm(&upgrade));
    assert_eq!(replicas(), "2");
    // A test that fails tells that the first one has looked at the pod.
    assert!(!helm("test web --timeout 20s").output().unwrap().status.success());
    run(&mut helm("rollback web 1 --wait --timeout 20s"));
    assert_eq!(replicas(), "1");
    let history = run(&mut helm("history web"));
    assert!(history.contains("Rollback to 1"), "{history}");
    assert!(run(&mut helm("list")).contains("clients-0.1.0"));
    run(&mut helm("uninstall web --wait --timeout 20s"));
    let left = cluster.try_kubectl("get deploy web -n shop");
    assert!(left.as_ref().is_err_and(|said| said.contains("NotFound")), "{left:?}");
}

/// Runs the script of a library against a cluster with a namespace and a custom type.
fn script_works(program: &str, script: &str, arguments: &[&str]) {
    let installed = repository().join("target/clients").canonicalize();
    let installed = installed.expect("target/clients is missing: run hack/clients");
    let cluster = cluster();
    cluster.kubectl("create namespace shop");
    cluster.apply(&std::fs::read_to_string(file("crontabs.yaml")).unwrap());
    cluster.kubectl("wait --for=condition=Established crd/crontabs.clients.improv.dev");
    let mut command = Command::new(installed.join(program));
    command.arg(file(script)).arg("shop").args(arguments).current_dir(&installed);
    run(command.env("KUBECONFIG", cluster.kubeconfig()));
}

#[test]
fn the_python_client_works() {
    script_works("python/bin/python", "client.py", &[]);
}

#[test]
fn the_javascript_client_works() {
    // A path that is absolute stays as it is: Node.js is the machine's own.
    let node = run(Command::new("sh").args(["-c", "command -v node"]));
    script_works(node.trim(), "client.mjs", &["javascript"]);
}
