//! The phases of a benchmark, in words of requests.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use futures::future::try_join_all;
use http::Method;
use parking_lot::Mutex;

use super::arguments::{Api, Encoding, Phase};
use super::bodies::{Bodies, name};
use super::connection::{Call, Connection, Media};
use super::fan_out::FanOut;
use super::load::{self, Bounds, Measured};
use super::report::Report;
use super::target::Target;

/// Connections that write at a fixed rate while others watch; as fast as it goes, all write.
const WRITERS: usize = 8;

/// Paths of one namespace's pods.
pub(crate) struct Road {
    /// The server.
    pub target: Target,
    /// The namespace.
    pub namespace: String,
}

impl Road {
    /// The collection, with a query.
    pub(crate) fn pods(&self, query: &str) -> String {
        format!("/api/v1/namespaces/{}/pods{query}", self.namespace)
    }

    /// One pod, with a subresource or query.
    pub(crate) fn pod(&self, number: usize, rest: &str) -> String {
        format!("/api/v1/namespaces/{}/pods/{}{rest}", self.namespace, name(number))
    }
}

/// Runs the phases that are asked for and notes what they measured.
///
/// # Errors
/// If a connection ends, or pods are missing that a phase needs.
pub(crate) async fn run(
    arguments: &Api,
    target: &Target,
    namespace: &str,
    report: &mut Report,
) -> anyhow::Result<()> {
    let open = (0..arguments.workers.max(1)).map(|_| Connection::open(target, arguments.encoding));
    let mut bench = Bench {
        arguments,
        road: Arc::new(Road { target: target.clone(), namespace: namespace.to_owned() }),
        bodies: Arc::new(Bodies::new(namespace, arguments.size, arguments.encoding)?),
        connections: try_join_all(open).await?,
        made: 0,
    };
    for &phase in &arguments.phases {
        bench.phase(phase, report).await?;
    }
    Ok(())
}

struct Bench<'a> {
    arguments: &'a Api,
    road: Arc<Road>,
    bodies: Arc<Bodies>,
    connections: Vec<Connection>,
    /// Pods that are there: the first so many numbers.
    made: usize,
}

