//! API servers behind this one: an APIService names the group version that a Service answers.
//!
//! Requests go there with the user in headers and our front-proxy certificate to vouch for it; what such a server
//! serves appears in our discovery and OpenAPI documents.
//!
//! Source: kubernetes.io, "Kubernetes API Aggregation Layer"; upstream `kube-aggregator/pkg/apiserver`.

mod documents;
mod follow;
mod probe;
mod proxy;
mod register;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use rustls::ClientConfig;
use serde_json::{Value, json};

pub(crate) use documents::{Served, merge_openapi};
pub(crate) use follow::start;
pub(crate) use proxy::answer;

use crate::backend::{self, Trust};
use crate::identity::pki::{Credential, to_der};
use crate::server::Core;
use crate::types::conditions;

/// Group and version.
pub(crate) type GroupVersion = (String, String);

/// Every server behind this one.
#[derive(Default)]
pub struct Aggregator {
    backends: ArcSwap<Backends>,
}

/// Servers by what they serve.
pub(crate) type Backends = BTreeMap<GroupVersion, Arc<Backend>>;

impl Aggregator {
    /// All of them; the same pointer while none comes or goes or serves something else.
    pub(crate) fn backends(&self) -> Arc<Backends> {
        self.backends.load_full()
    }

    /// The server that answers a path.
    pub(crate) fn find(&self, path: &str) -> Option<Arc<Backend>> {
        let backends = self.backends.load();
        if backends.is_empty() {
            return None;
        }
        let path = path.strip_prefix("/openapi/v3").unwrap_or(path);
        let mut parts = path.strip_prefix("/apis/")?.split('/');
        let key = (parts.next()?.to_owned(), parts.next()?.to_owned());
        backends.get(&key).cloned()
    }
}

/// One server, as its APIService describes it.
pub(crate) struct Backend {
    /// Name of the APIService.
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) version: String,
    namespace: String,
    service: String,
    port: u16,
    /// How its certificate is judged.
    trust: Value,
    /// TLS as it was made last.
    tls: Mutex<Option<Made>>,
    available: AtomicBool,
    /// What it serves, as it said last.
    served: ArcSwapOption<Served>,
}

/// The credential that is shown, and TLS with it, or why it cannot be had.
type Made = (Arc<Credential>, Result<Arc<ClientConfig>, String>);

impl Backend {
    /// Reads an APIService; nothing if it is local.
    fn of(object: &Value) -> Option<Self> {
        let (spec, service) = (&object["spec"], &object["spec"]["service"]);
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        service.is_object().then(|| Self {
            name: text(&object["metadata"], "name"),
            group: text(spec, "group"),
            version: text(spec, "version"),
            namespace: text(service, "namespace"),
            service: text(service, "name"),
            port: service["port"].as_u64().and_then(|port| port.try_into().ok()).unwrap_or(443),
            trust: json!({
                "caBundle": spec["caBundle"],
                "insecureSkipTLSVerify": spec["insecureSkipTLSVerify"],
            }),
            tls: Mutex::default(),
            available: AtomicBool::new(conditions::is_true(object, "Available")),
            served: ArcSwapOption::empty(),
        })
    }

    /// TLS that shows who we are now.
    ///
    /// # Errors
    /// Why it cannot be had.
    fn tls(&self, core: &Core) -> Result<Arc<ClientConfig>, String> {
        let credential = core.front_proxy.get();
        let mut made = self.tls.lock();
        match &*made {
            Some((shown, tls)) if Arc::ptr_eq(shown, &credential) => tls.clone(),
            _ => {
                let tls = tls(&self.trust, &credential).map(Arc::new);
                *made = Some((credential, tls.clone()));
                tls
            }
        }
    }

    /// The name that its certificate must be valid for.
    fn host(&self) -> String {
        format!("{}.{}.svc", self.service, self.namespace)
    }

    fn is_available(&self) -> bool {
        self.available.load(Ordering::Relaxed)
    }

    /// What it serves, as aggregated discovery shows it: nothing, as long as it has not said.
    pub(crate) fn aggregated(&self) -> Value {
        let unknown = || Served { list: Value::Null, openapi_hash: String::new(), openapi: None };
        let served = self.served().unwrap_or_else(|| Arc::new(unknown()));
        served.aggregated(&self.group, &self.version, self.is_available())
    }

    /// What it serves, as far as it is known.
    pub(crate) fn served(&self) -> Option<Arc<Served>> {
        self.served.load_full()
    }
}

fn tls(trust: &Value, credential: &Credential) -> Result<ClientConfig, String> {
    let identity = to_der(credential).map_err(|error| error.to_string())?;
    let bundle = trust["caBundle"].as_str().unwrap_or_default();
    let bundle = STANDARD.decode(bundle).map_err(|error| error.to_string())?;
    let trust = match (trust["insecureSkipTLSVerify"] == true, bundle.is_empty()) {
        (true, _) => Trust::Anyone,
        (false, true) => Trust::Machine,
        (false, false) => Trust::Bundle(&bundle),
    };
    backend::tls_config(trust, Some(identity))
}
