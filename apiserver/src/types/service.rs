//! Services: defaults, addresses and node ports.

mod allocate;
mod carry;
mod claims;
mod families;
mod place;
mod ports;
mod range;
pub(crate) mod validate;
mod warnings;

use futures::FutureExt;
use futures::future::BoxFuture;
use schema::Cause;
use serde_json::{Value, json};

use super::check::{At, Causes, default, is_empty, items, items_mut, part, remove, text};
use super::{Ctx, Strategy, words};
use crate::registry::Selectable;
use crate::status::{ApiError, GroupResource};
use allocate::{Allocator, Held};
use carry::{drop_unused, take_over};
use claims::Owner;
use families::both_names;
use place::Placing;

/// Strategy of `services`.
pub(crate) struct Services {
    allocator: Allocator,
}

impl Services {
    /// With nothing handed out yet.
    pub(crate) fn new() -> Self {
        Services { allocator: Allocator::default() }
    }

    /// Learns what other services hold.
    fn catch_up(&self, ctx: &Ctx<'_>) {
        if let Some(cache) = ctx.core.registry().find("", "services").and_then(|r| r.cache()) {
            self.allocator.catch_up(cache);
        }
    }
}

/// The type, which defaults to `ClusterIP`.
fn kind(spec: &Value) -> &str {
    match text(spec, "type") {
        "" => "ClusterIP",
        kind => kind,
    }
}

fn is_headless(spec: &Value) -> bool {
    text(spec, "clusterIP") == "None"
        || items(&spec["clusterIPs"]).first().is_some_and(|ip| ip == "None")
}

/// Whether traffic from outside the cluster is expected.
fn has_external(spec: &Value) -> bool {
    matches!(kind(spec), "NodePort" | "LoadBalancer")
        || (kind(spec) == "ClusterIP" && !is_empty(&spec["externalIPs"]))
}

