//! kube-runtime's `Controller` on shared reflectors, with metrics, backoff and shutdown.

use std::{collections::HashSet, fmt::Display, future::Future, sync::Arc, time::Duration};

use futures::{FutureExt, Stream, StreamExt, future::BoxFuture};
use kube::runtime::{
    controller::{self, Action as Requeue},
    reflector::ObjectRef,
};
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    Error, Metrics, Stage,
    backoff::Backoff,
    call,
    error::chain,
    owner,
    reflector::{Reflected, Reflector, Reflectors},
};

/// Reconcile again after this time even if nothing happened: a watch can miss, and a bug can too.
pub const RESYNC: Duration = Duration::from_mins(10);

/// Look again after this time if the cache does not show our last write; its event comes earlier.
pub const CACHE_LAG: Duration = Duration::from_millis(100);

/// Reconciles of different objects that run at once, unless a controller says otherwise.
///
/// Source: upstream's `--concurrent-deployment-syncs` and its siblings.
const CONCURRENCY: u16 = 5;

/// An error of a reconcile; [`crate::CallError`] is one for players that need no other.
pub trait ReconcileError: std::error::Error + Send + Sync + 'static {
    /// Label in metrics and logs, from a closed set.
    fn kind(&self) -> &'static str;

    /// Whether only another spec can help; then it is tried again at the pace of [`RESYNC`].
    fn is_terminal(&self) -> bool {
        false
    }

    /// Whether it belongs to normal life, as a call does that others outran ([`call::was_outrun`]);
    /// then it is logged for developers only, and not counted as an error.
    fn is_expected(&self) -> bool
    where
        Self: Sized,
    {
        call::was_outrun(self)
    }
}

/// Wakes `reconcile` for objects of type `K`; see the [crate] documentation.
pub struct Controller<K: Reflected> {
    inner: controller::Controller<K>,
    reflectors: Reflectors,
    metrics: Metrics,
    shutdown: CancellationToken,
    waiting: Waiting<K>,
    ready: Vec<BoxFuture<'static, Result<(), Error>>>,
    concurrency: u16,
}

/// The objects that were woken and whose reconcile has not begun.
struct Waiting<K: Reflected> {
    objects: Arc<Mutex<HashSet<ObjectRef<K>>>>,
    queue: Gauge,
}

impl<K: Reflected> Clone for Waiting<K> {
    fn clone(&self) -> Self {
        Self { objects: Arc::clone(&self.objects), queue: self.queue.clone() }
    }
}

impl<K: Reflected> Waiting<K> {
    fn add(&self, object: ObjectRef<K>) {
        if self.objects.lock().insert(object) {
            self.queue.inc();
        }
    }

    fn remove(&self, object: &ObjectRef<K>) {
        if self.objects.lock().remove(object) {
            self.queue.dec();
        }
    }
}

impl<K: Reflected> Controller<K> {
    /// Reconciles each `K` that is there, and each that is created or updated.
    #[must_use]
    pub fn new(stage: &Stage) -> Self {
        Self::over(stage, &stage.reflectors.get())
    }

    /// Reconciles what `reflector` has, for players that may or should not see every `K`.
    #[must_use]
    pub fn over(stage: &Stage, reflector: &Reflector<K>) -> Self {
        let waiting = Waiting { objects: Arc::default(), queue: stage.metrics.queue.clone() };
        let woken = waiting.clone();
        let applied =
            reflector.applied().inspect(move |object| woken.add(ObjectRef::from_obj(&**object)));
        let inner = controller::Controller::for_shared_stream(applied, reflector.store());
        let controller = Self {
            inner,
            reflectors: stage.reflectors.clone(),
            metrics: stage.metrics.clone(),
            shutdown: stage.shutdown.clone(),
            waiting,
            ready: Vec::new(),
            concurrency: CONCURRENCY,
        };
        controller.needs(reflector)
    }

    /// Waits for this cache too before the first reconcile. Those given to [`Self::new`], [`Self::over`],
    /// [`Self::owns`] and [`Self::watches`] are waited for anyway.
    #[must_use]
    pub fn needs<O: Reflected>(mut self, reflector: &Reflector<O>) -> Self {
        let reflector = reflector.clone();
        self.ready.push(async move { reflector.ready().await }.boxed());
        self
    }

    /// Also wakes the `K` that controls (by `ownerReferences[controller=true]`) a changed `C`.
    #[must_use]
    pub fn owns<C: Reflected>(self) -> Self {
        self.watches::<C, _>(|child| owner::controller_ref::<K>(child.meta()))
    }

