//! Names of operations: the verb, the group, the version, where the objects are, and their kind.

use super::super::Resource;

/// A group as identifiers have it: `rbac.authorization.k8s.io` is `rbacAuthorization`, `""` is `core`.
pub(super) fn group(group: &str) -> String {
    let mut words = group.strip_suffix(".k8s.io").unwrap_or(group).split('.');
    let first = words.next().filter(|first| !first.is_empty()).unwrap_or("core");
    words.fold(first.to_owned(), |name, word| name + &title(word))
}

/// The tag of a version's operations, such as `core_v1`.
pub(super) fn tag(group: &str, version: &str) -> String {
    format!("{}_{version}", self::group(group))
}

/// The name of an operation, such as `readCoreV1NamespacedPodStatus` for (`read`, pods, `NamespacedPodStatus`).
pub(super) fn id(verb: &str, resource: &Resource<'_>, what: &str) -> String {
    format!("{verb}{}{}{what}", title(&group(resource.group)), title(resource.version))
}

/// A word with a capital letter.
pub(super) fn title(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_one_word() {
        assert_eq!(group(""), "core");
        assert_eq!(group("apps"), "apps");
        assert_eq!(group("flowcontrol.apiserver.k8s.io"), "flowcontrolApiserver");
        assert_eq!(tag("stable.example.com", "v1"), "stableExampleCom_v1");
    }
}
