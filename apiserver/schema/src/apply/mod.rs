//! Server-side apply, and the record of who owns which field.
//!
//! [`Schema::apply`] merges a configuration into the live object; [`Schema::track_update`]
//! records every other write. Both keep `metadata.managedFields`.
//!
//! Source: kubernetes.io, "Server-Side Apply"; KEP-555.

mod last_applied;
mod managers;
mod policy;
mod scale;
mod set;
mod walk;

use serde_json::{Map, Value, json};

use crate::node::Node;
use crate::path::Path;
use crate::{DecodeError, Schema};
pub use managers::Writer;
use managers::{Entry, Operation};
pub use scale::{SCALE_VERSION, scale_owners, take_scale_owners};
pub use set::FieldSet;

/// Owner of what was there before anybody applied, if nothing was recorded.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Why a configuration was not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Others own fields that would change: 409 Conflict.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The configuration does not fit the schema: 500 without a reason, as upstream.
    #[error("failed to create typed patch object ({object}): {errors}")]
    Typed {
        /// `namespace/name; group/version, Kind=Kind`.
        object: String,
        /// What does not fit, one or several lines.
        errors: String,
    },
    /// What came of the merge is no object of the type: 500 without a reason, as upstream.
    #[error(
        "failed to convert new object ({object}) to proper version: unable to convert unstructured object to {kind}: {fault}"
    )]
    Convert {
        /// `namespace/name; group/version, Kind=Kind`.
        object: String,
        /// `group/version, Kind=Kind`.
        kind: String,
        /// What does not fit.
        fault: Box<DecodeError>,
    },
    /// The configuration brings its own record of owners: 400 BadRequest.
    #[error("metadata.managedFields must be nil")]
    ManagedFields,
}

/// A field that another writer owns: a cause with reason `FieldManagerConflict`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The owner as messages name it: `"alpha"`, `"kubectl" using v1`.
    pub owner: String,
    /// Path of the field, such as `.spec.replicas`.
    pub field: String,
}

impl Conflict {
    /// The message of the cause.
    #[must_use]
    pub fn message(&self) -> String {
        format!("conflict with {}", self.owner)
    }
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        return format!("Apply failed with 1 conflict: {}: {}", only.message(), only.field);
    }
    let mut lines = Vec::new();
    let mut owner = None;
    for conflict in conflicts {
        if owner != Some(&conflict.owner) {
            lines.push(format!("conflicts with {}:", conflict.owner));
            owner = Some(&conflict.owner);
        }
        lines.push(format!("- {}", conflict.field));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// What a client applies.
struct Config<'a> {
    /// What its endpoint writes.
    restricted: &'a Value,
    /// All of it.
    whole: &'a Value,
    /// Fields that the object's own endpoint does not write.
    unwritten: &'a [&'a str],
}

impl Schema {
    /// Merges `config` into `live`; the result carries the new `managedFields`.
    ///
    /// The result is what is decoded, defaulted and validated next. An apply to the object
    /// itself does not touch the fields in `unwritten`, such as `status`; one to the status touches
    /// nothing else but the metadata, of which `unwritten` are the members that it leaves alone.
    /// `live` is `None` when the object is created.
    ///
    /// # Errors
    /// [`ApplyError`]; conflicts only without `force`.
    pub fn apply(
        &self,
        live: Option<&Value>,
        config: &Value,
        writer: &Writer<'_>,
        force: bool,
        unwritten: &[&str],
    ) -> Result<Value, ApplyError> {
        self.check_config(config)?;
        let whole = config;
        let mut config = config.clone();
        restrict(&mut config, writer.subresource, unwritten);
        let config = Config { restricted: &config, whole, unwritten };
        let result = self.apply_checked(live, &config, writer, force);
        let (Some(live), "kubectl") = (live, writer.manager) else { return result };
        let applied = match result {
            // What client-side apply wrote last may be taken over by its successor.
            Err(ApplyError::Conflicts(mut conflicts)) => {
                let mine = self.last_applied(live);
                conflicts.retain(|conflict| !mine.contains(&conflict.field));
                if !conflicts.is_empty() {
                    return Err(ApplyError::Conflicts(conflicts));
                }
                self.apply_checked(Some(live), &config, writer, true)
            }
            other => other,
        };
        applied.map(|mut object| {
            last_applied::renew(&mut object, whole);
            object
        })
    }

