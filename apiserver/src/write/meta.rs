//! `metadata`: what the server sets, and what is wrong with what the client sets.

use std::collections::HashSet;

use http::{HeaderMap, header};
use jiff::Timestamp;
use schema::Cause;
use schema::cause::Reason;
use serde_json::{Map, Value, json};

use super::{Writer, metadata};
use crate::registry::Resource;
use crate::status::ApiError;
use crate::types::words;

/// Most bytes of all annotations together.
///
/// Source: `TotalAnnotationSizeLimitB` in upstream's object validation.
const ANNOTATION_BYTES: usize = 256 * 1024;
/// What upstream judges of the new object alone, and once more when it compares it with the old one.
const TOLD_OFTEN: [&str; 4] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.managedFields",
    "metadata.ownerReferences",
];
/// When [`dedup_owners`] looks again.
pub(super) const AFTER_ADMISSION: &str = " after mutating admission happens";
/// Longest name of a field manager.
///
/// Source: `FieldManagerMaxLength` in upstream's `apimachinery/pkg/apis/meta/v1/validation`.
const MANAGER_BYTES: usize = 128;
/// Superfluous controllers that are told; each is told with all owners.
const MOST_CONTROLLERS: usize = 8;
/// Finalizers that need no domain.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// The time as `metadata` has it: RFC 3339, seconds.
pub fn now() -> String {
    after(0)
}

/// The time that many seconds from now, or the last one that can be written.
pub(super) fn after(seconds: i64) -> String {
    let then = Timestamp::now().as_second().saturating_add(seconds);
    let then = then.clamp(0, Timestamp::MAX.as_second());
    let then = Timestamp::from_second(then).unwrap_or(Timestamp::MAX);
    then.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The client's name for itself.
pub(super) fn agent(headers: &HeaderMap) -> String {
    headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}

/// Fills in the namespace of the path, which the object must not contradict.
pub(super) fn fit_namespace(writer: &Writer<'_>, object: &mut Value) -> Result<(), ApiError> {
    let wanted = writer.namespace().to_owned();
    let meta = metadata(object);
    if wanted.is_empty() {
        meta.remove("namespace"); // Where there are none, one that is named does no harm.
        return Ok(());
    }
    let given = meta.get("namespace").and_then(Value::as_str).unwrap_or_default();
    if !given.is_empty() && given != wanted {
        return Err(ApiError::other_namespace());
    }
    meta.insert("namespace".to_owned(), wanted.into());
    Ok(())
}

/// Sets what a new object gets from the server.
pub(super) fn prepare_create(meta: &mut Map<String, Value>) {
    for key in ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        meta.remove(key);
    }
    meta.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
    meta.insert("creationTimestamp".to_owned(), now().into());
}

/// Removes owners that are named twice, and warns of them.
pub(super) fn dedup_owners(writer: &mut Writer<'_>, object: &mut Value, when: &str) {
    let Some(Value::Array(owners)) = object["metadata"].get_mut("ownerReferences") else { return };
    let mut known = HashSet::with_capacity(owners.len());
    let mut twice: Vec<String> = Vec::new();
    owners.retain(|owner| {
        let is_new = known.insert(owner.clone());
        if !is_new {
            twice.push(owner["uid"].as_str().unwrap_or_default().to_owned());
        }
        is_new
    });
    if !twice.is_empty() {
        writer.warnings.push(format!(
            ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            twice.join(", ")
        ));
    }
}

/// Removes what the status subresource alone may set.
pub(super) fn drop_status(resource: &Resource, object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        map.remove("status");
    }
    // Types that upstream has in Go show an empty status; the zero value comes from their schema.
    if resource.bare_items
        && let Some(status) = resource.schema.get().and_then(|s| s.zero_of("status"))
    {
        object["status"] = status;
    }
}

