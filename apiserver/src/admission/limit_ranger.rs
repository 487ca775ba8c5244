//! What limit ranges do: fill in requests and limits of new pods, and refuse what is out of range.

use quota::pod::{Side, total};
use quota::{Amount, Amounts};
use serde_json::Value;

use super::{Admitted, Attributes, Operation, Plugin, Resources, pods};
use crate::status::ApiError;
use crate::types::check::{ensure, items, items_mut, members, part, text};

/// Where a pod tells what was filled in.
const NOTE: &str = "kubernetes.io/limit-ranger";

/// Source: upstream `plugin/pkg/admission/limitranger`.
pub(super) struct LimitRanger;

impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    fn resources(&self) -> Resources {
        Resources::Only(&[("", "pods"), ("", "persistentvolumeclaims")])
    }

    fn admit<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        object: &'a mut Value,
    ) -> Admitted<'a> {
        Box::pin(async move {
            if is_concerned(attributes) && attributes.resource.name == "pods" {
                for range in ranges(attributes).await? {
                    fill(object, items(&range["spec"]["limits"]));
                }
            }
            Ok(())
        })
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        object: &'a Value,
    ) -> Admitted<'a> {
        Box::pin(async move {
            if !is_concerned(attributes) {
                return Ok(());
            }
            for range in ranges(attributes).await? {
                let limits = items(&range["spec"]["limits"]);
                let faults = match &*attributes.resource.name {
                    "pods" => pod_faults(&object["spec"], limits),
                    _ => claim_faults(object, limits),
                };
                refuse(attributes, object, &faults)?;
            }
            Ok(())
        })
    }
}

/// Containers of a pod cannot be changed but through `resize`, so that its other updates are not looked at.
fn is_concerned(attributes: &Attributes<'_>) -> bool {
    let (update, pod) =
        (attributes.operation == Operation::Update, attributes.resource.name == "pods");
    let going = attributes.old.is_some_and(|old| !old["metadata"]["deletionTimestamp"].is_null());
    let concerned = match attributes.subresource {
        "" => !(update && pod),
        "resize" => update && pod,
        _ => false,
    };
    concerned && !going
}

async fn ranges(attributes: &Attributes<'_>) -> Result<Vec<Value>, ApiError> {
    attributes.list("", "limitranges", Some(attributes.namespace)).await
}

fn refuse(attributes: &Attributes<'_>, object: &Value, faults: &[String]) -> Result<(), ApiError> {
    match faults {
        [] => Ok(()),
        [one] => Err(attributes.forbidden(object, one)),
        many => Err(attributes.forbidden(object, format!("[{}]", many.join(", ")))),
    }
}

