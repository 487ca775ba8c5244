//! Services: defaults, addresses and node ports.

mod allocate;
mod claims;
pub(crate) mod validate;
mod warnings;

use std::net::IpAddr;

use futures::FutureExt;
use futures::future::BoxFuture;
use schema::Cause;
use serde_json::{Value, json};

use super::check::{At, Causes, copy, default, is_empty, items, items_mut, part, remove, text};
use super::{Ctx, Strategy, words};
use crate::registry::Selectable;
use crate::status::{ApiError, GroupResource};
use allocate::{Allocator, Held, Range, Refusal};
use claims::Owner;

/// Strategy of `services`.
pub(crate) struct Services {
    allocator: Allocator,
}

impl Services {
    /// With nothing handed out yet.
    pub(crate) fn new() -> Self {
        Services { allocator: Allocator::default() }
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

/// The first port that has the protocol and the node port of one before it: its index, and both.
fn twin_port(spec: &Value) -> Option<(usize, &str, i64)> {
    if !matches!(kind(spec), "NodePort" | "LoadBalancer") {
        return None;
    }
    let mut seen = std::collections::HashSet::new();
    items(&spec["ports"]).iter().enumerate().find_map(|(n, port)| {
        let (protocol, number) = (text(port, "protocol"), port["nodePort"].as_i64()?);
        (number != 0 && !seen.insert((protocol, number))).then_some((n, protocol, number))
    })
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
        if kind(spec) != "ExternalName" {
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
        // Ports are taken before anything is judged, and nobody takes one twice.
        if let Some((n, _, port)) = twin_port(&obj["spec"]) {
            let why = "provided port is already allocated";
            let cause = Cause::invalid(format!("spec.ports[{n}].nodePort"), &port.into(), why);
            return Err(invalid(obj, vec![cause]));
        }
        if !obj["spec"].is_object() {
            return Ok(());
        }
        self.catch_up(ctx);
        let uid = text(&obj["metadata"], "uid").to_owned();
        let mut early = Causes::default();
        validate::spec(&mut early, &obj["spec"], None);
        if !early.0.is_empty() {
            // Validation refuses it; but what cannot be had is told before.
            return self.place(ctx, &uid, &mut obj.clone(), None, true);
        }
        let result = self.place(ctx, &uid, obj, None, ctx.dry_run);
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
        carry_over(&mut obj["spec"], &old["spec"]);
        if kind(&obj["spec"]) != "LoadBalancer" {
            obj["status"]["loadBalancer"] = json!({});
        }
        refuse(obj, validate::cluster_addresses(&obj["spec"], Some(&old["spec"])))?;
        if let Some((_, protocol, port)) = twin_port(&obj["spec"]) {
            let fault = format!("duplicate nodePort: {{{protocol} {port}}}");
            return Err(ApiError::Unknown(fault));
        }
        let mut early = Causes::default();
        validate::spec(&mut early, &obj["spec"], Some(&old["spec"]));
        validate::update(&mut early, &obj["spec"], &old["spec"]);
        if !early.0.is_empty() {
            return Ok(());
        }
        self.catch_up(ctx);
        let uid = text(&old["metadata"], "uid").to_owned();
        self.place(ctx, &uid, obj, Some(&old["spec"]), ctx.dry_run)
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

/// The refusal of a port for health checks, which upstream takes for a fault of its own.
fn no_health_check(wanted: Option<i64>, Refusal(why): Refusal) -> ApiError {
    let what = match wanted {
        Some(port) => format!("requested HealthCheck NodePort {port}"),
        None => "a HealthCheck NodePort 0".to_owned(),
    };
    ApiError::Internal(format!("failed to allocate {what}: {why}"))
}

/// Whether a port is one of those that services do not get, which upstream does not look at in a dry run.
fn passes_unseen(ctx: &Ctx<'_>, wanted: Option<i64>) -> bool {
    let (first, last) = ctx.core.config.node_ports;
    let is_outside = |port: i64| port < i64::from(first) || port > i64::from(last);
    ctx.dry_run && wanted.is_some_and(is_outside)
}

fn refuse(obj: &Value, causes: Vec<Cause>) -> Result<(), ApiError> {
    if causes.is_empty() { Ok(()) } else { Err(invalid(obj, causes)) }
}

/// The first address has a field of its own.
fn both_names(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    let one = text(spec, "clusterIP").to_owned();
    if !one.is_empty() && items(&spec["clusterIPs"]).is_empty() {
        spec["clusterIPs"] = json!([one]);
    }
}

/// Both names of the addresses, and the families that fit; the cluster has IPv4 only.
fn families(spec: &mut Value) -> Result<(), Vec<Cause>> {
    if kind(spec) == "ExternalName" {
        return Ok(());
    }
    both_names(spec);
    let v6 = items(&spec["clusterIPs"]).iter().position(|ip| {
        ip.as_str().and_then(|ip| ip.parse::<IpAddr>().ok()).is_some_and(|ip| ip.is_ipv6())
    });
    if let Some(n) = v6 {
        let field = format!("spec.clusterIPs[{n}]");
        let detail = "IPv6 is not configured on this cluster";
        return Err(vec![Cause::invalid(field, &spec["clusterIPs"], detail)]);
    }
    let headless_without_selector = is_headless(spec) && is_empty(&spec["selector"]);
    if headless_without_selector {
        if is_empty(&spec["ipFamilyPolicy"]) {
            let one = items(&spec["ipFamilies"]).len() == 1;
            spec["ipFamilyPolicy"] = if one { "SingleStack" } else { "RequireDualStack" }.into();
        }
        if items(&spec["ipFamilies"]).is_empty() {
            let single = text(spec, "ipFamilyPolicy") == "SingleStack";
            spec["ipFamilies"] = if single { json!(["IPv4"]) } else { json!(["IPv4", "IPv6"]) };
        }
        return Ok(());
    }
    if items(&spec["ipFamilies"]).len() > 1
        && matches!(text(spec, "ipFamilyPolicy"), "" | "SingleStack")
    {
        let detail = "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified";
        return Err(vec![Cause::invalid("spec.ipFamilyPolicy", &"SingleStack".into(), detail)]);
    }
    let mut causes = Vec::new();
    if let Some(n) = items(&spec["ipFamilies"]).iter().position(|f| f == "IPv6") {
        let field = format!("spec.ipFamilies[{n}]");
        causes.push(Cause::invalid(field, &"IPv6".into(), "not configured on this cluster"));
    }
    if text(spec, "ipFamilyPolicy") == "RequireDualStack" {
        let detail = "this cluster is not configured for dual-stack services";
        causes.push(Cause::invalid("spec.ipFamilyPolicy", &spec["ipFamilyPolicy"], detail));
    }
    if !causes.is_empty() {
        return Err(causes);
    }
    if is_empty(&spec["ipFamilyPolicy"]) {
        spec["ipFamilyPolicy"] = "SingleStack".into();
    }
    if is_empty(&spec["ipFamilies"]) {
        spec["ipFamilies"] = json!(["IPv4"]);
    }
    Ok(())
}

/// On an update: takes over what the client left out, and drops what the new type does not have.
fn carry_over(spec: &mut Value, old: &Value) {
    let has_ip = |spec: &Value| kind(spec) != "ExternalName";
    if has_ip(spec) && has_ip(old) {
        if is_empty(&spec["clusterIP"]) {
            copy(spec, old, "clusterIP");
        }
        let (one, many) = (spec["clusterIP"].clone(), spec["clusterIPs"].clone());
        let same = one == old["clusterIP"];
        if same && is_empty(&many) {
            copy(spec, old, "clusterIPs");
        } else if !same && (is_empty(&many) || many == old["clusterIPs"]) {
            spec["clusterIPs"] = json!([one]);
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if is_empty(&spec[field]) {
                copy(spec, old, field);
            }
        }
    }
    if !has_ip(spec) {
        for field in
            ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]
        {
            if spec[field] == old[field] {
                remove(spec, field);
            }
        }
    }
    if wants_node_ports(spec) && matches!(kind(old), "NodePort" | "LoadBalancer") {
        for port in items_mut(spec, "ports") {
            let same = |o: &&Value| o["port"] == port["port"] && o["protocol"] == port["protocol"];
            if port["nodePort"].as_i64().unwrap_or_default() == 0
                && let Some(known) =
                    items(&old["ports"]).iter().find(same).and_then(|o| o.get("nodePort"))
            {
                port["nodePort"] = known.clone();
            }
        }
    }
    if !matches!(kind(spec), "NodePort" | "LoadBalancer")
        && matches!(kind(old), "NodePort" | "LoadBalancer")
    {
        for port in items_mut(spec, "ports") {
            let number = &port["nodePort"];
            if items(&old["ports"]).iter().any(|o| o["nodePort"] == *number) {
                remove(port, "nodePort");
            }
        }
    }
    let same = spec["externalTrafficPolicy"] == old["externalTrafficPolicy"];
    if has_external(old) && !has_external(spec) && same {
        remove(spec, "externalTrafficPolicy");
    }
    if wants_health_check(spec) && wants_health_check(old) {
        if spec["healthCheckNodePort"].as_i64().unwrap_or_default() == 0 {
            copy(spec, old, "healthCheckNodePort");
        }
    } else if !wants_health_check(spec) && spec["healthCheckNodePort"] == old["healthCheckNodePort"]
    {
        remove(spec, "healthCheckNodePort");
    }
    if kind(spec) != "LoadBalancer" && kind(old) == "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if spec[field] == old[field] {
                remove(spec, field);
            }
        }
    }
}

