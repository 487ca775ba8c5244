//! Blobs in containerd's content store.

use std::collections::HashMap;

use bytes::Bytes;
use containerd_client::services::v1::{
    AbortRequest, AddResourceRequest, Info, InfoRequest, ReadContentRequest, Resource,
    UpdateRequest, WriteAction, WriteContentRequest, leases_client,
};
use prost_types::FieldMask;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::super::client::{Client, optional};
use super::manifest::{Descriptor, MAX_DOCUMENT};

/// Bytes in one message; containerd takes 16 MiB at most.
const PIECE: usize = 1 << 20;

type Result<T> = std::result::Result<T, Status>;

/// Whether the blob is there. If the client has a lease, the lease holds it from now on.
pub(super) async fn present(client: &Client, lease: &str, digest: &str) -> Result<bool> {
    let request = client.request(InfoRequest { digest: digest.to_owned() });
    if optional(client.content().info(request).await)?.is_none() {
        return Ok(false);
    }
    let resource = Some(Resource { id: digest.to_owned(), r#type: "content".to_owned() });
    let request = client.request(AddResourceRequest { id: lease.to_owned(), resource });
    let mut leases: leases_client::LeasesClient<_> = client.leases();
    match leases.add_resource(request).await {
        Err(status) if status.code() != Code::AlreadyExists => Err(status),
        _ => Ok(true),
    }
}

/// A whole blob; only for documents.
pub(super) async fn read(client: &Client, digest: &str) -> Result<Vec<u8>> {
    let request = client.open_ended(ReadContentRequest {
        digest: digest.to_owned(),
        offset: 0,
        size: MAX_DOCUMENT,
    });
    let mut stream = client.content().read(request).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(piece) = stream.message().await? {
        bytes.extend_from_slice(&piece.data);
    }
    Ok(bytes)
}

/// Writes a document.
pub(super) async fn write(
    client: &Client,
    descriptor: &Descriptor,
    bytes: Vec<u8>,
    labels: HashMap<String, String>,
) -> Result<()> {
    match Writer::open(client, descriptor).await? {
        None => set_labels(client, &descriptor.digest, labels).await,
        Some(mut writer) => {
            // A document is small: whatever an earlier attempt left is written again.
            writer.offset = 0;
            writer.write(bytes.into()).await?;
            writer.commit(labels).await
        }
    }
}

/// Adds labels to a blob.
pub(super) async fn set_labels(
    client: &Client,
    digest: &str,
    labels: HashMap<String, String>,
) -> Result<()> {
    if labels.is_empty() {
        return Ok(()); // An update that names no field would replace all labels.
    }
    let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
    let info = Some(Info { digest: digest.to_owned(), labels, ..Default::default() });
    client
        .content()
        .update(client.request(UpdateRequest { info, update_mask: Some(FieldMask { paths }) }))
        .await?;
    Ok(())
}

/// A blob that is being written; the next attempt goes on where a broken one ended.
pub(super) struct Writer {
    messages: Option<mpsc::Sender<WriteContentRequest>>,
    answers: JoinHandle<Result<()>>,
    client: Client,
    descriptor: Descriptor,
    /// Bytes that containerd has, or was sent.
    pub(super) offset: i64,
}

impl Writer {
    /// Opens a blob for writing; `None` if it is there.
    pub(super) async fn open(client: &Client, descriptor: &Descriptor) -> Result<Option<Self>> {
        let (messages, receiver) = mpsc::channel(4);
        let first = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: reference(descriptor),
            total: descriptor.size,
            expected: descriptor.digest.clone(),
            ..Default::default()
        };
        messages.send(first).await.map_err(|_| Status::internal("the channel is new"))?;
        let opened = async {
            let mut answers = client
                .content()
                .write(client.open_ended(ReceiverStream::new(receiver)))
                .await?
                .into_inner();
            let first = answers
                .message()
                .await?
                .ok_or_else(|| Status::unknown("containerd closed the write stream"))?;
            Ok::<_, Status>((answers, first.offset))
        };
        let (mut answers, offset) = match opened.await {
            Ok(opened) => opened,
            Err(status) if status.code() == Code::AlreadyExists => return Ok(None),
            Err(status) => return Err(status),
        };
        let answers = tokio::spawn(async move {
            while answers.message().await?.is_some() {}
            Ok(())
        });
        let (client, descriptor) = (client.clone(), descriptor.clone());
        Ok(Some(Self { messages: Some(messages), answers, client, descriptor, offset }))
    }

    /// Sends bytes that belong at `offset`.
    pub(super) async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            let n = i64::try_from(piece.len()).unwrap_or(i64::MAX);
            let message = WriteContentRequest {
                action: WriteAction::Write.into(),
                offset: self.offset,
                data: piece.into(),
                ..Default::default()
            };
            self.send(message).await?;
            self.offset += n;
        }
        Ok(())
    }

    /// Ends the blob; containerd compares size and digest.
    pub(super) async fn commit(mut self, labels: HashMap<String, String>) -> Result<()> {
        let message = WriteContentRequest {
            action: WriteAction::Commit.into(),
            offset: self.offset,
            total: self.descriptor.size,
            expected: self.descriptor.digest.clone(),
            labels: labels.clone(),
            ..Default::default()
        };
        let sent = self.send(message).await;
        self.messages = None;
        let result = match sent {
            Ok(()) => self.outcome().await,
            Err(status) => Err(status),
        };
        match result {
            Ok(()) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => {
                set_labels(&self.client, &self.descriptor.digest, labels).await
            }
            Err(status) if status.code() == Code::FailedPrecondition => {
                // Wrong content: what was written must not be continued by the next attempt.
                let request = AbortRequest { r#ref: reference(&self.descriptor) };
                let _ = self.client.content().abort(self.client.request(request)).await;
                Err(status)
            }
            Err(status) => Err(status),
        }
    }

    async fn send(&mut self, message: WriteContentRequest) -> Result<()> {
        let Some(messages) = &self.messages else {
            return Err(Status::internal("the write was ended"));
        };
        if messages.send(message).await.is_ok() {
            return Ok(());
        }
        self.messages = None;
        self.outcome()
            .await
            .and_then(|()| Err(Status::unknown("containerd closed the write stream")))
    }

    async fn outcome(&mut self) -> Result<()> {
        (&mut self.answers).await.unwrap_or_else(|error| Err(Status::internal(error.to_string())))
    }
}

fn reference(descriptor: &Descriptor) -> String {
    format!("improv-{}", descriptor.digest)
}
