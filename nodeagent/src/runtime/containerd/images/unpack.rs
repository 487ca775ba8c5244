//! Turns layers into snapshots.

use std::collections::HashMap;

use containerd_client::services::v1::ApplyRequest;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use tonic::{Code, Status};

use super::super::client::{Client, SNAPSHOTTER, optional};
use super::content;
use super::manifest::Descriptor;

/// Applies one layer on top of the snapshot `parent` (empty for the first) and commits it as `chain`.
///
/// # Errors
/// The layer's content is not what the image's configuration says, or containerd's own.
pub(super) async fn layer(
    client: &Client,
    descriptor: &Descriptor,
    diff_id: &str,
    parent: &str,
    chain: &str,
) -> Result<(), Status> {
    if snapshot_exists(client, chain).await? {
        return Ok(());
    }
    let key = format!("extract-{} {chain}", uuid::Uuid::new_v4().simple());
    let result = apply(client, descriptor, diff_id, parent, chain, &key).await;
    if result.is_err() {
        let request = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key };
        let _ = client.snapshots().remove(client.request(request)).await;
    }
    result
}

pub(super) async fn snapshot_exists(client: &Client, name: &str) -> Result<bool, Status> {
    let request = StatSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: name.to_owned() };
    Ok(optional(client.snapshots().stat(client.request(request)).await)?.is_some())
}

async fn apply(
    client: &Client,
    descriptor: &Descriptor,
    diff_id: &str,
    parent: &str,
    chain: &str,
    key: &str,
) -> Result<(), Status> {
    let prepare = PrepareSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key: key.to_owned(),
        parent: parent.to_owned(),
        labels: HashMap::from([("containerd.io/snapshot.ref".to_owned(), chain.to_owned())]),
    };
    let mounts = client.snapshots().prepare(client.request(prepare)).await?.into_inner().mounts;
    let request = ApplyRequest { diff: Some(descriptor.wire()), mounts, ..Default::default() };
    let applied = client
        .diff()
        .apply(client.open_ended(request))
        .await?
        .into_inner()
        .applied
        .unwrap_or_default();
    if applied.digest != diff_id {
        return Err(Status::failed_precondition(format!(
            "layer {} unpacks to {}, but the image says {diff_id}",
            descriptor.digest, applied.digest
        )));
    }
    let commit = CommitSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        name: chain.to_owned(),
        key: key.to_owned(),
        ..Default::default()
    };
    match client.snapshots().commit(client.request(commit)).await {
        Err(status) if status.code() == Code::AlreadyExists => {
            let request =
                RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: key.to_owned() };
            let _ = client.snapshots().remove(client.request(request)).await;
        }
        result => drop(result?),
    }
    let labels = HashMap::from([("containerd.io/uncompressed".to_owned(), diff_id.to_owned())]);
    content::set_labels(client, &descriptor.digest, labels).await
}
