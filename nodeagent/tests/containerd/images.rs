//! Images: archives and registries.

use std::io::Write;

use nodeagent::runtime::{ContainerSpec, Error, ImageRef, PullSecrets, Runtime};
use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::secrets::RegistryAuth;

use crate::world::{
    IMAGE, World, archive_without_layer, busybox_image, docker_archive, free_port, output,
    registry, uid,
};

/// The password of user `me`: `secret`.
const HTPASSWD: &str = "me:$2b$04$c.e6E2Gtm1iH5k7bN18JOubbJ8G/q.itgKW6K0VzU1.KWNqaqT6EC\n";

/// Pushes busybox in two compressed layers.
async fn push(reference: &str, auth: &RegistryAuth) {
    let image = busybox_image();
    let mut extra = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(7);
    header.set_mode(0o644);
    extra.append_data(&mut header, "pulled", &b"pulled\n"[..]).unwrap();
    let layers = [image.layer, extra.into_inner().unwrap()];
    let mut config: serde_json::Value = serde_json::from_slice(&image.config).unwrap();
    config["rootfs"]["diff_ids"] = layers.iter().map(|layer| crate::world::digest(layer)).collect();
    config["config"]["Cmd"] = serde_json::json!(["/bin/cat", "/pulled"]);
    config["config"]["User"] = "web".into();
    let compressed = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let layers: Vec<ImageLayer> =
        layers.iter().map(|layer| ImageLayer::oci_v1_gzip(compressed(layer), None)).collect();
    let client = oci_client::Client::new(ClientConfig {
        protocol: ClientProtocol::Http,
        ..ClientConfig::default()
    });
    let config = Config::oci_v1(serde_json::to_vec(&config).unwrap(), None);
    client.push(&reference.parse().unwrap(), &layers, config, auth, None).await.unwrap();
}

