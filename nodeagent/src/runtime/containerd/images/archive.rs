//! Loads image archives: OCI layouts, and what `docker save` writes.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::json;

use super::super::image_config::ImageConfig;
use super::super::locks::Locks;
use super::content::{self, Writer};
use super::manifest::{self, Descriptor, Document, MAX_DOCUMENT};
use super::{Lease, publish, unpack};
use crate::runtime::ImageRef;

/// Bytes read from the archive at once.
const PIECE: usize = 1 << 20;

/// Where an OCI layout keeps an image's name, the fuller one first.
const NAME_KEYS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// Media type of a layer that is a plain tar, as `docker save` writes them.
const PLAIN_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Loads all images of an archive and answers their names.
pub(super) async fn import(
    lease: &Lease,
    locks: &Locks,
    path: &Path,
) -> Result<Vec<ImageRef>, Failure> {
    let path = path.to_owned();
    let archive = tokio::task::spawn_blocking(move || Archive::open(&path)).await??;
    let images = match archive.files.contains_key("index.json") {
        true => layout_images(&archive)?,
        false if archive.files.contains_key("manifest.json") => docker_images(&archive)?,
        false => return Err("it has neither index.json nor manifest.json".into()),
    };
    if images.is_empty() {
        return Err("it holds no image for this platform".into());
    }
    let mut names = Vec::new();
    for image in images {
        let name = image.name.clone();
        import_one(lease, locks, &archive, image).await?;
        names.push(name);
    }
    Ok(names)
}

/// An image found in an archive.
struct Found {
    name: ImageRef,
    /// Index and the number of the chosen manifest, if the name stands for an index.
    index: Option<(Descriptor, usize, Vec<u8>)>,
    manifest: (Descriptor, Vec<u8>),
    config: (Descriptor, Vec<u8>),
    /// Each layer and the file that has it.
    layers: Vec<(Descriptor, String)>,
}

async fn import_one(
    lease: &Lease,
    locks: &Locks,
    archive: &Archive,
    image: Found,
) -> Result<(), Failure> {
    let client = &lease.client;
    let config: ImageConfig = serde_json::from_slice(&image.config.1)?;
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != image.layers.len() {
        return Err(format!(
            "{} has {} layers but names {}",
            image.name,
            image.layers.len(),
            diff_ids.len()
        )
        .into());
    }
    content::write(client, &image.config.0, image.config.1, HashMap::new()).await?;
    let mut parent = String::new();
    for ((layer, file), (diff_id, chain)) in
        image.layers.iter().zip(diff_ids.iter().zip(manifest::chain_ids(diff_ids)))
    {
        let lock = locks.of(&layer.digest);
        let _one_writer = lock.lock().await;
        if !content::present(client, &lease.id, &layer.digest).await? {
            archive.copy(client, layer, file).await?;
        }
        unpack::layer(client, layer, diff_id, &parent, &chain).await?;
        parent = chain;
    }
    let document: Document = serde_json::from_slice(&image.manifest.1)?;
    content::write(client, &image.manifest.0, image.manifest.1, document.gc_labels(None)).await?;
    let mut target = image.manifest.0;
    if let Some((descriptor, chosen, bytes)) = image.index {
        let document: Document = serde_json::from_slice(&bytes)?;
        content::write(client, &descriptor, bytes, document.gc_labels(Some(chosen))).await?;
        target = descriptor;
    }
    publish(client, &image.name.to_string(), &target, &image.config.0, &parent).await?;
    Ok(())
}

/// The images of an OCI layout: those entries of index.json that have a name.
fn layout_images(archive: &Archive) -> Result<Vec<Found>, Failure> {
    let top: Document = serde_json::from_slice(&archive.read("index.json")?)?;
    let mut images = Vec::new();
    for entry in top.manifests {
        let name = NAME_KEYS.iter().find_map(|key| entry.annotations.get(*key));
        let Some(name) = name else {
            return Err(format!("image {} has no name", entry.digest).into());
        };
        let name: ImageRef = name.parse()?;
        let bytes = archive.blob(&entry)?;
        let document: Document = serde_json::from_slice(&bytes)?;
        let (index, manifest) = match document.is_index() {
            false => (None, (entry, bytes)),
            true => match document.choose(std::env::consts::ARCH) {
                None => continue,
                Some((n, chosen)) => {
                    let manifest = (chosen.clone(), archive.blob(chosen)?);
                    (Some((entry, n, bytes)), manifest)
                }
            },
        };
        images.push(layout_image(archive, name, index, manifest)?);
    }
    Ok(images)
}

