//! Limit ranges: their own rules, and what they do to new pods and claims.

use schema::Cause;
use serde_json::{Map, Value};

use super::check::{At, Causes, ensure, items, items_mut, members, nano, part, shown, text};
use super::pod::forbidden;
use super::{Ctx, Strategy};
use crate::status::ApiError;

/// Where a pod tells what was filled in.
const NOTE: &str = "kubernetes.io/limit-ranger";

/// Strategy of `limitranges`.
pub(crate) struct LimitRanges;

impl Strategy for LimitRanges {
    fn default(&self, obj: &mut Value) {
        for limit in part(obj, "spec").into_iter().flat_map(|spec| items_mut(spec, "limits")) {
            if text(limit, "type") != "Container" {
                continue;
            }
            fill(limit, "default", "max");
            fill(limit, "defaultRequest", "default");
            fill(limit, "defaultRequest", "min");
        }
    }

    fn validate(
        &self,
        obj: &Value,
        _old: Option<&Value>,
        _subresource: Option<&str>,
    ) -> Vec<Cause> {
        let mut causes = Causes::default();
        let at = At::new("spec");
        let at = at.field("limits");
        for (n, limit) in items(&obj["spec"]["limits"]).iter().enumerate() {
            let at = at.index(n);
            if text(limit, "type") == "Pod" {
                for field in ["default", "defaultRequest"] {
                    if !limit[field].is_null() {
                        causes.forbidden(
                            &at.field(field),
                            "may not be specified when `type` is 'Pod'",
                        );
                    }
                }
            }
            for (name, min) in members(&limit["min"]) {
                let max = &limit["max"][name];
                if !max.is_null() && nano(min) > nano(max) {
                    let fault = format!(
                        "min value {} is greater than max value {}",
                        plain(min),
                        plain(max)
                    );
                    causes.invalid(&at.field("min").key(name), &shown(min), &fault);
                }
            }
        }
        causes.0
    }
}

fn fill(limit: &mut Value, field: &str, from: &str) {
    let source: Vec<(String, Value)> =
        members(&limit[from]).map(|(k, v)| (k.clone(), v.clone())).collect();
    for (name, value) in source {
        ensure(limit, field).entry(name).or_insert(value);
    }
}

fn plain(quantity: &Value) -> String {
    shown(quantity).as_str().unwrap_or_default().to_owned()
}

/// The limits of the request's namespace.
async fn limits(ctx: &Ctx<'_>) -> Result<Vec<Value>, ApiError> {
    let registry = ctx.core.registry();
    let Some(ranges) = registry.find("", "limitranges") else { return Ok(Vec::new()) };
    let cache = ranges.storage()?.cache().await?;
    cache.fresh().await.map_err(ApiError::internal)?;
    let mut out = Vec::new();
    for object in cache.list(Some(&ctx.request.namespace)).iter() {
        let range: Value = serde_json::from_slice(object.stored()).map_err(ApiError::internal)?;
        out.extend(items(&range["spec"]["limits"]).iter().cloned());
    }
    Ok(out)
}

/// Fills in a new pod's requests and limits, and refuses it if they are out of range.
pub(super) async fn pod(ctx: &Ctx<'_>, pod: &mut Value) -> Result<(), ApiError> {
    let limits = limits(ctx).await?;
    if limits.is_empty() {
        return Ok(());
    }
    defaults(pod, &limits);
    let name = text(&pod["metadata"], "name").to_owned();
    refuse("pods", &name, faults(&pod["spec"], &limits))
}

/// Refuses a new claim that is out of range.
pub(super) async fn claim(ctx: &Ctx<'_>, claim: &Value) -> Result<(), ApiError> {
    let limits = limits(ctx).await?;
    let mut faults = Vec::new();
    for limit in limits.iter().filter(|l| text(l, "type") == "PersistentVolumeClaim") {
        let requests = &claim["spec"]["resources"]["requests"];
        check(limit, requests, &Value::Null, "PersistentVolumeClaim", &mut faults);
    }
    refuse("persistentvolumeclaims", text(&claim["metadata"], "name"), faults)
}

fn refuse(resource: &str, name: &str, faults: Vec<String>) -> Result<(), ApiError> {
    match faults.as_slice() {
        [] => Ok(()),
        [one] => Err(forbidden(resource, name, one)),
        many => Err(forbidden(resource, name, &format!("[{}]", many.join(", ")))),
    }
}

fn defaults(pod: &mut Value, limits: &[Value]) {
    let mut notes = Vec::new();
    for limit in limits.iter().filter(|l| text(l, "type") == "Container") {
        for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
            for container in items_mut(&mut pod["spec"], list) {
                let name = text(container, "name").to_owned();
                ensure(container, "resources");
                let resources = &mut container["resources"];
                for (field, from, word) in
                    [("requests", "defaultRequest", "request"), ("limits", "default", "limit")]
                {
                    let set = set_missing(resources, field, &limit[from]);
                    if !set.is_empty() {
                        notes.push(format!("{} {word} for {what} {name}", set.join(", ")));
                    }
                }
            }
        }
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        ensure(&mut pod["metadata"], "annotations").insert(NOTE.to_owned(), note.into());
    }
}

