//! What selectors choose, and the page that a limit makes of it.

use std::sync::Arc;

use store::cache::{Object, Snapshot};

use super::state::State;
use crate::crd::convert;
use crate::handlers::options::ListOptions;
use crate::handlers::token::Token;
use crate::registry::{Resource, Selectable};
use crate::status::ApiError;

/// Turns the labels of field selectors into those of the store, and refuses the ones that the resource does not know.
///
/// # Errors
/// [`ApiError::BadRequest`] in upstream's words.
pub fn fit_fields(resource: &Resource, options: &mut ListOptions) -> Result<(), ApiError> {
    let known = resource.selectable.as_slice();
    // Cluster-scoped types of Kubernetes with fields of their own do not name the namespace among them.
    let placeless = !resource.is_foreign() && !resource.namespaced && !known.is_empty();
    for term in options.fields.terms_mut() {
        let stored = match &resource.conversion {
            Some(conversion) => conversion.stored_field(&term.field),
            None => Some(term.field.clone()),
        };
        let is_known = |field: &String| match field.as_str() {
            "metadata.name" => true,
            "metadata.namespace" => !placeless,
            other => known.iter().any(|selectable| selectable.name == other),
        };
        match stored.filter(is_known) {
            Some(stored) => term.field = stored,
            None => return Err(ApiError::BadRequest(unselectable(resource, known, &term.field))),
        }
    }
    Ok(())
}

fn unselectable(resource: &Resource, known: &[Selectable], field: &str) -> String {
    if let Some(own) = resource.strategy.unselectable(field) {
        return own;
    }
    if resource.kind == "ResourceSlice" && !resource.is_foreign() {
        let (version, kind) = (resource.api_version(), &resource.kind);
        format!("field label not supported for {version}, Kind={kind}: {field}")
    } else if known.is_empty() && !resource.is_foreign() {
        format!(
            "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        )
    } else {
        format!("field label not supported: {field}")
    }
}

/// Whether the selectors choose an object.
pub fn chosen(options: &ListOptions, object: &Object) -> bool {
    options.labels.matches(|key| object.labels().get(key))
        && options.fields.matches(|field| match field {
            "metadata.name" => Some(object.name()),
            "metadata.namespace" => object.namespace(),
            other => object.fields().get(other),
        })
}

/// What the options choose of a state, in the resource's version, and what the page says of the rest.
///
/// # Errors
/// The conversion webhook fails.
pub async fn choose_page(
    resource: &Resource,
    options: &ListOptions,
    state: &State,
) -> Result<(Vec<Arc<Object>>, Page), ApiError> {
    let (snapshot, from) = (&state.snapshot, state.from.as_deref());
    let stored = convert::asked_of_stored(resource, options);
    let page = Page::look(snapshot, from, &stored);
    let objects = matching(snapshot, from, &stored).cloned().collect();
    Ok((converted(resource, options, objects).await?, page))
}

/// Those of the stored objects that the selectors choose, in the resource's version.
///
/// # Errors
/// The conversion webhook fails.
pub async fn choose(
    resource: &Resource,
    options: &ListOptions,
    objects: impl Iterator<Item = &Arc<Object>>,
) -> Result<Vec<Arc<Object>>, ApiError> {
    let stored = convert::asked_of_stored(resource, options);
    let objects = objects.filter(|object| chosen(&stored, object)).cloned().collect();
    converted(resource, options, objects).await
}

/// Those that the selectors choose, of objects that were asked what stored ones can be asked.
pub(super) async fn converted(
    resource: &Resource,
    options: &ListOptions,
    objects: Vec<Arc<Object>>,
) -> Result<Vec<Arc<Object>>, ApiError> {
    let mut objects = convert::objects(resource, objects).await?;
    if convert::is_converted(resource) {
        objects.retain(|object| chosen(options, object));
    }
    Ok(objects)
}

/// The objects of a list or page.
pub(super) fn matching<'a>(
    snapshot: &'a Snapshot,
    from: Option<&'a str>,
    options: &'a ListOptions,
) -> impl Iterator<Item = &'a Arc<Object>> {
    let objects = snapshot.iter_from(from.unwrap_or_default()).filter(|o| chosen(options, o));
    objects.take(match options.limit {
        0 => usize::MAX,
        limit => limit,
    })
}

/// What a page says of those after it.
#[derive(Default)]
pub struct Page {
    pub(super) token: Option<String>,
    pub(super) remaining: Option<usize>,
}

impl Page {
    pub(super) fn look(snapshot: &Snapshot, from: Option<&str>, options: &ListOptions) -> Self {
        if options.limit == 0 {
            return Self::default();
        }
        // As upstream: there is a next page while there are objects, whether they match or not.
        let last = matching(snapshot, from, options).nth(options.limit - 1);
        let last = last.filter(|last| snapshot.iter_after(last.key()).next().is_some());
        let last = last.filter(|last| !is_single(snapshot, last.key(), options));
        let Some(last) = last else { return Self::default() };
        let remaining = (!options.is_selective()).then(|| snapshot.iter_after(last.key()).count());
        let revision = i64::try_from(snapshot.revision()).unwrap_or(i64::MAX);
        let token = Token::after(revision, last.key(), snapshot.scope());
        Self { token: Some(token.encode()), remaining }
    }
}

/// Whether the one object that can match is read alone: of a name, in a place that is known.
fn is_single(snapshot: &Snapshot, key: &str, options: &ListOptions) -> bool {
    let asks = |field| options.fields.required(field).is_some();
    let is_in_place = key.strip_prefix(snapshot.scope()).is_some_and(|name| !name.contains('/'));
    asks("metadata.name") && (is_in_place || asks("metadata.namespace"))
}
