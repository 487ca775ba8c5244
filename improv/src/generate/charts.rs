//! The charts of all players, and the umbrella chart.

use std::path::Path;

use super::{Files, to_yaml};
use anyhow::Context;
use kit::chart::Chart;

use crate::players;

/// The files of all charts. `crds` is every CRD by file name; a chart brings those that its player needs.
pub(super) fn files(crds: &[(String, String)]) -> anyhow::Result<Files> {
    let mut files = Files::new();
    for chart in players::ALL {
        let folder = Path::new("charts").join(chart.player.name);
        let own = needed(chart, crds)?;
        files.extend(chart.files(&own)?.into_iter().map(|(path, text)| (folder.join(path), text)));
    }
    files.insert("charts/improv/Chart.yaml".into(), umbrella()?);
    files.insert("charts/improv/values.yaml".into(), umbrella_values()?);
    Ok(files)
}

fn needed(chart: &Chart, crds: &[(String, String)]) -> anyhow::Result<Vec<(String, String)>> {
    let find = |name: &&str| {
        let crd = crds.iter().find(|(file, _)| file == name).cloned();
        crd.with_context(|| {
            format!("{} needs crds/{name}, which is not generated", chart.player.name)
        })
    };
    chart.player.crds.iter().map(find).collect()
}

/// A chart that installs all players; each can be left out by `<chart>.enabled=false`.
fn umbrella() -> anyhow::Result<String> {
    let version = env!("CARGO_PKG_VERSION");
    let dependencies: Vec<serde_json::Value> = players::ALL
        .iter()
        .map(|chart| {
            serde_json::json!({
                "name": chart.player.name,
                "version": chart.player.version,
                "repository": format!("file://../{}", chart.player.name),
                "condition": format!("{}.enabled", chart.player.name),
            })
        })
        .collect();
    Ok(to_yaml(&serde_json::json!({
        "apiVersion": "v2",
        "name": "improv",
        "description": "All players of Improv. Run `helm dependency build charts/improv` before the first install",
        "type": "application",
        "version": version,
        "appVersion": version,
        "dependencies": dependencies,
    }))?)
}

fn umbrella_values() -> anyhow::Result<String> {
    let enabled =
        |chart: &Chart| (chart.player.name.to_owned(), serde_json::json!({"enabled": true}));
    let values: serde_json::Map<_, _> = players::ALL.iter().map(enabled).collect();
    Ok(format!(
        "# Which players to install; all other values go to the player's own chart.\n{}",
        to_yaml(&values)?
    ))
}
