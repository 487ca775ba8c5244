//! What an operator may say about limits of requests.

use std::time::Duration;

use clap::Args;

use crate::{Config, duration};

/// Limits of the server as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Whether requests are queued by priority; without, two plain limits hold.
    pub enabled: bool,
    /// Seats of the server, first part; or the limit of reading requests.
    pub max_requests: u32,
    /// Seats of the server, second part; or the limit of changing requests.
    pub max_mutating_requests: u32,
    /// Longest life of a request that is no watch.
    pub request_timeout: Duration,
    /// Shortest life of a watch whose client names none; the longest is twice that.
    pub min_request_timeout: Duration,
    /// Longest wait for the headers of a request.
    pub header_timeout: Duration,
    /// Longest time that a client may leave what is sent to it unread.
    pub stall_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            enabled: true,
            max_requests: 400,
            max_mutating_requests: 200,
            request_timeout: Duration::from_secs(60),
            min_request_timeout: Duration::from_secs(1800),
            header_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(60),
        }
    }
}

impl Options {
    /// Seats of the whole server.
    pub fn seats(&self) -> u32 {
        self.max_requests.saturating_add(self.max_mutating_requests).max(1)
    }
}

/// Flags of priority and fairness, and of how long requests may take.
#[derive(Debug, Clone, Args)]
#[group(id = "fairness")]
pub struct Flags {
    /// Queue requests by priority levels; `false` leaves the two limits below alone
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, default_value_t = true)]
    pub enable_priority_and_fairness: bool,
    /// Requests that run at the same time, but for changes; with those it makes the seats that priority levels divide
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub max_requests_inflight: u32,
    /// Changes that run at the same time
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub max_mutating_requests_inflight: u32,
    /// Longest time that a request may take, watches and streams left out
    #[arg(long, value_name = "DURATION", default_value = "1m0s", value_parser = duration::flag)]
    pub request_timeout: Duration,
    /// Least number of seconds that a watch stays open, if its client does not say
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    pub min_request_timeout: u64,
}

impl Flags {
    /// Writes what was said into a configuration.
    pub fn apply(&self, config: &mut Config) {
        config.fairness = Options {
            enabled: self.enable_priority_and_fairness,
            max_requests: self.max_requests_inflight,
            max_mutating_requests: self.max_mutating_requests_inflight,
            request_timeout: self.request_timeout,
            min_request_timeout: Duration::from_secs(self.min_request_timeout),
            ..Options::default()
        };
    }
}
