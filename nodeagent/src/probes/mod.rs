//! Probes: when to probe and what the results mean (pure, here), and how to probe (`action`).

pub mod action;
pub mod runner;

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;

/// Which question a probe answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Has the container come up? The others wait for it.
    Startup,
    /// May it be sent requests?
    Readiness,
    /// Must it be started anew?
    Liveness,
}

impl Kind {
    /// As messages begin: `Readiness probe failed: …`.
    pub fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }

    /// As upstream's `Container x failed liveness probe`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Readiness => "readiness",
            Self::Liveness => "liveness",
        }
    }
}

/// A probe's numbers, defaults made explicit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Wait before the first probe.
    pub initial_delay: Duration,
    /// From one probe to the next.
    pub period: Duration,
    /// Longest that a probe may take.
    pub timeout: Duration,
    /// Successes in a row that make it a success.
    pub success_threshold: u32,
    /// Failures in a row that make it a failure.
    pub failure_threshold: u32,
    /// Grace period of a container that this probe ends.
    pub grace: Option<Duration>,
}

impl Settings {
    /// Reads a probe of the API.
    pub fn new(probe: &Probe) -> Self {
        let at_least = |value: Option<i32>, least: u32, default: u32| {
            value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v >= least).unwrap_or(default)
        };
        let seconds = |n: u32| Duration::from_secs(n.into());
        Self {
            initial_delay: seconds(at_least(probe.initial_delay_seconds, 0, 0)),
            period: seconds(at_least(probe.period_seconds, 1, 10)),
            timeout: seconds(at_least(probe.timeout_seconds, 1, 1)),
            success_threshold: at_least(probe.success_threshold, 1, 1),
            failure_threshold: at_least(probe.failure_threshold, 1, 3),
            grace: probe
                .termination_grace_period_seconds
                .and_then(|s| u64::try_from(s).ok())
                .map(Duration::from_secs),
        }
    }
}

/// Counts results until they say something new.
#[derive(Clone, Debug)]
pub struct Tally {
    success_threshold: u32,
    failure_threshold: u32,
    in_row: u32,
    last: Option<bool>,
    verdict: Option<bool>,
}

impl Tally {
    /// Nothing counted; `verdict` is what is held true already.
    pub fn new(settings: &Settings, verdict: Option<bool>) -> Self {
        Self {
            success_threshold: settings.success_threshold,
            failure_threshold: settings.failure_threshold,
            in_row: 0,
            last: None,
            verdict,
        }
    }

    /// Counts one result; answers the verdict if it has changed.
    pub fn count(&mut self, success: bool) -> Option<bool> {
        self.in_row = if self.last == Some(success) { self.in_row.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let threshold = if success { self.success_threshold } else { self.failure_threshold };
        if self.in_row < threshold || self.verdict == Some(success) {
            return None;
        }
        self.verdict = Some(success);
        Some(success)
    }
}

/// First wait between hasty probes.
const HASTE_NETWORK: Duration = Duration::from_millis(10);
/// As [`HASTE_NETWORK`], for commands, which cost tens of milliseconds each.
const HASTE_EXEC: Duration = Duration::from_millis(100);
/// A container that has only just begun is not yet asked whether it lives.
const FIRST_LIVENESS: Duration = Duration::from_secs(1);

/// When to probe next.
///
/// Until a container is first found up or ready, it is probed hastily (10 ms, 20 ms … up to the period), so that it serves as soon as it can.
/// Failures count only at the pace that the pod asks for, and never within the first period of haste.
#[derive(Clone, Debug)]
pub struct Pace {
    period: Duration,
    haste: Option<Duration>,
    next_count: Duration,
}

impl Pace {
    /// The pace of a probe, and the wait before its first run.
    pub fn new(kind: Kind, settings: &Settings, exec: bool) -> (Self, Duration) {
        let period = settings.period;
        let eager = kind != Kind::Liveness && settings.success_threshold == 1;
        let haste = eager.then_some(if exec { HASTE_EXEC } else { HASTE_NETWORK });
        let next_count = if eager { period } else { Duration::ZERO };
        let first = match kind {
            Kind::Liveness => settings.initial_delay.max(period.min(FIRST_LIVENESS)),
            Kind::Startup | Kind::Readiness => settings.initial_delay,
        };
        (Self { period, haste, next_count }, first)
    }

    /// Whether a result `elapsed` after the first probe counts, and how long to wait for the next one.
    pub fn after(&mut self, elapsed: Duration, success: bool) -> (bool, Duration) {
        if success {
            self.haste = None;
            self.next_count = elapsed + self.period;
            return (true, self.period);
        }
        let counts = elapsed >= self.next_count;
        if counts {
            self.next_count = elapsed + self.period;
        }
        let regular = self.next_count.saturating_sub(elapsed);
        let Some(haste) = self.haste else { return (counts, regular) };
        self.haste = Some(haste.saturating_mul(2));
        (counts, regular.min(haste))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(success: u32, failure: u32) -> Settings {
        let probe = Probe {
            success_threshold: i32::try_from(success).ok(),
            failure_threshold: i32::try_from(failure).ok(),
            ..Probe::default()
        };
        Settings::new(&probe)
    }

    #[track_caller]
    fn check(success: u32, failure: u32, results: &str, expected: &str) {
        let mut tally = Tally::new(&settings(success, failure), None);
        let verdicts = results.chars().map(|r| match tally.count(r == '+') {
            Some(true) => '+',
            Some(false) => '-',
            None => '.',
        });
        assert_eq!(verdicts.collect::<String>(), expected);
    }

    #[test]
    fn verdicts_change_at_their_thresholds() {
        check(1, 3, "+--+---+", "+.....-+");
        check(2, 1, "+-++-", ".-.+-");
        check(1, 3, "---", "..-");
    }

    #[test]
    fn defaults_are_those_of_the_api() {
        let s = Settings::new(&Probe::default());
        let seconds = (s.initial_delay.as_secs(), s.period.as_secs(), s.timeout.as_secs());
        assert_eq!((seconds, s.success_threshold, s.failure_threshold), ((0, 10, 1), 1, 3));
    }

    /// Steps a clock through failures and one success, and lists "time in ms, counted?".
    fn walk(kind: Kind, exec: bool, success_at: u64, until: u64) -> String {
        let (mut pace, first) = Pace::new(kind, &settings(1, 3), exec);
        let mut elapsed = Duration::ZERO;
        let mut out = vec![format!("first {}", first.as_millis())];
        while elapsed <= Duration::from_millis(until) {
            let success = elapsed >= Duration::from_millis(success_at);
            let (counts, wait) = pace.after(elapsed, success);
            let mark = if success { "+" } else { "-" };
            out.push(format!("{}{mark}{}", elapsed.as_millis(), if counts { "!" } else { "" }));
            elapsed += wait;
        }
        out.join(" ")
    }

    #[test]
    fn readiness_is_found_early_and_failures_count_by_the_period() {
        let walked = walk(Kind::Readiness, false, 100, 20_000);
        assert_eq!(walked, "first 0 0- 10- 30- 70- 150+! 10150+!");
        let walked = walk(Kind::Readiness, true, 99_999, 30_000);
        let expected = "first 0 0- 100- 300- 700- 1500- 3100- 6300- 10000-! 20000-! 30000-!";
        assert_eq!(walked, expected);
    }

    #[test]
    fn liveness_keeps_its_period() {
        assert_eq!(walk(Kind::Liveness, false, 15_000, 25_000), "first 1000 0-! 10000-! 20000+!");
    }
}
