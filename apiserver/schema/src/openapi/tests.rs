use serde_json::{Value, json};

use super::*;
use crate::facts;

const VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

fn deployments<'a>() -> Resource<'a> {
    Resource {
        group: "apps",
        version: "v1",
        kind: "Deployment",
        plural: "deployments",
        namespaced: true,
        verbs: &VERBS,
        subresources: &[Subresource {
            name: "scale",
            gvk: ("autoscaling", "v1", "Scale"),
            definition: Some("io.k8s.api.autoscaling.v1.Scale"),
            verbs: &["get", "patch", "update"],
        }],
        returns_deleted: false,
        selectable: &[],
        source: Source::Definition("io.k8s.api.apps.v1.Deployment"),
    }
}

fn widgets(schema: &Value) -> Resource<'_> {
    Resource {
        group: "my.example.com",
        version: "v1",
        kind: "Widget",
        plural: "widgets",
        namespaced: false,
        verbs: &VERBS,
        subresources: &[],
        returns_deleted: false,
        selectable: &[],
        source: Source::Custom(schema),
    }
}

/// Every reference in a document must lead to something in it.
fn check_references(document: &Value, value: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                let pointer = reference.trim_start_matches('#');
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
            map.values().for_each(|value| check_references(document, value));
        }
        Value::Array(list) => list.iter().for_each(|value| check_references(document, value)),
        _ => (),
    }
}

#[test]
fn references_lead_somewhere() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object"}}});
    let resources = [deployments(), widgets(&schema)];
    for document in [v2(&resources), v3(&resources)] {
        check_references(&document, &document);
    }
}

#[test]
fn upstream_types_have_upstream_names_and_merge_keys() {
    let document = v3(&[deployments()]);
    let schemas = &document["components"]["schemas"];
    let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(
        deployment["x-kubernetes-group-version-kind"],
        json!([{"group": "apps", "version": "v1", "kind": "Deployment"}])
    );
    let spec = &deployment["properties"]["spec"];
    let reference = json!([{"$ref": "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"}]);
    assert_eq!((&spec["default"], &spec["allOf"]), (&json!({}), &reference));
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert!(schemas["io.k8s.api.apps.v1.DeploymentList"].is_object());
    assert!(!document.to_string().contains("x-improv-"));
}

#[test]
fn kubectl_finds_kinds_patches_and_field_validation() {
    let document = v3(&[deployments()]);
    let path = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
    let gvk = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    assert_eq!(path["get"]["x-kubernetes-group-version-kind"], gvk);
    assert_eq!(path["patch"]["x-kubernetes-group-version-kind"], gvk);
    let parameters = path["patch"]["parameters"].as_array().unwrap();
    assert!(parameters.iter().any(|p| p["name"] == "fieldValidation"));
    let content = &path["patch"]["requestBody"]["content"];
    assert!(content["application/strategic-merge-patch+json"].is_object());
    let collection = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments"];
    assert_eq!(collection["get"]["x-kubernetes-action"], "list");
    assert!(document["paths"]["/apis/apps/v1/deployments"]["get"].is_object());
    let scale = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"];
    assert_eq!(scale["get"]["x-kubernetes-group-version-kind"]["kind"], "Scale");
}

#[test]
fn custom_resources_are_published_under_their_group() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "maybe": {"type": "string", "nullable": true, "default": "x"}}}}});
    let document = v3(&[widgets(&schema)]);
    let widget = &document["components"]["schemas"]["com.example.my.v1.Widget"];
    assert_eq!(widget["properties"]["spec"], schema["properties"]["spec"]);
    assert_eq!(
        widget["properties"]["metadata"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    );
    // Version 2 cannot say that null is allowed.
    let widget = &v2(&[widgets(&schema)])["definitions"]["com.example.my.v1.Widget"];
    assert_eq!(widget["properties"]["spec"]["properties"]["maybe"], json!({"default": "x"}));
}

#[test]
fn the_second_version_leaves_out_what_its_clients_misread() {
    let schema = json!({"type": "object", "properties": {
        "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"a": {"type": "string"}}},
        "list": {"type": "array", "nullable": true, "items": {"type": "string"}},
        "either": {"x-kubernetes-int-or-string": true},
        "some": {"type": "object", "required": ["n", "m"], "properties": {
            "n": {"type": "string", "nullable": true}, "m": {"type": "string"}}}}});
    let document = v2(&[widgets(&schema)]);
    let fields = &document["definitions"]["com.example.my.v1.Widget"]["properties"];
    assert_eq!(fields["open"], json!({"x-kubernetes-preserve-unknown-fields": true}));
    assert_eq!(fields["list"], json!({}));
    assert_eq!(fields["either"], json!({"x-kubernetes-int-or-string": true}));
    assert_eq!(fields["some"]["required"], json!(["m"]));
    let document = v3(&[widgets(&schema)]);
    let fields = &document["components"]["schemas"]["com.example.my.v1.Widget"]["properties"];
    assert_eq!(fields["either"]["anyOf"], json!([{"type": "integer"}, {"type": "string"}]));
    // Of a type that may have any field nothing is said at all.
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "description": "any"});
    let document = v2(&[widgets(&any)]);
    let widget = &document["definitions"]["com.example.my.v1.Widget"];
    assert!(widget["properties"].is_null() && widget["description"].is_null(), "{widget}");
}