impl Services {
    /// Learns what other services hold.
    fn catch_up(&self, ctx: &Ctx<'_>) {
        if let Some(cache) = ctx.core.registry().find("", "services").and_then(|r| r.cache()) {
            self.allocator.catch_up(cache);
        }
    }

    /// Gives a service its families, addresses and ports; a dry one is given none that others could not get.
    fn place(
        &self,
        ctx: &Ctx<'_>,
        uid: &str,
        obj: &mut Value,
        old: Option<&Value>,
        dry: bool,
    ) -> Result<(), ApiError> {
        let placed = families(&mut obj["spec"]).and_then(|()| {
            self.allocate(ctx, uid, &mut obj["spec"], old, dry).map_err(|cause| vec![cause])
        });
        placed.map_err(|causes| invalid(obj, causes))?;
        let wanted = obj["spec"]["healthCheckNodePort"].as_i64().filter(|n| *n != 0);
        if wants_health_check(&obj["spec"]) && !passes_unseen(ctx, wanted) {
            let range = ctx.core.config.node_ports;
            let mut ports = items(&obj["spec"]["ports"]).iter();
            if wanted.is_some() && ports.any(|port| port["nodePort"].as_i64() == wanted) {
                let taken = "provided port is already allocated".to_owned();
                return Err(no_health_check(wanted, Refusal(taken)));
            }
            let port = self.allocator.port(uid, range, wanted, old.is_some(), dry);
            let port = port.map_err(|refusal| no_health_check(wanted, refusal))?;
            obj["spec"]["healthCheckNodePort"] = port.into();
        }
        Ok(())
    }

