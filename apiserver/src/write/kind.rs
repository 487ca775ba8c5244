//! Kind and version of a body: those of the resource, in the words for all that they are not.

use schema::Schema;
use schema::json::{Key, Overwritten};
use serde_json::{Map, Value};

use crate::handlers::respond::go_type;
use crate::registry::{Registry, Resource};
use crate::status::{ApiError, GroupResource, StatusCause};

/// Where upstream keeps the scheme of its own types.
pub(super) const SCHEME: &str = "pkg/api/legacyscheme/scheme.go:30";

fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// That upstream has no such kind in a version.
pub(super) fn unregistered(kind: &str, version: &str) -> String {
    format!("no kind \"{kind}\" is registered for version \"{version}\" in scheme \"{SCHEME}\"")
}

/// The refusal of an object of a kind and version as one of the `wanted` kind.
pub(super) fn unhandled((kind, version): (&str, &str), wanted: &str, fault: &str) -> ApiError {
    let text = format!("{kind} in version \"{version}\" cannot be handled as a {wanted}: {fault}");
    ApiError::BadRequest(text)
}

/// The refusal of an object of the right kind that cannot be read.
pub(super) fn undecoded(resource: &Resource, fault: &str) -> ApiError {
    unhandled((&resource.kind, &resource.version), &resource.kind, fault)
}

/// Kinds that upstream registers in every version of its groups.
const EVERYWHERE: [&str; 9] = [
    "APIGroup",
    "CreateOptions",
    "DeleteOptions",
    "GetOptions",
    "ListOptions",
    "PatchOptions",
    "Status",
    "UpdateOptions",
    "WatchEvent",
];

/// Gives an object the kind and version of its resource, after a look at those that it came with.
///
/// # Errors
/// They are others, or missing where they must not be.
pub(super) fn fit(
    resource: &Resource,
    registry: &Registry,
    value: &mut Value,
    body: &[u8],
    is_lenient: bool,
) -> Result<(), ApiError> {
    let given = Given::read(value).map_err(|fault| unrecognized(&resource.kind, body, &fault))?;
    if resource.is_foreign() {
        if given.kind.is_empty() {
            return Err(kindless(resource, body, is_lenient));
        }
        fit_custom(resource, &given, value)?;
    } else if (&given.kind, &given.api_version) != (&resource.kind, &resource.api_version()) {
        fit_built_in(resource, registry, given, value)?;
    }
    if let Some(map) = value.as_object_mut() {
        map.insert("kind".to_owned(), resource.kind.clone().into());
        map.insert("apiVersion".to_owned(), resource.api_version().into());
    }
    Ok(())
}

/// Puts back what a body said of its kind before it said it once more, where nobody can read that: Go reads both.
pub(super) fn insist(value: &mut Value, overwritten: &[Overwritten]) {
    for Overwritten { place, value: before } in overwritten {
        if let [Key::Name(name)] = &**place
            && matches!(&**name, "kind" | "apiVersion")
            && !(before.is_string() || before.is_null())
        {
            value[&**name] = before.clone();
        }
    }
}

/// The refusal of a body that is no object at all.
pub(super) fn unrecognized(kind: &str, body: &[u8], fault: &str) -> ApiError {
    let summary = summary(body);
    ApiError::BadRequest(format!(
        "the object provided is unrecognized (must be of type {kind}): {fault} ({summary})"
    ))
}

/// The refusal of a custom object without a kind, which readers of different strictness word differently.
fn kindless(resource: &Resource, body: &[u8], is_lenient: bool) -> ApiError {
    let fault = format!("Object 'Kind' is missing in '{}'", String::from_utf8_lossy(body));
    if !is_lenient {
        return unrecognized(&resource.kind, body, &fault);
    }
    undecoded(resource, &fault)
}

/// What a body says that it is; empty where it says nothing.
struct Given {
    kind: String,
    api_version: String,
}

