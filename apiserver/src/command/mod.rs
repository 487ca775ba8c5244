//! The command line of `kube-apiserver`: what the binary alone has, beside the [`Flags`] that `improv up` takes, too.

pub mod log;
mod unheeded;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser};

use crate::Config;
use crate::config::ServiceRanges;
use crate::flags::{Flags, shown};

pub use unheeded::Unheeded;

/// The Kubernetes API server of Improv.
#[derive(Debug, Parser)]
#[command(name = "kube-apiserver", version, args_override_self = true)]
pub struct Arguments {
    /// Folder of the store and the certificates; without it, what no flag gives is in memory
    #[arg(long, value_name = "DIR", env = "KUBE_APISERVER_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Address to listen on
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    bind_address: IpAddr,
    /// Port to listen on, for HTTPS
    #[arg(long, value_name = "PORT", default_value_t = 6443, value_parser = clap::value_parser!(u16).range(1..))]
    secure_port: u16,
    /// Range of the ClusterIPs; a second one, after a comma, for the other family of addresses
    #[arg(long, value_name = "CIDR", default_value_t)]
    service_cluster_ip_range: ServiceRanges,
    /// Folder of CustomResourceDefinitions to install at start
    #[arg(long, value_name = "DIR")]
    crds: Option<PathBuf>,
    /// Where to write a kubeconfig of the administrator
    #[arg(long, value_name = "FILE")]
    pub write_kubeconfig: Option<PathBuf>,
    /// What is logged, and how.
    #[command(flatten)]
    pub log: log::Flags,
    /// What is taken and means nothing here.
    #[command(flatten)]
    pub unheeded: Unheeded,
    #[command(flatten)]
    flags: Flags,
    /// Every flag and its value, defaults included; see `/flagz`.
    #[arg(skip)]
    shown: BTreeMap<String, String>,
}

impl Arguments {
    /// Reads the command line of this process; a wrong one ends the process.
    pub fn of_process() -> Self {
        let mut command = Self::command();
        let matches = command.get_matches_mut();
        Self::of_matches(&command, &matches).unwrap_or_else(|error| error.exit())
    }

    /// Reads a command line; the first word is the program's name.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn of_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(words)?;
        Self::of_matches(&command, &matches)
    }

    fn of_matches(command: &clap::Command, matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self { shown: shown(command, matches), ..Self::from_arg_matches(matches)? })
    }

    /// What the server is started with.
    ///
    /// # Errors
    /// The definitions cannot be read.
    pub fn config(&self) -> anyhow::Result<Config> {
        let mut config = Config {
            data_dir: self.data_dir.clone(),
            bind: Some(SocketAddr::new(self.bind_address, self.secure_port)),
            service_ranges: self.service_cluster_ip_range.clone(),
            crds: self.crds.as_deref().map(definitions).transpose()?.unwrap_or_default(),
            allow_privileged: false,
            shown_flags: Some(self.shown.clone()),
            ..Config::default()
        };
        self.flags.apply(&mut config);
        Ok(config)
    }
}

/// The YAML files of a folder, in the order of their names.
fn definitions(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .with_context(|| format!("failed to read {}", folder.display()))?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let yaml = files.iter().filter(|f| f.extension().is_some_and(|e| e == "yaml"));
    let read = |file: &PathBuf| {
        std::fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))
    };
    yaml.map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &[&str]) -> Arguments {
        Arguments::of_words(std::iter::once("x").chain(flags.iter().copied())).unwrap()
    }

    fn refused(flags: &[&str]) -> String {
        let words = std::iter::once("x").chain(flags.iter().copied());
        Arguments::of_words(words).unwrap_err().to_string()
    }

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn address_and_port_are_two_flags() {
        assert_eq!(read(&[]).config().unwrap().bind, Some("0.0.0.0:6443".parse().unwrap()));
        let said = ["--bind-address=::1", "--secure-port=7443", "--advertise-address=10.0.0.1"];
        let config = read(&said).config().unwrap();
        assert_eq!(config.bind, Some("[::1]:7443".parse().unwrap()));
        assert_eq!(config.advertise, Some("10.0.0.1:7443".parse().unwrap()));
        assert!(refused(&["--secure-port=0"]).contains("0 is not in 1..=65535"));
    }

    #[test]
    fn truth_values_are_spelled_as_upstream_spells_them() {
        let off = ["--anonymous-auth=false", "--enable-priority-and-fairness=false"];
        assert_eq!(read(&off).config().unwrap().identity.anonymous, Some(false));
        let on = [
            "--encryption-provider-config=f",
            "--encryption-provider-config-automatic-reload=true",
        ];
        assert!(read(&on).config().unwrap().storage.reload_encryption);
        assert!(read(&["--audit-log-compress", "--anonymous-auth"]).config().is_ok());
        assert!(refused(&["--encryption-provider-config-automatic-reload"]).contains("required"));
    }

    #[test]
    fn the_last_of_two_words_counts_as_upstream_has_it() {
        let read = read(&["--secure-port=1", "--secure-port", "2", "--tls-san=a", "--tls-san=b"]);
        let config = read.config().unwrap();
        assert_eq!(config.bind.unwrap().port(), 2);
        assert_eq!(config.extra_names, ["a", "b"]);
    }

    #[test]
    fn privileged_containers_must_be_allowed() {
        assert!(!read(&[]).config().unwrap().allow_privileged);
        assert!(read(&["--allow-privileged"]).config().unwrap().allow_privileged);
        assert!(!read(&["--allow-privileged=false"]).config().unwrap().allow_privileged);
    }

    #[test]
    fn flags_are_shown_with_their_values() {
        let flags = read(&["--tls-san=a", "--tls-san=b"]).config().unwrap().shown_flags.unwrap();
        assert_eq!(flags["tls-san"], "a,b");
        assert_eq!(flags["secure-port"], "6443");
        assert!(!flags.contains_key("watch-cache-sizes"), "{flags:?}");
    }
}
