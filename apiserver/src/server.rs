//! The server: started from a [`Config`], asked through its router, stopped gracefully.

mod browsers;
mod deadline;
mod events;
mod files;
mod follow;
mod identify;
mod listen;
mod local;
pub mod options;
mod roles;
mod stall;
mod ties;
mod websocket;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use futures::future::{BoxFuture, join_all};
use jiff::Timestamp;
use rustls::ClientConfig;
use store::{Revision, Store};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission;
use crate::audit::{Audit, AuditError};
use crate::config::Config;
use crate::discovery::Documents;
use crate::discovery::health::Health;
use crate::discovery::metrics::Metrics;
use crate::enablement::runtime::Disabled;
use crate::fairness::{self, Fairness};
use crate::handlers;
use crate::identity::authn::{Authenticator, Found, Lookup};
use crate::identity::file::{Problem, Reloads, Watched};
use crate::identity::node::Pods;
use crate::identity::pki::ServerNames;
use crate::identity::{Authorizer, Pki, pki, setup};
use crate::registry::{Registry, Resource};
use crate::status::ApiError;
use crate::{aggregation, backend, bootstrap, crd, storage};

/// How long a server that stops may take to leave the endpoints; its store may be gone.
const WITHDRAW_WITHIN: Duration = Duration::from_secs(2);

/// What all handlers share.
pub struct Core {
    /// As it was started.
    pub config: Config,
    /// Certificates and keys.
    pub pki: Pki,
    /// Recognises tokens.
    pub authenticator: Authenticator,
    /// Knows who may what.
    pub authorizer: Arc<Authorizer>,
    /// What may change or refuse a request.
    pub admission: admission::Chain,
    /// What the health endpoints say.
    pub health: Health,
    /// What `/metrics` says.
    pub metrics: Metrics,
    /// What is recorded; `None` records nothing.
    pub audit: Option<Arc<Audit>>,
    /// Who may run now, and who waits.
    pub fairness: Fairness,
    /// Documents about what is served.
    pub documents: Documents,
    store: Arc<dyn Store>,
    registry: ArcSwap<Registry>,
    /// API servers behind this one.
    pub(crate) aggregator: aggregation::Aggregator,
    /// Webhooks and policies.
    pub(crate) hooks: admission::Hooks,
    hook_follower: OnceLock<admission::HookFollower>,
    definitions: OnceLock<crd::Follower>,
    roles: OnceLock<roles::Follower>,
    /// What is not served though it could be.
    pub(crate) disabled: Disabled,
    /// What servers behind this one are shown.
    pub(crate) front_proxy: Arc<Watched<pki::Credential>>,
    /// Configuration files that are followed.
    pub(crate) reloads: Reloads,
    /// What extension servers were told last of whom to believe.
    pub(crate) told_trust: parking_lot::Mutex<Option<serde_json::Value>>,
    kubelet_tls: Arc<ClientConfig>,
    anonymous_tls: Arc<ClientConfig>,
    address: OnceLock<SocketAddr>,
    /// Ends everything that runs beside the requests.
    stop: CancellationToken,
}

impl Drop for Core {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Core {
    /// Cancelled when the server stops, or when its last handle is dropped.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// What is served now. Keep the result for the length of one request.
    pub fn registry(&self) -> Arc<Registry> {
        self.registry.load_full()
    }

    pub(crate) fn swap(&self, registry: Registry) {
        self.registry.store(Arc::new(registry));
    }

    /// The store below everything.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Where clients reach the server; `None` without a listener.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address.get().copied()
    }

    /// TLS towards node agents (with our certificate) or other backends (without).
    pub(crate) fn proxy_tls(&self, kubelet: bool) -> Arc<ClientConfig> {
        if kubelet { self.kubelet_tls.clone() } else { self.anonymous_tls.clone() }
    }

    /// Waits until a write has its effect inside the server: a definition is served, a role counts.
    pub(crate) async fn settle(&self, resource: &Resource, revision: Revision) {
        if resource.name == "customresourcedefinitions" {
            self.settle_definitions(revision).await;
        } else if resource.group == "rbac.authorization.k8s.io"
            && let Some(roles) = self.roles.get()
        {
            roles.wait_for(&resource.name, revision).await;
        } else if resource.group == "admissionregistration.k8s.io"
            && let Some(hooks) = self.hook_follower.get()
        {
            hooks.wait_for(&resource.name, revision).await;
        }
    }

