//! Every pod runs as a service account, whose token it finds in a file.

use std::collections::HashMap;
use std::time::Duration;

use rand::Rng as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admitted, Attributes, Operation, Plugin, Resources, pods};
use crate::status::ApiError;
use crate::types::check::{is_empty, items, items_mut, part, push, text};

/// Where containers find their token.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Prefix of the injected volume's name.
const TOKEN_VOLUME: &str = "kube-api-access-";
/// Seconds after which the token must be renewed: an hour, and some for clocks that differ.
const TOKEN_SECONDS: i64 = 3607;
/// How often, and after which pauses, the account `default` is looked for.
///
/// Source: upstream `plugin/pkg/admission/serviceaccount`.
const DEFAULT_ATTEMPTS: u32 = 10;
const DEFAULT_PAUSE: Duration = Duration::from_millis(150);
/// Letters of generated names.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Annotation of accounts whose pods may use no other secrets than the account lists.
const ENFORCED: &str = "kubernetes.io/enforce-mountable-secrets";

/// What matters of an account here; every pod that is created looks at one.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Account {
    metadata: Metadata,
    automount_service_account_token: Option<bool>,
    secrets: Vec<Value>,
    image_pull_secrets: Vec<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: String,
    annotations: HashMap<String, String>,
}

impl Account {
    /// Whether its pods may use no other secrets than it lists.
    fn enforces(&self) -> bool {
        let value = self.metadata.annotations.get(ENFORCED);
        value.is_some_and(|value| matches!(value.as_str(), "true" | "1"))
    }
}

/// Source: upstream `plugin/pkg/admission/serviceaccount`.
pub(super) struct ServiceAccount;

impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    fn resources(&self) -> Resources {
        Resources::Only(&[("", "pods")])
    }

    fn admit<'a>(&'a self, attributes: &'a mut Attributes<'_>, pod: &'a mut Value) -> Admitted<'a> {
        Box::pin(async move {
            if attributes.operation != Operation::Create || !attributes.subresource.is_empty() {
                return Ok(());
            }
            if pods::is_mirror(pod) {
                return mirror(attributes, pod);
            }
            let Some(spec) = part(pod, "spec") else { return Ok(()) };
            if is_empty(&spec["serviceAccountName"]) {
                spec["serviceAccountName"] = "default".into();
            }
            spec["serviceAccount"] = spec["serviceAccountName"].clone();
            let account = account(attributes, pod).await?;
            equip(&mut pod["spec"], &account);
            Ok(())
        })
    }

    fn validate<'a>(&'a self, attributes: &'a mut Attributes<'_>, pod: &'a Value) -> Admitted<'a> {
        Box::pin(async move {
            let debug = attributes.subresource == "ephemeralcontainers";
            let created =
                attributes.operation == Operation::Create && attributes.subresource.is_empty();
            if !debug && !created {
                return Ok(());
            }
            if created && pods::is_mirror(pod) {
                return mirror(attributes, pod);
            }
            if is_empty(&pod["spec"]["serviceAccountName"]) {
                let pod_name = attributes.shown_name(pod);
                let why = format!(
                    "no service account specified for pod {}/{pod_name}",
                    attributes.namespace
                );
                return Err(attributes.forbidden(pod, why));
            }
            let account = account(attributes, pod).await?;
            let lists: &[_] = if debug { &pods::LISTS[2..] } else { &pods::LISTS[..2] };
            if account.enforces() {
                unlisted(&pod["spec"], &account, lists)
                    .map_or(Ok(()), |why| Err(attributes.forbidden(pod, why)))?;
            }
            Ok(())
        })
    }
}

/// A mirror pod stands for one that a kubelet runs on its own account; it may use nothing of the API.
fn mirror(attributes: &Attributes<'_>, pod: &Value) -> Result<(), ApiError> {
    let spec = &pod["spec"];
    let projects_token = items(&spec["volumes"])
        .iter()
        .flat_map(|volume| items(&volume["projected"]["sources"]))
        .any(|source| !source["serviceAccountToken"].is_null());
    let why = if !is_empty(&spec["serviceAccountName"]) {
        "a mirror pod may not reference service accounts"
    } else if pods::secrets(spec).next().is_some() {
        "a mirror pod may not reference secrets"
    } else if projects_token {
        "a mirror pod may not use ServiceAccountToken volume projections"
    } else {
        return Ok(());
    };
    Err(attributes.forbidden(pod, why))
}

/// The account of a pod. A controller makes `default` right after its namespace; who is faster waits for it a moment.
async fn account(attributes: &Attributes<'_>, pod: &Value) -> Result<Account, ApiError> {
    let (namespace, name) = (attributes.namespace, text(&pod["spec"], "serviceAccountName"));
    let n_attempts = if name == "default" { DEFAULT_ATTEMPTS } else { 1 };
    for attempt in 0..n_attempts {
        if attempt > 0 {
            tokio::time::sleep(DEFAULT_PAUSE).await;
        }
        if let Some(account) = attributes.lookup_as("", "serviceaccounts", namespace, name).await? {
            return Ok(account);
        }
    }
    let why = format!(
        "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
    );
    Err(attributes.forbidden(pod, why))
}