/// Carries over what no update may change.
pub(super) fn prepare_update(object: &mut Value, old: &Value) {
    let meta = metadata(object);
    let fixed = ["uid", "creationTimestamp", "generation", "selfLink"];
    for key in fixed {
        match &old["metadata"][key] {
            Value::Null => meta.remove(key),
            value => meta.insert(key.to_owned(), value.clone()),
        };
    }
    // What is left out stays; anything else than before is told by validation.
    for key in ["generateName", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if meta.get(key).is_none_or(Value::is_null) {
            match &old["metadata"][key] {
                Value::Null => None,
                value => meta.insert(key.to_owned(), value.clone()),
            };
        }
    }
}

/// Everything that is wrong with the metadata of an object.
pub(super) fn validate(
    resource: &Resource,
    object: &Value,
    old: Option<&Value>,
    subresource: Option<&str>,
) -> Vec<Cause> {
    let meta = &object["metadata"];
    let mut causes = Vec::new();
    if old.is_none() {
        name(resource, meta, &mut causes);
    } else if resource.bare_items {
        base_of_name(resource, meta, &mut causes);
    }
    labels(&meta["labels"], "metadata.labels", &mut causes);
    annotations(&meta["annotations"], &mut causes);
    owners(&meta["ownerReferences"], &mut causes);
    managers(&meta["managedFields"], &mut causes);
    generation(meta, &mut causes);
    finalizers(resource, meta, old, &mut causes);
    if let Some(old) = old {
        immutable(meta, &old["metadata"], &mut causes);
        if resource.bare_items {
            // Upstream's own types judge metadata in several places, and tell it as often.
            let rounds = Rounds::of(&resource.group, &resource.name, subresource);
            let often = |cause: Cause| std::iter::repeat_n(cause.clone(), rounds.told(&cause));
            causes = causes.into_iter().flat_map(often).collect();
        }
    }
    causes
}

/// Whether the metadata of a new object is looked at only if nothing else is wrong with it.
pub(super) fn is_judged_last(resource: &Resource) -> bool {
    let rounds = Rounds::of(&resource.group, &resource.name, None);
    resource.bare_items && rounds.alone + rounds.compared == 0
}

fn generation(meta: &Value, causes: &mut Vec<Cause>) {
    if meta["generation"].as_i64().is_some_and(|generation| generation < 0) {
        let fault = "must be greater than or equal to 0";
        causes.push(Cause::invalid("metadata.generation", &meta["generation"], fault));
    }
}

/// What is wrong with the metadata of an object inside of another one, beside its names.
pub(super) fn of_embedded(meta: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    labels(&meta["labels"], "metadata.labels", &mut causes);
    annotations(&meta["annotations"], &mut causes);
    owners(&meta["ownerReferences"], &mut causes);
    generation(meta, &mut causes);
    for finalizer in meta["finalizers"].as_array().into_iter().flatten() {
        finalizer_name(finalizer.as_str().unwrap_or_default(), &mut causes);
    }
    causes
}

fn finalizer_name(finalizer: &str, causes: &mut Vec<Cause>) {
    for fault in words::qualified(finalizer) {
        causes.push(Cause::invalid("metadata.finalizers", &finalizer.into(), &fault));
    }
}

/// Where a type's own update rules judge metadata, beyond what is done for all types.
struct Rounds {
    /// How often the new metadata as such.
    alone: usize,
    /// How often the new metadata as what replaces the old.
    compared: usize,
}

