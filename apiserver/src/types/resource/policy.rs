//! How much of a capacity a request may take, where a device can be shared.

use serde_json::Value;

use crate::types::check::{At, Causes, is_empty, items, nano, shown};

/// Most amounts to choose from.
const VALUES: usize = 10;

/// Faults of the policy of a capacity, of which a device has `capacity`.
pub(super) fn policy(causes: &mut Causes, at: &At<'_>, policy: &Value, capacity: &Value) {
    let (values, range, default) =
        (&policy["validValues"], &policy["validRange"], &policy["default"]);
    let field = match (is_empty(values), range.is_null()) {
        (true, true) => return,
        (false, false) => {
            let detail = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
            return causes.forbidden(at, detail);
        }
        (false, true) => "validValues",
        (true, false) => "validRange",
    };
    if default.is_null() {
        causes.required(&at.field("default"), &format!("required when {field} is defined"));
    } else if range.is_null() {
        chosen(causes, &at.field(field), values, default, capacity);
    } else {
        ranged(causes, &at.field(field), range, default, capacity);
    }
}

/// Amounts to choose from, in order; the default is one of them.
fn chosen(causes: &mut Causes, at: &At<'_>, values: &Value, default: &Value, capacity: &Value) {
    let list = items(values);
    for (n, pair) in list.windows(2).enumerate() {
        if nano(&pair[0]) > nano(&pair[1]) {
            let detail = "values must be sorted in ascending order";
            causes.invalid(&at.index(n + 1), &shown(&pair[1]), detail);
        }
    }
    // Too many are not looked at.
    let list = if super::request::fits(causes, at, values, VALUES) { list } else { &[] };
    for (n, value) in list.iter().enumerate() {
        above(causes, &at.index(n), value, "option", capacity);
        if list[..n].iter().any(|before| nano(before) == nano(value)) {
            causes.duplicate(&at.index(n), &shown(value));
        }
    }
    if !list.iter().any(|value| nano(value) == nano(default)) {
        let detail = "default value is not valid according to the requestPolicy";
        causes.invalid(at, &shown(default), detail);
    }
}

fn ranged(causes: &mut Causes, at: &At<'_>, range: &Value, default: &Value, capacity: &Value) {
    let (min, max, step) = (&range["min"], &range["max"], &range["step"]);
    let min_at = at.field("min");
    if min.is_null() {
        return causes.required(&min_at, "required when validRange is defined");
    }
    above(causes, &min_at, min, "min", capacity);
    if nano(default) < nano(min) {
        let detail = format!("default is less than min: {}", text(min));
        causes.invalid(&min_at, &shown(default), &detail);
    }
    if !max.is_null() {
        let at = at.field("max");
        if nano(min) > nano(max) {
            causes.invalid(&at, &shown(min), &format!("min is larger than max: {}", text(max)));
        }
        above(causes, &at, max, "max", capacity);
        if nano(default) > nano(max) {
            let detail = format!("default is more than max: {}", text(max));
            causes.invalid(&at, &shown(default), &detail);
        }
    }
    if !step.is_null() {
        let at = at.field("step");
        for value in [default, max].into_iter().filter(|value| !value.is_null()) {
            let step_size = nano(step);
            if step_size != 0 && (nano(value) - nano(min)) % step_size != 0 {
                let detail = format!(
                    "value is not a multiple of a given step ({}) from ({})",
                    text(step),
                    text(min)
                );
                causes.invalid(&at, &shown(value), &detail);
            }
        }
    }
}

fn above(causes: &mut Causes, at: &At<'_>, value: &Value, what: &str, capacity: &Value) {
    if nano(value) > nano(capacity) {
        let detail = format!("{what} is larger than capacity value: {}", text(capacity));
        causes.invalid(at, &shown(value), &detail);
    }
}

fn text(quantity: &Value) -> String {
    shown(quantity).as_str().unwrap_or_default().to_owned()
}
