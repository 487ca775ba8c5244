//! From FlowSchemas and PriorityLevelConfigurations to what the server follows: schemas in the order in which
//! they are tried, levels with their seats. Pure; what is wrong with an object leaves that object out.

use k8s_openapi::api::flowcontrol::v1::{
    FlowSchema, PriorityLevelConfiguration, PriorityLevelConfigurationSpec,
};
use serde::de::DeserializeOwned;

use super::borrow::{Bounds, Shares, bounds};
use super::queues::Shape;
use crate::bootstrap::plan::FIXED;

/// Levels that are there even if somebody deletes them.
const MANDATORY: [&str; 2] = ["exempt", "catch-all"];
/// Part of a level's seats that one request may take, in percent.
///
/// Source: `priorityLevelMaxSeatsPercent` in upstream's `apf_controller.go`.
const WIDEST_PERCENT: u32 = 15;

/// A level, as its object says.
#[derive(Clone, Debug, PartialEq)]
pub struct LevelPlan {
    /// Its name.
    pub name: String,
    /// Its uid; empty for a mandatory level whose object is gone.
    pub uid: String,
    /// Its weight.
    pub shares: Shares,
    /// Its queues.
    pub shape: Shape,
    /// Its seats.
    pub bounds: Bounds,
    /// Seats of its widest request.
    pub widest: u32,
}

/// A schema and the place of its level among the [`LevelPlan`]s.
#[derive(Clone, Debug, PartialEq)]
pub struct SchemaPlan {
    /// The object.
    pub schema: FlowSchema,
    /// Index of its level.
    pub level: usize,
}

/// Everything that requests are judged by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Sorted by name.
    pub levels: Vec<LevelPlan>,
    /// In the order in which they are tried.
    pub schemas: Vec<SchemaPlan>,
    /// Names of schemas whose level does not exist.
    pub dangling: Vec<String>,
}

/// Digests the objects; `seats` is what the whole server has.
pub fn digest(
    seats: u32,
    mut schemas: Vec<FlowSchema>,
    mut levels: Vec<PriorityLevelConfiguration>,
) -> Plan {
    let (fixed_schemas, fixed_levels) = recorded();
    add_mandatory(&mut schemas, fixed_schemas, |schema| schema.metadata.name.as_deref());
    add_mandatory(&mut levels, fixed_levels, |level| level.metadata.name.as_deref());
    let levels = plan_levels(seats, levels);
    let mut plan = Plan { levels, ..Plan::default() };
    schemas.sort_by_key(|s| (precedence(s), s.metadata.name.clone()));
    for schema in schemas {
        let wanted = schema.spec.as_ref().map(|s| s.priority_level_configuration.name.as_str());
        match plan.levels.iter().position(|l| Some(l.name.as_str()) == wanted) {
            Some(level) => plan.schemas.push(SchemaPlan { schema, level }),
            None => plan.dangling.extend(schema.metadata.name),
        }
    }
    plan
}

fn add_mandatory<T>(objects: &mut Vec<T>, recorded: Vec<T>, name: impl Fn(&T) -> Option<&str>) {
    let mandatory = |object: &T| name(object).is_some_and(|name| MANDATORY.contains(&name));
    for object in recorded.into_iter().filter(mandatory) {
        if !objects.iter().any(|other| name(other) == name(&object)) {
            objects.push(object);
        }
    }
}

fn precedence(schema: &FlowSchema) -> i32 {
    schema.spec.as_ref().and_then(|spec| spec.matching_precedence).unwrap_or(1000)
}

fn plan_levels(seats: u32, mut levels: Vec<PriorityLevelConfiguration>) -> Vec<LevelPlan> {
    levels.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let read: Vec<_> = levels
        .into_iter()
        .filter_map(|level| {
            let (shares, shape) = read(level.spec.as_ref()?)?;
            Some((level.metadata, shares, shape))
        })
        .collect();
    let all: Vec<Shares> = read.iter().map(|(_, shares, _)| *shares).collect();
    let plan = |((metadata, shares, shape), bounds): ((_, _, Shape), Bounds)| {
        let metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta = metadata;
        let percent = (bounds.nominal * WIDEST_PERCENT).div_ceil(100);
        let by_hand = bounds.nominal / u32::try_from(shape.hand.max(1)).unwrap_or(1);
        LevelPlan {
            name: metadata.name.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            shares,
            shape,
            bounds,
            widest: percent.min(by_hand).max(1),
        }
    };
    read.into_iter().zip(bounds(seats, &all)).map(plan).collect()
}

