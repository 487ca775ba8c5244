//! The type: what a user writes, and what we answer.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A page, served by some pods behind a Service.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "examples.improv.dev",
    version = "v1",
    kind = "Website",
    plural = "websites",
    shortname = "site",
    namespaced,
    status = "WebsiteStatus",
    scale = r#"{"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"URL","type":"string","jsonPath":".status.url"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct WebsiteSpec {
    /// The page, as HTML.
    pub html: String,
    /// Pods that serve it.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,
    /// A web server that serves /usr/share/nginx/html on port 80.
    #[serde(default = "nginx")]
    pub image: String,
}

fn one() -> i32 {
    1
}

fn nginx() -> String {
    "nginx:1-alpine".to_owned()
}

/// What the operator tells.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebsiteStatus {
    /// Where the page is, inside the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Pods there are.
    #[serde(default)]
    pub replicas: i32,
    /// `Ready`: as many pods serve the current page as the spec asks for.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}
