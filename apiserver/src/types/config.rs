//! Config maps, secrets and service accounts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use schema::Cause;
use schema::print::{Fields, Shown};
use serde_json::{Value, json};

use super::check::{At, Causes, ensure, flag, is_empty, members, remove, text};
use super::{Ctx, Strategy, tls_pair, words};
use crate::registry::Selectable;
use crate::status::ApiError;

/// Most bytes of all values of a config map or a secret.
const MAX_BYTES: usize = 1 << 20;

/// Strategy of `configmaps`.
pub(crate) struct ConfigMaps;

impl Strategy for ConfigMaps {
    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let (data, binary) = (At::new("data"), At::new("binaryData"));
        let mut bytes = 0;
        for (key, value) in members(&obj["data"]) {
            causes.faults(&data.key(key), key, words::data_key(key));
            if !obj["binaryData"][key].is_null() {
                causes.invalid(
                    &data.key(key),
                    &key.as_str().into(),
                    "duplicate of key present in binaryData",
                );
            }
            bytes += value.as_str().map_or(0, str::len);
        }
        for (key, value) in members(&obj["binaryData"]) {
            causes.faults(&binary.key(key), key, words::data_key(key));
            bytes += decoded_len(value);
        }
        too_large(&mut causes, "[]", bytes);
        if let Some(old) = old.filter(|old| flag(old, "immutable")) {
            frozen(&mut causes, obj, old, &["data", "binaryData"]);
        }
        causes.0
    }
}

fn decoded_len(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    text.len() / 4 * 3 - padding.min(2).min(text.len())
}

fn too_large(causes: &mut Causes, field: &str, bytes: usize) {
    if bytes > MAX_BYTES {
        causes.0.push(Cause::too_long(field, MAX_BYTES as u64));
    }
}

/// An object that is marked as immutable stays so, and keeps its data.
fn frozen(causes: &mut Causes, new: &Value, old: &Value, fields: &[&str]) {
    if !flag(new, "immutable") {
        causes.forbidden(&At::new("immutable"), "field is immutable when `immutable` is set");
    }
    for field in fields {
        let same = new[*field] == old[*field] || is_empty(&new[*field]) && is_empty(&old[*field]);
        if !same {
            causes.forbidden(&At::new(field), "field is immutable when `immutable` is set");
        }
    }
}

/// Strategy of `secrets`.
pub(crate) struct Secrets;

