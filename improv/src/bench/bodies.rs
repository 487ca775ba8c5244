//! Bodies that are made once: for each request only digits of a fixed width are written over.

use bytes::Bytes;
use serde_json::{Value, json};

use super::arguments::Encoding;

/// Digits that stand for a pod's number.
const NUMBER: &str = "00000000";
/// Digits that stand for the time of sending, in microseconds.
const MOMENT: &str = "9000000000000000";
/// What precedes the time of sending in a status.
const MARK: &[u8] = b"sent-at ";

/// Name of the pod with this number.
pub(crate) fn name(number: usize) -> String {
    format!("bench-{number:08}")
}

/// A body in which a pod's number stands at some places.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    text: Vec<u8>,
    numbers: Vec<usize>,
    moments: Vec<usize>,
}

impl Template {
    fn new(text: Vec<u8>) -> Self {
        let starts = |digits: &str| memchr::memmem::find_iter(&text, digits).collect();
        let numbers = memchr::memmem::find_iter(&text, "bench-00000000");
        let numbers = numbers.map(|at| at + "bench-".len()).collect();
        Self { moments: starts(MOMENT), numbers, text }
    }

    /// The body for one pod, sent now.
    pub(crate) fn fill(&self, number: usize, moment: u64) -> Bytes {
        let mut text = self.text.clone();
        write_over(&mut text, &self.numbers, number as u64, NUMBER.len());
        write_over(&mut text, &self.moments, moment, MOMENT.len());
        text.into()
    }
}

fn write_over(text: &mut [u8], places: &[usize], number: u64, width: usize) {
    let digits = format!("{number:0width$}");
    for &at in places {
        text[at..at + width].copy_from_slice(digits.as_bytes());
    }
}

/// The time of sending that a watch event carries.
pub(crate) fn moment_of(event: &[u8]) -> Option<u64> {
    let at = memchr::memmem::find(event, MARK)? + MARK.len();
    std::str::from_utf8(event.get(at..at + MOMENT.len())?).ok()?.parse().ok()
}

/// All bodies of a benchmark.
#[derive(Debug)]
pub(crate) struct Bodies {
    /// A new pod.
    pub pod: Template,
    /// The same pod as it is applied, with an annotation that differs each time.
    pub apply: Template,
    /// A status that carries its time of sending.
    pub status: Template,
}

impl Bodies {
    /// Makes them; a pod has about `size` bytes of JSON.
    pub(crate) fn new(namespace: &str, size: usize, encoding: Encoding) -> anyhow::Result<Self> {
        let pod = pod(namespace, size);
        let mut applied = pod.clone();
        applied["metadata"]["annotations"]["improv.dev/applied"] = MOMENT.into();
        let encoded = match encoding {
            Encoding::Json => serde_json::to_vec(&pod)?,
            Encoding::Protobuf => apiserver::protobuf::encode(&pod)
                .ok_or_else(|| anyhow::anyhow!("pods have no protobuf form"))?,
        };
        Ok(Self {
            pod: Template::new(encoded),
            apply: Template::new(serde_json::to_vec(&applied)?),
            status: Template::new(serde_json::to_vec(&status())?),
        })
    }
}

/// A pod as a Deployment makes them: one container with an environment, resources and a probe.
fn pod(namespace: &str, size: usize) -> Value {
    let mut pod = json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "name": "bench-00000000", "namespace": namespace,
            "labels": {"app": "bench", "pod-template-hash": "6d4f8b9c7", "tier": "web"},
            "annotations": {"improv.dev/padding": ""},
        },
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "web", "image": "registry.example/web:1.2.3",
                "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}],
                "env": [{"name": "POD", "value": "bench-00000000"}],
                "resources": {
                    "requests": {"cpu": "100m", "memory": "128Mi"},
                    "limits": {"cpu": "200m", "memory": "256Mi"},
                },
                "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8080}, "periodSeconds": 5},
                "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
            }],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
        }
    });
    let padding = size.saturating_sub(pod.to_string().len());
    pod["metadata"]["annotations"]["improv.dev/padding"] = "x".repeat(padding).into();
    pod
}

fn status() -> Value {
    let message = format!("sent-at {MOMENT}");
    json!({"status": {
        "phase": "Running", "podIP": "10.0.0.1",
        "conditions": [{"type": "Ready", "status": "True", "reason": "Bench", "message": message}],
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_moments_are_written_over() {
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            let bodies = Bodies::new("ns", 1500, encoding).unwrap();
            let pod = bodies.pod.fill(42, 7);
            assert_eq!(memchr::memmem::find_iter(&pod, "bench-00000042").count(), 2);
            assert_eq!(memchr::memmem::find_iter(&pod, "bench-00000000").count(), 0);
        }
        let bodies = Bodies::new("ns", 1500, Encoding::Json).unwrap();
        assert_eq!(bodies.pod.fill(1, 0).len(), 1500);
        assert_eq!(moment_of(&bodies.status.fill(1, 123_456)), Some(123_456));
        let applied: Value = serde_json::from_slice(&bodies.apply.fill(5, 6)).unwrap();
        assert_eq!(applied["metadata"]["name"], name(5));
        assert_eq!(applied["metadata"]["annotations"]["improv.dev/applied"], "0000000000000006");
    }

    #[test]
    fn events_without_a_moment_have_none() {
        assert_eq!(moment_of(b"{\"type\":\"BOOKMARK\"}"), None);
        assert_eq!(moment_of(b"sent-at 12"), None);
    }
}
