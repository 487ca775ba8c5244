//! Quotas: nothing is created that its namespace has no room for. Each request is charged before it is stored, by
//! compare-and-commit on the quota's status, so that however many come at once, no more is let in than fits. What is
//! given back, and what was charged for a request that failed after all, the quota controller finds.
//!
//! Source: upstream `apiserver/pkg/admission/plugin/resourcequota`.

mod config;
mod decide;

use std::hash::{BuildHasher as _, RandomState};

use jiff::Timestamp;
use quota::{Amounts, Evaluator, is_ignored, scope};
use serde_json::Value;
use tokio::sync::Mutex;

use super::{Admitted, Attributes, Operation, OptionError, Plugin};
use crate::status::ApiError;
use crate::write::{Change, MANAGER, Own, Plan, Writer, update};
use config::Limited;
use decide::{Quota, Refusal, Request, charges};

/// Namespaces whose requests queue up together; enough that busy ones rarely meet.
const QUEUES: usize = 64;

/// The plugin.
pub(super) struct ResourceQuota {
    limited: Vec<Limited>,
    /// Requests of one namespace come one after the other, since they would only run into each other's commits.
    queues: [Mutex<()>; QUEUES],
    hasher: RandomState,
}

impl ResourceQuota {
    /// The plugin with its configuration, if there is one.
    ///
    /// # Errors
    /// The configuration makes no sense.
    pub(super) fn new(configuration: Option<&Value>) -> Result<Self, OptionError> {
        let limited = config::read(configuration)
            .map_err(|reason| OptionError::Plugin { plugin: "ResourceQuota", reason })?;
        let queues = std::array::from_fn(|_| Mutex::default());
        Ok(Self { limited, queues, hasher: RandomState::new() })
    }

    fn queue(&self, namespace: &str) -> &Mutex<()> {
        let hash = usize::try_from(self.hasher.hash_one(namespace)).unwrap_or_default();
        &self.queues[hash % QUEUES]
    }

    async fn check(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), ApiError> {
        if attributes.namespace.is_empty() || !is_concerned(attributes, object) {
            return Ok(());
        }
        let namespace = Some(attributes.namespace);
        if self.limited.is_empty()
            && attributes.list("", "resourcequotas", namespace).await?.is_empty()
        {
            return Ok(()); // The common case, and nobody waits.
        }
        let _turn = self.queue(attributes.namespace).lock().await;
        let quotas = attributes.list("", "resourcequotas", namespace).await?;
        let quotas: Vec<Quota> = quotas.iter().map(Quota::read).collect();
        let resource = attributes.resource;
        let request = Request {
            evaluator: Evaluator::new(&resource.group, &resource.name),
            object,
            old: attributes.old,
            now: Timestamp::now(),
        };
        let refused = |refusal: Refusal| match refusal {
            Refusal::Forbidden(why) => attributes.forbidden(object, why),
            Refusal::Bare(why) => ApiError::Unknown(why),
        };
        let charges = charges(&quotas, &request, &self.limited).map_err(refused)?;
        // A status tells what is so already.
        let lenient = attributes.subresource == "status";
        // All of them first, so that none is charged in vain.
        for (n, delta) in &charges {
            quotas[*n].charge(delta, lenient).map_err(|why| attributes.forbidden(object, why))?;
        }
        for (n, delta) in charges.iter().filter(|_| !attributes.dry_run) {
            charge(attributes, object, &quotas[*n].name, delta, lenient).await?;
        }
        Ok(())
    }
}

impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a mut Attributes<'_>,
        object: &'a Value,
    ) -> Admitted<'a> {
        Box::pin(self.check(attributes, object))
    }
}

/// Whether a request can change what is used.
fn is_concerned(attributes: &Attributes<'_>, object: &Value) -> bool {
    let resource = attributes.resource;
    let create = attributes.operation == Operation::Create;
    if is_ignored(&resource.group, &resource.name) || resource.storage.is_none() {
        return false;
    }
    let kind = if resource.group.is_empty() { &*resource.name } else { "" };
    match (kind, attributes.subresource) {
        (_, "") if create => true,
        ("services" | "persistentvolumeclaims", "") | ("pods", "resize") => true,
        ("pods", "") => attributes
            .old
            .is_some_and(|old| scope::is_terminating(old) != scope::is_terminating(object)),
        ("persistentvolumeclaims", "status") => {
            let fields =
                ["allocatedResources", "currentVolumeAttributesClassName", "modifyVolumeStatus"];
            attributes.old.is_some_and(|old| {
                fields.iter().any(|field| old["status"][*field] != object["status"][*field])
            })
        }
        _ => false,
    }
}

/// Charges one quota, whatever others do to it meanwhile.
async fn charge(
    attributes: &Attributes<'_>,
    object: &Value,
    name: &str,
    delta: &Amounts,
    lenient: bool,
) -> Result<(), ApiError> {
    let registry = attributes.core.registry();
    let Some(quotas) = registry.find("", "resourcequotas") else { return Ok(()) };
    let own = Own::new("patch", quotas).of(attributes.namespace, name).of_status();
    let deadline = attributes.deadline;
    let mut writer = Writer { deadline, admitted: true, ..own.writer(attributes.core, quotas) };
    let plan = Plan::new(name, Some("status"), Some(MANAGER));
    let charged = update(&mut writer, &plan, |_, current| {
        let used = Quota::read(current).charge(delta, lenient);
        let used = used.map_err(|why| attributes.forbidden(object, why))?;
        let mut next = current.clone();
        next["status"]["used"] = used.to_value();
        Ok(Change::To(without_version(next)))
    });
    match charged.await {
        // A quota that is gone allows everything.
        Ok(_) | Err(ApiError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The charge does not insist on the version that it was made from, so that it is tried again on the next.
fn without_version(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    object
}
