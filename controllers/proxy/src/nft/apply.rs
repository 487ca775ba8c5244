//! Runs `nft`: one atomic transaction a change, and a look whether the rules are still there.

use std::collections::BTreeMap;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::rules::{Rules, rules};
use super::{Family, script};
use crate::plan::ServicePort;

/// Why the kernel's rules could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program cannot be run.
    #[error("cannot run nft; install the package nftables")]
    Missing(#[source] std::io::Error),
    /// The kernel or `nft` refused the transaction; nothing of it was applied.
    #[error("nft refused {action} table {family} {table}: {message}")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// Keyword of the address family.
        family: &'static str,
        /// Name of the table.
        table: String,
        /// What `nft` said.
        message: String,
    },
}

/// One cluster's tables on this node, and what they hold by our last word.
#[derive(Debug)]
pub struct Tables {
    name: String,
    pod_cidrs: Vec<String>,
    applied: BTreeMap<Family, Rules>,
}

impl Tables {
    /// Tables called `name`; nothing is touched before the first [`Tables::sync`].
    #[must_use]
    pub fn new(name: &str, pod_cidrs: &[String]) -> Self {
        Self { name: name.to_owned(), pod_cidrs: pod_cidrs.to_vec(), applied: BTreeMap::new() }
    }

    /// Makes the tables serve `ports`; gives the number of commands that it took.
    ///
    /// The first call replaces what an earlier process left; later ones send only the difference.
    ///
    /// # Errors
    /// If `nft` is missing or refuses; the next call then starts from nothing.
    pub async fn sync(&mut self, ports: &[ServicePort]) -> Result<usize, Error> {
        let mut n_commands = 0;
        for family in [Family::V4, Family::V6] {
            let wanted = rules(family, ports, &self.pod_cidrs);
            let commands = match self.applied.remove(&family) {
                None => script::create(family, &self.name, &wanted),
                Some(old) => script::update(family, &self.name, &old, &wanted),
            };
            if !commands.is_empty() {
                self.run("a change of", family, &["-f", "-"], &commands).await?;
            }
            n_commands += commands.lines().count();
            self.applied.insert(family, wanted);
        }
        Ok(n_commands)
    }

    /// Looks whether somebody flushed or deleted the tables; if so, the next [`Tables::sync`] makes them anew.
    pub async fn is_intact(&mut self) -> bool {
        for family in [Family::V4, Family::V6] {
            let chain = ["list", "chain", family.keyword(), &self.name, "services"];
            let listed = self.run("listing", family, &chain, "").await;
            if !listed.is_ok_and(|chain| chain.contains("@service-ips")) {
                self.applied.clear();
                return false;
            }
        }
        true
    }

    /// Deletes the tables.
    ///
    /// # Errors
    /// If `nft` is missing or refuses.
    pub async fn delete(&mut self) -> Result<(), Error> {
        self.applied.clear();
        for family in [Family::V4, Family::V6] {
            let (ip, name) = (family.keyword(), &self.name);
            let commands = format!("add table {ip} {name}\ndelete table {ip} {name}\n");
            self.run("deletion of", family, &["-f", "-"], &commands).await?;
        }
        Ok(())
    }

    async fn run(
        &self,
        action: &'static str,
        family: Family,
        args: &[&str],
        input: &str,
    ) -> Result<String, Error> {
        let output = run("nft", args, input).await.map_err(Error::Missing)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::Refused { action, family: family.keyword(), table: self.name.clone(), message })
    }
}

/// Forgets UDP flows to endpoints that no longer serve, since UDP has no end that would do it.
///
/// A missing `conntrack` program is logged once a call and else harmless: the flows time out by themselves.
pub async fn forget_udp_flows(old: &[ServicePort], new: &[ServicePort]) {
    for (service, port, endpoint) in script::stale_udp_flows(old, new) {
        let (service, port, endpoint) =
            (service.to_string(), port.to_string(), endpoint.to_string());
        let args =
            ["-D", "-p", "udp", "--orig-dst", &service, "--dport", &port, "--reply-src", &endpoint];
        if let Err(error) = run("conntrack", &args, "").await {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot run conntrack");
            return;
        }
    }
}

async fn run(program: &str, args: &[&str], input: &str) -> std::io::Result<std::process::Output> {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    child.wait_with_output().await
}