impl Given {
    fn read(value: &Value) -> Result<Self, String> {
        const PARSE: &str = "couldn't get version/kind; json parse error: json: cannot unmarshal";
        let Some(map) = value.as_object() else {
            return Err(format!(
                "{PARSE} {} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
                schema::json::kind(value)
            ));
        };
        let text = |map: &Map<String, Value>, key: &str| match map.get(key) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(format!(
                "{PARSE} {} into Go struct field .{key} of type string",
                schema::json::kind(other)
            )),
        };
        let given = Self { kind: text(map, "kind")?, api_version: text(map, "apiVersion")? };
        if given.api_version.matches('/').count() > 1 {
            return Err(format!("unexpected GroupVersion string: {}", given.api_version));
        }
        Ok(given)
    }

    fn group_version(&self) -> (&str, &str) {
        self.api_version.split_once('/').unwrap_or(("", &self.api_version))
    }
}

/// Custom types must say what they are.
fn fit_custom(resource: &Resource, given: &Given, value: &Value) -> Result<(), ApiError> {
    let expected = resource.api_version();
    if given.api_version != expected {
        return Err(ApiError::BadRequest(format!(
            "the API version in the data ({}) does not match the expected API version ({expected})",
            given.api_version
        )));
    }
    if given.kind == resource.kind {
        return Ok(());
    }
    let text = format!("Invalid value: {:?}: must be {}", given.kind, resource.kind);
    Err(ApiError::Invalid {
        kind: GroupResource::new(&resource.group, &given.kind),
        name: value["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        causes: vec![StatusCause::new("FieldValueInvalid", "kind", text)],
    })
}

/// Types of Kubernetes may leave it out. What is another of them is read as that before it is refused.
fn fit_built_in(
    resource: &Resource,
    registry: &Registry,
    mut given: Given,
    value: &Value,
) -> Result<(), ApiError> {
    let wanted = (&resource.kind, resource.api_version());
    if given.kind.is_empty() {
        given.kind.clone_from(wanted.0);
    }
    if given.api_version.is_empty() {
        given.api_version.clone_from(&wanted.1);
    }
    if (&given.kind, &given.api_version) == (wanted.0, &wanted.1) {
        return Ok(());
    }
    let (kind, (group, version)) = (&given.kind, given.group_version());
    let target = go_type(resource, false);
    let fault = misread(registry, (group, version, kind), value, target.trim_start_matches('*'));
    Err(unhandled((kind, version), &resource.kind, &fault))
}

/// Why a value of one kind is none of the `target`'s, a Go type.
fn misread(
    registry: &Registry,
    (group, version, kind): (&str, &str, &str),
    value: &Value,
    target: &str,
) -> String {
    match read_as(registry, group, version, kind, value) {
        Some(Err(fault)) => fault,
        Some(Ok(())) => {
            format!("converting ({version}.{kind}) to ({target}): unknown conversion")
        }
        None => unregistered(kind, &api_version(group, version)),
    }
}

/// A kind that is sent to a subresource of another one.
pub(super) struct Part {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) kind: &'static str,
    /// Versions that mean the same.
    also: &'static [&'static str],
    /// Versions that had the kind, and are not taken.
    before: &'static [&'static str],
}

impl Part {
    /// What is sent to bind a pod.
    pub(super) const BINDING: Self =
        Self { group: "", version: "v1", kind: "Binding", also: &[], before: &[] };
    /// What is sent to evict a pod.
    pub(super) const EVICTION: Self = Self {
        group: "policy",
        version: "v1",
        kind: "Eviction",
        also: &["policy/v1beta1"],
        before: &[],
    };
    /// What is sent to scale.
    pub(super) const SCALE: Self = Self {
        group: "autoscaling",
        version: "v1",
        kind: "Scale",
        also: &[],
        before: &["apps/v1beta1", "apps/v1beta2", "extensions/v1beta1"],
    };
    /// What is sent for a token.
    pub(super) const TOKEN: Self = Self {
        group: "authentication.k8s.io",
        version: "v1",
        kind: "TokenRequest",
        also: &[],
        before: &[],
    };

