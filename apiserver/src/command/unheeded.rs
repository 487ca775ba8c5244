//! Flags of upstream that mean nothing here: they are taken, so that a command line need not be changed, and each one
//! that is given is logged.
//!
//! Only what makes no difference to what is safe, what is stored and what clients see stands here: tuning, and parts
//! that this server does not have. Any other flag that it does not know stops the start.

use clap::{Arg, ArgAction, ArgMatches, Command, error::Error};

/// Names, and why each makes no difference.
const FLAGS: [(&str, &str); 43] = [
    ("aggregator-reject-forwarding-redirect", "redirects of extension servers are always refused"),
    ("allow-metric-labels", "labels of metrics come from closed sets"),
    ("allow-metric-labels-manifest", "labels of metrics come from closed sets"),
    ("cert-dir", "certificates lie in --data-dir, or in memory"),
    ("contention-profiling", "there is no profiler"),
    ("coordinated-leadership-lease-duration", "there is no coordinated leader election"),
    ("coordinated-leadership-renew-deadline", "there is no coordinated leader election"),
    ("coordinated-leadership-retry-period", "there is no coordinated leader election"),
    ("debug-socket-path", "there is no profiler"),
    ("default-watch-cache-size", "caches are as large as what they hold"),
    ("delete-collection-workers", "objects of a collection are deleted one after the other"),
    ("disabled-metrics", "all metrics are always there"),
    ("enable-aggregator-routing", "requests always go to the addresses of endpoints"),
    ("enable-garbage-collector", "whether there is a garbage collector is seen by itself"),
    ("enable-logs-handler", "there is no such handler"),
    ("endpoint-reconciler-type", "servers that renew their Leases are the endpoints"),
    ("etcd-count-metric-poll-period", "objects are counted in the caches"),
    ("etcd-db-metric-poll-interval", "etcd tells its size itself"),
    ("etcd-healthcheck-timeout", "health checks wait for two seconds"),
    ("etcd-readycheck-timeout", "health checks wait for two seconds"),
    ("lease-reuse-duration-seconds", "events of a minute share leases"),
    ("log-flush-frequency", "lines are written at once"),
    ("log-json-info-buffer-size", "lines are written at once"),
    ("log-json-split-stream", "all lines go to standard error"),
    ("log-text-info-buffer-size", "lines are written at once"),
    ("log-text-split-stream", "all lines go to standard error"),
    ("peer-advertise-ip", "requests are not passed to other API servers"),
    ("peer-advertise-port", "requests are not passed to other API servers"),
    ("peer-ca-file", "requests are not passed to other API servers"),
    ("profiling", "there is no profiler"),
    ("send-retry-after-while-not-ready-once", "nothing is served before the caches are filled"),
    ("service-account-lookup", "accounts and Secrets of tokens are always looked up"),
    ("show-hidden-metrics-for-version", "no metric is hidden"),
    ("shutdown-send-retry-after", "connections are told to end, running requests are waited for"),
    ("shutdown-watch-termination-grace-period", "watches end with their connections"),
    ("storage-backend", "the store is chosen by --etcd-servers and --data-dir"),
    ("storage-initialization-timeout", "the start waits for the store"),
    ("storage-media-type", "objects are stored as JSON"),
    ("vmodule", "RUST_LOG=module=level tells more of one part"),
    ("watch-cache", "every type has a cache"),
    ("watch-cache-sizes", "caches are as large as what they hold"),
    ("apiserver-count", "each server writes down its own address"),
    ("kubelet-read-only-port", "node agents have no such port"),
];

/// Those that were given.
#[derive(Debug, Default)]
pub struct Unheeded(Vec<&'static str>);

impl Unheeded {
    /// Logs each of them.
    pub fn warn(&self) {
        for (flag, why) in FLAGS.iter().filter(|(flag, _)| self.0.contains(flag)) {
            tracing::warn!(flag, why, "flag is without effect");
        }
    }
}

impl clap::FromArgMatches for Unheeded {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let names = FLAGS.iter().map(|(flag, _)| *flag);
        Ok(Self(names.filter(|flag| matches.contains_id(flag)).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Unheeded {
    fn augment_args(command: Command) -> Command {
        FLAGS.iter().fold(command, |command, (flag, why)| command.arg(unheeded(flag, why)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn unheeded(flag: &'static str, why: &'static str) -> Arg {
    let arg = Arg::new(flag)
        .long(flag)
        .action(ArgAction::Append)
        .num_args(0..=1)
        .default_missing_value("true")
        .help(format!("Without effect: {why}"))
        .help_heading("Taken, and without effect")
        .hide_short_help(true);
    match flag {
        // `none` would leave it to somebody else to write the addresses down.
        "endpoint-reconciler-type" => arg.value_parser(["lease", "master-count"]),
        _ => arg,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, FromArgMatches as _};

    fn given(words: &[&str]) -> Vec<&'static str> {
        let command = Unheeded::augment_args(Command::new("x").no_binary_name(true));
        Unheeded::from_arg_matches(&command.try_get_matches_from(words).unwrap()).unwrap().0
    }

    #[test]
    fn values_are_taken_in_each_of_upstreams_spellings() {
        assert!(given(&[]).is_empty());
        let words =
            ["--profiling=false", "--watch-cache", "--storage-media-type", "application/json"];
        assert_eq!(given(&words), ["profiling", "storage-media-type", "watch-cache"]);
        let command = Unheeded::augment_args(Command::new("x").no_binary_name(true));
        assert!(command.try_get_matches_from(["--endpoint-reconciler-type=none"]).is_err());
    }
}
