//! Which requests a webhook or policy is about.
//!
//! Source: upstream `apiserver/pkg/admission/plugin/webhook/predicates` and `plugin/policy/matching`.

use std::sync::Arc;

use serde_json::Value;

use super::attributes::Attributes;
use super::{Kind, kind};
use crate::crd;
use crate::handlers::selector::Labels;
use crate::registry::Resource;
use crate::status::ApiError;

const GROUP: &str = "admissionregistration.k8s.io";

/// The criteria of a webhook, a policy or a binding, read once.
#[derive(Debug, Default)]
pub(super) struct Criteria {
    namespaces: Labels,
    objects: Labels,
    /// Empty: everything (bindings that only select).
    rules: Option<Vec<Rule>>,
    excluded: Vec<Rule>,
    /// Also other versions of the resources in the rules.
    is_equivalent: bool,
}

#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Each with its subresource, which may be empty.
    resources: Vec<(String, String)>,
    scope: Scope,
    /// Empty: all.
    names: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Any,
    Cluster,
    Namespaced,
}

impl Criteria {
    /// Reads a webhook, whose criteria stand beside its other fields.
    ///
    /// # Errors
    /// A selector makes no sense.
    pub(super) fn of_webhook(hook: &Value) -> Result<Self, String> {
        let criteria = Self::parse(hook, "rules")?;
        // Without rules a webhook is never asked.
        Ok(Self { rules: Some(criteria.rules.unwrap_or_default()), ..criteria })
    }

    /// Reads `MatchResources`; null matches everything.
    ///
    /// # Errors
    /// A selector makes no sense.
    pub(super) fn of_policy(resources: &Value) -> Result<Self, String> {
        Self::parse(resources, "resourceRules")
    }

    fn parse(source: &Value, rules: &str) -> Result<Self, String> {
        let list =
            |key: &str| source[key].as_array().map(|list| list.iter().map(Rule::of).collect());
        let rules: Option<Vec<Rule>> = list(rules);
        Ok(Self {
            namespaces: Labels::of_object(&source["namespaceSelector"])?,
            objects: Labels::of_object(&source["objectSelector"])?,
            rules: rules.filter(|rules| !rules.is_empty()),
            excluded: list("excludeResourceRules").unwrap_or_default(),
            is_equivalent: source["matchPolicy"] != "Exact",
        })
    }

    /// The resource as whose object the request is to be seen: that of the request, or one equivalent to it.
    ///
    /// # Errors
    /// The namespace of the request cannot be looked at.
    pub(super) async fn matches(
        &self,
        attributes: &Attributes<'_>,
        object: &Value,
    ) -> Result<Option<Arc<Resource>>, ApiError> {
        // Rules first: they refuse nearly everything, and cost the least.
        let matched = match &self.rules {
            None => Some(attributes.resource.clone()),
            Some(rules) => self.find(rules, attributes),
        };
        let Some(matched) = matched else { return Ok(None) };
        if !self.excluded.is_empty() && self.find(&self.excluded, attributes).is_some() {
            return Ok(None);
        }
        if !self.objects.is_empty() {
            let chosen = |object: &Value| {
                object.is_object() && self.objects.match_object(&object["metadata"]["labels"])
            };
            if !chosen(object) && !attributes.old.is_some_and(chosen) {
                return Ok(None);
            }
        }
        let chosen = self.namespaces.is_empty() || self.in_namespace(attributes, object).await?;
        Ok(chosen.then_some(matched))
    }

    fn find(&self, rules: &[Rule], attributes: &Attributes<'_>) -> Option<Arc<Resource>> {
        let own = attributes.resource;
        if rules.iter().any(|rule| rule.matches(attributes, own)) {
            return Some(own.clone());
        }
        if !self.is_equivalent {
            return None;
        }
        let registry = attributes.core.registry();
        let others = equivalents(&registry, own);
        rules.iter().find_map(|rule| {
            others.iter().find(|other| rule.matches(attributes, other)).map(|o| Arc::clone(o))
        })
    }

    async fn in_namespace(
        &self,
        attributes: &Attributes<'_>,
        object: &Value,
    ) -> Result<bool, ApiError> {
        let is_namespace = attributes.is_part_of("", "namespaces");
        let name = if is_namespace { &*attributes.name } else { attributes.namespace };
        if name.is_empty() && !is_namespace {
            return Ok(true);
        }
        if is_namespace && attributes.subresource.is_empty() && object.is_object() {
            return Ok(self.namespaces.match_object(&object["metadata"]["labels"]));
        }
        let namespace = namespace(attributes, name).await?;
        Ok(self.namespaces.match_object(&namespace["metadata"]["labels"]))
    }
}

/// A namespace.
///
/// # Errors
/// [`ApiError::NotFound`] if there is none.
pub(super) async fn namespace(attributes: &Attributes<'_>, name: &str) -> Result<Value, ApiError> {
    let registry = attributes.core.registry();
    let namespaces = registry.find("", "namespaces").ok_or(ApiError::NoResource)?;
    let stored = attributes.lookup("", "namespaces", "", name).await?;
    stored.ok_or_else(|| namespaces.not_found(name))
}