impl Rounds {
    /// As recorded from updates with bad labels and finalizers.
    fn of(group: &str, resource: &str, subresource: Option<&str>) -> Self {
        let (alone, compared) = match (group, resource) {
            ("policy", "poddisruptionbudgets") | ("", "events") => (0, 0),
            ("batch", "cronjobs") if subresource == Some("status") => (0, 0),
            (
                "",
                "namespaces" | "nodes" | "persistentvolumeclaims" | "persistentvolumes" | "pods",
            )
            | ("batch", "jobs")
            | ("networking.k8s.io", "ingresses")
                if subresource == Some("status") =>
            {
                (0, 1)
            }
            ("", "persistentvolumes") => (2, 0),
            ("", "podtemplates" | "replicationcontrollers" | "resourcequotas" | "services")
            | ("apps", "daemonsets" | "deployments" | "replicasets" | "statefulsets")
            | ("autoscaling" | "coordination.k8s.io" | "events.k8s.io" | "scheduling.k8s.io", _)
            | ("batch", "cronjobs")
            | ("networking.k8s.io", "networkpolicies" | "servicecidrs")
            | ("resource.k8s.io", "resourceslices")
            | ("storage.k8s.io", "csidrivers") => (0, 1),
            ("", "limitranges")
            | ("admissionregistration.k8s.io" | "discovery.k8s.io", _)
            | ("flowcontrol.apiserver.k8s.io", _)
            | ("storage.k8s.io", "csinodes" | "volumeattachments") => (1, 0),
            _ => (1, 1),
        };
        Self { alone, compared }
    }

    /// How often a cause is told.
    fn told(&self, cause: &Cause) -> usize {
        let (alone, compared) = (self.alone, self.compared);
        let begins = |field: &&str| cause.field.starts_with(*field);
        let form = ["metadata.finalizers", "metadata.generation"];
        if TOLD_OFTEN.iter().any(begins) {
            2 + alone + compared
        } else if cause.field == "metadata.generateName" {
            alone
        } else if begins(&"metadata.finalizers[") {
            alone + compared
        } else if form.iter().any(begins) && cause.reason != Reason::Forbidden {
            1 + alone
        } else {
            1 + compared
        }
    }
}

/// Whether upstream judges the names of a type by tags of its fields, which know nothing of `generateName`.
fn is_declared(resource: &Resource) -> bool {
    let declared = [("", "replicationcontrollers"), ("resource.k8s.io", "deviceclasses")];
    declared.contains(&(&resource.group, &resource.name))
}

fn base_of_name(resource: &Resource, meta: &Value, causes: &mut Vec<Cause>) {
    let base = meta["generateName"].as_str().unwrap_or_default();
    if base.is_empty() || is_declared(resource) {
        return;
    }
    // A base may end in a dash, since letters follow.
    let probe = format!("{}a", base.trim_end_matches('-'));
    let probe = if base.ends_with('-') { probe } else { base.to_owned() };
    for fault in resource.strategy.validate_name(&probe) {
        causes.push(Cause::invalid("metadata.generateName", &base.into(), &fault));
    }
}

fn name(resource: &Resource, meta: &Value, causes: &mut Vec<Cause>) {
    let name = meta["name"].as_str().unwrap_or_default();
    base_of_name(resource, meta, causes);
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
        return;
    }
    for fault in resource.strategy.validate_name(name) {
        let counts = is_declared(resource) && fault.starts_with("must be no more than");
        let fault = if counts { fault.replace("characters", "bytes") } else { fault };
        causes.push(Cause::invalid("metadata.name", &name.into(), &fault));
    }
}

/// Faults of labels, also of those in selectors and templates.
pub(super) fn labels(labels: &Value, field: &str, causes: &mut Vec<Cause>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        for fault in words::qualified(key) {
            causes.push(Cause::invalid(field, &key.as_str().into(), &fault));
        }
        let value = value.as_str().unwrap_or_default();
        for fault in words::label_value(value) {
            causes.push(Cause::invalid(field, &value.into(), &fault));
        }
    }
}

fn annotations(annotations: &Value, causes: &mut Vec<Cause>) {
    let mut bytes = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        for fault in words::qualified(&key.to_lowercase()) {
            causes.push(Cause::invalid("metadata.annotations", &key.as_str().into(), &fault));
        }
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > ANNOTATION_BYTES {
        causes.push(Cause::too_long("metadata.annotations", ANNOTATION_BYTES as u64));
    }
}

