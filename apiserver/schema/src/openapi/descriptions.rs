//! What upstream's documentation says of types and fields, for `kubectl explain`.
//!
//! The texts are those that k8s-openapi carries in its schemas (it has none of lists). They are made when a document
//! is, and are gone afterwards, so that they cost no memory while nobody reads.

use std::borrow::Cow;

use k8s_openapi::api::{
    admissionregistration::v1 as admission, apps::v1 as apps, authentication::v1 as authentication,
    authorization::v1 as authorization, autoscaling::v1 as autoscaling, autoscaling::v2 as hpa,
    batch::v1 as batch, certificates::v1 as certificates, coordination::v1 as coordination,
    core::v1 as core, discovery::v1 as discovery, events::v1 as events,
    flowcontrol::v1 as flowcontrol, networking::v1 as networking, node::v1 as node,
    policy::v1 as policy, rbac::v1 as rbac, resource::v1 as resource, scheduling::v1 as scheduling,
    storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as extensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::apimachinery::pkg::version;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as registration;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::Value;

/// A type from which others are reached.
struct Root {
    name: fn() -> Cow<'static, str>,
    add: fn(&mut SchemaGenerator),
}

impl Root {
    const fn of<T: JsonSchema>() -> Self {
        Self { name: T::schema_name, add: |generator| _ = generator.subschema_for::<T>() }
    }
}

macro_rules! roots {
    ($($package:ident { $($kind:ident)* })*) => {
        &[$(&[$(Root::of::<$package::$kind>()),*]),*]
    };
}

/// Kinds, and what else is published under a name of its own; all other definitions are parts of these.
static ROOTS: &[&[Root]] = roots!(
    admission {
        MutatingAdmissionPolicy MutatingAdmissionPolicyBinding MutatingWebhookConfiguration
        ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration
    }
    apps { ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet }
    authentication { SelfSubjectReview TokenRequest TokenReview }
    authorization {
        LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview
    }
    autoscaling { HorizontalPodAutoscaler Scale }
    hpa { HorizontalPodAutoscaler }
    batch { CronJob Job }
    certificates { CertificateSigningRequest }
    coordination { Lease }
    core {
        Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume
        PersistentVolumeClaim Pod PodTemplate ReplicationController ResourceQuota Secret Service ServiceAccount
    }
    discovery { EndpointSlice }
    events { Event }
    extensions { CustomResourceDefinition }
    flowcontrol { FlowSchema PriorityLevelConfiguration }
    meta {
        APIGroup APIGroupList APIResource APIResourceList APIVersions DeleteOptions ListMeta ObjectMeta Status
    }
    networking { IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR }
    node { RuntimeClass }
    policy { Eviction PodDisruptionBudget }
    rbac { ClusterRole ClusterRoleBinding Role RoleBinding }
    registration { APIService }
    resource { DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice }
    scheduling { PriorityClass }
    storage { CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass }
    version { Info }
);

/// A small kind whose fields `apiVersion` and `kind` stand for those of all.
const ANY_KIND: &str = "io.k8s.api.core.v1.ConfigMap";

/// The descriptions of the definitions of one document.
#[derive(Default)]
pub(super) struct Descriptions {
    generator: SchemaGenerator,
}

impl Descriptions {
    /// What a definition is. Nothing is known of a part before its kind was asked for.
    pub(super) fn of(&mut self, definition: &str) -> Option<String> {
        text(self.schema(definition)?)
    }

    /// What a field is.
    pub(super) fn of_field(&mut self, definition: &str, field: &str) -> Option<String> {
        let known =
            self.schema(definition).and_then(|schema| text(schema["properties"].get(field)?));
        known.or_else(|| self.of_type_meta(field))
    }

    /// What `apiVersion` and `kind` are, of any kind.
    pub(super) fn of_type_meta(&mut self, field: &str) -> Option<String> {
        let any = self.schema(ANY_KIND).filter(|_| matches!(field, "apiVersion" | "kind"));
        text(any?["properties"].get(field)?)
    }

    fn schema(&mut self, definition: &str) -> Option<&Value> {
        if !self.generator.definitions().contains_key(definition) {
            let root = ROOTS.iter().copied().flatten().find(|root| (root.name)() == definition);
            (root?.add)(&mut self.generator);
        }
        self.generator.definitions().get(definition)
    }
}

fn text(schema: &Value) -> Option<String> {
    Some(schema.get("description")?.as_str()?.to_owned())
}
