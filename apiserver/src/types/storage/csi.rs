//! What CSI drivers tell of themselves, and attachments.

use std::collections::HashSet;

use schema::Cause;
use serde_json::{Value, json};

use super::super::check::{At, Causes, is_empty, items, nano, part, shown, text};
use super::super::{Ctx, Strategy, node_labels, sources, words};
use super::{bytes, volume};
use crate::status::ApiError;

/// Strategy of `csidrivers`.
pub(crate) struct Drivers;

impl Strategy for Drivers {
    fn refused_fields(&self) -> &'static [&'static str] {
        &["/spec/preventPodSchedulingIfMissing"]
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let (spec, at) = (&obj["spec"], At::new("spec"));
        let policies = ["File", "None", "ReadWriteOnceWithFSType"];
        causes.one_of(&at.field("fsGroupPolicy"), &spec["fsGroupPolicy"], &policies);
        for mode in items(&spec["volumeLifecycleModes"]) {
            causes.one_of(&at.field("volumeLifecycleModes"), mode, &["Persistent", "Ephemeral"]);
        }
        tokens(&mut causes, &at.field("tokenRequests"), &spec["tokenRequests"]);
        let period = &spec["nodeAllocatableUpdatePeriodSeconds"];
        if period.as_i64().is_some_and(|seconds| seconds < 10) {
            let detail = "must be greater than or equal to 10 seconds";
            causes.invalid(&at.field("nodeAllocatableUpdatePeriodSeconds"), period, detail);
        }
        let in_secrets = &spec["serviceAccountTokenInSecrets"];
        if !in_secrets.is_null() && is_empty(&spec["tokenRequests"]) {
            let detail = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
            causes.invalid(&at.field("serviceAccountTokenInSecrets"), in_secrets, detail);
        }
        if let Some(old) = old.map(|old| &old["spec"]) {
            let (attach, modes) = ("attachRequired", "volumeLifecycleModes");
            causes.immutable(&at.field("attachedRequired"), &spec[attach], &old[attach]);
            causes.immutable(&at.field(modes), &spec[modes], &old[modes]);
        }
        causes.0
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let requests = &obj["spec"]["tokenRequests"];
        let same = old.is_some_and(|old| old["spec"]["tokenRequests"] == *requests);
        if is_empty(requests) || same || !obj["spec"]["serviceAccountTokenInSecrets"].is_null() {
            return Vec::new();
        }
        vec!["spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes".to_owned()]
    }

    fn counts_generation(&self) -> bool {
        true
    }

    fn starts_generation(&self) -> bool {
        false
    }

    fn unconditional_updates(&self) -> bool {
        false
    }
}

fn tokens(causes: &mut Causes, at: &At<'_>, requests: &Value) {
    let mut audiences = HashSet::new();
    for (n, request) in items(requests).iter().enumerate() {
        let at = at.index(n);
        let audience = text(request, "audience");
        if !audiences.insert(audience) {
            causes.duplicate(&at.field("audience"), &audience.into());
            continue;
        }
        sources::token_seconds(
            causes,
            &at.field("expirationSeconds"),
            &request["expirationSeconds"],
        );
    }
}

/// Strategy of `csinodes`.
pub(crate) struct DriverNodes;

impl Strategy for DriverNodes {
    fn default(&self, obj: &mut Value) {
        if let Some(spec) = part(obj, "spec")
            && items(&spec["drivers"]).is_empty()
        {
            spec["drivers"] = Value::Null; // The list has no way to be left out.
        }
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let spec = At::new("spec");
        let at = spec.field("drivers");
        let drivers = items(&obj["spec"]["drivers"]);
        let mut names = HashSet::new();
        for (n, driver) in drivers.iter().enumerate() {
            let at = at.index(n);
            node_driver(&mut causes, &at, driver);
            let name = text(driver, "name");
            if !names.insert(name) {
                causes.duplicate(&at.field("name"), &name.into());
            }
        }
        for old in old.iter().flat_map(|old| items(&old["spec"]["drivers"])) {
            for new in drivers.iter().filter(|new| new["name"] == old["name"]) {
                let same = |field: &str| new.get(field) == old.get(field);
                if !["nodeID", "topologyKeys"].into_iter().all(same) {
                    causes.invalid(&at, new, "field is immutable");
                }
            }
        }
        causes.0
    }

    fn unconditional_updates(&self) -> bool {
        false
    }
}

fn node_driver(causes: &mut Causes, at: &At<'_>, driver: &Value) {
    const LONGEST: usize = 256;
    sources::driver_name(causes, &at.field("name"), &driver["name"]);
    let id = &driver["nodeID"];
    causes.present(&at.field("nodeID"), id, "");
    if text(driver, "nodeID").len() > LONGEST {
        causes.invalid(&at.field("nodeID"), id, &format!("must be {LONGEST} characters or less"));
    }
    let allocatable = at.field("allocatable");
    causes.not_negative(&allocatable.field("count"), &driver["allocatable"]["count"]);
    let mut keys = HashSet::new();
    for key in items(&driver["topologyKeys"]) {
        let name = key.as_str().unwrap_or_default();
        causes.present(at, key, "");
        if !keys.insert(name) {
            causes.duplicate(at, key);
        }
        causes.faults(at, name, words::qualified(name));
    }
}

