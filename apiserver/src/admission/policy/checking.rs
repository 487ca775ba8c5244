//! Writes into the status of validating policies whether their expressions fit the types that they are for.
//!
//! Source: KEP-3488, "Type Checking"; upstream's `plugin/policy/validating/typechecking.go`.

use std::sync::Arc;

use http::{Method, Request, header};
use kube::Client;
use schema::cel::ExpressionScope;
use serde_json::{Value, json};
use store::cache::{Cache, Interest};

use crate::registry::{Registry, Resource, Storage};
use crate::server::Server;

/// Most types that a policy is checked against.
const TYPES: usize = 10;

/// Follows the policies, in a task that ends with the server.
pub(crate) fn start(server: &Server) {
    let registry = server.core().registry();
    let policies = registry.find("admissionregistration.k8s.io", "validatingadmissionpolicies");
    let Some(storage) = policies.and_then(|policies| policies.storage.clone()) else { return };
    let client = server.client("system:apiserver", &["system:masters"]);
    server.spawn(follow(server.clone(), storage, client));
}

async fn follow(server: Server, storage: Arc<Storage>, client: Client) {
    while let Ok(cache) = storage.cache().await {
        let (_, mut changes) = cache.list_and_subscribe(None, Interest::All);
        check_all(&server, cache, &client).await;
        while changes.recv().await.is_some() {
            while changes.try_recv().is_some() {} // One pass for all that changed.
            check_all(&server, cache, &client).await;
        }
        if !changes.was_slow() {
            return; // The server is going.
        }
    }
}

async fn check_all(server: &Server, cache: &Cache, client: &Client) {
    for object in cache.list(None).iter() {
        let Ok(policy) = serde_json::from_slice::<Value>(object.stored()) else { continue };
        let generation = &policy["metadata"]["generation"];
        if policy["status"]["observedGeneration"] == *generation || object.deleting() {
            continue;
        }
        let warnings = check(&server.core().registry(), &policy["spec"]);
        let checking = match warnings.is_empty() {
            true => json!({}),
            false => json!({ "expressionWarnings": warnings }),
        };
        let status = json!({"observedGeneration": generation, "typeChecking": checking});
        if let Err(error) = write(client, object.name(), &status).await {
            tracing::debug!(error = &*error, policy = object.name(), "status not written");
        }
    }
}

/// Every expression that does not fit one of the policy's types.
fn check(registry: &Registry, spec: &Value) -> Vec<Value> {
    let types = types(registry, &spec["matchConstraints"]);
    let list = |key: &str| spec[key].as_array().map(Vec::as_slice).unwrap_or_default();
    let variables = list("variables");
    let text =
        |variable: &'_ Value, key: &str| variable[key].as_str().unwrap_or_default().to_owned();
    let owned: Vec<(String, String)> =
        variables.iter().map(|v| (text(v, "name"), text(v, "expression"))).collect();
    let names: Vec<(&str, &str)> = owned.iter().map(|(n, e)| (n.as_str(), e.as_str())).collect();
    let mut expressions = Vec::new();
    for (n, variable) in variables.iter().enumerate() {
        expressions.push((format!("spec.variables[{n}].expression"), &variable["expression"], n));
    }
    for (n, validation) in list("validations").iter().enumerate() {
        for key in ["expression", "messageExpression"] {
            let place = format!("spec.validations[{n}].{key}");
            expressions.push((place, &validation[key], names.len()));
        }
    }
    let mut warnings = Vec::new();
    for (place, source, visible) in expressions {
        let Some(source) = source.as_str().filter(|source| !source.is_empty()) else { continue };
        let faults = types.iter().filter_map(|resource| {
            let schema = resource.schema.get()?;
            let scope = ExpressionScope {
                object: Some(schema),
                variables: Some(&names[..visible]),
                has_params: true,
                has_authorizer: true,
            };
            let fault = scope.check(source, &[]).err()?;
            let fault = fault.trim_start_matches("compilation failed: ");
            let version = match resource.group.as_str() {
                "" => format!("/{}", resource.version),
                _ => resource.api_version(),
            };
            Some(format!("{version}, Kind={}: {fault}\n", resource.kind))
        });
        let faults: String = faults.collect();
        if !faults.is_empty() {
            warnings.push(json!({"fieldRef": place, "warning": faults}));
        }
    }
    warnings
}

/// The types that a policy names one by one.
fn types(registry: &Registry, constraints: &Value) -> Vec<Arc<Resource>> {
    let mut found: Vec<Arc<Resource>> = Vec::new();
    let texts = |value: &Value| -> Vec<String> {
        let list = value.as_array().into_iter().flatten();
        list.filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    for rule in constraints["resourceRules"].as_array().into_iter().flatten() {
        for group in texts(&rule["apiGroups"]) {
            for version in texts(&rule["apiVersions"]) {
                for name in texts(&rule["resources"]) {
                    let resource = registry.get(&group, &version, &name).cloned();
                    let is_new = |r: &Arc<Resource>| !found.iter().any(|f| Arc::ptr_eq(f, r));
                    found.extend(resource.filter(is_new));
                }
            }
        }
    }
    found.truncate(TYPES);
    found
}

async fn write(
    client: &Client,
    name: &str,
    status: &Value,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
    let request = Request::builder()
        .method(Method::PATCH)
        .uri(format!("{path}/{name}/status"))
        .header(header::CONTENT_TYPE, "application/merge-patch+json")
        .header(header::USER_AGENT, "validatingadmissionpolicy-status-controller")
        .body(serde_json::to_vec(&json!({ "status": status }))?)?;
    client.request::<Value>(request).await?;
    Ok(())
}