#[test]
fn embedded_objects_have_the_fields_of_objects() {
    let schema = json!({"type": "object", "properties": {
        "template": {"type": "object", "x-kubernetes-embedded-resource": true,
            "x-kubernetes-preserve-unknown-fields": true}}});
    let document = v3(&[widgets(&schema)]);
    let widget = &document["components"]["schemas"]["com.example.my.v1.Widget"];
    let template = &widget["properties"]["template"];
    assert_eq!(template["required"], json!(["kind", "apiVersion"]));
    assert_eq!(template["properties"]["metadata"], widget["properties"]["metadata"]);
    let document = v2(&[widgets(&schema)]);
    let widget = &document["definitions"]["com.example.my.v1.Widget"];
    assert!(widget["properties"]["template"]["properties"].is_null());
}

#[test]
fn every_published_definition_and_field_is_described() {
    // Of these upstream says nothing either, or k8s-openapi does not pass it on.
    const SILENT: [&str; 9] = [
        "CertificateSigningRequest.metadata",
        "ExternalDocumentation",
        "IngressRule.http",
        "JSONSchemaProps",
        "List",
        "meta.v1.FieldsV1",
        "meta.v1.Patch",
        "meta.v1.WatchEvent",
        "version.Info.",
    ];
    let definitions =
        facts::names().filter(|name| !name.contains("v1alpha") && !name.contains("v1beta"));
    let resources: Vec<_> = definitions
        .filter(|name| facts::definition(&format!("{name}List")).is_some())
        .map(|name| Resource {
            source: Source::Definition(name),
            subresources: &[],
            ..deployments()
        })
        .collect();
    assert!(resources.len() > 40, "{}", resources.len());
    let document = v2(&resources);
    let mut silent = Vec::new();
    for (name, schema) in document["definitions"].as_object().unwrap() {
        let mut check = |what: String, schema: &Value| {
            let is_silent = schema["description"].is_null();
            if is_silent && !SILENT.iter().any(|silent| what.contains(silent)) {
                silent.push(what);
            }
        };
        check(name.clone(), schema);
        for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
            check(format!("{name}.{field}"), schema);
        }
    }
    assert!(silent.is_empty(), "{silent:?}");
}

/// Upstream's names for what generators make functions of.
#[test]
fn operations_are_named_as_upstream_names_them() {
    let schema = json!({"type": "object"});
    let document = v2(&[deployments(), widgets(&schema)]);
    let id = |path: &str, method: &str| document["paths"][path][method]["operationId"].clone();
    let item = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";
    let collection = "/apis/apps/v1/namespaces/{namespace}/deployments";
    assert_eq!(id(item, "get"), "readAppsV1NamespacedDeployment");
    assert_eq!(id(&format!("{item}/scale"), "put"), "replaceAppsV1NamespacedDeploymentScale");
    assert_eq!(id(collection, "delete"), "deleteAppsV1CollectionNamespacedDeployment");
    let all = id("/apis/apps/v1/deployments", "get");
    assert_eq!(all, "listAppsV1DeploymentForAllNamespaces");
    let watched = "/apis/apps/v1/watch/namespaces/{namespace}/deployments";
    assert_eq!(id(watched, "get"), "watchAppsV1NamespacedDeploymentList");
    assert_eq!(id("/apis/apps/", "get"), "getAppsAPIGroup");
    assert_eq!(id("/apis/apps/v1/", "get"), "getAppsV1APIResources");
    assert_eq!(id("/apis/my.example.com/v1/widgets", "post"), "createMyExampleComV1Widget");
    assert!(document["paths"]["/apis/my.example.com/v1/"].is_null());
    assert!(document["paths"]["/apis/my.example.com/v1/watch/widgets"].is_null());
}

#[test]
fn what_all_operations_take_is_said_of_the_path() {
    let document = v3(&[deployments()]);
    let names = |place: &Value| -> Vec<String> {
        let all = place["parameters"].as_array().into_iter().flatten();
        all.filter_map(|one| one["name"].as_str().map(str::to_owned)).collect()
    };
    let item = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
    assert_eq!(names(item), ["name", "namespace", "pretty"]);
    assert_eq!(names(&item["patch"])[2..], ["fieldValidation", "force"]);
    assert!(names(&item["get"]).is_empty());
    let all = &document["paths"]["/apis/apps/v1/deployments"];
    assert_eq!((names(all).len(), names(&all["get"]).len()), (12, 0));
}

#[test]
fn documents_about_documents_are_described() {
    let groups = ["", "apps"];
    let paths: Vec<String> = root_paths(&groups).collect();
    assert_eq!(paths.last().unwrap(), "apis/apps");
    for path in &paths {
        let document = v3_root(path, &groups).unwrap();
        check_references(&document, &document);
        assert!(document["paths"][format!("/{path}/")]["get"].is_object(), "{path}");
    }
    for path in ["nonsense", "apis/", "apis/batch", "apis/apps/v1/x"] {
        assert!(v3_root(path, &groups).is_none(), "{path}");
    }
}
