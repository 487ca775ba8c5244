//! What may still change or refuse a request after it was understood: a chain of plugins, in upstream's order.
//!
//! Every write runs through [`Chain::admit`] after it was defaulted, and through [`Chain::validate`] after it was
//! validated; streams (exec, port-forward …) are admitted before they are opened.
//!
//! Source: upstream `pkg/kubeapiserver/options/plugins.go` and `plugin/pkg/admission`.

mod always;
mod always_pull_images;
mod anti_affinity;
mod attributes;
mod authorizer;
mod catalog;
mod chain;
mod declared_features;
mod default_class;
mod event_rate_limit;
mod expressions;
mod extended_resources;
mod external_ips;
mod hooks;
mod limit_ranger;
mod matching;
mod metrics;
mod mutation;
mod namespace_exists;
mod namespace_lifecycle;
mod node_restriction;
mod node_selector;
mod options;
mod owner_references;
mod plugin;
mod pod_security;
mod pods;
mod policy;
mod priority;
mod resize;
mod resource_quota;
mod review;
mod role_escalation;
mod runtime_class;
mod service_account;
mod signing_requests;
mod taint_nodes;
mod toleration_restriction;
mod toleration_seconds;
mod tolerations;
mod topology_labels;
mod use_protection;
mod webhook;

pub use attributes::{Attributes, Kind, Operation, Options as RequestOptions};
pub use chain::Chain;
pub(crate) use hooks::Follower as HookFollower;
pub use hooks::Hooks;
pub(crate) use metrics::Metrics;
pub use mutation::Rounds;
pub use options::{AdmissionFlags, OptionError, Options, TolerationSeconds};
pub use plugin::{Admitted, Plugin, Resources, admitted, answer};
pub(crate) use policy::start_checking;

use std::sync::Arc;

use serde_json::Value;

use crate::handlers::options::{Query, deadline};
use crate::registry::Resource;
use crate::request::{RequestInfo, User};
use crate::server::Core;
use crate::status::ApiError;
use crate::write::{DeleteOptions, Writer};

/// The mutating phase of a write; `old` is there on updates. A new object of a subresource (a Binding, an Eviction)
/// is a creation.
///
/// # Errors
/// The write is refused.
pub async fn admit(
    writer: &mut Writer<'_>,
    subresource: Option<&str>,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    if writer.admitted {
        return Ok(());
    }
    let mut attributes = of_write(writer, subresource, object, old);
    let admitted = writer.core.admission.admit(&mut attributes, object).await;
    let warnings = attributes.warnings;
    writer.warnings.extend(warnings);
    admitted
}

/// The validating phase of a write.
///
/// # Errors
/// The write is refused.
pub async fn validate(
    writer: &mut Writer<'_>,
    subresource: Option<&str>,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    if writer.admitted {
        return Ok(());
    }
    let mut attributes = of_write(writer, subresource, object, old);
    let admitted = writer.core.admission.validate(&mut attributes, object).await;
    let warnings = attributes.warnings;
    writer.warnings.extend(warnings);
    admitted
}

/// Both phases, for objects that are not stored as they are sent: bindings, evictions, reviews.
///
/// # Errors
/// The request is refused.
pub async fn pass(
    writer: &mut Writer<'_>,
    subresource: Option<&str>,
    object: &mut Value,
) -> Result<(), ApiError> {
    admit(writer, subresource, object, None).await?;
    validate(writer, subresource, object, None).await
}

/// Both phases of a deletion.
///
/// # Errors
/// The object stays.
pub async fn delete(
    writer: &mut Writer<'_>,
    name: &str,
    options: &DeleteOptions,
    old: &Value,
) -> Result<(), ApiError> {
    if writer.admitted {
        return Ok(());
    }
    let mut attributes = Attributes {
        operation: Operation::Delete,
        name: name.to_owned(),
        options: RequestOptions::Delete(options),
        ..of_write(writer, None, &Value::Null, Some(old))
    };
    let chain = &writer.core.admission;
    let admitted = match chain.admit(&mut attributes, &mut Value::Null).await {
        Ok(()) => chain.validate(&mut attributes, &Value::Null).await,
        refused => refused,
    };
    let warnings = attributes.warnings;
    writer.warnings.extend(warnings);
    admitted
}

/// Both phases of a stream; `object` are its options, such as `PodExecOptions`.
///
/// # Errors
/// The stream is not opened.
pub async fn connect(
    core: &Arc<Core>,
    resource: &Arc<Resource>,
    info: &RequestInfo,
    user: &User,
    mut object: Value,
) -> Result<(), ApiError> {
    let mut attributes = Attributes {
        core,
        user,
        operation: Operation::Connect,
        resource,
        subresource: &info.subresource,
        kind: kind(resource, &info.subresource),
        namespace: if resource.namespaced { &info.namespace } else { "" },
        name: info.name.clone(),
        old: None,
        options: RequestOptions::None,
        dry_run: false,
        deadline: deadline(&Query::default(), core.config.fairness.request_timeout),
        warnings: Vec::new(),
        reinvoke: false,
        reinvoked: false,
        webhook_rounds: Rounds::default(),
        policy_rounds: Rounds::default(),
    };
    core.admission.admit(&mut attributes, &mut object).await?;
    core.admission.validate(&mut attributes, &object).await
}

fn of_write<'a>(
    writer: &'a Writer<'_>,
    subresource: Option<&'a str>,
    object: &Value,
    old: Option<&'a Value>,
) -> Attributes<'a> {
    let subresource = subresource.unwrap_or_default();
    let create = old.is_none();
    let own = object["metadata"]["name"].as_str().unwrap_or_default();
    let name = if create && subresource.is_empty() { own } else { &writer.info.name };
    Attributes {
        core: writer.core,
        user: writer.user,
        operation: if create { Operation::Create } else { Operation::Update },
        resource: writer.resource,
        subresource,
        kind: kind(writer.resource, subresource),
        namespace: writer.namespace(),
        name: name.to_owned(),
        old,
        options: RequestOptions::Write(&writer.options),
        dry_run: writer.options.dry_run,
        deadline: writer.deadline,
        warnings: Vec::new(),
        reinvoke: false,
        reinvoked: false,
        webhook_rounds: Rounds::default(),
        policy_rounds: Rounds::default(),
    }
}

/// What kind of object a request to this part of a resource carries.
fn kind<'a>(resource: &'a Resource, subresource: &str) -> Kind<'a> {
    let own = Kind { group: &resource.group, version: &resource.version, kind: &resource.kind };
    let Some(part) = resource.subresources.get(subresource) else { return own };
    Kind {
        group: if part.version.is_empty() { own.group } else { &part.group },
        version: if part.version.is_empty() { own.version } else { &part.version },
        kind: if part.kind.is_empty() { own.kind } else { &part.kind },
    }
}
