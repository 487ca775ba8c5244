//! Volumes of a pod: where they are, how they are made, kept fresh and taken away.

mod atomic;
pub mod host_path;
mod mounts;
pub mod payload;
pub mod subpath;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{
    BoundObjectReference, TokenRequest as ApiTokenRequest, TokenRequestSpec,
};
use k8s_openapi::api::core::v1::{ConfigMap, EmptyDirVolumeSource, Secret, ServiceAccount, Volume};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;

pub use atomic::Owner;
use payload::{TokenRequest, Tokens};

use crate::objects::{Objects, Reader};
use crate::pods::env::{Facts, Sources};
use crate::pods::observed::Wanted;
use crate::pods::quantity;

/// A token is replaced when this share of its life has passed.
const TOKEN_SHARE: f64 = 0.8;
/// A token is replaced at this age at the latest.
const TOKEN_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Why a volume could not be set up; the text is that of the event `FailedMount`.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {reason}")]
pub struct Error {
    /// The volume's name.
    pub volume: String,
    /// What is wrong.
    pub reason: String,
}

/// Where the volumes of all pods are.
#[derive(Clone, Debug)]
pub struct Places {
    /// For what outlives a reboot.
    pub disk: PathBuf,
    /// For what must stay in memory.
    pub memory: PathBuf,
}

impl Places {
    /// The two folders of a pod.
    pub fn of_pod(&self, uid: &str) -> [PathBuf; 2] {
        [self.disk.join("pods").join(uid), self.memory.join("pods").join(uid)]
    }

    /// Where a volume is on the node.
    pub fn volume(&self, uid: &str, volume: &Volume) -> PathBuf {
        if let Some(source) = &volume.host_path {
            return PathBuf::from(&source.path);
        }
        // Files in memory cannot be executed where /run is mounted so; scripts come in config maps.
        let secret = volume.secret.is_some() || volume.projected.is_some();
        let base = if secret { &self.memory } else { &self.disk };
        base.join("pods").join(uid).join("volumes").join(&volume.name)
    }

    /// A file of the pod that a container writes its termination message to.
    pub fn termination_log(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.memory
            .join("pods")
            .join(uid)
            .join("termination")
            .join(format!("{container}.{attempt}"))
    }

    /// Where a subPath of a volume is pinned for a container.
    pub fn subpath(&self, uid: &str, container: &str, index: usize) -> PathBuf {
        self.memory.join("pods").join(uid).join("subpaths").join(format!("{container}.{index}"))
    }

    /// UIDs of pods that have left something behind.
    pub fn pods(&self) -> BTreeSet<String> {
        let folders = [self.disk.join("pods"), self.memory.join("pods")];
        let entries = folders.iter().filter_map(|f| std::fs::read_dir(f).ok()).flatten().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    }
}

struct HeldToken {
    token: String,
    renew_at: Timestamp,
}

/// The volumes of one pod.
pub struct PodVolumes {
    places: Places,
    client: Client,
    objects: Objects,
    held_maps: Mutex<BTreeMap<String, Reader<ConfigMap>>>,
    held_secrets: Mutex<BTreeMap<String, Reader<Secret>>>,
    tokens: Mutex<BTreeMap<TokenRequest, HeldToken>>,
    /// Held while files are written; true once they are removed for good.
    removed: tokio::sync::Mutex<bool>,
}

impl PodVolumes {
    /// Nothing is done yet.
    pub fn new(places: Places, client: Client, objects: Objects) -> Self {
        Self {
            places,
            client,
            objects,
            held_maps: Mutex::default(),
            held_secrets: Mutex::default(),
            tokens: Mutex::default(),
            removed: tokio::sync::Mutex::default(),
        }
    }

