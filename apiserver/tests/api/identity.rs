//! Who may what, over a real socket: certificates, tokens, roles, and impersonation.

use std::time::Duration;

use apiserver::testing::TestServer;
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenRequest, TokenReview};
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, Role, RoleBinding};
use kit::testing::eventually;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, Error};
use serde_json::{Value, json};

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the object fits its type")
}

/// A client over the socket with the credentials of a kubeconfig.
async fn client(kubeconfig: &str) -> Client {
    let options = KubeConfigOptions::default();
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).expect("a kubeconfig");
    Client::try_from(
        Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a configuration"),
    )
    .expect("a client")
}

/// A client over the socket with a bearer token.
async fn bearer(server: &TestServer, token: &str) -> Client {
    let kubeconfig =
        Kubeconfig::from_yaml(&server.server().kubeconfig("nobody").expect("a kubeconfig"))
            .expect("a kubeconfig");
    let options = KubeConfigOptions::default();
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a configuration");
    config.auth_info =
        kube::config::AuthInfo { token: Some(token.to_owned().into()), ..Default::default() };
    Client::try_from(config).expect("a client")
}

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> u16 {
    match result {
        Err(Error::Api(status)) => status.code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_certificate_is_a_user_without_rights() {
    let server = TestServer::builder().with_socket().start().await.unwrap();
    let admin = client(&server.server().kubeconfig("system:admin").unwrap()).await;
    assert!(Api::<Namespace>::all(admin).get("default").await.is_ok());
    let jane = client(&server.server().kubeconfig("jane").unwrap()).await;
    let error = Api::<Secret>::default_namespaced(jane.clone()).list(&ListParams::default()).await;
    let Err(Error::Api(status)) = error else { panic!("{error:?}") };
    assert_eq!(
        status.message,
        "secrets is forbidden: User \"jane\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\""
    );
    let review: SelfSubjectReview =
        Api::all(jane).create(&PostParams::default(), &SelfSubjectReview::default()).await.unwrap();
    let user = review.status.unwrap().user_info.unwrap();
    assert_eq!(user.username.as_deref(), Some("jane"));
    assert_eq!(user.groups.unwrap(), ["system:authenticated"]);
}

#[tokio::test]
async fn a_token_has_the_rights_that_a_binding_gives_until_the_account_goes() {
    let server = TestServer::builder().with_socket().start().await.unwrap();
    let post = PostParams::default();
    let admin = server.client();
    let accounts: Api<ServiceAccount> = Api::default_namespaced(admin.clone());
    accounts.create(&post, &object(json!({ "metadata": { "name": "web" } }))).await.unwrap();
    let request: TokenRequest = object(json!({ "spec": { "audiences": [] } }));
    let token = accounts.create_token_request("web", &post, &request).await.unwrap();
    let token = token.status.unwrap().token.unwrap_or_default();
    let web = bearer(&server, &token).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(web.clone());
    assert_eq!(code(maps.list(&ListParams::default()).await), 403);

    let rule = json!({ "apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"] });
    let role = json!({ "metadata": { "name": "r" }, "rules": [rule] });
    Api::<Role>::default_namespaced(admin.clone()).create(&post, &object(role)).await.unwrap();
    let binding = json!({
        "metadata": { "name": "b" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r" },
        "subjects": [{ "kind": "ServiceAccount", "name": "web", "namespace": "default" }],
    });
    let bindings: Api<RoleBinding> = Api::default_namespaced(admin.clone());
    bindings.create(&post, &object(binding)).await.unwrap();
    maps.list(&ListParams::default()).await.expect("a write of a binding counts at once");
    assert_eq!(
        code(Api::<Secret>::default_namespaced(web.clone()).list(&ListParams::default()).await),
        403
    );
    bindings.delete("b", &DeleteParams::default()).await.unwrap();
    assert_eq!(code(maps.list(&ListParams::default()).await), 403);

    let review: TokenReview = object(json!({ "spec": { "token": token } }));
    let reviews: Api<TokenReview> = Api::all(admin);
    let status = reviews.create(&post, &review).await.unwrap().status.unwrap();
    assert_eq!(status.authenticated, Some(true));
    assert_eq!(status.user.unwrap().username.as_deref(), Some("system:serviceaccount:default:web"));
    accounts.delete("web", &DeleteParams::default()).await.unwrap();
    assert_eq!(code(maps.list(&ListParams::default()).await), 401);
    let status = reviews.create(&post, &review).await.unwrap().status.unwrap();
    assert_eq!(status.authenticated, None);
}

#[tokio::test]
async fn nobody_grants_more_than_they_hold() {
    let server = TestServer::start().await.unwrap();
    let post = PostParams::default();
    let rule = json!({ "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["create"] });
    let role = json!({ "metadata": { "name": "maker" }, "rules": [rule] });
    Api::<Role>::default_namespaced(server.client()).create(&post, &object(role)).await.unwrap();
    let binding = json!({
        "metadata": { "name": "maker" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "maker" },
        "subjects": [{ "kind": "User", "name": "eve" }],
    });
    Api::<RoleBinding>::default_namespaced(server.client())
        .create(&post, &object(binding))
        .await
        .unwrap();
    let eve: Api<Role> = Api::default_namespaced(server.client_as("eve", &[]));
    let with = |name: &str, resource: &str, group: &str| -> Role {
        object(json!({
            "metadata": { "name": name },
            "rules": [{ "apiGroups": [group], "resources": [resource], "verbs": ["create"] }],
        }))
    };
    eve.create(&post, &with("same", "roles", "rbac.authorization.k8s.io")).await.unwrap();
    assert_eq!(code(eve.create(&post, &with("more", "secrets", "")).await), 403);
}

#[tokio::test]
async fn view_grows_with_the_roles_that_others_bring() {
    let server = TestServer::start().await.unwrap();
    let roles: Api<ClusterRole> = Api::all(server.client());
    let has_widgets = |role: &ClusterRole| {
        let rules = role.rules.as_deref().unwrap_or_default();
        rules.iter().any(|r| r.resources.as_deref().unwrap_or_default().contains(&"widgets".into()))
    };
    let view = roles.get("view").await.unwrap();
    assert!(!view.rules.as_deref().unwrap_or_default().is_empty() && !has_widgets(&view));
    let role = json!({
        "metadata": { "name": "widgets", "labels": { "rbac.authorization.k8s.io/aggregate-to-view": "true" } },
        "rules": [{ "apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["get"] }],
    });
    roles.create(&PostParams::default(), &object(role)).await.unwrap();
    eventually(Duration::from_secs(10), async || {
        // `edit` collects from `view`'s sources through `view` itself, so both must have it.
        let names = ["view", "edit", "admin"];
        let mut n_grown = 0;
        for name in names {
            n_grown += usize::from(has_widgets(&roles.get(name).await.unwrap()));
        }
        match n_grown == names.len() {
            true => Ok(()),
            false => Err(format!("only {n_grown} of {names:?} have grown")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_self_review_tells_what_one_may() {
    let server = TestServer::start().await.unwrap();
    let ask = |client: Client, verb: &str| {
        let review: SelfSubjectAccessReview = object(json!({
            "spec": { "resourceAttributes": { "verb": verb, "resource": "pods", "namespace": "default" } },
        }));
        async move {
            let reviews: Api<SelfSubjectAccessReview> = Api::all(client);
            let done = reviews.create(&PostParams::default(), &review).await.unwrap();
            done.status.unwrap().allowed
        }
    };
    assert!(ask(server.client(), "delete").await);
    assert!(!ask(server.client_as("jane", &[]), "delete").await);
}
