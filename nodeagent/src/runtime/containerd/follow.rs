//! Knows when containers end: one wait a container, which survives restarts of containerd, and a stream of events.

use std::sync::{Arc, Weak};
use std::time::Duration;

use containerd_client::events::TaskOom;
use containerd_client::services::v1::{SubscribeRequest, WaitRequest};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use prost::Message;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{broadcast, watch};
use tokio_stream::wrappers::BroadcastStream;
use tonic::Code;

use super::Inner;
use super::client::is_away;
use super::container::{lost, not_found};
use super::exec::{DRAIN, connect};
use crate::logger;
use crate::runtime::{ContainerId, Error, Exit, RuntimeEvent};

/// Pause before containerd is asked again after it went away.
const RETRY: Duration = Duration::from_millis(100);

/// Events that a slow listener may be behind before it is told to list again.
const EVENT_BUFFER: usize = 1024;

/// A container that is waited for: nothing yet, or how it ended.
pub(super) type Waited = watch::Receiver<Option<Exit>>;

pub(super) fn event_channel() -> broadcast::Sender<RuntimeEvent> {
    broadcast::channel(EVENT_BUFFER).0
}

impl Inner {
    /// Waits for a container in the background; a second call does nothing.
    pub(super) fn track(&self, id: &str) -> Waited {
        let mut waited = self.waited.lock();
        if let Some(waited) = waited.get(id) {
            return waited.clone();
        }
        let (sender, receiver) = watch::channel(None);
        waited.insert(id.to_owned(), receiver.clone());
        drop(waited);
        let (this, id) = (self.this.clone(), id.to_owned());
        tokio::spawn(async move {
            let exit = wait_task(&this, &id).await;
            let Some(inner) = this.upgrade() else { return };
            match exit {
                Some(exit) => {
                    sender.send_replace(Some(exit));
                    inner.announce_exit(&id).await;
                }
                None => inner.untrack(&id),
            }
        });
        receiver
    }

    pub(super) fn untrack(&self, id: &str) {
        self.waited.lock().remove(id);
    }

    pub(super) async fn wait_container(&self, id: &ContainerId) -> Result<Exit, Error> {
        let known = self.waited.lock().get(&id.0).cloned();
        let mut waited = match known {
            Some(waited) => waited,
            None => {
                self.record(&id.0).await?.ok_or_else(|| not_found(id))?;
                self.track(&id.0)
            }
        };
        let exit = waited.wait_for(Option::is_some).await.map_err(|_| not_found(id))?;
        exit.clone().ok_or_else(|| not_found(id))
    }

    async fn announce_exit(&self, id: &str) {
        if let Ok(Some((record, _))) = self.record(id).await
            && !record.is_pause()
        {
            let event =
                RuntimeEvent::Exited { id: ContainerId(record.id), pod_uid: record.pod.uid };
            let _ = self.events.send(event);
        }
    }

    pub(super) fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        let later = BroadcastStream::new(self.events.subscribe())
            .map(|event| event.unwrap_or(RuntimeEvent::Relist));
        stream::iter([RuntimeEvent::Relist]).chain(later).boxed()
    }
}

/// How a task ended; `None` if it was removed by the agent itself, or the agent has stopped.
///
/// The runtime is not held while it waits, so that it can be dropped while containers run.
async fn wait_task(this: &Weak<Inner>, id: &str) -> Option<Exit> {
    loop {
        let client = this.upgrade()?.client.clone();
        let request = WaitRequest { container_id: id.to_owned(), ..Default::default() };
        let answer = client.tasks().wait(client.open_ended(request)).await;
        let inner = this.upgrade()?;
        match answer {
            Ok(answer) => {
                let answer = answer.into_inner();
                flush_log(&inner, id).await;
                let record = inner.record(id).await.ok().flatten();
                let cgroup = record.map(|(record, _)| record.cgroup).unwrap_or_default();
                return Some(inner.exit(&cgroup, answer.exit_status, answer.exited_at));
            }
            Err(status) if is_away(&status) => (),
            Err(status) => {
                // Not found, or the shim is gone ("ttrpc: closed"): what is left tells which it was.
                match (inner.task(id).await, inner.record(id).await) {
                    (Ok(Some(_)), _) | (Err(_), _) | (_, Err(_)) => (),
                    (Ok(None), Ok(Some(_))) => {
                        tracing::warn!(container = id, %status, "container lost its supervisor");
                        return Some(lost());
                    }
                    (Ok(None), Ok(None)) => return None,
                }
            }
        }
        drop(inner);
        tokio::time::sleep(RETRY).await;
    }
}

/// Sees to it that the log has what an ended container wrote, also without a newline at the end.
async fn flush_log(inner: &Inner, id: &str) {
    let flush = async {
        let mut socket = connect(&inner.io_folder(id), "attach").await?;
        socket.write_all(&[logger::run::FLUSH]).await?;
        tokio::io::copy(&mut socket, &mut tokio::io::sink()).await
    };
    // Without a logger (the pause process has none) there is nothing to wait for.
    if tokio::time::timeout(DRAIN, flush).await.is_err() {
        tracing::warn!(container = id, "the log may lack what the container wrote last");
    }
}

/// Passes containerd's out-of-memory events on, for as long as the runtime is in use.
pub(super) async fn follow_events(inner: Weak<Inner>) {
    let mut broken = false;
    while let Some(this) = inner.upgrade() {
        let request = SubscribeRequest { filters: vec!["topic==\"/tasks/oom\"".to_owned()] };
        let (client, events) = (this.client.clone(), this.events.clone());
        let away = match client.version().version(client.request(())).await {
            Ok(_) => false,
            Err(status) => status.code() != Code::Unimplemented,
        };
        drop(this);
        if away {
            broken = true;
            tokio::time::sleep(RETRY).await;
            continue;
        }
        if broken {
            let _ = events.send(RuntimeEvent::Relist);
        }
        broken = true;
        // Answers with the first event only, not when it is ready to send some.
        let Ok(answer) = client.events().subscribe(client.open_ended(request)).await else {
            continue;
        };
        let mut envelopes = answer.into_inner();
        while let Ok(Some(envelope)) = envelopes.message().await {
            let Some(this) = inner.upgrade() else { return };
            let Ok(oom) = TaskOom::decode(envelope.event.unwrap_or_default().value.as_slice())
            else {
                continue;
            };
            if let Ok(Some((record, _))) = this.record(&oom.container_id).await {
                let event = RuntimeEvent::OutOfMemory {
                    id: ContainerId(record.id),
                    pod_uid: record.pod.uid,
                };
                let _ = events.send(event);
            }
        }
    }
}

/// What a restarted agent does first: waits for all that runs, and removes what no one can use.
pub(super) async fn adopt(inner: &Arc<Inner>) -> Result<(), Error> {
    let tasks = inner.tasks().await?;
    for record in inner.records(Vec::new()).await? {
        let never_started = record.started_at.is_none();
        match tasks.contains_key(&record.id) {
            true => drop(inner.track(&record.id)),
            // Half made: it never ran, so that nobody waits for its exit.
            false if never_started => inner.remove_container(&ContainerId(record.id)).await?,
            false => (),
        }
    }
    let uids = inner.sandbox_uids()?;
    inner
        .network
        .retain(&uids)
        .await
        .map_err(|error| Error::runtime("free the addresses of old pods", error))
}