fn owners(owners: &Value, causes: &mut Vec<Cause>) {
    let mut controller: Option<String> = None;
    let mut told = 0;
    for owner in owners.as_array().into_iter().flatten() {
        let text = |key: &str| owner[key].as_str().unwrap_or_default();
        for (key, is_empty, fault) in [
            ("apiVersion", version_of(text("apiVersion")).is_empty(), "version must not be empty"),
            ("kind", text("kind").is_empty(), "must not be empty"),
            ("name", text("name").is_empty(), "must not be empty"),
            ("uid", text("uid").is_empty(), "must not be empty"),
        ] {
            if is_empty {
                let field = format!("metadata.ownerReferences.{key}");
                causes.push(Cause::invalid(field, &text(key).into(), fault));
            }
        }
        if (text("apiVersion"), text("kind")) == ("v1", "Event") {
            let fault = "/v1, Kind=Event is disallowed from being an owner";
            causes.push(Cause::invalid("metadata.ownerReferences", owner, fault));
        }
        if owner["controller"] == json!(true) {
            let shown = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                Some(first) if told < MOST_CONTROLLERS => {
                    told += 1;
                    causes.push(Cause::invalid(
                        "metadata.ownerReferences",
                        owners,
                        &format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {shown}"),
                    ));
                }
                Some(_) => (),
                None => controller = Some(shown),
            }
        }
    }
}

/// The version in an `apiVersion`; of what is none, nothing.
fn version_of(api_version: &str) -> &str {
    match api_version.split('/').collect::<Vec<_>>().as_slice() {
        [version] | [_, version] => version,
        _ => "",
    }
}

/// Faults of the record of field owners that a client brought.
fn managers(entries: &Value, causes: &mut Vec<Cause>) {
    for (n, entry) in entries.as_array().into_iter().flatten().enumerate() {
        let manager = entry["manager"].as_str().unwrap_or_default();
        if manager.len() > MANAGER_BYTES {
            let field = format!("metadata.managedFields[{n}].manager");
            causes.push(Cause::too_long(field, MANAGER_BYTES as u64));
        }
    }
}

/// Whether finalizers of this type need no domain.
///
/// As recorded: all but upstream's own, those of extensions of the server, and some more.
fn judges_names_alone(resource: &Resource) -> bool {
    const EXTENSIONS: [&str; 3] =
        ["admissionregistration.k8s.io", "apiextensions.k8s.io", "apiregistration.k8s.io"];
    const OTHERS: [(&str, &str); 4] = [
        ("", "events"),
        ("coordination.k8s.io", "leases"),
        ("node.k8s.io", "runtimeclasses"),
        ("policy", "poddisruptionbudgets"),
    ];
    resource.is_foreign()
        || EXTENSIONS.contains(&resource.group.as_str())
        || OTHERS.contains(&(&resource.group, &resource.name))
}

/// Warnings for new finalizers of custom resources that might be others' too.
pub(super) fn warnings(resource: &Resource, object: &Value, old: Option<&Value>) -> Vec<String> {
    if !resource.is_foreign() {
        return Vec::new();
    }
    let list = |object: &Value| object["metadata"]["finalizers"].as_array().cloned();
    let known: HashSet<Value> = old.and_then(list).unwrap_or_default().into_iter().collect();
    let mut warnings = Vec::new();
    for finalizer in list(object).unwrap_or_default().iter().filter(|f| !known.contains(f)) {
        let name = finalizer.as_str().unwrap_or_default();
        if name.contains('/') || STANDARD_FINALIZERS.contains(&name) {
            continue;
        }
        let path = if name.contains('.') { " including a path (/)" } else { "" };
        warnings.push(format!(
            "metadata.finalizers: {name:?}: prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with other finalizer writers"
        ));
    }
    warnings
}

