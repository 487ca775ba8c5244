//! Parameters of LIST, WATCH and DELETECOLLECTION.

use super::{Query, invalid_options};
use crate::handlers::selector::{Fields, Labels};
use crate::status::{ApiError, StatusCause};

/// How a given resourceVersion is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Whatever the server thinks best.
    Unset,
    /// Exactly this state.
    Exact,
    /// This state or a later one.
    NotOlderThan,
}

/// Parameters of LIST, WATCH and DELETECOLLECTION.
#[derive(Debug, Clone)]
pub struct ListOptions {
    /// Chosen labels.
    pub labels: Labels,
    /// Chosen fields.
    pub fields: Fields,
    /// As it was sent; empty if it was not.
    pub resource_version: String,
    /// How it is meant.
    pub version_match: Match,
    /// Most items of a page; 0 is no limit.
    pub limit: usize,
    /// Token of the next page.
    pub continue_token: Option<String>,
    /// Most seconds that the request may take.
    pub timeout_seconds: Option<u64>,
    /// Whether the watcher understands bookmarks.
    pub bookmarks: bool,
    /// Whether the watch begins with the state.
    pub send_initial_events: Option<bool>,
}

impl ListOptions {
    /// Whether not every object is chosen.
    pub fn is_selective(&self) -> bool {
        !(self.labels.is_empty() && self.fields.is_empty())
    }

    /// Reads and checks the parameters; `watch` says which rules hold.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(query: &Query, watch: bool) -> Result<Self, ApiError> {
        // As recorded: whoever takes any state gets all of it.
        let any = query.get("resourceVersion") == Some("0");
        let limit = query.integer("limit")?.filter(|_| !any).unwrap_or(0);
        let timeout = query.integer("timeoutSeconds")?;
        let labels = Labels::parse(query.get("labelSelector").unwrap_or_default())?;
        let fields = Fields::parse(query.get("fieldSelector").unwrap_or_default())?;
        let options = Self {
            labels,
            fields,
            resource_version: query.get("resourceVersion").unwrap_or_default().to_owned(),
            version_match: match query.get("resourceVersionMatch") {
                Some("Exact") => Match::Exact,
                Some("NotOlderThan") => Match::NotOlderThan,
                _ => Match::Unset,
            },
            limit: usize::try_from(limit).unwrap_or(0),
            continue_token: query.get("continue").map(str::to_owned),
            timeout_seconds: timeout.and_then(|t| u64::try_from(t).ok()).filter(|&t| t > 0),
            bookmarks: query.flag("allowWatchBookmarks").unwrap_or(false),
            send_initial_events: query.flag("sendInitialEvents"),
        };
        let causes = options.faults(query.get("resourceVersionMatch"), watch);
        if causes.is_empty() { Ok(options) } else { Err(invalid_options("ListOptions", causes)) }
    }

    fn faults(&self, given: Option<&str>, watch: bool) -> Vec<StatusCause> {
        if watch { self.watch_faults(given) } else { self.list_faults(given) }
    }

    fn watch_faults(&self, given: Option<&str>) -> Vec<StatusCause> {
        // As upstream: a watch that begins with any state is made one that asks for the state by itself.
        let begins = matches!(self.resource_version.as_str(), "" | "0");
        let implied = begins && given.is_none() && self.send_initial_events.is_none();
        let asks = implied || self.send_initial_events.is_some();
        let given = if implied { Some("NotOlderThan") } else { given };
        let mut causes = Vec::new();
        if asks && given != Some("NotOlderThan") {
            causes.push(forbidden(
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        let Some(given) = given else { return causes };
        if !asks {
            causes.push(forbidden(
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        if given != "NotOlderThan" {
            causes.push(unsupported(given, "\"NotOlderThan\""));
        }
        if self.continue_token.is_some() {
            causes.push(forbidden("resourceVersionMatch is forbidden when continue is provided"));
        }
        causes
    }

    fn list_faults(&self, given: Option<&str>) -> Vec<StatusCause> {
        let mut causes = Vec::new();
        if let Some(given) = given {
            if self.resource_version.is_empty() {
                causes.push(forbidden(
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            if self.continue_token.is_some() {
                causes
                    .push(forbidden("resourceVersionMatch is forbidden when continue is provided"));
            }
            match given {
                "Exact" if self.resource_version == "0" => {
                    causes.push(forbidden(
                        "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                    ));
                }
                "Exact" | "NotOlderThan" => (),
                other => causes.push(unsupported(other, "\"Exact\", \"NotOlderThan\", \"\"")),
            }
        }
        if self.send_initial_events.is_some() {
            let text = "Forbidden: sendInitialEvents is forbidden for list";
            causes.push(StatusCause::new(
                "FieldValueForbidden",
                "sendInitialEvents",
                text.to_owned(),
            ));
        }
        causes
    }
}

fn forbidden(text: &str) -> StatusCause {
    let text = format!("Forbidden: {text}");
    StatusCause::new("FieldValueForbidden", "resourceVersionMatch", text)
}

fn unsupported(value: &str, supported: &str) -> StatusCause {
    let text = format!("Unsupported value: {value:?}: supported values: {supported}");
    StatusCause::new("FieldValueNotSupported", "resourceVersionMatch", text)
}
