//! Environment, command and arguments of a container. Pure: the objects that are referred to come in as [`Sources`].
//!
//! Source: kubernetes.io, "Define Environment Variables for a Container" and "Define Dependent Environment Variables".

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVarSource, Pod, ResourceFieldSelector, Secret, Service,
};

use super::quantity::thousandths;

/// Objects that a container's environment refers to. A name that is missing does not exist.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Config maps of the pod's namespace.
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    /// Secrets of the pod's namespace.
    pub secrets: BTreeMap<String, Arc<Secret>>,
}

/// Facts about the node and the pod at this start.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The node's name.
    pub node_name: String,
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// The pod's addresses.
    pub pod_ips: Vec<String>,
    /// What the node can give to pods; stands in for missing limits.
    pub allocatable: BTreeMap<String, i128>,
}

/// Names of the config maps and secrets that a container's environment refers to.
pub fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for from in container.env_from.iter().flatten() {
        maps.extend(from.config_map_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(from.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    (maps, secrets)
}

/// The variables of one container, in order.
///
/// # Errors
/// A sentence for the waiting reason `CreateContainerConfigError`.
pub fn environment(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    facts: &Facts,
    services: &[Arc<Service>],
) -> Result<Vec<(String, String)>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let mut vars: Vec<(String, String)> = service_variables(services, namespace, links);
    let mut put = |name: String, value: String| {
        vars.retain(|(n, _)| *n != name);
        vars.push((name, value));
    };
    for (name, value) in from_whole_objects(container, sources, namespace)? {
        put(name, value);
    }
    // Only what the pod itself names may be used in $(NAME), besides services.
    let mut known: BTreeMap<String, String> = vars.iter().cloned().collect();
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (_, Some(source)) => {
                match from_source(pod, container, source, sources, facts, namespace)? {
                    Some(value) => value,
                    None => continue,
                }
            }
            (Some(text), None) => expand(text, &known),
            (None, None) => String::new(),
        };
        known.insert(var.name.clone(), value.clone());
        vars.retain(|(n, _)| *n != var.name);
        vars.push((var.name.clone(), value));
    }
    Ok(vars)
}

fn from_whole_objects(
    container: &Container,
    sources: &Sources,
    namespace: &str,
) -> Result<Vec<(String, String)>, String> {
    let mut vars = Vec::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(r) = &from.config_map_ref {
            match sources.config_maps.get(&r.name) {
                Some(map) => vars.extend(
                    map.data.iter().flatten().map(|(k, v)| (format!("{prefix}{k}"), v.clone())),
                ),
                None if r.optional == Some(true) => (),
                None => return Err(format!("configmap \"{}\" not found", r.name)),
            }
        }
        if let Some(r) = &from.secret_ref {
            match sources.secrets.get(&r.name) {
                Some(secret) => vars.extend(secret.data.iter().flatten().map(|(k, v)| {
                    (format!("{prefix}{k}"), String::from_utf8_lossy(&v.0).into_owned())
                })),
                None if r.optional == Some(true) => (),
                None => return Err(format!("secret \"{}\" not found", r.name)),
            }
        }
    }
    let _ = namespace;
    Ok(vars)
}

fn from_source(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    sources: &Sources,
    facts: &Facts,
    namespace: &str,
) -> Result<Option<String>, String> {
    if let Some(field) = &source.field_ref {
        return field_value(pod, &field.field_path, facts).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return resource_value(pod, Some(container), resource, facts).map(Some);
    }
    if let Some(r) = &source.config_map_key_ref {
        let optional = r.optional == Some(true);
        let Some(map) = sources.config_maps.get(&r.name) else {
            return missing(optional, || format!("configmap \"{}\" not found", r.name));
        };
        return match map.data.as_ref().and_then(|d| d.get(&r.key)) {
            Some(value) => Ok(Some(value.clone())),
            None => missing(optional, || {
                format!("couldn't find key {} in ConfigMap {namespace}/{}", r.key, r.name)
            }),
        };
    }
    if let Some(r) = &source.secret_key_ref {
        let optional = r.optional == Some(true);
        let Some(secret) = sources.secrets.get(&r.name) else {
            return missing(optional, || format!("secret \"{}\" not found", r.name));
        };
        return match secret.data.as_ref().and_then(|d| d.get(&r.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None => missing(optional, || {
                format!("couldn't find key {} in Secret {namespace}/{}", r.key, r.name)
            }),
        };
    }
    Ok(None)
}

fn missing(optional: bool, text: impl Fn() -> String) -> Result<Option<String>, String> {
    if optional { Ok(None) } else { Err(text()) }
}

/// The value of a field path of the downward API.
///
/// # Errors
/// The path is not one that can be asked for.
pub fn field_value(pod: &Pod, path: &str, facts: &Facts) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Err(format!("unsupported fieldPath: {path}")),
        };
        return Ok(map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let text = match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => format_map(meta.labels.as_ref()),
        "metadata.annotations" => format_map(meta.annotations.as_ref()),
        "spec.nodeName" => facts.node_name.clone(),
        "spec.serviceAccountName" => {
            spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default()
        }
        "spec.hostname" => spec.and_then(|s| s.hostname.clone()).unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    };
    Ok(text)
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// A map as the downward API writes it: `key="value"` lines in the order of the keys.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<_> = map.into_iter().flatten().map(|(k, v)| format!("{k}={v:?}")).collect();
    lines.join("\n")
}

