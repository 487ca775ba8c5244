//! A table of rights: for every verb, resource, scope and way of being granted something, the server's
//! answer equals the rules. And escalations of each known kind, which are refused.

use apiserver::testing::TestServer;
use http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};

const GROUP: &str = "rbac.authorization.k8s.io";

/// How a user is granted something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grant {
    /// A Role in the namespace `here`.
    Role,
    /// A ClusterRole, bound in the namespace `here`.
    ClusterRoleThere,
    /// A ClusterRole, bound for the whole cluster.
    ClusterRole,
    /// Nothing.
    None,
}

const GRANTS: [Grant; 4] = [Grant::Role, Grant::ClusterRoleThere, Grant::ClusterRole, Grant::None];
const VERBS: [&str; 8] =
    ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];
const RESOURCES: [(&str, &str); 6] = [
    ("", "pods"),
    ("", "pods/log"),
    ("", "secrets"),
    ("", "nodes"),
    ("coordination.k8s.io", "leases"),
    ("example.com", "widgets/scale"),
];

async fn send(client: &Client, method: Method, path: &str, body: &Value) -> Result<Value, u16> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(body.to_string().into_bytes())
        .unwrap();
    match client.request::<Value>(request).await {
        Ok(answer) => Ok(answer),
        Err(kube::Error::Api(status)) => Err(status.code),
        Err(error) => panic!("{error}"),
    }
}

async fn post(client: &Client, path: &str, body: Value) -> Result<Value, u16> {
    send(client, Method::POST, path, &body).await
}

fn roles(namespace: &str, kind: &str) -> String {
    match namespace {
        "" => format!("/apis/{GROUP}/v1/cluster{kind}"),
        namespace => format!("/apis/{GROUP}/v1/namespaces/{namespace}/{kind}"),
    }
}

/// Grants one verb on one resource to the user of this name.
async fn give(
    admin: &Client,
    user: &str,
    grant: Grant,
    verb: &str,
    (group, resource): (&str, &str),
) {
    let (of_role, of_binding) = match grant {
        Grant::None => return,
        Grant::Role => ("here", "here"),
        Grant::ClusterRoleThere => ("", "here"),
        Grant::ClusterRole => ("", ""),
    };
    let role = json!({
        "metadata": { "name": user },
        "rules": [{ "verbs": [verb], "apiGroups": [group], "resources": [resource] }],
    });
    post(admin, &roles(of_role, "roles"), role).await.unwrap();
    let kind = if of_role.is_empty() { "ClusterRole" } else { "Role" };
    let binding = json!({
        "metadata": { "name": user },
        "roleRef": { "apiGroup": GROUP, "kind": kind, "name": user },
        "subjects": [{ "apiGroup": GROUP, "kind": "User", "name": user }],
    });
    post(admin, &roles(of_binding, "rolebindings"), binding).await.unwrap();
}

/// What the server says of the question.
async fn may(admin: &Client, user: &str, verb: &str, resource: (&str, &str), place: &str) -> bool {
    let (plural, part) = resource.1.split_once('/').unwrap_or((resource.1, ""));
    let review = json!({ "spec": { "user": user, "resourceAttributes": {
        "verb": verb, "group": resource.0, "resource": plural, "subresource": part,
        "namespace": place, "name": "x",
    } } });
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    post(admin, path, review).await.unwrap()["status"]["allowed"] == true
}

#[tokio::test]
async fn the_answer_equals_the_rules() {
    let server = TestServer::start().await.unwrap();
    let admin = server.client();
    post(&admin, "/api/v1/namespaces", json!({ "metadata": { "name": "here" } })).await.unwrap();
    let mut n_checked = 0;
    for (at, granted) in RESOURCES.iter().enumerate() {
        for (nth, verb) in VERBS.iter().enumerate() {
            for grant in GRANTS {
                let user = format!("u-{at}-{nth}-{}", grant as u8);
                give(&admin, &user, grant, verb, *granted).await;
                // The same question, and one that differs in each part of it.
                let other_verb = VERBS[(nth + 1) % VERBS.len()];
                let other_resource = RESOURCES[(at + 1) % RESOURCES.len()];
                for (asked_verb, asked) in
                    [(*verb, *granted), (other_verb, *granted), (*verb, other_resource)]
                {
                    for place in ["here", "there", ""] {
                        let reaches = match grant {
                            Grant::None => false,
                            Grant::ClusterRole => true,
                            Grant::Role | Grant::ClusterRoleThere => place == "here",
                        };
                        let expected = reaches && asked_verb == *verb && asked == *granted;
                        let got = may(&admin, &user, asked_verb, asked, place).await;
                        let case = format!(
                            "{grant:?} of {verb} {granted:?}: {asked_verb} {asked:?} in {place:?}"
                        );
                        assert_eq!(got, expected, "{case}");
                        n_checked += 1;
                    }
                }
            }
        }
    }
    assert_eq!(n_checked, RESOURCES.len() * VERBS.len() * GRANTS.len() * 9);
}

