//! `metadata.managedFields`: reading, changing, writing.

use serde_json::{Map, Value};

use super::set::FieldSet;

/// Fields that nobody owns.
const UNOWNED: [&str; 2] = ["f:apiVersion", "f:kind"];
/// Those of the metadata.
const UNOWNED_METADATA: [&str; 9] = [
    "f:name",
    "f:namespace",
    "f:creationTimestamp",
    "f:selfLink",
    "f:uid",
    "f:clusterName",
    "f:generation",
    "f:managedFields",
    "f:resourceVersion",
];

/// Who writes, and how.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The field manager: its query parameter, or the first part of the user agent.
    pub manager: &'a str,
    /// API version of the request's object, such as `apps/v1`.
    pub api_version: &'a str,
    /// `status`, `scale` …; empty for the object itself.
    pub subresource: &'a str,
    /// Now, RFC 3339 in seconds.
    pub time: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// One entry of `managedFields`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) subresource: String,
    pub(super) time: String,
    fields: Fields,
}

/// What an entry owns. Most writes leave most entries as they are, so they are read when it matters.
#[derive(Clone, Debug, PartialEq)]
enum Fields {
    /// `fieldsV1` as it was written.
    Written(Value),
    Read(FieldSet),
}

impl Entry {
    pub(super) fn new(writer: &Writer<'_>, operation: Operation, set: FieldSet) -> Entry {
        Entry {
            manager: writer.manager.to_owned(),
            operation,
            api_version: writer.api_version.to_owned(),
            subresource: writer.subresource.to_owned(),
            time: writer.time.to_owned(),
            fields: Fields::Read(set),
        }
    }

    /// What it owns.
    pub(super) fn set(&mut self) -> &mut FieldSet {
        if let Fields::Written(json) = &self.fields {
            self.fields = Fields::Read(FieldSet::from_json(json));
        }
        match &mut self.fields {
            Fields::Read(set) => set,
            Fields::Written(_) => unreachable!("it was read above"),
        }
    }

    /// Whether it may own something that is in `other`.
    pub(super) fn touches(&self, other: &FieldSet) -> bool {
        match &self.fields {
            Fields::Written(json) => other.may_meet(json),
            Fields::Read(_) => true,
        }
    }

    fn is_empty(&self) -> bool {
        match &self.fields {
            Fields::Written(json) => json.as_object().is_none_or(Map::is_empty),
            Fields::Read(set) => set.is_empty(),
        }
    }

    /// Whether both are entries of one writer; an applier is one whatever version it applies.
    pub(super) fn same_writer(&self, other: &Entry) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// The writer as conflicts name it.
    pub(super) fn show(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text += &format!(" with subresource {:?}", self.subresource);
        }
        if self.operation == Operation::Update {
            text += &format!(" using {}", self.api_version);
        }
        text
    }

    fn from_json(json: &Value) -> Option<Entry> {
        let text = |key: &str| json.get(key).and_then(Value::as_str).unwrap_or_default();
        if text("fieldsType") != "FieldsV1" || text("apiVersion").is_empty() {
            return None;
        }
        Some(Entry {
            manager: text("manager").to_owned(),
            operation: match text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            },
            api_version: text("apiVersion").to_owned(),
            subresource: text("subresource").to_owned(),
            time: text("time").to_owned(),
            fields: Fields::Written(json.get("fieldsV1").cloned().unwrap_or_default()),
        })
    }

    pub(super) fn into_json(self) -> Value {
        let mut json = Map::new();
        let mut put = |key: &str, value: Value| _ = json.insert(key.to_owned(), value);
        put("manager", self.manager.into());
        put(
            "operation",
            match self.operation {
                Operation::Apply => "Apply".into(),
                Operation::Update => "Update".into(),
            },
        );
        put("apiVersion", self.api_version.into());
        put("fieldsType", "FieldsV1".into());
        put(
            "fieldsV1",
            match self.fields {
                Fields::Written(json) => json,
                Fields::Read(set) => set.into_json(),
            },
        );
        if !self.time.is_empty() {
            put("time", self.time.into());
        }
        if !self.subresource.is_empty() {
            put("subresource", self.subresource.into());
        }
        Value::Object(json)
    }
}

/// The entries of an object, or `None` if one of them cannot be read.
pub(super) fn read(object: &Value) -> Option<Vec<Entry>> {
    match object.pointer("/metadata/managedFields") {
        Some(Value::Array(list)) => list.iter().map(Entry::from_json).collect(),
        _ => Some(Vec::new()),
    }
}

/// Whether a client asked to forget all owners: no entries, or a single one that is empty.
pub(super) fn is_reset(object: &Value) -> bool {
    match object.pointer("/metadata/managedFields") {
        Some(Value::Array(list)) => match list.as_slice() {
            [] => true,
            [Value::Object(entry)] => entry.is_empty(),
            _ => false,
        },
        _ => false,
    }
}

/// Writes the entries in upstream's order; those that own nothing are left out.
pub(super) fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.is_empty());
    entries.sort_by(|a, b| {
        (a.operation.cmp(&b.operation))
            .then_with(|| a.time.cmp(&b.time))
            .then_with(|| a.manager.cmp(&b.manager))
            .then_with(|| a.api_version.cmp(&b.api_version))
            .then_with(|| a.subresource.cmp(&b.subresource))
    });
    let Some(map) = object.as_object_mut() else { return };
    let metadata = map.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    let Some(metadata) = metadata.as_object_mut() else { return };
    if entries.is_empty() {
        metadata.remove("managedFields");
    } else {
        let list: Vec<Value> = entries.into_iter().map(Entry::into_json).collect();
        metadata.insert("managedFields".to_owned(), list.into());
    }
}

/// Removes what nobody owns: identity and what the server writes.
///
/// Source: `stripMeta` in upstream's field manager.
pub(super) fn strip(set: &mut FieldSet) {
    if let Some(metadata) = set.children.get_mut("f:metadata") {
        metadata.member = false;
        metadata.children.retain(|element, _| !UNOWNED_METADATA.contains(&element));
    }
    set.children.retain(|element, child| !UNOWNED.contains(&element) && !child.is_empty());
}
