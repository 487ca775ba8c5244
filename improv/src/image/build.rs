//! OCI images from files, without Docker: one layer, one manifest, one archive.
//!
//! Source: the OCI image specification, "Image Layout", "Image Manifest" and "Image Configuration".

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use flate2::Compression;
use flate2::write::GzEncoder;
use oci_spec::image::{
    ConfigBuilder, Descriptor, DescriptorBuilder, Digest, HistoryBuilder,
    ImageConfigurationBuilder, ImageIndexBuilder, ImageManifestBuilder, MediaType, PlatformBuilder,
    RootFsBuilder,
};
use sha2::{Digest as _, Sha256};

/// What an image is made of.
#[derive(Debug, Clone, Default)]
pub(crate) struct ImageSpec {
    /// Reference that containerd files the image under, e.g. `improv.dev/hello:0.1.0`.
    pub name: String,
    /// Files to put into the single layer: path in the image → file on this machine.
    pub files: BTreeMap<PathBuf, PathBuf>,
    /// The program that runs, with its fixed arguments.
    pub entrypoint: Vec<String>,
    /// Numeric `uid` or `uid:gid` that the program runs as.
    pub user: Option<String>,
    /// Labels of the image configuration.
    pub labels: BTreeMap<String, String>,
}

/// Why an image could not be built.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file that the image needs cannot be read, or the archive cannot be written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The specification does not make a valid OCI document.
    #[error("cannot make the OCI {document} of image {name}")]
    Document {
        /// Which document.
        document: &'static str,
        /// Of which image.
        name: String,
        /// Why it failed.
        source: oci_spec::OciSpecError,
    },
}

/// Writes `spec` as an OCI archive to `out` and gives the digest of its manifest.
///
/// Equal input gives an equal archive: times are zero and entries are sorted.
///
/// # Errors
/// When a file cannot be read or the archive cannot be written.
pub(crate) fn build(spec: &ImageSpec, out: &Path) -> Result<String, Error> {
    let layer = layer(spec)?;
    let config = config(spec, &layer.diff_id).map_err(document("configuration", spec))?;
    let config_blob = Blob::new(MediaType::ImageConfig, config);
    let layer_blob = Blob {
        media_type: MediaType::ImageLayerGzip,
        digest: sha256(&layer.gzip),
        bytes: layer.gzip,
    };
    let manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(config_blob.descriptor())
        .layers(vec![layer_blob.descriptor()])
        .build()
        .and_then(|manifest| manifest.to_string())
        .map_err(document("manifest", spec))?;
    let manifest_blob = Blob::new(MediaType::ImageManifest, manifest.into_bytes());
    let index = index(spec, &manifest_blob).map_err(document("index", spec))?;
    write_archive(out, &index, &[&config_blob, &layer_blob, &manifest_blob])
        .map_err(|source| Error::Io { action: "write the archive", path: out.into(), source })?;
    Ok(format!("sha256:{}", manifest_blob.digest))
}

/// Bytes that the archive holds under their digest.
struct Blob {
    media_type: MediaType,
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(media_type: MediaType, bytes: Vec<u8>) -> Self {
        Self { media_type, digest: sha256(&bytes), bytes }
    }

    fn descriptor(&self) -> Descriptor {
        let digest = Digest::from_str(&format!("sha256:{}", self.digest));
        let digest = digest.expect("64 hexadecimal digits are a digest");
        Descriptor::new(self.media_type.clone(), self.bytes.len() as u64, digest)
    }
}

struct Layer {
    gzip: Vec<u8>,
    /// Digest of the uncompressed tar.
    diff_id: String,
}

fn layer(spec: &ImageSpec) -> Result<Layer, Error> {
    let mut tar = tar::Builder::new(Vec::new());
    let written = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { action: "add to the image", path, source }
    };
    let inside = |target: &'_ Path| target.strip_prefix("/").unwrap_or(target).to_owned();
    let targets: Vec<PathBuf> = spec.files.keys().map(|target| inside(target)).collect();
    let parents = targets.iter().flat_map(|target| target.ancestors().skip(1));
    let folders: BTreeSet<&Path> =
        parents.filter(|folder| !folder.as_os_str().is_empty()).collect();
    for folder in folders {
        let mut header = header(0o755, 0, tar::EntryType::Directory);
        tar.append_data(&mut header, folder, io::empty()).map_err(written(folder))?;
    }
    for (target, source_path) in &spec.files {
        let bytes = std::fs::read(source_path).map_err(|source| Error::Io {
            action: "read",
            path: source_path.clone(),
            source,
        })?;
        let mode =
            std::fs::metadata(source_path).map_or(0o644, |meta| meta.permissions().mode() & 0o777);
        let mut header = header(mode, bytes.len() as u64, tar::EntryType::Regular);
        tar.append_data(&mut header, inside(target), bytes.as_slice())
            .map_err(written(source_path))?;
    }
    let plain = tar.into_inner().map_err(written(Path::new("the layer")))?;
    let diff_id = format!("sha256:{}", sha256(&plain));
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&plain).map_err(written(Path::new("the layer")))?;
    Ok(Layer { gzip: gzip.finish().map_err(written(Path::new("the layer")))?, diff_id })
}