    /// Takes addresses and ports that the service does not have yet.
    fn allocate(
        &self,
        ctx: &Ctx<'_>,
        uid: &str,
        spec: &mut Value,
        old: Option<&Value>,
        dry: bool,
    ) -> Result<(), Cause> {
        let config = &ctx.core.config;
        if kind(spec) != "ExternalName" && !is_headless(spec) {
            let wanted: Option<IpAddr> = text(spec, "clusterIP").parse().ok();
            let has = old.is_some_and(|old| {
                kind(old) != "ExternalName" && old["clusterIP"] == spec["clusterIP"]
            });
            if !has || wanted.is_none() {
                let refused =
                    |Refusal(why)| Cause::invalid("spec.clusterIPs", &spec["clusterIPs"], &why);
                let range = Range::parse(&config.service_cidr).ok_or_else(|| {
                    Cause::invalid(
                        "spec.clusterIPs",
                        &Value::Null,
                        "the service range is not usable",
                    )
                })?;
                let ip = self.allocator.ip(uid, range, wanted, dry).map_err(refused)?;
                spec["clusterIP"] = ip.to_string().into();
                spec["clusterIPs"] = json!([ip.to_string()]);
            }
        }
        if matches!(kind(spec), "NodePort" | "LoadBalancer") {
            self.node_ports(ctx, uid, spec, old.is_some(), dry)?;
        }
        Ok(())
    }

