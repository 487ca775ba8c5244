//! The kube-rs client, unmodified: over TLS with a kubeconfig, from single requests to a controller on streaming lists.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use apiserver::testing::TestServer;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kit::testing::eventually;
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent,
    WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Client, Config, Discovery, ResourceExt as _};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

async fn connect() -> (TestServer, Client) {
    let server = TestServer::builder().with_socket().start().await.unwrap();
    let kubeconfig = server.server().kubeconfig("system:admin").unwrap();
    let kubeconfig = Kubeconfig::from_yaml(&kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    (server, Client::try_from(config).unwrap())
}

fn map(name: &str, data: Value) -> ConfigMap {
    let map = json!({"metadata": {"name": name, "labels": {"kind": "of-test"}}, "data": data});
    serde_json::from_value(map).unwrap()
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_verb_works() {
    let (_server, client) = connect().await;
    assert_eq!(client.apiserver_version().await.unwrap().minor, "36");
    let discovery = Discovery::new(client.clone()).run().await.unwrap();
    let pods = GroupVersionKind::gvk("", "v1", "Pod");
    let (pods, capabilities) = discovery.resolve_gvk(&pods).unwrap();
    assert_eq!((pods.plural.as_str(), capabilities.subresources.is_empty()), ("pods", false));

    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    for name in ["a", "b", "c"] {
        maps.create(&PostParams::default(), &map(name, json!({"n": "0"}))).await.unwrap();
    }
    let params = ListParams::default().labels("kind=of-test").limit(2);
    let first = maps.list(&params).await.unwrap();
    assert_eq!((first.items.len(), first.metadata.remaining_item_count), (2, None));
    let next = params.clone().continue_token(&first.metadata.continue_.unwrap());
    assert_eq!(maps.list(&next).await.unwrap().items[0].name_any(), "c");
    let named = ListParams::default().fields("metadata.name=b");
    assert_eq!(maps.list_metadata(&named).await.unwrap().items.len(), 1);

    let version = maps.get("a").await.unwrap().resource_version().unwrap();
    let mut watch = maps.watch(&WatchParams::default(), &version).await.unwrap().boxed();
    let merge = Patch::Merge(json!({"data": {"n": "1"}}));
    maps.patch("a", &PatchParams::default(), &merge).await.unwrap();
    let strategic = Patch::Strategic(json!({"data": {"n": null, "m": "1"}}));
    maps.patch("a", &PatchParams::default(), &strategic).await.unwrap();
    let patch = serde_json::from_value(json!([{"op": "add", "path": "/data/k", "value": "1"}]));
    let patched = Patch::<()>::Json(patch.unwrap());
    let now = maps.patch("a", &PatchParams::default(), &patched).await.unwrap();
    let keys: Vec<_> = now.data.clone().unwrap().into_keys().collect();
    assert_eq!(keys, ["k", "m"]);
    let seen = async {
        while let Some(event) = watch.try_next().await.unwrap() {
            let WatchEvent::Modified(map) = event else { continue };
            if map.resource_version() == now.resource_version() {
                return;
            }
        }
        panic!("the watch ended");
    };
    soon(seen).await;

    let apply = Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "2"},
        "metadata": {"name": "a"}}));
    let refused = maps.patch("a", &PatchParams::apply("other"), &apply).await.unwrap_err();
    assert!(refused.to_string().contains("conflict"), "{refused}");
    let forced = PatchParams::apply("other").force();
    assert_eq!(maps.patch("a", &forced, &apply).await.unwrap().data.unwrap()["k"], "2");
    let stale = maps.replace("a", &PostParams::default(), &now).await.unwrap_err();
    assert!(matches!(stale, kube::Error::Api(status) if status.code == 409));

    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_none());
    let params = ListParams::default().labels("kind=of-test");
    maps.delete_collection(&DeleteParams::default(), &params).await.unwrap();
    assert!(maps.list(&params).await.unwrap().items.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subresources_and_dynamic_types_work() {
    let (server, client) = connect().await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
        Api::default_namespaced(client.clone());
    let account = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "a"}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let running = Patch::Merge(json!({"status": {"phase": "Running"}}));
    pods.patch_status("p", &PatchParams::default(), &running).await.unwrap();
    let status = pods.get_status("p").await.unwrap().status.unwrap();
    assert_eq!(status.phase.as_deref(), Some("Running"));

    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
                "subresources": {"scale": {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n"}}}]}});
    server.install_crds(&definition.to_string()).await.unwrap();
    let widget = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Widget"));
    let widgets: Api<DynamicObject> = Api::default_namespaced_with(client, &widget);
    let one = DynamicObject::new("w", &widget).data(json!({"spec": {"n": 2}}));
    widgets.create(&PostParams::default(), &one).await.unwrap();
    assert_eq!(widgets.get_scale("w").await.unwrap().spec.unwrap().replicas, Some(2));
    let more = Patch::Merge(json!({"spec": {"replicas": 5}}));
    widgets.patch_scale("w", &PatchParams::default(), &more).await.unwrap();
    assert_eq!(widgets.get("w").await.unwrap().data["spec"]["n"], 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reflector_on_a_streaming_list_is_complete() {
    let (_server, client) = connect().await;
    let secrets: Api<Secret> = Api::default_namespaced(client);
    let secret =
        |n: usize| serde_json::from_value(json!({"metadata": {"name": format!("s{n}")}})).unwrap();
    for n in 0..20 {
        secrets.create(&PostParams::default(), &secret(n)).await.unwrap();
    }
    let (reader, writer) = reflector::store();
    let stream = watcher(secrets.clone(), watcher::Config::default().streaming_lists());
    let mut stream = reflector(writer, stream).applied_objects().boxed();
    let follow = tokio::spawn(async move { while stream.try_next().await.unwrap().is_some() {} });
    soon(reader.wait_until_ready()).await.unwrap();
    assert_eq!(reader.len(), 20, "all are there at once");
    secrets.delete("s3", &DeleteParams::default()).await.unwrap();
    secrets.create(&PostParams::default(), &secret(99)).await.unwrap();
    let names = || reader.state().iter().map(|s| s.name_any()).collect::<BTreeSet<_>>();
    eventually(SOON, async || match names() {
        names if names.contains("s3") || !names.contains("s99") => Err(format!("{names:?}")),
        _ => Ok(()),
    })
    .await;
    follow.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_on_streaming_lists_reconciles_owners_and_what_they_own() {
    let (_server, client) = connect().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let secrets: Api<Secret> = Api::default_namespaced(client.clone());
    for n in 0..5 {
        maps.create(&PostParams::default(), &map(&format!("m{n}"), json!({}))).await.unwrap();
    }
    let config = || watcher::Config::default().streaming_lists();
    let owners = config().labels("kind=of-test");
    let controller = Controller::new(maps, owners)
        .owns(secrets.clone(), config())
        .run(own_a_secret, |_, _, _| Action::requeue(Duration::from_millis(100)), Arc::new(client))
        .for_each(|_| std::future::ready(()));
    let controller = tokio::spawn(controller);
    eventually(SOON, async || {
        match secrets.list(&ListParams::default()).await.unwrap().items.len() {
            5 => Ok(()),
            other => Err(format!("{other} secrets")),
        }
    })
    .await;
    // What is owned and goes is made again.
    let gone = secrets.get("m2").await.unwrap().uid().unwrap();
    secrets.delete("m2", &DeleteParams::default()).await.unwrap();
    eventually(SOON, async || {
        let found = secrets.get_opt("m2").await.unwrap();
        found.filter(|secret| secret.uid().unwrap() != gone).ok_or("m2 is not made again")
    })
    .await;
    controller.abort();
}

/// Applies a secret of the map's name, owned by it.
async fn own_a_secret(map: Arc<ConfigMap>, client: Arc<Client>) -> Result<Action, kube::Error> {
    use kube::Resource as _;
    let secrets: Api<Secret> = Api::default_namespaced((*client).clone());
    let secret = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": map.name_any(), "ownerReferences": [map.controller_owner_ref(&()).unwrap()]}});
    secrets
        .patch(&map.name_any(), &PatchParams::apply("test").force(), &Patch::Apply(secret))
        .await?;
    Ok(Action::await_change())
}
