//! What a request asks for, read from its method, path and query alone.
//!
//! Source: the URL shapes of kubernetes.io, "API Concepts", "Resource URIs".

use std::borrow::Cow;

use http::Method;

use crate::handlers::options::is_on;
use crate::handlers::selector::Fields;

/// Who sent a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// For example `system:admin` or `system:serviceaccount:kube-system:default`.
    pub name: String,
    /// Stable id of a service account; empty for certificates.
    pub uid: String,
    /// Every authenticated user is also in `system:authenticated`.
    pub groups: Vec<String>,
    /// Facts that the authenticator adds, such as the pod that a token is bound to.
    pub extra: Vec<(String, Vec<String>)>,
}

impl User {
    /// A user as an in-process client or a certificate names it.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|&g| g.to_owned()).collect();
        let everyone = if name == "system:anonymous" {
            "system:unauthenticated"
        } else {
            "system:authenticated"
        };
        if !groups.iter().any(|g| g == everyone) {
            groups.push(everyone.to_owned());
        }
        Self { name: name.to_owned(), groups, ..Self::default() }
    }

    /// The server itself, in what it does on its own account.
    pub fn server() -> Self {
        Self::new("system:apiserver", &["system:masters"])
    }

    /// Whoever sent no credentials.
    pub fn anonymous() -> Self {
        Self::new("system:anonymous", &[])
    }

    /// Whether the user belongs to `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// A request in the words of authorization: verb, resource, name. It is put into the request's
/// extensions by the outermost layer; the [`User`] by the authentication layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Path without the query, still percent-encoded.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or for
    /// non-resource paths the lower-case HTTP method.
    pub verb: String,
    /// False for paths such as `/version` and for discovery documents.
    pub is_resource: bool,
    /// API group; empty for the core group.
    pub group: String,
    /// API version, such as `v1`.
    pub version: String,
    /// Plural name of the resource.
    pub resource: String,
    /// `status`, `log` …; empty for the object itself.
    pub subresource: String,
    /// Empty for cluster-scoped resources and for all namespaces.
    pub namespace: String,
    /// Name of the object; empty for collections, unless a field selector chooses one name.
    pub name: String,
    /// Name of the object in the path alone.
    pub path_name: String,
    /// Whether the path is one of those under `watch/`, which can only be read.
    pub is_watch_path: bool,
    /// What follows the subresource, without its leading slash (`proxy/…`); percent-encoded.
    pub rest: String,
}

impl RequestInfo {
    /// Reads a request line. Nothing is looked up: an unknown resource is found out later.
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Self {
        let non_resource = || Self {
            path: path.to_owned(),
            verb: method.as_str().to_lowercase(),
            ..Self::default()
        };
        let parts: Vec<Cow<'_, str>> =
            path.split('/').filter(|p| !p.is_empty()).map(decode).collect();
        let (group, version, mut rest, mut at) = match parts.first().map(Cow::as_ref) {
            Some("api") if parts.len() >= 3 => ("", parts[1].as_ref(), &parts[2..], 2),
            Some("apis") if parts.len() >= 4 => {
                (parts[1].as_ref(), parts[2].as_ref(), &parts[3..], 3)
            }
            _ => return non_resource(),
        };
        let legacy_watch = rest.first().is_some_and(|p| p == "watch") && rest.len() > 1;
        if legacy_watch {
            rest = &rest[1..];
            at += 1;
        }
        let mut info = Self {
            path: path.to_owned(),
            is_resource: true,
            group: group.to_owned(),
            version: version.to_owned(),
            is_watch_path: legacy_watch,
            ..Self::default()
        };
        // `namespaces/x/status` and `namespaces/x/finalize` are about the namespace itself.
        if rest[0] == "namespaces" && rest.len() > 1 {
            info.namespace = rest[1].clone().into_owned();
            let about_itself = rest.len() == 3 && matches!(rest[2].as_ref(), "status" | "finalize");
            if rest.len() > 2 && !about_itself {
                rest = &rest[2..];
                at += 2;
            }
        }
        let text = |i: usize| rest.get(i).map(|p| p.clone().into_owned()).unwrap_or_default();
        (info.resource, info.name, info.subresource) = (text(0), text(1), text(2));
        info.path_name.clone_from(&info.name);
        if rest.len() > 3 {
            info.rest = tail(path, at + 3).to_owned();
        }
        info.verb = verb(method, &mut info, query, legacy_watch);
        info
    }

    /// Whether the request may go on for as long as both sides like, as watches and streams do.
    ///
    /// Source: `BasicLongRunningRequestCheck` as upstream's `pkg/controlplane/apiserver` sets it up.
    pub fn is_long_running(&self) -> bool {
        const STREAMS: [&str; 5] = ["attach", "exec", "proxy", "log", "portforward"];
        self.verb == "watch" || STREAMS.contains(&self.subresource.as_str())
    }

    /// Whether the request changes something, by its verb.
    pub fn changes(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }

    /// Whether the path has nothing that no route has: empty segments, slashes in names, and a tail where nothing
    /// takes one.
    pub fn is_routable(&self) -> bool {
        let has_tail = self.subresource == "proxy";
        let head = match has_tail {
            true => self.path.strip_suffix(&self.rest).unwrap_or(&self.path),
            false => &self.path,
        };
        let decoded = [&self.namespace, &self.path_name, &self.resource, &self.subresource];
        !head.trim_end_matches('/').contains("//")
            && !decoded.into_iter().any(|segment| segment.contains('/'))
            && (has_tail || self.rest.is_empty())
    }

