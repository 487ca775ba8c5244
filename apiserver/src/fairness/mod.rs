//! Priority and fairness: who may run now, who waits for whom, and who is told to come back.
//!
//! [`queues`], [`borrow`], [`rules`], [`work`] and [`config`] decide, and know neither clock nor lock;
//! [`level`] holds the lock of one level for the length of one decision; [`layer`] puts it around requests.
//!
//! Source: KEP-1040; kubernetes.io, "API Priority and Fairness".

pub mod borrow;
pub mod config;
pub mod debug;
pub mod demand;
pub mod flags;
pub mod follow;
pub mod inflight;
pub mod layer;
pub mod level;
pub mod metrics;
pub mod mix;
pub mod queues;
pub mod retry_after;
pub mod rules;
pub mod scraped;
pub mod shuffle;
pub mod utilization;
pub mod work;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::HeaderValue;
use k8s_openapi::api::flowcontrol::v1::FlowSchemaSpec;
use prometheus_client::registry::Registry;

use self::borrow::{Wish, adjust};
use self::config::{LevelPlan, Plan};
use self::level::{Admission, Capacity, Level, Note};
use self::metrics::{Metrics, SchemaMetrics};
use self::mix::{Mix, Phase};
use self::work::Estimate;
use crate::request::{RequestInfo, User};

pub use flags::{Flags, Options};

/// Pause between two adjustments of the levels' seats.
///
/// Source: `borrowingAdjustmentPeriod` in upstream's `apf_controller.go`.
pub const ADJUST_EVERY: Duration = Duration::from_secs(10);

/// A schema with all that its requests need.
#[derive(Debug)]
pub struct Route {
    /// Its name.
    pub name: String,
    spec: FlowSchemaSpec,
    level: Arc<Level>,
    widest: u32,
    metrics: Arc<SchemaMetrics>,
    schema_uid: HeaderValue,
    level_uid: HeaderValue,
}

/// What is followed now.
#[derive(Debug, Default)]
struct Table {
    plan: Plan,
    routes: Vec<Arc<Route>>,
    levels: BTreeMap<String, Arc<Level>>,
}

/// Priority and fairness of one server.
#[derive(Debug)]
pub struct Fairness {
    options: Options,
    epoch: Instant,
    hasher: RandomState,
    metrics: Metrics,
    table: ArcSwap<Table>,
    inflight: inflight::Inflight,
    mix: Arc<Mix>,
}

impl Fairness {
    /// Starts from the recorded schemas and levels of a fresh cluster.
    pub fn new(options: Options, registry: &mut Registry) -> Self {
        let epoch = Instant::now();
        let mix = Mix::new(epoch);
        mix.measure_by(Phase::Running, false, options.max_requests.into());
        mix.measure_by(Phase::Running, true, options.max_mutating_requests.into());
        let this = Self {
            inflight: inflight::Inflight::new(&options),
            options,
            epoch,
            mix: Arc::new(mix),
            hasher: RandomState::new(),
            metrics: Metrics::register(registry),
            table: ArcSwap::default(),
        };
        let (schemas, levels) = config::recorded();
        this.follow(config::digest(this.options.seats(), schemas, levels));
        this
    }

    /// The options that it was started with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The schema that a request falls under. There always is one: `catch-all` matches everything.
    pub fn route(&self, user: &User, info: &RequestInfo) -> Option<Arc<Route>> {
        let table = self.table.load();
        table.routes.iter().find(|route| rules::matches(&route.spec, user, info)).cloned()
    }

    /// Lets a request in, puts it into a queue, or refuses it.
    pub fn admit(
        &self,
        route: &Route,
        user: &User,
        info: &RequestInfo,
        estimate: Estimate,
    ) -> Admission {
        let distinguisher = rules::distinguisher(&route.spec, user, info);
        let flow = self.hasher.hash_one((&route.name, distinguisher));
        let note = Note {
            metrics: route.metrics.clone(),
            distinguisher: distinguisher.to_owned(),
            estimate,
            user: user.name.clone(),
            info: info.clone(),
        };
        route.level.admit(flow, note)
    }

    /// Requests that read and that change.
    pub fn mix(&self) -> &Arc<Mix> {
        &self.mix
    }