impl Bench<'_> {
    async fn phase(&mut self, phase: Phase, report: &mut Report) -> anyhow::Result<()> {
        if !matches!(phase, Phase::Create) && self.made == 0 {
            let bounds = Bounds { requests: self.arguments.pods, time: Duration::MAX };
            self.create(bounds).await?;
        }
        let bounds = self.bounds();
        match phase {
            Phase::Create => {
                let measured =
                    self.create(Bounds { requests: self.arguments.pods, ..bounds }).await?;
                report.requests("create", &measured);
            }
            Phase::Get => report.requests("get", &self.get(bounds).await?),
            Phase::List => report.requests("list", &self.list(bounds).await?),
            Phase::Page => report.requests("page", &self.page(bounds).await?),
            Phase::Status => report.requests("status", &self.status(bounds).await?),
            Phase::Apply => report.requests("apply", &self.apply(bounds).await?),
            Phase::Watch => {
                let rate = Some(self.arguments.rate);
                self.watch("watch", self.arguments.watchers, rate, report).await?;
            }
            Phase::Saturate => {
                self.watch("saturate", self.arguments.saturating_watchers, None, report).await?;
            }
            Phase::Mixed => report.requests("mixed", &self.mixed(bounds).await?),
            Phase::Delete => report.requests("delete", &self.delete(bounds).await?),
        }
        Ok(())
    }

    fn bounds(&self) -> Bounds {
        let requests = match self.arguments.requests {
            0 => usize::MAX,
            n => n,
        };
        Bounds { requests, time: Duration::from_secs(self.arguments.seconds) }
    }

    async fn create(&mut self, bounds: Bounds) -> anyhow::Result<Measured> {
        let (road, bodies) = (self.road.clone(), self.bodies.clone());
        let media = Media::Object(self.arguments.encoding);
        let first = self.made;
        let measured = load::run(&mut self.connections, bounds, move |n| {
            let call = Call::new(Method::POST, road.pods(""));
            Some(call.with(media, bodies.pod.fill(first + n, 0)))
        })
        .await?;
        ensure!(
            measured.errors == 0,
            "pods cannot be created: {}",
            measured.first_error.as_deref().unwrap_or_default()
        );
        self.made += measured.latencies.len() as usize;
        Ok(measured)
    }

    async fn get(&mut self, bounds: Bounds) -> anyhow::Result<Measured> {
        let (road, made) = (self.road.clone(), self.made);
        load::run(&mut self.connections, bounds, move |n| {
            Some(Call::new(Method::GET, road.pod(scattered(n, made), "")))
        })
        .await
    }

    async fn list(&mut self, bounds: Bounds) -> anyhow::Result<Measured> {
        let road = self.road.clone();
        let next = move |_| Some(Call::new(Method::GET, road.pods("")));
        load::run(&mut self.connections, bounds, next).await
    }

    /// Pages as a reflector reads them: each connection follows its own list from page to page.
    async fn page(&mut self, bounds: Bounds) -> anyhow::Result<Measured> {
        let limit = self.arguments.limit;
        let tokens = self.tokens(limit).await?;
        let road = self.road.clone();
        load::run(&mut self.connections, bounds, move |n| {
            let token = &tokens[n % tokens.len()];
            Some(Call::new(Method::GET, road.pods(&format!("?limit={limit}{token}"))))
        })
        .await
    }

    /// The queries that lead to each page of one list.
    async fn tokens(&self, limit: usize) -> anyhow::Result<Vec<String>> {
        // In JSON, whatever is measured.
        let mut connection = Connection::open(&self.road.target, Encoding::Json).await?;
        let mut tokens = vec![String::new()];
        loop {
            let token = tokens.last().map(String::as_str).unwrap_or_default();
            let call = Call::new(Method::GET, self.road.pods(&format!("?limit={limit}{token}")));
            let page = connection.json(&call).await?;
            match page["metadata"]["continue"].as_str() {
                None | Some("") => return Ok(tokens),
                Some(token) => tokens.push(format!("&continue={token}")),
            }
        }
    }

    async fn status(&mut self, bounds: Bounds) -> anyhow::Result<Measured> {
        let (road, bodies, made) = (self.road.clone(), self.bodies.clone(), self.made);
        load::run(&mut self.connections, bounds, move |n| {
            let pod = n % made;
            let call = Call::new(Method::PATCH, road.pod(pod, "/status"));
            Some(call.with(Media::Strategic, bodies.status.fill(pod, n as u64)))
        })
        .await
    }

    async fn apply(&mut self, bounds: Bounds) -> anyhow::Result<Measured> {
        let (road, bodies, made) = (self.road.clone(), self.bodies.clone(), self.made);
        load::run(&mut self.connections, bounds, move |n| {
            let pod = n % made;
            let path = road.pod(pod, "?fieldManager=improv-bench-apply&force=true");
            let body = bodies.apply.fill(pod, n as u64);
            Some(Call::new(Method::PATCH, path).with(Media::Apply, body))
        })
        .await
    }

    async fn watch(
        &mut self,
        phase: &str,
        watchers: usize,
        rate: Option<u32>,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let fan_out = FanOut {
            road: &self.road,
            status: &self.bodies.status,
            pods: self.made,
            watchers,
            rate,
            time: Duration::from_secs(self.arguments.seconds),
        };
        let writers = if rate.is_some() { WRITERS } else { usize::MAX }.min(self.connections.len());
        report.delivered(phase, &fan_out.run(&mut self.connections[..writers]).await?);
        Ok(())
    }

    /// Of twenty requests: twelve gets, a page, five status patches, a creation and a deletion.
    async fn mixed(&mut self, bounds: Bounds) -> anyhow::Result<Measured> {
        let (road, bodies, made) = (self.road.clone(), self.bodies.clone(), self.made);
        let media = Media::Object(self.arguments.encoding);
        // Only what was surely created is deleted: numbers come back some rounds later.
        let extra = Mutex::new(VecDeque::new());
        load::run(&mut self.connections, bounds, move |n| {
            let pod = scattered(n, made);
            Some(match n % 20 {
                0 => Call::new(Method::GET, road.pods("?limit=50")),
                1..=5 => Call::new(Method::PATCH, road.pod(n % made, "/status"))
                    .with(Media::Strategic, bodies.status.fill(n % made, n as u64)),
                6 => {
                    extra.lock().push_back(made + n);
                    Call::new(Method::POST, road.pods("")).with(media, bodies.pod.fill(made + n, 0))
                }
                7 if extra.lock().len() > 20 => match extra.lock().pop_front() {
                    Some(old) => Call::new(Method::DELETE, road.pod(old, "")),
                    None => Call::new(Method::GET, road.pod(pod, "")),
                },
                _ => Call::new(Method::GET, road.pod(pod, "")),
            })
        })
        .await
    }

    async fn delete(&mut self, bounds: Bounds) -> anyhow::Result<Measured> {
        let (road, made) = (self.road.clone(), self.made);
        let bounds = Bounds { requests: made, ..bounds };
        let next = move |n| Some(Call::new(Method::DELETE, road.pod(n, "")));
        let measured = load::run(&mut self.connections, bounds, next).await?;
        self.made = 0;
        Ok(measured)
    }
}

/// Another pod each time, without an order that caches could like.
fn scattered(n: usize, pods: usize) -> usize {
    n.wrapping_mul(2_654_435_761) % pods
}