    /// `group/version`, or the version alone for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

fn verb(
    method: &Method,
    info: &mut RequestInfo,
    query: Option<&str>,
    legacy_watch: bool,
) -> String {
    let collection = info.name.is_empty();
    let verb = match *method {
        Method::GET | Method::HEAD if collection && (legacy_watch || wants_watch(query)) => "watch",
        Method::GET | Method::HEAD if legacy_watch => "watch",
        // A collection watch or list that a field selector narrows to one name is about that name.
        Method::GET | Method::HEAD if collection => "list",
        // One object is read, whatever the query says.
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        // As upstream has it: whoever may do anything may do this.
        _ => "",
    };
    if collection
        && matches!(verb, "list" | "watch" | "deletecollection")
        && let Some(name) = single_name(query)
    {
        info.name = name;
    }
    verb.to_owned()
}

/// Whether the query has `watch` with any value but `false` and `0`.
pub fn wants_watch(query: Option<&str>) -> bool {
    query.is_some_and(|q| {
        form_urlencoded::parse(q.as_bytes())
            .find(|(k, _)| k == "watch")
            .is_some_and(|(_, v)| is_on(&v))
    })
}

fn single_name(query: Option<&str>) -> Option<String> {
    let selector = form_urlencoded::parse(query?.as_bytes())
        .find(|(k, _)| k == "fieldSelector")
        .map(|(_, v)| v.into_owned())?;
    // Read as the list itself is: a guess at the text could name an object that is not chosen.
    let fields = Fields::parse(&selector).ok()?;
    let name = fields.required("metadata.name").filter(|name| !name.is_empty())?;
    let is_segment = name != "." && name != ".." && !name.contains(['/', '%']);
    is_segment.then(|| name.to_owned())
}

/// Percent-decodes one path segment (a `+` stays a plus).
fn decode(segment: &str) -> Cow<'_, str> {
    if !segment.contains('%') {
        return Cow::Borrowed(segment);
    }
    let bytes = segment.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = bytes.get(i + 1..i + 3).and_then(|h| std::str::from_utf8(h).ok());
        match (bytes[i], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                i += 3;
            }
            (byte, _) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// The path after its first `n` non-empty segments and the slash that follows them.
fn tail(path: &str, n: usize) -> &str {
    let mut rest = path;
    for _ in 0..n {
        rest = rest.trim_start_matches('/');
        rest = rest.find('/').map_or("", |at| &rest[at..]);
    }
    rest.strip_prefix('/').unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(request: &str, expected: &str) {
        let (method, uri) = request.split_once(' ').unwrap();
        let (path, query) = uri.split_once('?').map_or((uri, None), |(p, q)| (p, Some(q)));
        let i = RequestInfo::parse(&method.parse().unwrap(), path, query);
        let got = if i.is_resource {
            format!(
                "{} {}|{}|{}|{}|{}|{}|{}",
                i.verb, i.group, i.version, i.resource, i.subresource, i.namespace, i.name, i.rest
            )
        } else {
            format!("{} {}", i.verb, i.path)
        };
        assert_eq!(got, expected, "{request}");
    }

    #[test]
    fn objects_and_collections() {
        check("GET /api/v1/nodes", "list |v1|nodes||||");
        check("GET /api/v1/nodes/a", "get |v1|nodes|||a|");
        check("GET /api/v1/nodes?watch=1", "watch |v1|nodes||||");
        check("GET /api/v1/nodes?watch=false", "list |v1|nodes||||");
        check("GET /api/v1/watch/nodes", "watch |v1|nodes||||");
        check("GET /api/v1/nodes/a?watch=1", "get |v1|nodes|||a|");
        check("DELETE /api/v1/namespaces/x/pods", "deletecollection |v1|pods||x||");
        check(
            "GET /apis/apps/v1/namespaces/x/deployments/d/scale",
            "get apps|v1|deployments|scale|x|d|",
        );
        check("GET /api/v1/pods?fieldSelector=metadata.name%3Da", "list |v1|pods|||a|");
        let hidden = "GET /api/v1/pods?fieldSelector=metadata.name!%3Dz%5C,metadata.name%3Da";
        check(hidden, "list |v1|pods||||");
        check("GET /api/v1/pods?fieldSelector=metadata.name%3Da/b", "list |v1|pods||||");
        check("PATCH /api/v1/namespaces/x/pods/a%2Eb", "patch |v1|pods||x|a.b|");
    }

    #[test]
    fn namespaces_are_objects_too() {
        check("GET /api/v1/namespaces", "list |v1|namespaces||||");
        check("GET /api/v1/namespaces/x", "get |v1|namespaces||x|x|");
        check("PUT /api/v1/namespaces/x/finalize", "update |v1|namespaces|finalize|x|x|");
        check("GET /api/v1/namespaces/x/status", "get |v1|namespaces|status|x|x|");
    }

    #[test]
    fn proxies_keep_their_tail() {
        check(
            "GET /api/v1/namespaces/x/services/s:80/proxy/a/b",
            "get |v1|services|proxy|x|s:80|a/b",
        );
        check("GET /api/v1/nodes/n/proxy/logs/", "get |v1|nodes|proxy||n|logs/");
    }

    #[test]
    fn routes_have_no_empty_segments_and_no_tails() {
        let routable = |path: &str| RequestInfo::parse(&Method::GET, path, None).is_routable();
        assert!(routable("/api/v1/namespaces/x/pods/"));
        assert!(routable("/api/v1/nodes/n/proxy/a//b"));
        assert!(!routable("/api/v1//pods"));
        assert!(!routable("/api/v1/namespaces/x/pods/a%2fb"));
        assert!(!routable("/api/v1/namespaces/x/pods/a/status/b"));
    }

    #[test]
    fn other_paths() {
        check("GET /version", "get /version");
        check("GET /apis/apps/v1", "get /apis/apps/v1");
        check("GET /api", "get /api");
    }
}
