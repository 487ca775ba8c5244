//! What holds of any sequence of writes: nobody loses what is his.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::tests::{apply_map, apps, config, deployment, maps, owners, writer};
use super::*;

fn data() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map("[a-e]", "[0-2]", 0..5).prop_map(|map| json!(map))
}

/// A pod spec with some containers, each with some ports.
fn containers() -> impl Strategy<Value = Value> {
    let ports = proptest::collection::btree_map(1..4u16, "[a-c]", 0..3).prop_map(|ports| {
        ports
            .into_iter()
            .map(|(port, name)| json!({"containerPort": port, "name": name}))
            .collect::<Vec<_>>()
    });
    proptest::collection::btree_map("[a-c]", ("[x-z]", ports), 1..4).prop_map(|map| {
        let list: Vec<Value> = map
            .into_iter()
            .map(|(name, (image, ports))| json!({"name": name, "image": image, "ports": ports}))
            .collect();
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": list}})
    })
}

/// Every value of `config` is in `object`; lists of objects are found by their first field.
fn contains(object: &Value, config: &Value) -> bool {
    match (object, config) {
        (Value::Object(object), Value::Object(config)) => config
            .iter()
            .all(|(name, value)| object.get(name).is_some_and(|found| contains(found, value))),
        (Value::Array(object), Value::Array(config)) => {
            config.iter().all(|value| object.iter().any(|found| contains(found, value)))
        }
        _ => object == config,
    }
}

