//! Objects that the server makes at its first start, and keeps.

mod aggregation;
mod keep;
pub mod plan;
mod presence;
mod trust;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures::StreamExt as _;
use http::{Method, Request};
use jiff::Timestamp;
use kube::Client;
use serde_json::Value;

pub use self::keep::keep;
use self::plan::{FIXED, Settings, Step, is_obsolete, own, step};
use crate::identity::options::RequestHeaderOptions;
use crate::registry::{Registry, Resource};
use crate::server::{Core, Server, StartError};
use crate::status::ApiError;

const FLOWCONTROL: &str = "flowcontrol.apiserver.k8s.io";

/// How many objects are written at once: enough to share the store's syncs.
const AT_ONCE: usize = 64;

/// The port that is written down while the server has none.
const DEFAULT_PORT: u16 = 6443;

/// How often the server looks whether a type of an object that is still missing is served now.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Makes what every fresh cluster holds, mends roles and bindings that lack something, and keeps
/// aggregated roles up to date from now on.
///
/// # Errors
/// [`StartError::Bootstrap`] names the object that was refused.
pub async fn install(server: &Server) -> Result<(), StartError> {
    let client = server.own_client();
    let wanted: Vec<&Value> = FIXED.iter().collect();
    let missing = ensure(server, &client, &wanted).await?;
    follow_up(server, &client, &missing);
    remove_obsolete(server, &client).await?;
    aggregation::start(server, client);
    Ok(())
}

/// Deletes what an older server has made for fairness and this one does not know.
async fn remove_obsolete(server: &Server, client: &Client) -> Result<(), StartError> {
    let registry = server.core().registry();
    for kind in ["FlowSchema", "PriorityLevelConfiguration"] {
        let Some(resource) = registry.by_kind(FLOWCONTROL, "v1", kind) else { continue };
        let wrong = |error| StartError::Bootstrap { what: kind.to_owned(), error: Box::new(error) };
        let storage = resource.storage().map_err(wrong)?;
        let cache = storage.cache().await.map_err(wrong)?;
        for object in cache.list(None).iter() {
            let present: Value = serde_json::from_slice(object.stored())
                .map_err(|error| wrong(ApiError::internal(error)))?;
            if is_obsolete(kind, &present) {
                let path = format!("{}/{}", path_of(resource, &present), object.name());
                send(client, Method::DELETE, &path, None).await.map_err(wrong)?;
            }
        }
    }
    Ok(())
}

/// Brings the recorded objects of one API group back into shape.
///
/// # Errors
/// [`StartError::Bootstrap`] names the object that was refused.
pub async fn ensure_group(server: &Server, group: &str) -> Result<(), StartError> {
    let client = server.own_client();
    let of_group = |object: &&Value| {
        let version = object["apiVersion"].as_str().unwrap_or_default();
        version.split_once('/').is_some_and(|(of, _)| of == group)
    };
    let wanted: Vec<&Value> = FIXED.iter().filter(of_group).collect();
    ensure(server, &client, &wanted).await.map(|_| ())
}

/// Writes down where the server is: the `kubernetes` Service and its endpoints, the ranges of service addresses, and
/// the authorities that extension servers need. What has a type that is not served yet is left to [`keep`].
///
/// # Errors
/// [`StartError::Bootstrap`] names the object that was refused.
pub async fn publish(server: &Server) -> Result<(), StartError> {
    let client = server.own_client();
    // Without its Lease the server serves; the endpoints stay as they are until `keep` has written one.
    let servers = announce(server, &client).await.unwrap_or_else(|error| {
        let error: &dyn std::error::Error = &error;
        tracing::warn!(error, "failed to tell that this server is alive");
        Vec::new()
    });
    let settings = settings(server, servers);
    let own = own(&settings);
    ensure(server, &client, &own.iter().collect::<Vec<_>>()).await?;
    let trust = trust::object(&settings, Timestamp::now().as_second());
    publish_trust(server, &client, trust).await
}

/// Tells that this server is alive; answers where all servers are that are.
async fn announce(server: &Server, client: &Client) -> Result<Vec<SocketAddr>, StartError> {
    match address(server) {
        Some(address) => presence::renew(server, client, address).await,
        None => Ok(Vec::new()),
    }
}

