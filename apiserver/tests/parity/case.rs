//! A recorded case: what was asked and what was answered.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// Steps that are taken one after the other in a namespace of their own.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) namespace: bool,
    #[serde(default)]
    pub(crate) namespace_labels: BTreeMap<String, String>,
    pub(crate) steps: Vec<Step>,
}

/// A request and the answer to it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Step {
    pub(crate) request: Request,
    /// Status, headers, and one of body, events, contains and proto.
    pub(crate) response: Value,
    /// Variable to path in the answer.
    #[serde(default)]
    pub(crate) capture: BTreeMap<String, String>,
    /// Seconds for which the answer may still be another one.
    #[serde(default)]
    pub(crate) eventually: u64,
    /// Paths of the body that are compared; the rest is not.
    pub(crate) only: Option<Vec<String>>,
    /// Texts that are looked for in the body, which is not compared otherwise.
    pub(crate) contains: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) managed_fields: bool,
    pub(crate) watch: Option<Watch>,
}

/// What is sent.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) content_type: Option<String>,
    /// A string is sent as it is.
    pub(crate) body: Option<Sent>,
    pub(crate) body_base64: Option<String>,
    /// `anonymous` or `token:…`; without it the administrator asks.
    pub(crate) auth: Option<String>,
}

/// A body, whose fields stay in their order.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct Sent(Box<RawValue>);

impl Sent {
    /// What is sent.
    pub(crate) fn text(&self) -> String {
        serde_json::from_str(self.0.get()).unwrap_or_else(|_| self.0.get().to_owned())
    }
}

/// How much of a watch is read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Watch {
    pub(crate) events: usize,
    pub(crate) seconds: u64,
    #[serde(default)]
    pub(crate) unordered: bool,
}

/// Every case below a folder, in the order of their names.
pub(crate) fn load(folder: &Path) -> Vec<Case> {
    let mut cases = Vec::new();
    collect(folder, &mut cases);
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

fn collect(folder: &Path, cases: &mut Vec<Case>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            collect(&path, cases);
        } else if path.extension().is_some_and(|e| e == "json") {
            let case = serde_json::from_slice(&fs::read(&path).unwrap());
            cases.push(case.unwrap_or_else(|e| panic!("{}: {e}", path.display())));
        }
    }
}
