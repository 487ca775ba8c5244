//! Documents about documents: what is served, which version this is, and the keys of tokens.

use super::names::{self, title};
use super::{Answer, Operation, meta};

const OBJECTS: [&str; 3] =
    ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const JSON: [&str; 1] = ["application/json"];
const KEYS: [&str; 1] = ["application/jwk-set+json"];

/// The paths, as of the index of documents, of those that belong to no version; `groups` are the groups of Kubernetes.
pub(in super::super) fn root_paths<'a>(groups: &'a [&'a str]) -> impl Iterator<Item = String> + 'a {
    let fixed = [".well-known/openid-configuration", "api", "apis", "openid/v1/jwks", "version"];
    let groups = groups.iter().filter(|group| !group.is_empty());
    fixed.map(str::to_owned).into_iter().chain(groups.map(|group| format!("apis/{group}")))
}

/// The operation at a path, if it is one of the [`root_paths`] with these groups.
pub(in super::super) fn of_document(path: &str, groups: &[&str]) -> Option<Operation> {
    let (id, tag) = match path {
        ".well-known/openid-configuration" => {
            let id = "getServiceAccountIssuerOpenIDConfiguration";
            return Some(operation(path, id.into(), "WellKnown", Answer::Text, &[], &JSON));
        }
        "openid/v1/jwks" => {
            let id = "getServiceAccountIssuerOpenIDKeyset";
            return Some(operation(path, id.into(), "openid", Answer::Text, &[], &KEYS));
        }
        "version" => {
            let info = Answer::Definition("io.k8s.apimachinery.pkg.version.Info".to_owned());
            return Some(operation(path, "getCodeVersion".into(), "version", info, &JSON, &JSON));
        }
        "api" => return Some(objects(path, "getCoreAPIVersions".into(), "core", "APIVersions")),
        "apis" => return Some(objects(path, "getAPIVersions".into(), "apis", "APIGroupList")),
        path => {
            let group = path
                .strip_prefix("apis/")
                .filter(|group| !group.is_empty() && groups.contains(group))?;
            let tag = names::group(group);
            (format!("get{}APIGroup", title(&tag)), tag)
        }
    };
    Some(objects(path, id, &tag, "APIGroup"))
}

/// The operation that tells the resources of a version.
pub(in super::super) fn of_version(group: &str, version: &str) -> Operation {
    let path = match group {
        "" => format!("api/{version}"),
        group => format!("apis/{group}/{version}"),
    };
    let id = format!("get{}{}APIResources", title(&names::group(group)), title(version));
    objects(&path, id, &names::tag(group, version), "APIResourceList")
}

fn objects(path: &str, id: String, tag: &str, kind: &str) -> Operation {
    operation(path, id, tag, Answer::Definition(meta(kind)), &OBJECTS, &OBJECTS)
}

fn operation(
    path: &str,
    id: String,
    tag: &str,
    answer: Answer,
    consumes: &'static [&'static str],
    produces: &'static [&'static str],
) -> Operation {
    Operation {
        path: format!("/{path}/"),
        method: "get",
        action: None,
        id,
        tag: tag.to_owned(),
        gvk: None,
        parameters: Vec::new(),
        body: None,
        consumes,
        produces,
        codes: &[200],
        answer,
    }
}
