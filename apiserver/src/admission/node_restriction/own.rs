//! Objects that an agent has one of, or few, and claims, of which it says how large they have become.

use serde_json::{Value, json};

use super::{Asked, Operation, Rule, require, same};
use crate::types::certificates::common_name;
use crate::types::check::{copy, remove, text};
use crate::types::pod::update::differences;

/// Where agents renew their leases.
const LEASES: &str = "kube-node-lease";
/// Signers of certificates for agents.
const SIGNERS: [&str; 2] =
    ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
/// What an agent that has resized a volume reports.
const RESIZING: [&str; 4] =
    ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"];

/// Judges a write of a Lease.
pub(super) fn lease(asked: &Asked<'_>) -> Rule {
    require(asked.namespace == LEASES, || {
        format!("can only access leases in the {LEASES:?} system namespace")
    })?;
    namesake(asked, "node lease")
}

/// Judges a write of a CSINode.
pub(super) fn csi_node(asked: &Asked<'_>) -> Rule {
    namesake(asked, "CSINode")
}

fn namesake(asked: &Asked<'_>, what: &str) -> Rule {
    require(asked.name == asked.node, || {
        format!("can only access {what} with the same name as the requesting node")
    })
}

/// Judges a write of a ResourceSlice. On updates the stored one counts; its node never changes.
pub(super) fn slice(asked: &Asked<'_>) -> Rule {
    let (slice, verb) = match asked.operation {
        Operation::Create => (asked.object, "create"),
        Operation::Update => (asked.old, "update"),
        Operation::Delete => (asked.old, "delete"),
        Operation::Connect => return Ok(()),
    };
    require(slice["spec"]["nodeName"] == asked.node, || {
        format!("can only {verb} ResourceSlice with the same NodeName as the requesting node")
    })
}

/// Judges a CertificateSigningRequest.
pub(super) fn signing_request(asked: &Asked<'_>) -> Rule {
    let spec = &asked.object["spec"];
    if asked.operation != Operation::Create || !SIGNERS.contains(&text(spec, "signerName")) {
        return Ok(());
    }
    let name = common_name(&spec["request"]).ok_or(
        "unable to parse csr: spec.request must be a PEM block CERTIFICATE REQUEST with a common name",
    )?;
    let own = format!("system:node:{}", asked.node);
    require(name == own, || format!("can only create a node CSR with CN={own}"))
}

/// Judges a write of a PersistentVolumeClaim, or of this part of it.
pub(super) fn claim(asked: &Asked<'_>, subresource: &str) -> Rule {
    require(subresource == "status", || "may only update PVC status".to_owned())?;
    let operation = asked.operation;
    require(operation == Operation::Update, || {
        format!("unexpected operation {:?}", operation.as_str())
    })?;
    let [old, new] = [asked.old, asked.object].map(without_resizing);
    require(same(&old, &new), || {
        let (node, differences) = (asked.node, differences(&old, &new));
        format!(
            "node {node:?} is not allowed to update fields other than status.quantity and status.conditions: {differences}"
        )
    })
}

/// The claim without what the agent may change, and what the server writes.
fn without_resizing(claim: &Value) -> Value {
    let mut rest = json!({});
    for part in ["metadata", "spec", "status"] {
        copy(&mut rest, claim, part);
    }
    for field in ["resourceVersion", "managedFields"] {
        remove(&mut rest["metadata"], field);
    }
    for field in RESIZING {
        remove(&mut rest["status"], field);
    }
    rest
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::super::tests::{asked, says};
    use super::*;

    const WRITES: [Operation; 3] = [Operation::Create, Operation::Update, Operation::Delete];

    #[test]
    fn leases_and_csi_nodes_have_the_nodes_name() {
        let named = |namespace: &str, name: &str| json!({"metadata": {"namespace": namespace, "name": name}});
        for operation in WRITES {
            let ask = |rule: fn(&Asked<'_>) -> Rule, object: Value| {
                rule(&asked(operation, &object, &object))
            };
            says(ask(lease, named(LEASES, "n1")), "");
            says(ask(lease, named(LEASES, "n2")), "can only access node lease with the same name");
            says(
                ask(lease, named("default", "n1")),
                "can only access leases in the \"kube-node-lease\" system namespace",
            );
            says(ask(csi_node, named("", "n1")), "");
            says(ask(csi_node, named("", "n2")), "can only access CSINode with the same name");
        }
    }

    #[test]
    fn slices_are_of_the_own_node() {
        let of = |node: Value| json!({"spec": {"nodeName": node}});
        for node in [json!("n2"), json!(null)] {
            let other = of(node);
            let create = slice(&asked(Operation::Create, &other, &Value::Null));
            says(create, "can only create ResourceSlice with the same NodeName");
            let delete = slice(&asked(Operation::Delete, &Value::Null, &other));
            says(delete, "can only delete ResourceSlice with the same NodeName");
            let own = of(json!("n1"));
            let update = slice(&asked(Operation::Update, &own, &other));
            says(update, "can only update ResourceSlice with the same NodeName");
        }
        says(slice(&asked(Operation::Create, &of(json!("n1")), &Value::Null)), "");
        says(slice(&asked(Operation::Delete, &Value::Null, &of(json!("n1")))), "");
    }

    fn request(signer: &str, common_name: &str) -> Value {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        let request = base64::engine::general_purpose::STANDARD.encode(pem);
        json!({"spec": {"signerName": signer, "request": request}})
    }

    #[test]
    fn certificates_are_for_the_own_name() {
        let ask =
            |request: Value| signing_request(&asked(Operation::Create, &request, &Value::Null));
        for signer in SIGNERS {
            says(ask(request(signer, "system:node:n1")), "");
            let words = "can only create a node CSR with CN=system:node:n1";
            says(ask(request(signer, "system:node:n2")), words);
            says(ask(request(signer, "admin")), words);
            says(
                ask(json!({"spec": {"signerName": signer, "request": "e"}})),
                "unable to parse csr",
            );
        }
        says(ask(request("example.com/own", "admin")), "");
    }

    #[test]
    fn of_claims_only_the_resizing_is_reported() {
        let old = json!({"metadata": {"name": "c", "resourceVersion": "1"}, "spec": {"volumeName": "v"},
            "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
        let change = |pointer: &str, value: Value| {
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            let mut new = old.clone();
            new.pointer_mut(parent).unwrap()[field] = value;
            claim(&asked(Operation::Update, &new, &old), "status")
        };
        for field in RESIZING {
            says(change(&format!("/status/{field}"), json!({"storage": "2Gi"})), "");
        }
        says(change("/metadata/resourceVersion", json!(null)), "");
        let words = "fields other than status.quantity and status.conditions";
        for pointer in [
            "/status/phase",
            "/status/accessModes",
            "/spec/volumeName",
            "/metadata/labels",
            "/metadata/finalizers",
            "/metadata/ownerReferences",
        ] {
            says(change(pointer, json!(["a"])), words);
        }
        says(claim(&asked(Operation::Update, &old, &old), ""), "may only update PVC status");
        says(
            claim(&asked(Operation::Create, &old, &old), "status"),
            "unexpected operation \"CREATE\"",
        );
    }
}
