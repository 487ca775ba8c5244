//! What is wrong with one source of a volume, in a pod or in a persistent volume.
//!
//! Source: `validateVolumeSource` and `ValidatePersistentVolumeSpec` in upstream's core validation.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Value, json};

use super::check::{At, Causes, flag, is_empty, items, members, text};
use super::words;

/// Who has the source.
#[derive(Clone, Copy)]
pub(crate) enum Holder<'a> {
    /// A volume of a pod, by its name.
    Pod(&'a str),
    /// A persistent volume, by its name.
    Persistent(&'a str),
}

impl Holder<'_> {
    const fn name(&self) -> &str {
        match self {
            Holder::Pod(name) | Holder::Persistent(name) => name,
        }
    }

    const fn is_persistent(self) -> bool {
        matches!(self, Holder::Persistent(_))
    }
}

/// Members that must not be empty.
const REQUIRED: [(&str, &[&str]); 21] = [
    ("awsElasticBlockStore", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("azureFile", &["secretName", "shareName"]),
    ("cephfs", &["monitors"]),
    ("cinder", &["volumeID"]),
    ("configMap", &["name"]),
    ("flexVolume", &["driver"]),
    ("gcePersistentDisk", &["pdName"]),
    ("gitRepo", &["repository"]),
    ("glusterfs", &["endpoints", "path"]),
    ("hostPath", &["path"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("local", &["path"]),
    ("nfs", &["server", "path"]),
    ("persistentVolumeClaim", &["claimName"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("quobyte", &["volume"]),
    ("rbd", &["monitors", "image"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("vsphereVolume", &["volumePath"]),
];

const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Goes through the `kinds` of sources that `volume` may have; `one` looks at the only one.
///
/// A second one is too many, and none at all is too few.
pub(crate) fn only_one(
    causes: &mut Causes,
    at: &At<'_>,
    volume: &Value,
    kinds: &[&str],
    mut one: impl FnMut(&mut Causes, &At<'_>, &str, &Value),
) {
    let mut given = false;
    for kind in kinds {
        let source = &volume[*kind];
        if source.is_null() {
            continue;
        }
        if given {
            // Names that upstream misspells.
            let shown = match *kind {
                "cephfs" => "cephFS",
                "downwardAPI" => "downwarAPI",
                other => other,
            };
            causes.forbidden(&at.field(shown), "may not specify more than 1 volume type");
            continue;
        }
        given = true;
        let shown = if *kind == "gcePersistentDisk" { "persistentDisk" } else { kind };
        one(causes, &at.field(shown), kind, source);
    }
    if !given {
        causes.required(at, "must specify a volume type");
    }
}

/// What pods and persistent volumes have in common.
pub(crate) fn common(
    causes: &mut Causes,
    at: &At<'_>,
    kind: &str,
    source: &Value,
    holder: Holder<'_>,
) {
    for field in REQUIRED.iter().filter(|(k, _)| *k == kind).flat_map(|(_, fields)| *fields) {
        causes.present(&at.field(field), &source[*field], "");
    }
    match kind {
        "hostPath" => host_path(causes, at, source),
        "local" => causes.no_backsteps(&at.field("path"), text(source, "path")),
        "gitRepo" => causes.local_path(&at.field("directory"), text(source, "directory")),
        "nfs" if !text(source, "path").starts_with('/') => {
            let path = text(source, "path").into();
            causes.invalid(&at.field("path"), &path, "must be an absolute path");
        }
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            let partition = &source["partition"];
            if partition.as_i64().is_some_and(|n| !(0..=255).contains(&n)) {
                let detail = "must be between 1 and 255, inclusive";
                causes.invalid(&at.field("partition"), partition, detail);
            }
        }
        "iscsi" => iscsi(causes, at, source, holder),
        "fc" => fibre_channel(causes, at, source),
        "flexVolume" => options(causes, &at.field("options"), &source["options"]),
        "quobyte" => quobyte(causes, at, source),
        "flocker" => flocker(causes, at, source),
        "azureDisk" => azure_disk(causes, at, source),
        "storageos" => storageos(causes, at, source, holder),
        "cinder" if !source["secretRef"].is_null() => {
            let names: &[&str] =
                if holder.is_persistent() { &["name", "namespace"] } else { &["name"] };
            reference(causes, &at.field("secretRef"), &source["secretRef"], names);
        }
        "csi" => csi(causes, at, source, holder),
        _ => (),
    }
}

/// Members of a reference that must not be empty.
fn reference(causes: &mut Causes, at: &At<'_>, reference: &Value, names: &[&str]) {
    for name in names {
        causes.present(&at.field(name), &reference[*name], "");
    }
}

fn host_path(causes: &mut Causes, at: &At<'_>, source: &Value) {
    const TYPES: [&str; 8] = [
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    if !is_empty(&source["path"]) {
        causes.no_backsteps(&at.field("path"), text(source, "path"));
        causes.one_of(&at.field("type"), &source["type"], &TYPES);
    }
}

/// The format of an iSCSI name, by its kind; `None` for another kind.
fn iscsi_format(name: &str) -> Option<&'static Regex> {
    fn regex(pattern: &str) -> Regex {
        schema::regexps::compile(pattern).expect("the pattern is right")
    }
    static IQN: LazyLock<Regex> =
        LazyLock::new(|| regex(r"iqn\.\d{4}-\d{2}\.([[:alnum:]\-.]+)(:[^,;*&$|\s]+)$"));
    static EUI: LazyLock<Regex> = LazyLock::new(|| regex("^eui.[[:alnum:]]{16}$"));
    static NAA: LazyLock<Regex> = LazyLock::new(|| regex("^naa.[[:alnum:]]{32}$"));
    match name.get(..3)? {
        "iqn" => Some(&IQN),
        "eui" => Some(&EUI),
        "naa" => Some(&NAA),
        _ => None,
    }
}

fn iscsi(causes: &mut Causes, at: &At<'_>, source: &Value, holder: Holder<'_>) {
    const FORMAT: &str = "must be valid format";
    let kinds = if holder.is_persistent() {
        FORMAT
    } else {
        "must be valid format starting with iqn, eui, or naa"
    };
    let mut name = |at: &At<'_>, name: &Value| {
        let Some(text) = name.as_str().filter(|text| !text.is_empty()) else { return };
        match iscsi_format(text) {
            None => causes.invalid(at, name, kinds),
            Some(format) if !format.is_match(text) => causes.invalid(at, name, FORMAT),
            Some(_) => (),
        }
    };
    name(&at.field("iqn"), &source["iqn"]);
    name(&at.field("initiatorname"), &source["initiatorName"]);
    causes.between(&at.field("lun"), &source["lun"], 0, 255);
    let secret = at.field("secretRef");
    let chap = flag(source, "chapAuthDiscovery") || flag(source, "chapAuthSession");
    if chap && source["secretRef"].is_null() {
        causes.required(&secret, "");
    }
    if holder.is_persistent() && !source["secretRef"].is_null() {
        causes.present(&secret.field("name"), &source["secretRef"]["name"], "");
    }
    let portal = text(source, "targetPortal");
    let too_long = holder.name().len() + 1 + portal.len() > 64;
    if !source["initiatorName"].is_null() && too_long {
        let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
        match holder {
            Holder::Pod(volume) => causes.invalid(&at.sibling("name"), &volume.into(), detail),
            Holder::Persistent(_) => {
                causes.invalid(&at.field("targetportal"), &portal.into(), detail);
            }
        }
    }
}

fn fibre_channel(causes: &mut Causes, at: &At<'_>, source: &Value) {
    let (targets, ids) = (items(&source["targetWWNs"]), items(&source["wwids"]));
    let targets_at = at.field("targetWWNs");
    if targets.is_empty() && ids.is_empty() {
        causes.required(&targets_at, "must specify either targetWWNs or wwids, but not both");
    }
    if targets.is_empty() {
        return;
    }
    if !ids.is_empty() {
        let detail = "targetWWNs and wwids can not be specified simultaneously";
        causes.invalid(&targets_at, &source["targetWWNs"], detail);
    }
    if source["lun"].is_null() {
        causes.required(&at.field("lun"), "lun is required if targetWWNs is specified");
    }
    causes.between(&at.field("lun"), &source["lun"], 0, 255);
}

/// Options must not use Kubernetes' own namespaces.
fn options(causes: &mut Causes, at: &At<'_>, options: &Value) {
    for (key, _) in members(options) {
        let namespace = key.split('/').next().unwrap_or_default();
        let namespace = format!(".{}", namespace.to_lowercase());
        if namespace.ends_with(".kubernetes.io") || namespace.ends_with(".k8s.io") {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            causes.invalid(&at.key(key), &key.as_str().into(), detail);
        }
    }
}

fn quobyte(causes: &mut Causes, at: &At<'_>, source: &Value) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = text(source, "registry");
    let at_registry = at.field("registry");
    if registry.is_empty() {
        causes.required(&at_registry, PAIRS);
    } else if text(source, "tenant").len() >= 65 {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        causes.required(&at.field("tenant"), detail);
    } else {
        let is_pair = |pair: &&str| match pair.rsplit_once(':') {
            Some((host, _)) => !host.contains(':') || host.starts_with('[') && host.ends_with(']'),
            None => false,
        };
        for _ in registry.split(',').filter(|pair| !is_pair(pair)) {
            causes.invalid(&at_registry, &registry.into(), PAIRS);
        }
    }
}

fn flocker(causes: &mut Causes, at: &At<'_>, source: &Value) {
    let (name, uuid) = (text(source, "datasetName"), text(source, "datasetUUID"));
    match (name.is_empty(), uuid.is_empty()) {
        (true, true) => causes.required(at, "one of datasetName and datasetUUID is required"),
        (false, false) => {
            let detail = "datasetName and datasetUUID can not be specified simultaneously";
            causes.invalid(at, &"resource".into(), detail);
        }
        _ => (),
    }
    if name.contains('/') {
        causes.invalid(&at.field("datasetName"), &name.into(), "must not contain '/'");
    }
}

fn azure_disk(causes: &mut Causes, at: &At<'_>, source: &Value) {
    let caching = &source["cachingMode"];
    causes.one_of(&at.field("cachingMode"), caching, &["None", "ReadOnly", "ReadWrite"]);
    causes.one_of(&at.field("kind"), &source["kind"], &["Dedicated", "Managed", "Shared"]);
    let Some(kind) = source["kind"].as_str() else { return };
    let uri = text(source, "diskURI");
    let (start, form) = if kind == "Managed" {
        (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        )
    } else {
        (
            "https://",
            "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd",
        )
    };
    if !uri.starts_with(start) {
        causes.not_supported(&at.field("diskURI"), &uri.into(), &[form]);
    }
}

fn storageos(causes: &mut Causes, at: &At<'_>, source: &Value, holder: Holder<'_>) {
    if causes.present(&at.field("volumeName"), &source["volumeName"], "") {
        causes.label(&at.field("volumeName"), &source["volumeName"]);
    }
    if !is_empty(&source["volumeNamespace"]) {
        causes.label(&at.field("volumeNamespace"), &source["volumeNamespace"]);
    }
    if !source["secretRef"].is_null() {
        let names: &[&str] =
            if holder.is_persistent() { &["name", "namespace"] } else { &["name"] };
        reference(causes, &at.field("secretRef"), &source["secretRef"], names);
    }
}

fn csi(causes: &mut Causes, at: &At<'_>, source: &Value, holder: Holder<'_>) {
    driver_name(causes, &at.field("driver"), &source["driver"]);
    if holder.is_persistent() {
        causes.present(&at.field("volumeHandle"), &source["volumeHandle"], "");
        for field in [
            "controllerPublishSecretRef",
            "controllerExpandSecretRef",
            "nodePublishSecretRef",
            "nodeExpandSecretRef",
        ] {
            let (at, secret) = (at.field(field), &source[field]);
            if secret.is_null() {
                continue;
            }
            if causes.present(&at.field("name"), &secret["name"], "") {
                causes.subdomain(&at.field("name"), &secret["name"]);
            }
            if causes.present(&at.field("namespace"), &secret["namespace"], "") {
                causes.label(&at.field("namespace"), &secret["namespace"]);
            }
        }
        return;
    }
    let secret = &source["nodePublishSecretRef"];
    if !secret.is_null() {
        let secret_at = at.field("nodePublishSecretRef");
        if causes.present(&secret_at.field("name"), &secret["name"], "") {
            causes.subdomain(&at.field("name"), &secret["name"]);
        }
    }
}

/// The name of a CSI driver, in any case.
pub(crate) fn driver_name(causes: &mut Causes, at: &At<'_>, name: &Value) {
    if !causes.present(at, name, "") {
        return;
    }
    let text = name.as_str().unwrap_or_default();
    if text.len() > 63 {
        causes.0.push(schema::Cause::too_long(at.to_string(), 63));
    }
    causes.faults(at, text, words::subdomain(&text.to_lowercase()));
}

/// The mode of files.
pub(crate) fn mode(causes: &mut Causes, at: &At<'_>, mode: &Value) {
    if mode.as_i64().is_some_and(|m| !(0..=0o777).contains(&m)) {
        causes.invalid(at, mode, FILE_MODE);
    }
}

/// How long a service account's token is good for.
pub(crate) fn token_seconds(causes: &mut Causes, at: &At<'_>, seconds: &Value) {
    let Some(n) = seconds.as_i64() else { return };
    if n < 600 {
        causes.invalid(at, seconds, "may not specify a duration less than 10 minutes");
    }
    if n > 1 << 32 {
        causes.invalid(at, seconds, "may not specify a duration larger than 2^32 seconds");
    }
}

/// A path below a volume that cannot be mistaken for one of the volume's own.
pub(crate) fn local_path(causes: &mut Causes, at: &At<'_>, path: &str) {
    causes.local_path(at, path);
    if path.starts_with("..") && !path.starts_with("../") {
        causes.invalid(at, &json!(path), "must not start with '..'");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: &str, source: Value, holder: Holder<'_>, expected: &[&str]) {
        let mut causes = Causes::default();
        common(&mut causes, &At::new(kind), kind, &source, holder);
        let texts: Vec<String> = causes.0.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), expected.len(), "{texts:#?}");
        for (text, start) in texts.iter().zip(expected) {
            assert!(text.starts_with(start), "{text} does not start with {start}");
        }
    }

    #[test]
    fn sources_name_what_they_need() {
        let pod = Holder::Pod("v");
        check("rbd", json!({}), pod, &["rbd.monitors: Required", "rbd.image: Required"]);
        check(
            "nfs",
            json!({"server": "s", "path": "rel"}),
            pod,
            &["nfs.path: Invalid value: \"rel\""],
        );
        check("fc", json!({"targetWWNs": ["a"]}), pod, &["fc.lun: Required"]);
        check(
            "flexVolume",
            json!({"driver": "d", "options": {"k8s.io/a": "b", "x": "y"}}),
            pod,
            &["flexVolume.options[k8s.io/a]: Invalid value: \"k8s.io/a\""],
        );
        check(
            "cinder",
            json!({"volumeID": "v", "secretRef": {}}),
            Holder::Persistent("p"),
            &["cinder.secretRef.name: Required", "cinder.secretRef.namespace: Required"],
        );
    }

    #[test]
    fn iscsi_names_have_a_form() {
        let with = |iqn: &str| json!({"targetPortal": "p", "iqn": iqn});
        let pod = Holder::Pod("v");
        check("iscsi", with("iqn.2015-02.example.com:test"), pod, &[]);
        check(
            "iscsi",
            with("iqn.2015-02.example.com"),
            pod,
            &["iscsi.iqn: Invalid value: \"iqn.2015-02.example.com\": must be valid format"],
        );
        check(
            "iscsi",
            with("abc"),
            pod,
            &["iscsi.iqn: Invalid value: \"abc\": must be valid format starting with"],
        );
        let long = json!({"targetPortal": "p".repeat(70), "iqn": "iqn.2015-02.example.com:test", "initiatorName": "iqn.2015-02.example.com:me"});
        check("iscsi", long.clone(), pod, &["name: Invalid value: \"v\": Total length"]);
        check("iscsi", long, Holder::Persistent("v"), &["iscsi.targetportal: Invalid value"]);
    }
}
