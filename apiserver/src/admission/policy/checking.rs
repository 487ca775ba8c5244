//! Writes into the status of validating policies whether their expressions fit the types that they are for.
//!
//! Source: KEP-3488, "Type Checking"; upstream's `plugin/policy/validating/typechecking.go`.

use std::collections::HashSet;
use std::sync::Arc;

use http::{Method, Request, header};
use kube::Client;
use schema::Schema;
use schema::cel::ExpressionScope;
use serde_json::{Value, json};
use store::cache::Cache;

use crate::registry::{Registry, Resource, Storage};
use crate::server::Server;

/// Most types that a policy is checked against.
const TYPES: usize = 10;

/// How long a change waits for others, since each look takes all policies.
const GATHER: std::time::Duration = std::time::Duration::from_secs(2);

/// Follows the policies, in a task that ends with the server.
pub(crate) fn start(server: &Server) {
    let registry = server.core().registry();
    let policies = registry.find("admissionregistration.k8s.io", "validatingadmissionpolicies");
    let Some(storage) = policies.and_then(|policies| policies.storage.clone()) else { return };
    let client = server.own_client();
    server.spawn(follow(server.clone(), storage, client));
}

async fn follow(server: Server, storage: Arc<Storage>, client: Client) {
    let Ok(cache) = storage.cache().await else { return };
    let mut passes = cache.passes();
    loop {
        passes.next().await;
        tokio::time::sleep(GATHER).await;
        check_all(&server, cache, &client).await;
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
    let asked = Asked::of(spec);
    let mut faults = vec![String::new(); asked.variables.len() + asked.validations.len()];
    for resource in types(registry, &spec["matchConstraints"]) {
        let Some(schema) = resource.schema.get() else { continue };
        let version = match resource.group.as_str() {
            "" => format!("/{}", resource.version),
            _ => resource.api_version(),
        };
        for (told, fault) in faults.iter_mut().zip(asked.faults(schema)) {
            let Some(fault) = fault else { continue };
            let fault = fault.trim_start_matches("compilation failed: ");
            told.push_str(&format!("{version}, Kind={}: {fault}\n", resource.kind));
        }
    }
    let places = asked.variables.iter().map(|(place, ..)| place);
    let places = places.chain(asked.validations.iter().map(|(place, _)| place));
    let told = places.zip(faults).filter(|(_, faults)| !faults.is_empty());
    told.map(|(place, faults)| json!({"fieldRef": place, "warning": faults})).collect()
}

/// The expressions of a policy that are checked, with their places.
struct Asked<'a> {
    /// Places, names and expressions, in the order in which they see each other.
    variables: Vec<(String, &'a str, &'a str)>,
    /// Places and expressions that see all variables.
    validations: Vec<(String, &'a str)>,
}

impl<'a> Asked<'a> {
    fn of(spec: &'a Value) -> Self {
        let list = |key: &str| spec[key].as_array().map(Vec::as_slice).unwrap_or_default();
        let text = |of: &'a Value, key: &str| of[key].as_str().unwrap_or_default();
        let variable = |(n, of)| {
            (format!("spec.variables[{n}].expression"), text(of, "name"), text(of, "expression"))
        };
        let variables = list("variables").iter().enumerate().map(variable).collect();
        let mut validations = Vec::new();
        for (n, validation) in list("validations").iter().enumerate() {
            for key in ["expression", "messageExpression"] {
                validations.push((format!("spec.validations[{n}].{key}"), text(validation, key)));
            }
        }
        validations.retain(|(_, source)| !source.is_empty());
        Self { variables, validations }
    }

    /// What is wrong with each of them, over one type: first the variables, then the validations.
    fn faults(&self, schema: &Schema) -> Vec<Option<String>> {
        let scope = ExpressionScope::new(Some(schema));
        let mut scope = scope.with_params(true).with_authorizer().with_variables();
        let mut faults = Vec::new();
        for (_, name, source) in &self.variables {
            let fault = scope.declare(name, source).err();
            faults.push(fault.filter(|_| !source.is_empty()));
        }
        faults.extend(self.validations.iter().map(|(_, source)| scope.check(source, &[]).err()));
        faults
    }
}

/// The types that a policy names one by one.
fn types(registry: &Registry, constraints: &Value) -> Vec<Arc<Resource>> {
    let mut found: Vec<Arc<Resource>> = Vec::new();
    let all = || registry.resources();
    let groups: HashSet<&str> = all().map(|r| r.group.as_str()).collect();
    let versions: HashSet<&str> = all().map(|r| r.version.as_str()).collect();
    let names: HashSet<&str> = all().map(|r| r.name.as_str()).collect();
    for rule in constraints["resourceRules"].as_array().into_iter().flatten() {
        let (versions, names) =
            (known(&rule["apiVersions"], &versions), known(&rule["resources"], &names));
        for group in known(&rule["apiGroups"], &groups) {
            for version in &versions {
                for name in &names {
                    if found.len() == TYPES {
                        return found;
                    }
                    let resource = registry.get(group, version, name).cloned();
                    let is_new = |r: &Arc<Resource>| !found.iter().any(|f| Arc::ptr_eq(f, r));
                    found.extend(resource.filter(is_new));
                }
            }
        }
    }
    found
}

/// The texts of a list that are known, each once.
fn known<'a>(list: &'a Value, known: &HashSet<&str>) -> Vec<&'a str> {
    let mut seen = HashSet::new();
    let texts = list.as_array().into_iter().flatten().filter_map(Value::as_str);
    texts.filter(|text| known.contains(text) && seen.insert(*text)).collect()
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