fn secrets(registry: &str, password: &str) -> PullSecrets {
    let mut secrets = PullSecrets::default();
    let json = serde_json::json!({"auths": {registry: {"username": "me", "password": password}}});
    secrets.add_docker_config_json(json.to_string().as_bytes()).unwrap();
    secrets
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_pulled_from_an_open_registry() {
    let world = World::start().await;
    let (server, port) = registry(&world.folder.path().join("registry"), None).await;
    let name = format!("localhost:{port}/team/app:v1");
    push(&name, &RegistryAuth::Anonymous).await;
    let image: ImageRef = name.parse().unwrap();
    assert_eq!(world.runtime().image(&image).await.unwrap(), None);
    let nobody = PullSecrets::default();
    let (one, two) = tokio::join!(
        world.runtime().pull_image(&image, &nobody),
        world.runtime().pull_image(&image, &nobody),
    );
    let pulled = one.unwrap();
    assert_eq!(pulled, two.unwrap());
    assert_eq!((pulled.user.as_str(), pulled.cmd.join(" ").as_str()), ("web", "/bin/cat /pulled"));
    assert_eq!(world.runtime().image(&image).await.unwrap().as_ref(), Some(&pulled));

    world.sandbox("p").await;
    let container =
        ContainerSpec { image: image.clone(), command: Vec::new(), ..world.container("p", "") };
    world.run_spec(&container).await;
    assert_eq!(world.log("p", 1).await, "stdout F pulled\n");

    let by_digest: ImageRef = pulled.repo_digests[0].parse().unwrap();
    assert_eq!(
        world.runtime().pull_image(&by_digest, &PullSecrets::default()).await.unwrap().id,
        pulled.id
    );
    let listed = world.runtime().images().await.unwrap();
    assert!(
        listed.iter().any(|listed| listed.id == pulled.id && listed.names.contains(&name)),
        "{listed:?}"
    );

    let missing = format!("localhost:{port}/team/app:v2").parse().unwrap();
    let error = world.runtime().pull_image(&missing, &PullSecrets::default()).await.unwrap_err();
    assert!(
        matches!(&error, Error::PullImage { reason, .. } if reason.ends_with("not found")),
        "{error:?}"
    );
    let closed = format!("localhost:{}/app:v1", free_port()).parse().unwrap();
    let error = world.runtime().pull_image(&closed, &PullSecrets::default()).await.unwrap_err();
    assert!(matches!(error, Error::RegistryUnavailable { .. }), "{error:?}");
    drop(server);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_pulled_with_credentials() {
    let world = World::start().await;
    let (server, port) = registry(&world.folder.path().join("registry"), Some(HTPASSWD)).await;
    let host = format!("localhost:{port}");
    let name = format!("{host}/private:v1");
    push(&name, &RegistryAuth::Basic("me".into(), "secret".into())).await;
    let image: ImageRef = name.parse().unwrap();
    let denied = async |secrets: PullSecrets| {
        let error = world.runtime().pull_image(&image, &secrets).await.unwrap_err();
        assert!(
            matches!(&error, Error::PullImage { reason, .. } if reason.starts_with("pull access denied")),
            "{error:?}"
        );
    };
    denied(PullSecrets::default()).await;
    denied(secrets(&host, "wrong")).await;
    let pulled = world.runtime().pull_image(&image, &secrets(&host, "secret")).await.unwrap();
    assert_eq!(world.runtime().image(&image).await.unwrap(), Some(pulled));
    denied(PullSecrets::default()).await; // The last pod's credential is not the next one's.
    drop(server);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_survives_a_failed_import_of_its_parts() {
    let world = World::start().await;
    let path = world.folder.path().join("half.tar");
    std::fs::write(&path, archive_without_layer("test.local/half:1")).unwrap();
    let error = world.runtime().import_archive(&path).await.unwrap_err();
    assert!(matches!(error, Error::Import { .. }), "{error:?}");
    // The end of a lease has containerd collect its garbage, and tell when it is done.
    let socket = world.child_options.socket();
    let ctr = |arguments: &[&str]| {
        let namespace = world.options.namespace.as_str();
        let to = ["--address", socket.to_str().unwrap(), "--namespace", namespace, "leases"];
        output("ctr", &[&to, arguments].concat())
    };
    assert_eq!(ctr(&["create", "--id", "collect"]).trim(), "collect");
    assert_eq!(ctr(&["delete", "--sync", "collect"]).trim(), "collect");
    world.sandbox("p").await;
    world.run("p", "echo alive").await;
    assert_eq!(world.log("p", 1).await, "stdout F alive\n");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_of_docker_are_read_too() {
    let world = World::start().await;
    let path = world.folder.path().join("docker.tar");
    std::fs::write(&path, docker_archive("saved:1")).unwrap();
    let names = world.runtime().import_archive(&path).await.unwrap();
    assert_eq!(names[0].to_string(), "docker.io/library/saved:1");
    world.sandbox("p").await;
    let container =
        ContainerSpec { image: names[0].clone(), command: Vec::new(), ..world.container("p", "") };
    world.run_spec(&container).await;
    assert_eq!(world.log("p", 1).await, "stdout F from the image\n");

    world.runtime().remove_sandbox(&uid("p")).await.unwrap();
    for name in [&names[0], &IMAGE.parse().unwrap()] {
        world.runtime().remove_image(name).await.unwrap(); // What is present is not read again.
    }
    let mut damaged = docker_archive("bad:1");
    let at = damaged.len() / 3;
    damaged[at] ^= 0xff;
    std::fs::write(&path, damaged).unwrap();
    let error = world.runtime().import_archive(&path).await.unwrap_err();
    assert!(matches!(error, Error::Import { .. }), "{error:?}");
    std::fs::write(&path, "no archive").unwrap();
    assert!(matches!(world.runtime().import_archive(&path).await, Err(Error::Import { .. })));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_images_free_their_content() {
    let world = World::start().await;
    let image: ImageRef = IMAGE.parse().unwrap();
    let blobs = world.child_options.root.join("io.containerd.content.v1.content/blobs/sha256");
    assert!(std::fs::read_dir(&blobs).unwrap().count() > 0);
    world.runtime().remove_image(&image).await.unwrap();
    assert_eq!(world.runtime().image(&image).await.unwrap(), None);
    assert_eq!(std::fs::read_dir(&blobs).unwrap().count(), 0);
    world.runtime().remove_image(&image).await.unwrap();
    world.end().await;
}