/// Fills in what containers do not say, and notes it.
fn fill(pod: &mut Value, limits: &[Value]) {
    let mut notes = Vec::new();
    let Some(spec) = part(pod, "spec") else { return };
    let (requests, most) = (defaults(limits, "defaultRequest"), defaults(limits, "default"));
    for (list, what) in [pods::LISTS[1], pods::LISTS[0]] {
        for container in items_mut(spec, list) {
            let name = text(container, "name").to_owned();
            for (field, defaults, word) in
                [("requests", &requests, "request"), ("limits", &most, "limit")]
            {
                let set = set_missing(container, field, defaults);
                if !set.is_empty() {
                    notes.push(format!("{} {word} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        ensure(&mut pod["metadata"], "annotations").insert(NOTE.to_owned(), note.into());
    }
}

/// What containers get that do not say it.
fn defaults(limits: &[Value], field: &str) -> Vec<(String, Value)> {
    let of_containers = limits.iter().filter(|limit| text(limit, "type") == "Container");
    let amounts = of_containers.flat_map(|limit| members(&limit[field]));
    amounts.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Sets amounts that a container does not have; answers their names.
fn set_missing(container: &mut Value, field: &str, defaults: &[(String, Value)]) -> Vec<String> {
    let missing = |(name, _): &&(String, Value)| container["resources"][field][name].is_null();
    let missing: Vec<_> = defaults.iter().filter(missing).cloned().collect();
    if missing.is_empty() {
        return Vec::new();
    }
    ensure(container, "resources");
    let amounts = ensure(&mut container["resources"], field);
    let mut names: Vec<String> = missing.iter().map(|(name, _)| name.clone()).collect();
    amounts.extend(missing);
    names.sort();
    names
}

fn claim_faults(claim: &Value, limits: &[Value]) -> Vec<String> {
    let requests = Amounts::read(&claim["spec"]["resources"]["requests"]);
    let of_claims = limits.iter().filter(|limit| text(limit, "type") == "PersistentVolumeClaim");
    let mut faults = Vec::new();
    for limit in of_claims {
        let range = Range { limit, kind: "PersistentVolumeClaim" };
        range.minimum(&requests, &Amounts::default(), &mut faults);
        range.maximum_of_claim(&requests, &mut faults);
    }
    faults
}

fn pod_faults(spec: &Value, limits: &[Value]) -> Vec<String> {
    let mut faults = Vec::new();
    for limit in limits {
        match text(limit, "type") {
            "Container" => {
                let range = Range { limit, kind: "Container" };
                // Ephemeral containers have no resources.
                let all = items(&spec["containers"]).iter().chain(items(&spec["initContainers"]));
                for resources in all.map(|container| &container["resources"]) {
                    let requests = Amounts::read(&resources["requests"]);
                    range.check(&requests, &Amounts::read(&resources["limits"]), &mut faults);
                }
            }
            "Pod" => {
                let range = Range { limit, kind: "Pod" };
                range.check(&total(spec, Side::Requests), &total(spec, Side::Limits), &mut faults);
            }
            _ => (),
        }
    }
    faults
}

/// One entry of a limit range; faults are in upstream's words.
struct Range<'a> {
    limit: &'a Value,
    kind: &'a str,
}

impl Range<'_> {
    fn check(&self, requests: &Amounts, limits: &Amounts, faults: &mut Vec<String>) {
        self.minimum(requests, limits, faults);
        self.maximum(requests, limits, faults);
        self.ratio(requests, limits, faults);
    }

    fn minimum(&self, requests: &Amounts, limits: &Amounts, faults: &mut Vec<String>) {
        for (name, min) in Amounts::read(&self.limit["min"]).0 {
            let start = format!("minimum {name} usage per {} is {min}", self.kind);
            match (requests.get(&name), limits.get(&name)) {
                (None, _) => faults.push(format!("{start}.  No request is specified")),
                (Some(request), _) if request.nano < min.nano => {
                    faults.push(format!("{start}, but request is {request}"));
                }
                (_, Some(limit)) if limit.nano < min.nano => {
                    faults.push(format!("{start}, but limit is {limit}"));
                }
                _ => (),
            }
        }
    }

    fn maximum(&self, requests: &Amounts, limits: &Amounts, faults: &mut Vec<String>) {
        for (name, max) in Amounts::read(&self.limit["max"]).0 {
            let start = format!("maximum {name} usage per {} is {max}", self.kind);
            match (requests.get(&name), limits.get(&name)) {
                (_, None) => faults.push(format!("{start}.  No limit is specified")),
                (_, Some(limit)) if limit.nano > max.nano => {
                    faults.push(format!("{start}, but limit is {limit}"));
                }
                (Some(request), _) if request.nano > max.nano => {
                    faults.push(format!("{start}, but request is {request}"));
                }
                _ => (),
            }
        }
    }

    /// Claims have requests alone.
    fn maximum_of_claim(&self, requests: &Amounts, faults: &mut Vec<String>) {
        for (name, max) in Amounts::read(&self.limit["max"]).0 {
            let start = format!("maximum {name} usage per {} is {max}", self.kind);
            match requests.get(&name) {
                None => faults.push(format!("{start}.  No request is specified")),
                Some(request) if request.nano > max.nano => {
                    faults.push(format!("{start}, but request is {request}"));
                }
                Some(_) => (),
            }
        }
    }

    fn ratio(&self, requests: &Amounts, limits: &Amounts, faults: &mut Vec<String>) {
        for (name, ratio) in Amounts::read(&self.limit["maxLimitRequestRatio"]).0 {
            let start = format!("{name} max limit to request ratio per {} is {ratio}", self.kind);
            let some = |amount: Option<Amount>| amount.filter(|amount| amount.nano != 0);
            let Some(request) = some(requests.get(&name)) else {
                faults.push(format!("{start}, but no request is specified or request is 0"));
                continue;
            };
            let Some(limit) = some(limits.get(&name)) else {
                faults.push(format!("{start}, but no limit is specified or limit is 0"));
                continue;
            };
            let observed = as_float(limit) / as_float(request);
            if observed > as_float(ratio) / 1e9 {
                faults.push(format!("{start}, but provided ratio is {observed:.6}"));
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "upstream compares and prints floats as well")]
fn as_float(amount: Amount) -> f64 {
    amount.nano as f64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_are_filled_in_and_noted() {
        let limit = json!({"type": "Container", "default": {"cpu": "500m", "memory": "256Mi"}, "defaultRequest": {"cpu": "100m", "memory": "256Mi"}});
        let mut pod = json!({"metadata": {}, "spec": {"containers": [{"name": "a"}]}});
        fill(&mut pod, &[limit]);
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
            pod_faults(&spec, &[limit]),
            [
                "minimum cpu usage per Container is 50m, but request is 10m",
                "maximum cpu usage per Container is 1, but limit is 2",
                "memory max limit to request ratio per Container is 2, but provided ratio is 10.240000"
            ]
        );
    }

    #[test]
    fn a_pod_is_the_sum_of_its_containers() {
        let limit = json!({"type": "Pod", "max": {"cpu": "1"}});
        let half = json!({"resources": {"limits": {"cpu": "600m"}, "requests": {"cpu": "600m"}}});
        let spec = json!({"containers": [half, half]});
        assert_eq!(
            pod_faults(&spec, &[limit]),
            ["maximum cpu usage per Pod is 1, but limit is 1200m"]
        );
    }
}
