//! From a request to the questions that authorization is asked about it.
//!
//! Most requests pose one. A node's `proxy` poses several in turn: what the agent answers there ranges
//! from its health to running commands, so that each part has a right of its own (KEP-2862), and
//! commands cannot be run by who may merely read.

use std::borrow::Cow;

use super::authz::{Attributes, Authorizer, Decision};
use crate::discovery::metrics::Verdict;
use crate::request::{RequestInfo, User};
use crate::status::ApiError;

/// What became of the questions about a request: the decision that counts, and the error if it is a no.
#[derive(Debug)]
pub struct Judged {
    decision: Decision,
    refusal: Option<ApiError>,
}

impl Judged {
    async fn by(authorizer: &Authorizer, asked: &Attributes<'_>) -> Self {
        let decision = authorizer.authorize(asked).await;
        let refusal = (!decision.allowed).then(|| asked.forbidden(&decision));
        Self { decision, refusal }
    }

    /// Whether the request may go on.
    pub fn is_allowed(&self) -> bool {
        self.refusal.is_none()
    }

    /// What the authorizers say.
    pub fn verdict(&self) -> Verdict {
        match (self.is_allowed(), self.decision.denied) {
            (true, _) => Verdict::Allowed,
            (false, true) => Verdict::Denied,
            (false, false) => Verdict::NoOpinion,
        }
    }

    /// Why, in words for the audit log; may be empty.
    pub fn reason(&self) -> String {
        self.decision.reason.to_string()
    }

    /// The refusal, if there is one.
    ///
    /// # Errors
    /// [`ApiError::Forbidden`] if the request is not allowed.
    pub fn into_result(self) -> Result<(), ApiError> {
        self.refusal.map_or(Ok(()), Err)
    }
}

/// Whether `user` may send the request, and why.
pub async fn judge(
    authorizer: &Authorizer,
    user: &User,
    info: &RequestInfo,
    query: Option<&str>,
) -> Judged {
    let field_selector = parameter(query, "fieldSelector");
    let label_selector = parameter(query, "labelSelector");
    let asked = Attributes {
        field_selector: &field_selector,
        label_selector: &label_selector,
        ..Attributes::of(user, info)
    };
    if asked.group.is_empty() && asked.resource == "nodes" && asked.subresource == "proxy" {
        return judge_proxy(authorizer, &asked, &info.rest).await;
    }
    let judged = Judged::by(authorizer, &asked).await;
    // Websockets open streams by GET, which must not make commands out of a right to read.
    let opens = matches!(asked.subresource, "exec" | "attach" | "portforward");
    let needs_create =
        asked.group.is_empty() && asked.resource == "pods" && opens && asked.verb == "get";
    if judged.is_allowed() && needs_create {
        return Judged::by(authorizer, &Attributes { verb: "create", ..asked }).await;
    }
    judged
}

/// A parameter of the query, decoded; empty if it is not there.
fn parameter<'a>(query: Option<&'a str>, name: &str) -> Cow<'a, str> {
    let Some(query) = query.filter(|query| query.contains(name)) else { return Cow::Borrowed("") };
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value).unwrap_or_default()
}

/// A narrow right on the part is enough, and `nodes/proxy` is for all parts; but what runs commands is
/// `create`, by whichever method it is asked for.
async fn judge_proxy(authorizer: &Authorizer, asked: &Attributes<'_>, path: &str) -> Judged {
    // A name with a port or a scheme is not the node agent's, but of whatever else listens on the node.
    let is_agent = !asked.name.contains(':');
    if let Some(part) = part_of(path).filter(|_| is_agent) {
        let narrow = Attributes { subresource: part, ..*asked };
        let judged = Judged::by(authorizer, &narrow).await;
        if judged.is_allowed() {
            return judged;
        }
    }
    let verb = if runs_commands(path) { "create" } else { asked.verb };
    Judged::by(authorizer, &Attributes { verb, ..*asked }).await
}

/// The part of a node agent that a path below `proxy/` belongs to, if it has a right of its own.
///
/// Source: KEP-2862, and upstream `pkg/kubelet/server/auth.go`.
fn part_of(path: &str) -> Option<&'static str> {
    let path = canonical(path)?;
    let below = |prefix: &str| {
        path == prefix || path.strip_prefix(prefix).is_some_and(|t| t.starts_with('/'))
    };
    Some(match path.as_str() {
        _ if below("stats") => "stats",
        _ if below("metrics") => "metrics",
        _ if below("logs") => "log",
        "checkpoint" => "checkpoint",
        "statusz" => "statusz",
        "flagz" => "flagz",
        "configz" => "configz",
        _ if below("healthz") => "healthz",
        "pods" | "runningpods" => "pods",
        _ => return None,
    })
}