proptest! {
    #[test]
    fn apply_is_idempotent(first in data(), second in data()) {
        let live = apply_map(None, "alpha", first);
        let once = maps().apply(Some(&live), &config(second.clone()), &writer("beta"), true, &[]).unwrap();
        let twice = maps().apply(Some(&once), &config(second), &writer("beta"), false, &[]).unwrap();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn apply_of_lists_is_idempotent_and_complete(first in containers(), second in containers()) {
        let pods = Schema::for_gvk("", "v1", "Pod").unwrap();
        let live = pods.apply(None, &first, &writer("alpha"), false, &["status"]).unwrap();
        let once = pods.apply(Some(&live), &second, &writer("beta"), true, &["status"]).unwrap();
        prop_assert!(contains(&once["spec"], &second["spec"]), "{} lacks {}", once, second);
        let twice = pods.apply(Some(&once), &second, &writer("beta"), false, &["status"]).unwrap();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn disjoint_appliers_commute(left in data(), right in data()) {
        let rename = |data: &Value, prefix: &str| -> Value {
            let map = data.as_object().unwrap();
            map.iter().map(|(k, v)| (format!("{prefix}{k}"), v.clone())).collect::<Map<_, _>>().into()
        };
        let (left, right) = (rename(&left, "l"), rename(&right, "r"));
        let base = apply_map(None, "base", json!({"z": "z"}));
        let a = apply_map(Some(&apply_map(Some(&base), "left", left.clone())), "right", right.clone());
        let b = apply_map(Some(&apply_map(Some(&base), "right", right)), "left", left);
        prop_assert_eq!(&a["data"], &b["data"]);
        prop_assert_eq!(owners(&a), owners(&b));
    }

    #[test]
    fn no_write_loses_what_another_applied(
        mine in data(),
        theirs in proptest::collection::vec(data(), 1..4),
    ) {
        let mut live = apply_map(None, "mine", mine.clone());
        for data in theirs {
            // Without force: refused, or mine stays as it was.
            if let Ok(next) = maps().apply(Some(&live), &config(data), &writer("theirs"), false, &[]) {
                live = next;
            }
            prop_assert!(contains(&live["data"], &mine));
        }
        // Taking all back leaves exactly what the other applied.
        let live = apply_map(Some(&live), "mine", json!({}));
        let left = live.get("data").cloned().unwrap_or(json!({}));
        let theirs = owners(&live).into_iter().find(|line| line.starts_with("theirs "));
        for name in left.as_object().unwrap().keys() {
            let element = format!("f:{}", name);
            prop_assert!(theirs.as_ref().is_some_and(|line| line.contains(&element)));
        }
    }

    #[test]
    fn the_status_and_the_rest_are_owned_apart(
        steps in proptest::collection::vec((any::<bool>(), "[ab]", 0..4i64), 1..12),
    ) {
        let schema = Schema::for_gvk("apps", "v1", "Deployment").unwrap();
        let mut live = schema.apply(None, &deployment(json!({"paused": true})), &apps("base"), false, &["status"]).unwrap();
        for (is_status, manager, n) in steps {
            let (subresource, part, other) =
                if is_status { ("status", "status", "spec") } else { ("", "spec", "status") };
            // Both parts are sent; only the endpoint's own counts.
            let mut config = deployment(json!({"replicas": n}));
            config["status"] = json!({"replicas": n});
            let who = Writer { subresource, ..apps(&manager) };
            let before = live.clone();
            let is_mine = |line: &String| line.starts_with(&format!("{manager} Apply{} ", if is_status { "/status" } else { "" }));
            live = schema.apply(Some(&live), &config, &who, true, &["status"]).unwrap();
            prop_assert_eq!(&live[part]["replicas"], &json!(n));
            prop_assert_eq!(live.get(other), before.get(other));
            let of_other = |object: &Value| -> Vec<String> {
                let field = format!("f:{other}");
                owners(object).into_iter().filter(|line| line.contains(&field) && !is_mine(line)).collect()
            };
            prop_assert_eq!(of_other(&live), of_other(&before));
        }
    }

    #[test]
    fn replicas_have_owners_who_agree_on_them(
        steps in proptest::collection::vec((any::<bool>(), "[abc]", 1..4i64, any::<bool>()), 1..16),
    ) {
        let (schema, scales) =
            (Schema::for_gvk("apps", "v1", "Deployment").unwrap(), Schema::for_gvk("autoscaling", "v1", "Scale").unwrap());
        let path = ["spec".to_owned(), "replicas".to_owned()];
        let mut live = schema.apply(None, &deployment(json!({"paused": true, "replicas": 1})), &apps("base"), false, &["status"]).unwrap();
        let mut wanted = std::collections::BTreeMap::from([("base".to_owned(), 1)]);
        for (by_scale, manager, n, force) in steps {
            let key = if by_scale { format!("{manager}/scale") } else { manager.clone() };
            let applied = if by_scale {
                let mut scale = json!({"kind": "Scale", "apiVersion": SCALE_VERSION, "metadata": {"name": "web"},
                    "spec": {"replicas": live["spec"]["replicas"]}});
                scale["metadata"]["managedFields"] = scale_owners(&live, &path);
                let config = json!({"kind": "Scale", "apiVersion": SCALE_VERSION, "spec": {"replicas": n}});
                let who = Writer { manager: &manager, api_version: SCALE_VERSION, subresource: "scale", time: "" };
                scales.apply(Some(&scale), &config, &who, force, &[]).map(|scale| {
                    let mut object = live.clone();
                    object["spec"]["replicas"] = scale["spec"]["replicas"].clone();
                    take_scale_owners(&mut object, &scale, &path, "apps/v1");
                    object
                })
            } else {
                schema.apply(Some(&live), &deployment(json!({"replicas": n})), &apps(&manager), force, &["status"])
            };
            let others_agree = wanted.iter().all(|(owner, value)| *owner == key || *value == n);
            prop_assert_eq!(applied.is_ok(), force || others_agree);
            let Ok(next) = applied else { continue };
            live = next;
            wanted.retain(|_, value| *value == n);
            wanted.insert(key, n);
            prop_assert_eq!(&live["spec"]["replicas"], &json!(n));
            // Whoever owns the replicas is exactly who wanted them so, and nobody lost anything else.
            let mut expected: Vec<String> = wanted.keys().cloned().collect();
            let mut found: Vec<String> = owners(&live).into_iter().filter(|line| line.contains("f:replicas"))
                .map(|line| line.split(" {").next().unwrap().replace(" Apply", "")).collect();
            expected.sort();
            found.sort();
            prop_assert_eq!(found, expected);
            prop_assert!(owners(&live).iter().any(|line| line.starts_with("base Apply") && line.contains("f:paused")));
        }
    }

    #[test]
    fn kubectl_moves_to_the_server_without_conflict(first in data(), second in data(), others in data()) {
        let mut live = config(first.clone());
        let before = config(first.clone()).to_string();
        live["metadata"]["annotations"] = json!({ (last_applied::ANNOTATION): before });
        maps().track_update(None, &mut live, &writer("kubectl-client-side-apply"));
        let (live, second) = (live, config(second));
        // What the client applied the server may change; what another made meanwhile it may not.
        let moved = maps().apply(Some(&live), &second, &writer("kubectl"), false, &[]);
        prop_assert!(moved.is_ok(), "{:?}", moved);
        let moved = moved.unwrap();
        let is_complete = contains(&moved["data"], &second["data"]) || second["data"] == json!({});
        prop_assert!(is_complete);
        let text = last_applied::text(&moved).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Value>(text).unwrap(), &second);
        let again = maps().apply(Some(&moved), &second, &writer("kubectl"), false, &[]).unwrap();
        prop_assert_eq!(&again, &moved);
        let other = maps().apply(Some(&moved), &config(others.clone()), &writer("other"), true, &[]).unwrap();
        let back = maps().apply(Some(&other), &second, &writer("kubectl"), false, &[]);
        let differs = others.as_object().unwrap().iter().any(|(name, value)| {
            let mine = second["data"].get(name);
            mine.is_some_and(|mine| mine != value) && first.get(name) != mine
        });
        if differs {
            prop_assert!(back.is_err());
        }
    }
}