/// Other versions of a resource: they share its storage.
fn equivalents<'r>(
    registry: &'r crate::registry::Registry,
    own: &Arc<Resource>,
) -> Vec<&'r Arc<Resource>> {
    let Some(storage) = &own.storage else { return Vec::new() };
    let same = |other: &&Arc<Resource>| {
        !Arc::ptr_eq(other, own) && other.storage.as_ref().is_some_and(|s| Arc::ptr_eq(s, storage))
    };
    registry.resources().filter(same).collect()
}

impl Rule {
    fn of(rule: &Value) -> Self {
        let texts = |key: &str| -> Vec<String> {
            let list = rule[key].as_array().into_iter().flatten();
            list.filter_map(|v| v.as_str().map(str::to_owned)).collect()
        };
        let split = |text: String| match text.split_once('/') {
            Some((resource, part)) => (resource.to_owned(), part.to_owned()),
            None => (text, String::new()),
        };
        Self {
            operations: texts("operations"),
            groups: texts("apiGroups"),
            versions: texts("apiVersions"),
            resources: texts("resources").into_iter().map(split).collect(),
            scope: match rule["scope"].as_str() {
                Some("Cluster") => Scope::Cluster,
                Some("Namespaced") => Scope::Namespaced,
                _ => Scope::Any,
            },
            names: texts("resourceNames"),
        }
    }

    /// Whether the request is meant, seen as one for `resource`.
    fn matches(&self, attributes: &Attributes<'_>, resource: &Resource) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|x| x == "*" || x == wanted);
        let scope = match self.scope {
            Scope::Any => true,
            Scope::Cluster => attributes.namespace.is_empty(),
            Scope::Namespaced => !attributes.namespace.is_empty(),
        };
        let resources = || {
            self.resources.iter().any(|(name, part)| {
                (name == "*" || *name == resource.name)
                    && (part == "*" || part == attributes.subresource)
            })
        };
        scope
            && has(&self.operations, attributes.operation.as_str())
            && has(&self.groups, &resource.group)
            && has(&self.versions, &resource.version)
            && resources()
            && (self.names.is_empty() || self.names.contains(&attributes.name))
    }
}

/// Whether no webhook and no policy sees the request: they could make themselves impossible to repair.
pub(super) fn is_exempt(attributes: &Attributes<'_>) -> bool {
    attributes.resource.group == GROUP
}

/// Whether expressions do not see the request: questions about rights are asked by policies themselves.
///
/// Source: upstream `pkg/kubeapiserver/admission/exclusion/resources.go`.
pub(super) fn is_review(attributes: &Attributes<'_>) -> bool {
    matches!(&*attributes.resource.group, "authentication.k8s.io" | "authorization.k8s.io")
        && attributes.resource.name.ends_with("reviews")
}

/// What kind of object a request is about, seen as one for `resource`.
pub(super) fn kind_for<'a>(attributes: &Attributes<'a>, resource: &'a Arc<Resource>) -> Kind<'a> {
    if Arc::ptr_eq(attributes.resource, resource) {
        attributes.kind
    } else {
        kind(resource, attributes.subresource)
    }
}

/// An object of the request's version, as `resource` shows it.
///
/// # Errors
/// The conversion webhook of the type fails.
pub(super) async fn convert(
    attributes: &Attributes<'_>,
    resource: &Arc<Resource>,
    object: &Value,
) -> Result<Value, ApiError> {
    between(attributes.resource, resource, attributes.subresource, object.clone()).await
}

/// The way back from [`convert`], after the object was changed.
///
/// # Errors
/// The conversion webhook of the type fails.
pub(super) async fn convert_back(
    attributes: &Attributes<'_>,
    resource: &Arc<Resource>,
    object: Value,
) -> Result<Value, ApiError> {
    between(resource, attributes.resource, attributes.subresource, object).await
}

/// From one version of a resource to another; objects of subresources have kinds of their own.
async fn between(
    from: &Arc<Resource>,
    to: &Arc<Resource>,
    subresource: &str,
    mut object: Value,
) -> Result<Value, ApiError> {
    if Arc::ptr_eq(from, to) || !matches!(subresource, "" | "status") || !object.is_object() {
        return Ok(object);
    }
    if crd::convert::is_converted(to) {
        return crd::convert::from_stored(to, object).await;
    }
    from.conversion.iter().for_each(|conversion| conversion.to_stored(&mut object));
    match &to.conversion {
        Some(conversion) => conversion.from_stored(&mut object),
        None => {
            object["kind"] = to.kind.clone().into();
            object["apiVersion"] = to.api_version().into();
        }
    }
    Ok(object)
}

#[test]
fn only_bindings_can_do_without_rules() {
    let has_rules = |criteria: Criteria| criteria.rules.is_some();
    assert!(has_rules(Criteria::of_webhook(&serde_json::json!({})).unwrap()));
    assert!(!has_rules(Criteria::of_policy(&Value::Null).unwrap()));
}
