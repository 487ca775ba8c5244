//! Gives a service its addresses and ports.

use std::net::IpAddr;

use schema::Cause;
use serde_json::{Value, json};

use super::allocate::{Range, Refusal};
use super::families::families;
use super::{Services, invalid, is_headless, kind, wants_health_check, wants_node_ports};
use crate::status::ApiError;
use crate::types::Ctx;
use crate::types::check::{items, text};

impl Services {
    /// Learns what other services hold.
    pub(super) fn catch_up(&self, ctx: &Ctx<'_>) {
        if let Some(cache) = ctx.core.registry().find("", "services").and_then(|r| r.cache()) {
            self.allocator.catch_up(cache);
        }
    }

    /// Gives a service its families, addresses and ports; a dry one is given none that others could not get.
    pub(super) fn place(
        &self,
        ctx: &Ctx<'_>,
        uid: &str,
        obj: &mut Value,
        old: Option<&Value>,
        dry: bool,
    ) -> Result<(), ApiError> {
        let placed = families(&mut obj["spec"], old).and_then(|()| {
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
