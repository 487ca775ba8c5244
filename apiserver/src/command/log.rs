//! What is logged, and how a line looks.

use std::fmt;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// A JSON object, with upstream's members.
    Json,
}

/// Flags of the log.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Log")]
#[group(id = "log")]
pub struct Flags {
    /// How much is logged: from 4 on what helps to find faults, from 6 on everything; RUST_LOG says it more finely
    #[arg(long = "v", short = 'v', value_name = "LEVEL", default_value_t = 0)]
    verbosity: u8,
    /// How a line looks
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Text)]
    logging_format: Format,
}

impl Flags {
    /// Begins to log to standard error, for the whole process.
    pub fn begin(&self) {
        let filter = EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| EnvFilter::new(filter(self.verbosity)));
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        match self.logging_format {
            Format::Text => log.init(),
            Format::Json => log.event_format(Json).init(),
        }
    }
}

/// The filter of a verbosity; what libraries tell of each request is for the highest.
///
/// Source: kubernetes/community, "Logging Conventions", what each level of klog is for.
fn filter(verbosity: u8) -> &'static str {
    match verbosity {
        0..4 => "info",
        4..6 => "debug,h2=info,hyper=info,hyper_util=info,rustls=info,tower=info",
        6.. => "trace",
    }
}

/// A line with the members of upstream's JSON format.
///
/// Source: kubernetes.io, "System Logs", "JSON log format".
struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let mut members = Members(Map::new());
        event.record(&mut members);
        let caller = (metadata.file().unwrap_or_default(), metadata.line().unwrap_or_default());
        let line = line(Timestamp::now(), *metadata.level(), caller, members.0);
        writeln!(writer, "{line}")
    }
}

/// The line of an event.
fn line(
    now: Timestamp,
    level: Level,
    (file, number): (&str, u32),
    fields: Map<String, Value>,
) -> Value {
    let mut members = Map::new();
    #[expect(clippy::cast_precision_loss, reason = "microseconds of this century fit")]
    let milliseconds = now.as_microsecond() as f64 / 1e3;
    members.insert("ts".to_owned(), milliseconds.into());
    members.insert("caller".to_owned(), format!("{}:{number}", short(file)).into());
    members.extend(fields);
    match level {
        Level::ERROR => None,
        Level::WARN | Level::INFO => members.insert("v".to_owned(), 0.into()),
        Level::DEBUG => members.insert("v".to_owned(), 4.into()),
        Level::TRACE => members.insert("v".to_owned(), 6.into()),
    };
    Value::Object(members)
}

/// A file with the folder that it is in.
fn short(file: &str) -> &str {
    let slash = file.rmatch_indices('/').nth(1);
    slash.map_or(file, |(at, _)| &file[at + 1..])
}

/// Fields by upstream's names.
struct Members(Map<String, Value>);

impl Members {
    fn put(&mut self, field: &Field, value: Value) {
        let name = match field.name() {
            "message" => "msg",
            "error" => "err",
            other => other,
        };
        self.0.insert(name.to_owned(), value);
    }
}

impl Visit for Members {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(next) = cause {
            text += &format!(": {next}");
            cause = next.source();
        }
        self.put(field, text.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn more_verbosity_tells_more() {
        assert_eq!(
            (filter(0), filter(2), filter(6), filter(10)),
            ("info", "info", "trace", "trace")
        );
        assert!(filter(4).starts_with("debug,") && filter(4) == filter(5));
        for verbosity in 0..10 {
            assert!(EnvFilter::builder().parse(filter(verbosity)).is_ok());
        }
    }

    #[test]
    fn lines_have_upstreams_members() {
        let now = Timestamp::from_microsecond(1_580_306_777_047_280).unwrap();
        let fields =
            Map::from_iter([("msg".to_owned(), json!("told")), ("n".to_owned(), json!(1))]);
        assert_eq!(
            line(now, Level::INFO, ("x/b/a.rs", 7), fields.clone()),
            json!({"ts": 1_580_306_777_047.28, "caller": "b/a.rs:7", "msg": "told", "n": 1, "v": 0})
        );
        assert_eq!(line(now, Level::ERROR, ("a.rs", 7), fields)["v"], Value::Null);
    }
}