    fn apply_checked(
        &self,
        live: Option<&Value>,
        config: &Config<'_>,
        writer: &Writer<'_>,
        force: bool,
    ) -> Result<Value, ApplyError> {
        let root = Some(&*self.root);
        let nothing = json!({});
        let before = live.unwrap_or(&nothing);
        let mut entries = live.and_then(managers::read).unwrap_or_default();
        if let (Some(live), true) = (live, entries.is_empty()) {
            entries.extend(self.before_first_apply(live, writer, config.unwritten));
        }
        let mut wanted = walk::to_set(root, config.restricted);
        let named = wanted.clone();
        managers::strip(&mut wanted);
        let mut mine = Entry::new(writer, Operation::Apply, wanted);
        let last = entries.iter().position(|entry| entry.same_writer(&mine));
        let mut last = last.map(|at| entries.remove(at));

        let mut merged = before.clone();
        walk::merge(root, &mut merged, config.restricted);
        if let Some(last) = &mut last
            && last.set() != mine.set()
        {
            let owned = entries.iter_mut().map(|entry| &*entry.set());
            let owned: Vec<&FieldSet> = owned.chain([&named]).collect();
            let gone = walk::abandoned(root, last.set(), &owned);
            walk::remove(root, &mut merged, &gone);
        }
        let changes = walk::compare(root, before, &merged);
        let conflicts = conflicts(&mut entries, &changes.set);
        if !conflicts.is_empty() && !force {
            return Err(ApplyError::Conflicts(conflicts));
        }
        disown(&mut entries, &changes);
        if changes.is_empty() && !would_change(root, before, config.whole) {
            // Only who changes something wrote it at some time.
            mine.time = last.map(|last| last.time).unwrap_or_default();
        }
        entries.push(mine);
        managers::write(&mut merged, entries);
        Ok(merged)
    }

    /// Makes what came of applying `config` an object of the type, as [`Schema::convert`] does.
    ///
    /// # Errors
    /// [`ApplyError::Convert`]
    pub fn convert_applied(
        &self,
        object: &mut Value,
        config: &Value,
    ) -> Result<Vec<String>, ApplyError> {
        self.convert(object).map_err(|fault| ApplyError::Convert {
            object: shown(config),
            kind: shown_kind(config),
            fault: Box::new(fault),
        })
    }

    /// Records in `new` what a create, update or patch changed.
    ///
    /// `live` is the object before, `None` on create. Call it with the decoded and defaulted
    /// object, before admission. A client that sends `managedFields: []` or `[{}]` forgets all owners.
    pub fn track_update(&self, live: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
        // A subresource writes no metadata, and a new object has no owners to forget.
        let is_whole = writer.subresource.is_empty();
        if is_whole && live.is_some() && managers::is_reset(new) {
            managers::write(new, Vec::new());
            return;
        }
        let sent = managers::read(new).filter(|entries| is_whole && !entries.is_empty());
        let mut entries = sent.or_else(|| live.and_then(managers::read)).unwrap_or_default();
        if live.is_some() && entries.is_empty() {
            // Nobody's ownership was recorded; it begins with the first apply.
            managers::write(new, Vec::new());
            return;
        }
        let created = self.created(new);
        let before = live.unwrap_or(&created);
        let mut changes = walk::compare(Some(&self.root), before, new);
        managers::strip(&mut changes.set);
        managers::strip(&mut changes.removed);
        let fresh = Entry::new(writer, Operation::Update, FieldSet::default());
        let mine = entries.iter().position(|entry| entry.same_writer(&fresh));
        let mut mine = mine.map_or(fresh, |at| entries.remove(at));
        disown(&mut entries, &changes);
        if !changes.is_empty() {
            mine.set().subtract(&changes.removed);
            mine.set().add(changes.set);
            mine.time = writer.time.to_owned();
        }
        entries.push(mine);
        managers::write(new, entries);
    }

    /// What a new object has before anybody writes to it: what Go always writes, or its type.
    fn created(&self, object: &Value) -> Value {
        let mut zero = self.zero();
        let Some(map) = zero.as_object_mut() else { return zero };
        for name in ["apiVersion", "kind"] {
            if let Some(value) = object.get(name) {
                map.insert(name.to_owned(), value.clone());
            }
        }
        map.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        copy_nulls(&mut zero, object);
        zero
    }

    /// Everything in an object without a record, as one update.
    fn before_first_apply(
        &self,
        live: &Value,
        writer: &Writer<'_>,
        unwritten: &[&str],
    ) -> Option<Entry> {
        let api_version = live.get("apiVersion").and_then(Value::as_str);
        let writer = Writer {
            manager: BEFORE_FIRST_APPLY,
            api_version: api_version.unwrap_or(writer.api_version),
            ..*writer
        };
        let mut written = live.clone();
        restrict(&mut written, writer.subresource, unwritten);
        let mut set = walk::compare(Some(&self.root), &self.created(&written), &written).set;
        managers::strip(&mut set);
        (!set.is_empty()).then(|| Entry::new(&writer, Operation::Update, set))
    }

