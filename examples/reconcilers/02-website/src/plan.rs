//! What a website is made of, and what its status says; no I/O.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::Deployment,
    apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time},
};
use kit::conditions;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::{Website, WebsiteStatus};

/// The only condition.
pub const READY: &str = "Ready";

/// All that a decision depends on.
pub struct Observed {
    /// The website itself.
    pub website: Arc<Website>,
    /// The reference that makes it the controller of its parts.
    pub owner: OwnerReference,
    /// Its Deployment, if it is there.
    pub deployment: Option<Arc<Deployment>>,
    /// The time.
    pub now: Timestamp,
}

/// The three parts, each complete: server-side apply sets what is here, keeps what others have
/// set, and removes what we set earlier and do no longer.
pub struct Parts {
    /// The page.
    pub config_map: Value,
    /// Who serves it.
    pub deployment: Value,
    /// How it is reached.
    pub service: Value,
}

/// What must be there.
#[must_use]
pub fn plan(observed: &Observed) -> Parts {
    let website = &observed.website;
    let (name, spec) = (website.name_any(), &website.spec);
    let labels = json!({ "app.kubernetes.io/name": "website", "app.kubernetes.io/instance": name });
    let metadata = json!({
        "name": name,
        "namespace": website.namespace(),
        "labels": labels,
        "ownerReferences": [observed.owner], // With the website all of it goes.
    });
    let container = json!({
        "name": "web",
        "image": spec.image,
        "ports": [{ "name": "http", "containerPort": 80, "protocol": "TCP" }],
        "volumeMounts": [{ "name": "html", "mountPath": "/usr/share/nginx/html" }],
        "readinessProbe": { "httpGet": { "path": "/", "port": "http" } },
    });
    let template = json!({
        // Another page is another template, so that pods which serve the old one are replaced.
        "metadata": { "labels": labels, "annotations": { "examples.improv.dev/page": fingerprint(&spec.html) } },
        "spec": {
            "containers": [container],
            "volumes": [{ "name": "html", "configMap": { "name": name } }],
        },
    });
    Parts {
        config_map: json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata,
            "data": { "index.html": spec.html },
        }),
        deployment: json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
            "spec": {
                "replicas": spec.replicas,
                "selector": { "matchLabels": labels },
                "template": template,
            },
        }),
        service: json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": {
                "selector": labels,
                "ports": [{ "name": "http", "port": 80, "targetPort": "http", "protocol": "TCP" }],
            },
        }),
    }
}

/// The status as it should be; `failure` is why a part could not be written.
#[must_use]
pub fn status(observed: &Observed, failure: Option<&str>) -> WebsiteStatus {
    let website = &observed.website;
    let mut status = website.status.clone().unwrap_or_default();
    let deployed =
        observed.deployment.as_deref().and_then(|d| d.status.clone()).unwrap_or_default();
    let generation = observed.deployment.as_ref().and_then(|d| d.metadata.generation);
    let up_to_date = generation.is_some() && deployed.observed_generation >= generation;
    let serving =
        deployed.available_replicas.unwrap_or(0).min(deployed.updated_replicas.unwrap_or(0));
    let wanted = website.spec.replicas;
    let (ready, reason, message) = match failure {
        Some(failure) => ("False", "Failed", failure.to_owned()),
        None if up_to_date && serving >= wanted => {
            ("True", "Serving", format!("{serving} of {wanted} pods serve"))
        }
        None => ("False", "Progressing", format!("{serving} of {wanted} pods serve")),
    };
    status.url = Some(url(website));
    status.replicas = deployed.replicas.unwrap_or(0);
    conditions::set_condition(
        &mut status.conditions,
        Condition {
            type_: READY.to_owned(),
            status: ready.to_owned(),
            reason: reason.to_owned(),
            message,
            observed_generation: website.metadata.generation,
            last_transition_time: Time(observed.now),
        },
    );
    status
}

/// Where the website is, inside the cluster.
#[must_use]
pub(crate) fn url(website: &Website) -> String {
    format!("http://{}.{}.svc", website.name_any(), website.namespace().unwrap_or_default())
}

/// A short text that differs if the page does.
fn fingerprint(html: &str) -> String {
    // FNV-1a: no secret is kept here, only change is noticed.
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", html.bytes().fold(0xcbf2_9ce4_8422_2325, fnv))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::DeploymentStatus;

    use super::*;
    use crate::WebsiteSpec;

    fn observed(html: &str, wanted: i32, serving: i32) -> Observed {
        let spec = WebsiteSpec { html: html.into(), replicas: wanted, image: "nginx".into() };
        let mut website = Website::new("blog", spec);
        website.metadata.namespace = Some("default".into());
        website.metadata.generation = Some(3);
        let mut deployment = Deployment::default();
        deployment.metadata.generation = Some(1);
        deployment.status = Some(DeploymentStatus {
            observed_generation: Some(1),
            replicas: Some(wanted),
            updated_replicas: Some(serving),
            available_replicas: Some(wanted),
            ..DeploymentStatus::default()
        });
        Observed {
            website: Arc::new(website),
            owner: OwnerReference::default(),
            deployment: Some(Arc::new(deployment)),
            now: Timestamp::UNIX_EPOCH,
        }
    }

    #[track_caller]
    fn check(observed: &Observed, failure: Option<&str>, expected: &str) {
        let status = status(observed, failure);
        let [ready] = status.conditions.as_slice() else { panic!("{status:?}") };
        assert_eq!(format!("{} {}: {}", ready.status, ready.reason, ready.message), expected);
        assert_eq!(ready.observed_generation, Some(3));
    }

    #[test]
    fn ready_means_that_the_current_page_is_served() {
        check(&observed("hi", 2, 2), None, "True Serving: 2 of 2 pods serve");
        check(&observed("hi", 2, 1), None, "False Progressing: 1 of 2 pods serve");
        check(&observed("hi", 0, 0), None, "True Serving: 0 of 0 pods serve");
        check(&observed("hi", 2, 2), Some("quota"), "False Failed: quota");
        check(
            &Observed { deployment: None, ..observed("hi", 2, 2) },
            None,
            "False Progressing: 0 of 2 pods serve",
        );
    }

    #[test]
    fn another_page_is_another_template_and_another_size_is_not() {
        let template = |observed: &Observed| plan(observed).deployment["spec"]["template"].clone();
        assert_ne!(template(&observed("a", 1, 1)), template(&observed("b", 1, 1)));
        assert_eq!(template(&observed("a", 1, 1)), template(&observed("a", 2, 1)));
    }
}