/// Takes this server out of the endpoints of the `kubernetes` Service, if there are others.
///
/// # Errors
/// [`StartError::Bootstrap`] names the object that was refused.
pub async fn withdraw(server: &Server) -> Result<(), StartError> {
    let client = server.own_client();
    let Some(address) = address(server) else { return Ok(()) };
    let others = presence::withdraw(server, &client, address).await?;
    if others.is_empty() {
        return Ok(());
    }
    let own = own(&settings(server, others));
    let endpoints = own
        .iter()
        .filter(|object| matches!(object["kind"].as_str(), Some("Endpoints" | "EndpointSlice")));
    ensure(server, &client, &endpoints.collect::<Vec<_>>()).await.map(|_| ())
}

/// Joins whom this server believes to what other servers have said.
async fn publish_trust(server: &Server, client: &Client, wanted: Value) -> Result<(), StartError> {
    /// Servers that write at the same time come in turn.
    const ATTEMPTS: usize = 5;
    let registry = server.core().registry();
    let Some(resource) = resource_of(&registry, &wanted) else { return Ok(()) };
    let before = server.core().told_trust.lock().replace(wanted.clone());
    for _ in 0..ATTEMPTS {
        let there = present(resource, &wanted).await.map_err(|e| refused(&wanted, e))?;
        let now = Timestamp::now().as_second();
        let step = trust::step(&wanted, there.as_ref(), before.as_ref(), now);
        if step == Step::Keep {
            break;
        }
        perform(client.clone(), step, wanted.clone(), path_of(resource, &wanted)).await?;
    }
    Ok(())
}

/// Makes objects in a task, once their CustomResourceDefinitions are there.
fn follow_up(server: &Server, client: &Client, missing: &[&Value]) {
    if missing.is_empty() {
        return;
    }
    let missing: Vec<Value> = missing.iter().map(|&object| object.clone()).collect();
    let (task_server, client) = (server.clone(), client.clone());
    server.spawn(async move { install_later(&task_server, &client, missing).await });
}

async fn install_later(server: &Server, client: &Client, mut missing: Vec<Value>) {
    let mut ticks = tokio::time::interval(LOOK_AGAIN);
    while !missing.is_empty() {
        ticks.tick().await;
        let registry = server.core().registry();
        if missing.iter().all(|object| resource_of(&registry, object).is_none()) {
            continue;
        }
        let objects: Vec<&Value> = missing.iter().collect();
        match ensure(server, client, &objects).await {
            Ok(rest) => missing = rest.into_iter().cloned().collect(),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "bootstrap object refused"
                );
            }
        }
    }
}

fn settings(server: &Server, servers: Vec<SocketAddr>) -> Settings {
    let (front_proxy_ca, front_proxy) = front_proxy(server.core());
    Settings {
        servers,
        port: port(server),
        service_ranges: server.core().config.service_ranges.clone(),
        client_ca: server.core().authenticator.client_ca.get().pem().to_owned(),
        front_proxy_ca,
        front_proxy,
        today: Timestamp::now().strftime("%Y-%m-%d").to_string(),
    }
}

/// Where others reach this server; nowhere, if the host has no address.
fn address(server: &Server) -> Option<SocketAddr> {
    // Endpoints must be reachable from pods, which the loopback interface is not.
    let reachable = |ip: &IpAddr| !ip.is_unspecified() && !ip.is_loopback();
    let ip = known_address(server).map(|address| address.ip());
    let ip = ip.filter(reachable).or_else(host_address)?;
    Some(SocketAddr::new(ip, port(server)))
}

fn port(server: &Server) -> u16 {
    known_address(server).map_or(DEFAULT_PORT, |address| address.port())
}

fn known_address(server: &Server) -> Option<SocketAddr> {
    server.core().config.advertise.or(server.core().address())
}

/// Who may speak for users to extension servers: whoever may speak so to this one, and this one.
fn front_proxy(core: &Core) -> (String, RequestHeaderOptions) {
    let mut options = core.config.identity.request_header.clone();
    let own = core.pki.front_proxy_ca_certificate();
    let given = core.authenticator.request_header.as_ref().map(|proxy| proxy.authority.get());
    // With a certificate that somebody gave, this server is one of the proxies that were named.
    if options.client.is_some() {
        return (given.map_or_else(|| own.to_owned(), |given| given.pem().to_owned()), options);
    }
    let authorities = match given.as_ref().map(|given| given.pem()).filter(|pem| *pem != own) {
        Some(given) => format!("{}\n{own}", given.trim_end()),
        None => own.to_owned(),
    };
    // An empty list lets everybody pass whom the authorities vouch for.
    let ours = RequestHeaderOptions::default().allowed_names;
    if !options.allowed_names.is_empty() {
        let missing = ours.into_iter().filter(|name| !options.allowed_names.contains(name));
        options.allowed_names.extend(missing.collect::<Vec<_>>());
    }
    (authorities, options)
}

