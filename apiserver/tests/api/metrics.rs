//! `/metrics`: well-formed, and with the names that dashboards look for.

use std::collections::BTreeMap;

use apiserver::User;
use apiserver::testing::TestServer;
use axum::body::Body;
use http::{Method, Request};
use serde_json::json;
use tower::ServiceExt as _;

async fn send(server: &TestServer, method: Method, path: &str, body: impl Into<Body>) -> String {
    send_as(server, User::new("system:admin", &["system:masters"]), method, path, body).await
}

async fn send_as(
    server: &TestServer,
    user: User,
    method: Method,
    path: &str,
    body: impl Into<Body>,
) -> String {
    let request = Request::builder().method(method).uri(path);
    let mut request = request.header("content-type", "application/json").body(body.into()).unwrap();
    request.extensions_mut().insert(user);
    let response = server.server().router().oneshot(request).await.unwrap();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

/// A sample: its labels and its value.
type Sample = (BTreeMap<String, String>, f64);

/// Reads the text as a scraper does; panics at what a scraper would refuse.
fn parse(text: &str) -> BTreeMap<String, Vec<Sample>> {
    assert!(!text.contains("# EOF"), "OpenMetrics");
    let (mut samples, mut types) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(types.insert(name, kind).is_none(), "two families {name}");
        } else if !line.starts_with('#') {
            let (name, sample) = read(line);
            let suffixes = ["_total", "_bucket", "_sum", "_count"];
            let family = suffixes.iter().find_map(|end| name.strip_suffix(end));
            let known = types.contains_key(name) || family.is_some_and(|f| types.contains_key(f));
            assert!(known, "no type: {line}");
            samples.entry(name.to_owned()).or_insert_with(Vec::new).push(sample);
        }
    }
    samples
}

fn read(line: &str) -> (&str, Sample) {
    let (head, value) = line.rsplit_once(' ').unwrap();
    let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
    let Some((name, labels)) = head.split_once('{') else {
        return (head, (BTreeMap::new(), value));
    };
    let labels = labels.strip_suffix('}').unwrap();
    let pairs = labels.split("\",").map(|pair| {
        let (key, value) = pair.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
        (key.to_owned(), value.trim_end_matches('"').to_owned())
    });
    (name, (pairs.collect(), value))
}

#[tokio::test]
async fn the_text_is_what_scrapers_and_dashboards_expect() {
    let server = TestServer::start().await.unwrap();
    let maps = "/api/v1/namespaces/default/configmaps";
    let object = json!({ "metadata": { "name": "a" } }).to_string();
    send(&server, Method::POST, maps, object).await;
    send(&server, Method::GET, &format!("{maps}/a"), "").await;
    send(
        &server,
        Method::GET,
        &format!("{maps}?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3Da"),
        "",
    )
    .await;
    send(&server, Method::DELETE, &format!("{maps}/a"), "").await;
    // Only requests of levels with queues are served in virtual time.
    send_as(&server, User::new("jane", &[]), Method::GET, "/version", "").await;
    let samples = parse(&send(&server, Method::GET, "/metrics", "").await);
    for name in [
        "apiserver_request_total",
        "apiserver_request_duration_seconds_bucket",
        "apiserver_current_inflight_requests",
        "apiserver_resource_objects",
        "apiserver_storage_objects",
        "apiserver_watch_events_total",
        "etcd_request_duration_seconds_count",
        "apiserver_flowcontrol_current_limit_seats",
        "apiserver_flowcontrol_nominal_limit_seats",
        "apiserver_flowcontrol_dispatched_requests_total",
        "apiserver_flowcontrol_rejected_requests_total",
        "apiserver_flowcontrol_current_inqueue_requests",
        "apiserver_flowcontrol_current_executing_requests",
        "apiserver_flowcontrol_current_executing_seats",
        "apiserver_flowcontrol_current_r",
        "apiserver_flowcontrol_dispatch_r",
        "apiserver_flowcontrol_latest_s",
        "apiserver_flowcontrol_next_s_bounds",
        "apiserver_flowcontrol_next_discounted_s_bounds",
        "apiserver_flowcontrol_request_queue_length_after_enqueue_bucket",
        "apiserver_flowcontrol_request_dispatch_no_accommodation_total",
        "apiserver_flowcontrol_request_wait_duration_seconds_bucket",
        "apiserver_flowcontrol_request_execution_seconds_bucket",
        "apiserver_audit_event_total",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_start_time_seconds",
        "process_open_fds",
        "kubernetes_build_info",
    ] {
        assert!(samples.contains_key(name), "{name} is missing");
    }
    let value = |name: &str, wanted: &[(&str, &str)]| {
        let fits = |labels: &BTreeMap<String, String>| {
            wanted.iter().all(|(key, value)| labels.get(*key).is_some_and(|v| v == value))
        };
        samples[name].iter().filter(|(labels, _)| fits(labels)).map(|(_, value)| value).sum::<f64>()
    };
    let get = [("verb", "GET"), ("resource", "configmaps"), ("code", "200")];
    assert_eq!(value("apiserver_request_total", &get), 1.0);
    assert_eq!(value("apiserver_watch_events_total", &[("resource", "configmaps")]), 1.0);
    assert_eq!(value("apiserver_resource_objects", &[("resource", "flowschemas")]), 11.0);
    assert_eq!(value("etcd_request_duration_seconds_count", &[("operation", "delete")]), 1.0);
    assert_eq!(value("apiserver_current_inflight_requests", &[("request_kind", "mutating")]), 0.0);
    // Each change is one sample.
    assert!(value("apiserver_flowcontrol_watch_count_samples_count", &[]) >= 2.0);
    let spent = |name: &str, labels: &[(&str, &str)]| {
        let [count, sum] = ["count", "sum"]
            .map(|what| value(&format!("apiserver_flowcontrol_{name}_{what}"), labels));
        (count > 0.0, sum > 0.0)
    };
    let (exempt, idle) = (("priority_level", "exempt"), ("priority_level", "catch-all"));
    let (running, waiting) = (("phase", "executing"), ("phase", "waiting"));
    assert_eq!(spent("priority_level_seat_utilization", &[exempt, running]), (true, true));
    assert_eq!(spent("priority_level_seat_utilization", &[idle, running]), (true, false));
    assert_eq!(spent("priority_level_request_utilization", &[exempt, running]), (true, true));
    assert_eq!(spent("priority_level_request_utilization", &[exempt, waiting]), (true, false));
    assert_eq!(spent("demand_seats", &[exempt]), (true, true));
    let mix = "read_vs_write_current_requests";
    assert_eq!(spent(mix, &[running, ("request_kind", "mutating")]), (true, true));
    assert_eq!(spent(mix, &[waiting, ("request_kind", "readOnly")]), (true, false));
    let exempt = [("priority_level", "exempt"), ("flow_schema", "exempt")];
    assert!(value("apiserver_flowcontrol_dispatched_requests_total", &exempt) >= 4.0);
}

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1";

