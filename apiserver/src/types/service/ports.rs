//! Gives a service its node ports.

use schema::Cause;
use serde_json::Value;

use super::allocate::Refusal;
use super::carry::{has_number, number, numbers};
use super::place::Placing;
use super::{invalid, kind, wants_health_check, wants_node_ports};
use crate::status::ApiError;
use crate::types::check::{items, text};

/// Where the made-up ports of a dry run begin.
const DRY: i64 = 32769;

/// The node ports of one write: what it is given it does not get once more.
pub(super) struct Ports<'a> {
    placing: &'a Placing<'a>,
    /// What the service asks for by number.
    wanted: Vec<i64>,
    given: Vec<i64>,
}

impl<'a> Ports<'a> {
    /// None so far.
    pub(super) fn new(placing: &'a Placing<'a>) -> Self {
        Self { placing, wanted: Vec::new(), given: Vec::new() }
    }

    /// Gives the service the node ports that it wants or needs, and that of its health checks.
    pub(super) fn place(mut self, service: &mut Value) -> Result<(), ApiError> {
        if matches!(kind(&service["spec"]), "NodePort" | "LoadBalancer") {
            let mut ports = items(&service["spec"]["ports"]).to_vec();
            let automatic = wants_node_ports(&service["spec"]);
            self.wanted = ports.iter().map(number).filter(|n| *n != 0).collect();
            match self.placing.old {
                None => self.create(service, &mut ports, automatic)?,
                Some(old) => self.update(service, &mut ports, automatic, old)?,
            }
            if !ports.is_empty() {
                service["spec"]["ports"] = ports.into();
            }
        }
        let had = self.placing.old.is_some_and(wants_health_check);
        if wants_health_check(&service["spec"]) && !had {
            self.health_check(&mut service["spec"])?;
        }
        Ok(())
    }

    /// On creation ports of one number share a node port, unless they want different ones.
    fn create(
        &mut self,
        service: &Value,
        ports: &mut [Value],
        automatic: bool,
    ) -> Result<(), ApiError> {
        for n in 0..ports.len() {
            let own = number(&ports[n]);
            if own == 0 && !automatic {
                continue;
            }
            let alike = |port: &&Value| port["port"] == ports[n]["port"] && has_number(port);
            let first = ports[..n].iter().find(alike).map(number);
            let wish = ports[n..].iter().find(alike).map(number);
            let given = match (first, wish) {
                (Some(first), _) if own == 0 || own == first => first,
                (Some(_), _) => self.want_for(service, n, own)?,
                (None, Some(wish)) => self.want_for(service, n, wish)?,
                (None, None) => self.any()?,
            };
            ports[n]["nodePort"] = given.into();
        }
        Ok(())
    }

    /// On updates every port has one of its own, but for those that say otherwise.
    fn update(
        &mut self,
        service: &Value,
        ports: &mut [Value],
        automatic: bool,
        old: &Value,
    ) -> Result<(), ApiError> {
        let mut seen: Vec<(String, i64)> = Vec::new();
        for (n, port) in ports.iter_mut().enumerate() {
            let given = match number(port) {
                0 if !automatic => continue,
                0 => self.any()?,
                own if numbers(old).any(|o| *o == own) || self.given.contains(&own) => own,
                own => self.want_for(service, n, own)?,
            };
            port["nodePort"] = given.into();
            let pair = (text(port, "protocol").to_owned(), given);
            if seen.contains(&pair) {
                let fault = format!("duplicate nodePort: {{{} {}}}", pair.0, pair.1);
                return Err(ApiError::Unknown(fault));
            }
            seen.push(pair);
        }
        Ok(())
    }

    fn health_check(&mut self, spec: &mut Value) -> Result<(), ApiError> {
        let wanted = spec["healthCheckNodePort"].as_i64().unwrap_or_default();
        let (port, what) = match wanted {
            0 => (self.draw(), "a HealthCheck NodePort 0".to_owned()),
            wanted => (self.want(wanted), format!("requested HealthCheck NodePort {wanted}")),
        };
        // Upstream takes it for a fault of its own.
        let failed = |why| ApiError::Internal(format!("failed to allocate {what}: {why}"));
        spec["healthCheckNodePort"] = port.map_err(failed)?.into();
        Ok(())
    }

    fn any(&mut self) -> Result<i64, ApiError> {
        let failed = |why| ApiError::Internal(format!("failed to allocate a nodePort: {why}"));
        self.draw().map_err(failed)
    }

    /// A free port that is not wanted by a later one of the service.
    fn draw(&mut self) -> Result<i64, Refusal> {
        let port = if self.placing.ctx.dry_run {
            self.given.iter().max().map_or(DRY, |last| last + 1)
        } else {
            let others = [&*self.given, &*self.wanted].concat();
            let range = self.placing.ctx.core.config.node_ports;
            self.placing.allocator.any_port(self.placing.taker(), range, &others)?.into()
        };
        self.given.push(port);
        Ok(port)
    }

    fn want_for(&mut self, service: &Value, n: usize, port: i64) -> Result<i64, ApiError> {
        self.want(port).map_err(|refusal| {
            let field = format!("spec.ports[{n}].nodePort");
            invalid(service, vec![Cause::invalid(field, &port.into(), &refusal.to_string())])
        })
    }

    fn want(&mut self, port: i64) -> Result<i64, Refusal> {
        let was_for_health = self
            .placing
            .old
            .is_some_and(|old| wants_health_check(old) && old["healthCheckNodePort"] == port);
        if self.given.contains(&port) || was_for_health {
            return Err(Refusal::PortTaken);
        }
        if !self.passes_unseen(port) {
            let range = self.placing.ctx.core.config.node_ports;
            self.placing.allocator.port(self.placing.taker(), range, port)?;
        }
        self.given.push(port);
        Ok(port)
    }

    /// Whether a port is one of those that services do not get, which upstream does not look at in a dry run.
    fn passes_unseen(&self, port: i64) -> bool {
        let (first, last) = self.placing.ctx.core.config.node_ports;
        self.placing.ctx.dry_run && (port < i64::from(first) || port > i64::from(last))
    }
}
