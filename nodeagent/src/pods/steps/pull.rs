//! Sees to it that a container's image is there.

use tokio::time::Instant;

use super::with_causes;
use crate::events::Severity;
use crate::pods::context::Context;
use crate::pods::observed::{PullPolicy, Wanted};
use crate::runtime::{Error, ImageRef, PullSecrets};
use crate::volumes::PodVolumes;

/// Why an image is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::pods) struct PullError {
    /// `ErrImagePull`, `ErrImageNeverPull`, `InvalidImageName` …
    pub(in crate::pods) reason: &'static str,
    /// For people.
    pub(in crate::pods) message: String,
}

/// Sees to it that the image is there, by the pull policy, and answers its id for the status.
pub(in crate::pods) async fn pull(
    ctx: &Context,
    wanted: &Wanted,
    held: &PodVolumes,
    name: &str,
) -> Result<String, PullError> {
    let Some(container) = wanted.container(name) else { return Ok(String::new()) };
    let image = container.spec.image.clone().unwrap_or_default();
    let event = |severity, reason: &str, text: String| {
        ctx.recorder.container(wanted, name, severity, reason, text);
    };
    let reference: ImageRef = image.parse().map_err(|e: Error| {
        let message = format!("Failed to apply default image tag \"{image}\": {e}");
        event(Severity::Warning, "InspectFailed", message.clone());
        event(Severity::Warning, "Failed", "Error: InvalidImageName".to_owned());
        PullError { reason: "InvalidImageName", message }
    })?;
    if container.pull != PullPolicy::Always {
        let present = ctx.runtime.image(&reference).await.unwrap_or_default();
        if let Some(present) = present {
            let text = format!(
                "Container image \"{image}\" already present on machine and can be accessed by the pod"
            );
            event(Severity::Normal, "Pulled", text);
            return Ok(image_id(&present));
        }
        if container.pull == PullPolicy::Never {
            let message =
                format!("Container image \"{image}\" is not present with pull policy of Never");
            event(Severity::Warning, "ErrImageNeverPull", message.clone());
            event(Severity::Warning, "Failed", "Error: ErrImageNeverPull".to_owned());
            return Err(PullError { reason: "ErrImageNeverPull", message });
        }
    }
    event(Severity::Normal, "Pulling", format!("Pulling image \"{image}\""));
    let begin = Instant::now();
    let secrets = pull_secrets(wanted, held).await;
    match ctx.runtime.pull_image(&reference, &secrets).await {
        Ok(pulled) => {
            let took = begin.elapsed().as_secs_f64();
            let text = format!(
                "Successfully pulled image \"{image}\" in {took:.3}s ({took:.3}s including waiting). Image size: {} bytes.",
                pulled.size.0
            );
            event(Severity::Normal, "Pulled", text);
            Ok(image_id(&pulled))
        }
        Err(error) => {
            let message = with_causes(&error);
            let reason = "ErrImagePull";
            event(
                Severity::Warning,
                "Failed",
                format!("Failed to pull image \"{image}\": {message}"),
            );
            event(Severity::Warning, "Failed", format!("Error: {reason}"));
            Err(PullError { reason, message })
        }
    }
}

fn image_id(image: &crate::runtime::Image) -> String {
    image.repo_digests.first().unwrap_or(&image.id).clone()
}

async fn pull_secrets(wanted: &Wanted, held: &PodVolumes) -> PullSecrets {
    let mut secrets = PullSecrets::default();
    let named = wanted.pod.spec.as_ref().and_then(|s| s.image_pull_secrets.clone());
    let names: Vec<String> = named.into_iter().flatten().map(|r| r.name).collect();
    // A secret that is missing is not an error here: the pull may do without.
    let sources = held.fetch(&wanted.namespace, &[], &names).await.unwrap_or_default();
    for name in &names {
        let Some(data) = sources.secrets.get(name).and_then(|s| s.data.as_ref()) else { continue };
        let added = if let Some(json) = data.get(".dockerconfigjson") {
            secrets.add_docker_config_json(&json.0)
        } else if let Some(json) = data.get(".dockercfg") {
            secrets.add_docker_cfg(&json.0)
        } else {
            continue;
        };
        if let Err(error) = added {
            tracing::warn!(secret = name, error = %error, "pull secret cannot be read");
        }
    }
    secrets
}
