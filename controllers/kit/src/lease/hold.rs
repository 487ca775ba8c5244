//! Holding a Lease: requests, watching, and the task of a term.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, PostParams},
    runtime::watcher::{self, watch_object},
};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Candidate, Claim, Rank, Record, Step, Timing, View, decide};
use crate::{Clock, Error, error::chain, player::Run, reflector::revision_of};

/// Annotation with the rank of the holder: [`Note`] as JSON.
const HOLDER: &str = "improv.dev/holder";

/// Annotation with a challenger's claim: [`Note`] as JSON.
const CLAIM: &str = "improv.dev/claim";

/// Pause after a failed request.
const RETRY: Duration = Duration::from_millis(500);

/// A request about the Lease may take this long: three fit into [`Timing::give_up`].
const REQUEST: Duration = Duration::from_secs(3);

/// Who leads, as far as this candidate knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Leadership {
    /// The Lease was not read yet.
    #[default]
    Unknown,
    /// Somebody else, or nobody.
    Standby {
        /// The holder's identity.
        leader: Option<String>,
    },
    /// This candidate.
    Leading,
}

/// A candidate for one Lease.
pub struct Election {
    /// May get, list, watch, create and update Leases.
    pub client: Client,
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Who stands.
    pub me: Candidate,
    /// How long each thing takes.
    pub timing: Timing,
    /// How long a term may take to finish what it is at; then it is aborted.
    pub finish_within: Duration,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Told of every change.
    pub leadership: watch::Sender<Leadership>,
}

/// What the annotations hold.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    identity: String,
    rank: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time: Option<String>,
}

/// A time of leading.
struct Term {
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
    renewed: Duration,
    /// Set once the term must end: when it is aborted.
    finish_by: Option<Duration>,
}

impl Drop for Term {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The Lease as last seen, and what was concluded from it.
#[derive(Default)]
struct Seen {
    known: bool,
    lease: Option<Lease>,
    record: Option<Record>,
}

impl Election {
    /// Calls `play` each time this candidate is elected, until `shutdown`.
    ///
    /// `play` must return soon after its token is cancelled. When it does, or when the task ends by
    /// itself, the Lease is released.
    ///
    /// # Errors
    /// The error with which `play` ended.
    pub async fn run(
        self,
        shutdown: CancellationToken,
        mut play: impl FnMut(CancellationToken) -> Run + Send,
    ) -> Result<(), Error> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut changes = std::pin::pin!(watch_patiently(api.clone(), &self.name));
        let mut seen = Seen::default();
        let mut term: Option<Term> = None;
        loop {
            if shutdown.is_cancelled() {
                match &mut term {
                    None => return Ok(()),
                    Some(term) => self.finish(term),
                }
            }
            self.tell(&seen, term.as_ref());
            let wait = match self.next_step(&seen, term.as_ref()) {
                Step::Wait(wait) => wait,
                Step::StepDown => {
                    info!(lease = self.name, "stepping down for a better candidate");
                    term.iter_mut().for_each(|term| self.finish(term));
                    continue;
                }
                Step::Abandon => {
                    warn!(lease = self.name, "leadership lost");
                    term = None;
                    continue;
                }
                step @ (Step::Acquire | Step::Renew | Step::Claim) => {
                    let sent = self.clock.elapsed();
                    if self.write(&api, &mut seen, step).await {
                        match (&mut term, step) {
                            (Some(term), Step::Renew) => term.renewed = sent,
                            (None, Step::Acquire) => {
                                info!(
                                    lease = self.name,
                                    identity = self.me.identity,
                                    "became the leader"
                                );
                                let stop = CancellationToken::new();
                                let task = tokio::spawn(play(stop.clone()));
                                term = Some(Term { stop, task, renewed: sent, finish_by: None });
                            }
                            _ => {}
                        }
                    }
                    continue;
                }
            };
            tokio::select! {
                change = changes.next() => match change {
                    Some(Ok(lease)) => seen.observe(lease, self.clock.elapsed()),
                    Some(Err(error)) => debug!(lease = self.name, error = chain(&error), "lease watch failed"),
                    None => self.clock.sleep(wait).await,
                },
                () = self.clock.sleep(wait) => {}
                () = shutdown.cancelled(), if !shutdown.is_cancelled() => {}
                ended = end_of(&mut term, &*self.clock) => {
                    let asked = term.as_ref().is_some_and(|term| term.finish_by.is_some());
                    drop(term.take());
                    self.release(&api, &mut seen).await;
                    if !asked || ended.is_err() {
                        self.tell(&seen, None);
                        return ended;
                    }
                }
            }
        }
    }

