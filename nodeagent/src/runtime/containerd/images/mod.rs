//! Images in containerd: what is there, pulling, importing, removing.

mod archive;
mod content;
mod manifest;
mod registry;
mod unpack;
mod userdb;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use containerd_client::services::v1::{
    CreateImageRequest, CreateRequest, DeleteImageRequest, DeleteRequest, GetImageRequest,
    Image as WireImage, ListImagesRequest, UpdateImageRequest,
};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use prost_types::FieldMask;
use tonic::{Code, Status};

use super::client::{Client, SNAPSHOTTER, done, failed, optional};
use super::image_config::ImageConfig;
use super::locks::Locks;
use super::users::UserDb;
use crate::runtime::{Bytes, Error, Image, ImageRef, PullSecrets};
use manifest::{Descriptor, Document};

/// How long a pull's content is safe from the garbage collector if the agent dies.
const LEASE: Duration = Duration::from_secs(3600);

/// All about an image that containers need.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    /// Digest of the configuration.
    pub(super) id: String,
    /// The image's root snapshot.
    pub(super) chain: String,
    pub(super) config: ImageConfig,
    target: String,
    size: u64,
}

pub(super) struct Images {
    client: Client,
    registries: registry::Registries,
    by_target: Mutex<HashMap<String, Arc<Loaded>>>,
    users: Mutex<HashMap<String, Arc<UserDb>>>,
    locks: Locks,
}

impl Images {
    pub(super) fn new(client: Client, insecure_registries: Vec<String>) -> Self {
        Self {
            client,
            registries: registry::Registries::new(insecure_registries),
            by_target: Mutex::default(),
            users: Mutex::default(),
            locks: Locks::default(),
        }
    }

    /// The image of that name, if it is whole.
    pub(super) async fn load(&self, name: &str) -> Result<Option<Arc<Loaded>>, Error> {
        let request = self.client.request(GetImageRequest { name: name.to_owned() });
        let found = optional(self.client.images().get(request).await)
            .map_err(failed("look up an image"))?;
        let Some(target) =
            found.and_then(|answer| answer.into_inner().image).and_then(|image| image.target)
        else {
            return Ok(None);
        };
        self.load_target(&target.digest).await.map_err(failed("read an image"))
    }

    async fn load_target(&self, target: &str) -> Result<Option<Arc<Loaded>>, Status> {
        if let Some(loaded) = self.by_target.lock().get(target) {
            return Ok(Some(loaded.clone()));
        }
        let Some(loaded) = optional(read_image(&self.client, target).await)? else {
            return Ok(None);
        };
        if !loaded.chain.is_empty() && !unpack::snapshot_exists(&self.client, &loaded.chain).await?
        {
            return Ok(None);
        }
        let loaded = Arc::new(loaded);
        self.by_target.lock().insert(target.to_owned(), loaded.clone());
        Ok(Some(loaded))
    }

    pub(super) async fn get(&self, image: &ImageRef) -> Result<Option<Image>, Error> {
        let name = image.to_string();
        Ok(self.load(&name).await?.map(|loaded| describe(&loaded, &[name])))
    }

    pub(super) async fn list(&self) -> Result<Vec<Image>, Error> {
        let request = self.client.request(ListImagesRequest::default());
        let answer =
            self.client.images().list(request).await.map_err(failed("list images"))?.into_inner();
        let mut names: std::collections::BTreeMap<String, Vec<String>> = Default::default();
        for image in answer.images {
            names.entry(image.target.unwrap_or_default().digest).or_default().push(image.name);
        }
        let mut images = Vec::new();
        for (target, names) in names {
            if let Some(loaded) =
                self.load_target(&target).await.map_err(failed("read an image"))?
            {
                images.push(describe(&loaded, &names));
            }
        }
        Ok(images)
    }

    pub(super) async fn remove(&self, image: &ImageRef) -> Result<(), Error> {
        let request =
            DeleteImageRequest { name: image.to_string(), sync: true, ..Default::default() };
        done(self.client.images().delete(self.client.request(request)).await)
            .map_err(failed("remove an image"))?;
        self.by_target.lock().clear();
        Ok(())
    }

    pub(super) async fn pull(
        &self,
        image: &ImageRef,
        secrets: &PullSecrets,
    ) -> Result<Image, Error> {
        let lock = self.locks.of(&image.to_string());
        let _one_at_a_time = lock.lock().await;
        let lease = Lease::take(&self.client).await.map_err(failed("create a lease"))?;
        let result = registry::pull(&lease, &self.registries, &self.locks, image, secrets).await;
        lease.release().await;
        result?;
        let missing = || Error::PullImage {
            image: image.to_string(),
            reason: "the image is not whole".to_owned(),
        };
        self.get(image).await?.ok_or_else(missing)
    }

    pub(super) async fn import(&self, path: &Path) -> Result<Vec<ImageRef>, Error> {
        let lease = Lease::take(&self.client).await.map_err(failed("create a lease"))?;
        let result = archive::import(&lease, &self.locks, path).await;
        lease.release().await;
        result.map_err(|reason| Error::Import {
            path: path.display().to_string(),
            reason: reason.to_string(),
        })
    }