fn layout_image(
    archive: &Archive,
    name: ImageRef,
    index: Option<(Descriptor, usize, Vec<u8>)>,
    manifest: (Descriptor, Vec<u8>),
) -> Result<Found, Failure> {
    let document: Document = serde_json::from_slice(&manifest.1)?;
    let config = document.config.ok_or("a manifest has no configuration")?;
    let bytes = archive.blob(&config)?;
    let layers = document
        .layers
        .into_iter()
        .map(|layer| (layer.clone(), blob_path(&layer.digest)))
        .collect();
    Ok(Found { name, index, manifest, config: (config, bytes), layers })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// The images of an old `docker save`: plain layers, and no manifests, so they are made here.
fn docker_images(archive: &Archive) -> Result<Vec<Found>, Failure> {
    let list: Vec<DockerImage> = serde_json::from_slice(&archive.read("manifest.json")?)?;
    let mut images = Vec::new();
    for image in list {
        let bytes = archive.read(&image.config)?;
        let parsed: ImageConfig = serde_json::from_slice(&bytes)?;
        let config = Descriptor::of(DOCKER_CONFIG, &bytes);
        let mut layers = Vec::new();
        for (file, diff_id) in image.layers.into_iter().zip(&parsed.rootfs.diff_ids) {
            let size = archive.size(&file)?;
            // A plain layer's digest is its diff id; containerd compares it while the layer is written.
            layers.push((
                Descriptor {
                    media_type: PLAIN_LAYER.into(),
                    digest: diff_id.clone(),
                    size,
                    ..Default::default()
                },
                file,
            ));
        }
        let entry =
            |d: &Descriptor| json!({"mediaType": d.media_type, "digest": d.digest, "size": d.size});
        let document = json!({
            "schemaVersion": 2,
            "mediaType": manifest::DOCKER_MANIFEST,
            "config": entry(&config),
            "layers": layers.iter().map(|(layer, _)| entry(layer)).collect::<Vec<_>>(),
        });
        let document = serde_json::to_vec(&document)?;
        let manifest = Descriptor::of(manifest::DOCKER_MANIFEST, &document);
        for name in image.repo_tags.unwrap_or_default() {
            images.push(Found {
                name: name.parse()?,
                index: None,
                manifest: (manifest.clone(), document.clone()),
                config: (config.clone(), bytes.clone()),
                layers: layers.clone(),
            });
        }
    }
    Ok(images)
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

/// A tar file whose entries are known by place, so that blobs are read straight from it.
struct Archive {
    file: PathBuf,
    files: BTreeMap<String, (u64, u64)>,
    /// Keeps the unpacked copy of a compressed archive.
    _unpacked: Option<Removed>,
}

/// A file that goes with its owner.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Archive {
    fn open(path: &Path) -> io::Result<Self> {
        let mut magic = [0; 2];
        let mut file = File::open(path)?;
        let compressed = file.read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b];
        file.seek(SeekFrom::Start(0))?;
        let (file_path, unpacked) = match compressed {
            false => (path.to_owned(), None),
            true => {
                let copy = std::env::temp_dir()
                    .join(format!("improv-import-{}", uuid::Uuid::new_v4().simple()));
                let guard = Removed(copy.clone());
                let mut output = File::create_new(&copy)?;
                io::copy(&mut GzDecoder::new(file), &mut output)?;
                (copy, Some(guard))
            }
        };
        let mut archive = tar::Archive::new(File::open(&file_path)?);
        let (mut files, mut links) = (BTreeMap::new(), Vec::new());
        for entry in archive.entries_with_seek()? {
            let entry = entry?;
            let path = clean(&entry.path()?);
            match entry.link_name()? {
                Some(target) => links.push((
                    path.clone(),
                    clean(&Path::new(&path).parent().unwrap_or(Path::new("")).join(target)),
                )),
                None => drop(files.insert(path, (entry.raw_file_position(), entry.size()))),
            }
        }
        for (path, target) in links {
            if let Some(place) = files.get(&target).copied() {
                files.insert(path, place);
            }
        }
        Ok(Self { file: file_path, files, _unpacked: unpacked })
    }

    fn place(&self, path: &str) -> Result<(u64, u64), Failure> {
        self.files.get(path).copied().ok_or_else(|| format!("{path} is missing").into())
    }

    fn size(&self, path: &str) -> Result<i64, Failure> {
        Ok(i64::try_from(self.place(path)?.1)?)
    }

    /// A document of the archive.
    fn read(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let (at, size) = self.place(path)?;
        if i64::try_from(size)? > MAX_DOCUMENT {
            return Err(format!("{path} is larger than {MAX_DOCUMENT} bytes").into());
        }
        let mut file = File::open(&self.file)?;
        file.seek(SeekFrom::Start(at))?;
        let mut bytes = Vec::new();
        file.take(size).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// A document by its digest, which is checked.
    fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Failure> {
        let bytes = self.read(&blob_path(&descriptor.digest))?;
        match manifest::digest(&bytes) == descriptor.digest {
            true => Ok(bytes),
            false => Err(format!("the content of {} is damaged", descriptor.digest).into()),
        }
    }

    /// Writes a file of the archive to containerd.
    async fn copy(
        &self,
        client: &super::Client,
        descriptor: &Descriptor,
        path: &str,
    ) -> Result<(), Failure> {
        let (at, size) = self.place(path)?;
        let Some(mut writer) = Writer::open(client, descriptor).await? else { return Ok(()) };
        let mut file = File::open(&self.file)?;
        let done = u64::try_from(writer.offset)?;
        file.seek(SeekFrom::Start(at + done))?;
        let mut rest = file.take(size.saturating_sub(done));
        loop {
            let mut piece = vec![0; PIECE];
            let n = rest.read(&mut piece)?;
            if n == 0 {
                break;
            }
            piece.truncate(n);
            writer.write(piece.into()).await?;
        }
        writer.commit(HashMap::new()).await?;
        Ok(())
    }
}

/// A path without `.` and with `..` resolved.
fn clean(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            std::path::Component::ParentDir => drop(parts.pop()),
            _ => (),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_by_clean_paths() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        let mut builder = tar::Builder::new(File::create(&path).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        builder.append_data(&mut header, "./x/layer.tar", &b"hello"[..]).unwrap();
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        builder.append_link(&mut link, "y/layer.tar", "../x/layer.tar").unwrap();
        builder.into_inner().unwrap();
        let archive = Archive::open(&path).unwrap();
        assert_eq!(archive.read("x/layer.tar").unwrap(), b"hello");
        assert_eq!(archive.read("y/layer.tar").unwrap(), b"hello");
        assert_eq!(archive.read("z").unwrap_err().to_string(), "z is missing");
    }
}
