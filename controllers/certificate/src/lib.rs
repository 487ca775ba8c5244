//! certificate-controller: answers certificate signing requests of Kubernetes' own signers.
//!
//! It approves what node agents ask for themselves, signs what was approved, says of the rest why it
//! is never signed, and takes old requests away. Upstream splits this between
//! certificatesigningrequest-approving-, -signing- and -cleaner-controller.

pub mod plan;
mod reconcile;
pub mod request;
pub mod sign;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::rbac::v1::PolicyRule;
use k8s_openapi::jiff::SignedDuration;
use kit::{Controller, Flag, Player, Stage, rules};
use tracing::warn;

use crate::sign::Authority;

/// The controller as a player.
pub static PLAYER: Player =
    Player::new("certificate", env!("CARGO_PKG_VERSION"), |stage| Box::pin(run(stage)))
        .source("certificate-controller")
        .flags(&FLAGS)
        .rules(rules);

static FLAGS: [Flag; 5] = [
    Flag {
        name: "cluster-signing-cert-file",
        help: "PEM file with the certificate of the authority that signs; nothing is signed without it",
        default: "",
    },
    Flag { name: "cluster-signing-key-file", help: "PEM file with its key", default: "" },
    Flag {
        name: "cluster-signing-duration",
        help: "Longest life of a certificate, as 24h",
        default: "8760h",
    },
    Flag { name: "signing-cert", help: "The certificate as text, instead of a file", default: "" },
    Flag { name: "signing-key", help: "The key as text, instead of a file", default: "" },
];

const GROUP: &str = "certificates.k8s.io";

fn rules() -> Vec<PolicyRule> {
    let mut signers = rules::rule(GROUP, &["signers"], &["approve", "sign"]);
    signers.resource_names = Some(
        [request::CLIENT, request::KUBELET_CLIENT, request::KUBELET_SERVING, request::LEGACY]
            .map(str::to_owned)
            .to_vec(),
    );
    let parts = ["certificatesigningrequests/approval", "certificatesigningrequests/status"];
    vec![
        rules::rule(GROUP, &["certificatesigningrequests"], &["get", "list", "watch", "delete"]),
        rules::rule(GROUP, &parts, &["patch", "update"]),
        signers,
        rules::rule("authorization.k8s.io", &["subjectaccessreviews"], &["create"]),
    ]
}

/// What outlives one reconcile.
pub(crate) struct Context {
    pub(crate) stage: Stage,
    /// `None`: requests are approved and cleaned, not signed.
    pub(crate) authority: Option<Authority>,
}

async fn run(stage: Stage) -> Result<(), kit::Error> {
    let authority = authority(&stage)?;
    if authority.is_none() {
        warn!("no --cluster-signing-cert-file: approved requests are left to another signer");
    }
    let context = Arc::new(Context { stage: stage.clone(), authority });
    Controller::<CertificateSigningRequest>::new(&stage).run(context, reconcile::reconcile).await
}

fn authority(stage: &Stage) -> Result<Option<Authority>, kit::Error> {
    let certificate = text(stage, "signing-cert", "cluster-signing-cert-file")?;
    let key = text(stage, "signing-key", "cluster-signing-key-file")?;
    if certificate.is_empty() {
        return Ok(None);
    }
    let longest: SignedDuration = stage.option("cluster-signing-duration")?;
    let longest = Duration::try_from(longest).map_err(|error| kit::Error::Option {
        option: "cluster-signing-duration",
        value: longest.to_string(),
        reason: error.to_string(),
    })?;
    Authority::new(&certificate, &key, longest).map(Some).map_err(|reason| kit::Error::Option {
        option: "cluster-signing-cert-file",
        value: stage.option("cluster-signing-cert-file").unwrap_or_default(),
        reason,
    })
}

fn text(stage: &Stage, inline: &'static str, file: &'static str) -> Result<String, kit::Error> {
    let (text, path): (String, String) = (stage.option(inline)?, stage.option(file)?);
    if !text.is_empty() || path.is_empty() {
        return Ok(text);
    }
    std::fs::read_to_string(&path).map_err(|error| kit::Error::Option {
        option: file,
        value: path,
        reason: error.to_string(),
    })
}