fn finalizers(resource: &Resource, meta: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let list = |meta: &Value| -> Vec<String> {
        let entries = meta["finalizers"].as_array().into_iter().flatten();
        entries.filter_map(|f| f.as_str().map(str::to_owned)).collect()
    };
    let mine = list(meta);
    let is_lax = judges_names_alone(resource);
    for (n, finalizer) in mine.iter().enumerate() {
        finalizer_name(finalizer, causes);
        let known = finalizer.contains('/') || STANDARD_FINALIZERS.contains(&finalizer.as_str());
        if !known && !is_lax {
            let fault = "name is neither a standard finalizer name nor is it fully qualified";
            let field = format!("metadata.finalizers[{n}]");
            causes.push(Cause::invalid(&*field, &finalizer.as_str().into(), fault));
        }
    }
    if mine.iter().any(|f| f == "orphan") && mine.iter().any(|f| f == "foregroundDeletion") {
        let fault = "finalizer orphan and foregroundDeletion cannot be both set";
        causes.push(Cause::invalid("metadata.finalizers", &json!(mine), fault));
    }
    let Some(old) = old.map(|o| &o["metadata"]) else { return };
    if !old["deletionTimestamp"].is_null() {
        let before = list(old);
        let new: Vec<&String> = mine.iter().filter(|f| !before.contains(f)).collect();
        if !new.is_empty() {
            let shown: Vec<String> = new.iter().map(|f| format!("{f:?}")).collect();
            causes.push(Cause::forbidden(
                "metadata.finalizers",
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    shown.join(", ")
                ),
            ));
        }
    }
}

fn immutable(meta: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let keys = [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ];
    for key in keys {
        if meta[key] != old[key] {
            causes.push(Cause::invalid(
                format!("metadata.{key}"),
                &meta[key],
                "field is immutable",
            ));
        }
    }
}

/// Keeps the wish to forget all owners: decoding drops an empty list, and one empty entry says the same.
pub(super) fn mark_reset(object: &mut Value) {
    let sent = object.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut);
    if let Some(entries) = sent.filter(|entries| entries.is_empty()) {
        entries.push(json!({}));
    }
}

/// Keeps `managedFields` up to date with a write that is no apply.
pub(super) fn track(writer: &Writer<'_>, old: Option<&Value>, object: &mut Value, agent: &str) {
    let Some(schema) = writer.resource.schema.get() else { return };
    let (manager, api_version, time) =
        (writer.manager(agent), writer.resource.api_version(), now());
    let who = schema::apply::Writer {
        manager: &manager,
        api_version: &api_version,
        subresource: &writer.info.subresource,
        time: &time,
    };
    forget_unknown_versions(writer, object);
    schema.track_update(old, object, &who);
}

/// Fields that the endpoint of the object itself does not write, so that its clients do not own them.
pub(super) fn unwritten(resource: &Resource) -> Vec<&'static str> {
    let status = resource.subresources.contains_key("status").then_some("status");
    status.into_iter().chain(resource.strategy.unowned().iter().copied()).collect()
}

/// Begins `managedFields`. Whoever creates an object owns nothing of what is not written then.
pub(super) fn track_created(writer: &Writer<'_>, object: &mut Value, agent: &str) {
    let Some(map) = object.as_object_mut() else { return };
    let taken: Vec<_> = unwritten(writer.resource)
        .into_iter()
        .filter_map(|name| map.remove(name).map(|value| (name, value)))
        .collect();
    track(writer, None, object, agent);
    for (name, value) in taken {
        object[name] = value;
    }
}

/// What was owned in a version that is not served any more is nobody's.
fn forget_unknown_versions(writer: &Writer<'_>, object: &mut Value) {
    let own = writer.resource.api_version();
    let registry = writer.core.registry();
    let is_known = |entry: &Value| {
        let version = entry["apiVersion"].as_str().unwrap_or_default();
        let (group, name) = version.split_once('/').unwrap_or(("", version));
        version == own || registry.by_kind(group, name, &writer.resource.kind).is_some()
    };
    if let Some(Value::Array(entries)) = object["metadata"].get_mut("managedFields")
        && entries.iter().any(|entry| entry.as_object().is_some_and(|entry| !entry.is_empty()))
    {
        entries.retain(is_known);
        if entries.is_empty() {
            entries.push(json!({})); // Which says that there are none.
        }
    }
}
