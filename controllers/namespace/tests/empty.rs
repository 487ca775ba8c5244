//! The controller on a real server, with only its own rights.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::time::Duration;

use apiserver::testing::TestServer;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use kit::testing::{Playing, equip, eventually, grant};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use namespace_controller::PLAYER;
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

const WIDGETS: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, listKind: WidgetList}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object}}
";

async fn start() -> (TestServer, Playing, Api<Namespace>) {
    let server = TestServer::builder().install_crds(WIDGETS).start().await.expect("a server");
    let user = grant(server.client(), &PLAYER).await.expect("rights");
    let playing = Playing::start(&PLAYER, server.client_as(&user, &[]), "test");
    let namespaces = Api::all(server.client());
    let shop = serde_json::from_value(json!({"metadata": {"name": "shop"}})).unwrap();
    namespaces.create(&PostParams::default(), &shop).await.unwrap();
    equip(server.client(), "shop").await.expect("an account");
    (server, playing, namespaces)
}

async fn create<K>(client: Client, object: serde_json::Value) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    let api = Api::<K>::namespaced(client, "shop");
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    api
}

async fn is_gone(namespaces: &Api<Namespace>) {
    eventually(SOON, async || match namespaces.get_opt("shop").await.unwrap() {
        None => Ok(()),
        Some(shop) => Err(format!("{:?}", shop.status)),
    })
    .await;
}

#[tokio::test]
async fn everything_goes_with_its_namespace() {
    let (server, _playing, namespaces) = start().await;
    create::<ConfigMap>(server.client(), json!({"metadata": {"name": "a"}})).await;
    create::<Secret>(server.client(), json!({"metadata": {"name": "b"}})).await;
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Widget"));
    let widgets: Api<DynamicObject> = Api::namespaced_with(server.client(), "shop", &resource);
    let widget = DynamicObject::new("w", &resource).within("shop");
    widgets.create(&PostParams::default(), &widget).await.unwrap();
    let elsewhere = Api::<ConfigMap>::namespaced(server.client(), "default");
    let map = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
    elsewhere.create(&PostParams::default(), &map).await.unwrap();

    namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
    is_gone(&namespaces).await;
    let left =
        Api::<ConfigMap>::namespaced(server.client(), "shop").list(&Default::default()).await;
    assert!(left.unwrap().items.is_empty());
    assert!(widgets.list(&Default::default()).await.unwrap().items.is_empty());
    assert!(elsewhere.get("a").await.is_ok(), "other namespaces keep theirs");
}

#[tokio::test]
async fn what_has_finalizers_is_waited_for_and_named() {
    let (server, _playing, namespaces) = start().await;
    let waits = json!({"metadata": {"name": "a", "finalizers": ["example.com/wait"]}});
    let maps = create::<ConfigMap>(server.client(), waits).await;
    namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
    eventually(SOON, async || {
        let shop = namespaces.get("shop").await.unwrap();
        let conditions = shop.status.and_then(|s| s.conditions).unwrap_or_default();
        let told = conditions.iter().any(|c| {
            c.type_ == "NamespaceFinalizersRemaining"
                && c.status == "True"
                && c.message
                    .as_deref()
                    .is_some_and(|m| m.contains("example.com/wait in 1 resource instances"))
        });
        if told { Ok(()) } else { Err(format!("{conditions:?}")) }
    })
    .await;
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("a", &PatchParams::default(), &free).await.unwrap();
    is_gone(&namespaces).await;
}

#[tokio::test]
async fn pods_go_before_the_rest() {
    let (server, _playing, namespaces) = start().await;
    let pod = json!({"metadata": {"name": "p", "finalizers": ["example.com/wait"]},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pods = create::<Pod>(server.client(), pod).await;
    let maps = create::<ConfigMap>(server.client(), json!({"metadata": {"name": "a"}})).await;
    namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
    eventually(SOON, async || match pods.get("p").await.unwrap().metadata.deletion_timestamp {
        Some(_) => Ok(()),
        None => Err("p is not being deleted".to_owned()),
    })
    .await;
    assert!(maps.get("a").await.is_ok(), "the rest waits for the pods");
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    pods.patch("p", &PatchParams::default(), &free).await.unwrap();
    is_gone(&namespaces).await;
}