    /// Takes over another plan; levels that stay keep their requests.
    pub fn follow(&self, plan: Plan) {
        let old = self.table.load_full();
        if old.plan == plan {
            return;
        }
        let level = |wanted: &LevelPlan| {
            let first = self.capacity(wanted, wanted.bounds.nominal);
            match old.levels.get(&wanted.name) {
                Some(level) => {
                    level.configure(wanted.shape, first);
                    level.clone()
                }
                None => Arc::new(Level::new(&wanted.name, self.epoch, wanted.shape, first)),
            }
        };
        let levels: Vec<Arc<Level>> = plan.levels.iter().map(level).collect();
        let route = |schema: &config::SchemaPlan| {
            let (level, wanted) = (&levels[schema.level], &plan.levels[schema.level]);
            let name = schema.schema.metadata.name.clone().unwrap_or_default();
            let uid = schema.schema.metadata.uid.as_deref().unwrap_or_default();
            let header =
                |uid: &str| HeaderValue::from_str(uid).unwrap_or(HeaderValue::from_static(""));
            Some(Arc::new(Route {
                spec: schema.schema.spec.clone()?,
                level: level.clone(),
                widest: wanted.widest,
                metrics: self.metrics.of_schema(&wanted.name, &name),
                schema_uid: header(uid),
                level_uid: header(&wanted.uid),
                name,
            }))
        };
        let routes = plan.schemas.iter().filter_map(route).collect();
        let levels = levels.iter().map(|level| (level.name.clone(), level.clone())).collect();
        if self.options.enabled {
            self.measure_mix(&plan);
        }
        self.table.store(Arc::new(Table { plan, routes, levels }));
        self.divide(Level::demand);
    }

    fn capacity(&self, level: &LevelPlan, seats: u32) -> Capacity {
        Capacity::new(level.shares.exempt, seats, self.options.seats())
    }

    /// Both kinds of requests share all seats and all places in queues.
    fn measure_mix(&self, plan: &Plan) {
        let seats: f64 = plan.levels.iter().map(|level| f64::from(level.bounds.nominal)).sum();
        let places: usize = plan.levels.iter().map(|l| l.shape.queues * l.shape.length).sum();
        for changes in [false, true] {
            self.mix.measure_by(Phase::Waiting, changes, places as f64);
            self.mix.measure_by(Phase::Running, changes, seats);
        }
    }

    /// Ends a period: lends seats of idle levels to busy ones until the next call.
    pub fn adjust(&self) {
        self.divide(Level::observe);
    }

    fn divide(&self, demand: impl Fn(&Level) -> borrow::Smoothed) {
        let table = self.table.load();
        let known = table.plan.levels.iter();
        let known = known.filter_map(|plan| Some((plan, table.levels.get(&plan.name)?)));
        let all: Vec<(&LevelPlan, &Arc<Level>, Wish)> = known
            .map(|(plan, level)| {
                let (exempt, bounds) = (plan.shares.exempt, plan.bounds);
                (plan, level, Wish { exempt, bounds, demand: demand(level) })
            })
            .collect();
        let wishes: Vec<Wish> = all.iter().map(|(_, _, wish)| *wish).collect();
        let (seats, fraction) = adjust(&wishes);
        for ((plan, level, wish), seats) in all.into_iter().zip(seats) {
            level.configure(plan.shape, self.capacity(plan, seats));
            self.metrics.adjusted(&plan.name, &wish, seats);
        }
        self.metrics.fair_fraction(fraction);
    }

    /// Takes back the seats of requests that run for longer than `most`.
    pub fn evict(&self, most: Duration) {
        self.table.load().levels.values().for_each(|level| level.evict(most));
    }

    /// How long a request may wait for a seat.
    ///
    /// Source: `getRequestWaitContext` in upstream's `priority-and-fairness.go`: a quarter of its time.
    pub fn patience(&self) -> Duration {
        (self.options.request_timeout / 4).min(Duration::from_secs(60))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    /// What fairness adds to a request that need not wait. Run it by hand, with `--release`.
    #[test]
    #[ignore = "measures, and asserts nothing"]
    fn cost_of_a_request_that_runs_at_once() {
        let fairness = Fairness::new(Options::default(), &mut Registry::default());
        let info = RequestInfo::parse(&Method::GET, "/api/v1/namespaces/a/pods/p", None);
        for user in [User::new("admin", &["system:masters"]), User::new("jane", &["dev", "ops"])] {
            let (began, n) = (Instant::now(), 200_000);
            for _ in 0..n {
                let route = fairness.route(&user, &info).unwrap();
                let estimate = work::estimate(&info, None, 8, || None);
                let Admission::Runs(permit) = fairness.admit(&route, &user, &info, estimate) else {
                    panic!("it does not run");
                };
                drop(permit);
            }
            println!("{}: {:?} a request", user.name, began.elapsed() / n);
        }
    }
}
