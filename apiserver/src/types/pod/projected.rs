//! What is wrong with a projected volume.
//!
//! Trust bundles and certificates are behind features that are off; `defaults` drops them.

use std::collections::HashSet;

use serde_json::Value;

use super::volume::{downward_file, files, path};
use crate::types::check::{At, Causes, items, members, text};
use crate::types::sources::{mode, token_seconds};

/// The paths that the sources of a volume take, each of them once.
struct Paths<'a> {
    taken: HashSet<&'a str>,
}

impl<'a> Paths<'a> {
    /// Takes a path; `shown` is the value that is told if somebody has it.
    fn take(&mut self, causes: &mut Causes, at: &At<'_>, path: &'a str, shown: &str) {
        if !self.taken.insert(path) {
            causes.invalid(at, &shown.into(), "conflicting duplicate paths");
        }
    }
}

/// Everything that is wrong with a projected volume.
pub(super) fn all(causes: &mut Causes, at: &At<'_>, volume: &Value) {
    mode(causes, &at.field("defaultMode"), &volume["defaultMode"]);
    let mut paths = Paths { taken: HashSet::new() };
    let sources = at.field("sources");
    for (n, source) in items(&volume["sources"]).iter().enumerate() {
        let entry = sources.index(n);
        let mut n_given = 0;
        for (kind, projection) in members(source).filter(|(_, value)| !value.is_null()) {
            n_given += 1;
            one(causes, at, &entry.field(kind), projection, kind, &mut paths);
        }
        if n_given > 1 {
            causes.forbidden(&entry, "may not specify more than 1 volume type per source");
        }
    }
}

fn one<'a>(
    causes: &mut Causes,
    volume_at: &At<'_>,
    at: &At<'_>,
    projection: &'a Value,
    kind: &str,
    paths: &mut Paths<'a>,
) {
    match kind {
        "secret" | "configMap" => {
            causes.present(&at.field("name"), &projection["name"], "");
            files(causes, at, projection);
            let named = items(&projection["items"]).iter().map(|item| text(item, "path"));
            for path in named.filter(|path| !path.is_empty()) {
                paths.take(causes, volume_at, path, text(projection, "name"));
            }
        }
        "downwardAPI" => {
            for file in items(&projection["items"]) {
                downward_file(causes, at, file);
                let path = text(file, "path");
                if !path.is_empty() {
                    paths.take(causes, volume_at, path, path);
                }
            }
        }
        "serviceAccountToken" => {
            token_seconds(causes, &at.field("expirationSeconds"), &projection["expirationSeconds"]);
            path(causes, &volume_at.field("path"), projection);
        }
        _ => (),
    }
}
