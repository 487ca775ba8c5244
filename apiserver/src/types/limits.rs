//! Limit ranges: what is wrong with them. What they do to others is an admission plugin.

use schema::Cause;
use serde_json::Value;

use super::Strategy;
use super::check::{At, Causes, ensure, items, items_mut, members, nano, part, shown, text};

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

    fn validate(
        &self,
        obj: &Value,
        _old: Option<&Value>,
        _subresource: Option<&str>,
    ) -> Vec<Cause> {
        let mut causes = Causes::default();
        let at = At::new("spec");
        let at = at.field("limits");
        for (n, limit) in items(&obj["spec"]["limits"]).iter().enumerate() {
            let at = at.index(n);
            if text(limit, "type") == "Pod" {
                for field in ["default", "defaultRequest"] {
                    if !limit[field].is_null() {
                        causes.forbidden(
                            &at.field(field),
                            "may not be specified when `type` is 'Pod'",
                        );
                    }
                }
            }
            for (name, min) in members(&limit["min"]) {
                let max = &limit["max"][name];
                if !max.is_null() && nano(min) > nano(max) {
                    let fault = format!(
                        "min value {} is greater than max value {}",
                        plain(min),
                        plain(max)
                    );
                    causes.invalid(&at.field("min").key(name), &shown(min), &fault);
                }
            }
        }
        causes.0
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
