//! Which features and versions of the API an operator asks for, and whether this server can follow.

pub mod features;
pub mod runtime;

use clap::Args;

use runtime::Entry;

/// Flags of features and versions.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Features and versions")]
#[group(id = "enablement")]
pub struct Flags {
    /// Features, as A=true,B=false; each with the value that it has here, which is the default of Kubernetes 1.36
    #[arg(long, value_name = "GATES", value_delimiter = ',', value_parser = features::gate)]
    feature_gates: Vec<String>,
    /// Versions and resources that are not served, as apps/v1=false,batch/v1/cronjobs=false; all others are
    #[arg(long, value_name = "VERSIONS", value_delimiter = ',', value_parser = runtime::entry)]
    runtime_config: Vec<Entry>,
}

impl Flags {
    /// Writes what was said into the options.
    pub fn apply(&self, options: &mut Vec<Entry>) {
        options.clone_from(&self.runtime_config);
    }
}
