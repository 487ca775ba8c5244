//! Runs one probe of one container until it is aborted.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;
use tokio::time::Instant;

use super::action::{Prober, Target};
use super::{Kind, Pace, Settings, Tally};

/// What a probe has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The verdict has changed; a failure comes with its cause.
    Verdict(Result<(), String>),
    /// A failure was counted.
    Failure(String),
}

/// Probes for ever, and tells `report` what is new. Dropping the future ends it.
///
/// `known` is the verdict from before a restart of the agent.
pub async fn run(
    kind: Kind,
    probe: Probe,
    target: Target,
    prober: Arc<dyn Prober>,
    known: Option<bool>,
    mut report: impl FnMut(Report),
) {
    let settings = Settings::new(&probe);
    let mut tally = Tally::new(&settings, known);
    let (mut pace, first) = Pace::new(kind, &settings, probe.exec.is_some());
    tokio::time::sleep(if known.is_some() { Duration::ZERO } else { first }).await;
    let begin = Instant::now();
    loop {
        let outcome = prober.probe(&target, &probe, settings.timeout).await;
        let (counts, wait) = pace.after(begin.elapsed(), outcome.is_ok());
        if counts {
            if let Err(why) = &outcome {
                report(Report::Failure(why.clone()));
            }
            if tally.count(outcome.is_ok()).is_some() {
                let done = kind == Kind::Startup && outcome.is_ok();
                report(Report::Verdict(outcome));
                if done {
                    return;
                }
            }
        }
        tokio::time::sleep(wait).await;
    }
}
