//! Names of keys here and in etcd. Pure.

use std::sync::Arc;

/// Between the prefix and the names that the store needs for itself; no group is called so.
const OWN: &str = "/~store/";

/// What the keys of every store begin with.
const ROOT: &str = "/registry";

/// Translates keys.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    /// Keys that begin with [`ROOT`] here, and with `prefix` in etcd.
    pub(super) fn new(prefix: &str) -> Keys {
        Keys { prefix: format!("/{}", prefix.trim_matches('/')) }
    }

    /// The name in etcd.
    pub(super) fn outer(&self, key: &str) -> Vec<u8> {
        let rest = key.strip_prefix(ROOT).unwrap_or(key);
        [self.prefix.as_bytes(), rest.as_bytes()].concat()
    }

    /// The least name in etcd that is greater than all that begin with the prefix `key`.
    pub(super) fn end(&self, key: &str) -> Vec<u8> {
        let mut end = self.outer(key);
        // Names are UTF-8, which has no byte 255, and never empty.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        end
    }

    /// The name here; `None` for what is not an entry of this store.
    pub(super) fn inner(&self, key: &[u8]) -> Option<Arc<str>> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(&*self.prefix)?;
        (!rest.starts_with(OWN)).then(|| [ROOT, rest].concat().into())
    }

    /// First and end of all names of this store, its own needs included.
    pub(super) fn all(&self) -> (Vec<u8>, Vec<u8>) {
        let all = [ROOT, "/"].concat();
        (self.outer(&all), self.end(&all))
    }

    /// The name in etcd of something that the store needs for itself.
    pub(super) fn own(&self, name: &str) -> Vec<u8> {
        [&*self.prefix, OWN, name].concat().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for (prefix, key, outer) in [
            ("/registry", "/registry/core/pods/a/b", "/registry/core/pods/a/b"),
            ("other/place/", "/registry/core/pods/a", "/other/place/core/pods/a"),
        ] {
            let keys = Keys::new(prefix);
            assert_eq!(keys.outer(key), outer.as_bytes());
            assert_eq!(keys.inner(outer.as_bytes()).as_deref(), Some(key));
        }
    }

    #[test]
    fn what_is_not_an_entry_has_no_name() {
        let keys = Keys::new("/registry");
        assert_eq!(keys.inner(&keys.own("barrier")), None);
        assert_eq!(keys.inner(b"/elsewhere/a"), None);
        assert_eq!(keys.inner(b"/registry/\xff"), None);
        let (first, end) = keys.all();
        assert!(first < keys.own("barrier") && keys.own("barrier") < end);
    }

    #[test]
    fn a_prefix_ends_before_its_neighbour() {
        let keys = Keys::new("/registry");
        assert_eq!(keys.end("/registry/core/pods/"), b"/registry/core/pods0");
    }
}
