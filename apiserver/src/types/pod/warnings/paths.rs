//! Files of one volume that get into each other's way.

use serde_json::Value;

use crate::types::check::{items, text};

/// How many earlier paths of a volume one is compared with: nobody reads more.
const COMPARED: usize = 256;

/// A path, and which source of a projected volume it comes from.
#[derive(Clone, PartialEq)]
struct Place<'v> {
    path: &'v str,
    source: String,
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.path)?;
        if self.source.is_empty() { Ok(()) } else { write!(f, " ({})", self.source) }
    }
}

/// Texts for volumes whose items take each other's paths.
pub(super) fn overlapping(volumes: &Value, warnings: &mut Vec<String>) {
    for volume in items(volumes) {
        let name = text(volume, "name");
        let kinds =
            [("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName")].into_iter();
        for (field, kind, named) in kinds.filter(|(field, ..)| !volume[*field].is_null()) {
            let source = &volume[field];
            let kind = format!("{kind} {:?}", text(source, named));
            tell(name, &kind, &places(source, ""), warnings);
        }
        tell(name, "DownwardAPI", &places(&volume["downwardAPI"], ""), warnings);
        let mut all = Vec::new();
        for source in items(&volume["projected"]["sources"]) {
            if source.as_object().is_none_or(|fields| fields.values().all(Value::is_null)) {
                warnings.push(format!("volume {name:?} (Projected) has no sources provided"));
            }
            all.extend(projected(source));
        }
        tell(name, "Projected", &all, warnings);
    }
}

fn places<'v>(source: &'v Value, shown: &str) -> Vec<Place<'v>> {
    let paths = items(&source["items"]).iter().map(|item| text(item, "path"));
    paths.map(|path| place(path, shown.to_owned())).collect()
}

fn place(path: &str, source: String) -> Place<'_> {
    Place { path: path.trim_end_matches('/'), source }
}

fn projected(source: &Value) -> Vec<Place<'_>> {
    for (field, kind) in [("configMap", "ConfigMap"), ("secret", "Secret")] {
        if !source[field]["items"].is_null() {
            let shown = format!("{kind} {:?}", text(&source[field], "name"));
            return places(&source[field], &shown);
        }
    }
    if !source["downwardAPI"]["items"].is_null() {
        return places(&source["downwardAPI"], "DownwardAPI");
    }
    let token = &source["serviceAccountToken"];
    if token.is_null() {
        return Vec::new();
    }
    vec![place(text(token, "path"), "ServiceAccountToken".to_owned())]
}

fn tell(volume: &str, kind: &str, places: &[Place<'_>], warnings: &mut Vec<String>) {
    for (n, place) in places.iter().enumerate().filter(|(_, place)| !place.path.is_empty()) {
        for other in places[..n.min(COMPARED)].iter().filter(|other| overlap(place, other)) {
            warnings.push(format!(
                "volume {volume:?} ({kind}): overlapping paths: {place} with {other}"
            ));
        }
    }
}

/// Whether one path is the other, or lies below it.
fn overlap(place: &Place<'_>, other: &Place<'_>) -> bool {
    let below = |a: &str, b: &str| format!("{a}/").starts_with(&format!("{b}/"));
    !other.path.is_empty() && (below(place.path, other.path) || below(other.path, place.path))
}

#[test]
fn paths_overlap() {
    use serde_json::json;
    let volume = json!([{"name": "v", "configMap": {"name": "m", "items": [{"path": "a"}, {"path": "a/b"}, {"path": "ab"}]}}]);
    let mut warnings = Vec::new();
    overlapping(&volume, &mut warnings);
    assert_eq!(warnings, ["volume \"v\" (ConfigMap \"m\"): overlapping paths: \"a/b\" with \"a\""]);
}
