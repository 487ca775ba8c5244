//! The example reconcilers, installed by their charts as pods, do what their READMEs say.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::process::Command;
use std::time::Duration;

use improv_tests::{Cluster, eventually, program, repository, run};

const SOON: Duration = Duration::from_secs(60);

fn install(cluster: &Cluster, name: &str, folder: &str) {
    cluster.import_image(name, &format!("improv.dev/{name}:0.1.0"));
    let chart = repository().join("examples/reconcilers").join(folder).join("chart");
    run(cluster.tool("helm").args(["install", name]).arg(chart));
}

/// busybox as a web server, under the name that a Website's image has by default.
fn import_web_server(cluster: &Cluster) {
    let archive = cluster.data_dir().join("nginx.tar");
    let mut build = Command::new(program("improv"));
    build.args(["image", "build", "--name", "docker.io/library/nginx:1-alpine", "--user", "0"]);
    build.args(["--binary", "/bin/busybox", "--output"]).arg(&archive);
    run(build.args(["--", "httpd", "-f", "-p", "80", "-h", "/usr/share/nginx/html"]));
    run(cluster.improv("image import").arg(&archive));
}

#[test]
fn examples_run_as_pods_with_the_rights_of_their_charts() {
    let cluster = Cluster::start(&[]);
    install(&cluster, "hello-reconciler", "01-hello");
    install(&cluster, "website-operator", "02-website");
    import_web_server(&cluster);

    cluster.kubectl("create configmap friend");
    cluster.kubectl("label configmap friend hello.examples.improv.dev/name=Ada");
    eventually("the greeting", SOON, || {
        match cluster.try_kubectl("get configmap friend -o jsonpath={.data.greeting}")? {
            greeting if greeting == "Hello, Ada!" => Ok(()),
            other => Err(other),
        }
    });

    cluster.apply(
        "apiVersion: examples.improv.dev/v1\nkind: Website\nmetadata: {name: blog}\n\
         spec: {html: <h1>Hello</h1>, replicas: 2}\n",
    );
    cluster.kubectl("wait website/blog --for=condition=Ready --timeout=60s");
    let address = cluster.kubectl("get service blog -o jsonpath={.spec.clusterIP}");
    let page = eventually("the page", SOON, || fetch(&address));
    assert!(page.ends_with("<h1>Hello</h1>"), "{page}");
    cluster.kubectl("scale website/blog --replicas=1");
    cluster.kubectl("delete website/blog --timeout=60s");
    eventually("the parts are gone", SOON, || {
        match cluster.try_kubectl("get deployments,services,configmaps -o name")? {
            left if left.contains("/blog") => Err(left),
            _ => Ok(()),
        }
    });
}

fn fetch(address: &str) -> Result<String, String> {
    use std::io::{Read, Write};
    let ask = || {
        let mut stream = std::net::TcpStream::connect((address, 80))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    ask().map_err(|error: std::io::Error| error.to_string())
}
