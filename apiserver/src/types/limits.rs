//! Limit ranges: what is wrong with them. What they do to others is an admission plugin.

use std::collections::{BTreeSet, HashSet};

use schema::Cause;
use serde_json::Value;

use super::check::{
    At, Causes, ensure, is_empty, items, items_mut, members, nano, part, shown, text,
};
use super::pod::{container_name, known_name, may_be_overcommitted};
use super::{Ctx, Strategy, words};
use crate::status::ApiError;

/// Strategy of `limitranges`.
pub(crate) struct LimitRanges;

impl Strategy for LimitRanges {
    fn creates_on_update(&self) -> bool {
        true
    }

    fn default(&self, obj: &mut Value) {
        for limit in part(obj, "spec").into_iter().flat_map(|spec| items_mut(spec, "limits")) {
            if text(limit, "type") != "Container" {
                continue;
            }
            fill(limit, "default", "max");
            fill(limit, "defaultRequest", "default");
            fill(limit, "defaultRequest", "min");
        }
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) -> Result<(), ApiError> {
        // Upstream names those that have no name, and no others.
        if text(&obj["metadata"], "name").is_empty() {
            obj["metadata"]["name"] = uuid::Uuid::new_v4().to_string().into();
        }
        Ok(())
    }

    fn validate(
        &self,
        obj: &Value,
        _old: Option<&Value>,
        _subresource: Option<&str>,
    ) -> Vec<Cause> {
        let mut causes = Causes::default();
        let at = At::new("spec");
        let at = at.field("limits");
        let mut seen = HashSet::new();
        for (n, limit) in items(&obj["spec"]["limits"]).iter().enumerate() {
            let at = at.index(n);
            let kind = text(limit, "type");
            kind_name(&mut causes, &at.field("type"), kind);
            if !seen.insert(kind) {
                causes.duplicate(&at.field("type"), &kind.into());
            }
            names(&mut causes, &at, limit, kind);
            for name in resources(limit, kind) {
                amounts(&mut causes, &at, limit, name);
                ratio(&mut causes, &at, limit, name);
            }
        }
        causes.0
    }
}

/// What is limited: containers, pods, claims, or something of others.
fn kind_name(causes: &mut Causes, at: &At<'_>, kind: &str) {
    let faults = words::qualified(kind);
    if faults.is_empty()
        && !kind.contains('/')
        && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim")
    {
        let detail = "must be a standard limit type or fully qualified";
        causes.invalid(at, &kind.into(), detail);
    }
    causes.faults(at, kind, faults);
}

/// Fields that a limit of this type may have.
fn fields(kind: &str) -> &'static [&'static str] {
    const ALL: [&str; 5] = ["max", "min", "maxLimitRequestRatio", "default", "defaultRequest"];
    if kind == "Pod" { &ALL[..3] } else { &ALL }
}

fn names(causes: &mut Causes, at: &At<'_>, limit: &Value, kind: &str) {
    for field in ["default", "defaultRequest"] {
        if kind == "Pod" && !is_empty(&limit[field]) {
            causes.forbidden(&at.field(field), "may not be specified when `type` is 'Pod'");
        }
    }
    for field in fields(kind) {
        for (name, _) in members(&limit[*field]) {
            let at = at.field(field);
            match kind {
                "Pod" | "Container" => container_name(causes, &at.key(name), name),
                _ => _ = known_name(causes, &at.key(name), name),
            }
        }
    }
    let has = |field: &str| !limit[field]["storage"].is_null();
    if kind == "PersistentVolumeClaim" && !has("min") && !has("max") {
        let detail =
            "either minimum or maximum storage value is required, but neither was provided";
        causes.required(&at.field("limits"), detail);
    }
}

/// Names of all resources of a limit.
fn resources<'v>(limit: &'v Value, kind: &str) -> BTreeSet<&'v str> {
    let maps = fields(kind).iter().map(|field| &limit[*field]);
    maps.flat_map(members).map(|(name, _)| name.as_str()).collect()
}

/// The order that the amounts of one resource must have.
fn amounts(causes: &mut Causes, at: &At<'_>, limit: &Value, name: &str) {
    const WORDS: [(&str, &str); 4] = [
        ("min", "min value"),
        ("defaultRequest", "default request value"),
        ("default", "default limit value"),
        ("max", "max value"),
    ];
    // The lesser, the greater, and the one of both that is blamed and shown.
    const ORDER: [(usize, usize, usize, usize); 6] =
        [(0, 3, 0, 0), (0, 1, 1, 1), (1, 3, 1, 1), (1, 2, 1, 1), (0, 2, 2, 0), (2, 3, 2, 3)];
    let pod = text(limit, "type") == "Pod";
    let amount = |n: usize| &limit[WORDS[n].0][name];
    for (lesser, greater, blamed, shows) in ORDER {
        let default = |n: usize| n == 1 || n == 2;
        let (low, high) = (amount(lesser), amount(greater));
        let skipped = pod && (default(lesser) || default(greater));
        if skipped || low.is_null() || high.is_null() || nano(low) <= nano(high) {
            continue;
        }
        // Only against a request is the default called a limit.
        let word = |n: usize| if n == 2 && lesser != 1 { "default value" } else { WORDS[n].1 };
        let (low, high) = (plain(low), plain(high));
        let detail = format!("{} {low} is greater than {} {high}", word(lesser), word(greater));
        let at = at.field(WORDS[blamed].0);
        causes.invalid(&at.key(name), &shown(amount(shows)), &detail);
    }
    let (request, default) = (amount(1), amount(2));
    let fixed = !pod && !may_be_overcommitted(name) && !request.is_null() && !default.is_null();
    if fixed && nano(request) != nano(default) {
        let (request_text, default) = (plain(request), plain(default));
        let detail = format!(
            "default value {default} must equal to defaultRequest value {request_text} in {name}"
        );
        let at = at.field("defaultRequest");
        causes.invalid(&at.key(name), &shown(request), &detail);
    }
}

/// How much more than it asks for a container may use.
fn ratio(causes: &mut Causes, at: &At<'_>, limit: &Value, name: &str) {
    const ONE: i128 = 1_000_000_000;
    let most = &limit["maxLimitRequestRatio"][name];
    if most.is_null() {
        return;
    }
    let at = at.field("maxLimitRequestRatio");
    let at = at.key(name);
    if nano(most) < ONE {
        let detail = format!("ratio {} is less than 1", plain(most));
        causes.invalid(&at, &shown(most), &detail);
    }
    let (min, max) = (&limit["min"][name], &limit["max"][name]);
    if min.is_null() || max.is_null() {
        return;
    }
    #[expect(clippy::cast_precision_loss, reason = "upstream divides floats, too")]
    let (most_ratio, ratio) = (nano(most) as f64 / ONE as f64, nano(max) as f64 / nano(min) as f64);
    if most_ratio > ratio {
        let detail = format!("ratio {} is greater than max/min = {ratio:.6}", plain(most));
        causes.invalid(&at, &shown(most), &detail);
    }
}

fn fill(limit: &mut Value, field: &str, from: &str) {
    let source: Vec<(String, Value)> =
        members(&limit[from]).map(|(k, v)| (k.clone(), v.clone())).collect();
    for (name, value) in source {
        ensure(limit, field).entry(name).or_insert(value);
    }
}

fn plain(quantity: &Value) -> String {
    shown(quantity).as_str().unwrap_or_default().to_owned()
}