    /// Waits until a change of a definition has its effect.
    pub(crate) async fn settle_definitions(&self, revision: Revision) {
        if let Some(definitions) = self.definitions.get() {
            definitions.wait_for(revision).await;
        }
    }

    /// Waits until the caches of these core resources show every answered write.
    pub(crate) async fn fresh(&self, resources: &[&str]) -> Result<(), ApiError> {
        let registry = self.registry();
        for name in resources {
            if let Some(cache) = registry.find("", name).and_then(|r| r.cache()) {
                cache.fresh().await?;
            }
        }
        Ok(())
    }
}

impl Lookup for Core {
    fn find(&self, resource: &str, namespace: &str, name: &str) -> Option<Found> {
        let registry = self.registry();
        let namespace = (!namespace.is_empty()).then_some(namespace);
        let object = registry.find("", resource)?.cache()?.get(namespace, name)?;
        let deleted_at = object.deleting().then(|| deleted_at(&object.json())).flatten();
        Some(Found { uid: object.uid().to_owned(), deleted_at })
    }

    fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<serde_json::Value> {
        let registry = self.registry();
        let namespace = (!namespace.is_empty()).then_some(namespace);
        let object = registry.find("", resource)?.cache()?.get(namespace, name)?;
        serde_json::from_slice(&object.json()).ok()
    }

    fn catch_up<'a>(&'a self, resources: &'a [&str]) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let registry = self.registry();
            for resource in resources {
                if let Some(cache) = registry.find("", resource).and_then(|found| found.cache())
                    && let Err(error) = cache.fresh().await
                {
                    tracing::debug!(%error, resource, "the newest state is not known");
                }
            }
        })
    }
}

impl Pods for Core {
    fn on(&self, node: &str, namespace: Option<&str>) -> Vec<serde_json::Value> {
        let registry = self.registry();
        let Some(cache) = registry.find("", "pods").and_then(|pods| pods.cache()) else {
            return Vec::new();
        };
        let pods = cache.list(namespace);
        let here = pods.iter().filter(|pod| pod.fields().get("spec.nodeName") == Some(node));
        here.filter_map(|pod| serde_json::from_slice(&pod.json()).ok()).collect()
    }

    fn volume_of(&self, namespace: &str, claim: &str) -> Option<String> {
        let claim = self.object("persistentvolumeclaims", namespace, claim)?;
        Some(claim["spec"]["volumeName"].as_str()?.to_owned())
    }
}

fn deleted_at(object: &[u8]) -> Option<i64> {
    let object: serde_json::Value = serde_json::from_slice(object).ok()?;
    let time: Timestamp = object["metadata"]["deletionTimestamp"].as_str()?.parse().ok()?;
    Some(time.as_second())
}

