//! Credentials for registries, from imagePullSecrets.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::ImageRef;

/// What to show to a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// User and password, for basic authentication or at the token server.
    Basic {
        /// The user.
        username: String,
        /// The password or personal token.
        password: String,
    },
    /// A token that the registry takes as it is.
    Bearer(String),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic({username})"),
            Self::Bearer(_) => f.write_str("Bearer"),
        }
    }
}

/// Credentials by registry, in the order in which they were added.
#[derive(Clone, Debug, Default)]
pub struct PullSecrets {
    entries: Vec<(Pattern, Credential)>,
}

#[derive(Clone, Debug)]
struct Pattern {
    host: String,
    port: Option<String>,
    path: String,
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, DockerAuth>,
}

#[derive(Deserialize)]
struct DockerAuth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default)]
    registrytoken: String,
}

impl PullSecrets {
    /// Adds a Secret of type `kubernetes.io/dockerconfigjson` (its `.dockerconfigjson`).
    ///
    /// # Errors
    /// When the text is not such a file.
    pub fn add_docker_config_json(&mut self, json: &[u8]) -> Result<(), serde_json::Error> {
        let config: DockerConfig = serde_json::from_slice(json)?;
        self.add_all(config.auths);
        Ok(())
    }

    /// Adds a Secret of the old type `kubernetes.io/dockercfg` (its `.dockercfg`).
    ///
    /// # Errors
    /// When the text is not such a file.
    pub fn add_docker_cfg(&mut self, json: &[u8]) -> Result<(), serde_json::Error> {
        self.add_all(serde_json::from_slice(json)?);
        Ok(())
    }

    /// Credentials that fit the image, the longest path first.
    pub fn for_image(&self, image: &ImageRef) -> Vec<Credential> {
        let mut fitting: Vec<_> =
            self.entries.iter().filter(|(pattern, _)| pattern.fits(image)).collect();
        fitting.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.path.len()));
        fitting.into_iter().map(|(_, credential)| credential.clone()).collect()
    }

    fn add_all(&mut self, auths: BTreeMap<String, DockerAuth>) {
        for (registry, auth) in auths {
            self.entries.extend(
                auth.credential().map(|credential| (Pattern::parse(&registry), credential)),
            );
        }
    }
}

impl DockerAuth {
    fn credential(self) -> Option<Credential> {
        if !self.registrytoken.is_empty() {
            return Some(Credential::Bearer(self.registrytoken));
        }
        let decoded =
            STANDARD.decode(self.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let (username, password) = match decoded.as_deref().and_then(|pair| pair.split_once(':')) {
            Some((username, password)) => {
                (username.to_owned(), password.trim_matches('\0').to_owned())
            }
            None => (self.username, self.password),
        };
        (!username.is_empty()).then_some(Credential::Basic { username, password })
    }
}

impl Pattern {
    /// Keys are written as `host`, `host:port/path`, `https://host/v1/`, `*.host`.
    fn parse(key: &str) -> Self {
        let rest = key.trim_start_matches("https://").trim_start_matches("http://");
        let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_end_matches('/');
        let path = if matches!(path, "v1" | "v2") { "" } else { path };
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.to_owned())),
            None => (address, None),
        };
        let host = if matches!(host, "index.docker.io" | "registry-1.docker.io") {
            "docker.io"
        } else {
            host
        };
        Self { host: host.to_owned(), port, path: path.to_owned() }
    }

    fn fits(&self, image: &ImageRef) -> bool {
        let (host, port) = match image.registry().rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (image.registry(), None),
        };
        let path_fits = self.path.is_empty()
            || image
                .repository()
                .strip_prefix(&self.path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.port.as_deref() == port && host_fits(&self.host, host) && path_fits
    }
}

/// Each `*` stands for a part of one label of the host name.
fn host_fits(pattern: &str, host: &str) -> bool {
    let (patterns, labels): (Vec<_>, Vec<_>) =
        (pattern.split('.').collect(), host.split('.').collect());
    patterns.len() == labels.len()
        && patterns.iter().zip(labels).all(|(pattern, label)| label_fits(pattern, label))
}

fn label_fits(pattern: &str, label: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == label,
        Some((head, tail)) => label.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len()).any(|at| label_fits(tail, rest.get(at..).unwrap_or("\0")))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(key: &str, image: &str, fits: bool) {
        let mut secrets = PullSecrets::default();
        let json = serde_json::json!({"auths": {key: {"auth": STANDARD.encode("me:pass:word")}}});
        secrets.add_docker_config_json(json.to_string().as_bytes()).unwrap();
        let expected = Credential::Basic { username: "me".into(), password: "pass:word".into() };
        let got = secrets.for_image(&image.parse().unwrap());
        assert_eq!(got, if fits { vec![expected] } else { vec![] });
    }

    #[test]
    fn keys_fit_their_registry() {
        check("https://index.docker.io/v1/", "nginx", true);
        check("docker.io", "user/app", true);
        check("registry.example", "registry.example/app", true);
        check("registry.example", "registry.example:5000/app", false);
        check("localhost:5000", "localhost:5000/app", true);
        check("*.example.com", "eu.example.com/app", true);
        check("eu*.example.com", "eu1.example.com/app", true);
        check("*.example.com", "a.b.example.com/app", false);
        check("registry.example/team", "registry.example/team/app", true);
        check("registry.example/team", "registry.example/teamwork/app", false);
    }

    #[test]
    fn longer_paths_come_first() {
        let mut secrets = PullSecrets::default();
        let json = br#"{"r.io": {"username": "all", "password": "1"}, "r.io/team": {"username": "team", "password": "2"}}"#;
        secrets.add_docker_cfg(json).unwrap();
        let users: Vec<_> = secrets
            .for_image(&"r.io/team/app".parse().unwrap())
            .iter()
            .map(|c| format!("{c:?}"))
            .collect();
        assert_eq!(users, ["Basic(team)", "Basic(all)"]);
    }

    #[test]
    fn secrets_do_not_leak_into_logs() {
        assert_eq!(format!("{:?}", Credential::Bearer("hunter2".into())), "Bearer");
    }
}