/// A limit or request as the downward API gives it, in units of the divisor, rounded up.
///
/// # Errors
/// No such container, or not a resource that can be asked for.
pub fn resource_value(
    pod: &Pod,
    container: Option<&Container>,
    selector: &ResourceFieldSelector,
    facts: &Facts,
) -> Result<String, String> {
    let spec = pod.spec.as_ref();
    let container = match &selector.container_name {
        Some(name) => spec
            .and_then(|s| {
                s.containers
                    .iter()
                    .chain(s.init_containers.iter().flatten())
                    .find(|c| c.name == *name)
            })
            .ok_or_else(|| format!("container {name} not found"))?,
        None => container.ok_or("a container name is required")?,
    };
    let unsupported = || format!("unsupported container resource : {}", selector.resource);
    let (which, name) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = container.resources.as_ref();
    let of = |limits: bool| {
        let map =
            resources.and_then(|r| if limits { r.limits.as_ref() } else { r.requests.as_ref() });
        map.and_then(|m| m.get(name)).and_then(|q| thousandths(&q.0))
    };
    let value = match which {
        "limits" => of(true).or_else(|| facts.allocatable.get(name).copied()).unwrap_or(0),
        "requests" => of(false).or_else(|| of(true)).unwrap_or(0),
        _ => return Err(unsupported()),
    };
    let divisor = match selector.divisor.as_ref().and_then(|d| thousandths(&d.0)) {
        Some(divisor) if divisor > 0 => divisor,
        _ => 1000,
    };
    Ok((value + divisor - 1).div_euclid(divisor).to_string())
}

/// Replaces `$(NAME)` by its value; `$$` is one dollar sign, and an unknown name stays as it is.
pub fn expand(text: &str, vars: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) =
            rest.strip_prefix('(').and_then(|inner| inner.split_once(')'))
        {
            match vars.get(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// Variables that point to services: those of the API server always, others if the pod wants links.
///
/// Source: kubernetes.io, "Service", "Environment variables".
fn service_variables(
    services: &[Arc<Service>],
    namespace: &str,
    links: bool,
) -> Vec<(String, String)> {
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let home = service.metadata.namespace.as_deref().unwrap_or_default();
        let ip = service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()).unwrap_or_default();
        if ip.is_empty() || ip == "None" {
            continue;
        }
        let is_api = home == "default" && name == "kubernetes";
        if (links && home == namespace) || (is_api && !chosen.contains_key(name)) {
            chosen.insert(name, service);
        }
    }
    let mut vars = Vec::new();
    for (name, service) in chosen {
        let Some(spec) = &service.spec else { continue };
        let ip = spec.cluster_ip.as_deref().unwrap_or_default();
        let ports = spec.ports.as_deref().unwrap_or_default();
        let Some(first) = ports.first() else { continue };
        let prefix = name.to_uppercase().replace('-', "_");
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        let url =
            |protocol: &str, port: i32| format!("{}://{host}:{port}", protocol.to_lowercase());
        vars.push((format!("{prefix}_SERVICE_HOST"), ip.to_owned()));
        vars.push((format!("{prefix}_SERVICE_PORT"), first.port.to_string()));
        for port in ports.iter().filter(|p| p.name.as_ref().is_some_and(|n| !n.is_empty())) {
            let port_name =
                port.name.as_deref().unwrap_or_default().to_uppercase().replace('-', "_");
            vars.push((format!("{prefix}_SERVICE_PORT_{port_name}"), port.port.to_string()));
        }
        let protocol = |p: &Option<String>| p.clone().unwrap_or_else(|| "TCP".to_owned());
        vars.push((format!("{prefix}_PORT"), url(&protocol(&first.protocol), first.port)));
        for port in ports {
            let protocol = protocol(&port.protocol);
            let key = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
            vars.push((key.clone(), url(&protocol, port.port)));
            vars.push((format!("{key}_PROTO"), protocol.to_lowercase()));
            vars.push((format!("{key}_PORT"), port.port.to_string()));
            vars.push((format!("{key}_ADDR"), ip.to_owned()));
        }
    }
    vars
}

#[cfg(test)]
mod tests;
