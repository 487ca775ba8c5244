//! Tokens that a server outside judges.
//!
//! Source: kubernetes.io, "Webhook Token Authentication".

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::TokenUser;
use crate::identity::expiring::Expiring;
use crate::identity::webhook::Webhook;
use crate::request::User;

/// Most answers that are remembered.
const REMEMBERED: usize = 8192;

/// A server that judges tokens, and its answers of late.
pub struct TokenWebhook {
    webhook: Webhook,
    version: String,
    life: Duration,
    answers: Expiring<[u8; 32], Option<TokenUser>>,
}

impl TokenWebhook {
    /// Asks `webhook` with reviews of `version` (`v1` or `v1beta1`); answers hold for `life`.
    pub fn new(webhook: Webhook, version: &str, life: Duration) -> Self {
        let answers = Expiring::new(REMEMBERED);
        Self { webhook, version: version.to_owned(), life, answers }
    }

    /// The user of a token, and for whom of `audiences` it is meant.
    pub(super) async fn token(
        &self,
        token: &str,
        audiences: &[String],
        now: Instant,
    ) -> Option<TokenUser> {
        let mut digest = Sha256::new();
        digest.update(token);
        for audience in audiences {
            digest.update([0]);
            digest.update(audience);
        }
        let key: [u8; 32] = digest.finalize().into();
        if let Some(known) = self.answers.get(&key, now) {
            return known;
        }
        let review = json!({
            "apiVersion": format!("authentication.k8s.io/{}", self.version),
            "kind": "TokenReview",
            "metadata": {},
            "spec": { "token": token, "audiences": audiences },
        });
        match self.webhook.call(&review).await {
            Ok(answer) => {
                let found = user(&answer["status"]);
                self.answers.insert(key, found.clone(), now, self.life);
                found
            }
            Err(error) => {
                // Not remembered: the next request asks again. Nothing of the token is told.
                tracing::warn!(%error, "a token was not judged by the authentication webhook");
                None
            }
        }
    }
}

fn user(status: &Value) -> Option<TokenUser> {
    if status["authenticated"] != true {
        return None;
    }
    let texts = |value: &Value| -> Vec<String> {
        let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let info = &status["user"];
    let extra = info["extra"].as_object().into_iter().flatten();
    let user = User {
        name: info["username"].as_str()?.to_owned(),
        uid: info["uid"].as_str().unwrap_or_default().to_owned(),
        groups: texts(&info["groups"]),
        extra: extra.map(|(key, values)| (key.clone(), texts(values))).collect(),
    };
    let audiences = texts(&status["audiences"]);
    // A server that knows nothing of audiences answers for ours.
    Some(TokenUser { user, audiences: (!audiences.is_empty()).then_some(audiences) })
}