    /// The users that an image knows; read once.
    pub(super) async fn users(&self, chain: &str) -> Result<Arc<UserDb>, Error> {
        if let Some(users) = self.users.lock().get(chain) {
            return Ok(users.clone());
        }
        // Without a lease the view is garbage before it is read.
        let failed = failed("read the image's users");
        let lease = Lease::take(&self.client).await.map_err(&failed)?;
        let read = userdb::read(&lease.client, chain).await;
        lease.release().await;
        let users = Arc::new(read.map_err(&failed)?);
        self.users.lock().insert(chain.to_owned(), users.clone());
        Ok(users)
    }
}

fn describe(loaded: &Loaded, names: &[String]) -> Image {
    let defaults = &loaded.config.config;
    let at_digest = |name: &String| Some(name.parse::<ImageRef>().ok()?.at_digest(&loaded.target));
    Image {
        id: loaded.id.clone(),
        names: names.to_vec(),
        repo_digests: names.iter().filter_map(at_digest).collect(),
        size: Bytes(loaded.size),
        user: defaults.user.clone(),
        stop_signal: Some(defaults.stop_signal.clone()).filter(|signal| !signal.is_empty()),
        entrypoint: defaults.entrypoint.clone(),
        cmd: defaults.cmd.clone(),
        volumes: defaults.volumes.keys().cloned().collect(),
    }
}

/// Follows an image's target down to its configuration.
async fn read_image(client: &Client, target: &str) -> Result<Loaded, Status> {
    let parse = |digest: &str, bytes: Vec<u8>| {
        serde_json::from_slice::<Document>(&bytes)
            .map_err(|error| Status::data_loss(format!("{digest} is not a manifest: {error}")))
    };
    let mut document = parse(target, content::read(client, target).await?)?;
    if document.is_index() {
        let chosen = document
            .choose(std::env::consts::ARCH)
            .map(|(_, descriptor)| descriptor.digest.clone());
        let digest = chosen
            .ok_or_else(|| Status::not_found("the image has no manifest for this platform"))?;
        document = parse(&digest, content::read(client, &digest).await?)?;
    }
    let config = document
        .config
        .clone()
        .ok_or_else(|| Status::data_loss("the image has no configuration"))?;
    let bytes = content::read(client, &config.digest).await?;
    let parsed: ImageConfig = serde_json::from_slice(&bytes).map_err(|error| {
        Status::data_loss(format!("{} is not an image configuration: {error}", config.digest))
    })?;
    let size: i64 = document.layers.iter().chain([&config]).map(|descriptor| descriptor.size).sum();
    Ok(Loaded {
        id: config.digest,
        chain: manifest::chain_ids(&parsed.rootfs.diff_ids).pop().unwrap_or_default(),
        config: parsed,
        target: target.to_owned(),
        size: size.try_into().unwrap_or_default(),
    })
}

/// Ties the snapshots to the image and gives it its name: the last step of a pull or import.
async fn publish(
    client: &Client,
    name: &str,
    target: &Descriptor,
    config: &Descriptor,
    chain: &str,
) -> Result<(), Status> {
    let key = format!("containerd.io/gc.ref.snapshot.{SNAPSHOTTER}");
    content::set_labels(client, &config.digest, HashMap::from([(key, chain.to_owned())])).await?;
    let labels = HashMap::from([("improv.dev/image-id".to_owned(), config.digest.clone())]);
    let image = WireImage {
        name: name.to_owned(),
        labels,
        target: Some(target.wire()),
        ..Default::default()
    };
    let create = CreateImageRequest { image: Some(image.clone()), ..Default::default() };
    match client.images().create(client.request(create)).await {
        Err(status) if status.code() == Code::AlreadyExists => {
            let update_mask = Some(FieldMask { paths: vec!["target".into(), "labels".into()] });
            let update =
                UpdateImageRequest { image: Some(image), update_mask, ..Default::default() };
            client.images().update(client.request(update)).await?;
        }
        result => drop(result?),
    }
    Ok(())
}

/// Holds what is being written until an image holds it.
struct Lease {
    client: Client,
    id: String,
}

impl Lease {
    async fn take(client: &Client) -> Result<Self, Status> {
        let id = format!("improv-{}", uuid::Uuid::new_v4().simple());
        let until = Timestamp::now() + LEASE;
        let labels = HashMap::from([("containerd.io/gc.expire".to_owned(), format!("{until:.0}"))]);
        client.leases().create(client.request(CreateRequest { id: id.clone(), labels })).await?;
        Ok(Self { client: client.with_lease(&id), id })
    }

    /// Lets go. A lease that cannot be deleted now ends by itself.
    async fn release(self) {
        let request = self.client.request(DeleteRequest { id: self.id, sync: false });
        let _ = self.client.leases().delete(request).await;
    }
}