/// Eve may write roles and bindings, impersonate, approve and ask for tokens only where it says so.
async fn eve(server: &TestServer, rules: Value) -> Client {
    let admin = server.client();
    let role = json!({ "metadata": { "name": "eve" }, "rules": rules });
    post(&admin, &roles("", "roles"), role).await.unwrap();
    let binding = json!({
        "metadata": { "name": "eve" },
        "roleRef": { "apiGroup": GROUP, "kind": "ClusterRole", "name": "eve" },
        "subjects": [{ "apiGroup": GROUP, "kind": "User", "name": "eve" }],
    });
    post(&admin, &roles("", "rolebindings"), binding).await.unwrap();
    server.client_as("eve", &[])
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({ "apiGroups": [group], "resources": resources, "verbs": verbs })
}

#[tokio::test]
async fn roles_and_bindings_do_not_lift_their_writer() {
    let server = TestServer::start().await.unwrap();
    let all = ["roles", "clusterroles", "rolebindings", "clusterrolebindings"];
    let writes = ["create", "update", "patch", "get", "delete"];
    let eve = eve(&server, json!([rule(GROUP, &all, &writes)])).await;
    let everything = json!([{ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] }]);
    let role = |name: &str, rules: &Value| json!({ "metadata": { "name": name }, "rules": rules });
    let clusterroles = roles("", "roles");
    // A role with more than one has.
    assert_eq!(post(&eve, &clusterroles, role("a", &everything)).await, Err(403));
    // A harmless one that becomes more by update, by patch, or by apply.
    let harmless = json!([rule(GROUP, &["roles"], &["get"])]);
    post(&eve, &clusterroles, role("b", &harmless)).await.unwrap();
    let b = format!("{clusterroles}/b");
    assert_eq!(send(&eve, Method::PUT, &b, &role("b", &everything)).await, Err(403));
    let patch = |kind: &str| {
        let body = json!({ "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole",
            "metadata": { "name": "b" }, "rules": everything });
        Request::patch(format!("{b}?fieldManager=eve&force=true"))
            .header("content-type", kind)
            .body(body.to_string().into_bytes())
            .unwrap()
    };
    for kind in [
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
    ] {
        let mut request = patch(kind);
        if !kind.contains("apply") {
            *request.uri_mut() = b.parse().unwrap();
        }
        let refused = eve.request::<Value>(request).await.unwrap_err();
        assert!(matches!(refused, kube::Error::Api(s) if s.code == 403), "{kind}");
    }
    // A role that collects the rules of others.
    let collects = json!({ "metadata": { "name": "c" },
        "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { "x": "y" } }] } });
    assert_eq!(post(&eve, &clusterroles, collects).await, Err(403));
    // Binding oneself, or one's group, to a role that is there.
    for (place, subject) in [
        ("", json!({ "apiGroup": GROUP, "kind": "User", "name": "eve" })),
        ("default", json!({ "apiGroup": GROUP, "kind": "Group", "name": "system:authenticated" })),
        (
            "kube-system",
            json!({ "kind": "ServiceAccount", "name": "default", "namespace": "default" }),
        ),
    ] {
        let binding = json!({
            "metadata": { "name": "d" },
            "roleRef": { "apiGroup": GROUP, "kind": "ClusterRole", "name": "cluster-admin" },
            "subjects": [subject],
        });
        assert_eq!(post(&eve, &roles(place, "rolebindings"), binding).await, Err(403));
    }
}

#[tokio::test]
async fn narrow_leave_to_become_somebody_else_is_for_one_kind_of_users() {
    let server = TestServer::start().await.unwrap();
    let narrow = "authentication.k8s.io";
    let verbs =
        ["impersonate:user-info", "impersonate:serviceaccount", "impersonate:arbitrary-node"];
    let on: Vec<String> = verbs.iter().map(|verb| verb.replace(':', "-on:") + ":create").collect();
    let eve = eve(
        &server,
        json!([
            rule(narrow, &["users", "groups", "serviceaccounts", "nodes"], &verbs),
            rule(
                narrow,
                &["selfsubjectreviews"],
                &on.iter().map(String::as_str).collect::<Vec<_>>()
            ),
        ]),
    )
    .await;
    let whoami = async |headers: &[(&str, &str)]| {
        let mut request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews");
        for (name, value) in headers {
            request =
                request.header(*name, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let answer = eve.request::<Value>(request.body(b"{}".to_vec()).unwrap()).await;
        match answer {
            Ok(review) => Ok(review["status"]["userInfo"]["groups"].to_string()),
            Err(kube::Error::Api(status)) => Err(status.code),
            Err(other) => panic!("{other}"),
        }
    };
    let user = ("impersonate-user", "jürgen");
    assert_eq!(whoami(&[user]).await.unwrap(), r#"["system:authenticated"]"#);
    assert!(whoami(&[user, ("impersonate-group", "dev")]).await.unwrap().starts_with(r#"["dev""#));
    assert_eq!(whoami(&[user, ("impersonate-group", "system:masters")]).await, Err(403));
    let node = ("impersonate-user", "system:node:n1");
    assert!(whoami(&[node]).await.unwrap().starts_with(r#"["system:nodes""#));
    assert_eq!(whoami(&[node, ("impersonate-group", "dev")]).await, Err(403));
    let account = ("impersonate-user", "system:serviceaccount:a:b");
    assert!(whoami(&[account]).await.unwrap().starts_with(r#"["system:serviceaccounts""#));
    assert_eq!(whoami(&[account, ("impersonate-group", "dev")]).await, Err(403));
}

#[tokio::test]
async fn nobody_becomes_somebody_else_without_leave() {
    let server = TestServer::start().await.unwrap();
    let eve = eve(
        &server,
        json!([
            rule("", &["users"], &["impersonate"]),
            rule(
                "certificates.k8s.io",
                &["certificatesigningrequests", "certificatesigningrequests/approval"],
                &["create", "update", "patch", "get"]
            ),
            rule("", &["nodes"], &["get"]),
        ]),
    )
    .await;
    let ask = |headers: Vec<(&str, &str)>| {
        let mut request = Request::get("/api/v1/namespaces/kube-system/secrets");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.body(Vec::new()).unwrap()
    };
    for headers in [
        vec![("impersonate-user", "x"), ("impersonate-group", "system:masters")],
        vec![("impersonate-user", "system:serviceaccount:kube-system:default")],
        vec![("impersonate-user", "x"), ("impersonate-uid", "1")],
        vec![("impersonate-user", "x"), ("impersonate-extra-scopes", "all")],
        vec![("impersonate-user", "x")],
    ] {
        let refused = eve.request::<Value>(ask(headers.clone())).await.unwrap_err();
        assert!(matches!(refused, kube::Error::Api(s) if s.code == 403), "{headers:?}");
    }
    // Who the front proxy speaks for is for the proxy to say.
    let forged = ask(vec![("x-remote-user", "root"), ("x-remote-group", "system:masters")]);
    assert!(
        matches!(eve.request::<Value>(forged).await, Err(kube::Error::Api(s)) if s.code == 403)
    );

    let request = rcgen::CertificateParams::default()
        .serialize_request(&rcgen::KeyPair::generate().unwrap())
        .unwrap()
        .pem()
        .unwrap();
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, request);
    let csrs = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let csr = json!({ "metadata": { "name": "mine" }, "spec": {
        "request": encoded, "signerName": "kubernetes.io/kube-apiserver-client",
        "usages": ["client auth"], "username": "system:admin", "groups": ["system:masters"] } });
    let mut made = post(&eve, csrs, csr).await.unwrap();
    assert_eq!(made["spec"]["username"], "eve", "who asks is written down by the server");
    made["status"]["conditions"] =
        json!([{ "type": "Approved", "status": "True", "reason": "me" }]);
    let approval = format!("{csrs}/mine/approval");
    assert_eq!(send(&eve, Method::PUT, &approval, &made).await, Err(403), "not her signer");
}
