//! Tokens of service accounts, and whether what they are bound to is still there.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::{Lookup, SERVICE_ACCOUNT_PREFIX, TokenUser, account_groups};
use crate::identity::tokens::{Claims, Reference, TokenKeys};
use crate::request::User;

/// Most tokens whose signature is remembered as good; the rest are verified again.
const REMEMBERED_TOKENS: usize = 4096;

/// How long a token outlives the deletion of the object it is bound to, in seconds.
///
/// Source: upstream `pkg/serviceaccount/claims.go`, `defaultServiceAccountDeletionGracePeriod`
/// (an object marked as deleted still counts for a minute).
const DELETION_LEEWAY: i64 = 60;

/// Recognises the tokens of accounts.
pub struct Accounts {
    keys: TokenKeys,
    remembered: Mutex<HashMap<[u8; 32], Arc<Verified>>>,
}

/// A token whose signature is good, and the user that it stands for.
struct Verified {
    claims: Claims,
    user: User,
}

impl Accounts {
    /// Recognises what `keys` recognise.
    pub fn new(keys: TokenKeys) -> Self {
        Self { keys, remembered: Mutex::default() }
    }

    /// The keys.
    pub fn keys(&self) -> &TokenKeys {
        &self.keys
    }

    /// The account that `token` stands for, if the token holds and all that it is bound to exists.
    pub async fn token(&self, token: &str, objects: &dyn Lookup, now: i64) -> Option<TokenUser> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let known = self.remembered.lock().get(&digest).filter(|v| now < v.claims.exp).cloned();
        let verified = match known {
            Some(verified) => verified,
            None => self.remember(digest, self.keys.verify(token, now)?)?,
        };
        let user = || TokenUser {
            user: verified.user.clone(),
            audiences: Some(verified.claims.aud.clone()),
        };
        if still_bound(&verified.claims, objects, now) {
            return Some(user());
        }
        // Another server may have made the object a moment ago, and the token for it.
        objects.catch_up(&["serviceaccounts", "pods", "secrets", "nodes"]).await;
        still_bound(&verified.claims, objects, now).then(user)
    }

    fn remember(&self, digest: [u8; 32], claims: Claims) -> Option<Arc<Verified>> {
        let user = user(&claims)?;
        let verified = Arc::new(Verified { claims, user });
        let mut remembered = self.remembered.lock();
        if remembered.len() >= REMEMBERED_TOKENS {
            remembered.clear();
        }
        remembered.insert(digest, verified.clone());
        Some(verified)
    }
}

/// The user that claims stand for; `None` if their parts contradict each other.
fn user(claims: &Claims) -> Option<User> {
    let account = claims.binding.serviceaccount.as_ref()?;
    let namespace = &claims.binding.namespace;
    let expected = format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{}", account.name);
    (claims.sub == expected).then(|| User {
        name: expected,
        uid: account.uid.clone(),
        groups: account_groups(namespace),
        extra: claims.extra().into_iter().collect(),
    })
}

/// Whether the account, and the pod, secret or node that the token is bound to, are still the same.
fn still_bound(claims: &Claims, objects: &dyn Lookup, now: i64) -> bool {
    let binding = &claims.binding;
    let Some(account) = &binding.serviceaccount else { return false };
    let same = |resource: &str, namespace: &str, reference: &Reference| {
        objects.find(resource, namespace, &reference.name).is_some_and(|found| {
            let alive = found.deleted_at.is_none_or(|at| now <= at + DELETION_LEEWAY);
            alive && found.uid == reference.uid
        })
    };
    let namespace = binding.namespace.as_str();
    let pod = binding.pod.as_ref().is_none_or(|pod| same("pods", namespace, pod));
    let secret = binding.secret.as_ref().is_none_or(|s| same("secrets", namespace, s));
    // Beside a pod, the node is only a fact about the pod.
    let node =
        binding.pod.is_some() || binding.node.as_ref().is_none_or(|node| same("nodes", "", node));
    same("serviceaccounts", namespace, account) && pod && secret && node
}
