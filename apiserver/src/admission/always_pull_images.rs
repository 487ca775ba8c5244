//! Images are pulled for every pod, so that nobody runs a private image that another tenant has pulled.

use serde_json::Value;

use super::{Admitted, Attributes, Operation, Plugin, Resources, admitted, answer, pods};
use crate::types::check::{items, items_mut, part, text};

/// Source: upstream `plugin/pkg/admission/alwayspullimages`.
pub(super) struct AlwaysPullImages;

impl Plugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    fn resources(&self) -> Resources {
        Resources::Only(&[("", "pods")])
    }

    fn admit<'a>(&'a self, attributes: &'a mut Attributes<'_>, pod: &'a mut Value) -> Admitted<'a> {
        if is_concerned(attributes, pod)
            && let Some(spec) = part(pod, "spec")
        {
            pods::each_container(spec, |c| c["imagePullPolicy"] = "Always".into());
            for volume in items_mut(spec, "volumes").filter(|volume| !volume["image"].is_null()) {
                volume["image"]["pullPolicy"] = "Always".into();
            }
        }
        admitted()
    }

    /// A webhook may have set it back.
    fn validate<'a>(&'a self, attributes: &'a mut Attributes<'_>, pod: &'a Value) -> Admitted<'a> {
        let other = is_concerned(attributes, pod).then(|| other_policy(&pod["spec"])).flatten();
        answer(other.map_or(Ok(()), |(path, policy)| {
            let why =
                format!("{path}: Unsupported value: \"{policy}\": supported values: \"Always\"");
            Err(attributes.forbidden(pod, why))
        }))
    }
}

/// The first image that is not pulled each time.
fn other_policy(spec: &Value) -> Option<(String, &str)> {
    for (list, _) in pods::LISTS {
        for (n, container) in items(&spec[list]).iter().enumerate() {
            let policy = text(container, "imagePullPolicy");
            if policy != "Always" {
                return Some((format!("spec.{list}[{n}].imagePullPolicy"), policy));
            }
        }
    }
    let mut images = items(&spec["volumes"]).iter().map(|volume| &volume["image"]).enumerate();
    let (n, image) =
        images.find(|(_, image)| !image.is_null() && text(image, "pullPolicy") != "Always")?;
    Some((format!("spec.volumes[{n}].image.pullPolicy"), text(image, "pullPolicy")))
}

/// An update that brings no new image may keep what was there before the plugin.
fn is_concerned(attributes: &Attributes<'_>, pod: &Value) -> bool {
    let new_image = attributes.old.is_none_or(|old| {
        let had =
            |image: &str| pods::containers(&old["spec"]).any(|(_, c)| text(c, "image") == image);
        pods::containers(&pod["spec"]).any(|(_, container)| !had(text(container, "image")))
    });
    attributes.subresource.is_empty() && new_image
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_list_of_containers_is_looked_at() {
        let always = json!({"imagePullPolicy": "Always"});
        assert_eq!(other_policy(&json!({"containers": [always]})), None);
        for (list, _) in pods::LISTS {
            let spec = json!({list: [always, {"imagePullPolicy": "Never"}]});
            let found = other_policy(&spec).unwrap();
            assert_eq!(found, (format!("spec.{list}[1].imagePullPolicy"), "Never"));
        }
        let volume = json!({"volumes": [{"name": "v", "image": {"pullPolicy": "IfNotPresent"}}]});
        assert_eq!(other_policy(&volume).unwrap().0, "spec.volumes[0].image.pullPolicy");
    }
}