/// A running server. Clones are handles of the same server; [`Server::shutdown`] stops it.
#[derive(Clone)]
pub struct Server {
    core: Arc<Core>,
    router: Router,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store file is locked, corrupt or not writable.
    #[error("failed to open the store")]
    Store(#[source] store::Error),
    /// The address cannot be listened on.
    #[error("failed to listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Usually: in use.
        source: std::io::Error,
    },
    /// Certificates cannot be made or read.
    #[error("failed to prepare certificates")]
    Certificates(#[source] pki::Error),
    /// TLS towards node agents cannot be set up.
    #[error("failed to prepare TLS: {0}")]
    Tls(String),
    /// A configuration file or flag is wrong.
    #[error(transparent)]
    Configuration(#[from] Problem),
    /// Requests cannot be recorded as asked for.
    #[error("{0}")]
    Audit(AuditError),
    /// The options of admission make no sense.
    #[error("failed to prepare admission")]
    Admission(#[source] admission::OptionError),
    /// What the store holds cannot be read.
    #[error("failed to read {what}: {error}")]
    Read {
        /// Which resource.
        what: String,
        /// Why.
        error: Box<ApiError>,
    },
    /// An object of the first start was refused.
    #[error("failed to create {what}: {error}")]
    Bootstrap {
        /// Which.
        what: String,
        /// Why.
        error: Box<ApiError>,
    },
}

impl Server {
    /// Opens the store, makes certificates and bootstrap objects, and begins to serve.
    ///
    /// # Errors
    /// [`StartError`] names what cannot be had.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let opened = storage::open(&config.storage, config.data_dir.as_deref())
            .await
            .map_err(StartError::Store)?;
        let server = Self::start_on(config, opened.store).await?;
        if let Some(encryption) = opened.encryption {
            if server.core.config.storage.reload_encryption {
                server.core.reloads.add(&encryption);
            }
            server.spawn(storage::keep_encrypted(encryption));
        }
        Ok(server)
    }

    /// As [`Server::start`], on a store that the caller brings.
    ///
    /// # Errors
    /// [`StartError`] names what cannot be had.
    pub async fn start_on(config: Config, store: Arc<dyn Store>) -> Result<Self, StartError> {
        let mut metrics = Metrics::default();
        let audit = Audit::start(&config.audit, metrics.registry()).await;
        let audit = audit.map_err(StartError::Audit)?;
        let core = Arc::new(core(config, store, metrics, audit)?);
        let pods: Arc<dyn Pods> = core.clone();
        core.authorizer.look_at_pods(Arc::downgrade(&pods));
        start_caches(&core).await?;
        core.health.caches_are_synced();
        let read = |what: &str| {
            let what = what.to_owned();
            move |error| StartError::Read { what, error: Box::new(error) }
        };
        let roles = roles::Follower::start(&core).await.map_err(read("roles"))?;
        let _ = core.roles.set(roles);
        let hooks = admission::HookFollower::start(&core).await.map_err(read("webhooks"))?;
        let _ = core.hook_follower.set(hooks);
        ties::follow(&core).await.map_err(read("what ties objects to nodes"))?;
        let registry = core.registry();
        if let Some(definitions) =
            registry.find("apiextensions.k8s.io", "customresourcedefinitions")
        {
            let storage = definitions.storage().map_err(read("definitions"))?;
            let follower =
                crd::Follower::start(&core, storage).await.map_err(read("definitions"))?;
            let _ = core.definitions.set(follower);
        }
        let router = Router::new().fallback(handlers::handle).with_state(core.clone());
        let router = identify::layers(router, &core);
        let server = Self { stop: core.stop.clone(), core, router, tasks: TaskTracker::new() };
        bootstrap::install(&server).await?;
        server.install_crds(&server.core.config.crds).await?;
        if let Some(address) = server.core.config.bind {
            server.listen(address).await?;
        }
        bootstrap::publish(&server).await?;
        server.spawn(bootstrap::keep(server.clone()));
        aggregation::start(&server).await.map_err(read("API services"))?;
        admission::start_checking(&server);
        fairness::follow::start(&server).await.map_err(read("flow schemas"))?;
        if server.core.config.storage.etcd.is_none() {
            server.spawn(events::expire(Arc::downgrade(&server.core)));
        }
        server.spawn(files::follow(server.clone()));
        server.core.health.objects_are_there();
        Ok(server)
    }

    /// What handlers share.
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Every path of the server, as a tower service.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// Where clients reach the server; in-process clients need no address.
    pub fn url(&self) -> String {
        match self.core.address() {
            Some(address) => format!("https://{address}"),
            None => "https://127.0.0.1:6443".to_owned(),
        }
    }

    /// Text of a kubeconfig for a user; `system:admin` belongs to `system:masters`.
    ///
    /// # Errors
    /// The certificate cannot be made.
    pub fn kubeconfig(&self, user: &str) -> Result<String, pki::Error> {
        let groups: &[&str] = if user == "system:admin" { &["system:masters"] } else { &[] };
        self.core.pki.kubeconfig(&self.url(), user, groups)
    }

    /// Runs a task of the server's own until it ends or the server stops.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Says that it is not ready and leads nobody here, and goes on for as long as it was told to; then stops accepting, lets running
    /// requests finish for a moment, and ends watches.
    pub async fn shutdown(&self) {
        self.core.health.shutting_down();
        let withdrawn = tokio::time::timeout(WITHDRAW_WITHIN, bootstrap::withdraw(self)).await;
        if let Ok(Err(error)) = withdrawn {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "the endpoints of the kubernetes Service still name this server");
        }
        tokio::time::sleep(self.core.config.connections.shutdown_delay).await;
        self.stop.cancel();
        self.tasks.close();
        let patience = Duration::from_secs(10);
        if tokio::time::timeout(patience, self.tasks.wait()).await.is_err() {
            tracing::warn!("connections were cut, they did not end in time");
        }
        if let Some(audit) = &self.core.audit
            && tokio::time::timeout(patience, audit.close()).await.is_err()
        {
            tracing::warn!("audit events were lost, their backend did not take them in time");
        }
    }

    /// Installs CustomResourceDefinitions given as YAML texts and waits until they are served.
    pub(crate) async fn install_crds(&self, texts: &[String]) -> Result<(), StartError> {
        local::install(self, texts).await
    }
}

fn core(
    config: Config,
    store: Arc<dyn Store>,
    mut metrics: Metrics,
    audit: Option<Audit>,
) -> Result<Core, StartError> {
    let service_ip = config.service_ranges.first_address();
    let names = ServerNames { service_ip: Some(service_ip), extra: config.extra_names.clone() };
    let directory = config.data_dir.as_ref().map(|d| d.join("pki"));
    let pki = Pki::open(directory.as_deref(), &names).map_err(StartError::Certificates)?;
    let reloads = Reloads::default();
    let authenticator = setup::authenticator(&config.identity, &config.issuer, &pki, &reloads)?;
    let authorizer = setup::authorizer(&config.identity, &reloads)?;
    let (identity, kubelet_ca) = setup::kubelet(&config.identity.serving, &pki)?;
    let identity = pki::to_der(&identity).map_err(StartError::Certificates)?;
    let front_proxy = setup::front_proxy(&config.identity.request_header, &pki, &reloads)?;
    let disabled = Disabled::new(&config.runtime)
        .map_err(|reason| Problem::new("--runtime-config", reason))?;
    if disabled.wants_more() {
        tracing::warn!("--runtime-config turns on nothing more: there are stable versions alone");
    }
    let registry = Registry::hosted(&store);
    reloads.register(metrics.registry());
    let fairness = Fairness::new(config.fairness.clone(), metrics.registry());
    let admission_metrics = admission::Metrics::register(metrics.registry());
    let admission = admission::Chain::new(&config.admission, admission_metrics);
    let kubelet_trust = match &kubelet_ca {
        Some(pem) => backend::Trust::Bundle(pem.as_bytes()),
        None => backend::Trust::Anyone,
    };
    let tls = |trust, identity| backend::tls_config(trust, identity).map_err(StartError::Tls);
    Ok(Core {
        audit: audit.map(Arc::new),
        fairness,
        kubelet_tls: Arc::new(tls(kubelet_trust, Some(identity))?),
        anonymous_tls: Arc::new(tls(backend::Trust::Anyone, None)?),
        authenticator,
        authorizer: Arc::new(authorizer),
        disabled,
        front_proxy,
        reloads,
        told_trust: parking_lot::Mutex::default(),
        admission: admission.map_err(StartError::Admission)?,
        health: Health::new(config.connections.livez_grace),
        metrics,
        documents: Documents::default(),
        registry: ArcSwap::from_pointee(registry),
        aggregator: aggregation::Aggregator::default(),
        hooks: admission::Hooks::default(),
        hook_follower: OnceLock::new(),
        definitions: OnceLock::new(),
        roles: OnceLock::new(),
        address: OnceLock::new(),
        stop: CancellationToken::new(),
        config,
        pki,
        store,
    })
}

/// Starts the caches of all hosted types, so that whoever decides can look things up without waiting.
async fn start_caches(core: &Arc<Core>) -> Result<(), StartError> {
    let registry = core.registry();
    let started = registry.resources().filter_map(|r| Some((r, r.storage.as_ref()?))).map(
        |(resource, storage)| async move {
            let what = resource.group_resource().to_string();
            storage
                .cache()
                .await
                .map(|_| ())
                .map_err(|error| StartError::Read { what, error: Box::new(error) })
        },
    );
    join_all(started).await.into_iter().collect()
}
