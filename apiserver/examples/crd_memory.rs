//! What a CustomResourceDefinition costs in memory: installs many and looks at the resident set.
//!
//!     cargo run --release -p kube-apiserver --example crd_memory -- 200

use std::error::Error;

use apiserver::testing::TestServer;
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let count: usize = std::env::args().nth(1).map_or(Ok(200), |n| n.parse())?;
    let server = TestServer::start().await?;
    // The first ones pay for what all share.
    install(&server, 0..10).await?;
    let before = resident()?;
    install(&server, 10..10 + count).await?;
    let served = resident()?;
    for n in 10..10 + count {
        write(&server, n).await?;
    }
    let written = resident()?;
    let size = definition(0).to_string().len();
    let each = |after: usize| after.saturating_sub(before) / count;
    println!("definition: {size} bytes of JSON");
    println!("served:     {} KiB each", each(served));
    println!("written to: {} KiB each", each(written));
    Ok(())
}

async fn install(server: &TestServer, range: std::ops::Range<usize>) -> Result<(), Box<dyn Error>> {
    for n in range {
        server.install_crds(&definition(n).to_string()).await?;
    }
    Ok(())
}

/// Makes one object, so that the schema is compiled.
async fn write(server: &TestServer, n: usize) -> Result<(), Box<dyn Error>> {
    let object = json!({"apiVersion": format!("g{n}.example.com/v1"), "kind": "Widget",
        "metadata": {"name": "a"}, "spec": {"field0": {"text": "x"}}});
    let request =
        http::Request::post(format!("/apis/g{n}.example.com/v1/namespaces/default/widgets"))
            .header("content-type", "application/json")
            .body(object.to_string().into_bytes())?;
    server.client().request::<Value>(request).await?;
    Ok(())
}

/// A definition of middle size: 40 objects with rules, lists and descriptions that differ from type to type.
fn definition(n: usize) -> Value {
    let field = |at: usize| {
        json!({"type": "object", "description": format!("What field {at} of type {n} is for."), "properties": {
            "text": {"type": "string", "maxLength": 64 + n, "description": "A text."},
            "count": {"type": "integer", "minimum": at, "default": at},
            "list": {"type": "array", "maxItems": 10, "items": {"type": "object", "properties": {
                "name": {"type": "string", "maxLength": 20}, "port": {"type": "integer"}}}}},
            "x-kubernetes-validations": [{"rule": format!("!has(self.text) || self.text != 'no{at}'")}]})
    };
    let fields: serde_json::Map<String, Value> =
        (0..40).map(|at| (format!("field{at}"), field(at))).collect();
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("widgets.g{n}.example.com")},
        "spec": {"group": format!("g{n}.example.com"), "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "properties": fields}}}}}]}})
}

/// Resident memory of this process, in KiB.
fn resident() -> Result<usize, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
}
