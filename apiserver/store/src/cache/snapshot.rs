//! An immutable list.

use std::{ops::Bound, sync::Arc};

use super::{Object, Objects};
use crate::Revision;

/// The objects of a resource, or of one namespace of it, at one revision. Cheap to clone and to hold.
#[derive(Clone)]
pub struct Snapshot {
    revision: Revision,
    objects: Objects,
    /// Key prefix of the objects that belong to the list; it ends with a slash.
    scope: Arc<str>,
    whole: bool,
}

impl Snapshot {
    pub(super) fn new(
        revision: Revision,
        objects: Objects,
        prefix: &Arc<str>,
        namespace: Option<&str>,
    ) -> Self {
        let scope = match namespace {
            Some(namespace) => [prefix, namespace, "/"].concat().into(),
            None => prefix.clone(),
        };
        Snapshot { revision, objects, scope, whole: namespace.is_none() }
    }

    /// The revision that the list shows.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The number of objects; counted one by one if the list is of one namespace.
    pub fn len(&self) -> usize {
        if self.whole { self.objects.len() } else { self.iter().count() }
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The objects, by namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.from(Bound::Included(&*self.scope))
    }

    /// Key prefix of the objects that belong to the list; it ends with a slash.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// The objects from this store key on, which none need have.
    pub fn iter_from<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a Arc<Object>> {
        self.from(Bound::Included(key.max(&*self.scope)))
    }

    /// The objects after the one with this store key (which need not exist any more).
    pub fn iter_after<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a Arc<Object>> {
        let start =
            if key < &*self.scope { Bound::Included(&*self.scope) } else { Bound::Excluded(key) };
        self.from(start)
    }

    /// At most `limit` objects after the one with this store key, or from the start.
    pub fn page(&self, after: Option<&str>, limit: usize) -> Vec<Arc<Object>> {
        self.iter_after(after.unwrap_or_default()).take(limit).cloned().collect()
    }

    pub(super) fn objects(&self) -> &Objects {
        &self.objects
    }

    fn from<'a>(&'a self, start: Bound<&'a str>) -> impl Iterator<Item = &'a Arc<Object>> {
        let end = self.scope.strip_suffix('/').map(|scope| [scope, "0"].concat());
        // With an end that is known at the start the walk compares no keys: `0` comes right after `/`.
        let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.objects.range::<_, str>((start, end)).map(|(_, object)| object)
    }
}
