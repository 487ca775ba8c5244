//! What is wrong with probes, and with hooks of a container's life.

use serde_json::{Value, json};

use crate::types::check::{At, Causes, items, text};

/// Actions in the order in which upstream looks at them.
const ACTIONS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

/// `lifecycle` of a container in a pod of this spec.
pub(super) fn lifecycle(causes: &mut Causes, at: &At<'_>, container: &Value, spec: &Value) {
    let lifecycle = &container["lifecycle"];
    let at = at.field("lifecycle");
    for hook in ["postStart", "preStop"].into_iter().filter(|h| !lifecycle[*h].is_null()) {
        action(causes, &at.field(hook), &lifecycle[hook], "grpc", spec);
    }
}

/// The three probes of a container.
pub(super) fn probes(causes: &mut Causes, at: &At<'_>, container: &Value, spec: &Value) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = &container[name];
        if probe.is_null() {
            continue;
        }
        let at = at.field(name);
        action(causes, &at, probe, "sleep", spec);
        for field in [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ] {
            causes.not_negative(&at.field(field), &probe[field]);
        }
        let grace_at = at.field("terminationGracePeriodSeconds");
        let grace = &probe["terminationGracePeriodSeconds"];
        causes.positive(&grace_at, grace);
        if name == "readinessProbe" {
            if !grace.is_null() {
                causes.invalid(&grace_at, grace, "must not be set for readinessProbes");
            }
        } else if probe["successThreshold"].as_i64().is_some_and(|n| n != 1) {
            causes.invalid(&at.field("successThreshold"), &probe["successThreshold"], "must be 1");
        }
    }
}

/// One action of a probe or hook; `not` is the kind that it cannot have.
fn action(causes: &mut Causes, at: &At<'_>, handler: &Value, not: &str, spec: &Value) {
    let mut given = false;
    for kind in ACTIONS.into_iter().filter(|kind| *kind != not) {
        let action = &handler[kind];
        if action.is_null() {
            continue;
        }
        let at = at.field(kind);
        if given {
            causes.forbidden(&at, "may not specify more than 1 handler type");
            continue;
        }
        given = true;
        match kind {
            "exec" => {
                causes.present(&at.field("command"), &action["command"], "");
            }
            "httpGet" => http_get(causes, &at, action),
            "tcpSocket" => port(causes, &at.field("port"), &action["port"]),
            "grpc" => port(causes, &at.field("port"), &action["port"]),
            _ => sleep(causes, &at, action, spec),
        }
    }
    if !given {
        causes.required(at, "must specify a handler type");
    }
}

fn sleep(causes: &mut Causes, at: &At<'_>, action: &Value, spec: &Value) {
    let Some(grace) = spec["terminationGracePeriodSeconds"].as_i64() else { return };
    let seconds = action["seconds"].as_i64().unwrap_or_default();
    if !(0..=grace).contains(&seconds) {
        let why =
            format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        causes.invalid(at, &seconds.into(), &why);
    }
}

fn http_get(causes: &mut Causes, at: &At<'_>, action: &Value) {
    causes.present(&at.field("path"), &action["path"], "");
    port(causes, &at.field("port"), &action["port"]);
    causes.one_of(&at.field("scheme"), &action["scheme"], &["HTTP", "HTTPS"]);
    for header in items(&action["httpHeaders"]) {
        let name = text(header, "name");
        let token = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if name.is_empty() || !name.bytes().all(token) {
            let detail = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
            causes.invalid(&at.field("httpHeaders"), &name.into(), detail);
        }
    }
}

fn port(causes: &mut Causes, at: &At<'_>, port: &Value) {
    let absent = json!(0);
    causes.port_or_name(at, if port.is_null() { &absent } else { port });
}
