//! The files of a configMap, secret, downwardAPI or projected volume. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret, Volume,
};

use crate::pods::env::{Facts, Sources, field_value, resource_value};

/// Mode of a file where the volume gives none.
///
/// Source: the API's default of `defaultMode`.
const DEFAULT_MODE: i32 = 0o644;

/// One file to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its content.
    pub data: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
}

/// Files by their path in the volume.
pub type Payload = BTreeMap<String, File>;

/// A service-account token that a volume wants.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenRequest {
    /// Who is to take it; the API server's own if empty.
    pub audience: String,
    /// How long it should hold, in seconds.
    pub seconds: i64,
}

/// Tokens at hand.
pub type Tokens = BTreeMap<TokenRequest, String>;

/// Names of the config maps and secrets that a volume is made of, and the tokens it needs.
pub fn references(volume: &Volume) -> (Vec<String>, Vec<String>, Vec<TokenRequest>) {
    let (mut maps, mut secrets, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
    if let Some(source) = &volume.config_map {
        maps.push(source.name.clone());
    }
    if let Some(name) = volume.secret.as_ref().and_then(|s| s.secret_name.clone()) {
        secrets.push(name);
    }
    let parts = volume.projected.as_ref().and_then(|p| p.sources.as_ref());
    for part in parts.into_iter().flatten() {
        maps.extend(part.config_map.as_ref().map(|r| r.name.clone()));
        secrets.extend(part.secret.as_ref().map(|r| r.name.clone()));
        tokens.extend(part.service_account_token.as_ref().map(|t| TokenRequest {
            audience: t.audience.clone().unwrap_or_default(),
            seconds: t.expiration_seconds.unwrap_or(3600),
        }));
    }
    (maps, secrets, tokens)
}

/// Whether the volume's files come from the API.
pub fn is_payload(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

/// The files of a volume; `None` if it is of another kind.
///
/// # Errors
/// A sentence for the event `FailedMount`.
pub fn payload(
    pod: &Pod,
    volume: &Volume,
    sources: &Sources,
    tokens: &Tokens,
    facts: &Facts,
) -> Result<Option<Payload>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut files = Payload::new();
    if let Some(source) = &volume.config_map {
        let keys = Keys {
            of: Of::ConfigMap,
            name: &source.name,
            items: source.items.as_deref(),
            mode: source.default_mode.unwrap_or(DEFAULT_MODE),
            is_optional: source.optional == Some(true),
        };
        keyed(&mut files, &keys, namespace, sources)?;
    } else if let Some(source) = &volume.secret {
        let keys = Keys {
            of: Of::Secret,
            name: source.secret_name.as_deref().unwrap_or_default(),
            items: source.items.as_deref(),
            mode: source.default_mode.unwrap_or(DEFAULT_MODE),
            is_optional: source.optional == Some(true),
        };
        keyed(&mut files, &keys, namespace, sources)?;
    } else if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        downward(&mut files, pod, source.items.as_deref(), mode, facts)?;
    } else if let Some(source) = &volume.projected {
        projected(&mut files, pod, source, sources, tokens, facts)?;
    } else {
        return Ok(None);
    }
    Ok(Some(files))
}

fn projected(
    files: &mut Payload,
    pod: &Pod,
    source: &ProjectedVolumeSource,
    sources: &Sources,
    tokens: &Tokens,
    facts: &Facts,
) -> Result<(), String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    for part in source.sources.iter().flatten() {
        let from_map =
            part.config_map.as_ref().map(|r| (Of::ConfigMap, &r.name, &r.items, r.optional));
        let from_secret = part.secret.as_ref().map(|r| (Of::Secret, &r.name, &r.items, r.optional));
        for (of, name, items, optional) in from_map.into_iter().chain(from_secret) {
            let (items, is_optional) = (items.as_deref(), optional == Some(true));
            keyed(files, &Keys { of, name, items, mode, is_optional }, namespace, sources)?;
        }
        if let Some(d) = &part.downward_api {
            downward(files, pod, d.items.as_deref(), mode, facts)?;
        }
        if let Some(t) = &part.service_account_token {
            let request = TokenRequest {
                audience: t.audience.clone().unwrap_or_default(),
                seconds: t.expiration_seconds.unwrap_or(3600),
            };
            let token = tokens.get(&request).ok_or("failed to fetch token")?;
            put(files, &t.path, token.as_bytes().to_vec(), mode)?;
        }
        if part.cluster_trust_bundle.is_some() || part.pod_certificate.is_some() {
            return Err("projected volume source is not supported by this node".to_owned());
        }
    }
    Ok(())
}

type Data = BTreeMap<String, Vec<u8>>;

fn config_data(map: &Arc<ConfigMap>) -> Data {
    let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
    text.chain(binary).collect()
}

fn secret_data(secret: &Arc<Secret>) -> Data {
    secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect()
}

/// What a volume takes from a config map or a secret.
struct Keys<'a> {
    of: Of,
    name: &'a str,
    items: Option<&'a [KeyToPath]>,
    mode: i32,
    is_optional: bool,
}

#[derive(Clone, Copy)]
enum Of {
    ConfigMap,
    Secret,
}