    fn next_step(&self, seen: &Seen, term: Option<&Term>) -> Step {
        if !seen.known {
            return Step::Wait(self.timing.duration);
        }
        decide(&View {
            me: &self.me,
            record: seen.record.as_ref(),
            renewed: term.map(|term| term.renewed),
            finishing: term.is_some_and(|term| term.finish_by.is_some()),
            now: self.clock.elapsed(),
            timing: self.timing,
        })
    }

    /// Asks the term to end; the second time changes nothing.
    fn finish(&self, term: &mut Term) {
        term.stop.cancel();
        term.finish_by.get_or_insert(self.clock.elapsed() + self.finish_within);
    }

    fn tell(&self, seen: &Seen, term: Option<&Term>) {
        let holder = || seen.record.as_ref()?.holder.as_ref().map(|holder| holder.identity.clone());
        let now = match term {
            Some(_) => Leadership::Leading,
            None if !seen.known => Leadership::Unknown,
            None => Leadership::Standby { leader: holder() },
        };
        self.leadership.send_if_modified(|leadership| {
            let changed = *leadership != now;
            *leadership = now;
            changed
        });
    }

    /// Writes what `step` says; `false` if that did not succeed, after a pause.
    async fn write(&self, api: &Api<Lease>, seen: &mut Seen, step: Step) -> bool {
        let lease = self.edited(seen.lease.as_ref(), step);
        let written = match &seen.lease {
            None => tokio::time::timeout(REQUEST, api.create(&PostParams::default(), &lease)).await,
            Some(_) => {
                tokio::time::timeout(
                    REQUEST,
                    api.replace(&self.name, &PostParams::default(), &lease),
                )
                .await
            }
        };
        match written {
            Ok(Ok(lease)) => {
                seen.observe(Some(lease), self.clock.elapsed());
                return true;
            }
            Ok(Err(kube::Error::Api(status))) if is_outdated(&status) => {
                debug!(lease = self.name, "lease changed meanwhile");
            }
            Ok(Err(error)) => warn!(lease = self.name, error = chain(&error), "lease write failed"),
            Err(_) => warn!(lease = self.name, "lease write timed out"),
        }
        match tokio::time::timeout(REQUEST, api.get_opt(&self.name)).await {
            Ok(Ok(lease)) => seen.observe(lease, self.clock.elapsed()),
            Ok(Err(error)) => warn!(lease = self.name, error = chain(&error), "lease read failed"),
            Err(_) => warn!(lease = self.name, "lease read timed out"),
        }
        self.clock.sleep(RETRY).await;
        false
    }

    /// Gives the Lease back; if that fails it expires.
    async fn release(&self, api: &Api<Lease>, seen: &mut Seen) {
        for _ in 0..3 {
            let held = seen.record.as_ref().and_then(|record| record.holder.as_ref());
            let (Some(lease), Some(true)) =
                (&seen.lease, held.map(|h| h.identity == self.me.identity))
            else {
                return;
            };
            let mut released = lease.clone();
            let spec = released.spec.get_or_insert_default();
            spec.holder_identity = Some(String::new());
            spec.renew_time = Some(MicroTime(self.clock.now()));
            released.annotations_mut().remove(HOLDER);
            let params = PostParams::default();
            match tokio::time::timeout(REQUEST, api.replace(&self.name, &params, &released)).await {
                Ok(Ok(lease)) => {
                    info!(lease = self.name, "released the lease");
                    seen.observe(Some(lease), self.clock.elapsed());
                    return;
                }
                Ok(Err(error)) => {
                    debug!(lease = self.name, error = chain(&error), "release failed")
                }
                Err(_) => debug!(lease = self.name, "release timed out"),
            }
            if let Ok(Ok(lease)) = tokio::time::timeout(REQUEST, api.get_opt(&self.name)).await {
                seen.observe(lease, self.clock.elapsed());
            }
        }
    }

