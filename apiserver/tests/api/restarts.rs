//! What was answered is there after a restart, and is served again.

use apiserver::{Config, Server};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, PostParams};
use serde_json::json;

const DEFINITION: &str = r#"{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.example.com"},
    "spec": {"group": "example.com", "scope": "Cluster", "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object"}}}]}}"#;

#[tokio::test]
async fn objects_definitions_and_certificates_stay() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        data_dir: Some(folder.path().to_owned()),
        crds: vec![DEFINITION.to_owned()],
        ..Config::default()
    };
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
    let mut seen = Vec::new();
    for round in 0..3 {
        let server = start(&config).await;
        let client = server.client("system:admin", &["system:masters"]);
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        let made = match round {
            0 => maps.create(&PostParams::default(), &map).await.unwrap(),
            _ => maps.get("a").await.unwrap(),
        };
        let kind = kube::core::GroupVersionKind::gvk("example.com", "v1", "Widget");
        let widgets: Api<kube::api::DynamicObject> =
            Api::all_with(client, &kube::core::ApiResource::from_gvk(&kind));
        assert!(widgets.list(&ListParams::default()).await.unwrap().items.is_empty());
        seen.push((
            made.uid(),
            made.resource_version(),
            server.core().pki.ca_certificate().to_owned(),
        ));
        server.shutdown().await;
        drop((server, maps, widgets));
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn flow_schemas_of_older_servers_go() {
    use k8s_openapi::api::flowcontrol::v1::FlowSchema;
    let folder = tempfile::tempdir().unwrap();
    let config = Config { data_dir: Some(folder.path().to_owned()), ..Config::default() };
    let schema = |name: &str, kept: &str| {
        let level = json!({"name": "global-default"});
        let object = json!({"metadata": {"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": kept}},
            "spec": {"priorityLevelConfiguration": level}});
        serde_json::from_value::<FlowSchema>(object).unwrap()
    };
    let server = start(&config).await;
    let schemas: Api<FlowSchema> = Api::all(server.client("system:admin", &["system:masters"]));
    for (name, kept) in [("old", "true"), ("mine", "false"), ("unclear", "perhaps")] {
        schemas.create(&PostParams::default(), &schema(name, kept)).await.unwrap();
    }
    let before = schemas.list(&ListParams::default()).await.unwrap().items.len();
    server.shutdown().await;
    drop((server, schemas));
    let server = start(&config).await;
    let schemas: Api<FlowSchema> = Api::all(server.client("system:admin", &["system:masters"]));
    let after = schemas.list(&ListParams::default()).await.unwrap();
    let names: Vec<String> = after.iter().map(|schema| schema.name_any()).collect();
    assert_eq!(names.len(), before - 1, "{names:?}");
    assert!(!names.contains(&"old".to_owned()), "{names:?}");
    server.shutdown().await;
}

/// The file is free as soon as the last task of the server before has ended.
async fn start(config: &Config) -> Server {
    for _ in 0..100 {
        match Server::start(config.clone()).await {
            Err(apiserver::StartError::Store(store::Error::Locked { .. })) => {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            other => return other.unwrap(),
        }
    }
    panic!("the store stayed locked");
}
