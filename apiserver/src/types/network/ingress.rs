//! Ingresses and their classes.

use std::net::IpAddr;

use schema::Cause;
use serde_json::{Value, json};

use super::super::check::{At, Causes, items, text};
use super::super::service::validate::status;
use super::super::{Ctx, Strategy, words};
use crate::status::ApiError;

const LEGACY_CLASS: &str = "kubernetes.io/ingress.class";

/// Strategy of `ingresses`.
pub(crate) struct Ingresses;

impl Strategy for Ingresses {
    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({"loadBalancer": {}});
        Ok(())
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        if subresource == Some("status") {
            status(&mut causes, &obj["status"], false);
            return causes.0;
        }
        let (legacy, class) =
            (&obj["metadata"]["annotations"][LEGACY_CLASS], &obj["spec"]["ingressClassName"]);
        if old.is_none() && legacy.is_string() && class.is_string() && legacy != class {
            let at = At::new("annotations");
            let detail = "must match `ingressClassName` when both are specified";
            causes.invalid(&at.field(LEGACY_CLASS), legacy, detail);
        }
        let (spec, at) = (&obj["spec"], At::new("spec"));
        if let Some(class) = spec["ingressClassName"].as_str() {
            causes.faults(&at.field("ingressClassName"), class, words::subdomain(class));
        }
        if spec["defaultBackend"].is_null() && items(&spec["rules"]).is_empty() {
            causes.invalid(
                &at,
                &Value::Null,
                "either `defaultBackend` or `rules` must be specified",
            );
        }
        if !spec["defaultBackend"].is_null() {
            backend(&mut causes, &at.field("defaultBackend"), &spec["defaultBackend"]);
        }
        let rules = at.field("rules");
        for (n, rule) in items(&spec["rules"]).iter().enumerate() {
            ingress_rule(&mut causes, &rules.index(n), rule);
        }
        let tls = at.field("tls");
        for (n, entry) in items(&spec["tls"]).iter().enumerate() {
            let at = tls.index(n);
            let hosts = at.field("hosts");
            for (n, host) in items(&entry["hosts"]).iter().enumerate() {
                self::host(&mut causes, &hosts.index(n), host.as_str().unwrap_or_default());
            }
            let secret = text(entry, "secretName");
            if !secret.is_empty() {
                causes.faults(&at.field("secretName"), secret, words::subdomain(secret));
            }
        }
        causes.0
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let legacy = &obj["metadata"]["annotations"][LEGACY_CLASS];
        if old.is_some() || legacy.is_null() || !obj["spec"]["ingressClassName"].is_null() {
            return Vec::new();
        }
        vec![format!(
            "annotation \"{LEGACY_CLASS}\" is deprecated, please use 'spec.ingressClassName' instead"
        )]
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

/// A host, at most with a star in the place of its first part.
fn host(causes: &mut Causes, at: &At<'_>, host: &str) {
    if !host.contains('*') {
        return causes.faults(at, host, words::subdomain(host));
    }
    let good = host.strip_prefix("*.").is_some_and(|rest| words::subdomain(rest).is_empty());
    if !good {
        let detail = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
        causes.invalid(at, &host.into(), detail);
    }
}

fn ingress_rule(causes: &mut Causes, at: &At<'_>, rule: &Value) {
    let name = text(rule, "host");
    if !name.is_empty() {
        let at = at.field("host");
        if name.parse::<IpAddr>().is_ok() {
            causes.invalid(&at, &name.into(), "must be a DNS name, not an IP address");
        }
        host(causes, &at, name);
    }
    if rule["http"].is_null() {
        return;
    }
    let http = at.field("http");
    let paths = http.field("paths");
    if items(&rule["http"]["paths"]).is_empty() {
        causes.required(&paths, "");
    }
    for (n, entry) in items(&rule["http"]["paths"]).iter().enumerate() {
        let at = paths.index(n);
        if entry["pathType"].is_null() {
            causes.required(&at.field("pathType"), "pathType must be specified");
            continue;
        }
        path(causes, &at, entry);
        backend(causes, &at.field("backend"), &entry["backend"]);
    }
}

fn path(causes: &mut Causes, at: &At<'_>, entry: &Value) {
    let (kind, path) = (text(entry, "pathType"), text(entry, "path"));
    let path_at = at.field("path");
    match kind {
        "Exact" | "Prefix" => {
            if !path.starts_with('/') {
                causes.invalid(&path_at, &path.into(), "must be an absolute path");
            }
            for sequence in ["//", "/./", "/../", "%2f", "%2F"] {
                if path.contains(sequence) {
                    causes.invalid(
                        &path_at,
                        &path.into(),
                        &format!("must not contain '{sequence}'"),
                    );
                }
            }
            for suffix in ["/..", "/."] {
                if path.ends_with(suffix) {
                    causes.invalid(&path_at, &path.into(), &format!("cannot end with '{suffix}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && !path.starts_with('/') {
                causes.invalid(&path_at, &path.into(), "must be an absolute path");
            }
        }
        _ => causes.not_supported(
            &at.field("pathType"),
            &kind.into(),
            &["Exact", "ImplementationSpecific", "Prefix"],
        ),
    }
}

fn backend(causes: &mut Causes, at: &At<'_>, backend: &Value) {
    let (service, resource) = (&backend["service"], &backend["resource"]);
    match (service.is_null(), resource.is_null()) {
        (true, true) => {
            return causes.invalid(at, &"".into(), "resource or service backend is required");
        }
        (false, false) => {
            return causes.invalid(at, &"".into(), "cannot set both resource and service backends");
        }
        (true, false) => return reference(causes, &at.field("resource"), resource),
        (false, true) => (),
    }
    let service_at = at.field("service");
    let name = text(service, "name");
    if name.is_empty() {
        causes.required(&service_at.field("name"), "");
    } else {
        causes.faults(&service_at.field("name"), name, words::label(name));
    }
    let port = &service["port"];
    let port_at = service_at.field("port");
    let number = port["number"].as_i64().unwrap_or_default();
    let port_name = text(port, "name");
    if !port_name.is_empty() && number != 0 {
        causes.invalid(at, &"".into(), "cannot set both port name & port number");
    } else if !port_name.is_empty() {
        causes.faults(&port_at.field("name"), port_name, crate::types::check::port_name(port_name));
    } else if number != 0 {
        causes.between(&port_at.field("number"), &port["number"], 1, 65535);
    } else {
        causes.required(at, "port name or number is required");
    }
}

/// Strategy of `ingressclasses`.
pub(crate) struct IngressClasses;

impl Strategy for IngressClasses {
    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let (spec, at) = (&obj["spec"], At::new("spec"));
        let controller = &spec["controller"];
        let controller_at = at.field("controller");
        if text(spec, "controller").len() > 250 {
            causes.0.push(Cause::too_long(controller_at.to_string(), 250));
        }
        if causes.present(&controller_at, controller, "") {
            causes.domain_path(&controller_at, text(spec, "controller"));
        }
        if let Some(old) = old {
            let (new, old) = (text(spec, "controller"), text(&old["spec"], "controller"));
            causes.immutable(&controller_at, &new.into(), &old.into());
        }
        parameters(&mut causes, &at.field("parameters"), &spec["parameters"]);
        causes.0
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

fn parameters(causes: &mut Causes, at: &At<'_>, parameters: &Value) {
    if parameters.is_null() {
        return;
    }
    reference(causes, at, parameters);
    let (scope, namespace) = (&parameters["scope"], &parameters["namespace"]);
    let at_namespace = at.field("namespace");
    match scope.as_str() {
        None => causes.required(&at.field("scope"), ""),
        Some("Namespace") if namespace.is_null() => {
            causes.required(&at_namespace, "`parameters.scope` is set to 'Namespace'");
        }
        Some("Namespace") => causes.label(&at_namespace, namespace),
        Some("Cluster") if !namespace.is_null() => {
            causes.forbidden(&at_namespace, "`parameters.scope` is set to 'Cluster'");
        }
        Some(_) => causes.one_of(&at.field("scope"), scope, &["Cluster", "Namespace"]),
    }
}

/// A reference to an object of any type.
fn reference(causes: &mut Causes, at: &At<'_>, reference: &Value) {
    causes.subdomain(&at.field("apiGroup"), &reference["apiGroup"]);
    for field in ["kind", "name"] {
        if causes.present(&at.field(field), &reference[field], "") {
            causes.path_segment(&at.field(field), &reference[field]);
        }
    }
}

#[test]
fn ingresses() {
    let fields = |path: Value| -> Vec<String> {
        let ingress = json!({"spec": {"rules": [{"http": {"paths": [path]}}]}});
        Ingresses.validate(&ingress, None, None).into_iter().map(|c| c.field).collect()
    };
    let service = json!({"service": {"name": "s", "port": {"number": 80}}});
    assert_eq!(fields(json!({"path": "/", "pathType": "Prefix", "backend": service})), [""; 0]);
    assert_eq!(
        fields(json!({"path": "rel", "pathType": "Exact", "backend": {}})),
        ["spec.rules[0].http.paths[0].path", "spec.rules[0].http.paths[0].backend"]
    );
}