    /// Paths of what `kubectl apply` without `--server-side` wrote last and nobody has changed since.
    fn last_applied(&self, live: &Value) -> Vec<String> {
        let config = last_applied::text(live).and_then(|text| serde_json::from_str(text).ok());
        let Some(config) = config.filter(|c: &Value| c.get("apiVersion") == live.get("apiVersion"))
        else {
            return Vec::new();
        };
        let root = Some(&*self.root);
        let changes = walk::compare(root, &config, live);
        let mut set = walk::to_set(root, &config);
        set.subtract(&changes.set);
        set.subtract(&changes.removed);
        set.paths()
    }

    fn check_config(&self, config: &Value) -> Result<(), ApplyError> {
        match config.pointer("/metadata/managedFields") {
            None | Some(Value::Null) => (),
            Some(_) => return Err(ApplyError::ManagedFields),
        }
        let mut errors = Vec::new();
        walk::type_errors(&self.root, config, &Path::ROOT, &mut errors);
        if errors.is_empty() {
            return Ok(());
        }
        Err(ApplyError::Typed {
            object: shown(config),
            errors: match errors.as_slice() {
                [one] => one.clone(),
                many => format!("errors:\n  {}", many.join("\n  ")),
            },
        })
    }
}

/// `namespace/name; group/version, Kind=Kind`, as messages name a configuration.
fn shown(config: &Value) -> String {
    let text = |name| config["metadata"][name].as_str().unwrap_or_default();
    format!("{}/{}; {}", text("namespace"), text("name"), shown_kind(config))
}

/// `group/version, Kind=Kind`, as messages name a type.
#[must_use]
pub fn shown_kind(config: &Value) -> String {
    let text = |name| config[name].as_str().unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let slash = if version.contains('/') { "" } else { "/" };
    format!("{slash}{version}, Kind={kind}")
}

/// Whether a configuration says something new, be it of a part that its endpoint does not write.
fn would_change(root: Option<&Node>, before: &Value, whole: &Value) -> bool {
    let mut merged = before.clone();
    walk::merge(root, &mut merged, whole);
    !walk::compare(root, before, &merged).is_empty()
}

/// What is null in a new object was not written: Go shows some lists so that are not there.
fn copy_nulls(to: &mut Value, from: &Value) {
    for (name, value) in from.as_object().into_iter().flatten() {
        if value.is_null() && to.get(name).is_none() {
            to[name.as_str()] = Value::Null;
        } else if let Some(inner) = to.get_mut(name).filter(|inner| inner.is_object()) {
            copy_nulls(inner, value);
        } else if value.as_object().is_some_and(has_nulls) {
            to[name.as_str()] = Value::Object(Map::new());
            copy_nulls(&mut to[name.as_str()], value);
        }
    }
}

fn has_nulls(map: &Map<String, Value>) -> bool {
    map.values().any(|value| value.is_null() || value.as_object().is_some_and(has_nulls))
}

/// Leaves in a configuration or object what this endpoint writes.
fn restrict(config: &mut Value, subresource: &str, unwritten: &[&str]) {
    let Some(map) = config.as_object_mut() else { return };
    match subresource {
        "" => map.retain(|name, _| !unwritten.contains(&name.as_str())),
        "status" => {
            map.retain(|name, _| {
                matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status")
            });
            if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
                metadata.retain(|name, _| !unwritten.contains(&name.as_str()));
            }
        }
        _ => (),
    }
    if map.is_empty() {
        *config = json!({});
    }
}

fn conflicts(entries: &mut [Entry], changed: &FieldSet) -> Vec<Conflict> {
    let mut conflicts: Vec<Conflict> = entries
        .iter_mut()
        .filter(|entry| entry.touches(changed))
        .flat_map(|entry| {
            let owner = entry.show();
            let fields = entry.set().intersection(changed).paths();
            fields.into_iter().map(move |field| Conflict { owner: owner.clone(), field })
        })
        .collect();
    conflicts.sort_by(|a, b| (&a.owner, &a.field).cmp(&(&b.owner, &b.field)));
    conflicts
}

/// Others lose what changed and what is gone.
fn disown(entries: &mut [Entry], changes: &walk::Changes) {
    for gone in [&changes.set, &changes.removed] {
        for entry in entries.iter_mut().filter(|entry| entry.touches(gone)) {
            entry.set().subtract(gone);
        }
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
