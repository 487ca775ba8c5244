//! What was measured, as a table for people or as JSON for programs.

use std::time::Duration;

use hdrhistogram::Histogram;
use http::Method;
use serde::Serialize;

use super::arguments::{Api, Encoding};
use super::connection::{Call, Connection};
use super::fan_out::Delivered;
use super::load::Measured;
use super::target::Target;

/// All results, with the conditions they were measured under.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    server: String,
    version: String,
    workers: usize,
    threads: usize,
    encoding: &'static str,
    body_bytes: usize,
    phases: Vec<Row>,
    #[serde(skip)]
    server_pid: Option<u32>,
    #[serde(skip)]
    quiet: bool,
}

/// One phase.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    phase: String,
    /// Requests, or deliveries to watchers.
    count: u64,
    errors: u64,
    seconds: f64,
    per_second: f64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    megabytes_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    resident_megabytes: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

impl Report {
    /// An empty report; asks the server for its version.
    ///
    /// # Errors
    /// If the server does not answer.
    pub(crate) async fn begin(arguments: &Api, target: &Target) -> anyhow::Result<Self> {
        let mut connection = Connection::open(target, Encoding::Json).await?;
        let version = connection.json(&Call::new(Method::GET, "/version".to_owned())).await?;
        Ok(Self {
            server: target.address.to_string(),
            version: version["gitVersion"].as_str().unwrap_or_default().to_owned(),
            workers: arguments.workers,
            threads: arguments.threads,
            encoding: match arguments.encoding {
                Encoding::Json => "json",
                Encoding::Protobuf => "protobuf",
            },
            body_bytes: arguments.size,
            phases: Vec::new(),
            server_pid: arguments.server_pid,
            quiet: arguments.json,
        })
    }

    /// Notes a closed loop of requests.
    pub(crate) fn requests(&mut self, phase: &str, measured: &Measured) {
        let row = self.row(phase, &measured.latencies, measured.took, measured.bytes);
        let note = measured.first_error.clone();
        self.push(Row { errors: measured.errors, note, ..row });
    }

    /// Notes a fan-out to watchers.
    pub(crate) fn delivered(&mut self, phase: &str, delivered: &Delivered) {
        let row = self.row(phase, &delivered.latencies, delivered.took, delivered.bytes);
        let note = format!("{} writes, {} watchers dropped", delivered.writes, delivered.dropped);
        self.push(Row {
            count: delivered.events,
            errors: delivered.dropped as u64,
            per_second: delivered.events as f64 / delivered.took.as_secs_f64(),
            note: Some(note),
            ..row
        });
    }

    fn row(&self, phase: &str, latencies: &Histogram<u64>, took: Duration, bytes: u64) -> Row {
        let milliseconds = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
        let seconds = took.as_secs_f64();
        Row {
            phase: phase.to_owned(),
            count: latencies.len(),
            errors: 0,
            seconds,
            per_second: latencies.len() as f64 / seconds,
            p50_ms: milliseconds(0.5),
            p90_ms: milliseconds(0.9),
            p99_ms: milliseconds(0.99),
            max_ms: latencies.max() as f64 / 1e3,
            megabytes_per_second: bytes as f64 / 1e6 / seconds,
            resident_megabytes: self.server_pid.and_then(resident),
            note: None,
        }
    }

    fn push(&mut self, row: Row) {
        if !self.quiet {
            eprintln!("{}", line(&row));
        }
        self.phases.push(row);
    }

    /// Prints the whole.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub(crate) fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            println!("{}", serde_json::to_string_pretty(self)?);
        } else {
            print!("{}", self.table());
        }
        Ok(())
    }

    fn table(&self) -> String {
        let mut out = format!(
            "{} at {}: {} workers on {} threads, {}, bodies of {} bytes\n\n{HEAD}\n",
            self.version, self.server, self.workers, self.threads, self.encoding, self.body_bytes
        );
        self.phases.iter().for_each(|row| out += &(line(row) + "\n"));
        out
    }
}

const HEAD: &str = "| phase | per second | p50 ms | p90 ms | p99 ms | max ms | MB/s | count | errors | resident MB | |\n\
                    | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |";

fn line(row: &Row) -> String {
    let resident = row.resident_megabytes.map(|mb| format!("{mb:.0}")).unwrap_or_default();
    format!(
        "| {} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} | {:.1} | {} | {} | {resident} | {} |",
        row.phase,
        row.per_second,
        row.p50_ms,
        row.p90_ms,
        row.p99_ms,
        row.max_ms,
        row.megabytes_per_second,
        row.count,
        row.errors,
        row.note.as_deref().unwrap_or_default(),
    )
}

/// Resident memory of a process in megabytes; `None` once it is gone.
fn resident(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024.0 / 1e6)
}
