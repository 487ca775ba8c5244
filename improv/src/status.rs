//! `improv status`: what runs, and whether it is ready. Of a cluster, all of it; of a node that joined one elsewhere,
//! the node.

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kit::component::Component;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, ResourceExt};
use nix::unistd::Pid;
use nodeagent::certificates::plan::Validity;
use nodeagent::certificates::{Pair, connect};

use crate::arguments::Which;
use crate::join::identity::Identity;
use crate::layout::Layout;
use crate::process;

/// One line of the status.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    what: String,
    ready: bool,
    note: String,
}

/// Prints a line for each part of the cluster.
///
/// # Errors
/// If there is no cluster, or a part of it is not ready.
pub(crate) async fn status(which: &Which) -> anyhow::Result<()> {
    let layout = Layout::new(&which.data_dir);
    let Some(pid) = process::running(&layout) else {
        bail!(
            "no cluster or node runs from {}; start one with `improv up` or `improv node join`",
            layout.data.display()
        );
    };
    let lines = match Identity::kept(&layout).await? {
        Some(joined) => of_node(&joined, pid).await,
        None => of_cluster(&client(&layout).await?, pid).await?,
    };
    print!("{}", render(&lines));
    match lines.iter().find(|line| !line.ready) {
        None => Ok(()),
        Some(line) => bail!("{} is not ready", line.what),
    }
}

async fn of_cluster(client: &Client, pid: Pid) -> anyhow::Result<Vec<Line>> {
    let mut lines = vec![api_server(client).await];
    lines[0].note = format!("process {pid}");
    lines.extend(nodes(client).await?);
    lines.extend(components(client).await?);
    Ok(lines)
}

/// What a node can tell: about itself, and whether its cluster answers it.
async fn of_node(joined: &Identity, pid: Pid) -> Vec<Line> {
    let agent = Line { what: "node agent".into(), ready: true, note: format!("process {pid}") };
    let certificate = certificate(&joined.pair, Timestamp::now());
    let mut lines = vec![agent, certificate];
    match connect(&joined.cluster, &joined.pair) {
        Ok(client) => {
            let mut server = api_server(&client).await;
            server.note = format!("{} {}", joined.cluster.cluster_url, server.note);
            lines.push(server);
            lines.push(own_node(&client, &joined.name).await);
        }
        Err(error) => {
            lines.push(Line { what: "API server".into(), ready: false, note: kit::chain(&error) })
        }
    }
    lines
}

fn certificate(pair: &Pair, now: Timestamp) -> Line {
    let validity = Validity::read(&pair.certificate);
    Line {
        what: "certificate".into(),
        ready: validity.is_some_and(|validity| validity.includes(now)),
        note: validity.map(|v| format!("valid until {}", v.until)).unwrap_or_default(),
    }
}

async fn own_node(client: &Client, name: &str) -> Line {
    let missing = |note: String| Line { what: format!("node {name}"), ready: false, note };
    match Api::<Node>::all(client.clone()).get_opt(name).await {
        Ok(Some(found)) => node(&found),
        Ok(None) => missing("the cluster has no such node".to_owned()),
        Err(error) => missing(kit::chain(&error)),
    }
}

/// A client with the administrator's kubeconfig of `layout`.
///
/// # Errors
/// If the file is missing or wrong.
pub(crate) async fn client(layout: &Layout) -> anyhow::Result<Client> {
    client_of(&layout.kubeconfig()).await
}

/// A client with the kubeconfig at `path`.
///
/// # Errors
/// If the file is missing or wrong.
pub(crate) async fn client_of(path: &std::path::Path) -> anyhow::Result<Client> {
    let kubeconfig =
        Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?;
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

async fn api_server(client: &Client) -> Line {
    let asked = match http::Request::get("/readyz").body(Vec::new()) {
        Ok(request) => client.request_text(request).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let ready = asked.as_deref() == Ok("ok");
    Line { what: "API server".into(), ready, note: asked.err().unwrap_or_default() }
}

async fn nodes(client: &Client) -> anyhow::Result<Vec<Line>> {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
    Ok(nodes.iter().map(node).collect())
}

fn node(node: &Node) -> Line {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
    Line {
        what: format!("node {}", node.name_any()),
        ready: ready.is_some_and(|condition| condition.status == "True"),
        note: ready.and_then(|condition| condition.message.clone()).unwrap_or_default(),
    }
}

async fn components(client: &Client) -> anyhow::Result<Vec<Line>> {
    let mut components =
        Api::<Component>::all(client.clone()).list(&ListParams::default()).await?.items;
    components.sort_by_key(ResourceExt::name_any);
    Ok(components.iter().map(component).collect())
}

fn component(component: &Component) -> Line {
    let status = component.status.clone().unwrap_or_default();
    Line {
        what: format!("player {}", component.name_any()),
        ready: status.ready,
        note: format!("{} led by {}", status.version, status.leader),
    }
}

fn render(lines: &[Line]) -> String {
    let width = lines.iter().map(|line| line.what.len()).max().unwrap_or_default();
    let line = |line: &Line| {
        let state = if line.ready { "ready    " } else { "not ready" };
        format!("{:width$}  {state}  {}", line.what, line.note).trim_end().to_owned() + "\n"
    };
    lines.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stand_in_columns() {
        let line =
            |what: &str, ready, note: &str| Line { what: what.into(), ready, note: note.into() };
        let lines = [line("API server", true, ""), line("player dns", false, "0.1.0 led by me")];
        assert_eq!(render(&lines), "API server  ready\nplayer dns  not ready  0.1.0 led by me\n");
    }

    #[test]
    fn a_certificate_is_ready_while_it_is_valid() {
        let made = rcgen::generate_simple_self_signed(vec!["n".to_owned()]).unwrap();
        let pair = Pair { certificate: made.cert.pem(), key: String::new() };
        let line = certificate(&pair, Timestamp::now());
        assert!(line.ready && line.note.starts_with("valid until "), "{line:?}");
        assert!(!certificate(&pair, Timestamp::MAX).ready);
    }

    #[test]
    fn a_node_is_ready_when_it_says_so() {
        let with = |status: &str| -> Node {
            let condition =
                serde_json::json!([{"type": "Ready", "status": status, "message": "m"}]);
            let node =
                serde_json::json!({"metadata": {"name": "n"}, "status": {"conditions": condition}});
            serde_json::from_value(node).unwrap()
        };
        assert!(node(&with("True")).ready);
        assert!(!node(&with("Unknown")).ready);
        assert!(!node(&Node::default()).ready);
    }
}