fn read(spec: &PriorityLevelConfigurationSpec) -> Option<(Shares, Shape)> {
    let number =
        |n: Option<i32>, absent: u32| n.and_then(|n| u32::try_from(n).ok()).unwrap_or(absent);
    if spec.type_ == "Exempt" {
        let exempt = spec.exempt.as_ref();
        let shares = Shares {
            exempt: true,
            shares: number(exempt.and_then(|e| e.nominal_concurrency_shares), 0),
            lendable_percent: number(exempt.and_then(|e| e.lendable_percent), 0),
            borrowing_percent: None,
        };
        return Some((shares, Shape::default()));
    }
    let limited = spec.limited.as_ref()?;
    let shares = Shares {
        exempt: false,
        shares: number(limited.nominal_concurrency_shares, 30),
        lendable_percent: number(limited.lendable_percent, 0),
        borrowing_percent: limited.borrowing_limit_percent.and_then(|n| u32::try_from(n).ok()),
    };
    let response = limited.limit_response.as_ref().filter(|response| response.type_ == "Queue");
    let size = |n: Option<i32>, absent| n.and_then(|n| usize::try_from(n).ok()).unwrap_or(absent);
    let shape = match response {
        None => Shape::default(),
        Some(response) => {
            let queuing = response.queuing.as_ref();
            Shape {
                queues: size(queuing.and_then(|q| q.queues), 64).max(1),
                hand: size(queuing.and_then(|q| q.hand_size), 8).max(1),
                length: size(queuing.and_then(|q| q.queue_length_limit), 50),
            }
        }
    };
    Some((shares, shape))
}

/// The recorded schemas and levels of a fresh cluster.
pub fn recorded() -> (Vec<FlowSchema>, Vec<PriorityLevelConfiguration>) {
    fn of<T: DeserializeOwned>(kind: &str) -> Vec<T> {
        let objects = FIXED.iter().filter(|object| object["kind"] == kind);
        objects.filter_map(|object| serde_json::from_value(object.clone()).ok()).collect()
    }
    (of("FlowSchema"), of("PriorityLevelConfiguration"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_objects_are_all_understood() {
        let (schemas, levels) = recorded();
        assert_eq!((schemas.len(), levels.len()), (11, 8));
        let plan = digest(600, schemas, levels);
        assert_eq!((plan.schemas.len(), plan.levels.len()), (11, 8));
        assert!(plan.dangling.is_empty());
        let names: Vec<_> =
            plan.schemas.iter().map(|s| s.schema.metadata.name.as_deref().unwrap()).collect();
        assert_eq!(names[..3], ["exempt", "probes", "system-leader-election"]);
        let low = plan.levels.iter().find(|l| l.name == "workload-low").unwrap();
        assert_eq!((low.bounds.nominal, low.widest, low.shape.queues), (245, 37, 128));
        let last = plan.levels.iter().find(|l| l.name == "catch-all").unwrap();
        assert_eq!((last.widest, last.shape.queues), (2, 0));
    }

    #[test]
    fn what_is_mandatory_is_there_without_objects() {
        let plan = digest(600, Vec::new(), Vec::new());
        let names: Vec<_> = plan.levels.iter().map(|l| l.name.as_str()).collect();
        assert_eq!(names, ["catch-all", "exempt"]);
        assert_eq!(plan.schemas.len(), 2);
    }

    #[test]
    fn a_schema_without_its_level_dangles() {
        let (schemas, mut levels) = recorded();
        levels.retain(|l| l.metadata.name.as_deref() != Some("system"));
        assert_eq!(digest(600, schemas, levels).dangling, ["system-nodes"]);
    }
}
