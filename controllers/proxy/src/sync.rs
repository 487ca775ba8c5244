//! Keeps the kernel's rules equal to what the API says: on each change, and when somebody else flushed them.

use std::time::Duration;

use futures::{FutureExt, StreamExt, stream};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kit::{Metrics, Reflector, chain};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::nft::apply::{Tables, forget_udp_flows};
use crate::plan::{Observed, ServicePort, plan};

/// Changes that come this close together become one transaction.
const GATHER: Duration = Duration::from_millis(5);
/// How soon a flush by somebody else is noticed.
const INSPECTION: Duration = Duration::from_secs(5);
/// Pause after a refused transaction.
const RETRY: Duration = Duration::from_secs(1);

pub(crate) struct Sync {
    pub(crate) services: Reflector<Service>,
    pub(crate) slices: Reflector<EndpointSlice>,
    pub(crate) node: String,
    pub(crate) tables: Tables,
    /// What the tables serve.
    pub(crate) applied: Vec<ServicePort>,
}

impl Sync {
    /// Runs until `shutdown`; the rules stay.
    pub(crate) async fn run(mut self, metrics: Metrics, shutdown: CancellationToken) {
        let services = self.services.changes().map(|_| ());
        let slices = self.slices.changes().map(|_| ());
        let mut changes = std::pin::pin!(stream::select(services, slices).ready_chunks(1024));
        let mut inspection = interval(INSPECTION);
        inspection.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                change = changes.next() => if change.is_none() { return },
                _ = inspection.tick() => {
                    if self.applied.is_empty() || self.tables.is_intact().await {
                        continue;
                    }
                    warn!("somebody changed the rules, writing them anew");
                }
                () = sleep(pause), if !pause.is_zero() => (),
            }
            sleep(GATHER).await;
            while changes.next().now_or_never().flatten().is_some() {}
            let began = Instant::now();
            let result = self.sync().await;
            metrics.reconciled(began.elapsed(), result.as_ref().err().map(|_| "nft"));
            pause = match result {
                Ok(()) => Duration::ZERO,
                Err(error) => {
                    error!(
                        error = chain(&error),
                        "cannot bring the rules up to date, trying again"
                    );
                    RETRY
                }
            };
        }
    }

    async fn sync(&mut self) -> Result<(), crate::nft::apply::Error> {
        let observed = Observed {
            services: self.services.all(),
            slices: self.slices.all(),
            node: self.node.clone(),
        };
        let ports = plan(&observed);
        let n_commands = self.tables.sync(&ports).await?;
        forget_udp_flows(&self.applied, &ports).await;
        debug!(n_commands, n_ports = ports.len(), "rules are up to date");
        self.applied = ports;
        Ok(())
    }
}
