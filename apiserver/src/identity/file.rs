//! Configuration files: read with file, line and reason for what is wrong, and followed while the
//! server runs. A file that turns bad later is told, and what was read before stays in force.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde::de::DeserializeOwned;
use tracing::{error, info};

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    path: PathBuf,
    line: Option<u64>,
    reason: String,
}

impl std::error::Error for Problem {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl Problem {
    /// Something is wrong with the whole file, or with a flag where `path` names one.
    pub fn new(path: impl Into<PathBuf>, reason: impl fmt::Display) -> Self {
        Self { path: path.into(), line: None, reason: reason.to_string() }
    }

    /// Something is wrong where `needle` stands in `text`, the file's content.
    pub fn at(path: &Path, text: &str, needle: &str, reason: impl fmt::Display) -> Self {
        let found = text.lines().position(|line| !needle.is_empty() && line.contains(needle));
        let line = found.and_then(|at| u64::try_from(at + 1).ok());
        Self { line, ..Self::new(path, reason) }
    }

    /// Something is wrong in the line with this number, counted from 1.
    pub fn in_line(path: &Path, line: usize, reason: impl fmt::Display) -> Self {
        Self { line: u64::try_from(line).ok(), ..Self::new(path, reason) }
    }
}

/// The content of a file.
///
/// # Errors
/// It cannot be read, or is no text.
pub fn read(path: &Path) -> Result<String, Problem> {
    std::fs::read_to_string(path)
        .map_err(|error| Problem::new(path, format!("cannot be read: {error}")))
}

/// The one YAML or JSON document in `text`, the content of `path`. Unknown fields are for `T` to refuse.
///
/// # Errors
/// It does not parse, or has a wrong type or field; with the line.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, Problem> {
    serde_saphyr::from_str(text).map_err(|error| Problem {
        line: error.location().map(|location| location.line()),
        ..Problem::new(path, error.to_string().lines().next().unwrap_or_default())
    })
}

type Build<T> = dyn Fn(&[String]) -> Result<T, Problem> + Send + Sync;

/// What was made of some files, and is made anew when they change.
pub struct Watched<T> {
    kind: &'static str,
    paths: Vec<PathBuf>,
    build: Box<Build<T>>,
    texts: Mutex<Vec<String>>,
    current: ArcSwap<T>,
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("paths", &self.paths).finish_non_exhaustive()
    }
}

impl<T> Watched<T> {
    /// Reads `paths` and makes a value of their contents, which come in the same order.
    ///
    /// # Errors
    /// A file cannot be read, or `build` refuses it.
    pub fn new(
        kind: &'static str,
        paths: Vec<PathBuf>,
        build: impl Fn(&[String]) -> Result<T, Problem> + Send + Sync + 'static,
    ) -> Result<Self, Problem> {
        let texts = paths.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
        let current = ArcSwap::from_pointee(build(&texts)?);
        Ok(Self { kind, paths, build: Box::new(build), texts: Mutex::new(texts), current })
    }

    /// A value that no file stands behind.
    pub fn fixed(value: T) -> Self {
        Self {
            kind: "",
            paths: Vec::new(),
            build: Box::new(|_| Err(Problem::new("", "has no file"))),
            texts: Mutex::default(),
            current: ArcSwap::from_pointee(value),
        }
    }

    /// The value now in force.
    pub fn get(&self) -> Arc<T> {
        self.current.load_full()
    }
}

/// Something that can look whether its files have changed.
pub trait Reload: Send + Sync {
    /// Which configuration it is, for metrics.
    fn kind(&self) -> &'static str;

    /// Whether there was a change; what is wrong with it otherwise.
    ///
    /// # Errors
    /// The files changed into something that cannot be used; the old value stays.
    fn reload(&self) -> Result<bool, Problem>;
}

impl<T: Send + Sync> Reload for Watched<T> {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn reload(&self) -> Result<bool, Problem> {
        let texts = self.paths.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
        let mut known = self.texts.lock();
        if *known == texts {
            return Ok(false);
        }
        // Remembered even if it is bad, so that each change is told once.
        known.clone_from(&texts);
        self.current.store(Arc::new((self.build)(&texts)?));
        Ok(true)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    config: &'static str,
    status: &'static str,
}

/// All files that are followed, and how often they were read anew.
#[derive(Default)]
pub struct Reloads {
    watched: Mutex<Vec<Weak<dyn Reload>>>,
    total: Family<Labels, Counter>,
}

impl Reloads {
    /// Follows `watched` for as long as somebody else holds it.
    pub fn add(&self, watched: &Arc<impl Reload + 'static>) {
        let watched: Arc<dyn Reload> = watched.clone();
        self.watched.lock().push(Arc::downgrade(&watched));
    }

    /// Puts the counter into a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "apiserver_config_automatic_reloads",
            "Changes of configuration files by what became of them",
            self.total.clone(),
        );
    }

    /// Looks at all files once; answers what has changed, and whether it is in force.
    pub fn reload(&self) -> Vec<Change> {
        let all: Vec<_> = self.watched.lock().iter().filter_map(Weak::upgrade).collect();
        let mut changes = Vec::new();
        for watched in all {
            let config = watched.kind();
            let (status, outcome) = match watched.reload() {
                Ok(false) => continue,
                Ok(true) => {
                    info!(config, "configuration read anew");
                    ("success", Ok(()))
                }
                Err(problem) => {
                    error!(config, %problem, "configuration not read anew, the old one stays");
                    ("failure", Err(problem))
                }
            };
            self.total.get_or_create(&Labels { config, status }).inc();
            changes.push(Change { config, outcome });
        }
        changes
    }
}

/// A configuration whose files have changed.
#[derive(Debug)]
pub struct Change {
    /// Which one, as the metric names it.
    pub config: &'static str,
    /// What is wrong with it, if it is not in force.
    pub outcome: Result<(), Problem>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;

    fn number(path: &Path, texts: &[String]) -> Result<u32, Problem> {
        texts[0].trim().parse().map_err(|e| Problem::at(path, &texts[0], texts[0].trim(), e))
    }

    #[test]
    fn a_bad_change_is_told_once_and_the_old_value_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write("1");
        let at = path.clone();
        let build = move |texts: &[String]| number(&at, texts);
        let watched = Arc::new(Watched::new("number", vec![path.clone()], build).unwrap());
        let reloads = Reloads::default();
        reloads.add(&watched);
        let mut registry = Registry::default();
        reloads.register(&mut registry);
        reloads.reload();
        write("\nx");
        assert!(watched.reload().unwrap_err().to_string().contains("n:2: invalid digit"));
        write("y");
        reloads.reload();
        reloads.reload();
        assert_eq!(*watched.get(), 1);
        write("2");
        reloads.reload();
        assert_eq!(*watched.get(), 2);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for status in ["success", "failure"] {
            let line = format!("reloads_total{{config=\"number\",status=\"{status}\"}} 1\n");
            assert!(text.contains(&line), "{text}");
        }
    }

    #[test]
    fn a_bad_document_is_told_with_its_line() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Small {
            #[expect(dead_code, reason = "only read by the parser")]
            a: u32,
        }
        let path = Path::new("small.yaml");
        for text in ["a: 1\nb: 2\n", "a:\n  - [\n", "\na: x\n"] {
            let problem = parse::<Small>(path, text).unwrap_err();
            assert!(problem.to_string().starts_with("small.yaml:"), "{problem}");
            assert!(problem.line.is_some(), "{problem}");
        }
    }
}