impl Strategy for Secrets {
    fn default(&self, obj: &mut Value) {
        let Some(texts) = remove(obj, "stringData") else { return };
        for (key, value) in members(&texts) {
            let encoded = BASE64.encode(value.as_str().unwrap_or_default());
            ensure(obj, "data").insert(key.clone(), encoded.into());
        }
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let data = At::new("data");
        let mut bytes = 0;
        for (key, value) in members(&obj["data"]) {
            causes.faults(&data.key(key), key, words::data_key(key));
            bytes += decoded_len(value);
        }
        too_large(&mut causes, "data", bytes);
        by_type(&mut causes, obj);
        if let Some(old) = old {
            causes.immutable(&At::new("type"), &obj["type"], &old["type"]);
            if flag(old, "immutable") {
                frozen(&mut causes, obj, old, &["data"]);
            }
        }
        causes.0
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        if text(obj, "type") != "kubernetes.io/tls" {
            return Vec::new();
        }
        let part = |key: &str| {
            let bytes = BASE64.decode(text(&obj["data"], key)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        tls_pair::fault(&part("tls.crt"), &part("tls.key")).into_iter().collect()
    }

    fn selectable(&self) -> Vec<Selectable> {
        vec![Selectable::new("type")]
    }
}

/// What well-known types must contain.
fn by_type(causes: &mut Causes, secret: &Value) {
    let data = At::new("data");
    let has = |key: &str| !secret["data"][key].is_null();
    match text(secret, "type") {
        "kubernetes.io/service-account-token" => {
            const NAME: &str = "kubernetes.io/service-account.name";
            let at = At::new("metadata");
            let at = at.field("annotations");
            if is_empty(&secret["metadata"]["annotations"][NAME]) {
                causes.required(&at.key(NAME), "");
            }
        }
        "kubernetes.io/dockercfg" => docker(causes, secret, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => docker(causes, secret, ".dockerconfigjson"),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            causes.required(&data.key("username"), "");
            causes.required(&data.key("password"), "");
        }
        "kubernetes.io/ssh-auth" if is_empty(&secret["data"]["ssh-privatekey"]) => {
            causes.required(&data.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if !has(key) {
                    causes.required(&data.key(key), "");
                }
            }
        }
        _ => (),
    }
}

fn docker(causes: &mut Causes, secret: &Value, key: &str) {
    let data = At::new("data");
    let at = data.key(key);
    let Some(encoded) = secret["data"][key].as_str() else { return causes.required(&at, "") };
    let bytes = BASE64.decode(encoded).unwrap_or_default();
    if let Err(fault) = schema::json::object(&bytes) {
        causes.invalid(&at, &"<secret contents redacted>".into(), &fault.0);
    }
}

/// Strategy of `serviceaccounts`.
pub(crate) struct ServiceAccounts;

impl Strategy for ServiceAccounts {
    /// References to secrets are their names; all else that clients send is dropped.
    fn default(&self, obj: &mut Value) {
        for secret in super::check::items_mut(obj, "secrets") {
            if let Some(reference) = secret.as_object_mut() {
                reference.retain(|field, _| field == "name");
            }
        }
    }
}

/// Strategy of `resourcequotas`.
pub(crate) struct Quotas;

const VALUED_SCOPES: [&str; 2] = ["PriorityClass", "VolumeAttributesClass"];
const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

impl Strategy for Quotas {
    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({});
        Ok(())
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        if subresource.is_some() {
            let at = At::new("status");
            for field in ["hard", "used"] {
                amounts(&mut causes, &at.field(field), &obj["status"][field]);
            }
            return causes.0;
        }
        let (spec, at) = (&obj["spec"], At::new("spec"));
        amounts(&mut causes, &at.field("hard"), &spec["hard"]);
        scopes(&mut causes, &at, spec);
        if let Some(old) = old {
            causes.immutable(&at.field("scopes"), &spec["scopes"], &old["spec"]["scopes"]);
        }
        causes.0
    }
}

/// Amounts of what a quota may speak of.
fn amounts(causes: &mut Causes, at: &At<'_>, amounts: &Value) {
    for (name, amount) in members(amounts) {
        let at = at.key(name);
        quota_name(causes, &at, name);
        super::pod::amount(causes, &at, name, amount);
    }
}

/// Names without a domain that quotas know.
const STANDARD: [&str; 21] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
    "storage",
    "requests.hugepages",
];