/// A policy that warns and refuses, and two webhooks that nobody answers: one of them must.
async fn forbid(server: &TestServer) {
    let rules = json!([{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
        "operations": ["CREATE"]}]);
    let policy = json!({"metadata": {"name": "no"}, "spec": {"failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": rules},
        "validations": [{"expression": "object.metadata.name != 'no'"}]}});
    let binding = json!({"metadata": {"name": "no"},
        "spec": {"policyName": "no", "validationActions": ["Deny", "Audit"]}});
    let hook = |name: &str, failure: &str, only: &str| {
        json!({"name": name, "failurePolicy": failure, "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://127.0.0.1:1/"}, "rules": rules, "timeoutSeconds": 1,
            "matchConditions": [{"name": "n", "expression": format!("object.metadata.name == '{only}'")}]})
    };
    let hooks = json!({"metadata": {"name": "h"}, "webhooks":
        [hook("open.example.com", "Ignore", "yes"), hook("closed.example.com", "Fail", "closed")]});
    for (kind, object) in [
        ("validatingadmissionpolicies", policy),
        ("validatingadmissionpolicybindings", binding),
        ("validatingwebhookconfigurations", hooks),
    ] {
        let made =
            send(server, Method::POST, &format!("{POLICIES}/{kind}"), object.to_string()).await;
        assert!(made.contains("uid"), "{made}");
    }
}

#[tokio::test]
async fn admission_is_measured() {
    let server = TestServer::start().await.unwrap();
    forbid(&server).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    for name in ["yes", "no", "closed"] {
        let object = json!({ "metadata": { "name": name } }).to_string();
        send(&server, Method::POST, maps, object).await;
    }
    let labels = json!({"metadata": {"name": "strict",
        "labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    send(&server, Method::POST, "/api/v1/namespaces", labels.to_string()).await;
    let account = json!({"metadata": {"name": "default"}}).to_string();
    send(&server, Method::POST, "/api/v1/namespaces/strict/serviceaccounts", account).await;
    let pod = json!({"metadata": {"name": "p"},
        "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "i"}]}});
    let pods = "/api/v1/namespaces/strict/pods";
    let refused = send(&server, Method::POST, pods, pod.to_string()).await;
    assert!(refused.contains("violates PodSecurity"), "{refused}");
    let text = send(&server, Method::GET, "/metrics", "").await;
    for line in [
        r#"apiserver_admission_controller_admission_duration_seconds_count{name="PodSecurity",type="validate",operation="CREATE",rejected="true"} 1"#,
        r#"apiserver_admission_step_admission_duration_seconds_count{type="validate",operation="CREATE",rejected="true"} "#,
        r#"apiserver_admission_webhook_admission_duration_seconds_count{name="closed.example.com",type="validating",operation="CREATE",rejected="true"} 1"#,
        r#"apiserver_admission_webhook_request_total{name="open.example.com",type="validating",operation="CREATE",code="503",rejected="false"} 1"#,
        r#"apiserver_admission_webhook_rejection_count{name="closed.example.com",type="validating",operation="CREATE",error_type="calling_webhook_error",rejection_code="503"} 1"#,
        r#"apiserver_admission_webhook_fail_open_count{name="open.example.com",type="validating"} 1"#,
        r#"apiserver_validating_admission_policy_check_total{policy="no",policy_binding="no",error_type="no_error",enforcement_action="deny"} 1"#,
        r#"apiserver_validating_admission_policy_check_duration_seconds_count{policy="no",policy_binding="no",error_type="no_error",enforcement_action="audit"} 1"#,
        r#"pod_security_evaluations_total{decision="deny",policy_level="baseline",policy_version="latest",mode="enforce",request_operation="create",resource="pod",subresource="",ocp_namespace=""} 1"#,
        r#"authorization_attempts_total{result="allowed"} "#,
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    parse(&text);
}

#[tokio::test]
async fn buckets_only_grow() {
    let server = TestServer::start().await.unwrap();
    let samples = parse(&send(&server, Method::GET, "/metrics", "").await);
    for (name, samples) in samples.iter().filter(|(name, _)| name.ends_with("_bucket")) {
        let mut last: Option<&Sample> = None;
        for sample in samples {
            let rest = |s: &Sample| {
                let mut labels = s.0.clone();
                labels.remove("le");
                labels
            };
            if let Some(before) = last.filter(|before| rest(before) == rest(sample)) {
                assert!(before.1 <= sample.1, "{name}: {before:?} {sample:?}");
            }
            last = Some(sample);
        }
    }
}
