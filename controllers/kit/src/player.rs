//! A player and what it is handed.

use std::{collections::BTreeMap, str::FromStr, sync::Arc};

use futures::future::BoxFuture;
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::{Clock, Error, Metrics, Recorder, Reflectors, rules};

/// What a player's `run` returns.
pub type Run = BoxFuture<'static, Result<(), Error>>;

/// A subsystem of the cluster: its name, its rights, and how to run it.
///
/// Each player's crate has one as `pub static PLAYER`; see the [crate] documentation.
#[derive(Debug)]
pub struct Player {
    /// Also the name of its Lease, Component, service account, chart and image.
    pub name: &'static str,
    /// Semantic version; of two players with equal priority the higher version leads.
    pub version: &'static str,
    /// Plays until `stage.shutdown`; called each time the process becomes the leader.
    pub run: fn(Stage) -> Run,
    /// The rights it needs beyond [`rules::base`].
    pub rules: fn() -> Vec<PolicyRule>,
    /// The rights that it needs in single namespaces only, by namespace.
    pub namespaced_rules: fn() -> Vec<(&'static str, Vec<PolicyRule>)>,
    /// Files in crds/ that must be installed for it to work.
    pub crds: &'static [&'static str],
    /// Flags of its own.
    pub flags: &'static [Flag],
    /// What events call their source.
    pub source: &'static str,
    /// Whether only one may play at a time; `false` for what runs on every node.
    pub elected: bool,
}

impl Player {
    /// A player without rights, CRDs and flags, elected, whose events come from `name`.
    #[must_use]
    pub const fn new(name: &'static str, version: &'static str, run: fn(Stage) -> Run) -> Self {
        Self {
            name,
            version,
            run,
            rules: Vec::new,
            namespaced_rules: Vec::new,
            crds: &[],
            flags: &[],
            source: name,
            elected: true,
        }
    }

    /// The rights it needs; see [`rules::rule`].
    #[must_use]
    pub const fn rules(mut self, rules: fn() -> Vec<PolicyRule>) -> Self {
        self.rules = rules;
        self
    }

    /// The rights that it needs in single namespaces only, by namespace.
    #[must_use]
    pub const fn rules_in(mut self, rules: fn() -> Vec<(&'static str, Vec<PolicyRule>)>) -> Self {
        self.namespaced_rules = rules;
        self
    }

    /// The files in crds/ that it needs.
    #[must_use]
    pub const fn crds(mut self, crds: &'static [&'static str]) -> Self {
        self.crds = crds;
        self
    }

    /// Its own flags.
    #[must_use]
    pub const fn flags(mut self, flags: &'static [Flag]) -> Self {
        self.flags = flags;
        self
    }

    /// The name that `kubectl describe` shows as the source of its events.
    #[must_use]
    pub const fn source(mut self, source: &'static str) -> Self {
        self.source = source;
        self
    }

    /// Any number may play at a time, for instance one a node; there is no Lease.
    #[must_use]
    pub const fn on_every_node(mut self) -> Self {
        self.elected = false;
        self
    }

    /// Everything its service account must be allowed to do in all namespaces.
    #[must_use]
    pub fn all_rules(&self) -> Vec<PolicyRule> {
        let mut all = rules::base(self);
        all.extend((self.rules)());
        all
    }
}

/// A flag of one player; `--name value` on its binary, an entry of [`Options`] in one process.
#[derive(Debug)]
pub struct Flag {
    /// Long name, in kebab-case.
    pub name: &'static str,
    /// Help, a sentence without a full stop.
    pub help: &'static str,
    /// The value if none is given.
    pub default: &'static str,
}

/// The values of a player's [`Flag`]s.
#[derive(Debug, Clone, Default)]
pub struct Options(BTreeMap<String, String>);

impl Options {
    /// Gives a flag a value.
    #[must_use]
    pub fn set(mut self, flag: &str, value: impl Into<String>) -> Self {
        self.0.insert(flag.to_owned(), value.into());
        self
    }
}

/// What a player gets to play with.
#[derive(Clone)]
pub struct Stage {
    /// The player itself.
    pub player: &'static Player,
    /// Who plays: a pod's name, or the process's.
    pub identity: Arc<str>,
    /// Acts as the player's own service account.
    pub client: Client,
    /// Read-only caches, shared with the other players of the process.
    pub reflectors: Reflectors,
    /// Publishes events.
    pub recorder: Recorder,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The player's metrics.
    pub metrics: Metrics,
    /// Cancelled when the player must finish what it is at and return.
    pub shutdown: CancellationToken,
    /// Values of its flags.
    pub options: Options,
}

impl Stage {
    /// The value of the player's flag `name`, parsed.
    ///
    /// # Errors
    /// [`Error::Option`] if the value does not parse, or if the player declares no such flag.
    pub fn option<T>(&self, name: &'static str) -> Result<T, Error>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        let default =
            || self.player.flags.iter().find(|flag| flag.name == name).map(|flag| flag.default);
        let value =
            self.options.0.get(name).map(String::as_str).or_else(default).unwrap_or_default();
        value.parse().map_err(|error: T::Err| Error::Option {
            option: name,
            value: value.to_owned(),
            reason: error.to_string(),
        })
    }
}
