//! What pods get from their runtime class: overhead, and where it can run.

use quota::Amounts;
use serde_json::{Value, json};

use super::{Admitted, Attributes, Operation, Plugin, Resources, tolerations};
use crate::status::ApiError;
use crate::types::check::{ensure, is_empty, items, members, text};

const DIFFERS: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
const WITHOUT: &str =
    "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";

/// Source: upstream `plugin/pkg/admission/runtimeclass`.
pub(super) struct RuntimeClass;

impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    fn resources(&self) -> Resources {
        Resources::Only(&[("", "pods")])
    }

    fn admit<'a>(&'a self, attributes: &'a mut Attributes<'_>, pod: &'a mut Value) -> Admitted<'a> {
        Box::pin(async move {
            let Some(class) = class(attributes, pod).await? else { return Ok(()) };
            overhead(&mut pod["spec"], &class)
                .and_then(|()| scheduling(&mut pod["spec"], &class["scheduling"]))
                .map_err(|why| attributes.forbidden(pod, why))
        })
    }

    fn validate<'a>(&'a self, attributes: &'a mut Attributes<'_>, pod: &'a Value) -> Admitted<'a> {
        Box::pin(async move {
            if !attributes.subresource.is_empty() {
                return Ok(());
            }
            let given = Amounts::read(&pod["spec"]["overhead"]);
            let class = class(attributes, pod).await?;
            let why = match class.as_ref().map(|class| &class["overhead"]).filter(|o| !o.is_null())
            {
                Some(overhead) if !given.equals(&Amounts::read(&overhead["podFixed"])) => DIFFERS,
                None if !pod["spec"]["overhead"].is_null() => WITHOUT,
                _ => return Ok(()),
            };
            Err(attributes.forbidden(pod, why))
        })
    }
}

async fn class(attributes: &Attributes<'_>, pod: &Value) -> Result<Option<Value>, ApiError> {
    let name = text(&pod["spec"], "runtimeClassName");
    if name.is_empty() || !attributes.subresource.is_empty() {
        return Ok(None);
    }
    let class = attributes.lookup("node.k8s.io", "runtimeclasses", "", name).await?;
    let absent = || format!("pod rejected: RuntimeClass \"{name}\" not found");
    class.ok_or_else(|| attributes.forbidden(pod, absent())).map(Some)
}

fn overhead(spec: &mut Value, class: &Value) -> Result<(), String> {
    let fixed = &class["overhead"]["podFixed"];
    if class["overhead"].is_null() {
        return Ok(());
    }
    if !is_empty(&spec["overhead"])
        && !Amounts::read(&spec["overhead"]).equals(&Amounts::read(fixed))
    {
        return Err(DIFFERS.to_owned());
    }
    if !is_empty(fixed) {
        spec["overhead"] = fixed.clone();
    }
    Ok(())
}

fn scheduling(spec: &mut Value, scheduling: &Value) -> Result<(), String> {
    for (key, value) in members(&scheduling["nodeSelector"]) {
        let given = &spec["nodeSelector"][key];
        if !given.is_null() && given != value {
            let (value, given) = (text_of(value), text_of(given));
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {given}"
            ));
        }
        ensure(spec, "nodeSelector").insert(key.clone(), value.clone());
    }
    if !items(&scheduling["tolerations"]).is_empty() {
        let merged =
            tolerations::merge(items(&spec["tolerations"]), items(&scheduling["tolerations"]));
        spec["tolerations"] = json!(merged);
    }
    Ok(())
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