/// What a pod gets from its account.
fn equip(spec: &mut Value, account: &Account) {
    let wanted = spec["automountServiceAccountToken"].as_bool();
    if wanted.or(account.automount_service_account_token).unwrap_or(true) {
        mount_token(spec);
    }
    if items(&spec["imagePullSecrets"]).is_empty() && !account.image_pull_secrets.is_empty() {
        spec["imagePullSecrets"] = account.image_pull_secrets.clone().into();
    }
}

/// The first use of a secret that the account does not list, in upstream's words.
fn unlisted(spec: &Value, account: &Account, lists: &[(&str, &str)]) -> Option<String> {
    let listed = |list: &[Value], name: &str| list.iter().any(|entry| text(entry, "name") == name);
    let end = |what: &str| {
        let account = &account.metadata.name;
        format!("is not allowed because service account {account} does not reference that {what}")
    };
    let volumes = items(&spec["volumes"]).iter().filter(|volume| !volume["secret"].is_null());
    for secret in volumes.map(|volume| text(&volume["secret"], "secretName")) {
        if !listed(&account.secrets, secret) {
            return Some(format!("volume with secret.secretName=\"{secret}\" {}", end("secret")));
        }
    }
    for (list, what) in lists {
        for container in items(&spec[*list]) {
            let name = text(container, "name");
            for env in items(&container["env"]) {
                let source = &env["valueFrom"]["secretKeyRef"];
                let secret = text(source, "name");
                if !source.is_null() && !listed(&account.secrets, secret) {
                    let variable = text(env, "name");
                    return Some(format!(
                        "{what} {name} with envVar {variable} referencing secret.secretName=\"{secret}\" {}",
                        end("secret")
                    ));
                }
            }
            for source in items(&container["envFrom"]).iter().map(|e| &e["secretRef"]) {
                let secret = text(source, "name");
                if !source.is_null() && !listed(&account.secrets, secret) {
                    return Some(format!(
                        "{what} {name} with envFrom referencing secret.secretName=\"{secret}\" {}",
                        end("secret")
                    ));
                }
            }
        }
    }
    let mut pulls =
        items(&spec["imagePullSecrets"]).iter().map(|entry| text(entry, "name")).enumerate();
    let (n, secret) = pulls.find(|(_, secret)| !listed(&account.image_pull_secrets, secret))?;
    Some(format!("imagePullSecrets[{n}].name=\"{secret}\" {}", end("imagePullSecret")))
}

/// Adds the volume with token, CA and namespace, and mounts it where nothing else is mounted.
fn mount_token(spec: &mut Value) {
    let volumes = items(&spec["volumes"]).iter().map(|volume| text(volume, "name"));
    let existing = volumes.clone().find(|name| name.starts_with(TOKEN_VOLUME));
    let volume = existing.map_or_else(volume_name, str::to_owned);
    let there = existing.is_some();
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in items_mut(spec, list) {
            let mut mounts = items(&container["volumeMounts"]).iter();
            if !mounts.any(|mount| text(mount, "mountPath") == TOKEN_PATH) {
                mounted = true;
                let mount = json!({"name": volume, "readOnly": true, "mountPath": TOKEN_PATH});
                push(container, "volumeMounts", mount);
            }
        }
    }
    if mounted && !there {
        push(spec, "volumes", token_volume(&volume));
    }
}

fn volume_name() -> String {
    let mut rng = rand::rng();
    let suffix: String =
        (0..5).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect();
    format!("{TOKEN_VOLUME}{suffix}")
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_mounted_once() {
        let mut spec = json!({"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"mountPath": TOKEN_PATH, "name": "own"}]}]});
        mount_token(&mut spec);
        let before = spec.clone();
        let name = text(&spec["volumes"][0], "name");
        assert!(name.starts_with(TOKEN_VOLUME) && name.len() == TOKEN_VOLUME.len() + 5);
        assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], name);
        assert_eq!(items(&spec["containers"][1]["volumeMounts"]).len(), 1);
        mount_token(&mut spec);
        assert_eq!(spec, before);
    }

    #[test]
    fn secrets_that_the_account_does_not_list_are_found_in_every_list() {
        let account = json!({"metadata": {"name": "a"}, "secrets": [{"name": "known"}]});
        let account: Account = serde_json::from_value(account).unwrap();
        let env = |secret: &str| json!({"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": secret}}}]});
        let check = |spec: Value| unlisted(&spec, &account, &pods::LISTS);
        assert_eq!(check(json!({"containers": [env("known")]})), None);
        for (list, what) in pods::LISTS {
            let why = check(json!({list: [env("other")]})).unwrap();
            assert_eq!(
                why,
                format!(
                    "{what} c with envVar E referencing secret.secretName=\"other\" is not allowed because service account a does not reference that secret"
                )
            );
        }
        let volume = json!({"volumes": [{"name": "v", "secret": {"secretName": "other"}}]});
        assert!(check(volume).unwrap().starts_with("volume with secret.secretName=\"other\""));
        let from =
            json!({"containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "x"}}]}]});
        assert!(check(from).unwrap().contains("with envFrom"));
        let pull = json!({"imagePullSecrets": [{"name": "p"}]});
        assert!(check(pull).unwrap().starts_with("imagePullSecrets[0].name=\"p\""));
    }
}
