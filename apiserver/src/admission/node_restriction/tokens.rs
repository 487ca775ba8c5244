//! Which tokens of service accounts an agent may ask for: those of pods that run on its node.

use serde_json::Value;

use super::{Rule, require};
use crate::types::check::{is_empty, items, text};

/// The pod that a token is bound to. A binding to a node need not be ruled out: a token has one binding, and that of a
/// pod brings along its node.
pub(super) fn bound(spec: &Value) -> Result<&Value, String> {
    let bound = &spec["boundObjectRef"];
    let to_pod = bound["apiVersion"] == "v1" && bound["kind"] == "Pod" && !is_empty(&bound["name"]);
    require(to_pod, || "node requested token not bound to a pod".to_owned())?;
    require(!is_empty(&bound["uid"]), || {
        "node requested token with a pod binding without a uid".to_owned()
    })?;
    Ok(bound)
}

/// Judges whether the pod is the one that is meant, and runs on the node.
pub(super) fn runs_here(bound: &Value, pod: &Value, node: &str) -> Rule {
    require(bound["uid"] == pod["metadata"]["uid"], || {
        let uid = text(bound, "uid");
        format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        )
    })?;
    require(pod["spec"]["nodeName"] == node, || {
        "node requested token bound to a pod scheduled on a different node".to_owned()
    })
}

/// For whom the token shall be; empty for the API server.
pub(super) fn audience(spec: &Value) -> Result<&str, String> {
    match items(&spec["audiences"]) {
        [] => Ok(""),
        [one] => Ok(one.as_str().unwrap_or_default()),
        _ => Err("node may only request 0 or 1 audiences".to_owned()),
    }
}

/// Whether a volume shows the pod a token for this audience.
pub(super) fn projects(volume: &Value, audience: &str) -> bool {
    let mut tokens =
        items(&volume["projected"]["sources"]).iter().map(|source| &source["serviceAccountToken"]);
    tokens.any(|token| !token.is_null() && text(token, "audience") == audience)
}

/// Whether a CSIDriver wants tokens for this audience.
pub(super) fn wants(driver: &Value, audience: &str) -> bool {
    items(&driver["spec"]["tokenRequests"])
        .iter()
        .any(|wanted| text(wanted, "audience") == audience)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::says;
    use super::*;

    #[test]
    fn tokens_are_bound_to_pods() {
        let ask = |reference: Value| bound(&json!({"boundObjectRef": reference})).map(drop);
        says(ask(json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"})), "");
        for other in [
            json!(null),
            json!({"apiVersion": "v1", "kind": "Secret", "name": "p", "uid": "u"}),
            json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u"}),
            json!({"apiVersion": "v2", "kind": "Pod", "name": "p", "uid": "u"}),
            json!({"apiVersion": "v1", "kind": "Pod", "uid": "u"}),
        ] {
            says(ask(other), "node requested token not bound to a pod");
        }
        let words = "node requested token with a pod binding without a uid";
        says(ask(json!({"apiVersion": "v1", "kind": "Pod", "name": "p"})), words);
    }

    #[test]
    fn the_pod_runs_on_the_node() {
        let pod =
            |uid: &str, node: &str| json!({"metadata": {"uid": uid}, "spec": {"nodeName": node}});
        let ask = |pod: Value| runs_here(&json!({"uid": "u"}), &pod, "n1");
        says(ask(pod("u", "n1")), "");
        says(ask(pod("v", "n1")), "(u) does not match the UID in record");
        says(ask(pod("u", "n2")), "bound to a pod scheduled on a different node");
        says(ask(pod("u", "")), "bound to a pod scheduled on a different node");
    }

    #[test]
    fn one_audience_is_asked_for() {
        assert_eq!(audience(&json!({})), Ok(""));
        assert_eq!(audience(&json!({"audiences": ["vault"]})), Ok("vault"));
        says(audience(&json!({"audiences": ["a", "b"]})), "node may only request 0 or 1 audiences");
    }

    #[test]
    fn volumes_and_drivers_name_their_audiences() {
        let volume = json!({"projected": {"sources": [{"configMap": {}},
            {"serviceAccountToken": {"path": "t", "audience": "vault"}}]}});
        assert!(projects(&volume, "vault") && !projects(&volume, "") && !projects(&volume, "bank"));
        let own = json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}});
        assert!(projects(&own, "") && !projects(&own, "vault") && !projects(&json!({}), ""));
        let driver = json!({"spec": {"tokenRequests": [{"audience": "store"}]}});
        assert!(wants(&driver, "store") && !wants(&driver, "") && !wants(&json!({}), ""));
    }
}
