//! `apiserver_admission_*`, `apiserver_*_admission_policy_*` and `pod_security_*`, in upstream's names.
//!
//! Plugins are timed with every write, so each holds its histograms; the others are looked up by name.
//!
//! Source: upstream `apiserver/pkg/admission/metrics`, `plugin/policy/*/metrics`, `pod-security-admission/metrics`.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::attributes::Operation;

const SECONDS: [f64; 6] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5];
const CALL_SECONDS: [f64; 8] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];
const EXPRESSION_SECONDS: [f64; 5] = [0.000_000_5, 0.001, 0.01, 0.1, 1.0];
/// Codes of webhooks are theirs to choose; larger ones share this one.
const LARGEST_CODE: u16 = 600;

/// The two phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    /// Plugins may change the object.
    Admit,
    /// Plugins may refuse the request.
    Validate,
}

impl EncodeLabelValue for Phase {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let text = match self {
            Self::Admit => "admit",
            Self::Validate => "validate",
        };
        text.encode(encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStep {
    r#type: Phase,
    operation: &'static str,
    rejected: Flag,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPlugin {
    name: &'static str,
    r#type: Phase,
    operation: &'static str,
    rejected: Flag,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCall {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    rejected: Flag,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    code: u16,
    rejected: Flag,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rejection {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    error_type: &'static str,
    rejection_code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfWebhook {
    name: String,
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Check {
    policy: String,
    policy_binding: String,
    error_type: &'static str,
    enforcement_action: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Change {
    policy: String,
    policy_binding: String,
    error_type: &'static str,
}

/// A truth as Go writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Flag(bool);

impl EncodeLabelValue for Flag {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        if self.0 { "true" } else { "false" }.encode(encoder)
    }
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// What became of a call of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Called {
    /// It allows the request.
    Allowed,
    /// It refuses the request, with this code.
    Refused(u16),
    /// It could not be asked, and the request goes on.
    FailedOpen,
    /// It could not be asked, and the request ends.
    FailedClosed,
    /// The request ends for a reason of this server's own.
    Broken,
}

impl Called {
    fn is_rejected(self) -> bool {
        matches!(self, Self::Refused(_) | Self::FailedClosed | Self::Broken)
    }

    fn code(self) -> u16 {
        match self {
            Self::Allowed => 200,
            Self::Refused(code) => code.min(LARGEST_CODE),
            Self::FailedOpen | Self::FailedClosed => 503,
            Self::Broken => 0,
        }
    }
}

/// What admission counts and times.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    steps: Histograms<OfStep>,
    plugins: Histograms<OfPlugin>,
    calls: Histograms<OfCall>,
    requests: Family<Request, Counter>,
    rejections: Family<Rejection, Gauge>,
    failed_open: Family<OfWebhook, Gauge>,
    checks: Family<Check, Counter>,
    check_times: Histograms<Check>,
    changes: Family<Change, Counter>,
    change_times: Histograms<Change>,
    /// Those of Pod Security.
    pub(super) pods: super::pod_security::Metrics,
}

impl Metrics {
    /// Makes them and puts them into a registry.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(SECONDS);
        let expression: fn() -> Histogram = || Histogram::new(EXPRESSION_SECONDS);
        let metrics = Self {
            steps: Family::new_with_constructor(seconds),
            plugins: Family::new_with_constructor(seconds),
            calls: Family::new_with_constructor(|| Histogram::new(CALL_SECONDS)),
            requests: Family::default(),
            rejections: Family::default(),
            failed_open: Family::default(),
            checks: Family::default(),
            check_times: Family::new_with_constructor(expression),
            changes: Family::default(),
            change_times: Family::new_with_constructor(expression),
            pods: super::pod_security::Metrics::register(registry),
        };
        metrics.register_chain(registry);
        let r = registry.sub_registry_with_prefix("apiserver_validating_admission_policy");
        r.register("check", "Violations, and faults, by policy", metrics.checks.clone());
        r.register("check_duration_seconds", "Time of a policy", metrics.check_times.clone());
        let r = registry.sub_registry_with_prefix("apiserver_mutating_admission_policy");
        r.register("check", "Runs of policies", metrics.changes.clone());
        r.register("check_duration_seconds", "Time of a policy", metrics.change_times.clone());
        metrics
    }

    fn register_chain(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("apiserver_admission");
        r.register("step_admission_duration_seconds", "Time of a phase", self.steps.clone());
        r.register(
            "controller_admission_duration_seconds",
            "Time of a plugin",
            self.plugins.clone(),
        );
        r.register("webhook_admission_duration_seconds", "Time of a call", self.calls.clone());
        r.register("webhook_request", "Calls of webhooks", self.requests.clone());
        // Upstream's names for these two lack the `_total` that every counter gets here; gauges do not get it.
        r.register("webhook_rejection_count", "Refusals of webhooks", self.rejections.clone());
        r.register(
            "webhook_fail_open_count",
            "Webhooks that failed without an effect",
            self.failed_open.clone(),
        );
    }

    /// Where the times of one plugin go.
    pub(super) fn of_plugin(&self, name: &'static str) -> Times {
        let family = self.plugins.clone();
        Times::new(move |r#type, operation, rejected| {
            family.get_or_create_owned(&OfPlugin { name, r#type, operation, rejected })
        })
    }

    /// Where the times of the whole phases go.
    pub(super) fn of_steps(&self) -> Times {
        let family = self.steps.clone();
        Times::new(move |r#type, operation, rejected| {
            family.get_or_create_owned(&OfStep { r#type, operation, rejected })
        })
    }

    /// A webhook was called.
    pub(super) fn called(
        &self,
        name: &str,
        phase: Phase,
        operation: Operation,
        called: Called,
        elapsed: Duration,
    ) {
        let r#type = match phase {
            Phase::Admit => "admit",
            Phase::Validate => "validating",
        };
        let (name, operation) = (name.to_owned(), operation.as_str());
        let (code, rejected) = (called.code(), Flag(called.is_rejected()));
        let call = OfCall { name: name.clone(), r#type, operation, rejected };
        self.calls.get_or_create(&call).observe(elapsed.as_secs_f64());
        let request = Request { name: name.clone(), r#type, operation, code, rejected };
        self.requests.get_or_create(&request).inc();
        let error_type = match called {
            Called::Allowed => return,
            Called::FailedOpen => {
                self.failed_open.get_or_create(&OfWebhook { name, r#type }).inc();
                return;
            }
            Called::Refused(_) => "no_error",
            Called::FailedClosed => "calling_webhook_error",
            Called::Broken => "apiserver_internal_error",
        };
        let rejection = Rejection { name, r#type, operation, error_type, rejection_code: code };
        self.rejections.get_or_create(&rejection).inc();
    }

    /// A validating policy found something, and this is what follows from it.
    pub(super) fn checked(
        &self,
        (policy, binding): (&str, &str),
        error_type: &'static str,
        enforcement_action: &'static str,
        elapsed: Duration,
    ) {
        let (policy, policy_binding) = (policy.to_owned(), binding.to_owned());
        let check = Check { policy, policy_binding, error_type, enforcement_action };
        self.checks.get_or_create(&check).inc();
        self.check_times.get_or_create(&check).observe(elapsed.as_secs_f64());
    }

    /// A mutating policy has run.
    pub(super) fn changed(
        &self,
        (policy, binding): (&str, &str),
        error_type: &'static str,
        elapsed: Duration,
    ) {
        let (policy, policy_binding) = (policy.to_owned(), binding.to_owned());
        let change = Change { policy, policy_binding, error_type };
        self.changes.get_or_create(&change).inc();
        self.change_times.get_or_create(&change).observe(elapsed.as_secs_f64());
    }
}

type Make = dyn Fn(Phase, &'static str, Flag) -> Histogram + Send + Sync;

/// Histograms by phase, operation and outcome, each made when it is first needed.
#[derive(Clone)]
pub(super) struct Times {
    made: Arc<[OnceLock<Histogram>; 16]>,
    make: Arc<Make>,
}

impl Times {
    fn new(make: impl Fn(Phase, &'static str, Flag) -> Histogram + Send + Sync + 'static) -> Self {
        Self { made: Arc::default(), make: Arc::new(make) }
    }

    /// One more.
    pub(super) fn observe(
        &self,
        phase: Phase,
        operation: Operation,
        rejected: bool,
        elapsed: Duration,
    ) {
        let at = phase as usize * 8 + operation as usize * 2 + usize::from(rejected);
        let make = || (self.make)(phase, operation.as_str(), Flag(rejected));
        self.made[at].get_or_init(make).observe(elapsed.as_secs_f64());
    }
}