/// The address from which the host would speak to the world; nothing is sent.
fn host_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
}

/// Brings each object into being or into shape; answers those whose types are not served.
async fn ensure<'a>(
    server: &Server,
    client: &Client,
    wanted: &[&'a Value],
) -> Result<Vec<&'a Value>, StartError> {
    let registry = server.core().registry();
    let (mut missing, mut namespaces, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for &object in wanted {
        let Some(resource) = resource_of(&registry, object) else {
            missing.push(object);
            continue;
        };
        let present = present(resource, object).await.map_err(|e| refused(object, e))?;
        let step = step(object, present.as_ref());
        if step == Step::Keep {
            continue;
        }
        let work = perform(client.clone(), step, object.clone(), path_of(resource, object));
        if object["kind"] == "Namespace" { namespaces.push(work) } else { others.push(work) }
    }
    // Namespaces come before what stands in them.
    for work in [namespaces, others] {
        let mut running = futures::stream::iter(work).buffer_unordered(AT_ONCE);
        while let Some(result) = running.next().await {
            result?;
        }
    }
    Ok(missing)
}

fn refused(object: &Value, error: ApiError) -> StartError {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let what = format!("{} {name}", object["kind"].as_str().unwrap_or_default());
    StartError::Bootstrap { what, error: Box::new(error) }
}

async fn perform(
    client: Client,
    step: Step,
    object: Value,
    path: String,
) -> Result<(), StartError> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let one = format!("{path}/{name}");
    let done = match step {
        Step::Keep => Ok(()),
        Step::Create => create(&client, &path, &object).await,
        Step::Update(next) => send(&client, Method::PUT, &one, Some(&next)).await,
        Step::Replace => match send(&client, Method::DELETE, &one, None).await {
            Ok(()) => send(&client, Method::POST, &path, Some(&object)).await,
            Err(error) => Err(error),
        },
    };
    done.map_err(|error| refused(&object, error))
}

/// Creates an object that another server may be creating at this moment: while that one has claimed the object's
/// address but not stored the object, ours is refused.
async fn create(client: &Client, path: &str, object: &Value) -> Result<(), ApiError> {
    const ATTEMPTS: usize = 20;
    const PAUSE: Duration = Duration::from_millis(100);
    let one = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap_or_default());
    for _ in 1..ATTEMPTS {
        if send(client, Method::POST, path, Some(object)).await.is_ok()
            || send(client, Method::GET, &one, None).await.is_ok()
        {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    send(client, Method::POST, path, Some(object)).await
}

/// Sends one write; a patch is an apply. That somebody else was faster is fine: they wanted the same.
/// So is that there is nothing left to delete.
async fn send(
    client: &Client,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<(), ApiError> {
    let body = body.map(|body| serde_json::to_vec(body).map_err(ApiError::internal));
    let deletes = method == Method::DELETE;
    let content_type = match method {
        Method::PATCH => "application/apply-patch+yaml",
        _ => "application/json",
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, content_type)
        .header(http::header::USER_AGENT, "kube-apiserver")
        .body(body.transpose()?.unwrap_or_default())
        .map_err(ApiError::internal)?;
    match client.request::<Value>(request).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() || status.is_conflict() => {
            Ok(())
        }
        Err(kube::Error::Api(status)) if deletes && status.is_not_found() => Ok(()),
        Err(kube::Error::Api(status)) => Err(ApiError::Internal(status.message.clone())),
        Err(error) => Err(ApiError::internal(error)),
    }
}

fn resource_of<'a>(registry: &'a Registry, object: &Value) -> Option<&'a Resource> {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
    registry.by_kind(group, version, text("kind")).map(|resource| &**resource)
}

fn path_of(resource: &Resource, object: &Value) -> String {
    let root = if resource.group.is_empty() { "/api" } else { "/apis" };
    let base = format!("{root}/{}", resource.api_version());
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) if resource.namespaced => {
            format!("{base}/namespaces/{namespace}/{}", resource.name)
        }
        _ => format!("{base}/{}", resource.name),
    }
}

/// What the cache has under the object's name.
async fn present(resource: &Resource, object: &Value) -> Result<Option<Value>, ApiError> {
    let metadata = |field: &str| object["metadata"][field].as_str();
    let namespace = metadata("namespace").filter(|_| resource.namespaced);
    let cache = resource.storage()?.cache().await?;
    cache.fresh().await?;
    let found = cache.get(namespace, metadata("name").unwrap_or_default());
    found
        .map(|found| serde_json::from_slice(&resource.view(found.json())))
        .transpose()
        .map_err(ApiError::internal)
}
