//! Claims and ingresses without a class get the one that is marked as the default; of several, the newest.

use std::cmp::Reverse;

use serde_json::Value;

use super::{Admitted, Attributes, Operation, Plugin, Resources};
use crate::status::ApiError;
use crate::types::check::text;

/// How the default of a kind of class is found, and who gets it.
struct Rule {
    /// Group and plural name of the classes.
    classes: (&'static str, &'static str),
    /// Annotations that mark the default, with the value `true`.
    marks: &'static [&'static str],
    /// Member of the spec that names the class.
    field: &'static str,
    /// Annotation that named the class before the field was there.
    legacy: &'static str,
}

const STORAGE: Rule = Rule {
    classes: ("storage.k8s.io", "storageclasses"),
    marks: &[
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    ],
    field: "storageClassName",
    legacy: "volume.beta.kubernetes.io/storage-class",
};

const INGRESS: Rule = Rule {
    classes: ("networking.k8s.io", "ingressclasses"),
    marks: &["ingressclass.kubernetes.io/is-default-class"],
    field: "ingressClassName",
    legacy: "kubernetes.io/ingress.class",
};

/// Source: upstream `plugin/pkg/admission/storage/storageclass/setdefault`.
pub(super) struct DefaultStorageClass;

impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    fn resources(&self) -> Resources {
        Resources::Only(&[("", "persistentvolumeclaims")])
    }

    fn admit<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        claim: &'a mut Value,
    ) -> Admitted<'a> {
        Box::pin(choose(attributes, claim, &STORAGE))
    }
}

/// Source: upstream `plugin/pkg/admission/network/defaultingressclass`.
pub(super) struct DefaultIngressClass;

impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    fn resources(&self) -> Resources {
        Resources::Only(&[("networking.k8s.io", "ingresses")])
    }

    fn admit<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        ingress: &'a mut Value,
    ) -> Admitted<'a> {
        Box::pin(choose(attributes, ingress, &INGRESS))
    }
}

async fn choose(
    attributes: &Attributes<'_>,
    object: &mut Value,
    rule: &Rule,
) -> Result<(), ApiError> {
    let named = !object["spec"][rule.field].is_null()
        || !object["metadata"]["annotations"][rule.legacy].is_null();
    if named || !attributes.subresource.is_empty() || !object["spec"].is_object() {
        return Ok(());
    }
    let classes = attributes.list(rule.classes.0, rule.classes.1, None).await?;
    if let Some(name) = newest_default(&classes, rule.marks) {
        object["spec"][rule.field] = name.into();
    }
    Ok(())
}

/// The newest marked class; of equally old ones the first by name.
fn newest_default<'c>(classes: &'c [Value], marks: &[&str]) -> Option<&'c str> {
    let marked = classes
        .iter()
        .map(|class| &class["metadata"])
        .filter(|meta| marks.iter().any(|mark| meta["annotations"][*mark] == "true"));
    let named = marked.map(|meta| (text(meta, "creationTimestamp"), Reverse(text(meta, "name"))));
    named.max().map(|(_, Reverse(name))| name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_newest_default_is_chosen() {
        let class = |name: &str, time: &str, mark: &str| {
            json!({"metadata": {"name": name, "creationTimestamp": time,
                "annotations": {"ingressclass.kubernetes.io/is-default-class": mark}}})
        };
        let classes = [
            class("old", "2026-01-01T00:00:00Z", "true"),
            class("b", "2026-01-02T00:00:00Z", "true"),
            class("a", "2026-01-02T00:00:00Z", "true"),
            class("none", "2026-01-03T00:00:00Z", "false"),
        ];
        assert_eq!(newest_default(&classes, INGRESS.marks), Some("a"));
        assert_eq!(newest_default(&classes[3..], INGRESS.marks), None);
    }
}