    fn edited(&self, lease: Option<&Lease>, step: Step) -> Lease {
        let mut lease = lease.cloned().unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        let now = self.clock.now();
        let mut note = Note {
            identity: self.me.identity.clone(),
            rank: self.me.rank.as_ref().map(Rank::to_text).unwrap_or_default(),
            time: None,
        };
        if step == Step::Claim {
            note.time = Some(now.to_string());
            lease.annotations_mut().insert(CLAIM.to_owned(), to_json(&note));
            return lease;
        }
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        spec.renew_time = Some(MicroTime(now));
        if step == Step::Acquire {
            if spec.holder_identity.as_deref() != Some(&self.me.identity) {
                spec.lease_transitions =
                    Some(spec.lease_transitions.map_or(0, |n| n.saturating_add(1)));
            }
            spec.acquire_time = Some(MicroTime(now));
            spec.holder_identity = Some(self.me.identity.clone());
            spec.lease_duration_seconds = i32::try_from(self.timing.duration.as_secs().max(1)).ok();
            lease.annotations_mut().remove(CLAIM);
        }
        lease.annotations_mut().insert(HOLDER.to_owned(), to_json(&note));
        lease
    }
}

impl Seen {
    /// Takes in the Lease unless we know a later state of it already.
    fn observe(&mut self, lease: Option<Lease>, now: Duration) {
        let older = |known: &Lease, new: &Lease| {
            known.metadata.uid == new.metadata.uid && revision_of(new) < revision_of(known)
        };
        if let (Some(known), Some(new)) = (&self.lease, &lease)
            && older(known, new)
        {
            return;
        }
        let unchanged = |new: &Lease, known: &Lease| {
            let key = |lease: &Lease| {
                lease
                    .spec
                    .as_ref()
                    .map(|s| (s.holder_identity.clone(), s.renew_time.clone(), s.lease_transitions))
            };
            key(new) == key(known)
        };
        let before = self.lease.as_ref().zip(self.record.as_ref());
        self.record = lease.as_ref().map(|lease| {
            let claim = note(lease, CLAIM).map(|claim| {
                let same = before.filter(|(known, _)| {
                    known.annotations().get(CLAIM) == lease.annotations().get(CLAIM)
                });
                let changed = same.and_then(|(_, record)| Some(record.claim.as_ref()?.changed));
                Claim { by: candidate(claim), changed: changed.unwrap_or(now) }
            });
            let same = before.filter(|(known, _)| unchanged(lease, known));
            let spec = lease.spec.as_ref();
            let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
            Record {
                holder: holder(lease),
                changed: same.map_or(now, |(_, record)| record.changed),
                duration: seconds.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs),
                claim,
            }
        });
        self.lease = lease;
        self.known = true;
    }
}

fn holder(lease: &Lease) -> Option<Candidate> {
    let identity =
        lease.spec.as_ref()?.holder_identity.clone().filter(|identity| !identity.is_empty())?;
    // A holder that does not know of ranks leaves its predecessor's note.
    let note = note(lease, HOLDER).filter(|note| note.identity == identity);
    Some(note.map_or(Candidate { identity, rank: None }, candidate))
}

fn note(lease: &Lease, annotation: &str) -> Option<Note> {
    serde_json::from_str(lease.annotations().get(annotation)?).ok()
}

fn candidate(note: Note) -> Candidate {
    Candidate { rank: Rank::from_text(&note.rank), identity: note.identity }
}

fn to_json(note: &Note) -> String {
    serde_json::to_string(note).unwrap_or_default() // Three strings: cannot fail.
}

fn is_outdated(status: &kube::core::Status) -> bool {
    status.is_conflict() || status.is_already_exists() || status.is_not_found()
}

/// The Lease, now and at each change; a failed watch is begun again after a second.
fn watch_patiently(
    api: Api<Lease>,
    name: &str,
) -> impl Stream<Item = Result<Option<Lease>, watcher::Error>> + Send + use<> {
    watch_object(api, name).then(async |change| {
        if change.is_err() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        change
    })
}

/// Ends with the term's task, or aborts it when its time to finish is over; never without a term.
async fn end_of(term: &mut Option<Term>, clock: &dyn Clock) -> Result<(), Error> {
    let Some(term) = term else { return std::future::pending().await };
    let left = term.finish_by.map(|by| by.saturating_sub(clock.elapsed()));
    let too_long = async {
        match left {
            Some(left) => clock.sleep(left).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = &mut term.task => match ended {
            Ok(ended) => ended,
            Err(source) => Err(Error::TaskPanicked { task: "player", source: Box::new(source) }),
        },
        () = too_long => {
            warn!("player did not finish in time");
            Ok(())
        }
    }
}
