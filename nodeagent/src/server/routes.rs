//! Which path is what.

use http::StatusCode;
use k8s_openapi::List;
use k8s_openapi::api::core::v1::Pod;

use super::{Request, Response, Shared, json, logs, portforward, process, stats, text};
use crate::pods::worker::Handle;

/// The query, last value of each name; lists are read with [`all`].
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn read(request: &Request) -> Self {
        let query = request.uri().query().unwrap_or_default();
        let pairs = query.split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Self(pairs.collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect()
    }

    /// `true`, `1` and, as upstream takes it, an empty value.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| matches!(v, "true" | "1" | "t" | "True" | "TRUE"))
    }
}

/// Undoes percent-encoding; `+` is a blank.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = || {
            let digits = bytes.get(at + 1..at + 3)?;
            u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
        };
        match (byte, hex()) {
            (b'%', Some(value)) => {
                out.push(value);
                at += 3;
            }
            (b'+', _) => {
                out.push(b' ');
                at += 1;
            }
            (byte, _) => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub(super) async fn route(shared: Shared, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let parts: Vec<String> = path.trim_matches('/').split('/').map(decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let query = Query::read(&request);
    let get = request.method() == http::Method::GET;
    match parts[..] {
        ["metrics"] if get => text(StatusCode::OK, shared.ctx.metrics.render()),
        ["metrics", "resource"] if get => stats::resource_metrics(&shared).await,
        ["stats", "summary"] if get => json(&stats::summary(&shared).await),
        ["pods"] | ["runningpods"] if get => json(&pods(&shared)),
        ["containerLogs", namespace, pod, container] if get => {
            logs::serve(&shared, namespace, pod, container, &query).await
        }
        ["exec" | "attach", namespace, pod, container]
        | ["exec" | "attach", namespace, pod, _, container] => {
            let attach = parts.first() == Some(&"attach");
            match container_of(&shared, namespace, pod, container) {
                Ok((_, id)) => process::serve(&shared, request, &query, id, attach),
                Err(refusal) => *refusal,
            }
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
            match pod_of(&shared, namespace, pod) {
                Ok(handle) => portforward::serve(&shared, request, &query, &handle),
                Err(refusal) => *refusal,
            }
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

fn pods(shared: &Shared) -> List<Pod> {
    let items = shared.pods.all().into_iter().filter(|h| !h.is_over()).filter_map(|handle| {
        let view = handle.view();
        let mut pod = (*view.wanted.as_ref()?.pod).clone();
        pod.status = Some(view.status.clone());
        Some(pod)
    });
    List { items: items.collect(), ..List::default() }
}

/// The worker of a pod.
pub(super) fn pod_of(shared: &Shared, namespace: &str, pod: &str) -> Result<Handle, Box<Response>> {
    shared.pods.find(namespace, pod).ok_or_else(|| {
        Box::new(text(
            StatusCode::NOT_FOUND,
            format!("pod \"{pod}\" does not exist in namespace \"{namespace}\""),
        ))
    })
}

/// The running container of that name.
fn container_of(
    shared: &Shared,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Result<(Handle, String), Box<Response>> {
    let handle = pod_of(shared, namespace, pod)?;
    let found = handle.view().containers.get(container).cloned();
    match found {
        Some((id, true)) => Ok((handle, id)),
        _ => Err(Box::new(text(
            StatusCode::NOT_FOUND,
            format!("container not found (\"{container}\")"),
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        assert_eq!(decode("a%20b+c%2Fd%zz%4"), "a b c/d%zz%4");
    }
}