fn header(mode: u32, size: u64, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn config(spec: &ImageSpec, diff_id: &str) -> oci_spec::Result<Vec<u8>> {
    let mut run = ConfigBuilder::default()
        .entrypoint(spec.entrypoint.clone())
        .env(vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()]);
    if let Some(user) = &spec.user {
        run = run.user(user);
    }
    if !spec.labels.is_empty() {
        run = run
            .labels(spec.labels.clone().into_iter().collect::<std::collections::HashMap<_, _>>());
    }
    let configuration = ImageConfigurationBuilder::default()
        .architecture(architecture())
        .os("linux")
        .config(run.build()?)
        .rootfs(RootFsBuilder::default().typ("layers").diff_ids(vec![diff_id.to_owned()]).build()?)
        .history(vec![HistoryBuilder::default().created_by("improv image build").build()?])
        .build()?;
    text(&configuration)
}

fn index(spec: &ImageSpec, manifest: &Blob) -> oci_spec::Result<Vec<u8>> {
    let names = [
        ("io.containerd.image.name".to_owned(), spec.name.clone()),
        ("org.opencontainers.image.ref.name".to_owned(), spec.name.clone()),
    ];
    let plain = manifest.descriptor();
    let descriptor = DescriptorBuilder::default()
        .media_type(plain.media_type().clone())
        .digest(plain.digest().clone())
        .size(plain.size())
        .annotations(names.into_iter().collect::<std::collections::HashMap<_, _>>())
        .platform(PlatformBuilder::default().architecture(architecture()).os("linux").build()?)
        .build()?;
    let index = ImageIndexBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageIndex)
        .manifests(vec![descriptor])
        .build()?;
    text(&index)
}

/// A document as text, with sorted members: its own maps have no order, and equal input must give equal bytes.
fn text(document: &impl serde::Serialize) -> oci_spec::Result<Vec<u8>> {
    let sorted = serde_json::to_value(document)?;
    Ok(sorted.to_string().into_bytes())
}

fn write_archive(out: &Path, index: &[u8], blobs: &[&Blob]) -> io::Result<()> {
    let mut tar = tar::Builder::new(std::fs::File::create(out)?);
    let mut add = |path: &str, bytes: &[u8]| {
        tar.append_data(
            &mut header(0o644, bytes.len() as u64, tar::EntryType::Regular),
            path,
            bytes,
        )
    };
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add("index.json", index)?;
    for blob in blobs {
        add(&format!("blobs/sha256/{}", blob.digest), &blob.bytes)?;
    }
    tar.into_inner()?.flush()
}

/// The name that OCI gives to this machine's processor.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn document<'a>(
    document: &'static str,
    spec: &'a ImageSpec,
) -> impl FnOnce(oci_spec::OciSpecError) -> Error + 'a {
    move |source| Error::Document { document, name: spec.name.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(spec: &ImageSpec, folder: &Path) -> (String, BTreeMap<String, Vec<u8>>) {
        let out = folder.join("image.tar");
        let digest = build(spec, &out).unwrap();
        let mut entries = BTreeMap::new();
        let mut tar = tar::Archive::new(std::fs::File::open(&out).unwrap());
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            entries.insert(entry.path().unwrap().display().to_string(), bytes);
        }
        (digest, entries)
    }

    fn spec(folder: &Path) -> ImageSpec {
        let program = folder.join("program");
        std::fs::write(&program, b"#!").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        ImageSpec {
            name: "improv.dev/hello:1".into(),
            files: [("/usr/bin/hello".into(), program)].into(),
            entrypoint: vec!["/usr/bin/hello".into()],
            user: Some("65532".into()),
            ..ImageSpec::default()
        }
    }

    #[test]
    fn every_descriptor_names_the_bytes_that_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let (digest, entries) = archive(&spec(folder.path()), folder.path());
        let index: serde_json::Value = serde_json::from_slice(&entries["index.json"]).unwrap();
        assert_eq!(index["manifests"][0]["digest"], digest);
        assert_eq!(
            index["manifests"][0]["annotations"]["io.containerd.image.name"],
            "improv.dev/hello:1"
        );
        let blob = |digest: &str| {
            &entries[&format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"))]
        };
        let manifest: serde_json::Value = serde_json::from_slice(blob(&digest)).unwrap();
        for descriptor in [&manifest["config"], &manifest["layers"][0]] {
            let bytes = blob(descriptor["digest"].as_str().unwrap());
            assert_eq!(descriptor["size"], bytes.len());
            assert_eq!(descriptor["digest"], format!("sha256:{}", sha256(bytes)));
        }
        let config: serde_json::Value =
            serde_json::from_slice(blob(manifest["config"]["digest"].as_str().unwrap())).unwrap();
        assert_eq!(config["config"]["User"], "65532");
        assert_eq!(config["config"]["Entrypoint"][0], "/usr/bin/hello");
    }

    #[test]
    fn equal_input_gives_an_equal_image() {
        let folder = tempfile::tempdir().unwrap();
        let spec = spec(folder.path());
        assert_eq!(archive(&spec, folder.path()), archive(&spec, folder.path()));
    }

    #[test]
    fn a_missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut spec = spec(folder.path());
        spec.files.insert("/etc/x".into(), "/does/not/exist".into());
        let error = build(&spec, &folder.path().join("image.tar")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /does/not/exist");
    }
}