    /// Node ports: first those that are wanted, then free ones; one number serves both protocols of a port.
    fn node_ports(
        &self,
        ctx: &Ctx<'_>,
        uid: &str,
        spec: &mut Value,
        known: bool,
        dry: bool,
    ) -> Result<(), Cause> {
        let range = ctx.core.config.node_ports;
        let automatic = wants_node_ports(spec);
        let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
        let ports = ports.map(Vec::as_mut_slice).unwrap_or_default();
        for (n, port) in ports.iter().enumerate() {
            let wanted = port["nodePort"].as_i64().filter(|w| *w != 0);
            if let Some(wanted) = wanted.filter(|_| !passes_unseen(ctx, wanted)) {
                self.allocator.port(uid, range, Some(wanted), known, dry).map_err(
                    |Refusal(why)| {
                        Cause::invalid(format!("spec.ports[{n}].nodePort"), &port["nodePort"], &why)
                    },
                )?;
            }
        }
        for n in (0..ports.len()).filter(|_| automatic) {
            if ports[n]["nodePort"].as_i64().unwrap_or_default() != 0 {
                continue;
            }
            let twin = ports.iter().find(|p| {
                p["port"] == ports[n]["port"]
                    && p["protocol"] != ports[n]["protocol"]
                    && p["nodePort"].as_i64().unwrap_or_default() != 0
            });
            let number = match twin {
                Some(twin) => twin["nodePort"].clone(),
                None => {
                    let free = self.allocator.port(uid, range, None, known, dry);
                    let refused = |Refusal(why): Refusal| {
                        Cause::invalid(format!("spec.ports[{n}].nodePort"), &0.into(), &why)
                    };
                    free.map_err(refused)?.into()
                }
            };
            ports[n]["nodePort"] = number;
        }
        Ok(())
    }
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
    fn one_number_serves_one_port_of_a_protocol() {
        let spec = |second: &str| {
            json!({"type": "NodePort", "ports": [
            {"protocol": "TCP", "nodePort": 30001}, {"protocol": second, "nodePort": 30001}]})
        };
        assert_eq!(twin_port(&spec("TCP")), Some((1, "TCP", 30001)));
        assert_eq!(twin_port(&spec("UDP")), None);
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

    #[test]
    fn families_fit_the_cluster() {
        let mut headless = json!({"clusterIP": "None"});
        families(&mut headless).unwrap();
        assert_eq!(
            (&headless["ipFamilies"], &headless["ipFamilyPolicy"]),
            (&json!(["IPv4", "IPv6"]), &json!("RequireDualStack"))
        );
        let mut selected = json!({"clusterIP": "None", "selector": {"a": "b"}});
        families(&mut selected).unwrap();
        assert_eq!(
            (&selected["ipFamilies"], &selected["ipFamilyPolicy"]),
            (&json!(["IPv4"]), &json!("SingleStack"))
        );
        let refused = families(&mut json!({"clusterIP": "2001:db8::5"})).unwrap_err();
        assert_eq!(
            refused[0].to_string(),
            "spec.clusterIPs[0]: Invalid value: [\"2001:db8::5\"]: IPv6 is not configured on this cluster"
        );
        assert!(families(&mut json!({"ipFamilyPolicy": "RequireDualStack"})).is_err());
    }

    #[test]
    fn an_update_keeps_what_was_allocated() {
        let old = json!({"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30007}]});
        let mut spec = json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "TCP"}]});
        carry_over(&mut spec, &old);
        assert_eq!(spec["clusterIP"], "10.96.0.9");
        assert_eq!(spec["ports"][0]["nodePort"], 30007);
        assert!(spec["ports"][1]["nodePort"].is_null());
        let mut plain = old.clone();
        plain["type"] = "ClusterIP".into();
        carry_over(&mut plain, &old);
        assert!(
            plain["ports"][0]["nodePort"].is_null() && plain["externalTrafficPolicy"].is_null()
        );
        let mut external = json!({"type": "ExternalName", "externalName": "a", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"]});
        carry_over(&mut external, &old);
        assert!(external["clusterIP"].is_null() && external["clusterIPs"].is_null());
    }
}
