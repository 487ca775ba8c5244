//! Image names as users write them, made whole.

use std::fmt;
use std::str::FromStr;

use super::Error;

/// Host used where a name has none.
const DEFAULT_REGISTRY: &str = "docker.io";

/// A full image reference: `registry/repository[:tag][@digest]`.
///
/// Short names are completed as Docker does: `nginx` is `docker.io/library/nginx:latest`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageRef {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl ImageRef {
    /// Host and port, as `docker.io` or `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path in the registry, as `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` was put in where neither tag nor digest were given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, as `sha256:…`.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The same repository at a digest: `registry/repository@digest`.
    pub fn at_digest(&self, digest: &str) -> String {
        format!("{}/{}@{digest}", self.registry, self.repository)
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for ImageRef {
    type Err = Error;

    /// # Errors
    /// [`Error::InvalidImageName`]
    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|reason| Error::InvalidImageName {
            image: text.to_owned(),
            reason: reason.to_owned(),
        })
    }
}

fn parse(text: &str) -> Result<ImageRef, &'static str> {
    if text.contains("://") {
        return Err("it must not begin with a scheme");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
        None => (text, None),
    };
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(parse_tag(tag)?)),
        _ => (rest, None),
    };
    let (registry, path) = match name.split_once('/') {
        Some((host, path)) if is_host(host) => (host, path),
        _ => (DEFAULT_REGISTRY, name),
    };
    let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
    let repository = match registry {
        DEFAULT_REGISTRY if !path.contains('/') => format!("library/{path}"),
        _ => path.to_owned(),
    };
    check_host(registry)?;
    check_path(path)?;
    let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
    Ok(ImageRef { registry: registry.to_owned(), repository, tag, digest })
}

/// Whether the first part of a name is a host rather than a folder.
fn is_host(part: &str) -> bool {
    part.contains(['.', ':']) || part == "localhost" || part.chars().any(|c| c.is_ascii_uppercase())
}

fn check_host(host: &str) -> Result<(), &'static str> {
    let ok =
        !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]".contains(c));
    ok.then_some(()).ok_or("the registry's name has characters that a host name cannot have")
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("the repository is empty");
    }
    if path.chars().any(|c| c.is_ascii_uppercase()) {
        return Err("the repository must be lowercase");
    }
    if path.len() > 255 {
        return Err("the repository is longer than 255 characters");
    }
    let good = |part: &str| {
        let edge =
            |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        edge(part.chars().next())
            && edge(part.chars().last())
            && part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
            && !part.contains("..")
            && !part.contains("___")
            && !["._", "_.", "-.", ".-", "-_", "_-"].iter().any(|pair| part.contains(pair))
    };
    path.split('/')
        .all(good)
        .then_some(())
        .ok_or("the repository is not made of words joined by '.', '_', '__' or '-'")
}

fn parse_tag(tag: &str) -> Result<String, &'static str> {
    let first = tag.chars().next().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    let rest = tag.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    (first && rest && tag.len() <= 128).then(|| tag.to_owned()).ok_or("the tag is not valid")
}

fn parse_digest(digest: &str) -> Result<String, &'static str> {
    let good = match digest.split_once(':') {
        Some(("sha256", hex)) => hex.len() == 64 && is_hex(hex),
        Some(("sha512", hex)) => hex.len() == 128 && is_hex(hex),
        _ => false,
    };
    good.then(|| digest.to_owned()).ok_or("the digest is not valid")
}

fn is_hex(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let got = match text.parse::<ImageRef>() {
            Ok(image) => image.to_string(),
            Err(Error::InvalidImageName { reason, .. }) => format!("error: {reason}"),
            Err(other) => panic!("unexpected error {other}"),
        };
        assert_eq!(got, expected);
    }

    #[test]
    fn short_names_are_completed() {
        check("nginx", "docker.io/library/nginx:latest");
        check("nginx:1.27", "docker.io/library/nginx:1.27");
        check("user/app", "docker.io/user/app:latest");
        check("index.docker.io/nginx", "docker.io/library/nginx:latest");
        check("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10");
        check("localhost/app", "localhost/app:latest");
        check("localhost:5000/app", "localhost:5000/app:latest");
        check("10.0.0.1:5000/a/b__c:v1", "10.0.0.1:5000/a/b__c:v1");
    }

    #[test]
    fn digests_stand_for_themselves() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        check(&format!("nginx@{digest}"), &format!("docker.io/library/nginx@{digest}"));
        check(&format!("nginx:1@{digest}"), &format!("docker.io/library/nginx:1@{digest}"));
        check("nginx@sha256:12", "error: the digest is not valid");
    }

    #[test]
    fn bad_names_are_refused() {
        check("", "error: the repository is empty");
        check("a/B", "error: the repository must be lowercase");
        check("nginx:", "error: the tag is not valid");
        check("nginx:a b", "error: the tag is not valid");
        check("a//b", "error: the repository is not made of words joined by '.', '_', '__' or '-'");
        check("-a", "error: the repository is not made of words joined by '.', '_', '__' or '-'");
        check("http://host/a", "error: it must not begin with a scheme");
        check("a_b.c/d", "error: the registry's name has characters that a host name cannot have");
    }
}