    /// The named objects as they are now. They stay watched as long as this pod's volumes live.
    ///
    /// # Errors
    /// The API did not answer, or refused.
    pub async fn fetch(
        &self,
        namespace: &str,
        maps: &[String],
        secrets: &[String],
    ) -> Result<Sources, String> {
        let mut sources = Sources::default();
        for name in maps {
            let watched = {
                let mut held = self.held_maps.lock();
                held.entry(name.clone())
                    .or_insert_with(|| Reader::new(self.objects.config_map(namespace, name)))
                    .look()
            };
            if let Some(map) = watched.get().await? {
                sources.config_maps.insert(name.clone(), map);
            }
        }
        for name in secrets {
            let watched = {
                let mut held = self.held_secrets.lock();
                held.entry(name.clone())
                    .or_insert_with(|| Reader::new(self.objects.secret(namespace, name)))
                    .look()
            };
            if let Some(secret) = watched.get().await? {
                sources.secrets.insert(name.clone(), secret);
            }
        }
        Ok(sources)
    }

    /// Sets up every volume. May be repeated: what is there and right stays.
    ///
    /// # Errors
    /// Names the first volume that failed.
    pub async fn mount(&self, wanted: &Wanted, facts: &Facts) -> Result<(), Error> {
        let removed = self.removed.lock().await;
        if *removed {
            return Ok(()); // A refresh that comes too late.
        }
        for volume in volumes(wanted) {
            let failed = |reason: String| Error { volume: volume.name.clone(), reason };
            if payload::is_payload(volume) {
                self.write_payload(wanted, volume, facts).await.map_err(failed)?;
            } else if let Some(source) = &volume.empty_dir {
                let path = self.places.volume(&wanted.uid, volume);
                let group = fs_group(wanted);
                empty_dir(&path, source, group).map_err(|e| failed(e.to_string()))?;
            } else if let Some(source) = &volume.host_path {
                host_path::prepare(source).map_err(failed)?;
            } else {
                return Err(failed("this kind of volume is not supported by this node".to_owned()));
            }
        }
        Ok(())
    }

    async fn write_payload(
        &self,
        wanted: &Wanted,
        volume: &Volume,
        facts: &Facts,
    ) -> Result<(), String> {
        let (maps, secrets, requests) = payload::references(volume);
        let sources = self.fetch(&wanted.namespace, &maps, &secrets).await?;
        let mut tokens = Tokens::new();
        for request in requests {
            let token = self.token(wanted, &request).await?;
            tokens.insert(request, token);
        }
        let has_token = !tokens.is_empty();
        let files = payload::payload(&wanted.pod, volume, &sources, &tokens, facts)?;
        let Some(files) = files else { return Ok(()) };
        let owner =
            Owner { user: has_token.then(|| only_user(wanted)).flatten(), group: fs_group(wanted) };
        let path = self.places.volume(&wanted.uid, volume);
        // Some small files: not worth a thread, which would go on when this is dropped.
        atomic::write(&path, &files, owner).map(drop).map_err(|e| e.to_string())
    }

