//! Every plugin by name, in the order in which they are asked.

use std::sync::Arc;

use serde_json::Value;

use super::options::{self, OptionError, Options};
use super::plugin::Plugin;
use super::{
    always, always_pull_images, anti_affinity, declared_features, default_class, event_rate_limit,
    extended_resources, external_ips, limit_ranger, namespace_exists, namespace_lifecycle,
    node_restriction, node_selector, owner_references, pod_security, policy, priority, resize,
    resource_quota, role_escalation, runtime_class, service_account, signing_requests, taint_nodes,
    toleration_restriction, toleration_seconds, topology_labels, use_protection, webhook,
};

/// Makes a plugin; the value is its own configuration, if the configuration file has one.
type Make = fn(&Options, Option<&Value>) -> Result<Arc<dyn Plugin>, OptionError>;

/// A place in the order.
struct Slot {
    name: &'static str,
    /// Whether the plugin runs unless it is disabled.
    on: bool,
    /// `None` for plugins of upstream that this server does not have.
    make: Option<Make>,
}

const fn on(name: &'static str, make: Make) -> Slot {
    Slot { name, on: true, make: Some(make) }
}

const fn off(name: &'static str, make: Make) -> Slot {
    Slot { name, on: false, make: Some(make) }
}

const fn absent(name: &'static str) -> Slot {
    Slot { name, on: false, make: None }
}

/// Upstream's order. Plugins that change objects come before those which count them; webhooks and policies see what
/// all others made, and quotas charge the final object.
///
/// Source: `AllOrderedPlugins` and `DefaultOffAdmissionPlugins` in upstream `pkg/kubeapiserver/options/plugins.go`.
const ORDER: &[Slot] = &[
    off("AlwaysAdmit", |_, _| Ok(Arc::new(always::AlwaysAdmit))),
    off("NamespaceAutoProvision", |_, _| Ok(Arc::new(namespace_exists::NamespaceAutoProvision))),
    on("NamespaceLifecycle", |_, _| Ok(Arc::new(namespace_lifecycle::NamespaceLifecycle))),
    off("NamespaceExists", |_, _| Ok(Arc::new(namespace_exists::NamespaceExists))),
    off("LimitPodHardAntiAffinityTopology", |_, _| {
        Ok(Arc::new(anti_affinity::LimitPodHardAntiAffinityTopology))
    }),
    on("LimitRanger", |_, _| Ok(Arc::new(limit_ranger::LimitRanger))),
    on("ServiceAccount", |_, _| Ok(Arc::new(service_account::ServiceAccount))),
    off("NodeRestriction", |_, _| Ok(Arc::new(node_restriction::NodeRestriction))),
    on("TaintNodesByCondition", |_, _| Ok(Arc::new(taint_nodes::TaintNodesByCondition))),
    off("AlwaysPullImages", |_, _| Ok(Arc::new(always_pull_images::AlwaysPullImages))),
    absent("ImagePolicyWebhook"),
    on("PodSecurity", |_, configuration| {
        Ok(Arc::new(pod_security::PodSecurity::new(configuration)?))
    }),
    off("PodNodeSelector", |_, configuration| {
        Ok(Arc::new(node_selector::PodNodeSelector::new(configuration)?))
    }),
    on("Priority", |_, _| Ok(Arc::new(priority::Priority))),
    on("DefaultTolerationSeconds", |options, _| {
        Ok(Arc::new(toleration_seconds::DefaultTolerationSeconds(options.tolerations)))
    }),
    off("PodTolerationRestriction", |_, configuration| {
        Ok(Arc::new(toleration_restriction::PodTolerationRestriction::new(configuration)))
    }),
    off("EventRateLimit", |_, configuration| {
        Ok(Arc::new(event_rate_limit::EventRateLimit::new(configuration)?))
    }),
    off("ExtendedResourceToleration", |_, _| {
        Ok(Arc::new(extended_resources::ExtendedResourceToleration))
    }),
    on("DefaultStorageClass", |_, _| Ok(Arc::new(default_class::DefaultStorageClass))),
    on("StorageObjectInUseProtection", |_, _| {
        Ok(Arc::new(use_protection::StorageObjectInUseProtection))
    }),
    absent("PodGroupProtection"),
    off("OwnerReferencesPermissionEnforcement", |_, _| {
        Ok(Arc::new(owner_references::OwnerReferencesPermissionEnforcement))
    }),
    on("PersistentVolumeClaimResize", |_, _| Ok(Arc::new(resize::PersistentVolumeClaimResize))),
    on("RuntimeClass", |_, _| Ok(Arc::new(runtime_class::RuntimeClass))),
    on("CertificateApproval", |_, _| Ok(Arc::new(signing_requests::CertificateApproval))),
    on("CertificateSigning", |_, _| Ok(Arc::new(signing_requests::CertificateSigning))),
    on("ClusterTrustBundleAttest", |_, _| Ok(Arc::new(signing_requests::ClusterTrustBundleAttest))),
    on("CertificateSubjectRestriction", |_, _| {
        Ok(Arc::new(signing_requests::CertificateSubjectRestriction))
    }),
    on("DefaultIngressClass", |_, _| Ok(Arc::new(default_class::DefaultIngressClass))),
    off("DenyServiceExternalIPs", |_, _| Ok(Arc::new(external_ips::DenyServiceExternalIPs))),
    on("PodTopologyLabels", |_, _| Ok(Arc::new(topology_labels::PodTopologyLabels))),
    absent("PodGroupWorkloadExists"),
    on("NodeDeclaredFeatureValidator", |_, _| {
        Ok(Arc::new(declared_features::NodeDeclaredFeatureValidator))
    }),
    absent("JobValidation"),
    on("PodResizeValidator", |_, _| Ok(Arc::new(resize::PodResizeValidator))),
    on("MutatingAdmissionPolicy", |_, _| Ok(Arc::new(policy::MutatingAdmissionPolicy))),
    on("MutatingAdmissionWebhook", |_, _| Ok(Arc::new(webhook::MutatingAdmissionWebhook))),
    on("ValidatingAdmissionPolicy", |_, _| Ok(Arc::new(policy::ValidatingAdmissionPolicy))),
    on("ValidatingAdmissionWebhook", |_, _| Ok(Arc::new(webhook::ValidatingAdmissionWebhook))),
    on("ResourceQuota", |_, configuration| {
        Ok(Arc::new(resource_quota::ResourceQuota::new(configuration)?))
    }),
    off("AlwaysDeny", |_, _| Ok(Arc::new(always::AlwaysDeny))),
];

