//! Daemon sets.

use schema::Cause;
use serde_json::{Value, json};

use super::template::{self, DAEMON_SETS};
use super::{collisions, is_none, not_negative};
use crate::status::ApiError;
use crate::types::check::{At, Causes, default, ensure, part, text};
use crate::types::{Ctx, Strategy, pod};

/// Strategy of `daemonsets`.
pub(in crate::types) struct DaemonSets;

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

impl Strategy for DaemonSets {
    fn hidden(&self) -> &'static [&'static str] {
        &[TEMPLATE_GENERATION]
    }

    fn default(&self, obj: &mut Value) {
        if obj["metadata"]["annotations"][TEMPLATE_GENERATION].is_null() {
            ensure(&mut obj["metadata"], "annotations")
                .insert(TEMPLATE_GENERATION.to_owned(), "0".into());
        }
        let Some(spec) = part(obj, "spec") else { return };
        if text(&spec["updateStrategy"], "type") == "RollingUpdate" {
            default(&mut spec["updateStrategy"], "rollingUpdate", json!({}));
            default(&mut spec["updateStrategy"]["rollingUpdate"], "maxUnavailable", 1);
            default(&mut spec["updateStrategy"]["rollingUpdate"], "maxSurge", 0);
        }
        pod::template_default(spec);
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        ensure(&mut obj["metadata"], "annotations")
            .insert(TEMPLATE_GENERATION.to_owned(), "1".into());
        Ok(())
    }

    fn prepare_update(
        &self,
        _ctx: &Ctx<'_>,
        obj: &mut Value,
        old: &Value,
        _subresource: Option<&str>,
    ) -> Result<(), ApiError> {
        let before = old["metadata"]["annotations"][TEMPLATE_GENERATION]
            .as_str()
            .and_then(|n| n.parse().ok());
        let before: i64 = before.unwrap_or_default();
        let changed = obj["spec"]["template"] != old["spec"]["template"];
        let now = (before + i64::from(changed)).to_string();
        ensure(&mut obj["metadata"], "annotations")
            .insert(TEMPLATE_GENERATION.to_owned(), now.into());
        Ok(())
    }

    fn validate(&self, obj: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
        let mut causes = Causes::default();
        let at = At::new("spec");
        if subresource == Some("status") {
            let at = At::new("status");
            let counted = [
                "currentNumberScheduled",
                "numberMisscheduled",
                "desiredNumberScheduled",
                "numberReady",
                "updatedNumberScheduled",
                "numberAvailable",
                "numberUnavailable",
                "observedGeneration",
                "collisionCount",
            ];
            not_negative(&mut causes, &at, &obj["status"], &counted);
            if let Some(old) = old {
                collisions(&mut causes, &obj["status"], &old["status"]);
            }
            return causes.0;
        }
        let spec = &obj["spec"];
        not_negative(&mut causes, &at, spec, &["minReadySeconds", "revisionHistoryLimit"]);
        selected(&mut causes, spec, old);
        rollout(&mut causes, &at.field("updateStrategy"), &spec["updateStrategy"]);
        causes.0
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some_and(|old| old["spec"]["template"] == obj["spec"]["template"]) {
            return Vec::new();
        }
        pod::template_warnings(obj, old, "spec.template")
    }

    fn counts_generation(&self) -> bool {
        true
    }
}

/// Selector and template. Pods are judged even if the selector is not fit to select.
fn selected(causes: &mut Causes, spec: &Value, old: Option<&Value>) {
    let at = At::new("spec");
    let can_select = spec["selector"].is_null() || template::selector(causes, spec, &DAEMON_SETS);
    if let Some(old) = old {
        causes.immutable(&at.field("selector"), &spec["selector"], &old["spec"]["selector"]);
    }
    let at = at.field("template");
    if can_select {
        template::fits(causes, &at, spec);
    }
    pod::template(causes, &at, &spec["template"]);
    template::restarted(causes, &at, &spec["template"], &DAEMON_SETS);
}

fn rollout(causes: &mut Causes, update_at: &At<'_>, update: &Value) {
    match text(update, "type") {
        "OnDelete" => (),
        "RollingUpdate" => {
            let at = update_at.field("rollingUpdate");
            let (most, surge) =
                (&update["rollingUpdate"]["maxUnavailable"], &update["rollingUpdate"]["maxSurge"]);
            causes.count_or_percent(&at.field("maxUnavailable"), most);
            causes.count_or_percent(&at.field("maxSurge"), surge);
            causes.at_most_all(&at.field("maxUnavailable"), most);
            causes.at_most_all(&at.field("maxSurge"), surge);
            match (is_none(most), is_none(surge)) {
                (true, true) => {
                    causes.required(&at.field("maxUnavailable"), "cannot be 0 when maxSurge is 0")
                }
                (false, false) => causes.invalid(
                    &at.field("maxSurge"),
                    surge,
                    "may not be set when maxUnavailable is non-zero",
                ),
                _ => (),
            }
        }
        _ => {
            let supported = ["RollingUpdate", "OnDelete"];
            causes.not_supported_part(update_at, super::STRATEGY, update, &supported);
        }
    }
}