fn set_missing(resources: &mut Value, field: &str, from: &Value) -> Vec<String> {
    let mut set = Vec::new();
    for (name, value) in members(from) {
        if resources[field][name].is_null() {
            if !resources.is_object() {
                *resources = Value::Object(Map::new());
            }
            ensure(resources, field).insert(name.clone(), value.clone());
            set.push(name.clone());
        }
    }
    set.sort();
    set
}

fn faults(spec: &Value, limits: &[Value]) -> Vec<String> {
    let mut faults = Vec::new();
    for limit in limits {
        match text(limit, "type") {
            "Container" => {
                for container in
                    items(&spec["containers"]).iter().chain(items(&spec["initContainers"]))
                {
                    let resources = &container["resources"];
                    check(
                        limit,
                        &resources["requests"],
                        &resources["limits"],
                        "Container",
                        &mut faults,
                    );
                }
            }
            "Pod" => {
                let (requests, limits) = (total(spec, "requests"), total(spec, "limits"));
                check(limit, &requests, &limits, "Pod", &mut faults);
            }
            _ => (),
        }
    }
    faults
}

/// Sums of the containers' amounts.
fn total(spec: &Value, field: &str) -> Value {
    let mut sums: std::collections::BTreeMap<String, i128> = std::collections::BTreeMap::new();
    for container in items(&spec["containers"]) {
        for (name, amount) in members(&container["resources"][field]) {
            let sum = sums.entry(name.clone()).or_default();
            *sum = sum.saturating_add(nano(amount));
        }
    }
    let text = |n: i128| schema::quantity::canonical(&format!("{n}n")).unwrap_or_default();
    sums.into_iter().map(|(name, sum)| (name, Value::from(text(sum)))).collect::<Map<_, _>>().into()
}

/// Compares amounts with one limit, in upstream's words.
fn check(limit: &Value, requests: &Value, limits: &Value, kind: &str, faults: &mut Vec<String>) {
    let of_claim = kind == "PersistentVolumeClaim";
    for (name, min) in members(&limit["min"]) {
        let (request, most) = (&requests[name], &limits[name]);
        let start = format!("minimum {name} usage per {kind} is {}", plain(min));
        if request.is_null() {
            faults.push(format!("{start}.  No request is specified"));
        } else if nano(request) < nano(min) {
            faults.push(format!("{start}, but request is {}", plain(request)));
        }
        if !most.is_null() && nano(most) < nano(min) {
            faults.push(format!("{start}, but limit is {}", plain(most)));
        }
    }
    for (name, max) in members(&limit["max"]) {
        let (request, most) = (&requests[name], &limits[name]);
        let start = format!("maximum {name} usage per {kind} is {}", plain(max));
        if !most.is_null() && nano(most) > nano(max) {
            faults.push(format!("{start}, but limit is {}", plain(most)));
        } else if most.is_null() && !of_claim {
            faults.push(format!("{start}.  No limit is specified"));
        }
        if !request.is_null() && nano(request) > nano(max) {
            faults.push(format!("{start}, but request is {}", plain(request)));
        }
    }
    for (name, ratio) in members(&limit["maxLimitRequestRatio"]) {
        let (request, most) = (nano(&requests[name]), nano(&limits[name]));
        if request > 0 && most > 0 {
            #[expect(clippy::cast_precision_loss, reason = "upstream prints a float as well")]
            let observed = most as f64 / request as f64;
            #[expect(clippy::cast_precision_loss, reason = "ratios are small")]
            let allowed = nano(ratio) as f64 / 1e9;
            if observed > allowed {
                faults.push(format!(
                    "{name} max limit to request ratio per {kind} is {}, but provided ratio is {observed:.6}",
                    plain(ratio)
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_are_filled_in_and_noted() {
        let limit = json!({"type": "Container", "default": {"cpu": "500m", "memory": "256Mi"}, "defaultRequest": {"cpu": "100m", "memory": "256Mi"}});
        let mut pod = json!({"metadata": {}, "spec": {"containers": [{"name": "a"}]}});
        super::defaults(&mut pod, &[limit]);
        assert_eq!(
            pod["metadata"]["annotations"][NOTE],
            "LimitRanger plugin set: cpu, memory request for container a; cpu, memory limit for container a"
        );
        assert_eq!(pod["spec"]["containers"][0]["resources"]["requests"]["cpu"], "100m");
    }

    #[test]
    fn amounts_are_compared() {
        let limit = json!({"type": "Container", "min": {"cpu": "50m"}, "max": {"cpu": "1"}, "maxLimitRequestRatio": {"memory": "2"}});
        let spec = json!({"containers": [{"resources": {"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "10m", "memory": "100Mi"}}}]});
        assert_eq!(
            faults(&spec, &[limit]),
            [
                "minimum cpu usage per Container is 50m, but request is 10m",
                "maximum cpu usage per Container is 1, but limit is 2",
                "memory max limit to request ratio per Container is 2, but provided ratio is 10.240000"
            ]
        );
    }
}