    /// Also wakes what `wakes` names when an `O` changes.
    ///
    /// A deleted object comes in its last state. After a change of labels or owners, `wakes` is
    /// called with the state before as well.
    #[must_use]
    pub fn watches<O, I>(self, wakes: impl Fn(&O) -> I + Send + Sync + 'static) -> Self
    where
        O: Reflected,
        I: IntoIterator<Item = ObjectRef<K>> + 'static,
        I::IntoIter: Send,
    {
        let reflector = self.reflectors.get::<O>();
        let mut controller = self.needs(&reflector);
        let waiting = controller.waiting.clone();
        let mapper = move |object: Arc<O>| {
            let objects: Vec<_> = wakes(&object).into_iter().collect();
            objects.iter().for_each(|object| waiting.add(object.clone()));
            objects
        };
        controller.inner = controller.inner.watches_shared_stream(reflector.touched(), mapper);
        controller
    }

    /// Also wakes what comes out of `stream`.
    #[must_use]
    pub fn wakes_on(mut self, stream: impl Stream<Item = ObjectRef<K>> + Send + 'static) -> Self {
        let waiting = self.waiting.clone();
        self.inner =
            self.inner.reconcile_on(stream.inspect(move |object| waiting.add(object.clone())));
        self
    }

    /// At most this many reconciles, of different objects, at once (5 otherwise).
    #[must_use]
    pub fn concurrency(mut self, concurrency: u16) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Reconciles until the stage's shutdown, then lets running reconciles finish.
    ///
    /// An error is tried again after 5 ms, doubled each time up to 1000 s, an object each.
    ///
    /// # Errors
    /// [`Error::ReflectorStopped`] if a cache will never be ready.
    pub async fn run<C, F, R, E>(self, context: Arc<C>, reconcile: F) -> Result<(), Error>
    where
        C: Send + Sync + 'static,
        F: Fn(Arc<K>, Arc<C>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Requeue, E>> + Send + 'static,
        E: ReconcileError,
    {
        for ready in self.ready {
            tokio::select! {
                ready = ready => ready?,
                () = self.shutdown.cancelled() => return Ok(()),
            }
        }
        let (metrics, waiting, reconcile) = (self.metrics, self.waiting, Arc::new(reconcile));
        let backoff = Arc::new(Backoff::default());
        let (begun, succeeded) = (waiting.clone(), Arc::clone(&backoff));
        let measured = move |object: Arc<K>, context: Arc<C>| {
            let key = ObjectRef::from_obj(&*object);
            begun.remove(&key);
            let (metrics, backoff) = (metrics.clone(), Arc::clone(&succeeded));
            let reconcile = reconcile(object, context);
            async move {
                let start = Instant::now();
                let result = reconcile.await;
                let error = result.as_ref().err().filter(|error| !error.is_expected());
                metrics.reconciled(start.elapsed(), error.map(E::kind));
                if result.is_ok() {
                    backoff.reset(&key);
                }
                result
            }
            .boxed()
        };
        let error_policy = move |object: Arc<K>, error: &E, _: Arc<C>| {
            let key = ObjectRef::from_obj(&*object);
            log(&key, error);
            Requeue::requeue(if error.is_terminal() { RESYNC } else { backoff.next(key) })
        };
        let config = controller::Config::default().concurrency(self.concurrency);
        let inner =
            self.inner.with_config(config).graceful_shutdown_on(self.shutdown.cancelled_owned());
        let mut results = std::pin::pin!(inner.run(measured, error_policy, context));
        while let Some(result) = results.next().await {
            match result {
                Ok(_) | Err(controller::Error::ReconcilerFailed(..)) => {} // Counted and logged above.
                Err(controller::Error::ObjectNotFound(gone)) => {
                    let mut key = ObjectRef::<K>::new(&gone.name);
                    key.namespace = gone.namespace.clone();
                    waiting.remove(&key); // It was deleted before its turn came.
                }
                Err(error) => warn!(error = chain(&error), "controller queue failed"),
            }
        }
        Ok(())
    }
}

fn log(object: &dyn Display, error: &impl ReconcileError) {
    if error.is_expected() {
        debug!(%object, error = chain(error), "reconcile to be repeated");
    } else {
        warn!(%object, error = chain(error), kind = error.kind(), "reconcile failed");
    }
}
