//! Rights, as data: the same list makes the built-in player's role and its chart's.

use k8s_openapi::api::rbac::v1::PolicyRule;

use crate::Player;

/// Reading that a reflector needs.
pub const READ: &[&str] = &["get", "list", "watch"];

/// `verbs` on `resources` (subresources as `pods/status`) of one API group (`""` is core).
#[must_use]
pub fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(owned(resources)),
        verbs: owned(verbs),
        ..PolicyRule::default()
    }
}

/// What every player needs: its Lease, its Component, and to publish events.
#[must_use]
pub fn base(player: &Player) -> Vec<PolicyRule> {
    let named = |mut rule: PolicyRule| {
        rule.resource_names = Some(vec![player.name.to_owned()]);
        rule
    };
    let mut rules = vec![rule("events.k8s.io", &["events"], &["create", "patch"])];
    let component = ["components", "components/status"];
    if player.elected {
        // Creation cannot be restricted by name, and neither can writes of names that end in a node's.
        rules.push(rule("coordination.k8s.io", &["leases"], &["create"]));
        rules.push(named(rule(
            "coordination.k8s.io",
            &["leases"],
            &["get", "list", "watch", "update"],
        )));
        rules.push(named(rule("improv.dev", &component, &["get", "patch"])));
    } else {
        rules.push(rule("improv.dev", &component, &["get", "patch"]));
    }
    rules.push(rule("improv.dev", &["components"], &["create"]));
    rules
}