/// Strategy of `csistoragecapacities`.
pub(crate) struct Capacities;

impl Strategy for Capacities {
    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        causes.selector(&At::new("nodeTopology"), &obj["nodeTopology"]);
        let class = text(obj, "storageClassName");
        causes.faults(&At::new("storageClassName"), class, words::subdomain(class));
        if nano(&obj["capacity"]) < 0 {
            let detail = "must be greater than or equal to 0";
            causes.invalid(&At::new("capacity"), &shown(&obj["capacity"]), detail);
        }
        if let Some(old) = old {
            for field in ["nodeTopology", "storageClassName"] {
                causes.immutable(&At::new(field), &obj[field], &old[field]);
            }
        }
        causes.0
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        node_labels::of_selector(format_args!("nodeTopology"), &obj["nodeTopology"])
    }

    fn unconditional_updates(&self) -> bool {
        false
    }
}

/// Strategy of `volumeattachments`.
pub(crate) struct Attachments;

impl Strategy for Attachments {
    fn kept_by_status(&self) -> &'static [&'static str] {
        &super::super::METADATA
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        obj["status"] = json!({"attached": false});
        Ok(())
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, _subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let (spec, at) = (&obj["spec"], At::new("spec"));
        sources::driver_name(&mut causes, &at.field("attacher"), &spec["attacher"]);
        attached(&mut causes, &at.field("source"), &spec["source"]);
        let node = text(spec, "nodeName");
        causes.faults(&at.field("nodeName"), node, words::subdomain(node));
        status(&mut causes, &obj["status"]);
        if let Some(old) = old {
            causes.immutable(&at, spec, &old["spec"]);
        }
        causes.0
    }

    fn unconditional_updates(&self) -> bool {
        false
    }
}

fn attached(causes: &mut Causes, at: &At<'_>, source: &Value) {
    const ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let (inline, name) = (&source["inlineVolumeSpec"], &source["persistentVolumeName"]);
    let at_name = at.field("persistentVolumeName");
    match (inline.is_null(), name.is_null()) {
        (true, true) => causes.required(at, ONE),
        (false, false) => causes.forbidden(at, ONE),
        (true, false) if *name == "" => {
            causes.required(&at_name, "must specify non empty persistentVolumeName");
        }
        (true, false) => (),
        (false, true) => volume::inline(causes, &at.field("inlineVolumeSpec"), inline),
    }
    causes.subdomain(&at_name, name);
}

fn status(causes: &mut Causes, status: &Value) {
    const METADATA: usize = 256 * 1024;
    const MESSAGE: usize = 1024;
    let at = At::new("status");
    if bytes(&status["attachmentMetadata"]) > METADATA {
        causes.0.push(Cause::too_long("status.attachmentMetadata", METADATA as u64));
    }
    for field in ["attachError", "detachError"] {
        let (at, error) = (at.field(field), &status[field]);
        if text(error, "message").len() > MESSAGE {
            // Upstream tells the limit of the metadata here.
            causes.0.push(Cause::too_long(at.field("message").to_string(), METADATA as u64));
        }
        causes.between(&at.field("errorCode"), &error["errorCode"], 0, i64::from(i32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(causes: Vec<Cause>) -> Vec<String> {
        causes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn attachments_have_one_source() {
        let with =
            |source: Value| json!({"spec": {"attacher": "a.b", "nodeName": "n", "source": source}});
        let check = |source: Value| texts(Attachments.validate(&with(source), None, None));
        assert_eq!(check(json!({"persistentVolumeName": "v"})), [""; 0]);
        assert_eq!(
            check(json!({})),
            [
                "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"
            ]
        );
        let inline = json!({"inlineVolumeSpec": {"accessModes": ["ReadWriteOnce"], "csi": {"driver": "d", "volumeHandle": "h"}, "storageClassName": "c"}});
        assert_eq!(
            check(inline),
            [
                "spec.source.inlineVolumeSpec.storageClassName: Forbidden: may not be specified in the context of inline volumes"
            ]
        );
    }

    #[test]
    fn a_registered_driver_keeps_its_node() {
        let node = |id: &str, count: i64| json!({"spec": {"drivers": [{"name": "d", "nodeID": id, "allocatable": {"count": count}}]}});
        assert_eq!(texts(DriverNodes.validate(&node("a", 2), Some(&node("a", 1)), None)), [""; 0]);
        assert_eq!(
            DriverNodes.validate(&node("b", 1), Some(&node("a", 1)), None)[0].field,
            "spec.drivers"
        );
    }

    #[test]
    fn tokens_are_asked_for_once_an_audience() {
        let driver = json!({"spec": {"tokenRequests": [{"audience": "a"}, {"audience": "a"}, {"audience": "b", "expirationSeconds": 5}]}});
        assert_eq!(
            texts(Drivers.validate(&driver, None, None)),
            [
                "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
                "spec.tokenRequests[2].expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes"
            ]
        );
        assert_eq!(Drivers.warnings(&driver, None).len(), 1);
        assert_eq!(Drivers.warnings(&driver, Some(&driver)), [""; 0]);
    }
}
