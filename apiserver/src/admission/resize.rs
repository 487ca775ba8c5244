//! What is resized must fit: a pod onto its node, a claim into what its class can do.

use quota::pod::{Side, total_with_overhead};
use quota::{Amount, Amounts};
use serde_json::Value;

use super::{Admitted, Attributes, Operation, Plugin, Resources};
use crate::status::{ApiError, StatusCause};
use crate::types::check::text;

/// Source: upstream `plugin/pkg/admission/podresize`.
pub(super) struct PodResizeValidator;

impl Plugin for PodResizeValidator {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    fn resources(&self) -> Resources {
        Resources::Only(&[("", "pods")])
    }

    fn validate<'a>(&'a self, attributes: &'a mut Attributes<'_>, pod: &'a Value) -> Admitted<'a> {
        Box::pin(async move {
            let node = text(&pod["spec"], "nodeName");
            let changed = attributes
                .old
                .is_some_and(|old| old["metadata"]["generation"] != pod["metadata"]["generation"]);
            if attributes.subresource != "resize" || node.is_empty() || !changed {
                return Ok(());
            }
            let Some(node) = attributes.lookup("", "nodes", "", node).await? else {
                return Err(attributes.forbidden(pod, format!("node \"{node}\" not found")));
            };
            let Some((reason, why)) = misfit(&pod["spec"], &node) else { return Ok(()) };
            let causes = vec![StatusCause::new(reason, "", String::new())];
            Err(attributes.forbidden_for(pod, why, causes))
        })
    }
}

/// Why a resized pod cannot stay on its node.
fn misfit(spec: &Value, node: &Value) -> Option<(&'static str, String)> {
    let system = node["metadata"]["labels"]["kubernetes.io/os"].as_str();
    if let Some(system) = system.filter(|system| *system != "linux") {
        let name = text(&node["metadata"], "name");
        let why =
            format!("pod resize is only supported on linux nodes, node \"{name}\" is \"{system}\"");
        return Some(("UnsupportedPlatform", why));
    }
    let requests = total_with_overhead(spec, Side::Requests);
    let allocatable = Amounts::read(&node["status"]["allocatable"]);
    // Upstream shows CPU in thousandths, memory in bytes.
    let too_much =
        [("cpu", 1_000_000), ("memory", 1_000_000_000)].into_iter().filter_map(|(name, unit)| {
            let amount = |list: &Amounts| list.get(name).unwrap_or_default().nano;
            let (wanted, there) = (amount(&requests), amount(&allocatable));
            let shown = |nano: i128| (nano + unit - 1) / unit;
            (wanted > there).then(|| {
                format!("{name}, requested: {}, allocatable: {}", shown(wanted), shown(there))
            })
        });
    let too_much: Vec<String> = too_much.collect();
    let why = format!("node didn't have enough allocatable resources: {}", too_much.join("; "));
    (!too_much.is_empty()).then_some(("NodeCapacity", why))
}

/// Source: upstream `plugin/pkg/admission/storage/persistentvolume/resize`.
pub(super) struct PersistentVolumeClaimResize;

impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    fn resources(&self) -> Resources {
        Resources::Only(&[("", "persistentvolumeclaims")])
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        claim: &'a Value,
    ) -> Admitted<'a> {
        Box::pin(async move {
            let size =
                |claim: &Value| Amount::read(&claim["spec"]["resources"]["requests"]["storage"]);
            let Some(old) = attributes.old.filter(|_| attributes.subresource.is_empty()) else {
                return Ok(());
            };
            if size(claim).nano <= size(old).nano {
                return Ok(());
            }
            if old["status"]["phase"] != "Bound" {
                let why = "Only bound persistent volume claims can be expanded";
                return Err(attributes.forbidden(claim, why));
            }
            if !class_can_grow(attributes, claim, old).await? {
                let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
                return Err(attributes.forbidden(claim, why));
            }
            Ok(())
        })
    }
}

async fn class_can_grow(
    attributes: &Attributes<'_>,
    claim: &Value,
    old: &Value,
) -> Result<bool, ApiError> {
    let class = class_of(claim);
    if class.is_empty() || class != class_of(old) {
        return Ok(false);
    }
    let class = attributes.lookup("storage.k8s.io", "storageclasses", "", class).await?;
    Ok(class.is_some_and(|class| class["allowVolumeExpansion"] == true))
}

/// The annotation is older than the field, and goes before it.
fn class_of(claim: &Value) -> &str {
    let legacy = &claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"];
    legacy.as_str().unwrap_or_else(|| text(&claim["spec"], "storageClassName"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_must_fit_its_node() {
        let spec = |cpu: &str, memory: &str| json!({"containers": [{"resources": {"requests": {"cpu": cpu, "memory": memory}}}]});
        let node = json!({"metadata": {"name": "n", "labels": {"kubernetes.io/os": "linux"}},
            "status": {"allocatable": {"cpu": "2", "memory": "1Ki"}}});
        assert_eq!(misfit(&spec("2", "1Ki"), &node), None);
        let (reason, why) = misfit(&spec("2500m", "2Ki"), &node).unwrap();
        assert_eq!(reason, "NodeCapacity");
        assert_eq!(
            why,
            "node didn't have enough allocatable resources: cpu, requested: 2500, allocatable: 2000; memory, requested: 2048, allocatable: 1024"
        );
        let mut windows = node.clone();
        windows["metadata"]["labels"]["kubernetes.io/os"] = "windows".into();
        assert_eq!(misfit(&spec("1", "1"), &windows).unwrap().0, "UnsupportedPlatform");
    }
}