    pub(super) fn schema(&self) -> Option<Schema> {
        Schema::for_gvk(self.group, self.version, self.kind)
    }

    /// The refusal of an object of the right kind that cannot be read.
    pub(super) fn undecoded(&self, fault: &str) -> ApiError {
        unhandled((self.kind, self.version), self.kind, fault)
    }

    /// Refuses a body of another kind; kind and version may be left out.
    pub(super) fn fit(
        &self,
        registry: &Registry,
        value: &mut Value,
        body: &[u8],
    ) -> Result<(), ApiError> {
        Given::read(value).map_err(|fault| unrecognized(self.kind, body, &fault))?;
        let said = value["apiVersion"].as_str().unwrap_or_default().to_owned();
        if value["kind"] == self.kind && self.before.contains(&&*said) {
            let own = api_version(self.group, self.version);
            return Err(ApiError::BadRequest(format!(
                "the API version in the data ({said}) does not match the expected API version ({own})"
            )));
        }
        self.check(registry, value)
            .map_err(|((kind, version), fault)| unhandled((&kind, &version), self.kind, &fault))?;
        value["kind"] = self.kind.into();
        value["apiVersion"] = api_version(self.group, self.version).into();
        Ok(())
    }

    /// Whether a value is of this kind, if it says one; else which one it is of, and what is wrong with that.
    pub(super) fn check(
        &self,
        registry: &Registry,
        value: &Value,
    ) -> Result<(), ((String, String), String)> {
        let mut given = Given::read(value).map_err(|fault| (Default::default(), fault))?;
        let own = api_version(self.group, self.version);
        if given.kind.is_empty() {
            self.kind.clone_into(&mut given.kind);
        }
        if given.api_version.is_empty() || self.also.contains(&&*given.api_version) {
            given.api_version.clone_from(&own);
        }
        if (&*given.kind, &given.api_version) != (self.kind, &own) {
            let package = self.group.split('.').next().filter(|package| !package.is_empty());
            let target = format!("{}.{}", package.unwrap_or("core"), self.kind);
            let (group, version) = given.group_version();
            let fault = misread(registry, (group, version, &given.kind), value, &target);
            return Err(((given.kind.clone(), version.to_owned()), fault));
        }
        Ok(())
    }
}

/// Reads a value as another type of Kubernetes; `None` if there is none of that name.
fn read_as(
    registry: &Registry,
    group: &str,
    version: &str,
    kind: &str,
    value: &Value,
) -> Option<Result<(), String>> {
    let is_built_in = |kind: &str| {
        registry.by_kind(group, version, kind).filter(|resource| resource.bare_items).cloned()
    };
    if let Some(other) = is_built_in(kind) {
        let schema = other.schema.get();
        let read = schema.map_or(Ok(()), |schema| {
            let read = schema.decode(&mut value.clone());
            read.map(drop).map_err(|fault| fault.to_string())
        });
        return Some(read);
    }
    let item = kind.strip_suffix("List");
    let is_list =
        item.is_some_and(|item| item.is_empty() && group.is_empty() || is_built_in(item).is_some());
    let served = schema::facts::definition_of(group, version, kind).is_some();
    let everywhere = EVERYWHERE.contains(&kind)
        && registry.groups().iter().any(|g| {
            g.name == group
                && g.versions
                    .iter()
                    .any(|v| v.name == version && v.resources.iter().any(|r| r.bare_items))
        });
    (is_list || served || everywhere).then_some(Ok(()))
}

/// The beginning of a body, as messages show it.
fn summary(body: &[u8]) -> String {
    const MOST: usize = 30;
    let start = &body[..body.len().min(MOST)];
    let more = if body.len() > MOST { " ..." } else { "" };
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(start).into_owned() + more,
        Some(_) => start.iter().map(|b| format!("{b:02x}")).collect::<String>() + more,
    }
}