fn wants_health_check(spec: &Value) -> bool {
    kind(spec) == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

fn wants_node_ports(spec: &Value) -> bool {
    match kind(spec) {
        "NodePort" => true,
        "LoadBalancer" => spec["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

impl Strategy for Services {
    fn creates_on_update(&self) -> bool {
        true
    }

    fn default(&self, obj: &mut Value) {
        let Some(spec) = part(obj, "spec") else { return };
        for port in items_mut(spec, "ports") {
            let absent = matches!(&port["targetPort"], Value::Null)
                || port["targetPort"] == 0
                || port["targetPort"] == "";
            if absent {
                copy_field(port, "port", "targetPort");
            }
        }
        match text(spec, "sessionAffinity") {
            "ClientIP" => {
                default(spec, "sessionAffinityConfig", json!({}));
                default(&mut spec["sessionAffinityConfig"], "clientIP", json!({}));
                default(&mut spec["sessionAffinityConfig"]["clientIP"], "timeoutSeconds", 10800);
            }
            "None" => {
                remove(spec, "sessionAffinityConfig");
            }
            _ => (),
        }
        if kind(spec) == "ExternalName" {
            remove(spec, "internalTrafficPolicy");
        } else {
            default(spec, "internalTrafficPolicy", "Cluster");
        }
        if has_external(spec) && is_empty(&spec["externalTrafficPolicy"]) {
            spec["externalTrafficPolicy"] = "Cluster".into();
        }
        if kind(spec) == "LoadBalancer" {
            default(spec, "allocateLoadBalancerNodePorts", true);
            for ingress in part(obj, "status")
                .and_then(|s| part(s, "loadBalancer"))
                .into_iter()
                .flat_map(|b| items_mut(b, "ingress"))
            {
                if !text(ingress, "ip").is_empty() {
                    default(ingress, "ipMode", "VIP");
                }
            }
        }
    }

    fn reads(&self) -> &'static [&'static str] {
        &["services"]
    }

    fn prepare_create(&self, ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({"loadBalancer": {}});
        both_names(&mut obj["spec"]);
        refuse(obj, validate::cluster_addresses(&obj["spec"], None))?;
        if !obj["spec"].is_object() {
            return Ok(());
        }
        self.catch_up(ctx);
        let uid = text(&obj["metadata"], "uid").to_owned();
        // What cannot be had is told before what is wrong otherwise, so that one that is wrong gets it, too, for show.
        let mut early = Causes::default();
        validate::spec(&mut early, &obj["spec"], None);
        let keep = early.0.is_empty() && !ctx.dry_run;
        let placing = Placing { ctx, allocator: &self.allocator, uid: &uid, old: None, keep };
        let result = placing.place(obj);
        if result.is_err() && !ctx.dry_run {
            self.allocator.give_back(&uid);
        }
        result
    }

    fn prepare_update(
        &self,
        ctx: &Ctx<'_>,
        obj: &mut Value,
        old: &Value,
        subresource: Option<&str>,
    ) -> Result<(), ApiError> {
        if subresource.is_some() || !obj["spec"].is_object() {
            return Ok(());
        }
        take_over(&mut obj["spec"], &old["spec"]);
        if kind(&obj["spec"]) != "LoadBalancer" {
            obj["status"]["loadBalancer"] = json!({});
        }
        refuse(obj, validate::cluster_addresses(&obj["spec"], Some(&old["spec"])))?;
        let mut early = Causes::default();
        let mut judged = obj["spec"].clone();
        drop_unused(&mut judged, &old["spec"]);
        validate::spec(&mut early, &judged, Some(&old["spec"]));
        validate::update(&mut early, &judged, &old["spec"]);
        self.catch_up(ctx);
        let placing = Placing {
            ctx,
            allocator: &self.allocator,
            uid: text(&old["metadata"], "uid"),
            old: Some(&old["spec"]),
            keep: early.0.is_empty() && !ctx.dry_run,
        };
        placing.place(obj)?;
        drop_unused(&mut obj["spec"], &old["spec"]);
        Ok(())
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        match subresource {
            Some("status") => {
                let ingress = &obj["status"]["loadBalancer"]["ingress"];
                if kind(&obj["spec"]) != "LoadBalancer" && !is_empty(ingress) {
                    let at = At::new("status");
                    let at = at.field("loadBalancer");
                    let detail = "may only be used when `spec.type` is 'LoadBalancer'";
                    causes.forbidden(&at.field("ingress"), detail);
                } else {
                    validate::status(&mut causes, &obj["status"], true);
                }
            }
            _ => {
                validate::service(&mut causes, obj, old);
                if let Some(old) = old {
                    validate::update(&mut causes, &obj["spec"], &old["spec"]);
                }
            }
        }
        causes.0
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        words::label(name)
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        warnings::all(obj)
    }

    fn selectable(&self) -> Vec<Selectable> {
        vec![Selectable::new("spec.clusterIP"), Selectable::new("spec.type")]
    }

    fn claims(&self) -> bool {
        true
    }

    fn claim<'a>(
        &'a self,
        ctx: &'a Ctx<'a>,
        obj: &'a Value,
        old: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<bool, ApiError>> {
        async move {
            let held = old.map(|old| Held::of(&old["spec"])).unwrap_or_default();
            let items = claims::difference(&Held::of(&obj["spec"]), &held);
            let lost = claims::take(&**ctx.core.store(), owner(obj), &items).await?;
            if let Some(item) = lost {
                self.release(ctx, obj, old).await;
                self.allocator.note(item);
            }
            Ok(lost.is_none())
        }
        .boxed()
    }

    fn release<'a>(
        &'a self,
        ctx: &'a Ctx<'a>,
        gone: &'a Value,
        kept: Option<&'a Value>,
    ) -> BoxFuture<'a, ()> {
        async move {
            if ctx.dry_run {
                return;
            }
            if kept.is_none() {
                self.allocator.give_back(text(&gone["metadata"], "uid"));
            }
            let kept = kept.map(|kept| Held::of(&kept["spec"])).unwrap_or_default();
            let items = claims::difference(&Held::of(&gone["spec"]), &kept);
            if let Err(error) = claims::give_back(&**ctx.core.store(), owner(gone), &items).await {
                tracing::warn!(%error, "addresses of a service not freed yet");
            }
        }
        .boxed()
    }
}

fn owner(service: &Value) -> Owner<'_> {
    let metadata = &service["metadata"];
    Owner { namespace: text(metadata, "namespace"), name: text(metadata, "name") }
}

fn copy_field(object: &mut Value, from: &str, to: &str) {
    if let Some(value) = object.get(from).cloned() {
        object[to] = value;
    }
}

fn invalid(obj: &Value, causes: Vec<Cause>) -> ApiError {
    ApiError::Invalid {
        kind: GroupResource::new("", "Service"),
        name: text(&obj["metadata"], "name").to_owned(),
        causes: causes.into_iter().map(Into::into).collect(),
    }
}

fn refuse(obj: &Value, causes: Vec<Cause>) -> Result<(), ApiError> {
    if causes.is_empty() { Ok(()) } else { Err(invalid(obj, causes)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaulted(spec: Value) -> Value {
        let mut obj = json!({"spec": spec});
        Services::new().default(&mut obj);
        obj["spec"].clone()
    }

    #[test]
    fn defaults_depend_on_the_type() {
        let spec = defaulted(
            json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 81, "targetPort": "web"}]}),
        );
        assert_eq!(
            (&spec["ports"][0]["targetPort"], &spec["ports"][1]["targetPort"]),
            (&json!(80), &json!("web"))
        );
        assert_eq!(
            (&spec["externalTrafficPolicy"], &spec["internalTrafficPolicy"]),
            (&json!("Cluster"), &json!("Cluster"))
        );
        let spec = defaulted(json!({"type": "ExternalName", "externalName": "a.b"}));
        assert_eq!(spec, json!({"type": "ExternalName", "externalName": "a.b"}));
        let spec = defaulted(json!({"sessionAffinity": "ClientIP"}));
        assert_eq!(spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10800);
    }
}