/// The plugins that these options enable, in their order.
///
/// # Errors
/// A name is unknown or contradicts another, or a configuration makes no sense.
pub(super) fn enabled(options: &Options) -> Result<Vec<Arc<dyn Plugin>>, OptionError> {
    check(options)?;
    let configured = options.config_file.as_deref().map(options::read).transpose()?;
    let configured = configured.unwrap_or_default();
    if let Some(name) = configured.keys().find(|name| slot(name).is_none()) {
        return Err(unknown(name));
    }
    // Whoever may write a role is asked for by no flag, as in upstream.
    let mut plugins: Vec<Arc<dyn Plugin>> = vec![Arc::new(role_escalation::RoleEscalation)];
    let named = |list: &[String], name: &str| list.iter().any(|n| n == name);
    for slot in ORDER {
        let wanted =
            (slot.on || named(&options.enable, slot.name)) && !named(&options.disable, slot.name);
        if let Some(make) = slot.make.filter(|_| wanted) {
            plugins.push(make(options, configured.get(slot.name))?);
        }
    }
    Ok(plugins)
}

fn slot(name: &str) -> Option<&'static Slot> {
    ORDER.iter().find(|slot| slot.name == name)
}

fn unknown(name: &str) -> OptionError {
    let names: Vec<&str> = ORDER.iter().map(|slot| slot.name).collect();
    OptionError::Unknown(name.to_owned(), names.join(", "))
}

/// Names must be known, and a plugin cannot be both enabled and disabled.
fn check(options: &Options) -> Result<(), OptionError> {
    for name in options.enable.iter().chain(&options.disable) {
        slot(name).ok_or_else(|| unknown(name))?;
    }
    for name in &options.enable {
        if options.disable.contains(name) {
            return Err(OptionError::Both(name.clone()));
        }
        if slot(name).is_some_and(|slot| slot.make.is_none()) {
            return Err(OptionError::Absent(name.clone()));
        }
    }
    Ok(())
}
