//! Subresources that are more than a part of the object, and types that are only passed through.

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::kind::Part;
use super::update::{Change, Plan, update};
use super::{DeleteOptions, Writer, decode, delete, meta, told};
use crate::admission;
use crate::handlers::options::WriteOptions;
use crate::handlers::selector::Labels;
use crate::handlers::{Call, respond};
use crate::identity::reviews;
use crate::request::RequestInfo;
use crate::status::{ApiError, GroupResource};
use crate::types::conditions;

/// Answers requests for special subresources; `None` if it is an ordinary write.
pub(super) async fn handle(call: &Call<'_>, body: &[u8]) -> Result<Option<Response>, ApiError> {
    let core_group = call.resource.group.is_empty();
    let name = call.resource.name.as_str();
    let response = match (name, call.info.subresource.as_str(), call.info.verb.as_str()) {
        (_, "scale", _) => super::scale::handle(call, body).await?,
        ("pods", "binding", "create") if core_group => bind(call, body).await?,
        ("bindings", "", "create") if core_group => bind(call, body).await?,
        ("pods", "eviction", "create") if core_group => evict(call, body).await?,
        ("serviceaccounts", "token", "create") if core_group => token(call, body).await?,
        _ if call.resource.storage.is_none() && call.info.verb == "create" => {
            review(call, body).await?
        }
        _ if call.resource.storage.is_none() => return Err(ApiError::MethodNotAllowed),
        _ => return Ok(None),
    };
    Ok(Some(response))
}

/// Decodes a body of another kind than the resource's, which is in the namespace of the request.
fn other_kind(
    call: &Call<'_>,
    writer: &mut Writer<'_>,
    body: &[u8],
    kind: &Part,
) -> Result<Value, ApiError> {
    let mut object = writer.decode_part(kind, body, decode::body_format(call.headers)?)?;
    meta::fit_namespace(writer, &mut object)?;
    Ok(object)
}

fn success(call: &Call<'_>) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    respond::formatted(&call.output, StatusCode::CREATED, status.to_string().into())
}

/// An object that is posted to a pod must name the pod.
fn fit_url(call: &Call<'_>, kind: &str, object: &Value) -> Result<(), ApiError> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if call.info.name.is_empty() || name == call.info.name {
        return Ok(());
    }
    Err(ApiError::BadRequest(format!("name in URL does not match name in {kind} object")))
}

/// A subresource name in messages, such as `pods/binding`.
fn part(name: &str) -> GroupResource {
    GroupResource::new("", format!("pods/{name}"))
}

/// Assigns a pod to a node, once.
async fn bind(call: &Call<'_>, body: &[u8]) -> Result<Response, ApiError> {
    let options = WriteOptions::parse(&call.query, call.method)?;
    let mut writer = Writer::new(call, options);
    let binding = other_kind(call, &mut writer, body, &Part::BINDING)?;
    let warnings = std::mem::take(&mut writer.warnings);
    told(call, &warnings, bind_to(call, writer, binding).await)
}

async fn bind_to(
    call: &Call<'_>,
    writer: Writer<'_>,
    mut binding: Value,
) -> Result<Response, ApiError> {
    let meta_of = &binding["metadata"];
    let name = if call.info.name.is_empty() {
        meta_of["name"].as_str().unwrap_or_default()
    } else {
        &call.info.name
    };
    let name = name.to_owned();
    let registry = call.registry.clone();
    let pods = registry.find("", "pods").ok_or(ApiError::NoResource)?;
    let info = RequestInfo { name: name.clone(), ..call.info.clone() };
    let mut writer = Writer { resource: pods, info: &info, ..writer };
    admission::pass(&mut writer, Some("binding"), &mut binding).await?;
    writer.admitted = true;
    fit_url(call, "Binding", &binding)?;
    let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
    let kind = binding["target"]["kind"].as_str().unwrap_or_default();
    let mut faults = Vec::new();
    if !matches!(kind, "" | "Node") {
        let kinds = ["Node", "<empty>"];
        faults.push(schema::Cause::not_supported("target.kind", &kind.into(), kinds));
    }
    if node.is_empty() {
        faults.push(schema::Cause::required("target.name", ""));
    }
    let faults: Vec<String> =
        faults.iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect();
    // Upstream does not make a status of them.
    match faults.as_slice() {
        [] => (),
        [one] => return Err(ApiError::Unknown(one.clone())),
        many => return Err(ApiError::Unknown(format!("[{}]", many.join(", ")))),
    }
    // Upstream records no owner of what a binding writes.
    let plan = Plan::new(&name, Some("binding"), None);
    update(&mut writer, &plan, |writer, pod| assign(writer, &plan.name, pod, &binding, &node))
        .await?;
    Ok(success(call))
}

