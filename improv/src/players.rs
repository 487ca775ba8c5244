//! Every player there is: what `improv up` starts, and what each chart is made of.

use kit::chart::{Chart, Workload};

/// All players, in the order in which a cluster needs them.
pub(crate) static ALL: &[Chart] = &[
    Chart {
        player: &namespace_controller::PLAYER,
        description: "Empties namespaces that are being deleted",
        workload: Workload::Deployment,
    },
    Chart {
        player: &serviceaccount_controller::PLAYER,
        description: "Gives every namespace its default ServiceAccount and the cluster's root certificate",
        workload: Workload::Deployment,
    },
    Chart {
        player: &certificate_controller::PLAYER,
        description: "Approves and signs the certificates that nodes and users ask for",
        workload: Workload::Deployment,
    },
    Chart {
        player: &kube_scheduler::PLAYER,
        description: "Finds a node for each pod",
        workload: Workload::Deployment,
    },
    Chart {
        player: &replicaset_controller::PLAYER,
        description: "Keeps the wanted number of equal pods",
        workload: Workload::Deployment,
    },
    Chart {
        player: &deployment_controller::PLAYER,
        description: "Rolls out new versions of pods, and back",
        workload: Workload::Deployment,
    },
    Chart {
        player: &endpointslice_controller::PLAYER,
        description: "Lists the pods behind each Service",
        workload: Workload::Deployment,
    },
    Chart {
        player: &garbage_collector_controller::PLAYER,
        description: "Deletes what nobody owns any more",
        workload: Workload::Deployment,
    },
    Chart {
        player: &resource_quota_controller::PLAYER,
        description: "Counts what each namespace uses of its quotas",
        workload: Workload::Deployment,
    },
    Chart {
        player: &volume_protection_controller::PLAYER,
        description: "Keeps volumes and claims that are in use, and lets the others go",
        workload: Workload::Deployment,
    },
    Chart {
        player: &node_lifecycle_controller::PLAYER,
        description: "Watches the nodes' heartbeats, and moves pods off silent ones",
        workload: Workload::Deployment,
    },
    Chart {
        player: &node_ipam_controller::PLAYER,
        description: "Gives each node its part of the pods' addresses",
        workload: Workload::Deployment,
    },
    Chart {
        player: &bootstrap_token_controller::PLAYER,
        description: "Lets new nodes find and trust the cluster by their bootstrap token",
        workload: Workload::Deployment,
    },
    Chart {
        player: &kube_proxy::PLAYER,
        description: "Makes Services reachable on every node",
        workload: Workload::EveryNode(&["NET_ADMIN", "NET_RAW"]),
    },
    Chart {
        player: &kube_dns::PLAYER,
        description: "Gives Services and pods names",
        workload: Workload::Dns,
    },
];

/// The players that `--players` names: `all`, `none`, or names, comma-separated.
///
/// # Errors
/// Names the first one that does not exist, and all that do.
pub(crate) fn chosen(names: &str) -> anyhow::Result<Vec<&'static Chart>> {
    match names {
        "all" => return Ok(ALL.iter().collect()),
        "none" | "" => return Ok(Vec::new()),
        _ => (),
    }
    let find = |name: &str| {
        ALL.iter().find(|chart| chart.player.name == name).ok_or_else(|| {
            let known: Vec<&str> = ALL.iter().map(|chart| chart.player.name).collect();
            anyhow::anyhow!(
                "--players: there is no player {name:?}; there are {}, all and none",
                known.join(", ")
            )
        })
    };
    names.split(',').map(|name| find(name.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn players_are_chosen_by_name() {
        let names = |text| chosen(text).unwrap().iter().map(|e| e.player.name).collect::<Vec<_>>();
        assert_eq!(names("scheduler, replicaset"), ["scheduler", "replicaset"]);
        assert_eq!(names("all").len(), ALL.len());
        assert!(names("none").is_empty());
    }

    #[test]
    fn an_unknown_player_is_refused_with_the_known_ones() {
        let refusal = chosen("scheduler,drummer").err().unwrap().to_string();
        assert!(refusal.contains("\"drummer\"") && refusal.contains("replicaset"), "{refusal}");
    }
}
