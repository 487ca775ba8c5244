//! Gives a service its addresses and ports.

use ipnet::IpNet;
use schema::Cause;
use serde_json::{Value, json};

use super::allocate::{Allocator, Refusal, Taker};
use super::families::families;
use super::ports::Ports;
use super::{invalid, is_headless, kind, range};
use crate::config::family;
use crate::status::ApiError;
use crate::types::Ctx;
use crate::types::check::{items, text};

/// A service that is to get what it has for itself alone.
pub(super) struct Placing<'a> {
    pub(super) ctx: &'a Ctx<'a>,
    pub(super) allocator: &'a Allocator,
    pub(super) uid: &'a str,
    /// The spec before, on updates.
    pub(super) old: Option<&'a Value>,
    /// Whether what it gets is its own from then on, so that others cannot get it.
    pub(super) keep: bool,
}

impl Placing<'_> {
    /// Gives the service its families, addresses and ports.
    pub(super) fn place(&self, service: &mut Value) -> Result<(), ApiError> {
        let served = self.ctx.core.config.service_ranges.families();
        families(&mut service["spec"], self.old, &served)
            .map_err(|causes| invalid(service, causes))?;
        self.addresses(service)?;
        Ports::new(self).place(service)
    }

    /// An address of each family that the service has none of yet.
    fn addresses(&self, service: &mut Value) -> Result<(), ApiError> {
        let spec = &service["spec"];
        let has = self.old.filter(|old| kind(old) != "ExternalName");
        if kind(spec) == "ExternalName" || is_headless(spec) || has.is_some_and(is_headless) {
            return Ok(());
        }
        let n_had = has.map_or(0, |old| items(&old["clusterIPs"]).len());
        let families = items(&spec["ipFamilies"]).to_vec();
        let mut ips = items(&spec["clusterIPs"]).to_vec();
        if n_had >= families.len() {
            return Ok(());
        }
        ips.resize(families.len(), "".into());
        let mut given = ips.clone();
        for (n, family) in families.iter().enumerate().skip(n_had) {
            let wanted = ips[n].as_str().unwrap_or_default();
            let ip = self.ip(family.as_str().unwrap_or_default(), wanted);
            given[n] = ip.map_err(|refusal| no_address(service, &ips, wanted, &refusal))?.into();
        }
        service["spec"]["clusterIP"] = given[0].clone();
        service["spec"]["clusterIPs"] = given.into();
        Ok(())
    }

    fn ip(&self, family: &str, wanted: &str) -> Result<String, Refusal> {
        let ranges = self.ranges(family);
        let ip = wanted.parse().ok();
        let given = if self.ctx.dry_run {
            range::dry_run(&ranges, ip)
        } else {
            self.allocator.ip(self.taker(), &ranges, ip)
        };
        // As it was written, where somebody wrote it.
        given.map(|ip| if wanted.is_empty() { ip.to_string() } else { wanted.to_owned() })
    }

    /// The ranges of a family that addresses are taken from now: those of the ServiceCIDRs, and what the server was
    /// started with while the object that says so is not there.
    fn ranges(&self, of: &str) -> Vec<IpNet> {
        let core = &self.ctx.core;
        let registry = core.registry();
        let mut ranges = Vec::new();
        let mut is_told = false;
        let cidrs = registry.find("networking.k8s.io", "servicecidrs");
        if let Some(cache) = cidrs.and_then(|cidrs| cidrs.cache()) {
            for object in cache.list(None).iter() {
                is_told |= object.name() == "kubernetes";
                let object: Value = serde_json::from_slice(object.stored()).unwrap_or_default();
                ranges.extend(range::usable(&object));
            }
        }
        if !is_told {
            ranges.extend(core.config.service_ranges.iter());
        }
        ranges.retain(|range| family(range.addr()) == of);
        ranges
    }

    pub(super) fn taker(&self) -> Taker<'_> {
        Taker { uid: self.uid, known: self.old.is_some(), keep: self.keep }
    }
}

/// The refusal of an address: that none is left is upstream's fault and not the client's.
fn no_address(service: &Value, ips: &[Value], wanted: &str, refusal: &Refusal) -> ApiError {
    let why = match (wanted, refusal) {
        ("", Refusal::Full) => {
            let name = text(&service["metadata"], "name");
            return ApiError::Internal(format!(
                "failed to allocate a serviceIP for Service {name:?}: {refusal}"
            ));
        }
        ("", _) => format!("failed to allocate IP: {refusal}"),
        _ => format!("failed to allocate IP {wanted}: {refusal}"),
    };
    invalid(service, vec![Cause::invalid("spec.clusterIPs", &json!(ips), &why)])
}