/// Whether a path below `proxy/` runs something in a container. Unclear paths do.
fn runs_commands(path: &str) -> bool {
    let Some(path) = canonical(path) else { return true };
    let first = path.split('/').next().unwrap_or_default();
    matches!(first, "exec" | "run" | "attach" | "portForward" | "cri")
}

/// The path without empty segments at its ends; `None` if agents may read it in another way than we do.
fn canonical(path: &str) -> Option<String> {
    let path = path.trim_matches('/');
    let unclear = path.contains('%')
        || path.contains('\\')
        || path.split('/').any(|s| matches!(s, "" | "." | ".."));
    if path.is_empty() {
        return Some(String::new());
    }
    (!unclear).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::rbac::Kind;
    use futures::FutureExt as _;
    use http::Method;
    use serde_json::json;

    /// Whether somebody with these rights, each a verb and a resource, may send the request.
    #[track_caller]
    fn check(rights: &[(&str, &str)], request: &str, expected: bool) {
        let authorizer = Authorizer::default();
        let rules: Vec<_> = rights
            .iter()
            .map(|(verb, resource)| json!({ "verbs": [verb], "apiGroups": [""], "resources": [resource] }))
            .collect();
        authorizer.set(Kind::ClusterRole, "", "r", Some(&json!({ "rules": rules })));
        let binding = json!({
            "roleRef": { "kind": "ClusterRole", "name": "r" },
            "subjects": [{ "kind": "User", "name": "jane" }],
        });
        authorizer.set(Kind::ClusterRoleBinding, "", "b", Some(&binding));
        let (method, path) = request.split_once(' ').unwrap();
        let method: Method = method.parse().unwrap();
        let path = match path.strip_prefix("@") {
            Some(path) => format!("/api/v1/{path}"),
            None => format!("/api/v1/nodes/n1/proxy/{path}"),
        };
        let info = RequestInfo::parse(&method, &path, None);
        let jane = User::new("jane", &[]);
        let answer = judge(&authorizer, &jane, &info, None).now_or_never().unwrap();
        assert_eq!(answer.is_allowed(), expected, "{rights:?} {request}");
    }

    #[test]
    fn each_part_of_a_node_has_its_own_right() {
        for (part, path) in [
            ("stats", "stats/summary"),
            ("metrics", "metrics/cadvisor"),
            ("log", "logs/kubelet.log"),
            ("pods", "pods"),
            ("healthz", "healthz/ping"),
            ("configz", "configz"),
        ] {
            let right = format!("nodes/{part}");
            check(&[("get", &right)], &format!("GET {path}"), true);
            check(&[("get", &right)], "GET runningpods/x", false);
            check(&[("get", &right)], "GET exec/shop/web/c", false);
            check(&[("get", "nodes/proxy")], &format!("GET {path}"), true);
            check(&[("get", "nodes/status")], &format!("GET {path}"), false);
        }
    }

    #[test]
    fn who_may_read_a_node_may_not_run_commands_there() {
        for path in [
            "exec/shop/web/c?command=id",
            "run/shop/web/c",
            "attach/shop/web/c",
            "portForward/shop/web",
        ] {
            check(&[("get", "nodes/proxy")], &format!("GET {path}"), false);
            check(&[("create", "nodes/proxy")], &format!("GET {path}"), true);
        }
        for path in [
            "%65xec/shop/web/c",
            "pods/../exec/shop/web/c",
            "//exec/shop/web/c",
            "metrics//../run/a/b/c",
        ] {
            check(
                &[("get", "nodes/proxy"), ("get", "nodes/metrics")],
                &format!("GET {path}"),
                false,
            );
        }
        check(&[("get", "nodes/proxy")], "GET containerLogs/shop/web/c", true);
        check(&[("get", "nodes/proxy")], "POST run/shop/web/c", false);
    }

    #[test]
    fn a_websocket_needs_the_right_to_create() {
        for part in ["exec", "attach", "portforward"] {
            let (right, path) =
                (format!("pods/{part}"), format!("GET @namespaces/shop/pods/web/{part}"));
            check(&[("get", &right)], &path, false);
            check(&[("get", &right), ("create", &right)], &path, true);
        }
        check(&[("get", "pods/log")], "GET @namespaces/shop/pods/web/log", true);
    }
}
