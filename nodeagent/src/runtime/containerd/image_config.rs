//! The part of an image's configuration that the agent reads. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;

/// An image configuration, OCI's or Docker's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct ImageConfig {
    #[serde(default)]
    pub(super) config: Defaults,
    pub(super) rootfs: RootFs,
}

/// What containers of the image do if nothing else is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Defaults {
    #[serde(deserialize_with = "nullable")]
    pub(super) user: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) env: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) entrypoint: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) cmd: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) working_dir: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) volumes: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "nullable")]
    pub(super) stop_signal: String,
}

/// The uncompressed layers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct RootFs {
    #[serde(default, deserialize_with = "nullable")]
    pub(super) diff_ids: Vec<String>,
}

/// Docker writes `null` where it has nothing.
fn nullable<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Defaults {
    /// Program and arguments: a command replaces all that the image says, arguments alone replace its cmd only.
    ///
    /// Source: kubernetes.io, "Define a Command and Arguments for a Container".
    pub(super) fn arguments(&self, command: &[String], args: &[String]) -> Vec<String> {
        match (command.is_empty(), args.is_empty()) {
            (true, true) => [self.entrypoint.clone(), self.cmd.clone()].concat(),
            (true, false) => [self.entrypoint.clone(), args.to_vec()].concat(),
            (false, _) => [command.to_vec(), args.to_vec()].concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_are_nothing() {
        let json = r#"{"config": {"User": null, "Env": null, "Cmd": ["sh"], "Volumes": {"/data": {}}}, "rootfs": {"type": "layers", "diff_ids": null}}"#;
        let config: ImageConfig = serde_json::from_str(json).unwrap();
        assert_eq!(config.config.cmd, ["sh"]);
        assert!(config.config.env.is_empty() && config.rootfs.diff_ids.is_empty());
    }

    #[test]
    fn commands_replace_entrypoints() {
        let words = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
        let image =
            Defaults { entrypoint: words("entry"), cmd: words("cmd"), ..Defaults::default() };
        let check =
            |command: &str, args: &str| image.arguments(&words(command), &words(args)).join(" ");
        assert_eq!(check("", ""), "entry cmd");
        assert_eq!(check("", "a"), "entry a");
        assert_eq!(check("c", ""), "c");
        assert_eq!(check("c", "a"), "c a");
    }
}