    /// A token for the pod's service account, asked for anew when the old one has aged.
    async fn token(&self, wanted: &Wanted, request: &TokenRequest) -> Result<String, String> {
        let now = Timestamp::now();
        if let Some(held) = self.tokens.lock().get(request).filter(|t| t.renew_at > now) {
            return Ok(held.token.clone());
        }
        let account = wanted.pod.spec.as_ref().and_then(|s| s.service_account_name.clone());
        let account = account.unwrap_or_else(|| "default".to_owned());
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), &wanted.namespace);
        let body = ApiTokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: (!request.audience.is_empty()).then(|| vec![request.audience.clone()]),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(wanted.name.clone()),
                    uid: Some(wanted.uid.clone()),
                }),
                expiration_seconds: Some(request.seconds),
            }),
            ..ApiTokenRequest::default()
        };
        let failed = |why: String| format!("failed to fetch token: {why}");
        let answer: ApiTokenRequest = api
            .create_subresource("token", &account, &PostParams::default(), &body)
            .await
            .map_err(|e| failed(e.to_string()))?;
        let status = answer.status.unwrap_or_default();
        let (Some(token), Some(end)) = (status.token, status.expiration_timestamp) else {
            return Err(failed("no token in the answer".to_owned()));
        };
        let life = end.0.duration_since(now).unsigned_abs();
        let renew_in = life.mul_f64(TOKEN_SHARE).min(TOKEN_AGE_MAX);
        let held =
            HeldToken { token: token.clone(), renew_at: crate::pods::plan::after(now, renew_in) };
        self.tokens.lock().insert(request.clone(), held);
        Ok(token)
    }

    /// Removes the volumes for good.
    ///
    /// # Errors
    /// As [`remove_pod`].
    pub async fn unmount(&self, uid: &str) -> Result<(), String> {
        let mut removed = self.removed.lock().await;
        *removed = true;
        let (places, uid) = (self.places.clone(), uid.to_owned());
        let removing = tokio::task::spawn_blocking(move || remove_pod(&places, &uid));
        removing.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
    }

    /// Waits until files of a mounted volume may have to be written anew. Never answers if none can change.
    pub async fn stale(&self) {
        let mut waits: Vec<BoxFuture<'static, ()>> = Vec::new();
        waits.extend(self.held_maps.lock().values().map(|r| r.changed().boxed()));
        waits.extend(self.held_secrets.lock().values().map(|r| r.changed().boxed()));
        if let Some(at) = self.tokens.lock().values().map(|t| t.renew_at).min() {
            let wait = at.duration_since(Timestamp::now());
            let wait = if wait.is_negative() { Duration::ZERO } else { wait.unsigned_abs() };
            waits.push(Box::pin(tokio::time::sleep(wait)));
        }
        waits.push(Box::pin(std::future::pending()));
        futures::future::select_all(waits).await;
    }
}

/// Removes all that a pod has on the node: mounts first, and nothing if one of them stays.
///
/// # Errors
/// A mount is busy or a file cannot be removed.
pub fn remove_pod(places: &Places, uid: &str) -> io::Result<()> {
    if uid.is_empty() || uid.contains('/') || uid.contains("..") {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a pod uid"));
    }
    for folder in places.of_pod(uid) {
        mounts::unmount_below(&folder)?;
        match std::fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => (),
        }
    }
    Ok(())
}

/// Takes every mount below a folder away, so that the folder can be removed.
///
/// For those who clean up after an agent that is gone; its containers must be gone, too.
///
/// # Errors
/// One of the mounts stays.
pub fn unmount_all(folder: &Path) -> io::Result<()> {
    mounts::unmount_below(folder)
}

/// The volumes of a pod.
pub fn volumes(wanted: &Wanted) -> impl Iterator<Item = &Volume> {
    wanted.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten())
}

fn fs_group(wanted: &Wanted) -> Option<u32> {
    let security = wanted.pod.spec.as_ref()?.security_context.as_ref()?;
    u32::try_from(security.fs_group?).ok()
}

/// The one user that all containers run as, if there is such: then a token is his alone.
fn only_user(wanted: &Wanted) -> Option<u32> {
    let spec = wanted.pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|s| s.run_as_user);
    let users: BTreeSet<Option<i64>> = wanted
        .containers
        .iter()
        .map(|c| c.spec.security_context.as_ref().and_then(|s| s.run_as_user).or(of_pod))
        .collect();
    match users.into_iter().collect::<Vec<_>>()[..] {
        [Some(user)] => u32::try_from(user).ok(),
        _ => None,
    }
}

fn empty_dir(path: &Path, source: &EmptyDirVolumeSource, group: Option<u32>) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(path)?;
    if source.medium.as_deref() == Some("Memory") && !mounts::is_mounted(path)? {
        let size = source.size_limit.as_ref().and_then(quantity::units);
        mounts::tmpfs(path, size)?;
    }
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    if group.is_some() {
        std::os::unix::fs::chown(path, None, group)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}