/// Whether a scope says something of a resource.
fn scope_fits(scope: &str, resource: &str) -> bool {
    let computes =
        ["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
    match scope {
        "BestEffort" => resource == "pods",
        "Terminating"
        | "NotTerminating"
        | "NotBestEffort"
        | "PriorityClass"
        | "CrossNamespacePodAffinity" => resource == "pods" || computes.contains(&resource),
        "VolumeAttributesClass" => {
            matches!(resource, "persistentvolumeclaims" | "requests.storage")
        }
        _ => true,
    }
}

fn quota_name(causes: &mut Causes, at: &At<'_>, name: &str) {
    super::pod::known_name(causes, at, name);
    let huge = name.starts_with("hugepages-") || name.starts_with("requests.hugepages-");
    if !name.contains('/') && !STANDARD.contains(&name) && !huge {
        causes.invalid(at, &name.into(), "must be a standard resource for quota");
    }
}

fn scopes(causes: &mut Causes, at: &At<'_>, spec: &Value) {
    let scopes: Vec<&str> =
        super::check::items(&spec["scopes"]).iter().filter_map(Value::as_str).collect();
    let at_scopes = at.field("scopes");
    let limited: Vec<&String> = members(&spec["hard"])
        .map(|(name, _)| name)
        .filter(|name| STANDARD.contains(&name.as_str()))
        .collect();
    let misfits = |scope: &str| limited.iter().filter(|name| !scope_fits(scope, name)).count();
    const MISFIT: &str = "unsupported scope applied to resource";
    for scope in &scopes {
        if !SCOPES.contains(scope) {
            causes.invalid(&at_scopes, &spec["scopes"], "unsupported scope");
        }
        for _ in 0..misfits(scope) {
            causes.invalid(&at_scopes, &spec["scopes"], MISFIT);
        }
    }
    if conflicting(&scopes) {
        causes.invalid(&at_scopes, &spec["scopes"], "conflicting scopes");
    }
    let selector = at.field("scopeSelector");
    let at = selector.field("matchExpressions");
    let expressions = super::check::items(&spec["scopeSelector"]["matchExpressions"]);
    for expression in expressions {
        let scope = text(expression, "scopeName");
        if !SCOPES.contains(&scope) {
            causes.invalid(&at.field("scopeName"), &scope.into(), "unsupported scope");
        }
        for _ in 0..misfits(scope) {
            causes.invalid_part(&at, SELECTOR, &spec["scopeSelector"], MISFIT);
        }
        scope_operator(causes, &at, expression);
        scope_values(causes, &at, expression);
    }
    let named: Vec<&str> = expressions.iter().map(|e| text(e, "scopeName")).collect();
    if conflicting(&named) {
        causes.invalid(&at_scopes, &spec["scopes"], "conflicting scopes");
    }
}

/// A selector of scopes as Go shows it.
const SELECTOR: Fields = &[("matchExpressions", Shown::List(EXPRESSION))];
const EXPRESSION: Fields =
    &[("scopeName", Shown::Text), ("operator", Shown::Text), ("values", Shown::Any)];

/// Whether two scopes leave nothing.
fn conflicting(scopes: &[&str]) -> bool {
    let both = |a: &str, b: &str| scopes.contains(&a) && scopes.contains(&b);
    both("BestEffort", "NotBestEffort") || both("Terminating", "NotTerminating")
}

/// Most scopes have no values that one could compare.
fn scope_operator(causes: &mut Causes, at: &At<'_>, requirement: &Value) {
    let scope = text(requirement, "scopeName");
    let operator = text(requirement, "operator");
    if operator != "Exists" && SCOPES.contains(&scope) && !VALUED_SCOPES.contains(&scope) {
        let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
        causes.invalid(&at.field("operator"), &operator.into(), detail);
    }
}

/// Whether a requirement on scopes has the values that its operator needs.
fn scope_values(causes: &mut Causes, at: &At<'_>, requirement: &Value) {
    let values = &requirement["values"];
    match text(requirement, "operator") {
        "In" | "NotIn" => {
            let detail =
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
            causes.present(&at.field("values"), values, detail);
        }
        "Exists" | "DoesNotExist" => {
            if !super::check::is_empty(values) {
                let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                causes.invalid(&at.field("values"), values, detail);
            }
        }
        other => {
            causes.invalid(&at.field("operator"), &other.into(), "not a valid selector operator");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_data() {
        let mut secret = json!({"stringData": {"a": "hello"}, "data": {"a": "b2xk", "c": "Yw=="}});
        Secrets.default(&mut secret);
        assert_eq!(secret, json!({"data": {"a": "aGVsbG8=", "c": "Yw=="}}));
    }

    #[test]
    fn what_is_immutable_stays() {
        let old = json!({"immutable": true, "data": {"a": "b"}});
        let faults = |new: &Value| ConfigMaps.validate(new, Some(&old), None).len();
        assert_eq!(faults(&old), 0);
        assert_eq!(faults(&json!({"immutable": true, "data": {"a": "c"}})), 1);
        assert_eq!(faults(&json!({"data": {"a": "b"}})), 1);
    }

    #[test]
    fn well_known_secrets_have_their_keys() {
        let fields = |secret: Value| -> Vec<String> {
            Secrets.validate(&secret, None, None).into_iter().map(|c| c.field).collect()
        };
        assert_eq!(
            fields(json!({"type": "kubernetes.io/tls"})),
            ["data[tls.crt]", "data[tls.key]"]
        );
        assert_eq!(
            fields(json!({"type": "kubernetes.io/dockercfg", "data": {".dockercfg": "e30="}})),
            [""; 0]
        );
        assert_eq!(fields(json!({"type": "Opaque"})), [""; 0]);
    }

    #[test]
    fn sizes_count_decoded_bytes() {
        for (text, bytes) in [("", 0), ("YQ==", 1), ("YWI=", 2), ("YWJj", 3)] {
            assert_eq!(decoded_len(&json!(text)), bytes, "{text}");
        }
    }
}
