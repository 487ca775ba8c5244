//! Sends a pod's status to the API: the newest one only, one at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::context::Context;
use super::status::{RESIZE_IN_PROGRESS, RESIZE_PENDING};
use super::worker::Message;

/// First wait before a patch is sent again; it doubles.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// Longest wait between two tries.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Tries after which a conflict means that another pod has the name.
const CONFLICTS_MAX: u32 = 5;

/// A status with its number in the pod's life.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbered {
    /// Counts up; 0 is nothing.
    pub(super) number: u64,
    /// The status.
    pub(super) status: PodStatus,
}

/// Patches `pods/status` until the channel closes.
pub(super) async fn run(
    ctx: Arc<Context>,
    namespace: String,
    name: String,
    uid: String,
    mut statuses: watch::Receiver<Numbered>,
    mailbox: mpsc::UnboundedSender<Message>,
) {
    let api = Api::<Pod>::namespaced(ctx.client.clone(), &namespace);
    while statuses.changed().await.is_ok() {
        let mut wait = RETRY_FIRST;
        let mut conflicts = 0;
        loop {
            let Numbered { number, status } = statuses.borrow_and_update().clone();
            let patch = patch(&uid, &status);
            let result =
                api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            ctx.metrics.status_patches.fetch_add(1, Ordering::Relaxed);
            conflicts += 1;
            match result {
                Ok(_) => (),
                // The pod is gone, or another one has its name: the watch will say so, nobody else may.
                Err(kube::Error::Api(s)) if s.code == 404 => (),
                Err(kube::Error::Api(s)) if s.code == 409 && conflicts > CONFLICTS_MAX => (),
                Err(kube::Error::Api(s)) if s.code == 422 || s.code == 400 => {
                    tracing::warn!(pod = %name, error = %s, "status refused");
                }
                Err(error) => {
                    tracing::debug!(pod = %name, error = %error, "status not sent");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_MAX);
                    continue;
                }
            }
            let _ = mailbox.send(Message::Reported { number });
            break;
        }
    }
}

/// A strategic merge patch that also takes away what is no longer true.
///
/// Conditions are merged by their type, so a reason that is merely left out would stay.
fn patch(uid: &str, status: &PodStatus) -> Value {
    let mut status = serde_json::json!(status);
    let absent_is_null = |object: &mut Value| {
        for field in ["reason", "message"] {
            if object[field].is_null() {
                object[field] = Value::Null;
            }
        }
    };
    absent_is_null(&mut status);
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        absent_is_null(condition);
    }
    if let Some(conditions) = status["conditions"].as_array_mut() {
        for passing in [RESIZE_PENDING, RESIZE_IN_PROGRESS] {
            if !conditions.iter().any(|c| c["type"] == passing) {
                conditions.push(serde_json::json!({"$patch": "delete", "type": passing}));
            }
        }
    }
    serde_json::json!({"metadata": {"uid": uid}, "status": status})
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodCondition;

    use super::*;

    #[test]
    fn what_is_over_is_taken_away() {
        let condition = |type_: &str| PodCondition { type_: type_.into(), ..Default::default() };
        let conditions = Some(vec![condition("Ready"), condition(RESIZE_PENDING)]);
        let patch = patch("u", &PodStatus { conditions, ..PodStatus::default() });
        let conditions = &patch["status"]["conditions"];
        assert_eq!(conditions[0]["reason"], Value::Null);
        assert_eq!(conditions[1]["$patch"], Value::Null);
        let gone = serde_json::json!({"$patch": "delete", "type": RESIZE_IN_PROGRESS});
        assert_eq!(conditions[2], gone);
    }
}