fn assign(
    writer: &mut Writer<'_>,
    name: &str,
    pod: &Value,
    binding: &Value,
    node: &str,
) -> Result<Change, ApiError> {
    let conflict = |message: String| ApiError::Conflict {
        resource: part("binding"),
        name: name.to_owned(),
        message,
    };
    let (uid, known) = (&binding["metadata"]["uid"], &pod["metadata"]["uid"]);
    if let Some(uid) = uid.as_str().filter(|u| !u.is_empty() && *known != *u) {
        return Err(super::update::uid_conflict(
            writer,
            name,
            uid,
            known.as_str().unwrap_or_default(),
        ));
    }
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return Err(conflict(format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    if let Some(other) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
        return Err(conflict(format!("pod {name} is already assigned to node \"{other}\"")));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()) {
        return Err(conflict(format!("pod {name} has non-empty .spec.schedulingGates")));
    }
    let mut pod = pod.clone();
    pod["spec"]["nodeName"] = node.into();
    for map in ["annotations", "labels"] {
        for (key, value) in binding["metadata"][map].as_object().into_iter().flatten() {
            pod["metadata"][map][key] = value.clone();
        }
    }
    let now = meta::now();
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    conditions::set(&mut pod["status"], condition);
    Ok(Change::To(pod))
}

/// Deletes a pod if its disruption budget has room.
async fn evict(call: &Call<'_>, body: &[u8]) -> Result<Response, ApiError> {
    let options = WriteOptions::parse(&call.query, call.method)?;
    let mut writer = Writer::new(call, options);
    let eviction = other_kind(call, &mut writer, body, &Part::EVICTION)?;
    let warnings = std::mem::take(&mut writer.warnings);
    told(call, &warnings, evict_by(call, writer, eviction).await)
}

async fn evict_by(
    call: &Call<'_>,
    mut writer: Writer<'_>,
    mut eviction: Value,
) -> Result<Response, ApiError> {
    let mut options = writer.options.clone();
    fit_url(call, "Eviction", &eviction)?;
    admission::pass(&mut writer, Some("eviction"), &mut eviction).await?;
    let asked = &eviction["deleteOptions"];
    let dry: Vec<&str> =
        asked["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let deletion = DeleteOptions::from_value(asked, &dry)?;
    options.dry_run |= deletion.dry_run;
    let deletion = DeleteOptions { dry_run: options.dry_run, ..deletion };
    // Admission has seen the eviction as a whole, and is not asked about its parts.
    let mut writer = Writer { admitted: true, options, ..writer };
    let name = call.info.name.clone();
    let entry = writer.load(&name).await?.ok_or_else(|| call.resource.not_found(&name))?;
    let pod = writer.parse(&entry).await?;
    let lenient = match needs_budget(&pod) {
        true => take_budget(call, &writer, &pod).await?,
        false => None,
    };
    let seen = lenient.is_some().then(|| entry.revision.to_string());
    match remove(call, &mut writer, &pod, seen, deletion).await {
        Err(ApiError::Conflict { .. }) if let Some(budget) = lenient => Err(in_progress(&budget)),
        Err(error) => Err(error),
        Ok(()) => Ok(success(call)),
    }
}

/// Marks the pod as evicted and deletes it; only as it was `seen`, if that is given.
async fn remove(
    call: &Call<'_>,
    writer: &mut Writer<'_>,
    pod: &Value,
    mut seen: Option<String>,
    deletion: DeleteOptions,
) -> Result<(), ApiError> {
    let name = &call.info.name;
    let assigned = pod["spec"]["nodeName"].as_str().is_some_and(|n| !n.is_empty());
    let over = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if assigned && !over {
        let agent = meta::agent(call.headers);
        let plan = Plan::new(name, Some("status"), Some(&agent));
        let condition = json!({"type": "DisruptionTarget", "status": "True", "lastProbeTime": null,
            "lastTransitionTime": meta::now(), "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"});
        let marked = update(writer, &plan, |writer, pod| {
            let now = pod["metadata"]["resourceVersion"].as_str();
            if seen.is_some() && seen.as_deref() != now {
                return Err(writer.conflict(name));
            }
            let mut pod = pod.clone();
            conditions::set(&mut pod["status"], condition.clone());
            Ok(Change::To(pod))
        })
        .await?;
        if seen.is_some() && !writer.options.dry_run {
            let marked: Value = serde_json::from_slice(&marked).map_err(ApiError::internal)?;
            seen = marked["metadata"]["resourceVersion"].as_str().map(str::to_owned);
        }
    }
    let resource_version = deletion.resource_version.or(seen);
    delete(writer, name, &DeleteOptions { resource_version, ..deletion }).await?;
    Ok(())
}

/// Whether the pod is neither over nor on its way out.
fn is_alive(pod: &Value) -> bool {
    !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
        && pod["metadata"]["deletionTimestamp"].is_null()
}

/// A pod that is over, waits, or goes already disrupts nobody.
fn needs_budget(pod: &Value) -> bool {
    is_alive(pod) && pod["status"]["phase"] != "Pending"
}

/// Takes one disruption from the budget that covers the pod. One that lets the pod go without, as it is not healthy,
/// is answered by name.
async fn take_budget(
    call: &Call<'_>,
    writer: &Writer<'_>,
    pod: &Value,
) -> Result<Option<String>, ApiError> {
    let Some(budgets) = call.registry.find("policy", "poddisruptionbudgets") else {
        return Ok(None);
    };
    let cache = budgets.storage()?.cache().await?;
    cache.fresh().await?;
    let mut covering = Vec::new();
    for object in cache.list(Some(writer.namespace())).iter() {
        let budget: Value = serde_json::from_slice(&object.json()).map_err(ApiError::internal)?;
        let selector = &budget["spec"]["selector"];
        if !selector.is_null() && Labels::selects(selector, &pod["metadata"]["labels"]) {
            covering.push((object.name().to_owned(), budget));
        }
    }
    let name = match covering.as_slice() {
        [] => return Ok(None),
        [(name, budget)] if !conditions::is_true(pod, "Ready") && spares_unhealthy(budget) => {
            return Ok(Some(name.clone()));
        }
        [(name, _)] => name.clone(),
        _ => {
            return Err(ApiError::Internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.".to_owned(),
            ));
        }
    };
    let info = RequestInfo {
        group: "policy".to_owned(),
        resource: "poddisruptionbudgets".to_owned(),
        subresource: "status".to_owned(),
        name: name.clone(),
        verb: "patch".to_owned(),
        ..call.info.clone()
    };
    let mut writer = Writer {
        resource: budgets,
        info: &info,
        admitted: true,
        ..Writer::new(call, writer.options.clone())
    };
    let agent = meta::agent(call.headers);
    let plan = Plan::new(&name, Some("status"), Some(&agent));
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    update(&mut writer, &plan, |_, budget| spend(budget, pod_name)).await?;
    Ok(None)
}

/// Whether pods that are not healthy may go without taking a disruption from the budget.
///
/// Source: KEP-3017.
fn spares_unhealthy(budget: &Value) -> bool {
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let (healthy, desired) = (number("currentHealthy"), number("desiredHealthy"));
    budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        || (healthy >= desired && desired > 0)
}

fn refused(text: String, retry_after: u32) -> ApiError {
    ApiError::TooManyRequests {
        message: "Cannot evict pod as it would violate the pod's disruption budget.".to_owned(),
        retry_after,
        causes: vec![crate::StatusCause::new("DisruptionBudget", "", text)],
    }
}

fn in_progress(budget: &str) -> ApiError {
    let text = format!("The disruption budget {budget} is still being processed by the server.");
    refused(text, 10)
}

fn spend(budget: &Value, pod: &str) -> Result<Change, ApiError> {
    let status = &budget["status"];
    let name = budget["metadata"]["name"].as_str().unwrap_or_default();
    if status["observedGeneration"].as_i64().unwrap_or(0)
        < budget["metadata"]["generation"].as_i64().unwrap_or(0)
    {
        return Err(in_progress(name));
    }
    let allowed = status["disruptionsAllowed"].as_i64().unwrap_or(0);
    if allowed <= 0 {
        let healthy = status["currentHealthy"].as_i64().unwrap_or(0);
        let desired = status["desiredHealthy"].as_i64().unwrap_or(0);
        return Err(refused(
            format!(
                "The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"
            ),
            0,
        ));
    }
    let mut budget = budget.clone();
    budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
    budget["status"]["disruptedPods"][pod] = meta::now().into();
    if allowed == 1 {
        conditions::set(
            &mut budget["status"],
            json!({"type": "DisruptionAllowed", "status": "False",
            "observedGeneration": status["observedGeneration"], "lastTransitionTime": meta::now(),
            "reason": "InsufficientPods", "message": ""}),
        );
    }
    Ok(Change::To(budget))
}

fn review_context<'a>(call: &'a Call<'_>) -> reviews::Context<'a> {
    reviews::Context {
        user: call.user,
        namespace: call.namespace(),
        authenticator: &call.core.authenticator,
        authorizer: &call.core.authorizer,
        objects: call.core.as_ref(),
        limits: &call.core.config.identity.accounts,
        now: jiff::Timestamp::now(),
    }
}

/// Issues a token for a service account.
async fn token(call: &Call<'_>, body: &[u8]) -> Result<Response, ApiError> {
    let options = WriteOptions::parse(&call.query, call.method)?;
    let mut writer = Writer::new(call, options);
    let request = other_kind(call, &mut writer, body, &Part::TOKEN)?;
    let warnings = std::mem::take(&mut writer.warnings);
    told(call, &warnings, issue(call, writer, request).await)
}

async fn issue(
    call: &Call<'_>,
    mut writer: Writer<'_>,
    mut request: Value,
) -> Result<Response, ApiError> {
    own_token_request(&writer, &mut request, &meta::agent(call.headers));
    admission::pass(&mut writer, Some("token"), &mut request).await?;
    call.core.fresh(&["serviceaccounts", "pods", "secrets", "nodes"]).await?;
    let answer = reviews::token_request(&review_context(call), &call.info.name, &request)?;
    Ok(created(call, &answer))
}

/// Defaults a request for a token, and records whose its fields are.
fn own_token_request(writer: &Writer<'_>, request: &mut Value, agent: &str) {
    if request["spec"]["expirationSeconds"].is_null() {
        request["spec"]["expirationSeconds"] = 3600.into();
    }
    let (manager, time) = (writer.manager(agent), meta::now());
    let who = schema::apply::Writer {
        manager: &manager,
        api_version: "authentication.k8s.io/v1",
        subresource: "token",
        time: &time,
    };
    if let Some(schema) = Part::TOKEN.schema() {
        schema.track_update(None, request, &who);
    }
}

/// Answers a review: the object with its status, nothing is stored.
async fn review(call: &Call<'_>, body: &[u8]) -> Result<Response, ApiError> {
    let options = WriteOptions::parse(&call.query, call.method)?;
    let mut writer = Writer::new(call, options);
    let mut object = writer.decode(body, decode::body_format(call.headers)?)?;
    meta::fit_namespace(&writer, &mut object)?;
    writer.default(&mut object);
    meta::track(&writer, None, &mut object, &meta::agent(call.headers));
    admission::pass(&mut writer, None, &mut object).await?;
    let answer = reviews::answer(&review_context(call), &call.resource.name, &object).await;
    let mut response = match answer.ok_or(ApiError::MethodNotAllowed)? {
        Ok(answer) => created(call, &answer),
        Err(refusal) => respond::error(refusal, call.output.format),
    };
    respond::warn(&mut response, &writer.warnings);
    Ok(response)
}

fn created(call: &Call<'_>, object: &Value) -> Response {
    let body: Bytes = serde_json::to_vec(object).unwrap_or_default().into();
    respond::formatted(&call.output, StatusCode::CREATED, body)
}
