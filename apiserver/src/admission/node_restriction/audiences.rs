//! Where an audience comes from that an agent wants a token for: the pod's volumes, or a right of its own.
//!
//! Source: KEP-4412, feature ServiceAccountNodeAudienceRestriction, on since 1.33.

use serde_json::Value;

use super::tokens::{projects, wants};
use super::{Attributes, Refusal, find};
use crate::identity;
use crate::status::ApiError;
use crate::types::check::{is_empty, items, text};

/// Drivers that have taken over volumes which once were Kubernetes' own.
///
/// Source: upstream `staging/src/k8s.io/csi-translation-lib/plugins`.
const MIGRATED: [(&str, &str); 7] = [
    ("awsElasticBlockStore", "ebs.csi.aws.com"),
    ("azureDisk", "disk.csi.azure.com"),
    ("azureFile", "file.csi.azure.com"),
    ("cinder", "cinder.csi.openstack.org"),
    ("gcePersistentDisk", "pd.csi.storage.gke.io"),
    ("portworxVolume", "pxd.portworx.com"),
    ("vsphereVolume", "csi.vsphere.vmware.com"),
];

/// Judges whether a token of the pod's account may be for this audience.
pub(super) async fn check(
    attributes: &Attributes<'_>,
    pod: &Value,
    audience: &str,
) -> Result<(), Refusal> {
    let mut problems = Vec::new();
    for volume in items(&pod["spec"]["volumes"]) {
        match names(attributes, pod, volume, audience).await {
            Ok(true) => return Ok(()),
            Ok(false) => (),
            Err(problem) => problems.push(problem.to_string()),
        }
    }
    if !problems.is_empty() {
        let problems = problems.join(", ");
        return Err(format!("error validating audience {audience:?}: {problems}").into());
    }
    let asked = identity::Attributes {
        verb: "request-serviceaccounts-token-audience",
        version: "v1",
        resource: audience,
        namespace: attributes.namespace,
        name: &attributes.name,
        ..identity::Attributes::of_nothing(attributes.user)
    };
    if attributes.core.authorizer.authorize(&asked).await.allowed {
        return Ok(());
    }
    let user = &attributes.user.name;
    let why = format!(
        "audience {audience:?} not found in pod spec volume, {user} is not authorized to request tokens for this audience"
    );
    Err(why.into())
}

/// Whether a volume of the pod, or the driver behind it, names the audience.
async fn names(
    attributes: &Attributes<'_>,
    pod: &Value,
    volume: &Value,
    audience: &str,
) -> Result<bool, ApiError> {
    if projects(volume, audience) {
        return Ok(true);
    }
    let driver = if let Some(claim) = claim(pod, volume) {
        driver_of_claim(attributes, text(&pod["metadata"], "namespace"), &claim).await?
    } else {
        driver(volume)
    };
    let Some(driver) = driver else { return Ok(false) };
    let driver = find(attributes, "storage.k8s.io", "csidrivers", "", &driver).await?;
    Ok(wants(&driver, audience))
}

/// The claim that a volume uses.
fn claim(pod: &Value, volume: &Value) -> Option<String> {
    if !volume["ephemeral"]["volumeClaimTemplate"].is_null() {
        return Some(format!("{}-{}", text(&pod["metadata"], "name"), text(volume, "name")));
    }
    let claim = text(&volume["persistentVolumeClaim"], "claimName");
    (!claim.is_empty()).then(|| claim.to_owned())
}

async fn driver_of_claim(
    attributes: &Attributes<'_>,
    namespace: &str,
    claim: &str,
) -> Result<Option<String>, ApiError> {
    let claim = find(attributes, "", "persistentvolumeclaims", namespace, claim).await?;
    let volume = text(&claim["spec"], "volumeName");
    let volume = find(attributes, "", "persistentvolumes", "", volume).await?;
    Ok(driver(&volume["spec"]))
}

/// The driver of a pod's volume, or of the spec of a PersistentVolume.
fn driver(source: &Value) -> Option<String> {
    let named = &source["csi"]["driver"];
    let migrated = || MIGRATED.iter().find(|(kind, _)| !source[*kind].is_null()).map(|(_, d)| *d);
    let driver = if is_empty(named) { migrated() } else { named.as_str() };
    driver.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_volume_has_a_claim_or_a_driver() {
        let pod = json!({"metadata": {"name": "p"}});
        let ephemeral = json!({"name": "v", "ephemeral": {"volumeClaimTemplate": {}}});
        assert_eq!(claim(&pod, &ephemeral).as_deref(), Some("p-v"));
        let named = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
        assert_eq!(claim(&pod, &named).as_deref(), Some("c"));
        let own = json!({"csi": {"driver": "d"}});
        assert_eq!((claim(&pod, &own), driver(&own).as_deref()), (None, Some("d")));
        for (kind, name) in MIGRATED {
            assert_eq!(driver(&json!({kind: {}})).as_deref(), Some(name));
        }
        assert_eq!(driver(&json!({"emptyDir": {}})), None);
    }
}