fn keyed(
    files: &mut Payload,
    keys: &Keys<'_>,
    namespace: &str,
    sources: &Sources,
) -> Result<(), String> {
    let name = keys.name;
    let (data, kind, what) = match keys.of {
        Of::ConfigMap => (sources.config_maps.get(name).map(config_data), "configmap", "config"),
        Of::Secret => (sources.secrets.get(name).map(secret_data), "secret", "secret"),
    };
    let Some(data) = data else {
        return match keys.is_optional {
            true => Ok(()),
            false => Err(format!("{kind} \"{name}\" not found")),
        };
    };
    let Some(items) = keys.items.filter(|items| !items.is_empty()) else {
        return data.into_iter().try_for_each(|(key, value)| put(files, &key, value, keys.mode));
    };
    for item in items {
        match data.get(&item.key) {
            Some(value) => {
                put(files, &item.path, value.clone(), item.mode.unwrap_or(keys.mode))?;
            }
            None if keys.is_optional => (),
            None => {
                return Err(format!(
                    "references non-existent {what} key: {} ({namespace}/{name})",
                    item.key
                ));
            }
        }
    }
    Ok(())
}

fn downward(
    files: &mut Payload,
    pod: &Pod,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: i32,
    facts: &Facts,
) -> Result<(), String> {
    for item in items.unwrap_or_default() {
        let text = if let Some(field) = &item.field_ref {
            field_value(pod, &field.field_path, facts)?
        } else if let Some(resource) = &item.resource_field_ref {
            resource_value(pod, None, resource, facts)?
        } else {
            continue;
        };
        put(files, &item.path, text.into_bytes(), item.mode.unwrap_or(mode))?;
    }
    Ok(())
}

/// A path must stay in the volume and off the names that the writer uses itself.
fn put(files: &mut Payload, path: &str, data: Vec<u8>, mode: i32) -> Result<(), String> {
    let bad = path.is_empty()
        || path.starts_with('/')
        || path.split('/').any(|part| part == ".." || part.is_empty())
        || path.starts_with("..");
    if bad {
        return Err(format!("invalid path: {path:?}"));
    }
    let mode = u32::try_from(mode & 0o777).unwrap_or(0o644);
    files.insert(path.to_owned(), File { data, mode });
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(volume: Value, expected: Result<&[&str], &str>) {
        let mut volume = volume;
        volume["name"] = json!("v");
        let volume: Volume = serde_json::from_value(volume).unwrap();
        let map = json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "Mw=="}});
        let secret = json!({"data": {"k": "cw=="}});
        let sources = Sources {
            config_maps: [("m".to_owned(), Arc::new(serde_json::from_value(map).unwrap()))].into(),
            secrets: [("s".to_owned(), Arc::new(serde_json::from_value(secret).unwrap()))].into(),
        };
        let tokens =
            [(TokenRequest { audience: String::new(), seconds: 3607 }, "tok".to_owned())].into();
        let meta = json!({"name": "p", "namespace": "ns", "labels": {"x": "y \"q\""}});
        let pod = serde_json::from_value(json!({"metadata": meta})).unwrap();
        let got = payload(&pod, &volume, &sources, &tokens, &Facts::default()).map(|files| {
            let line = |(p, f): (String, File)| {
                format!("{p} {:o} {}", f.mode, String::from_utf8_lossy(&f.data))
            };
            files.unwrap().into_iter().map(line).collect::<Vec<_>>()
        });
        let expected = expected.map(|e| e.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(got, expected.map_err(str::to_owned));
    }

    #[test]
    fn whole_and_selected_keys() {
        check(json!({"configMap": {"name": "m"}}), Ok(&["a 644 1", "b 644 2", "c 644 3"]));
        let items = json!([{"key": "a", "path": "d/x", "mode": 256}]);
        check(json!({"configMap": {"name": "m", "items": items}}), Ok(&["d/x 400 1"]));
        check(json!({"secret": {"secretName": "s", "defaultMode": 384}}), Ok(&["k 600 s"]));
    }

    #[test]
    fn what_is_missing_is_named() {
        check(json!({"configMap": {"name": "n"}}), Err("configmap \"n\" not found"));
        check(json!({"secret": {"secretName": "n"}}), Err("secret \"n\" not found"));
        check(json!({"secret": {"secretName": "n", "optional": true}}), Ok(&[]));
        let items = json!([{"key": "z", "path": "z"}]);
        let expected = "references non-existent config key: z (ns/m)";
        check(json!({"configMap": {"name": "m", "items": items}}), Err(expected));
    }

    #[test]
    fn paths_stay_inside() {
        for path in ["../x", "/x", "a/../b", "..data", ""] {
            let items = json!([{"key": "a", "path": path}]);
            let expected = format!("invalid path: {path:?}");
            check(json!({"configMap": {"name": "m", "items": items}}), Err(&expected));
        }
    }

    #[test]
    fn projections_are_joined() {
        check(
            json!({"projected": {"sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                {"configMap": {"name": "m", "items": [{"key": "a", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [
                    {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}},
                    {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                ]}},
            ]}}),
            Ok(&[
                "ca.crt 644 1",
                "labels 644 x=\"y \\\"q\\\"\"",
                "namespace 644 ns",
                "token 644 tok",
            ]),
        );
    }
}
